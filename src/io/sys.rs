//! Every system call of `io`, and all of its unsafe code.
//!
//! What moves data goes through [`attempt`], which counts it, lets tests break it
//! ([`faults`]) and repeats it when a signal interrupts it. Errors come
//! back as bare numbers ([`Errno`]); whoever knows the object names them.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use smallvec::SmallVec;

use crate::{
    chain::{Chain, Opaque},
    error::Error,
    io::{
        faults::{self, Attempt, Call, Fault},
        file::MappedFile,
    },
    pool::{Class, Receiver},
    queue::Queue,
};

mod address;
pub(crate) mod beneath;
mod messages;
pub(crate) mod positional;
pub(crate) mod room;
pub(crate) mod tun;

pub(crate) use address::{Arrival, Control, Name, unix_address};
pub(crate) use messages::{
    Inbox, Incoming, MESSAGES, Outbox, Planned, peek_len, recv_message, take_error,
};

/// The most segments that one call takes (IOV_MAX).
pub(crate) const IOV_MAX: usize = libc::UIO_MAXIOV as usize;

/// Segments for one call, on the stack.
type Iovecs = SmallVec<[libc::iovec; IOV_MAX]>;

/// A system's error number (errno(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    fn last() -> Errno {
        Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

/// Why a read brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// No room for it could be had.
    Room(Error),
    /// The call failed.
    Call(Errno),
}

/// readv(2) of at most `want` bytes to the end of `chain`, into what room it has and further buffers
/// of `class` from `receiver`. Those that the read does not reach go back at once. 0 is the end of
/// the stream.
pub(crate) fn readv(
    fd: BorrowedFd<'_>,
    chain: &mut Chain,
    receiver: &Receiver,
    class: Class,
    want: usize,
) -> Result<usize, ReadError> {
    let mut room = chain.reserve_from(receiver, class, want).map_err(ReadError::Room)?;
    let mut iovecs: SmallVec<[libc::iovec; 16]> = SmallVec::new();
    room.iovecs(&mut iovecs);
    iovecs.truncate(IOV_MAX);
    let bytes = room.len();
    let about = Attempt { call: Call::Readv, ..nothing_about(fd, bytes) };
    let taken = attempt(&about, |limit| {
        shorten(&mut iovecs, limit);
        // SAFETY: the iovecs point to the room that `room` holds exclusively and that outlives the
        // call; their number is at most IOV_MAX.
        unsafe { libc::readv(fd.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32) }
    })
    .map_err(ReadError::Call)?;
    // SAFETY: readv returned `taken`, so it wrote that many bytes in the order of the iovecs, which
    // are the room's from its start.
    unsafe { room.commit(taken) };
    Ok(taken)
}

/// writev(2) of what the queue holds, up to IOV_MAX segments of however many chains. Answers how
/// many bytes were taken; the queue is unchanged.
pub(crate) fn writev(fd: BorrowedFd<'_>, queue: &Queue) -> Result<usize, Errno> {
    let mut iovecs = Iovecs::new();
    let mut bytes = 0;
    for chain in queue.iter() {
        if iovecs.len() == IOV_MAX {
            break;
        }
        bytes += gather(chain, &mut iovecs, 0);
    }
    let about = Attempt { call: Call::Writev, ..nothing_about(fd, bytes) };
    attempt(&about, |limit| {
        shorten(&mut iovecs, limit);
        // SAFETY: the iovecs point to the bytes of chains that the borrowed queue holds, so they
        // stay in place and unchanged during the call (those of mapped files are the kernel's to
        // check); their number is at most IOV_MAX.
        unsafe { libc::writev(fd.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32) }
    })
}

/// Adds a chain's segments, up to IOV_MAX in all, and answers how many bytes they cover. Bytes that
/// continue where the segment before ends (datagrams that were split out of one buffer) lengthen
/// it, unless it lies before `start`.
fn gather(chain: &Chain, iovecs: &mut Iovecs, start: usize) -> usize {
    let at = iovecs.len();
    let covered = chain.iovecs(iovecs, IOV_MAX);
    if at > start && at < iovecs.len() {
        let (last, next) = (iovecs[at - 1], iovecs[at]);
        if last.iov_base as usize + last.iov_len == next.iov_base as usize {
            iovecs[at - 1].iov_len += next.iov_len;
            iovecs.remove(at);
        }
    }
    covered
}

