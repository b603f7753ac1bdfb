//! Files and folders over TCP, whole: a receiver, a sender, and both at once.
//!
//! ```text
//! cargo run --release --example file                      both ends, for a few seconds
//! cargo run --release --example file -- receive --into inbox
//! cargo run --release --example file -- send photos notes.txt
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `cli.rs` | the command line |
//! | `receive.rs` | the receiver: a listener, a folder, and a layer from `mbuf-protocols` |
//! | `send.rs` | the sender: one connection, and the other layer |
//! | `walk.rs` | what is sent: the files and folders that were named, and what is below them |
//! | `demo.rs` | both ends, in two processes, and a comparison byte by byte |
//! | `transfer.rs` | one transfer, as its layer tells of it, and what is said of it |
//! | `printer.rs`, `bars.rs` | lines and progress, printed by a thread of their own |
//! | `../common/` | what the examples have in common: printing, sizes and times, Ctrl-C |

mod bars;
mod cli;
#[path = "../common/mod.rs"]
mod common;
mod demo;
mod printer;
mod receive;
mod send;
mod transfer;
mod walk;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command},
    common::print,
};

/// How the program ends: its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// All has arrived.
    Whole = 0,
    /// Some files failed.
    Partly = 1,
    /// No connection, connection lost, or trouble with the protocol.
    Broken = 3,
    /// Trouble on this side.
    Local = 4,
    /// A signal ended it.
    Interrupted = 130,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Send(args)) = &cli.command
        && let Err(error) = args.check()
    {
        error.exit();
    }
    let result = match cli.command {
        None => demo::run(&cli.demo),
        Some(Command::Receive(args)) => receive::run(&args),
        Some(Command::Send(args)) => send::run(&args),
    };
    let status = result.unwrap_or_else(|error| {
        print::complain(format_args!("file: {error:#}"));
        Status::Local
    });
    ExitCode::from(status as u8)
}
