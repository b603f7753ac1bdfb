//! The contract of a store, over every implementation; and what only real files can do wrong.

mod contract;
mod disk;
mod hostile;
mod many;
mod send;

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{Pool, testing::plain_pool};

/// A store that is asked and waited for.
struct Driver {
    store: Box<dyn Store>,
    pool: Pool,
    /// Dropped after the store.
    _end: End,
}

/// Waits for the end of what is done in a folder.
struct End(Option<Folder>);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            let ended = folder.wait(Duration::from_secs(10));
            assert!(ended || thread::panicking(), "its thread goes on");
        }
    }
}

impl Driver {
    fn new(store: impl Store + 'static, pool: &Pool) -> Self {
        Self { store: Box::new(store), pool: pool.clone(), _end: End(None) }
    }

    /// Dropped, it waits until the folder's thread has ended.
    fn of(folder: &Folder, pool: &Pool) -> Self {
        let store = Box::new(folder.store(pool).unwrap());
        Self { store, pool: pool.clone(), _end: End(Some(folder.clone())) }
    }

    fn folder(path: &Path, pool: &Pool) -> Self {
        Self::of(&Folder::open(path).unwrap(), pool)
    }

    fn ask(&mut self, file: FileNo, request: Request) {
        self.store.ask(file, request);
    }

    #[track_caller]
    fn answer(&mut self) -> Answer {
        let until = Instant::now() + Duration::from_secs(30);
        for times in 0.. {
            if let Some(answer) = self.store.answer() {
                return answer;
            }
            match times {
                ..100 => thread::yield_now(),
                _ => thread::sleep(Duration::from_micros(50)),
            }
            assert!(Instant::now() < until, "no answer within 30 s");
        }
        unreachable!("it is never tired");
    }

    /// Asks, and waits for the answer.
    #[track_caller]
    fn done(&mut self, file: FileNo, request: Request) -> Result<Done, Failure> {
        self.ask(file, request);
        let answer = self.answer();
        assert_eq!(answer.file, file);
        answer.result
    }

    #[track_caller]
    fn error(&mut self, file: FileNo, request: Request) -> io::Error {
        self.done(file, request).expect_err("it should fail").error
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Request {
        Request::Write { offset, chain: self.pool.chain_from(bytes).unwrap() }
    }

    /// Creates, writes and commits in one go; the first failure, if any.
    #[track_caller]
    fn put(&mut self, file: FileNo, name: &str, bytes: &[u8], overwrite: bool) -> io::Result<()> {
        self.ask(file, create(name, overwrite));
        let write = self.write(0, bytes);
        self.ask(file, write);
        self.ask(file, commit(bytes.len() as u64));
        let mut result = Ok(());
        for _ in 0..3 {
            let answer = self.answer();
            result = result.and(answer.result.map(drop).map_err(|failure| failure.error));
        }
        result
    }

    #[track_caller]
    fn read(&mut self, file: FileNo, offset: u64, len: usize) -> Vec<u8> {
        match self.done(file, read(offset, len)) {
            Ok(Done::Read { chain, offset: at, .. }) => {
                assert_eq!(at, offset);
                chain.to_vec().unwrap()
            }
            other => panic!("not read: {other:?}"),
        }
    }
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn create(text: &str, overwrite: bool) -> Request {
    Request::Create { name: name(text), length: None, overwrite }
}

fn commit(length: u64) -> Request {
    Request::Commit { length, mode: None, modified: None }
}

fn read(offset: u64, len: usize) -> Request {
    Request::Read { offset, len, look: None }
}

/// All files beneath a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            } else {
                let path = entry.path();
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                let bytes = if entry.file_type().unwrap().is_file() {
                    fs::read(&path).unwrap()
                } else {
                    Vec::new()
                };
                all.insert(name, bytes);
            }
        }
    }
    all
}

/// A test that cannot run here says so; where all must run, it fails.
fn cannot_run(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("MBUF_REQUIRE_PEERS").is_none(), "{test} cannot run: {why}");
    eprintln!("{test} CANNOT RUN HERE: {why}");
}
