//! The sending end.

mod item;
mod messages;
mod reading;

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, SystemTime},
};

use mbuf::{
    BuildError, Chain, Pool,
    io::store::{Attributes, FileNo, Name, Store},
    stack::{Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Stack, Timer},
};
use zerocopy::IntoBytes;

use super::{
    CHUNK, CHUNK_MAX, CHUNK_MIN,
    event::{Event, Listener, Summary},
    stack,
    talk::{Talk, message},
    tree::{Hash, Listing},
    trouble::{Code, Trouble},
    wire::{self, ALL, Data, End, HAS_LENGTH, HAS_MODE, HAS_TIME, HOLE, Head, kind},
};
use item::{Item, Stage};

/// Files that are opened ahead of the one that is being sent.
const OPEN_AHEAD: usize = 48;
/// Bytes that are read ahead of what was sent, unless told.
const READ_AHEAD: usize = 1 << 20;
/// What a read counts at least.
const SMALL_READ: usize = 4 << 10;
/// Files and folders that were sent and of which the other end has not said that it has them.
const UNCONFIRMED: usize = 512;

/// Sends the files and folders that a [`Store`] was given to send. The top of a stack; it belongs
/// to one connection.
///
/// The [module](super) says how.
pub struct FileSender {
    store: Box<dyn Store>,
    listener: Option<Listener>,
    preserve: bool,
    chunk_max: usize,
    read_ahead: usize,

    phase: Phase,
    talk: Talk,
    /// What the ends have agreed on, in bytes.
    chunk: usize,
    next: FileNo,
    /// One more than the last that FILE or FOLDER was sent of.
    begun: FileNo,
    /// The store has nothing after what it was asked for.
    no_more: bool,
    /// What is open or being opened, in ascending order of numbers; the first is being sent.
    items: VecDeque<Item>,
    /// Bytes that were asked for, or came and were not sent; each read at least `SMALL_READ`.
    ahead: usize,
    held: Held,
    /// What was sent and is not confirmed, in ascending order of numbers.
    unconfirmed: VecDeque<Sent>,
    listing: Listing,
    done: Summary,
}

/// How far the conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The other end has not said who it is.
    Hello,
    /// Files go.
    Open,
    /// Everything was sent.
    Finishing,
    /// It is over, well or not.
    Over,
}

/// What was sent.
#[derive(Debug)]
struct Sent {
    no: FileNo,
    name: Name,
    /// Of a file: its length and its hash.
    file: Option<(u64, Hash)>,
    /// What the other end said of it.
    kept: Option<bool>,
}

impl FileSender {
    /// A sender of what `store` was given to send.
    pub fn new(store: Box<dyn Store>) -> Self {
        Self {
            store,
            listener: None,
            preserve: false,
            chunk_max: CHUNK,
            read_ahead: READ_AHEAD,
            phase: Phase::Hello,
            talk: Talk::default(),
            chunk: CHUNK,
            next: 0,
            begun: 0,
            no_more: false,
            items: VecDeque::new(),
            ahead: 0,
            held: Held::default(),
            unconfirmed: VecDeque::new(),
            listing: Listing::default(),
            done: Summary::nothing(),
        }
    }

    /// The files' permissions and times go along, and the receiver gives them to its own.
    pub fn preserve(mut self, yes: bool) -> Self {
        self.preserve = yes;
        self
    }

    /// The size of the chunks in bytes (256 KiB unless told), rounded up to a power of two from
    /// [`CHUNK_MIN`] to [`CHUNK_MAX`]: what is read, hashed and written at once. The receiver may
    /// ask for smaller ones.
    pub fn chunk(mut self, bytes: usize) -> Self {
        self.chunk_max = bytes.clamp(CHUNK_MIN, CHUNK_MAX).next_power_of_two();
        self
    }

    /// Bytes that are read ahead of what was sent (1 MiB unless told; one chunk at least).
    pub fn read_ahead(mut self, bytes: usize) -> Self {
        self.read_ahead = bytes;
        self
    }

    /// How often this end says that it is there when it has nothing else to say (every five seconds
    /// unless told): well below what the other end takes for silence. `Duration::MAX` is never.
    pub fn alive_every(mut self, every: Duration) -> Self {
        self.talk.alive_every(every);
        self
    }

    /// How long the other end may say nothing at all before it is given up (a minute unless told).
    /// (An idle limit of the reactor does not find it, for this end says that it is there.)
    /// `Duration::MAX` is for ever.
    pub fn silent_after(mut self, after: Duration) -> Self {
        self.talk.silent_after(after);
        self
    }

