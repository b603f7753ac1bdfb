//! mbuf with its stack: Ethernet, IPv4 with its checksum verified, UDP demultiplexed by port, and an
//! application for each port, which keeps what it is given.
//!
//! ```text
//!   application  application  application  application
//!            \       |  by port  |        /
//!                         UDP
//!                          | 17
//!                         IPv4
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
    Batch, Chain, Class, Pool,
    chain::checksum,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Signal, Stack},
};

use super::{
    case::Side,
    chains,
    headers::{self, IPV4, UDP},
    packets::{PORTS, Packets},
};

const BATCH: usize = 32;
/// Where in a packet its number is.
const NUMBER: usize =
    size_of::<headers::Ethernet>() + size_of::<headers::Ipv4>() + size_of::<headers::Udp>();

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
pub fn side(packets: &Rc<Packets>) -> anyhow::Result<Side> {
    let packets = packets.clone();
    let pool = chains::pool(packets.len())?;
    let found = Arc::new(Found::default());
    let (mut stack, port) = build(&pool, &found)?;
    let mut chains: Vec<Option<Chain>> =
        chains::load(&pool, &packets)?.into_iter().map(Some).collect();
    let mut batch = Batch::with_limit(BATCH);
    Ok(Side::new("mbuf, stack", packets.len(), move |times| {
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
            put_back(&found, &mut chains)?;
        }
        Ok(taken)
    }))
}

fn build(pool: &Pool, found: &Arc<Found>) -> anyhow::Result<(Stack, PortId)> {
    let mut builder = Stack::builder(pool);
    let ethernet = builder.layer(Ethernet);
    let ipv4 = builder.layer(Ipv4);
    let udp = builder.layer(Udp(found.clone()));
    let port = builder.port(Edge::Packets, ethernet);
    builder.bind(ethernet, IPV4.into(), ipv4).bind(ipv4, UDP.into(), udp);
    for key in PORTS {
        let kept = Vec::with_capacity(pool.stats().class(Class::Small).total);
        let application = builder.layer(Application { found: found.clone(), kept });
        builder.bind(udp, key.into(), application);
    }
    Ok((builder.build()?, port))
}

/// Restores what was kept, and puts each in the place that its number says.
fn put_back(found: &Found, chains: &mut [Option<Chain>]) -> anyhow::Result<()> {
    let mut kept = found.kept.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(kept.len() == chains.len(), "{} of {} packets arrived", kept.len(), chains.len());
    for mut chain in kept.drain(..) {
        let mut number = [0; 4];
        chain.restore(NUMBER)?;
        chain.peek(NUMBER, &mut number)?;
        let number = u32::from_be_bytes(number) as usize;
        *chains.get_mut(number).context("a packet that was not sent")? = Some(chain);
    }
    Ok(())
}

struct Ethernet;

impl Protocol for Ethernet {
    fn name(&self) -> &str {
        "ethernet"
    }

    fn info(&self) -> LayerInfo {
        let header = size_of::<headers::Ethernet>();
        LayerInfo::new(Edge::Packets, Edge::Packets).min_header(header).stateless()
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.strip::<headers::Ethernet>() {
            Ok(header) => cx.up_key(header.kind.get().into(), chain),
            Err(_) => cx.drop(chain, DropReason::SHORT),
        }
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}

struct Ipv4;

impl Ipv4 {
    /// The protocol above, if the header is right; it is stripped, and padding cut off.
    fn strip(chain: &mut Chain) -> Option<u8> {
        let header = chain.header::<headers::Ipv4>().ok()?;
        let (length, protocol) = (header.header()?, header.protocol);
        let total = usize::from(header.total.get());
        if total < length || checksum::of(chain.pullup(length).ok()?) != 0 {
            return None;
        }
        if total != chain.len() {
            chain.truncate(total).ok()?;
        }
        chain.trim_front(length).ok()?;
        Some(protocol)
    }
}

impl Protocol for Ipv4 {
    fn name(&self) -> &str {
        "ipv4"
    }

    fn info(&self) -> LayerInfo {
        let header = size_of::<headers::Ipv4>();
        LayerInfo::new(Edge::Packets, Edge::Packets).min_header(header).stateless()
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match Ipv4::strip(&mut chain) {
            Some(protocol) => cx.up_key(protocol.into(), chain),
            None => cx.drop(chain, DropReason::MALFORMED),
        }
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}

struct Udp(Arc<Found>);

impl Protocol for Udp {
    fn name(&self) -> &str {
        "udp"
    }

    fn info(&self) -> LayerInfo {
        let header = size_of::<headers::Udp>();
        LayerInfo::new(Edge::Packets, Edge::Packets).min_header(header).stateless()
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(header) = chain.strip::<headers::Udp>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        let payload = usize::from(header.length.get()).checked_sub(size_of::<headers::Udp>());
        if payload.is_none_or(|payload| payload > chain.len()) {
            return cx.drop(chain, DropReason::MALFORMED);
        }
        self.0.add(u64::from(header.source.get()) + u64::from(header.destination.get()));
        cx.up_key(header.destination.get().into(), chain)
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
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
        self.found.add(chain.len() as u64);
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
