//! The virtio header before each packet, and what it says in a packet's metadata.
//!
//! ```text
//!  0      1      2         4         6            8             10
//! +------+------+---------+---------+------------+-------------+
//! |flags | gso  | header  | segment | checksum   | checksum    |
//! |      | type | length  | size    | start      | offset      |
//! +------+------+---------+---------+------------+-------------+
//! ```
//!
//! Virtual I/O Device 1.2, section 5.1.6, in the host's byte order, as TUN and TAP have it where
//! nobody asks for another.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    chain::{Chain, checksum},
    meta::{Meta, Offload},
};

/// Bytes of the header.
pub(super) const LEN: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// IP protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Extension headers and tags that are looked through before it is given up.
const MOST_HEADERS: usize = 8;

/// The header as it is before a packet.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(super) struct Header {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    segment_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}
const _: () = assert!(size_of::<Header>() == LEN);

/// Why a packet cannot be sent as its metadata asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Several segments, for a device that does not cut them, or by a protocol that it does not.
    NotOffloaded,
    /// A checksum to be filled in, where there is none that is known.
    NoChecksumField,
}

impl Header {
    /// Writes to the metadata what the header of a received packet says.
    pub(super) fn tell(&self, meta: &mut Meta) {
        let mut offload = Offload::empty();
        if self.flags & NEEDS_CHECKSUM != 0 {
            offload |= Offload::CHECKSUM_PARTIAL;
            meta.set_transport_offset(self.checksum_start);
        } else if self.flags & DATA_VALID != 0 {
            offload |= Offload::CHECKSUM_VERIFIED;
        }
        if self.gso_type != GSO_NONE && self.segment_size > 0 {
            offload |= Offload::SEGMENTED;
            meta.set_segment_size(self.segment_size);
        }
        meta.set_offload(offload);
    }

    /// The header for a packet that is to be sent: all zeroes unless its metadata asks for
    /// something. `link` is the length of the header before IP: 14 or 0.
    pub(super) fn ask(chain: &Chain, link: usize, cuts: Cuts) -> Result<Self, Refusal> {
        let meta = chain.meta();
        let offload = meta.offload();
        if !offload.intersects(Offload::CHECKSUM_PARTIAL | Offload::SEGMENTED) {
            return Ok(Self::default());
        }
        let segmented = offload.contains(Offload::SEGMENTED) && meta.segment_size() > 0;
        if segmented && !offload.contains(Offload::CHECKSUM_PARTIAL) {
            // Each segment needs a checksum of its own, so that of the whole cannot be done.
            return Err(Refusal::NotOffloaded);
        }
        if !offload.contains(Offload::CHECKSUM_PARTIAL) {
            return Ok(Self::default());
        }
        let start = meta.transport_offset();
        let at = usize::from(start);
        let transport = Transport::find(chain, link, at).ok_or(Refusal::NoChecksumField)?;
        let mut header = Self {
            flags: NEEDS_CHECKSUM,
            checksum_start: start,
            checksum_offset: transport.checksum_field().ok_or(Refusal::NoChecksumField)?,
            ..Self::default()
        };
        if segmented {
            let (gso_type, len) = match transport {
                Transport { outermost: false, .. } => return Err(Refusal::NotOffloaded),
                Transport { protocol: UDP, .. } if cuts.udp => (GSO_UDP_L4, 8),
                Transport { protocol: TCP, ipv6, .. } if cuts.tcp => {
                    let mut offset = [0];
                    chain.peek(at + 12, &mut offset).map_err(|_| Refusal::NotOffloaded)?;
                    (if ipv6 { GSO_TCPV6 } else { GSO_TCPV4 }, u16::from(offset[0] >> 4) * 4)
                }
                _ => return Err(Refusal::NotOffloaded),
            };
            header.gso_type = gso_type;
            header.header_len = start.saturating_add(len);
            header.segment_size = meta.segment_size();
        }
        Ok(header)
    }
}

