//! Your first protocol: greetings that are counted.
//!
//! ```text
//!  0        1                             5
//! +--------+--------------------------------+----------- - -
//! |  kind  |   number (high byte first)     |  a name
//! +--------+--------------------------------+----------- - -
//!    1: hello, number n     2: answer, I have heard n of you
//! ```
//!
//! A caller says hello 1, hello 2, hello 3, each when the one before was answered. The server
//! counts what each caller has said. The protocol is [`Hello`] below, in forty lines; the rest of
//! this file runs it, unchanged,
//!
//! 1. over a TCP stream, with a layer below it that cuts the stream into packets;
//! 2. over a UDP socket, for two callers at a time, each with a count of its own;
//! 3. over a line in memory that loses, repeats and reorders what it is given;
//! 4. with `--tap`, instead: over our Ethernet, IPv4 and UDP behind a TAP, called by the kernel's.
//!
//! `cargo run --example hello` prints what happens, and fails if a count is ever wrong. A TAP needs
//! root, or a network namespace of one's own: `unshare -rn cargo run --example hello -- --tap`.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mbuf::{
    BuildError, Chain, Pool,
    io::{Datagram, DatagramOptions, TunTap, reactor::Reactor},
    stack::{
        Context, DropReason, Edge, LayerInfo, Outcome, Protocol, Sessions, Signal, Stack, Timer,
    },
    testing::{Faults, Pair},
};
use mbuf_protocols::{
    Framing, Prefix,
    net::{Arp, Ethernet, Ipv4, Udp, ethertype, protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U32,
};

// ANCHOR: header
/// The header of each message, as it is on the wire.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Greeting {
    kind: u8,
    number: U32,
}

const HELLO: u8 = 1;
const ANSWER: u8 = 2;
// ANCHOR_END: header

// ANCHOR: protocol
/// Answers each greeting with the number of greetings heard from this peer.
#[derive(Default)]
pub(crate) struct Hello {
    heard: u32,
}

impl Protocol for Hello {
    fn name(&self) -> &str {
        "hello"
    }

