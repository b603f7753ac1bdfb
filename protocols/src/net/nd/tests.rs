//! Neighbours, by hand-written messages; the captured ones are those of `ipv6::tests`.

use mbuf::testing::{self, Conformance};

use super::{
    message::{OVERRIDE, SOLICITED},
    *,
};
use crate::{
    net::{
        Icmpv6, Ipv6,
        ipv6::tests::{
            ADVERTISEMENT, For, OURS, PING, PONG, SOLICITATION, THEIRS, acquainted, hex, host,
            host_with, ip, ours,
        },
    },
    rig::Rig,
};

/// A machine that has just come up asks for routers; captured as well.
const ROUTER_SOLICITATION: &str = "33330000000202000000000286dd6000000000103afffe80000000000000000000f\
    ffe000002ff02000000000000000000000000000285007b2a000000000101020000000002";

/// The frame with a byte changed, and the checksum of the message made right again.
fn changed(text: &str, at: usize, value: u8) -> Vec<u8> {
    let mut bytes = hex(text);
    bytes[at] = value;
    right(bytes)
}

fn right(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[56..58].fill(0);
    let address = |at: usize| Ipv6Addr::from_octets(bytes[at..at + 16].try_into().unwrap());
    let len = bytes.len() - 54;
    let mut sum = crate::net::pseudo_header_v6(address(22), address(38), 58, len as u32);
    sum.add(&bytes[54..]);
    bytes[56..58].copy_from_slice(&sum.checksum().to_be_bytes());
    bytes
}

/// A captured advertisement turned around: theirs, to us.
fn their_advertisement(flags: u8) -> Vec<u8> {
    let mut bytes = hex(ADVERTISEMENT);
    bytes[..6].copy_from_slice(&OURS);
    bytes[6..12].copy_from_slice(&THEIRS);
    (bytes[37], bytes[53], bytes[58], bytes[77], bytes[85]) = (1, 2, flags, 1, 1);
    right(bytes)
}

fn close(mut rig: Rig) {
    rig.stack.signal(Signal::Shutdown);
    assert_eq!((rig.stack.next_timeout(), rig.stack.held().chains), (None, 0));
    rig.finish();
}

#[test]
fn a_captured_solicitation_is_answered_as_linux_does() {
    let mut rig = host();
    rig.feed(&hex(SOLICITATION));
    assert_eq!(rig.sent(), [hex(ADVERTISEMENT)]);
    let chain = testing::bytewise(&rig.pool, &hex(SOLICITATION)).unwrap();
    rig.feed_chain(chain);
    assert_eq!(rig.sent(), [hex(ADVERTISEMENT)]);
    close(rig);
}

#[test]
fn an_unknown_neighbour_is_asked_for_and_the_packet_waits() {
    let mut rig = host();
    rig.feed(&hex(PING));
    let sent = rig.sent();
    assert_eq!((sent.len(), rig.stack.held().chains), (1, 1));
    // The captured solicitation, from our side.
    let mut question = hex(SOLICITATION);
    (question[5], question[11], question[37], question[53]) = (1, 2, 2, 1);
    (question[77], question[85]) = (1, 2);
    assert_eq!(sent[0], right(question));
    rig.feed(&their_advertisement(SOLICITED | OVERRIDE));
    let sent = rig.sent();
    assert_eq!(&sent[0][18..], &hex(PONG)[18..]);
    assert_eq!(sent[0][..14], hex(PONG)[..14]);
    // From now on it is known.
    rig.feed(&hex(PING));
    assert_eq!((rig.sent().len(), rig.stack.held().chains), (1, 0));
    close(rig);
}

#[test]
fn a_neighbour_that_does_not_answer_is_asked_three_times() {
    let mut rig = host();
    rig.feed(&hex(PING));
    assert_eq!(rig.settle(Duration::from_secs(10)).len(), 3 * 86);
    assert_eq!((rig.drops("nd", NO_NEIGHBOUR), rig.stack.held().chains), (1, 0));
    close(rig);
}

#[test]
fn a_stale_neighbour_in_use_is_probed_alone_and_forgotten() {
    let mut rig = acquainted();
    rig.feed(&hex(PING));
    assert_eq!(rig.sent().len(), 1);
    let probes = rig.settle(Duration::from_secs(5));
    assert_eq!((probes.len(), &probes[..6], probes[54]), (86, &THEIRS[..], message::SOLICITATION));
    // It answers, and is believed.
    rig.feed(&their_advertisement(SOLICITED));
    assert_eq!(rig.stack.next_timeout(), None);
    // Later, it does not.
    rig.stack.advance(rig.stack.now() + REACHABLE);
    rig.feed(&hex(PING));
    assert_eq!(rig.sent().len(), 1);
    assert_eq!(rig.settle(Duration::from_secs(20)).len(), 3 * 86);
    rig.feed(&hex(PING));
    assert_eq!((rig.sent()[0][0], rig.stack.held().chains), (0x33, 1), "asked anew");
    close(rig);
}

#[test]
fn an_advertisement_makes_no_entry() {
    let mut rig = host();
    rig.feed(&their_advertisement(SOLICITED | OVERRIDE));
    assert_eq!(rig.drops("nd", UNSOLICITED), 1);
    rig.feed(&hex(PING));
    assert_eq!(rig.sent()[0][..2], [0x33, 0x33], "it has to ask");
    close(rig);
}

