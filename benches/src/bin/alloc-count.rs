//! One operation, so many times: run under callgrind by `compare instructions`.
//!
//! ```text
//! valgrind --tool=callgrind alloc-count cluster 100000
//! ```

use std::{env, hint::black_box, process::ExitCode};

use mbuf::{
    Batch, Chain, Class, Pool, Result,
    chain::checksum,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
};
use mbuf_protocols::{
    Echo,
    net::{self, Arp, Ethernet, Ipv4, Udp, ethertype, protocol},
};
use zerocopy::IntoBytes;

/// Chains in a batch.
const BATCH: usize = 32;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (operation, times) = match &arguments[..] {
        [operation, times] => (operation.as_str(), times.parse().ok()),
        _ => ("", None),
    };
    let Some(times) = times else {
        eprintln!("usage: alloc-count OPERATION TIMES");
        return ExitCode::FAILURE;
    };
    match run(operation, times) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("alloc-count: no operation `{operation}`");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("alloc-count: {operation}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether there is such an operation.
fn run(operation: &str, times: u64) -> Result<bool> {
    let pool = Pool::builder()
        .count(Class::Small, 4096)
        .count(Class::K2, 2048)
        .build()
        .expect("a pool of a few megabytes");
    match operation {
        "loop" => {
            for n in 0..times {
                black_box(n);
            }
        }
        "small" => {
            for _ in 0..times {
                drop(black_box(pool.chain()?));
            }
        }
        "cluster" => {
            for _ in 0..times {
                drop(black_box(pool.chain_in(Class::K2, 64)?));
            }
        }
        "batch" => {
            let mut batch = Batch::with_limit(BATCH);
            for _ in 0..times / BATCH as u64 {
                pool.alloc_batch(BATCH, &mut batch)?;
                black_box(&mut batch).clear();
            }
        }
        "batch-cluster" => {
            let mut batch = Batch::with_limit(BATCH);
            for _ in 0..times / BATCH as u64 {
                pool.alloc_batch_in(Class::K2, 64, BATCH, &mut batch)?;
                black_box(&mut batch).clear();
            }
        }
        "prepend" => {
            let mut chain = pool.chain_from(&[0; 32])?;
            for _ in 0..times {
                black_box(chain.prepend(14)?);
                chain.trim_front(14)?;
            }
        }
        "append" => {
            let mut chain = pool.chain_in(Class::K2, 64)?;
            for _ in 0..times {
                black_box(&mut chain).append(64)?;
                chain.trim_back(64)?;
            }
        }
        "share" => {
            let mut chain = cluster(&pool, 1000)?;
            for _ in 0..times {
                drop(black_box(chain.share()?));
            }
        }
        "chain4" => {
            for _ in 0..times {
                let mut chain = cluster(&pool, 300)?;
                for _ in 0..3 {
                    chain.concat(cluster(&pool, 300)?)?;
                }
                drop(black_box(chain));
            }
        }
        "layer" => {
            let layers = (0..LAYERS).map(|place| Box::new(Header(place)) as Box<dyn Protocol>);
            let mut stack = Stack::pile(&pool, Edge::Packets, layers.collect()).expect("a pile");
            let mut batch = Batch::with_limit(BATCH);
            for _ in 0..BATCH {
                batch.push(pool.chain_from(&[0; 4 * LAYERS + 32])?);
            }
            for _ in 0..times / (2 * LAYERS * BATCH) as u64 {
                stack.input(PORT, &mut batch);
                while let Some(chain) = stack.poll_output(PORT).pop() {
                    batch.push(chain);
                }
            }
        }
        "host" => {
            let mut hosts = [0, 1].map(|this| host(&pool, this));
            let mut batch = Batch::with_limit(BATCH);
            for _ in 0..BATCH {
                batch.push(pool.chain_from(&datagram())?);
            }
            for turn in 0..times as usize / BATCH {
                let host = &mut hosts[turn % 2];
                host.input(PORT, &mut batch);
                while let Some(chain) = host.poll_output(PORT).pop() {
                    batch.push(chain);
                }
            }
            assert_eq!(batch.len(), BATCH);
        }
        "received" => drop(black_box(received(times, || pool.chain_from(&[7; 64]))?)),
        "received-cluster" => drop(black_box(received(times, || cluster(&pool, 64))?)),
        "through" => {
            let layers = HEADERS.map(|bytes| Box::new(Strip(bytes)) as Box<dyn Protocol>);
            let mut stack = Stack::builder(&pool);
            stack.egress(1 << 20, 4 * times as usize, 1 << 20);
            let layers = layers.map(|layer| stack.layer_boxed(layer));
            stack.port(Edge::Packets, layers[0]);
            layers.windows(2).for_each(|pair| _ = stack.stack(pair[0], pair[1]));
            let mut stack = stack.build().expect("a pile");
            let mut batch = Batch::with_limit(BATCH);
            let mut packets = received(times, || cluster(&pool, 64))?.into_iter();
            while packets.len() > 0 {
                packets.by_ref().take(BATCH).for_each(|packet| batch.push(packet));
                stack.input(PORT, &mut batch);
            }
            assert_eq!(stack.poll_output(PORT).len() as u64, times);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The two hosts of `host`, which answer each other for ever.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const ADDRESSES: [[u8; 4]; 2] = [[192, 0, 2, 1], [192, 0, 2, 2]];
const PORTS: [u16; 2] = [40_001, 40_002];

/// One of them: Ethernet, ARP, IPv4, UDP, and echo on its port.
fn host(pool: &Pool, this: usize) -> Stack {
    let (mac, address, other) = (MACS[this], ADDRESSES[this], 1 - this);
    let mut builder = Stack::builder(pool);
    let ethernet = builder.layer(Ethernet::new(mac));
    let arp = Arp::new(mac, address.into(), 24).announce(false);
    let arp = builder.layer(arp.neighbour(ADDRESSES[other].into(), MACS[other]));
    let ipv4 = builder.layer(Ipv4::new(address.into(), 24));
    let udp = builder.layer(Udp::new());
    let echo = builder.layer(Echo::new());
    builder.port(Edge::Packets, ethernet);
    builder.bind(ethernet, ethertype::ARP, arp).bind(ethernet, ethertype::IPV4, arp);
    builder.stack(arp, ipv4).bind(ipv4, protocol::UDP, udp);
    builder.bind(udp, PORTS[this].into(), echo);
    let mut stack = builder.build().expect("the layers of a host");
    stack.open();
    stack
}

/// What the second sends to the first: 64 bytes.
fn datagram() -> Vec<u8> {
    let [here, there] = [0, 1];
    let link = net::ethernet::Header {
        destination: MACS[here],
        source: MACS[there],
        ethertype: (ethertype::IPV4 as u16).into(),
    };
    let mut ip = net::ipv4::Header {
        version_ihl: 0x45,
        tos: 0,
        total_length: 92.into(),
        identification: 0.into(),
        fragment: 0.into(),
        ttl: 64,
        protocol: protocol::UDP as u8,
        checksum: 0.into(),
        source: ADDRESSES[there],
        destination: ADDRESSES[here],
    };
    ip.checksum = checksum::of(ip.as_bytes()).into();
    let udp = net::udp::Header {
        source: PORTS[there].into(),
        destination: PORTS[here].into(),
        length: 72.into(),
        checksum: 0.into(),
    };
    [link.as_bytes(), ip.as_bytes(), udp.as_bytes(), &[7; 64]].concat()
}

/// So many packets, each in buffers of its own.
fn received(times: u64, make: impl Fn() -> Result<Chain>) -> Result<Vec<Chain>> {
    let mut packets = Vec::with_capacity(times as usize);
    for _ in 0..times {
        packets.push(make()?);
    }
    Ok(packets)
}

/// The headers in `through`: Ethernet, IPv4, UDP.
const HEADERS: [usize; 3] = [14, 20, 8];

/// Looks at a header of so many bytes and strips it on the way up, and puts one on on the way down;
/// that of UDP answers.
struct Strip(usize);

impl Protocol for Strip {
    fn name(&self) -> &str {
        "strip"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).min_header(self.0).prepends(self.0)
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let looked = chain.pullup(self.0).map(|header| black_box(header.iter().sum::<u8>()));
        if looked.is_err() || chain.trim_front(self.0).is_err() {
            return cx.drop(chain, DropReason::SHORT);
        }
        if self.0 != HEADERS[2] {
            return cx.up(chain);
        }
        match chain.prepend_slice(&[0; 8]) {
            Ok(()) => cx.reply(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.prepend_slice(&[0; 20][..self.0]) {
            Ok(()) => cx.down(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }
}

/// Layers of the stack in `layer`: each is passed twice, up and down.
const LAYERS: usize = 8;
const PORT: PortId = PortId(0);

/// Strips four bytes on the way up and puts them back on the way down; the uppermost replies.
struct Header(usize);

impl Protocol for Header {
    fn name(&self) -> &str {
        "header"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).min_header(4).prepends(4)
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.strip::<[u8; 4]>() {
            Err(_) => cx.drop(chain, DropReason::SHORT),
            Ok(_) if self.0 + 1 < LAYERS => cx.up(chain),
            Ok(_) => {
                let _ = chain.push(&[0u8; 4]);
                cx.reply(chain)
            }
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.push(&[0u8; 4]) {
            Ok(()) => cx.down(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }
}

/// A chain of one 2 KiB cluster with so many bytes in it.
fn cluster(pool: &Pool, bytes: usize) -> Result<Chain> {
    let mut chain = pool.chain_in(Class::K2, 64)?;
    chain.append(bytes)?;
    Ok(chain)
}
