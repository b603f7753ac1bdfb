//! Chains into a file.

use std::{fmt, fs::File, io, os::unix::fs::OpenOptionsExt, path::Path};

use super::window::{NoWindow, Windows};
use crate::{
    chain::Chain,
    io::{
        Sent, Sink,
        error::{named, rename},
        sys::positional,
    },
    queue::Queue,
};

/// What is reserved and mapped at once, at most, unless told.
const WINDOW: usize = 32 << 20;

/// How a [`FileSink`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SinkKind {
    /// By pwritev(2). The faster one on tmpfs, and for small files everywhere.
    #[default]
    Pwritev,
    /// By copying into a mapping, for which room was reserved by fallocate(2), window by window. Where
    /// the file system has no fallocate, the sink goes over to `Pwritev`. Chains that are opaque, and
    /// what fits on a disk that is nearly full, are written by pwritev(2) all the same.
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
    windows: Windows,
    /// One more than the highest byte that was written.
    len: u64,
    /// Where the next chain of a queue goes.
    position: u64,
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
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path).map_err(|error| rename("open of", path.display(), error))?;
        Ok(Self::from_new(file, path, kind))
    }

    /// Writes to a file that the caller has created itself, with O_EXCL and mode 0600, or with
    /// O_TMPFILE, and opened for reading and writing; `path` is for messages.
    ///
    /// That it is nobody else's is what makes mapping it safe: were it cut short meanwhile, a copy
    /// into the mapping would end this process with SIGBUS. What remains: whoever holds a clone of
    /// the file, and a program of the same user, or root, that goes looking for it, can still do
    /// that; and so can a disk that fails, or a file system that reserves room without keeping it
    /// (one that copies on write), in the moment between the pages' being made present and their
    /// being written to. `Pwritev` knows nothing of this kind. Bytes are copied by address, so
    /// nothing worse than SIGBUS comes of it.
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
            windows: Windows::new(WINDOW, true),
            len: 0,
            position: 0,
        }
    }

    /// How many bytes are reserved and mapped at once, at most (32 MiB unless told), rounded up to
    /// 64 KiB. The first window is as large as the first chain, and each that goes on after the last
    /// one twice as large as that, so a file takes no more than about twice its room meanwhile.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Mapped);
    /// assert!(sink.window(1 << 20).is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn window(mut self, bytes: usize) -> Self {
        self.windows.set_most(bytes);
        self
    }

    /// Whether the pages of a window are made present at once (MADV_POPULATE_WRITE, Linux 5.14)
    /// rather than one by one as they are touched. They are unless told: that is faster but for files
    /// of a few pages, and a page that cannot be had is found out by it and not by SIGBUS.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Mapped);
    /// assert!(sink.populate(false).is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn populate(mut self, yes: bool) -> Self {
        self.windows.populate = yes;
        self
    }

    /// Writes the whole chain at `offset`. Copies nothing but into the file; may block on the disk.
    ///
    /// # Errors
    /// The disk is full (ENOSPC, EDQUOT), the file would be too large (EFBIG), or what else the
    /// system says, as `pwritev to PATH at OFFSET: ...`, and how many bytes were written before.
    /// (A limit on the length of files, RLIMIT_FSIZE, ends a process that does not ignore SIGXFSZ.)
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
        if chain.is_empty() {
            return Ok(());
        }
        if offset.checked_add(chain.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            let error = self.too_far(offset, chain.len());
            return Err(WriteError { written: 0, error });
        }
        let mut written = 0;
        let mut result = Ok(());
        if self.kind == SinkKind::Mapped {
            result = self.copy_in(offset, chain, &mut written);
        }
        if result.is_ok() && written < chain.len() {
            result = self.write_rest(offset, chain, &mut written);
        }
        if written > 0 {
            self.len = self.len.max(offset + written as u64);
        }
        result.map_err(|error| WriteError { written, error })
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

    /// Where the next chain of a queue goes: one more than the last byte that [`send`](Sink::send)
    /// has written.
    ///
    /// ```
    /// use mbuf::{Pool, Queue, io::{FileSink, Sink, SinkKind}};
    ///
    /// let file = tempfile::tempfile()?;
    /// let mut sink = FileSink::from_new(file, "scratch".as_ref(), SinkKind::Pwritev);
    /// let mut queue = Queue::new(16, 1 << 20);
    /// queue.push(Pool::with_memory(1 << 20)?.chain_from(b"hello")?).map_err(mbuf::Error::from)?;
    /// sink.send(&mut queue)?;
    /// assert_eq!(sink.position(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn position(&self) -> u64 {
        self.position
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
        self.windows.flush().map_err(|error| self.named("msync of", error))?;
        positional::sync(&self.file, true).map_err(|error| self.named("fdatasync of", error))
    }

    /// Cuts the file to `len` bytes, which may be more than were written, and gives it back; with
    /// `sync`, all of it is on the disk then (fsync(2)).
    ///
    /// # Errors
    /// What the system says, as `ftruncate to BYTES of PATH: ...` or `fsync of PATH: ...`.
    ///
    /// ```
    /// use mbuf::io::{FileSink, SinkKind};
    ///
    /// let sink = FileSink::from_new(tempfile::tempfile()?, "scratch".as_ref(), SinkKind::Pwritev);
    /// assert_eq!(sink.finish(1 << 30, true)?.metadata()?.len(), 1 << 30); // one hole
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn finish(mut self, len: u64, sync: bool) -> io::Result<File> {
        self.windows.unmap();
        positional::set_len(&self.file, len).map_err(|error| {
            rename("ftruncate", format!("to {len} bytes of {}", self.path.display()), error)
        })?;
        if sync {
            positional::sync(&self.file, false).map_err(|error| self.named("fsync of", error))?;
        }
        Ok(self.file)
    }

    /// Copies into windows, one after another, and counts what was copied. The rest, if any, is to be
    /// written by calls: an opaque chain, which only the kernel reads, or what a full disk still has
    /// room for.
    fn copy_in(&mut self, offset: u64, chain: &Chain, written: &mut usize) -> io::Result<()> {
        let Ok(slices) = chain.slices() else { return Ok(()) };
        for mut slice in slices {
            while !slice.is_empty() {
                let (at, need) = (offset + *written as u64, chain.len() - *written);
                let room = match self.windows.at(&self.file, &self.path, at, need) {
                    Ok(room) => room,
                    Err(NoWindow::Full) => return Ok(()),
                    Err(NoWindow::Failed(error)) => return Err(error),
                    Err(NoWindow::Unsupported(why)) => {
                        tracing::debug!(path = %self.path.display(), why, "pwritev from here on");
                        self.windows.unmap();
                        self.kind = SinkKind::Pwritev;
                        return Ok(());
                    }
                };
                let copied = room.copy(at, slice);
                *written += copied;
                slice = &slice[copied..];
            }
        }
        Ok(())
    }

    /// Writes by calls what is not written yet.
    fn write_rest(&self, offset: u64, chain: &Chain, written: &mut usize) -> io::Result<()> {
        let (done, errno) = match positional::write_at(&self.file, offset, chain, *written) {
            Ok(()) => (chain.len(), None),
            Err((done, errno)) => (done, Some(errno)),
        };
        *written = done;
        let Some(errno) = errno else { return Ok(()) };
        let object = format!("{} at {}", self.path.display(), offset + done as u64);
        Err(rename("pwritev to", object, errno.into()))
    }

    /// No file is so long, and no call is needed to know it.
    #[cold]
    fn too_far(&self, offset: u64, bytes: usize) -> io::Error {
        let object = format!("{} at {offset} of {bytes} bytes", self.path.display());
        named("pwritev to", object, libc::EFBIG)
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
