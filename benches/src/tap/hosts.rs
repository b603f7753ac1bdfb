//! The hosts that are compared, each on a network of its own, whose first address is ours.

use std::{
    env, fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::place::ip;
use crate::{
    client::udp::{Client, Kind, Load},
    machine,
    peers::c,
    server::{self, Server},
};

/// The echo service.
const PORT: u16 = 7;
const MBUF: &str = "mbuf";
const OFFLOAD: &str = "mbuf, offload";
pub const SMOLTCP: &str = "smoltcp";
const KERNEL: &str = "kernel, C recvmmsg on veth";

/// How long the kernel may take for a namespace.
const PATIENCE: Duration = Duration::from_secs(5);

/// One that answers.
#[derive(Debug)]
pub struct Host {
    pub name: &'static str,
    pub server: Server,
    pub address: SocketAddr,
}

type Start = fn(&Path) -> anyhow::Result<Host>;

/// All of them, by name, with how each is started.
pub const ALL: [(&str, Start); 4] =
    [(MBUF, mbuf), (OFFLOAD, offload), (SMOLTCP, smoltcp), (KERNEL, kernel)];

pub fn versions() -> Value {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        MBUF: machine::crate_version("mbuf"),
        SMOLTCP: machine::crate_version("smoltcp"),
        KERNEL: format!("Linux {}", kernel.trim()),
    })
}

impl Host {
    /// Waits until it answers.
    fn new(name: &'static str, mut server: Server, address: Ipv4Addr) -> anyhow::Result<Host> {
        let address = SocketAddr::from((address, PORT));
        let load = Load { kind: Kind::Plain, size: 64, window: 1, batch: 1 };
        server::wait_until_ready(&mut server, || {
            Client::to(address, load).map_err(io::Error::other)?.probe()
        })?;
        Ok(Host { name, server, address })
    }

    /// Ends it; ours ends well.
    pub fn stop(self) -> anyhow::Result<()> {
        let (status, printed) = self.server.stop()?;
        let ours = self.name.starts_with(MBUF);
        ensure!(!ours || status.success(), "host: {status}\n{printed}");
        Ok(())
    }
}

/// The example.
fn mbuf(program: &Path) -> anyhow::Result<Host> {
    let mut command = Command::new(program);
    command.args(["--tap", "mbuf0", "--ip", "10.7.1.2/24", "--kernel", "10.7.1.1/24"]);
    Host::new(MBUF, Server::start(MBUF, command)?, Ipv4Addr::new(10, 7, 1, 2))
}

/// The same, which takes super-packets whole and leaves checksums to the kernel.
fn offload(program: &Path) -> anyhow::Result<Host> {
    let mut command = Command::new(program);
    command.args(["--tap", "mbuf1", "--ip", "10.7.4.2/24", "--kernel", "10.7.4.1/24", "--offload"]);
    Host::new(OFFLOAD, Server::start(OFFLOAD, command)?, Ipv4Addr::new(10, 7, 4, 2))
}

/// Its interface and a socket of UDP, on a TAP that is made as that of `host`.
fn smoltcp(_: &Path) -> anyhow::Result<Host> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["serve-smoltcp", "smoltcp0", "10.7.2.1", "10.7.2.2"]);
    Host::new(SMOLTCP, Server::start(SMOLTCP, command)?, Ipv4Addr::new(10, 7, 2, 2))
}

/// The kernel's own stack in a second namespace, with a server that takes many datagrams a call.
fn kernel(_: &Path) -> anyhow::Result<Host> {
    let mut command = Command::new("unshare");
    command.arg("-n").arg(c::build("udp_echo")?);
    command.args(["mmsg", &PORT.to_string(), "0.0.0.0"]);
    let server = Server::start(KERNEL, command)?;
    let process = server.id();
    let own = fs::read_link("/proc/self/ns/net")?;
    let start = Instant::now();
    while fs::read_link(format!("/proc/{process}/ns/net")).context("the server's")? == own {
        ensure!(start.elapsed() < PATIENCE, "the server has no namespace of its own");
        thread::sleep(Duration::from_millis(2));
    }
    ip(None, &format!("link add veth0 type veth peer name veth1 netns {process}"))?;
    ip(None, "addr add 10.7.3.1/24 dev veth0")?;
    ip(None, "link set veth0 up")?;
    ip(Some(process), "addr add 10.7.3.2/24 dev veth1")?;
    ip(Some(process), "link set veth1 up")?;
    Host::new(KERNEL, server, Ipv4Addr::new(10, 7, 3, 2))
}
