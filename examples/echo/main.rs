//! Echo (RFC 862), whole: a server, a client that verifies every byte, and both at once.
//!
//! ```text
//! cargo run --release --example echo                      servers and clients in this process
//! cargo run --release --example echo -- serve             a server, for `nc`, `socat`, anything
//! cargo run --release --example echo -- client --udp 127.0.0.1:7007
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `cli.rs` | the command line |
//! | `serve.rs` | the server: listeners, a reactor, and one layer from `mbuf-protocols` |
//! | `client.rs` | the client: sessions on a reactor of its own |
//! | `stream.rs`, `datagram.rs` | the client's two protocols, each an ordinary `Protocol` |
//! | `pattern.rs` | what is sent: bytes that depend on their place, so that any mix-up shows |
//! | `demo.rs` | both at once, over TCP and then over UDP |
//! | `record.rs`, `report.rs` | what is measured, and how it is printed |
//! | `../common/` | what the examples have in common: printing, sizes and times, Ctrl-C |

mod cli;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod datagram;
mod demo;
mod pattern;
mod record;
mod report;
mod serve;
mod stream;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command},
    common::print,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Client(args)) = &cli.command
        && let Err(error) = args.check()
    {
        error.exit();
    }
    let result = match &cli.command {
        None => demo::run(&cli.demo),
        Some(Command::Serve(args)) => serve::run(args),
        Some(Command::Client(args)) => client::run(args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print::complain(format_args!("echo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
