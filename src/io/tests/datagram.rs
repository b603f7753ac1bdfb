//! UDP: lengths, addresses, joined datagrams, buffers that stay posted.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use super::*;
use crate::{
    io::{
        Datagram, DatagramOptions, errno,
        faults::{self, Call},
    },
    meta::Address,
};

pub(super) fn bind(local: &str) -> Datagram {
    Datagram::bind(local.parse().unwrap(), &DatagramOptions::default()).unwrap()
}

/// A plain socket that gives up after five seconds.
pub(super) fn plain(local: &str) -> UdpSocket {
    let socket = UdpSocket::bind(local).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

pub(super) fn datagram(pool: &Pool, bytes: &[u8], to: SocketAddr) -> Chain {
    let mut chain = pool.chain_from(bytes).unwrap();
    chain.meta_mut().set_destination(Address::Ip(to));
    chain
}

fn all_back(pool: &Pool, receiver: &Receiver) {
    receiver.flush();
    pool.flush();
    assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
}

#[test]
fn the_shortest_and_the_longest_datagrams_come_and_go() {
    for (local, longest) in [("127.0.0.1:0", 65_507), ("[::1]:0", 65_527)] {
        let pool = pool();
        let receiver = pool.receiver();
        let mut socket = bind(local);
        let peer = plain(local);
        let to = peer.local_addr().unwrap();
        for len in [0, 1, 1_900, 1_901, 2_048, 65_472, 65_473, longest - 1, longest] {
            let bytes = pattern(len, len);
            assert_eq!(peer.send_to(&bytes, socket.local_addr().unwrap()).unwrap(), len);
            let mut chain = recv_chains(&mut socket, &receiver, 1).pop().unwrap();
            assert!(chain.to_vec().unwrap() == bytes, "{len} bytes in");
            assert_eq!(chain.meta().source(), Address::Ip(to));
            assert_eq!(chain.meta().destination(), Address::Ip(socket.local_addr().unwrap()));
            assert_eq!(chain.meta().segment_size(), 0);

            chain.meta_mut().swap_addresses();
            let mut queue = queue();
            queue.push(chain).unwrap();
            assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
            let mut got = vec![0; 1 << 16];
            assert_eq!(peer.recv(&mut got).unwrap(), len);
            assert!(got[..len] == bytes, "{len} bytes out");
        }
        // One more byte is too long; what stands behind it is sent.
        let mut queue = queue();
        queue.push(datagram(&pool, &pattern(0, longest + 1), to)).unwrap();
        queue.push(datagram(&pool, &pattern(0, 70_000), to)).unwrap();
        queue.push(datagram(&pool, b"next", to)).unwrap();
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        assert_eq!(socket.stats().dropped.too_long, 2);
        assert_eq!(socket.stats().dropped.total(), 2);
        let mut got = [0; 10];
        assert_eq!(peer.recv(&mut got).unwrap(), 4);
        drop(socket);
        all_back(&pool, &receiver);
    }
}

#[test]
fn joined_datagrams_are_split_without_copying() {
    let pool = pool();
    let receiver = pool.receiver();
    let mut socket = bind("127.0.0.1:0");
    let mut sender = bind("127.0.0.1:0");
    let to = socket.local_addr().unwrap();
    let bytes = pattern(1, 40 * 1_000 + 10);
    let mut queue = queue();
    for chunk in bytes.chunks(1_000) {
        queue.push(datagram(&pool, chunk, to)).unwrap();
    }
    let before = faults::calls(Call::Sendmmsg);
    assert_eq!(sender.send(&mut queue).unwrap(), Sent::All);
    assert_eq!(faults::calls(Call::Sendmmsg) - before, 1);
    assert_eq!((sender.stats().sent, sender.stats().segmented), (41, 1));
    assert_eq!(sender.stats().sent_bytes, bytes.len() as u64);

    let mut batch = Batch::new();
    assert_eq!(recv_some(&mut socket, &receiver, &mut batch), Received::Chains(41));
    assert_eq!(socket.stats().joined, 1);
    assert_eq!(socket.stats().received, 41);
    assert_eq!(socket.stats().copied, 0);
    assert!(bytes_of(batch.iter()) == bytes);
    for (at, chain) in batch.iter().enumerate() {
        chain.check().unwrap();
        assert_eq!(chain.len(), if at < 40 { 1_000 } else { 10 });
        assert_eq!(chain.meta().source(), Address::Ip(sender.local_addr().unwrap()));
        assert_eq!(chain.meta().destination(), Address::Ip(to));
        assert_eq!(chain.meta().segment_size(), 1_000);
    }
    // They lie one behind the other in the one cluster that the kernel filled.
    let addresses: Vec<_> = batch
        .iter()
        .map(|chain| chain.slices().unwrap().next().unwrap().as_ptr() as usize)
        .collect();
    assert!(addresses.windows(2).all(|pair| pair[1] == pair[0] + 1_000));
    socket.release();
    receiver.flush();
    pool.flush();
    assert_eq!(pool.stats().class(Class::K64).in_use, 1);
    assert_eq!(pool.stats().class(Class::K2).in_use, 0);
    drop(batch);
    all_back(&pool, &receiver);
}

#[test]
fn without_buffers_to_split_into_the_rest_waits_in_order() {
    let pool = pool();
    let receiver = pool.receiver();
    let mut socket = bind("127.0.0.1:0");
    let mut sender = bind("127.0.0.1:0");
    let to = socket.local_addr().unwrap();
    let bytes = pattern(1, 64 * 100);
    let mut queue = queue();
    for chunk in bytes.chunks(100) {
        queue.push(datagram(&pool, chunk, to)).unwrap();
    }
    assert_eq!(sender.send(&mut queue).unwrap(), Sent::All);
    let mut batch = Batch::new();
    assert_eq!(recv_some(&mut socket, &receiver, &mut batch), Received::Chains(64));
    let mut got = bytes_of(batch.drain().collect::<Vec<_>>().iter());
    assert!(got == bytes, "all at once while there are mbufs");

    // Its buffers are posted now; all small mbufs are taken, and come back a few at a time.
    for chunk in bytes.chunks(100) {
        queue.push(datagram(&pool, chunk, to)).unwrap();
    }
    assert_eq!(sender.send(&mut queue).unwrap(), Sent::All);
    receiver.flush();
    let mut held: Vec<Chain> = std::iter::from_fn(|| pool.chain_in(Class::Small, 0).ok()).collect();
    got.clear();
    let mut rounds = 0;
    while got.len() < bytes.len() {
        held.truncate(held.len() - 7);
        pool.flush();
        match socket.recv(&receiver, &mut batch).unwrap() {
            Received::Chains(n) => {
                assert!(n <= 64);
                // Kept, so that their mbufs do not come back.
                for chain in batch.drain() {
                    got.extend(chain.to_vec().unwrap());
                    held.insert(0, chain);
                }
            }
            other => assert_eq!(other, Received::NoBuffers),
        }
        rounds += 1;
        assert!(rounds < 1_000);
    }
    assert!(rounds > 1, "it never ran out");
    assert!(got == bytes);
    drop((held, socket, sender));
    all_back(&pool, &receiver);
}

#[test]
fn lone_datagrams_are_copied_out_of_large_buffers() {
    let pool = pool();
    let receiver = pool.receiver();
    let mut socket = bind("127.0.0.1:0");
    let peer = plain("127.0.0.1:0");
    for (len, most) in [(64, 512), (1_500, 2_048 + 256), (1_900, 2_048 + 256), (2_000, 66_000)] {
        peer.send_to(&pattern(0, len), socket.local_addr().unwrap()).unwrap();
        let chain = recv_chains(&mut socket, &receiver, 1).pop().unwrap();
        assert!(chain.to_vec().unwrap() == pattern(0, len));
        assert!(chain.footprint() <= most, "{len} bytes pin {}", chain.footprint());
        if len < 2_000 {
            assert!(chain.headroom() >= pool.headroom());
        }
    }
    assert_eq!(socket.stats().copied, 3);
}

#[test]
fn posted_buffers_are_kept_grow_with_the_traffic_and_can_be_released() {
    let pool = pool();
    let receiver = pool.receiver();
    let mut socket = bind("127.0.0.1:0");
    let peer = plain("127.0.0.1:0");
    let mut batch = Batch::with_limit(64);
    assert_eq!(socket.recv(&receiver, &mut batch).unwrap(), Received::WouldBlock);
    assert_eq!(socket.posted(), 4);
    for _ in 0..8 {
        for n in 0..40_u8 {
            peer.send_to(&[n; 100], socket.local_addr().unwrap()).unwrap();
        }
        while batch.len() < 40 {
            recv_some(&mut socket, &receiver, &mut batch);
        }
        assert!(batch.drain().zip(0..).all(|(chain, n)| chain.to_vec().unwrap() == [n; 100]));
    }
    assert_eq!(socket.posted(), 32);
    receiver.flush();
    pool.flush();
    // A cluster and its mbuf each, and nothing else.
    assert_eq!(pool.stats().in_use(), 64);
    socket.release();
    socket.release();
    assert_eq!(socket.posted(), 0);
    all_back(&pool, &receiver);
    assert_eq!(socket.recv(&receiver, &mut batch).unwrap(), Received::WouldBlock);
    assert_eq!(socket.posted(), 4);
}

#[test]
fn a_batch_is_not_filled_far_beyond_its_room() {
    let pool = pool();
    let receiver = pool.receiver();
    let mut socket = bind("127.0.0.1:0");
    let mut sender = bind("127.0.0.1:0");
    let to = socket.local_addr().unwrap();
    let mut batch = Batch::with_limit(32);
    for round in 0..3 {
        let mut queue = queue();
        for n in 0..256_usize {
            queue.push(datagram(&pool, &n.to_ne_bytes(), to)).unwrap();
        }
        assert_eq!(sender.send(&mut queue).unwrap(), Sent::All);
        let mut got = 0_usize;
        while got < 256 {
            assert!(matches!(recv_some(&mut socket, &receiver, &mut batch), Received::Chains(_)));
            // It learns from the first message how many datagrams one may be.
            assert!(round == 0 || batch.len() <= 128, "{} chains", batch.len());
            for chain in batch.drain() {
                assert_eq!(chain.to_vec().unwrap(), got.to_ne_bytes());
                got += 1;
            }
        }
    }
}

#[test]
fn a_pool_without_large_clusters_serves_too() {
    let pool = Pool::builder().count(Class::Small, 2_048).count(Class::K2, 128).build().unwrap();
    let receiver = pool.receiver();
    let mut socket = bind("127.0.0.1:0");
    let peer = plain("127.0.0.1:0");
    for len in [0, 1, 64, 65, 500, 5_000, 65_507] {
        peer.send_to(&pattern(1, len), socket.local_addr().unwrap()).unwrap();
        let chain = recv_chains(&mut socket, &receiver, 1).pop().unwrap();
        assert!(chain.to_vec().unwrap() == pattern(1, len), "{len} bytes");
        assert_eq!(chain.meta().source(), Address::Ip(peer.local_addr().unwrap()));
    }
    // Nothing is lost where there is not even that.
    peer.send_to(&pattern(2, 65_507), socket.local_addr().unwrap()).unwrap();
    wait(&socket, Interest::READABLE);
    let held: Vec<Chain> = std::iter::from_fn(|| pool.chain_in(Class::Small, 0).ok()).collect();
    let mut batch = Batch::new();
    receiver.flush();
    assert_eq!(socket.recv(&receiver, &mut batch).unwrap(), Received::NoBuffers);
    assert_eq!(socket.recv(&receiver, &mut batch).unwrap(), Received::NoBuffers);
    drop(held);
    let chain = recv_chains(&mut socket, &receiver, 1).pop().unwrap();
    assert!(chain.to_vec().unwrap() == pattern(2, 65_507));
    drop((chain, socket));
    all_back(&pool, &receiver);
}

#[test]
fn what_the_pool_could_never_hold_is_dropped_and_does_not_stop_what_follows() {
    // Receivers may have ten 2 KiB clusters, and 99 small mbufs.
    let pool =
        Pool::builder().count(Class::Small, 110).count(Class::K2, 11).headroom(64).build().unwrap();
    let receiver = pool.receiver();
    let mut socket = bind("127.0.0.1:0");
    let to = socket.local_addr().unwrap();
    let peer = plain("127.0.0.1:0");
    let most = 10 * 2_048 + 64;
    for len in [most + 1, most, 65_507] {
        peer.send_to(&pattern(3, len), to).unwrap();
    }
    peer.send_to(b"last", to).unwrap();
    let mut chains = recv_chains(&mut socket, &receiver, 1);
    assert!(chains[0].to_vec().unwrap() == pattern(3, most));
    assert_eq!(socket.stats().receive_too_long, 1);
    // As long as buffers are merely in use nothing is dropped.
    let mut batch = Batch::new();
    peer.send_to(&pattern(4, most), to).unwrap();
    assert_eq!(recv_some(&mut socket, &receiver, &mut batch), Received::Chains(1));
    assert_eq!(bytes_of(batch.drain().collect::<Vec<_>>().iter()), b"last");
    assert_eq!(socket.stats().receive_too_long, 2);
    assert_eq!(socket.recv(&receiver, &mut batch).unwrap(), Received::NoBuffers);
    chains.clear();
    assert!(bytes_of(&recv_chains(&mut socket, &receiver, 1)) == pattern(4, most));
    assert_eq!(socket.stats().receive_too_long, 2);

    // A run that the kernel has joined counts for its datagrams.
    let sending = super::pool();
    let mut sender = bind("127.0.0.1:0");
    let mut queue = queue();
    for _ in 0..5 {
        queue.push(datagram(&sending, &pattern(5, 9_000), to)).unwrap();
    }
    assert_eq!(sender.send(&mut queue).unwrap(), Sent::All);
    assert_eq!(sender.stats().segmented, 1);
    peer.send_to(b"next", to).unwrap();
    assert_eq!(bytes_of(&recv_chains(&mut socket, &receiver, 1)), b"next");
    assert_eq!(socket.stats().receive_too_long, 7);
    assert!(socket.stats().lost().any(|row| row == ("receive_too_long", 7)));
    drop(socket);
    all_back(&pool, &receiver);
}

#[test]
fn a_wide_headroom_counts_for_what_the_pool_can_hold() {
    // The chain itself takes one of two clusters, and one of the 58 mbufs that receivers may have.
    let pool = Pool::builder()
        .count(Class::Small, 64)
        .count(Class::K4, 2)
        .headroom(1_000)
        .build()
        .unwrap();
    let receiver = pool.receiver();
    let mut socket = bind("127.0.0.1:0");
    let peer = plain("127.0.0.1:0");
    let most = (4_096 - 1_000) + 57 * 128;
    for len in [(4_096 - 1_000) + 2 * 4_096, most + 1, most] {
        peer.send_to(&pattern(6, len), socket.local_addr().unwrap()).unwrap();
    }
    let chains = recv_chains(&mut socket, &receiver, 1);
    assert!(bytes_of(&chains) == pattern(6, most));
    assert_eq!(socket.stats().receive_too_long, 2);
}

#[test]
fn replies_leave_from_the_address_that_was_asked() {
    let pool = pool();
    let receiver = pool.receiver();
    for (local, asked, client) in [
        ("0.0.0.0:0", "127.0.0.2", "127.0.0.1:0"),
        ("0.0.0.0:0", "127.3.2.1", "127.0.0.1:0"),
        ("[::]:0", "::1", "[::1]:0"),
        // Over IPv4, on a socket of both families.
        ("[::]:0", "127.0.0.3", "127.0.0.1:0"),
    ] {
        let mut socket = bind(local);
        let port = socket.local_addr().unwrap().port();
        let asked = SocketAddr::new(asked.parse().unwrap(), port);
        let client = plain(client);
        client.send_to(b"question", asked).unwrap();
        let mut chain = recv_chains(&mut socket, &receiver, 1).pop().unwrap();
        let Address::Ip(to) = chain.meta().destination() else { panic!("no local address") };
        assert_eq!((to.ip().to_canonical(), to.port()), (asked.ip(), port));
        chain.meta_mut().swap_addresses();
        let mut queue = queue();
        queue.push(chain).unwrap();
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        let mut got = [0; 100];
        let (len, from) = client.recv_from(&mut got).unwrap();
        assert_eq!((&got[..len], from), (&b"question"[..], asked), "{local}");
        assert_eq!(socket.stats().dropped.total(), 0);
    }
}

#[test]
fn a_socket_of_both_families_sends_to_either() {
    let pool = pool();
    let mut socket = bind("[::]:0");
    let mut queue = queue();
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let peer = plain(local);
        queue.push(datagram(&pool, b"hello", peer.local_addr().unwrap())).unwrap();
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        assert_eq!(peer.recv(&mut [0; 10]).unwrap(), 5, "{}", socket.stats());
    }
}

