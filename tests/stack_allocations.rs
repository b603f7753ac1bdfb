//! No heap allocation for a packet in steady state, counted by the allocator itself.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::Ipv4Addr,
    time::Duration,
};

use mbuf::{
    Address, Batch, Chain, Class, Pool,
    io::store::Folder,
    stack::{
        Context, Edge, LayerInfo, Outcome, PortId, Protocol, Sessions, Signal, Stack, Time, Timer,
    },
};
use mbuf_protocols::{
    Chargen, Discard, Tftp,
    net::{Ipv4, protocol},
    tcp::Tcp,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; counting touches a thread-local
// cell without a destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PORT: PortId = PortId(0);

/// A header of four bytes, and a timer that is armed and cancelled again for each packet.
struct Layer {
    timer: Option<Timer>,
}

impl Protocol for Layer {
    fn name(&self) -> &str {
        "layer"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).prepends(4).min_header(4)
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if let Some(timer) = self.timer.take() {
            assert!(cx.cancel(timer));
        }
        self.timer = cx.arm(Duration::from_secs(1));
        assert!(self.timer.is_some());
        chain.trim_front(4).unwrap();
        cx.up(chain)
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        chain.prepend_slice(b"head").unwrap();
        cx.down(chain)
    }
}

struct Echo;

impl Protocol for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.reply(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }
}

fn layers() -> Vec<Box<dyn Protocol>> {
    vec![Box::new(Layer { timer: None }), Box::new(Layer { timer: None }), Box::new(Echo)]
}

/// Batches of all sizes, from a few peers, once round; the time goes on a little.
fn round(stack: &mut Stack, pool: &Pool, batch: &mut Batch, now: &mut Time) {
    for size in [1, 32, 7, 64, 2] {
        for n in 0..size {
            let mut chain = pool.chain_from(b"headhead and some text").unwrap();
            let peer = Address::Ip(([192, 0, 2, 1], 1000 + n % 5).into());
            chain.meta_mut().set_source(peer);
            batch.push(chain);
        }
        stack.input(PORT, batch);
        let queue = stack.poll_output(PORT);
        for _ in 0..size {
            assert_eq!(queue.pop().unwrap().len(), 22);
        }
        assert!(queue.is_empty());
        stack.flushed(PORT);
        *now += Duration::from_millis(1);
        stack.advance(*now);
        stack.signal(Signal::Drain);
    }
}

fn allocations_in_steady_state(mut stack: Stack, pool: &Pool) -> usize {
    stack.open();
    let (mut batch, mut now) = (Batch::new(), Time::ZERO);
    (0..20).for_each(|_| round(&mut stack, pool, &mut batch, &mut now));
    let before = ALLOCATIONS.get();
    (0..100).for_each(|_| round(&mut stack, pool, &mut batch, &mut now));
    let allocations = ALLOCATIONS.get() - before;
    // The counter is alive.
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
    assert!(stack.stats().layers[0].received > 10_000);
    allocations
}

#[test]
fn a_pile_of_layers_allocates_nothing_for_a_packet() {
    let pool = Pool::builder().count(Class::Small, 1024).build().unwrap();
    let stack = Stack::pile(&pool, Edge::Packets, layers()).unwrap();
    assert_eq!(allocations_in_steady_state(stack, &pool), 0);
}

#[test]
fn sessions_allocate_nothing_for_a_packet() {
    let pool = Pool::builder().count(Class::Small, 1024).build().unwrap();
    let sessions = Sessions::new(|_, pool| Stack::pile(pool, Edge::Packets, layers()));
    let stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(sessions)]).unwrap();
    assert_eq!(allocations_in_steady_state(stack, &pool), 0);
}

/// By the thread of the stack; that of the store reads files, and is not counted.
#[test]
fn tftp_allocates_nothing_for_a_block() {
    let here = tempfile::tempdir().unwrap();
    std::fs::write(here.path().join("f"), vec![7; 2 << 20]).unwrap();
    // Large: a store that finds no buffers has a timer armed, whose first time allocates.
    let pool = Pool::with_memory(64 << 20).unwrap();
    let tftp = Tftp::folder(Folder::open(here.path()).unwrap());
    let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(tftp)]).unwrap();
    stack.open();
    let mut ask = |bytes: &[u8]| {
        let mut chain = pool.chain_from(bytes).unwrap();
        chain.meta_mut().set_source(Address::Ip(([192, 0, 2, 1], 3000).into()));
        stack.input_one(PORT, chain);
        loop {
            if let Some(block) = stack.poll_output(PORT).pop() {
                stack.flushed(PORT);
                return block.len();
            }
            // The store's thread has the turn.
            std::thread::yield_now();
            stack.poll();
        }
    };
    assert_eq!(ask(b"\0\x01f\0octet\0"), 516);
    let mut block = 0_u16;
    let mut count = |blocks: u16| {
        let before = ALLOCATIONS.get();
        for _ in 0..blocks {
            block += 1;
            let [high, low] = block.to_be_bytes();
            assert_eq!(ask(&[0, 4, high, low]), 516);
        }
        ALLOCATIONS.get() - before
    };
    count(1000);
    assert_eq!(count(3000), 0);
}

/// Two hosts of our own: one sends characters without end, the other throws them away.
#[test]
fn a_tcp_connection_allocates_nothing_once_it_is_open() {
    let pool = Pool::with_memory(8 << 20).unwrap();
    let (one, other) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let listener = Tcp::new(&[other.into()]).listen(9, || vec![Box::new(Discard::new())]);
    let peer = (other, 9).into();
    let caller = Tcp::new(&[one.into()])
        .connect((one, 0).into(), peer, || vec![Box::new(Chargen::stream())])
        .unwrap();
    let mut hosts = [(one, caller), (other, listener)].map(|(address, tcp)| {
        let mut builder = Stack::builder(&pool);
        let ip = builder.layer(Ipv4::new(address, 24));
        let tcp = builder.layer(tcp);
        builder.port(Edge::Packets, ip);
        builder.bind(ip, protocol::TCP, tcp);
        let mut stack = builder.build().unwrap();
        stack.open();
        stack
    });
    let mut batch = Batch::new();
    let (mut now, mut carried) = (Time::ZERO, 0);
    let mut run = |turns: usize| {
        let before = carried;
        for turn in 0..2 * turns {
            now += Duration::from_micros(500);
            let [from, to] = hosts.get_disjoint_mut([turn % 2, 1 - turn % 2]).unwrap();
            from.advance(now);
            let queue = from.poll_output(PORT);
            while let Some(chain) = queue.pop() {
                carried += chain.len();
                batch.push(chain);
            }
            from.flushed(PORT);
            to.input(PORT, &mut batch);
        }
        carried - before
    };
    run(200);
    let before = ALLOCATIONS.get();
    assert!(run(100) > 1_000_000);
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
