//! UDP (RFC 768, RFC 8200 section 8.1) over IPv4 and IPv6.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          source port          |       destination port        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |            length             |           checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |            data                                              ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The key is the local port. A datagram to a port that nobody is bound to goes back down as
//! [`Trouble::PORT_UNREACHABLE`], unless it was sent to many. A checksum of 0 means *none* over
//! IPv4 and is refused over IPv6 ([`NO_CHECKSUM`]); one that comes out as 0 is sent as 0xffff. Bytes
//! behind the length are trimmed.
//!
//! Over both IPs the lower edge 0 is IPv4 and 1 is IPv6 (bind them in this order); with one edge
//! below everything goes there.

use std::net::{IpAddr, SocketAddr};

use mbuf::{
    Address, Chain,
    chain::checksum::Sum,
    meta::Offload,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use super::{
    Trouble,
    ipv4::{BAD_CHECKSUM, NO_ROUTE, TOO_BIG},
    prepended, protocol,
};

/// No checksum, over IPv6.
pub const NO_CHECKSUM: DropReason = DropReason("no_checksum");

const HEADER: usize = size_of::<Header>();

/// The header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// The sender's port, 0 if it wants no answer.
    pub source: U16,
    /// The receiver's port.
    pub destination: U16,
    /// Header and data, in bytes.
    pub length: U16,
    /// Over pseudo header, header and data.
    pub checksum: U16,
}

/// UDP: ports, and a checksum. O(1) a datagram, but for the checksum, which is O(n).
#[derive(Debug, Clone, Default)]
pub struct Udp {
    offload: bool,
    no_checksum: bool,
    any_port: bool,
}

impl Udp {
    /// UDP with checksums of its own.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::net::Udp;
    ///
    /// assert_eq!(Udp::new().info().max_prepend(), 8);
    /// ```
    pub const fn new() -> Self {
        Self { offload: false, no_checksum: false, any_port: false }
    }

    /// Leaves the checksum to the device ([`Offload::CHECKSUM_PARTIAL`]).
    ///
    /// ```
    /// # use mbuf_protocols::net::Udp;
    /// assert!(format!("{:?}", Udp::new().offload(true)).contains("offload: true"));
    /// ```
    pub const fn offload(mut self, yes: bool) -> Self {
        self.offload = yes;
        self
    }

    /// Sends no checksum over IPv4, which tunnels may (RFC 7348); over IPv6 there always is one.
    ///
    /// ```
    /// # use mbuf_protocols::net::Udp;
    /// let udp = Udp::new().without_checksum(true);
    /// assert!(format!("{udp:?}").contains("no_checksum: true"));
    /// ```
    pub const fn without_checksum(mut self, yes: bool) -> Self {
        self.no_checksum = yes;
        self
    }

    /// Hands what is for a port that nobody is bound to up to the layer that stands above without
    /// a key, instead of answering that the port is unreachable. That layer may still have it
    /// answered so: it sets [`Trouble::PORT_UNREACHABLE`] in the shared slot, and sends the chain
    /// down again as it is.
    ///
    /// ```
    /// # use mbuf_protocols::net::Udp;
    /// assert!(format!("{:?}", Udp::new().any_port(true)).contains("any_port: true"));
    /// ```
    pub const fn any_port(mut self, yes: bool) -> Self {
        self.any_port = yes;
        self
    }

    /// Nobody is bound to the port.
    #[cold]
    fn unbound(&self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if self.any_port { cx.up(chain) } else { self.unreachable(chain, cx.edge(), cx) }
    }

    /// Nobody is at the port (RFC 1122, 4.1.3.1); it came by that lower edge.
    #[cold]
    fn unreachable(&self, mut chain: Chain, edge: usize, cx: &mut Context<'_>) -> Outcome {
        let to_many = match chain.meta().destination() {
            Address::Ip(SocketAddr::V4(to)) => to.ip().is_multicast() || to.ip().is_broadcast(),
            Address::Ip(SocketAddr::V6(to)) => to.ip().is_multicast(),
            _ => true,
        };
        if to_many || chain.restore(HEADER).is_err() {
            return cx.drop(chain, DropReason::UNBOUND);
        }
        cx.set_slot(&mut chain, Trouble::PORT_UNREACHABLE);
        cx.down_edge(edge, chain)
    }
}

