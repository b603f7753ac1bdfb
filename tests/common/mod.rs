//! What the tests of chains share: pools, chains cut in every way, a pool drained to a number of
//! buffers, and all operations beside what they mean for a plain `Vec<u8>` ([`ops`]).

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

pub mod ops;
pub mod owners;

use std::fmt;

use mbuf::{Chain, Class, Error, Meta, Pool};
use owners::{Unreadable, Writable};
use smallvec::SmallVec;

/// The largest cluster.
pub const LARGEST: usize = 65_536;

/// A pool in which nothing in these tests ever finds no buffer unless it was drained.
pub fn roomy(name: &str) -> Pool {
    pool(name, [4096, 128, 64, 64, 64], false)
}

/// A pool with few enough buffers of every class that it can be drained at every step.
pub fn modest(name: &str) -> Pool {
    pool(name, [48, 6, 5, 4, 4], false)
}

/// A pool with a number of buffers of each class. `moving`: bytes move at every pullup.
pub fn pool(name: &str, counts: [usize; 5], moving: bool) -> Pool {
    let builder = Pool::builder().name(name).headroom(16).move_on_pullup(moving);
    let builder =
        Class::ALL.into_iter().zip(counts).fold(builder, |b, (class, n)| b.count(class, n));
    builder.build().expect("a pool of a few MiB")
}

/// Buffers in use, by class.
pub fn level(pool: &Pool) -> [usize; 5] {
    let stats = pool.stats();
    Class::ALL.map(|class| stats.class(class).in_use)
}

/// Bytes that differ from their neighbours, and by `seed` from other chains.
pub fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (seed.wrapping_mul(41) ^ i.wrapping_mul(7) ^ (i >> 8)) as u8 | 1).collect()
}

/// The bytes of a chain, and on the way: every invariant, and that no empty segment shows.
#[track_caller]
pub fn bytes(chain: &Chain) -> Vec<u8> {
    if let Err(broken) = chain.check() {
        panic!("broken invariant: {broken}\n{chain:?}");
    }
    let cuts = cuts(chain);
    assert!(!cuts.contains(&0), "an empty segment shows: {chain:?}");
    assert_eq!(cuts.len(), chain.segments(), "{chain:?}");
    assert_eq!(cuts.iter().sum::<usize>(), chain.len(), "{chain:?}");
    assert_eq!(chain.is_empty(), cuts.is_empty());
    let bytes = chain.to_vec().expect("what is opaque here can be read");
    if let Ok(slices) = chain.slices() {
        assert!(slices.eq(cuts.iter().scan(0, |at, len| {
            *at += len;
            Some(&bytes[*at - len..*at])
        })));
    }
    bytes
}

/// The lengths of the segments, opaque ones too.
pub fn cuts(chain: &Chain) -> Vec<usize> {
    let mut iovecs = SmallVec::<[_; 16]>::new();
    assert_eq!(chain.iovecs(&mut iovecs, usize::MAX), chain.len());
    iovecs.iter().map(|iovec| iovec.iov_len).collect()
}

/// All that a refused operation must leave as it was. (Room is not part of it: a chain that was the
/// last of several sharers has its room back as soon as anything looks.)
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    bytes: Vec<u8>,
    cuts: Vec<usize>,
    meta: Meta,
    levels: Vec<[usize; 5]>,
}

impl Snapshot {
    #[track_caller]
    pub fn of(chain: &Chain, pools: &[&Pool]) -> Self {
        Self {
            bytes: bytes(chain),
            cuts: cuts(chain),
            meta: *chain.meta(),
            levels: pools.iter().map(|pool| level(pool)).collect(),
        }
    }
}

