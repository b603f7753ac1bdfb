//! Every plugin of `mbuf-protocols` against any peer and any program: arbitrary bytes and messages
//! that are nearly right, laid out in buffers in any way, from below and from above, while time
//! passes, buffers run out and stores fail.
//!
//! Whatever comes: no panic, what a layer holds stays below its bound, every chain is accounted for,
//! and nothing is left in use.
#![no_main]

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mbuf::{
    Address, Class, Pool,
    stack::{Edge, PortId, Protocol, Signal, Stack},
    testing::{MemoryHandle, MemoryItem, MemoryStore, Starve, assert_all_free},
};
use mbuf_fuzz::{Handle, Layout, Program, check_books, settle};
use mbuf_protocols::{Chargen, Discard, Echo, FileReceiver, FileSender, Framing, Prefix, Tftp};

const PORT: PortId = PortId(0);
/// The size of a transfer's chunks.
const CHUNK: usize = 1024;
/// What the ends of a transfer read ahead, and give to their stores.
const AHEAD: usize = 16 * CHUNK;
/// Transfers of TFTP at once, and what each may hold.
const TRANSFERS: usize = 4;
const TRANSFER: usize = 256 << 10;
/// Bytes of a DATA message before the chunk.
const DATA_HEADER: usize = 56;

