//! A pool's end, on whichever thread it comes.
//!
//! Loom lets a thread be joined before it has destroyed its thread-local values, so what a thread's
//! end does is checked where it happens: when the memory goes (`watch.rs`), and by [`ended`].

use std::cell::Cell;

use loom::{sync::mpsc, thread};

use super::{
    super::{Class, Pool, cache, sync::Step},
    explore, reached,
};
use crate::chain::Chain;

loom::thread_local! {
    /// What this thread is in the model that runs.
    static ROLE: Cell<&'static str> = Cell::new("a thread without a role");
}

/// This thread is something, until its end.
fn role(role: &'static str) {
    ROLE.with(|cell| cell.set(role));
}

/// The pool's memory goes, on this thread.
pub(in super::super) fn ended() {
    let role = ROLE.try_with(Cell::get).unwrap_or("a thread's end");
    reached(&format!("{role} was last"));
}

/// A pool of two small mbufs.
fn two() -> Pool {
    Pool::builder().count(Class::Small, 2).build().unwrap()
}

/// Drops a chain on a thread that may come to have a cache by that.
fn drop_here(chain: Chain) {
    role("who freed without a cache");
    drop(chain);
}

#[test]
fn loom_the_last_reference_unmaps_once_and_after_all_uses() {
    fn model() {
        let pool = two();
        let chains = [pool.chain().unwrap(), pool.chain().unwrap()];
        let threads = chains.map(|chain| thread::spawn(move || drop_here(chain)));
        role("the handle");
        drop(pool);
        for thread in threads {
            thread.join().unwrap();
        }
    }
    explore(
        concat!(module_path!(), "::loom_the_last_reference_unmaps_once_and_after_all_uses"),
        model,
        &["the handle was last", "a thread's end was last", "who freed without a cache was last"],
        &[Step::RefGoes, Step::LastRefGone],
    );
}

#[test]
fn loom_allocating_meets_another_threads_end() {
    fn model() {
        let pool = two();
        let chains = [pool.chain().unwrap(), pool.chain().unwrap()];
        pool.flush();
        let thread = thread::spawn(move || drop(chains));
        role("the handle");
        match pool.chain() {
            Ok(_) => reached("what the other gave back was there"),
            Err(_) => reached("nothing yet"),
        }
        thread.join().unwrap();
        drop(pool);
    }
    explore(
        concat!(module_path!(), "::loom_allocating_meets_another_threads_end"),
        model,
        &["what the other gave back was there", "nothing yet"],
        &[],
    );
}

#[test]
fn loom_the_closing_walk_meets_a_cache_that_goes() {
    fn model() {
        let pool = two();
        let chain = pool.chain().unwrap();
        // Its own cache of the pool would be told as well.
        cache::retire_local(pool.inner());
        let thread = thread::spawn(move || drop_here(chain));
        role("the handle");
        drop(pool);
        thread.join().unwrap();
    }
    explore(
        concat!(module_path!(), "::loom_the_closing_walk_meets_a_cache_that_goes"),
        model,
        &[
            "a cache was told that the pool closes",
            "the handle was last",
            "a thread's end was last",
            "who freed without a cache was last",
        ],
        &[],
    );
}

#[test]
fn loom_no_cache_is_made_once_the_pool_closes() {
    fn model() {
        let pool = two();
        let chain = pool.chain().unwrap();
        let id = pool.inner().id();
        cache::retire_local(pool.inner());
        let thread = thread::spawn(move || drop(pool));
        drop_here(chain);
        thread.join().unwrap();
        // The thread lives on: a cache that it has must know that it is not wanted any more.
        match cache::is_closed(id) {
            None => reached("no cache"),
            Some(closed) => {
                assert!(closed, "a model's claim: a cache that nobody tells to go");
                reached("a cache that knows");
            }
        }
    }
    explore(
        concat!(module_path!(), "::loom_no_cache_is_made_once_the_pool_closes"),
        model,
        &["no cache", "a cache that knows", "refused a cache"],
        &[Step::NoCacheWhileClosing],
    );
}

#[test]
fn loom_an_id_is_given_again_only_when_no_cache_has_it() {
    fn model() {
        let old = two();
        let id = old.inner().id();
        let (to_thread, pools) = mpsc::channel::<Pool>();
        let chain = old.chain().unwrap();
        let thread = thread::spawn(move || {
            // To a cache of the old pool, if it is still open.
            drop(chain);
            // What that cache has must not be taken for the new pool's, which has nothing left.
            let new = pools.recv().unwrap();
            assert!(new.chain().is_err(), "a model's claim: a buffer that is another pool's");
        });
        drop(old);
        let new = Pool::builder().name("new").count(Class::Small, 1).build().unwrap();
        reached(if new.inner().id() == id { "given again" } else { "not yet free" });
        let _all = new.chain().unwrap();
        to_thread.send(new.clone()).unwrap();
        thread.join().unwrap();
    }
    explore(
        concat!(module_path!(), "::loom_an_id_is_given_again_only_when_no_cache_has_it"),
        model,
        &["given again", "not yet free"],
        &[Step::IdStaysWithCaches],
    );
}

#[test]
fn loom_what_a_thread_gives_back_at_its_end_does_not_seem_in_use() {
    fn model() {
        let pool = two();
        let its = pool.clone();
        thread::spawn(move || drop(its.chain())).join().unwrap();
        let stats = pool.stats();
        assert_eq!(stats.in_use(), 0, "a model's claim: a buffer in use though no chain has it");
        reached(if stats.class(Class::Small).cached > 0 { "still cached" } else { "given back" });
    }
    explore(
        concat!(module_path!(), "::loom_what_a_thread_gives_back_at_its_end_does_not_seem_in_use"),
        model,
        &["still cached", "given back"],
        &[Step::RetiredUnderLock],
    );
}

/// The pool is used to the last through what it lent.
#[test]
fn loom_a_receivers_cache_goes_with_it() {
    fn model() {
        let pool = two();
        let receiver = pool.receiver();
        let thread = thread::spawn(move || {
            role("the receiver");
            drop(receiver.chain());
            drop(receiver);
        });
        role("the handle");
        drop(pool);
        thread.join().unwrap();
    }
    explore(
        concat!(module_path!(), "::loom_a_receivers_cache_goes_with_it"),
        model,
        &["the receiver was last", "the handle was last"],
        &[Step::RefGoes],
    );
}
