//! Counts calls of the global allocator on the thread that runs the reactor: once an echo over TCP
//! or UDP has warmed up, a message allocates nothing from the heap, nor does a chunk of a file.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mbuf::{
    Pool,
    io::{
        SourceKind,
        reactor::Reactor,
        store::{self, Folder, Item, Name, What},
    },
    stack::{Edge, Stack},
};
use mbuf_protocols::{
    Echo, Framing, Prefix,
    file::{Event, FileReceiver, FileSender},
};

/// The system's allocator, with the calls of each thread counted.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    CALLS.with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is handed on to the system's allocator as it is; counting allocates nothing,
// for the counter is initialised at compile time and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.realloc(address, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator, of whatever kind, that `work` makes on this thread.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}

/// Messages before the counting starts, and messages that are counted.
const WARM_UP: usize = 500;
const COUNTED: usize = 2000;

/// A reactor that this thread runs, turn by turn, between what the client does.
struct Rig {
    pool: Pool,
    reactor: Reactor,
}

impl Rig {
    fn new() -> Rig {
        let pool = Pool::with_memory(16 << 20).unwrap();
        let reactor = Reactor::builder(&pool).build().unwrap();
        Rig { pool, reactor }
    }

    /// One turn that does not wait.
    fn turn(&mut self) {
        assert!(self.reactor.poll(Some(Duration::ZERO)).unwrap(), "the reactor has shut down");
    }

