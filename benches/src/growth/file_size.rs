//! A file on tmpfs over loopback, against its size: ours beside nginx with curl, socat and rsync.

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::Args;

use super::{Found, Pace};
use crate::{
    files::place::{Mover, Place, What, find},
    row::{Measure, Row},
    server,
};

#[derive(Debug, Args)]
pub struct Options {
    /// A folder in memory for the files.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    tmpfs: PathBuf,
    /// A build of the example `file` to be measured, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    file: Option<PathBuf>,
}

const MOVERS: [Mover; 4] = [
    Mover::Mbuf { source: "pread", sink: "pwritev", sync: false },
    Mover::NginxCurl,
    Mover::Socat,
    Mover::Rsync,
];
const SIZES: [u64; 6] = [1 << 20, 8 << 20, 64 << 20, 512 << 20, 2 << 30, 8 << 30];
/// The pool of each of our ends.
const POOL: u64 = 64 << 20;
/// What is left to the rest of the machine.
const REST: u64 = 2 << 30;

pub fn run(options: &Options, pace: Pace, found: &mut Found) -> anyhow::Result<()> {
    let program = server::example_program("file", options.file.as_deref())?;
    let mut movers = Vec::new();
    for mover in MOVERS {
        match mover.programs().iter().find_map(|program| find(program).err()) {
            None => movers.push(mover),
            Some(error) => {
                found.skipped.push(format!("{}: {error}", mover.who()));
                found.missing += 1;
            }
        }
    }
    let sizes = if pace.quick { &SIZES[..2] } else { &SIZES };
    for &size in sizes {
        if let Err(error) = room(options, size) {
            found.skipped.push(format!("a file of {} MiB: {error:#}", size >> 20));
            continue;
        }
        let place = Place::make(&options.tmpfs, &program, POOL, size)?;
        let runs = place.rounds(What::File, &movers, pace.rounds)?;
        for (mover, runs) in movers.iter().zip(runs) {
            // The same name as the peers have elsewhere: there is but one of ours here.
            let who = if mover.is_ours() { "mbuf".to_owned() } else { mover.who() };
            let mut add = |what: &str, measure, rounds| {
                let case = format!("file size: {what}");
                found.rows.push(Row::new(&case, &who, measure, rounds).at(size as f64));
            };
            let seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
            let rates = seconds.iter().map(|seconds| size as f64 / seconds).collect();
            let cpu = runs.iter().map(|run| run.sender.cpu + run.receiver.cpu).collect();
            add("a file on tmpfs", Measure::Seconds, seconds);
            add("a file on tmpfs", Measure::BytesPerSecond, rates);
            add("a file on tmpfs", Measure::CpuSeconds, cpu);
        }
    }
    Ok(())
}

/// What is sent and what arrives must fit into the folder, and into memory beside all else.
fn room(options: &Options, size: u64) -> anyhow::Result<()> {
    Place::check(&options.tmpfs, true, size, 0)?;
    let text = fs::read_to_string("/proc/meminfo")?;
    let available = available(&text).context("/proc/meminfo has no MemAvailable")?;
    let needed = 2 * size + REST;
    anyhow::ensure!(available > needed, "{available} bytes of memory are free, {needed} needed");
    Ok(())
}

/// Bytes, of what /proc/meminfo says.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_available() {
        let text = "MemTotal:  100 kB\nMemAvailable:   24 kB\n";
        assert_eq!(available(text), Some(24 << 10));
        assert_eq!(available("MemTotal: 1 kB"), None);
    }
}
