//! Looking at what passes an edge: [`Tap`].
//!
//! A tapped edge costs what it costs; one that is not has no comparison of its own. Each step of a
//! chain asks anyway whether there is such a layer or port as its way names: a way that is tapped
//! names none that there is. What is really there stands aside, in [`Taps`], where only the cold
//! path of those questions looks. Drops are found by the same trick: while a tap is there the rows
//! of all counts of drops are set aside, so that every reason counts as one that was never met.

use super::{
    Context, DropReason, Edge, PortId, Stack, Time,
    graph::{Core, Hop, NONE},
    run::passed,
};
use crate::{chain::Chain, error::Error};

/// Which way a chain goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the wire.
    Up,
    /// Towards the wire.
    Down,
}

/// An edge of a stack: between two layers, or between a port and a layer. See [`Stack::edges`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeId(u16);

/// What is at the two ends of an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EdgeInfo {
    /// Its name to [`Stack::tap`].
    pub id: EdgeId,
    /// The layer above.
    pub upper: String,
    /// The layer below, or `None` where a port is.
    pub lower: Option<String>,
    /// The port below, or `None` where a layer is.
    pub port: Option<PortId>,
    /// The key under which the upper layer is bound to the lower one.
    pub key: Option<u64>,
}

/// A chain that passes a tapped edge, or has passed it and is dropped.
#[derive(Debug)]
#[non_exhaustive]
pub struct Tapped<'a> {
    /// The edge.
    pub edge: EdgeId,
    /// Which way it goes, or went.
    pub direction: Direction,
    /// When, in the stack's time.
    pub time: Time,
    /// The chain. Of one that is dropped, what the layer stripped is given back first where that can
    /// be done; else it is as the layer left it.
    pub chain: &'a Chain,
    /// Why the layer (or the port) at the end of the edge dropped it; `None` for one that passes.
    pub dropped: Option<DropReason>,
}

/// What looks at the chains that pass the edges it was put on by [`Stack::tap`].
///
/// It is called within the stack's run, once for each chain: it should not block, and what it holds
/// it must bound. Of a `Mutex` in an `Arc` one clone can be given to the stack and the other kept.
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use mbuf::{Pool, stack::{Direction, Edge, PortId, Stack, Tap, Tapped}};
/// use mbuf_protocols::Echo;
///
/// #[derive(Default)]
/// struct Lengths(Vec<(Direction, usize)>);
///
/// impl Tap for Lengths {
///     fn record(&mut self, tapped: &Tapped<'_>) {
///         self.0.push((tapped.direction, tapped.chain.len()));
///     }
/// }
///
/// let pool = Pool::builder().build()?;
/// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(Echo::new())])?;
/// let lengths = Arc::new(Mutex::new(Lengths::default()));
/// stack.tap(&[stack.edge_at(PortId(0))], Box::new(lengths.clone()));
/// stack.input_one(PortId(0), pool.chain_from(b"hello")?);
/// assert_eq!(lengths.lock().unwrap().0, [(Direction::Up, 5), (Direction::Down, 5)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Tap: Send {
    /// A chain passes, or is dropped.
    fn record(&mut self, tapped: &Tapped<'_>);
}

impl<T: Tap + ?Sized> Tap for std::sync::Arc<std::sync::Mutex<T>> {
    /// A lock that was poisoned elsewhere is no reason to look away.
    fn record(&mut self, tapped: &Tapped<'_>) {
        self.lock().unwrap_or_else(std::sync::PoisonError::into_inner).record(tapped);
    }
}

/// The tap of a stack, and what is really at the ends of the ways that it is on.
pub(super) struct Taps {
    tap: Box<dyn Tap>,
    ways: Vec<End>,
    at_hand: Option<AtHand>,
}

/// What is at the end of a tapped way.
#[derive(Debug, Clone, Copy)]
struct End {
    hop: Hop,
    layer: u16,
    port: u16,
}

/// The chain that a layer was given by a tapped way and has not handed back yet.
#[derive(Debug, Clone, Copy)]
struct AtHand {
    /// Where its head lies: nothing else lies there while it lives.
    place: usize,
    /// Bytes that had been stripped from its front.
    stripped: usize,
}

impl AtHand {
    fn of(chain: &mut Chain) -> Self {
        Self { place: chain.place(), stripped: stripped(chain) }
    }
}

/// Bytes that could be restored.
fn stripped(chain: &mut Chain) -> usize {
    match chain.restore(usize::MAX) {
        Err(Error::Gone { available, .. }) => available,
        _ => 0,
    }
}

impl Tapped<'_> {
    fn new<'a>(hop: Hop, time: Time, chain: &'a Chain, dropped: Option<DropReason>) -> Tapped<'a> {
        let direction = if hop.is_up() { Direction::Up } else { Direction::Down };
        Tapped { edge: EdgeId(hop.link() as u16), direction, time, chain, dropped }
    }
}

