//! Questions as `dig` asks them, and as nobody should.

use mbuf::{
    Address,
    testing::{self, Conformance},
};

use super::*;
use crate::rig::{PORT as LINK, Rig};

fn dns() -> Dns {
    let mut dns = Dns::new().origin("example.org").unwrap().origin("2.0.192.in-addr.arpa").unwrap();
    let cname = |name: &str| Data::Cname(name.to_owned());
    let records = [
        ("www.example.org", Data::A([192, 0, 2, 1].into())),
        ("www.example.org", Data::Aaaa("2001:db8::1".parse().unwrap())),
        ("a.b.example.org", Data::Txt("hello".to_owned())),
        ("alias.example.org", cname("WWW.example.org")),
        ("out.example.org", cname("elsewhere.net")),
        ("round.example.org", cname("round.example.org")),
        ("1.2.0.192.in-addr.arpa", Data::Ptr("www.example.org".to_owned())),
    ];
    for (name, data) in records {
        dns = dns.record(name, 60, data).unwrap();
    }
    for n in 0..3 {
        let text = Data::Txt(format!("{n}").repeat(300));
        dns = dns.record("long.example.org", 60, text).unwrap();
    }
    dns
}

/// As `dig +norecurse NAME` asks; with `edns` a size.
fn question(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    bytes.extend(encode(name).unwrap());
    bytes.extend([kind, 1].map(u16::to_be_bytes).concat());
    if let Some(size) = edns {
        bytes.extend([0, 0, 41]);
        bytes.extend(size.to_be_bytes());
        bytes.extend([0; 6]);
    }
    bytes
}

/// Flags, answers, and all of it.
fn ask(bytes: &[u8]) -> (u16, u16, Vec<u8>) {
    let answer = dns().answer(bytes).unwrap();
    (word(&answer, 2).unwrap(), word(&answer, 6).unwrap(), answer)
}

#[test]
fn a_question_is_answered_byte_for_byte() {
    let mut rig = Rig::new(&testing::pool(), Edge::Packets, vec![Box::new(dns())]);
    let asked = question("wWw.example.org", 1, None);
    let mut expected = asked.clone();
    expected[2] = 0x85;
    expected[7] = 1;
    expected.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    let mut chain = testing::bytewise(&rig.pool, &asked).unwrap();
    let (client, server) = ("192.0.2.9:5000".parse().unwrap(), "192.0.2.1:53".parse().unwrap());
    chain.meta_mut().set_source(Address::Ip(client));
    chain.meta_mut().set_destination(Address::Ip(server));
    rig.feed_chain(chain);
    let answer = rig.stack.poll_output(LINK).pop().unwrap();
    assert_eq!(answer.to_vec().unwrap(), expected);
    assert_eq!(answer.meta().destination(), Address::Ip(client));
    assert_eq!(answer.meta().source(), Address::Ip(server));
    drop(answer);
    rig.finish();
}

#[test]
fn every_kind_of_record_is_found() {
    for (name, kind, answers) in [
        ("www.example.org", 28, 1),
        ("www.example.org", ANY, 1),
        ("a.b.example.org", 16, 1),
        ("1.2.0.192.in-addr.arpa", 12, 1),
        ("alias.example.org", CNAME, 1),
        ("alias.example.org", 1, 2),
        ("out.example.org", 1, 1),
        ("round.example.org", 1, MAX_CHAIN as u16),
        ("www.example.org", 16, 0),
        ("b.example.org", 1, 0),
        ("example.org", 1, 0),
    ] {
        let (flags, found, _) = ask(&question(name, kind, None));
        assert_eq!((flags, found), (0x8500, answers), "{name} {kind}");
    }
    // The alias' name is written once, and pointed to.
    let (_, _, answer) = ask(&question("alias.example.org", 1, None));
    let place = 12 + 19 + 4 + 12;
    assert_eq!(answer[place..place + 4], *b"\x03www");
    assert_eq!(word(&answer, place + 17), Some(0xc000 | place as u16));
}

#[test]
fn each_refusal_has_its_code() {
    let change = |at: usize, to: u8| {
        let mut bytes = question("www.example.org", 1, Some(1232));
        bytes[at] = to;
        bytes
    };
    let last = change(0, 0).len();
    for (bytes, code) in [
        (question("no.example.org", 1, None), NXDOMAIN),
        (question("example.net", 1, None), REFUSED),
        (question("", 1, None), REFUSED),
        (question("example.org", 252, None), REFUSED),
        (change(32, 3), REFUSED),
        (change(2, 0x29), NOTIMP),
        (change(5, 2), FORMERR),
        (change(5, 0), FORMERR),
        (change(12, 0x40), FORMERR),
        (change(last - 1, 1), FORMERR),
        (change(11, 2), FORMERR),
        (change(0, 0)[..20].to_vec(), FORMERR),
    ] {
        let (flags, answers, _) = ask(&bytes);
        assert_eq!((flags & 0xf, answers), (code, 0), "{bytes:x?}");
        assert_eq!(flags & 0x8200, 0x8000);
    }
    let (flags, _, answer) = ask(&change(last - 5, 1));
    assert_eq!((flags & 0xf, answer[answer.len() - 6]), (0, 1), "BADVERS is 16");
}

#[test]
fn pointers_that_go_round_or_forward_are_no_name() {
    let mut bytes = question("www.example.org", 1, None);
    for pointer in [[0xc0, 12], [0xc0, 14], [0xff, 0xff]] {
        bytes[12..14].copy_from_slice(&pointer);
        assert_eq!(ask(&bytes).0 & 0xf, FORMERR);
    }
    // Each points to the one before it, which is the longest way there is.
    let mut chain = vec![0u8, 0];
    for n in 0..100u16 {
        chain.extend((0xc000 | (2 * n)).to_be_bytes());
    }
    let mut at = chain.len() - 2;
    assert_eq!(read_name(&chain, &mut at), Some(vec![0]));
    assert_eq!(at, chain.len());
    let long = [&[63u8; 64][..]; 5].concat();
    assert_eq!(read_name(&long, &mut 0), None);
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    let (flags, answers, answer) = ask(&question("long.example.org", 16, None));
    assert_eq!((flags & 0x0200, answers), (0x0200, 0));
    assert!(answer.len() <= 512);
    let (flags, answers, answer) = ask(&question("long.example.org", 16, Some(4096)));
    assert_eq!((flags & 0x0200, answers), (0, 3));
    assert!(answer.len() <= MAX_ANSWER);
    let (flags, _, _) = ask(&question("long.example.org", 16, Some(900)));
    assert_eq!(flags & 0x0200, 0x0200);
}

#[test]
fn an_answer_and_what_is_short_or_long_are_dropped() {
    let mut rig = Rig::new(&testing::pool(), Edge::Packets, vec![Box::new(dns())]);
    let mut bytes = question("www.example.org", 1, None);
    rig.feed(&bytes[..11]);
    bytes[2] |= 0x80;
    rig.feed(&bytes);
    rig.feed(&[0; MAX_QUESTION + 1]);
    assert!(rig.sent().is_empty());
    for reason in [DropReason::SHORT, RESPONSE, DropReason::LIMIT] {
        assert_eq!(rig.drops("dns", reason), 1, "{reason}");
    }
    rig.finish();
}

#[test]
fn conforms() {
    Conformance::new("dns", || Box::new(dns()) as _)
        .top()
        .wire(vec![
            question("www.example.org", 1, Some(1232)),
            question("alias.example.org", 28, None),
            question("no.example.org", 1, None),
        ])
        .run();
}
