//! A server in a process of its own, pinned to the server's core.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::machine;

/// How long a server may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server process. It is ended when this is dropped.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    child: Child,
}

impl Server {
    /// Starts a command on the server's core; the calling thread is on the client's core then. The
    /// server ends with this thread, however that ends.
    pub fn start(name: &'static str, mut command: Command) -> anyhow::Result<Server> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only prctl(2) is called, which is a bare system call here.
        unsafe { command.pre_exec(machine::end_with_parent) };
        // A child inherits the core of the thread that starts it.
        machine::pin(machine::SERVER_CORE);
        let child = command.spawn();
        machine::pin(machine::CLIENT_CORE);
        Ok(Server { name, child: child.with_context(|| format!("starting the server `{name}`"))? })
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Nanoseconds of CPU that all threads of the server and of its children have used so far.
    pub fn cpu_nanos(&self) -> anyhow::Result<u64> {
        let mut total = 0;
        let mut processes = vec![self.child.id()];
        while let Some(process) = processes.pop() {
            let tasks = PathBuf::from(format!("/proc/{process}/task"));
            for task in fs::read_dir(&tasks).with_context(|| tasks.display().to_string())? {
                let task = task?.path();
                total += task_nanos(&task)?;
                // Where the kernel has no such file, servers of several processes are not to be had.
                let children = fs::read_to_string(task.join("children")).unwrap_or_default();
                processes
                    .extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            }
        }
        Ok(total)
    }

    /// The most memory the server has had resident, in bytes (`VmHWM`).
    pub fn peak_resident(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("{path} has no VmHWM"))? * 1024)
    }

    /// Fails if the server has ended by itself.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let printed = self.printed()?;
                bail!("the server `{}` ended by itself: {status}\n{printed}", self.name)
            }
        }
    }

    /// Asks the server to end (SIGTERM) and gives what it printed and its status.
    pub fn stop(mut self) -> anyhow::Result<(ExitStatus, String)> {
        self.alive()?;
        self.terminate();
        let deadline = Instant::now() + PATIENCE;
        // What it prints at the end fits into the pipe, so waiting first cannot deadlock.
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "the server `{}` ignores SIGTERM", self.name);
            thread::sleep(Duration::from_millis(2));
        };
        let printed = self.printed()?;
        Ok((status, printed))
    }

    /// What it printed, on its standard output and then as errors; it has ended.
    fn printed(&mut self) -> anyhow::Result<String> {
        let mut printed = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut printed)?;
        }
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut printed)?;
        }
        Ok(printed)
    }

    fn terminate(&self) {
        let Ok(pid) = libc::pid_t::try_from(self.child.id()) else { return };
        // SAFETY: kill(2) takes no pointer; the child was not waited for, so the id is still its.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It is being given up on: nothing more can be done about a failure.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The path of an example: the one given, or else it is built as the README does.
pub fn example_program(name: &str, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--example", name])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(&root)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running cargo to build the example `{name}`"))?;
    ensure!(output.status.success(), "cargo build --example {name}: {}", output.status);
    let messages = String::from_utf8(output.stdout).context("what cargo printed")?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo named no executable for the example `{name}`"))
}

/// A UDP port of 127.0.0.1 that was free just now.
pub fn free_udp_port() -> anyhow::Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A TCP port of 127.0.0.1 that was free just now.
pub fn free_tcp_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Repeats a probe until it succeeds or the server has ended or had time enough.
pub fn wait_until_ready(
    server: &mut Server,
    mut probe: impl FnMut() -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(error) = probe() else { return Ok(()) };
        server.alive()?;
        if Instant::now() > deadline {
            return Err(error)
                .with_context(|| format!("the server `{}` does not answer", server.name));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// `schedstat` counts nanoseconds; `stat`, where the kernel lacks the former, ticks of 10 ms.
fn task_nanos(task: &Path) -> anyhow::Result<u64> {
    let first = |text: String| text.split_whitespace().next().and_then(|n| n.parse().ok());
    if let Some(nanos) = fs::read_to_string(task.join("schedstat")).ok().and_then(first) {
        return Ok(nanos);
    }
    let stat = fs::read_to_string(task.join("stat"))?;
    // The second field is a name in parentheses that may hold spaces: count from its end.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap_or(0))
        .sum();
    Ok(ticks * 10_000_000)
}
