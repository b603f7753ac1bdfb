//! VXLAN (RFC 7348): Ethernet frames over UDP port 4789.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|R|R|R|I|R|R|R|                   reserved                    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     VNI                       |   reserved    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   Ethernet frame, without its check sequence                 ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The key is the VNI ([`Vxlan::new`]), or there is one VNI and no key ([`Vxlan::single`]). The I
//! flag must be set ([`NO_VNI`]); reserved bits are not looked at, and sent as zero (section 5).
//!
//! Where a frame goes: to the configured other end ([`Vxlan::remote`]; it may be a multicast group),
//! or, with [`Vxlan::learning`], to whoever the inner destination was last heard from (section 4.1),
//! and only else to the configured one. Of the outer addresses nothing more is kept. The table of
//! what was learned is made at construction, in sets of four: a set that is full loses its oldest
//! entry, so that a flood of forged addresses costs broadcast, not memory. Without learning, frames
//! from anybody but a configured unicast end are refused as [`STRANGER`].
//!
//! The source port is a hash of the inner flow, 49152-65535.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    time::Duration,
};

use mbuf::{
    Address, Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol, Time},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U32,
};

use super::{NO_REMOTE, STRANGER, address, came_out, flow_port};
use crate::net::prepended;

/// The UDP port (IANA).
pub const PORT: u16 = 4789;

/// The I flag is not set: there is no valid VNI.
pub const NO_VNI: DropReason = DropReason("no_vni");

/// How long what was learned holds unless it is heard again.
pub const AGE: Duration = Duration::from_secs(300);

const HEADER: usize = size_of::<Header>();
const FLAG_I: u32 = 1 << 27;
const WAYS: usize = 4;

/// The header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// The I flag, and reserved bits.
    pub flags: U32,
    /// The VNI in the upper 24 bits.
    pub vni: U32,
}

#[derive(Debug, Clone, Copy)]
struct Learned {
    vni: u32,
    mac: [u8; 6],
    remote: SocketAddr,
    heard: Time,
}

/// One end of VXLAN tunnels. O(1) a frame either way; copies nothing.
#[derive(Debug, Clone)]
pub struct Vxlan {
    vni: Option<u32>,
    remote: Option<SocketAddr>,
    table: Vec<[Option<Learned>; WAYS]>,
    age: Duration,
    hasher: RandomState,
}

impl Default for Vxlan {
    fn default() -> Self {
        Self::new()
    }
}

impl Vxlan {
    /// Any number of networks; the key above is the VNI.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::tunnel::Vxlan;
    ///
    /// assert_eq!(Vxlan::new().info().max_prepend(), 8);
    /// ```
    pub fn new() -> Self {
        let hasher = RandomState::new();
        Self { vni: None, remote: None, table: Vec::new(), age: AGE, hasher }
    }

    /// One network, of which the lower 24 bits of `vni` are the number; no key above.
    ///
    /// ```
    /// # use mbuf_protocols::tunnel::Vxlan;
    /// assert_eq!(Vxlan::single(42).vni(), Some(42));
    /// ```
    pub fn single(vni: u32) -> Self {
        Self { vni: Some(vni & 0xff_ffff), ..Self::new() }
    }

