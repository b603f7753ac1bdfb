//! Storage that someone else owns: attached to a chain, released once, by whoever lets go last.

use std::{
    any::type_name,
    fmt, io, mem,
    ops::{Bound, Range, RangeBounds},
    ptr::NonNull,
};

use crate::{
    error::{Error, Result},
    pool::Holders,
};

/// An owner of bytes that may be written through a chain ([`crate::Pool::attach_mut`]).
///
/// # Safety
/// [`ExternalMut::as_mut_slice`] gives a slice whose address and length do not change while the
/// owner is not moved, and which nobody else reads or writes until the owner is dropped.
pub unsafe trait ExternalMut: Send + Sync + 'static {
    /// The bytes. Called once, when they are attached.
    fn as_mut_slice(&mut self) -> &mut [u8];
}

/// An owner of memory that only system calls may read, since others may change it or take it away
/// at any time: a mapped file ([`crate::Pool::attach_opaque`]).
///
/// # Safety
/// `as_ptr` and `len` name a mapping that stays mapped until the owner is dropped; they do not
/// change. The memory need not be readable: a system call that finds it is not, fails with EFAULT.
pub unsafe trait Opaque: Send + Sync + 'static {
    /// The first byte.
    fn as_ptr(&self) -> *const u8;

    /// Bytes of the mapping.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `out.len()` bytes from `offset` on without touching the mapping (pread(2)).
    ///
    /// # Errors
    /// Whatever reading fails with; [`io::ErrorKind::UnexpectedEof`] where the file is shorter.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

/// How the bytes of an owner may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Opaque,
}

/// What an mbuf needs to know of an owner, whatever its type.
pub(crate) struct Header {
    holders: Holders,
    access: Access,
    data: NonNull<u8>,
    len: usize,
    read_at: unsafe fn(NonNull<Header>, u64, &mut [u8]) -> io::Result<()>,
    release: unsafe fn(NonNull<Header>),
}

impl Header {
    pub(crate) fn holders(&self) -> &Holders {
        &self.holders
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    pub(crate) fn data(&self) -> NonNull<u8> {
        self.data
    }

    /// Copies bytes of opaque memory out.
    ///
    /// # Safety
    /// `this` belongs to an owner that was not released, and which is opaque.
    pub(crate) unsafe fn read_at(this: NonNull<Header>, at: u64, out: &mut [u8]) -> io::Result<()> {
        // SAFETY: not released (the caller's promise).
        let read_at = unsafe { this.as_ref() }.read_at;
        // SAFETY: the function was made for this owner's type, together with the header.
        unsafe { read_at(this, at, out) }
    }

    /// Drops the owner.
    ///
    /// # Safety
    /// `this` belongs to an owner that was not released, and nobody uses its bytes any more.
    pub(crate) unsafe fn release(this: NonNull<Header>) {
        // SAFETY: not released (the caller's promise).
        let release = unsafe { this.as_ref() }.release;
        // SAFETY: the function was made for this owner's type, together with the header.
        unsafe { release(this) };
    }
}

/// An owner, boxed behind its header. Invariant: `header` is the first field.
#[repr(C)]
struct Boxed<O> {
    header: Header,
    owner: O,
}

/// An owner that is about to be attached.
///
/// Boxed, and from then on reached through one pointer only: its bytes may lie within itself, and
/// moving the box would take the ground from under pointers to them.
pub(crate) struct External<O>(NonNull<Boxed<O>>);

impl<O: AsRef<[u8]> + Send + Sync + 'static> External<O> {
    pub(crate) fn shared(owner: O) -> Self {
        let mut this = Self::new(owner, Access::Read, no_read_at);
        // SAFETY: made a moment ago, and owned by `this`.
        let owner = unsafe { &(*this.0.as_ptr()).owner };
        let bytes = owner.as_ref();
        let (data, len) = (NonNull::from(bytes).cast(), bytes.len());
        this.set(data, len);
        this
    }
}

impl<O: ExternalMut> External<O> {
    pub(crate) fn writable(owner: O) -> Self {
        let mut this = Self::new(owner, Access::Write, no_read_at);
        // SAFETY: made a moment ago, and owned by `this`.
        let owner = unsafe { &mut (*this.0.as_ptr()).owner };
        let bytes = owner.as_mut_slice();
        let len = bytes.len();
        this.set(NonNull::from(bytes).cast(), len);
        this
    }
}

impl<O: Opaque> External<O> {
    pub(crate) fn opaque(owner: O) -> Self {
        let mut this = Self::new(owner, Access::Opaque, opaque_read_at::<O>);
        // SAFETY: made a moment ago, and owned by `this`.
        let owner = unsafe { &(*this.0.as_ptr()).owner };
        let data = NonNull::new(owner.as_ptr().cast_mut()).unwrap_or(NonNull::dangling());
        let len = owner.len();
        this.set(data, len);
        this
    }
}

