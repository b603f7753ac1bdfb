//! A host of Ethernet, ARP, IPv4, ICMP, UDP and echo, driven by hand-written frames.

mod common;

use mbuf::{
    Pool,
    stack::{DropReason, Edge, PortId, Signal, Stack},
    testing,
};
use mbuf_protocols::{
    Echo,
    net::{Arp, Ethernet, Icmp, Ipv4, LINK_GROUP, Udp, ethertype, protocol},
};

use common::{arp, frame, icmp, ip, udp};

const PORT: PortId = PortId(0);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BROADCAST: [u8; 6] = [0xff; 6];
const US: [u8; 4] = [192, 0, 2, 1];
const PEER: [u8; 4] = [192, 0, 2, 2];

struct Host {
    pool: Pool,
    stack: Stack,
}

impl Host {
    fn new() -> Self {
        let pool = testing::pool();
        let mut builder = Stack::builder(&pool);
        let ethernet = builder.layer(Ethernet::new(MAC));
        let arp = builder.layer(Arp::new(MAC, US.into(), 24));
        let ip = builder.layer(Ipv4::new(US.into(), 24));
        let icmp = builder.layer(Icmp::new());
        let udp = builder.layer(Udp::new());
        let echo = builder.layer(Echo::new());
        builder.port(Edge::Packets, ethernet);
        builder.bind(ethernet, ethertype::ARP, arp).bind(ethernet, ethertype::IPV4, arp);
        builder.stack(arp, ip);
        builder.bind(ip, protocol::ICMP, icmp).bind(ip, protocol::UDP, udp);
        builder.bind(udp, 7, echo);
        let mut stack = builder.build().unwrap();
        stack.open();
        Self { pool, stack }
    }

    /// What it sends because of this frame.
    fn hears(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let chain = self.pool.chain_from(frame).unwrap();
        self.answers(chain)
    }

    fn answers(&mut self, chain: mbuf::Chain) -> Vec<Vec<u8>> {
        self.stack.input_one(PORT, chain);
        let mut sent = Vec::new();
        while self.stack.has_work() {
            self.stack.poll();
        }
        while let Some(chain) = self.stack.poll_output(PORT).pop() {
            sent.push(chain.to_vec().unwrap());
        }
        sent
    }

    fn finish(mut self) {
        self.stack.signal(Signal::Shutdown);
        assert_eq!(self.stack.next_timeout(), None);
        for layer in self.stack.stats().layers {
            assert_eq!(layer.imbalance(), 0, "{layer:?}");
            assert_eq!(layer.undeclared, [], "{layer:?}");
        }
        drop(self.stack);
        assert_eq!(self.pool.stats().in_use(), 0);
    }
}

fn to_host(datagram: &[u8]) -> Vec<u8> {
    frame(MAC, THEIRS, 0x0800, datagram)
}

fn from_host(datagram: &[u8]) -> Vec<u8> {
    frame(THEIRS, MAC, 0x0800, datagram)
}

#[test]
fn a_host_answers_arp_ping_and_echo_and_says_what_it_does_not_have() {
    let mut host = Host::new();

    // Who has 192.0.2.1? A device pads it to sixty bytes.
    let mut who_has = frame(BROADCAST, THEIRS, 0x0806, &arp(1, (THEIRS, PEER), ([0; 6], US)));
    who_has.resize(60, 0);
    let is_at = frame(THEIRS, MAC, 0x0806, &arp(2, (MAC, US), (THEIRS, PEER)));
    assert_eq!(host.hears(&who_has), [is_at]);

    // The answer to a ping waits until the host knows whose the address is.
    let ping = icmp(8, 0, [0, 8, 0, 1], b"abcdefgh");
    let who_has = frame(BROADCAST, MAC, 0x0806, &arp(1, (MAC, US), ([0; 6], PEER)));
    assert_eq!(host.hears(&to_host(&ip(100, 0, 1, PEER, US, &ping))), [who_has]);
    let pong = icmp(0, 0, [0, 8, 0, 1], b"abcdefgh");
    let is_at = frame(MAC, THEIRS, 0x0806, &arp(2, (THEIRS, PEER), (MAC, US)));
    assert_eq!(host.hears(&is_at), [from_host(&ip(1, 0, 1, US, PEER, &pong))]);

    // UDP echo; what pads the frame does not come back.
    let question = ip(101, 0, 17, PEER, US, &udp((PEER, 4000), (US, 7), b"hi"));
    let mut padded = to_host(&question);
    padded.resize(60, 0xaa);
    let answer = ip(2, 0, 17, US, PEER, &udp((US, 7), (PEER, 4000), b"hi"));
    assert_eq!(host.hears(&padded), [from_host(&answer)]);

    // Nobody is at port 9: the whole datagram is quoted.
    let question = ip(102, 0, 17, PEER, US, &udp((PEER, 4000), (US, 9), b"anybody?"));
    let unreachable = icmp(3, 3, [0; 4], &question);
    assert_eq!(host.hears(&to_host(&question)), [from_host(&ip(3, 0, 1, US, PEER, &unreachable))]);

    // Nor does anybody speak protocol 99.
    let question = ip(103, 0, 99, PEER, US, b"what?");
    let unreachable = icmp(3, 2, [0; 4], &question);
    assert_eq!(host.hears(&to_host(&question)), [from_host(&ip(4, 0, 1, US, PEER, &unreachable))]);
    host.finish();
}

