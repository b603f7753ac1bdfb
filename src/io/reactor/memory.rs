//! What the reactor does when the pool runs low or dry.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    os::fd::AsRawFd,
    time::Duration,
};

use mio::{Interest, Registry, unix::SourceFd};

use super::{CloseReason, LOW_WATER, Reactor};
use crate::{
    io::{error::rename, sys},
    pool::Pool,
    stack::{Signal, Time},
};

/// Sessions that wait for buffers are tried again so often even if nothing is known to have come
/// back: another thread may have freed some.
pub(super) const RETRY: Duration = Duration::from_millis(10);

/// How many of them a turn tries.
const TRIES: usize = 32;

/// How much longer than the rule's patience a single session waits before the rule applies.
const LONGER: u32 = 10;

pub(super) struct Memory {
    /// What the pool writes to when it falls below its low water.
    event: File,
    was_low: bool,
    /// When the stacks were last told to give back what they can.
    drained: Option<Time>,
    /// Sessions whose read the pool refused, in that order.
    starving: VecDeque<u32>,
    tried: Time,
    /// Since when nothing moves because of the pool.
    stalled: Option<Time>,
    /// When the memory rule was last applied.
    applied: Option<Time>,
}

impl Memory {
    pub fn new(pool: &Pool, registry: &Registry) -> io::Result<Self> {
        let event = sys::eventfd()?;
        let ours = event.try_clone().map_err(|e| rename("dup", "eventfd", e))?;
        let interest = Interest::READABLE;
        mio::event::Source::register(
            &mut SourceFd(&ours.as_raw_fd()),
            registry,
            LOW_WATER,
            interest,
        )
        .map_err(|e| rename("epoll_ctl", "eventfd", e))?;
        pool.set_low_water_event(Some(event));
        Ok(Self {
            event: File::from(ours),
            was_low: false,
            drained: None,
            starving: VecDeque::new(),
            tried: Time::ZERO,
            stalled: None,
            applied: None,
        })
    }

    /// Takes the event back from the pool.
    pub fn forget(&mut self, pool: &Pool) {
        pool.set_low_water_event(None);
    }

    /// The pool has written to the event: takes note of it.
    pub fn heard(&mut self) {
        // Non-blocking; a count that somebody else has read is no loss.
        let _ = (&self.event).read(&mut [0; 8]);
    }

    /// Puts a session, whose read was refused, at the end of those that wait.
    pub fn starve(&mut self, index: u32, now: Time) {
        self.starving.push_back(index);
        self.stalled.get_or_insert(now);
    }

    pub fn is_starving(&self) -> bool {
        !self.starving.is_empty()
    }

    /// When something is to be done, events or not.
    pub fn deadline(&self) -> Option<Time> {
        self.is_starving().then(|| self.tried + RETRY)
    }
}

impl Reactor {
    /// Before the sessions are served: tells the stacks that the pool is low, and has those served
    /// that wait for buffers, if there may be some. `quiet`: no event came before the timeout.
    pub(super) fn before_serving(&mut self, quiet: bool) {
        let now = self.drive.now;
        let low = self.pool.is_low();
        let recovered = self.memory.was_low && !low;
        if low && !self.memory.was_low {
            tracing::warn!(pool = self.pool.name(), "pool is below its low water");
        }
        let again = self.drive.limits.patience;
        if low && (!self.memory.was_low || self.memory.drained.is_none_or(|at| now >= at + again)) {
            self.memory.drained = Some(now);
            self.drive.counters.drains += 1;
            for index in 0..self.sessions.bound() {
                if let Some(session) = self.sessions.at(index) {
                    session.signal(Signal::Drain, now);
                    self.enqueue(index);
                }
            }
        }
        self.memory.was_low = low;
        let came_back = self.drive.got || self.drive.freed || recovered;
        self.drive.got = false;
        self.drive.freed = false;
        if came_back || quiet || now >= self.memory.tried + RETRY {
            self.try_again(now);
        }
    }

    fn try_again(&mut self, now: Time) {
        self.memory.tried = now;
        for _ in 0..TRIES.min(self.memory.starving.len()) {
            let Some(index) = self.memory.starving.pop_front() else { return };
            if let Some(session) = self.sessions.at(index) {
                session.starving = false;
                self.enqueue(index);
            }
        }
    }

    /// After the sessions were served: applies the memory rule if its time has come.
    pub(super) fn after_serving(&mut self) {
        let now = self.drive.now;
        if !self.memory.is_starving() {
            self.memory.stalled = None;
            return;
        }
        if self.drive.got || self.drive.freed {
            self.memory.stalled = Some(now);
        }
        let patience = self.drive.limits.patience;
        let stalled = self.memory.stalled.is_some_and(|since| now >= since + patience);
        // Only the first is asked: those that wait are tried in turn, so it is among the oldest.
        let first = self.memory.starving.front().copied();
        let oldest = first.and_then(|index| self.sessions.at(index)?.starved_since);
        let hopeless = oldest.is_some_and(|since| now >= since + patience.saturating_mul(LONGER));
        let rested = self.memory.applied.is_none_or(|at| now >= at + patience);
        if !(stalled || hopeless && rested) {
            return;
        }
        self.memory.stalled = Some(now);
        self.memory.applied = Some(now);
        let connections = self.sessions.iter().filter(|(_, session)| !session.fixture);
        let biggest = connections
            .map(|(index, session)| (session.stack.held().footprint, index))
            .max_by_key(|&(held, index)| (held, std::cmp::Reverse(index)))
            .filter(|&(held, _)| held > 0);
        match biggest {
            Some((held, index)) => {
                let id = self.sessions.id(index);
                tracing::warn!(
                    pool = self.pool.name(), session = %id, held,
                    "the pool has stopped all reading: closing the session that holds most"
                );
                self.end(index, CloseReason::MEMORY);
            }
            None => tracing::warn!(
                pool = self.pool.name(),
                "the pool has stopped all reading, and no connection holds any of it"
            ),
        }
    }
}
