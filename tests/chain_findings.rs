//! What reviews of the chain and the pool found, so that it is not found again.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
};

use mbuf::{Chain, Class, Error, Pool, Queue, chain::Opaque};

/// Opaque memory of any length that nobody can read but by `read_at`.
struct Mapped(usize, fn(&mut [u8]));

// SAFETY: nothing dereferences the address; no chain in this file goes to a system call.
unsafe impl Opaque for Mapped {
    fn as_ptr(&self) -> *const u8 {
        std::ptr::without_provenance(4096)
    }

    fn len(&self) -> usize {
        self.0
    }

    fn read_at(&self, _: u64, out: &mut [u8]) -> io::Result<()> {
        (self.1)(out);
        Ok(())
    }
}

fn mapped(pool: &Pool, len: usize) -> Chain {
    pool.attach_opaque(Mapped(len, |out| out.fill(7)), ..).unwrap()
}

#[test]
fn what_no_longer_fits_32_bits_is_not_restored() {
    let pool = Pool::with_memory(1 << 20).unwrap();
    let half = 1 << 31;
    let mut chain = mapped(&pool, half);
    chain.trim_front(half).unwrap();
    chain.concat(mapped(&pool, half)).unwrap();
    let max = u32::MAX as usize;
    assert_eq!(chain.restore(half), Err(Error::TooLong { wanted: 2 * half, max }));
    assert_eq!((chain.len(), chain.check()), (half, Ok(())));
    chain.restore(half - 1).unwrap();
    assert_eq!((chain.len(), chain.check()), (max, Ok(())));
}

#[test]
fn collapse_knows_which_buffers_the_pool_has() {
    let pool = Pool::builder().count(Class::Small, 200).count(Class::K2, 20).build().unwrap();
    let mut chain = pool.chain().unwrap();
    for i in 0..40 {
        chain.concat(pool.chain_from(&[i; 60]).unwrap()).unwrap();
    }
    // 2,400 bytes: two clusters of 2 KiB hold them.
    chain.collapse(2).unwrap();
    assert_eq!((chain.segments(), chain.check()), (2, Ok(())));
    assert!(matches!(chain.collapse(1), Err(Error::NoBuffers { .. })));
}

/// One seed of the first format of the model (`chain_model`): a collapse to one segment where no buffer holds all.
#[test]
fn collapse_to_one_is_refused_where_no_buffer_holds_it() {
    let pool = Pool::builder().count(Class::Small, 24).headroom(16).build().unwrap();
    let mut chain = pool.chain_zeroed(129).unwrap();
    let in_use = pool.stats().in_use();
    assert!(matches!(chain.collapse(1), Err(Error::NoBuffers { .. })));
    assert_eq!((chain.len(), chain.segments(), chain.check()), (129, 2, Ok(())));
    assert_eq!(pool.stats().in_use(), in_use);
}

