//! Allocated on one core, freed on the other.

use std::{
    hint::{black_box, spin_loop},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use rtrb::RingBuffer;

use super::case::Side;
use crate::machine;

/// How many are handed over at once, and how many may be on the way: as in `dpdk/buffers.c`.
const BURST: usize = 32;
const FLIGHT: usize = 1024;

/// What `make` makes here is dropped on the other core.
pub fn side<T: Send>(who: &'static str, make: impl Fn() -> anyhow::Result<T> + 'static) -> Side {
    Side::new(who, 1, move |times| hand_over(times as usize, &make))
}

/// From the first that is made until the last is dropped.
fn hand_over<T: Send>(
    times: usize,
    make: &impl Fn() -> anyhow::Result<T>,
) -> anyhow::Result<Duration> {
    let (mut give, mut take) = RingBuffer::new(FLIGHT);
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            machine::pin(machine::CLIENT_CORE);
            ready.wait();
            // The giver that failed is gone, and what it gave was taken.
            while !(take.is_abandoned() && take.is_empty()) {
                match take.read_chunk(take.slots().min(BURST)) {
                    Ok(chunk) if !chunk.is_empty() => chunk.into_iter().for_each(drop),
                    _ => spin_loop(),
                }
            }
            Instant::now()
        });
        ready.wait();
        let start = Instant::now();
        let given = give_all(times, make, &mut give);
        drop(give);
        let end = other.join().map_err(|_| anyhow!("the thread on the other core panicked"))?;
        given.map(|()| end - start)
    })
}

fn give_all<T>(
    times: usize,
    make: &impl Fn() -> anyhow::Result<T>,
    give: &mut rtrb::Producer<T>,
) -> anyhow::Result<()> {
    let mut burst = Vec::with_capacity(BURST);
    let mut left = times;
    while left > 0 {
        let n = left.min(BURST);
        for _ in 0..n {
            burst.push(black_box(make()?));
        }
        while give.slots() < n {
            spin_loop();
        }
        if let Ok(chunk) = give.write_chunk_uninit(n) {
            chunk.fill_from_iter(burst.drain(..));
        }
        left -= n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, sync::Arc};

    use super::*;

    #[test]
    fn each_arrives_once_also_where_one_cannot_be_made() {
        let one = Arc::new(());
        hand_over(5000, &|| Ok(one.clone())).unwrap();
        assert_eq!(Arc::strong_count(&one), 1);

        let left = Cell::new(100);
        let run_out = || {
            left.set(left.get() - 1);
            if left.get() == 0 { Err(anyhow!("none left")) } else { Ok(one.clone()) }
        };
        assert!(hand_over(5000, &run_out).is_err());
        assert_eq!(Arc::strong_count(&one), 1);
    }
}
