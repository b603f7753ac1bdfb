//! What is sent arrives, whatever the link and the memory are like.

use mbuf::{
    stack::{Context, LayerInfo, Outcome, Protocol},
    testing::Starve,
};

use super::*;
use crate::{Chargen, Discard, tcp::RESET};

#[test]
fn a_client_gets_its_bytes_back_and_closes_in_order_over_both_ips() {
    for version in [0, 1] {
        let mut world = World::new(echo());
        let handle = world.exchange(version, 300_000);
        world.socket(handle).close();
        world.steps(100);
        assert_eq!(world.state(handle), State::TimeWait);
        world.finish();
    }
}

#[test]
fn both_ips_are_served_at_once() {
    let mut world = World::new(echo());
    let (four, six) = (world.connect(0, 7, 50_000), world.connect(1, 7, 50_000));
    world.steps(5);
    world.converse(six, 5000);
    world.converse(four, 5000);
    assert_eq!(world.longest, 1500);
    world.finish();
}

#[test]
fn it_does_so_over_links_that_lose_packets() {
    for version in [0, 1] {
        let mut world = World::new(echo());
        world.lose = 37;
        world.exchange(version, 100_000);
        world.finish();
    }
}

#[test]
fn a_stream_one_way_arrives_whole_though_every_sixth_packet_is_lost() {
    let inbox = crate::rig::Inbox::default();
    let layer = inbox.clone();
    let mut world = World::new(tcp().listen(9, move || vec![layer.layer()]));
    world.lose = 6;
    let handle = world.connect(0, 9, 50_000);
    let data: Vec<u8> = (0..100_000).map(|n| (n * 7 / 3) as u8).collect();
    let mut sent = 0;
    let mut got = Vec::new();
    for _ in 0..600_000 {
        world.step();
        let socket = world.socket(handle);
        if socket.can_send() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        got.extend(inbox.take().concat());
        if got.len() == data.len() {
            break;
        }
    }
    assert!(got == data, "{} bytes", got.len());
    world.finish();
}

#[test]
fn segments_of_one_byte_make_no_difference() {
    for version in [0, 1] {
        let pool = Pool::builder().count(mbuf::Class::Small, 4096).count(mbuf::Class::K2, 512);
        let pool = pool.count(mbuf::Class::K16, 16).move_on_pullup(true).build().unwrap();
        let mut world = World::with(echo(), pool);
        world.bytewise = true;
        world.exchange(version, 20_000);
        world.finish();
    }
}

#[test]
fn the_checksum_is_left_to_the_device_if_it_is_told_so() {
    let mut world = World::new(echo().offload(true));
    world.connect(0, 7, 50_000);
    let syn = world.take().remove(0);
    world.feed(&syn);
    let mut answer = world.server.poll_output(PortId(0)).pop().unwrap();
    assert_eq!(answer.meta().transport_offset(), 20);
    assert!(answer.meta().offload().contains(mbuf::meta::Offload::CHECKSUM_PARTIAL));
    mbuf::chain::checksum::complete(&mut answer, 20, 16).unwrap();
    world.wire.incoming.push_back(answer.to_vec().unwrap());
    assert_eq!(world.take().len(), 1, "the client takes it, and acknowledges");
    drop(answer);
    world.finish();
}

#[test]
fn a_smaller_mtu_holds_for_connections_that_are_open() {
    for (version, mtu) in [(0, 600), (1, 1280)] {
        let mut world = World::new(echo().mtu(1400));
        let handle = world.exchange(version, 20_000);
        assert_eq!(world.longest, 1400);
        world.server.signal(Signal::Mtu(600));
        world.collect();
        world.longest = 0;
        world.converse(handle, 20_000);
        assert_eq!(world.longest, mtu);
        world.finish();
    }
}

#[test]
fn a_peer_that_does_not_read_is_not_read_from() {
    let mut world = World::new(echo());
    let handle = world.connect(0, 7, 50_000);
    let mut sent = 0;
    for _ in 0..5000 {
        world.step();
        let socket = world.socket(handle);
        if socket.can_send() {
            sent += socket.send_slice(&[7; 10_000]).unwrap();
        }
    }
    // Four buffers of 64 KiB, and a piece or two in the session.
    assert!((128 << 10..400 << 10).contains(&sent), "{sent}");
    assert!(world.server.held().footprint < 100 << 10);
    world.finish();
}

