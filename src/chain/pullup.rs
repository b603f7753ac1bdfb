//! Making bytes contiguous, and reading and writing headers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Chain, forget_front};
use crate::{
    error::{Error, Result},
    mbuf::{Mbuf, Run},
    pool::{Class, Event},
};

impl Chain {
    /// Makes the first `n` bytes contiguous and returns them (m_pullup). What is contiguous already
    /// is not copied; else they are copied into the room behind the first segment, or into one new
    /// buffer. They are readable, not necessarily private. O(1), or O(n + segments) when it copies.
    ///
    /// # Errors
    /// [`Error::TooShort`]; [`Error::TooLong`] where more than 64 KiB would have to be copied;
    /// [`Error::NoBuffers`]; [`Error::Io`] where opaque bytes cannot be read: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"he")?;
    /// chain.concat(pool.chain_from(b"ader")?)?;
    /// assert_eq!(chain.segments(), 2);
    /// assert_eq!(chain.pullup(6)?, b"header");
    /// assert_eq!(chain.segments(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn pullup(&mut self, n: usize) -> Result<&[u8]> {
        if self.is_pulled_up(n) {
            let Some(bytes) = self.run.head().bytes() else { unreachable!("not opaque") };
            return Ok(&bytes[..n]);
        }
        self.pulldown(0, n)
    }

    /// Whether a pullup of `n` bytes has nothing to do.
    #[inline(always)]
    pub(crate) fn is_pulled_up(&self, n: usize) -> bool {
        let head = self.run.head();
        n <= head.len() && !head.is_opaque() && !head.pool().move_on_pullup()
    }

    /// Makes the `n` bytes from `off` on contiguous and returns them, without moving what lies
    /// before them (m_pulldown). Costs and errors are those of [`Chain::pullup`].
    ///
    /// # Errors
    /// As [`Chain::pullup`].
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"outer in")?;
    /// chain.concat(pool.chain_from(b"ner")?)?;
    /// assert_eq!(chain.pulldown(6, 5)?, b"inner");
    /// assert_eq!(chain.to_vec()?, b"outer inner");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn pulldown(&mut self, off: usize, n: usize) -> Result<&[u8]> {
        let needed = off.saturating_add(n);
        if needed > self.len() {
            return Err(Error::TooShort { needed, available: self.len() });
        }
        if n == 0 {
            return Ok(&[]);
        }
        let (i, at) = self.locate(off);
        let Some(mbuf) = self.run.mbufs().nth(i) else { unreachable!("located") };
        let contiguous = n <= mbuf.len() - at && !mbuf.is_opaque();
        if !contiguous {
            self.gather(off, i, at, n)?;
        } else if self.run.head().pool().move_on_pullup() {
            // The switch for tests moves all that is left of the segment. It must not fail where
            // nothing needs to be done.
            let rest = mbuf.len() - at;
            if rest <= Class::K64.data_len() {
                let _ = self.gather(off, i, at, rest);
            }
        }
        let (i, at) = self.locate(off);
        match self.run.mbufs().nth(i).and_then(|mbuf| mbuf.bytes()) {
            Some(bytes) => Ok(&bytes[at..at + n]),
            None => unreachable!("gathered in memory of the pool"),
        }
    }

    /// Puts the first `n` bytes into a fresh, private buffer with `headroom` bytes of room before
    /// them (m_copyup). What was stripped cannot be restored afterwards. O(n + segments).
    ///
    /// # Errors
    /// As [`Chain::pullup`]; [`Error::TooLong`] where `n` and the headroom exceed 64 KiB together.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"header body")?;
    /// assert_eq!(chain.copyup(6, 100)?, b"header");
    /// assert_eq!((chain.headroom(), chain.to_vec()?), (100, b"header body".to_vec()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn copyup(&mut self, n: usize, headroom: usize) -> Result<&[u8]> {
        if n > self.len() {
            return Err(Error::TooShort { needed: n, available: self.len() });
        }
        let (wanted, max) = (n.saturating_add(headroom), Class::K64.data_len());
        if wanted > max {
            return Err(Error::TooLong { wanted, max });
        }
        let pool = self.run.head().pool();
        let mut fresh = Run::alloc_contiguous(pool, wanted, 0)?;
        fresh.head_mut().leave_headroom(headroom);
        self.peek(0, fresh.head_mut().grow_back(n))?;
        fresh.recount();
        fresh.note(Event::Moved);
        fresh.inherit_meta(&self.run);
        self.settle(false);
        let old = std::mem::replace(&mut self.run, fresh);
        if let Some(rest) = forget_front(Some(old), n) {
            self.run.link(rest);
        }
        Ok(self.run.head().bytes().unwrap_or_default())
    }

    /// The header at the front, pulled up if need be. O(1) as a rule; see [`Chain::pullup`].
    ///
    /// # Errors
    /// As [`Chain::pullup`].
    ///
    /// ```
    /// use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, network_endian::U16};
    ///
    /// #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
    /// #[repr(C)]
    /// struct Header { kind: U16, length: U16 }
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(&[0, 1, 0, 4, b'd', b'a', b't', b'a'])?;
    /// assert_eq!(chain.header::<Header>()?.length.get(), 4);
    /// let header: Header = chain.strip()?;
    /// assert_eq!((header.kind.get(), chain.len()), (1, 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn header<H>(&mut self) -> Result<&H>
    where
        H: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let bytes = self.pullup(size_of::<H>())?;
        H::ref_from_bytes(bytes).map_err(|_| Error::Invalid("a header of no fixed size"))
    }

    /// The header at the front, pulled up if need be, made private first: to be written. O(1) as a
    /// rule; of a long segment that is shared, it copies the header only.
    ///
    /// # Errors
    /// As [`Chain::pullup`].
    ///
    /// ```
    /// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, network_endian::U16};
    ///
    /// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    /// #[repr(C)]
    /// struct Header { kind: U16, hops: U16 }
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(&[0, 1, 0, 9, b'd', b'a', b't', b'a'])?;
    /// chain.header_mut::<Header>()?.hops -= 1;
    /// assert_eq!(chain.to_vec()?, b"\0\x01\0\x08data");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn header_mut<H>(&mut self) -> Result<&mut H>
    where
        H: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned,
    {
        let n = size_of::<H>();
        // One of the two at most changes anything, so that either failing leaves all as it was:
        // a pullup that had to copy, into the room of the first segment or into a new buffer, left
        // it private.
        self.pullup(n)?;
        self.own_front(n)?;
        let first = self.run.mbufs_mut().find(|mbuf| mbuf.len() > 0);
        let bytes = match first.and_then(|mbuf| mbuf.bytes_mut()) {
            Some(bytes) => &mut bytes[..n],
            None => &mut [],
        };
        H::mut_from_bytes(bytes).map_err(|_| Error::Invalid("a header of no fixed size"))
    }

    /// Takes the header off the front and returns it by value. [`Chain::restore`] undoes it. O(1)
    /// as a rule.
    ///
    /// # Errors
    /// As [`Chain::pullup`].
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"\x02hi")?;
    /// assert_eq!(chain.strip::<u8>()?, 2);
    /// assert_eq!(chain.to_vec()?, b"hi");
    /// chain.restore(1)?;
    /// assert_eq!(chain.to_vec()?, b"\x02hi");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn strip<H: FromBytes>(&mut self) -> Result<H> {
        let bytes = self.pullup(size_of::<H>())?;
        let header =
            H::read_from_bytes(bytes).map_err(|_| Error::Invalid("a header of no fixed size"))?;
        self.trim_front(size_of::<H>())?;
        Ok(header)
    }

    /// Makes the first `n` bytes, which are contiguous, private.
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    fn own_front(&mut self, n: usize) -> Result<()> {
        let first = self.run.mbufs_mut().enumerate().find(|(_, mbuf)| mbuf.len() > 0);
        let Some((i, mbuf)) = first else { return Ok(()) };
        if n == 0 || mbuf.regain() {
            return Ok(());
        }
        // What fits a small mbuf does not make a segment of its own.
        let len = mbuf.len();
        self.gather(0, i, 0, if len <= Class::Small.data_len() { len } else { n })
    }

    /// Copies the `n` bytes from `off` on, which is byte `at` of mbuf `i`, so that they lie
    /// contiguous and private.
    #[cfg_attr(feature = "census", track_caller)]
    fn gather(&mut self, off: usize, i: usize, at: usize, n: usize) -> Result<()> {
        let max = Class::K64.data_len();
        if n > max {
            return Err(Error::TooLong { wanted: n, max });
        }
        let pool = self.run.head().pool();
        let moving = pool.move_on_pullup();
        let headroom = if off == 0 { pool.headroom() } else { 0 };
        let Some(mbuf) = self.run.mbufs_mut().nth(i) else { unreachable!("located") };
        let (len, opaque) = (mbuf.len(), mbuf.is_opaque());
        let here = (len - at).min(n);
        let room = mbuf.regain() && mbuf.room_back() >= n - here;
        // Reading opaque bytes can fail, or panic: that goes to a fresh buffer.
        let readable = !opaque && !self.run.mbufs().skip(i + 1).any(Mbuf::is_opaque);
        if room && readable && !moving {
            return self.gather_in_place(i, n - here);
        }
        let mut fresh = Run::alloc_contiguous(self.run.head().pool(), n, headroom)?;
        self.peek(off, fresh.head_mut().grow_back(n))?;
        fresh.recount();
        fresh.note(Event::Moved);
        // A segment of which only a part is wanted is cut behind that.
        let back = if here < len - at { Some(self.split_off(off + n)?) } else { None };
        // Nothing fails from here on.
        let Some(mbuf) = self.run.mbufs().nth(i) else { unreachable!("located") };
        // What is left empty stays only for what was stripped from it.
        let stays = at > 0 || mbuf.stripped() > 0;
        let rest = if stays || i == 0 {
            let rest = self.run.cut(i + 1);
            self.run.last_mut().truncate(at);
            self.run.recount();
            forget_front(rest, n - here)
        } else {
            forget_front(self.run.cut(i), n)
        };
        if stays || i > 0 {
            self.run.link(fresh);
        } else {
            fresh.inherit_meta(&self.run);
            self.run = fresh;
        }
        for behind in [rest, back.map(|back| back.run)].into_iter().flatten() {
            self.run.link(behind);
        }
        Ok(())
    }

    /// Copies the next `n` bytes behind mbuf `i` into the room that it has.
    fn gather_in_place(&mut self, i: usize, n: usize) -> Result<()> {
        let rest = self.run.cut(i + 1).map(|run| Chain { run });
        let Some(rest) = rest else { return Ok(()) };
        let last = self.run.last_mut();
        let before = last.len();
        let read = rest.peek(0, last.grow_back(n));
        if read.is_err() {
            last.truncate(before);
        }
        self.run.recount();
        let rest = if read.is_ok() { forget_front(Some(rest.run), n) } else { Some(rest.run) };
        if let Some(rest) = rest {
            self.run.link(rest);
        }
        read
    }
}
