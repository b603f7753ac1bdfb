//! One large file over loopback: `file send` and `file receive` beside nginx with curl, socat and
//! rsync, on tmpfs and on a disk. Each round takes all of them in turn, from another one on each
//! time; what is sent is in the page cache, and what arrives is compared once, outside the time.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    Report, server,
    table::{Spread, Table, grouped},
};

#[derive(Debug, Args)]
pub struct Options {
    /// Bytes of the file, in MiB.
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// Rounds. Each takes every program once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// 64 MiB, one round, every program: whether all of it works.
    #[arg(long)]
    quick: bool,
    /// A folder in memory.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    tmpfs: PathBuf,
    /// A folder on a disk.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    disk: PathBuf,
    /// A build of the example `file` to be measured, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    file: Option<PathBuf>,
}

/// How long any of it may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who moves the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mover {
    /// With `--source`, `--sink`, and whether the receiver waits for the disk.
    Mbuf { source: &'static str, sink: &'static str, sync: bool },
    /// `sendfile on`, and `curl -o`.
    NginxCurl,
    /// Blocks of 256 KiB.
    Socat,
    /// `--whole-file` into a daemon.
    Rsync,
}

const MOVERS: [Mover; 8] = [
    Mover::Mbuf { source: "pread", sink: "pwritev", sync: false },
    Mover::Mbuf { source: "mmap", sink: "pwritev", sync: false },
    Mover::Mbuf { source: "pread", sink: "mmap", sync: false },
    Mover::Mbuf { source: "mmap", sink: "mmap", sync: false },
    Mover::NginxCurl,
    Mover::Socat,
    Mover::Rsync,
    Mover::Mbuf { source: "pread", sink: "pwritev", sync: true },
];

impl Mover {
    fn name(self) -> String {
        match self {
            Mover::Mbuf { source, sink, sync } => {
                format!("mbuf, {source} and {sink}{}", if sync { ", synced" } else { "" })
            }
            Mover::NginxCurl => "nginx and curl".into(),
            Mover::Socat => "socat".into(),
            Mover::Rsync => "rsync".into(),
        }
    }

    fn verifies(self) -> &'static str {
        match self {
            Mover::Mbuf { .. } => "BLAKE3",
            Mover::Rsync => "xxHash",
            Mover::NginxCurl | Mover::Socat => "no",
        }
    }

    /// The programs that it takes and that are not ours.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Mover::Mbuf { .. } => &[],
            Mover::NginxCurl => &["nginx", "curl"],
            Mover::Socat => &["socat"],
            Mover::Rsync => &["rsync"],
        }
    }
}

/// One transfer.
#[derive(Debug, Clone, Copy)]
struct Run {
    seconds: f64,
    sender_cpu: f64,
    receiver_cpu: f64,
}

/// Where a transfer takes place.
struct Place {
    /// What is sent, `big`, and the folder `inbox`.
    folder: PathBuf,
    program: PathBuf,
}

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let (mib, rounds) = if options.quick { (64, 1) } else { (options.mib, options.rounds) };
    ensure!(mib > 0 && rounds > 0, "nothing to do");
    let program = server::example_program("file", options.file.as_deref())?;
    let mut movers = Vec::new();
    for mover in MOVERS {
        match mover.programs().iter().find(|program| !is_there(program)) {
            None => movers.push(mover),
            Some(missing) => println!("skipped: {} ({missing} is not installed)", mover.name()),
        }
    }
    let mut figures = json!({ "mib": mib, "rounds": rounds, "places": {} });
    for (name, parent) in [("tmpfs", &options.tmpfs), ("disk", &options.disk)] {
        let place = Place::make(parent, &program, mib)?;
        let runs = place.rounds(&movers, rounds)?;
        println!("{name}: {mib} MiB, {rounds} rounds");
        println!("{}", table(&movers, &runs, mib));
        figures["places"][name] = json(&movers, &runs);
    }
    Ok(Report { passed: true, figures })
}

fn table(movers: &[Mover], runs: &[Vec<Run>], mib: u64) -> Table {
    let mut table =
        Table::new(["by", "s", "GB/s", "sender's CPU s", "receiver's CPU s", "both", "verified"]);
    let bytes = (mib << 20) as f64 / 1e9;
    for (mover, runs) in movers.iter().zip(runs) {
        let spread = |figure: fn(&Run) -> f64| Spread::of(runs.iter().map(figure));
        let seconds = spread(|run| run.seconds);
        table.row([
            mover.name(),
            seconds.show(2),
            grouped(bytes / seconds.median, 2),
            grouped(spread(|run| run.sender_cpu).median, 2),
            grouped(spread(|run| run.receiver_cpu).median, 2),
            spread(|run| run.sender_cpu + run.receiver_cpu).show(2),
            mover.verifies().into(),
        ]);
    }
    table
}

