//! How long echo takes when messages come at a fixed rate, beside C, tokio and mio. The client
//! never sleeps, so that only the server's waking up is in the figures.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    Report,
    client::paced::{Datagrams, Link, Outcome, Paced, SIZE, Streams},
    files::process,
    lineup::{self, WARM_UP},
    machine,
    peers::{Peer, Peers, Transport},
    row::{Measure, Row},
    table::{Spread, Table, grouped},
};

#[derive(Debug, Args)]
pub struct Options {
    /// Messages a second, in all; each rate in turn.
    #[arg(long = "rate", value_name = "RATE", default_values_t = [20_000.0, 50_000.0])]
    rates: Vec<f64>,
    /// TCP connections, which take the messages in turn.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Rounds; in each, every server is driven once over UDP, and once over TCP.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that a server is driven in a round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Two rounds of 0.2 seconds, and the rate need not be reached: whether it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// A build of the example `echo` to be measured, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    echo: Option<PathBuf>,
}

const PEERS: [Peer; 5] = [Peer::Mbuf, Peer::MbufBusy, Peer::Epoll, Peer::Tokio, Peer::Mio];
const QUANTILES: [(Measure, f64); 3] =
    [(Measure::P50, 0.5), (Measure::P99, 0.99), (Measure::P999, 0.999)];
/// Of the rate, so much must come back.
const REACHED: f64 = 0.99;

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let (rounds, seconds) =
        if options.quick { (2, 0.2) } else { (options.rounds, options.seconds) };
    ensure!(
        rounds > 0 && options.connections > 0 && options.rates.iter().all(|&rate| rate > 0.0),
        "nothing to do"
    );
    let time = Duration::try_from_secs_f64(seconds).context("--seconds")?;
    process::end_orderly();
    let peers = Peers::find(&PEERS, options.echo.as_deref())?;
    let connections = options.connections;
    let mut findings = Findings::new();
    for &rate in &options.rates {
        let per_second = grouped(rate, 0);
        let case = format!("UDP, {SIZE} B, {per_second} messages/s");
        let sides = measure(&peers, Transport::Udp, rounds, rate, time, Datagrams::connect)?;
        findings.add(&case, rate, &sides);
        let case = format!("TCP, {SIZE} B, {connections} connections, {per_second} messages/s");
        let connect = |port| Streams::connect(port, connections);
        let sides = measure(&peers, Transport::Tcp, rounds, rate, time, connect)?;
        findings.add(&case, rate, &sides);
    }

    println!(
        "Echo on loopback at a fixed rate, microseconds from when a message was due to when it was \
         back; {rounds} rounds of {seconds} s, interleaved; server on core {}, client on core {}; \
         median (minimum-maximum)\n",
        machine::SERVER_CORE,
        machine::CLIENT_CORE,
    );
    println!("{}", findings.table);
    for missed in &findings.missed {
        println!("{missed}");
    }
    let reached = findings.missed.is_empty();
    if !reached && !options.quick {
        println!("FAILED: the rate was not reached, so these are not the times at that rate");
    }
    let figures = json!({
        "benchmark": "latency",
        "rows": findings.rows,
        "rates": findings.rates,
        "rate": options.rates,
        "connections": connections,
        "seconds": seconds,
        "skipped": peers.skipped(),
        "versions": peers.versions(),
    });
    Ok(Report { passed: reached || options.quick, figures })
}

fn measure<L: Link>(
    peers: &Peers,
    transport: Transport,
    rounds: usize,
    rate: f64,
    time: Duration,
    connect: impl Fn(u16) -> anyhow::Result<L>,
) -> anyhow::Result<Vec<(Peer, Vec<Outcome>)>> {
    lineup::rounds(
        peers,
        transport,
        rounds,
        |port| connect(port).map(Paced::new),
        |_, client, counts| client.run(rate, if counts { time } else { WARM_UP }),
    )
}

#[derive(Debug)]
struct Findings {
    table: Table,
    rows: Vec<Row>,
    /// What came back of each, for the JSON report.
    rates: Vec<Value>,
    /// A line for each that did not reach the rate.
    missed: Vec<String>,
}

impl Findings {
    fn new() -> Findings {
        let table = Table::new(["case, server", "p50", "p99", "p99.9"]);
        Findings { table, rows: Vec::new(), rates: Vec::new(), missed: Vec::new() }
    }

    fn add(&mut self, case: &str, asked: f64, sides: &[(Peer, Vec<Outcome>)]) {
        for (peer, outcomes) in sides {
            let rows = QUANTILES.map(|(measure, quantile)| {
                let times = outcomes.iter().map(|run| run.times.value_at_quantile(quantile) as f64);
                Row::new(case, peer.name(), measure, times.collect())
            });
            let [p50, p99, p999] = rows.each_ref().map(|row| row.spread().scaled(1e-3).show(1));
            self.table.row([format!("{case}: {}", peer.name()), p50, p99, p999]);
            self.rows.extend(rows);
            let rate = Spread::of(outcomes.iter().map(|run| run.rate));
            self.rates.push(json!({ "case": case, "who": peer.name(), "rate": rate.json() }));
            if rate.min < REACHED * asked {
                let lost: u64 = outcomes.iter().map(|run| run.sent - run.echoed).sum();
                let (rate, lost) = (rate.show(0), grouped(lost as f64, 0));
                self.missed.push(format!(
                    "rate not reached: {case}: {}: {rate} messages/s, {lost} lost",
                    peer.name()
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    #[test]
    fn a_rate_that_is_not_reached_in_one_round_is_said() {
        let outcome = |rate| {
            let mut times = Histogram::new(3).unwrap();
            times.record(1000).unwrap();
            Outcome { times, sent: 2, echoed: 1, rate }
        };
        let mut findings = Findings::new();
        findings.add("good", 100.0, &[(Peer::Mbuf, vec![outcome(100.0), outcome(99.5)])]);
        assert!(findings.missed.is_empty());
        findings.add("bad", 100.0, &[(Peer::Tokio, vec![outcome(100.0), outcome(98.0)])]);
        let said = "rate not reached: bad: tokio: 99 (98-100) messages/s, 2 lost";
        assert_eq!(findings.missed, [said]);
        assert_eq!(findings.rows.len(), 6);
    }
}
