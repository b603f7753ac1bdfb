//! Random sequences of operations on several chains of two pools, against plain `Vec<u8>`s.
//!
//! After each step every chain is checked: its invariants, its bytes, its metadata. One of the
//! pools is small and moves bytes at every pullup: there `NoBuffers` is an honest answer, and must
//! leave everything as it was. At the end nothing is in use.

mod common;

use std::collections::BTreeMap;

use common::{
    LARGEST, Snapshot, bytes, is_empty_pool, level,
    ops::{Op, Out, plain},
    owners::{Unreadable, Writable},
    pattern, pool, roomy,
};
use mbuf::{Chain, Class, Error, Pool, Queue};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{FileFailurePersistence, TestRunner},
};

/// Chains at once.
const MOST_CHAINS: usize = 8;
/// Bytes in a chain above which nothing more is put into it.
const MOST_BYTES: usize = 200_000;

/// A step, with arguments that are given their meaning by the chain that it meets.
#[derive(Debug, Clone)]
struct Step {
    what: u8,
    which: u8,
    other: u8,
    /// A number of bytes.
    size: usize,
    /// Places in the chain, in 65,536ths.
    from: u16,
    to: u16,
    seed: u8,
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        12 => 0_usize..40,
        6 => 40_usize..300,
        1 => 120_usize..136,
        1 => 2040_usize..2060,
        1 => 4000_usize..4200,
        1 => 16_380_usize..16_390,
        1 => 65_500_usize..65_600,
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        (any::<u8>(), any::<u8>(), any::<u8>(), sizes(), any::<u16>(), any::<u16>(), any::<u8>())
            .prop_map(|(what, which, other, size, from, to, seed)| Step {
                what,
                which,
                other,
                size,
                from,
                to,
                seed,
            });
    prop::collection::vec(step, 1..60)
}

/// A chain, and what it should be.
#[derive(Debug)]
struct Entry {
    chain: Chain,
    model: Vec<u8>,
    /// In the metadata: whose copy it is.
    tag: u16,
    /// Bytes that were stripped from the front and may still come back; where they do, it is
    /// with these values.
    stripped: Vec<u8>,
    /// How many of them must come back.
    fresh: usize,
}

struct World {
    roomy: Pool,
    tight: Pool,
    entries: Vec<Entry>,
    tags: u16,
    /// How often the tight pool was empty.
    refused: usize,
    /// The operations that were done, in order, by name.
    done: Vec<String>,
    /// What was asked for and of which chain, in order: printed when a test fails.
    log: Vec<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after these steps:\n{}", self.log.join("\n"));
        }
    }
}

impl World {
    /// The tight pool is one of three: some of everything, no clusters at all, one class of them.
    fn new(kind: u8) -> Self {
        let counts = [[10, 2, 2, 1, 1], [24, 0, 0, 0, 0], [14, 0, 4, 0, 0]];
        Self {
            roomy: roomy("roomy"),
            tight: pool("tight", counts[usize::from(kind) % 3], true),
            entries: Vec::new(),
            tags: 0,
            refused: 0,
            done: Vec::new(),
            log: Vec::new(),
        }
    }

    fn enter(&mut self, mut chain: Chain, model: Vec<u8>) {
        self.tags += 1;
        self.log.push(format!("{} is {chain:?}", self.tags));
        chain.meta_mut().set_segment_size(self.tags);
        let tag = self.tags;
        self.entries.push(Entry { chain, model, tag, stripped: Vec::new(), fresh: 0 });
    }

