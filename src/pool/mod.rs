//! Where the memory lives: a bounded pool of small mbufs and clusters.
//!
//! A pool is one mapping, made once and never grown. Threads allocate from it and free to it
//! through caches of their own (see `cache.rs`), so that neither takes an atomic operation or a
//! lock as a rule; a buffer may be freed on any thread. When a pool is empty, whoever asks is told
//! [`Error::NoBuffers`], and nothing has changed.
//!
//! The mapping goes when the last handle, cache and buffer are gone, in whichever order that
//! happens: a chain may outlive its pool's handles, and a thread the chain.
//!
//! After fork(2), a child may only exec(3): other threads' caches are lost in it, and a lock may be
//! held for ever.
//!
//! ```
//! use mbuf::{Class, Pool};
//!
//! let pool = Pool::builder().name("rx").count(Class::Small, 64).count(Class::K2, 16).build()?;
//! let chain = pool.chain_from(b"hello")?;
//! assert_eq!(chain.len(), 5);
//! assert_eq!(pool.stats().class(Class::Small).in_use, 1);
//! drop(chain);
//! assert_eq!(pool.stats().in_use(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod census;
mod config;
mod depot;
mod memory;
#[cfg(all(test, loom))]
mod models;
mod stats;
mod sync;
mod watch;

