//! A session: a stack and the ports below it, and how one turn serves them.

mod pump;

use std::io;

use mio::{Interest, Registry, Token, event::Event};

use super::{CloseReason, Endpoint, MAX_PORTS, Port, PortCounts, config::Limits, stats::Counters};
use crate::{
    pool::Receiver,
    queue::Batch,
    stack::{DropReason, PortId, Signal, Stack, Time},
};

/// What a port is watched for, as long as it is open.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// What the serving of all sessions has in common.
pub(super) struct Drive {
    pub registry: Registry,
    pub receiver: Receiver,
    /// Empty between receives; its memory is used again.
    pub batch: Batch,
    pub limits: Limits,
    pub counters: Counters,
    pub now: Time,
    /// In this turn a read brought something.
    pub got: bool,
    /// In this turn a sink finished a chain, or a session ended: buffers have come back.
    pub freed: bool,
}

/// What became of a session that was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// Waits for events, its deadline, or buffers.
    Waits,
    /// Its turn was over before its work.
    More,
    /// It has ended.
    Over(CloseReason),
}

/// A port of a session, and what is remembered of it between events.
struct Slot {
    /// `None` when the port has been closed.
    port: Option<Box<dyn Port>>,
    token: Token,
    /// What the system is to tell of it.
    interest: Interest,
    /// An edge was seen, and no "would block" since.
    readable: bool,
    writable: bool,
    /// An event said that the peer will send no more: read until the end of stream comes, however
    /// short the reads are.
    read_closed: bool,
    /// An event announced an error.
    error: bool,
    /// The end of stream has been read.
    eof: bool,
    /// Our half is closed; what still comes is discarded.
    shut: bool,
}

/// A stack, its ports, and its bounds in time and storage.
pub(super) struct Session {
    pub stack: Stack,
    slots: Vec<Slot>,
    pub peer: Endpoint,
    /// Attached by the program for good: neither the limit of connections, nor the quota, nor the
    /// idle limit, nor the memory rule applies.
    pub fixture: bool,
    /// The ports are there and the stack has been told.
    opened: bool,
    /// The program is shutting down and the stack has been told.
    draining: bool,
    /// Closed by the reactor as soon as all is sent, whether the stack asked for it or not.
    finishing: bool,
    last_active: Time,
    /// Where the current window of the least progress began, and the bytes moved in it.
    window: (Time, u64),
    linger_until: Option<Time>,
    retry_at: Option<Time>,
    /// Storage held at the last look, and storage received since.
    held: usize,
    unchecked: usize,
    /// The pool refused a read, for the first time since one succeeded.
    pub starved_since: Option<Time>,
    /// The error of a port that has ended the session.
    pub error: Option<io::Error>,
    /// In the reactor's list of sessions to serve.
    pub queued: bool,
    /// In the reactor's list of sessions that wait for buffers.
    pub starving: bool,
    /// In the reactor's list of sessions that keep buffers.
    pub keeping: bool,
}

impl Session {
    /// A session over ports of which each is already there (`connected`) or is still connecting.
    pub fn new(stack: Stack, ports: Vec<Box<dyn Port>>, peer: Endpoint, connected: bool) -> Self {
        let slots = ports
            .into_iter()
            .map(|port| Slot {
                interest: if connected && port.tells_of_every_send() {
                    Interest::READABLE
                } else {
                    BOTH
                },
                port: Some(port),
                token: Token(0),
                readable: false,
                // Until the system says otherwise.
                writable: connected,
                read_closed: false,
                error: false,
                eof: false,
                shut: false,
            })
            .collect();
        Self {
            stack,
            slots,
            peer,
            fixture: false,
            opened: false,
            draining: false,
            finishing: false,
            last_active: Time::ZERO,
            window: (Time::ZERO, 0),
            linger_until: None,
            retry_at: None,
            held: 0,
            unchecked: 0,
            starved_since: None,
            error: None,
            queued: false,
            starving: false,
            keeping: false,
        }
    }

    /// Begins at `now`: registers the ports, and opens the stack if they are connected.
    pub fn begin(
        &mut self,
        now: Time,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<()> {
        self.last_active = now;
        self.window.0 = now;
        self.stack.set_now(now);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            slot.token = token(index);
            if let Some(port) = &mut slot.port {
                port.register(registry, slot.token, slot.interest)?;
            }
        }
        if self.slots.iter().all(|slot| slot.writable) {
            self.opened = true;
            self.stack.open();
        }
        Ok(())
    }

