//! smoltcp behind a TAP, as its examples have it: poll, echo what a UDP socket has, wait.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, IntoRawFd},
};

use anyhow::Context;
use clap::Args;
use mbuf::io::TunTap;
use smoltcp::{
    iface::{Config, Interface, SocketSet},
    phy::{self, Medium, TunTapInterface},
    socket::udp::{PacketBuffer, PacketMetadata, Socket},
    time::Instant,
    wire::{EthernetAddress, IpCidr},
};

#[derive(Debug, Args)]
pub struct Options {
    /// The name of the TAP.
    name: String,
    /// The kernel's address on it.
    kernel: Ipv4Addr,
    /// smoltcp's.
    address: Ipv4Addr,
}

const PREFIX: u8 = 24;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// Datagrams that a socket holds each way: more than are in flight.
const DATAGRAMS: usize = 512;
const BYTES: usize = 1 << 20;
const ECHO: u16 = 7;
/// smoltcp's MTU has the Ethernet header in it.
const ETHERNET: usize = 14;

/// Echoes until the process is ended by a signal.
pub fn serve(options: &Options) -> anyhow::Result<()> {
    // Made and set up as that of `host`; smoltcp reads and writes it by its own calls.
    let tap = TunTap::builder().tap().name(&options.name);
    let tap = tap.address(options.kernel.into(), PREFIX).build()?;
    let own = tap.as_fd().try_clone_to_owned()?.into_raw_fd();
    let mut device = TunTapInterface::from_fd(own, Medium::Ethernet, tap.mtu() + ETHERNET)?;

    let config = Config::new(EthernetAddress(MAC).into());
    let mut interface = Interface::new(config, &mut device, Instant::now());
    let address = IpCidr::new(options.address.into(), PREFIX);
    let mut room = Ok(());
    interface.update_ip_addrs(|addresses| room = addresses.push(address).map_err(drop));
    room.ok().context("smoltcp has no room for an address")?;

    let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; DATAGRAMS], vec![0; BYTES]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.bind(ECHO).context("smoltcp's bind")?;
    let mut sockets = SocketSet::new(Vec::new());
    let handle = sockets.add(socket);
    let mut bytes = vec![0; 1 << 16];
    loop {
        interface.poll(Instant::now(), &mut device, &mut sockets);
        let socket = sockets.get_mut::<Socket>(handle);
        let mut echoed = false;
        while socket.can_send()
            && let Ok((length, from)) = socket.recv_slice(&mut bytes)
        {
            // What it has no room for is lost.
            echoed |= socket.send_slice(&bytes[..length], from.endpoint).is_ok();
        }
        if !echoed {
            phy::wait(device.as_raw_fd(), interface.poll_delay(Instant::now(), &sockets))?;
        }
    }
}
