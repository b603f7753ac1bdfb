//! The plugins of this crate, by name.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use mbuf::io::store::Folder;

use super::{Options, Refused, Registry, error::one_of};
use crate::{
    Chargen, Discard, Dns, Echo, Framing, Prefix, Relay, Tftp, dns,
    net::{
        Arp, Ethernet, Icmp, Icmpv6, Ipv4, Ipv6, Nd, Udp, Vlan, ethertype, ipv6::link_local,
        protocol,
    },
    tftp,
    tunnel::{Geneve, Gre, Mpls, Vxlan},
};

/// Their names in texts.
const PREFIXES: [(&str, Prefix); 6] = [
    ("u8", Prefix::U8),
    ("u16be", Prefix::U16Be),
    ("u16le", Prefix::U16Le),
    ("u32be", Prefix::U32Be),
    ("u32le", Prefix::U32Le),
    ("varint", Prefix::Varint),
];

pub(super) fn register(registry: &mut Registry) {
    services(registry);
    servers(registry);
    hosts(registry);
    hosts_of_ipv6(registry);
    tunnels(registry);
}

/// Framing, and the small services of RFC 862 to 864 with their ports.
fn services(registry: &mut Registry) {
    registry.register("framing", |options| {
        let expected = one_of(&PREFIXES.map(|(name, _)| name));
        let prefix = options.required_with("prefix", &expected, |text| {
            let known = PREFIXES.iter().find(|(name, _)| *name == text);
            known.map(|&(_, prefix)| prefix).ok_or("there is no such prefix")
        })?;
        let max = options.required("max")?;
        let within: Option<Duration> = options.duration("complete_within")?;
        if max == 0 || max > prefix.capacity() {
            let range = format_args!("this prefix can say 1 to {}, not {max}", prefix.capacity());
            return Err(options.refuse("max", range));
        }
        let framing = Framing::new(prefix, max)?;
        Ok(match within {
            Some(within) => framing.complete_within(within),
            None => framing,
        })
    });
    registry.register("echo", |_| Ok(Echo::new())).under("udp", 7);
    registry.register("discard", |_| Ok(Discard::new())).under("udp", 9);
    registry
        .register("chargen", |options| {
            let edge = options.take_with("over", "bytes or packets", |text| match text {
                "bytes" => Ok(Chargen::stream()),
                "packets" => Ok(Chargen::datagram()),
                _ => Err("there is no such edge"),
            })?;
            Ok(edge.unwrap_or_else(Chargen::datagram))
        })
        .under("udp", 19);
    registry.register("relay", |_| Ok(Relay::new()));
}

/// Who answers of names, and of files.
fn servers(registry: &mut Registry) {
    registry
        .register("dns", |options| {
            let mut dns = Dns::new();
            for zone in options.take_all::<String>("zone")? {
                dns = dns.origin(&zone).map_err(|error| options.refuse("zone", error))?;
            }
            let ttl = options.take("ttl")?.unwrap_or(3600);
            for kind in ["a", "aaaa", "txt", "cname", "ptr"] {
                for NameAnd(name, value) in options.take_all(kind)? {
                    let data = match kind {
                        "a" => value.parse().map(dns::Data::A).ok(),
                        "aaaa" => value.parse().map(dns::Data::Aaaa).ok(),
                        "txt" => Some(dns::Data::Txt(value)),
                        "cname" => Some(dns::Data::Cname(value)),
                        _ => Some(dns::Data::Ptr(value)),
                    };
                    let data = data.ok_or_else(|| options.refuse(kind, "the address is malformed"));
                    let with = dns.record(&name, ttl, data?);
                    dns = with.map_err(|error| options.refuse(kind, error))?;
                }
            }
            Ok(dns)
        })
        .under("udp", dns::PORT.into());
    registry
        .register("tftp", |options| {
            let root = options.required::<PathBuf>("root")?;
            let folder = Folder::open(&root).map_err(|error| options.refuse("root", error))?;
            let mut tftp = Tftp::folder(folder)
                .write(options.take("write")?.unwrap_or(false))
                .overwrite(options.take("overwrite")?.unwrap_or(false))
                .own_ports(options.take("own_ports")?.unwrap_or(false));
            if let Some(bytes) = options.take("max_size")? {
                tftp = tftp.max_size(bytes);
            }
            if let Some(bytes) = options.take("max_block")? {
                tftp = tftp.max_block(bytes);
            }
            Ok(tftp)
        })
        .under("udp", tftp::PORT.into());
}

