//! Ethernet II (IEEE 802.3, RFC 894): frames of stations on a link.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       destination                             |
//! +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                               |                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+     source                    +
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          EtherType            |   payload                    ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The key is the EtherType. A frame whose field is a length (below 0x0600: IEEE 802.3 with LLC) is
//! refused as [`LLC`], one for another station as [`OTHER_STATION`] (unless
//! [`promiscuous`](Ethernet::promiscuous)); frames to a group are passed up. Down, the destination's
//! MAC stands in the metadata (ARP and ND put it there); the source is always the station's own.
//! The frame check sequence belongs to the device.

use mbuf::{
    Address, Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use super::{ethertype, prepended};

/// The type field is a length: a frame of IEEE 802.3 with LLC.
pub const LLC: DropReason = DropReason("llc");

/// The frame is for another station.
pub const OTHER_STATION: DropReason = DropReason("other_station");

/// The source is a group, which no station is (IEEE 802.3, 3.2.3).
pub const GROUP_SOURCE: DropReason = DropReason("group_source");

/// On the way down no MAC address stood in the metadata, or no key on the edge.
pub const NO_ADDRESS: DropReason = DropReason("no_address");

/// The address of all stations.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// The least length of a frame without its check sequence (IEEE 802.3, 4.2.3.3).
pub const MIN_FRAME: usize = 60;

/// The header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// For whom the frame is.
    pub destination: [u8; 6],
    /// Whose it is.
    pub source: [u8; 6],
    /// What it carries.
    pub ethertype: U16,
}

/// One station on a link. O(1) a frame either way; copies nothing.
#[derive(Debug, Clone)]
pub struct Ethernet {
    mac: [u8; 6],
    peer: Option<[u8; 6]>,
    promiscuous: bool,
    pad: bool,
}

impl Ethernet {
    /// The station with this address.
    ///
    /// ```
    /// use mbuf_protocols::net::Ethernet;
    ///
    /// let ethernet = Ethernet::new([2, 0, 0, 0, 0, 1]);
    /// assert_eq!(ethernet.mac(), [2, 0, 0, 0, 0, 1]);
    /// ```
    pub const fn new(mac: [u8; 6]) -> Self {
        Self { mac, peer: None, promiscuous: false, pad: false }
    }

    /// Also takes frames for other stations.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ethernet;
    /// let tap = Ethernet::new([2, 0, 0, 0, 0, 1]).promiscuous(true);
    /// assert!(format!("{tap:?}").contains("promiscuous: true"));
    /// ```
    pub const fn promiscuous(mut self, promiscuous: bool) -> Self {
        self.promiscuous = promiscuous;
        self
    }

    /// Pads frames to [`MIN_FRAME`] on output, with zeroes (a device usually does).
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// # use mbuf_protocols::net::Ethernet;
    /// assert_eq!(Ethernet::new([2, 0, 0, 0, 0, 1]).pad(true).info().max_append(), 46);
    /// ```
    pub const fn pad(mut self, pad: bool) -> Self {
        self.pad = pad;
        self
    }

    /// Where frames go whose metadata names no MAC address: the other end of a link of two.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ethernet;
    /// let link = Ethernet::new([2, 0, 0, 0, 0, 1]).peer([2, 0, 0, 0, 0, 2]);
    /// assert_eq!(link.mac(), [2, 0, 0, 0, 0, 1]);
    /// ```
    pub const fn peer(mut self, mac: [u8; 6]) -> Self {
        self.peer = Some(mac);
        self
    }

    /// The station's address.
    ///
    /// ```
    /// # use mbuf_protocols::net::Ethernet;
    /// assert_eq!(Ethernet::new([2; 6]).mac(), [2; 6]);
    /// ```
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }
}

impl Protocol for Ethernet {
    fn name(&self) -> &str {
        "ethernet"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(size_of::<Header>())
            .appends(if self.pad { MIN_FRAME - size_of::<Header>() } else { 0 })
            .min_header(size_of::<Header>())
            .stateless()
            .reasons(&[LLC, OTHER_STATION, GROUP_SOURCE, NO_ADDRESS])
    }

    #[inline]
    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(header) = chain.strip::<Header>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        let key = u64::from(header.ethertype.get());
        let group = header.destination[0] & 1 != 0;
        if header.destination != self.mac && !group && !self.promiscuous {
            return cx.drop(chain, OTHER_STATION);
        }
        if header.source[0] & 1 != 0 {
            return cx.drop(chain, GROUP_SOURCE);
        }
        if key < ethertype::MIN {
            return cx.drop(chain, LLC);
        }
        let meta = chain.meta_mut();
        meta.set_source(Address::Mac(header.source));
        meta.set_destination(Address::Mac(header.destination));
        meta.set_network_offset(meta.network_offset().wrapping_add(size_of::<Header>() as u16));
        cx.up_key(key, chain)
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let destination = match (chain.meta().destination(), self.peer) {
            (Address::Mac(mac), _) | (_, Some(mac)) => mac,
            _ => return cx.drop(chain, NO_ADDRESS),
        };
        let Some(key) = cx.key().and_then(|key| u16::try_from(key).ok()) else {
            return cx.drop(chain, NO_ADDRESS);
        };
        let header = Header { destination, source: self.mac, ethertype: key.into() };
        if chain.push(&header).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        prepended(&mut chain, size_of::<Header>());
        if matches!(u64::from(key), ethertype::VLAN | ethertype::QINQ) {
            // The tags are in the frame: no device is to put them there once more.
            chain.meta_mut().set_vlan(None);
        }
        let missing = MIN_FRAME.saturating_sub(chain.len());
        if self.pad && missing > 0 && chain.append(missing).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        cx.down(chain)
    }
}

