//! Putting a stack together: [`StackBuilder`].

use std::{collections::VecDeque, sync::Arc};

use super::{
    Closing, Edge, LayerInfo, Protocol, Stack, Time,
    checks::{self, Plan},
    drops::DropTable,
    graph::{Core, Hop, Link, NONE, Next, Node, Port, Resolver, Way},
    timer::Timers,
};
use crate::{
    error::BuildError,
    pool::Pool,
    queue::{Batch, Queue},
};

/// A layer's name while the stack is being built; worth nothing to another builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerId(u16);

/// A port, counted from 0 in the order in which they were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortId(pub u16);

/// Puts a stack together. Nothing is checked before [`build`](StackBuilder::build), which names
/// all that it refuses. (What `layer` and `listener` are in the examples of its methods is said at
/// [`Context`](super::Context).)
///
/// ```
/// use mbuf::{
///     Chain, Pool,
///     stack::{Context, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
/// };
///
/// /// One byte says which layer above is meant.
/// struct Switch;
///
/// impl Protocol for Switch {
///     fn name(&self) -> &str {
///         "switch"
///     }
///
///     fn info(&self) -> LayerInfo {
///         LayerInfo::new(Edge::Packets, Edge::Packets).prepends(1).min_header(1)
///     }
///
///     fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
///         match chain.strip::<u8>() {
///             Ok(key) => cx.up_key(key.into(), chain),
///             Err(_) => cx.drop(chain, mbuf::stack::DropReason::SHORT),
///         }
///     }
///
///     fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
///         let key = cx.key().unwrap_or(0) as u8;
///         match chain.push(&key) {
///             Ok(()) => cx.down(chain),
///             Err(_) => cx.drop(chain, mbuf::stack::DropReason::NO_BUFFERS),
///         }
///     }
/// }
/// # struct Echo;
/// # impl Protocol for Echo {
/// #     fn name(&self) -> &str { "echo" }
/// #     fn info(&self) -> LayerInfo { LayerInfo::new(Edge::Any, Edge::Any) }
/// #     fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome { cx.reply(chain) }
/// #     fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome { cx.down(chain) }
/// # }
///
/// let pool = Pool::builder().build()?;
/// let mut builder = Stack::builder(&pool);
/// let switch = builder.layer(Switch);
/// let (first, second) = (builder.layer(Echo), builder.layer(Echo));
/// let port = builder.port(Edge::Packets, switch);
/// builder.bind(switch, 17, first).bind(switch, 6, second);
/// let mut stack = builder.build()?;
///
/// stack.input_one(port, pool.chain_from(&[6, b'h', b'i'])?);
/// assert_eq!(stack.poll_output(port).pop().unwrap().to_vec()?, [6, b'h', b'i']);
///
/// let mut wrong = Stack::builder(&pool);
/// let switch = wrong.layer(Switch);
/// wrong.port(Edge::Bytes, switch);
/// let refused = wrong.build().unwrap_err().to_string();
/// assert_eq!(refused, "stack: layer `switch` takes packets, but port 0 carries bytes");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StackBuilder {
    pool: Pool,
    protocols: Vec<Box<dyn Protocol>>,
    bindings: Vec<Binding>,
    ports: Vec<(Edge, LayerId)>,
    high_water: usize,
    max_chains: usize,
    max_bytes: usize,
    rounds: usize,
    timers: usize,
}

/// `lower` hands `key` to `upper`; without a key, whatever it passes up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding {
    pub(super) lower: u16,
    pub(super) key: Option<u64>,
    pub(super) upper: u16,
}

impl StackBuilder {
    pub(super) fn new(pool: &Pool) -> Self {
        Self {
            pool: pool.clone(),
            protocols: Vec::new(),
            bindings: Vec::new(),
            ports: Vec::new(),
            high_water: 128 << 10,
            max_chains: 4096,
            max_bytes: 4 << 20,
            rounds: 1024,
            timers: 1024,
        }
    }