/// A name, a space, and what it has.
struct NameAnd(String, String);

impl FromStr for NameAnd {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) =
            text.split_once(' ').ok_or("a name, a space and its data are wanted")?;
        Ok(Self(name.to_owned(), value.trim().to_owned()))
    }
}

/// The address of a station that is not told its own: one that is locally administered.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The address of a host that is not told its own: one for documentation, which no network has
/// (RFC 5737).
const ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(192, 0, 2, 1), 24);

/// A station, a host, and what is above it.
fn hosts(registry: &mut Registry) {
    registry
        .register("ethernet", |options| {
            let station = options.take_with("mac", A_MAC, mac)?.unwrap_or(MAC);
            let ethernet = Ethernet::new(station)
                .promiscuous(options.take("promiscuous")?.unwrap_or(false))
                .pad(options.take("pad")?.unwrap_or(false));
            Ok(match options.take_with("peer", A_MAC, mac)? {
                Some(peer) => ethernet.peer(peer),
                None => ethernet,
            })
        })
        .alias("eth")
        .under("gre", ethertype::TRANSPARENT_ETHERNET)
        .under("geneve", ethertype::TRANSPARENT_ETHERNET)
        .needs_key("an EtherType", 0xffff);
    registry
        .register("vlan", |options| {
            let id = options.required_with("id", "a number from 1 to 4094", |text| {
                let id = text.parse().ok().filter(|id| (1..=4094).contains(id));
                id.ok_or("no VLAN has this number")
            })?;
            let vlan = Vlan::new(id);
            Ok(options.take("depth")?.map_or(vlan.clone(), |depth| vlan.depth(depth)))
        })
        .under("ethernet", ethertype::VLAN)
        .under("vlan", ethertype::VLAN)
        .needs_key("an EtherType", 0xffff);
    registry
        .register("trunk", |options| {
            let trunk = Vlan::trunk();
            Ok(options.take("depth")?.map_or(trunk.clone(), |depth| trunk.depth(depth)))
        })
        .under("ethernet", ethertype::VLAN)
        .needs_key("a VLAN's number times 0x10000 and an EtherType", 0x0fff_ffff);
    // Above Ethernet twice, in this order: what it answers, and what it passes on (`Arp`).
    registry
        .register("arp", |options| {
            let mac = options.take_with("mac", A_MAC, mac)?.unwrap_or(MAC);
            let (address, length) =
                options.take_with("address", A_NETWORK, network)?.unwrap_or(ADDRESS);
            let announce = options.take("announce")?;
            let arp = Arp::new(mac, address, length);
            Ok(match announce {
                Some(announce) => arp.announce(announce),
                None => arp,
            })
        })
        .shares("mac")
        .shares("address")
        .under("ethernet", ethertype::ARP)
        .under("ethernet", ethertype::IPV4)
        .under("vlan", ethertype::ARP)
        .under("vlan", ethertype::IPV4);
    registry
        .register("ipv4", |options| {
            let (address, length) =
                options.take_with("address", A_NETWORK, network)?.unwrap_or(ADDRESS);
            let mut ipv4 = Ipv4::new(address, length);
            if let Some(gateway) = options.take("gateway")? {
                ipv4 = ipv4.gateway(gateway);
            }
            if let Some(mtu) = options.take("mtu")? {
                ipv4 = ipv4.mtu(mtu);
            }
            if let Some(ttl) = options.take("ttl")? {
                ipv4 = ipv4.ttl(ttl);
            }
            for group in options.take_all::<Ipv4Addr>("join")? {
                if !group.is_multicast() {
                    return Err(options.refuse("join", "this is no multicast group"));
                }
                ipv4 = ipv4.join(group);
            }
            Ok(ipv4
                .dont_fragment(options.take("dont_fragment")?.unwrap_or(false))
                .promiscuous(options.take("promiscuous")?.unwrap_or(false)))
        })
        .under("ethernet", ethertype::IPV4)
        .under("vlan", ethertype::IPV4)
        .under("gre", ethertype::IPV4)
        .under("geneve", ethertype::IPV4)
        .needs_key("a protocol number", 0xff);
    registry
        .register("icmp", |options| {
            let icmp = Icmp::new();
            match (options.take("burst")?, options.duration("every")?) {
                (None, None) => Ok(icmp),
                (burst, every) => {
                    Ok(icmp.rate(burst.unwrap_or(10), every.unwrap_or(Duration::from_millis(10))))
                }
            }
        })
        .under("ipv4", protocol::ICMP);
    registry
        .register("udp", |options| {
            Ok(Udp::new()
                .offload(options.take("offload")?.unwrap_or(false))
                .without_checksum(options.take("without_checksum")?.unwrap_or(false))
                .any_port(options.take("any_port")?.unwrap_or(false)))
        })
        .under("ipv4", protocol::UDP)
        .under("ipv6", protocol::UDP)
        .needs_key("a port", 0xffff);
}

