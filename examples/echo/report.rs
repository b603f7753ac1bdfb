//! How what was measured is printed.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use indicatif::{HumanBytes, HumanCount};
use mbuf::{Pool, io::reactor::Tally};

use crate::{
    common::print::{complain, say},
    record::Record,
};

/// One run, measured.
#[derive(Debug, Clone)]
pub struct Row {
    name: String,
    elapsed: Duration,
    messages: u64,
    bytes: u64,
    /// The median and the 99th percentile of the time from sending to receiving.
    p50: Duration,
    p99: Duration,
    lost: u64,
    late: u64,
    duplicates: u64,
    failures: (u64, Vec<String>),
}

impl Row {
    pub fn new(name: &str, elapsed: Duration, record: &Record) -> Self {
        let latency = record.latency();
        let at = |quantile| Duration::from_nanos(latency.value_at_quantile(quantile));
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let messages = read(&record.messages);
        let mut failures = record.failures();
        if messages == 0 && failures.0 == 0 {
            failures = (1, vec!["nothing came back".into()]);
        }
        Self {
            name: name.into(),
            elapsed,
            messages,
            bytes: read(&record.bytes),
            p50: at(0.5),
            p99: at(0.99),
            lost: read(&record.lost),
            late: read(&record.late),
            duplicates: read(&record.duplicates),
            failures,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What went wrong, the first few.
    #[cfg(test)]
    pub fn failures(&self) -> &[String] {
        &self.failures.1
    }

    /// Adds to what went wrong why it did.
    pub fn explain(&mut self, why: String) {
        let (count, words) = &mut self.failures;
        if *count > 0 {
            *count += 1;
            words.insert(0, why);
        }
    }
}

/// A table, a run a line. Rates are those of one direction.
pub fn print_rows<'a>(rows: impl IntoIterator<Item = &'a Row>) {
    say(format_args!(
        "{:<22} {:>13} {:>12} {:>12} {:>12} {:>9} {:>9} {:>8} {:>6} {:>6}",
        "", "messages", "bytes", "messages/s", "bytes/s", "p50", "p99", "lost", "late", "twice"
    ));
    for row in rows {
        let seconds = row.elapsed.as_secs_f64();
        say(format_args!(
            "{:<22} {:>13} {:>12} {:>12} {:>12} {:>9} {:>9} {:>8} {:>6} {:>6}",
            row.name,
            HumanCount(row.messages).to_string(),
            HumanBytes(row.bytes).to_string(),
            HumanCount((row.messages as f64 / seconds) as u64).to_string(),
            HumanBytes((row.bytes as f64 / seconds) as u64).to_string(),
            short(row.p50),
            short(row.p99),
            row.lost,
            row.late,
            row.duplicates,
        ));
    }
}

/// What was dropped, by reason.
pub fn print_drops(who: &str, drops: &Tally) {
    if drops.total() == 0 {
        say(format_args!("dropped by the {who}: nothing"));
    }
    for (reason, count) in drops.iter().filter(|(_, count)| *count > 0) {
        say(format_args!("dropped by the {who}: {count} {reason}"));
    }
}

/// A pool's statistics. Whether nothing of it is in use any more.
pub fn print_pool(who: &str, pool: &Pool) -> bool {
    pool.flush();
    let stats = pool.stats();
    say(format_args!("\npool of the {who}:\n{stats}"));
    if stats.in_use() > 0 {
        let leaked = stats.in_use();
        complain(format_args!("LEAK: {leaked} buffers of the {who}'s pool are still in use"));
    }
    stats.in_use() == 0
}

/// What went wrong. Whether nothing did.
pub fn print_failures(row: &Row) -> bool {
    let (count, words) = &row.failures;
    for what in words {
        complain(format_args!("FAILED: {}: {what}", row.name));
    }
    if *count > words.len() as u64 {
        complain(format_args!("FAILED: {}: and {} more", row.name, count - words.len() as u64));
    }
    *count == 0
}

/// Three digits are enough.
fn short(time: Duration) -> String {
    let micros = time.as_nanos() as f64 / 1e3;
    match micros {
        0.0..10.0 => format!("{micros:.2} us"),
        10.0..1000.0 => format!("{micros:.0} us"),
        1000.0..1_000_000.0 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_which_nothing_came_back_has_failed() {
        let record = Record::new().unwrap();
        let mut row = Row::new("udp", Duration::from_secs(1), &record);
        assert!(!print_failures(&row));
        row.explain("nobody was asked".into());
        assert_eq!(row.failures, (2, vec!["nobody was asked".into(), "nothing came back".into()]));
    }

    #[test]
    fn a_run_in_which_all_was_well_needs_no_explanation() {
        let record = Record::new().unwrap();
        record.messages.store(1, Relaxed);
        let mut row = Row::new("udp", Duration::from_secs(1), &record);
        row.explain("an earlier answer".into());
        assert!(print_failures(&row));
    }

    #[test]
    fn times_are_short() {
        assert_eq!(short(Duration::from_nanos(1234)), "1.23 us");
        assert_eq!(short(Duration::from_micros(123)), "123 us");
        assert_eq!(short(Duration::from_millis(12)), "12.0 ms");
        assert_eq!(short(Duration::from_secs(2)), "2.0 s");
    }
}
