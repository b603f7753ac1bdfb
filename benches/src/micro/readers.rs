//! The parsers of other crates, each used as its documentation does. All give both ports and the
//! bytes of payload, added up; 0 for what is malformed or not known. With `VERIFY`, the checksum of
//! IPv4's header is verified.

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn sum(source: u16, destination: u16, payload: usize) -> u64 {
    u64::from(source) + u64::from(destination) + payload as u64
}

/// Slices of all headers, every length checked.
pub fn etherparse<const VERIFY: bool>(packet: &[u8]) -> u64 {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice, checksum::Sum16BitWords};

    let Ok(packet) = SlicedPacket::from_ethernet(packet) else { return 0 };
    if VERIFY
        && let Some(NetSlice::Ipv4(ip)) = &packet.net
        && Sum16BitWords::new().add_slice(ip.header().slice()).ones_complement() != 0
    {
        return 0;
    }
    match packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            sum(udp.source_port(), udp.destination_port(), udp.payload().len())
        }
        Some(TransportSlice::Tcp(tcp)) => {
            sum(tcp.source_port(), tcp.destination_port(), tcp.payload().len())
        }
        _ => 0,
    }
}

/// Checked views: their lengths are. It has none for a VLAN tag, which is skipped by hand.
pub fn smoltcp<const VERIFY: bool>(packet: &[u8]) -> u64 {
    smoltcp_views::<VERIFY>(packet).unwrap_or(0)
}

fn smoltcp_views<const VERIFY: bool>(packet: &[u8]) -> smoltcp::wire::Result<u64> {
    use smoltcp::wire::{
        Error, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
        UdpPacket,
    };

    let frame = EthernetFrame::new_checked(packet)?;
    let (mut kind, mut bytes) = (frame.ethertype(), frame.payload());
    if kind == EthernetProtocol::Unknown(VLAN) {
        let (tag, rest) = bytes.split_first_chunk::<4>().ok_or(Error)?;
        (kind, bytes) = (u16::from_be_bytes([tag[2], tag[3]]).into(), rest);
    }
    let (protocol, bytes) = match kind {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(bytes)?;
            if VERIFY && !ip.verify_checksum() {
                return Err(Error);
            }
            (ip.next_header(), ip.payload())
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(bytes)?;
            (ip.next_header(), ip.payload())
        }
        _ => return Err(Error),
    };
    match protocol {
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(bytes)?;
            Ok(sum(udp.src_port(), udp.dst_port(), udp.payload().len()))
        }
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(bytes)?;
            Ok(sum(tcp.src_port(), tcp.dst_port(), tcp.payload().len()))
        }
        _ => Err(Error),
    }
}

/// Views whose smallest lengths are checked, and no more: what a header says of itself is believed.
pub fn pnet<const VERIFY: bool>(packet: &[u8]) -> u64 {
    pnet_views::<VERIFY>(packet).unwrap_or(0)
}

fn pnet_views<const VERIFY: bool>(packet: &[u8]) -> Option<u64> {
    use pnet_packet::{
        Packet,
        ethernet::EthernetPacket,
        ipv4::{self, Ipv4Packet},
        ipv6::Ipv6Packet,
        tcp::TcpPacket,
        udp::UdpPacket,
        vlan::VlanPacket,
    };

    let frame = EthernetPacket::new(packet)?;
    let tag;
    let (mut kind, mut bytes) = (frame.get_ethertype().0, frame.payload());
    if kind == VLAN {
        tag = VlanPacket::new(bytes)?;
        (kind, bytes) = (tag.get_ethertype().0, tag.payload());
    }
    let (four, six);
    let (protocol, bytes) = match kind {
        IPV4 => {
            four = Ipv4Packet::new(bytes)?;
            if VERIFY && ipv4::checksum(&four) != four.get_checksum() {
                return None;
            }
            (four.get_next_level_protocol().0, four.payload())
        }
        IPV6 => {
            six = Ipv6Packet::new(bytes)?;
            (six.get_next_header().0, six.payload())
        }
        _ => return None,
    };
    match protocol {
        UDP => {
            let udp = UdpPacket::new(bytes)?;
            Some(sum(udp.get_source(), udp.get_destination(), udp.payload().len()))
        }
        TCP => {
            let tcp = TcpPacket::new(bytes)?;
            Some(sum(tcp.get_source(), tcp.get_destination(), tcp.payload().len()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::packets::{Packets, Traffic};

    #[test]
    fn a_wrong_checksum_is_seen_where_it_is_to_be_verified() {
        let packets = Packets::make(Traffic::Udp, 1).unwrap();
        let mut packet = packets.iter().next().unwrap().to_vec();
        let verified = [super::etherparse::<true>, super::smoltcp::<true>, super::pnet::<true>];
        let plain = [super::etherparse::<false>, super::smoltcp::<false>, super::pnet::<false>];
        assert!(verified.iter().chain(&plain).all(|parse| parse(&packet) == packets.sum));
        packet[14 + 8] -= 1; // the time to live
        assert!(verified.iter().all(|parse| parse(&packet) == 0));
        assert!(plain.iter().all(|parse| parse(&packet) == packets.sum));
    }
}
