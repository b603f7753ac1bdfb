//! That no operation is left out of the tests over all operations, and the law that shape does not
//! show: the same bytes answer the same, however they are cut and whoever owns their storage.

mod common;

use std::collections::BTreeSet;

use common::{
    Built, Shape, bytes, level,
    ops::{Op, Out, plain},
    pattern, pool,
};
use mbuf::{Address, Error, Pool};

/// The sources of all methods of `Chain`.
const SOURCES: [&str; 10] = [
    include_str!("../src/chain/mod.rs"),
    include_str!("../src/chain/bytes.rs"),
    include_str!("../src/chain/checksum.rs"),
    include_str!("../src/chain/cursor.rs"),
    include_str!("../src/chain/edit.rs"),
    include_str!("../src/chain/fmt.rs"),
    include_str!("../src/chain/iovec.rs"),
    include_str!("../src/chain/pullup.rs"),
    include_str!("../src/chain/share.rs"),
    include_str!("../src/chain/writer.rs"),
];

/// What the tests do at every step to see how a chain is.
const LOOKS: [&str; 13] = [
    "check",
    "footprint",
    "headroom",
    "iovecs",
    "is_empty",
    "is_writable",
    "len",
    "meta",
    "segments",
    "mark",
    "slices",
    "tailroom",
    "to_vec",
];

/// Steps of the model (`chain_model`) of which a `Vec<u8>` knows nothing.
const STEPS: [&str; 7] =
    ["discard", "into_bytes", "kind", "meta_mut", "pool", "restore", "set_kind"];

#[test]
fn every_public_method_of_a_chain_is_among_the_operations() {
    let mut methods = BTreeSet::new();
    for source in SOURCES {
        let mut inside = false;
        for line in source.lines() {
            match line {
                "impl Chain {" => inside = true,
                "}" => inside = false,
                _ => {}
            }
            let name = line.strip_prefix("    pub fn ").or(line.strip_prefix("    pub unsafe fn "));
            if let (true, Some(name)) = (inside, name) {
                methods.insert(name.split(['(', '<']).next().unwrap());
            }
        }
    }
    let mut known: BTreeSet<_> = LOOKS.into_iter().chain(STEPS).collect();
    known.extend(Op::hungry(9).iter().map(Op::method));
    // That of `io::Write`.
    known.remove("write");
    assert_eq!(methods, known);
}

#[test]
fn the_lists_of_operations_lack_none() {
    let all = BTreeSet::from(Op::NAMES);
    assert_eq!(all.len(), Op::NAMES.len());
    for (what, list) in [("around", Op::around(3)), ("hungry", Op::hungry(12))] {
        assert_eq!(list.iter().map(Op::name).collect::<BTreeSet<_>>(), all, "{what}");
    }
}

/// How many bytes each segment has.
#[derive(Debug, Clone, Copy)]
enum Cut {
    OneSegment,
    OneByteEach,
    /// 1, 2, 3, ... bytes.
    Growing,
}

impl Cut {
    fn ends(self, len: usize) -> Vec<usize> {
        let mut ends: Vec<usize> = match self {
            Cut::OneSegment => Vec::new(),
            Cut::OneByteEach => (1..len).collect(),
            Cut::Growing => {
                (1..len).map(|n| n * (n + 1) / 2).take_while(|end| *end < len).collect()
            }
        };
        ends.extend((len > 0).then_some(len));
        ends
    }
}

/// What an operation answered, and what the chain is then.
#[derive(Debug, PartialEq)]
struct Answer {
    out: Result<Out<Vec<u8>>, Error>,
    left: Vec<u8>,
    source: Address,
    given_back: bool,
}

fn answer(op: &Op, built: &mut Built, other: &Pool) -> Answer {
    built.chain.meta_mut().set_source(Address::Mac([3; 6]));
    let mut given = op.takes_other().then(|| {
        let mut given = other.chain_from(&pattern(60, 9)).unwrap();
        given.meta_mut().set_source(Address::Mac([4; 6]));
        given
    });
    let out = op.apply(&mut built.chain, &mut given).map(|out| plain(&out));
    built.check_keepers();
    Answer {
        out,
        left: bytes(&built.chain),
        source: built.chain.meta().source(),
        given_back: given.is_some(),
    }
}

#[test]
fn shape_does_not_show() {
    let home = pool("home", [2000, 800, 16, 16, 16], false);
    let foreign = pool("foreign", [2000, 800, 16, 16, 16], false);
    let mut cases = 0_usize;
    for (len, ops) in [(0, Op::around(0)), (5, Op::around(5)), (300, Op::hungry(300))] {
        let model = pattern(len, len);
        for op in ops {
            let whole = &Cut::OneSegment.ends(len);
            let mut plainest = Shape::Cluster.build(&home, &foreign, &model, whole);
            let expected = answer(&op, &mut plainest, &foreign);
            let mut left = model.clone();
            let out = op.model(&mut left, &pattern(60, 9));
            assert_eq!((expected.out.as_ref().ok(), &expected.left), (out.as_ref().ok(), &left));
            assert_eq!(expected.source, Address::Mac([3; 6]), "{op:?}");
            assert_eq!(expected.given_back, op.takes_other() && out.is_err(), "{op:?}");
            for shape in Shape::ALL {
                for cut in [Cut::OneSegment, Cut::OneByteEach, Cut::Growing] {
                    if matches!(cut, Cut::OneSegment) && len > 100 && !shape.holds_long_pieces() {
                        continue;
                    }
                    let mut built = shape.build(&home, &foreign, &model, &cut.ends(len));
                    let answer = answer(&op, &mut built, &foreign);
                    assert_eq!(answer, expected, "{op:?} of {len} bytes, {shape:?} {cut:?}");
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 10_000, "{cases} cases");
    assert_eq!((level(&home), level(&foreign)), ([0; 5], [0; 5]));
}
