//! Unix datagrams: peers by name, by abstract name and without one, and peers that do not read.

use std::{
    os::unix::net::{SocketAddr, UnixDatagram},
    path::Path,
};

use super::*;
use crate::{
    io::{Datagram, DatagramOptions, errno},
    meta::Address,
};

fn server(path: &Path, peers: usize) -> Datagram {
    Datagram::bind_unix(path, &DatagramOptions { peers, ..DatagramOptions::default() }).unwrap()
}

fn reply(server: &mut Datagram, mut chain: Chain) {
    chain.meta_mut().swap_addresses();
    let mut queue = queue();
    queue.push(chain).unwrap();
    assert_eq!(server.send(&mut queue).unwrap(), Sent::All);
}

#[test]
fn peers_are_answered_by_path_and_by_abstract_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    let pool = pool();
    let receiver = pool.receiver();
    let mut server = server(&path, 8);
    assert_eq!(server.to_string(), path.display().to_string());
    assert_eq!((server.local_addr(), server.peer_addr()), (None, None));

    let by_path = UnixDatagram::bind(directory.path().join("client")).unwrap();
    use std::os::linux::net::SocketAddrExt;
    let name = format!("mbuf-test-{}", std::process::id());
    let abstract_name = SocketAddr::from_abstract_name(name).unwrap();
    let by_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
    let mut own = Datagram::connect_unix(&path, &DatagramOptions::default()).unwrap();

    by_path.send_to(b"by path", &path).unwrap();
    by_name.send_to(b"by name", &path).unwrap();
    let mut queue = queue();
    queue.push(pool.chain_from(b"own").unwrap()).unwrap();
    assert_eq!(own.send(&mut queue).unwrap(), Sent::All);
    let chains = recv_chains(&mut server, &receiver, 3);
    let sources: Vec<Address> = chains.iter().map(|chain| chain.meta().source()).collect();
    assert_eq!(
        sources,
        [0, 1, 2].map(|index| Address::Peer { index, generation: 0 }),
        "each has its own entry"
    );
    for chain in chains {
        reply(&mut server, chain);
    }
    let mut got = [0; 100];
    assert_eq!(by_path.recv(&mut got).unwrap(), 7);
    assert_eq!(&got[..7], b"by path");
    assert_eq!(by_name.recv(&mut got).unwrap(), 7);
    assert_eq!(&got[..7], b"by name");
    assert_eq!(recv_chains(&mut own, &receiver, 1)[0].to_vec().unwrap(), b"own");

    // The same peer keeps its entry.
    by_path.send_to(b"", &path).unwrap();
    let chains = recv_chains(&mut server, &receiver, 1);
    assert_eq!((chains[0].meta().source(), chains[0].len()), (sources[0], 0));
    reply(&mut server, chains.into_iter().next().unwrap());
    assert_eq!(by_path.recv(&mut got).unwrap(), 0);
}

#[test]
fn peers_without_a_name_or_that_are_gone_cannot_be_answered() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    let pool = pool();
    let receiver = pool.receiver();
    let mut server = server(&path, 1);
    let nameless = UnixDatagram::unbound().unwrap();
    nameless.send_to(b"who am I", &path).unwrap();
    let chain = recv_chains(&mut server, &receiver, 1).pop().unwrap();
    assert_eq!(chain.meta().source(), Address::None);
    reply(&mut server, chain);
    assert_eq!(server.stats().dropped.no_destination, 1);

    let one_path = directory.path().join("one");
    let one = UnixDatagram::bind(&one_path).unwrap();
    one.send_to(b"one", &path).unwrap();
    let first = recv_chains(&mut server, &receiver, 1).pop().unwrap();
    // The table has one entry: the next peer takes it.
    let two = UnixDatagram::bind(directory.path().join("two")).unwrap();
    two.send_to(b"two", &path).unwrap();
    let second = recv_chains(&mut server, &receiver, 1).pop().unwrap();
    reply(&mut server, first);
    assert_eq!(server.stats().dropped.peer_gone, 1, "not to the peer that has the entry now");
    reply(&mut server, second);
    two.set_nonblocking(true).unwrap();
    assert_eq!(two.recv(&mut [0; 10]).unwrap(), 3);
    assert!(two.recv(&mut [0; 10]).is_err());

    // Gone: the socket is closed, and then its file removed.
    one.send_to(b"one", &path).unwrap();
    one.send_to(b"one", &path).unwrap();
    let mut chains = recv_chains(&mut server, &receiver, 2);
    drop(one);
    reply(&mut server, chains.pop().unwrap());
    assert_eq!(server.stats().dropped.peer_gone, 2);
    std::fs::remove_file(one_path).unwrap();
    reply(&mut server, chains.pop().unwrap());
    assert_eq!(server.stats().dropped.peer_gone, 3);
}

