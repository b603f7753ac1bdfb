//! Bytes come back as they were sent, over every kind of port.

use std::{
    io::Write,
    net::{Shutdown, UdpSocket},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use mbuf::{
    io::{
        Stream,
        reactor::{CloseReason, Port, Reactor},
    },
    stack::{Edge, Stack},
};

use crate::support::*;

#[test]
fn many_connections_get_their_own_bytes_back() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let mut peers: Vec<_> = (0..200)
        .map(|n| (connect(address), noise(n + 1, 5000 + 100 * n as usize), 0, Vec::new(), false))
        .collect();
    let mut sizes = noise(77, 4096).into_iter().cycle();
    until(&mut reactor, "all echoes", |_| {
        let mut done = true;
        for (stream, bytes, sent, got, ended) in &mut peers {
            let piece = 1 + usize::from(sizes.next().unwrap()) * 8;
            let end = bytes.len().min(*sent + piece);
            *sent += write(&*stream, &bytes[*sent..end]);
            if *sent == bytes.len() && !*ended {
                stream.shutdown(Shutdown::Write).unwrap();
                *ended = true;
            }
            done &= read(&*stream, got) == Got::End;
        }
        done
    });
    for (_, bytes, _, got, _) in &peers {
        assert_eq!(bytes, got);
    }
    until(&mut reactor, "all ends", |r| r.sessions() == 0);
    let stats = reactor.stats();
    assert_eq!((stats.accepted, stats.closed[CloseReason::FINISHED]), (200, 200));
    assert_eq!(stats.closed.total(), 200);
    assert_eq!(stats.bytes_in, stats.bytes_out);
    assert_eq!(stats.drops.total(), 0);
    let layers = reactor.stack_stats();
    let echo = layers.layer("echo").unwrap();
    assert_eq!(
        (echo.received, echo.sent, echo.imbalance()),
        (stats.chains_in, stats.chains_out, 0)
    );
    end(reactor, &pool);
}

