//! Any sequence of operations on several chains of two pools, each beside what it means for a plain
//! `Vec<u8>` (the table of the crate's own tests).
//!
//! After each step every chain holds its invariants, its bytes and its metadata. One of the pools is
//! tiny and moves bytes at every pullup: there `NoBuffers` is an honest answer. Whatever is refused
//! has changed nothing, and at the end nothing is in use.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;

use arbitrary::Arbitrary;
use common::{
    LARGEST, STRIPPED, Shape, Snapshot, bytes, cuts, is_empty_pool,
    ops::{Op, Out, Refusal, plain},
    owners::{Unreadable, Writable},
    pattern, pool, roomy,
};
use libfuzzer_sys::fuzz_target;
use mbuf::{Chain, Class, Error, Pool, Queue, Rejected, testing::assert_all_free};

/// Chains at once. What comes on top of them is dropped.
const MOST_CHAINS: usize = 8;
/// Bytes in a chain above which little more is put into it.
const MOST_BYTES: usize = 100_000;
/// The tiny pool's buffers by class: some of everything, no clusters at all, one class of them.
const TINY: [[usize; 5]; 3] = [[10, 2, 2, 1, 1], [24, 0, 0, 0, 0], [14, 0, 4, 0, 0]];
/// The operations that [`Args::op`] chooses from.
const OPS: u8 = 37;

#[derive(Debug, Arbitrary)]
struct Input {
    tiny: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Make {
        how: How,
        tiny: bool,
        size: Size,
        seed: u8,
    },
    Drop {
        which: u8,
    },
    Discard {
        which: u8,
    },
    /// Stripped bytes are asked back.
    Restore {
        which: u8,
        n: u8,
    },
    /// A copy goes through a queue, and is taken from it by so many bytes at a time.
    Queue {
        which: u8,
        bytes: u16,
    },
    /// An operation of the table; some take another chain.
    Operate {
        which: u8,
        other: u8,
        what: u8,
        args: Args,
    },
}

/// All ways to make a chain.
#[derive(Debug, Arbitrary)]
enum How {
    Empty,
    Headroom,
    In(u8),
    Zeroed,
    Copied,
    External,
    Writable,
    Opaque,
    /// One of the shapes of the crate's tests, cut into such pieces; in the roomy pool.
    Shaped(u8, Vec<u8>),
}

/// A number of bytes.
#[derive(Debug, Arbitrary)]
enum Size {
    Few(u8),
    /// About as many as a buffer holds.
    Buffer(u8, i8),
}

impl Size {
    fn bytes(&self) -> usize {
        match *self {
            Size::Few(n) => n.into(),
            Size::Buffer(class, more) => {
                self::class(class).data_len().saturating_add_signed(more.into())
            }
        }
    }
}

fn class(n: u8) -> Class {
    Class::ALL[usize::from(n) % Class::ALL.len()]
}

/// A place in a chain.
#[derive(Debug, Arbitrary)]
enum Place {
    /// In 65,536ths of its length.
    Anywhere(u16),
    /// Where a segment ends.
    Edge(u8),
}

impl Place {
    /// As an offset, in a chain whose segments end there.
    fn offset(&self, ends: &[usize]) -> usize {
        let len = ends.last().copied().unwrap_or(0);
        match *self {
            Place::Anywhere(fraction) => usize::from(fraction) * (len + 1) / 65_536,
            Place::Edge(n) => usize::from(n).checked_rem(ends.len()).map_or(0, |n| ends[n]),
        }
    }
}

/// What an operation is told. The chain that it meets gives the numbers their meaning.
#[derive(Debug, Arbitrary)]
struct Args {
    size: Size,
    from: Place,
    to: Place,
    past: u8,
    seed: u8,
}

