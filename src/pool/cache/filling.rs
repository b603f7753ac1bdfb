//! Many buffers freed at once.

use super::{super::sync::Ordering::Relaxed, Cache};
use crate::class::Class;

/// Freed buffers come into the cache one after the other, and count when this is dropped: until
/// then nothing else may use the cache, which is this thread's own.
pub(crate) struct Filling<'a> {
    cache: &'a Cache,
    small: Level,
    cluster: Level,
}

/// How many free buffers of a class there are, and how many there may be.
#[derive(Debug, Clone, Copy)]
struct Level {
    start: usize,
    now: usize,
    /// At most the length of the array of indices.
    limit: usize,
}

impl Cache {
    /// Begins to free small mbufs, and 2 KiB clusters with them.
    #[inline]
    pub(crate) fn filling(&self) -> Filling<'_> {
        let level = |class: Class| {
            let filled = self.filled[class.index()].load(Relaxed);
            let limit = self.quick_limit[class.index()].load(Relaxed);
            Level { start: filled, now: filled, limit }
        };
        Filling { cache: self, small: level(Class::Small), cluster: level(Class::K2) }
    }
}

impl Filling<'_> {
    /// Keeps a small mbuf, and the 2 KiB cluster that it has, if there is room and nothing else is
    /// to be done.
    ///
    /// Only [`free`](super::free) and its like may say which buffers: see there.
    #[inline(always)]
    pub(crate) fn keep(&mut self, small: u32, cluster: Option<u32>) -> bool {
        let full = |level: Level| level.now >= level.limit;
        if full(self.small) || cluster.is_some() && full(self.cluster) {
            return false;
        }
        if let Some(cluster) = cluster {
            self.cache.inner().freed(Class::K2, cluster);
            self.cache.write(Class::K2, cluster, self.cluster.now);
            self.cluster.now += 1;
        }
        self.cache.inner().freed(Class::Small, small);
        self.cache.write(Class::Small, small, self.small.now);
        self.small.now += 1;
        true
    }
}

impl Drop for Filling<'_> {
    #[inline]
    fn drop(&mut self) {
        for (class, level) in [(Class::Small, self.small), (Class::K2, self.cluster)] {
            // A cache that takes nothing is shared by all threads, and must not be written to.
            if level.now != level.start {
                self.cache.filled[class.index()].store(level.now, Relaxed);
            }
        }
    }
}
