//! Per-thread caches: the reason why allocating and freeing takes no atomic operation and no lock.
//!
//! The design is the magazine layer of Bonwick and Adams (*Magazines and Vmem*, 2001): a thread
//! keeps up to two magazines of free buffers a class, and moves one at a time from and to the
//! depot. Here the two are the halves of one array, which holds indices, so free memory is not
//! touched.
//!
//! A thread finds its cache in a table of its own (`cache/table.rs`), and gives its caches back when
//! it ends. What is freed after that goes to the depot directly.

mod filling;
mod table;

use std::{cell::UnsafeCell, fmt, ptr::NonNull};

pub(crate) use filling::Filling;
pub(crate) use table::{NO_ID, SLOTS};

use super::{
    Inner,
    sync::{AtomicUsize, Ordering::Relaxed, Step, Witness, reached},
};
use crate::class::Class;

/// Buffers in a magazine, at most. (The stacks of loom's threads are small.)
const MAGAZINE: usize = if cfg!(loom) { 2 } else { 64 };

/// Buffers that are taken at once, at most.
pub(crate) const BULK: usize = 32;

/// The free buffers of one thread, or of one receiver, for one pool.
///
/// Invariant: of each class, `indices[..filled]` are free buffers, each once. Only the owner changes
/// `filled` and `indices`; others read `filled` for statistics, and set `limit` to 0 when the pool
/// closes.
pub(crate) struct Cache {
    filled: [AtomicUsize; 5],
    /// A free that finds `filled` at or above the limit must make room first. 0: the pool closes.
    limit: [AtomicUsize; 5],
    /// The same for frees that have nothing else to do: 0 where memory is zeroed when it is freed.
    /// Invariant: at most the length of the array of indices; so is `filled`.
    quick_limit: [AtomicUsize; 5],
    /// How many move at a time.
    step: [usize; 5],
    /// Invariant: valid as long as the cache exists, which holds one of the pool's references.
    inner: NonNull<Inner>,
    indices: [UnsafeCell<[u32; 2 * MAGAZINE]>; 5],
    /// Tells a model's checker who looks at the cache, and who frees it.
    witness: Witness,
}

impl Cache {
    /// Makes a cache and registers it with the pool; `None` where the pool is closing.
    fn new(inner: &Inner) -> Option<NonNull<Cache>> {
        let mut registry = inner.registry();
        if registry.closing && !Step::NoCacheWhileClosing.is_broken() {
            reached("refused a cache");
            return None;
        }
        // Small classes move few at a time: a thread that only frees strands up to two magazines.
        let step = Class::ALL.map(|class| (inner.total(class) / 16).clamp(1, MAGAZINE));
        let cache = Box::new(Cache {
            filled: Default::default(),
            limit: step.map(|step| AtomicUsize::new(2 * step)),
            quick_limit: step
                .map(|step| AtomicUsize::new(if inner.zero_on_free() { 0 } else { 2 * step })),
            step,
            inner: NonNull::from(inner),
            indices: [const { UnsafeCell::new([0; 2 * MAGAZINE]) }; 5],
            witness: Witness::new(),
        });
        let cache = NonNull::from(Box::leak(cache));
        registry.caches.push(CachePtr(cache));
        inner.refs().add(1);
        Some(cache)
    }

    /// One that has nothing and takes nothing.
    #[cfg(loom)]
    fn empty() -> Cache {
        Cache {
            filled: Default::default(),
            limit: Default::default(),
            quick_limit: Default::default(),
            step: [0; 5],
            inner: NonNull::dangling(),
            indices: [const { UnsafeCell::new([0; 2 * MAGAZINE]) }; 5],
            witness: Witness::new(),
        }
    }

    /// Takes a free buffer, if there is one here.
    #[inline(always)]
    pub(crate) fn pop_here(&self, class: Class) -> Option<u32> {
        let (left, index) = self.last(class)?;
        self.filled[class.index()].store(left, Relaxed);
        Some(index)
    }

    /// Takes a small mbuf and a cluster, if there are both here.
    #[inline(always)]
    pub(crate) fn pop_pair_here(&self, class: Class) -> Option<(u32, u32)> {
        let (small_left, small) = self.last(Class::Small)?;
        let (left, index) = self.last(class)?;
        self.filled[Class::Small.index()].store(small_left, Relaxed);
        self.filled[class.index()].store(left, Relaxed);
        Some((small, index))
    }

