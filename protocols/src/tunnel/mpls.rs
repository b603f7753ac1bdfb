//! MPLS (RFC 3032): a stack of labels before a packet.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                label                  | TC  |S|      TTL      |  of each; S: the last
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! This is the end of a path: the whole stack is taken off, and the key is the label at its bottom.
//! IPv4 stands above label 0 (*IPv4 explicit null*) and IPv6 above 2, or above whatever labels the
//! network gave them. Reserved labels (RFC 3032 section 2.1, RFC 7274): the explicit nulls may stand
//! anywhere (RFC 4182), router alert (1) anywhere but at the bottom, *implicit null* (3) nowhere;
//! 4 to 15 are not implemented: all these are dropped as [`RESERVED_LABEL`]. A stack deeper than the
//! limit is dropped as [`TOO_DEEP`], a TTL of 0 as [`TTL_EXPIRED`] (section 2.4); the TTL is not
//! copied into the packet inside, so a path counts as one hop or none (RFC 3443, the pipe model).

use mbuf::{
    Address, Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U32,
};

use crate::net::prepended;

/// A label that is reserved, where it must not stand or for what is not implemented.
pub const RESERVED_LABEL: DropReason = DropReason("reserved_label");

/// The stack has more labels than the limit.
pub const TOO_DEEP: DropReason = DropReason("too_deep");

/// The time to live is 0.
pub const TTL_EXPIRED: DropReason = DropReason("ttl_expired");

/// IPv4 explicit null.
pub const IPV4_NULL: u32 = 0;
/// Router alert.
pub const ROUTER_ALERT: u32 = 1;
/// IPv6 explicit null.
pub const IPV6_NULL: u32 = 2;
/// The first label that is not reserved.
pub const FIRST: u32 = 16;
/// Labels taken off at most, unless told.
pub const DEPTH: usize = 8;

const BOTTOM: u32 = 1 << 8;

/// An entry of the stack as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// The label in the upper 20 bits, 3 bits of traffic class, the bottom bit, the TTL.
    pub word: U32,
}

/// The end of label switched paths. O(labels) a packet; copies nothing.
#[derive(Debug, Clone)]
pub struct Mpls {
    depth: usize,
    ttl: u8,
    outer: Vec<u32>,
    next_hop: Option<[u8; 6]>,
}

impl Default for Mpls {
    fn default() -> Self {
        Self::new()
    }
}

impl Mpls {
    /// With [`DEPTH`] labels at most, a TTL of 64, and one label on the way down: the key.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::tunnel::Mpls;
    ///
    /// assert_eq!(Mpls::new().info().max_prepend(), 4);
    /// ```
    pub const fn new() -> Self {
        Self { depth: DEPTH, ttl: 64, outer: Vec::new(), next_hop: None }
    }

    /// Takes off so many labels at most.
    ///
    /// ```
    /// # use mbuf_protocols::tunnel::Mpls;
    /// assert!(format!("{:?}", Mpls::new().depth(2)).contains("depth: 2"));
    /// ```
    pub const fn depth(mut self, labels: usize) -> Self {
        self.depth = labels;
        self
    }

    /// The time to live of what is sent.
    ///
    /// ```
    /// # use mbuf_protocols::tunnel::Mpls;
    /// assert!(format!("{:?}", Mpls::new().ttl(9)).contains("ttl: 9"));
    /// ```
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Labels that are put before the key's, the first of them outermost; 20 bits of each.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// # use mbuf_protocols::tunnel::Mpls;
    /// assert_eq!(Mpls::new().outer(&[100, 200]).info().max_prepend(), 12);
    /// ```
    pub fn outer(mut self, labels: &[u32]) -> Self {
        self.outer = labels.to_vec();
        self
    }

    /// The station that packets are sent to, for an Ethernet below. Without one the metadata goes
    /// down as it came.
    ///
    /// ```
    /// # use mbuf_protocols::tunnel::Mpls;
    /// assert!(format!("{:?}", Mpls::new().next_hop([2; 6])).contains("Some"));
    /// ```
    pub const fn next_hop(mut self, mac: [u8; 6]) -> Self {
        self.next_hop = Some(mac);
        self
    }
}

