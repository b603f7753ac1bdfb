//! Files and streams that are open to be read.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    time::SystemTime,
};

use super::{Attributes, Done, FileNo, Look, again, not_open, worker::Patience};
use crate::{
    chain::Chain,
    error::Error,
    io::{
        error::{named, rename},
        sys::positional,
    },
    pool::{Class, Receiver},
};

/// All that a thread has open, and where it reads to.
pub(super) struct Readings {
    /// Or why it could not be opened.
    open: HashMap<FileNo, io::Result<Reading>>,
    receiver: Receiver,
    /// What a stream brought, before it is copied to the pool's buffers.
    scratch: Vec<u8>,
    patience: Patience,
}

enum Reading {
    File(Whole),
    Stream(Stream),
}

/// A regular file.
struct Whole {
    file: File,
    shown: String,
    len: u64,
    modified: Option<SystemTime>,
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
    pub(super) fn new(receiver: Receiver, patience: Patience) -> Self {
        Self { open: HashMap::new(), receiver, scratch: Vec::new(), patience }
    }

    /// A file that was just opened; it must be a regular one.
    pub(super) fn file(
        &mut self,
        no: FileNo,
        file: io::Result<File>,
        shown: String,
    ) -> io::Result<Attributes> {
        let opened = file.and_then(|file| Reading::open(file, shown));
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
            Some(Ok(Reading::File(whole))) => whole.read(&self.receiver, offset, len, look),
            Some(Ok(Reading::Stream(stream))) => {
                self.scratch.resize(len.max(self.scratch.len()), 0);
                let scratch = &mut self.scratch[..len];
                stream.read(&self.receiver, scratch, &self.patience, offset, look)
            }
        }
    }

    pub(super) fn close(&mut self, no: FileNo) -> io::Result<Done> {
        match self.open.remove(&no) {
            None => Err(not_open(no)),
            Some(Err(error)) => Err(error),
            Some(Ok(Reading::File(whole))) => whole.check().map(|()| Done::Closed),
            Some(Ok(Reading::Stream(_))) => Ok(Done::Closed),
        }
    }

    /// Nothing is to be read for a while.
    pub(super) fn rest(&mut self) {
        self.receiver.flush();
        self.receiver.pool().flush();
    }
}

impl Reading {
    fn open(file: File, shown: String) -> io::Result<(Self, Attributes)> {
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
        let whole = Whole { file, shown, len, modified: attributes.modified, sparse };
        Ok((Reading::File(whole), Attributes { length: Some(len), ..attributes }))
    }
}

impl Whole {
    fn read(
        &self,
        receiver: &Receiver,
        offset: u64,
        len: usize,
        look: Option<Look>,
    ) -> io::Result<Done> {
        let left = self.len.saturating_sub(offset);
        if left == 0 {
            return Ok(Done::End { offset: self.len });
        }
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.is_hole(offset, len) {
            return Ok(Done::Hole { offset, len });
        }
        let failed = |errno: i32| {
            let object = format!("of {len} bytes at {offset} of {}", self.shown);
            named("preadv", object, errno)
        };
        let Some((mut chain, class)) = first(receiver, len)? else { return Ok(Done::NoBuffers) };
        let room = match chain.reserve_from(receiver, class, len) {
            Ok(room) => room,
            Err(Error::NoBuffers { .. }) => return Ok(Done::NoBuffers),
            Err(error) => return Err(error.into()),
        };
        let read =
            positional::read_at(&self.file, offset, room).map_err(|errno| failed(errno.0))?;
        if read < len {
            return Err(self.check().err().unwrap_or_else(|| self.cut_short(offset + read as u64)));
        }
        let looked = match look {
            Some(look) => Some(look(offset, &mut chain.slices()?)),
            None => None,
        };
        Ok(Done::Read { offset, chain, looked })
    }

    fn is_hole(&self, offset: u64, len: usize) -> bool {
        if !self.sparse || len == 0 {
            return false;
        }
        match positional::next_data(&self.file, offset) {
            Ok(None) => true,
            Ok(Some(data)) => data >= offset + len as u64,
            // The file system does not tell.
            Err(_) => false,
        }
    }

    /// Whether it is as it was when it was opened.
    fn check(&self) -> io::Result<()> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|error| rename("fstat of", &self.shown, error))?;
        let (shown, now, then) = (&self.shown, metadata.len(), self.len);
        let text = match now {
            ..=u64::MAX if now < then => return Err(self.cut_short(now)),
            ..=u64::MAX if now > then => {
                format!("{shown} has grown: {now} bytes, {then} were there")
            }
            _ if metadata.modified().ok() != self.modified => {
                format!("{shown} was modified while its {then} bytes were read")
            }
            _ => return Ok(()),
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    #[cold]
    fn cut_short(&self, now: u64) -> io::Error {
        let text = format!("{} was cut short: {now} bytes, {} were there", self.shown, self.len);
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }
}

impl Stream {
    fn read(
        &mut self,
        receiver: &Receiver,
        scratch: &mut [u8],
        patience: &Patience,
        offset: u64,
        look: Option<Look>,
    ) -> io::Result<Done> {
        if offset != self.next {
            let (shown, next) = (&self.shown, self.next);
            let text = format!("read of {shown} at {offset}: it is a stream, and stands at {next}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
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
            match patience.spend(|| self.reader.read(&mut scratch[len..])) {
                Ok(0) => self.ended = true,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
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
/// in one, or else the one of which there is most. None: there are no buffers now.
fn first(receiver: &Receiver, len: usize) -> io::Result<Option<(Chain, Class)>> {
    let fits = |class: &Class| class.data_len() * receiver.lendable(*class) >= len.max(1);
    let (smaller, larger) = Class::ALL.split_at(Class::for_len(len).index());
    let largest = || smaller.iter().rev().copied().find(fits);
    let Some(class) = larger.iter().copied().find(fits).or_else(largest) else {
        let text = format!("pool `{}` cannot hold {len} bytes", receiver.pool().name());
        return Err(io::Error::new(io::ErrorKind::OutOfMemory, text));
    };
    match receiver.chain_in(class, 0) {
        Ok(chain) => Ok(Some((chain, class))),
        Err(Error::NoBuffers { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
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
    let length = metadata.is_file().then(|| metadata.len());
    let mode = metadata.permissions().mode() & 0o777;
    Attributes { length, mode, modified: metadata.modified().ok() }
}
