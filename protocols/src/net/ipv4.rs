//! IPv4 (RFC 791, RFC 1122) as a host speaks it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |version|  IHL  |type of service|          total length         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        identification         |0 D M|     fragment offset     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | time to live  |   protocol    |        header checksum        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                            source                             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          destination                          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |            options, up to 40 bytes                           ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The key is the protocol number. A frame that is longer than the total length is trimmed (its
//! rest is padding); a shorter one is dropped as [`TRUNCATED`]. Options are looked through and
//! stripped, source routes refused as [`SOURCE_ROUTED`]. A datagram whose protocol nobody is bound
//! to is handed to ICMP as [`Trouble::PROTOCOL_UNREACHABLE`].
//!
//! Fragments are held until the datagram is whole ([`Limits`]); an overlap discards all of it, as RFC
//! 5722 asks for IPv6, and a fragment that hides a transport header is refused
//! ([`TINY_FRAGMENT`]). What is not whole in time is answered by ICMP if its first fragment came.
//!
//! Down, datagrams longer than the MTU are cut into fragments, or dropped as [`TOO_BIG`] where
//! [`dont_fragment`](Ipv4::dont_fragment) is set. The next hop is left in the metadata for ARP.
//!
//! This is a host: it forwards nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use mbuf::{
    Address, Chain,
    chain::checksum,
    meta::Offload,
    stack::{Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Timer},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use super::{
    LINK_GROUP, Trouble, complete_checksum, has_partial_inside, prepended, protocol, readdressed,
    reassembly::{self, Limits, Reassembly, Verdict},
    to_link_group,
};

/// The header's checksum is wrong.
pub const BAD_CHECKSUM: DropReason = DropReason("bad_checksum");
/// The datagram says that it is longer than what came.
pub const TRUNCATED: DropReason = DropReason("truncated");
/// It wants to be routed by its source (LSRR, SSRR: RFC 7126, section 4.3).
pub const SOURCE_ROUTED: DropReason = DropReason("source_routed");
/// A source that cannot be on a wire: multicast, broadcast, loopback (RFC 1122, 3.2.1.3).
pub const BAD_SOURCE: DropReason = DropReason("bad_source");
/// It is for another host.
pub const OTHER_HOST: DropReason = DropReason("other_host");
/// A fragment that hides a transport header (RFC 1858, RFC 3128).
pub const TINY_FRAGMENT: DropReason = DropReason("tiny_fragment");
/// ICMP to a broadcast or multicast address, which would make many answer (RFC 1122, 3.2.2.6).
pub const BROADCAST_ICMP: DropReason = DropReason("broadcast_icmp");
/// No route to the destination, or no destination.
pub const NO_ROUTE: DropReason = DropReason("no_route");
/// Longer than a datagram can be, or than the MTU where it must not be cut.
pub const TOO_BIG: DropReason = DropReason("too_big");

const REASONS: [DropReason; 10] = [
    BAD_CHECKSUM,
    TRUNCATED,
    SOURCE_ROUTED,
    BAD_SOURCE,
    OTHER_HOST,
    LINK_GROUP,
    TINY_FRAGMENT,
    BROADCAST_ICMP,
    NO_ROUTE,
    TOO_BIG,
];

/// Do not fragment.
const DF: u16 = 0x4000;
/// More fragments follow.
const MF: u16 = 0x2000;
/// The part of the field that is the offset, in units of 8 bytes.
const OFFSET: u16 = 0x1fff;

/// The least MTU that a link may have (RFC 791).
const MIN_MTU: usize = 68;

pub(crate) const HEADER: usize = size_of::<Header>();

/// The header as it stands on the wire, without options.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// 4, and the header's length in words of 32 bits.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload, in bytes.
    pub total_length: U16,
    /// The same in all fragments of a datagram.
    pub identification: U16,
    /// Flags, and the offset in units of 8 bytes.
    pub fragment: U16,
    /// How many routers it may pass.
    pub ttl: u8,
    /// What it carries.
    pub protocol: u8,
    /// Over the header (RFC 1071).
    pub checksum: U16,
    /// Whose it is.
    pub source: [u8; 4],
    /// For whom it is.
    pub destination: [u8; 4],
}