/// How the storage of a chain's segments comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Small mbufs with room.
    Small,
    /// Clusters with room.
    Cluster,
    /// External storage, read-only.
    External,
    /// External storage that may be written.
    Writable,
    /// External storage that only system calls may read: whoever touches it, crashes.
    Opaque,
    /// Clusters that another chain sees too.
    Shared,
    /// One cluster, split at every cut and joined again.
    Split,
    /// Put together from the back: each segment was prepended, into an mbuf of its own.
    Prepended,
    /// Small mbufs of another pool.
    Foreign,
    /// An emptied head that can give back the two bytes [`STRIPPED`], then small mbufs.
    EmptyHead,
    /// One after the other of the above, but opaque ones.
    Mixed,
    /// Small and opaque by turns.
    MixedOpaque,
}

/// What was stripped from the front of [`Shape::EmptyHead`].
pub const STRIPPED: [u8; 2] = [0xaa, 0xbb];

impl Shape {
    pub const ALL: [Shape; 12] = [
        Shape::Small,
        Shape::Cluster,
        Shape::External,
        Shape::Writable,
        Shape::Opaque,
        Shape::Shared,
        Shape::Split,
        Shape::Prepended,
        Shape::Foreign,
        Shape::EmptyHead,
        Shape::Mixed,
        Shape::MixedOpaque,
    ];

    /// Those whose bytes can be lent.
    pub const READABLE: [Shape; 10] = [
        Shape::Small,
        Shape::Cluster,
        Shape::External,
        Shape::Writable,
        Shape::Shared,
        Shape::Split,
        Shape::Prepended,
        Shape::Foreign,
        Shape::EmptyHead,
        Shape::Mixed,
    ];

    /// Whether a segment may hold more bytes than a small mbuf does.
    pub fn holds_long_pieces(self) -> bool {
        matches!(
            self,
            Shape::Cluster | Shape::External | Shape::Writable | Shape::Opaque | Shape::Shared
        )
    }

    /// A chain of `bytes`, cut into segments that end at `ends` (ascending, the last of them the
    /// length; none for no bytes).
    #[track_caller]
    pub fn build(self, home: &Pool, foreign: &Pool, bytes: &[u8], ends: &[usize]) -> Built {
        let mut keepers = Vec::new();
        let mut chain = match self {
            Shape::EmptyHead => {
                let mut head = home.chain_from(&STRIPPED).unwrap();
                head.trim_front(STRIPPED.len()).unwrap();
                head
            }
            Shape::Split => {
                let mut chain = home.chain_in(Class::K2, 16).unwrap();
                chain.extend_from_slice(bytes).unwrap();
                let mut tails: Vec<Chain> = Vec::new();
                for &end in ends.iter().rev().skip(1) {
                    tails.push(chain.split_off(end).unwrap());
                }
                for tail in tails.into_iter().rev() {
                    chain.concat(tail).unwrap();
                }
                assert_eq!(self::bytes(&chain), bytes);
                return Built { chain, keepers };
            }
            Shape::Prepended => {
                // An mbuf whose front has no room, so that the first prepend takes another.
                let mut chain = home.chain_with_headroom(0).unwrap();
                for (i, &end) in ends.iter().enumerate().rev() {
                    let start = if i == 0 { 0 } else { ends[i - 1] };
                    let mut piece = home.chain_with_headroom(0).unwrap();
                    piece.prepend_slice(&bytes[start..end]).unwrap();
                    piece.concat(chain).unwrap();
                    chain = piece;
                }
                assert_eq!(self::bytes(&chain), bytes);
                assert_eq!(cuts(&chain).len(), ends.len(), "{chain:?}");
                return Built { chain, keepers };
            }
            _ => home.chain().unwrap(),
        };
        let mut start = 0;
        for (i, &end) in ends.iter().enumerate() {
            let part = &bytes[start..end];
            let kinds =
                [Shape::Small, Shape::Shared, Shape::External, Shape::Foreign, Shape::Cluster];
            let kind = match self {
                Shape::Mixed => kinds[(i + end) % kinds.len()],
                Shape::MixedOpaque if i % 2 == 1 => Shape::Opaque,
                Shape::MixedOpaque => Shape::Small,
                other => other,
            };
            let padded = [&[0xee], part, &[0xee]].concat();
            let range = 1..1 + part.len();
            let mut piece = match kind {
                Shape::Cluster | Shape::Shared => home.chain_in(Class::K2, 16).unwrap(),
                Shape::Foreign => foreign.chain().unwrap(),
                Shape::External => home.attach(padded, range).map_err(|r| r.error).unwrap(),
                Shape::Writable => {
                    home.attach_mut(Writable(padded), range).map_err(|r| r.error).unwrap()
                }
                Shape::Opaque => {
                    let owner = Unreadable::new(&padded);
                    home.attach_opaque(owner, range).map_err(|r| r.error).unwrap()
                }
                _ => home.chain().unwrap(),
            };
            if piece.is_empty() {
                piece.extend_from_slice(part).unwrap();
            }
            if kind == Shape::Shared {
                keepers.push((piece.share().unwrap(), part.to_vec()));
            }
            // So that the head is of the kind that is wanted.
            if i == 0 && self != Shape::EmptyHead {
                chain = piece;
            } else {
                chain.concat(piece).unwrap();
            }
            start = end;
        }
        assert_eq!(self::bytes(&chain), bytes);
        assert_eq!(cuts(&chain).len(), ends.len(), "{self:?}: {chain:?}");
        Built { chain, keepers }
    }
}

