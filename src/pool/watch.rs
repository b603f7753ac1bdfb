//! Watching buffers come and go, for tools that find misuse. A plain release build watches nothing,
//! and nothing of this costs it anything.
//!
//! | build | what is found |
//! |---|---|
//! | with debug assertions | a buffer freed twice, given out twice, or freed to a pool that does not have it; one written to after it was freed (free buffers are filled with [`FREED`]) |
//! | `--cfg asan`, with `-Zsanitizer=address` | every access to a free buffer, at once |
//! | `--cfg valgrind`, under memcheck | the same; and the use of bytes that nobody wrote since the buffer was given out |
//! | `--cfg loom` | an access to a buffer, by whoever has it, that is not ordered against another's |

use std::{collections::TryReserveError, ptr::NonNull};

use super::{Inner, memory::Layout};
use crate::class::Class;

/// What free buffers are filled with where they are not zeroed.
#[cfg(debug_assertions)]
const FREED: u8 = 0xdb;

/// What is known of each buffer.
#[derive(Debug)]
pub(super) struct Watch {
    /// By class, and place in it.
    #[cfg(any(debug_assertions, loom))]
    states: [Box<[state::Cell]>; 5],
}

impl Watch {
    /// # Errors
    /// Where there is no memory for it.
    #[cfg(any(debug_assertions, loom))]
    pub(super) fn new(counts: [usize; 5]) -> Result<Self, TryReserveError> {
        let states = |class: Class| {
            super::depot::table((0..counts[class.index()]).map(|_| state::Cell::default()))
        };
        let [small, k2, k4, k16, k64] = Class::ALL;
        Ok(Self { states: [states(small)?, states(k2)?, states(k4)?, states(k16)?, states(k64)?] })
    }

    /// # Errors
    /// None.
    #[cfg(not(any(debug_assertions, loom)))]
    pub(super) fn new(_counts: [usize; 5]) -> Result<Self, TryReserveError> {
        Ok(Self {})
    }

    /// The pool begins: all its memory is free.
    pub(super) fn begin(&self, base: NonNull<u8>, layout: &Layout) {
        tool::hide(base, layout.len);
    }

    /// The pool ends: its memory may serve for something else.
    pub(super) fn end(&self, base: NonNull<u8>, layout: &Layout) {
        #[cfg(loom)]
        self.states.iter().flatten().for_each(state::Cell::end);
        #[cfg(all(loom, test))]
        super::models::ended();
        tool::show(base, layout.len);
    }
}

impl Inner {
    /// A buffer is about to be given out.
    #[inline(always)]
    #[cfg_attr(feature = "census", track_caller)]
    pub(crate) fn taken(&self, class: Class, index: u32) {
        self.born(class, index);
        #[cfg(any(debug_assertions, loom))]
        let before = self.state(class, index).set(state::USED);
        #[cfg(debug_assertions)]
        if before == state::USED {
            misuse(self, class, index, "given out while it is in use");
        }
        let buffer = self.buffer(class, index);
        tool::show(buffer, class.size());
        #[cfg(debug_assertions)]
        if before == state::FREE {
            self.check_untouched(class, index, buffer);
        }
        if !self.zero_on_free {
            tool::forget(buffer, class.size());
        }
    }

    /// A buffer is about to be free: nobody uses it any more, and nobody else can take it yet.
    #[inline(always)]
    pub(crate) fn freed(&self, class: Class, index: u32) {
        #[cfg(any(debug_assertions, loom))]
        let before = self.state(class, index).set(state::FREE);
        #[cfg(debug_assertions)]
        if before != state::USED {
            misuse(self, class, index, "freed while it is free");
        }
        self.note(class, index, super::Event::Freed);
        let buffer = self.buffer(class, index);
        #[cfg(debug_assertions)]
        if !self.zero_on_free {
            // SAFETY: the buffer lies within the mapping, and is nobody's at this moment.
            unsafe { buffer.write_bytes(FREED, class.size()) };
        }
        tool::hide(buffer, class.size());
    }

    /// Where a buffer is.
    #[inline(always)]
    fn buffer(&self, class: Class, index: u32) -> NonNull<u8> {
        // SAFETY: a buffer's index is its offset in the mapping, in units of its size.
        unsafe { self.base.add((index as usize) << class.shift()) }
    }

