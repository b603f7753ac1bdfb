//! Counting and breaking system calls, for tests.
//!
//! Every call that moves data passes by here first, and so do those that accept and connect, that
//! wait for events, and that a store makes of its files and folders: [`Call`] names them.
//! Ordinarily that costs a counter and a predictable branch on two flags, beside the 100 ns and more
//! of the call. A test that has called [`inject`] or [`inject_everywhere`] is asked what shall
//! happen: the call may be cut short, or fail without being made.
//!
//! Counts, and the faults of [`inject`], belong to the calling thread, so tests that run side by
//! side do not meet. Those of [`inject_everywhere`] are for all threads of the process, those of
//! stores included.
//!
//! ```
//! use mbuf::io::faults::{self, Call, Fault};
//!
//! let before = faults::calls(Call::Writev);
//! let guard = faults::inject(|attempt| match attempt.call {
//!     Call::Writev => Fault::Short(1), // every write takes one byte
//!     _ => Fault::None,
//! });
//! drop(guard); // from here on nothing is broken
//! assert_eq!(faults::calls(Call::Writev), before);
//! ```
//!
//! # What no event follows
//!
//! A socket that really cannot go on becomes ready later, and epoll(7) says so. After an EAGAIN that
//! was invented, or a receive that was cut short, the socket *is* ready, so no edge comes. A
//! [`Reactor`](crate::io::reactor::Reactor) that was deceived so asks epoll(7) for the state of the
//! session's sockets anew (EPOLL_CTL_MOD), which brings an event for what is ready, as the end of
//! the scarcity would have. Whoever drives a socket without a reactor must try again.
//!
//! # What does not pass by here
//!
//! Making things: socket(2), bind(2), listen(2), epoll_create1(2), epoll_ctl(2), eventfd(2), threads,
//! mapping the pool, and mapping a file that is only read. Asking and telling: getsockopt(2) and setsockopt(2), getsockname(2), fstat(2) of
//! a file that is read, shutdown(2), close(2), munmap(2), msync(2), dup(2) of a descriptor. Reading
//! of the streams that a store was given to send, which are the program's. Wake-ups between threads.

mod seeded;

use std::{
    cell::{Cell, RefCell},
    fmt,
    os::fd::RawFd,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

pub use seeded::{Seeded, seeded};

/// The system calls that are counted and can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// readv(2)
    Readv,
    /// writev(2)
    Writev,
    /// recvmmsg(2)
    Recvmmsg,
    /// sendmmsg(2)
    Sendmmsg,
    /// pread(2)
    Pread,
    /// preadv(2)
    Preadv,
    /// pwritev(2)
    Pwritev,
    /// fallocate(2)
    Fallocate,
    /// ftruncate(2); its bytes are the length.
    Ftruncate,
    /// fsync(2) and fdatasync(2)
    Fsync,
    /// madvise(2) that makes the pages of a file's mapping present
    Madvise,
    /// mmap(2) of a file that is written to
    Mmap,
    /// accept4(2)
    Accept,
    /// connect(2) of a stream
    Connect,
    /// epoll_wait(2)
    EpollWait,
    /// openat(2) and openat2(2) beneath a store's folder
    Open,
    /// mkdirat(2)
    Mkdir,
    /// fstatat(2) of a name, or of a folder
    Stat,
    /// unlinkat(2)
    Unlink,
    /// renameat2(2)
    Rename,
    /// linkat(2)
    Link,
    /// fchmod(2)
    Chmod,
    /// futimens(2)
    Utimens,
    /// flock(2), without waiting
    Flock,
    /// lseek(2) for data or for a hole
    Lseek,
    /// sync_file_range(2)
    SyncRange,
    /// syncfs(2)
    Syncfs,
}

const CALLS: usize = Call::ALL.len();

