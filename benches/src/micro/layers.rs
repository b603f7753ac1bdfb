//! mbuf with its stack, of the plugins that everybody has: Ethernet, IPv4 with its checksum
//! verified, UDP demultiplexed by port, and an application for each port, which keeps what it is
//! given and looks at the ports in its metadata, as it would over a socket.
//!
//! ```text
//!   application  application  application  application
//!            \       |  by port  |        /
//!                         UDP
//!                          | 17
//!                         IPv4
//!                          |
//!                        (ARP)
//!                          | 0x0800
//!                       Ethernet
//!                          |
//!                    port, 32 at a time
//! ```

use std::{
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use mbuf::{
    Address, Batch, Chain, Class, Meta, Pool,
    meta::Offload,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Signal, Stack},
};
use mbuf_protocols::net::{self, Arp, Ethernet, Ipv4, Udp, ethertype, protocol};

use super::{
    case::Side,
    chains,
    packets::{HOST, MAC, PORTS, Packets},
};

const BATCH: usize = 32;
/// Where in a packet its number is.
const NUMBER: usize = size_of::<net::ethernet::Header>()
    + size_of::<net::ipv4::Header>()
    + size_of::<net::udp::Header>();

/// What stands in the stack, and what a packet brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// Ethernet, IPv4 and UDP, whose checksum the device has verified: the other sides look at that
    /// of IPv4 alone, too.
    Bare,
    /// As in a host: with ARP, and UDP verifies its checksum, which reads every byte.
    Host,
}

/// What the layers found, added up, and the chains that came to the top.
#[derive(Debug, Default)]
struct Found {
    sum: AtomicU64,
    kept: Mutex<Vec<Chain>>,
}

impl Found {
    /// One thread only adds: there is no need for an atomic addition.
    #[inline]
    fn add(&self, n: u64) {
        self.sum.store(self.sum.load(Relaxed) + n, Relaxed);
    }
}

/// Each pass begins with the chains as they came in; that they are restored is not measured.
pub fn side(layers: Layers, packets: &Rc<Packets>) -> anyhow::Result<Side> {
    let packets = packets.clone();
    let pool = chains::pool(packets.len())?;
    let found = Arc::new(Found::default());
    let (mut stack, port) = build(layers, &pool, &found)?;
    let mut arrived = Meta::EMPTY;
    let who = match layers {
        Layers::Bare => {
            arrived.set_offload(Offload::CHECKSUM_VERIFIED);
            "mbuf, stack"
        }
        Layers::Host => "mbuf, stack of a host",
    };
    let mut chains: Vec<Option<Chain>> = chains::load(&pool, &packets)?
        .into_iter()
        .map(|mut chain| {
            *chain.meta_mut() = arrived;
            Some(chain)
        })
        .collect();
    let mut batch = Batch::with_limit(BATCH);
    Ok(Side::new(who, packets.len(), move |times| {
        let mut taken = Duration::ZERO;
        for _ in 0..times {
            let start = Instant::now();
            for some in chains.chunks_mut(BATCH) {
                some.iter_mut().filter_map(Option::take).for_each(|chain| batch.push(chain));
                stack.input(port, &mut batch);
            }
            taken += start.elapsed();
            stack.signal(Signal::Drain);
            let sum = found.sum.swap(0, Relaxed);
            ensure!(sum == packets.sum, "the stack: a sum of {sum}, not of {}", packets.sum);
            put_back(&found, &arrived, &mut chains)?;
        }
        Ok(taken)
    }))
}

fn build(layers: Layers, pool: &Pool, found: &Arc<Found>) -> anyhow::Result<(Stack, PortId)> {
    let mut builder = Stack::builder(pool);
    let ethernet = builder.layer(Ethernet::new(MAC));
    let port = builder.port(Edge::Packets, ethernet);
    let ipv4 = builder.layer(Ipv4::new(HOST.into(), 24));
    match layers {
        Layers::Bare => _ = builder.bind(ethernet, ethertype::IPV4, ipv4),
        Layers::Host => {
            let arp = builder.layer(Arp::new(MAC, HOST.into(), 24));
            builder.bind(ethernet, ethertype::ARP, arp).bind(ethernet, ethertype::IPV4, arp);
            builder.stack(arp, ipv4);
        }
    }
    let udp = builder.layer(Udp::new());
    builder.bind(ipv4, protocol::UDP, udp);
    for key in PORTS {
        let kept = Vec::with_capacity(pool.stats().class(Class::Small).total);
        let application = builder.layer(Application { found: found.clone(), kept });
        builder.bind(udp, key.into(), application);
    }
    Ok((builder.build()?, port))
}

/// Restores what was kept, and puts each in the place that its number says.
fn put_back(found: &Found, arrived: &Meta, chains: &mut [Option<Chain>]) -> anyhow::Result<()> {
    let mut kept = found.kept.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(kept.len() == chains.len(), "{} of {} packets arrived", kept.len(), chains.len());
    for mut chain in kept.drain(..) {
        let mut number = [0; 4];
        chain.restore(NUMBER)?;
        *chain.meta_mut() = *arrived;
        chain.peek(NUMBER, &mut number)?;
        let number = u32::from_be_bytes(number) as usize;
        *chains.get_mut(number).context("a packet that was not sent")? = Some(chain);
    }
    Ok(())
}

fn port(address: Address) -> u64 {
    match address {
        Address::Ip(address) => address.port().into(),
        _ => 0,
    }
}

/// Keeps what it is given until it is asked for it.
struct Application {
    found: Arc<Found>,
    kept: Vec<Chain>,
}

impl Protocol for Application {
    fn name(&self) -> &str {
        "application"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Any).stateless()
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let meta = chain.meta();
        self.found.add(port(meta.source()) + port(meta.destination()) + chain.len() as u64);
        self.kept.push(chain);
        cx.held()
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }

    fn signal(&mut self, signal: Signal, _: &mut Context<'_>) {
        if signal == Signal::Drain {
            let mut kept = self.found.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.append(&mut self.kept);
        }
    }
}