fn json(movers: &[Mover], runs: &[Vec<Run>]) -> Value {
    let row = |(mover, runs): (&Mover, &Vec<Run>)| {
        let run = |run: &Run| {
            json!({
                "seconds": run.seconds, "sender_cpu": run.sender_cpu,
                "receiver_cpu": run.receiver_cpu,
            })
        };
        json!({ "by": mover.name(), "runs": runs.iter().map(run).collect::<Vec<_>>() })
    };
    movers.iter().zip(runs).map(row).collect()
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path).chain(extra).any(|folder| folder.join(program).is_file())
}

impl Place {
    fn make(parent: &Path, program: &Path, mib: u64) -> anyhow::Result<Self> {
        let folder = parent.join(format!("mbuf-files-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let place = Place { folder, program: program.into() };
        fs::create_dir(place.inbox())?;
        let mut random = File::open("/dev/urandom")?.take(mib << 20);
        let mut big = File::create(place.big())?;
        io::copy(&mut random, &mut big).context("making the file that is sent")?;
        // What the disk still has to write shall not be in the first round.
        big.sync_all()?;
        Ok(place)
    }

    fn big(&self) -> PathBuf {
        self.folder.join("big")
    }

    fn inbox(&self) -> PathBuf {
        self.folder.join("inbox")
    }

    fn rounds(&self, movers: &[Mover], rounds: usize) -> anyhow::Result<Vec<Vec<Run>>> {
        let mut runs = vec![Vec::new(); movers.len()];
        for round in 0..rounds {
            for at in 0..movers.len() {
                let at = (at + round) % movers.len();
                let name = movers[at].name();
                eprintln!("round {} of {rounds}: {name}", round + 1);
                runs[at].push(self.run(movers[at]).with_context(|| name.clone())?);
                let arrived = self.inbox().join("big");
                if round == 0 {
                    same(&self.big(), &arrived).with_context(|| name)?;
                }
                fs::remove_file(&arrived)?;
            }
        }
        Ok(runs)
    }

    fn run(&self, mover: Mover) -> anyhow::Result<Run> {
        let port = server::free_tcp_port()?;
        let address = format!("127.0.0.1:{port}");
        match mover {
            Mover::Mbuf { source, sink, sync } => {
                let mut receiver = Command::new(&self.program);
                receiver.args(["receive", "--once", "--quiet", "--listen", &address, "--into"]);
                receiver.arg(self.inbox()).args(["--sink", sink]);
                receiver.args(if sync { &[][..] } else { &["--no-sync"] });
                let receiver =
                    Process::start(receiver.stdout(Stdio::piped()))?.says("listening")?;
                let mut sender = Command::new(&self.program);
                sender.args(["send", "--quiet", "--to", &address, "--source", source]);
                let start = Instant::now();
                let sender_cpu = Process::start(sender.arg(self.big()))?.ends()?;
                let seconds = start.elapsed().as_secs_f64();
                Ok(Run { seconds, sender_cpu, receiver_cpu: receiver.ends()? })
            }
            Mover::NginxCurl => {
                let sender = Process::start(&mut self.nginx(port)?)?.listens(port)?;
                let mut receiver = Command::new("curl");
                receiver.args(["--silent", "--show-error", "--fail", "--output"]);
                receiver.arg(self.inbox().join("big")).arg(format!("http://{address}/big"));
                let start = Instant::now();
                let receiver_cpu = Process::start(&mut receiver)?.ends()?;
                let seconds = start.elapsed().as_secs_f64();
                Ok(Run { seconds, sender_cpu: sender.stops()?, receiver_cpu })
            }
            Mover::Socat => {
                let mut receiver = Command::new("socat");
                let to = format!("OPEN:{},creat,trunc", self.inbox().join("big").display());
                let from = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr");
                receiver.args(["-u", "-b", "262144", &from, &to]);
                let receiver = Process::start(&mut receiver)?;
                let mut sender = Command::new("socat");
                let from = format!("OPEN:{},rdonly", self.big().display());
                let to = format!("TCP:{address},retry=200,interval=0.01");
                sender.args(["-u", "-b", "262144", &from, &to]);
                let start = Instant::now();
                let sender_cpu = Process::start(&mut sender)?.ends()?;
                let receiver_cpu = receiver.ends()?;
                Ok(Run { seconds: start.elapsed().as_secs_f64(), sender_cpu, receiver_cpu })
            }
            Mover::Rsync => {
                let receiver = Process::start(&mut self.rsync(port)?)?.listens(port)?;
                let mut sender = Command::new("rsync");
                sender.args(["--whole-file", "--quiet"]).arg(self.big());
                sender.arg(format!("rsync://{address}/inbox/"));
                let start = Instant::now();
                let sender_cpu = Process::start(&mut sender)?.ends()?;
                let seconds = start.elapsed().as_secs_f64();
                Ok(Run { seconds, sender_cpu, receiver_cpu: receiver.stops()? })
            }
        }
    }

    /// One process, which serves the folder.
    fn nginx(&self, port: u16) -> anyhow::Result<Command> {
        let (folder, path) = (self.folder.display(), self.folder.join("nginx.conf"));
        let words = format!(
            "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit;\n\
             events {{}}\n\
             http {{ access_log off; sendfile on; tcp_nopush on;\n\
             client_body_temp_path {folder}/nginx-1; proxy_temp_path {folder}/nginx-2;\n\
             fastcgi_temp_path {folder}/nginx-3; uwsgi_temp_path {folder}/nginx-4;\n\
             scgi_temp_path {folder}/nginx-5;\n\
             server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
        );
        fs::write(&path, words)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&self.folder).arg("-c").arg(path).args(["-e", "stderr"]);
        Ok(command)
    }

    /// A daemon, which takes files into the folder.
    fn rsync(&self, port: u16) -> anyhow::Result<Command> {
        let path = self.folder.join("rsyncd.conf");
        let inbox = self.inbox();
        let words = format!(
            "use chroot = no\nlog file = /dev/null\n\
             [inbox]\npath = {}\nread only = no\nuid = {}\ngid = {}\n",
            inbox.display(),
            fs::metadata(&inbox).map(|it| std::os::unix::fs::MetadataExt::uid(&it))?,
            fs::metadata(&inbox).map(|it| std::os::unix::fs::MetadataExt::gid(&it))?,
        );
        fs::write(&path, words)?;
        let mut command = Command::new("rsync");
        command.args(["--daemon", "--no-detach", "--address", "127.0.0.1", "--config"]).arg(path);
        command.arg(format!("--port={port}"));
        Ok(command)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("compare: {} is left behind: {error}", self.folder.display());
        }
    }
}

