//! Random steps, whose arguments get their meaning from the chains that they meet.

use mbuf::Class;
use proptest::prelude::*;

use crate::common::{LARGEST, ops::Op, pattern};

/// Bytes in a chain above which nothing more is put into it.
pub const MOST_BYTES: usize = 200_000;

/// What is done. Operations are those that a `Vec<u8>` has a meaning for ([`Op`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Make,
    Drop,
    Discard,
    Restore,
    Queue,
    SetKind,
    Lend,
    /// One of the operations, by number ([`operation`]).
    Operate(u8),
}

/// A step of the machine.
#[derive(Debug, Clone)]
pub struct Step {
    pub verb: Verb,
    pub which: u8,
    pub other: u8,
    /// A number of bytes.
    pub size: usize,
    /// Places in the chain, in 65,536ths.
    pub from: u16,
    pub to: u16,
    pub seed: u8,
}

/// Steps that make sense where there are no chains, a few, or many.
pub fn steps(chains: usize, most: usize) -> BoxedStrategy<Step> {
    let verb = match chains {
        0 => Just(Verb::Make).boxed(),
        _ => prop_oneof![
            if chains < most { 24 } else { 0 } => Just(Verb::Make),
            5 => Just(Verb::Drop),
            1 => Just(Verb::Discard),
            16 => Just(Verb::Restore),
            4 => Just(Verb::Queue),
            1 => Just(Verb::SetKind),
            2 => Just(Verb::Lend),
            200 => (0..OPERATIONS).prop_map(Verb::Operate),
        ]
        .boxed(),
    };
    (verb, any::<u8>(), any::<u8>(), sizes(), any::<u16>(), any::<u16>(), any::<u8>())
        .prop_map(|(verb, which, other, size, from, to, seed)| Step {
            verb,
            which,
            other,
            size,
            from,
            to,
            seed,
        })
        .boxed()
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

/// A place in a chain, its end included.
pub fn place(fraction: u16, len: usize) -> usize {
    usize::from(fraction) * (len + 1) / 65_536
}

/// Numbers of [`operation`].
const OPERATIONS: u8 = 47;

/// The step's operation on a chain of `len` bytes; some of its arguments lie just past the end.
pub fn operation(number: u8, step: &Step, len: usize) -> Op {
    let past = usize::from(step.seed < 8);
    let (from, to) = (place(step.from, len), place(step.to, len));
    let (start, end) = (from.min(to), from.max(to) + past);
    let at = from + past;
    // Small cuts are the usual ones.
    let few = if step.to.is_multiple_of(3) { at } else { (step.size % 40).min(len) + past };
    let size = if len + step.size > MOST_BYTES { step.size % 8 } else { step.size };
    let data = || pattern(usize::from(step.seed) + 1, size);
    let read = || pattern(3, size / 2 + 3);
    let class = Class::ALL[usize::from(step.seed) % 5];
    match number {
        0 => Op::Prepend(size),
        1 => Op::PrependSlice(data().into()),
        2 => Op::Push(u32::from(step.seed) * 0x0101_0101),
        3 => Op::Append(size),
        4 => Op::Extend(data().into()),
        5 => Op::Write(data().into()),
        6 => Op::Writer(size, read().into()),
        7 => Op::Reserve(size),
        8 => Op::Commit(size, read().into()),
        9 => Op::CommitFrom(class, size, read().into()),
        10 | 11 => Op::TrimFront(few),
        12 => Op::TrimBack(few),
        13 => Op::Truncate(at),
        14 if step.to.is_multiple_of(2) => Op::Adj(few as isize),
        14 => Op::Adj(-(few as isize)),
        15 => Op::Pullup(at),
        16 => Op::Pulldown(start, end - start),
        17 => Op::Copyup(few, step.size % 300),
        18 => Op::Header,
        19 => Op::HeaderMut([step.seed; 3]),
        20 | 21 => Op::Strip,
        22 => Op::Peek(start, end - start),
        23 => Op::CopyBack(start, pattern(usize::from(step.seed), size / 4).into()),
        24 => Op::CopyBack(len + step.size % 50, vec![step.seed].into()),
        25 | 26 => Op::SplitOff(at),
        27 => Op::Concat,
        28 => Op::ConcatCompact,
        29 | 30 => Op::Insert(at),
        31 => Op::Share,
        32 => Op::ShareRange(start, end - start),
        33 => Op::ShareN(usize::from(step.seed) % 4),
        34 => Op::Dup,
        35 => Op::Unshare,
        36 => Op::MakeMut(start, end),
        37 => Op::ForEachMut(start, end),
        38 => Op::Defrag,
        39 if step.size.is_multiple_of(9) => Op::Collapse(0),
        39 => Op::Collapse(len.div_ceil(LARGEST).max(step.size % 5)),
        40 => Op::Compact,
        41 => Op::CompactToHold,
        42 => Op::Advance(few),
        43 => Op::Checksum(start, end),
        44 if step.seed.is_multiple_of(2) => Op::IoSlices,
        44 => Op::Hexdump,
        45 => Op::Read(at),
        46 => Op::Seek(start, few),
        _ => unreachable!("operation {number} of {OPERATIONS}"),
    }
}
