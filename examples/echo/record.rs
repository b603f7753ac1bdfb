//! What is measured while clients run, shared with the thread that prints it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use hdrhistogram::Histogram;

/// Failures that are kept with their words; of the others only the number is.
const KEPT: usize = 8;
/// Latencies that a session collects before it takes the lock.
const BUFFERED: usize = 256;

/// The measurements of one run. All sessions write to it, anyone may read it meanwhile.
pub struct Record {
    /// Messages that came back, verified.
    pub messages: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Datagrams that did not come back in time.
    pub lost: AtomicU64,
    /// Datagrams that came back after they had been given up.
    pub late: AtomicU64,
    /// Datagrams that came back more than once.
    pub duplicates: AtomicU64,
    /// Sessions that have ended, well or not.
    pub ended: AtomicU64,
    /// What went wrong: how often, and the first few in words.
    failures: Mutex<(u64, Vec<String>)>,
    /// Nanoseconds from sending to receiving.
    latency: Mutex<Histogram<u64>>,
}

impl Record {
    pub fn new() -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            late: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failures: Mutex::default(),
            // Up to a minute, to three significant digits.
            latency: Mutex::new(Histogram::new_with_bounds(1, 60_000_000_000, 3)?),
        }))
    }

    /// Something went wrong: the run has failed.
    pub fn fail(&self, what: impl Into<String>) {
        let (count, words) = &mut *lock(&self.failures);
        *count += 1;
        if words.len() < KEPT {
            words.push(what.into());
        }
    }

    /// How often something went wrong, and the first few in words.
    pub fn failures(&self) -> (u64, Vec<String>) {
        lock(&self.failures).clone()
    }

    /// The latencies so far.
    pub fn latency(&self) -> Histogram<u64> {
        lock(&self.latency).clone()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the thousands of counters of the histogram.
        f.debug_struct("Record")
            .field("messages", &self.messages)
            .field("lost", &self.lost)
            .field("late", &self.late)
            .field("duplicates", &self.duplicates)
            .field("ended", &self.ended)
            .field("failures", &self.failures())
            .finish_non_exhaustive()
    }
}

/// One session's part in a [`Record`]. What it has collected goes there when it is full, when the
/// session says so, and when the session ends.
#[derive(Debug)]
pub struct Recorder {
    record: Arc<Record>,
    bytes: u64,
    latencies: Vec<u64>,
}

impl Recorder {
    pub fn new(record: &Arc<Record>) -> Self {
        Self { record: record.clone(), bytes: 0, latencies: Vec::with_capacity(BUFFERED) }
    }

    /// A message of `bytes` bytes that was sent at that time has come back. (The time of the stack
    /// would not do: it stands still within a poll, in which much may go to and fro.)
    pub fn message(&mut self, bytes: usize, sent: Instant, now: Instant) {
        self.bytes += bytes as u64;
        self.latencies.push(now.duration_since(sent).as_nanos() as u64);
        if self.latencies.len() == BUFFERED {
            self.flush();
        }
    }

    pub fn flush(&mut self) {
        if self.latencies.is_empty() {
            return;
        }
        self.record.messages.fetch_add(self.latencies.len() as u64, Relaxed);
        self.record.bytes.fetch_add(std::mem::take(&mut self.bytes), Relaxed);
        let mut histogram = lock(&self.record.latency);
        for nanos in self.latencies.drain(..) {
            histogram.saturating_record(nanos.max(1));
        }
    }
}

impl std::ops::Deref for Recorder {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.flush();
        self.record.ended.fetch_add(1, Relaxed);
    }
}

/// A thread that panicked while it held the lock has left numbers that are still numbers.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
