//! Sinks that take what, and when, they like.

use std::io;

use crate::{
    chain::Chain,
    error::Error,
    io::{Sent, Sink},
    queue::Queue,
};

use super::Rng;

/// A sink that takes everything and keeps a copy.
///
/// ```
/// use mbuf::{Queue, io::{Sent, Sink}, testing::{Collector, plain_pool}};
///
/// let pool = plain_pool();
/// let mut queue = Queue::new(8, 1000);
/// queue.push(pool.chain_from(b"one")?)?;
/// queue.push(pool.chain_from(b"two")?)?;
/// let mut sink = Collector::new();
/// assert_eq!(sink.send(&mut queue)?, Sent::All);
/// assert_eq!(sink.packets(), [b"one", b"two"]);
/// assert_eq!(sink.bytes(), b"onetwo");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collector {
    packets: Vec<Vec<u8>>,
}

impl Collector {
    /// A sink that has taken nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The chains that it took, one by one.
    pub fn packets(&self) -> &[Vec<u8>] {
        &self.packets
    }

    /// All bytes that it took, as a stream.
    pub fn bytes(&self) -> Vec<u8> {
        self.packets.concat()
    }
}

impl Sink for Collector {
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent> {
        while let Some(chain) = queue.front() {
            self.packets.push(chain.to_vec()?);
            queue.pop();
        }
        Ok(Sent::All)
    }
}

/// What a [`FaultySink`] does at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Takes at most so many bytes, then blocks.
    Take(usize),
    /// Takes one chain whole, then blocks.
    Chain,
    /// Takes everything.
    All,
    /// Takes nothing.
    WouldBlock,
    /// Fails with [`io::ErrorKind::Interrupted`] (EINTR), having taken nothing.
    Interrupted,
}

/// In which order a [`FaultySink`] does what.
#[derive(Debug, Clone)]
pub struct Schedule(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Steps { steps: Vec<Step>, next: usize },
    Seeded(Rng),
}

impl Schedule {
    /// These steps, over and over; none at all means [`Step::All`].
    pub fn steps(steps: impl Into<Vec<Step>>) -> Self {
        Self(Kind::Steps { steps: steps.into(), next: 0 })
    }

    /// Steps by chance: mostly short takes, of 1 to 2,000 bytes.
    pub fn seeded(seed: u64) -> Self {
        Self(Kind::Seeded(Rng::new(seed)))
    }

    fn step(&mut self) -> Step {
        match &mut self.0 {
            Kind::Steps { steps, next } => {
                let step = steps.get(*next).copied().unwrap_or(Step::All);
                *next = (*next + 1) % steps.len().max(1);
                step
            }
            Kind::Seeded(rng) => match rng.below(8) {
                0 => Step::WouldBlock,
                1 => Step::Interrupted,
                2 => Step::All,
                3 => Step::Take(1),
                4 => Step::Take(rng.between(1, 2000)),
                _ => Step::Take(rng.between(1, 40)),
            },
        }
    }
}

/// A sink before another one, that takes little at a time, blocks or is interrupted, as a
/// [`Schedule`] has it. For a stream: [`Step::Take`] ends in the middle of a chain. For packets
/// use steps that do not.
///
/// ```
/// use mbuf::{Queue, io::{Sent, Sink}, testing::{Collector, FaultySink, Schedule, Step, plain_pool}};
///
/// let mut queue = Queue::new(8, 1000);
/// queue.push(plain_pool().chain_from(b"abc")?)?;
/// let mut sink = FaultySink::new(Collector::new(), Schedule::steps([Step::Take(2), Step::All]));
/// assert_eq!(sink.send(&mut queue)?, Sent::WouldBlock);
/// assert_eq!(queue.bytes(), 1); // exactly what was not taken
/// assert_eq!(sink.send(&mut queue)?, Sent::All);
/// assert_eq!(sink.inner().bytes(), b"abc");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FaultySink<S> {
    inner: S,
    schedule: Schedule,
    /// What was taken and the inner sink has not taken yet; it goes first.
    taken: Queue,
    calls: u64,
}

impl<S: Sink> FaultySink<S> {
    /// Puts the schedule before `inner`.
    pub fn new(inner: S, schedule: Schedule) -> Self {
        Self { inner, schedule, taken: Queue::new(usize::MAX, usize::MAX), calls: 0 }
    }

