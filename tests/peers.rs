//! Echo through the reactor against programs that are not ours: OpenBSD's `nc`, and `socat`.
//!
//! Where one of them is not installed its tests say so by name and do nothing else; with
//! `MBUF_REQUIRE_PEERS=1` in the environment, as in `.ci/run`, they fail instead.

use std::{
    env,
    fs::File,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
};

use mbuf::{
    Pool,
    io::reactor::{Handle, Reactor, ReactorStats},
    stack::{Edge, Stack},
    testing::Rng,
};
use mbuf_protocols::Echo;

/// An echo server over TCP, UDP and a Unix socket, on a thread of its own.
struct Server {
    pool: Pool,
    handle: Handle,
    thread: JoinHandle<io::Result<ReactorStats>>,
    tcp: SocketAddr,
    udp: SocketAddr,
    unix: PathBuf,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let pool = Pool::with_memory(16 << 20).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let unix = directory.path().join("echo.sock");
        let mut reactor = Reactor::builder(&pool).build().unwrap();
        let echo = |edge, pool: &Pool| Stack::pile(pool, edge, vec![Box::new(Echo::new())]);
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        // All addresses, so that the answer's source has to be chosen.
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let tcp = reactor.listen_tcp(loopback, move |_, pool| echo(Edge::Bytes, pool)).unwrap();
        let udp = reactor.listen_udp(any, echo(Edge::Packets, &pool).unwrap()).unwrap();
        reactor.listen_unix(&unix, move |_, pool| echo(Edge::Bytes, pool)).unwrap();
        let handle = reactor.handle();
        let thread = thread::spawn(move || reactor.run().map(|()| reactor.stats()));
        Server { pool, handle, thread, tcp, udp, unix, directory }
    }

    /// Shuts down and checks that nothing is left in use.
    fn stop(self) -> ReactorStats {
        self.handle.shutdown().unwrap();
        let stats = self.thread.join().expect("the reactor does not panic").unwrap();
        assert_eq!(self.pool.stats().in_use(), 0, "{}", self.pool.stats());
        stats
    }

    /// Runs a program that is fed from a file with these bytes, and gives what it printed. A minute
    /// is all that it gets.
    fn run(&self, program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
        let path = self.directory.path().join("input");
        File::create(&path).unwrap().write_all(bytes).unwrap();
        let output = Command::new("timeout")
            .args(["60", program])
            .args(arguments)
            .stdin(Stdio::from(File::open(&path).unwrap()))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), output.status);
        output.stdout
    }
}

/// Whether the program is there. If not, says which test is skipped, in spite of the test
/// harness's capture; fails if programs are required.
fn have(test: &str, program: &str) -> bool {
    let there = match program {
        // The other netcats lack -N, by which a client says that it has sent everything.
        "nc" => prints(Command::new("nc").arg("-h"), "OpenBSD"),
        _ => prints(Command::new(program).arg("-V"), program),
    };
    if !there {
        let required = env::var_os("MBUF_REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(!required, "{test}: `{program}` is not installed, and MBUF_REQUIRE_PEERS is set");
        // Not `eprintln`, which the harness captures.
        let mut stderr = io::stderr();
        writeln!(stderr, "SKIPPED {test}: `{program}` is not installed").unwrap();
    }
    there
}

fn prints(command: &mut Command, text: &str) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|output| {
        [output.stdout, output.stderr].iter().any(|out| String::from_utf8_lossy(out).contains(text))
    })
}

/// Compares without printing megabytes where they differ.
fn assert_same(sent: &[u8], received: &[u8]) {
    assert_eq!(sent.len(), received.len());
    let differs = sent.iter().zip(received).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the first byte that differs");
}

const STREAM_BYTES: usize = 3_000_000;
const DATAGRAM_BYTES: usize = 1400;

#[test]
fn tcp_with_nc() {
    if have("tcp_with_nc", "nc") {
        let (server, bytes) = (Server::start(), Rng::new(1).bytes(STREAM_BYTES));
        let port = server.tcp.port().to_string();
        assert_same(&bytes, &server.run("nc", &["-N", "127.0.0.1", &port], &bytes));
        assert_eq!(server.stop().accepted, 1);
    }
}

#[test]
fn tcp_with_socat() {
    if have("tcp_with_socat", "socat") {
        let (server, bytes) = (Server::start(), Rng::new(2).bytes(STREAM_BYTES));
        let address = format!("TCP:127.0.0.1:{}", server.tcp.port());
        assert_same(&bytes, &server.run("socat", &["-t", "30", "-", &address], &bytes));
        assert_eq!(server.stop().accepted, 1);
    }
}

#[test]
fn unix_with_nc() {
    if have("unix_with_nc", "nc") {
        let (server, bytes) = (Server::start(), Rng::new(3).bytes(STREAM_BYTES));
        let path = server.unix.to_str().unwrap();
        assert_same(&bytes, &server.run("nc", &["-N", "-U", path], &bytes));
        assert_eq!(server.stop().accepted, 1);
    }
}

#[test]
fn unix_with_socat() {
    if have("unix_with_socat", "socat") {
        let (server, bytes) = (Server::start(), Rng::new(4).bytes(STREAM_BYTES));
        let address = format!("UNIX-CONNECT:{}", server.unix.display());
        assert_same(&bytes, &server.run("socat", &["-t", "30", "-", &address], &bytes));
        assert_eq!(server.stop().accepted, 1);
    }
}

#[test]
fn udp_with_nc() {
    if have("udp_with_nc", "nc") {
        let (server, bytes) = (Server::start(), Rng::new(5).bytes(DATAGRAM_BYTES));
        let port = server.udp.port().to_string();
        // It ends a second after it has heard nothing more.
        assert_same(&bytes, &server.run("nc", &["-u", "-w", "1", "127.0.0.1", &port], &bytes));
        assert_eq!(server.stop().chains_out, 1);
    }
}

#[test]
fn udp_with_socat_from_the_address_that_was_asked() {
    if have("udp_with_socat_from_the_address_that_was_asked", "socat") {
        let (server, bytes) = (Server::start(), Rng::new(6).bytes(DATAGRAM_BYTES));
        // A connected socket takes an answer only from the address that it speaks to. Without
        // looking at IP_PKTINFO, a server would answer from 127.0.0.1.
        let address = format!("UDP:127.0.0.2:{}", server.udp.port());
        assert_same(&bytes, &server.run("socat", &["-t", "1", "-", &address], &bytes));
        assert_eq!(server.stop().chains_out, 1);
    }
}
