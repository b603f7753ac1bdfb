//! The run: samples, pools, and the frame around each case.

use std::{
    any::Any,
    cell::Cell,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    chain::Chain,
    error::Result,
    pool::Pool,
    stack::{Edge, LayerInfo},
    testing::{Rng, level, plain_pool, pool, pools::little_pool},
};

use super::{
    Conformance, Report, Verdict, faults, limits, parsing,
    report::{Check, Failure},
    rig::{Edges, HIGH_WATER, Rig, Seen, joined},
};

/// Positions that are tried one by one; of longer samples the rest is tried by chance.
const EXHAUSTIVE: usize = 400;

/// Samples of each kind that every position is tried on.
const SAMPLES: usize = 6;

/// What a check answers.
pub(super) type Checked = Result<(), Failure>;

pub(super) struct Suite<'s, 'f> {
    pub spec: &'s Conformance<'f>,
    pub info: LayerInfo,
    pub edges: Edges,
    /// Moves the bytes at every pullup.
    pub pool: Pool,
    pub other: Pool,
    /// Quickly drained and quickly dirtied.
    pub little: [Pool; 2],
    pub messages: Vec<Message>,
    /// What comes from the wire: given, and made by sending the messages.
    pub wire: Vec<Vec<u8>>,
    /// What also comes from the wire.
    pub noise: Vec<Vec<u8>>,
    cases: Cell<u64>,
}

/// A message from above.
pub(super) struct Message {
    pub bytes: Vec<u8>,
    /// It was given as a sample: it must arrive.
    pub given: bool,
}

impl<'s, 'f> Suite<'s, 'f> {
    pub fn run(spec: &'s Conformance<'f>) -> Report {
        let mut report = Report { name: spec.name.clone(), verdicts: Vec::new() };
        let mut suite = match catch_unwind(AssertUnwindSafe(|| Suite::new(spec))) {
            Ok(Ok(suite)) => suite,
            Ok(Err(failure)) => {
                report.verdicts.push((failure.check, Verdict::Failed(failure)));
                return report;
            }
            Err(panic) => {
                let failure = panicked(&*panic, "making the protocol".into());
                report.verdicts.push((failure.check, Verdict::Failed(failure)));
                return report;
            }
        };
        if let Err(failure) = suite.make_wire_samples() {
            report.verdicts.push((failure.check, Verdict::Failed(failure)));
        }
        for (check, run) in CHECKS {
            let verdict = match suite.applies(check) {
                Err(why) => Verdict::Skipped { why },
                Ok(()) => {
                    let before = suite.cases.get();
                    match run(&suite) {
                        Ok(()) => Verdict::Passed { cases: suite.cases.get() - before },
                        Err(failure) => Verdict::Failed(failure),
                    }
                }
            };
            report.verdicts.push((check, verdict));
        }
        suite.add_what_is_always_looked_at(&mut report);
        report
    }

    fn new(spec: &'s Conformance<'f>) -> Result<Self, Failure> {
        let info = (spec.factory)().info();
        let wire = match (spec.edge, info.below()) {
            (Some(edge), _) => edge,
            (None, Edge::Any) => Edge::Packets,
            (None, edge) => edge,
        };
        let upper = if info.above() == Edge::Any { wire } else { info.above() };
        let again = format!("{:?}", (spec.factory)().info());
        if again != format!("{info:?}") {
            let what = format!("`info` says {again} the second time, {info:?} the first");
            return Err(Failure::new(Check::Build, what));
        }
        let mut rng = Rng::new(spec.seed);
        let given = spec.messages.iter().cloned();
        let mut messages: Vec<Message> =
            given.map(|bytes| Message { bytes, given: true }).collect();
        let mut lens = vec![3, 129, 16, 300, 1, 700, 2, 7, 8, 64, 100, 127, 128, spec.max_message];
        lens.retain(|&len| len <= spec.max_message);
        messages.extend(lens.iter().map(|&n| Message { bytes: rng.bytes(n), given: false }));
        if spec.top {
            messages.clear();
        }
        let little = [little_pool(), little_pool()];
        let cases = Cell::new(0);
        let (pool, other) = (pool(), plain_pool());
        let edges = Edges { wire, upper };
        let mut noise = [300, 5, 64, 1, 20, 1200].map(|len| rng.bytes(len)).to_vec();
        if edges.wire == Edge::Packets {
            noise.insert(0, Vec::new()); // a datagram may be empty; a stream never brings nothing
        }
        let wire = Vec::new();
        Ok(Suite { spec, info, edges, pool, other, little, messages, wire, noise, cases })
    }

