//! What a store in memory holds, and how it carries out what it is asked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io,
    time::SystemTime,
};

use super::MemoryItem;
use crate::{
    chain::Chain,
    error::Error,
    io::{
        error::{named, rename},
        store::{Answer, Attributes, Done, Failure, FileNo, Look, Name, Request},
    },
    pool::Pool,
    stack::Waker,
};

/// No file is longer: a wrong offset must not take all of the machine's memory.
const LONGEST: u64 = 1 << 30;

#[derive(Default)]
pub(super) struct Disk {
    pub(super) pool: Option<Pool>,
    pub(super) items: VecDeque<MemoryItem>,
    pub(super) files: BTreeMap<String, File>,
    /// With their modes.
    pub(super) folders: BTreeMap<String, u32>,
    open: HashMap<FileNo, Open>,
    pub(super) requests: usize,
    pub(super) faults: HashMap<usize, io::Error>,
    pub(super) limit: Option<usize>,
    pub(super) holes: bool,
    pub(super) changed: BTreeSet<String>,
    pub(super) delayed: bool,
    pub(super) kept: VecDeque<Answer>,
    pub(super) answers: VecDeque<Answer>,
    pub(super) waker: Option<Waker>,
}

#[derive(Default)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    mode: u32,
    modified: Option<SystemTime>,
}

/// What a number stands for.
enum Open {
    Part {
        name: Name,
        overwrite: bool,
        bytes: Vec<u8>,
        failed: Option<Failed>,
    },
    /// `next` is where a stream stands.
    Source {
        name: String,
        bytes: Vec<u8>,
        next: Option<usize>,
    },
    /// It could not be created or opened.
    Failed(Failed),
}

/// Why whatever follows fails as well.
struct Failed(io::ErrorKind, String);

impl File {
    pub(super) fn attributes(&self) -> Attributes {
        let length = Some(self.bytes.len() as u64);
        Attributes { length, mode: self.mode, modified: self.modified }
    }
}

impl Failed {
    fn of(error: &io::Error) -> Self {
        Self(error.kind(), error.to_string())
    }

    fn again(&self) -> io::Error {
        io::Error::new(self.0, self.1.clone())
    }
}

