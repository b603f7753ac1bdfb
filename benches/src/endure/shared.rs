//! What all threads of a run have in common: when to stop, how fast to go, what was counted, what
//! was found.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use mbuf::{
    Pool,
    io::faults::{Attempt, Call, Fault, Seeded},
};

use crate::tcp_many::Random;

/// How long anything may stand still before that is a finding.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Shared by all threads.
#[derive(Debug)]
pub struct Shared {
    pub pool: Pool,
    pub seed: u64,
    pub began: Instant,
    pub counts: Counts,
    stop: AtomicBool,
    /// How long a worker rests after a unit of work, in microseconds.
    rest: AtomicU64,
    findings: Mutex<Vec<String>>,
    workers: Mutex<Vec<Arc<Worker>>>,
}

/// What was done so far, by all threads.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that strangers made.
    pub connections: AtomicU64,
    /// Of these: all came back; they were reset by us; the server ended them.
    pub whole: AtomicU64,
    pub reset: AtomicU64,
    pub cut: AtomicU64,
    /// Bytes that came back, and were right.
    pub echoed: AtomicU64,
    pub datagrams: AtomicU64,
    pub datagrams_back: AtomicU64,
    /// Transfers begun; those of which every file arrived; those that broke.
    pub transfers: AtomicU64,
    pub transfers_whole: AtomicU64,
    pub transfers_broken: AtomicU64,
    /// Files found whole in the folder, and their bytes; files that were reported as failed.
    pub files: AtomicU64,
    pub file_bytes: AtomicU64,
    pub files_failed: AtomicU64,
    /// Times that the hog had all of the pool.
    pub empty: AtomicU64,
}

