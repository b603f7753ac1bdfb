//! How an mbuf begins and ends: made of a free buffer, and freed, quickly or with all ceremony.

use std::{mem, ptr::NonNull};

use super::{DATA, Flags, META, Mbuf, Run, SLOW_TO_FREE, Storage, external::Header};
use crate::pool::{Class, Filling, Inner};

/// What keeps a single mbuf from being freed in the quickest way, whatever follows it.
const SLOW_TO_FREE_ONE: Flags = SLOW_TO_FREE.difference(Flags::LINKED);

/// Where a small mbuf is, and where its data area is.
///
/// # Safety
/// `index` is a small mbuf of `pool`.
#[inline(always)]
pub(super) unsafe fn place(pool: &Inner, index: u32) -> (NonNull<Mbuf>, NonNull<u8>) {
    let offset = (index as usize) << Class::Small.shift();
    // SAFETY: the region of small mbufs lies within the mapping, and the index within the region.
    let start = unsafe { pool.base().add(offset) };
    // SAFETY: an mbuf is 256 bytes long.
    (start.cast(), unsafe { start.add(DATA) })
}

/// Makes an mbuf of a free buffer: empty, over `size` bytes of storage at `base`, `headroom` bytes
/// of room in front.
///
/// # Safety
/// `mbuf` was taken from `pool` and is used by nobody; so was the storage.
#[inline(always)]
pub(super) unsafe fn init(
    pool: &Inner,
    mbuf: NonNull<Mbuf>,
    storage: Storage,
    base: NonNull<u8>,
    size: u32,
    headroom: u32,
) {
    let header = Mbuf {
        next: None,
        tail: mbuf,
        base,
        pool: NonNull::from(pool),
        off: headroom,
        len: 0,
        lo: 0,
        hi: size,
        total: 0,
        segs: 0,
        stripped: 0,
        flags: Flags::empty(),
        kind: 0,
        storage,
    };
    // SAFETY: within the mapping, aligned to 256 bytes, and nobody else's.
    unsafe { mbuf.write(header) };
}

/// Frees a single mbuf, inline or with a 2 KiB cluster, if this thread's cache has room. Where it
/// has none, or a flag of `slow` is set, the slow ways do the rest.
///
/// # Safety
/// As [`free`].
#[inline(always)]
pub(super) unsafe fn free_quickly(mbuf: NonNull<Mbuf>, slow: Flags) -> Freed {
    // SAFETY: live, and nobody else's.
    let this = unsafe { mbuf.as_ref() };
    if this.flags.intersects(slow) {
        return Freed::Nothing;
    }
    let cache = this.pool().cache();
    let index = this.index();
    // Only the usual cluster has this way: others would cost it instructions, and are rarer.
    if this.storage == Storage::K2 {
        if !cache.push_here(Class::K2, this.cluster_index(Class::K2)) {
            return Freed::Nothing;
        }
    } else if this.storage != Storage::Inline {
        return Freed::Nothing;
    }
    if cache.push_here(Class::Small, index) { Freed::All } else { Freed::Storage }
}

/// Frees single mbufs, inline or with a 2 KiB cluster, one after the other, with the least to do for
/// each; whatever is anything else is dropped as usual.
#[inline]
pub(super) fn free_many(mut runs: impl Iterator<Item = Run>) {
    while let Some(run) = runs.next() {
        let pool = run.head().pool;
        // SAFETY: the pool lives as long as the mbuf is outside the depot, and then as long as this
        // thread's cache, which holds it and cannot go meanwhile.
        let mut filling = unsafe { pool.as_ref() }.cache().filling();
        let mut other = Some(run);
        while let Some(run) = other.take() {
            if !keep(&run, pool, &mut filling) {
                other = Some(run);
                break;
            }
            mem::forget(run);
            other = runs.next();
        }
        // What was kept counts from here on, and the cache may be used for what is not.
        drop(filling);
        drop(other);
    }
}

/// Frees a run if it is one mbuf without anything special, and there is room in the cache of its
/// pool; it must be forgotten then.
#[inline(always)]
fn keep(run: &Run, pool: NonNull<Inner>, filling: &mut Filling<'_>) -> bool {
    let this = run.head();
    let cluster = match this.storage {
        Storage::Inline => None,
        Storage::K2 => Some(this.cluster_index(Class::K2)),
        _ => return false,
    };
    !this.flags.intersects(SLOW_TO_FREE) && this.pool == pool && filling.keep(this.index(), cluster)
}

/// What [`free_quickly`] did.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Freed {
    /// Everything.
    All,
    /// The mbuf's storage, not the mbuf itself.
    Storage,
    /// Nothing.
    Nothing,
}

