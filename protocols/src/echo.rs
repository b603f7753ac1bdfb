//! Echo (RFC 862): whatever comes in goes back, unchanged.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                 data, without a header, of any length        ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Over a stream "any data received is sent back"; over datagrams each one is answered by one
//! with the same bytes. The chain that came in is the chain that goes out: not a byte is copied
//! and nothing is allocated.
//!
//! The protocol has no authentication. Over datagrams an answer goes to whoever the datagram says
//! it is from; it is never larger than the question, and one that could start two services
//! answering each other for ever is dropped as [`LOOP`].

use mbuf::{
    Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};

use crate::{LOOP, would_loop};

/// Sends back what it is sent. The top of any stack, over bytes or packets; stateless, so one
/// value serves all peers of a datagram port.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo(());

impl Echo {
    /// An echo layer. It has nothing to configure.
    pub const fn new() -> Self {
        Self(())
    }
}

impl Protocol for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Any, Edge::Any).stateless().reasons(&[LOOP])
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if would_loop(chain.meta()) {
            return cx.drop(chain, LOOP);
        }
        cx.reply(chain)
    }

    /// Nothing belongs above an echo service, so what comes from there has nowhere to go.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}

#[cfg(test)]
mod tests {
    use mbuf::{
        Address,
        stack::Signal,
        testing::{self, Conformance},
    };

    use super::*;
    use crate::rig::{PORT, Rig};

    fn rig(edge: Edge) -> Rig {
        Rig::new(&testing::pool(), edge, vec![Box::new(Echo::new())])
    }

    fn datagram(rig: &Rig, from: &str, to: &str, bytes: &[u8]) -> Chain {
        let mut chain = rig.pool.chain_from(bytes).unwrap();
        chain.meta_mut().set_source(Address::Ip(from.parse().unwrap()));
        chain.meta_mut().set_destination(Address::Ip(to.parse().unwrap()));
        chain
    }

    #[test]
    fn a_captured_datagram_goes_back_where_it_came_from() {
        // What `echo hello | nc -u 192.0.2.1 7` sends.
        let mut rig = rig(Edge::Packets);
        let chain = datagram(&rig, "198.51.100.2:49152", "192.0.2.1:7", b"hello\n");
        rig.feed_chain(chain);
        let reply = rig.stack.poll_output(PORT).pop().unwrap();
        assert_eq!(reply.to_vec().unwrap(), b"hello\n");
        assert_eq!(reply.meta().destination(), Address::Ip("198.51.100.2:49152".parse().unwrap()));
        assert_eq!(reply.meta().source(), Address::Ip("192.0.2.1:7".parse().unwrap()));
        drop(reply);
        rig.finish();
    }

    #[test]
    fn datagrams_keep_their_edges_and_streams_their_order() {
        let packets: [&[u8]; 5] = [b"a", b"", b"bcd", &[7; 3000], &[8; 65_507]];
        let mut packet_rig = rig(Edge::Packets);
        packet_rig.feed_batch(&packets);
        assert_eq!(packet_rig.sent(), packets);
        packet_rig.finish();
        let mut stream = rig(Edge::Bytes);
        stream.feed_batch(&packets);
        assert_eq!(stream.sent().concat(), packets.concat());
        stream.finish();
    }

    #[test]
    fn the_bytes_are_not_copied() {
        let mut rig = rig(Edge::Packets);
        let chain = rig.pool.chain_from(&[1; 1000]).unwrap();
        let place = chain.slices().unwrap().next().unwrap().as_ptr();
        rig.feed_chain(chain);
        let reply = rig.stack.poll_output(PORT).pop().unwrap();
        assert_eq!(reply.slices().unwrap().next().unwrap().as_ptr(), place);
        drop(reply);
        rig.finish();
    }

    #[test]
    fn a_datagram_that_would_start_a_loop_is_dropped_and_counted() {
        let mut rig = rig(Edge::Packets);
        // From a character generator, from another echo service, and from one on our own port.
        for from in ["203.0.113.9:19", "203.0.113.9:7", "[2001:db8::1]:7007"] {
            let to = if from.starts_with('[') { "[2001:db8::2]:7007" } else { "192.0.2.1:7007" };
            let chain = datagram(&rig, from, to, b"x");
            rig.feed_chain(chain);
        }
        assert!(rig.sent().is_empty());
        assert_eq!(rig.drops("echo", LOOP), 3);
        rig.finish();
    }

    #[test]
    fn one_byte_segments_make_no_difference() {
        let bytes: Vec<u8> = (0..=255).collect();
        for edge in [Edge::Bytes, Edge::Packets] {
            let mut rig = rig(edge);
            rig.feed_chain(testing::bytewise(&rig.pool, &bytes).unwrap());
            assert_eq!(rig.sent(), [&bytes[..]]);
            rig.stack.signal(Signal::Shutdown);
            assert_eq!(rig.stack.next_timeout(), None);
            rig.finish();
        }
    }

    #[test]
    fn conforms() {
        for edge in [Edge::Bytes, Edge::Packets] {
            Conformance::new("echo", || Box::new(Echo::new()) as _)
                .edge(edge)
                .top()
                .wire(vec![b"hello".to_vec(), vec![], vec![9; 1400]])
                .run();
        }
    }
}
