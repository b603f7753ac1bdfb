//! Segments that are malformed, too many, or for nobody.

use mbuf::testing::Conformance;

use super::*;
use crate::net::ipv4::{BAD_CHECKSUM, OTHER_HOST};

/// A client that has connected, and has something to say.
fn handshake(world: &mut World, version: usize) {
    let handle = world.connect(version, 7, 50_000);
    world.steps(3);
    world.socket(handle).send_slice(&[5; 100]).unwrap();
}

/// Right checksums for an IPv4 packet.
fn mend(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = mbuf::chain::checksum::of(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet[36..38].fill(0);
    super::super::wire::seal(packet, false).unwrap();
}

#[test]
fn each_malformed_segment_is_dropped_for_its_reason() {
    let mut world = World::new(echo());
    world.connect(0, 7, 50_000);
    let syn = world.take().remove(0);
    let mut with = |change: &dyn Fn(&mut [u8])| {
        let mut packet = syn.clone();
        change(&mut packet);
        mend(&mut packet);
        world.feed(&packet);
    };
    with(&|packet| packet[32] = 0x10);
    with(&|packet| packet[32] = 0xf0);
    with(&|packet| packet[20..22].fill(0));
    with(&|packet| packet[22..24].fill(0));
    with(&|packet| packet[33] = 0x03);
    with(&|packet| packet[33] = 0x06);
    assert_eq!(world.drops("tcp", DropReason::MALFORMED), 6);
    let mut wrong = syn.clone();
    wrong[24] ^= 1;
    world.feed(&wrong);
    assert_eq!(world.drops("tcp", BAD_CHECKSUM), 1);
    assert_eq!(world.server.poll_output(PortId(0)).len(), 0, "none is answered");
    // To all of the network: IPv4 hands it up, but nobody answers.
    let mut to_all = syn.clone();
    to_all[16..20].fill(255);
    mend(&mut to_all);
    world.feed(&to_all);
    assert_eq!(world.drops("tcp", OTHER_HOST), 1);
    assert_eq!(world.server.poll_output(PortId(0)).len(), 0);
    world.finish();
}

#[test]
fn every_truncated_length_and_every_changed_byte_is_survived() {
    for version in [0, 1] {
        let mut world = World::new(echo());
        handshake(&mut world, version);
        let mut packets = world.take();
        world.connect(version, 7, 50_001);
        packets.extend(world.take());
        assert_eq!(packets.len(), 2, "data, and another SYN");
        for packet in &packets {
            for len in 1..packet.len() {
                let mut cut = packet[..len].to_vec();
                if version == 0 && len >= 40 {
                    cut[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                    mend(&mut cut);
                } else if version == 1 && len >= 60 {
                    cut[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
                    super::super::wire::seal(&mut cut, false).unwrap();
                }
                world.feed(&cut);
            }
            // The header, and the options of a SYN.
            let header = if version == 0 { 20 } else { 40 };
            for place in header..packet.len().min(header + 60) {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut changed = packet.clone();
                    changed[place] = value;
                    super::super::wire::seal(&mut changed, false).unwrap();
                    world.feed(&changed);
                }
            }
            world.collect();
            world.wire.incoming.clear();
        }
        world.steps(50);
        world.finish();
    }
}

#[test]
fn a_closed_port_is_answered_by_a_reset_over_both_ips() {
    for version in [0, 1] {
        let mut world = World::new(echo());
        let handle = world.connect(version, 9, 50_000);
        world.steps(3);
        assert_eq!(world.state(handle), State::Closed);
        assert_eq!(world.drops("tcp", DropReason::UNBOUND), 1);
        world.finish();
    }
}

#[test]
fn beyond_the_limit_a_connection_is_reset() {
    let mut world = World::new(echo().max_connections(1));
    let first = world.connect(0, 7, 50_000);
    world.steps(20);
    let second = world.connect(1, 7, 50_001);
    world.steps(20);
    assert_eq!(world.state(first), State::Established);
    assert_eq!(world.state(second), State::Closed);
    assert_eq!(world.drops("tcp", DropReason::LIMIT), 1);
    world.finish();
}

#[test]
fn a_flood_of_syns_is_bounded_and_lets_others_in() {
    let made = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = made.clone();
    let tcp = tcp().backlog(4).listen(7, move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        vec![Box::new(Echo::new())]
    });
    let mut world = World::new(tcp);
    world.connect(0, 7, 50_000);
    let syn = world.take().remove(0);
    for n in 0..1000_u16 {
        let mut forged = syn.clone();
        forged[15] = 3 + (n % 200) as u8;
        forged[20..22].copy_from_slice(&(1024 + n).to_be_bytes());
        mend(&mut forged);
        world.feed(&forged);
        while world.server.poll_output(PortId(0)).pop().is_some() {}
        world.server.flushed(PortId(0));
    }
    assert!(world.server.held().footprint == 0);
    // The flood goes on, and one that answers gets through.
    let handle = world.connect(0, 7, 50_009);
    world.steps(5);
    assert_eq!(world.state(handle), State::Established);
    assert_eq!(made.load(std::sync::atomic::Ordering::Relaxed), 1, "only for those who answered");
    // The rest is forgotten by itself.
    for _ in 0..130 {
        world.step_by(Duration::from_millis(100));
    }
    world.converse(handle, 1000);
    world.finish();
}

#[test]
fn a_scan_of_all_ports_holds_nothing() {
    let mut world = World::new(echo());
    world.connect(0, 9, 50_000);
    let syn = world.take().remove(0);
    let mut resets = 0;
    for port in (1..=65_535_u16).step_by(61).filter(|&port| port != 7) {
        let mut probe = syn.clone();
        probe[22..24].copy_from_slice(&port.to_be_bytes());
        mend(&mut probe);
        world.feed(&probe);
        while let Some(answer) = world.server.poll_output(PortId(0)).pop() {
            resets += u64::from(answer.to_vec().unwrap()[33] & 4 != 0);
        }
        world.server.flushed(PortId(0));
    }
    assert_eq!(resets, world.drops("tcp", DropReason::UNBOUND));
    assert!(resets > 1000);
    assert_eq!((world.server.timers(), world.pool.stats().in_use()), (0, 0));
    world.finish();
}

#[test]
fn conforms() {
    // The kit's packets go from port 40001 and port 7 of two hosts to each other: their segments
    // are made for these addresses.
    let [from, to] = ["192.0.2.1", "192.0.2.2"].map(ip);
    let segment = |flags: u8, from_port: u16, to_port: u16, data: &[u8]| {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[12..16].copy_from_slice(&[192, 0, 2, 1]);
        packet[16..20].copy_from_slice(&[192, 0, 2, 2]);
        packet[20..22].copy_from_slice(&from_port.to_be_bytes());
        packet[22..24].copy_from_slice(&to_port.to_be_bytes());
        packet[24..28].copy_from_slice(&77_u32.to_be_bytes());
        packet[32] = 0x50;
        packet[33] = flags;
        packet[34] = 16;
        packet.extend_from_slice(data);
        super::super::wire::seal(&mut packet, false).unwrap();
        packet.split_off(20)
    };
    let host = || {
        let tcp = Tcp::new(&[from, to]).predictable().listen(7, || vec![Box::new(Echo::new())]);
        Box::new(tcp.listen(40_001, || vec![Box::new(Echo::new())])) as _
    };
    // Not among them: a SYN to a closed port, which is counted as dropped and answered besides.
    Conformance::new("tcp", host)
        .top()
        .linger(Duration::from_secs(11))
        .wire(vec![
            segment(0x02, 40_001, 7, b""),
            segment(0x02, 7, 40_001, b""),
            segment(0x10, 7, 40_001, b"hello"),
            segment(0x11, 40_001, 7, b"fin"),
            segment(0x04, 40_001, 7, b""),
        ])
        .run();
}
