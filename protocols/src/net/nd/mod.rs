//! Neighbour discovery (RFC 4861) as a host speaks it: between Ethernet and IPv6.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     type      |   code = 0    |           checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|S|O|                      reserved                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     target, 16 bytes (solicitation 135, advertisement 136)   ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | option type   | length in 8s  |  a MAC address (types 1, 2)  ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! `builder.bind(ethernet, ethertype::IPV6, nd)`, `builder.stack(nd, ipv6)`. It takes the messages
//! out of what comes from below where they follow the fixed header directly (RFC 6980: they are
//! never in fragments), and passes everything else up. From above it puts the MAC of the next hop
//! into the metadata, or holds the packet until that is known.
//!
//! **No poisoning**: an advertisement makes no entry; a solicitation does only where it asks for an
//! address of ours. A redirect is dropped ([`REDIRECT`]), and a router's advertisement is heard only
//! where [`accept_router`](Nd::accept_router) says so. Duplicate address detection is left out.
//!
//! What is held is bounded: entries (the one that was used longest ago goes), packets that wait for
//! a neighbour, and their storage.

mod cache;
mod message;
#[cfg(test)]
mod tests;

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use mbuf::{
    Address, Chain,
    stack::{Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Time, Timer},
};

use super::{ipv4::BAD_CHECKSUM, ipv6::TRUNCATED};
use cache::{Cache, State};
use message::{Message, Received};

/// The hop limit is not 255: it came through a router.
pub const BAD_HOP_LIMIT: DropReason = DropReason("bad_hop_limit");
/// An option of length 0, or one that reaches beyond the message (RFC 4861, 4.6).
pub const BAD_OPTION: DropReason = DropReason("bad_option");
/// An advertisement that nobody had asked for.
pub const UNSOLICITED: DropReason = DropReason("unsolicited");
/// A solicitation for somebody else.
pub const OTHER_TARGET: DropReason = DropReason("other_target");
/// A redirect: not acted upon.
pub const REDIRECT: DropReason = DropReason("redirect");
/// A router's message, which is not asked for.
pub const ROUTER: DropReason = DropReason("router");
/// The neighbour does not answer.
pub const NO_NEIGHBOUR: DropReason = DropReason("no_neighbour");

const REASONS: [DropReason; 9] = [
    BAD_HOP_LIMIT,
    BAD_OPTION,
    UNSOLICITED,
    OTHER_TARGET,
    REDIRECT,
    ROUTER,
    NO_NEIGHBOUR,
    BAD_CHECKSUM,
    TRUNCATED,
];

/// Between two solicitations (RFC 4861, section 10).
const RETRANS: Duration = Duration::from_secs(1);
/// How often it is asked.
const TRIES: u8 = 3;
/// How long an entry in use may be stale before it is probed.
const DELAY: Duration = Duration::from_secs(5);
/// How long an answer is believed.
const REACHABLE: Duration = Duration::from_secs(30);

/// Neighbour discovery for a host with one MAC address.
#[derive(Debug)]
pub struct Nd {
    mac: [u8; 6],
    addresses: Vec<Ipv6Addr>,
    accept_router: bool,
    /// The router that was heard, and until when.
    router: Option<(Ipv6Addr, Time)>,
    cache: Cache,
    timer: Option<(Time, Timer)>,
    closed: bool,
}