impl Taps {
    fn end_of(&self, hop: Hop) -> Option<End> {
        self.ways.iter().find(|end| end.hop == hop).copied()
    }
}

impl Core {
    /// What is at the end of a way, whether it is tapped or not: a layer and a port, of which one
    /// is `NONE`.
    pub(super) fn end_of(&self, hop: Hop) -> (u16, u16) {
        let way = &self.ways[hop.way()];
        match self.taps.as_ref().and_then(|taps| taps.end_of(hop)) {
            Some(end) => (end.layer, end.port),
            None => (way.layer, way.port),
        }
    }

    /// A chain was to go to a port that is none: its way is tapped. It has been counted as passed.
    #[cold]
    pub(super) fn tapped(&mut self, mark: u16, mut chain: Chain) {
        let index = usize::from(mark) - self.ports.len();
        let Some(taps) = &mut self.taps else { return };
        let End { hop, layer, port } = taps.ways[index];
        taps.tap.record(&Tapped::new(hop, self.now, &chain, None));
        if layer == NONE {
            let reason = match &self.ports[port as usize] {
                port if port.sealed => Some(DropReason::CLOSED),
                port if port.queue.has_room(chain.len()) => None,
                port if port.edge == Edge::Bytes => Some(DropReason::OVERRUN),
                _ => Some(DropReason::EGRESS_FULL),
            };
            if reason.is_some() {
                taps.tap.record(&Tapped::new(hop, self.now, &chain, reason));
            }
            return self.egress(port, chain);
        }
        let way = &mut self.ways[hop.way()];
        way.total -= 1; // it is counted when it is delivered
        if way.min_header != 0
            && let Err(error) = chain.pullup(way.min_header as usize)
        {
            let reason = Core::refusal(&error);
            taps.tap.record(&Tapped::new(hop, self.now, &chain, Some(reason)));
            return self.refuse(hop, error);
        }
        way.line_up(hop, chain, &mut self.ready, &mut self.transit_bytes, &mut self.transit_chains);
    }

    /// A layer drops a chain that came by that hop, while the edge may be tapped.
    fn tap_drop(&mut self, came: Hop, chain: &mut Chain, reason: DropReason) {
        let Some(taps) = &mut self.taps else { return };
        if came == Hop::SETTLED || taps.end_of(came).is_none() {
            return;
        }
        let now = AtHand::of(chain);
        if let Some(then) = taps.at_hand
            && then.place == now.place
            && let Some(since @ 1..) = now.stripped.checked_sub(then.stripped)
        {
            // Where it cannot be, the chain is as the layer left it.
            let _ = chain.restore(since);
        }
        taps.tap.record(&Tapped::new(came, self.now, chain, Some(reason)));
    }
}

impl Context<'_> {
    /// A drop whose reason is new to the layer, as all are while the stack is tapped.
    #[cold]
    pub(super) fn drop_unmet(&mut self, chain: &mut Chain, reason: DropReason) {
        self.core.nodes[self.layer as usize].drops.count(reason, 1);
        self.core.tap_drop(self.came, chain, reason);
    }
}

impl Stack {
    /// One chain of those that are pending on a tapped way, all of which were counted as delivered:
    /// the others are not, yet. The rounds left are answered.
    #[cold]
    pub(super) fn deliver_tapped(&mut self, hop: Hop, rounds: usize) -> usize {
        let (layer, _) = self.core.end_of(hop);
        let way = &mut self.core.ways[hop.way()];
        let next = way.next;
        let Some(mut chain) = way.pending.pop() else { return rounds };
        let left = way.pending.len();
        way.total -= left as u64;
        if !hop.is_up() {
            way.bytes = way.pending.iter().map(Chain::len).sum();
            self.core.transit_bytes += way.bytes;
            self.core.transit_chains += left;
        }
        if !way.pending.is_empty() {
            self.core.ready.push_front(hop);
        }
        if let Some(taps) = &mut self.core.taps {
            taps.at_hand = Some(AtHand::of(&mut chain));
        }
        chain.note(passed(hop));
        let mut cx = Context::new(&mut self.core, layer, next, hop);
        let protocol = &mut *self.protocols[layer as usize];
        let outcome = match hop.is_up() {
            true => protocol.input(chain, &mut cx),
            false => protocol.output(chain, &mut cx),
        };
        if let Some(taps) = &mut self.core.taps {
            taps.at_hand = None;
        }
        match outcome.chain {
            Some(chain) => self.follow(outcome.hop, chain, rounds),
            None => rounds,
        }
    }