use std::{
    collections::TryReserveError,
    fmt,
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

pub(crate) use cache::{BULK, Cache, Filling};
use cache::{CachePtr, NO_ID, OwnCache, SLOTS};
#[cfg(feature = "census")]
use census::Records;
#[cfg(feature = "census")]
pub use census::{Census, Group, History};
pub use census::{Event, Mark};
pub use config::PoolBuilder;
pub(crate) use depot::Holders;
use depot::{Depot, Refs};
pub use memory::Pages;
use memory::{Layout, Memory};
pub use stats::{ClassStats, MbufType, PoolStats};
use sync::{AtomicUsize, Mutex, MutexGuard, lock};
use watch::Watch;

pub use crate::class::Class;
use crate::error::{BuildError, Error, Result};

/// Different reasons for discarding that a pool counts; what comes after is counted as one.
const DISCARD_REASONS: usize = 64;

/// Whoever gives buffers of a pool: the pool itself, through the thread's cache, or a receiver.
pub(crate) trait Alloc {
    /// The pool.
    fn inner(&self) -> &Inner;

    /// The cache; where there is none, one that has nothing.
    fn cache(&self) -> &Cache;

    /// Takes a free buffer of a class out of the pool: the slow way, which fills the cache.
    fn take(&self, class: Class) -> Option<u32>;

    /// The smallest class from `class` on of which the pool has any buffers at all.
    fn available(&self, class: Class) -> Result<Class> {
        let there = |class: &Class| self.inner().total(*class) > 0;
        Class::ALL[class.index()..].iter().copied().find(there).ok_or(Error::NoBuffers { class })
    }
}

/// What all handles, caches and buffers of a pool share.
#[derive(Debug)]
pub(crate) struct Inner {
    /// Where this is: the pointer by which it is freed. (One that was made from a shared reference
    /// may not be.)
    me: NonNull<Inner>,
    base: NonNull<u8>,
    id: usize,
    headroom: usize,
    zero_on_free: bool,
    move_on_pullup: bool,
    layout: Layout,
    counts: [usize; 5],
    refs: Refs,
    depots: [Depot; 5],
    /// The holders of each cluster, by where it starts in the mapping, in units of the smallest.
    holders: Box<[Holders]>,
    reserve: [usize; 5],
    low_water: [usize; 5],
    /// One bit for each class that is below its low-water mark.
    low: AtomicU8,
    low_event: Mutex<Option<File>>,
    handles: AtomicUsize,
    registry: Mutex<Registry>,
    denied: [AtomicU64; 5],
    types: [std::sync::atomic::AtomicUsize; MbufType::COUNT],
    discards: Mutex<Vec<(&'static str, u64)>>,
    name: String,
    watch: Watch,
    #[cfg(feature = "census")]
    records: Records,
    #[cfg(feature = "census")]
    on_close: Option<fn(&Census)>,
    memory: Memory,
}

// SAFETY: `base` is the address of `memory`, which is Send, and `me` that of the value itself;
// everything else is Send by itself.
unsafe impl Send for Inner {}
// SAFETY: `me` and `base` are never written once shared; what `base` points to is reached only by whoever owns the buffer.
// Everything else is Sync by itself.
unsafe impl Sync for Inner {}

/// What a pool keeps of each buffer, beside the buffers.
struct Tables {
    depots: [Depot; 5],
    holders: Box<[Holders]>,
    watch: Watch,
    #[cfg(feature = "census")]
    records: Records,
}

impl Tables {
    fn new(layout: &Layout, counts: [usize; 5]) -> std::result::Result<Tables, TryReserveError> {
        let depot = |class: Class| Depot::full(layout.indices(class, counts[class.index()]));
        let clusters = layout.len >> Class::K2.shift();
        let [small, k2, k4, k16, k64] = Class::ALL;
        Ok(Tables {
            depots: [depot(small)?, depot(k2)?, depot(k4)?, depot(k16)?, depot(k64)?],
            holders: depot::table((0..clusters).map(|_| Holders::new()))?,
            watch: Watch::new(counts)?,
            #[cfg(feature = "census")]
            records: Records::new(counts)?,
        })
    }
}

/// The caches of a pool, and whether it takes further ones.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    closing: bool,
    caches: Vec<CachePtr>,
}

impl Inner {
    #[inline]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The pool's place in each thread's table of caches, or `NO_ID`.
    #[inline]
    fn id(&self) -> usize {
        self.id
    }

    pub(crate) fn headroom(&self) -> usize {
        self.headroom
    }

    #[inline]
    pub(crate) fn zero_on_free(&self) -> bool {
        self.zero_on_free
    }

    #[inline]
    pub(crate) fn move_on_pullup(&self) -> bool {
        self.move_on_pullup
    }

    /// Buffers of a class that there are.
    pub(crate) fn total(&self, class: Class) -> usize {
        self.counts[class.index()]
    }

    /// The largest class of which there are any buffers.
    pub(crate) fn largest(&self) -> Class {
        let there = |class: &Class| self.total(*class) > 0;
        Class::ALL.into_iter().rev().find(there).unwrap_or(Class::Small)
    }

    /// The holders of the cluster that starts so many bytes from the start of the mapping.
    #[inline(always)]
    pub(crate) fn holders(&self, offset: usize) -> &Holders {
        &self.holders[offset >> Class::K2.shift()]
    }

    fn refs(&self) -> &Refs {
        &self.refs
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    /// Takes buffers out of the depot and counts them as outside. 0: there are none, which is
    /// counted as a request denied.
    fn withdraw(&self, class: Class, out: &mut [u32], leave_reserve: bool) -> usize {
        let i = class.index();
        let leave = if leave_reserve { self.reserve[i] } else { 0 };
        let (taken, level) = self.depots[i].take(out, leave);
        if taken == 0 {
            self.denied[i].fetch_add(1, Ordering::Relaxed);
        } else {
            self.refs.add(taken);
        }
        if level < self.low_water[i] {
            self.mark_low(1 << i);
        }
        taken
    }

    /// Puts buffers of a cache, which holds a reference of its own, back into the depot.
    fn deposit(&self, class: Class, indices: &[u32]) {
        self.deposit_only(class, indices);
        let last = self.refs.sub(indices.len());
        debug_assert!(!last, "the cache holds a reference");
    }

    /// Puts buffers back into the depot; the caller gives up their references afterwards.
    fn deposit_only(&self, class: Class, indices: &[u32]) {
        let i = class.index();
        let level = self.depots[i].put(indices);
        // Above the mark, so that a level that hovers about it does not wake anybody each time; yet
        // within reach where threads keep some of the buffers.
        let low = self.low_water[i];
        let high = low + low.min((self.counts[i] - low) / 2);
        if level >= high && self.low.load(Ordering::Relaxed) & (1 << i) != 0 {
            self.low.fetch_and(!(1 << i), Ordering::Relaxed);
        }
    }

    fn mark_low(&self, bit: u8) {
        if self.low.load(Ordering::Relaxed) & bit != 0
            || self.low.fetch_or(bit, Ordering::Relaxed) & bit != 0
        {
            return;
        }
        let event = lock(&self.low_event);
        if let Some(mut event) = event.as_ref() {
            // An eventfd refuses a write only when its counter is full: it is readable then, which
            // is all that is wanted.
            let _ = event.write(&1u64.to_ne_bytes());
        }
    }

    /// Counts an mbuf in or out of a type other than data.
    pub(crate) fn count_type(&self, kind: MbufType, in_use: bool) {
        let count = &self.types[kind.index()];
        if in_use {
            count.fetch_add(1, Ordering::Relaxed);
        } else {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_discard(&self, reason: &'static str) {
        let mut discards = lock(&self.discards);
        if let Some(row) = discards.iter_mut().find(|row| row.0 == reason) {
            row.1 += 1;
        } else if discards.len() < DISCARD_REASONS {
            discards.push((reason, 1));
        } else if let Some(last) = discards.last_mut() {
            *last = ("other reasons", last.1 + 1);
        }
    }

    /// Frees a buffer through this thread's cache.
    ///
    /// # Safety
    /// The buffer was taken from this pool, is used by nobody, and is not freed twice. `inner` may
    /// be gone when this returns, unless the caller holds another reference.
    pub(crate) unsafe fn free(inner: NonNull<Inner>, class: Class, index: u32) {
        // SAFETY: the caller's promise is handed on.
        unsafe { cache::free(inner, class, index) };
    }

    /// This thread's cache, or one that has nothing and takes nothing.
    #[inline(always)]
    pub(crate) fn cache(&self) -> &Cache {
        cache::here(self)
    }

    /// Gives up `n` references; frees the pool if they were the last.
    ///
    /// # Safety
    /// The caller holds `n` references and does not use them, or `inner`, any more.
    unsafe fn release(inner: NonNull<Inner>, n: usize) {
        // SAFETY: the references that are given up keep it alive until the count says otherwise.
        let last = unsafe { inner.as_ref() }.refs.sub(n);
        if last {
            // SAFETY: nothing else holds a reference any more: only this function has it now.
            let me = unsafe { inner.as_ref() }.me;
            // SAFETY: as above; `me` came out of a box in `Pool::new`, and the count orders all that
            // was done before this.
            drop(unsafe { Box::from_raw(me.as_ptr()) });
        }
    }

    fn stats(&self) -> PoolStats {
        let mut classes = [ClassStats::default(); 5];
        {
            let registry = self.registry();
            for class in Class::ALL {
                let i = class.index();
                let cached = registry.caches.iter().map(|cache| cache.filled(class)).sum();
                let (free, lowest) = self.depots[i].levels();
                let total = self.counts[i];
                classes[i] = ClassStats {
                    total,
                    in_use: total.saturating_sub(free + cached),
                    cached,
                    free,
                    high_water: total - lowest,
                    denied: self.denied[i].load(Ordering::Relaxed),
                };
            }
        }
        let mut types = [0; MbufType::COUNT];
        for (count, atomic) in types.iter_mut().zip(&self.types) {
            *count = atomic.load(Ordering::Relaxed);
        }
        types[0] = classes[0].in_use.saturating_sub(types.iter().skip(1).sum());
        PoolStats {
            name: self.name.clone(),
            mapped: self.layout.len,
            pages: self.memory.pages(),
            classes,
            types,
            discards: lock(&self.discards).clone(),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watch.end(self.base, &self.layout);
        // No cache is left, or it would hold a reference: the id may be given to another pool.
        ids::release(self.id);
    }
}

impl Alloc for Inner {
    fn inner(&self) -> &Inner {
        self
    }

    #[inline(always)]
    fn cache(&self) -> &Cache {
        cache::here(self)
    }

    fn take(&self, class: Class) -> Option<u32> {
        cache::alloc(self, class)
    }
}

/// A handle of a pool. Cloning makes a further handle (two atomic additions).
pub struct Pool {
    /// Invariant: a handle holds one of the pool's references.
    inner: NonNull<Inner>,
}

// SAFETY: a handle is a counted reference to `Inner`, which is Send and Sync.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// Starts making a pool. What is not said is: 1,024 small mbufs, no clusters, 64 bytes of
    /// headroom.
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::builder().name("rx").count(Class::K2, 16).build()?;
    /// assert_eq!(pool.stats().class(Class::Small).total, 1024);
    /// assert_eq!(pool.stats().class(Class::K2).total, 16);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    /// A pool of about `bytes` bytes, divided among the classes in the usual way: a fifth small
    /// mbufs, a quarter 2 KiB, a tenth 4 KiB, 15 % 16 KiB and 30 % 64 KiB clusters.
    ///
    /// # Errors
    /// As [`PoolBuilder::build`]; less than 10 KiB makes no pool.
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::with_memory(16 << 20)?;
    /// assert_eq!(pool.stats().class(Class::K64).total, 76);
    /// # Ok::<(), mbuf::BuildError>(())
    /// ```
    pub fn with_memory(bytes: usize) -> Result<Pool, BuildError> {
        PoolBuilder::sized(bytes).build()
    }

    fn new(config: PoolBuilder, layout: Layout, memory: Memory, tables: Tables) -> Pool {
        let counts = config.counts;
        let share = |percent: u8| {
            counts
                .map(|count| count / 100 * percent as usize + count % 100 * percent as usize / 100)
        };
        let inner = Box::new(Inner {
            me: NonNull::dangling(),
            base: memory.base(),
            id: ids::claim(),
            headroom: config.headroom,
            zero_on_free: config.zero_on_free,
            move_on_pullup: config.move_on_pullup,
            layout,
            counts,
            refs: Refs::new(1),
            depots: tables.depots,
            holders: tables.holders,
            reserve: share(config.reserve),
            low_water: share(config.low_water),
            low: AtomicU8::new(0),
            low_event: Mutex::new(None),
            handles: AtomicUsize::new(1),
            registry: Mutex::new(Registry::default()),
            denied: Default::default(),
            types: Default::default(),
            discards: Mutex::new(Vec::new()),
            name: config.name,
            watch: tables.watch,
            #[cfg(feature = "census")]
            records: tables.records,
            #[cfg(feature = "census")]
            on_close: config.on_close,
            memory,
        });
        inner.watch.begin(inner.base, &inner.layout);
        let inner = NonNull::from(Box::leak(inner));
        // SAFETY: just made; nobody else has it yet.
        unsafe { (*inner.as_ptr()).me = inner };
        Pool { inner }
    }

    /// A further handle for someone who holds a reference already.
    pub(crate) fn from_inner(inner: &Inner) -> Pool {
        inner.handles.fetch_add(1, Ordering::Relaxed);
        inner.refs.add(1);
        Pool { inner: NonNull::from(inner) }
    }

    #[inline]
    pub(crate) fn inner(&self) -> &Inner {
        // SAFETY: the handle holds one of the pool's references.
        unsafe { self.inner.as_ref() }
    }

    /// The handle that sources draw from: it has a cache of its own and leaves the reserve alone.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let receiver = pool.receiver();
    /// let chain = receiver.chain()?;
    /// assert!(chain.pool().same(receiver.pool()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn receiver(&self) -> Receiver {
        Receiver { cache: OwnCache::new(self.inner()), pool: self.clone() }
    }

    /// Statistics. O(threads that use the pool); takes locks, so not for every packet.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_from(&[7; 1000])?;
    /// assert_eq!(pool.stats().in_use(), 2); // a small mbuf and a cluster
    /// drop(chain);
    /// assert_eq!(pool.stats().in_use(), 0); // the leak check
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> PoolStats {
        self.inner().stats()
    }

    /// What is out now: where it was allocated, and what happened to it since. O(buffers there
    /// are), and allocates from the heap. With the feature `census` only.
    ///
    /// What other threads take and free meanwhile may be seen or not.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chains = [pool.chain()?, pool.chain()?]; // both on this line, but at two columns
    /// let census = pool.census();
    /// assert_eq!((census.buffers(), census.groups().len()), (2, 2));
    /// assert_eq!(census.groups()[0].place.file(), file!());
    /// drop(chains);
    /// assert!(pool.census().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "census")]
    pub fn census(&self) -> Census {
        self.inner().census()
    }

    /// The default headroom in bytes.
    ///
    /// ```
    /// let pool = mbuf::Pool::builder().headroom(96).build()?;
    /// assert_eq!((pool.headroom(), pool.chain()?.headroom()), (96, 96));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn headroom(&self) -> usize {
        self.inner().headroom
    }

    /// The pool's name.
    ///
    /// ```
    /// let pool = mbuf::Pool::builder().name("relay").build()?;
    /// assert_eq!(pool.name(), "relay");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.inner().name
    }

    /// Gives the free buffers that this thread has cached back to the depot, for other threads to
    /// use: for a thread that goes to sleep. O(1) without free buffers.
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// drop(pool.chain()?);
    /// assert!(pool.stats().class(Class::Small).cached > 0);
    /// pool.flush();
    /// assert_eq!(pool.stats().class(Class::Small).cached, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&self) {
        cache::flush(self.inner());
    }

    /// Whether any class is below its low-water mark. One load.
    ///
    /// ```
    /// use mbuf::{Batch, Class, Pool};
    ///
    /// let pool = Pool::builder().count(Class::Small, 100).build()?;
    /// assert!(!pool.is_low());
    /// let mut batch = Batch::new();
    /// pool.alloc_batch(95, &mut batch)?;
    /// assert!(pool.is_low()); // 5 of 100 are free
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn is_low(&self) -> bool {
        self.inner().low.load(Ordering::Relaxed) != 0
    }

    /// An eventfd(2) that is written to when the pool becomes low, so that whoever drives the pool
    /// wakes up. It should be non-blocking. Replaces the one before.
    ///
    /// ```
    /// use std::os::fd::AsFd;
    ///
    /// use mbuf::{Batch, Class, Pool, io};
    ///
    /// let pool = Pool::builder().count(Class::Small, 100).build()?;
    /// let event = io::eventfd()?;
    /// pool.set_low_water_event(Some(event.try_clone()?));
    /// assert!(!io::drain_eventfd(event.as_fd())?);
    /// pool.alloc_batch(95, &mut Batch::new())?;
    /// assert!(io::drain_eventfd(event.as_fd())?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_low_water_event(&self, event: Option<OwnedFd>) {
        let event = event.map(File::from);
        *lock(&self.inner().low_event) = event;
    }

    /// Whether both are handles of one pool.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// assert!(pool.same(&pool.clone()));
    /// assert!(!pool.same(&mbuf::Pool::with_memory(1 << 20)?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn same(&self, other: &Pool) -> bool {
        self.inner == other.inner
    }
}

