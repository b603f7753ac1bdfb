//! Listeners: where connections come in.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use mio::{
    Interest, Registry, Token, event,
    net::{TcpListener, UnixListener, UnixStream},
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    error::BuildError,
    io::{Stream, errno, error::rename, faults::Call, sys},
    pool::Pool,
    stack::{Stack, Time},
};

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// Of TCP, or of UDP.
    Ip(SocketAddr),
    /// A Unix socket's path; `None` for one without a name, as clients are.
    Unix(Option<PathBuf>),
    /// Not a socket, or several.
    Other,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Ip(address) => address.fmt(f),
            Endpoint::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Endpoint::Unix(None) => f.write_str("unix"),
            Endpoint::Other => f.write_str("-"),
        }
    }
}

/// What a listener's factory is told of a new connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Accepted {
    /// The other end.
    pub peer: Endpoint,
    /// This end. Of a Unix listener it is the listener's path.
    pub local: Endpoint,
}

pub(super) type Factory = Box<dyn FnMut(&Accepted, &Pool) -> Result<Stack, BuildError> + Send>;

/// A listening socket, with what is remembered of its readiness.
pub(super) struct Listener {
    socket: Listening,
    pub factory: Factory,
    /// Connections may be waiting: an edge was seen and no "would block" since.
    pub ready: bool,
    /// The system had no descriptor or memory for the next connection: not before then.
    pub retry_at: Option<Time>,
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// What accepting brought.
pub(super) enum Accept {
    Connection(Stream, Accepted),
    WouldBlock,
    /// This connection failed, the next may be well.
    Failed(io::Error),
    /// The system has no descriptor or no memory left: wait.
    Exhausted(io::Error),
}

impl Listener {
    pub fn tcp(address: SocketAddr, factory: Factory) -> io::Result<Self> {
        let listen = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            // Else a server could not be started again while old connections are in TIME_WAIT.
            socket.set_reuse_address(true)?;
            open(socket, &address.into())
        };
        let socket = listen().map_err(|e| rename("listen", format_args!("tcp {address}"), e))?;
        let socket = TcpListener::from_std(socket.into());
        Ok(Self { socket: Listening::Tcp(socket), factory, ready: false, retry_at: None })
    }

    pub fn unix(path: &Path, factory: Factory) -> io::Result<Self> {
        let object = format_args!("unix {}", path.display()).to_string();
        let listen = || {
            let address = sys::unix_address(path)?;
            remove_stale(path)?;
            open(Socket::new(Domain::UNIX, Type::STREAM, None)?, &address)
        };
        let socket = listen().map_err(|e| rename("listen", object, e))?;
        let socket = UnixListener::from_std(socket.into());
        let file = SocketFile::new(path);
        Ok(Self { socket: Listening::Unix(socket, file), factory, ready: false, retry_at: None })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Listening::Tcp(socket) => {
                socket.local_addr().map_err(|e| rename("getsockname", "a TCP listener", e))
            }
            Listening::Unix(..) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Takes the next connection. One system call for a Unix socket, two for TCP.
    pub fn accept(&self) -> Accept {
        let before = |socket: &dyn AsRawFd| sys::before(Call::Accept, socket.as_raw_fd());
        let accepted = match &self.socket {
            Listening::Tcp(socket) => {
                before(socket).and_then(|()| socket.accept()).map(|(stream, peer)| {
                    let local = stream.local_addr().map_or(Endpoint::Other, Endpoint::Ip);
                    (Stream::tcp(stream), Accepted { peer: Endpoint::Ip(peer), local })
                })
            }
            Listening::Unix(socket, file) => {
                before(socket).and_then(|()| socket.accept()).map(|(stream, peer)| {
                    let peer = Endpoint::Unix(peer.as_pathname().map(Path::to_path_buf));
                    let local = Endpoint::Unix(Some(file.path.clone()));
                    (Stream::unix(stream), Accepted { peer, local })
                })
            }
        };
        match accepted {
            Ok((stream, accepted)) => Accept::Connection(stream, accepted),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Accept::WouldBlock,
            Err(e) => match errno(&e) {
                // accept(2): errors of the new connection, which Linux passes on; to be taken as
                // if it had not been there. EPERM is a firewall's refusal.
                Some(
                    libc::ECONNABORTED
                    | libc::EINTR
                    | libc::EPERM
                    | libc::ENETDOWN
                    | libc::EPROTO
                    | libc::ENOPROTOOPT
                    | libc::EHOSTDOWN
                    | libc::ENONET
                    | libc::EHOSTUNREACH
                    | libc::EOPNOTSUPP
                    | libc::ENETUNREACH
                    | libc::ETIMEDOUT,
                ) => Accept::Failed(e),
                _ => Accept::Exhausted(e),
            },
        }
    }

    fn source(&mut self) -> &mut dyn event::Source {
        match &mut self.socket {
            Listening::Tcp(socket) => socket,
            Listening::Unix(socket, _) => socket,
        }
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let object = self.to_string();
        self.source()
            .register(registry, token, Interest::READABLE)
            .map_err(|e| rename("epoll_ctl", object, e))
    }

    /// Has the system say anew whether connections are waiting.
    pub fn ask_again(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let object = self.to_string();
        self.source()
            .reregister(registry, token, Interest::READABLE)
            .map_err(|e| rename("epoll_ctl", object, e))
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Listening::Tcp(socket) => match socket.local_addr() {
                Ok(address) => write!(f, "tcp {address}"),
                Err(_) => f.write_str("tcp"),
            },
            Listening::Unix(_, file) => write!(f, "unix {}", file.path.display()),
        }
    }
}

/// Connections that may wait to be accepted. The system allows no more than
/// net.core.somaxconn, 4,096 by default. (mio asks for 128 at most, and the 129th of a burst of
/// connections would wait for seconds.)
const BACKLOG: i32 = 4096;

fn open(socket: Socket, address: &SockAddr) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// The name of a listening Unix socket in the file system. Dropping it removes the name, if it is
/// still that of our socket.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        // A program may change its directory before it ends.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let inode = inode(&path);
        Self { path, inode }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode.is_some()
            && inode(&self.path) == self.inode
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "socket file not removed");
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Removes a socket file on which nobody answers. Anything else is left alone; binding will then
/// tell what is wrong with it.
///
/// (Between the question and the removal another program could begin to listen there. There is no
/// call that closes this gap; who needs certainty uses a directory of one's own.)
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => {
            let text = "the path is there and is not a socket";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing a stale socket file");
            fs::remove_file(path)
        }
        // Somebody answers, or is too busy to (EAGAIN), or it is not ours to ask (EACCES), or it
        // is a datagram socket (EPROTOTYPE).
        _ => Ok(()),
    }
}
