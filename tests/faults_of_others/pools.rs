//! The faults of pools: 5, 7, 8 and 9.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use mbuf::{
    Batch, BuildError, Chain, Class, Error, Pool,
    io::{
        Received, Sent, Sink, Source, Stream,
        reactor::{Accepted, Reactor},
    },
    stack::{Edge, Protocol, Stack},
    testing::{Starve, assert_all_free, plain_pool},
};

use crate::{
    Answers,
    common::{bytes, pattern},
    queue_of, receive,
};

// 5

#[test]
fn fault_5_counters_that_threads_share_lose_no_count() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 5000;
    let pool = Pool::builder().count(Class::Small, 4000).build().unwrap();
    let denied = Pool::builder().count(Class::Small, 1).build().unwrap();
    let held = denied.chain().unwrap();
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for n in 0..ROUNDS {
                    pool.chain().unwrap().discard(if n % 2 == 0 { "even" } else { "odd" });
                    denied.chain().unwrap_err();
                }
            });
        }
    });
    let mut discards = pool.stats().discards;
    discards.sort_unstable();
    assert_eq!(discards, [("even", THREADS * ROUNDS / 2), ("odd", THREADS * ROUNDS / 2)]);
    assert_eq!(denied.stats().denied(), THREADS * ROUNDS);
    assert_all_free(&pool);
    drop(held);
}

// 7

#[test]
fn fault_7_a_flood_of_what_is_received_leaves_buffers_to_send_with() {
    // As many mbufs as clusters, so that the one does not stand in for the other.
    let pool = Pool::builder().count(Class::Small, 100).count(Class::K2, 100).build().unwrap();
    let (mut there, here) = UnixStream::pair().unwrap();
    there.set_nonblocking(true).unwrap();
    let mut stream = Stream::from_std_unix(here).unwrap();
    let (receiver, mut batch) = (pool.receiver(), Batch::new());
    let flood = pattern(8, 1000);
    loop {
        // All that comes in is kept, as by one who waits for the rest of it.
        let _ = there.write(&flood);
        if stream.recv(&receiver, &mut batch).unwrap() == Received::NoBuffers {
            break;
        }
    }
    for n in 0..10 {
        let mut queue = queue_of([pool.chain_from(&pattern(n, 900)).unwrap()]);
        assert_eq!(stream.send(&mut queue).unwrap(), Sent::All);
        let mut got = [0; 900];
        there.set_nonblocking(false).unwrap();
        there.read_exact(&mut got).unwrap();
        assert_eq!(got[..], pattern(n, 900));
    }
}

#[test]
fn fault_7_a_source_goes_on_when_buffers_come_back_though_nothing_more_comes_in() {
    let pool = plain_pool();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut stream = Stream::connect_tcp(listener.local_addr().unwrap()).unwrap();
    let (mut there, _) = listener.accept().unwrap();
    there.write_all(b"all that will ever come").unwrap();
    let (receiver, mut batch) = (pool.receiver(), Batch::new());
    let starve = Starve::leave(&pool, 0, 0);
    for _ in 0..10 {
        assert_eq!(stream.recv(&receiver, &mut batch).unwrap(), Received::NoBuffers);
    }
    drop(starve);
    let mut batch = receive(&mut stream, &pool);
    assert_eq!(bytes(&batch.pop().unwrap()), b"all that will ever come");
}

/// Readiness is told once: what the kernel holds when the pool is empty must not wait for more.
#[test]
fn fault_7_a_reactor_goes_on_when_buffers_come_back_though_nothing_more_comes_in() {
    let pool = plain_pool();
    let mut reactor = Reactor::builder(&pool).build().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let serve = |_: &Accepted, pool: &Pool| {
        Stack::pile(pool, Edge::Bytes, vec![Box::new(Answers(0)) as Box<dyn Protocol>])
    };
    let address = reactor.listen_tcp(address, serve).unwrap();
    let mut there = TcpStream::connect(address).unwrap();
    there.set_nonblocking(true).unwrap();
    let turn = |reactor: &mut Reactor| {
        assert!(reactor.poll(Some(Duration::from_millis(1))).unwrap());
    };
    while reactor.sessions() == 0 {
        turn(&mut reactor);
    }
    let starve = Starve::leave(&pool, 0, 0);
    there.write_all(b"all that will ever come").unwrap();
    while reactor.stats().starved == 0 {
        turn(&mut reactor);
    }
    drop(starve);
    let mut got = [0; 23];
    while there.peek(&mut got).unwrap_or(0) < got.len() {
        turn(&mut reactor);
    }
    assert_eq!(&got, b"all that will ever come");
}

