//! Framing: cuts a stream into packets by a length prefix, and joins packets into a stream.
//!
//! ```text
//! U8     +--------+----------- - -
//!        | length |  payload
//!        +--------+----------- - -
//! U16    +--------+--------+----------- - -      Be: high byte first (network order), as in
//!        |     length      |  payload            DNS over TCP (RFC 1035, section 4.2.2)
//!        +--------+--------+----------- - -      Le: low byte first
//! U32    +--------+--------+--------+--------+----------- - -
//!        |              length               |  payload
//!        +--------+--------+--------+--------+----------- - -
//! Varint +-+-------+-+-------+- - -+-+-------+----------- - -
//!        |1|  0-6  |1| 7-13  |     |0| last  |  payload
//!        +-+-------+-+-------+- - -+-+-------+----------- - -
//! ```
//!
//! The length counts the payload only. A varint is base 128, lowest group first, as in Protocol
//! Buffers (and LEB128 of DWARF), for a number of at most 32 bits: one to five bytes. Where those
//! accept a number padded with zero groups, this refuses it: each length has one form.
//!
//! **Without copying.** A frame that arrives whole goes up in the storage in which it arrived; one
//! that arrives in pieces goes up as the pieces, joined. Small pieces are copied into room that
//! is there, so that a frame sent a byte at a time does not pin a buffer a byte.
//!
//! **What a hostile peer gets.** A length is only ever compared, never allocated. A frame longer
//! than the maximum, or a malformed prefix, ends the stream with [`FRAME_TOO_LONG`] or
//! [`BAD_PREFIX`]; one cut off by the end of the stream is dropped as [`TRUNCATED`]; one that
//! takes longer than [`complete_within`](Framing::complete_within) ends the stream with
//! [`FRAME_TIMEOUT`]. What is held for an unfinished frame is shorter than one frame, is reported
//! by `held`, and is compacted when the storage it pins exceeds four times its length. A read full
//! of tiny frames goes up a limited number at a time, and no faster than their answers drain. An
//! empty pool stops reading until there are buffers again: a stream loses nothing.

mod prefix;
#[cfg(test)]
mod tests;

use std::time::Duration;

use mbuf::{
    BuildError, Chain, Error,
    stack::{Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Timer},
};

pub use prefix::Prefix;
use prefix::{LONGEST_PREFIX, Parsed};

/// The peer declared a frame longer than the maximum. The stream is aborted.
pub const FRAME_TOO_LONG: DropReason = DropReason("frame_too_long");
/// The peer sent a varint that is padded, longer than five bytes, or over 32 bits. The stream is
/// aborted.
pub const BAD_PREFIX: DropReason = DropReason("bad_prefix");
/// The stream ended inside a frame.
pub const TRUNCATED: DropReason = DropReason("truncated");
/// A frame was not complete in time. The stream is aborted.
pub const FRAME_TIMEOUT: DropReason = DropReason("frame_timeout");
/// A packet from above is longer than the maximum. It is dropped; the stream goes on.
pub const PACKET_TOO_LONG: DropReason = DropReason("packet_too_long");
/// The bytes cannot be read: they are a mapped file's, which has failed. The stream is aborted.
pub const UNREADABLE: DropReason = DropReason("unreadable");

/// Frames that go up in one go, so that the layers above can answer before more arrive.
const BURST: usize = 64;
/// How long to wait for buffers when the pool has none.
const RETRY: Duration = Duration::from_millis(5);
/// The storage of one small mbuf, with its bookkeeping: less than this no chain pins.
const SMALLEST: usize = 256;
/// A footprint that is not known yet.
const UNMEASURED: usize = usize::MAX;

/// Turns a stream into packets and packets into a stream. Bytes below, packets above; it belongs
/// to one connection.
///
/// Allocates nothing of its own. A frame costs one split of the chain it arrived in; a packet to
/// be sent costs a prepend into headroom.
#[derive(Debug)]
pub struct Framing {
    prefix: Prefix,
    /// The longest payload, in bytes, that is taken from either side.
    max: usize,
    /// Within what time a frame must be complete.
    within: Option<Duration>,
    /// What has arrived and not gone up. Invariant: shorter than one frame, unless `waiting`.
    /// Never empty.
    pending: Option<Chain>,
    /// The storage in bytes that `pending` pins, or more: pieces are added up as they come, also
    /// those that were then copied, so that only doubt makes it walk the segments.
    footprint: usize,
    /// Limits the time that the frame at the front of `pending` may take.
    deadline: Option<Timer>,
    waiting: Waiting,
    /// The stream was aborted: whatever still comes is dropped.
    broken: bool,
}

