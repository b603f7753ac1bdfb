//! The echo servers that are compared, and how each is started.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{machine::crate_version, server};

pub mod c;
mod rust;

pub use rust::{Written, serve};

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// `echo serve`.
    Mbuf,
    /// The same with `--busy-poll`.
    MbufBusy,
    /// tokio on one thread.
    Tokio,
    /// mio on one thread.
    Mio,
    /// The blocking UDP socket of std: `recvfrom`, then `sendto`, in a loop.
    Recvfrom,
    /// `peers/epoll_echo.c`.
    Epoll,
    /// `peers/udp_echo.c` with many datagrams a call.
    Mmsg,
    /// The same with many datagrams a message of such a call.
    Gso,
    /// `socat`, a process for each connection.
    Socat,
}

/// Over what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// As command lines have it.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }

    /// A port of 127.0.0.1 that was free just now.
    pub fn free_port(self) -> anyhow::Result<u16> {
        match self {
            Transport::Tcp => server::free_tcp_port(),
            Transport::Udp => server::free_udp_port(),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        })
    }
}

impl Peer {
    /// As the report has it.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Mbuf => "mbuf",
            Peer::MbufBusy => "mbuf, busy-poll",
            Peer::Tokio => "tokio",
            Peer::Mio => "mio",
            Peer::Recvfrom => "recvfrom",
            Peer::Epoll => "C epoll",
            Peer::Mmsg => "C recvmmsg",
            Peer::Gso => "C GRO+GSO",
            Peer::Socat => "socat",
        }
    }

    /// What is measured: its release, or that of the compiler it is built with.
    fn version(self) -> anyhow::Result<String> {
        match self {
            Peer::Mbuf | Peer::MbufBusy => Ok(crate_version("mbuf").to_owned()),
            Peer::Tokio => Ok(crate_version("tokio").to_owned()),
            Peer::Mio => Ok(crate_version("mio").to_owned()),
            Peer::Recvfrom => Ok("std".to_owned()),
            Peer::Epoll | Peer::Mmsg | Peer::Gso => printed("cc", "--version", ""),
            Peer::Socat => {
                let children = std::fs::exists("/proc/thread-self/children")?;
                ensure!(children, "this kernel does not say what children a process has");
                printed("socat", "-V", "socat version ")
            }
        }
    }

    /// Whether it ends cleanly when it is asked to; the others are ended by the signal.
    pub fn ends_cleanly(self) -> bool {
        matches!(self, Peer::Mbuf | Peer::MbufBusy)
    }
}

/// The servers that this machine can run, ready to be started.
#[derive(Debug)]
pub struct Peers {
    there: Vec<Peer>,
    versions: Vec<(Peer, String)>,
    skipped: Vec<String>,
    echo: PathBuf,
}

impl Peers {
    /// Builds those that are ours. What this machine lacks is named and left out, or an error if
    /// MBUF_REQUIRE_PEERS is set.
    pub fn find(wanted: &[Peer], echo: Option<&Path>) -> anyhow::Result<Peers> {
        let echo = server::example_program("echo", echo)?;
        let mut peers =
            Peers { there: Vec::new(), versions: Vec::new(), skipped: Vec::new(), echo };
        for &peer in wanted {
            match peers.command(peer, Transport::Tcp, 0).and_then(|_| peer.version()) {
                Ok(version) => {
                    peers.there.push(peer);
                    peers.versions.push((peer, version));
                }
                Err(error) => peers.skip(peer.name(), &error)?,
            }
        }
        Ok(peers)
    }

    pub fn there(&self) -> &[Peer] {
        &self.there
    }

    /// For the JSON report.
    pub fn versions(&self) -> Value {
        let one =
            |(peer, version): &(Peer, String)| (peer.name().to_owned(), version.as_str().into());
        Value::Object(self.versions.iter().map(one).collect())
    }

    /// What was left out, for the JSON report.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Names what is left out, which is an error if MBUF_REQUIRE_PEERS is set.
    pub fn skip(&mut self, what: &str, error: &anyhow::Error) -> anyhow::Result<()> {
        let required = std::env::var_os("MBUF_REQUIRE_PEERS").is_some();
        ensure!(!required, "{what}: {error:#} (and MBUF_REQUIRE_PEERS is set)");
        let skipped = format!("{what}: {error:#}");
        println!("skipped: {skipped}");
        self.skipped.push(skipped);
        Ok(())
    }

    /// Serves on a port of 127.0.0.1. Fails where the peer's program is not on this machine.
    pub fn command(&self, peer: Peer, transport: Transport, port: u16) -> anyhow::Result<Command> {
        let port = port.to_string();
        let written = |written: Written| -> anyhow::Result<Command> {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["serve", written.name(), transport.name(), &port]);
            Ok(command)
        };
        let built = |program, mode: &str| -> anyhow::Result<Command> {
            let mut command = Command::new(c::build(program)?);
            command.args([mode, &port]);
            Ok(command)
        };
        match peer {
            Peer::Mbuf | Peer::MbufBusy => {
                let mut command = Command::new(&self.echo);
                let listen = format!("--{}", transport.name());
                command.args(["serve", &listen, &format!("127.0.0.1:{port}")]);
                command.args((peer == Peer::MbufBusy).then_some("--busy-poll"));
                Ok(command)
            }
            Peer::Tokio => written(Written::Tokio),
            Peer::Mio => written(Written::Mio),
            Peer::Recvfrom => written(Written::Recvfrom),
            Peer::Epoll => built("epoll_echo", transport.name()),
            Peer::Mmsg => built("udp_echo", "mmsg"),
            Peer::Gso => built("udp_echo", "gso"),
            Peer::Socat => {
                let mut command = Command::new("socat");
                let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,fork,nodelay,backlog=128");
                // What is more than PIPE_BUF could block in the pipe, which it reads itself.
                command.args(["-b", "4096", &listen, "PIPE"]);
                Ok(command)
            }
        }
    }
}

/// What a program says of its version: the line with the label, without it and without a date.
fn printed(program: &str, option: &str, label: &str) -> anyhow::Result<String> {
    let output = Command::new(program)
        .arg(option)
        .output()
        .with_context(|| format!("{program} is not installed"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let line = line.with_context(|| format!("{program} {option} names no version"))?;
    Ok(line.split(" on ").next().unwrap_or(line).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        assert!(printed("no-such-program", "-V", "").is_err());
        assert_eq!(printed("echo", "v two on Monday", "v ").unwrap(), "two");
    }
}
