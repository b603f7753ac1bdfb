//! What a layer is: the [`Protocol`] trait and what a layer says of itself.

use std::any::TypeId;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Context, DropReason, LayerStats, Outcome, Timer};
use crate::{chain::Chain, queue::Batch};

/// What an edge carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// A stream: any cut, order kept.
    Bytes,
    /// Packets: a chain is a packet.
    Packets,
    /// Whatever the layer below gives (echo does not care).
    Any,
}

impl std::fmt::Display for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Edge::Bytes => "bytes",
            Edge::Packets => "packets",
            Edge::Any => "anything",
        })
    }
}

/// What a layer says of itself before the stack is built.
///
/// ```
/// use mbuf::stack::{DropReason, Edge, LayerInfo};
///
/// const STALE: DropReason = DropReason("stale");
/// let info = LayerInfo::new(Edge::Packets, Edge::Packets)
///     .prepends(8)
///     .min_header(8)
///     .reasons(&[STALE]);
/// assert_eq!(info.max_prepend(), 8);
/// assert_eq!(info.declared_reasons(), [STALE]);
/// ```
#[derive(Debug, Clone)]
pub struct LayerInfo {
    below: Edge,
    above: Edge,
    prepends: usize,
    appends: usize,
    min_header: usize,
    stateless: bool,
    half_open: bool,
    batched: bool,
    pub(super) slots: Vec<SlotClaim>,
    reasons: Vec<DropReason>,
}

/// A claim on part of each packet's slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotClaim {
    pub(super) type_id: TypeId,
    pub(super) type_name: &'static str,
    pub(super) bytes: usize,
    pub(super) shared: bool,
}

impl SlotClaim {
    fn of<T: 'static>(shared: bool) -> Self {
        Self {
            type_id: TypeId::of::<T>(),
            type_name: std::any::type_name::<T>(),
            bytes: size_of::<T>(),
            shared,
        }
    }
}

impl LayerInfo {
    /// A layer that takes the one kind of edge below it and offers the other above it.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// // Framing: cuts a stream into packets.
    /// let info = LayerInfo::new(Edge::Bytes, Edge::Packets);
    /// assert_eq!((info.below(), info.above()), (Edge::Bytes, Edge::Packets));
    /// assert_eq!((info.max_prepend(), info.is_stateless()), (0, false));
    /// ```
    pub fn new(below: Edge, above: Edge) -> Self {
        Self {
            below,
            above,
            prepends: 0,
            appends: 0,
            min_header: 0,
            stateless: false,
            half_open: false,
            batched: false,
            slots: Vec::new(),
            reasons: Vec::new(),
        }
    }

    /// The most bytes it puts before a chain on its way down.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// let info = LayerInfo::new(Edge::Packets, Edge::Packets).prepends(20);
    /// assert_eq!(info.max_prepend(), 20);
    /// ```
    pub fn prepends(mut self, bytes: usize) -> Self {
        self.prepends = bytes;
        self
    }

    /// The most bytes it puts behind a chain on its way down.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// let info = LayerInfo::new(Edge::Packets, Edge::Packets).appends(4);
    /// assert_eq!(info.max_append(), 4);
    /// ```
    pub fn appends(mut self, bytes: usize) -> Self {
        self.appends = bytes;
        self
    }

    /// The fixed minimum of its header, in bytes: contiguous before `input` on a packet edge
    /// (shorter packets are dropped as [`DropReason::SHORT`] before it sees them). On a byte edge
    /// nothing is promised and nothing is dropped.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// let info = LayerInfo::new(Edge::Packets, Edge::Packets).min_header(20);
    /// assert_eq!(info.header_len(), 20);
    /// ```
    pub fn min_header(mut self, bytes: usize) -> Self {
        self.min_header = bytes;
        self
    }

    /// It keeps nothing of a peer, so one value serves all peers of a packet port directly.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert!(LayerInfo::new(Edge::Any, Edge::Any).stateless().is_stateless());
    /// ```
    pub fn stateless(mut self) -> Self {
        self.stateless = true;
        self
    }

    /// It goes on sending after the peer's end of stream, or after [`Signal::Shutdown`], and calls
    /// [`Context::close`] when it is done. Without this the stack closes by itself once all layers
    /// have been told.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert!(LayerInfo::new(Edge::Bytes, Edge::Bytes).half_open().is_half_open());
    /// ```
    pub fn half_open(mut self) -> Self {
        self.half_open = true;
        self
    }

    /// It does better with many chains at once, and has an [`input_batch`](Protocol::input_batch)
    /// or [`output_batch`](Protocol::output_batch) of its own for them. In a stack with such a layer
    /// what comes in as a batch goes from layer to layer as one; in others each chain is followed
    /// from layer to layer, which costs less.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert!(LayerInfo::new(Edge::Packets, Edge::Packets).batched().is_batched());
    /// ```
    pub fn batched(mut self) -> Self {
        self.batched = true;
        self
    }

