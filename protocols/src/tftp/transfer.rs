//! A transfer: what both directions have in common.

use std::{io, time::Duration};

use mbuf::{
    Address, Chain, Meta, Pool, Result as Made,
    io::store::{Answer, Attributes, Done, FileNo, Name, Request as Ask, Store},
    stack::{Context, DropReason, Held, Time},
};
use zerocopy::IntoBytes;

use super::{
    reading::Reading,
    wire::{Code, Header, Mode, Options, Request, opcode},
    writing::Writing,
};

/// When it is tried again to get buffers, or room in the output queue.
const RETRY: Duration = Duration::from_millis(20);
/// How often that is: half a minute.
const STALLS: u32 = 1500;
/// Doubling ends here.
const LONGEST: Duration = Duration::from_secs(16);
/// The longest time that a peer may ask for (RFC 2349), in seconds.
const TIMEOUT: u8 = 30;
/// Tries for a peer who has not been heard of since his request, who may not know of it.
const UNHEARD: u32 = 3;
/// Bytes that are under way at once, and blocks.
const WINDOW: usize = 64 << 10;
const WINDOW_BLOCKS: u16 = 64;
/// Bytes of a block if nobody asks (RFC 1350).
const BLOCK: u16 = 512;

/// What a transfer works with.
pub(super) struct Hands<'a, 'b> {
    pub(super) cx: &'a mut Context<'b>,
    pub(super) store: &'a mut dyn Store,
    /// For netascii, so that no block allocates.
    pub(super) scratch: &'a mut Vec<u8>,
    /// What the store knows the file by.
    pub(super) file: FileNo,
}

impl Hands<'_, '_> {
    pub(super) fn drop(&mut self, chain: Chain, reason: DropReason) {
        let outcome = self.cx.drop(chain, reason);
        self.cx.apply(outcome);
    }

    pub(super) fn consume(&mut self, chain: Chain) {
        let outcome = self.cx.consumed(chain);
        self.cx.apply(outcome);
    }
}

/// Why a transfer fails: what its peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: Code,
    pub(super) text: &'static str,
}

impl Fault {
    pub(super) const fn new(code: Code, text: &'static str) -> Self {
        Self { code, text }
    }

    pub(super) const ILLEGAL: Fault = Fault::new(Code::Illegal, "illegal TFTP operation");
    pub(super) const ACCESS: Fault = Fault::new(Code::Access, "access violation");
    pub(super) const TOO_LONG: Fault = Fault::new(Code::Full, "the file is too long");
    pub(super) const UNKNOWN: Fault = Fault::new(Code::UnknownTransfer, "unknown transfer ID");
    pub(super) const BUSY: Fault = Fault::new(Code::Undefined, "too many transfers");
    pub(super) const NO_BUFFERS: Fault = Fault::new(Code::Undefined, "no memory");

    /// What a peer may know of an error of the store: no path of ours.
    pub(super) fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{
            AlreadyExists, FileTooLarge, InvalidInput, IsADirectory, NotADirectory, NotFound,
            PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, ResourceBusy, StorageFull,
        };
        // A link that is not followed is ELOOP, which has no kind of its own yet.
        match error.kind() {
            NotFound | NotADirectory => Self::new(Code::NotFound, "file not found"),
            PermissionDenied | IsADirectory | InvalidInput | ReadOnlyFilesystem => Self::ACCESS,
            StorageFull | QuotaExceeded => Self::new(Code::Full, "disk full"),
            FileTooLarge => Self::TOO_LONG,
            AlreadyExists => Self::new(Code::Exists, "file already exists"),
            ResourceBusy => Self::new(Code::Undefined, "the file is being written"),
            _ if mbuf::io::errno(error) == Some(ELOOP) => Self::ACCESS,
            _ => Self::new(Code::Undefined, "the file cannot be used"),
        }
    }

    /// An ERROR for whoever `meta` says. Never allocates.
    pub(super) fn to_chain(self, pool: &Pool, meta: Meta) -> Made<Chain> {
        let header =
            Header { opcode: opcode::ERROR.into(), number: u16::from(self.code as u8).into() };
        let mut chain = pool.chain_from(header.as_bytes())?;
        chain.extend_from_slice(self.text.as_bytes())?;
        chain.extend_from_slice(&[0])?;
        *chain.meta_mut() = meta;
        Ok(chain)
    }
}

/// Linux's.
const ELOOP: i32 = 40;

/// Whether a transfer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Over,
}