#[derive(Debug, Arbitrary)]
struct Input {
    plugin: Plugin,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Plugin {
    Echo { packets: bool },
    Discard { packets: bool },
    ChargenStream,
    ChargenDatagram,
    Framing { prefix: u8, max: u16, timed: bool },
    FileSender { framed: bool, preserve: bool, items: Vec<Item>, disk: Disk },
    FileReceiver { framed: bool, overwrite: bool, disk: Disk },
    Tftp { write: bool, overwrite: bool, len: u16, disk: Disk },
}

/// Something to be sent.
#[derive(Debug, Arbitrary)]
enum Item {
    File { name: u8, len: u16, fill: u8 },
    Stream { name: u8, len: u16 },
    Folder { name: u8 },
    Failed,
}

/// What is wrong with a store.
#[derive(Debug, Arbitrary)]
struct Disk {
    slow: bool,
    failures: Vec<u8>,
    limit: Option<u16>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// Something comes in, if it is wanted.
    Input {
        bytes: Bytes,
        layout: Layout,
        peer: u8,
    },
    /// The program above sends something.
    Output(Vec<u8>),
    /// Somebody reads so many chains of what went out, and then so many bytes.
    Read {
        chains: u8,
        bytes: u16,
    },
    Time(u16),
    /// The store gives so many answers.
    Answers(u8),
    /// The pool is drained to so many small mbufs.
    Starve(u8),
    Feed,
    Drain,
    Mtu(u16),
    EndOfStream,
    Shutdown,
}

/// What comes in.
#[derive(Debug, Arbitrary)]
enum Bytes {
    Any(Vec<u8>),
    /// The first message of a transfer.
    Hello {
        chunk_log2: u8,
    },
    /// One that is right by itself, with zeroes where nothing else is wanted.
    Right {
        kind: u8,
        no: u8,
        tail: u8,
    },
    Message {
        kind: u8,
        flags: u8,
        no: u32,
        body: Vec<u8>,
    },
    /// A message of TFTP.
    Tftp {
        opcode: u8,
        number: u16,
        name: u8,
        options: Vec<(u8, u16)>,
        len: u16,
    },
}

impl Plugin {
    fn set_up(&self, pool: &Pool) -> SetUp {
        match self {
            Plugin::Echo { packets } => alone(edge(*packets), Echo::new(), 0),
            Plugin::Discard { packets } => alone(edge(*packets), Discard::new(), 0),
            Plugin::ChargenStream => alone(Edge::Bytes, Chargen::stream(), 8 << 10),
            Plugin::ChargenDatagram => alone(Edge::Packets, Chargen::datagram(), 0),
            Plugin::Framing { prefix, max, timed } => {
                let prefix = Prefix::ALL[usize::from(*prefix) % Prefix::ALL.len()];
                let max = usize::from(*max).clamp(1, prefix.capacity());
                let mut framing = Framing::new(prefix, max).expect("it can say so much");
                if *timed {
                    framing = framing.complete_within(Duration::from_millis(100));
                }
                alone(Edge::Bytes, framing, 4 * max)
            }
            Plugin::FileSender { framed, preserve, items, disk } => {
                let store = MemoryStore::sending(pool, items.iter().map(Item::made));
                let disk = disk.spoil(&store);
                let sender = FileSender::new(Box::new(store)).preserve(*preserve);
                transfer(*framed, sender.chunk(CHUNK).read_ahead(AHEAD), disk)
            }
            Plugin::FileReceiver { framed, overwrite, disk } => {
                let store = MemoryStore::new();
                let disk = disk.spoil(&store);
                let receiver = FileReceiver::new(Box::new(store)).overwrite(*overwrite);
                transfer(*framed, receiver.chunk(CHUNK).in_store(AHEAD), disk)
            }
            Plugin::Tftp { write, overwrite, len, disk } => {
                let store = MemoryStore::sending(pool, []);
                let disk = disk.spoil(&store);
                disk.put("f0", &vec![b'\n'; (*len).into()]);
                let tftp = Tftp::new(Box::new(store)).write(*write).overwrite(*overwrite);
                let tftp = tftp.transfers(TRANSFERS).max_size(40_000);
                let bound = TRANSFERS * TRANSFER;
                SetUp { disk: Some(disk), ..alone(Edge::Packets, tftp, bound) }
            }
        }
    }
}

/// A plugin in its place.
struct SetUp {
    edge: Edge,
    layers: Vec<Box<dyn Protocol>>,
    /// What each layer may hold, in bytes of storage, beside what one read has brought.
    bound: usize,
    disk: Option<MemoryHandle>,
}

fn alone(edge: Edge, layer: impl Protocol + 'static, bound: usize) -> SetUp {
    SetUp { edge, layers: vec![Box::new(layer)], bound, disk: None }
}

/// An end of a transfer; without the frames each packet is a message.
fn transfer(framed: bool, layer: impl Protocol + 'static, disk: MemoryHandle) -> SetUp {
    let mut layers: Vec<Box<dyn Protocol>> = Vec::new();
    if framed {
        let framing = Framing::new(Prefix::U32Be, CHUNK + DATA_HEADER);
        layers.push(Box::new(framing.expect("it can say so much")));
    }
    layers.push(Box::new(layer));
    SetUp { edge: edge(!framed), layers, bound: 4 * AHEAD, disk: Some(disk) }
}

fn edge(packets: bool) -> Edge {
    if packets { Edge::Packets } else { Edge::Bytes }
}

impl Disk {
    fn spoil(&self, store: &MemoryStore) -> MemoryHandle {
        let disk = store.handle();
        disk.delay(self.slow);
        for &n in &self.failures {
            disk.fail_at(n.into(), ErrorKind::Other);
        }
        if let Some(limit) = self.limit {
            disk.limit(limit.into());
        }
        disk
    }
}

impl Item {
    fn made(&self) -> MemoryItem {
        let bytes = |len: u16, fill| vec![fill; usize::from(len) % (8 * CHUNK)];
        match *self {
            Item::File { name, len, fill } => {
                MemoryItem::file(&format!("f{name}"), &bytes(len, fill))
            }
            Item::Stream { name, len } => MemoryItem::stream(&format!("s{name}"), &bytes(len, 7)),
            Item::Folder { name } => MemoryItem::folder(&format!("d{name}")),
            Item::Failed => MemoryItem::failed("failed", ErrorKind::NotFound),
        }
    }
}

impl Bytes {
    /// What comes in by a stream, or as a packet.
    fn on(&self, edge: Edge) -> Vec<u8> {
        let message = match self {
            Bytes::Any(bytes) => return bytes.clone(),
            Bytes::Hello { chunk_log2 } => {
                let body = [&b"mbuffile\0\x01"[..], &[9 + chunk_log2 % 13], &[0; 5]].concat();
                message(1, 0, u32::MAX, &body)
            }
            Bytes::Right { kind, no, tail } => right(2 + kind % 9, u32::from(no % 4), *tail),
            Bytes::Message { kind, flags, no, body } => message(*kind % 12, *flags, *no, body),
            Bytes::Tftp { opcode, number, name, options, len } => {
                tftp(*opcode % 8, *number, *name, options, *len)
            }
        };
        match edge {
            Edge::Packets => message,
            _ => [&(message.len() as u32).to_be_bytes()[..], &message].concat(),
        }
    }
}

fn message(kind: u8, flags: u8, no: u32, body: &[u8]) -> Vec<u8> {
    [&[kind, flags, 0, 0][..], &no.to_be_bytes(), body].concat()
}

fn tftp(opcode: u8, number: u16, name: u8, options: &[(u8, u16)], len: u16) -> Vec<u8> {
    let mut message = vec![0, opcode];
    match opcode {
        1 | 2 => {
            let name = [&b"f0"[..], b"f1", b"a/b", b"../x", b"f0/y"][usize::from(name) % 5];
            let mode = [&b"octet"[..], b"netascii", b"mail"][usize::from(number) % 3];
            message.extend([name, b"\0", mode, b"\0"].concat());
            for (option, value) in options {
                let names = ["blksize", "timeout", "tsize", "windowsize", "other"];
                let option = names[usize::from(*option) % names.len()];
                message.extend(format!("{option}\0{value}\0").into_bytes());
            }
        }
        _ => {
            message.extend(number.to_be_bytes());
            if opcode == 3 {
                message.extend(vec![name; usize::from(len) % 2048]);
            }
        }
    }
    message
}

fn right(kind: u8, no: u32, tail: u8) -> Vec<u8> {
    match kind {
        // FILE, FOLDER
        2 | 3 => message(kind, 0, no, &[&[0; 24][..], &[b'a' + tail % 26]].concat()),
        // DATA, of which the hash is wrong
        4 => {
            message(kind, 0, no, &[&[0; 11][..], &[tail], &[0; 36], &vec![7; tail.into()]].concat())
        }
        // END, DONE, FAIL
        5 => message(kind, 0, no, &[0; 40]),
        6 => message(kind, 0, no, &[]),
        7 => message(kind, 0, no, &[0; 8]),
        // BYE, and FINISH and ALIVE: of the whole transfer
        9 => message(kind, 0, u32::MAX, &[0; 56]),
        _ => message(kind, 0, u32::MAX, &[]),
    }
}

/// The plugin in a stack, with a program above it, driven by hand.
struct Rig {
    pool: Pool,
    stack: Stack,
    program: Handle,
    disk: Option<MemoryHandle>,
    edge: Edge,
    bound: usize,
    /// Storage that the largest read has brought.
    largest: usize,
    /// Bytes that came in, and that went out.
    passed: (usize, usize),
    ended: bool,
    starve: Option<Starve>,
}

impl Rig {
    fn new(plugin: &Plugin) -> Self {
        let pool = Pool::builder().count(Class::Small, 1024).count(Class::K2, 256);
        let pool = pool.count(Class::K4, 16).count(Class::K16, 4).count(Class::K64, 2);
        let pool = pool.move_on_pullup(true).build().expect("memory for a small pool");
        let SetUp { edge, layers, bound, disk } = plugin.set_up(&pool);
        let (program, handle) = Program::new();
        let mut builder = Stack::builder(&pool);
        let ids: Vec<_> = layers.into_iter().map(|layer| builder.layer_boxed(layer)).collect();
        let top = builder.layer(program);
        for (lower, upper) in ids.iter().zip(ids.iter().skip(1).chain([&top])) {
            builder.stack(*lower, *upper);
        }
        builder.port(edge, ids[0]);
        builder.egress(4 * CHUNK, 64, 16 * CHUNK);
        let mut stack = builder.build().expect("edges that fit");
        stack.open();
        settle(&mut stack);
        Self {
            pool,
            stack,
            program: handle,
            disk,
            edge,
            bound,
            largest: 0,
            passed: (0, 0),
            ended: false,
            starve: None,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Input { bytes, layout, peer } => self.input(&bytes.on(self.edge), layout, *peer),
            Step::Output(bytes) => self.program.send(bytes.clone()),
            Step::Read { chains, bytes } => self.read(usize::from(*chains), usize::from(*bytes)),
            Step::Time(ms) => {
                let now = self.stack.now() + Duration::from_millis((*ms).into());
                self.stack.advance(now);
            }
            Step::Answers(n) => {
                self.disk.iter().for_each(|disk| disk.release((*n).into()));
            }
            Step::Starve(small) => {
                self.starve = None;
                self.starve = Some(Starve::leave(&self.pool, (*small).into(), 0));
            }
            Step::Feed => self.starve = None,
            Step::Drain => self.stack.signal(Signal::Drain),
            Step::Mtu(bytes) => self.stack.signal(Signal::Mtu((*bytes).into())),
            Step::EndOfStream => {
                self.ended = true;
                self.stack.end_of_stream(PORT);
            }
            Step::Shutdown => self.stack.signal(Signal::Shutdown),
        }
        settle(&mut self.stack);
    }