#[test]
fn without_buffers_it_waits_for_a_timer_and_goes_on_when_there_are_some() {
    let mut world = World::new(echo());
    let handle = world.exchange(0, 1000);
    world.socket(handle).send_slice(&[9; 5000]).unwrap();
    let packets = world.take();
    // The segments come in buffers of another pool; none is left to hand their data on.
    let other = testing::plain_pool();
    let starve = Starve::leave(&world.pool, 0, 0);
    for packet in packets {
        world.feed_chain(PortId(0), other.chain_from(&packet).unwrap());
    }
    assert!(!world.server.has_work());
    let next = world.server.next_timeout().unwrap();
    assert!(next <= world.now + Duration::from_millis(10), "{next:?}");
    world.now = next;
    world.server.advance(next);
    assert!(!world.server.has_work());
    assert!(world.server.next_timeout().unwrap() > next);
    drop(starve);
    let mut got = 0;
    for _ in 0..5000 {
        world.step();
        let socket = world.socket(handle);
        while socket.can_recv() {
            got += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
    }
    assert_eq!(got, 5000);
    world.finish();
}

#[test]
fn without_credit_it_waits_and_needs_no_timer_that_fires_at_once() {
    let mut world = World::new(tcp().listen(19, || vec![Box::new(Chargen::stream())]));
    let handle = world.connect(0, 19, 50_000);
    world.steps(5);
    assert_eq!(world.state(handle), State::Established);
    // Acknowledgments come, but nobody takes away what is sent.
    for _ in 0..200 {
        world.now += Duration::from_millis(1);
        world.server.advance(world.now);
        let socket = world.socket(handle);
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), ())).unwrap();
        }
        for packet in world.take() {
            world.feed(&packet);
        }
        assert!(!world.server.has_work());
    }
    let mut got = 0;
    for _ in 0..50 {
        world.step();
        let socket = world.socket(handle);
        while socket.can_recv() {
            got += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
    }
    assert!(got > 100_000, "{got}");
    world.finish();
}

#[test]
fn a_silent_peer_is_reset_after_the_timeout() {
    let mut world = World::new(echo().timeout(Duration::from_secs(9)));
    world.exchange(0, 1000);
    world.lose = 1;
    for _ in 0..100 {
        world.step_by(Duration::from_millis(100));
    }
    world.lose = 0;
    assert_eq!(world.server.next_timeout(), None, "nothing is left of it");
    world.finish();
}

#[test]
fn a_reset_by_the_peer_frees_its_place() {
    let mut world = World::new(echo().max_connections(1));
    let handle = world.exchange(0, 1000);
    world.socket(handle).abort();
    world.step();
    let next = world.connect(0, 7, 50_001);
    world.steps(5);
    assert_eq!(world.state(next), State::Established);
    world.finish();
}

#[test]
fn a_session_ends_in_order_by_fin_only() {
    let inbox = crate::rig::Inbox::default();
    let layer = inbox.clone();
    let mut world = World::new(tcp().listen(9, move || vec![layer.layer()]));
    for reset in [true, false] {
        let handle = world.connect(0, 9, 50_000 + u16::from(reset));
        world.steps(3);
        world.socket(handle).send_slice(b"last").unwrap();
        world.steps(3);
        match reset {
            true => world.socket(handle).abort(),
            false => world.socket(handle).close(),
        }
        world.steps(30);
        assert_eq!(inbox.take().concat(), b"last");
        let heard = inbox.signals();
        assert_eq!(heard.contains(&Signal::EndOfStream), !reset, "{heard:?}");
    }
    assert_eq!(RESET.0, "reset");
    world.finish();
}

#[test]
fn shutdown_resets_what_is_open_and_refuses_what_comes_later() {
    let mut world = World::new(echo());
    let handle = world.exchange(0, 1000);
    world.server.signal(Signal::Shutdown);
    let late = world.connect(0, 7, 50_001);
    world.steps(5);
    assert_eq!(world.state(handle), State::Closed);
    assert_ne!(world.state(late), State::Established);
    world.finish();
}

#[test]
fn connections_in_time_wait_make_room_for_new_ones() {
    // It closes first: the session ends at once.
    let mut world = World::new(tcp().max_connections(2).listen(9, || vec![Box::new(Closer)]));
    for n in 0..5 {
        let handle = world.connect(0, 9, 50_000 + n);
        world.steps(5);
        assert_eq!(world.state(handle), State::CloseWait, "connection {n}");
        world.socket(handle).close();
        world.steps(20);
        assert_eq!(world.state(handle), State::Closed);
    }
    world.finish();
}

/// Closes as soon as it is opened.
struct Closer;

