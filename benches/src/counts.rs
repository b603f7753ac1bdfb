//! System calls and heap allocations for 1,000 echoed messages: what a machine's mood does not
//! change, and what can gate. They are the difference of two runs whose numbers of messages differ,
//! as strace and valgrind count them; before each burst of messages the server has gone to sleep.
//! `counts.txt` says how many mbuf may take.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    Report,
    client::{
        Client, Until,
        tcp::{PingPong, Streaming, Waiting},
        udp::{self, Kind, Load},
    },
    files::process,
    lineup,
    peers::{Peer, Peers, Transport},
    row::{Measure, Row},
    server::Server,
    table::{Table, grouped},
};

#[derive(Debug, Args)]
pub struct Options {
    /// How often everything is counted; the medians are what the ceilings are for.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// One round, and two more of whatever is above a ceiling in it.
    #[arg(long)]
    quick: bool,
    /// A build of the example `echo` to be counted, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    echo: Option<PathBuf>,
}

const CEILINGS: &str = include_str!("../counts.txt");
const PEERS: [Peer; 3] = [Peer::Mbuf, Peer::Tokio, Peer::Epoll];
/// The two run lengths, in bursts.
const RUNS: (u64, u64) = (50, 250);
/// After a burst: the server sleeps before the next one comes, also under strace and valgrind.
const PAUSE: Duration = Duration::from_millis(3);
/// How long an answer may take. Under valgrind what is done for the first time takes its time.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the clients do.
struct Case {
    /// As `counts.txt` has it.
    name: &'static str,
    transport: Transport,
    /// Messages of a burst.
    burst: u64,
    connect: fn(u16) -> anyhow::Result<Box<dyn Client>>,
}

const CASES: [Case; 5] = [
    Case { name: "udp-ping-pong", transport: Transport::Udp, burst: 1, connect: plain },
    Case { name: "udp-gso", transport: Transport::Udp, burst: GSO_BATCH as u64, connect: gso },
    Case { name: "tcp-ping-pong", transport: Transport::Tcp, burst: 1, connect: one },
    Case { name: "tcp-64", transport: Transport::Tcp, burst: 128, connect: many },
    Case { name: "tcp-stream", transport: Transport::Tcp, burst: 16, connect: stream },
];
const SIZE: usize = 64;
const GSO_BATCH: usize = 64;

fn plain(port: u16) -> anyhow::Result<Box<dyn Client>> {
    let load = Load { kind: Kind::Plain, size: SIZE, window: 1, batch: 1 };
    Ok(Box::new(udp::Client::connect(port, load)?.patient(PATIENCE)))
}

fn gso(port: u16) -> anyhow::Result<Box<dyn Client>> {
    let load = Load { kind: Kind::Gso, size: SIZE, window: GSO_BATCH, batch: GSO_BATCH };
    Ok(Box::new(udp::Client::connect(port, load)?.patient(PATIENCE)))
}

fn one(port: u16) -> anyhow::Result<Box<dyn Client>> {
    Ok(Box::new(PingPong::connect(port, 1, SIZE, Waiting::Asleep)?))
}

fn many(port: u16) -> anyhow::Result<Box<dyn Client>> {
    Ok(Box::new(PingPong::connect(port, 64, SIZE, Waiting::Asleep)?))
}

fn stream(port: u16) -> anyhow::Result<Box<dyn Client>> {
    Ok(Box::new(Streaming::connect(port)?))
}

/// What counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Strace,
    Valgrind,
}

impl Tool {
    fn measure(self) -> Measure {
        match self {
            Tool::Strace => Measure::SystemCalls,
            Tool::Valgrind => Measure::Allocations,
        }
    }

    /// The program with its options: the server's command follows.
    fn command(self) -> Command {
        let (program, options): (_, &[&str]) = match self {
            // With -D the server is our child, and strace looks on.
            Tool::Strace => ("strace", &["-D", "-f", "-c"]),
            Tool::Valgrind => ("valgrind", &["--leak-check=no", "--undef-value-errors=no"]),
        };
        let mut command = Command::new(program);
        command.args(options);
        command
    }

