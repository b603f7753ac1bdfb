//! The receiver against a hostile sender.

use std::time::Duration;

use mbuf::{
    Pool,
    stack::{Closing, Edge},
    testing::{Conformance, MemoryHandle, MemoryStore},
};

use super::*;
use crate::{
    file::{
        CHUNK_MIN, FileReceiver,
        wire::{HAS_LENGTH, HAS_TIME, HOLE, Message, parse},
    },
    rig::Rig,
};

const CHUNK: usize = CHUNK_MIN;

/// A receiver, without framing, and all that can be seen of it.
struct Subject {
    rig: Rig,
    store: MemoryHandle,
    heard: Heard,
    pool: Pool,
}

impl Subject {
    fn new() -> Self {
        Self::with(MemoryStore::new(), |receiver| receiver)
    }

    fn with(store: MemoryStore, change: impl FnOnce(FileReceiver) -> FileReceiver) -> Self {
        let pool = mbuf::testing::pool();
        let heard = Heard::default();
        let handle = store.handle();
        let receiver = FileReceiver::new(Box::new(store)).on_event(heard.listener());
        let receiver = change(receiver.chunk(CHUNK));
        let mut rig = Rig::new(&pool, Edge::Packets, vec![Box::new(receiver)]);
        rig.feed(&hello(CHUNK));
        Self { rig, store: handle, heard, pool }
    }

    fn feed(mut self, messages: &[Vec<u8>]) -> Self {
        messages.iter().for_each(|message| self.rig.feed(message));
        self
    }

    /// What it said, but for HELLO and ALIVE.
    fn said(&mut self) -> Vec<(u32, Message)> {
        let said = self
            .rig
            .sent()
            .into_iter()
            .map(|bytes| parse(&mut self.pool.chain_from(&bytes).unwrap()).unwrap());
        said.filter(|(_, m)| !matches!(m, Message::Hello(_) | Message::Alive)).collect()
    }

    /// The file has failed for this reason, both ends were told, and nothing of it is there; the
    /// transfer goes on, and ends well.
    #[track_caller]
    fn expect_failed_file(mut self, code: Code, words: &str) {
        let failed = self.heard.failed();
        assert_eq!(failed.len(), 1, "{:?}", self.heard.notes());
        assert_eq!(failed[0].1.code, code, "{failed:?}");
        assert!(failed[0].1.text.contains(words), "{failed:?} should say `{words}`");
        let said = self.said();
        let told = said.iter().any(|(no, message)| {
            matches!(message, Message::Fail(trouble) if trouble.code == code && *no != ALL)
        });
        assert!(told, "{said:?}");
        let next = 1000;
        self.rig.feed(&file(HAS_LENGTH, next, 0, b"another"));
        self.rig.feed(&end(next, 0, blake3::hash(b"")));
        self.rig.feed(&raw(kind::FINISH, 0, ALL, &[]));
        assert_eq!(self.heard.summary().files, 1);
        assert_eq!(self.store.files().keys().collect::<Vec<_>>(), ["another"]);
        assert!(self.store.parts().is_empty(), "{:?}", self.store.parts());
        assert_eq!(self.rig.closing(), Closing::Graceful);
        self.said();
        self.rig.finish();
    }

    /// The transfer has ended for this reason, and nothing is there.
    #[track_caller]
    fn expect_broken(mut self, code: Code, words: &str) {
        let trouble = self.heard.broken();
        assert_eq!(trouble.code, code, "{trouble:?}");
        assert!(trouble.text.contains(words), "{trouble:?} should say `{words}`");
        if !trouble.from_peer {
            let said = self.said();
            let told = |(no, message): &(u32, Message)| matches!(message, Message::Fail(trouble) if trouble.code == code && *no == ALL);
            assert!(said.iter().any(told), "{said:?}");
        }
        assert!(self.store.files().is_empty() && self.store.parts().is_empty());
        assert_eq!(self.rig.closing(), Closing::Graceful);
        self.said();
        self.rig.finish();
    }
}

fn one_file(name: &[u8]) -> [Vec<u8>; 3] {
    [file(HAS_LENGTH, 0, 3, name), data(0, 0, b"abc"), end(0, 3, blake3::hash(b"abc"))]
}