impl Disk {
    pub(super) fn sending(pool: Pool, items: VecDeque<MemoryItem>) -> Self {
        Self { pool: Some(pool), items, ..Self::default() }
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = (String, &[u8])> {
        self.open.values().filter_map(|open| match open {
            Open::Part { name, bytes, .. } => Some((format!("{name}{}", Name::PART), &bytes[..])),
            _ => None,
        })
    }

    pub(super) fn put(&mut self, name: &Name, bytes: &[u8]) {
        self.make_folders(name.folder());
        let file = File { bytes: bytes.into(), mode: 0o644, modified: None };
        self.files.insert(name.to_string(), file);
    }

    /// Nobody will commit what is open.
    pub(super) fn give_up(&mut self) {
        self.open.clear();
        self.waker = None;
    }

    pub(super) fn carry_out(&mut self, file: FileNo, request: Request) -> Answer {
        let n = self.requests;
        self.requests += 1;
        let result = match self.faults.remove(&n) {
            Some(error) => Err(self.fail(file, request, n, error)),
            None => self.result(file, request),
        };
        Answer { file, result }
    }

    /// The request fails, and is not carried out.
    fn fail(&mut self, file: FileNo, request: Request, n: usize, error: io::Error) -> Failure {
        let error = rename("injected into", format_args!("request {n}, for file {file}"), error);
        let mut failure = failure(error);
        let why = Failed::of(&failure.error);
        match request {
            Request::Create { .. } | Request::Open { .. } => {
                self.open.insert(file, Open::Failed(why));
            }
            Request::Next => {
                failure.item = self.items.pop_front().map(|item| match item {
                    MemoryItem::Failed { shown, .. } => shown,
                    MemoryItem::File { name, .. }
                    | MemoryItem::Folder { name, .. }
                    | MemoryItem::Stream { name, .. } => name.to_string(),
                });
                self.open.insert(file, Open::Failed(why));
            }
            Request::Write { chain, .. } => {
                failure.chain = Some(chain);
                self.spoil(file, why);
            }
            Request::Commit { .. } => self.spoil(file, why),
            _ => {}
        }
        failure
    }

    /// What was to be written was not: the file must not be committed any more.
    fn spoil(&mut self, file: FileNo, why: Failed) {
        if let Some(Open::Part { failed, .. }) = self.open.get_mut(&file) {
            failed.get_or_insert(why);
        }
    }

    fn result(&mut self, file: FileNo, request: Request) -> Result<Done, Failure> {
        let done = match request {
            Request::Create { name, overwrite, .. } => self.create(file, name, overwrite),
            Request::Write { offset, chain } => return self.write(file, offset, chain),
            Request::Commit { length, mode, modified } => {
                let done = self.commit(file, length, mode, modified);
                if let Err(error) = &done {
                    self.spoil(file, Failed::of(error));
                }
                done
            }
            Request::Discard => match self.open.remove(&file) {
                Some(Open::Part { .. } | Open::Failed(_)) => Ok(Done::Discarded),
                _ => Err(not_open(file)),
            },
            Request::MakeFolder { name, mode } => self.make_folder(&name, mode),
            Request::Open { name } => self.open(file, &name),
            Request::Next => return self.next(file),
            Request::Read { offset, len, look } => self.read(file, offset, len, look),
            Request::Close => self.close(file),
        };
        done.map_err(failure)
    }

    fn create(&mut self, file: FileNo, name: Name, overwrite: bool) -> io::Result<Done> {
        self.open.remove(&file);
        if let Err(error) = self.may_create(&name, overwrite) {
            self.open.insert(file, Open::Failed(Failed::of(&error)));
            return Err(error);
        }
        self.make_folders(name.folder());
        self.open.insert(file, Open::Part { name, overwrite, bytes: Vec::new(), failed: None });
        Ok(Done::Created)
    }

    fn may_create(&self, name: &Name, overwrite: bool) -> io::Result<()> {
        let part = format!("{name}{}", Name::PART);
        if let Some(folder) = name.prefixes().find(|at| *at != name.as_str() && self.is_file(at)) {
            return Err(named("mkdir", folder, libc::ENOTDIR));
        }
        if self.folders.contains_key(name.as_str()) {
            return Err(named("create", name, libc::EISDIR));
        }
        if self.is_file(name.as_str()) && !overwrite {
            return Err(named("create", name, libc::EEXIST));
        }
        if self.parts().any(|(busy, _)| busy == part) {
            return Err(named("lock", part, libc::EBUSY));
        }
        Ok(())
    }

    fn write(&mut self, file: FileNo, offset: u64, mut chain: Chain) -> Result<Done, Failure> {
        let room = self.room();
        let (name, bytes, failed) = match self.open.get_mut(&file) {
            Some(Open::Part { name, bytes, failed, .. }) => (name, bytes, failed),
            Some(Open::Failed(why)) => {
                return Err(Failure { chain: Some(chain), ..failure(why.again()) });
            }
            _ => return Err(Failure { chain: Some(chain), ..failure(not_open(file)) }),
        };
        if let Some(why) = failed {
            return Err(Failure { chain: Some(chain), ..failure(why.again()) });
        }
        let part = format_args!("to {name}{} at {offset}", Name::PART).to_string();
        let len = chain.len();
        let result = if offset.saturating_add(len as u64) > LONGEST {
            Err((0, named("pwrite", part, libc::EFBIG)))
        } else {
            let (from, now) = (offset as usize, bytes.len());
            let fits = len.min((now + room).saturating_sub(from));
            if fits > 0 && bytes.len() < from + fits {
                bytes.resize(from + fits, 0);
            }
            let into = if fits > 0 { &mut bytes[from..][..fits] } else { &mut [] };
            match chain.peek(0, into) {
                Err(error) => Err((0, error.into())),
                Ok(()) if fits < len => Err((fits, named("pwrite", part, libc::ENOSPC))),
                Ok(()) => Ok(()),
            }
        };
        let Err((written, error)) = result else { return Ok(Done::Written(chain)) };
        *failed = Some(Failed::of(&error));
        // Taking bytes off the front cannot fail: the chain has more of them.
        let _ = chain.trim_front(written);
        Err(Failure { chain: Some(chain), ..failure(error) })
    }

    /// Bytes that can still be stored.
    fn room(&self) -> usize {
        let Some(limit) = self.limit else { return usize::MAX / 2 };
        let files = self.files.values().map(|file| file.bytes.len()).sum::<usize>();
        let parts = self.parts().map(|(_, bytes)| bytes.len()).sum::<usize>();
        limit.saturating_sub(files + parts)
    }

    fn commit(
        &mut self,
        file: FileNo,
        length: u64,
        mode: Option<u32>,
        modified: Option<SystemTime>,
    ) -> io::Result<Done> {
        let (name, overwrite) = match self.open.get(&file) {
            Some(Open::Part { failed: Some(why), .. } | Open::Failed(why)) => {
                return Err(why.again());
            }
            Some(Open::Part { name, overwrite, .. }) => (name, *overwrite),
            _ => return Err(not_open(file)),
        };
        if length > LONGEST {
            return Err(named("ftruncate", name, libc::EFBIG));
        }
        if self.folders.contains_key(name.as_str()) {
            return Err(named("rename", name, libc::EISDIR));
        }
        if self.is_file(name.as_str()) && !overwrite {
            return Err(named("rename", name, libc::EEXIST));
        }
        let Some(Open::Part { name, mut bytes, .. }) = self.open.remove(&file) else {
            return Err(not_open(file));
        };
        bytes.resize(length as usize, 0);
        let mode = mode.map_or(0o644, |mode| mode & 0o777);
        self.files.insert(name.to_string(), File { bytes, mode, modified });
        Ok(Done::Committed)
    }

    fn make_folder(&mut self, name: &Name, mode: Option<u32>) -> io::Result<Done> {
        if let Some(file) = name.prefixes().find(|at| self.is_file(at)) {
            return Err(named("mkdir", file, libc::ENOTDIR));
        }
        let new = !self.folders.contains_key(name.as_str());
        self.make_folders(Some(name.as_str()));
        if let (true, Some(mode)) = (new, mode) {
            self.folders.insert(name.to_string(), mode & 0o777);
        }
        Ok(Done::FolderMade)
    }

    fn make_folders(&mut self, folder: Option<&str>) {
        let Some(folder) = folder else { return };
        let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
        for end in ends {
            self.folders.entry(folder[..end].into()).or_insert(super::FOLDER.mode);
        }
    }

    fn is_file(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    fn open(&mut self, file: FileNo, name: &Name) -> io::Result<Done> {
        self.open.remove(&file);
        let found = match self.files.get(name.as_str()) {
            _ if self.pool.is_none() => {
                Err(io::Error::new(io::ErrorKind::Unsupported, format!("open {name}: no pool")))
            }
            None if self.folders.contains_key(name.as_str()) => {
                Err(named("open", name, libc::EISDIR))
            }
            None => Err(named("open", name, libc::ENOENT)),
            Some(found) => Ok((found.bytes.clone(), found.attributes())),
        };
        match found {
            Ok((bytes, attributes)) => {
                let open = Open::Source { name: name.to_string(), bytes, next: None };
                self.open.insert(file, open);
                Ok(Done::Opened { name: None, attributes })
            }
            Err(error) => {
                self.open.insert(file, Open::Failed(Failed::of(&error)));
                Err(error)
            }
        }
    }

    fn next(&mut self, file: FileNo) -> Result<Done, Failure> {
        self.open.remove(&file);
        let (name, bytes, next, attributes) = match self.items.pop_front() {
            None => return Ok(Done::NoMore),
            Some(MemoryItem::Folder { name, attributes }) => {
                return Ok(Done::Folder { name, attributes });
            }
            Some(MemoryItem::Failed { shown, error }) => {
                self.open.insert(file, Open::Failed(Failed::of(&error)));
                return Err(Failure { item: Some(shown), ..failure(error) });
            }
            Some(MemoryItem::Stream { name, bytes }) => {
                (name, bytes, Some(0), Attributes { mode: 0o644, ..Attributes::default() })
            }
            Some(MemoryItem::File { name, bytes, attributes }) => {
                let length = Some(bytes.len() as u64);
                (name, bytes, None, Attributes { length, ..attributes })
            }
        };
        self.open.insert(file, Open::Source { name: name.to_string(), bytes, next });
        Ok(Done::Opened { name: Some(name), attributes })
    }

    fn read(
        &mut self,
        file: FileNo,
        offset: u64,
        len: usize,
        look: Option<Look>,
    ) -> io::Result<Done> {
        let (bytes, next) = match self.open.get_mut(&file) {
            Some(Open::Source { bytes, next, .. }) => (bytes, next),
            Some(Open::Failed(why)) => return Err(why.again()),
            _ => return Err(not_open(file)),
        };
        // A stream goes on where it is, whatever was asked for.
        let offset = next.as_ref().map_or(offset, |next| *next as u64);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let found = &bytes[from..][..len.min(bytes.len() - from)];
        if found.is_empty() && len > 0 {
            return Ok(Done::End { offset: bytes.len() as u64 });
        }
        if self.holes && next.is_none() && len > 0 && found.iter().all(|&byte| byte == 0) {
            return Ok(Done::Hole { offset, len: found.len() });
        }
        let Some(pool) = &self.pool else { return Err(not_open(file)) };
        let chain = match chain(pool, found) {
            Ok(chain) => chain,
            Err(Error::NoBuffers { .. }) => return Ok(Done::NoBuffers),
            Err(error) => return Err(error.into()),
        };
        if let Some(next) = next {
            *next += found.len();
        }
        // In pieces, as from clusters, and not of one size.
        let looked = look.map(|look| {
            let (first, rest) = found.split_at(found.len() / 3);
            look(offset, &mut [first, rest].into_iter().filter(|piece| !piece.is_empty()))
        });
        Ok(Done::Read { offset, chain, looked })
    }

    fn close(&mut self, file: FileNo) -> io::Result<Done> {
        match self.open.remove(&file) {
            Some(Open::Source { name, .. }) if self.changed.remove(&name) => {
                let text = format!("{name} was modified while it was read");
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            Some(Open::Source { .. }) => Ok(Done::Closed),
            Some(Open::Failed(why)) => Err(why.again()),
            Some(part @ Open::Part { .. }) => {
                self.open.insert(file, part);
                Err(not_open(file))
            }
            None => Err(not_open(file)),
        }
    }
}

fn chain(pool: &Pool, bytes: &[u8]) -> crate::Result<Chain> {
    let mut chain = pool.chain()?;
    let mut left = bytes;
    chain.reserve_uninit(bytes.len())?.fill(bytes.len(), |room| {
        let (now, rest) = left.split_at(room.len());
        room.copy_from_slice(now);
        left = rest;
    });
    Ok(chain)
}

fn failure(error: io::Error) -> Failure {
    Failure { error, chain: None, item: None }
}

fn not_open(file: FileNo) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("file {file} is not open for that"))
}
