//! How a reactor is set up: its limits, its clock, and who is told of ends.

use std::{fmt, io, time::Duration};

use super::{CloseReason, Endpoint, Reactor, SessionId};
use crate::{
    pool::Pool,
    stack::{StackStats, Time},
};

pub(super) type Clock = Box<dyn FnMut() -> Time + Send>;
pub(super) type OnClose = Box<dyn FnMut(&Closed<'_>) + Send>;

/// The bounds of a reactor; [`ReactorBuilder`] says what each means.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub max_connections: usize,
    pub idle: Option<Duration>,
    pub min_progress: Option<(u64, Duration)>,
    pub quota: usize,
    pub turn: usize,
    pub accepts: usize,
    pub busy_poll: Duration,
    pub grace: Duration,
    pub linger: Duration,
    pub patience: Duration,
}

/// Sets up a [`Reactor`]; made by [`Reactor::builder`].
///
/// ```no_run
/// use std::time::Duration;
///
/// use mbuf::{io::reactor::Reactor, Pool};
///
/// # fn main() -> std::io::Result<()> {
/// let pool = Pool::with_memory(64 << 20).expect("64 MiB of memory");
/// let mut reactor = Reactor::builder(&pool)
///     .max_connections(10_000)
///     .idle_timeout(Some(Duration::from_secs(30)))
///     .build()?;
/// # let _ = reactor.poll(Some(Duration::ZERO))?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct ReactorBuilder {
    pool: Pool,
    limits: Limits,
    clock: Option<Clock>,
    on_close: Option<OnClose>,
}

impl ReactorBuilder {
    pub(super) fn new(pool: &Pool) -> Self {
        let memory: usize = pool
            .stats()
            .classes
            .iter()
            .zip(crate::pool::Class::ALL)
            .map(|(class, kind)| class.total.saturating_mul(kind.data_len()))
            .fold(0, usize::saturating_add);
        let limits = Limits {
            max_connections: 1024,
            idle: Some(Duration::from_secs(300)),
            min_progress: None,
            quota: memory / 4,
            turn: 256 << 10,
            accepts: 64,
            busy_poll: Duration::ZERO,
            grace: Duration::from_secs(5),
            linger: Duration::from_secs(1),
            patience: Duration::from_secs(1),
        };
        Self { pool: pool.clone(), limits, clock: None, on_close: None }
    }

    /// At most so many connections at once, accepted ones and those made by `connect_*` together
    /// (default 1,024). Further ones are accepted and closed at once, so that the peer learns of
    /// it instead of waiting in the backlog, and counted as [`CloseReason::CONNECTION_LIMIT`].
    pub fn max_connections(mut self, n: usize) -> Self {
        self.limits.max_connections = n.min(super::MAX_SESSIONS as usize);
        self
    }

    /// A connection on which no byte has moved in either direction for so long is closed,
    /// [`CloseReason::IDLE`] (default five minutes; `None`: never). It bounds the time to connect,
    /// too, and how long a peer that does not read may be waited for.
    pub fn idle_timeout(mut self, after: Option<Duration>) -> Self {
        self.limits.idle = after;
        self
    }

    /// A connection that moves fewer than `bytes` bytes, in both directions together, within any
    /// of the windows of that length that follow one another from its beginning on, is closed,
    /// [`CloseReason::SLOW`].
    ///
    /// Without it (the default) a peer that sends a byte a second keeps its connection for ever,
    /// which costs a descriptor and what the stack holds for it; that storage is bounded by the
    /// quota and the memory rule. Do not use it where peers are rightly silent.
    pub fn min_progress(mut self, bytes: u64, window: Duration) -> Self {
        self.limits.min_progress = Some((bytes, window.max(Duration::from_millis(1))));
        self
    }

    /// Storage that one connection's stack may hold, in bytes of footprint: in its layers, and in
    /// its output queue (default a quarter of the pool's memory). One that holds more at the end of
    /// its turn is closed, [`CloseReason::QUOTA`]. It should be well above the high water of the
    /// stack's egress, which is where a peer that does not read is stopped.
    ///
    /// What is held is looked at whenever the storage received since the last look could have taken
    /// it over the quota, and is passed by what one turn brings at most.
    pub fn quota(mut self, bytes: usize) -> Self {
        self.limits.quota = bytes;
        self
    }

    /// Bytes that one session may read and write before the others have their turn (default
    /// 256 KiB). It is passed by at most one batch.
    pub fn turn_quota(mut self, bytes: usize) -> Self {
        self.limits.turn = bytes.max(1);
        self
    }

    /// How long to look for events without sleeping before going to sleep (default zero: sleep at
    /// once). Burns a core to save the wake-up's latency.
    pub fn busy_poll(mut self, spin: Duration) -> Self {
        self.limits.busy_poll = spin;
        self
    }

    /// How long sessions may take to finish once a shutdown has begun (default five seconds).
    pub fn grace(mut self, period: Duration) -> Self {
        self.limits.grace = period;
        self
    }

    /// How long to wait, after all was sent and our half of a connection is closed, for the peer
    /// to close its half (default one second). What it still sends is read and discarded:
    /// closing with unread bytes would reset the connection, and the peer could lose what we sent.
    pub fn linger(mut self, period: Duration) -> Self {
        self.limits.linger = period;
        self
    }

    /// How long the pool may refuse all reading before the memory rule closes the connection that
    /// holds most storage, [`CloseReason::MEMORY`] (default one second).
    pub fn patience(mut self, period: Duration) -> Self {
        self.limits.patience = period;
        self
    }

    /// The clock (default: the monotonic clock, from when the reactor is built). It is read once
    /// or twice a turn, and must not go backwards.
    ///
    /// With a clock of one's own, timeouts are the clock's, but sleeping is not: drive such a
    /// reactor by [`Reactor::poll`] with short timeouts, or call
    /// [`Handle::wake`](super::Handle::wake) when the clock has moved.
    pub fn clock(mut self, clock: impl FnMut() -> Time + Send + 'static) -> Self {
        self.clock = Some(Box::new(clock));
        self
    }

    /// Called when a session has ended, after it was counted, on the reactor's thread.
    pub fn on_close(mut self, tell: impl FnMut(&Closed<'_>) + Send + 'static) -> Self {
        self.on_close = Some(Box::new(tell));
        self
    }

    /// Builds the reactor: an epoll instance and an event descriptor or two.
    ///
    /// # Errors
    /// The system's, with the call's name.
    pub fn build(self) -> io::Result<Reactor> {
        let clock = self.clock.unwrap_or_else(|| {
            let epoch = std::time::Instant::now();
            Box::new(move || Time::ZERO + epoch.elapsed())
        });
        Reactor::new(self.pool, self.limits, clock, self.on_close)
    }
}

impl fmt::Debug for ReactorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReactorBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What is known of a session that has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Closed<'a> {
    /// Its name.
    pub id: SessionId,
    /// Its peer.
    pub peer: &'a Endpoint,
    /// Why it ended.
    pub reason: CloseReason,
    /// The error of its port that ended it, if it was one: with the call, the object and the
    /// number (see [`CallError`](crate::io::CallError)).
    pub error: Option<&'a io::Error>,
    /// The counters of its stack.
    pub stack: &'a StackStats,
}
