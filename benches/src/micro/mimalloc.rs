//! A block of mimalloc's: called directly, so that the process keeps its own allocator for
//! everything else.

use std::{
    alloc::{GlobalAlloc, Layout, handle_alloc_error},
    ptr::NonNull,
};

use mimalloc::MiMalloc;

/// `N` bytes that were not written.
#[derive(Debug)]
pub struct Block<const N: usize>(NonNull<u8>);

// SAFETY: a block is its only owner's, and mimalloc takes it back on any thread.
unsafe impl<const N: usize> Send for Block<N> {}

impl<const N: usize> Block<N> {
    const LAYOUT: Layout = {
        assert!(N > 0);
        Layout::new::<[u8; N]>()
    };

    #[inline]
    pub fn new() -> Self {
        // SAFETY: the layout is not of size zero.
        let block = unsafe { MiMalloc.alloc(Self::LAYOUT) };
        Block(NonNull::new(block).unwrap_or_else(|| handle_alloc_error(Self::LAYOUT)))
    }
}

impl<const N: usize> Drop for Block<N> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: it came from mimalloc with this layout, and this is its only owner, going away.
        unsafe { MiMalloc.dealloc(self.0.as_ptr(), Self::LAYOUT) }
    }
}
