//! Files and streams that are open to be read.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    thread,
    time::Duration,
};

use super::{Attributes, Done, FileNo, Look, again, not_open, worker::Patience};
use crate::{
    chain::Chain,
    error::Error,
    io::{FileSource, SourceKind, error::rename},
    pool::{Class, Receiver},
};

/// When a stream that says it would block is asked again.
const RETRY: Duration = Duration::from_millis(1);

/// All that a thread has open, and where it reads to.
pub(super) struct Readings {
    /// Or why it could not be opened.
    open: HashMap<FileNo, io::Result<Reading>>,
    receiver: Receiver,
    kind: SourceKind,
    /// What a stream brought, before it is copied to the pool's buffers; and what is looked at of a
    /// mapping.
    scratch: Vec<u8>,
    patience: Patience,
}

enum Reading {
    File(Whole),
    Stream(Stream),
}

/// A regular file.
struct Whole {
    source: FileSource,
    shown: String,
    /// It takes less room than its length, so there may be holes.
    sparse: bool,
}

struct Stream {
    reader: Box<dyn Read + Send>,
    shown: String,
    next: u64,
    ended: bool,
}

impl Readings {
    pub(super) fn new(receiver: Receiver, kind: SourceKind, patience: Patience) -> Self {
        Self { open: HashMap::new(), receiver, kind, scratch: Vec::new(), patience }
    }

    /// A file that was just opened; it must be a regular one.
    pub(super) fn file(
        &mut self,
        no: FileNo,
        file: io::Result<File>,
        shown: String,
    ) -> io::Result<Attributes> {
        let opened = file.and_then(|file| Reading::open(file, shown, self.kind));
        let (reading, attributes) = opened.inspect_err(|error| self.failed(no, error))?;
        self.open.insert(no, Ok(reading));
        Ok(attributes)
    }

    pub(super) fn stream(&mut self, no: FileNo, reader: Box<dyn Read + Send>, shown: String) {
        let stream = Stream { reader, shown, next: 0, ended: false };
        self.open.insert(no, Ok(Reading::Stream(stream)));
    }

    /// Whatever is asked of that number fails.
    pub(super) fn failed(&mut self, no: FileNo, error: &io::Error) {
        self.open.insert(no, Err(again(error)));
    }

    /// The number means something else from here on.
    pub(super) fn forget(&mut self, no: FileNo) {
        self.open.remove(&no);
    }

    pub(super) fn read(
        &mut self,
        no: FileNo,
        offset: u64,
        len: usize,
        look: Option<Look>,
    ) -> io::Result<Done> {
        match self.open.get_mut(&no) {
            None => Err(not_open(no)),
            Some(Err(error)) => Err(again(error)),
            Some(Ok(Reading::File(whole))) => {
                whole.read(&self.receiver, &mut self.scratch, offset, len, look)
            }
            Some(Ok(Reading::Stream(stream))) => {
                self.scratch.resize(len.max(self.scratch.len()), 0);
                let scratch = &mut self.scratch[..len];
                stream.read(&self.receiver, scratch, &self.patience, look)
            }
        }
    }

    pub(super) fn close(&mut self, no: FileNo) -> io::Result<Done> {
        match self.open.remove(&no) {
            None => Err(not_open(no)),
            Some(Err(error)) => Err(error),
            Some(Ok(Reading::File(whole))) => whole.source.check().map(|()| Done::Closed),
            Some(Ok(Reading::Stream(_))) => Ok(Done::Closed),
        }
    }

    /// Whether a read of it may take for ever.
    pub(super) fn is_stream(&self, no: FileNo) -> bool {
        matches!(self.open.get(&no), Some(Ok(Reading::Stream(_))))
    }

    /// Nothing is to be read for a while.
    pub(super) fn rest(&mut self) {
        self.receiver.flush();
        self.receiver.pool().flush();
    }
}

impl Reading {
    fn open(file: File, shown: String, kind: SourceKind) -> io::Result<(Self, Attributes)> {
        let metadata = file.metadata().map_err(|error| rename("fstat of", &shown, error))?;
        regular(&metadata, &shown)?;
        let attributes = attributes(&metadata);
        let len = metadata.len();
        // What the kernel makes up when it is read (/proc, /sys) has no length before that.
        if len == 0 && std::os::unix::fs::FileExt::read_at(&file, &mut [0], 0).is_ok_and(|n| n > 0)
        {
            let stream = Stream { reader: Box::new(file), shown, next: 0, ended: false };
            return Ok((Reading::Stream(stream), Attributes { length: None, ..attributes }));
        }
        let sparse = metadata.blocks().saturating_mul(512) < len;
        let source = FileSource::from_file(file, shown.as_ref(), kind)?;
        let attributes = Attributes { length: Some(source.len()), ..attributes };
        Ok((Reading::File(Whole { source, shown, sparse }), attributes))
    }
}

