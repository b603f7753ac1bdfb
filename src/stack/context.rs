//! What a layer can reach: [`Context`], and the [`Outcome`]s that it makes.

use std::{
    any::{TypeId, type_name},
    fmt,
    time::Duration,
};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    DropReason, Time, Timer, Waker,
    graph::{Core, Hop, Next},
};
use crate::{
    chain::Chain,
    pool::{Event, Pool},
};

/// What became of a chain. Made by the methods of [`Context`], and carried out by returning it or
/// by [`Context::apply`]: a chain in an outcome that is thrown away is gone without a count.
#[must_use = "nothing is sent before the outcome is returned or applied"]
pub struct Outcome {
    pub(super) chain: Option<Chain>,
    pub(super) hop: Hop,
}

impl Outcome {
    const SETTLED: Outcome = Outcome { chain: None, hop: Hop::SETTLED };
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.chain {
            None => "Settled",
            Some(_) if self.hop.is_up() => "Up",
            Some(_) => "Down",
        })
    }
}

/// All that a layer can reach: what is above and below, timers, the pool, the time, and the flow.
///
/// Costs: O(1) and no allocation, where nothing else is said.
///
/// In the examples, `layer(f)` is a layer whose `input` is `f`, and `listener(f)` one whose `signal`
/// is `f` and which sends back what comes in; `PORT` is the first port, and `pool` a pool.
pub struct Context<'a> {
    pub(super) core: &'a mut Core,
    pub(super) layer: u16,
    next: Next,
    /// The hop by which the chain at hand came; `SETTLED` in a timeout or a signal.
    pub(super) came: Hop,
}