/// Frees one mbuf and lets go of its storage.
///
/// # Safety
/// `mbuf` is live, owned by the caller, and not used afterwards.
#[inline]
pub(super) unsafe fn free(mbuf: NonNull<Mbuf>) {
    // SAFETY: the caller's promise is handed on.
    match unsafe { free_quickly(mbuf, SLOW_TO_FREE_ONE) } {
        Freed::All => {}
        // SAFETY: as above; the mbuf itself was not freed yet.
        Freed::Storage => unsafe { free_mbuf(mbuf) },
        // SAFETY: as above; nothing was freed yet.
        Freed::Nothing => unsafe { free_counted(mbuf) },
    }
}

/// Frees an mbuf over a cluster that others may hold, too, quickly if it can.
///
/// # Safety
/// As [`free`].
#[inline(never)]
unsafe fn free_counted(mbuf: NonNull<Mbuf>) {
    // SAFETY: live, and nobody else's.
    let this = unsafe { mbuf.as_ref() };
    if this.flags.intersection(SLOW_TO_FREE_ONE) != Flags::COUNTED || this.pool().zero_on_free() {
        // SAFETY: the caller's promise is handed on.
        return unsafe { free_slowly(mbuf) };
    }
    let (pool, index) = (this.pool, this.index());
    if this.cluster_holders().release()
        && let Some(class) = this.storage.cluster()
    {
        // SAFETY: this mbuf was the last holder of the cluster, and lets go of it here.
        unsafe { Inner::free(pool, class, this.cluster_index(class)) };
    }
    if !this.pool().cache().push_here(Class::Small, index) {
        // SAFETY: nobody uses the mbuf any more (the caller's promise).
        unsafe { Inner::free(pool, Class::Small, index) };
    }
}

/// Frees an mbuf whatever it is.
///
/// # Safety
/// As [`free`].
#[inline(never)]
unsafe fn free_slowly(mbuf: NonNull<Mbuf>) {
    // SAFETY: live, and nobody else's.
    let this = unsafe { mbuf.as_ref() };
    let (pool, index) = (this.pool, this.index());
    // Last, and also where the destructor of an owner panics.
    let _free = OnDrop(|| {
        // SAFETY: nobody uses the mbuf any more (the caller's promise).
        unsafe { Inner::free(pool, Class::Small, index) }
    });
    if this.flags.intersects(SLOW_TO_FREE_ONE) || this.pool().zero_on_free() {
        // SAFETY: the caller's promise is handed on.
        unsafe { let_go(mbuf) };
    } else if let Some(class) = this.storage.cluster() {
        let cluster = this.cluster_index(class);
        // SAFETY: the cluster is this mbuf's alone (not counted), which lets go of it here.
        unsafe { Inner::free(pool, class, cluster) };
    }
}

/// Does something at the end of a scope, however that is left.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Frees an mbuf that has let go of its storage.
///
/// # Safety
/// As [`free`].
#[cold]
#[inline(never)]
pub(super) unsafe fn free_mbuf(mbuf: NonNull<Mbuf>) {
    // SAFETY: live, and nobody else's.
    let this = unsafe { mbuf.as_ref() };
    let (pool, index) = (this.pool, this.index());
    if this.pool().zero_on_free() && this.storage == Storage::Inline {
        // SAFETY: the caller's promise is handed on; inline storage was not let go of before.
        unsafe { let_go(mbuf) };
    }
    // SAFETY: nobody uses the mbuf any more (the caller's promise).
    unsafe { Inner::free(pool, Class::Small, index) };
}

/// Lets go of an mbuf's storage, and of what is counted of it: the slow ways.
///
/// # Safety
/// As [`free`], which frees the mbuf itself.
#[cold]
#[inline(never)]
unsafe fn let_go(mbuf: NonNull<Mbuf>) {
    // SAFETY: live, and nobody else's.
    let this = unsafe { mbuf.as_ref() };
    if this.flags.contains(Flags::TYPED) {
        this.pool().count_type(this.kind(), false);
    }
    let zero = this.pool().zero_on_free();
    let last = !this.flags.contains(Flags::COUNTED) || this.holders().release();
    if last && let Some(class) = this.storage.cluster() {
        let cluster = this.cluster_index(class);
        if zero {
            // SAFETY: `base` is the start of a whole cluster that only this mbuf holds.
            unsafe { this.base.write_bytes(0, class.size()) };
        }
        // SAFETY: the cluster is this mbuf's alone, which lets go of it here.
        unsafe { Inner::free(this.pool, class, cluster) };
    } else if last && this.storage != Storage::Inline {
        // SAFETY: this mbuf was the last holder, and lets go here.
        unsafe { Header::release(this.owner().header) };
    }
    if zero {
        let start = this.whole();
        // SAFETY: the metadata and the data of this mbuf, which nobody uses any more.
        let rest = unsafe { start.add(META) };
        // SAFETY: as above; an mbuf is 256 bytes long.
        unsafe { rest.write_bytes(0, Class::Small.size() - META) };
    }
}