    /// Takes as many small mbufs as fit in `small` and are here, and, where `class` is another, as
    /// many clusters for them; says how many.
    pub(crate) fn pop_some_here(
        &self,
        class: Class,
        small: &mut [u32; BULK],
        clusters: &mut [u32; BULK],
        n: usize,
    ) -> usize {
        let here = |class: Class| self.filled[class.index()].load(Relaxed);
        let n = n.min(BULK).min(here(Class::Small)).min(here(class));
        if n == 0 {
            // It may be the one that has nothing, which nobody writes to.
            return 0;
        }
        self.pop_all_here(Class::Small, &mut small[..n]);
        if class != Class::Small {
            self.pop_all_here(class, &mut clusters[..n]);
        }
        n
    }

    /// Takes as many as fit in `out`, which are here.
    fn pop_all_here(&self, class: Class, out: &mut [u32]) {
        let filled = self.filled[class.index()].load(Relaxed);
        let left = filled - out.len();
        // SAFETY: only the owner reaches `indices`, and no other reference to it exists here.
        let indices = unsafe { &*self.indices[class.index()].get() };
        out.copy_from_slice(&indices[left..filled]);
        self.filled[class.index()].store(left, Relaxed);
    }

    /// The buffer that is next to go, and how many are left then.
    #[inline(always)]
    fn last(&self, class: Class) -> Option<(usize, u32)> {
        let left = self.filled[class.index()].load(Relaxed).checked_sub(1)?;
        // SAFETY: only the owner reaches `indices`, and no reference to it outlives this function.
        let indices = unsafe { &*self.indices[class.index()].get() };
        // SAFETY: `filled` is at most the length (invariant of the field), and `left` below it.
        Some((left, *unsafe { indices.get_unchecked(left) }))
    }

    /// Takes a free buffer; refills from the depot, leaving the reserve there where `leave` says
    /// so, if there is none here.
    #[inline]
    fn pop(&self, class: Class, leave: bool) -> Option<u32> {
        match self.pop_here(class) {
            None => self.refill(class, leave),
            here => here,
        }
    }

    /// Keeps a buffer that was freed, if there is room and nothing else is to be done.
    ///
    /// Only [`free`] and its like may say which buffer: see there.
    #[inline(always)]
    pub(crate) fn push_here(&self, class: Class, index: u32) -> bool {
        let n = self.filled[class.index()].load(Relaxed);
        if n >= self.quick_limit[class.index()].load(Relaxed) {
            return false;
        }
        self.inner().freed(class, index);
        self.keep(class, index, n);
        true
    }

    /// Keeps a buffer that was freed, making room if need be. `false`: the pool is closing, and the
    /// cache is to be retired.
    fn push(&self, class: Class, index: u32) -> bool {
        let i = class.index();
        let mut n = self.filled[i].load(Relaxed);
        if n >= self.limit[i].load(Relaxed) {
            if !self.spill(class) {
                return false;
            }
            n = self.filled[i].load(Relaxed);
        }
        self.keep(class, index, n);
        true
    }

    /// Puts a buffer at place `n`, which is the first free one and below a limit.
    #[inline(always)]
    fn keep(&self, class: Class, index: u32, n: usize) {
        self.write(class, index, n);
        self.filled[class.index()].store(n + 1, Relaxed);
    }

    /// As [`keep`](Self::keep); it does not count yet.
    #[inline(always)]
    fn write(&self, class: Class, index: u32, n: usize) {
        // SAFETY: only the owner reaches `indices`, and no reference to it outlives this function.
        let indices = unsafe { &mut *self.indices[class.index()].get() };
        // SAFETY: `n` is below a limit, and no limit is above the length (invariant of the field).
        *unsafe { indices.get_unchecked_mut(n) } = index;
    }

    #[cold]
    #[inline(never)]
    fn refill(&self, class: Class, leave: bool) -> Option<u32> {
        let i = class.index();
        // SAFETY: only the owner reaches `indices`, and no other reference to it exists here.
        let indices = unsafe { &mut *self.indices[i].get() };
        let taken = self.inner().withdraw(class, &mut indices[..self.step[i]], leave);
        let last = taken.checked_sub(1)?;
        self.filled[i].store(last, Relaxed);
        Some(indices[last])
    }

