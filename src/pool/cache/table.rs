//! Where a thread finds its caches: a table in thread-local storage, by the pool's id.
//!
//! The table has no destructor, so it can be read at any time in a thread's life; a second, guarded
//! value has one, which gives the caches back when the thread ends.
//!
//! Where a thread has no cache, an empty one that takes nothing stands in, so that the fast path
//! needs no test of its own for "no cache".

use std::{cell::Cell, ptr, ptr::NonNull};

use super::Cache;

/// Pools that can have per-thread caches at the same time; further ones work on the depot.
pub(crate) const SLOTS: usize = 32;
/// The id of a pool that has no place in the table.
pub(crate) const NO_ID: usize = SLOTS;

/// A thread's caches, by pool id; the last place, that of pools without one, is always vacant.
///
/// Invariant: each entry is vacant, or a cache that belongs to this thread and was not retired.
struct Table {
    slots: [Cell<*const Cache>; SLOTS + 1],
    /// Loom's atomics belong to one execution, and so cannot be in a static.
    #[cfg(loom)]
    nothing: Cache,
}

impl Table {
    /// The cache at a place, which becomes vacant.
    fn take(&self, id: usize) -> Option<NonNull<Cache>> {
        cache_at(self.slots[id].replace(vacant()))
    }

    /// Ends all caches.
    fn retire_all(&self) {
        for id in 0..SLOTS {
            if let Some(cache) = self.take(id) {
                // SAFETY: the table holds only caches made by `Cache::new` that were not retired
                // yet; this one has just left the table.
                unsafe { Cache::retire(cache) };
            }
        }
    }
}

/// What is at a place of the table, if it is a cache.
fn cache_at(slot: *const Cache) -> Option<NonNull<Cache>> {
    if ptr::eq(slot, vacant()) { None } else { NonNull::new(slot.cast_mut()) }
}

/// This thread's cache of the pool with this id, if it has one.
pub(super) fn get(id: usize) -> Option<NonNull<Cache>> {
    TABLE.with(|table| cache_at(table.slots[id].get()))
}

/// Enters a cache of this thread.
pub(super) fn set(id: usize, cache: NonNull<Cache>) {
    TABLE.with(|table| table.slots[id].set(cache.as_ptr()));
}

/// Takes this thread's cache of the pool with this id out of the table, if it has one.
pub(super) fn take(id: usize) -> Option<NonNull<Cache>> {
    TABLE.with(|table| table.take(id))
}

use thread::{TABLE, vacant};
pub(super) use thread::{get_or_nothing, is_guarded, nothing};

#[cfg(not(loom))]
mod thread {
    use std::{cell::UnsafeCell, sync::atomic::AtomicUsize};

    use super::{
        super::{MAGAZINE, Witness},
        *,
    };

    thread_local! {
        pub(super) static TABLE: Table =
            const { Table { slots: [const { Cell::new(vacant()) }; SLOTS + 1] } };
        static GUARD: Guard = const { Guard };
    }

    static NOTHING: Nothing = Nothing(Cache {
        filled: [const { AtomicUsize::new(0) }; 5],
        limit: [const { AtomicUsize::new(0) }; 5],
        quick_limit: [const { AtomicUsize::new(0) }; 5],
        step: [0; 5],
        inner: NonNull::dangling(),
        indices: [const { UnsafeCell::new([0; 2 * MAGAZINE]) }; 5],
        witness: Witness::new(),
    });

    struct Nothing(Cache);

    // SAFETY: nobody writes to it: with `filled` and the limits at 0, `pop_here`, `pop_some_here`
    // and `push_here` change nothing, and no other method is called on it (`cache_at`).
    unsafe impl Sync for Nothing {}

    pub(super) const fn vacant() -> *const Cache {
        &raw const NOTHING.0
    }

    /// The empty cache: for [`Cache::pop_here`] and its like only.
    pub(in super::super) fn nothing() -> *const Cache {
        vacant()
    }

    /// This thread's cache of the pool with this id, or the empty one.
    #[inline(always)]
    pub(in super::super) fn get_or_nothing(id: usize) -> *const Cache {
        // SAFETY: an id is a place of the table, or the one after them, which the table has too.
        TABLE.with(|table| unsafe { table.slots.get_unchecked(id) }.get())
    }

    /// Whether this thread will give its caches back when it ends: not where it is ending already.
    pub(in super::super) fn is_guarded() -> bool {
        GUARD.try_with(|_| ()).is_ok()
    }

    /// Gives this thread's caches back when the thread ends.
    struct Guard;

    impl Drop for Guard {
        fn drop(&mut self) {
            TABLE.with(Table::retire_all);
        }
    }
}

/// The same for loom, whose thread-local values are never constant, and which destroys them all.
#[cfg(loom)]
mod thread {
    use super::*;

    loom::thread_local! {
        pub(super) static TABLE: Table = Table {
            slots: [const { Cell::new(vacant()) }; SLOTS + 1],
            nothing: Cache::empty(),
        };
    }

    pub(super) const fn vacant() -> *const Cache {
        ptr::null()
    }

    pub(in super::super) fn nothing() -> *const Cache {
        TABLE.with(|table| &raw const table.nothing)
    }

    pub(in super::super) fn get_or_nothing(id: usize) -> *const Cache {
        get(id).map_or_else(nothing, |cache| cache.as_ptr())
    }

    pub(in super::super) fn is_guarded() -> bool {
        TABLE.try_with(|_| ()).is_ok()
    }

    impl Drop for Table {
        fn drop(&mut self) {
            self.retire_all();
        }
    }
}
