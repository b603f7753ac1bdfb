use std::time::Duration;

use mbuf::{
    Pool,
    stack::{DropReason, Edge, PortId, Signal, Stack, Time},
};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant,
    wire::{HardwareAddress, IpCidr},
};

use super::{Tcp, device::Device};
use crate::{
    Echo,
    net::{Ipv4, ipv4::BAD_CHECKSUM, protocol},
};

const PORT: PortId = PortId(0);
const SERVER: [u8; 4] = [192, 0, 2, 1];
const CLIENT: [u8; 4] = [192, 0, 2, 2];

/// Our server, and a client that is plain smoltcp, with a clock of their own.
struct World {
    pool: Pool,
    server: Stack,
    client: Interface,
    device: Device,
    sockets: SocketSet<'static>,
    now: Time,
    /// Of every so many packets one is lost; 0 for none.
    lose: usize,
    packets: usize,
}

impl World {
    fn new(tcp: Tcp, lose: usize) -> Self {
        let pool = Pool::with_memory(8 << 20).unwrap();
        let mut builder = Stack::builder(&pool);
        let ip = builder.layer_boxed(Box::new(Ipv4::new(SERVER.into(), 24)));
        let tcp = builder.layer_boxed(Box::new(tcp));
        let port = builder.port(Edge::Packets, ip);
        assert_eq!(port, PORT);
        builder.bind(ip, protocol::TCP, tcp);
        let mut server = builder.build().unwrap();
        server.open();
        let mut device = Device::new(1500);
        let config = Config::new(HardwareAddress::Ip);
        let mut client = Interface::new(config, &mut device, Instant::ZERO);
        let address: std::net::IpAddr = CLIENT.into();
        client.update_ip_addrs(|list| list.push(IpCidr::new(address.into(), 24)).unwrap());
        let sockets = SocketSet::new(Vec::new());
        Self { pool, server, client, device, sockets, now: Time::ZERO, lose, packets: 0 }
    }

