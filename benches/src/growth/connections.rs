//! TCP echo against the number of connections: each has one message of 64 bytes on its way, always.
//! A server of its own for each point, since its peak memory is measured.

use std::{
    io::{ErrorKind, Read, Write},
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{Found, Pace};
use crate::{
    files::process::go_on,
    machine,
    peers::{Peer, Peers, Transport},
    row::{Measure, Row},
    server::{self, Server},
    tcp_many::raise_descriptor_limit,
};

#[derive(Debug, Args)]
pub struct Options {
    /// A build of the example `echo` to be measured, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    echo: Option<PathBuf>,
}

const CONNECTIONS: [usize; 5] = [1, 10, 100, 1000, 10_000];
const SERVERS: [Peer; 2] = [Peer::Mbuf, Peer::Tokio];
const MESSAGE: usize = 64;
const CASE: &str = "connections: TCP echo of 64 bytes, one in flight on each";
/// How long nothing at all may come back.
const PATIENCE: Duration = Duration::from_secs(20);
/// Descriptors beside those of connections.
const OTHERS: usize = 64;

pub fn run(options: &Options, pace: Pace, found: &mut Found) -> anyhow::Result<()> {
    let peers = Peers::find(&SERVERS, options.echo.as_deref())?;
    let limit = raise_descriptor_limit();
    let all = if pace.quick { &CONNECTIONS[..3] } else { &CONNECTIONS };
    let (fit, more): (Vec<usize>, Vec<usize>) = all.iter().partition(|&x| x + OTHERS <= limit);
    let skipped = more.iter().map(|x| format!("{x} connections: {limit} descriptors are allowed"));
    found.skipped.extend(skipped);
    // A run shorter than this measures little but the beginning.
    let time = if pace.quick { pace.time } else { pace.time.max(Duration::from_secs(1)) };

    let points: Vec<_> = fit.iter().flat_map(|&x| SERVERS.map(|who| (x, who))).collect();
    let mut samples = vec![Vec::new(); points.len()];
    for _ in 0..pace.rounds {
        for (&(x, who), samples) in points.iter().zip(&mut samples) {
            let command = |port| peers.command(who, Transport::Tcp, port);
            let sample = measure(who, command, x, time);
            samples.push(sample.with_context(|| format!("{}, {x}", who.name()))?);
        }
    }
    for ((x, who), samples) in points.into_iter().zip(samples) {
        let mut add = |measure, figure: fn(&Sample) -> f64| {
            let rounds = samples.iter().map(figure).collect();
            found.rows.push(Row::new(CASE, who.name(), measure, rounds).at(x as f64));
        };
        add(Measure::MessagesPerSecond, |sample| sample.rate);
        add(Measure::ServerCpu, |sample| sample.cpu_nanos);
        add(Measure::PeakBytes, |sample| sample.peak);
    }
    Ok(())
}

/// One server under so many connections.
#[derive(Debug, Clone, Copy)]
struct Sample {
    rate: f64,
    cpu_nanos: f64,
    peak: f64,
}

fn measure(
    who: Peer,
    command: impl Fn(u16) -> anyhow::Result<Command>,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Sample> {
    let port = server::free_tcp_port()?;
    let mut server = Server::start(who.name(), command(port)?)?;
    server::wait_until_ready(&mut server, || {
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(drop)
    })?;
    machine::pin(machine::CLIENT_CORE);
    let mut client = Client::connect(port, connections)?;
    // Every connection has had an answer before the clock starts.
    client.exchange(Duration::ZERO)?;
    let before = server.cpu_nanos()?;
    let (messages, elapsed) = client.exchange(time)?;
    let cpu = server.cpu_nanos()? - before;
    let peak = server.peak_resident()?;
    drop(client);
    let (status, printed) = server.stop()?;
    ensure!(!who.ends_cleanly() || status.success(), "echo serve: {status}\n{printed}");
    Ok(Sample {
        rate: messages as f64 / elapsed.as_secs_f64(),
        cpu_nanos: cpu as f64 / messages as f64,
        peak: peak as f64,
    })
}

/// All connections, on one thread.
struct Client {
    poll: Poll,
    connections: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of the message on its way that have come back.
    received: usize,
}

impl Client {
    fn connect(port: u16, connections: usize) -> anyhow::Result<Client> {
        let poll = Poll::new()?;
        let mut all = Vec::with_capacity(connections);
        for index in 0..connections {
            go_on()?;
            // Blocking, so that a full backlog waits instead of failing.
            let stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .with_context(|| format!("connection {index}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            all.push(Connection { stream, received: 0 });
        }
        Ok(Client { poll, connections: all })
    }

    /// Sends a message by each connection, and another one whenever one has come back, for so long;
    /// then waits for those on their way. Gives the messages and the time until the last was back.
    fn exchange(&mut self, time: Duration) -> anyhow::Result<(usize, Duration)> {
        let message = [0x5a; MESSAGE];
        let mut events = Events::with_capacity(1024);
        let start = Instant::now();
        let mut moved = start;
        for connection in &mut self.connections {
            send(&mut connection.stream, &message)?;
        }
        let (mut messages, mut on_their_way) = (0, self.connections.len());
        while on_their_way > 0 {
            go_on()?;
            match self.poll.poll(&mut events, Some(Duration::from_millis(200))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome.context("epoll_wait")?,
            }
            let more = start.elapsed() < time;
            for event in &events {
                let connection = &mut self.connections[event.token().0];
                while connection.receive(&message)? {
                    messages += 1;
                    moved = Instant::now();
                    if more {
                        send(&mut connection.stream, &message)?;
                    } else {
                        on_their_way -= 1;
                    }
                }
            }
            ensure!(moved.elapsed() < PATIENCE, "{on_their_way} messages do not come back");
        }
        Ok((messages, start.elapsed()))
    }
}

impl Connection {
    /// Whether the whole message is back. Reads until that is so, or nothing more is there.
    fn receive(&mut self, message: &[u8; MESSAGE]) -> anyhow::Result<bool> {
        let mut buffer = [0; MESSAGE];
        loop {
            let room = &mut buffer[..MESSAGE - self.received];
            let count = match self.stream.read(room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                outcome => outcome.context("read")?,
            };
            ensure!(count > 0, "the server closed a connection");
            let expected = &message[self.received..][..count];
            ensure!(buffer[..count] == *expected, "bytes came back wrong");
            self.received += count;
            if self.received == MESSAGE {
                self.received = 0;
                return Ok(true);
            }
        }
    }
}

/// One small message always fits: the one before has come back.
fn send(stream: &mut TcpStream, message: &[u8]) -> anyhow::Result<()> {
    let sent = stream.write(message).context("write")?;
    ensure!(sent == message.len(), "{sent} bytes sent of {}", message.len());
    Ok(())
}
