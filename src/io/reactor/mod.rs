//! The reactor: many sessions, each a [`Stack`] over its ports, driven by one thread over epoll(7).
//!
//! ```text
//!   listener --accept--> factory --makes--> Stack
//!                                             |            one turn of the reactor
//!   events -> ready sessions --recv--> input  |  output --send-->
//!             deadlines      --------> timers |
//! ```
//!
//! A **turn** waits for events, then serves each session that has something to do, once and for
//! no more than a quota of bytes, so that no session keeps the others waiting; then it looks after
//! memory. Between sleeps nothing is allocated from the heap for a message.
//!
//! # Flow
//!
//! Readiness is edge-triggered and remembered, so a session that is paused costs no system call.
//! A session is read only while its stack wants input: below the high water of its egress, and
//! not paused by a layer. So a peer that does not read is, after a while, not read from; its own
//! sends then block. On a stream nothing is dropped, ever.
//!
//! # Memory
//!
//! When the pool refuses a read, the session waits for buffers. It is tried again, in the order in
//! which sessions were refused, when a read has succeeded, a sink has finished a chain, a session
//! has ended or the pool has risen above its low water, and every ten milliseconds in case that
//! another thread has freed something. When the pool falls below its low water, and then every
//! second while it stays there, all stacks are told [`Signal::Drain`](crate::stack::Signal::Drain).
//!
//! **The memory rule.** When for a second ([`patience`](ReactorBuilder::patience)) sessions wait
//! for buffers, no read has succeeded and no sink has finished a chain, the connection whose stack
//! holds most storage is reset, reason [`CloseReason::MEMORY`]; so also when one session has
//! waited for ten times as long, whatever the others do. At most one connection a second is closed
//! so.
//! Sessions that the program attached for good (`listen_udp`, `datagram`, `attach`) are never
//! closed by it; what their layers hold is bounded by themselves.
//!
//! # Ends
//!
//! A session ends when its stack closes (all is sent, our half is closed, and the peer's end, or
//! at most [`linger`](ReactorBuilder::linger), is waited for), when it aborts (the connection is
//! reset), at an error of its socket, or when it breaks a limit. Each end is counted by
//! [`CloseReason`]; an error of one session never concerns another.
//!
//! **Shutdown** ([`Reactor::shutdown`], [`Handle::shutdown`]): listeners close; every stack is told
//! [`Signal::Shutdown`](crate::stack::Signal::Shutdown), upon which it closes after what was sent, or, where a layer is half-open,
//! when that is done; sessions that have not ended so by the end of the
//! [`grace`](ReactorBuilder::grace) period are closed then.
//!
//! # Example
//!
//! ```no_run
//! use mbuf::{Pool, io::reactor::Reactor, stack::{Edge, Protocol, Stack}};
//!
//! # fn protocol() -> Box<dyn Protocol> { unimplemented!() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::with_memory(64 << 20)?;
//! let mut reactor = Reactor::builder(&pool).max_connections(1000).build()?;
//! let address = reactor.listen_tcp("127.0.0.1:0".parse()?, |_accepted, pool| {
//!     Stack::pile(pool, Edge::Bytes, vec![protocol()])
//! })?;
//! println!("listening on {address}");
//! let handle = reactor.handle(); // for the thread that waits for Ctrl-C: handle.shutdown()
//! # handle.shutdown()?;
//! reactor.run()?;
//! println!("{}\n{}", reactor.stats(), pool.stats());
//! # Ok(())
//! # }
//! ```

mod accept;
mod config;
mod handle;
mod listener;
mod memory;
mod port;
mod session;
mod sessions;
mod stats;
mod table;
mod timers;
mod turn;

use std::{collections::VecDeque, fmt, io, net::SocketAddr, path::Path, time::Duration};

use mio::{Events, Poll, Token, Waker};

