//! A host over Ethernet: what was captured between two Linux machines goes in, and comes out of
//! ours in their place, byte for byte. (They were joined by a veth pair: 02:..:01 and 2001:db8::1
//! with `ping -6 -c 1 -s 16` and a datagram to port 9, 02:..:02 and 2001:db8::2.)

use mbuf::{
    Pool,
    stack::Stack,
    testing::{self, Conformance},
};

use super::*;
use crate::{
    Echo,
    net::{Ethernet, Icmpv6, Nd, Udp, ethertype, pseudo_header_v6},
    rig::Rig,
};

pub(in crate::net) const OURS: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(in crate::net) const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(in crate::net) const SOLICITATION: &str = "3333ff00000202000000000186dd6000000000203aff20010db800\
    0000000000000000000001ff0200000000000000000001ff00000287001c270000000020010db800000000000000000\
    00000020101020000000001";
pub(in crate::net) const ADVERTISEMENT: &str = "02000000000102000000000286dd6000000000203aff20010db80\
    0000000000000000000000220010db800000000000000000000000188008a716000000020010db8000000000000000\
    0000000020201020000000002";
pub(in crate::net) const PING: &str = "02000000000202000000000186dd600646d300183a4020010db80000000000\
    0000000000000120010db80000000000000000000000028000d4b77d4b0001c4ac086b00000000fa1b0b0000000000";
pub(in crate::net) const PONG: &str = "02000000000102000000000286dd6005928200183a4020010db80000000000\
    0000000000000220010db80000000000000000000000018100d3b77d4b0001c4ac086b00000000fa1b0b0000000000";
const DATAGRAM: &str = "02000000000202000000000186dd600d1ec6000a114020010db800000000000000000000000120\
    010db8000000000000000000000002c25a0009000a5b906869";
const PORT_UNREACHABLE: &str = "02000000000102000000000286dd600d59af003a3a4020010db800000000000000000\
    000000220010db80000000000000000000000010104311800000000600d1ec6000a114020010db8000000000000000\
    00000000120010db8000000000000000000000002c25a0009000a5b906869";

pub(in crate::net) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let value = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}

pub(in crate::net) fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// The kernel had left this datagram's checksum to the device, and said so.
pub(in crate::net) fn offloaded(rig: &Rig, bytes: &[u8]) -> Chain {
    let mut chain = rig.pool.chain_from(bytes).unwrap();
    chain.meta_mut().set_offload(Offload::CHECKSUM_PARTIAL);
    chain
}

/// A frame whose flow label is 0: ours are, the kernel's are made by chance.
fn without_flow(text: &str) -> Vec<u8> {
    let mut bytes = hex(text);
    bytes[15..18].fill(0);
    bytes
}

/// eth | nd | ipv6 | icmpv6 + udp | echo on port 7.
pub(in crate::net) fn host_with(nd: Nd, ip: Ipv6, icmp: Icmpv6) -> Rig {
    let pool: Pool = testing::pool();
    let mut builder = Stack::builder(&pool);
    let ethernet = builder.layer(Ethernet::new(OURS));
    let (nd, ip, icmp) = (builder.layer(nd), builder.layer(ip), builder.layer(icmp));
    let (udp, echo) = (builder.layer(Udp::new()), builder.layer(Echo::new()));
    builder.port(Edge::Packets, ethernet);
    builder
        .bind(ethernet, ethertype::IPV6, nd)
        .stack(nd, ip)
        .bind(ip, protocol::ICMPV6, icmp)
        .bind(ip, protocol::UDP, udp)
        .bind(udp, 7, echo);
    let mut stack = builder.build().unwrap();
    stack.open();
    Rig { pool, stack }
}

pub(in crate::net) fn ours() -> (Nd, Ipv6) {
    let (local, global) = (link_local(OURS), ip("2001:db8::2"));
    (Nd::new(OURS).address(local).address(global), Ipv6::new(local, 64).address(global, 64))
}

