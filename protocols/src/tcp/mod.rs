//! TCP (RFC 9293) over our IP layers, by [smoltcp](https://docs.rs/smoltcp).
//!
//! Bound to [`Ipv4`](crate::net::Ipv4) and [`Ipv6`](crate::net::Ipv6) by protocol 6, IPv4 first;
//! with one edge below everything goes there. Each port that is listened on has a factory, which
//! makes the layers of a connection over bytes: a stack of its own, as in
//! [`Sessions`](mbuf::stack::Sessions).
//!
//! **Copies.** A segment is copied once on its way up, into one contiguous packet with a minimal IP
//! header in front, since smoltcp reads nothing else; smoltcp then copies its data into the
//! socket's buffer, and out of it into a chain. Down it is the same way back.
//!
//! **Bounds.** Connections ([`max_connections`](Tcp::max_connections)), those not yet open
//! ([`backlog`](Tcp::backlog)) and the buffers of each ([`buffers`](Tcp::buffers)). A SYN beyond
//! them is dropped as [`DropReason::LIMIT`] and answered by a reset, one to a port that nobody listens on as
//! [`DropReason::UNBOUND`]. A session whose output waits is given nothing to read, so that the
//! window closes. A peer that is silent for too long is reset ([`timeout`](Tcp::timeout)).

mod connection;
mod device;
mod layer;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mbuf::{
    Address, Chain,
    stack::{
        Context, DropReason, Edge, Held, LayerInfo, LayerStats, Outcome, Protocol, Signal, Stack,
        StackStats, Time, Timer,
    },
};
use smoltcp::{
    iface::{Config, Interface, SocketSet},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant,
    wire::{HardwareAddress, IpCidr, TcpPacket},
};

use self::{
    connection::Connection,
    device::Device,
    wire::{instant, packet, segment_of},
};
use crate::net::ipv4::{BAD_CHECKSUM, NO_ROUTE, TOO_BIG};

/// Makes the layers of a connection.
type Factory = Box<dyn FnMut() -> Vec<Box<dyn Protocol>> + Send>;

/// TCP of a host, as a server.
pub struct Tcp {
    interface: Interface,
    device: Device,
    sockets: SocketSet<'static>,
    listeners: BTreeMap<u16, Factory>,
    connections: Vec<Connection>,
    max_connections: usize,
    backlog: usize,
    buffer: usize,
    timeout: Duration,
    alarm: Option<(Timer, Time)>,
    ending: bool,
    gone: StackStats,
}

