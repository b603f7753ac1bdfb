//! A run: mbufs in a row, owned together. The head keeps the totals, so a run is one pointer wide.

use std::{fmt, marker::PhantomData, mem, ops::Range, ptr::NonNull};

use super::{
    DATA, Flags, Mbuf, Owner, SLOW_TO_FREE, Storage,
    external::External,
    external_flags,
    life::{Freed, free, free_many, free_mbuf, free_quickly, init, place},
    meta_ptr, prefetch,
};
use crate::{
    error::{Error, Result},
    meta::Meta,
    pool::{Alloc, BULK, Class, Event, Inner},
};

/// Mbufs in a row: at least one. Dropping it frees them all.
#[repr(transparent)]
pub(crate) struct Run(NonNull<Mbuf>);

// SAFETY: a run owns its mbufs, and what they point to is either owned with them, or only read
// (invariant 2), or an atomic; owners are `Send + Sync`.
unsafe impl Send for Run {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for Run {}

impl Run {
    /// One empty mbuf, whose bytes go to itself or to a cluster of `class`, behind `headroom`
    /// bytes of room (clamped to what the class holds).
    #[inline(always)]
    #[cfg_attr(feature = "census", track_caller)]
    pub(crate) fn alloc<A: Alloc>(alloc: &A, class: Class, headroom: usize) -> Result<Run> {
        let cache = alloc.cache();
        if class == Class::Small {
            if let Some(index) = cache.pop_here(Class::Small) {
                alloc.inner().taken(Class::Small, index);
                // SAFETY: just taken from this pool.
                return Ok(unsafe { Self::from_index(alloc.inner(), index, headroom) });
            }
        } else if let Some((index, cluster)) = cache.pop_pair_here(class) {
            let pool = alloc.inner();
            pool.taken(Class::Small, index);
            pool.taken(class, cluster);
            // SAFETY: both were just taken from this pool.
            return Ok(unsafe { Self::from_indices(pool, index, class, cluster, headroom) });
        }
        Self::alloc_slow(alloc, class, headroom)
    }

    /// Up to `n` of them at once, as far as the cache has them; says how many. `to` has room.
    #[cfg_attr(feature = "census", track_caller)]
    pub(crate) fn alloc_cached<T>(
        pool: &Inner,
        class: Class,
        headroom: usize,
        n: usize,
        to: &mut Vec<T>,
        make: impl Fn(Run) -> T,
    ) -> usize {
        let (mut indices, mut clusters) = ([0; BULK], [0; BULK]);
        let n = pool.cache().pop_some_here(class, &mut indices, &mut clusters, n);
        let (indices, clusters) = (&indices[..n], &clusters[..n]);
        for &index in indices {
            pool.taken(Class::Small, index);
        }
        if class == Class::Small {
            // SAFETY: just taken from this pool, each used once.
            let one = |&index| unsafe { Self::from_index(pool, index, headroom) };
            to.extend(indices.iter().map(one).map(make));
        } else {
            for &cluster in clusters {
                pool.taken(class, cluster);
            }
            let one = |(&index, &cluster)| {
                // SAFETY: both were just taken from this pool, each used once.
                unsafe { Self::from_indices(pool, index, class, cluster, headroom) }
            };
            to.extend(indices.iter().zip(clusters).map(one).map(make));
        }
        n
    }

    /// Frees them all; those of one mbuf without anything special cost less than one by one.
    pub(crate) fn free_many(runs: impl Iterator<Item = Run>) {
        free_many(runs);
    }

    #[cold]
    #[inline(never)]
    #[cfg_attr(feature = "census", track_caller)]
    fn alloc_slow<A: Alloc>(alloc: &A, class: Class, headroom: usize) -> Result<Run> {
        let pool = alloc.inner();
        let index = alloc.take(Class::Small).ok_or(Error::NoBuffers { class: Class::Small })?;
        pool.taken(Class::Small, index);
        // SAFETY: just taken from this pool.
        let run = unsafe { Self::from_index(pool, index, headroom) };
        if class == Class::Small {
            return Ok(run);
        }
        let cluster = alloc.take(class).ok_or(Error::NoBuffers { class })?;
        pool.taken(class, cluster);
        mem::forget(run);
        // SAFETY: both were just taken from this pool; the run that had the first is forgotten.
        Ok(unsafe { Self::from_indices(pool, index, class, cluster, headroom) })
    }