impl Call {
    /// All of them.
    pub const ALL: [Call; 27] = [
        Call::Readv,
        Call::Writev,
        Call::Recvmmsg,
        Call::Sendmmsg,
        Call::Pread,
        Call::Preadv,
        Call::Pwritev,
        Call::Fallocate,
        Call::Ftruncate,
        Call::Fsync,
        Call::Madvise,
        Call::Mmap,
        Call::Accept,
        Call::Connect,
        Call::EpollWait,
        Call::Open,
        Call::Mkdir,
        Call::Stat,
        Call::Unlink,
        Call::Rename,
        Call::Link,
        Call::Chmod,
        Call::Utimens,
        Call::Flock,
        Call::Lseek,
        Call::SyncRange,
        Call::Syncfs,
    ];

    /// Whether the kernel may do less than it was asked for: then [`Fault::Short`] means something.
    ///
    /// ```
    /// use mbuf::io::faults::Call;
    ///
    /// assert!(Call::Writev.can_be_short());
    /// assert!(!Call::Rename.can_be_short());
    /// ```
    pub fn can_be_short(self) -> bool {
        matches!(
            self,
            Call::Readv
                | Call::Writev
                | Call::Recvmmsg
                | Call::Sendmmsg
                | Call::Pread
                | Call::Preadv
                | Call::Pwritev
        )
    }

    /// The errors that the kernel may answer it with though the program does nothing wrong: what
    /// [`Seeded`] chooses from.
    ///
    /// ```
    /// use mbuf::io::faults::Call;
    ///
    /// assert!(Call::Readv.errors().contains(&libc::ECONNRESET));
    /// assert!(!Call::Preadv.errors().contains(&libc::EAGAIN)); // of a file
    /// ```
    pub fn errors(self) -> &'static [i32] {
        use libc::{
            EAGAIN, ECONNABORTED, ECONNRESET, EINTR, EIO, EMFILE, ENOBUFS, ENOLCK, ENOMEM, ENOSPC,
        };
        match self {
            Call::Readv | Call::Writev => &[EINTR, EAGAIN, ENOBUFS, ENOMEM, ECONNRESET],
            Call::Recvmmsg | Call::Sendmmsg => &[EINTR, EAGAIN, ENOBUFS, ENOMEM],
            Call::Accept => &[EINTR, EAGAIN, ENOBUFS, ENOMEM, ECONNABORTED, EMFILE],
            Call::Connect => &[EAGAIN, ENOBUFS, ENOMEM],
            Call::EpollWait => &[EINTR],
            Call::Pread | Call::Preadv => &[EINTR, ENOMEM, EIO],
            Call::Pwritev | Call::Fallocate | Call::Ftruncate => &[EINTR, ENOMEM, EIO, ENOSPC],
            Call::Fsync | Call::SyncRange | Call::Syncfs => &[EINTR, EIO, ENOSPC],
            Call::Mmap | Call::Madvise => &[ENOMEM],
            Call::Open => &[EINTR, EAGAIN, ENOMEM, EIO, ENOSPC, EMFILE],
            Call::Mkdir | Call::Rename | Call::Link => &[ENOMEM, EIO, ENOSPC],
            Call::Stat | Call::Unlink | Call::Chmod | Call::Utimens => &[EINTR, ENOMEM, EIO],
            Call::Flock => &[EINTR, ENOLCK],
            Call::Lseek => &[EIO],
        }
    }

    /// As the manual calls it: `readv`.
    pub fn name(self) -> &'static str {
        match self {
            Call::Readv => "readv",
            Call::Writev => "writev",
            Call::Recvmmsg => "recvmmsg",
            Call::Sendmmsg => "sendmmsg",
            Call::Pread => "pread",
            Call::Preadv => "preadv",
            Call::Pwritev => "pwritev",
            Call::Fallocate => "fallocate",
            Call::Ftruncate => "ftruncate",
            Call::Fsync => "fsync",
            Call::Madvise => "madvise",
            Call::Mmap => "mmap",
            Call::Accept => "accept",
            Call::Connect => "connect",
            Call::EpollWait => "epoll_wait",
            Call::Open => "openat",
            Call::Mkdir => "mkdirat",
            Call::Stat => "fstatat",
            Call::Unlink => "unlinkat",
            Call::Rename => "renameat",
            Call::Link => "linkat",
            Call::Chmod => "fchmod",
            Call::Utimens => "futimens",
            Call::Flock => "flock",
            Call::Lseek => "lseek",
            Call::SyncRange => "sync_file_range",
            Call::Syncfs => "syncfs",
        }
    }
}

