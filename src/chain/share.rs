//! Several chains over the same bytes, copies, and fewer segments.

use std::{mem, ops::RangeBounds};

use super::{Chain, MAX_LEN};
use crate::{
    error::{Error, Result},
    mbuf::{Run, Storage},
    pool::{Class, Event},
    queue::Batch,
};

impl Chain {
    /// A further chain over the same bytes, with a copy of the metadata: clusters and attached
    /// storage are counted, not copied; bytes in small mbufs are copied (m_copym). From now on both
    /// see the same bytes, and whoever writes copies first. O(segments).
    ///
    /// Copying up to about 500 bytes ([`Chain::dup`]) costs less than sharing them.
    ///
    /// # Errors
    /// [`Error::NoBuffers`]: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut one = pool.chain_from(&[1; 1000])?;
    /// let two = one.share()?;
    /// one.copy_back(0, &[2])?; // copies first
    /// assert_eq!((one.to_vec()?[0], two.to_vec()?[0]), (2, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn share(&mut self) -> Result<Chain> {
        let cluster = self.run.head().storage().cluster().is_some();
        if cluster && self.run.is_single() && !self.is_empty() {
            return self.share_cluster();
        }
        self.share_range(0, self.len())
    }

    /// As [`Chain::share`], for one cluster.
    #[cfg_attr(feature = "census", track_caller)]
    fn share_cluster(&mut self) -> Result<Chain> {
        let len = self.len();
        let mut run = Run::alloc(self.run.head().pool(), Class::Small, 0)?;
        run.head().note(Event::Shared);
        self.note(Event::Shared);
        self.run.head_mut().add_holders(1);
        self.run.head_mut().lend(run.head_mut(), 0, len, true);
        run.set_totals(len, self.segments());
        run.inherit_meta(&self.run);
        Ok(Chain { run })
    }

    /// As [`Chain::share`], for the `n` bytes from `off` on.
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::NoBuffers`]: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(&[7; 1000])?;
    /// let part = chain.share_range(900, 100)?;
    /// assert_eq!((part.len(), chain.len()), (100, 1000));
    /// assert_eq!(pool.stats().class(mbuf::Class::K2).in_use, 1); // one cluster for both
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn share_range(&mut self, off: usize, n: usize) -> Result<Chain> {
        let mut blank = self.blank_for(off, n)?;
        // Before it has a cluster, which is noted with this chain's.
        blank.note(Event::Shared);
        self.note(Event::Shared);
        self.lend_to(&mut blank, off, n, 1);
        Ok(blank)
    }

    /// As [`Chain::share`], for `n` receivers at once, added to `batch`: one count for all of them.
    ///
    /// # Errors
    /// [`Error::NoBuffers`]: unchanged, and nothing was added.
    ///
    /// ```
    /// use mbuf::{Batch, Class, Pool};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let mut batch = Batch::new();
    /// pool.chain_from(&[7; 1000])?.share_n(3, &mut batch)?;
    /// assert!(batch.iter().all(|chain| chain.len() == 1000));
    /// assert_eq!((batch.len(), pool.stats().class(Class::K2).in_use), (3, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn share_n(&mut self, n: usize, batch: &mut Batch) -> Result<()> {
        let len = self.len();
        let before = batch.len();
        for _ in 0..n {
            match self.blank_for(0, len) {
                Ok(blank) => batch.push(blank),
                Err(error) => {
                    batch.truncate(before);
                    return Err(error);
                }
            }
        }
        for (i, blank) in batch.iter_mut().skip(before).enumerate() {
            // The first counts all of them.
            blank.note(Event::Shared);
            self.lend_to(blank, 0, len, if i == 0 { n as u32 } else { 0 });
        }
        self.note(Event::Shared);
        Ok(())
    }

    /// A deep, private copy in as few segments as the classes allow, behind the pool's headroom,
    /// with a copy of the metadata (m_dup). O(n).
    ///
    /// # Errors
    /// [`Error::NoBuffers`], [`Error::Io`] where opaque bytes cannot be read: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"one ")?;
    /// chain.concat(pool.chain_from(b"two")?)?;
    /// let copy = chain.dup()?;
    /// assert_eq!((copy.to_vec()?, copy.segments()), (b"one two".to_vec(), 1));
    /// assert!(copy.is_writable());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn dup(&self) -> Result<Chain> {
        let pool = self.run.head().pool();
        let mut run = Run::alloc_first(pool, self.len(), pool.headroom())?;
        let room = run.head().room_back();
        if room < self.len() {
            run.link(Run::alloc_for(pool, self.len() - room)?);
        }
        self.copy_to(&mut run)?;
        run.inherit_meta(&self.run);
        Ok(Chain { run })
    }

    /// Makes all bytes private, copying only what is shared (m_unshare). O(segments), and O(bytes
    /// copied).
    ///
    /// # Errors
    /// As [`Chain::make_mut`].
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut one = pool.chain_from(&[7; 1000])?;
    /// let two = one.share()?;
    /// one.unshare()?;
    /// assert!(one.is_writable());
    /// assert_eq!(one.to_vec()?, two.to_vec()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn unshare(&mut self) -> Result<()> {
        self.make_mut(..)
    }

    /// Makes the bytes of a range private, so that they can be written, copying only the segments
    /// that are shared or read-only. What was stripped can still be restored.
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::NoBuffers`], [`Error::Io`] where opaque bytes cannot be read:
    /// unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(&[7; 1000])?;
    /// chain.concat(pool.chain_from(&[8; 1000])?)?;
    /// let other = chain.share()?;
    /// chain.make_mut(..4)?; // copies the first segment only
    /// assert!(!chain.is_writable());
    /// assert_eq!(pool.stats().class(mbuf::Class::K2).in_use, 3);
    /// # drop(other);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[cfg_attr(feature = "census", track_caller)]
    pub fn make_mut(&mut self, range: impl RangeBounds<usize>) -> Result<()> {
        let range = self.resolve(range)?;
        let mut start = 0;
        let mut marked = 0;
        for mbuf in self.run.mbufs_mut() {
            if start >= range.end {
                break;
            }
            let end = start + mbuf.len();
            if end > range.start && start < end && !mbuf.regain() {
                mbuf.mark(true);
                marked += 1;
            }
            start = end;
        }
        if marked == 0 { Ok(()) } else { self.replace_marked() }
    }

    /// Calls `change` with the bytes of a range, piece by piece in order, after making them
    /// private. O(n + segments).
    ///
    /// # Errors
    /// As [`Chain::make_mut`]; `change` was not called then.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"secret")?;
    /// chain.for_each_mut(.., |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 0x20))?;
    /// assert_eq!(chain.to_vec()?, b"SECRET");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn for_each_mut(
        &mut self,
        range: impl RangeBounds<usize>,
        mut change: impl FnMut(&mut [u8]),
    ) -> Result<()> {
        let range = self.resolve(range)?;
        self.make_mut(range.clone())?;
        let mut start = 0;
        for mbuf in self.run.mbufs_mut() {
            let (len, end) = (mbuf.len(), start + mbuf.len());
            let (from, to) = (range.start.clamp(start, end), range.end.clamp(start, end));
            if from < to {
                let Some(bytes) = mbuf.bytes_mut() else { unreachable!("made private") };
                change(&mut bytes[from - start..to - start]);
            }
            start += len;
        }
        Ok(())
    }

    /// Copies the bytes into as few segments as the classes allow (m_defrag), unless that would
    /// not be fewer. What was stripped cannot be restored afterwards. O(n).
    ///
    /// # Errors
    /// As [`Chain::dup`].
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"one ")?;
    /// chain.concat(pool.chain_from(b"two ")?)?;
    /// chain.concat(pool.chain_from(b"three")?)?;
    /// chain.defrag()?;
    /// assert_eq!((chain.to_vec()?, chain.segments()), (b"one two three".to_vec(), 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn defrag(&mut self) -> Result<()> {
        if self.segments() > 1 {
            let copy = self.dup()?;
            if copy.segments() < self.segments() {
                *self = copy;
            }
        }
        self.settle(true);
        Ok(())
    }

    /// Copies as much of the end as it takes to leave at most `max` segments (m_collapse): for
    /// sinks with a limit. What was stripped cannot be restored afterwards. O(segments), and
    /// O(bytes copied).
    ///
    /// # Errors
    /// [`Error::Invalid`] for 0; [`Error::TooLong`] where `max` segments of 64 KiB do not hold the
    /// bytes; [`Error::NoBuffers`], [`Error::Io`]: unchanged.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"one ")?;
    /// chain.concat(pool.chain_from(b"two ")?)?;
    /// chain.concat(pool.chain_from(b"three")?)?;
    /// chain.collapse(2)?;
    /// assert!(chain.slices()?.eq([&b"one "[..], b"two three"]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn collapse(&mut self, max: usize) -> Result<()> {
        if max == 0 {
            return Err(Error::Invalid("collapse to no segments"));
        }
        if self.segments() <= max {
            self.settle(true);
            return Ok(());
        }
        let largest = self.run.head().pool().largest().data_len();
        // The most segments from the front that can stay as they are.
        let (mut stay, mut stay_bytes, mut bytes) = (None, 0, 0);
        let full = self.run.mbufs().filter(|mbuf| mbuf.len() > 0);
        for (i, mbuf) in full.enumerate().take(max) {
            if i + (self.len() - bytes).div_ceil(largest) <= max {
                (stay, stay_bytes) = (Some(i), bytes);
            }
            bytes += mbuf.len();
        }
        let Some(stay) = stay else {
            let most = max.saturating_mul(Class::K64.data_len());
            return Err(if self.len() > most {
                Error::TooLong { wanted: self.len(), max: most }
            } else {
                // Buffers of that size would do; this pool was made without them.
                Error::NoBuffers { class: Class::for_len(self.len().div_ceil(max)) }
            });
        };
        let pool = self.run.head().pool();
        let mut packed = Run::alloc_for(pool, self.len() - stay_bytes)?;
        if stay + packed.mbufs().count() > max {
            // A class has run out, and smaller ones stood in.
            return Err(Error::NoBuffers { class: Class::for_len(self.len() - stay_bytes) });
        }
        self.copy_part(stay_bytes, &mut packed)?;
        if stay == 0 {
            packed.inherit_meta(&self.run);
            self.run = packed;
        } else {
            // Empty leading mbufs are not segments; they stay with the front.
            self.settle(true);
            let empties = usize::from(self.run.head().len() == 0);
            drop(self.run.cut(empties + stay));
            self.run.link(packed);
        }
        Ok(())
    }

    /// Copies the bytes into as few buffers as hold them, if those are less than they pin now.
    /// What was stripped cannot be restored afterwards. O(n).
    ///
    /// # Errors
    /// As [`Chain::dup`].
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(&[7; 1000])?;
    /// chain.truncate(10)?;
    /// assert_eq!(chain.footprint(), 256 + 2048);
    /// chain.compact()?;
    /// assert_eq!((chain.footprint(), chain.to_vec()?), (256, vec![7; 10]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn compact(&mut self) -> Result<()> {
        let footprint = self.footprint();
        if least_footprint(self.len()) >= footprint {
            self.settle(true);
            return Ok(());
        }
        let pool = self.run.head().pool();
        let mut run = Run::alloc_for(pool, self.len())?;
        self.copy_to(&mut run)?;
        run.inherit_meta(&self.run);
        let compact = Chain { run };
        if compact.footprint() < footprint {
            *self = compact;
        }
        self.settle(true);
        Ok(())
    }

    /// For whoever is going to keep the chain: compacts it if it pins more than four times its
    /// length. (One of 129 to 575 bytes pins more afterwards, too: a cluster of 2 KiB.)
    ///
    /// # Errors
    /// As [`Chain::dup`]: drop the chain then, rather than hold so much.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut kept = pool.chain_from(&[7; 1900])?;
    /// kept.compact_to_hold()?; // pins 2,304 bytes for 1,900: left as it is
    /// assert_eq!(kept.footprint(), 256 + 2048);
    /// kept.truncate(10)?;
    /// kept.compact_to_hold()?;
    /// assert_eq!(kept.footprint(), 256);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "census", track_caller)]
    pub fn compact_to_hold(&mut self) -> Result<()> {
        if self.footprint() > self.len().saturating_mul(4) { self.compact() } else { Ok(()) }
    }

    /// Empty mbufs, one for each segment of a part: what sharing it takes.
    #[cfg_attr(feature = "census", track_caller)]
    fn blank_for(&self, off: usize, n: usize) -> Result<Chain> {
        let needed = off.saturating_add(n);
        if needed > self.len() {
            return Err(Error::TooShort { needed, available: self.len() });
        }
        let mut blank: Option<Run> = None;
        let (mut start, end) = (0, needed);
        for mbuf in self.run.mbufs() {
            let stop = start + mbuf.len();
            if stop > off && start < end && start < stop {
                let part = stop.min(end) - start.max(off);
                let headroom = match (mbuf.storage(), &blank) {
                    (Storage::Inline, None) => mbuf.pool().headroom().min(128 - part),
                    _ => 0,
                };
                let one = Run::alloc(mbuf.pool(), Class::Small, headroom)?;
                match &mut blank {
                    None => blank = Some(one),
                    Some(blank) => blank.link(one),
                }
            }
            start = stop;
        }
        match blank {
            Some(mut run) => {
                run.inherit_meta(&self.run);
                Ok(Chain { run })
            }
            None => self.empty_like(),
        }
    }

    /// Fills what [`Chain::blank_for`] made, counting `holders` further holders.
    fn lend_to(&mut self, blank: &mut Chain, off: usize, n: usize, holders: u32) {
        let (mut start, end) = (0, off + n);
        let mut blanks = blank.run.mbufs_mut();
        for mbuf in self.run.mbufs_mut() {
            let stop = start + mbuf.len();
            if stop > off && start < end && start < stop {
                let at = start.max(off) - start;
                let part = stop.min(end) - start - at;
                let Some(blank) = blanks.next() else { unreachable!("one for each segment") };
                match mbuf.bytes() {
                    Some(bytes) if mbuf.storage() == Storage::Inline => {
                        blank.grow_back(part).copy_from_slice(&bytes[at..at + part]);
                    }
                    _ => {
                        if holders > 0 {
                            mbuf.add_holders(holders);
                        }
                        mbuf.lend(blank, at, part, true);
                    }
                }
            }
            start = stop;
        }
        blank.run.recount();
    }

    /// Copies all bytes into empty mbufs that have room for them.
    fn copy_to(&self, run: &mut Run) -> Result<()> {
        self.copy_part(0, run)
    }

    /// Copies the bytes from `off` on into empty mbufs that have room for them.
    fn copy_part(&self, off: usize, run: &mut Run) -> Result<()> {
        let mut source = Reader::new(self, off);
        let mut left = self.len() - off;
        for mbuf in run.mbufs_mut() {
            let now = left.min(mbuf.room_back());
            source.read(mbuf.grow_back(now))?;
            left -= now;
        }
        run.recount();
        Ok(())
    }

    /// Puts private copies in the place of marked mbufs, all or none.
    #[cold]
    #[cfg_attr(feature = "census", track_caller)]
    fn replace_marked(&mut self) -> Result<()> {
        let unmark = Unmark(self);
        let mut copies = Some(unmark.0.copy_marked()?);
        mem::forget(unmark);
        let mut rest = self.run.cut(1);
        if self.run.head().is_marked() {
            let mut fresh = take_bytes(&mut copies, self.run.head().len());
            if self.run.head().stripped() > 0 {
                empty_out(&mut self.run);
                self.run.link(fresh);
            } else {
                fresh.inherit_meta(&self.run);
                self.run = fresh;
            }
        }
        while let Some(mut mbuf) = rest {
            rest = mbuf.cut(1);
            if mbuf.head().is_marked() {
                let fresh = take_bytes(&mut copies, mbuf.head().len());
                if mbuf.head().stripped() > 0 {
                    empty_out(&mut mbuf);
                    self.run.link(mbuf);
                }
                mbuf = fresh;
            }
            self.run.link(mbuf);
        }
        Ok(())
    }

    /// Private copies of all marked mbufs, one after the other.
    #[cfg_attr(feature = "census", track_caller)]
    fn copy_marked(&self) -> Result<Run> {
        let mut copies: Option<Run> = None;
        for mbuf in self.run.mbufs().filter(|mbuf| mbuf.is_marked()) {
            let mut copy = Run::alloc_for(self.run.head().pool(), mbuf.len())?;
            let mut at = 0;
            for part in copy.mbufs_mut() {
                let now = part.room_back().min(mbuf.len() - at);
                mbuf.read_at(at, part.grow_back(now))?;
                part.set_kind(mbuf.kind());
                at += now;
            }
            copy.recount();
            match &mut copies {
                None => copies = Some(copy),
                Some(copies) => copies.link(copy),
            }
        }
        let Some(copies) = copies else { unreachable!("called with marked mbufs") };
        Ok(copies)
    }
}

/// Takes the marks away where the copies could not be made, by an error or a panic of an owner.
struct Unmark<'a>(&'a mut Chain);

impl Drop for Unmark<'_> {
    fn drop(&mut self) {
        self.0.run.mbufs_mut().for_each(|mbuf| mbuf.mark(false));
    }
}

/// Leaves of a marked mbuf what was stripped from it, to be restored.
fn empty_out(run: &mut Run) {
    run.head_mut().mark(false);
    run.head_mut().truncate(0);
    run.recount();
}

/// Takes mbufs of `len` bytes in all off the front.
fn take_bytes(run: &mut Option<Run>, len: usize) -> Run {
    let mut taken: Option<Run> = None;
    while taken.as_ref().map_or(0, Run::total) < len {
        let Some(mut front) = run.take() else { unreachable!("copied for these mbufs") };
        *run = front.cut(1);
        match &mut taken {
            None => taken = Some(front),
            Some(taken) => taken.link(front),
        }
    }
    match taken {
        Some(taken) => taken,
        None => unreachable!("marked mbufs are not empty"),
    }
}

/// The storage that `len` bytes need at least, in bytes.
fn least_footprint(len: usize) -> usize {
    let largest = Class::K64.data_len();
    let one = |len: usize| match Class::for_len(len) {
        Class::Small => Class::Small.size(),
        class => Class::Small.size() + class.size(),
    };
    let rest = len % largest;
    len / largest * one(largest) + if rest > 0 || len == 0 { one(rest) } else { 0 }
}

/// Reads a chain's bytes in order, opaque ones too.
struct Reader<'a> {
    mbufs: crate::mbuf::Mbufs<'a>,
    mbuf: Option<&'a crate::mbuf::Mbuf>,
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(chain: &'a Chain, off: usize) -> Self {
        debug_assert!(off <= MAX_LEN);
        let mut mbufs = chain.run.mbufs();
        let mut at = off;
        let mut mbuf = mbufs.next();
        while let Some(now) = mbuf
            && at >= now.len()
        {
            at -= now.len();
            mbuf = mbufs.next();
        }
        Self { mbufs, mbuf, at }
    }

    fn read(&mut self, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            let Some(mbuf) = self.mbuf else { unreachable!("read to the end only") };
            let n = out.len().min(mbuf.len() - self.at);
            let (now, later) = mem::take(&mut out).split_at_mut(n);
            mbuf.read_at(self.at, now)?;
            out = later;
            self.at += n;
            if self.at == mbuf.len() {
                (self.mbuf, self.at) = (self.mbufs.next(), 0);
            }
        }
        Ok(())
    }
}
