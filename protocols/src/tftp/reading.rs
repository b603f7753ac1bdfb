//! A file that is sent: a read request.

use mbuf::{
    Chain, Result as Made,
    io::store::{Done, Failure, Request as Ask},
    stack::{DropReason, Held},
};

use super::{
    DUPLICATE,
    netascii::encode,
    transfer::{Fault, Flow, Hands, Talk},
    wire::{Header, Mode, block_near, opcode},
};

/// The least that is read from the store at once, in bytes.
const CHUNK: usize = 16 << 10;

/// The sending end of a transfer.
///
/// Invariant: `acked < next <= sent + 1`; `ahead` holds the bytes from block `acked + 1` on.
#[derive(Debug)]
pub(super) struct Reading {
    acked: u64,
    next: u64,
    /// The last block that was ever sent.
    sent: u64,
    /// The last one of the window that was sent again last. Until that is acknowledged only time
    /// makes it go back: what was under way makes ACKs, too, and each would make more of them.
    recover: u64,
    ahead: Option<Chain>,
    /// Where the file is read next. (In netascii more bytes travel.)
    offset: u64,
    /// So many bytes were asked for, and are to come.
    asked: Option<usize>,
    file: File,
    /// All bytes are in `ahead`.
    ended: bool,
}

/// What the store knows of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Asked,
    Open,
    Failed,
}

impl Default for Reading {
    fn default() -> Self {
        let (acked, next, sent, recover) = (0, 1, 0, 0);
        Self {
            acked,
            next,
            sent,
            recover,
            ahead: None,
            offset: 0,
            asked: None,
            file: File::Asked,
            ended: false,
        }
    }
}

impl Reading {
    pub(super) fn opened(&mut self, talk: &mut Talk, hands: &mut Hands<'_, '_>) {
        self.file = File::Open;
        if talk.greeting.is_some() {
            talk.greet(hands);
        }
        self.read_ahead(talk, hands);
    }

    pub(super) fn held(&self) -> Held {
        self.ahead.iter().sum()
    }

    pub(super) fn acknowledged(
        &mut self,
        number: u16,
        chain: Chain,
        talk: &mut Talk,
        hands: &mut Hands<'_, '_>,
    ) -> Result<Flow, Fault> {
        let block = block_near(self.acked, number).filter(|block| *block <= self.sent);
        if talk.greeting.is_some() {
            if number != 0 {
                hands.drop(chain, DropReason::MALFORMED);
                return Ok(Flow::On);
            }
            talk.greeting = None;
        } else {
            match block {
                Some(block) if block > self.acked => {}
                // RFC 1123, 4.2.3.1: a second ACK is never answered by a second DATA.
                Some(_) => {
                    hands.drop(chain, DUPLICATE);
                    return Ok(Flow::On);
                }
                None => {
                    hands.drop(chain, DropReason::MALFORMED);
                    return Ok(Flow::On);
                }
            }
        }
        hands.consume(chain);
        talk.hear();
        if let Some(block) = block
            && self.advance(block, talk, hands)?
        {
            return Ok(Flow::Over);
        }
        self.go_on(talk, hands);
        Ok(Flow::On)
    }

    /// All up to that block is there; whether it was the last.
    fn advance(
        &mut self,
        block: u64,
        talk: &Talk,
        hands: &mut Hands<'_, '_>,
    ) -> Result<bool, Fault> {
        let len = (block - self.acked) as usize * talk.block;
        let buffered = self.buffered();
        if self.ended && len > buffered {
            return Ok(true);
        }
        self.acked = block;
        self.next = self.next.max(block + 1);
        if self.next > block + 1 && block >= self.recover {
            self.go_back(talk.window);
        }
        match self.ahead.take() {
            Some(ahead) if len >= buffered => hands.consume(ahead),
            Some(mut ahead) => {
                let freed = ahead.advance(len);
                self.ahead = Some(ahead);
                freed.map_err(|_| Fault::NO_BUFFERS)?;
            }
            None => {}
        }
        Ok(false)
    }

    /// Sends all that the window allows and that is there, and reads on.
    pub(super) fn go_on(&mut self, talk: &mut Talk, hands: &mut Hands<'_, '_>) {
        (talk.stalled, talk.deadline) = (false, None);
        self.read_ahead(talk, hands);
        if talk.greeting.is_some() {
            return talk.wait(hands.cx.now());
        }
        let mut stalled = false;
        while self.next <= self.acked + talk.window
            && let Some((from, len)) = self.piece(self.next, talk.block)
        {
            stalled = hands.cx.credit() == 0;
            if stalled {
                break;
            }
            let Ok(chain) = self.data(from, len, talk, hands) else {
                stalled = true;
                break;
            };
            hands.cx.made(1);
            hands.cx.send_down(chain);
            self.sent = self.sent.max(self.next);
            self.next += 1;
        }
        let now = hands.cx.now();
        if stalled {
            talk.stall(now);
        } else if self.next > self.acked + 1 {
            talk.wait(now);
        }
    }