impl Protocol for Udp {
    fn name(&self) -> &str {
        "udp"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(HEADER)
            .min_header(HEADER)
            .shared_slot::<Trouble>()
            .reasons(&[BAD_CHECKSUM, NO_CHECKSUM, NO_ROUTE, TOO_BIG])
    }

    #[inline]
    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(&header) = chain.header::<Header>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        let length = usize::from(header.length.get());
        if length < HEADER || length > chain.len() {
            return cx.drop(chain, DropReason::MALFORMED);
        }
        if length < chain.len() && chain.truncate(length).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        let known = Offload::CHECKSUM_VERIFIED | Offload::CHECKSUM_PARTIAL;
        let offload = chain.meta().offload();
        if offload.intersects(known) {
            // It said something of this layer's checksum, not of one inside a tunnel.
            chain.meta_mut().set_offload(offload - known);
        } else if let Err(reason) = verify(&chain, &header) {
            return cx.drop(chain, reason);
        }
        if chain.trim_front(HEADER).is_err() {
            return cx.drop(chain, DropReason::SHORT);
        }
        let (source, destination) = (header.source.get(), header.destination.get());
        if !chain.meta_mut().set_ports(source, destination) {
            return cx.drop(chain, NO_ROUTE);
        }
        cx.try_up_key(destination.into(), chain).unwrap_or_else(|chain| self.unbound(chain, cx))
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Address::Ip(destination) = chain.meta().destination() else {
            return cx.drop(chain, NO_ROUTE);
        };
        if self.any_port && !cx.slot::<Trouble>(&chain).is_none() {
            // What was handed up comes back.
            let edge = usize::from(cx.lower_edges() > 1 && destination.is_ipv6());
            return self.unreachable(chain, edge, cx);
        }
        // Without a source of the same family the checksum is made as if from nobody; IP, which
        // chooses the source, brings it up to date.
        let (source, port) = match chain.meta().source() {
            Address::Ip(source) if source.is_ipv4() == destination.is_ipv4() => {
                (source.ip(), source.port())
            }
            Address::Ip(source) => (unspecified(destination.ip()), source.port()),
            _ => (unspecified(destination.ip()), 0),
        };
        let port = match (port, cx.key()) {
            (0, Some(key)) => key as u16,
            (port, _) => port,
        };
        let len = HEADER + chain.len();
        let Ok(length) = u16::try_from(len) else {
            return cx.drop(chain, TOO_BIG);
        };
        let mut header = Header {
            source: port.into(),
            destination: destination.port().into(),
            length: length.into(),
            checksum: 0.into(),
        };
        let Some(mut sum) = pseudo_header(source, destination.ip(), len) else {
            return cx.drop(chain, NO_ROUTE);
        };
        let offload = chain.meta().offload();
        let inner = offload.contains(Offload::CHECKSUM_PARTIAL);
        if inner && destination.is_ipv6() {
            // Two checksums cannot be left to the device, and this one must be there.
            return cx.drop(chain, NO_CHECKSUM);
        }
        let partial = !inner && (self.offload || offload.contains(Offload::SEGMENTED));
        if partial {
            header.checksum = sum.fold().into();
        } else if !(inner || self.no_checksum && destination.is_ipv4()) {
            sum.add(header.as_bytes());
            if sum.add_chain(&chain, ..).is_err() {
                return cx.drop(chain, DropReason::NO_BUFFERS);
            }
            // RFC 768: 0 would mean that there is none.
            header.checksum = match sum.checksum() {
                0 => 0xffff,
                sum => sum,
            }
            .into();
        }
        if chain.push(&header).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        prepended(&mut chain, HEADER);
        if partial {
            chain.meta_mut().set_transport_offset(0);
            chain.meta_mut().set_offload(offload | Offload::CHECKSUM_PARTIAL);
        } else if offload.contains(Offload::CHECKSUM_VERIFIED) {
            chain.meta_mut().set_offload(offload - Offload::CHECKSUM_VERIFIED);
        }
        match (cx.lower_edges(), destination) {
            (2.., SocketAddr::V6(_)) => cx.down_edge(1, chain),
            (2.., SocketAddr::V4(_)) => cx.down_edge(0, chain),
            _ => cx.down(chain),
        }
    }
}

