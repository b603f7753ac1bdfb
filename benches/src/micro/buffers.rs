//! Buffers: what mbuf does with a pool, beside DPDK (`dpdk/buffers.c`), the crate `bytes`, a `Box`
//! (where it is shared, an `Arc`) of the system's allocator, and mimalloc. Where data is put in, every
//! side copies as much; what a side cannot do has no row.

use std::{
    cell::RefCell,
    hint::black_box,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    sync::Arc,
};

use anyhow::ensure;
use bytes::BytesMut;
use mbuf::{Batch, Chain, Class, Pool};

use super::{
    across,
    case::{Case, Side},
    mimalloc::Block,
    program::{self, Program},
};

/// Bytes of data of a small buffer, and of a large one.
const SMALL: usize = 128;
const LARGE: usize = 2048;
/// In front of the data of a large one, where something is put before it: as much as DPDK keeps.
const HEADROOM: usize = 128;
const BURST: usize = 32;
const FLIGHT: usize = 1024;
const SEGMENTS: usize = 4;
static PAYLOAD: [u8; 300] = [7; 300];

/// DPDK as a process that waits to be asked, if it is installed.
pub type Dpdk = Option<Rc<RefCell<Program>>>;

/// Builds the program in C, where DPDK is installed.
pub fn compile_dpdk() -> anyhow::Result<Option<PathBuf>> {
    program::compile("DPDK", "dpdk/buffers.c", Some("libdpdk"))
}

/// What it is started with, on so many cores: the server's, and the client's for a single case.
/// Without huge pages DPDK refuses `--in-memory`; the first four are what is left of it.
pub fn dpdk_arguments(cores: usize) -> [&'static str; 7] {
    let cores = if cores > 1 { "0,1" } else { "0" };
    ["--no-huge", "--no-pci", "--no-shconf", "--no-telemetry", "--log-level=4", "-l", cores]
}

/// Starts it.
pub fn start_dpdk(path: &Path, cores: usize) -> anyhow::Result<Rc<RefCell<Program>>> {
    let mut command = Command::new(path);
    command.args(dpdk_arguments(cores));
    Ok(Rc::new(RefCell::new(Program::start("DPDK", command, b"")?)))
}

