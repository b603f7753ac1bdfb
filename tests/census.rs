//! What the census says of buffers: where they were allocated, and what happened to them.
#![cfg(feature = "census")]

use std::{
    sync::{
        Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use mbuf::{
    Batch, Chain, Class, Pool, Queue,
    pool::{Census, Event, Mark},
    stack::{Context, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
};

fn pool() -> Pool {
    Pool::builder().count(Class::Small, 256).count(Class::K2, 128).build().unwrap()
}

/// Whether a buffer is out that this line of this file asked for.
fn has_line(pool: &Pool, line: u32) -> bool {
    let census = pool.census();
    let mut places = census.groups().iter().map(|group| group.place);
    places.any(|place| place.file() == file!() && place.line() == line)
}

/// Runs what allocates, on one line; the census must name that line.
macro_rules! names_its_line {
    ($pool:expr, $run:expr) => {{
        let _kept = $run.unwrap();
        assert!(has_line(&$pool, line!()), "{}\n{}", stringify!($run), $pool.census());
    }};
}

/// The histories of all buffers of a class that are out, in words.
fn histories(pool: &Pool, class: Class) -> Vec<String> {
    let census = pool.census();
    let groups = census.groups().iter().filter(|group| group.class == class);
    groups.flat_map(|group| vec![group.history.to_string(); group.buffers]).collect()
}

#[test]
fn every_function_that_makes_a_chain_names_its_callers_line() {
    let (pool, mut batch) = (pool(), Batch::new());
    names_its_line!(pool, pool.chain());
    names_its_line!(pool, pool.chain_with_headroom(100));
    names_its_line!(pool, pool.chain_with_headroom(1000));
    names_its_line!(pool, pool.chain_in(Class::K2, 64));
    names_its_line!(pool, pool.chain_from(&[7; 10]));
    names_its_line!(pool, pool.chain_from(&[7; 100_000]));
    names_its_line!(pool, pool.chain_zeroed(3000));
    names_its_line!(pool, pool.attach(vec![7; 10], ..));
    names_its_line!(pool, pool.alloc_batch(3, &mut batch));
    names_its_line!(pool, pool.receiver().chain());
    names_its_line!(pool, pool.receiver().chain_in(Class::K2, 0));
}

#[test]
fn every_operation_that_takes_a_buffer_names_its_callers_line() {
    let pool = pool();
    let full = || pool.chain_from(&[7; 1900]).unwrap();
    let cut = || {
        let mut chain = pool.chain_from(&[7; 60]).unwrap();
        chain.concat(full()).unwrap();
        chain
    };
    let (mut chain, mut batch) = (full(), Batch::new());
    names_its_line!(pool, chain.prepend(100).map(|_| ()));
    let mut chain = full();
    names_its_line!(pool, chain.prepend_slice(&[7; 200]));
    let mut chain = full();
    names_its_line!(pool, chain.push(&[7; 200]));
    let mut chain = full();
    names_its_line!(pool, chain.append(5000));
    let mut chain = full();
    names_its_line!(pool, chain.extend_from_slice(&[7; 5000]));
    let end = chain.len();
    names_its_line!(pool, chain.copy_back(end, &[7; 5000]));
    names_its_line!(pool, chain.writer(5000).map(|mut writer| writer.put(&[7; 5000])));
    names_its_line!(pool, chain.split_off(1000));
    let mut whole = full();
    names_its_line!(pool, whole.split_off(0));
    names_its_line!(pool, chain.share());
    names_its_line!(pool, chain.share_range(0, 10));
    names_its_line!(pool, chain.share_n(2, &mut batch));
    batch.clear();
    names_its_line!(pool, chain.dup());
    names_its_line!(pool, chain.reserve_uninit(9000));
    let mut chain = cut();
    names_its_line!(pool, chain.pullup(1500).map(|_| ()));
    let mut chain = cut();
    names_its_line!(pool, chain.pulldown(30, 100).map(|_| ()));
    let mut chain = cut();
    names_its_line!(pool, chain.copyup(300, 10).map(|_| ()));
    let mut chain = cut();
    names_its_line!(pool, chain.header::<[u8; 1500]>().map(|_| ()));
    let mut chain = cut();
    names_its_line!(pool, chain.defrag());
    let mut chain = cut();
    names_its_line!(pool, chain.compact());
    let mut chain = cut();
    names_its_line!(pool, chain.collapse(1));
    let mut chain = full();
    let other = chain.share().unwrap();
    names_its_line!(pool, chain.unshare());
    let mut third = full();
    third.concat(other).unwrap();
    names_its_line!(pool, third.insert(100, full()));
}

#[test]
fn sharing_splitting_joining_and_marks_are_in_the_history() {
    let pool = pool();
    let mut chain = pool.chain_from(&[7; 1900]).unwrap();
    chain.mark(Mark::A);
    let tail = chain.split_off(1000).unwrap();
    let shared = chain.share().unwrap();
    let history = histories(&pool, Class::Small);
    // The cluster has all of it, each once.
    assert_eq!(histories(&pool, Class::K2), ["allocated mark-a split shared"]);
    for expected in ["allocated mark-a shared", "allocated split", "allocated shared"] {
        assert!(history.contains(&expected.to_string()), "{expected}: {history:?}");
    }
    drop((chain, shared));
    let mut front = pool.chain_from(b"front").unwrap();
    front.concat(tail).unwrap();
    assert!(histories(&pool, Class::Small).contains(&"allocated split joined".to_string()));
    drop(front);
    assert!(pool.census().is_empty());
}

#[test]
fn sixteen_events_are_kept_and_the_others_forgotten() {
    let pool = pool();
    let chain = pool.chain().unwrap();
    for _ in 0..15 {
        chain.mark(Mark::A);
    }
    let first = |pool: &Pool| pool.census().groups()[0].history.events().next();
    assert_eq!(first(&pool), Some(Event::Allocated));
    chain.mark(Mark::B);
    let census = pool.census();
    let history = census.groups()[0].history;
    assert_eq!((history.events().count(), history.events().last()), (16, Some(Event::MarkB)));
    assert_eq!(first(&pool), Some(Event::MarkA));
    assert!(history.to_string().starts_with("... mark-a mark-a"), "{history}");
}

#[test]
fn a_buffer_that_is_used_again_has_a_new_history() {
    let pool = Pool::builder().count(Class::Small, 1).build().unwrap();
    let chain = pool.chain().unwrap();
    chain.mark(Mark::A);
    drop(chain);
    assert!(pool.census().is_empty());
    let _chain = pool.chain().unwrap();
    assert_eq!(histories(&pool, Class::Small), ["allocated"]);
}

/// Passes on what comes, and keeps what begins with a `k`.
struct Keeper(Vec<Chain>);

impl Protocol for Keeper {
    fn name(&self) -> &str {
        "keeper"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any).stateless()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if chain.to_vec().is_ok_and(|bytes| bytes.starts_with(b"k")) {
            self.0.push(chain);
            return cx.held();
        }
        cx.reply(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }
}

/// Passes everything on.
struct Through;

impl Protocol for Through {
    fn name(&self) -> &str {
        "through"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any).stateless()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.up(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }
}

#[test]
fn the_way_through_a_stack_is_in_the_history() {
    let pool = pool();
    let layers: Vec<Box<dyn Protocol>> = vec![Box::new(Through), Box::new(Keeper(Vec::new()))];
    let mut stack = Stack::pile(&pool, Edge::Packets, layers).unwrap();
    let port = PortId(0);
    // One at a time is followed through the layers, many are delivered as a batch.
    for chains in [1, 8] {
        let mut batch = Batch::new();
        batch.extend((0..chains).map(|_| pool.chain_from(b"hello").unwrap()));
        stack.input(port, &mut batch);
        assert_eq!(
            histories(&pool, Class::Small),
            vec!["allocated input up up down queued"; chains]
        );
        let sent = stack.poll_output(port).pop().unwrap();
        assert!(
            histories(&pool, Class::Small)
                .contains(&"allocated input up up down queued dequeued".to_string())
        );
        drop(sent);
        while stack.poll_output(port).pop().is_some() {}
    }
    stack.input_one(port, pool.chain_from(b"keep").unwrap());
    assert_eq!(histories(&pool, Class::Small), ["allocated input up up"]);
}

#[test]
fn groups_are_counted_and_the_largest_is_first() {
    let pool = pool();
    let mut queue = Queue::new(100, 1 << 20);
    for _ in 0..5 {
        queue.push(pool.chain_from(&[7; 1000]).unwrap()).unwrap();
    }
    let _few: Vec<_> = (0..3).map(|_| pool.chain().unwrap()).collect();
    let census = pool.census();
    let counts: Vec<_> =
        census.groups().iter().map(|group| (group.class, group.buffers, group.bytes())).collect();
    let expected = [(Class::Small, 5, 1280), (Class::K2, 5, 10_240), (Class::Small, 3, 768)];
    assert_eq!(counts, expected);
    assert_eq!((census.buffers(), census.bytes()), (13, 12_288));
    assert_eq!(census.buffers(), pool.stats().in_use());
    let table = census.to_string();
    assert!(table.starts_with("pool `pool`: 13 buffers (12288 bytes) still out\n"), "{table}");
    assert!(table.contains("allocated queued"), "{table}");
}

#[test]
fn a_long_listing_says_how_much_more_there_is() {
    let pool = pool();
    let chains: Vec<_> = (0..30).map(|_| pool.chain().unwrap()).collect();
    // Fifteen events of two kinds tell thirty chains apart.
    for (n, chain) in chains.iter().enumerate() {
        (0..5).for_each(|bit| chain.mark(if n >> bit & 1 == 0 { Mark::A } else { Mark::B }));
    }
    let census = pool.census();
    assert_eq!(census.groups().len(), 30);
    assert!(census.to_string().ends_with("\nand 10 groups more"), "{census}");
}

#[test]
fn a_pool_that_is_closed_lists_what_is_out_once() {
    static LISTED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    fn list(census: &Census) {
        LISTED.lock().unwrap().push(census.to_string());
    }
    let make = || Pool::builder().name("rx").on_close(list).build().unwrap();

    drop(make());
    assert!(LISTED.lock().unwrap().is_empty(), "nothing was out");

    let pool = make();
    let chain = pool.chain().unwrap();
    let other = pool.clone();
    drop(pool);
    assert!(LISTED.lock().unwrap().is_empty(), "a handle is left");
    drop(other);
    drop(chain.pool()); // a handle again, and the last one again
    let listed = LISTED.lock().unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].starts_with("pool `rx`: 1 buffer (256 bytes) still out"), "{}", listed[0]);
    assert!(listed[0].contains(file!()), "{}", listed[0]);
}

#[test]
fn many_threads_take_and_free_while_one_counts() {
    let pool = pool();
    let (start, running) = (Barrier::new(4), AtomicUsize::new(3));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                start.wait();
                for n in 0..2000 {
                    let mut chain = pool.chain_from(&[7; 1000]).unwrap();
                    chain.mark(if n % 2 == 0 { Mark::A } else { Mark::B });
                    drop(chain.share().unwrap());
                }
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        start.wait();
        while running.load(Ordering::Relaxed) > 0 {
            // Each thread has two small mbufs and a cluster at a time.
            for group in pool.census().groups() {
                assert!(group.place.file() == file!(), "{group:?}");
            }
        }
    });
    assert!(pool.census().is_empty());
}
