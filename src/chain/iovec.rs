//! The segments: as slices, as vectors for system calls, and as room for a reader.

use std::{fmt, io::IoSlice, iter::FusedIterator};

use smallvec::{Array, SmallVec};

use super::Chain;
use crate::{
    error::{Error, Result},
    mbuf::{Mbuf, Mbufs, Run, Storage},
    pool::{Alloc, Class, Receiver},
};

impl Chain {
    /// The bytes, segment by segment; empty segments never show.
    ///
    /// # Errors
    /// [`Error::Opaque`] where a segment may be read by system calls only.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"one")?;
    /// chain.concat(pool.chain_from(b"two")?)?;
    /// assert!(chain.slices()?.eq([b"one", b"two"]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn slices(&self) -> Result<Slices<'_>> {
        let mut offset = 0;
        for mbuf in self.run.mbufs() {
            if mbuf.is_opaque() && mbuf.len() > 0 {
                return Err(Error::Opaque { offset });
            }
            offset += mbuf.len();
        }
        Ok(Slices { mbufs: self.run.mbufs() })
    }

    /// Adds the segments to `out`, for `Write::write_vectored` and its like.
    ///
    /// # Errors
    /// As [`Chain::slices`]: nothing was added.
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"one ")?;
    /// chain.concat(pool.chain_from(b"two")?)?;
    /// let mut slices = smallvec::SmallVec::<[std::io::IoSlice<'_>; 8]>::new();
    /// chain.io_slices(&mut slices)?;
    /// let mut out = Vec::new();
    /// assert_eq!((out.write_vectored(&slices)?, out), (7, b"one two".to_vec()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn io_slices<'a, A>(&'a self, out: &mut SmallVec<A>) -> Result<()>
    where
        A: Array<Item = IoSlice<'a>>,
    {
        out.extend(self.slices()?.map(IoSlice::new));
        Ok(())
    }

    /// Adds the segments to `out` until it holds `max` of them, for writev(2) and its like: opaque
    /// ones too, which only the kernel may read. Returns how many bytes they cover. They are valid
    /// as long as the chain is neither changed nor dropped.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"one ")?;
    /// chain.concat(pool.chain_from(b"two")?)?;
    /// let mut vector = smallvec::SmallVec::<[libc::iovec; 8]>::new();
    /// assert_eq!(chain.iovecs(&mut vector, 1), 4); // of one segment
    /// assert_eq!((vector.len(), vector[0].iov_len), (1, 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iovecs<A: Array<Item = libc::iovec>>(&self, out: &mut SmallVec<A>, max: usize) -> usize {
        let mut covered = 0;
        for mbuf in self.run.mbufs().filter(|mbuf| mbuf.len() > 0) {
            if out.len() >= max {
                break;
            }
            let iov_base = mbuf.data_ptr().as_ptr().cast();
            out.push(libc::iovec { iov_base, iov_len: mbuf.len() });
            covered += mbuf.len();
        }
        covered
    }

    /// Room for a reader of exactly `n` bytes at the end: what the last segment has, and as many
    /// further segments as it takes. Dropped, the room goes back; committed, what was read becomes
    /// the chain's.
    ///
    /// # Errors
    /// [`Error::NoBuffers`], [`Error::TooLong`] where the chain would exceed 4 GiB: unchanged.
    ///
    /// ```
    /// use std::{fs::File, os::fd::AsRawFd};
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"zeroes: ")?;
    /// let mut room = chain.reserve_uninit(1000)?;
    /// let mut vector = smallvec::SmallVec::<[libc::iovec; 8]>::new();
    /// room.iovecs(&mut vector);
    /// let file = File::open("/dev/zero")?;
    /// // SAFETY: the vectors are those of `room`, which outlives the call.
    /// let read = unsafe { libc::readv(file.as_raw_fd(), vector.as_ptr(), vector.len() as i32) };
    /// // SAFETY: the kernel has written so many bytes to them, in order.
    /// unsafe { room.commit(read as usize) };
    /// assert_eq!((chain.len(), chain.to_vec()?[8..] == [0; 1000]), (1008, true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn reserve_uninit(&mut self, n: usize) -> Result<Reserved<'_>> {
        let room = self.tailroom().min(n);
        self.check_room(n)?;
        let more = match n - room {
            0 => None,
            more => Some(Run::alloc_for(self.run.head().pool(), more)?),
        };
        Ok(Reserved { chain: self, room, more, len: n })
    }

    /// As [`Chain::reserve_uninit`], drawn from a receiver, in clusters of `class`.
    ///
    /// # Errors
    /// As [`Chain::reserve_uninit`].
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain()?;
    /// let room = chain.reserve_from(&pool.receiver(), Class::K4, 5000)?;
    /// assert_eq!(room.len(), 5000);
    /// assert_eq!(pool.stats().class(Class::K4).in_use, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn reserve_from(
        &mut self,
        receiver: &Receiver,
        class: Class,
        n: usize,
    ) -> Result<Reserved<'_>> {
        self.reserve_with(receiver, class, n)
    }

    #[cfg_attr(feature = "census", track_caller)]
    fn reserve_with<A: Alloc>(
        &mut self,
        alloc: &A,
        class: Class,
        n: usize,
    ) -> Result<Reserved<'_>> {
        self.check_room(n)?;
        let room = self.tailroom().min(n);
        let mut left = n - room;
        let mut more: Option<Run> = None;
        while left > 0 {
            let one = Run::alloc(alloc, class, 0)?;
            left = left.saturating_sub(class.data_len());
            match &mut more {
                None => more = Some(one),
                Some(more) => more.link(one),
            }
        }
        Ok(Reserved { chain: self, room, more, len: n })
    }

    fn check_room(&self, n: usize) -> Result<()> {
        let wanted = self.len().saturating_add(n);
        if wanted > super::MAX_LEN {
            return Err(Error::TooLong { wanted, max: super::MAX_LEN });
        }
        Ok(())
    }

    /// The segments that hold bytes.
    pub(crate) fn segs(&self) -> Segments<'_> {
        Segments { mbufs: self.run.mbufs() }
    }
}