/// What a transfer knows of its peer, and when it does something by itself.
#[derive(Debug)]
pub(super) struct Talk {
    /// Of whatever is sent: from our port to the peer's.
    pub(super) meta: Meta,
    pub(super) mode: Mode,
    pub(super) block: usize,
    /// In blocks.
    pub(super) window: u64,
    /// The OACK, until the peer goes by it.
    pub(super) greeting: Option<Vec<u8>>,
    /// The peer has answered since the request.
    heard: bool,
    pub(super) deadline: Option<Time>,
    /// There were no buffers, or no room to send: it is no fault of the peer's.
    pub(super) stalled: bool,
    stalls: u32,
    interval: Duration,
    tries: u32,
    max_tries: u32,
    /// Requests that the store has not answered.
    asked: u32,
}

impl Talk {
    pub(super) fn ask(&mut self, ask: Ask, hands: &mut Hands<'_, '_>) {
        self.asked += 1;
        hands.store.ask(hands.file, ask);
    }

    /// Sends a message that is not data. Whether there were buffers for it.
    pub(super) fn say(&self, message: &[u8], hands: &mut Hands<'_, '_>) -> bool {
        let Ok(mut chain) = hands.cx.pool().chain_from(message) else { return false };
        *chain.meta_mut() = self.meta;
        hands.cx.made(1);
        hands.cx.send_down(chain);
        true
    }

    /// The peer has done what he should.
    pub(super) fn hear(&mut self) {
        self.heard = true;
        self.tries = 0;
        self.stalls = 0;
    }

    /// The peer has that long, and twice as long each time that he lets it pass.
    pub(super) fn wait(&mut self, now: Time) {
        let longest = self.interval.max(LONGEST);
        let interval = self.interval.saturating_mul(1 << self.tries.min(16)).min(longest);
        self.stalled = false;
        self.deadline = Some(now + interval);
    }

    /// Tries again soon.
    pub(super) fn stall(&mut self, now: Time) {
        self.stalled = true;
        self.deadline = Some(now + RETRY);
    }

    /// The OACK, or what else opens the transfer.
    pub(super) fn greet(&mut self, hands: &mut Hands<'_, '_>) {
        if let Some(greeting) = &self.greeting {
            self.say(greeting, hands);
        }
        self.wait(hands.cx.now());
    }

    /// Settles the options, when the file is open: what is agreed to, and the OACK that says so.
    fn agree(&mut self, asked: &Options, length: Option<u64>, max_block: u16) {
        let block = asked.blksize.map(|block| block.min(max_block));
        self.block = block.unwrap_or(BLOCK).into();
        let most = (WINDOW / self.block).clamp(1, WINDOW_BLOCKS.into()) as u16;
        let window = asked.windowsize.map(|window| window.min(most));
        self.window = window.unwrap_or(1).into();
        let timeout = asked.timeout.filter(|seconds| *seconds <= TIMEOUT);
        if let Some(seconds) = timeout {
            self.interval = Duration::from_secs(seconds.into());
        }
        // In netascii it is not known how many bytes will travel; curl takes 0 for a mistake.
        let tsize = asked.tsize.and(length).filter(|n| *n > 0 && self.mode == Mode::Octet);
        self.greeting = Options { blksize: block, timeout, tsize, windowsize: window }.to_ack();
    }
}

/// A transfer.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) talk: Talk,
    /// By which the same request is known when it comes once more.
    pub(super) request: u64,
    options: Options,
    max_block: u16,
    way: Way,
}

/// Which way the file goes.
#[derive(Debug)]
enum Way {
    Reading(Reading),
    Writing(Writing),
    /// No way: what the store has not answered yet is waited for, and nothing else.
    Over,
}

/// What a server sets for its transfers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) overwrite: bool,
    pub(super) max_size: u64,
    pub(super) max_block: u16,
    pub(super) interval: Duration,
    pub(super) tries: u32,
}

impl Transfer {
    /// Asks the store for the file.
    pub(super) fn begin(
        request: &Request<'_>,
        (name, hash): (Name, u64),
        meta: Meta,
        terms: &Terms,
        hands: &mut Hands<'_, '_>,
    ) -> Self {
        let mut talk = Talk {
            meta,
            mode: request.mode,
            block: BLOCK.into(),
            window: 1,
            greeting: None,
            heard: false,
            deadline: None,
            stalled: false,
            stalls: 0,
            interval: terms.interval,
            tries: 0,
            max_tries: terms.tries,
            asked: 0,
        };
        let way = if request.write {
            let length = request.options.tsize;
            talk.ask(Ask::Create { name, length, overwrite: terms.overwrite }, hands);
            Way::Writing(Writing::new(terms.max_size))
        } else {
            talk.ask(Ask::Open { name }, hands);
            Way::Reading(Reading::default())
        };
        let max_block = terms.max_block;
        Self { talk, request: hash, options: request.options, max_block, way }
    }

    pub(super) fn peer(&self) -> Address {
        self.talk.meta.destination()
    }

