//! What the figures were taken on, and which core a thread runs on.

use std::{fs, io, process::Command};

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

/// The version of a crate that this program is built with, or `unknown`.
pub fn crate_version(name: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let after = lock.split_once(&format!("name = \"{name}\"\nversion = \""));
    after.and_then(|(_, after)| after.split_once('"')).map_or("unknown", |(version, _)| version)
}

/// What a program prints, in one line, or `unknown`.
fn says(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().ok().filter(|output| output.status.success());
    let printed = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    printed.unwrap_or_else(|| "unknown".into())
}

/// The commit that is measured, and whether the tree is another one beside the figures and report.
fn commit() -> String {
    let figures = [":/", ":(top,exclude)benches/results", ":(top,exclude)docs"];
    let status: Vec<_> = ["status", "--porcelain", "--"].into_iter().chain(figures).collect();
    let head = says("git", &["rev-parse", "--short=10", "HEAD"]);
    if says("git", &status).is_empty() { head } else { head + " with changes" }
}

/// The processor, the number of cores, the kernel, the compiler, and what is measured.
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
        "compiler": says("rustc", &["--version"]),
        "commit": commit(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        assert!(crate_version("tokio").starts_with("1."));
        assert_eq!(crate_version("no-such-crate"), "unknown");
    }
}
