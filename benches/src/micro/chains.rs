//! mbuf without a stack: packets as chains of one cluster, their headers stripped one by one.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use mbuf::{Chain, Class, Error, Pool, Result, chain::checksum, pool::Pages};
use mbuf_protocols::net::{ethernet, ethertype, ipv4, ipv6, protocol, udp, vlan};
use zerocopy::{
    FromBytes, Immutable, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{
    case::Side,
    packets::{Packets, scattered},
};

/// The header of TCP as it is on the wire.
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

/// The chains are as they came in before each pass: what was stripped is restored, which is not
/// measured.
pub fn side<const VERIFY: bool>(packets: &Rc<Packets>) -> anyhow::Result<Side> {
    let packets = packets.clone();
    let pool = pool(packets.len())?;
    let mut chains = load(&pool, &packets)?;
    let mut side = Side::new("mbuf", packets.len(), move |times| {
        let mut taken = Duration::ZERO;
        for _ in 0..times {
            let start = Instant::now();
            let sum: u64 = chains.iter_mut().map(|chain| parse::<VERIFY>(chain).unwrap_or(0)).sum();
            taken += start.elapsed();
            ensure!(sum == packets.sum, "mbuf: a sum of {sum}, not of {}", packets.sum);
            for (chain, packet) in chains.iter_mut().zip(packets.iter()) {
                chain.restore(packet.len() - chain.len())?;
            }
        }
        Ok(taken)
    });
    side.keep(pool);
    Ok(side)
}

/// A pool for so many packets, each in a cluster as a driver would put it, and some to spare. In huge
/// pages where the system has them, as the packets of the others.
pub fn pool(packets: usize) -> anyhow::Result<Pool> {
    let spare = packets + 64;
    Ok(Pool::builder()
        .pages(Pages::Transparent)
        .count(Class::Small, spare)
        .count(Class::K2, spare)
        .build()?)
}

/// The packets as chains, in order; their clusters are in no order.
pub fn load(pool: &Pool, packets: &Packets) -> anyhow::Result<Vec<Chain>> {
    let count = packets.len();
    let mut empty: Vec<Option<Chain>> =
        (0..count).map(|_| pool.chain_in(Class::K2, 64).map(Some)).collect::<Result<_>>()?;
    let mut chains = Vec::with_capacity(count);
    for (number, packet) in packets.iter().enumerate() {
        let Some(mut chain) = empty[scattered(number, count)].take() else {
            unreachable!("each place is taken once");
        };
        chain.extend_from_slice(packet)?;
        chains.push(chain);
    }
    Ok(chains)
}

/// Strips all headers; both ports and the bytes that are left, added up.
fn parse<const VERIFY: bool>(chain: &mut Chain) -> Result<u64> {
    const MALFORMED: Error = Error::Invalid("a header that is malformed");

    let mut kind = u64::from(chain.strip::<ethernet::Header>()?.ethertype.get());
    if kind == ethertype::VLAN {
        kind = chain.strip::<vlan::Tag>()?.ethertype.get().into();
    }
    let (number, length) = match kind {
        ethertype::IPV4 => {
            let ip = chain.header::<ipv4::Header>()?;
            let header = usize::from(ip.version_ihl & 15) * 4;
            let (number, total) = (ip.protocol, usize::from(ip.total_length.get()));
            if ip.version_ihl >> 4 != 4 || header < size_of::<ipv4::Header>() {
                return Err(MALFORMED);
            }
            if VERIFY && checksum::of(chain.pullup(header)?) != 0 {
                return Err(MALFORMED);
            }
            chain.trim_front(header)?;
            (number, total.checked_sub(header).ok_or(MALFORMED)?)
        }
        ethertype::IPV6 => {
            let ip: ipv6::Header = chain.strip()?;
            if ip.version_class_flow.get() >> 28 != 6 {
                return Err(MALFORMED);
            }
            (ip.next_header, usize::from(ip.payload_length.get()))
        }
        _ => return Err(MALFORMED),
    };
    // Whatever is behind the packet is padding.
    if length != chain.len() {
        chain.truncate(length)?;
    }
    let (source, destination) = match number.into() {
        protocol::UDP => {
            let udp: udp::Header = chain.strip()?;
            let payload = usize::from(udp.length.get()).checked_sub(size_of::<udp::Header>());
            if payload.is_none_or(|payload| payload > chain.len()) {
                return Err(MALFORMED);
            }
            (udp.source, udp.destination)
        }
        protocol::TCP => {
            let tcp = chain.header::<Tcp>()?;
            let (source, destination) = (tcp.source, tcp.destination);
            let header = usize::from(tcp.offset >> 4) * 4;
            if header < size_of::<Tcp>() {
                return Err(MALFORMED);
            }
            chain.trim_front(header)?;
            (source, destination)
        }
        _ => return Err(MALFORMED),
    };
    Ok(u64::from(source.get()) + u64::from(destination.get()) + chain.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::{super::packets::Traffic, *};

    #[test]
    fn headers_are_stripped_and_a_wrong_checksum_is_seen() {
        let packets = Packets::make(Traffic::Udp, 1).unwrap();
        let pool = pool(1).unwrap();
        let mut chain = load(&pool, &packets).unwrap().pop().unwrap();
        let len = chain.len();
        assert_eq!(parse::<true>(&mut chain), Ok(packets.sum));
        chain.restore(len - chain.len()).unwrap();
        chain.copy_back(14 + 8, &[1]).unwrap(); // the time to live
        assert!(parse::<true>(&mut chain).is_err());
    }
}
