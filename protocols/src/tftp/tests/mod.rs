//! Requests and answers, as RFC 1350 and those that extend it want them.

mod link;
mod ports;
mod read;
mod write;

use std::time::Duration;

use mbuf::{
    stack::Stack,
    testing::{self, Conformance, MemoryHandle, MemoryStore},
};

use super::*;
use crate::rig::Rig;

const PEER: &str = "192.0.2.2:3000";
const SERVER: &str = "192.0.2.1:69";

/// A server over a socket, and its files.
struct Subject {
    rig: Rig,
    store: MemoryHandle,
}

impl Subject {
    fn new(set: impl FnOnce(Tftp) -> Tftp) -> Self {
        let pool = testing::pool();
        let store = MemoryStore::sending(&pool, []);
        let handle = store.handle();
        let tftp = set(Tftp::new(Box::new(store)));
        Self { rig: Rig::new(&pool, Edge::Packets, vec![Box::new(tftp)]), store: handle }
    }

    /// One that has a file `f` with these bytes.
    fn with(bytes: &[u8]) -> Self {
        let subject = Self::new(|tftp| tftp);
        subject.store.put("f", bytes);
        subject
    }

    fn feed(&mut self, from: &str, to: &str, bytes: &[u8]) {
        let mut chain = self.rig.pool.chain_from(bytes).unwrap();
        chain.meta_mut().set_source(Address::Ip(from.parse().unwrap()));
        chain.meta_mut().set_destination(Address::Ip(to.parse().unwrap()));
        self.rig.feed_chain(chain);
    }

    /// What is answered to a message of somebody.
    fn ask_from(&mut self, from: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.feed(from, SERVER, bytes);
        self.rig.sent()
    }

    /// What is answered to a message of the usual peer.
    fn ask(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.ask_from(PEER, bytes)
    }

    /// What is sent while so much time passes, with the seconds.
    fn wait(&mut self, seconds: u64) -> Vec<(f64, Vec<u8>)> {
        let stack = &mut self.rig.stack;
        let (start, end) = (stack.now(), stack.now() + Duration::from_secs(seconds));
        let mut sent = Vec::new();
        while let Some(next) = self.rig.stack.next_timeout().filter(|next| *next <= end) {
            self.rig.stack.advance(next);
            self.rig.run();
            let after = next.since(start).as_secs_f64();
            sent.extend(self.rig.sent().into_iter().map(|bytes| (after, bytes)));
        }
        self.rig.stack.advance(end);
        sent
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.rig.drops("tftp", reason)
    }

    /// Nothing is left, and every chain is accounted for.
    fn finish(mut self) {
        self.rig.stack.signal(Signal::Shutdown);
        assert_eq!((self.rig.stack.next_timeout(), self.rig.stack.held()), (None, Held::default()));
        assert!(self.store.parts().is_empty(), "a part is left");
        self.rig.finish();
    }
}

fn ack(block: u16) -> Vec<u8> {
    [4, block].map(u16::to_be_bytes).concat()
}

fn data(block: u16, bytes: &[u8]) -> Vec<u8> {
    [&[3, block].map(u16::to_be_bytes).concat()[..], bytes].concat()
}

fn oack(options: &str) -> Vec<u8> {
    [b"\0\x06", options.replace(' ', "\0").as_bytes(), b"\0"].concat()
}

/// `read f octet blksize 8`: words with zeroes behind them.
fn request(text: &str) -> Vec<u8> {
    let (kind, rest) = text.split_once(' ').unwrap();
    let opcode = if kind == "read" { 1 } else { 2 };
    [&[0, opcode], rest.replace(' ', "\0").as_bytes(), b"\0"].concat()
}

fn error(code: u8, text: &str) -> Vec<u8> {
    [&[0, 5, 0, code], text.as_bytes(), b"\0"].concat()
}

/// Bytes that are not the same anywhere.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251 + n / 65_537) as u8).collect()
}

#[test]
fn what_is_no_message_is_dropped_and_what_is_no_request_answered_by_error_4() {
    let mut subject = Subject::with(b"x");
    assert!(subject.ask(b"\0\x04\0").is_empty());
    assert_eq!(subject.drops(DropReason::SHORT), 1);
    for bytes in [&b"\0\0f\0octet\0"[..], b"\0\x07abc", b"\xff\xff\xff\xff"] {
        assert!(subject.ask(bytes).is_empty(), "{bytes:?}");
    }
    assert_eq!(subject.drops(DropReason::MALFORMED), 3);
    let long = request(&format!("read {} octet", "a".repeat(510)));
    let (twice, mail) = (request("read f octet tsize 0 tsize 0"), request("read f mail"));
    for bytes in [&b"\0\x01f\0octet"[..], b"\0\x01\xff\0octet\0", &long, &twice, &mail] {
        assert_eq!(subject.ask(bytes), [error(4, "illegal TFTP operation")], "{bytes:?}");
    }
    assert_eq!(subject.store.requests(), 0);
    subject.finish();
}

#[test]
fn what_belongs_to_no_transfer_is_answered_by_error_5_and_an_error_never() {
    let mut subject = Subject::with(b"x");
    let unknown = error(5, "unknown transfer ID");
    assert_eq!(subject.ask(&ack(1)), [&unknown[..]]);
    assert_eq!(subject.ask(&data(1, b"x")), [&unknown[..]]);
    assert_eq!(subject.ask(&oack("tsize 1")), [&unknown[..]]);
    assert!(subject.ask(&error(5, "you too")).is_empty());
    assert_eq!(subject.drops(UNKNOWN_TRANSFER), 1);
    // A transfer goes on, whatever others send.
    assert_eq!(subject.ask(&request("read f octet")), [data(1, b"x")]);
    assert_eq!(subject.ask_from("192.0.2.2:3001", &ack(1)), [&unknown[..]]);
    assert_eq!(subject.ask_from("192.0.2.3:3000", &ack(1)), [&unknown[..]]);
    assert!(subject.ask(&ack(1)).is_empty());
    subject.finish();
}

