//! Threads that allocate, share, write, hand on and drop as fast as they can, over pools that come
//! and go: what the models (`src/pool/models.rs`) prove for two or three steps, for millions.
//!
//! It is the test to run under ThreadSanitizer (`.ci/long`). `MBUF_STRESS_STEPS` makes it longer.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use mbuf::{Chain, Class, Error, Pool, testing::Rng};

const THREADS: usize = 4;
/// Chains that a thread keeps.
const KEPT: usize = 24;

/// What goes from thread to thread: a chain, and now and then a handle of the pool that is next.
enum Message {
    Chain(Entry),
    Pool(Pool),
}

/// A chain, each byte of which is the same.
struct Entry {
    chain: Chain,
    fill: u8,
}

impl Entry {
    fn check(&self) {
        let bytes = self.chain.to_vec().unwrap();
        assert!(bytes.iter().all(|byte| *byte == self.fill), "{:?}", self.chain);
        self.chain.check().unwrap();
    }
}

/// Bytes outside of the pool, and whether they are still there.
struct Owner {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Whoever reads later finds something else.
        self.bytes.fill(0xee);
        self.alive.fetch_sub(1, SeqCst);
    }
}

fn pool() -> Pool {
    // Small enough to be empty often.
    Pool::builder()
        .count(Class::Small, 150)
        .count(Class::K2, 40)
        .count(Class::K16, 4)
        .build()
        .unwrap()
}

/// One of the threads.
struct Worker {
    rng: Rng,
    pool: Pool,
    kept: Vec<Entry>,
    others: Vec<Sender<Message>>,
    messages: Receiver<Message>,
    owners: Arc<AtomicUsize>,
    refused: usize,
}

impl Worker {
    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            while let Ok(message) = self.messages.try_recv() {
                match message {
                    Message::Chain(entry) => {
                        entry.check();
                        self.kept.push(entry);
                    }
                    Message::Pool(pool) => self.pool = pool,
                }
            }
            if self.step().is_err() {
                self.refused += 1;
            }
            while self.kept.len() > KEPT {
                self.take_one().unwrap().check();
            }
        }
        self.kept.iter().for_each(Entry::check);
    }

    fn take_one(&mut self) -> Option<Entry> {
        let n = self.kept.len();
        (n > 0).then(|| self.kept.swap_remove(self.rng.below(n)))
    }

    fn other(&mut self) -> &Sender<Message> {
        let n = self.others.len();
        &self.others[self.rng.below(n)]
    }

    fn step(&mut self) -> Result<(), Error> {
        let fill = self.rng.below(256) as u8;
        match self.rng.below(100) {
            0..25 => {
                let len = [1, 100, 300, 3000][self.rng.below(4)];
                let chain = self.pool.chain_from(&vec![fill; len])?;
                self.kept.push(Entry { chain, fill });
            }
            25..30 => {
                let owner = Owner { bytes: vec![fill; 500], alive: Arc::clone(&self.owners) };
                self.owners.fetch_add(1, SeqCst);
                let chain = self.pool.attach(owner, ..).map_err(|rejected| rejected.error)?;
                self.kept.push(Entry { chain, fill });
            }
            30..60 => {
                if let Some(entry) = self.take_one() {
                    // Another thread may have ended already; then the chain goes here.
                    let _ = self.other().send(Message::Chain(entry));
                }
            }
            60..75 => {
                if let Some(mut entry) = self.take_one() {
                    let shared = entry.chain.share();
                    let fill = entry.fill;
                    self.kept.push(entry);
                    self.kept.push(Entry { chain: shared?, fill });
                }
            }
            75..85 => {
                if let Some(mut entry) = self.take_one() {
                    // What is shared is copied first; on an empty pool nothing changes.
                    let len = entry.chain.len();
                    entry.chain.for_each_mut(..len, |part| part.fill(fill))?;
                    entry.fill = fill;
                    self.kept.push(entry);
                }
            }
            85..92 => {
                if let Some(mut entry) = self.take_one() {
                    let at = self.rng.below(entry.chain.len() + 1);
                    let back = entry.chain.split_off(at);
                    let fill = entry.fill;
                    self.kept.push(entry);
                    self.kept.push(Entry { chain: back?, fill });
                }
            }
            92..98 => drop(self.take_one()),
            98 => self.pool.flush(),
            _ => {
                self.pool = pool();
                let next = self.pool.clone();
                let _ = self.other().send(Message::Pool(next));
            }
        }
        Ok(())
    }
}

#[test]
fn threads_that_share_and_hand_on_over_pools_that_come_and_go() {
    let steps = std::env::var("MBUF_STRESS_STEPS").map_or(60_000, |steps| steps.parse().unwrap());
    let (first, owners) = (pool(), Arc::new(AtomicUsize::new(0)));
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| channel()).unzip();
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(i, messages)| {
            let mut others = senders.clone();
            others.remove(i);
            let mut worker = Worker {
                rng: Rng::new(i as u64),
                pool: first.clone(),
                kept: Vec::new(),
                others,
                messages,
                owners: Arc::clone(&owners),
                refused: 0,
            };
            let start = Arc::clone(&start);
            thread::spawn(move || {
                start.wait();
                worker.run(steps);
                worker.refused
            })
        })
        .collect();
    drop(senders);
    let refused: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(refused > 0, "no pool was ever empty");
    assert_eq!(owners.load(SeqCst), 0, "owners that were never released");
    let stats = first.stats();
    assert_eq!(stats.in_use(), 0, "{stats}");
    assert!(first.chain().is_ok());
}