use self::{
    config::{Clock, Limits, OnClose},
    listener::Listener,
    memory::Memory,
    session::{Drive, Session},
    stats::Counters,
    table::Table,
    timers::Deadlines,
};
pub use self::{
    config::{Closed, ReactorBuilder},
    handle::{Handle, Progress},
    listener::{Accepted, Endpoint},
    port::Port,
    stats::{CloseReason, PortCounts, ReactorStats, Tally},
    table::SessionId,
};
use crate::{
    error::BuildError,
    io::error::rename,
    pool::Pool,
    queue::Batch,
    stack::{Stack, StackStats, Time},
};

// An epoll token: what it names in the lowest two bits, then the port of a session, then the
// index. It fits in 32 bits.
const WAKER: Token = Token(0);
const LOW_WATER: Token = Token(4);
const LISTENER: usize = 1;
const SESSION: usize = 2;
const KIND_BITS: u32 = 2;
const PORT_BITS: u32 = 6;

/// Sessions a reactor can have, and ports a session can have.
const MAX_SESSIONS: u32 = 1 << (32 - KIND_BITS - PORT_BITS);
const MAX_PORTS: usize = 1 << PORT_BITS;

/// Drives sessions, each a stack over its ports; see the [module](self).
///
/// A reactor may be built in one thread and moved to another; it is driven by one at a time.
/// Dropping it closes everything at once; for an orderly end, [`Reactor::shutdown`] it and drive it
/// to the end.
pub struct Reactor {
    pool: Pool,
    poll: Poll,
    events: Events,
    clock: Clock,
    on_close: Option<OnClose>,
    handle: Handle,
    drive: Drive,
    sessions: Table<Session>,
    fixtures: usize,
    /// The counters of the stacks of sessions that have ended.
    ended: StackStats,
    listeners: Vec<Listener>,
    /// Sessions to be served in this turn or the next.
    ready: VecDeque<u32>,
    deadlines: Deadlines,
    memory: Memory,
    /// Sessions whose ports keep buffers between receives.
    keeping: Vec<u32>,
    /// Buffers may be in this thread's caches, or posted.
    cached: bool,
    /// How long it has slept with its caches full since something came.
    napped: Duration,
    /// The limit of connections is reached and that was logged.
    limit_reported: bool,
    /// Since when the program is shutting down.
    stopping: Option<Time>,
    done: bool,
}

impl Reactor {
    /// Sets up a reactor that draws its buffers from `pool`.
    pub fn builder(pool: &Pool) -> ReactorBuilder {
        ReactorBuilder::new(pool)
    }

    fn new(
        pool: Pool,
        limits: Limits,
        mut clock: Clock,
        on_close: Option<OnClose>,
    ) -> io::Result<Self> {
        let poll = Poll::new().map_err(|e| rename("epoll_create1", "reactor", e))?;
        let waker =
            Waker::new(poll.registry(), WAKER).map_err(|e| rename("eventfd", "waker", e))?;
        let memory = Memory::new(&pool, poll.registry())?;
        let registry =
            poll.registry().try_clone().map_err(|e| rename("dup", "epoll descriptor", e))?;
        let now = clock();
        Ok(Self {
            drive: Drive {
                registry,
                receiver: pool.receiver(),
                batch: Batch::new(),
                limits,
                counters: Counters::default(),
                now,
                got: false,
                freed: false,
            },
            pool,
            poll,
            events: Events::with_capacity(1024),
            clock,
            on_close,
            handle: Handle::new(waker),
            sessions: Table::new(),
            fixtures: 0,
            ended: StackStats::default(),
            listeners: Vec::new(),
            ready: VecDeque::new(),
            deadlines: Deadlines::default(),
            memory,
            keeping: Vec::new(),
            cached: true,
            napped: Duration::ZERO,
            limit_reported: false,
            stopping: None,
            done: false,
        })
    }

