//! How sessions end: by the peer, by the stack, by the program.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mbuf::io::reactor::{CloseReason, Reactor};

use crate::support::*;

/// Makes the close of a socket a reset.
fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_peer_that_resets_in_the_middle_of_a_frame_ends_its_own_session_only() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Frames::new(1 << 20))).unwrap();
    let mut frame = 100_000_u32.to_be_bytes().to_vec();
    frame.extend(noise(1, 100_000));
    let (broken, whole) = (connect(address), connect(address));
    assert_eq!(write(&broken, &frame[..60_000]), 60_000);
    until(&mut reactor, "the half of it", |r| r.stats().bytes_in == 60_000);
    assert!(pool.stats().in_use() > 0);
    reset(broken);
    until(&mut reactor, "the end", |r| r.sessions() == 1);
    assert_eq!(reactor.stats().closed.of("ECONNRESET"), 1);
    let (mut sent, mut got) = (0, Vec::new());
    until(&mut reactor, "the other's frame", |_| {
        sent += write(&whole, &frame[sent..]);
        read(&whole, &mut got);
        got.len() == frame.len()
    });
    assert_eq!(got, frame);
    drop(whole);
    until(&mut reactor, "the other's end", |r| r.sessions() == 0);
    assert_eq!(reactor.stats().closed[CloseReason::FINISHED], 1);
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
    end(reactor, &pool);
}

#[test]
fn a_peer_that_resets_while_it_is_not_read_from_is_noticed() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let peer = connect(address);
    let bytes = noise(1, 1 << 20);
    // It sends for ever and reads nothing, until neither side can send any more.
    let mut quiet = 0;
    until(&mut reactor, "both sides stuck", |_| {
        quiet = if write(&peer, &bytes) == 0 { quiet + 1 } else { 0 };
        quiet == 20
    });
    reset(peer);
    until(&mut reactor, "the end", |r| r.sessions() == 0);
    let stats = reactor.stats();
    assert_eq!(stats.closed.of("ECONNRESET") + stats.closed.of("EPIPE"), 1, "{stats}");
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
    end(reactor, &pool);
}

#[test]
fn a_frame_over_the_maximum_resets_the_connection_under_the_layers_reason() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Frames::new(1000))).unwrap();
    let mut peer = connect(address);
    peer.write_all(&1001_u32.to_be_bytes()).unwrap();
    let mut got = Vec::new();
    until(&mut reactor, "the reset", |_| {
        read(&peer, &mut got) == Got::Error(ErrorKind::ConnectionReset)
    });
    let stats = reactor.stats();
    assert_eq!((stats.open, stats.closed.of("malformed")), (0, 1));
    assert_eq!(stats.drops.of("malformed"), 1);
    end(reactor, &pool);
}

#[test]
fn what_was_sent_before_the_close_arrives_though_the_peer_goes_on_sending() {
    const BYTES: usize = 1_000_000;
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Speaker::new(BYTES))).unwrap();
    let peer = connect(address);
    let (junk, mut got) = (noise(1, 10_000), Vec::new());
    // The peer never closes its half before it has seen the end of ours.
    until(&mut reactor, "the end of stream", |_| {
        write(&peer, &junk);
        read(&peer, &mut got) == Got::End
    });
    assert_eq!(got.len(), BYTES);
    assert!(got.iter().all(|&byte| byte == Speaker::BYTE));
    assert_eq!(reactor.sessions(), 1, "it waits for the peer's end");
    drop(peer);
    until(&mut reactor, "the end", |r| r.sessions() == 0);
    assert_eq!(reactor.stats().closed[CloseReason::FINISHED], 1);
    end(reactor, &pool);
}

#[test]
fn a_peer_that_does_not_close_its_half_is_waited_for_as_long_as_said() {
    let (pool, clock) = (pool(16 << 20), Clock::default());
    let linger = Duration::from_secs(3);
    let builder = Reactor::builder(&pool).linger(linger).idle_timeout(None);
    let mut reactor = clock.run(builder).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Speaker::new(10))).unwrap();
    let peer = connect(address);
    let mut got = Vec::new();
    until(&mut reactor, "the end of stream", |_| read(&peer, &mut got) == Got::End);
    clock.advance(linger - Duration::from_nanos(1));
    settle(&mut reactor);
    assert_eq!(reactor.sessions(), 1);
    clock.advance(Duration::from_nanos(1));
    settle(&mut reactor);
    assert_eq!(reactor.sessions(), 0);
    assert_eq!(reactor.stats().closed[CloseReason::FINISHED], 1);
    end(reactor, &pool);
}