#[test]
fn a_file_is_kept_and_its_mode_has_no_special_bits() {
    let flags = HAS_LENGTH | crate::file::wire::HAS_MODE | HAS_TIME;
    let mut messages = one_file(b"folder/name");
    messages[0] = file(flags, 0, 3, b"folder/name");
    let mut subject = Subject::new().feed(&messages).feed(&[raw(kind::FINISH, 0, ALL, &[])]);
    assert_eq!(subject.store.files()["folder/name"], b"abc");
    assert_eq!(subject.store.attributes("folder/name").unwrap().mode, 0o755);
    let summary = subject.heard.summary();
    assert_eq!((summary.files, summary.bytes, summary.root), (1, 3, blake3::hash(b"abc")));
    let said = subject.said();
    assert!(matches!(said[..], [(0, Message::Done), (ALL, Message::Bye(_))]), "{said:?}");
    subject.rig.finish();
}

#[test]
fn names_that_escape_are_refused() {
    let long = "x".repeat(251);
    let deep = vec!["d"; 65].join("/");
    let names: [(&[u8], &str); 14] = [
        (b"/etc/passwd", "absolute"),
        (b"../up", "`..`"),
        (b"a/../../up", "`..`"),
        (b"a/..", "`..`"),
        (b"./here", "`.`"),
        (b"a//b", "empty"),
        (b"a/", "empty"),
        (b"", "empty"),
        (b"nul\0byte", "control"),
        (b"line\nfeed", "control"),
        (b"..\\up", "backslash"),
        (b"\xff\xfe", "UTF-8"),
        (long.as_bytes(), "251 bytes"),
        (deep.as_bytes(), "65 components"),
    ];
    for (name, words) in names {
        Subject::new().feed(&one_file(name)).expect_failed_file(Code::Name, words);
    }
    // Longer than any name, and cut before it is shown.
    let name = vec![b'n'; 5000];
    Subject::new().feed(&one_file(&name)).expect_failed_file(Code::Name, "5000 bytes");
}

#[test]
fn names_that_collide_are_refused() {
    let second = |name: &[u8]| [file(HAS_LENGTH, 1, 0, name), end(1, 0, blake3::hash(b""))];
    for (name, words) in [(&b"NAME"[..], "case"), (b"name", "before"), (b"name/below", "before")] {
        let mut subject = Subject::new().feed(&one_file(b"name")).feed(&second(name));
        let failed = subject.heard.failed();
        assert_eq!((failed.len(), failed[0].1.code), (1, Code::Name), "{failed:?}");
        assert!(failed[0].1.text.contains(words), "{failed:?}");
        assert_eq!(subject.store.files().len(), 1);
        subject.said();
        subject.rig.finish();
    }
    let mut subject = Subject::with(MemoryStore::new(), |receiver| receiver.mix_case(true))
        .feed(&one_file(b"name"))
        .feed(&second(b"NAME"));
    assert_eq!(subject.store.files().len(), 2);
    subject.said();
    subject.rig.finish();
}

#[test]
fn what_is_there_is_not_replaced_unless_told() {
    for (overwrite, kept) in [(false, &b"old"[..]), (true, b"abc")] {
        let store = MemoryStore::new();
        store.handle().put("name", b"old");
        let mut subject =
            Subject::with(store, |receiver| receiver.overwrite(overwrite)).feed(&one_file(b"name"));
        assert_eq!(subject.store.files()["name"], kept);
        let codes: Vec<_> = subject.heard.failed().iter().map(|(_, t)| t.code).collect();
        assert_eq!(codes, if overwrite { vec![] } else { vec![Code::Exists] });
        subject.said();
        subject.rig.finish();
    }
}

#[test]
fn wrong_hashes_are_found() {
    let wrong = data_of(0, 0, 3, [7; 32], 0, b"abc");
    Subject::new()
        .feed(&[file(HAS_LENGTH, 0, 3, b"name"), wrong])
        .expect_failed_file(Code::Hash, "name: the 3 bytes at 0 have another hash");
    let mut messages = one_file(b"name");
    messages[2] = end(0, 3, blake3::hash(b"abd"));
    Subject::new()
        .feed(&messages)
        .expect_failed_file(Code::Hash, "name: the whole file has another hash");
    let hole = data_of(0, 0, CHUNK, [7; 32], HOLE, b"");
    Subject::new()
        .feed(&[file(0, 0, 0, b"name"), hole])
        .expect_failed_file(Code::Hash, "another hash");
}