    /// # Safety
    /// `index` is a small mbuf that was taken from `pool` and is used by nobody.
    #[inline(always)]
    unsafe fn from_index(pool: &Inner, index: u32, headroom: usize) -> Run {
        let headroom = headroom.min(Class::Small.data_len()) as u32;
        // SAFETY: the caller's promise is handed on.
        let (mbuf, base) = unsafe { place(pool, index) };
        // SAFETY: as above; the base is that of the mbuf's own data.
        unsafe { init(pool, mbuf, Storage::Inline, base, 128, headroom) };
        Run(mbuf)
    }

    /// # Safety
    /// `index` is a small mbuf, and `cluster` a cluster of `class`, that were taken from `pool` and
    /// are used by nobody.
    #[inline(always)]
    unsafe fn from_indices(
        pool: &Inner,
        index: u32,
        class: Class,
        cluster: u32,
        headroom: usize,
    ) -> Run {
        let headroom = headroom.min(class.data_len()) as u32;
        // SAFETY: the caller's promise is handed on.
        let (mbuf, _) = unsafe { place(pool, index) };
        let offset = (cluster as usize) << class.shift();
        // SAFETY: the cluster lies within the mapping, at this multiple of its size.
        let base = unsafe { pool.base().add(offset) };
        let storage = Storage::of(class);
        // SAFETY: as above; the base is that of a whole cluster.
        unsafe { init(pool, mbuf, storage, base, class.size() as u32, headroom) };
        Run(mbuf)
    }

    /// Empty mbufs with room for `len` bytes in all, in as few as the classes allow: each the
    /// smallest that holds what is left. Where a class has run out, a larger one stands in, and
    /// then smaller ones.
    #[cfg_attr(feature = "census", track_caller)]
    pub(crate) fn alloc_for<A: Alloc>(alloc: &A, len: usize) -> Result<Run> {
        let mut run = Self::alloc_some(alloc, len)?;
        let mut room = run.head().room_back();
        while room < len {
            let more = Self::alloc_some(alloc, len - room)?;
            room += more.head().room_back();
            run.link(more);
        }
        Ok(run)
    }

    /// One empty mbuf with room for `len` contiguous bytes behind `headroom` bytes of room, or
    /// behind fewer where the classes with room for both have run out. `len` is at most 64 KiB.
    #[cfg_attr(feature = "census", track_caller)]
    pub(crate) fn alloc_contiguous<A: Alloc>(
        alloc: &A,
        len: usize,
        headroom: usize,
    ) -> Result<Run> {
        let wanted = Class::for_len(len.saturating_add(headroom));
        let (tight, roomy) = Class::ALL.split_at(wanted.index());
        // Those with room for both, smallest first; then those with room for the bytes alone.
        for &class in roomy.iter().chain(tight.iter().rev()) {
            if class.data_len() < len || alloc.inner().total(class) == 0 {
                continue;
            }
            match Self::alloc(alloc, class, headroom.min(class.data_len() - len)) {
                Err(Error::NoBuffers { class: Class::Small }) if class != Class::Small => {
                    return Err(Error::NoBuffers { class: Class::Small });
                }
                Err(_) => {}
                result => return result,
            }
        }
        Err(Error::NoBuffers { class: wanted })
    }

    /// The first mbuf of a packet of `len` bytes: with room for all of them behind the headroom if
    /// one buffer has that, else with room for as many as can be.
    #[cfg_attr(feature = "census", track_caller)]
    pub(crate) fn alloc_first<A: Alloc>(alloc: &A, len: usize, headroom: usize) -> Result<Run> {
        let largest = Class::K64.data_len();
        let whole = len.saturating_add(headroom) <= largest;
        match Self::alloc_contiguous(alloc, if whole { len } else { largest - headroom }, headroom)
        {
            Err(Error::NoBuffers { class }) if class != Class::Small => {
                Self::alloc(alloc, Class::Small, headroom)
            }
            result => result,
        }
    }

    /// One empty mbuf for `len` bytes, or for as many of them as can be.
    #[cfg_attr(feature = "census", track_caller)]
    fn alloc_some<A: Alloc>(alloc: &A, len: usize) -> Result<Run> {
        let wanted = Class::for_len(len);
        let larger = Class::ALL[wanted.index()..].iter();
        let smaller = Class::ALL[..wanted.index()].iter().rev();
        for &class in larger.chain(smaller) {
            if alloc.inner().total(class) == 0 {
                continue;
            }
            match Self::alloc(alloc, class, 0) {
                // Without a small mbuf no other class helps.
                Err(Error::NoBuffers { class: Class::Small }) => {
                    return Err(Error::NoBuffers { class: Class::Small });
                }
                Err(_) => {}
                Ok(run) => return Ok(run),
            }
        }
        Err(Error::NoBuffers { class: wanted })
    }