// 8

/// Counts how often it is released.
struct Owner(Arc<AtomicUsize>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        b"owned by somebody"
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn fault_8_chains_outlive_the_handles_of_their_pool() {
    let released = Arc::new(AtomicUsize::new(0));
    for round in 0..50 {
        let pool = plain_pool();
        let mut chain = pool.chain_from(&pattern(9, 3000)).unwrap();
        chain.concat(pool.attach(Owner(released.clone()), ..).unwrap()).unwrap();
        drop(pool);
        // They can be used, and grow, on whichever thread.
        let work = move || {
            let mut chain = chain;
            let copy = chain.share().unwrap();
            chain.extend_from_slice(&pattern(10, 5000)).unwrap();
            chain.prepend_slice(b"front").unwrap();
            drop(copy);
            let all = [b"front", &pattern(9, 3000)[..], b"owned by somebody", &pattern(10, 5000)];
            assert!(bytes(&chain) == all.concat());
        };
        if round % 2 == 0 {
            work()
        } else {
            thread::spawn(work).join().unwrap()
        }
        assert_eq!(released.load(Ordering::SeqCst), round + 1, "released once");
    }
}

#[test]
fn fault_8_a_pool_that_cannot_be_made_leaves_nothing_behind() {
    let mapped = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').next().unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = mapped();
    for _ in 0..200 {
        // More than a process can address beside its tables.
        let builder = Pool::builder().name("vast").count(Class::Small, 1 << 20);
        let error = builder.count(Class::K64, 1 << 31).build().unwrap_err();
        assert!(matches!(error, BuildError::Map { .. } | BuildError::Pool { .. }), "{error}");
    }
    let grown = mapped().saturating_sub(before);
    // Other tests run meanwhile; 200 of these would be terabytes, their tables gigabytes.
    assert!(grown < 1 << 30, "{grown} bytes more are mapped");
    let pool = plain_pool();
    assert_eq!(bytes(&pool.chain_from(b"works").unwrap()), b"works");
}

#[test]
fn fault_8_what_a_thread_frees_does_not_wait_in_it_for_ever() {
    const TOTAL: usize = 1600;
    let pool = Pool::builder().count(Class::Small, TOTAL).build().unwrap();
    let all = || std::iter::from_fn(|| pool.chain().ok()).collect::<Vec<_>>();
    let chains = all();
    assert_eq!(chains.len(), TOTAL);
    let (to_thread, inbox) = mpsc::channel::<Vec<Chain>>();
    let (done, answers) = mpsc::channel();
    let other = pool.clone();
    let thread = thread::spawn(move || {
        for chains in inbox {
            // Nothing to free: it goes to sleep, and says so.
            match chains.is_empty() {
                true => other.flush(),
                false => drop(chains),
            }
            done.send(()).unwrap();
        }
    });
    to_thread.send(chains).unwrap();
    answers.recv().unwrap();
    // They are free at once; of what the thread keeps by it there is a bound.
    assert_eq!(pool.stats().in_use(), 0);
    let most = all().len();
    assert!(most >= TOTAL - TOTAL / 8, "{most} of {TOTAL}");
    to_thread.send(Vec::new()).unwrap();
    answers.recv().unwrap();
    assert_eq!(all().len(), TOTAL, "after a flush there is nothing in the thread");
    drop(to_thread);
    thread.join().unwrap();
}

// 9

/// A buffer belongs to one at a time, and a shared one is freed once, by whichever thread.
#[test]
fn fault_9_no_buffer_is_handed_out_twice() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 4000;
    let pool = Pool::builder().count(Class::Small, 400).count(Class::K2, 60).build().unwrap();
    let released = Arc::new(AtomicUsize::new(0));
    let (outboxes, inboxes): (Vec<_>, Vec<_>) =
        (0..THREADS).map(|_| mpsc::sync_channel::<(Chain, u8)>(32)).unzip();
    let start = Barrier::new(THREADS);
    let attached = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (thread, inbox) in inboxes.into_iter().enumerate() {
            let outboxes = outboxes.clone();
            let (pool, start, attached, released) = (&pool, &start, &attached, &released);
            scope.spawn(move || {
                start.wait();
                for round in 0..ROUNDS {
                    let fill = (round * THREADS + thread) as u8;
                    let len = if round % 2 == 0 { 60 } else { 1500 };
                    let made = match round % 5 {
                        0 => pool.attach(Owner(released.clone()), ..).map_err(Error::from).inspect(
                            |_| {
                                attached.fetch_add(1, Ordering::SeqCst);
                            },
                        ),
                        _ => pool.chain_from(&vec![fill; len]),
                    };
                    let Ok(mut chain) = made else { continue };
                    let mut batch = Batch::new();
                    let _ = chain.share_n(THREADS - 1, &mut batch);
                    for (to, copy) in batch.drain().chain([chain]).enumerate() {
                        // A full inbox gives it back, and it is freed here.
                        let _ = outboxes[(thread + to) % THREADS].try_send((copy, fill));
                    }
                    for (chain, fill) in inbox.try_iter().take(THREADS) {
                        assert_eq!(chain.check(), Ok(()));
                        let got = chain.to_vec().unwrap();
                        assert!(
                            got == b"owned by somebody" || got.iter().all(|byte| *byte == fill),
                            "another's bytes: {fill} in {chain:?}"
                        );
                    }
                }
            });
        }
        drop(outboxes);
    });
    assert!(attached.load(Ordering::SeqCst) > 0);
    assert_eq!(released.load(Ordering::SeqCst), attached.load(Ordering::SeqCst), "each once");
    assert_all_free(&pool);
}

