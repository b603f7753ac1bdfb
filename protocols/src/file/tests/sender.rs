//! The sender against a hostile receiver.

use std::{collections::VecDeque, io::ErrorKind, time::Duration};

use mbuf::{
    Pool,
    io::store::{Answer, Done, Request, Store},
    stack::{Closing, Edge, Signal, Waker},
    testing::{Conformance, MemoryHandle, MemoryItem, MemoryStore},
};

use super::*;
use crate::{
    file::{
        CHUNK_MIN, FileSender,
        wire::{Bye, HOLE, Message, parse},
    },
    rig::Rig,
};

const CHUNK: usize = CHUNK_MIN;

struct Subject {
    rig: Rig,
    store: MemoryHandle,
    heard: Heard,
    pool: Pool,
}

impl Subject {
    fn new(items: impl IntoIterator<Item = MemoryItem>) -> Self {
        Self::with(items, |_| {})
    }

    fn with(
        items: impl IntoIterator<Item = MemoryItem>,
        prepare: impl FnOnce(&MemoryHandle),
    ) -> Self {
        let pool = mbuf::testing::pool();
        let heard = Heard::default();
        let store = MemoryStore::sending(&pool, items);
        let handle = store.handle();
        prepare(&handle);
        let sender = FileSender::new(Box::new(store)).chunk(CHUNK).on_event(heard.listener());
        let mut rig = Rig::new(&pool, Edge::Packets, vec![Box::new(sender)]);
        rig.run();
        Self { rig, store: handle, heard, pool }
    }

    /// What it says, but for HELLO.
    fn said(&mut self) -> Vec<(u32, Message)> {
        let said = self
            .rig
            .sent()
            .into_iter()
            .map(|bytes| parse(&mut self.pool.chain_from(&bytes).unwrap()).unwrap());
        said.filter(|(_, m)| !matches!(m, Message::Hello(_) | Message::Alive)).collect()
    }

    fn kinds(&mut self) -> Vec<(u32, &'static str)> {
        self.said().iter().map(|(no, message)| (*no, message.name())).collect()
    }

    #[track_caller]
    fn expect_broken(mut self, code: Code, words: &str) {
        let trouble = self.heard.broken();
        assert_eq!(trouble.code, code, "{trouble:?}");
        assert!(trouble.text.contains(words), "{trouble:?} should say `{words}`");
        assert_eq!(self.rig.closing(), Closing::Graceful);
        let told = self.said().iter().any(|(no, message)| {
            matches!(message, Message::Fail(trouble) if trouble.code == code && *no == ALL)
        });
        assert_eq!(told, !trouble.from_peer);
        self.rig.finish();
    }
}

fn three() -> [MemoryItem; 1] {
    [MemoryItem::file("name", b"abc")]
}

fn bye(files: u64, bytes: u64, root: Hash) -> Vec<u8> {
    let bye =
        Bye { files: files.into(), folders: 0.into(), bytes: bytes.into(), root: root.into() };
    raw(kind::BYE, 0, ALL, &[bye.as_bytes()])
}

#[test]
fn nothing_is_sent_to_somebody_who_has_not_said_hello() {
    let mut subject = Subject::new(three());
    assert!(subject.kinds().is_empty());
    subject.rig.feed(&hello(CHUNK));
    let kinds = subject.kinds();
    assert_eq!(kinds, [(0, "FILE"), (0, "DATA"), (0, "END"), (ALL, "FINISH")]);
    subject.rig.feed(&raw(kind::DONE, 0, 0, &[]));
    subject.rig.feed(&bye(1, 3, blake3::hash(b"abc")));
    assert_eq!(subject.heard.summary().root, blake3::hash(b"abc"));
    assert_eq!(subject.rig.closing(), Closing::Graceful);
    subject.rig.finish();
}

#[test]
fn the_smaller_chunk_is_taken() {
    let bytes = [7; 3000];
    let mut subject = Subject::new([MemoryItem::file("name", &bytes)]);
    subject.rig.feed(&hello(4096));
    let lens: Vec<_> = subject
        .said()
        .into_iter()
        .filter_map(|(_, message)| match message {
            Message::Data { data, .. } => Some(data.len.get()),
            _ => None,
        })
        .collect();
    assert_eq!(lens, [1024, 1024, 952]);
    subject.rig.end();
    subject.rig.sent();
    subject.rig.finish();
}

