//! The headers of the packets, as they are on the wire: mbuf has no Internet protocols yet.

use zerocopy::{
    FromBytes, Immutable, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub kind: U16,
}

/// What follows the kind [`VLAN`].
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tag {
    pub id: U16,
    pub kind: U16,
}

#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    pub version_and_length: u8,
    pub service: u8,
    pub total: U16,
    pub id: U16,
    pub fragment: U16,
    pub hops: u8,
    pub protocol: u8,
    pub checksum: U16,
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

impl Ipv4 {
    /// Bytes of the header with its options; `None` for what is not IPv4.
    #[inline]
    pub fn header(&self) -> Option<usize> {
        let length = usize::from(self.version_and_length & 15) * 4;
        (self.version_and_length >> 4 == 4 && length >= size_of::<Ipv4>()).then_some(length)
    }
}

#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    pub version_and_flow: U32,
    pub payload: U16,
    pub protocol: u8,
    pub hops: u8,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Udp {
    pub source: U16,
    pub destination: U16,
    pub length: U16,
    pub checksum: U16,
}

#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tcp {
    pub source: U16,
    pub destination: U16,
    pub sequence: U32,
    pub acknowledged: U32,
    pub offset: u8,
    pub flags: u8,
    pub window: U16,
    pub checksum: U16,
    pub urgent: U16,
}