/// The outcomes: what becomes of a chain.
impl Context<'_> {
    /// To the only layer above (or to the one that is bound without a key, if there are others).
    /// Where nothing is above: dropped as [`DropReason::UNBOUND`].
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let layers = vec![layer(|chain, cx| cx.up(chain)), layer(|chain, cx| cx.reply(chain))];
    /// let mut stack = Stack::pile(&pool, Edge::Packets, layers)?;
    /// stack.input_one(PORT, pool.chain_from(b"hi")?);
    /// assert_eq!(stack.poll_output(PORT).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn up(&mut self, chain: Chain) -> Outcome {
        match self.next.up {
            Hop::SETTLED => self.unbound(chain),
            hop => Outcome { chain: Some(chain), hop },
        }
    }

    /// To the layer above that is bound to the key. None: dropped as [`DropReason::UNBOUND`].
    /// Costs a comparison or a few, or a binary search, by the number of keys.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let below = builder.layer_boxed(layer(|mut chain, cx| match chain.strip::<u8>() {
    ///     Ok(key) => cx.up_key(key.into(), chain),
    ///     Err(_) => cx.drop(chain, DropReason::SHORT),
    /// }));
    /// let above = builder.layer_boxed(layer(|chain, cx| cx.reply(chain)));
    /// let port = builder.port(Edge::Packets, below);
    /// builder.bind(below, 17, above);
    /// let mut stack = builder.build()?;
    /// stack.input_one(port, pool.chain_from(&[17, 1])?);
    /// stack.input_one(port, pool.chain_from(&[18, 1])?);
    /// assert_eq!(stack.poll_output(port).len(), 1);
    /// assert_eq!(stack.stats().dropped(DropReason::UNBOUND), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn up_key(&mut self, key: u64, chain: Chain) -> Outcome {
        if key == self.next.key && self.next.keyed != Hop::SETTLED {
            return Outcome { chain: Some(chain), hop: self.next.keyed };
        }
        self.up_one_of_several(key, chain)
    }

    fn up_one_of_several(&mut self, key: u64, chain: Chain) -> Outcome {
        self.try_up_one_of_several(key, chain).unwrap_or_else(|chain| self.unbound(chain))
    }

    /// As [`up_key`](Context::up_key), for a layer that has an answer to what nobody is bound to
    /// (ICMP: protocol unreachable): it gets the chain back, as it was.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let input = |chain, cx: &mut Context<'_>| match cx.try_up_key(17, chain) {
    ///     Ok(outcome) => outcome,
    ///     Err(chain) => cx.reply(chain), // nothing is above
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(input)])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.poll_output(PORT).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_up_key(&mut self, key: u64, chain: Chain) -> Result<Outcome, Chain> {
        if key == self.next.key && self.next.keyed != Hop::SETTLED {
            return Ok(Outcome { chain: Some(chain), hop: self.next.keyed });
        }
        self.try_up_one_of_several(key, chain)
    }

    fn try_up_one_of_several(&mut self, key: u64, chain: Chain) -> Result<Outcome, Chain> {
        match self.core.nodes[self.layer as usize].resolver.find(key) {
            None => Err(chain),
            Some(link) => Ok(Outcome { chain: Some(chain), hop: Hop::up(link) }),
        }
    }

    /// Whether a layer above is bound to the key. Who has a chain for it asks by
    /// [`try_up_key`](Context::try_up_key), which looks but once.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let input = |chain, cx: &mut Context<'_>| {
    ///     assert!(!cx.is_bound(17)); // nothing is above
    ///     cx.reply(chain)
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(input)])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.poll_output(PORT).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_bound(&mut self, key: u64) -> bool {
        self.core.nodes[self.layer as usize].resolver.find(key).is_some()
    }

    /// To the layer or port below. Where there are several: the port that the chain came in by
    /// ([`Meta::ingress`](crate::meta::Meta::ingress)), if only ports are below; else the first
    /// that was bound.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.down(chain))])?;
    /// stack.input_one(PORT, pool.chain_from(b"hi")?);
    /// assert_eq!(stack.poll_output(PORT).bytes(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn down(&mut self, chain: Chain) -> Outcome {
        let hop = match self.next.down {
            Hop::BY_INGRESS => self.down_by_ingress(&chain),
            hop => hop,
        };
        Outcome { chain: Some(chain), hop }
    }

    /// To the lower edge with that index, in the order of binding (see [`Context::edge`]). None:
    /// dropped as [`DropReason::UNBOUND`].
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// // What comes in by one port goes out by the other.
    /// let relay = builder.layer_boxed(layer(|chain, cx| cx.down_edge(1 - cx.edge(), chain)));
    /// let (left, right) = (builder.port(Edge::Packets, relay), builder.port(Edge::Packets, relay));
    /// let mut stack = builder.build()?;
    /// stack.input_one(left, pool.chain_from(b"hi")?);
    /// assert_eq!((stack.poll_output(left).len(), stack.poll_output(right).len()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn down_edge(&mut self, edge: usize, chain: Chain) -> Outcome {
        match self.core.nodes[self.layer as usize].lower.get(edge) {
            None => self.unbound(chain),
            Some(&link) => Outcome { chain: Some(chain), hop: Hop::down(link) },
        }
    }

    /// Swaps source and destination, then back by the edge that the last chain came by: down from
    /// `input`, up from `output`. In a timeout or a signal: down, as [`Context::down`] does.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// let peer = mbuf::meta::Address::Ip("192.0.2.1:7".parse()?);
    /// let mut chain = pool.chain()?;
    /// chain.meta_mut().set_source(peer);
    /// stack.input_one(PORT, chain);
    /// assert_eq!(stack.poll_output(PORT).pop().unwrap().meta().destination(), peer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn reply(&mut self, mut chain: Chain) -> Outcome {
        if chain.meta().has_addresses() {
            chain.meta_mut().swap_addresses();
        }
        if self.came == Hop::SETTLED {
            return self.down(chain);
        }
        let link = self.came.link() as u16;
        let hop = if self.came.is_up() { Hop::down(link) } else { Hop::up(link) };
        Outcome { chain: Some(chain), hop }
    }

    /// The layer keeps the chain, and [`Protocol::held`](super::Protocol::held) counts it; or it
    /// has joined it to one that it keeps, and [`Context::merged`] says so.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut kept = None;
    /// let keep = move |chain, cx: &mut Context<'_>| {
    ///     kept = Some(chain);
    ///     cx.held()
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(keep)])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert!(stack.poll_output(PORT).is_empty());
    /// assert_eq!(pool.stats().in_use(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn held(&mut self) -> Outcome {
        Outcome::SETTLED
    }

    /// The chain has served its purpose: freed, and counted as consumed.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.consumed(chain))])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// let stats = stack.stats();
    /// assert_eq!((stats.layers[0].consumed, pool.stats().in_use()), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn consumed(&mut self, chain: Chain) -> Outcome {
        chain.note(Event::Consumed);
        drop(chain);
        self.core.nodes[self.layer as usize].consumed += 1;
        Outcome::SETTLED
    }

    /// Dropped, and counted by reason.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let refuse = |chain, cx: &mut Context<'_>| cx.drop(chain, DropReason::MALFORMED);
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(refuse)])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.stats().dropped(DropReason::MALFORMED), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drop(&mut self, mut chain: Chain, reason: DropReason) -> Outcome {
        if !self.core.nodes[self.layer as usize].drops.count_met(reason, 1) {
            self.drop_unmet(&mut chain, reason);
        }
        chain.note(Event::Discarded);
        drop(chain);
        Outcome::SETTLED
    }

    /// Carries out an outcome. What it sends waits until this layer returns.
    ///
    /// To send further chains, a layer makes outcomes and applies them:
    /// `let outcome = cx.up(frame); cx.apply(outcome);`, or in short `cx.send_up(frame)`.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let twice = |mut chain: Chain, cx: &mut Context<'_>| match chain.share() {
    ///     Ok(other) => {
    ///         cx.made(1);
    ///         let outcome = cx.reply(other);
    ///         cx.apply(outcome);
    ///         cx.reply(chain)
    ///     }
    ///     Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(twice)])?;
    /// stack.input_one(PORT, pool.chain_from(b"hi")?);
    /// assert_eq!(stack.poll_output(PORT).len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn apply(&mut self, outcome: Outcome) {
        if let Some(chain) = outcome.chain {
            self.core.push(outcome.hop, chain);
        }
    }

    /// As [`apply`](Context::apply), for what is done with every chain of a batch.
    #[inline(always)]
    pub(super) fn pass_on(&mut self, outcome: Outcome) {
        if let Some(chain) = outcome.chain {
            self.core.push_inline(outcome.hop, chain);
        }
    }

    /// [`up`](Context::up), applied.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let pass = |chain, cx: &mut Context<'_>| {
    ///     cx.send_up(chain);
    ///     cx.held() // the chain at hand has gone its way
    /// };
    /// let layers = vec![layer(pass), layer(|chain, cx| cx.reply(chain))];
    /// let mut stack = Stack::pile(&pool, Edge::Packets, layers)?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.poll_output(PORT).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn send_up(&mut self, chain: Chain) {
        let outcome = self.up(chain);
        self.apply(outcome);
    }

    /// [`down`](Context::down), applied.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let greet = |signal, cx: &mut Context<'_>| {
    ///     if let (Signal::Opened, Ok(chain)) = (signal, cx.pool().chain_from(b"220 ready")) {
    ///         cx.made(1);
    ///         cx.send_down(chain);
    ///     }
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Bytes, vec![listener(greet)])?;
    /// stack.open();
    /// assert_eq!(stack.poll_output(PORT).bytes(), 9);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn send_down(&mut self, chain: Chain) {
        let outcome = self.down(chain);
        self.apply(outcome);
    }

    /// `n` chains came into being in this layer (allocated, split off). For the balance.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let answer = |chain, cx: &mut Context<'_>| {
    ///     if let Ok(answer) = cx.pool().chain_from(b"answer") {
    ///         cx.made(1);
    ///         cx.send_down(answer);
    ///     }
    ///     cx.consumed(chain)
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(answer)])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// let stats = stack.stats();
    /// assert_eq!((stats.layers[0].made, stats.layers[0].imbalance()), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn made(&mut self, n: usize) {
        self.core.nodes[self.layer as usize].made += n as u64;
    }

    /// `n` chains were joined into others. For the balance.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut kept: Option<Chain> = None;
    /// let join = move |chain, cx: &mut Context<'_>| match kept.take() {
    ///     None => {
    ///         kept = Some(chain);
    ///         cx.held()
    ///     }
    ///     Some(mut first) => match first.concat(chain) {
    ///         Ok(()) => {
    ///             cx.merged(1);
    ///             cx.reply(first)
    ///         }
    ///         Err(rejected) => cx.drop(rejected.value, DropReason::LIMIT),
    ///     },
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(join)])?;
    /// stack.input_one(PORT, pool.chain_from(b"one ")?);
    /// stack.input_one(PORT, pool.chain_from(b"two")?);
    /// assert_eq!(stack.poll_output(PORT).pop().unwrap().to_vec()?, b"one two");
    /// assert_eq!(stack.stats().layers[0].imbalance(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn merged(&mut self, n: usize) {
        self.core.nodes[self.layer as usize].merged += n as u64;
    }

    /// `n` chains went into a stack that the layer holds, which keeps its own books.
    pub(super) fn handed_inside(&mut self, n: usize) {
        self.core.nodes[self.layer as usize].consumed += n as u64;
    }
}

