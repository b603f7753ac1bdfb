//! The servers that mbuf's echo is compared with: what one would write without mbuf.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::Context;

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// tokio, one thread: `recv_from`, then `send_to`, in a loop.
    Tokio,
    /// The blocking socket of std: `recvfrom`, then `sendto`, in a loop.
    Recvfrom,
}

/// Echoes until the process is ended by a signal.
pub fn serve(peer: Peer, port: u16) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("bind to UDP 127.0.0.1:{port}"))?;
    match peer {
        Peer::Tokio => tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("building the tokio runtime")?
            .block_on(serve_tokio(socket)),
        Peer::Recvfrom => serve_recvfrom(&socket),
    }
}

async fn serve_tokio(socket: UdpSocket) -> anyhow::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; 65536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..length], peer).await?;
    }
}

fn serve_recvfrom(socket: &UdpSocket) -> anyhow::Result<()> {
    let mut buffer = vec![0; 65536];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], peer)?;
    }
}
