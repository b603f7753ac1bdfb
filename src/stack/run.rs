//! How a stack runs: a chain is followed, a batch is delivered, who waits is woken, and the ends of
//! streams are passed on.

use super::{
    Context, DropReason, PortId, Signal, Stack,
    graph::{Hop, NONE},
};
use crate::{chain::Chain, pool::Event};

/// Fewer chains are no batch, whatever a layer says.
pub(super) const FEW: usize = 4;

/// What happens to a chain that is given to a layer.
#[inline(always)]
pub(super) fn passed(hop: Hop) -> Event {
    if hop.is_up() { Event::Up } else { Event::Down }
}

impl Stack {
    /// Counts chains that come in by the port, and answers where they go; `None` if the port is
    /// closed. It is asked once for all chains of a call, so that a layer that closes at the first
    /// of them is still given the others, however many there are.
    #[inline]
    pub(super) fn enter(&mut self, port: PortId, chains: usize) -> Option<Hop> {
        let port = self.port_mut(port);
        port.received += chains as u64;
        if !port.is_open() {
            port.drops.count(DropReason::CLOSED, chains as u64);
            return None;
        }
        Some(Hop::up(port.link))
    }

    /// Follows one chain from layer to layer, until it is settled or something else is pending:
    /// then it gets in line, and order is kept.
    #[inline]
    pub(super) fn follow(&mut self, mut hop: Hop, mut chain: Chain, mut rounds: usize) -> usize {
        loop {
            if !self.core.ready.is_empty() || rounds == 0 {
                self.core.push(hop, chain);
                return rounds;
            }
            rounds -= 1;
            let way = &mut self.core.ways[hop.way()];
            let layer = way.layer;
            if layer == NONE {
                way.total += 1;
                let port = way.port;
                self.core.egress(port, chain);
                return rounds;
            }
            if way.min_header != 0
                && !chain.is_pulled_up(way.min_header as usize)
                && let Err(error) = chain.pullup(way.min_header as usize)
            {
                self.core.refuse(hop, error);
                return rounds;
            }
            way.total += 1;
            let protocol = &mut *self.protocols[layer as usize];
            chain.note(passed(hop));
            let next = way.next;
            let mut cx = Context::new(&mut self.core, layer, next, hop);
            let outcome = match hop.is_up() {
                true => protocol.input(chain, &mut cx),
                false => protocol.output(chain, &mut cx),
            };
            match outcome.chain {
                None => return rounds,
                Some(next) => (hop, chain) = (outcome.hop, next),
            }
        }
    }

    /// Gives a layer all that is pending for it on one way. The rounds left are answered.
    pub(super) fn deliver(&mut self, hop: Hop, rounds: usize) -> usize {
        let way = &mut self.core.ways[hop.way()];
        let (layer, next) = (way.layer, way.next);
        way.total += way.pending.len() as u64;
        if !hop.is_up() {
            self.core.transit_bytes -= std::mem::take(&mut way.bytes);
            self.core.transit_chains -= way.pending.len();
        }
        let Some(protocol) = self.protocols.get_mut(layer as usize) else {
            return self.deliver_tapped(hop, rounds);
        };
        if way.pending.len() == 1
            && let Some(chain) = way.pending.pop()
        {
            chain.note(passed(hop));
            let mut cx = Context::new(&mut self.core, layer, next, hop);
            let outcome = match hop.is_up() {
                true => protocol.input(chain, &mut cx),
                false => protocol.output(chain, &mut cx),
            };
            return match outcome.chain {
                Some(chain) => self.follow(outcome.hop, chain, rounds),
                None => rounds,
            };
        }
        std::mem::swap(&mut way.pending, &mut self.scratch);
        self.scratch.iter().for_each(|chain| chain.note(passed(hop)));
        let mut cx = Context::new(&mut self.core, layer, next, hop);
        match hop.is_up() {
            true => protocol.input_batch(&mut self.scratch, &mut cx),
            false => protocol.output_batch(&mut self.scratch, &mut cx),
        }
        let left = self.scratch.len() as u64;
        if left > 0 {
            self.core.nodes[layer as usize].drops.count(DropReason::UNHANDLED, left);
            self.scratch.clear();
        }
        // Each way keeps the memory that it has grown to, unless the layer sent to itself.
        let way = &mut self.core.ways[hop.way()];
        if way.pending.is_empty() {
            std::mem::swap(&mut way.pending, &mut self.scratch);
        }
        rounds
    }

    /// Whether there is anything for `run` to do.
    #[inline]
    pub(super) fn is_unsettled(&self) -> bool {
        !self.core.ready.is_empty() || self.core.waiting > 0 || self.core.closing
    }