/// A chain, and the chains that share its bytes with what they must go on showing.
#[derive(Debug)]
pub struct Built {
    pub chain: Chain,
    pub keepers: Vec<(Chain, Vec<u8>)>,
}

impl Built {
    #[track_caller]
    pub fn check_keepers(&self) {
        for (keeper, expected) in &self.keepers {
            assert_eq!(&bytes(keeper), expected, "a sharer's bytes changed");
        }
    }
}

/// All ways to cut `len` bytes into segments, as ascending ends.
pub fn segmentations(len: usize) -> Vec<Vec<usize>> {
    if len == 0 {
        return vec![vec![]];
    }
    (0..1_usize << (len - 1))
        .map(|cuts| (1..=len).filter(|&end| end == len || cuts >> (end - 1) & 1 == 1).collect())
        .collect()
}

/// A pool that was drained to exactly a number of free buffers; dropped, it gives back what it
/// holds.
pub struct Drained {
    held: Vec<(Class, Chain)>,
}

impl Drained {
    /// Leaves `small` free small mbufs, and `clusters` free ones of each size of cluster (or as
    /// many as there were, where that is less).
    #[track_caller]
    pub fn leave(pool: &Pool, small: usize, clusters: usize) -> Self {
        let mut held = Vec::new();
        for class in Class::ALL.into_iter().rev() {
            for _ in 0..free(pool, class) {
                held.push((class, pool.chain_in(class, 0).expect("a free buffer and an mbuf")));
            }
        }
        let mut drained = Self { held };
        for class in &Class::ALL[1..] {
            (0..clusters).for_each(|_| drained.release(*class));
        }
        // Each cluster came free with the mbuf that pointed at it.
        let now = free(pool, Class::Small);
        for _ in small..now {
            drained.held.push((Class::Small, pool.chain_in(Class::Small, 0).expect("an mbuf")));
        }
        (now..small).for_each(|_| drained.release(Class::Small));
        assert_eq!(free(pool, Class::Small), small);
        drained
    }

    fn release(&mut self, class: Class) {
        if let Some(at) = self.held.iter().rposition(|(held, _)| *held == class) {
            self.held.swap_remove(at);
        }
    }
}

impl fmt::Debug for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Drained({} held)", self.held.len())
    }
}

/// Free buffers of a class.
pub fn free(pool: &Pool, class: Class) -> usize {
    let stats = pool.stats().class(class);
    stats.total - stats.in_use
}

/// Whether an error is that the pool was empty.
pub fn is_empty_pool(error: &Error) -> bool {
    matches!(error, Error::NoBuffers { .. })
}
