//! Echo servers side by side: each a process on the server's core, driven in turn by the same
//! client on the client's core, round after round.

use std::{net::TcpStream, thread, time::Duration};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    client::{
        Client, Until,
        udp::{self, Kind, Load},
    },
    files::process,
    machine,
    peers::{Peer, Peers, Transport},
    row::{Measure, Row},
    server::{self, Server},
    table::{Spread, Table, grouped},
};

/// A run of each side before the first round, which is not counted.
pub const WARM_UP: Duration = Duration::from_millis(200);
/// Between two runs: whatever the last one left to do is done before the clock starts.
const PAUSE: Duration = Duration::from_millis(5);
/// The same where a server looks for work for 50 ms before it sleeps.
const PAUSE_BUSY: Duration = Duration::from_millis(70);

/// Starts the peers and connects a client to each; measures each once in every round, from another
/// one on each time; gives what was measured, peer by peer. `measure` is also told whether it counts.
pub fn rounds<C, T>(
    peers: &Peers,
    transport: Transport,
    rounds: usize,
    connect: impl Fn(u16) -> anyhow::Result<C>,
    mut measure: impl FnMut(&Server, &mut C, bool) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<(Peer, Vec<T>)>> {
    let mut sides = Vec::new();
    for &peer in peers.there() {
        let port = transport.free_port()?;
        let mut server = Server::start(peer.name(), peers.command(peer, transport, port)?)?;
        wait_until_echoing(&mut server, transport, port)?;
        let client = connect(port).with_context(|| format!("a client of `{}`", peer.name()))?;
        sides.push((peer, server, client, Vec::new()));
    }
    let busy = peers.there().contains(&Peer::MbufBusy);
    let count = sides.len();
    for round in 0..=rounds {
        for turn in 0..count {
            let (peer, server, client, measured) = &mut sides[(round + turn) % count];
            let mut once = || {
                process::go_on()?;
                server.alive()?;
                thread::sleep(if busy { PAUSE_BUSY } else { PAUSE });
                measure(server, client, round > 0)
            };
            let found = once().with_context(|| format!("the server `{}`", peer.name()))?;
            if round > 0 {
                measured.push(found);
            }
        }
    }
    let end = |(peer, server, client, measured): (Peer, Server, C, Vec<T>)| {
        drop(client);
        let (status, printed) = server.stop()?;
        ensure!(!peer.ends_cleanly() || status.success(), "echo serve: {status}\n{printed}");
        Ok((peer, measured))
    };
    sides.into_iter().map(end).collect()
}

/// Waits until a server on a port of 127.0.0.1 answers.
pub fn wait_until_echoing(
    server: &mut Server,
    transport: Transport,
    port: u16,
) -> anyhow::Result<()> {
    match transport {
        Transport::Tcp => {
            server::wait_until_ready(server, || TcpStream::connect(("127.0.0.1", port)).map(drop))
        }
        Transport::Udp => {
            let load = Load { kind: Kind::Plain, size: 64, window: 1, batch: 1 };
            let mut client = udp::Client::connect(port, load)?;
            server::wait_until_ready(server, || client.probe())
        }
    }
}

/// A client driving a server as fast as it goes, once.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Messages a second.
    pub rate: f64,
    /// The server's CPU for a message.
    pub cpu_nanos: f64,
    pub lost: u64,
}

impl Sample {
    /// Drives the server for so long.
    pub fn take(
        server: &Server,
        client: &mut impl Client,
        time: Duration,
    ) -> anyhow::Result<Sample> {
        let before = server.cpu_nanos()?;
        let tally = client.run(Until::Passed(time))?;
        let after = server.cpu_nanos()?;
        ensure!(tally.echoed > 0, "not one message came back");
        Ok(Sample {
            rate: tally.echoed as f64 / tally.elapsed.as_secs_f64(),
            cpu_nanos: (after - before) as f64 / tally.echoed as f64,
            lost: tally.lost,
        })
    }
}

/// What was found in several cases: a table for people, rows for the report.
#[derive(Debug)]
pub struct Findings {
    table: Table,
    rows: Vec<Row>,
    lost: Vec<Value>,
}

impl Findings {
    pub fn new() -> Findings {
        let headings = ["case, server", "a second", "server CPU ns/message", "times tokio", "lost"];
        Findings { table: Table::new(headings), rows: Vec::new(), lost: Vec::new() }
    }

    /// Adds what was measured in a case. Where messages are `bytes` long, and not messages but
    /// bytes shall be shown, they are given. Gives how many times as fast as tokio mbuf was, each
    /// round compared with the same round of tokio's: that is what repeats.
    pub fn add(
        &mut self,
        case: &str,
        bytes: Option<usize>,
        sides: &[(Peer, Vec<Sample>)],
    ) -> Option<f64> {
        let tokio = sides.iter().find(|(peer, _)| *peer == Peer::Tokio).map(|(_, samples)| samples);
        let mut ours = None;
        for (peer, samples) in sides {
            let times = tokio.map(|tokio| {
                Spread::of(samples.iter().zip(tokio).map(|(mine, tokio)| mine.rate / tokio.rate))
            });
            if *peer == Peer::Mbuf {
                ours = times.map(|times| times.median);
            }
            let rates = samples.iter().map(|sample| sample.rate * bytes.unwrap_or(1) as f64);
            let measure =
                if bytes.is_some() { Measure::BytesPerSecond } else { Measure::MessagesPerSecond };
            let rate = Row::new(case, peer.name(), measure, rates.collect());
            let cpu = samples.iter().map(|sample| sample.cpu_nanos).collect();
            let cpu = Row::new(case, peer.name(), Measure::ServerCpu, cpu);
            let lost: u64 = samples.iter().map(|sample| sample.lost).sum();
            let speed = match bytes {
                None => format!("{} messages", rate.spread().show(0)),
                Some(_) => format!("{} MB", rate.spread().scaled(1e-6).show(0)),
            };
            self.table.row([
                format!("{case}: {}", peer.name()),
                speed,
                cpu.spread().show(0),
                times.map_or_else(|| "-".to_owned(), |times| times.show(2)),
                grouped(lost as f64, 0),
            ]);
            self.rows.extend([rate, cpu]);
            if lost > 0 {
                self.lost.push(json!({ "case": case, "who": peer.name(), "messages": lost }));
            }
        }
        ours
    }

    /// Prints the table; gives the figures, without the options of the run.
    pub fn finish(self, benchmark: &str, rounds: usize, seconds: f64, peers: &Peers) -> Value {
        println!(
            "Echo on loopback; {rounds} rounds of {seconds} s, interleaved; server on core {}, \
             client on core {}; median (minimum-maximum)\n",
            machine::SERVER_CORE,
            machine::CLIENT_CORE,
        );
        println!("{}", self.table);
        json!({
            "benchmark": benchmark,
            "rows": self.rows,
            "lost": self.lost,
            "seconds": seconds,
            "skipped": peers.skipped(),
        "versions": peers.versions(),
        })
    }
}
