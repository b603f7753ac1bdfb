use std::time::Duration;

use mbuf::{
    stack::{PortId, Stack, Time},
    testing::{self, Conformance},
};

use super::*;
use crate::{
    net::{Icmp, Udp},
    rig::{Inbox, PORT, Rig},
};

const US: [u8; 4] = [192, 0, 2, 1];
const PEER: [u8; 4] = [192, 0, 2, 2];

/// What a packet is made of, to be changed.
struct Packet {
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    fragment: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

fn packet(payload: &[u8]) -> Packet {
    Packet {
        source: PEER,
        destination: US,
        protocol: 253,
        fragment: 0,
        options: Vec::new(),
        payload: payload.to_vec(),
    }
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let total = (header_len + self.payload.len()) as u16;
        let mut bytes = vec![0x40 | (header_len / 4) as u8, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(self.source);
        bytes.extend(self.destination);
        bytes.extend(&self.options);
        let sum = checksum::of(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

fn ip() -> Ipv4 {
    Ipv4::new(US.into(), 24).gateway([192, 0, 2, 254].into())
}

/// IPv4 with ICMP and an inbox above, under protocol 253; and the port over which the inbox sends.
fn rig(ip: Ipv4) -> (Rig, Inbox, PortId) {
    let pool = testing::pool();
    let inbox = Inbox::default();
    let mut builder = Stack::builder(&pool);
    let ip = builder.layer(ip);
    let icmp = builder.layer(Icmp::new());
    let upper = builder.layer_boxed(inbox.layer());
    builder.port(Edge::Packets, ip);
    builder.bind(ip, protocol::ICMP, icmp).bind(ip, 253, upper);
    let mut stack = builder.build().unwrap();
    stack.open();
    (Rig { pool, stack }, inbox, PORT)
}

#[test]
fn the_ping_of_a_kernel_is_parsed_and_built_again_byte_for_byte() {
    // What `ping -s0 192.0.2.1` sends from 192.0.2.2.
    let ping = [
        0x45, 0x00, 0x00, 0x1c, 0x00, 0x01, 0x00, 0x00, 0x40, 0x01, 0xf6, 0xdc, 192, 0, 2, 2, 192,
        0, 2, 1, 0x08, 0x00, 0xf7, 0xf5, 0x00, 0x08, 0x00, 0x02,
    ];
    assert_eq!(checksum::of(&ping[..20]), 0);
    let (mut rig, ..) = rig(ip());
    rig.feed(&ping);
    let mut answer = ping;
    answer[12..20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    answer[20] = 0;
    answer[22] = 0xff;
    let chain = rig.stack.poll_output(PORT).pop().unwrap();
    assert_eq!(chain.to_vec().unwrap(), answer);
    assert_eq!(chain.meta().destination(), Address::Ip("192.0.2.2:0".parse().unwrap()));
    drop(chain);
    rig.finish();
}

#[test]
fn each_malformed_header_is_dropped_for_its_reason() {
    let (mut rig, inbox, _) = rig(ip());
    let good = packet(b"payload!").bytes();
    let change = |place: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[place] = byte;
        bytes[10..12].fill(0);
        let len = usize::from(bytes[0] & 0xf) * 4;
        let sum = checksum::of(&bytes[..len.min(bytes.len())]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    let with_options = |options: &[u8]| Packet { options: options.to_vec(), ..packet(b"x") };
    let from = |source: [u8; 4]| Packet { source, ..packet(b"x") }.bytes();
    let mut wrong_sum = good.clone();
    wrong_sum[8] ^= 1;
    let cases = [
        (good[..19].to_vec(), DropReason::SHORT),
        (change(0, 0x65), DropReason::MALFORMED),
        (change(0, 0x44), DropReason::MALFORMED),
        (change(0, 0x4f), DropReason::SHORT),
        (change(3, 19), DropReason::MALFORMED),
        (change(3, 29), TRUNCATED),
        (wrong_sum, BAD_CHECKSUM),
        (with_options(&[131, 7, 4, 1, 2, 3, 4, 0]).bytes(), SOURCE_ROUTED),
        (with_options(&[1, 1, 137, 3]).bytes(), SOURCE_ROUTED),
        (with_options(&[7, 1, 0, 0]).bytes(), DropReason::MALFORMED),
        (with_options(&[7, 5, 0, 0]).bytes(), DropReason::MALFORMED),
        (with_options(&[1, 1, 1, 7]).bytes(), DropReason::MALFORMED),
        (from([127, 0, 0, 1]), BAD_SOURCE),
        (from([224, 0, 0, 1]), BAD_SOURCE),
        (from([255, 255, 255, 255]), BAD_SOURCE),
        (from([192, 0, 2, 255]), BAD_SOURCE),
        (Packet { destination: [192, 0, 2, 9], ..packet(b"x") }.bytes(), OTHER_HOST),
        (Packet { destination: [224, 0, 0, 9], ..packet(b"x") }.bytes(), OTHER_HOST),
    ];
    for (n, (bytes, reason)) in cases.into_iter().enumerate() {
        let before = rig.drops("ipv4", reason);
        rig.feed(&bytes);
        assert_eq!(rig.drops("ipv4", reason), before + 1, "case {n}: {reason}");
    }
    assert_eq!(inbox.len(), 0);
    assert!(rig.sent().is_empty());
    rig.finish();
}

#[test]
fn padding_is_trimmed_and_options_are_stripped() {
    let (mut rig, inbox, _) = rig(ip());
    let mut padded = packet(b"tiny").bytes();
    padded.resize(46, 0xee);
    rig.feed(&padded);
    rig.feed(&Packet { options: vec![148, 4, 0, 0], ..packet(b"alert") }.bytes());
    rig.feed(&Packet { options: vec![0, 9, 9, 9], ..packet(b"end") }.bytes());
    rig.feed(&Packet { destination: [192, 0, 2, 255], ..packet(b"all") }.bytes());
    rig.feed(&Packet { destination: [224, 0, 0, 1], ..packet(b"group") }.bytes());
    assert_eq!(inbox.take(), [&b"tiny"[..], b"alert", b"end", b"all", b"group"]);
    rig.finish();
}

#[test]
fn a_ping_to_everybody_is_not_answered() {
    let (mut rig, ..) = rig(ip());
    let ping = [8, 0, 0xf7, 0xf5, 0, 8, 0, 2];
    rig.feed(&Packet { destination: [192, 0, 2, 255], protocol: 1, ..packet(&ping) }.bytes());
    assert!(rig.sent().is_empty());
    assert_eq!(rig.drops("ipv4", BROADCAST_ICMP), 1);
    rig.finish();
}

#[test]
fn a_protocol_that_nobody_speaks_is_answered_with_the_header_quoted() {
    let (mut rig, ..) = rig(ip());
    let unknown = Packet { protocol: 99, options: vec![1; 4], ..packet(&[7; 1000]) }.bytes();
    rig.feed(&unknown);
    // Not to a broadcast, and not from nobody.
    rig.feed(&Packet { protocol: 99, destination: [255; 4], ..packet(b"x") }.bytes());
    rig.feed(&Packet { protocol: 99, source: [0; 4], ..packet(b"x") }.bytes());
    let sent = rig.sent();
    assert_eq!(sent.len(), 1);
    let answer = &sent[0];
    assert_eq!(answer.len(), 576);
    assert_eq!(answer[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
    assert_eq!(answer[20..22], [3, 2]);
    assert_eq!(checksum::of(&answer[20..]), 0);
    assert_eq!(answer[28..], unknown[..548]);
    assert_eq!(rig.drops("ipv4", DropReason::UNBOUND), 2);
    rig.finish();
}

/// The payload of 253 in fragments of that many bytes.
fn fragments(payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let count = payload.chunks(size).count();
    let one = |(n, chunk): (usize, &[u8])| {
        let more = if n + 1 < count { 0x2000 } else { 0 };
        Packet { fragment: more | (n * size / 8) as u16, ..packet(chunk) }.bytes()
    };
    payload.chunks(size).enumerate().map(one).collect()
}

#[test]
fn fragments_in_any_order_make_the_datagram() {
    let payload: Vec<u8> = (0..1001).map(|n| n as u8).collect();
    let pieces = fragments(&payload, 200);
    for shift in 0..pieces.len() {
        for reversed in [false, true] {
            let (mut rig, inbox, _) = rig(ip());
            let mut order = pieces.clone();
            order.rotate_left(shift);
            if reversed {
                order.reverse();
            }
            for piece in &order {
                assert_eq!(inbox.len(), 0);
                rig.feed(piece);
            }
            assert_eq!(inbox.take(), std::slice::from_ref(&payload));
            assert_eq!(rig.stack.next_timeout(), None);
            rig.finish();
        }
    }
}

#[test]
fn a_teardrop_discards_the_datagram_and_a_tiny_fragment_is_refused() {
    let (mut rig, inbox, _) = rig(ip());
    // Teardrop: the second one lies within the first.
    rig.feed(&Packet { fragment: 0x2000, ..packet(&[1; 40]) }.bytes());
    rig.feed(&Packet { fragment: 3, ..packet(&[2; 4]) }.bytes());
    assert_eq!(rig.drops("ipv4", reassembly::OVERLAP), 2);
    // RFC 1858: a first fragment without the whole header, and one over the flags of TCP.
    rig.feed(&Packet { protocol: 6, fragment: 0x2000, ..packet(&[1; 16]) }.bytes());
    rig.feed(&Packet { protocol: 6, fragment: 1, ..packet(&[1; 16]) }.bytes());
    assert_eq!(rig.drops("ipv4", TINY_FRAGMENT), 2);
    // Ping of death.
    rig.feed(&Packet { fragment: 8191, ..packet(&[1; 100]) }.bytes());
    assert_eq!(rig.drops("ipv4", reassembly::FRAGMENT_TOO_LONG), 1);
    assert_eq!(inbox.len(), 0);
    rig.stack.signal(Signal::Shutdown);
    // After the end nothing is held.
    rig.feed(&Packet { fragment: 0x2000, ..packet(&[1; 40]) }.bytes());
    assert_eq!(rig.stack.held().chains, 0);
    assert_eq!(rig.stack.next_timeout(), None);
    rig.finish();
}

#[test]
fn what_is_not_whole_in_time_is_answered_if_its_first_fragment_came() {
    let (mut rig, ..) = rig(ip());
    let pieces = fragments(&[9; 300], 200);
    rig.feed(&pieces[0]);
    rig.stack.advance(Time::ZERO + Duration::from_secs(31));
    rig.run();
    let sent = rig.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0][20..22], [11, 1]);
    assert_eq!(sent[0][28..], pieces[0]);
    rig.feed(&pieces[1]);
    rig.stack.advance(Time::ZERO + Duration::from_secs(70));
    rig.run();
    assert!(rig.sent().is_empty());
    assert_eq!(rig.stack.next_timeout(), None);
    rig.finish();
}

#[test]
fn one_byte_segments_make_no_difference() {
    let (mut rig, inbox, _) = rig(ip());
    let bytes = Packet { options: vec![148, 4, 0, 0], ..packet(b"bytewise") }.bytes();
    rig.feed_chain(testing::bytewise(&rig.pool, &bytes).unwrap());
    for piece in fragments(&[7; 64], 32) {
        rig.feed_chain(testing::bytewise(&rig.pool, &piece).unwrap());
    }
    assert_eq!(inbox.take(), [b"bytewise".to_vec(), vec![7; 64]]);
    rig.finish();
}

/// What comes out below when this is sent to that address.
fn sent_by(ip: Ipv4, to: &str, payload: &[u8]) -> Vec<(Vec<u8>, Address)> {
    sent_through(Udp::new(), ip, to, payload, None)
}

/// As `sent_by`, through this UDP, and after a signal.
fn sent_through(
    udp: Udp,
    ip: Ipv4,
    to: &str,
    payload: &[u8],
    signal: Option<Signal>,
) -> Vec<(Vec<u8>, Address)> {
    let pool = testing::pool();
    let mut builder = Stack::builder(&pool);
    let ip = builder.layer(ip);
    let udp = builder.layer(udp);
    let top = builder.layer_boxed(Box::new(Downwards));
    builder.port(Edge::Packets, ip);
    builder.bind(ip, protocol::UDP, udp).bind(udp, 7, top);
    let from = builder.port(Edge::Packets, top);
    let mut stack = builder.build().unwrap();
    stack.open();
    signal.into_iter().for_each(|signal| stack.signal(signal));
    let mut chain = pool.chain_from(payload).unwrap();
    chain.meta_mut().set_destination(Address::Ip(to.parse().unwrap()));
    stack.input_one(from, chain);
    let mut rig = Rig { pool, stack };
    rig.run();
    let mut sent = Vec::new();
    while let Some(chain) = rig.stack.poll_output(PORT).pop() {
        sent.push((chain.to_vec().unwrap(), chain.meta().destination()));
    }
    rig.finish();
    sent
}

/// Hands what comes by its second lower edge down by the first.
struct Downwards;

impl Protocol for Downwards {
    fn name(&self) -> &str {
        "downwards"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match cx.edge() {
            0 => cx.consumed(chain),
            _ => cx.down_edge(0, chain),
        }
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}

fn transport_sum(datagram: &[u8]) -> u16 {
    let at = |place: usize| Ipv4Addr::from_octets(datagram[place..place + 4].try_into().unwrap());
    let len = datagram.len() as u16 - 20;
    let mut sum = super::super::pseudo_header_v4(at(12), at(16), protocol::UDP, len);
    sum.add(&datagram[20..]);
    sum.checksum()
}

#[test]
fn the_source_is_filled_in_and_the_udp_checksum_follows() {
    let sent = sent_by(ip(), "198.51.100.7:9", b"hello");
    let (bytes, next) = &sent[0];
    assert_eq!(bytes[12..20], [192, 0, 2, 1, 198, 51, 100, 7]);
    assert_eq!(bytes[20..28], [0, 7, 0, 9, 0, 13, bytes[26], bytes[27]]);
    assert_eq!((checksum::of(&bytes[..20]), transport_sum(bytes)), (0, 0));
    assert_eq!(*next, Address::Ip("192.0.2.254:0".parse().unwrap()));
    // On the link there is no need of a gateway; without one there is no other way.
    let sent = sent_by(Ipv4::new(US.into(), 24), "192.0.2.7:9", b"hello");
    assert_eq!(sent[0].1, Address::Ip("192.0.2.7:0".parse().unwrap()));
    assert!(sent_by(Ipv4::new(US.into(), 24), "198.51.100.7:9", b"hello").is_empty());
}

#[test]
fn a_long_datagram_is_cut_at_the_mtu_and_comes_together_again() {
    let payload: Vec<u8> = (0..3000).map(|n| (n % 251) as u8).collect();
    let sent = sent_by(ip().mtu(577), "192.0.2.2:9", &payload);
    assert_eq!(sent.len(), 6);
    let mut together = vec![0; 20];
    for (n, (bytes, _)) in sent.iter().enumerate() {
        assert_eq!(checksum::of(&bytes[..20]), 0);
        assert_eq!(usize::from(bytes[2]) << 8 | usize::from(bytes[3]), bytes.len());
        assert!(bytes.len() <= 577);
        let field = u16::from_be_bytes([bytes[6], bytes[7]]);
        assert_eq!(field & 0x2000 != 0, n + 1 < sent.len());
        assert_eq!(usize::from(field & 0x1fff) * 8, together.len() - 20);
        together[..20].copy_from_slice(&bytes[..20]);
        together.extend(&bytes[20..]);
    }
    assert_eq!(together[28..], payload);
    assert_eq!(transport_sum(&together), 0);
    assert!(sent_by(ip().mtu(577).dont_fragment(true), "192.0.2.2:9", &payload).is_empty());
    assert!(sent_by(ip(), "192.0.2.2:9", &[0; 65_508]).is_empty());
}

#[test]
fn a_partial_checksum_is_filled_in_before_the_datagram_is_cut() {
    let payload: Vec<u8> = (0..1000).map(|n| (n % 251) as u8).collect();
    let to = "192.0.2.2:9";
    let whole = sent_by(ip(), to, &payload);
    // The link says what it takes when the stack is open.
    let small = Some(Signal::Mtu(576));
    for udp in [Udp::new(), Udp::new().offload(true)] {
        let sent = sent_through(udp, ip(), to, &payload, small);
        assert_eq!(sent.len(), 2);
        let together = [&sent[0].0[20..], &sent[1].0[20..]].concat();
        assert_eq!(together, whole[0].0[20..]);
    }
    // Uncut, it is left to the device: the sum of the pseudo header with the source filled in.
    let sent = sent_through(Udp::new().offload(true), ip(), to, &payload, None);
    let sum = super::super::pseudo_header_v4(US.into(), PEER.into(), protocol::UDP, 1008);
    assert_eq!(sent[0].0[26..28], sum.fold().to_be_bytes());
}

#[test]
fn conforms() {
    let host = |address: [u8; 4]| move || Box::new(Ipv4::new(address.into(), 24)) as _;
    let mut wire = vec![
        packet(b"hello").bytes(),
        Packet { options: vec![148, 4, 0, 0], ..packet(b"x") }.bytes(),
        Packet { protocol: 99, ..packet(b"x") }.bytes(),
    ];
    wire.extend(fragments(&[7; 40], 24));
    Conformance::new("ipv4", host([192, 0, 2, 2]))
        .peer(host(US))
        .key(253)
        .wire(wire)
        .messages(vec![b"hello".to_vec(), vec![8; 1480]])
        .max_held(2 << 20)
        .run();
}
