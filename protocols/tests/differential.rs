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

mod common;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, Ethernet2Slice, Icmpv4Slice, Icmpv4Type,
    Icmpv6Slice, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv4Options,
    Ipv4Slice, Ipv6ExtensionSlice, Ipv6Slice, NetSlice, PacketBuilder, SingleVlanSlice,
    SlicedPacket, TransportSlice, UdpSlice,
};
use mbuf::{
    Address, Chain, Pool,
    chain::checksum,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
    testing,
};
use mbuf_protocols::net::{
    Arp, Ethernet, Icmp, Icmpv6, Ipv4, Ipv6, Trouble, Udp, Vlan, arp, ethernet, ethertype, icmp,
    ipv4, ipv6, protocol, reassembly, udp, vlan,
};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation as SmolOperation, ArpPacket, ArpRepr, EthernetFrame, Icmpv4Packet, Icmpv4Repr,
        Icmpv6Packet, Icmpv6Repr, Ipv4Packet, Ipv6Option, Ipv6Packet, UdpPacket,
    },
};

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

const ETHERTYPES: [u64; 3] = [ethertype::IPV4, ethertype::ARP, ethertype::IPV6];

/// One of these, one that is a length, or whatever stands there.
fn ethertype() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![4 => Just(Some(0x0800)), 1 => Just(Some(0x86dd)), 1 => Just(Some(46)), 1 => Just(None)]
}