impl Protocol for Mpls {
    fn name(&self) -> &str {
        "mpls"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(size_of::<Entry>() * (1 + self.outer.len()))
            .min_header(size_of::<Entry>())
            .stateless()
            .reasons(&[RESERVED_LABEL, TOO_DEEP, TTL_EXPIRED])
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        for depth in 1..=self.depth {
            let Ok(entry) = chain.strip::<Entry>() else {
                return cx.drop(chain, DropReason::SHORT);
            };
            let word = entry.word.get();
            let (label, bottom) = (word >> 12, word & BOTTOM != 0);
            if depth == 1 && word & 0xff == 0 {
                return cx.drop(chain, TTL_EXPIRED);
            }
            let fits = match label {
                IPV4_NULL | IPV6_NULL | FIRST.. => true,
                ROUTER_ALERT => !bottom,
                _ => false,
            };
            if !fits {
                return cx.drop(chain, RESERVED_LABEL);
            }
            if bottom {
                let meta = chain.meta_mut();
                let stripped = (depth * size_of::<Entry>()) as u16;
                meta.set_network_offset(meta.network_offset().saturating_add(stripped));
                return cx.up_key(label.into(), chain);
            }
        }
        cx.drop(chain, TOO_DEEP)
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let key = cx.key().and_then(|key| u32::try_from(key).ok());
        let Some(key) = key.filter(|key| matches!(*key, IPV4_NULL | IPV6_NULL | FIRST..0x10_0000))
        else {
            return cx.drop(chain, RESERVED_LABEL);
        };
        let mut bottom = BOTTOM;
        for label in std::iter::once(&key).chain(self.outer.iter().rev()) {
            let word = label << 12 | bottom | u32::from(self.ttl);
            if chain.push(&Entry { word: word.into() }).is_err() {
                return cx.drop(chain, DropReason::NO_BUFFERS);
            }
            bottom = 0;
        }
        prepended(&mut chain, size_of::<Entry>() * (1 + self.outer.len()));
        if let Some(mac) = self.next_hop {
            chain.meta_mut().set_source(Address::None);
            chain.meta_mut().set_destination(Address::Mac(mac));
        }
        cx.down(chain)
    }
}

#[cfg(test)]
mod tests {
    use mbuf::{testing, testing::Conformance};

    use super::*;
    use crate::{
        Echo,
        rig::{Inbox, PORT},
        tunnel::tests::rig,
    };

    fn entry(label: u32, bottom: bool, ttl: u8) -> [u8; 4] {
        (label << 12 | u32::from(bottom) << 8 | u32::from(ttl)).to_be_bytes()
    }

    fn packet(labels: &[u32], payload: &[u8]) -> Vec<u8> {
        let last = labels.len() - 1;
        let entries = labels.iter().enumerate().map(|(i, label)| entry(*label, i == last, 64));
        [entries.collect::<Vec<_>>().concat(), payload.to_vec()].concat()
    }

    #[test]
    fn a_stack_is_parsed_and_built_again_byte_for_byte() {
        let mpls = Mpls::new().outer(&[100, 200]).next_hop([2; 6]);
        let mut rig = rig(mpls, Some(300), Box::new(Echo::new()));
        let mut chain = rig.pool.chain_from(&packet(&[100, 200, 300], b"payload")).unwrap();
        chain.meta_mut().set_network_offset(14);
        rig.feed_chain(chain);
        let answer = rig.stack.poll_output(PORT).pop().unwrap();
        assert_eq!(answer.to_vec().unwrap(), packet(&[100, 200, 300], b"payload"));
        assert_eq!(answer.meta().destination(), Address::Mac([2; 6]));
        assert_eq!(answer.meta().network_offset(), 26);
        drop(answer);
        rig.finish();
    }

    #[test]
    fn the_explicit_nulls_and_router_alert_stand_where_they_may() {
        for (labels, key) in [(&[0][..], 0), (&[2], 2), (&[0, 1, 2], 2), (&[1, 16], 16)] {
            let inbox = Inbox::default();
            let mut rig = rig(Mpls::new(), Some(key), inbox.layer());
            rig.feed(&packet(labels, b"ip"));
            assert_eq!(inbox.take(), [b"ip"], "{labels:?}");
            rig.finish();
        }
    }

    #[test]
    fn what_is_wrong_is_dropped_for_its_reason() {
        let inbox = Inbox::default();
        let mut rig = rig(Mpls::new().depth(3), Some(16), inbox.layer());
        for labels in [&[1][..], &[3], &[3, 16], &[7, 16], &[15]] {
            rig.feed(&packet(labels, b"x"));
        }
        rig.feed(&packet(&[20, 20, 20, 16], b"x"));
        rig.feed(&entry(16, true, 0));
        rig.feed(&entry(16, false, 1));
        rig.feed(&[0, 1, 1]);
        rig.feed(&packet(&[17], b"x"));
        assert_eq!(inbox.len(), 0);
        let counts = [
            (RESERVED_LABEL, 5),
            (TOO_DEEP, 1),
            (TTL_EXPIRED, 1),
            (DropReason::SHORT, 2),
            (DropReason::UNBOUND, 1),
        ];
        for (reason, n) in counts {
            assert_eq!(rig.drops("mpls", reason), n, "{reason}");
        }
        rig.feed(&packet(&[20, 20, 16], b"as deep as may be"));
        assert_eq!(inbox.len(), 1);
        rig.finish();
    }

    #[test]
    fn one_byte_segments_make_no_difference() {
        let mut rig = rig(Mpls::new().outer(&[100]), Some(16), Box::new(Echo::new()));
        let bytes = packet(&[100, 16], b"payload");
        rig.feed_chain(testing::bytewise(&rig.pool, &bytes).unwrap());
        assert_eq!(rig.sent(), [bytes]);
        rig.finish();
    }

    #[test]
    fn conforms() {
        Conformance::new("mpls", || Box::new(Mpls::new().outer(&[100])) as _)
            .key(16)
            .wire(vec![packet(&[100, 16], b"hello"), packet(&[3], b"x")])
            .messages(vec![vec![7; 20], vec![8; 1400]])
            .run();
    }
}
