//! What smoltcp has for one version of IP: an interface, a card of chains, and sockets.

use std::net::{IpAddr, SocketAddr};

use mbuf::{
    Address, Batch, Chain, Pool,
    meta::Offload,
    stack::{Context, Time},
};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, Checksum, DeviceCapabilities, Medium},
    socket::{
        AnySocket,
        tcp::{Socket, State},
    },
    time::{Duration, Instant},
    wire::{HardwareAddress, IpCidr},
};

use super::wire::{instant, seal};

/// The most packets between smoltcp and the layer below.
const WAITING: usize = 64;
/// How often smoltcp is asked for a packet of each connection in a turn.
const ROUNDS: usize = 64;

/// How far the sending got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    All,
    /// There is no credit: `Signal::Writable` says when to go on.
    NoCredit,
    /// It has had its turn.
    Share,
}

pub(super) struct Family {
    interface: Interface,
    pub(super) card: Card,
    pub(super) sockets: SocketSet<'static>,
    addresses: Vec<IpCidr>,
}

impl Family {
    /// Those of the addresses that are of this version.
    pub(super) fn new(addresses: &[IpAddr], v6: bool) -> Self {
        let ours = addresses.iter().filter(|address| address.is_ipv6() == v6);
        let to_one = ours.filter(|address| {
            let broadcast = **address == IpAddr::from([255; 4]);
            !(address.is_multicast() || address.is_unspecified() || broadcast)
        });
        let prefix = if v6 { 128 } else { 32 };
        let addresses: Vec<_> =
            to_one.take(8).map(|&address| IpCidr::new(address.into(), prefix)).collect();
        let mut card = Card::new(1500);
        let interface = Self::interface(&mut card, &addresses, 0);
        Self { interface, card, sockets: SocketSet::new(Vec::new()), addresses }
    }

    fn interface(card: &mut Card, addresses: &[IpCidr], seed: u64) -> Interface {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, card, Instant::ZERO);
        interface.update_ip_addrs(|list| {
            addresses.iter().for_each(|&address| _ = list.push(address));
        });
        interface
    }

    /// A new interface: smoltcp asks for the MTU and the seed of its random numbers only once.
    pub(super) fn renew(&mut self, seed: u64) {
        self.interface = Self::interface(&mut self.card, &self.addresses, seed);
    }

    pub(super) fn has_addresses(&self) -> bool {
        !self.addresses.is_empty()
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|one| one.address() == address.into())
    }

    pub(super) fn socket(&self, handle: SocketHandle) -> &Socket<'static> {
        self.sockets.get(handle)
    }

    /// Whether there is a connection of these two. O(connections).
    pub(super) fn knows(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        self.all().any(|socket| {
            socket.remote_endpoint() == Some(peer.into())
                && socket.local_endpoint() == Some(local.into())
        })
    }

    /// Whether a local port is taken. O(connections).
    pub(super) fn uses(&self, port: u16) -> bool {
        self.all().any(|socket| socket.local_endpoint().is_some_and(|local| local.port == port))
    }

    fn all(&self) -> impl Iterator<Item = &Socket<'static>> {
        self.sockets.iter().filter_map(|(_, socket)| Socket::downcast(socket))
    }

    /// Resets all connections.
    pub(super) fn abort(&mut self) {
        let sockets = self.sockets.iter_mut();
        sockets.filter_map(|(_, socket)| Socket::downcast_mut(socket)).for_each(Socket::abort);
    }

    /// Begins a connection; whether that was possible.
    pub(super) fn connect(
        &mut self,
        socket: &mut Socket<'static>,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> bool {
        let local = match local.ip().is_unspecified() {
            true => local.port().into(),
            false => smoltcp::wire::IpListenEndpoint::from(local),
        };
        socket.connect(self.interface.context(), peer, local).is_ok()
    }

    /// Gives smoltcp a packet, and gives it back. O(connections).
    pub(super) fn receive(&mut self, packet: Chain, now: Instant) -> Option<Chain> {
        self.card.incoming = Some(packet);
        self.card.fresh = true;
        self.interface.poll_ingress_single(now, &mut self.card, &mut self.sockets);
        self.card.incoming.take()
    }

    /// Sends what smoltcp has for the wire, as far as there is credit.
    pub(super) fn transmit(&mut self, edge: usize, cx: &mut Context<'_>) -> Sent {
        for _ in 0..ROUNDS {
            self.flush(edge, cx);
            if self.sockets.iter().next().is_none() {
                return Sent::All;
            }
            // The last packet may be longer than the credit that is left for it.
            self.card.room = cx.credit_edge(edge).div_ceil(self.card.mtu).min(WAITING);
            if self.card.room == 0 {
                return Sent::NoCredit;
            }
            self.interface.poll_egress(instant(cx), &mut self.card, &mut self.sockets);
            if self.card.out.waiting.is_empty() {
                return Sent::All;
            }
        }
        self.flush(edge, cx);
        Sent::Share
    }

    fn flush(&mut self, edge: usize, cx: &mut Context<'_>) {
        self.card.out.retry();
        while let Some(chain) = self.card.out.waiting.pop() {
            cx.made(1);
            let outcome = cx.down_edge(edge, chain);
            cx.apply(outcome);
        }
    }

    /// When smoltcp wants to be called again.
    pub(super) fn next(&mut self, cx: &Context<'_>) -> Option<Time> {
        let delay = self.interface.poll_delay(instant(cx), &self.sockets)?;
        Some(cx.now() + std::time::Duration::from(delay.max(Duration::from_millis(1))))
    }

    /// Takes a socket away that has nothing more to say.
    pub(super) fn remove(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }

    pub(super) fn state(&self, handle: SocketHandle) -> State {
        self.socket(handle).state()
    }
}

