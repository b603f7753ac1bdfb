//! What stands above UDP and TCP.

use std::fmt::Write;

use mbuf::{Chain, stack::DropReason};
use zerocopy::FromBytes;

use super::{Dissector, Key, Layer, Next, strip, take};
use crate::{
    dns,
    net::ethertype,
    tunnel::{geneve, vxlan},
};

const DNS: u16 = 53;
const MULTICAST_DNS: u16 = 5353;
const LINK_LOCAL_DNS: u16 = 5355;
/// RFC 7510.
const MPLS: u16 = 6635;

pub(super) fn register(dissector: &mut Dissector) {
    for port in [DNS, MULTICAST_DNS, LINK_LOCAL_DNS] {
        dissector.register(Key::Udp(port), "dns", dns);
    }
    dissector
        .register(Key::Tcp(DNS), "dns", dns_over_tcp)
        .register(Key::Udp(MPLS), "mpls", super::link::mpls)
        .register(Key::Udp(vxlan::PORT), "vxlan", vxlan)
        .register(Key::Udp(geneve::PORT), "geneve", geneve);
}

/// RFC 1035, section 4.
fn dns(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let bytes = take(chain, chain.len())?;
    let (header, _) = dns::Header::read_from_prefix(&bytes).map_err(|_| DropReason::SHORT)?;
    layer.hex("id", header.id.get(), 4);
    let flags = header.flags.get();
    layer.number("response", flags >> 15);
    layer.number("opcode", flags >> 11 & 0xf);
    layer.number("rcode", flags & 0xf);
    let counts = header.counts.map(|count| count.get());
    for (name, count) in ["questions", "answers", "authority", "additional"].into_iter().zip(counts)
    {
        layer.number(name, count);
    }
    let mut at = size_of::<dns::Header>();
    for _ in 0..counts[0] {
        if layer.is_full() {
            return Ok(Next::Payload);
        }
        let name = dns::read_name(&bytes, &mut at).ok_or(DropReason::SHORT)?;
        let (kind, class) = (dns::word(&bytes, at), dns::word(&bytes, at + 2));
        let (Some(kind), Some(_)) = (kind, class) else { return Err(DropReason::SHORT) };
        at += 4;
        layer.note("question", super::Value::Text(format!("{} type {kind}", dotted(&name))));
    }
    for _ in 0..counts[1] {
        if layer.is_full() {
            break;
        }
        let name = dns::read_name(&bytes, &mut at).ok_or(DropReason::SHORT)?;
        let kind = dns::word(&bytes, at).ok_or(DropReason::SHORT)?;
        let len = usize::from(dns::word(&bytes, at + 8).ok_or(DropReason::SHORT)?);
        let data = bytes.get(at + 10..at + 10 + len).ok_or(DropReason::SHORT)?;
        at += 10 + len;
        layer.note("answer", super::Value::Text(answer(&dotted(&name), kind, data)));
    }
    Ok(Next::Payload)
}

/// A name as it is usually written. What is no printable ASCII is escaped.
fn dotted(wire: &[u8]) -> String {
    let (mut text, mut rest) = (String::new(), wire);
    while let [len, more @ ..] = rest
        && let Some((label, more)) = more.split_at_checked(usize::from(*len))
        && !label.is_empty()
    {
        let dot = if text.is_empty() { "" } else { "." };
        _ = write!(text, "{dot}{}", label.escape_ascii());
        rest = more;
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

fn answer(name: &str, kind: u16, data: &[u8]) -> String {
    if let (1, Some(&address)) = (kind, data.first_chunk::<4>()) {
        return format!("{name} {}", std::net::Ipv4Addr::from_octets(address));
    }
    if let (28, Some(&address)) = (kind, data.first_chunk::<16>()) {
        return format!("{name} {}", std::net::Ipv6Addr::from_octets(address));
    }
    format!("{name} type {kind}, {} bytes", data.len())
}

/// RFC 1035, section 4.2.2: a length before each message. A segment may begin anywhere in a stream: one
/// that does not begin with a message that is whole is a piece of one.
fn dns_over_tcp(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let mut length = [0; 2];
    if chain.peek(0, &mut length).is_err() {
        return Ok(Next::Payload);
    }
    let length = usize::from(u16::from_be_bytes(length));
    if length + 2 > chain.len() {
        return Ok(Next::Payload);
    }
    take(chain, 2)?;
    layer.number("length", length as u64);
    chain.truncate(length).map_err(|_| DropReason::NO_BUFFERS)?;
    dns(chain, layer).or(Ok(Next::Payload))
}

/// RFC 7348.
fn vxlan(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: vxlan::Header = strip(chain)?;
    layer.hex("flags", header.flags.get() >> 24, 2);
    layer.number("vni", header.vni.get() >> 8);
    Ok(Next::Of(Key::EtherType(ethertype::TRANSPARENT_ETHERNET as u16)))
}

/// RFC 8926.
fn geneve(chain: &mut Chain, layer: &mut Layer) -> Result<Next, DropReason> {
    let header: geneve::Header = strip(chain)?;
    layer.number("version", header.version_length >> 6);
    layer.hex("flags", header.flags, 2);
    layer.number("vni", header.vni.get() >> 8);
    layer.hex("protocol", header.protocol.get(), 4);
    if header.version_length >> 6 != 0 {
        return Err(DropReason::MALFORMED);
    }
    let mut options = &take(chain, usize::from(header.version_length & 0x3f) * 4)?[..];
    while let [a, b, kind, len, ..] = *options {
        let class = u16::from_be_bytes([a, b]);
        let end = 4 + usize::from(len & 0x1f) * 4;
        let (option, rest) = options.split_at_checked(end).ok_or(DropReason::MALFORMED)?;
        let text = format!("class {class:#06x}, type {kind:#04x}, {} bytes", option.len() - 4);
        layer.note("option", super::Value::Text(text));
        options = rest;
    }
    Ok(Next::Of(Key::EtherType(header.protocol.get())))
}
