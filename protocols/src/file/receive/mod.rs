//! The receiving end.

mod item;
mod messages;

use std::{collections::VecDeque, fmt, time::Duration};

use mbuf::{
    BuildError, Chain, Pool,
    io::store::{Answer, Done, Request, Store},
    stack::{Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Stack, Timer},
};
use zerocopy::IntoBytes;

use super::{
    CHUNK, CHUNK_MAX, CHUNK_MIN,
    event::{Event, Listener, Summary},
    names::Names,
    stack,
    talk::Talk,
    tree::Listing,
    trouble::{Code, Trouble},
    wire::{ALL, Bye, Head, kind},
};
use item::{Item, Stage};

/// Storage, in bytes, that may be with the store before reading stops, unless told.
const IN_STORE: usize = 2 << 20;
/// Files and folders that may be unresolved before reading stops.
const UNRESOLVED: usize = 512;
/// Names that are taken in one transfer, unless told.
const NAMES: usize = 250_000;

/// Receives files and folders into a [`Store`]. The top of a stack; it belongs to one connection.
///
/// The [module](super) says what it does, and what a hostile peer gets.
pub struct FileReceiver {
    store: Box<dyn Store>,
    listener: Option<Listener>,
    overwrite: bool,
    mix_case: bool,
    /// The largest chunk that is taken, in bytes: a power of two.
    chunk_max: usize,
    in_store_max: usize,
    max_names: usize,

    phase: Phase,
    talk: Talk,
    /// What the ends have agreed on, in bytes.
    chunk: usize,
    names: Names,
    /// The least number that the next file may have.
    next: u32,
    current: Current,
    /// What is not resolved yet, in ascending order of numbers.
    /// Invariant: with `Current::Receiving` the last one is the one that is being received.
    items: VecDeque<Item>,
    /// Chains that are with the store.
    in_store: Held,
    paused: bool,
    listing: Listing,
    done: Summary,
}

/// How far the conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The other end has not said who it is.
    Hello,
    /// Files come.
    Open,
    /// The other end has sent everything.
    Finishing,
    /// It is over, well or not.
    Over,
}

/// What DATA and END may concern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Current {
    /// Nothing: a file must begin first.
    None,
    /// This file.
    Receiving(u32),
    /// This file, which has failed: what the other end sends until it hears so is thrown away.
    Ignoring(u32),
}

impl FileReceiver {
    /// A receiver that keeps what comes in `store`.
    pub fn new(store: Box<dyn Store>) -> Self {
        Self {
            store,
            listener: None,
            overwrite: false,
            mix_case: false,
            chunk_max: CHUNK,
            in_store_max: IN_STORE,
            max_names: NAMES,
            phase: Phase::Hello,
            talk: Talk::default(),
            chunk: CHUNK,
            names: Names::new(NAMES, false),
            next: 0,
            current: Current::None,
            items: VecDeque::new(),
            in_store: Held::default(),
            paused: false,
            listing: Listing::default(),
            done: Summary::nothing(),
        }
    }

    /// Files that are there may be replaced. Otherwise they are refused ([`Code::Exists`]).
    pub fn overwrite(mut self, yes: bool) -> Self {
        self.overwrite = yes;
        self
    }

    /// Names that differ in case only are let pass. Otherwise the second is refused
    /// ([`Code::Name`]), since on many systems it would replace the first.
    pub fn mix_case(mut self, yes: bool) -> Self {
        self.mix_case = yes;
        self.names = Names::new(self.max_names, yes);
        self
    }

    /// The most names of files, and of folders on the way to them, in one transfer (250,000 unless
    /// told): the other end is refused beyond ([`Code::Limit`]). Each costs some 35 bytes.
    pub fn max_names(mut self, n: usize) -> Self {
        self.max_names = n;
        self.names = Names::new(n, self.mix_case);
        self
    }

    /// The largest chunk that is taken, in bytes (256 KiB unless told), rounded up to a power of
    /// two from [`CHUNK_MIN`] to [`CHUNK_MAX`]: what an unfinished message may cost in memory.
    pub fn chunk(mut self, bytes: usize) -> Self {
        self.chunk_max = bytes.clamp(CHUNK_MIN, CHUNK_MAX).next_power_of_two();
        self
    }

