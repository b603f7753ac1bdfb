//! Datagrams over UDP and Unix sockets.
//!
//! **Receiving** is one recvmmsg(2) for up to 32 messages, into 64 KiB clusters that stay posted from
//! call to call until they are filled or [`Datagram::release`]d. With UDP GRO a message may be many
//! datagrams of one sender, of one size; it is split where they meet, without copying. A datagram
//! that came alone and fits in a 2 KiB cluster is copied into one, so that it does not pin 64 KiB on
//! its way (network drivers call this the copy break).
//!
//! **Sending** is one sendmmsg(2) for up to 32 messages, gathered straight from the chains. A run of
//! datagrams of one size, to one peer and from one address, is one message that the kernel cuts
//! (UDP GSO). Where the kernel refuses such a message, its datagrams are sent again one by one, and
//! if that works no more runs of that size go to that host.
//!
//! **Addresses** are in the metadata: [`Meta::source`](crate::Meta::source) is the peer of what was
//! received, and [`Meta::destination`](crate::Meta::destination) the local address that it came to,
//! also where the socket is bound to the wildcard (IP_PKTINFO). So a reply swaps them, and leaves
//! from where the request came to. A Unix peer is an entry in the socket's bounded table.
//!
//! **Errors** that concern one datagram drop that one, by a reason that is counted in
//! [`DatagramStats::dropped`] and in the pool's statistics, and the next one is sent.

use std::{
    fmt, io,
    net::{self, IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix,
    },
    path::Path,
    time::Duration,
};

use mio::{Interest, Registry, Token, event, unix::SourceFd};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    io::{Received, Sent, Sink, Source, error::rename, sys},
    meta::Address,
    pool::Receiver,
    queue::{Batch, Queue},
};

mod peers;
mod receive;
mod refusals;
mod reported;
mod send;
mod stats;

use peers::Peers;
use receive::Receiving;
pub use reported::Reported;
use send::{Sending, Target};
pub use stats::{DatagramStats, Dropped};

/// Entries of the error queue that are taken at a time.
const MAX_ERRORS: usize = 1_024;

/// How a datagram socket is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatagramOptions {
    /// Let the kernel join the datagrams of one sender (UDP_GRO). On by default. What it has joined
    /// is received whole or not at all, so this is for pools that have clusters of 64 KiB to lend:
    /// of others, a run that is longer than the pool is dropped as `receive_too_long`.
    pub gro: bool,
    /// Send runs of equal datagrams as one message (UDP_SEGMENT). On by default.
    pub gso: bool,
    /// The receive buffer in bytes (SO_RCVBUF); the system's default if `None`.
    pub recv_buffer: Option<usize>,
    /// The send buffer in bytes (SO_SNDBUF); the system's default if `None`.
    pub send_buffer: Option<usize>,
    /// Whether several sockets may share the address (SO_REUSEPORT). Off by default.
    pub reuse_port: bool,
    /// How long the kernel polls the device when there is nothing (SO_BUSY_POLL); not at all if
    /// `None`. More than the system's default needs CAP_NET_ADMIN.
    pub busy_poll: Option<Duration>,
    /// Let the kernel tell what the network reports of sent datagrams to a socket that is not
    /// connected as well (IP_RECVERR), for [`DatagramStats::reported`]. Off by default: a server's
    /// clients that are gone would cost it two calls each. A connected socket is told anyway.
    pub reports: bool,
    /// How many peers of a Unix socket are remembered. 1,024 by default, about 300 bytes each.
    pub peers: usize,
}

impl Default for DatagramOptions {
    fn default() -> Self {
        Self {
            gro: true,
            gso: true,
            recv_buffer: None,
            send_buffer: None,
            reuse_port: false,
            busy_poll: None,
            reports: false,
            peers: 1024,
        }
    }
}