#[test]
fn a_peer_that_does_not_read_is_given_up_and_others_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    let pool = pool();
    let receiver = pool.receiver();
    let mut server = server(&path, 8);
    let lazy = UnixDatagram::bind(directory.path().join("lazy")).unwrap();
    let busy = UnixDatagram::bind(directory.path().join("busy")).unwrap();
    lazy.send_to(b"lazy", &path).unwrap();
    busy.send_to(b"busy", &path).unwrap();
    let mut chains = recv_chains(&mut server, &receiver, 2);
    for chain in &mut chains {
        chain.meta_mut().swap_addresses();
    }
    let mut queue = queue();
    // Far more than the kernel queues for one socket (net.unix.max_dgram_qlen).
    for _ in 0..2_000 {
        queue.push(chains[0].dup().unwrap()).unwrap();
    }
    queue.push(chains.pop().unwrap()).unwrap();
    let mut rounds = 0_u64;
    while server.send(&mut queue).unwrap() == Sent::WouldBlock {
        assert!(server.is_starved());
        assert!(queue.len() > 1, "nothing is given up at once");
        rounds += 1;
    }
    // It was waited for once, and not once for each of its datagrams.
    assert!(rounds > 0);
    let stats = server.stats();
    assert_eq!(stats.sent + stats.dropped.peer_full, 2_001);
    assert!(stats.sent > 1 && stats.dropped.peer_full > 1, "{stats}");
    assert_eq!(stats.dropped.total(), stats.dropped.peer_full);
    let mut got = [0; 10];
    assert_eq!(busy.recv(&mut got).unwrap(), 4);
    assert_eq!(&got[..4], b"busy");

    // When it reads again it is sent to again.
    for _ in 1..stats.sent {
        assert_eq!(lazy.recv(&mut got).unwrap(), 4);
    }
    queue.push(chains.pop().unwrap()).unwrap();
    assert_eq!(server.send(&mut queue).unwrap(), Sent::All);
    assert_eq!(lazy.recv(&mut got).unwrap(), 4);
    assert_eq!(&got[..4], b"lazy");
}

#[test]
fn what_is_too_long_for_a_buffer_is_dropped_and_counted() {
    let (here, there) = UnixDatagram::pair().unwrap();
    let mut socket = Datagram::from_std_unix(here, &DatagramOptions::default()).unwrap();
    let pool = pool();
    let receiver = pool.receiver();
    there.send(&pattern(0, 65_537)).unwrap();
    there.send(&pattern(1, 65_536)).unwrap();
    let chain = recv_chains(&mut socket, &receiver, 1).pop().unwrap();
    assert!(chain.to_vec().unwrap() == pattern(1, 65_536));
    assert_eq!((socket.stats().truncated, socket.stats().received), (1, 1));
}

#[test]
fn paths_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    let _server = server(&path, 1);
    let options = DatagramOptions::default();
    let error = Datagram::bind_unix(&path, &options).unwrap_err();
    let expected = format!("bind unix {}: EADDRINUSE (Address already in use)", path.display());
    assert_eq!(error.to_string(), expected);
    let missing = directory.path().join("missing");
    let error = Datagram::connect_unix(&missing, &options).unwrap_err();
    assert_eq!(errno(&error), Some(libc::ENOENT));
    assert!(error.to_string().starts_with(&format!("connect unix {}: ENOENT", missing.display())));
    let long = directory.path().join("x".repeat(200));
    let error = Datagram::bind_unix(&long, &options).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let (path, len) = (long.display(), long.as_os_str().len());
    let expected = format!("bind unix {path}: a path of {len} bytes; at most 107 are possible");
    assert_eq!(error.to_string(), expected);
}
