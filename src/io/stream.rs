//! Byte streams over TCP and Unix sockets.
//!
//! **Reads** are sized by what the last ones brought, in five steps:
//!
//! ```text
//!   2 KiB -> 4 KiB -> 16 KiB -> 64 KiB -> 4 x 64 KiB
//! ```
//!
//! A read that fills its buffers makes the next one two steps larger; one that does not makes it as
//! small as what came. Buffers that a read does not reach go back to the pool at once, so an idle
//! stream holds none, and what came in much too large a buffer is copied into a smaller one, so a
//! chain never pins more than about four times its bytes (beyond 2 KiB).
//!
//! **Writes** gather up to IOV_MAX segments from as many chains as the queue has. What the kernel
//! did not take stays in the queue, which then begins in the middle of a chain.

use std::{
    fmt, io,
    net::{self, SocketAddr},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix,
    },
    path::Path,
    time::Duration,
};

use mio::{Interest, Registry, Token, event, unix::SourceFd};
use socket2::{Domain, Socket, Type};

use crate::{
    chain::Chain,
    io::{
        Received, Sent, Sink, Source,
        error::{named, rename},
        faults::Call,
        sys::{self, Errno, ReadError},
    },
    pool::{Class, Receiver},
    queue::{Batch, Queue},
};

/// The steps of a read's size: the class of its buffer. More than 64 KiB at once would leave the
/// cache before they are written: an echo of 256 KiB at a time took a third longer.
const STEPS: [Class; 4] = [Class::K2, Class::K4, Class::K16, Class::K64];

/// A connected byte stream: a TCP or a Unix socket, non-blocking.
///
/// As a [`Source`] it adds one chain a call; as a [`Sink`] it writes until the queue is empty or
/// the socket full. Writing relies on SIGPIPE being ignored, as Rust programs do from the start.
///
/// ```
/// use mbuf::{Batch, Pool, Queue, io::{Received, Sent, Sink, Source, Stream}};
///
/// let (here, there) = std::os::unix::net::UnixStream::pair()?;
/// let (mut here, mut there) = (Stream::from_std_unix(here)?, Stream::from_std_unix(there)?);
/// let pool = Pool::with_memory(4 << 20)?;
/// let mut queue = Queue::new(16, 1 << 20);
/// queue.push(pool.chain_from(b"hello")?).map_err(mbuf::Error::from)?;
/// assert_eq!(here.send(&mut queue)?, Sent::All);
///
/// let mut batch = Batch::new();
/// assert_eq!(there.recv(&pool.receiver(), &mut batch)?, Received::Chains(1));
/// assert_eq!(batch.pop().unwrap().to_vec()?, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    /// The peer, for errors.
    peer: Peer,
    /// Index into [`STEPS`] of the next read.
    step: usize,
    drained: bool,
    starved: bool,
    stats: StreamStats,
}

#[derive(Debug)]
enum Peer {
    Ip(SocketAddr),
    Unix(Box<Path>),
    /// A Unix peer without a name, or a TCP peer that could not be asked for when the stream was
    /// made: not connected yet, or gone.
    Nameless,
}

/// What a stream has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StreamStats {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Calls of readv(2) that brought bytes.
    pub reads: u64,
    /// Calls of writev(2) that took bytes.
    pub writes: u64,
    /// Chains that were copied out of much too large a buffer.
    pub compacted: u64,
}

impl fmt::Display for StreamStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes received in {} reads, {} sent in {} writes, {} chains compacted",
            self.received, self.reads, self.sent, self.writes, self.compacted
        )
    }
}

