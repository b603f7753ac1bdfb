//! What these plugins make of a packet, beside what others make of the same: etherparse, and the wire
//! module of smoltcp. Packets are made by etherparse or by chance, and damaged; where the verdicts
//! differ, the test says why. And what the plugins send, both others read as it was meant.
//!
//! The differences, each of them named where it is met:
//!
//! - What a host must refuse, and a parser cannot know: addresses nobody may send from, other hosts,
//!   source routes, fragments that hide a header, checksums (etherparse verifies none by itself).
//! - Options of IPv4 and IPv6 whose lengths are wrong: etherparse does not look into them.
//! - A fragment that is not the first begins with no headers; etherparse looks for them.
//! - The authentication header: etherparse takes it off, here it is the next protocol.
//! - An IPv6 payload length of 0 and a UDP length of 0: for etherparse the rest of the slice, as if
//!   it were a jumbogram; here it is what it says (RFC 8200), or malformed (RFC 768).
//! - The reserved flag of IPv4 counts in its checksum; etherparse forgets it.
//! - A header checksum of IPv4 that is 0xffff where it might be 0 sums up, too (RFC 1624); etherparse
//!   computes the other. A UDP length that is 0 for smoltcp is malformed, as here.

#[path = "../common/mod.rs"]
mod common;
mod internet;
mod link;
mod upper;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use mbuf::{
    Address, Chain, Pool,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
    testing,
};
use mbuf_protocols::net::Trouble;
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};
use smoltcp::wire::{EthernetFrame, Ipv4Packet, Ipv6Packet, UdpPacket};

use common::host::{self, Host, MAC, PEER, PEER6, THEIRS, US, US6};

/// What a plugin handed up.
#[derive(Debug)]
struct Seen {
    /// By which it was handed up; `None` without one.
    key: Option<u64>,
    bytes: Vec<u8>,
    meta: mbuf::Meta,
    trouble: Trouble,
}

/// What a plugin made of a packet.
#[derive(Debug)]
enum Verdict {
    Up(Seen),
    /// It answered.
    Down(Vec<u8>),
    Dropped(DropReason),
    /// It holds it, or that was all.
    Kept,
}

struct Top {
    key: Option<u64>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Protocol for Top {
    fn name(&self) -> &str {
        "top"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).shared_slot::<Trouble>()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let (bytes, meta) = (chain.to_vec().unwrap(), *chain.meta());
        let trouble = cx.slot::<Trouble>(&chain);
        self.seen.lock().unwrap().push(Seen { key: self.key, bytes, meta, trouble });
        cx.consumed(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }
}

/// What the plugin makes of the packet, alone between a port and layers of these keys, or of none.
fn verdict(pool: &Pool, plugin: impl Protocol + 'static, keys: &[u64], packet: Chain) -> Verdict {
    let mut builder = Stack::builder(pool);
    let plugin = builder.layer(plugin);
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    for &key in keys {
        let top = builder.layer(Top { key: Some(key), seen: seen.clone() });
        builder.bind(plugin, key, top);
    }
    if keys.is_empty() {
        let top = builder.layer(Top { key: None, seen: seen.clone() });
        builder.stack(plugin, top);
    }
    let port = builder.port(Edge::Packets, plugin);
    let mut stack = builder.build().unwrap();
    stack.open();
    stack.input_one(port, packet);
    if let Some(seen) = seen.lock().unwrap().pop() {
        return Verdict::Up(seen);
    }
    if let Some(answer) = stack.poll_output(PortId(0)).pop() {
        return Verdict::Down(answer.to_vec().unwrap());
    }
    let dropped = stack.stats().layers[0].drops.first().map(|(reason, _)| *reason);
    dropped.map_or(Verdict::Kept, Verdict::Dropped)
}

/// Runs a test over what a strategy makes: `PROPTEST_CASES` of it, or 256.
fn cases<S: Strategy>(strategy: S, test: impl Fn(&Pool, S::Value) -> Result<(), TestCaseError>) {
    let pool = host::pool();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config).run(&strategy, |value| test(&pool, value)).unwrap();
    testing::assert_all_free(&pool);
}

