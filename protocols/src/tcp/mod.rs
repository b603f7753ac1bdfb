//! TCP (RFC 9293) over IPv4 and IPv6, by [smoltcp](https://docs.rs/smoltcp).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          source port          |       destination port        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                        sequence number                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     acknowledgment number                     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | offset| rsvd  |     flags     |            window             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           checksum            |        urgent pointer         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |            options, up to 40 bytes, then data              ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! [`Tcp`] is bound to [`Ipv4`](crate::net::Ipv4) and [`Ipv6`](crate::net::Ipv6) by protocol 6:
//! over both, the lower edge 0 is IPv4 and 1 is IPv6 (bind them in this order); with one edge below
//! everything goes there. Each connection has a stack of its own over bytes, whose layers a
//! function makes, as in [`Sessions`](mbuf::stack::Sessions): one of
//! [`listen`](Tcp::listen) or [`connect`](Tcp::connect).
//!
//! What a segment means is smoltcp's: sequence numbers, windows, retransmission, the state machine.
//! This file's part is between it and the layers: the checksum, who may open a connection, and
//! the moving of bytes. smoltcp's random numbers can be guessed from those before, so that it gets
//! a fresh seed for each connection.
//!
//! **Copies.** Up: smoltcp copies the data of a segment out of its mbufs into the connection's
//! buffer, and this layer copies it from there into a chain for the session. The IP header that
//! smoltcp wants to see is written into the room that the real one has left; only a segment that
//! lies in several mbufs is copied once more, to be in one piece. Down: this layer copies what the
//! session sends into the connection's buffer, and smoltcp writes each segment from there into an
//! mbuf that goes to the wire. So it is one copy each way beside smoltcp's own. A connection
//! allocates from the heap as it begins (two buffers, its layers), and nothing afterwards.
//!
//! **Bounds.** Connections ([`max_connections`](Tcp::max_connections)), those not yet open
//! ([`backlog`](Tcp::backlog)) and the buffers of each ([`buffers`](Tcp::buffers)). Beyond the
//! backlog the oldest half-open connection makes room, and so does one in TIME-WAIT beyond the
//! connections; where there is none, a SYN is dropped as [`DropReason::LIMIT`] and answered by a
//! reset. So is one to a port that nobody listens on, as [`DropReason::UNBOUND`]. A session's
//! layers are made when its peer has shown that it is there, not by a SYN. A session whose output waits is
//! given nothing to read, so that the window closes. A peer that is silent for too long is reset
//! ([`timeout`](Tcp::timeout)). Where there is no buffer, one packet waits for it and nothing more
//! is read or sent; it is tried again after ten milliseconds. A segment costs O(connections).

mod connection;
mod family;
mod layer;
#[cfg(test)]
mod tests;
mod wire;

pub use self::wire::Header;

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mbuf::{
    BuildError,
    stack::{DropReason, Protocol, StackStats, Time, Timer},
};
use smoltcp::iface::SocketHandle;

use self::{connection::Connection, family::Family};

/// A connection that the peer has reset, or to a peer that was silent for too long.
pub const RESET: DropReason = DropReason("reset");

/// The layers of a connection, lowest first.
type Layers = Vec<Box<dyn Protocol>>;
type Factory = Box<dyn FnMut() -> Layers + Send>;

/// TCP of a host.
pub struct Tcp {
    /// IPv4 and IPv6.
    families: [Family; 2],
    listeners: BTreeMap<u16, Factory>,
    /// To be begun when the layer is opened.
    calls: Vec<Call>,
    opening: Vec<Opening>,
    connections: Vec<Connection>,
    max_connections: usize,
    backlog: usize,
    buffer: usize,
    nagle: bool,
    timeout: Duration,
    /// Cannot be guessed.
    seeds: Box<dyn FnMut() -> u64 + Send>,
    alarm: Option<(Timer, Time)>,
    ending: bool,
    footprint: usize,
    /// Of connections that are over.
    gone: StackStats,
}

/// A connection to be begun here.
struct Call {
    local: SocketAddr,
    peer: SocketAddr,
    layers: Factory,
}

/// A connection that is not open yet.
struct Opening {
    family: usize,
    handle: SocketHandle,
    origin: Origin,
}

