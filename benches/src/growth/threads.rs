//! 1 or 2 threads, each on a core: allocating and freeing by itself, and handing over to the other.

use std::{
    hint::black_box,
    sync::mpsc::{self, SyncSender},
    thread,
    time::Instant,
};

use anyhow::{Context, bail};
use bytes::BytesMut;
use mbuf::{Class, Pool};

use super::{Pace, timed};
use crate::{
    files::process::go_on,
    machine,
    row::{Measure, Row},
};

/// Buffers that are handed over together.
const BATCH: usize = 32;
/// Batches that may be on their way.
const DEPTH: usize = 8;
const SIZE: usize = 2048;

type Figures = Vec<(&'static str, &'static str, usize, Vec<f64>)>;

pub fn run(pace: Pace) -> anyhow::Result<Vec<Row>> {
    let pool = Pool::builder().count(Class::Small, 4096).count(Class::K2, 4096).build()?;
    let mbuf = || pool.chain_in(Class::K2, 64).context("a chain");
    let bytes = || Ok(BytesMut::with_capacity(SIZE));
    let boxed = || Ok(Box::<[u8; SIZE]>::new_uninit());
    let mut figures = Figures::new();
    for round in 0..=pace.rounds {
        go_on()?;
        let pace = if round == 0 { Pace { time: pace.time / 10, ..pace } } else { pace };
        let mut figure = |what, who, x, each: anyhow::Result<f64>| {
            let each = each.context(who)?;
            let same =
                |entry: &&mut (&str, &str, usize, _)| (entry.0, entry.1, entry.2) == (what, who, x);
            match figures.iter_mut().find(same) {
                // The first round warms up, and does not count.
                None => figures.push((what, who, x, Vec::new())),
                Some((.., rounds)) => rounds.push(each),
            }
            anyhow::Ok(())
        };
        let own = "threads: a 2 KiB buffer, allocated and freed";
        let over = "threads: a 2 KiB buffer, freed by the last thread";
        for x in [1, 2] {
            figure(own, "mbuf", x, alone(x, pace, mbuf))?;
            figure(own, "bytes", x, alone(x, pace, bytes))?;
            figure(own, "Box", x, alone(x, pace, boxed))?;
            figure(over, "mbuf", x, hand_over(x, pace, mbuf))?;
            figure(over, "bytes", x, hand_over(x, pace, bytes))?;
            figure(over, "Box", x, hand_over(x, pace, boxed))?;
        }
    }
    let row = |(what, who, x, rounds): (&str, &str, usize, Vec<f64>)| {
        Row::new(what, who, Measure::Nanoseconds, rounds).at(x as f64)
    };
    Ok(figures.into_iter().map(|(what, who, x, rounds)| row((what, who, x, rounds))).collect())
}

/// Nanoseconds for a buffer of each thread, while all of them do the same.
fn alone<T>(
    threads: usize,
    pace: Pace,
    make: impl Fn() -> anyhow::Result<T> + Sync,
) -> anyhow::Result<f64> {
    let work = |core: usize| {
        machine::pin(core);
        timed(pace.time, &mut || {
            drop(black_box(make()?));
            Ok(1)
        })
    };
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|core| scope.spawn(move || work(core))).collect();
        let count = threads.len() as f64;
        let mut sum = 0.0;
        for thread in threads {
            sum += thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(sum / count)
    })
}

/// Nanoseconds for a buffer that is allocated by the first thread and freed by the last, which is
/// the same one where there is but one.
fn hand_over<T: Send>(
    threads: usize,
    pace: Pace,
    make: impl Fn() -> anyhow::Result<T> + Sync,
) -> anyhow::Result<f64> {
    thread::scope(|scope| {
        let (full, taken) = mpsc::sync_channel::<Vec<T>>(DEPTH);
        let (empty, emptied) = mpsc::sync_channel(DEPTH);
        for _ in 0..DEPTH {
            give_back(&empty, Vec::with_capacity(BATCH));
        }
        let (make, back) = (&make, empty.clone());
        let first = scope.spawn(move || {
            machine::pin(0);
            if threads == 1 {
                let mut batch = Vec::with_capacity(BATCH);
                return timed(pace.time, &mut || fill(&mut batch, make).map(|()| free(&mut batch)));
            }
            let start = Instant::now();
            let mut done = 0;
            while start.elapsed() < pace.time {
                let Ok(mut batch) = emptied.recv() else { bail!("the other thread has ended") };
                fill(&mut batch, make)?;
                if full.send(batch).is_err() {
                    bail!("the other thread has ended");
                }
                done += BATCH;
            }
            Ok(start.elapsed().as_nanos() as f64 / done as f64)
        });
        let last = scope.spawn(move || {
            machine::pin(1);
            for mut batch in taken {
                free(&mut batch);
                give_back(&back, batch);
            }
        });
        drop(empty);
        let each = first.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        last.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        Ok(each)
    })
}

fn fill<T>(batch: &mut Vec<T>, make: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<()> {
    for _ in 0..BATCH {
        batch.push(make()?);
    }
    Ok(())
}

/// How many there were.
fn free<T>(batch: &mut Vec<T>) -> usize {
    black_box(batch).drain(..).count()
}

fn give_back<T>(back: &SyncSender<Vec<T>>, batch: Vec<T>) {
    // The first thread ends first, and then nobody wants it.
    let _ = back.send(batch);
}