    /// Makes an inline, empty mbuf a segment over an owner's bytes.
    pub(crate) fn attach<O>(&mut self, external: External<O>, range: Range<usize>) {
        let header = external.into_header();
        // SAFETY: just made, and held by nobody else.
        let shared = unsafe { header.as_ref() };
        let (storage, flags) = external_flags(shared.access());
        // SAFETY: the range was checked to lie within the owner's bytes (`resolve`).
        let base = unsafe { shared.data().add(range.start) };
        let len = (range.end - range.start) as u32;
        let head = self.head_mut();
        assert!(head.storage == Storage::Inline && head.len == 0);
        let owner = Owner { header, start: range.start, len };
        // SAFETY: the data area is aligned to 128 bytes and big enough, and is no longer inline
        // storage after the lines that follow.
        unsafe { head.owner_ptr().write(owner) };
        head.base = base;
        head.storage = storage;
        head.flags.insert(flags);
        (head.lo, head.off, head.len, head.hi) = (0, 0, len, len);
        self.recount();
    }

    /// Has the head's bookkeeping fetched, which is soon looked at.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        prefetch(self.0.cast());
    }

    /// Has the first bytes fetched, and the metadata if there is any. Looks at the head.
    #[inline(always)]
    pub(crate) fn prefetch_bytes(&self) {
        prefetch(self.head().data_ptr());
        if self.head().flags.contains(Flags::META_VALID) {
            // SAFETY: the head's own pointer, which may reach the whole mbuf.
            prefetch(unsafe { meta_ptr(self.0) }.cast());
        }
    }

    #[inline]
    pub(crate) fn head(&self) -> &Mbuf {
        // SAFETY: a run owns its mbufs (invariant 4), and is borrowed.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    pub(crate) fn head_mut(&mut self) -> &mut Mbuf {
        // SAFETY: a run owns its mbufs (invariant 4), and is borrowed mutably.
        unsafe { self.0.as_mut() }
    }

    #[inline]
    pub(crate) fn last(&self) -> &Mbuf {
        let tail = self.head().tail;
        // SAFETY: the tail is an mbuf of the run (invariant 4), which is borrowed.
        unsafe { tail.as_ref() }
    }

    #[inline]
    pub(crate) fn last_mut(&mut self) -> &mut Mbuf {
        let mut tail = self.head().tail;
        // SAFETY: the tail is an mbuf of the run (invariant 4), which is borrowed mutably.
        unsafe { tail.as_mut() }
    }

    #[inline]
    pub(crate) fn is_single(&self) -> bool {
        self.head().next.is_none()
    }

    /// Bytes in all mbufs.
    #[inline]
    pub(crate) fn total(&self) -> usize {
        self.head().total as usize
    }

    /// Mbufs that are not empty.
    #[inline]
    pub(crate) fn segs(&self) -> usize {
        self.head().segs as usize
    }

    /// Corrects the bytes of the run after an mbuf was changed that is not empty and was not.
    #[inline]
    pub(crate) fn set_total(&mut self, total: usize) {
        self.head_mut().total = total as u32;
    }

    /// Corrects the totals after mbufs were changed.
    #[inline]
    pub(crate) fn set_totals(&mut self, total: usize, segs: usize) {
        let head = self.head_mut();
        head.total = total as u32;
        head.segs = segs as u32;
    }

    /// Counts the totals anew. O(mbufs).
    pub(crate) fn recount(&mut self) {
        let (mut total, mut segs) = (0, 0);
        for mbuf in self.mbufs() {
            total += mbuf.len();
            segs += usize::from(mbuf.len > 0);
        }
        self.set_totals(total, segs);
    }

