//! GENEVE (RFC 8926): packets of any protocol type over UDP port 6081, with options.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |ver|  opt len  |O|C|   rsvd    |         protocol type         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     VNI                       |   reserved    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |         option class          |C|    type     | rsvd| length  |  of each option,
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+  lengths in words
//! |   its data                                                   ...
//! ```
//!
//! With one VNI ([`Geneve::single`]) the key is the protocol type (0x6558 for Ethernet); with any
//! number ([`Geneve::new`]) it is made of both by [`Geneve::key`]. No option is known here: each is
//! walked, its length bounded by that of all, and a critical one drops the packet ([`CRITICAL`],
//! section 3.5). Control packets (O) are not for what stands above, and dropped as [`OAM`].
//! Reserved bits are not looked at, and sent as zero; no option is sent. The source port is a hash
//! of the inner flow. Packets from anybody but a configured unicast end are refused as [`STRANGER`].

use std::net::SocketAddr;

use mbuf::{
    Address, Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{NO_REMOTE, STRANGER, VERSION, address, came_out, flow_port, flow_port_of};
use crate::net::{ethertype, prepended};

/// The UDP port (IANA).
pub const PORT: u16 = 6081;

/// It has a critical option, and none is known.
pub const CRITICAL: DropReason = DropReason("critical_option");

/// It is a control packet.
pub const OAM: DropReason = DropReason("oam");

const HEADER: usize = size_of::<Header>();

/// The fixed part of the header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Version in the upper two bits, then the length of all options in words of 4 bytes.
    pub version_length: u8,
    /// O (control), C (critical options), and reserved bits.
    pub flags: u8,
    /// What it carries: an EtherType.
    pub protocol: U16,
    /// The VNI in the upper 24 bits.
    pub vni: U32,
}

/// One end of a GENEVE tunnel. O(1) a packet and O(options); copies nothing.
#[derive(Debug, Clone)]
pub struct Geneve {
    vni: Option<u32>,
    remote: SocketAddr,
}

impl Geneve {
    /// Any number of networks behind that end; the key above is made by [`Geneve::key`].
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::tunnel::Geneve;
    ///
    /// assert_eq!(Geneve::new("192.0.2.2:6081".parse()?).info().max_prepend(), 8);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub const fn new(remote: SocketAddr) -> Self {
        Self { vni: None, remote }
    }

    /// One network, of which the lower 24 bits of `vni` are the number.
    ///
    /// ```
    /// # use mbuf_protocols::tunnel::Geneve;
    /// let geneve = Geneve::single(42, "192.0.2.2:6081".parse()?);
    /// assert!(format!("{geneve:?}").contains("42"));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub const fn single(vni: u32, remote: SocketAddr) -> Self {
        Self { vni: Some(vni & 0xff_ffff), remote }
    }

    /// The key above for a VNI and a protocol type.
    ///
    /// ```
    /// # use mbuf_protocols::tunnel::Geneve;
    /// assert_eq!(Geneve::key(0x2a, 0x6558), 0x2a_6558);
    /// ```
    pub const fn key(vni: u32, protocol: u16) -> u64 {
        (vni as u64) << 16 | protocol as u64
    }
}

impl Protocol for Geneve {
    fn name(&self) -> &str {
        "geneve"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(HEADER)
            .min_header(HEADER)
            .stateless()
            .reasons(&[CRITICAL, OAM, VERSION, STRANGER, NO_REMOTE])
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(&header) = chain.header::<Header>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        if header.version_length >> 6 != 0 {
            return cx.drop(chain, VERSION);
        }
        if let Address::Ip(source) = chain.meta().source()
            && !self.remote.ip().is_multicast()
            && self.remote.ip() != source.ip()
        {
            return cx.drop(chain, STRANGER);
        }
        let vni = header.vni.get() >> 8;
        if self.vni.is_some_and(|own| own != vni) {
            return cx.drop(chain, DropReason::UNBOUND);
        }
        let options_len = 4 * usize::from(header.version_length & 0x3f);
        let mut bytes = [0; 4 * 0x3f];
        let read = bytes.get_mut(..options_len).filter(|room| chain.len() >= HEADER + room.len());
        let Some(mut options) = read.and_then(|room| {
            chain.peek(HEADER, room).ok()?;
            Some(&*room)
        }) else {
            return cx.drop(chain, DropReason::SHORT);
        };
        let mut critical = header.flags & 0x40 != 0;
        while let Some((&[_, _, kind, length], rest)) = options.split_first_chunk::<4>() {
            let Some(after) = rest.get(4 * usize::from(length & 0x1f)..) else {
                return cx.drop(chain, DropReason::MALFORMED);
            };
            critical |= kind & 0x80 != 0;
            options = after;
        }
        if critical {
            return cx.drop(chain, CRITICAL);
        }
        if header.flags & 0x80 != 0 {
            return cx.drop(chain, OAM);
        }
        let len = HEADER + options_len;
        if chain.trim_front(len).is_err() {
            return cx.drop(chain, DropReason::SHORT);
        }
        came_out(&mut chain, 8 + len);
        let protocol = header.protocol.get();
        match self.vni {
            Some(_) => cx.up_key(protocol.into(), chain),
            None => cx.up_key(Self::key(vni, protocol), chain),
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Some(key) = cx.key() else {
            return cx.drop(chain, DropReason::UNBOUND);
        };
        let protocol = key as u16;
        let vni = match self.vni {
            Some(vni) if key >> 16 == 0 => vni,
            None if key >> 40 == 0 => (key >> 16) as u32,
            _ => return cx.drop(chain, DropReason::UNBOUND),
        };
        let port = match u64::from(protocol) {
            ethertype::TRANSPARENT_ETHERNET => flow_port(&chain),
            _ => flow_port_of(protocol, &chain),
        };
        let header = Header {
            version_length: 0,
            flags: 0,
            protocol: protocol.into(),
            vni: (vni << 8).into(),
        };
        if chain.push(&header).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        prepended(&mut chain, HEADER);
        address(&mut chain, self.remote, port);
        cx.down(chain)
    }
}

#[cfg(test)]
mod tests {
    use mbuf::{testing, testing::Conformance};

