use mbuf::{
    stack::{PortId, Stack},
    testing::{self, Conformance},
};

use super::*;
use crate::rig::{Inbox, Rig};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const US: [u8; 4] = [192, 0, 2, 1];
const PEER: [u8; 4] = [192, 0, 2, 2];

fn packet(operation: u16, from: ([u8; 6], [u8; 4]), to: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation as u8];
    bytes.extend(from.0);
    bytes.extend(from.1);
    bytes.extend(to.0);
    bytes.extend(to.1);
    bytes
}

/// ARP over two ports, under a layer whose own second port brings what IPv4 would send.
struct Under {
    rig: Rig,
    arp: PortId,
    ip: PortId,
    top: PortId,
    inbox: Inbox,
}

fn under(arp: Arp) -> Under {
    let pool = testing::pool();
    let inbox = Inbox::default();
    let mut builder = Stack::builder(&pool);
    let subject = builder.layer(arp);
    let (arp, ip) = (builder.port(Edge::Packets, subject), builder.port(Edge::Packets, subject));
    let relay = builder.layer(Relay(inbox.clone()));
    builder.stack(subject, relay);
    let top = builder.port(Edge::Packets, relay);
    let mut stack = builder.build().unwrap();
    stack.open();
    Under { rig: Rig { pool, stack }, arp, ip, top, inbox }
}

/// What comes by its second edge goes down by its first; what comes by that one is kept.
struct Relay(Inbox);

impl Protocol for Relay {
    fn name(&self) -> &str {
        "relay"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match cx.edge() {
            0 => self.0.layer().input(chain, cx),
            _ => cx.down_edge(0, chain),
        }
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}

impl Under {
    fn send(&mut self, to: [u8; 4], bytes: &[u8]) {
        let mut chain = self.rig.pool.chain_from(bytes).unwrap();
        chain.meta_mut().set_destination(Address::Ip((to, 0).into()));
        self.rig.stack.input_one(self.top, chain);
        self.rig.run();
    }

    fn hear(&mut self, bytes: &[u8]) {
        let chain = self.rig.pool.chain_from(bytes).unwrap();
        self.rig.stack.input_one(self.arp, chain);
        self.rig.run();
    }