    /// Packets below, nothing above. The stack makes the header contiguous before `input` sees it,
    /// drops what is shorter, and keeps room for a header in front of what goes down.
    fn info(&self) -> LayerInfo {
        let header = size_of::<Greeting>();
        LayerInfo::new(Edge::Packets, Edge::Any).min_header(header).prepends(header)
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(greeting) = chain.strip::<Greeting>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        if greeting.kind != HELLO {
            return cx.drop(chain, DropReason::MALFORMED);
        }
        // One whose answer was lost comes again: it is answered again, and counted once.
        if greeting.number.get() == self.heard.wrapping_add(1) {
            self.heard = greeting.number.get();
        }
        match chain.push(&Greeting { kind: ANSWER, number: self.heard.into() }) {
            Ok(()) => cx.reply(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }

    /// From above, where nothing is.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}
// ANCHOR_END: protocol

/// How often each caller says hello.
const CALLS: u32 = 5;
/// How long a caller waits for an answer before it says the same again.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often it does so before it gives up.
const TRIES: u32 = 50;

/// An answer that the caller has had before.
const REPEATED: DropReason = DropReason("repeated");

/// The counts that a caller was told, in order. The program looks at them in the end.
type Told = Arc<Mutex<Vec<u32>>>;

// ANCHOR: caller
/// The other side: says hello `CALLS` times, and closes when the last was answered.
struct Caller {
    name: &'static str,
    saying: u32,
    tries: u32,
    again: Option<Timer>,
    told: Told,
}

impl Caller {
    fn new(name: &'static str, told: &Told) -> Self {
        Self { name, saying: 1, tries: 0, again: None, told: told.clone() }
    }

    fn say(&mut self, cx: &mut Context<'_>) {
        let greeting = Greeting { kind: HELLO, number: self.saying.into() };
        let chain = cx.pool().chain_from(self.name.as_bytes());
        // With no buffers, nothing is said now: the timer is there for that, too.
        if let Ok(mut chain) = chain
            && chain.push(&greeting).is_ok()
        {
            cx.made(1);
            cx.send_down(chain);
        }
        self.again = cx.arm(PATIENCE);
    }
}

impl Protocol for Caller {
    fn name(&self) -> &str {
        self.name
    }

    /// Half-open: it closes when it is done, not when the program wants to end.
    fn info(&self) -> LayerInfo {
        let header = size_of::<Greeting>();
        LayerInfo::new(Edge::Packets, Edge::Any)
            .min_header(header)
            .prepends(header)
            .half_open()
            .reasons(&[REPEATED])
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Opened => self.say(cx),
            Signal::EndOfStream | Signal::Shutdown => cx.close(),
            _ => {}
        }
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(answer) = chain.strip::<Greeting>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        let Some(timer) = self.again.take_if(|_| answer.number.get() == self.saying) else {
            return cx.drop(chain, REPEATED);
        };
        cx.cancel(timer);
        println!("  {}: the server has heard {} of me", self.name, answer.number);
        self.told.lock().unwrap().push(answer.number.get());
        if self.saying == CALLS {
            cx.close();
        } else {
            self.saying += 1;
            self.tries = 0;
            self.say(cx);
        }
        cx.consumed(chain)
    }

    fn timeout(&mut self, _: Timer, cx: &mut Context<'_>) {
        self.again = None;
        self.tries += 1;
        if self.tries == TRIES {
            println!("  {}: nobody answers", self.name);
            cx.close();
        } else {
            println!("  {}: no answer to hello {}, once more", self.name, self.saying);
            self.say(cx);
        }
    }

    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}
// ANCHOR_END: caller

pub(crate) fn main() -> Result<()> {
    let pool = Pool::with_memory(8 << 20)?;
    if std::env::args().any(|argument| argument == "--tap") {
        over_a_tap(&pool)?;
    } else {
        over_tcp(&pool)?;
        over_udp(&pool)?;
        over_a_bad_line(&pool)?;
    }
    ensure!(pool.stats().in_use() == 0, "buffers are still in use:\n{}", pool.stats());
    Ok(())
}

// ANCHOR: tcp
/// A stream has no packets: `Framing` puts two bytes of length before each.
fn framed(pool: &Pool, protocol: impl Protocol + 'static) -> Result<Stack, BuildError> {
    let framing = Framing::new(Prefix::U16Be, 1024)?;
    Stack::pile(pool, Edge::Bytes, vec![Box::new(framing), Box::new(protocol)])
}

fn over_tcp(pool: &Pool) -> Result<()> {
    println!("over TCP:");
    let mut reactor = Reactor::builder(pool).build()?;
    let server =
        reactor.listen_tcp("127.0.0.1:0".parse()?, |_, pool| framed(pool, Hello::default()))?;

    let told = Told::default();
    reactor.connect_tcp(server, framed(pool, Caller::new("tom", &told))?)?;
    run(&mut reactor, &[&told])
}
// ANCHOR_END: tcp

// ANCHOR: udp
/// A datagram is a packet, but one socket has many peers: `Sessions` makes each its own `Hello`.
fn over_udp(pool: &Pool) -> Result<()> {
    println!("over UDP, two at a time:");
    let mut reactor = Reactor::builder(pool).build()?;
    let sessions = Sessions::new(|_peer, pool| packets(pool, Hello::default()));
    let server = reactor.listen_udp("127.0.0.1:0".parse()?, packets(pool, sessions)?)?;

    let (anna, ben) = (Told::default(), Told::default());
    for (name, told) in [("anna", &anna), ("ben", &ben)] {
        let socket = Datagram::connect(server, &DatagramOptions::default())?;
        reactor.datagram(socket, packets(pool, Caller::new(name, told))?)?;
    }
    run(&mut reactor, &[&anna, &ben])
}

fn packets(pool: &Pool, protocol: impl Protocol + 'static) -> Result<Stack, BuildError> {
    Stack::pile(pool, Edge::Packets, vec![Box::new(protocol)])
}
// ANCHOR_END: udp

// ANCHOR: link
/// No socket and no reactor: the test kit joins two stacks by a line with faults, in virtual time.
fn over_a_bad_line(pool: &Pool) -> Result<()> {
    println!("over a line that loses one packet in five, repeats and reorders others:");
    let told = Told::default();
    let caller = packets(pool, Caller::new("lucy", &told))?;
    let server = packets(pool, Hello::default())?;
    let faults = Faults::none().loss(200).duplicate(100).reorder(200);
    let mut pair = Pair::packets(pool, caller, server, 42, faults);
    pair.run()?;
    check(&told)
}
// ANCHOR_END: link

// ANCHOR: tap
/// The caller has the kernel's UDP, IP and Ethernet below it, and the server has ours.
fn over_a_tap(pool: &Pool) -> Result<()> {
    println!("over a TAP:");
    let (mac, address, port) = ([2, 0, 0, 0, 0, 2], Ipv4Addr::new(10, 7, 7, 2), 4000);
    let tap = TunTap::builder().tap().address(Ipv4Addr::new(10, 7, 7, 1).into(), 24).build()?;

    let mut builder = Stack::builder(pool);
    let ethernet = builder.layer(Ethernet::new(mac));
    let arp = builder.layer(Arp::new(mac, address, 24));
    let ip = builder.layer(Ipv4::new(address, 24));
    let udp = builder.layer(Udp::new());
    let hello = builder.layer(Sessions::new(|_peer, pool| packets(pool, Hello::default())));
    builder.port(Edge::Packets, ethernet);
    builder.bind(ethernet, ethertype::ARP, arp).bind(ethernet, ethertype::IPV4, arp);
    builder.stack(arp, ip).bind(ip, protocol::UDP, udp).bind(udp, port.into(), hello);

    let mut reactor = Reactor::builder(pool).build()?;
    reactor.attach(builder.build()?, vec![Box::new(tap)])?;
    let told = Told::default();
    let socket = Datagram::connect((address, port).into(), &DatagramOptions::default())?;
    reactor.datagram(socket, packets(pool, Caller::new("zoe", &told))?)?;
    run(&mut reactor, &[&told])
}
// ANCHOR_END: tap

/// Drives everything until the callers were told all, then ends it in good order.
fn run(reactor: &mut Reactor, callers: &[&Told]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE * TRIES;
    while callers.iter().any(|told| told.lock().unwrap().len() < CALLS as usize)
        && Instant::now() < deadline
    {
        reactor.poll(Some(PATIENCE))?;
    }
    reactor.shutdown();
    reactor.run()?;
    callers.iter().try_for_each(|told| check(told))
}

/// Each greeting was counted once, in order, and for the right caller.
fn check(told: &Told) -> Result<()> {
    let told = told.lock().unwrap();
    ensure!(told.iter().copied().eq(1..=CALLS), "a caller was told {told:?}");
    Ok(())
}