pub(in crate::net) fn host() -> Rig {
    let (nd, ip) = ours();
    host_with(nd, ip, Icmpv6::new())
}

/// A host that knows its neighbour.
pub(in crate::net) fn acquainted() -> Rig {
    let mut rig = host();
    rig.feed(&hex(SOLICITATION));
    assert_eq!(rig.sent(), [hex(ADVERTISEMENT)]);
    rig
}

/// A frame from the neighbour to us.
fn frame(next: u8, body: &[u8]) -> Vec<u8> {
    frame_between("2001:db8::1", "2001:db8::2", next, body)
}

fn frame_between(from: &str, to: &str, next: u8, body: &[u8]) -> Vec<u8> {
    let header = Header {
        version_class_flow: (6 << 28).into(),
        payload_length: (body.len() as u16).into(),
        next_header: next,
        hop_limit: 64,
        source: ip(from).octets(),
        destination: ip(to).octets(),
    };
    [&OURS[..], &THEIRS, &[0x86, 0xdd], header.as_bytes(), body].concat()
}

/// An echo request with this payload, its checksum right.
fn ping(payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&[128, 0, 0, 0, 0, 9, 0, 1], payload].concat();
    let (from, to) = (ip("2001:db8::1"), ip("2001:db8::2"));
    let mut sum = pseudo_header_v6(from, to, protocol::ICMPV6, bytes.len() as u32);
    sum.add(&bytes);
    bytes[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    bytes
}

fn fragment(next: u8, offset: usize, more: bool, id: u32, body: &[u8]) -> Vec<u8> {
    let header = FragmentHeader {
        next_header: next,
        reserved: 0,
        offset: (offset as u16 | u16::from(more)).into(),
        identification: id.into(),
    };
    frame(44, &[header.as_bytes(), body].concat())
}

/// What is quoted, type, code and argument of the only error that was sent.
#[track_caller]
fn error(rig: &mut Rig) -> (u8, u8, u32, Vec<u8>) {
    let sent = rig.sent();
    let [frame] = &sent[..] else { panic!("{} frames", sent.len()) };
    assert!(frame.len() <= 14 + 1280);
    assert_eq!(&frame[..12], [THEIRS, OURS].concat());
    let argument = u32::from_be_bytes(frame[58..62].try_into().unwrap());
    (frame[54], frame[55], argument, frame[62..].to_vec())
}

#[test]
fn a_captured_ping_is_answered_as_linux_does() {
    let mut rig = acquainted();
    rig.feed(&hex(PING));
    assert_eq!(rig.sent(), [without_flow(PONG)]);
    let chain = testing::bytewise(&rig.pool, &hex(PING)).unwrap();
    rig.feed_chain(chain);
    assert_eq!(rig.sent(), [without_flow(PONG)]);
    rig.stack.signal(Signal::Shutdown);
    assert_eq!(rig.stack.next_timeout(), None);
    rig.finish();
}

#[test]
fn a_captured_datagram_to_a_closed_port_is_answered_as_linux_does() {
    let mut rig = acquainted();
    let partial = offloaded(&rig, &hex(DATAGRAM));
    rig.feed_chain(partial);
    let answer = without_flow(PORT_UNREACHABLE);
    assert_eq!(rig.sent().concat(), answer);
    // Also where the frame was padded, and where it comes in one-byte segments.
    let padded = offloaded(&rig, &[hex(DATAGRAM), vec![0; 9]].concat());
    rig.feed_chain(padded);
    assert_eq!(rig.sent().concat(), answer);
    let mut chain = testing::bytewise(&rig.pool, &hex(DATAGRAM)).unwrap();
    chain.meta_mut().set_offload(Offload::CHECKSUM_PARTIAL);
    rig.feed_chain(chain);
    assert_eq!(rig.sent().concat(), answer);
    rig.stack.signal(Signal::Shutdown);
    rig.finish();
}