    /// Makes room: the older half goes to the depot. `false` if the pool is closing.
    #[cold]
    #[inline(never)]
    fn spill(&self, class: Class) -> bool {
        if self.is_closed(class) {
            return false;
        }
        let i = class.index();
        let filled = self.filled[i].load(Relaxed);
        let step = self.step[i];
        // SAFETY: only the owner reaches `indices`, and no other reference to it exists here.
        let indices = unsafe { &mut *self.indices[i].get() };
        // The count goes down first: whoever sums up for statistics may miss a buffer that is on
        // its way, but does not see one twice.
        self.filled[i].store(filled - step, Relaxed);
        self.inner().deposit(class, &indices[..step]);
        indices.copy_within(step..filled, 0);
        true
    }

    /// Whether the pool has closed, as far as a class knows: the limits become 0 one by one.
    fn is_closed(&self, class: Class) -> bool {
        self.limit[class.index()].load(Relaxed) == 0
    }

    /// Gives everything back to the depot.
    fn flush(&self) {
        for class in Class::ALL {
            let filled = self.filled[class.index()].swap(0, Relaxed);
            if filled > 0 {
                // SAFETY: only the owner reaches `indices`, and no other reference exists here.
                let indices = unsafe { &*self.indices[class.index()].get() };
                self.inner().deposit(class, &indices[..filled]);
            }
        }
    }

    fn inner(&self) -> &Inner {
        // SAFETY: the cache holds one of the pool's references (invariant of the field).
        unsafe { self.inner.as_ref() }
    }

    /// Ends a cache: its buffers go back, it leaves the registry, its reference to the pool goes,
    /// and with the last reference the pool.
    ///
    /// # Safety
    /// `cache` was made by [`Cache::new`], its owner calls this, and nobody uses it afterwards.
    unsafe fn retire(cache: NonNull<Cache>) {
        // SAFETY: made by `Cache::new` from a box and not freed since (the caller's promise).
        let this = unsafe { cache.as_ref() };
        let inner = this.inner;
        if Step::RetiredUnderLock.is_broken() {
            this.flush();
        }
        // In one step for whoever sums up for statistics: the buffers are in the cache, or in the
        // depot. A thread may end while another, which has all its results, counts.
        let mut registry = this.inner().registry();
        this.flush();
        registry.caches.retain(|other| other.0 != cache);
        drop(registry);
        this.witness.frees();
        // SAFETY: as above; the registry, the only other place that knew it, has forgotten it
        // under its lock.
        drop(unsafe { Box::from_raw(cache.as_ptr()) });
        // SAFETY: the cache held one reference, which goes here.
        unsafe { Inner::release(inner, 1) };
    }
}

/// A registered cache, for the registry's eyes.
pub(crate) struct CachePtr(NonNull<Cache>);

// SAFETY: through the registry, under whose lock a cache is also freed, only the atomics of a cache
// are reached, which any thread may use.
unsafe impl Send for CachePtr {}

impl CachePtr {
    /// From now on every free through this cache takes the slow path, which retires it.
    pub(crate) fn close(&self) {
        reached("a cache was told that the pool closes");
        for limit in self.get().limit.iter().chain(&self.get().quick_limit) {
            limit.store(0, Relaxed);
        }
    }

    /// Free buffers of a class in this cache.
    pub(crate) fn filled(&self, class: Class) -> usize {
        self.get().filled[class.index()].load(Relaxed)
    }

    fn get(&self) -> &Cache {
        // SAFETY: a registered cache is freed only after it left the registry, under the lock that
        // the caller holds to reach this value.
        let cache = unsafe { self.0.as_ref() };
        cache.witness.looks();
        cache
    }
}

impl fmt::Debug for CachePtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(Class::ALL.map(|class| self.filled(class))).finish()
    }
}

/// This thread's cache of a pool, or one that has nothing: for [`Cache::pop_here`] and its like only.
#[inline(always)]
pub(crate) fn here(inner: &Inner) -> &Cache {
    let cache = table::get_or_nothing(inner.id());
    // SAFETY: the table holds a cache that was not retired and belongs to this thread, or gives the
    // empty one; a cache is retired by its own thread only, in functions that do not use such a
    // reference any more.
    unsafe { &*cache }
}

/// This thread's cache of a pool, if it has one.
fn local(inner: &Inner) -> Option<&Cache> {
    // SAFETY: as in `here`.
    table::get(inner.id()).map(|cache| unsafe { cache.as_ref() })
}

/// Takes a free buffer through this thread's cache, which it makes and fills if need be.
#[cold]
#[inline(never)]
pub(crate) fn alloc(inner: &Inner, class: Class) -> Option<u32> {
    if let Some(cache) = local(inner).or_else(|| make_local(inner)) {
        return cache.pop(class, false);
    }
    let mut index = [0];
    (inner.withdraw(class, &mut index, false) == 1).then_some(index[0])
}

