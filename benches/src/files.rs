//! Files over loopback: `file send` and `file receive` beside nginx with curl, socat and rsync, on
//! tmpfs and on a disk. Each round takes all of them in turn, from another one on each time; what
//! is sent is in the page cache, and what arrives first is compared, outside the time.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    Report,
    row::{Measure, Row},
    server,
    table::{Spread, Table, grouped},
};

pub mod place;
pub mod process;

use place::{Mover, Place, Run, TREE_FILES, What, find};

#[derive(Debug, Args)]
pub struct Options {
    /// Bytes of the large file.
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = bytes)]
    size: u64,
    /// Rounds. Each takes every program once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// One large file. So it is if nothing else is asked for.
    #[arg(long)]
    large: bool,
    /// A tree of 10,000 files of 1 KiB. On ext4, not within five minutes of an earlier run, which
    /// has removed many files: creating new ones is slow meanwhile.
    #[arg(long)]
    tree: bool,
    /// The peak memory of our two ends, with the tree and with a tar stream from a pipe. Exit status
    /// 1 if it is not below the pool and 32 MiB.
    #[arg(long)]
    memory: bool,
    /// All three, 64 MiB, one round: whether all of it works and the memory is bounded, not how
    /// fast.
    #[arg(long)]
    quick: bool,
    /// The pool of each of our ends, as `file --memory` takes it.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = bytes)]
    pool: u64,
    /// A folder in memory.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    tmpfs: PathBuf,
    /// A folder on a disk.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    disk: PathBuf,
    /// A build of the example `file` to be measured, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    file: Option<PathBuf>,
}

/// The others do not wait for the disk, so those to be compared with them do not either.
const FILE: [Mover; 8] = [
    Mover::Mbuf { source: "pread", sink: "pwritev", sync: false },
    Mover::Mbuf { source: "mmap", sink: "pwritev", sync: false },
    Mover::Mbuf { source: "pread", sink: "mmap", sync: false },
    Mover::Mbuf { source: "mmap", sink: "mmap", sync: false },
    Mover::NginxCurl,
    Mover::Socat,
    Mover::Rsync,
    USUAL,
];
const TREE: [Mover; 4] = [
    Mover::Mbuf { source: "pread", sink: "pwritev", sync: false },
    Mover::Rsync,
    Mover::Tar,
    USUAL,
];
/// As the defaults are.
const USUAL: Mover = Mover::Mbuf { source: "pread", sink: "pwritev", sync: true };

/// What a process may have beside its pool, in bytes.
const BESIDE_POOL: u64 = 32 << 20;
const MIB: f64 = (1 << 20) as f64;

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let (size, rounds) = if options.quick { (64 << 20, 1) } else { (options.size, options.rounds) };
    ensure!(size > 0 && rounds > 0, "nothing to do");
    let (tree, memory) = (options.tree || options.quick, options.memory || options.quick);
    let file = options.large || options.quick || !(tree || memory);
    let program = server::example_program("file", options.file.as_deref())?;
    process::end_orderly();

    let mut passed = true;
    let mut skipped = Vec::new();
    let mut there = |movers: &[Mover]| {
        let there = |mover: &Mover| {
            let missing = mover.programs().iter().find_map(|program| find(program).err());
            if let Some(error) = &missing {
                let words = format!("{}: {error}", mover.who());
                println!("skipped: {words}");
                skipped.extend((!skipped.contains(&words)).then_some(words));
            }
            missing.is_none()
        };
        movers.iter().copied().filter(there).collect::<Vec<_>>()
    };
    let large = if file { there(&FILE) } else { Vec::new() };
    let small = if tree { there(&TREE) } else { Vec::new() };
    if !skipped.is_empty() && std::env::var_os("MBUF_REQUIRE_PEERS").is_some() {
        println!("FAILED: MBUF_REQUIRE_PEERS is set, and not all peers are there");
        passed = false;
    }

    let mut rows = Vec::new();
    let places = [("tmpfs", &options.tmpfs), ("disk", &options.disk)];
    for (name, parent) in places {
        let kept = if name == "disk" { small.len() * rounds + 1 } else { 0 };
        Place::check(parent, name == "tmpfs", size, kept as u64)
            .with_context(|| format!("--{name}"))?;
    }
    for (name, parent) in places {
        let place = Place::make(parent, &program, options.pool, size)?;
        if file {
            let runs = place.rounds(What::File, &large, rounds)?;
            let case = format!("a file of {} MiB, {name}", grouped(size as f64 / MIB, 0));
            println!("{case}; rounds: {rounds}; median (minimum-maximum)\n");
            show(&large, &runs, ("GB", size as f64 / 1e9));
            rows.extend(as_rows(&case, &large, &runs));
        }
        if tree {
            let runs = place.rounds(What::Tree, &small, rounds)?;
            let case = format!("{} files of 1 KiB, {name}", grouped(TREE_FILES as f64, 0));
            println!("{case}; rounds: {rounds}; median (minimum-maximum)\n");
            show(&small, &runs, ("files", TREE_FILES as f64));
            rows.extend(as_rows(&case, &small, &runs));
        }
        if memory {
            let (within, peaks) = peaks(&place, name, options.pool)?;
            rows.extend(peaks);
            passed &= within;
        }
    }
    let figures = json!({
        "benchmark": "files", "bytes": size, "rounds": rounds, "pool_bytes": options.pool,
        "skipped": skipped, "rows": rows,
    });
    Ok(Report { passed, figures })
}

