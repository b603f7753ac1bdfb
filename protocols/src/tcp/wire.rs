//! Between chains and the packets of smoltcp.

use std::net::{IpAddr, SocketAddr};

use mbuf::{
    Address, Chain,
    meta::Offload,
    stack::{Context, DropReason},
};
use smoltcp::time::Instant;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use crate::net::{
    ipv4::{self, BAD_CHECKSUM, NO_ROUTE, TOO_BIG},
    ipv6, protocol, pseudo_header,
};

/// The header as it stands on the wire, without options.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// The sender's port.
    pub source: U16,
    /// The receiver's port.
    pub destination: U16,
    /// Of the first byte of data, or of SYN.
    pub sequence: U32,
    /// The sequence number that is expected next.
    pub acknowledgment: U32,
    /// The header's length in words of 32 bits, in the upper four bits.
    pub offset: u8,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN.
    pub flags: u8,
    /// How much more may be sent.
    pub window: U16,
    /// Over pseudo header, header and data.
    pub checksum: U16,
    /// Where urgent data ends.
    pub urgent: U16,
}

pub(super) const HEADER: usize = size_of::<Header>();
/// Where the header has its checksum.
const CHECKSUM: usize = 16;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What the adapter itself must know of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// It asks for a connection.
    pub(super) begins: bool,
    pub(super) resets: bool,
    /// It has a SYN, a FIN or a RST.
    pub(super) is_special: bool,
}

impl Segment {
    /// Looks at a segment as IP hands it up: O(n) for the checksum.
    pub(super) fn of(chain: &mut Chain) -> Result<Self, DropReason> {
        let Ok(&header) = chain.header::<Header>() else { return Err(DropReason::SHORT) };
        let (Address::Ip(from), Address::Ip(to)) =
            (chain.meta().source(), chain.meta().destination())
        else {
            return Err(NO_ROUTE);
        };
        let offset = usize::from(header.offset >> 4) * 4;
        let (source, destination) = (header.source.get(), header.destination.get());
        // SYN, FIN and RST exclude each other.
        let special = (header.flags & (SYN | FIN | RST)).count_ones();
        if offset < HEADER || offset > chain.len() || source == 0 || destination == 0 || special > 1
        {
            return Err(DropReason::MALFORMED);
        }
        let known = Offload::CHECKSUM_VERIFIED | Offload::CHECKSUM_PARTIAL;
        if !chain.meta().offload().intersects(known) {
            let sum = pseudo_header(from.ip(), to.ip(), protocol::TCP, chain.len());
            let mut sum = sum.ok_or(DropReason::MALFORMED)?;
            if sum.add_chain(chain, ..).is_err() || sum.checksum() != 0 {
                return Err(BAD_CHECKSUM);
            }
        }
        Ok(Self {
            peer: SocketAddr::new(from.ip(), source),
            local: SocketAddr::new(to.ip(), destination),
            begins: header.flags & (SYN | ACK | RST) == SYN,
            resets: header.flags & RST != 0,
            is_special: special > 0,
        })
    }

    /// Puts an IP header before the segment, in the room that the one before has left, and makes
    /// all of it contiguous: smoltcp reads nothing else.
    pub(super) fn wrap(self, chain: &mut Chain) -> Result<(), DropReason> {
        let len = u16::try_from(ipv4::HEADER + chain.len()).map_err(|_| TOO_BIG)?;
        let pushed = match (self.peer.ip(), self.local.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => chain.push(&ipv4::Header {
                version_ihl: 0x45,
                tos: 0,
                total_length: len.into(),
                identification: 0.into(),
                fragment: 0.into(),
                ttl: 64,
                protocol: protocol::TCP as u8,
                checksum: 0.into(),
                source: from.octets(),
                destination: to.octets(),
            }),
            (IpAddr::V6(from), IpAddr::V6(to)) => chain.push(&ipv6::Header {
                version_class_flow: (6 << 28).into(),
                payload_length: (len - ipv4::HEADER as u16).into(),
                next_header: protocol::TCP as u8,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
            }),
            _ => return Err(DropReason::MALFORMED),
        };
        let whole = chain.len();
        match pushed.and_then(|()| chain.pullup(whole).map(|_| ())) {
            Ok(()) => Ok(()),
            Err(_) => Err(DropReason::NO_BUFFERS),
        }
    }
}

/// Fills in the checksum of a packet that smoltcp has written, or its pseudo header's part; whom it
/// is from, whom it is for, and the length of its IP header.
pub(super) fn seal(packet: &mut [u8], offload: bool) -> Option<(IpAddr, IpAddr, usize)> {
    let (from, to, header): (IpAddr, IpAddr, usize) = match packet.first()? >> 4 {
        4 => {
            let (header, _) = ipv4::Header::ref_from_prefix(packet).ok()?;
            (header.source.into(), header.destination.into(), ipv4::HEADER)
        }
        _ => {
            let (header, _) = ipv6::Header::ref_from_prefix(packet).ok()?;
            (header.source.into(), header.destination.into(), ipv6::HEADER)
        }
    };
    let segment = packet.get_mut(header..)?;
    let mut sum = pseudo_header(from, to, protocol::TCP, segment.len())?;
    let sum = if offload {
        sum.fold()
    } else {
        sum.add(segment);
        sum.checksum()
    };
    segment.get_mut(CHECKSUM..CHECKSUM + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some((from, to, header))
}

pub(super) fn instant(cx: &Context<'_>) -> Instant {
    Instant::from_micros(i64::try_from(cx.now().as_nanos() / 1000).unwrap_or(i64::MAX))
}
