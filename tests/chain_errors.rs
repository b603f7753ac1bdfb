//! `Err` means unchanged: every operation, on every kind of chain, with a pool drained to every
//! number of free buffers; and hostile numbers.

mod common;

use std::sync::Arc;

use common::{
    Built, Drained, STRIPPED, Shape, Snapshot, bytes, free, is_empty_pool, level, modest,
    ops::{Op, Out, plain},
    pattern, pool, roomy,
};
use mbuf::{Address, Batch, Chain, Class, Error, Pool};

/// Which buffers of a pool are counted out, one more each time; all others are there.
#[derive(Debug, Clone, Copy)]
enum Scarce {
    Small,
    Clusters,
    Both,
}

impl Scarce {
    const ALL: [Scarce; 3] = [Scarce::Small, Scarce::Clusters, Scarce::Both];

    fn leave(self, pool: &Pool, n: usize) -> Drained {
        match self {
            Scarce::Small => Drained::leave(pool, n, 99),
            Scarce::Clusters => Drained::leave(pool, free(pool, Class::Small).min(40), n),
            Scarce::Both => Drained::leave(pool, n, n),
        }
    }
}

/// Every operation, with 0, 1, 2, ... buffers until it is done, on every kind of chain.
#[test]
fn a_refusal_for_want_of_buffers_leaves_everything_as_it_was() {
    let counts = [100, 16, 5, 4, 4];
    let (home, foreign) = (pool("home", counts, false), pool("foreign", counts, false));
    // One segment, one byte a segment, small pieces; longer than a small mbuf; large pieces.
    let bytewise: Vec<usize> = (1..=12).collect();
    let cases: [(usize, &[usize]); 5] = [
        (12, &[12]),
        (12, &bytewise),
        (12, &[1, 4, 5, 9, 12]),
        (300, &[90, 100, 101, 190, 280, 300]),
        (1600, &[100, 800, 1600]),
    ];
    let (mut refused, mut granted) = (0_usize, 0_usize);
    let mut never_refused = Op::NAMES.to_vec();
    for (len, ends) in cases {
        let original = pattern(len, len);
        for shape in Shape::ALL {
            if ends.windows(2).any(|pair| pair[1] - pair[0] > 100) && !shape.holds_long_pieces() {
                continue;
            }
            for op in Op::hungry(len) {
                for (scarce, dry) in
                    Scarce::ALL.into_iter().flat_map(|s| [(s, &home), (s, &foreign)])
                {
                    for n in 0.. {
                        let at = format!("{op:?} on {shape:?} {ends:?}, {scarce:?} {n} of {dry:?}");
                        let mut case = Case::new(&home, &foreign, shape, &original, ends, &op);
                        let drained = scarce.leave(dry, n);
                        let done = case.try_it(&op, &at);
                        drop(drained);
                        if done {
                            granted += 1;
                            break;
                        }
                        refused += 1;
                        never_refused.retain(|never| *never != op.name());
                        case.again(&op, n, &at);
                        assert!(n < 64, "{at}: never granted");
                    }
                }
                assert_eq!((level(&home), level(&foreign)), ([0; 5], [0; 5]), "{op:?} {shape:?}");
            }
        }
    }
    assert!(refused > 1000 && granted > 1000, "{refused} refused, {granted} granted");
    let free_of_buffers = [
        "TrimFront",
        "TrimBack",
        "Truncate",
        "Adj",
        "Peek",
        "Concat",
        "ConcatCompact",
        "Advance",
        "Checksum",
        "IoSlices",
        "Read",
        "Seek",
        "Hexdump",
    ];
    assert_eq!(never_refused, free_of_buffers);
}

/// One operation on one chain, which may be refused.
struct Case<'a> {
    pools: [&'a Pool; 2],
    shape: Shape,
    built: Built,
    other: Option<Chain>,
    /// What the chain should be afterwards, and what the operation should answer.
    model: Vec<u8>,
    expected: Option<Out<Vec<u8>>>,
}

