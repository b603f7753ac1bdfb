//! Endurance: echo and files for hours, with connections coming and going, a pool that is driven to
//! empty again and again, and faults in every system call of every thread.
//!
//! ```text
//!   strangers (plain sockets)     reactors, all on one small pool          strangers
//!     TCP, UDP  -------------->  echo over TCP and UDP
//!     TCP, Unix -------------->  framed echo over TCP, echo over Unix
//!                                sender of files --TCP--> receiver --> folder --> checker
//!                                hog: takes all buffers, and gives them back
//! ```
//!
//! It fails at the first of these: bytes that come back wrong; anything that stands still for 20 s;
//! a part or a wrong file in the folder; a transfer that breaks without a word; at the end, counts
//! that do not balance, a buffer in use, a descriptor or a thread left over; memory that grows.

mod gauges;
mod servers;
mod shared;
mod strangers;
mod transfers;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use mbuf::{Pool, io::faults};
use serde_json::{Value, json};

use self::{
    gauges::{Sample, Trend},
    servers::{Ended, Servers},
    shared::{PATIENCE, Shared, Shim, read},
    strangers::Place,
};
use crate::{Report, table::grouped};

#[derive(Debug, Args)]
pub struct Options {
    /// How long, in seconds. Ctrl-C ends it before, with the same checks.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// From which the faults, the bytes and what everybody does are chosen.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Of a core, how much to use: work is spread out until it takes about so much.
    #[arg(long, default_value_t = 0.5)]
    pace: f64,
    /// The pool's memory, in MiB.
    #[arg(long, default_value_t = 16)]
    memory: usize,
    /// Seconds between lines of progress.
    #[arg(long, default_value_t = 60)]
    every: u64,
    /// 15 seconds, with all checks: whether all of it works.
    #[arg(long)]
    quick: bool,
    /// The folder in which a folder is made for the files.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
}

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let (seconds, every) = if options.quick { (15, 5) } else { (options.seconds, options.every) };
    ensure!(seconds > 0 && every > 0 && options.pace > 0.0, "nothing to do");
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends the program at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&asked))?;
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    let folder = Scratch::make(&options.folder)?;
    let before = Sample::take(Duration::ZERO)?;
    println!("endure: {seconds} s, seed {}, pace {} of a core", options.seed, options.pace);

    let pool = Pool::with_memory(options.memory << 20).context("--memory")?;
    let shared = Shared::new(&pool, options.seed);
    let shim = Arc::new(Shim::new(options.seed));
    let guard = {
        let shim = Arc::clone(&shim);
        faults::inject_everywhere(move |attempt| shim.decide(attempt))
    };
    let mut run = Run::start(&shared, &folder)?;
    let mut samples = Vec::new();
    let until = Duration::from_secs(seconds);
    run.watch(&shared, &shim, &asked, until, every, options.pace, &mut samples)?;
    let ended = run.end(&shared);
    drop(guard);
    if let Some(ended) = &ended {
        balance(&shared, &shim, ended);
        nothing_left(&shared, &folder, before)?;
    }
    let trend = Trend::of(&samples);
    trend.iter().flat_map(Trend::growth).for_each(|growth| shared.found(growth));

    print_faults(&shim);
    if let Some(ended) = &ended {
        for (name, stats, _) in ended {
            println!("{name}:\n{stats}");
        }
    }
    println!("{}", pool.stats());
    if let Some(trend) = &trend {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        println!(
            "resident {:.1} MiB after the warm-up, {:.1} in the end, {:+.2} MiB an hour",
            mib(trend.resident.0),
            mib(trend.resident.1),
            mib(trend.slope)
        );
    }
    let findings = shared.findings();
    println!("{}", line(&shared, &shim, &Sample::take(shared.began.elapsed())?));
    println!("{}", if findings.is_empty() { "PASSED" } else { "FAILED" });
    findings.iter().for_each(|finding| println!("  {finding}"));
    if ended.is_none() {
        // Threads hang: there is no end in order.
        let _ = fs::remove_dir_all(&folder.0);
        std::process::exit(1);
    }
    Ok(Report {
        passed: findings.is_empty(),
        figures: figures(options, &shared, &shim, &samples, trend, &findings),
    })
}

/// All threads of a run.
struct Run {
    servers: Servers,
    /// Those that end when they are told to: strangers and the hog.
    strangers: Vec<JoinHandle<()>>,
}