impl Header {
    /// Whether the packet stands for several.
    pub(super) fn is_segmented(&self) -> bool {
        self.gso_type != GSO_NONE
    }
}

/// What super-packets a device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cuts {
    pub(super) tcp: bool,
    pub(super) udp: bool,
}

/// Fills in the checksum that is to be filled in, for a device that does not.
pub(super) fn complete(chain: &mut Chain, link: usize) -> Result<(), Completion> {
    let start = usize::from(chain.meta().transport_offset());
    let field = Transport::find(chain, link, start).and_then(Transport::checksum_field);
    let field = usize::from(field.ok_or(Completion::Refused(Refusal::NoChecksumField))?);
    checksum::complete(chain, start, field).map_err(|error| match error {
        crate::Error::TooShort { .. } => Completion::Refused(Refusal::NoChecksumField),
        _ => Completion::NoBuffers,
    })
}

/// Why a checksum was not filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completion {
    Refused(Refusal),
    NoBuffers,
}

/// The transport header that begins at some offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Transport {
    protocol: u8,
    ipv6: bool,
    /// Not within a tunnel.
    outermost: bool,
}

impl Transport {
    /// Where its checksum is (RFC 768, 9293, 792, 4443).
    fn checksum_field(self) -> Option<u16> {
        match self.protocol {
            UDP => Some(6),
            TCP => Some(16),
            ICMP | ICMPV6 => Some(2),
            _ => None,
        }
    }

    /// The transport header at `start`: as the headers from the first on lead to it, or, where it is
    /// in a tunnel, as the IP header right before it says.
    fn find(chain: &Chain, link: usize, start: usize) -> Option<Self> {
        Self::forwards(chain, link, start).or_else(|| Self::backwards(chain, start))
    }

    fn forwards(chain: &Chain, link: usize, start: usize) -> Option<Self> {
        let mut at = link;
        if link > 0 {
            let mut ethertype = u16_at(chain, link - 2)?;
            for _ in 0..MOST_HEADERS {
                if !matches!(ethertype, 0x8100 | 0x88a8) {
                    break;
                }
                ethertype = u16_at(chain, at + 2)?;
                at += 4;
            }
            if !matches!(ethertype, 0x0800 | 0x86dd) {
                return None;
            }
        }
        match u8_at(chain, at)? {
            first @ 0x45..=0x4f => {
                let len = usize::from(first & 0xf) * 4;
                let protocol = u8_at(chain, at + 9)?;
                (at + len == start).then_some(Self { protocol, ipv6: false, outermost: true })
            }
            0x60..=0x6f => {
                let mut protocol = u8_at(chain, at + 6)?;
                at += 40;
                for _ in 0..MOST_HEADERS {
                    if at >= start {
                        break;
                    }
                    // Hop-by-hop, routing, fragment, destination options (RFC 8200, section 4).
                    let len = match protocol {
                        0 | 43 | 60 => (usize::from(u8_at(chain, at + 1)?) + 1) * 8,
                        44 => 8,
                        _ => return None,
                    };
                    protocol = u8_at(chain, at)?;
                    at += len;
                }
                (at == start).then_some(Self { protocol, ipv6: true, outermost: true })
            }
            _ => None,
        }
    }

    /// The IP header that ends at `start`: an IPv4 header whose checksum is right, or an IPv6 header
    /// whose payload is what follows.
    fn backwards(chain: &Chain, start: usize) -> Option<Self> {
        for len in (20..=60).step_by(4).take_while(|&len| len <= start) {
            let at = start - len;
            if usize::from(u8_at(chain, at)?) == 0x40 | (len / 4)
                && chain.checksum(at..start).ok()? == 0
            {
                let protocol = u8_at(chain, at + 9)?;
                return Some(Self { protocol, ipv6: false, outermost: false });
            }
        }
        let at = start.checked_sub(40)?;
        let payload = usize::from(u16_at(chain, at + 4)?);
        let fits = u8_at(chain, at)? >> 4 == 6 && start + payload == chain.len();
        let protocol = u8_at(chain, at + 6)?;
        fits.then_some(Self { protocol, ipv6: true, outermost: false })
    }
}

