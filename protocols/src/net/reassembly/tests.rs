//! The checklist of what fragments can do, and a model: a plain `Vec` that is cut and shuffled.

use mbuf::{Pool, testing};
use proptest::prelude::*;

use super::*;

fn engine() -> Reassembly<u32> {
    Reassembly::new(Limits::default())
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

struct Test {
    pool: Pool,
    engine: Reassembly<u32>,
}

impl Test {
    fn new(limits: Limits) -> Self {
        Self { pool: testing::pool(), engine: Reassembly::new(limits) }
    }

    fn put(&mut self, key: u32, offset: usize, more: bool, bytes: &[u8]) -> Verdict {
        self.at(key, offset, more, bytes, Time::ZERO)
    }

    fn at(&mut self, key: u32, offset: usize, more: bool, bytes: &[u8], now: Time) -> Verdict {
        let chain = self.pool.chain_from(bytes).unwrap();
        self.engine.insert(key, offset, more, chain, now)
    }

    /// Bytes `start..end` of the datagram.
    fn part(&mut self, whole: &[u8], start: usize, end: usize) -> Verdict {
        self.put(1, start, end < whole.len(), &whole[start..end])
    }

    fn buried(&mut self) -> Vec<DropReason> {
        std::iter::from_fn(|| self.engine.pop_dropped()).map(|(_, reason)| reason).collect()
    }

    /// Nothing is held, and nothing was forgotten.
    #[track_caller]
    fn finish(self) {
        assert_eq!(self.engine.held(), Held::default());
        drop(self.engine);
        testing::assert_all_free(&self.pool);
    }
}

#[track_caller]
fn held(verdict: Verdict) {
    assert!(matches!(verdict, Verdict::Held), "{verdict:?}");
}

#[track_caller]
fn complete(verdict: Verdict, whole: &[u8], chains: usize) {
    match verdict {
        Verdict::Complete(chain, merged) => {
            assert_eq!(chain.to_vec().unwrap(), whole);
            assert_eq!(merged, chains);
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(verdict: Verdict, why: DropReason) {
    match verdict {
        Verdict::Refused(_, reason) => assert_eq!(reason, why),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn discarded(verdict: Verdict, count: usize, why: DropReason) {
    match verdict {
        Verdict::Discarded { chains, reason } => assert_eq!((chains, reason), (count, why)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn fragments_in_every_order_make_the_datagram() {
    let whole = bytes(8 * 3 + 5);
    let cuts = [(0, 8), (8, 16), (16, 24), (24, 29)];
    // All 24 orders, in order and reversed among them.
    for order in 0..256_usize {
        let order: Vec<usize> = (0..4).map(|i| order >> (2 * i) & 3).collect();
        if (0..4).any(|i| !order.contains(&i)) {
            continue;
        }
        let mut test = Test::new(Limits::default());
        for (n, &i) in order.iter().enumerate() {
            let verdict = test.part(&whole, cuts[i].0, cuts[i].1);
            if n < 3 { held(verdict) } else { complete(verdict, &whole, 3) }
        }
        test.finish();
    }
}

#[test]
fn a_last_fragment_of_one_byte_and_a_missing_first() {
    let whole = bytes(1481);
    let mut test = Test::new(Limits::default());
    held(test.part(&whole, 1480, 1481));
    held(test.part(&whole, 8, 1480));
    assert_eq!(test.engine.held().chains, 2);
    // The first is missing: time passes, and there is nothing to quote.
    let expired: Vec<_> = test.engine.expire(Time::from_millis(30_000)).collect();
    assert!(matches!(expired[..], [(1, None, 2)]), "{expired:?}");
    assert_eq!(test.buried(), [REASSEMBLY_TIMEOUT; 2]);
    // It comes too late, and the datagram starts anew.
    held(test.part(&whole, 0, 8));
    held(test.part(&whole, 1480, 1481));
    complete(test.part(&whole, 8, 1480), &whole, 2);
    test.finish();
}

#[test]
fn an_atomic_fragment_is_a_whole_datagram_at_once() {
    let whole = bytes(99);
    let mut test = Test::new(Limits::default());
    complete(test.part(&whole, 0, 99), &whole, 0);
    assert_eq!(test.engine.next_expiry(), None);
    test.finish();
}

#[test]
fn an_exact_duplicate_is_refused_alone() {
    let whole = bytes(20);
    let mut test = Test::new(Limits::default());
    held(test.part(&whole, 0, 8));
    refused(test.part(&whole, 0, 8), DUPLICATE);
    held(test.part(&whole, 16, 20));
    refused(test.part(&whole, 16, 20), DUPLICATE);
    complete(test.part(&whole, 8, 16), &whole, 2);
    test.finish();
}

#[test]
fn the_same_place_with_other_bytes_is_an_overlap() {
    let mut test = Test::new(Limits::default());
    held(test.put(1, 0, true, &[1; 8]));
    discarded(test.put(1, 0, true, &[2; 8]), 2, OVERLAP);
    // The same bytes, but now they are the last ones.
    held(test.put(2, 8, true, &[1; 8]));
    discarded(test.put(2, 8, false, &[1; 8]), 2, OVERLAP);
    assert_eq!(test.buried(), [OVERLAP; 4]);
    test.finish();
}

#[test]
fn both_kinds_of_overlap_discard_the_whole_datagram_and_the_rest_of_it() {
    // A later one that starts within an earlier one (teardrop), one that ends within a later one,
    // one that lies within another, and one that covers several.
    for (start, end) in [(16, 40), (24, 56), (0, 24), (40, 64), (32, 40), (8, 80), (24, 48)] {
        let whole = bytes(96);
        let mut test = Test::new(Limits::default());
        held(test.part(&whole, 8, 24));
        held(test.part(&whole, 24, 48));
        held(test.part(&whole, 48, 56));
        let same = (start, end) == (24, 48);
        let verdict = test.part(&whole, start, end);
        if same {
            refused(verdict, DUPLICATE);
            assert_eq!(test.engine.clear(DropReason::CLOSED), 3);
            assert_eq!(test.buried(), [DropReason::CLOSED; 3]);
        } else {
            discarded(verdict, 4, OVERLAP);
            assert_eq!(test.buried(), [OVERLAP; 4]);
            // RFC 5722: those not yet received as well.
            refused(test.part(&whole, 0, 8), OVERLAP);
            refused(test.part(&whole, 88, 96), OVERLAP);
            assert!(test.engine.expire(Time::from_millis(30_000)).next().is_none());
            assert_eq!(test.engine.next_expiry(), None);
        }
        test.finish();
    }
}

#[test]
fn ends_that_disagree_discard_the_datagram() {
    // The last one ends before one that is there; beyond the end; a second end.
    let mut test = Test::new(Limits::default());
    held(test.put(1, 16, true, &[0; 8]));
    discarded(test.put(1, 8, false, &[0; 8]), 2, OVERLAP);
    held(test.put(2, 8, false, &[0; 8]));
    discarded(test.put(2, 16, true, &[0; 8]), 2, OVERLAP);
    held(test.put(3, 16, false, &[0; 8]));
    discarded(test.put(3, 8, false, &[0; 8]), 2, OVERLAP);
    assert_eq!(test.buried().len(), 6);
    test.finish();
}

#[test]
fn what_cannot_be_a_fragment_is_refused() {
    let mut test = Test::new(Limits::default());
    refused(test.put(1, 0, true, &[0; 7]), BAD_FRAGMENT);
    refused(test.put(1, 0, true, &[]), BAD_FRAGMENT);
    refused(test.put(1, 8, false, &[]), BAD_FRAGMENT);
    refused(test.put(1, 3, false, &[0; 8]), BAD_FRAGMENT);
    refused(test.put(1, usize::MAX - 7, false, &[0; 8]), FRAGMENT_TOO_LONG);
    test.finish();
}

#[test]
fn sizes_that_overflow_are_refused_and_the_longest_is_not() {
    let whole = bytes(65_535);
    let mut test = Test::new(Limits::default());
    // The ping of death: the last place there is, and more bytes than fit behind it.
    refused(test.put(1, 65_528, false, &[0; 8]), FRAGMENT_TOO_LONG);
    held(test.part(&whole, 65_528, 65_535));
    for start in (0..65_528).step_by(8192) {
        let end = (start + 8192).min(65_528);
        let verdict = test.part(&whole, start, end);
        if end < 65_528 { held(verdict) } else { complete(verdict, &whole, 8) }
    }
    let mut short = Test::new(Limits { longest: 65_515, ..Limits::default() });
    refused(short.put(1, 65_512, false, &[0; 4]), FRAGMENT_TOO_LONG);
    held(short.put(1, 65_512, false, &[0; 3]));
    assert_eq!(short.engine.clear(DropReason::CLOSED), 1);
    assert_eq!(short.buried(), [DropReason::CLOSED]);
    test.finish();
    short.finish();
}

#[test]
fn two_datagrams_come_interleaved() {
    let (one, two) = (bytes(40), vec![9; 33]);
    let mut test = Test::new(Limits::default());
    held(test.put(1, 0, true, &one[..16]));
    held(test.put(2, 16, false, &two[16..]));
    held(test.put(1, 32, false, &one[32..]));
    complete(test.put(2, 0, true, &two[..16]), &two, 1);
    complete(test.put(1, 16, true, &one[16..32]), &one, 2);
    test.finish();
}

#[test]
fn time_runs_from_the_first_fragment_and_gives_it_back() {
    let mut test = Test::new(Limits::default());
    held(test.at(1, 0, true, b"12345678", Time::from_millis(1000)));
    held(test.at(2, 8, true, b"12345678", Time::from_millis(2000)));
    held(test.at(1, 8, true, b"abcdefgh", Time::from_millis(30_000)));
    assert_eq!(test.engine.next_expiry(), Some(Time::from_millis(31_000)));
    let expired: Vec<_> = test.engine.expire(Time::from_millis(31_000)).collect();
    let [(1, Some(first), 1)] = &expired[..] else { panic!("{expired:?}") };
    assert_eq!(first.to_vec().unwrap(), b"12345678");
    assert_eq!(test.engine.next_expiry(), Some(Time::from_millis(32_000)));
    assert_eq!(test.engine.expire(Time::MAX).count(), 1);
    assert_eq!(test.buried().len(), 2);
    drop(expired);
    test.finish();
}

#[test]
fn the_header_of_the_first_fragment_can_be_restored() {
    let mut test = Test::new(Limits::default());
    // Out of a large buffer, so that it is compacted; the header is 4 bytes.
    let mut chain = test.pool.chain_from(&[5; 1500]).unwrap();
    chain.copy_back(0, b"headpayload!").unwrap();
    chain.truncate(12).unwrap();
    chain.meta_mut().set_network_offset(14);
    chain.meta_mut().set_transport_offset(18);
    chain.trim_front(4).unwrap();
    held(test.engine.insert(1, 0, true, chain, Time::ZERO));
    assert_eq!(test.engine.held().footprint, 256, "compacted");
    match test.put(1, 8, false, b"end") {
        Verdict::Complete(mut chain, 1) => {
            assert_eq!(chain.to_vec().unwrap(), b"payload!end");
            chain.restore(4).unwrap();
            assert_eq!(chain.to_vec().unwrap(), b"headpayload!end");
        }
        other => panic!("{other:?}"),
    }
    test.finish();
}

#[test]
fn the_oldest_datagram_makes_room_for_a_new_one() {
    let mut test = Test::new(Limits { datagrams: 2, ..Limits::default() });
    held(test.put(1, 0, true, &[0; 8]));
    held(test.put(2, 0, true, &[0; 8]));
    held(test.put(2, 8, true, &[0; 8]));
    held(test.put(3, 0, true, &[0; 8]));
    assert_eq!((test.engine.held().chains, test.buried()), (3, vec![EVICTED]));
    complete(test.put(2, 16, false, &[0]), &[0; 17], 2);
    complete(test.put(3, 8, false, &[0]), &[0; 9], 1);
    test.finish();
}

#[test]
fn a_datagram_of_too_many_fragments_is_given_up() {
    let mut test = Test::new(Limits { fragments: 3, ..Limits::default() });
    for i in 0..3 {
        held(test.put(1, i * 8, true, &[0; 8]));
    }
    discarded(test.put(1, 24, true, &[0; 8]), 4, DropReason::LIMIT);
    refused(test.put(1, 32, false, &[0; 8]), DropReason::LIMIT);
    assert_eq!(test.buried(), [DropReason::LIMIT; 4]);
    test.finish();
}

#[test]
fn storage_is_bounded_and_the_oldest_goes_first() {
    // Room for three small mbufs.
    let mut test = Test::new(Limits { footprint: 3 * 256, ..Limits::default() });
    held(test.put(1, 0, true, &[0; 64]));
    held(test.put(2, 0, true, &[0; 64]));
    held(test.put(3, 0, true, &[0; 64]));
    held(test.put(3, 64, true, &[0; 64]));
    assert_eq!(test.buried(), [EVICTED]);
    held(test.put(3, 128, true, &[0; 64]));
    assert_eq!(test.buried(), [EVICTED]);
    assert_eq!(test.engine.held(), Held { chains: 3, footprint: 768 });
    // It alone is too much.
    discarded(test.put(3, 192, true, &[0; 64]), 4, DropReason::LIMIT);
    assert_eq!(test.buried(), [DropReason::LIMIT; 4]);
    test.finish();
}

#[test]
fn an_empty_pool_refuses_and_changes_nothing() {
    let mut test = Test::new(Limits::default());
    let mut chain = test.pool.chain_from(&[5; 1500]).unwrap();
    chain.truncate(8).unwrap();
    let starve = testing::Starve::small(&test.pool, 0);
    let verdict = test.engine.insert(1, 0, true, chain, Time::ZERO);
    refused(verdict, DropReason::NO_BUFFERS);
    drop(starve);
    assert_eq!(test.engine.next_expiry(), None);
    test.finish();
}

#[test]
fn limits_of_nothing_refuse_everything() {
    for limits in [
        Limits { datagrams: 0, ..Limits::default() },
        Limits { fragments: 0, ..Limits::default() },
        Limits { footprint: 0, ..Limits::default() },
    ] {
        let mut test = Test::new(limits);
        refused(test.put(1, 0, true, &[0; 8]), DropReason::LIMIT);
        test.finish();
    }
    assert_eq!(engine().held(), Held::default());
}

/// Where the cuts of a datagram are, in units of 8 bytes.
fn cuts(len: usize, marks: &[usize]) -> Vec<(usize, usize)> {
    let mut places: Vec<usize> = marks.iter().map(|mark| mark % len.div_ceil(8) * 8).collect();
    places.extend([0, len]);
    places.sort_unstable();
    places.dedup();
    places.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_cut_in_any_order_with_any_duplicates_makes_the_datagram(
        len in 1_usize..3000,
        marks in proptest::collection::vec(0_usize..4000, 0..20),
        order in proptest::collection::vec((any::<u32>(), any::<bool>()), 22),
    ) {
        let whole = bytes(len);
        let mut parts: Vec<_> = cuts(len, &marks).into_iter().zip(&order).collect();
        parts.sort_by_key(|(_, (rank, _))| *rank);
        let mut test = Test::new(Limits::default());
        let last = parts.len() - 1;
        for (n, ((start, end), (_, again))) in parts.into_iter().enumerate() {
            let verdict = test.part(&whole, start, end);
            if n == last {
                complete(verdict, &whole, last);
            } else {
                held(verdict);
                if *again {
                    refused(test.part(&whole, start, end), DUPLICATE);
                }
            }
        }
        prop_assert!(test.buried().is_empty());
        test.finish();
    }

    /// Whatever comes: no datagram comes out with bytes that were not sent for it at that place,
    /// and each chain is accounted for.
    #[test]
    fn whatever_comes_is_accounted_for(
        fragments in proptest::collection::vec(
            (0_u32..4, 0_usize..8, any::<bool>(), 0_usize..40, 0_u64..40_000), 0..60),
        datagrams in 0_usize..4,
        most in 0_usize..6,
        storage in 0_usize..3000,
    ) {
        let limits = Limits { datagrams, fragments: most, footprint: storage, ..Limits::default() };
        let mut test = Test::new(limits);
        let (mut offered, mut gone, mut now) = (0, 0, 0);
        for (key, place, more, len, pause) in fragments {
            now += pause;
            let time = Time::from_millis(now);
            for (_, first, _) in test.engine.expire(time) {
                gone += usize::from(first.is_some());
            }
            offered += 1;
            // A byte says where it stands in which datagram.
            let bytes: Vec<u8> = (place * 8..place * 8 + len).map(|i| i as u8 ^ key as u8).collect();
            match test.at(key, place * 8, more, &bytes, time) {
                Verdict::Held | Verdict::Discarded { .. } => {}
                Verdict::Refused(..) => gone += 1,
                Verdict::Complete(chain, merged) => {
                    gone += 1 + merged;
                    let whole = chain.to_vec().unwrap();
                    for (i, byte) in whole.into_iter().enumerate() {
                        prop_assert_eq!(byte, i as u8 ^ key as u8);
                    }
                }
            }
            gone += test.buried().len();
            let held = test.engine.held();
            prop_assert!(held.footprint <= storage && held.chains <= datagrams * most);
            prop_assert_eq!(offered, gone + held.chains);
        }
        test.engine.clear(DropReason::CLOSED);
        test.buried();
        test.finish();
    }
}