    /// A chain made in one of all ways.
    fn make(&mut self, step: &Step) {
        let pool =
            if step.seed.is_multiple_of(3) { self.roomy.clone() } else { self.tight.clone() };
        let model = pattern(usize::from(step.seed), step.size);
        let before = (level(&self.roomy), level(&self.tight));
        let made = match step.from % 9 {
            0 => pool.chain().map(|chain| (chain, vec![])),
            1 => pool.chain_with_headroom(step.size.min(60_000)).map(|chain| (chain, vec![])),
            2 => pool.chain_in(Class::ALL[step.size % 5], step.size).map(|chain| (chain, vec![])),
            3 => pool.chain_zeroed(step.size).map(|chain| (chain, vec![0; step.size])),
            4 | 5 => pool.chain_from(&model).map(|chain| (chain, model)),
            6 => match pool.attach(model.clone(), ..) {
                Ok(chain) => Ok((chain, model)),
                Err(rejected) => {
                    assert_eq!(rejected.value, model, "the owner comes back");
                    Err(rejected.error)
                }
            },
            7 => match pool.attach_mut(Writable(model.clone()), ..) {
                Ok(chain) => Ok((chain, model)),
                Err(rejected) => Err(rejected.error),
            },
            _ => match pool.attach_opaque(Unreadable::new(&[&[0], &model[..]].concat()), 1..) {
                Ok(chain) => Ok((chain, model)),
                Err(rejected) => Err(rejected.error),
            },
        };
        match made {
            Ok((chain, model)) => self.enter(chain, model),
            Err(error) => {
                assert!(is_empty_pool(&error) && pool.same(&self.tight), "{step:?}: {error:?}");
                assert_eq!((level(&self.roomy), level(&self.tight)), before, "{step:?}");
                self.refused += 1;
            }
        }
    }

    fn step(&mut self, step: &Step) {
        if self.entries.is_empty() || step.what < 24 && self.entries.len() < MOST_CHAINS {
            return self.make(step);
        }
        let which = usize::from(step.which) % self.entries.len();
        let mut entry = self.entries.swap_remove(which);
        if step.what < 52 {
            self.log.push(format!("{} on {}", step.what, entry.tag));
        }
        match step.what {
            24..30 => return drop(entry),
            30..32 => return entry.chain.discard("a test"),
            32..48 => restore(&mut entry, step),
            48..52 => through_a_queue(&mut entry, step),
            _ => self.operate(&mut entry, step),
        }
        self.entries.push(entry);
    }

    /// One of the operations that the chain and the model both know.
    fn operate(&mut self, entry: &mut Entry, step: &Step) {
        let op = resolve(step, entry.model.len());
        let mut given = None;
        if op.takes_other() {
            if self.entries.is_empty() {
                return;
            }
            let other = usize::from(step.other) % self.entries.len();
            if self.entries[other].model.len() + entry.model.len() > MOST_BYTES {
                return;
            }
            given = Some(self.entries.swap_remove(other));
        }
        let (mut other, rest) = match given {
            Some(Entry { chain, model, tag, stripped, fresh }) => {
                (Some(chain), (model, tag, stripped, fresh))
            }
            None => (None, Default::default()),
        };
        let (other_model, other_tag, other_stripped, other_fresh) = rest;

        self.log.push(format!("{op:?} {other_tag} on {}: {:?}", entry.tag, entry.chain));
        let pools = [&self.roomy, &self.tight];
        let before = Snapshot::of(&entry.chain, &pools);
        let len = entry.model.len();
        let old_front = entry.model.clone();
        let writable = entry.chain.is_writable();
        let expected = op.model(&mut entry.model, &other_model);
        let result = op.apply(&mut entry.chain, &mut other);
        let at = format!("{op:?} on {:?}", entry.chain);
        match (expected, result) {
            (Ok(expected), Ok(out)) => {
                assert_eq!(plain(&out), expected, "{at}");
                assert!(other.is_none(), "{at}");
                remember(entry, &op, &old_front, &other_model);
                self.done.push(op.name());
                if let Out::Chain(chain) = out {
                    if matches!(op, Op::Dup) || writable && matches!(op, Op::SplitOff(_)) {
                        assert!(chain.is_writable(), "{at}");
                    }
                    let Out::Chain(model) = expected else { unreachable!() };
                    // A sharer may restore what was stripped; tails and copies may not.
                    let stripped = match op {
                        Op::Share => entry.stripped.clone(),
                        _ => Vec::new(),
                    };
                    self.entries.push(Entry { chain, model, tag: entry.tag, stripped, fresh: 0 });
                }
            }
            (Err(refusal), Err(error)) => {
                assert!(refusal.fits(&error, len), "{at}: {error:?}, should be {refusal:?}");
                assert_eq!(Snapshot::of(&entry.chain, &pools), before, "{at}");
            }
            (Ok(_), Err(error)) => {
                assert!(is_empty_pool(&error), "{at}: {error:?}");
                assert_eq!(denied(&self.roomy), 0, "{at}: the roomy pool is never empty");
                assert_eq!(Snapshot::of(&entry.chain, &pools), before, "{at}");
                entry.model = old_front;
                self.refused += 1;
            }
            (expected, result) => panic!("{at}: {result:?}, should be {expected:?}"),
        }
        if let Some(chain) = other {
            assert_eq!(bytes(&chain), other_model, "{at}: given back");
            self.entries.push(Entry {
                chain,
                model: other_model,
                tag: other_tag,
                stripped: other_stripped,
                fresh: other_fresh,
            });
        }
    }

