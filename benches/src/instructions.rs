//! Instructions an operation, under callgrind: the difference of two runs of `alloc-count` whose
//! numbers of operations differ, less what the measuring loop takes by itself. It repeats exactly,
//! on any machine of the same architecture and with the same compiler, and so it can gate:
//! `ceilings.txt` says how many each operation may take.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    Report,
    row::{Measure, Row},
    table::{Table, grouped},
};

#[derive(Debug, Args)]
pub struct Options {
    /// Only these operations (default: all of `ceilings.txt`).
    operations: Vec<String>,
}

const CEILINGS: &str = include_str!("../ceilings.txt");
/// The two run lengths, in operations. The first is long enough to have warmed the caches.
const RUNS: (u64, u64) = (10_000, 110_000);
/// With the feature, what is measured is its cost: the ceilings say nothing of it.
const CENSUS: bool = cfg!(feature = "census");

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let program = build()?;
    let ceilings = read_ceilings(CEILINGS)?;
    for name in &options.operations {
        ensure!(
            ceilings.iter().any(|ceiling| ceiling.operation == name),
            "no operation `{name}`; there are {}",
            ceilings.iter().map(|ceiling| ceiling.operation).collect::<Vec<_>>().join(", ")
        );
    }
    let around = per_operation(&program, "loop")?;
    let mut table = Table::new(["operation", "instructions", "with the loop", "ceiling", ""]);
    let mut rows = Vec::new();
    let mut passed = true;
    for ceiling in ceilings {
        let wanted = options.operations.is_empty()
            || options.operations.iter().any(|name| name == ceiling.operation);
        if !wanted {
            continue;
        }
        let whole = per_operation(&program, ceiling.operation)?;
        // To a tenth, as it is printed: some tens of instructions of a whole run differ from run to run.
        let each = ((whole - around) * 10.0).round() / 10.0;
        let within = CENSUS || each <= ceiling.most;
        passed &= within;
        table.row([
            format!("{} ({})", ceiling.what, ceiling.operation),
            grouped(each, 1),
            grouped(whole, 1),
            grouped(ceiling.most, 0),
            if within { String::new() } else { "TOO MANY".to_owned() },
        ]);
        rows.push(Row::new(ceiling.what, "mbuf", Measure::Instructions, vec![each]));
    }
    println!("Instructions an operation under callgrind; the loop around it takes {around:.1}\n");
    println!("{table}");
    if !passed {
        println!("FAILED: an operation takes more instructions than benches/ceilings.txt allows");
    }
    Ok(Report { passed, figures: json!({ "benchmark": "instructions", "rows": rows }) })
}

/// A line of a file of ceilings.
#[derive(Debug, Clone, Copy)]
pub struct Ceiling {
    pub operation: &'static str,
    pub most: f64,
    pub what: &'static str,
}

/// All lines that are not empty and no comment.
pub fn read_ceilings(text: &'static str) -> anyhow::Result<Vec<Ceiling>> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(ceiling).collect()
}

fn ceiling(line: &'static str) -> anyhow::Result<Ceiling> {
    let parse = || {
        let (operation, rest) = line.split_once(char::is_whitespace)?;
        let (most, what) = rest.trim_start().split_once(char::is_whitespace)?;
        Some(Ceiling { operation, most: most.parse().ok()?, what: what.trim() })
    };
    parse().with_context(|| format!("not an operation, a number and what it is: `{line}`"))
}

/// Builds `alloc-count`, which lies beside this program.
pub fn build() -> anyhow::Result<PathBuf> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--release", "--bin", "alloc-count", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .args(CENSUS.then_some("--features=census"))
        .stdout(Stdio::null())
        .status()
        .context("running cargo to build `alloc-count`")?;
    ensure!(status.success(), "cargo build --bin alloc-count: {status}");
    let program = std::env::current_exe()?.with_file_name("alloc-count");
    ensure!(program.exists(), "{} is not there: was this program moved?", program.display());
    Ok(program)
}

fn per_operation(program: &Path, operation: &str) -> anyhow::Result<f64> {
    let short = collect(program, &[operation, &RUNS.0.to_string()], b"")?;
    let long = collect(program, &[operation, &RUNS.1.to_string()], b"")?;
    Ok((long as f64 - short as f64) / (RUNS.1 - RUNS.0) as f64)
}

/// Runs a program under callgrind, with a few bytes to read; gives its instructions.
pub fn collect(program: &Path, arguments: &[&str], input: &[u8]) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input))?;
            child.wait_with_output()
        });
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("valgrind is not installed (Debian: apt-get install valgrind)")
        }
        output => output.context("running valgrind")?,
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {}\n{stderr}", output.status);
    stderr
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .with_context(|| format!("callgrind printed no count:\n{stderr}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_ceilings_can_be_read() {
        let ceilings = read_ceilings(CEILINGS).unwrap();
        assert!(ceilings.iter().any(|ceiling| ceiling.operation == "cluster"));
        assert!(ceilings.iter().all(|ceiling| ceiling.most > 0.0));
        assert!(ceiling("small many a small mbuf").is_err());
    }
}