/// The counts of a pool, of a cluster and of an owner, each changed by all threads at once.
#[test]
fn fault_9_counts_lose_no_holder_and_keep_none() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 100_000;
    let pool = Pool::builder().count(Class::Small, 600).count(Class::K2, 4).build().unwrap();
    let released = Arc::new(AtomicUsize::new(0));
    let mut attached = pool.attach(Owner(released.clone()), ..).unwrap();
    let mut cluster = pool.chain_from(&pattern(11, 1000)).unwrap();
    // Who holds the other end is told when the pool is no more.
    let (mut end, event) = UnixStream::pair().unwrap();
    end.set_nonblocking(true).unwrap();
    pool.set_low_water_event(Some(event.into()));
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| {
            let mut mine = [attached.share().unwrap(), cluster.share().unwrap()];
            let (pool, start) = (&pool, &start);
            scope.spawn(move || {
                start.wait();
                for _ in 0..ROUNDS {
                    let handles = [(); 4].map(|()| pool.clone());
                    let copies = mine.each_mut().map(|chain| chain.share().unwrap());
                    drop((copies, handles));
                }
            })
        });
        // Not by the end of the scope alone, which does not wait for their caches to go.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(released.load(Ordering::SeqCst), 0, "still held");
    assert_eq!(bytes(&attached), b"owned by somebody");
    drop(attached);
    assert_eq!(released.load(Ordering::SeqCst), 1, "released by the last holder");
    cluster.header_mut::<[u8; 4]>().unwrap();
    assert_eq!(pool.stats().class(Class::K2).in_use, 1, "private again: nothing was copied");
    drop(pool);
    assert_eq!(bytes(&cluster), pattern(11, 1000));
    assert_eq!(end.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "the pool is there");
    drop(cluster);
    assert_eq!(end.read(&mut [0]).unwrap(), 0, "the pool is gone");
}
