//! The example `host` behind its TAP: UDP echo beside smoltcp behind one, and beside the kernel's own
//! stack at the other end of a veth pair; and super-packets of UDP in and out as one chain, beside
//! the plain loop. In a network namespace of its own, which is gone at the end.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    Report,
    client::udp::{Client, Kind, Load, MAX_BATCH, MAX_SEND},
    files::process,
    lineup::{Sample, WARM_UP},
    machine,
    row::{Measure, Row},
    server,
    table::{Spread, Table, grouped},
};

mod hosts;
mod place;
pub mod smoltcp;
mod supers;

use hosts::{Host, SMOLTCP};

#[derive(Debug, Args)]
pub struct Options {
    /// Rounds; in each, every host is driven once in every case.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that a host is driven in a round.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Milliseconds of a turn with super-packets, about.
    #[arg(long, default_value_t = 50)]
    milliseconds: u64,
    /// Two rounds of 0.1 seconds, and of 5 milliseconds: whether it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// A build of the example `host` to be measured, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    host: Option<PathBuf>,
}

const SIZES: [usize; 2] = [64, 1400];
/// With how many in flight.
const LOADS: [(Kind, usize); 3] = [(Kind::Plain, 256), (Kind::Plain, 1), (Kind::Gso, 256)];
/// Between two runs: whatever the last one left to do is done before the clock starts.
const PAUSE: Duration = Duration::from_millis(5);

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let mut findings = Findings::default();
    if let Err(error) = place::enter(options.host.as_deref()) {
        findings.skip("a network namespace with a TAP", &error)?;
        return Ok(findings.finish(0, 0.0));
    }
    let (rounds, seconds, milliseconds) = match options.quick {
        true => (2, 0.1, 5),
        false => (options.rounds, options.seconds, options.milliseconds),
    };
    ensure!(rounds > 0 && milliseconds > 0, "no rounds, or no time");
    let time = Duration::try_from_secs_f64(seconds).context("--seconds")?;
    process::end_orderly();
    let program = server::example_program("host", options.host.as_deref())?;

    let mut hosts = Vec::new();
    for (name, start) in hosts::ALL {
        match start(&program) {
            Ok(host) => hosts.push(host),
            Err(error) => findings.skip(name, &error)?,
        }
    }
    for (kind, window) in LOADS {
        for size in SIZES {
            let batch = if kind == Kind::Gso { MAX_BATCH.min(MAX_SEND / size) } else { 1 };
            let load = Load { kind, size, window, batch };
            let samples = drive(&mut hosts, load, rounds, time)?;
            findings.add(&case(load), &hosts, samples);
        }
    }
    for host in hosts {
        host.stop()?;
    }
    machine::pin(machine::SERVER_CORE);
    match supers::measure(rounds, Duration::from_millis(milliseconds))? {
        Ok(rows) => rows.into_iter().for_each(|row| findings.add_super(row)),
        Err(missing) => findings.skip("super-packets", &missing)?,
    }
    Ok(findings.finish(rounds, seconds))
}

fn case(load: Load) -> String {
    match (load.kind, load.window) {
        (_, 1) => format!("UDP, {} B, ping-pong", load.size),
        (Kind::Plain, window) => format!("UDP, {} B, {window} in flight", load.size),
        (Kind::Gso, window) => format!("UDP, {} B, {window} in flight, GSO client", load.size),
    }
}

/// Drives each once in every round, from another one on each time.
fn drive(
    hosts: &mut [Host],
    load: Load,
    rounds: usize,
    time: Duration,
) -> anyhow::Result<Vec<Vec<Sample>>> {
    let clients = hosts.iter_mut().map(|host| {
        let mut client = Client::to(host.address, load)?;
        server::wait_until_ready(&mut host.server, || client.probe())?;
        Ok(client)
    });
    let mut clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
    let mut samples = vec![Vec::new(); hosts.len()];
    for round in 0..=rounds {
        for turn in 0..hosts.len() {
            let place = (round + turn) % hosts.len();
            let host = &mut hosts[place];
            process::go_on()?;
            host.server.alive()?;
            thread::sleep(PAUSE);
            let time = if round > 0 { time } else { time.min(WARM_UP) };
            let sample = Sample::take(&host.server, &mut clients[place], time)
                .with_context(|| format!("the host `{}`", host.name))?;
            if round > 0 {
                samples[place].push(sample);
            }
        }
    }
    Ok(samples)
}