impl Run {
    fn start(shared: &Arc<Shared>, folder: &Scratch) -> anyhow::Result<Self> {
        let servers = Servers::start(shared, &folder.0)?;
        let places = [
            ("tcp", Place::Tcp(servers.tcp)),
            ("tcp again", Place::Tcp(servers.tcp)),
            ("framed", Place::Framed(servers.framed)),
            ("unix", Place::Unix(servers.unix.clone())),
        ];
        let mut strangers = Vec::new();
        for (at, (name, place)) in (1..).zip(places) {
            strangers.push(spawn(shared, name, move |shared, worker| {
                strangers::stream(shared, worker, &place, shared.random(at));
            })?);
        }
        let udp = servers.udp;
        strangers.push(spawn(shared, "udp", move |shared, worker| {
            strangers::datagrams(shared, worker, udp, shared.random(20));
        })?);
        strangers.push(spawn(shared, "hog", servers::hog)?);
        Ok(Self { servers, strangers })
    }

    /// Looks at everything until the time is over, somebody asks for the end, or something is found.
    #[expect(clippy::too_many_arguments)]
    fn watch(
        &mut self,
        shared: &Shared,
        shim: &Shim,
        asked: &AtomicBool,
        until: Duration,
        every: u64,
        pace: f64,
        samples: &mut Vec<Sample>,
    ) -> anyhow::Result<()> {
        let step = Duration::from_millis(200);
        // Some thousand samples tell a trend, however long it takes.
        let between = (until / 2000).max(step);
        let mut said = Duration::ZERO;
        let (mut cpu, mut at) = (gauges::cpu(), Instant::now());
        while shared.began.elapsed() < until && !asked.load(SeqCst) && !shared.is_over() {
            thread::sleep(step);
            let used = (gauges::cpu() - cpu).as_secs_f64() / at.elapsed().as_secs_f64();
            (cpu, at) = (gauges::cpu(), Instant::now());
            shared.pace(used, pace);
            let now = shared.began.elapsed();
            let sample = Sample::take(now)?;
            if samples.last().is_none_or(|last: &Sample| now >= last.at + between) {
                samples.push(sample);
            }
            if now >= said + Duration::from_secs(every) {
                said = now;
                println!("{}", line(shared, shim, &sample));
            }
            let stuck = shared.stuck();
            if !stuck.is_empty() {
                shared.found(format!("HANG: {stuck:?}"));
                self.print_state(shared);
            }
        }
        Ok(())
    }

    /// Ends everything, in order: strangers, the sender, the checker, the servers. `None` if some
    /// thread does not end.
    fn end(self, shared: &Arc<Shared>) -> Option<Ended> {
        shared.stop();
        for stranger in &self.strangers {
            if !ends(stranger) {
                shared.found("HANG: a stranger does not end");
                self.print_state(shared);
                return None;
            }
        }
        for stranger in self.strangers {
            if stranger.join().is_err() {
                shared.found("PANIC in a thread");
            }
        }
        self.servers.end(shared)
    }

    fn print_state(&self, shared: &Shared) {
        eprintln!("{}{}\n{}", shared.state(), self.servers.state(), shared.pool.stats());
    }
}

fn spawn(
    shared: &Arc<Shared>,
    name: &str,
    work: impl FnOnce(&Arc<Shared>, &shared::Worker) + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let (shared, worker) = (Arc::clone(shared), shared.worker(name));
    let run = move || {
        work(&shared, &worker);
        worker.ends();
    };
    thread::Builder::new().name(name.into()).spawn(run).context("a thread")
}

