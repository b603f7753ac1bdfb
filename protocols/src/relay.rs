//! A relay: what comes in by one lower edge goes out by the other, unchanged.
//!
//! ```text
//!          relay
//!         /     \
//!     port 0   vxlan        a frame of the TAP goes into the tunnel, and out of it to the TAP
//!    (a TAP)     |
//!              port 1       (a UDP socket)
//! ```
//!
//! It stands at the top and has two lower edges, ports or layers, in the order in which they were
//! bound; four of them are two pairs, 0 with 1 and 2 with 3. Where the other edge of a pair is
//! missing, the packet is dropped as [`DropReason::UNBOUND`]. Bytes, metadata and offloads stay as
//! they came, so between two ports it is a wire, and between a port and a tunnel the tunnel's end
//! (a VTEP, RFC 7348).
//!
//! A port whose destination is taken from the metadata, such as a UDP socket that is not connected,
//! belongs below a tunnel, not below a relay: it would send a datagram to where it came to.
//!
//! It learns nothing and looks at nothing: a switch of more than two ends is another layer.

use mbuf::{
    Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};

/// Passes packets on between two lower edges. O(1) a packet; stateless.
#[derive(Debug, Clone, Copy, Default)]
pub struct Relay(());

impl Relay {
    /// A relay. It has nothing to configure.
    ///
    /// ```
    /// use mbuf::{Pool, stack::{Edge, Stack}};
    /// use mbuf_protocols::Relay;
    ///
    /// let pool = Pool::with_memory(8 << 20)?;
    /// let mut builder = Stack::builder(&pool);
    /// let relay = builder.layer(Relay::new());
    /// let left = builder.port(Edge::Packets, relay);
    /// let right = builder.port(Edge::Packets, relay);
    /// let mut stack = builder.build()?;
    /// stack.open();
    /// stack.input_one(left, pool.chain_from(b"a frame")?);
    /// assert!(stack.poll_output(left).is_empty());
    /// assert_eq!(stack.poll_output(right).pop().unwrap().to_vec()?, b"a frame");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn new() -> Self {
        Self(())
    }
}

impl Protocol for Relay {
    fn name(&self) -> &str {
        "relay"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).stateless()
    }

    #[inline]
    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down_edge(cx.edge() ^ 1, chain)
    }

    /// Nothing belongs above it.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}

#[cfg(test)]
mod tests {
    use mbuf::{
        meta::Offload,
        stack::{PortId, Stack},
        testing::{self, Conformance},
    };

    use super::*;
    use crate::{
        rig::{PORT, Rig},
        tunnel::Vxlan,
    };

    #[test]
    fn packets_cross_with_all_that_is_said_of_them() {
        let pool = testing::pool();
        let mut builder = Stack::builder(&pool);
        let relay = builder.layer(Relay::new());
        let ports = [(); 5].map(|()| builder.port(Edge::Packets, relay));
        let mut stack = builder.build().unwrap();
        stack.open();
        for (from, to) in [(0, Some(1)), (1, Some(0)), (2, Some(3)), (3, Some(2)), (4, None)] {
            let mut chain = testing::bytewise(&pool, b"a frame").unwrap();
            let place = chain.slices().unwrap().next().unwrap().as_ptr();
            chain.meta_mut().set_offload(Offload::CHECKSUM_PARTIAL);
            chain.meta_mut().set_transport_offset(34);
            stack.input_one(ports[from], chain);
            for (n, port) in ports.into_iter().enumerate() {
                let sent = stack.poll_output(port).pop();
                assert_eq!(sent.is_some(), to == Some(n), "from {from} to {n}");
                let Some(sent) = sent else { continue };
                assert_eq!(sent.to_vec().unwrap(), b"a frame");
                assert_eq!(sent.slices().unwrap().next().unwrap().as_ptr(), place);
                assert_eq!(sent.meta().offload(), Offload::CHECKSUM_PARTIAL);
                assert_eq!(sent.meta().transport_offset(), 34);
            }
        }
        let rig = Rig { pool, stack };
        assert_eq!(rig.drops("relay", DropReason::UNBOUND), 1, "the fifth has no other");
        rig.finish();
    }

    #[test]
    fn between_a_port_and_a_tunnel_it_is_the_tunnels_end() {
        let pool = testing::pool();
        let mut builder = Stack::builder(&pool);
        let relay = builder.layer(Relay::new());
        let vxlan = builder.layer(Vxlan::single(42).remote("192.0.2.2:4789".parse().unwrap()));
        builder.stack(vxlan, relay);
        let tap = builder.port(Edge::Packets, relay);
        let socket = builder.port(Edge::Packets, vxlan);
        assert_eq!((tap, socket), (PORT, PortId(1)));
        let mut stack = builder.build().unwrap();
        stack.open();
        let frame = [&[2; 12][..], &[0x88, 0xb5], b"inside"].concat();
        let outer = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &frame].concat();
        stack.input_one(tap, pool.chain_from(&frame).unwrap());
        assert_eq!(stack.poll_output(socket).pop().unwrap().to_vec().unwrap(), outer);
        stack.input_one(socket, pool.chain_from(&outer).unwrap());
        assert_eq!(stack.poll_output(tap).pop().unwrap().to_vec().unwrap(), frame);
        Rig { pool, stack }.finish();
    }

    #[test]
    fn conforms() {
        // With one edge below there is no other: all that comes is dropped.
        Conformance::new("relay", || Box::new(Relay::new()) as _)
            .top()
            .wire(vec![b"a frame".to_vec(), vec![], vec![9; 1400]])
            .run();
    }
}
