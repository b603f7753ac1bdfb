//! Tunnels: packets inside packets.
//!
//! | layer | below it | above it | key |
//! |---|---|---|---|
//! | [`Vxlan`] | UDP port 4789 | Ethernet | the VNI, or none |
//! | [`Geneve`] | UDP port 6081 | Ethernet, IP | the protocol type, with the VNI |
//! | [`Gre`] | IP protocol 47 | IP, Ethernet | the EtherType |
//! | [`Mpls`] | EtherType 0x8847 | IP | the label |
//!
//! A tunnel makes a loop in the graph where what stands above it is the layer that stands far below
//! it. Headroom is then reserved for one time round; a packet that goes round again costs a buffer
//! for its further headers.
//!
//! Metadata speaks of the innermost layer: a tunnel overwrites the outer addresses on the way down,
//! keeps what it needs of them on the way up, and takes off what was said of the outer checksum.

pub mod geneve;
pub mod gre;
pub mod mpls;
pub mod vxlan;

pub use geneve::Geneve;
pub use gre::Gre;
pub use mpls::Mpls;
pub use vxlan::Vxlan;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mbuf::{Address, Chain, meta::Offload, stack::DropReason};

/// It came from somebody who is not the configured other end.
pub const STRANGER: DropReason = DropReason("stranger");

/// Nobody knows where the tunnel goes: no other end was configured, and none was learned.
pub const NO_REMOTE: DropReason = DropReason("no_remote");

/// The version of the header is not the one that is known.
pub const VERSION: DropReason = DropReason("version");

/// What comes out of a tunnel: `n` bytes were stripped behind the outer transport's place, and what
/// was said of the outer checksum says nothing of the inner one.
fn came_out(chain: &mut Chain, n: usize) {
    let meta = chain.meta_mut();
    let known = Offload::CHECKSUM_VERIFIED | Offload::CHECKSUM_PARTIAL;
    meta.set_offload(meta.offload() - known);
    meta.set_network_offset(meta.transport_offset().saturating_add(n as u16));
    meta.set_transport_offset(0);
}

/// Addresses of the outer datagram: to the other end, from the port that the flow chose.
fn address(chain: &mut Chain, remote: SocketAddr, source_port: u16) {
    let from = match remote {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, source_port)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, source_port)),
    };
    chain.meta_mut().set_source(Address::Ip(from));
    chain.meta_mut().set_destination(Address::Ip(remote));
}

/// The source port for a frame (49152-65535), the same for all of a flow (RFC 7348, section 5): a
/// hash of the Ethernet addresses and type, and of addresses, protocol and ports where it is IP. O(1).
fn flow_port(frame: &Chain) -> u16 {
    let mut bytes = [0; 58];
    let n = frame.len().min(bytes.len());
    if frame.peek(0, &mut bytes[..n]).is_err() {
        return 49152;
    }
    let mut hash = Fnv::new();
    hash.add(&bytes[..14]);
    hash.add_ip(u16::from_be_bytes([bytes[12], bytes[13]]), &bytes[14..]);
    hash.port()
}

/// As [`flow_port`], for a packet that begins with the header of that EtherType.
fn flow_port_of(ethertype: u16, packet: &Chain) -> u16 {
    let mut bytes = [0; 44];
    let n = packet.len().min(bytes.len());
    if packet.peek(0, &mut bytes[..n]).is_err() {
        return 49152;
    }
    let mut hash = Fnv::new();
    hash.add_ip(ethertype, &bytes);
    hash.port()
}

/// FNV-1a, which is all that spreading flows over links needs.
struct Fnv(u32);

impl Fnv {
    fn new() -> Self {
        Self(0x811c_9dc5)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }

    /// What is the same in all packets of a flow. Fragments have no ports, so that all of them
    /// take one way.
    fn add_ip(&mut self, ethertype: u16, ip: &[u8]) {
        match (ethertype, ip) {
            (0x0800, ip) if ip.len() >= 24 => {
                self.add(&ip[9..10]);
                self.add(&ip[12..20]);
                let whole = ip[6] & 0x3f == 0 && ip[7] == 0;
                if whole && ip[0] & 0xf == 5 && matches!(ip[9], 6 | 17) {
                    self.add(&ip[20..24]);
                }
            }
            (0x86dd, ip) if ip.len() >= 44 => {
                self.add(&ip[6..7]);
                self.add(&ip[8..40]);
                if matches!(ip[6], 6 | 17) {
                    self.add(&ip[40..44]);
                }
            }
            _ => {}
        }
    }

    fn port(self) -> u16 {
        let mixed = self.0 ^ (self.0 >> 15);
        0xc000 | (mixed as u16 & 0x3fff)
    }
}

#[cfg(test)]
mod tests {
    use mbuf::{
        stack::{Edge, Protocol, Stack},
        testing,
    };

    use super::*;
    use crate::rig::Rig;

    /// A tunnel over one port, with one layer above it.
    pub(super) fn rig(
        tunnel: impl Protocol + 'static,
        key: Option<u64>,
        upper: Box<dyn Protocol>,
    ) -> Rig {
        let pool = testing::pool();
        let mut builder = Stack::builder(&pool);
        let tunnel = builder.layer(tunnel);
        let upper = builder.layer_boxed(upper);
        builder.port(Edge::Packets, tunnel);
        match key {
            Some(key) => builder.bind(tunnel, key, upper),
            None => builder.stack(tunnel, upper),
        };
        let mut stack = builder.build().unwrap();
        stack.open();
        Rig { pool, stack }
    }

    /// A chain with addresses, as UDP or IP hands it up.
    pub(super) fn from(rig: &Rig, source: &str, bytes: &[u8]) -> Chain {
        let mut chain = rig.pool.chain_from(bytes).unwrap();
        chain.meta_mut().set_source(Address::Ip(source.parse().unwrap()));
        let to = Address::Ip("192.0.2.1:4789".parse().unwrap());
        chain.meta_mut().set_destination(to);
        chain
    }

    fn udp_frame(ident: u8, source_port: u8, fragment: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0, 0x45, 0, 0, 32, 0, ident, fragment, 0, 64, 17, 0, ident]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, source_port, 0, 7, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    #[test]
    fn packets_of_a_flow_have_one_port_and_flows_differ() {
        let pool = testing::pool();
        let port = |bytes: &[u8]| flow_port(&pool.chain_from(bytes).unwrap());
        assert_eq!(port(&udp_frame(1, 9, 0)), port(&udp_frame(2, 9, 0)));
        assert_ne!(port(&udp_frame(1, 9, 0)), port(&udp_frame(1, 10, 0)));
        // Fragments: what stands where ports would be is not looked at.
        assert_eq!(port(&udp_frame(1, 9, 0x20)), port(&udp_frame(1, 10, 0x20)));
        for bytes in [&[][..], &[1], &[7; 13], &[8; 58], &udp_frame(1, 1, 0)] {
            assert!(port(bytes) >= 49152);
        }
        let ip = |bytes: &[u8]| flow_port_of(0x0800, &pool.chain_from(&bytes[14..]).unwrap());
        assert_eq!(ip(&udp_frame(1, 9, 0)), ip(&udp_frame(3, 9, 0)));
        assert_ne!(ip(&udp_frame(1, 9, 0)), ip(&udp_frame(1, 10, 0)));
    }
}