    #[cfg(any(debug_assertions, loom))]
    fn state(&self, class: Class, index: u32) -> &state::Cell {
        let first = self.layout.indices(class, 0).start;
        let place = index.checked_sub(first).map(|place| place as usize);
        match place.and_then(|place| self.watch.states[class.index()].get(place)) {
            Some(state) => state,
            None => misuse(self, class, index, "not one of this pool"),
        }
    }

    /// Whoever wrote to the buffer since it was freed had no right to.
    #[cfg(debug_assertions)]
    fn check_untouched(&self, class: Class, index: u32, buffer: NonNull<u8>) {
        // Where memory is zeroed, the bookkeeping of a small mbuf is not.
        let (expected, from) = match (self.zero_on_free, class) {
            (false, _) => (FREED, 0),
            (true, Class::Small) => (0, 64),
            (true, _) => (0, 0),
        };
        let buffer = NonNull::slice_from_raw_parts(buffer, class.size());
        // SAFETY: within the mapping, which is initialised, and nobody else's at this moment.
        let bytes = unsafe { &buffer.as_ref()[from..] };
        // Each byte is the same as the next, and the first is right: one comparison of memory.
        if bytes[0] != expected || bytes[1..] != bytes[..bytes.len() - 1] {
            let at = from + bytes.iter().position(|byte| *byte != expected).unwrap_or(0);
            misuse(self, class, index, &format!("written to at byte {at} after it was freed"));
        }
    }
}

/// # Panics
/// Always: memory is used that belongs to somebody else.
#[cfg(any(debug_assertions, loom))]
#[cold]
fn misuse(pool: &Inner, class: Class, index: u32, what: &str) -> ! {
    panic!("pool `{}`: {class} {index}: {what}", pool.name);
}

/// Whether a buffer is free.
#[cfg(any(debug_assertions, loom))]
mod state {
    /// It was never given out.
    pub(super) const NEW: u8 = 0;
    pub(super) const FREE: u8 = 1;
    pub(super) const USED: u8 = 2;

    /// A buffer's state; what else is done with the buffer is ordered by whoever has it.
    #[cfg(not(loom))]
    #[derive(Debug)]
    pub(super) struct Cell(std::sync::atomic::AtomicU8);

    #[cfg(not(loom))]
    impl Cell {
        /// Changes it, and answers what it was.
        pub(super) fn set(&self, state: u8) -> u8 {
            self.0.swap(state, std::sync::atomic::Ordering::Relaxed)
        }
    }

    #[cfg(not(loom))]
    impl Default for Cell {
        fn default() -> Self {
            Self(std::sync::atomic::AtomicU8::new(NEW))
        }
    }

    /// Loom checks that whoever sets it comes after whoever set it before.
    #[cfg(loom)]
    #[derive(Debug)]
    pub(super) struct Cell(loom::cell::UnsafeCell<u8>);

    #[cfg(loom)]
    impl Cell {
        pub(super) fn set(&self, state: u8) -> u8 {
            // SAFETY: the models' point: loom reports it if anyone else is here at the same time.
            self.0.with_mut(|cell| unsafe { cell.replace(state) })
        }

        /// The memory goes: all uses come before.
        pub(super) fn end(&self) {
            let state = self.set(NEW);
            assert_ne!(state, USED, "the memory of a pool goes while a buffer is in use");
        }
    }

    // A number is whole at any time.
    #[cfg(loom)]
    impl std::panic::RefUnwindSafe for Cell {}

    #[cfg(loom)]
    impl Default for Cell {
        fn default() -> Self {
            Self(loom::cell::UnsafeCell::new(NEW))
        }
    }
}

/// What a tool that watches all memory is told of the pool's.
mod tool {
    use super::*;

    #[cfg(asan)]
    unsafe extern "C" {
        fn __asan_poison_memory_region(start: *const u8, len: usize);
        fn __asan_unpoison_memory_region(start: *const u8, len: usize);
    }

    /// Nobody may touch it.
    #[inline(always)]
    pub(super) fn hide(start: NonNull<u8>, len: usize) {
        #[cfg(asan)]
        // SAFETY: it is memory of a pool's mapping, and changes nothing but the tool's book.
        unsafe {
            __asan_poison_memory_region(start.as_ptr(), len)
        };
        #[cfg(valgrind)]
        mark(start, len, crabgrind::memcheck::MemState::NoAccess);
        let _ = (start, len);
    }

