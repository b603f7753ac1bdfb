//! Ports of transfers, over UDP.

use super::{super::serve::PORTS, *};
use crate::net::{Udp, pseudo_header_v4};

/// A server over UDP with ports of its own, and the datagram's bytes as UDP wants them.
fn over_udp() -> Subject {
    let pool = testing::pool();
    let store = MemoryStore::sending(&pool, []);
    let handle = store.handle();
    handle.put("f", &bytes(1000));
    let mut builder = Stack::builder(&pool);
    let udp = builder.layer(Udp::new().any_port(true));
    let tftp = builder.layer(Tftp::new(Box::new(store)).own_ports(true).write(true));
    builder.port(Edge::Packets, udp);
    builder.bind(udp, PORT.into(), tftp).stack(udp, tftp);
    let mut stack = builder.build().unwrap();
    stack.open();
    Subject { rig: Rig { pool, stack }, store: handle }
}

const OURS: [u8; 4] = [192, 0, 2, 1];

fn datagram(host: u8, from: u16, to: u16, bytes: &[u8]) -> Vec<u8> {
    let len = 8 + bytes.len();
    let mut datagram = [from, to, len as u16, 0].map(u16::to_be_bytes).concat();
    datagram.extend(bytes);
    let mut sum = pseudo_header_v4([192, 0, 2, host].into(), OURS.into(), 17, len as u16);
    sum.add(&datagram);
    datagram[6..8].copy_from_slice(&sum.checksum().to_be_bytes());
    datagram
}

/// What comes back: from which port, to which, and what; and whether UDP says it is no port.
fn ask(
    subject: &mut Subject,
    (host, from): (u8, u16),
    to: u16,
    bytes: &[u8],
) -> Vec<(u16, u16, Vec<u8>)> {
    let bytes = datagram(host, from, to, bytes);
    subject.feed(&format!("192.0.2.{host}:0"), "192.0.2.1:0", &bytes);
    subject.rig.sent().into_iter().map(ports).collect()
}

fn ports(datagram: Vec<u8>) -> (u16, u16, Vec<u8>) {
    let word = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
    (word(0), word(2), datagram[8..].to_vec())
}

#[test]
fn each_transfer_answers_from_a_port_of_its_own() {
    let mut subject = over_udp();
    let read = request("read f octet");
    let mut used = Vec::new();
    for from in 3000..3008 {
        let answers = ask(&mut subject, (2, from), 69, &read);
        let [(tid, to, block)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((*to, &block[..]), (from, &data(1, &bytes(512))[..]));
        assert!(PORTS.contains(tid) && !used.contains(tid), "{tid}");
        used.push(*tid);
        let last = ask(&mut subject, (2, from), *tid, &ack(1));
        assert_eq!(last, [(*tid, from, data(2, &bytes(1000)[512..]))]);
    }
    assert!(!used.is_sorted(), "they are not by chance: {used:?}");
    subject.finish();
}

#[test]
fn strangers_at_a_transfers_port_get_error_5_and_at_others_port_unreachable() {
    let mut subject = over_udp();
    let [(tid, ..)] = ask(&mut subject, (2, 3000), 69, &request("read f octet"))[..] else {
        panic!()
    };
    let unknown = error(5, "unknown transfer ID");
    // Somebody else; the same host from another port.
    assert_eq!(ask(&mut subject, (3, 3000), tid, &ack(1)), [(tid, 3000, unknown.clone())]);
    assert_eq!(ask(&mut subject, (2, 3001), tid, &ack(1)), [(tid, 3001, unknown.clone())]);
    assert!(ask(&mut subject, (3, 3000), tid, &error(5, "no")).is_empty());
    // The peer at the server's port, which only takes requests.
    assert_eq!(ask(&mut subject, (2, 3000), 69, &ack(1)), [(69, 3000, unknown)]);
    // What is for a port that nobody has goes back as it came, for ICMP to quote.
    let other = if tid == 50_000 { 50_001 } else { 50_000 };
    for to in [other, 33] {
        for bytes in [ack(1), b"any".to_vec(), vec![]] {
            let back = ask(&mut subject, (2, 3000), to, &bytes);
            assert_eq!(back, [(3000, to, bytes)]);
        }
    }
    // The transfer has not heard of all that.
    assert_eq!(ask(&mut subject, (2, 3000), tid, &ack(1)).len(), 1);
    assert!(ask(&mut subject, (2, 3000), tid, &ack(2)).is_empty());
    assert_eq!(ask(&mut subject, (2, 3000), tid, &ack(2)), [(3000, tid, ack(2))], "it is over");
    subject.finish();
}

#[test]
fn a_file_is_written_to_a_transfers_port() {
    let mut subject = over_udp();
    let [(tid, ..)] = ask(&mut subject, (2, 3000), 69, &request("write g octet"))[..] else {
        panic!()
    };
    assert_eq!(ask(&mut subject, (2, 3000), tid, &data(1, b"bytes")), [(tid, 3000, ack(1))]);
    assert_eq!(subject.store.files()["g"], b"bytes");
    subject.finish();
}