/// The other: a cluster that was pulled up, shared, sent as far as it went, and split near its
/// front.
#[test]
fn a_split_of_what_was_pulled_up_and_shared_has_its_bounds() {
    let builder = Pool::builder().headroom(16).move_on_pullup(true);
    let pool = builder.count(Class::Small, 24).count(Class::K2, 4).build().unwrap();
    let mut chain = pool.chain().unwrap();
    chain.prepend(107).unwrap();
    let mut kept = chain.share().unwrap();
    chain.append(35).unwrap();
    chain.pullup(114).unwrap();
    let mut queue = Queue::new(1, 142);
    queue.push(chain.share().unwrap()).unwrap();
    (0..142).for_each(|_| queue.advance(1).unwrap());
    let mut tail = chain.split_off(2).unwrap();
    assert_eq!((chain.tailroom(), tail.headroom()), (0, 0), "each within its own bounds");
    chain.extend_from_slice(&[1; 20]).unwrap();
    tail.prepend_slice(&[2; 20]).unwrap();
    assert_eq!(chain.to_vec().unwrap(), [[0; 2].as_slice(), &[1; 20]].concat());
    assert_eq!(tail.to_vec().unwrap(), [[2; 20].as_slice(), &[0; 140]].concat());
    kept.copy_back(0, &[3; 107]).unwrap();
    assert_eq!(tail.to_vec().unwrap()[20..], [0; 140]);
    assert_eq!((chain.check(), tail.check(), kept.check()), (Ok(()), Ok(()), Ok(())));
    drop((chain, tail, kept, queue));
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn a_write_leaves_what_was_stripped_whatever_the_storage() {
    let pool = Pool::with_memory(1 << 20).unwrap();
    for class in [Class::Small, Class::K2] {
        let mut chain = pool.chain_in(class, 0).unwrap();
        chain.extend_from_slice(&[3; 100]).unwrap();
        chain.trim_front(10).unwrap();
        let _sharer = chain.share().unwrap();
        chain.copy_back(0, b"x").unwrap();
        chain.restore(10).unwrap();
        assert_eq!(chain.check(), Ok(()));
        assert_eq!(chain.to_vec().unwrap()[8..12], [3, 3, b'x', 3], "{class}");
    }
}

#[test]
fn defrag_collapse_and_compact_forget_what_was_stripped_whatever_the_shape() {
    let pool = Pool::with_memory(1 << 20).unwrap();
    let operations = [Chain::defrag, |chain: &mut Chain| chain.collapse(1), Chain::compact];
    for operation in operations {
        for cut in 1..10 {
            let mut chain = pool.chain_from(&b"headerbody"[..cut]).unwrap();
            chain.concat(pool.chain_from(&b"headerbody"[cut..]).unwrap()).unwrap();
            chain.trim_front(6).unwrap();
            operation(&mut chain).unwrap();
            assert_eq!(chain.restore(6), Err(Error::Gone { wanted: 6, available: 0 }), "{cut}");
            assert_eq!(chain.to_vec().unwrap(), b"body");
            assert_eq!(chain.check(), Ok(()));
        }
    }
}

#[test]
fn an_owner_that_panics_while_it_is_read_leaves_the_chain_as_it_was() {
    let pool = Pool::builder().count(Class::Small, 16).count(Class::K2, 4).build().unwrap();
    let mut chain = pool.chain_from(b"ab").unwrap();
    let bad = pool.attach_opaque(Mapped(50, |_| panic!("reader")), ..).unwrap();
    chain.concat(bad).unwrap();
    let in_use = pool.stats().in_use();
    let operations =
        [|chain: &mut Chain| chain.pullup(20).map(|_| ()), Chain::unshare, Chain::defrag];
    for operation in operations {
        assert!(catch_unwind(AssertUnwindSafe(|| operation(&mut chain))).is_err());
        assert_eq!((chain.len(), chain.segments(), chain.check()), (52, 2, Ok(())));
        assert_eq!(pool.stats().in_use(), in_use);
    }
}

#[test]
fn an_owner_that_panics_while_it_is_dropped_leaks_nothing_of_the_pool() {
    struct Owner;
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            b"bytes"
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            panic!("owner");
        }
    }
    let pool = Pool::with_memory(1 << 20).unwrap();
    let mut chain = pool.attach(Owner, ..).unwrap();
    chain.concat(pool.chain_from(&[1; 3000]).unwrap()).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(chain))).is_err());
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn a_high_low_water_mark_can_be_left_again() {
    let pool = Pool::builder().count(Class::Small, 1024).low_water(50).build().unwrap();
    let chains: Vec<Chain> = (0..900).map(|_| pool.chain().unwrap()).collect();
    assert!(pool.is_low());
    drop(chains);
    let _held = pool.chain().unwrap();
    pool.flush();
    assert!(!pool.is_low());
}

#[test]
fn a_thread_lets_go_of_closed_pools_when_it_meets_new_ones() {
    let (to_thread, chains) = mpsc::channel::<Chain>();
    let (done, freed) = mpsc::channel();
    let thread = thread::spawn(move || {
        for chain in chains {
            drop(chain);
            done.send(()).unwrap();
        }
    });
    let mapped = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmSize:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
    };
    let before = mapped();
    for _ in 0..20 {
        let pool = Pool::with_memory(256 << 20).unwrap();
        to_thread.send(pool.chain().unwrap()).unwrap();
        freed.recv().unwrap();
    }
    let grown = mapped().saturating_sub(before);
    assert!(grown < 2048, "{grown} MiB more are mapped after 20 pools of 256 MiB are gone");
    drop(to_thread);
    thread.join().unwrap();
}