    /// The edges of the stack: first those between layers in the order in which they were bound,
    /// then those of the ports. Allocates.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// let edges = stack.edges();
    /// assert_eq!((edges.len(), edges[0].port, &*edges[0].upper), (1, Some(PORT), "layer"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn edges(&self) -> Vec<EdgeInfo> {
        let name = |layer: u16| self.protocols[layer as usize].name().to_owned();
        let links = self.core.links.iter().enumerate();
        let info = links.map(|(id, link)| EdgeInfo {
            id: EdgeId(id as u16),
            upper: name(link.upper),
            lower: (link.lower != NONE).then(|| name(link.lower)),
            port: (link.port != NONE).then_some(PortId(link.port)),
            key: link.key,
        });
        info.collect()
    }

    /// The edge between a port and the layer above it.
    ///
    /// # Panics
    /// If there is no such port.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// assert_eq!(stack.edge_at(PORT), stack.edges()[0].id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn edge_at(&self, port: PortId) -> EdgeId {
        EdgeId(self.port(port).link)
    }

    /// The first edge between two layers of these names.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let layers = vec![layer(|chain, cx| cx.up(chain)), layer(|chain, cx| cx.reply(chain))];
    /// let stack = Stack::pile(&pool, Edge::Packets, layers)?;
    /// assert_eq!(stack.edge_between("layer", "layer"), Some(stack.edges()[0].id));
    /// assert_eq!(stack.edge_between("layer", "udp"), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn edge_between(&self, lower: &str, upper: &str) -> Option<EdgeId> {
        let mut edges = self.edges().into_iter();
        let found = edges.find(|edge| edge.upper == upper && edge.lower.as_deref() == Some(lower));
        found.map(|edge| edge.id)
    }

    /// Puts a tap on these edges, in both directions: it sees each chain that passes one of them,
    /// and each of those once more if the layer at the end of the edge drops it then and there
    /// ([`Context::drop`]), or the port cannot take it. What a layer drops later, from a timer or a
    /// signal, or what it kept before, it does not see; nor what happens within the sub-stacks of
    /// [`Sessions`](super::Sessions). It takes the place of an earlier tap, which is returned.
    ///
    /// Costs nothing on other edges. On a tapped one each chain gets in line, is shown, and is given
    /// to its layer alone, which takes a round (a layer's `input_batch` is not used there).
    ///
    /// # Panics
    /// If an edge is not of this stack.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// # use mbuf::stack::{Tap, Tapped};
    /// struct Reasons(std::sync::mpsc::Sender<DropReason>);
    ///
    /// impl Tap for Reasons {
    ///     fn record(&mut self, tapped: &Tapped<'_>) {
    ///         if let Some(reason) = tapped.dropped {
    ///             let _ = self.0.send(reason);
    ///         }
    ///     }
    /// }
    ///
    /// let refuse = |chain, cx: &mut Context<'_>| cx.drop(chain, DropReason::MALFORMED);
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(refuse)])?;
    /// let (tell, told) = std::sync::mpsc::channel();
    /// stack.tap(&[stack.edge_at(PORT)], Box::new(Reasons(tell)));
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(told.try_recv(), Ok(DropReason::MALFORMED));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tap(&mut self, edges: &[EdgeId], tap: Box<dyn Tap>) -> Option<Box<dyn Tap>> {
        let before = self.untap();
        let mut edges = edges.to_vec();
        edges.sort_unstable();
        edges.dedup();
        let mut ends = Vec::with_capacity(2 * edges.len());
        for EdgeId(link) in edges {
            if usize::from(link) >= self.core.links.len() {
                no_edge(link, self.core.links.len());
            }
            ends.extend([Hop::up(link), Hop::down(link)].map(|hop| {
                let mark = (self.core.ports.len() + ends.len() + usize::from(!hop.is_up())) as u16;
                let way = &mut self.core.ways[hop.way()];
                let layer = std::mem::replace(&mut way.layer, NONE);
                End { hop, layer, port: std::mem::replace(&mut way.port, mark) }
            }));
        }
        self.core.taps = Some(Box::new(Taps { tap, ways: ends, at_hand: None }));
        self.core.nodes.iter_mut().for_each(|node| node.drops.set_aside(true));
        before
    }

    /// Takes the tap off again, and returns it.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// assert!(stack.untap().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn untap(&mut self) -> Option<Box<dyn Tap>> {
        let taps = self.core.taps.take()?;
        for end in &taps.ways {
            let way = &mut self.core.ways[end.hop.way()];
            (way.layer, way.port) = (end.layer, end.port);
        }
        self.core.nodes.iter_mut().for_each(|node| node.drops.set_aside(false));
        Some(taps.tap)
    }
}

#[cold]
fn no_edge(edge: u16, edges: usize) -> ! {
    panic!("no edge {edge}: the stack has {edges}")
}
