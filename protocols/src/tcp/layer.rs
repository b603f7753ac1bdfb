//! [`Tcp`] as a layer.

use super::{
    BAD_CHECKSUM, Chain, Connection, Context, DropReason, Edge, Held, LayerInfo, LayerStats,
    NO_ROUTE, Outcome, Protocol, Signal, TOO_BIG, Tcp, Timer,
};

impl Protocol for Tcp {
    fn name(&self) -> &str {
        "tcp"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).min_header(20).reasons(&[
            BAD_CHECKSUM,
            NO_ROUTE,
            TOO_BIG,
        ])
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let result = self.segment(&chain, cx);
        self.go_on(cx);
        match result {
            Ok(()) => cx.consumed(chain),
            Err(reason) => cx.drop(chain, reason),
        }
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }

    fn timeout(&mut self, _timer: Timer, cx: &mut Context<'_>) {
        self.alarm = None;
        let due = |one: &&mut Connection| one.stack.next_timeout().is_some_and(|at| at <= cx.now());
        self.connections.iter_mut().filter(due).for_each(|one| one.stack.advance(cx.now()));
        self.go_on(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Shutdown => self.shut_down(cx),
            Signal::Opened | Signal::EndOfStream | Signal::Mtu(_) => {}
            Signal::Drain => {
                self.connections.iter_mut().for_each(|one| one.stack.signal(Signal::Drain));
            }
            _ => self.go_on(cx),
        }
    }

    /// The storage only: what sessions hold is in their own books. O(connections).
    fn held(&self) -> Held {
        let footprint = |one: &Connection| {
            one.stack.held().footprint + one.pending.as_ref().map_or(0, Chain::footprint)
        };
        Held { chains: 0, footprint: self.connections.iter().map(footprint).sum() }
    }

    /// O(connections).
    fn inner_stats(&self) -> Vec<LayerStats> {
        let mut sum = self.gone.clone();
        self.connections.iter().for_each(|one| sum.merge(&one.stack.stats()));
        sum.layers.iter_mut().for_each(|layer| layer.name.insert_str(0, "tcp/"));
        sum.layers
    }
}
