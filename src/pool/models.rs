//! Models for loom: every interleaving of a few threads over the depot and the counts.
//!
//! Memory is an array of loom's cells: reading, writing and unmapping it are checked for races.
//! Each model counts that the branches it is about were reached, since an exploration that never
//! reaches a branch passes whatever the branch does.
//!
//! `RUSTFLAGS='--cfg loom' cargo test --lib loom_`

use std::sync::atomic::{AtomicUsize as Counter, Ordering::SeqCst};

use loom::{cell::UnsafeCell, model, sync::Arc, thread};

use super::depot::{Depot, Holders, Refs};

/// Two buffers of memory, a depot over them, and what keeps both.
struct Pool {
    depot: Depot,
    refs: Refs,
    memory: [UnsafeCell<u32>; 2],
}

impl Pool {
    fn new(refs: usize) -> Self {
        Self {
            depot: Depot::full(0..2).unwrap(),
            refs: Refs::new(refs),
            memory: [UnsafeCell::new(0), UnsafeCell::new(0)],
        }
    }

    fn write(&self, index: u32, value: u32) {
        // SAFETY: the model's point: loom reports it if anyone else touches the cell.
        self.memory[index as usize].with_mut(|cell| unsafe { *cell = value });
    }

    /// Touches all memory, as unmapping it does.
    fn unmap(&self) {
        self.write(0, 0);
        self.write(1, 0);
    }
}

#[test]
fn loom_the_last_reference_unmaps_once_and_after_all_writes() {
    static UNMAPPED: Counter = Counter::new(0);
    static RUNS: Counter = Counter::new(0);
    static BY_HANDLE: Counter = Counter::new(0);
    model(|| {
        RUNS.fetch_add(1, SeqCst);
        // The handle's reference; each thread has a buffer outside the depot.
        let pool = Arc::new(Pool::new(1));
        let mut out = [0; 2];
        assert_eq!(pool.depot.take(&mut out, 0), (2, 0));
        pool.refs.add(2);
        let threads = out.map(|index| {
            let pool = pool.clone();
            thread::spawn(move || {
                pool.write(index, 7);
                pool.depot.put(&[index]);
                if pool.refs.sub(1) {
                    pool.unmap();
                    UNMAPPED.fetch_add(1, SeqCst);
                }
            })
        });
        if pool.refs.sub(1) {
            pool.unmap();
            UNMAPPED.fetch_add(1, SeqCst);
            BY_HANDLE.fetch_add(1, SeqCst);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(pool.depot.levels().0, 2);
    });
    let (runs, unmapped, by_handle) =
        (RUNS.load(SeqCst), UNMAPPED.load(SeqCst), BY_HANDLE.load(SeqCst));
    assert_eq!(unmapped, runs);
    assert!(by_handle > 0 && by_handle < runs, "{by_handle} of {runs}");
}

#[test]
fn loom_a_buffer_that_goes_through_the_depot_is_seen_as_it_was_left() {
    static PASSED_ON: Counter = Counter::new(0);
    model(|| {
        let pool = Arc::new(Pool::new(2));
        let mut out = [0];
        assert_eq!(pool.depot.take(&mut out, 0), (1, 1));
        let other = pool.clone();
        let first = out[0];
        let thread = thread::spawn(move || {
            other.write(first, 1);
            other.depot.put(&[first]);
        });
        let mut out = [0; 2];
        let (taken, _) = pool.depot.take(&mut out, 0);
        for &index in &out[..taken] {
            pool.write(index, 2);
            if index == first {
                PASSED_ON.fetch_add(1, SeqCst);
            }
        }
        thread.join().unwrap();
    });
    assert!(PASSED_ON.load(SeqCst) > 0);
}

#[test]
fn loom_the_last_holder_frees_once_and_after_all_reads() {
    static RUNS: Counter = Counter::new(0);
    static FREED: Counter = Counter::new(0);
    static BY_FIRST: Counter = Counter::new(0);
    model(|| {
        RUNS.fetch_add(1, SeqCst);
        let shared = Arc::new((Holders::new(), UnsafeCell::new(5u32)));
        shared.0.first(1);
        let other = shared.clone();
        let let_go = |shared: &(Holders, UnsafeCell<u32>)| {
            // SAFETY: the model's point: loom reports it if anyone writes meanwhile.
            assert_eq!(shared.1.with(|cell| unsafe { *cell }), 5);
            let last = shared.0.release();
            if last {
                // SAFETY: as above.
                shared.1.with_mut(|cell| unsafe { *cell = 0 });
                FREED.fetch_add(1, SeqCst);
            }
            last
        };
        let thread = thread::spawn(move || let_go(&other));
        if let_go(&shared) {
            BY_FIRST.fetch_add(1, SeqCst);
        }
        thread.join().unwrap();
    });
    let (runs, freed, by_first) = (RUNS.load(SeqCst), FREED.load(SeqCst), BY_FIRST.load(SeqCst));
    assert_eq!(freed, runs);
    assert!(by_first > 0 && by_first < runs, "{by_first} of {runs}");
}

#[test]
fn loom_who_is_sole_again_writes_after_the_others_reads() {
    static REGAINED: Counter = Counter::new(0);
    static STILL_SHARED: Counter = Counter::new(0);
    model(|| {
        let shared = Arc::new((Holders::new(), UnsafeCell::new(5u32)));
        shared.0.first(1);
        let other = shared.clone();
        let thread = thread::spawn(move || {
            // SAFETY: the model's point: loom reports it if anyone writes meanwhile.
            assert_eq!(other.1.with(|cell| unsafe { *cell }), 5);
            assert!(!other.0.release() || other.0.is_sole());
        });
        if shared.0.is_sole() {
            // SAFETY: as above.
            shared.1.with_mut(|cell| unsafe { *cell = 6 });
            REGAINED.fetch_add(1, SeqCst);
        } else {
            STILL_SHARED.fetch_add(1, SeqCst);
        }
        thread.join().unwrap();
    });
    assert!(REGAINED.load(SeqCst) > 0, "the branch was never reached");
    assert!(STILL_SHARED.load(SeqCst) > 0, "the branch was never reached");
}