/// All cases on so many cores; with one, nothing is freed on another.
pub fn cases(dpdk: &Dpdk, cores: usize) -> Vec<Case> {
    let mut all = vec![
        case("one small buffer", dpdk, |_, pool| {
            Ok(vec![
                one("mbuf", move || Ok(pool.chain()?)),
                one("bytes", || Ok(BytesMut::with_capacity(SMALL))),
                one("Box", || Ok(Box::<[u8; SMALL]>::new_uninit())),
                one("mimalloc", || Ok(Block::<SMALL>::new())),
            ])
        }),
        case("one 2 KiB buffer", dpdk, |_, pool| {
            Ok(vec![
                one("mbuf", move || Ok(pool.chain_in(Class::K2, 0)?)),
                one("bytes", || Ok(BytesMut::with_capacity(LARGE))),
                one("Box", || Ok(Box::<[u8; LARGE]>::new_uninit())),
                one("mimalloc", || Ok(Block::<LARGE>::new())),
            ])
        }),
        // Small ones, as what mbuf allocates at once; DPDK's bulk calls are a side of their own.
        case("32 at once", dpdk, |dpdk, pool| {
            let mut sides = vec![
                batch(pool),
                many("bytes", BURST, || Ok(BytesMut::with_capacity(SMALL))),
                many("Box", BURST, || Ok(Box::<[u8; SMALL]>::new_uninit())),
                many("mimalloc", BURST, || Ok(Block::<SMALL>::new())),
            ];
            sides.extend(dpdk_side("DPDK, bulk", dpdk, "32 at once, bulk"));
            Ok(sides)
        }),
        case("1,024 in flight", dpdk, |_, pool| {
            Ok(vec![
                many("mbuf", FLIGHT, move || Ok(pool.chain_in(Class::K2, 0)?)),
                many("bytes", FLIGHT, || Ok(BytesMut::with_capacity(LARGE))),
                many("Box", FLIGHT, || Ok(Box::<[u8; LARGE]>::new_uninit())),
                many("mimalloc", FLIGHT, || Ok(Block::<LARGE>::new())),
            ])
        }),
        // A heap buffer has no room before its data.
        case("prepend 14, trim 14", dpdk, |_, pool| Ok(vec![prepend(&pool)?])),
        case("append 64, trim 64", dpdk, |_, pool| Ok(vec![append_mbuf(&pool)?, append_bytes()])),
        case("share, drop the share", dpdk, |_, pool| {
            Ok(vec![share_mbuf(&pool)?, share_bytes(), share_arc()])
        }),
        case("allocate, share, drop both", dpdk, |_, pool| {
            Ok(vec![
                one("mbuf", move || {
                    let mut chain = filled(&pool, 64)?;
                    let share = chain.share()?;
                    Ok((chain, black_box(share)))
                }),
                one("bytes", || {
                    let mut buffer = BytesMut::with_capacity(LARGE);
                    buffer.extend_from_slice(&PAYLOAD[..64]);
                    let buffer = buffer.freeze();
                    Ok((buffer.clone(), black_box(buffer)))
                }),
                one("Arc", || {
                    let mut buffer = Vec::with_capacity(LARGE);
                    buffer.extend_from_slice(&PAYLOAD[..64]);
                    let buffer = Arc::new(buffer);
                    Ok((buffer.clone(), black_box(buffer)))
                }),
            ])
        }),
        // The heap's sides keep their four segments in an array, each as long as its data.
        case("chain of four", dpdk, |_, pool| {
            Ok(vec![
                one("mbuf", move || chain_of_four(&pool)),
                one("bytes", || Ok([(); SEGMENTS].map(|()| BytesMut::from(&PAYLOAD[..])))),
                one("Box", || Ok([(); SEGMENTS].map(|()| Box::<[u8]>::from(&PAYLOAD[..])))),
            ])
        }),
        // mbuf and DPDK gather the bytes behind those of the first segment.
        case("chain of four, linearized", dpdk, |_, pool| {
            Ok(vec![
                one("mbuf", move || {
                    let mut chain = chain_of_four(&pool)?;
                    chain.pullup(SEGMENTS * PAYLOAD.len())?;
                    Ok(chain)
                }),
                one("bytes", || {
                    let segments = black_box([(); SEGMENTS].map(|()| BytesMut::from(&PAYLOAD[..])));
                    let mut whole = BytesMut::with_capacity(SEGMENTS * PAYLOAD.len());
                    segments.iter().for_each(|segment| whole.extend_from_slice(segment));
                    Ok((whole, segments))
                }),
                one("Box", || {
                    let segments = [(); SEGMENTS].map(|()| Box::<[u8]>::from(&PAYLOAD[..]));
                    let segments = black_box(segments);
                    Ok((segments.concat(), segments))
                }),
            ])
        }),
    ];
    if cores > 1 {
        all.push(case("freed on the other core", dpdk, |_, pool| {
            Ok(vec![
                across::side("mbuf", move || Ok(pool.chain_in(Class::K2, 0)?)),
                across::side("bytes", || Ok(BytesMut::with_capacity(LARGE))),
                across::side("Box", || Ok(Box::<[u8; LARGE]>::new_uninit())),
                across::side("mimalloc", || Ok(Block::<LARGE>::new())),
            ])
        }));
    }
    all
}

/// A case with a pool of its own for mbuf, as large as DPDK's, and DPDK where it is there.
fn case(
    name: &'static str,
    dpdk: &Dpdk,
    sides: impl FnOnce(&Dpdk, Pool) -> anyhow::Result<Vec<Side>> + 'static,
) -> Case {
    let dpdk = dpdk.clone();
    Case::new(name, move || {
        let pool = Pool::builder().count(Class::Small, 2 * 8191).count(Class::K2, 8191).build()?;
        let mut sides = sides(&dpdk, pool.clone())?;
        sides[0].keep(pool);
        sides.extend(dpdk_side("DPDK", &dpdk, name));
        Ok(sides)
    })
}