/// The flow. Each of these concerns the ports that can be reached downwards; those that end in
/// `_edge` only the ports behind the lower edge with that index.
impl Context<'_> {
    /// Bytes that may be sent down before high water. After 0 the layer hears
    /// [`Signal::Writable`](super::Signal::Writable) when half of the room is free again.
    ///
    /// A layer that makes more than it received asks; one that answers what it is given need not,
    /// since no input is given while the output is above high water. O(ports below).
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let fill = |signal, cx: &mut Context<'_>| {
    ///     while signal == Signal::Opened && cx.credit() > 0 {
    ///         let Ok(chain) = cx.pool().chain_zeroed(50) else { return };
    ///         cx.made(1);
    ///         cx.send_down(chain);
    ///     }
    /// };
    /// let mut builder = Stack::builder(&pool);
    /// let layer = builder.layer_boxed(listener(fill));
    /// builder.egress(120, 4096, 1 << 20).port(Edge::Bytes, layer);
    /// let mut stack = builder.build()?;
    /// stack.open();
    /// assert_eq!(stack.poll_output(PORT).bytes(), 150); // 120 was reached in the third
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn credit(&mut self) -> usize {
        self.core.nodes[self.layer as usize].by_credit = true;
        let credit = self.core.credit(&self.core.nodes[self.layer as usize].ports);
        if credit == 0 {
            self.core.want_credit(self.layer);
        }
        credit
    }

    /// As [`credit`](Context::credit), for one lower edge. An edge that does not exist takes
    /// nothing: 0.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let input = |chain, cx: &mut Context<'_>| {
    ///     assert_eq!((cx.credit_edge(0), cx.credit_edge(1)), (128 << 10, 0));
    ///     cx.reply(chain)
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(input)])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.poll_output(PORT).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn credit_edge(&mut self, edge: usize) -> usize {
        let Some(&link) = self.core.nodes[self.layer as usize].lower.get(edge) else { return 0 };
        self.core.nodes[self.layer as usize].by_credit = true;
        let credit = self.core.credit(&self.core.links[link as usize].ports);
        if credit == 0 {
            self.core.want_credit(self.layer);
        }
        credit
    }

    /// Asks for [`Signal::Writable`](super::Signal::Writable), because the layer keeps back input
    /// that it has not passed up yet: there is no credit, or it has done its share (a layer that
    /// makes many packets of one chain should stop after some 64 of them).
    ///
    /// The signal comes when all that is pending has run and more input would be wanted, or, for a
    /// layer that goes by [`credit`](Context::credit), when there is credit again. Until then no
    /// input is read, and the end of stream, which must not overtake what is kept, waits.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let (heard, signals) = std::sync::mpsc::channel();
    /// let listen = move |signal, cx: &mut Context<'_>| match signal {
    ///     Signal::Drain => cx.wait(),
    ///     signal => _ = heard.send(signal),
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.signal(Signal::Drain);
    /// stack.poll();
    /// assert_eq!(signals.try_recv(), Ok(Signal::Writable));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(&mut self) {
        self.core.keep_back(self.layer);
    }

    /// No more input for this session until [`resume`](Context::resume).
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack =
    ///     Stack::pile(&pool, Edge::Packets, vec![listener(|_, cx| cx.pause())])?;
    /// assert!(stack.wants_input(PORT));
    /// stack.signal(Signal::Drain);
    /// assert!(!stack.wants_input(PORT));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pause(&mut self) {
        self.set_paused(true);
    }

    /// Ends [`pause`](Context::pause).
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let listen = |signal, cx: &mut Context<'_>| match signal {
    ///     Signal::Opened => cx.pause(),
    ///     _ => cx.resume(),
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.open();
    /// assert!(!stack.wants_input(PORT));
    /// stack.signal(Signal::Drain);
    /// assert!(stack.wants_input(PORT));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resume(&mut self) {
        self.set_paused(false);
    }

    /// As [`pause`](Context::pause), for one lower edge.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let layer = builder.layer_boxed(listener(|_, cx| cx.pause_edge(1)));
    /// let (left, right) = (builder.port(Edge::Packets, layer), builder.port(Edge::Packets, layer));
    /// let mut stack = builder.build()?;
    /// stack.open();
    /// assert_eq!((stack.wants_input(left), stack.wants_input(right)), (true, false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pause_edge(&mut self, edge: usize) {
        if let Some(&link) = self.core.nodes[self.layer as usize].lower.get(edge) {
            self.core.set_paused(link, true);
        }
    }

    /// Ends [`pause_edge`](Context::pause_edge).
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let listen = |signal, cx: &mut Context<'_>| match signal {
    ///     Signal::Opened => cx.pause_edge(0),
    ///     _ => cx.resume_edge(0),
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.open();
    /// assert!(!stack.wants_input(PORT));
    /// stack.signal(Signal::Drain);
    /// assert!(stack.wants_input(PORT));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resume_edge(&mut self, edge: usize) {
        if let Some(&link) = self.core.nodes[self.layer as usize].lower.get(edge) {
            self.core.set_paused(link, false);
        }
    }

    /// Closes after what was sent. Input that comes later is dropped as [`DropReason::CLOSED`].
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Bytes, vec![listener(|_, cx| cx.close())])?;
    /// stack.open();
    /// assert_eq!(stack.closing(PORT), Closing::Graceful);
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.stats().dropped(DropReason::CLOSED), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&mut self) {
        for place in 0..self.core.nodes[self.layer as usize].ports.len() {
            let port = self.core.nodes[self.layer as usize].ports[place];
            self.core.close(port);
        }
    }

    /// As [`close`](Context::close), for one lower edge: a relay passes on an end of stream so.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let layer = builder.layer_boxed(listener(|_, cx| cx.close_edge(1)));
    /// let (left, right) = (builder.port(Edge::Bytes, layer), builder.port(Edge::Bytes, layer));
    /// let mut stack = builder.build()?;
    /// stack.open();
    /// assert_eq!((stack.closing(left), stack.closing(right)), (Closing::Open, Closing::Graceful));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close_edge(&mut self, edge: usize) {
        let Some(&link) = self.core.nodes[self.layer as usize].lower.get(edge) else { return };
        for place in 0..self.core.links[link as usize].ports.len() {
            let port = self.core.links[link as usize].ports[place];
            self.core.close(port);
        }
    }

    /// Closes at once: what waits is dropped, and counted under the reason.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let listen = |_, cx: &mut Context<'_>| cx.abort(DropReason::LIMIT);
    /// let mut stack = Stack::pile(&pool, Edge::Bytes, vec![listener(listen)])?;
    /// stack.open();
    /// assert_eq!(stack.closing(PORT), Closing::Abort(DropReason::LIMIT));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abort(&mut self, reason: DropReason) {
        for place in 0..self.core.nodes[self.layer as usize].ports.len() {
            let port = self.core.nodes[self.layer as usize].ports[place];
            self.core.ports[port as usize].abort(reason);
        }
    }

    fn set_paused(&mut self, paused: bool) {
        for place in 0..self.core.nodes[self.layer as usize].lower.len() {
            let link = self.core.nodes[self.layer as usize].lower[place];
            self.core.set_paused(link, paused);
        }
    }
}

