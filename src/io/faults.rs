//! Counting and breaking system calls, for tests.
//!
//! Every call that moves data passes by here first. Ordinarily that costs a counter and one
//! predictable branch on a thread-local flag, beside the 100 ns and more of the call. A test that
//! has called [`inject`] is asked what shall happen: the call may be cut short, or fail without
//! being made.
//!
//! Counts and faults belong to the calling thread, so tests that run side by side do not meet.
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

use std::{
    cell::{Cell, RefCell},
    fmt,
    os::fd::RawFd,
};

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
}

const CALLS: usize = 12;

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

thread_local! {
    // Without a destructor, so that the common path is a plain thread-local access.
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static COUNTS: [Cell<u64>; CALLS] = const { [const { Cell::new(0) }; CALLS] };
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

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

/// Faults at random, the same for the same seed: of 16 calls about 4 are cut short, 2 are
/// interrupted (EINTR) and 2 find the socket not ready (EAGAIN); the rest are left alone.
///
/// After an injected EAGAIN, or a receive that was cut short, no readiness event comes: whoever
/// drives the socket must try again.
pub fn seeded(seed: u64) -> impl FnMut(&Attempt) -> Fault + 'static {
    let mut random = SplitMix(seed);
    move |attempt| {
        let most = if attempt.messages > 0 { attempt.messages } else { attempt.bytes };
        match random.next() % 16 {
            0..4 => Fault::Short(1 + (random.next() as usize) % most.max(1)),
            4..6 => Fault::Errno(libc::EINTR),
            6..8 => Fault::Errno(libc::EAGAIN),
            _ => Fault::None,
        }
    }
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

/// Counts the call and says what shall happen to it.
#[inline]
pub(super) fn before(attempt: &Attempt) -> Fault {
    COUNTS.with(|counts| {
        let count = &counts[attempt.call as usize];
        count.set(count.get() + 1);
    });
    if ARMED.get() { ask(attempt) } else { Fault::None }
}

#[cold]
fn ask(attempt: &Attempt) -> Fault {
    // Taken out while it runs, so that a hook that makes calls of its own is not asked again.
    let Some(mut decide) = HOOK.with(|hook| hook.borrow_mut().take()) else { return Fault::None };
    let fault = decide(attempt);
    HOOK.with(|hook| {
        let mut hook = hook.borrow_mut();
        if hook.is_none() && ARMED.get() {
            *hook = Some(decide);
        }
    });
    match fault {
        Fault::Short(n) => Fault::Short(n.max(1)),
        other => other,
    }
}

/// Steele, Lea and Flood's generator: 64 bits of state, good enough to choose faults.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
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
    fn the_same_seed_gives_the_same_faults_of_every_kind() {
        let run = |seed| {
            let mut decide = seeded(seed);
            (0..400).map(|_| decide(&ATTEMPT)).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let faults = run(7);
        assert!(faults.contains(&Fault::None));
        assert!(faults.contains(&Fault::Errno(libc::EINTR)));
        assert!(faults.contains(&Fault::Errno(libc::EAGAIN)));
        assert!(faults.iter().any(|fault| matches!(fault, Fault::Short(1..=100))));
    }
}
