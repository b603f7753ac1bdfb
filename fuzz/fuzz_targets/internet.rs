//! A host of all Internet plugins against any wire: frames of anything, and frames that are right but
//! for what they say, with their checksums mended, laid out in buffers in any way, while time passes
//! and buffers run out.
//!
//! Whatever comes: no panic, no layer holds more than its bound, every chain is accounted for, no
//! frame goes out longer than the link takes, and after the end no timer is left and nothing in use.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mbuf::{
    Class, Pool,
    chain::checksum::{self, Sum},
    stack::{Edge, PortId, Signal, Stack},
    testing::{Starve, assert_all_free},
};
use mbuf_fuzz::{Layout, check_books, settle};
use mbuf_protocols::{
    Discard, Dns, Echo,
    net::{
        Arp, Ethernet, Icmp, Icmpv6, Ipv4, Ipv6, Nd, Udp, Vlan, ethertype, ipv6::link_local,
        protocol,
    },
    tunnel::{Geneve, Gre, Mpls, Vxlan},
};

const PORT: PortId = PortId(0);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const US: [u8; 4] = [192, 0, 2, 1];
/// Ethernet's header and the longest packet behind it.
const LONGEST: usize = 14 + 1500;
/// What a layer may hold, in bytes of storage: reassembly a MiB, neighbours a quarter of one; and one
/// packet more.
const BOUND: usize = (1 << 20) + (128 << 10);

#[derive(Debug, Arbitrary)]
enum Step {
    Input {
        frame: Frame,
        layout: Layout,
    },
    Time(u16),
    /// The pool is drained to so many small mbufs and clusters.
    Starve(u8),
    Feed,
    Mtu(u16),
    Drain,
}

#[derive(Debug, Arbitrary)]
struct Frame {
    /// To us, to everybody, to a group, to somebody else.
    to: u8,
    tags: Vec<u16>,
    packet: Packet,
    /// Bytes that are written over the whole, where.
    spoiled: Option<(u16, u8)>,
}

#[derive(Debug, Arbitrary)]
enum Packet {
    Any { ethertype: u16, bytes: Vec<u8> },
    Mpls(Vec<u8>),
    Arp { operation: u8, from: u8, asks: u8, mac: u8 },
    Ipv4 { from: u8, to: u8, id: u8, fragment: u16, options: Vec<u8>, upper: Upper },
    Ipv6 { from: u8, to: u8, hops: u8, extensions: Vec<Extension>, upper: Upper },
}

#[derive(Debug, Arbitrary)]
enum Upper {
    Any { protocol: u8, bytes: Vec<u8> },
    Icmp { kind: u8, code: u8, rest: Vec<u8> },
    Udp { port: u8, from: u16, bytes: Vec<u8> },
    Gre { flags: u16, bytes: Vec<u8> },
}

#[derive(Debug, Arbitrary)]
enum Extension {
    Options { destination: bool, bytes: Vec<u8> },
    Routing { kind: u8, left: u8 },
    Fragment { field: u16, id: u8 },
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let to = match self.to % 8 {
            0..=4 => MAC,
            5 => [0xff; 6],
            6 => [0x33, 0x33, 0xff, 0, 0, 1],
            _ => [2, 0, 0, 0, 0, 9],
        };
        let (kind, packet) = self.packet.bytes();
        let mut frame = [&to[..], &[2, 0, 0, 0, 0, 2]].concat();
        for tag in self.tags.iter().take(6) {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(kind.to_be_bytes());
        frame.extend(packet);
        if let Some((at, value)) = self.spoiled {
            let at = usize::from(at) % frame.len();
            frame[at] = value;
        }
        frame
    }
}

