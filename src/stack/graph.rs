//! The graph that layers stand in, and all that a [`Context`](super::Context) reaches of it.
//!
//! A *node* is a layer's place, a *link* is the edge between two layers or between a port and a
//! layer, and each link is two *ways*, up and down. A way owns the chains that are pending on it,
//! so a batch handed to a layer always came by one edge; all that a chain needs on its way is in
//! there, apart from what is seldom asked for. The protocols themselves are not in here: while one
//! of them runs, it may reach everything else.

use std::{any::TypeId, collections::VecDeque, fmt, sync::Arc};

use super::{
    Closing, DropReason, Edge, Held, PortStats,
    drops::DropTable,
    timer::{Time, Timers},
    waker::Bell,
};
use crate::{
    chain::Chain,
    error::Error,
    pool::Pool,
    queue::{Batch, Queue},
};

/// No node, no link.
pub(super) const NONE: u16 = u16::MAX;

/// One step of a chain: along a link, up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hop(u32);

impl Hop {
    /// The chain goes nowhere any more.
    pub(super) const SETTLED: Hop = Hop(u32::MAX);
    /// Down to the port that the chain came in by.
    pub(super) const BY_INGRESS: Hop = Hop(u32::MAX - 1);

    #[inline]
    pub(super) fn up(link: u16) -> Hop {
        Hop(u32::from(link) << 1)
    }

    #[inline]
    pub(super) fn down(link: u16) -> Hop {
        Hop(u32::from(link) << 1 | 1)
    }

    /// The place of its way among the ways.
    #[inline]
    pub(super) fn way(self) -> usize {
        self.0 as usize
    }

    #[inline]
    pub(super) fn link(self) -> usize {
        (self.0 >> 1) as usize
    }

    #[inline]
    pub(super) fn is_up(self) -> bool {
        self.0 & 1 == 0
    }
}

/// How a layer hands chains on by key.
#[derive(Debug)]
pub(super) enum Resolver {
    /// At most one key: the key and its link.
    Fixed(Option<(u64, u16)>),
    /// A few keys, and the place of the one that was met last.
    Linear(Vec<(u64, u16)>, usize),
    /// More keys, sorted.
    Sorted(Vec<(u64, u16)>),
}

impl Resolver {
    /// Up to here a search in order, the last hit first, is the quickest (`docs/design.md`).
    const LINEAR: usize = 4;

    /// The keys must differ.
    pub(super) fn new(mut keys: Vec<(u64, u16)>) -> Resolver {
        match keys.len() {
            0 | 1 => Resolver::Fixed(keys.pop()),
            2..=Self::LINEAR => Resolver::Linear(keys, 0),
            _ => {
                keys.sort_unstable();
                Resolver::Sorted(keys)
            }
        }
    }

    #[inline]
    pub(super) fn find(&mut self, key: u64) -> Option<u16> {
        match self {
            Resolver::Fixed(only) => only.and_then(|(bound, link)| (bound == key).then_some(link)),
            Resolver::Linear(keys, last) => {
                let (bound, link) = keys[*last];
                if bound == key {
                    return Some(link);
                }
                let place = keys.iter().position(|&(bound, _)| bound == key)?;
                *last = place;
                Some(keys[place].1)
            }
            Resolver::Sorted(keys) => {
                let place = keys.binary_search_by_key(&key, |&(bound, _)| bound).ok()?;
                Some(keys[place].1)
            }
        }
    }
}

/// A layer's place in the graph, and its counters.
#[derive(Debug)]
pub(super) struct Node {
    /// Links to what is below, in the order of binding.
    pub(super) lower: Vec<u16>,
    /// Links to what is above, in the order of binding.
    pub(super) upper: Vec<u16>,
    pub(super) next: Next,
    pub(super) resolver: Resolver,
    /// Ports that can be reached downwards.
    pub(super) ports: Box<[u16]>,
    pub(super) half_open: bool,
    /// Slots that this layer claimed itself.
    pub(super) own_slots: Vec<TypeId>,
    /// It has ever asked for credit.
    pub(super) by_credit: bool,
    /// It was told that there is no credit.
    pub(super) wants_credit: bool,
    /// It keeps back input that it has not passed up yet.
    pub(super) keeps_back: bool,
    pub(super) made: u64,
    pub(super) consumed: u64,
    pub(super) merged: u64,
    pub(super) drops: DropTable,
}

