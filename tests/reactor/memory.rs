//! Peers that do not read, peers that withhold, and pools that run dry.

use std::{
    io::Write,
    net::UdpSocket,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mbuf::{
    Class, Pool,
    io::reactor::{CloseReason, Reactor},
    stack::Edge,
};

use crate::support::*;

#[test]
fn a_peer_that_never_reads_is_not_read_from_and_loses_nothing() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let (mute, mut other) = (connect(address), connect(address));
    let bytes = noise(1, 64 << 20);
    let (mut sent, mut quiet) = (0, 0);
    until(&mut reactor, "both sides stuck", |_| {
        let wrote = write(&mute, &bytes[sent..(sent + 65_536).min(bytes.len())]);
        sent += wrote;
        quiet = if wrote == 0 { quiet + 1 } else { 0 };
        quiet == 20
    });
    assert!(sent < bytes.len(), "its sends block");
    let stats = reactor.stats();
    let waiting = stats.bytes_in - stats.bytes_out;
    // High water is passed by one read.
    assert!(waiting > 0 && waiting < 2 << 20, "{waiting} bytes wait");
    // Others are served all the while, and nothing turns on the spot.
    for n in 0..20 {
        other.write_all(&[n]).unwrap();
        let mut got = Vec::new();
        until(&mut reactor, "the echo", |_| read(&other, &mut got) == Got::Bytes(1));
        assert_eq!(got, [n]);
    }
    let before = reactor.stats();
    for _ in 0..10 {
        assert!(reactor.poll(Some(Duration::from_millis(2))).unwrap());
    }
    let after = reactor.stats();
    assert_eq!(after.sleeps - before.sleeps, 10, "every turn slept");
    assert_eq!((after.recv_calls, after.send_calls), (before.recv_calls, before.send_calls));
    // When it reads at last, it gets every byte.
    let mut got = Vec::new();
    until(&mut reactor, "the rest", |_| {
        read(&mute, &mut got);
        got.len() == sent
    });
    assert_eq!(got, bytes[..sent]);
    assert_eq!(reactor.stats().drops.total(), 0);
    drop((mute, other));
    until(&mut reactor, "their ends", |r| r.sessions() == 0);
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
    end(reactor, &pool);
}

#[test]
fn a_thousand_that_withhold_the_last_byte_cannot_stop_the_program() {
    const PEERS: usize = 1000;
    const FRAME: usize = 64 << 10;
    if !can_open(
        "memory::a_thousand_that_withhold_the_last_byte_cannot_stop_the_program",
        2 * PEERS + 200,
    ) {
        return;
    }
    // The frames of all of them are four times the pool.
    let (pool, clock) = (pool(16 << 20), Clock::default());
    let builder = Reactor::builder(&pool).idle_timeout(None).max_connections(2 * PEERS);
    let mut reactor = clock.run(builder).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Frames::new(FRAME))).unwrap();
    let mut frame = (FRAME as u32).to_be_bytes().to_vec();
    frame.extend(noise(1, FRAME));
    let withheld = &frame[..frame.len() - 1];
    // One is worse than the others: it begins first, so it holds a whole frame's storage.
    let mut peers = Vec::new();
    for n in 0..PEERS {
        peers.push((connect(address), 0));
        if n % 50 == 0 {
            for (peer, sent) in &mut peers {
                *sent += write(&*peer, &withheld[*sent..]);
            }
            settle(&mut reactor);
        }
    }
    until(&mut reactor, "all", |r| r.stats().accepted == PEERS as u64);
    for _ in 0..20 {
        for (peer, sent) in &mut peers {
            *sent += write(&*peer, &withheld[*sent..]);
        }
        settle(&mut reactor);
    }
    assert!(reactor.stats().starved > 0, "the pool has refused reads: {}", pool.stats());
    assert_eq!(reactor.stats().closed.total(), 0, "nobody was closed without need");

    // A well-behaved peer comes, and cannot be read from.
    let mut well = connect(address);
    let small = [0, 0, 0, 4, 1, 2, 3, 4];
    until(&mut reactor, "it", |r| r.stats().accepted == PEERS as u64 + 1);
    well.write_all(&small).unwrap();
    let mut got = Vec::new();
    let mut seconds = 0;
    until(&mut reactor, "its echo", |r| {
        settle(r);
        clock.advance(Duration::from_secs(1));
        seconds += 1;
        read(&well, &mut got);
        got.len() == small.len()
    });
    assert_eq!(got, small);
    let stats = reactor.stats();
    let closed = stats.closed[CloseReason::MEMORY];
    assert!(closed >= 1 && closed <= seconds, "{closed} closed in {seconds} seconds");
    assert_eq!(stats.closed.total(), closed, "{stats}");

    // Those who send their last byte are answered; the rest, too, when these have gone.
    let mut answered = 0;
    until(&mut reactor, "every peer's answer or end", |r| {
        settle(r);
        clock.advance(Duration::from_millis(100));
        peers.retain_mut(|(peer, sent)| {
            if let Ok(n) = (&*peer).write(&frame[*sent..]) {
                *sent += n;
            }
            let mut got = Vec::new();
            match read(&*peer, &mut got) {
                Got::Nothing => true,
                Got::Bytes(_) => {
                    answered += 1;
                    false
                }
                Got::End | Got::Error(_) => false,
            }
        });
        peers.is_empty()
    });
    assert!(answered > PEERS / 2, "{answered} answered\n{}", reactor.stats());
    drop(well);
    until(&mut reactor, "all ends", |r| r.sessions() == 0);
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
    end(reactor, &pool);
}