#[test]
fn offsets_that_lie_are_found() {
    let chunk = vec![1; CHUNK];
    let start = |length: u64| [file(HAS_LENGTH, 0, length, b"name"), data(0, 0, &chunk)];
    let two = 2 * CHUNK as u64;
    let cases = [
        (two, data(0, 0, &chunk), "overlap the 1024 that have come"),
        (2 * two, data(0, two, &chunk), "leave a gap after 1024"),
        (1030, data(0, CHUNK as u64, &chunk), "end beyond the 1030 that were declared"),
        (two, data(0, u64::MAX - 1023, &chunk), "beyond 2^63 - 1"),
        (two, data(0, i64::MAX as u64 - 5, &chunk), "beyond 2^63 - 1"),
    ];
    for (length, message, words) in cases {
        Subject::new()
            .feed(&start(length))
            .feed(&[message])
            .expect_failed_file(Code::Offset, words);
    }
    Subject::new()
        .feed(&[file(0, 0, 0, b"name"), data(0, 0, b"abc"), data(0, 3, b"def")])
        .expect_failed_file(Code::Offset, "cut short");
    Subject::new()
        .feed(&[file(0, 0, 0, b"name"), data(0, 0, &vec![1; CHUNK + 1])])
        .expect_failed_file(Code::Limit, "a chunk of 1025 bytes, more than 1024");
}

#[test]
fn lengths_that_lie_are_found() {
    let mut messages = one_file(b"name");
    messages[0] = file(HAS_LENGTH, 0, 1 << 63, b"name");
    Subject::new()
        .feed(&messages)
        .expect_failed_file(Code::Length, "9223372036854775808 bytes, more than 2^63 - 1");
    messages[0] = file(HAS_LENGTH, 0, 4, b"name");
    Subject::new()
        .feed(&messages)
        .expect_failed_file(Code::Length, "4 bytes were declared, and 3 have come");
    messages = one_file(b"name");
    messages[2] = end(0, 4, blake3::hash(b"abc"));
    Subject::new()
        .feed(&messages)
        .expect_failed_file(Code::Length, "4 bytes at its end, and 3 have come");
}

#[test]
fn a_time_that_is_none_is_refused() {
    let mut message = file(HAS_TIME, 0, 0, b"name");
    message[24..28].copy_from_slice(&1_000_000_000u32.to_be_bytes());
    Subject::new()
        .feed(&[message, end(0, 0, blake3::hash(b""))])
        .expect_failed_file(Code::Malformed, "no time");
}

#[test]
fn a_manifest_of_too_many_names_ends_the_transfer() {
    let many: Vec<_> = (0..101)
        .flat_map(|n: u32| {
            let name = format!("name {n}");
            [file(0, n, 0, name.as_bytes()), end(n, 0, blake3::hash(b""))]
        })
        .collect();
    let mut subject = Subject::with(MemoryStore::new(), |receiver| receiver.max_names(100));
    subject = subject.feed(&many);
    let trouble = subject.heard.broken();
    assert_eq!(trouble.code, Code::Limit);
    assert!(trouble.text.contains("more than 100 names"), "{trouble}");
    assert_eq!(subject.store.files().len(), 100, "those before it are whole");
    subject.said();
    subject.rig.finish();
}

