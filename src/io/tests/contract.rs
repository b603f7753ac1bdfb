//! `source_contract` and `sink_contract`, run over everything that has them.

mod cases;

use std::{
    net::UdpSocket,
    os::unix::net::{UnixDatagram, UnixStream},
};

use self::cases::*;
use super::*;
use crate::{
    io::{Datagram, DatagramOptions, PipeOptions, Stream, TunTap, TunTapKind, faults, pipe},
    meta::Address,
    testing::{Clock, Collector, Faults, FaultySink, Link, Schedule, Step},
};

type Feed = Box<dyn FnMut(&[u8])>;

/// A source, and what its peer does.
struct SourceCase {
    source: Box<dyn Source>,
    /// Waits until the source may have something.
    ready: Box<dyn Fn()>,
    /// The peer sends this, as a packet or as bytes.
    feed: Feed,
    /// The peer closes; `None` where a source has no end.
    close: Option<Box<dyn FnOnce()>>,
    packets: bool,
    /// Whether what is received is in buffers of the receiver's pool.
    draws: bool,
}

/// What every source promises.
fn source_contract(name: &str, pool: &Pool, make: impl Fn() -> SourceCase) {
    let receiver = pool.receiver();
    let mut case = make();
    let mut batch = Batch::new();
    let mark = pool.chain_from(b"mark").unwrap();
    batch.push(mark);

    // Nothing there: says so, and adds nothing.
    assert_eq!(case.source.recv(&receiver, &mut batch).unwrap(), Received::WouldBlock, "{name}");
    assert_eq!(batch.len(), 1, "{name}");

    // What comes is added behind what the batch held.
    (case.feed)(b"first");
    let count = receive(&mut case, &receiver, &mut batch);
    assert_eq!(batch.len(), 1 + count, "{name}");
    assert_eq!(batch.pop().unwrap().to_vec().unwrap(), b"mark", "{name}");
    assert_eq!(bytes_of(batch.iter()), b"first", "{name}");
    for chain in batch.drain() {
        assert!(!chain.is_empty(), "{name}");
        chain.check().unwrap();
    }

    // Order, and for packets the edges, are kept over many sizes.
    let sizes = [1, 2, 63, 64, 65, 127, 128, 129, 500, 1_472, 1_900, 1_901, 2_048, 5_000, 20_000];
    for (seed, &size) in sizes.iter().enumerate() {
        let sent = pattern(seed, size);
        (case.feed)(&sent);
        let mut got = Batch::new();
        while got.iter().map(Chain::len).sum::<usize>() < size {
            receive(&mut case, &receiver, &mut got);
        }
        assert_eq!(bytes_of(got.iter()), sent, "{name}: {size} bytes");
        assert!(!case.packets || got.len() == 1, "{name}: {size} bytes in {} chains", got.len());
        for chain in got.iter() {
            chain.check().unwrap();
        }
    }

    // Whatever befalls the calls, what arrives is what was sent.
    for seed in 0..10 {
        let sent = pattern(seed, 5_000);
        (case.feed)(&sent);
        (case.ready)();
        let broken = faults::inject(faults::seeded(seed as u64));
        let (mut got, mut calls) = (Batch::new(), 0);
        while got.iter().map(Chain::len).sum::<usize>() < sent.len() {
            case.source.recv(&receiver, &mut got).unwrap();
            calls += 1;
            assert!(calls < 100_000, "{name}, seed {seed}: no end");
        }
        drop(broken);
        assert!(bytes_of(got.iter()) == sent, "{name}, seed {seed}");
    }

    // A pool that is empty: nothing is lost, and it goes on when buffers come back.
    if case.draws {
        (case.feed)(b"later");
        (case.ready)();
        receiver.flush();
        let held = drain(pool);
        let answer = case.source.recv(&receiver, &mut batch).unwrap();
        // Buffers that were posted before still serve.
        if answer == Received::NoBuffers {
            assert!(batch.is_empty(), "{name}");
            drop(held);
            receive(&mut case, &receiver, &mut batch);
        } else {
            assert!(matches!(answer, Received::Chains(1..)), "{name}: {answer:?}");
            drop(held);
        }
        assert_eq!(bytes_of(batch.drain().collect::<Vec<_>>().iter()), b"later", "{name}");
    }

    // The end comes after all bytes, and stays.
    if let Some(close) = case.close.take() {
        (case.feed)(b"last");
        close();
        let mut got = Vec::new();
        loop {
            (case.ready)();
            match case.source.recv(&receiver, &mut batch).unwrap() {
                Received::Chains(_) => got.extend(batch.drain()),
                Received::Closed => break,
                other => assert_eq!(other, Received::WouldBlock, "{name}"),
            }
        }
        assert_eq!(bytes_of(&got), b"last", "{name}");
        let again = case.source.recv(&receiver, &mut batch).unwrap();
        assert_eq!(again, Received::Closed, "{name}");
    }
    drop((case, batch));
    receiver.flush();
    pool.flush();
    assert_eq!(pool.stats().in_use(), 0, "{name}: {}", pool.stats());
}

