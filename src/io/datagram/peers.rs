//! The peers of a Unix datagram socket: names in a bounded table.

use std::collections::HashMap;

use crate::{io::sys::Name, meta::Address};

/// Names by index. An index that was given to another peer since is told by its generation.
///
/// When the table is full, a peer that was not heard of lately gives way (second chance: the hand
/// goes round and takes the first entry that was not used since it last passed).
#[derive(Debug)]
pub(super) struct Peers {
    entries: Vec<Entry>,
    /// Invariant: for each entry its name leads to its index, and there are no others.
    index: HashMap<Name, u32>,
    hand: usize,
    max: usize,
    /// Entries that are marked as full.
    full: usize,
}

#[derive(Debug)]
struct Entry {
    name: Name,
    generation: u32,
    used: bool,
    /// It did not read for so long that a datagram was given up, and has taken none since.
    full: bool,
}

impl Peers {
    /// No peers, and room for `max` (at least one). Memory is allocated as peers come.
    pub(super) fn new(max: usize) -> Self {
        let max = max.clamp(1, u32::MAX as usize);
        Self { entries: Vec::new(), index: HashMap::new(), hand: 0, max, full: 0 }
    }

    /// The address that stands for a name; a peer that has none is [`Address::None`].
    pub(super) fn address(&mut self, name: &Name) -> Address {
        if !name.is_named_unix() {
            return Address::None;
        }
        if let Some(&index) = self.index.get(name) {
            let entry = &mut self.entries[index as usize];
            entry.used = true;
            return Address::Peer { index, generation: entry.generation };
        }
        let entry = Entry { name: *name, generation: 0, used: true, full: false };
        let index = if self.entries.len() < self.max {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let index = self.victim();
            let old = &mut self.entries[index];
            self.index.remove(&old.name);
            self.full -= usize::from(old.full);
            *old = Entry { generation: old.generation.wrapping_add(1), ..entry };
            index
        };
        let index = index as u32;
        self.index.insert(*name, index);
        Address::Peer { index, generation: self.entries[index as usize].generation }
    }

    /// The name of a peer, unless its entry was given to another.
    pub(super) fn name(&mut self, index: u32, generation: u32) -> Option<&Name> {
        let entry = self.entries.get_mut(index as usize)?;
        if entry.generation != generation {
            return None;
        }
        entry.used = true;
        Some(&entry.name)
    }

    /// Whether a peer is marked as full.
    pub(super) fn is_full(&self, name: &Name) -> bool {
        self.full > 0
            && self.index.get(name).is_some_and(|&index| self.entries[index as usize].full)
    }

    /// Marks a peer as full, or as no longer full. Costs nothing as long as none is marked.
    pub(super) fn set_full(&mut self, name: &Name, full: bool) {
        if !full && self.full == 0 {
            return;
        }
        if let Some(&index) = self.index.get(name) {
            let entry = &mut self.entries[index as usize];
            self.full = self.full + usize::from(full) - usize::from(entry.full);
            entry.full = full;
        }
    }

    fn victim(&mut self) -> usize {
        loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            if !std::mem::take(&mut self.entries[at].used) {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_keeps_its_address_until_the_table_is_full() {
        let mut peers = Peers::new(2);
        let [a, b, c] = ["/a", "/b", "/c"].map(Name::unix_for_tests);
        let address = peers.address(&a);
        assert_eq!(address, Address::Peer { index: 0, generation: 0 });
        assert_eq!(peers.address(&b), Address::Peer { index: 1, generation: 0 });
        assert_eq!(peers.address(&a), address);
        // Full: the hand clears both marks and comes back to the first.
        assert_eq!(peers.address(&c), Address::Peer { index: 0, generation: 1 });
        assert_eq!(peers.name(0, 0), None, "the old generation is gone");
        assert_eq!(peers.name(0, 1), Some(&c));
        assert_eq!(peers.name(1, 0), Some(&b));
        assert_eq!(peers.name(2, 0), None);
        // b and c were both used; the hand stands at b.
        assert_eq!(peers.address(&a), Address::Peer { index: 1, generation: 1 });
        assert_eq!((peers.entries.len(), peers.index.len()), (2, 2));
    }

    #[test]
    fn marks_are_counted_and_go_with_their_peer() {
        let mut peers = Peers::new(1);
        let [a, b] = ["/a", "/b"].map(Name::unix_for_tests);
        peers.address(&a);
        peers.set_full(&a, true);
        peers.set_full(&a, true);
        peers.set_full(&b, true);
        assert_eq!((peers.is_full(&a), peers.is_full(&b), peers.full), (true, false, 1));
        peers.address(&b);
        assert_eq!((peers.is_full(&a), peers.is_full(&b), peers.full), (false, false, 0));
        peers.set_full(&b, true);
        peers.set_full(&b, false);
        peers.set_full(&b, false);
        assert_eq!((peers.is_full(&b), peers.full), (false, 0));
    }

    #[test]
    fn a_nameless_peer_has_no_address() {
        let mut peers = Peers::new(2);
        assert_eq!(peers.address(&Name::NONE), Address::None);
        assert_eq!(peers.address(&Name::ip(&"127.0.0.1:7".parse().unwrap())), Address::None);
        assert!(peers.entries.is_empty());
    }
}