    /// Something comes in, if it is wanted and there are buffers.
    fn input(&mut self, bytes: &[u8], layout: &Layout, peer: u8) {
        if self.ended || !self.stack.wants_input(PORT) {
            return;
        }
        let Ok(mut chain) = layout.chain(&self.pool, bytes) else { return };
        if self.edge == Edge::Packets {
            chain.meta_mut().set_source(address(peer % 16));
            chain.meta_mut().set_destination(address(peer / 16));
        }
        self.largest = self.largest.max(chain.footprint());
        self.passed.0 += bytes.len();
        self.stack.input_one(PORT, chain);
    }

    /// So many chains that went out are read, and then so many bytes.
    fn read(&mut self, chains: usize, bytes: usize) {
        let queue = self.stack.poll_output(PORT);
        let before = queue.bytes();
        for chain in (0..chains).map_while(|_| queue.pop()) {
            chain.check().expect("every invariant");
        }
        if self.edge == Edge::Bytes {
            queue.advance(bytes.min(queue.bytes())).expect("so much is in it");
        }
        self.passed.1 += before - queue.bytes();
        self.stack.flushed(PORT);
    }

    fn check(&self) {
        check_books(&self.stack);
        for layer in self.stack.stats().layers {
            let (held, most) = (layer.held.footprint, self.bound + 2 * self.largest);
            assert!(held <= most, "{held} bytes are held, {most} at most: {layer:?}");
        }
    }