    fn check(&self) {
        for entry in &self.entries {
            assert!(bytes(&entry.chain) == entry.model, "{:?}, should be {entry:?}", entry.chain);
            assert_eq!(entry.chain.meta().segment_size(), entry.tag, "{:?}", entry.chain);
        }
        for pool in [&self.roomy, &self.tight] {
            let stats = pool.stats();
            for class in Class::ALL {
                let row = stats.class(class);
                assert_eq!(row.in_use + row.cached + row.free, row.total, "{class}: {stats}");
            }
        }
    }
}

/// Gives back stripped bytes: the right ones or none; and those just stripped always.
fn restore(entry: &mut Entry, step: &Step) {
    let n = step.size % (entry.stripped.len() + 2);
    let before = Snapshot::of(&entry.chain, &[]);
    match entry.chain.restore(n) {
        Ok(()) => {
            assert!(n <= entry.stripped.len(), "{n} bytes restored of {entry:?}");
            let back = entry.stripped.split_off(entry.stripped.len() - n);
            entry.model.splice(..0, back);
            entry.fresh = entry.fresh.saturating_sub(n);
        }
        Err(error) => {
            assert!(
                matches!(error, Error::Gone { wanted, available }
                if wanted == n && available < n),
                "{error:?}"
            );
            assert!(n > entry.fresh, "{error:?}, but {entry:?}");
            assert_eq!(Snapshot::of(&entry.chain, &[]), before);
        }
    }
}

/// Out of a queue by short writes, as a stream sink takes it; what was left comes back.
fn through_a_queue(entry: &mut Entry, step: &Step) {
    let n = place(step.from, entry.model.len());
    entry.chain.advance(n).unwrap();
    entry.model.drain(..n);
    if n > 0 {
        entry.stripped.clear();
    }
    entry.fresh = 0;
    let copy = entry.chain.share();
    let Ok(copy) = copy else { return };
    let mut queue = Queue::new(1, copy.len());
    queue.push(copy).unwrap();
    let mut taken = 0;
    while taken < entry.model.len() {
        let some = (step.size + 1).min(entry.model.len() - taken);
        queue.advance(some).unwrap();
        taken += some;
        let left = queue.front().map(bytes).unwrap_or_default();
        assert!(left == entry.model[taken..], "{taken} bytes taken");
    }
}

/// What an operation that was done means for the bytes that were stripped.
fn remember(entry: &mut Entry, op: &Op, old: &[u8], other: &[u8]) {
    match op {
        Op::TrimFront(_) | Op::Strip => {
            let n = old.len() - entry.model.len();
            entry.stripped.extend(&old[..n]);
            entry.fresh += n;
        }
        Op::Adj(n) => {
            let gone = if *n > 0 { old.len() - entry.model.len() } else { 0 };
            entry.stripped.extend(&old[..gone]);
            entry.fresh = 0;
        }
        Op::Prepend(n) | Op::Advance(n) => {
            if *n > 0 {
                entry.stripped.clear();
            }
            entry.fresh = 0;
        }
        Op::PrependSlice(slice) => {
            if !slice.is_empty() {
                entry.stripped.clear();
            }
            entry.fresh = 0;
        }
        Op::Push(_) => {
            entry.stripped.clear();
            entry.fresh = 0;
        }
        // Into an empty chain it is a concat.
        Op::Insert(0) if !other.is_empty() && !old.is_empty() => {
            entry.stripped.clear();
            entry.fresh = 0;
        }
        // These move no byte.
        Op::Peek(..) | Op::Checksum(..) | Op::IoSlices | Op::Read(_) | Op::Reserve(_) => {}
        Op::TrimBack(_) | Op::Truncate(_) => {}
        Op::Append(_) | Op::Extend(_) | Op::Write(_) | Op::Writer(..) => {}
        _ => entry.fresh = 0,
    }
}

