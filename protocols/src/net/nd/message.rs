//! Messages as they stand on the wire.

use std::net::Ipv6Addr;

use mbuf::{Chain, chain::checksum::Sum, meta::Offload, stack::DropReason};
use zerocopy::{FromBytes, IntoBytes};

use super::{BAD_CHECKSUM, BAD_HOP_LIMIT, BAD_OPTION, TRUNCATED};
use crate::net::{icmpv6::sum, ipv6::Header, protocol, pseudo_header_v6};

pub(super) const ROUTER_SOLICITATION: u8 = 133;
pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
pub(super) const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;
pub(super) const REDIRECT: u8 = 137;

/// The advertisement answers a solicitation.
pub(super) const SOLICITED: u8 = 0x40;
/// It replaces what was known.
pub(super) const OVERRIDE: u8 = 0x20;

const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
const IP: usize = 40;

/// The longest message that is looked at, in bytes.
const LONGEST: usize = 2048;

/// What a message says that was found good.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) source: Ipv6Addr,
    /// Of solicitation and advertisement.
    pub(super) target: Ipv6Addr,
    /// From the option that belongs to this kind.
    pub(super) mac: Option<[u8; 6]>,
    /// Of a router, in seconds.
    pub(super) lifetime: u16,
}

/// Whether the packet is a message of neighbour discovery, right behind the fixed header.
pub(super) fn is_one(chain: &Chain) -> bool {
    let (mut next, mut kind) = ([0; 1], [0; 1]);
    chain.peek(6, &mut next).is_ok()
        && u64::from(next[0]) == protocol::ICMPV6
        && chain.peek(IP, &mut kind).is_ok()
        && (ROUTER_SOLICITATION..=REDIRECT).contains(&kind[0])
}

/// Checks a message (RFC 4861, 6.1 and 7.1). Leaves it without its padding and IPv6 header.
pub(super) fn parse(chain: &mut Chain) -> Result<Received, DropReason> {
    let Ok(&header) = chain.header::<Header>() else { return Err(DropReason::SHORT) };
    let len = usize::from(header.payload_length.get());
    if header.version_class_flow.get() >> 28 != 6 || len > LONGEST {
        return Err(DropReason::MALFORMED);
    }
    if IP + len > chain.len() {
        return Err(TRUNCATED);
    }
    if header.hop_limit != 255 {
        return Err(BAD_HOP_LIMIT);
    }
    let (source, destination) =
        (Ipv6Addr::from_octets(header.source), Ipv6Addr::from_octets(header.destination));
    if chain.truncate(IP + len).is_err() || chain.trim_front(IP).is_err() {
        return Err(DropReason::SHORT);
    }
    let verified = Offload::CHECKSUM_VERIFIED | Offload::CHECKSUM_PARTIAL;
    if !chain.meta().offload().intersects(verified) && sum(chain, source, destination) != Some(0) {
        return Err(BAD_CHECKSUM);
    }
    let Ok(bytes) = chain.pullup(len) else { return Err(DropReason::NO_BUFFERS) };
    let Some(bytes) = bytes.get(..len) else { return Err(DropReason::SHORT) };
    read(bytes, source, destination)
}

fn read(bytes: &[u8], source: Ipv6Addr, to: Ipv6Addr) -> Result<Received, DropReason> {
    let &[kind, code, _, _, flags, _, life_high, life_low, ref rest @ ..] = bytes else {
        return Err(DropReason::SHORT);
    };
    if code != 0 || source.is_multicast() {
        return Err(DropReason::MALFORMED);
    }
    // How long the fixed part is behind the first 8 bytes, and which option has the MAC.
    let (fixed, option) = match kind {
        ROUTER_SOLICITATION => (0, SOURCE_MAC),
        ROUTER_ADVERTISEMENT => (8, SOURCE_MAC),
        SOLICITATION => (16, SOURCE_MAC),
        ADVERTISEMENT => (16, TARGET_MAC),
        _ => (32, TARGET_MAC),
    };
    let Some((fixed, mut options)) = rest.split_at_checked(fixed) else {
        return Err(DropReason::SHORT);
    };
    let mut mac = None;
    while !options.is_empty() {
        let &[kind, len, ..] = options else { return Err(BAD_OPTION) };
        let len = usize::from(len) * 8;
        let Some((one, others)) = options.split_at_checked(len).filter(|_| len > 0) else {
            return Err(BAD_OPTION);
        };
        if kind == option {
            mac = one.get(2..8).and_then(|mac| <[u8; 6]>::read_from_bytes(mac).ok());
            // A group is nobody's.
            if mac.is_none_or(|mac| mac[0] & 1 == 1) {
                return Err(BAD_OPTION);
            }
        }
        options = others;
    }
    let target = <[u8; 16]>::read_from_prefix(fixed).map_or([0; 16], |(target, _)| target);
    let target = Ipv6Addr::from_octets(target);
    let probes = source.is_unspecified();
    let good = match kind {
        ROUTER_SOLICITATION => !probes || mac.is_none(),
        ROUTER_ADVERTISEMENT | REDIRECT => source.is_unicast_link_local(),
        // One without an address asks the group, and does not say his MAC.
        SOLICITATION => {
            let group = to.octets().starts_with(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
            !target.is_multicast() && (!probes || mac.is_none() && group)
        }
        _ => {
            let to_many = to.is_multicast() && flags & SOLICITED != 0;
            !probes && !target.is_multicast() && !target.is_unspecified() && !to_many
        }
    };
    if !good {
        return Err(DropReason::MALFORMED);
    }
    let lifetime = u16::from_be_bytes([life_high, life_low]);
    Ok(Received { kind, flags, source, target, mac, lifetime })
}

/// A solicitation or an advertisement of ours.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) source: Ipv6Addr,
    pub(super) destination: Ipv6Addr,
    pub(super) target: Ipv6Addr,
    pub(super) mac: [u8; 6],
}

impl Message {
    const LEN: usize = 32;

    /// The packet, from the IPv6 header on.
    pub(super) fn bytes(&self) -> [u8; IP + Self::LEN] {
        let mut body = [0; Self::LEN];
        body[0] = self.kind;
        body[4] = self.flags;
        body[8..24].copy_from_slice(&self.target.octets());
        body[24] = if self.kind == SOLICITATION { SOURCE_MAC } else { TARGET_MAC };
        body[25] = 1;
        body[26..].copy_from_slice(&self.mac);
        let len = Self::LEN as u32;
        let mut sum: Sum = pseudo_header_v6(self.source, self.destination, protocol::ICMPV6, len);
        sum.add(&body);
        body[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
        let header = Header {
            version_class_flow: (6 << 28).into(),
            payload_length: (Self::LEN as u16).into(),
            next_header: protocol::ICMPV6 as u8,
            hop_limit: 255,
            source: self.source.octets(),
            destination: self.destination.octets(),
        };
        let mut packet = [0; IP + Self::LEN];
        packet[..IP].copy_from_slice(header.as_bytes());
        packet[IP..].copy_from_slice(&body);
        packet
    }
}
