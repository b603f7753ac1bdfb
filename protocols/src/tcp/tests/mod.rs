//! [`Tcp`] between our IP layers and plain smoltcp, which checks all that it gets.

mod hostile;
mod serving;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mbuf::{
    Chain, Pool,
    stack::{DropReason, Edge, PortId, Signal, Stack, Time},
    testing,
};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, DeviceCapabilities, Medium},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant,
    wire::{HardwareAddress, IpCidr},
};

use super::Tcp;
use crate::{
    Echo,
    net::{Ipv4, Ipv6, protocol},
};

const SERVER: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const CLIENT: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tcp() -> Tcp {
    Tcp::new(&SERVER.map(ip))
}

fn echo() -> Tcp {
    tcp().listen(7, || vec![Box::new(Echo::new())])
}

/// The client's card.
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

impl phy::Device for Wire {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        Some((RxToken(self.incoming.pop_front()?), TxToken(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        (self.outgoing.len() < 64).then_some(TxToken(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

struct RxToken(Vec<u8>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct TxToken<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

/// Our host with two links, one for each IP, and a client that is plain smoltcp.
struct World {
    pool: Pool,
    server: Stack,
    client: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    now: Time,
    /// Of so many packets one is lost; 0 for none.
    lose: usize,
    chance: testing::Rng,
    /// The longest packet of the server.
    longest: usize,
    /// The client's packets are cut into segments of one byte.
    bytewise: bool,
}

impl World {
    fn new(tcp: Tcp) -> Self {
        Self::with(tcp, Pool::with_memory(8 << 20).unwrap())
    }

    fn with(tcp: Tcp, pool: Pool) -> Self {
        let mut builder = Stack::builder(&pool);
        let [v4, v6] = SERVER.map(ip);
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4, v6) else { unreachable!() };
        let v4 = builder.layer(Ipv4::new(v4, 24));
        let v6 = builder.layer(Ipv6::new(v6, 64));
        let tcp = builder.layer(tcp);
        builder.port(Edge::Packets, v4);
        builder.port(Edge::Packets, v6);
        builder.bind(v4, protocol::TCP, tcp).bind(v6, protocol::TCP, tcp);
        let mut server = builder.build().unwrap();
        server.open();
        let mut wire = Wire { incoming: VecDeque::new(), outgoing: VecDeque::new() };
        let config = Config::new(HardwareAddress::Ip);
        let mut client = Interface::new(config, &mut wire, Instant::ZERO);
        client.update_ip_addrs(|list| {
            list.push(IpCidr::new(ip(CLIENT[0]).into(), 24)).unwrap();
            list.push(IpCidr::new(ip(CLIENT[1]).into(), 64)).unwrap();
        });
        Self {
            pool,
            server,
            client,
            wire,
            sockets: SocketSet::new(Vec::new()),
            now: Time::ZERO,
            lose: 0,
            chance: testing::Rng::new(5),
            longest: 0,
            bytewise: false,
        }
    }

    /// Over IPv4 (0) or IPv6 (1).
    fn connect(&mut self, version: usize, port: u16, local: u16) -> SocketHandle {
        let mut socket = socket();
        let to = SocketAddr::new(ip(SERVER[version]), port);
        socket.connect(self.client.context(), to, local).unwrap();
        self.sockets.add(socket)
    }

    fn is_lost(&mut self) -> bool {
        self.lose > 0 && self.chance.below(self.lose) == 0
    }

    fn feed(&mut self, packet: &[u8]) {
        let chain = match self.bytewise {
            true => testing::bytewise(&self.pool, packet),
            false => self.pool.chain_from(packet),
        };
        self.feed_chain(PortId(u16::from(packet[0] >> 4 == 6)), chain.unwrap());
    }

    fn feed_chain(&mut self, port: PortId, chain: Chain) {
        self.server.input_one(port, chain);
        let mut turns = 0;
        while self.server.has_work() {
            self.server.poll();
            turns += 1;
            assert!(turns < 1000, "it spins");
        }
    }

    /// A millisecond goes by.
    fn step(&mut self) {
        self.step_by(Duration::from_millis(1));
    }

    fn step_by(&mut self, time: Duration) {
        self.now += time;
        let now = Instant::from_micros(self.now.as_nanos() as i64 / 1000);
        self.client.poll(now, &mut self.wire, &mut self.sockets);
        self.server.advance(self.now);
        while let Some(packet) = self.wire.outgoing.pop_front() {
            if !self.is_lost() {
                self.feed(&packet);
            }
        }
        self.server.poll();
        self.collect();
        self.client.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// What the server has sent goes to the client.
    fn collect(&mut self) {
        for port in [PortId(0), PortId(1)] {
            while let Some(chain) = self.server.poll_output(port).pop() {
                self.longest = self.longest.max(chain.len());
                if !self.is_lost() {
                    self.wire.incoming.push_back(chain.to_vec().unwrap());
                }
            }
            self.server.flushed(port);
        }
    }

    fn steps(&mut self, n: usize) {
        for _ in 0..n {
            self.step();
        }
    }

    /// The next packets of the client, which go nowhere.
    fn take(&mut self) -> Vec<Vec<u8>> {
        let now = Instant::from_micros(self.now.as_nanos() as i64 / 1000);
        self.client.poll(now, &mut self.wire, &mut self.sockets);
        self.wire.outgoing.drain(..).collect()
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn state(&mut self, handle: SocketHandle) -> State {
        self.socket(handle).state()
    }

    fn drops(&self, layer: &str, reason: DropReason) -> u64 {
        let stats = self.server.stats();
        let layer = stats.layers.iter().find(|stats| stats.name == layer).unwrap();
        layer.drops.iter().filter(|(its, _)| *its == reason).map(|(_, n)| n).sum()
    }

    /// Sends so many bytes and compares what comes back.
    fn exchange(&mut self, version: usize, len: usize) -> SocketHandle {
        let handle = self.connect(version, 7, 50_000);
        self.converse(handle, len);
        handle
    }

    fn converse(&mut self, handle: SocketHandle, len: usize) {
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
    }

    fn finish(mut self) {
        self.server.signal(Signal::Shutdown);
        for port in [PortId(0), PortId(1)] {
            while self.server.poll_output(port).pop().is_some() {}
        }
        assert_eq!((self.server.timers(), self.server.held().footprint), (0, 0));
        for layer in self.server.stats().layers {
            assert_eq!(layer.imbalance(), 0, "{layer:?}");
        }
        drop(self.server);
        assert_eq!(self.pool.stats().in_use(), 0);
    }
}

fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; 65_536]);
    Socket::new(buffer(), buffer())
}