/// A datagram socket: UDP or Unix, non-blocking.
///
/// ```
/// use mbuf::{
///     Batch, Pool, Queue,
///     io::{Datagram, DatagramOptions, Received, Sent, Sink, Source},
/// };
///
/// let mut server = Datagram::bind("127.0.0.1:0".parse()?, &DatagramOptions::default())?;
/// let client = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"hello", server.local_addr().unwrap())?;
///
/// let pool = Pool::with_memory(16 << 20)?;
/// let mut batch = Batch::new();
/// assert_eq!(server.recv(&pool.receiver(), &mut batch)?, Received::Chains(1));
///
/// let mut reply = batch.pop().unwrap();
/// reply.meta_mut().swap_addresses();
/// let mut queue = Queue::new(16, 1 << 20);
/// queue.push(reply).map_err(mbuf::Error::from)?;
/// assert_eq!(server.send(&mut queue)?, Sent::All);
/// let mut bytes = [0; 10];
/// assert_eq!(client.recv(&mut bytes)?, 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Datagram {
    socket: Socket,
    shared: Shared,
    receiving: Receiving,
    sending: Sending,
}

/// What both directions of a socket need.
#[derive(Debug)]
struct Shared {
    kind: Kind,
    /// What the socket is called in errors: its local address or path.
    name: Box<str>,
    /// Whether errors that are reported are in the error queue as well (IP_RECVERR).
    error_queue: bool,
    stats: DatagramStats,
}

impl Shared {
    /// Counts an error that was reported, or, where there is an error queue, empties that and counts
    /// what is in it: it takes room from the receive buffer.
    fn report(&mut self, fd: BorrowedFd<'_>, errno: sys::Errno) {
        if !self.error_queue {
            return self.stats.reported.add(errno);
        }
        // As many as a receive buffer may hold, and no more while others arrive.
        for _ in 0..MAX_ERRORS {
            match sys::take_error(fd) {
                Ok(Some(errno)) => self.stats.reported.add(errno),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }
}

/// The family of a socket, and what it needs to know of it.
#[derive(Debug)]
enum Kind {
    /// UDP.
    Udp {
        /// Where the socket is bound; its IP address may be the wildcard.
        local: SocketAddr,
        /// Whether it speaks to one peer only.
        connected: bool,
    },
    /// Unix.
    Unix {
        /// The peers that were heard of.
        peers: Peers,
        /// Whether it speaks to one peer only.
        connected: bool,
    },
}

impl Datagram {
    /// A UDP socket bound to `local`.
    ///
    /// # Errors
    /// What the system says, as `bind udp ADDRESS: EADDRINUSE ...`.
    ///
    /// ```
    /// use mbuf::io::{Datagram, DatagramOptions, errno};
    ///
    /// let socket = Datagram::bind("127.0.0.1:0".parse()?, &DatagramOptions::default())?;
    /// let address = socket.local_addr().unwrap();
    /// assert_ne!(address.port(), 0);
    /// let error = Datagram::bind(address, &DatagramOptions::default()).unwrap_err();
    /// assert_eq!(errno(&error), Some(libc::EADDRINUSE));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bind(local: SocketAddr, options: &DatagramOptions) -> io::Result<Self> {
        let bind = || {
            let socket = udp(local)?;
            if options.reuse_port {
                socket.set_reuse_port(true)?;
            }
            socket.bind(&local.into())?;
            Ok(socket)
        };
        let socket = bind().map_err(|error| rename("bind", format_args!("udp {local}"), error))?;
        Self::over_udp(socket, false, options)
    }

    /// A UDP socket that speaks to `peer` only. What it sends goes there whatever the chain's
    /// metadata says.
    ///
    /// # Errors
    /// What the system says, as `connect udp ADDRESS: ...`.
    ///
    /// ```
    /// use mbuf::io::{Datagram, DatagramOptions};
    ///
    /// let peer = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    /// let socket = Datagram::connect(peer, &DatagramOptions::default())?;
    /// assert_eq!(socket.peer_addr(), Some(peer));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect(peer: SocketAddr, options: &DatagramOptions) -> io::Result<Self> {
        let connect = || {
            let socket = udp(peer)?;
            socket.connect(&peer.into())?;
            Ok(socket)
        };
        let socket =
            connect().map_err(|error| rename("connect", format_args!("udp {peer}"), error))?;
        Self::over_udp(socket, true, options)
    }

