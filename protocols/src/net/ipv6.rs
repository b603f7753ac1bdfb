//! IPv6 (RFC 8200) as a host speaks it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |version| traffic class |              flow label               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        payload length         |  next header  |   hop limit   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       source, 16 bytes                       ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     destination, 16 bytes                    ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//!                          the Fragment header:
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  next header  |   reserved    |         offset          |res|M|
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                        identification                         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The key is the next header, behind all extension headers: hop-by-hop and destination options
//! (what is not known is treated by its two high bits), routing headers (none that has segments
//! left: RFC 5095), and fragments. There may be 8 of them and 512 bytes in all.
//!
//! Fragments go through [`Reassembly`]; an atomic one is a packet by itself (RFC 6946), and the
//! first must hold all headers (RFC 7112, [`TINY_FRAGMENT`]). Down, what is longer than the MTU is
//! cut into fragments. This is a host: it forwards nothing. Packet Too Big is not acted upon: the
//! MTU is what it was told.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use mbuf::{
    Address, Chain,
    meta::Offload,
    stack::{Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Timer},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{
    LINK_GROUP, Trouble, complete_checksum, has_partial_inside, prepended, protocol, readdressed,
    reassembly::{self, Limits, Reassembly, Verdict},
    to_link_group,
};

mod extension;
#[cfg(test)]
pub(super) mod tests;

pub(super) use extension::upper_layer;
use extension::{Found, Stop, walk};

/// The packet says that it is longer than what came.
pub const TRUNCATED: DropReason = DropReason("truncated");
/// A source that cannot be on a wire: multicast, unspecified, loopback (RFC 4291, 2.5).
pub const BAD_SOURCE: DropReason = DropReason("bad_source");
/// It is for another host, or for nobody.
pub const OTHER_HOST: DropReason = DropReason("other_host");
/// A first fragment that does not hold all headers (RFC 7112).
pub const TINY_FRAGMENT: DropReason = DropReason("tiny_fragment");
/// More extension headers, or longer ones, than are looked through.
pub const TOO_MANY_HEADERS: DropReason = DropReason("too_many_headers");
/// An option that is not known and asks for the packet to be dropped.
pub const UNKNOWN_OPTION: DropReason = DropReason("unknown_option");
/// No route to the destination, or no destination.
pub const NO_ROUTE: DropReason = DropReason("no_route");
/// Longer than a packet can be.
pub const TOO_BIG: DropReason = DropReason("too_big");

const REASONS: [DropReason; 9] = [
    TRUNCATED,
    BAD_SOURCE,
    OTHER_HOST,
    LINK_GROUP,
    TINY_FRAGMENT,
    TOO_MANY_HEADERS,
    UNKNOWN_OPTION,
    NO_ROUTE,
    TOO_BIG,
];

/// The least MTU that a link may have (RFC 8200, section 5).
const MIN_MTU: usize = 1280;
pub(crate) const HEADER: usize = size_of::<Header>();
const FRAGMENT_HEADER: usize = size_of::<FragmentHeader>();

/// The header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// 6, traffic class, flow label.
    pub version_class_flow: U32,
    /// What follows, in bytes.
    pub payload_length: U16,
    /// What follows.
    pub next_header: u8,
    /// How many routers it may pass.
    pub hop_limit: u8,
    /// Whose it is.
    pub source: [u8; 16],
    /// For whom it is.
    pub destination: [u8; 16],
}

/// The Fragment header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FragmentHeader {
    /// What the datagram begins with.
    pub next_header: u8,
    /// 0.
    pub reserved: u8,
    /// The offset in bytes (a multiple of 8), and the flag M in the lowest bit.
    pub offset: U16,
    /// The same in all fragments of a packet.
    pub identification: U32,
}

/// What names a packet of which there are fragments.
type Key = (Ipv6Addr, Ipv6Addr, u32);

/// A host's IPv6 with its addresses.
#[derive(Debug)]
pub struct Ipv6 {
    addresses: Vec<(Ipv6Addr, u8)>,
    gateway: Option<Ipv6Addr>,
    groups: Vec<Ipv6Addr>,
    mtu: usize,
    hop_limit: u8,
    next_id: u32,
    reassembly: Reassembly<Key>,
    timer: Option<Timer>,
    /// No fragment is held any more.
    closed: bool,
}