#[test]
fn a_thousand_connections_share_a_pool_that_is_too_small_for_all() {
    const PEERS: usize = 1000;
    const BYTES: usize = 64 << 10;
    if !can_open(
        "traffic::a_thousand_connections_share_a_pool_that_is_too_small_for_all",
        2 * PEERS + 200,
    ) {
        return;
    }
    let pool = pool(4 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let bytes = noise(1, BYTES + PEERS);
    let mut peers: Vec<_> = (0..PEERS).map(|_| (connect(address), 0, Vec::new())).collect();
    // All send all at once; the echoes come as the pool permits.
    until(&mut reactor, "all echoes", |_| {
        let mut done = true;
        for (n, (stream, sent, got)) in peers.iter_mut().enumerate() {
            let mine = &bytes[n..n + BYTES];
            *sent += write(&*stream, &mine[*sent..]);
            read(&*stream, got);
            done &= got.len() == BYTES;
        }
        done
    });
    for (n, (_, _, got)) in peers.iter().enumerate() {
        assert!(*got == bytes[n..n + BYTES], "the bytes of peer {n}");
    }
    drop(peers);
    until(&mut reactor, "all ends", |r| r.sessions() == 0);
    let stats = reactor.stats();
    assert_eq!(stats.closed[CloseReason::FINISHED], PEERS as u64);
    assert_eq!(stats.drops.total(), 0);
    end(reactor, &pool);
}

#[test]
fn unix_connections_and_udp_peers_are_served_beside_each_other() {
    let pool = pool(16 << 20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    reactor.listen_unix(&path, serving(|| Echo)).unwrap();
    let stack = one(&pool, Edge::Packets, Echo).unwrap();
    let udp = reactor.listen_udp(localhost(), stack).unwrap();

    let stream = UnixStream::connect(&path).unwrap();
    stream.set_nonblocking(true).unwrap();
    let peers: Vec<_> = (0..2).map(|_| UdpSocket::bind(localhost()).unwrap()).collect();
    for (n, peer) in peers.iter().enumerate() {
        peer.set_nonblocking(true).unwrap();
        peer.connect(udp).unwrap();
        for len in [0, 1, 1400, 65_507] {
            peer.send(&noise(n as u64 + 1, len)).unwrap();
        }
    }
    let bytes = noise(9, 300_000);
    let (mut sent, mut got, mut datagrams) = (0, Vec::new(), [Vec::new(), Vec::new()]);
    until(&mut reactor, "everything", |_| {
        sent += write(&stream, &bytes[sent..]);
        read(&stream, &mut got);
        for (peer, datagrams) in peers.iter().zip(&mut datagrams) {
            let mut datagram = vec![0; 65_536];
            if let Ok(len) = peer.recv(&mut datagram) {
                datagram.truncate(len);
                datagrams.push(datagram);
            }
        }
        got.len() == bytes.len() && datagrams.iter().all(|d| d.len() == 4)
    });
    assert_eq!(got, bytes);
    for (n, datagrams) in datagrams.iter().enumerate() {
        let lens = [0, 1, 1400, 65_507];
        let wanted: Vec<_> = lens.iter().map(|&len| noise(n as u64 + 1, len)).collect();
        assert_eq!(*datagrams, wanted);
    }
    assert_eq!(reactor.sessions(), 2);
    end(reactor, &pool);
    assert!(!path.exists(), "the socket file is removed");
}

#[test]
fn connections_are_made_over_tcp_and_unix() {
    let pool = pool(16 << 20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let ends = Arc::new(Mutex::new(Vec::new()));
    let told = ends.clone();
    let mut reactor = Reactor::builder(&pool)
        .on_close(move |closed| {
            told.lock().unwrap().push((closed.id, closed.reason, closed.error.is_some()))
        })
        .build()
        .unwrap();
    let seen = Arc::new(Seen::default());
    let hoard = {
        let seen = seen.clone();
        move || Hoarder::new(&seen, None)
    };
    let address = reactor.listen_tcp(localhost(), serving(hoard.clone())).unwrap();
    reactor.listen_unix(&path, serving(hoard)).unwrap();
    let speaker = |n| one(&pool, Edge::Bytes, Speaker::new(n)).unwrap();
    let tcp = reactor.connect_tcp(address, speaker(1_000_000)).unwrap();
    let unix = reactor.connect_unix(&path, speaker(500_000)).unwrap();
    assert!(reactor.stack(tcp).is_some() && reactor.stack(unix).is_some());
    until(&mut reactor, "all four ends", |r| r.sessions() == 0);
    assert_eq!(seen.bytes(), 1_500_000);
    assert_eq!(seen.opened.load(Ordering::Relaxed), 2);
    assert_eq!(seen.ends.load(Ordering::Relaxed), 2);
    assert!(reactor.stack(tcp).is_none() && !reactor.close(unix));
    let ends = ends.lock().unwrap();
    assert_eq!(ends.len(), 4);
    let well = |end: &(_, _, bool)| end.1 == CloseReason::FINISHED && !end.2;
    assert!(ends.iter().all(well), "{ends:?}");
    assert!(ends.iter().any(|&(id, ..)| id == tcp));
    let stats = reactor.stats();
    assert_eq!((stats.accepted, stats.connected), (2, 2));
    drop(ends);
    end(reactor, &pool);
}

#[test]
fn a_refused_connection_ends_with_the_name_of_the_error() {
    let pool = pool(4 << 20);
    let nobody = std::net::TcpListener::bind(localhost()).unwrap().local_addr().unwrap();
    let errors = Arc::new(Mutex::new(Vec::new()));
    let told = errors.clone();
    let mut reactor = Reactor::builder(&pool)
        .on_close(move |closed| told.lock().unwrap().push(closed.error.map(ToString::to_string)))
        .build()
        .unwrap();
    let seen = Arc::new(Seen::default());
    let stack = one(&pool, Edge::Bytes, Hoarder::new(&seen, None)).unwrap();
    // The system may say so at once, too.
    if let Err(error) = reactor.connect_tcp(nobody, stack) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    } else {
        until(&mut reactor, "the refusal", |r| r.sessions() == 0);
        assert_eq!(reactor.stats().closed.of("ECONNREFUSED"), 1);
        let text = format!("connect to {nobody}: ECONNREFUSED (Connection refused)");
        assert_eq!(*errors.lock().unwrap(), [Some(text)]);
    }
    assert_eq!(seen.opened.load(Ordering::Relaxed), 0, "a stack is opened when connected only");
    end(reactor, &pool);
}

#[test]
fn a_stack_with_two_ports_hands_from_one_to_the_other() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let (left, a) = UnixStream::pair().unwrap();
    let (right, b) = UnixStream::pair().unwrap();
    let mut builder = Stack::builder(&pool);
    let relay = builder.layer(Relay);
    builder.port(Edge::Bytes, relay);
    builder.port(Edge::Bytes, relay);
    let stack = builder.build().unwrap();
    let ports: Vec<Box<dyn Port>> =
        [a, b].map(|end| Box::new(Stream::from_std_unix(end).unwrap()) as Box<dyn Port>).into();
    reactor.attach(stack, ports).unwrap();
    for stream in [&left, &right] {
        stream.set_nonblocking(true).unwrap();
    }
    let (there, back) = (noise(1, 400_000), noise(2, 300_000));
    let (mut sent, mut got) = ((0, 0), (Vec::new(), Vec::new()));
    until(&mut reactor, "both directions", |_| {
        sent.0 += write(&left, &there[sent.0..]);
        sent.1 += write(&right, &back[sent.1..]);
        read(&right, &mut got.0);
        read(&left, &mut got.1);
        got.0.len() == there.len() && got.1.len() == back.len()
    });
    assert_eq!(got, (there, back));
    drop((left, right));
    until(&mut reactor, "its end", |r| r.sessions() == 0);
    assert_eq!(reactor.stats().closed[CloseReason::FINISHED], 1);
    end(reactor, &pool);
}

#[test]
fn ports_that_do_not_fit_the_stack_are_refused() {
    let pool = pool(4 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let stack = one(&pool, Edge::Bytes, Echo).unwrap();
    let error = reactor.attach(stack, Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("0 ports for a stack that has 1"), "{error}");
    assert!(reactor.is_idle());
    end(reactor, &pool);
}

#[test]
fn timers_of_sessions_fire_by_the_clock_and_only_then() {
    let (pool, clock) = (pool(4 << 20), Clock::default());
    let mut reactor = clock.run(Reactor::builder(&pool)).build().unwrap();
    let seen = Arc::new(Seen::default());
    let layer = seen.clone();
    let second = Duration::from_secs(1);
    let hoarder = move || Hoarder::new(&layer, Some(second));
    let address = reactor.listen_tcp(localhost(), serving(hoarder)).unwrap();
    let peers: Vec<_> = (0..50).map(|_| connect(address)).collect();
    until(&mut reactor, "all", |r| r.sessions() == 50);
    settle(&mut reactor);
    assert_eq!(seen.ticks.load(Ordering::Relaxed), 0);
    for n in 1..=10 {
        clock.advance(second);
        settle(&mut reactor);
        assert_eq!(seen.ticks.load(Ordering::Relaxed), 50 * n);
    }
    drop(peers);
    until(&mut reactor, "their ends", |r| r.sessions() == 0);
    clock.advance(second);
    settle(&mut reactor);
    assert_eq!(seen.ticks.load(Ordering::Relaxed), 500, "no timer outlives its session");
    end(reactor, &pool);
}

#[test]
fn a_session_has_no_more_than_its_turn() {
    const QUOTA: usize = 4096;
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).turn_quota(QUOTA).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let (flood, mut quiet) = (connect(address), connect(address));
    until(&mut reactor, "both", |r| r.sessions() == 2);
    let bytes = noise(1, 4 << 20);
    let sent = write(&flood, &bytes);
    assert!(sent > 64 * QUOTA, "the flood is larger than the turns of this test: {sent}");
    quiet.write_all(b"x").unwrap();
    let mut got = Vec::new();
    for turn in 0.. {
        let before = reactor.stats().bytes_in;
        assert!(reactor.poll(Some(Duration::ZERO)).unwrap());
        // One batch over the quota at most: a single read of at most four clusters.
        let brought = (reactor.stats().bytes_in - before) as usize;
        assert!(brought <= QUOTA + (256 << 10), "{brought} bytes in a turn");
        if read(&quiet, &mut got) == Got::Bytes(1) {
            assert!(reactor.stats().bytes_in < sent as u64, "served before the flood was over");
            break;
        }
        assert!(turn < 10, "the quiet one waits for the flood");
    }
    end(reactor, &pool);
}

#[test]
fn busy_polling_serves_the_same() {
    let pool = pool(4 << 20);
    let spin = Duration::from_micros(200);
    let mut reactor = Reactor::builder(&pool).busy_poll(spin).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let mut peer = connect(address);
    for n in 0..20 {
        let bytes = noise(n + 1, 100);
        peer.write_all(&bytes).unwrap();
        let mut got = Vec::new();
        until(&mut reactor, "the echo", |_| {
            read(&peer, &mut got);
            got.len() == 100
        });
        assert_eq!(got, bytes);
    }
    let stats = reactor.stats();
    assert!(stats.polls > stats.sleeps, "{stats}");
    end(reactor, &pool);
}

#[test]
fn a_program_hands_a_session_something_between_turns() {
    let pool = pool(4 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    let stack = one(&pool, Edge::Bytes, Echo).unwrap();
    let id = reactor.stream(Stream::from_std_unix(there).unwrap(), stack).unwrap();
    let chain = pool.chain_from(b"from the program").unwrap();
    reactor.stack_mut(id).unwrap().input_one(mbuf::stack::PortId(0), chain);
    let mut got = Vec::new();
    until(&mut reactor, "it", |_| matches!(read(&here, &mut got), Got::Bytes(_)));
    assert_eq!(got, b"from the program");
    assert!(reactor.close(id));
    until(&mut reactor, "our half closed", |_| read(&here, &mut got) == Got::End);
    drop(here);
    until(&mut reactor, "the end", |r| r.is_idle());
    assert_eq!(reactor.stats().closed[CloseReason::CLOSED], 1);
    end(reactor, &pool);
}

#[test]
fn a_message_costs_one_read_and_one_write() {
    const ROUNDS: u64 = 100;
    let pool = pool(4 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let mut peer = connect(address);
    until(&mut reactor, "it", |r| r.sessions() == 1);
    settle(&mut reactor);
    let before = reactor.stats();
    for n in 0..ROUNDS {
        peer.write_all(&noise(n + 1, 100)).unwrap();
        let mut got = Vec::new();
        until(&mut reactor, "the echo", |_| read(&peer, &mut got) == Got::Bytes(100));
    }
    let after = reactor.stats();
    assert_eq!(after.chains_in - before.chains_in, ROUNDS);
    assert_eq!(after.recv_calls - before.recv_calls, ROUNDS, "no read that brings nothing");
    assert_eq!(after.send_calls - before.send_calls, ROUNDS, "no write that takes nothing");

    // Over UDP likewise.
    let stack = one(&pool, Edge::Packets, Echo).unwrap();
    let address = reactor.listen_udp(localhost(), stack).unwrap();
    let peer = UdpSocket::bind(localhost()).unwrap();
    peer.set_nonblocking(true).unwrap();
    settle(&mut reactor);
    let before = reactor.stats();
    for n in 0..ROUNDS {
        peer.send_to(&noise(n + 1, 100), address).unwrap();
        until(&mut reactor, "the echo", |_| peer.recv(&mut [0; 200]).is_ok());
    }
    let after = reactor.stats();
    assert_eq!(after.chains_in - before.chains_in, ROUNDS);
    assert_eq!(after.send_calls - before.send_calls, ROUNDS);
    // Until a call has been seen to bring less than it could have, it asks for one at a time.
    assert!(after.recv_calls - before.recv_calls <= ROUNDS + 20, "{before}\n{after}");
    end(reactor, &pool);
}