/// An edge of the graph.
#[derive(Debug)]
pub(super) struct Link {
    /// The layer above.
    pub(super) upper: u16,
    /// The layer below, or `NONE` where a port is below.
    pub(super) lower: u16,
    /// The port below, or `NONE`.
    pub(super) port: u16,
    pub(super) key: Option<u64>,
    /// Its place among the upper layer's lower links, and among the lower layer's upper links.
    pub(super) place_in_upper: u16,
    pub(super) place_in_lower: u16,
    /// The upper layer wants no input by this link.
    pub(super) paused: bool,
    /// Ports that can be reached downwards through this link.
    pub(super) ports: Box<[u16]>,
}

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) pending: Batch,
    /// Bytes pending, on a way down.
    pub(super) bytes: usize,
    /// Chains delivered so far.
    pub(super) total: u64,
    /// Bytes that the layer is promised contiguous; 0 on ways down and on byte edges.
    pub(super) min_header: u32,
    /// The layer at its end, or `NONE` where a port is.
    pub(super) layer: u16,
    /// The port at its end, or `NONE`.
    pub(super) port: u16,
    /// That of the layer at its end.
    pub(super) next: Next,
}

/// Where a layer hands a chain on to if it says no more than up or down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    /// `SETTLED` where nothing is above.
    pub(super) up: Hop,
    /// `BY_INGRESS` where several ports are below and nothing else.
    pub(super) down: Hop,
    /// Where the only key goes, if there is just one; else `SETTLED`.
    pub(super) keyed: Hop,
    /// The only key.
    pub(super) key: u64,
}

impl Next {
    /// Of no layer.
    pub(super) const NONE: Next =
        Next { up: Hop::SETTLED, down: Hop::SETTLED, keyed: Hop::SETTLED, key: 0 };
}

/// Where chains enter and leave.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) link: u16,
    pub(super) edge: Edge,
    pub(super) queue: Queue,
    /// Bytes up to which there is credit.
    pub(super) high_water: usize,
    /// Bytes from which on no input is wanted. More than `high_water`: who keeps to the credit
    /// never stops the reading, or two sides that both send by credit would wait for each other.
    pub(super) input_mark: usize,
    /// Chains from which on no input is wanted; there is credit up to half of them.
    pub(super) high_chains: usize,
    /// Links and layers that want no input from here.
    pub(super) paused: u32,
    pub(super) close: Closing,
    /// Everything sent before the close has arrived in the queue: nothing more is taken.
    pub(super) sealed: bool,
    /// End of stream: the place in `above` of the layer that hears of it next.
    pub(super) end: Option<u16>,
    /// The layers above, from the bottom up.
    pub(super) above: Box<[u16]>,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) drops: DropTable,
    pub(super) aborts: DropTable,
}

impl Port {
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        matches!(self.close, Closing::Open)
    }

    #[inline]
    pub(super) fn wants_input(&self) -> bool {
        self.queue.bytes() < self.input_mark && self.queue.len() < self.high_chains
    }

    /// At once: what waits is dropped.
    #[cold]
    pub(super) fn abort(&mut self, reason: DropReason) {
        if matches!(self.close, Closing::Abort(_)) {
            return;
        }
        self.drops.count(reason, self.queue.len() as u64);
        self.queue.clear();
        self.aborts.count(reason, 1);
        self.close = Closing::Abort(reason);
        self.sealed = true;
    }

    pub(super) fn stats(&self) -> PortStats {
        PortStats {
            edge: self.edge,
            received: self.received,
            sent: self.sent,
            queued: self.queue.len(),
            drops: self.drops.counts(),
            aborts: self.aborts.counts(),
        }
    }
}

/// Where a slot lies in [`Meta`](crate::meta::Meta).
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotPlace {
    pub(super) type_id: TypeId,
    pub(super) offset: usize,
}