#[test]
fn an_item_that_cannot_be_opened_is_told_here_and_the_others_go() {
    let items = [
        MemoryItem::failed("missing", ErrorKind::NotFound),
        MemoryItem::file("name", b"abc"),
        MemoryItem::failed("secret", ErrorKind::PermissionDenied),
    ];
    let mut subject = Subject::new(items);
    subject.rig.feed(&hello(CHUNK));
    assert_eq!(subject.kinds(), [(1, "FILE"), (1, "DATA"), (1, "END"), (ALL, "FINISH")]);
    let failed = subject.heard.failed();
    let failed: Vec<_> = failed.iter().map(|(name, t)| (name.as_str(), t.code)).collect();
    assert_eq!(failed, [("missing", Code::Io), ("secret", Code::Permission)]);
    subject.rig.feed(&raw(kind::DONE, 0, 1, &[]));
    subject.rig.feed(&bye(1, 3, blake3::hash(b"abc")));
    let summary = subject.heard.summary();
    assert_eq!((summary.files, summary.failed), (1, 2));
    subject.rig.finish();
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_taken_back() {
    let mut subject =
        Subject::with([MemoryItem::file("log", b"abc"), MemoryItem::file("next", b"")], |store| {
            store.change("log")
        });
    subject.rig.feed(&hello(CHUNK));
    let kinds = subject.kinds();
    assert!(!kinds.contains(&(0, "END")), "{kinds:?}");
    assert!(kinds.contains(&(1, "END")), "{kinds:?}");
    let failed = subject.heard.failed();
    assert_eq!((failed[0].0.as_str(), failed[0].1.code), ("log", Code::Changed));
    subject.rig.end();
    subject.rig.sent();
    subject.rig.finish();
}

#[test]
fn a_receiver_that_refuses_a_file_is_sent_no_more_of_it() {
    let long = vec![1; 64 * CHUNK];
    let items = [MemoryItem::file("long", &long), MemoryItem::file("next", b"abc")];
    let mut subject = Subject::with(items, |store| store.delay(true));
    subject.store.release_all();
    subject.rig.feed(&hello(CHUNK));
    // Two chunks of it come from the disk.
    subject.store.release(2);
    subject.rig.run();
    let kinds = subject.kinds();
    assert_eq!(kinds, [(0, "FILE"), (0, "DATA"), (0, "DATA")]);
    subject.rig.feed(&fail(0, Code::NoSpace));
    subject.store.delay(false);
    while subject.store.kept() > 0 {
        subject.store.release_all();
        subject.rig.run();
    }
    assert_eq!(subject.kinds(), [(1, "FILE"), (1, "DATA"), (1, "END"), (ALL, "FINISH")]);
    let failed = subject.heard.failed();
    assert_eq!((failed[0].0.as_str(), failed[0].1.code), ("long", Code::NoSpace));
    assert!(failed[0].1.from_peer);
    subject.rig.feed(&raw(kind::DONE, 0, 1, &[]));
    subject.rig.feed(&bye(1, 3, blake3::hash(b"abc")));
    assert_eq!(subject.heard.summary().failed, 1);
    subject.rig.finish();
}

#[test]
fn a_receiver_that_lies_about_the_end_is_found_out() {
    let root = blake3::hash(b"abc");
    let done = || raw(kind::DONE, 0, 0, &[]);
    let cases = [
        (vec![bye(1, 3, root)], Code::Malformed, "has not confirmed name"),
        (vec![done(), bye(2, 3, root)], Code::Length, "has 2 files and 3 bytes, not 1 and 3"),
        (vec![done(), bye(1, 4, root)], Code::Length, "4 bytes"),
        (vec![done(), bye(1, 3, blake3::hash(b"abd"))], Code::Hash, "another hash"),
        (vec![done(), done()], Code::Malformed, "DONE of file 0"),
        (vec![raw(kind::DONE, 0, 7, &[])], Code::Malformed, "DONE of file 7"),
        (vec![fail(7, Code::Io)], Code::Malformed, "FAIL of file 7"),
        (vec![fail(ALL, Code::Limit)], Code::Limit, "because"),
        (vec![hello(CHUNK)], Code::Malformed, "HELLO out of turn"),
        (vec![file(0, 0, 0, b"name")], Code::Malformed, "FILE out of turn"),
    ];
    for (messages, code, words) in cases {
        let mut subject = Subject::new(three());
        subject.rig.feed(&hello(CHUNK));
        assert_eq!(subject.kinds().len(), 4);
        messages.iter().for_each(|message| subject.rig.feed(message));
        subject.expect_broken(code, words);
    }
}

#[test]
fn a_receiver_that_goes_away_or_a_shutdown_breaks_it_off() {
    let begun = || {
        let mut subject = Subject::with([MemoryItem::file("name", &[1; 3000])], |store| {
            store.delay(true);
        });
        subject.store.release_all();
        subject.rig.feed(&hello(CHUNK));
        subject.store.release(1);
        subject.rig.run();
        assert_eq!(subject.kinds().len(), 2);
        subject
    };
    let mut subject = begun();
    subject.rig.end();
    subject.expect_broken(Code::Other, "went away after 1024 of 3000 bytes of name");
    let mut subject = begun();
    subject.rig.stack.signal(Signal::Shutdown);
    subject.rig.run();
    subject.expect_broken(Code::Cancelled, "stopped after 1024 of 3000 bytes of name");
}

#[test]
fn holes_are_not_sent() {
    let mut bytes = vec![0; 3 * CHUNK];
    bytes[CHUNK] = 1;
    let mut subject =
        Subject::with([MemoryItem::file("sparse", &bytes)], |store| store.holes(true));
    subject.rig.feed(&hello(CHUNK));
    let sent = subject.rig.sent();
    let holes: Vec<_> = sent.iter().filter(|m| m[0] == kind::DATA).map(|m| m[1] == HOLE).collect();
    assert_eq!(holes, [true, false, true]);
    let end = sent.iter().find(|message| message[0] == kind::END).unwrap();
    assert_eq!(end[16..], blake3::hash(&bytes).as_bytes()[..]);
    subject.rig.end();
    subject.rig.sent();
    subject.rig.finish();
}

#[test]
fn a_pool_that_is_empty_now_and_then_delays_and_loses_nothing() {
    let bytes = mbuf::testing::Rng::new(3).bytes(40 * CHUNK + 5);
    let mut subject =
        Subject::new([MemoryItem::file("file", &bytes), MemoryItem::stream("stream", &bytes)]);
    // Everything is taken, then given back, again and again.
    let mut sent = Vec::new();
    subject.rig.feed(&hello(CHUNK));
    for round in 0..200 {
        let mut taken = Vec::new();
        while let Ok(chain) = subject.pool.chain_zeroed(1024) {
            taken.push(chain);
        }
        taken.truncate(taken.len().saturating_sub(round % 3));
        subject.rig.run();
        sent.extend(subject.rig.sent());
        drop(taken);
        let next = subject.rig.stack.now() + Duration::from_millis(6);
        subject.rig.stack.advance(next);
        subject.rig.run();
        sent.extend(subject.rig.sent());
    }
    let mut contents = [Vec::new(), Vec::new()];
    for message in &sent {
        let mut chain = subject.pool.chain_from(message).unwrap();
        if let (no, Message::Data { data, .. }) = parse(&mut chain).unwrap() {
            let content = &mut contents[no as usize];
            assert_eq!(data.offset.get(), content.len() as u64);
            content.extend(chain.to_vec().unwrap());
        }
    }
    assert_eq!(contents.each_ref().map(Vec::len), [bytes.len(); 2], "{:?}", subject.heard.notes());
    assert!(contents[0] == bytes && contents[1] == bytes);
    subject.rig.end();
    subject.rig.sent();
    subject.rig.finish();
}

#[test]
fn a_receiver_that_falls_silent_is_given_up() {
    let mut subject = Subject::new(three());
    subject.rig.feed(&hello(CHUNK));
    assert_eq!(subject.kinds().len(), 4);
    subject.rig.settle(Duration::from_secs(65));
    assert_eq!(subject.heard.broken().text, "the other end has said nothing for 60 s");
    subject.rig.finish();
}

/// A store that has no buffers for the first reads of the first file.
#[derive(Debug)]
struct Starved {
    inner: MemoryStore,
    left: usize,
    answers: VecDeque<Answer>,
    waker: Option<Waker>,
}

impl Store for Starved {
    fn attach(&mut self, waker: Waker) {
        self.waker = Some(waker.clone());
        self.inner.attach(waker);
    }

    fn ask(&mut self, file: u32, request: Request) {
        if file > 0 || self.left == 0 || !matches!(request, Request::Read { .. }) {
            return self.inner.ask(file, request);
        }
        self.left -= 1;
        self.answers.push_back(Answer { file, result: Ok(Done::NoBuffers) });
        self.waker.as_ref().unwrap().wake();
    }

    fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front().or_else(|| self.inner.answer())
    }
}

