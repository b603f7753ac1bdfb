//! A whole machine in one process, behind a TAP: Ethernet, ARP and neighbour discovery, IPv4 and IPv6
//! with fragments, ICMP and ICMPv6, UDP and TCP, the echo and discard services, DNS for names that it is
//! told (`--dns`), and files by TFTP (`--tftp`). The kernel's own `ping` is its first user:
//!
//! ```console
//! unshare -rn                 # a network namespace of one's own; root can do without
//! cargo run --release --example host -- --ip 10.7.0.2/24 --ip6 fd00::2/64 --tftp /srv/tftp &
//! ping -c 3 10.7.0.2
//! ping -c 1 -s 60000 fd00::2
//! echo hello | socat - udp:10.7.0.2:7
//! echo hello | socat - tcp6:[fd00::2]:7
//! curl tftp://10.7.0.2/motd
//! ```

mod cli;
#[path = "../common/mod.rs"]
mod common;

use std::{io::Write, net::IpAddr, process::ExitCode};

use anyhow::{Context, ensure};
use clap::Parser;
use mbuf::{
    BuildError, Pool,
    io::{Offloads, TunTap, reactor::Reactor, store::Folder},
    stack::{Edge, Stack},
};
use mbuf_protocols::{
    Discard, Dns, Echo, Tftp,
    dns::{self, BadName},
    net::{
        Arp, Ethernet, Icmp, Icmpv6, Ipv4, Ipv6, Nd, Udp, ethertype, ipv6::link_local, protocol,
    },
    tcp::Tcp,
    tftp,
};

use crate::{
    cli::{Arguments, Named, Network, Network6},
    common::{print, stop::Stop},
};

/// RFC 862 and RFC 863.
const ECHO: u64 = 7;
const DISCARD: u64 = 9;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::complain(format_args!("host: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let network = arguments.ip;
    let kernel = arguments.kernel.unwrap_or_else(|| network.other());
    ensure!(
        kernel.address != network.address,
        "--ip and --kernel are both {}: one is the machine's, one the kernel's",
        network.address
    );
    let folder = arguments.tftp.as_deref().map(Folder::open).transpose().context("--tftp")?;
    let pool = Pool::with_memory(arguments.memory).context("--memory")?;
    let mut tap = TunTap::builder()
        .tap()
        .name(&arguments.tap)
        .mtu(arguments.mtu)
        .address(kernel.address.into(), kernel.prefix);
    if let Some(network) = arguments.ip6 {
        tap = tap.address(network.other().address.into(), network.prefix);
    }
    if arguments.offload {
        tap = tap.offload(Offloads::USO);
    }
    let tap = tap.build()?;
    let stop = Stop::on_signals("host", 1)?;
    let mut reactor = Reactor::builder(&pool).grace(common::stop::GRACE).build()?;
    let (name, mtu) = (tap.name().to_owned(), tap.mtu());
    let names = names(&arguments.dns).context("--dns")?;
    let stack = machine(&pool, arguments, mtu, names, folder.as_ref())?;
    reactor.attach(stack, vec![Box::new(tap)])?;
    stop.ends(reactor.handle());

    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "ready: {network} at {} on {name}, MTU {mtu}; the kernel's end is {kernel}",
        arguments.mac
    )?;
    if let Some(network) = arguments.ip6 {
        let (own, other) = (link_local(arguments.mac.0), network.other());
        writeln!(out, "IPv6: {network} and {own}; the kernel's end is {other}")?;
    }
    let address = network.address;
    writeln!(out, "ping {address}; UDP and TCP: echo on port {ECHO}, discard on {DISCARD}")?;
    if !arguments.dns.is_empty() {
        writeln!(out, "DNS on port {} for {} addresses", dns::PORT, arguments.dns.len())?;
    }
    if let Some(folder) = &arguments.tftp {
        let may = if arguments.tftp_write { "read and written" } else { "read" };
        writeln!(out, "TFTP: {} may be {may} on port {}", folder.display(), tftp::PORT)?;
    }
    out.flush()?;
    drop(out);

    reactor.run().context("epoll_wait")?;
    print::books(reactor, &pool)
}

