//! Measures mbuf beside its peers. Every comparison runs all sides in one run, driven by the same
//! client, interleaved, several times, and prints medians with minimum and maximum.
//!
//! `all` runs every benchmark and writes its figures to `results/`; `report` makes
//! `docs/benchmarks.md` of them. Each is a command as well; `instructions` and `counts` fail above
//! the ceilings of `ceilings.txt` and `counts.txt`, whatever the machine does meanwhile.
//!
//! ```text
//! cargo run --release --manifest-path benches/Cargo.toml -- all
//! cargo run --release --manifest-path benches/Cargo.toml -- report
//!
//! cargo run --release --manifest-path benches/Cargo.toml -- micro
//! cargo run --release --manifest-path benches/Cargo.toml -- instructions
//! cargo run --release --manifest-path benches/Cargo.toml -- counts
//! cargo run --release --manifest-path benches/Cargo.toml -- udp
//! cargo run --release --manifest-path benches/Cargo.toml -- tcp
//! cargo run --release --manifest-path benches/Cargo.toml -- latency
//! cargo run --release --manifest-path benches/Cargo.toml -- tcp-many
//! cargo run --release --manifest-path benches/Cargo.toml -- tap
//! cargo run --release --manifest-path benches/Cargo.toml -- files
//! cargo run --release --manifest-path benches/Cargo.toml -- growth
//!
//! cargo run --release --manifest-path benches/Cargo.toml -- endure --seconds 3600
//! ```

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

mod all;
mod client;
mod counts;
mod endure;
mod files;
mod growth;
mod instructions;
mod latency;
mod lines;
mod lineup;
mod machine;
mod micro;
mod peers;
mod report;
mod row;
mod server;
mod table;
mod tap;
mod tcp;
mod tcp_many;
mod udp;

/// Measures mbuf beside its peers.
#[derive(Debug, Parser)]
#[command(
    name = "compare",
    version,
    after_help = "A peer that this machine lacks is named and left out; with MBUF_REQUIRE_PEERS=1 in \
                  the environment that is a failure."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Also write the figures, with those of every single round, to this file as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every benchmark in turn; the figures of each go into a folder.
    All(all::Options),
    /// Makes `docs/benchmarks.md` and its pictures from the figures of a folder.
    Report(report::Options),
    /// Buffers and parsing, in nanoseconds, beside DPDK, C by hand and crates.
    Micro(micro::Options),
    /// Instructions an operation under callgrind, checked against the committed ceilings.
    Instructions(instructions::Options),
    /// Cache lines that a packet touches, checked against the committed ceilings.
    Lines(lines::Options),
    /// System calls and heap allocations for 1,000 echoed messages, checked against the committed
    /// ceilings, beside tokio and C.
    Counts(counts::Options),
    /// UDP echo: messages a second and server CPU a message, against tokio and C.
    Udp(udp::Options),
    /// TCP echo, ping-pong and streaming, against C, tokio, mio and socat.
    Tcp(tcp::Options),
    /// How long echoed messages take at a fixed rate, against C, tokio and mio.
    Latency(latency::Options),
    /// Many TCP connections against `echo serve`: every byte compared, peak memory checked.
    TcpMany(tcp_many::Options),
    /// UDP echo by the example `host` on a TAP beside smoltcp and the kernel; super-packets.
    Tap(tap::Options),
    /// Files: `file send` and `file receive` beside nginx with curl, socat and rsync.
    Files(files::Options),
    /// How cost grows with layers, segments, the batch, threads, connections and the size of files.
    Growth(growth::Options),
    /// Hours of echo and files with faults in every system call, and a pool that runs dry: nothing
    /// may leak, hang, or come back wrong.
    Endure(endure::Options),
    /// smoltcp behind a TAP, as the host that is measured.
    #[command(hide = true)]
    ServeSmoltcp(tap::smoltcp::Options),
    /// One of the peers that are written here, as the server that is measured.
    #[command(hide = true)]
    Serve {
        /// Which one.
        peer: peers::Written,
        transport: peers::Transport,
        /// The port of 127.0.0.1 to listen on.
        port: u16,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::All(options) => return finish(all::run(&options, &Arguments::command())),
        Command::Report(options) => return finish(report::run(&options).map(|()| true)),
        Command::Micro(options) => micro::run(&options),
        Command::Instructions(options) => instructions::run(&options),
        Command::Lines(options) => lines::run(&options),
        Command::Counts(options) => counts::run(&options),
        Command::Udp(options) => udp::run(&options),
        Command::Tcp(options) => tcp::run(&options),
        Command::Latency(options) => latency::run(&options),
        Command::TcpMany(options) => tcp_many::run(&options),
        Command::Tap(options) => tap::run(&options),
        Command::Files(options) => files::run(&options),
        Command::Growth(options) => growth::run(&options),
        Command::Endure(options) => endure::run(&options),
        Command::ServeSmoltcp(options) => {
            return finish(tap::smoltcp::serve(&options).map(|()| true));
        }
        Command::Serve { peer, transport, port } => {
            return finish(peers::serve(peer, transport, port).map(|()| true));
        }
    };
    finish(outcome.and_then(|report| {
        if let Some(path) = &arguments.json {
            let mut figures = report.figures;
            figures["machine"] = machine::describe();
            std::fs::write(path, format!("{figures:#}\n"))
                .map_err(|error| anyhow::anyhow!("writing {}: {error}", path.display()))?;
        }
        Ok(report.passed)
    }))
}

/// What a comparison found.
#[derive(Debug)]
struct Report {
    /// Whether what it checks holds; if not, the program's exit status is 1.
    passed: bool,
    /// All figures, those of single rounds included.
    figures: serde_json::Value,
}

fn finish(outcome: anyhow::Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}