/// Receives once, when there is something.
fn receive(case: &mut SourceCase, receiver: &Receiver, batch: &mut Batch) -> usize {
    let before = batch.len();
    loop {
        (case.ready)();
        match case.source.recv(receiver, batch).unwrap() {
            Received::Chains(n) => {
                assert!(n > 0 && batch.len() == before + n);
                return n;
            }
            other => assert_eq!(other, Received::WouldBlock),
        }
    }
}

/// All that the pool has.
fn drain(pool: &Pool) -> Vec<Chain> {
    let mut held = Vec::new();
    for class in Class::ALL.into_iter().rev() {
        while let Ok(chain) = pool.chain_in(class, 0) {
            held.push(chain);
        }
    }
    held
}

/// A sink, and what its peer does.
struct SinkCase {
    sink: Box<dyn Sink>,
    /// Where packets are to go.
    destination: Address,
    /// The peer takes what is there: for each packet its bytes, or bytes as they come.
    take: Box<dyn FnMut() -> Vec<Vec<u8>>>,
    /// The peer goes away; `None` where that makes no difference to the sink.
    close: Option<Box<dyn FnOnce()>>,
    packets: bool,
}

/// What every sink promises.
fn sink_contract(name: &str, pool: &Pool, make: impl Fn() -> SinkCase) {
    sends_in_order(name, pool, make());
    keeps_the_rest(name, pool, make());
    for seed in 0..20 {
        survives_faults(name, pool, make(), seed);
    }
    fails_when_the_peer_is_gone(name, pool, make());
    pool.flush();
    assert_eq!(pool.stats().in_use(), 0, "{name}: {}", pool.stats());
}

fn packet(case: &SinkCase, pool: &Pool, bytes: &[u8], segments: &[usize]) -> Chain {
    let mut chain = segmented(pool, bytes, segments);
    chain.meta_mut().set_destination(case.destination);
    chain
}

fn sends_in_order(name: &str, pool: &Pool, mut case: SinkCase) {
    let mut queue = queue();
    assert_eq!(case.sink.send(&mut queue).unwrap(), Sent::All, "{name}: nothing to send");
    let mut sent = Vec::new();
    // Every way to cut eight bytes into segments.
    for cuts in 0..128_u32 {
        let bytes = pattern(cuts as usize, 8);
        let mut segments = vec![1];
        for at in 0..7 {
            if cuts >> at & 1 == 1 {
                segments.push(1);
            } else if let Some(last) = segments.last_mut() {
                *last += 1;
            }
        }
        queue.push(packet(&case, pool, &bytes, &segments)).unwrap();
        sent.push(bytes);
    }
    let mut got = Vec::new();
    send_all(&mut *case.sink, &mut queue, || got.append(&mut (case.take)()));
    take_until(name, &mut case, &mut got, 8 * sent.len());
    assert_same(name, case.packets, &got, &sent);
}