    /// Has the system say anew what its ports are ready for: a test has said that they are not, and
    /// there will be no event for what they were ready for already.
    #[cold]
    pub fn ask_again(&mut self, registry: &Registry) {
        for slot in &mut self.slots {
            if let Some(port) = &mut slot.port
                && let Err(error) = port.reregister(registry, slot.token, slot.interest)
            {
                tracing::error!(peer = %self.peer, %error, "a port is not watched any more");
            }
        }
    }

    /// Remembers what an event says of a port.
    pub fn event(&mut self, port: usize, event: &Event) {
        let Some(slot) = self.slots.get_mut(port) else { return };
        slot.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        slot.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        slot.read_closed |= event.is_read_closed();
        slot.error |= event.is_error();
    }

    /// Does what can be done without waiting, up to the turn's quota: input first, then timers.
    pub fn serve(&mut self, drive: &mut Drive) -> Served {
        self.stack.set_now(drive.now);
        match self.work(drive) {
            Ok(true) => Served::More,
            Ok(false) => Served::Waits,
            Err(reason) => Served::Over(reason),
        }
    }

    /// Whether more is left to be done at once.
    fn work(&mut self, drive: &mut Drive) -> Result<bool, CloseReason> {
        self.retry_at = self.retry_at.filter(|&at| at > drive.now);
        if !self.opened && !self.establish()? {
            self.check_time(drive)?;
            return Ok(false);
        }
        let mut left = drive.limits.turn;
        let mut more = self.pump(drive, &mut left)?;
        if self.stack.next_timeout().is_some_and(|at| at <= drive.now) {
            self.stack.advance(drive.now);
            left = left.max(1);
            more = self.pump(drive, &mut left)?;
        }
        if !more {
            self.check_errors()?;
        }
        self.check_quota(drive)?;
        self.check_time(drive)?;
        Ok(more)
    }

    /// The reason for which an error of a port ends the session; the error itself goes to the log,
    /// and is kept for who is told of ends.
    #[cold]
    fn failed(&mut self, error: io::Error) -> CloseReason {
        if self.fixture {
            tracing::error!(%error, "a port that was attached for good has failed");
        } else {
            tracing::debug!(peer = %self.peer, %error, "connection failed");
        }
        let reason = CloseReason::of_error(&error);
        self.error = Some(error);
        reason
    }

    fn ended(&self) -> CloseReason {
        match (self.draining, self.finishing) {
            (true, _) => CloseReason::SHUTDOWN,
            (false, true) => CloseReason::CLOSED,
            (false, false) => CloseReason::FINISHED,
        }
    }