    /// A Unix socket bound to `path`, which must not exist. It is not removed when the socket is
    /// closed.
    ///
    /// # Errors
    /// What the system says, as `bind unix PATH: ...`.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use mbuf::io::{Datagram, DatagramOptions};
    ///
    /// let path = Path::new("/nowhere/at all");
    /// let error = Datagram::bind_unix(path, &DatagramOptions::default()).unwrap_err();
    /// assert!(error.to_string().contains("/nowhere/at all"));
    /// ```
    pub fn bind_unix(path: &Path, options: &DatagramOptions) -> io::Result<Self> {
        let bind = || {
            let socket = Socket::new(Domain::UNIX, Type::DGRAM.nonblocking(), None)?;
            socket.bind(&sys::unix_address(path)?)?;
            Ok(socket)
        };
        let object = format_args!("unix {}", path.display());
        let socket = bind().map_err(|error| rename("bind", object, error))?;
        Self::over_unix(socket, false, options)
    }

    /// A Unix socket with an automatic abstract name (so that the peer can answer) that speaks to
    /// the socket at `peer` only.
    ///
    /// # Errors
    /// What the system says, as `connect unix PATH: ...`.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use mbuf::io::{Datagram, DatagramOptions, errno};
    ///
    /// let path = Path::new("/nowhere/at all");
    /// let error = Datagram::connect_unix(path, &DatagramOptions::default()).unwrap_err();
    /// assert_eq!(errno(&error), Some(libc::ENOENT));
    /// ```
    pub fn connect_unix(peer: &Path, options: &DatagramOptions) -> io::Result<Self> {
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::DGRAM.nonblocking(), None)?;
            sys::autobind(socket.as_fd())?;
            socket.connect(&sys::unix_address(peer)?)?;
            Ok(socket)
        };
        let object = format_args!("unix {}", peer.display());
        let socket = connect().map_err(|error| rename("connect", object, error))?;
        Self::over_unix(socket, true, options)
    }

    /// Over a UDP socket of the standard library, bound and perhaps connected, which is made
    /// non-blocking. `reuse_port` comes too late here, and is ignored.
    ///
    /// # Errors
    /// If the system refuses an option.
    ///
    /// ```
    /// use mbuf::io::{Datagram, DatagramOptions};
    ///
    /// let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// let address = socket.local_addr()?;
    /// let socket = Datagram::from_std(socket, &DatagramOptions::default())?;
    /// assert_eq!(socket.local_addr(), Some(address));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_std(socket: net::UdpSocket, options: &DatagramOptions) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let connected = socket.peer_addr().is_ok();
        Self::over_udp(socket.into(), connected, options)
    }

    /// Over a Unix socket of the standard library, which is made non-blocking.
    ///
    /// # Errors
    /// If the system refuses an option.
    ///
    /// ```
    /// use mbuf::{Batch, Pool, io::{Datagram, DatagramOptions, Received, Source}};
    ///
    /// let (here, there) = std::os::unix::net::UnixDatagram::pair()?;
    /// let mut socket = Datagram::from_std_unix(here, &DatagramOptions::default())?;
    /// there.send(b"hello")?;
    /// let pool = Pool::with_memory(16 << 20)?;
    /// let mut batch = Batch::new();
    /// assert_eq!(socket.recv(&pool.receiver(), &mut batch)?, Received::Chains(1));
    /// assert_eq!(batch.pop().unwrap().to_vec()?, b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_std_unix(
        socket: unix::net::UnixDatagram,
        options: &DatagramOptions,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let connected = socket.peer_addr().is_ok();
        Self::over_unix(socket.into(), connected, options)
    }

    fn over_udp(socket: Socket, connected: bool, options: &DatagramOptions) -> io::Result<Self> {
        let local = socket.local_addr()?.as_socket().unwrap_or_else(wildcard);
        let name = local.to_string();
        let fd = socket.as_fd();
        let set_up = || {
            set_buffers(&socket, options)?;
            if local.ip().is_unspecified() {
                let (level, name) = match local {
                    SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
                    // Also tells the local address of what comes over IPv4, in its mapped form.
                    SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
                };
                sys::set_option(fd, level, name, 1)?;
            }
            if options.reports {
                sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
                if local.is_ipv6() {
                    sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
                }
            }
            Ok(())
        };
        set_up().map_err(|error| rename("setsockopt for", &name, error))?;
        // Kernels before 5.0 and 4.18 know neither: then datagrams come and go singly.
        let gro = options.gro && sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        let gso = options.gso && sys::option(fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
        if gro != options.gro || gso != options.gso {
            tracing::info!(socket = name, gro, gso, "UDP offloads that this kernel lacks are off");
        }
        let kind = Kind::Udp { local, connected };
        let mut socket = Self::new(socket, kind, name, gso);
        socket.shared.error_queue = options.reports;
        Ok(socket)
    }

    fn over_unix(socket: Socket, connected: bool, options: &DatagramOptions) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let name = match local.as_pathname() {
            Some(path) => path.display().to_string(),
            None => format!("descriptor {}", socket.as_raw_fd()),
        };
        set_buffers(&socket, options).map_err(|error| rename("setsockopt for", &name, error))?;
        let kind = Kind::Unix { peers: Peers::new(options.peers), connected };
        Ok(Self::new(socket, kind, name, false))
    }

    fn new(socket: Socket, kind: Kind, name: String, gso: bool) -> Self {
        let stats = DatagramStats::default();
        Self {
            socket,
            shared: Shared { kind, name: name.into(), error_queue: false, stats },
            receiving: Receiving::new(),
            sending: Sending::new(gso),
        }
    }

    /// The local address; `None` for a Unix socket.
    ///
    /// ```
    /// use mbuf::io::{Datagram, DatagramOptions};
    ///
    /// let socket = Datagram::bind("127.0.0.1:0".parse()?, &DatagramOptions::default())?;
    /// assert!(socket.local_addr().is_some_and(|address| address.ip().is_loopback()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self.shared.kind {
            Kind::Udp { local, .. } => Some(local),
            Kind::Unix { .. } => None,
        }
    }

    /// The peer, if the socket is connected to one; `None` for a Unix socket.
    ///
    /// ```
    /// use mbuf::io::{Datagram, DatagramOptions};
    ///
    /// let socket = Datagram::bind("127.0.0.1:0".parse()?, &DatagramOptions::default())?;
    /// assert_eq!(socket.peer_addr(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()?.as_socket()
    }

    /// Gives the buffers that are posted for the next receive back to the pool. To be called when
    /// the socket goes idle; the next receive posts few at first.
    ///
    /// ```
    /// use mbuf::{Batch, Pool, io::{Datagram, DatagramOptions, Source}};
    ///
    /// let mut socket = Datagram::bind("127.0.0.1:0".parse()?, &DatagramOptions::default())?;
    /// let pool = Pool::with_memory(16 << 20)?;
    /// socket.recv(&pool.receiver(), &mut Batch::new())?; // nothing is there
    /// socket.release();
    /// assert_eq!((socket.posted(), pool.stats().in_use()), (0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn release(&mut self) {
        self.receiving.release();
    }

    /// Whether the last receive brought fewer messages than it could have: then nothing more was
    /// there at the time, and a caller that is edge-triggered need not receive again before the
    /// next event.
    ///
    /// ```
    /// use mbuf::{Batch, Pool, io::{Datagram, DatagramOptions, Source}};
    ///
    /// let mut socket = Datagram::bind("127.0.0.1:0".parse()?, &DatagramOptions::default())?;
    /// let peer = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// peer.send_to(b"alone", socket.local_addr().unwrap())?;
    /// let pool = Pool::with_memory(16 << 20)?;
    /// let receiver = pool.receiver();
    /// let mut batch = Batch::new();
    /// while !socket.is_drained() {
    ///     socket.recv(&receiver, &mut batch)?;
    /// }
    /// assert_eq!(batch.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_drained(&self) -> bool {
        self.receiving.is_drained()
    }

    /// Buffers of 64 KiB that are posted for the next receive.
    ///
    /// ```
    /// use mbuf::io::{Datagram, DatagramOptions};
    ///
    /// let socket = Datagram::bind("127.0.0.1:0".parse()?, &DatagramOptions::default())?;
    /// assert_eq!(socket.posted(), 0); // before the first receive
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn posted(&self) -> usize {
        self.receiving.posted()
    }

    /// What it has done so far. A system call for a UDP socket, whose own count of what it had no room
    /// for is asked for.
    ///
    /// ```
    /// use mbuf::{Batch, Pool, io::{Datagram, DatagramOptions, Source}};
    ///
    /// let mut socket = Datagram::bind("127.0.0.1:0".parse()?, &DatagramOptions::default())?;
    /// let peer = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// peer.send_to(b"hello", socket.local_addr().unwrap())?;
    /// let pool = Pool::with_memory(16 << 20)?;
    /// socket.recv(&pool.receiver(), &mut Batch::new())?;
    /// assert_eq!(socket.stats().received, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> DatagramStats {
        let mut stats = self.shared.stats;
        if matches!(self.shared.kind, Kind::Udp { .. }) {
            stats.overflowed = sys::overflowed(self.socket.as_fd()).unwrap_or(0).into();
        }
        stats
    }
}

