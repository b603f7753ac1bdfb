//! Storage with several holders: freed once, after all have read; written by whoever is the only
//! one again; and an owner outside released once, by the last.

use loom::{cell::UnsafeCell, sync::Arc, thread};

use super::{
    super::{Class, Holders, Pool, sync::Step},
    explore, reached,
};

/// Storage, and who holds it.
struct Shared {
    holders: Holders,
    storage: UnsafeCell<u32>,
}

impl Shared {
    /// Two holders.
    fn new() -> Arc<Self> {
        let holders = Holders::new();
        holders.first(1);
        Arc::new(Self { holders, storage: UnsafeCell::new(5) })
    }

    fn read(&self) -> u32 {
        // SAFETY: the models' point: loom reports it if anyone writes meanwhile.
        self.storage.with(|cell| unsafe { *cell })
    }

    fn write(&self) {
        // SAFETY: the models' point: loom reports it if anyone is here at the same time.
        self.storage.with_mut(|cell| unsafe { *cell = 6 });
    }

    /// Reads, lets go, and frees the storage if it was the last.
    fn let_go(&self, who: &str) {
        assert_eq!(self.read(), 5);
        if self.holders.release() {
            self.write();
            reached(who);
        }
    }
}

#[test]
fn loom_the_last_holder_frees_after_all_reads() {
    fn model() {
        let shared = Shared::new();
        let other = shared.clone();
        let thread = thread::spawn(move || other.let_go("the other was last"));
        shared.let_go("this one was last");
        thread.join().unwrap();
        assert_eq!(shared.read(), 6, "a model's claim: one of them has freed it");
    }
    explore(
        concat!(module_path!(), "::loom_the_last_holder_frees_after_all_reads"),
        model,
        &["the other was last", "this one was last"],
        &[Step::HolderGoes, Step::LastHolderGone, Step::SoleHolder],
    );
}

#[test]
fn loom_who_is_sole_again_writes_after_the_others_reads() {
    fn model() {
        let shared = Shared::new();
        let other = shared.clone();
        let thread = thread::spawn(move || {
            assert_eq!(other.read(), 5);
            let last = other.holders.release();
            assert!(!last, "a model's claim: there is another holder");
        });
        if shared.holders.is_sole() {
            shared.write();
            reached("regained");
        } else {
            reached("still shared");
        }
        thread.join().unwrap();
    }
    explore(
        concat!(module_path!(), "::loom_who_is_sole_again_writes_after_the_others_reads"),
        model,
        &["regained", "still shared"],
        &[Step::SoleHolder, Step::HolderGoes],
    );
}

#[test]
fn loom_a_shared_cluster_is_freed_once() {
    fn model() {
        let pool = Pool::builder().count(Class::Small, 3).count(Class::K2, 1).headroom(0).build();
        let pool = pool.unwrap();
        let mut chain = pool.chain_from(&[7; 200]).unwrap();
        let mut other = chain.share().unwrap();
        let thread = thread::spawn(move || {
            // Shared bytes are copied before they are written: without a cluster that is refused.
            match other.header_mut::<[u8; 200]>() {
                Ok(_) => reached("the other had it for itself"),
                Err(_) => reached("the other could not write"),
            }
        });
        drop(chain);
        thread.join().unwrap();
        // The other thread's cache may have it; but it is nowhere twice.
        let stats = pool.stats();
        assert!(stats.class(Class::K2).in_use <= 1, "a model's claim: {stats}");
    }
    explore(
        concat!(module_path!(), "::loom_a_shared_cluster_is_freed_once"),
        model,
        &["the other had it for itself", "the other could not write"],
        &[],
    );
}

/// Bytes outside of the pool; loom sees them read, and going.
struct Owner(Arc<UnsafeCell<[u8; 4]>>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        const { &[1, 2, 3, 4] }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: the model's point: loom reports it if anyone reads meanwhile.
        self.0.with_mut(|cell| unsafe { *cell = [0; 4] });
        reached("released");
    }
}

// SAFETY: a model's owner is reached by one thread at a time, which is what loom checks.
unsafe impl Sync for Owner {}
// SAFETY: as above.
unsafe impl Send for Owner {}

#[test]
fn loom_an_external_owner_is_released_once_after_all_reads() {
    fn model() {
        let pool = Pool::builder().count(Class::Small, 2).build().unwrap();
        let bytes = Arc::new(UnsafeCell::new([1, 2, 3, 4]));
        let (here, there) = (bytes.clone(), bytes.clone());
        let mut chain = pool.attach(Owner(bytes), ..).unwrap();
        let other = chain.share().unwrap();
        let thread = thread::spawn(move || {
            // SAFETY: the model's point: loom reports it if the owner has gone.
            assert_eq!(there.with(|cell| unsafe { (*cell)[0] }), 1, "a model's claim");
            drop(other);
        });
        // SAFETY: as above.
        assert_eq!(here.with(|cell| unsafe { (*cell)[0] }), 1, "a model's claim");
        drop(chain);
        thread.join().unwrap();
        // SAFETY: as above.
        assert_eq!(here.with(|cell| unsafe { (*cell)[0] }), 0, "a model's claim: it was released");
    }
    explore(
        concat!(module_path!(), "::loom_an_external_owner_is_released_once_after_all_reads"),
        model,
        &["released"],
        &[Step::HolderGoes, Step::LastHolderGone, Step::SoleHolder],
    );
}