#[test]
fn a_datagram_is_echoed() {
    let mut rig = acquainted();
    let mut datagram = hex("c25a0007000a00006869");
    let mut sum = pseudo_header_v6(ip("2001:db8::1"), ip("2001:db8::2"), protocol::UDP, 10);
    sum.add(&datagram);
    datagram[6..8].copy_from_slice(&sum.checksum().to_be_bytes());
    rig.feed(&frame(17, &datagram));
    let sent = rig.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(&sent[0][..12], [THEIRS, OURS].concat());
    assert_eq!((&sent[0][54..60], &sent[0][62..]), (&hex("0007c25a000a")[..], &b"hi"[..]));
    rig.stack.signal(Signal::Shutdown);
    rig.finish();
}

#[test]
fn malformed_headers_are_dropped_for_their_reason() {
    let whole = hex(PING);
    let changed = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        bytes
    };
    let cases = [
        (whole[..14 + 39].to_vec(), DropReason::SHORT),
        (changed(14, 0x40), DropReason::MALFORMED),
        (whole[..whole.len() - 1].to_vec(), TRUNCATED),
        (changed(14 + 4, 1), TRUNCATED),
        (changed(14 + 39, 9), OTHER_HOST),
        (changed(0, 0x33), LINK_GROUP),
        (frame_between("ff02::1", "2001:db8::2", 58, &ping(b"")), BAD_SOURCE),
        (frame_between("::", "2001:db8::2", 58, &ping(b"")), BAD_SOURCE),
        (frame_between("::1", "2001:db8::2", 58, &ping(b"")), BAD_SOURCE),
        (frame_between("2001:db8::2", "2001:db8::2", 58, &ping(b"")), BAD_SOURCE),
        (frame_between("2001:db8::1", "::", 58, &ping(b"")), OTHER_HOST),
        (frame_between("2001:db8::1", "ff02::1:ff00:3", 58, &ping(b"")), OTHER_HOST),
    ];
    for (bytes, reason) in cases {
        let mut rig = acquainted();
        rig.feed(&bytes);
        let short = reason == DropReason::SHORT;
        assert_eq!(rig.drops(if short { "nd" } else { "ipv6" }, reason), 1, "{reason}");
        assert!(rig.sent().is_empty());
        rig.stack.signal(Signal::Shutdown);
        rig.finish();
    }
}

#[test]
fn extension_headers_are_gone_through_and_refused() {
    let padded = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let all = [&padded(60)[..], &padded(43), &[58, 0, 0, 0, 0, 0, 0, 0], &ping(b"x")].concat();
    let mut rig = acquainted();
    rig.feed(&frame(0, &all));
    assert_eq!(rig.sent().len(), 1, "hop-by-hop, destination, routing with none left: a pong");

    // A routing header of type 0 with segments left (RFC 5095); hop-by-hop not in front; a next
    // header that nobody knows; options by their high bits.
    rig.feed(&frame(43, &[&[58, 0, 0, 1, 0, 0, 0, 0][..], &ping(b"")].concat()));
    let (kind, code, pointer, quoted) = error(&mut rig);
    assert_eq!((kind, code, pointer, quoted.len()), (4, 0, 42, 40 + 8 + 8));
    rig.feed(&frame(60, &[&padded(0)[..], &padded(58), &ping(b"")].concat()));
    assert_eq!(error(&mut rig).2, 40);
    rig.feed(&frame(60, &[&padded(200)[..], b"data"].concat()));
    let (kind, code, pointer, _) = error(&mut rig);
    assert_eq!((kind, code, pointer), (4, 1, 40));
    for (option, answers) in [(0x05, 1), (0x45, 0), (0x85, 1), (0xc5, 1)] {
        let body = [&[58, 0, 0, option, 2, 0, 0, 0][..], &ping(b"")].concat();
        rig.feed(&frame(60, &body));
        let sent = rig.sent();
        assert_eq!(sent.len(), answers, "{option:#x}");
        if option > 0x45 {
            assert_eq!((sent[0][54], sent[0][55], sent[0][61]), (4, 2, 43));
        }
    }
    assert_eq!(rig.drops("ipv6", UNKNOWN_OPTION), 1);
    // To many, only one that says so is told (and the answer is from our own address).
    for (option, answers) in [(0x85, 1), (0xc5, 0)] {
        let body = [&[59, 0, option, 2, 0, 0, 1, 0][..], b""].concat();
        rig.feed(&frame_between("2001:db8::1", "ff02::1", 60, &body));
        assert_eq!(rig.sent().len(), answers);
    }
    // Too many, and cut off.
    let many: Vec<u8> = std::iter::repeat_n(padded(60), 9).flatten().collect();
    rig.feed(&frame(60, &many));
    assert_eq!(rig.drops("ipv6", TOO_MANY_HEADERS), 1);
    rig.feed(&frame(60, &[58, 9, 1, 4, 0, 0, 0, 0]));
    rig.feed(&frame(60, &[58, 0, 1, 9, 0, 0, 0, 0]));
    assert_eq!(rig.drops("ipv6", DropReason::MALFORMED), 2);
    assert!(rig.sent().is_empty());
    rig.stack.signal(Signal::Shutdown);
    rig.finish();
}