    /// Listens for TCP connections on `address` (port 0: any) and answers where it does. The
    /// factory makes the stack of each connection; one that fails costs that connection, counted
    /// as refused, [`CloseReason::FACTORY`]. The stack's port 0 is the connection.
    ///
    /// # Errors
    /// The system's, with the address: in use, not allowed (ports below 1024), not of this host.
    pub fn listen_tcp(
        &mut self,
        address: SocketAddr,
        factory: impl FnMut(&Accepted, &Pool) -> Result<Stack, BuildError> + Send + 'static,
    ) -> io::Result<SocketAddr> {
        let listener = Listener::tcp(address, Box::new(factory))?;
        let local = listener.local_addr()?;
        self.add_listener(listener)?;
        Ok(local)
    }

    /// Listens for connections on a Unix socket at `path`. A socket file on which nobody answers
    /// is replaced; the file is removed when the reactor stops listening.
    ///
    /// # Errors
    /// The system's, with the path: in use, or there and not a socket; not allowed; no such
    /// directory; too long.
    pub fn listen_unix(
        &mut self,
        path: impl AsRef<Path>,
        factory: impl FnMut(&Accepted, &Pool) -> Result<Stack, BuildError> + Send + 'static,
    ) -> io::Result<()> {
        self.add_listener(Listener::unix(path.as_ref(), Box::new(factory))?)
    }

    /// Drives the sessions until a shutdown has been asked for and has come to its end.
    ///
    /// # Errors
    /// Those of epoll_wait(2); errors of sessions and of accepting are counted, not returned.
    pub fn run(&mut self) -> io::Result<()> {
        while self.poll(None)? {}
        Ok(())
    }

    /// One turn, for programs with a loop of their own: waits for events for at most `timeout`
    /// (`None`: as long as it takes), serves what is to be served, and answers whether there is a
    /// next turn: `false` once a shutdown has come to its end.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn poll(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        self.turn(timeout)
    }

    /// Begins an orderly shutdown, which the following turns carry out.
    pub fn shutdown(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let now = self.tick();
        tracing::info!(sessions = self.sessions.len(), "shutting down");
        self.stopping = Some(now);
        self.listeners.clear();
        for index in 0..self.sessions.bound() {
            let Some(session) = self.sessions.at(index) else { continue };
            if session.drain(now) {
                self.enqueue(index);
            } else {
                self.end(index, CloseReason::SHUTDOWN);
            }
        }
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The pool that the reactor draws from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The counters. O(sessions): the drops of all stacks are added up.
    pub fn stats(&self) -> ReactorStats {
        let mut counters = self.drive.counters.clone();
        for (_, session) in self.sessions.iter() {
            counters.add_drops(&session.stack.stats());
            session.count_ports(&mut counters.ports);
        }
        ReactorStats::new(counters, self.sessions.len())
    }

    /// The counters of all stacks, those of ended sessions included, added up by layer.
    /// O(sessions), allocates.
    pub fn stack_stats(&self) -> StackStats {
        let mut sum = self.ended.clone();
        for (_, session) in self.sessions.iter() {
            sum.merge(&session.stack.stats());
        }
        sum
    }

    /// Gives back the buffers that the reactor keeps for the next receives. It does so by itself
    /// before it sleeps; a program that calls [`Reactor::poll`] with a timeout of zero and then
    /// sleeps elsewhere should call this before.
    pub fn release(&mut self) {
        for index in self.keeping.drain(..) {
            if let Some(session) = self.sessions.at(index) {
                session.keeping = false;
                session.release();
            }
        }
        self.drive.receiver.flush();
        self.pool.flush();
        self.cached = false;
    }

    /// Reads the clock.
    fn tick(&mut self) -> Time {
        self.drive.now = (self.clock)().max(self.drive.now);
        self.drive.now
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("sessions", &self.sessions.len())
            .field("listeners", &self.listeners.len())
            .field("limits", &self.drive.limits)
            .field("stopping", &self.stopping)
            .finish_non_exhaustive()
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.memory.forget(&self.pool);
        for index in 0..self.sessions.bound() {
            drop(self.sessions.remove(index));
        }
        self.release();
    }
}