    pub(super) fn run(&mut self) {
        self.run_for(self.rounds);
    }

    /// Runs what is pending, wakes who waits, passes on the ends of streams, until nothing is left
    /// or the rounds are used up.
    pub(super) fn run_for(&mut self, mut rounds: usize) {
        loop {
            while let Some(hop) = self.core.ready.pop_front() {
                if rounds == 0 {
                    self.core.ready.push_front(hop);
                    return;
                }
                rounds = self.deliver(hop, rounds - 1);
            }
            if self.core.closing {
                self.core.seal();
            }
            if rounds == 0 {
                return;
            }
            rounds -= 1;
            if !self.wake_one() && !self.ring_one() && !self.end_one() {
                return;
            }
        }
    }

    pub(super) fn has_sleeper(&self) -> bool {
        self.core.waiting > 0 && (0..self.core.nodes.len()).any(|node| self.core.to_be_woken(node))
    }

    /// `Signal::Writable` to a layer that waits for it and should wait no longer; whether there
    /// was one. The lowest first, since what it still has belongs before what is made above.
    pub(super) fn wake_one(&mut self) -> bool {
        if self.core.waiting == 0 {
            return false;
        }
        let mut layers = self.bottom_up.iter();
        let Some(&layer) = layers.find(|&&layer| self.core.to_be_woken(layer.into())) else {
            return false;
        };
        self.core.stop_waiting(layer.into());
        self.tell(layer, Signal::Writable, Hop::SETTLED);
        true
    }

    /// `Signal::Woken` to a layer whose waker was used; whether there was one.
    fn ring_one(&mut self) -> bool {
        let Some(layer) = self.core.bell.take() else { return false };
        self.tell(layer, Signal::Woken, Hop::SETTLED);
        true
    }

    /// The port whose end of stream can go on.
    pub(super) fn next_end(&self) -> Option<usize> {
        self.core.ports.iter().position(|port| {
            port.end.is_some_and(|heard| {
                let heard_and_next = port.above.iter().take(usize::from(heard) + 1);
                usize::from(heard) <= port.above.len()
                    && heard_and_next.clone().all(|&l| !self.core.nodes[l as usize].keeps_back)
            })
        })
    }

    pub(super) fn has_end(&self) -> bool {
        self.next_end().is_some()
    }

    /// The next layer hears of an end of stream, or, after the last, the port closes; whether
    /// there was one.
    pub(super) fn end_one(&mut self) -> bool {
        let Some(index) = self.next_end() else { return false };
        let port = &mut self.core.ports[index];
        let Some(heard) = port.end.as_mut() else { return false };
        let place = usize::from(*heard);
        *heard += 1;
        match port.above.get(place) {
            Some(&layer) => {
                let by = self.core.nodes[layer as usize].lower.iter().copied();
                let by = by.clone().find(|&link| self.leads_to(link, index)).map(Hop::up);
                self.tell(layer, Signal::EndOfStream, by.unwrap_or(Hop::SETTLED));
            }
            None => {
                let above = port.above.iter();
                if !above.into_iter().any(|&layer| self.core.nodes[layer as usize].half_open) {
                    self.core.close(index as u16);
                }
            }
        }
        true
    }

    pub(super) fn leads_to(&self, link: u16, port: usize) -> bool {
        self.core.links[link as usize].ports.contains(&(port as u16))
    }

    pub(super) fn tell(&mut self, layer: u16, signal: Signal, came: Hop) {
        let next = self.core.nodes[layer as usize].next;
        let mut cx = Context::new(&mut self.core, layer, next, came);
        self.protocols[layer as usize].signal(signal, &mut cx);
    }

    #[cold]
    pub(super) fn fire(&mut self) {
        let mark = self.core.timers.mark();
        while let Some(due) = self.core.timers.due(self.core.now, mark) {
            let next = self.core.nodes[due.owner as usize].next;
            let mut cx = Context::new(&mut self.core, due.owner as u16, next, Hop::SETTLED);
            self.protocols[due.owner as usize].timeout(due.timer, &mut cx);
            if self.is_unsettled() {
                self.run();
            }
        }
    }
}

/// Notes the port that the chain came in by. Looking first spares the metadata of a packet that
/// nobody else asks about.
#[inline]
pub(super) fn mark(chain: &mut Chain, port: PortId) {
    chain.note(Event::Input);
    if chain.meta().ingress() != port.0 {
        chain.meta_mut().set_ingress(port.0);
    }
}