/// Lets the peer take until it has so many bytes.
fn take_until(name: &str, case: &mut SinkCase, got: &mut Vec<Vec<u8>>, bytes: usize) {
    for _ in 0..1_000_000 {
        if got.iter().map(Vec::len).sum::<usize>() >= bytes {
            return;
        }
        got.append(&mut (case.take)());
        std::thread::yield_now();
    }
    panic!("{name}: {} of {bytes} bytes came", got.iter().map(Vec::len).sum::<usize>());
}

/// Fills the sink until it blocks: what arrives and what is left is all that was queued.
fn keeps_the_rest(name: &str, pool: &Pool, mut case: SinkCase) {
    let mut queue = queue();
    let mut sent = Vec::new();
    let (mut got, mut blocked) = (Vec::new(), false);
    for round in 0..400 {
        let bytes = pattern(round, 1_000 + round);
        queue.push(packet(&case, pool, &bytes, &[1, 99, 900 + round])).unwrap();
        sent.push(bytes);
        let before = queue.bytes();
        if case.sink.send(&mut queue).unwrap() == Sent::WouldBlock {
            blocked = true;
            assert!(!queue.is_empty() && queue.bytes() <= before, "{name}");
            let bytes = queue.iter().map(Chain::len).sum::<usize>();
            assert_eq!(queue.bytes(), bytes, "{name}");
            got.append(&mut (case.take)());
        }
        if blocked && round > 300 {
            break;
        }
    }
    send_all(&mut *case.sink, &mut queue, || got.append(&mut (case.take)()));
    let total = sent.iter().map(Vec::len).sum::<usize>();
    // UDP over loopback may drop what its peer does not take in time; nothing else may.
    while got.iter().map(Vec::len).sum::<usize>() < total {
        let mut more = (case.take)();
        if more.is_empty() {
            break;
        }
        got.append(&mut more);
    }
    if blocked || !case.packets {
        assert_same(name, case.packets, &got, &sent);
    } else {
        let mut expected = sent.iter();
        for packet in &got {
            assert!(expected.any(|sent| sent == packet), "{name}: out of order, or changed");
        }
    }
}

fn survives_faults(name: &str, pool: &Pool, mut case: SinkCase, seed: u64) {
    let mut queue = queue();
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    for round in 0..60 {
        let bytes = pattern(round, 700);
        queue.push(packet(&case, pool, &bytes, &[300, 1, 399])).unwrap();
        sent.push(bytes);
    }
    let broken = faults::inject(faults::seeded(seed));
    let mut calls = 0;
    while case.sink.send(&mut queue).unwrap() == Sent::WouldBlock {
        calls += 1;
        assert!(calls < 100_000, "{name}, seed {seed}: no end");
        got.append(&mut (case.take)());
    }
    drop(broken);
    take_until(name, &mut case, &mut got, 700 * 60);
    assert_same(&format!("{name}, seed {seed}"), case.packets, &got, &sent);
}

fn fails_when_the_peer_is_gone(name: &str, pool: &Pool, mut case: SinkCase) {
    let Some(close) = case.close.take() else { return };
    close();
    let bytes = pattern(0, 100);
    let mut queue = queue();
    // The first write after the close may still be taken.
    for _ in 0..100 {
        queue.push(packet(&case, pool, &bytes, &[50, 50])).unwrap();
        let before = queue.bytes();
        if let Err(error) = case.sink.send(&mut queue) {
            assert_eq!(queue.bytes(), before, "{name}: an error leaves the queue as it is");
            assert!(
                matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset),
                "{name}: {error}"
            );
            return;
        }
        std::thread::yield_now();
    }
    panic!("{name}: no error although the peer is gone");
}