    /// The other end, for all frames whose destination was not learned.
    ///
    /// ```
    /// # use mbuf_protocols::tunnel::Vxlan;
    /// let vxlan = Vxlan::single(42).remote("192.0.2.2:4789".parse()?);
    /// assert!(format!("{vxlan:?}").contains("192.0.2.2:4789"));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn remote(mut self, remote: SocketAddr) -> Self {
        self.remote = Some(remote);
        self
    }

    /// Learns which station is behind which end: at least `stations` in all (in sets of four, of
    /// which a full one forgets its oldest), each for `age` after it was last heard. Answers go to
    /// port 4789 whatever port a frame came from.
    ///
    /// ```
    /// # use mbuf_protocols::tunnel::{Vxlan, vxlan};
    /// assert_eq!(Vxlan::new().learning(1000, vxlan::AGE).stations(), 1024);
    /// assert_eq!(Vxlan::new().stations(), 0);
    /// ```
    pub fn learning(mut self, stations: usize, age: Duration) -> Self {
        let sets = stations.div_ceil(WAYS).clamp(1, 1 << 18).next_power_of_two();
        self.table = vec![[None; WAYS]; sets];
        self.age = age;
        self
    }

    /// The one VNI, if there is but one.
    ///
    /// ```
    /// # use mbuf_protocols::tunnel::Vxlan;
    /// assert_eq!(Vxlan::new().vni(), None);
    /// ```
    pub fn vni(&self) -> Option<u32> {
        self.vni
    }

    /// How many stations can be learned.
    ///
    /// ```
    /// # use mbuf_protocols::tunnel::{Vxlan, vxlan};
    /// assert_eq!(Vxlan::new().learning(3, vxlan::AGE).stations(), 4);
    /// ```
    pub fn stations(&self) -> usize {
        self.table.len() * WAYS
    }

    fn set_of(&mut self, vni: u32, mac: [u8; 6]) -> Option<&mut [Option<Learned>; WAYS]> {
        let hash = self.hasher.hash_one((vni, mac)) as usize;
        let mask = self.table.len().wrapping_sub(1);
        self.table.get_mut(hash & mask)
    }

    fn learn(&mut self, vni: u32, mac: [u8; 6], mut remote: SocketAddr, now: Time) {
        remote.set_port(PORT);
        let Some(set) = self.set_of(vni, mac) else { return };
        let known = set.iter().position(|way| way.is_some_and(|l| l.vni == vni && l.mac == mac));
        let place = known.or_else(|| {
            (0..WAYS).min_by_key(|way| set.get(*way).copied().flatten().map(|l| l.heard))
        });
        if let Some(way) = place.and_then(|place| set.get_mut(place)) {
            *way = Some(Learned { vni, mac, remote, heard: now });
        }
    }

    fn look_up(&mut self, vni: u32, mac: [u8; 6], now: Time) -> Option<SocketAddr> {
        let age = self.age;
        let set = self.set_of(vni, mac)?;
        let found = set.iter_mut().find(|way| way.is_some_and(|l| l.vni == vni && l.mac == mac))?;
        if found.is_some_and(|learned| now >= learned.heard + age) {
            *found = None;
        }
        found.map(|learned| learned.remote)
    }
}

impl Protocol for Vxlan {
    fn name(&self) -> &str {
        "vxlan"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(HEADER)
            .min_header(HEADER)
            .reasons(&[NO_VNI, STRANGER, NO_REMOTE])
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(header) = chain.strip::<Header>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        if header.flags.get() & FLAG_I == 0 {
            return cx.drop(chain, NO_VNI);
        }
        let vni = header.vni.get() >> 8;
        if self.vni.is_some_and(|own| own != vni) {
            return cx.drop(chain, DropReason::UNBOUND);
        }
        if let Address::Ip(source) = chain.meta().source() {
            let other =
                |remote: SocketAddr| !remote.ip().is_multicast() && remote.ip() != source.ip();
            let mut mac = [0; 6];
            if self.table.is_empty() {
                if self.remote.is_some_and(other) {
                    return cx.drop(chain, STRANGER);
                }
            } else if (self.vni.is_some() || cx.is_bound(vni.into()))
                && chain.peek(6, &mut mac).is_ok()
                && mac[0] & 1 == 0
            {
                self.learn(vni, mac, source, cx.now());
            }
        }
        // UDP's header and this one lie between the outer transport's place and the frame.
        came_out(&mut chain, 8 + HEADER);
        match self.vni {
            Some(_) => cx.up(chain),
            None => cx.up_key(vni.into(), chain),
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let key = cx.key().and_then(|key| u32::try_from(key).ok()).filter(|key| *key < 1 << 24);
        let Some(vni) = self.vni.or(key) else {
            return cx.drop(chain, DropReason::UNBOUND);
        };
        let mut mac = [0; 6];
        let learned = match chain.peek(0, &mut mac) {
            Ok(()) if mac[0] & 1 == 0 => self.look_up(vni, mac, cx.now()),
            _ => None,
        };
        let Some(remote) = learned.or(self.remote) else {
            return cx.drop(chain, NO_REMOTE);
        };
        let port = flow_port(&chain);
        let header = Header { flags: FLAG_I.into(), vni: (vni << 8).into() };
        if chain.push(&header).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        prepended(&mut chain, HEADER);
        address(&mut chain, remote, port);
        cx.down(chain)
    }
}

#[cfg(test)]
mod tests {
    use mbuf::{Pool, stack::Stack, testing, testing::Conformance};

