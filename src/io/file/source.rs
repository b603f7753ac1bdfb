//! Chains out of a file.

use std::{
    fmt,
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::{MappedFile, refuse_special};
use crate::{
    chain::Chain,
    error::Error,
    io::{Received, Source, error::rename, sys::positional},
    pool::{Class, Receiver},
    queue::Batch,
};

/// What a source brings in one chain, unless told.
const CHUNK: usize = 256 << 10;

/// How a [`FileSource`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceKind {
    /// By preadv(2), into buffers of the pool: the bytes can be looked at.
    #[default]
    Preadv,
    /// By mapping the file: opaque segments, which a stream sends without copying them, and which
    /// nobody can look at but by a call.
    Mapped,
}

/// Brings the bytes of a regular file.
///
/// ```
/// use mbuf::{Pool, io::{FileSource, SourceKind}};
///
/// let path = std::env::current_exe()?; // any file
/// let pool = Pool::with_memory(1 << 20)?;
/// let source = FileSource::open(&path, SourceKind::Preadv)?;
/// let chain = source.read_at(&pool.receiver(), 1, 3)?.expect("the pool is full");
/// assert_eq!(chain.to_vec()?, b"ELF");
/// source.check()?; // nobody has changed it meanwhile
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FileSource {
    file: File,
    path: Box<Path>,
    mapped: Option<MappedFile>,
    /// What the file was like when it was opened.
    then: State,
    chunk: usize,
    position: u64,
}

/// What a file holds from a place on, as [`FileSource::extent`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Bytes, up to this offset.
    Data(u64),
    /// Nothing, up to this offset: it reads as zeroes.
    Hole(u64),
    /// Nothing more: the file is no longer than that.
    End,
}

/// What tells whether a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    len: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

impl FileSource {
    /// Opens the file at `path`. A FIFO without a writer does not block: it is refused.
    ///
    /// # Errors
    /// What the system says, as `open of PATH: ...`; `InvalidInput` for what is not a regular file.
    ///
    /// ```
    /// use mbuf::io::{FileSource, SourceKind};
    ///
    /// let error = FileSource::open("/dev/null".as_ref(), SourceKind::Preadv).unwrap_err();
    /// assert_eq!(error.to_string(), "read of /dev/null: a device, not a regular file");
    /// ```
    pub fn open(path: &Path, kind: SourceKind) -> io::Result<Self> {
        Self::from_file(super::open(path, "read of")?, path, kind)
    }

