//! IP, and what stands on it.

use mbuf::{Chain, chain::checksum, stack::DropReason};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{Dissector, Key, Layer, Next, Value, strip, take};
use crate::{
    net::{ethertype, icmp, icmpv6, ipv4, ipv6, protocol, udp},
    tunnel::gre,
};

pub(super) fn register(dissector: &mut Dissector) {
    let own = |number: u64| Key::Protocol(number as u8);
    dissector
        .register(Key::EtherType(ethertype::IPV4 as u16), "ipv4", ipv4)
        .register(own(protocol::IPV4), "ipv4", ipv4)
        .register(Key::EtherType(ethertype::IPV6 as u16), "ipv6", ipv6)
        .register(own(protocol::IPV6), "ipv6", ipv6)
        .register(own(protocol::HOP_BY_HOP), "hop-by-hop", extension)
        .register(own(protocol::ROUTING), "routing", extension)
        .register(own(protocol::FRAGMENT), "fragment", fragment)
        .register(own(protocol::DESTINATION_OPTIONS), "destination-options", extension)
        .register(own(protocol::ICMP), "icmp", icmp)
        .register(own(protocol::ICMPV6), "icmpv6", icmpv6)
        .register(own(protocol::UDP), "udp", udp)
        .register(own(protocol::TCP), "tcp", tcp)
        .register(own(protocol::GRE), "gre", gre);
}

fn ipv4(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: ipv4::Header = strip(chain)?;
    let (version, len) = (header.version_ihl >> 4, usize::from(header.version_ihl & 0xf) * 4);
    let size = size_of::<ipv4::Header>();
    layer.number("version", version);
    layer.number("header_length", len as u64);
    layer.hex("tos", header.tos, 2);
    layer.number("total_length", header.total_length.get());
    layer.hex("identification", header.identification.get(), 4);
    let (flags, offset) =
        (header.fragment.get() >> 13, usize::from(header.fragment.get() & 0x1fff) * 8);
    layer.hex("flags", flags, 1);
    layer.number("fragment_offset", offset as u64);
    layer.number("ttl", header.ttl);
    layer.number("protocol", header.protocol);
    layer.hex("checksum", header.checksum.get(), 4);
    layer.ip("source", header.source);
    layer.ip("destination", header.destination);
    if version != 4 || len < size {
        return Err(DropReason::MALFORMED);
    }
    let options = take(chain, len - size)?;
    if !options.is_empty() {
        layer.bytes("options", &options);
    }
    if checksum::of(&[header.as_bytes(), &options].concat()) != 0 {
        layer.note("checksum_status", Value::Text("wrong".to_owned()));
    }
    // A packet that the sender's card was to cut has a length of 0: all of it belongs to it.
    match usize::from(header.total_length.get()) {
        0 => {}
        total => layer.limit(chain, total.checked_sub(len).ok_or(DropReason::MALFORMED)?)?,
    }
    if offset > 0 {
        layer.partial();
        return Ok(Next::Payload);
    }
    if flags & 1 != 0 {
        layer.partial();
    }
    Ok(Next::Of(Key::Protocol(header.protocol)))
}

fn ipv6(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: ipv6::Header = strip(chain)?;
    let word = header.version_class_flow.get();
    layer.number("version", word >> 28);
    layer.hex("traffic_class", word >> 20 & 0xff, 2);
    layer.hex("flow_label", word & 0xf_ffff, 5);
    layer.number("payload_length", header.payload_length.get());
    layer.number("next_header", header.next_header);
    layer.number("hop_limit", header.hop_limit);
    layer.ip("source", header.source);
    layer.ip("destination", header.destination);
    if word >> 28 != 6 {
        return Err(DropReason::MALFORMED);
    }
    // 0 is that of a jumbogram (RFC 2675), or of a packet that the sender's card was to cut.
    match usize::from(header.payload_length.get()) {
        0 if u64::from(header.next_header) != protocol::NO_NEXT_HEADER => {}
        len => layer.limit(chain, len)?,
    }
    Ok(Next::Of(Key::Protocol(header.next_header)))
}

