//! Chains in transit: a [`Batch`] on its way through the layers, a [`Queue`] waiting for a sink.

use std::{
    collections::{VecDeque, vec_deque},
    mem,
};

use crate::{
    chain::Chain,
    error::{Error, Rejected, Result},
    pool::Event,
};

/// Chains that are handed on together, in order, so that what a step costs is paid once.
///
/// A batch keeps its memory when it is emptied, so one that is used again and again does not
/// allocate. `limit` is advice to whoever fills it (a source stops there); [`Batch::push`] always
/// takes the chain.
#[derive(Debug)]
pub struct Batch {
    /// The first chains, the very first at the end, where it is taken.
    first: Vec<Chain>,
    /// The chains behind those, in order. They are turned over when `first` runs out.
    later: Vec<Chain>,
    limit: usize,
}

impl Batch {
    /// The usual number of chains in a batch. More gained nothing on a prototype (see
    /// `docs/design.md`).
    pub const USUAL: usize = 32;

    /// How many chains ahead their first bytes are fetched, and twice as many ahead what says where
    /// those are: memory takes as long to answer as a few layers take for so many chains.
    const AHEAD: usize = 8;

    /// An empty batch for the usual number of chains. Allocates twice.
    ///
    /// ```
    /// let batch = mbuf::Batch::new();
    /// assert_eq!((batch.len(), batch.room()), (0, mbuf::Batch::USUAL));
    /// ```
    pub fn new() -> Self {
        Self::with_limit(Self::USUAL)
    }

    /// An empty batch that asks to be filled with up to `limit` chains. Allocates twice.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::with_limit(1);
    /// batch.push(pool.chain()?);
    /// batch.push(pool.chain()?); // the limit is advice
    /// assert_eq!((batch.len(), batch.room()), (2, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_limit(limit: usize) -> Self {
        let limit = limit.max(1);
        Self { first: Vec::with_capacity(limit), later: Vec::with_capacity(limit), limit }
    }

    /// An empty batch that allocates as it first grows.
    pub(crate) fn without_memory() -> Self {
        Self { first: Vec::new(), later: Vec::new(), limit: 1 }
    }

    /// Chains in the batch.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::new();
    /// pool.alloc_batch(5, &mut batch)?;
    /// assert_eq!(batch.len(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.first.len() + self.later.len()
    }

    /// Whether there are none.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::new();
    /// assert!(batch.is_empty());
    /// batch.push(pool.chain()?);
    /// assert!(!batch.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.later.is_empty() && self.first.is_empty()
    }

    /// How many more chains the batch asks for.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::with_limit(8);
    /// pool.alloc_batch(5, &mut batch)?;
    /// assert_eq!(batch.room(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.len())
    }

    /// Adds a chain at the end. Allocates only if the batch grows past its largest size so far.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::new();
    /// batch.push(pool.chain_from(b"first")?);
    /// batch.push(pool.chain_from(b"second")?);
    /// assert_eq!(batch.pop().unwrap().to_vec()?, b"first");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn push(&mut self, chain: Chain) {
        self.later.push(chain);
    }

    /// Where the next `n` chains belong, at the end.
    pub(crate) fn reserve(&mut self, n: usize) -> &mut Vec<Chain> {
        self.later.reserve(n);
        &mut self.later
    }

    /// Takes the first chain.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::new();
    /// batch.push(pool.chain_from(b"only")?);
    /// assert_eq!(batch.pop().map(|chain| chain.len()), Some(4));
    /// assert!(batch.pop().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn pop(&mut self) -> Option<Chain> {
        if self.first.is_empty() {
            self.turn_over();
        }
        self.first.pop()
    }

    /// Has what a layer looks at first of the next chains fetched into the cache. What is
    /// [`AHEAD`](Self::AHEAD) chains behind those is fetched by [`pop_fetching`](Self::pop_fetching),
    /// while the caller works on one that is there already.
    pub(crate) fn begin_fetching(&mut self) {
        if self.first.is_empty() {
            self.turn_over();
        }
        self.next_few(2 * Self::AHEAD).for_each(Chain::prefetch);
        self.next_few(Self::AHEAD).for_each(Chain::prefetch_bytes);
    }

    /// As [`pop`](Self::pop), after [`begin_fetching`](Self::begin_fetching).
    #[inline]
    pub(crate) fn pop_fetching(&mut self) -> Option<Chain> {
        let chain = self.pop()?;
        if let Some(later) = self.first.len().checked_sub(2 * Self::AHEAD) {
            self.first[later].prefetch();
        }
        if let Some(later) = self.first.len().checked_sub(Self::AHEAD) {
            self.first[later].prefetch_bytes();
        }
        Some(chain)
    }

    fn next_few(&self, n: usize) -> impl Iterator<Item = &Chain> {
        self.first.iter().rev().take(n)
    }

    #[cold]
    fn turn_over(&mut self) {
        mem::swap(&mut self.first, &mut self.later);
        self.first.reverse();
    }

    /// The chains in order.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::new();
    /// batch.push(pool.chain_from(b"one")?);
    /// batch.push(pool.chain_from(b"three")?);
    /// assert!(batch.iter().map(|chain| chain.len()).eq([3, 5]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Chain> + Clone {
        self.first.iter().rev().chain(&self.later)
    }

    /// The chains in order, to be changed.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::new();
    /// pool.alloc_batch(2, &mut batch)?;
    /// for chain in batch.iter_mut() {
    ///     chain.extend_from_slice(b"same")?;
    /// }
    /// assert!(batch.iter().all(|chain| chain.len() == 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Chain> {
        self.first.iter_mut().rev().chain(&mut self.later)
    }

    /// Keeps the first `n` chains.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::new();
    /// pool.alloc_batch(5, &mut batch)?;
    /// batch.truncate(2);
    /// assert_eq!((batch.len(), pool.stats().in_use()), (2, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn truncate(&mut self, n: usize) {
        let first = self.first.len();
        self.later.truncate(n.saturating_sub(first));
        self.first.drain(..first.saturating_sub(n));
    }

    /// Drops all chains.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::new();
    /// pool.alloc_batch(5, &mut batch)?;
    /// batch.clear();
    /// assert_eq!((batch.len(), pool.stats().in_use()), (0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear(&mut self) {
        Chain::free_many(self.first.drain(..));
        Chain::free_many(self.later.drain(..));
    }

    /// Moves all chains of `other` to the end of this batch, in order.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let (mut all, mut more) = (mbuf::Batch::new(), mbuf::Batch::new());
    /// pool.alloc_batch(2, &mut all)?;
    /// pool.alloc_batch(3, &mut more)?;
    /// all.append(&mut more);
    /// assert_eq!((all.len(), more.len()), (5, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append(&mut self, other: &mut Batch) {
        self.later.extend(other.first.drain(..).rev());
        self.later.append(&mut other.later);
    }

    /// Takes all chains in order; those not taken from the iterator are dropped.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut batch = mbuf::Batch::new();
    /// pool.alloc_batch(5, &mut batch)?;
    /// let taken: Vec<_> = batch.drain().take(3).collect();
    /// assert_eq!((taken.len(), batch.len(), pool.stats().in_use()), (3, 0, 3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn drain(&mut self) -> impl Iterator<Item = Chain> {
        self.first.drain(..).rev().chain(self.later.drain(..))
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Extend<Chain> for Batch {
    fn extend<I: IntoIterator<Item = Chain>>(&mut self, chains: I) {
        self.later.extend(chains);
    }
}