    /// Adds a layer, bound to nothing yet.
    ///
    /// ```
    /// use mbuf::{Pool, stack::{Edge, Stack}};
    /// use mbuf_protocols::Echo;
    ///
    /// let pool = Pool::builder().build()?;
    /// let mut builder = Stack::builder(&pool);
    /// let echo = builder.layer(Echo::new());
    /// let port = builder.port(Edge::Packets, echo);
    /// let mut stack = builder.build()?;
    /// stack.input_one(port, pool.chain_from(b"hi")?);
    /// assert_eq!(stack.poll_output(port).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn layer(&mut self, protocol: impl Protocol + 'static) -> LayerId {
        self.layer_boxed(Box::new(protocol))
    }

    /// Adds a layer that is in a box already.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let layer = builder.layer_boxed(layer(|chain, cx| cx.reply(chain)));
    /// builder.port(Edge::Packets, layer);
    /// assert_eq!(builder.build()?.stats().layers.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn layer_boxed(&mut self, protocol: Box<dyn Protocol>) -> LayerId {
        self.protocols.push(protocol);
        LayerId(u16::try_from(self.protocols.len() - 1).unwrap_or(NONE))
    }

    /// One binding, two directions: `lower` hands `key` to `upper` ([`Context::up_key`]), and
    /// finds the key in what `upper` sends down ([`Context::key`]).
    ///
    /// [`Context::up_key`]: super::Context::up_key
    /// [`Context::key`]: super::Context::key
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let below = builder.layer_boxed(layer(|chain, cx| cx.up_key(0x800, chain)));
    /// let above = builder.layer_boxed(layer(|chain, cx| cx.reply(chain)));
    /// builder.bind(below, 0x800, above).port(Edge::Packets, below);
    /// let mut stack = builder.build()?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.poll_output(PORT).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bind(&mut self, lower: LayerId, key: u64, upper: LayerId) -> &mut Self {
        self.bindings.push(Binding { lower: lower.0, key: Some(key), upper: upper.0 });
        self
    }

    /// `upper` alone above `lower`; or beside others that are bound by key, for what has none.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let below = builder.layer_boxed(layer(|chain, cx| cx.up(chain)));
    /// let above = builder.layer_boxed(layer(|chain, cx| cx.reply(chain)));
    /// builder.stack(below, above).port(Edge::Packets, below);
    /// let mut stack = builder.build()?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.poll_output(PORT).len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stack(&mut self, lower: LayerId, upper: LayerId) -> &mut Self {
        self.bindings.push(Binding { lower: lower.0, key: None, upper: upper.0 });
        self
    }

    /// A port below that layer. It carries [`Edge::Bytes`] or [`Edge::Packets`].
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let layer = builder.layer_boxed(layer(|chain, cx| cx.reply(chain)));
    /// let ports = (builder.port(Edge::Packets, layer), builder.port(Edge::Packets, layer));
    /// assert_eq!(ports, (PortId(0), PortId(1)));
    /// assert_eq!(builder.build()?.ports(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn port(&mut self, edge: Edge, layer: LayerId) -> PortId {
        self.ports.push((edge, layer));
        PortId(u16::try_from(self.ports.len() - 1).unwrap_or(NONE))
    }

    /// Bounds of each port's output queue. There is credit up to `high_water` bytes (and a quarter
    /// of `max_chains`). Input is wanted up to twice as much, if `max_bytes` leaves room for that:
    /// a layer that sends by credit does not stop its own input, which a peer that does the same
    /// may need to be rid of before it reads. `max_chains` and `max_bytes` are the hard limit,
    /// past which packets are dropped and streams aborted. A stream is bounded in bytes only.
    ///
    /// Usual: 128 KiB, 4096 chains, 4 MiB.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// let layer = builder.layer_boxed(layer(|chain, cx| cx.reply(chain)));
    /// builder.egress(1 << 10, 2, 1 << 20).port(Edge::Packets, layer);
    /// let mut stack = builder.build()?;
    /// for _ in 0..3 {
    ///     stack.input_one(PORT, pool.chain()?);
    /// }
    /// assert_eq!(stack.poll_output(PORT).len(), 2);
    /// assert_eq!(stack.stats().dropped(DropReason::EGRESS_FULL), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn egress(&mut self, high_water: usize, max_chains: usize, max_bytes: usize) -> &mut Self {
        self.high_water = high_water.max(1);
        self.max_chains = max_chains.max(1);
        self.max_bytes = max_bytes.max(1);
        self
    }

    /// Rounds that one call may take before it leaves the rest to the next
    /// ([`Stack::has_work`]). A round is one batch given to one layer; where the chains of a batch
    /// are followed one by one, each has so many. Usual: 1024.
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
    /// assert!(stack.has_work()); // the layer below had its batch, the one above not yet
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rounds(&mut self, n: usize) -> &mut Self {
        self.rounds = n.max(1);
        self
    }

    /// Timers that may be armed at once, by all layers together. Usual: 1024.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let listen = |_, cx: &mut Context<'_>| {
    ///     assert!(cx.arm(Duration::ZERO).is_some());
    ///     assert!(cx.arm(Duration::ZERO).is_none());
    /// };
    /// let mut builder = Stack::builder(&pool);
    /// let layer = builder.layer_boxed(listener(listen));
    /// builder.timers(1).port(Edge::Packets, layer);
    /// let mut stack = builder.build()?;
    /// stack.open();
    /// assert_eq!(stack.timers(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timers(&mut self, n: usize) -> &mut Self {
        self.timers = n;
        self
    }

    /// Checks edges, keys, slots and headroom, and makes the stack. Allocates.
    ///
    /// # Errors
    /// [`BuildError::Stack`], which names the layers and the numbers.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut builder = Stack::builder(&pool);
    /// builder.layer_boxed(layer(|chain, cx| cx.reply(chain)));
    /// let refused = builder.build().unwrap_err(); // it has no port
    /// assert!(refused.to_string().starts_with("stack: "));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build(self) -> Result<Stack, BuildError> {
        let infos: Vec<LayerInfo> = self.protocols.iter().map(|layer| layer.info()).collect();
        let names = self.protocols.iter().map(|layer| layer.name()).collect();
        let ports = self.ports.iter().map(|&(edge, layer)| (edge, layer.0)).collect();
        let plan = Plan { names, infos: &infos, bindings: &self.bindings, ports };
        let slots = checks::check(&plan, &self.pool).map_err(BuildError::Stack)?;

        let links = links(&plan);
        let nodes = nodes(&plan, &links);
        let bottom_up = bottom_up(&nodes, &links, &all_ports(&plan));
        let ports = plan.ports.iter().enumerate().map(|(place, &(edge, _))| {
            let max_chains = if edge == Edge::Bytes { usize::MAX } else { self.max_chains };
            Port {
                link: (self.bindings.len() + place) as u16,
                edge,
                queue: Queue::new(max_chains, self.max_bytes),
                high_water: self.high_water,
                input_mark: self.high_water
                    + self.high_water.min(self.max_bytes.saturating_sub(self.high_water) / 2),
                high_chains: (self.max_chains / 2).max(1),
                paused: 0,
                close: Closing::Open,
                sealed: false,
                end: None,
                above: bottom_up_of(&nodes, &links, place as u16),
                received: 0,
                sent: 0,
                drops: DropTable::default(),
                aborts: DropTable::default(),
            }
        });
        let ports: Vec<Port> = ports.collect();
        let core = Core {
            ready: VecDeque::with_capacity(2 * links.len()),
            ways: ways(&plan, &links, &nodes),
            nodes,
            links,
            ports,
            slots,
            timers: Timers::new(self.timers),
            pool: self.pool,
            now: Time::ZERO,
            waiting: 0,
            batched: plan.infos.iter().any(LayerInfo::is_batched),
            transit_bytes: 0,
            transit_chains: 0,
            closing: false,
            bell: Arc::default(),
        };
        Ok(Stack::assemble(core, self.protocols, bottom_up, self.rounds))
    }
}

