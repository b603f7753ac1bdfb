//! A host of Ethernet, neighbour discovery, IPv6, ICMPv6, UDP and echo, driven by frames that were
//! captured between two Linux machines, and by hand-written ones.

use std::net::Ipv6Addr;

use mbuf::{
    Chain, Pool,
    stack::{Edge, PortId, Signal, Stack},
    testing,
};
use mbuf_protocols::{
    Echo,
    net::{
        Ethernet, Icmpv6, Ipv6, Nd, Udp, ethertype, ipv6::link_local, protocol, pseudo_header_v6,
    },
};

const PORT: PortId = PortId(0);
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const US: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const PEER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

fn host() -> (Pool, Stack) {
    let pool = testing::pool();
    let mut builder = Stack::builder(&pool);
    let ethernet = builder.layer(Ethernet::new(OURS));
    let nd = builder.layer(Nd::new(OURS).address(link_local(OURS)).address(US));
    let ip = builder.layer(Ipv6::new(link_local(OURS), 64).address(US, 64));
    let icmp = builder.layer(Icmpv6::new());
    let udp = builder.layer(Udp::new());
    let echo = builder.layer(Echo::new());
    builder.port(Edge::Packets, ethernet);
    builder.bind(ethernet, ethertype::IPV6, nd).stack(nd, ip);
    builder.bind(ip, protocol::ICMPV6, icmp).bind(ip, protocol::UDP, udp).bind(udp, 7, echo);
    let mut stack = builder.build().unwrap();
    stack.open();
    (pool, stack)
}

fn answers(stack: &mut Stack, chain: Chain) -> Vec<Vec<u8>> {
    stack.input_one(PORT, chain);
    while stack.has_work() {
        stack.poll();
    }
    let mut sent = Vec::new();
    while let Some(chain) = stack.poll_output(PORT).pop() {
        sent.push(chain.to_vec().unwrap());
    }
    sent
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let value = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}

/// A frame from one to the other; the message's checksum stands at `place`.
fn frame(to_us: bool, hops: u8, next: u8, body: &[u8], place: usize) -> Vec<u8> {
    let (to, from) = if to_us { (OURS, THEIRS) } else { (THEIRS, OURS) };
    let (destination, source) = if to_us { (US, PEER) } else { (PEER, US) };
    let mut body = body.to_vec();
    let mut sum = pseudo_header_v6(source, destination, u64::from(next), body.len() as u32);
    sum.add(&body);
    body[place..place + 2].copy_from_slice(&sum.checksum().to_be_bytes());
    let mut bytes = [&to[..], &from, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, body.len() as u8]].concat();
    bytes.extend([next, hops]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(body);
    bytes
}

#[test]
fn a_neighbour_asks_pings_is_echoed_and_is_told_of_a_closed_port() {
    let solicitation =
        hex("3333ff000002020000000001 86dd 6000000000203aff 20010db8000000000000000000000001
        ff0200000000000000000001ff000002 87001c2700000000 20010db8000000000000000000000002
        0101020000000001");
    let advertisement =
        hex("020000000001020000000002 86dd 6000000000203aff 20010db8000000000000000000000002
        20010db8000000000000000000000001 88008a7160000000 20010db8000000000000000000000002
        0201020000000002");
    let ping = frame(true, 64, 58, b"\x80\0\0\0\0\x07\0\x01hello", 2);
    let pong = frame(false, 64, 58, b"\x81\0\0\0\0\x07\0\x01hello", 2);
    let datagram = |port| frame(true, 64, 17, &[0xc2, 0x5a, 0, port, 0, 10, 0, 0, b'h', b'i'], 6);
    let echo = frame(false, 64, 17, &[0, 7, 0xc2, 0x5a, 0, 10, 0, 0, b'h', b'i'], 6);
    let quote = [&[1, 4, 0, 0, 0, 0, 0, 0], &datagram(9)[14..]].concat();
    let unreachable = frame(false, 64, 58, &quote, 2);

    let (pool, mut stack) = host();
    let exchange = [
        (solicitation, advertisement),
        (ping, pong),
        (datagram(7), echo),
        (datagram(9), unreachable),
    ];
    for (question, answer) in exchange {
        let chain = pool.chain_from(&question).unwrap();
        assert_eq!(answers(&mut stack, chain), std::slice::from_ref(&answer));
        // However the frame is cut.
        let chain = testing::bytewise(&pool, &question).unwrap();
        assert_eq!(answers(&mut stack, chain), std::slice::from_ref(&answer));
        for chain in testing::every_cut(&pool, &question) {
            let chain = chain.unwrap();
            // More errors than these would be against the rate.
            if answer.get(54) != Some(&1) {
                assert_eq!(answers(&mut stack, chain), std::slice::from_ref(&answer));
            }
        }
    }
    stack.signal(Signal::Shutdown);
    assert_eq!((stack.next_timeout(), stack.held().chains), (None, 0));
    drop(stack);
    testing::assert_all_free(&pool);
}