impl fmt::Display for Datagram {
    /// The local address or path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shared.name)
    }
}

impl Source for Datagram {
    /// One recvmmsg(2), or more while nothing useful comes. Never says `Closed`.
    fn recv(&mut self, receiver: &Receiver, batch: &mut Batch) -> io::Result<Received> {
        self.receiving.recv(self.socket.as_fd(), &mut self.shared, receiver, batch)
    }
}

impl Sink for Datagram {
    /// Sends until the queue is empty or the socket full. Each chain is one datagram, to its
    /// metadata's destination (or the peer of a connected socket), from its metadata's source where
    /// that is an address of this socket.
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent> {
        self.sending.send(self.socket.as_fd(), &mut self.shared, queue)
    }

    fn is_starved(&self) -> bool {
        self.sending.is_starved()
    }
}

impl event::Source for Datagram {
    fn register(&mut self, registry: &Registry, token: Token, what: Interest) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).register(registry, token, what)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, what: Interest) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).reregister(registry, token, what)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).deregister(registry)
    }
}

impl AsFd for Datagram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Kind {
    /// The local address that a datagram came to.
    fn local(&self, arrival: &sys::Arrival) -> Address {
        let Kind::Udp { local, .. } = self else { return Address::None };
        let Some((ip, index)) = arrival.local else { return Address::Ip(*local) };
        Address::Ip(match ip {
            IpAddr::V4(_) => SocketAddr::new(ip, local.port()),
            IpAddr::V6(v6) => {
                let scope = if v6.is_unicast_link_local() { index } else { 0 };
                SocketAddr::V6(SocketAddrV6::new(v6, local.port(), 0, scope))
            }
        })
    }

