//! The servers written here: what one would write without mbuf.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use anyhow::{Context, bail};
use mio::{Events, Interest, Poll, Registry, Token};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Transport;

/// With what it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Written {
    /// One thread; a task for each connection.
    Tokio,
    /// One thread; reads and writes until they would block.
    Mio,
    /// The blocking UDP socket of std.
    Recvfrom,
}

impl Written {
    /// As command lines have it.
    pub fn name(self) -> &'static str {
        match self {
            Written::Tokio => "tokio",
            Written::Mio => "mio",
            Written::Recvfrom => "recvfrom",
        }
    }
}

/// Read at once.
const PIECE: usize = 65536;
/// The receive buffer of a UDP socket, as `echo serve` has it.
const UDP_BUFFER: usize = 4 << 20;

/// Echoes until the process is ended by a signal.
pub fn serve(written: Written, transport: Transport, port: u16) -> anyhow::Result<()> {
    match (written, transport) {
        (Written::Tokio, Transport::Tcp) => on_tokio(tokio_tcp(port)),
        (Written::Tokio, Transport::Udp) => on_tokio(tokio_udp(port)),
        (Written::Mio, Transport::Tcp) => mio_tcp(port),
        (Written::Mio, Transport::Udp) => mio_udp(port),
        (Written::Recvfrom, Transport::Udp) => recvfrom(port),
        (Written::Recvfrom, Transport::Tcp) => bail!("recvfrom is for UDP"),
    }
}

fn bind_tcp(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("bind to TCP 127.0.0.1:{port}"))
}

fn bind_udp(port: u16) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("bind to UDP 127.0.0.1:{port}"))?;
    SockRef::from(&socket).set_recv_buffer_size(UDP_BUFFER)?;
    Ok(socket)
}

fn on_tokio(server: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("building the tokio runtime")?
        .block_on(server)
}

async fn tokio_tcp(port: u16) -> anyhow::Result<()> {
    let listener = bind_tcp(port)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = vec![0; PIECE];
            // A connection that fails ends, like one that is closed.
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn tokio_udp(port: u16) -> anyhow::Result<()> {
    let socket = bind_udp(port)?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..length], peer).await?;
    }
}

fn recvfrom(port: u16) -> anyhow::Result<()> {
    let socket = bind_udp(port)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], peer)?;
    }
}

const LISTENER: Token = Token(usize::MAX);

fn mio_tcp(port: u16) -> anyhow::Result<()> {
    let listener = bind_tcp(port)?;
    listener.set_nonblocking(true)?;
    let mut listener = mio::net::TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = Events::with_capacity(256);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, poll.registry(), &mut connections)?;
                continue;
            }
            let place = &mut connections[event.token().0];
            if place.as_mut().is_some_and(|connection| connection.serve().is_err()) {
                *place = None;
            }
        }
    }
}

fn accept(
    listener: &mio::net::TcpListener,
    registry: &Registry,
    connections: &mut Vec<Option<Connection>>,
) -> anyhow::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("accept"),
        };
        stream.set_nodelay(true)?;
        let free = connections.iter().position(Option::is_none).unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(free), interest)?;
        connections[free] = Some(Connection { stream, bytes: vec![0; PIECE], from: 0, to: 0 });
    }
}

/// A connection of the mio server, and what of it was read and could not be written yet.
#[derive(Debug)]
struct Connection {
    stream: mio::net::TcpStream,
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

impl Connection {
    /// Reads and writes until that would block, as edges of readiness demand.
    fn serve(&mut self) -> std::io::Result<()> {
        loop {
            while self.from < self.to {
                match self.stream.write(&self.bytes[self.from..self.to]) {
                    Ok(count) => self.from += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            (self.from, self.to) = (0, 0);
            match self.stream.read(&mut self.bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.to = count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

fn mio_udp(port: u16) -> anyhow::Result<()> {
    let socket = bind_udp(port)?;
    socket.set_nonblocking(true)?;
    let mut socket = mio::net::UdpSocket::from_std(socket);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut socket, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(16);
    let mut buffer = vec![0; PIECE];
    loop {
        poll.poll(&mut events, None)?;
        loop {
            let (length, peer): (usize, SocketAddr) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("recvfrom"),
            };
            socket.send_to(&buffer[..length], peer)?;
        }
    }
}
