//! The reactor seen from other threads.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use mio::Waker;

use super::{SessionId, stats::Counters};

/// Wakes a [`Reactor`](super::Reactor) or shuts it down, from any thread, that of a signal handler
/// included. Clones are cheap (an atomic increment).
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// What the reactor and its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    waker: Waker,
    shutdown: AtomicBool,
    /// Sessions of which a layer was woken from another thread. Each at most once until it has run.
    woken: Mutex<Vec<SessionId>>,
    open: AtomicUsize,
    accepted: AtomicU64,
    chains_in: AtomicU64,
    chains_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// A few of the reactor's counters as they were at the end of its last turn, for a line of
/// progress in another thread. (They are read one by one, so they may be a turn apart.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Sessions that are open.
    pub open: usize,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Chains received so far (datagrams, or reads of a stream).
    pub chains_in: u64,
    /// Chains sent so far.
    pub chains_out: u64,
    /// Bytes received so far.
    pub bytes_in: u64,
    /// Bytes sent so far.
    pub bytes_out: u64,
}

impl Handle {
    pub(super) fn new(waker: Waker) -> Self {
        let shared = Shared {
            waker,
            shutdown: AtomicBool::new(false),
            woken: Mutex::default(),
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            chains_in: AtomicU64::new(0),
            chains_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Begins an orderly shutdown, as [`Reactor::shutdown`](super::Reactor::shutdown) does. One
    /// system call; may be called again and after the reactor has gone.
    ///
    /// # Errors
    /// The system's, if the reactor could not be woken; it will then see the request when it wakes.
    pub fn shutdown(&self) -> io::Result<()> {
        self.shared.shutdown.store(true, Ordering::Release);
        self.wake()
    }

    /// Makes the reactor wake, look at its clock and go on. One system call.
    ///
    /// # Errors
    /// The system's.
    pub fn wake(&self) -> io::Result<()> {
        self.shared.waker.wake()
    }

    /// Counters as of the end of the reactor's last turn.
    pub fn progress(&self) -> Progress {
        let shared = &*self.shared;
        Progress {
            open: shared.open.load(Ordering::Relaxed),
            accepted: shared.accepted.load(Ordering::Relaxed),
            chains_in: shared.chains_in.load(Ordering::Relaxed),
            chains_out: shared.chains_out.load(Ordering::Relaxed),
            bytes_in: shared.bytes_in.load(Ordering::Relaxed),
            bytes_out: shared.bytes_out.load(Ordering::Relaxed),
        }
    }

    /// A layer of that session is to be woken.
    pub(super) fn wake_session(&self, id: SessionId) {
        self.woken().push(id);
        if let Err(error) = self.wake() {
            tracing::error!(%error, "the reactor cannot be woken");
        }
    }

    /// A session of which a layer was woken.
    pub(super) fn next_woken(&self) -> Option<SessionId> {
        self.woken().pop()
    }

    fn woken(&self) -> MutexGuard<'_, Vec<SessionId>> {
        self.shared.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shutdown_wanted(&self) -> bool {
        self.shared.shutdown.load(Ordering::Acquire)
    }

    pub(super) fn publish(&self, counters: &Counters, open: usize) {
        let shared = &*self.shared;
        shared.open.store(open, Ordering::Relaxed);
        shared.accepted.store(counters.accepted, Ordering::Relaxed);
        shared.chains_in.store(counters.chains_in, Ordering::Relaxed);
        shared.chains_out.store(counters.chains_out, Ordering::Relaxed);
        shared.bytes_in.store(counters.bytes_in, Ordering::Relaxed);
        shared.bytes_out.store(counters.bytes_out, Ordering::Relaxed);
    }
}