#[test]
fn another_mac_without_override_changes_nothing() {
    let mut rig = acquainted();
    let mut other = their_advertisement(0);
    other[85] = 99;
    rig.feed(&right(other.clone()));
    rig.feed(&hex(PING));
    assert_eq!(rig.sent()[0][..6], THEIRS);
    other[58] = OVERRIDE;
    rig.feed(&right(other));
    rig.feed(&hex(PING));
    assert_eq!(rig.sent()[0][5], 99);
    close(rig);
}

#[test]
fn malformed_messages_are_dropped_for_their_reason() {
    let mut wrong = hex(SOLICITATION);
    wrong[57] ^= 1;
    let cases = [
        (changed(SOLICITATION, 21, 254), BAD_HOP_LIMIT),
        (wrong, BAD_CHECKSUM),
        (changed(SOLICITATION, 55, 1), DropReason::MALFORMED),
        (changed(SOLICITATION, 62, 0xff), DropReason::MALFORMED),
        (changed(SOLICITATION, 79, 0), BAD_OPTION),
        (changed(SOLICITATION, 79, 2), BAD_OPTION),
        (changed(SOLICITATION, 80, 0x33), BAD_OPTION),
        (changed(SOLICITATION, 77, 9), OTHER_TARGET),
        (hex(ROUTER_SOLICITATION), ROUTER),
        (hex(SOLICITATION)[..80].to_vec(), TRUNCATED),
        (
            {
                let mut short = hex(SOLICITATION);
                short.truncate(54 + 20);
                short[19] = 20;
                right(short)
            },
            DropReason::SHORT,
        ),
    ];
    for (bytes, reason) in cases {
        let mut rig = host();
        rig.feed(&bytes);
        assert_eq!(rig.drops("nd", reason), 1, "{reason}");
        assert!(rig.sent().is_empty());
        close(rig);
    }
}

#[test]
fn a_probe_for_our_address_is_answered_to_all() {
    let mut bytes = hex(SOLICITATION);
    bytes[22..38].fill(0);
    bytes.truncate(78);
    bytes[19] = 24;
    let mut rig = host();
    rig.feed(&right(bytes));
    let sent = rig.sent();
    assert_eq!((&sent[0][..6], sent[0][58]), (&hex("333300000001")[..], OVERRIDE));
    close(rig);
}

/// A router's advertisement, from fe80::1.
fn router(lifetime: u8) -> Vec<u8> {
    let mut bytes = hex("333300000001 020000000001 86dd 60000000 0018 3a ff");
    bytes.extend(ip("fe80::1").octets());
    bytes.extend(ip("ff02::1").octets());
    bytes.extend([134, 0, 0, 0, 64, 0, 0, lifetime, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    right(bytes)
}

#[test]
fn a_router_is_heard_only_where_that_was_asked_for() {
    let far = {
        let mut bytes = hex(PING);
        bytes[27] = 7; // from another network
        right(bytes)
    };
    for accept in [false, true] {
        let (nd, ip) = ours();
        let ip: Ipv6 = ip.gateway(Ipv6Addr::UNSPECIFIED);
        let mut rig = host_with(nd.accept_router(accept), ip, Icmpv6::new());
        rig.feed(&router(9));
        rig.feed(&far);
        assert_eq!(rig.sent().len(), usize::from(accept));
        assert_eq!(rig.drops("nd", ROUTER), u64::from(!accept));
        rig.feed(&router(0));
        rig.feed(&far);
        assert!(rig.sent().is_empty());
        assert_eq!(rig.drops("nd", NO_NEIGHBOUR), if accept { 1 } else { 2 });
        close(rig);
    }
}

#[test]
fn a_redirect_is_counted_and_ignored() {
    let mut bytes = router(0);
    bytes[54] = 137;
    bytes[19] = 40;
    bytes.truncate(62);
    bytes.extend([0; 32]);
    let mut rig = host();
    rig.feed(&right(bytes));
    assert_eq!(rig.drops("nd", REDIRECT), 1);
    close(rig);
}

#[test]
fn what_waits_is_bounded() {
    let (nd, ip) = ours();
    // Half of the four entries may be of neighbours that have not answered.
    let mut rig = host_with(nd.limits(4, 3, 1 << 20), ip, Icmpv6::new());
    for from in 1..=4_u8 {
        for _ in 0..5 {
            let mut bytes = hex(PING);
            bytes[37] = 0x10 + from;
            rig.feed(&right(bytes));
        }
    }
    assert_eq!((rig.sent().len(), rig.stack.held().chains), (2, 6));
    assert_eq!(rig.drops("nd", DropReason::LIMIT), 14);
    rig.stack.signal(Signal::Drain);
    assert_eq!(rig.stack.held().chains, 0);
    close(rig);
    let (nd, ip) = ours();
    let mut rig = host_with(nd.limits(2, 3, 0), ip, Icmpv6::new());
    rig.feed(&hex(PING));
    assert_eq!(rig.sent().len(), 1);
    assert_eq!((rig.stack.held().chains, rig.drops("nd", DropReason::LIMIT)), (0, 1));
    close(rig);
}

#[test]
fn conforms() {
    let nd = || Box::new(For(Nd::new(OURS).address(ip("2001:db8::2")), ip("ff02::9"))) as _;
    Conformance::new("nd", nd)
        .wire(vec![
            hex(PING)[14..].to_vec(),
            hex(SOLICITATION)[14..].to_vec(),
            their_advertisement(0)[14..].to_vec(),
            router(9)[14..].to_vec(),
        ])
        .messages(vec![hex(PING)[14..].to_vec(), hex(PONG)[14..].to_vec()])
        .max_held(1 << 20)
        .run();
}
