//! Echo and errors; that they are as Linux makes them is shown in `ipv6::tests`.

use mbuf::{stack::Time, testing::Conformance};

use super::*;
use crate::{
    net::{
        Nd,
        ipv6::tests::{PING, SOLICITATION, acquainted, hex, host_with, offloaded, ours},
    },
    rig::Rig,
};

/// The datagram to a closed port, at the end of a quote in an error.
const DATAGRAM: &str = "02000000000202000000000186dd600d1ec6000a114020010db800000000000000000000000120\
    010db8000000000000000000000002c25a0009000a5b906869";

fn close(mut rig: Rig) {
    rig.stack.signal(mbuf::stack::Signal::Shutdown);
    assert_eq!(rig.stack.next_timeout(), None);
    rig.finish();
}

/// An ICMPv6 message in place of the captured ping's, with a right checksum.
fn message(body: &[u8]) -> Vec<u8> {
    let mut bytes = hex(PING);
    bytes.truncate(54);
    bytes[19] = body.len() as u8;
    bytes.extend_from_slice(body);
    let address = |at: usize| Ipv6Addr::from_octets(bytes[at..at + 16].try_into().unwrap());
    let mut sum = pseudo_header_v6(address(22), address(38), 58, body.len() as u32);
    sum.add(body);
    bytes[56..58].copy_from_slice(&sum.checksum().to_be_bytes());
    bytes
}

#[test]
fn errors_keep_to_their_rate() {
    let (nd, ip): (Nd, _) = ours();
    let mut rig = host_with(nd, ip, Icmpv6::new().rate(2, Duration::from_secs(1)));
    rig.feed(&hex(SOLICITATION));
    assert_eq!(rig.sent().len(), 1);
    for _ in 0..5 {
        let datagram = offloaded(&rig, &hex(DATAGRAM));
        rig.feed_chain(datagram);
    }
    assert_eq!((rig.sent().len(), rig.drops("icmpv6", RATE_LIMITED)), (2, 3));
    rig.stack.advance(Time::from_millis(1000));
    for _ in 0..2 {
        let datagram = offloaded(&rig, &hex(DATAGRAM));
        rig.feed_chain(datagram);
    }
    assert_eq!((rig.sent().len(), rig.drops("icmpv6", RATE_LIMITED)), (1, 4));
    close(rig);
}

#[test]
fn no_error_about_a_datagram_to_many() {
    let mut rig = acquainted();
    let mut bytes = hex(DATAGRAM);
    bytes[38..54].copy_from_slice(&"ff02::1".parse::<Ipv6Addr>().unwrap().octets());
    bytes[20] = 200; // a next header that nobody knows
    rig.feed(&bytes);
    assert_eq!(rig.drops("icmpv6", NO_ERROR_ABOUT), 1);
    assert!(rig.sent().is_empty());
    close(rig);
}

#[test]
fn what_comes_is_checked() {
    let mut rig = acquainted();
    let mut wrong = hex(PING);
    wrong[60] ^= 1;
    rig.feed(&wrong);
    assert_eq!(rig.drops("icmpv6", BAD_CHECKSUM), 1);
    rig.feed(&message(&[1, 4, 0, 0, 0, 0, 0, 0, 0x60]));
    assert_eq!(rig.drops("icmpv6", DropReason::MALFORMED), 1, "it quotes no packet");
    rig.feed(&message(&[200, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(rig.drops("icmpv6", UNKNOWN_TYPE), 1);
    rig.feed(&message(&[128, 0, 0, 0]));
    assert_eq!(rig.drops("icmpv6", DropReason::SHORT), 1);
    let quote = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &hex(DATAGRAM)[14..]].concat();
    rig.feed(&message(&quote));
    rig.feed(&message(&[129, 0, 0, 0, 0, 0, 0, 0]));
    assert!(rig.sent().is_empty(), "errors and replies are taken");
    close(rig);
}

#[test]
fn conforms() {
    Conformance::new("icmpv6", || Box::new(Icmpv6::new()) as _)
        .top()
        .wire(vec![hex(PING)[54..].to_vec()])
        .run();
}
