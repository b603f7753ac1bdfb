//! The mapping, and where in it each class of buffers lies.
//!
//! ```text
//! offset 0                                                        a multiple of 64 KiB
//! +--------------+--------------+---------------+----------------+-----------------+
//! | small mbufs  | 2 KiB        | 4 KiB         | 16 KiB         | 64 KiB clusters |
//! | of 256 bytes | clusters     | clusters      | clusters       |                 |
//! +--------------+--------------+---------------+----------------+-----------------+
//! ```
//!
//! One mapping for all, each region at a multiple of its buffers' size, so that the whole can be
//! registered with the kernel (an AF_XDP UMEM, io_uring's fixed buffers) and a buffer be named by
//! its offset.

use std::{io, ptr::NonNull};

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

use crate::class::Class;

/// The pages that a pool's memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pages {
    /// Whatever the system gives.
    #[default]
    Plain,
    /// Transparent huge pages: madvise(2) with MADV_HUGEPAGE, which asks the system to use them as
    /// far as it finds any. Where it does not allow them, the pool falls back to plain ones with a
    /// warning event, and [`crate::pool::PoolStats::pages`] says so.
    Transparent,
    /// Explicit huge pages: mmap(2) with MAP_HUGETLB. Where the system has too few, the pool falls
    /// back to transparent ones, in the same way.
    Huge,
}

/// Where the regions of the classes start, and how long the whole is, in bytes. That of the small
/// mbufs is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) offsets: [usize; 5],
    pub(crate) len: usize,
}

impl Layout {
    /// The numbers of a class's buffers: their offsets in the mapping, in units of their size.
    pub(crate) fn indices(&self, class: Class, count: usize) -> std::ops::Range<u32> {
        let first = (self.offsets[class.index()] >> class.shift()) as u32;
        first..first + count as u32
    }

    /// The layout of so many buffers of each class, or `None` where it overflows the address space
    /// or a class has more buffers than a 32-bit index can name.
    pub(crate) fn new(counts: [usize; 5]) -> Option<Layout> {
        let mut offsets = [0; 5];
        let mut end = 0usize;
        for class in Class::ALL {
            let count = counts[class.index()];
            let start = end.checked_next_multiple_of(class.size())?;
            offsets[class.index()] = start;
            end = start.checked_add(count.checked_mul(class.size())?)?;
            // A buffer's number is its offset in units of its size.
            u32::try_from(end >> class.shift()).ok()?;
        }
        // A mapping is never empty, and Rust objects stay below isize::MAX.
        let len = end.max(4096);
        isize::try_from(len).ok()?;
        Some(Layout { offsets, len })
    }
}

/// The mapping itself. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    pages: Pages,
    /// Owns the mapping; only reached through `base`.
    _map: MmapRaw,
}

// SAFETY: the mapping is private anonymous memory that any thread may use; who may touch which
// bytes of it is decided by who owns a buffer, not by who has the mapping.
unsafe impl Send for Memory {}
// SAFETY: as above; `Memory` itself offers nothing but its address.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `len` zeroed bytes.
    pub(crate) fn map(name: &str, len: usize, pages: Pages) -> io::Result<Memory> {
        const HUGE: usize = 2 << 20;
        let mut got = pages;
        let mut map = None;
        if pages == Pages::Huge {
            let rounded = len.next_multiple_of(HUGE);
            match MmapOptions::new().len(rounded).huge(Some(21)).map_anon() {
                Ok(huge) => map = Some(huge),
                Err(error) => {
                    got = Pages::Transparent;
                    tracing::warn!(pool = name, bytes = rounded, %error,
                        "no explicit huge pages; falling back to transparent ones");
                }
            }
        }
        let map = match map {
            Some(map) => map,
            None => MmapMut::map_anon(len)?,
        };
        if got == Pages::Transparent
            && let Err(error) = transparent_allowed().and_then(|()| map.advise(Advice::HugePage))
        {
            got = Pages::Plain;
            tracing::warn!(pool = name, bytes = len, %error,
                "no transparent huge pages; falling back to plain ones");
        }
        let map = MmapRaw::from(map);
        let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { base, pages: got, _map: map })
    }

    /// The first byte. Every pointer into the pool is derived from this one, so each may reach the
    /// whole of its buffer.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The pages that the system gave.
    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }
}

/// Whether the system lets this process have transparent huge pages. madvise(2) says yes even
/// where it does not.
fn transparent_allowed() -> io::Result<()> {
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")?;
    if enabled.contains("[never]") {
        return Err(io::Error::other("/sys/kernel/mm/transparent_hugepage/enabled says never"));
    }
    // SAFETY: PR_GET_THP_DISABLE takes no pointers; the other arguments must be 0 (prctl(2)).
    if unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) } == 1 {
        return Err(io::Error::other("prctl(PR_SET_THP_DISABLE) is set"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_lie_at_multiples_of_their_size() {
        let layout = Layout::new([3, 5, 7, 9, 11]).unwrap();
        for class in Class::ALL {
            assert_eq!(layout.offsets[class.index()] % class.size(), 0);
        }
        assert_eq!(layout.len, layout.offsets[4] + 11 * 65536);
    }

    #[test]
    fn sizes_that_overflow_have_no_layout() {
        assert_eq!(Layout::new([usize::MAX, 0, 0, 0, 0]), None);
        assert_eq!(Layout::new([0, 0, 0, 0, 1 << 32]), None);
        let most = u32::MAX as usize;
        assert!(Layout::new([0, 0, 0, 0, most]).is_some());
        assert!(Layout::new([0, 0, 0, 0, 0]).is_some());
    }
}