    use super::*;
    use crate::{
        Echo,
        net::{Ethernet, Ipv4, Udp},
        rig::{Inbox, PORT as LINK, Rig},
        tunnel::tests::{from, rig},
    };

    const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

    fn wire(vni: [u8; 3], frame: &[u8]) -> Vec<u8> {
        let [a, b, c] = vni;
        [&[8, 0, 0, 0, a, b, c, 0], frame].concat()
    }

    fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        [&to[..], &from, &[0x08, 0x00], b"payload"].concat()
    }

    fn end() -> Vxlan {
        Vxlan::single(42).remote("192.0.2.2:4789".parse().unwrap())
    }

    /// Frames go back as they came, so that the inner destination is the one that was sent to.
    fn send(rig: &mut Rig, chain: Chain) -> Option<Chain> {
        rig.feed_chain(chain);
        rig.stack.poll_output(LINK).pop()
    }

    #[test]
    fn a_packet_is_parsed_and_built_again_byte_for_byte() {
        let mut rig = rig(end(), None, Box::new(Echo::new()));
        let mut chain = from(&rig, "192.0.2.2:50000", &wire([0, 0, 42], &frame(A, B)));
        chain.meta_mut().set_transport_offset(34);
        let answer = send(&mut rig, chain).unwrap();
        assert_eq!(answer.to_vec().unwrap(), wire([0, 0, 42], &frame(A, B)));
        let meta = answer.meta();
        assert_eq!(meta.destination(), Address::Ip("192.0.2.2:4789".parse().unwrap()));
        assert!(matches!(meta.source(), Address::Ip(source) if source.port() >= 49152));
        assert_eq!(meta.network_offset(), 50, "14 + 20 + 8 + 8: where the inner frame begins");
        drop(answer);
        rig.finish();
    }

    #[test]
    fn reserved_bits_are_not_looked_at_and_are_sent_as_zero() {
        let mut rig = rig(end(), None, Box::new(Echo::new()));
        let mut bytes = wire([0, 0, 42], &frame(A, B));
        bytes[..4].fill(0xff);
        bytes[7] = 0xff;
        rig.feed(&bytes);
        assert_eq!(rig.sent(), [wire([0, 0, 42], &frame(A, B))]);
        rig.finish();
    }

    #[test]
    fn what_is_wrong_is_dropped_for_its_reason() {
        let inbox = Inbox::default();
        let mut rig = rig(end(), None, inbox.layer());
        let mut bytes = wire([0, 0, 42], &frame(A, B));
        rig.feed(&bytes[..7]);
        rig.feed(&wire([0, 1, 42], &frame(A, B)));
        let chain = from(&rig, "192.0.2.3:50000", &bytes);
        rig.feed_chain(chain);
        bytes[0] = 0xf7;
        rig.feed(&bytes);
        assert_eq!(inbox.len(), 0);
        for reason in [DropReason::SHORT, DropReason::UNBOUND, STRANGER, NO_VNI] {
            assert_eq!(rig.drops("vxlan", reason), 1, "{reason}");
        }
        rig.finish();
    }

    #[test]
    fn the_vni_is_the_key_and_an_unknown_end_is_a_reason() {
        let mut rig = rig(Vxlan::new(), Some(0x010203), Box::new(Echo::new()));
        rig.feed(&wire([1, 2, 3], &frame(A, B)));
        assert!(rig.sent().is_empty());
        assert_eq!(rig.drops("vxlan", NO_REMOTE), 1);
        rig.feed(&wire([3, 2, 1], &frame(A, B)));
        assert_eq!(rig.drops("vxlan", DropReason::UNBOUND), 1);
        rig.finish();
    }