impl Clone for Pool {
    fn clone(&self) -> Self {
        Pool::from_inner(self.inner())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let inner = self.inner();
        // Relaxed: whoever was here before has registered its caches under the lock, and that the
        // count says so orders the two.
        if inner.handles.fetch_sub(1, Ordering::Relaxed) == 1 {
            if sync::Step::IdStaysWithCaches.is_broken() {
                ids::release(inner.id);
            }
            let mut registry = inner.registry();
            #[cfg(feature = "census")]
            let first = !registry.closing;
            registry.closing = true;
            registry.caches.iter().for_each(CachePtr::close);
            drop(registry);
            // A handle that was made from a chain (`Chain::pool`) may be the last one again.
            #[cfg(feature = "census")]
            if first {
                inner.last_census();
            }
            cache::retire_local(inner);
        }
        // SAFETY: the handle's own reference goes, and the handle with it.
        unsafe { Inner::release(self.inner, 1) };
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// The handle that sources draw from. It is refused ([`Error::NoBuffers`]) once granting would
/// leave fewer than the pool's reserve, so that receiving cannot starve sending. Send, not Sync: it
/// has a cache of its own.
#[derive(Debug)]
pub struct Receiver {
    // Dropped before the pool, which it needs.
    cache: OwnCache,
    pool: Pool,
}

impl Receiver {
    /// The pool.
    ///
    /// ```
    /// let pool = mbuf::Pool::builder().name("rx").build()?;
    /// assert_eq!(pool.receiver().pool().name(), "rx");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How many buffers of a class it could take from the pool if none were in use.
    pub(crate) fn lendable(&self, class: Class) -> usize {
        let inner = self.pool.inner();
        inner.total(class).saturating_sub(inner.reserve[class.index()])
    }

    /// Gives the free buffers in this handle's cache back to the depot.
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let receiver = pool.receiver();
    /// drop(receiver.chain()?);
    /// receiver.flush();
    /// pool.flush(); // a chain's buffers go to the cache of the thread that drops it
    /// assert_eq!(pool.stats().class(Class::Small).cached, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&self) {
        self.cache.flush();
    }
}

impl Alloc for Receiver {
    fn inner(&self) -> &Inner {
        self.pool.inner()
    }

    #[inline(always)]
    fn cache(&self) -> &Cache {
        self.cache.here()
    }

    fn take(&self, class: Class) -> Option<u32> {
        self.cache.alloc(self.pool.inner(), class)
    }
}

/// The places in each thread's table of caches, given to pools.
mod ids {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::{NO_ID, SLOTS};

    /// One bit a place. Relaxed: a thread empties its own place in its own table before the pool
    /// that had it can end, so nothing is handed over with the place.
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    const _: () = assert!(SLOTS == u32::BITS as usize);

    /// A free place, or `NO_ID`.
    pub(super) fn claim() -> usize {
        let lowest = |taken: u32| taken.trailing_ones() as usize;
        let take = |taken| (lowest(taken) < SLOTS).then(|| taken | 1 << lowest(taken));
        TAKEN.fetch_update(Relaxed, Relaxed, take).map_or(NO_ID, lowest)
    }

    pub(super) fn release(id: usize) {
        if id != NO_ID {
            TAKEN.fetch_and(!(1 << id), Relaxed);
        }
    }
}