    use super::*;
    use crate::{
        Echo,
        rig::{Inbox, PORT as LINK},
        tunnel::tests::{from, rig},
    };

    fn end() -> Geneve {
        Geneve::single(42, "192.0.2.2:6081".parse().unwrap())
    }

    fn packet(options: &[u8], payload: &[u8]) -> Vec<u8> {
        let words = (options.len() / 4) as u8;
        [&[words, 0, 0x65, 0x58, 0, 0, 42, 0], options, payload].concat()
    }

    #[test]
    fn a_packet_is_parsed_and_built_again_byte_for_byte() {
        let mut rig = rig(end(), Some(0x6558), Box::new(Echo::new()));
        let mut chain = from(&rig, "192.0.2.2:50000", &packet(&[], b"a frame"));
        chain.meta_mut().set_transport_offset(34);
        rig.feed_chain(chain);
        let answer = rig.stack.poll_output(LINK).pop().unwrap();
        assert_eq!(answer.to_vec().unwrap(), packet(&[], b"a frame"));
        let meta = answer.meta();
        assert_eq!(meta.destination(), Address::Ip("192.0.2.2:6081".parse().unwrap()));
        assert!(matches!(meta.source(), Address::Ip(source) if source.port() >= 49152));
        assert_eq!(meta.network_offset(), 50);
        drop(answer);
        rig.finish();
    }

    #[test]
    fn options_that_need_not_be_known_are_stepped_over() {
        let inbox = Inbox::default();
        let mut rig = rig(end(), Some(0x6558), inbox.layer());
        let two = [1, 2, 0x7f, 1, 9, 9, 9, 9, 0, 0, 0, 0xe0];
        rig.feed(&packet(&two, b"data"));
        let mut all = [0; 252];
        all[3] = 31;
        all[131] = 30;
        rig.feed(&packet(&all, b"much"));
        rig.feed_chain(testing::bytewise(&rig.pool, &packet(&two, b"cut")).unwrap());
        assert_eq!(inbox.take(), [&b"data"[..], b"much", b"cut"]);
        rig.finish();
    }

    #[test]
    fn what_is_wrong_is_dropped_for_its_reason() {
        let inbox = Inbox::default();
        let mut rig = rig(end(), Some(0x6558), inbox.layer());
        let change = |at: usize, to: u8| {
            let mut bytes = packet(&[], b"x");
            bytes[at] = to;
            bytes
        };
        rig.feed(&change(0, 0x40));
        rig.feed(&change(1, 0x80));
        rig.feed(&change(1, 0x40));
        rig.feed(&packet(&[0, 1, 0x80, 0], b"x"));
        rig.feed(&packet(&[0, 1, 0, 1], b"data of no option"));
        rig.feed(&packet(&[0, 1, 0, 1], b"")[..10]);
        rig.feed(&change(6, 43));
        rig.feed(&change(3, 0));
        let chain = from(&rig, "192.0.2.3:50000", &packet(&[], b"x"));
        rig.feed_chain(chain);
        assert_eq!(inbox.len(), 0);
        let counts = [
            (VERSION, 1),
            (OAM, 1),
            (CRITICAL, 2),
            (DropReason::MALFORMED, 1),
            (DropReason::SHORT, 1),
            (DropReason::UNBOUND, 2),
            (STRANGER, 1),
        ];
        for (reason, n) in counts {
            assert_eq!(rig.drops("geneve", reason), n, "{reason}");
        }
        rig.finish();
    }

    #[test]
    fn many_networks_have_keys_of_both_numbers() {
        let many = Geneve::new("192.0.2.2:6081".parse().unwrap());
        let key = Geneve::key(42, 0x6558);
        let mut rig = rig(many, Some(key), Box::new(Echo::new()));
        rig.feed(&packet(&[], b"a frame"));
        assert_eq!(rig.sent(), [packet(&[], b"a frame")]);
        rig.finish();
    }

    #[test]
    fn conforms() {
        let end = || Geneve::single(42, "192.0.2.1:6081".parse().unwrap());
        Conformance::new("geneve", || Box::new(end()) as _)
            .key(0x6558)
            .wire(vec![packet(&[1, 2, 3, 1, 9, 9, 9, 9], b"hello"), packet(&[0, 0, 0x80, 0], b"x")])
            .messages(vec![vec![7; 20], vec![8; 1400]])
            .run();
    }
}