/// What was found: tables for people, rows for the report.
#[derive(Debug)]
struct Findings {
    echo: Table,
    supers: Table,
    rows: Vec<Row>,
    lost: Vec<serde_json::Value>,
    skipped: Vec<String>,
}

impl Default for Findings {
    fn default() -> Findings {
        let headings =
            ["case, host", "messages a second", "CPU ns/message", "times smoltcp", "lost"];
        Findings {
            echo: Table::new(headings),
            supers: Table::new(["super-packets", "who", "GB/s"]),
            rows: Vec::new(),
            lost: Vec::new(),
            skipped: Vec::new(),
        }
    }
}

impl Findings {
    fn add(&mut self, case: &str, hosts: &[Host], samples: Vec<Vec<Sample>>) {
        let smoltcp = hosts.iter().position(|host| host.name == SMOLTCP);
        for (host, own) in hosts.iter().zip(&samples) {
            let times = smoltcp.map(|place| {
                Spread::of(
                    own.iter().zip(&samples[place]).map(|(own, other)| own.rate / other.rate),
                )
            });
            let rates = own.iter().map(|sample| sample.rate).collect();
            let rate = Row::new(case, host.name, Measure::MessagesPerSecond, rates);
            let cpu = own.iter().map(|sample| sample.cpu_nanos).collect();
            let cpu = Row::new(case, host.name, Measure::ServerCpu, cpu);
            let lost: u64 = own.iter().map(|sample| sample.lost).sum();
            self.echo.row([
                format!("{case}: {}", host.name),
                rate.spread().show(0),
                cpu.spread().show(0),
                times.map_or_else(|| "-".to_owned(), |times| times.show(2)),
                grouped(lost as f64, 0),
            ]);
            self.rows.extend([rate, cpu]);
            if lost > 0 {
                self.lost.push(json!({ "case": case, "who": host.name, "messages": lost }));
            }
        }
    }

    fn add_super(&mut self, row: Row) {
        let speed = row.spread().scaled(1e-9).show(2);
        self.supers.row([row.case.clone(), row.who.clone(), speed]);
        self.rows.push(row);
    }

    /// Names what is left out, which is an error if MBUF_REQUIRE_PEERS is set.
    fn skip(&mut self, what: &str, error: &anyhow::Error) -> anyhow::Result<()> {
        let required = std::env::var_os("MBUF_REQUIRE_PEERS").is_some();
        ensure!(!required, "{what}: {error:#} (and MBUF_REQUIRE_PEERS is set)");
        let skipped = format!("{what}: {error:#}");
        println!("skipped: {skipped}");
        self.skipped.push(skipped);
        Ok(())
    }

    fn finish(self, rounds: usize, seconds: f64) -> Report {
        println!(
            "UDP echo by a host behind a TAP; {rounds} rounds of {seconds} s, \
             interleaved; host on core {}, client on core {}; median (minimum-maximum)\n",
            machine::SERVER_CORE,
            machine::CLIENT_CORE,
        );
        println!("{}\n{}", self.echo, self.supers);
        let figures = json!({
            "benchmark": "tap",
            "rows": self.rows,
            "lost": self.lost,
            "seconds": seconds,
            "skipped": self.skipped,
            "versions": hosts::versions(),
        });
        Report { passed: true, figures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_load_has_a_case_of_its_own() {
        let mut cases: Vec<_> = LOADS
            .iter()
            .flat_map(|&(kind, window)| SIZES.map(|size| Load { kind, size, window, batch: 1 }))
            .map(case)
            .collect();
        assert_eq!(cases[0], "UDP, 64 B, 256 in flight");
        assert_eq!(cases[5], "UDP, 1400 B, 256 in flight, GSO client");
        cases.dedup();
        assert_eq!(cases.len(), 6);
    }
}