    /// The mbufs in order, empty ones too.
    #[inline]
    pub(crate) fn mbufs(&self) -> Mbufs<'_> {
        Mbufs { next: Some(self.0), run: PhantomData }
    }

    /// The mbufs in order, to be changed; [`Run::recount`] follows.
    pub(crate) fn mbufs_mut(&mut self) -> MbufsMut<'_> {
        MbufsMut { next: Some(self.0), run: PhantomData }
    }

    /// Joins another run at the end. O(1). The sum of the bytes fits 32 bits (the caller checked).
    #[inline]
    pub(crate) fn link(&mut self, other: Run) {
        let (first, tail) = (other.0, other.head().tail);
        let (total, segs) = (other.total(), other.segs());
        mem::forget(other);
        self.last_mut().set_next(Some(first));
        let head = self.head_mut();
        head.tail = tail;
        head.total += total as u32;
        head.segs += segs as u32;
    }

    /// Puts one mbuf before the head; it takes over the metadata and the totals.
    pub(crate) fn link_front(&mut self, mut front: Run) {
        assert!(front.is_single());
        front.inherit_meta(self);
        let old = mem::replace(self, front);
        self.link(old);
    }

    /// Takes the head off; the next mbuf takes over the metadata and the totals. `None` where there
    /// is no other.
    pub(crate) fn unlink_front(&mut self) -> Option<Run> {
        let next = self.head_mut().take_next()?;
        let (tail, total, segs) = (self.head().tail, self.total(), self.segs());
        let mut old = mem::replace(self, Run(next));
        let old_len = old.head().len();
        old.head_mut().tail = old.0;
        old.recount();
        let head = self.head_mut();
        head.tail = tail;
        self.set_totals(total - old_len, segs - usize::from(old_len > 0));
        self.inherit_meta(&old);
        Some(old)
    }

    /// Keeps the first `keep` mbufs (at least one) and takes the others off. O(mbufs).
    pub(crate) fn cut(&mut self, keep: usize) -> Option<Run> {
        assert!(keep > 0);
        let (mut total, mut segs) = (0, 0);
        let mut last = self.0;
        for mbuf in self.mbufs().take(keep) {
            total += mbuf.len();
            segs += usize::from(mbuf.len > 0);
            last = NonNull::from(mbuf);
        }
        // A pointer of the run's own, not one from a shared reference, since it is written through.
        let last = self.own(last);
        // SAFETY: an mbuf of this run (invariant 4), which is borrowed mutably.
        let next = unsafe { (*last.as_ptr()).take_next() }?;
        let (all, all_segs, tail) = (self.total(), self.segs(), self.head().tail);
        self.head_mut().tail = last;
        self.set_totals(total, segs);
        let mut rest = Run(next);
        rest.head_mut().tail = tail;
        rest.set_totals(all - total, all_segs - segs);
        Some(rest)
    }

    /// The pointer with which an mbuf was made, by its address: it may reach the whole mbuf.
    fn own(&self, mbuf: NonNull<Mbuf>) -> NonNull<Mbuf> {
        // SAFETY: the caller found the address in this run, so an mbuf is live there.
        unsafe { mbuf.as_ref() }.whole().cast()
    }

    /// Something happens to all mbufs.
    #[inline(always)]
    pub(crate) fn note(&self, event: Event) {
        #[cfg(feature = "census")]
        self.mbufs().for_each(|mbuf| mbuf.note(event));
        let _ = event;
    }

    /// The metadata; empty where none was ever written.
    #[inline]
    pub(crate) fn meta(&self) -> &Meta {
        if !self.head().flags.contains(Flags::META_VALID) {
            return const { &Meta::EMPTY };
        }
        // SAFETY: the head's own pointer, which may reach the whole mbuf.
        let meta = unsafe { meta_ptr(self.0) };
        // SAFETY: within a live mbuf that this run owns, written before (the flag), aligned.
        unsafe { meta.as_ref() }
    }

    /// The metadata to be written, zeroed at the first access.
    #[inline]
    pub(crate) fn meta_mut(&mut self) -> &mut Meta {
        // SAFETY: the head's own pointer, which may reach the whole mbuf.
        let mut meta = unsafe { meta_ptr(self.0) };
        if !self.head().flags.contains(Flags::META_VALID) {
            self.head_mut().flags.insert(Flags::META_VALID);
            // SAFETY: within a live mbuf that this run owns, aligned.
            unsafe { meta.write(Meta::EMPTY) };
        }
        // SAFETY: within a live mbuf that this run owns, written, aligned; borrowed with the run.
        unsafe { meta.as_mut() }
    }

    /// Copies the metadata of another run, if it has any.
    #[inline]
    pub(crate) fn inherit_meta(&mut self, other: &Run) {
        if other.head().flags.contains(Flags::META_VALID) {
            *self.meta_mut() = *other.meta();
        } else {
            self.head_mut().flags.remove(Flags::META_VALID);
        }
    }

    /// What is wrong with the run, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (mut total, mut segs) = (0u64, 0u32);
        let mut leading = true;
        let mut last = self.0;
        for (i, mbuf) in self.mbufs().enumerate() {
            let fail = |what: &str| Err(format!("mbuf {i}: {what}: {mbuf:?}"));
            last = NonNull::from(mbuf);
            total += u64::from(mbuf.len);
            segs += u32::from(mbuf.len > 0);
            if mbuf.len == 0 && !leading {
                return fail("empty, behind one that is not");
            }
            if mbuf.flags.contains(Flags::LINKED) != mbuf.next.is_some() {
                return fail("its flag does not say whether it is linked");
            }
            if mbuf.flags.contains(Flags::MARKED) {
                return fail("still chosen by an operation that has ended");
            }
            if mbuf.len == 0 && i > 0 && mbuf.stripped == 0 {
                return fail("empty, neither the head nor kept for what was stripped");
            }
            if mbuf.stripped > 0 && !leading {
                return fail("stripped bytes behind bytes that are there");
            }
            leading &= mbuf.len == 0;
            if mbuf.lo > mbuf.off || mbuf.off.checked_add(mbuf.len).is_none_or(|end| end > mbuf.hi)
            {
                return fail("bytes outside its bounds");
            }
            if mbuf.stripped > mbuf.off - mbuf.lo {
                return fail("more stripped bytes than room");
            }
            if mbuf.hi as usize > mbuf.storage_limit() {
                return fail("bounds outside its storage");
            }
            if mbuf.flags.contains(Flags::ALIASED) && !mbuf.flags.contains(Flags::COUNTED) {
                return fail("aliased but not counted");
            }
            if mbuf.storage == Storage::Inline {
                if mbuf.flags.intersects(Flags::COUNTED | Flags::READONLY) {
                    return fail("inline storage that is shared or read-only");
                }
                if mbuf.base.addr().get() != mbuf.whole().addr().get() + DATA {
                    return fail("inline storage that is not in the mbuf");
                }
            }
        }
        if last != self.head().tail {
            return Err("the tail is not the last mbuf".into());
        }
        if total != u64::from(self.head().total) || segs != self.head().segs {
            let head = self.head();
            return Err(format!(
                "totals say {} bytes in {} segments; there are {total} in {segs}",
                head.total, head.segs
            ));
        }
        Ok(())
    }
}