/// pread(2) of the whole of `bytes`, or an error: UnexpectedEof if the file ends before.
pub(crate) fn pread_exact(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    while !bytes.is_empty() {
        let about =
            Attempt { call: Call::Pread, ..nothing_about_raw(file.as_raw_fd(), bytes.len()) };
        let taken = match faults::before(&about) {
            Fault::Errno(libc::EINTR) => continue,
            Fault::Errno(errno) => return Err(Errno(errno).into()),
            Fault::Short(limit) => {
                let limit = limit.min(bytes.len());
                file.read_at(&mut bytes[..limit], offset)
            }
            Fault::None => file.read_at(bytes, offset),
        };
        match taken {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

// SAFETY: the mapping lives as long as the last clone of the `MappedFile`, and the owner is one; its
// address and length are fixed when it is made (`len` is the length that was mapped), and nothing in
// this crate reads or writes the memory but system calls.
unsafe impl Opaque for MappedFile {
    fn as_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, out)
    }
}

fn nothing_about(fd: BorrowedFd<'_>, bytes: usize) -> Attempt {
    nothing_about_raw(fd.as_raw_fd(), bytes)
}

fn nothing_about_raw(fd: RawFd, bytes: usize) -> Attempt {
    Attempt { call: Call::Readv, fd, bytes, messages: 0, segmented: false }
}

/// Makes a call until no signal interrupts it. `call` gets the most bytes (or messages) that it may
/// ask for and answers what the system did: negative for an error, which is then in errno.
#[inline]
fn attempt(about: &Attempt, mut call: impl FnMut(usize) -> isize) -> Result<usize, Errno> {
    loop {
        let limit = match faults::before(about) {
            Fault::None => usize::MAX,
            Fault::Short(limit) => limit,
            Fault::Errno(libc::EINTR) => continue,
            Fault::Errno(errno) => return Err(Errno(errno)),
        };
        let answer = call(limit);
        if answer >= 0 {
            return Ok(answer as usize);
        }
        match Errno::last() {
            Errno(libc::EINTR) => {}
            errno => return Err(errno),
        }
    }
}

/// Before a call that a library makes, and that the caller deals with whatever it answers: counts it,
/// and fails in its place where a test says so.
pub(crate) fn before(call: Call, fd: RawFd) -> io::Result<()> {
    match faults::before(&Attempt { call, ..nothing_about_raw(fd, 0) }) {
        Fault::Errno(errno) => Err(Errno(errno).into()),
        Fault::None | Fault::Short(_) => Ok(()),
    }
}

/// Cuts the segments to `limit` bytes in all: for injected short calls.
fn shorten<A: smallvec::Array<Item = libc::iovec>>(iovecs: &mut SmallVec<A>, mut limit: usize) {
    if limit == usize::MAX {
        return;
    }
    let mut keep = 0;
    for iovec in iovecs.iter_mut() {
        if limit == 0 {
            break;
        }
        iovec.iov_len = iovec.iov_len.min(limit);
        limit -= iovec.iov_len;
        keep += 1;
    }
    iovecs.truncate(keep);
}

/// setsockopt(2) of an int.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is an int that outlives the call, and `len` is its size.
    let answer =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// getsockopt(2) of an int.
pub(crate) fn option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is an int that outlives the call, `len` is its size, and both may be written.
    let answer = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len)
    };
    if answer == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// How many datagrams a socket has lost so far for want of room: SO_MEMINFO (Linux 4.12).
///
/// SO_RXQ_OVFL would say it with each datagram. But Linux (6.18) copies that number out of the packet's
/// buffer, which hardened kernels (CONFIG_HARDENED_USERCOPY) take for a breach where the packet is one
/// of TCP's own, come by a tunnel over a veth: they kill the thread that receives.
pub(crate) fn overflowed(fd: BorrowedFd<'_>) -> io::Result<u32> {
    /// SK_MEMINFO_DROPS, the last of SK_MEMINFO_VARS (include/uapi/linux/sock_diag.h).
    const DROPS: usize = 8;
    let mut values = [0_u32; DROPS + 1];
    let mut len = size_of_val(&values) as libc::socklen_t;
    let place = (&raw mut values).cast();
    // SAFETY: `place` is that of `values`, whose size `len` is, and both may be written.
    let answer = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, place, &raw mut len)
    };
    if answer == 0 { Ok(values[DROPS]) } else { Err(io::Error::last_os_error()) }
}