/// An extension header with a length of its own, in units of eight bytes beyond the first eight.
fn extension(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let [next, units]: [u8; 2] = strip(chain)?;
    let rest = take(chain, usize::from(units) * 8 + 6)?;
    layer.number("next_header", next);
    layer.number("length", rest.len() as u64 + 2);
    layer.bytes("data", &rest);
    Ok(Next::Of(Key::Protocol(next)))
}

fn fragment(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: ipv6::FragmentHeader = strip(chain)?;
    let (offset, more) = (header.offset.get() & !7, header.offset.get() & 1);
    layer.number("next_header", header.next_header);
    layer.number("offset", offset);
    layer.number("more", more);
    layer.hex("identification", header.identification.get(), 8);
    if offset > 0 || more > 0 {
        layer.partial();
    }
    Ok(if offset > 0 { Next::Payload } else { Next::Of(Key::Protocol(header.next_header)) })
}

/// Behind an error stands the beginning of the packet that it is about.
fn quotation(layer: &mut Layer, kind: u64) -> Next {
    layer.partial();
    Next::Of(Key::EtherType(kind as u16))
}

fn icmp(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: icmp::Header = strip(chain)?;
    layer.number("type", header.kind);
    layer.number("code", header.code);
    layer.hex("checksum", header.checksum.get(), 4);
    match header.kind {
        0 | 8 => {
            layer.number("identifier", header.identifier.get());
            layer.number("sequence", header.sequence.get());
        }
        // Of an MTU, a pointer, or a gateway.
        3 | 4 | 5 | 11 | 12 => {
            let argument = [header.identifier.get(), header.sequence.get()];
            layer.hex("argument", u32::from(argument[0]) << 16 | u32::from(argument[1]), 8);
            return Ok(quotation(layer, ethertype::IPV4));
        }
        _ => {}
    }
    Ok(Next::Payload)
}

fn icmpv6(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    const ERRORS: std::ops::RangeInclusive<u8> = 1..=4;
    const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
    let header: icmpv6::Header = strip(chain)?;
    layer.number("type", header.kind);
    layer.number("code", header.code);
    layer.hex("checksum", header.checksum.get(), 4);
    layer.hex("argument", header.argument.get(), 8);
    if ERRORS.contains(&header.kind) {
        return Ok(quotation(layer, ethertype::IPV6));
    }
    if DISCOVERY.contains(&header.kind) {
        discovery(chain, layer, header.kind)?;
    }
    Ok(Next::Payload)
}

/// Neighbour discovery (RFC 4861, section 4): fixed fields of the type, then options.
fn discovery(chain: &mut Chain, layer: &mut Layer, kind: u8) -> Result<(), DropReason> {
    match kind {
        134 => {
            let [reachable, retransmit]: [U32; 2] = strip(chain)?;
            layer.number("reachable_time", reachable.get());
            layer.number("retransmit_timer", retransmit.get());
        }
        135 | 136 => layer.ip("target", strip::<[u8; 16]>(chain)?),
        137 => {
            layer.ip("target", strip::<[u8; 16]>(chain)?);
            layer.ip("destination", strip::<[u8; 16]>(chain)?);
        }
        _ => {}
    }
    while !chain.is_empty() {
        let [kind, units]: [u8; 2] = strip(chain)?;
        let data =
            take(chain, (usize::from(units) * 8).checked_sub(2).ok_or(DropReason::MALFORMED)?)?;
        match (kind, data.first_chunk::<6>()) {
            (1, Some(&mac)) => layer.note("source_mac", Value::Mac(mac)),
            (2, Some(&mac)) => layer.note("target_mac", Value::Mac(mac)),
            _ => {
                layer.note("option", Value::Text(format!("type {kind}, {} bytes", data.len() + 2)))
            }
        }
    }
    Ok(())
}

/// The ports of both ends, the lower one first: a service has the lower, most often.
fn ports(source: u16, destination: u16, key: fn(u16) -> Key) -> Next {
    let (low, high) = (source.min(destination), source.max(destination));
    Next::Either(key(low), key(high))
}

