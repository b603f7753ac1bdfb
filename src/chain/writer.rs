//! Writing into reserved room: [`Writer`].

use std::{io, ptr};

use smallvec::SmallVec;

use crate::{
    chain::{Chain, Reserved},
    error::Result,
};

/// Segments of room that a writer describes without a heap allocation: with the usual pools, the
/// room of an IP packet of any length, or more.
const INLINE: usize = 16;

/// Writes into room at the end of a chain that was reserved when the writer was made, so that
/// writing cannot fail for want of buffers half-way.
///
/// Made by [`Chain::writer`]. What was written becomes part of the chain when the writer is
/// dropped; room that was not used goes back to the pool then. It implements [`io::Write`], and,
/// with the feature `bytes`, `bytes::BufMut`.
#[derive(Debug)]
pub struct Writer<'a> {
    /// `None` only inside `drop`.
    reserved: Option<Reserved<'a>>,
    /// The room. Invariant: each is valid for writes as long as `reserved` lives, and nothing
    /// else writes there.
    room: SmallVec<[libc::iovec; INLINE]>,
    /// The piece of room that is written next, and how far it is filled. Invariant: `filled` is
    /// less than the piece's length, or all of the room is filled and `piece == room.len()`.
    piece: usize,
    filled: usize,
    /// Invariant: the first `written` bytes of the room were written.
    written: usize,
    len: usize,
}

impl Chain {
    /// A writer with room for `room` bytes at the end of the chain. Takes the buffers for all of
    /// it; those that are not needed in the end go back when the writer is dropped.
    ///
    /// # Errors
    /// [`Error::NoBuffers`](crate::Error::NoBuffers), or
    /// [`Error::TooLong`](crate::Error::TooLong) where the chain would grow over the longest
    /// possible; the chain is then unchanged.
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"status ")?;
    /// let mut writer = chain.writer(8)?;
    /// write!(writer, "{}", 200)?;
    /// assert_eq!((writer.written(), writer.room()), (3, 5));
    /// assert!(writer.write_all(b"too long").is_err(), "the room is bounded");
    /// drop(writer);
    /// assert_eq!(chain.to_vec()?, b"status 200too l");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn writer(&mut self, room: usize) -> Result<Writer<'_>> {
        let mut reserved = self.reserve_uninit(room)?;
        let mut pieces = SmallVec::<[libc::iovec; INLINE]>::new();
        reserved.iovecs(&mut pieces);
        // Pieces of no bytes would only make every step below ask for them.
        pieces.retain(|piece| piece.iov_len > 0);
        // The reservation may hold more than was asked for; the writer is exact.
        let len = reserved.len().min(room);
        Ok(Writer { reserved: Some(reserved), room: pieces, piece: 0, filled: 0, written: 0, len })
    }
}

impl Writer<'_> {
    /// Bytes written so far. O(1).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain()?;
    /// let mut writer = chain.writer(100)?;
    /// writer.put(b"four");
    /// assert_eq!(writer.written(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn written(&self) -> usize {
        self.written
    }

    /// Bytes that may still be written. O(1).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain()?;
    /// assert_eq!(chain.writer(1000)?.room(), 1000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn room(&self) -> usize {
        self.len - self.written
    }

    /// Writes as many of the bytes as there is room for, and returns how many. O(n).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain()?;
    /// let mut writer = chain.writer(3)?;
    /// assert_eq!(writer.put(b"four"), 3);
    /// assert_eq!(writer.put(b"more"), 0);
    /// drop(writer);
    /// assert_eq!(chain.to_vec()?, b"fou");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let (start, room) = self.spare();
            let n = room.min(bytes.len() - done);
            if n == 0 {
                break;
            }
            let from = bytes[done..].as_ptr();
            // SAFETY: `spare` gives room that is valid for writes of `room >= n` bytes while
            // `reserved` lives; `from` is valid for `bytes.len() - done >= n`; the room belongs
            // to nobody but this writer, so the two do not overlap.
            unsafe { ptr::copy_nonoverlapping(from, start, n) };
            // SAFETY: the n bytes were just written.
            unsafe { self.fill(n) };
            done += n;
        }
        done
    }

    /// The room that is written next, as an address and a length: 0 only where all is filled.
    pub(super) fn spare(&self) -> (*mut u8, usize) {
        let Some(piece) = self.room.get(self.piece) else { return (ptr::null_mut(), 0) };
        let start = piece.iov_base.cast::<u8>().wrapping_add(self.filled);
        (start, (piece.iov_len - self.filled).min(self.room()))
    }

    /// Counts the next `n` bytes as written.
    ///
    /// # Safety
    /// The first `n` bytes of the room that [`Writer::spare`] gave were written.
    ///
    /// # Panics
    /// If that room is smaller.
    pub(super) unsafe fn fill(&mut self, n: usize) {
        let (_, room) = self.spare();
        if n > room {
            overfilled(n, room);
        }
        self.written += n;
        self.filled += n;
        if self.room.get(self.piece).is_some_and(|piece| piece.iov_len == self.filled) {
            self.piece += 1;
            self.filled = 0;
        }
    }
}

/// What was written becomes the chain's.
impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if let Some(reserved) = self.reserved.take() {
            // SAFETY: `written` counts the bytes that were written to the room, in order and
            // without a gap: only `fill` raises it, whose caller promises so.
            unsafe { reserved.commit(self.written) };
        }
    }
}

/// Short where the room ends, and 0 (`WriteZero` from `write_all`) where it is filled.
impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.put(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cold]
fn overfilled(n: usize, room: usize) -> ! {
    panic!("{n} bytes written to a room of {room}")
}