/// Chains that wait for a sink: first in, first out, bounded in chains and in bytes.
#[derive(Debug)]
pub struct Queue {
    chains: VecDeque<Chain>,
    bytes: usize,
    max_chains: usize,
    max_bytes: usize,
}

impl Queue {
    /// An empty queue that holds at most `max_chains` chains and `max_bytes` bytes. Memory for
    /// chains is allocated as the queue first grows and then kept.
    ///
    /// ```
    /// let queue = mbuf::Queue::new(16, 1 << 20);
    /// assert!(queue.is_empty());
    /// assert_eq!(queue.limits(), (16, 1 << 20));
    /// ```
    pub fn new(max_chains: usize, max_bytes: usize) -> Self {
        Self { chains: VecDeque::new(), bytes: 0, max_chains, max_bytes }
    }

    /// Chains in the queue.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(16, 1 << 20);
    /// queue.push(pool.chain_from(b"one")?)?;
    /// assert_eq!(queue.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.chains.len()
    }

    /// Whether there are none.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(16, 1 << 20);
    /// queue.push(pool.chain()?)?;
    /// assert_eq!((queue.is_empty(), queue.bytes()), (false, 0)); // an empty chain is one, too
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Bytes in the queue.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(16, 1 << 20);
    /// queue.push(pool.chain_from(b"one")?)?;
    /// queue.push(pool.chain_from(b"three")?)?;
    /// assert_eq!(queue.bytes(), 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bounds: chains, bytes.
    ///
    /// ```
    /// assert_eq!(mbuf::Queue::new(16, 1 << 20).limits(), (16, 1 << 20));
    /// ```
    pub fn limits(&self) -> (usize, usize) {
        (self.max_chains, self.max_bytes)
    }

    /// Whether a chain of `bytes` bytes would be taken.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(2, 10);
    /// queue.push(pool.chain_from(b"four")?)?;
    /// assert!(queue.has_room(6) && !queue.has_room(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn has_room(&self, bytes: usize) -> bool {
        self.chains.len() < self.max_chains && bytes <= self.max_bytes.saturating_sub(self.bytes)
    }

    /// Adds a chain at the end.
    ///
    /// # Errors
    /// [`Error::Full`] gives the chain back.
    ///
    /// ```
    /// use mbuf::{Error, Pool, Queue};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let mut queue = Queue::new(2, 10); // chains, bytes
    /// queue.push(pool.chain_from(b"seven b")?)?;
    ///
    /// // Too many bytes: the chain comes back, and a shorter one is taken.
    /// let mut rejected = queue.push(pool.chain_from(b"four")?).unwrap_err();
    /// assert_eq!(rejected.error, Error::Full { chains: 1, bytes: 7 });
    /// rejected.value.truncate(3)?;
    /// queue.push(rejected.value)?;
    ///
    /// // Too many chains, even empty ones.
    /// let rejected = queue.push(pool.chain()?).unwrap_err();
    /// assert_eq!(rejected.error, Error::Full { chains: 2, bytes: 10 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn push(&mut self, chain: Chain) -> Result<(), Rejected<Chain>> {
        if !self.has_room(chain.len()) {
            let error = Error::Full { chains: self.chains.len(), bytes: self.bytes };
            return Err(Rejected::new(chain, error));
        }
        chain.note(Event::Queued);
        self.bytes += chain.len();
        self.chains.push_back(chain);
        Ok(())
    }

    /// The first chain.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(16, 1 << 20);
    /// queue.push(pool.chain_from(b"first")?)?;
    /// queue.push(pool.chain_from(b"second")?)?;
    /// assert_eq!(queue.front().unwrap().to_vec()?, b"first");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn front(&self) -> Option<&Chain> {
        self.chains.front()
    }

    /// Takes the first chain.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(16, 1 << 20);
    /// queue.push(pool.chain_from(b"first")?)?;
    /// queue.push(pool.chain_from(b"second")?)?;
    /// assert_eq!(queue.pop().unwrap().to_vec()?, b"first");
    /// assert_eq!((queue.len(), queue.bytes()), (1, 6));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pop(&mut self) -> Option<Chain> {
        let chain = self.chains.pop_front()?;
        chain.note(Event::Dequeued);
        self.bytes -= chain.len();
        Some(chain)
    }

    /// The chains in order.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(16, 1 << 20);
    /// queue.push(pool.chain_from(b"one")?)?;
    /// queue.push(pool.chain_from(b"three")?)?;
    /// assert!(queue.iter().map(|chain| chain.len()).eq([3, 5]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> vec_deque::Iter<'_, Chain> {
        self.chains.iter()
    }

    /// Changes the chains where they are, first to last, until `change` answers `false`.
    ///
    /// For sinks that must reshape what they send (fewer segments, registered memory).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(16, 1 << 20);
    /// for bytes in [b"one", b"two", b"six"] {
    ///     queue.push(pool.chain_from(bytes)?)?;
    /// }
    /// let mut left = 2;
    /// queue.for_each_mut(|chain| {
    ///     left -= 1;
    ///     chain.trim_back(1).is_ok() && left > 0
    /// });
    /// assert_eq!(queue.bytes(), 2 + 2 + 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_each_mut(&mut self, mut change: impl FnMut(&mut Chain) -> bool) {
        for chain in &mut self.chains {
            let before = chain.len();
            let more = change(chain);
            self.bytes = self.bytes - before + chain.len();
            if !more {
                break;
            }
        }
    }

    /// Forgets the first `n` bytes, which a stream sink has taken: chains that are done are
    /// freed, and the one in the middle of which it stopped goes on from there. Empty chains at
    /// the front go too.
    ///
    /// # Errors
    /// [`Error::TooShort`] where the queue holds fewer bytes; it is then unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(16, 1 << 20);
    /// queue.push(pool.chain_from(b"one ")?)?;
    /// queue.push(pool.chain_from(b"two")?)?;
    /// queue.advance(5)?; // what writev(2) has taken
    /// assert_eq!((queue.len(), queue.front().unwrap().to_vec()?), (1, b"wo".to_vec()));
    /// assert_eq!(queue.advance(3), Err(mbuf::Error::TooShort { needed: 3, available: 2 }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn advance(&mut self, mut n: usize) -> Result<()> {
        if n > self.bytes {
            return Err(Error::TooShort { needed: n, available: self.bytes });
        }
        self.bytes -= n;
        while let Some(chain) = self.chains.front_mut() {
            if chain.len() > n {
                return chain.advance(n);
            }
            n -= chain.len();
            self.chains.pop_front();
        }
        Ok(())
    }

    /// Drops everything.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(16, 1 << 20);
    /// queue.push(pool.chain_from(b"one")?)?;
    /// queue.clear();
    /// assert_eq!((queue.len(), queue.bytes(), pool.stats().in_use()), (0, 0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear(&mut self) {
        Chain::free_many(self.chains.drain(..));
        self.bytes = 0;
    }

    /// The storage that the chains pin, in bytes. O(segments).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut queue = mbuf::Queue::new(16, 1 << 20);
    /// queue.push(pool.chain_from(b"one")?)?;
    /// queue.push(pool.chain_from(&[7; 1000])?)?;
    /// assert_eq!((queue.bytes(), queue.footprint()), (1003, 256 + 256 + 2048));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn footprint(&self) -> usize {
        self.chains.iter().map(Chain::footprint).sum()
    }
}