impl<'a> Case<'a> {
    fn new(
        home: &'a Pool,
        foreign: &'a Pool,
        shape: Shape,
        original: &[u8],
        ends: &[usize],
        op: &Op,
    ) -> Self {
        let mut built = shape.build(home, foreign, original, ends);
        built.chain.meta_mut().set_source(Address::Mac([9; 6]));
        let other = op.takes_other().then(|| {
            let mut other = home.chain_from(&pattern(60, 70)).unwrap();
            other.concat(foreign.chain_from(&pattern(61, 3)).unwrap()).unwrap();
            other.meta_mut().set_source(Address::Mac([8; 6]));
            other
        });
        let mut model = original.to_vec();
        let given = other.as_ref().map(bytes).unwrap_or_default();
        let expected = Some(op.model(&mut model, &given).expect("nothing but buffers is wanting"));
        Self { pools: [home, foreign], shape, built, other, model, expected }
    }

    /// Whether it was done, as it should be; if not, everything is as it was.
    fn try_it(&mut self, op: &Op, at: &str) -> bool {
        let before = Snapshot::of(&self.built.chain, &self.pools);
        let other_before = self.other.as_ref().map(|other| Snapshot::of(other, &self.pools));
        match op.apply(&mut self.built.chain, &mut self.other) {
            Ok(out) => {
                assert_eq!(Some(plain(&out)), self.expected, "{at}");
                assert_eq!(bytes(&self.built.chain), self.model, "{at}");
                self.built.check_keepers();
                true
            }
            Err(error) => {
                assert!(is_empty_pool(&error), "{at}: {error:?}");
                assert_eq!(Snapshot::of(&self.built.chain, &self.pools), before, "{at}");
                let other_after = self.other.as_ref().map(|other| Snapshot::of(other, &self.pools));
                assert_eq!(other_after, other_before, "{at}: the other chain comes back");
                self.built.check_keepers();
                false
            }
        }
    }

    /// With buffers again, the same chain does as if nothing had been.
    fn again(mut self, op: &Op, n: usize, at: &str) {
        if self.shape == Shape::EmptyHead && n.is_multiple_of(2) {
            self.built.chain.restore(2).unwrap_or_else(|gone| panic!("{at}: {gone}"));
            assert_eq!(bytes(&self.built.chain)[..2], STRIPPED, "{at}");
            return;
        }
        assert!(self.try_it(op, at), "{at}, again");
    }
}

#[test]
fn a_pool_refuses_without_taking_anything() {
    let pool = modest("pool");
    let bytes_of = |len: usize| pattern(7, len);
    for (small, clusters) in (0..=6).map(|n| (n, 9)).chain((0..=3).map(|n| (6, n))).chain([(0, 0)])
    {
        let drained = Drained::leave(&pool, small, clusters);
        let before = level(&pool);
        let mut refused = 0;
        let mut try_it = |what: &str, result: Result<Chain, Error>, len: usize| {
            match result {
                Ok(chain) => assert_eq!(bytes(&chain).len(), len, "{what}"),
                Err(error) => {
                    assert!(is_empty_pool(&error), "{what}: {error:?}");
                    refused += 1;
                }
            }
            assert_eq!(level(&pool), before, "{what} with {small} + {clusters}");
        };
        try_it("chain", pool.chain(), 0);
        try_it("chain_with_headroom", pool.chain_with_headroom(1000), 0);
        for class in Class::ALL {
            try_it("chain_in", pool.chain_in(class, 16), 0);
        }
        for len in [0, 1, 100, 500, 3000, 10_000, 60_000, 200_000, 1 << 20] {
            try_it("chain_from", pool.chain_from(&bytes_of(len)), len);
            try_it("chain_zeroed", pool.chain_zeroed(len), len);
        }
        assert!(refused >= 2, "1 MiB was never there");

        let mut batch = Batch::new();
        match pool.alloc_batch(5, &mut batch) {
            Ok(()) => assert!(batch.len() == 5 && small >= 5),
            Err(error) => {
                assert!(is_empty_pool(&error) && small < 5 && batch.is_empty(), "{error:?}");
                assert_eq!(level(&pool), before);
            }
        }
        drop(batch);

        let owner: Arc<[u8]> = bytes_of(9).into();
        match pool.attach(Arc::clone(&owner), ..) {
            Ok(chain) => assert_eq!((bytes(&chain), small > 0), (owner.to_vec(), true)),
            Err(rejected) => {
                assert!(is_empty_pool(&rejected.error) && small == 0, "{:?}", rejected.error);
                assert_eq!(rejected.value, owner, "the owner comes back");
                assert_eq!(Arc::strong_count(&owner), 2);
            }
        }
        assert_eq!(Arc::strong_count(&owner), 1);
        assert_eq!(level(&pool), before);
        drop(drained);
        assert_eq!(level(&pool), [0; 5]);
    }
}

