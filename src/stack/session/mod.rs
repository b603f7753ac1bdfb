//! [`Sessions`]: a stack of its own for each peer of a packet port.

mod counts;
mod layer;
mod lru;
mod one;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

pub use self::counts::SessionCounts;
use self::{
    lru::Lru,
    one::{PORT, Session},
};
use super::{Closing, Context, DropReason, Signal, Stack, StackStats, Time, Timer, timer::Timers};
use crate::{error::BuildError, meta::Address, pool::Pool, queue::Batch};

/// What a [`Sessions`] layer tells its factory of a new peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The port it came in by.
    pub port: u16,
    /// Its address.
    pub address: Address,
}

/// A layer for packet ports that gives each peer a stack of its own, made by a factory, so that a
/// layer with state runs over UDP as it does over TCP.
///
/// Peers are told apart by the port that they come in by and by their address. Everything is
/// bounded. One peer more than the most that may be ends the session that has been idle for
/// longest. Storage that is held over the bound ends the one that has been idle for longest of
/// those that hold any, or at once the one that holds more than its own share. A session from
/// whose peer nothing came for some time ends too. What a session that ends still held is counted
/// in its layers as dropped, by the reason.
///
/// Output goes down by the edge that the peer came by, with its address as the destination and the
/// local address that it spoke to as the source, where the session's layers did not fill them in.
/// The counters of the sessions' layers are added up, over those that have gone as well, and shown
/// after the layer's own as `sessions/NAME`; chains that go into a session count as consumed here,
/// those that come out as made.
///
/// Work is O(1) for each packet (one look-up, spared when the last packet came from the same peer;
/// O(log sessions) when a session's next timer changes).
///
/// ```
/// use mbuf::{
///     Address, Chain, Pool,
///     stack::{Context, Edge, LayerInfo, Outcome, PortId, Protocol, Sessions, Stack},
/// };
///
/// /// Answers with the number of messages that its peer has sent.
/// struct Counter(u8);
///
/// impl Protocol for Counter {
///     fn name(&self) -> &str {
///         "counter"
///     }
///
///     fn info(&self) -> LayerInfo {
///         LayerInfo::new(Edge::Packets, Edge::Packets)
///     }
///
///     fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
///         self.0 += 1;
///         match chain.truncate(0).and_then(|()| chain.extend_from_slice(&[self.0])) {
///             Ok(()) => cx.reply(chain),
///             Err(_) => cx.drop(chain, mbuf::stack::DropReason::NO_BUFFERS),
///         }
///     }
///
///     fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
///         cx.down(chain)
///     }
/// }
///
/// let pool = Pool::builder().build()?;
/// let sessions = Sessions::new(|_peer, pool| {
///     Stack::pile(pool, Edge::Packets, vec![Box::new(Counter(0))])
/// });
/// let counts = sessions.counts();
/// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)])?;
/// for peer in ["192.0.2.1:1000", "192.0.2.2:1000", "192.0.2.1:1000"] {
///     let mut chain = pool.chain_from(b"hello")?;
///     chain.meta_mut().set_source(Address::Ip(peer.parse()?));
///     stack.input_one(PortId(0), chain);
/// }
/// let queue = stack.poll_output(PortId(0));
/// let answers: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
/// assert_eq!(answers[2].to_vec()?, [2]);
/// assert_eq!(answers[1].meta().destination(), Address::Ip("192.0.2.2:1000".parse()?));
/// assert_eq!(counts.live(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sessions {
    factory: Box<Factory>,
    max_sessions: usize,
    max_footprint: usize,
    max_each: Option<usize>,
    idle_after: Duration,
    prepends: usize,

    slots: Vec<Option<Session>>,
    free: Vec<u32>,
    by_peer: HashMap<Peer, u32>,
    /// The peer of the last packet, and its place.
    last: Option<(Peer, u32)>,
    /// All sessions by when something last came from the peer.
    idle: Lru,
    /// Those of them that hold storage.
    holders: Lru,
    /// Sessions with output or work left over.
    unfinished: Lru,
    /// Sessions of which a layer was woken from another thread.
    woken: Arc<Mutex<Vec<u32>>>,
    footprint: usize,
    /// The next timer of each session that has one.
    timers: Timers,
    /// This layer's own timer, for the earliest of those and for the oldest session's end.
    alarm: Option<(Timer, Time)>,
    /// Packets on their way into a session.
    train: Batch,
    /// No more sessions; close when the last has ended.
    ending: bool,
    /// Counters of the sessions that have gone.
    gone: StackStats,
    counts: Arc<SessionCounts>,
}

