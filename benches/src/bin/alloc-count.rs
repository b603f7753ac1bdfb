//! One operation, so many times: run under callgrind by `compare instructions`.
//!
//! ```text
//! valgrind --tool=callgrind alloc-count cluster 100000
//! ```

use std::{env, hint::black_box, process::ExitCode};

use mbuf::{Batch, Chain, Class, Pool, Result};

/// Chains in a batch.
const BATCH: usize = 32;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (operation, times) = match &arguments[..] {
        [operation, times] => (operation.as_str(), times.parse().ok()),
        _ => ("", None),
    };
    let Some(times) = times else {
        eprintln!("usage: alloc-count OPERATION TIMES");
        return ExitCode::FAILURE;
    };
    match run(operation, times) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("alloc-count: no operation `{operation}`");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("alloc-count: {operation}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether there is such an operation.
fn run(operation: &str, times: u64) -> Result<bool> {
    let pool = Pool::builder()
        .count(Class::Small, 4096)
        .count(Class::K2, 2048)
        .build()
        .expect("a pool of a few megabytes");
    match operation {
        "loop" => {
            for n in 0..times {
                black_box(n);
            }
        }
        "small" => {
            for _ in 0..times {
                drop(black_box(pool.chain()?));
            }
        }
        "cluster" => {
            for _ in 0..times {
                drop(black_box(pool.chain_in(Class::K2, 64)?));
            }
        }
        "batch" => {
            let mut batch = Batch::with_limit(BATCH);
            for _ in 0..times / BATCH as u64 {
                pool.alloc_batch(BATCH, &mut batch)?;
                drop(black_box(&mut batch).drain());
            }
        }
        "batch-cluster" => {
            let mut batch = Batch::with_limit(BATCH);
            for _ in 0..times / BATCH as u64 {
                pool.alloc_batch_in(Class::K2, 64, BATCH, &mut batch)?;
                drop(black_box(&mut batch).drain());
            }
        }
        "prepend" => {
            let mut chain = pool.chain_from(&[0; 32])?;
            for _ in 0..times {
                black_box(chain.prepend(14)?);
                chain.trim_front(14)?;
            }
        }
        "append" => {
            let mut chain = pool.chain_in(Class::K2, 64)?;
            for _ in 0..times {
                black_box(&mut chain).append(64)?;
                chain.trim_back(64)?;
            }
        }
        "share" => {
            let mut chain = cluster(&pool, 1000)?;
            for _ in 0..times {
                drop(black_box(chain.share()?));
            }
        }
        "chain4" => {
            for _ in 0..times {
                let mut chain = cluster(&pool, 300)?;
                for _ in 0..3 {
                    chain.concat(cluster(&pool, 300)?)?;
                }
                drop(black_box(chain));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// A chain of one 2 KiB cluster with so many bytes in it.
fn cluster(pool: &Pool, bytes: usize) -> Result<Chain> {
    let mut chain = pool.chain_in(Class::K2, 64)?;
    chain.append(bytes)?;
    Ok(chain)
}
