//! Protocol plugins for [`mbuf`]: one file a protocol, no unsafe code.
//!
//! Each of these is a layer, a value that implements [`mbuf::stack::Protocol`], and runs over
//! whatever carries its kind of edge: a TCP stream, a UDP socket, a pipe in memory, a test's
//! virtual link.
//!
//! | plugin | what it does | below it | above it |
//! |---|---|---|---|
//! | [`Framing`] | cuts a stream into packets by a length prefix | bytes | packets |
//! | [`Echo`] | sends everything back (RFC 862) | anything | nothing |
//! | [`Discard`] | throws everything away, and counts it (RFC 863) | anything | nothing |
//! | [`FileSender`], [`FileReceiver`] | files and folders, verified | packets | nothing |
//! | [`Chargen`] | sends printable characters (RFC 864) | bytes, or packets | nothing |
//! | [`net::Ethernet`], [`net::Vlan`] | frames of one station; 802.1Q and QinQ | packets | packets, by EtherType |
//! | [`net::Arp`], [`net::Nd`] | whose MAC an address has (RFC 826, 4861) | Ethernet | IPv4; IPv6 |
//! | [`net::Ipv4`], [`net::Ipv6`] | datagrams of a host, in fragments too (RFC 791, 8200) | packets | packets, by protocol |
//! | [`net::Icmp`], [`net::Icmpv6`] | answers ping, and says what could not be delivered (RFC 792, 4443) | IP | nothing |
//! | [`net::Udp`] | ports (RFC 768) | IP | packets, by port |
//! | [`tunnel::Vxlan`], [`tunnel::Geneve`] | Ethernet and more over UDP (RFC 7348, 8926) | UDP | packets, by VNI |
//! | [`tunnel::Gre`] | anything over IP (RFC 2784, 2890) | IP | packets, by EtherType |
//! | [`tunnel::Mpls`] | labels (RFC 3032) | Ethernet | packets, by label |
//! | `tcp::Tcp` (feature `tcp`) | TCP (RFC 9293), by smoltcp | IP | a stack of its own for each connection |
//! | [`Relay`] | passes on between two lower edges | packets, twice | nothing |
//! | [`Tftp`] | serves files, and takes them if it may (RFC 1350) | UDP, or a UDP socket | nothing |
//! | [`Dns`] | answers for names of its own (RFC 1035) | UDP, or a UDP socket | nothing |
//!
//! [`mod@template`] is a layer to copy, and [`registry`] makes stacks of text.
//!
//! They are also meant to be read: [`mod@echo`] is the smallest layer there is, [`mod@chargen`]
//! shows how a layer that makes data of its own keeps to its credit, and [`mod@framing`] how one
//! holds bytes back without letting a hostile peer fill the memory.
//!
//! ```no_run
//! use mbuf::{BuildError, Pool, stack::{Edge, Stack}};
//! use mbuf_protocols::{Echo, Framing, Prefix};
//!
//! # fn main() -> Result<(), BuildError> {
//! let pool = Pool::with_memory(8 << 20)?;
//! let framing = Framing::new(Prefix::U16Be, 4096)?;
//! let stack = Stack::pile(&pool, Edge::Bytes, vec![Box::new(framing), Box::new(Echo::new())])?;
//! assert_eq!(stack.ports(), 1);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod chargen;
pub mod discard;
pub mod dissect;
pub mod dns;
pub mod echo;
#[cfg(feature = "file")]
pub mod file;
pub mod framing;
pub mod net;
#[cfg(feature = "registry")]
pub mod registry;
pub mod relay;
#[cfg(feature = "tcp")]
pub mod tcp;
pub mod template;
pub mod tftp;
pub mod tunnel;

pub use chargen::Chargen;
pub use discard::Discard;
pub use dns::Dns;
pub use echo::Echo;
#[cfg(feature = "file")]
pub use file::{FileReceiver, FileSender};
pub use framing::{Framing, Prefix};
#[cfg(feature = "registry")]
pub use registry::Registry;
pub use relay::Relay;
pub use tftp::Tftp;

use mbuf::{Address, Meta, stack::DropReason};

/// Dropped because the answer would go to a service that answers in turn, for ever.
pub const LOOP: DropReason = DropReason("loop");

/// Whether answering this datagram could start two services answering each other without end
/// (CERT advisory CA-1996-01): the peer's port is that of a service which answers anything, or the
/// very port that the datagram was sent to, so that the peer may be another of our own kind.
///
/// Such a datagram costs its sender nothing but a forged source address. Streams, which have no
/// addresses in their metadata and cannot be forged so, are never affected.
fn would_loop(meta: &Meta) -> bool {
    /// echo, discard, daytime, quote of the day, chargen, time.
    const ANSWERING: [u16; 6] = [7, 9, 13, 17, 19, 37];
    let (Address::Ip(peer), Address::Ip(local)) = (meta.source(), meta.destination()) else {
        return false;
    };
    ANSWERING.contains(&peer.port()) || peer.port() == local.port()
}

/// What the tests of the plugins share: a stack driven by hand, and a layer that stands above.
#[cfg(test)]
mod rig {
    use std::sync::{Arc, Mutex};

