//! Where a reactor listens, and why it could not.

use std::{
    fs,
    io::{ErrorKind, Write},
    net::TcpListener,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use mbuf::io::{errno, reactor::Reactor};

use crate::support::*;

/// The user that owns nothing.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    uids.split_whitespace().nth(2) == Some("0")
}

/// Runs the body without rights: at once if we have none, else in a process of `nobody`'s.
fn without_rights(
    test: &str,
    prepare: impl FnOnce(&mut std::process::Command),
    body: impl FnOnce(),
) {
    if !is_root() {
        return body();
    }
    let drop_rights = |command: &mut std::process::Command| {
        command.uid(NOBODY).gid(NOBODY);
        prepare(command);
    };
    match again(test, "MBUF_TEST_AS_NOBODY", drop_rights, None) {
        Ok(output) => assert_success(&output),
        Err(error) => skip(test, format_args!("cannot run it as nobody: {error}")),
    }
}

#[test]
fn a_tcp_address_in_use_is_named() {
    let pool = pool(4 << 20);
    let other = TcpListener::bind(localhost()).unwrap();
    let address = other.local_addr().unwrap();
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let error = reactor.listen_tcp(address, serving(|| Echo)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(errno(&error), Some(libc::EADDRINUSE));
    let text = error.to_string();
    assert!(text.starts_with(&format!("listen tcp {address}: EADDRINUSE")), "{text}");
    assert!(reactor.is_idle());
    // The same for UDP.
    let other = std::net::UdpSocket::bind(localhost()).unwrap();
    let address = other.local_addr().unwrap();
    let stack = one(&pool, mbuf::stack::Edge::Packets, Echo).unwrap();
    let error = reactor.listen_udp(address, stack).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    end(reactor, &pool);
}

#[test]
fn a_port_below_1024_without_rights_is_named() {
    const TEST: &str = "listeners::a_port_below_1024_without_rights_is_named";
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first.is_ok_and(|first| first.trim().parse::<u32>().is_ok_and(|first| first <= 1000)) {
        // So it is in most containers, where it cannot be changed either.
        return leave_out(TEST, "on this machine port 1000 needs no rights");
    }
    without_rights(
        TEST,
        |_| {},
        || {
            let pool = pool(4 << 20);
            let mut reactor = Reactor::builder(&pool).build().unwrap();
            let address = "127.0.0.1:1000".parse().unwrap();
            let error = reactor.listen_tcp(address, serving(|| Echo)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            let text = error.to_string();
            assert!(text.starts_with("listen tcp 127.0.0.1:1000: EACCES"), "{text}");
            end(reactor, &pool);
        },
    );
}

fn listen_error(path: &Path) -> std::io::Error {
    let pool = pool(4 << 20);
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let error = reactor.listen_unix(path, serving(|| Echo)).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("listen unix {}: ", path.display())), "{text}");
    end(reactor, &pool);
    error
}

#[test]
fn a_unix_path_that_may_not_be_used_is_named() {
    const TEST: &str = "listeners::a_unix_path_that_may_not_be_used_is_named";
    const PATH: &str = "MBUF_TEST_PATH";
    let path = match std::env::var_os(PATH) {
        Some(path) => PathBuf::from(path),
        None => {
            let folder = tempfile::tempdir().unwrap();
            // Ours, and closed to others; closed to ourselves if we are not root.
            let closed = folder.path().join("closed");
            fs::create_dir(&closed).unwrap();
            let path = closed.join("socket");
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
            fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
            let prepare = |command: &mut std::process::Command| {
                command.env(PATH, &path);
            };
            without_rights(TEST, prepare, || {
                assert_eq!(listen_error(&path).kind(), ErrorKind::PermissionDenied);
            });
            fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
            return;
        }
    };
    let error = listen_error(&path);
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("EACCES"), "{error}");
}

#[test]
fn a_unix_path_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no/such/folder");
    assert_eq!(listen_error(&nowhere).kind(), ErrorKind::NotFound);
    let long = folder.path().join("x".repeat(120));
    assert_eq!(listen_error(&long).kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
    let pool = pool(4 << 20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "stale");
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    reactor.listen_unix(&path, serving(|| Echo)).unwrap();
    let mut peer = UnixStream::connect(&path).unwrap();
    peer.write_all(b"hello").unwrap();
    peer.set_nonblocking(true).unwrap();
    let mut got = Vec::new();
    until(&mut reactor, "the echo", |_| read(&peer, &mut got) == Got::Bytes(5));
    let error = reactor.listen_unix(&path, serving(|| Echo)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    drop(peer);
    reactor.shutdown();
    assert!(!path.exists(), "the file goes when listening ends");
    until(&mut reactor, "the end", |r| r.sessions() == 0);
    end(reactor, &pool);
}

#[test]
fn files_that_are_not_our_socket_are_left_alone() {
    let pool = pool(4 << 20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    fs::write(&path, b"data").unwrap();
    let error = listen_error(&path);
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains("is not a socket"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"data");
    // And one that has taken our socket's place stays, too.
    let path = folder.path().join("socket");
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    reactor.listen_unix(&path, serving(|| Echo)).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"another's").unwrap();
    reactor.shutdown();
    assert!(!reactor.poll(Some(Duration::ZERO)).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"another's");
    end(reactor, &pool);
}
