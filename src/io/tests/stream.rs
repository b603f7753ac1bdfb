//! Streams: every short length, every cut of a chain, reads that adapt, and how connections end.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
};

use super::*;
use crate::io::{
    Stream, errno,
    faults::{self, Call, Fault},
};

fn unix_pair() -> (Stream, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    (Stream::from_std_unix(here).unwrap(), there)
}

fn tcp_pair() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (Stream::from_std_tcp(here).unwrap(), listener.accept().unwrap().0)
}

#[test]
fn writes_cut_short_at_every_length_go_on_exactly_where_they_stopped() {
    let pool = pool();
    let (mut stream, mut peer) = unix_pair();
    let bytes = pattern(3, 24);
    // All cuts of the first write, and of the second, over chains that begin and end anywhere.
    for first in 1..=24 {
        for second in 1..=24 {
            let mut queue = queue();
            queue.push(segmented(&pool, &bytes[..9], &[4, 1, 4])).unwrap();
            queue.push(pool.chain().unwrap()).unwrap();
            queue.push(segmented(&pool, &bytes[9..], &[1, 13, 1])).unwrap();
            let mut limits = [first, second].into_iter();
            let guard = faults::inject(move |_| limits.next().map_or(Fault::None, Fault::Short));
            assert_eq!(stream.send(&mut queue).unwrap(), Sent::All);
            drop(guard);
            let mut got = [0; 24];
            peer.read_exact(&mut got).unwrap();
            assert!(got[..] == bytes, "cut at {first}, then at {second}");
        }
    }
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn a_write_that_is_cut_short_and_then_blocks_leaves_the_rest_in_the_queue() {
    let pool = pool();
    let (mut stream, mut peer) = unix_pair();
    let bytes = pattern(4, 40);
    for cut in 1..40 {
        let mut queue = queue();
        queue.push(segmented(&pool, &bytes[..20], &[3, 17])).unwrap();
        queue.push(segmented(&pool, &bytes[20..], &[20])).unwrap();
        let mut calls = 0;
        let guard = faults::inject(move |_| {
            calls += 1;
            match calls {
                1 => Fault::Errno(libc::EINTR),
                2 => Fault::Short(cut),
                _ => Fault::Errno(libc::EAGAIN),
            }
        });
        assert_eq!(stream.send(&mut queue).unwrap(), Sent::WouldBlock);
        drop(guard);
        assert_eq!(queue.bytes(), 40 - cut);
        assert!(bytes_of(queue.iter()) == bytes[cut..]);
        assert!(!stream.is_starved());
        assert_eq!(stream.send(&mut queue).unwrap(), Sent::All);
        let mut got = [0; 40];
        peer.read_exact(&mut got).unwrap();
        assert!(got[..] == bytes);
    }
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn reads_cut_short_at_every_length_bring_the_same_bytes() {
    let pool = pool();
    let receiver = pool.receiver();
    let (mut stream, mut peer) = unix_pair();
    let bytes = pattern(5, 30);
    for cut in 1..=30 {
        peer.write_all(&bytes).unwrap();
        let guard = faults::inject(move |_| Fault::Short(cut));
        let mut batch = Batch::new();
        while batch.iter().map(Chain::len).sum::<usize>() < 30 {
            assert_eq!(stream.recv(&receiver, &mut batch).unwrap(), Received::Chains(1));
        }
        drop(guard);
        assert_eq!(batch.len(), 30_usize.div_ceil(cut));
        assert!(bytes_of(batch.iter()) == bytes, "cut at {cut}");
    }
    receiver.flush();
    pool.flush();
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn more_segments_than_a_call_takes_are_sent_in_several_calls() {
    let pool = pool();
    let (mut stream, mut peer) = unix_pair();
    let bytes = pattern(6, 2_500);
    let mut queue = queue();
    queue.push(segmented(&pool, &bytes[..1_500], &[1; 1_500])).unwrap();
    for at in 1_500..2_500 {
        queue.push(segmented(&pool, &bytes[at..at + 1], &[1])).unwrap();
    }
    let before = faults::calls(Call::Writev);
    assert_eq!(stream.send(&mut queue).unwrap(), Sent::All);
    assert_eq!(faults::calls(Call::Writev) - before, 3, "1,024 + 1,024 + 452 segments");
    let mut got = vec![0; 2_500];
    peer.read_exact(&mut got).unwrap();
    assert!(got == bytes);
}

#[test]
fn many_chains_leave_in_one_call() {
    let pool = pool();
    let (mut stream, mut peer) = unix_pair();
    let mut queue = queue();
    for n in 0..100 {
        queue.push(pool.chain_from(&[n; 64]).unwrap()).unwrap();
    }
    let before = faults::calls(Call::Writev);
    assert_eq!(stream.send(&mut queue).unwrap(), Sent::All);
    assert_eq!(faults::calls(Call::Writev) - before, 1);
    assert_eq!((stream.stats().writes, stream.stats().sent), (1, 6_400));
    let mut got = [0; 6_400];
    peer.read_exact(&mut got).unwrap();
    assert!(got.chunks(64).zip(0..).all(|(chunk, n)| chunk == [n; 64]));
}

#[test]
fn reads_grow_with_what_comes_and_shrink_again() {
    let pool = pool();
    let receiver = pool.receiver();
    let (mut stream, mut peer) = unix_pair();
    let bytes = pattern(7, 150_000);
    peer.write_all(&bytes).unwrap();
    let mut batch = Batch::new();
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < bytes.len() {
        assert_eq!(stream.recv(&receiver, &mut batch).unwrap(), Received::Chains(1));
        sizes.push(batch.iter().next_back().unwrap().len());
    }
    assert!(bytes_of(batch.iter()) == bytes);
    assert_eq!(sizes[..2], [1_984, 16_320], "headroom 64 taken off");
    assert_eq!(sizes[2..4], [65_472, 65_472]);
    assert!(stream.is_drained());
    drop(batch);

    // Then little comes: it does not pin what the large read would have needed.
    let mut batch = Batch::new();
    for _ in 0..2 {
        peer.write_all(b"little").unwrap();
        assert_eq!(stream.recv(&receiver, &mut batch).unwrap(), Received::Chains(1));
        let chain = batch.pop().unwrap();
        assert_eq!(chain.to_vec().unwrap(), b"little");
        assert!(chain.footprint() <= 2_048 + 256, "{} bytes pinned", chain.footprint());
    }
    assert_eq!(stream.stats().compacted, 1);

    // And an idle stream holds nothing.
    assert_eq!(stream.recv(&receiver, &mut batch).unwrap(), Received::WouldBlock);
    receiver.flush();
    pool.flush();
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn a_read_takes_smaller_buffers_when_large_ones_have_run_out() {
    let pool = pool();
    let receiver = pool.receiver();
    let (mut stream, mut peer) = unix_pair();
    peer.write_all(&pattern(8, 60_000)).unwrap();
    let large: Vec<Chain> = std::iter::from_fn(|| {
        pool.chain_in(Class::K64, 0).ok().or(pool.chain_in(Class::K16, 0).ok())
    })
    .collect();
    assert_eq!(large.len(), 128);
    let mut batch = Batch::new();
    while batch.iter().map(Chain::len).sum::<usize>() < 60_000 {
        assert_eq!(stream.recv(&receiver, &mut batch).unwrap(), Received::Chains(1));
    }
    assert!(bytes_of(batch.iter()) == pattern(8, 60_000));
}

#[test]
fn the_system_without_memory_is_no_error() {
    let pool = pool();
    let receiver = pool.receiver();
    let (mut stream, mut peer) = unix_pair();
    peer.write_all(b"in").unwrap();
    let mut queue = queue();
    queue.push(pool.chain_from(b"out").unwrap()).unwrap();
    let mut batch = Batch::new();
    for errno in [libc::ENOBUFS, libc::ENOMEM] {
        let _broken = faults::inject(move |_| Fault::Errno(errno));
        assert_eq!(stream.send(&mut queue).unwrap(), Sent::WouldBlock);
        assert!(stream.is_starved());
        assert_eq!(stream.recv(&receiver, &mut batch).unwrap(), Received::NoBuffers);
    }
    assert_eq!(stream.send(&mut queue).unwrap(), Sent::All);
    assert!(!stream.is_starved());
    assert_eq!(stream.recv(&receiver, &mut batch).unwrap(), Received::Chains(1));
    let mut got = [0; 3];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"out");
}

#[test]
fn errors_name_the_call_and_the_peer() {
    let pool = pool();
    let receiver = pool.receiver();
    let (mut stream, peer) = tcp_pair();
    let peer_addr = peer.local_addr().unwrap();
    assert_eq!(stream.peer_addr(), Some(peer_addr));
    assert_eq!(stream.local_addr(), peer.peer_addr().ok());
    assert_eq!(stream.to_string(), peer_addr.to_string());

    let guard = faults::inject(|_| Fault::Errno(libc::ECONNRESET));
    let error = stream.recv(&receiver, &mut Batch::new()).unwrap_err();
    drop(guard);
    let expected = format!("readv from {peer_addr}: ECONNRESET (Connection reset by peer)");
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(errno(&error), Some(libc::ECONNRESET));

    // A real one: the peer has gone with bytes that it did not read.
    let mut queue = queue();
    queue.push(pool.chain_from(b"never read").unwrap()).unwrap();
    assert_eq!(stream.send(&mut queue).unwrap(), Sent::All);
    drop(peer);
    let error = loop {
        match stream.recv(&receiver, &mut Batch::new()) {
            Ok(Received::WouldBlock) => wait(&stream, Interest::READABLE),
            Ok(other) => panic!("{other:?} from a connection that was reset"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    queue.push(pool.chain_from(b"too late").unwrap()).unwrap();
    let error = stream.send(&mut queue).unwrap_err();
    assert_eq!(error.to_string(), format!("writev to {peer_addr}: EPIPE (Broken pipe)"));
    assert_eq!(queue.bytes(), 8);
}

#[test]
fn each_direction_ends_on_its_own() {
    let pool = pool();
    let receiver = pool.receiver();
    let (mut stream, mut peer) = tcp_pair();
    stream.set_nodelay(true).unwrap();
    let mut queue = queue();
    queue.push(pool.chain_from(b"last words").unwrap()).unwrap();
    assert_eq!(stream.send(&mut queue).unwrap(), Sent::All);
    stream.shutdown_write().unwrap();
    stream.shutdown_write().unwrap();
    let mut got = String::new();
    peer.read_to_string(&mut got).unwrap();
    assert_eq!(got, "last words");
    // The other direction is open still.
    peer.write_all(b"answer").unwrap();
    drop(peer);
    let mut batch = Batch::new();
    while recv_some(&mut stream, &receiver, &mut batch) != Received::Closed {}
    assert_eq!(bytes_of(batch.iter()), b"answer");
    stream.shutdown_write().unwrap();
}

#[test]
fn an_aborted_stream_resets_its_peer() {
    let (mut stream, mut peer) = tcp_pair();
    stream.abort_on_drop().unwrap();
    drop(stream);
    let error = peer.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn connecting_says_when_it_is_done_and_names_who_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stream = Stream::connect_tcp(address).unwrap();
    wait(&stream, Interest::WRITABLE);
    stream.take_error().unwrap();
    assert_eq!(stream.peer_addr(), Some(address));
    drop((listener, stream));

    let refused = Stream::connect_tcp(address).and_then(|stream| {
        wait(&stream, Interest::WRITABLE);
        stream.take_error()
    });
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert!(error.to_string().contains(&address.to_string()), "{error}");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let stream = Stream::connect_unix(&path).unwrap();
    assert_eq!(stream.to_string(), path.display().to_string());
    assert_eq!((stream.peer_addr(), stream.local_addr()), (None, None));
    stream.set_nodelay(true).unwrap();
    drop(listener);
    let error = Stream::connect_unix(&path).unwrap_err();
    assert_eq!(errno(&error), Some(libc::ECONNREFUSED));
    assert!(error.to_string().starts_with(&format!("connect to {}: ECONN", path.display())));
}