#[test]
fn the_session_that_holds_most_is_the_one_that_goes() {
    let clock = Clock::default();
    let pool =
        Pool::builder().count(Class::Small, 400).count(Class::K2, 200).reserve(1).build().unwrap();
    let builder = Reactor::builder(&pool).idle_timeout(None).quota(usize::MAX);
    let mut reactor = clock.run(builder).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Frames::new(1 << 20))).unwrap();
    let sizes = [10_000, 60_000, 30_000];
    let peers: Vec<_> = sizes.iter().map(|_| connect(address)).collect();
    for (peer, size) in peers.iter().zip(sizes) {
        let begun = [vec![0, 0x10, 0, 0], noise(1, size)].concat();
        assert_eq!(write(peer, &begun), begun.len());
    }
    let all = sizes.iter().map(|size| *size as u64 + 4).sum::<u64>();
    until(&mut reactor, "what they sent", |r| r.stats().bytes_in == all);
    // Somebody else takes all the rest of the pool.
    let mut taken = Vec::new();
    while let Ok(chain) = pool.chain_in(Class::K2, 0).or_else(|_| pool.chain()) {
        taken.push(chain);
    }
    for peer in &peers {
        assert_eq!(write(peer, b"more"), 4);
    }
    until(&mut reactor, "refusals", |r| r.stats().starved >= 3);
    settle(&mut reactor);
    clock.advance(Duration::from_millis(999));
    settle(&mut reactor);
    assert_eq!(reactor.sessions(), 3, "patience");
    clock.advance(Duration::from_millis(1));
    settle(&mut reactor);
    assert_eq!(reactor.sessions(), 2);
    assert_eq!(reactor.stats().closed[CloseReason::MEMORY], 1);
    assert!(matches!(read(&peers[1], &mut Vec::new()), Got::Error(_)), "the biggest");
    for peer in [&peers[0], &peers[2]] {
        assert_eq!(read(peer, &mut Vec::new()), Got::Nothing);
    }
    // What it held is what the others now read with.
    until(&mut reactor, "their bytes", |r| r.stats().bytes_in == all + 8);
    drop((peers, taken));
    until(&mut reactor, "their ends", |r| r.sessions() == 0);
    end(reactor, &pool);
}