/// What a framing layer waits for before it goes on with what it holds. Until then nothing is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// Nothing.
    No,
    /// The frames that went up, and the answers to them on the way out.
    Turn,
    /// Buffers, by looking again when the timer fires.
    Buffers(Timer),
}

impl Framing {
    /// A framing layer for payloads of at most `max` bytes, in either direction.
    ///
    /// The maximum has no default: it is what an unfinished frame may cost a connection in memory.
    ///
    /// # Errors
    /// [`BuildError::Stack`] where `max` is 0 or more than the prefix can say.
    ///
    /// ```
    /// use mbuf_protocols::{Framing, Prefix};
    ///
    /// assert_eq!(Framing::new(Prefix::U16Be, 4096).unwrap().max(), 4096);
    /// assert!(Framing::new(Prefix::U8, 256).is_err());
    /// ```
    pub fn new(prefix: Prefix, max: usize) -> Result<Self, BuildError> {
        if max == 0 || max > prefix.capacity() {
            let capacity = prefix.capacity();
            return Err(BuildError::Stack(format!(
                "framing: a maximum of {max} bytes with a {prefix:?} prefix, \
                 which can say 1 to {capacity}"
            )));
        }
        Ok(Self {
            prefix,
            max,
            within: None,
            pending: None,
            footprint: 0,
            deadline: None,
            waiting: Waiting::No,
            broken: false,
        })
    }

    /// Aborts the stream with [`FRAME_TIMEOUT`] when a frame is not complete so long after its
    /// first byte arrived. Without this a peer may take all the time it wants (and an idle limit
    /// does not stop one that sends a byte now and then).
    pub fn complete_within(mut self, limit: Duration) -> Self {
        self.within = Some(limit);
        self
    }

    /// The longest payload in bytes.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Sends up the whole frames that `chain` starts with, at most `burst`, and holds the rest.
    /// The outcome is that of the last of them.
    fn deliver(&mut self, mut chain: Chain, burst: usize, cx: &mut Context<'_>) -> Outcome {
        let mut sent = 0;
        loop {
            let (prefix, payload) = match self.front(&chain) {
                Ok(Parsed::Frame { prefix, payload }) => (prefix, payload),
                Ok(Parsed::More) => return self.hold(chain, cx),
                Ok(Parsed::Bad) => return self.break_off(chain, BAD_PREFIX, cx),
                Err(error) => return self.retry(chain, error, cx),
            };
            if payload > self.max {
                return self.break_off(chain, FRAME_TOO_LONG, cx);
            }
            if chain.len() < prefix + payload {
                return self.hold(chain, cx);
            }
            if sent == burst {
                return self.take_turns(chain, cx);
            }
            let rest = if chain.len() > prefix + payload {
                match chain.split_off(prefix + payload) {
                    Ok(rest) => Some(rest),
                    Err(error) => return self.retry(chain, error, cx),
                }
            } else {
                None
            };
            self.end_deadline(cx);
            let trimmed = chain.advance(prefix);
            debug_assert_eq!(trimmed, Ok(()), "a frame holds its prefix");
            let Some(rest) = rest else {
                self.footprint = 0;
                return cx.up(chain);
            };
            cx.made(1);
            cx.send_up(chain);
            sent += 1;
            chain = rest;
            self.footprint = UNMEASURED;
        }
    }

    /// What the first bytes of the chain say.
    fn front(&self, chain: &Chain) -> Result<Parsed, Error> {
        let mut bytes = [0; LONGEST_PREFIX];
        let bytes = &mut bytes[..chain.len().min(LONGEST_PREFIX)];
        chain.peek(0, bytes)?;
        Ok(self.prefix.parse(bytes))
    }

    /// Keeps the start of a frame until the rest of it comes.
    fn hold(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if self.footprint > chain.len().saturating_mul(4).max(SMALLEST) {
            let compacted = chain.compact_to_hold();
            self.footprint = chain.footprint();
            if let Err(error) = compacted {
                return self.retry(chain, error, cx);
            }
        }
        if let (Some(within), None) = (self.within, self.deadline) {
            self.deadline = cx.arm(within);
            if self.deadline.is_none() {
                return self.break_off(chain, DropReason::LIMIT, cx);
            }
        }
        self.pending = Some(chain);
        cx.held()
    }

    /// Nothing can be done with the chain now. Waits for buffers if that is what is missing.
    fn retry(&mut self, chain: Chain, error: Error, cx: &mut Context<'_>) -> Outcome {
        if !matches!(error, Error::NoBuffers { .. }) {
            return self.break_off(chain, UNREADABLE, cx);
        }
        match cx.arm(RETRY) {
            Some(timer) => self.waiting = Waiting::Buffers(timer),
            None => return self.break_off(chain, DropReason::LIMIT, cx),
        }
        cx.pause();
        self.keep(chain, cx)
    }