    /// Where a datagram with these addresses is to go; `Err` is the reason why it cannot.
    fn target(&mut self, source: Address, destination: Address) -> Target {
        match self {
            Kind::Udp { local, connected } => {
                let from = specific(*local, source);
                match destination {
                    _ if *connected => Target::Udp { to: None, from },
                    Address::Ip(to) if to.port() != 0 => match in_family(*local, to) {
                        Some(to) => Target::Udp { to: Some(to), from },
                        None => Target::Nowhere,
                    },
                    _ => Target::Nowhere,
                }
            }
            Kind::Unix { connected: true, .. } => Target::Connected,
            Kind::Unix { peers, .. } => match destination {
                Address::Peer { index, generation } => match peers.name(index, generation) {
                    Some(name) => Target::Unix(*name),
                    None => Target::Gone,
                },
                _ => Target::Nowhere,
            },
        }
    }
}

/// The address to send from: where the socket is bound to the wildcard, and `source` is its port at
/// an address that is one (not the wildcard, not a group).
fn specific(local: SocketAddr, source: Address) -> Option<(IpAddr, u32)> {
    let Address::Ip(source) = source else { return None };
    let source = in_family(local, source)?;
    let ip = source.ip();
    let usable = local.ip().is_unspecified()
        && source.port() == local.port()
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && ip != IpAddr::V4(Ipv4Addr::BROADCAST);
    let scope = match source {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    };
    usable.then_some((ip, scope))
}

/// The address as a socket bound to `local` can use it: an IPv4 address on an IPv6 socket in its
/// mapped form (ipv6(7)).
fn in_family(local: SocketAddr, address: SocketAddr) -> Option<SocketAddr> {
    match (local, address) {
        (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
            let ip = v4.ip().to_ipv6_mapped();
            Some(SocketAddr::V6(SocketAddrV6::new(ip, v4.port(), 0, 0)))
        }
        (SocketAddr::V4(_), SocketAddr::V6(_)) => None,
        _ => Some(address),
    }
}

fn udp(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))
}

fn wildcard() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
}

fn set_buffers(socket: &Socket, options: &DatagramOptions) -> io::Result<()> {
    if let Some(bytes) = options.recv_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(time) = options.busy_poll {
        let micros = i32::try_from(time.as_micros()).unwrap_or(i32::MAX);
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BUSY_POLL, micros)?;
    }
    Ok(())
}