#[test]
fn messages_out_of_turn_end_the_transfer() {
    let begin = || file(0, 5, 0, b"name");
    let cases = [
        (vec![data(0, 0, b"abc")], "DATA of file 0, which is not being sent"),
        (vec![begin(), data(6, 0, b"abc")], "DATA of file 6"),
        (vec![end(0, 0, blake3::hash(b""))], "END of file 0"),
        (vec![begin(), file(0, 6, 0, b"next")], "file 6 begins before file 5 has ended"),
        (
            vec![begin(), end(5, 0, blake3::hash(b"x")), file(0, 5, 0, b"next")],
            "file 5 after file 5",
        ),
        (vec![file(0, ALL, 0, b"name")], "after file"),
        (vec![begin(), raw(kind::FINISH, 0, ALL, &[])], "FINISH before file 5 has ended"),
        (vec![raw(kind::DONE, 0, 0, &[])], "DONE out of turn"),
        (vec![hello(CHUNK)], "HELLO out of turn"),
        (vec![fail(3, Code::Io)], "FAIL of file 3"),
        (vec![vec![]], "0 bytes where 8 are needed"),
        (vec![raw(77, 0, 0, &[])], "no message of kind 77"),
        (vec![raw(kind::FINISH, 0, 3, &[])], "FINISH of file 3"),
    ];
    for (messages, words) in cases {
        Subject::new().feed(&messages).expect_broken(Code::Malformed, words);
    }
    // Before HELLO nothing else is listened to.
    let pool = mbuf::testing::pool();
    for (first, code) in [
        (begin(), Code::Malformed),
        (raw(kind::HELLO, 0, ALL, &[b"GET / HTTP/1.1\r\n"]), Code::Malformed),
        (raw(kind::HELLO, 0, ALL, &[b"mbuffile\0\x02\x12\0\0\0\0\0"]), Code::Version),
        (raw(kind::HELLO, 0, ALL, &[b"mbuffile\0\x01\x3f\0\0\0\0\0"]), Code::Malformed),
    ] {
        let heard = Heard::default();
        let receiver = FileReceiver::new(Box::new(MemoryStore::new())).on_event(heard.listener());
        let mut rig = Rig::new(&pool, Edge::Packets, vec![Box::new(receiver)]);
        rig.feed(&first);
        assert_eq!(heard.broken().code, code);
        rig.sent();
        rig.finish();
    }
}

#[test]
fn a_sender_that_gives_up_a_file_or_everything_is_heard() {
    let begun = || [file(HAS_LENGTH, 0, 5, b"name"), data(0, 0, b"abc")];
    let mut subject = Subject::new().feed(&begun()).feed(&[fail(0, Code::Changed)]);
    let failed = subject.heard.failed();
    assert_eq!(failed[0].1.code, Code::Changed);
    assert!(failed[0].1.from_peer);
    subject.rig.feed(&file(0, 1, 0, b"next"));
    subject.rig.feed(&end(1, 0, blake3::hash(b"")));
    assert_eq!(subject.store.files().keys().collect::<Vec<_>>(), ["next"]);
    assert!(subject.store.parts().is_empty());
    subject.said();
    subject.rig.finish();

    Subject::new()
        .feed(&begun())
        .feed(&[fail(ALL, Code::Cancelled)])
        .expect_broken(Code::Cancelled, "because");
}

#[test]
fn a_peer_that_goes_away_in_the_middle_leaves_nothing() {
    let mut subject = Subject::new().feed(&[file(HAS_LENGTH, 0, 5, b"name"), data(0, 0, b"abc")]);
    subject.rig.end();
    subject.expect_broken(Code::Other, "the other end went away after 3 of 5 bytes of name");

    let mut subject = Subject::new().feed(&one_file(b"name"));
    subject.rig.end();
    assert_eq!(subject.heard.broken().text, "the other end went away after 1 files");
    assert_eq!(subject.store.files().len(), 1, "what is whole stays");
    subject.said();
    subject.rig.finish();
}

#[test]
fn a_shutdown_in_the_middle_leaves_nothing_and_says_so() {
    let mut subject = Subject::new().feed(&[file(0, 0, 0, b"name"), data(0, 0, b"abc")]);
    subject.rig.stack.signal(mbuf::stack::Signal::Shutdown);
    subject.rig.run();
    subject.expect_broken(Code::Cancelled, "stopped after 3 bytes of name");
}

#[test]
fn a_full_disk_fails_the_file_by_name() {
    let store = MemoryStore::new();
    store.handle().limit(2);
    Subject::with(store, |receiver| receiver)
        .feed(&one_file(b"name"))
        .expect_failed_file(Code::NoSpace, "name");
}

#[test]
fn each_request_may_fail_and_nothing_is_left_behind() {
    for n in 0..4 {
        let store = MemoryStore::new();
        let test = store.handle();
        test.fail_at(n, std::io::ErrorKind::Other);
        let mut subject = Subject::with(store, |receiver| receiver)
            .feed(&one_file(b"name"))
            .feed(&[raw(kind::FINISH, 0, ALL, &[])]);
        let summary = subject.heard.summary();
        if n < 3 {
            assert_eq!((summary.files, summary.failed), (0, 1), "request {n}");
            assert_eq!(subject.heard.failed()[0].1.code, Code::Io);
            assert!(test.files().is_empty() && test.parts().is_empty(), "request {n}");
        } else {
            assert_eq!((summary.files, summary.failed), (1, 0));
        }
        subject.said();
        subject.rig.finish();
    }
}

