//! Small exhaustive cases: every operation with every argument, over every way to cut up to six
//! bytes into segments, over every kind of storage, against a plain `Vec<u8>`.

mod common;

use common::{
    Built, LARGEST, STRIPPED, Shape, bytes, cuts, level,
    ops::{Op, Out, plain},
    pattern, pool, roomy, segmentations,
};
use mbuf::{Address, Chain, Class, Error, Pool};

/// Runs `visit` over every segmentation of up to `longest` bytes in every shape.
fn every_shape(
    home: &Pool,
    foreign: &Pool,
    longest: usize,
    mut visit: impl FnMut(Shape, Built, Vec<u8>),
) {
    for len in 0..=longest {
        let model = pattern(len, len);
        for ends in segmentations(len) {
            for shape in Shape::ALL {
                visit(shape, shape.build(home, foreign, &model, &ends), model.clone());
            }
        }
    }
}

/// One operation on one chain, and everything that may be said of it then.
#[track_caller]
fn run(op: &Op, shape: Shape, mut built: Built, mut model: Vec<u8>, other: Option<Chain>) {
    let at = || format!("{op:?} on {shape:?} {:?}", model.len());
    let said = at();
    let source = Address::Mac([1, 2, 3, 4, 5, model.len() as u8]);
    built.chain.meta_mut().set_source(source);
    let other_bytes = other.as_ref().map(bytes).unwrap_or_default();
    let mut other = other;
    let writable = built.chain.is_writable();
    let len = model.len();

    let expected = op.model(&mut model, &other_bytes);
    let result = op.apply(&mut built.chain, &mut other);

    match (&expected, &result) {
        (Ok(expected), Ok(out)) => {
            assert_eq!(&plain(out), expected, "{said}");
            assert!(other.is_none(), "{said}: the other chain was taken");
            for new in out.chains() {
                assert_eq!(new.meta().source(), source, "{said}: a copy of the metadata");
                if matches!(op, Op::Dup) {
                    assert!(new.is_writable(), "{said}: a copy is private");
                }
                if matches!(op, Op::SplitOff(_)) && writable {
                    assert!(new.is_writable(), "{said}: the tail stays writable");
                    assert!(built.chain.is_writable(), "{said}: the front stays writable");
                }
            }
        }
        (Err(refusal), Err(error)) => {
            assert!(refusal.fits(error, len), "{said}: {error:?}, should be {refusal:?}");
            assert_eq!(other.as_ref().map(bytes).unwrap_or_default(), other_bytes, "{said}");
        }
        _ => panic!("{said}: {result:?}, should be {expected:?}"),
    }
    assert_eq!(bytes(&built.chain), model, "{said}");
    assert_eq!(built.chain.meta().source(), source, "{said}: the metadata stays");
    built.check_keepers();
    match op {
        Op::Defrag | Op::Compact => assert!(built.chain.segments() <= 1, "{said}"),
        Op::Header | Op::HeaderMut(_) if result.is_ok() => assert!(cuts(&built.chain)[0] >= 3),
        Op::Pullup(n) | Op::Copyup(n, _) if result.is_ok() && *n > 0 => {
            assert!(cuts(&built.chain)[0] >= *n, "{said}");
        }
        _ => {}
    }

    // What was answered is a chain of its own: writing to either side does not show on the other.
    for mut new in result.map(Out::into_chains).unwrap_or_default() {
        let mut expected = bytes(&new);
        if !expected.is_empty() {
            new.copy_back(0, &[0x77]).unwrap();
            expected[0] = 0x77;
        }
        if !model.is_empty() {
            let last = model.len() - 1;
            built.chain.copy_back(last, &[0x78]).unwrap();
            model[last] = 0x78;
        }
        new.append(3).unwrap();
        expected.extend([0; 3]);
        built.chain.extend_from_slice(&[0x79; 3]).unwrap();
        model.extend([0x79; 3]);
        new.prepend_slice(&[0x7a; 2]).unwrap();
        expected.splice(..0, [0x7a; 2]);
        built.chain.prepend_slice(&[0x7b; 2]).unwrap();
        model.splice(..0, [0x7b; 2]);
        assert_eq!(bytes(&new), expected, "{said}: the new chain, written to");
        assert_eq!(bytes(&built.chain), model, "{said}: the old chain, written to");
        built.check_keepers();
    }
}

