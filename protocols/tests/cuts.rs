//! A packet for each plugin, through a host that has them all: cut off at every length, and in two
//! segments at every byte.

mod common;

use mbuf::{Chain, chain::checksum, testing};
use mbuf_protocols::{
    dns,
    tunnel::{geneve, vxlan},
};

use common::{
    arp, frame,
    host::{
        self, EXPERIMENT, Host, MAC, PEER, THEIRS, US, datagram, solicitation, to_host, to_host6,
    },
    icmp, ip,
};

fn with_options() -> Vec<u8> {
    let mut bytes = ip(1, 0, 1, PEER, US, &icmp(8, 0, [0, 1, 0, 1], b"options"));
    // Nothing, a record of the route with room for one, the end.
    bytes.splice(20..20, [1, 7, 7, 4, 0, 0, 0, 0]);
    let len = bytes.len() as u16;
    bytes[0] = 0x47;
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    bytes[10..12].fill(0);
    let sum = checksum::of(&bytes[..28]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn gre() -> Vec<u8> {
    let inside = frame(MAC, THEIRS, EXPERIMENT, b"in GRE");
    let mut bytes = [&[0xa0, 0, 0x65, 0x58, 0, 0, 0, 0, 0, 0, 0, 7][..], &inside].concat();
    let sum = checksum::of(&bytes);
    bytes[4..6].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A packet for each plugin. Each has one answer.
fn table() -> Vec<(&'static str, Vec<u8>)> {
    let ping6 = [128, 0, 0, 0, 0, 1, 0, 1, b'6'];
    // Hop-by-hop options, destination options, an atomic fragment.
    let headers = [60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 58, 0, 0, 0, 0, 0, 0, 1];
    let routed = [58, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\x03org\0\0\x01\0\x01";
    let inner = frame(THEIRS, MAC, EXPERIMENT, b"inside");
    let mut who_has = frame([0xff; 6], THEIRS, 0x0806, &arp(1, (THEIRS, PEER), ([0; 6], US)));
    who_has.resize(60, 0);
    let tagged = |tags: &[u8]| [&MAC[..], &THEIRS, tags, &[0x88, 0xb5], b"tagged"].concat();
    vec![
        ("ARP", who_has),
        ("802.1Q", tagged(&[0x81, 0, 0, 100])),
        ("QinQ", tagged(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 100])),
        ("ICMP", to_host(&ip(1, 0, 1, PEER, US, &icmp(8, 0, [0, 1, 0, 1], b"abc")))),
        ("IPv4 with options", to_host(&with_options())),
        ("an unknown protocol", to_host(&ip(1, 0, 99, PEER, US, b"what?"))),
        ("UDP", datagram(7, b"hello")),
        ("a closed port", datagram(33, b"anybody?")),
        ("DNS", datagram(dns::PORT, question)),
        ("VXLAN", datagram(vxlan::PORT, &[&[8, 0, 0, 0, 0, 0, 42, 0], &inner[..]].concat())),
        (
            "GENEVE with an option",
            datagram(
                geneve::PORT,
                &[&[2, 0, 0x88, 0xb5, 0, 0, 42, 0, 1, 2, 3, 1, 0, 0, 0, 0][..], b"in it"].concat(),
            ),
        ),
        ("GRE", to_host(&ip(1, 0, 47, PEER, US, &gre()))),
        ("MPLS", frame(MAC, THEIRS, 0x8847, &[0, 0x3e, 0x80, 9, 0, 6, 0x41, 3, b'l', b'!'])),
        ("neighbour discovery", solicitation()),
        ("ICMPv6", to_host6(58, &[], 58, &ping6)),
        ("IPv6 with headers", to_host6(0, &headers, 58, &ping6)),
        ("IPv6 with a route", to_host6(43, &routed, 58, &ping6)),
        ("UDP over IPv6", to_host6(17, &[], 17, &[0xfa, 0, 0, 7, 0, 10, 0, 0, b'h', b'i'])),
        ("a closed port of IPv6", to_host6(17, &[], 17, &[0xfa, 0, 0, 9, 0, 10, 0, 0, b'h', b'i'])),
    ]
}

#[test]
fn a_packet_cut_off_anywhere_is_dropped_or_answered_as_what_is_left_of_it() {
    let pool = host::pool();
    for (name, packet) in table() {
        let mut host = Host::new(&pool);
        let answers = host.hears(pool.chain_from(&packet).unwrap());
        assert_eq!(answers.len(), 1, "{name}");
        host.finish();
        let mut answered = 0;
        for len in 0..packet.len() {
            let mut host = Host::new(&pool);
            let dropped = host.dropped();
            let found = host.hears(pool.chain_from(&packet[..len]).unwrap());
            let what = format!("{name}, {len} bytes of {}", packet.len());
            if found.is_empty() {
                assert_eq!(host.dropped(), dropped + 1, "{what}");
            } else {
                // Padding is missing; or what nobody says the length of.
                let rest = answers[0].len().saturating_sub(packet.len() - len);
                let wanted = [answers[0].clone(), answers[0][..rest].to_vec()];
                assert_eq!(found.len(), 1, "{what}");
                assert!(wanted.contains(&found[0]), "{what}: {found:x?}");
                answered += 1;
            }
            host.finish();
        }
        let may_be_shorter = ["ARP", "802.1Q", "QinQ", "MPLS"].contains(&name);
        assert_eq!(answered > 0, may_be_shorter, "{name}: {answered} beginnings were answered");
    }
}

#[test]
fn a_packet_in_two_segments_is_the_same_packet() {
    let pool = host::pool();
    for (name, packet) in table() {
        let run = |chain: Chain| {
            let mut host = Host::new(&pool);
            let answers = host.hears(chain);
            (answers, host.finish())
        };
        let whole = run(pool.chain_from(&packet).unwrap());
        for (n, chain) in testing::every_cut(&pool, &packet).enumerate() {
            assert_eq!(run(chain.unwrap()), whole, "{name}, cut at {}", n + 1);
        }
        assert_eq!(run(testing::bytewise(&pool, &packet).unwrap()), whole, "{name}, byte by byte");
    }
}
