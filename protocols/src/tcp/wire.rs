//! Between chains and the packets of smoltcp.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mbuf::{
    Address, Chain,
    stack::{Context, DropReason},
};
use smoltcp::time::Instant;

use crate::net::{ipv4::TOO_BIG, protocol};

pub(super) fn instant(cx: &Context<'_>) -> Instant {
    Instant::from_micros(i64::try_from(cx.now().as_nanos() / 1000).unwrap_or(i64::MAX))
}

/// The segment in one piece, behind a minimal IP header, whose length is the second.
pub(super) fn packet(
    chain: &Chain,
    from: IpAddr,
    to: IpAddr,
) -> Result<(Vec<u8>, usize), DropReason> {
    let len = u16::try_from(chain.len() + 20).map_err(|_| TOO_BIG)?;
    let protocol = protocol::TCP as u8;
    let mut packet = Vec::with_capacity(40 + chain.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = len.to_be_bytes();
            packet.extend([0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = (len - 20).to_be_bytes();
            packet.extend([0x60, 0, 0, 0, high, low, protocol, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => return Err(DropReason::MALFORMED),
    }
    let header = packet.len();
    packet.resize(header + chain.len(), 0);
    chain.peek(0, &mut packet[header..]).map_err(|_| DropReason::MALFORMED)?;
    Ok((packet, header))
}

/// A chain of what smoltcp sends, without the IP header, and whether it is for IPv4.
pub(super) fn segment_of(packet: &[u8], cx: &Context<'_>) -> Option<(Chain, bool)> {
    let (from, to, header): (IpAddr, IpAddr, usize) = match packet.first()? >> 4 {
        4 => {
            let from = Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?);
            let to = Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?);
            (from.into(), to.into(), 20)
        }
        _ => {
            let from = Ipv6Addr::from(*packet.get(8..)?.first_chunk::<16>()?);
            let to = Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?);
            (from.into(), to.into(), 40)
        }
    };
    let mut chain = cx.pool().chain_from(packet.get(header..)?).ok()?;
    let meta = chain.meta_mut();
    meta.set_source(Address::Ip(SocketAddr::new(from, 0)));
    meta.set_destination(Address::Ip(SocketAddr::new(to, 0)));
    Some((chain, header == 20))
}