/// The link-local address of a MAC address (RFC 4291, appendix A: modified EUI-64). O(1).
///
/// ```
/// use mbuf_protocols::net::ipv6::link_local;
///
/// assert_eq!(link_local([2, 0, 0, 0, 0, 1]).to_string(), "fe80::ff:fe00:1");
/// ```
pub const fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The group that an address's owner listens to (RFC 4291, 2.7.1). O(1).
///
/// ```
/// use mbuf_protocols::net::ipv6::solicited_node;
///
/// assert_eq!(solicited_node("2001:db8::12:3456".parse()?).to_string(), "ff02::1:ff12:3456");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

impl Ipv6 {
    /// A host with this address in a network of this prefix length (more than 128 is as 128).
    ///
    /// ```
    /// use mbuf_protocols::net::{Ipv6, ipv6::link_local};
    ///
    /// let ip = Ipv6::new(link_local([2, 0, 0, 0, 0, 1]), 64).address("2001:db8::1".parse()?, 64);
    /// assert_eq!(ip.source_for("2001:db8::2".parse()?), "2001:db8::1".parse::<std::net::Ipv6Addr>()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(address: Ipv6Addr, prefix: u8) -> Self {
        let ip = Self {
            addresses: Vec::new(),
            gateway: None,
            groups: vec![
                Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
            ],
            mtu: 1500,
            hop_limit: 64,
            // Not to be guessed from outside (RFC 7739).
            next_id: RandomState::new().build_hasher().finish() as u32,
            reassembly: Reassembly::new(Limits {
                age: Duration::from_secs(60),
                ..Limits::default()
            }),
            timer: None,
            closed: false,
        };
        ip.address(address, prefix)
    }

    /// One more address. It joins that address's solicited-node group.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv6;
    /// let ip = Ipv6::new("fe80::1".parse()?, 64).address("2001:db8::a".parse()?, 64);
    /// assert!(ip.is_for_us("ff02::1:ff00:a".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn address(mut self, address: Ipv6Addr, prefix: u8) -> Self {
        self.addresses.push((address, prefix.min(128)));
        self.groups.push(solicited_node(address));
        self
    }

    /// Where packets go whose destination is not on the link. The address `::` stands for the
    /// router that [`Nd`](super::Nd) has heard of.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv6;
    /// let ip = Ipv6::new("2001:db8::1".parse()?, 64).gateway("fe80::9".parse()?);
    /// assert_eq!(ip.next_hop("2001:db8:1::1".parse()?), Some("fe80::9".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn gateway(mut self, gateway: Ipv6Addr) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Also takes what is sent to this group. All nodes (ff02::1) is always one.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv6;
    /// assert!(Ipv6::new("fe80::1".parse()?, 64).join("ff02::fb".parse()?).is_for_us("ff02::fb".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join(mut self, group: Ipv6Addr) -> Self {
        self.groups.push(group);
        self
    }

    /// The longest packet that the path takes, header included: 1,500 unless told, at least 1,280.
    /// [`Signal::Mtu`] changes it later.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv6;
    /// let ip = Ipv6::new("fe80::1".parse()?, 64).mtu(100);
    /// assert!(format!("{ip:?}").contains("mtu: 1280"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mtu(mut self, bytes: usize) -> Self {
        self.mtu = bytes.clamp(MIN_MTU, 65_535);
        self
    }

    /// The hop limit of what is sent: 64 unless told.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv6;
    /// let ip = Ipv6::new("fe80::1".parse()?, 64).hop_limit(255);
    /// assert!(format!("{ip:?}").contains("hop_limit: 255"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hop_limit(mut self, hops: u8) -> Self {
        self.hop_limit = hops;
        self
    }

    /// How much of unfinished packets is held; 60 s of age (RFC 8200) unless told.
    ///
    /// ```
    /// # use mbuf_protocols::net::{Ipv6, reassembly::Limits};
    /// let ip = Ipv6::new("fe80::1".parse()?, 64).limits(Limits { datagrams: 2, ..Limits::default() });
    /// assert!(format!("{ip:?}").contains("datagrams: 2"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn limits(mut self, limits: Limits) -> Self {
        self.reassembly = Reassembly::new(limits);
        self
    }

    /// Whether what is sent there is for this host, alone or among others. O(addresses + groups).
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv6;
    /// assert!(!Ipv6::new("fe80::1".parse()?, 64).is_for_us("fe80::2".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_for_us(&self, address: Ipv6Addr) -> bool {
        self.is_own(address) || self.groups.contains(&address)
    }

    fn is_own(&self, address: Ipv6Addr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }

    /// To whom on the link a packet for this destination is handed. `None` if there is no way.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv6;
    /// let ip = Ipv6::new("2001:db8::1".parse()?, 64);
    /// assert_eq!(ip.next_hop("2001:db8::9".parse()?), Some("2001:db8::9".parse()?));
    /// assert_eq!(ip.next_hop("2001:db8:1::1".parse()?), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_hop(&self, destination: Ipv6Addr) -> Option<Ipv6Addr> {
        if destination.is_unspecified() || destination.is_loopback() {
            return None;
        }
        let on_link = destination.is_multicast()
            || destination.is_unicast_link_local()
            || self.addresses.iter().any(|&(own, prefix)| same_prefix(own, destination, prefix));
        if on_link { Some(destination) } else { self.gateway }
    }

    /// The own address from which this destination is spoken to: on the link a link-local one, else
    /// one of the same network, else one that is not link-local (RFC 6724, in short). O(addresses).
    ///
    /// ```
    /// # use mbuf_protocols::net::Ipv6;
    /// let ip = Ipv6::new("2001:db8::1".parse()?, 64).address("fe80::1".parse()?, 64);
    /// assert!(ip.source_for("ff02::2".parse()?).is_unicast_link_local());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn source_for(&self, destination: Ipv6Addr) -> Ipv6Addr {
        let [a, b, ..] = destination.octets();
        let local = destination.is_unicast_link_local() || a == 0xff && b & 0xf <= 2;
        let rank = |&(own, prefix): &(Ipv6Addr, u8)| {
            let fits = own.is_unicast_link_local() == local;
            (!fits, !same_prefix(own, destination, prefix))
        };
        let best = self.addresses.iter().min_by_key(|entry| rank(entry));
        best.map_or(Ipv6Addr::UNSPECIFIED, |(own, _)| *own)
    }

    /// Goes through the headers from `at` on, the first of which is a `next`, and hands up what is
    /// behind them. `at` is 0 where the packet was put together: its headers are stripped.
    fn deliver(
        &mut self,
        mut chain: Chain,
        next: u8,
        next_at: usize,
        whole: bool,
        cx: &mut Context<'_>,
    ) -> Outcome {
        let stripped = usize::from(
            chain.meta().transport_offset().saturating_sub(chain.meta().network_offset()),
        );
        let to_many = v6(chain.meta().destination()).is_none_or(|to| to.ip().is_multicast());
        let found = match walk(&chain, next, next_at, stripped, whole, to_many) {
            Ok(found) => found,
            Err(Stop::Drop(reason)) => return cx.drop(chain, reason),
            Err(Stop::Tell(trouble)) => {
                cx.set_slot(&mut chain, trouble);
                return troubled(chain, cx);
            }
        };
        let Found { next, next_at, len, fragment } = found;
        if chain.trim_front(len).is_err() {
            return cx.drop(chain, DropReason::MALFORMED);
        }
        let transport = usize::from(chain.meta().transport_offset()) + len;
        chain.meta_mut().set_transport_offset(u16::try_from(transport).unwrap_or(u16::MAX));
        if let Some(header) = fragment {
            return self.fragment(chain, header, cx);
        }
        let key = u64::from(next);
        if key == protocol::NO_NEXT_HEADER {
            return cx.consumed(chain);
        }
        cx.try_up_key(key, chain).unwrap_or_else(|mut chain| {
            cx.set_slot(&mut chain, Trouble::unknown_next_header(next_at as u16));
            troubled(chain, cx)
        })
    }

    /// A fragment, its headers stripped.
    #[cold]
    fn fragment(&mut self, chain: Chain, header: FragmentHeader, cx: &mut Context<'_>) -> Outcome {
        let (Some(source), Some(destination)) =
            (v6(chain.meta().source()), v6(chain.meta().destination()))
        else {
            return cx.drop(chain, DropReason::MALFORMED);
        };
        if self.closed {
            return cx.drop(chain, DropReason::CLOSED);
        }
        let key = (*source.ip(), *destination.ip(), header.identification.get());
        let (offset, more) = (usize::from(header.offset.get() & !7), header.offset.get() & 1 == 1);
        let verdict = self.reassembly.insert(key, offset, more, chain, cx.now());
        self.reassembly.bury(cx);
        self.arm(cx);
        match verdict {
            Verdict::Held | Verdict::Discarded { .. } => cx.held(),
            Verdict::Refused(mut chain, reason) => {
                // RFC 8200, 4.5: these two are told; the pointer is to the field.
                let headers = chain.meta().transport_offset() - chain.meta().network_offset();
                let trouble = if reason == reassembly::FRAGMENT_TOO_LONG {
                    Trouble::parameter_problem(headers.saturating_sub(6))
                } else if reason == reassembly::BAD_FRAGMENT && !chain.is_empty() {
                    Trouble::parameter_problem(4)
                } else {
                    return cx.drop(chain, reason);
                };
                cx.set_slot(&mut chain, trouble);
                troubled(chain, cx)
            }
            Verdict::Complete(mut chain, merged) => {
                cx.merged(merged);
                // Only the first fragment's next header counts, and that one is before the bytes.
                let mut next = [0; 1];
                let read = chain.restore(FRAGMENT_HEADER).is_ok()
                    && chain.peek(0, &mut next).is_ok()
                    && chain.trim_front(FRAGMENT_HEADER).is_ok();
                if !read {
                    return cx.drop(chain, DropReason::MALFORMED);
                }
                let headers = chain.meta().transport_offset() - chain.meta().network_offset();
                let at = usize::from(headers).saturating_sub(FRAGMENT_HEADER);
                self.deliver(chain, next[0], at, true, cx)
            }
        }
    }

    /// One timer, for the oldest packet that is not whole.
    fn arm(&mut self, cx: &mut Context<'_>) {
        if let (Some(expiry), None) = (self.reassembly.next_expiry(), self.timer) {
            self.timer = cx.arm(expiry.since(cx.now()));
        }
    }

    /// Puts the header before a chain. `false` where no buffer is left.
    fn push_header(chain: &mut Chain, header: &Header, fragment: Option<FragmentHeader>) -> bool {
        if let Some(fragment) = fragment {
            if chain.push(&fragment).is_err() {
                return false;
            }
            prepended(chain, FRAGMENT_HEADER);
        }
        let mut header = *header;
        header.payload_length = (chain.len() as u16).into();
        if chain.push(&header).is_err() {
            return false;
        }
        prepended(chain, HEADER);
        true
    }

    /// Cuts a packet that is longer than the MTU (RFC 8200, 4.5). O(fragments).
    #[cold]
    fn send_in_fragments(
        &mut self,
        mut chain: Chain,
        mut header: Header,
        cx: &mut Context<'_>,
    ) -> Outcome {
        let inner = header.next_header;
        if has_partial_inside(&chain) {
            return cx.drop(chain, TOO_BIG);
        }
        if chain.meta().offload().contains(Offload::CHECKSUM_PARTIAL)
            && !complete_checksum(&mut chain, u64::from(inner))
        {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        header.next_header = protocol::FRAGMENT as u8;
        let identification = self.next_id.into();
        self.next_id = self.next_id.wrapping_add(1);
        let most = (self.mtu - HEADER - FRAGMENT_HEADER) & !7;
        let mut offset = 0_u16;
        loop {
            let rest = if chain.len() > most {
                match chain.split_off(most) {
                    Ok(rest) => Some(rest),
                    Err(_) => return cx.drop(chain, DropReason::NO_BUFFERS),
                }
            } else {
                None
            };
            cx.made(usize::from(rest.is_some()));
            let more = u16::from(rest.is_some());
            let fragment = FragmentHeader {
                next_header: inner,
                reserved: 0,
                offset: (offset | more).into(),
                identification,
            };
            if !Self::push_header(&mut chain, &header, Some(fragment)) {
                if let Some(rest) = rest {
                    let outcome = cx.drop(rest, DropReason::NO_BUFFERS);
                    cx.apply(outcome);
                }
                return cx.drop(chain, DropReason::NO_BUFFERS);
            }
            let Some(rest) = rest else { return cx.down(chain) };
            cx.send_down(std::mem::replace(&mut chain, rest));
            offset = offset.saturating_add(most as u16);
        }
    }
}

