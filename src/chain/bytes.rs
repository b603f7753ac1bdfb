//! The traits of the crate `bytes`: [`Buf`] for [`Cursor`] and [`Chain`], [`BufMut`] for
//! [`Writer`], and the ways between chains and [`Bytes`] that copy nothing.
//!
//! From [`Bytes`] to a chain there is [`Pool::attach`](crate::Pool::attach), because `Bytes` is
//! an owner of bytes like any other:
//!
//! ```
//! use bytes::Bytes;
//!
//! let pool = mbuf::Pool::with_memory(1 << 20)?;
//! let body = Bytes::from_static(b"a body that is not copied");
//! let mut chain = pool.attach(body, 2..)?;
//! chain.prepend_slice(b"header ")?;
//! assert_eq!(chain.to_vec()?, b"header body that is not copied");
//! assert_eq!(chain.into_bytes()?, "header body that is not copied");
//! assert_eq!(pool.stats().in_use(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, buf::UninitSlice};

use crate::{
    chain::{Chain, Cursor, Seg, Writer},
    error::Rejected,
};

impl Chain {
    /// The chain as [`Bytes`], which keeps the storage out of the pool until its last clone is
    /// dropped, on whichever thread. Copies only if the bytes are split (as a pullup of all of
    /// them); one heap allocation. An empty chain becomes empty `Bytes` and is freed.
    ///
    /// # Errors
    /// As [`Chain::pullup`]; the chain comes back, unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let bytes = pool.chain_from(b"shared from here on")?.into_bytes()?;
    /// assert_eq!(bytes.slice(..6), "shared");
    /// assert!(pool.stats().in_use() > 0);
    /// drop(bytes);
    /// assert_eq!(pool.stats().in_use(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn into_bytes(mut self) -> Result<Bytes, Rejected<Chain>> {
        if let Err(error) = self.pullup(self.len()) {
            return Err(Rejected::new(self, error));
        }
        match self.is_empty() {
            true => Ok(Bytes::new()),
            false => Ok(Bytes::from_owner(Contiguous(self))),
        }
    }
}

/// A chain of one segment that lies in memory.
struct Contiguous(Chain);

impl AsRef<[u8]> for Contiguous {
    fn as_ref(&self) -> &[u8] {
        self.0.segs().next().and_then(Seg::bytes).unwrap_or_default()
    }
}

/// Reads a chain without changing it.
///
/// # Panics
/// [`Buf::chunk`] (and with it all that reads) panics at an opaque segment, whose bytes cannot be
/// lent: read those by [`Read`](std::io::Read), or copy the chain by [`Chain::dup`] first.
/// [`Buf::advance`] panics past the end, as the trait demands.
impl Buf for Cursor<'_> {
    fn remaining(&self) -> usize {
        self.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.run().unwrap_or_else(|error| unreadable(error))
    }

    /// All chunks, in order, as far as there is room for them: writers such as tokio's count on
    /// it for one system call instead of one a chunk. It stops at an opaque segment.
    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        // `run` is empty only at the end of the chain, where nothing follows it.
        let first = self.run().ok().filter(|bytes| !bytes.is_empty());
        let Some(first) = first else { return 0 };
        gather(std::iter::once(first).chain(self.rest().map_while(Seg::bytes)), out)
    }

    fn advance(&mut self, n: usize) {
        let remaining = self.remaining();
        if n > remaining {
            past_the_end(n, remaining);
        }
        self.set_position(self.position() + n);
    }
}

/// Reads a chain and consumes it: what was read goes back to the pool at once, segment by segment,
/// and cannot be restored (see [`Chain::advance`]). So a chain can be given to whatever takes an
/// owned `Buf`, such as the body of a message.
///
/// # Panics
/// [`Buf::chunk`] panics at an opaque segment, [`Buf::advance`] past the end; as for [`Cursor`].
///
/// ```
/// use bytes::Buf;
///
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let mut chain = pool.chain_from(&[0x12, 0x34, b'x'])?;
/// assert_eq!(chain.get_u16(), 0x1234);
/// assert_eq!(Buf::remaining(&chain), 1);
/// assert_eq!(chain.to_vec()?, b"x");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Buf for Chain {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        self.cursor().run().unwrap_or_else(|error| unreadable(error))
    }

    /// All chunks, in order, as far as there is room for them; stops at an opaque segment.
    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        gather(self.segs().map_while(Seg::bytes), out)
    }

    fn advance(&mut self, n: usize) {
        if Chain::advance(self, n).is_err() {
            past_the_end(n, self.len());
        }
    }
}

/// The room is what was reserved when the writer was made: it does not grow.
///
/// ```
/// use bytes::BufMut;
///
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let mut chain = pool.chain()?;
/// let mut writer = chain.writer(5)?;
/// writer.put_u8(1);
/// writer.put_u32_le(2);
/// assert!(!writer.has_remaining_mut());
/// drop(writer);
/// assert_eq!(chain.to_vec()?, [1, 2, 0, 0, 0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// SAFETY: `chunk_mut` gives the same room until `advance_mut` is called, and never more than
// `remaining_mut` bytes of it.
unsafe impl BufMut for Writer<'_> {
    fn remaining_mut(&self) -> usize {
        self.room()
    }

    /// # Panics
    /// Where `n` is more than [`BufMut::chunk_mut`] gave.
    unsafe fn advance_mut(&mut self, n: usize) {
        // SAFETY: the caller promises that the first n bytes of `chunk_mut` were written, which
        // is the room that `spare` gives.
        unsafe { self.fill(n) };
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        let (start, len) = self.spare();
        if len == 0 {
            return UninitSlice::new(&mut []);
        }
        // SAFETY: `spare` gives room that is valid for writes of `len` bytes as long as the
        // reservation lives, which `self` owns; nothing else reaches it while `self` is borrowed.
        unsafe { UninitSlice::from_raw_parts_mut(start, len) }
    }
}

/// Fills `out` with the chunks from its start on, and returns how many it took.
fn gather<'a>(chunks: impl Iterator<Item = &'a [u8]>, out: &mut [IoSlice<'a>]) -> usize {
    out.iter_mut().zip(chunks).map(|(to, chunk)| *to = IoSlice::new(chunk)).count()
}

#[cold]
fn past_the_end(n: usize, remaining: usize) -> ! {
    panic!("advance by {n} bytes where {remaining} remain")
}

#[cold]
fn unreadable(error: crate::Error) -> ! {
    panic!("bytes::Buf over a mapped file: {error}")
}