    /// Holds whole frames back until those that went up have been dealt with.
    fn take_turns(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        self.waiting = Waiting::Turn;
        cx.wait();
        self.keep(chain, cx)
    }

    fn keep(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if self.footprint == UNMEASURED {
            self.footprint = chain.footprint();
        }
        self.pending = Some(chain);
        cx.held()
    }

    /// Goes on after a wait.
    fn go_on(&mut self, burst: usize, cx: &mut Context<'_>) {
        self.end_wait(cx);
        if let Some(chain) = self.pending.take() {
            let outcome = self.deliver(chain, burst, cx);
            cx.apply(outcome);
        }
    }

    /// The stream is beyond repair: where the next frame starts cannot be known.
    fn break_off(&mut self, chain: Chain, reason: DropReason, cx: &mut Context<'_>) -> Outcome {
        self.broken = true;
        self.footprint = 0;
        self.end_deadline(cx);
        self.end_wait(cx);
        cx.abort(reason);
        cx.drop(chain, reason)
    }

    fn end_deadline(&mut self, cx: &mut Context<'_>) {
        if let Some(timer) = self.deadline.take() {
            cx.cancel(timer);
        }
    }

    fn end_wait(&mut self, cx: &mut Context<'_>) {
        if let Waiting::Buffers(timer) = self.waiting {
            cx.cancel(timer);
            cx.resume();
        }
        self.waiting = Waiting::No;
    }
}

impl Protocol for Framing {
    fn name(&self) -> &str {
        "framing"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Bytes, Edge::Packets).prepends(self.prefix.longest(self.max)).reasons(
            &[FRAME_TOO_LONG, BAD_PREFIX, TRUNCATED, FRAME_TIMEOUT, PACKET_TOO_LONG, UNREADABLE],
        )
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if self.broken {
            return cx.drop(chain, DropReason::CLOSED);
        }
        if chain.is_empty() {
            return cx.consumed(chain);
        }
        match self.pending.take() {
            None => self.footprint = UNMEASURED,
            Some(mut pending) => {
                self.footprint = self.footprint.saturating_add(chain.footprint());
                if let Err(rejected) = pending.concat_compact(chain) {
                    // Over 4 GiB together: only a driver that does not heed `pause` gets here.
                    let outcome = self.break_off(rejected.value, DropReason::LIMIT, cx);
                    cx.apply(outcome);
                    return cx.drop(pending, DropReason::LIMIT);
                }
                cx.merged(1);
                chain = pending;
            }
        }
        if self.waiting != Waiting::No {
            self.pending = Some(chain);
            return cx.held();
        }
        self.deliver(chain, BURST, cx)
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let payload = chain.len();
        if payload > self.max {
            return cx.drop(chain, PACKET_TOO_LONG);
        }
        let mut bytes = [0; LONGEST_PREFIX];
        let len = self.prefix.write(payload, &mut bytes);
        match chain.prepend_slice(&bytes[..len]) {
            Ok(()) => cx.down(chain),
            Err(_) => {
                // The peer would never know that a packet is missing, which a stream must not do.
                cx.abort(DropReason::NO_BUFFERS);
                cx.drop(chain, DropReason::NO_BUFFERS)
            }
        }
    }

    fn timeout(&mut self, timer: Timer, cx: &mut Context<'_>) {
        if self.waiting == Waiting::Buffers(timer) {
            self.go_on(BURST, cx);
        } else if self.deadline == Some(timer) {
            self.deadline = None;
            if let Some(chain) = self.pending.take() {
                let outcome = self.break_off(chain, FRAME_TIMEOUT, cx);
                cx.apply(outcome);
            }
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Writable if self.waiting == Waiting::Turn => self.go_on(BURST, cx),
            Signal::EndOfStream => {
                // The end waits for those who take turns, but not for buffers: now or never.
                self.go_on(usize::MAX, cx);
                if let Some(chain) = self.pending.take() {
                    let outcome = if self.waiting == Waiting::No {
                        cx.drop(chain, TRUNCATED)
                    } else {
                        self.break_off(chain, DropReason::NO_BUFFERS, cx)
                    };
                    cx.apply(outcome);
                }
                self.footprint = 0;
                self.end_deadline(cx);
            }
            Signal::Drain => {
                if let Some(pending) = &mut self.pending
                    && pending.footprint() > pending.len().saturating_mul(2).max(SMALLEST)
                {
                    // Where not even this finds a buffer, it stays as it is.
                    let _ = pending.compact();
                    self.footprint = pending.footprint();
                }
            }
            _ => {}
        }
    }

    fn held(&self) -> Held {
        match self.pending {
            Some(_) => Held { chains: 1, footprint: self.footprint },
            None => Held::default(),
        }
    }
}
