//! Links, and what stands between them and IP.

use mbuf::{Chain, io::capture::LinkType, stack::DropReason};
use zerocopy::{
    FromBytes, Immutable, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{Dissector, Key, Layer, Next, Value, strip, take};
use crate::{
    net::{arp, ethernet, ethertype, protocol, vlan},
    tunnel::mpls,
};

/// EtherTypes up to this are lengths (IEEE 802.3), but for 0; those up to [`ethertype::MIN`] are
/// neither.
const MAX_LENGTH: u16 = 1500;
/// 802.1Q by another number, which some switches gave the outer of two tags.
const OLD_QINQ: u16 = 0x9100;

/// Reverse ARP (RFC 903), which has the packets of ARP.
const RARP: u16 = 0x8035;
/// The IP protocol of Ethernet frames (RFC 8986, section 4.9).
const ETHERNET: u8 = 143;

pub(super) fn register(dissector: &mut Dissector) {
    let own = |number: u64| Key::EtherType(number as u16);
    dissector
        .register(Key::Link(LinkType::ETHERNET.0), "ethernet", ethernet)
        .register(own(ethertype::TRANSPARENT_ETHERNET), "ethernet", ethernet)
        .register(Key::Link(LinkType::LINUX_SLL.0), "sll", sll)
        .register(Key::Link(LinkType::LINUX_SLL2.0), "sll", sll2)
        .register(Key::Link(LinkType::NULL.0), "null", null)
        .register(Key::Link(108), "null", null) // OpenBSD's loopback
        .register(own(ethertype::VLAN), "vlan", vlan)
        .register(own(ethertype::QINQ), "vlan", vlan)
        .register(Key::EtherType(OLD_QINQ), "vlan", vlan)
        .register(own(ethertype::ARP), "arp", arp)
        .register(Key::EtherType(RARP), "arp", arp)
        .register(Key::Protocol(ETHERNET), "ethernet", ethernet)
        .register(own(ethertype::MPLS), "mpls", mpls)
        .register(own(ethertype::MPLS_UPSTREAM), "mpls", mpls)
        .register(Key::Protocol(protocol::MPLS as u8), "mpls", mpls)
        .register(Key::EtherType(LLC), "llc", llc);
    for link in [LinkType::RAW.0, 12, 14, LinkType::IPV4.0, LinkType::IPV6.0] {
        dissector.register(Key::Link(link), "", |chain, _| Ok(by_version(chain)));
    }
}

/// No EtherType: what a frame of IEEE 802.3 has in place of one.
const LLC: u16 = 0;

/// IPv4 or IPv6, as the first four bits say.
fn by_version(chain: &Chain) -> Next {
    let mut first = [0];
    let known = chain.peek(0, &mut first).is_ok();
    Next::Of(Key::EtherType(match first[0] >> 4 {
        4 if known => ethertype::IPV4 as u16,
        6 if known => ethertype::IPV6 as u16,
        _ => return Next::Payload,
    }))
}

/// What an EtherType says, or a length in its place.
fn by_type(kind: u16, chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    if u64::from(kind) >= ethertype::MIN {
        return Ok(Next::Of(Key::EtherType(kind)));
    }
    if kind == 0 || kind > MAX_LENGTH {
        return Ok(Next::Payload);
    }
    layer.limit(chain, usize::from(kind))?;
    let mut first = [0; 2];
    // IPX put its packets there without LLC.
    let raw = chain.peek(0, &mut first).is_ok() && first == [0xff, 0xff];
    Ok(if raw { Next::Payload } else { Next::Of(Key::EtherType(LLC)) })
}

fn ethernet(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: ethernet::Header = strip(chain)?;
    layer.note("destination", Value::Mac(header.destination));
    layer.note("source", Value::Mac(header.source));
    let kind = header.ethertype.get();
    if kind <= MAX_LENGTH {
        layer.number("length", kind);
    } else {
        layer.hex("ethertype", kind, 4);
    }
    by_type(kind, chain, layer)
}

fn vlan(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let tag: vlan::Tag = strip(chain)?;
    let control = tag.control.get();
    layer.number("id", control & 0x0fff);
    layer.number("priority", control >> 13);
    layer.number("drop_eligible", control >> 12 & 1);
    layer.hex("ethertype", tag.ethertype.get(), 4);
    by_type(tag.ethertype.get(), chain, layer)
}

/// IEEE 802.2: two service access points and a control field; with SNAP an EtherType.
fn llc(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let [dsap, ssap, control]: [u8; 3] = strip(chain)?;
    layer.hex("dsap", dsap, 2);
    layer.hex("ssap", ssap, 2);
    layer.hex("control", control, 2);
    if control & 3 != 3 {
        // Numbered frames have a second byte of control.
        take(chain, 1)?;
        return Ok(Next::Payload);
    }
    if (dsap, ssap) != (0xaa, 0xaa) {
        return Ok(Next::Payload);
    }
    let [a, b, c, high, low]: [u8; 5] = strip(chain)?;
    layer.hex("oui", u32::from_be_bytes([0, a, b, c]), 6);
    let kind = u16::from_be_bytes([high, low]);
    layer.hex("type", kind, 4);
    let ethertype = [a, b, c] == [0; 3] && u64::from(kind) >= ethertype::MIN;
    Ok(if ethertype { Next::Of(Key::EtherType(kind)) } else { Next::Payload })
}

/// <https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html>
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Sll {
    kind: U16,
    hardware: U16,
    address_len: U16,
    address: [u8; 8],
    protocol: U16,
}

fn sll(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: Sll = strip(chain)?;
    layer.number("packet_type", header.kind.get());
    layer.number("hardware", header.hardware.get());
    let len = usize::from(header.address_len.get()).min(8);
    layer.bytes("source", &header.address[..len]);
    layer.hex("protocol", header.protocol.get(), 4);
    Ok(cooked(header.hardware.get(), header.protocol.get()))
}

/// <https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html>
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Sll2 {
    protocol: U16,
    reserved: U16,
    interface: U32,
    hardware: U16,
    kind: u8,
    address_len: u8,
    address: [u8; 8],
}

fn sll2(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: Sll2 = strip(chain)?;
    layer.number("interface", header.interface.get());
    layer.number("packet_type", header.kind);
    layer.number("hardware", header.hardware.get());
    layer.bytes("source", &header.address[..usize::from(header.address_len).min(8)]);
    layer.hex("protocol", header.protocol.get(), 4);
    Ok(cooked(header.hardware.get(), header.protocol.get()))
}

/// What stands behind a cooked header: for some kinds of hardware it is no EtherType.
fn cooked(hardware: u16, kind: u16) -> Next {
    const NETLINK: u16 = 824;
    const LLC_FRAME: u16 = 4;
    match kind {
        _ if hardware == NETLINK => Next::Payload,
        LLC_FRAME => Next::Of(Key::EtherType(LLC)),
        _ if u64::from(kind) < ethertype::MIN => Next::Payload,
        _ => Next::Of(Key::EtherType(kind)),
    }
}

/// The address family, in the byte order of whoever captured.
fn null(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let bytes: [u8; 4] = strip(chain)?;
    let family = u32::from_be_bytes(bytes).min(u32::from_le_bytes(bytes));
    layer.number("family", family);
    Ok(match family {
        2 => Next::Of(Key::EtherType(ethertype::IPV4 as u16)),
        10 | 24 | 28 | 30 => Next::Of(Key::EtherType(ethertype::IPV6 as u16)),
        _ => Next::Payload,
    })
}

fn arp(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let [hardware, kind, lengths, operation]: [U16; 4] = strip(chain)?;
    layer.number("hardware", hardware.get());
    layer.hex("protocol", kind.get(), 4);
    layer.number("operation", operation.get());
    let [hardware_len, protocol_len] = lengths.get().to_be_bytes().map(usize::from);
    let rest = take(chain, 2 * (hardware_len + protocol_len))?;
    // The addresses are named where they are of the usual kinds.
    let usual = size_of::<arp::Packet>() - 8;
    let known = (hardware_len, protocol_len) == (6, 4) && u64::from(kind.get()) == ethertype::IPV4;
    match rest.first_chunk::<20>().filter(|_| known && rest.len() == usual) {
        Some(&[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t]) => {
            layer.note("sender_mac", Value::Mac([a, b, c, d, e, f]));
            layer.ip("sender_ip", [g, h, i, j]);
            layer.note("target_mac", Value::Mac([k, l, m, n, o, p]));
            layer.ip("target_ip", [q, r, s, t]);
        }
        None => layer.bytes("addresses", &rest),
    }
    // What follows pads the frame.
    layer.limit(chain, 0)?;
    Ok(Next::Payload)
}

/// All labels of the stack. What is behind the last its first four bits tell: no label does.
pub(super) fn mpls(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    loop {
        let entry: mpls::Entry = strip(chain)?;
        let word = entry.word.get();
        layer.number("label", word >> 12);
        layer.number("traffic_class", word >> 9 & 7);
        layer.number("ttl", word & 0xff);
        if word & 0x100 != 0 {
            return Ok(by_version(chain));
        }
    }
}
