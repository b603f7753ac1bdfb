//! IPv4 with options and fragments, IPv6 with extension headers.

use std::net::Ipv4Addr;

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv4Options, Ipv4Slice,
    Ipv6ExtensionSlice, Ipv6Slice,
};
use mbuf::{chain::checksum, stack::DropReason};
use mbuf_protocols::net::{Ipv4, Ipv6, ipv4, ipv6, protocol, reassembly};
use proptest::{collection::vec, prelude::*};
use smoltcp::wire::{Ipv4Packet, Ipv6Option, Ipv6Packet};

use crate::{
    Verdict, cases,
    common::host::{PEER, PEER6, US, US6},
    damage, ip, payload, verdict,
};

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
