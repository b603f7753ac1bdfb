//! Growing and trimming at both ends, writing over, cutting and joining.

use std::mem;

use zerocopy::{Immutable, IntoBytes};

use super::{Chain, MAX_LEN, make::alloc_batch};
use crate::{
    error::{Error, Rejected, Result},
    mbuf::{Run, Storage},
    pool::{Class, Event},
    queue::Batch,
};

impl Chain {
    /// Grows the front by `n` zeroed, contiguous bytes and returns them (M_PREPEND). Uses headroom
    /// if it is there and private, else one more small mbuf or cluster, whose data sits at its end,
    /// so that the next prepend finds room. O(n).
    ///
    /// # Errors
    /// [`Error::NoBuffers`]; [`Error::TooLong`] above 64 KiB, or where the chain would exceed
    /// 4 GiB: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"data")?;
    /// chain.prepend(2)?.copy_from_slice(&4u16.to_be_bytes());
    /// assert_eq!(chain.to_vec()?, b"\0\x04data");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn prepend(&mut self, n: usize) -> Result<&mut [u8]> {
        if self.has_front(n) {
            let bytes = self.grow_front(n);
            bytes.fill(0);
            return Ok(bytes);
        }
        self.prepend_slowly(n)
    }

    #[cold]
    #[cfg_attr(feature = "census", track_caller)]
    fn prepend_slowly(&mut self, n: usize) -> Result<&mut [u8]> {
        let bytes = self.grow_front_slowly(n)?;
        bytes.fill(0);
        Ok(bytes)
    }

    /// As [`Chain::prepend`], with these bytes.
    ///
    /// # Errors
    /// As [`Chain::prepend`].
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"data")?;
    /// chain.prepend_slice(b"head ")?;
    /// assert_eq!(chain.to_vec()?, b"head data");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn prepend_slice(&mut self, bytes: &[u8]) -> Result<()> {
        if self.has_front(bytes.len()) {
            self.grow_front(bytes.len()).copy_from_slice(bytes);
            return Ok(());
        }
        self.prepend_slice_slowly(bytes)
    }

    #[cold]
    #[cfg_attr(feature = "census", track_caller)]
    fn prepend_slice_slowly(&mut self, bytes: &[u8]) -> Result<()> {
        self.grow_front_slowly(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// As [`Chain::prepend`], with a header.
    ///
    /// # Errors
    /// As [`Chain::prepend`].
    ///
    /// ```
    /// use zerocopy::{Immutable, IntoBytes, network_endian::U16};
    ///
    /// #[derive(IntoBytes, Immutable)]
    /// #[repr(C)]
    /// struct Header { kind: U16, length: U16 }
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"data")?;
    /// chain.push(&Header { kind: 1.into(), length: 4.into() })?;
    /// assert_eq!(chain.to_vec()?, b"\0\x01\0\x04data");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn push<H: IntoBytes + Immutable + ?Sized>(&mut self, header: &H) -> Result<()> {
        self.prepend_slice(header.as_bytes())
    }

    /// Grows the back by `n` zeroed bytes, over as many segments as it takes. O(n).
    ///
    /// # Errors
    /// [`Error::NoBuffers`]; [`Error::TooLong`] where the chain would exceed 4 GiB: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"data")?;
    /// chain.append(3)?;
    /// assert_eq!(chain.to_vec()?, b"data\0\0\0");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn append(&mut self, n: usize) -> Result<()> {
        self.grow_back(n, |bytes| bytes.fill(0))
    }

    /// Copies bytes to the back, over as many segments as it takes (m_append). O(n).
    ///
    /// # Errors
    /// As [`Chain::append`]: no part of them was appended.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"da")?;
    /// chain.extend_from_slice(b"ta")?;
    /// assert_eq!((chain.to_vec()?, chain.segments()), (b"data".to_vec(), 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> Result<()> {
        let mut left = bytes;
        self.grow_back(bytes.len(), |room| {
            let (now, later) = left.split_at(room.len());
            room.copy_from_slice(now);
            left = later;
        })
    }

    /// Removes `n` bytes from the front. They can be restored until the next prepend or move of
    /// bytes, and until then keep their storage: [`Chain::advance`] frees it. O(segments removed).
    ///
    /// # Errors
    /// [`Error::TooShort`]: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"header body")?;
    /// chain.trim_front(7)?;
    /// assert_eq!(chain.to_vec()?, b"body");
    /// assert_eq!(chain.trim_front(5), Err(mbuf::Error::TooShort { needed: 5, available: 4 }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn trim_front(&mut self, n: usize) -> Result<()> {
        let total = self.len();
        let head = self.run.head_mut();
        if n < head.len() {
            head.strip_front(n);
            self.run.set_total(total - n);
            return Ok(());
        }
        self.trim_segments(n)
    }

    /// As [`Chain::trim_front`], where segments are emptied.
    #[cold]
    fn trim_segments(&mut self, n: usize) -> Result<()> {
        if n > self.len() {
            return Err(Error::TooShort { needed: n, available: self.len() });
        }
        let (total, mut segs) = (self.len() - n, self.segments());
        let mut left = n;
        for mbuf in self.run.mbufs_mut() {
            let now = left.min(mbuf.len());
            segs -= usize::from(now > 0 && now == mbuf.len());
            mbuf.strip_front(now);
            left -= now;
            if left == 0 {
                break;
            }
        }
        self.run.set_totals(total, segs);
        Ok(())
    }

    /// Removes `n` bytes from the back and frees the segments that are emptied. O(segments).
    ///
    /// # Errors
    /// [`Error::TooShort`]: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"body checksum")?;
    /// chain.trim_back(9)?;
    /// assert_eq!(chain.to_vec()?, b"body");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn trim_back(&mut self, n: usize) -> Result<()> {
        match self.len().checked_sub(n) {
            Some(keep) => self.truncate(keep),
            None => Err(Error::TooShort { needed: n, available: self.len() }),
        }
    }

    /// Keeps the first `n` bytes and frees the segments that are emptied. O(segments).
    ///
    /// # Errors
    /// [`Error::TooShort`] where there are fewer: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"body padding")?;
    /// chain.truncate(4)?;
    /// assert_eq!(chain.to_vec()?, b"body");
    /// assert_eq!(chain.truncate(5), Err(mbuf::Error::TooShort { needed: 5, available: 4 }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn truncate(&mut self, n: usize) -> Result<()> {
        let Some(gone) = self.len().checked_sub(n) else {
            return Err(Error::TooShort { needed: n, available: self.len() });
        };
        let single = self.run.is_single();
        let last = self.run.last_mut();
        if gone < last.len() || single {
            last.truncate(last.len() - gone);
            self.run.set_totals(n, if n == 0 { 0 } else { self.segments() });
        } else {
            self.truncate_segments(n);
        }
        Ok(())
    }

    /// As [`Chain::truncate`], where segments are emptied. `n` is at most the length.
    #[cold]
    fn truncate_segments(&mut self, n: usize) {
        if n == self.len() {
            return;
        }
        let (i, at) = self.locate(n);
        // A segment that would be empty goes too, unless it is the head or remembers what was
        // stripped.
        let stays =
            at > 0 || i == 0 || self.run.mbufs().nth(i).is_some_and(|mbuf| mbuf.stripped() > 0);
        drop(self.run.cut(if stays { i + 1 } else { i }));
        if stays {
            self.run.last_mut().truncate(at);
        }
        self.run.recount();
    }

    /// m_adj: removes `n` bytes from the front, or, if negative, from the back; as many as there
    /// are. Returns how many went. Never fails. O(segments).
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"head body tail")?;
    /// assert_eq!((chain.adj(5), chain.adj(-5)), (5, 5));
    /// assert_eq!(chain.to_vec()?, b"body");
    /// assert_eq!(chain.adj(isize::MIN), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn adj(&mut self, n: isize) -> usize {
        let count = n.unsigned_abs().min(self.len());
        let result = if n > 0 { self.trim_front(count) } else { self.trim_back(count) };
        debug_assert!(result.is_ok(), "clamped to what is there");
        count
    }

    /// Forgets the first `n` bytes for good, and frees the segments that are done: what a sink does
    /// with the bytes it has taken. O(segments freed).
    ///
    /// # Errors
    /// [`Error::TooShort`]: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"sent, ")?;
    /// chain.concat(pool.chain_from(b"not sent")?)?;
    /// chain.advance(6)?;
    /// assert_eq!(chain.to_vec()?, b"not sent");
    /// assert_eq!(pool.stats().in_use(), 1); // the first segment's buffer went back
    /// assert_eq!(chain.restore(6), Err(mbuf::Error::Gone { wanted: 6, available: 0 }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn advance(&mut self, mut n: usize) -> Result<()> {
        if n > self.len() {
            return Err(Error::TooShort { needed: n, available: self.len() });
        }
        self.settle(false);
        while n >= self.run.head().len() && !self.run.is_single() {
            n -= self.run.head().len();
            self.run.unlink_front();
        }
        let gone = n > 0 && n == self.run.head().len();
        self.run.head_mut().trim_front(n);
        self.run.set_totals(self.len() - n, self.segments() - usize::from(gone));
        Ok(())
    }

    /// Gives back the last `n` bytes that were stripped or trimmed from the front. O(segments).
    ///
    /// # Errors
    /// [`Error::Gone`] where a prepend or a move of bytes came in between, [`Error::TooLong`] where
    /// what was appended since leaves no room for them in 4 GiB: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"header body")?;
    /// chain.trim_front(7)?;
    /// chain.restore(7)?;
    /// assert_eq!(chain.to_vec()?, b"header body");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn restore(&mut self, n: usize) -> Result<()> {
        let mut available = 0;
        for mbuf in self.run.mbufs() {
            available += mbuf.stripped();
            if mbuf.len() > 0 {
                break;
            }
        }
        let Some(mut skip) = available.checked_sub(n) else {
            return Err(Error::Gone { wanted: n, available });
        };
        self.check_growth(n)?;
        for mbuf in self.run.mbufs_mut() {
            let last = mbuf.len() > 0;
            let stays = skip.min(mbuf.stripped());
            skip -= stays;
            mbuf.unstrip(mbuf.stripped() - stays);
            if last {
                break;
            }
        }
        self.run.recount();
        Ok(())
    }

    /// Writes `bytes` over what is there from `off` on, extending the chain as needed; a gap is
    /// filled with zeroes (m_copyback). Shared bytes are copied first: a sharer never sees the
    /// write. O(n + segments).
    ///
    /// # Errors
    /// [`Error::NoBuffers`], [`Error::TooLong`], [`Error::Io`] where shared bytes that must be
    /// copied are opaque: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"one two")?;
    /// chain.copy_back(4, b"three")?;
    /// assert_eq!(chain.to_vec()?, b"one three");
    /// chain.copy_back(11, b"four")?;
    /// assert_eq!(chain.to_vec()?, b"one three\0\0four");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn copy_back(&mut self, off: usize, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() && off <= self.len() {
            return Ok(());
        }
        let end = off.saturating_add(bytes.len());
        if end > MAX_LEN {
            return Err(Error::TooLong { wanted: end, max: MAX_LEN });
        }
        let len = self.len();
        let over = off.min(len)..end.min(len);
        let (now, later) = bytes.split_at(over.len());
        // The new segments first; making the old ones writable is the last thing that can fail.
        let growth = self.plan_back(end.saturating_sub(len))?;
        self.make_mut(over.clone())?;
        self.write_over(over.start, now);
        let mut gap = off.saturating_sub(len);
        let mut left = later;
        self.commit_back(growth, |room| {
            let (zeroes, rest) = room.split_at_mut(gap.min(room.len()));
            zeroes.fill(0);
            gap -= zeroes.len();
            let (now, later) = left.split_at(rest.len());
            rest.copy_from_slice(now);
            left = later;
        });
        Ok(())
    }

    /// Cuts the chain in two: keeps the first `n` bytes and returns the others, with a copy of the
    /// metadata (m_split). Bytes in clusters are not copied; those of the segment that is cut are
    /// if they lie in a small mbuf (at most 128). Both sides stay as writable as they were, each
    /// within its own bounds. O(segments).
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::NoBuffers`]: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut front = pool.chain_from(b"front|back")?;
    /// let back = front.split_off(6)?;
    /// assert_eq!((front.to_vec()?, back.to_vec()?), (b"front|".to_vec(), b"back".to_vec()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn split_off(&mut self, n: usize) -> Result<Chain> {
        if n > self.len() {
            return Err(Error::TooShort { needed: n, available: self.len() });
        }
        if n == self.len() {
            return self.empty_like();
        }
        if n == 0 {
            let empty = self.empty_like()?;
            let mut all = mem::replace(self, empty);
            all.settle(true);
            return Ok(all);
        }
        let (i, at) = self.locate(n);
        if at == 0 {
            let Some(mut rest) = self.run.cut(i) else { unreachable!("byte {n} is behind") };
            rest.inherit_meta(&self.run);
            rest.head().note(Event::Split);
            return Ok(Chain { run: rest });
        }
        let Some(mbuf) = self.run.mbufs_mut().nth(i) else { unreachable!("located") };
        let beyond = mbuf.len() - at;
        let headroom = match mbuf.storage() {
            Storage::Inline => mbuf.pool().headroom().min(Class::Small.data_len() - beyond),
            _ => 0,
        };
        let mut tail = Run::alloc(mbuf.pool(), Class::Small, headroom)?;
        // The last of several sharers hands on bytes that are private.
        mbuf.regain();
        match mbuf.bytes() {
            Some(bytes) if mbuf.storage() == Storage::Inline => {
                tail.head_mut().grow_back(beyond).copy_from_slice(&bytes[at..]);
                mbuf.truncate(at);
            }
            _ => {
                mbuf.add_holders(1);
                mbuf.lend(tail.head_mut(), at, beyond, false);
            }
        }
        tail.head().note(Event::Split);
        tail.recount();
        self.run.set_totals(self.len() - beyond, self.segments());
        if let Some(rest) = self.run.cut(i + 1) {
            tail.link(rest);
        }
        tail.inherit_meta(&self.run);
        Ok(Chain { run: tail })
    }

    /// Takes chains of `n` bytes off the front, as long as more are left, and adds them to the
    /// batch: for datagrams that arrived joined. Each has the metadata, and room only as far as its
    /// own bytes reach.
    ///
    /// # Errors
    /// [`Error::NoBuffers`]: what was taken off so far is in the batch.
    #[cfg_attr(feature = "census", track_caller)]
    pub(crate) fn split_fronts(&mut self, n: usize, batch: &mut Batch) -> Result<()> {
        let fronts = self.len().saturating_sub(1) / n;
        if fronts > 0 && self.run.is_single() && self.run.head().storage().cluster().is_some() {
            let mbuf = self.run.head_mut();
            let before = batch.len();
            if mbuf.regain()
                && mbuf.stripped() == 0
                && alloc_batch(mbuf.pool(), Class::Small, 0, fronts, batch).is_ok()
            {
                mbuf.add_holders(fronts as u32);
                for front in batch.iter_mut().skip(before) {
                    self.run.head_mut().hand_front(front.run.head_mut(), n);
                    front.run.set_totals(n, 1);
                    front.run.inherit_meta(&self.run);
                    front.note(Event::Split);
                }
                self.run.set_totals(self.len() - fronts * n, 1);
                return Ok(());
            }
        }
        for _ in 0..fronts {
            let rest = self.split_off(n)?;
            batch.push(mem::replace(self, rest));
        }
        Ok(())
    }

    /// Joins `other` at the end; this chain's metadata stays (m_cat). O(1).
    ///
    /// # Errors
    /// [`Error::TooLong`] where the sum would exceed 4 GiB gives `other` back.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"front ")?;
    /// chain.concat(pool.chain_from(b"back")?)?;
    /// assert_eq!((chain.to_vec()?, chain.segments()), (b"front back".to_vec(), 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn concat(&mut self, mut other: Chain) -> Result<(), Rejected<Chain>> {
        if let Err(error) = self.check_growth(other.len()) {
            return Err(Rejected::new(other, error));
        }
        other.settle(false);
        if !other.is_empty() {
            other.note(Event::Joined);
            self.run.link(other.run);
        }
        Ok(())
    }

    /// As [`Chain::concat`], but copies `other` if it fits the room that is there (m_catpkt with
    /// compression): many small pieces then do not each keep a buffer.
    ///
    /// # Errors
    /// As [`Chain::concat`].
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"front ")?;
    /// chain.concat_compact(pool.chain_from(b"back")?)?;
    /// assert_eq!((chain.to_vec()?, chain.segments()), (b"front back".to_vec(), 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn concat_compact(&mut self, other: Chain) -> Result<(), Rejected<Chain>> {
        let fits = other.len() <= self.tailroom() && self.len() + other.len() <= MAX_LEN;
        if !fits || other.run.mbufs().any(|mbuf| mbuf.is_opaque()) {
            return self.concat(other);
        }
        for bytes in other.run.mbufs().filter_map(|mbuf| mbuf.bytes()) {
            // Within the tail's room, so that nothing is taken and nothing fails.
            if let Err(error) = self.extend_from_slice(bytes) {
                unreachable!("room was there: {error}");
            }
        }
        Ok(())
    }

    /// Puts `other` in the middle, before byte `off`. O(segments).
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::NoBuffers`], [`Error::TooLong`]: unchanged, and gives `other`
    /// back.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"head tail")?;
    /// chain.insert(5, pool.chain_from(b"middle ")?)?;
    /// assert_eq!(chain.to_vec()?, b"head middle tail");
    /// let rejected = chain.insert(99, pool.chain_from(b"lost?")?).unwrap_err();
    /// assert_eq!(rejected.error, mbuf::Error::TooShort { needed: 99, available: 16 });
    /// assert_eq!(rejected.value.to_vec()?, b"lost?");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn insert(&mut self, off: usize, mut other: Chain) -> Result<(), Rejected<Chain>> {
        if off > self.len() {
            let error = Error::TooShort { needed: off, available: self.len() };
            return Err(Rejected::new(other, error));
        }
        if let Err(error) = self.check_growth(other.len()) {
            return Err(Rejected::new(other, error));
        }
        if off == self.len() {
            return self.concat(other);
        }
        if off == 0 {
            if !other.is_empty() {
                other.run.inherit_meta(&self.run);
                mem::swap(self, &mut other);
                self.settle(true);
                return self.concat(other);
            }
            return Ok(());
        }
        match self.split_off(off) {
            Ok(back) => {
                self.concat(other)?;
                self.concat(back)
            }
            Err(error) => Err(Rejected::new(other, error)),
        }
    }

    #[inline]
    fn check_growth(&self, n: usize) -> Result<()> {
        let wanted = self.len().saturating_add(n);
        if wanted > MAX_LEN {
            return Err(Error::TooLong { wanted, max: MAX_LEN });
        }
        Ok(())
    }

    /// Whether the front can grow by `n` bytes, which are some, in the usual way.
    #[inline(always)]
    fn has_front(&self, n: usize) -> bool {
        n > 0 && n <= self.run.head().quick_room_front() && n <= MAX_LEN - self.len()
    }

    /// Grows the front by `n` bytes, which hold whatever was there, where it [`Chain::has_front`].
    #[inline(always)]
    fn grow_front(&mut self, n: usize) -> &mut [u8] {
        self.run.set_total(self.len() + n);
        self.run.head_mut().grow_front(n)
    }

    /// The same where the head is shared, or empty, or lacks the room.
    #[cfg_attr(feature = "census", track_caller)]
    fn grow_front_slowly(&mut self, n: usize) -> Result<&mut [u8]> {
        if n == 0 {
            return Ok(&mut []);
        }
        self.check_growth(n)?;
        let (total, segs) = (self.len(), self.segments());
        let head = self.run.head_mut();
        head.regain();
        if n <= head.room_front() {
            let empty = head.len() == 0;
            if empty {
                self.settle(true);
            }
            self.run.set_totals(total + n, segs + usize::from(empty));
            return Ok(self.run.head_mut().grow_front(n));
        }
        self.grow_front_by_mbuf(n)
    }

    #[cfg_attr(feature = "census", track_caller)]
    fn grow_front_by_mbuf(&mut self, n: usize) -> Result<&mut [u8]> {
        let max = Class::K64.data_len();
        if n > max {
            return Err(Error::TooLong { wanted: n, max });
        }
        let mut front = Run::alloc_contiguous(self.run.head().pool(), n, 0)?;
        self.settle(false);
        front.head_mut().start_at_end();
        if self.is_empty() {
            front.inherit_meta(&self.run);
            self.run = front;
        } else {
            self.run.link_front(front);
        }
        self.run.set_totals(self.len() + n, self.segments() + 1);
        Ok(self.run.head_mut().grow_front(n))
    }

    /// Grows the back by `n` bytes, piece by piece filled by `fill`.
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    fn grow_back(&mut self, n: usize, mut fill: impl FnMut(&mut [u8])) -> Result<()> {
        let (total, segs) = (self.len().saturating_add(n), self.segments());
        let last = self.run.last_mut();
        if n > 0 && n <= last.quick_room_back() && total <= MAX_LEN {
            let empty = last.len() == 0;
            fill(last.grow_back(n));
            self.run.set_totals(total, segs + usize::from(empty));
            return Ok(());
        }
        self.grow_back_slowly(n, fill)
    }

    /// As [`Chain::grow_back`], where the last segment is shared, or lacks the room.
    #[cold]
    #[inline(never)]
    #[cfg_attr(feature = "census", track_caller)]
    fn grow_back_slowly(&mut self, n: usize, fill: impl FnMut(&mut [u8])) -> Result<()> {
        self.check_growth(n)?;
        let growth = self.plan_back(n)?;
        self.commit_back(growth, fill);
        Ok(())
    }

    /// Takes what growing the back by `n` bytes needs. Changes nothing.
    #[cfg_attr(feature = "census", track_caller)]
    fn plan_back(&mut self, n: usize) -> Result<Growth> {
        let room = self.tailroom().min(n);
        let more =
            if n > room { Some(Run::alloc_for(self.run.head().pool(), n - room)?) } else { None };
        Ok(Growth { room, more, len: n })
    }

    /// Grows the back as planned. Cannot fail.
    fn commit_back(&mut self, growth: Growth, mut fill: impl FnMut(&mut [u8])) {
        let Growth { room, more, len } = growth;
        if room > 0 {
            let last = self.run.last_mut();
            let empty = last.len() == 0;
            fill(last.grow_back(room));
            let (total, segs) = (self.len() + room, self.segments() + usize::from(empty));
            self.run.set_totals(total, segs);
        }
        if let Some(mut more) = more {
            let mut left = len - room;
            for mbuf in more.mbufs_mut() {
                let now = left.min(mbuf.room_back());
                fill(mbuf.grow_back(now));
                left -= now;
            }
            more.recount();
            self.run.link(more);
        }
    }

    /// Writes over bytes that are there and private.
    fn write_over(&mut self, off: usize, mut bytes: &[u8]) {
        let mut at = off;
        for mbuf in self.run.mbufs_mut() {
            if bytes.is_empty() {
                break;
            }
            if at >= mbuf.len() {
                at -= mbuf.len();
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(mbuf.len() - at));
            let Some(room) = mbuf.bytes_mut() else { unreachable!("made private before") };
            room[at..at + now.len()].copy_from_slice(now);
            (at, bytes) = (0, later);
        }
    }
}

/// What growing the back takes: so much room in the last mbuf, and the rest in further ones.
struct Growth {
    room: usize,
    more: Option<Run>,
    len: usize,
}