impl Tcp {
    /// TCP on these addresses, which are those of the IP layers below (8 at most; what is beyond
    /// them is left out), for links that carry 1500 bytes.
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
        let mut config = Config::new(HardwareAddress::Ip);
        // Initial sequence numbers must not be guessed.
        config.random_seed = RandomState::new().hash_one(0);
        let mut device = Device::new(1500);
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|list| {
            for &address in addresses {
                let prefix = if address.is_ipv4() { 32 } else { 128 };
                let _ = list.push(IpCidr::new(address.into(), prefix));
            }
        });
        Self {
            interface,
            device,
            sockets: SocketSet::new(Vec::new()),
            listeners: BTreeMap::new(),
            connections: Vec::new(),
            max_connections: 64,
            backlog: 16,
            buffer: 64 << 10,
            timeout: Duration::from_secs(120),
            alarm: None,
            ending: false,
            gone: StackStats::default(),
        }
    }

    /// Listens on a port; the factory makes the layers of each connection, lowest first.
    ///
    /// ```
    /// # use mbuf_protocols::tcp::Tcp;
    /// let tcp = Tcp::new(&[]).listen(7, || vec![Box::new(mbuf_protocols::Echo::new())]);
    /// assert!(format!("{tcp:?}").contains("ports: 1"));
    /// ```
    pub fn listen<F>(mut self, port: u16, factory: F) -> Self
    where
        F: FnMut() -> Vec<Box<dyn Protocol>> + Send + 'static,
    {
        if port != 0 {
            self.listeners.insert(port, Box::new(factory));
        }
        self
    }

    /// At most so many connections, those in TIME-WAIT among them (usual: 64).
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

    /// The size of a connection's two buffers, each (usual: 64 KiB).
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

    /// A peer that answers nothing for so long is reset (usual: 120 s).
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

    /// Gives one segment to smoltcp; why it is dropped, if it is.
    fn segment(&mut self, chain: &Chain, cx: &mut Context<'_>) -> Result<(), DropReason> {
        let (Address::Ip(from), Address::Ip(to)) =
            (chain.meta().source(), chain.meta().destination())
        else {
            return Err(NO_ROUTE);
        };
        let (packet, header) = packet(chain, from.ip(), to.ip())?;
        let (source, local) = (from.ip().into(), to.ip().into());
        let Ok(tcp) = TcpPacket::new_checked(&packet[header..]) else {
            return Err(DropReason::MALFORMED);
        };
        if tcp.src_port() == 0 || tcp.dst_port() == 0 {
            return Err(DropReason::MALFORMED);
        }
        let partial = mbuf::meta::Offload::CHECKSUM_PARTIAL;
        let known =
            chain.meta().offload().intersects(partial | mbuf::meta::Offload::CHECKSUM_VERIFIED);
        if !known && !tcp.verify_checksum(&source, &local) {
            return Err(BAD_CHECKSUM);
        }
        if self.ending {
            return Err(DropReason::CLOSED);
        }
        let (peer, port) = (SocketAddr::new(from.ip(), tcp.src_port()), tcp.dst_port());
        let begins = tcp.syn() && !tcp.ack() && !tcp.rst();
        let mut refused = Ok(());
        if begins && !self.is_known(peer, to.ip(), port) {
            refused = self.admit(to.ip(), port, cx);
        }
        self.device.incoming = Some(packet);
        self.interface.poll_ingress_single(instant(cx), &mut self.device, &mut self.sockets);
        // A SYN that smoltcp did not like leaves no socket behind.
        self.forget(|socket| socket.state() == State::Listen);
        refused
    }

    fn is_known(&self, peer: SocketAddr, local: IpAddr, port: u16) -> bool {
        self.connections.iter().any(|connection| {
            let socket = self.sockets.get::<Socket<'_>>(connection.handle);
            socket.remote_endpoint() == Some(peer.into())
                && socket.local_endpoint() == Some(SocketAddr::new(local, port).into())
        })
    }

    /// Makes room for the connection that a SYN begins.
    fn admit(&mut self, to: IpAddr, port: u16, cx: &mut Context<'_>) -> Result<(), DropReason> {
        let Some(factory) = self.listeners.get_mut(&port) else {
            return Err(DropReason::UNBOUND);
        };
        let state = |c: &&Connection| self.sockets.get::<Socket<'_>>(c.handle).state();
        let half_open = self.connections.iter().filter(|c| state(c) == State::SynReceived).count();
        if self.connections.len() >= self.max_connections || half_open >= self.backlog {
            return Err(DropReason::LIMIT);
        }
        let Ok(mut stack) = Stack::pile(cx.pool(), Edge::Bytes, factory()) else {
            return Err(DropReason::REFUSED);
        };
        let waker = cx.waker();
        stack.on_wake(move || waker.wake());
        let buffer = || SocketBuffer::new(vec![0; self.buffer]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_timeout(Some(self.timeout.into()));
        socket.set_keep_alive(Some((self.timeout / 4).into()));
        if socket.listen(SocketAddr::new(to, port)).is_err() {
            return Err(DropReason::REFUSED);
        }
        let handle = self.sockets.add(socket);
        self.connections.push(Connection::new(handle, stack));
        Ok(())
    }

    /// Takes out the connections of which this holds.
    fn forget(&mut self, which: impl Fn(&Socket<'_>) -> bool) {
        let (sockets, gone) = (&mut self.sockets, &mut self.gone);
        self.connections.retain(|connection| {
            if !which(sockets.get::<Socket<'_>>(connection.handle)) {
                return true;
            }
            sockets.remove(connection.handle);
            let mut stats = connection.stack.stats();
            for layer in &mut stats.layers {
                if layer.held.chains > 0 {
                    layer.drops.push((DropReason::CLOSED, layer.held.chains as u64));
                }
                layer.held = Held::default();
            }
            gone.merge(&stats);
            false
        });
    }

    /// Sends what smoltcp has for the wire, as far as there is credit; whether that was all.
    fn transmit(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..64 {
            self.flush(cx);
            let credit = (0..cx.lower_edges()).map(|edge| cx.credit_edge(edge)).min();
            self.device.set_credit(credit.unwrap_or(0));
            if self.device.room == 0 {
                return false;
            }
            self.interface.poll_egress(instant(cx), &mut self.device, &mut self.sockets);
            if self.device.outgoing.is_empty() {
                return true;
            }
        }
        self.flush(cx);
        false
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        while let Some(packet) = self.device.outgoing.pop_front() {
            // What is lost for want of a buffer is sent again, as if the link had lost it.
            let Some((chain, is_v4)) = segment_of(&packet, cx) else { continue };
            cx.made(1);
            let edge = if is_v4 { 0 } else { cx.lower_edges().saturating_sub(1) };
            let outcome = cx.down_edge(edge, chain);
            cx.apply(outcome);
        }
    }

    /// What every entry ends with.
    fn go_on(&mut self, cx: &mut Context<'_>) {
        let serve = |connection: &mut Connection, sockets: &mut SocketSet<'_>| {
            connection.serve(sockets.get_mut::<Socket<'_>>(connection.handle), cx.now());
        };
        self.connections.iter_mut().for_each(|one| serve(one, &mut self.sockets));
        let all = self.transmit(cx);
        if all {
            self.forget(|socket| socket.state() == State::Closed);
        }
        if !all || self.connections.iter().any(|connection| connection.unfinished) {
            cx.wait();
        }
        let delay = self.interface.poll_delay(instant(cx), &self.sockets);
        // What may be sent at once, but was not, comes with the credit.
        let delay =
            delay.map(|delay| cx.now() + Duration::from(delay).max(Duration::from_millis(1)));
        let inner = self.connections.iter().filter_map(|one| one.stack.next_timeout()).min();
        let next = [delay, inner].into_iter().flatten().min();
        if self.alarm.map(|(_, at)| at) != next {
            if let Some((timer, _)) = self.alarm.take() {
                cx.cancel(timer);
            }
            self.alarm = next.and_then(|at| Some((cx.arm(at.since(cx.now()))?, at)));
        }
    }

    /// Resets all connections.
    fn shut_down(&mut self, cx: &mut Context<'_>) {
        self.ending = true;
        for connection in &mut self.connections {
            connection.stack.set_now(cx.now());
            connection.stack.signal(Signal::Shutdown);
            let socket = self.sockets.get_mut::<Socket<'_>>(connection.handle);
            connection.drain(socket);
        }
        self.transmit(cx);
        self.sockets.iter_mut().for_each(|(_, socket)| {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            socket.abort();
        });
        self.transmit(cx);
        self.forget(|_| true);
        if let Some((timer, _)) = self.alarm.take() {
            cx.cancel(timer);
        }
    }
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcp")
            .field("connections", &self.connections.len())
            .field("max_connections", &self.max_connections)
            .field("backlog", &self.backlog)
            .field("buffer", &self.buffer)
            .field("timeout", &self.timeout)
            .field("ports", &self.listeners.len())
            .finish_non_exhaustive()
    }
}