impl Stream {
    /// Over a TCP connection that mio made or accepted.
    ///
    /// ```
    /// use mbuf::io::Stream;
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// let stream = Stream::tcp(mio::net::TcpStream::connect(address)?);
    /// assert_eq!(stream.peer_addr(), Some(address));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tcp(socket: mio::net::TcpStream) -> Self {
        Self::new(OwnedFd::from(socket).into())
    }

    /// Over a Unix connection that mio made or accepted.
    ///
    /// ```
    /// use mbuf::io::Stream;
    ///
    /// let (here, _there) = mio::net::UnixStream::pair()?;
    /// assert_eq!(Stream::unix(here).peer_addr(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unix(socket: mio::net::UnixStream) -> Self {
        Self::new(OwnedFd::from(socket).into())
    }

    /// Over a TCP connection of the standard library, which is made non-blocking.
    ///
    /// # Errors
    /// If the system refuses that.
    ///
    /// ```
    /// use mbuf::io::Stream;
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let socket = std::net::TcpStream::connect(listener.local_addr()?)?;
    /// let stream = Stream::from_std_tcp(socket)?;
    /// assert_eq!(stream.to_string(), listener.local_addr()?.to_string());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_std_tcp(socket: net::TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::new(socket.into()))
    }

    /// Over a Unix connection of the standard library, which is made non-blocking.
    ///
    /// # Errors
    /// If the system refuses that.
    ///
    /// ```
    /// use mbuf::{Batch, Pool, io::{Received, Source, Stream}};
    ///
    /// let (here, _there) = std::os::unix::net::UnixStream::pair()?;
    /// let mut stream = Stream::from_std_unix(here)?;
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let received = stream.recv(&pool.receiver(), &mut Batch::new())?;
    /// assert_eq!(received, Received::WouldBlock); // it does not wait
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_std_unix(socket: unix::net::UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::new(socket.into()))
    }

    /// Begins to connect over TCP. The socket is writable when that is decided: then ask
    /// [`Stream::take_error`].
    ///
    /// # Errors
    /// What the system says at once, as `connect to ADDRESS: ...`.
    ///
    /// ```
    /// use mbuf::io::Stream;
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let stream = Stream::connect_tcp(listener.local_addr()?)?;
    /// let (_, peer) = listener.accept()?;
    /// stream.take_error()?;
    /// assert_eq!(stream.local_addr(), Some(peer));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect_tcp(peer: SocketAddr) -> io::Result<Self> {
        let connect = || {
            let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking(), None)?;
            sys::before(Call::Connect, socket.as_raw_fd())?;
            match socket.connect(&peer.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
                _ => Ok(socket),
            }
        };
        let socket = connect().map_err(|error| rename("connect to", peer, error))?;
        Ok(Self { peer: Peer::Ip(peer), ..Self::new(socket) })
    }

    /// Connects to the Unix socket at `path`. Does not wait: if the listener's backlog is full the
    /// error is EAGAIN.
    ///
    /// # Errors
    /// What the system says, as `connect to PATH: ...`.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use mbuf::io::{Stream, errno};
    ///
    /// let error = Stream::connect_unix(Path::new("/nowhere/at all")).unwrap_err();
    /// assert_eq!(errno(&error), Some(libc::ENOENT));
    /// assert!(error.to_string().contains("/nowhere/at all"));
    /// ```
    pub fn connect_unix(path: &Path) -> io::Result<Self> {
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
            let address = sys::unix_address(path)?;
            sys::before(Call::Connect, socket.as_raw_fd())?;
            socket.connect(&address)?;
            Ok(socket)
        };
        let socket = connect().map_err(|error| rename("connect to", path.display(), error))?;
        Ok(Self { peer: Peer::Unix(path.into()), ..Self::new(socket) })
    }

    fn new(socket: Socket) -> Self {
        let peer = match socket.peer_addr() {
            Ok(address) => match (address.as_socket(), address.as_pathname()) {
                (Some(ip), _) => Peer::Ip(ip),
                (_, Some(path)) => Peer::Unix(path.into()),
                _ => Peer::Nameless,
            },
            Err(_) => Peer::Nameless,
        };
        let stats = StreamStats::default();
        Self { socket, peer, step: 0, drained: false, starved: false, stats }
    }

    /// Takes the error that is pending on the socket (SO_ERROR), after a connect above all.
    ///
    /// # Errors
    /// That error, as `connection to ADDRESS: ...`.
    ///
    /// ```
    /// use mbuf::io::Stream;
    ///
    /// let (here, _there) = std::os::unix::net::UnixStream::pair()?;
    /// assert!(Stream::from_std_unix(here)?.take_error().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_error(&self) -> io::Result<()> {
        match self.socket.take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(rename("connection to", self, error)),
        }
    }

    /// Whether the last read was short: then nothing more was there at the time, and a caller that
    /// is edge-triggered, and was not told that the peer has closed, need not read again
    /// (epoll(7), question 9).
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// use mbuf::{Batch, Pool, io::{Source, Stream}};
    ///
    /// let (here, mut there) = std::os::unix::net::UnixStream::pair()?;
    /// let mut stream = Stream::from_std_unix(here)?;
    /// there.write_all(b"a few bytes")?;
    /// let pool = Pool::with_memory(1 << 20)?;
    /// stream.recv(&pool.receiver(), &mut Batch::new())?;
    /// assert!(stream.is_drained());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Whether small writes leave without delay (TCP_NODELAY). Unix sockets know no delay.
    ///
    /// # Errors
    /// If the system refuses that.
    ///
    /// ```
    /// use mbuf::io::Stream;
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let socket = std::net::TcpStream::connect(listener.local_addr()?)?;
    /// let probe = socket.try_clone()?;
    /// Stream::from_std_tcp(socket)?.set_nodelay(true)?;
    /// assert!(probe.nodelay()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_nodelay(&self, yes: bool) -> io::Result<()> {
        match self.peer {
            Peer::Unix(_) => Ok(()),
            _ if self.socket.domain()? == Domain::UNIX => Ok(()),
            _ => self
                .socket
                .set_tcp_nodelay(yes)
                .map_err(|error| self.failed("setsockopt for", error)),
        }
    }

    /// Tells the peer that nothing more will come. Calling it again, or when the peer is gone
    /// already, is fine.
    ///
    /// # Errors
    /// If the system refuses that.
    ///
    /// ```
    /// use std::io::Read;
    ///
    /// use mbuf::io::Stream;
    ///
    /// let (here, mut there) = std::os::unix::net::UnixStream::pair()?;
    /// let mut stream = Stream::from_std_unix(here)?;
    /// stream.shutdown_write()?;
    /// assert_eq!(there.read(&mut [0])?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        match self.socket.shutdown(net::Shutdown::Write) {
            Err(error) if error.raw_os_error() != Some(libc::ENOTCONN) => {
                Err(self.failed("shutdown of", error))
            }
            _ => Ok(()),
        }
    }

    /// Makes closing the socket (dropping the stream) a reset: what was sent and not received yet is
    /// lost, and the peer sees ECONNRESET. For TCP only; a Unix peer always sees a plain end.
    ///
    /// # Errors
    /// If the system refuses that.
    ///
    /// ```
    /// use std::io::{ErrorKind, Read};
    ///
    /// use mbuf::io::Stream;
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let socket = std::net::TcpStream::connect(listener.local_addr()?)?;
    /// let (mut peer, _) = listener.accept()?;
    /// let mut stream = Stream::from_std_tcp(socket)?;
    /// stream.abort_on_drop()?;
    /// drop(stream);
    /// assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abort_on_drop(&mut self) -> io::Result<()> {
        self.socket
            .set_linger(Some(Duration::ZERO))
            .map_err(|error| self.failed("setsockopt for", error))
    }

    /// The address at this end; `None` for a Unix socket.
    ///
    /// ```
    /// use mbuf::io::Stream;
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let stream = Stream::connect_tcp(listener.local_addr()?)?;
    /// assert!(stream.local_addr().is_some_and(|address| address.ip().is_loopback()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// The peer's address; `None` for a Unix socket.
    ///
    /// ```
    /// use mbuf::io::Stream;
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let stream = Stream::connect_tcp(listener.local_addr()?)?;
    /// assert_eq!(stream.peer_addr(), Some(listener.local_addr()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self.peer {
            Peer::Ip(address) => Some(address),
            Peer::Unix(_) => None,
            // It may have been made while it was still connecting.
            Peer::Nameless => self.socket.peer_addr().ok()?.as_socket(),
        }
    }

    /// What it has done so far.
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// use mbuf::{Batch, Pool, io::{Source, Stream}};
    ///
    /// let (here, mut there) = std::os::unix::net::UnixStream::pair()?;
    /// let mut stream = Stream::from_std_unix(here)?;
    /// there.write_all(b"hello")?;
    /// let pool = Pool::with_memory(1 << 20)?;
    /// stream.recv(&pool.receiver(), &mut Batch::new())?;
    /// assert_eq!((stream.stats().received, stream.stats().reads), (5, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> StreamStats {
        self.stats
    }

    #[cold]
    fn failed(&self, call: &'static str, error: io::Error) -> io::Error {
        rename(call, self, error)
    }

    /// Reads with the buffers of the current step, or smaller ones if the pool has no such left.
    /// Answers what was read, its length, and how much would have fitted.
    fn read(&self, receiver: &Receiver) -> Result<(Chain, usize, usize), ReadError> {
        let mut step = self.step;
        loop {
            match self.read_step(receiver, step) {
                Err(ReadError::Room(_)) if step > 0 => step -= 1,
                outcome => return outcome,
            }
        }
    }

    fn read_step(
        &self,
        receiver: &Receiver,
        step: usize,
    ) -> Result<(Chain, usize, usize), ReadError> {
        let class = STEPS[step];
        let headroom = receiver.pool().headroom();
        let mut chain = receiver.chain_in(class, headroom).map_err(ReadError::Room)?;
        // A headroom that takes the whole first buffer leaves it for headers alone.
        let want = if chain.tailroom() > 0 { chain.tailroom() } else { class.data_len() };
        let read = sys::readv(self.socket.as_fd(), &mut chain, receiver, class, want)?;
        Ok((chain, read, want))
    }

    /// Chooses the size of the next read.
    fn adapt(&mut self, read: usize, want: usize) {
        self.drained = read < want;
        self.step = if self.drained {
            let fits = |class: &Class| read <= class.data_len();
            STEPS.iter().position(fits).unwrap_or(STEPS.len() - 1).min(self.step)
        } else {
            (self.step + 2).min(STEPS.len() - 1)
        };
    }
}

