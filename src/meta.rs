//! What a packet carries beside its bytes.
//!
//! ```text
//!  0               16              32    36  38  40 41 42 44 46 48 50 52        64
//! +---------------+---------------+-----+---+---+--+--+--+--+--+--+--+-----------+
//! | source        | destination   |scope|sp |dp |k |o |in|vl|sg|l3|l4| slots     |
//! +---------------+---------------+-----+---+---+--+--+--+--+--+--+--+-----------+
//!   k kinds of the two addresses     o offload flags      in ingress port
//!   vl VLAN tag   sg segment size    l3, l4 offsets of the network and transport headers
//! ```
//!
//! One cache line, in the first mbuf of a chain. It is zeroed at the first access, not when the
//! packet is allocated, so a packet that nobody asks about never touches it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes that layers may claim as slots in each packet's metadata.
pub const SLOT_BYTES: usize = 12;

/// One end of a packet's way: whom it is from, or whom it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Address {
    /// Not known, or not applicable (a stream has one peer only).
    #[default]
    None,
    /// An IP address and port, with the scope of a link-local IPv6 address.
    Ip(SocketAddr),
    /// A link-layer address.
    Mac([u8; 6]),
    /// An entry of the port's table of peers (Unix sockets), valid for one generation of it.
    Peer {
        /// The entry's index.
        index: u32,
        /// The entry's generation: an index that was given to another peer since does not match.
        generation: u32,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::None => f.write_str("-"),
            Address::Ip(socket) => socket.fmt(f),
            Address::Mac([a, b, c, d, e, g]) => {
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            Address::Peer { index, generation } => write!(f, "peer {index}.{generation}"),
        }
    }
}

bitflags! {
    /// What the device or the kernel has already done, or is asked to do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Offload: u8 {
        /// The transport checksum was verified (or need not be: it never left the host).
        const CHECKSUM_VERIFIED = 1 << 0;
        /// The transport checksum is still to be filled in.
        const CHECKSUM_PARTIAL = 1 << 1;
        /// The payload is several segments of `segment_size` bytes, the last perhaps shorter.
        const SEGMENTED = 1 << 2;
    }
}

/// The metadata of a packet: 64 bytes, `Copy`.
///
/// It describes the innermost layer seen so far; a tunnel keeps for itself what it needs of the
/// outer one. Costs of all methods: O(1), no allocation.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Meta {
    source: [u8; 16],
    destination: [u8; 16],
    scope: u32,
    source_port: u16,
    destination_port: u16,
    /// Kind of the source address in the low four bits, of the destination in the high four.
    kinds: u8,
    offload: u8,
    ingress: u16,
    /// The tag control information plus one bit of presence would need 17 bits; the value 0xffff
    /// is reserved by 802.1Q, so the complement is stored and 0 means "no tag".
    vlan: u16,
    segment_size: u16,
    network_offset: u16,
    transport_offset: u16,
    slots: [u8; SLOT_BYTES],
}
const _: () = assert!(size_of::<Meta>() == 64);

const NONE: u8 = 0;
const IPV4: u8 = 1;
const IPV6: u8 = 2;
const MAC: u8 = 3;
const PEER: u8 = 4;

impl Meta {
    /// Metadata that says nothing: all zeroes.
    pub const EMPTY: Meta = Meta {
        source: [0; 16],
        destination: [0; 16],
        scope: 0,
        source_port: 0,
        destination_port: 0,
        kinds: 0,
        offload: 0,
        ingress: 0,
        vlan: 0,
        segment_size: 0,
        network_offset: 0,
        transport_offset: 0,
        slots: [0; SLOT_BYTES],
    };

    /// Where the packet comes from.
    ///
    /// ```
    /// use mbuf::{Meta, meta::Address};
    ///
    /// assert_eq!(Meta::EMPTY.source(), Address::None);
    /// ```
    #[inline]
    pub fn source(&self) -> Address {
        decode(self.kinds & 0xf, &self.source, self.source_port, self.scope)
    }