/// Damage to a packet.
#[derive(Debug, Clone)]
struct Damage {
    /// Most of it in the header.
    flips: Vec<(usize, u8)>,
    cut: Option<Index>,
    tail: Vec<u8>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let flips = prop_oneof![2 => Just(0), 2 => Just(1), 1 => Just(3)]
        .prop_flat_map(|n| vec((0..64_usize, any::<u8>()), n));
    let cut = prop::option::weighted(0.2, any::<Index>());
    let tail = prop_oneof![3 => Just(Vec::new()), 1 => vec(any::<u8>(), 1..20)];
    (flips, cut, tail).prop_map(|(flips, cut, tail)| Damage { flips, cut, tail })
}

impl Damage {
    fn done_to(&self, packet: &mut Vec<u8>) {
        for &(at, bits) in &self.flips {
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= bits;
            }
        }
        packet.extend(&self.tail);
        if let Some(cut) = self.cut {
            packet.truncate(cut.index(packet.len() + 1));
        }
    }
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..80)
}

fn ip(ip: IpAddr) -> Address {
    Address::Ip(SocketAddr::new(ip, 0))
}

#[test]
fn what_a_host_sends_is_read_as_it_was_meant() {
    cases((any::<bool>(), 1024..=u16::MAX, payload()), |pool, (v6, port, data)| {
        let mut question = Vec::new();
        let link = PacketBuilder::ethernet2(THEIRS, MAC);
        let written = if v6 {
            let ip = link.ipv6(PEER6.octets(), US6.octets(), 64);
            ip.udp(port, 7).write(&mut question, &data)
        } else {
            link.ipv4(PEER, US, 64).udp(port, 7).write(&mut question, &data)
        };
        written.unwrap();
        let mut host = Host::new(pool);
        let mut answers = host.hears(pool.chain_from(&question).unwrap());
        host.finish();
        prop_assert_eq!(answers.len(), 1);
        let answer = answers.remove(0);

        let packet = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(TransportSlice::Udp(udp)) = &packet.transport else {
            return Err(TestCaseError::fail("no UDP for etherparse"));
        };
        prop_assert_eq!((udp.source_port(), udp.destination_port()), (7, port));
        prop_assert_eq!(udp.payload(), &data[..]);
        let header = udp.to_header();
        let computed = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header().to_header();
                prop_assert_eq!((ip.source, ip.destination, ip.time_to_live), (US, PEER, 64));
                prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                header.calc_checksum_ipv4(&ip, &data).unwrap()
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip = ip.header().to_header();
                prop_assert_eq!((ip.source, ip.destination), (US6.octets(), PEER6.octets()));
                prop_assert_eq!(ip.hop_limit, 64);
                header.calc_checksum_ipv6(&ip, &data).unwrap()
            }
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        prop_assert_eq!(header.checksum, computed);

        let frame = EthernetFrame::new_checked(&answer[..]).unwrap();
        prop_assert_eq!((frame.src_addr().0, frame.dst_addr().0), (MAC, THEIRS));
        let ends: (IpAddr, IpAddr);
        let datagram = if v6 {
            let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
            ends = (packet.src_addr().into(), packet.dst_addr().into());
            packet.payload()
        } else {
            let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
            prop_assert!(packet.verify_checksum());
            ends = (packet.src_addr().into(), packet.dst_addr().into());
            packet.payload()
        };
        let datagram = UdpPacket::new_checked(datagram).unwrap();
        prop_assert!(datagram.verify_checksum(&ends.0.into(), &ends.1.into()));
        prop_assert_eq!((datagram.src_port(), datagram.dst_port()), (7, port));
        prop_assert_eq!(datagram.payload(), &data[..]);
        Ok(())
    });
}
