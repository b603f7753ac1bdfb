//! The stack: layers that strip headers on the way up and prepend them on the way down.
//!
//! ```text
//!         echo                         a layer is a value that implements `Protocol`
//!          |
//!       framing        udp             a link carries bytes or packets
//!          |            | 17
//!          |    arp    ipv4            a key on a link chooses on the way up,
//!          | 0x806 \   / 0x800         and is found again on the way down
//!          |      ethernet
//!        --+--      --+--
//!        port         port             chains in, chains out
//! ```
//!
//! A stack does no I/O and looks at no clock. Whoever drives it gives it chains
//! ([`Stack::input`]), tells it the time ([`Stack::advance`]), and takes what it wants to send
//! ([`Stack::poll_output`]); it runs on one thread, whichever that is at the time.
//!
//! Each layer takes all that is pending for it before the next one runs, so that what a step costs
//! is paid once a batch; a lone packet goes from layer to layer without touching a queue. Work is
//! bounded: a call that has used up its rounds leaves the rest, and [`Stack::has_work`] says so.
//! No heap memory is allocated for a packet once the queues have grown to what the traffic needs.
//!
//! ```
//! use mbuf::{
//!     Chain, Pool,
//!     stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
//! };
//!
//! /// A header of two bytes: a magic number.
//! struct Magic;
//!
//! impl Protocol for Magic {
//!     fn name(&self) -> &str {
//!         "magic"
//!     }
//!
//!     fn info(&self) -> LayerInfo {
//!         LayerInfo::new(Edge::Packets, Edge::Packets).prepends(2).min_header(2).stateless()
//!     }
//!
//!     fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
//!         match chain.strip::<[u8; 2]>() {
//!             Ok([0xca, 0xfe]) => cx.up(chain),
//!             _ => cx.drop(chain, DropReason::MALFORMED),
//!         }
//!     }
//!
//!     fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
//!         match chain.push(&[0xca_u8, 0xfe]) {
//!             Ok(()) => cx.down(chain),
//!             Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
//!         }
//!     }
//! }
//!
//! struct Echo;
//!
//! impl Protocol for Echo {
//!     fn name(&self) -> &str {
//!         "echo"
//!     }
//!
//!     fn info(&self) -> LayerInfo {
//!         LayerInfo::new(Edge::Any, Edge::Any).stateless()
//!     }
//!
//!     fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
//!         cx.reply(chain)
//!     }
//!
//!     fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
//!         cx.down(chain)
//!     }
//! }
//!
//! let pool = Pool::builder().build()?;
//! let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(Magic), Box::new(Echo)])?;
//! let port = PortId(0);
//! stack.input_one(port, pool.chain_from(b"\xca\xfehello")?);
//! stack.input_one(port, pool.chain_from(b"hello")?);
//! stack.input_one(port, pool.chain_from(b"h")?);
//! let answer = stack.poll_output(port).pop().expect("the first was well formed");
//! assert_eq!(answer.to_vec()?, b"\xca\xfehello");
//! assert!(stack.poll_output(port).is_empty());
//! let stats = stack.stats();
//! assert_eq!(stats.dropped(DropReason::MALFORMED), 1);
//! assert_eq!(stats.dropped(DropReason::SHORT), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A layer's part in the flow
//!
//! A layer that answers what it is given has nothing to do: no input is read while the output is
//! above high water. One that makes more than it received asks [`Context::credit`] before it makes
//! it, and goes on at [`Signal::Writable`]; one that makes many packets of one chain does its share,
//! keeps the rest, calls [`Context::wait`], and goes on at [`Signal::Writable`] too. Layers that keep
//! to this never see the hard limit of a port's queue.

mod builder;
mod checks;
mod context;
mod drops;
mod graph;
mod protocol;
mod run;
mod session;
mod stats;
mod tap;
#[cfg(test)]
mod tests;
mod timer;
mod waker;

use std::{fmt, sync::Arc};

use crate::{
    chain::Chain,
    error::BuildError,
    pool::Pool,
    queue::{Batch, Queue},
};

pub use self::{
    builder::{LayerId, PortId, StackBuilder},
    context::{Context, Outcome},
    drops::DropReason,
    protocol::{Edge, Held, LayerInfo, Protocol, Signal},
    session::{Peer, SessionCounts, Sessions},
    stats::{LayerStats, PortStats, StackStats},
    tap::{Direction, EdgeId, EdgeInfo, Tap, Tapped},
    timer::{Time, Timer},
    waker::Waker,
};
use self::{
    graph::{Core, Hop},
    run::{FEW, mark},
};

