//! Owners of external storage.

use std::{
    io,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use mbuf::chain::{ExternalMut, Opaque};

/// Bytes that may be written through a chain.
#[derive(Debug)]
pub struct Writable(pub Vec<u8>);

// SAFETY: a `Vec` keeps its bytes on the heap, and nobody reaches them while it is owned.
unsafe impl ExternalMut for Writable {
    fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Memory without any access rights, with a file behind it in a manner of speaking: whoever reads
/// it other than by `read_at` dies of SIGSEGV.
#[derive(Debug)]
pub struct Unreadable {
    file: Vec<u8>,
    memory: NonNull<u8>,
    len: usize,
    /// Whether reading the file fails.
    pub broken: Arc<AtomicBool>,
}

impl Unreadable {
    pub fn new(file: &[u8]) -> Self {
        let (access, flags) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address that the system chooses.
        let memory =
            unsafe { libc::mmap(ptr::null_mut(), file.len().max(1), access, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        let memory = NonNull::new(memory.cast()).expect("not at 0");
        Self { file: file.to_vec(), memory, len: file.len(), broken: Arc::default() }
    }

    /// Someone cuts the file short, while it is mapped.
    pub fn shrink(&mut self, len: usize) {
        self.file.truncate(len);
    }
}

impl Drop for Unreadable {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nobody uses any more.
        let done = unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len.max(1)) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }
}

// SAFETY: the memory is never touched, and belongs to this value.
unsafe impl Send for Unreadable {}
// SAFETY: as above.
unsafe impl Sync for Unreadable {}

// SAFETY: the mapping lives as long as this value, at the same place.
unsafe impl Opaque for Unreadable {
    fn as_ptr(&self) -> *const u8 {
        self.memory.as_ptr()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.broken.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let bytes = self.file.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}
