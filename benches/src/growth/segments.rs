//! What is done to a whole chain, against its segments, beside a `Vec<Bytes>` of the same.

use std::{hint::black_box, io::IoSlice};

use bytes::{Bytes, BytesMut};
use mbuf::{Chain, Class, Pool, chain::checksum};
use smallvec::SmallVec;

use super::{Pace, Point, nanoseconds};
use crate::row::Row;

const SEGMENTS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Bytes in a segment.
const LENGTH: usize = 300;
const MOST: usize = 64;

pub fn run(pace: Pace) -> anyhow::Result<Vec<Row>> {
    let pool = Pool::builder().count(Class::Small, 2048).count(Class::K2, 2048).build()?;
    let mut points = Vec::new();
    for x in pace.points(&SEGMENTS) {
        let steps = steps(&pool, x)?.into_iter();
        points.extend(steps.map(|(case, who, step)| Point { case: case.into(), who, x, step }));
    }
    nanoseconds(&mut points, pace)
}

type Step = Box<dyn FnMut() -> anyhow::Result<usize>>;

fn steps(pool: &Pool, x: usize) -> mbuf::Result<[(&'static str, &'static str, Step); 8]> {
    let build = "segments: build and free";
    let share = "segments: share, drop one";
    let walk = "segments: list as iovecs";
    let sum = "segments: Internet checksum";
    let mut shared = chain(pool, x)?;
    let (walked, summed) = (chain(pool, x)?, chain(pool, x)?);
    let (cloned, listed, flat) = (list(x), list(x), vec![0; x * LENGTH]);
    let pool = pool.clone();
    Ok([
        (build, "mbuf", step(move || chain(&pool, x))),
        (build, "bytes", step(move || Ok(list(x)))),
        (share, "mbuf", step(move || shared.share())),
        (share, "bytes", step(move || Ok(cloned.clone()))),
        (
            walk,
            "mbuf",
            step(move || {
                let mut vector = SmallVec::<[IoSlice<'_>; MOST]>::new();
                black_box(&walked).io_slices(&mut vector)?;
                Ok(black_box(&vector).len())
            }),
        ),
        (
            walk,
            "bytes",
            step(move || {
                let mut vector = SmallVec::<[IoSlice<'_>; MOST]>::new();
                vector.extend(black_box(&listed).iter().map(|bytes| IoSlice::new(bytes)));
                Ok(black_box(&vector).len())
            }),
        ),
        (sum, "mbuf", step(move || black_box(&summed).checksum(..))),
        (sum, "mbuf, one slice", step(move || Ok(checksum::of(black_box(&flat))))),
    ])
}

/// What comes of the operation is dropped, as a part of it.
fn step<T>(mut operation: impl FnMut() -> mbuf::Result<T> + 'static) -> Step {
    Box::new(move || {
        drop(black_box(operation()?));
        Ok(1)
    })
}

/// So many clusters of 2 KiB.
fn chain(pool: &Pool, segments: usize) -> mbuf::Result<Chain> {
    let segment = || -> mbuf::Result<Chain> {
        let mut chain = pool.chain_in(Class::K2, MOST)?;
        chain.append(LENGTH)?;
        Ok(chain)
    };
    let mut chain = segment()?;
    for _ in 1..segments {
        chain.concat(segment()?)?;
    }
    Ok(chain)
}

fn list(segments: usize) -> Vec<Bytes> {
    let segment = |_| {
        let mut bytes = BytesMut::with_capacity(Class::K2.data_len());
        bytes.resize(LENGTH, 0);
        bytes.freeze()
    };
    (0..segments).map(segment).collect()
}
