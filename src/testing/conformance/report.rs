//! What came of a conformance run.

use std::fmt;

/// One law that a protocol must keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Check {
    /// A stack can be built with it, and `info` says the same every time.
    Build,
    /// No input, however malformed, makes it panic. Looked at in every case.
    NoPanic,
    /// received + made == sent + consumed + merged + dropped + held. Looked at in every case.
    Balance,
    /// Every reason for dropping is declared. Looked at in every case.
    Reasons,
    /// The pool is full again when the session is gone. Looked at in every case.
    PoolFull,
    /// It comes to rest when nothing more comes in. Looked at in every case.
    Rest,
    /// It never holds more than it may, and says what it holds. Looked at in every case, and
    /// with long hostile input.
    Held,
    /// What one side sends the other side gets.
    RoundTrip,
    /// It adds no more bytes to a message than it declared.
    Room,
    /// The same bytes cut differently give the same result.
    Cut,
    /// A stream that arrives in other portions, or packets that arrive in one batch, give the same
    /// result.
    Chunks,
    /// Input that ends at any byte does no harm.
    Truncation,
    /// A flipped bit does no harm.
    BitFlips,
    /// Every byte it sends was written: no old contents of memory show through.
    OldBytes,
    /// Two sessions do not influence one another.
    Sessions,
    /// It sends nothing of its own accord beyond its credit.
    Credit,
    /// A pool that is empty at the n-th allocation, for every n, costs packets that are counted
    /// and nothing else.
    EmptyPool,
    /// No timer is left after the end.
    Timers,
}

impl Check {
    /// All of them.
    pub const ALL: [Check; 18] = [
        Check::Build,
        Check::NoPanic,
        Check::Balance,
        Check::Reasons,
        Check::PoolFull,
        Check::Rest,
        Check::Held,
        Check::RoundTrip,
        Check::Room,
        Check::Cut,
        Check::Chunks,
        Check::Truncation,
        Check::BitFlips,
        Check::OldBytes,
        Check::Sessions,
        Check::Credit,
        Check::EmptyPool,
        Check::Timers,
    ];

    /// What is looked at in every case rather than in cases of its own.
    pub(super) const ALWAYS: [Check; 6] = [
        Check::Build,
        Check::NoPanic,
        Check::Balance,
        Check::Reasons,
        Check::PoolFull,
        Check::Rest,
    ];
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Check::Build => "build",
            Check::NoPanic => "no panic",
            Check::Balance => "balance",
            Check::Reasons => "reasons",
            Check::PoolFull => "pool full",
            Check::Rest => "rest",
            Check::Held => "held",
            Check::RoundTrip => "round trip",
            Check::Room => "room",
            Check::Cut => "cut",
            Check::Chunks => "chunks",
            Check::Truncation => "truncation",
            Check::BitFlips => "bit flips",
            Check::OldBytes => "old bytes",
            Check::Sessions => "sessions",
            Check::Credit => "credit",
            Check::EmptyPool => "empty pool",
            Check::Timers => "timers",
        })
    }
}

/// A law that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The law.
    pub check: Check,
    /// What was being done.
    pub scenario: String,
    /// What was found, with the numbers.
    pub detail: String,
}

impl Failure {
    pub(super) fn new(check: Check, detail: impl Into<String>) -> Self {
        Self { check, scenario: String::new(), detail: detail.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.check, self.detail, self.scenario)
    }
}

/// How one check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// So many cases, all well.
    Passed {
        /// Sessions that were run for it.
        cases: u64,
    },
    /// It does not apply to this protocol.
    Skipped {
        /// Why.
        why: &'static str,
    },
    /// It ended at the first failure, which may be of a law that is looked at in every case.
    Failed(Failure),
}

/// How a protocol fared. `Display` prints a table, a check a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub(super) name: String,
    pub(super) verdicts: Vec<(Check, Verdict)>,
}

impl Report {
    /// The protocol's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How each check ended.
    pub fn verdicts(&self) -> &[(Check, Verdict)] {
        &self.verdicts
    }

    /// How this check ended.
    pub fn verdict(&self, check: Check) -> Option<&Verdict> {
        self.verdicts.iter().find(|(its, _)| *its == check).map(|(_, verdict)| verdict)
    }

    /// The failures, without repetition.
    pub fn failures(&self) -> Vec<&Failure> {
        let mut failures: Vec<&Failure> = Vec::new();
        for (_, verdict) in &self.verdicts {
            if let Verdict::Failed(failure) = verdict
                && !failures.contains(&failure)
            {
                failures.push(failure);
            }
        }
        failures
    }

    /// Whether this law was found broken.
    pub fn failed(&self, check: Check) -> bool {
        self.failures().iter().any(|failure| failure.check == check)
    }

    /// Whether no law was found broken.
    pub fn passed(&self) -> bool {
        self.failures().is_empty()
    }

    /// Sessions that were run in all.
    pub fn cases(&self) -> u64 {
        match self.verdict(Check::Build) {
            Some(Verdict::Passed { cases }) => *cases,
            _ => 0,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "conformance of `{}`", self.name)?;
        for (check, verdict) in &self.verdicts {
            match verdict {
                Verdict::Passed { cases } => writeln!(f, "  {check:<11} passed, {cases} cases")?,
                Verdict::Skipped { why } => writeln!(f, "  {check:<11} skipped: {why}")?,
                Verdict::Failed(failure) => writeln!(f, "  {check:<11} FAILED: {failure}")?,
            }
        }
        Ok(())
    }
}
