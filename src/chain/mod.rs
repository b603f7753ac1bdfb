//! A packet, or a run of stream bytes: an owned chain of mbufs, and every operation on it.
//!
//! The names are those of mbuf(9) where the meaning is. Three rules hold for all operations:
//!
//! 1. **A view borrows.** Whatever shows a chain's bytes borrows the chain, so it cannot outlive
//!    the next operation that may move them.
//! 2. **Err means unchanged.** An operation takes all the buffers it needs before it changes
//!    anything. One that fails leaves bytes, segments, metadata and the pool's level as they were,
//!    or hands back what it was given.
//! 3. **Shape does not show.** The result of an operation does not depend on how the chain happens
//!    to be cut into segments.
//!
//! Empty segments never show. The head may be empty (a new chain; room for headers before what was
//! joined), and so are leading segments whose bytes were stripped: they stay until the next prepend
//! or move of bytes, so that [`Chain::restore`] does not depend on the shape. [`Chain::advance`]
//! forgets bytes for good, and frees their segments at once.

#[cfg(feature = "bytes")]
mod bytes;
pub mod checksum;
mod cursor;
#[cfg(doctest)]
mod doctests;
mod edit;
mod fmt;
mod iovec;
mod make;
mod pullup;
mod share;
mod writer;

use std::{io, ops::RangeBounds};

pub use cursor::Cursor;
pub use fmt::Hexdump;
pub use iovec::{Reserved, Slices};
pub(crate) use iovec::{Seg, Segments};
pub use writer::Writer;

pub use crate::mbuf::external::{ExternalMut, Opaque};

use crate::{
    error::{Error, Result},
    mbuf::{Run, external},
    meta::Meta,
    pool::{Class, Event, Mark, MbufType, Pool},
};

/// The most bytes that a chain can hold: lengths are 32 bits wide.
pub const MAX_LEN: usize = u32::MAX as usize;

/// An owned packet, or a run of stream bytes. One pointer wide, `Send + Sync`, not `Clone`:
/// [`Chain::share`] and [`Chain::dup`] say which of the two is meant. Dropping it returns
/// everything to the pool.
///
/// ```
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let mut packet = pool.chain_from(b"payload")?;
/// packet.prepend_slice(b"header ")?;
/// assert_eq!(packet.pullup(7)?, b"header ");
/// packet.trim_front(7)?;
/// assert_eq!(packet.to_vec()?, b"payload");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[repr(transparent)]
pub struct Chain {
    run: Run,
}

impl Chain {
    pub(crate) fn from_run(run: Run) -> Chain {
        Chain { run }
    }