    /// Sets where the packet comes from.
    ///
    /// ```
    /// use mbuf::{Meta, meta::Address};
    ///
    /// let peer = Address::Ip("192.0.2.1:7".parse()?);
    /// let mut meta = Meta::EMPTY;
    /// meta.set_source(peer);
    /// assert_eq!((meta.source(), meta.destination()), (peer, Address::None));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn set_source(&mut self, address: Address) {
        let kind = encode(address, &mut self.source, &mut self.source_port, &mut self.scope);
        self.kinds = self.kinds & 0xf0 | kind;
    }

    /// Where the packet goes to.
    ///
    /// ```
    /// use mbuf::{Meta, meta::Address};
    ///
    /// assert_eq!(Meta::EMPTY.destination(), Address::None);
    /// ```
    #[inline]
    pub fn destination(&self) -> Address {
        decode(self.kinds >> 4, &self.destination, self.destination_port, self.scope)
    }

    /// Sets where the packet goes to.
    ///
    /// ```
    /// use mbuf::{Meta, meta::Address};
    ///
    /// let mut meta = Meta::EMPTY;
    /// meta.set_destination(Address::Mac([2, 0, 0, 0, 0, 1]));
    /// assert_eq!(meta.destination().to_string(), "02:00:00:00:00:01");
    /// ```
    #[inline]
    pub fn set_destination(&mut self, address: Address) {
        let kind =
            encode(address, &mut self.destination, &mut self.destination_port, &mut self.scope);
        self.kinds = self.kinds & 0x0f | kind << 4;
    }

    /// Sets the ports of both addresses, which stay as they are. Where one of them is no IP address,
    /// nothing is changed, and the answer is `false`.
    ///
    /// ```
    /// use mbuf::{Meta, meta::Address};
    ///
    /// let mut meta = Meta::EMPTY;
    /// assert!(!meta.set_ports(7, 9));
    /// meta.set_source(Address::Ip("192.0.2.1:0".parse()?));
    /// meta.set_destination(Address::Ip("192.0.2.2:0".parse()?));
    /// assert!(meta.set_ports(7, 9));
    /// assert_eq!(meta.source().to_string(), "192.0.2.1:7");
    /// assert_eq!(meta.destination().to_string(), "192.0.2.2:9");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn set_ports(&mut self, source: u16, destination: u16) -> bool {
        let is_ip = |kind| matches!(kind, IPV4 | IPV6);
        if !is_ip(self.kinds & 0xf) || !is_ip(self.kinds >> 4) {
            return false;
        }
        (self.source_port, self.destination_port) = (source, destination);
        true
    }

    /// Swaps source and destination: what a reply needs.
    ///
    /// ```
    /// use mbuf::{Meta, meta::Address};
    ///
    /// let peer = Address::Ip("[2001:db8::1]:7".parse()?);
    /// let mut meta = Meta::EMPTY;
    /// meta.set_source(peer);
    /// meta.swap_addresses();
    /// assert_eq!((meta.source(), meta.destination()), (Address::None, peer));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn swap_addresses(&mut self) {
        std::mem::swap(&mut self.source, &mut self.destination);
        std::mem::swap(&mut self.source_port, &mut self.destination_port);
        self.kinds = self.kinds.rotate_left(4);
    }

    /// Whether either address is known, so that there is something to swap.
    pub(crate) fn has_addresses(&self) -> bool {
        self.kinds != 0
    }

    /// Whether both packets have the same two addresses: from the same to the same. Reads no more
    /// than the addresses, and decodes nothing.
    pub(crate) fn same_addresses(&self, other: &Meta) -> bool {
        self.source == other.source
            && self.destination == other.destination
            && (self.source_port, self.destination_port, self.kinds, self.scope)
                == (other.source_port, other.destination_port, other.kinds, other.scope)
    }

    /// The port of the stack that the packet came in by.
    ///
    /// ```
    /// assert_eq!(mbuf::Meta::EMPTY.ingress(), 0);
    /// ```
    pub fn ingress(&self) -> u16 {
        self.ingress
    }

    /// Sets the port of the stack that the packet came in by.
    ///
    /// ```
    /// let mut meta = mbuf::Meta::EMPTY;
    /// meta.set_ingress(3);
    /// assert_eq!(meta.ingress(), 3);
    /// ```
    pub fn set_ingress(&mut self, port: u16) {
        self.ingress = port;
    }

    /// The 802.1Q tag control information, if the packet had a tag that the device took off.
    ///
    /// ```
    /// assert_eq!(mbuf::Meta::EMPTY.vlan(), None);
    /// ```
    pub fn vlan(&self) -> Option<u16> {
        (self.vlan != 0).then_some(!self.vlan)
    }

    /// Sets the tag control information. 0xffff, which 802.1Q reserves, means no tag.
    ///
    /// ```
    /// let mut meta = mbuf::Meta::EMPTY;
    /// meta.set_vlan(Some(0)); // a priority tag of VLAN 0 is a tag
    /// assert_eq!(meta.vlan(), Some(0));
    /// meta.set_vlan(Some(0xffff));
    /// assert_eq!(meta.vlan(), None);
    /// ```
    pub fn set_vlan(&mut self, tci: Option<u16>) {
        self.vlan = tci.map_or(0, |tci| !tci);
    }

    /// What was offloaded.
    ///
    /// ```
    /// use mbuf::{Meta, meta::Offload};
    ///
    /// assert!(Meta::EMPTY.offload().is_empty());
    /// ```
    pub fn offload(&self) -> Offload {
        Offload::from_bits_retain(self.offload)
    }

    /// Sets what was, or is to be, offloaded.
    ///
    /// ```
    /// use mbuf::{Meta, meta::Offload};
    ///
    /// let mut meta = Meta::EMPTY;
    /// meta.set_offload(Offload::CHECKSUM_VERIFIED | Offload::SEGMENTED);
    /// assert!(meta.offload().contains(Offload::SEGMENTED));
    /// ```
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload.bits();
    }

    /// The size in bytes of each segment of a super-packet (GSO, GRO); 0 where it is none.
    ///
    /// ```
    /// assert_eq!(mbuf::Meta::EMPTY.segment_size(), 0);
    /// ```
    pub fn segment_size(&self) -> u16 {
        self.segment_size
    }

    /// Sets the size in bytes of each segment of a super-packet.
    ///
    /// ```
    /// let mut meta = mbuf::Meta::EMPTY;
    /// meta.set_segment_size(1448);
    /// assert_eq!(meta.segment_size(), 1448);
    /// ```
    pub fn set_segment_size(&mut self, bytes: u16) {
        self.segment_size = bytes;
    }

    /// Where the network header (IP) started, in bytes from the start of the packet as received.
    ///
    /// ```
    /// assert_eq!(mbuf::Meta::EMPTY.network_offset(), 0);
    /// ```
    pub fn network_offset(&self) -> u16 {
        self.network_offset
    }

    /// Sets where the network header started.
    ///
    /// ```
    /// let mut meta = mbuf::Meta::EMPTY;
    /// meta.set_network_offset(14);
    /// assert_eq!(meta.network_offset(), 14);
    /// ```
    pub fn set_network_offset(&mut self, bytes: u16) {
        self.network_offset = bytes;
    }

    /// Where the transport header started, in bytes from the start of the packet as received.
    ///
    /// ```
    /// assert_eq!(mbuf::Meta::EMPTY.transport_offset(), 0);
    /// ```
    pub fn transport_offset(&self) -> u16 {
        self.transport_offset
    }

    /// Sets where the transport header started.
    ///
    /// ```
    /// let mut meta = mbuf::Meta::EMPTY;
    /// meta.set_transport_offset(34);
    /// assert_eq!(meta.transport_offset(), 34);
    /// ```
    pub fn set_transport_offset(&mut self, bytes: u16) {
        self.transport_offset = bytes;
    }

    /// The bytes that layers claim as slots; a stack gives each layer its own part of them.
    pub(crate) fn slots(&self) -> &[u8; SLOT_BYTES] {
        &self.slots
    }

    /// As [`Meta::slots`], to be written.
    pub(crate) fn slots_mut(&mut self) -> &mut [u8; SLOT_BYTES] {
        &mut self.slots
    }
}

