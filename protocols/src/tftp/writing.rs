//! A file that is received: a write request.

use std::time::Duration;

use mbuf::{
    Chain,
    io::store::{Done, Failure, Request as Ask},
    stack::{DropReason, Held},
};
use zerocopy::IntoBytes;

use super::{
    DUPLICATE,
    netascii::Decoder,
    transfer::{Fault, Flow, Hands, Talk},
    wire::{Header, Mode, block_near, opcode},
};

/// Storage, in bytes, that may be with the store for one transfer.
const IN_STORE: usize = 192 << 10;
/// How long the last ACK is said again: clients ask again after five seconds, as a rule.
const DALLY: Duration = Duration::from_secs(12);

/// The receiving end of a transfer.
#[derive(Debug)]
pub(super) struct Writing {
    max_size: u64,
    /// The last block that came in order.
    received: u64,
    /// The last one that an ACK was sent for.
    acked: u64,
    /// Bytes of the file so far.
    len: u64,
    decoder: Decoder,
    /// Chains that the store has.
    in_store: Held,
    /// A block is missing, and that was said.
    gap: bool,
    /// A block was dropped while the store had others: what is missing is to be asked for.
    owed: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The store makes the file.
    Creating,
    Receiving,
    /// Everything is there; the store gives it its name.
    Committing,
    /// It has it; the last ACK may have to be said again (RFC 1350, section 6).
    Done,
    /// It could not be made.
    Failed,
}

impl Writing {
    pub(super) fn new(max_size: u64) -> Self {
        Self {
            max_size,
            received: 0,
            acked: 0,
            len: 0,
            decoder: Decoder::default(),
            in_store: Held::default(),
            gap: false,
            owed: false,
            stage: Stage::Creating,
        }
    }

    pub(super) fn created(&mut self, talk: &mut Talk, hands: &mut Hands<'_, '_>) {
        self.stage = Stage::Receiving;
        if talk.greeting.is_some() {
            talk.greet(hands);
        } else {
            self.acknowledge(talk, hands);
        }
    }

    pub(super) fn held(&self) -> Held {
        self.in_store
    }

    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Whether it is not the peer whose turn it is.
    pub(super) fn waits_for_store(&self) -> bool {
        self.in_store.chains > 0 || matches!(self.stage, Stage::Creating | Stage::Committing)
    }

    /// Says what has come, up to where nothing is missing.
    pub(super) fn acknowledge(&mut self, talk: &mut Talk, hands: &mut Hands<'_, '_>) {
        let header = Header { opcode: opcode::ACK.into(), number: (self.received as u16).into() };
        if talk.say(header.as_bytes(), hands) {
            self.acked = self.received;
        }
        talk.wait(hands.cx.now());
    }

    pub(super) fn data(
        &mut self,
        number: u16,
        mut chain: Chain,
        talk: &mut Talk,
        hands: &mut Hands<'_, '_>,
    ) -> Result<Flow, Fault> {
        let block = block_near(self.received, number);
        if self.stage != Stage::Receiving || block != Some(self.received + 1) {
            hands.drop(chain, DUPLICATE);
            self.out_of_order(block, talk, hands);
            return Ok(Flow::On);
        }
        if chain.trim_front(size_of::<Header>()).is_err() || chain.len() > talk.block {
            hands.drop(chain, DropReason::MALFORMED);
            return Err(Fault::ILLEGAL);
        }
        if self.in_store.footprint >= IN_STORE {
            hands.drop(chain, DropReason::LIMIT);
            self.owed = true;
            return Ok(Flow::On);
        }
        let last = chain.len() < talk.block;
        let mut decoder = self.decoder;
        let chain = match talk.mode {
            Mode::Octet => Some(chain),
            Mode::Netascii => from_netascii(&mut decoder, chain, last, hands),
        };
        let Some(mut chain) = chain else { return Ok(Flow::On) };
        if self.len + chain.len() as u64 > self.max_size {
            hands.drop(chain, DropReason::LIMIT);
            return Err(Fault::TOO_LONG);
        }
        if chain.compact_to_hold().is_err() {
            hands.drop(chain, DropReason::NO_BUFFERS);
            return Ok(Flow::On);
        }
        talk.greeting = None;
        talk.hear();
        talk.wait(hands.cx.now());
        (self.decoder, self.gap) = (decoder, false);
        self.received += 1;
        let offset = self.len;
        self.len += chain.len() as u64;
        if chain.is_empty() {
            hands.consume(chain);
        } else {
            self.in_store += Held::of(&chain);
            talk.ask(Ask::Write { offset, chain }, hands);
        }
        if last {
            self.stage = Stage::Committing;
            talk.ask(Ask::Commit { length: self.len, mode: None, modified: None }, hands);
        }
        self.settle(talk, hands);
        Ok(Flow::On)
    }