impl mbuf::stack::Protocol for Closer {
    fn name(&self) -> &str {
        "closer"
    }

    fn info(&self) -> mbuf::stack::LayerInfo {
        mbuf::stack::LayerInfo::new(Edge::Bytes, Edge::Bytes)
    }

    fn input(&mut self, chain: Chain, cx: &mut mbuf::stack::Context<'_>) -> mbuf::stack::Outcome {
        cx.consumed(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut mbuf::stack::Context<'_>) -> mbuf::stack::Outcome {
        cx.down(chain)
    }

    fn signal(&mut self, signal: Signal, cx: &mut mbuf::stack::Context<'_>) {
        if signal == Signal::Opened {
            cx.close();
        }
    }
}

#[test]
fn it_connects_to_a_plain_listener_over_both_ips() {
    for (version, any) in [(0, "0.0.0.0:0"), (1, "[::]:0")] {
        let peer = SocketAddr::new(ip(CLIENT[version]), 7);
        let layers = || vec![Box::new(Echo::new()) as _];
        let tcp = tcp().connect(any.parse().unwrap(), peer, layers).unwrap();
        let mut world = World::new(tcp);
        let mut listener = socket();
        listener.listen(7).unwrap();
        let handle = world.sockets.add(listener);
        world.collect();
        world.steps(5);
        assert_eq!(world.state(handle), State::Established);
        let from = world.socket(handle).remote_endpoint().unwrap();
        assert_eq!(from.addr, ip(SERVER[version]).into());
        assert!(from.port >= 0xc000);
        world.converse(handle, 50_000);
        world.finish();
    }
}

#[test]
fn a_call_that_is_refused_or_not_answered_is_given_up() {
    let peer = SocketAddr::new(ip(CLIENT[0]), 7);
    let local = SocketAddr::new(ip(SERVER[0]), 4000);
    for answers in [true, false] {
        let layers = || vec![Box::new(Discard::new()) as _];
        let mut world = World::new(tcp().connect(local, peer, layers).unwrap());
        world.lose = usize::from(!answers);
        world.collect();
        for _ in 0..120 {
            world.step_by(Duration::from_millis(100));
        }
        assert_eq!(world.drops("tcp", DropReason::REFUSED), u64::from(answers));
        assert_eq!(world.server.next_timeout(), None);
        world.finish();
    }
}

#[test]
fn a_call_that_cannot_be_is_refused_when_it_is_described() {
    let wrong = [
        ("0.0.0.0:0", "[2001:db8::2]:7"),
        ("0.0.0.0:0", "192.0.2.2:0"),
        ("0.0.0.0:0", "224.0.0.1:7"),
        ("0.0.0.0:0", "0.0.0.0:7"),
        ("192.0.2.9:0", "192.0.2.2:7"),
    ];
    for (local, peer) in wrong {
        let result = tcp().connect(local.parse().unwrap(), peer.parse().unwrap(), Vec::new);
        assert!(result.is_err(), "{local} {peer}");
    }
}

#[test]
fn a_silent_connection_is_asked_for_a_sign_of_life_after_a_quarter_of_the_timeout() {
    let mut world = World::new(echo().timeout(Duration::from_secs(40)));
    let handle = world.connect(0, 7, 50_000);
    world.steps(100);
    let made = |world: &World| world.server.stats().layers[2].made;
    assert_eq!(made(&world), 1, "the SYN is answered, and nothing else is sent");
    for _ in 0..99 {
        world.step_by(Duration::from_millis(100));
    }
    assert_eq!(made(&world), 1);
    for _ in 0..200 {
        world.step_by(Duration::from_millis(100));
    }
    assert_eq!((made(&world), world.state(handle)), (3, State::Established));
    world.finish();
}

/// A session that is over as soon as it begins.
struct Goodbye;

impl Protocol for Goodbye {
    fn name(&self) -> &str {
        "goodbye"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Bytes, Edge::Any).half_open()
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        if signal == Signal::Opened {
            cx.close();
        }
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.consumed(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}

#[test]
fn what_comes_after_the_session_has_closed_is_answered_by_a_reset() {
    let mut world = World::new(tcp().listen(13, || vec![Box::new(Goodbye)]));
    let handle = world.connect(0, 13, 50_000);
    world.steps(20);
    assert_eq!(world.state(handle), State::CloseWait);
    world.socket(handle).send_slice(b"more").unwrap();
    world.steps(20);
    assert_eq!(world.state(handle), State::Closed);
    world.finish();
}
