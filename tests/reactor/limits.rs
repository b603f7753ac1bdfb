//! Limits on connections, on time, on storage, and of the system.

use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
    time::Duration,
};

use mbuf::{
    BuildError,
    io::reactor::{CloseReason, Reactor},
};

use crate::support::*;

#[test]
fn ten_thousand_connections_against_a_limit_of_a_thousand() {
    const PEERS: usize = 10_000;
    const LIMIT: usize = 1_000;
    const TEST: &str = "limits::ten_thousand_connections_against_a_limit_of_a_thousand";
    if !can_open(TEST, PEERS + LIMIT + 200) {
        return;
    }
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).max_connections(LIMIT).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let mut peers: Vec<TcpStream> = Vec::new();
    while peers.len() < PEERS {
        // No more at once than a backlog holds, or the system would make us wait.
        peers.extend((0..100).map(|_| connect(address)));
        let came = peers.len() as u64;
        until(&mut reactor, "these", |r| {
            let stats = r.stats();
            stats.accepted + stats.refused.total() == came
        });
    }
    let stats = reactor.stats();
    assert_eq!((stats.open, stats.accepted), (LIMIT, LIMIT as u64));
    assert_eq!(stats.refused[CloseReason::CONNECTION_LIMIT], (PEERS - LIMIT) as u64);
    assert_eq!(stats.refused.total(), (PEERS - LIMIT) as u64);
    // Those who were let in are served; the others know that they were not.
    for (n, peer) in peers.iter().enumerate() {
        let mut got = Vec::new();
        if n < LIMIT {
            assert_eq!(write(peer, b"x"), 1);
            until(&mut reactor, "the echo", |_| read(peer, &mut got) == Got::Bytes(1));
        } else {
            assert_eq!(read(peer, &mut got), Got::Error(ErrorKind::ConnectionReset));
        }
    }
    // One that leaves makes room for one.
    drop(peers.drain(..1));
    until(&mut reactor, "an end", |r| r.sessions() < LIMIT);
    let late = connect(address);
    assert_eq!(write(&late, b"y"), 1);
    let mut got = Vec::new();
    until(&mut reactor, "the echo", |_| read(&late, &mut got) == Got::Bytes(1));
    drop((peers, late));
    until(&mut reactor, "all ends", |r| r.sessions() == 0);
    assert_eq!(reactor.stats().closed[CloseReason::FINISHED], LIMIT as u64 + 1);
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
    end(reactor, &pool);
}

#[test]
fn connections_that_we_make_count_too() {
    let pool = pool(4 << 20);
    let mut reactor = Reactor::builder(&pool).max_connections(2).build().unwrap();
    let other = std::net::TcpListener::bind(localhost()).unwrap();
    let address = other.local_addr().unwrap();
    let stack = || one(&pool, mbuf::stack::Edge::Bytes, Echo).unwrap();
    reactor.connect_tcp(address, stack()).unwrap();
    reactor.connect_tcp(address, stack()).unwrap();
    let error = reactor.connect_tcp(address, stack()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    assert!(error.to_string().contains("2 connections are open and 2 allowed"), "{error}");
    end(reactor, &pool);
}

#[test]
fn a_factory_that_fails_costs_its_connection_only() {
    let pool = pool(4 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let mut count = 0;
    let address = reactor
        .listen_tcp(localhost(), move |accepted, pool| {
            count += 1;
            assert!(accepted.local.to_string().starts_with("127.0.0.1:"));
            match count {
                1 => Err(BuildError::Stack(format!("none for {}", accepted.peer))),
                _ => one(pool, mbuf::stack::Edge::Bytes, Echo),
            }
        })
        .unwrap();
    let first = connect(address);
    until(&mut reactor, "the refusal", |r| r.stats().refused.total() == 1);
    let second = connect(address);
    until(&mut reactor, "the second", |r| r.stats().accepted == 1);
    assert_eq!(reactor.stats().refused[CloseReason::FACTORY], 1);
    first.set_nonblocking(false).unwrap();
    assert_eq!(read(&first, &mut Vec::new()), Got::End);
    drop(second);
    end(reactor, &pool);
}

#[test]
fn a_silent_connection_is_closed_after_the_idle_limit_and_a_busy_one_is_not() {
    let (pool, clock) = (pool(4 << 20), Clock::default());
    let second = Duration::from_secs(1);
    let builder = Reactor::builder(&pool).idle_timeout(Some(10 * second));
    let mut reactor = clock.run(builder).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Frames::new(1 << 20))).unwrap();
    let (silent, mut busy) = (connect(address), connect(address));
    // Half a frame is held for the silent one.
    assert_eq!(write(&silent, &[0, 0, 1, 0, 7, 7, 7]), 7);
    until(&mut reactor, "both", |r| r.sessions() == 2 && r.stats().bytes_in == 7);
    // The busy one sends a frame of one byte, a byte a second, and is never done.
    let (frame, mut got) = ([0, 0, 0, 1, 9], Vec::new());
    for n in 0..60 {
        if n == 10 {
            assert_eq!(reactor.sessions(), 1);
            assert_eq!(reactor.stats().closed[CloseReason::IDLE], 1);
        }
        busy.write_all(&frame[n % 5..][..1]).unwrap();
        let received = 8 + n as u64;
        until(&mut reactor, "the byte", |r| r.stats().bytes_in == received);
        settle(&mut reactor);
        clock.advance(second);
        settle(&mut reactor);
        read(&busy, &mut got);
        assert_eq!(reactor.sessions(), if n < 9 { 2 } else { 1 }, "after {n} seconds");
    }
    assert_eq!(got, frame.repeat(12));
    silent.set_nonblocking(false).unwrap();
    assert!(matches!(read(&silent, &mut Vec::new()), Got::End | Got::Error(_)));
    clock.advance(10 * second);
    settle(&mut reactor);
    assert_eq!(reactor.stats().closed[CloseReason::IDLE], 2);
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
    end(reactor, &pool);
}

