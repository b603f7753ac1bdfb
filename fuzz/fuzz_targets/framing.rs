//! Framing against the plainest decoder there is: a stream of frames, right ones and lies, gives the
//! same packets and the same end however it is cut into reads and laid out in buffers, however slowly
//! its answers are read, and with buffers that run out on the way. What is sent is what the plainest
//! encoder writes, and is read back as it was.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mbuf::{
    Class, Pool,
    stack::{Closing, DropReason, Edge, PortId, Protocol, Stack},
    testing::{Starve, assert_all_free},
};
use mbuf_fuzz::{Layout, Program, check_books, settle};
use mbuf_protocols::{
    Echo, Framing, Prefix,
    framing::{BAD_PREFIX, FRAME_TOO_LONG, PACKET_TOO_LONG, TRUNCATED},
};

const PORT: PortId = PortId(0);
/// Bytes of a stream.
const MOST_BYTES: usize = 8 << 10;
/// The longest prefix, in bytes.
const LONGEST: usize = 5;
/// What a compact chain may pin, however short it is: an mbuf with a cluster of 2 KiB.
const ONE_CLUSTER: usize = 256 + 2048;

#[derive(Debug, Arbitrary)]
struct Input {
    prefix: u8,
    max: u16,
    frames: Vec<Frame>,
    /// The same stream, cut in several ways.
    ways: [Way; 2],
}

#[derive(Debug, Arbitrary)]
enum Frame {
    Right(Vec<u8>),
    /// So many of them: a read full of tiny frames.
    Tiny(u8),
    /// The length that it declares is not its own.
    Lie(u32, Vec<u8>),
    /// No frame at all.
    Bytes(Vec<u8>),
}

/// How a stream comes in.
#[derive(Debug, Arbitrary)]
struct Way {
    /// Bytes of each read, less one, and how they lie, by turns; none: all at once.
    reads: Vec<(u8, Layout)>,
    /// The reads at which the pool is empty, by number.
    starved: [u8; 3],
    /// Every packet is answered by itself.
    echo: bool,
    /// Bytes of the answers that are read at a time, less one.
    drain: u8,
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Between two frames.
    Whole,
    /// Inside one.
    Truncated,
    /// It has no meaning from there on.
    Broken(DropReason),
}

/// What a prefix at the start of some bytes says: its own length and that of what follows.
fn length(prefix: Prefix, bytes: &[u8]) -> Result<Option<(usize, usize)>, DropReason> {
    let fixed = |n: usize, big: bool| {
        let bytes = bytes.get(..n)?;
        let fold = |sum, byte: &u8| sum << 8 | usize::from(*byte);
        let value = if big { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) };
        Some((n, value))
    };
    match prefix {
        Prefix::U8 => Ok(fixed(1, true)),
        Prefix::U16Be => Ok(fixed(2, true)),
        Prefix::U16Le => Ok(fixed(2, false)),
        Prefix::U32Be => Ok(fixed(4, true)),
        Prefix::U32Le => Ok(fixed(4, false)),
        Prefix::Varint => {
            let Some(n) = bytes.iter().take(LONGEST).position(|byte| byte & 0x80 == 0) else {
                return if bytes.len() < LONGEST { Ok(None) } else { Err(BAD_PREFIX) };
            };
            let groups = bytes[..=n].iter().rev();
            let value = groups.fold(0_u64, |sum, byte| sum << 7 | u64::from(byte & 0x7f));
            let padded = n > 0 && bytes[n] == 0;
            if padded || value > u64::from(u32::MAX) {
                return Err(BAD_PREFIX);
            }
            Ok(Some((n + 1, value as usize)))
        }
    }
}

fn decode(prefix: Prefix, max: usize, mut stream: &[u8]) -> (Vec<Vec<u8>>, End) {
    let mut packets = Vec::new();
    loop {
        if stream.is_empty() {
            return (packets, End::Whole);
        }
        match length(prefix, stream) {
            Err(reason) => return (packets, End::Broken(reason)),
            Ok(Some((_, len))) if len > max => return (packets, End::Broken(FRAME_TOO_LONG)),
            Ok(Some((n, len))) if stream.len() >= n + len => {
                packets.push(stream[n..n + len].to_vec());
                stream = &stream[n + len..];
            }
            Ok(_) => return (packets, End::Truncated),
        }
    }
}

