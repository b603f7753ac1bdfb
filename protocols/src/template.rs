//! A protocol of your own: copy this file, and change it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |    version    |     kind      |            length             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   payload                                                    ...
//! ```
//!
//! What it shows is a header of four bytes: a version that is checked, a kind by which the layers
//! above are chosen, and a length that is not believed.
//!
//! # Where it goes
//!
//! The layer itself does not know what is below it. How it is bound says that:
//!
//! | it is | bound by | below |
//! |---|---|---|
//! | an EtherType | `builder.bind(ethernet, 0x88b5, mine)` | [`Ethernet`](crate::net::Ethernet) |
//! | an IP protocol | `builder.bind(ipv4, 253, mine)` | [`Ipv4`](crate::net::Ipv4) |
//! | a UDP port | `builder.bind(udp, 4000, mine)` | [`Udp`](crate::net::Udp) |
//! | a UDP socket | `builder.port(Edge::Packets, mine)` | the kernel |
//!
//! (0x88b5 and 253 are free for experiments: IEEE 802a, RFC 3692.) The metadata's addresses are then
//! MACs, IP addresses, or IP addresses with ports. A layer that only answers swaps them with
//! [`Context::reply`] and need not know which; one that sends by itself sets the destination to an
//! [`Address`](mbuf::Address) of that kind.
//!
//! # What to change
//!
//! 1. The header: fields of one byte, and those of [`zerocopy::byteorder::network_endian`]. Nothing
//!    else has to be said of the byte order, and a header in pieces is made contiguous for you.
//! 2. `info`: what is prepended (headroom is reserved for it once, for the whole stack), the least
//!    length (what is shorter never gets here), the reasons for which you drop.
//! 3. `input`: check before you believe. There is no `unwrap` and no index here: what comes in is
//!    whatever somebody chose to send.
//! 4. `output`: what `input` takes off. Put `prepended` behind every `push`, so that a checksum that
//!    the device is to fill in stays where it is.
//! 5. The tests: a packet byte for byte, each kind of malformed input, one-byte segments, and
//!    `Conformance`, which runs some thousands of sessions and finds what you did not think of.
//!
//! A layer that has timers: [`Context::arm`] and `Protocol::timeout`; one that keeps chains counts
//! them in `Protocol::held`, bounds them, and gives them up on `Signal::Shutdown`.
//!
//! ```
//! use mbuf::{Pool, stack::{Edge, Stack}};
//! use mbuf_protocols::{Echo, net::{Ethernet, ethertype}, template::Template};
//!
//! let pool = Pool::with_memory(8 << 20)?;
//! let mut builder = Stack::builder(&pool);
//! let ethernet = builder.layer(Ethernet::new([2, 0, 0, 0, 0, 1]));
//! let mine = builder.layer(Template::new());
//! let echo = builder.layer(Echo::new());
//! let port = builder.port(Edge::Packets, ethernet);
//! builder.bind(ethernet, ethertype::LOCAL_EXPERIMENTS[0], mine).bind(mine, 7, echo);
//! let mut stack = builder.build()?;
//!
//! let from_peer = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5\x01\x07\0\x02hi";
//! let answered = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x88\xb5\x01\x07\0\x02hi";
//! stack.input_one(port, pool.chain_from(from_peer)?);
//! let answer = stack.poll_output(port).pop().map(|chain| chain.to_vec());
//! assert_eq!(answer, Some(Ok(answered.to_vec())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use mbuf::{
    Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use crate::net::prepended; // `mbuf_protocols::net::prepended` in a crate of yours

/// A reason of this layer's own, for what is of another version.
pub const WRONG_VERSION: DropReason = DropReason("wrong_version");

/// The version that it speaks.
pub const VERSION: u8 = 1;

/// The header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`VERSION`].
    pub version: u8,
    /// Which layer above it is for.
    pub kind: u8,
    /// Of the payload, in bytes.
    pub length: U16,
}