/// Waits for a thread. Whether it has ended in time.
fn ends<T>(thread: &JoinHandle<T>) -> bool {
    let until = Instant::now() + 2 * PATIENCE;
    while !thread.is_finished() {
        if Instant::now() > until {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// What went in has come out, was consumed, or is accounted for as lost; whoever connected was
/// accepted or refused; and no more connections were cut than somebody had reason to cut.
fn balance(shared: &Shared, shim: &Shim, ended: &Ended) {
    for (name, reactor, stacks) in ended {
        for layer in stacks.layers.iter().filter(|layer| layer.imbalance() != 0) {
            shared.found(format!("IMBALANCE of {}: {name}: {layer:?}", layer.imbalance()));
        }
        if reactor.open != 0 {
            shared.found(format!("{name}: {} sessions are open after the end", reactor.open));
        }
    }
    let stranger = ["echo", "framed"];
    let servers = ended.iter().filter(|(name, ..)| stranger.contains(name));
    // These are a stranger's doing, or injected.
    let others = ["finished", "shutdown", "ECONNRESET", "EPIPE"];
    let (mut accepted, mut reasons) = (0, shim.of_error(libc::ECONNRESET));
    for (_, reactor, _) in servers {
        let refused = reactor.refused.total();
        accepted += reactor.accepted + refused;
        let ours = reactor.closed.iter().filter(|(reason, _)| !others.contains(reason));
        reasons += refused + ours.map(|(_, count)| count).sum::<u64>();
    }
    let made = read(&shared.counts.connections);
    if accepted != made {
        shared.found(format!("{made} connections were made, and {accepted} seen"));
    }
    let cut = read(&shared.counts.cut);
    if cut > reasons {
        shared.found(format!("{cut} connections were cut, for {reasons} reasons"));
    }
}

fn nothing_left(shared: &Shared, folder: &Scratch, before: Sample) -> anyhow::Result<()> {
    let stats = shared.pool.stats();
    if stats.in_use() != 0 {
        shared.found(format!("LEAK: {} buffers are in use after the end", stats.in_use()));
    }
    let after = Sample::take(Duration::ZERO)?;
    if (after.descriptors, after.threads) != (before.descriptors, before.threads) {
        let list = fs::read_dir("/proc/self/fd")?.flatten();
        let open: Vec<_> = list.filter_map(|it| fs::read_link(it.path()).ok()).collect();
        shared.found(format!("LEAK: before {before:?}, after {after:?}: {open:?}"));
    }
    for entry in fs::read_dir(folder.0.join("inbox"))? {
        shared.found(format!("LEFT BEHIND: {}", entry?.path().display()));
    }
    Ok(())
}

/// A line of progress.
fn line(shared: &Shared, shim: &Shim, sample: &Sample) -> String {
    let counts = &shared.counts;
    let faults: Vec<_> = shim.kinds().map(|(kind, n)| format!("{n} {kind}")).collect();
    let whole = |count| grouped(read(count) as f64, 0);
    format!(
        "{:6.0} s: {} connections ({} whole, {} reset, {} cut), {} MB echoed, {} of {} datagrams, \
         {} transfers ({} whole, {} broken), {} files ({} MB; {} failed), pool empty {} times, \
         {:.1} MiB, {} descriptors, {} threads; faults: {}",
        shared.began.elapsed().as_secs_f64(),
        whole(&counts.connections),
        whole(&counts.whole),
        whole(&counts.reset),
        whole(&counts.cut),
        grouped(read(&counts.echoed) as f64 / 1e6, 0),
        whole(&counts.datagrams_back),
        whole(&counts.datagrams),
        whole(&counts.transfers),
        whole(&counts.transfers_whole),
        whole(&counts.transfers_broken),
        whole(&counts.files),
        grouped(read(&counts.file_bytes) as f64 / 1e6, 0),
        whole(&counts.files_failed),
        whole(&counts.empty),
        sample.resident as f64 / f64::from(1 << 20),
        sample.descriptors,
        sample.threads,
        faults.join(", "),
    )
}

fn print_faults(shim: &Shim) {
    println!("faults, of the calls that were made:");
    for (call, calls, faults) in shim.table() {
        let faults: Vec<_> = faults.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        println!("  {call:<16}{:>14}  {}", grouped(calls as f64, 0), faults.join(", "));
    }
}

fn figures(
    options: &Options,
    shared: &Shared,
    shim: &Shim,
    samples: &[Sample],
    trend: Option<Trend>,
    findings: &[String],
) -> Value {
    let counts = &shared.counts;
    let faults: serde_json::Map<String, Value> = shim
        .table()
        .into_iter()
        .map(|(call, calls, faults)| {
            let kinds: serde_json::Map<String, Value> =
                faults.into_iter().map(|(kind, n)| (kind.to_owned(), n.into())).collect();
            (call.to_owned(), json!({ "calls": calls, "faults": kinds }))
        })
        .collect();
    let samples: Vec<Value> = samples
        .iter()
        .map(|it| json!([it.at.as_secs_f64(), it.resident, it.descriptors, it.threads]))
        .collect();
    json!({
        "benchmark": "endure",
        "seed": options.seed,
        "pace": options.pace,
        "memory_mib": options.memory,
        "seconds": shared.began.elapsed().as_secs_f64(),
        "connections": read(&counts.connections),
        "connections_whole": read(&counts.whole),
        "connections_reset": read(&counts.reset),
        "connections_cut": read(&counts.cut),
        "bytes_echoed": read(&counts.echoed),
        "datagrams": read(&counts.datagrams),
        "datagrams_back": read(&counts.datagrams_back),
        "transfers": read(&counts.transfers),
        "transfers_whole": read(&counts.transfers_whole),
        "transfers_broken": read(&counts.transfers_broken),
        "files": read(&counts.files),
        "file_bytes": read(&counts.file_bytes),
        "files_failed": read(&counts.files_failed),
        "pool_empty": read(&counts.empty),
        "faults": faults,
        "resident_after_warm_up": trend.map(|it| it.resident.0),
        "resident_at_end": trend.map(|it| it.resident.1),
        "resident_bytes_an_hour": trend.map(|it| it.slope),
        "samples_second_resident_descriptors_threads": samples,
        "findings": findings,
    })
}

/// A folder that is removed when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make(parent: &std::path::Path) -> anyhow::Result<Self> {
        let folder = parent.join(format!("mbuf-endure-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let scratch = Self(folder);
        fs::create_dir(scratch.0.join("inbox"))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("compare: {} is left behind: {error}", self.0.display());
        }
    }
}