    /// A block that came before, or too early. The last one that was acknowledged is so again, for
    /// that may have been lost; of those that come too early only the first, or each would be
    /// answered by a whole window (RFC 7440, section 4).
    fn out_of_order(&mut self, block: Option<u64>, talk: &mut Talk, hands: &mut Hands<'_, '_>) {
        if self.waits_for_store() {
            // What is missing is asked for as soon as the store has what is there.
            self.owed |= block.is_some_and(|block| block > self.received);
            return;
        }
        let said = self.received > 0 && (self.is_done() || self.received == self.acked);
        let before = said && block == Some(self.received);
        let early = !self.gap && block.is_some_and(|block| block > self.received);
        if self.is_done() && before {
            let deadline = talk.deadline;
            self.acknowledge(talk, hands);
            talk.deadline = deadline;
        } else if !self.is_done() && (before || early) && talk.greeting.is_none() {
            self.gap |= early;
            self.acknowledge(talk, hands);
        }
    }

    /// Acknowledges a window, or the file, once the store has all of it.
    fn settle(&mut self, talk: &mut Talk, hands: &mut Hands<'_, '_>) {
        let whole = self.received - self.acked >= talk.window;
        if self.stage == Stage::Receiving && self.in_store.chains == 0 && (whole || self.owed) {
            self.gap |= std::mem::take(&mut self.owed);
            self.acknowledge(talk, hands);
        }
    }

    pub(super) fn answered(
        &mut self,
        result: Result<Done, Failure>,
        talk: &mut Talk,
        hands: &mut Hands<'_, '_>,
    ) -> Result<Flow, Fault> {
        match result {
            Ok(Done::Written(chain)) => {
                self.back(chain, hands);
                self.settle(talk, hands);
            }
            Ok(Done::Committed) => {
                self.stage = Stage::Done;
                self.acknowledge(talk, hands);
                talk.deadline = Some(hands.cx.now() + DALLY);
            }
            Ok(_) => {}
            Err(failure) => {
                if let Some(chain) = failure.chain {
                    self.back(chain, hands);
                }
                if self.stage == Stage::Creating {
                    self.stage = Stage::Failed;
                }
                return Err(Fault::of(&failure.error));
            }
        }
        Ok(Flow::On)
    }

    /// A chain has come back from the store.
    fn back(&mut self, chain: Chain, hands: &mut Hands<'_, '_>) {
        let footprint = chain.footprint().min(self.in_store.footprint);
        self.in_store.chains = self.in_store.chains.saturating_sub(1);
        self.in_store.footprint -= footprint;
        if self.in_store.chains == 0 {
            // What was left of one that failed pinned less than all of it.
            self.in_store.footprint = 0;
        }
        hands.consume(chain);
    }

    /// What the store is to be told last.
    pub(super) fn end(self, hands: &mut Hands<'_, '_>) -> Option<Ask> {
        // What the store still has is its own from here on.
        hands.cx.merged(self.in_store.chains);
        (!matches!(self.stage, Stage::Done | Stage::Failed)).then_some(Ask::Discard)
    }
}

/// A chain with what the block means, in place of the block; `None` if there are no buffers.
fn from_netascii(
    decoder: &mut Decoder,
    chain: Chain,
    last: bool,
    hands: &mut Hands<'_, '_>,
) -> Option<Chain> {
    hands.scratch.clear();
    let slices = chain.slices();
    let decoded = slices.and_then(|slices| {
        slices.for_each(|piece| decoder.decode(piece, hands.scratch));
        if last {
            decoder.finish(hands.scratch);
        }
        hands.cx.pool().chain_from(hands.scratch)
    });
    match decoded {
        Ok(decoded) => {
            hands.cx.made(1);
            hands.consume(chain);
            Some(decoded)
        }
        Err(_) => {
            hands.drop(chain, DropReason::NO_BUFFERS);
            None
        }
    }
}