impl std::fmt::Debug for StackBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.protocols.iter().map(|layer| layer.name()).collect();
        f.debug_struct("StackBuilder")
            .field("layers", &names)
            .field("bindings", &self.bindings)
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

/// The links of all bindings, then those of all ports.
fn links(plan: &Plan<'_>) -> Vec<Link> {
    let bindings =
        plan.bindings.iter().map(|binding| (binding.upper, binding.lower, NONE, binding.key));
    let ports = plan.ports.iter().enumerate();
    let ports = ports.map(|(port, &(_, layer))| (layer, NONE, port as u16, None));
    let mut lower_edges = vec![0; plan.infos.len()];
    let mut upper_edges = vec![0; plan.infos.len()];
    let next = |counts: &mut Vec<u16>, layer: u16| {
        counts[layer as usize] += 1;
        counts[layer as usize] - 1
    };
    let reachable = checks::ports_below(plan);
    let make = |(upper, lower, port, key): (u16, u16, u16, Option<u64>)| Link {
        upper,
        lower,
        port,
        key,
        place_in_upper: next(&mut lower_edges, upper),
        place_in_lower: if lower == NONE { 0 } else { next(&mut upper_edges, lower) },
        paused: false,
        ports: match lower {
            NONE => [port].into(),
            _ => reachable[lower as usize].clone().into(),
        },
    };
    bindings.chain(ports).map(make).collect()
}