impl Protocol for Ipv6 {
    fn name(&self) -> &str {
        "ipv6"
    }

    fn info(&self) -> LayerInfo {
        // Without the Fragment header: what is cut has no room but in its first piece, so that
        // asking for room for all packets would gain nothing.
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(HEADER)
            .min_header(HEADER)
            .shared_slot::<Trouble>()
            .reasons(&REASONS)
            .reasons(&reassembly::REASONS)
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(&header) = chain.header::<Header>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        if header.version_class_flow.get() >> 28 != 6 {
            return cx.drop(chain, DropReason::MALFORMED);
        }
        let total = HEADER + usize::from(header.payload_length.get());
        if total > chain.len() {
            return cx.drop(chain, TRUNCATED);
        }
        if total < chain.len() && chain.truncate(total).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        let source = Ipv6Addr::from_octets(header.source);
        let destination = Ipv6Addr::from_octets(header.destination);
        if source.is_multicast()
            || source.is_unspecified()
            || source.is_loopback()
            || self.is_own(source)
        {
            return cx.drop(chain, BAD_SOURCE);
        }
        if !self.is_for_us(destination) {
            return cx.drop(chain, OTHER_HOST);
        }
        if !destination.is_multicast() && to_link_group(&chain) {
            return cx.drop(chain, LINK_GROUP);
        }
        if chain.trim_front(HEADER).is_err() {
            return cx.drop(chain, DropReason::SHORT);
        }
        let meta = chain.meta_mut();
        meta.set_source(address(source));
        meta.set_destination(address(destination));
        meta.set_transport_offset(meta.network_offset().saturating_add(HEADER as u16));
        self.deliver(chain, header.next_header, 6, false, cx)
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if !cx.slot::<Trouble>(&chain).is_none() {
            return troubled(chain, cx);
        }
        let Some(destination) = v6(chain.meta().destination()).map(|address| *address.ip()) else {
            return cx.drop(chain, NO_ROUTE);
        };
        let (Some(next), Some(key)) = (self.next_hop(destination), cx.key()) else {
            return cx.drop(chain, NO_ROUTE);
        };
        if chain.len() > 65_535 {
            return cx.drop(chain, TOO_BIG);
        }
        let given = v6(chain.meta().source()).map_or(Ipv6Addr::UNSPECIFIED, |source| *source.ip());
        let mut source = given;
        if !self.is_own(given) {
            source = self.source_for(destination);
            if !readdressed(&mut chain, key, &given.octets(), &source.octets()) {
                return cx.drop(chain, DropReason::NO_BUFFERS);
            }
        }
        let header = Header {
            version_class_flow: (6 << 28).into(),
            payload_length: 0.into(),
            next_header: key as u8,
            hop_limit: self.hop_limit,
            source: source.octets(),
            destination: destination.octets(),
        };
        let meta = chain.meta_mut();
        meta.set_source(Address::None);
        meta.set_destination(Address::Ip(SocketAddr::new(IpAddr::V6(next), 0)));
        if HEADER + chain.len() > self.mtu && !chain.meta().offload().contains(Offload::SEGMENTED) {
            return self.send_in_fragments(chain, header, cx);
        }
        if !Self::push_header(&mut chain, &header, None) {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        cx.down(chain)
    }

    fn timeout(&mut self, _: Timer, cx: &mut Context<'_>) {
        self.timer = None;
        for (_, first, _) in self.reassembly.expire(cx.now()) {
            if let Some(mut chain) = first {
                cx.set_slot(&mut chain, Trouble::REASSEMBLY_TIME_EXCEEDED);
                let outcome = troubled(chain, cx);
                cx.apply(outcome);
            }
        }
        self.reassembly.bury(cx);
        self.arm(cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        let reason = match signal {
            Signal::Mtu(bytes) => {
                self.mtu = bytes.clamp(MIN_MTU, 65_535);
                return;
            }
            Signal::Drain => reassembly::EVICTED,
            Signal::Shutdown => {
                self.closed = true;
                DropReason::CLOSED
            }
            _ => return,
        };
        self.reassembly.clear(reason);
        self.reassembly.bury(cx);
        if let Some(timer) = self.timer.take() {
            cx.cancel(timer);
        }
    }

    fn held(&self) -> Held {
        self.reassembly.held()
    }
}

/// A packet that came and cannot be delivered, with all its headers, for ICMPv6 to answer.
#[cold]
fn troubled(mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
    let meta = chain.meta();
    let headers = usize::from(meta.transport_offset().saturating_sub(meta.network_offset()));
    let reason = match cx.slot::<Trouble>(&chain).kind() {
        Trouble::PARAMETER => DropReason::MALFORMED,
        Trouble::TIME_EXCEEDED => reassembly::REASSEMBLY_TIMEOUT,
        _ => DropReason::UNBOUND,
    };
    if !cx.is_bound(protocol::ICMPV6) || headers < HEADER || chain.restore(headers).is_err() {
        return cx.drop(chain, reason);
    }
    cx.up_key(protocol::ICMPV6, chain)
}

/// An address without port; a link-local one is of the only link there is.
fn address(ip: Ipv6Addr) -> Address {
    let local = ip.is_unicast_link_local() || ip.is_multicast() && ip.octets()[1] & 0xf == 2;
    Address::Ip(SocketAddr::V6(SocketAddrV6::new(ip, 0, 0, u32::from(local))))
}

/// The IPv6 address in there.
fn v6(address: Address) -> Option<SocketAddrV6> {
    match address {
        Address::Ip(SocketAddr::V6(v6)) => Some(v6),
        _ => None,
    }
}

fn same_prefix(one: Ipv6Addr, other: Ipv6Addr, prefix: u8) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
    (one.to_bits() ^ other.to_bits()) & mask == 0
}
