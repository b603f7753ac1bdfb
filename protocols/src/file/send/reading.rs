//! What the store is asked for, and what it brings.

use mbuf::{
    Chain,
    io::store::{Answer, Done, Failure, Looked, Request},
    stack::{Context, DropReason, Held},
};

use super::{
    FileSender, OPEN_AHEAD, SMALL_READ,
    item::{Item, Piece, Stage},
};
use crate::file::{
    event::Event,
    tree::{self, ChunkHash},
    trouble::{Code, Trouble},
    wire::ALL,
};

impl FileSender {
    /// Has the next files opened.
    pub(super) fn open_ahead(&mut self) {
        while !self.no_more && self.items.len() < OPEN_AHEAD && self.next < ALL {
            self.items.push_back(Item::asked(self.next));
            self.store.ask(self.next, Request::Next);
            self.next += 1;
        }
        // Nothing can be numbered any more: the rest is not sent, and bye() will not agree.
        self.no_more |= self.next == ALL;
    }

    /// Has the next bytes read, of what is open.
    pub(super) fn read_ahead_of(&mut self) {
        let (budget, chunk) = (self.read_ahead, self.chunk);
        for (place, item) in self.items.iter_mut().enumerate() {
            // The first may always have one read, since nothing behind it can be sent before it.
            let due = place == 0 && item.reads.is_empty() && item.ready.is_empty();
            while (self.ahead < budget || due && item.reads.is_empty())
                && let Some(len) = item.wants(chunk)
            {
                let weight = len.max(SMALL_READ);
                item.reads.push_back(weight);
                self.ahead += weight;
                let read = Request::Read { offset: item.asked, len, look: Some(tree::look) };
                item.asked += len as u64;
                self.store.ask(item.no, read);
            }
            if item.wants_close() {
                item.closing = true;
                self.store.ask(item.no, Request::Close);
            }
        }
    }

    /// The store has answered.
    pub(super) fn answered(&mut self, Answer { file: no, result }: Answer, cx: &mut Context<'_>) {
        let Ok(place) = self.items.binary_search_by_key(&no, |item| item.no) else { return };
        let item = &mut self.items[place];
        if item.stage == Stage::Opening {
            return self.opened(place, result, cx);
        }
        if item.closing && item.reads.is_empty() {
            item.closed = true;
            if let (Err(failure), Stage::File) = (result, item.stage) {
                self.fail(place, &Trouble::of(&failure.error), cx);
            }
            return;
        }
        let weight = item.reads.pop_front().unwrap_or(0);
        self.ahead -= weight;
        if let Some(trouble) = self.read(place, weight, result, cx) {
            self.fail(place, &trouble, cx);
        }
        let item = &self.items[place];
        if item.again && item.reads.is_empty() {
            self.talk.wait(cx);
        }
    }

    /// An answer to [`Request::Next`].
    fn opened(&mut self, place: usize, result: Result<Done, Failure>, cx: &mut Context<'_>) {
        let item = &mut self.items[place];
        match result {
            Ok(Done::Opened { name: Some(name), attributes }) => {
                (item.stage, item.name, item.attributes) = (Stage::File, Some(name), attributes);
            }
            Ok(Done::Folder { name, attributes }) => {
                (item.stage, item.name, item.attributes) = (Stage::Folder, Some(name), attributes);
                item.closed = true;
            }
            Ok(Done::NoMore) => {
                self.items.remove(place);
                self.no_more = true;
            }
            Ok(other) => {
                item.closed = true;
                let text = format_args!("the store answered {other:?} to `next`");
                self.fail(place, &Trouble::new(Code::Io, text), cx);
            }
            Err(failure) => {
                item.closed = true;
                let trouble = Trouble::of(&failure.error);
                self.fail(place, &trouble, cx);
                let name = failure.item.as_deref().unwrap_or("?");
                self.tell(Event::Failed { name, trouble: &trouble });
            }
        }
    }

    /// An answer to [`Request::Read`], and what is wrong with it.
    fn read(
        &mut self,
        place: usize,
        weight: usize,
        result: Result<Done, Failure>,
        cx: &mut Context<'_>,
    ) -> Option<Trouble> {
        let item = &mut self.items[place];
        let (offset, len, chain, looked) = match result {
            Ok(Done::Read { offset, chain, looked }) => {
                cx.made(1);
                (offset, chain.len(), Some(chain), looked)
            }
            Ok(Done::Hole { offset, len }) => (offset, len, None, None),
            _ if item.stage != Stage::File => return None,
            Ok(Done::End { offset }) => {
                item.ended = true;
                let declared = item.attributes.length?;
                let name = item.name.as_ref()?;
                let text = format_args!("{name} was cut short: {offset} bytes of {declared}");
                return Some(Trouble::new(Code::Changed, text));
            }
            // Whatever comes of later reads, it is to be asked for once more.
            Ok(Done::NoBuffers) => {
                item.again = true;
                return None;
            }
            Ok(other) => {
                let text = format_args!("the store answered {other:?} to a read");
                return Some(Trouble::new(Code::Io, text));
            }
            Err(failure) => return Some(Trouble::of(&failure.error)),
        };
        let wanted = item.stage == Stage::File && offset == item.arrived && len > 0;
        let (true, Some(hash)) = (wanted, hash_of(offset, len, chain.as_ref(), looked)) else {
            if let Some(chain) = chain {
                let outcome = cx.drop(chain, DropReason::DISCARDED);
                cx.apply(outcome);
            }
            return None;
        };
        let footprint = chain.as_ref().map_or(0, Chain::footprint);
        self.held += Held { chains: usize::from(chain.is_some()), footprint };
        self.ahead += weight;
        item.arrived += len as u64;
        item.ready.push_back(Piece { offset, len, weight, footprint, hash, chain });
        None
    }
}

/// The hash of what was read, or of the hole that is there.
fn hash_of(
    offset: u64,
    len: usize,
    chain: Option<&Chain>,
    looked: Option<Looked>,
) -> Option<ChunkHash> {
    match (chain, looked) {
        (None, _) => Some(ChunkHash::of_zeroes(offset, len)),
        (Some(_), Some(looked)) => Some(looked.into()),
        (Some(chain), None) => Some(ChunkHash::of(offset, chain.slices().ok()?)),
    }
}
