//! Faults in the reactor's own calls: whatever the system says falsely, everything goes on without
//! the peer's doing anything more, and without a timer.

use std::{io::Write, net::UdpSocket, time::Duration};

use mbuf::io::{
    faults::{self, Call, Fault},
    reactor::{CloseReason, Reactor},
};

use crate::support::*;

/// The first `times` calls of a kind end so, the later ones as they do.
fn first(call: Call, times: usize, fault: Fault) -> faults::Injected {
    let mut left = times;
    faults::inject(move |attempt| {
        if attempt.call != call || left == 0 {
            return Fault::None;
        }
        left -= 1;
        fault
    })
}

const EAGAIN: Fault = Fault::Errno(libc::EAGAIN);

#[test]
fn a_stream_goes_on_though_no_edge_comes() {
    let cases = [
        (Call::Accept, EAGAIN),
        (Call::Accept, Fault::Errno(libc::EINTR)),
        (Call::Accept, Fault::Errno(libc::ECONNABORTED)),
        (Call::Accept, Fault::Errno(libc::EMFILE)),
        (Call::EpollWait, Fault::Errno(libc::EINTR)),
        (Call::Readv, EAGAIN),
        (Call::Readv, Fault::Short(3)),
        (Call::Readv, Fault::Errno(libc::ENOBUFS)),
        (Call::Writev, EAGAIN),
        (Call::Writev, Fault::Short(3)),
        (Call::Writev, Fault::Errno(libc::ENOMEM)),
    ];
    for (call, fault) in cases {
        let pool = pool(16 << 20);
        // No timer of a session wakes it by chance.
        let mut reactor = Reactor::builder(&pool).idle_timeout(None).build().unwrap();
        let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
        let mut peer = connect(address);
        peer.write_all(&noise(1, 5000)).unwrap();
        let guard = first(call, 5, fault);
        let mut got = Vec::new();
        until(&mut reactor, &format!("the echo after {call:?}: {fault:?}"), |_| {
            while let Got::Bytes(_) = read(&peer, &mut got) {}
            got.len() == 5000
        });
        assert_eq!(got, noise(1, 5000));
        drop(guard);
        drop(peer);
        until(&mut reactor, "the end", |reactor| reactor.sessions() == 0);
        assert_eq!(reactor.stats().closed[CloseReason::FINISHED], 1);
        end(reactor, &pool);
    }
}

#[test]
fn a_datagram_goes_on_though_no_edge_comes() {
    let cases = [
        (Call::Recvmmsg, EAGAIN),
        (Call::Recvmmsg, Fault::Short(1)),
        (Call::Recvmmsg, Fault::Errno(libc::ENOMEM)),
        (Call::Sendmmsg, EAGAIN),
        (Call::Sendmmsg, Fault::Short(1)),
        (Call::Sendmmsg, Fault::Errno(libc::ENOBUFS)),
    ];
    for (call, fault) in cases {
        let pool = pool(16 << 20);
        let mut reactor = Reactor::builder(&pool).build().unwrap();
        let stack = one(&pool, mbuf::stack::Edge::Packets, Echo).unwrap();
        let address = reactor.listen_udp(localhost(), stack).unwrap();
        let peer = UdpSocket::bind(localhost()).unwrap();
        peer.set_nonblocking(true).unwrap();
        peer.connect(address).unwrap();
        for n in 0..8 {
            peer.send(&[n; 100]).unwrap();
        }
        let guard = first(call, 5, fault);
        let mut came = 0;
        until(&mut reactor, &format!("8 datagrams after {call:?}: {fault:?}"), |_| {
            let mut bytes = [0; 200];
            while let Ok(len) = peer.recv(&mut bytes) {
                assert_eq!(bytes[..len], [came; 100]);
                came += 1;
            }
            came == 8
        });
        drop(guard);
        end(reactor, &pool);
    }
}

#[test]
fn an_injected_reset_ends_the_session_and_the_peer_is_told() {
    for call in [Call::Readv, Call::Writev] {
        let pool = pool(16 << 20);
        let mut reactor = Reactor::builder(&pool).build().unwrap();
        let address = reactor.listen_tcp(localhost(), serving(|| Echo)).unwrap();
        let mut peer = connect(address);
        peer.write_all(b"hello").unwrap();
        let guard = first(call, 1, Fault::Errno(libc::ECONNRESET));
        let mut got = Vec::new();
        until(&mut reactor, "the reset", |_| {
            matches!(read(&peer, &mut got), Got::Error(std::io::ErrorKind::ConnectionReset))
        });
        drop(guard);
        assert_eq!((reactor.stats().closed.of("ECONNRESET"), got.len()), (1, 0));
        assert!(reactor.stack_stats().layers.iter().all(|layer| layer.imbalance() == 0));
        end(reactor, &pool);
    }
}

#[test]
fn a_connection_that_cannot_be_begun_leaves_nothing() {
    let pool = pool(16 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let listener = std::net::TcpListener::bind(localhost()).unwrap();
    let to = listener.local_addr().unwrap();
    let guard = first(Call::Connect, 1, EAGAIN);
    let stack = || one(&pool, mbuf::stack::Edge::Bytes, Echo).unwrap();
    let error = reactor.connect_tcp(to, stack()).unwrap_err();
    assert_eq!(mbuf::io::errno(&error), Some(libc::EAGAIN));
    assert!(error.to_string().starts_with(&format!("connect to {to}: EAGAIN")), "{error}");
    assert_eq!(reactor.sessions(), 0);
    reactor.connect_tcp(to, stack()).unwrap();
    drop(guard);
    reactor.poll(Some(Duration::ZERO)).unwrap();
    end(reactor, &pool);
}