    /// Reads a file that was opened elsewhere; `path` is for messages.
    ///
    /// # Errors
    /// As [`FileSource::open`].
    ///
    /// ```
    /// use mbuf::io::{FileSource, SourceKind};
    ///
    /// let source =
    ///     FileSource::from_file(tempfile::tempfile()?, "scratch".as_ref(), SourceKind::Mapped)?;
    /// assert!(source.is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_file(file: File, path: &Path, kind: SourceKind) -> io::Result<Self> {
        let named = |call| move |error| rename(call, path.display(), error);
        refuse_special(&file, path, "read of")?;
        let metadata = file.metadata().map_err(named("fstat of"))?;
        let mapped = match kind {
            SourceKind::Preadv => None,
            SourceKind::Mapped => {
                let again = file.try_clone().map_err(named("dup of"))?;
                Some(MappedFile::from_file(again, path)?)
            }
        };
        let then = State::of(&metadata);
        Ok(Self { file, path: path.into(), mapped, then, chunk: CHUNK, position: 0 })
    }

    /// How many bytes [`recv`](Source::recv) brings in a chain (256 KiB unless told).
    ///
    /// ```
    /// use mbuf::{Batch, io::{FileSource, Source, SourceKind}};
    ///
    /// let path = std::env::current_exe()?;
    /// let mut source = FileSource::open(&path, SourceKind::Preadv)?.chunk(100);
    /// let mut batch = Batch::new();
    /// source.recv(&mbuf::Pool::with_memory(1 << 20)?.receiver(), &mut batch)?;
    /// assert_eq!(batch.pop().unwrap().len(), 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn chunk(mut self, bytes: usize) -> Self {
        self.chunk = bytes.max(1);
        self
    }

    /// The length when it was opened, in bytes.
    ///
    /// ```
    /// use mbuf::io::{FileSource, SourceKind};
    ///
    /// let path = std::env::current_exe()?;
    /// assert_eq!(FileSource::open(&path, SourceKind::Preadv)?.len(), path.metadata()?.len());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn len(&self) -> u64 {
        self.then.len
    }

    /// Whether it was empty when it was opened.
    ///
    /// ```
    /// use mbuf::io::{FileSource, SourceKind};
    ///
    /// assert!(!FileSource::open(&std::env::current_exe()?, SourceKind::Preadv)?.is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.then.len == 0
    }

    /// Where [`recv`](Source::recv) goes on, in bytes.
    ///
    /// ```
    /// use mbuf::io::{FileSource, SourceKind};
    ///
    /// let mut source = FileSource::open(&std::env::current_exe()?, SourceKind::Preadv)?;
    /// source.seek_to(64);
    /// assert_eq!(source.position(), 64);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Has [`recv`](Source::recv) go on at `offset`.
    ///
    /// ```
    /// use mbuf::io::{FileSource, SourceKind};
    ///
    /// let mut source = FileSource::open(&std::env::current_exe()?, SourceKind::Preadv)?;
    /// source.seek_to(u64::MAX); // beyond the end, where there is nothing
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn seek_to(&mut self, offset: u64) {
        self.position = offset;
    }

    /// The `want` bytes at `offset`, or those up to the end of the file: an empty chain beyond it.
    /// `None` if the pool has no buffers for them.
    ///
    /// By preadv(2), into the largest buffers that there are, without headroom, so that 64 KiB fit in
    /// one; or a piece of the mapping, which may still be cut when it is sent (EFAULT).
    ///
    /// # Errors
    /// The file was cut short (`UnexpectedEof`, with the numbers), or what the system says, as `preadv of PATH: ...`.
    ///
    /// ```
    /// use mbuf::{Pool, io::{FileSource, SourceKind}};
    ///
    /// let source = FileSource::open(&std::env::current_exe()?, SourceKind::Mapped)?;
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let chain = source.read_at(&pool.receiver(), 0, 4096)?.expect("the pool is full");
    /// assert!(chain.len() == 4096 && chain.slices().is_err()); // only system calls read it
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_at(
        &self,
        receiver: &Receiver,
        offset: u64,
        want: usize,
    ) -> io::Result<Option<Chain>> {
        let want = self.then.len.saturating_sub(offset).min(want as u64) as usize;
        if let Some(mapped) = self.mapped.as_ref().filter(|_| want > 0) {
            return self.attach(mapped, receiver, offset as usize, want);
        }
        let mut class =
            Class::ALL.into_iter().find(|class| class.size() >= want.clamp(2048, 65_536));
        while let Some(this) = class {
            if let Some(chain) = self.read_into(receiver, this, offset, want)? {
                return Ok(Some(chain));
            }
            class = smaller(this);
        }
        Ok(None)
    }

    /// A piece of the mapping, if the file still has it. It may be cut later: then sending fails.
    fn attach(
        &self,
        mapped: &MappedFile,
        receiver: &Receiver,
        start: usize,
        want: usize,
    ) -> io::Result<Option<Chain>> {
        let now = self.file.metadata().map_err(|error| self.named("fstat of", error))?.len();
        if now < (start + want) as u64 {
            return Err(self.cut_short(now));
        }
        // The segment's mbuf comes from the pool itself, which lends what a receiver is refused.
        if found(receiver.chain())?.is_none() {
            return Ok(None);
        }
        let chain = receiver.pool().attach_opaque(mapped.clone(), start..start + want);
        found(chain.map_err(|rejected| rejected.error))
    }

    /// Reads into buffers of one class.
    fn read_into(
        &self,
        receiver: &Receiver,
        class: Class,
        offset: u64,
        want: usize,
    ) -> io::Result<Option<Chain>> {
        let Some(mut chain) = found(receiver.chain_in(class, 0))? else { return Ok(None) };
        let Some(room) = found(chain.reserve_from(receiver, class, want))? else { return Ok(None) };
        let read = positional::read_at(&self.file, offset, room)
            .map_err(|errno| self.named("preadv of", errno.into()))?;
        if read < want {
            let now = offset + read as u64;
            return Err(self.check().err().unwrap_or_else(|| self.cut_short(now)));
        }
        Ok(Some(chain))
    }

    /// Whether there are bytes at `offset` or a hole, and up to where. Where a file system knows no
    /// holes, everything is bytes. Two lseek(2) at most.
    ///
    /// # Errors
    /// What the system says, as `lseek of PATH: ...`.
    ///
    /// ```
    /// use std::os::unix::fs::FileExt;
    ///
    /// use mbuf::io::{Extent, FileSource, SourceKind};
    ///
    /// let file = tempfile::tempfile()?;
    /// file.write_all_at(b"data", 1 << 20)?;
    /// let source = FileSource::from_file(file, "scratch".as_ref(), SourceKind::Preadv)?;
    /// assert_eq!(source.extent(1 << 20)?, Extent::Data((1 << 20) + 4));
    /// assert_eq!(source.extent((1 << 20) + 4)?, Extent::End);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn extent(&self, offset: u64) -> io::Result<Extent> {
        if offset >= self.len() {
            return Ok(Extent::End);
        }
        // It may have grown meanwhile, which is none of our business here, or been cut.
        let until = |found: Option<u64>| found.map_or(self.len(), |at| at.min(self.len()));
        match self.next_data(offset)? {
            Some(data) if data == offset => match positional::next_hole(&self.file, offset) {
                Ok(hole) => Ok(Extent::Data(until(hole))),
                Err(errno) if errno.0 == libc::EINVAL => Ok(Extent::Data(self.len())),
                Err(errno) => Err(self.named("lseek of", errno.into())),
            },
            data => Ok(Extent::Hole(until(data))),
        }
    }

    /// Where the next bytes at or after `offset` are that are not in a hole: `None` if there are
    /// none up to the end. Where a file system knows no holes, everything is bytes. One lseek(2).
    ///
    /// # Errors
    /// What the system says, as `lseek of PATH: ...`.
    ///
    /// ```
    /// use mbuf::io::{FileSource, SourceKind};
    ///
    /// let file = tempfile::tempfile()?;
    /// file.set_len(1 << 20)?;
    /// let source = FileSource::from_file(file, "scratch".as_ref(), SourceKind::Preadv)?;
    /// assert!(source.next_data(0)?.is_none_or(|at| at == 0)); // one hole, if there are holes here
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match positional::next_data(&self.file, offset) {
            Ok(found) => Ok(found),
            Err(errno) if errno.0 == libc::EINVAL => Ok((offset < self.len()).then_some(offset)),
            Err(errno) => Err(self.named("lseek of", errno.into())),
        }
    }

    /// Whether the file is as it was when it was opened: its length and the time of its last change
    /// (which file systems keep to some milliseconds). One fstat(2).
    ///
    /// # Errors
    /// `UnexpectedEof` if it was cut short, `InvalidData` if it has grown or was modified, with the
    /// path and the numbers.
    ///
    /// ```
    /// use mbuf::io::{FileSource, SourceKind};
    ///
    /// let file = tempfile::tempfile()?;
    /// file.set_len(100)?;
    /// let source = FileSource::from_file(file.try_clone()?, "log".as_ref(), SourceKind::Preadv)?;
    /// file.set_len(40)?;
    /// let error = source.check().unwrap_err();
    /// assert_eq!(error.to_string(), "log was cut short: 40 bytes, 100 were there");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn check(&self) -> io::Result<()> {
        let metadata = self.file.metadata().map_err(|error| self.named("fstat of", error))?;
        let (then, now) = (self.then, State::of(&metadata));
        let path = self.path.display();
        let text = if now.len < then.len {
            return Err(self.cut_short(now.len));
        } else if now.len > then.len {
            format!("{path} has grown: {} bytes, {} were there", now.len, then.len)
        } else if now.modified != then.modified {
            format!("{path} was modified while it was read")
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    #[cold]
    fn cut_short(&self, now: u64) -> io::Error {
        let (path, then) = (self.path.display(), self.then.len);
        let text = format!("{path} was cut short: {now} bytes, {then} were there");
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }

    fn named(&self, call: &'static str, error: io::Error) -> io::Error {
        rename(call, self.path.display(), error)
    }
}