fn encode(prefix: Prefix, len: u32, payload: &[u8], stream: &mut Vec<u8>) {
    match prefix {
        Prefix::U8 => stream.push(len as u8),
        Prefix::U16Be => stream.extend((len as u16).to_be_bytes()),
        Prefix::U16Le => stream.extend((len as u16).to_le_bytes()),
        Prefix::U32Be => stream.extend(len.to_be_bytes()),
        Prefix::U32Le => stream.extend(len.to_le_bytes()),
        Prefix::Varint => {
            let mut rest = len;
            while rest > 0x7f {
                stream.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            stream.push(rest as u8);
        }
    }
    stream.extend(payload);
}

fn stream_of(prefix: Prefix, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = Vec::new();
    for packet in packets {
        encode(prefix, packet.len() as u32, packet, &mut stream);
    }
    stream
}

impl Input {
    fn stream(&self, prefix: Prefix) -> Vec<u8> {
        let mut stream = Vec::new();
        for frame in &self.frames {
            match frame {
                Frame::Right(payload) => encode(prefix, payload.len() as u32, payload, &mut stream),
                Frame::Tiny(n) => (0..*n).for_each(|n| encode(prefix, 1, &[n], &mut stream)),
                Frame::Lie(len, payload) => encode(prefix, *len, payload, &mut stream),
                Frame::Bytes(bytes) => stream.extend(bytes),
            }
        }
        stream.truncate(MOST_BYTES);
        stream
    }

    /// The payloads alone.
    fn packets(&self) -> Vec<Vec<u8>> {
        let payloads = self.frames.iter().filter_map(|frame| match frame {
            Frame::Right(payload) | Frame::Lie(_, payload) => Some(payload.clone()),
            Frame::Tiny(_) | Frame::Bytes(_) => None,
        });
        payloads.collect()
    }
}

/// A framing layer and what stands above it, driven by hand.
struct Rig<'a> {
    pool: &'a Pool,
    stack: Stack,
    /// What went out and was read.
    sent: Vec<u8>,
    /// Bytes of it that are read at a time.
    drain: usize,
}

impl<'a> Rig<'a> {
    fn new(pool: &'a Pool, framing: Framing, above: Box<dyn Protocol>, drain: usize) -> Self {
        let mut builder = Stack::builder(pool);
        let below = builder.layer(framing);
        let above = builder.layer_boxed(above);
        builder.stack(below, above).port(Edge::Bytes, below);
        // The answers to a read full of tiny frames are more than the way out takes.
        builder.egress(256, 64, 1 << 20);
        let mut stack = builder.build().expect("bytes below, packets above");
        stack.open();
        Self { pool, stack, sent: Vec::new(), drain }
    }

    /// One read, as soon as it is wanted.
    fn read(&mut self, bytes: &[u8], layout: &Layout, starved: bool) {
        self.make_it_want();
        let chain = layout.chain(self.pool, bytes).expect("the pool is large enough");
        let starve = starved.then(|| Starve::leave(self.pool, 0, 0));
        self.stack.input_one(PORT, chain);
        settle(&mut self.stack);
        drop(starve);
    }

    /// Answers are read, and then time passes, until input is wanted or never will be.
    fn make_it_want(&mut self) {
        while !self.stack.wants_input(PORT) && self.stack.closing(PORT) == Closing::Open {
            if !self.read_out() {
                let due = self.stack.next_timeout().expect("it waits for something");
                self.stack.advance(due);
                settle(&mut self.stack);
            }
        }
    }

    /// Reads a few of the bytes that went out; whether there were any.
    fn read_out(&mut self) -> bool {
        let queue = self.stack.poll_output(PORT);
        let Some(front) = queue.front() else { return false };
        let n = front.len().min(self.drain);
        let at = self.sent.len();
        self.sent.resize(at + n, 0);
        front.peek(0, &mut self.sent[at..]).expect("it has so many");
        queue.advance(n).expect("so much is in it");
        self.stack.flushed(PORT);
        settle(&mut self.stack);
        true
    }

