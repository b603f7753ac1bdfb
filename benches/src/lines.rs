//! Cache lines that a packet touches: the distinct lines of 64 bytes that `alloc-count` reads or
//! writes under lackey, valgrind's tracer of memory. The difference of two runs whose numbers of
//! packets differ is what the packets took; each packet is in buffers of its own. Like instructions
//! it repeats and so it can gate: `lines.txt` says how many there may be.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    Report, instructions,
    row::{Measure, Row},
    table::{Table, grouped},
};

#[derive(Debug, Args)]
pub struct Options {}

const CEILINGS: &str = include_str!("../lines.txt");
/// The two run lengths, in packets. The first is long enough to have warmed the caches.
const RUNS: (u64, u64) = (256, 1280);
/// Bytes of a cache line.
const LINE: u64 = 64;

pub fn run(_: &Options) -> anyhow::Result<Report> {
    let program = instructions::build()?;
    let mut table = Table::new(["what is done with a packet", "cache lines", "ceiling", ""]);
    let mut rows = Vec::new();
    let mut passed = true;
    for ceiling in instructions::read_ceilings(CEILINGS)? {
        let short = touched(&program, ceiling.operation, RUNS.0)?;
        let long = touched(&program, ceiling.operation, RUNS.1)?;
        let each = (long as f64 - short as f64) / (RUNS.1 - RUNS.0) as f64;
        let within = each <= ceiling.most;
        passed &= within;
        table.row([
            format!("{} ({})", ceiling.what, ceiling.operation),
            grouped(each, 2),
            grouped(ceiling.most, 2),
            if within { String::new() } else { "TOO MANY".to_owned() },
        ]);
        rows.push(Row::new(ceiling.what, "mbuf", Measure::CacheLines, vec![each]));
    }
    println!("Distinct cache lines of 64 bytes that a packet touches, in buffers of its own\n");
    println!("{table}");
    if !passed {
        println!("FAILED: a packet touches more cache lines than benches/lines.txt allows");
    }
    // A part of what is counted, with its other figures.
    Ok(Report { passed, figures: json!({ "benchmark": "counts", "rows": rows }) })
}

/// The distinct lines that a whole run of so many packets touches.
fn touched(program: &Path, operation: &str, packets: u64) -> anyhow::Result<usize> {
    // The trace goes to the standard error, of which valgrind has a copy of its own.
    let mut child = Command::new("valgrind")
        .args(["--tool=lackey", "--trace-mem=yes", "--log-fd=2"])
        .arg(program)
        .args([operation, &packets.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("running valgrind (Debian: apt-get install valgrind)")?;
    let trace = child.stderr.take().context("no trace")?;
    let mut lines = HashSet::new();
    for line in BufReader::new(trace).lines() {
        let line = line.context("reading the trace")?;
        if let Some((address, size)) = access(&line) {
            lines.extend(address / LINE..=(address + size.max(1) - 1) / LINE);
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "{operation}: {status}");
    ensure!(!lines.is_empty(), "{operation}: lackey traced nothing");
    Ok(lines.len())
}

/// Address and size, of a line of the trace that is a load, a store, or both; instructions are not
/// counted.
fn access(line: &str) -> Option<(u64, u64)> {
    let rest = [" L ", " S ", " M "].iter().find_map(|kind| line.strip_prefix(kind))?;
    let (address, size) = rest.trim().split_once(',')?;
    Some((u64::from_str_radix(address, 16).ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_stores_are_counted_and_instructions_are_not() {
        assert_eq!(access(" L 1ffe,4"), Some((0x1ffe, 4)));
        assert_eq!(access(" S 1fff000c60,8"), Some((0x1f_ff00_0c60, 8)));
        assert_eq!(access(" M 0421c7cc,4"), Some((0x0421_c7cc, 4)));
        assert_eq!(access("I  04000a50,3"), None);
        assert_eq!(access("==12== Counted 5"), None);
    }

    #[test]
    fn the_committed_ceilings_can_be_read() {
        let ceilings = instructions::read_ceilings(CEILINGS).unwrap();
        assert!(ceilings.iter().any(|ceiling| ceiling.operation == "through"));
    }
}
