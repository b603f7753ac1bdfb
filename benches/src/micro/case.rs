//! A case, its sides, and how long an operation of a side takes.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use mbuf::Pool;

/// What is done, and by whom. The sides are made when its turn comes, and dropped after it.
pub struct Case {
    pub name: String,
    pub sides: Box<dyn FnOnce() -> anyhow::Result<Vec<Side>>>,
}

impl Case {
    pub fn new(
        name: impl Into<String>,
        sides: impl FnOnce() -> anyhow::Result<Vec<Side>> + 'static,
    ) -> Case {
        Case { name: name.into(), sides: Box::new(sides) }
    }
}

/// One side of a case.
pub struct Side {
    pub who: &'static str,
    /// How many things (buffers, packets) an operation deals with: the figure is that of one.
    pub things: usize,
    /// What another program is asked for, if that does it.
    pub asked: Option<&'static str>,
    _pool: Option<Pool>,
    run: Box<dyn FnMut(u64) -> anyhow::Result<Duration>>,
}

impl Side {
    /// A side that does the operation so many times and says how long they took.
    pub fn new(
        who: &'static str,
        things: usize,
        run: impl FnMut(u64) -> anyhow::Result<Duration> + 'static,
    ) -> Side {
        Side { who, things, asked: None, _pool: None, run: Box::new(run) }
    }

    /// An operation that is done over and over again, and nothing else.
    pub fn repeat<T>(
        who: &'static str,
        things: usize,
        mut operation: impl FnMut() -> anyhow::Result<T> + 'static,
    ) -> Side {
        Side::new(who, things, move |times| {
            let start = Instant::now();
            for _ in 0..times {
                black_box(operation()?);
            }
            Ok(start.elapsed())
        })
    }

    /// Keeps a handle of mbuf's pool: a pool of which only chains are left is closing, and has no
    /// caches any more.
    pub fn keep(&mut self, pool: Pool) {
        self._pool = Some(pool);
    }

    /// How many operations take about so long. The faster of two runs counts: a thread that comes
    /// late, or a page that is touched for the first time, is no measure.
    pub fn calibrate(&mut self, time: Duration) -> anyhow::Result<u64> {
        let mut times = 1;
        loop {
            let taken = (self.run)(times)?.min((self.run)(times)?);
            if taken >= time / 8 {
                return Ok(fitting(times, taken, time));
            }
            times *= 2;
        }
    }

    /// Nanoseconds that each thing takes, if the operation is done so many times.
    pub fn nanoseconds(&mut self, times: u64) -> anyhow::Result<f64> {
        let taken = (self.run)(times)?;
        Ok(taken.as_nanos() as f64 / (times as f64 * self.things as f64))
    }
}

fn fitting(times: u64, taken: Duration, time: Duration) -> u64 {
    let fit = times as f64 * (time.as_secs_f64() / taken.as_secs_f64().max(1e-9));
    (fit as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_calibrated_and_counted_by_its_things() {
        let mut side = Side::new("clock", 32, |times| Ok(Duration::from_nanos(320 * times)));
        assert_eq!(side.calibrate(Duration::from_micros(32)).unwrap(), 100);
        assert_eq!(side.nanoseconds(100).unwrap(), 10.0);
    }

    #[test]
    fn what_takes_too_long_is_done_once() {
        assert_eq!(fitting(1, Duration::from_secs(1), Duration::from_millis(5)), 1);
    }
}
