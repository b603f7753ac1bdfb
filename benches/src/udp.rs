//! UDP echo beside tokio and a recvfrom loop: the same client against each server in turn, one
//! server a process on one core, the client on the other.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    Report, machine,
    peers::Peer,
    server::{self, Server},
    table::{Spread, Table, grouped},
    udp_client::{Client, Kind, Load, MAX_BATCH},
};

#[derive(Debug, Args)]
pub struct Options {
    /// Rounds; in each, every client drives every server once.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that a client drives a server in a round.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Bytes of a datagram, a multiple of 8.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Datagrams in flight.
    #[arg(long, default_value_t = 256)]
    window: usize,
    /// Datagrams in one send of the GSO client.
    #[arg(long, default_value_t = MAX_BATCH)]
    batch: usize,
    /// Two rounds of 0.2 seconds: whether it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Exit status 1 if the GSO client finds mbuf less than so many times as fast as tokio.
    #[arg(long, value_name = "TIMES")]
    require_gso: Option<f64>,
    /// The same for the plain client.
    #[arg(long, value_name = "TIMES")]
    require_plain: Option<f64>,
    /// A build of the example `echo` to be measured, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    echo: Option<PathBuf>,
}

const SERVERS: [&str; 3] = ["mbuf", "tokio", "recvfrom"];
const MBUF: usize = 0;
const TOKIO: usize = 1;
const CLIENTS: [Kind; 2] = [Kind::Gso, Kind::Plain];
/// Runs before the first round that are not counted.
const WARM_UP: Duration = Duration::from_millis(200);

/// One client driving one server once.
#[derive(Debug, Clone, Copy)]
struct Sample {
    rate: f64,
    cpu_nanos: f64,
    lost: u64,
}

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let (rounds, seconds) =
        if options.quick { (2, 0.2) } else { (options.rounds, options.seconds) };
    ensure!(rounds > 0, "no rounds");
    let time = Duration::try_from_secs_f64(seconds).context("--seconds")?;

    let echo = server::example_program("echo", options.echo.as_deref())?;
    let mut servers = Vec::new();
    let mut clients = Vec::new();
    for (index, name) in SERVERS.into_iter().enumerate() {
        let port = server::free_udp_port()?;
        let mut server = Server::start(name, command(index, &echo, port)?)?;
        let load =
            |kind| Load { kind, size: options.size, window: options.window, batch: options.batch };
        let mut pair = Vec::new();
        for kind in CLIENTS {
            let mut client = Client::connect(port, load(kind))?;
            server::wait_until_ready(&mut server, || client.probe())?;
            pair.push(client);
        }
        servers.push(server);
        clients.push(pair);
    }

    // The servers are started from here, so this thread is pinned only now.
    machine::pin(machine::CLIENT_CORE);
    let mut samples = [(); 3].map(|()| [(); 2].map(|()| Vec::new()));
    for round in 0..=rounds {
        for (index, server) in servers.iter_mut().enumerate() {
            for (client, samples) in clients[index].iter_mut().zip(&mut samples[index]) {
                let sample = measure(server, client, if round == 0 { WARM_UP } else { time })
                    .with_context(|| format!("the server `{}`", SERVERS[index]))?;
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
    }
    drop(clients);
    for (name, server) in SERVERS.into_iter().zip(servers) {
        let (status, printed) = server.stop()?;
        // Only ours promises to end cleanly; the others are ended by the signal.
        ensure!(name != "mbuf" || status.success(), "echo serve: {status}\n{printed}");
    }
    Ok(report(options, rounds, seconds, &samples))
}

fn command(index: usize, echo: &Path, port: u16) -> anyhow::Result<Command> {
    if index == MBUF {
        let mut command = Command::new(echo);
        command.args(["serve", "--udp", &format!("127.0.0.1:{port}")]);
        return Ok(command);
    }
    let peer = if index == TOKIO { Peer::Tokio } else { Peer::Recvfrom };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", &format!("{peer:?}").to_lowercase(), &port.to_string()]);
    Ok(command)
}

fn measure(server: &mut Server, client: &mut Client, time: Duration) -> anyhow::Result<Sample> {
    server.alive()?;
    // Whatever the last run left to do is done before the clock starts.
    thread::sleep(Duration::from_millis(5));
    let before = server.cpu_nanos()?;
    let (tally, elapsed) = client.run(time)?;
    let after = server.cpu_nanos()?;
    ensure!(tally.echoed > 0, "not one datagram came back");
    Ok(Sample {
        rate: tally.echoed as f64 / elapsed.as_secs_f64(),
        cpu_nanos: (after - before) as f64 / tally.echoed as f64,
        lost: tally.lost,
    })
}

fn report(
    options: &Options,
    rounds: usize,
    seconds: f64,
    samples: &[[Vec<Sample>; 2]; 3],
) -> Report {
    println!(
        "UDP echo on loopback, {} datagrams of {} bytes in flight; {rounds} rounds of {seconds} s, \
         interleaved; server on core {}, client on core {}; median (minimum-maximum)\n",
        options.window,
        options.size,
        machine::SERVER_CORE,
        machine::CLIENT_CORE,
    );
    let mut table = Table::new([
        "client, server",
        "messages/s",
        "server CPU ns/message",
        "times tokio",
        "lost",
    ]);
    let mut figures = Vec::new();
    let mut passed = true;
    for (column, kind) in CLIENTS.into_iter().enumerate() {
        for (index, name) in SERVERS.into_iter().enumerate() {
            let mine = &samples[index][column];
            let rate = Spread::of(mine.iter().map(|sample| sample.rate));
            let cpu = Spread::of(mine.iter().map(|sample| sample.cpu_nanos));
            // Each round against tokio's run in the same round: that is what repeats.
            let tokio = &samples[TOKIO][column];
            let ratio =
                Spread::of(mine.iter().zip(tokio).map(|(mine, tokio)| mine.rate / tokio.rate));
            let lost: u64 = mine.iter().map(|sample| sample.lost).sum();
            table.row([
                format!("{}, {name}", show(kind)),
                rate.show(0),
                cpu.show(0),
                ratio.show(2),
                grouped(lost as f64, 0),
            ]);
            figures.push(json!({
                "client": show(kind),
                "server": name,
                "messages_per_second": rate.json(),
                "server_cpu_nanos_per_message": cpu.json(),
                "times_tokio": ratio.json(),
                "lost": lost,
                "rounds": rounds_json(mine),
            }));
            let required =
                if kind == Kind::Gso { options.require_gso } else { options.require_plain };
            if index == MBUF && required.is_some_and(|required| ratio.median < required) {
                passed = false;
            }
        }
    }
    println!("{table}");
    if !passed {
        println!("FAILED: mbuf is slower than required");
    }
    let figures = json!({
        "benchmark": "udp",
        "size": options.size,
        "window": options.window,
        "batch": options.batch,
        "seconds": seconds,
        "results": figures,
    });
    Report { passed, figures }
}

fn show(kind: Kind) -> &'static str {
    match kind {
        Kind::Gso => "GSO",
        Kind::Plain => "plain",
    }
}

fn rounds_json(samples: &[Sample]) -> Vec<Value> {
    let one = |sample: &Sample| {
        json!({
            "messages_per_second": sample.rate,
            "server_cpu_nanos_per_message": sample.cpu_nanos,
            "lost": sample.lost,
        })
    };
    samples.iter().map(one).collect()
}
