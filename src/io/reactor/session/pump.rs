//! How the bytes of a session move: from its ports into its stack, and out again.

use std::time::Duration;

use mio::Interest;

use super::{BOTH, Drive, Session};
use crate::{
    io::{Received, Sent, reactor::CloseReason},
    stack::{Closing, PortId},
};

/// What each chain counts for at least in the turn's quota, in bytes, and what a round of work
/// that the stack had left over counts for.
const CHAIN_COST: usize = 128;
const ROUND_COST: usize = 4096;

/// How long to wait where no event will tell that a port can send again.
const RETRY: Duration = Duration::from_millis(1);

impl Session {
    /// Reads, runs the stack and writes until nothing moves or the quota is used up (then:
    /// `true`).
    pub(super) fn pump(
        &mut self,
        drive: &mut Drive,
        left: &mut usize,
    ) -> Result<bool, CloseReason> {
        loop {
            let mut cost = 0;
            for index in 0..self.slots.len() {
                cost += self.read(index, drive)?;
                cost += self.write(index, drive)?;
            }
            if self.stack.has_work() {
                self.stack.poll();
                cost += ROUND_COST;
            }
            self.follow_closing(drive)?;
            if cost == 0 {
                return Ok(false);
            }
            *left = left.saturating_sub(cost);
            if *left == 0 {
                return Ok(true);
            }
        }
    }

    /// One receive from a port into the stack. What it costs of the turn's quota.
    fn read(&mut self, index: usize, drive: &mut Drive) -> Result<usize, CloseReason> {
        let slot = &mut self.slots[index];
        let Some(port) = &mut slot.port else { return Ok(0) };
        if !slot.readable || slot.eof || self.starving {
            return Ok(0);
        }
        let id = PortId(index as u16);
        let discarding = slot.shut;
        if !discarding && (self.finishing || !self.stack.wants_input(id)) {
            return Ok(0);
        }
        drive.counters.recv_calls += 1;
        let received = port.recv(&drive.receiver, &mut drive.batch);
        if !matches!(received, Ok(Received::Chains(_))) {
            // Nothing should have been added; nothing may stay for the next session.
            drive.batch.clear();
        }
        match received {
            Ok(Received::Chains(_)) => {
                slot.readable = slot.read_closed || !port.is_drained();
                self.starved_since = None;
                drive.got = true;
                if discarding {
                    let cost = drive.batch.iter().map(|chain| chain.len()).sum::<usize>();
                    drive.batch.clear();
                    return Ok(cost.max(CHAIN_COST));
                }
                Ok(self.take_in(id, drive))
            }
            Ok(Received::WouldBlock) => {
                slot.readable = false;
                Ok(0)
            }
            Ok(Received::NoBuffers) => {
                drive.counters.starved += 1;
                self.starved_since.get_or_insert(drive.now);
                self.starving = true;
                Ok(0)
            }
            Ok(Received::Closed) => {
                slot.eof = true;
                if !discarding {
                    self.stack.end_of_stream(id);
                }
                Ok(CHAIN_COST)
            }
            // All was sent, and we only waited for the peer to take notice.
            Err(_) if discarding => {
                slot.eof = true;
                Ok(CHAIN_COST)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Hands the batch to the stack. What it costs of the turn's quota.
    fn take_in(&mut self, id: PortId, drive: &mut Drive) -> usize {
        let (mut bytes, mut cost) = (0, 0);
        for chain in drive.batch.iter() {
            bytes += chain.len();
            cost += chain.len().max(CHAIN_COST);
            if !self.fixture {
                self.unchecked += chain.footprint();
            }
        }
        drive.counters.chains_in += drive.batch.len() as u64;
        drive.counters.bytes_in += bytes as u64;
        self.moved(bytes, drive.now);
        if drive.batch.len() == 1 {
            if let Some(chain) = drive.batch.pop() {
                self.stack.input_one(id, chain);
            }
        } else {
            self.stack.input(id, &mut drive.batch);
        }
        cost.max(CHAIN_COST)
    }

    /// Sends what waits for a port. What it costs of the turn's quota.
    fn write(&mut self, index: usize, drive: &mut Drive) -> Result<usize, CloseReason> {
        let slot = &mut self.slots[index];
        let Some(port) = &mut slot.port else { return Ok(0) };
        if !slot.writable || slot.shut || self.retry_at.is_some() {
            return Ok(0);
        }
        let id = PortId(index as u16);
        let queue = self.stack.poll_output(id);
        if queue.is_empty() {
            return Ok(0);
        }
        let (bytes, chains) = (queue.bytes(), queue.len());
        drive.counters.send_calls += 1;
        let sent = port.send(queue);
        let (bytes, chains) = (bytes - queue.bytes(), chains - queue.len());
        let interest = match sent {
            Ok(Sent::All) if port.tells_of_every_send() => Interest::READABLE,
            Ok(Sent::All) => slot.interest,
            Ok(Sent::WouldBlock) if port.is_starved() => {
                self.retry_at = Some(drive.now + RETRY);
                slot.interest
            }
            Ok(Sent::WouldBlock) => {
                slot.writable = false;
                BOTH
            }
            Err(error) => return Err(self.failed(error)),
        };
        if interest != slot.interest {
            // Room that there is by now is told of at once.
            slot.interest = interest;
            if let Err(error) = port.reregister(&drive.registry, slot.token, interest) {
                return Err(self.failed(error));
            }
        }
        if bytes == 0 && chains == 0 {
            return Ok(0);
        }
        drive.counters.bytes_out += bytes as u64;
        drive.counters.chains_out += chains as u64;
        drive.freed |= chains > 0;
        self.moved(bytes, drive.now);
        self.stack.flushed(id);
        Ok(bytes.max(chains * CHAIN_COST).max(1))
    }

    /// Closes the ports that the stack wants closed and that have sent all.
    ///
    /// # Errors
    /// The reason of the session's end, when all its ports are closed or the stack aborts.
    pub(super) fn follow_closing(&mut self, drive: &mut Drive) -> Result<(), CloseReason> {
        for index in 0..self.slots.len() {
            let id = PortId(index as u16);
            let graceful = match self.stack.closing(id) {
                Closing::Abort(reason) => return Err(CloseReason(reason.0)),
                Closing::Graceful => true,
                Closing::Open => self.finishing,
            };
            let sent = !self.stack.has_work() && self.stack.poll_output(id).is_empty();
            let slot = &mut self.slots[index];
            let Some(port) = &mut slot.port else { continue };
            if graceful && sent && !slot.shut {
                slot.shut = true;
                match port.half_close() {
                    Ok(true) => self.linger_until = Some(drive.now + drive.limits.linger),
                    Ok(false) | Err(_) => slot.eof = true,
                }
            }
            if slot.shut && slot.eof {
                // An error here would only mean that it was not registered.
                let _ = port.deregister(&drive.registry);
                port.count(&mut drive.counters.ports);
                slot.port = None;
            }
        }
        if self.slots.iter().all(|slot| slot.port.is_none()) {
            return Err(self.ended());
        }
        Ok(())
    }
}