    /// With buffers and answers, what was under way comes to its end; then all is gone.
    fn finish(mut self) -> (usize, usize) {
        self.starve = None;
        for _ in 0..4 {
            self.disk.iter().for_each(MemoryHandle::release_all);
            self.program.nudge();
            self.step(&Step::Time(10));
            self.step(&Step::Read { chains: u8::MAX, bytes: 0 });
            self.check();
        }
        drop(self.stack);
        assert_all_free(&self.pool);
        if let Some(disk) = self.disk {
            assert!(disk.parts().is_empty(), "{:?}", disk.parts());
        }
        self.passed
    }
}

/// One of a few, some of them of services that answer whatever they are sent.
fn address(n: u8) -> Address {
    let port = if n < 8 { 7 + u16::from(n) * 6 } else { 40_000 + u16::from(n) };
    Address::Ip(SocketAddr::from(([192, 0, 2, n % 4], port)))
}

fuzz_target!(|input: Input| {
    let mut rig = Rig::new(&input.plugin);
    for step in &input.steps {
        rig.step(step);
        rig.check();
    }
    let (received, sent) = rig.finish();
    // Over datagrams an answer goes to whoever the question says it is from.
    if matches!(input.plugin, Plugin::Echo { .. } | Plugin::ChargenDatagram) {
        assert!(sent <= received, "{sent} bytes sent for {received}");
    }
    if matches!(input.plugin, Plugin::Discard { .. }) {
        assert_eq!(sent, 0);
    }
});