impl Packet {
    fn bytes(&self) -> (u16, Vec<u8>) {
        match self {
            Packet::Any { ethertype, bytes } => (*ethertype, bytes.clone()),
            Packet::Mpls(bytes) => (0x8847, bytes.clone()),
            &Packet::Arp { operation, from, asks, mac } => {
                let head = [0, 1, 8, 0, 6, 4, 0, operation % 4];
                let ends =
                    [2, 0, 0, 0, 0, mac, 192, 0, 2, from, 0, 0, 0, 0, 0, 0, 192, 0, 2, asks % 4];
                (0x0806, [&head[..], &ends].concat())
            }
            Packet::Ipv4 { from, to, id, fragment, options, upper } => {
                let (source, destination) =
                    ([192, 0, 2, *from], [192, 0, 2, if to % 4 == 0 { *to } else { 1 }]);
                let pseudo =
                    |protocol, len| Sum::ipv4(source.into(), destination.into(), protocol, len);
                let (protocol, body) = upper.bytes(false, &pseudo);
                let options = &options[..(options.len() & !3).min(40)];
                let length = 20 + options.len();
                let mut header = vec![0x40 | (length / 4) as u8, 0];
                header.extend(((length + body.len()) as u16).to_be_bytes());
                header.extend([0, *id]);
                // Fragments, more than not, begin near one another.
                header.extend((fragment & 0x20ff).to_be_bytes());
                header.extend([64, protocol, 0, 0]);
                header.extend(source.iter().chain(&destination));
                header.extend(options);
                let sum = checksum::of(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                (0x0800, [header, body].concat())
            }
            Packet::Ipv6 { from, to, hops, extensions, upper } => {
                // A neighbour, ours or the one that is asked for by all: link-local, and not.
                let end = |n: u8, ours: bool| {
                    let mut address = match n % 3 {
                        0 => link_local(MAC).octets(),
                        1 => [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                        _ => [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1],
                    };
                    if !ours {
                        address[15] = n;
                    }
                    address
                };
                let (source, destination) = (end(*from, false), end(*to, true));
                let pseudo = |protocol, len: u16| {
                    Sum::ipv6(source.into(), destination.into(), protocol, len.into())
                };
                let (protocol, body) = upper.bytes(true, &pseudo);
                let mut next = protocol;
                let mut rest = body;
                for extension in extensions.iter().take(10).rev() {
                    let (kind, mut bytes) = extension.bytes();
                    bytes[0] = next;
                    next = kind;
                    rest = [bytes, rest].concat();
                }
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend((rest.len() as u16).to_be_bytes());
                packet.extend([next, if hops % 2 == 0 { 255 } else { *hops }]);
                packet.extend(source.iter().chain(&destination).chain(&rest));
                (0x86dd, packet)
            }
        }
    }
}

impl Extension {
    fn bytes(&self) -> (u8, Vec<u8>) {
        match self {
            Extension::Options { destination, bytes } => {
                let len = bytes.len().min(200);
                let blocks = (2 + len).div_ceil(8);
                let mut out = vec![0, (blocks - 1) as u8];
                out.extend(&bytes[..len]);
                out.resize(8 * blocks, 0);
                (if *destination { 60 } else { 0 }, out)
            }
            Extension::Routing { kind, left } => (43, vec![0, 0, *kind, *left, 0, 0, 0, 0]),
            Extension::Fragment { field, id } => {
                let [high, low] = (field & 0x07ff).to_be_bytes();
                (44, vec![0, 0, high, low, 0, 0, 0, *id])
            }
        }
    }
}

impl Upper {
    /// The protocol, and the bytes with a right checksum.
    fn bytes(&self, six: bool, pseudo: &dyn Fn(u8, u16) -> Sum) -> (u8, Vec<u8>) {
        let mend = |protocol: u8, mut bytes: Vec<u8>, field: usize, pseudo_too: bool| {
            let mut sum =
                if pseudo_too { pseudo(protocol, bytes.len() as u16) } else { Sum::new() };
            sum.add(&bytes);
            bytes[field..field + 2].copy_from_slice(&sum.checksum().to_be_bytes());
            (protocol, bytes)
        };
        match self {
            Upper::Any { protocol, bytes } => (*protocol, bytes.clone()),
            Upper::Icmp { kind, code, rest } => {
                let kind = if six {
                    [1, 2, 3, 4, 128, 129, 133, 134, 135, 136, 137][usize::from(*kind) % 11]
                } else {
                    kind % 20
                };
                let bytes = [&[kind, *code % 8, 0, 0][..], rest].concat();
                mend(if six { 58 } else { 1 }, bytes, 2, six)
            }
            Upper::Udp { port, from, bytes } => {
                let port = [7_u16, 53, 4789, 6081, 9, 33][usize::from(*port) % 6];
                let mut datagram = from.to_be_bytes().to_vec();
                datagram.extend(port.to_be_bytes());
                datagram.extend(((8 + bytes.len()) as u16).to_be_bytes());
                datagram.extend([0, 0]);
                datagram.extend(bytes);
                mend(17, datagram, 6, true)
            }
            Upper::Gre { flags, bytes } => (47, [&flags.to_be_bytes()[..], bytes].concat()),
        }
    }
}

struct Host {
    pool: Pool,
    stack: Stack,
    starve: Option<Starve>,
    mtu: usize,
}

impl Host {
    fn new() -> Self {
        let pool = Pool::builder().headroom(128).count(Class::Small, 1024).count(Class::K2, 256);
        let pool = pool.count(Class::K4, 16).count(Class::K16, 4).count(Class::K64, 2);
        let pool = pool.move_on_pullup(true).build().expect("memory for a small pool");
        let peer = [192, 0, 2, 2].into();
        let six = [0xfd00, 0, 0, 0, 0, 0, 0, 1].into();
        let own = link_local(MAC);

        let mut builder = Stack::builder(&pool);
        let ethernet = builder.layer(Ethernet::new(MAC));
        let vlan = builder.layer(Vlan::new(5));
        let mpls = builder.layer(Mpls::new());
        let arp = builder.layer(Arp::new(MAC, US.into(), 24));
        let ipv4 = builder.layer(Ipv4::new(US.into(), 24));
        let icmp = builder.layer(Icmp::new());
        let nd = builder.layer(Nd::new(MAC).address(own).address(six).accept_router(true));
        let ipv6 = builder.layer(Ipv6::new(own, 64).address(six, 64));
        let icmpv6 = builder.layer(Icmpv6::new());
        let gre = builder.layer(Gre::new(peer));
        let udp = builder.layer(Udp::new());
        let echo = builder.layer(Echo::new());
        let dns = builder.layer(Dns::new());
        let vxlan = builder.layer(Vxlan::new().learning(16, Duration::from_secs(60)));
        let geneve = builder.layer(Geneve::new((peer, 6081).into()));
        builder.port(Edge::Packets, ethernet);
        builder.bind(ethernet, ethertype::ARP, arp).bind(ethernet, ethertype::IPV4, arp);
        builder.bind(ethernet, ethertype::IPV6, nd).bind(ethernet, 0x8847, mpls);
        builder.bind(ethernet, 0x8100, vlan);
        builder.stack(arp, ipv4).stack(nd, ipv6);
        builder.bind(ipv4, protocol::ICMP, icmp).bind(ipv4, protocol::UDP, udp);
        builder.bind(ipv4, 47, gre);
        builder.bind(ipv6, protocol::ICMPV6, icmpv6).bind(ipv6, protocol::UDP, udp);
        builder.bind(udp, 7, echo).bind(udp, 53, dns);
        builder.bind(udp, 4789, vxlan).bind(udp, 6081, geneve);
        for tunnel in [vlan, mpls, gre, vxlan, geneve] {
            let above = builder.layer(Discard::new());
            builder.stack(tunnel, above);
        }
        let mut stack = builder.build().expect("layers that fit");
        stack.open();
        settle(&mut stack);
        Self { pool, stack, starve: None, mtu: 1500 }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Input { frame, layout } => {
                if let Ok(chain) = layout.chain(&self.pool, &frame.bytes()) {
                    self.stack.input_one(PORT, chain);
                }
            }
            Step::Time(ms) => {
                let now = self.stack.now() + Duration::from_millis((*ms).into());
                self.stack.advance(now);
            }
            Step::Starve(left) => {
                self.starve = None;
                self.starve = Some(Starve::leave(&self.pool, (*left).into(), (*left).into()));
            }
            Step::Feed => self.starve = None,
            Step::Mtu(bytes) => {
                self.mtu = self.mtu.max((*bytes).into());
                self.stack.signal(Signal::Mtu((*bytes).into()));
            }
            Step::Drain => self.stack.signal(Signal::Drain),
        }
        settle(&mut self.stack);
        while let Some(chain) = self.stack.poll_output(PORT).pop() {
            chain.check().expect("every invariant");
            let most = LONGEST.max(14 + self.mtu);
            assert!((14..=most).contains(&chain.len()), "a frame of {} bytes", chain.len());
        }
        self.stack.flushed(PORT);
    }

    fn check(&self) {
        check_books(&self.stack);
        for layer in self.stack.stats().layers {
            assert!(layer.held.footprint <= BOUND, "{layer:?}");
        }
    }

    fn finish(mut self) {
        self.starve = None;
        self.stack.signal(Signal::Shutdown);
        settle(&mut self.stack);
        assert_eq!(self.stack.next_timeout(), None, "a timer is left");
        self.check();
        drop(self.stack);
        assert_all_free(&self.pool);
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut host = Host::new();
    for step in &steps {
        host.step(step);
        host.check();
    }
    host.finish();
});
