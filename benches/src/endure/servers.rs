//! The reactors, each in a thread of its own and all on one pool; and the hog.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;
use mbuf::{
    BuildError, Chain, Class, Pool,
    io::reactor::{Handle, Reactor, ReactorStats},
    stack::{Edge, Protocol, Stack, StackStats},
};
use mbuf_protocols::{Echo, Framing, Prefix};

use super::{
    ends,
    shared::{Shared, Worker, add},
    spawn,
    strangers::FRAME,
    transfers::{self, Sender, Shelf, Sources},
};

/// What each reactor has counted.
pub type Ended = Vec<(&'static str, ReactorStats, StackStats)>;

type Counted = (ReactorStats, StackStats);

/// All reactors, and whoever looks at the files.
pub struct Servers {
    pub tcp: SocketAddr,
    pub udp: SocketAddr,
    pub framed: SocketAddr,
    pub unix: PathBuf,
    serving: Vec<(&'static str, Handle, JoinHandle<Option<Counted>>)>,
    sender: (Handle, JoinHandle<Option<Counted>>),
    checker: JoinHandle<()>,
}

impl Servers {
    pub fn start(shared: &Arc<Shared>, folder: &Path) -> anyhow::Result<Self> {
        let local: SocketAddr = "127.0.0.1:0".parse()?;
        let pool = &shared.pool;
        let mut echo = Reactor::builder(pool).max_connections(64).build()?;
        let tcp = echo.listen_tcp(local, |_, pool| pile(pool, Edge::Bytes, Vec::new()))?;
        let udp = echo.listen_udp(local, pile(pool, Edge::Packets, Vec::new())?)?;

        let unix = folder.join("echo.sock");
        let mut framed = Reactor::builder(pool).max_connections(64).build()?;
        let address = framed.listen_tcp(local, |_, pool| {
            pile(pool, Edge::Bytes, vec![Box::new(Framing::new(Prefix::U32Be, FRAME)?)])
        })?;
        framed.listen_unix(&unix, |_, pool| pile(pool, Edge::Bytes, Vec::new()))?;

        let book = Shelf::default();
        let inbox = folder.join("inbox");
        let (receiver, to) = transfers::receiver(shared, &book, &inbox)?;
        let sources = Sources::make(folder, shared.seed)?;
        let sender = Sender::new(shared, &book, sources, to)?;

        let mut serving = Vec::new();
        for (name, reactor) in [("echo", echo), ("framed", framed), ("receiver", receiver)] {
            serving.push((name, reactor.handle(), serve(shared, name, reactor)?));
        }
        let handle = sender.handle();
        let (theirs, worker) = (Arc::clone(shared), shared.worker("sender"));
        let sending = thread::Builder::new().name("sender".into()).spawn(move || {
            let counted = sender.run(&theirs, &worker);
            worker.ends();
            Some(counted)
        })?;
        // The checker has seen everything when the sender has ended and it has looked once more.
        let (over, told) = std::sync::mpsc::channel::<()>();
        let sending = watch_end(sending, over)?;
        let checker = spawn(shared, "checker", move |shared, worker| {
            let ended = || told.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected);
            transfers::check(shared, worker, &book, &inbox, ended);
        })?;
        let sender = (handle, sending);
        Ok(Self { tcp, udp, framed: address, unix, serving, sender, checker })
    }

    /// Where each reactor is.
    pub fn state(&self) -> String {
        let mut out = String::new();
        let serving = self.serving.iter().map(|(name, handle, _)| (*name, handle));
        for (name, handle) in serving.chain([("sender", &self.sender.0)]) {
            let _ = writeln!(out, "  {name}: {:?}", handle.progress());
        }
        out
    }

    /// Ends the sender, the checker and the servers. `None` if one of them does not end.
    pub fn end(self, shared: &Shared) -> Option<Ended> {
        let hangs = |what: &str| {
            shared.found(format!("HANG: the {what} does not end"));
            eprintln!("{}{}\n{}", shared.state(), self.state(), shared.pool.stats());
        };
        if !ends(&self.sender.1) {
            hangs("sender");
            return None;
        }
        if !ends(&self.checker) {
            hangs("checker");
            return None;
        }
        // Who connected last must have been seen before the listeners close.
        thread::sleep(Duration::from_millis(500));
        for (name, handle, _) in &self.serving {
            if let Err(error) = handle.shutdown() {
                shared.found(format!("{name}: shutdown: {error}"));
            }
        }
        if let Some((name, ..)) = self.serving.iter().find(|(_, _, thread)| !ends(thread)) {
            hangs(name);
            return None;
        }
        let mut ended = Vec::new();
        let serving = self.serving.into_iter().map(|(name, _, thread)| (name, thread));
        for (name, thread) in serving.chain([("sender", self.sender.1)]) {
            match thread.join() {
                Ok(Some((reactor, stacks))) => ended.push((name, reactor, stacks)),
                Ok(None) => {} // found already
                Err(_) => shared.found(format!("PANIC in {name}")),
            }
        }
        if self.checker.join().is_err() {
            shared.found("PANIC in the checker");
        }
        Some(ended)
    }
}

/// Passes a thread's result on, and drops `over` when it has ended, by a panic too.
fn watch_end(
    thread: JoinHandle<Option<Counted>>,
    over: std::sync::mpsc::Sender<()>,
) -> anyhow::Result<JoinHandle<Option<Counted>>> {
    let wait = move || {
        let _over = over;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    };
    thread::Builder::new().name("sender's end".into()).spawn(wait).context("a thread")
}

/// A stack with echo on top.
fn pile(pool: &Pool, edge: Edge, mut below: Vec<Box<dyn Protocol>>) -> Result<Stack, BuildError> {
    below.push(Box::new(Echo::new()));
    Stack::pile(pool, edge, below)
}

fn serve(
    shared: &Arc<Shared>,
    name: &'static str,
    mut reactor: Reactor,
) -> anyhow::Result<JoinHandle<Option<Counted>>> {
    let shared = Arc::clone(shared);
    let run = move || match reactor.run() {
        Ok(()) => Some((reactor.stats(), reactor.stack_stats())),
        Err(error) => {
            shared.found(format!("{name}: {error}"));
            None
        }
    };
    thread::Builder::new().name(name.into()).spawn(run).context("a thread")
}

/// Takes every buffer that it can get, keeps them for a moment, and gives them back; now and then
/// for so long that the reactors' memory rule must act.
pub fn hog(shared: &Arc<Shared>, worker: &Worker) {
    let mut random = shared.random(30);
    let mut hoard: Vec<Chain> = Vec::new();
    while !shared.is_over() {
        worker.at("taking everything".into());
        let until = Instant::now()
            + Duration::from_millis(match random.below(32) {
                0 => 1_200,
                1..8 => 100 + random.next() % 200,
                _ => random.next() % 30,
            });
        // Those that others give back meanwhile are taken, too.
        while Instant::now() < until && !shared.is_over() {
            for class in Class::ALL.into_iter().rev() {
                while let Ok(mut chain) = shared.pool.chain_in(class, 0) {
                    // Each page is touched, so that the memory is all there from the start.
                    let _ = chain.append(chain.tailroom());
                    hoard.push(chain);
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        add(&shared.counts.empty, 1);
        // In another order than they were taken.
        while !hoard.is_empty() {
            drop(hoard.swap_remove(random.below(hoard.len())));
        }
        shared.pool.flush();
        worker.moved();
        worker.at("resting".into());
        let rest = Instant::now() + Duration::from_millis(50 + random.next() % 400);
        while Instant::now() < rest && !shared.is_over() {
            thread::sleep(Duration::from_millis(10));
        }
    }
}