#[test]
fn buffers_that_another_thread_gives_back_are_found_without_spinning() {
    let clock = Clock::default();
    let pool = Pool::builder().count(Class::Small, 200).count(Class::K2, 100).build().unwrap();
    let mut reactor = clock.run(Reactor::builder(&pool)).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let mut peers: Vec<_> = (0..40).map(|_| connect(address)).collect();
    until(&mut reactor, "all", |r| r.sessions() == 40);
    let mut taken = Vec::new();
    while let Ok(chain) = pool.chain_in(Class::K2, 0).or_else(|_| pool.chain()) {
        taken.push(chain);
    }
    for (n, peer) in peers.iter_mut().enumerate() {
        peer.write_all(&[n as u8]).unwrap();
    }
    until(&mut reactor, "refusals", |r| r.stats().starved >= 40);
    let before = reactor.stats();
    for _ in 0..20 {
        assert!(reactor.poll(Some(Duration::from_millis(2))).unwrap());
    }
    let after = reactor.stats();
    assert!(after.sleeps - before.sleeps >= 19, "{before}\n{after}");
    assert!(after.starved - before.starved <= 20 * 32, "a bounded number is tried a turn");
    assert_eq!(after.bytes_in, 0);
    let thread = pool.clone();
    std::thread::spawn(move || {
        drop(taken);
        thread.flush();
    })
    .join()
    .unwrap();
    let mut got = vec![Vec::new(); peers.len()];
    until(&mut reactor, "the echoes", |_| {
        for (peer, got) in peers.iter().zip(&mut got) {
            read(peer, got);
        }
        got.iter().enumerate().all(|(n, got)| *got == [n as u8])
    });
    drop(peers);
    until(&mut reactor, "their ends", |r| r.sessions() == 0);
    end(reactor, &pool);
}

#[test]
fn layers_are_asked_to_give_memory_back_when_it_is_low() {
    let pool = Pool::builder()
        .count(Class::Small, 400)
        .count(Class::K2, 200)
        .low_water(50)
        .build()
        .unwrap();
    let mut reactor = Reactor::builder(&pool).quota(usize::MAX).build().unwrap();
    let seen = Arc::new(Seen::default());
    let layer = seen.clone();
    let address =
        reactor.listen_tcp(localhost(), serving(move || Hoarder::new(&layer, None))).unwrap();
    let mut peer = connect(address);
    let mut sent = 0;
    until(&mut reactor, "a drain", |_| {
        sent += 1;
        peer.write_all(&[1]).unwrap();
        seen.drains.load(Ordering::Relaxed) > 0
    });
    until(&mut reactor, "all of it", |_| seen.bytes() == sent);
    assert!(reactor.stats().drains > 0);
    drop(peer);
    until(&mut reactor, "the end", |r| r.sessions() == 0);
    end(reactor, &pool);
}

#[test]
fn sessions_that_were_attached_for_good_are_not_closed_for_memory() {
    let clock = Clock::default();
    let pool = pool(16 << 20);
    let mut reactor = clock.run(Reactor::builder(&pool)).build().unwrap();
    let seen = Arc::new(Seen::default());
    let stack = one(&pool, Edge::Packets, Hoarder::new(&seen, None)).unwrap();
    let address = reactor.listen_udp(localhost(), stack).unwrap();
    let peer = UdpSocket::bind(localhost()).unwrap();
    peer.send_to(b"one", address).unwrap();
    until(&mut reactor, "it", |_| seen.bytes() == 3);
    reactor.release();
    let mut taken = Vec::new();
    for class in Class::ALL.into_iter().rev() {
        while let Ok(chain) = pool.chain_in(class, 0) {
            taken.push(chain);
        }
    }
    peer.send_to(b"two", address).unwrap();
    for _ in 0..30 {
        settle(&mut reactor);
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!((reactor.sessions(), reactor.stats().closed.total()), (1, 0));
    drop(taken);
    until(&mut reactor, "the second", |_| seen.bytes() == 6);
    end(reactor, &pool);
}

#[test]
fn a_reactor_that_is_asked_often_and_has_nothing_to_do_keeps_nothing() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let mut peer = connect(address);
    peer.write_all(b"once").unwrap();
    let mut got = Vec::new();
    until(&mut reactor, "the echo", |_| {
        read(&peer, &mut got);
        got == b"once"
    });
    // None of these sleeps is as long as a nap, and no event comes.
    for _ in 0..30 {
        assert!(reactor.poll(Some(Duration::from_millis(5))).unwrap());
    }
    assert!(pool.stats().classes.iter().all(|class| class.cached == 0), "{}", pool.stats());
    drop(peer);
    until(&mut reactor, "its end", |r| r.sessions() == 0);
    end(reactor, &pool);
}
