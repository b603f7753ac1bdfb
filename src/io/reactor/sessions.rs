//! The sessions of a reactor: how they begin and end, and how the program reaches them.

use std::{io, net::SocketAddr, path::Path};

use mio::Token;

use super::{
    CloseReason, Closed, Endpoint, KIND_BITS, MAX_SESSIONS, PORT_BITS, Port, Reactor, SESSION,
    SessionId, session::Session,
};
use crate::{
    io::{Datagram, DatagramOptions, Stream},
    pool::Class,
    stack::Stack,
};

impl Reactor {
    /// Binds a UDP socket with the usual options (without UDP_GRO where the pool has no clusters of
    /// 64 KiB to lend for it) to `address` (port 0: any), attaches it below the stack's port 0, and
    /// answers where it is bound.
    ///
    /// # Errors
    /// The system's, with the address.
    pub fn listen_udp(&mut self, address: SocketAddr, stack: Stack) -> io::Result<SocketAddr> {
        let gro = self.drive.receiver.lendable(Class::K64) > 0;
        let options = DatagramOptions { gro, ..DatagramOptions::default() };
        let socket = Datagram::bind(address, &options)?;
        let local = socket.local_addr().unwrap_or(address);
        self.datagram(socket, stack)?;
        Ok(local)
    }

    /// Attaches a datagram socket below the stack's port 0, for good; as [`Reactor::attach`].
    ///
    /// # Errors
    /// As [`Reactor::attach`].
    pub fn datagram(&mut self, socket: Datagram, stack: Stack) -> io::Result<SessionId> {
        self.attach(stack, vec![Box::new(socket)])
    }

    /// Attaches ports, in the order of the stack's, for good: the session does not count as a
    /// connection, and has no idle limit and no quota of storage.
    ///
    /// # Errors
    /// The system's, if a port cannot be watched; [`io::ErrorKind::InvalidInput`] if the stack has
    /// not as many ports.
    pub fn attach(&mut self, stack: Stack, ports: Vec<Box<dyn Port>>) -> io::Result<SessionId> {
        let mut session = Session::new(stack, ports, Endpoint::Other, true);
        session.fixture = true;
        self.add_session(session)
    }

    /// Begins to connect to `peer` over TCP. The stack is opened ([`Signal::Opened`](crate::stack::Signal::Opened)) when the
    /// connection is there; if it cannot be made, the session ends with the error's name.
    ///
    /// # Errors
    /// What the system refuses at once; [`io::ErrorKind::QuotaExceeded`] over the limit of
    /// connections.
    pub fn connect_tcp(&mut self, peer: SocketAddr, stack: Stack) -> io::Result<SessionId> {
        self.check_limit()?;
        let stream = Stream::connect_tcp(peer)?;
        self.connection(stream, stack, Endpoint::Ip(peer), false)
    }

    /// Connects to the Unix socket at `path`.
    ///
    /// # Errors
    /// The system's, at once: also EAGAIN where the listener's backlog is full (Linux does not
    /// wait for it); [`io::ErrorKind::QuotaExceeded`] over the limit of connections.
    pub fn connect_unix(&mut self, path: impl AsRef<Path>, stack: Stack) -> io::Result<SessionId> {
        self.check_limit()?;
        let path = path.as_ref();
        let stream = Stream::connect_unix(path)?;
        self.connection(stream, stack, Endpoint::Unix(Some(path.to_path_buf())), false)
    }

    /// Takes a stream that is connected already (a socket pair, one inherited).
    ///
    /// # Errors
    /// The system's, if it cannot be watched; [`io::ErrorKind::QuotaExceeded`] over the limit of
    /// connections.
    pub fn stream(&mut self, stream: Stream, stack: Stack) -> io::Result<SessionId> {
        self.check_limit()?;
        let peer = stream.peer_addr().map_or(Endpoint::Unix(None), Endpoint::Ip);
        self.connection(stream, stack, peer, true)
    }

    /// Sessions that are open, those that connect or linger included.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is nothing to drive: no session, and no listener to bring one.
    pub fn is_idle(&self) -> bool {
        self.sessions.len() == 0 && self.listeners.is_empty()
    }