fn dpdk_side(who: &'static str, dpdk: &Dpdk, case: &'static str) -> Option<Side> {
    let things = match case {
        "32 at once" | "32 at once, bulk" => BURST,
        "1,024 in flight" => FLIGHT,
        _ => 1,
    };
    let none_in_use = move |_, in_use| {
        ensure!(in_use == 0, "{in_use} buffers of DPDK are in use after `{case}`");
        Ok(())
    };
    Some(program::side(who, things, dpdk.as_ref()?, case, none_in_use))
}

/// One is made and dropped.
fn one<T>(who: &'static str, make: impl Fn() -> anyhow::Result<T> + 'static) -> Side {
    Side::repeat(who, 1, make)
}

/// So many are made, one by one, then all dropped.
fn many<T: 'static>(
    who: &'static str,
    n: usize,
    make: impl Fn() -> anyhow::Result<T> + 'static,
) -> Side {
    let mut kept = Vec::with_capacity(n);
    Side::repeat(who, n, move || {
        for _ in 0..n {
            kept.push(black_box(make()?));
        }
        kept.clear();
        Ok(())
    })
}

fn batch(pool: Pool) -> Side {
    let mut batch = Batch::with_limit(BURST);
    Side::repeat("mbuf", BURST, move || {
        pool.alloc_batch(BURST, &mut batch)?;
        black_box(&mut batch).clear();
        Ok(())
    })
}

fn prepend(pool: &Pool) -> anyhow::Result<Side> {
    let header: [u8; 14] = [7; 14];
    let mut chain = filled(pool, 64)?;
    Ok(Side::repeat("mbuf", 1, move || {
        chain.push(black_box(&header))?;
        Ok(black_box(&mut chain).trim_front(header.len())?)
    }))
}

fn append_mbuf(pool: &Pool) -> anyhow::Result<Side> {
    let mut chain = filled(pool, 64)?;
    Ok(Side::repeat("mbuf", 1, move || {
        chain.extend_from_slice(black_box(&PAYLOAD[..64]))?;
        Ok(black_box(&mut chain).trim_back(64)?)
    }))
}

fn append_bytes() -> Side {
    let mut buffer = BytesMut::with_capacity(LARGE);
    buffer.extend_from_slice(&PAYLOAD[..64]);
    Side::repeat("bytes", 1, move || {
        buffer.extend_from_slice(black_box(&PAYLOAD[..64]));
        black_box(&mut buffer).truncate(64);
        Ok(())
    })
}

fn share_mbuf(pool: &Pool) -> anyhow::Result<Side> {
    let mut chain = filled(pool, 64)?;
    // A pool without a handle is closing, and does without caches.
    let pool = pool.clone();
    Ok(Side::repeat("mbuf", 1, move || {
        black_box(&pool);
        Ok(chain.share()?)
    }))
}

fn share_bytes() -> Side {
    let mut buffer = BytesMut::with_capacity(LARGE);
    buffer.extend_from_slice(&PAYLOAD[..64]);
    let buffer = buffer.freeze();
    Side::repeat("bytes", 1, move || Ok(buffer.clone()))
}

fn share_arc() -> Side {
    let buffer = Arc::new(Vec::from(&PAYLOAD[..64]));
    Side::repeat("Arc", 1, move || Ok(buffer.clone()))
}

/// One 2 KiB cluster with so many bytes copied into it.
fn filled(pool: &Pool, bytes: usize) -> anyhow::Result<Chain> {
    let mut chain = pool.chain_in(Class::K2, HEADROOM)?;
    chain.extend_from_slice(&PAYLOAD[..bytes])?;
    Ok(chain)
}

fn chain_of_four(pool: &Pool) -> anyhow::Result<Chain> {
    let mut chain = filled(pool, PAYLOAD.len())?;
    for _ in 1..SEGMENTS {
        chain.concat(filled(pool, PAYLOAD.len())?)?;
    }
    Ok(chain)
}
