//! The Internet protocols: what the layers of a host share.
//!
//! ```text
//!               udp        tcp
//!   icmp --.   /  |        /  |    .-- icmpv6
//!           \ /   '-------/---.\  /
//!           ipv4   .-----'     ipv6
//!            |    /              |
//!           arp                  nd
//!             \                 /
//!              ethernet (vlan)
//! ```
//!
//! How they speak to each other:
//!
//! - **Keys**: Ethernet, VLAN and GRE hand up by EtherType ([`ethertype`]), IP by protocol number
//!   ([`protocol`]), UDP by local port.
//! - **Addresses** stand in [`Meta`](mbuf::Meta). Up: Ethernet sets the MACs, IP overwrites them
//!   with IP addresses, UDP fills in the ports. Down: each layer takes them, writes its header, and
//!   leaves what the layer below needs: IP the next hop, ARP or ND its MAC.
//! - **Offsets**: each layer that strips a link header adds its length to `network_offset`; IP sets
//!   `transport_offset`. Down, `transport_offset` is kept only for a partial checksum, by
//!   [`prepended`].
//! - **Trouble**: a packet that cannot be delivered goes back down with its headers restored and
//!   the shared slot [`Trouble`] set; IP hands it to ICMP, which makes the error message of it.

pub mod arp;
mod bucket;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod reassembly;
pub mod udp;
pub mod vlan;