type Factory = dyn FnMut(&Peer, &Pool) -> Result<Stack, BuildError> + Send;

/// Sessions that are gone on with at one [`Signal::Writable`], before others have a turn.
const SHARE: usize = 64;

impl Sessions {
    /// The factory makes a stack for a new peer, with one port, which carries
    /// [`Edge::Packets`](super::Edge). Where it fails, the packet is dropped as [`DropReason::REFUSED`].
    ///
    /// ```
    #[doc = include_str!("../example.in")]
    /// let make = |_: &_, pool: &Pool| {
    ///     Stack::pile(pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])
    /// };
    /// let sessions = mbuf::stack::Sessions::new(make);
    /// let counts = sessions.counts();
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)])?;
    /// for peer in ["192.0.2.1:7", "192.0.2.2:7", "192.0.2.1:7"] {
    ///     let mut chain = pool.chain()?;
    ///     chain.meta_mut().set_source(mbuf::meta::Address::Ip(peer.parse()?));
    ///     stack.input_one(PORT, chain);
    /// }
    /// assert_eq!((counts.live(), stack.poll_output(PORT).len()), (2, 3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(
        factory: impl FnMut(&Peer, &Pool) -> Result<Stack, BuildError> + Send + 'static,
    ) -> Self {
        Self {
            factory: Box::new(factory),
            max_sessions: 1024,
            max_footprint: 16 << 20,
            max_each: None,
            idle_after: Duration::from_secs(60),
            prepends: 0,
            slots: Vec::new(),
            free: Vec::new(),
            by_peer: HashMap::new(),
            last: None,
            idle: Lru::new(),
            holders: Lru::new(),
            unfinished: Lru::new(),
            woken: Arc::default(),
            footprint: 0,
            timers: Timers::new(1024),
            alarm: None,
            train: Batch::new(),
            ending: false,
            gone: StackStats::default(),
            counts: Arc::default(),
        }
    }

    /// At most so many sessions (usual: 1024).
    ///
    /// ```
    #[doc = include_str!("../example.in")]
    /// let make = |_: &_, pool: &Pool| {
    ///     Stack::pile(pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])
    /// };
    /// let sessions = mbuf::stack::Sessions::new(make).max_sessions(1);
    /// let counts = sessions.counts();
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)])?;
    /// for peer in ["192.0.2.1:7", "192.0.2.2:7"] {
    ///     let mut chain = pool.chain()?;
    ///     chain.meta_mut().set_source(mbuf::meta::Address::Ip(peer.parse()?));
    ///     stack.input_one(PORT, chain);
    /// }
    /// assert_eq!((counts.live(), counts.evicted()), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_sessions(mut self, n: usize) -> Self {
        self.max_sessions = n.clamp(1, 1 << 24);
        self.timers = Timers::new(self.max_sessions);
        self
    }

    /// The storage in bytes that all of them together may hold (usual: 16 MiB).
    pub fn max_footprint(mut self, bytes: usize) -> Self {
        self.max_footprint = bytes;
        self
    }

    /// The storage in bytes that one of them may hold (usual: a quarter of that of all).
    pub fn max_session_footprint(mut self, bytes: usize) -> Self {
        self.max_each = Some(bytes);
        self
    }

    /// A session ends when nothing came from its peer for so long (usual: 60 s).
    ///
    /// ```
    #[doc = include_str!("../example.in")]
    /// let make = |_: &_, pool: &Pool| {
    ///     Stack::pile(pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])
    /// };
    /// let sessions = mbuf::stack::Sessions::new(make).idle(Duration::from_secs(1));
    /// let counts = sessions.counts();
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)])?;
    /// for peer in ["192.0.2.1:7"] {
    ///     let mut chain = pool.chain()?;
    ///     chain.meta_mut().set_source(mbuf::meta::Address::Ip(peer.parse()?));
    ///     stack.input_one(PORT, chain);
    /// }
    /// stack.advance(Time::from_millis(1000));
    /// assert_eq!((counts.live(), counts.idle()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn idle(mut self, after: Duration) -> Self {
        self.idle_after = after;
        self
    }

    /// The most bytes that the layers of a session prepend together, for the check of headroom in
    /// the stack that this layer stands in.
    ///
    /// ```
    /// use mbuf::stack::{Protocol, Sessions, Stack};
    ///
    /// let sessions = Sessions::new(|_, pool| Stack::builder(pool).build()).prepends(8);
    /// assert_eq!(sessions.info().max_prepend(), 8);
    /// ```
    pub fn prepends(mut self, bytes: usize) -> Self {
        self.prepends = bytes;
        self
    }

    /// A handle on the numbers of sessions, to be kept when the layer goes into its stack.
    ///
    /// ```
    /// use mbuf::stack::{Sessions, Stack};
    ///
    /// let sessions = Sessions::new(|_, pool| Stack::builder(pool).build());
    /// assert_eq!(sessions.counts().live(), 0);
    /// ```
    pub fn counts(&self) -> Arc<SessionCounts> {
        Arc::clone(&self.counts)
    }

    /// The session of this peer, made if there is none yet.
    fn session_of(&mut self, peer: Peer, cx: &mut Context<'_>) -> Option<u32> {
        if let Some((last, index)) = self.last
            && last == peer
        {
            return Some(index);
        }
        let index = match self.by_peer.get(&peer) {
            Some(&index) => index,
            None => self.admit(peer, cx)?,
        };
        self.last = Some((peer, index));
        Some(index)
    }

    #[cold]
    fn admit(&mut self, peer: Peer, cx: &mut Context<'_>) -> Option<u32> {
        if self.ending {
            return None;
        }
        let stack = match (self.factory)(&peer, cx.pool()) {
            Ok(stack) if stack.ports() == 1 => stack,
            Ok(stack) => {
                tracing::warn!(peer = %peer.address, ports = stack.ports(), "session needs one port");
                self.counts.refused.fetch_add(1, Relaxed);
                return None;
            }
            Err(error) => {
                tracing::debug!(peer = %peer.address, %error, "no session");
                self.counts.refused.fetch_add(1, Relaxed);
                return None;
            }
        };
        if self.idle.len() >= self.max_sessions
            && let Some(oldest) = self.idle.oldest()
        {
            self.counts.evicted.fetch_add(1, Relaxed);
            self.retire(oldest, DropReason::LIMIT, cx);
        }
        let session = Session {
            stack,
            peer,
            local: Address::None,
            edge: cx.edge(),
            seen: cx.now(),
            timer: None,
            footprint: 0,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(session);
                index
            }
            None => {
                self.slots.push(Some(session));
                (self.slots.len() - 1) as u32
            }
        };
        let (woken, waker) = (Arc::clone(&self.woken), cx.waker());
        if let Some(session) = self.slots[index as usize].as_mut() {
            session.stack.on_wake(move || {
                woken.lock().unwrap_or_else(PoisonError::into_inner).push(index);
                waker.wake();
            });
        }
        self.by_peer.insert(peer, index);
        self.idle.touch(index);
        self.counts.opened.fetch_add(1, Relaxed);
        self.counts.live.fetch_add(1, Relaxed);
        if let Some(session) = self.slots[index as usize].as_mut() {
            session.stack.set_now(cx.now());
            session.stack.open();
        }
        Some(index)
    }

    /// Gives the train to the session, and takes what it answers.
    fn hand_in(&mut self, index: u32, cx: &mut Context<'_>) {
        if let Some(session) = self.slots[index as usize].as_mut() {
            session.stack.set_now(cx.now());
            session.seen = cx.now();
            self.idle.touch(index);
            if session.stack.wants_input(PORT) {
                cx.handed_inside(self.train.len());
                session.stack.input(PORT, &mut self.train);
            }
        }
        for chain in self.train.drain() {
            let outcome = cx.drop(chain, DropReason::PAUSED);
            cx.apply(outcome);
        }
        self.settle(index, cx);
    }

    /// After a session has run: its output goes down, its timer and what it holds are noted, and
    /// if it has closed it goes.
    fn settle(&mut self, index: u32, cx: &mut Context<'_>) {
        let Some(session) = self.slots[index as usize].as_mut() else { return };
        let drained = session.drain(cx);
        match session.stack.closing(PORT) {
            Closing::Abort(reason) => {
                self.counts.ended.fetch_add(1, Relaxed);
                return self.remove(index, reason);
            }
            Closing::Graceful if drained => {
                self.counts.ended.fetch_add(1, Relaxed);
                return self.remove(index, DropReason::CLOSED);
            }
            _ => {}
        }
        if drained && !session.stack.has_work() {
            self.unfinished.remove(index);
        } else {
            self.unfinished.touch(index);
        }
        let next = session.stack.next_timeout();
        if session.timer.map(|(_, deadline)| deadline) != next {
            if let Some((timer, _)) = session.timer.take() {
                self.timers.cancel(timer, index);
            }
            // There is room for one timer of each session.
            session.timer = next.and_then(|at| Some((self.timers.arm(at, index)?, at)));
        }
        let footprint = session.stack.held().footprint;
        self.footprint = self.footprint - session.footprint + footprint;
        session.footprint = footprint;
        match footprint {
            0 => self.holders.remove(index),
            _ => self.holders.touch(index),
        }
        if footprint > self.max_each.unwrap_or(self.max_footprint / 4) {
            self.counts.evicted.fetch_add(1, Relaxed);
            self.retire(index, DropReason::LIMIT, cx);
        }
        while self.footprint > self.max_footprint
            && let Some(oldest) = self.holders.oldest()
        {
            self.counts.evicted.fetch_add(1, Relaxed);
            self.retire(oldest, DropReason::LIMIT, cx);
        }
    }

    /// Lets a session say its last words, and ends it.
    fn retire(&mut self, index: u32, reason: DropReason, cx: &mut Context<'_>) {
        if let Some(session) = self.slots[index as usize].as_mut() {
            session.stack.set_now(cx.now());
            session.stack.signal(Signal::Shutdown);
            session.drain(cx);
        }
        self.remove(index, reason);
    }

    /// Ends a session; what it holds is counted as dropped, by the reason.
    fn remove(&mut self, index: u32, reason: DropReason) {
        let Some(mut session) = self.slots[index as usize].take() else { return };
        self.by_peer.remove(&session.peer);
        self.last = self.last.filter(|&(_, last)| last != index);
        self.idle.remove(index);
        self.holders.remove(index);
        self.unfinished.remove(index);
        self.footprint -= session.footprint;
        if let Some((timer, _)) = session.timer {
            self.timers.cancel(timer, index);
        }
        if !session.stack.poll_output(PORT).is_empty() {
            session.stack.abort(PORT, reason);
        }
        let mut stats = session.stack.stats();
        stats.layers.iter_mut().for_each(|layer| layer.let_go(reason));
        self.gone.merge(&stats);
        self.free.push(index);
        self.counts.live.fetch_sub(1, Relaxed);
    }

    /// What every entry ends with: the alarm is set, and what is left over is asked for.
    fn finish(&mut self, cx: &mut Context<'_>) {
        if self.unfinished.len() > 0 {
            cx.wait();
        }
        if self.ending && self.idle.len() == 0 {
            cx.close();
        }
        let oldest = self.idle.oldest().and_then(|index| self.slots[index as usize].as_ref());
        let idle = oldest.map(|session| session.seen + self.idle_after);
        let next = [self.timers.next(), idle].into_iter().flatten().min();
        // An alarm that is too early is left as it is: it costs less than arming at each packet.
        let due = |next: Time| self.alarm.is_none_or(|(_, at)| next < at);
        if let Some(next) = next.filter(|&next| due(next)) {
            if let Some((timer, _)) = self.alarm.take() {
                cx.cancel(timer);
            }
            self.alarm = cx.arm(next.since(cx.now())).map(|timer| (timer, next));
        }
    }

    /// A session of which a layer was woken from another thread. (If another has its place by now,
    /// that one is run for nothing.)
    fn next_woken(&self) -> Option<u32> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Runs what a session has left to do.
    fn go_on(&mut self, index: u32, cx: &mut Context<'_>) {
        if let Some(session) = self.slots[index as usize].as_mut() {
            session.stack.set_now(cx.now());
            session.stack.poll();
            self.settle(index, cx);
        }
    }

    /// Does the same with each session there is. O(sessions).
    fn for_all(&mut self, cx: &mut Context<'_>, mut act: impl FnMut(&mut Stack)) {
        for index in 0..self.slots.len() {
            if let Some(session) = self.slots[index].as_mut() {
                session.stack.set_now(cx.now());
                act(&mut session.stack);
                self.settle(index as u32, cx);
            }
        }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("live", &self.idle.len())
            .field("max_sessions", &self.max_sessions)
            .field("footprint", &self.footprint)
            .field("max_footprint", &self.max_footprint)
            .field("idle_after", &self.idle_after)
            .finish_non_exhaustive()
    }
}