impl Whole {
    fn read(
        &self,
        receiver: &Receiver,
        scratch: &mut Vec<u8>,
        offset: u64,
        len: usize,
        look: Option<Look>,
    ) -> io::Result<Done> {
        let source = &self.source;
        let left = source.len().saturating_sub(offset);
        if left == 0 {
            return Ok(Done::End { offset: source.len() });
        }
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.sparse
            && len > 0
            && source.next_data(offset)?.is_none_or(|at| at - offset >= len as u64)
        {
            return Ok(Done::Hole { offset, len });
        }
        let Some(chain) = source.read_at(receiver, offset, len)? else {
            return if holds(receiver, len) {
                Ok(Done::NoBuffers)
            } else {
                Err(never(receiver, len))
            };
        };
        let Some(look) = look else { return Ok(Done::Read { offset, chain, looked: None }) };
        let looked = match chain.slices() {
            Ok(mut slices) => look(offset, &mut slices),
            // A mapping: read once more, by a call.
            Err(_) => {
                scratch.resize(len.max(scratch.len()), 0);
                let bytes = &mut scratch[..len];
                if let Err(error) = chain.peek(0, bytes) {
                    let failed = || io::Error::other(format!("{}: {error}", self.shown));
                    return Err(source.check().err().unwrap_or_else(failed));
                }
                look(offset, &mut std::iter::once(&*bytes))
            }
        };
        Ok(Done::Read { offset, chain, looked: Some(looked) })
    }
}

impl Stream {
    fn read(
        &mut self,
        receiver: &Receiver,
        scratch: &mut [u8],
        patience: &Patience,
        look: Option<Look>,
    ) -> io::Result<Done> {
        // It goes on where it is, whatever was asked for: who asks ahead cannot know where it ends,
        // nor which read will find no buffers.
        let offset = self.next;
        // Before anything is taken out of the stream, for nothing can be put back.
        let Some((mut chain, class)) = first(receiver, scratch.len())? else {
            return Ok(Done::NoBuffers);
        };
        let room = match chain.reserve_from(receiver, class, scratch.len()) {
            Ok(room) => room,
            Err(Error::NoBuffers { .. }) => return Ok(Done::NoBuffers),
            Err(error) => return Err(error.into()),
        };
        let mut len = 0;
        while len < scratch.len() && !self.ended {
            match self.reader.read(&mut scratch[len..]) {
                Ok(0) => self.ended = true,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares a pipe with others may find it non-blocking by their doing.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !patience.is_over() => {
                    thread::sleep(RETRY);
                }
                Err(error) => return Err(rename("read of", &self.shown, error)),
            }
        }
        if len == 0 && self.ended {
            return Ok(Done::End { offset });
        }
        self.next += len as u64;
        let found = &scratch[..len];
        let mut left = found;
        room.fill(len, |piece| {
            let (now, rest) = left.split_at(piece.len());
            piece.copy_from_slice(now);
            left = rest;
        });
        let looked = look.map(|look| look(offset, &mut std::iter::once(found)));
        Ok(Done::Read { offset, chain, looked })
    }
}

/// An empty chain of the class that suits a read of `len` bytes best: the smallest that holds them
/// in one, or else the largest of which there are enough. None: there are no buffers now.
fn first(receiver: &Receiver, len: usize) -> io::Result<Option<(Chain, Class)>> {
    let enough = |class: &Class| receiver.lendable(*class) >= len.max(1).div_ceil(class.data_len());
    let (smaller, larger) = Class::ALL.split_at(Class::for_len(len).index());
    let mut classes = larger.iter().chain(smaller.iter().rev()).copied();
    let Some(class) = classes.find(enough) else { return Err(never(receiver, len)) };
    match receiver.chain_in(class, 0) {
        Ok(chain) => Ok(Some((chain, class))),
        Err(Error::NoBuffers { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a file's source could read so many bytes into the pool if it were full.
fn holds(receiver: &Receiver, len: usize) -> bool {
    let clusters = Class::ALL.into_iter().filter(|&class| class != Class::Small);
    clusters
        .map(|class| (class, receiver.lendable(class)))
        .any(|(class, clusters)| clusters >= len.max(1).div_ceil(class.data_len()))
}

#[cold]
fn never(receiver: &Receiver, len: usize) -> io::Error {
    let text = format!("pool `{}` has no buffers for {len} bytes at once", receiver.pool().name());
    io::Error::new(io::ErrorKind::OutOfMemory, text)
}

/// What is not a regular file is refused by what it is.
pub(super) fn regular(metadata: &Metadata, shown: &str) -> io::Result<()> {
    let kind = metadata.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_dir() => {
            let text = format!("open of {shown}: a folder, not a file");
            return Err(io::Error::new(io::ErrorKind::IsADirectory, text));
        }
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "of an unknown type",
    };
    let text = format!("open of {shown}: {what}, not a regular file");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

pub(super) fn attributes(metadata: &Metadata) -> Attributes {
    let length = metadata.is_file().then_some(metadata.len());
    let mode = metadata.permissions().mode() & 0o777;
    Attributes { length, mode, modified: metadata.modified().ok() }
}