fn run_all(moving: bool) {
    let home = pool("home", [4096, 128, 64, 64, 64], moving);
    let foreign = roomy("foreign");
    let longest = if moving { 4 } else { 6 };
    let mut cases = 0_usize;
    for len in 0..=longest {
        let model = pattern(len, len);
        let ops = Op::around(len);
        for ends in segmentations(len) {
            for shape in Shape::ALL {
                for op in &ops {
                    let built = shape.build(&home, &foreign, &model, &ends);
                    let other = op.takes_other().then(|| {
                        let mut other = foreign.chain_from(&pattern(60, 3)).unwrap();
                        other.concat(home.chain_from(&pattern(61, 2)).unwrap()).unwrap();
                        other
                    });
                    run(op, shape, built, model.clone(), other);
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 10_000, "{cases} cases");
    assert_eq!((level(&home), level(&foreign)), ([0; 5], [0; 5]));
}

#[test]
fn every_operation_over_every_segmentation() {
    run_all(false);
}

#[test]
fn every_operation_where_bytes_move_at_every_pullup() {
    run_all(true);
}

#[test]
fn two_operations_in_a_row_over_every_segmentation() {
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    let len = 3;
    let model = pattern(1, len);
    let reshaping = [
        Op::TrimFront(1),
        Op::TrimFront(2),
        Op::TrimBack(1),
        Op::Prepend(2),
        Op::Append(2),
        Op::Pullup(2),
        Op::Copyup(2, 5),
        Op::SplitOff(1),
        Op::SplitOff(2),
        Op::Share,
        Op::ShareRange(1, 1),
        Op::CopyBack(1, vec![0x55; 4].into()),
        Op::Unshare,
        Op::Strip,
        Op::Concat,
        Op::Insert(1),
        Op::Advance(1),
        Op::Advance(2),
        Op::Adj(3),
        Op::Reserve(200),
        Op::MakeMut(1, 2),
    ];
    for ends in segmentations(len) {
        for shape in Shape::ALL {
            for first in &reshaping {
                for second in Op::around(len) {
                    let mut built = shape.build(&home, &foreign, &model, &ends);
                    let mut model = model.clone();
                    let other = || home.chain_from(&pattern(60, 2)).unwrap();
                    let mut given = first.takes_other().then(other);
                    let expected = first.model(&mut model, &pattern(60, 2)).unwrap();
                    let out = first.apply(&mut built.chain, &mut given).unwrap();
                    assert_eq!(plain(&out), expected, "{first:?} on {shape:?} {ends:?}");
                    if let (Out::Chain(kept), Out::Chain(bytes)) = (out, expected) {
                        built.keepers.push((kept, bytes));
                    }
                    let given = second.takes_other().then(other);
                    let len = model.len();
                    // The second is made for a chain of three bytes; that its arguments now lie
                    // elsewhere relative to the edges is all to the good.
                    run(&second, shape, built, model, given);
                    assert!(len <= 10);
                }
            }
        }
    }
    assert_eq!((level(&home), level(&foreign)), ([0; 5], [0; 5]));
}

#[test]
fn room_is_as_large_as_it_says_and_costs_no_buffer() {
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    every_shape(&home, &foreign, 4, |shape, mut built, mut model| {
        let before = (level(&home), level(&foreign));
        let (head, tail) = (built.chain.headroom(), built.chain.tailroom());
        let front = pattern(70, head);
        built.chain.prepend_slice(&front).unwrap();
        model.splice(..0, front);
        let back = pattern(71, built.chain.tailroom());
        assert!(back.len() <= tail, "{shape:?}: a prepend does not make room at the back");
        built.chain.extend_from_slice(&back).unwrap();
        model.extend(back);
        assert_eq!((level(&home), level(&foreign)), before, "{shape:?}: {:?}", built.chain);
        assert_eq!(bytes(&built.chain), model, "{shape:?}");
        assert_eq!((built.chain.headroom(), built.chain.tailroom()), (0, 0), "{shape:?}");
        built.check_keepers();
    });
}

#[test]
fn a_split_copies_no_cluster_and_joins_again_at_every_place() {
    let pool = roomy("pool");
    for len in [1, 100, 128, 129, 2048, 2049, 5000] {
        let model = pattern(len, len);
        let places: Vec<usize> = (0..=len.min(140)).chain((140..=len).step_by(97)).collect();
        for at in places {
            let mut chain = pool.chain_from(&model).unwrap();
            let clusters = level(&pool)[1..].to_vec();
            let mut tail = chain.split_off(at.min(len)).unwrap();
            assert_eq!(level(&pool)[1..], clusters, "split {len} at {at}");
            assert!(chain.is_writable() && tail.is_writable(), "split {len} at {at}");
            // Each half is written to its very ends, within its own bounds.
            chain.extend_from_slice(&pattern(72, chain.tailroom())).unwrap();
            tail.prepend_slice(&pattern(73, tail.headroom())).unwrap();
            let (front_len, tail_len) = (chain.len(), tail.len());
            chain.concat(tail).unwrap();
            let joined = bytes(&chain);
            let rest = len - at.min(len);
            assert_eq!(joined[..at.min(len)], model[..at.min(len)]);
            assert_eq!(joined[front_len + tail_len - rest..], model[at.min(len)..]);
        }
    }
    assert_eq!(level(&pool), [0; 5]);
}

/// The stripped bytes come back however the chain was cut, and the answer to a sequence of strips,
/// looks and restores does not depend on the cuts.
#[test]
fn restore_does_not_depend_on_shape() {
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Trim(usize),
        Strip,
        Restore(usize),
        Look,
        Truncate,
        Clear,
        Append,
    }
    let steps = [
        Step::Trim(1),
        Step::Trim(3),
        Step::Strip,
        Step::Restore(1),
        Step::Restore(2),
        Step::Restore(4),
        Step::Look,
        Step::Truncate,
        Step::Clear,
        Step::Append,
    ];
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    let model = pattern(5, 5);
    let mut restored = 0_usize;
    for code in 0..steps.len().pow(3) {
        let sequence = [0, 1, 2].map(|i| steps[code / steps.len().pow(i) % steps.len()]);
        let mut answers: Option<(Vec<bool>, String)> = None;
        for ends in segmentations(model.len()) {
            // The empty head has two bytes more to give back, so its answers differ by right.
            for shape in Shape::ALL.into_iter().filter(|shape| *shape != Shape::EmptyHead) {
                let mut built = shape.build(&home, &foreign, &model, &ends);
                let chain = &mut built.chain;
                let (mut start, mut end, mut added) = (0, model.len(), Vec::new());
                let mut said = Vec::new();
                for step in sequence {
                    let at = format!("{step:?} of {sequence:?} on {shape:?} {ends:?}");
                    let len = end - start + added.len();
                    let ok = match step {
                        Step::Trim(n) if n > end - start => continue,
                        Step::Strip if 2 > end - start => continue,
                        Step::Trim(n) => {
                            chain.trim_front(n).unwrap();
                            start += n;
                            true
                        }
                        Step::Strip => {
                            assert_eq!(chain.strip::<[u8; 2]>().unwrap(), model[start..start + 2]);
                            start += 2;
                            true
                        }
                        Step::Restore(n) => match chain.restore(n) {
                            Ok(()) => {
                                assert!(n <= start, "{at}: more than was stripped");
                                start -= n;
                                restored += 1;
                                true
                            }
                            Err(Error::Gone { wanted, available }) => {
                                assert!(wanted == n && available < n, "{at}");
                                assert!(n > start, "{at}: nothing moved, so nothing may be gone");
                                false
                            }
                            Err(error) => panic!("{at}: {error:?}"),
                        },
                        Step::Look => {
                            let n = 3.min(len);
                            chain.peek(0, &mut vec![0; n]).unwrap();
                            chain.checksum(..n).unwrap();
                            true
                        }
                        Step::Truncate if end - start == 0 || !added.is_empty() => continue,
                        Step::Truncate => {
                            chain.trim_back(1).unwrap();
                            end -= 1;
                            true
                        }
                        Step::Clear if !added.is_empty() => continue,
                        Step::Clear => {
                            chain.truncate(0).unwrap();
                            end = start;
                            true
                        }
                        Step::Append => {
                            chain.extend_from_slice(&[0x66; 2]).unwrap();
                            added.extend([0x66; 2]);
                            true
                        }
                    };
                    said.push(ok);
                    assert_eq!(bytes(chain), [&model[start..end], &added].concat(), "{at}");
                }
                built.check_keepers();
                let here = format!("{shape:?} {ends:?}");
                match &answers {
                    None => answers = Some((said, here)),
                    Some((first, there)) => {
                        assert_eq!(first, &said, "{sequence:?}: {there} against {here}");
                    }
                }
            }
        }
    }
    assert!(restored > 1000, "{restored} restores");
    assert_eq!((level(&home), level(&foreign)), ([0; 5], [0; 5]));
}

#[test]
fn what_is_gone_is_not_restored() {
    let pool = roomy("pool");
    let (home, foreign) = (&pool, roomy("foreign"));
    let model = pattern(9, 6);
    for ends in segmentations(model.len()) {
        for shape in Shape::ALL {
            let gone = |chain: &mut Chain, what: &str| {
                let before = bytes(chain);
                let error = chain.restore(1).expect_err(what);
                assert!(
                    matches!(error, Error::Gone { wanted: 1, available: 0 }),
                    "{what}: {error:?}"
                );
                assert!(chain.restore(usize::MAX).is_err(), "{what}");
                assert_eq!(chain.restore(0), Ok(()), "{what}");
                assert_eq!(bytes(chain), before, "{what}");
            };
            let stripped = || {
                let mut built = shape.build(home, &foreign, &model, &ends);
                built.chain.trim_front(2).unwrap();
                built
            };
            let mut built = stripped();
            built.chain.prepend_slice(&[1]).unwrap();
            gone(&mut built.chain, "after a prepend");
            built.chain.trim_front(1).unwrap();
            built.chain.restore(1).unwrap();
            assert_eq!(bytes(&built.chain)[0], 1, "what the prepend wrote comes back");

            let mut built = stripped();
            built.chain.advance(1).unwrap();
            gone(&mut built.chain, "after an advance");

            let mut built = stripped();
            let mut tail = built.chain.split_off(2).unwrap();
            gone(&mut tail, "on the tail of a split: its neighbour's bytes");

            let built = stripped();
            let mut copy = built.chain.dup().unwrap();
            gone(&mut copy, "on a copy");

            let mut built = stripped();
            let mut all = built.chain.split_off(0).unwrap();
            gone(&mut all, "on all of it, split off");
            assert_eq!(built.chain.len(), 0);
        }
    }
    // Once more with what EmptyHead stripped.
    let mut built = Shape::EmptyHead.build(home, &foreign, &model, &[6]);
    built.chain.restore(2).unwrap();
    assert_eq!(bytes(&built.chain), [&STRIPPED[..], &model].concat());
}

#[test]
fn chains_of_every_length_around_the_classes() {
    let pool = roomy("pool");
    let around = |n: usize| n.saturating_sub(20)..=n + 20;
    let lengths = around(20)
        .chain(around(128))
        .chain(around(2048))
        .chain(around(4096))
        .chain(around(16_384))
        .chain(around(LARGEST))
        .chain([2 * LARGEST - 1, 2 * LARGEST, 2 * LARGEST + 1, (1 << 20) + 1]);
    for len in lengths {
        let model = pattern(len, len);
        let chain = pool.chain_from(&model).unwrap();
        assert!(bytes(&chain) == model, "{len} bytes");
        assert!(chain.segments() <= (len + pool.headroom()).div_ceil(LARGEST), "{len}: {chain:?}");
        let zeroed = pool.chain_zeroed(len).unwrap();
        assert!(bytes(&zeroed) == vec![0; len], "{len} zeroes");
        let copy = chain.dup().unwrap();
        drop(chain);
        assert!(bytes(&copy) == model, "{len} bytes copied");
    }
    assert_eq!(level(&pool), [0; 5]);
    for class in Class::ALL {
        let chain = pool.chain_in(class, 16).unwrap();
        assert_eq!((chain.len(), chain.segments()), (0, 0));
        assert_eq!(chain.headroom() + chain.tailroom(), class.data_len(), "{class}");
    }
}
