//! Chains into a file.

use std::{fmt, fs::File, io, os::unix::fs::OpenOptionsExt, path::Path};

use memmap2::{Advice, MmapMut};

use crate::{
    chain::Chain,
    io::{Sent, Sink, error::rename, sys::positional},
    queue::Queue,
};

/// What a mapping begins and ends at a multiple of, on every machine that Linux runs on.
const PAGE: usize = 64 << 10;
/// What is reserved and mapped at once, unless told.
const WINDOW: usize = 8 << 20;

/// How a [`FileSink`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SinkKind {
    /// By pwritev(2). The faster one on every file system that was measured.
    #[default]
    Pwritev,
    /// By copying into a mapping, for which room was reserved by fallocate(2). Where the file system
    /// has no fallocate, the sink goes over to `Pwritev`.
    Mapped,
}

/// Keeps chains in a file of its own, at any offsets.
///
/// The length need not be known beforehand: [`finish`](FileSink::finish) cuts the file to it. What
/// is never written is a hole, which reads as zeroes (where the mapping reserved room around it,
/// one that takes room).
///
/// ```
/// use mbuf::{Pool, io::{FileSink, SinkKind}};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("new");
/// let pool = Pool::with_memory(1 << 20)?;
/// let mut sink = FileSink::create(&path, SinkKind::Mapped)?;
/// sink.write_at(6, &pool.chain_from(b"world")?)?;
/// sink.write_at(0, &pool.chain_from(b"hello ")?)?;
/// assert_eq!(sink.len(), 11);
/// sink.finish(11, false)?;
/// assert_eq!(std::fs::read(&path)?, b"hello world");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FileSink {
    file: File,
    path: Box<Path>,
    kind: SinkKind,
    /// Bytes: a multiple of `PAGE`.
    window: usize,
    populate: bool,
    mapped: Option<Window>,
    /// One more than the highest byte that was written.
    len: u64,
    /// Where the next chain of a queue goes.
    position: u64,
}

/// A part of the file that is mapped. Invariant: there is room for all of it.
struct Window {
    start: u64,
    map: MmapMut,
}

/// A write that was not completed.
#[derive(Debug)]
pub struct WriteError {
    /// Bytes at the front of the chain that are in the file.
    pub written: usize,
    /// Why the others are not, with the call, the path and the numbers.
    pub error: io::Error,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (after {} bytes)", self.error, self.written)
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> io::Error {
        error.error
    }
}

