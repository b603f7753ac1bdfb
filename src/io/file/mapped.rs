//! A mapped file as storage for chains.

use std::{fmt, fs::File, io, path::Path, sync::Arc};

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::io::{error::rename, sys};

/// A file that is mapped to be sent: [`Pool::attach_opaque`](crate::Pool::attach_opaque) makes
/// chains over it, which `writev` sends without copying.
///
/// Anyone may change or cut the file meanwhile, so its bytes are never seen as a slice: only system
/// calls read the mapping, and what is wanted in user space is copied by pread(2). Where the file
/// has become shorter, a send fails with EFAULT (there is no SIGBUS), and a read says by how much.
/// Within the last page that the file still has, the kernel sends zeros instead: whoever must know
/// asks [`MappedFile::check`] at the end of the transfer.
///
/// A clone is another handle of the same mapping, so that one file can be sent in several chains.
///
/// ```
/// use mbuf::{Pool, io::MappedFile};
///
/// let path = std::env::current_exe()?; // any file
/// let file = MappedFile::open(&path)?;
/// let pool = Pool::with_memory(1 << 20)?;
/// let chain = pool.attach_opaque(file.clone(), 0..4)?;
/// let mut magic = [0; 4];
/// chain.peek(0, &mut magic)?; // by pread(2)
/// assert_eq!(&magic, b"\x7fELF");
/// assert!(chain.slices().is_err());
/// file.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct MappedFile(Arc<Mapping>);

struct Mapping {
    map: MmapRaw,
    file: File,
    path: Box<Path>,
    len: usize,
}

impl MappedFile {
    /// Maps the whole file at `path`, to be read once from front to back.
    ///
    /// # Errors
    /// What the system says, as `open of PATH: ...` or `mmap of PATH: ...`; `InvalidInput` for what
    /// is not a regular file.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use mbuf::io::MappedFile;
    ///
    /// let error = MappedFile::open(Path::new("/")).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput); // a folder
    /// ```
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = super::open(path, "mmap of")?;
        Self::from_file(file, path)
    }

    /// Maps the whole of an open file; `path` is for messages.
    ///
    /// # Errors
    /// As [`MappedFile::open`].
    pub(super) fn from_file(file: File, path: &Path) -> io::Result<Self> {
        let named = |call| move |error| rename(call, path.display(), error);
        let metadata = file.metadata().map_err(named("fstat of"))?;
        let len = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        let map = MmapOptions::new().len(len).map_raw_read_only(&file).map_err(named("mmap of"))?;
        // Advice only: a kernel without it sends as well.
        if len > 0 && map.advise(Advice::Sequential).is_err() {
            tracing::debug!(path = %path.display(), "madvise(MADV_SEQUENTIAL) is refused");
        }
        Ok(Self(Arc::new(Mapping { map, file, path: path.into(), len })))
    }

    /// The length of the file when it was mapped, in bytes.
    ///
    /// ```
    /// use mbuf::io::MappedFile;
    ///
    /// let path = std::env::current_exe()?; // any file
    /// assert_eq!(MappedFile::open(&path)?.len() as u64, path.metadata()?.len());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether the file was empty when it was mapped.
    ///
    /// ```
    /// use mbuf::io::MappedFile;
    ///
    /// assert!(!MappedFile::open(&std::env::current_exe()?)?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The file's path, as it was given.
    ///
    /// ```
    /// use mbuf::io::MappedFile;
    ///
    /// let path = std::env::current_exe()?;
    /// assert_eq!(MappedFile::open(&path)?.path(), path);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether the file still has all that was mapped. One fstat(2).
    ///
    /// # Errors
    /// `UnexpectedEof` if it was cut short, with the path and the numbers.
    ///
    /// ```
    /// use mbuf::io::MappedFile;
    ///
    /// let file = MappedFile::open(&std::env::current_exe()?)?;
    /// assert!(file.check().is_ok()); // nobody has changed it meanwhile
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&self) -> io::Result<()> {
        let metadata = self.0.file.metadata();
        let now = metadata.map_err(|error| rename("fstat of", self, error))?.len();
        if now < self.0.len as u64 { Err(self.cut_short(now)) } else { Ok(()) }
    }

    /// Copies bytes out by pread(2).
    ///
    /// # Errors
    /// `UnexpectedEof` if the file was cut short, with the path and the numbers; what the system
    /// says otherwise, as `pread of PATH: ...`.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        sys::pread_exact(&self.0.file, out, offset).map_err(|error| {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                return rename("pread of", self, error);
            }
            self.check().err().unwrap_or(error)
        })
    }

    /// The first byte of the mapping.
    pub(in crate::io) fn as_ptr(&self) -> *const u8 {
        self.0.map.as_ptr()
    }

    #[cold]
    fn cut_short(&self, now: u64) -> io::Error {
        let text = format!("{self} was cut short: {now} bytes, {} were mapped", self.0.len);
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }
}