    /// The stack of a session, if it has not ended.
    pub fn stack(&self, id: SessionId) -> Option<&Stack> {
        self.sessions.get(id).map(|session| &session.stack)
    }

    /// The stack of a session, if it has not ended, to be handed something; the next turn serves
    /// the session.
    pub fn stack_mut(&mut self, id: SessionId) -> Option<&mut Stack> {
        let now = self.tick();
        self.sessions.get(id)?;
        self.enqueue(id.index);
        let session = self.sessions.get_mut(id)?;
        session.stack.set_now(now);
        Some(&mut session.stack)
    }

    /// Has a session closed as soon as it has sent what its stack has to send. Whether there was
    /// such a session.
    pub fn close(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if session.finish() {
            self.enqueue(id.index);
        } else {
            self.end(id.index, CloseReason::CLOSED);
        }
        true
    }

    pub(super) fn enqueue(&mut self, index: u32) {
        if let Some(session) = self.sessions.at(index)
            && !session.queued
        {
            session.queued = true;
            self.ready.push_back(index);
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.sessions.len() - self.fixtures
    }

    pub(super) fn check_limit(&self) -> io::Result<()> {
        let (open, limit) = (self.connections(), self.drive.limits.max_connections);
        if open < limit && self.stopping.is_none() {
            return Ok(());
        }
        let text = match self.stopping {
            None => format!("connect: {open} connections are open and {limit} allowed"),
            Some(_) => "connect: the reactor is shutting down".to_owned(),
        };
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, text))
    }

    pub(super) fn connection(
        &mut self,
        stream: Stream,
        stack: Stack,
        peer: Endpoint,
        connected: bool,
    ) -> io::Result<SessionId> {
        // Layers write whole messages, and many in one call; nothing is gained by delaying them.
        let _ = stream.set_nodelay(true);
        let session = Session::new(stack, vec![Box::new(stream)], peer, connected);
        let id = self.add_session(session)?;
        self.drive.counters.connected += 1;
        Ok(id)
    }

    pub(super) fn add_session(&mut self, mut session: Session) -> io::Result<SessionId> {
        let id = self.sessions.next_id();
        if id.index >= MAX_SESSIONS {
            let text = format!("a reactor has room for {MAX_SESSIONS} sessions");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        session.check_ports()?;
        let now = self.tick();
        let handle = self.handle.clone();
        session.stack.on_wake(move || handle.wake_session(id));
        session.begin(now, &self.drive.registry, |port| token(id.index, port))?;
        self.fixtures += usize::from(session.fixture);
        self.sessions.insert(session);
        self.enqueue(id.index);
        Ok(id)
    }

    /// Takes a session out, counts its end, and tells who wants to know.
    pub(super) fn end(&mut self, index: u32, reason: CloseReason) {
        let id = self.sessions.id(index);
        let Some(mut session) = self.sessions.remove(index) else { return };
        self.deadlines.set(index, None);
        self.fixtures -= usize::from(session.fixture);
        let peer = std::mem::replace(&mut session.peer, Endpoint::Other);
        session.count_ports(&mut self.drive.counters.ports);
        let error = session.error.take();
        let stack = session.end(reason, &self.drive.registry);
        let stats = stack.stats();
        drop(stack);
        self.drive.freed = true;
        self.drive.counters.closed.add(reason.0, 1);
        self.drive.counters.add_drops(&stats);
        self.ended.merge(&stats);
        for listener in &mut self.listeners {
            listener.retry_at = None;
        }
        tracing::debug!(%peer, %reason, "closed");
        if let Some(tell) = &mut self.on_close {
            tell(&Closed { id, peer: &peer, reason, error: error.as_ref(), stack: &stats });
        }
    }
}

/// What epoll(7) knows a session's port by.
pub(super) fn token(index: u32, port: usize) -> Token {
    Token((index as usize) << (KIND_BITS + PORT_BITS) | port << KIND_BITS | SESSION)
}