fn u8_at(chain: &Chain, at: usize) -> Option<u8> {
    let mut byte = [0];
    chain.peek(at, &mut byte).ok()?;
    Some(byte[0])
}

fn u16_at(chain: &Chain, at: usize) -> Option<u16> {
    let mut bytes = [0; 2];
    chain.peek(at, &mut bytes).ok()?;
    Some(u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;

    const ALL: Cuts = Cuts { tcp: true, udp: true };

    fn ipv4(protocol: u8, options: usize, payload: &[u8]) -> Vec<u8> {
        let len = 20 + options;
        let mut packet = vec![0; len];
        packet[0] = 0x40 | (len / 4) as u8;
        packet[2..4].copy_from_slice(&((len + payload.len()) as u16).to_be_bytes());
        packet[8] = 64;
        packet[9] = protocol;
        let sum = checksum::of(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        packet[6] = next;
        packet.extend(payload);
        packet
    }

    fn ethernet(tags: usize, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn chain(pool: &Pool, bytes: &[u8], start: usize, segment: u16) -> Chain {
        let mut chain = pool.chain_from(bytes).unwrap();
        let meta = chain.meta_mut();
        meta.set_offload(Offload::CHECKSUM_PARTIAL);
        meta.set_transport_offset(start as u16);
        if segment > 0 {
            meta.set_offload(Offload::CHECKSUM_PARTIAL | Offload::SEGMENTED);
            meta.set_segment_size(segment);
        }
        chain
    }

    #[test]
    fn what_a_header_says_is_in_the_metadata() {
        let bytes = |flags, gso_type, segment: u16, start: u16| {
            let mut bytes = [0; LEN];
            bytes[..2].copy_from_slice(&[flags, gso_type]);
            bytes[4..6].copy_from_slice(&segment.to_ne_bytes());
            bytes[6..8].copy_from_slice(&start.to_ne_bytes());
            bytes
        };
        let told = |bytes: [u8; LEN]| {
            let mut meta = Meta::EMPTY;
            Header::read_from_bytes(&bytes).unwrap().tell(&mut meta);
            (meta.offload(), meta.segment_size(), meta.transport_offset())
        };
        let (partial, segmented) = (Offload::CHECKSUM_PARTIAL, Offload::SEGMENTED);
        assert_eq!(told([0; LEN]), (Offload::empty(), 0, 0));
        assert_eq!(told(bytes(1, 0, 0, 34)), (partial, 0, 34));
        assert_eq!(told(bytes(2, 0, 0, 0)), (Offload::CHECKSUM_VERIFIED, 0, 0));
        assert_eq!(told(bytes(1, 5, 1_400, 34)), (partial | segmented, 1_400, 34));
        assert_eq!(told(bytes(1, 0x81, 1_448, 34)), (partial | segmented, 1_448, 34), "ECN");
    }

    #[test]
    fn the_checksum_is_found_behind_tags_options_and_extension_headers() {
        let pool = Pool::with_memory(1 << 20).unwrap();
        let udp = [0; 12];
        let hop_by_hop = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp].concat();
        let cases = [
            (ethernet(0, 0x0800, &ipv4(17, 0, &udp)), 14, 34, 6),
            (ethernet(2, 0x0800, &ipv4(6, 8, &[0; 20])), 14, 50, 16),
            (ethernet(1, 0x86dd, &ipv6(58, &udp)), 14, 58, 2),
            (ethernet(0, 0x86dd, &ipv6(0, &hop_by_hop)), 14, 62, 6),
            (ipv4(1, 40, &udp), 0, 60, 2),
            (ipv6(6, &[0; 20]), 0, 40, 16),
            // In a tunnel: UDP, VXLAN, Ethernet, IP.
            (
                ipv4(17, 0, &[&[0; 16][..], &ethernet(0, 0x0800, &ipv4(6, 4, &[0; 20]))].concat()),
                0,
                74,
                16,
            ),
            (ipv4(47, 0, &[&[0; 4][..], &ipv6(17, &udp)].concat()), 0, 64, 6),
        ];
        for (bytes, link, start, field) in cases {
            let header = Header::ask(&chain(&pool, &bytes, start, 0), link, ALL).unwrap();
            let expected = Header {
                flags: NEEDS_CHECKSUM,
                checksum_start: start as u16,
                checksum_offset: field,
                ..Header::default()
            };
            assert_eq!(header, expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn a_super_packet_is_asked_for_by_its_protocol() {
        let pool = Pool::with_memory(1 << 20).unwrap();
        let mut tcp = [0; 40];
        tcp[12] = 8 << 4;
        let udp = [0; 20];
        let cases = [
            (ipv4(17, 0, &udp), 20, GSO_UDP_L4, 28),
            (ipv6(17, &udp), 40, GSO_UDP_L4, 48),
            (ipv4(6, 0, &tcp), 20, GSO_TCPV4, 52),
            (ipv6(6, &tcp), 40, GSO_TCPV6, 72),
        ];
        for (bytes, start, gso_type, header_len) in cases {
            let chain = chain(&pool, &bytes, start, 4);
            let header = Header::ask(&chain, 0, ALL).unwrap();
            assert_eq!((header.gso_type, header.header_len), (gso_type, header_len));
            assert_eq!((header.flags, header.segment_size), (NEEDS_CHECKSUM, 4));
            assert_eq!(Header::ask(&chain, 0, Cuts::default()), Err(Refusal::NotOffloaded));
        }
        // Within a tunnel, of a protocol that has no segments, or without a checksum to fill in.
        let tunnel = ipv4(47, 0, &[&[0; 4][..], &ipv6(17, &udp)].concat());
        for (bytes, start) in [(tunnel, 64), (ipv4(1, 0, &udp), 20)] {
            let chain = chain(&pool, &bytes, start, 4);
            assert_eq!(Header::ask(&chain, 0, ALL), Err(Refusal::NotOffloaded));
        }
        let mut chain = chain(&pool, &ipv4(17, 0, &udp), 20, 4);
        chain.meta_mut().set_offload(Offload::SEGMENTED);
        assert_eq!(Header::ask(&chain, 0, ALL), Err(Refusal::NotOffloaded));
    }

    #[test]
    fn metadata_that_does_not_fit_the_packet_is_refused_and_never_read_beyond_it() {
        let pool = Pool::with_memory(1 << 20).unwrap();
        let packets = [
            ethernet(1, 0x0800, &ipv4(17, 0, &[0; 12])),
            ethernet(0, 0x86dd, &ipv6(0, &[17, 0, 1, 4, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])),
        ];
        for packet in packets {
            for len in 0..=packet.len() {
                for start in (0..packet.len() + 4).chain([65_535]) {
                    for link in [0, 14] {
                        let mut chain = chain(&pool, &packet[..len], start, 4);
                        let asked = Header::ask(&chain, link, ALL).is_ok();
                        assert!(!asked || start < packet.len(), "{len} bytes, start {start}");
                        let before = chain.to_vec().unwrap();
                        if complete(&mut chain, link).is_err() {
                            assert_eq!(chain.to_vec().unwrap(), before);
                        }
                    }
                }
            }
        }
        let chain = chain(&pool, &ipv4(132, 0, &[0; 12]), 20, 0);
        assert_eq!(Header::ask(&chain, 0, ALL), Err(Refusal::NoChecksumField), "SCTP");
    }
}
