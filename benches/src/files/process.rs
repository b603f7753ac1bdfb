//! Programs that a comparison starts: waited for, measured, and ended with it however it ends.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::machine;

/// How long any of it may take to come up, and to get rid of its children.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(2);

/// What a process, all its threads, and the children that it has waited for have used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Seconds, of user and system.
    pub cpu: f64,
    /// Bytes that were resident at most, mapped files included. No less than what this program has
    /// itself at the start of the process, which is a few MiB.
    pub peak: u64,
}

impl Usage {
    /// Of two processes at once.
    pub fn and(self, other: Usage) -> Usage {
        Usage { cpu: self.cpu + other.cpu, peak: self.peak + other.peak }
    }
}

/// A program that runs. It is ended when this is dropped, and when this program is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    over: bool,
}

impl Process {
    /// Starts a command with nothing on its standard input.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        Self::start_from(command, Stdio::null())
    }

    /// The same, with something.
    pub fn start_from(command: &mut Command, input: Stdio) -> anyhow::Result<Self> {
        go_on()?;
        let name = command.get_program().to_string_lossy().into_owned();
        // SAFETY: between fork and exec only prctl(2) is called, which is a bare system call here.
        unsafe { command.pre_exec(machine::end_with_parent) };
        let child = command.stdin(input).spawn().with_context(|| name.clone())?;
        Ok(Self { name, child, over: false })
    }

    /// Its standard output, if that is piped, as another's input or to be read here.
    pub fn output(&mut self) -> anyhow::Result<ChildStdout> {
        self.child.stdout.take().with_context(|| format!("{} has no output", self.name))
    }

    /// Waits until somebody listens on the TCP port. Looks it up instead of connecting, which some
    /// would take for the one connection that they serve.
    pub fn listens(mut self, port: u16) -> anyhow::Result<Self> {
        let start = Instant::now();
        while !listening(&fs::read_to_string("/proc/net/tcp")?, port) {
            go_on()?;
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none(), "{} has ended: {ended:?}", self.name);
            ensure!(start.elapsed() < PATIENCE, "{} does not listen on port {port}", self.name);
            thread::sleep(POLL);
        }
        Ok(self)
    }

    /// Waits for its end, which must be a good one.
    pub fn ends(mut self) -> anyhow::Result<Usage> {
        let (status, usage) = self.wait()?;
        ensure!(status == 0, "{} has ended with the wait status {status:#x}", self.name);
        Ok(usage)
    }

    /// Ends it, as soon as it has waited for its children: what they used counts only then.
    pub fn stops(mut self) -> anyhow::Result<Usage> {
        let start = Instant::now();
        let pid = self.child.id();
        // Where the kernel has no such file, what is in it is not known: then it is not waited for.
        let children = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        while children().is_ok_and(|children| !children.trim().is_empty()) {
            go_on()?;
            ensure!(start.elapsed() < PATIENCE, "a child of {} does not end", self.name);
            thread::sleep(POLL);
        }
        // SAFETY: kill(2) takes no pointer; the child was not waited for, so the id is still its.
        unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
        Ok(self.wait()?.1)
    }

    fn wait(&mut self) -> anyhow::Result<(i32, Usage)> {
        let mut status = 0;
        // SAFETY: all zeroes are a `rusage`, which is plain numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let pid = self.child.id() as libc::pid_t;
        loop {
            // SAFETY: both pointers are to values that outlive the call and may be written.
            let answer = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
            match answer {
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => go_on()?,
                -1 => bail!("wait4 for {}: {}", self.name, io::Error::last_os_error()),
                _ => break,
            }
        }
        self.over = true;
        go_on()?;
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        let cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
        Ok((status, Usage { cpu, peak: usage.ru_maxrss as u64 * 1024 }))
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

/// Whether what /proc/net/tcp says has a listener on the port.
fn listening(table: &str, port: u16) -> bool {
    const TCP_LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().is_some_and(|address| address.ends_with(&port));
        local && fields.nth(1) == Some(TCP_LISTEN)
    })
}

/// Set by a signal that asks for the end.
static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C, SIGTERM and SIGHUP make [`go_on`] fail, so that everything that was started
/// and made is ended and removed on the way out. A second one ends the program at once.
pub fn end_orderly() {
    extern "C" fn asked(_signal: libc::c_int) {
        ASKED.store(true, Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = asked;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all zeroes are a `sigaction` with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as libc::sighandler_t;
        // No SA_RESTART: whoever waits for a process shall look.
        action.sa_flags = libc::SA_RESETHAND;
        // SAFETY: the structure is readable; the handler does no more than store to an atomic.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// Fails if a signal has asked for the end.
pub fn go_on() -> anyhow::Result<()> {
    ensure!(!ASKED.load(Relaxed), "interrupted");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let table = || fs::read_to_string("/proc/net/tcp").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        assert!(listening(&table(), address.port()));
        assert!(!listening(&table(), client.local_addr().unwrap().port()));
    }

    #[test]
    fn what_a_process_used_and_printed() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat; i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done"]);
        let mut process = Process::start(command.stdout(Stdio::piped())).unwrap();
        let mut printed = String::new();
        process.output().unwrap().read_to_string(&mut printed).unwrap();
        let usage = process.ends().unwrap();
        assert_eq!(printed, "");
        assert!(usage.cpu > 0.0 && usage.cpu < 10.0, "{usage:?}");
        assert!(usage.peak > 100 << 10 && usage.peak < 1 << 30, "{usage:?}");
    }

    #[test]
    fn a_bad_end_is_an_error_and_a_dropped_process_is_gone() {
        assert!(Process::start(&mut Command::new("false")).unwrap().ends().is_err());
        let process = Process::start(Command::new("sleep").arg("100")).unwrap();
        let path = format!("/proc/{}", process.child.id());
        assert!(fs::exists(&path).unwrap());
        drop(process);
        assert!(!fs::exists(&path).unwrap());
    }

    #[test]
    fn what_children_used_counts() {
        let mut command = Command::new("sh");
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done";
        command.args(["-c", &format!("sh -c '{busy}' & wait; exec sleep 100")]);
        let process = Process::start(&mut command).unwrap();
        let pid = process.child.id();
        let children = format!("/proc/{pid}/task/{pid}/children");
        if fs::exists(&children).unwrap() {
            while fs::read_to_string(&children).unwrap().is_empty() {}
            assert!(process.stops().unwrap().cpu > 0.02);
        } else {
            eprintln!("NOT CHECKED: this kernel does not say what children a process has");
        }
    }
}