    /// Closes all and checks that nothing is left in use.
    fn finish(mut self) {
        self.reactor.shutdown();
        while self.reactor.poll(Some(Duration::from_millis(10))).unwrap() {}
        drop(self.reactor);
        assert_eq!(self.pool.stats().in_use(), 0, "{}", self.pool.stats());
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Sends a message over TCP, and reads as much, running the reactor meanwhile.
fn exchange(rig: &mut Rig, client: &mut TcpStream, message: &[u8], answer: &mut [u8]) {
    let (mut sent, mut received) = (0, 0);
    while received < message.len() {
        if sent < message.len() {
            match client.write(&message[sent..]) {
                Ok(count) => sent += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        rig.turn();
        match client.read(&mut answer[received..message.len()]) {
            Ok(0) => panic!("closed after {received} bytes of {}", message.len()),
            Ok(count) => received += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert_eq!(answer[..message.len()], *message);
}

fn tcp(layers: fn() -> Vec<Box<dyn mbuf::stack::Protocol>>, message: &[u8]) {
    let mut rig = Rig::new();
    let address = rig
        .reactor
        .listen_tcp(loopback(), move |_, pool| Stack::pile(pool, Edge::Bytes, layers()))
        .unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut answer = vec![0; message.len()];
    for _ in 0..WARM_UP {
        exchange(&mut rig, &mut client, message, &mut answer);
    }
    let calls = allocations(|| {
        for _ in 0..COUNTED {
            exchange(&mut rig, &mut client, message, &mut answer);
        }
    });
    assert_eq!(calls, 0, "{COUNTED} messages of {} bytes", message.len());
    drop(client);
    rig.finish();
}

#[test]
fn an_echo_over_tcp_allocates_nothing() {
    for size in [1, 64, 1400, 60_000] {
        tcp(|| vec![Box::new(Echo::new())], &vec![0x5a; size]);
    }
}

#[test]
fn frames_echoed_over_tcp_allocate_nothing() {
    // Twenty frames of 48 bytes in one write.
    let frame = [&[0, 48][..], &[7; 48]].concat();
    let layers: fn() -> Vec<Box<dyn mbuf::stack::Protocol>> = || {
        let framing = Framing::new(Prefix::U16Be, 1024).unwrap();
        vec![Box::new(framing), Box::new(Echo::new())]
    };
    tcp(layers, &frame.repeat(20));
}

/// Sends so many datagrams at once over UDP, and takes as many, running the reactor meanwhile.
fn burst(rig: &mut Rig, client: &UdpSocket, message: &[u8], count: usize, answer: &mut [u8]) {
    for _ in 0..count {
        client.send(message).unwrap();
    }
    let mut received = 0;
    while received < count {
        rig.turn();
        match client.recv(answer) {
            Ok(length) => {
                assert_eq!(answer[..length], *message);
                received += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

#[test]
fn an_echo_over_udp_allocates_nothing() {
    for (size, count) in [(1, 1), (64, 32), (1400, 8)] {
        let mut rig = Rig::new();
        let stack = Stack::pile(&rig.pool, Edge::Packets, vec![Box::new(Echo::new())]).unwrap();
        let address = rig.reactor.listen_udp(loopback(), stack).unwrap();
        let client = UdpSocket::bind(loopback()).unwrap();
        client.connect(address).unwrap();
        client.set_nonblocking(true).unwrap();
        let (message, mut answer) = (vec![0x5a; size], vec![0; 2048]);
        for _ in 0..WARM_UP / count {
            burst(&mut rig, &client, &message, count, &mut answer);
        }
        let calls = allocations(|| {
            for _ in 0..COUNTED / count {
                burst(&mut rig, &client, &message, count, &mut answer);
            }
        });
        assert_eq!(calls, 0, "{COUNTED} datagrams of {size} bytes, {count} at once");
        rig.finish();
    }
}

/// Both ends of a transfer in one reactor: between a chunk and a later one, the layers, the stacks
/// and the reactor allocate nothing for each. (The stores' threads are not counted.)
#[test]
fn a_file_under_way_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sent");
    std::fs::write(&path, vec![7; 64 << 20]).unwrap();
    // The queues between the threads may still grow, a few times, where these run at another pace
    // than before. A piece of a mapping has an owner on the heap, which is freed here once it was
    // sent: one for each chunk, and for those that were under way before.
    for (source, most) in [(SourceKind::Preadv, 8), (SourceKind::Mapped, 200)] {
        let mut rig = Rig::new();
        let inbox = Folder::open(folder.path()).unwrap().sync(false);
        let (moved, stores) = (Arc::new(AtomicU64::new(0)), inbox.clone());
        let counter = Arc::clone(&moved);
        let listen = move |_: &_, pool: &Pool| {
            let counter = Arc::clone(&counter);
            let receiver = FileReceiver::new(Box::new(stores.store(pool).unwrap()));
            let receiver = receiver.overwrite(true).on_event(move |event| {
                let more = match event {
                    Event::Moved { bytes } => bytes,
                    Event::Finished(_) => 1,
                    _ => 0,
                };
                counter.fetch_add(more, Ordering::Relaxed);
            });
            receiver.stack(pool)
        };
        let address = rig.reactor.listen_tcp(loopback(), listen).unwrap();
        let name = Name::parse(b"received").unwrap();
        let item = Item { name, shown: "sent".into(), what: What::File(path.clone()) };
        let items = store::sender(&rig.pool, source, [item].into_iter()).unwrap();
        let stack = FileSender::new(items).stack(&rig.pool).unwrap();
        rig.reactor.connect_tcp(address, stack).unwrap();

        let mut until = |bytes: u64| {
            while moved.load(Ordering::Relaxed) < bytes {
                assert!(rig.reactor.poll(Some(Duration::from_millis(10))).unwrap());
            }
        };
        until(16 << 20);
        let calls = allocations(|| until(48 << 20));
        assert!(calls <= most, "{calls} calls for 128 chunks by {source:?}");
        until((64 << 20) + 1); // the end of it, too
        rig.reactor.shutdown();
        while rig.reactor.poll(Some(Duration::from_millis(10))).unwrap() {}
        assert!(inbox.wait(Duration::from_secs(10)));
        rig.finish();
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| ()), 0);
    // One to allocate, one to free.
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7)))), 2);
}