    fn is_there(self) -> anyhow::Result<()> {
        let mut command = self.command();
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.arg("true").stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("{program} is not installed"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} does not work here: {said}");
        self.total(&said).map(drop)
    }

    /// What it has counted, from what it printed.
    fn total(self, printed: &str) -> anyhow::Result<u64> {
        let total = match self {
            Tool::Strace => system_calls(printed),
            Tool::Valgrind => allocations(printed),
        };
        total.with_context(|| format!("{self:?} printed no count:\n{printed}"))
    }
}

/// The calls of all rows of `strace -c`: share, seconds, microseconds a call, calls, errors if there
/// were any, name.
fn system_calls(printed: &str) -> Option<u64> {
    let (_, summary) = printed.split_once("% time")?;
    let rows = summary.lines().skip(2).take_while(|line| !line.starts_with("------"));
    rows.map(|row| row.split_whitespace().nth(3)?.parse::<u64>().ok()).sum()
}

fn allocations(printed: &str) -> Option<u64> {
    let (_, rest) = printed.split_once("total heap usage:")?;
    rest.split_whitespace().next()?.replace(',', "").parse().ok()
}

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let rounds = if options.quick { 1 } else { options.rounds };
    ensure!(rounds > 0, "no rounds");
    let ceilings = ceilings(CEILINGS)?;
    process::end_orderly();
    let mut peers = Peers::find(&PEERS, options.echo.as_deref())?;
    let mut tools = Vec::new();
    for tool in [Tool::Strace, Tool::Valgrind] {
        match tool.is_there() {
            Ok(()) => tools.push(tool),
            Err(error) => peers.skip(tool.measure().title(), &error)?,
        }
    }

    let mut table =
        Table::new(["case, server, for 1,000 messages", "median (least-most)", "ceiling", ""]);
    let mut rows = Vec::new();
    let mut passed = true;
    for (case, ceiling) in CASES.iter().zip(&ceilings) {
        for &tool in &tools {
            for &peer in peers.there() {
                let ours = peer == Peer::Mbuf;
                // That mbuf needs no heap is a promise; the others made none.
                if tool == Tool::Valgrind && !ours {
                    continue;
                }
                let most = ceiling.of(tool);
                let count = || {
                    per_thousand(tool, &peers, peer, case)
                        .with_context(|| format!("{}: {}", case.name, peer.name()))
                };
                let mut found = (0..rounds).map(|_| count()).collect::<anyhow::Result<Vec<_>>>()?;
                // What has disturbed one does not disturb most of three.
                if ours && found.iter().any(|&found| found.round() > most) {
                    while found.len() < 3 {
                        found.push(count()?);
                    }
                }
                let row = Row::new(ceiling.what, peer.name(), tool.measure(), found);
                // As it is printed: one more in a whole run is a table that grew, no message's.
                let within = !ours || row.median.round() <= most;
                passed &= within;
                table.row([
                    format!("{} ({}), {}: {}", ceiling.what, case.name, peer.name(), noun(tool)),
                    row.spread().show(0),
                    if ours { grouped(most, 0) } else { String::new() },
                    if within { String::new() } else { "TOO MANY".to_owned() },
                ]);
                rows.push(row);
            }
        }
    }
    println!("{table}");
    if !passed {
        println!("FAILED: an echoed message takes more than benches/counts.txt allows");
    }
    let figures = json!({ "benchmark": "counts", "rows": rows, "skipped": peers.skipped(), "versions": peers.versions() });
    Ok(Report { passed, figures })
}

fn noun(tool: Tool) -> &'static str {
    match tool {
        Tool::Strace => "system calls",
        Tool::Valgrind => "heap allocations",
    }
}