/// Why a datagram of nothing but header and data is refused for its checksum.
#[inline]
fn verify(chain: &Chain, header: &Header) -> Result<(), DropReason> {
    let (Address::Ip(source), Address::Ip(destination)) =
        (chain.meta().source(), chain.meta().destination())
    else {
        return Err(NO_ROUTE);
    };
    if header.checksum.get() == 0 {
        return if source.is_ipv4() { Ok(()) } else { Err(NO_CHECKSUM) };
    }
    let Some(mut sum) = pseudo_header(source.ip(), destination.ip(), chain.len()) else {
        return Err(DropReason::MALFORMED);
    };
    if sum.add_chain(chain, ..).is_err() || sum.checksum() != 0 {
        return Err(BAD_CHECKSUM);
    }
    Ok(())
}

#[inline]
fn pseudo_header(source: IpAddr, destination: IpAddr, len: usize) -> Option<Sum> {
    super::pseudo_header(source, destination, protocol::UDP, len)
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use mbuf::{
        stack::Stack,
        testing::{self, Conformance},
    };

    use super::*;
    use crate::{
        Echo,
        rig::{Inbox, PORT, Rig},
    };

    const V4: (&str, &str) = ("192.0.2.2:0", "192.0.2.1:0");
    const V6: (&str, &str) = ("[2001:db8::2]:0", "[2001:db8::1]:0");

    /// What `echo hello | nc -u 192.0.2.1 4007` sends from 192.0.2.2, from the UDP header on.
    const HELLO: [u8; 14] =
        [0xc0, 0x00, 0x0f, 0xa7, 0x00, 0x0e, 0x68, 0x4a, b'h', b'e', b'l', b'l', b'o', b'\n'];

    fn rig(udp: Udp, upper: Box<dyn Protocol>) -> Rig {
        let pool = testing::pool();
        let mut builder = Stack::builder(&pool);
        let udp = builder.layer(udp);
        let upper = builder.layer_boxed(upper);
        builder.port(Edge::Packets, udp);
        builder.bind(udp, 4007, upper);
        let mut stack = builder.build().unwrap();
        stack.open();
        Rig { pool, stack }
    }

    fn addressed(mut chain: Chain, (from, to): (&str, &str)) -> Chain {
        chain.meta_mut().set_source(Address::Ip(from.parse().unwrap()));
        chain.meta_mut().set_destination(Address::Ip(to.parse().unwrap()));
        chain
    }

    fn feed(rig: &mut Rig, bytes: &[u8], addresses: (&str, &str)) {
        let chain = rig.pool.chain_from(bytes).unwrap();
        rig.feed_chain(addressed(chain, addresses));
    }

    /// The datagram with the right checksum.
    fn datagram(from: u16, to: u16, data: &[u8], addresses: (&str, &str)) -> Vec<u8> {
        let len = 8 + data.len();
        let mut bytes = [from, to, len as u16, 0].map(u16::to_be_bytes).concat();
        bytes.extend(data);
        let ip = |text: &str| text.parse::<SocketAddr>().unwrap().ip();
        let mut sum = pseudo_header(ip(addresses.0), ip(addresses.1), len).unwrap();
        sum.add(&bytes);
        bytes[6..8].copy_from_slice(&sum.checksum().to_be_bytes());
        bytes
    }

    #[test]
    fn a_datagram_is_parsed_and_the_answer_built_byte_for_byte() {
        assert_eq!(datagram(0xc000, 4007, b"hello\n", V4), HELLO);
        let mut rig = rig(Udp::new(), Box::new(Echo::new()));
        feed(&mut rig, &HELLO, V4);
        let answer = rig.stack.poll_output(PORT).pop().unwrap();
        assert_eq!(answer.to_vec().unwrap(), datagram(4007, 0xc000, b"hello\n", V4));
        assert_eq!(answer.meta().destination(), Address::Ip("192.0.2.2:49152".parse().unwrap()));
        drop(answer);
        feed(&mut rig, &datagram(0xc000, 4007, b"six", V6), V6);
        assert_eq!(rig.sent(), [datagram(4007, 0xc000, b"six", V6)]);
        rig.finish();
    }

    #[test]
    fn each_malformed_datagram_is_dropped_for_its_reason() {
        let inbox = Inbox::default();
        let mut rig = rig(Udp::new(), inbox.layer());
        let with_len = |len: u8| [&HELLO[..5], &[len], &HELLO[6..]].concat();
        let no_sum = [&HELLO[..6], &[0, 0], &HELLO[8..]].concat();
        feed(&mut rig, &HELLO[..7], V4);
        assert_eq!(rig.drops("udp", DropReason::SHORT), 1);
        feed(&mut rig, &with_len(7), V4);
        feed(&mut rig, &with_len(15), V4);
        assert_eq!(rig.drops("udp", DropReason::MALFORMED), 2);
        feed(&mut rig, &with_len(13), V4);
        assert_eq!(rig.drops("udp", BAD_CHECKSUM), 1);
        feed(&mut rig, &no_sum, V6);
        assert_eq!(rig.drops("udp", NO_CHECKSUM), 1);
        assert_eq!(inbox.len(), 0);
        // No checksum is a right one over IPv4, and what follows the length is padding.
        feed(&mut rig, &no_sum, V4);
        feed(&mut rig, &[&HELLO[..], &[0; 18]].concat(), V4);
        assert_eq!(inbox.take(), [b"hello\n", b"hello\n"]);
        rig.finish();
    }

    #[test]
    fn a_checksum_that_was_verified_is_not_looked_at() {
        let inbox = Inbox::default();
        let mut rig = rig(Udp::new(), inbox.layer());
        let mut wrong = HELLO;
        wrong[6] ^= 1;
        for flag in [Offload::CHECKSUM_VERIFIED, Offload::CHECKSUM_PARTIAL] {
            let mut chain = addressed(rig.pool.chain_from(&wrong).unwrap(), V4);
            chain.meta_mut().set_offload(flag);
            rig.feed_chain(chain);
        }
        assert_eq!(inbox.len(), 2);
        rig.finish();
    }

    #[test]
    fn a_port_that_nobody_is_bound_to_goes_back_down_with_its_header() {
        let mut rig = rig(Udp::new(), Box::new(Echo::new()));
        let unbound = datagram(9, 4008, b"anybody?", V4);
        feed(&mut rig, &unbound, V4);
        let back = rig.stack.poll_output(PORT).pop().unwrap();
        assert_eq!(back.to_vec().unwrap(), unbound);
        drop(back);
        let to_all = ("192.0.2.2:0", "255.255.255.255:0");
        feed(&mut rig, &datagram(9, 4008, b"anybody?", to_all), to_all);
        let to_group = ("[2001:db8::2]:0", "[ff02::1]:0");
        feed(&mut rig, &datagram(9, 4008, b"anybody?", to_group), to_group);
        assert!(rig.sent().is_empty());
        assert_eq!(rig.drops("udp", DropReason::UNBOUND), 2);
        rig.finish();
    }

    #[test]
    fn what_is_for_any_port_may_be_sent_back_as_unreachable() {
        /// Takes what is for port 9, and nothing else.
        struct Picky;

        impl Protocol for Picky {
            fn name(&self) -> &str {
                "picky"
            }

            fn info(&self) -> LayerInfo {
                LayerInfo::new(Edge::Packets, Edge::Packets).shared_slot::<Trouble>()
            }

            fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
                if matches!(chain.meta().destination(), Address::Ip(end) if end.port() == 9) {
                    return cx.reply(chain);
                }
                cx.set_slot(&mut chain, Trouble::PORT_UNREACHABLE);
                cx.down(chain)
            }

            fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
                cx.drop(chain, DropReason::UNBOUND)
            }
        }

        let pool = testing::pool();
        let layers: Vec<Box<dyn Protocol>> =
            vec![Box::new(Udp::new().any_port(true)), Box::new(Picky)];
        let mut rig = Rig::new(&pool, Edge::Packets, layers);
        feed(&mut rig, &datagram(4000, 9, b"hello", V4), V4);
        assert_eq!(rig.sent(), [datagram(9, 4000, b"hello", V4)]);
        let other = datagram(4000, 10, b"hello", V6);
        feed(&mut rig, &other, V6);
        assert_eq!(rig.sent(), [other]);
        let to_all = ("192.0.2.2:0", "255.255.255.255:0");
        feed(&mut rig, &datagram(4000, 10, b"hello", to_all), to_all);
        assert!(rig.sent().is_empty());
        assert_eq!(rig.drops("udp", DropReason::UNBOUND), 1);
        rig.finish();
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_all_ones() {
        let mut rig = rig(Udp::new(), Box::new(Echo::new()));
        // Two bytes of data that make the sum of everything 0xffff.
        let plain = datagram(9000, 4007, &[0, 0], V4);
        let word = u16::from_be_bytes([plain[6], plain[7]]);
        feed(&mut rig, &datagram(9000, 4007, &word.to_be_bytes(), V4), V4);
        let sent = rig.sent();
        assert_eq!(sent[0][6..8], [0xff, 0xff]);
        rig.finish();
    }

    #[test]
    fn with_offload_the_checksum_is_the_pseudo_headers_and_says_where_it_is() {
        let mut rig = rig(Udp::new().offload(true), Box::new(Echo::new()));
        feed(&mut rig, &HELLO, V4);
        let mut chain = rig.stack.poll_output(PORT).pop().unwrap();
        assert_eq!(chain.meta().offload(), Offload::CHECKSUM_PARTIAL);
        assert_eq!(chain.meta().transport_offset(), 0);
        assert!(super::super::complete_checksum(&mut chain, protocol::UDP));
        assert_eq!(chain.to_vec().unwrap(), datagram(4007, 0xc000, b"hello\n", V4));
        drop(chain);
        rig.finish();
    }

    #[test]
    fn without_checksum_there_is_none_over_ipv4_only() {
        let mut rig = rig(Udp::new().without_checksum(true), Box::new(Echo::new()));
        feed(&mut rig, &HELLO, V4);
        assert_eq!(rig.sent()[0][6..8], [0, 0]);
        feed(&mut rig, &datagram(0xc000, 4007, b"six", V6), V6);
        assert_eq!(rig.sent(), [datagram(4007, 0xc000, b"six", V6)]);
        rig.finish();
    }

    #[test]
    fn over_both_ips_the_family_of_the_destination_chooses_the_edge() {
        let pool = testing::pool();
        let mut builder = Stack::builder(&pool);
        let udp = builder.layer(Udp::new());
        let echo = builder.layer(Echo::new());
        let ports = [builder.port(Edge::Packets, udp), builder.port(Edge::Packets, udp)];
        builder.bind(udp, 4007, echo);
        let mut stack = builder.build().unwrap();
        stack.open();
        let mut rig = Rig { pool, stack };
        for (port, addresses) in ports.into_iter().zip([V4, V6]) {
            let bytes = datagram(0xc000, 4007, b"hello", addresses);
            // Whichever edge it came by.
            for from in ports {
                let chain = addressed(rig.pool.chain_from(&bytes).unwrap(), addresses);
                rig.stack.input_one(from, chain);
                rig.run();
                let answer = rig.stack.poll_output(port).pop().unwrap();
                assert_eq!(answer.to_vec().unwrap(), datagram(4007, 0xc000, b"hello", addresses));
            }
        }
        rig.finish();
    }

    #[test]
    fn one_byte_segments_make_no_difference() {
        let mut rig = rig(Udp::new(), Box::new(Echo::new()));
        let chain = testing::bytewise(&rig.pool, &HELLO).unwrap();
        rig.feed_chain(addressed(chain, V4));
        assert_eq!(rig.sent(), [datagram(4007, 0xc000, b"hello\n", V4)]);
        rig.finish();
    }

    #[test]
    fn conforms() {
        // The kit's packets go from port 40001 and port 7 of two hosts to each other.
        let pair = ("192.0.2.1:0", "192.0.2.2:0");
        Conformance::new("udp", || Box::new(Udp::new()) as _)
            .key(40_001)
            .wire(vec![
                datagram(7, 40_001, b"hello", pair),
                datagram(7, 9, b"unbound", pair),
                vec![0, 7, 156, 65, 0, 9, 0, 0, 1],
            ])
            .messages(vec![b"hello".to_vec(), vec![8; 1400]])
            .run();
    }
}