    fn out(&mut self, port: PortId) -> Vec<(Vec<u8>, Address)> {
        let mut out = Vec::new();
        while let Some(chain) = self.rig.stack.poll_output(port).pop() {
            out.push((chain.to_vec().unwrap(), chain.meta().destination()));
        }
        out
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.rig.stack.now() + Duration::from_secs(seconds);
        self.rig.stack.advance(end);
        self.rig.run();
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.rig.drops("arp", reason)
    }
}

fn arp() -> Arp {
    Arp::new(MAC, US.into(), 24)
}

fn question() -> (Vec<u8>, Address) {
    (packet(1, (MAC, US), ([0; 6], PEER)), Address::Mac(BROADCAST))
}

fn answer() -> Vec<u8> {
    packet(2, (THEIRS, PEER), (MAC, US))
}

#[test]
fn a_question_for_us_becomes_the_answer_byte_for_byte() {
    let mut under = under(arp());
    let mut padded = packet(1, (THEIRS, PEER), ([0; 6], US));
    padded.resize(46, 0);
    under.hear(&padded);
    let reply = (packet(2, (MAC, US), (THEIRS, PEER)), Address::Mac(THEIRS));
    assert_eq!(under.out(under.arp), [reply]);
    // A probe of somebody who would like to have our address.
    under.hear(&packet(1, (THEIRS, [0; 4]), ([0; 6], US)));
    let reply = (packet(2, (MAC, US), (THEIRS, [0; 4])), Address::Mac(THEIRS));
    assert_eq!(under.out(under.arp), [reply]);
    under.rig.finish();
}

#[test]
fn packets_wait_for_the_answer_in_order() {
    let mut under = under(arp());
    under.send(PEER, b"one");
    under.send(PEER, b"two");
    assert_eq!(under.out(under.arp), [question()]);
    assert_eq!(under.out(under.ip), []);
    under.hear(&answer());
    let to = Address::Mac(THEIRS);
    assert_eq!(under.out(under.ip), [(b"one".to_vec(), to), (b"two".to_vec(), to)]);
    assert_eq!(under.rig.stack.next_timeout(), None);
    under.send(PEER, b"three");
    assert_eq!(under.out(under.ip), [(b"three".to_vec(), to)]);
    under.pass(61);
    under.send(PEER, b"four");
    assert_eq!(under.out(under.arp), [question()], "the entry has aged");
    under.rig.stack.signal(Signal::Shutdown);
    assert_eq!(under.drops(DropReason::CLOSED), 1);
    assert_eq!(under.rig.stack.next_timeout(), None);
    under.rig.finish();
}

#[test]
fn after_three_questions_what_waits_is_dropped() {
    let mut under = under(arp());
    under.send(PEER, b"one");
    for _ in 0..3 {
        assert_eq!(under.out(under.arp), [question()]);
        under.pass(1);
    }
    assert_eq!(under.out(under.arp), []);
    assert_eq!(under.drops(UNRESOLVED), 1);
    assert_eq!(under.rig.stack.next_timeout(), None);
    under.rig.finish();
}

#[test]
fn nobody_is_believed_who_was_not_asked() {
    let evil = [6, 6, 6, 6, 6, 6];
    let mut under = under(arp());
    // An answer without a question, a question that brings itself to mind, an announcement.
    under.hear(&answer());
    assert_eq!(under.drops(UNSOLICITED), 1);
    under.hear(&packet(1, (evil, PEER), ([0; 6], US)));
    under.hear(&packet(1, (evil, PEER), ([0; 6], PEER)));
    assert_eq!(under.drops(OTHER_TARGET), 1);
    under.out(under.arp);
    under.send(PEER, b"x");
    assert_eq!(under.out(under.arp), [question()], "it is still not known");
    // Answers for others, or to others, do not help either.
    under.hear(&packet(2, (evil, PEER), (THEIRS, [192, 0, 2, 3])));
    under.hear(&packet(2, (evil, PEER), (THEIRS, US)));
    under.hear(&packet(2, (evil, [192, 0, 2, 9]), (MAC, US)));
    assert_eq!(under.drops(UNSOLICITED), 4);
    assert_eq!(under.out(under.ip), []);
    under.hear(&answer());
    assert_eq!(under.out(under.ip), [(b"x".to_vec(), Address::Mac(THEIRS))]);
    under.hear(&packet(2, (evil, US), (MAC, US)));
    assert_eq!(under.drops(CONFLICT), 1);
    under.rig.finish();
}

#[test]
fn who_is_known_is_not_changed_before_he_has_aged() {
    let evil = [6, 6, 6, 6, 6, 6];
    let mut under = under(arp());
    under.send(PEER, b"x");
    under.hear(&answer());
    under.out(under.arp);
    under.pass(59);
    under.hear(&packet(2, (evil, PEER), (MAC, US)));
    assert_eq!(under.drops(UNSOLICITED), 1);
    // A question is answered, to him who asks.
    under.hear(&packet(1, (evil, PEER), ([0; 6], US)));
    let reply = (packet(2, (MAC, US), (evil, PEER)), Address::Mac(evil));
    assert_eq!(under.out(under.arp), [reply]);
    under.send(PEER, b"y");
    let to = |mac| Address::Mac(mac);
    assert_eq!(under.out(under.ip), [(b"x".to_vec(), to(THEIRS)), (b"y".to_vec(), to(THEIRS))]);
    // He himself is believed on, as long as he is heard.
    under.hear(&answer());
    under.pass(59);
    under.send(PEER, b"z");
    assert_eq!(under.out(under.ip), [(b"z".to_vec(), to(THEIRS))]);
    under.pass(1);
    under.hear(&packet(1, (evil, PEER), ([0; 6], US)));
    under.send(PEER, b"!");
    assert_eq!(under.out(under.ip), [(b"!".to_vec(), to(evil))], "the old one has aged");
    under.rig.finish();
}

#[test]
fn each_malformed_packet_is_dropped_for_its_reason() {
    let mut under = under(arp());
    under.hear(&answer()[..27]);
    assert_eq!(under.drops(DropReason::SHORT), 1);
    let changes = [(0, 1), (1, 6), (2, 0x86), (4, 8), (5, 16), (7, 3), (8, 3), (14, 224)];
    for (n, (place, byte)) in changes.into_iter().enumerate() {
        let mut bytes = answer();
        bytes[place] = byte;
        under.hear(&bytes);
        assert_eq!(under.drops(DropReason::MALFORMED), n as u64 + 1, "byte {place}");
    }
    assert_eq!(under.out(under.arp), []);
    under.rig.finish();
}

#[test]
fn what_waits_and_who_is_known_are_bounded() {
    let limits = Limits { entries: 4, pending: 2, footprint: 1024, ..Limits::default() };
    let mut under = under(arp().limits(limits));
    for n in 0..5 {
        under.send(PEER, &[n]);
    }
    assert_eq!(under.drops(PENDING_FULL), 3);
    // Two are being asked for: half of the table.
    under.send([192, 0, 2, 3], b"x");
    under.send([192, 0, 2, 4], b"x");
    assert_eq!(under.drops(DropReason::LIMIT), 1);
    let held = under.rig.stack.stats().layer("arp").unwrap().held;
    assert!(held.chains == 3 && held.footprint <= 1024, "{held:?}");
    under.hear(&answer());
    let out: Vec<_> = under.out(under.ip).into_iter().map(|(bytes, _)| bytes).collect();
    assert_eq!(out, [[3], [4]], "the latest are kept");
    // The one that was heard of longest ago makes room.
    for n in 3..8 {
        under.send([192, 0, 2, n], b"x");
        under.hear(&packet(2, (THEIRS, [192, 0, 2, n]), (MAC, US)));
    }
    under.out(under.arp);
    under.send(PEER, b"again");
    assert_eq!(under.out(under.arp), [question()]);
    under.rig.stack.signal(Signal::Shutdown);
    under.rig.finish();
}

#[test]
fn groups_and_configured_neighbours_are_not_asked_for() {
    let mut under = under(arp().neighbour([192, 0, 2, 7].into(), [2, 0, 0, 0, 0, 7]));
    let cases = [
        ([255, 255, 255, 255], BROADCAST),
        ([192, 0, 2, 255], BROADCAST),
        ([224, 0, 0, 251], [0x01, 0x00, 0x5e, 0, 0, 251]),
        ([239, 255, 1, 2], [0x01, 0x00, 0x5e, 0x7f, 1, 2]),
        ([192, 0, 2, 7], [2, 0, 0, 0, 0, 7]),
    ];
    for (to, mac) in cases {
        under.send(to, b"x");
        assert_eq!(under.out(under.ip), [(b"x".to_vec(), Address::Mac(mac))]);
    }
    assert_eq!(under.out(under.arp), []);
    under.rig.finish();
}

#[test]
fn the_address_is_announced_when_asked_and_ip_passes_unchanged() {
    let mut under = under(arp().announce(true));
    let announcement = packet(1, (MAC, US), ([0; 6], US));
    assert_eq!(under.out(under.arp), [(announcement, Address::Mac(BROADCAST))]);
    let chain = under.rig.pool.chain_from(b"ip").unwrap();
    under.rig.stack.input_one(under.ip, chain);
    under.rig.run();
    assert_eq!(under.inbox.take(), [b"ip"]);
    under.rig.finish();
}

#[test]
fn one_byte_segments_make_no_difference() {
    let mut under = under(arp());
    let question = packet(1, (THEIRS, PEER), ([0; 6], US));
    let chain = testing::bytewise(&under.rig.pool, &question).unwrap();
    under.rig.stack.input_one(under.arp, chain);
    under.rig.run();
    let reply = (packet(2, (MAC, US), (THEIRS, PEER)), Address::Mac(THEIRS));
    assert_eq!(under.out(under.arp), [reply]);
    under.rig.finish();
}

#[test]
fn conforms() {
    Conformance::new("arp", || Box::new(arp()) as _)
        .top()
        .wire(vec![packet(1, (THEIRS, PEER), ([0; 6], US)), answer()])
        .run();
}