/// Who makes the layers.
enum Origin {
    Listener(u16),
    Call(Factory),
}

impl Tcp {
    /// TCP on these addresses, which are those of the IP layers below: up to 8 of each version;
    /// what is beyond them, or no address of a single host, is left out.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::{Echo, tcp::Tcp};
    ///
    /// let tcp = Tcp::new(&["192.0.2.1".parse()?]).listen(7, || vec![Box::new(Echo::new())]);
    /// assert_eq!(tcp.name(), "tcp");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(addresses: &[IpAddr]) -> Self {
        let (secret, mut n) = (RandomState::new(), 0_u64);
        let seeds = move || {
            n += 1;
            secret.hash_one(n)
        };
        Self {
            families: [false, true].map(|v6| Family::new(addresses, v6)),
            listeners: BTreeMap::new(),
            calls: Vec::new(),
            opening: Vec::new(),
            connections: Vec::new(),
            max_connections: 64,
            backlog: 16,
            buffer: 64 << 10,
            nagle: true,
            timeout: Duration::from_secs(120),
            seeds: Box::new(seeds),
            alarm: None,
            ending: false,
            footprint: 0,
            gone: StackStats::default(),
        }
    }

    /// Listens on a port (0 is none); the function makes the layers of each connection, lowest
    /// first.
    ///
    /// ```
    /// # use mbuf_protocols::tcp::Tcp;
    /// let tcp = Tcp::new(&[]).listen(7, || vec![Box::new(mbuf_protocols::Echo::new())]);
    /// assert!(format!("{tcp:?}").contains("ports: 1"));
    /// ```
    pub fn listen<F>(mut self, port: u16, layers: F) -> Self
    where
        F: FnMut() -> Vec<Box<dyn Protocol>> + Send + 'static,
    {
        if port != 0 {
            self.listeners.insert(port, Box::new(layers));
        }
        self
    }

    /// Connects from an address to another when the layer is opened. An unspecified local address
    /// is chosen, and so is port 0. The layers are made, and opened, when the peer has answered; if
    /// it resets instead, that segment is dropped as [`DropReason::REFUSED`]. A silent peer is given
    /// up after ten seconds.
    ///
    /// # Errors
    /// [`BuildError::Stack`] where the two cannot reach each other: different versions of IP, a
    /// peer without address or port, or a local address that is not one of this host.
    ///
    /// ```
    /// use mbuf_protocols::{Chargen, tcp::Tcp};
    ///
    /// let tcp = Tcp::new(&["192.0.2.1".parse()?]);
    /// let tcp = tcp.connect("0.0.0.0:0".parse()?, "192.0.2.2:9".parse()?, || {
    ///     vec![Box::new(Chargen::stream())]
    /// })?;
    /// let refused = tcp.connect("[::]:0".parse()?, "[2001:db8::2]:9".parse()?, Vec::new);
    /// assert!(refused.unwrap_err().to_string().contains("no address"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect<F>(
        mut self,
        local: SocketAddr,
        peer: SocketAddr,
        layers: F,
    ) -> Result<Self, BuildError>
    where
        F: FnMut() -> Vec<Box<dyn Protocol>> + Send + 'static,
    {
        let family = &self.families[usize::from(local.is_ipv6())];
        let ip = local.ip();
        let wrong = if local.is_ipv6() != peer.is_ipv6() {
            "of different versions of IP"
        } else if peer.ip().is_unspecified() || peer.ip().is_multicast() || peer.port() == 0 {
            "the peer is nobody"
        } else if !if ip.is_unspecified() { family.has_addresses() } else { family.has(ip) } {
            "the host has no address for it"
        } else {
            self.calls.push(Call { local, peer, layers: Box::new(layers) });
            return Ok(self);
        };
        Err(BuildError::Stack(format!("tcp from {local} to {peer}: {wrong}")))
    }

    /// At most so many connections, those in TIME-WAIT and those that are begun here among them
    /// (usual: 64). At the limit one in TIME-WAIT makes room for a new one, or else the oldest that is
    /// not open yet.
    ///
    /// ```
    /// # use mbuf_protocols::tcp::Tcp;
    /// let tcp = Tcp::new(&[]).max_connections(9);
    /// assert!(format!("{tcp:?}").contains("max_connections: 9"));
    /// ```
    pub fn max_connections(mut self, n: usize) -> Self {
        self.max_connections = n;
        self
    }

    /// At most so many connections that are not open yet (usual: 16).
    ///
    /// ```
    /// # use mbuf_protocols::tcp::Tcp;
    /// let tcp = Tcp::new(&[]).backlog(9);
    /// assert!(format!("{tcp:?}").contains("backlog: 9"));
    /// ```
    pub fn backlog(mut self, n: usize) -> Self {
        self.backlog = n;
        self
    }

    /// The size of a connection's two buffers, each (usual: 64 KiB; 1 KiB to 1 MiB).
    ///
    /// ```
    /// # use mbuf_protocols::tcp::Tcp;
    /// let tcp = Tcp::new(&[]).buffers(4096);
    /// assert!(format!("{tcp:?}").contains("buffer: 4096"));
    /// ```
    pub fn buffers(mut self, bytes: usize) -> Self {
        self.buffer = bytes.clamp(1 << 10, 1 << 20);
        self
    }

    /// The longest packet that the links take, IP header included: 1,500 unless told, at least 68,
    /// and 1,280 for IPv6. [`Signal::Mtu`](mbuf::stack::Signal::Mtu) changes it later, for
    /// connections that are open too.
    ///
    /// ```
    /// # use mbuf_protocols::tcp::Tcp;
    /// let tcp = Tcp::new(&[]).mtu(576);
    /// assert!(format!("{tcp:?}").contains("mtu: [576, 1280]"));
    /// ```
    pub fn mtu(mut self, bytes: usize) -> Self {
        self.set_mtu(bytes);
        self
    }

    fn set_mtu(&mut self, bytes: usize) {
        for (family, least) in self.families.iter_mut().zip([68, 1280]) {
            family.card.mtu = bytes.clamp(least, 65_535);
            family.renew((self.seeds)());
        }
    }

    /// Holds small pieces back while others are on their way (Nagle's algorithm; RFC 9293, 3.7.4),
    /// unless it is told not to.
    ///
    /// ```
    /// # use mbuf_protocols::tcp::Tcp;
    /// assert!(format!("{:?}", Tcp::new(&[]).nagle(false)).contains("nagle: false"));
    /// ```
    pub fn nagle(mut self, yes: bool) -> Self {
        self.nagle = yes;
        self
    }

    /// A peer that answers nothing for so long is reset (usual: 120 s). It is asked for a sign of
    /// life after a quarter of that.
    ///
    /// ```
    /// # use mbuf_protocols::tcp::Tcp;
    /// let tcp = Tcp::new(&[]).timeout(std::time::Duration::from_secs(9));
    /// assert!(format!("{tcp:?}").contains("timeout: 9s"));
    /// ```
    pub fn timeout(mut self, after: Duration) -> Self {
        self.timeout = after;
        self
    }

    /// Leaves the checksum to the device
    /// ([`Offload::CHECKSUM_PARTIAL`](mbuf::meta::Offload::CHECKSUM_PARTIAL)).
    ///
    /// ```
    /// # use mbuf_protocols::tcp::Tcp;
    /// assert!(format!("{:?}", Tcp::new(&[]).offload(true)).contains("offload: true"));
    /// ```
    pub fn offload(mut self, yes: bool) -> Self {
        self.families.iter_mut().for_each(|family| family.card.out.offload = yes);
        self
    }

    /// Seeds that are the same each time.
    #[cfg(test)]
    fn predictable(mut self) -> Self {
        self.seeds = Box::new(|| 7);
        self
    }
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcp")
            .field("ports", &self.listeners.len())
            .field("connections", &self.connections.len())
            .field("opening", &(self.calls.len() + self.opening.len()))
            .field("max_connections", &self.max_connections)
            .field("backlog", &self.backlog)
            .field("buffer", &self.buffer)
            .field("mtu", &self.families.each_ref().map(|family| family.card.mtu))
            .field("nagle", &self.nagle)
            .field("timeout", &self.timeout)
            .field("offload", &self.families[0].card.out.offload)
            .finish_non_exhaustive()
    }
}
