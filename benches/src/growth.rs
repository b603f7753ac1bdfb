//! How cost grows: with layers, segments, the batch, threads, connections, the size of a file.
//! Each curve is rows with an `x`; their case is `AXIS: WHAT`.

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{
    Report,
    files::process::{end_orderly, go_on},
    machine,
    row::{Measure, Row},
    table::{Spread, Table, grouped},
};

mod connections;
mod file_size;
mod segments;
mod stack;
mod threads;

#[derive(Debug, Args)]
pub struct Options {
    /// Only these curves (default: all).
    #[arg(long, value_name = "NAME")]
    only: Vec<Curve>,
    /// Rounds; in each, every point of a curve is measured once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that a point is measured for in a round.
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Few points, small ones, one round of 0.02 seconds: whether it works, not how fast.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    connections: connections::Options,
    #[command(flatten)]
    files: file_size::Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Curve {
    /// Through 1 to 32 layers, 32 packets at once.
    Layers,
    /// Chains of 1 to 64 segments.
    Segments,
    /// Through five layers, 1 to 256 packets at once.
    Batch,
    /// 1 and 2 threads that allocate and free.
    Threads,
    /// 1 to 10,000 TCP connections.
    Connections,
    /// Files of 1 MiB to 8 GiB.
    FileSize,
}

/// How long, how often, and whether small.
#[derive(Debug, Clone, Copy)]
struct Pace {
    rounds: usize,
    time: Duration,
    quick: bool,
}

impl Pace {
    /// All points, or the first and a small one in a quick run.
    fn points(self, all: &[usize]) -> Vec<usize> {
        if self.quick { vec![all[0], all[all.len() / 3]] } else { all.to_vec() }
    }
}

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let pace = if options.quick {
        Pace { rounds: 1, time: Duration::from_millis(20), quick: true }
    } else {
        let time = Duration::try_from_secs_f64(options.seconds)?;
        Pace { rounds: options.rounds, time, quick: false }
    };
    ensure!(pace.rounds > 0, "no rounds");
    end_orderly();

    let all = Curve::value_variants();
    let chosen = if options.only.is_empty() { all } else { &options.only };
    let mut found = Found::default();
    for curve in chosen {
        eprintln!("growth: {curve:?}");
        match curve {
            Curve::Layers => found.rows.extend(stack::layers(pace)?),
            Curve::Segments => found.rows.extend(segments::run(pace)?),
            Curve::Batch => found.rows.extend(stack::batch(pace)?),
            Curve::Threads => found.rows.extend(threads::run(pace)?),
            Curve::Connections => connections::run(&options.connections, pace, &mut found)?,
            Curve::FileSize => file_size::run(&options.files, pace, &mut found)?,
        }
    }
    print(&found.rows);
    for skipped in &found.skipped {
        println!("skipped: {skipped}");
    }
    // What has no room on a machine is not a peer that is missing from it.
    let passed = found.missing == 0 || std::env::var_os("MBUF_REQUIRE_PEERS").is_none();
    if !passed {
        println!("FAILED: MBUF_REQUIRE_PEERS is set, and not all peers are there");
    }
    let figures = json!({
        "benchmark": "growth",
        "rounds": pace.rounds,
        "seconds": pace.time.as_secs_f64(),
        "rows": found.rows,
        "skipped": found.skipped,
        "versions": {
            "tokio": machine::crate_version("tokio"),
            "bytes": machine::crate_version("bytes"),
        },
    });
    Ok(Report { passed, figures })
}

/// What the curves come to.
#[derive(Debug, Default)]
struct Found {
    rows: Vec<Row>,
    /// What was not measured, and why.
    skipped: Vec<String>,
    /// How many of those are peers.
    missing: usize,
}

/// A place on a curve within this process.
struct Point<'a> {
    case: String,
    who: &'static str,
    x: usize,
    /// Does some operations and says how many.
    step: Box<dyn FnMut() -> anyhow::Result<usize> + 'a>,
}

/// Nanoseconds an operation, all points in turn in each round.
fn nanoseconds(points: &mut [Point<'_>], pace: Pace) -> anyhow::Result<Vec<Row>> {
    machine::pin(machine::CLIENT_CORE);
    let mut figures = vec![Vec::new(); points.len()];
    for round in 0..=pace.rounds {
        for (point, figures) in points.iter_mut().zip(&mut figures) {
            go_on()?;
            // The first round warms up, and does not count.
            let time = if round == 0 { pace.time / 10 } else { pace.time };
            let each = timed(time, &mut point.step)?;
            if round > 0 {
                figures.push(each);
            }
        }
    }
    let row = |(point, figures): (&Point<'_>, Vec<f64>)| {
        Row::new(&point.case, point.who, Measure::Nanoseconds, figures).at(point.x as f64)
    };
    Ok(points.iter().zip(figures).map(row).collect())
}

/// Repeats a step for so long; nanoseconds for each of its operations. The clock is read once in
/// about a thousand operations.
fn timed(time: Duration, step: &mut dyn FnMut() -> anyhow::Result<usize>) -> anyhow::Result<f64> {
    const BETWEEN: usize = 1000;
    let (mut done, mut next) = (0, BETWEEN);
    let start = Instant::now();
    loop {
        done += step()?;
        if done >= next {
            let elapsed = start.elapsed();
            if elapsed >= time {
                return Ok(elapsed.as_nanos() as f64 / done as f64);
            }
            next = done + BETWEEN;
        }
    }
}

fn print(rows: &[Row]) {
    let mut table = Table::new(["case", "x", "by", "measure", "median (minimum-maximum)"]);
    for row in rows {
        let decimals = if row.median < 100.0 { 2 } else { 0 };
        let spread = Spread { median: row.median, min: row.min, max: row.max };
        table.row([
            row.case.clone(),
            grouped(row.x.unwrap_or(0.0), 0),
            row.who.clone(),
            row.measure.title().into(),
            spread.show(decimals),
        ]);
    }
    println!("{table}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Pace = Pace { rounds: 2, time: Duration::from_micros(200), quick: true };

    #[test]
    fn curves_in_process_have_rows_for_each_point() {
        for rows in [stack::layers(QUICK), stack::batch(QUICK), segments::run(QUICK)] {
            let rows = rows.unwrap();
            assert!(rows.iter().all(|row| row.x.is_some() && row.rounds.len() == 2));
            assert!(rows.iter().all(|row| row.case.contains(": ")), "{rows:?}");
        }
    }

    #[test]
    fn time_is_for_each_operation() {
        let mut steps = 0;
        let mut step = || {
            steps += 1;
            std::thread::sleep(Duration::from_millis(1));
            Ok(1000)
        };
        let each = timed(Duration::from_millis(3), &mut step).unwrap();
        assert!(each >= 1000.0, "{each}");
        assert!(steps >= 2, "{steps}");
    }
}