/// The graph and what belongs to it.
pub(super) struct Core {
    pub(super) nodes: Vec<Node>,
    pub(super) links: Vec<Link>,
    /// Two for each link: up, down.
    pub(super) ways: Vec<Way>,
    pub(super) ports: Vec<Port>,
    pub(super) slots: Vec<SlotPlace>,
    pub(super) timers: Timers,
    pub(super) pool: Pool,
    pub(super) now: Time,
    /// Hops that have chains pending, each once, in the order in which they came to have them.
    pub(super) ready: VecDeque<Hop>,
    /// Layers that wait for `Signal::Writable`.
    pub(super) waiting: usize,
    /// Pending on all links downwards.
    pub(super) transit_bytes: usize,
    pub(super) transit_chains: usize,
    /// A layer does better with many chains at once.
    pub(super) batched: bool,
    /// A port was asked to close and is not sealed yet.
    pub(super) closing: bool,
    /// Who is to be woken from elsewhere.
    pub(super) bell: Arc<Bell>,
}

impl Core {
    /// Puts a chain where its hop says: on the way, or into the port's queue.
    #[inline]
    pub(super) fn push(&mut self, hop: Hop, chain: Chain) {
        self.push_inline(hop, chain);
    }

    /// The same, for the one place that does it for every chain of a batch.
    #[inline(always)]
    pub(super) fn push_inline(&mut self, hop: Hop, mut chain: Chain) {
        let way = &mut self.ways[hop.way()];
        if way.layer == NONE {
            way.total += 1;
            let port = way.port;
            return self.egress(port, chain);
        }
        if way.min_header != 0
            && !chain.is_pulled_up(way.min_header as usize)
            && let Err(error) = chain.pullup(way.min_header as usize)
        {
            return self.refuse(hop, error);
        }
        if !hop.is_up() {
            let bytes = chain.len();
            way.bytes += bytes;
            self.transit_bytes += bytes;
            self.transit_chains += 1;
        }
        if way.pending.is_empty() {
            self.ready.push_back(hop);
        }
        way.pending.push(chain);
    }

    /// A packet whose header could not be made contiguous is dropped, counted in the layer that it
    /// was for.
    #[cold]
    pub(super) fn refuse(&mut self, hop: Hop, error: Error) {
        let reason = match error {
            Error::TooShort { .. } => DropReason::SHORT,
            Error::NoBuffers { .. } => DropReason::NO_BUFFERS,
            Error::Io { .. } => DropReason::IO,
            _ => DropReason::MALFORMED,
        };
        let way = &mut self.ways[hop.way()];
        way.total += 1;
        self.nodes[way.layer as usize].drops.count(reason, 1);
    }

    /// Into the port's output queue; past its hard limit a packet is dropped, a stream aborted.
    #[inline]
    pub(super) fn egress(&mut self, port: u16, chain: Chain) {
        let port = &mut self.ports[port as usize];
        if port.sealed {
            port.drops.count(DropReason::CLOSED, 1);
            return;
        }
        if chain.is_empty() && port.edge == Edge::Bytes {
            // Nothing, to a stream; and it would take a place that no bound on bytes sees.
            port.sent += 1;
            return;
        }
        match port.queue.push(chain) {
            Ok(()) => port.sent += 1,
            Err(_) if port.edge == Edge::Bytes => {
                port.drops.count(DropReason::OVERRUN, 1);
                port.abort(DropReason::OVERRUN);
            }
            Err(_) => port.drops.count(DropReason::EGRESS_FULL, 1),
        }
    }

    /// Bytes that may be sent before one of these ports is at high water. Ports that are closed do
    /// not count; where all are, nothing may be sent, or a layer that sends for as long as it has
    /// credit would never end.
    #[inline]
    pub(super) fn credit(&self, ports: &[u16]) -> usize {
        let mut credit = None;
        for &port in ports {
            let port = &self.ports[port as usize];
            if !port.sealed {
                let left = if port.queue.len() + self.transit_chains < port.high_chains.div_ceil(2)
                {
                    port.high_water.saturating_sub(port.queue.bytes() + self.transit_bytes)
                } else {
                    0
                };
                credit = Some(credit.map_or(left, |least: usize| least.min(left)));
            }
        }
        credit.unwrap_or(0)
    }