    /// The stream ends; how, by the stack's account.
    fn end(&mut self) -> End {
        self.make_it_want();
        self.stack.end_of_stream(PORT);
        settle(&mut self.stack);
        while self.read_out() {}
        match self.stack.closing(PORT) {
            Closing::Abort(reason) => End::Broken(reason),
            Closing::Graceful if self.stack.stats().dropped(TRUNCATED) > 0 => End::Truncated,
            Closing::Graceful => End::Whole,
            Closing::Open => panic!("the stream has ended, and the port is open"),
        }
    }

    fn finish(self) {
        check_books(&self.stack);
        assert_eq!((self.stack.held().chains, self.stack.timers()), (0, 0));
        drop(self.stack);
        assert_all_free(self.pool);
    }
}

/// The packets that come up, or the answers to them, are the right ones, and so is the end.
fn check_way(pool: &Pool, prefix: Prefix, max: usize, stream: &[u8], way: &Way) {
    let (packets, end) = decode(prefix, max, stream);
    let framing = Framing::new(prefix, max).expect("a maximum that the prefix can say");
    let (program, handle) = Program::new();
    let above: Box<dyn Protocol> = match way.echo {
        true => Box::new(Echo::new()),
        false => Box::new(program),
    };
    let mut rig = Rig::new(pool, framing, above, usize::from(way.drain) + 1);
    let mut rest = stream;
    for (number, (len, layout)) in way.reads.iter().cycle().enumerate() {
        if rest.is_empty() {
            break;
        }
        let (bytes, after) = rest.split_at(rest.len().min(usize::from(*len) + 1));
        // An answer that there is no buffer for is an end of its own.
        let starved = !way.echo && way.starved.iter().any(|n| usize::from(*n) == number);
        rig.read(bytes, layout, starved);
        rest = after;
        let held = rig.stack.stats().layers[0].held.footprint;
        let most = (4 * (max + LONGEST)).max(ONE_CLUSTER);
        // While it waits, it also holds the rest of a read.
        assert!(held <= most || !rig.stack.wants_input(PORT), "{held} bytes held, {most} at most");
    }
    if !rest.is_empty() {
        rig.read(rest, &Layout::default(), false);
    }
    assert_eq!(rig.end(), end, "{way:?}");
    if !way.echo {
        assert_eq!(handle.take(), packets, "{way:?}");
    } else if let End::Broken(_) = end {
        // What had not been read of the answers went with the stream.
        assert!(stream_of(prefix, &packets).starts_with(&rig.sent), "{way:?}");
    } else {
        assert_eq!(rig.sent, stream_of(prefix, &packets), "{way:?}");
    }
    rig.finish();
}

/// Packets from above go out as the plainest encoder writes them, but for those that are too long.
fn check_output(pool: &Pool, prefix: Prefix, max: usize, packets: &[Vec<u8>], drain: usize) {
    let framing = Framing::new(prefix, max).expect("a maximum that the prefix can say");
    let (program, handle) = Program::new();
    let mut rig = Rig::new(pool, framing, Box::new(program), drain);
    packets.iter().for_each(|packet| handle.send(packet.clone()));
    settle(&mut rig.stack);
    while rig.read_out() {}
    let (sent, refused): (Vec<_>, Vec<_>) =
        packets.iter().cloned().partition(|packet| packet.len() <= max);
    assert_eq!(rig.sent, stream_of(prefix, &sent));
    assert_eq!(rig.stack.stats().dropped(PACKET_TOO_LONG), refused.len() as u64);
    rig.finish();
}

/// Enough for every layout of a read and its answers, and quickly drained.
fn small_pool() -> Pool {
    let pool = Pool::builder().count(Class::Small, 640).count(Class::K2, 320);
    let pool = pool.count(Class::K16, 4).count(Class::K64, 4).move_on_pullup(true);
    pool.build().expect("memory for a small pool")
}

fuzz_target!(|input: Input| {
    let pool = small_pool();
    let prefix = Prefix::ALL[usize::from(input.prefix) % Prefix::ALL.len()];
    let max = usize::from(input.max).clamp(1, prefix.capacity());
    let stream = input.stream(prefix);
    // Each length has one form: what was read is what would be written.
    let (packets, _) = decode(prefix, max, &stream);
    assert!(stream.starts_with(&stream_of(prefix, &packets)));
    for way in &input.ways {
        check_way(&pool, prefix, max, &stream, way);
    }
    check_output(&pool, prefix, max, &input.packets(), usize::from(input.ways[0].drain) + 1);
});
