//! Datagrams that cannot be sent: as one message, at once, or at all.

use std::{cell::Cell, net::SocketAddr, rc::Rc};

use super::{
    datagram::{bind, datagram, plain},
    *,
};
use crate::{
    io::{
        Datagram, DatagramOptions,
        faults::{self, Attempt, Call, Fault},
    },
    meta::Address,
};

fn sends(attempt: &Attempt) -> bool {
    attempt.call == Call::Sendmmsg
}

/// Receives `n` datagrams by a plain socket.
fn take(peer: &std::net::UdpSocket, n: usize) -> Vec<Vec<u8>> {
    let mut bytes = vec![0; 1 << 16];
    (0..n)
        .map(|_| {
            let len = peer.recv(&mut bytes).unwrap();
            bytes[..len].to_vec()
        })
        .collect()
}

fn fill(queue: &mut Queue, pool: &Pool, n: u8, len: usize, to: SocketAddr) {
    for n in 0..n {
        queue.push(datagram(pool, &vec![n; len], to)).unwrap();
    }
}

fn expect(got: Vec<Vec<u8>>, len: usize) {
    for (got, n) in got.iter().zip(0_u8..) {
        assert!(*got == vec![n; len]);
    }
}

#[test]
fn a_refused_run_is_sent_again_singly_and_not_tried_again() {
    for error in [libc::EIO, libc::EINVAL, libc::EMSGSIZE, libc::EOPNOTSUPP] {
        let pool = pool();
        let mut socket = bind("127.0.0.1:0");
        let peer = plain("127.0.0.1:0");
        let to = peer.local_addr().unwrap();
        let tried = Rc::new(Cell::new(0));
        let counter = tried.clone();
        let _broken = faults::inject(move |attempt| {
            if sends(attempt) && attempt.segmented {
                counter.set(counter.get() + 1);
                return Fault::Errno(error);
            }
            Fault::None
        });
        let mut queue = queue();
        fill(&mut queue, &pool, 50, 200, to);
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        expect(take(&peer, 50), 200);
        let attempts = tried.get();
        assert!((1..=2).contains(&attempts), "{attempts} attempts");
        assert_eq!(socket.stats().segmentation_refused, 1);
        assert_eq!((socket.stats().sent, socket.stats().segmented), (50, 0));

        // From now on that size goes singly at once.
        fill(&mut queue, &pool, 50, 200, to);
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        expect(take(&peer, 50), 200);
        assert_eq!(tried.get(), attempts);
        // A smaller size is tried where the size was to blame, and not where the device was.
        fill(&mut queue, &pool, 10, 100, to);
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        expect(take(&peer, 10), 100);
        let by_size = matches!(error, libc::EINVAL | libc::EMSGSIZE);
        assert_eq!(tried.get() > attempts, by_size);
        // Another host is another matter.
        let before = tried.get();
        let other = plain("127.0.0.2:0");
        fill(&mut queue, &pool, 10, 200, other.local_addr().unwrap());
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        expect(take(&other, 10), 200);
        assert!(tried.get() > before);
        assert_eq!(socket.stats().dropped.total(), 0);
        assert_eq!(pool.stats().in_use(), 0);
    }
}

