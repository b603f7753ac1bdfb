//! One session.

use super::Peer;
use crate::{
    chain::Chain,
    meta::Address,
    stack::{Context, PortId, Stack, Time, Timer},
};

/// The only port of a session's stack.
pub(super) const PORT: PortId = PortId(0);

/// One peer's stack, and what is known of it.
pub(super) struct Session {
    pub(super) stack: Stack,
    pub(super) peer: Peer,
    /// The local address that the peer spoke to last.
    pub(super) local: Address,
    /// The lower edge that it came by.
    pub(super) edge: usize,
    pub(super) seen: Time,
    pub(super) timer: Option<(Timer, Time)>,
    pub(super) footprint: usize,
}

impl Session {
    /// Sends what the session wants to send, as far as there is credit; whether that was all.
    pub(super) fn drain(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            if self.stack.poll_output(PORT).is_empty() {
                return true;
            }
            let mut credit = cx.credit_edge(self.edge);
            while credit > 0
                && let Some(chain) = self.stack.poll_output(PORT).pop()
            {
                credit = credit.saturating_sub(chain.len().max(1));
                self.send(chain, cx);
            }
            if !self.stack.poll_output(PORT).is_empty() {
                return false;
            }
            self.stack.flushed(PORT);
        }
    }

    fn send(&self, mut chain: Chain, cx: &mut Context<'_>) {
        let meta = chain.meta();
        let (to, from) = (meta.destination(), meta.source());
        let other_port = meta.ingress() != self.peer.port;
        if to == Address::None || from == Address::None || other_port {
            let meta = chain.meta_mut();
            if to == Address::None {
                meta.set_destination(self.peer.address);
            }
            if from == Address::None {
                meta.set_source(self.local);
            }
            meta.set_ingress(self.peer.port);
        }
        cx.made(1);
        let outcome = cx.down_edge(self.edge, chain);
        cx.apply(outcome);
    }
}