/// The rest.
impl<'a> Context<'a> {
    #[inline]
    pub(super) fn new(core: &'a mut Core, layer: u16, next: Next, came: Hop) -> Self {
        Self { core, layer, next, came }
    }

    /// The time, which does not change within a poll.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let input = |chain, cx: &mut Context<'_>| {
    ///     assert_eq!(cx.now(), Time::from_millis(5));
    ///     cx.reply(chain)
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(input)])?;
    /// stack.set_now(Time::from_millis(5));
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.poll_output(PORT).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn now(&self) -> Time {
        self.core.now
    }

    /// Arms a timer: [`Protocol::timeout`](super::Protocol::timeout) is called when so much time
    /// has passed. `None` where the stack's bound on timers is reached
    /// ([`StackBuilder::timers`](super::StackBuilder::timers)). O(log timers).
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let listen = |_, cx: &mut Context<'_>| _ = cx.arm(Duration::from_millis(20));
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.open();
    /// assert_eq!(stack.next_timeout(), Some(Time::from_millis(20)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn arm(&mut self, after: Duration) -> Option<Timer> {
        self.core.timers.arm(self.core.now + after, u32::from(self.layer))
    }

    /// Cancels a timer of this layer; whether it was armed. It never fires afterwards, not even if
    /// it is due already. O(log timers).
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let listen = |_, cx: &mut Context<'_>| {
    ///     let timer = cx.arm(Duration::from_millis(20)).expect("no other is armed");
    ///     assert!(cx.cancel(timer));
    ///     assert!(!cx.cancel(timer));
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![listener(listen)])?;
    /// stack.open();
    /// assert_eq!((stack.timers(), stack.next_timeout()), (0, None));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cancel(&mut self, timer: Timer) -> bool {
        self.core.timers.cancel(timer, u32::from(self.layer))
    }

    /// What brings this layer back from another thread: it then hears
    /// [`Signal::Woken`](super::Signal::Woken). See [`Waker`] for an example.
    pub fn waker(&self) -> Waker {
        Waker::new(&self.core.bell, self.layer)
    }

    /// The pool.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let input = |chain, cx: &mut Context<'_>| match cx.pool().chain_from(b"answer") {
    ///     Ok(answer) => {
    ///         cx.made(1);
    ///         cx.send_down(answer);
    ///         cx.consumed(chain)
    ///     }
    ///     Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(input)])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.poll_output(PORT).bytes(), 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn pool(&self) -> &Pool {
        &self.core.pool
    }

    /// The key of the edge that the chain at hand came by: in `output`, the key under which the
    /// layer above is bound to this one, which belongs into the header; in `input`, the key under
    /// which this layer is bound to the one below. `None` in a timeout or a signal.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let below = builder.layer_boxed(layer(|chain, cx| cx.up_key(17, chain)));
    /// let above = builder.layer_boxed(layer(|chain, cx| {
    ///     assert_eq!(cx.key(), Some(17));
    ///     cx.reply(chain)
    /// }));
    /// let port = builder.port(Edge::Packets, below);
    /// builder.bind(below, 17, above);
    /// let mut stack = builder.build()?;
    /// stack.input_one(port, pool.chain()?);
    /// assert_eq!(stack.poll_output(port).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn key(&self) -> Option<u64> {
        if self.came == Hop::SETTLED { None } else { self.core.links[self.came.link()].key }
    }

    /// The index of the edge that the chain at hand came by, in the order of binding: in `input`
    /// among the edges below, in `output` among those above. For
    /// [`Signal::EndOfStream`](super::Signal::EndOfStream) the edge below whose stream has ended.
    /// 0 otherwise.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let layer = builder.layer_boxed(layer(|chain, cx| {
    ///     assert_eq!(cx.edge(), 1);
    ///     cx.reply(chain)
    /// }));
    /// let (_, right) = (builder.port(Edge::Packets, layer), builder.port(Edge::Packets, layer));
    /// let mut stack = builder.build()?;
    /// stack.input_one(right, pool.chain()?);
    /// assert_eq!(stack.poll_output(right).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn edge(&self) -> usize {
        if self.came == Hop::SETTLED {
            return 0;
        }
        let link = &self.core.links[self.came.link()];
        usize::from(if self.came.is_up() { link.place_in_upper } else { link.place_in_lower })
    }

    /// How many edges are below.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let input = |chain, cx: &mut Context<'_>| {
    ///     assert_eq!((cx.lower_edges(), cx.upper_edges()), (1, 0));
    ///     cx.reply(chain)
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(input)])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.poll_output(PORT).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lower_edges(&self) -> usize {
        self.core.nodes[self.layer as usize].lower.len()
    }

    /// How many edges are above.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let input = |chain, cx: &mut Context<'_>| {
    ///     assert_eq!(cx.upper_edges(), 1);
    ///     cx.up(chain)
    /// };
    /// let layers = vec![layer(input), layer(|chain, cx| cx.reply(chain))];
    /// let mut stack = Stack::pile(&pool, Edge::Packets, layers)?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.poll_output(PORT).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn upper_edges(&self) -> usize {
        self.core.nodes[self.layer as usize].upper.len()
    }

    /// The slot of this type, in a chain's metadata; zeroes if nobody wrote it.
    ///
    /// # Panics
    /// If no layer of the stack claimed a slot of this type ([`LayerInfo::slot`]).
    ///
    /// [`LayerInfo::slot`]: super::LayerInfo::slot
    ///
    /// ```
    /// # use mbuf::{Chain, Pool, stack::{Context, Edge, LayerInfo, Outcome, PortId, Protocol, Stack}};
    /// /// Remembers in the packet how long it was when it came.
    /// struct Measure;
    ///
    /// impl Protocol for Measure {
    ///     fn info(&self) -> LayerInfo {
    ///         LayerInfo::new(Edge::Packets, Edge::Packets).slot::<u32>()
    ///     }
    ///
    ///     fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
    ///         assert_eq!(cx.slot::<u32>(&chain), 0);
    ///         let len = chain.len() as u32;
    ///         cx.set_slot(&mut chain, len);
    ///         assert_eq!(cx.slot::<u32>(&chain), 5);
    ///         cx.reply(chain)
    ///     }
    /// #     fn name(&self) -> &str { "measure" }
    /// #     fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome { cx.down(chain) }
    /// }
    ///
    /// let pool = Pool::builder().build()?;
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(Measure)])?;
    /// stack.input_one(PortId(0), pool.chain_from(b"hello")?);
    /// assert_eq!(stack.poll_output(PortId(0)).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn slot<T: FromBytes + IntoBytes + Immutable + Copy + 'static>(&self, chain: &Chain) -> T {
        let offset = self.slot_offset::<T>();
        let bytes = &chain.meta().slots()[offset..offset + size_of::<T>()];
        match T::read_from_bytes(bytes) {
            Ok(value) => value,
            Err(_) => unreachable!("a slot has the size of its type"),
        }
    }

    /// Writes this layer's slot of this type.
    ///
    /// # Panics
    /// If this layer did not claim a slot of this type ([`LayerInfo::slot`]).
    ///
    /// [`LayerInfo::slot`]: super::LayerInfo::slot
    ///
    /// ```
    /// # use mbuf::{Chain, Pool, stack::{Context, Edge, LayerInfo, Outcome, PortId, Protocol, Stack}};
    /// /// Marks what has passed.
    /// struct Mark;
    ///
    /// impl Protocol for Mark {
    ///     fn info(&self) -> LayerInfo {
    ///         LayerInfo::new(Edge::Packets, Edge::Packets).slot::<u8>()
    ///     }
    ///
    ///     fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
    ///         cx.set_slot(&mut chain, 7_u8);
    ///         assert_eq!(cx.slot::<u8>(&chain), 7);
    ///         cx.reply(chain)
    ///     }
    /// #     fn name(&self) -> &str { "mark" }
    /// #     fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome { cx.down(chain) }
    /// }
    ///
    /// let pool = Pool::builder().build()?;
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(Mark)])?;
    /// stack.input_one(PortId(0), pool.chain()?);
    /// assert_eq!(stack.poll_output(PortId(0)).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_slot<T: FromBytes + IntoBytes + Immutable + Copy + 'static>(
        &self,
        chain: &mut Chain,
        value: T,
    ) {
        if !self.core.nodes[self.layer as usize].own_slots.contains(&TypeId::of::<T>()) {
            unclaimed(type_name::<T>());
        }
        let offset = self.slot_offset::<T>();
        chain.meta_mut().slots_mut()[offset..offset + size_of::<T>()]
            .copy_from_slice(value.as_bytes());
    }

    fn slot_offset<T: 'static>(&self) -> usize {
        match self.core.slots.iter().find(|slot| slot.type_id == TypeId::of::<T>()) {
            Some(slot) => slot.offset,
            None => unclaimed(type_name::<T>()),
        }
    }

    /// To the port that the chain came in by, if that is below; else to the first one.
    fn down_by_ingress(&self, chain: &Chain) -> Hop {
        let port = self.core.ports.get(usize::from(chain.meta().ingress()));
        match port.map(|port| port.link) {
            Some(link) if self.core.links[link as usize].upper == self.layer => Hop::down(link),
            _ => Hop::down(self.core.nodes[self.layer as usize].lower[0]),
        }
    }

    #[cold]
    fn unbound(&mut self, chain: Chain) -> Outcome {
        self.drop(chain, DropReason::UNBOUND)
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("layer", &self.layer)
            .field("edge", &self.edge())
            .field("key", &self.key())
            .field("now", &self.core.now)
            .finish_non_exhaustive()
    }
}

#[cold]
fn unclaimed(name: &str) -> ! {
    panic!("no slot of type {name} was claimed (LayerInfo::slot) by this layer")
}
