//! What every benchmark writes: a row for each thing that is measured and each side. `--json` has
//! them under `rows`; the report is made of nothing else.

use serde::{Deserialize, Serialize};

use crate::table::Spread;

/// One measure of one side in one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What is done: `share, drop both`.
    pub case: String,
    /// By whom, as people call it: `mbuf`, `DPDK 22.11`, `tokio`.
    pub who: String,
    /// What of it was measured.
    pub measure: Measure,
    /// Where the case is a curve, the place on its axis; the axis is named by the case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<f64>,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Every single round, in order.
    pub rounds: Vec<f64>,
}

/// What can be measured, with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Nanoseconds an operation, a packet or a message.
    Nanoseconds,
    /// Instructions an operation, under callgrind.
    Instructions,
    /// Messages a second.
    MessagesPerSecond,
    /// Bytes a second.
    BytesPerSecond,
    /// Nanoseconds of the server's CPU for a message.
    ServerCpu,
    /// Seconds from start to end.
    Seconds,
    /// Seconds of CPU of all processes.
    CpuSeconds,
    /// Bytes resident at most, of one process.
    PeakBytes,
    /// Nanoseconds that half of the messages took at most.
    P50,
    /// The same for 99 in 100.
    P99,
    /// The same for 999 in 1,000.
    P999,
    /// System calls for 1,000 messages.
    SystemCalls,
    /// Heap allocations for 1,000 messages.
    Allocations,
    /// Distinct cache lines that a packet touches.
    CacheLines,
}

impl Measure {
    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        matches!(self, Measure::MessagesPerSecond | Measure::BytesPerSecond)
    }

    /// What heads a column or an axis.
    pub fn title(self) -> &'static str {
        match self {
            Measure::Nanoseconds => "ns",
            Measure::Instructions => "instructions",
            Measure::MessagesPerSecond => "messages/s",
            Measure::BytesPerSecond => "bytes/s",
            Measure::ServerCpu => "server CPU, ns a message",
            Measure::Seconds => "seconds",
            Measure::CpuSeconds => "CPU seconds, both ends",
            Measure::PeakBytes => "peak memory, bytes",
            Measure::P50 => "p50, ns",
            Measure::P99 => "p99, ns",
            Measure::P999 => "p99.9, ns",
            Measure::SystemCalls => "system calls for 1,000 messages",
            Measure::Allocations => "heap allocations for 1,000 messages",
            Measure::CacheLines => "cache lines a packet",
        }
    }
}

impl Row {
    /// Of at least one round.
    pub fn new(case: &str, who: &str, measure: Measure, rounds: Vec<f64>) -> Row {
        let Spread { median, min, max } = Spread::of(rounds.iter().copied());
        Row {
            case: case.to_owned(),
            who: who.to_owned(),
            measure,
            x: None,
            median,
            min,
            max,
            rounds,
        }
    }

    pub fn spread(&self) -> Spread {
        Spread { median: self.median, min: self.min, max: self.max }
    }

    /// The same at a place on a curve.
    pub fn at(self, x: f64) -> Row {
        Row { x: Some(x), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_from_json() {
        let row = Row::new("echo", "mbuf", Measure::P999, vec![3.0, 1.0, 2.0]).at(64.0);
        assert_eq!((row.median, row.min, row.max), (2.0, 1.0, 3.0));
        let text = serde_json::to_string(&row).unwrap();
        assert!(text.contains(r#""measure":"p999""#), "{text}");
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), row);
        assert!(!Measure::P999.more_is_better());
        assert_eq!(Measure::PeakBytes.title(), "peak memory, bytes");
    }
}