pub use arp::Arp;
pub use ethernet::Ethernet;
pub use icmp::Icmp;
pub use icmpv6::Icmpv6;
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use nd::Nd;
pub use udp::Udp;
pub use vlan::Vlan;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mbuf::{
    Address, Chain,
    chain::checksum::{self, Sum},
    meta::Offload,
    stack::DropReason,
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

pub use mbuf::chain::checksum::{update, update_u32};

/// EtherTypes, the keys above Ethernet, VLAN and GRE (IEEE 802 numbers, IANA).
pub mod ethertype {
    /// The least value that is a type; below, the field is a length (IEEE 802.3, 3.2.6).
    pub const MIN: u64 = 0x0600;
    /// IPv4 (RFC 894).
    pub const IPV4: u64 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u64 = 0x0806;
    /// Ethernet inside something else (RFC 1701): the payload of GRE and GENEVE.
    pub const TRANSPARENT_ETHERNET: u64 = 0x6558;
    /// A customer's VLAN tag (IEEE 802.1Q).
    pub const VLAN: u64 = 0x8100;
    /// IPv6 (RFC 2464).
    pub const IPV6: u64 = 0x86dd;
    /// MPLS with labels of unicast (RFC 3032).
    pub const MPLS: u64 = 0x8847;
    /// MPLS with labels assigned upstream (RFC 5332).
    pub const MPLS_UPSTREAM: u64 = 0x8848;
    /// A provider's VLAN tag (IEEE 802.1ad, QinQ).
    pub const QINQ: u64 = 0x88a8;
    /// Two values that are free for experiments (IEEE 802a).
    pub const LOCAL_EXPERIMENTS: [u64; 2] = [0x88b5, 0x88b6];
}

/// Protocol numbers, the keys above IPv4 and IPv6 (IANA).
pub mod protocol {
    /// IPv6's hop-by-hop options (RFC 8200).
    pub const HOP_BY_HOP: u64 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u64 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPV4: u64 = 4;
    /// TCP (RFC 9293).
    pub const TCP: u64 = 6;
    /// UDP (RFC 768).
    pub const UDP: u64 = 17;
    /// IPv6 in IP (RFC 2473).
    pub const IPV6: u64 = 41;
    /// IPv6's routing header (RFC 8200).
    pub const ROUTING: u64 = 43;
    /// IPv6's fragment header (RFC 8200).
    pub const FRAGMENT: u64 = 44;
    /// GRE (RFC 2784).
    pub const GRE: u64 = 47;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u64 = 58;
    /// IPv6's *no next header* (RFC 8200).
    pub const NO_NEXT_HEADER: u64 = 59;
    /// IPv6's destination options (RFC 8200).
    pub const DESTINATION_OPTIONS: u64 = 60;
    /// MPLS in IP (RFC 4023).
    pub const MPLS: u64 = 137;
    /// Two values that are free for experiments (RFC 3692).
    pub const EXPERIMENTS: [u64; 2] = [253, 254];
}

/// What is wrong with a packet that goes back down, for ICMP or ICMPv6 to say to its sender: a
/// slot that the layers of both share (`LayerInfo::shared_slot`). All zeroes, which is how a packet
/// comes in, is no trouble.
///
/// It is neutral; ICMP and ICMPv6 map it to their own types and codes.
///
/// ```
/// use mbuf_protocols::net::Trouble;
///
/// assert!(Trouble::NONE.is_none());
/// assert_eq!(Trouble::packet_too_big(1400).argument(), 1400);
/// assert_ne!(Trouble::PORT_UNREACHABLE, Trouble::PROTOCOL_UNREACHABLE);
/// ```
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Trouble {
    kind: u8,
    code: u8,
    argument: U16,
}

impl Trouble {
    /// Nothing is wrong.
    pub const NONE: Trouble = Trouble::new(0, 0, 0);
    /// Nothing listens on the port (RFC 1122, 4.1.3.1).
    pub const PORT_UNREACHABLE: Trouble = Trouble::new(Self::UNREACHABLE, 1, 0);
    /// Nothing is bound to the protocol (RFC 1122, 3.2.2.1).
    pub const PROTOCOL_UNREACHABLE: Trouble = Trouble::new(Self::UNREACHABLE, 2, 0);
    /// The host does not answer (no neighbour of that address).
    pub const HOST_UNREACHABLE: Trouble = Trouble::new(Self::UNREACHABLE, 3, 0);
    /// It is not for here, and nothing forwards it.
    pub const PROHIBITED: Trouble = Trouble::new(Self::UNREACHABLE, 4, 0);
    /// Its time to live ran out on the way.
    pub const TIME_EXCEEDED_IN_TRANSIT: Trouble = Trouble::new(Self::TIME_EXCEEDED, 0, 0);
    /// Not all of its fragments came in time.
    pub const REASSEMBLY_TIME_EXCEEDED: Trouble = Trouble::new(Self::TIME_EXCEEDED, 1, 0);

    /// The kind of [`PORT_UNREACHABLE`](Trouble::PORT_UNREACHABLE) and its like.
    pub const UNREACHABLE: u8 = 1;
    /// The kind of [`packet_too_big`](Trouble::packet_too_big).
    pub const TOO_BIG: u8 = 2;
    /// The kind of the two `TIME_EXCEEDED`.
    pub const TIME_EXCEEDED: u8 = 3;
    /// The kind of [`parameter_problem`](Trouble::parameter_problem) and its like.
    pub const PARAMETER: u8 = 4;

    const fn new(kind: u8, code: u8, argument: u16) -> Self {
        Self { kind, code, argument: U16::from_bytes(argument.to_be_bytes()) }
    }

    /// The packet is longer than the next link takes, and must not be cut.
    ///
    /// ```
    /// # use mbuf_protocols::net::Trouble;
    /// assert_eq!(Trouble::packet_too_big(1280).kind(), Trouble::TOO_BIG);
    /// ```
    pub const fn packet_too_big(mtu: u16) -> Self {
        Self::new(Self::TOO_BIG, 0, mtu)
    }

    /// A field of the header is wrong, the one at this byte from the start of the IP header
    /// (ICMPv6 code 0).
    ///
    /// ```
    /// # use mbuf_protocols::net::Trouble;
    /// assert_eq!(Trouble::parameter_problem(20).argument(), 20);
    /// ```
    pub const fn parameter_problem(pointer: u16) -> Self {
        Self::new(Self::PARAMETER, 0, pointer)
    }

    /// A next header, at this byte, that is not known (ICMPv6 code 1).
    ///
    /// ```
    /// # use mbuf_protocols::net::Trouble;
    /// assert_eq!(Trouble::unknown_next_header(6).code(), 1);
    /// ```
    pub const fn unknown_next_header(pointer: u16) -> Self {
        Self::new(Self::PARAMETER, 1, pointer)
    }

    /// An option, at this byte, that is not known (ICMPv6 code 2).
    ///
    /// ```
    /// # use mbuf_protocols::net::Trouble;
    /// assert_eq!(Trouble::unknown_option(42).code(), 2);
    /// ```
    pub const fn unknown_option(pointer: u16) -> Self {
        Self::new(Self::PARAMETER, 2, pointer)
    }

    /// Whether nothing is wrong.
    ///
    /// ```
    /// # use mbuf_protocols::net::Trouble;
    /// assert!(!Trouble::PORT_UNREACHABLE.is_none());
    /// ```
    pub const fn is_none(self) -> bool {
        self.kind == 0
    }

    /// What sort of trouble it is, one of the constants.
    ///
    /// ```
    /// # use mbuf_protocols::net::Trouble;
    /// assert_eq!(Trouble::TIME_EXCEEDED_IN_TRANSIT.kind(), Trouble::TIME_EXCEEDED);
    /// ```
    pub const fn kind(self) -> u8 {
        self.kind
    }

    /// Which of its kind; the numbers are this type's own, except that those of parameter problems
    /// are ICMPv6's and those of time exceeded are both ICMPs'.
    ///
    /// ```
    /// # use mbuf_protocols::net::Trouble;
    /// assert_eq!(Trouble::REASSEMBLY_TIME_EXCEEDED.code(), 1);
    /// ```
    pub const fn code(self) -> u8 {
        self.code
    }

    /// The MTU, or the pointer.
    ///
    /// ```
    /// # use mbuf_protocols::net::Trouble;
    /// assert_eq!(Trouble::packet_too_big(1400).argument(), 1400);
    /// ```
    pub const fn argument(self) -> u16 {
        let [high, low] = self.argument.to_bytes();
        u16::from_be_bytes([high, low])
    }
}

/// It came to a group of stations, and yet is for one host: a host discards it, and says nothing of it
/// (RFC 1122, section 3.3.6; RFC 4443, section 2.4).
pub const LINK_GROUP: DropReason = DropReason("link_group");

/// Whether a packet came as a broadcast or multicast of its link: an IP layer asks before it writes
/// its own addresses over the MACs.
#[inline]
pub(crate) fn to_link_group(chain: &Chain) -> bool {
    matches!(chain.meta().destination(), Address::Mac(mac) if mac[0] & 1 != 0)
}

/// To be called by every layer that has put `n` bytes before a chain on its way down: where the
/// transport's checksum is still to be filled in, `transport_offset` says where the transport
/// header is by then. O(1).
///
/// ```
/// use mbuf::meta::Offload;
/// use mbuf_protocols::net::prepended;
///
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let mut chain = pool.chain_from(&[0; 8])?;
/// prepended(&mut chain, 20);
/// assert_eq!(chain.meta().transport_offset(), 0);
/// chain.meta_mut().set_offload(Offload::CHECKSUM_PARTIAL);
/// prepended(&mut chain, 20);
/// prepended(&mut chain, 14);
/// assert_eq!(chain.meta().transport_offset(), 34);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline]
pub fn prepended(chain: &mut Chain, n: usize) {
    if chain.meta().offload().contains(Offload::CHECKSUM_PARTIAL) {
        let offset = usize::from(chain.meta().transport_offset()).saturating_add(n);
        chain.meta_mut().set_transport_offset(u16::try_from(offset).unwrap_or(u16::MAX));
    }
}

/// The sum of IPv4's pseudo header (RFC 768, RFC 9293), `len` being that of transport header and
/// payload. O(1).
///
/// ```
/// use mbuf_protocols::net::{protocol, pseudo_header_v4};
///
/// let sum = pseudo_header_v4("10.0.0.1".parse()?, "10.0.0.2".parse()?, protocol::UDP, 8);
/// assert_eq!(sum.fold(), 0x0a00 + 1 + 0x0a00 + 2 + 17 + 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline]
pub fn pseudo_header_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u64, len: u16) -> Sum {
    Sum::ipv4(source, destination, protocol as u8, len)
}