    /// Storage that may be with the store, in bytes, before reading stops (2 MiB unless told).
    pub fn in_store(mut self, bytes: usize) -> Self {
        self.in_store_max = bytes;
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

    fn ask(&mut self, no: u32, request: Request) {
        if let Some(item) = self.item(no) {
            item.asked += 1;
        }
        self.store.ask(no, request);
    }

    /// In ascending order, so a search is O(log items).
    fn item(&mut self, no: u32) -> Option<&mut Item> {
        let place = self.items.binary_search_by_key(&no, |item| item.no).ok()?;
        self.items.get_mut(place)
    }

    /// A file has failed here.
    fn fail(&mut self, no: u32, trouble: &Trouble, cx: &mut Context<'_>) {
        self.talk.say_failed(no, trouble, cx);
        self.give_up(no, trouble, cx);
        if self.current == Current::Receiving(no) {
            self.current = Current::Ignoring(no);
        }
    }

    fn give_up(&mut self, no: u32, trouble: &Trouble, cx: &mut Context<'_>) {
        let Some(item) = self.item(no) else { return };
        item.stage = Stage::Failed;
        let (folder, name) = (item.folder, item.name.clone());
        self.done.failed += 1;
        if !folder {
            self.ask(no, Request::Discard);
        }
        self.tell(Event::Failed { name: name.as_str(), trouble });
        self.settle(cx);
    }

    /// A file or folder that is not let begin.
    fn refuse(&mut self, no: u32, name: &str, trouble: &Trouble, cx: &mut Context<'_>) {
        self.done.failed += 1;
        self.talk.say_failed(no, trouble, cx);
        self.tell(Event::Failed { name, trouble });
    }

    /// The store has answered.
    fn answered(&mut self, answer: Answer, cx: &mut Context<'_>) {
        let Answer { file: no, result } = answer;
        let Some(item) = self.item(no) else { return };
        item.asked -= 1;
        let stage = item.stage;
        match result {
            Ok(Done::Written(chain)) => self.back(no, chain, cx),
            Ok(Done::Committed | Done::FolderMade) if stage == Stage::Committing => {
                self.kept(no, cx);
            }
            Ok(_) => {}
            Err(failure) => {
                if let Some(chain) = failure.chain {
                    self.back(no, chain, cx);
                }
                // What follows the first failure fails, too.
                if !matches!(stage, Stage::Failed | Stage::Done) {
                    self.fail(no, &Trouble::of(&failure.error), cx);
                }
            }
        }
        self.settle(cx);
    }

    /// A chain has come back from the store.
    fn back(&mut self, no: u32, chain: Chain, cx: &mut Context<'_>) {
        let footprint = chain.footprint();
        self.in_store.chains -= 1;
        if let Some(item) = self.item(no) {
            // What is left of a chain pins less than all of it.
            let footprint = footprint.min(item.in_store);
            item.in_store -= footprint;
            self.in_store.footprint -= footprint;
        }
        let outcome = cx.consumed(chain);
        cx.apply(outcome);
    }

    /// A file or folder is there under its name.
    fn kept(&mut self, no: u32, cx: &mut Context<'_>) {
        let Some(item) = self.item(no) else { return };
        item.stage = Stage::Done;
        if item.folder {
            self.done.folders += 1;
        } else {
            let (name, length) = (item.name.clone(), item.at);
            let Some(root) = item.root else { unreachable!("what is committed has a root") };
            self.done.files += 1;
            self.done.bytes += length;
            self.tell(Event::Done { name: &name, length, root });
        }
        self.talk.say(Head::new(kind::DONE, 0, no), &[], cx);
    }

    /// Takes note of what is resolved, in order, and ends the transfer if that was all.
    fn settle(&mut self, cx: &mut Context<'_>) {
        while let Some(item) = self.items.pop_front_if(|item| item.is_resolved()) {
            self.in_store.footprint -= item.in_store;
            if item.stage == Stage::Done
                && let Some(root) = item.root
            {
                self.listing.add(root, item.name.as_str());
            }
        }
        self.flow(cx);
        if self.phase == Phase::Finishing && self.items.is_empty() {
            self.phase = Phase::Over;
            self.done.root = self.listing.root();
            let done = self.done;
            let bye = Bye {
                files: done.files.into(),
                folders: done.folders.into(),
                bytes: done.bytes.into(),
                root: done.root.into(),
            };
            self.talk.say(Head::new(kind::BYE, 0, ALL), &[bye.as_bytes()], cx);
            self.talk.close(cx);
            self.tell(Event::Finished(&done));
        }
    }

    /// Stops reading while there is much that the store has not done, and goes on when it has.
    fn flow(&mut self, cx: &mut Context<'_>) {
        let (storage, items) = (self.in_store.footprint, self.items.len());
        if !self.paused && (storage > self.in_store_max || items > UNRESOLVED) {
            self.paused = true;
            cx.pause();
        } else if self.paused && storage <= self.in_store_max / 2 && items <= UNRESOLVED / 2 {
            self.paused = false;
            self.talk.hear(cx);
            cx.resume();
        }
    }

    /// The transfer ends here.
    fn break_off(&mut self, trouble: &Trouble, cx: &mut Context<'_>) {
        if self.phase == Phase::Over {
            return;
        }
        self.phase = Phase::Over;
        self.current = Current::None;
        let begun = self.items.iter().filter(|item| item.stage == Stage::Receiving);
        let begun: Vec<u32> = begun.map(|item| item.no).collect();
        for no in begun {
            self.ask(no, Request::Discard);
            if let Some(item) = self.item(no) {
                item.stage = Stage::Failed;
            }
        }
        if !trouble.from_peer {
            self.talk.say_failed(ALL, trouble, cx);
        }
        self.talk.close(cx);
        self.tell(Event::Broken(trouble));
        self.settle(cx);
    }

    /// Where the transfer is, for whoever is told that it ended there.
    fn place(&self) -> String {
        match (self.items.back(), self.current) {
            (Some(item), Current::Receiving(_)) => match item.length {
                Some(length) => format!("after {} of {length} bytes of {}", item.at, item.name),
                None => format!("after {} bytes of {}", item.at, item.name),
            },
            _ => format!("after {} files", self.done.files),
        }
    }
}

impl Protocol for FileReceiver {
    fn name(&self) -> &str {
        "file receiver"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).half_open()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        self.talk.hear(cx);
        if self.phase == Phase::Over {
            return cx.drop(chain, DropReason::CLOSED);
        }
        match self.take(chain, cx) {
            Ok(outcome) => outcome,
            Err((chain, trouble)) => {
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
        // Whom nobody listens to cannot be heard.
        if !self.paused
            && let Some(trouble) = self.talk.is_silent(cx)
        {
            self.break_off(&trouble, cx);
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Opened => {
                // Reading must find buffers, too.
                self.in_store_max = self.in_store_max.min(cx.pool().stats().mapped / 4);
                self.store.attach(cx.waker());
                self.talk.open(self.chunk_max.ilog2() as u8, cx);
            }
            Signal::Woken => {
                while let Some(answer) = self.store.answer() {
                    self.answered(answer, cx);
                }
            }
            // After FINISH the other end has nothing more to say.
            Signal::EndOfStream if self.phase != Phase::Finishing => {
                let text = format_args!("the other end went away {}", self.place());
                self.break_off(&Trouble::new(Code::Other, text), cx);
            }
            // What is all there may still be kept.
            Signal::Shutdown if self.phase != Phase::Finishing => {
                let text = format_args!("stopped {}", self.place());
                self.break_off(&Trouble::new(Code::Cancelled, text), cx);
            }
            _ => {}
        }
    }

    fn held(&self) -> Held {
        self.in_store
    }
}

impl fmt::Debug for FileReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReceiver")
            .field("store", &self.store)
            .field("phase", &self.phase)
            .field("current", &self.current)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}
