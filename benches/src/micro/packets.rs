//! The packets that are parsed: made from a seed, so that they are the same in every run.

use anyhow::{Context, ensure};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, VlanId};
use memmap2::{Advice, MmapMut};

/// Ports that UDP packets go to, in traffic of UDP over IPv4 alone: it is demultiplexed by them.
pub const PORTS: [u16; 4] = [53, 123, 4500, 51820];
/// The station and the host that the packets are for.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const HOST: [u8; 4] = [192, 0, 2, 251];
/// Bytes from one packet to the next, where they lie in slots: as those of a DPDK mempool, which
/// keeps them off one another's cache lines.
const SLOT: usize = 2368;
/// Packet i lies in slot i * STEP modulo their number: a receive ring is in no order either.
const STEP: usize = 7919;

/// What is in the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Ethernet, one in four with a VLAN tag; IPv4 and one in three IPv6; UDP and TCP.
    Mixed,
    /// Ethernet, IPv4 whose checksum is to be verified, UDP to one of [`PORTS`].
    Udp,
}

/// Packets, with what every parser must find in them.
#[derive(Debug)]
pub struct Packets {
    slots: MmapMut,
    /// Where each lies.
    places: Vec<(usize, usize)>,
    /// The sum over all packets of both ports and the bytes of payload.
    pub sum: u64,
}

impl Packets {
    pub fn make(traffic: Traffic, count: usize) -> anyhow::Result<Packets> {
        ensure!(count > 0 && !count.is_multiple_of(STEP), "no slots for {count} packets");
        let slots = MmapMut::map_anon(count * SLOT).context("memory for the packets")?;
        // So that what is measured is not how long it takes to find a page. Where the system has no
        // huge ones, all sides do without.
        let _ = slots.advise(Advice::HugePage);
        let mut packets = Packets { slots, places: Vec::with_capacity(count), sum: 0 };
        let mut random = Random(1);
        let mut bytes = Vec::new();
        for number in 0..count {
            bytes.clear();
            packets.sum += write(traffic, number, &mut random, &mut bytes)?;
            let place = scattered(number, count) * SLOT;
            packets.slots[place..place + bytes.len()].copy_from_slice(&bytes);
            packets.places.push((place, bytes.len()));
        }
        Ok(packets)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|&(place, length)| &self.slots[place..place + length])
    }

    /// As `c/parsing.c` reads them.
    pub fn for_c(&self) -> Vec<u8> {
        let mut all = (self.len() as u32).to_ne_bytes().to_vec();
        for packet in self.iter() {
            all.extend_from_slice(&(packet.len() as u32).to_ne_bytes());
            all.extend_from_slice(packet);
        }
        all
    }
}

/// The place of one of so many.
pub fn scattered(number: usize, count: usize) -> usize {
    number * STEP % count
}

/// Writes a packet; gives the sum of its ports and of the bytes of its payload, which begins with
/// the packet's number.
fn write(
    traffic: Traffic,
    number: usize,
    random: &mut Random,
    out: &mut Vec<u8>,
) -> anyhow::Result<u64> {
    let mixed = traffic == Traffic::Mixed;
    let mut payload = vec![7; 18 + random.below(400)];
    payload[..4].copy_from_slice(&(number as u32).to_be_bytes());
    let source = 1024 + random.below(60_000) as u16;
    let destination = PORTS[random.below(PORTS.len())];
    let last = random.below(250) as u8;

    let ip = match mixed && random.below(3) == 0 {
        true => IpHeaders::Ipv6(
            Ipv6Header { hop_limit: 64, source: [last; 16], ..Default::default() },
            Default::default(),
        ),
        false => IpHeaders::Ipv4(
            Ipv4Header::new(0, 64, IpNumber::UDP, [192, 0, 2, last], HOST)?,
            Default::default(),
        ),
    };
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], MAC);
    let packet = match mixed && random.below(4) == 0 {
        true => ethernet.single_vlan(VlanId::try_new(7)?).ip(ip),
        false => ethernet.ip(ip),
    };
    match mixed && random.below(2) == 0 {
        true => packet.tcp(source, destination, 1, 1024).write(out, &payload)?,
        false => packet.udp(source, destination).write(out, &payload)?,
    }
    Ok(u64::from(source) + u64::from(destination) + payload.len() as u64)
}

/// Numbers as good as random (the multiplier and increment are Knuth's, of MMIX).
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// One of `0..n`.
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_packets_every_time_and_no_two_in_one_place() {
        let (one, other) = [(), ()].map(|()| Packets::make(Traffic::Mixed, 500).unwrap()).into();
        assert!(one.iter().eq(other.iter()));
        let mut places = one.places.clone();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 500);
    }

    #[test]
    fn all_kinds_are_in_mixed_traffic() {
        let packets = Packets::make(Traffic::Mixed, 500).unwrap();
        let of =
            |at: usize, kind: [u8; 2]| packets.iter().filter(|p| p[at..at + 2] == kind).count();
        assert!(of(12, [0x81, 0]) > 100, "VLAN");
        assert!(of(12, [8, 0]) > 200 && of(12, [0x86, 0xdd]) > 90, "IPv4 and IPv6");
        let udp = Packets::make(Traffic::Udp, 500).unwrap();
        assert!(udp.iter().all(|packet| packet[12..14] == [8, 0] && packet[23] == 17));
    }
}