impl Shared {
    pub fn new(pool: &Pool, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            pool: pool.clone(),
            seed,
            began: Instant::now(),
            counts: Counts::default(),
            stop: AtomicBool::new(false),
            rest: AtomicU64::new(1_000),
            findings: Mutex::default(),
            workers: Mutex::default(),
        })
    }

    pub fn is_over(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Something is wrong: it is kept, and the run ends.
    pub fn found(&self, what: impl fmt::Display) {
        let text = format!("{:.1} s: {what}", self.began.elapsed().as_secs_f64());
        eprintln!("FINDING at {text}");
        lock(&self.findings).push(text);
        self.stop();
    }

    pub fn findings(&self) -> Vec<String> {
        lock(&self.findings).clone()
    }

    /// A thread that must show that it gets on.
    pub fn worker(&self, name: &str) -> Arc<Worker> {
        let worker = Arc::new(Worker {
            name: name.to_owned(),
            moved: Mutex::new(Some(Instant::now())),
            at: Mutex::default(),
        });
        lock(&self.workers).push(Arc::clone(&worker));
        worker
    }

    /// The workers that have stood still for too long.
    pub fn stuck(&self) -> Vec<String> {
        let workers = lock(&self.workers);
        let stuck = workers
            .iter()
            .filter(|worker| lock(&worker.moved).is_some_and(|moved| moved.elapsed() > PATIENCE));
        stuck.map(|worker| worker.to_string()).collect()
    }

    /// What each worker is at.
    pub fn state(&self) -> String {
        let workers = lock(&self.workers);
        workers.iter().map(|worker| format!("  {worker}\n")).collect()
    }

    /// Rests as long as the pace asks for, or until the end.
    pub fn rest(&self) {
        let until = Instant::now() + Duration::from_micros(self.rest.load(Relaxed));
        while !self.is_over() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Corrects the rests: `used` of the processor was used, `wanted` should be.
    pub fn pace(&self, used: f64, wanted: f64) {
        let rest = self.rest.load(Relaxed) as f64;
        let next = if used > wanted { rest * 1.15 + 20.0 } else { rest * 0.9 };
        self.rest.store(next.clamp(50.0, 500_000.0) as u64, Relaxed);
    }

    pub fn random(&self, worker: u64) -> Random {
        Random(crate::tcp_many::mix(self.seed ^ crate::tcp_many::mix(worker)))
    }
}

/// A thread that must show that it gets on.
#[derive(Debug)]
pub struct Worker {
    name: String,
    /// When it last got on; `None` once it has ended.
    moved: Mutex<Option<Instant>>,
    at: Mutex<String>,
}

impl Worker {
    pub fn moved(&self) {
        *lock(&self.moved) = Some(Instant::now());
    }

    /// It begins something.
    pub fn at(&self, what: String) {
        *lock(&self.at) = what;
    }

    pub fn ends(&self) {
        *lock(&self.moved) = None;
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = lock(&self.at);
        match *lock(&self.moved) {
            Some(moved) => {
                write!(f, "{}: {at}; got on {:.1} s ago", self.name, moved.elapsed().as_secs_f64())
            }
            None => write!(f, "{}: ended", self.name),
        }
    }
}

/// The errors that are injected, and of 1,000 calls that may fail so, how many do.
const ERRORS: [(i32, &str, u32); 10] = [
    (libc::EINTR, "EINTR", 40),
    (libc::EAGAIN, "EAGAIN", 40),
    (libc::ENOBUFS, "ENOBUFS", 5),
    (libc::ENOMEM, "ENOMEM", 3),
    (libc::ECONNRESET, "ECONNRESET", 2),
    (libc::EIO, "EIO", 4),
    (libc::ENOSPC, "ENOSPC", 4),
    (libc::ECONNABORTED, "ECONNABORTED", 20),
    (libc::EMFILE, "EMFILE", 5),
    (libc::ENOLCK, "ENOLCK", 20),
];
const SHORT: u32 = 100;

/// Kinds of faults, and how many of each.
pub type Faults = Vec<(&'static str, u64)>;

/// Chooses faults, and counts them.
#[derive(Debug)]
pub struct Shim {
    faults: Seeded,
    calls: [AtomicU64; Call::ALL.len()],
    /// By call; cut short first, then by error.
    given: [[AtomicU64; ERRORS.len() + 1]; Call::ALL.len()],
}

impl Shim {
    pub fn new(seed: u64) -> Self {
        // What cannot be looked at or removed is rightly left behind, so that a part in the folder
        // would mean nothing.
        let faults = Seeded::new(seed).short(SHORT).spare(Call::Unlink).spare(Call::Stat);
        let faults =
            ERRORS.iter().fold(faults, |faults, &(number, _, share)| faults.errno(number, share));
        Self {
            faults,
            calls: [const { AtomicU64::new(0) }; Call::ALL.len()],
            given: [const { [const { AtomicU64::new(0) }; ERRORS.len() + 1] }; Call::ALL.len()],
        }
    }

    pub fn decide(&self, attempt: &Attempt) -> Fault {
        let call = attempt.call as usize;
        self.calls[call].fetch_add(1, Relaxed);
        let fault = self.faults.decide(attempt);
        let at = match fault {
            Fault::None => return fault,
            Fault::Short(_) => Some(0),
            Fault::Errno(number) => {
                ERRORS.iter().position(|&(no, ..)| no == number).map(|at| at + 1)
            }
        };
        if let Some(at) = at {
            self.given[call][at].fetch_add(1, Relaxed);
        }
        fault
    }

    /// How many faults of a kind there were.
    pub fn of_kind(&self, kind: usize) -> u64 {
        self.given.iter().map(|given| read(&given[kind])).sum()
    }

    /// How many calls were answered with this error.
    pub fn of_error(&self, number: i32) -> u64 {
        let at = ERRORS.iter().position(|&(no, ..)| no == number);
        at.map_or(0, |at| self.of_kind(at + 1))
    }

    /// The kinds of faults, and how many there were of each.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let names = ["short"].into_iter().chain(ERRORS.iter().map(|&(_, name, _)| name));
        names.enumerate().map(|(at, name)| (name, self.of_kind(at)))
    }

    /// Call, how often it was made, and the faults of each kind.
    pub fn table(&self) -> Vec<(&'static str, u64, Faults)> {
        let row = |call: Call| {
            let given = self.given[call as usize].iter().map(|count| count.load(Relaxed));
            let faults = self
                .kinds()
                .map(|(kind, _)| kind)
                .zip(given)
                .filter(|&(_, count)| count > 0)
                .collect();
            (call.name(), self.calls[call as usize].load(Relaxed), faults)
        };
        Call::ALL.into_iter().map(row).filter(|&(_, calls, _)| calls > 0).collect()
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Relaxed);
}

pub fn read(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}