    /// What was given first, then what the protocol itself sends.
    fn make_wire_samples(&mut self) -> Checked {
        let mut wire = self.spec.wire.clone();
        let sent = self.case(&[&self.pool], "sending messages to make samples", || {
            let mut rig = self.rig(&self.pool)?;
            rig.open();
            for message in self.messages.iter().filter(|message| message.bytes.len() <= 700) {
                rig.send(self.chain(&message.bytes)?);
            }
            rig.settle();
            Ok(rig.seen())
        });
        if let Ok(seen) = &sent {
            match self.edges.wire {
                Edge::Bytes => {
                    let stream = joined(&seen.wire);
                    let first = seen.wire.first().map(|out| out.bytes.clone());
                    wire.extend(first.filter(|bytes| !bytes.is_empty()));
                    wire.extend((!stream.is_empty()).then_some(stream));
                }
                _ => wire.extend(seen.wire.iter().map(|out| out.bytes.clone())),
            }
        }
        wire.retain(|sample| self.edges.wire == Edge::Packets || !sample.is_empty());
        self.wire = wire;
        sent.map(|_| ())
    }

    fn applies(&self, check: Check) -> Result<(), &'static str> {
        match check {
            Check::RoundTrip | Check::Room if self.spec.top => Err("nothing comes from above"),
            _ => Ok(()),
        }
    }

    fn add_what_is_always_looked_at(&self, report: &mut Report) {
        let cases = self.cases.get();
        let mut rows: Vec<(Check, Verdict)> = Vec::new();
        for check in Check::ALWAYS {
            if report.verdicts.iter().any(|(its, _)| *its == check) {
                continue; // it failed before any check had begun
            }
            let first = report.failures().into_iter().find(|failure| failure.check == check);
            let verdict = first.cloned().map_or(Verdict::Passed { cases }, Verdict::Failed);
            rows.push((check, verdict));
        }
        rows.append(&mut report.verdicts);
        report.verdicts = rows;
    }

    /// A session of the protocol, not opened yet.
    pub fn rig(&self, pool: &Pool) -> Result<Rig, Failure> {
        Rig::new(self.spec, self.edges, pool, HIGH_WATER)
    }

    /// One case: what panics or leaves buffers in use fails, and the failure says in which
    /// scenario that was.
    pub fn case<T>(
        &self,
        pools: &[&Pool],
        scenario: impl Into<String>,
        run: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.cases.set(self.cases.get() + 1);
        let scenario = scenario.into();
        let ended = catch_unwind(AssertUnwindSafe(run));
        let levels: Vec<[usize; 5]> = pools.iter().map(|pool| level(pool)).collect();
        let value = match ended {
            Ok(Ok(value)) => value,
            Ok(Err(failure)) => return Err(Failure { scenario, ..failure }),
            Err(panic) => return Err(panicked(&*panic, scenario)),
        };
        if let Some(level) = levels.iter().find(|level| **level != [0; 5]) {
            let detail = format!("the session is gone, its buffers are not (by class {level:?})");
            return Err(Failure { check: Check::PoolFull, scenario, detail });
        }
        Ok(value)
    }

    /// A message or packet in as few segments as can be.
    pub fn chain(&self, bytes: &[u8]) -> Result<Chain, Failure> {
        made(self.pool.chain_from(bytes))
    }

    /// What becomes of this input from the wire, given in one piece.
    pub fn seen_of(&self, sample: &[u8]) -> Result<Seen, Failure> {
        self.case(&[&self.pool], format!("wire {}", brief(sample)), || {
            let mut rig = self.rig(&self.pool)?;
            rig.open();
            rig.receive(self.chain(sample)?);
            rig.settle();
            rig.verify()?;
            Ok(rig.seen())
        })
    }

    /// The samples from the wire on which every position is tried: those given or made by the
    /// protocol first, and some noise.
    pub fn small_wire(&self) -> impl Iterator<Item = &[u8]> {
        // Where there is nothing better, more noise.
        let noise = SAMPLES.saturating_sub(self.wire.len()).max(2);
        self.wire.iter().take(SAMPLES).chain(self.noise.iter().take(noise)).map(Vec::as_slice)
    }

    /// Everything that may come from the wire.
    pub fn all_wire(&self) -> Vec<&[u8]> {
        self.wire.iter().chain(&self.noise).map(Vec::as_slice).collect()
    }

    /// The messages on which every position is tried.
    pub fn small_messages(&self) -> impl Iterator<Item = &[u8]> {
        let given = self.messages.iter().filter(|message| message.given).take(SAMPLES);
        let made = self.messages.iter().filter(|message| !message.given);
        let made = made.filter(|message| [3, 16, 129, 300].contains(&message.bytes.len()));
        given.chain(made).map(|message| message.bytes.as_slice())
    }

    /// All of 0..n, or, where that is too many, the first and last ones and some between.
    pub fn positions(&self, n: usize) -> Vec<usize> {
        if n <= EXHAUSTIVE {
            return (0..n).collect();
        }
        let mut rng = Rng::new(self.spec.seed ^ n as u64);
        let mut all: Vec<usize> = (0..EXHAUSTIVE / 2).chain(n - EXHAUSTIVE / 4..n).collect();
        all.extend((0..EXHAUSTIVE / 4).map(|_| rng.below(n)));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What each side sends goes to the other, until neither sends anything.
    pub fn exchange(&self, a: &mut Rig, b: &mut Rig) -> Checked {
        for _ in 0..1000 {
            let (from_a, from_b) = (mem::take(&mut a.seen.wire), mem::take(&mut b.seen.wire));
            if from_a.is_empty() && from_b.is_empty() {
                return Ok(());
            }
            for out in from_a {
                b.receive(made(b.pool.chain_from(&out.bytes))?);
            }
            for out in from_b {
                a.receive(made(a.pool.chain_from(&out.bytes))?);
            }
        }
        Err(Failure::new(Check::Rest, "two sides answer one another without end"))
    }
}