impl Default for Meta {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meta")
            .field("source", &self.source())
            .field("destination", &self.destination())
            .field("ingress", &self.ingress)
            .field("vlan", &self.vlan())
            .field("offload", &self.offload())
            .field("segment_size", &self.segment_size)
            .field("network_offset", &self.network_offset)
            .field("transport_offset", &self.transport_offset)
            .field("slots", &self.slots)
            .finish()
    }
}

#[inline(always)]
fn decode(kind: u8, bytes: &[u8; 16], port: u16, scope: u32) -> Address {
    let [a, b, c, d, e, g, h, i, ..] = *bytes;
    match kind {
        IPV4 => Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)),
        IPV6 => {
            Address::Ip(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(*bytes), port, 0, scope)))
        }
        MAC => Address::Mac([a, b, c, d, e, g]),
        PEER => Address::Peer {
            index: u32::from_ne_bytes([a, b, c, d]),
            generation: u32::from_ne_bytes([e, g, h, i]),
        },
        _ => Address::None,
    }
}

#[inline(always)]
fn encode(address: Address, bytes: &mut [u8; 16], port: &mut u16, scope: &mut u32) -> u8 {
    *bytes = [0; 16];
    *port = 0;
    match address {
        Address::None => NONE,
        Address::Ip(SocketAddr::V4(v4)) => {
            bytes[..4].copy_from_slice(&v4.ip().octets());
            *port = v4.port();
            IPV4
        }
        Address::Ip(SocketAddr::V6(v6)) => {
            *bytes = v6.ip().octets();
            *port = v6.port();
            // One scope serves both ends: two addresses with scopes are on the same link, and an
            // end without one must not erase the other's.
            if v6.scope_id() != 0 {
                *scope = v6.scope_id();
            }
            IPV6
        }
        Address::Mac(mac) => {
            bytes[..6].copy_from_slice(&mac);
            MAC
        }
        Address::Peer { index, generation } => {
            bytes[..4].copy_from_slice(&index.to_ne_bytes());
            bytes[4..8].copy_from_slice(&generation.to_ne_bytes());
            PEER
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_kind_come_back_and_swap() {
        let kinds = [
            Address::None,
            Address::Ip("192.0.2.1:7".parse().unwrap()),
            Address::Ip("[2001:db8::1]:65535".parse().unwrap()),
            Address::Mac([1, 2, 3, 4, 5, 6]),
            Address::Peer { index: 7, generation: u32::MAX },
        ];
        for source in kinds {
            for destination in kinds {
                let mut meta = Meta::EMPTY;
                meta.set_source(source);
                meta.set_destination(destination);
                assert_eq!((meta.source(), meta.destination()), (source, destination));
                meta.swap_addresses();
                assert_eq!((meta.source(), meta.destination()), (destination, source));
            }
        }
    }

    #[test]
    fn a_link_local_scope_is_kept_for_both_ends() {
        let local = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 3);
        let peer = SocketAddrV6::new("fe80::2".parse().unwrap(), 9, 0, 3);
        let mut meta = Meta::EMPTY;
        meta.set_source(Address::Ip(peer.into()));
        meta.set_destination(Address::Ip(local.into()));
        assert_eq!(meta.source(), Address::Ip(peer.into()));
        assert_eq!(meta.destination(), Address::Ip(local.into()));
    }

    #[test]
    fn a_vlan_tag_of_zero_is_a_tag() {
        let mut meta = Meta::EMPTY;
        assert_eq!(meta.vlan(), None);
        meta.set_vlan(Some(0));
        assert_eq!(meta.vlan(), Some(0));
        meta.set_vlan(None);
        assert_eq!(meta.vlan(), None);
    }
}