impl FileSink {
    /// Creates the file at `path`, which must not exist, for its owner only (O_EXCL, mode 0600).
    ///
    /// # Errors
    /// What the system says, as `open of PATH: ...`.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let path = std::env::current_exe()?;
    /// let error = FileSink::create(&path, SinkKind::Pwritev).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn create(path: &Path, kind: SinkKind) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(path).map_err(|error| rename("open of", path.display(), error))?;
        Ok(Self::from_new(file, path, kind))
    }

    /// Writes to a file that the caller has created itself, with O_EXCL and mode 0600, or with
    /// O_TMPFILE, and opened for reading and writing; `path` is for messages.
    ///
    /// That it is nobody else's is what makes mapping it sound: were it cut short by another
    /// process, a write through the mapping would end this one with SIGBUS. (A program of the same
    /// user, or root, that goes looking for the file can still do that.)
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Mapped);
    /// assert_eq!((sink.kind(), sink.len()), (SinkKind::Mapped, 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_new(file: File, path: &Path, kind: SinkKind) -> Self {
        Self {
            file,
            path: path.into(),
            kind,
            window: WINDOW,
            populate: false,
            mapped: None,
            len: 0,
            position: 0,
        }
    }

    /// How many bytes are reserved and mapped at once (8 MiB unless told), rounded up to 64 KiB.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Mapped);
    /// assert!(sink.window(1 << 20).is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn window(mut self, bytes: usize) -> Self {
        self.window = bytes.max(1).next_multiple_of(PAGE);
        self
    }

    /// Whether the pages of a window are made present at once (MADV_POPULATE_WRITE, Linux 5.14)
    /// rather than one by one as they are touched. Not unless told.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Mapped);
    /// assert!(sink.populate(true).is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn populate(mut self, yes: bool) -> Self {
        self.populate = yes;
        self
    }

    /// Writes the whole chain at `offset`. Copies nothing but into the file; may block on the disk.
    ///
    /// # Errors
    /// The disk is full (ENOSPC, EDQUOT), the file would be too large (EFBIG), or what else the
    /// system says, and how many bytes were written before.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let file = tempfile::tempfile()?;
    /// let mut sink = FileSink::from_new(file, "scratch".as_ref(), SinkKind::Pwritev);
    /// let error = sink.write_at(i64::MAX as u64, &pool.chain_from(b"ab")?).unwrap_err();
    /// assert_eq!((error.written, error.error.kind()), (0, std::io::ErrorKind::FileTooLarge));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_at(&mut self, offset: u64, chain: &Chain) -> Result<(), WriteError> {
        let mut written = 0;
        if self.kind == SinkKind::Mapped {
            match self.copy_in(offset, chain, &mut written) {
                Ok(()) => {}
                Err(error) => {
                    self.grow(offset, written);
                    return Err(WriteError { written, error });
                }
            }
        }
        if self.kind == SinkKind::Pwritev
            && let Err((written, errno)) = positional::write_at(&self.file, offset, chain, written)
        {
            self.grow(offset, written);
            let at = offset.saturating_add(written as u64);
            let object = format!("{} at {at}", self.path.display());
            return Err(WriteError { written, error: rename("pwritev to", object, errno.into()) });
        }
        self.grow(offset, chain.len());
        Ok(())
    }

    /// One more than the highest byte that was written.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Pwritev);
    /// assert_eq!(sink.len(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Pwritev);
    /// assert!(sink.is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The path, as it was given.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Pwritev);
    /// assert_eq!(sink.path(), "scratch");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it writes now: a mapping falls back to pwritev(2) where there is no fallocate(2).
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Pwritev);
    /// assert_eq!(sink.kind(), SinkKind::Pwritev);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn kind(&self) -> SinkKind {
        self.kind
    }

    /// What was written is on the disk when this returns: msync(2) and fdatasync(2).
    ///
    /// # Errors
    /// What the system says; what was written may then be lost.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let file = tempfile::tempfile()?;
    /// let mut sink = FileSink::from_new(file, "scratch".as_ref(), SinkKind::Mapped);
    /// sink.write_at(0, &pool.chain_from(b"precious")?)?;
    /// sink.sync()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sync(&self) -> io::Result<()> {
        if let Some(window) = &self.mapped {
            window.map.flush().map_err(|error| self.named("msync of", error))?;
        }
        self.file.sync_data().map_err(|error| self.named("fdatasync of", error))
    }

    /// Cuts the file to `len` bytes, which may be more than were written, and gives it back; with
    /// `sync`, all of it is on the disk then (fsync(2)).
    ///
    /// # Errors
    /// What the system says, as `ftruncate of PATH: ...` or `fsync of PATH: ...`.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Pwritev);
    /// assert_eq!(sink.finish(1 << 30, true)?.metadata()?.len(), 1 << 30); // one hole
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn finish(mut self, len: u64, sync: bool) -> io::Result<File> {
        self.mapped = None;
        self.file.set_len(len).map_err(|error| self.named("ftruncate of", error))?;
        if sync {
            self.file.sync_all().map_err(|error| self.named("fsync of", error))?;
        }
        Ok(self.file)
    }

    /// Copies what fits into windows, one after another, and counts it.
    fn copy_in(&mut self, offset: u64, chain: &Chain, written: &mut usize) -> io::Result<()> {
        while *written < chain.len() {
            let at = offset.checked_add(*written as u64);
            let Some(at) = at.filter(|&at| at < i64::MAX as u64) else {
                let object = format!("{} at {offset}", self.path.display());
                return Err(rename(
                    "fallocate of",
                    object,
                    io::Error::from_raw_os_error(libc::EFBIG),
                ));
            };
            let Some(room) = self.room_at(at, chain.len() - *written)? else { return Ok(()) };
            let n = room.len().min(chain.len() - *written);
            chain.peek(*written, &mut room[..n]).map_err(io::Error::from)?;
            *written += n;
        }
        Ok(())
    }

    /// Room at an offset, for as much as possible of `need` bytes, but not none. `None`: there is no
    /// fallocate here, and nothing is mapped any more.
    fn room_at(&mut self, at: u64, need: usize) -> io::Result<Option<&mut [u8]>> {
        let inside =
            |window: &Window| (window.start..window.start + window.map.len() as u64).contains(&at);
        if !self.mapped.as_ref().is_some_and(inside) {
            self.mapped = None;
            match self.reserve(at, need)? {
                Some(window) => self.mapped = Some(window),
                None => {
                    tracing::debug!(path = %self.path.display(), "no fallocate: pwritev instead");
                    self.kind = SinkKind::Pwritev;
                }
            }
        }
        Ok(self.mapped.as_mut().map(|window| &mut window.map[(at - window.start) as usize..]))
    }

    /// Reserves and maps a window, or, where the disk has no room for a whole one, what is needed,
    /// or part of that.
    fn reserve(&self, at: u64, need: usize) -> io::Result<Option<Window>> {
        let within = (at % self.window as u64) as usize;
        let whole = (at - within as u64, self.window);
        let before = at as usize % PAGE;
        let mut less = (at - before as u64, before + need.min(self.window - within));
        let mut tried = positional::fallocate(&self.file, whole.0, whole.1).map(|()| whole);
        while let Err(errno) = tried {
            match errno.0 {
                libc::EOPNOTSUPP | libc::ENOSYS => return Ok(None),
                libc::ENOSPC | libc::EDQUOT | libc::EFBIG if less.1 > before => {
                    tried = positional::fallocate(&self.file, less.0, less.1).map(|()| less);
                    let half = (less.1 - before) / 2;
                    // Not less than a page of the smallest size, of which a disk has all or nothing.
                    less.1 = if half < 4096 { before } else { before + half };
                }
                _ => {
                    let object = format!("{} at {at}", self.path.display());
                    return Err(rename("fallocate of", object, errno.into()));
                }
            }
        }
        let Ok((start, len)) = tried else { return Ok(None) };
        let map = positional::map_own(&self.file, start, len)
            .map_err(|error| self.named("mmap of", error))?;
        // Advice only: without it the pages come one by one.
        if self.populate && map.advise(Advice::PopulateWrite).is_err() {
            tracing::debug!(path = %self.path.display(), "madvise(MADV_POPULATE_WRITE) is refused");
        }
        Ok(Some(Window { start, map }))
    }

    fn grow(&mut self, offset: u64, written: usize) {
        if written > 0 {
            self.len = self.len.max(offset + written as u64);
        }
    }

    fn named(&self, call: &'static str, error: io::Error) -> io::Error {
        rename(call, self.path.display(), error)
    }
}

impl Sink for FileSink {
    /// Appends the chains, one after another; never answers `WouldBlock`.
    ///
    /// # Errors
    /// As [`FileSink::write_at`]: what was not written is still in the queue.
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent> {
        while let Some(chain) = queue.front() {
            let position = self.position;
            match self.write_at(position, chain) {
                Ok(()) => {
                    self.position += chain.len() as u64;
                    queue.pop();
                }
                Err(WriteError { written, error }) => {
                    self.position += written as u64;
                    queue.advance(written)?;
                    return Err(error);
                }
            }
        }
        Ok(Sent::All)
    }
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink")
            .field("path", &self.path)
            .field("kind", &self.kind)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
