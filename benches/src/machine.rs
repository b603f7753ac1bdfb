//! What the figures were taken on, and which core a thread runs on.

use std::{fs, io};

use serde_json::{Value, json};

/// The core that servers are pinned to.
pub const SERVER_CORE: usize = 0;
/// The core that clients are pinned to.
pub const CLIENT_CORE: usize = 1;

/// Pins the calling thread to a core; processes that it starts afterwards inherit that. On a
/// machine that lacks the core nothing is pinned, and that is said.
pub fn pin(core: usize) {
    if let Err(error) = set_affinity(core) {
        eprintln!("compare: not pinned to core {core}: sched_setaffinity: {error}");
    }
}

fn set_affinity(core: usize) -> io::Result<()> {
    let mut bits = [0u64; 16];
    let word = bits.get_mut(core / 64).ok_or(io::ErrorKind::InvalidInput)?;
    *word = 1 << (core % 64);
    // SAFETY: the mask is readable for the length given, and the call keeps no pointer to it.
    let outcome = unsafe { libc::sched_setaffinity(0, size_of_val(&bits), bits.as_ptr().cast()) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// For a child between fork and exec: it is killed when the thread that started it ends.
pub fn end_with_parent() -> io::Result<()> {
    // SAFETY: with this option prctl(2) takes a number.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The processor, the number of cores, the kernel.
pub fn describe() -> Value {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    json!({
        "processor": processor,
        "cores": cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        "kernel": line("/proc/sys/kernel/osrelease"),
    })
}
