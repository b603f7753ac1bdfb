//! Instructions in place of time: the buffers' cases under callgrind, each side as the difference of
//! two runs of other lengths. The few of the loop around an operation are in them.

use std::{env, path::Path};

use anyhow::Context;

use super::{
    buffers::dpdk_arguments,
    case::{Case, Side},
};
use crate::{
    instructions::collect,
    row::{Measure, Row},
};

/// The two run lengths, in things. The first is long enough to have warmed the caches.
const RUNS: (usize, usize) = (20_000, 120_000);

/// A row for each side of a case.
pub fn measure(case: Case, dpdk: Option<&Path>) -> anyhow::Result<Vec<Row>> {
    let sides = (case.sides)()?;
    let row = |side: &Side| {
        let (short, long) = (RUNS.0 / side.things, RUNS.1 / side.things);
        let fewer = count(&case.name, side, short, dpdk)?;
        let more = count(&case.name, side, long, dpdk)?;
        let each = (more as f64 - fewer as f64) / ((long - short) * side.things) as f64;
        Ok(Row::new(&case.name, side.who, Measure::Instructions, vec![each]))
    };
    sides.iter().map(row).collect()
}

/// Instructions of a whole program that does the operation so many times.
fn count(case: &str, side: &Side, times: usize, dpdk: Option<&Path>) -> anyhow::Result<u64> {
    let times = times.to_string();
    match side.asked {
        None => collect(&env::current_exe()?, &["micro", "--turn", case, side.who, &times], b""),
        Some(asked) => {
            let dpdk = dpdk.context("a side that asks DPDK without DPDK")?;
            collect(dpdk, &dpdk_arguments(1), format!("{times} {asked}\n").as_bytes())
        }
    }
    .with_context(|| format!("{case}, {}", side.who))
}

/// What is counted: one side of a case of buffers, so many times. `[CASE, WHO, TIMES]`
pub fn turn(cases: Vec<Case>, turn: &[String]) -> anyhow::Result<()> {
    let [name, who, times] = turn else { anyhow::bail!("not a case, a side and a number") };
    let case = cases.into_iter().find(|case| case.name == *name);
    let sides = (case.with_context(|| format!("no case `{name}`"))?.sides)()?;
    let side = sides.into_iter().find(|side| side.who == who);
    side.with_context(|| format!("no side `{who}`"))?.nanoseconds(times.parse()?)?;
    Ok(())
}
