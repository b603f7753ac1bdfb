//! Both ends in one process: a server and its clients, each a thread with a reactor and a pool.

use std::{net::SocketAddr, thread};

use anyhow::{Context, bail};
use mbuf::{Pool, io::reactor::Reactor};

use crate::{
    cli::DemoArgs,
    client::{self, Plan, Target},
    common::{
        print,
        stop::{self, Stop},
    },
    report,
    serve::{self, Places},
};

/// Memory of each of the two pools.
const MEMORY: usize = 64 << 20;
/// Connections, messages on their way of each, and bytes of a message, over TCP.
const TCP: (u32, usize, usize) = (16, 16, 1024);
/// The same over UDP. The system's usual receive buffer holds a window of this size.
const UDP: (u32, usize, usize) = (1, 256, 64);

/// The run without a command. Whether all was well.
pub fn run(args: &DemoArgs) -> anyhow::Result<bool> {
    let stop = Stop::on_signals("echo", 1)?;
    let (server_pool, client_pool) = (Pool::with_memory(MEMORY)?, Pool::with_memory(MEMORY)?);

    let any: SocketAddr = "127.0.0.1:0".parse().context("the loopback address")?;
    let places = Places { tcp: vec![any], udp: vec![any], unix: vec![] };
    let builder = Reactor::builder(&server_pool).grace(stop::GRACE);
    let (mut server, places) = serve::listen(builder, &server_pool, &places, false)?;
    // A signal ends the clients; the server ends after them, when they have had their answers.
    let handle = server.handle();
    let server = thread::Builder::new().name("server".into()).spawn(move || {
        let result = server.run();
        let stats = server.stats();
        drop(server);
        result.map(|()| stats)
    })?;

    print::say(format_args!(
        "servers on tcp {} and udp {}, clients beside them",
        places.tcp[0], places.udp[0]
    ));
    let mut runs = Vec::new();
    for (target, (connections, window, size)) in
        [(Target::Tcp(places.tcp[0]), TCP), (Target::Udp(places.udp[0]), UDP)]
    {
        if stop.is_asked() {
            break;
        }
        let plan = Plan { size, window, count: None, seconds: Some(args.seconds) };
        print::say(format_args!(
            "{target}: {connections} x {window} messages of {size} bytes at once"
        ));
        runs.push(client::measure(&target, connections, plan, &client_pool, &stop)?);
    }
    handle.shutdown().context("waking the server")?;
    let stats = match server.join() {
        Ok(result) => result.context("epoll_wait")?,
        Err(_) => bail!("the server's thread has panicked"),
    };

    print::say(format_args!(""));
    report::print_rows(runs.iter().map(|run| &run.row));
    print::say(format_args!(""));
    report::print_drops("server", &stats.drops);
    for run in &runs {
        report::print_drops(&format!("client, {}", run.row.name()), &run.stats.drops);
    }
    let clean =
        [report::print_pool("server", &server_pool), report::print_pool("client", &client_pool)];
    let failed = runs.iter().filter(|run| !report::print_failures(&run.row)).count();
    Ok(failed == 0 && clean == [true, true])
}