/// The bytes of a chain, segment by segment. Made by [`Chain::slices`].
#[derive(Clone)]
pub struct Slices<'a> {
    mbufs: Mbufs<'a>,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let mbuf = self.mbufs.find(|mbuf| mbuf.len() > 0)?;
        mbuf.bytes()
    }
}

impl FusedIterator for Slices<'_> {}

/// The next segment, and how many follow: bounded.
impl fmt::Debug for Slices<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.clone();
        f.debug_struct("Slices")
            .field("next", &rest.next().map(<[u8]>::len))
            .field("more", &rest.count())
            .finish()
    }
}

/// Room at the end of a chain, for a reader. Made by [`Chain::reserve_uninit`]; dropped without
/// [`Reserved::commit`], it leaves the chain as it was.
pub struct Reserved<'a> {
    chain: &'a mut Chain,
    /// Bytes of room in the last segment of the chain.
    room: usize,
    /// Further segments, empty still.
    more: Option<Run>,
    len: usize,
}

impl Reserved<'_> {
    /// Bytes of room.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain()?;
    /// assert_eq!(chain.reserve_uninit(1000)?.len(), 1000);
    /// assert_eq!((chain.len(), pool.stats().in_use()), (0, 1)); // dropped: all is as before
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no room: nothing was asked for.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain()?;
    /// assert!(chain.reserve_uninit(0)?.is_empty());
    /// assert!(!chain.reserve_uninit(1)?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the room to `out`, for readv(2) and its like to write to. The addresses are valid as
    /// long as this value is.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_with_headroom(28)?;
    /// let mut vector = smallvec::SmallVec::<[libc::iovec; 8]>::new();
    /// chain.reserve_uninit(1000)?.iovecs(&mut vector);
    /// // What is left in the mbuf, then a cluster.
    /// assert!(vector.iter().map(|part| part.iov_len).eq([100, 900]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iovecs<A: Array<Item = libc::iovec>>(&mut self, out: &mut SmallVec<A>) {
        let mut left = self.len;
        if self.room > 0 {
            let (data, _) = self.chain.run.last_mut().spare_back();
            out.push(libc::iovec { iov_base: data.as_ptr().cast(), iov_len: self.room });
            left -= self.room;
        }
        for mbuf in self.more.iter_mut().flat_map(Run::mbufs_mut) {
            let (data, room) = mbuf.spare_back();
            let iov_len = room.min(left);
            out.push(libc::iovec { iov_base: data.as_ptr().cast(), iov_len });
            left -= iov_len;
        }
    }

    /// Makes the first `n` bytes of the room the chain's. Segments that were not reached go back
    /// to the pool at once.
    ///
    /// # Safety
    /// The caller has written the first `n` bytes of the room, in the order of
    /// [`Reserved::iovecs`]: what is left of a buffer's last owner would be readable otherwise.
    ///
    /// # Panics
    /// If `n` is more than the room.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain()?;
    /// let mut room = chain.reserve_uninit(2)?;
    /// let mut vector = smallvec::SmallVec::<[libc::iovec; 1]>::new();
    /// room.iovecs(&mut vector);
    /// // SAFETY: the address is that of two bytes of room, of which one is written and committed.
    /// unsafe {
    ///     vector[0].iov_base.cast::<u8>().write(b'x');
    ///     room.commit(1);
    /// }
    /// assert_eq!(chain.to_vec()?, b"x");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub unsafe fn commit(self, n: usize) {
        self.fill(n, |_| {});
    }

    /// Makes the first `n` bytes the chain's, after `write` was called with them piece by piece.
    pub(crate) fn fill(mut self, n: usize, mut write: impl FnMut(&mut [u8])) {
        assert!(n <= self.len, "{n} bytes committed of {} reserved", self.len);
        let run = &mut self.chain.run;
        let now = self.room.min(n);
        if now > 0 {
            let last = run.last_mut();
            let empty = last.len() == 0;
            write(last.grow_back(now));
            let (total, segs) = (run.total() + now, run.segs() + usize::from(empty));
            run.set_totals(total, segs);
        }
        let mut left = n - now;
        if left == 0 {
            return;
        }
        if let Some(mut more) = self.more.take() {
            let mut used = 0;
            for mbuf in more.mbufs_mut() {
                let now = left.min(mbuf.room_back());
                if now == 0 {
                    break;
                }
                write(mbuf.grow_back(now));
                left -= now;
                used += 1;
            }
            more.recount();
            drop(more.cut(used));
            run.link(more);
        }
    }
}