/// The layer: its configuration and its state. This one has neither. O(1) a packet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Template(());

impl Template {
    /// A layer.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    ///
    /// assert_eq!(mbuf_protocols::template::Template::new().info().header_len(), 4);
    /// ```
    pub const fn new() -> Self {
        Self(())
    }
}

impl Protocol for Template {
    fn name(&self) -> &str {
        "template"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(size_of::<Header>())
            .min_header(size_of::<Header>())
            .stateless() // nothing is kept of a peer
            .reasons(&[WRONG_VERSION])
    }

    /// From below: look at the header, take it off, pass on by its key.
    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(header) = chain.strip::<Header>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        if header.version != VERSION {
            return cx.drop(chain, WRONG_VERSION);
        }
        let length = usize::from(header.length.get());
        if length > chain.len() {
            return cx.drop(chain, DropReason::MALFORMED);
        }
        // What is behind the payload is the link's padding.
        if chain.truncate(length).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        cx.up_key(header.kind.into(), chain)
    }

    /// From above: the key of the edge that it came by goes into the header.
    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Some(kind) = cx.key().and_then(|key| u8::try_from(key).ok()) else {
            return cx.drop(chain, DropReason::UNBOUND);
        };
        let Ok(length) = u16::try_from(chain.len()) else {
            return cx.drop(chain, DropReason::LIMIT);
        };
        if chain.push(&Header { version: VERSION, kind, length: length.into() }).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        prepended(&mut chain, size_of::<Header>());
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
        rig::{Inbox, Rig},
    };

    fn rig(upper: Box<dyn Protocol>) -> Rig {
        let pool = testing::pool();
        let mut builder = Stack::builder(&pool);
        let mine = builder.layer(Template::new());
        let upper = builder.layer_boxed(upper);
        builder.port(Edge::Packets, mine);
        builder.bind(mine, 7, upper);
        let mut stack = builder.build().unwrap();
        stack.open();
        Rig { pool, stack }
    }

    #[test]
    fn a_packet_is_parsed_and_built_again_byte_for_byte() {
        let mut rig = rig(Box::new(Echo::new()));
        rig.feed(b"\x01\x07\0\x05hello");
        assert_eq!(rig.sent(), [b"\x01\x07\0\x05hello"]);
        rig.finish();
    }

    #[test]
    fn padding_is_taken_off() {
        let inbox = Inbox::default();
        let mut rig = rig(inbox.layer());
        rig.feed(b"\x01\x07\0\x02hi\0\0\0\0");
        assert_eq!(inbox.take(), [b"hi"]);
        rig.finish();
    }

    #[test]
    fn what_is_wrong_is_dropped_for_its_reason() {
        let inbox = Inbox::default();
        let mut rig = rig(inbox.layer());
        rig.feed(b"\x01\x07\0");
        rig.feed(b"\x02\x07\0\0");
        rig.feed(b"\x01\x07\0\x03hi");
        rig.feed(b"\x01\x08\0\x02hi");
        assert_eq!(inbox.len(), 0);
        let reasons =
            [DropReason::SHORT, WRONG_VERSION, DropReason::MALFORMED, DropReason::UNBOUND];
        for reason in reasons {
            assert_eq!(rig.drops("template", reason), 1, "{reason}");
        }
        rig.finish();
    }

    #[test]
    fn one_byte_segments_make_no_difference() {
        let mut rig = rig(Box::new(Echo::new()));
        rig.feed_chain(testing::bytewise(&rig.pool, b"\x01\x07\0\x05hello").unwrap());
        assert_eq!(rig.sent(), [b"\x01\x07\0\x05hello"]);
        rig.finish();
    }

    #[test]
    fn conforms() {
        Conformance::new("template", || Box::new(Template::new()) as _)
            .key(7)
            .wire(vec![b"\x01\x07\0\x05hello".to_vec(), b"\x02\x07\0\0".to_vec()])
            .messages(vec![vec![], vec![7; 20], vec![8; 1400]])
            .run();
    }
}