    /// Claims part of each packet's slots ([`SLOT_BYTES`](crate::meta::SLOT_BYTES) in all) for a
    /// value of this type. The layer reads and writes it with [`Context::slot`] and
    /// [`Context::set_slot`]; the other layers of the stack may read it. It starts as zeroes.
    ///
    /// ```
    /// # use mbuf::{Chain, Pool, stack::{Context, Edge, LayerInfo, Outcome, PortId, Protocol, Stack}};
    /// struct Greedy;
    ///
    /// impl Protocol for Greedy {
    ///     fn info(&self) -> LayerInfo {
    ///         LayerInfo::new(Edge::Packets, Edge::Packets).slot::<[u8; 8]>().slot::<[u8; 5]>()
    ///     }
    /// #     fn name(&self) -> &str { "greedy" }
    /// #     fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome { cx.reply(chain) }
    /// #     fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome { cx.down(chain) }
    /// }
    ///
    /// let pool = Pool::builder().build()?;
    /// let refused = Stack::pile(&pool, Edge::Packets, vec![Box::new(Greedy)]).unwrap_err();
    /// assert!(refused.to_string().contains("greedy")); // 13 bytes of 12
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn slot<T: FromBytes + IntoBytes + Immutable + Copy + 'static>(mut self) -> Self {
        self.slots.push(SlotClaim::of::<T>(false));
        self
    }

    /// As [`slot`](LayerInfo::slot), for a value by which several layers speak to each other: all
    /// that claim it so have one slot together, and each of them may write it. A layer that claims
    /// the same type for itself alone is refused beside them.
    ///
    /// ```
    /// # use mbuf::{Chain, Pool, stack::{Context, Edge, LayerInfo, Outcome, PortId, Protocol, Stack}};
    /// struct Teller;
    /// impl Protocol for Teller {
    ///     fn info(&self) -> LayerInfo {
    ///         LayerInfo::new(Edge::Packets, Edge::Packets).shared_slot::<[u8; 8]>()
    ///     }
    /// #     fn name(&self) -> &str { "teller" }
    /// #     fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome { cx.reply(chain) }
    /// #     fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome { cx.down(chain) }
    /// }
    /// let pool = Pool::builder().build()?;
    /// Stack::pile(&pool, Edge::Packets, vec![Box::new(Teller), Box::new(Teller)])?; // 8 of 12 bytes
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shared_slot<T: FromBytes + IntoBytes + Immutable + Copy + 'static>(mut self) -> Self {
        self.slots.push(SlotClaim::of::<T>(true));
        self
    }

    /// Its own reasons for dropping, beyond the constants of [`DropReason`].
    ///
    /// ```
    /// use mbuf::stack::{DropReason, Edge, LayerInfo};
    ///
    /// const STALE: DropReason = DropReason("stale");
    /// let info = LayerInfo::new(Edge::Packets, Edge::Packets).reasons(&[STALE]);
    /// assert_eq!(info.declared_reasons(), [STALE]);
    /// ```
    pub fn reasons(mut self, reasons: &[DropReason]) -> Self {
        self.reasons.extend_from_slice(reasons);
        self
    }

    /// What it takes from below.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert_eq!(LayerInfo::new(Edge::Bytes, Edge::Packets).below(), Edge::Bytes);
    /// ```
    pub fn below(&self) -> Edge {
        self.below
    }

    /// What it offers above.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert_eq!(LayerInfo::new(Edge::Bytes, Edge::Packets).above(), Edge::Packets);
    /// ```
    pub fn above(&self) -> Edge {
        self.above
    }

    /// The most bytes that it prepends.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert_eq!(LayerInfo::new(Edge::Packets, Edge::Packets).prepends(14).max_prepend(), 14);
    /// ```
    pub fn max_prepend(&self) -> usize {
        self.prepends
    }

    /// The most bytes that it appends.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert_eq!(LayerInfo::new(Edge::Packets, Edge::Packets).appends(4).max_append(), 4);
    /// ```
    pub fn max_append(&self) -> usize {
        self.appends
    }

    /// The fixed minimum of its header, in bytes.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert_eq!(LayerInfo::new(Edge::Packets, Edge::Packets).min_header(8).header_len(), 8);
    /// ```
    pub fn header_len(&self) -> usize {
        self.min_header
    }

    /// Whether it serves all peers directly.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert!(!LayerInfo::new(Edge::Any, Edge::Any).is_stateless());
    /// ```
    pub fn is_stateless(&self) -> bool {
        self.stateless
    }

    /// Whether it closes by itself after the peer's end of stream.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert!(!LayerInfo::new(Edge::Any, Edge::Any).is_half_open());
    /// ```
    pub fn is_half_open(&self) -> bool {
        self.half_open
    }

    /// Whether it does better with many chains at once.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert!(!LayerInfo::new(Edge::Any, Edge::Any).is_batched());
    /// ```
    pub fn is_batched(&self) -> bool {
        self.batched
    }

    /// The reasons for dropping that it declared.
    ///
    /// ```
    /// use mbuf::stack::{Edge, LayerInfo};
    ///
    /// assert!(LayerInfo::new(Edge::Any, Edge::Any).declared_reasons().is_empty());
    /// ```
    pub fn declared_reasons(&self) -> &[DropReason] {
        &self.reasons
    }
}