impl fmt::Debug for Reserved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserved").field("len", &self.len).finish_non_exhaustive()
    }
}

/// One segment, seen: what the rest of the crate needs of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seg<'a>(&'a Mbuf);

impl<'a> Seg<'a> {
    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    /// The bytes; `None` where they are opaque.
    pub(crate) fn bytes(self) -> Option<&'a [u8]> {
        self.0.bytes()
    }

    /// As [`Chain::peek`], for this segment.
    pub(crate) fn read_at(self, off: usize, out: &mut [u8]) -> Result<()> {
        self.0.read_at(off, out)
    }

    /// Where the bytes are, in a word.
    pub(crate) fn kind(self) -> &'static str {
        match self.0.storage() {
            Storage::Inline => "small",
            Storage::K2 => "2K",
            Storage::K4 => "4K",
            Storage::K16 => "16K",
            Storage::K64 => "64K",
            Storage::External => "external",
            Storage::Opaque => "opaque",
        }
    }

    /// Whether others see these bytes.
    pub(crate) fn is_aliased(self) -> bool {
        self.0.is_aliased()
    }
}

/// The segments that hold bytes.
#[derive(Debug, Clone)]
pub(crate) struct Segments<'a> {
    mbufs: Mbufs<'a>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = Seg<'a>;

    #[inline]
    fn next(&mut self) -> Option<Seg<'a>> {
        self.mbufs.find(|mbuf| mbuf.len() > 0).map(Seg)
    }
}