/// How a port is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Not at all.
    Open,
    /// After what is in its output queue, to which nothing is added any more.
    Graceful,
    /// At once. Its output queue is empty.
    Abort(DropReason),
}

/// A stack of layers. See the [module](self). (What `layer` and `listener` are in the examples is
/// said at [`Context`].)
pub struct Stack {
    core: Core,
    protocols: Vec<Box<dyn Protocol>>,
    /// The layers, each after those below it.
    bottom_up: Box<[u16]>,
    rounds: usize,
    /// What the layer that runs has been given; empty in between.
    scratch: Batch,
}

impl Stack {
    /// A builder, for a stack that draws from this pool.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let layer = builder.layer_boxed(layer(|chain, cx| cx.reply(chain)));
    /// let port = builder.port(Edge::Packets, layer);
    /// assert!(builder.build()?.wants_input(port));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(pool: &Pool) -> StackBuilder {
        StackBuilder::new(pool)
    }

    /// The usual case: one port, `PortId(0)`, and layers above it from the bottom up, without keys.
    ///
    /// # Errors
    /// As [`StackBuilder::build`].
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let layers = vec![layer(|chain, cx| cx.up(chain)), layer(|chain, cx| cx.reply(chain))];
    /// let mut stack = Stack::pile(&pool, Edge::Packets, layers)?;
    /// stack.input_one(PORT, pool.chain_from(b"hi")?);
    /// assert_eq!(stack.poll_output(PORT).pop().unwrap().to_vec()?, b"hi");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pile(
        pool: &Pool,
        edge: Edge,
        layers: Vec<Box<dyn Protocol>>,
    ) -> Result<Stack, BuildError> {
        let mut builder = Stack::builder(pool);
        let mut below = None;
        for layer in layers {
            let layer = builder.layer_boxed(layer);
            match below {
                None => _ = builder.port(edge, layer),
                Some(below) => _ = builder.stack(below, layer),
            }
            below = Some(layer);
        }
        builder.build()
    }

    pub(in crate::stack) fn assemble(
        core: Core,
        protocols: Vec<Box<dyn Protocol>>,
        bottom_up: Box<[u16]>,
        rounds: usize,
    ) -> Stack {
        Stack { core, protocols, bottom_up, rounds, scratch: Batch::with_limit(1) }
    }

    /// [`Signal::Opened`] to all layers, from the bottom up.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let (heard, signals) = std::sync::mpsc::channel();
    /// let listen = move |signal, _: &mut Context<'_>| _ = heard.send(signal);
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.open();
    /// assert_eq!(signals.try_recv(), Ok(Signal::Opened));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(&mut self) {
        self.signal(Signal::Opened);
    }

    /// Takes all chains of the batch as come in by the port, and runs the layers. They are followed
    /// one by one, as by [`input_one`](Stack::input_one); where there are more than a few, and a
    /// layer is [`batched`](LayerInfo::batched), they go from layer to layer together.
    ///
    /// # Panics
    /// If there is no such port.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// let mut batch = Batch::new();
    /// pool.alloc_batch(32, &mut batch)?;
    /// stack.input(PORT, &mut batch);
    /// assert_eq!((batch.len(), stack.poll_output(PORT).len()), (0, 32));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn input(&mut self, port: PortId, batch: &mut Batch) {
        let Some(hop) = self.enter(port, batch.len()) else {
            batch.clear();
            return;
        };
        let mut rounds = self.rounds;
        let together = self.core.batched && batch.len() >= FEW;
        if together {
            batch.iter().for_each(Chain::prefetch);
            batch.iter().for_each(Chain::prefetch_bytes);
        } else {
            // Packets that are out of the cache take a third of the time so; for others it costs
            // little.
            if batch.len() >= FEW {
                batch.begin_fetching();
            }
            while let Some(mut chain) = batch.pop_fetching() {
                mark(&mut chain, port);
                // Each has as many as a whole batch would have, which goes round as one.
                rounds = rounds.min(self.follow(hop, chain, self.rounds));
            }
        }
        batch.drain().for_each(|mut chain| {
            mark(&mut chain, port);
            self.core.push(hop, chain);
        });
        if self.is_unsettled() {
            self.run_for(rounds);
        }
    }

    /// As [`input`](Stack::input), for one chain: it is followed from layer to layer and touches
    /// no queue, unless something is pending already.
    ///
    /// # Panics
    /// If there is no such port.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// stack.input_one(PORT, pool.chain_from(b"hi")?);
    /// assert_eq!(stack.poll_output(PORT).pop().unwrap().to_vec()?, b"hi");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn input_one(&mut self, port: PortId, mut chain: Chain) {
        let Some(hop) = self.enter(port, 1) else { return };
        mark(&mut chain, port);
        let rounds = self.follow(hop, chain, self.rounds);
        if self.is_unsettled() {
            self.run_for(rounds);
        }
    }

    /// The peer will send no more. All layers hear [`Signal::EndOfStream`] from the bottom up, in
    /// order after what was put in; then the port closes after what was sent, unless a layer is
    /// [`half_open`](LayerInfo::half_open).
    ///
    /// # Panics
    /// If there is no such port.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let (heard, signals) = std::sync::mpsc::channel();
    /// let listen = move |signal, _: &mut Context<'_>| _ = heard.send(signal);
    /// let mut stack = Stack::pile(&pool, Edge::Bytes, vec![listener(listen)])?;
    /// stack.end_of_stream(PORT);
    /// assert_eq!(signals.try_recv(), Ok(Signal::EndOfStream));
    /// assert_eq!(stack.closing(PORT), Closing::Graceful);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn end_of_stream(&mut self, port: PortId) {
        let port = self.port_mut(port);
        if port.is_open() && port.end.is_none() {
            port.end = Some(0);
        }
        self.run();
    }

    /// What a sink is to send. After it has taken some: [`flushed`](Stack::flushed).
    ///
    /// # Panics
    /// If there is no such port.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Bytes, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// stack.input_one(PORT, pool.chain_from(b"hello")?);
    /// stack.poll_output(PORT).advance(2)?; // what a socket has taken
    /// stack.flushed(PORT);
    /// assert_eq!(stack.poll_output(PORT).front().unwrap().to_vec()?, b"llo");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn poll_output(&mut self, port: PortId) -> &mut Queue {
        &mut self.port_mut(port).queue
    }

    /// The sink has taken from the port's queue: [`Signal::Writable`] to those who wait for it.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let (heard, signals) = std::sync::mpsc::channel();
    /// let listen = move |signal, cx: &mut Context<'_>| match signal {
    ///     Signal::Opened => while cx.credit() > 0 {
    ///         let Ok(chain) = cx.pool().chain_zeroed(1000) else { return };
    ///         cx.made(1);
    ///         cx.send_down(chain);
    ///     },
    ///     signal => _ = heard.send(signal),
    /// };
    /// let pool = Pool::with_memory(4 << 20)?;
    /// let mut stack = Stack::pile(&pool, Edge::Bytes, vec![listener(listen)])?;
    /// stack.open(); // it sends until there is no more credit
    /// assert!(signals.try_recv().is_err());
    /// stack.poll_output(PORT).clear();
    /// stack.flushed(PORT);
    /// assert_eq!(signals.try_recv(), Ok(Signal::Writable));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flushed(&mut self, port: PortId) {
        let _ = port;
        if self.is_unsettled() {
            self.run();
        }
    }

    /// Whether the driver should read: the output is below high water, nobody paused the input,
    /// nothing is left over from the last call, and the port is open. O(1).
    ///
    /// # Panics
    /// If there is no such port.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let layer = builder.layer_boxed(layer(|chain, cx| cx.reply(chain)));
    /// builder.egress(1, 16, 1 << 20).port(Edge::Bytes, layer);
    /// let mut stack = builder.build()?;
    /// stack.input_one(PORT, pool.chain_from(b"hello")?);
    /// assert!(!stack.wants_input(PORT)); // the output is above high water
    /// stack.poll_output(PORT).clear();
    /// assert!(stack.wants_input(PORT));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn wants_input(&self, port: PortId) -> bool {
        let port = self.port(port);
        port.is_open()
            && port.end.is_none()
            && port.paused == 0
            && port.wants_input()
            && self.core.ready.is_empty()
    }

    /// Whether there is work that the last call's rounds did not suffice for: [`poll`](Stack::poll)
    /// goes on with it.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert!(!stack.has_work()); // it is all done
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn has_work(&self) -> bool {
        !self.core.ready.is_empty()
            || self.has_sleeper()
            || self.has_end()
            || self.core.bell.is_rung()
    }

    /// Goes on with pending work.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let below = builder.layer_boxed(layer(|chain, cx| cx.up(chain)));
    /// let above = builder.layer_boxed(layer(|chain, cx| cx.reply(chain)));
    /// builder.rounds(1).stack(below, above).port(Edge::Packets, below);
    /// let mut stack = builder.build()?;
    /// let mut batch = Batch::new();
    /// pool.alloc_batch(32, &mut batch)?;
    /// stack.input(PORT, &mut batch);
    /// while stack.has_work() {
    ///     stack.poll();
    /// }
    /// assert_eq!(stack.poll_output(PORT).len(), 32);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn poll(&mut self) {
        self.run();
    }

    /// Whether and how the port is to be closed. [`Closing::Graceful`] only once everything sent
    /// before has arrived in the port's output queue.
    ///
    /// # Panics
    /// If there is no such port.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Bytes, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// assert_eq!(stack.closing(PORT), Closing::Open);
    /// stack.end_of_stream(PORT);
    /// assert_eq!(stack.closing(PORT), Closing::Graceful);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn closing(&self, port: PortId) -> Closing {
        let port = self.port(port);
        if port.sealed { port.close } else { Closing::Open }
    }

    /// When [`advance`](Stack::advance) must be called next; `None` if no timer is armed. O(1).
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let listen = |_, cx: &mut Context<'_>| _ = cx.arm(Duration::from_millis(20));
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// assert_eq!(stack.next_timeout(), None);
    /// stack.open();
    /// assert_eq!(stack.next_timeout(), Some(Time::from_millis(20)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn next_timeout(&self) -> Option<Time> {
        self.core.timers.next()
    }

    /// Sets the time and fires the timers that are due, by deadline and then in the order in which
    /// they were armed. The time never goes back: an earlier one is ignored. A timer that is armed
    /// meanwhile fires at the next call at the earliest.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let listen = |_, cx: &mut Context<'_>| _ = cx.arm(Duration::from_millis(20));
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.open();
    /// stack.advance(Time::from_millis(19));
    /// assert_eq!(stack.timers(), 1);
    /// stack.advance(Time::from_millis(20));
    /// assert_eq!(stack.timers(), 0); // it has fired
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn advance(&mut self, now: Time) {
        self.core.now = self.core.now.max(now);
        if self.core.timers.next().is_some_and(|deadline| deadline <= self.core.now) {
            self.fire();
        }
    }

    /// The time.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// stack.advance(Time::from_millis(5));
    /// stack.advance(Time::from_millis(3)); // ignored
    /// assert_eq!(stack.now(), Time::from_millis(5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn now(&self) -> Time {
        self.core.now
    }

    /// Tells all layers, from the bottom up. After [`Signal::Shutdown`] all ports close after what
    /// was sent, unless a layer is [`half_open`](LayerInfo::half_open): that one closes when it is
    /// done.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let (heard, signals) = std::sync::mpsc::channel();
    /// let listen = move |signal, _: &mut Context<'_>| _ = heard.send(signal);
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.signal(Signal::Mtu(1500));
    /// assert_eq!(signals.try_recv(), Ok(Signal::Mtu(1500)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn signal(&mut self, signal: Signal) {
        for place in 0..self.bottom_up.len() {
            let layer = self.bottom_up[place];
            self.tell(layer, signal, Hop::SETTLED);
            self.run();
        }
        if signal == Signal::Shutdown && !self.core.nodes.iter().any(|node| node.half_open) {
            // As after the last layer has heard of an end of stream: the port closes once no layer
            // keeps back anything any more.
            for port in self.core.ports.iter_mut().filter(|port| port.is_open()) {
                port.end.get_or_insert(port.above.len() as u16);
            }
            self.run();
        }
    }

    /// Sets the time without firing anything: before input that comes in at that time, so that it
    /// is handled before the timers that are due then ([`advance`](Stack::advance)).
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let listen = |_, cx: &mut Context<'_>| _ = cx.arm(Duration::from_millis(20));
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.open();
    /// stack.set_now(Time::from_millis(20));
    /// assert_eq!((stack.now(), stack.timers()), (Time::from_millis(20), 1)); // due, not fired
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_now(&mut self, now: Time) {
        self.core.now = self.core.now.max(now);
    }

    /// Closes a port at once, for the driver's own reason (an error of its socket, a limit): what
    /// waits in its queue is dropped, counted under the reason.
    ///
    /// # Panics
    /// If there is no such port.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Bytes, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// stack.input_one(PORT, pool.chain_from(b"never sent")?);
    /// stack.abort(PORT, DropReason::IO);
    /// assert_eq!(stack.closing(PORT), Closing::Abort(DropReason::IO));
    /// assert!(stack.poll_output(PORT).is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abort(&mut self, port: PortId, reason: DropReason) {
        self.port_mut(port).abort(reason);
    }

    /// Whom to tell when a layer is woken from another thread ([`Waker`]): whoever drives the
    /// stack, who should then call [`Stack::poll`]. It is called on that thread, and once until the
    /// stack has run. One allocation.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let (give, take) = std::sync::mpsc::channel();
    /// let listen = move |signal, cx: &mut Context<'_>| {
    ///     if signal == Signal::Opened {
    ///         give.send(cx.waker()).unwrap();
    ///     }
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// let (tell, told) = std::sync::mpsc::channel();
    /// stack.on_wake(move || _ = tell.send(()));
    /// stack.open();
    /// take.recv()?.wake();
    /// told.recv()?; // there is something to run
    /// stack.poll();
    /// assert!(!stack.has_work());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_wake(&mut self, driver: impl Fn() + Send + Sync + 'static) {
        self.core.bell.set_driver(Some(Arc::new(driver)));
    }

    /// What is held in layers, queues and pending batches. O(layers + chains in queues).
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// stack.input_one(PORT, pool.chain_from(b"hi")?);
    /// assert_eq!(stack.held(), Held { chains: 1, footprint: 256 }); // waits to be sent
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn held(&self) -> Held {
        let mut held = self.core.held();
        self.protocols.iter().for_each(|protocol| held += protocol.held());
        held
    }

    /// Timers that are armed.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let listen = |_, cx: &mut Context<'_>| _ = cx.arm(Duration::from_millis(20));
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.open();
    /// assert_eq!(stack.timers(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timers(&self) -> usize {
        self.core.timers.len()
    }

    /// How many ports there are.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// assert_eq!(stack.ports(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ports(&self) -> usize {
        self.core.ports.len()
    }

    /// The pool.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// assert!(stack.pool().same(&pool));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pool(&self) -> &Pool {
        &self.core.pool
    }

    /// The counters. Allocates.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// let stats = stack.stats();
    /// let row = stats.layer("layer").expect("it is there");
    /// assert_eq!((row.received, row.sent, row.imbalance()), (1, 1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> StackStats {
        let mut layers = Vec::with_capacity(self.protocols.len());
        for (place, protocol) in self.protocols.iter().enumerate() {
            layers.push(self.layer_stats(place, &**protocol));
            layers.extend(protocol.inner_stats());
        }
        StackStats { layers, ports: self.core.ports.iter().map(graph::Port::stats).collect() }
    }

    /// What passes is counted by way, once a batch; a layer's counts are those of its ways.
    fn layer_stats(&self, place: usize, protocol: &dyn Protocol) -> LayerStats {
        let node = &self.core.nodes[place];
        let way = |hop: Hop| &self.core.ways[hop.way()];
        let up = |links: &[u16]| links.iter().map(|&link| way(Hop::up(link))).collect::<Vec<_>>();
        let down =
            |links: &[u16]| links.iter().map(|&link| way(Hop::down(link))).collect::<Vec<_>>();
        let into = up(&node.lower).into_iter().chain(down(&node.upper));
        let out = up(&node.upper).into_iter().chain(down(&node.lower));
        LayerStats {
            name: protocol.name().to_owned(),
            received: into.map(|way| way.total).sum(),
            made: node.made,
            sent: out.map(|way| way.total + way.pending.len() as u64).sum(),
            consumed: node.consumed,
            merged: node.merged,
            drops: node.drops.counts(),
            undeclared: node.drops.undeclared(),
            held: protocol.held(),
        }
    }
}

/// The ports by name.
impl Stack {
    #[inline]
    fn port(&self, port: PortId) -> &graph::Port {
        match self.core.ports.get(usize::from(port.0)) {
            Some(port) => port,
            None => no_port(port, self.core.ports.len()),
        }
    }

    #[inline]
    fn port_mut(&mut self, port: PortId) -> &mut graph::Port {
        let ports = self.core.ports.len();
        match self.core.ports.get_mut(usize::from(port.0)) {
            Some(port) => port,
            None => no_port(port, ports),
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Wakers may outlive the stack; what they would tell need not.
        self.core.bell.set_driver(None);
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.protocols.iter().map(|layer| layer.name()).collect();
        f.debug_struct("Stack").field("layers", &names).field("core", &self.core).finish()
    }
}

#[cold]
fn no_port(port: PortId, ports: usize) -> ! {
    panic!("no port {}: the stack has {ports}", port.0)
}