#[test]
fn runs_of_replies_keep_their_source_too() {
    let pool = pool();
    let receiver = pool.receiver();
    let mut socket = bind("0.0.0.0:0");
    let asked: SocketAddr =
        format!("127.0.0.2:{}", socket.local_addr().unwrap().port()).parse().unwrap();
    let mut client = bind("127.0.0.1:0");
    let mut queue = queue();
    for n in 0..50_u8 {
        queue.push(datagram(&pool, &[n; 300], asked)).unwrap();
    }
    assert_eq!(client.send(&mut queue).unwrap(), Sent::All);
    for mut chain in recv_chains(&mut socket, &receiver, 50) {
        chain.meta_mut().swap_addresses();
        queue.push(chain).unwrap();
    }
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    assert_eq!((socket.stats().sent, socket.stats().segmented), (50, 1));
    for (chain, n) in recv_chains(&mut client, &receiver, 50).iter().zip(0..) {
        assert_eq!(chain.meta().source(), Address::Ip(asked));
        assert_eq!(chain.to_vec().unwrap(), [n; 300]);
    }
}

#[test]
fn datagrams_that_the_kernel_had_no_room_for_are_counted() {
    let pool = pool();
    let receiver = pool.receiver();
    let options = DatagramOptions { recv_buffer: Some(8_192), ..DatagramOptions::default() };
    let mut socket = Datagram::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let peer = plain("127.0.0.1:0");
    for _ in 0..200 {
        peer.send_to(&[1; 500], socket.local_addr().unwrap()).unwrap();
    }
    let mut batch = Batch::with_limit(1_000);
    recv_some(&mut socket, &receiver, &mut batch);
    while socket.recv(&receiver, &mut batch).unwrap() != Received::WouldBlock {}
    let taken = batch.len();
    assert!(taken < 200);
    assert_eq!(socket.stats().overflowed, 200 - taken as u64);
}