/// IPv6, which has a link-local address of its MAC beside those that it is given.
fn hosts_of_ipv6(registry: &mut Registry) {
    registry
        .register("nd", |options| {
            let mac = options.take_with("mac", A_MAC, mac)?.unwrap_or(MAC);
            let nd = Nd::new(mac)
                .address(link_local(mac))
                .accept_router(options.take("accept_router")?.unwrap_or(false));
            Ok(addresses(options)?.into_iter().fold(nd, |nd, (address, _)| nd.address(address)))
        })
        .shares("mac")
        .shares("address")
        .under("ethernet", ethertype::IPV6)
        .under("vlan", ethertype::IPV6);
    registry
        .register("ipv6", |options| {
            let mac = options.take_with("mac", A_MAC, mac)?.unwrap_or(MAC);
            let mut ipv6 = Ipv6::new(link_local(mac), 64);
            for (address, length) in addresses(options)? {
                ipv6 = ipv6.address(address, length);
            }
            if let Some(gateway) = options.take("gateway")? {
                ipv6 = ipv6.gateway(gateway);
            }
            if let Some(mtu) = options.take("mtu")? {
                ipv6 = ipv6.mtu(mtu);
            }
            if let Some(hops) = options.take("hop_limit")? {
                ipv6 = ipv6.hop_limit(hops);
            }
            for group in options.take_all::<Ipv6Addr>("join")? {
                if !group.is_multicast() {
                    return Err(options.refuse("join", "this is no multicast group"));
                }
                ipv6 = ipv6.join(group);
            }
            Ok(ipv6)
        })
        .shares("mac")
        .under("ethernet", ethertype::IPV6)
        .under("vlan", ethertype::IPV6)
        .under("gre", ethertype::IPV6)
        .under("geneve", ethertype::IPV6)
        .needs_key("a next header", 0xff);
    registry
        .register("icmpv6", |options| {
            let icmp = Icmpv6::new();
            match (options.take("burst")?, options.duration("every")?) {
                (None, None) => Ok(icmp),
                (burst, every) => {
                    Ok(icmp.rate(burst.unwrap_or(10), every.unwrap_or(Duration::from_millis(10))))
                }
            }
        })
        .under("ipv6", protocol::ICMPV6);
}