impl Args {
    /// The operation of that number, on a chain whose segments end at `ends`.
    fn op(&self, what: u8, ends: &[usize]) -> Op {
        let len = ends.last().copied().unwrap_or(0);
        let (from, to) = (self.from.offset(ends), self.to.offset(ends));
        // Now and then just past the end, or past everything.
        let past = match self.past {
            0..224 => 0,
            224..248 => 1,
            _ => usize::MAX - from.max(to),
        };
        let (start, end) = (from.min(to), from.max(to));
        let (at, far) = (from + past, end + past);
        let few = match self.from {
            Place::Anywhere(_) => (self.size.bytes() % 40).min(len),
            Place::Edge(_) => from,
        } + usize::from(past == 1);
        let size = match self.size.bytes() {
            size if len + size > MOST_BYTES => size % 8,
            size => size,
        };
        let wanted = size.saturating_add(if past > 1 { past } else { 0 });
        let data = |len| Into::into(pattern(self.seed.into(), len));
        match what % OPS {
            0 => Op::Prepend(wanted),
            1 => Op::PrependSlice(data(size)),
            2 => Op::Push(u32::from(self.seed) * 0x0101_0101),
            3 => Op::Append(wanted),
            4 => Op::Extend(data(size)),
            5 => Op::Write(data(size)),
            6 => Op::Writer(wanted, data(size / 2 + 3)),
            7 => Op::Reserve(wanted),
            8 => Op::TrimFront(few),
            9 => Op::TrimBack(few),
            10 => Op::Truncate(at),
            11 => Op::Adj(if self.seed.is_multiple_of(2) { few as isize } else { far as isize }),
            12 => Op::Adj((few as isize).wrapping_neg()),
            13 => Op::Pullup(at),
            14 => Op::Pulldown(start, far - start),
            15 => Op::Copyup(few, wanted),
            16 => Op::Header,
            17 => Op::HeaderMut([self.seed; 3]),
            18 => Op::Strip,
            // What the table makes room for, too, cannot be as much as that.
            19 => Op::Peek(far, few),
            20 | 21 => Op::CopyBack(at, data(size / 4)),
            22 => Op::SplitOff(at),
            23 => Op::Concat,
            24 => Op::ConcatCompact,
            25 => Op::Insert(at),
            26 => Op::Share,
            27 => Op::ShareRange(start, far - start),
            28 => Op::Dup,
            29 => Op::Unshare,
            30 => Op::MakeMut(start, far),
            31 => Op::ForEachMut(start, far),
            32 => Op::Defrag,
            // Segments hold at most the largest cluster.
            33 if past > 0 => Op::Collapse(0),
            33 => Op::Collapse(len.div_ceil(LARGEST).max(self.size.bytes() % 5)),
            34 if self.seed.is_multiple_of(2) => Op::Compact,
            34 => Op::CompactToHold,
            35 if self.seed.is_multiple_of(2) => Op::Advance(few),
            35 => Op::Checksum(start, far),
            _ if self.seed.is_multiple_of(2) => Op::IoSlices,
            _ => Op::Read(from),
        }
    }
}

/// A chain, and what it should be.
#[derive(Debug)]
struct Entry {
    chain: Chain,
    model: Vec<u8>,
    /// In the metadata: whose copy it is.
    tag: u16,
    /// What was stripped from the front and may come back.
    stripped: Vec<u8>,
}

struct World {
    roomy: Pool,
    tiny: Pool,
    entries: Vec<Entry>,
    tags: u16,
}