impl Nd {
    /// For a host with this MAC address, and no IPv6 address yet.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::net::Nd;
    ///
    /// assert_eq!(Nd::new([2, 0, 0, 0, 0, 1]).name(), "nd");
    /// ```
    pub fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            addresses: Vec::new(),
            accept_router: false,
            router: None,
            cache: Cache::new(256, 16, 256 << 10),
            timer: None,
            closed: false,
        }
    }

    /// One more address that it answers for.
    ///
    /// ```
    /// # use mbuf_protocols::net::Nd;
    /// let nd = Nd::new([2, 0, 0, 0, 0, 1]).address("2001:db8::1".parse()?);
    /// assert!(format!("{nd:?}").contains("2001:db8::1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn address(mut self, address: Ipv6Addr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Whether a router's advertisement makes it the one that the gateway `::` of
    /// [`Ipv6::gateway`](super::Ipv6::gateway) stands for. Not unless told: whoever is on the link
    /// can send one.
    ///
    /// ```
    /// # use mbuf_protocols::net::Nd;
    /// let nd = Nd::new([2, 0, 0, 0, 0, 1]).accept_router(true);
    /// assert!(format!("{nd:?}").contains("accept_router: true"));
    /// ```
    pub fn accept_router(mut self, yes: bool) -> Self {
        self.accept_router = yes;
        self
    }

    /// At most so many neighbours (256), packets waiting for each (16), and bytes of storage that
    /// all of those pin (256 KiB).
    ///
    /// ```
    /// # use mbuf_protocols::net::Nd;
    /// let nd = Nd::new([2, 0, 0, 0, 0, 1]).limits(8, 2, 4096);
    /// assert!(format!("{nd:?}").contains("entries: 8"));
    /// ```
    pub fn limits(mut self, neighbours: usize, packets: usize, footprint: usize) -> Self {
        self.cache = Cache::new(neighbours.max(1), packets, footprint);
        self
    }

    /// A message that was found good.
    fn heard(&mut self, chain: Chain, message: &Received, cx: &mut Context<'_>) -> Outcome {
        match message.kind {
            message::SOLICITATION => self.solicited(chain, message, cx),
            message::ADVERTISEMENT => self.advertised(chain, message, cx),
            message::ROUTER_ADVERTISEMENT if self.accept_router => {
                let lifetime = Duration::from_secs(u64::from(message.lifetime));
                let known = self.router.is_some_and(|(router, _)| router == message.source);
                if !lifetime.is_zero() {
                    self.router = Some((message.source, cx.now() + lifetime));
                    if let Some(mac) = message.mac {
                        self.learn(message.source, mac, cx);
                    }
                } else if known {
                    self.router = None;
                }
                cx.consumed(chain)
            }
            message::REDIRECT => cx.drop(chain, REDIRECT),
            _ => cx.drop(chain, ROUTER),
        }
    }

    /// Somebody asks for an address.
    fn solicited(&mut self, chain: Chain, message: &Received, cx: &mut Context<'_>) -> Outcome {
        if !self.addresses.contains(&message.target) {
            return cx.drop(chain, OTHER_TARGET);
        }
        // Someone who has no address yet looks whether it is taken (RFC 4862, 5.4).
        let probe = message.source.is_unspecified();
        let frame_mac = match chain.meta().source() {
            Address::Mac(mac) => Some(mac),
            _ => None,
        };
        if let (Some(mac), false) = (message.mac, probe) {
            self.learn(message.source, mac, cx);
        }
        let to_all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let (destination, mac) = if probe {
            (to_all, Some(multicast_mac(to_all)))
        } else {
            (message.source, message.mac.or(frame_mac))
        };
        let Some(mac) = mac else { return cx.drop(chain, NO_NEIGHBOUR) };
        let answer = Message {
            kind: message::ADVERTISEMENT,
            flags: if probe { message::OVERRIDE } else { message::SOLICITED | message::OVERRIDE },
            source: message.target,
            destination,
            target: message.target,
            mac: self.mac,
        };
        if !send(&answer, mac, cx) {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        cx.consumed(chain)
    }

    /// Somebody says what his MAC is.
    fn advertised(&mut self, chain: Chain, message: &Received, cx: &mut Context<'_>) -> Outcome {
        let now = cx.now();
        let Some(entry) = self.cache.find(message.target) else {
            return cx.drop(chain, UNSOLICITED);
        };
        let solicited = message.flags & message::SOLICITED != 0;
        let overrides = message.flags & message::OVERRIDE != 0;
        // RFC 4861, 7.2.5.
        match (entry.mac, message.mac) {
            (None, None) => return cx.drop(chain, BAD_OPTION),
            (Some(old), Some(new)) if old != new && !overrides => {
                if matches!(entry.state, State::Reachable(_)) {
                    entry.state = State::Stale;
                }
                return cx.consumed(chain);
            }
            (old, new) => {
                let changed = new.is_some() && old != new;
                entry.mac = new.or(old);
                if solicited {
                    entry.state = State::Reachable(now + REACHABLE);
                } else if changed {
                    entry.state = State::Stale;
                }
            }
        }
        self.flush(message.target, cx);
        self.arm(cx);
        cx.consumed(chain)
    }

    /// A neighbour that speaks to us says what his MAC is (RFC 4861, 7.2.3).
    fn learn(&mut self, address: Ipv6Addr, mac: [u8; 6], cx: &mut Context<'_>) {
        if self.cache.find(address).is_none() && !self.cache.make(address, State::Stale, cx) {
            return;
        }
        if let Some(entry) = self.cache.find(address)
            && entry.mac != Some(mac)
        {
            entry.mac = Some(mac);
            entry.state = State::Stale;
        }
        self.flush(address, cx);
        self.arm(cx);
    }

    /// Sends what waited for a neighbour whose MAC is known now.
    fn flush(&mut self, address: Ipv6Addr, cx: &mut Context<'_>) {
        while let Some((mut chain, mac)) = self.cache.waiting(address) {
            chain.meta_mut().set_destination(Address::Mac(mac));
            cx.send_down(chain);
        }
    }

    /// Asks for a neighbour: all who may be him, or him alone.
    fn ask(&self, target: Ipv6Addr, source: Ipv6Addr, mac: Option<[u8; 6]>, cx: &mut Context<'_>) {
        let group = super::ipv6::solicited_node(target);
        let question = Message {
            kind: message::SOLICITATION,
            flags: 0,
            source,
            destination: if mac.is_some() { target } else { group },
            target,
            mac: self.mac,
        };
        // Without a buffer it is as if it was lost: it is asked again.
        let _ = send(&question, mac.unwrap_or(multicast_mac(group)), cx);
    }

    /// One timer, for the entry that is due next.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let due = self.cache.next_due();
        if self.closed || self.timer.map(|(time, _)| time) == due {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            cx.cancel(timer);
        }
        if let Some(due) = due {
            self.timer = cx.arm(due.since(cx.now())).map(|timer| (due, timer));
        }
    }

    /// A packet for a neighbour.
    fn resolve(&mut self, mut chain: Chain, next: Ipv6Addr, cx: &mut Context<'_>) -> Outcome {
        let now = cx.now();
        if let Some(entry) = self.cache.find(next)
            && let Some(mac) = entry.mac
        {
            entry.used = now;
            let stale = match entry.state {
                State::Stale => true,
                State::Reachable(until) => until <= now,
                _ => false,
            };
            if stale {
                entry.state = State::Delay(now + DELAY);
            }
            chain.meta_mut().set_destination(Address::Mac(mac));
            if stale {
                self.arm(cx);
            }
            return cx.down(chain);
        }
        if self.closed {
            return cx.drop(chain, DropReason::CLOSED);
        }
        let mut source = [0; 16];
        if chain.peek(8, &mut source).is_err() {
            return cx.drop(chain, DropReason::SHORT);
        }
        let source = Ipv6Addr::from_octets(source);
        if self.cache.find(next).is_none() {
            let state = State::Incomplete { due: now + RETRANS, tries: 1, source };
            if !self.cache.make(next, state, cx) {
                return cx.drop(chain, DropReason::LIMIT);
            }
            self.ask(next, source, None, cx);
        }
        self.cache.wait(next, chain, cx);
        self.arm(cx);
        cx.held()
    }
}

