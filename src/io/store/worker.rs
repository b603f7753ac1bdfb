//! A store's helper thread, and the two queues between it and the layer.

use std::{
    collections::VecDeque,
    fmt, io, mem,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Answer, Done, Failure, FileNo, Request, Store};
use crate::stack::Waker;

/// Answers are handed over when there are so many ...
const BATCH: usize = 32;
/// ... or so many bytes in them, or one is so old, or there is nothing else to do.
const BYTES: usize = 256 << 10;
const AGE: Duration = Duration::from_millis(1);

/// What a helper thread does.
pub(super) trait Work: Send + 'static {
    /// Carries a request out, sooner or later: adds its answer, and those of earlier ones.
    fn carry_out(&mut self, file: FileNo, request: Request, out: &mut Vec<Answer>);

    /// Whether what was put off must wait no longer.
    fn is_due(&self) -> bool {
        false
    }

    /// Carries out whatever was put off.
    fn put_off(&mut self, _out: &mut Vec<Answer>) {}

    /// Nothing is asked: gives back what others may need meanwhile.
    fn rest(&mut self) {}
}

/// A store whose work is done by a thread of its own. Dropped, it lets the thread finish the
/// request that it is at.
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    asked: Mutex<Asked>,
    /// Something in `asked` has changed.
    changed: Condvar,
    given: Mutex<Given>,
}

#[derive(Default)]
struct Asked {
    requests: VecDeque<(FileNo, Request)>,
    /// The store was dropped.
    closed: bool,
    /// The thread is in a call that may last for ever.
    blocked: bool,
    /// The thread has let go of all it had.
    finished: bool,
}

#[derive(Default)]
struct Given {
    answers: VecDeque<Answer>,
    waker: Option<Waker>,
}

/// Marks calls that may last for ever, of which a store that is dropped does not wait for the end.
#[derive(Clone)]
pub(super) struct Patience(Arc<Shared>);

impl Worker {
    /// Starts the thread. `make` makes the work there, given the means to mark calls that may
    /// last for ever.
    pub(super) fn start<W: Work>(
        name: &str,
        make: impl FnOnce(Patience) -> W + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            asked: Mutex::default(),
            changed: Condvar::new(),
            given: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        let run = move || {
            let finished = Finished(&theirs);
            theirs.run(make(Patience(Arc::clone(&theirs))));
            drop(finished);
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Store for Worker {
    fn attach(&mut self, waker: Waker) {
        lock(&self.shared.given).waker = Some(waker);
    }

    fn ask(&mut self, file: FileNo, request: Request) {
        let mut asked = lock(&self.shared.asked);
        asked.requests.push_back((file, request));
        let first = asked.requests.len() == 1;
        drop(asked);
        if first {
            self.shared.changed.notify_all();
        }
    }

    fn answer(&mut self) -> Option<Answer> {
        lock(&self.shared.given).answers.pop_front()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        lock(&self.shared.given).waker = None;
        let mut asked = lock(&self.shared.asked);
        asked.closed = true;
        let left = mem::take(&mut asked.requests);
        self.shared.changed.notify_all();
        while !asked.finished && !asked.blocked {
            asked = self.shared.wait(asked);
        }
        let finished = asked.finished;
        drop((asked, left));
        // A thread that waits for a pipe may do so for ever. It ends when that brings something.
        if let (true, Some(thread)) = (finished, self.thread.take())
            && thread.join().is_err()
        {
            tracing::error!("a store's helper thread has panicked");
        }
        let answers = mem::take(&mut lock(&self.shared.given).answers);
        drop(answers);
    }
}

/// Says that the thread has ended, by a panic or not.
struct Finished<'a>(&'a Shared);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        lock(&self.0.asked).finished = true;
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("asked", &lock(&self.shared.asked).requests.len())
            .field("answers", &lock(&self.shared.given).answers.len())
            .finish_non_exhaustive()
    }
}

impl Patience {
    /// Makes a call that may last for ever.
    pub(super) fn spend<T>(&self, call: impl FnOnce() -> T) -> T {
        /// Ends with the call, by a panic or not.
        struct Blocked<'a>(&'a Shared);
        impl Drop for Blocked<'_> {
            fn drop(&mut self) {
                lock(&self.0.asked).blocked = false;
            }
        }
        lock(&self.0.asked).blocked = true;
        self.0.changed.notify_all();
        let _blocked = Blocked(&self.0);
        call()
    }
}

impl Shared {
    fn run(&self, mut work: impl Work) {
        let mut out = Vec::with_capacity(BATCH);
        let mut since: Option<Instant> = None;
        loop {
            let idle = match self.poll() {
                Next::Request(file, request) => {
                    // It calls what it was given: iterators, readers, functions that look at bytes.
                    let carried_out = panic::catch_unwind(AssertUnwindSafe(|| {
                        work.carry_out(file, request, &mut out);
                    }));
                    if carried_out.is_err() {
                        out.push(panicked(file));
                    }
                    false
                }
                Next::Nothing => true,
                Next::Closed => break,
            };
            if idle || work.is_due() {
                // That takes its time: nobody shall wait for it who need not.
                self.give(&mut out);
                work.put_off(&mut out);
                self.give(&mut out);
            }
            let old = !out.is_empty() && since.get_or_insert_with(Instant::now).elapsed() > AGE;
            if old || out.len() >= BATCH || out.iter().map(weight).sum::<usize>() >= BYTES {
                self.give(&mut out);
            }
            if out.is_empty() {
                since = None;
            }
            if idle && !self.sleep(&mut work) {
                break;
            }
        }
    }

    fn poll(&self) -> Next {
        let mut asked = lock(&self.asked);
        if asked.closed {
            return Next::Closed;
        }
        match asked.requests.pop_front() {
            Some((file, request)) => Next::Request(file, request),
            None => Next::Nothing,
        }
    }

    /// Waits until something was asked; false if the store was dropped.
    fn sleep(&self, work: &mut impl Work) -> bool {
        let mut asked = lock(&self.asked);
        if asked.requests.is_empty() && !asked.closed {
            drop(asked);
            work.rest();
            asked = lock(&self.asked);
        }
        while asked.requests.is_empty() && !asked.closed {
            asked = self.wait(asked);
        }
        !asked.closed
    }

    fn wait<'a>(&self, asked: MutexGuard<'a, Asked>) -> MutexGuard<'a, Asked> {
        self.changed.wait(asked).unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, out: &mut Vec<Answer>) {
        if out.is_empty() {
            return;
        }
        let mut given = lock(&self.given);
        given.answers.extend(out.drain(..));
        let waker = given.waker.clone();
        drop(given);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

enum Next {
    Request(FileNo, Request),
    Nothing,
    Closed,
}

/// What is answered to a request that ended in a panic.
#[cold]
fn panicked(file: FileNo) -> Answer {
    let error = io::Error::other("the store's thread has panicked");
    Answer { file, result: Err(Failure { error, chain: None, item: None }) }
}

/// Bytes of buffers that an answer gives back or brings.
fn weight(answer: &Answer) -> usize {
    match &answer.result {
        Ok(Done::Written(chain) | Done::Read { chain, .. }) => chain.len(),
        _ => 0,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