impl fmt::Display for MappedFile {
    /// The path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.path.display().fmt(f)
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile").field("path", &self.0.path).field("len", &self.0.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;
    use crate::{
        error::Error,
        io::{
            Sent, Sink, Stream, errno,
            tests::{pattern, pool, queue},
        },
    };

    fn temporary(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_file_is_sent_in_pieces_among_other_bytes() {
        let bytes = pattern(1, 20_000);
        let file = temporary(&bytes);
        let mapped = MappedFile::open(file.path()).unwrap();
        assert_eq!((mapped.len(), mapped.is_empty()), (20_000, false));
        let pool = pool();
        let mut queue = queue();
        let mut first = pool.attach_opaque(mapped.clone(), 0..5_000).unwrap();
        first.prepend_slice(b"header").unwrap();
        queue.push(first).unwrap();
        queue.push(pool.attach_opaque(mapped.clone(), 5_000..).unwrap()).unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        let mut stream = Stream::from_std_unix(here).unwrap();
        assert_eq!(stream.send(&mut queue).unwrap(), Sent::All);
        let mut got = vec![0; 20_006];
        there.read_exact(&mut got).unwrap();
        assert_eq!(&got[..6], b"header");
        assert!(got[6..] == bytes);
        mapped.check().unwrap();
        assert_eq!(pool.stats().in_use(), 0);
        assert_eq!(Arc::strong_count(&mapped.0), 1, "the chains let go of the mapping");
    }

    #[test]
    fn a_file_that_is_cut_short_is_an_error_and_not_a_signal() {
        let bytes = pattern(2, 4 * 4096);
        let file = temporary(&bytes);
        let mapped = MappedFile::open(file.path()).unwrap();
        let pool = pool();
        let mut queue = queue();
        queue.push(pool.attach_opaque(mapped.clone(), ..).unwrap()).unwrap();
        file.as_file().set_len(2 * 4096).unwrap();

        let (here, mut there) = UnixStream::pair().unwrap();
        let mut stream = Stream::from_std_unix(here).unwrap();
        let error = stream.send(&mut queue).unwrap_err();
        assert_eq!(errno(&error), Some(libc::EFAULT));
        assert!(error.to_string().contains("EFAULT"), "{error}");
        // What was taken before is the file's.
        let sent = bytes.len() - queue.bytes();
        assert!(sent <= 2 * 4096);
        drop(stream);
        let mut got = Vec::new();
        there.read_to_end(&mut got).unwrap();
        assert!(got[..] == bytes[..sent]);

        let error = mapped.check().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let name = file.path().display();
        let expected = format!("{name} was cut short: 8192 bytes, 16384 were mapped");
        assert_eq!(error.to_string(), expected);
        let mut byte = [0];
        mapped.read_at(8_191, &mut byte).unwrap();
        assert_eq!(byte[0], bytes[8_191]);
        assert_eq!(mapped.read_at(8_192, &mut byte).unwrap_err().to_string(), expected);

        let chain = queue.pop().unwrap();
        let last = chain.len() - 1;
        assert!(matches!(chain.peek(last, &mut byte), Err(Error::Io { .. })));
        drop(chain);
        assert_eq!(pool.stats().in_use(), 0);
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = MappedFile::open(directory.path()).unwrap_err();
        assert!(error.to_string().ends_with("not a regular file"), "{error}");
        let missing = directory.path().join("missing");
        let error = MappedFile::open(&missing).unwrap_err();
        assert_eq!(errno(&error), Some(libc::ENOENT));
        assert!(error.to_string().starts_with(&format!("open of {}", missing.display())));
        let empty = MappedFile::open(temporary(b"").path()).unwrap();
        assert!(empty.is_empty());
        let pool = pool();
        let chain = pool.attach_opaque(empty, ..).unwrap();
        assert_eq!((chain.len(), chain.segments()), (0, 0));
    }
}