/// The sum of IPv6's pseudo header (RFC 8200, 8.1), `len` being that of transport header and
/// payload. O(1).
///
/// ```
/// use mbuf_protocols::net::{protocol, pseudo_header_v6};
///
/// let sum = pseudo_header_v6("::1".parse()?, "::2".parse()?, protocol::ICMPV6, 8);
/// assert_eq!(sum.fold(), 1 + 2 + 58 + 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline]
pub fn pseudo_header_v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u64,
    len: u32,
) -> Sum {
    Sum::ipv6(source, destination, next_header as u8, len)
}

/// The sum of the pseudo header of whichever version both addresses are; `None` where they differ.
#[inline]
pub(crate) fn pseudo_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: u64,
    len: usize,
) -> Option<Sum> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Some(pseudo_header_v4(source, destination, protocol, len as u16))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Some(pseudo_header_v6(source, destination, protocol, len as u32))
        }
        _ => None,
    }
}

/// To be called by an IP layer that puts another source into a packet than the one its transport's
/// checksum was made with: brings that checksum up to date (RFC 1624). TCP and UDP only; a UDP
/// checksum of 0 (none) stays 0. `false` where no buffer was left. O(1).
///
/// ```
/// use mbuf_protocols::net::{protocol, pseudo_header_v4, readdressed};
///
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let made_for = |source: &str| -> Result<u16, Box<dyn std::error::Error>> {
///     let sum = pseudo_header_v4(source.parse()?, "10.0.0.2".parse()?, protocol::UDP, 8);
///     Ok(sum.checksum())
/// };
/// let mut chain = pool.chain_from(&[0; 6])?;
/// chain.extend_from_slice(&made_for("0.0.0.0")?.to_be_bytes())?;
/// assert!(readdressed(&mut chain, protocol::UDP, &[0, 0, 0, 0], &[10, 0, 0, 1]));
/// assert_eq!(chain.to_vec()?[6..], made_for("10.0.0.1")?.to_be_bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn readdressed(chain: &mut Chain, protocol: u64, old: &[u8], new: &[u8]) -> bool {
    let Some(place) = checksum_place(protocol) else { return true };
    let mut field = [0; 2];
    if old == new || chain.peek(place, &mut field).is_err() {
        return true;
    }
    // Where it is another's, of a packet that a tunnel has wrapped, the flag says nothing of this one.
    let partial = is_partial(chain) && chain.meta().transport_offset() == 0;
    let mut sum = u16::from_be_bytes(field);
    if sum == 0 && protocol == protocol::UDP && !partial {
        return true;
    }
    // A partial checksum is a sum that is not complemented.
    let flip = if partial { 0xffff } else { 0 };
    sum ^= flip;
    for (old, new) in old.as_chunks::<2>().0.iter().zip(new.as_chunks::<2>().0) {
        sum = update(sum, u16::from_be_bytes(*old), u16::from_be_bytes(*new));
    }
    sum ^= flip;
    if sum == 0 && protocol == protocol::UDP && !partial {
        sum = 0xffff;
    }
    chain.copy_back(place, &sum.to_be_bytes()).is_ok()
}