/// The two ways of each link. Their memory for chains is allocated as they first grow.
fn ways(plan: &Plan<'_>, links: &[Link], nodes: &[Node]) -> Vec<Way> {
    let way = |layer: u16, port, min_header| Way {
        pending: Batch::without_memory(),
        bytes: 0,
        total: 0,
        min_header,
        layer,
        port,
        next: nodes.get(layer as usize).map_or(Next::NONE, |node| node.next),
    };
    let of = |(link, kind): (&Link, Edge)| {
        let header = match kind {
            Edge::Packets => plan.infos[link.upper as usize].header_len(),
            _ => 0,
        };
        let header = u32::try_from(header).unwrap_or(u32::MAX);
        [way(link.upper, NONE, header), way(link.lower, link.port, 0)]
    };
    links.iter().zip(checks::kinds(plan)).flat_map(of).collect()
}

fn nodes(plan: &Plan<'_>, links: &[Link]) -> Vec<Node> {
    let reachable = checks::ports_below(plan);
    let node = |(layer, info): (usize, &LayerInfo)| {
        let layer = layer as u16;
        let of = |keep: &dyn Fn(&Link) -> bool| -> Vec<u16> {
            (0..links.len() as u16).filter(|&link| keep(&links[link as usize])).collect()
        };
        let lower = of(&|link| link.upper == layer);
        let upper = of(&|link| link.lower == layer);
        let keyed = upper.iter().filter_map(|&link| Some((links[link as usize].key?, link)));
        let keyed: Vec<_> = keyed.collect();
        let only = match keyed[..] {
            [only] => Some(only),
            _ => None,
        };
        let unkeyed = upper.iter().find(|&&link| links[link as usize].key.is_none());
        let several_ports =
            lower.len() > 1 && lower.iter().all(|&link| links[link as usize].lower == NONE);
        Node {
            next: Next {
                up: match (unkeyed, upper.as_slice()) {
                    (Some(&link), _) | (None, &[link]) => Hop::up(link),
                    _ => Hop::SETTLED,
                },
                down: if several_ports { Hop::BY_INGRESS } else { Hop::down(lower[0]) },
                keyed: only.map_or(Hop::SETTLED, |(_, link)| Hop::up(link)),
                key: only.map_or(0, |(key, _)| key),
            },
            resolver: Resolver::new(keyed),
            lower,
            upper,
            ports: reachable[layer as usize].clone().into(),
            half_open: info.is_half_open(),
            own_slots: info.slots.iter().map(|slot| slot.type_id).collect(),
            by_credit: false,
            wants_credit: false,
            keeps_back: false,
            made: 0,
            consumed: 0,
            merged: 0,
            drops: DropTable::new(info.declared_reasons().to_vec()),
        }
    };
    plan.infos.iter().enumerate().map(node).collect()
}

fn all_ports(plan: &Plan<'_>) -> Vec<u16> {
    (0..plan.ports.len() as u16).collect()
}

/// The layers above one port, from the bottom up.
fn bottom_up_of(nodes: &[Node], links: &[Link], port: u16) -> Box<[u16]> {
    bottom_up(nodes, links, &[port])
}

/// The layers above these ports, each after all that are below it; in a cycle, first the one that
/// is nearest to a port.
fn bottom_up(nodes: &[Node], links: &[Link], ports: &[u16]) -> Box<[u16]> {
    let mut distance = vec![usize::MAX; nodes.len()];
    let mut seen = VecDeque::new();
    for link in links.iter().filter(|link| ports.contains(&link.port)) {
        if distance[link.upper as usize] == usize::MAX {
            distance[link.upper as usize] = 0;
            seen.push_back(link.upper);
        }
    }
    while let Some(layer) = seen.pop_front() {
        for &link in &nodes[layer as usize].upper {
            let upper = links[link as usize].upper;
            if distance[upper as usize] == usize::MAX {
                distance[upper as usize] = distance[layer as usize] + 1;
                seen.push_back(upper);
            }
        }
    }
    let mut left: Vec<u16> =
        (0..nodes.len() as u16).filter(|&layer| distance[layer as usize] != usize::MAX).collect();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let rests_on = |layer: u16| {
            let below = nodes[layer as usize].lower.iter();
            below.filter(|&&link| left.contains(&links[link as usize].lower)).count()
        };
        let rank = |&layer: &u16| (rests_on(layer) > 0, distance[layer as usize], layer);
        let next = *left.iter().min_by_key(|layer| rank(layer)).expect("it is not empty");
        left.retain(|&layer| layer != next);
        order.push(next);
    }
    order.into()
}
