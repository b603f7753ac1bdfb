//! The contracts of `Source` and `Sink`, each one function, run over every implementation; and what
//! the tests of the single ports share.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};

use super::{Received, Sent, Sink, Source};
use crate::{
    chain::Chain,
    pool::{Class, Pool, Receiver},
    queue::{Batch, Queue},
};

mod contract;
mod datagram;
mod faults;
mod stream;
mod tuntap;
mod unix;

/// A pool of about 8 MiB, with enough of every class.
pub(super) fn pool() -> Pool {
    Pool::builder()
        .name("test")
        .count(Class::Small, 16_384)
        .count(Class::K2, 512)
        .count(Class::K4, 64)
        .count(Class::K16, 64)
        .count(Class::K64, 64)
        .build()
        .unwrap()
}

/// A queue that nothing in these tests fills.
pub(super) fn queue() -> Queue {
    Queue::new(100_000, 1 << 30)
}

/// `len` bytes that differ from place to place, and from seed to seed.
pub(super) fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at + seed).wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

/// A chain of segments of these lengths, which holds `bytes` from the start on.
pub(super) fn segmented(pool: &Pool, bytes: &[u8], segments: &[usize]) -> Chain {
    let mut at = 0;
    let mut whole: Option<Chain> = None;
    for &len in segments {
        let class = if len <= 128 { Class::Small } else { Class::K2 };
        let mut part = pool.chain_in(class, 0).unwrap();
        part.extend_from_slice(&bytes[at..at + len]).unwrap();
        at += len;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => whole.concat(part).unwrap(),
        }
    }
    whole.unwrap_or_else(|| pool.chain().unwrap())
}

/// Waits until the descriptor is ready for that, five seconds at most.
pub(super) fn wait(fd: &impl AsFd, what: Interest) {
    let fd = fd.as_fd().as_raw_fd();
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut SourceFd(&fd), Token(0), what).unwrap();
    let mut events = Events::with_capacity(1);
    loop {
        match poll.poll(&mut events, Some(Duration::from_secs(5))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other.unwrap(),
        }
    }
    assert!(!events.is_empty(), "descriptor {fd} is not ready after five seconds");
}

/// Receives until there is something to return: chains, or the end.
pub(super) fn recv_some<S: Source + AsFd>(
    source: &mut S,
    receiver: &Receiver,
    batch: &mut Batch,
) -> Received {
    loop {
        match source.recv(receiver, batch).unwrap() {
            Received::WouldBlock => wait(source, Interest::READABLE),
            other => return other,
        }
    }
}

/// Receives `n` chains.
pub(super) fn recv_chains<S: Source + AsFd>(
    source: &mut S,
    receiver: &Receiver,
    n: usize,
) -> Vec<Chain> {
    let mut batch = Batch::new();
    while batch.len() < n {
        assert!(matches!(recv_some(source, receiver, &mut batch), Received::Chains(1..)));
    }
    assert_eq!(batch.len(), n);
    batch.drain().collect()
}

/// The bytes of all chains, one after the other.
pub(super) fn bytes_of<'a>(chains: impl IntoIterator<Item = &'a Chain>) -> Vec<u8> {
    chains.into_iter().flat_map(|chain| chain.to_vec().unwrap()).collect()
}

/// Sends all of the queue, to a peer that `drain` empties when it is full.
pub(super) fn send_all(sink: &mut dyn Sink, queue: &mut Queue, mut drain: impl FnMut()) {
    while sink.send(queue).unwrap() == Sent::WouldBlock {
        drain();
    }
    assert!(queue.is_empty());
}