    /// It may be read and written.
    #[inline(always)]
    pub(super) fn show(start: NonNull<u8>, len: usize) {
        #[cfg(asan)]
        // SAFETY: as in `hide`.
        unsafe {
            __asan_unpoison_memory_region(start.as_ptr(), len)
        };
        #[cfg(valgrind)]
        mark(start, len, crabgrind::memcheck::MemState::Defined);
        let _ = (start, len);
    }

    /// What is there now means nothing: nobody may depend on it.
    #[inline(always)]
    pub(super) fn forget(start: NonNull<u8>, len: usize) {
        #[cfg(valgrind)]
        mark(start, len, crabgrind::memcheck::MemState::Undefined);
        let _ = (start, len);
    }

    #[cfg(valgrind)]
    fn mark(start: NonNull<u8>, len: usize, state: crabgrind::memcheck::MemState) {
        // Not running under valgrind is no error: then nobody listens.
        let _ = crabgrind::memcheck::mark_mem(start.as_ptr().cast(), len, state);
    }
}

#[cfg(all(test, debug_assertions, not(loom)))]
mod tests {
    use std::ptr::NonNull;

    use crate::pool::{Alloc, Class, Inner, Pool};

    /// A pool, and a buffer of a class that was taken from it.
    fn taken(class: Class) -> (Pool, u32) {
        let pool = Pool::builder().name("rx").count(Class::Small, 4).count(class, 4).build();
        let pool = pool.unwrap();
        let index = pool.inner().take(class).unwrap();
        pool.inner().taken(class, index);
        (pool, index)
    }

    fn free(pool: &Pool, class: Class, index: u32) {
        // SAFETY: not at all, which is what these tests are about: the pool must notice before it
        // does any harm. (The pool has a handle, so that it outlives the call.)
        unsafe { Inner::free(NonNull::from(pool.inner()), class, index) };
    }

    #[test]
    #[should_panic(expected = "pool `rx`: small mbuf 0: freed while it is free")]
    fn a_buffer_that_is_freed_twice_is_noticed() {
        let (pool, index) = taken(Class::Small);
        free(&pool, Class::Small, index);
        free(&pool, Class::Small, index);
    }

    #[test]
    #[should_panic(expected = "4 KiB cluster 4096: not one of this pool")]
    fn a_buffer_that_is_freed_to_another_pool_is_noticed() {
        let (pool, _) = taken(Class::K4);
        free(&pool, Class::K4, 4096);
    }

    #[test]
    #[should_panic(expected = "given out while it is in use")]
    fn a_buffer_that_is_given_out_twice_is_noticed() {
        let (pool, index) = taken(Class::K2);
        pool.inner().taken(Class::K2, index);
    }

    // A sanitizer would report the write itself.
    #[cfg(not(asan))]
    #[test]
    #[should_panic(expected = "2 KiB cluster 1: written to at byte 164 after it was freed")]
    fn a_write_after_the_end_is_noticed() {
        let pool = Pool::builder().name("rx").count(Class::Small, 8).count(Class::K2, 1).build();
        let pool = pool.unwrap();
        let mut chain = pool.chain_from(&[7; 300]).unwrap();
        let stale: *mut u8 = chain.header_mut::<[u8; 300]>().unwrap().as_mut_ptr();
        drop(chain);
        // SAFETY: not sound in any program, save that the mapping is there: what is to be noticed.
        unsafe { stale.wrapping_add(100).write(8) };
        std::mem::forget(pool.chain_from(&[7; 300]));
    }

    #[test]
    fn nothing_is_left_to_be_read_of_a_buffer_that_was_freed() {
        let pool = Pool::builder().count(Class::Small, 1).build().unwrap();
        drop(pool.chain_from(b"secret").unwrap());
        let mut chain = pool.chain().unwrap();
        let mut room = chain.reserve_uninit(64).unwrap();
        let mut iovecs = smallvec::SmallVec::<[libc::iovec; 1]>::new();
        room.iovecs(&mut iovecs);
        // SAFETY: room of a chain that is still there, and a pool's memory is always initialised.
        let bytes = unsafe { iovecs[0].iov_base.cast::<[u8; 64]>().read() };
        assert_eq!(bytes, [super::FREED; 64]);
    }
}