/// A call that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// Which call.
    pub call: Call,
    /// On which descriptor.
    pub fd: RawFd,
    /// Bytes asked for or offered.
    pub bytes: usize,
    /// Messages asked for or offered; 0 for calls that know none.
    pub messages: usize,
    /// Whether the first message asks for segmentation (UDP_SEGMENT).
    pub segmented: bool,
}

/// What shall happen to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the call is made.
    None,
    /// The call is made with at most so many bytes (messages, for the calls that know them), at
    /// least 1.
    Short(usize),
    /// The call is not made; it fails with this error number (errno(3)).
    Errno(i32),
}

type Hook = Box<dyn FnMut(&Attempt) -> Fault>;
type SharedHook = Arc<dyn Fn(&Attempt) -> Fault + Send + Sync>;

thread_local! {
    // Without a destructor, so that the common path is a plain thread-local access.
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static COUNTS: [Cell<u64>; CALLS] = const { [const { Cell::new(0) }; CALLS] };
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    /// The thread is asking for all threads' sake: the calls of that hook are left alone.
    static ASKING: Cell<bool> = const { Cell::new(false) };
    /// A socket was said not to be ready, or to have no more, that may be ready.
    static DECEIVED: Cell<bool> = const { Cell::new(false) };
}

static EVERYWHERE: AtomicBool = AtomicBool::new(false);
static SHARED_HOOK: RwLock<Option<SharedHook>> = RwLock::new(None);

/// How many calls of this kind this thread has made, those that faults prevented included.
pub fn calls(call: Call) -> u64 {
    COUNTS.with(|counts| counts[call as usize].get())
}

/// Asks `decide` before every call of this thread, until the guard is dropped. A second injection
/// replaces the first.
pub fn inject(decide: impl FnMut(&Attempt) -> Fault + 'static) -> Injected {
    HOOK.with(|hook| *hook.borrow_mut() = Some(Box::new(decide)));
    ARMED.set(true);
    Injected { thread: std::marker::PhantomData }
}

/// Asks `decide` before every call of every thread of the process, until the guard is dropped;
/// threads that have faults of their own ([`inject`]) ask those instead. A second injection replaces
/// the first. A call that is on its way may still be asked about after the guard is gone.
///
/// ```
/// use std::{
///     os::{fd::AsRawFd, unix::net::UnixStream},
///     thread,
/// };
///
/// use mbuf::{Queue, io::{Sent, Sink, Stream, faults::{self, Call, Fault}}};
///
/// let pool = mbuf::testing::pool();
/// let (here, _there) = UnixStream::pair()?;
/// let fd = here.as_raw_fd();
/// let guard = faults::inject_everywhere(move |attempt| match attempt.call {
///     Call::Writev if attempt.fd == fd => Fault::Errno(libc::EAGAIN),
///     _ => Fault::None,
/// });
/// let mut stream = Stream::from_std_unix(here)?;
/// let mut queue = Queue::new(1, 100);
/// queue.push(pool.chain_from(b"bytes")?).map_err(mbuf::Error::from)?;
/// let mut send = || stream.send(&mut queue);
/// let sent = thread::scope(|scope| scope.spawn(&mut send).join().unwrap())?;
/// assert_eq!(sent, Sent::WouldBlock);
/// drop(guard);
/// assert_eq!(send()?, Sent::All);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn inject_everywhere(
    decide: impl Fn(&Attempt) -> Fault + Send + Sync + 'static,
) -> InjectedEverywhere {
    let before =
        SHARED_HOOK.write().unwrap_or_else(PoisonError::into_inner).replace(Arc::new(decide));
    drop(before);
    EVERYWHERE.store(true, Ordering::Relaxed);
    InjectedEverywhere(())
}

/// While it lives, calls of this thread are subject to faults.
#[must_use = "the faults end when this is dropped"]
pub struct Injected {
    thread: std::marker::PhantomData<*const ()>,
}

