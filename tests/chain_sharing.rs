//! Storage that several hold: shared bytes never show a sharer's writes, owners are released
//! exactly once, and a refused share leaves nothing behind.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use common::{
    Drained, Shape, Snapshot, bytes, cuts, is_empty_pool, level, modest,
    ops::{Op, Out},
    pattern, pool, roomy,
};
use mbuf::{Batch, Chain, Class, Error, Pool};

/// An owner that counts how often it is asked for its bytes and how often it is released, and
/// that would answer with other bytes the second time.
#[derive(Debug)]
struct Owner {
    bytes: Vec<u8>,
    asked: Arc<AtomicUsize>,
    released: Arc<AtomicUsize>,
}

impl Owner {
    fn new(bytes: &[u8]) -> (Self, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let (asked, released) = (Arc::default(), Arc::default());
        let owner = Self {
            bytes: bytes.to_vec(),
            asked: Arc::clone(&asked),
            released: Arc::clone(&released),
        };
        (owner, asked, released)
    }
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        match self.asked.fetch_add(1, SeqCst) {
            0 => &self.bytes,
            _ => b"!",
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.released.fetch_add(1, SeqCst);
    }
}

#[test]
fn external_storage_is_released_exactly_once_by_whoever_lets_go_last() {
    let pool = roomy("pool");
    let original = pattern(2, 1000);
    // In which order the five chains let go: each of the rotations.
    for first in 0..5 {
        let (owner, asked, released) = Owner::new(&original);
        let mut chain = pool.attach(owner, 10..990).map_err(|r| r.error).unwrap();
        assert_eq!(bytes(&chain), original[10..990]);
        assert!(!chain.is_writable());
        let shared = chain.share().unwrap();
        let tail = chain.split_off(400).unwrap();
        let part = chain.share_range(1, 50).unwrap();
        let mut copied = chain.share().unwrap();
        copied.unshare().unwrap();
        copied.copy_back(0, b"private").unwrap();
        assert_eq!(bytes(&chain), original[10..410]);
        let copy = chain.dup().unwrap();
        let mut chains = vec![chain, shared, tail, part, copy];
        chains.rotate_left(first);
        let mut external = 4;
        for chain in chains {
            assert_eq!(released.load(SeqCst), usize::from(external == 0));
            // The copy holds nothing of the owner's: it alone has 400 bytes and may be written.
            external -= usize::from(!chain.is_writable());
            std::thread::spawn(move || drop(chain)).join().unwrap();
        }
        drop(copied);
        assert_eq!((asked.load(SeqCst), released.load(SeqCst)), (1, 1));
    }
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn external_storage_goes_when_its_last_segment_goes() {
    let pool = roomy("pool");
    let (owner, _, released) = Owner::new(&pattern(2, 100));
    let mut chain = pool.chain_from(b"head").unwrap();
    chain.concat(pool.attach(owner, ..).map_err(|r| r.error).unwrap()).unwrap();
    chain.extend_from_slice(b"tail").unwrap();
    chain.advance(103).unwrap();
    assert_eq!(released.load(SeqCst), 0, "a byte of it is left");
    chain.advance(1).unwrap();
    assert_eq!(released.load(SeqCst), 1);
    assert_eq!(bytes(&chain), b"tail");

    let (owner, _, released) = Owner::new(b"written to");
    let mut chain = pool.attach(owner, ..).map_err(|r| r.error).unwrap();
    *chain.header_mut::<[u8; 2]>().unwrap() = *b"WR";
    assert_eq!(bytes(&chain), b"WRitten to", "a read-only segment is copied before it is written");
    chain.unshare().unwrap();
    assert_eq!(released.load(SeqCst), 1, "nothing of it is left after the copy");
}

#[test]
fn a_rejected_owner_comes_back_unreleased() {
    let pool = roomy("pool");
    for range in [0..11, 11..12, 0..usize::MAX, usize::MAX..usize::MAX] {
        let (owner, _, released) = Owner::new(b"ten bytes.");
        let rejected = pool.attach(owner, range.clone()).expect_err("a range past the end");
        assert!(matches!(rejected.error, Error::TooShort { available: 10, .. }), "{range:?}");
        assert_eq!(released.load(SeqCst), 0);
        assert_eq!(rejected.value.bytes, b"ten bytes.");
        drop(rejected);
        assert_eq!(released.load(SeqCst), 1);
    }
    #[expect(clippy::reversed_empty_ranges, reason = "what a hostile caller writes")]
    let rejected = pool.attach(vec![0; 10], 7..3).expect_err("a reversed range");
    assert!(matches!(rejected.error, Error::Invalid(_)), "{:?}", rejected.error);
    assert!(pool.attach(vec![0; 10], ..=usize::MAX).is_err());

    let (owner, _, released) = Owner::new(b"ten bytes.");
    let empty = pool.attach(owner, 4..4).map_err(|r| r.error).unwrap();
    assert_eq!(bytes(&empty), b"");
    drop(empty);
    assert_eq!(released.load(SeqCst), 1);
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn a_sharer_never_sees_a_write() {
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    let original = pattern(4, 900);
    let writes: [fn(&mut Chain); 8] = [
        |chain| chain.copy_back(0, &[0; 900]).unwrap(),
        |chain| chain.copy_back(250, &[0; 300]).unwrap(),
        |chain| *chain.header_mut::<[u8; 64]>().unwrap() = [0; 64],
        |chain| chain.prepend(40).unwrap().fill(7),
        |chain| chain.extend_from_slice(&[7; 40]).unwrap(),
        |chain| _ = chain.writer(40).unwrap().put(&[7; 40]),
        |chain| {
            chain.trim_front(30).unwrap();
            chain.prepend_slice(&[7; 30]).unwrap();
        },
        |chain| {
            chain.trim_back(30).unwrap();
            chain.extend_from_slice(&[7; 60]).unwrap();
        },
    ];
    for shape in Shape::ALL {
        for write in writes {
            let ends: &[usize] = match shape {
                // 300 bytes do not fit into a small mbuf.
                Shape::Small
                | Shape::Foreign
                | Shape::EmptyHead
                | Shape::Mixed
                | Shape::MixedOpaque => &[100, 200, 300, 400, 500, 600, 700, 800, 900],
                _ => &[300, 600, 900],
            };
            let mut built = shape.build(&home, &foreign, &original, ends);
            let mut sharer = built.chain.share().unwrap();
            let part = sharer.share_range(100, 700).unwrap();
            write(&mut built.chain);
            assert_eq!(bytes(&sharer), original, "{shape:?}: the other wrote");
            let written = bytes(&built.chain);
            write(&mut sharer);
            assert_eq!(bytes(&built.chain), written, "{shape:?}: the sharer wrote");
            assert_eq!(bytes(&part), original[100..800], "{shape:?}: the part");
            built.check_keepers();
        }
    }
    assert_eq!((level(&home), level(&foreign)), ([0; 5], [0; 5]));
}

#[test]
fn a_header_is_copied_out_of_shared_storage_alone() {
    let pool = pool("pool", [80, 2, 2, 2, 2], false);
    let original = pattern(5, 3000);
    for shape in [Shape::External, Shape::Opaque] {
        let mut built = shape.build(&pool, &pool, &original, &[3000]);
        let drained = Drained::leave(&pool, 2, 0);
        built.chain.header_mut::<[u8; 20]>().unwrap().fill(0);
        assert_eq!(cuts(&built.chain), [20, 2980], "{shape:?}");
        assert_eq!(bytes(&built.chain)[20..], original[20..], "{shape:?}");
        drop(drained);

        // 200 bytes need a cluster: small mbufs cannot stand in for one, however many there are.
        let mut built = shape.build(&pool, &pool, &original, &[3000]);
        let drained = Drained::leave(&pool, 40, 0);
        let before = Snapshot::of(&built.chain, &[&pool]);
        let error = built.chain.header_mut::<[u8; 200]>().unwrap_err();
        assert!(is_empty_pool(&error), "{shape:?}: {error:?}");
        assert_eq!(Snapshot::of(&built.chain, &[&pool]), before, "{shape:?}");
        drop(drained);
        built.chain.header_mut::<[u8; 200]>().unwrap().fill(1);
        assert_eq!(bytes(&built.chain)[..201], [&[1; 200], &original[200..201]].concat());
    }
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn sharing_is_counted_and_not_copied() {
    let pool = roomy("pool");
    let mut chain = pool.chain_in(Class::K16, 16).unwrap();
    chain.extend_from_slice(&pattern(1, 16_000)).unwrap();
    let clusters = level(&pool)[1..].to_vec();
    let sharers: Vec<Chain> = (0..10).map(|_| chain.share().unwrap()).collect();
    assert_eq!(level(&pool)[1..], clusters);
    assert!(!chain.is_writable() && sharers.iter().all(|sharer| !sharer.is_writable()));
    assert_eq!((chain.headroom(), chain.tailroom()), (0, 0), "no room over shared bytes");
    drop(sharers);
    chain.make_mut(..).unwrap();
    assert!(chain.is_writable());
    assert_eq!(level(&pool)[1..], clusters, "the last one left needs no copy");
    assert!(chain.tailroom() > 0, "and has its room again");
}

#[test]
fn outputs_of_a_refused_share_are_none() {
    // Sharing small mbufs copies them: the last of several copies may find no buffer.
    let pool = modest("pool");
    let mut built = Shape::Small.build(&pool, &pool, &pattern(1, 40), &[10, 20, 30, 40]);
    for small in 0..8 {
        let drained = Drained::leave(&pool, small, 0);
        let before = Snapshot::of(&built.chain, &[&pool]);
        match Op::Share.apply(&mut built.chain, &mut None) {
            Ok(Out::Chain(sharer)) => assert_eq!(bytes(&sharer), pattern(1, 40)),
            Ok(out) => panic!("{out:?}"),
            Err(error) => assert!(is_empty_pool(&error)),
        }
        assert_eq!(Snapshot::of(&built.chain, &[&pool]), before, "{small} free");
        assert_eq!(cuts(&built.chain), [10; 4]);
        drop(drained);
    }
}

#[test]
fn sharing_with_many_is_all_or_none() {
    let pool = modest("pool");
    let original = pattern(1, 40);
    for shape in Shape::ALL {
        for (small, n) in (0..14).flat_map(|small| [0, 1, 3, 5, usize::MAX].map(|n| (small, n))) {
            let mut built = shape.build(&pool, &pool, &original, &[30, 40]);
            built.chain.meta_mut().set_vlan(Some(7));
            let mut batch = Batch::new();
            batch.push(pool.chain_from(b"already there").unwrap());
            let drained = Drained::leave(&pool, small, 0);
            let before = Snapshot::of(&built.chain, &[&pool]);
            match built.chain.share_n(n, &mut batch) {
                Ok(()) => assert!(batch.len() == 1 + n && 2 * n <= small, "{shape:?}: {n}"),
                Err(error) => {
                    assert!(is_empty_pool(&error), "{error:?}");
                    assert!(n.saturating_mul(2) > small, "{shape:?}: {n} of {small}");
                    assert_eq!(batch.len(), 1, "{shape:?}: none of {n}");
                    assert_eq!(Snapshot::of(&built.chain, &[&pool]), before, "{shape:?}: {n}");
                }
            }
            drop(drained);
            assert_eq!(bytes(&batch.pop().unwrap()), b"already there");
            while let Some(mut sharer) = batch.pop() {
                assert_eq!((bytes(&sharer), sharer.meta().vlan()), (original.clone(), Some(7)));
                sharer.copy_back(0, &[0; 40]).unwrap();
                assert_eq!(bytes(&built.chain), original, "{shape:?}");
            }
            built.check_keepers();
            built.keepers.clear();
            built.chain.unshare().unwrap();
            assert!(built.chain.is_writable(), "{shape:?}: the last one left");
        }
    }
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn whole_largest_clusters_are_compacted_to_just_those() {
    let pool = roomy("pool");
    let mut chain = pool.chain_in(Class::K64, 0).unwrap();
    chain.extend_from_slice(&pattern(1, 65_535)).unwrap();
    chain.concat(pool.chain_from(&[9]).unwrap()).unwrap();
    assert_eq!(chain.footprint(), 256 + 65_536 + 256);
    chain.compact().unwrap();
    assert_eq!((chain.footprint(), chain.len()), (256 + 65_536, 65_536));
    assert_eq!(bytes(&chain)[65_535], 9);
}

#[test]
fn sharing_nothing_takes_no_room_away() {
    let pool = Pool::with_memory(1 << 20).unwrap();
    let mut chain = pool.chain_in(Class::K2, 64).unwrap();
    let share = chain.share().unwrap();
    assert_eq!((chain.headroom(), chain.tailroom()), (64, 1984));
    assert_eq!((share.len(), share.footprint()), (0, 256));
    let mut stripped = pool.chain_from(&[7; 1000]).unwrap();
    stripped.trim_front(1000).unwrap();
    let _share = stripped.share().unwrap();
    stripped.restore(1000).unwrap();
    assert!(stripped.is_writable());
}
