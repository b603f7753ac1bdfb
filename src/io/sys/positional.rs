//! Chains to and from a place in a file: pwritev(2) and preadv(2).

use std::{fs::File, os::fd::AsRawFd};

use smallvec::SmallVec;

use super::{Errno, IOV_MAX};
use crate::chain::{Chain, Reserved};

type Vectors = SmallVec<[libc::iovec; 32]>;

/// pwritev(2) of a whole chain. A failure says how many bytes were written before it.
pub(crate) fn write_at(file: &File, offset: u64, chain: &Chain) -> Result<(), (usize, Errno)> {
    let mut vectors = Vectors::new();
    chain.iovecs(&mut vectors, usize::MAX);
    let whole = each(&mut vectors, offset, |part, at| {
        let fd = file.as_raw_fd();
        // SAFETY: the iovecs point to the bytes of the borrowed chain, which stay in place and
        // unchanged during the call; their number is at most IOV_MAX.
        unsafe { libc::pwritev(fd, part.as_ptr(), part.len() as i32, at) }
    });
    match whole {
        (_, None) => Ok(()),
        // No file takes nothing of something.
        (written, Some(Errno(0))) => Err((written, Errno(libc::EIO))),
        (written, Some(errno)) => Err((written, errno)),
    }
}

/// preadv(2) into all of `room`, or up to the end of the file. Answers how many bytes there were.
pub(crate) fn read_at(file: &File, offset: u64, mut room: Reserved<'_>) -> Result<usize, Errno> {
    let mut vectors = Vectors::new();
    room.iovecs(&mut vectors);
    let (read, end) = each(&mut vectors, offset, |part, at| {
        let fd = file.as_raw_fd();
        // SAFETY: the iovecs point to the room that `room` holds exclusively and that outlives the
        // call; their number is at most IOV_MAX.
        unsafe { libc::preadv(fd, part.as_ptr(), part.len() as i32, at) }
    });
    match end {
        None | Some(Errno(0)) => {
            // SAFETY: preadv has written so many bytes in the order of the iovecs, which are the
            // room's from its start.
            unsafe { room.commit(read) };
            Ok(read)
        }
        Some(errno) => Err(errno),
    }
}

/// lseek(2) to the next bytes at or after `offset` that are not a hole: none if there are none.
pub(crate) fn next_data(file: &File, offset: u64) -> Result<Option<u64>, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
    // SAFETY: no memory is passed.
    match unsafe { libc::lseek(file.as_raw_fd(), offset, libc::SEEK_DATA) } {
        -1 => match Errno::last() {
            Errno(libc::ENXIO) => Ok(None),
            errno => Err(errno),
        },
        data => Ok(Some(data as u64)),
    }
}

/// Makes a call for one part of the vectors after another until they are done. Answers the bytes,
/// and what ended it before: 0 if the call did nothing.
fn each(
    vectors: &mut Vectors,
    offset: u64,
    mut call: impl FnMut(&[libc::iovec], libc::off_t) -> isize,
) -> (usize, Option<Errno>) {
    let (mut done, mut first) = (0, 0);
    while first < vectors.len() {
        let part = &vectors[first..vectors.len().min(first + IOV_MAX)];
        let Ok(at) = libc::off_t::try_from(offset.saturating_add(done as u64)) else {
            return (done, Some(Errno(libc::EFBIG)));
        };
        let mut taken = match call(part, at) {
            ..0 => match Errno::last() {
                Errno(libc::EINTR) => continue,
                errno => return (done, Some(errno)),
            },
            0 => return (done, Some(Errno(0))),
            taken => taken as usize,
        };
        done += taken;
        while taken > 0 && taken >= vectors[first].iov_len {
            taken -= vectors[first].iov_len;
            first += 1;
        }
        if taken > 0 {
            let part = &mut vectors[first];
            part.iov_base = part.iov_base.wrapping_byte_add(taken);
            part.iov_len -= taken;
        }
    }
    (done, None)
}
