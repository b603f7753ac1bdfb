//! [`Sessions`] as a layer: who is given what when.

use std::sync::atomic::Ordering::Relaxed;

use super::{PORT, Peer, SHARE, Sessions};
use crate::{
    chain::Chain,
    queue::Batch,
    stack::{
        Context, DropReason, Edge, Held, LayerInfo, LayerStats, Outcome, Protocol, Signal,
        StackStats, Timer, stats::merge_layers,
    },
};

impl Protocol for Sessions {
    fn name(&self) -> &str {
        "sessions"
    }

    fn info(&self) -> LayerInfo {
        // Half open: it closes when the last session has ended, which may take some time.
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(self.prepends)
            .stateless()
            .half_open()
            .batched()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let meta = chain.meta();
        let peer = Peer { port: meta.ingress(), address: meta.source() };
        let local = meta.destination();
        let Some(index) = self.session_of(peer, cx) else {
            return cx.drop(chain, DropReason::REFUSED);
        };
        if let Some(session) = self.slots[index as usize].as_mut() {
            session.local = local;
        }
        self.train.push(chain);
        self.hand_in(index, cx);
        self.finish(cx);
        cx.held()
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }

    /// Packets that follow each other from one peer go into its session together.
    fn input_batch(&mut self, batch: &mut Batch, cx: &mut Context<'_>) {
        let mut current: Option<(Peer, u32)> = None;
        while let Some(chain) = batch.pop() {
            let meta = chain.meta();
            let peer = Peer { port: meta.ingress(), address: meta.source() };
            if let Some((last, index)) = current
                && last != peer
            {
                self.hand_in(index, cx);
                current = None;
            }
            if current.is_none() {
                let local = meta.destination();
                let Some(index) = self.session_of(peer, cx) else {
                    let outcome = cx.drop(chain, DropReason::REFUSED);
                    cx.apply(outcome);
                    continue;
                };
                if let Some(session) = self.slots[index as usize].as_mut() {
                    session.local = local;
                }
                current = Some((peer, index));
            }
            self.train.push(chain);
        }
        if let Some((_, index)) = current {
            self.hand_in(index, cx);
        }
        self.finish(cx);
    }

    fn timeout(&mut self, _timer: Timer, cx: &mut Context<'_>) {
        self.alarm = None;
        let mark = self.timers.mark();
        while let Some(due) = self.timers.due(cx.now(), mark) {
            if let Some(session) = self.slots[due.owner as usize].as_mut() {
                session.timer = None;
                session.stack.advance(cx.now());
                self.settle(due.owner, cx);
            }
        }
        while let Some(oldest) = self.idle.oldest()
            && let Some(session) = self.slots[oldest as usize].as_ref()
            && session.seen + self.idle_after <= cx.now()
        {
            self.counts.idle.fetch_add(1, Relaxed);
            self.retire(oldest, DropReason::IDLE, cx);
        }
        self.finish(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Opened => {}
            Signal::Writable => {
                for _ in 0..self.unfinished.len().min(SHARE) {
                    let Some(index) = self.unfinished.oldest() else { break };
                    self.unfinished.remove(index);
                    self.go_on(index, cx);
                }
            }
            Signal::EndOfStream => {
                self.ending = true;
                self.for_all(cx, |stack| stack.end_of_stream(PORT));
            }
            Signal::Shutdown => {
                self.ending = true;
                self.for_all(cx, |stack| stack.signal(Signal::Shutdown));
            }
            Signal::Woken => {
                while let Some(index) = self.next_woken() {
                    self.go_on(index, cx);
                }
            }
            _ => self.for_all(cx, |stack| stack.signal(signal)),
        }
        self.finish(cx);
    }

    /// The storage only: chains in sessions are in the sessions' own books. O(1).
    fn held(&self) -> Held {
        Held { chains: 0, footprint: self.footprint }
    }

    /// O(sessions).
    fn inner_stats(&self) -> Vec<LayerStats> {
        let mut sum = self.gone.clone();
        for session in self.slots.iter().flatten() {
            let stats = session.stack.stats();
            merge_layers(&mut sum.layers, &stats.layers);
            sum.merge(&StackStats { layers: Vec::new(), ports: stats.ports });
        }
        let mut layers = sum.layers;
        // What was dropped at the sessions' ports has no layer to be counted in.
        for port in sum.ports.into_iter().filter(|port| !port.drops.is_empty()) {
            let received = port.drops.iter().map(|(_, n)| n).sum();
            let drops = port.drops;
            layers.push(LayerStats {
                name: "(ports)".into(),
                received,
                drops,
                ..LayerStats::default()
            });
        }
        layers.iter_mut().for_each(|layer| layer.name.insert_str(0, "sessions/"));
        layers
    }
}