fn assert_same(name: &str, packets: bool, got: &[Vec<u8>], sent: &[Vec<u8>]) {
    if packets {
        assert_eq!(got.len(), sent.len(), "{name}");
        for (at, (got, sent)) in got.iter().zip(sent).enumerate() {
            assert!(got == sent, "{name}: packet {at}");
        }
    } else {
        assert!(got.concat() == sent.concat(), "{name}");
    }
}

#[test]
fn sources_keep_their_contract() {
    let pool = pool();
    source_contract("tcp", &pool, || {
        let (here, there) = tcp_pair();
        there.set_nodelay(true).unwrap();
        stream_source(Stream::from_std_tcp(here).unwrap(), there)
    });
    source_contract("unix stream", &pool, || {
        let (here, there) = UnixStream::pair().unwrap();
        stream_source(Stream::from_std_unix(here).unwrap(), there)
    });
    for gro in [false, true] {
        source_contract("udp", &pool, || {
            let options = DatagramOptions { gro, ..DatagramOptions::default() };
            let source = Datagram::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
            udp_source(source, UdpSocket::bind("127.0.0.1:0").unwrap())
        });
    }
    source_contract("connected udp", &pool, || {
        let peer = UdpSocket::bind("[::1]:0").unwrap();
        let options = DatagramOptions::default();
        udp_source(Datagram::connect(peer.local_addr().unwrap(), &options).unwrap(), peer)
    });
    source_contract("unix datagram", &pool, || {
        let (here, there) = UnixDatagram::pair().unwrap();
        let source = Datagram::from_std_unix(here, &DatagramOptions::default()).unwrap();
        let fd = source.as_fd().try_clone_to_owned().unwrap();
        SourceCase {
            source: Box::new(source),
            ready: Box::new(move || wait(&fd, Interest::READABLE)),
            feed: Box::new(move |bytes| assert_eq!(there.send(bytes).unwrap(), bytes.len())),
            close: None,
            packets: true,
            draws: true,
        }
    });
    for (name, mtu, header) in [("tun", 20_000, false), ("tun with a header", 1_500, true)] {
        source_contract(name, &pool, || {
            let (here, there) = UnixDatagram::pair().unwrap();
            here.set_nonblocking(true).unwrap();
            let source = TunTap::over(here.into(), TunTapKind::Tun, mtu, header);
            let fd = source.as_fd().try_clone_to_owned().unwrap();
            SourceCase {
                source: Box::new(source),
                ready: Box::new(move || wait(&fd, Interest::READABLE)),
                feed: Box::new(move |bytes| {
                    let header = vec![0; if header { 10 } else { 0 }];
                    there.send(&[&header, bytes].concat()).unwrap();
                }),
                close: None,
                packets: true,
                draws: true,
            }
        });
    }
    source_contract("pipe", &pool, || pipe_source(&PipeOptions::default(), &pool));
    let cut = PipeOptions { cut: 7, ..PipeOptions::default() };
    source_contract("pipe cut at 7", &pool, || pipe_source(&cut, &pool));
    source_contract("packet pipe", &pool, || pipe_source(&PipeOptions::packets(), &pool));
    let clock = Clock::new();
    source_contract("packet link", &pool, || {
        link_source(Link::packets(&clock, 1, Faults::none()), true, &pool)
    });
    source_contract("stream link", &pool, || {
        link_source(Link::stream(&clock, 2, 100_000), false, &pool)
    });
    #[cfg(feature = "capture")]
    for pcapng in [false, true] {
        source_contract("capture", &pool, || capture_source(pcapng, &pool));
    }
}

