//! What fuzz targets share: bytes laid out in a chain in any way, a stack that is driven until it
//! rests and keeps its books, and a layer that stands on top of others.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use arbitrary::Arbitrary;
use mbuf::{
    Chain, Class, Pool, Result,
    stack::{Context, Edge, LayerInfo, Outcome, Protocol, Signal, Stack, Waker},
};

/// Polls after which a stack that still has work will have some for ever.
const MOST_POLLS: usize = 100_000;

/// How bytes lie in a chain: pieces one byte longer than these numbers, by turns; none: whole.
#[derive(Debug, Default, Arbitrary)]
pub struct Layout(Vec<(u8, Storage)>);

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Storage {
    /// As few buffers as will do.
    Usual,
    /// A cluster, however short the piece.
    Cluster,
    /// A cluster that two segments share: neither may be written.
    Shared,
    /// Memory that is not the pool's.
    External,
}

impl Layout {
    /// A chain that holds `bytes` like that.
    ///
    /// # Errors
    /// The pool is empty.
    pub fn chain(&self, pool: &Pool, bytes: &[u8]) -> Result<Chain> {
        if self.0.is_empty() {
            return pool.chain_from(bytes);
        }
        let mut chain = pool.chain()?;
        let mut rest = bytes;
        for &(len, storage) in self.0.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(rest.len().min(usize::from(len) + 1));
            chain.concat(storage.piece(pool, piece)?)?;
            rest = after;
        }
        Ok(chain)
    }
}

impl Storage {
    fn piece(self, pool: &Pool, bytes: &[u8]) -> Result<Chain> {
        match self {
            Storage::Usual => pool.chain_from(bytes),
            Storage::Cluster => in_cluster(pool, bytes),
            Storage::Shared => {
                let mut whole = in_cluster(pool, bytes)?;
                let middle = bytes.len() / 2;
                let mut chain = whole.share_range(0, middle)?;
                chain.concat(whole.share_range(middle, bytes.len() - middle)?)?;
                Ok(chain)
            }
            Storage::External => Ok(pool.attach(bytes.to_vec(), ..)?),
        }
    }
}

fn in_cluster(pool: &Pool, bytes: &[u8]) -> Result<Chain> {
    let mut chain = pool.chain_in(Class::K2, 0)?;
    chain.extend_from_slice(bytes)?;
    Ok(chain)
}

/// Goes on with what is pending until nothing is.
///
/// # Panics
/// If that does not come to an end.
pub fn settle(stack: &mut Stack) {
    for _ in 0..MOST_POLLS {
        if !stack.has_work() {
            return;
        }
        stack.poll();
    }
    panic!("still at work after {MOST_POLLS} polls: {stack:?}");
}

/// Every layer accounts for every chain, and drops none for a reason that it has not declared.
///
/// # Panics
/// If one does not.
pub fn check_books(stack: &Stack) {
    for layer in stack.stats().layers {
        assert_eq!(layer.imbalance(), 0, "{layer:?}");
        assert!(layer.undeclared.is_empty(), "{layer:?}");
    }
}

/// The program above a stack, as its top layer: it keeps copies of what comes up, and sends down
/// what its [`Handle`] is given, as there is credit and there are buffers.
pub struct Program(Handle);

/// What a target keeps of a [`Program`].
#[derive(Clone, Default)]
pub struct Handle(Arc<Mutex<Desk>>);

#[derive(Default)]
struct Desk {
    received: Vec<Vec<u8>>,
    to_send: VecDeque<Vec<u8>>,
    waker: Option<Waker>,
}

impl Program {
    /// A program that has nothing to say yet.
    pub fn new() -> (Program, Handle) {
        let handle = Handle::default();
        (Program(handle.clone()), handle)
    }

    fn send(&self, cx: &mut Context<'_>) {
        while let Some(bytes) = self.0.next()
            && cx.credit() > 0
            && let Ok(chain) = cx.pool().chain_from(&bytes)
        {
            self.0.desk().to_send.pop_front();
            cx.made(1);
            cx.send_down(chain);
        }
    }
}

impl Handle {
    /// What has come up since the last time, in order.
    pub fn take(&self) -> Vec<Vec<u8>> {
        mem::take(&mut self.desk().received)
    }

    /// Gives the program something to send. It does so when the stack is polled.
    pub fn send(&self, bytes: Vec<u8>) {
        self.desk().to_send.push_back(bytes);
        self.nudge();
    }

    /// Has the program try again to send what there was no buffer for; whether there is any.
    pub fn nudge(&self) -> bool {
        let desk = self.desk();
        if let Some(waker) = &desk.waker {
            waker.wake();
        }
        !desk.to_send.is_empty()
    }

    fn next(&self) -> Option<Vec<u8>> {
        self.desk().to_send.front().cloned()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().expect("the first panic ends the run")
    }
}

impl Protocol for Program {
    fn name(&self) -> &str {
        "program"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any)
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let bytes = chain.to_vec().expect("nothing is opaque");
        self.0.desk().received.push(bytes);
        cx.consumed(chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Opened => self.0.desk().waker = Some(cx.waker()),
            Signal::Woken | Signal::Writable => self.send(cx),
            _ => {}
        }
    }
}