    fn connect(&mut self, port: u16, local: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 65_536]);
        let mut socket = Socket::new(buffer(), buffer());
        let to: std::net::SocketAddr = (SERVER, port).into();
        socket.connect(self.client.context(), to, local).unwrap();
        self.sockets.add(socket)
    }

    fn is_lost(&mut self) -> bool {
        self.packets += 1;
        self.lose > 0 && self.packets.is_multiple_of(self.lose)
    }

    /// The client leaves the header's checksum to others, as its device says.
    fn feed(&mut self, packet: &[u8]) {
        let mut packet = packet.to_vec();
        packet[10..12].fill(0);
        let sum = mbuf::chain::checksum::of(&packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        self.server.input_one(PORT, self.pool.chain_from(&packet).unwrap());
        while self.server.has_work() {
            self.server.poll();
        }
    }

    /// A millisecond goes by.
    fn step(&mut self) {
        self.now += Duration::from_millis(1);
        let now = Instant::from_micros(self.now.as_nanos() as i64 / 1000);
        self.device.room = 64;
        self.client.poll_egress(now, &mut self.device, &mut self.sockets);
        self.server.advance(self.now);
        while let Some(packet) = self.device.outgoing.pop_front() {
            if !self.is_lost() {
                self.feed(&packet);
            }
        }
        self.server.poll();
        while let Some(chain) = self.server.poll_output(PORT).pop() {
            if !self.is_lost() {
                self.device.incoming = Some(chain.to_vec().unwrap());
                self.client.poll_ingress_single(now, &mut self.device, &mut self.sockets);
            }
        }
        self.server.flushed(PORT);
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Sends so many bytes through the echo, and compares.
    fn exchange(&mut self, len: usize) -> SocketHandle {
        let handle = self.connect(7, 50_000);
        let data: Vec<u8> = (0..len).map(|n| (n * 7 / 3) as u8).collect();
        let (mut sent, mut got) = (0, Vec::new());
        for _ in 0..600_000 {
            self.step();
            let socket = self.socket(handle);
            if socket.can_send() && sent < len {
                sent += socket.send_slice(&data[sent..]).unwrap();
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
            }
            if got.len() >= len {
                break;
            }
        }
        assert!(got == data, "{} of {len} bytes", got.len());
        handle
    }

    fn finish(mut self) {
        self.server.signal(Signal::Shutdown);
        while self.server.poll_output(PORT).pop().is_some() {}
        assert_eq!(self.server.timers(), 0);
        for layer in self.server.stats().layers {
            assert_eq!(layer.imbalance(), 0, "{layer:?}");
        }
        drop(self.server);
        assert_eq!(self.pool.stats().in_use(), 0);
    }
}

fn echo() -> Tcp {
    Tcp::new(&[SERVER.into()]).listen(7, || vec![Box::new(Echo::new())])
}

#[test]
fn a_plain_smoltcp_client_gets_its_bytes_back_and_closes_in_order() {
    let mut world = World::new(echo(), 0);
    let handle = world.exchange(300_000);
    world.socket(handle).close();
    for _ in 0..100 {
        world.step();
    }
    assert_eq!(world.socket(handle).state(), State::TimeWait);
    world.finish();
}

#[test]
fn it_does_so_over_a_link_that_loses_packets() {
    let mut world = World::new(echo(), 37);
    world.exchange(200_000);
    world.finish();
}

#[test]
fn beyond_the_limit_and_at_a_closed_port_a_connection_is_reset() {
    let mut world = World::new(echo().max_connections(1), 0);
    let (first, second) = (world.connect(7, 50_000), world.connect(7, 50_001));
    let third = world.connect(9, 50_002);
    for _ in 0..20 {
        world.step();
    }
    assert_eq!(world.socket(first).state(), State::Established);
    assert_eq!(world.socket(second).state(), State::Closed);
    assert_eq!(world.socket(third).state(), State::Closed);
    let stats = world.server.stats();
    assert_eq!(stats.dropped(DropReason::LIMIT), 1);
    assert_eq!(stats.dropped(DropReason::UNBOUND), 1);
    world.finish();
}

#[test]
fn what_is_malformed_or_has_a_wrong_checksum_is_dropped() {
    let mut world = World::new(echo(), 0);
    world.connect(7, 50_000);
    world.device.room = 64;
    world.client.poll_egress(Instant::ZERO, &mut world.device, &mut world.sockets);
    let mut packet = world.device.outgoing.pop_front().unwrap();
    packet[24] ^= 1;
    world.feed(&packet);
    packet[32] = 0x10;
    world.feed(&packet);
    let stats = world.server.stats();
    assert_eq!(stats.dropped(BAD_CHECKSUM), 1, "{stats:?}");
    assert_eq!(stats.dropped(DropReason::MALFORMED), 1);
    world.finish();
}

#[test]
fn shutdown_resets_what_is_open_and_refuses_what_comes_later() {
    let mut world = World::new(echo(), 0);
    let handle = world.exchange(1000);
    world.server.signal(Signal::Shutdown);
    let late = world.connect(7, 50_001);
    for _ in 0..5 {
        world.step();
    }
    assert_eq!(world.socket(handle).state(), State::Closed);
    assert_ne!(world.socket(late).state(), State::Established);
    world.finish();
}

#[test]
fn a_reset_by_the_peer_frees_its_place() {
    let mut world = World::new(echo().max_connections(1), 0);
    let handle = world.exchange(1000);
    world.socket(handle).abort();
    world.step();
    let next = world.connect(7, 50_001);
    for _ in 0..5 {
        world.step();
    }
    assert_eq!(world.socket(next).state(), State::Established);
    world.finish();
}

#[test]
fn a_peer_that_does_not_read_is_not_read_from() {
    let mut world = World::new(echo(), 0);
    let handle = world.connect(7, 50_000);
    let mut sent = 0;
    for _ in 0..5000 {
        world.step();
        let socket = world.socket(handle);
        if socket.can_send() {
            sent += socket.send_slice(&[7; 10_000]).unwrap();
        }
    }
    // Four buffers of 64 KiB, and a piece or two in the session.
    assert!((128 << 10..400 << 10).contains(&sent), "{sent}");
    assert!(world.server.held().footprint < 100 << 10);
    world.finish();
}