#[cfg(test)]
mod tests {
    use mbuf::{
        stack::Stack,
        testing::{self, Check, Conformance},
    };

    use super::*;
    use crate::{
        Echo,
        rig::{Inbox, PORT, Rig},
    };

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn frame(destination: [u8; 6], source: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
        [&destination[..], &source, &kind.to_be_bytes(), payload].concat()
    }

    fn rig(ethernet: Ethernet, upper: Box<dyn Protocol>) -> Rig {
        let pool = testing::pool();
        let mut builder = Stack::builder(&pool);
        let ethernet = builder.layer(Box::new(ethernet) as Box<dyn Protocol>);
        let upper = builder.layer(upper);
        builder.port(Edge::Packets, ethernet);
        builder.bind(ethernet, 0x0800, upper);
        let mut stack = builder.build().unwrap();
        stack.open();
        Rig { pool, stack }
    }

    #[test]
    fn a_frame_is_parsed_and_the_answer_is_the_frame_turned_round() {
        let mut rig = rig(Ethernet::new(MAC), Box::new(Echo::new()));
        rig.feed(&frame(MAC, OTHER, 0x0800, b"hello"));
        let answer = rig.stack.poll_output(PORT).pop().unwrap();
        assert_eq!(answer.to_vec().unwrap(), frame(OTHER, MAC, 0x0800, b"hello"));
        assert_eq!(answer.meta().network_offset(), 14);
        drop(answer);
        rig.finish();
    }

    #[test]
    fn each_frame_that_is_not_for_us_is_dropped_for_its_reason() {
        let inbox = Inbox::default();
        let mut rig = rig(Ethernet::new(MAC), inbox.layer());
        rig.feed(&frame(OTHER, MAC, 0x0800, b"x"));
        rig.feed(&frame(MAC, [3, 0, 0, 0, 0, 1], 0x0800, b"x"));
        rig.feed(&frame(MAC, OTHER, 0x05ff, b"x"));
        rig.feed(&frame(MAC, OTHER, 0x0801, b"x"));
        rig.feed(&frame(MAC, OTHER, 0x0800, b"x")[..13]);
        assert_eq!(inbox.len(), 0);
        let reasons = [OTHER_STATION, GROUP_SOURCE, LLC, DropReason::UNBOUND, DropReason::SHORT];
        for reason in reasons {
            assert_eq!(rig.drops("ethernet", reason), 1, "{reason}");
        }
        rig.feed(&frame(BROADCAST, OTHER, 0x0800, b"all"));
        assert_eq!(inbox.take(), [b"all"]);
        rig.finish();
    }

    #[test]
    fn a_promiscuous_station_takes_every_frame() {
        let inbox = Inbox::default();
        let mut rig = rig(Ethernet::new(MAC).promiscuous(true), inbox.layer());
        rig.feed(&frame(OTHER, MAC, 0x0800, b"x"));
        assert_eq!(inbox.take(), [b"x"]);
        rig.finish();
    }

    #[test]
    fn short_frames_are_padded_with_zeroes_when_asked() {
        let mut rig = rig(Ethernet::new(MAC).pad(true), Box::new(Echo::new()));
        rig.feed(&frame(MAC, OTHER, 0x0800, b"hello"));
        let mut padded = frame(OTHER, MAC, 0x0800, b"hello");
        padded.resize(60, 0);
        assert_eq!(rig.sent(), [padded]);
        rig.finish();
    }

    #[test]
    fn one_byte_segments_make_no_difference() {
        let mut rig = rig(Ethernet::new(MAC), Box::new(Echo::new()));
        let chain = testing::bytewise(&rig.pool, &frame(MAC, OTHER, 0x0800, b"hello")).unwrap();
        rig.feed_chain(chain);
        assert_eq!(rig.sent(), [frame(OTHER, MAC, 0x0800, b"hello")]);
        rig.finish();
    }

    #[test]
    fn conforms() {
        let wire = vec![frame(MAC, OTHER, 0x0800, b"hello")];
        let messages = vec![vec![7; 46], vec![8; 1000]];
        Conformance::new("ethernet", || Box::new(Ethernet::new(MAC).peer(MAC)) as _)
            .key(0x0800)
            .wire(wire.clone())
            .messages(messages.clone())
            .run();
        // Padding stays on what is shorter: the layer above knows how long its packet is.
        let report =
            Conformance::new("padding", || Box::new(Ethernet::new(MAC).peer(MAC).pad(true)) as _)
                .key(0x0800)
                .wire(wire)
                .messages(messages)
                .report();
        let failed: Vec<Check> = report.failures().iter().map(|failure| failure.check).collect();
        assert_eq!(failed, [Check::RoundTrip], "{report}");
        // Without a peer and without a MAC in the metadata, nothing is sent.
        let report =
            Conformance::new("alone", || Box::new(Ethernet::new(MAC)) as _).key(0x0800).report();
        let failed: Vec<Check> = report.failures().iter().map(|failure| failure.check).collect();
        assert_eq!(failed, [Check::RoundTrip], "{report}");
    }
}