#[test]
fn options_reach_the_socket_and_mistakes_are_named() {
    let options = DatagramOptions {
        recv_buffer: Some(100_000),
        send_buffer: Some(50_000),
        reuse_port: true,
        busy_poll: Some(Duration::from_micros(50)),
        ..DatagramOptions::default()
    };
    let one = Datagram::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let local = one.local_addr().unwrap();
    let _two = Datagram::bind(local, &options).unwrap();
    let option = |name| crate::io::sys::option(one.as_fd(), libc::SOL_SOCKET, name).unwrap();
    assert_eq!(option(libc::SO_RCVBUF), 200_000, "the kernel doubles it (socket(7))");
    assert_eq!(option(libc::SO_SNDBUF), 100_000);
    assert_eq!(option(libc::SO_BUSY_POLL), 50);

    let error = Datagram::bind(local, &DatagramOptions::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(errno(&error), Some(libc::EADDRINUSE));
    let expected = format!("bind udp {local}: EADDRINUSE (Address already in use)");
    assert_eq!(error.to_string(), expected);
    let error = Datagram::bind("192.0.2.1:7".parse().unwrap(), &options).unwrap_err();
    assert_eq!(errno(&error), Some(libc::EADDRNOTAVAIL));
    assert_eq!(one.to_string(), local.to_string());
}

#[test]
fn statistics_are_words() {
    let mut stats = Datagram::bind("127.0.0.1:0".parse().unwrap(), &DatagramOptions::default())
        .unwrap()
        .stats();
    assert!(stats.to_string().ends_with("0 errors reported, 0 dropped"));
    stats.dropped.too_long = 2;
    stats.dropped.peer_full = 1;
    assert_eq!(stats.dropped.to_string(), "3 dropped (too_long 2, peer_full 1)");
    (stats.overflowed, stats.truncated) = (3, 4);
    (stats.receive_too_long, stats.receive_no_buffers) = (5, 6);
    let lost: Vec<_> = stats.lost().filter(|row| row.1 > 0).collect();
    let expected = [
        ("receive_overflow", 3),
        ("receive_truncated", 4),
        ("receive_too_long", 5),
        ("receive_no_buffers", 6),
        ("too_long", 2),
        ("peer_full", 1),
    ];
    assert_eq!(lost, expected);
}