type Run = fn(&Suite<'_, '_>) -> Checked;

/// Each with the function that runs it.
const CHECKS: [(Check, Run); 12] = [
    (Check::RoundTrip, parsing::round_trip),
    (Check::Room, parsing::room),
    (Check::Cut, parsing::cut),
    (Check::Chunks, parsing::chunks),
    (Check::Truncation, parsing::truncation),
    (Check::BitFlips, parsing::bit_flips),
    (Check::OldBytes, faults::old_bytes),
    (Check::Sessions, faults::sessions),
    (Check::EmptyPool, faults::empty_pool),
    (Check::Credit, limits::credit),
    (Check::Held, limits::held),
    (Check::Timers, limits::timers),
];

/// A chain for a case; the kit's own pools are large enough unless the protocol hoards.
pub(super) fn made<T>(chain: Result<T>) -> Result<T, Failure> {
    chain.map_err(|error| {
        let what = format!("no buffers are left for input: the protocol keeps them all ({error})");
        Failure::new(Check::Held, what)
    })
}

/// A sample, for people.
pub(super) fn brief(bytes: &[u8]) -> String {
    let shown: String = bytes.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > 12 { ".." } else { "" };
    format!("{shown}{more} ({} bytes)", bytes.len())
}

fn panicked(panic: &(dyn Any + Send), scenario: String) -> Failure {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let detail = format!("panicked: {}", text.unwrap_or_else(|| "(not a text)".into()));
    Failure { check: Check::NoPanic, scenario, detail }
}
