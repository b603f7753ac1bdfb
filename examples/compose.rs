//! A stack from text, tried out: its layers and edges, and what it answers.
//!
//! ```text
//! cargo run --example compose -- 'packets|echo'                      what the text says
//! cargo run --example compose -- stack.toml                          the same of a TOML file
//! cargo run --example compose -- 'bytes|framing(prefix=u8, max=9)|echo' --hex < packets
//! cargo run --example compose -- 'packets|echo' --port udp:127.0.0.1:7007   on a socket
//! ```
//!
//! With `--hex`, each line of the input is a packet in base 16, with spaces where one likes; what
//! the stack sends for it is printed in the same way, with the port before it. With `--port`, given
//! once for each port of the stack, it runs on TAPs and UDP sockets until it is told to end, and
//! prints its statistics. `--list` prints the names that texts may use.

#[path = "common/mod.rs"]
mod common;

use std::{
    io::{self, BufRead, Write},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    str::FromStr,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use mbuf::{
    Class, Pool,
    io::{
        Datagram, DatagramOptions, TunTap,
        reactor::{Port, Reactor},
    },
    stack::{Edge, PortId, Stack},
};
use mbuf_protocols::Registry;

use crate::common::{print, stop};

#[derive(Parser)]
#[command(about = "Builds a stack from text, and tries it out")]
struct Cli {
    /// A pile such as `packets|echo`, or the name of a TOML file
    #[arg(required_unless_present = "list")]
    stack: Option<String>,
    /// Sends packets in base 16 from the input, one a line, through port 0
    #[arg(long, conflicts_with = "ports")]
    hex: bool,
    /// Runs the stack on a TAP of that name, or on a UDP socket: once for each port, in their order
    #[arg(long = "port", value_name = "tap:NAME|udp:ADDRESS")]
    ports: Vec<Below>,
    /// Prints the names of all layers
    #[arg(long)]
    list: bool,
}

/// What is below a port.
#[derive(Debug, Clone)]
enum Below {
    Tap(String),
    Udp(SocketAddr),
}

impl FromStr for Below {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("tap", name)) => Ok(Below::Tap(name.to_owned())),
            Some(("udp", address)) => {
                address.parse().map(Below::Udp).map_err(|error| format!("`{address}`: {error}"))
            }
            _ => Err("tap:NAME or udp:ADDRESS is wanted".to_owned()),
        }
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::complain(format_args!("compose: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let registry = Registry::standard();
    if cli.list {
        registry.names().for_each(|name| print::say(format_args!("{name}")));
    }
    let Some(stack) = &cli.stack else { return Ok(()) };
    let plan = if Path::new(stack).extension().is_some_and(|extension| extension == "toml") {
        let text = std::fs::read_to_string(stack).with_context(|| stack.clone())?;
        registry.plan_toml(&text).with_context(|| stack.clone())?
    } else {
        registry.plan(stack).context("the text")?
    };
    let pool = Pool::builder().headroom(128).count(Class::Small, 8192).count(Class::K2, 4096);
    let pool = pool.build()?;
    let stack = plan.build(&pool)?;
    print!("{plan}");
    if cli.hex {
        return packets(stack, &pool);
    }
    if !cli.ports.is_empty() {
        let packets = plan.ports().all(|(_, edge)| edge == Edge::Packets);
        ensure!(packets, "TAPs and UDP sockets carry packets, and a port wants bytes");
        serve(stack, &pool, &cli.ports)?;
    }
    Ok(())
}

/// Runs until a signal asks it to end.
fn serve(stack: Stack, pool: &Pool, ports: &[Below]) -> Result<()> {
    let stop = stop::Stop::on_signals("compose", 1)?;
    let mut reactor = Reactor::builder(pool).grace(stop::GRACE).build()?;
    let mut below: Vec<Box<dyn Port>> = Vec::new();
    for port in ports {
        match port {
            Below::Tap(name) => {
                let tap = TunTap::builder().tap().name(name).build()?;
                print::say(format_args!("ready: {tap}"));
                below.push(Box::new(tap));
            }
            Below::Udp(address) => {
                let socket = Datagram::bind(*address, &DatagramOptions::default())?;
                let local = socket.local_addr().unwrap_or(*address);
                print::say(format_args!("ready: {local}"));
                below.push(Box::new(socket));
            }
        }
    }
    reactor.attach(stack, below)?;
    stop.ends(reactor.handle());
    reactor.run()?;
    print::books(reactor, pool)
}

/// Each line of the input through port 0, and what comes out of any port.
fn packets(mut stack: Stack, pool: &Pool) -> Result<()> {
    let mut output = io::stdout().lock();
    stack.open();
    for (number, line) in io::stdin().lock().lines().enumerate() {
        let bytes = unhex(&line?).with_context(|| format!("line {}", number + 1))?;
        stack.input_one(PortId(0), pool.chain_from(&bytes)?);
        while stack.has_work() {
            stack.poll();
        }
        for port in 0..stack.ports() as u16 {
            while let Some(chain) = stack.poll_output(PortId(port)).pop() {
                let hex: Vec<_> =
                    chain.to_vec()?.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(output, "{port}: {}", hex.join(" "))?;
            }
            stack.flushed(PortId(port));
        }
    }
    for layer in stack.stats().layers {
        for (reason, count) in layer.drops.iter().filter(|(_, count)| *count > 0) {
            writeln!(output, "{}: {count} dropped as {reason}", layer.name)?;
        }
    }
    Ok(())
}

fn unhex(line: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = line.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    ensure!(digits.len().is_multiple_of(2), "an odd number of digits");
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).context("no digits")?;
        u8::from_str_radix(pair, 16).with_context(|| format!("`{pair}` is no byte in base 16"))
    };
    digits.chunks(2).map(byte).collect()
}
