//! The server: listeners, a reactor, and the echo layer of `mbuf-protocols`.

use std::{io::Write, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use indicatif::HumanBytes;
use mbuf::{
    BuildError, Class, Pool,
    io::{
        Datagram, DatagramOptions, raise_file_limit,
        reactor::{Reactor, ReactorBuilder},
    },
    stack::{Edge, Stack},
};
use mbuf_protocols::Echo;

use crate::{
    cli::ServeArgs,
    common::{
        print,
        stop::{self, Stop},
    },
    report,
};

/// With `--busy-poll`: how long to look for work before sleeping.
const SPIN: Duration = Duration::from_millis(50);

/// Where to listen.
#[derive(Debug, Clone, Default)]
pub struct Places {
    pub tcp: Vec<SocketAddr>,
    pub udp: Vec<SocketAddr>,
    pub unix: Vec<PathBuf>,
}

/// The command `serve`. Whether nothing was left in use.
pub fn run(args: &ServeArgs) -> anyhow::Result<bool> {
    let mut places =
        Places { tcp: args.tcp.clone(), udp: args.udp.clone(), unix: args.unix.clone() };
    if args.tcp.is_empty() && args.udp.is_empty() && args.unix.is_empty() {
        let usual = ServeArgs::DEFAULT.parse().context("the default address")?;
        (places.tcp, places.udp) = (vec![usual], vec![usual]);
    }
    let files = raise_file_limit().context("limit of open files")?;
    let pool = Pool::with_memory(args.memory).context("--memory")?;
    let spin = if args.busy_poll { SPIN } else { Duration::ZERO };
    let builder = Reactor::builder(&pool)
        .max_connections(args.max_connections as usize)
        .grace(stop::GRACE)
        .idle_timeout((!args.idle.is_zero()).then_some(args.idle))
        .busy_poll(spin);
    let stop = Stop::on_signals("echo", 1)?;
    let (mut reactor, places) = listen(builder, &pool, &places, args.busy_poll)?;
    stop.ends(reactor.handle());

    eprintln!("echo (RFC 862): neither encrypted nor authenticated; Ctrl-C ends it");
    eprintln!(
        "{} for packets, at most {} connections, {files} open files",
        HumanBytes(args.memory as u64),
        args.max_connections
    );
    announce(&places)?;
    reactor.run().context("epoll_wait")?;

    print::say(format_args!("{}", reactor.stats()));
    drop(reactor);
    Ok(report::print_pool("server", &pool))
}

/// A reactor that serves echo at all these places, and where they are after the system has chosen
/// the ports that were left to it.
pub fn listen(
    builder: ReactorBuilder,
    pool: &Pool,
    places: &Places,
    busy_poll: bool,
) -> anyhow::Result<(Reactor, Places)> {
    let mut reactor = builder.build().context("reactor")?;
    let mut bound = Places::default();
    for &address in &places.tcp {
        bound.tcp.push(reactor.listen_tcp(address, |_, pool| connection(pool))?);
    }
    for path in &places.unix {
        reactor.listen_unix(path, |_, pool| connection(pool))?;
        bound.unix.push(path.clone());
    }
    for &address in &places.udp {
        let options = DatagramOptions {
            // What GRO joins needs 64 KiB in one piece, which a small pool does not have.
            gro: pool.stats().class(Class::K64).total > 0,
            // Bursts wait here while a turn is busy elsewhere.
            recv_buffer: Some(4 << 20),
            busy_poll: busy_poll.then_some(SPIN),
            ..DatagramOptions::default()
        };
        let socket = Datagram::bind(address, &options)?;
        bound.udp.push(socket.local_addr().unwrap_or(address));
        // Echo is stateless, so that one layer serves all peers.
        let stack = Stack::pile(pool, Edge::Packets, vec![Box::new(Echo::new())])?;
        reactor.datagram(socket, stack)?;
    }
    Ok((reactor, bound))
}

/// The stack of one connection: the echo layer, alone.
fn connection(pool: &Pool) -> Result<Stack, BuildError> {
    Stack::pile(pool, Edge::Bytes, vec![Box::new(Echo::new())])
}

/// A line for each listener, so that a script knows when and where to begin.
fn announce(places: &Places) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for address in &places.tcp {
        writeln!(out, "listening on tcp {address}")?;
    }
    for address in &places.udp {
        writeln!(out, "listening on udp {address}")?;
    }
    for path in &places.unix {
        writeln!(out, "listening on unix {}", path.display())?;
    }
    Ok(out.flush()?)
}