#[test]
fn a_large_ping_comes_and_goes_in_fragments() {
    let payload: Vec<u8> = (0..60_000).map(|i| (i * 7) as u8).collect();
    let message = ping(&payload);
    let mut rig = acquainted();
    for (i, part) in message.chunks(1448).enumerate().collect::<Vec<_>>().into_iter().rev() {
        rig.feed(&fragment(58, i * 1448, (i + 1) * 1448 < message.len(), 5, part));
    }
    let sent = rig.sent();
    assert_eq!(sent.len(), message.len().div_ceil(1448));
    let mut answer = Vec::new();
    for frame in &sent {
        assert!(frame.len() <= 1514);
        assert_eq!((frame[20], frame[54]), (44, 58));
        let offset = u16::from_be_bytes([frame[56], frame[57]]);
        assert_eq!(usize::from(offset & !7), answer.len());
        assert_eq!(offset & 1 == 1, answer.len() + 1448 < message.len());
        answer.extend_from_slice(&frame[62..]);
    }
    assert_eq!((answer[0], &answer[8..]), (129, &payload[..]));
    assert_eq!(rig.stack.held().chains, 0);
    rig.stack.signal(Signal::Shutdown);
    rig.finish();
}

#[test]
fn an_atomic_fragment_is_a_packet_by_itself() {
    let mut rig = acquainted();
    // Even while fragments of the same identification are held (RFC 6946).
    rig.feed(&fragment(58, 8, true, 7, &[1; 8]));
    rig.feed(&fragment(58, 0, false, 7, &ping(b"atomic")));
    assert_eq!(rig.sent().len(), 1);
    assert_eq!(rig.stack.held().chains, 1);
    rig.stack.signal(Signal::Shutdown);
    assert_eq!((rig.stack.held().chains, rig.stack.next_timeout()), (0, None));
    rig.finish();
}

#[test]
fn fragments_that_hide_headers_or_overlap_are_dropped() {
    let mut rig = acquainted();
    // RFC 7112: the headers go on in the next fragment.
    rig.feed(&fragment(60, 0, true, 1, &[6, 0, 1, 4, 0, 0, 0, 0]));
    rig.feed(&fragment(60, 0, true, 2, &[6, 1, 1, 4, 0, 0, 0, 0]));
    rig.feed(&fragment(6, 0, true, 3, &[0; 16]));
    assert_eq!(rig.drops("ipv6", TINY_FRAGMENT), 3);
    let message = ping(&[0; 24]);
    rig.feed(&fragment(58, 0, true, 4, &message[..24]));
    rig.feed(&fragment(58, 16, false, 4, &message[16..]));
    assert_eq!(rig.drops("ipv6", reassembly::OVERLAP), 2);
    assert!(rig.sent().is_empty());
    // RFC 8200, 4.5: these two are told where the fault is.
    rig.feed(&fragment(58, 0, true, 5, &message[..23]));
    let (kind, code, pointer, _) = error(&mut rig);
    assert_eq!((kind, code, pointer), (4, 0, 4));
    rig.stack.signal(Signal::Shutdown);
    rig.finish();
}

