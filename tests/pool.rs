//! The pool as a whole: bounded, fallible, and shared between threads.

use std::{
    fs,
    io::Read,
    process::Command,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use mbuf::{
    Batch, BuildError, Chain, Class, Error, Pool,
    pool::{MbufType, Pages},
};

fn small(n: usize) -> Pool {
    Pool::builder().count(Class::Small, n).build().unwrap()
}

/// All chains that a pool can give.
fn drain(pool: &Pool) -> Vec<Chain> {
    std::iter::from_fn(|| pool.chain().ok()).collect()
}

#[test]
fn an_empty_pool_says_so_and_gives_all_again() {
    let pool = small(100);
    for _ in 0..3 {
        let chains = drain(&pool);
        assert_eq!(chains.len(), 100);
        assert_eq!(pool.chain().unwrap_err(), Error::NoBuffers { class: Class::Small });
        assert_eq!(pool.stats().class(Class::Small).in_use, 100);
    }
    let stats = pool.stats();
    assert_eq!(stats.in_use(), 0);
    assert_eq!(stats.class(Class::Small).high_water, 100);
    assert!(stats.denied() >= 6, "each drain ends with a refusal, and one more is asked for");
}

#[test]
fn a_batch_is_given_whole_or_not_at_all() {
    let pool = small(10);
    let mut batch = Batch::new();
    pool.alloc_batch(4, &mut batch).unwrap();
    assert_eq!(pool.alloc_batch(7, &mut batch), Err(Error::NoBuffers { class: Class::Small }));
    assert_eq!(
        pool.alloc_batch(usize::MAX, &mut batch).unwrap_err().to_string(),
        "no buffers: the pool has no free small mbuf left"
    );
    assert_eq!((batch.len(), pool.stats().in_use()), (4, 4));
    pool.alloc_batch(6, &mut batch).unwrap();
    assert_eq!(batch.len(), 10);
}

#[test]
fn a_cluster_that_is_not_there_costs_no_mbuf() {
    let pool = Pool::builder().count(Class::Small, 4).count(Class::K2, 1).build().unwrap();
    let one = pool.chain_in(Class::K2, 0).unwrap();
    assert_eq!(pool.chain_in(Class::K2, 0).unwrap_err(), Error::NoBuffers { class: Class::K2 });
    assert_eq!(pool.chain_in(Class::K64, 0).unwrap_err(), Error::NoBuffers { class: Class::K64 });
    assert_eq!(pool.stats().in_use(), 2);
    drop(one);
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn numbers_that_make_no_pool_are_errors() {
    let refused = |result: Result<Pool, BuildError>| result.unwrap_err().to_string();
    let name = || Pool::builder().name("rx");
    assert_eq!(
        refused(name().count(Class::Small, 0).build()),
        "pool `rx`: it needs at least one small mbuf"
    );
    assert!(
        refused(name().count(Class::K64, usize::MAX).build())
            .contains("x 64 KiB cluster: more than")
    );
    assert!(refused(name().count(Class::Small, 1 << 33).build()).contains("8589934592 x small"));
    assert!(refused(name().headroom(129).build()).contains("headroom of 129 bytes"));
    assert!(refused(name().reserve(101).build()).contains("101 percent"));
    assert!(refused(name().low_water(255).build()).contains("255 percent"));
    assert!(Pool::with_memory(100).is_err());
    assert!(Pool::with_memory(usize::MAX).is_err());
    // As many bytes as a process can address: there is no such mapping.
    let error = name().count(Class::K64, 1 << 31).build().unwrap_err();
    assert!(matches!(error, BuildError::Map { bytes, .. } if bytes > 1 << 47), "{error}");
    assert!(error.to_string().starts_with("pool `rx`: mmap of 140737488"), "{error}");
}

#[test]
fn tables_that_do_not_fit_in_memory_are_an_error_and_no_abort() {
    const CHILD: &str = "MBUF_TEST_CHILD";
    // 64 Mi small mbufs: a mapping of 16 GiB, and a table of 256 MiB beside it.
    let build = || Pool::builder().count(Class::Small, 64 << 20).build();
    if std::env::var_os(CHILD).is_some() {
        println!("refused: {}", build().unwrap_err());
        return;
    }
    // Room for the mapping, not for the table.
    let limit = (16 << 20) + (220 << 10);
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {limit} && exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("tables_that_do_not_fit_in_memory_are_an_error_and_no_abort")
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("refused: pool `pool`: "), "{said}");
}

#[test]
fn lengths_that_no_pool_can_hold_take_nothing() {
    let pool = Pool::with_memory(1 << 20).unwrap();
    for len in [1 << 20, u32::MAX as usize, u32::MAX as usize + 1, usize::MAX] {
        pool.chain_zeroed(len).unwrap_err();
        assert_eq!(pool.stats().in_use(), 0, "{len}");
    }
    assert_eq!(
        pool.chain_with_headroom(1 << 17).unwrap_err(),
        Error::TooLong { wanted: 1 << 17, max: 1 << 16 }
    );
    let chain = pool.chain_with_headroom(1000).unwrap();
    assert_eq!((chain.headroom(), chain.tailroom()), (1000, 1048));
}

#[test]
fn what_is_freed_on_another_thread_comes_back() {
    let pool = small(1000);
    let chains = drain(&pool);
    thread::spawn(move || drop(chains)).join().unwrap();
    assert_eq!(pool.stats().in_use(), 0);
    assert_eq!(drain(&pool).len(), 1000, "a thread that ends gives its cache back");
}

#[test]
fn a_flush_gives_the_cache_to_others() {
    let pool = small(64);
    drop(drain(&pool));
    assert!(pool.stats().class(Class::Small).cached > 0);
    pool.flush();
    assert_eq!(pool.stats().class(Class::Small).cached, 0);
    let other = pool.clone();
    assert_eq!(thread::spawn(move || drain(&other).len()).join().unwrap(), 64);
}

#[test]
fn receivers_leave_the_reserve_for_senders() {
    let pool = Pool::builder().count(Class::Small, 100).reserve(20).build().unwrap();
    let receiver = pool.receiver();
    let received: Vec<Chain> = std::iter::from_fn(|| receiver.chain().ok()).collect();
    assert_eq!(received.len(), 80);
    let sent = drain(&pool);
    assert_eq!(sent.len(), 20);
    drop(sent);
    assert!(receiver.chain().is_err(), "what senders give back is not for receiving");
    drop(received);
    pool.flush();
    assert!(receiver.chain().is_ok());
    receiver.flush();
    pool.flush();
    assert_eq!(pool.stats().class(Class::Small).free, 100);
}

#[test]
fn low_water_is_flagged_and_told_once() {
    let pool = Pool::builder().count(Class::Small, 1000).low_water(10).build().unwrap();
    let event = mbuf::io::eventfd().unwrap();
    let mut reader = fs::File::from(event.try_clone().unwrap());
    pool.set_low_water_event(Some(event));
    let mut chains = Batch::new();
    pool.alloc_batch(800, &mut chains).unwrap();
    assert!(!pool.is_low());
    pool.alloc_batch(190, &mut chains).unwrap();
    assert!(pool.is_low());
    let mut count = [0; 8];
    reader.read_exact(&mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
    // Until there is twice as much: a level that hovers about the mark tells nobody again and again.
    for free in [70, 150] {
        chains.truncate(1000 - free);
        pool.flush();
        assert!(pool.is_low(), "with {free} of 1,000 free");
    }
    chains.truncate(0);
    pool.flush();
    assert!(!pool.is_low());
}

#[test]
fn freed_memory_is_zeroed_where_asked_for() {
    let pool = |zero| {
        Pool::builder()
            .count(Class::Small, 4)
            .count(Class::K2, 2)
            .headroom(0)
            .zero_on_free(zero)
            .build()
            .unwrap()
    };
    // Debug builds fill what is free with a pattern.
    let left = if cfg!(debug_assertions) { 0xdb } else { 0x5e };
    for (zero, expected) in [(true, 0), (false, left)] {
        let pool = pool(zero);
        for len in [128, 2048] {
            drop(pool.chain_from(&vec![0x5e; len]).unwrap());
            let mut chain = pool.chain_in(Class::for_len(len), 0).unwrap();
            let reserved = chain.reserve_uninit(len).unwrap();
            // SAFETY: not true, and on purpose: what the last owner left is to be seen. The memory
            // is initialised in any case.
            unsafe { reserved.commit(len) };
            assert_eq!(chain.to_vec().unwrap(), vec![expected; len]);
        }
    }
}

#[test]
fn pages_are_what_was_asked_for_or_the_statistics_say_so() {
    for pages in [Pages::Plain, Pages::Transparent, Pages::Huge] {
        let pool =
            Pool::builder().count(Class::K64, 64).count(Class::Small, 64).pages(pages).build();
        let pool = pool.unwrap();
        let chain = pool.chain_from(&[7; 50_000]).unwrap();
        assert_eq!(chain.to_vec().unwrap(), [7; 50_000]);
        let got = pool.stats().pages;
        let thp = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        let transparent = match thp {
            Ok(enabled) if !enabled.contains("[never]") => Pages::Transparent,
            _ => Pages::Plain,
        };
        match pages {
            Pages::Plain => assert_eq!(got, Pages::Plain),
            Pages::Transparent => assert_eq!(got, transparent),
            Pages::Huge => assert!(got == Pages::Huge || got == transparent, "{got:?}"),
        }
    }
}

#[test]
fn types_are_counted() {
    let pool = small(10);
    let mut header = pool.chain().unwrap();
    let mut mine = pool.chain_from(&[0; 200]).unwrap();
    let data = pool.chain().unwrap();
    let user = MbufType::user(4).unwrap();
    assert_eq!(MbufType::user(5), None);
    header.set_kind(MbufType::HEADER);
    mine.set_kind(MbufType::CONTROL);
    mine.set_kind(user);
    assert_eq!(mine.kind(), user);
    assert_eq!(pool.stats().types, [1, 1, 0, 0, 0, 0, 0, 3]);
    drop((header, mine, data));
    assert_eq!(pool.stats().types, [0; 8]);
}

#[test]
fn discards_are_counted_by_reason() {
    let pool = small(10);
    for reason in ["late", "late", "early"] {
        pool.chain().unwrap().discard(reason);
    }
    let stats = pool.stats();
    assert_eq!(stats.discards, [("late", 2), ("early", 1)]);
    assert_eq!(stats.in_use(), 0);
    assert!(stats.to_string().contains("discarded as late: 2"), "{stats}");
}

#[test]
fn statistics_print_as_a_table() {
    let pool = Pool::builder().name("tx").count(Class::K2, 3).build().unwrap();
    let _chain = pool.chain_in(Class::K2, 0).unwrap();
    let table = pool.stats().to_string();
    let row = table.lines().find(|line| line.starts_with("2 KiB cluster")).unwrap();
    let fields: Vec<&str> = row.split_whitespace().skip(3).collect();
    assert_eq!(fields, ["3", "1", "0", "2", "1", "0"], "{table}");
    assert!(table.starts_with("pool `tx`: "), "{table}");
}

#[test]
fn an_owner_is_released_once_wherever_the_last_chain_ends() {
    struct Owner(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let released = Arc::new(AtomicUsize::new(0));
    let owner = || Owner(vec![3; 5000], released.clone());
    let pool = small(16);

    let mut one = pool.attach(owner(), 1000..2000).unwrap();
    let two = one.share().unwrap();
    let three = one.split_off(500).unwrap();
    drop((one, three));
    assert_eq!(released.load(Ordering::SeqCst), 0);
    thread::spawn(move || drop(two)).join().unwrap();
    assert_eq!(released.load(Ordering::SeqCst), 1);

    let rejected = pool.attach(owner(), ..5001).unwrap_err();
    assert_eq!(rejected.error, Error::TooShort { needed: 5001, available: 5000 });
    assert_eq!(released.load(Ordering::SeqCst), 1, "the owner came back");
    let all = drain(&pool);
    let rejected = pool.attach(rejected.value, ..).unwrap_err();
    assert_eq!(rejected.error, Error::NoBuffers { class: Class::Small });
    drop(all);
    drop(pool.attach(rejected.value, ..).unwrap());
    assert_eq!(released.load(Ordering::SeqCst), 2);
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn more_pools_than_threads_have_places_for_work_all_the_same() {
    let pools: Vec<Pool> = (0..100).map(|_| small(20)).collect();
    for pool in &pools {
        assert_eq!(drain(pool).len(), 20);
        assert_eq!(pool.stats().in_use(), 0);
    }
    let mut chains: Vec<Chain> = pools.iter().map(|pool| pool.chain().unwrap()).collect();
    drop(pools);
    chains.drain(..).for_each(drop);
    let again = small(20);
    assert_eq!(drain(&again).len(), 20);
}

#[test]
fn threads_that_allocate_pass_on_and_free_lose_nothing() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 3000;
    let pool = Pool::builder()
        .count(Class::Small, 600)
        .count(Class::K2, 200)
        .count(Class::K4, 50)
        .build()
        .unwrap();
    let start = Arc::new(Barrier::new(THREADS));
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..THREADS).map(|_| mpsc::sync_channel::<Chain>(16)).unzip();
    let threads: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(i, inbox)| {
            let (pool, start) = (pool.clone(), start.clone());
            let next = senders[(i + 1) % THREADS].clone();
            thread::spawn(move || {
                start.wait();
                let mut refused = 0usize;
                for round in 0..ROUNDS {
                    let len = (round * 37 + i) % 5000;
                    match pool.chain_from(&vec![i as u8; len]) {
                        Ok(mut chain) => {
                            let shared = chain.share();
                            let back = chain.split_off(len / 2);
                            for chain in shared.into_iter().chain(back).chain([chain]) {
                                assert_eq!(chain.check(), Ok(()));
                                // A full inbox gives the chain back, and it is freed here.
                                let _ = next.try_send(chain);
                            }
                        }
                        Err(Error::NoBuffers { .. }) => refused += 1,
                        Err(error) => panic!("{error}"),
                    }
                    for mut chain in inbox.try_iter().take(4) {
                        if !chain.is_empty() && chain.make_mut(..1).is_ok() {
                            assert!(chain.copy_back(0, &[0xff]).is_ok());
                        }
                        assert_eq!(chain.check(), Ok(()));
                    }
                }
                refused
            })
        })
        .collect();
    drop(senders);
    for thread in threads {
        assert!(thread.join().unwrap() < ROUNDS, "some allocations succeed");
    }
    pool.flush();
    let stats = pool.stats();
    assert_eq!(stats.in_use(), 0);
    assert_eq!(stats.class(Class::Small).cached, 0, "all other threads have ended");
}

#[test]
fn reasons_for_discarding_are_counted_by_name_up_to_a_bound() {
    const NAMES: &str = "seventy letters, of which each test takes as many as it wants, one by one";
    let pool = small(4);
    for n in 1..=70 {
        pool.chain().unwrap().discard(&NAMES[..n]);
    }
    pool.chain().unwrap().discard(&NAMES[..1]);
    let discards = pool.stats().discards;
    assert_eq!(discards.len(), 64);
    assert_eq!(discards[0], (&NAMES[..1], 2));
    // Those that came too late, and the one whose place they took.
    assert_eq!(discards[63], ("other reasons", 7));
    assert_eq!(discards.iter().map(|row| row.1).sum::<u64>(), 71);
    assert!(format!("{}", pool.stats()).contains("other reasons"));
}

#[test]
fn a_batch_that_is_cleared_gives_back_chains_of_every_kind_and_pool() {
    let build = |zero: bool| {
        let counts = Pool::builder().count(Class::Small, 4000).count(Class::K2, 1500);
        counts.count(Class::K4, 500).zero_on_free(zero).build().unwrap()
    };
    let pools = [build(false), build(false), build(true)];
    for rounds in 1..=3 {
        let mut batch = Batch::new();
        for _ in 0..rounds * 40 {
            for pool in &pools {
                batch.push(pool.chain().unwrap());
                batch.push(pool.chain_in(Class::K2, 64).unwrap());
                batch.push(pool.chain_in(Class::K4, 0).unwrap());
                let mut whole = pool.chain_from(&[7; 1000]).unwrap();
                batch.push(whole.share().unwrap());
                whole.concat(pool.chain_from(&[8; 10]).unwrap()).unwrap();
                batch.push(whole);
            }
            let last = batch.pop();
            batch.extend(last);
        }
        batch.clear();
        assert!(batch.is_empty());
        for pool in &pools {
            assert_eq!(pool.stats().in_use(), 0, "{}", pool.stats());
            // They can all be had again, each once (the pool looks, in a build for tests).
            let all: Vec<_> = std::iter::from_fn(|| pool.chain_in(Class::K2, 0).ok()).collect();
            assert_eq!(all.len(), pool.stats().class(Class::K2).total);
        }
    }
}
