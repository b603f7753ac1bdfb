//! Stacks of toy layers.

mod build;
mod flow;
mod run;
mod sessions;
mod tap;
mod timers;

use std::sync::{Arc, Mutex};

use super::*;
use crate::pool::{Class, Pool};

type Handler = Box<dyn FnMut(Chain, &mut Context<'_>) -> Outcome + Send>;
type OnTimeout = Box<dyn FnMut(Timer, &mut Context<'_>) + Send>;
type OnSignal = Box<dyn FnMut(Signal, &mut Context<'_>) + Send>;

/// A layer made of closures; one that was told nothing passes everything on.
struct Toy {
    name: &'static str,
    info: LayerInfo,
    input: Handler,
    output: Handler,
    timeout: OnTimeout,
    signal: OnSignal,
    kept: Arc<Mutex<Vec<Chain>>>,
}

fn toy(name: &'static str) -> Toy {
    Toy {
        name,
        info: LayerInfo::new(Edge::Any, Edge::Any),
        input: Box::new(|chain, cx| cx.up(chain)),
        output: Box::new(|chain, cx| cx.down(chain)),
        timeout: Box::new(|_, _| {}),
        signal: Box::new(|_, _| {}),
        kept: Arc::default(),
    }
}

/// Sends back what comes.
fn echo() -> Toy {
    toy("echo").input(|chain, cx| cx.reply(chain))
}

/// Takes what comes, and notes it.
fn collector(log: &Log) -> Toy {
    let log = log.clone();
    toy("collector").input(move |chain, cx| {
        log.add(chain.to_vec().unwrap());
        cx.consumed(chain)
    })
}

/// A header of `bytes` bytes that are all `mark`: put on, and taken off again.
fn header(name: &'static str, mark: u8, bytes: usize) -> Toy {
    toy(name)
        .info(LayerInfo::new(Edge::Any, Edge::Any).prepends(bytes))
        .input(move |mut chain, cx| {
            let mut found = vec![0; bytes];
            if chain.peek(0, &mut found).is_err() || found.iter().any(|&byte| byte != mark) {
                return cx.drop(chain, DropReason::MALFORMED);
            }
            chain.trim_front(bytes).unwrap();
            cx.up(chain)
        })
        .output(move |mut chain, cx| match chain.prepend(bytes) {
            Ok(front) => {
                front.fill(mark);
                cx.down(chain)
            }
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        })
}

/// One byte that says which layer above is meant.
fn switch(name: &'static str) -> Toy {
    toy(name)
        .info(LayerInfo::new(Edge::Packets, Edge::Packets).prepends(1).min_header(1))
        .input(|mut chain, cx| {
            let key: u8 = chain.strip().unwrap();
            cx.up_key(key.into(), chain)
        })
        .output(|mut chain, cx| {
            let key = cx.key().unwrap() as u8;
            chain.prepend_slice(&[key]).unwrap();
            cx.down(chain)
        })
}

impl Toy {
    fn info(mut self, info: LayerInfo) -> Self {
        self.info = info;
        self
    }

    fn input(
        mut self,
        input: impl FnMut(Chain, &mut Context<'_>) -> Outcome + Send + 'static,
    ) -> Self {
        self.input = Box::new(input);
        self
    }

    fn output(
        mut self,
        output: impl FnMut(Chain, &mut Context<'_>) -> Outcome + Send + 'static,
    ) -> Self {
        self.output = Box::new(output);
        self
    }

    fn timeout(mut self, timeout: impl FnMut(Timer, &mut Context<'_>) + Send + 'static) -> Self {
        self.timeout = Box::new(timeout);
        self
    }

    fn signal(mut self, signal: impl FnMut(Signal, &mut Context<'_>) + Send + 'static) -> Self {
        self.signal = Box::new(signal);
        self
    }
}

impl Protocol for Toy {
    fn name(&self) -> &str {
        self.name
    }

    fn info(&self) -> LayerInfo {
        self.info.clone()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        (self.input)(chain, cx)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        (self.output)(chain, cx)
    }

    fn timeout(&mut self, timer: Timer, cx: &mut Context<'_>) {
        (self.timeout)(timer, cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        (self.signal)(signal, cx);
    }

    fn held(&self) -> Held {
        self.kept.lock().unwrap().iter().sum()
    }
}

/// What layers noted, in order.
struct Log<T = Vec<u8>>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Log<T> {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn add(&self, entry: T) {
        self.0.lock().unwrap().push(entry);
    }

    fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

const PORT: PortId = PortId(0);

fn pool() -> Pool {
    Pool::builder().name("test").count(Class::Small, 4096).count(Class::K2, 512).build().unwrap()
}

fn pile(pool: &Pool, edge: Edge, layers: impl IntoIterator<Item = Toy>) -> Stack {
    Stack::pile(pool, edge, boxed(layers)).unwrap()
}

fn boxed(layers: impl IntoIterator<Item = Toy>) -> Vec<Box<dyn Protocol>> {
    layers.into_iter().map(|layer| Box::new(layer) as Box<dyn Protocol>).collect()
}

fn give(stack: &mut Stack, port: PortId, packets: &[&[u8]]) {
    let mut batch = Batch::new();
    for packet in packets {
        batch.push(stack.pool().chain_from(packet).unwrap());
    }
    stack.input(port, &mut batch);
    assert!(batch.is_empty());
}

/// Takes all that the port wants to send.
fn sent(stack: &mut Stack, port: PortId) -> Vec<Vec<u8>> {
    let queue = stack.poll_output(port);
    let chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
    stack.flushed(port);
    chains.iter().map(|chain| chain.to_vec().unwrap()).collect()
}

fn assert_balanced(stack: &Stack) {
    for layer in stack.stats().layers {
        assert_eq!(layer.imbalance(), 0, "{layer:?}");
    }
}
