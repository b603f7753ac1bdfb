//! What is shared between threads: the depot of a class, the count of what keeps a pool alive, and
//! the count of who holds a piece of storage.
//!
//! All three deal in numbers, never in pointers, so that loom can model them as they are.

use std::{collections::TryReserveError, ops::Range};

use super::sync::{AtomicU32, AtomicUsize, Mutex, Ordering, Step, lock};

/// The free buffers of one class that no cache holds: a stack of indices under a lock.
///
/// Last in, first out, because the buffer that was freed last is the one still in the CPU's cache;
/// a flat array, because a magazine is then one `memcpy` and a single buffer needs no magazine.
#[derive(Debug)]
pub(crate) struct Depot {
    stack: Mutex<Stack>,
}

#[derive(Debug)]
struct Stack {
    /// Invariant: `slots[..level]` are the free indices, each once.
    slots: Box<[u32]>,
    level: usize,
    lowest: usize,
}

impl Depot {
    /// All of these buffers are free; the first to be taken is the one with the lowest number.
    ///
    /// # Errors
    /// Where there is no memory for as many numbers.
    pub(crate) fn full(indices: Range<u32>) -> Result<Self, TryReserveError> {
        let slots = table(indices.rev())?;
        let level = slots.len();
        Ok(Self { stack: Mutex::new(Stack { slots, level, lowest: level }) })
    }

    /// Takes up to `out.len()` indices, leaving at least `leave`. Returns how many were taken and
    /// how many are left.
    pub(crate) fn take(&self, out: &mut [u32], leave: usize) -> (usize, usize) {
        let mut stack = lock(&self.stack);
        let n = out.len().min(stack.level.saturating_sub(leave));
        let level = stack.level - n;
        out[..n].copy_from_slice(&stack.slots[level..level + n]);
        stack.level = level;
        stack.lowest = stack.lowest.min(level);
        (n, level)
    }

    /// Puts indices back. Returns how many are there now.
    pub(crate) fn put(&self, indices: &[u32]) -> usize {
        let mut stack = lock(&self.stack);
        let level = stack.level;
        let end = level + indices.len();
        stack.slots[level..end].copy_from_slice(indices);
        stack.level = end;
        end
    }

    /// Free now, and the fewest that ever were.
    pub(crate) fn levels(&self) -> (usize, usize) {
        let stack = lock(&self.stack);
        (stack.level, stack.lowest)
    }
}

/// What keeps a pool's memory mapped: handles, caches, and each buffer outside the depot.
///
/// Buffers must be back in the depot, and its lock released, before they are subtracted: whoever
/// brings the count to zero frees the lock too.
#[derive(Debug)]
pub(crate) struct Refs(AtomicUsize);

impl Refs {
    pub(crate) fn new(n: usize) -> Self {
        Self(AtomicUsize::new(n))
    }

    /// Adds; the caller holds a reference already, so nothing needs to be ordered.
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Subtracts; `true` says that nothing is left and that the caller must free the pool.
    #[must_use]
    pub(crate) fn sub(&self, n: usize) -> bool {
        if self.0.fetch_sub(n, Step::RefGoes.order()) != n {
            return false;
        }
        // All that others did with the pool, before they let go of it, happens before it is freed.
        // A load of the same atomic does what a fence would, and ThreadSanitizer understands it.
        self.0.load(Step::LastRefGone.order()) == 0
    }
}

/// How many segments hold one cluster, or one external owner. Meaningless while the storage is
/// private, so that private storage costs nothing: the first share writes 2 over what was there.
#[derive(Debug, Default)]
pub(crate) struct Holders(AtomicU32);

impl Holders {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(1))
    }

    /// The storage was private and gets `n` further holders.
    pub(crate) fn first(&self, n: u32) {
        self.0.store(1 + n, Ordering::Relaxed);
    }

    /// The storage was counted already and gets `n` further holders.
    pub(crate) fn more(&self, n: u32) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Whether the caller, a holder, is the only one. If so, all that others did with the bytes
    /// happened before.
    pub(crate) fn is_sole(&self) -> bool {
        // Loom skips stale values of plain loads in a way that hides this branch; a read-modify-
        // write sees them all.
        #[cfg(loom)]
        return self.0.fetch_add(0, Step::SoleHolder.order()) == 1;
        #[cfg(not(loom))]
        return self.0.load(Step::SoleHolder.order()) == 1;
    }

    /// The caller lets go; `true` says that it was the last and must free the storage.
    #[must_use]
    pub(crate) fn release(&self) -> bool {
        if self.is_sole() {
            return true;
        }
        if self.0.fetch_sub(1, Step::HolderGoes.order()) != 1 {
            return false;
        }
        self.0.load(Step::LastHolderGone.order());
        true
    }
}

/// A table of fixed size, or an error where there is no memory for it.
pub(crate) fn table<T>(
    values: impl ExactSizeIterator<Item = T>,
) -> Result<Box<[T]>, TryReserveError> {
    let mut table = Vec::new();
    table.try_reserve_exact(values.len())?;
    table.extend(values);
    Ok(table.into_boxed_slice())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_depot_is_last_in_first_out_and_leaves_what_is_reserved() {
        let depot = Depot::full(0..4).unwrap();
        let mut out = [0; 8];
        assert_eq!(depot.take(&mut out[..2], 0), (2, 2));
        assert_eq!(out[..2], [1, 0]);
        assert_eq!(depot.take(&mut out, 1), (1, 1));
        assert_eq!(depot.take(&mut out, 1), (0, 1));
        assert_eq!(depot.put(&[0, 1]), 3);
        assert_eq!(depot.levels(), (3, 1));
        assert_eq!(depot.take(&mut out, 0), (3, 0));
    }

    #[test]
    fn the_last_to_let_go_is_told() {
        let refs = Refs::new(1);
        refs.add(3);
        assert!(!refs.sub(2));
        assert!(refs.sub(2));
        let holders = Holders::new();
        holders.first(1);
        assert!(!holders.is_sole());
        assert!(!holders.release());
        assert!(holders.is_sole());
        assert!(holders.release());
    }
}