#[test]
fn a_receiver_refuses_as_the_pool_does() {
    let pool = modest("pool");
    let receiver = pool.receiver();
    let mut chain = pool.chain_from(b"kept").unwrap();
    let before = Snapshot::of(&chain, &[&pool]);
    let drained = Drained::leave(&pool, 0, 0);
    let during = level(&pool);
    assert!(is_empty_pool(&receiver.chain().unwrap_err()));
    assert!(is_empty_pool(&receiver.chain_in(Class::K4, 16).unwrap_err()));
    assert!(is_empty_pool(&chain.reserve_from(&receiver, Class::K16, 60_000).unwrap_err()));
    assert_eq!(level(&pool), during);
    drop(drained);
    assert_eq!(Snapshot::of(&chain, &[&pool]), before);
    assert_eq!(chain.reserve_from(&receiver, Class::K4, 9000).unwrap().len(), 9000);
    assert_eq!(Snapshot::of(&chain, &[&pool]).clone(), before, "reserved, and not used");
}

#[test]
fn hostile_numbers_are_errors_and_change_nothing() {
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    let huge = [
        usize::MAX,
        usize::MAX - 1,
        usize::MAX - 5,
        isize::MAX as usize,
        isize::MAX as usize + 1,
        u32::MAX as usize,
        u32::MAX as usize - 3,
        u32::MAX as usize + 1,
    ];
    let model = pattern(3, 6);
    for shape in Shape::ALL {
        let mut built = shape.build(&home, &foreign, &model, &[2, 3, 6]);
        let pools = [&home, &foreign];
        let before = Snapshot::of(&built.chain, &pools);
        for n in huge {
            let ops = [
                Op::Prepend(n),
                Op::Append(n),
                Op::Writer(n, vec![1].into()),
                Op::Reserve(n),
                Op::Commit(n, vec![1].into()),
                Op::CommitFrom(Class::K2, n, vec![1].into()),
                Op::TrimFront(n),
                Op::TrimBack(n),
                Op::Truncate(n),
                Op::Advance(n),
                Op::Pullup(n),
                Op::Pulldown(n, 1),
                Op::Pulldown(1, n),
                Op::Pulldown(n, n),
                Op::Copyup(n, 0),
                Op::Copyup(1, n),
                Op::Copyup(n, n),
                Op::Peek(n, 1),
                Op::Peek(n, 0),
                Op::CopyBack(n, vec![1, 2, 3, 4, 5, 6, 7].into()),
                Op::SplitOff(n),
                Op::ShareRange(n, 1),
                Op::ShareRange(1, n),
                Op::ShareRange(n, n),
                Op::ShareRange(n, 0),
                Op::MakeMut(0, n),
                Op::MakeMut(n, n),
                Op::MakeMut(n, 0),
                Op::Checksum(0, n),
                Op::Checksum(n, n),
                Op::Checksum(n, 0),
            ];
            for op in ops {
                let mut copy = model.clone();
                let refusal = op.model(&mut copy, &[]).expect_err("the model refuses it");
                let error = op.apply(&mut built.chain, &mut None).expect_err("a huge number");
                let at = format!("{op:?} on {shape:?}: {error:?}");
                assert!(refusal.fits(&error, model.len()), "{at}, should be {refusal:?}");
                assert_eq!(Snapshot::of(&built.chain, &pools), before, "{at}");
            }
            let mut batch = Batch::new();
            assert!(is_empty_pool(&built.chain.share_n(n, &mut batch).unwrap_err()));
            assert!(batch.is_empty());
            for op in [Op::Seek(n, n), Op::Seek(n, 0), Op::Seek(0, n), Op::Seek(1, n)] {
                let out = op.apply(&mut built.chain, &mut None).expect("any place will do");
                assert_eq!(Ok(plain(&out)), op.model(&mut model.clone(), &[]), "{op:?}");
            }
            assert_eq!(Snapshot::of(&built.chain, &pools), before);
            assert!(
                matches!(built.chain.restore(n), Err(Error::Gone { wanted, .. }) if wanted == n)
            );
            let given = home.chain_from(b"given").unwrap();
            let rejected = built.chain.insert(n, given).expect_err("a huge offset");
            assert!(matches!(rejected.error, Error::TooShort { .. }), "{:?}", rejected.error);
            assert_eq!(bytes(&rejected.value), b"given");
            drop(rejected);
            assert_eq!(Snapshot::of(&built.chain, &pools), before);

            for result in [home.chain_zeroed(n), home.chain_with_headroom(n)] {
                let error = result.expect_err("a huge number");
                assert!(
                    matches!(error, Error::TooLong { .. } | Error::NoBuffers { .. }),
                    "{error:?}"
                );
            }
            let mut batch = Batch::new();
            let error = home.alloc_batch(n, &mut batch).expect_err("a huge number");
            assert!(is_empty_pool(&error) || matches!(error, Error::TooLong { .. }), "{error:?}");
            assert!(batch.is_empty());
            // More segments than there are is no demand at all.
            built.chain.collapse(n).unwrap();
            assert_eq!(Snapshot::of(&built.chain, &pools), before);
        }
        assert!(matches!(built.chain.collapse(0), Err(Error::Invalid(_))));
        for (adj, left) in [(isize::MIN, 0), (isize::MAX, 0), (-1, 5), (1, 5), (0, 6)] {
            let mut built = shape.build(&home, &foreign, &model, &[2, 3, 6]);
            assert_eq!(built.chain.adj(adj), 6 - left, "adj({adj}) on {shape:?}");
            assert_eq!(bytes(&built.chain).len(), left);
        }
    }
    assert_eq!((level(&home), level(&foreign)), ([0; 5], [0; 5]));
}

