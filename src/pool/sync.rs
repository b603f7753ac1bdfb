//! The one place that says which atomics and locks the pool uses, so that loom can stand in.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
#[cfg(not(any(loom, tsan)))]
pub(crate) use std::sync::{Mutex, MutexGuard};

/// ThreadSanitizer sees into crates that are compiled with it, not into the standard library.
#[cfg(tsan)]
pub(crate) use parking_lot::{Mutex, MutexGuard};

/// Locks; a thread that panicked while it held the lock left plain numbers behind, never a
/// half-made structure, so poisoning is ignored.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(not(tsan))]
    return mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    #[cfg(tsan)]
    mutex.lock()
}

/// A place in the code that the pool's soundness hangs on. The models break one after the other, and
/// must notice each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// [`super::depot::Refs::sub`]: what was done with the pool comes before the reference goes.
    RefGoes,
    /// The same: it comes before the pool is freed.
    LastRefGone,
    /// [`super::Holders::is_sole`]: what the others did comes before this one writes.
    SoleHolder,
    /// [`super::Holders::release`]: what was done with the storage comes before the holder goes.
    HolderGoes,
    /// The same: it comes before the storage is freed.
    LastHolderGone,
    /// A pool that is closing takes no further caches.
    NoCacheWhileClosing,
    /// A pool's id is not given to another pool as long as a cache may have it.
    IdStaysWithCaches,
    /// What a cache has goes back to the depot where statistics are not taken meanwhile.
    RetiredUnderLock,
}

impl Step {
    /// All of them.
    #[cfg(all(loom, test))]
    pub(crate) const ALL: [Step; 8] = [
        Step::RefGoes,
        Step::LastRefGone,
        Step::SoleHolder,
        Step::HolderGoes,
        Step::LastHolderGone,
        Step::NoCacheWhileClosing,
        Step::IdStaysWithCaches,
        Step::RetiredUnderLock,
    ];

    /// The memory ordering of the step, which is an atomic operation.
    #[inline(always)]
    pub(crate) fn order(self) -> Ordering {
        if self.is_broken() {
            return Ordering::Relaxed;
        }
        match self {
            Step::RefGoes | Step::HolderGoes => Ordering::Release,
            _ => Ordering::Acquire,
        }
    }

    /// Whether a model has broken it.
    #[inline(always)]
    pub(crate) fn is_broken(self) -> bool {
        #[cfg(all(loom, test))]
        return super::models::broken() == Some(self);
        #[cfg(not(all(loom, test)))]
        false
    }
}

/// Counts a branch, for models that must reach it.
#[inline(always)]
pub(crate) fn reached(branch: &str) {
    #[cfg(all(loom, test))]
    super::models::reached(branch);
    let _ = branch;
}

/// Lets loom see accesses to memory that it does not know: those to a piece of memory that others
/// may look at until it is freed.
#[cfg(loom)]
#[derive(Default)]
pub(crate) struct Witness(loom::cell::UnsafeCell<()>);

#[cfg(loom)]
impl Witness {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// It is looked at.
    pub(crate) fn looks(&self) {
        self.0.with(|_| ());
    }

    /// It is freed.
    pub(crate) fn frees(&self) {
        self.0.with_mut(|_| ());
    }
}

/// Outside of models there is nothing to see.
#[cfg(not(loom))]
pub(crate) struct Witness;

#[cfg(not(loom))]
impl Witness {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) fn looks(&self) {}

    pub(crate) fn frees(&self) {}
}