    /// The sink behind it.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The sink behind it, given back.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// How often it was called.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    fn take_bytes(&mut self, queue: &mut Queue, mut n: usize) -> io::Result<()> {
        while n > 0 {
            let Some(len) = queue.front().map(Chain::len) else { break };
            if len <= n {
                self.take_chain(queue)?;
            } else {
                let piece = take_front(queue, n)?;
                self.taken.push(piece).map_err(Error::from)?;
            }
            n -= len.min(n);
        }
        Ok(())
    }

    fn take_chain(&mut self, queue: &mut Queue) -> io::Result<()> {
        if let Some(chain) = queue.pop() {
            self.taken.push(chain).map_err(Error::from)?;
        }
        Ok(())
    }
}

impl<S: Sink> Sink for FaultySink<S> {
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent> {
        self.calls += 1;
        match self.schedule.step() {
            Step::Take(n) => self.take_bytes(queue, n)?,
            Step::Chain => self.take_chain(queue)?,
            Step::All => self.take_bytes(queue, usize::MAX)?,
            Step::WouldBlock => return Ok(Sent::WouldBlock),
            Step::Interrupted => return Err(io::ErrorKind::Interrupted.into()),
        }
        let sent = self.inner.send(&mut self.taken)?;
        Ok(if queue.is_empty() { sent } else { Sent::WouldBlock })
    }
}

/// The first `n` bytes of the first chain, which has more, as a chain of their own.
fn take_front(queue: &mut Queue, n: usize) -> Result<Chain, Error> {
    let mut taken = Err(Error::Invalid("an empty queue"));
    queue.for_each_mut(|chain| {
        taken = chain.split_off(n).map(|rest| std::mem::replace(chain, rest));
        false
    });
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_all_free, plain_pool};

    fn drain<S: Sink>(sink: &mut FaultySink<S>, queue: &mut Queue) -> usize {
        let mut calls = 0;
        loop {
            calls += 1;
            assert!(calls < 100_000, "never done: {} bytes left", queue.bytes());
            match sink.send(queue) {
                Ok(Sent::All) => return calls,
                Ok(Sent::WouldBlock) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted),
            }
        }
    }

    #[test]
    fn whatever_the_schedule_what_arrives_is_what_was_sent() {
        let pool = plain_pool();
        let mut schedules = vec![
            Schedule::steps([]),
            Schedule::steps([Step::Take(1)]),
            Schedule::steps([Step::Chain, Step::WouldBlock]),
            Schedule::steps([Step::Interrupted, Step::Take(7), Step::WouldBlock]),
        ];
        schedules.extend((0..50).map(Schedule::seeded));
        for (n, schedule) in schedules.into_iter().enumerate() {
            let mut rng = Rng::new(n as u64);
            let mut queue = Queue::new(1000, 1 << 20);
            let mut all = Vec::new();
            for _ in 0..10 {
                let len = rng.between(0, 300);
                let bytes = rng.bytes(len);
                queue.push(pool.chain_from(&bytes).unwrap()).unwrap();
                all.extend(bytes);
            }
            let mut sink = FaultySink::new(Collector::new(), schedule);
            drain(&mut sink, &mut queue);
            assert_eq!(sink.inner().bytes(), all, "schedule {n}");
            assert_eq!((queue.len(), queue.bytes()), (0, 0));
            assert_all_free(&pool);
        }
    }

    #[test]
    fn each_step_takes_what_it_says_and_the_queue_keeps_the_rest() {
        let pool = plain_pool();
        let steps = [Step::WouldBlock, Step::Interrupted, Step::Take(4), Step::Chain, Step::All];
        let mut queue = Queue::new(8, 100);
        for bytes in ["abc", "def", "ghi"] {
            queue.push(pool.chain_from(bytes.as_bytes()).unwrap()).unwrap();
        }
        let mut sink = FaultySink::new(Collector::new(), Schedule::steps(steps));
        let mut left = Vec::new();
        for _ in steps {
            let _ = sink.send(&mut queue);
            left.push(queue.bytes());
        }
        assert_eq!(left, [9, 9, 5, 3, 0]);
        assert_eq!(sink.inner().packets(), [&b"abc"[..], b"d", b"ef", b"ghi"]);
        assert_eq!(sink.calls(), 5);
    }
}
