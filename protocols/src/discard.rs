//! Discard (RFC 863): whatever comes in is thrown away, and counted.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                 data, without a header, of any length        ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! "A discard service simply throws away any data it receives", and "no response is sent", over a
//! stream until the calling user ends the connection. Each chain is counted under
//! [`DropReason::DISCARDED`], which makes the layer useful as the end of a measurement.

use mbuf::{
    Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};

/// Throws away what it is sent. The top of any stack, over bytes or packets; stateless.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard(());

impl Discard {
    /// A discard layer. It has nothing to configure.
    pub const fn new() -> Self {
        Self(())
    }
}

impl Protocol for Discard {
    fn name(&self) -> &str {
        "discard"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any).stateless()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::DISCARDED)
    }

    /// Nothing belongs above a discard service, so what comes from there has nowhere to go.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}

#[cfg(test)]
mod tests {
    use mbuf::testing::{self, Conformance};

    use super::*;
    use crate::rig::Rig;

    fn rig(edge: Edge) -> Rig {
        Rig::new(&testing::pool(), edge, vec![Box::new(Discard::new())])
    }

    #[test]
    fn everything_is_thrown_away_and_counted() {
        for edge in [Edge::Bytes, Edge::Packets] {
            let mut rig = rig(edge);
            // What `echo hello | nc -u 192.0.2.1 9` sends, nothing, and a good deal.
            rig.feed_batch(&[b"hello\n", b"", &[1; 65_507]]);
            rig.end();
            assert!(rig.sent().is_empty());
            assert_eq!(rig.drops("discard", DropReason::DISCARDED), 3);
            assert_eq!(rig.pool.stats().in_use(), 0);
            rig.finish();
        }
    }

    #[test]
    fn one_byte_segments_make_no_difference() {
        let mut rig = rig(Edge::Bytes);
        rig.feed_chain(testing::bytewise(&rig.pool, &[3; 200]).unwrap());
        assert!(rig.sent().is_empty());
        assert_eq!(rig.drops("discard", DropReason::DISCARDED), 1);
        rig.finish();
    }

    #[test]
    fn conforms() {
        for edge in [Edge::Bytes, Edge::Packets] {
            Conformance::new("discard", || Box::new(Discard::new()) as _)
                .edge(edge)
                .top()
                .wire(vec![b"hello".to_vec(), vec![], vec![9; 1400]])
                .run();
        }
    }
}
