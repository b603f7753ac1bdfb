//! What sockets lose, and what the network reports to them, is in the reactor's statistics.

use std::net::UdpSocket;

use mbuf::{
    Chain, Queue,
    io::{Datagram, DatagramOptions, Sink, reactor::Reactor},
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol, Signal},
};

use crate::support::*;

#[test]
fn a_run_that_is_longer_than_the_pool_does_not_stop_the_socket() {
    // Of its largest class with more than one buffer it has 22 KiB, of all together less than 45.
    let pool = pool(100 << 10);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let stack = one(&pool, Edge::Packets, Echo).unwrap();
    let options = DatagramOptions::default();
    let socket = Datagram::bind(localhost(), &options).unwrap();
    let address = socket.local_addr().unwrap();
    reactor.datagram(socket, stack).unwrap();
    // Five datagrams, which leave as one message and arrive as one.
    let sending = mbuf::Pool::with_memory(4 << 20).unwrap();
    let mut sender = Datagram::connect(address, &options).unwrap();
    let mut queue = Queue::new(8, 1 << 20);
    for n in 0..5 {
        queue.push(sending.chain_from(&noise(n + 1, 9_000)).unwrap()).unwrap();
    }
    sender.send(&mut queue).unwrap();
    assert_eq!((sender.stats().sent, sender.stats().segmented), (5, 1));
    let peer = UdpSocket::bind(localhost()).unwrap();
    peer.connect(address).unwrap();
    peer.set_nonblocking(true).unwrap();
    peer.send(&noise(9, 9_000)).unwrap();
    let mut got = Vec::new();
    until(&mut reactor, "the echo of what came behind it", |_| {
        matches!(read_datagram(&peer, &mut got), Some(9_000))
    });
    assert!(got == noise(9, 9_000));
    let stats = reactor.stats();
    assert_eq!((stats.chains_in, stats.drops.of("receive_too_long")), (1, 5));
    assert_eq!(stats.drops.total(), 5);
    end(reactor, &pool);
}

#[test]
fn a_pool_without_large_clusters_listens_for_single_datagrams() {
    let pool = pool(100 << 10);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let stack = one(&pool, Edge::Packets, Echo).unwrap();
    let address = reactor.listen_udp(localhost(), stack).unwrap();
    let sending = mbuf::Pool::with_memory(4 << 20).unwrap();
    let mut sender = Datagram::connect(address, &DatagramOptions::default()).unwrap();
    let mut queue = Queue::new(8, 1 << 20);
    for n in 0..5 {
        queue.push(sending.chain_from(&noise(n + 1, 9_000)).unwrap()).unwrap();
    }
    sender.send(&mut queue).unwrap();
    assert_eq!(sender.stats().segmented, 1);
    until(&mut reactor, "all of them", |reactor| reactor.stats().chains_out == 5);
    assert_eq!(reactor.stats().drops.total(), 0);
    end(reactor, &pool);
}

#[test]
fn what_the_kernel_had_no_room_for_is_among_the_drops() {
    let pool = pool(4 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let stack = one(&pool, Edge::Packets, Echo).unwrap();
    let options = DatagramOptions { recv_buffer: Some(8_192), ..DatagramOptions::default() };
    let socket = Datagram::bind(localhost(), &options).unwrap();
    let address = socket.local_addr().unwrap();
    let id = reactor.datagram(socket, stack).unwrap();
    let peer = UdpSocket::bind(localhost()).unwrap();
    peer.connect(address).unwrap();
    for _ in 0..200 {
        peer.send(&[1; 500]).unwrap();
    }
    settle(&mut reactor);
    let stats = reactor.stats();
    let lost = stats.drops.of("receive_overflow");
    assert!(lost > 0, "{stats}");
    assert_eq!(stats.chains_in + lost, 200, "{stats}");
    assert!(stats.to_string().contains("receive_overflow"));
    // It is still known, and known once, when the socket is closed.
    reactor.close(id);
    until(&mut reactor, "the end", |reactor| reactor.sessions() == 0);
    assert_eq!(reactor.stats().drops.of("receive_overflow"), lost);
    end(reactor, &pool);
}

#[test]
fn a_port_where_nobody_listens_is_reported_by_name() {
    let pool = pool(4 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let peer = UdpSocket::bind(localhost()).unwrap();
    let address = peer.local_addr().unwrap();
    drop(peer);
    let socket = Datagram::connect(address, &DatagramOptions::default()).unwrap();
    let stack = one(&pool, Edge::Packets, Caller).unwrap();
    let id = reactor.datagram(socket, stack).unwrap();
    until(&mut reactor, "the report", |reactor| reactor.stats().reported.of("ECONNREFUSED") > 0);
    let stats = reactor.stats();
    assert_eq!(stats.reported.total(), stats.reported.of("ECONNREFUSED"));
    assert_eq!(stats.drops.total(), 0, "{stats}");
    assert!(stats.to_string().contains("ECONNREFUSED"));
    reactor.close(id);
    until(&mut reactor, "the end", |reactor| reactor.sessions() == 0);
    assert_eq!(reactor.stats().reported, stats.reported);
    end(reactor, &pool);
}

#[test]
fn what_a_socket_could_not_send_is_among_the_drops() {
    let pool = pool(4 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let socket = Datagram::bind(localhost(), &DatagramOptions::default()).unwrap();
    // What it says goes to nobody: no layer has said where to.
    let stack = one(&pool, Edge::Packets, Speaker::new(3_000)).unwrap();
    reactor.datagram(socket, stack).unwrap();
    until(&mut reactor, "the end", |reactor| reactor.sessions() == 0);
    let stats = reactor.stats();
    assert_eq!((stats.drops.of("no_destination"), stats.drops.total()), (3, 3), "{stats}");
    end(reactor, &pool);
}

/// Sends one datagram, and waits for an answer.
struct Caller;

impl Protocol for Caller {
    fn name(&self) -> &str {
        "caller"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Any)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        if let Signal::Opened = signal {
            let chain = cx.pool().chain_from(b"anyone?").expect("an mbuf");
            cx.made(1);
            cx.send_down(chain);
        }
    }
}

/// One datagram, if there is one: its length.
fn read_datagram(from: &UdpSocket, into: &mut Vec<u8>) -> Option<usize> {
    into.resize(1 << 16, 0);
    let len = from.recv(into).ok()?;
    into.truncate(len);
    Some(len)
}
