//! Ours beside the others.

use super::{figure, parts::ours};
use crate::row::{Measure, Row};

/// Whether the first figure is better.
pub fn better(measure: Measure, one: f64, other: f64) -> bool {
    if measure.more_is_better() { one > other } else { one < other }
}

/// The rows of one place: the same case, measure and `x`.
pub fn alike<'a>(rows: &[&'a Row], row: &Row) -> Vec<&'a Row> {
    let same =
        |other: &&&Row| other.case == row.case && other.measure == row.measure && other.x == row.x;
    rows.iter().filter(same).copied().collect()
}

/// The best of the others.
pub fn best_peer<'a>(rows: &[&'a Row]) -> Option<&'a Row> {
    rows.iter()
        .copied()
        .filter(|row| !ours(row))
        .reduce(|best, row| if better(row.measure, row.median, best.median) { row } else { best })
}

/// A row of ours beside the best of the others, in words.
pub fn words(row: &Row, peer: &Row) -> String {
    let (mine, theirs, who) = (row.median, peer.median, &peer.who);
    if mine == theirs {
        return format!("level with {who}");
    }
    if mine <= 0.0 || theirs <= 0.0 {
        let of = |row: &Row| figure::plain(figure::scaled(row.measure, row.median));
        return format!("{} beside {} of {who}", of(row), of(peer));
    }
    let ratio = if mine > theirs { mine / theirs } else { theirs / mine };
    if ratio < 1.05 {
        return format!("level with {who}");
    }
    let times = figure::plain(ratio);
    let (good, bad) = match row.measure {
        Measure::Nanoseconds | Measure::Seconds => ("as fast as", "slower than"),
        Measure::MessagesPerSecond | Measure::BytesPerSecond => ("as fast as", "slower than"),
        Measure::P50 | Measure::P99 | Measure::P999 => ("quicker than", "slower than"),
        _ => ("less than", "more than"),
    };
    let how = if better(row.measure, mine, theirs) { good } else { bad };
    format!("{times} times {how} {who}")
}

/// Every row of ours with those of the others that are better, the best first.
pub fn losses<'a>(rows: &[&'a Row]) -> Vec<(&'a Row, Vec<&'a Row>)> {
    let mut losses = Vec::new();
    for &mine in rows.iter().filter(|row| ours(row)) {
        let mut ahead = alike(rows, mine);
        ahead.retain(|row| !ours(row) && better(row.measure, row.median, mine.median));
        ahead.sort_by(|a, b| a.median.total_cmp(&b.median));
        if mine.measure.more_is_better() {
            ahead.reverse();
        }
        if !ahead.is_empty() {
            losses.push((mine, ahead));
        }
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_words() {
        let row = |who, measure, median| Row::new("c", who, measure, vec![median]);
        let say = |measure, mine, theirs| {
            words(&row("mbuf", measure, mine), &row("tokio", measure, theirs))
        };
        assert_eq!(say(Measure::Seconds, 1.0, 2.0), "2.00 times as fast as tokio");
        assert_eq!(say(Measure::MessagesPerSecond, 1.0, 2.0), "2.00 times slower than tokio");
        assert_eq!(say(Measure::PeakBytes, 30.0, 2.0), "15.0 times more than tokio");
        assert_eq!(say(Measure::Nanoseconds, 1.0, 1.04), "level with tokio");
        assert_eq!(say(Measure::Allocations, 0.0, 3.0), "0 beside 3.00 of tokio");
        assert_eq!(say(Measure::Allocations, 0.0, 0.0), "level with tokio");
    }

    #[test]
    fn losses_are_those_of_the_same_place_best_first() {
        let row = |who, x, median| Row::new("c", who, Measure::Seconds, vec![median]).at(x);
        let all = [
            row("mbuf", 1.0, 2.0),
            row("socat", 1.0, 1.5),
            row("rsync", 1.0, 3.0),
            row("nginx + curl", 1.0, 1.0),
            row("mbuf", 2.0, 0.5),
            row("socat", 2.0, 1.0),
        ];
        let rows: Vec<&Row> = all.iter().collect();
        let losses = losses(&rows);
        assert_eq!(losses.len(), 1);
        let names: Vec<_> = losses[0].1.iter().map(|row| &*row.who).collect();
        assert_eq!(names, ["nginx + curl", "socat"]);
        assert_eq!(best_peer(&alike(&rows, &all[4])).unwrap().median, 1.0);
    }
}
