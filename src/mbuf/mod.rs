//! One mbuf: where its bytes are, how far it may reach, and who else holds them.
//!
//! ```text
//!   0        64       128                256
//!   +--------+--------+------------------+
//!   | header | Meta   | 128 bytes of data|      Inline: the bytes are here
//!   +---|----+--------+------------------+
//!       | base        | owner, if External
//!       v
//!   +---+------------+=============+-----------+---+
//!   |   |  headroom  |  len bytes  | tailroom  |   |   a cluster, or someone else's memory
//!   +---+------------+=============+-----------+---+
//!   0   lo           off           off+len     hi      in bytes from `base`
//! ```
//!
//! All unsafe code that touches an mbuf's memory is in this room. Its invariants:
//!
//! 1. `lo <= off`, `off + len <= hi`, and `[lo, hi)` lies within the storage at `base`, which
//!    lives as long as the mbuf holds it. The storage is always initialised: the system zeroes a
//!    pool's mapping, and an owner gives a slice. (So stale bytes are a matter of secrecy, not of
//!    soundness; whoever grows an mbuf overwrites what it gained.) Opaque storage is never
//!    dereferenced.
//! 2. The bytes within `[lo, hi)` are written only by an mbuf that is *private*: neither ALIASED nor
//!    READONLY, nor opaque. Two mbufs over the same storage that are both private have bounds that
//!    do not overlap.
//! 3. COUNTED says that the storage may have other holders, and is freed by whoever finds that it
//!    was the last. ALIASED implies COUNTED.
//! 4. A run's mbufs are owned by the run, which nobody else can reach; `tail` of its head is its
//!    last mbuf.

pub(crate) mod external;
mod life;
mod run;

use std::{io, ptr::NonNull, slice};

use bitflags::bitflags;
use external::{Access, Header};
pub(crate) use run::{Mbufs, Run};

use crate::{
    error::{Error, Result},
    meta::Meta,
    pool::{Class, Event, Holders, Inner, MbufType},
};

/// Where the metadata and the data lie in a small mbuf, in bytes from its start.
const META: usize = 64;
const DATA: usize = 128;

bitflags! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Flags: u8 {
        /// The metadata was written since the mbuf was allocated.
        const META_VALID = 1 << 0;
        /// Others may hold this storage: ask the count when freeing.
        const COUNTED = 1 << 1;
        /// Others may see these very bytes: no writing, no room.
        const ALIASED = 1 << 2;
        /// The owner does not allow writing. Opaque storage never does.
        const READONLY = 1 << 3;
        /// The type is not data, and is counted.
        const TYPED = 1 << 4;
        /// An operation that changes several mbufs has chosen this one.
        const MARKED = 1 << 5;
        /// The storage is external.
        const EXTERNAL = 1 << 6;
        /// Another mbuf follows: `next` is there.
        const LINKED = 1 << 7;
    }
}

/// What may keep an mbuf from being private.
const SHARED: Flags = Flags::COUNTED.union(Flags::ALIASED).union(Flags::READONLY);

/// What keeps an mbuf from being freed in the quickest way.
const SLOW_TO_FREE: Flags =
    Flags::COUNTED.union(Flags::TYPED).union(Flags::EXTERNAL).union(Flags::LINKED);

/// Where the bytes of an mbuf are: in the mbuf itself, in a cluster of its own pool, in memory that
/// someone else owns, or in memory that only system calls may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Storage {
    Inline,
    K2,
    K4,
    K16,
    K64,
    External,
    Opaque,
}

impl Storage {
    /// The class of the cluster.
    #[inline(always)]
    pub(crate) const fn cluster(self) -> Option<Class> {
        match self {
            Storage::K2 => Some(Class::K2),
            Storage::K4 => Some(Class::K4),
            Storage::K16 => Some(Class::K16),
            Storage::K64 => Some(Class::K64),
            Storage::Inline | Storage::External | Storage::Opaque => None,
        }
    }

    /// The storage that a buffer of a class gives.
    #[inline(always)]
    const fn of(class: Class) -> Storage {
        match class {
            Class::Small => Storage::Inline,
            Class::K2 => Storage::K2,
            Class::K4 => Storage::K4,
            Class::K16 => Storage::K16,
            Class::K64 => Storage::K64,
        }
    }
}