fn udp(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: udp::Header = strip(chain)?;
    let (source, destination) = (header.source.get(), header.destination.get());
    layer.number("source", source);
    layer.number("destination", destination);
    layer.number("length", header.length.get());
    layer.hex("checksum", header.checksum.get(), 4);
    // 0 is that of a jumbogram (RFC 2675, section 4).
    match usize::from(header.length.get()) {
        0 => {}
        len => layer.limit(chain, len.checked_sub(8).ok_or(DropReason::MALFORMED)?)?,
    }
    if chain.is_empty() && !layer.is_cut() {
        return Ok(Next::Payload);
    }
    Ok(ports(source, destination, Key::Udp))
}

/// RFC 9293, section 3.1.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Tcp {
    source: U16,
    destination: U16,
    sequence: U32,
    acknowledgment: U32,
    offset_flags: U16,
    window: U16,
    checksum: U16,
    urgent: U16,
}

fn tcp(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    const FLAGS: [&str; 9] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE"];
    let header: Tcp = strip(chain)?;
    let (source, destination) = (header.source.get(), header.destination.get());
    let bits = header.offset_flags.get();
    let names = FLAGS.iter().enumerate().filter(|(n, _)| bits >> n & 1 != 0);
    let len = usize::from(bits >> 12) * 4;
    layer.number("source", source);
    layer.number("destination", destination);
    layer.number("sequence", header.sequence.get());
    layer.number("acknowledgment", header.acknowledgment.get());
    layer.number("header_length", len as u64);
    let flags = names.map(|(_, name)| *name).collect::<Vec<_>>().join(" ");
    layer.note("flags", Value::Text(flags));
    layer.number("window", header.window.get());
    layer.hex("checksum", header.checksum.get(), 4);
    layer.number("urgent", header.urgent.get());
    let options = take(chain, len.checked_sub(size_of::<Tcp>()).ok_or(DropReason::MALFORMED)?)?;
    tcp_options(&options, layer)?;
    if chain.is_empty() && !layer.is_cut() {
        return Ok(Next::Payload);
    }
    Ok(ports(source, destination, Key::Tcp))
}

/// RFC 9293, section 3.2.
fn tcp_options(mut options: &[u8], layer: &mut Layer) -> Result<(), DropReason> {
    while let [kind, more @ ..] = options {
        match kind {
            0 => break,
            1 => options = more,
            _ => {
                let len = more.first().map_or(0, |&len| usize::from(len));
                let (option, rest) = options
                    .split_at_checked(len)
                    .filter(|(option, _)| option.len() >= 2)
                    .ok_or(DropReason::MALFORMED)?;
                match (kind, &option[2..]) {
                    (2, &[high, low]) => layer.number("mss", u16::from_be_bytes([high, low])),
                    (3, &[shift]) => layer.number("window_scale", shift),
                    (4, []) => layer.note("sack_permitted", Value::Number(1)),
                    (8, data) => layer.bytes("timestamps", data),
                    (kind, data) => {
                        let text = format!("kind {kind}, {} bytes", data.len() + 2);
                        layer.note("option", Value::Text(text));
                    }
                }
                options = rest;
            }
        }
    }
    Ok(())
}

/// RFC 2784, RFC 2890; version 1 is that of PPTP (RFC 2637).
fn gre(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: gre::Header = strip(chain)?;
    let flags = header.flags.get();
    layer.hex("flags", flags, 4);
    layer.hex("protocol", header.ethertype.get(), 4);
    if flags & 7 != 0 {
        return Ok(Next::Payload);
    }
    // Checksum or routing have their word, of which the other half is the other's.
    if flags & 0xc000 != 0 {
        let [checksum, _]: [U16; 2] = strip(chain)?;
        layer.hex("checksum", checksum.get(), 4);
    }
    if flags & 0x2000 != 0 {
        layer.hex("key", strip::<U32>(chain)?.get(), 8);
    }
    if flags & 0x1000 != 0 {
        layer.number("sequence", strip::<U32>(chain)?.get());
    }
    if flags & 0x4000 != 0 {
        return Ok(Next::Payload);
    }
    Ok(Next::Of(Key::EtherType(header.ethertype.get())))
}