impl<O> External<O> {
    fn new(
        owner: O,
        access: Access,
        read_at: unsafe fn(NonNull<Header>, u64, &mut [u8]) -> io::Result<()>,
    ) -> Self {
        let header = Header {
            holders: Holders::new(),
            access,
            data: NonNull::dangling(),
            len: 0,
            read_at,
            release: release::<O>,
        };
        Self(NonNull::from(Box::leak(Box::new(Boxed { header, owner }))))
    }

    fn set(&mut self, data: NonNull<u8>, len: usize) {
        // SAFETY: `self` owns what it points to; the owner beside the header is not touched.
        let header = unsafe { &mut (*self.0.as_ptr()).header };
        header.data = data;
        header.len = len;
    }

    pub(crate) fn len(&self) -> usize {
        // SAFETY: `self` owns what it points to; the owner beside the header is not touched.
        unsafe { &(*self.0.as_ptr()).header }.len
    }

    pub(crate) fn into_owner(self) -> O {
        let boxed = self.0;
        mem::forget(self);
        // SAFETY: came out of a box in `new`, and `self`, which had it, is forgotten.
        let boxed = *unsafe { Box::from_raw(boxed.as_ptr()) };
        boxed.owner
    }

    /// Hands the owner over to whoever holds the header from now on.
    pub(crate) fn into_header(self) -> NonNull<Header> {
        let header = self.0.cast();
        mem::forget(self);
        header
    }
}

impl<O> Drop for External<O> {
    fn drop(&mut self) {
        // SAFETY: came out of a box in `new`, and was handed to nobody.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl<O> fmt::Debug for External<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "External<{}>({} bytes)", type_name::<O>(), self.len())
    }
}

/// # Safety
/// As [`Header::release`], for an owner of type `O`.
unsafe fn release<O>(this: NonNull<Header>) {
    // SAFETY: `this` came out of `into_header` for this `O`, and the header is the first field of
    // what was boxed.
    drop(unsafe { Box::from_raw(this.cast::<Boxed<O>>().as_ptr()) });
}

/// # Safety
/// As [`Header::read_at`], for an owner of type `O`.
unsafe fn opaque_read_at<O: Opaque>(
    this: NonNull<Header>,
    at: u64,
    out: &mut [u8],
) -> io::Result<()> {
    // SAFETY: `this` came out of `into_header` for this `O`, and was not released.
    unsafe { this.cast::<Boxed<O>>().as_ref() }.owner.read_at(at, out)
}

/// # Safety
/// None; the type is that of its counterpart.
unsafe fn no_read_at(_: NonNull<Header>, _: u64, _: &mut [u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A range within `len` bytes.
///
/// # Errors
/// [`Error::TooShort`] where it reaches past them, [`Error::Invalid`] where it ends before it
/// starts, [`Error::TooLong`] where it holds more than a segment can.
pub(crate) fn resolve(range: &impl RangeBounds<usize>, len: usize) -> Result<Range<usize>> {
    let past = |n: &usize| n.checked_add(1).ok_or(Error::TooShort { needed: *n, available: len });
    let start = match range.start_bound() {
        Bound::Included(n) => *n,
        Bound::Excluded(n) => past(n)?,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(n) => past(n)?,
        Bound::Excluded(n) => *n,
        Bound::Unbounded => len,
    };
    if start.max(end) > len {
        return Err(Error::TooShort { needed: start.max(end), available: len });
    }
    if start > end {
        return Err(Error::Invalid("a range that ends before it starts"));
    }
    let max = u32::MAX as usize;
    if end - start > max {
        return Err(Error::TooLong { wanted: end - start, max });
    }
    Ok(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_no_bytes_satisfy_are_refused() {
        assert_eq!(resolve(&(..), 5), Ok(0..5));
        assert_eq!(resolve(&(2..=4), 5), Ok(2..5));
        assert_eq!(resolve(&(5..5), 5), Ok(5..5));
        assert!(matches!(resolve(&(3..6), 5), Err(Error::TooShort { needed: 6, available: 5 })));
        assert!(matches!(resolve(&(..=usize::MAX), 5), Err(Error::TooShort { .. })));
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = 4..2;
        assert!(matches!(resolve(&reversed, 5), Err(Error::Invalid(_))));
        if let Some(huge) = (u32::MAX as usize).checked_add(2) {
            assert!(matches!(resolve(&(..), huge), Err(Error::TooLong { .. })));
        }
    }
}
