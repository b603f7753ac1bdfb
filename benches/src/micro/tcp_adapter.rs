//! TCP in memory: the adapter of smoltcp, below it our Ethernet, ARP and IPv4, beside smoltcp alone.
//! Both serve the same client, which is plain smoltcp, and whose work is part of the figure. Each
//! side takes a frame from the link, and puts one on it, with one copy, as read and write would.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use mbuf::{
    Batch, Pool,
    stack::{Edge, PortId, Protocol, Stack, Time},
};
use mbuf_protocols::{
    Discard, Echo,
    net::{Arp, Ethernet, Ipv4, ethertype, protocol},
    tcp::Tcp,
};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, DeviceCapabilities, Medium},
    socket::tcp::{CongestionControl, Socket, SocketBuffer},
    time::Instant as Moment,
    wire::{EthernetAddress, HardwareAddress, IpCidr},
};

use super::case::{Case, Side};

const SERVER: [u8; 4] = [10, 7, 0, 2];
const CLIENT: [u8; 4] = [10, 7, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PORT: u16 = 7;
/// The frames that fit on the link, each way.
const FRAMES: usize = 64;
const BUFFER: usize = 64 << 10;
/// What goes over in one operation; the figure is for one KiB of it.
const BYTES: usize = 1 << 20;
/// What passes between two turns of the client.
const TURN: Duration = Duration::from_micros(50);

/// A megabyte to a server that throws it away, and to one that sends it back.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, echo: bool| {
        Case::new(format!("a KiB over TCP in memory, {name}"), move || {
            Ok(vec![
                side("mbuf", Layers::new(echo)?, echo)?,
                side("smoltcp", Plain::new(echo), echo)?,
            ])
        })
    };
    vec![case("discard", false), case("echo", true)]
}

fn side(who: &'static str, server: impl Server + 'static, echo: bool) -> anyhow::Result<Side> {
    let mut world = World::new(server)?;
    let data: Vec<u8> = (0..BYTES).map(|n| (n * 7 / 3) as u8).collect();
    Ok(Side::new(who, BYTES / 1024, move |times| {
        let start = Instant::now();
        for _ in 0..times {
            world.transfer(&data, echo).with_context(|| format!("{who}, TCP in memory"))?;
        }
        Ok(start.elapsed())
    }))
}

/// The server's turn: frames of the client's are taken, and answered.
trait Server {
    fn turn(&mut self, now: Duration, link: &mut Link) -> anyhow::Result<()>;
}

/// The client's end of the link.
#[derive(Default)]
struct Link {
    to_server: VecDeque<Vec<u8>>,
    to_client: VecDeque<Vec<u8>>,
    /// The frame that the client looks at.
    looked_at: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl Link {
    /// A frame for the client, to be written.
    fn answer(&mut self, len: usize) -> &mut [u8] {
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.resize(len, 0);
        self.to_client.push_back(frame);
        self.to_client.back_mut().map(Vec::as_mut_slice).unwrap_or_default()
    }
}

impl phy::Device for Link {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Written<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Received<'_>, Written<'_>)> {
        let frame = self.to_client.pop_front()?;
        self.spare.push(std::mem::replace(&mut self.looked_at, frame));
        Some((Received(&self.looked_at), Written(&mut self.to_server, &mut self.spare)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Written<'_>> {
        (self.to_server.len() < FRAMES).then_some(Written(&mut self.to_server, &mut self.spare))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        ethernet()
    }
}

fn ethernet() -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ethernet;
    capabilities.max_transmission_unit = 1514;
    capabilities
}

struct Received<'a>(&'a [u8]);

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

struct Written<'a>(&'a mut VecDeque<Vec<u8>>, &'a mut Vec<Vec<u8>>);

impl phy::TxToken for Written<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = self.1.pop().unwrap_or_default();
        frame.resize(len, 0);
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

/// The client, its clock, and the server.
struct World<S> {
    server: S,
    link: Link,
    client: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    now: Duration,
}

impl<S: Server> World<S> {
    fn new(server: S) -> anyhow::Result<Self> {
        let mut link = Link::default();
        let mut client = interface(&mut link, CLIENT_MAC, CLIENT);
        let mut sockets = SocketSet::new(Vec::new());
        let mut socket = socket();
        socket.connect(client.context(), (IpAddr::from(SERVER), PORT), 50_000)?;
        let handle = sockets.add(socket);
        let mut world = Self { server, link, client, sockets, handle, now: Duration::ZERO };
        for _ in 0..100_000 {
            world.turn()?;
            if world.sockets.get::<Socket<'_>>(handle).may_send() {
                return Ok(world);
            }
        }
        anyhow::bail!("the server does not answer")
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        self.now += TURN;
        self.client.poll(moment(self.now), &mut self.link, &mut self.sockets);
        self.server.turn(self.now, &mut self.link)
    }

    fn transfer(&mut self, data: &[u8], echo: bool) -> anyhow::Result<()> {
        let (mut sent, mut got) = (0, 0);
        for _ in 0..1_000_000 {
            let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
            if socket.can_send() && sent < data.len() {
                sent += socket.send_slice(&data[sent..])?;
            }
            while socket.can_recv() {
                got = socket
                    .recv(|bytes| {
                        let right = data.get(got..got + bytes.len()) == Some(bytes);
                        (bytes.len(), right.then_some(got + bytes.len()))
                    })?
                    .context("not what was sent")?;
            }
            // What is on its way still is for the next one: the last acknowledgment is a late one.
            if sent == data.len() && (!echo || got == sent) {
                return Ok(());
            }
            self.turn()?;
        }
        anyhow::bail!("{sent} bytes were sent, and {got} came back")
    }
}