/// A host's IPv4 with one address.
#[derive(Debug)]
pub struct Ipv4 {
    address: Ipv4Addr,
    mask: u32,
    gateway: Option<Ipv4Addr>,
    groups: Vec<Ipv4Addr>,
    mtu: usize,
    ttl: u8,
    dont_fragment: bool,
    promiscuous: bool,
    next_id: u16,
    reassembly: Reassembly<Key>,
    timer: Option<Timer>,
    closed: bool,
}

/// What fragments of one datagram have in common: source, destination, identification, protocol.
type Key = ([u8; 4], [u8; 4], u16, u8);

impl Ipv4 {
    /// A host with this address in a network of this prefix length (more than 32 is as 32).
    ///
    /// ```
    /// use mbuf_protocols::net::Ipv4;
    ///
    /// let ip = Ipv4::new("192.0.2.1".parse()?, 24);
    /// assert_eq!(ip.broadcast().to_string(), "192.0.2.255");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        Self {
            address,
            mask,
            gateway: None,
            groups: vec![Ipv4Addr::new(224, 0, 0, 1)],
            mtu: 1500,
            ttl: 64,
            dont_fragment: false,
            promiscuous: false,
            next_id: 1,
            reassembly: Reassembly::new(within(Limits::default())),
            timer: None,
            closed: false,
        }
    }

    /// How much may be held of datagrams that are not whole yet.
    ///
    /// ```
    /// use mbuf_protocols::net::{Ipv4, reassembly::Limits};
    ///
    /// let few = Limits { datagrams: 4, ..Limits::default() };
    /// let ip = Ipv4::new([192, 0, 2, 1].into(), 24).reassembly(few);
    /// assert!(format!("{ip:?}").contains("datagrams: 4"));
    /// ```
    pub fn reassembly(mut self, limits: Limits) -> Self {
        self.reassembly = Reassembly::new(within(limits));
        self
    }

    /// Where datagrams go whose destination is not on the link.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv4;
    /// let ip = Ipv4::new([192, 0, 2, 1].into(), 24).gateway([192, 0, 2, 254].into());
    /// assert_eq!(ip.next_hop([8, 8, 8, 8].into()), Some([192, 0, 2, 254].into()));
    /// ```
    pub fn gateway(mut self, gateway: Ipv4Addr) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Also takes what is sent to this group. 224.0.0.1, all systems, is always one.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv4;
    /// let ip = Ipv4::new([192, 0, 2, 1].into(), 24).join([224, 0, 0, 251].into());
    /// assert!(format!("{ip:?}").contains("224.0.0.251"));
    /// ```
    pub fn join(mut self, group: Ipv4Addr) -> Self {
        self.groups.push(group);
        self
    }

    /// The longest datagram that the link takes, header included: 1,500 unless told, at least 68.
    /// [`Signal::Mtu`] changes it later.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// # use mbuf_protocols::net::Ipv4;
    /// assert_eq!(Ipv4::new([192, 0, 2, 1].into(), 24).mtu(1400).info().max_prepend(), 20);
    /// ```
    pub fn mtu(mut self, bytes: usize) -> Self {
        self.mtu = bytes.clamp(MIN_MTU, 65_535);
        self
    }

    /// The time to live of what is sent: 64 unless told.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv4;
    /// let ip = Ipv4::new([192, 0, 2, 1].into(), 24).ttl(255);
    /// assert!(format!("{ip:?}").contains("ttl: 255"));
    /// ```
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the flag *don't fragment* on what is sent; what is longer than the MTU is dropped.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv4;
    /// let ip = Ipv4::new([192, 0, 2, 1].into(), 24).dont_fragment(true);
    /// assert!(format!("{ip:?}").contains("dont_fragment: true"));
    /// ```
    pub fn dont_fragment(mut self, yes: bool) -> Self {
        self.dont_fragment = yes;
        self
    }

    /// Also takes what is for other hosts: for who looks at captures.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv4;
    /// let ip = Ipv4::new([192, 0, 2, 1].into(), 24).promiscuous(true);
    /// assert!(format!("{ip:?}").contains("promiscuous: true"));
    /// ```
    pub fn promiscuous(mut self, yes: bool) -> Self {
        self.promiscuous = yes;
        self
    }

    /// The address of all hosts of the network.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv4;
    /// assert_eq!(Ipv4::new([10, 1, 2, 3].into(), 8).broadcast().octets(), [10, 255, 255, 255]);
    /// ```
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask)
    }

    /// To whom on the link a datagram for this destination is handed. `None` if there is no way.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv4;
    /// let ip = Ipv4::new([10, 1, 2, 3].into(), 8);
    /// assert_eq!(ip.next_hop([10, 9, 9, 9].into()), Some([10, 9, 9, 9].into()));
    /// assert_eq!(ip.next_hop([192, 0, 2, 1].into()), None);
    /// ```
    pub fn next_hop(&self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        let on_link = (destination.to_bits() ^ self.address.to_bits()) & self.mask == 0;
        if destination.is_unspecified() {
            return None;
        }
        if on_link
            || destination.is_broadcast()
            || destination.is_multicast()
            || destination.is_link_local()
        {
            return Some(destination);
        }
        self.gateway
    }

    /// Whether an address is that of all hosts: of this network (one of two has none, RFC 3021),
    /// or of any.
    fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast() || self.mask < 0xffff_fffe && address == self.broadcast()
    }

    /// Whether what is sent there is for this host among others.
    #[cold]
    fn is_for_us_too(&self, destination: Ipv4Addr) -> bool {
        self.promiscuous || self.is_broadcast(destination) || self.groups.contains(&destination)
    }

    /// Holds a fragment, or passes up the datagram that it completes.
    #[cold]
    fn fragment(&mut self, chain: Chain, header: Header, cx: &mut Context<'_>) -> Outcome {
        let field = header.fragment.get();
        let offset = usize::from(field & OFFSET) * 8;
        if hides_transport(header.protocol, offset, chain.len()) {
            return cx.drop(chain, TINY_FRAGMENT);
        }
        if self.closed {
            return cx.drop(chain, DropReason::CLOSED);
        }
        let key = (header.source, header.destination, header.identification.get(), header.protocol);
        let verdict = self.reassembly.insert(key, offset, field & MF != 0, chain, cx.now());
        self.reassembly.bury(cx);
        self.arm(cx);
        match verdict {
            Verdict::Held => cx.held(),
            Verdict::Refused(chain, reason) => cx.drop(chain, reason),
            // They are buried.
            Verdict::Discarded { .. } => cx.held(),
            Verdict::Complete(chain, merged) => {
                cx.merged(merged);
                self.deliver(chain, header.protocol, cx)
            }
        }
    }

    /// Hands a whole datagram to who is bound to its protocol.
    #[inline]
    fn deliver(&mut self, chain: Chain, number: u8, cx: &mut Context<'_>) -> Outcome {
        cx.try_up_key(number.into(), chain).unwrap_or_else(|mut chain| {
            cx.set_slot(&mut chain, Trouble::PROTOCOL_UNREACHABLE);
            self.troubled(chain, cx)
        })
    }

    /// One timer runs as long as something is held: for the oldest.
    fn arm(&mut self, cx: &mut Context<'_>) {
        match (self.timer, self.reassembly.next_expiry()) {
            (None, Some(expiry)) => self.timer = cx.arm(expiry.since(cx.now())),
            (Some(timer), None) => {
                cx.cancel(timer);
                self.timer = None;
            }
            _ => {}
        }
    }

    /// A datagram that came and cannot be delivered: for ICMP to answer (RFC 1122, 3.2.2).
    #[cold]
    fn troubled(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let (source, destination) = (chain.meta().source(), chain.meta().destination());
        let (Some(source), Some(destination)) = (v4(source), v4(destination)) else {
            return cx.drop(chain, DropReason::UNBOUND);
        };
        // To a broadcast nobody answers, and to nobody neither.
        if *destination.ip() != self.address || source.ip().is_unspecified() {
            return cx.drop(chain, DropReason::UNBOUND);
        }
        let header_len = usize::from(chain.meta().transport_offset())
            .saturating_sub(usize::from(chain.meta().network_offset()));
        if chain.restore(header_len).is_err() {
            return cx.drop(chain, DropReason::UNBOUND);
        }
        match chain.header::<Header>() {
            Ok(header) if usize::from(header.version_ihl & 0xf) * 4 == header_len => {}
            _ => return cx.drop(chain, DropReason::UNBOUND),
        }
        cx.up_key(protocol::ICMP, chain)
    }

    /// Puts the header before a chain. `false` where no buffer is left.
    fn push_header(&self, chain: &mut Chain, header: &Header) -> bool {
        let mut header = *header;
        header.total_length = ((HEADER + chain.len()) as u16).into();
        header.checksum = checksum::of(header.as_bytes()).into();
        if chain.push(&header).is_err() {
            return false;
        }
        prepended(chain, HEADER);
        true
    }

    /// Cuts a datagram that is longer than the MTU (RFC 791, section 3.2). O(fragments).
    #[cold]
    fn send_in_fragments(
        &mut self,
        mut chain: Chain,
        mut header: Header,
        cx: &mut Context<'_>,
    ) -> Outcome {
        if self.dont_fragment || has_partial_inside(&chain) {
            return cx.drop(chain, TOO_BIG);
        }
        if chain.meta().offload().contains(Offload::CHECKSUM_PARTIAL)
            && !complete_checksum(&mut chain, u64::from(header.protocol))
        {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        let most = (self.mtu - HEADER) & !7;
        let mut offset = 0;
        while chain.len() > most {
            let Ok(rest) = chain.split_off(most) else {
                return cx.drop(chain, DropReason::NO_BUFFERS);
            };
            cx.made(1);
            header.fragment = (MF | offset).into();
            if !self.push_header(&mut chain, &header) {
                let outcome = cx.drop(rest, DropReason::NO_BUFFERS);
                cx.apply(outcome);
                return cx.drop(chain, DropReason::NO_BUFFERS);
            }
            cx.send_down(std::mem::replace(&mut chain, rest));
            offset += (most / 8) as u16;
        }
        header.fragment = offset.into();
        if !self.push_header(&mut chain, &header) {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        cx.down(chain)
    }
}

/// A datagram is at most 65,535 bytes long with its header.
fn within(limits: Limits) -> Limits {
    Limits { longest: limits.longest.min(65_535 - size_of::<Header>()), ..limits }
}

impl Protocol for Ipv4 {
    fn name(&self) -> &str {
        "ipv4"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(HEADER)
            .min_header(HEADER)
            .shared_slot::<Trouble>()
            .reasons(&REASONS)
            .reasons(&reassembly::REASONS)
    }

    #[inline]
    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let len = chain.len();
        let Ok(&header) = chain.header::<Header>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        let mut header_len = HEADER;
        if header.version_ihl == 0x45 {
            if checksum::of(header.as_bytes()) != 0 {
                return cx.drop(chain, BAD_CHECKSUM);
            }
        } else {
            header_len = match with_options(&mut chain, header.version_ihl) {
                Ok(len) => len,
                Err(reason) => return cx.drop(chain, reason),
            };
        }
        let total = usize::from(header.total_length.get());
        if total < header_len {
            return cx.drop(chain, DropReason::MALFORMED);
        }
        if total > len {
            return cx.drop(chain, TRUNCATED);
        }
        if total < len && chain.truncate(total).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        let source = Ipv4Addr::from_octets(header.source);
        let destination = Ipv4Addr::from_octets(header.destination);
        // From 224.0.0.0 on there are groups, and what is reserved; the last is the broadcast.
        if source.is_loopback() || header.source[0] >= 224 || self.is_broadcast(source) {
            return cx.drop(chain, BAD_SOURCE);
        }
        if destination != self.address {
            if destination.is_loopback() {
                return cx.drop(chain, BAD_SOURCE);
            }
            if !self.is_for_us_too(destination) {
                return cx.drop(chain, OTHER_HOST);
            }
            if u64::from(header.protocol) == protocol::ICMP && !self.promiscuous {
                return cx.drop(chain, BROADCAST_ICMP);
            }
        } else if to_link_group(&chain) {
            return cx.drop(chain, LINK_GROUP);
        }
        if chain.trim_front(header_len).is_err() {
            return cx.drop(chain, DropReason::SHORT);
        }
        let meta = chain.meta_mut();
        meta.set_source(Address::Ip(SocketAddr::V4(SocketAddrV4::new(source, 0))));
        meta.set_destination(Address::Ip(SocketAddr::V4(SocketAddrV4::new(destination, 0))));
        meta.set_transport_offset(meta.network_offset().wrapping_add(header_len as u16));
        if header.fragment.get() & (MF | OFFSET) != 0 {
            return self.fragment(chain, header, cx);
        }
        self.deliver(chain, header.protocol, cx)
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if !cx.slot::<Trouble>(&chain).is_none() {
            return self.troubled(chain, cx);
        }
        let Some(destination) = v4(chain.meta().destination()).map(|address| *address.ip()) else {
            return cx.drop(chain, NO_ROUTE);
        };
        let (Some(next), Some(key)) = (self.next_hop(destination), cx.key()) else {
            return cx.drop(chain, NO_ROUTE);
        };
        let source = v4(chain.meta().source()).map_or(Ipv4Addr::UNSPECIFIED, |source| *source.ip());
        if source != self.address
            && !readdressed(&mut chain, key, &source.octets(), &self.address.octets())
        {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        let len = HEADER + chain.len();
        if len > 65_535 {
            return cx.drop(chain, TOO_BIG);
        }
        let header = Header {
            version_ihl: 0x45,
            tos: 0,
            total_length: 0.into(),
            identification: self.next_id.into(),
            fragment: if self.dont_fragment { DF } else { 0 }.into(),
            ttl: self.ttl,
            protocol: key as u8,
            checksum: 0.into(),
            source: self.address.octets(),
            destination: destination.octets(),
        };
        self.next_id = self.next_id.wrapping_add(1);
        let meta = chain.meta_mut();
        meta.set_source(Address::None);
        meta.set_destination(Address::Ip(SocketAddr::new(IpAddr::V4(next), 0)));
        // What a device cuts later is as long as it likes.
        if len > self.mtu && !chain.meta().offload().contains(Offload::SEGMENTED) {
            return self.send_in_fragments(chain, header, cx);
        }
        if !self.push_header(&mut chain, &header) {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        cx.down(chain)
    }

    fn timeout(&mut self, _: Timer, cx: &mut Context<'_>) {
        self.timer = None;
        let now = cx.now();
        loop {
            let Some((_, first, _)) = self.reassembly.expire(now).next() else { break };
            if let Some(mut first) = first {
                cx.set_slot(&mut first, Trouble::REASSEMBLY_TIME_EXCEEDED);
                let outcome = self.troubled(first, cx);
                cx.apply(outcome);
            }
        }
        self.reassembly.bury(cx);
        self.arm(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Mtu(bytes) => self.mtu = bytes.clamp(MIN_MTU, 65_535),
            Signal::Drain => _ = self.reassembly.clear(DropReason::LIMIT),
            Signal::Shutdown => {
                self.closed = true;
                self.reassembly.clear(DropReason::CLOSED);
            }
            _ => {}
        }
        self.reassembly.bury(cx);
        self.arm(cx);
    }

    fn held(&self) -> Held {
        self.reassembly.held()
    }
}

/// The IPv4 address in there.
fn v4(address: Address) -> Option<SocketAddrV4> {
    match address {
        Address::Ip(SocketAddr::V4(v4)) => Some(v4),
        _ => None,
    }
}

/// Checks a header that is not the plain one, and answers its length.
#[cold]
fn with_options(chain: &mut Chain, version_ihl: u8) -> Result<usize, DropReason> {
    let len = usize::from(version_ihl & 0xf) * 4;
    if version_ihl >> 4 != 4 || len < HEADER {
        return Err(DropReason::MALFORMED);
    }
    if chain.len() < len {
        return Err(DropReason::SHORT);
    }
    let Ok(bytes) = chain.pullup(len) else { return Err(DropReason::NO_BUFFERS) };
    let Some(bytes) = bytes.get(..len) else { return Err(DropReason::SHORT) };
    if checksum::of(bytes) != 0 {
        return Err(BAD_CHECKSUM);
    }
    check_options(&bytes[HEADER..]).map(|()| len)
}

/// RFC 791, section 3.1: each option is one byte, or says how long it is.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE_ROUTE: u8 = 131;
    const STRICT_ROUTE: u8 = 137;
    while let [kind, rest @ ..] = options {
        options = match (*kind, rest) {
            (END, _) => return Ok(()),
            (NOTHING, _) => rest,
            (LOOSE_ROUTE | STRICT_ROUTE, _) => return Err(SOURCE_ROUTED),
            (_, [len, ..]) if *len >= 2 => {
                options.get(usize::from(*len)..).ok_or(DropReason::MALFORMED)?
            }
            _ => return Err(DropReason::MALFORMED),
        };
    }
    Ok(())
}

/// RFC 1858, section 3 and RFC 3128: a first fragment that ends within the transport's header, or
/// another one that lies over it.
fn hides_transport(protocol: u8, offset: usize, len: usize) -> bool {
    let header = match u64::from(protocol) {
        protocol::TCP => 20,
        protocol::UDP | protocol::ICMP => 8,
        _ => 0,
    };
    (offset == 0 && len < header) || (offset > 0 && offset < header)
}

#[cfg(test)]
mod tests;