#[test]
fn a_run_that_fails_for_another_reason_does_not_end_segmentation() {
    let pool = pool();
    let mut socket = bind("127.0.0.1:0");
    let peer = plain("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    // The firewall refuses the run, and then its third datagram.
    let mut singles = 0;
    let guard = faults::inject(move |attempt| {
        if !sends(attempt) {
            return Fault::None;
        }
        if attempt.segmented {
            return Fault::Errno(libc::EPERM);
        }
        singles += 1;
        match singles {
            1 => Fault::Short(2),
            2 => Fault::Errno(libc::EPERM),
            _ => Fault::None,
        }
    });
    let mut queue = queue();
    fill(&mut queue, &pool, 10, 100, to);
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    drop(guard);
    let got = take(&peer, 9);
    assert_eq!(got.iter().map(|got| got[0]).collect::<Vec<_>>(), [0, 1, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!((socket.stats().dropped.denied, socket.stats().dropped.total()), (1, 1));
    fill(&mut queue, &pool, 10, 100, to);
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    assert_eq!((socket.stats().segmented, socket.stats().segmentation_refused), (1, 0));
    expect(take(&peer, 10), 100);
}

#[test]
fn runs_are_of_one_size_one_peer_and_at_most_128() {
    let pool = pool();
    let mut socket = bind("127.0.0.1:0");
    let (one, two) = (plain("127.0.0.1:0"), plain("127.0.0.1:0"));
    let (to_one, to_two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
    let seen = Rc::new(Cell::new((0, 0)));
    let watch = seen.clone();
    let _guard = faults::inject(move |attempt| {
        if sends(attempt) {
            watch.set((attempt.messages, attempt.bytes));
        }
        Fault::None
    });
    // Lengths and peers in order, and in how many messages they leave.
    let cases: [(&[(usize, u8)], usize); 9] = [
        (&[(100, 1), (100, 1), (100, 1)], 1),
        (&[(100, 1), (100, 2), (100, 1)], 3),
        (&[(100, 1), (100, 1), (50, 1), (100, 1), (100, 1)], 2),
        (&[(100, 1), (101, 1), (101, 1)], 2),
        (&[(0, 1), (0, 1), (100, 1)], 3),
        (&[(100, 1), (0, 1), (100, 1)], 3),
        (&[(30_000, 1), (30_000, 1), (5_507, 1)], 1),
        (&[(30_000, 1), (30_000, 1), (5_508, 1)], 2),
        (&[(65_507, 1), (1, 1)], 2),
    ];
    let mut queue = queue();
    for (datagrams, messages) in cases {
        for &(len, peer) in datagrams {
            let to = if peer == 1 { to_one } else { to_two };
            queue.push(datagram(&pool, &pattern(len, len), to)).unwrap();
        }
        let bytes = queue.bytes();
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        assert_eq!(seen.get(), (messages, bytes), "{datagrams:?}");
        for &(len, peer) in datagrams {
            let got = take(if peer == 1 { &one } else { &two }, 1);
            assert!(got[0] == pattern(len, len), "{datagrams:?}");
        }
    }
    fill(&mut queue, &pool, 130, 8, to_one);
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    assert_eq!(seen.get().0, 2, "128 + 2");
    expect(take(&one, 130), 8);
}

#[test]
fn a_kernel_that_takes_fewer_at_once_is_given_fewer() {
    let pool = pool();
    let (mut socket, peer) = (bind("127.0.0.1:0"), plain("127.0.0.1:0"));
    let mut queue = queue();
    let mut old = true;
    let guard = faults::inject(move |_| match std::mem::take(&mut old) {
        true => Fault::Errno(libc::EINVAL),
        false => Fault::None,
    });
    for _ in 0..2 {
        fill(&mut queue, &pool, 130, 8, peer.local_addr().unwrap());
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        expect(take(&peer, 130), 8);
    }
    drop(guard);
    assert_eq!(socket.stats().segmented, 6, "64 + 64 + 2, twice");
}

#[test]
fn without_gso_each_datagram_is_a_message() {
    let pool = pool();
    let options = DatagramOptions { gso: false, ..DatagramOptions::default() };
    let mut socket = Datagram::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let peer = plain("127.0.0.1:0");
    let mut queue = queue();
    fill(&mut queue, &pool, 40, 10, peer.local_addr().unwrap());
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    expect(take(&peer, 40), 10);
    assert_eq!((socket.stats().segmented, socket.stats().send_calls), (0, 2));
}

#[test]
fn a_socket_or_system_that_is_full_leaves_the_rest_in_the_queue() {
    for (error, starved) in [(libc::EAGAIN, false), (libc::ENOBUFS, true), (libc::ENOMEM, true)] {
        let pool = pool();
        let options = DatagramOptions { gso: false, ..DatagramOptions::default() };
        let mut socket = Datagram::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let peer = plain("127.0.0.1:0");
        let mut queue = queue();
        fill(&mut queue, &pool, 20, 10, peer.local_addr().unwrap());
        // Two calls take three messages each, then it is full.
        let mut calls = 0;
        let guard = faults::inject(move |_| {
            calls += 1;
            if calls <= 2 { Fault::Short(3) } else { Fault::Errno(error) }
        });
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::WouldBlock);
        assert_eq!(socket.is_starved(), starved);
        drop(guard);
        assert_eq!((queue.len(), queue.bytes()), (14, 140));
        assert_eq!(queue.front().unwrap().to_vec().unwrap(), [6; 10]);
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        assert!(!socket.is_starved());
        expect(take(&peer, 20), 10);
        assert_eq!(socket.stats().starved, u64::from(starved));
    }
}

#[test]
fn an_error_of_one_datagram_drops_that_one_with_its_reason() {
    type Count = fn(&crate::io::datagram::Dropped) -> u64;
    let cases: [(i32, Count); 9] = [
        (libc::EMSGSIZE, |dropped| dropped.too_long),
        (libc::ECONNREFUSED, |dropped| dropped.refused),
        (libc::ENETUNREACH, |dropped| dropped.unreachable),
        (libc::EHOSTUNREACH, |dropped| dropped.unreachable),
        (libc::ENETDOWN, |dropped| dropped.unreachable),
        (libc::EPERM, |dropped| dropped.denied),
        (libc::EACCES, |dropped| dropped.denied),
        (libc::EINVAL, |dropped| dropped.invalid),
        (libc::EFAULT, |dropped| dropped.fault),
    ];
    for (error, count) in cases {
        let pool = pool();
        let options = DatagramOptions { gso: false, ..DatagramOptions::default() };
        let mut socket = Datagram::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let peer = plain("127.0.0.1:0");
        let mut queue = queue();
        fill(&mut queue, &pool, 5, 10, peer.local_addr().unwrap());
        // The third datagram fails, however often it is tried.
        let mut sent = 0;
        let guard = faults::inject(move |_| {
            sent += 1;
            match sent {
                1 => Fault::Short(2),
                2 | 3 => Fault::Errno(error),
                _ => Fault::None,
            }
        });
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
        drop(guard);
        let stats = socket.stats();
        // Errors that may be an earlier datagram's fate are met twice, the others once.
        let dropped = count(&stats.dropped);
        assert_eq!(stats.dropped.total(), dropped, "{error}: {stats}");
        assert_eq!(stats.sent + dropped, 5, "{error}");
        assert!((1..=2).contains(&dropped), "{error}: {stats}");
        let got = take(&peer, stats.sent as usize);
        assert_eq!(got[..2], [vec![0; 10], vec![1; 10]]);
        assert_eq!(got.last(), Some(&vec![4; 10]), "what stands behind it is sent");
        assert_eq!(pool.stats().in_use(), 0);
    }
}

#[test]
fn an_error_of_the_socket_is_an_error_and_keeps_the_queue() {
    let pool = pool();
    let mut socket = bind("127.0.0.1:0");
    let peer = plain("127.0.0.1:0");
    let mut queue = queue();
    fill(&mut queue, &pool, 5, 10, peer.local_addr().unwrap());
    let guard = faults::inject(|_| Fault::Errno(libc::EBADF));
    let error = socket.send(&mut queue).unwrap_err();
    let local = socket.local_addr().unwrap();
    assert_eq!(error.to_string(), format!("sendmmsg on {local}: EBADF (Bad file descriptor)"));
    let error = socket.recv(&pool.receiver(), &mut Batch::new()).unwrap_err();
    assert_eq!(error.to_string(), format!("recvmmsg on {local}: EBADF (Bad file descriptor)"));
    drop(guard);
    assert_eq!((queue.len(), queue.bytes()), (5, 50));
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    expect(take(&peer, 5), 10);
}

#[test]
fn a_port_where_nobody_listens_is_counted_and_nothing_else_is_lost() {
    let pool = pool();
    let receiver = pool.receiver();
    let peer = plain("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let mut socket = Datagram::connect(to, &DatagramOptions::default()).unwrap();
    assert_eq!(socket.peer_addr(), Some(to));
    drop(peer);
    let mut queue = queue();
    // The first goes out; the answer (ICMP) is told to the next call, whose datagram is not to
    // blame, and which goes out too.
    for _ in 0..2 {
        queue.push(pool.chain_from(b"anyone?").unwrap()).unwrap();
        assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    }
    assert_eq!((socket.stats().sent, socket.stats().reported.total()), (2, 1));
    assert_eq!(socket.stats().dropped.total(), 0);
    assert_eq!(socket.recv(&receiver, &mut Batch::new()).unwrap(), Received::WouldBlock);
    assert_eq!(socket.stats().reported.of("ECONNREFUSED"), 2);
    // Somebody comes, and all is well.
    let peer = plain(&to.to_string());
    queue.push(pool.chain_from(b"anyone?").unwrap()).unwrap();
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    assert_eq!(take(&peer, 1), [b"anyone?"]);
}

#[test]
fn a_socket_that_is_not_connected_is_told_of_each_port_where_nobody_listens_if_it_asks() {
    for (local, gone) in
        [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")]
    {
        for reports in [false, true] {
            let pool = pool();
            let receiver = pool.receiver();
            let options = DatagramOptions { reports, ..DatagramOptions::default() };
            let mut socket = Datagram::bind(local.parse().unwrap(), &options).unwrap();
            let nobody = plain(gone).local_addr().unwrap();
            let somebody = plain(gone);
            let mut queue = queue();
            for _ in 0..3 {
                queue.push(datagram(&pool, b"anyone?", nobody)).unwrap();
                queue.push(datagram(&pool, b"you?", somebody.local_addr().unwrap())).unwrap();
            }
            // What this host refuses by itself is no report.
            queue.push(datagram(&pool, &[0; 65_530], nobody)).unwrap();
            assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
            assert_eq!(take(&somebody, 3), [b"you?"; 3]);
            assert_eq!(socket.recv(&receiver, &mut Batch::new()).unwrap(), Received::WouldBlock);
            let stats = socket.stats();
            assert_eq!(stats.reported.of("ECONNREFUSED"), if reports { 3 } else { 0 }, "{local}");
            assert_eq!(stats.reported.total(), stats.reported.of("ECONNREFUSED"));
            assert_eq!((stats.sent, stats.dropped.too_long, stats.dropped.total()), (6, 1, 1));
        }
    }
}

#[test]
fn destinations_that_make_no_sense_are_dropped_with_their_reason() {
    let pool = pool();
    let mut socket = bind("0.0.0.0:0");
    let peer = plain("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut queue = queue();
    queue.push(pool.chain_from(b"to nobody").unwrap()).unwrap();
    for address in [
        Address::Ip("[::1]:7".parse().unwrap()),
        Address::Ip("127.0.0.1:0".parse().unwrap()),
        Address::Mac([1; 6]),
        Address::Peer { index: 0, generation: 0 },
    ] {
        let mut chain = pool.chain_from(b"to nowhere").unwrap();
        chain.meta_mut().set_destination(address);
        queue.push(chain).unwrap();
    }
    // From an address that is not this host's, though it has the socket's port.
    for _ in 0..3 {
        let mut chain = datagram(&pool, b"forged", to);
        chain.meta_mut().set_source(Address::Ip(format!("192.0.2.1:{port}").parse().unwrap()));
        queue.push(chain).unwrap();
    }
    // What merely is not the socket's own is not asked for: it leaves from the right address.
    let mut chain = datagram(&pool, b"relayed", to);
    chain.meta_mut().set_source(Address::Ip("192.0.2.1:9".parse().unwrap()));
    queue.push(chain).unwrap();
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    assert_eq!(take(&peer, 1), [b"relayed"]);
    let dropped = socket.stats().dropped;
    assert_eq!((dropped.no_destination, dropped.total()), (5, 8), "{dropped}");
    // The routing table has no way from there (Linux 6), or the address is refused.
    assert_eq!(dropped.bad_source + dropped.unreachable, 3, "{dropped}");
    // It was the source, not the segmentation.
    fill(&mut queue, &pool, 4, 6, to);
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    assert_eq!(socket.stats().segmented, 1);
    expect(take(&peer, 4), 6);
}

#[test]
fn a_datagram_of_too_many_segments_is_brought_into_fewer() {
    let pool = pool();
    let mut socket = bind("127.0.0.1:0");
    let peer = plain("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let bytes = pattern(9, 3_000);
    let mut queue = queue();
    for len in [1_024, 1_025, 3_000, 100] {
        let mut chain = segmented(&pool, &bytes[..len], &vec![1; len]);
        chain.meta_mut().set_destination(Address::Ip(to));
        queue.push(chain).unwrap();
    }
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    for (got, len) in take(&peer, 4).iter().zip([1_024, 1_025, 3_000, 100]) {
        assert!(*got == bytes[..len], "{len} bytes");
    }
    // Without buffers for that it is dropped, and the next one is sent.
    let mut chain = segmented(&pool, &bytes[..1_500], &[1; 1_500]);
    chain.meta_mut().set_destination(Address::Ip(to));
    queue.push(chain).unwrap();
    queue.push(datagram(&pool, b"next", to)).unwrap();
    let mut held = Vec::new();
    for class in Class::ALL.into_iter().rev() {
        while let Ok(chain) = pool.chain_in(class, 0) {
            held.push(chain);
        }
    }
    assert_eq!(socket.send(&mut queue).unwrap(), Sent::All);
    assert_eq!(take(&peer, 1), [b"next"]);
    assert_eq!((socket.stats().dropped.no_buffers, socket.stats().dropped.total()), (1, 1));
}