#[test]
fn what_comes_to_all_stations_and_is_for_one_host_is_discarded() {
    let mut host = Host::new();
    let question = ip(1, 0, 17, PEER, US, &udp((PEER, 4000), (US, 9), b"anybody?"));
    for group in [BROADCAST, [1, 0, 0x5e, 0, 0, 1]] {
        assert_eq!(host.hears(&frame(group, THEIRS, 0x0800, &question)), [[0; 0]; 0]);
    }
    assert_eq!(host.stack.stats().dropped(LINK_GROUP), 2);
    host.finish();
}

#[test]
fn a_long_ping_comes_in_fragments_and_its_answer_goes_in_fragments() {
    let mut host = Host::new();
    let data: Vec<u8> = (0..60_000).map(|n| (n % 251) as u8).collect();
    let ping = icmp(8, 0, [0, 8, 0, 1], &data);
    let count = ping.chunks(1480).count();
    let mut sent = Vec::new();
    for (n, chunk) in ping.chunks(1480).enumerate() {
        let more = if n + 1 < count { 0x2000 } else { 0 };
        let fragment = more | (n * 1480 / 8) as u16;
        sent.extend(host.hears(&to_host(&ip(7, fragment, 1, PEER, US, chunk))));
    }
    assert_eq!(sent.len(), 1, "who has 192.0.2.2?");
    // All of the answer waits for that, not only its end.
    let is_at = frame(MAC, THEIRS, 0x0806, &arp(2, (THEIRS, PEER), (MAC, US)));
    let sent = host.hears(&is_at);
    assert_eq!(sent.len(), count);
    let pong = icmp(0, 0, [0, 8, 0, 1], &data);
    for (n, (frame, chunk)) in sent.iter().zip(pong.chunks(1480)).enumerate() {
        let more = if n + 1 < count { 0x2000 } else { 0 };
        let fragment = more | (n * 1480 / 8) as u16;
        assert_eq!(*frame, from_host(&ip(1, fragment, 1, US, PEER, chunk)), "fragment {n}");
    }
    host.finish();
}

#[test]
fn frames_cut_anywhere_or_byte_by_byte_make_no_difference() {
    let question = to_host(&ip(102, 0, 17, PEER, US, &udp((PEER, 4000), (US, 9), b"anybody?")));
    let is_at = frame(MAC, THEIRS, 0x0806, &arp(2, (THEIRS, PEER), (MAC, US)));
    let run = |places: &[usize]| {
        let mut host = Host::new();
        let chain = testing::cut(&host.pool, &question, places).unwrap();
        let mut sent = host.answers(chain);
        sent.extend(host.hears(&is_at));
        host.finish();
        sent
    };
    let whole = run(&[]);
    assert_eq!(whole.len(), 2);
    for place in 1..question.len() {
        assert_eq!(run(&[place]), whole, "cut at {place}");
    }
    assert_eq!(run(&(1..question.len()).collect::<Vec<_>>()), whole);
}

#[test]
fn beginnings_of_frames_and_flipped_bits_do_no_harm() {
    let question = to_host(&ip(102, 0, 17, PEER, US, &udp((PEER, 4000), (US, 7), b"hello")));
    let mut host = Host::new();
    for len in 0..question.len() {
        assert!(host.hears(&question[..len]).is_empty(), "{len} bytes");
    }
    for bit in 0..question.len() * 8 {
        let mut flipped = question.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        host.hears(&flipped);
    }
    let stats = host.stack.stats();
    assert!(stats.dropped(DropReason::SHORT) >= 14);
    assert!(stats.dropped(mbuf_protocols::net::ipv4::BAD_CHECKSUM) > 100);
    host.finish();
}
