//! What the other end says.

use std::time::SystemTime;

use mbuf::{
    Chain,
    io::store::{Name, Request},
    stack::{Context, DropReason, Held, Outcome},
};

use super::{
    Current, FileReceiver, Phase,
    item::{Item, Stage, time},
};
use crate::file::{
    event::Event,
    talk::agree,
    tree::{ChunkHash, Hash, Tree},
    trouble::{Code, Trouble},
    wire::{self, ALL, Data, End, HAS_LENGTH, HAS_MODE, HAS_TIME, Message, RawName},
};

impl FileReceiver {
    /// A message. What is the whole transfer's trouble comes back with the chain.
    pub(super) fn take(
        &mut self,
        mut chain: Chain,
        cx: &mut Context<'_>,
    ) -> Result<Outcome, (Chain, Trouble)> {
        let (no, message) = match wire::parse(&mut chain) {
            Ok(parsed) => parsed,
            Err(trouble) => return Err((chain, trouble)),
        };
        let result = match (self.phase, message) {
            (Phase::Open, Message::Data { hole, data }) => {
                return self.data(no, hole, data, chain, cx);
            }
            (Phase::Hello, Message::Hello(hello)) => agree(self.chunk_max.ilog2() as u8, &hello)
                .map(|chunk| {
                    self.chunk = chunk;
                    self.phase = Phase::Open;
                }),
            (Phase::Open, Message::File { folder, flags, file, name }) => {
                self.begin(no, folder, flags, &file, &name, cx)
            }
            (Phase::Open, Message::End(end)) => self.end(no, &end, cx),
            (Phase::Open, Message::Fail(trouble)) if no != ALL => {
                self.sender_failed(no, trouble, cx)
            }
            (Phase::Open, Message::Finish) => self.finish(cx),
            (_, Message::Fail(trouble)) if no == ALL => Err(trouble),
            (_, Message::Alive) => Ok(()),
            (phase, message) => {
                let text = format_args!("{} out of turn ({phase:?})", message.name());
                Err(Trouble::new(Code::Malformed, text))
            }
        };
        match result {
            Ok(()) => Ok(cx.consumed(chain)),
            Err(trouble) => Err((chain, trouble)),
        }
    }

    /// FILE, FOLDER.
    fn begin(
        &mut self,
        no: u32,
        folder: bool,
        flags: u8,
        file: &wire::File,
        name: &RawName,
        cx: &mut Context<'_>,
    ) -> Result<(), Trouble> {
        if let Current::Receiving(before) = self.current {
            let text = format_args!("file {no} begins before file {before} has ended");
            return Err(Trouble::new(Code::Malformed, text));
        }
        if no < self.next || no == ALL {
            let text = format_args!("file {no} after file {}", self.next.wrapping_sub(1));
            return Err(Trouble::new(Code::Malformed, text));
        }
        self.next = no + 1;
        self.current = if folder { Current::None } else { Current::Ignoring(no) };
        let (name, length, modified) = match self.admit(folder, flags, file, name) {
            Ok(admitted) => admitted,
            // Too many names: those who send them are not to be told of each.
            Err(trouble) if trouble.code == Code::Limit => return Err(trouble),
            Err(trouble) => {
                self.refuse(no, &name.shown(), &trouble, cx);
                return Ok(());
            }
        };
        let mode = (flags & HAS_MODE != 0).then_some(u32::from(file.mode.get()) & 0o777);
        let request = if folder {
            Request::MakeFolder { name: name.clone(), mode }
        } else {
            self.current = Current::Receiving(no);
            self.tell(Event::Started { name: &name, length });
            Request::Create { name: name.clone(), length, overwrite: self.overwrite }
        };
        self.items.push_back(Item {
            no,
            name,
            folder,
            length,
            mode,
            modified,
            stage: if folder { Stage::Committing } else { Stage::Receiving },
            at: 0,
            short: false,
            tree: Tree::default(),
            root: None,
            asked: 0,
            in_store: 0,
        });
        self.ask(no, request);
        Ok(())
    }

    /// Whether a file or folder may come.
    fn admit(
        &mut self,
        folder: bool,
        flags: u8,
        file: &wire::File,
        name: &RawName,
    ) -> Result<(Name, Option<u64>, Option<SystemTime>), Trouble> {
        let name = name.parse().map_err(|bad| {
            let shown = name.shown();
            Trouble::new(Code::Name, format_args!("the name `{shown}` is refused: {bad}"))
        })?;
        self.names.add(&name, !folder)?;
        let length = (flags & HAS_LENGTH != 0).then_some(file.length.get());
        if let Some(length) = length
            && length > i64::MAX as u64
        {
            let text = format_args!("{name}: a length of {length} bytes, more than 2^63 - 1");
            return Err(Trouble::new(Code::Length, text));
        }
        let modified = if flags & HAS_TIME != 0 {
            let (seconds, nanos) = (file.seconds.get(), file.nanos.get());
            let time = time(seconds, nanos).ok_or_else(|| {
                let text = format_args!("{name}: no time: {seconds} s and {nanos} ns");
                Trouble::new(Code::Malformed, text)
            });
            Some(time?)
        } else {
            None
        };
        Ok((name, length, modified))
    }