/// Requests that found no buffer.
fn denied(pool: &Pool) -> u64 {
    let stats = pool.stats();
    Class::ALL.iter().map(|class| stats.class(*class).denied).sum()
}

/// A place in a chain, and now and then just past it.
fn place(fraction: u16, len: usize) -> usize {
    usize::from(fraction) * (len + 1) / 65_536
}

/// The step as an operation on a chain of `len` bytes.
fn resolve(step: &Step, len: usize) -> Op {
    let past = usize::from(step.seed < 8);
    let (from, to) = (place(step.from, len), place(step.to, len));
    let (start, end) = (from.min(to), from.max(to) + past);
    let at = from + past;
    // Small cuts are the usual ones.
    let few = if step.to.is_multiple_of(3) { at } else { (step.size % 40).min(len) + past };
    let size = if len + step.size > MOST_BYTES { step.size % 8 } else { step.size };
    let data = || pattern(usize::from(step.seed) + 1, size);
    match step.what % 40 {
        0 => Op::Prepend(size),
        1 => Op::PrependSlice(data().into()),
        2 => Op::Push(u32::from(step.seed) * 0x0101_0101),
        3 => Op::Append(size),
        4 => Op::Extend(data().into()),
        5 => Op::Write(data().into()),
        6 => Op::Writer(size, pattern(3, size / 2 + 3).into()),
        7 => Op::Reserve(size),
        8 | 38 => Op::TrimFront(few),
        9 => Op::TrimBack(few),
        10 => Op::Truncate(at),
        11 if step.to.is_multiple_of(2) => Op::Adj(few as isize),
        11 => Op::Adj(-(few as isize)),
        12 => Op::Pullup(at),
        13 => Op::Pulldown(start, end - start),
        14 => Op::Copyup(few, step.size % 300),
        15 => Op::Header,
        16 => Op::HeaderMut([step.seed; 3]),
        17 | 39 => Op::Strip,
        18 => Op::Peek(start, end - start),
        19 => Op::CopyBack(start, pattern(usize::from(step.seed), size / 4).into()),
        20 => Op::CopyBack(len + step.size % 50, vec![step.seed].into()),
        21 | 22 => Op::SplitOff(at),
        23 => Op::Concat,
        24 => Op::ConcatCompact,
        25 | 26 => Op::Insert(at),
        27 => Op::Share,
        28 => Op::ShareRange(start, end - start),
        29 => Op::Dup,
        30 => Op::Unshare,
        31 if step.seed.is_multiple_of(2) => Op::MakeMut(start, end),
        31 => Op::ForEachMut(start, end),
        32 => Op::Defrag,
        33 if step.size.is_multiple_of(9) => Op::Collapse(0),
        33 => Op::Collapse(len.div_ceil(LARGEST).max(step.size % 5)),
        34 => {
            if step.seed.is_multiple_of(2) {
                Op::Compact
            } else {
                Op::CompactToHold
            }
        }
        35 => Op::Advance(few),
        36 => Op::Checksum(start, end),
        _ => {
            if step.seed.is_multiple_of(2) {
                Op::IoSlices
            } else {
                Op::Read(at)
            }
        }
    }
}

fn run(steps: &[Step]) -> World {
    let mut world = World::new(steps[0].which);
    for step in steps {
        world.step(step);
        world.check();
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn chains_do_as_vecs_do(steps in steps()) {
        let mut world = run(&steps);
        world.entries.clear();
        prop_assert_eq!(level(&world.roomy), [0; 5]);
        prop_assert_eq!(level(&world.tight), [0; 5]);
        prop_assert_eq!(denied(&world.roomy), 0);
    }
}

/// That the random steps reach what they are meant to reach.
#[test]
fn the_steps_reach_every_operation_and_an_empty_pool() {
    let mut runner = TestRunner::deterministic();
    let (mut refused, mut done) = (0, BTreeMap::<String, usize>::new());
    for _ in 0..200 {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let world = run(&steps);
        refused += world.refused;
        for name in &world.done {
            *done.entry(name.clone()).or_default() += 1;
        }
    }
    assert!(refused > 100, "{refused} refusals");
    assert_eq!(done.len(), 38, "{done:?}");
    assert!(done.values().all(|times| *times >= 5), "{done:?}");
}
