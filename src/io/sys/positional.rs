//! Chains to and from a place in a file: pwritev(2) and preadv(2), and what else is done to files.

use std::{
    fs::{File, FileTimes, TryLockError},
    io,
    os::fd::{AsFd, AsRawFd},
    time::SystemTime,
};

use smallvec::SmallVec;

use super::{Errno, IOV_MAX, attempt, nothing_about, shorten};
use crate::{
    chain::{Chain, Reserved},
    io::faults::{self, Attempt, Call, Fault},
};

type Vectors = SmallVec<[libc::iovec; 32]>;

/// pwritev(2) of a chain, whose first byte belongs at `offset`, from its byte `from` on. A failure
/// says how many bytes were written before it, those included.
pub(crate) fn write_at(
    file: &File,
    offset: u64,
    chain: &Chain,
    from: usize,
) -> Result<(), (usize, Errno)> {
    let mut vectors = Vectors::new();
    chain.iovecs(&mut vectors, usize::MAX);
    let first = advance(&mut vectors, 0, from);
    vectors.drain(..first);
    let start = offset.saturating_add(from as u64);
    let whole = each(Call::Pwritev, file, &mut vectors, start, |fd, part, at| {
        // SAFETY: the iovecs point to the bytes of the borrowed chain, which stay in place and
        // unchanged during the call (those of mapped files are the kernel's to check); their number
        // is at most IOV_MAX.
        unsafe { libc::pwritev(fd, part.as_ptr(), part.len() as i32, at) }
    });
    match whole {
        (_, None) => Ok(()),
        // No file takes nothing of something.
        (written, Some(Errno(0))) => Err((from + written, Errno(libc::EIO))),
        (written, Some(errno)) => Err((from + written, errno)),
    }
}

/// preadv(2) into all of `room`, or up to the end of the file. Answers how many bytes there were.
pub(crate) fn read_at(file: &File, offset: u64, mut room: Reserved<'_>) -> Result<usize, Errno> {
    let mut vectors = Vectors::new();
    room.iovecs(&mut vectors);
    let (read, end) = each(Call::Preadv, file, &mut vectors, offset, |fd, part, at| {
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
    seek(file, offset, libc::SEEK_DATA)
}

/// lseek(2) to the next hole at or after `offset`: the end of the file is one. None beyond it.
pub(crate) fn next_hole(file: &File, offset: u64) -> Result<Option<u64>, Errno> {
    seek(file, offset, libc::SEEK_HOLE)
}

fn seek(file: &File, offset: u64, what: i32) -> Result<Option<u64>, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno(libc::EOVERFLOW))?;
    let about = Attempt { call: Call::Lseek, ..nothing_about(file.as_fd(), 0) };
    let found = attempt(&about, |_| {
        // SAFETY: no memory is passed.
        unsafe { libc::lseek(file.as_raw_fd(), offset, what) as isize }
    });
    match found {
        Ok(found) => Ok(Some(found as u64)),
        Err(Errno(libc::ENXIO)) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// ftruncate(2).
pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    let bytes = usize::try_from(len).unwrap_or(usize::MAX);
    counted(Call::Ftruncate, file, bytes, || file.set_len(len))
}

/// fsync(2), or fdatasync(2) for `data` only.
pub(crate) fn sync(file: &File, data: bool) -> io::Result<()> {
    counted(Call::Fsync, file, 0, || if data { file.sync_data() } else { file.sync_all() })
}

/// futimens(2), of the time of the last change.
pub(crate) fn set_modified(file: &File, time: SystemTime) -> io::Result<()> {
    let times = FileTimes::new().set_modified(time);
    counted(Call::Utimens, file, 0, || file.set_times(times))
}

/// flock(2), exclusive, without waiting.
pub(crate) fn try_lock(file: &File) -> Result<(), TryLockError> {
    // An error of the call comes back through the first `?`, that of the lock through the second.
    counted(Call::Flock, file, 0, || Ok(file.try_lock())).map_err(TryLockError::Error)?
}

/// A call that a library makes, counted, and broken where a test says so.
pub(super) fn counted<T>(
    call: Call,
    file: &File,
    bytes: usize,
    make: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let about = Attempt { call, ..nothing_about(file.as_fd(), bytes) };
    loop {
        match faults::before(&about) {
            Fault::Errno(libc::EINTR) => {}
            Fault::Errno(errno) => return Err(Errno(errno).into()),
            Fault::None | Fault::Short(_) => return make(),
        }
    }
}

/// fallocate(2): the file has room for these bytes, and is long enough for them.
pub(crate) fn fallocate(file: &File, offset: u64, len: usize) -> Result<(), Errno> {
    let (Ok(at), Ok(n)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
        return Err(Errno(libc::EFBIG));
    };
    let about = Attempt { call: Call::Fallocate, ..nothing_about(file.as_fd(), len) };
    attempt(&about, |_| {
        // SAFETY: no memory is passed.
        unsafe { libc::fallocate(file.as_raw_fd(), 0, at, n) as isize }
    })
    .map(|_| ())
}

/// Makes a call for one part of the vectors after another until they are done. Answers the bytes,
/// and what ended it before: 0 if the call did nothing.
fn each(
    call: Call,
    file: &File,
    vectors: &mut Vectors,
    offset: u64,
    mut make: impl FnMut(i32, &[libc::iovec], libc::off_t) -> isize,
) -> (usize, Option<Errno>) {
    let (mut done, mut first) = (0, 0);
    while first < vectors.len() {
        let mut part = Vectors::from_slice(&vectors[first..vectors.len().min(first + IOV_MAX)]);
        let bytes = part.iter().map(|vector| vector.iov_len).sum::<usize>();
        let end = offset.checked_add((done + bytes) as u64);
        let (Some(_), Ok(at)) = (
            end.filter(|&end| end <= i64::MAX as u64),
            libc::off_t::try_from(offset.saturating_add(done as u64)),
        ) else {
            return (done, Some(Errno(libc::EFBIG)));
        };
        let about = Attempt { call, ..nothing_about(file.as_fd(), bytes) };
        let answer = attempt(&about, |limit| {
            shorten(&mut part, limit);
            make(file.as_raw_fd(), &part, at)
        });
        let taken = match answer {
            Err(errno) => return (done, Some(errno)),
            Ok(0) => return (done, Some(Errno(0))),
            Ok(taken) => taken,
        };
        done += taken;
        first = advance(vectors, first, taken);
    }
    (done, None)
}

/// Takes `taken` bytes off the vectors from `first` on; answers the first that still has some.
fn advance(vectors: &mut Vectors, mut first: usize, mut taken: usize) -> usize {
    while taken > 0 && taken >= vectors[first].iov_len {
        taken -= vectors[first].iov_len;
        first += 1;
    }
    if taken > 0 {
        let part = &mut vectors[first];
        part.iov_base = part.iov_base.wrapping_byte_add(taken);
        part.iov_len -= taken;
    }
    first
}
