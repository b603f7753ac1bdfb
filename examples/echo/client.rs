//! The client: sessions on a reactor of their own, and what they measure.

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use mbuf::{
    BuildError, Pool,
    io::{
        CallError, Datagram, DatagramOptions, raise_file_limit,
        reactor::{CloseReason, Closed, Reactor, ReactorStats},
    },
    stack::{Edge, Protocol, Stack},
};

use crate::{
    cli::ClientArgs,
    common::{
        print,
        stop::{self, Stop},
    },
    datagram::DatagramClient,
    record::{Record, Recorder},
    report::{self, Row},
    stream::{self, StreamClient},
};

/// How long to send when nothing was said.
const USUAL: Duration = Duration::from_secs(5);
/// The name under which a reactor counts datagrams that were refused for want of a listener.
const REFUSED: &str = "ECONNREFUSED";

/// Where the server is.
#[derive(Debug, Clone)]
pub enum Target {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(f, "tcp {address}"),
            Target::Udp(address) => write!(f, "udp {address}"),
            Target::Unix(path) => write!(f, "unix {}", path.display()),
        }
    }
}

/// What each session does.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Bytes of a message.
    pub size: usize,
    /// Messages on their way at once.
    pub window: usize,
    /// Messages in all.
    pub count: Option<u64>,
    /// How long to begin new ones.
    pub seconds: Option<Duration>,
}

/// The command `client`. Whether all was well.
pub fn run(args: &ClientArgs) -> anyhow::Result<bool> {
    let server = &args.server;
    let target = match (server.tcp, server.udp, &server.unix) {
        (Some(address), ..) => Target::Tcp(address),
        (_, Some(address), _) => Target::Udp(address),
        (.., Some(path)) => Target::Unix(path.clone()),
        _ => bail!("one of --tcp, --udp and --unix is needed"),
    };
    let unbounded = args.count.is_none() && args.seconds.is_none();
    let plan = Plan {
        size: args.size,
        window: args.window as usize,
        count: args.count,
        seconds: if unbounded { Some(USUAL) } else { args.seconds },
    };
    let pool = Pool::with_memory(args.memory).context("--memory")?;
    let stop = Stop::on_signals("echo", 1)?;
    let run = measure(&target, args.connections, plan, &pool, &stop)?;
    print::say(format_args!(
        "{target}: {} x {} messages of {} bytes",
        args.connections, plan.window, plan.size
    ));
    report::print_rows(std::slice::from_ref(&run.row));
    report::print_drops("client", &run.stats.drops);
    let clean = report::print_pool("client", &pool);
    Ok(report::print_failures(&run.row) && clean)
}

/// What a run came to.
#[derive(Debug)]
pub struct Run {
    pub row: Row,
    pub stats: ReactorStats,
}

/// Runs sessions against the server until they are done, with a line of progress.
pub fn measure(
    target: &Target,
    connections: u32,
    plan: Plan,
    pool: &Pool,
    stop: &Arc<Stop>,
) -> anyhow::Result<Run> {
    let record = Record::new()?;
    let mut reactor = reactor(target, connections, plan, pool, &record)?;
    stop.ends(reactor.handle());

    let started = Instant::now();
    let (done, is_done) = mpsc::channel();
    let worker = thread::Builder::new().name("client".into()).spawn(move || {
        let result = drive(&mut reactor);
        let stats = reactor.stats();
        drop(reactor);
        // Nobody listens where the program is ending already.
        let _ = done.send(());
        result.map(|()| stats)
    })?;
    show_progress(target, &record, started, &is_done);
    let stats = match worker.join() {
        Ok(result) => result.context("epoll_wait")?,
        Err(_) => bail!("the client's thread has panicked"),
    };
    let mut row = Row::new(&target.to_string(), started.elapsed(), &record);
    // Datagrams to a port where nobody listens come back as an ICMP message, if the host likes.
    let refused = stats.reported.of(REFUSED);
    if refused > 0 {
        row.explain(format!("the host says that nobody listens there ({REFUSED}, {refused} x)"));
    }
    Ok(Run { row, stats })
}

