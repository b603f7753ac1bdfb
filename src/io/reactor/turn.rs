//! One turn: wait, remember what the events say, serve, look after memory.

use std::{
    io,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use mio::Token;

use super::{
    CloseReason, KIND_BITS, LISTENER, LOW_WATER, PORT_BITS, Reactor, SESSION, session::Served,
};
use crate::io::{
    faults::{self, Call},
    sys,
};

/// How long the reactor sleeps with its caches full. When nothing has come by then, it gives them
/// back and sleeps on: so traffic with short pauses does not pay for it, and a thread that is idle
/// keeps nothing from the others. (A timer of a millisecond costs 4 microseconds of CPU each time on a
/// virtual machine, since it comes before the next tick and the hardware's has to be set; for one of
/// 50 milliseconds that is seldom so.)
const NAP: Duration = Duration::from_millis(50);

impl Reactor {
    pub(super) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        if self.done {
            return Ok(false);
        }
        self.sessions.settle();
        let timeout = self.may_sleep(timeout);
        let quiet = self.wait(timeout)? && timeout != Some(Duration::ZERO);
        self.tick();
        self.take_events();
        if self.handle.shutdown_wanted() {
            self.shutdown();
        }
        self.accept_all();
        while let Some(id) = self.handle.next_woken() {
            if self.sessions.get(id).is_some() {
                self.enqueue(id.index);
            }
        }
        while let Some(index) = self.deadlines.pop_due(self.drive.now) {
            self.enqueue(index);
        }
        self.before_serving(quiet);
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else { break };
            self.serve(index);
        }
        self.after_serving();
        if let Some(since) = self.stopping {
            if self.drive.now >= since + self.drive.limits.grace {
                for index in 0..self.sessions.bound() {
                    self.end_if_there(index, CloseReason::GRACE_OVER);
                }
            }
            if self.sessions.len() == 0 {
                self.done = true;
                self.release();
                tracing::info!("shut down");
            }
        }
        self.handle.publish(&self.drive.counters, self.sessions.len());
        Ok(!self.done)
    }

    /// The longest time until something is to be done, events or not.
    fn may_sleep(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        let busy = !self.ready.is_empty()
            || self.accepts_pending()
            || self.memory.is_starving() && (self.drive.got || self.drive.freed)
            || self.stopping.is_none() && self.handle.shutdown_wanted();
        if busy || timeout == Some(Duration::ZERO) {
            return Some(Duration::ZERO);
        }
        let grace_over = self.stopping.map(|since| since + self.drive.limits.grace);
        let deadlines =
            [self.deadlines.first(), self.accept_again_at(), self.memory.deadline(), grace_over];
        let Some(first) = deadlines.into_iter().flatten().min() else { return timeout };
        let now = self.tick();
        let until = first.since(now);
        Some(timeout.map_or(until, |timeout| timeout.min(until)))
    }

    /// Waits for events. Whether none came.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        if timeout == Some(Duration::ZERO) {
            return self.look(timeout);
        }
        let spin = self.drive.limits.busy_poll;
        if !spin.is_zero() {
            let began = Instant::now();
            while began.elapsed() < timeout.map_or(spin, |timeout| timeout.min(spin)) {
                if !self.look(Some(Duration::ZERO))? {
                    return Ok(false);
                }
                std::hint::spin_loop();
            }
        }
        self.drive.counters.sleeps += 1;
        let mut timeout = timeout;
        if self.cached {
            if !self.memory.is_starving() && !self.pool.is_low() {
                let left = NAP.saturating_sub(self.napped);
                let nap = timeout.map_or(left, |timeout| timeout.min(left));
                let quiet = self.look(Some(nap))?;
                // Several short sleeps are as long as a long one.
                self.napped = if quiet { self.napped + nap } else { Duration::ZERO };
                timeout = timeout.map(|timeout| timeout - nap);
                if !quiet || self.napped < NAP && timeout == Some(Duration::ZERO) {
                    return Ok(quiet);
                }
            }
            self.release();
            self.napped = Duration::ZERO;
            if timeout == Some(Duration::ZERO) {
                return Ok(true);
            }
        }
        self.look(timeout)
    }

    fn look(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        self.drive.counters.polls += 1;
        let before = sys::before(Call::EpollWait, self.poll.as_raw_fd());
        match before.and_then(|()| self.poll.poll(&mut self.events, timeout)) {
            Ok(()) => Ok(self.events.is_empty()),
            // A signal: as if something had come, so that the caller gets to look around.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(false)
            }
            Err(error) => Err(crate::io::error::rename("epoll_wait", "reactor", error)),
        }
    }

    /// Remembers what the events say, and whom they concern.
    fn take_events(&mut self) {
        for event in &self.events {
            let Token(token) = event.token();
            match token & ((1 << KIND_BITS) - 1) {
                SESSION => {
                    let port = token >> KIND_BITS & ((1 << PORT_BITS) - 1);
                    let index = (token >> (KIND_BITS + PORT_BITS)) as u32;
                    let Some(session) = self.sessions.at(index) else { continue };
                    session.event(port, event);
                    if !session.queued {
                        session.queued = true;
                        self.ready.push_back(index);
                    }
                }
                LISTENER => {
                    if let Some(listener) = self.listeners.get_mut(token >> KIND_BITS) {
                        listener.ready = true;
                    }
                }
                // The waker needs nothing but to have woken us.
                _ if event.token() == LOW_WATER => self.memory.heard(),
                _ => {}
            }
        }
    }

    fn serve(&mut self, index: u32) {
        let Some(session) = self.sessions.at(index) else { return };
        session.queued = false;
        let was_starving = session.starving;
        let served = session.serve(&mut self.drive);
        if faults::deceived() {
            session.ask_again(&self.drive.registry);
        }
        self.cached = true;
        if !session.keeping && session.keeps_buffers() {
            session.keeping = true;
            self.keeping.push(index);
        }
        if session.starving && !was_starving {
            self.memory.starve(index, self.drive.now);
        }
        match served {
            Served::Over(reason) => return self.end(index, reason),
            Served::More if !session.queued => {
                session.queued = true;
                self.ready.push_back(index);
            }
            _ => {}
        }
        // A deadline that has moved away is left where it is: serving the session too early costs
        // less than moving it with every message.
        let wanted = session.deadline(&self.drive.limits);
        match (self.deadlines.of(index), wanted) {
            (Some(set), Some(wanted)) if set <= wanted => {}
            (None, None) => {}
            _ => self.deadlines.set(index, wanted),
        }
    }

    fn end_if_there(&mut self, index: u32, reason: CloseReason) {
        if self.sessions.at(index).is_some() {
            self.end(index, reason);
        }
    }
}
