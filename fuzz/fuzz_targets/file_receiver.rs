//! A file receiver against any sender: messages that are right, nearly right and not at all, cut
//! into any pieces, over a store that is slow, fills up and fails.
//!
//! Whatever comes: no panic; a file is there only if its hash was declared and is right; nothing
//! half-written, no buffer and no timer is left; what is held stays below its bound.
#![no_main]

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    sync::{Arc, Mutex},
    time::Duration,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mbuf::{
    Pool,
    stack::{PortId, Signal, Stack},
    testing::{MemoryStore, assert_all_free},
};
use mbuf_protocols::file::{Event, FileReceiver, Hash};

const PORT: PortId = PortId(0);
const CHUNK: usize = 1024;
/// What may be with the store.
const IN_STORE: usize = 64 << 10;

#[derive(Debug, Arbitrary)]
struct Input {
    overwrite: bool,
    slow: bool,
    /// Requests that fail.
    failures: Vec<u8>,
    limit: Option<u16>,
    /// Bytes of the stream that come at once.
    piece: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// HELLO, and what else a sender does that keeps to the rules.
    Hello,
    Begin {
        name: Name,
        length: Option<u16>,
        flags: u8,
    },
    /// The next bytes of the file.
    Next {
        len: u16,
        fill: u8,
        hole: bool,
    },
    End,
    Finish,
    /// One that does not.
    File {
        no: u8,
        flags: u8,
        length: u64,
        seconds: i64,
        nanos: u32,
        mode: u16,
        name: Vec<u8>,
    },
    Data {
        no: u8,
        flags: u8,
        offset: u64,
        len: u32,
        bytes: Vec<u8>,
        honest: bool,
    },
    WrongEnd {
        no: u8,
        length: u64,
    },
    Fail {
        no: u8,
        all: bool,
        code: u16,
        text: Vec<u8>,
    },
    Message {
        kind: u8,
        flags: u8,
        no: u32,
        body: Vec<u8>,
    },
    Frame {
        len: u32,
        bytes: Vec<u8>,
    },
    /// What goes on around it.
    Answers(u8),
    Time(u16),
    EndOfStream,
    Shutdown,
    /// Somebody reads what it says.
    Read,
}

#[derive(Debug, Arbitrary)]
enum Name {
    Plain(u8),
    Below(u8, u8),
    Upper(u8),
    Any(Vec<u8>),
}

impl Name {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Name::Plain(n) => format!("n{n}").into(),
            Name::Below(a, b) => format!("n{a}/n{b}").into(),
            Name::Upper(n) => format!("N{n}").into(),
            Name::Any(bytes) => bytes.clone(),
        }
    }
}

/// What a sender that keeps to the rules would know.
#[derive(Default)]
struct Sender {
    no: u32,
    bytes: Vec<u8>,
}

impl Sender {
    fn message(&mut self, step: &Step) -> Option<Vec<u8>> {
        let body = match step {
            Step::Hello => {
                let hello = [&b"mbuffile"[..], &1u16.to_be_bytes(), &[10, 0], &[0; 4]].concat();
                message(1, 0, u32::MAX, &hello)
            }
            Step::Begin { name, length, flags } => {
                self.no += 1;
                self.bytes.clear();
                let flags = flags & 6 | u8::from(length.is_some());
                let length = length.unwrap_or(0).into();
                message(2, flags, self.no, &file(length, 5, 0, 0o644, &name.bytes()))
            }
            Step::Next { len, fill, hole } => {
                let len = usize::from(*len) % CHUNK + 1;
                let len = if len > CHUNK / 2 { CHUNK } else { len };
                let at = self.bytes.len();
                let fill = if *hole { 0 } else { *fill };
                self.bytes.resize(at + len, fill);
                let bytes = if *hole { &[][..] } else { &self.bytes[at..] };
                let data = data(at as u64, len as u32, value(at as u64, &self.bytes[at..]), bytes);
                message(4, u8::from(*hole), self.no, &data)
            }
            Step::End => {
                let root = blake3::hash(&self.bytes);
                let body = [&(self.bytes.len() as u64).to_be_bytes()[..], root.as_bytes()].concat();
                message(5, 0, self.no, &body)
            }
            Step::Finish => message(8, 0, u32::MAX, &[]),
            Step::File { no, flags, length, seconds, nanos, mode, name } => {
                let kind = 2 + (flags >> 7);
                message(
                    kind,
                    flags & 7,
                    u32::from(*no),
                    &file(*length, *seconds, *nanos, *mode, name),
                )
            }
            Step::Data { no, flags, offset, len, bytes, honest } => {
                let hash = if *honest { value(*offset, bytes) } else { [7; 32] };
                let len = if *honest { bytes.len() as u32 } else { *len };
                message(4, flags & 1, u32::from(*no), &data(*offset, len, hash, bytes))
            }
            Step::WrongEnd { no, length } => {
                let body = [&length.to_be_bytes()[..], &[7; 32]].concat();
                message(5, 0, u32::from(*no), &body)
            }
            Step::Fail { no, all, code, text } => {
                let no = if *all { u32::MAX } else { u32::from(*no) };
                message(7, 0, no, &[&code.to_be_bytes()[..], &[0; 6], text].concat())
            }
            Step::Message { kind, flags, no, body } => message(*kind, *flags, *no, body),
            Step::Frame { len, bytes } => {
                return Some([&len.to_be_bytes()[..], bytes].concat());
            }
            _ => return None,
        };
        Some([&(body.len() as u32).to_be_bytes()[..], &body].concat())
    }
}