/// A reactor with all sessions, connecting.
fn reactor(
    target: &Target,
    connections: u32,
    plan: Plan,
    pool: &Pool,
    record: &Arc<Record>,
) -> anyhow::Result<Reactor> {
    let on_close = {
        let record = record.clone();
        move |closed: &Closed<'_>| note_end(&record, closed)
    };
    let mut reactor = Reactor::builder(pool)
        .max_connections(connections as usize)
        .grace(stop::GRACE)
        .on_close(on_close)
        .build()
        .context("reactor")?;
    raise_file_limit().context("limit of open files")?;
    let share = pool.stats().mapped / 4 / connections as usize;
    for index in 0..connections {
        let recorder = Recorder::new(record);
        // The errors name the address.
        let connect = || format!("connection {index}");
        match target {
            Target::Tcp(address) => {
                let client = StreamClient::new(plan, recorder, index);
                let stack = stack(pool, share, Edge::Bytes, client)?;
                reactor.connect_tcp(*address, stack).with_context(connect)?;
            }
            Target::Unix(path) => {
                let client = StreamClient::new(plan, recorder, index);
                let stack = stack(pool, share, Edge::Bytes, client)?;
                reactor.connect_unix(path, stack).with_context(connect)?;
            }
            Target::Udp(address) => {
                let client = DatagramClient::new(plan, recorder, index);
                let stack = stack(pool, share, Edge::Packets, client)?;
                let socket = Datagram::connect(*address, &DatagramOptions::default())?;
                reactor.datagram(socket, stack).with_context(connect)?;
            }
        }
    }
    Ok(reactor)
}

/// A stack of this one layer. What all of them may have queued to be sent is a quarter of the
/// memory, so that there is always some left to receive what the server must be rid of first.
fn stack(
    pool: &Pool,
    share: usize,
    edge: Edge,
    client: impl Protocol + 'static,
) -> Result<Stack, BuildError> {
    let mut builder = Stack::builder(pool);
    let layer = builder.layer(client);
    builder.port(edge, layer);
    builder.egress(share.clamp(2 << 10, 128 << 10), 4096, 4 << 20);
    builder.build()
}

/// Turns until all sessions have ended, or a shutdown has come to its end.
fn drive(reactor: &mut Reactor) -> io::Result<()> {
    while !reactor.is_idle() && reactor.poll(None)? {}
    Ok(())
}

/// A session that ended otherwise than by itself is a failure, unless its layer has said so.
fn note_end(record: &Record, closed: &Closed<'_>) {
    let well = [CloseReason::FINISHED, CloseReason::SHUTDOWN, CloseReason::CLOSED];
    let said = [stream::WRONG.0, stream::SILENT.0];
    if !well.contains(&closed.reason) && !said.contains(&closed.reason.0) {
        record.fail(closed.error.map_or_else(|| closed.reason.to_string(), without_object));
    }
}

/// `connect to 127.0.0.1:7: ECONNREFUSED (Connection refused)` without the address, which the line
/// begins with: `connect: ECONNREFUSED (Connection refused)`.
fn without_object(error: &io::Error) -> String {
    let text = error.to_string();
    let call_error = error.get_ref().and_then(|inner| inner.downcast_ref::<CallError>());
    let Some((call, object)) = call_error.map(|error| (error.call(), error.object())) else {
        return text;
    };
    let name = call.split(' ').next().unwrap_or(call);
    text.replacen(&format!("{call} {object}"), name, 1)
}

/// A line that lives until the run is done; nothing where standard error is not a terminal.
fn show_progress(target: &Target, record: &Record, started: Instant, done: &mpsc::Receiver<()>) {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("a template"));
    while let Err(mpsc::RecvTimeoutError::Timeout) = done.recv_timeout(Duration::from_millis(100)) {
        let seconds = started.elapsed().as_secs_f64();
        let (messages, bytes) = (record.messages.load(Relaxed), record.bytes.load(Relaxed));
        bar.set_message(format!(
            "{target}  {seconds:.1} s  {} messages  {} back and verified  {}/s",
            HumanCount(messages),
            HumanBytes(bytes),
            HumanBytes((bytes as f64 / seconds) as u64),
        ));
        bar.tick();
    }
    bar.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    const PLAN: Plan = Plan { size: 100, window: 4, count: Some(10), seconds: None };

    /// A client of a server that is not there.
    fn run(target: &Target) -> Run {
        let pool = Pool::with_memory(1 << 20).unwrap();
        let run = measure(target, 1, PLAN, &pool, &Arc::default()).unwrap();
        pool.flush();
        assert_eq!(pool.stats().in_use(), 0);
        run
    }

    #[test]
    fn a_refused_connection_is_named_with_the_call_and_without_the_address() {
        // Bound and closed again: for a while, nobody else is given the port.
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let run = run(&Target::Tcp(nobody));
        assert_eq!(run.row.failures(), ["connect: ECONNREFUSED (Connection refused)"]);
    }

    #[test]
    fn a_port_where_nobody_listens_is_a_failure() {
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let run = run(&Target::Udp(nobody));
        let words = run.row.failures();
        assert_eq!(words.last().unwrap(), "socket 0: nothing came back");
        // The host need not say so.
        let said = run.stats.reported.of(REFUSED) > 0;
        assert_eq!(words[0].contains("nobody listens"), said, "{words:?}");
    }

    #[test]
    fn an_error_without_an_object_stays_as_it_is() {
        assert_eq!(without_object(&io::Error::other("odd: very")), "odd: very");
    }
}
