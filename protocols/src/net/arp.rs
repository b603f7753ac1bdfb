//! ARP (RFC 826, RFC 1122 section 2.3.2, RFC 5227) between Ethernet and IPv4.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |       hardware type: 1        |      protocol type: 0x0800    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  length: 6    |  length: 4    |  operation: 1 asks, 2 answers |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  sender's MAC (6), sender's IP (4), target's MAC (6), target's IP (4)
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! It is bound to Ethernet twice, first by 0x0806 (its own packets, lower edge 0), then by 0x0800
//! (lower edge 1), and IPv4 stands on it. What comes by edge 1 it passes up unchanged; from above it
//! takes the next hop, looks up or asks for its MAC, and passes down by edge 1. Until the answer
//! comes the packet waits. It asks three times, a second apart, then drops what waits
//! ([`UNRESOLVED`]).
//!
//! **What a hostile neighbour gets.** Nobody comes into the table who was not asked for: only an entry
//! that is being asked for, or has aged, is set, by a packet that is addressed to us
//! ([`UNSOLICITED`] otherwise); until it ages, another MAC than its own changes nothing. Entries age. The table, the packets that wait for a neighbour and the
//! storage of all that wait are bounded ([`Limits`]); in a full table the entry that was heard of
//! longest ago goes, and at most half of it is being asked for.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mbuf::{
    Address, Chain,
    stack::{Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Time, Timer},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use super::{
    ethernet::{BROADCAST, NO_ADDRESS},
    ethertype,
};

/// Nobody answered for the address.
pub const UNRESOLVED: DropReason = DropReason("unresolved");
/// An answer that was not asked for, or not by us.
pub const UNSOLICITED: DropReason = DropReason("unsolicited");
/// A question for somebody else's address.
pub const OTHER_TARGET: DropReason = DropReason("other_target");
/// Somebody else uses our address (RFC 5227, section 2.4).
pub const CONFLICT: DropReason = DropReason("address_conflict");
/// More waits for the neighbour, or for all, than may.
pub const PENDING_FULL: DropReason = DropReason("pending_full");

const LEN: usize = size_of::<Packet>();
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// How often is asked, and how far apart.
const TRIES: u8 = 3;
const RETRY: Duration = Duration::from_secs(1);

/// The packet as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Packet {
    /// 1: Ethernet.
    pub hardware: U16,
    /// 0x0800: IPv4.
    pub protocol: U16,
    /// 6.
    pub hardware_len: u8,
    /// 4.
    pub protocol_len: u8,
    /// 1 asks, 2 answers.
    pub operation: U16,
    /// Who sends it.
    pub sender_mac: [u8; 6],
    /// Who sends it; 0.0.0.0 in a probe.
    pub sender_ip: [u8; 4],
    /// For whom it is; not known to who asks.
    pub target_mac: [u8; 6],
    /// For whom it is.
    pub target_ip: [u8; 4],
}

/// What an [`Arp`] may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Neighbours: 256 unless told.
    pub entries: usize,
    /// How long one is believed after it was heard of: a minute unless told.
    pub age: Duration,
    /// Packets that wait for one neighbour: 64 unless told, so that a datagram of 64 KB in fragments
    /// does. The oldest goes.
    pub pending: usize,
    /// Storage of all that waits, in bytes of footprint: 256 KiB unless told.
    pub footprint: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 256, age: Duration::from_secs(60), pending: 64, footprint: 256 << 10 }
    }
}

#[derive(Debug)]
enum Neighbour {
    /// `until` is `None` for one that was configured.
    Known {
        mac: [u8; 6],
        until: Option<Time>,
    },
    Asked {
        tries: u8,
        next: Time,
        pending: VecDeque<Chain>,
    },
}

/// The neighbours of an IPv4 address on Ethernet. O(log neighbours) a packet on the way down; on
/// the way up IPv4's packets cost nothing.
#[derive(Debug)]
pub struct Arp {
    mac: [u8; 6],
    address: Ipv4Addr,
    broadcast: Ipv4Addr,
    limits: Limits,
    announce: bool,
    neighbours: BTreeMap<Ipv4Addr, Neighbour>,
    asked: usize,
    held: Held,
    timer: Option<Timer>,
    closed: bool,
}

