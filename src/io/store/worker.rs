//! A store's helper thread, and the two queues between it and the layer.

use std::{
    collections::VecDeque,
    fmt, io, mem,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
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

    /// Whether a request may take for ever, so that nobody shall wait for it who need not.
    fn may_wait(&self, _file: FileNo, _request: &Request) -> bool {
        false
    }

    /// Whether what was put off must wait no longer.
    fn is_due(&self) -> bool {
        false
    }

    /// Carries out whatever was put off.
    fn put_off(&mut self, _out: &mut Vec<Answer>) {}

    /// Nothing is asked: gives back what others may need meanwhile.
    fn rest(&mut self) {}
}

/// A store whose work is done by a thread of its own. Dropping it never waits: the thread finishes
/// the request that it is at, lets go of all it has, and ends.
pub(super) struct Worker(Arc<Shared>);

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
}

#[derive(Default)]
struct Given {
    answers: VecDeque<Answer>,
    waker: Option<Waker>,
}

/// Tells a thread whether to go on waiting for something that may never come.
#[derive(Clone)]
pub(super) struct Patience(Arc<Shared>);

impl Worker {
    /// Starts the thread. `make` makes the work there.
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
        let run = move || theirs.run(make(Patience(Arc::clone(&theirs))));
        thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self(shared))
    }
}

impl Store for Worker {
    fn attach(&mut self, waker: Waker) {
        lock(&self.0.given).waker = Some(waker);
    }

    fn ask(&mut self, file: FileNo, request: Request) {
        let mut asked = lock(&self.0.asked);
        asked.requests.push_back((file, request));
        let first = asked.requests.len() == 1;
        drop(asked);
        if first {
            self.0.changed.notify_all();
        }
    }

    fn answer(&mut self) -> Option<Answer> {
        lock(&self.0.given).answers.pop_front()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        lock(&self.0.given).waker = None;
        let mut asked = lock(&self.0.asked);
        asked.closed = true;
        let left = mem::take(&mut asked.requests);
        drop(asked);
        self.0.changed.notify_all();
        let answers = mem::take(&mut lock(&self.0.given).answers);
        drop((left, answers));
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("asked", &lock(&self.0.asked).requests.len())
            .field("answers", &lock(&self.0.given).answers.len())
            .finish_non_exhaustive()
    }
}

impl Patience {
    /// Whether nobody waits for the answer any more: the store was dropped.
    pub(super) fn is_over(&self) -> bool {
        lock(&self.0.asked).closed
    }
}

impl Shared {
    fn run(&self, mut work: impl Work) {
        let mut out = Vec::with_capacity(BATCH);
        let mut since: Option<Instant> = None;
        loop {
            let idle = match self.poll() {
                Next::Request(file, request) => {
                    if work.may_wait(file, &request) {
                        self.give(&mut out);
                    }
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
        // Nobody takes what was answered last. It goes before the work does, so that whoever waits
        // for the end of that finds all buffers back.
        drop(out);
        let answers = mem::take(&mut lock(&self.given).answers);
        drop(answers);
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
