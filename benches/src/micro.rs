//! Buffers and parsing: nanoseconds for each, beside DPDK, C by hand and crates. The sides of a case
//! take turns, each on the same core, a few milliseconds at a time.

use std::{thread, time::Duration};

use anyhow::ensure;
use clap::Args;
use serde_json::{Value, json};

use crate::{
    Report, machine,
    row::{Measure, Row},
    table::{Spread, Table},
};

mod across;
mod buffers;
pub mod case;
mod chains;
mod counted;
mod layers;
mod mimalloc;
mod packets;
mod parsing;
mod program;
mod readers;
mod tcp_adapter;

use case::Case;

#[derive(Debug, Args)]
#[command(after_help = "\
Buffers: every side does the same to buffers of the same size, and where data is put in, each copies as
much of it. Parsing: 500 packets, or 100,000, each in a buffer of its own and these in no order; all
sides must come to the same sum of ports and lengths. That takes 1 GiB of memory. DPDK is measured where
pkg-config finds libdpdk (Debian: apt-get install libdpdk-dev pkg-config).")]
pub struct Options {
    /// Rounds; in each, every side of a case has its turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Milliseconds of a turn, about.
    #[arg(long, default_value_t = 50)]
    milliseconds: u64,
    /// Only the cases whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Two rounds of 5 milliseconds: whether it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// The instructions of the buffers' cases under callgrind, in place of the time of all.
    #[arg(long, conflicts_with_all = ["rounds", "milliseconds", "quick"])]
    instructions: bool,
    /// One side of a case so many times: what is run under callgrind.
    #[arg(long, hide = true, num_args = 3)]
    turn: Option<Vec<String>>,
}

pub fn run(options: &Options) -> anyhow::Result<Report> {
    if let Some(turn) = &options.turn {
        counted::turn(buffers::cases(&None, 1), turn)?;
        return Ok(Report { passed: true, figures: Value::Null });
    }
    let (rounds, milliseconds) =
        if options.quick { (2, 5) } else { (options.rounds, options.milliseconds) };
    ensure!(rounds > 0 && milliseconds > 0, "no rounds, or no time");

    // Asked before this thread is pinned to one core; callgrind has but one.
    let cores = if options.instructions { 1 } else { thread::available_parallelism()?.get() };
    if cores == 1 && !options.instructions {
        println!("skipped: freed on the other core: there is one core");
    }
    machine::pin(machine::SERVER_CORE);
    let dpdk_path = buffers::compile_dpdk()?;
    let dpdk = dpdk_path.as_ref().map(|path| buffers::start_dpdk(path, cores)).transpose()?;
    let mut cases = buffers::cases(&dpdk, cores);
    if !options.instructions {
        cases.extend(parsing::cases(&program::compile("C by hand", "c/parsing.c", None)?));
        cases.extend(tcp_adapter::cases());
    }
    if let Some(only) = &options.only {
        let names: Vec<_> = cases.iter().map(|case| case.name.clone()).collect();
        cases.retain(|case| case.name.contains(only.as_str()));
        ensure!(!cases.is_empty(), "no case `{only}`; there are: {}", names.join("; "));
    }

    let unit = if options.instructions { Measure::Instructions } else { Measure::Nanoseconds };
    let mut table = Table::new(["case", "who", unit.title(), "times mbuf's"]);
    let mut rows = Vec::new();
    for case in cases {
        let measured = match options.instructions {
            true => counted::measure(case, dpdk_path.as_deref())?,
            false => measure(case, rounds, Duration::from_millis(milliseconds))?,
        };
        show(&measured, &mut table);
        rows.extend(measured);
    }
    match options.instructions {
        true => println!("Buffers: instructions for each under callgrind\n"),
        false => println!(
            "Buffers and parsing: nanoseconds a buffer or a packet; {rounds} rounds of \
             {milliseconds} ms a side, interleaved, on core {}; median (minimum-maximum)\n",
            machine::SERVER_CORE,
        ),
    }
    println!("{table}");
    let mut versions = crates();
    if let Some(dpdk) = &dpdk {
        versions["DPDK"] = dpdk.borrow().version.trim_start_matches("DPDK ").into();
    }
    let mut figures = json!({ "benchmark": "micro", "versions": versions, "rows": rows });
    if !options.instructions {
        figures["milliseconds"] = milliseconds.into();
    }
    Ok(Report { passed: true, figures })
}

/// Each side of a case in turn, round after round.
pub fn measure(case: Case, rounds: usize, time: Duration) -> anyhow::Result<Vec<Row>> {
    let mut sides = (case.sides)()?;
    let times = sides.iter_mut().map(|side| side.calibrate(time));
    let times = times.collect::<anyhow::Result<Vec<_>>>()?;
    let mut figures = vec![Vec::with_capacity(rounds); sides.len()];
    for _ in 0..rounds {
        for ((side, &times), figures) in sides.iter_mut().zip(&times).zip(&mut figures) {
            figures.push(side.nanoseconds(times)?);
        }
    }
    let row = |(side, figures): (&case::Side, _)| {
        Row::new(&case.name, side.who, Measure::Nanoseconds, figures)
    };
    Ok(sides.iter().zip(figures).map(row).collect())
}

/// The first side is mbuf's. Each round is compared with mbuf's turn in it: that is what repeats.
fn show(rows: &[Row], table: &mut Table) {
    for row in rows {
        let ratios = row.rounds.iter().zip(&rows[0].rounds).map(|(other, mbuf)| other / mbuf);
        let spread = Spread { median: row.median, min: row.min, max: row.max };
        table.row([row.case.clone(), row.who.clone(), spread.show(1), Spread::of(ratios).show(2)]);
    }
}

/// The versions of the crates, as they were locked.
fn crates() -> Value {
    let mut versions = json!({});
    for (who, package) in [
        ("bytes", "bytes"),
        ("mimalloc", "mimalloc"),
        ("pnet", "pnet_packet"),
        ("smoltcp", "smoltcp"),
        ("etherparse", "etherparse"),
    ] {
        versions[who] = machine::crate_version(package).into();
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_the_crates_are_found() {
        let versions = crates();
        let found = versions.as_object().unwrap().values();
        assert!(found.into_iter().all(|version| version.as_str().unwrap().contains('.')));
    }

    /// The sides of parsing check their sums themselves.
    #[test]
    fn a_quick_run_of_what_needs_no_dpdk() {
        let time = Duration::from_micros(100);
        let mut cases = buffers::cases(&None, 2);
        let c = program::compile("C by hand", "c/parsing.c", None).unwrap();
        cases.extend(parsing::cases(&c));
        cases.extend(tcp_adapter::cases());
        for case in cases.into_iter().filter(|case| !case.name.contains("out of cache")) {
            let name = case.name.clone();
            let rows = measure(case, 1, time).unwrap();
            assert_eq!(rows[0].who, "mbuf", "{name}");
            assert!(rows.iter().all(|row| row.median > 0.0), "{name}");
        }
    }
}
