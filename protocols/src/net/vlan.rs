//! VLAN tags: IEEE 802.1Q, and two of them (802.1ad, QinQ).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | PCP |D|      VLAN ID          |          EtherType            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The tag's type (0x8100 or 0x88a8) is the key by which the layer is bound to the one below; the
//! same layer serves either. It comes in two kinds:
//!
//! - [`Vlan::new`] is in one VLAN. The key is the inner EtherType, and a frame of another VLAN is
//!   dropped as [`OTHER_VLAN`].
//! - [`Vlan::trunk`] is in all of them, because a layer is bound to a key once. The key is
//!   [`Vlan::key`], made of the VLAN's number and the inner EtherType.
//!
//! For stacked tags either bind a second `Vlan` to the first by 0x8100, or a trunk to itself: how
//! deep tags may be stacked is bounded ([`TOO_DEEP`]) by a count in the packet, so that a loop in
//! the graph ends.
//!
//! Up, the innermost tag so far stands in [`Meta::vlan`](mbuf::Meta::vlan). Down, its priority is
//! taken from there, in every tag, so that an answer has that of the question; Ethernet then takes it
//! out, so that no device puts the tag there once more.

use mbuf::{
    Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use super::{
    ethernet::{LLC, NO_ADDRESS},
    ethertype, prepended,
};

/// The frame is of another VLAN.
pub const OTHER_VLAN: DropReason = DropReason("other_vlan");
/// More tags than may be stacked.
pub const TOO_DEEP: DropReason = DropReason("vlan_too_deep");

/// The VLAN's number in the tag.
const VID: u16 = 0x0fff;

/// The tag as it stands on the wire, behind the type that announces it.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Tag {
    /// Priority, drop eligibility, and the VLAN's number.
    pub control: U16,
    /// What follows.
    pub ethertype: U16,
}

/// How many tags a packet had so far, a slot that all VLAN layers share.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Depth(u8);

/// A VLAN on the Ethernet below, or all of them. O(1) a frame either way; copies nothing.
#[derive(Debug, Clone)]
pub struct Vlan {
    only: Option<u16>,
    depth: u8,
}

impl Vlan {
    /// The VLAN of this number (its low twelve bits).
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::net::Vlan;
    ///
    /// assert_eq!(Vlan::new(100).info().max_prepend(), 4);
    /// ```
    pub const fn new(vid: u16) -> Self {
        Self { only: Some(vid & VID), depth: 4 }
    }

    /// All VLANs, told apart by their keys.
    ///
    /// ```
    /// use mbuf_protocols::net::Vlan;
    ///
    /// assert!(format!("{:?}", Vlan::trunk()).contains("only: None"));
    /// ```
    pub const fn trunk() -> Self {
        Self { only: None, depth: 4 }
    }

    /// The key above a trunk: the VLAN's number in the bits above an EtherType.
    ///
    /// ```
    /// use mbuf_protocols::net::{Vlan, ethertype};
    ///
    /// assert_eq!(Vlan::key(100, ethertype::IPV4), 0x0064_0800);
    /// ```
    pub const fn key(vid: u16, ethertype: u64) -> u64 {
        ((vid & VID) as u64) << 16 | ethertype & 0xffff
    }

    /// How many tags may be stacked: four unless told.
    ///
    /// ```
    /// # use mbuf_protocols::net::Vlan;
    /// assert!(format!("{:?}", Vlan::trunk().depth(2)).contains("depth: 2"));
    /// ```
    pub const fn depth(mut self, tags: u8) -> Self {
        self.depth = tags;
        self
    }
}

impl Protocol for Vlan {
    fn name(&self) -> &str {
        "vlan"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(size_of::<Tag>())
            .min_header(size_of::<Tag>())
            .shared_slot::<Depth>()
            .stateless()
            .reasons(&[OTHER_VLAN, TOO_DEEP, LLC, NO_ADDRESS])
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(tag) = chain.strip::<Tag>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        let control = tag.control.get();
        let inner = u64::from(tag.ethertype.get());
        if self.only.is_some_and(|vid| vid != control & VID) {
            return cx.drop(chain, OTHER_VLAN);
        }
        if inner < ethertype::MIN {
            return cx.drop(chain, LLC);
        }
        if inner == ethertype::VLAN || inner == ethertype::QINQ {
            let Depth(depth) = cx.slot(&chain);
            if depth.saturating_add(1) >= self.depth {
                return cx.drop(chain, TOO_DEEP);
            }
            cx.set_slot(&mut chain, Depth(depth + 1));
        }
        let meta = chain.meta_mut();
        meta.set_vlan(Some(control));
        meta.set_network_offset(meta.network_offset().wrapping_add(size_of::<Tag>() as u16));
        let key = if self.only.is_some() { inner } else { Self::key(control, inner) };
        cx.up_key(key, chain)
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Some(key) = cx.key() else {
            return cx.drop(chain, NO_ADDRESS);
        };
        let vid = self.only.unwrap_or((key >> 16) as u16 & VID);
        let priority = chain.meta().vlan().unwrap_or(0) & !VID;
        let tag = Tag { control: (priority | vid).into(), ethertype: (key as u16).into() };
        if chain.push(&tag).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        prepended(&mut chain, size_of::<Tag>());
        cx.down(chain)
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
        net::Ethernet,
        rig::{PORT, Rig},
    };

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn frame(to: [u8; 6], from: [u8; 6], words: &[u16], payload: &[u8]) -> Vec<u8> {
        let mut bytes = [to, from].concat();
        words.iter().for_each(|word| bytes.extend(word.to_be_bytes()));
        bytes.extend(payload);
        bytes
    }

