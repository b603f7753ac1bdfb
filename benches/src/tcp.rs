//! TCP echo beside C, tokio, mio and socat: the same client against each server in turn, one server
//! a process on one core, the client on the other.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;

use crate::{
    Report,
    client::tcp::{BLOCK, PingPong, Streaming, Waiting},
    files::process,
    lineup::{self, Findings, Sample, WARM_UP},
    peers::{Peer, Peers, Transport},
};

#[derive(Debug, Args)]
pub struct Options {
    /// Rounds; in each, every server is driven once in every case.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that a server is driven in a round.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Connections of the second case.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Bytes of a message of the ping-pong, a multiple of 8.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Two rounds of 0.1 seconds: whether it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// A build of the example `echo` to be measured, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    echo: Option<PathBuf>,
}

const PEERS: [Peer; 6] =
    [Peer::Mbuf, Peer::MbufBusy, Peer::Epoll, Peer::Tokio, Peer::Mio, Peer::Socat];

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let (rounds, seconds) =
        if options.quick { (2, 0.1) } else { (options.rounds, options.seconds) };
    ensure!(rounds > 0 && options.connections > 0, "nothing to do");
    let time = Duration::try_from_secs_f64(seconds).context("--seconds")?;
    process::end_orderly();
    let peers = Peers::find(&PEERS, options.echo.as_deref())?;

    let mut findings = Findings::new();
    let size = options.size;
    for (connections, waiting) in
        [(1, Waiting::Asleep), (1, Waiting::Busy), (options.connections, Waiting::Asleep)]
    {
        let busy = if waiting == Waiting::Busy { ", client busy-polling" } else { "" };
        let plural = if connections == 1 { "" } else { "s" };
        let case = format!("TCP, {size} B ping-pong, {connections} connection{plural}{busy}");
        let sides = lineup::rounds(
            &peers,
            Transport::Tcp,
            rounds,
            |port| PingPong::connect(port, connections, size, waiting),
            |server, client, counts| {
                Sample::take(server, client, if counts { time } else { WARM_UP })
            },
        )?;
        findings.add(&case, None, &sides);
    }
    let sides = lineup::rounds(
        &peers,
        Transport::Tcp,
        rounds,
        Streaming::connect,
        |server, client, counts| Sample::take(server, client, if counts { time } else { WARM_UP }),
    )?;
    findings.add("TCP, 64 KiB streaming, 1 connection", Some(BLOCK), &sides);

    Ok(Report { passed: true, figures: findings.finish("tcp", rounds, seconds, &peers) })
}
