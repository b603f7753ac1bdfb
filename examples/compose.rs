//! A stack from text, tried out: its layers and edges, and what it answers.
//!
//! ```text
//! cargo run --example compose -- 'packets|echo'                      what the text says
//! cargo run --example compose -- stack.toml                          the same of a TOML file
//! cargo run --example compose -- 'bytes|framing(prefix=u8, max=9)|echo' --hex < packets
//! cargo run --example compose -- 'packets|echo' --udp 127.0.0.1:7007  on a socket
//! ```
//!
//! With `--hex`, each line of the input is a packet in base 16, with spaces where one likes; what
//! the stack sends for it is printed in the same way, with the port before it. `--list` prints the
//! names that texts may use.

use std::{
    io::{self, BufRead, Write},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use mbuf::{
    Class, Pool,
    io::reactor::Reactor,
    stack::{Edge, PortId, Stack},
};
use mbuf_protocols::Registry;

#[derive(Parser)]
#[command(about = "Builds a stack from text, and tries it out")]
struct Cli {
    /// A pile such as `packets|echo`, or the name of a TOML file
    #[arg(required_unless_present = "list")]
    stack: Option<String>,
    /// Sends packets in base 16 from the input, one a line, through port 0
    #[arg(long, conflicts_with = "udp")]
    hex: bool,
    /// Runs the stack on a UDP socket at this address
    #[arg(long, value_name = "ADDRESS")]
    udp: Option<SocketAddr>,
    /// Prints the names of all layers
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compose: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let registry = Registry::standard();
    if cli.list {
        registry.names().for_each(|name| println!("{name}"));
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
    if let Some(address) = cli.udp {
        let edge = plan.ports().next().map(|(_, edge)| edge);
        ensure!(edge == Some(Edge::Packets), "a UDP socket wants packets at port 0");
        let mut reactor = Reactor::builder(&pool).build()?;
        let address = reactor.listen_udp(address, stack)?;
        println!("ready: {address}");
        reactor.run()?;
    }
    Ok(())
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