#[test]
fn ethernet() {
    cases((vec(any::<u8>(), 0..80), ethertype()), |pool, (mut bytes, kind)| {
        if let (Some(field), Some(kind)) = (bytes.get_mut(12..14), kind) {
            field.copy_from_slice(&kind.to_be_bytes());
        }
        let plugin = Ethernet::new(MAC).promiscuous(true);
        let ours = verdict(pool, plugin, &ETHERTYPES, pool.chain_from(&bytes).unwrap());
        let theirs = Ethernet2Slice::from_slice_without_fcs(&bytes);
        let smol = EthernetFrame::new_checked(&bytes[..]);
        match (ours, theirs, smol) {
            (Verdict::Up(seen), Ok(theirs), Ok(smol)) => {
                prop_assert_eq!(&seen.bytes, theirs.payload_slice());
                prop_assert_eq!(&seen.bytes, smol.payload());
                prop_assert_eq!(seen.meta.source(), Address::Mac(theirs.source()));
                prop_assert_eq!(seen.meta.source(), Address::Mac(smol.src_addr().0));
                prop_assert_eq!(seen.meta.destination(), Address::Mac(theirs.destination()));
                prop_assert_eq!(seen.meta.network_offset(), 14);
                prop_assert_eq!(seen.key, Some(theirs.ether_type().0.into()));
            }
            (Verdict::Dropped(DropReason::UNBOUND), Ok(theirs), Ok(_)) => {
                prop_assert!(!ETHERTYPES.contains(&theirs.ether_type().0.into()));
            }
            (Verdict::Dropped(DropReason::SHORT), Err(_), Err(_)) => {}
            (Verdict::Dropped(ethernet::GROUP_SOURCE), Ok(theirs), Ok(smol)) => {
                prop_assert!(theirs.source()[0] & 1 == 1 && !smol.src_addr().is_unicast());
            }
            (Verdict::Dropped(ethernet::LLC), Ok(theirs), Ok(_)) => {
                prop_assert!(theirs.ether_type().0 < 0x600);
            }
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    });
}

#[test]
fn vlan() {
    cases(
        (vec(any::<u8>(), 0..30), ethertype(), any::<bool>()),
        |pool, (mut bytes, kind, right)| {
            if let (Some(field), Some(kind)) = (bytes.get_mut(2..4), kind) {
                field.copy_from_slice(&kind.to_be_bytes());
            }
            let tag = bytes.first_chunk().map_or(0, |tag| u16::from_be_bytes(*tag)) & 0xfff;
            let vid = if right { tag } else { 7 };
            let ours = verdict(pool, Vlan::new(vid), &ETHERTYPES, pool.chain_from(&bytes).unwrap());
            match (ours, SingleVlanSlice::from_slice(&bytes)) {
                (Verdict::Up(seen), Ok(theirs)) => {
                    let tag = u16::from(theirs.priority_code_point().value()) << 13
                        | u16::from(theirs.drop_eligible_indicator()) << 12
                        | theirs.vlan_identifier().value();
                    // 0xffff is reserved, and means that there is none.
                    prop_assert_eq!(seen.meta.vlan(), Some(tag).filter(|tag| *tag != 0xffff));
                    prop_assert_eq!(&seen.bytes, theirs.payload_slice());
                    prop_assert_eq!(seen.key, Some(theirs.ether_type().0.into()));
                }
                (Verdict::Dropped(DropReason::SHORT), Err(_)) => {}
                (Verdict::Dropped(vlan::OTHER_VLAN), Ok(theirs)) => {
                    prop_assert!(theirs.vlan_identifier().value() != vid);
                }
                (Verdict::Dropped(DropReason::UNBOUND), Ok(theirs)) => {
                    prop_assert!(!ETHERTYPES.contains(&theirs.ether_type().0.into()));
                }
                (Verdict::Dropped(ethernet::LLC), Ok(theirs)) => {
                    prop_assert!(theirs.ether_type().0 < 0x600);
                }
                other => prop_assert!(false, "{other:?}"),
            }
            Ok(())
        },
    );
}

#[test]
fn address_resolution() {
    let address = prop_oneof![Just(US), Just(PEER), any::<[u8; 4]>()];
    let packet = (1..4_u16, prop_oneof![Just(THEIRS), any::<[u8; 6]>()], address.clone(), address);
    cases((packet, damage()), |pool, ((operation, mac, sender, target), damage)| {
        let packet = ArpEthIpv4Packet {
            operation: ArpOperation(operation),
            sender_mac: mac,
            sender_ipv4: sender,
            target_mac: [0; 6],
            target_ipv4: target,
        };
        let mut bytes = packet.to_bytes().to_vec();
        damage.done_to(&mut bytes);
        let ours =
            verdict(pool, Arp::new(MAC, US.into(), 24), &[], pool.chain_from(&bytes).unwrap());
        let theirs = ArpPacketSlice::from_slice(&bytes)
            .ok()
            .and_then(|packet| ArpEthIpv4Packet::try_from(packet.to_packet()).ok());
        let smol = ArpPacket::new_checked(&bytes[..]).and_then(|packet| ArpRepr::parse(&packet));
        prop_assert_eq!(theirs.is_some(), smol.is_ok());
        let Some(theirs) = theirs else {
            let short = bytes.len() < 28;
            let reason = if short { DropReason::SHORT } else { DropReason::MALFORMED };
            prop_assert!(matches!(ours, Verdict::Dropped(r) if r == reason), "{:?}", ours);
            return Ok(());
        };
        let ArpRepr::EthernetIpv4 { operation, source_protocol_addr, .. } = smol.unwrap() else {
            unreachable!()
        };
        prop_assert_eq!(source_protocol_addr.octets(), theirs.sender_ipv4);
        let sender = theirs.sender_ipv4;
        match ours {
            Verdict::Down(answer) => {
                prop_assert_eq!(operation, SmolOperation::Request);
                prop_assert_eq!(theirs.target_ipv4, US);
                let expected = ArpEthIpv4Packet {
                    operation: ArpOperation::REPLY,
                    sender_mac: MAC,
                    sender_ipv4: US,
                    target_mac: theirs.sender_mac,
                    target_ipv4: sender,
                };
                prop_assert_eq!(&answer[..], &expected.to_bytes()[..]);
            }
            Verdict::Dropped(DropReason::MALFORMED) => prop_assert!(
                !matches!(operation, SmolOperation::Request | SmolOperation::Reply)
                    || theirs.sender_mac[0] & 1 == 1
                    || theirs.sender_mac == [0; 6]
                    || sender[0] >= 224
            ),
            Verdict::Dropped(arp::CONFLICT) => prop_assert_eq!(sender, US),
            Verdict::Dropped(arp::OTHER_TARGET) => {
                prop_assert!(operation == SmolOperation::Request && theirs.target_ipv4 != US);
            }
            Verdict::Dropped(arp::UNSOLICITED) => {
                prop_assert!(operation == SmolOperation::Reply || theirs.sender_mac == MAC);
            }
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    });
}

/// Whether the options of IPv4 are one after the other, and none of them routes: written again, by
/// RFC 791, section 3.1.
fn options_are_good(mut options: &[u8]) -> bool {
    loop {
        options = match options {
            [] | [0, ..] => return true,
            [1, rest @ ..] => rest,
            [131 | 137, ..] => return false,
            [_, len, ..] if (2..=options.len()).contains(&usize::from(*len)) => {
                &options[usize::from(*len)..]
            }
            _ => return false,
        };
    }
}

#[test]
fn internet_protocol_4() {
    let address = || prop_oneof![4 => Just(PEER), 1 => any::<[u8; 4]>()];
    let number = prop_oneof![Just(17), Just(1), Just(6), Just(51), any::<u8>()];
    let options = (0..=10_usize).prop_flat_map(|words| {
        let nothing = vec(Just(1_u8), words * 4);
        prop_oneof![nothing, vec(prop_oneof![Just(1), Just(0), 0..=11_u8, any::<u8>()], words * 4)]
    });
    let fragment = (prop_oneof![3 => Just(0), 1 => 0..0x2000_u16], prop::bool::weighted(0.2));
    let header = (address(), address(), number, any::<u8>(), options, fragment);
    cases((header, payload(), damage(), any::<bool>()), |pool, (header, data, damage, fix)| {
        let (source, destination, number, ttl, options, (offset, more)) = header;
        let len = data.len() as u16;
        let mut header = Ipv4Header::new(len, ttl, IpNumber(number), source, destination).unwrap();
        header.options = Ipv4Options::try_from(&options[..]).unwrap();
        header.set_payload_len(data.len()).unwrap();
        header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        header.more_fragments = more;
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = [&header.to_bytes()[..], &data].concat();
        damage.done_to(&mut bytes);
        let header_len = bytes.first().map_or(0, |byte| usize::from(byte & 0xf) * 4);
        if let Some(header) = bytes.get_mut(..header_len).filter(|h| fix && h.len() >= 20) {
            header[10..12].fill(0);
            let sum = checksum::of(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }

        let plugin = Ipv4::new(US.into(), 24).promiscuous(true);
        let keys = [protocol::ICMP, protocol::TCP, protocol::UDP, 51];
        let ours = verdict(pool, plugin, &keys, pool.chain_from(&bytes).unwrap());
        let theirs = Ipv4Slice::from_slice(&bytes);
        let smol = Ipv4Packet::new_checked(&bytes[..]).ok();
        let smol = smol.filter(|packet| packet.version() == 4 && packet.verify_checksum());
        // etherparse wants an authentication header to be whole, which is not for IPv4 to say.
        let authenticated = bytes.get(9) == Some(&51);
        if let Ok(theirs) = &theirs {
            let header = theirs.header().to_header();
            let (stated, computed) = (header.header_checksum, header.calc_header_checksum());
            // The flag that is reserved is none that it knows.
            let reserved = bytes[6] & 0x80 != 0;
            let right = stated == computed || (stated, computed) == (0xffff, 0);
            prop_assert!(reserved || smol.is_some() == right);
        } else if !authenticated {
            prop_assert!(smol.is_none());
        }
        let Some(smol) = smol else {
            prop_assert!(
                matches!(
                    ours,
                    Verdict::Dropped(
                        DropReason::SHORT
                            | DropReason::MALFORMED
                            | ipv4::TRUNCATED
                            | ipv4::BAD_CHECKSUM
                            | ipv4::SOURCE_ROUTED
                    )
                ),
                "{:?}",
                ours
            );
            return Ok(());
        };
        let header = Ipv4HeaderSlice::from_slice(&bytes).unwrap();
        let fragmented = header.is_fragmenting_payload();
        let (source, destination) = (header.source_addr(), header.destination_addr());
        let number = u64::from(header.protocol().0);
        match ours {
            // Nobody speaks it: ICMP is to tell. Or the sender is nobody who can be told.
            Verdict::Up(seen) if !seen.trouble.is_none() => {
                prop_assert!(!keys.contains(&number));
                prop_assert_eq!(&seen.bytes, &bytes[..usize::from(header.total_len())]);
            }
            Verdict::Dropped(DropReason::UNBOUND) => prop_assert!(!keys.contains(&number)),
            Verdict::Up(seen) => {
                prop_assert!(!fragmented && options_are_good(header.options()));
                let end = usize::from(header.total_len());
                prop_assert_eq!(&seen.bytes, &bytes[header.slice().len()..end]);
                prop_assert_eq!(&seen.bytes, smol.payload());
                if let (Ok(theirs), false) = (&theirs, authenticated) {
                    prop_assert_eq!(&seen.bytes, theirs.payload().payload);
                }
                prop_assert_eq!(seen.meta.source(), ip(source.into()));
                prop_assert_eq!(seen.meta.destination(), ip(smol.dst_addr().into()));
                prop_assert_eq!(usize::from(seen.meta.transport_offset()), header.slice().len());
                prop_assert_eq!(seen.key, Some(number));
            }
            Verdict::Kept => prop_assert!(fragmented),
            Verdict::Dropped(
                ipv4::TINY_FRAGMENT | reassembly::BAD_FRAGMENT | reassembly::FRAGMENT_TOO_LONG,
            ) => prop_assert!(fragmented),
            Verdict::Dropped(DropReason::MALFORMED | ipv4::SOURCE_ROUTED) => {
                prop_assert!(!options_are_good(header.options()));
            }
            Verdict::Dropped(ipv4::BAD_SOURCE) => prop_assert!(
                source.is_loopback()
                    || source.octets()[0] >= 224
                    || source == Ipv4Addr::new(192, 0, 2, 255)
                    || destination.is_loopback()
            ),
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    });
}

fn ip(ip: IpAddr) -> Address {
    Address::Ip(SocketAddr::new(ip, 0))
}

/// An extension header or two, by their numbers, and what they begin with.
fn extensions() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let options = prop_oneof![
        2 => Just(vec![1, 4, 0, 0, 0, 0]),
        1 => vec(prop_oneof![Just(0), Just(1), Just(4), any::<u8>()], 6),
        1 => vec(prop_oneof![Just(0), Just(1), Just(6), any::<u8>()], 14),
    ];
    let routing = (any::<u8>(), prop_oneof![Just(0), any::<u8>()])
        .prop_map(|(kind, left)| [kind, left, 0, 0, 0, 0].to_vec());
    let fragment = prop_oneof![Just([0, 0]), any::<[u8; 2]>()]
        .prop_map(|[high, low]| [high, low, 0, 0, 0, 9].to_vec());
    let header = prop_oneof![
        2 => (prop_oneof![4 => Just(60_u8), 1 => Just(0)], options.clone()),
        1 => (Just(43), routing),
        1 => (Just(44), fragment),
    ];
    let first = prop::option::weighted(0.3, (Just(0), options));
    (first, vec(header, 0..4)).prop_map(|(first, rest)| first.into_iter().chain(rest).collect())
}

#[test]
fn internet_protocol_6() {
    let upper = prop_oneof![Just(17_u8), Just(58), Just(59), Just(51), any::<u8>()];
    cases((extensions(), upper, payload(), damage()), |pool, (headers, upper, data, damage)| {
        let next = |n: usize| headers.get(n).map_or(upper, |(number, _)| *number);
        let mut body = Vec::new();
        for (n, (number, content)) in headers.iter().enumerate() {
            let length = if *number == 44 { 0 } else { (content.len() / 8) as u8 };
            body.extend([next(n + 1), length]);
            body.extend(content);
        }
        body.extend(&data);
        let mut bytes = [&[0x60, 0, 0, 0, 0, body.len() as u8, next(0), 64][..]].concat();
        bytes.extend([PEER6.octets(), US6.octets()].concat());
        bytes.extend(&body);
        damage.done_to(&mut bytes);

        let plugin = Ipv6::new(US6, 64);
        let keys = [protocol::UDP, protocol::ICMPV6];
        let ours = verdict(pool, plugin, &keys, pool.chain_from(&bytes).unwrap());
        let theirs = Ipv6Slice::from_slice(&bytes);
        let smol = Ipv6Packet::new_checked(&bytes[..]).ok().filter(|packet| packet.version() == 6);
        let Some(smol) = smol else {
            // An option that is to be told of, in a packet of another version, is not.
            let wrong = [DropReason::SHORT, DropReason::MALFORMED, ipv6::TRUNCATED];
            prop_assert!(matches!(ours, Verdict::Dropped(r) if wrong.contains(&r)), "{:?}", ours);
            prop_assert!(theirs.is_err());
            return Ok(());
        };
        if smol.payload_len() == 0 && bytes.len() > 40 {
            // etherparse takes the rest of the slice.
            match ours {
                Verdict::Up(seen) => prop_assert!(seen.bytes.is_empty() || !seen.trouble.is_none()),
                Verdict::Down(_) => prop_assert!(false, "nothing answers"),
                Verdict::Kept | Verdict::Dropped(_) => {}
            }
            return Ok(());
        }
        let parts: Vec<_> = theirs
            .as_ref()
            .map_or(Vec::new(), |theirs| theirs.extensions().clone().into_iter().collect());
        let is_fragment = |part: &&_| matches!(part, Ipv6ExtensionSlice::Fragment(_));
        let fragments = parts.iter().filter(is_fragment).count();
        let authenticated =
            parts.iter().any(|part| matches!(part, Ipv6ExtensionSlice::Authentication(_)))
                || theirs.is_err() && bytes[6..].contains(&51);
        if authenticated {
            return Ok(());
        }
        match ours {
            Verdict::Up(seen) if seen.trouble.is_none() => {
                let Ok(theirs) = theirs else {
                    prop_assert!(false, "it is none for etherparse: {theirs:?}");
                    return Ok(());
                };
                prop_assert!(!theirs.is_payload_fragmented());
                prop_assert!(parts.iter().all(|part| unknown_option(part) != Some(true)));
                let payload = theirs.payload();
                prop_assert_eq!(&seen.bytes, payload.payload);
                prop_assert_eq!(seen.key, Some(payload.ip_number.0.into()));
                prop_assert_eq!(seen.meta.source(), ip(theirs.header().source_addr().into()));
                prop_assert_eq!(seen.meta.destination(), ip(smol.dst_addr().into()));
                let place = usize::from(seen.meta.transport_offset());
                prop_assert_eq!(place, 40 + theirs.extensions().slice().len());
            }
            // It is to be told: all of the packet is there.
            Verdict::Up(seen) => {
                prop_assert_eq!(&seen.bytes, &bytes[..smol.total_len()]);
                let routed = |part: &Ipv6ExtensionSlice<'_>| {
                    matches!(part,
                    Ipv6ExtensionSlice::Routing(header) if header.payload()[1] != 0)
                };
                let unknown = |number: IpNumber| !keys.contains(&number.0.into());
                prop_assert!(
                    theirs.is_err()
                        || theirs.is_ok_and(|theirs| unknown(theirs.payload().ip_number))
                        || fragments > 0
                        || parts.iter().any(|part| routed(part) || unknown_option(part).is_some())
                );
            }
            // Behind the header of a fragment that is not the first etherparse looks for headers.
            Verdict::Kept => {
                let last = |number: IpNumber| u64::from(number.0) == protocol::NO_NEXT_HEADER;
                let kept = theirs.map_or(bytes[6..].contains(&44), |theirs| {
                    theirs.is_payload_fragmented() || last(theirs.payload().ip_number)
                });
                prop_assert!(kept);
            }
            Verdict::Dropped(DropReason::MALFORMED) => prop_assert!(
                theirs.is_err()
                    || fragments > 1
                    || parts.iter().any(|part| unknown_option(part) == Some(true))
            ),
            Verdict::Dropped(ipv6::UNKNOWN_OPTION) => {
                prop_assert!(
                    theirs.is_err() || parts.iter().any(|part| unknown_option(part).is_some())
                );
            }
            Verdict::Dropped(ipv6::TOO_MANY_HEADERS) => {
                prop_assert!(theirs.is_err() || parts.len() > 8, "{} headers", parts.len());
            }
            Verdict::Dropped(ipv6::TINY_FRAGMENT) => {
                prop_assert!(theirs.is_err() || fragments > 0);
            }
            Verdict::Dropped(reassembly::BAD_FRAGMENT) => prop_assert!(fragments > 0),
            Verdict::Dropped(ipv6::OTHER_HOST) => {
                let to = smol.dst_addr();
                prop_assert!(to != US6);
            }
            Verdict::Dropped(ipv6::BAD_SOURCE) => {
                let from = smol.src_addr();
                prop_assert!(from == US6 || from.is_multicast());
            }
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    });
}

/// Whether there is an option in it that is neither padding nor to be skipped: `Some(true)` where one is
/// malformed. As smoltcp reads options.
fn unknown_option(part: &Ipv6ExtensionSlice<'_>) -> Option<bool> {
    let (Ipv6ExtensionSlice::HopByHop(header) | Ipv6ExtensionSlice::DestinationOptions(header)) =
        part
    else {
        return None;
    };
    let mut rest = header.payload();
    let mut unknown = None;
    while !rest.is_empty() {
        let Ok(option) = Ipv6Option::new_checked(rest) else { return unknown.or(Some(true)) };
        let kind = rest[0];
        if kind > 1 && kind >> 6 != 0 {
            unknown = unknown.or(Some(false));
        }
        let len = if kind == 0 { 1 } else { 2 + usize::from(option.data_len()) };
        rest = &rest[len..];
    }
    unknown
}

#[test]
fn user_datagrams() {
    let ports = (any::<u16>(), 1..=u16::MAX);
    let kind = (any::<bool>(), prop::bool::weighted(0.1), any::<bool>());
    cases((ports, payload(), damage(), kind), |pool, ((from, to), data, damage, kind)| {
        let (v6, without, fix) = kind;
        let (source, destination): (IpAddr, IpAddr) =
            if v6 { (PEER6.into(), US6.into()) } else { (PEER.into(), US.into()) };
        let mut packet = Vec::new();
        if v6 {
            PacketBuilder::ipv6(PEER6.octets(), US6.octets(), 64)
                .udp(from, to)
                .write(&mut packet, &data)
                .unwrap();
        } else {
            PacketBuilder::ipv4(PEER, US, 64).udp(from, to).write(&mut packet, &data).unwrap();
        }
        let mut bytes = packet.split_off(if v6 { 40 } else { 20 });
        damage.done_to(&mut bytes);
        if let (Ok(slice), true) = (UdpSlice::from_slice(&bytes), fix || without) {
            let header = slice.to_header();
            let sum = match (without, v6) {
                (true, _) => 0,
                (_, true) => header
                    .calc_checksum_ipv6_raw(PEER6.octets(), US6.octets(), slice.payload())
                    .unwrap(),
                _ => header.calc_checksum_ipv4_raw(PEER, US, slice.payload()).unwrap(),
            };
            bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        }

        let mut chain = pool.chain_from(&bytes).unwrap();
        chain.meta_mut().set_source(ip(source));
        chain.meta_mut().set_destination(ip(destination));
        let ours = verdict(pool, Udp::new().any_port(true), &[], chain);
        let theirs = UdpSlice::from_slice(&bytes);
        let smol = UdpPacket::new_checked(&bytes[..]);
        match (ours, theirs, smol) {
            (Verdict::Up(seen), Ok(theirs), Ok(smol)) => {
                prop_assert!(smol.verify_checksum(&source.into(), &destination.into()));
                prop_assert!(!v6 || smol.checksum() != 0);
                prop_assert_eq!(&seen.bytes, theirs.payload());
                prop_assert_eq!(&seen.bytes, smol.payload());
                let from = SocketAddr::new(source, theirs.source_port());
                prop_assert_eq!(seen.meta.source(), Address::Ip(from));
                let to = SocketAddr::new(destination, smol.dst_port());
                prop_assert_eq!(seen.meta.destination(), Address::Ip(to));
            }
            (Verdict::Dropped(ipv4::BAD_CHECKSUM), Ok(_), Ok(smol)) => {
                prop_assert!(!smol.verify_checksum(&source.into(), &destination.into()));
            }
            (Verdict::Dropped(udp::NO_CHECKSUM), Ok(theirs), Ok(_)) => {
                prop_assert!(v6 && theirs.checksum() == 0);
            }
            (Verdict::Dropped(DropReason::SHORT), Err(_), Err(_)) => {}
            (Verdict::Dropped(DropReason::MALFORMED), theirs, Err(_)) => {
                prop_assert!(theirs.is_err() || theirs.is_ok_and(|slice| slice.length() == 0));
            }
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    });
}

/// The header of an ICMP message and what follows, with a right checksum if wanted.
fn message(kind: u8, data: &[u8], damage: &Damage, sum: impl Fn(&[u8]) -> Option<u16>) -> Vec<u8> {
    let mut bytes = [&[kind, 0, 0, 0, 1, 2, 3, 4][..], data].concat();
    damage.done_to(&mut bytes);
    if let Some(field) = bytes.get_mut(2..4) {
        field.fill(0);
    }
    if let (true, Some(sum)) = (bytes.len() >= 4, sum(&bytes)) {
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

#[test]
fn control_messages() {
    let kind = prop_oneof![3 => Just(8), 1 => Just(0), 1 => Just(3), 1 => any::<u8>()];
    cases((kind, payload(), damage(), any::<bool>()), |pool, (kind, data, damage, right)| {
        let bytes = message(kind, &data, &damage, |bytes| right.then(|| checksum::of(bytes)));
        let mut chain = pool.chain_from(&bytes).unwrap();
        chain.meta_mut().set_source(ip(PEER.into()));
        chain.meta_mut().set_destination(ip(US.into()));
        let ours = verdict(pool, Icmp::new(), &[], chain);
        let theirs = Icmpv4Slice::from_slice(&bytes);
        let smol = Icmpv4Packet::new_checked(&bytes[..]);
        let checks = ChecksumCapabilities::default();
        match (ours, theirs) {
            (Verdict::Down(answer), Ok(theirs)) => {
                let smol = smol.unwrap();
                let Icmpv4Repr::EchoRequest { ident, seq_no, data } =
                    Icmpv4Repr::parse(&smol, &checks).unwrap()
                else {
                    return Err(TestCaseError::fail("it was no question"));
                };
                let Icmpv4Type::EchoRequest(echo) = theirs.icmp_type() else {
                    return Err(TestCaseError::fail("it was no question for etherparse"));
                };
                prop_assert_eq!((echo.id, echo.seq), (ident, seq_no));
                let smol = Icmpv4Packet::new_checked(&answer[..]).unwrap();
                let reply = Icmpv4Repr::parse(&smol, &checks).unwrap();
                prop_assert_eq!(reply, Icmpv4Repr::EchoReply { ident, seq_no, data });
                let reply = Icmpv4Slice::from_slice(&answer).unwrap();
                prop_assert_eq!(reply.icmp_type(), Icmpv4Type::EchoReply(echo));
            }
            (Verdict::Dropped(DropReason::SHORT), Err(_)) => prop_assert!(smol.is_err()),
            (Verdict::Dropped(ipv4::BAD_CHECKSUM), theirs) => {
                // A time stamp has one length for etherparse.
                prop_assert!(theirs.is_ok() || matches!(bytes[0], 13 | 14));
                prop_assert!(!smol.unwrap().verify_checksum());
            }
            (Verdict::Dropped(icmp::UNKNOWN_TYPE), _) => {
                prop_assert!(bytes[0] != 8 || bytes[1] != 0);
            }
            (Verdict::Dropped(DropReason::MALFORMED), Ok(_)) => {
                // What is quoted is none for smoltcp either, which does not look at its version.
                let parsed = Icmpv4Repr::parse(&smol.unwrap(), &checks);
                prop_assert!(parsed.is_err() || bytes[8] >> 4 != 4, "{:?}", parsed);
            }
            (Verdict::Kept, Ok(_)) => prop_assert!(matches!(bytes[0], 0 | 3 | 4 | 5 | 11 | 12)),
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    });
}

#[test]
fn control_messages_of_6() {
    let kind = prop_oneof![3 => Just(128), 1 => Just(129), 1 => Just(1), 1 => any::<u8>()];
    cases((kind, payload(), damage(), any::<bool>()), |pool, (kind, data, damage, right)| {
        let sum = |bytes: &[u8]| {
            let len = bytes.len() as u32;
            let mut sum = mbuf_protocols::net::pseudo_header_v6(PEER6, US6, 58, len);
            sum.add(bytes);
            right.then(|| sum.checksum())
        };
        let bytes = message(kind, &data, &damage, sum);
        let mut chain = pool.chain_from(&bytes).unwrap();
        chain.meta_mut().set_source(ip(PEER6.into()));
        chain.meta_mut().set_destination(ip(US6.into()));
        let ours = verdict(pool, Icmpv6::new(), &[], chain);
        let theirs = Icmpv6Slice::from_slice(&bytes);
        let smol = Icmpv6Packet::new_checked(&bytes[..]);
        let checks = ChecksumCapabilities::default();
        if let Ok(theirs) = &theirs {
            let valid = theirs.is_checksum_valid(PEER6.octets(), US6.octets());
            let bad = matches!(ours, Verdict::Dropped(ipv4::BAD_CHECKSUM));
            prop_assert_eq!(valid, !bad);
        }
        match (ours, theirs) {
            (Verdict::Down(answer), Ok(theirs)) => {
                let smol = smol.unwrap();
                let Icmpv6Repr::EchoRequest { ident, seq_no, data } =
                    Icmpv6Repr::parse(&PEER6, &US6, &smol, &checks).unwrap()
                else {
                    return Err(TestCaseError::fail("it was no question"));
                };
                prop_assert!(matches!(theirs.icmp_type(), Icmpv6Type::EchoRequest(_)));
                let smol = Icmpv6Packet::new_checked(&answer[..]).unwrap();
                let reply = Icmpv6Repr::parse(&US6, &PEER6, &smol, &checks).unwrap();
                prop_assert_eq!(reply, Icmpv6Repr::EchoReply { ident, seq_no, data });
                let reply = Icmpv6Slice::from_slice(&answer).unwrap();
                prop_assert!(reply.is_checksum_valid(US6.octets(), PEER6.octets()));
            }
            (Verdict::Dropped(DropReason::SHORT), Err(_)) => {}
            (Verdict::Dropped(ipv4::BAD_CHECKSUM), Ok(_)) => {
                let wrong = smol.map_or(true, |packet| !packet.verify_checksum(&PEER6, &US6));
                prop_assert!(wrong);
            }
            (Verdict::Dropped(icmp::UNKNOWN_TYPE), Ok(_)) => {
                prop_assert!(!matches!(bytes[0], 1..=4) && bytes[..2] != [128, 0]);
            }
            (Verdict::Dropped(DropReason::MALFORMED), Ok(_)) => {
                prop_assert!(bytes[0] <= 4 && (bytes.len() < 48 || bytes[8] >> 4 != 6));
            }
            (Verdict::Kept, Ok(_)) => prop_assert!(matches!(bytes[0], 1..=4 | 129)),
            other => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    });
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