/// Answers for these names, and for those of their addresses.
fn names(names: &[Named]) -> Result<Dns, BadName> {
    /// An hour.
    const TTL: u32 = 3600;
    let mut dns = Dns::new();
    for Named { name, address } in names {
        let data = match *address {
            IpAddr::V4(address) => dns::Data::A(address),
            IpAddr::V6(address) => dns::Data::Aaaa(address),
        };
        let reverse = dns::reverse(*address);
        dns = dns.origin(name)?.record(name, TTL, data)?;
        dns = dns.origin(&reverse)?.record(&reverse, TTL, dns::Data::Ptr(name.clone()))?;
    }
    Ok(dns)
}

/// The layers of the machine.
///
/// ```text
///   echo  discard  DNS  tftp            tftp: on port 69, and on one of its own for each transfer
///     | 7   | 9     | 53  | 69, *       echo, discard: a stack for each connection
///  ICMP        UDP            TCP       ICMPv6
///    | 1    17 |   | 17     6 | | 6       | 58
///        IPv4 ----------------' '---- IPv6
///          |            |
///         ARP      neighbour discovery     hold packets whose neighbour is not known yet
///  0x0806 | | 0x0800    | 0x86dd
///          Ethernet
///             |
///            TAP
/// ```
fn machine(
    pool: &Pool,
    arguments: &Arguments,
    mtu: usize,
    names: Dns,
    folder: Option<&Folder>,
) -> Result<Stack, BuildError> {
    let Network { address, prefix } = arguments.ip;
    let mac = arguments.mac.0;
    let mut ip = Ipv4::new(address, prefix).mtu(mtu);
    if let Some(gateway) = arguments.gateway {
        ip = ip.gateway(gateway);
    }
    let mut builder = Stack::builder(pool);
    let ethernet = builder.layer(Ethernet::new(mac));
    let arp = builder.layer(Arp::new(mac, address, prefix));
    let ip = builder.layer(ip);
    let own = link_local(mac);
    let (mut nd, mut ip6) = (Nd::new(mac).address(own), Ipv6::new(own, 64).mtu(mtu));
    if let Some(Network6 { address, prefix }) = arguments.ip6 {
        nd = nd.address(address);
        ip6 = ip6.address(address, prefix);
    }
    let nd = builder.layer(nd);
    let ip6 = builder.layer(ip6);
    let icmp = builder.layer(Icmp::new());
    let icmp6 = builder.layer(Icmpv6::new());
    let udp = Udp::new().offload(arguments.offload).any_port(folder.is_some());
    let udp = builder.layer(udp);
    let addresses =
        [Some(address.into()), Some(own.into()), arguments.ip6.map(|ip| ip.address.into())];
    let addresses: Vec<IpAddr> = addresses.into_iter().flatten().collect();
    let tcp = Tcp::new(&addresses)
        .mtu(mtu)
        .offload(arguments.offload)
        .listen(ECHO as u16, || vec![Box::new(Echo::new())])
        .listen(DISCARD as u16, || vec![Box::new(Discard::new())]);
    let tcp = builder.layer(tcp);
    let echo = builder.layer(Echo::new());
    let discard = builder.layer(Discard::new());
    builder.port(Edge::Packets, ethernet);
    builder.bind(ethernet, ethertype::ARP, arp).bind(ethernet, ethertype::IPV4, arp);
    builder.bind(ethernet, ethertype::IPV6, nd);
    builder.stack(arp, ip).stack(nd, ip6);
    builder.bind(ip, protocol::ICMP, icmp).bind(ip, protocol::UDP, udp);
    builder.bind(ip6, protocol::ICMPV6, icmp6);
    // Both have IPv4 below them first, then IPv6: they tell by the address which is meant.
    builder.bind(ip6, protocol::UDP, udp);
    builder.bind(ip, protocol::TCP, tcp).bind(ip6, protocol::TCP, tcp);
    builder.bind(udp, ECHO, echo).bind(udp, DISCARD, discard);
    if !arguments.dns.is_empty() {
        let names = builder.layer(names);
        builder.bind(udp, dns::PORT.into(), names);
    }
    if let Some(folder) = folder {
        let tftp = Tftp::folder(folder.clone()).write(arguments.tftp_write).own_ports(true);
        let tftp = builder.layer(tftp);
        builder.bind(udp, tftp::PORT.into(), tftp).stack(udp, tftp);
    }
    builder.build()
}