    /// Whether the same request once more is not the same wish: it is done, or the peer has answered
    /// and then let his time pass.
    pub(super) fn may_begin_anew(&self) -> bool {
        self.is_done() || self.talk.heard && self.talk.tries > 0
    }

    /// Whether the peer has answered anything.
    pub(super) fn is_heard(&self) -> bool {
        self.talk.heard
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.way, Way::Over)
    }

    /// Whether all is done, but that the peer may ask for the last ACK again.
    pub(super) fn is_done(&self) -> bool {
        matches!(&self.way, Way::Writing(writing) if writing.is_done())
    }

    /// Whether the store has nothing more to say of it, so that the file's number is free.
    pub(super) fn is_gone(&self) -> bool {
        self.is_over() && self.talk.asked == 0
    }

    pub(super) fn held(&self) -> Held {
        match &self.way {
            Way::Reading(reading) => reading.held(),
            Way::Writing(writing) => writing.held(),
            Way::Over => Held::default(),
        }
    }

    /// DATA, ACK or whatever else the peer sends, but a request.
    pub(super) fn message(
        &mut self,
        header: Header,
        chain: Chain,
        hands: &mut Hands<'_, '_>,
    ) -> Result<Flow, Fault> {
        let talk = &mut self.talk;
        match (header.opcode.get(), &mut self.way) {
            (opcode::ACK, Way::Reading(reading)) => {
                reading.acknowledged(header.number.get(), chain, talk, hands)
            }
            (opcode::DATA, Way::Writing(writing)) => {
                writing.data(header.number.get(), chain, talk, hands)
            }
            // An ERROR is never answered.
            (opcode::ERROR, _) => {
                hands.consume(chain);
                Ok(Flow::Over)
            }
            _ => {
                hands.consume(chain);
                Err(Fault::ILLEGAL)
            }
        }
    }

    /// The store has answered.
    pub(super) fn answered(
        &mut self,
        answer: Answer,
        hands: &mut Hands<'_, '_>,
    ) -> Result<Flow, Fault> {
        let talk = &mut self.talk;
        talk.asked = talk.asked.saturating_sub(1);
        match (answer.result, &mut self.way) {
            (
                Ok(Done::Opened { attributes: Attributes { length, .. }, .. }),
                way @ Way::Reading(_),
            ) => {
                talk.agree(&self.options, length, self.max_block);
                if let Way::Reading(reading) = way {
                    reading.opened(talk, hands);
                }
                Ok(Flow::On)
            }
            (Ok(Done::Created), Way::Writing(writing)) => {
                talk.agree(&self.options, self.options.tsize, self.max_block);
                writing.created(talk, hands);
                Ok(Flow::On)
            }
            (result, Way::Reading(reading)) => reading.answered(result, talk, hands),
            (result, Way::Writing(writing)) => writing.answered(result, talk, hands),
            // What was read or written for it meanwhile is not in our books any more.
            (_, Way::Over) => Ok(Flow::Over),
        }
    }

    /// Its deadline has passed.
    pub(super) fn timeout(&mut self, hands: &mut Hands<'_, '_>) -> Result<Flow, Fault> {
        let talk = &mut self.talk;
        talk.deadline = None;
        if talk.stalled {
            talk.stalls += 1;
            if talk.stalls > STALLS {
                return Err(Fault::NO_BUFFERS);
            }
            return Ok(self.go_on(hands));
        }
        if let Way::Writing(writing) = &self.way {
            if writing.is_done() {
                return Ok(Flow::Over);
            }
            if writing.waits_for_store() {
                talk.wait(hands.cx.now());
                return Ok(Flow::On);
            }
        }
        talk.tries += 1;
        let most = if talk.heard { talk.max_tries } else { talk.max_tries.min(UNHEARD) };
        if talk.tries >= most {
            return Ok(Flow::Over);
        }
        match &mut self.way {
            _ if talk.greeting.is_some() => talk.greet(hands),
            Way::Reading(reading) => reading.again(talk, hands),
            Way::Writing(writing) => writing.acknowledge(talk, hands),
            Way::Over => {}
        }
        Ok(Flow::On)
    }

    /// There may be room to send now, or buffers.
    pub(super) fn go_on(&mut self, hands: &mut Hands<'_, '_>) -> Flow {
        if let Way::Reading(reading) = &mut self.way {
            reading.go_on(&mut self.talk, hands);
        }
        Flow::On
    }

    /// It ends here: the store closes the file, or throws it away.
    pub(super) fn end(&mut self, hands: &mut Hands<'_, '_>) {
        self.talk.deadline = None;
        let left = match std::mem::replace(&mut self.way, Way::Over) {
            Way::Reading(reading) => reading.end(hands),
            Way::Writing(writing) => writing.end(hands),
            Way::Over => None,
        };
        if let Some(ask) = left {
            self.talk.ask(ask, hands);
        }
    }
}