impl Arp {
    /// For the station with this MAC and this address in a network of this prefix length.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::net::Arp;
    ///
    /// let arp = Arp::new([2, 0, 0, 0, 0, 1], [192, 0, 2, 1].into(), 24);
    /// assert_eq!(arp.held().chains, 0);
    /// ```
    pub fn new(mac: [u8; 6], address: Ipv4Addr, prefix: u8) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        let broadcast = match mask {
            0xffff_fffe.. => Ipv4Addr::BROADCAST,
            _ => Ipv4Addr::from_bits(address.to_bits() | !mask),
        };
        Self {
            mac,
            address,
            broadcast,
            limits: Limits::default(),
            announce: false,
            neighbours: BTreeMap::new(),
            asked: 0,
            held: Held::default(),
            timer: None,
            closed: false,
        }
    }

    /// How much it may keep.
    ///
    /// ```
    /// use mbuf_protocols::net::{Arp, arp::Limits};
    ///
    /// let few = Limits { entries: 4, ..Limits::default() };
    /// let arp = Arp::new([2, 0, 0, 0, 0, 1], [192, 0, 2, 1].into(), 24).limits(few);
    /// assert!(format!("{arp:?}").contains("entries: 4"));
    /// ```
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Says whose the address is when the stack is opened (RFC 5227, section 2.3): once, and not
    /// again where no buffer is left for it.
    ///
    /// ```
    /// # use mbuf_protocols::net::Arp;
    /// let arp = Arp::new([2, 0, 0, 0, 0, 1], [192, 0, 2, 1].into(), 24).announce(true);
    /// assert!(format!("{arp:?}").contains("announce: true"));
    /// ```
    pub fn announce(mut self, yes: bool) -> Self {
        self.announce = yes;
        self
    }

    /// A neighbour that is known for good: never asked for, never changed.
    ///
    /// ```
    /// # use mbuf_protocols::net::Arp;
    /// let arp = Arp::new([2, 0, 0, 0, 0, 1], [192, 0, 2, 1].into(), 24)
    ///     .neighbour([192, 0, 2, 2].into(), [2, 0, 0, 0, 0, 2]);
    /// assert!(format!("{arp:?}").contains("192.0.2.2"));
    /// ```
    pub fn neighbour(mut self, address: Ipv4Addr, mac: [u8; 6]) -> Self {
        self.neighbours.insert(address, Neighbour::Known { mac, until: None });
        self
    }

    /// An ARP packet.
    fn heard(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if chain.len() < LEN {
            return cx.drop(chain, DropReason::SHORT);
        }
        let Ok(&packet) = chain.header::<Packet>() else {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        };
        let kind = (
            packet.hardware.get(),
            u64::from(packet.protocol.get()),
            packet.hardware_len,
            packet.protocol_len,
        );
        let operation = packet.operation.get();
        let sender = Ipv4Addr::from_octets(packet.sender_ip);
        let to_us = packet.target_ip == self.address.octets();
        if kind != (1, ethertype::IPV4, 6, 4)
            || !matches!(operation, REQUEST | REPLY)
            || packet.sender_mac[0] & 1 != 0
            || packet.sender_mac == [0; 6]
            || packet.sender_ip[0] >= 224
        {
            return cx.drop(chain, DropReason::MALFORMED);
        }
        if sender == self.address {
            let reason = if packet.sender_mac == self.mac { UNSOLICITED } else { CONFLICT };
            return cx.drop(chain, reason);
        }
        match operation {
            REQUEST if !to_us => cx.drop(chain, OTHER_TARGET),
            REQUEST => {
                self.learn(sender, packet.sender_mac, cx);
                self.answer(chain, &packet, cx)
            }
            _ if to_us
                && packet.target_mac == self.mac
                && self.learn(sender, packet.sender_mac, cx) =>
            {
                cx.consumed(chain)
            }
            _ => cx.drop(chain, UNSOLICITED),
        }
    }

    /// The question becomes the answer (RFC 826); also that of a probe (RFC 5227, 2.1.1).
    fn answer(&mut self, mut chain: Chain, asked: &Packet, cx: &mut Context<'_>) -> Outcome {
        let answer = self.packet(REPLY, asked.sender_mac, Ipv4Addr::from_octets(asked.sender_ip));
        if chain.truncate(LEN).is_err() || chain.copy_back(0, answer.as_bytes()).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        chain.meta_mut().set_source(Address::None);
        chain.meta_mut().set_destination(Address::Mac(asked.sender_mac));
        cx.down_edge(0, chain)
    }

    /// Believes the sender, if it is being asked for, or known by this MAC or no longer; answers
    /// whether it is believed. What waited for it goes out.
    fn learn(&mut self, sender: Ipv4Addr, mac: [u8; 6], cx: &mut Context<'_>) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(&sender) else { return false };
        match neighbour {
            Neighbour::Known { until: None, .. } => return true,
            Neighbour::Known { mac: held, until: Some(until) }
                if *held != mac && *until > cx.now() =>
            {
                return false;
            }
            _ => {}
        }
        let known = Neighbour::Known { mac, until: Some(cx.now() + self.limits.age) };
        if let Neighbour::Asked { pending, .. } = std::mem::replace(neighbour, known) {
            self.asked -= 1;
            for mut chain in pending {
                self.release(&chain);
                chain.meta_mut().set_destination(Address::Mac(mac));
                let outcome = down(chain, cx);
                cx.apply(outcome);
            }
            self.arm(cx);
        }
        true
    }

    /// A packet for a neighbour whose MAC is not known: it waits.
    #[cold]
    fn wait(&mut self, mut chain: Chain, next_hop: Ipv4Addr, cx: &mut Context<'_>) -> Outcome {
        if self.closed {
            return cx.drop(chain, DropReason::CLOSED);
        }
        if chain.compact_to_hold().is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        // Nobody is forgotten for a packet that there is no room for.
        if self.limits.pending == 0 || chain.footprint() > self.limits.footprint {
            return cx.drop(chain, PENDING_FULL);
        }
        let asked = matches!(self.neighbours.get(&next_hop), Some(Neighbour::Asked { .. }));
        let room = self.held.footprint.saturating_add(chain.footprint()) <= self.limits.footprint;
        if !asked && !room {
            return cx.drop(chain, PENDING_FULL);
        }
        if !asked && !self.make_room(next_hop) {
            return cx.drop(chain, DropReason::LIMIT);
        }
        // RFC 1122, 2.3.2.2: the latest packet is the one to keep.
        while let Some(old) = self.surplus(next_hop, chain.footprint()) {
            self.release(&old);
            let outcome = cx.drop(old, PENDING_FULL);
            cx.apply(outcome);
        }
        if self.held.footprint.saturating_add(chain.footprint()) > self.limits.footprint {
            return cx.drop(chain, PENDING_FULL);
        }
        self.held += Held::of(&chain);
        match self.neighbours.get_mut(&next_hop) {
            Some(Neighbour::Asked { pending, .. }) => pending.push_back(chain),
            _ => {
                let entry = Neighbour::Asked {
                    tries: 1,
                    next: cx.now() + RETRY,
                    pending: VecDeque::from([chain]),
                };
                self.neighbours.insert(next_hop, entry);
                self.asked += 1;
                self.ask(next_hop, cx);
                self.arm(cx);
            }
        }
        cx.held()
    }

    /// The oldest packet that waits there, if there are too many for another of this footprint.
    fn surplus(&mut self, next_hop: Ipv4Addr, footprint: usize) -> Option<Chain> {
        let Some(Neighbour::Asked { pending, .. }) = self.neighbours.get_mut(&next_hop) else {
            return None;
        };
        let too_much = self.held.footprint.saturating_add(footprint) > self.limits.footprint;
        if pending.len() >= self.limits.pending || too_much { pending.pop_front() } else { None }
    }

    /// Room for another entry, at the cost of the one that was heard of longest ago.
    fn make_room(&mut self, next_hop: Ipv4Addr) -> bool {
        if self.asked >= self.limits.entries.div_ceil(2) {
            return false;
        }
        if self.neighbours.contains_key(&next_hop) || self.neighbours.len() < self.limits.entries {
            return true;
        }
        let oldest = self.neighbours.iter().filter_map(|(address, neighbour)| match neighbour {
            Neighbour::Known { until: Some(until), .. } => Some((*until, *address)),
            _ => None,
        });
        match oldest.min() {
            None => false,
            Some((_, address)) => self.neighbours.remove(&address).is_some(),
        }
    }

    /// Asks all stations. Where no buffer is left, the next try does it.
    fn ask(&mut self, address: Ipv4Addr, cx: &mut Context<'_>) {
        let packet = self.packet(REQUEST, [0; 6], address);
        let Ok(mut chain) = cx.pool().chain_from(packet.as_bytes()) else { return };
        chain.meta_mut().set_destination(Address::Mac(BROADCAST));
        cx.made(1);
        let outcome = cx.down_edge(0, chain);
        cx.apply(outcome);
    }

    fn packet(&self, operation: u16, target_mac: [u8; 6], target: Ipv4Addr) -> Packet {
        Packet {
            hardware: 1.into(),
            protocol: (ethertype::IPV4 as u16).into(),
            hardware_len: 6,
            protocol_len: 4,
            operation: operation.into(),
            sender_mac: self.mac,
            sender_ip: self.address.octets(),
            target_mac,
            target_ip: target.octets(),
        }
    }

    fn release(&mut self, chain: &Chain) {
        self.held.chains = self.held.chains.saturating_sub(1);
        self.held.footprint = self.held.footprint.saturating_sub(chain.footprint());
    }

    /// One timer runs for the next question.
    fn arm(&mut self, cx: &mut Context<'_>) {
        if let Some(timer) = self.timer.take() {
            cx.cancel(timer);
        }
        let next = self.neighbours.values().filter_map(|neighbour| match neighbour {
            Neighbour::Asked { next, .. } => Some(*next),
            Neighbour::Known { .. } => None,
        });
        if let Some(next) = next.min() {
            self.timer = cx.arm(next.since(cx.now()));
        }
    }

    /// Gives up those neighbours for whom `which` holds, and what waits for them.
    fn give_up(
        &mut self,
        which: impl Fn(u8, Time) -> bool,
        reason: DropReason,
        cx: &mut Context<'_>,
    ) {
        let gone = self.neighbours.extract_if(.., |_, neighbour| match neighbour {
            Neighbour::Asked { tries, next, .. } => which(*tries, *next),
            Neighbour::Known { .. } => false,
        });
        let gone: Vec<Neighbour> = gone.map(|(_, neighbour)| neighbour).collect();
        for neighbour in gone {
            self.asked -= 1;
            let Neighbour::Asked { pending, .. } = neighbour else { continue };
            for chain in pending {
                self.release(&chain);
                let outcome = cx.drop(chain, reason);
                cx.apply(outcome);
            }
        }
    }
}