/// A difference below 0 is none: the longer run was started with a little less.
fn per_thousand(tool: Tool, peers: &Peers, peer: Peer, case: &Case) -> anyhow::Result<f64> {
    let short = count(tool, peers, peer, case, RUNS.0)?;
    let long = count(tool, peers, peer, case, RUNS.1)?;
    let messages = (RUNS.1 - RUNS.0) * case.burst;
    Ok(long.saturating_sub(short) as f64 * 1000.0 / messages as f64)
}

/// What a server takes from its start to its end, with so many bursts of messages between.
fn count(tool: Tool, peers: &Peers, peer: Peer, case: &Case, bursts: u64) -> anyhow::Result<u64> {
    let port = case.transport.free_port()?;
    let server = peers.command(peer, case.transport, port)?;
    let mut command = tool.command();
    command.arg(server.get_program()).args(server.get_args());
    let mut server = Server::start(peer.name(), command)?;
    lineup::wait_until_echoing(&mut server, case.transport, port)?;
    let mut client = (case.connect)(port)?;
    for _ in 0..bursts {
        process::go_on()?;
        let tally = client.run(Until::Sent(case.burst))?;
        ensure!(tally.lost == 0, "{} messages were lost", tally.lost);
        thread::sleep(PAUSE);
    }
    drop(client);
    thread::sleep(PAUSE);
    let (status, printed) = server.stop()?;
    ensure!(!peer.ends_cleanly() || status.success(), "echo serve: {status}\n{printed}");
    tool.total(&printed)
}

#[derive(Debug, Clone, Copy)]
struct Ceiling {
    system_calls: f64,
    allocations: f64,
    what: &'static str,
}

impl Ceiling {
    fn of(&self, tool: Tool) -> f64 {
        match tool {
            Tool::Strace => self.system_calls,
            Tool::Valgrind => self.allocations,
        }
    }
}

/// Of each of the cases, in their order: a line with its name, the two ceilings, and what it is.
fn ceilings(text: &'static str) -> anyhow::Result<Vec<Ceiling>> {
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let ceiling = |case: &Case| {
        let line = lines.next().unwrap_or_default();
        let mut rest = line;
        let mut field = || {
            let (field, after) = rest.trim_start().split_once(' ')?;
            rest = after;
            Some(field)
        };
        let fields = (field(), field(), field());
        let (Some(name), Some(system_calls), Some(allocations)) = fields else {
            bail!("counts.txt: `{line}` is no ceiling of `{}`", case.name)
        };
        ensure!(name == case.name, "counts.txt: `{name}` in place of `{}`", case.name);
        Ok(Ceiling {
            system_calls: system_calls.parse()?,
            allocations: allocations.parse()?,
            what: rest.trim(),
        })
    };
    let ceilings = CASES.iter().map(ceiling).collect::<anyhow::Result<_>>()?;
    ensure!(lines.next().is_none(), "counts.txt has more lines than there are cases");
    Ok(ceilings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRACE: &str = "\
strace: Process 3 attached
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000123           1      1000           read
 40.00    0.000023           1       234        12 epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.000146           1      1234        12 total
";
    const VALGRIND: &str = "\
==7==     in use at exit: 0 bytes in 0 blocks
==7==   total heap usage: 1,033 allocs, 1,033 frees, 99,413 bytes allocated
";

    #[test]
    fn what_the_tools_print_is_understood() {
        assert_eq!(Tool::Strace.total(STRACE).unwrap(), 1234);
        assert_eq!(Tool::Valgrind.total(VALGRIND).unwrap(), 1033);
        assert!(Tool::Strace.total(VALGRIND).is_err());
        assert!(Tool::Valgrind.total(STRACE).is_err());
    }

    #[test]
    fn the_committed_ceilings_can_be_read() {
        let committed = ceilings(CEILINGS).unwrap();
        assert!(committed.iter().all(|ceiling| ceiling.system_calls > 0.0));
        assert!(committed.iter().all(|ceiling| ceiling.of(Tool::Valgrind) < 1000.0));
        assert!(ceilings("udp-ping-pong 1").is_err());
        assert!(ceilings("udp-gso 1 0 another place").is_err());
    }
}