/// Packets inside packets.
fn tunnels(registry: &mut Registry) {
    registry
        .register("vxlan", |options| {
            let vxlan = vni(options)?.map_or_else(Vxlan::new, Vxlan::single);
            let remote = options.take_with("remote", AN_END, str::parse::<SocketAddr>)?;
            Ok(match remote {
                Some(remote) => vxlan.remote(remote),
                None => vxlan,
            })
        })
        .under("udp", 4789)
        .takes_key("a VNI", 0xff_ffff);
    registry
        .register("geneve", |options| {
            let remote = options.required_with("remote", AN_END, str::parse::<SocketAddr>)?;
            Ok(match vni(options)? {
                Some(vni) => Geneve::single(vni, remote),
                None => Geneve::new(remote),
            })
        })
        .under("udp", 6081)
        .needs_key("the VNI times 0x10000 and a protocol type", 0xff_ffff_ffff);
    registry
        .register("gre", |options| {
            let mut gre = Gre::new(options.required::<IpAddr>("remote")?);
            if let Some(key) = options.take("key")? {
                gre = gre.key(key);
            }
            Ok(gre
                .checksum(options.take("checksum")?.unwrap_or(false))
                .sequence(options.take("sequence")?.unwrap_or(false)))
        })
        .under("ipv4", protocol::GRE)
        .under("ipv6", protocol::GRE)
        .needs_key("an EtherType", 0xffff);
    registry
        .register("mpls", |options| {
            let mut mpls = Mpls::new().outer(&options.take_all::<u32>("outer")?);
            if let Some(depth) = options.take("depth")? {
                mpls = mpls.depth(depth);
            }
            if let Some(ttl) = options.take("ttl")? {
                mpls = mpls.ttl(ttl);
            }
            if let Some(next_hop) = options.take_with("next_hop", A_MAC, mac)? {
                mpls = mpls.next_hop(next_hop);
            }
            Ok(mpls)
        })
        .under("ethernet", ethertype::MPLS)
        .under("vlan", ethertype::MPLS)
        .under("gre", ethertype::MPLS)
        .needs_key("a label", 0xf_ffff);
}

const AN_END: &str = "an address with a port, such as 192.0.2.2:4789";

/// The number of a virtual network, of 24 bits.
fn vni(options: &mut Options) -> Result<Option<u32>, Refused> {
    match options.take("vni")? {
        Some(vni) if vni > 0xff_ffff => Err(options.refuse("vni", "a VNI has 24 bits")),
        vni => Ok(vni),
    }
}

/// The addresses of a host of IPv6, or one for documentation (RFC 3849).
fn addresses(options: &mut Options) -> Result<Vec<(Ipv6Addr, u8)>, Refused> {
    let given = options.take_all::<Network6>("address")?;
    let given: Vec<_> = given.into_iter().map(|network| (network.0, network.1)).collect();
    let usual = (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 64);
    Ok(if given.is_empty() { vec![usual] } else { given })
}

/// An address and the length of its network's prefix.
struct Network6(Ipv6Addr, u8);

impl FromStr for Network6 {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = split(text)?;
        let address: Ipv6Addr = address.parse().map_err(|_| "the address is malformed")?;
        match length.parse() {
            _ if address.is_multicast() => Err("it is a group's, not a host's"),
            Ok(length) if length <= 128 => Ok(Self(address, length)),
            _ => Err("the prefix length is not from 0 to 128"),
        }
    }
}

fn split(text: &str) -> Result<(&str, &str), &'static str> {
    text.split_once('/').ok_or("the prefix length is missing")
}

const A_NETWORK: &str = "an IPv4 address with its prefix length, such as 192.0.2.1/24";
const A_MAC: &str = "a MAC address such as 02:00:00:00:00:01";

/// Six bytes in base 16 with `:` or `-` between them.
fn mac(text: &str) -> Result<[u8; 6], &'static str> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len()));
        let part = part.filter(|part| part.chars().all(|c| c.is_ascii_hexdigit()));
        let part = part.ok_or("it is not six bytes in base 16")?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| "it is not six bytes in base 16")?;
    }
    match parts.next() {
        Some(_) => Err("it has more than six bytes"),
        None if bytes[0] & 1 == 1 => Err("it is a group's, not a station's"),
        None => Ok(bytes),
    }
}

/// An address and the length of its network's prefix.
fn network(text: &str) -> Result<(Ipv4Addr, u8), &'static str> {
    let (address, length) = split(text)?;
    let address = address.parse().map_err(|_| "the address is malformed")?;
    match length.parse() {
        Ok(length) if length <= 32 => Ok((address, length)),
        _ => Err("the prefix length is not from 0 to 32"),
    }
}