impl Protocol for Nd {
    fn name(&self) -> &str {
        "nd"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).min_header(40).reasons(&REASONS)
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if !message::is_one(&chain) {
            return cx.up(chain);
        }
        match message::parse(&mut chain) {
            Ok(message) => self.heard(chain, &message, cx),
            Err(reason) => cx.drop(chain, reason),
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Address::Ip(SocketAddr::V6(next)) = chain.meta().destination() else {
            return cx.drop(chain, NO_NEIGHBOUR);
        };
        let mut next = *next.ip();
        if next.is_multicast() {
            chain.meta_mut().set_destination(Address::Mac(multicast_mac(next)));
            return cx.down(chain);
        }
        if next.is_unspecified() {
            match self.router {
                Some((router, until)) if until > cx.now() => next = router,
                _ => return cx.drop(chain, NO_NEIGHBOUR),
            }
        }
        self.resolve(chain, next, cx)
    }

    fn timeout(&mut self, _: Timer, cx: &mut Context<'_>) {
        self.timer = None;
        let now = cx.now();
        while let Some(address) = self.cache.due(now) {
            let Some(entry) = self.cache.find(address) else { break };
            let (tries, source) = match entry.state {
                State::Incomplete { tries, source, .. } | State::Probe { tries, source, .. } => {
                    (tries, source)
                }
                _ => {
                    let local = address.is_unicast_link_local();
                    let fits = |own: &&Ipv6Addr| own.is_unicast_link_local() == local;
                    let own = self.addresses.iter().find(fits).or(self.addresses.first());
                    (0, own.copied().unwrap_or(Ipv6Addr::UNSPECIFIED))
                }
            };
            if tries >= TRIES {
                self.cache.remove(address, NO_NEIGHBOUR, cx);
                continue;
            }
            let (due, tries, mac) = (now + RETRANS, tries + 1, entry.mac);
            entry.state = match mac {
                None => State::Incomplete { due, tries, source },
                Some(_) => State::Probe { due, tries, source },
            };
            self.ask(address, source, mac, cx);
        }
        self.arm(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Shutdown => {
                self.closed = true;
                self.cache.clear(DropReason::CLOSED, cx);
                if let Some((_, timer)) = self.timer.take() {
                    cx.cancel(timer);
                }
            }
            Signal::Drain => self.cache.let_go(cx),
            _ => {}
        }
    }

    fn held(&self) -> Held {
        self.cache.held()
    }
}

/// Sends a message of our own. `false` where no buffer is left.
fn send(message: &Message, mac: [u8; 6], cx: &mut Context<'_>) -> bool {
    let Ok(mut chain) = cx.pool().chain_from(&message.bytes()) else { return false };
    chain.meta_mut().set_destination(Address::Mac(mac));
    cx.made(1);
    cx.send_down(chain);
    true
}

/// The MAC of a group (RFC 2464, section 7).
const fn multicast_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}