#[test]
fn a_byte_a_second_is_too_slow_where_that_was_said() {
    let (pool, clock) = (pool(4 << 20), Clock::default());
    let second = Duration::from_secs(1);
    let builder = Reactor::builder(&pool).min_progress(100, 30 * second);
    let mut reactor = clock.run(builder).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Frames::new(1 << 20))).unwrap();
    let (mut slow, mut well) = (connect(address), connect(address));
    slow.write_all(&[0, 1, 0, 0]).unwrap();
    until(&mut reactor, "both", |r| r.sessions() == 2 && r.stats().bytes_in == 4);
    let mut got = Vec::new();
    for n in 0..65 {
        if n < 30 {
            slow.write_all(&[n]).unwrap();
        }
        well.write_all(&[0, 0, 0, 0]).unwrap();
        until(&mut reactor, "the echo", |_| read(&well, &mut got) == Got::Bytes(4));
        settle(&mut reactor);
        clock.advance(second);
        settle(&mut reactor);
        assert_eq!(reactor.sessions(), if n < 29 { 2 } else { 1 }, "after {n} seconds");
    }
    assert_eq!(reactor.stats().closed[CloseReason::SLOW], 1);
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
    end(reactor, &pool);
}

#[test]
fn a_session_that_holds_more_than_its_quota_is_reset() {
    const QUOTA: usize = 2 << 20;
    let pool = pool(64 << 20);
    let mut reactor = Reactor::builder(&pool).quota(QUOTA).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Frames::new(8 << 20))).unwrap();
    let (greedy, modest) = (connect(address), connect(address));
    let mut frame = (8_u32 << 20).to_be_bytes().to_vec();
    frame.extend(noise(1, 8 << 20));
    let mut got = Vec::new();
    let mut sent = 0;
    until(&mut reactor, "the reset", |_| {
        match (&greedy).write(&frame[sent..]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return e.kind() == ErrorKind::ConnectionReset,
        }
        read(&greedy, &mut got) == Got::Error(ErrorKind::ConnectionReset)
    });
    let stats = reactor.stats();
    assert_eq!(stats.closed[CloseReason::QUOTA], 1);
    // A turn brings 256 KiB, and a read of up to as much over that.
    assert!(stats.bytes_in <= (QUOTA + (512 << 10)) as u64, "{stats}");
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
    // Another may pass many times as much, as long as it is not held.
    let frame = [(100_000_u32).to_be_bytes().to_vec(), noise(2, 100_000)].concat().repeat(80);
    let (mut sent, mut got) = (0, Vec::new());
    until(&mut reactor, "the frames", |_| {
        sent += write(&modest, &frame[sent..]);
        read(&modest, &mut got);
        got.len() == frame.len()
    });
    assert_eq!(got, frame);
    end(reactor, &pool);
}

#[test]
fn without_descriptors_accepting_waits_and_does_not_spin() {
    const TEST: &str = "limits::without_descriptors_accepting_waits_and_does_not_spin";
    const VARIABLE: &str = "MBUF_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(VARIABLE).is_none() {
        // The limit is the whole process's, so this needs a process of its own.
        match again(TEST, VARIABLE, |_| {}, Some("ulimit -n 64")) {
            Ok(output) => assert_success(&output),
            Err(error) => skip(TEST, format_args!("no process of its own: {error}")),
        }
        return;
    }
    let (pool, clock) = (pool(4 << 20), Clock::default());
    let mut reactor = clock.run(Reactor::builder(&pool)).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let mut peers = Vec::new();
    // The peers, too, are this process's: they take what descriptors there are, then one is
    // given back, which connects and waits in the backlog.
    while let Ok(peer) = TcpStream::connect(address) {
        peers.push(peer);
        assert!(peers.len() < 64);
    }
    until(&mut reactor, "the system's refusal", |r| r.stats().accept_errors.total() > 0);
    assert_eq!(reactor.stats().accept_errors.of("EMFILE"), 1);
    assert_eq!(reactor.sessions(), 0);
    // The clock stands still, so it is not tried again, and the turns sleep.
    let before = reactor.stats();
    for _ in 0..20 {
        assert!(reactor.poll(Some(Duration::from_millis(2))).unwrap());
    }
    let after = reactor.stats();
    assert_eq!(after.accept_errors.of("EMFILE"), 1);
    assert_eq!(after.sleeps - before.sleeps, 20, "every turn slept");
    // With room again, and after the pause, the rest is accepted.
    let keep = peers.len() / 2;
    peers.truncate(keep - 5);
    clock.advance(Duration::from_millis(100));
    let kept = peers.len() as u64;
    until(&mut reactor, "the rest", |r| {
        clock.advance(Duration::from_millis(10));
        r.stats().accepted >= kept
    });
    let mut last = peers.pop().unwrap();
    last.write_all(b"x").unwrap();
    last.set_nonblocking(true).unwrap();
    let mut got = Vec::new();
    until(&mut reactor, "the echo", |_| read(&last, &mut got) == Got::Bytes(1));
    end(reactor, &pool);
}