/// The bookkeeping of an mbuf: its first cache line.
#[repr(C, align(64))]
pub(crate) struct Mbuf {
    next: Option<NonNull<Mbuf>>,
    /// Of the head only: the last mbuf of the run.
    tail: NonNull<Mbuf>,
    base: NonNull<u8>,
    pool: NonNull<Inner>,
    off: u32,
    len: u32,
    lo: u32,
    hi: u32,
    /// Of the head only: bytes of the run.
    total: u32,
    /// Of the head only: mbufs of the run that are not empty.
    segs: u32,
    /// Bytes just before `off` that were stripped and can be restored.
    stripped: u32,
    flags: Flags,
    kind: u8,
    storage: Storage,
}
const _: () = assert!(size_of::<Mbuf>() == META);

/// What lies in the data area of an mbuf whose storage is external.
#[derive(Clone, Copy)]
struct Owner {
    header: NonNull<Header>,
    /// Where `base` is in the owner's bytes.
    start: usize,
    /// How far the mbuf may reach when it is the only holder.
    len: u32,
}
const _: () = assert!(size_of::<Owner>() <= 128);

impl Mbuf {
    /// Links what follows, or nothing.
    #[inline]
    fn set_next(&mut self, next: Option<NonNull<Mbuf>>) {
        self.next = next;
        self.flags.set(Flags::LINKED, next.is_some());
    }

    /// Takes off what follows.
    fn take_next(&mut self) -> Option<NonNull<Mbuf>> {
        self.flags.remove(Flags::LINKED);
        self.next.take()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub(crate) fn stripped(&self) -> usize {
        self.stripped as usize
    }

    #[inline]
    pub(crate) fn forget_stripped(&mut self) {
        self.stripped = 0;
    }

    #[inline]
    pub(crate) fn storage(&self) -> Storage {
        self.storage
    }

    #[inline]
    pub(crate) fn is_opaque(&self) -> bool {
        self.storage == Storage::Opaque
    }

    pub(crate) fn kind(&self) -> MbufType {
        MbufType::from_index(self.kind)
    }

    pub(crate) fn pool(&self) -> &Inner {
        // SAFETY: an mbuf is outside the depot, and so one of its pool's references.
        unsafe { self.pool.as_ref() }
    }

    /// Something happens to this mbuf, and so to its cluster.
    #[inline(always)]
    pub(crate) fn note(&self, event: Event) {
        #[cfg(feature = "census")]
        {
            self.pool().note(Class::Small, self.index(), event);
            if let Some(class) = self.storage.cluster() {
                self.pool().note(class, self.cluster_index(class), event);
            }
        }
        let _ = event;
    }

    /// Whether the bytes may be written, and the room used.
    pub(crate) fn is_private(&self) -> bool {
        !self.flags.contains(Flags::READONLY)
            && (!self.flags.contains(Flags::ALIASED) || self.holders().is_sole())
    }

    /// Whether others see these bytes.
    pub(crate) fn is_aliased(&self) -> bool {
        self.flags.contains(Flags::ALIASED) && !self.holders().is_sole()
    }

    /// Whether an operation has chosen this mbuf.
    pub(crate) fn is_marked(&self) -> bool {
        self.flags.contains(Flags::MARKED)
    }

    /// Chooses this mbuf, or no longer.
    pub(crate) fn mark(&mut self, yes: bool) {
        self.flags.set(Flags::MARKED, yes);
    }

    /// Free private bytes before the first.
    #[inline]
    pub(crate) fn room_front(&self) -> usize {
        if self.is_private() { (self.off - self.lo) as usize } else { 0 }
    }

    /// Free private bytes after the last.
    #[inline]
    pub(crate) fn room_back(&self) -> usize {
        if self.is_private() { (self.hi - self.off - self.len) as usize } else { 0 }
    }

    /// Free bytes before the first, as far as that can be told without asking who else holds the
    /// storage; 0 where the mbuf is empty.
    #[inline(always)]
    pub(crate) fn quick_room_front(&self) -> usize {
        if self.len > 0 && !self.flags.intersects(SHARED) {
            (self.off - self.lo) as usize
        } else {
            0
        }
    }

    /// Free bytes after the last, as far as that can be told without asking who else holds the
    /// storage.
    #[inline(always)]
    pub(crate) fn quick_room_back(&self) -> usize {
        if self.flags.intersects(SHARED) { 0 } else { (self.hi - self.off - self.len) as usize }
    }

    /// The storage that the mbuf pins, beside itself, in bytes: whole clusters, whole owners.
    pub(crate) fn storage_len(&self) -> usize {
        match self.storage {
            Storage::Inline => 0,
            _ => self.storage_limit(),
        }
    }

    /// A number that two mbufs share if and only if they lie in the same storage.
    pub(crate) fn storage_addr(&self) -> usize {
        match self.storage {
            Storage::External | Storage::Opaque => self.owner().header.addr().get(),
            _ => self.base.addr().get(),
        }
    }

    /// Where the bytes are, for system calls only.
    #[inline]
    pub(crate) fn data_ptr(&self) -> NonNull<u8> {
        // SAFETY: within the storage at `base` (invariant 1).
        unsafe { self.base.add(self.off as usize) }
    }

    /// The bytes; `None` where they are opaque.
    #[inline]
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        if self.is_opaque() {
            return None;
        }
        let data = self.data_ptr();
        // SAFETY: within storage that this mbuf keeps alive, initialised (invariant 1), and not
        // written while `self` is borrowed: this mbuf would be borrowed to do so, and the others
        // over these bytes are not private (invariant 2).
        Some(unsafe { slice::from_raw_parts(data.as_ptr(), self.len as usize) })
    }

