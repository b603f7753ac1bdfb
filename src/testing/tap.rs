//! A tap on any edge.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    chain::Chain,
    meta::Meta,
    stack::{Context, Direction, Edge, LayerInfo, Outcome, Protocol, Time},
};

/// A copy of a chain that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Which way it went.
    pub direction: Direction,
    /// When, in the stack's time.
    pub time: Time,
    /// Its bytes, as many as were asked for.
    pub bytes: Vec<u8>,
    /// How long it was.
    pub len: usize,
    /// In how many segments it came.
    pub segments: usize,
    /// What it carried beside its bytes.
    pub meta: Meta,
}

/// A layer that changes nothing and records copies of all that passes. It may be put on any edge
/// between two layers; what it copies to is a [`Record`], read from outside the stack.
///
/// Bounded: the record keeps the last so many chains, and of each the first so many bytes. It
/// allocates for each chain: it is for tests and for looking, not for production.
///
/// ```
/// use mbuf::{stack::{Edge, PortId, Stack}, testing::{Direction, Tap, plain_pool}};
///
/// let pool = plain_pool();
/// let (lower, record) = Tap::new("lower", Edge::Packets, 100, 1500);
/// let (upper, _) = Tap::new("upper", Edge::Packets, 100, 1500);
/// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(lower), Box::new(upper)])?;
/// stack.input_one(PortId(0), pool.chain_from(b"hello")?);
/// let passed = record.take();
/// assert_eq!((passed[0].direction, &passed[0].bytes[..]), (Direction::Up, &b"hello"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Tap {
    name: String,
    edge: Edge,
    record: Record,
}

impl Tap {
    /// A tap for an edge of this kind, and its record, which keeps the last `chains` chains and
    /// of each the first `bytes` bytes.
    pub fn new(name: &str, edge: Edge, chains: usize, bytes: usize) -> (Tap, Record) {
        let state = State { kept: VecDeque::new(), chains, bytes, passed: 0 };
        let record = Record(Arc::new(Mutex::new(state)));
        (Tap { name: name.to_owned(), edge, record: record.clone() }, record)
    }
}

impl Protocol for Tap {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(self.edge, self.edge).stateless()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        self.record.add(Direction::Up, &chain, cx.now());
        cx.up(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        self.record.add(Direction::Down, &chain, cx.now());
        cx.down(chain)
    }
}

/// What a [`Tap`] has recorded. A clone is the same record.
#[derive(Debug, Clone)]
pub struct Record(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    kept: VecDeque<Recorded>,
    chains: usize,
    bytes: usize,
    passed: u64,
}

impl Record {
    /// Takes what was recorded, in the order in which it passed.
    pub fn take(&self) -> Vec<Recorded> {
        self.lock().kept.drain(..).collect()
    }

    /// How many chains have passed, those that are no longer kept included.
    pub fn passed(&self) -> u64 {
        self.lock().passed
    }

    /// The bytes of what went that way and is still kept.
    pub fn bytes(&self, direction: Direction) -> Vec<Vec<u8>> {
        let state = self.lock();
        let chosen = state.kept.iter().filter(|recorded| recorded.direction == direction);
        chosen.map(|recorded| recorded.bytes.clone()).collect()
    }

    fn add(&self, direction: Direction, chain: &Chain, time: Time) {
        let mut state = self.lock();
        state.passed += 1;
        if state.chains == 0 {
            return;
        }
        if state.kept.len() == state.chains {
            state.kept.pop_front();
        }
        let mut bytes = vec![0; chain.len().min(state.bytes)];
        if chain.peek(0, &mut bytes).is_err() {
            // The bytes of a mapped file are for system calls only: recorded as absent.
            bytes.clear();
        }
        let recorded = Recorded {
            direction,
            time,
            bytes,
            len: chain.len(),
            segments: chain.segments(),
            meta: *chain.meta(),
        };
        state.kept.push_back(recorded);
    }

    /// A test that panicked with the lock held has not broken the record.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_all_free, cut, plain_pool};

    #[test]
    fn a_record_is_bounded_in_chains_and_bytes() {
        let pool = plain_pool();
        let (tap, record) = Tap::new("tap", Edge::Packets, 2, 3);
        assert_eq!(tap.name(), "tap");
        for n in 0..5_u8 {
            let chain = cut(&pool, &[n; 10], &[1, 2]).unwrap();
            record.add(Direction::Up, &chain, Time::from_nanos(n.into()));
        }
        assert_eq!(record.passed(), 5);
        assert_eq!(record.bytes(Direction::Up), [[3; 3], [4; 3]]);
        assert!(record.bytes(Direction::Down).is_empty());
        let taken = record.take();
        assert_eq!(taken.len(), 2);
        assert_eq!((taken[1].len, taken[1].segments), (10, 3));
        assert_eq!(taken[1].time, Time::from_nanos(4));
        assert!(record.take().is_empty());
        assert_all_free(&pool);
    }
}
