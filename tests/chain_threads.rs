//! Chains that share storage, on several threads: nobody sees another's writes, storage is
//! released exactly once, and all is back when the threads have ended.

mod common;

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use common::{bytes, level, pattern, roomy};
use mbuf::{Batch, Chain, Class, Pool};

const THREADS: usize = 4;

/// A small generator: the sequence does not matter, but that it is the same each time does.
struct Rng(u64);

impl Rng {
    /// Below `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % n
    }
}

/// Does something to a chain that is shared with other threads, and to the bytes it should hold.
fn change(rng: &mut Rng, chain: &mut Chain, model: &mut Vec<u8>, kept: &mut Vec<(Chain, Vec<u8>)>) {
    let at = rng.below(model.len() + 1);
    match rng.below(10) {
        0 => {
            let data = pattern(rng.below(100), rng.below(200));
            chain.copy_back(at, &data).unwrap();
            model.resize(model.len().max(at + data.len()), 0);
            model[at..at + data.len()].copy_from_slice(&data);
        }
        1 => {
            chain.prepend_slice(&[1, 2, 3]).unwrap();
            model.splice(..0, [1, 2, 3]);
        }
        2 => {
            chain.extend_from_slice(&[4; 50]).unwrap();
            model.extend([4; 50]);
        }
        3 => {
            let tail = chain.split_off(at).unwrap();
            kept.push((tail, model.split_off(at)));
        }
        4 => kept.push((chain.share().unwrap(), model.clone())),
        5 => {
            chain.trim_front(at / 8).unwrap();
            model.drain(..at / 8);
        }
        6 => assert_eq!(chain.pullup(at.min(60_000)).unwrap(), &model[..at.min(60_000)]),
        7 => {
            if let Some((other, bytes)) = kept.pop()
                && model.len() + bytes.len() < 60_000
            {
                chain.concat(other).unwrap();
                model.extend(bytes);
            }
        }
        8 => chain.unshare().unwrap(),
        _ => {
            chain.advance(at / 16).unwrap();
            model.drain(..at / 16);
        }
    }
    kept.truncate(6);
}

#[test]
fn sharers_on_other_threads_see_their_own_bytes() {
    let pool = roomy("pool");
    for round in 0..8 {
        let model = pattern(round, 20_000);
        let mut chain = pool.chain_in(Class::K64, 100).unwrap();
        chain.extend_from_slice(&model).unwrap();
        let mut batch = Batch::new();
        chain.share_n(THREADS, &mut batch).unwrap();
        let start = Arc::new(Barrier::new(THREADS));
        let threads: Vec<_> = (0..THREADS)
            .map(|i| {
                let (mut chain, mut model) = (batch.pop().unwrap(), model.clone());
                let start = Arc::clone(&start);
                thread::spawn(move || {
                    let mut rng = Rng((round * THREADS + i) as u64);
                    let mut kept = Vec::new();
                    start.wait();
                    for _ in 0..150 {
                        change(&mut rng, &mut chain, &mut model, &mut kept);
                        assert!(bytes(&chain) == model);
                    }
                    kept.iter().for_each(|(chain, model)| assert!(&bytes(chain) == model));
                    // Some go home in other hands.
                    (chain, model)
                })
            })
            .collect();
        drop(chain);
        for thread in threads {
            let (chain, model) = thread.join().unwrap();
            assert!(bytes(&chain) == model);
        }
        assert_eq!(level(&pool), [0; 5], "round {round}");
    }
}

/// Counts how often it is released.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_add(1, SeqCst);
    }
}

#[test]
fn an_owner_is_released_once_when_all_threads_let_go_at_once() {
    let pool = roomy("pool");
    let released = Arc::new(AtomicUsize::new(0));
    let rounds = 300;
    let start = Arc::new(Barrier::new(THREADS));
    let (mut senders, threads): (Vec<_>, Vec<_>) = (0..THREADS)
        .map(|_| {
            let (sender, receiver) = mpsc::channel::<Chain>();
            let start = Arc::clone(&start);
            let thread = thread::spawn(move || {
                let mut sum = 0;
                for chain in receiver {
                    start.wait();
                    sum += chain.len();
                    drop(chain);
                }
                sum
            });
            (sender, thread)
        })
        .unzip();
    for _ in 0..rounds {
        let owner = Counted(pattern(1, 100), Arc::clone(&released));
        let mut chain = pool.attach(owner, ..).map_err(|r| r.error).unwrap();
        for sender in &senders[1..] {
            sender.send(chain.share().unwrap()).unwrap();
        }
        senders[0].send(chain).unwrap();
    }
    senders.clear();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), rounds * 100);
    }
    assert_eq!(released.load(SeqCst), rounds);
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn the_last_sharer_writes_in_place_on_whichever_thread_it_is() {
    let pool = roomy("pool");
    let mut chain = pool.chain_in(Class::K16, 0).unwrap();
    chain.extend_from_slice(&pattern(1, 10_000)).unwrap();
    let clusters = level(&pool)[1..].to_vec();
    for round in 0..100_u8 {
        // The other side writes nothing, but what it read must be read before this side writes.
        let other = chain.share().unwrap();
        let expected = pattern(usize::from(round) + 1, 1)[0];
        let reader = thread::spawn(move || other.to_vec().unwrap()[0]);
        assert_eq!(reader.join().unwrap(), expected);
        assert!(chain.is_writable());
        let next = pattern(usize::from(round) + 2, 1);
        chain.copy_back(0, &next).unwrap();
        assert_eq!(level(&pool)[1..], clusters, "in place");
    }
}

#[test]
fn chains_outlive_their_pool_and_their_threads() {
    let (pool, keeper) = (roomy("short-lived"), roomy("other"));
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut chain = pool.chain_from(&pattern(1, 5000)).unwrap();
        sender.send(chain.share().unwrap()).unwrap();
        sender.send(chain).unwrap();
        // The handle and this thread's cache go here.
    });
    thread.join().unwrap();
    let mut chains: Vec<Chain> = receiver.iter().collect();
    let handle: Pool = chains[0].pool();
    assert_eq!(handle.name(), "short-lived");
    assert!(handle.stats().in_use() > 0);
    drop(handle);
    chains[0].prepend_slice(b"still growing from its own pool").unwrap();
    let mut mixed = keeper.chain_from(b"mixed").unwrap();
    mixed.concat(chains.pop().unwrap()).unwrap();
    assert_eq!(bytes(&mixed), [b"mixed", &pattern(1, 5000)[..]].concat());
    assert_eq!(chains[0].len(), 31 + 5000);
    drop(chains);
    assert_eq!(bytes(&mixed)[5..], pattern(1, 5000));
    drop(mixed);
    assert_eq!(level(&keeper), [0; 5]);
}
