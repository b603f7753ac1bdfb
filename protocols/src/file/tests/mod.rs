//! Both ends together, and each against a hostile other.

mod receiver;
mod sender;
mod transfer;

use std::sync::{Arc, Mutex};

use zerocopy::IntoBytes;

use super::{
    Code, Event, Summary, Trouble,
    tree::{ChunkHash, Hash},
    wire::{ALL, Data, End, File, Head, Hello, MAGIC, kind},
};

/// What a listener has heard.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Note>>>);

#[derive(Debug, Clone, PartialEq)]
enum Note {
    Started(String, Option<u64>),
    Done(String, u64, Hash),
    Failed(String, Trouble),
    Finished(Summary),
    Broken(Trouble),
}

impl Heard {
    fn listener(&self) -> impl FnMut(Event<'_>) + Send + 'static + use<> {
        let heard = self.clone();
        move |event| {
            let note = match event {
                Event::Started { name, length } => Note::Started(name.to_string(), length),
                Event::Done { name, length, root } => Note::Done(name.to_string(), length, root),
                Event::Failed { name, trouble } => Note::Failed(name.to_owned(), trouble.clone()),
                Event::Finished(summary) => Note::Finished(*summary),
                Event::Broken(trouble) => Note::Broken(trouble.clone()),
                Event::Moved { .. } => return,
            };
            heard.0.lock().unwrap().push(note);
        }
    }

    fn notes(&self) -> Vec<Note> {
        self.0.lock().unwrap().clone()
    }

    /// How it ended well.
    fn summary(&self) -> Summary {
        match self.notes().last() {
            Some(Note::Finished(summary)) => *summary,
            other => panic!("the end was {other:?}, of {:#?}", self.notes()),
        }
    }

    /// How it ended badly.
    fn broken(&self) -> Trouble {
        match self.notes().last() {
            Some(Note::Broken(trouble)) => trouble.clone(),
            other => panic!("the end was {other:?}, of {:#?}", self.notes()),
        }
    }

    /// The files that failed, and how.
    fn failed(&self) -> Vec<(String, Trouble)> {
        let failed = self.notes().into_iter().filter_map(|note| match note {
            Note::Failed(name, trouble) => Some((name, trouble)),
            _ => None,
        });
        failed.collect()
    }
}

/// A message that was put together by hand.
fn raw(kind: u8, flags: u8, file: u32, body: &[&[u8]]) -> Vec<u8> {
    [Head::new(kind, flags, file).as_bytes(), &body.concat()].concat()
}

fn hello(chunk: usize) -> Vec<u8> {
    let hello = Hello {
        magic: MAGIC,
        version: 1.into(),
        chunk_log2: chunk.ilog2() as u8,
        reserved: 0,
        features: 0.into(),
    };
    raw(kind::HELLO, 0, ALL, &[hello.as_bytes()])
}

fn file(flags: u8, no: u32, length: u64, name: &[u8]) -> Vec<u8> {
    let file = File {
        length: length.into(),
        seconds: 0.into(),
        nanos: 0.into(),
        mode: 0o4755.into(),
        reserved: 0.into(),
    };
    raw(kind::FILE, flags, no, &[file.as_bytes(), name])
}

fn data(no: u32, offset: u64, bytes: &[u8]) -> Vec<u8> {
    // The hash of what is there, at an offset where BLAKE3 has one.
    let hash = ChunkHash::of(offset & !1023 & (i64::MAX as u64), [bytes].into_iter());
    data_of(no, offset, bytes.len(), hash.value, 0, bytes)
}

fn data_of(no: u32, offset: u64, len: usize, hash: [u8; 32], flags: u8, bytes: &[u8]) -> Vec<u8> {
    let data = Data { offset: offset.into(), len: (len as u32).into(), reserved: 0.into(), hash };
    raw(kind::DATA, flags, no, &[data.as_bytes(), bytes])
}

fn end(no: u32, length: u64, root: Hash) -> Vec<u8> {
    let end = End { length: length.into(), root: root.into() };
    raw(kind::END, 0, no, &[end.as_bytes()])
}

fn fail(no: u32, code: Code) -> Vec<u8> {
    let code = (code as u16).to_be_bytes();
    raw(kind::FAIL, 0, no, &[&code, &[0; 6], b"because"])
}