/// What is held by a layer, a stack or a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Chains.
    pub chains: usize,
    /// The storage that they pin, in bytes ([`Chain::footprint`]).
    pub footprint: usize,
}

impl Held {
    /// What one chain amounts to. O(segments).
    ///
    /// ```
    /// use mbuf::stack::Held;
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let held = Held::of(&pool.chain_from(&[7; 1000])?);
    /// assert_eq!(held, Held { chains: 1, footprint: 256 + 2048 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(chain: &Chain) -> Held {
        Held { chains: 1, footprint: chain.footprint() }
    }
}

impl std::ops::AddAssign for Held {
    fn add_assign(&mut self, other: Held) {
        self.chains += other.chains;
        self.footprint += other.footprint;
    }
}

impl<'a> std::iter::Sum<&'a Chain> for Held {
    /// O(segments).
    fn sum<I: Iterator<Item = &'a Chain>>(chains: I) -> Held {
        let mut held = Held::default();
        chains.for_each(|chain| held += Held::of(chain));
        held
    }
}

/// What the stack tells its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// The session begins: the connection is there, the port is up.
    Opened,
    /// The peer will send no more. It comes after all that the peer had sent, from the lowest
    /// layer to the highest, so a layer may still pass up what it kept.
    EndOfStream,
    /// There is credit again, for a layer that asked ([`Context::credit`]) and was told 0, or that
    /// called [`Context::wait`].
    Writable,
    /// Memory is low: give back what can be given back (the BSD drain hook).
    Drain,
    /// The largest packet that the port takes, in bytes.
    Mtu(usize),
    /// The program is shutting down: finish, then close.
    Shutdown,
    /// Somebody has used the layer's [`Waker`](super::Waker): what it asked for elsewhere is there.
    Woken,
}

/// A layer.
///
/// A value belongs to one session: one connection, or one peer of a packet port (see
/// [`Sessions`](super::Sessions)). A chain comes in by value and must go somewhere: that is what
/// the [`Outcome`] says, and only [`Context`] makes one.
///
/// ```
/// use mbuf::{
///     Chain,
///     stack::{Context, Edge, LayerInfo, Outcome, Protocol},
/// };
///
/// /// Sends back whatever comes (RFC 862).
/// struct Echo;
///
/// impl Protocol for Echo {
///     fn name(&self) -> &str {
///         "echo"
///     }
///
///     fn info(&self) -> LayerInfo {
///         LayerInfo::new(Edge::Any, Edge::Any).stateless()
///     }
///
///     fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
///         cx.reply(chain)
///     }
///
///     fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
///         cx.down(chain)
///     }
/// }
///
/// assert_eq!(Echo.name(), "echo");
/// ```
pub trait Protocol: Send {
    /// Its name, in statistics and errors.
    fn name(&self) -> &str;

    /// What it says of itself. Called once, when the stack is built.
    fn info(&self) -> LayerInfo;

    /// A chain from below: parse, strip, pass up.
    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome;

    /// A chain from above: prepend, pass down.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome;

    /// A timer that it armed has expired.
    fn timeout(&mut self, timer: Timer, cx: &mut Context<'_>) {
        let _ = (timer, cx);
    }

    /// See [`Signal`].
    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        let _ = (signal, cx);
    }

    /// What it holds (for reassembly, retransmission, ...). Asked for often: O(1) if it can be.
    fn held(&self) -> Held {
        Held::default()
    }

    /// Counters of layers inside this one, for a layer that holds stacks of its own
    /// ([`Sessions`](super::Sessions)). They are shown after its own.
    fn inner_stats(&self) -> Vec<LayerStats> {
        Vec::new()
    }

    /// All that is pending from below, in order; all of it by the same edge. The provided one
    /// calls [`input`](Protocol::input) for each. Chains left in the batch are dropped as
    /// [`DropReason::UNHANDLED`]. A layer that has one of its own says so:
    /// [`LayerInfo::batched`].
    fn input_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        while let Some(chain) = batch.pop() {
            let outcome = self.input(chain, cx);
            cx.pass_on(outcome);
        }
    }

    /// All that is pending from above, in order; all of it by the same edge. The provided one
    /// calls [`output`](Protocol::output) for each.
    fn output_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        while let Some(chain) = batch.pop() {
            let outcome = self.output(chain, cx);
            cx.pass_on(outcome);
        }
    }
}

impl<P: Protocol + ?Sized> Protocol for Box<P> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn info(&self) -> LayerInfo {
        (**self).info()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        (**self).input(chain, cx)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        (**self).output(chain, cx)
    }

    fn timeout(&mut self, timer: Timer, cx: &mut Context<'_>) {
        (**self).timeout(timer, cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        (**self).signal(signal, cx);
    }

    fn held(&self) -> Held {
        (**self).held()
    }

    fn inner_stats(&self) -> Vec<LayerStats> {
        (**self).inner_stats()
    }

    fn input_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        (**self).input_batch(batch, cx);
    }

    fn output_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        (**self).output_batch(batch, cx);
    }
}