    use mbuf::{
        Batch, Chain, Pool,
        stack::{
            Closing, Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Signal, Stack,
        },
    };

    pub(crate) const PORT: PortId = PortId(0);

    /// One stack over one port.
    pub(crate) struct Rig {
        pub(crate) pool: Pool,
        pub(crate) stack: Stack,
    }

    impl Rig {
        pub(crate) fn new(pool: &Pool, edge: Edge, layers: Vec<Box<dyn Protocol>>) -> Self {
            let mut stack = Stack::pile(pool, edge, layers).unwrap();
            stack.open();
            Self { pool: pool.clone(), stack }
        }

        /// One chain with these bytes comes in.
        pub(crate) fn feed(&mut self, bytes: &[u8]) {
            let chain = self.pool.chain_from(bytes).unwrap();
            self.feed_chain(chain);
        }

        pub(crate) fn feed_chain(&mut self, chain: Chain) {
            self.stack.input_one(PORT, chain);
            self.run();
        }

        /// Several chains come in together.
        pub(crate) fn feed_batch(&mut self, packets: &[&[u8]]) {
            let mut batch = Batch::new();
            batch.extend(packets.iter().map(|bytes| self.pool.chain_from(bytes).unwrap()));
            self.stack.input(PORT, &mut batch);
            assert!(batch.is_empty());
            self.run();
        }

        /// Goes on with what the round budget left over.
        pub(crate) fn run(&mut self) {
            while self.stack.has_work() {
                self.stack.poll();
            }
        }

        /// Lets timers fire, and the way out be emptied into the answer, until nothing is due.
        pub(crate) fn settle(&mut self, until: std::time::Duration) -> Vec<u8> {
            let end = self.stack.now() + until;
            let mut sent = self.sent().concat();
            while let Some(next) = self.stack.next_timeout().filter(|next| *next <= end) {
                self.stack.advance(next);
                self.run();
                sent.extend(self.sent().concat());
            }
            self.stack.advance(end);
            self.run();
            sent.extend(self.sent().concat());
            sent
        }

        /// As `settle` for a second, with nobody reading what is sent.
        pub(crate) fn settle_without_reading(&mut self) {
            let end = self.stack.now() + std::time::Duration::from_secs(1);
            self.stack.advance(end);
            self.run();
        }

        pub(crate) fn end(&mut self) {
            self.stack.end_of_stream(PORT);
            self.run();
        }

        /// Takes what waits on the way out, until the layers have no more.
        pub(crate) fn sent(&mut self) -> Vec<Vec<u8>> {
            let mut packets = Vec::new();
            loop {
                let before = packets.len();
                while let Some(chain) = self.stack.poll_output(PORT).pop() {
                    packets.push(chain.to_vec().unwrap());
                }
                if packets.len() == before {
                    return packets;
                }
                self.stack.flushed(PORT);
                self.run();
            }
        }

        pub(crate) fn closing(&self) -> Closing {
            self.stack.closing(PORT)
        }

        /// How often the layer dropped something for that reason.
        pub(crate) fn drops(&self, layer: &str, reason: DropReason) -> u64 {
            let stats = self.stack.stats();
            let layer = stats.layers.iter().find(|stats| stats.name == layer).unwrap();
            layer.drops.iter().filter(|(r, _)| *r == reason).map(|(_, n)| n).sum()
        }

        /// Every layer accounts for every chain; with the stack gone, so does the pool.
        pub(crate) fn finish(self) {
            for layer in self.stack.stats().layers {
                let dropped: u64 = layer.drops.iter().map(|(_, n)| n).sum();
                assert_eq!(
                    layer.received + layer.made,
                    layer.sent + layer.consumed + layer.merged + dropped + layer.held.chains as u64,
                    "{layer:?}"
                );
            }
            drop(self.stack);
            assert_eq!(self.pool.stats().in_use(), 0, "{}", self.pool.stats());
        }
    }

    /// What a layer above has received.
    #[derive(Clone, Default)]
    pub(crate) struct Inbox(Arc<Mutex<Vec<Vec<u8>>>>, Arc<Mutex<Vec<Signal>>>);

    impl Inbox {
        pub(crate) fn take(&self) -> Vec<Vec<u8>> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }

        pub(crate) fn len(&self) -> usize {
            self.0.lock().unwrap().len()
        }

        pub(crate) fn signals(&self) -> Vec<Signal> {
            std::mem::take(&mut *self.1.lock().unwrap())
        }

        /// The layer that fills this.
        pub(crate) fn layer(&self) -> Box<dyn Protocol> {
            Box::new(Upper(self.clone()))
        }
    }

    struct Upper(Inbox);

    impl Protocol for Upper {
        fn name(&self) -> &str {
            "upper"
        }

        fn info(&self) -> LayerInfo {
            LayerInfo::new(Edge::Any, Edge::Any)
        }

        fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            self.0.0.lock().unwrap().push(chain.to_vec().unwrap());
            cx.consumed(chain)
        }

        fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            cx.down(chain)
        }

        fn signal(&mut self, signal: Signal, _: &mut Context<'_>) {
            self.0.1.lock().unwrap().push(signal);
        }
    }
}
