//! Ethernet, VLAN tags, ARP.

use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, Ethernet2Slice, SingleVlanSlice};
use mbuf::{Address, stack::DropReason};
use mbuf_protocols::net::{Arp, Ethernet, Vlan, arp, ethernet, ethertype, vlan};
use proptest::{collection::vec, prelude::*};
use smoltcp::wire::{ArpOperation as SmolOperation, ArpPacket, ArpRepr, EthernetFrame};

use crate::{
    Verdict, cases,
    common::host::{MAC, PEER, THEIRS, US},
    damage, verdict,
};

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