impl Drop for Run {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the run owns its mbufs (invariant 4), and ends here.
        match unsafe { free_quickly(self.0, SLOW_TO_FREE) } {
            Freed::All => {}
            // SAFETY: as above; the mbuf itself was not freed yet.
            Freed::Storage => unsafe { free_mbuf(self.0) },
            // SAFETY: as above; nothing was freed yet.
            Freed::Nothing => unsafe { free_all(self.0) },
        }
    }
}

/// Frees an mbuf and all that follow it.
///
/// # Safety
/// They are live, owned by the caller, and not used afterwards.
#[inline(never)]
unsafe fn free_all(mbuf: NonNull<Mbuf>) {
    /// What is left to be freed, also where the destructor of an owner panics.
    struct Rest(Option<NonNull<Mbuf>>);

    impl Drop for Rest {
        fn drop(&mut self) {
            if let Some(mbuf) = self.0 {
                // SAFETY: the promise that `free_all` was given is handed on.
                unsafe { free_all(mbuf) };
            }
        }
    }

    let mut rest = Rest(Some(mbuf));
    while let Some(mbuf) = rest.0 {
        // SAFETY: live, and nobody else's (the caller's promise).
        rest.0 = unsafe { mbuf.as_ref() }.next;
        // SAFETY: the caller's promise is handed on.
        unsafe { free(mbuf) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("storage", &self.storage)
            .field("bounds", &(self.lo..self.hi))
            .field("off", &self.off)
            .field("len", &self.len)
            .field("stripped", &self.stripped)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

/// The mbufs of a run.
#[derive(Clone)]
pub(crate) struct Mbufs<'a> {
    next: Option<NonNull<Mbuf>>,
    run: PhantomData<&'a Run>,
}

impl<'a> Iterator for Mbufs<'a> {
    type Item = &'a Mbuf;

    #[inline]
    fn next(&mut self) -> Option<&'a Mbuf> {
        // SAFETY: an mbuf of a run (invariant 4) that is borrowed for 'a.
        let mbuf = unsafe { self.next?.as_ref() };
        self.next = mbuf.next;
        Some(mbuf)
    }
}

impl fmt::Debug for Mbufs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// The mbufs of a run, to be changed.
pub(crate) struct MbufsMut<'a> {
    next: Option<NonNull<Mbuf>>,
    run: PhantomData<&'a mut Run>,
}

impl<'a> Iterator for MbufsMut<'a> {
    type Item = &'a mut Mbuf;

    fn next(&mut self) -> Option<&'a mut Mbuf> {
        // SAFETY: an mbuf of a run (invariant 4) that is borrowed mutably for 'a; each is given
        // out once, and nothing reaches one mbuf from another but `next` and `tail`, which only
        // this room follows.
        let mbuf = unsafe { self.next?.as_mut() };
        self.next = mbuf.next;
        Some(mbuf)
    }
}