/// Fills in the transport's checksum of a chain that begins with the transport header and holds
/// the pseudo header's sum in its checksum field: for who must take such a packet apart. `false`
/// where that is not possible: no buffer is left, or the header is too short. O(n).
///
/// ```
/// use mbuf::meta::Offload;
/// use mbuf_protocols::net::{complete_checksum, protocol};
///
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let mut chain = pool.chain_from(&[0, 7, 0, 9, 0, 8, 0x12, 0x34])?;
/// chain.meta_mut().set_offload(Offload::CHECKSUM_PARTIAL);
/// assert!(complete_checksum(&mut chain, protocol::UDP));
/// assert_eq!(chain.checksum(..)?, 0x1234, "all but the pseudo header");
/// assert!(chain.meta().offload().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn complete_checksum(chain: &mut Chain, protocol: u64) -> bool {
    checksum_place(protocol).is_some_and(|place| checksum::complete(chain, 0, place).is_ok())
}

fn is_partial(chain: &Chain) -> bool {
    chain.meta().offload().contains(Offload::CHECKSUM_PARTIAL)
}

/// Whether the checksum that is left to a device is that of a packet inside a tunnel: what is around
/// it cannot be cut into fragments.
pub(crate) fn has_partial_inside(chain: &Chain) -> bool {
    is_partial(chain) && chain.meta().transport_offset() != 0
}

/// Where a transport header has its checksum.
fn checksum_place(protocol: u64) -> Option<usize> {
    match protocol {
        protocol::UDP => Some(6),
        protocol::TCP => Some(16),
        protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mbuf::testing;

    use super::*;

    #[test]
    fn the_partial_checksum_of_a_packet_in_a_tunnel_is_not_that_of_the_one_around_it() {
        let pool = testing::pool();
        let made_for = |source: [u8; 4]| {
            pseudo_header_v4(source.into(), [10, 0, 0, 2].into(), protocol::UDP, 8).checksum()
        };
        let mut chain = pool.chain_from(&[0; 6]).unwrap();
        chain.extend_from_slice(&made_for([0; 4]).to_be_bytes()).unwrap();
        chain.meta_mut().set_offload(Offload::CHECKSUM_PARTIAL);
        assert!(!has_partial_inside(&chain));
        // The headers of a tunnel were put before the packet whose checksum it is.
        prepended(&mut chain, 50);
        assert!(has_partial_inside(&chain));
        assert!(readdressed(&mut chain, protocol::UDP, &[0; 4], &[10, 0, 0, 1]));
        assert_eq!(chain.to_vec().unwrap()[6..], made_for([10, 0, 0, 1]).to_be_bytes());
    }
}