/// A program that runs. It is ended when this is dropped.
struct Process {
    name: String,
    child: Child,
    over: bool,
}

impl Process {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).spawn().with_context(|| name.clone())?;
        Ok(Self { name, child, over: false })
    }

    /// Waits for a line on its standard output that starts so.
    fn says(mut self, words: &str) -> anyhow::Result<Self> {
        let mut lines = BufReader::new(self.child.stdout.take().context("no standard output")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure!(line.starts_with(words), "{} said `{}`, not `{words}`", self.name, line.trim());
        // What it says later is of no interest; it must be able to say it.
        std::thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
        Ok(self)
    }

    /// Waits until somebody listens on the port.
    fn listens(mut self, port: u16) -> anyhow::Result<Self> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none(), "{} has ended: {ended:?}", self.name);
            ensure!(start.elapsed() < PATIENCE, "{} does not listen on port {port}", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(self)
    }

    /// Waits for its end, which must be a good one. The CPU seconds of it and of its children.
    fn ends(mut self) -> anyhow::Result<f64> {
        let (status, cpu) = self.wait()?;
        ensure!(status == 0, "{} has ended with the wait status {status:#x}", self.name);
        Ok(cpu)
    }

    /// Ends it. The CPU seconds of it and of its children.
    fn stops(mut self) -> anyhow::Result<f64> {
        // SAFETY: kill(2) takes no pointer; the child was not waited for, so the id is still its.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        Ok(self.wait()?.1)
    }

    fn wait(&mut self) -> anyhow::Result<(i32, f64)> {
        let mut status = 0;
        // SAFETY: all zeroes are a `rusage`, which is plain numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        loop {
            let pid = self.child.id() as libc::pid_t;
            // SAFETY: both pointers are to values that outlive the call and may be written.
            let answer = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
            match answer {
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                -1 => bail!("wait4 for {}: {}", self.name, io::Error::last_os_error()),
                _ => break,
            }
        }
        self.over = true;
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Ok((status, seconds(usage.ru_utime) + seconds(usage.ru_stime)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.over {
            // It is being given up on: nothing more can be done about a failure.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Whether two files are the same.
fn same(sent: &Path, arrived: &Path) -> anyhow::Result<()> {
    let (mut sent, mut arrived) = (File::open(sent)?, File::open(arrived)?);
    let (mut here, mut there) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    ensure!(sent.metadata()?.len() == arrived.metadata()?.len(), "another length has arrived");
    let mut at = 0;
    loop {
        let n = sent.read(&mut here)?;
        arrived.read_exact(&mut there[..n]).context("comparing")?;
        ensure!(here[..n] == there[..n], "what has arrived differs between {at} and {}", at + n);
        if n == 0 {
            io::stdout().flush()?;
            return Ok(());
        }
        at += n;
    }
}
