//! The goals that were set (`goals.toml`), and whether the figures meet them.

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::{
    compare::better,
    figure,
    parts::{Results, ours},
};
use crate::row::{Measure, Row};

/// One that is measured by a row of ours and, unless it is a bound, by one of a peer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// In words.
    pub goal: String,
    benchmark: String,
    /// `*` stands for anything.
    case: String,
    measure: Measure,
    /// Where the case is a curve.
    x: Option<f64>,
    /// Which of ours, if not the best of them; `*` stands for anything.
    who: Option<String>,
    /// Of a comparison: `*` stands for anything, and the best of those that match counts.
    peer: Option<String>,
    /// How many times the peer's figure: at most where less is better, at least where more is.
    factor: Option<f64>,
    at_most: Option<f64>,
    at_least: Option<f64>,
}

/// What became of it.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Met(String),
    NotMet(String),
    /// With what is missing.
    NotMeasured(String),
}

pub fn committed() -> anyhow::Result<Vec<Goal>> {
    read(include_str!("../../goals.toml")).context("benches/goals.toml")
}

fn read(text: &str) -> anyhow::Result<Vec<Goal>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        goals: Vec<Goal>,
    }
    let goals = toml::from_str::<File>(text)?.goals;
    for goal in &goals {
        let bounds = [goal.factor, goal.at_most, goal.at_least];
        let one = bounds.iter().flatten().count() == 1;
        ensure!(
            one && goal.peer.is_some() == goal.factor.is_some(),
            "`{}` has neither a peer with a factor, nor at_most, nor at_least",
            goal.goal
        );
    }
    Ok(goals)
}

impl Goal {
    pub fn check(&self, results: &Results) -> Outcome {
        let part = results.parts.iter().find(|part| part.name == self.benchmark);
        let Some(part) = part else {
            return Outcome::NotMeasured(format!("there are no figures of `{}`", self.benchmark));
        };
        let here = |row: &&Row| {
            row.measure == self.measure
                && (self.x.is_none() || row.x == self.x)
                && matches(&self.case, &row.case)
        };
        let rows: Vec<&Row> = part.rows.iter().filter(here).collect();
        if rows.is_empty() {
            return Outcome::NotMeasured(format!("no case `{}`", self.case));
        }
        let who = self.who.as_deref().unwrap_or("*");
        let mine =
            self.best(rows.iter().copied().filter(|row| ours(row) && matches(who, &row.who)));
        let Some(mine) = mine else {
            return Outcome::NotMeasured(format!("nothing of ours in `{}`", self.case));
        };
        let show = |value| figure::plain(figure::scaled(self.measure, value));
        let unit = figure::title(self.measure);
        let (met, figures) = if let (Some(name), Some(factor)) = (&self.peer, self.factor) {
            let theirs = rows.iter().copied().filter(|row| !ours(row) && matches(name, &row.who));
            let Some(theirs) = self.best(theirs) else {
                return Outcome::NotMeasured(format!("no `{name}` in `{}`", self.case));
            };
            let bound = factor * theirs.median;
            let met = mine.median == bound || better(self.measure, mine.median, bound);
            let ratio = figure::plain(mine.median / theirs.median);
            let (mine, theirs, who) = (show(mine.median), show(theirs.median), &theirs.who);
            (met, format!("{mine} beside {theirs} of {who} ({unit}): {ratio} times"))
        } else {
            let most = self.at_most.is_none_or(|most| mine.median <= most);
            let least = self.at_least.is_none_or(|least| mine.median >= least);
            (most && least, format!("{} ({unit})", show(mine.median)))
        };
        if met { Outcome::Met(figures) } else { Outcome::NotMet(figures) }
    }

    fn best<'a>(&self, rows: impl Iterator<Item = &'a Row>) -> Option<&'a Row> {
        rows.reduce(
            |best, row| if better(self.measure, row.median, best.median) { row } else { best },
        )
    }
}

/// Whether a text is like a pattern in which `*` stands for anything. Case does not matter.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::{super::parts::Part, *};

    #[test]
    fn the_committed_goals_can_be_read() {
        assert!(committed().unwrap().len() > 10);
        let none = r#"[[goals]]
            goal = "g"
            benchmark = "b"
            case = "c"
            measure = "nanoseconds"
            peer = "DPDK""#;
        assert!(read(none).is_err());
    }

    #[test]
    fn patterns() {
        assert!(matches("udp*64*", "UDP echo of 64 bytes"));
        assert!(matches("DPDK*", "DPDK 22.11") && matches("dpdk*", "DPDK") && matches("*", ""));
        assert!(matches("a*a", "aba") && !matches("a*a", "a") && !matches("a", "ab"));
        assert!(!matches("*64*bytes", "64 bytes of it"));
    }

    #[test]
    fn met_not_met_and_not_measured() {
        let row = |who, median| Row::new("share", who, Measure::Nanoseconds, vec![median]);
        let rows = vec![row("mbuf", 6.0), row("DPDK 22.11", 14.0), row("bytes", 11.0)];
        let parts = vec![Part { name: "micro".into(), rows, ..Part::default() }];
        let results = Results { parts, missing: Vec::new() };
        let goal = |case: &str, bound: &str| {
            let text = format!(
                "[[goals]]\ngoal = \"g\"\nbenchmark = \"micro\"\ncase = \"{case}\"\n\
                 measure = \"nanoseconds\"\n{bound}"
            );
            read(&text).unwrap().remove(0).check(&results)
        };
        let dpdk = goal("share", "peer = \"DPDK*\"\nfactor = 0.5");
        let figures = "6.00 beside 14.0 of DPDK 22.11 (ns): 0.429 times";
        assert_eq!(dpdk, Outcome::Met(figures.into()));
        assert!(matches!(goal("share", "peer = \"bytes\"\nfactor = 0.5"), Outcome::NotMet(_)));
        assert!(matches!(goal("share", "at_most = 6"), Outcome::Met(_)));
        assert!(matches!(goal("share", "at_least = 7"), Outcome::NotMet(_)));
        assert!(matches!(goal("else", "at_most = 6"), Outcome::NotMeasured(_)));
        let pnet = goal("share", "peer = \"pnet\"\nfactor = 1.0");
        assert_eq!(pnet, Outcome::NotMeasured("no `pnet` in `share`".into()));
    }
}