#[test]
fn a_shutdown_sends_what_is_there_to_be_sent() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let peer = connect(address);
    let bytes = noise(1, 8 << 20);
    // Not reading, the peer sends until all buffers between it and us are full.
    let (mut sent, mut quiet) = (0, 0);
    until(&mut reactor, "both sides stuck", |_| {
        let wrote = write(&peer, &bytes[sent..]);
        sent += wrote;
        quiet = if wrote == 0 { quiet + 1 } else { 0 };
        quiet == 20
    });
    let held = reactor.stats().bytes_in;
    assert!(held > reactor.stats().bytes_out, "something waits to be sent");
    reactor.handle().shutdown().unwrap();
    assert!(reactor.poll(Some(Duration::ZERO)).unwrap());
    assert!(TcpStream::connect(address).is_err(), "nothing is accepted any more");
    let mut got = Vec::new();
    let mut peer = Some(peer);
    until(&mut reactor, "the end", |r| {
        let got = peer.as_ref().map(|peer| read(peer, &mut got));
        if let Some(Got::End | Got::Error(_)) = got {
            peer = None;
        }
        r.sessions() == 0
    });
    assert_eq!(got.len() as u64, held, "all that was received came back");
    assert_eq!(got, bytes[..got.len()]);
    assert_eq!(reactor.stats().closed[CloseReason::SHUTDOWN], 1);
    assert!(!reactor.poll(None).unwrap(), "an ended reactor does not wait");
    end(reactor, &pool);
}

#[test]
fn a_session_that_does_not_finish_is_closed_when_the_grace_is_over() {
    let (pool, clock) = (pool(16 << 20), Clock::default());
    let grace = Duration::from_secs(7);
    let mut reactor = clock.run(Reactor::builder(&pool).grace(grace)).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let (stuck, mut well) = (connect(address), connect(address));
    let bytes = noise(1, 1 << 20);
    let mut quiet = 0;
    until(&mut reactor, "both sides stuck", |_| {
        quiet = if write(&stuck, &bytes) == 0 { quiet + 1 } else { 0 };
        quiet == 20
    });
    well.write_all(b"hello").unwrap();
    let mut got = Vec::new();
    until(&mut reactor, "an echo", |_| read(&well, &mut got) == Got::Bytes(5));
    reactor.shutdown();
    until(&mut reactor, "the end of the other", |_| read(&well, &mut got) == Got::End);
    drop(well);
    until(&mut reactor, "its session's end", |r| r.sessions() == 1);
    clock.advance(grace - Duration::from_nanos(1));
    settle(&mut reactor);
    assert_eq!(reactor.sessions(), 1);
    clock.advance(Duration::from_nanos(1));
    assert!(!reactor.poll(Some(Duration::ZERO)).unwrap());
    let stats = reactor.stats();
    assert_eq!(stats.closed[CloseReason::SHUTDOWN], 1);
    assert_eq!(stats.closed[CloseReason::GRACE_OVER], 1);
    assert!(stats.drops[mbuf::stack::DropReason(CloseReason::GRACE_OVER.0)] > 0, "{stats}");
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
    end(reactor, &pool);
}

#[test]
fn another_thread_shuts_it_down_and_reads_its_progress() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let seen = Arc::new(Seen::default());
    let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
    let udp = one(&pool, mbuf::stack::Edge::Packets, Hoarder::new(&seen, None)).unwrap();
    reactor.listen_udp(localhost(), udp).unwrap();
    let handle = reactor.handle();
    let thread = std::thread::spawn(move || {
        reactor.run().unwrap();
        reactor.stats()
    });
    let mut peer = TcpStream::connect(address).unwrap();
    peer.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    handle.clone().shutdown().unwrap();
    let mut rest = Vec::new();
    assert_eq!(peer.read_to_end(&mut rest).unwrap(), 0);
    peer.shutdown(Shutdown::Write).unwrap();
    let stats = thread.join().unwrap();
    assert_eq!((stats.open, stats.accepted, stats.bytes_in, stats.bytes_out), (0, 1, 5, 5));
    assert_eq!(stats.closed[CloseReason::SHUTDOWN], 2);
    assert_eq!(seen.opened.load(Ordering::Relaxed), 1);
    let progress = handle.progress();
    assert_eq!((progress.open, progress.accepted, progress.bytes_out), (0, 1, 5));
    handle.shutdown().unwrap();
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
}

#[test]
fn dropping_a_reactor_closes_all_and_leaves_nothing() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = reactor.listen_tcp(localhost(), serving(|| Frames::new(1 << 20))).unwrap();
    let peers: Vec<_> = (0..20).map(|_| connect(address)).collect();
    for peer in &peers {
        assert_eq!(write(peer, &[0, 0, 0xff, 0xff, 1, 2, 3]), 7);
    }
    until(&mut reactor, "what they sent", |r| r.stats().bytes_in == 140);
    assert!(pool.stats().in_use() >= 20);
    end(reactor, &pool);
    for peer in &peers {
        peer.set_nonblocking(false).unwrap();
        assert_eq!(read(peer, &mut Vec::new()), Got::End);
    }
}