/// bind(2) of a Unix socket to an automatic abstract name (unix(7), "Autobind feature").
pub(crate) fn autobind(fd: BorrowedFd<'_>) -> io::Result<()> {
    let family = libc::AF_UNIX as libc::sa_family_t;
    let len = size_of::<libc::sa_family_t>() as libc::socklen_t;
    // SAFETY: the address is `len` bytes, the family alone, which is what asks for autobind; the
    // kernel reads no more than that.
    let answer = unsafe { libc::bind(fd.as_raw_fd(), (&raw const family).cast(), len) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// eventfd(2): a descriptor that becomes readable when a number is written to it. Non-blocking,
/// closed on exec.
///
/// ```
/// use std::os::fd::AsFd;
///
/// let event = mbuf::io::eventfd()?;
/// assert!(!mbuf::io::drain_eventfd(event.as_fd())?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made the descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes what was written to an eventfd, so that it is quiet again. Answers whether anything was.
///
/// ```
/// use std::{fs::File, io::Write, os::fd::AsFd};
///
/// let event = mbuf::io::eventfd()?;
/// File::from(event.try_clone()?).write_all(&1u64.to_ne_bytes())?;
/// assert!(mbuf::io::drain_eventfd(event.as_fd())?);
/// assert!(!mbuf::io::drain_eventfd(event.as_fd())?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn drain_eventfd(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut count = 0_u64;
    let size = size_of::<u64>();
    // SAFETY: `count` is `size` bytes that may be written, and outlives the call.
    let answer = unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), size) };
    if answer >= 0 {
        return Ok(count > 0);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        error => Err(error),
    }
}

/// Raises the number of descriptors that the process may open (RLIMIT_NOFILE) to the hard limit,
/// and answers what it is now.
pub fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` may be written and outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is initialised and outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd};

    use super::*;
    use crate::pool::Pool;

    #[test]
    fn an_eventfd_is_readable_once_for_all_that_was_written() {
        let event = eventfd().unwrap();
        assert!(!drain_eventfd(event.as_fd()).unwrap());
        let mut file = File::from(event.try_clone().unwrap());
        file.write_all(&1_u64.to_ne_bytes()).unwrap();
        file.write_all(&2_u64.to_ne_bytes()).unwrap();
        assert!(drain_eventfd(event.as_fd()).unwrap());
        assert!(!drain_eventfd(event.as_fd()).unwrap());
    }

    #[test]
    fn the_file_limit_is_raised_to_the_hard_limit() {
        let raised = raise_file_limit().unwrap();
        assert_eq!(raise_file_limit().unwrap(), raised);
        assert!(raised >= 3);
    }

    #[test]
    fn options_are_set_and_read() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).unwrap();
        assert_eq!(option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT).unwrap(), 1);
        let error = set_option(socket.as_fd(), libc::SOL_SOCKET, 9999, 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT));
    }

    #[test]
    fn what_was_split_out_of_one_buffer_is_gathered_as_one_segment() {
        let pool = Pool::builder().count(Class::K64, 1).build().unwrap();
        let mut whole = pool.chain_in(Class::K64, 0).unwrap();
        whole.extend_from_slice(&[7; 1_000]).unwrap();
        let second = whole.split_off(400).unwrap();
        let apart = pool.chain_from(b"apart").unwrap();
        let mut iovecs = Iovecs::new();
        assert_eq!(gather(&whole, &mut iovecs, 0), 400);
        assert_eq!(gather(&second, &mut iovecs, 0), 600);
        assert_eq!((iovecs.len(), iovecs[0].iov_len), (1, 1_000));
        assert_eq!(gather(&apart, &mut iovecs, 0), 5);
        assert_eq!(iovecs.len(), 2);
        // But not across the edge of two messages.
        iovecs.truncate(1);
        iovecs[0].iov_len = 400;
        assert_eq!(gather(&second, &mut iovecs, 1), 600);
        assert_eq!(iovecs.len(), 2);
    }

    #[test]
    fn segments_are_cut_to_a_limit() {
        let bytes = [0_u8; 10];
        let iovec = |len| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: len };
        for limit in 0..=10 {
            let mut iovecs: SmallVec<[libc::iovec; 16]> =
                [3, 5, 2].map(iovec).into_iter().collect();
            shorten(&mut iovecs, limit);
            assert_eq!(iovecs.iter().map(|iovec| iovec.iov_len).sum::<usize>(), limit);
            assert!(iovecs.iter().all(|iovec| iovec.iov_len > 0));
        }
    }
}