#[test]
fn fragments_that_do_not_come_are_told_after_a_minute() {
    let mut rig = acquainted();
    rig.feed(&fragment(58, 0, true, 4, &ping(&[3; 16])));
    rig.feed(&fragment(58, 8, true, 9, &[0; 8]));
    rig.stack.advance(mbuf::stack::Time::from_millis(59_999));
    rig.run();
    assert!(rig.sent().iter().all(|frame| frame[54] == 135), "probes at most");
    rig.stack.advance(mbuf::stack::Time::from_millis(60_000));
    rig.run();
    assert_eq!(rig.drops("ipv6", reassembly::REASSEMBLY_TIMEOUT), 1, "without a first: silent");
    let sent = rig.sent();
    let [.., told] = &sent[..] else { panic!("nothing was sent") };
    assert_eq!((told[54], told[55], &told[62 + 40..][..2]), (3, 1, &[58, 0][..]));
    assert_eq!(rig.stack.held().chains, 0);
    rig.stack.signal(Signal::Shutdown);
    rig.finish();
}

#[test]
fn after_the_end_no_fragment_is_held() {
    let mut rig = acquainted();
    rig.feed(&fragment(58, 0, true, 1, &[0; 16]));
    assert_eq!(rig.stack.held().chains, 1);
    rig.stack.signal(Signal::Shutdown);
    assert_eq!(rig.drops("ipv6", DropReason::CLOSED), 1);
    rig.feed(&fragment(58, 0, true, 2, &[0; 16]));
    assert_eq!(rig.stack.held().chains, 0);
    assert_eq!(rig.stack.next_timeout(), None);
    rig.finish();
}

/// A layer whose packets from above are all for one destination: those of the conformance rig
/// bring addresses of IPv4, or none.
pub(in crate::net) struct For<P>(pub(in crate::net) P, pub(in crate::net) Ipv6Addr);

impl<P: Protocol> Protocol for For<P> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn info(&self) -> LayerInfo {
        self.0.info()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        self.0.input(chain, cx)
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        chain.meta_mut().set_destination(address(self.1));
        self.0.output(chain, cx)
    }

    fn timeout(&mut self, timer: Timer, cx: &mut Context<'_>) {
        self.0.timeout(timer, cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        self.0.signal(signal, cx);
    }

    fn held(&self) -> Held {
        self.0.held()
    }
}

#[test]
fn conforms() {
    let (us, peer) = (ip("2001:db8::2"), ip("2001:db8::1"));
    let mut wire = vec![hex(DATAGRAM)[14..].to_vec(), hex(PING)[14..].to_vec()];
    // No fragment whose others are missing: the rig waits until its time is over, and then does not
    // tell that drop from the one for want of a buffer.
    wire.push(fragment(253, 0, false, 1, &[7; 9])[14..].to_vec());
    wire.push(frame(60, &[253, 0, 1, 4, 0, 0, 0, 0, 9])[14..].to_vec());
    let host = || Box::new(For(Ipv6::new(us, 64), peer)) as _;
    Conformance::new("ipv6", host)
        .peer(|| Box::new(Ipv6::new(peer, 64)) as _)
        .key(253)
        .wire(wire)
        .messages(vec![b"hello".to_vec(), vec![8; 1460]])
        .max_held(1 << 20)
        .linger(Duration::from_secs(90))
        .run();
}