    /// Who is told what happens. It is called from inside the layer and must not block.
    pub fn on_event(mut self, listener: impl FnMut(Event<'_>) + Send + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// The stack to be put on a connection: [`Framing`](crate::Framing) and this.
    ///
    /// # Errors
    /// The pool does not suit ([`BuildError`]).
    pub fn stack(self, pool: &Pool) -> Result<Stack, BuildError> {
        stack(self.chunk_max, Box::new(self), pool)
    }

    fn tell(&mut self, event: Event<'_>) {
        if let Some(listener) = &mut self.listener {
            listener(event);
        }
    }

    /// Does what can be done now.
    fn go_on(&mut self, cx: &mut Context<'_>) {
        if self.phase == Phase::Over {
            return;
        }
        self.open_ahead();
        if self.phase == Phase::Hello {
            return;
        }
        self.read_ahead_of();
        while self.send_one(cx) {}
        self.read_ahead_of();
        if self.phase == Phase::Open && self.no_more && self.items.is_empty() {
            self.phase = Phase::Finishing;
            self.talk.say(Head::new(kind::FINISH, 0, ALL), &[], cx);
        }
    }

    /// Sends one message of the first file, if it can.
    fn send_one(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.talk.is_clear() {
            return false;
        }
        let Some(item) = self.items.front_mut() else { return false };
        match item.stage {
            Stage::Opening => false,
            Stage::Failed => {
                let gone = item.is_idle();
                if gone {
                    self.items.pop_front();
                    self.open_ahead();
                }
                gone
            }
            Stage::Folder | Stage::File if !item.started => {
                self.unconfirmed.len() < UNCONFIRMED && cx.credit() > 0 && self.send_start(cx)
            }
            Stage::Folder => unreachable!("a folder is gone once it was sent"),
            Stage::File if !item.ready.is_empty() => cx.credit() > 0 && self.send_piece(cx),
            Stage::File if item.is_whole() => self.send_end(cx),
            Stage::File => false,
        }
    }

    /// FILE or FOLDER.
    fn send_start(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(item) = self.items.front_mut() else { return false };
        let Some(name) = item.name.clone() else { return false };
        item.started = true;
        self.begun = item.no + 1;
        let (no, folder, attributes) = (item.no, item.stage == Stage::Folder, item.attributes);
        let (flags, file) = describe(&attributes, folder, self.preserve);
        let kind = if folder { kind::FOLDER } else { kind::FILE };
        let body = [file.as_bytes(), name.as_str().as_bytes()];
        self.talk.say(Head::new(kind, flags, no), &body, cx);
        if folder {
            self.items.pop_front();
            self.unconfirmed.push_back(Sent { no, name, file: None, kept: None });
            self.open_ahead();
        } else {
            self.tell(Event::Started { name: &name, length: attributes.length });
        }
        true
    }

    /// DATA.
    fn send_piece(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(item) = self.items.front_mut() else { return false };
        let Some(piece) = item.ready.front_mut() else { return false };
        let hole = piece.chain.is_none();
        let data = Data {
            offset: piece.offset.into(),
            len: (piece.len as u32).into(),
            reserved: 0.into(),
            hash: piece.hash.value,
        };
        let head = Head::new(kind::DATA, if hole { HOLE } else { 0 }, item.no);
        let Ok(mut message) = message(head, &[data.as_bytes()], cx) else {
            self.talk.wait(cx);
            return false;
        };
        if let Some(chain) = piece.chain.take() {
            self.held.chains -= 1;
            self.held.footprint -= piece.footprint;
            if let Err(rejected) = message.concat(chain) {
                // Pools that cannot be mixed, or a chain too long to be one: not for lack of memory.
                let outcome = cx.drop(rejected.value, DropReason::IO);
                cx.apply(outcome);
                let outcome = cx.drop(message, DropReason::IO);
                cx.apply(outcome);
                self.fail(0, &Trouble::new(Code::Io, rejected.error), cx);
                return true;
            }
            cx.merged(1);
        }
        let (len, weight, hash) = (piece.len, piece.weight, piece.hash);
        item.ready.pop_front();
        item.tree.push(&hash);
        item.sent += len as u64;
        self.ahead -= weight;
        cx.send_down(message);
        self.tell(Event::Moved { bytes: len as u64 });
        true
    }

    /// END.
    fn send_end(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(item) = self.items.pop_front() else { return false };
        let Some(name) = item.name else { return false };
        let root = item.tree.root();
        let end = End { length: item.sent.into(), root: root.into() };
        self.talk.say(Head::new(kind::END, 0, item.no), &[end.as_bytes()], cx);
        let file = Some((item.sent, root));
        self.unconfirmed.push_back(Sent { no: item.no, name, file, kept: None });
        self.open_ahead();
        true
    }

    /// The item at that place has failed, here or there.
    fn fail(&mut self, place: usize, trouble: &Trouble, cx: &mut Context<'_>) {
        let Some(item) = self.items.get_mut(place) else { return };
        let (no, started, name) = (item.no, item.started, item.name.take());
        item.stage = Stage::Failed;
        for piece in item.ready.drain(..) {
            self.ahead -= piece.weight;
            if let Some(chain) = piece.chain {
                self.held.chains -= 1;
                self.held.footprint -= piece.footprint;
                let outcome = cx.drop(chain, DropReason::DISCARDED);
                cx.apply(outcome);
            }
        }
        self.done.failed += 1;
        if started && !trouble.from_peer {
            self.talk.say_failed(no, trouble, cx);
        }
        if let Some(name) = name {
            self.tell(Event::Failed { name: name.as_str(), trouble });
        }
    }

    /// The transfer ends here.
    fn break_off(&mut self, trouble: &Trouble, cx: &mut Context<'_>) {
        if self.phase == Phase::Over {
            return;
        }
        self.phase = Phase::Over;
        for item in &mut self.items {
            item.stage = Stage::Failed;
            for piece in item.ready.drain(..).filter_map(|piece| piece.chain) {
                let outcome = cx.drop(piece, DropReason::DISCARDED);
                cx.apply(outcome);
            }
        }
        self.held = Held::default();
        if !trouble.from_peer {
            self.talk.say_failed(ALL, trouble, cx);
        }
        self.talk.close(cx);
        self.tell(Event::Broken(trouble));
    }

    fn sent(&mut self, no: FileNo) -> Option<&mut Sent> {
        let place = self.unconfirmed.binary_search_by_key(&no, |sent| sent.no).ok()?;
        self.unconfirmed.get_mut(place)
    }

    /// Where the transfer is, for whoever is told that it ended there.
    fn place(&self) -> String {
        let current = self.items.front().filter(|item| item.started);
        match current.and_then(|item| Some((item, item.name.as_ref()?))) {
            Some((item, name)) => match item.attributes.length {
                Some(length) => format!("after {} of {length} bytes of {name}", item.sent),
                None => format!("after {} bytes of {name}", item.sent),
            },
            None => {
                let (kept, waiting) = (self.done.files, self.unconfirmed.len());
                format!("after {kept} files, with {waiting} that it has not confirmed")
            }
        }
    }
}

impl Protocol for FileSender {
    fn name(&self) -> &str {
        "file sender"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).half_open()
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        self.talk.hear(cx);
        if self.phase == Phase::Over {
            return cx.drop(chain, DropReason::CLOSED);
        }
        match self.take(&mut chain, cx) {
            Ok(()) => cx.consumed(chain),
            Err(trouble) => {
                self.break_off(&trouble, cx);
                cx.drop(chain, DropReason::MALFORMED)
            }
        }
    }

    /// Nothing belongs above it, so what comes from there has nowhere to go.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }

    fn timeout(&mut self, timer: Timer, cx: &mut Context<'_>) {
        self.talk.timeout(timer, cx);
        if let Some(trouble) = self.talk.is_silent(cx) {
            self.break_off(&trouble, cx);
        }
        self.items.iter_mut().for_each(Item::ask_again);
        self.go_on(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Opened => {
                // Others must find buffers, too.
                self.read_ahead = self.read_ahead.min(cx.pool().stats().mapped / 8);
                self.store.attach(cx.waker());
                self.talk.open(self.chunk_max.ilog2() as u8, cx);
                self.go_on(cx);
            }
            Signal::Woken => {
                while let Some(answer) = self.store.answer() {
                    self.answered(answer, cx);
                }
                self.go_on(cx);
            }
            Signal::Writable => self.go_on(cx),
            Signal::EndOfStream => {
                let text = format_args!("the other end went away {}", self.place());
                self.break_off(&Trouble::new(Code::Other, text), cx);
            }
            Signal::Shutdown => {
                let text = format_args!("stopped {}", self.place());
                self.break_off(&Trouble::new(Code::Cancelled, text), cx);
            }
            _ => {}
        }
    }

    fn held(&self) -> Held {
        self.held
    }
}

impl fmt::Debug for FileSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSender")
            .field("store", &self.store)
            .field("phase", &self.phase)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

/// FILE or FOLDER, as the attributes say.
fn describe(attributes: &Attributes, folder: bool, preserve: bool) -> (u8, wire::File) {
    let mut flags = 0;
    if !folder && attributes.length.is_some() {
        flags |= HAS_LENGTH;
    }
    if preserve && (folder || attributes.modified.is_some()) {
        flags |= HAS_MODE;
    }
    let time = attributes.modified.filter(|_| preserve && !folder);
    if time.is_some() {
        flags |= HAS_TIME;
    }
    let (seconds, nanos) = time.map_or((0, 0), since_epoch);
    let file = wire::File {
        length: attributes.length.unwrap_or(0).into(),
        seconds: seconds.into(),
        nanos: nanos.into(),
        mode: (attributes.mode as u16 & 0o777).into(),
        reserved: 0.into(),
    };
    (flags, file)
}

/// A time as it is on the wire: the nanoseconds count forwards, before 1970, too.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => ((before.as_secs() as i64).wrapping_neg(), 0),
                nanos => (!(before.as_secs() as i64), 1_000_000_000 - nanos),
            }
        }
    }
}