/// What smoltcp takes for its network card.
pub(super) struct Card {
    /// The longest packet, with its IP header.
    pub(super) mtu: usize,
    /// The packet that came, in one piece.
    incoming: Option<Chain>,
    /// It was not taken yet.
    fresh: bool,
    pub(super) out: Out,
    /// How many packets may wait.
    room: usize,
}

/// Its way out.
pub(super) struct Out {
    /// Where packets are written to; none before the layer is opened.
    pub(super) pool: Option<Pool>,
    /// The segments that were written.
    waiting: Batch,
    /// The checksum is left to the device.
    pub(super) offload: bool,
    /// The packet that there was no buffer for. Nothing else is asked for until it is gone.
    kept: Vec<u8>,
    /// An answer to a segment took its place.
    pub(super) lost: bool,
}

impl Card {
    fn new(mtu: usize) -> Self {
        let (pool, waiting, kept) = (None, Batch::new(), Vec::new());
        let out = Out { pool, waiting, offload: false, kept, lost: false };
        Self { mtu, incoming: None, fresh: false, out, room: 0 }
    }
}

impl Out {
    pub(super) fn is_starved(&self) -> bool {
        !self.kept.is_empty()
    }

    /// A chain with room for so many bytes in one piece, behind room for the headers below.
    fn room_for(&self, len: usize) -> Option<Chain> {
        let pool = self.pool.as_ref()?;
        pool.chain_with_headroom((pool.headroom() + len).min(64 << 10)).ok()
    }

    /// Puts a packet of smoltcp's, which the chain holds, in line as a segment.
    fn push(&mut self, mut chain: Chain, sealed: Option<(IpAddr, IpAddr, usize)>) {
        let Some((from, to, header)) = sealed else { return };
        if chain.trim_front(header).is_ok() {
            let meta = chain.meta_mut();
            meta.set_source(Address::Ip(SocketAddr::new(from, 0)));
            meta.set_destination(Address::Ip(SocketAddr::new(to, 0)));
            if self.offload {
                meta.set_offload(Offload::CHECKSUM_PARTIAL);
            }
            self.waiting.push(chain);
        }
    }

    /// Sends the packet that there was no buffer for, if there is one now.
    fn retry(&mut self) {
        if self.is_starved()
            && let Some(mut chain) = self.room_for(self.kept.len())
            && let Ok(packet) = chain.prepend(self.kept.len())
        {
            packet.copy_from_slice(&self.kept);
            self.kept.clear();
            self.lost = false;
            let sealed = seal(packet, self.offload);
            self.push(chain, sealed);
        }
    }
}

impl phy::Device for Card {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        if !std::mem::take(&mut self.fresh) {
            return None;
        }
        Some((RxToken(self.incoming.as_mut()?), TxToken(&mut self.out)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_>> {
        let may = self.out.waiting.len() < self.room && !self.out.is_starved();
        may.then_some(TxToken(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // The layer below has IP's, and this one looks at TCP's itself.
        capabilities.checksum.ipv4 = Checksum::None;
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}

pub(super) struct RxToken<'a>(&'a mut Chain);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let len = self.0.len();
        f(self.0.pullup(len).unwrap_or_default())
    }
}

pub(super) struct TxToken<'a>(&'a mut Out);

impl phy::TxToken for TxToken<'_> {
    /// Into a buffer of the pool, or, without one, into the place of the one that waits for it.
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Self(out) = self;
        out.lost |= out.is_starved();
        if !out.lost
            && let Some(mut chain) = out.room_for(len)
            && let Ok(packet) = chain.prepend(len)
        {
            let result = f(packet);
            let sealed = seal(packet, out.offload);
            out.push(chain, sealed);
            return result;
        }
        out.kept.resize(len, 0);
        f(&mut out.kept)
    }
}