/// What later files have taken of what may be read ahead must not keep the first from its turn,
/// for which they wait.
#[test]
fn the_first_file_is_read_whatever_the_others_have_taken() {
    let pool = mbuf::testing::pool();
    let items = [MemoryItem::file("first", &[1; 4096]), MemoryItem::file("second", &[2; 65_536])];
    let inner = MemoryStore::sending(&pool, items);
    let store = Starved { inner, left: 4, answers: VecDeque::new(), waker: None };
    let sender = FileSender::new(Box::new(store)).chunk(CHUNK).read_ahead(16 << 10);
    let mut rig = Rig::new(&pool, Edge::Packets, vec![Box::new(sender)]);
    rig.run();
    rig.feed(&hello(CHUNK));
    let sent = rig.settle(Duration::from_secs(1)).len();
    assert!(sent > 4096 + 65_536, "{sent} bytes were sent");
    rig.end();
    rig.sent();
    rig.finish();
}

#[test]
fn it_keeps_the_contract_of_protocols() {
    let wire: Vec<Vec<u8>> =
        vec![hello(CHUNK), raw(kind::DONE, 0, 0, &[]), bye(1, 3, blake3::hash(b"abc"))];
    let pool = mbuf::testing::pool();
    let sender = || -> Box<dyn mbuf::stack::Protocol> {
        let sender = FileSender::new(Box::new(MemoryStore::sending(&pool, three())));
        Box::new(sender.alive_every(Duration::MAX))
    };
    let report = Conformance::new("file sender", sender).top().wire(wire).run();
    assert!(report.cases() > 1000, "{report:?}");
}