    /// Bytes in the chain. O(1).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_from(&[7; 100_000])?;
    /// assert_eq!(chain.len(), 100_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn len(&self) -> usize {
        self.run.total()
    }

    /// Whether there are no bytes. O(1).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain()?;
    /// assert!(chain.is_empty());
    /// chain.append(1)?;
    /// assert!(!chain.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Segments that hold bytes. O(1).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain()?;
    /// assert_eq!(chain.segments(), 0); // an mbuf without bytes is none
    /// chain.append(1)?;
    /// assert_eq!(chain.segments(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn segments(&self) -> usize {
        self.run.segs()
    }

    /// Free private bytes before the first: what a prepend can use without taking a buffer. 0 where
    /// the first bytes are aliased or read-only. O(1).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"data")?;
    /// assert_eq!(chain.headroom(), pool.headroom());
    /// chain.prepend(20)?;
    /// assert_eq!(chain.headroom(), pool.headroom() - 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn headroom(&self) -> usize {
        self.run.head().room_front()
    }

    /// Free private bytes after the last, in the last segment. 0 where it is aliased or read-only.
    /// O(1).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_with_headroom(28)?;
    /// assert_eq!(chain.tailroom(), 100);
    /// chain.append(100)?;
    /// assert_eq!(chain.tailroom(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn tailroom(&self) -> usize {
        self.run.last().room_back()
    }

    /// Whether all bytes can be written without copying any first. O(segments).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(&[7; 1000])?;
    /// assert!(chain.is_writable());
    /// let other = chain.share()?;
    /// assert!(!chain.is_writable() && !other.is_writable());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_writable(&self) -> bool {
        self.run.mbufs().all(|mbuf| mbuf.len() == 0 || mbuf.is_private())
    }

    /// A handle of the pool that the chain grows from: its head's. Where all other handles have
    /// gone, the pool is closing: such a handle works, without a cache for new threads.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain()?;
    /// assert!(chain.pool().same(&pool));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pool(&self) -> Pool {
        Pool::from_inner(self.run.head().pool())
    }

    /// The metadata; all zeroes where nobody wrote any. O(1).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain()?;
    /// assert_eq!(*chain.meta(), mbuf::Meta::EMPTY);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn meta(&self) -> &Meta {
        self.run.meta()
    }

    /// The metadata, to be written. O(1).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"packet")?;
    /// chain.meta_mut().set_ingress(3);
    /// let back = chain.split_off(3)?;
    /// assert_eq!((chain.meta().ingress(), back.meta().ingress()), (3, 3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn meta_mut(&mut self) -> &mut Meta {
        self.run.meta_mut()
    }

    /// The type of the first mbuf (mbuf(9)), for statistics.
    ///
    /// ```
    /// use mbuf::pool::MbufType;
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// assert_eq!(pool.chain()?.kind(), MbufType::DATA);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn kind(&self) -> MbufType {
        self.run.head().kind()
    }

    /// Sets the type of all mbufs there are now; further ones are data again. O(segments).
    ///
    /// ```
    /// use mbuf::pool::MbufType;
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain()?;
    /// chain.set_kind(MbufType::CONTROL);
    /// assert_eq!(chain.kind(), MbufType::CONTROL);
    /// assert!(pool.stats().to_string().contains("control 1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_kind(&mut self, kind: MbufType) {
        for mbuf in self.run.mbufs_mut() {
            mbuf.set_kind(kind);
        }
    }

    /// The storage that the chain pins, in bytes: its mbufs, whole clusters, and of what is attached
    /// the range that was attached. One 64-byte datagram out of a GRO super-packet pins 64 KiB.
    /// Neighbours in one cluster count it once; a cluster that other segments come between counts
    /// again. O(segments).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// assert_eq!(pool.chain_from(&[7; 50])?.footprint(), 256);
    /// assert_eq!(pool.chain_from(&[7; 1000])?.footprint(), 256 + 2048);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn footprint(&self) -> usize {
        let mut before = None;
        self.run.mbufs().fold(0, |sum, mbuf| {
            let storage = mbuf.storage_addr();
            // Neighbours often lie in one cluster, which is pinned once.
            let again = before.replace(storage) == Some(storage);
            sum + Class::Small.size() + if again { 0 } else { mbuf.storage_len() }
        })
    }

    /// Copies `out.len()` bytes from `off` on, without reshaping (m_copydata). O(n + segments).
    ///
    /// # Errors
    /// [`Error::TooShort`]; nothing was written to `out`. [`Error::Io`] where reading the file
    /// behind an opaque segment fails; `out` is then undefined.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_from(b"header body")?;
    /// let mut bytes = [0; 4];
    /// chain.peek(7, &mut bytes)?;
    /// assert_eq!(&bytes, b"body");
    /// let error = mbuf::Error::TooShort { needed: 12, available: 11 };
    /// assert_eq!(chain.peek(8, &mut bytes), Err(error));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peek(&self, off: usize, out: &mut [u8]) -> Result<()> {
        let needed = off.saturating_add(out.len());
        if needed > self.len() {
            return Err(Error::TooShort { needed, available: self.len() });
        }
        let (mut at, mut done) = (off, 0);
        for mbuf in self.run.mbufs() {
            if done == out.len() {
                break;
            }
            if at >= mbuf.len() {
                at -= mbuf.len();
                continue;
            }
            let n = (mbuf.len() - at).min(out.len() - done);
            mbuf.read_at(at, &mut out[done..done + n])?;
            (at, done) = (0, done + n);
        }
        Ok(())
    }

    /// A copy of the bytes on the heap: for tests and tools.
    ///
    /// # Errors
    /// [`Error::Io`] where reading the file behind an opaque segment fails.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// assert_eq!(pool.chain_from(b"bytes")?.to_vec()?, b"bytes");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.len()];
        self.peek(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Drops the chain and counts it under `reason` in the pool's statistics. Takes a lock: for
    /// what should be rare.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// pool.chain_from(b"nonsense")?.discard("malformed");
    /// let stats = pool.stats();
    /// assert_eq!((stats.in_use(), stats.discards), (0, vec![("malformed", 1)]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard(self, reason: &'static str) {
        self.note(Event::Discarded);
        self.run.head().pool().count_discard(reason);
    }

    /// Leaves a mark of the application's own in the history of each of the chain's buffers, for
    /// [the census](crate::pool::Event). O(segments) with the feature `census`; nothing without.
    ///
    /// ```
    /// use mbuf::pool::Mark;
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_from(b"for the encoder")?;
    /// chain.mark(Mark::A);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn mark(&self, mark: Mark) {
        self.note(mark.into());
    }

    /// Frees them all: those of one mbuf without anything special cost less than one by one.
    #[inline]
    pub(crate) fn free_many(chains: impl Iterator<Item = Chain>) {
        Run::free_many(chains.map(|chain| chain.run));
    }

    /// Has what says where the bytes are fetched into the cache.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        self.run.prefetch();
    }

    /// Has the first bytes fetched into the cache. Reads what says where they are.
    #[inline(always)]
    pub(crate) fn prefetch_bytes(&self) {
        self.run.prefetch_bytes();
    }

    /// Where its head lies: what tells a chain from others that live at the time.
    pub(crate) fn place(&self) -> usize {
        std::ptr::from_ref(self.run.head()).addr()
    }

    /// Something happens to the chain.
    #[inline(always)]
    pub(crate) fn note(&self, event: Event) {
        self.run.note(event);
    }

    /// Checks every invariant. For tests: O(segments).
    ///
    /// # Errors
    /// The invariant that is broken, in words.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"any chain")?;
    /// chain.split_off(4)?;
    /// assert_eq!(chain.check(), Ok(()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&self) -> Result<(), String> {
        self.run.check()
    }

    /// An empty chain with the metadata of this one and the pool's headroom.
    #[cfg_attr(feature = "census", track_caller)]
    fn empty_like(&self) -> Result<Chain> {
        let pool = self.run.head().pool();
        let headroom = pool.headroom().min(Class::Small.data_len());
        let mut run = Run::alloc(pool, Class::Small, headroom)?;
        run.inherit_meta(&self.run);
        Ok(Chain { run })
    }

    /// The mbuf in which byte `off` lies, and where in it. `off` is within the chain.
    fn locate(&self, off: usize) -> (usize, usize) {
        let mut at = off;
        for (i, mbuf) in self.run.mbufs().enumerate() {
            if at < mbuf.len() {
                return (i, at);
            }
            at -= mbuf.len();
        }
        unreachable!("byte {off} of a chain of {}", self.len())
    }

    /// Forgets what was stripped; emptied segments go, save the head where it is to be kept for
    /// its room.
    #[inline]
    fn settle(&mut self, keep_head: bool) {
        let head = self.run.head_mut();
        head.forget_stripped();
        if head.len() == 0 && !self.run.is_single() {
            self.settle_segments(keep_head);
        }
    }

    /// As [`Chain::settle`], where the head is empty and others follow.
    #[cold]
    fn settle_segments(&mut self, keep_head: bool) {
        if keep_head {
            if let Some(rest) = self.run.cut(1) {
                let mut rest = Chain { run: rest };
                rest.settle(false);
                if !rest.is_empty() {
                    self.run.link(rest.run);
                }
            }
            return;
        }
        while self.run.head().len() == 0 && self.run.unlink_front().is_some() {}
        self.run.head_mut().forget_stripped();
    }

    /// The range in numbers, checked against the chain's length.
    fn resolve(&self, range: impl RangeBounds<usize>) -> Result<std::ops::Range<usize>> {
        external::resolve(&range, self.len())
    }
}

impl io::Write for Chain {
    /// Appends all of `buf`, or nothing.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(buf)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Forgets the first `n` bytes of a run, and the mbufs that are emptied; `None` if all are.
fn forget_front(run: Option<Run>, mut n: usize) -> Option<Run> {
    // All at once, if it is all.
    let mut run = run.filter(|run| n < run.total())?;
    loop {
        let len = run.head().len();
        if n < len {
            run.head_mut().trim_front(n);
            run.set_totals(run.total() - n, run.segs());
            return Some(run);
        }
        n -= len;
        run.unlink_front()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_one_pointer_wide_and_crosses_threads() {
        fn crosses<T: Send + Sync>() {}
        crosses::<Chain>();
        assert_eq!(size_of::<Chain>(), size_of::<usize>());
        // What an `Option` needs is found in the pointer, where a `Chain` moves by value.
        assert_eq!(size_of::<Option<Chain>>(), size_of::<usize>());
    }
}