impl fmt::Debug for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Injected")
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        ARMED.set(false);
        // The hook is dropped outside the borrow: its own drop may do anything.
        let hook = HOOK.with(|hook| hook.borrow_mut().take());
        drop(hook);
    }
}

/// While it lives, calls of all threads are subject to faults.
#[derive(Debug)]
#[must_use = "the faults end when this is dropped"]
pub struct InjectedEverywhere(());

impl Drop for InjectedEverywhere {
    fn drop(&mut self) {
        EVERYWHERE.store(false, Ordering::Relaxed);
        let hook = SHARED_HOOK.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(hook);
    }
}

/// Whether this thread was told, since it was asked last, that a socket cannot go on which perhaps
/// can, so that no event will come.
#[inline]
pub(super) fn deceived() -> bool {
    DECEIVED.get() && DECEIVED.replace(false)
}

/// Counts the call and says what shall happen to it.
#[inline]
pub(super) fn before(attempt: &Attempt) -> Fault {
    COUNTS.with(|counts| {
        let count = &counts[attempt.call as usize];
        count.set(count.get() + 1);
    });
    if ARMED.get() || EVERYWHERE.load(Ordering::Relaxed) { ask(attempt) } else { Fault::None }
}

#[cold]
fn ask(attempt: &Attempt) -> Fault {
    let fault = if ARMED.get() { ask_thread(attempt) } else { ask_all(attempt) };
    let deceives = matches!(fault, Fault::Short(_) | Fault::Errno(libc::EAGAIN));
    if deceives {
        DECEIVED.set(true);
    }
    match fault {
        Fault::Short(n) => Fault::Short(n.max(1)),
        other => other,
    }
}

fn ask_thread(attempt: &Attempt) -> Fault {
    // Taken out while it runs, so that a hook that makes calls of its own is not asked again.
    let Some(mut decide) = HOOK.with(|hook| hook.borrow_mut().take()) else { return Fault::None };
    let fault = decide(attempt);
    HOOK.with(|hook| {
        let mut hook = hook.borrow_mut();
        if hook.is_none() && ARMED.get() {
            *hook = Some(decide);
        }
    });
    fault
}

fn ask_all(attempt: &Attempt) -> Fault {
    if ASKING.replace(true) {
        return Fault::None;
    }
    // Not under the lock: the hook may do anything, and others shall not wait for it.
    let hook = SHARED_HOOK.read().unwrap_or_else(PoisonError::into_inner).clone();
    let fault = hook.map_or(Fault::None, |decide| decide(attempt));
    ASKING.set(false);
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPT: Attempt =
        Attempt { call: Call::Writev, fd: 0, bytes: 100, messages: 0, segmented: false };

    #[test]
    fn faults_last_as_long_as_the_guard_and_calls_are_counted() {
        let start = calls(Call::Writev);
        assert_eq!(before(&ATTEMPT), Fault::None);
        let guard = inject(|attempt| Fault::Short(attempt.bytes - 100));
        assert_eq!(before(&ATTEMPT), Fault::Short(1), "a short call takes one byte at least");
        drop(guard);
        assert_eq!(before(&ATTEMPT), Fault::None);
        assert_eq!(calls(Call::Writev) - start, 3);
        assert_eq!(calls(Call::Pread), 0);
    }

    #[test]
    fn each_call_is_listed_where_it_is_counted() {
        for (at, call) in Call::ALL.into_iter().enumerate() {
            assert_eq!(call as usize, at, "{call:?}");
        }
    }

    #[test]
    fn a_false_report_of_a_socket_is_noticed_once() {
        assert!(!deceived());
        let guard = inject(|attempt| match attempt.bytes {
            1 => Fault::Short(1),
            2 => Fault::Errno(libc::EAGAIN),
            _ => Fault::Errno(libc::EINTR),
        });
        for (bytes, expected) in [(1, true), (2, true), (3, false)] {
            before(&Attempt { bytes, ..ATTEMPT });
            assert_eq!((deceived(), deceived()), (expected, false));
        }
        drop(guard);
    }
}