    #[test]
    fn ends_are_learned_move_and_are_forgotten() {
        let vxlan = Vxlan::single(42).learning(4, AGE);
        let mut rig = rig(vxlan, None, Box::new(Echo::new()));
        // The echo of a frame from A to A goes to where A was just heard.
        for end in ["192.0.2.2", "192.0.2.3"] {
            let chain = from(&rig, &format!("{end}:50000"), &wire([0, 0, 42], &frame(A, A)));
            let answer = send(&mut rig, chain).unwrap();
            let expected = Address::Ip(format!("{end}:4789").parse().unwrap());
            assert_eq!(answer.meta().destination(), expected);
        }
        let now = rig.stack.now();
        rig.stack.advance(now + AGE);
        let chain = from(&rig, "192.0.2.4:50000", &wire([0, 0, 42], &frame(A, B)));
        assert!(send(&mut rig, chain).is_none(), "A was not heard for too long");
        assert_eq!(rig.drops("vxlan", NO_REMOTE), 1);
        rig.finish();
    }

    #[test]
    fn a_full_table_forgets_the_oldest() {
        let mut vxlan = Vxlan::single(42).learning(4, AGE);
        let end = "192.0.2.2:1".parse().unwrap();
        let at = |n: u8| Time::ZERO + Duration::from_secs(n.into());
        for n in 0..5 {
            vxlan.learn(42, [2, 0, 0, 0, 0, n], end, at(n));
        }
        assert_eq!(vxlan.look_up(42, [2, 0, 0, 0, 0, 0], at(5)), None);
        for n in 1..5 {
            let found = vxlan.look_up(42, [2, 0, 0, 0, 0, n], at(5));
            assert_eq!(found, Some("192.0.2.2:4789".parse().unwrap()));
        }
    }

    #[test]
    fn what_stands_above_may_be_what_stands_below() {
        // 70 bytes of headers, once round.
        let pool = Pool::builder().headroom(128).build().unwrap();
        let inbox = Inbox::default();
        let mut builder = Stack::builder(&pool);
        let ethernet = builder.layer(Ethernet::new(A).peer(B));
        let ip = builder.layer(Ipv4::new([192, 0, 2, 1].into(), 24));
        let udp = builder.layer(Udp::new());
        let vxlan = builder.layer(end());
        let upper = builder.layer_boxed(inbox.layer());
        builder.port(Edge::Packets, ethernet);
        builder.bind(ethernet, 0x0800, ip).bind(ip, 17, udp).bind(udp, PORT.into(), vxlan);
        builder.stack(vxlan, ethernet).bind(ethernet, 0x88b5, upper);
        let mut stack = builder.build().unwrap();
        stack.open();
        let mut rig = Rig { pool, stack };
        let inner = [&A[..], &B, &[0x88, 0xb5], b"once round"].concat();
        let data = wire([0, 0, 42], &inner);
        let len = |header: usize| ((header + data.len()) as u16).to_be_bytes();
        let mut packet =
            [&A[..], &B, &[8, 0, 0x45, 0], &len(28), &[0, 0, 0, 0, 64, 17, 0, 0]].concat();
        packet.extend([192, 0, 2, 2, 192, 0, 2, 1]);
        let sum = mbuf::chain::checksum::of(&packet[14..]);
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
        packet.extend([&[0xc0, 0, 0x12, 0xb5][..], &len(8), &[0, 0], &data].concat());
        rig.feed(&packet);
        assert_eq!(inbox.take(), [b"once round"]);
        rig.finish();
    }

    #[test]
    fn one_byte_segments_make_no_difference() {
        let mut rig = rig(end(), None, Box::new(Echo::new()));
        let bytes = wire([0, 0, 42], &frame(A, B));
        rig.feed_chain(testing::bytewise(&rig.pool, &bytes).unwrap());
        assert_eq!(rig.sent(), [bytes]);
        rig.finish();
    }

    #[test]
    fn conforms() {
        let end = || Vxlan::single(42).remote("192.0.2.1:4789".parse().unwrap());
        Conformance::new("vxlan", || Box::new(end()) as _)
            .wire(vec![wire([0, 0, 42], &frame(A, B)), wire([0, 0, 43], &[])])
            .messages(vec![frame(A, B), vec![7; 1400]])
            .run();
    }
}
