//! Room in a file, mapped to be written to.

use std::{fs::File, io, ptr};

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::{Errno, positional};
use crate::io::faults::Call;

/// A part of a file that the disk has room for, and that is mapped.
///
/// Nobody ever borrows its bytes: they are only copied to, by address, so whatever else is done to
/// the file meanwhile races with no reference. Were the file cut under it, a copy would end the
/// process with SIGBUS; that is why it must be the caller's own ([`FileSink::from_new`]).
///
/// [`FileSink::from_new`]: crate::io::FileSink::from_new
#[derive(Debug)]
pub(crate) struct Room {
    start: u64,
    /// Invariant: readable and writable, and shared with the file.
    map: MmapRaw,
}

/// Why there is no room.
#[derive(Debug)]
pub(crate) enum NoRoom {
    /// fallocate(2) refused.
    Reserve(Errno),
    /// mmap(2) refused.
    Map(io::Error),
}

impl Room {
    /// Reserves `len` bytes at `start`, a multiple of the page's size, and maps them. The file may
    /// become longer by it.
    pub(crate) fn new(file: &File, start: u64, len: usize) -> Result<Self, NoRoom> {
        positional::fallocate(file, start, len).map_err(NoRoom::Reserve)?;
        let map = positional::counted(Call::Mmap, file, len, || {
            MmapOptions::new().offset(start).len(len).map_raw(file)
        });
        let map = map.map_err(NoRoom::Map)?;
        Ok(Self { start, map })
    }

    /// Whether the byte at this offset of the file is in it.
    pub(crate) fn contains(&self, at: u64) -> bool {
        (self.start..self.end()).contains(&at)
    }

    /// The offset in the file at which it ends.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.map.len() as u64
    }

    /// Copies to the offset `at` of the file, which must be in it, what fits of `bytes`. Answers
    /// how many did.
    pub(crate) fn copy(&mut self, at: u64, bytes: &[u8]) -> usize {
        assert!(self.contains(at), "{at} is not in {}..{}", self.start, self.end());
        let from = (at - self.start) as usize;
        let n = bytes.len().min(self.map.len() - from);
        // SAFETY: `contains` says that `from` is less than the mapping's length.
        let to = unsafe { self.map.as_mut_ptr().add(from) };
        // SAFETY: `n` is not more than `bytes` has, nor than the mapping has from `from` on, which
        // is writable (the field's invariant) and lives as long as `self`. The two do not overlap:
        // no reference to the mapping is ever made, and `bytes` is one to something.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, n) };
        n
    }

    /// Makes its pages present at once (MADV_POPULATE_WRITE, Linux 5.14) of its `file`. EFAULT: touching them
    /// would have been a SIGBUS. EINVAL: this kernel does not know it.
    pub(crate) fn populate(&self, file: &File) -> io::Result<()> {
        positional::counted(Call::Madvise, file, self.map.len(), || {
            self.map.advise(Advice::PopulateWrite)
        })
    }

    /// msync(2).
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.map.flush()
    }
}