#[test]
fn a_slow_store_stops_the_reading_and_holds_a_bounded_number_of_bytes() {
    let store = MemoryStore::new();
    store.handle().delay(true);
    let bound = 16 << 10;
    let mut subject = Subject::with(store, |receiver| receiver.in_store(bound));
    subject.rig.feed(&file(0, 0, 0, b"name"));
    let chunk = vec![1; CHUNK];
    let mut sent = 0;
    while subject.rig.stack.wants_input(crate::rig::PORT) {
        subject.rig.feed(&data(0, sent * CHUNK as u64, &chunk));
        sent += 1;
        assert!(sent < 100, "nothing stops it");
    }
    let held = subject.rig.stack.held();
    assert!(held.footprint <= bound + 4096 && held.footprint > bound / 2, "{held:?}");
    subject.store.delay(false);
    subject.store.release_all();
    subject.rig.run();
    assert!(subject.rig.stack.wants_input(crate::rig::PORT));
    subject.said();
    assert_eq!(subject.rig.stack.held().chains, 0);
    subject.rig.end();
    subject.said();
    subject.rig.finish();
}

#[test]
fn an_end_with_nothing_to_say_says_so() {
    let mut subject = Subject::new();
    subject.rig.sent();
    let said = subject.rig.settle(Duration::from_secs(11));
    assert_eq!(said.len(), 2 * 8, "{said:?}");
    assert_eq!(said[0], kind::ALIVE);
    subject.rig.end();
    subject.rig.sent();
    subject.rig.finish();
}

#[test]
fn an_end_that_says_nothing_is_given_up_unless_it_cannot_be_heard() {
    let mut subject = Subject::new().feed(&[file(0, 0, 0, b"name")]);
    subject.rig.settle(Duration::from_secs(50));
    subject.rig.feed(&raw(kind::ALIVE, 0, ALL, &[]));
    subject.rig.settle(Duration::from_secs(50));
    assert!(matches!(subject.heard.notes()[..], [Note::Started(..)]));
    let pool = subject.pool.clone();
    let said = subject.rig.settle(Duration::from_secs(20));
    let failed = said.len() > 8 + 8 && pool.stats().in_use() < 10;
    assert!(failed, "{said:?}");
    let trouble = subject.heard.broken();
    assert_eq!(trouble.text, "the other end has said nothing for 60 s");
    assert!(subject.store.parts().is_empty());
    subject.rig.finish();

    let store = MemoryStore::new();
    store.handle().delay(true);
    let mut subject = Subject::with(store, |receiver| receiver.in_store(CHUNK));
    subject.rig.feed(&file(0, 0, 0, b"name"));
    subject.rig.feed(&data(0, 0, &[1; CHUNK]));
    assert!(!subject.rig.stack.wants_input(crate::rig::PORT));
    subject.rig.settle(Duration::from_secs(100));
    assert!(matches!(subject.heard.notes()[..], [Note::Started(..)]), "the disk is slow");
    subject.store.delay(false);
    subject.store.release_all();
    subject.rig.run();
    subject.rig.settle(Duration::from_secs(100));
    assert_eq!(subject.heard.broken().code, Code::Other);
    subject.rig.finish();
}

#[test]
fn it_keeps_the_contract_of_protocols() {
    let whole: Vec<Vec<u8>> =
        [vec![hello(CHUNK)], one_file(b"name").to_vec(), vec![raw(kind::FINISH, 0, ALL, &[])]]
            .concat();
    let receiver = || -> Box<dyn mbuf::stack::Protocol> {
        let receiver = FileReceiver::new(Box::new(MemoryStore::new()));
        Box::new(receiver.in_store(32 << 10).alive_every(Duration::MAX))
    };
    let report = Conformance::new("file receiver", receiver).top().wire(whole).run();
    assert!(report.cases() > 1000, "{report:?}");
}