/// The figures of each mover.
fn as_rows(case: &str, movers: &[Mover], runs: &[Vec<Run>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (mover, runs) in movers.iter().zip(runs) {
        let mut add = |measure, figure: fn(&Run) -> f64| {
            rows.push(Row::new(case, &mover.who(), measure, runs.iter().map(figure).collect()));
        };
        add(Measure::Seconds, |run| run.seconds);
        add(Measure::CpuSeconds, |run| run.sender.cpu + run.receiver.cpu);
        add(Measure::PeakBytes, |run| run.sender.peak.max(run.receiver.peak) as f64);
    }
    rows
}

/// Prints a table of what was measured of each mover. `amount` says what was moved in a run: what
/// that is counted in, and how many of it.
fn show(movers: &[Mover], runs: &[Vec<Run>], amount: (&str, f64)) {
    let (unit, amount) = amount;
    let decimals = if amount > 1000.0 { 0 } else { 2 };
    let rate = format!("{unit}/s");
    let mut table = Table::new([
        "by",
        "s",
        &rate,
        "sender's CPU s",
        "receiver's CPU s",
        "both",
        "peak MiB",
        "verified",
    ]);
    for (mover, runs) in movers.iter().zip(runs) {
        let spread = |figure: &dyn Fn(&Run) -> f64| Spread::of(runs.iter().map(figure));
        let seconds = spread(&|run| run.seconds);
        let rate = spread(&|run| amount / run.seconds);
        let sender = spread(&|run| run.sender.cpu);
        let receiver = spread(&|run| run.receiver.cpu);
        let both = spread(&|run| run.sender.cpu + run.receiver.cpu);
        let peaks = mover.is_ours().then(|| {
            [|run: &Run| run.sender.peak, |run: &Run| run.receiver.peak]
                .map(|peak| runs.iter().map(peak).max().unwrap_or(0))
        });
        table.row([
            mover.name(),
            seconds.show(2),
            rate.show(decimals),
            sender.show(2),
            receiver.show(2),
            both.show(2),
            peaks.map_or("-".into(), |[sender, receiver]| {
                format!("{}, {}", mib(sender), mib(receiver))
            }),
            mover.verifies().into(),
        ]);
    }
    println!("{table}");
}

/// The peak memory of both our ends, for what could take much of it, and whether it is bounded.
fn peaks(place: &Place, name: &str, pool: u64) -> anyhow::Result<(bool, Vec<Row>)> {
    let limit = pool + BESIDE_POOL;
    println!("{name}: peak resident memory in MiB; {}\n", USUAL.name());
    let mut table = Table::new(["what", "sender", "receiver", "limit"]);
    let mut rows = Vec::new();
    let mut within = true;
    for (what, shown) in [
        (What::Tree, format!("{} files of 1 KiB", grouped(TREE_FILES as f64, 0))),
        (What::Stream, "a tar stream from a pipe".into()),
    ] {
        let runs = place.rounds(what, &[USUAL], 1)?;
        let Run { sender, receiver, .. } = runs[0][0];
        within &= sender.peak.max(receiver.peak) < limit;
        table.row([shown.clone(), mib(sender.peak), mib(receiver.peak), mib(limit)]);
        for (end, usage) in [("sender", sender), ("receiver", receiver)] {
            let case = format!("memory of the {end}: {shown}, {name}");
            let peak = vec![usage.peak as f64];
            rows.push(Row::new(&case, &USUAL.who(), Measure::PeakBytes, peak));
        }
    }
    println!("{table}");
    if !within {
        println!("FAILED: the memory is not below the limit\n");
    }
    Ok((within, rows))
}

fn mib(bytes: u64) -> String {
    grouped(bytes as f64 / MIB, 1)
}

/// `2GiB`, `64MiB`, `1KiB`, or a number of bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err("not a number with B, KiB, MiB or GiB after it".into()),
    };
    let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "more than 16 EiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes("2GiB"), Ok(2 << 30));
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("7"), Ok(7));
        for bad in ["", "GiB", "1Gb", "-1", "1.5GiB", "99999999999GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