#[test]
fn services_that_answer_anything_and_requests_to_many_are_not_answered() {
    let mut subject = Subject::with(b"x");
    for from in ["192.0.2.9:19", "192.0.2.9:7", "192.0.2.9:69"] {
        assert!(subject.ask_from(from, &request("read f octet")).is_empty());
        assert!(subject.ask_from(from, &ack(7)).is_empty());
    }
    assert_eq!(subject.drops(LOOP), 6);
    for to in ["255.255.255.255:69", "224.0.0.1:69", "[ff02::1]:69"] {
        subject.feed(
            if to.starts_with('[') { "[fe80::2]:3000" } else { PEER },
            to,
            &request("read f octet"),
        );
    }
    assert!(subject.rig.sent().is_empty());
    assert_eq!(subject.drops(TO_MANY), 3);
    subject.finish();
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused_without_asking_the_store() {
    let mut subject = Subject::new(|tftp| tftp.write(true));
    let refused = error(2, "access violation");
    for name in ["..", "../f", "a/../../f", "/../f", "./f", "a//b", "..\\f", "a\u{1b}b", "", "/"] {
        for kind in ["read", "write"] {
            let answer = subject.ask(&request(&format!("{kind} {name} octet")));
            assert_eq!(answer, [&refused[..]], "{name:?}");
        }
    }
    assert_eq!(subject.store.requests(), 0);
    subject.finish();
}

#[test]
fn transfers_are_limited_in_all_and_for_each_address() {
    let mut subject = Subject::new(|tftp| tftp.transfers(3).per_peer(2));
    subject.store.put("f", b"x");
    let read = request("read f octet");
    let busy = error(0, "too many transfers");
    let mut ask = |from: &str, bytes: &[u8]| subject.ask_from(from, bytes);
    assert_eq!(ask("192.0.2.2:3000", &read), [data(1, b"x")]);
    assert_eq!(ask("192.0.2.2:3001", &read), [data(1, b"x")]);
    assert_eq!(ask("192.0.2.2:3002", &read), [&busy[..]]);
    assert_eq!(ask("192.0.2.3:3000", &read), [data(1, b"x")]);
    assert_eq!(ask("192.0.2.4:3000", &read), [&busy[..]]);
    // There is room again as soon as one is over.
    assert!(ask("192.0.2.2:3001", &ack(1)).is_empty());
    assert_eq!(ask("192.0.2.4:3000", &read), [data(1, b"x")]);
    subject.finish();
}

#[test]
fn a_transfer_that_is_over_keeps_its_place_until_the_store_has_answered() {
    let mut subject = Subject::new(|tftp| tftp.transfers(2));
    subject.store.put("f", b"x");
    subject.store.delay(true);
    // Somebody who asks and gives up at once must not fill the store's queue.
    let asked = (0..100).filter(|n| {
        let from = format!("192.0.2.{}:3000", n + 2);
        let refused = subject.ask_from(&from, &request("read f octet"));
        subject.ask_from(&from, &error(0, "never mind"));
        refused.is_empty()
    });
    assert_eq!(asked.count(), 2);
    assert_eq!(subject.store.requests(), 4);
    subject.store.delay(false);
    subject.store.release_all();
    subject.rig.run();
    assert_eq!(subject.ask(&request("read f octet")), [data(1, b"x")]);
    subject.finish();
}

#[test]
fn after_the_end_nothing_is_answered_and_no_timer_armed() {
    let mut subject = Subject::with(b"x");
    assert_eq!(subject.ask(&request("read f octet")), [data(1, b"x")]);
    subject.rig.end();
    assert_eq!(subject.rig.stack.next_timeout(), None);
    assert!(subject.ask(&ack(1)).is_empty());
    assert_eq!(subject.rig.stack.stats().dropped(DropReason::CLOSED), 1);
    subject.finish();
}

#[test]
fn one_byte_segments_make_no_difference() {
    let mut subject = Subject::new(|tftp| tftp.write(true));
    for (message, answer) in [
        (request("write f octet blksize 8"), oack("blksize 8")),
        (data(1, b"one byte"), ack(1)),
        (data(2, b"each"), ack(2)),
    ] {
        let mut chain = testing::bytewise(&subject.rig.pool, &message).unwrap();
        chain.meta_mut().set_source(Address::Ip(PEER.parse().unwrap()));
        subject.rig.feed_chain(chain);
        assert_eq!(subject.rig.sent(), [answer]);
    }
    assert_eq!(subject.store.files()["f"], b"one byteeach");
    subject.finish();
}

#[test]
fn conforms() {
    let make = |write| {
        move || {
            let store = MemoryStore::sending(&testing::pool(), []);
            store.handle().put("f", &bytes(1000));
            Box::new(Tftp::new(Box::new(store)).write(write)) as Box<dyn Protocol>
        }
    };
    let read = vec![
        request("read f octet"),
        ack(1),
        ack(2),
        request("read f octet blksize 16 windowsize 4 tsize 0"),
        ack(0),
        ack(4),
        request("read g octet"),
        error(0, "enough"),
    ];
    Conformance::new("tftp, read", make(false)).top().wire(read).run();
    let write = vec![
        request("write g octet blksize 16"),
        data(1, &[7; 16]),
        data(2, &[8; 16]),
        data(3, b"end"),
        request("write g octet"),
        request("write h netascii"),
    ];
    Conformance::new("tftp, write", make(true)).top().wire(write).run();
}