    /// DATA.
    fn data(
        &mut self,
        no: u32,
        hole: bool,
        data: Data,
        mut chain: Chain,
        cx: &mut Context<'_>,
    ) -> Result<Outcome, (Chain, Trouble)> {
        match self.current {
            Current::Ignoring(current) if current == no => {
                return Ok(cx.drop(chain, DropReason::DISCARDED));
            }
            Current::Receiving(current) if current == no => {}
            _ => {
                let text = format_args!("DATA of file {no}, which is not being sent");
                return Err((chain, Trouble::new(Code::Malformed, text)));
            }
        }
        let chunk = self.chunk;
        let Some(item) = self.items.back_mut() else {
            unreachable!("a file that is being received is the last item")
        };
        let (offset, len) = (data.offset.get(), data.len.get() as usize);
        let hash = match item.check(offset, len, chunk).and_then(|()| {
            let hash = if hole {
                ChunkHash::of_zeroes(offset, len)
            } else {
                let bytes = chain.slices().map_err(|error| Trouble::new(Code::Io, error))?;
                ChunkHash::of(offset, bytes)
            };
            if hash.value == data.hash {
                return Ok(hash);
            }
            let text = format_args!("{}: the {len} bytes at {offset} have another hash", item.name);
            Err(Trouble::new(Code::Hash, text))
        }) {
            Ok(hash) => hash,
            Err(trouble) => {
                self.fail(no, &trouble, cx);
                return Ok(cx.drop(chain, DropReason::MALFORMED));
            }
        };
        item.tree.push(&hash);
        item.at += len as u64;
        item.short = len < chunk;
        let outcome = if hole {
            cx.consumed(chain)
        } else {
            // A small file that pins a large read would count as one. If there is nothing to copy
            // it to it does.
            _ = chain.compact_to_hold();
            let held = Held::of(&chain);
            item.in_store += held.footprint;
            self.in_store += held;
            self.ask(no, Request::Write { offset, chain });
            self.flow(cx);
            cx.held()
        };
        self.tell(Event::Moved { bytes: len as u64 });
        Ok(outcome)
    }

    /// END.
    fn end(&mut self, no: u32, end: &End, cx: &mut Context<'_>) -> Result<(), Trouble> {
        match self.current {
            Current::Ignoring(current) if current == no => {
                self.current = Current::None;
                return Ok(());
            }
            Current::Receiving(current) if current == no => self.current = Current::None,
            _ => {
                let text = format_args!("END of file {no}, which is not being sent");
                return Err(Trouble::new(Code::Malformed, text));
            }
        }
        let Some(item) = self.items.back_mut() else { return Ok(()) };
        let (length, at, name) = (end.length.get(), item.at, &item.name);
        let root = std::mem::take(&mut item.tree).root();
        let trouble = if length != at {
            let text = format_args!("{name}: {length} bytes at its end, and {at} have come");
            Some(Trouble::new(Code::Length, text))
        } else if let Some(declared) = item.length.filter(|&declared| declared != at) {
            let text = format_args!("{name}: {declared} bytes were declared, and {at} have come");
            Some(Trouble::new(Code::Length, text))
        } else if root != Hash::from(end.root) {
            let text = format_args!("{name}: the whole file has another hash");
            Some(Trouble::new(Code::Hash, text))
        } else {
            None
        };
        match trouble {
            Some(trouble) => self.fail(no, &trouble, cx),
            None => {
                item.root = Some(root);
                item.stage = Stage::Committing;
                let (mode, modified) = (item.mode, item.modified);
                self.ask(no, Request::Commit { length, mode, modified });
            }
        }
        Ok(())
    }

    /// FAIL of one file.
    fn sender_failed(
        &mut self,
        no: u32,
        trouble: Trouble,
        cx: &mut Context<'_>,
    ) -> Result<(), Trouble> {
        match self.current {
            Current::Receiving(current) if current == no => self.give_up(no, &trouble, cx),
            Current::Ignoring(current) if current == no => {}
            _ => {
                let text = format_args!("FAIL of file {no}, which is not being sent");
                return Err(Trouble::new(Code::Malformed, text));
            }
        }
        self.current = Current::None;
        Ok(())
    }

    /// FINISH.
    fn finish(&mut self, cx: &mut Context<'_>) -> Result<(), Trouble> {
        if let Current::Receiving(no) = self.current {
            let text = format_args!("FINISH before file {no} has ended");
            return Err(Trouble::new(Code::Malformed, text));
        }
        self.phase = Phase::Finishing;
        self.settle(cx);
        Ok(())
    }
}