    /// Ethernet, a provider's tag of 7, a customer's tag of 100, echo.
    fn qinq() -> Rig {
        let pool = testing::pool();
        let mut builder = Stack::builder(&pool);
        let ethernet = builder.layer(Ethernet::new(MAC));
        let outer = builder.layer(Vlan::new(7));
        let inner = builder.layer(Vlan::new(100));
        let echo = builder.layer(Echo::new());
        builder.port(Edge::Packets, ethernet);
        builder.bind(ethernet, ethertype::QINQ, outer);
        builder.bind(outer, ethertype::VLAN, inner).bind(inner, 0x88b5, echo);
        let mut stack = builder.build().unwrap();
        stack.open();
        Rig { pool, stack }
    }

    /// A trunk that is bound to Ethernet and, for tags in VLAN 5, to itself.
    fn trunk() -> Rig {
        let pool = testing::pool();
        let mut builder = Stack::builder(&pool);
        let ethernet = builder.layer(Ethernet::new(MAC));
        let trunk = builder.layer(Vlan::trunk());
        let echo = builder.layer(Echo::new());
        builder.port(Edge::Packets, ethernet);
        builder.bind(ethernet, ethertype::VLAN, trunk);
        builder.bind(trunk, Vlan::key(5, ethertype::VLAN), trunk);
        builder.bind(trunk, Vlan::key(6, 0x88b5), echo);
        let mut stack = builder.build().unwrap();
        stack.open();
        Rig { pool, stack }
    }

    #[test]
    fn two_tags_are_stripped_and_put_back_with_their_priority() {
        let mut rig = qinq();
        let words = [0x88a8, 0x6007, 0x8100, 0x6064, 0x88b5];
        rig.feed(&frame(MAC, OTHER, &words, b"hello"));
        let answer = rig.stack.poll_output(PORT).pop().unwrap();
        assert_eq!(answer.to_vec().unwrap(), frame(OTHER, MAC, &words, b"hello"));
        assert_eq!(answer.meta().network_offset(), 22);
        assert_eq!(answer.meta().vlan(), None);
        drop(answer);
        rig.finish();
    }

    #[test]
    fn each_frame_of_another_vlan_is_dropped_for_its_reason() {
        let mut rig = qinq();
        rig.feed(&frame(MAC, OTHER, &[0x88a8, 8, 0x8100, 100, 0x88b5], b"x"));
        rig.feed(&frame(MAC, OTHER, &[0x88a8, 7, 0x8100, 101, 0x88b5], b"x"));
        rig.feed(&frame(MAC, OTHER, &[0x88a8, 7, 0x0040], b"x"));
        rig.feed(&frame(MAC, OTHER, &[0x88a8, 7], b"x"));
        rig.feed(&frame(MAC, OTHER, &[0x88a8, 7, 0x88b5], b"x"));
        assert!(rig.sent().is_empty());
        let stats = rig.stack.stats();
        for (reason, n) in
            [(OTHER_VLAN, 2), (LLC, 1), (DropReason::SHORT, 1), (DropReason::UNBOUND, 1)]
        {
            assert_eq!(stats.dropped(reason), n, "{reason}");
        }
        rig.finish();
    }

    #[test]
    fn a_trunk_tells_vlans_apart_and_its_loop_ends() {
        let mut rig = trunk();
        let single = [0x8100, 6, 0x88b5];
        rig.feed(&frame(MAC, OTHER, &single, b"one"));
        assert_eq!(rig.sent(), [frame(OTHER, MAC, &single, b"one")]);
        rig.feed(&frame(MAC, OTHER, &[0x8100, 5, 0x88b5], b"x"));
        assert_eq!(rig.drops("vlan", DropReason::UNBOUND), 1);
        for tags in 1..40 {
            let mut words = [0x8100, 5].repeat(tags);
            words.extend([0x8100, 6, 0x88b5]);
            rig.feed(&frame(MAC, OTHER, &words, b"x"));
        }
        assert_eq!(rig.drops("vlan", TOO_DEEP), 36, "three tags and the last are four");
        assert_eq!(rig.sent().len(), 3);
        rig.finish();
    }

    #[test]
    fn one_byte_segments_make_no_difference() {
        let mut rig = qinq();
        let words = [0x88a8, 7, 0x8100, 100, 0x88b5];
        let bytes = frame(MAC, OTHER, &words, b"hello");
        rig.feed_chain(testing::bytewise(&rig.pool, &bytes).unwrap());
        assert_eq!(rig.sent(), [frame(OTHER, MAC, &words, b"hello")]);
        rig.finish();
    }

    #[test]
    fn conforms() {
        Conformance::new("vlan", || Box::new(Vlan::new(100)) as _)
            .key(0x0800)
            .wire(vec![vec![0, 100, 8, 0, 1, 2, 3], vec![0, 101, 8, 0, 1]])
            .messages(vec![vec![7; 46], vec![8; 1000]])
            .run();
        Conformance::new("trunk", || Box::new(Vlan::trunk()) as _)
            .key(Vlan::key(5, 0x0800))
            .wire(vec![vec![0, 5, 8, 0, 1, 2, 3], vec![0, 101, 0x81, 0, 1]])
            .messages(vec![vec![7; 46], vec![8; 1000]])
            .run();
    }
}