fn message(kind: u8, flags: u8, no: u32, body: &[u8]) -> Vec<u8> {
    [&[kind, flags, 0, 0][..], &no.to_be_bytes(), body].concat()
}

fn file(length: u64, seconds: i64, nanos: u32, mode: u16, name: &[u8]) -> Vec<u8> {
    let (length, seconds) = (length.to_be_bytes(), seconds.to_be_bytes());
    [&length[..], &seconds, &nanos.to_be_bytes(), &mode.to_be_bytes(), &[0; 2], name].concat()
}

fn data(offset: u64, len: u32, value: [u8; 32], bytes: &[u8]) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &len.to_be_bytes(), &[0; 4], &value, bytes].concat()
}

/// The chaining value of bytes at an offset; anything where BLAKE3 has none.
fn value(offset: u64, bytes: &[u8]) -> [u8; 32] {
    use blake3::hazmat::HasherExt;
    if !offset.is_multiple_of(1024) || bytes.is_empty() || bytes.len() > CHUNK || offset > 1 << 62 {
        return [9; 32];
    }
    blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

fn run(stack: &mut Stack) {
    while stack.has_work() {
        stack.poll();
    }
}

fuzz_target!(|input: Input| {
    let pool = Pool::with_memory(4 << 20).expect("memory for a small pool");
    let store = MemoryStore::new();
    let disk = store.handle();
    disk.delay(input.slow);
    for &n in &input.failures {
        disk.fail_at(n.into(), ErrorKind::Other);
    }
    if let Some(limit) = input.limit {
        disk.limit(limit.into());
    }
    let done: Arc<Mutex<BTreeMap<String, Hash>>> = Arc::default();
    let told = Arc::clone(&done);
    let mut stack = FileReceiver::new(Box::new(store))
        .overwrite(input.overwrite)
        .max_names(50)
        .chunk(CHUNK)
        .in_store(IN_STORE)
        .on_event(move |event| {
            if let Event::Done { name, root, .. } = event {
                told.lock().expect("no test has panicked").insert(name.to_string(), root);
            }
        })
        .stack(&pool)
        .expect("the pool suits");
    stack.open();
    run(&mut stack);

    let mut sender = Sender::default();
    let mut ended = false;
    for step in &input.steps {
        match step {
            Step::Answers(n) => disk.release((*n).into()),
            Step::Time(ms) => {
                let now = stack.now() + Duration::from_millis((*ms).into());
                stack.advance(now);
            }
            Step::EndOfStream if !ended => {
                ended = true;
                stack.end_of_stream(PORT);
            }
            Step::Shutdown => stack.signal(Signal::Shutdown),
            Step::Read => {
                stack.poll_output(PORT).clear();
                stack.flushed(PORT);
            }
            _ if ended => {}
            step => {
                let bytes = sender.message(step).unwrap_or_default();
                for piece in bytes.chunks(usize::from(input.piece) * 8 + 1) {
                    // A driver reads only while it is wanted.
                    if !stack.wants_input(PORT) {
                        disk.release_all();
                        stack.poll_output(PORT).clear();
                        stack.flushed(PORT);
                        run(&mut stack);
                    }
                    let Ok(chain) = pool.chain_from(piece) else { break };
                    stack.input_one(PORT, chain);
                    run(&mut stack);
                }
            }
        }
        run(&mut stack);
        let held = stack.held().footprint;
        // With the store, an unfinished frame, and what waits to be read.
        assert!(held < 4 * IN_STORE, "{held} bytes are held");
    }

    disk.release_all();
    run(&mut stack);
    for layer in stack.stats().layers {
        assert_eq!(layer.imbalance(), 0, "{layer:?}");
    }
    drop(stack);
    assert_all_free(&pool);
    assert!(disk.parts().is_empty(), "{:?}", disk.parts());
    let done = done.lock().expect("nothing has panicked");
    let files = disk.files();
    assert_eq!(files.keys().collect::<Vec<_>>(), done.keys().collect::<Vec<_>>());
    for (name, bytes) in &files {
        assert_eq!(blake3::hash(bytes), done[name], "{name}");
    }
});
