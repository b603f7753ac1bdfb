//! The neighbours, and the packets that wait for them.

use std::{collections::VecDeque, net::Ipv6Addr};

use mbuf::{
    Chain,
    stack::{Context, DropReason, Held, Time},
};

/// What is known of a neighbour (RFC 4861, section 7.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It was asked for; the source is that of the packet it was asked for.
    Incomplete { due: Time, tries: u8, source: Ipv6Addr },
    /// It has answered; that is believed until then.
    Reachable(Time),
    /// It may have changed, and nobody wanted to know.
    Stale,
    /// It may have changed, and is used: it is asked at that time.
    Delay(Time),
    /// It is asked, alone.
    Probe { due: Time, tries: u8, source: Ipv6Addr },
}

/// Invariant: without a MAC it is incomplete; only then packets wait.
#[derive(Debug)]
pub(super) struct Entry {
    address: Ipv6Addr,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) state: State,
    pub(super) used: Time,
    waiting: VecDeque<(Chain, usize)>,
}

#[derive(Debug)]
pub(super) struct Cache {
    list: Vec<Entry>,
    entries: usize,
    packets: usize,
    footprint: usize,
    held: Held,
}

impl Cache {
    pub(super) fn new(entries: usize, packets: usize, footprint: usize) -> Self {
        Self { list: Vec::new(), entries, packets, footprint, held: Held::default() }
    }

    /// O(entries).
    pub(super) fn find(&mut self, address: Ipv6Addr) -> Option<&mut Entry> {
        self.list.iter_mut().find(|entry| entry.address == address)
    }

    /// Makes an entry, if there may be one more. Where there are too many, one that is stale goes
    /// for it, that which was used longest ago; for a neighbour that we want to reach, where none is
    /// stale, one that is known. So strangers, of whom at most half may be asked for at a time,
    /// cannot drive out the neighbours that are in use.
    pub(super) fn make(&mut self, address: Ipv6Addr, state: State, cx: &mut Context<'_>) -> bool {
        let is_asked = |state: State| matches!(state, State::Incomplete { .. });
        let asked = self.list.iter().filter(|entry| is_asked(entry.state)).count();
        if is_asked(state) && asked >= self.entries.div_ceil(2) {
            return false;
        }
        if self.list.len() >= self.entries {
            let stale = self.list.iter().filter(|entry| entry.state == State::Stale);
            let known = self.list.iter().filter(|entry| is_asked(state) && !is_asked(entry.state));
            let oldest = stale
                .min_by_key(|entry| entry.used)
                .or_else(|| known.min_by_key(|entry| entry.used));
            let Some(address) = oldest.map(|entry| entry.address) else { return false };
            self.remove(address, DropReason::LIMIT, cx);
        }
        let (mac, used) = (None, cx.now());
        self.list.push(Entry { address, mac, state, used, waiting: VecDeque::new() });
        true
    }

    pub(super) fn remove(&mut self, address: Ipv6Addr, reason: DropReason, cx: &mut Context<'_>) {
        if let Some(place) = self.list.iter().position(|entry| entry.address == address) {
            let mut entry = self.list.swap_remove(place);
            while let Some((chain, footprint)) = entry.waiting.pop_front() {
                self.release(footprint);
                let outcome = cx.drop(chain, reason);
                cx.apply(outcome);
            }
        }
    }

    pub(super) fn clear(&mut self, reason: DropReason, cx: &mut Context<'_>) {
        while let Some(address) = self.list.last().map(|entry| entry.address) {
            self.remove(address, reason, cx);
        }
    }

    /// Memory is low: the packets go, what is known stays.
    pub(super) fn let_go(&mut self, cx: &mut Context<'_>) {
        for entry in &mut self.list {
            while let Some((chain, _)) = entry.waiting.pop_front() {
                let outcome = cx.drop(chain, DropReason::LIMIT);
                cx.apply(outcome);
            }
        }
        self.held = Held::default();
    }

    /// Holds a packet for a neighbour; the oldest one for him goes where there are too many.
    pub(super) fn wait(&mut self, address: Ipv6Addr, mut chain: Chain, cx: &mut Context<'_>) {
        if chain.compact_to_hold().is_err() {
            let outcome = cx.drop(chain, DropReason::NO_BUFFERS);
            return cx.apply(outcome);
        }
        let footprint = chain.footprint();
        let (packets, limit) = (self.packets, self.footprint);
        let mut held = self.held;
        let Some(entry) = self.find(address) else {
            let outcome = cx.drop(chain, DropReason::LIMIT);
            return cx.apply(outcome);
        };
        while entry.waiting.len() >= packets || held.footprint.saturating_add(footprint) > limit {
            let Some((oldest, freed)) = entry.waiting.pop_front() else { break };
            held.chains = held.chains.saturating_sub(1);
            held.footprint = held.footprint.saturating_sub(freed);
            let outcome = cx.drop(oldest, DropReason::LIMIT);
            cx.apply(outcome);
        }
        if entry.waiting.len() < packets && held.footprint.saturating_add(footprint) <= limit {
            entry.waiting.push_back((chain, footprint));
            held += Held { chains: 1, footprint };
        } else {
            let outcome = cx.drop(chain, DropReason::LIMIT);
            cx.apply(outcome);
        }
        self.held = held;
    }

    /// The next packet that waits for a neighbour whose MAC is known.
    pub(super) fn waiting(&mut self, address: Ipv6Addr) -> Option<(Chain, [u8; 6])> {
        let entry = self.find(address)?;
        let mac = entry.mac?;
        let (chain, footprint) = entry.waiting.pop_front()?;
        self.release(footprint);
        Some((chain, mac))
    }

    fn release(&mut self, footprint: usize) {
        self.held.chains = self.held.chains.saturating_sub(1);
        self.held.footprint = self.held.footprint.saturating_sub(footprint);
    }

    pub(super) fn held(&self) -> Held {
        self.held
    }

    /// When something is to be done next. O(entries).
    pub(super) fn next_due(&self) -> Option<Time> {
        self.list.iter().filter_map(Entry::due).min()
    }

    /// A neighbour for which something is to be done.
    pub(super) fn due(&self, now: Time) -> Option<Ipv6Addr> {
        let due = |entry: &&Entry| entry.due().is_some_and(|due| due <= now);
        self.list.iter().find(due).map(|entry| entry.address)
    }
}

impl Entry {
    fn due(&self) -> Option<Time> {
        match self.state {
            State::Incomplete { due, .. } | State::Probe { due, .. } | State::Delay(due) => {
                Some(due)
            }
            State::Reachable(_) | State::Stale => None,
        }
    }
}