/// Frees a buffer through this thread's cache, which it makes and empties if need be.
///
/// # Safety
/// The buffer was taken from this pool, is used by nobody, and is not freed twice. `inner` may be
/// gone when this returns.
pub(crate) unsafe fn free(inner: NonNull<Inner>, class: Class, index: u32) {
    // SAFETY: the buffer, which is outside the depot, keeps the pool alive until it is put back.
    let shared = unsafe { inner.as_ref() };
    shared.freed(class, index);
    if let Some(cache) = local(shared).or_else(|| make_local(shared)) {
        if cache.push(class, index) {
            return;
        }
        // It refused the buffer, so the pool is closing.
        retire_local(shared);
    }
    shared.deposit_only(class, &[index]);
    // SAFETY: the buffer's reference goes, now that it is in the depot.
    unsafe { Inner::release(inner, 1) };
}

/// Gives what this thread has cached of a pool back to the depot.
pub(crate) fn flush(inner: &Inner) {
    if let Some(cache) = local(inner) {
        cache.flush();
    }
}

/// Ends this thread's cache of a pool, if it has one. The caller holds a reference to the pool.
pub(crate) fn retire_local(inner: &Inner) {
    if let Some(cache) = table::take(inner.id()) {
        // SAFETY: the cache has just left this thread's table, where it was the only entry.
        unsafe { Cache::retire(cache) };
    }
}

/// Makes this thread's cache of a pool, where it may have one.
#[cold]
#[inline(never)]
fn make_local(inner: &Inner) -> Option<&Cache> {
    // The guard's access fails where the thread is ending: nobody would give the cache back.
    if inner.id() == NO_ID || !table::is_guarded() {
        return None;
    }
    retire_closed();
    let cache = Cache::new(inner)?;
    table::set(inner.id(), cache);
    local(inner)
}

/// Ends this thread's caches of pools that have closed since: one that nothing is freed to any more
/// would otherwise stay mapped until the thread ends.
fn retire_closed() {
    for id in 0..SLOTS {
        let Some(cache) = table::get(id) else { continue };
        // SAFETY: the table holds only caches that were not retired.
        if unsafe { cache.as_ref() }.is_closed(Class::Small) {
            table::take(id);
            // SAFETY: the cache has just left this thread's table, where it was the only entry.
            unsafe { Cache::retire(cache) };
        }
    }
}

/// Whether this thread's cache of the pool with this id, if it has one, knows that the pool closes.
#[cfg(all(loom, test))]
pub(crate) fn is_closed(id: usize) -> Option<bool> {
    // SAFETY: the table holds only caches that were not retired.
    table::get(id).map(|cache| unsafe { cache.as_ref() }.is_closed(Class::Small))
}

/// A cache that belongs to a handle instead of a thread.
pub(crate) struct OwnCache(Option<NonNull<Cache>>);

// SAFETY: the cache is reached only through this value, which one thread has at a time.
unsafe impl Send for OwnCache {}

impl OwnCache {
    pub(crate) fn new(inner: &Inner) -> Self {
        Self(Cache::new(inner))
    }

    fn get(&self) -> Option<&Cache> {
        // SAFETY: the cache lives until this value is dropped.
        self.0.map(|cache| unsafe { cache.as_ref() })
    }

    /// The cache, or one that has nothing: for [`Cache::pop_here`] and its like only.
    #[inline(always)]
    pub(crate) fn here(&self) -> &Cache {
        // SAFETY: the empty cache outlives every thread that can call this.
        self.get().unwrap_or_else(|| unsafe { &*table::nothing() })
    }

    /// Takes a free buffer, leaving the reserve in the depot.
    #[cold]
    #[inline(never)]
    pub(crate) fn alloc(&self, inner: &Inner, class: Class) -> Option<u32> {
        if let Some(cache) = self.get() {
            return cache.pop(class, true);
        }
        let mut index = [0];
        (inner.withdraw(class, &mut index, true) == 1).then_some(index[0])
    }

    pub(crate) fn flush(&self) {
        if let Some(cache) = self.get() {
            cache.flush();
        }
    }
}

impl Drop for OwnCache {
    fn drop(&mut self) {
        if let Some(cache) = self.0.take() {
            // SAFETY: made by `Cache::new`, owned by this value, which ends here.
            unsafe { Cache::retire(cache) };
        }
    }
}

impl fmt::Debug for OwnCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnCache").field(&self.0.map(CachePtr)).finish()
    }
}