    /// The bytes to be written; `None` where the mbuf is not private.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        if !self.regain() {
            return None;
        }
        let data = self.data_ptr();
        // SAFETY: as in `bytes`; and private, so that nobody else reads or writes them
        // (invariant 2).
        Some(unsafe { slice::from_raw_parts_mut(data.as_ptr(), self.len as usize) })
    }

    /// Copies `out.len()` bytes from `at` on, opaque ones too.
    ///
    /// # Errors
    /// [`Error::TooShort`]; [`Error::Io`] where reading the file behind opaque bytes fails.
    pub(crate) fn read_at(&self, at: usize, out: &mut [u8]) -> Result<()> {
        let end = at.saturating_add(out.len());
        if end > self.len() {
            return Err(Error::TooShort { needed: end, available: self.len() });
        }
        if let Some(bytes) = self.bytes() {
            out.copy_from_slice(&bytes[at..end]);
            return Ok(());
        }
        let owner = self.owner();
        let offset = (owner.start + self.off as usize + at) as u64;
        // SAFETY: this mbuf holds the owner, and its storage is opaque.
        let read = unsafe { Header::read_at(owner.header, offset, out) };
        read.map_err(|error| Error::Io { errno: errno_of(&error) })
    }

    /// Takes what is private again into possession: `true` where the bytes may be written. A sole
    /// holder forgets that it ever shared, and reaches to the bounds of the storage again.
    #[inline]
    pub(crate) fn regain(&mut self) -> bool {
        if self.flags.contains(Flags::COUNTED) {
            self.regain_counted();
        }
        !self.flags.intersects(Flags::ALIASED.union(Flags::READONLY))
    }

    #[cold]
    fn regain_counted(&mut self) {
        if self.holders().is_sole() {
            self.flags.remove(Flags::COUNTED | Flags::ALIASED);
            self.lo = 0;
            self.hi = self.storage_limit() as u32;
        }
    }

    /// Grows the front by `n` bytes and returns them. They hold whatever was there: the caller
    /// overwrites them.
    ///
    /// # Panics
    /// Where there is not so much private room.
    #[inline]
    pub(crate) fn grow_front(&mut self, n: usize) -> &mut [u8] {
        assert!(self.regain() && n <= (self.off - self.lo) as usize, "no room in front");
        self.off -= n as u32;
        self.len += n as u32;
        self.stripped = 0;
        let data = self.data_ptr();
        // SAFETY: within `[lo, hi)`, as was just checked, and private, so that nobody else reads
        // or writes there (invariants 1 and 2).
        unsafe { slice::from_raw_parts_mut(data.as_ptr(), n) }
    }

    /// Grows the back by `n` bytes and returns them. They hold whatever was there: the caller
    /// overwrites them.
    ///
    /// # Panics
    /// Where there is not so much private room.
    #[inline]
    pub(crate) fn grow_back(&mut self, n: usize) -> &mut [u8] {
        let end = self.off + self.len;
        assert!(self.regain() && n <= (self.hi - end) as usize, "no room at the back");
        self.len += n as u32;
        // SAFETY: within `[lo, hi)`, as was just checked.
        let data = unsafe { self.base.add(end as usize) };
        // SAFETY: within `[lo, hi)` and private, so that nobody else reads or writes there
        // (invariants 1 and 2).
        unsafe { slice::from_raw_parts_mut(data.as_ptr(), n) }
    }

    /// Moves the start of an empty mbuf to the end of its room, for what will be prepended.
    pub(crate) fn start_at_end(&mut self) {
        if self.len == 0 {
            self.off = self.hi;
            self.stripped = 0;
        }
    }

    /// Leaves so much room in front of an empty mbuf, at most all of it.
    pub(crate) fn leave_headroom(&mut self, n: usize) {
        if self.len == 0 {
            self.off = self.lo + (n as u32).min(self.hi - self.lo);
            self.stripped = 0;
        }
    }

    /// The room at the back, for system calls to write to: its address and length.
    pub(crate) fn spare_back(&mut self) -> (NonNull<u8>, usize) {
        if !self.regain() {
            return (NonNull::dangling(), 0);
        }
        let end = self.off + self.len;
        // SAFETY: within `[lo, hi]` (invariant 1).
        let data = unsafe { self.base.add(end as usize) };
        (data, (self.hi - end) as usize)
    }

    /// Forgets the first `n` bytes, at most all. Not to be restored.
    #[inline]
    pub(crate) fn trim_front(&mut self, n: usize) {
        let n = n.min(self.len as usize) as u32;
        self.off += n;
        self.len -= n;
    }

    /// Strips the first `n` bytes, at most all; they can be restored.
    #[inline]
    pub(crate) fn strip_front(&mut self, n: usize) {
        let before = self.len;
        self.trim_front(n);
        self.stripped += before - self.len;
    }

    /// Gives back the last `n` stripped bytes, at most all.
    pub(crate) fn unstrip(&mut self, n: usize) {
        let n = (n as u32).min(self.stripped);
        self.off -= n;
        self.len += n;
        self.stripped -= n;
    }

    /// Keeps the first `n` bytes, at most all.
    #[inline]
    pub(crate) fn truncate(&mut self, n: usize) {
        self.len = self.len.min(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// Sets the type, and counts it.
    pub(crate) fn set_kind(&mut self, kind: MbufType) {
        if self.flags.contains(Flags::TYPED) {
            self.pool().count_type(self.kind(), false);
        }
        self.kind = kind.index() as u8;
        self.flags.set(Flags::TYPED, kind != MbufType::DATA);
        if kind != MbufType::DATA {
            self.pool().count_type(kind, true);
        }
    }

    /// Makes `blank` a further segment over `len` of these bytes, from `at` on.
    ///
    /// With `aliased`, both see the same bytes from now on, and neither may write them. Without,
    /// this mbuf gives up what it hands over, and both stay private within their new bounds.
    ///
    /// The caller has counted the new holder ([`Mbuf::add_holders`]). `blank` is inline, empty, and
    /// from the same pool.
    #[inline]
    pub(crate) fn lend(&mut self, blank: &mut Mbuf, at: usize, len: usize, aliased: bool) {
        assert!(at <= self.len() && len <= self.len() - at, "lending what is not there");
        assert!(self.pool == blank.pool && blank.storage == Storage::Inline && blank.len == 0);
        assert!(self.storage != Storage::Inline && self.flags.contains(Flags::COUNTED));
        let at = self.off + at as u32;
        blank.base = self.base;
        blank.storage = self.storage;
        blank.off = at;
        blank.len = len as u32;
        if matches!(self.storage, Storage::External | Storage::Opaque) {
            let owner = self.owner();
            // SAFETY: the data area of an mbuf in external storage holds its owner, and is big
            // enough and aligned for it. `blank` is inline and empty: nobody reads its data area.
            unsafe { blank.owner_ptr().write(owner) };
        }
        if aliased {
            self.flags.insert(Flags::ALIASED);
            (blank.lo, blank.hi) = (self.lo, self.hi);
        } else {
            (blank.lo, blank.hi) = (at, self.hi);
            self.hi = at;
            self.len = at - self.off;
        }
        let inherited = Flags::COUNTED | Flags::ALIASED | Flags::READONLY | Flags::EXTERNAL;
        blank.flags.remove(inherited);
        blank.flags.insert(self.flags.intersection(inherited));
    }

    /// Gives up its first `n` bytes, and the room before them, to `blank`: both stay private within
    /// their new bounds.
    ///
    /// The caller has counted the new holder ([`Mbuf::add_holders`]). `blank` is inline, empty, and
    /// from the same pool; this mbuf is a private one in a cluster.
    #[inline]
    pub(crate) fn hand_front(&mut self, blank: &mut Mbuf, n: usize) {
        assert!(n <= self.len() && self.storage.cluster().is_some(), "not there to be handed on");
        assert!(self.pool == blank.pool && blank.storage == Storage::Inline && blank.len == 0);
        assert!(self.flags.contains(Flags::COUNTED) && self.stripped == 0);
        assert!(!self.flags.intersects(Flags::ALIASED | Flags::READONLY), "not private");
        let end = self.off + n as u32;
        blank.base = self.base;
        blank.storage = self.storage;
        (blank.lo, blank.off, blank.len, blank.hi) = (self.lo, self.off, n as u32, end);
        blank.flags.insert(Flags::COUNTED);
        self.lo = end;
        self.off = end;
        self.len -= n as u32;
    }

    /// Counts `n` further holders of the storage, which is not inline.
    #[inline]
    pub(crate) fn add_holders(&mut self, n: u32) {
        // A sole holder need not lock the count, whether it ever shared or not.
        if self.flags.contains(Flags::COUNTED) && !self.holders().is_sole() {
            self.holders().more(n);
        } else {
            self.holders().first(n);
            self.flags.insert(Flags::COUNTED);
        }
    }

    /// # Panics
    /// For inline storage, which is never shared.
    #[inline]
    fn holders(&self) -> &Holders {
        assert!(self.storage != Storage::Inline, "inline storage is never shared");
        match self.storage.cluster() {
            Some(_) => self.cluster_holders(),
            // SAFETY: this mbuf holds the owner, so its header is there.
            None => unsafe { self.owner().header.as_ref() }.holders(),
        }
    }

    /// The holders of this mbuf's cluster, which it has.
    #[inline(always)]
    fn cluster_holders(&self) -> &Holders {
        self.pool().holders(self.base.addr().get() - self.pool().base().addr().get())
    }

    /// How far the mbuf may reach when it is the only holder of its storage, in bytes from `base`.
    fn storage_limit(&self) -> usize {
        match self.storage {
            Storage::External | Storage::Opaque => self.owner().len as usize,
            _ => self.storage.cluster().unwrap_or(Class::Small).data_len(),
        }
    }

    /// The number of this mbuf's cluster in its pool.
    #[inline(always)]
    fn cluster_index(&self, class: Class) -> u32 {
        let offset = self.base.addr().get() - self.pool().base().addr().get();
        (offset >> class.shift()) as u32
    }

    /// This mbuf's number in its pool.
    #[inline(always)]
    fn index(&self) -> u32 {
        let pool = self.pool();
        let offset = (&raw const *self).addr() - pool.base().addr().get();
        (offset >> Class::Small.shift()) as u32
    }

    /// The start of this mbuf, from the mapping's base: a reference to the header may only reach
    /// the header.
    #[inline]
    fn whole(&self) -> NonNull<u8> {
        let base = self.pool().base();
        let offset = (&raw const *self).addr() - base.addr().get();
        // SAFETY: an mbuf lies within its pool's mapping.
        unsafe { base.add(offset) }
    }

    fn owner_ptr(&self) -> NonNull<Owner> {
        // SAFETY: an mbuf is 256 bytes long.
        unsafe { self.whole().add(DATA) }.cast()
    }

    /// The owner of external storage.
    fn owner(&self) -> Owner {
        assert!(matches!(self.storage, Storage::External | Storage::Opaque));
        // SAFETY: written when the storage became external, and nobody writes there since: the
        // data area belongs to inline storage otherwise.
        unsafe { self.owner_ptr().read() }
    }
}

/// Asks the processor to fetch the cache line at an address.
#[inline(always)]
fn prefetch(at: NonNull<u8>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which accesses no memory that a program could see, and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.as_ptr().cast()) };
    }
    let _ = at;
}

/// The metadata of the mbuf at `mbuf`.
///
/// # Safety
/// `mbuf` was derived from its pool's mapping and is live.
unsafe fn meta_ptr(mbuf: NonNull<Mbuf>) -> NonNull<Meta> {
    // SAFETY: an mbuf is 256 bytes long, and the pointer may reach all of them.
    unsafe { mbuf.cast::<u8>().add(META) }.cast()
}

fn errno_of(error: &io::Error) -> i32 {
    match error.kind() {
        // A file that ended where bytes were expected has no number of its own.
        io::ErrorKind::UnexpectedEof => libc::ENODATA,
        _ => error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// How an owner's bytes may be used decides what the mbuf over them is.
fn external_flags(access: Access) -> (Storage, Flags) {
    match access {
        Access::Read => (Storage::External, Flags::EXTERNAL.union(Flags::READONLY)),
        Access::Write => (Storage::External, Flags::EXTERNAL),
        Access::Opaque => (Storage::Opaque, Flags::EXTERNAL.union(Flags::READONLY)),
    }
}