impl fmt::Display for Stream {
    /// The peer: `127.0.0.1:9000`, or a path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.peer {
            Peer::Ip(address) => address.fmt(f),
            Peer::Unix(path) => path.display().fmt(f),
            Peer::Nameless => match self.peer_addr() {
                Some(address) => address.fmt(f),
                None => write!(f, "descriptor {}", self.socket.as_raw_fd()),
            },
        }
    }
}

impl Source for Stream {
    /// One readv(2), and one chain. ECONNRESET and other errors end the stream.
    fn recv(&mut self, receiver: &Receiver, batch: &mut Batch) -> io::Result<Received> {
        match self.read(receiver) {
            Ok((_, 0, _)) => Ok(Received::Closed),
            Ok((mut chain, read, want)) => {
                let was_large = self.step > 0 && read < want / 4;
                self.adapt(read, want);
                // If it cannot be had, the chain is merely larger than it should be.
                if was_large && chain.footprint() > 4 * read && chain.compact().is_ok() {
                    self.stats.compacted += 1;
                }
                self.stats.reads += 1;
                self.stats.received += read as u64;
                batch.push(chain);
                Ok(Received::Chains(1))
            }
            Err(ReadError::Room(_)) => Ok(Received::NoBuffers),
            Err(ReadError::Call(Errno(libc::EAGAIN))) => {
                self.drained = true;
                Ok(Received::WouldBlock)
            }
            Err(ReadError::Call(Errno(libc::ENOBUFS | libc::ENOMEM))) => Ok(Received::NoBuffers),
            Err(ReadError::Call(errno)) => Err(named("readv from", &*self, errno.0)),
        }
    }
}

impl Sink for Stream {
    /// Writes until the queue is empty or the socket full. EFAULT means that a mapped file in the
    /// queue was cut short since.
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent> {
        self.starved = false;
        loop {
            // Empty chains are no bytes, and nothing but them would make a call of no segments.
            queue.advance(0)?;
            if queue.is_empty() {
                return Ok(Sent::All);
            }
            match sys::writev(self.socket.as_fd(), queue) {
                Ok(taken) => {
                    self.stats.writes += 1;
                    self.stats.sent += taken as u64;
                    queue.advance(taken)?;
                }
                Err(Errno(libc::EAGAIN)) => return Ok(Sent::WouldBlock),
                Err(Errno(libc::ENOBUFS | libc::ENOMEM)) => {
                    self.starved = true;
                    return Ok(Sent::WouldBlock);
                }
                Err(Errno(libc::EFAULT)) => {
                    let from = format_args!("{self}, from a mapped file that was cut short");
                    return Err(named("writev to", from, libc::EFAULT));
                }
                Err(errno) => return Err(named("writev to", &*self, errno.0)),
            }
        }
    }

    fn is_starved(&self) -> bool {
        self.starved
    }
}

impl event::Source for Stream {
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

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