impl Protocol for Arp {
    fn name(&self) -> &str {
        "arp"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).reasons(&[
            UNRESOLVED,
            UNSOLICITED,
            OTHER_TARGET,
            CONFLICT,
            PENDING_FULL,
            NO_ADDRESS,
        ])
    }

    #[inline]
    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match cx.edge() {
            0 => self.heard(chain, cx),
            _ => cx.up(chain),
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let next_hop = match chain.meta().destination() {
            Address::Mac(_) => return down(chain, cx),
            Address::Ip(SocketAddr::V4(next_hop)) => *next_hop.ip(),
            _ => return cx.drop(chain, NO_ADDRESS),
        };
        let mac = match self.neighbours.get(&next_hop) {
            Some(Neighbour::Known { mac, until: None }) => *mac,
            Some(Neighbour::Known { mac, until: Some(until) }) if *until > cx.now() => *mac,
            _ if next_hop.is_broadcast() || next_hop == self.broadcast => BROADCAST,
            _ if next_hop.is_multicast() => multicast(next_hop),
            _ if next_hop == self.address => return cx.drop(chain, NO_ADDRESS),
            _ => return self.wait(chain, next_hop, cx),
        };
        chain.meta_mut().set_destination(Address::Mac(mac));
        down(chain, cx)
    }

    fn timeout(&mut self, _: Timer, cx: &mut Context<'_>) {
        self.timer = None;
        let now = cx.now();
        self.give_up(|tries, next| tries >= TRIES && next <= now, UNRESOLVED, cx);
        let mut due = Vec::new();
        for (address, neighbour) in &mut self.neighbours {
            match neighbour {
                Neighbour::Asked { tries, next, .. } if *next <= now => {
                    *tries += 1;
                    *next = now + RETRY;
                    due.push(*address);
                }
                _ => {}
            }
        }
        for address in due {
            // A question that finds no room on the way out is asked the next time.
            if cx.credit() >= 64 {
                self.ask(address, cx);
            }
        }
        self.arm(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Opened if self.announce => self.ask(self.address, cx),
            Signal::Drain => self.give_up(|_, _| true, DropReason::LIMIT, cx),
            Signal::Shutdown => {
                self.closed = true;
                self.give_up(|_, _| true, DropReason::CLOSED, cx);
            }
            _ => return,
        }
        self.arm(cx);
    }

    fn held(&self) -> Held {
        self.held
    }
}

/// IPv4's edge, where there is one.
fn down(chain: Chain, cx: &mut Context<'_>) -> Outcome {
    cx.down_edge(1, chain)
}

/// RFC 1112, section 6.4.
fn multicast(group: Ipv4Addr) -> [u8; 6] {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
}

#[cfg(test)]
mod tests;
