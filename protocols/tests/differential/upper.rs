//! UDP, ICMP, ICMPv6.

use std::net::{IpAddr, SocketAddr};

use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, PacketBuilder, UdpSlice};
use mbuf::{Address, chain::checksum, stack::DropReason};
use mbuf_protocols::net::{Icmp, Icmpv6, Udp, icmp, ipv4, udp};
use proptest::prelude::*;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, UdpPacket},
};

use crate::{
    Damage, Verdict, cases,
    common::host::{PEER, PEER6, US, US6},
    damage, ip, payload, verdict,
};

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