    /// The peer has let his time pass: everything that he did not acknowledge, once more.
    pub(super) fn again(&mut self, talk: &mut Talk, hands: &mut Hands<'_, '_>) {
        self.go_back(talk.window);
        self.go_on(talk, hands);
    }

    fn go_back(&mut self, window: u64) {
        self.next = self.acked + 1;
        self.recover = self.acked + window;
    }

    /// Where a block begins in `ahead`, and its length: shorter than a block if it is the last.
    /// `None` if it is not there, or not all of it.
    fn piece(&self, block: u64, size: usize) -> Option<(usize, usize)> {
        let from = (block - self.acked - 1) as usize * size;
        let left = self.buffered().checked_sub(from)?;
        (left >= size || self.ended).then_some((from, left.min(size)))
    }

    /// A block, which shares its bytes with `ahead`.
    fn data(
        &mut self,
        from: usize,
        len: usize,
        talk: &Talk,
        hands: &mut Hands<'_, '_>,
    ) -> Made<Chain> {
        let mut chain = match &mut self.ahead {
            Some(ahead) if len > 0 => ahead.share_range(from, len)?,
            _ => hands.cx.pool().chain()?,
        };
        let header = Header { opcode: opcode::DATA.into(), number: (self.next as u16).into() };
        chain.push(&header)?;
        *chain.meta_mut() = talk.meta;
        Ok(chain)
    }

    fn buffered(&self) -> usize {
        self.ahead.as_ref().map_or(0, Chain::len)
    }

    /// Keeps a window, and the next one, in memory.
    fn read_ahead(&mut self, talk: &mut Talk, hands: &mut Hands<'_, '_>) {
        let len = CHUNK.max(talk.block * talk.window as usize);
        let idle = self.file == File::Open && self.asked.is_none() && !self.ended;
        if idle && self.buffered() < len {
            self.asked = Some(len);
            talk.ask(Ask::Read { offset: self.offset, len, look: None }, hands);
        }
    }

    pub(super) fn answered(
        &mut self,
        result: Result<Done, Failure>,
        talk: &mut Talk,
        hands: &mut Hands<'_, '_>,
    ) -> Result<Flow, Fault> {
        let len = self.asked.take().unwrap_or(0);
        let found = match result {
            Ok(Done::Read { chain, .. }) => chain,
            Ok(Done::Hole { len: zeros, .. }) => match hands.cx.pool().chain_zeroed(zeros) {
                Ok(chain) => chain,
                Err(_) => return Ok(self.starve(talk, hands)),
            },
            Ok(Done::NoBuffers) => return Ok(self.starve(talk, hands)),
            Ok(_) => {
                self.ended = true;
                self.go_on(talk, hands);
                return Ok(Flow::On);
            }
            Err(failure) => {
                if self.file == File::Asked {
                    self.file = File::Failed;
                }
                return Err(Fault::of(&failure.error));
            }
        };
        // Fewer come only at the end.
        self.ended = found.len() < len;
        self.offset += found.len() as u64;
        let bytes = match talk.mode {
            Mode::Octet => found,
            Mode::Netascii => to_netascii(&found, hands).map_err(|_| Fault::NO_BUFFERS)?,
        };
        hands.cx.made(1);
        match &mut self.ahead {
            None => self.ahead = Some(bytes),
            Some(ahead) => match ahead.concat(bytes) {
                Ok(()) => hands.cx.merged(1),
                Err(rejected) => {
                    hands.drop(rejected.value, DropReason::NO_BUFFERS);
                    return Err(Fault::NO_BUFFERS);
                }
            },
        }
        self.go_on(talk, hands);
        Ok(Flow::On)
    }

    /// There were no buffers to read into: once more, later. What this thread's cache has, the
    /// store's cannot find.
    #[cold]
    fn starve(&self, talk: &mut Talk, hands: &mut Hands<'_, '_>) -> Flow {
        hands.cx.pool().flush();
        talk.stall(hands.cx.now());
        Flow::On
    }

    /// What the store is to be told last.
    pub(super) fn end(self, hands: &mut Hands<'_, '_>) -> Option<Ask> {
        if let Some(ahead) = self.ahead {
            hands.consume(ahead);
        }
        (self.file != File::Failed).then_some(Ask::Close)
    }
}

fn to_netascii(found: &Chain, hands: &mut Hands<'_, '_>) -> Made<Chain> {
    hands.scratch.clear();
    for piece in found.slices()? {
        encode(piece, hands.scratch);
    }
    hands.cx.pool().chain_from(hands.scratch)
}