impl World {
    fn new(tiny: u8) -> Self {
        let tiny = pool("tiny", TINY[usize::from(tiny) % TINY.len()], true);
        Self { roomy: roomy("roomy"), tiny, entries: Vec::new(), tags: 0 }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Make { how, tiny, size, seed } => self.make(how, *tiny, size.bytes(), *seed),
            Step::Drop { which } => drop(self.pick(*which)),
            Step::Discard { which } => {
                if let Some(entry) = self.pick(*which) {
                    entry.chain.discard("a test");
                }
            }
            Step::Restore { which, n } => {
                let Some(mut entry) = self.pick(*which) else { return };
                restore(&mut entry, (*n).into());
                self.entries.push(entry);
            }
            Step::Queue { which, bytes } => {
                let Some(mut entry) = self.pick(*which) else { return };
                through_a_queue(&mut entry, usize::from(*bytes) + 1);
                self.entries.push(entry);
            }
            Step::Operate { which, other, what, args } => {
                let Some(mut entry) = self.pick(*which) else { return };
                let op = args.op(*what, &ends(&entry.chain));
                if op.takes_other() {
                    let Some(other) = self.pick(*other) else {
                        return self.entries.push(entry);
                    };
                    if other.model.len() + entry.model.len() > MOST_BYTES {
                        return self.entries.extend([entry, other]);
                    }
                    self.operate(&op, &mut entry, Some(other));
                } else {
                    self.operate(&op, &mut entry, None);
                }
                self.entries.push(entry);
            }
        }
    }

    fn pick(&mut self, which: u8) -> Option<Entry> {
        let which = usize::from(which).checked_rem(self.entries.len())?;
        Some(self.entries.swap_remove(which))
    }

    fn enter(&mut self, mut chain: Chain, model: Vec<u8>, stripped: &[u8]) {
        self.tags += 1;
        chain.meta_mut().set_segment_size(self.tags);
        let tag = self.tags;
        self.entries.push(Entry { chain, model, tag, stripped: stripped.to_vec() });
    }

    fn make(&mut self, how: &How, tiny: bool, size: usize, seed: u8) {
        if let How::Shaped(shape, pieces) = how {
            return self.make_shaped(Shape::ALL[usize::from(*shape) % Shape::ALL.len()], pieces);
        }
        let pool = if tiny { &self.tiny } else { &self.roomy };
        let model = pattern(seed.into(), size);
        let owned = model.clone();
        let before = self.levels();
        let (made, model) = match how {
            How::Empty => (pool.chain(), vec![]),
            How::Headroom => (pool.chain_with_headroom(size.min(60_000)), vec![]),
            How::In(class) => (pool.chain_in(self::class(*class), size), vec![]),
            How::Zeroed => (pool.chain_zeroed(size), vec![0; size]),
            How::Copied => (pool.chain_from(&model), model),
            How::External => {
                let made = pool.attach(owned, ..).map_err(|rejected| {
                    assert_eq!(rejected.value, model, "the owner comes back");
                    rejected.error
                });
                (made, model)
            }
            How::Writable => (pool.attach_mut(Writable(owned), ..).map_err(error), model),
            How::Opaque => (pool.attach_opaque(Unreadable::new(&owned), ..).map_err(error), model),
            How::Shaped(..) => unreachable!("made above"),
        };
        match made {
            Ok(chain) => self.enter(chain, model, &[]),
            Err(error) => {
                assert!(is_empty_pool(&error) && tiny, "{how:?} of {size}: {error:?}");
                assert_eq!(self.levels(), before, "{how:?} of {size}");
            }
        }
    }

    fn make_shaped(&mut self, shape: Shape, pieces: &[u8]) {
        // Pieces that fit into a small mbuf.
        let ends = pieces.iter().take(12).scan(0, |end, piece| {
            *end += usize::from(*piece) % 100 + 1;
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        let model = pattern(pieces.len(), ends.last().copied().unwrap_or(0));
        let built = shape.build(&self.roomy, &self.roomy, &model, &ends);
        let stripped = if shape == Shape::EmptyHead { &STRIPPED[..] } else { &[] };
        self.enter(built.chain, model, stripped);
        for (keeper, model) in built.keepers {
            self.enter(keeper, model, &[]);
        }
    }

    fn operate(&mut self, op: &Op, entry: &mut Entry, other: Option<Entry>) {
        let (mut given, (other_model, other_tag, other_stripped)) = match other {
            Some(Entry { chain, model, tag, stripped }) => (Some(chain), (model, tag, stripped)),
            None => Default::default(),
        };
        let pools = [&self.roomy, &self.tiny];
        let before = Snapshot::of(&entry.chain, &pools);
        let (denied, old) = (self.denied(), entry.model.clone());
        let expected = op.model(&mut entry.model, &other_model);
        let result = op.apply(&mut entry.chain, &mut given);
        let at = format!("{op:?} on {} bytes: {:?}", old.len(), entry.chain);
        match (expected, result) {
            (Ok(expected), Ok(out)) => {
                assert!(plain(&out) == expected, "{at}");
                assert!(given.is_none(), "{at}");
                remember(entry, op, &old, &other_model);
                if let (Out::Chain(chain), Out::Chain(model)) = (out, expected) {
                    assert!(chain.is_writable() || !matches!(op, Op::Dup), "{at}");
                    // A sharer may restore what was stripped; tails and copies may not.
                    let stripped =
                        if *op == Op::Share { entry.stripped.clone() } else { Vec::new() };
                    self.entries.push(Entry { chain, model, tag: entry.tag, stripped });
                }
            }
            (Err(refusal), Err(error)) => {
                assert!(refusal.fits(&error, old.len()), "{at}: {error:?}, not {refusal:?}");
                assert_eq!(Snapshot::of(&entry.chain, &pools), before, "{at}");
            }
            (Ok(_), Err(error)) => {
                let Error::NoBuffers { class } = error else { panic!("{at}: {error:?}") };
                // Of a class that a pool was made without none is asked for.
                let none = self.tiny.stats().class(class).total == 0;
                assert!(none || self.denied() > denied, "{at}: {error:?}, but there was one");
                assert_eq!(Snapshot::of(&entry.chain, &pools), before, "{at}");
                entry.model = old;
            }
            // More than any cluster holds, which an owner's memory has in one piece already.
            (Err(Refusal::Long), Ok(Out::Bytes(view)))
                if matches!(op, Op::Pullup(_) | Op::Pulldown(..)) =>
            {
                let off = if let Op::Pulldown(off, _) = op { *off } else { 0 };
                assert!(view.len() > LARGEST && view == old[off..off + view.len()], "{at}");
            }
            (expected, result) => panic!("{at}: {result:?}, should be {expected:?}"),
        }
        if let Some(chain) = given {
            // Given back by an operation that failed.
            let (model, tag, stripped) = (other_model, other_tag, other_stripped);
            self.entries.push(Entry { chain, model, tag, stripped });
        }
    }

    fn check(&self) {
        for entry in &self.entries {
            assert!(bytes(&entry.chain) == entry.model, "{entry:?}");
            assert_eq!(entry.chain.meta().segment_size(), entry.tag, "{entry:?}");
        }
        for pool in [&self.roomy, &self.tiny] {
            for row in pool.stats().classes {
                assert_eq!(row.in_use + row.cached + row.free, row.total, "{}", pool.stats());
            }
        }
    }

    fn levels(&self) -> [[usize; 5]; 2] {
        [&self.roomy, &self.tiny].map(common::level)
    }

    /// Requests that found no buffer.
    fn denied(&self) -> u64 {
        let rows = [&self.roomy, &self.tiny].map(|pool| pool.stats().classes);
        rows.iter().flatten().map(|row| row.denied).sum()
    }
}

/// Where the segments of a chain end.
fn ends(chain: &Chain) -> Vec<usize> {
    let mut end = 0;
    let ends = cuts(chain).into_iter().map(|len| {
        end += len;
        end
    });
    ends.collect()
}

fn error<T>(rejected: Rejected<T>) -> Error {
    rejected.error
}

/// Gives back stripped bytes: the right ones, or none.
fn restore(entry: &mut Entry, n: usize) {
    let before = Snapshot::of(&entry.chain, &[]);
    match entry.chain.restore(n) {
        Ok(()) => {
            assert!(n <= entry.stripped.len(), "{n} bytes restored of {entry:?}");
            let back = entry.stripped.split_off(entry.stripped.len() - n);
            entry.model.splice(..0, back);
        }
        Err(error) => {
            let gone = matches!(error, Error::Gone { wanted, available }
                if wanted == n && available < n);
            assert!(gone, "{error:?}");
            assert_eq!(Snapshot::of(&entry.chain, &[]), before);
        }
    }
}

/// As a stream sink takes it, by short writes.
fn through_a_queue(entry: &mut Entry, piece: usize) {
    let Ok(copy) = entry.chain.share() else { return };
    let mut queue = Queue::new(1, copy.len());
    queue.push(copy).expect("room for one");
    let mut taken = 0;
    while taken < entry.model.len() {
        let some = piece.max(entry.model.len() / 16).min(entry.model.len() - taken);
        queue.advance(some).expect("so much is in it");
        taken += some;
        let left = queue.front().map(bytes).unwrap_or_default();
        assert!(left == entry.model[taken..], "{taken} bytes taken of {entry:?}");
    }
}

/// What an operation that was done means for the bytes that were stripped before.
fn remember(entry: &mut Entry, op: &Op, old: &[u8], other: &[u8]) {
    let put_before = match op {
        Op::TrimFront(_) | Op::Strip => {
            entry.stripped.extend(&old[..old.len() - entry.model.len()]);
            false
        }
        Op::Adj(n) if *n > 0 => {
            entry.stripped.extend(&old[..old.len() - entry.model.len()]);
            false
        }
        Op::Prepend(n) | Op::Advance(n) => *n > 0,
        Op::PrependSlice(slice) => !slice.is_empty(),
        Op::Push(_) => true,
        // Into an empty chain it is a concat.
        Op::Insert(0) => !other.is_empty() && !old.is_empty(),
        _ => false,
    };
    if put_before {
        entry.stripped.clear();
    }
}

/// Operations that the state machine of the tests (`tests/chain_model`) has and this does not.
const LEFT_TO_THE_MODEL: [&str; 5] = ["Commit", "CommitFrom", "ShareN", "Seek", "Hexdump"];

/// That every other operation of the table is among those that are chosen from.
fn check_the_choice() {
    let mut chosen = BTreeSet::new();
    for (what, seed) in (0..OPS).flat_map(|what| [(what, 0), (what, 1)]) {
        let (from, to) = (Place::Anywhere(0), Place::Anywhere(0));
        let args = Args { size: Size::Few(2), from, to, past: 0, seed };
        chosen.insert(args.op(what, &[1]).name());
    }
    chosen.extend(LEFT_TO_THE_MODEL);
    assert_eq!(chosen, Op::around(1).iter().map(Op::name).collect());
}

fuzz_target!(init: check_the_choice(), |input: Input| {
    let mut world = World::new(input.tiny);
    for step in &input.steps {
        world.step(step);
        world.entries.truncate(MOST_CHAINS);
        world.check();
    }
    world.entries.clear();
    assert_all_free(&world.roomy);
    assert_all_free(&world.tiny);
});