#[test]
fn sinks_keep_their_contract() {
    let pool = pool();
    sink_contract("tcp", &pool, || {
        let (here, there) = tcp_pair();
        there.set_nonblocking(true).unwrap();
        stream_sink(Stream::from_std_tcp(here).unwrap(), there)
    });
    sink_contract("unix stream", &pool, || {
        let (here, there) = UnixStream::pair().unwrap();
        there.set_nonblocking(true).unwrap();
        stream_sink(Stream::from_std_unix(here).unwrap(), there)
    });
    for gso in [false, true] {
        sink_contract("udp", &pool, || {
            let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
            peer.set_nonblocking(true).unwrap();
            let options = DatagramOptions { gso, ..DatagramOptions::default() };
            let sink = Datagram::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
            SinkCase {
                sink: Box::new(sink),
                destination: Address::Ip(peer.local_addr().unwrap()),
                take: Box::new(move || take_datagrams(|bytes| peer.recv(bytes))),
                close: None,
                packets: true,
            }
        });
    }
    sink_contract("connected udp", &pool, || {
        let peer = UdpSocket::bind("[::1]:0").unwrap();
        peer.set_nonblocking(true).unwrap();
        let options = DatagramOptions::default();
        SinkCase {
            sink: Box::new(Datagram::connect(peer.local_addr().unwrap(), &options).unwrap()),
            // What it is connected to goes before the metadata.
            destination: Address::Ip("192.0.2.1:9".parse().unwrap()),
            take: Box::new(move || take_datagrams(|bytes| peer.recv(bytes))),
            close: None,
            packets: true,
        }
    });
    sink_contract("unix datagram", &pool, || {
        let (here, there) = UnixDatagram::pair().unwrap();
        there.set_nonblocking(true).unwrap();
        SinkCase {
            sink: Box::new(Datagram::from_std_unix(here, &DatagramOptions::default()).unwrap()),
            destination: Address::None,
            take: Box::new(move || take_datagrams(|bytes| there.recv(bytes))),
            close: None,
            packets: true,
        }
    });
    for (name, header) in [("tun", false), ("tun with a header", true)] {
        sink_contract(name, &pool, || {
            let (here, there) = UnixDatagram::pair().unwrap();
            here.set_nonblocking(true).unwrap();
            there.set_nonblocking(true).unwrap();
            SinkCase {
                sink: Box::new(TunTap::over(here.into(), TunTapKind::Tun, 1_500, header)),
                destination: Address::None,
                take: Box::new(move || {
                    let mut packets = take_datagrams(|bytes| there.recv(bytes));
                    if header {
                        packets.iter_mut().for_each(|packet| drop(packet.drain(..10)));
                    }
                    packets
                }),
                close: None,
                packets: true,
            }
        });
    }
    sink_contract("pipe", &pool, || pipe_sink(&PipeOptions::default(), &pool));
    let narrow = PipeOptions { bytes: 3, cut: 2, ..PipeOptions::default() };
    sink_contract("narrow pipe", &pool, || pipe_sink(&narrow, &pool));
    sink_contract("packet pipe", &pool, || pipe_sink(&PipeOptions::packets(), &pool));
    let clock = Clock::new();
    sink_contract("packet link", &pool, || {
        link_sink(Link::packets(&clock, 3, Faults::none()), true, &pool)
    });
    sink_contract("stream link", &pool, || link_sink(Link::stream(&clock, 4, 500), false, &pool));
    #[cfg(feature = "capture")]
    for pcapng in [false, true] {
        sink_contract("capture", &pool, || capture_sink(pcapng, &pool));
    }
    sink_contract("collector", &pool, || collecting(|collector| collector, true));
    let steps = [Step::Take(7), Step::WouldBlock, Step::Chain, Step::Take(1_500), Step::All];
    sink_contract("faulty sink", &pool, || {
        collecting(|collector| FaultySink::new(collector, Schedule::steps(steps)), false)
    });
    sink_contract("faulty packet sink", &pool, || {
        let steps = [Step::Chain, Step::WouldBlock, Step::Chain];
        collecting(|collector| FaultySink::new(collector, Schedule::steps(steps)), true)
    });
}
