//! The allocator that fails: a pool drained to exactly so many free buffers.

use std::fmt;

use crate::{
    chain::Chain,
    error::{Error, Result},
    pool::{Class, Pool},
};

use super::pools::{level, take};

/// Holds a pool's free buffers, all but so many, until it is dropped.
///
/// The numbers are exact for the thread that made it (and in a pool that no other thread uses).
/// A cluster that is held occupies a small mbuf as well. Where a pool's small mbufs run out
/// before its clusters do, the clusters beyond stay free: without mbufs nobody can have them.
/// Costs one allocation for each free buffer.
///
/// ```
/// use mbuf::testing::{Starve, plain_pool};
///
/// let pool = plain_pool();
/// let starve = Starve::leave(&pool, 2, 0);
/// let (one, two) = (pool.chain()?, pool.chain()?);
/// assert!(pool.chain().is_err());
/// drop(starve);
/// assert!(pool.chain().is_ok());
/// # Ok::<(), mbuf::Error>(())
/// ```
#[derive(Debug)]
pub struct Starve {
    held: Vec<Chain>,
}

impl Starve {
    /// Leaves `small` small mbufs and `clusters` clusters of each class.
    pub fn leave(pool: &Pool, small: usize, clusters: usize) -> Self {
        let mut starve = Self::clusters(pool, clusters);
        starve.small_down_to(pool, small);
        starve
    }

    /// Leaves `n` small mbufs, and all clusters.
    pub fn small(pool: &Pool, n: usize) -> Self {
        let mut starve = Self { held: Vec::new() };
        starve.small_down_to(pool, n);
        starve
    }

    /// Leaves `n` clusters of each class, and the small mbufs that are not needed to hold the
    /// others.
    pub fn clusters(pool: &Pool, n: usize) -> Self {
        let mut held = Vec::new();
        // From the largest class down, for a larger one may stand in for a smaller one. What is
        // left over goes back only after all are drained, for the same reason.
        let mut left = Vec::new();
        for class in Class::ALL.into_iter().rev().filter(|&class| class != Class::Small) {
            let from = held.len();
            while let Ok(chain) = take(pool, class) {
                held.push(chain);
            }
            let keep = held.len().saturating_sub(n).max(from);
            left.extend(held.drain(keep..));
        }
        Self { held }
    }

    fn small_down_to(&mut self, pool: &Pool, n: usize) {
        let from = self.held.len();
        while let Ok(chain) = take(pool, Class::Small) {
            self.held.push(chain);
        }
        let mut owed = n;
        while owed > 0 && self.held.len() > from {
            self.held.pop();
            owed -= 1;
        }
    }
}

/// Runs `op` with 0, 1, 2, ... free buffers until it succeeds, first counting small mbufs (all
/// clusters free), then clusters of each class (small mbufs free), and answers how many times it
/// failed. Each run works on something that `make` made while the pool was full.
///
/// At every failure the pool must be as it was before `op`. That what `op` works on is unchanged
/// as well only `op` can tell: it still has it when the operation has failed.
///
/// ```
/// use mbuf::testing::{for_every_failure, plain_pool};
///
/// let pool = plain_pool();
/// let failures = for_every_failure(
///     &pool,
///     || pool.chain_from(b"payload").unwrap(),
///     |chain| {
///         let result = chain.prepend(300).map(|_| ());
///         if result.is_err() {
///             assert_eq!(chain.to_vec()?, b"payload");
///         }
///         result
///     },
/// );
/// assert!(failures >= 2); // for want of an mbuf, and for want of a cluster
/// ```
///
/// # Panics
/// If the pool's level differs after a failure, if `op` fails for another reason than
/// [`Error::NoBuffers`], or if it still fails with the whole pool free.
#[track_caller]
pub fn for_every_failure<S, T>(
    pool: &Pool,
    mut make: impl FnMut() -> S,
    mut op: impl FnMut(&mut S) -> Result<T>,
) -> usize {
    let most = pool.stats().classes.iter().map(|class| class.total).max().unwrap_or(0);
    let mut failures = 0;
    for kind in [Kind::Small, Kind::Clusters] {
        let mut n = 0;
        loop {
            let mut state = make();
            let starve = match kind {
                Kind::Small => Starve::small(pool, n),
                Kind::Clusters => Starve::clusters(pool, n),
            };
            let before = level(pool);
            let error = match op(&mut state) {
                Ok(_) => break,
                Err(error) => error,
            };
            let after = level(pool);
            assert_eq!(before, after, "with {n} {kind} free: a failure changed the pool's level");
            assert!(
                matches!(error, Error::NoBuffers { .. }),
                "with {n} {kind} free: failed for another reason: {error}"
            );
            failures += 1;
            n += 1;
            assert!(n <= most, "still fails with {n} {kind} free: {error}");
            drop(starve);
        }
    }
    failures
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Small,
    Clusters,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Small => "small mbufs",
            Kind::Clusters => "clusters of each class",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pools::{assert_all_free, little_pool};

    fn count(pool: &Pool, class: Class) -> usize {
        let mut all = Vec::new();
        while let Ok(chain) = take(pool, class) {
            all.push(chain);
        }
        all.len()
    }

    #[test]
    fn exactly_so_many_are_left_and_all_come_back() {
        let pool = little_pool();
        for n in [0, 1, 2, 7, 100] {
            let starve = Starve::leave(&pool, n, 0);
            assert_eq!(count(&pool, Class::Small), n);
            drop(starve);
            let starve = Starve::small(&pool, n);
            assert_eq!(count(&pool, Class::Small), n);
            assert_eq!(count(&pool, Class::K64), n.min(2), "clusters are all there");
            drop(starve);
            assert_all_free(&pool);
        }
        let starve = Starve::clusters(&pool, 1);
        let big = take(&pool, Class::K64).unwrap();
        assert!(take(&pool, Class::K64).is_err());
        assert!(take(&pool, Class::K4).is_ok());
        drop((starve, big));
        assert_all_free(&pool);
    }

    #[test]
    fn an_operation_that_needs_three_mbufs_fails_three_times() {
        let pool = little_pool();
        let failures = for_every_failure(
            &pool,
            || (),
            |()| {
                let all = [pool.chain()?, pool.chain()?, pool.chain()?];
                Ok(all.len())
            },
        );
        assert_eq!(failures, 3);
        assert_all_free(&pool);
    }

    #[test]
    #[should_panic(expected = "a failure changed the pool's level")]
    fn an_operation_that_keeps_a_buffer_when_it_fails_is_found() {
        let pool = little_pool();
        let mut leaked = Vec::new();
        for_every_failure(
            &pool,
            || (),
            |()| {
                leaked.push(pool.chain()?);
                leaked.push(pool.chain()?);
                Ok(())
            },
        );
    }

    #[test]
    #[should_panic(expected = "failed for another reason")]
    fn another_error_is_not_taken_for_an_empty_pool() {
        let pool = little_pool();
        for_every_failure(&pool, || (), |()| Err::<(), _>(Error::Invalid("always")));
    }
}