    /// Asks whether the connection is there by now, and opens the stack when it is.
    fn establish(&mut self) -> Result<bool, CloseReason> {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let Some(port) = &slot.port else { continue };
            if !slot.writable {
                return Ok(false);
            }
            match port.is_connected() {
                Ok(true) => {}
                Ok(false) => {
                    slot.writable = false;
                    return Ok(false);
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.opened = true;
        self.stack.open();
        Ok(true)
    }

    /// Looks for the errors that were announced and that neither reading nor writing has found:
    /// reading is paused, and nothing waits to be sent.
    fn check_errors(&mut self) -> Result<(), CloseReason> {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if let (true, Some(port)) = (slot.error && !slot.shut, &slot.port) {
                slot.error = false;
                if let Err(error) = port.take_error() {
                    return Err(self.failed(error));
                }
            }
        }
        Ok(())
    }

    /// Looks at what is held, when what came in since the last look could be over the quota.
    fn check_quota(&mut self, drive: &Drive) -> Result<(), CloseReason> {
        let quota = drive.limits.quota;
        if self.fixture || self.held.saturating_add(self.unchecked) <= quota {
            return Ok(());
        }
        self.held = self.stack.held().footprint;
        self.unchecked = 0;
        if self.held <= quota {
            return Ok(());
        }
        tracing::debug!(peer = %self.peer, held = self.held, quota, "over the quota of storage");
        Err(CloseReason::QUOTA)
    }

    fn check_time(&mut self, drive: &mut Drive) -> Result<(), CloseReason> {
        let now = drive.now;
        if self.linger_until.is_some_and(|until| until <= now) {
            // Ports that are still sending go on; those that wait for the peer have waited enough.
            let mut sending = false;
            for slot in &mut self.slots {
                if slot.shut
                    && let Some(port) = slot.port.take()
                {
                    port.count(&mut drive.counters.ports);
                }
                sending |= slot.port.is_some();
            }
            self.linger_until = None;
            if !sending {
                return Err(self.ended());
            }
        }
        if self.fixture {
            return Ok(());
        }
        if drive.limits.idle.is_some_and(|idle| now >= self.last_active + idle) {
            return Err(CloseReason::IDLE);
        }
        if let Some((bytes, window)) = drive.limits.min_progress
            && now >= self.window.0 + window
        {
            if self.window.1 < bytes {
                return Err(CloseReason::SLOW);
            }
            self.window = (now, 0);
        }
        Ok(())
    }

    /// When the session wants to be served, whatever happens until then.
    pub fn deadline(&self, limits: &Limits) -> Option<Time> {
        let mut first = if self.opened { self.stack.next_timeout() } else { None };
        let mut also = |time: Option<Time>| {
            if let Some(time) = time {
                first = Some(first.map_or(time, |first| first.min(time)));
            }
        };
        also(self.linger_until);
        also(self.retry_at);
        if !self.fixture {
            also(limits.idle.map(|idle| self.last_active + idle));
            also(limits.min_progress.map(|(_, window)| self.window.0 + window));
        }
        first
    }

    /// Tells the stack; the caller must have the session served.
    pub fn signal(&mut self, signal: Signal, now: Time) {
        if self.opened {
            self.stack.set_now(now);
            self.stack.signal(signal);
        }
    }

    /// Begins the orderly end. A connection that is not there yet ends at once (`false`).
    pub fn drain(&mut self, now: Time) -> bool {
        self.draining = true;
        self.signal(Signal::Shutdown, now);
        self.opened
    }

    /// Closes as soon as all is sent. A connection that is not there yet ends at once (`false`).
    pub fn finish(&mut self) -> bool {
        self.finishing = true;
        self.opened
    }

    /// Whether the ports fit the stack.
    pub fn check_ports(&self) -> io::Result<()> {
        let (ports, wanted) = (self.slots.len(), self.stack.ports());
        if ports == wanted && ports > 0 && ports <= MAX_PORTS {
            return Ok(());
        }
        let text =
            format!("{ports} ports for a stack that has {wanted} (at most {MAX_PORTS} possible)");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    /// Whether a port keeps buffers that [`Session::release`] would give back.
    pub fn keeps_buffers(&self) -> bool {
        self.slots.iter().any(|slot| slot.port.as_ref().is_some_and(|port| port.keeps_buffers()))
    }

    pub fn release(&mut self) {
        for port in self.slots.iter_mut().filter_map(|slot| slot.port.as_mut()) {
            port.release();
        }
    }

    /// Adds what the ports that are open have lost; that of closed ones is counted already.
    pub fn count_ports(&self, counts: &mut PortCounts) {
        self.slots.iter().filter_map(|slot| slot.port.as_ref()).for_each(|port| port.count(counts));
    }

    /// Closes what is still open. With a reset where the peer must not take it for an orderly end,
    /// and where the system must not go on sending what it still holds.
    pub fn end(mut self, reason: CloseReason, registry: &Registry) -> Stack {
        let orderly = [
            CloseReason::FINISHED,
            CloseReason::CLOSED,
            CloseReason::SHUTDOWN,
            CloseReason::GRACE_OVER,
            CloseReason::IDLE,
        ];
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(port) = &mut slot.port else { continue };
            let _ = port.deregister(registry);
            if self.opened && !orderly.contains(&reason) {
                port.abort_on_drop();
            }
            // What waits to be sent is dropped under the reason of the end.
            let id = PortId(index as u16);
            if !self.stack.poll_output(id).is_empty() {
                self.stack.abort(id, DropReason(reason.0));
            }
        }
        self.stack
    }

    fn moved(&mut self, bytes: usize, now: Time) {
        self.last_active = now;
        self.window.1 += bytes as u64;
    }
}
