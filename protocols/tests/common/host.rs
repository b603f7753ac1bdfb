//! A host of all plugins, and packets for it.

use std::net::Ipv6Addr;

use mbuf::{
    Chain, Pool,
    stack::{Edge, PortId, Signal, Stack, StackStats},
};
use mbuf_protocols::{
    Dns, Echo,
    dns::{self, Data},
    net::{
        Arp, Ethernet, Icmp, Icmpv6, Ipv4, Ipv6, Nd, Udp, Vlan, ethertype, ipv6::link_local,
        protocol,
    },
    tunnel::{Geneve, Gre, Mpls, Vxlan, geneve, vxlan},
};

use super::{frame, ip, ip6, udp};

pub const PORT: PortId = PortId(0);
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const US: [u8; 4] = [192, 0, 2, 1];
pub const PEER: [u8; 4] = [192, 0, 2, 2];
pub const US6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub const EXPERIMENT: u16 = 0x88b5;

/// One with room for the headers of a tunnel.
pub fn pool() -> Pool {
    Pool::builder().headroom(128).build().unwrap()
}

/// A host of all plugins, which knows its neighbour.
pub struct Host {
    pool: Pool,
    stack: Stack,
}

impl Host {
    pub fn new(pool: &Pool) -> Self {
        let experiment = u64::from(EXPERIMENT);
        let mut builder = Stack::builder(pool);
        let ethernet = builder.layer(Ethernet::new(MAC));
        let arp = Arp::new(MAC, US.into(), 24).neighbour(PEER.into(), THEIRS);
        let arp = builder.layer(arp);
        let ip = builder.layer(Ipv4::new(US.into(), 24));
        let nd = builder.layer(Nd::new(MAC).address(US6));
        let ip6 = builder.layer(Ipv6::new(link_local(MAC), 64).address(US6, 64));
        let udp = builder.layer(Udp::new());
        let echo = builder.layer(Echo::new());
        builder.port(Edge::Packets, ethernet);
        builder.bind(ethernet, ethertype::ARP, arp).bind(ethernet, ethertype::IPV4, arp);
        builder.bind(ethernet, ethertype::IPV6, nd).stack(arp, ip).stack(nd, ip6);
        let icmp = builder.layer(Icmp::new());
        let icmp6 = builder.layer(Icmpv6::new());
        builder.bind(ip, protocol::ICMP, icmp).bind(ip, protocol::UDP, udp);
        builder.bind(ip6, protocol::ICMPV6, icmp6).bind(ip6, protocol::UDP, udp);
        builder.bind(udp, 7, echo);
        let provider = builder.layer(Vlan::new(7));
        let customer = builder.layer(Vlan::new(100));
        builder.bind(ethernet, ethertype::QINQ, provider);
        builder.bind(ethernet, ethertype::VLAN, customer);
        builder.bind(provider, ethertype::VLAN, customer).bind(customer, experiment, echo);
        let mpls = builder.layer(Mpls::new());
        builder.bind(ethernet, ethertype::MPLS, mpls).bind(mpls, 100, echo);
        let remote = |port| (PEER, port).into();
        let vxlan = builder.layer(Vxlan::single(42).remote(remote(vxlan::PORT)));
        builder.bind(udp, vxlan::PORT.into(), vxlan).stack(vxlan, echo);
        let geneve = builder.layer(Geneve::single(42, remote(geneve::PORT)));
        builder.bind(udp, geneve::PORT.into(), geneve).bind(geneve, experiment, echo);
        let inside = builder.layer(Ethernet::new(MAC));
        let gre = builder.layer(Gre::new(remote(0).ip()).key(7).checksum(true));
        builder.bind(ip, protocol::GRE, gre).bind(gre, ethertype::TRANSPARENT_ETHERNET, inside);
        builder.bind(inside, experiment, echo);
        let dns = Dns::new().origin("example.org").unwrap();
        let dns = dns.record("a.example.org", 60, Data::A(US.into())).unwrap();
        let dns = builder.layer(dns);
        builder.bind(udp, dns::PORT.into(), dns);
        let mut stack = builder.build().unwrap();
        stack.open();
        let mut host = Self { pool: pool.clone(), stack };
        let asks = host.pool.chain_from(&solicitation()).unwrap();
        assert_eq!(host.hears(asks).len(), 1);
        host
    }

    /// What it sends because of this frame.
    pub fn hears(&mut self, frame: Chain) -> Vec<Vec<u8>> {
        self.stack.input_one(PORT, frame);
        let mut sent = Vec::new();
        loop {
            while self.stack.has_work() {
                self.stack.poll();
            }
            let Some(chain) = self.stack.poll_output(PORT).pop() else { return sent };
            sent.push(chain.to_vec().unwrap());
        }
    }

    pub fn dropped(&self) -> u64 {
        self.stack.stats().layers.iter().map(|layer| layer.dropped()).sum()
    }

    /// Every layer accounts for every chain, and no buffer is left.
    pub fn finish(mut self) -> StackStats {
        self.stack.signal(Signal::Shutdown);
        assert_eq!(self.stack.next_timeout(), None);
        let stats = self.stack.stats();
        for layer in &stats.layers {
            assert_eq!(layer.imbalance(), 0, "{layer:?}");
            assert_eq!(layer.undeclared, [], "{layer:?}");
        }
        drop(self.stack);
        assert_eq!(self.pool.stats().in_use(), 0);
        stats
    }
}

pub fn to_host(datagram: &[u8]) -> Vec<u8> {
    frame(MAC, THEIRS, 0x0800, datagram)
}

pub fn to_host6(next: u8, headers: &[u8], upper: u8, payload: &[u8]) -> Vec<u8> {
    frame(MAC, THEIRS, 0x86dd, &ip6((PEER6, US6), 255, (next, headers), upper, payload))
}

pub fn solicitation() -> Vec<u8> {
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &US6.octets(), &[1, 1], &THEIRS].concat();
    to_host6(58, &[], 58, &message)
}

/// A datagram to that port.
pub fn datagram(port: u16, data: &[u8]) -> Vec<u8> {
    to_host(&ip(1, 0, 17, PEER, US, &udp((PEER, 4000), (US, port), data)))
}
