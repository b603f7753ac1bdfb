//! A network namespace for all of it: this program runs itself again in one.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};

use crate::server;

/// Set for the program within.
const INSIDE: &str = "MBUF_TAP_INSIDE";

/// Goes on within a network namespace of its own, by executing this program again; fails where there
/// is none to be had. What is built is built before, where there may be a network.
pub fn enter(host: Option<&Path>) -> anyhow::Result<()> {
    if env::var_os(INSIDE).is_some() {
        // The kernel's own chatter over IPv6 is not to be measured. Where there is none, all is well.
        let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        return Ok(());
    }
    let device = fs::File::options().read(true).write(true).open("/dev/net/tun");
    device.context("/dev/net/tun")?;
    // As root without a namespace of users, in which more is forbidden.
    let mut options = ["-n", "-rn"].into_iter();
    let Some(option) = options.find(|option| unshares(option)) else {
        bail!("`unshare -n` and `unshare -rn` are refused, or not installed");
    };
    let mut command = Command::new("unshare");
    command.arg(option).arg(env::current_exe()?).args(env::args_os().skip(1));
    if host.is_none() {
        command.arg("--host").arg(server::example_program("host", None)?);
    }
    Err(command.env(INSIDE, "1").exec()).context("unshare")
}

fn unshares(option: &str) -> bool {
    let status = Command::new("unshare").args([option, "true"]).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs `ip` with these words, in the namespace of a process if one is given.
pub fn ip(process: Option<u32>, words: &str) -> anyhow::Result<()> {
    let mut command = match process {
        None => Command::new("ip"),
        Some(process) => {
            let mut command = Command::new("nsenter");
            command.args(["-t", &process.to_string(), "-n", "ip"]);
            command
        }
    };
    let output = command.args(words.split(' ')).output().context("ip (Debian: iproute2)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {words}: {}", said.trim());
    Ok(())
}
