//! UDP echo beside tokio and C: the same clients against each server in turn, one server a process
//! on one core, the client on the other.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    Report,
    client::udp::{Client, Kind, Load, MAX_BATCH, MAX_SEND},
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
    /// Bytes of a datagram, a multiple of 8 (default: 64, and then 1,400).
    #[arg(long)]
    size: Option<usize>,
    /// Datagrams in flight (default: 256, and then 1).
    #[arg(long)]
    window: Option<usize>,
    /// Datagrams in one send of the GSO client, at most; 65,000 bytes are the other limit.
    #[arg(long, default_value_t = MAX_BATCH)]
    batch: usize,
    /// Two rounds of 0.1 seconds: whether it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Exit status 1 if the GSO client finds mbuf less than so many times as fast as tokio, with
    /// datagrams of the first size.
    #[arg(long, value_name = "TIMES")]
    require_gso: Option<f64>,
    /// The same for the plain client, with the most in flight.
    #[arg(long, value_name = "TIMES")]
    require_plain: Option<f64>,
    /// A build of the example `echo` to be measured, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    echo: Option<PathBuf>,
}

const PEERS: [Peer; 5] = [Peer::Mbuf, Peer::Tokio, Peer::Recvfrom, Peer::Mmsg, Peer::Gso];
const SIZES: [usize; 2] = [64, 1400];
const WINDOW: usize = 256;

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let (rounds, seconds) =
        if options.quick { (2, 0.1) } else { (options.rounds, options.seconds) };
    ensure!(rounds > 0, "no rounds");
    let time = Duration::try_from_secs_f64(seconds).context("--seconds")?;
    let loads = loads(options);
    process::end_orderly();
    let peers = Peers::find(&PEERS, options.echo.as_deref())?;

    let mut findings = Findings::new();
    let mut passed = true;
    for (place, load) in loads.iter().enumerate() {
        let sides = lineup::rounds(
            &peers,
            Transport::Udp,
            rounds,
            |port| {
                let mut client = Client::connect(port, *load)?;
                client.probe()?;
                Ok(client)
            },
            |server, client, counts| {
                Sample::take(server, client, if counts { time } else { WARM_UP })
            },
        )?;
        let times = findings.add(&case(load), None, &sides);
        // The first load of each kind is the one that something may be required of.
        let first = loads[..place].iter().all(|earlier| earlier.kind != load.kind);
        let required = match load.kind {
            Kind::Gso => options.require_gso,
            Kind::Plain => options.require_plain,
        };
        if first && required.is_some_and(|required| times.is_none_or(|times| times < required)) {
            passed = false;
        }
    }
    let mut figures = findings.finish("udp", rounds, seconds, &peers);
    figures["batch"] = json!(options.batch);
    if !passed {
        println!("FAILED: mbuf is slower than required");
    }
    Ok(Report { passed, figures })
}

/// Every kind of client with every size and window. With one datagram in flight there is nothing to
/// be sent at once.
fn loads(options: &Options) -> Vec<Load> {
    let sizes = options.size.map_or(SIZES.to_vec(), |size| vec![size]);
    let windows = options.window.map_or(vec![WINDOW, 1], |window| vec![window]);
    let mut loads = Vec::new();
    for window in windows {
        for &size in &sizes {
            for kind in [Kind::Gso, Kind::Plain] {
                if window > 1 || kind == Kind::Plain {
                    let batch = options.batch.min(MAX_SEND / size.max(1));
                    loads.push(Load { kind, size, window, batch });
                }
            }
        }
    }
    loads
}

fn case(load: &Load) -> String {
    let flight = match load.window {
        1 => "ping-pong".to_owned(),
        window => format!("{window} in flight"),
    };
    match load.kind {
        Kind::Gso => format!("UDP, {} B, {flight}, GSO client", load.size),
        Kind::Plain => format!("UDP, {} B, {flight}, plain client", load.size),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn cases(line: &str) -> Vec<String> {
        let line = Line::parse_from(line.split_whitespace());
        loads(&line.options).iter().map(case).collect()
    }

    #[test]
    fn what_is_done_if_nothing_is_said_and_if_something_is() {
        let usual = cases("udp");
        assert_eq!(usual.len(), 6, "{usual:?}");
        assert_eq!(usual[0], "UDP, 64 B, 256 in flight, GSO client");
        assert_eq!(usual[5], "UDP, 1400 B, ping-pong, plain client");
        let asked = cases("udp --size 512 --window 8");
        assert_eq!(asked[1..], ["UDP, 512 B, 8 in flight, plain client"]);
    }
}