    /// Whether the layer waits and should wait no longer: half of the room is free again, so that
    /// a layer is woken for more than a few bytes. Where all ports are closed there is nothing to
    /// be woken for.
    pub(super) fn to_be_woken(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        let mut ports = node.ports.iter().map(|&port| &self.ports[port as usize]);
        (node.wants_credit || node.keeps_back)
            && ports.clone().any(|port| !port.sealed)
            && ports.all(|port| {
                port.sealed
                    || if node.by_credit {
                        port.queue.bytes() <= port.high_water / 2
                            && port.queue.len() <= port.high_chains / 4
                    } else {
                        // Whoever only takes turns goes on when more would be read, too.
                        port.wants_input()
                    }
            })
    }

    /// The layer wants to hear `Signal::Writable`.
    pub(super) fn want_credit(&mut self, node: u16) {
        let node = &mut self.nodes[node as usize];
        if !node.wants_credit {
            node.wants_credit = true;
            self.waiting += usize::from(!node.keeps_back);
        }
    }

    /// The same, and until then it keeps back input: none is read, and end of stream waits.
    pub(super) fn keep_back(&mut self, node: u16) {
        let node = &mut self.nodes[node as usize];
        if !node.keeps_back {
            node.keeps_back = true;
            self.waiting += usize::from(!node.wants_credit);
            for &port in &node.ports {
                self.ports[port as usize].paused += 1;
            }
        }
    }

    pub(super) fn stop_waiting(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        self.waiting -= usize::from(node.wants_credit || node.keeps_back);
        node.wants_credit = false;
        if std::mem::take(&mut node.keeps_back) {
            for &port in &node.ports {
                self.ports[port as usize].paused -= 1;
            }
        }
    }

    pub(super) fn set_paused(&mut self, link: u16, paused: bool) {
        let link = &mut self.links[link as usize];
        if link.paused != paused {
            link.paused = paused;
            for &port in &link.ports {
                let port = &mut self.ports[port as usize];
                port.paused = if paused { port.paused + 1 } else { port.paused - 1 };
            }
        }
    }

    pub(super) fn close(&mut self, port: u16) {
        let port = &mut self.ports[port as usize];
        if port.is_open() {
            port.close = Closing::Graceful;
            self.closing = true;
        }
    }

    /// Nothing is pending any more: what was asked to close has all that was sent before.
    pub(super) fn seal(&mut self) {
        self.closing = false;
        for port in &mut self.ports {
            port.sealed |= !port.is_open();
        }
    }

    /// Pending on ways and in queues.
    pub(super) fn held(&self) -> Held {
        let ways = self.ways.iter().flat_map(|way| way.pending.iter());
        ways.chain(self.ports.iter().flat_map(|port| port.queue.iter())).sum()
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("layers", &self.nodes.len())
            .field("ports", &self.ports.len())
            .field("now", &self.now)
            .field("ready", &self.ready.len())
            .field("timers", &self.timers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_keys_resolves_the_same() {
        for n in 0..40_u16 {
            let keys: Vec<_> = (0..n).map(|key| (u64::from(key) * 7 % 41, key)).collect();
            let mut resolver = Resolver::new(keys.clone());
            for round in 0..3 {
                for key in 0..50 {
                    let expected =
                        keys.iter().find(|&&(bound, _)| bound == key).map(|&(_, link)| link);
                    assert_eq!(resolver.find(key), expected, "{n} keys, key {key}, round {round}");
                }
            }
        }
        assert!(matches!(Resolver::new(vec![(1, 0)]), Resolver::Fixed(Some(_))));
        assert!(matches!(Resolver::new(vec![(1, 0); 4]), Resolver::Linear(..)));
        assert!(matches!(Resolver::new(vec![(1, 0); 5]), Resolver::Sorted(_)));
    }

    #[test]
    fn a_hop_keeps_its_link_and_direction() {
        for link in [0, 1, 7, NONE - 1] {
            assert_eq!((Hop::up(link).link(), Hop::up(link).is_up()), (link as usize, true));
            assert_eq!((Hop::down(link).link(), Hop::down(link).is_up()), (link as usize, false));
        }
        assert!(Hop::SETTLED != Hop::down(NONE));
    }
}