#[test]
fn a_pullup_of_contiguous_bytes_copies_nothing() {
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    for shape in Shape::ALL {
        let mut built = shape.build(&home, &foreign, &pattern(6, 60), &[40, 60]);
        let before = Snapshot::of(&built.chain, &[&home, &foreign]);
        let Ok(mut slices) = built.chain.slices() else { continue };
        let address = slices.next().unwrap().as_ptr();
        for n in [0, 1, 39, 40] {
            let view = built.chain.pullup(n).unwrap();
            assert!(n == 0 || view.as_ptr() == address, "{shape:?}: {n} bytes moved");
        }
        assert_eq!(Snapshot::of(&built.chain, &[&home, &foreign]), before, "{shape:?}");
    }
    // The switch that finds headers kept over a pullup.
    let moving = pool("moving", [64, 8, 0, 0, 0], true);
    let mut chain = moving.chain_from(&pattern(6, 60)).unwrap();
    let address = chain.slices().unwrap().next().unwrap().as_ptr();
    assert_ne!(chain.pullup(10).unwrap().as_ptr(), address, "the switch is on");
    assert_eq!(bytes(&chain), pattern(6, 60));
}

#[test]
fn an_overflowing_total_gives_the_chain_back() {
    // 4 GiB of bytes in one owner of 1 GiB, shared: lengths are 32 bits and their sums checked.
    let pool = roomy("pool");
    let zeroes = vec![0_u8; 1 << 30];
    let mut chain = pool.attach(zeroes, ..).map_err(|r| r.error).unwrap();
    let mut gib = chain.share().unwrap();
    for _ in 0..2 {
        let more = gib.share().unwrap();
        chain.concat(more).unwrap();
    }
    assert_eq!(chain.len(), 3 << 30);
    let almost = gib.share_range(0, (1 << 30) - 1).unwrap();
    chain.concat(almost).unwrap();
    assert_eq!(chain.len(), u32::MAX as usize, "the longest chain there is");
    chain.check().unwrap();

    let one = pool.chain_from(b"1").unwrap();
    let rejected = chain.concat(one).expect_err("2^32 bytes");
    assert!(matches!(rejected.error, Error::TooLong { .. }), "{:?}", rejected.error);
    assert_eq!(bytes(&rejected.value), b"1");
    let rejected = chain.concat_compact(rejected.value).expect_err("2^32 bytes");
    assert!(matches!(rejected.error, Error::TooLong { .. }), "{:?}", rejected.error);
    let rejected = chain.insert(5, rejected.value).expect_err("2^32 bytes");
    assert!(matches!(rejected.error, Error::TooLong { .. }), "{:?}", rejected.error);
    assert_eq!(bytes(&rejected.value), b"1");
    drop(rejected);
    let before = level(&pool);
    for error in [
        chain.append(1).unwrap_err(),
        chain.extend_from_slice(b"1").unwrap_err(),
        chain.prepend(1).map(drop).unwrap_err(),
        chain.prepend_slice(b"1").unwrap_err(),
        chain.reserve_uninit(1).map(drop).unwrap_err(),
        chain.copy_back(u32::MAX as usize, b"1").unwrap_err(),
    ] {
        assert!(matches!(error, Error::TooLong { .. }), "{error:?}");
    }
    assert_eq!(level(&pool), before);
    assert_eq!(chain.len(), u32::MAX as usize);
    chain.check().unwrap();
    // Short of the longest by a byte, one byte fits.
    chain.trim_back(1).unwrap();
    chain.extend_from_slice(b"1").unwrap();
    assert_eq!(chain.len(), u32::MAX as usize);
    drop((chain, gib));
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn a_discarded_chain_is_freed() {
    let pool = roomy("pool");
    pool.chain_from(&pattern(1, 5000)).unwrap().discard("unwanted");
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn bytes_that_do_not_fit_are_too_long() {
    let pool = roomy("pool");
    let mut chain = pool.chain_zeroed(3 * 65_536).unwrap();
    let before = Snapshot::of(&chain, &[&pool]);
    for error in [
        chain.collapse(2).unwrap_err(),
        chain.pullup(65_537).map(drop).unwrap_err(),
        chain.pulldown(9, 65_537).map(drop).unwrap_err(),
        chain.copyup(65_530, 7).map(drop).unwrap_err(),
        chain.prepend(65_537).map(drop).unwrap_err(),
        chain.prepend_slice(&vec![0; 65_537]).unwrap_err(),
    ] {
        assert!(matches!(error, Error::TooLong { wanted, max } if wanted > max), "{error:?}");
    }
    assert_eq!(Snapshot::of(&chain, &[&pool]), before);
    chain.collapse(4).unwrap();
    assert_eq!(chain.pullup(65_536).unwrap().len(), 65_536);
    assert_eq!(chain.copyup(65_530, 6).unwrap().len(), 65_530);
    assert_eq!(chain.prepend(65_536).unwrap().len(), 65_536);
    assert_eq!(chain.len(), 4 * 65_536);
    chain.check().unwrap();
}