impl Source for FileSource {
    /// Brings the next chunk; `Closed` at the end, if the file has not changed.
    ///
    /// # Errors
    /// As [`FileSource::read_at`] and [`FileSource::check`].
    fn recv(&mut self, receiver: &Receiver, batch: &mut Batch) -> io::Result<Received> {
        let mut brought = 0;
        while brought == 0 || batch.room() > 0 {
            match self.read_at(receiver, self.position, self.chunk) {
                Ok(None) if brought == 0 => return Ok(Received::NoBuffers),
                Ok(Some(chain)) if chain.is_empty() && brought == 0 => {
                    self.check()?;
                    return Ok(Received::Closed);
                }
                Ok(Some(chain)) if !chain.is_empty() => {
                    self.position += chain.len() as u64;
                    batch.push(chain);
                    brought += 1;
                }
                Err(error) if brought == 0 => return Err(error),
                // What was brought goes first; the next call finds the same again.
                Ok(_) | Err(_) => break,
            }
        }
        Ok(Received::Chains(brought))
    }
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSource")
            .field("path", &self.path)
            .field("mapped", &self.mapped.is_some())
            .field("len", &self.then.len)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// An empty pool is no error here.
fn found<T>(result: crate::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::NoBuffers { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn smaller(class: Class) -> Option<Class> {
    Class::ALL.into_iter().rev().find(|other| other.size() < class.size() && *other != Class::Small)
}
