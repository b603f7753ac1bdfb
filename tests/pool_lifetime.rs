//! When a pool's mapping goes: with the last of handles, caches and buffers, in whichever order.
//!
//! One test, in a file of its own: whether an address is mapped says something only as long as
//! nobody else maps anything, which other tests, and their threads' stacks, would do meanwhile.

use std::{cell::RefCell, fs, sync::mpsc, thread};

use mbuf::{Chain, Class, Pool};

#[test]
fn the_mapping_stays_as_long_as_anything_of_the_pool() {
    the_last_handle_unmaps();
    the_last_chain_unmaps_and_works_until_then();
    the_last_receiver_unmaps();
    a_thread_that_lives_on_unmaps_when_it_ends();
    a_thread_that_frees_after_the_end_lets_go_of_its_cache();
    a_chain_in_thread_local_storage_outlives_the_cache();
    a_forgotten_chain_leaves_the_mapping_and_nothing_worse();
}

/// Whether the address lies in a mapping of this process.
fn is_mapped(addr: usize) -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().lines().any(|line| {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split_once(' ').unwrap().0;
        let number = |hex| usize::from_str_radix(hex, 16).unwrap();
        (number(start)..number(end)).contains(&addr)
    })
}

/// A pool, and an address in its mapping.
fn watched() -> (Pool, usize) {
    let pool = Pool::builder().count(Class::Small, 8).count(Class::K64, 64).build().unwrap();
    let chain = pool.chain_from(&[1; 40_000]).unwrap();
    let addr = chain.slices().unwrap().next().unwrap().as_ptr().addr();
    assert!(is_mapped(addr));
    (pool, addr)
}

fn the_last_handle_unmaps() {
    let (pool, addr) = watched();
    let other = pool.clone();
    drop(pool);
    assert!(is_mapped(addr));
    drop(other);
    assert!(!is_mapped(addr));
}

fn the_last_chain_unmaps_and_works_until_then() {
    let (pool, addr) = watched();
    let mut chain = pool.chain_from(&[1; 100]).unwrap();
    drop(pool);
    chain.extend_from_slice(&[2; 50_000]).unwrap();
    let back = chain.split_off(70).unwrap();
    drop(chain);
    assert!(is_mapped(addr));
    assert_eq!(back.to_vec().unwrap()[29..31], [1, 2]);
    drop(back);
    assert!(!is_mapped(addr));
}

fn the_last_receiver_unmaps() {
    let (pool, addr) = watched();
    let receiver = pool.receiver();
    let chain = receiver.chain().unwrap();
    drop(pool);
    assert!(receiver.chain().is_ok());
    drop(receiver);
    assert!(is_mapped(addr));
    drop(chain);
    assert!(!is_mapped(addr));
}

fn a_thread_that_lives_on_unmaps_when_it_ends() {
    let (pool, addr) = watched();
    let (to_thread, orders) = mpsc::channel::<Pool>();
    let (done, reports) = mpsc::channel();
    let thread = thread::spawn(move || {
        let pool = orders.recv().unwrap();
        drop(pool.chain().unwrap());
        drop(pool);
        done.send(()).unwrap();
        assert!(orders.recv().is_err());
    });
    to_thread.send(pool.clone()).unwrap();
    reports.recv().unwrap();
    drop(pool);
    assert!(is_mapped(addr), "the thread's cache holds buffers");
    drop(to_thread);
    thread.join().unwrap();
    assert!(!is_mapped(addr));
}

fn a_thread_that_frees_after_the_end_lets_go_of_its_cache() {
    let (pool, addr) = watched();
    let (to_thread, orders) = mpsc::channel::<Chain>();
    let (done, reports) = mpsc::channel();
    let thread = thread::spawn(move || {
        while let Ok(chain) = orders.recv() {
            drop(chain);
            done.send(()).unwrap();
        }
    });
    let (first, second) = (pool.chain().unwrap(), pool.chain().unwrap());
    to_thread.send(first).unwrap();
    reports.recv().unwrap();
    drop(pool);
    assert!(is_mapped(addr));
    to_thread.send(second).unwrap();
    reports.recv().unwrap();
    assert!(!is_mapped(addr), "the thread is alive, but its cache is gone");
    drop(to_thread);
    thread.join().unwrap();
}

fn a_chain_in_thread_local_storage_outlives_the_cache() {
    thread_local! {
        static EARLY: RefCell<Vec<Chain>> = const { RefCell::new(Vec::new()) };
        static LATE: RefCell<Vec<Chain>> = const { RefCell::new(Vec::new()) };
    }
    let (pool, addr) = watched();
    let for_thread = pool.clone();
    thread::spawn(move || {
        // One value is registered before the pool's own, one after: whichever order the system
        // destroys them in, one of them is freed when the cache is gone.
        EARLY.with_borrow_mut(|_| ());
        let chain = for_thread.chain().unwrap();
        EARLY.with_borrow_mut(|chains| chains.push(chain));
        let chain = for_thread.chain_from(&[1; 300]).unwrap();
        LATE.with_borrow_mut(|chains| chains.push(chain));
    })
    .join()
    .unwrap();
    assert_eq!(pool.stats().in_use(), 0);
    drop(pool);
    assert!(!is_mapped(addr));
}

fn a_forgotten_chain_leaves_the_mapping_and_nothing_worse() {
    let (pool, addr) = watched();
    std::mem::forget(pool.chain().unwrap());
    assert_eq!(pool.stats().in_use(), 1);
    drop(pool);
    assert!(is_mapped(addr));
}