fn moment(now: Duration) -> Moment {
    Moment::from_micros(now.as_micros() as i64)
}

fn interface(device: &mut impl phy::Device, mac: [u8; 6], ip: [u8; 4]) -> Interface {
    let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
    let mut interface = Interface::new(config, device, Moment::ZERO);
    interface.update_ip_addrs(|list| list.extend([IpCidr::new(IpAddr::from(ip).into(), 24)]));
    interface
}

fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_congestion_control(CongestionControl::Reno);
    socket
}

/// mbuf's layers.
struct Layers {
    pool: Pool,
    stack: Stack,
    batch: Batch,
}

impl Layers {
    fn new(echo: bool) -> anyhow::Result<Self> {
        let pool = Pool::with_memory(16 << 20)?;
        let mut builder = Stack::builder(&pool);
        let ethernet = builder.layer(Ethernet::new(SERVER_MAC));
        let arp = builder.layer(Arp::new(SERVER_MAC, SERVER.into(), 24));
        let ip = builder.layer(Ipv4::new(SERVER.into(), 24));
        let tcp = Tcp::new(&[SERVER.into()]).buffers(BUFFER).listen(PORT, move || {
            let layer: Box<dyn Protocol> =
                if echo { Box::new(Echo::new()) } else { Box::new(Discard::new()) };
            vec![layer]
        });
        let tcp = builder.layer(tcp);
        builder.port(Edge::Packets, ethernet);
        builder.bind(ethernet, ethertype::ARP, arp).bind(ethernet, ethertype::IPV4, arp);
        builder.stack(arp, ip).bind(ip, protocol::TCP, tcp);
        let mut stack = builder.build()?;
        stack.open();
        Ok(Self { pool, stack, batch: Batch::new() })
    }

    fn give_out(&mut self, link: &mut Link) -> anyhow::Result<()> {
        while let Some(chain) = self.stack.poll_output(PortId(0)).pop() {
            chain.peek(0, link.answer(chain.len()))?;
        }
        self.stack.flushed(PortId(0));
        Ok(())
    }
}

impl Server for Layers {
    fn turn(&mut self, now: Duration, link: &mut Link) -> anyhow::Result<()> {
        self.stack.advance(Time::from_nanos(now.as_nanos() as u64));
        while let Some(frame) = link.to_server.pop_front() {
            self.batch.push(self.pool.chain_from(&frame)?);
            link.spare.push(frame);
        }
        self.stack.input(PortId(0), &mut self.batch);
        while self.stack.has_work() {
            self.stack.poll();
        }
        self.give_out(link)
    }
}

/// smoltcp alone.
struct Plain {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    echo: bool,
    read: Vec<u8>,
    write: Vec<u8>,
    between: Vec<u8>,
}

impl Plain {
    fn new(echo: bool) -> Self {
        let mut sockets = SocketSet::new(Vec::new());
        let mut socket = socket();
        let listening = socket.listen(PORT);
        debug_assert!(listening.is_ok(), "a fresh socket");
        let handle = sockets.add(socket);
        let (mut link, mut read, mut write) = (Link::default(), vec![0; 1514], vec![0; 1514]);
        let mut card = Card { link: &mut link, read: &mut read, write: &mut write };
        let interface = interface(&mut card, SERVER_MAC, SERVER);
        Self { interface, sockets, handle, echo, read, write, between: vec![0; BUFFER] }
    }
}

impl Server for Plain {
    fn turn(&mut self, now: Duration, link: &mut Link) -> anyhow::Result<()> {
        let Self { interface, sockets, handle, echo, read, write, between } = self;
        let mut card = Card { link, read, write };
        interface.poll(moment(now), &mut card, sockets);
        let socket = sockets.get_mut::<Socket<'_>>(*handle);
        while socket.can_recv() {
            if !*echo {
                socket.recv(|bytes| (bytes.len(), ()))?;
                continue;
            }
            let room = socket.send_capacity() - socket.send_queue();
            if room == 0 {
                break;
            }
            let n = socket.recv_slice(&mut between[..room.min(BUFFER)])?;
            let sent = socket.send_slice(&between[..n])?;
            ensure!(sent == n, "{sent} of {n} bytes found room");
        }
        interface.poll(moment(now), &mut card, sockets);
        Ok(())
    }
}

/// Its card, with a buffer each way.
struct Card<'a> {
    link: &'a mut Link,
    read: &'a mut Vec<u8>,
    write: &'a mut Vec<u8>,
}

impl phy::Device for Card<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Sent<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Moment) -> Option<(Received<'_>, Sent<'_>)> {
        let frame = self.link.to_server.pop_front()?;
        self.read.clear();
        self.read.extend_from_slice(&frame);
        self.link.spare.push(frame);
        Some((Received(self.read), Sent(self.link, self.write)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Sent<'_>> {
        (self.link.to_client.len() < FRAMES).then_some(Sent(self.link, self.write))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        ethernet()
    }
}

struct Sent<'a>(&'a mut Link, &'a mut Vec<u8>);

impl phy::TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.1.resize(len, 0);
        let result = f(self.1);
        self.0.answer(len).copy_from_slice(self.1);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_take_and_return_all_bytes() {
        let data: Vec<u8> = (0..300_000).map(|n| (n * 7 / 3) as u8).collect();
        for echo in [false, true] {
            World::new(Layers::new(echo).unwrap()).unwrap().transfer(&data, echo).unwrap();
            World::new(Plain::new(echo)).unwrap().transfer(&data, echo).unwrap();
        }
    }
}
