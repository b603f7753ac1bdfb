//! Where transfers take place, what is transferred there, and by whom.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, bail, ensure};

use super::process::{Process, Usage, go_on};
use crate::server;

/// Folders of a tree, and files in each of them.
const FOLDERS: usize = 100;
const FILES: usize = 100;
/// Files of a tree.
pub const TREE_FILES: usize = FOLDERS * FILES;
/// Bytes of each.
const SMALL: usize = 1024;
/// A stream is longer than so much, which is more than may be in memory.
const STREAM: u64 = 256 << 20;

/// Who moves files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mover {
    /// With `--source`, `--sink`, and whether the receiver waits for the disk.
    Mbuf { source: &'static str, sink: &'static str, sync: bool },
    /// One nginx process, `sendfile on`, and `curl -o`.
    NginxCurl,
    /// Blocks of 256 KiB.
    Socat,
    /// `--whole-file` into a daemon.
    Rsync,
    /// `tar` at both ends of socat.
    Tar,
}

impl Mover {
    pub fn name(self) -> String {
        match self {
            Mover::Mbuf { source, sink, sync } => {
                format!("mbuf, {source} to {sink}, {}", if sync { "synced" } else { "--no-sync" })
            }
            Mover::NginxCurl => "nginx, curl -o".into(),
            Mover::Socat => "socat".into(),
            Mover::Rsync => "rsync daemon".into(),
            Mover::Tar => "tar over socat".into(),
        }
    }

    /// What the same program is called in every benchmark; ours with what makes it another one.
    pub fn who(self) -> String {
        match self {
            Mover::Mbuf { .. } | Mover::Tar | Mover::Socat => self.name(),
            Mover::NginxCurl => "nginx + curl".into(),
            Mover::Rsync => "rsync".into(),
        }
    }

    pub fn is_ours(self) -> bool {
        matches!(self, Mover::Mbuf { .. })
    }

    /// What it compares what has arrived by.
    pub fn verifies(self) -> &'static str {
        match self {
            Mover::Mbuf { .. } => "BLAKE3",
            Mover::Rsync => "xxHash",
            Mover::NginxCurl | Mover::Socat | Mover::Tar => "no",
        }
    }

    /// The programs that it takes and that are not ours.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Mover::Mbuf { .. } => &[],
            Mover::NginxCurl => &["nginx", "curl"],
            Mover::Socat => &["socat"],
            Mover::Rsync => &["rsync"],
            Mover::Tar => &["tar", "socat"],
        }
    }
}

/// What is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// One large file.
    File,
    /// 10,000 small ones.
    Tree,
    /// A `tar` of all that, through a pipe, so that nobody knows its length.
    Stream,
}

impl What {
    /// What it is called where it arrives.
    fn name(self) -> &'static str {
        match self {
            What::File => "big",
            What::Tree => "tree",
            What::Stream => "all.tar",
        }
    }
}

/// One transfer.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// From the start of whoever connects until everything has arrived.
    pub seconds: f64,
    pub sender: Usage,
    pub receiver: Usage,
}

/// A folder of its own, with what is sent and the folder `inbox`. It is removed with this.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
    program: PathBuf,
    /// Our pool, as `--memory` takes it.
    pool: String,
    /// Bytes of the large file.
    size: u64,
}

impl Place {
    /// Whether a place can be made in a folder, with room for so many trees that are kept.
    pub fn check(parent: &Path, in_memory: bool, size: u64, trees: u64) -> anyhow::Result<()> {
        let (is_tmpfs, available) = filesystem(parent)?;
        match (in_memory, is_tmpfs) {
            (true, false) => bail!("{} is not on a tmpfs", parent.display()),
            (false, true) => bail!("{} is on a tmpfs, not on a disk", parent.display()),
            _ => {}
        }
        // What is sent, what arrives, and the trees.
        let needed = size + (size + STREAM) + (2 + trees) * (64 << 20);
        ensure!(
            available > needed,
            "{} has {available} bytes available, {needed} are needed",
            parent.display()
        );
        Ok(())
    }

    pub fn make(parent: &Path, program: &Path, pool: u64, size: u64) -> anyhow::Result<Self> {
        let folder = parent.join(format!("mbuf-files-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let place = Place { folder, program: program.into(), pool: pool.to_string(), size };
        fs::create_dir(place.inbox())?;
        place.fill().context("making what is sent")?;
        Ok(place)
    }

    fn fill(&self) -> anyhow::Result<()> {
        let mut random = File::open("/dev/urandom")?;
        let mut big = File::create(self.folder.join("big"))?;
        let mut left = self.size;
        while left > 0 {
            go_on()?;
            left -= io::copy(&mut random.by_ref().take(left.min(16 << 20)), &mut big)?;
        }
        let mut bytes = [0; SMALL];
        for folder in 0..FOLDERS {
            let folder = self.folder.join(format!("tree/{folder:02}"));
            fs::create_dir_all(&folder)?;
            for file in 0..FILES {
                random.read_exact(&mut bytes)?;
                fs::write(folder.join(format!("{file:02}")), bytes)?;
            }
        }
        Ok(())
    }

    fn inbox(&self) -> PathBuf {
        self.folder.join("inbox")
    }

    /// Every mover once in each round, in turn, from another one on each time. What arrives in the
    /// first round is compared.
    pub fn rounds(
        &self,
        what: What,
        movers: &[Mover],
        rounds: usize,
    ) -> anyhow::Result<Vec<Vec<Run>>> {
        let mut runs = vec![Vec::new(); movers.len()];
        for round in 0..rounds {
            for at in 0..movers.len() {
                let at = (at + round) % movers.len();
                let name = movers[at].name();
                eprintln!("round {} of {rounds}: {name}", round + 1);
                runs[at].push(self.round(what, movers[at], round == 0).context(name)?);
            }
        }
        Ok(runs)
    }

    fn round(&self, what: What, mover: Mover, compare: bool) -> anyhow::Result<Run> {
        self.settle()?;
        let run = self.run(what, mover)?;
        if compare {
            self.arrived(what).context("comparing what has arrived")?;
        }
        self.empty_inbox(what)?;
        Ok(run)
    }

    fn empty_inbox(&self, what: What) -> anyhow::Result<()> {
        let inbox = self.inbox();
        if what == What::Tree && !filesystem(&inbox)?.0 {
            // For minutes ext4 does not take the inode of a removed file again, and passes over all
            // of them one by one for each new file, which would be all that is measured in the next
            // run. So what has arrived is kept to the end.
            let kept = (0..).map(|n| self.folder.join(format!("kept-{n}")));
            let free = kept.into_iter().find(|path| !path.exists());
            fs::rename(&inbox, free.context("no name is free")?)?;
        } else {
            fs::remove_dir_all(&inbox)?;
        }
        fs::create_dir(inbox)?;
        Ok(())
    }

    /// What is sent is in the page cache, and nothing of an earlier run is left to be written.
    fn settle(&self) -> anyhow::Result<()> {
        let mut big = File::open(self.folder.join("big"))?;
        let mut buffer = vec![0; 1 << 20];
        while big.read(&mut buffer)? > 0 {
            go_on()?;
        }
        // SAFETY: syncfs(2) takes no pointer, and the descriptor is open.
        ensure!(unsafe { libc::syncfs(big.as_raw_fd()) } == 0, io::Error::last_os_error());
        Ok(())
    }

    fn run(&self, what: What, mover: Mover) -> anyhow::Result<Run> {
        let port = server::free_tcp_port()?;
        let address = format!("127.0.0.1:{port}");
        let path = self.folder.join(what.name());
        match mover {
            Mover::Mbuf { source, sink, sync } => {
                let mut receiver = Command::new(&self.program);
                receiver.args(["receive", "--once", "--quiet", "--listen", &address, "--into"]);
                receiver.arg(self.inbox()).args(["--sink", sink, "--memory", &self.pool]);
                receiver.args(if sync { &[][..] } else { &["--no-sync"] });
                let receiver = Process::start(receiver.stdout(Stdio::null()))?.listens(port)?;
                let mut sender = Command::new(&self.program);
                sender.args(["send", "--quiet", "--to", &address, "--source", source]);
                sender.args(["--memory", &self.pool]);
                let start = Instant::now();
                let sender = if what == What::Stream {
                    let mut tar = Process::start(self.tar().stdout(Stdio::piped()))?;
                    sender.args(["--name", what.name(), "-"]);
                    let sender = Process::start_from(&mut sender, tar.output()?.into())?.ends()?;
                    tar.ends()?;
                    sender
                } else {
                    Process::start(sender.arg(path))?.ends()?
                };
                let seconds = start.elapsed().as_secs_f64();
                Ok(Run { seconds, sender, receiver: receiver.ends()? })
            }
            Mover::NginxCurl => {
                let sender = Process::start(&mut self.nginx(port)?)?.listens(port)?;
                let mut receiver = Command::new(find("curl")?);
                receiver.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]);
                receiver.arg("--output").arg(self.inbox().join(what.name()));
                receiver.arg(format!("http://{address}/{}", what.name()));
                let start = Instant::now();
                let receiver = Process::start(&mut receiver)?.ends()?;
                let seconds = start.elapsed().as_secs_f64();
                Ok(Run { seconds, sender: sender.stops()?, receiver })
            }
            Mover::Socat => {
                let to = format!("OPEN:{},creat,trunc", self.inbox().join(what.name()).display());
                let receiver = Process::start(&mut socat(&listen(port), &to)?)?;
                let receiver = receiver.listens(port)?;
                let from = format!("OPEN:{},rdonly", path.display());
                let start = Instant::now();
                let sender = Process::start(&mut socat(&from, &format!("TCP:{address}"))?)?;
                let sender = sender.ends()?;
                let receiver = receiver.ends()?;
                Ok(Run { seconds: start.elapsed().as_secs_f64(), sender, receiver })
            }
            Mover::Rsync => {
                let receiver = Process::start(&mut self.rsync(port)?)?.listens(port)?;
                let mut sender = Command::new(find("rsync")?);
                sender.args(["--recursive", "--whole-file", "--no-compress", "--quiet"]).arg(path);
                sender.arg(format!("rsync://{address}/inbox/"));
                let start = Instant::now();
                let sender = Process::start(&mut sender)?.ends()?;
                let seconds = start.elapsed().as_secs_f64();
                Ok(Run { seconds, sender, receiver: receiver.stops()? })
            }
            Mover::Tar => {
                let mut from = socat(&listen(port), "STDOUT")?;
                let mut receiver = Process::start(from.stdout(Stdio::piped()))?;
                let output = receiver.output()?;
                let receiver = receiver.listens(port)?;
                let mut unpack = Command::new(find("tar")?);
                unpack.arg("-C").arg(self.inbox()).args(["-xf", "-"]);
                let unpack = Process::start_from(&mut unpack, output.into())?;
                let start = Instant::now();
                let mut pack = Command::new(find("tar")?);
                pack.arg("-C").arg(&self.folder).args(["-cf", "-", what.name()]);
                let mut pack = Process::start(pack.stdout(Stdio::piped()))?;
                let mut to = socat("STDIN", &format!("TCP:{address}"))?;
                let sender = Process::start_from(&mut to, pack.output()?.into())?;
                let sender = sender.ends()?.and(pack.ends()?);
                let receiver = receiver.ends()?.and(unpack.ends()?);
                Ok(Run { seconds: start.elapsed().as_secs_f64(), sender, receiver })
            }
        }
    }

    /// Prints everything that there is, the large file as often as it takes.
    fn tar(&self) -> Command {
        let mut command = Command::new("tar");
        command.arg("-C").arg(&self.folder).args(["-cf", "-", "tree"]);
        command.args((0..STREAM.div_ceil(self.size)).map(|_| "big"));
        command
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
        let mut command = Command::new(find("nginx")?);
        command.arg("-p").arg(&self.folder).arg("-c").arg(path).args(["-e", "stderr"]);
        Ok(command)
    }

    /// A daemon, which takes files into the folder.
    fn rsync(&self, port: u16) -> anyhow::Result<Command> {
        let path = self.folder.join("rsyncd.conf");
        let inbox = self.inbox();
        let owner = fs::metadata(&inbox)?;
        let words = format!(
            "use chroot = no\nlog file = /dev/null\n\
             [inbox]\npath = {}\nread only = no\nuid = {}\ngid = {}\n",
            inbox.display(),
            owner.uid(),
            owner.gid(),
        );
        fs::write(&path, words)?;
        let mut command = Command::new(find("rsync")?);
        command.args(["--daemon", "--no-detach", "--address", "127.0.0.1", "--config"]).arg(path);
        command.arg(format!("--port={port}"));
        Ok(command)
    }

    /// Whether all that was sent is there, and nothing else.
    fn arrived(&self, what: What) -> anyhow::Result<()> {
        let inbox = self.inbox();
        let names = names(&inbox)?;
        ensure!(names == [what.name()], "there are {names:?}");
        let arrived = inbox.join(what.name());
        if what != What::Stream {
            return same(&self.folder.join(what.name()), &arrived);
        }
        // It comes out the same each time.
        let mut tar = Process::start(self.tar().stdout(Stdio::piped()))?;
        same_bytes(tar.output()?, File::open(arrived)?)?;
        tar.ends().map(drop)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("compare: {} is left behind: {error}", self.folder.display());
        }
    }
}

fn listen(port: u16) -> String {
    format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr")
}

fn socat(from: &str, to: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(find("socat")?);
    command.args(["-u", "-b", "262144", from, to]);
    Ok(command)
}

/// Where a program is. Daemons may be where only root looks.
pub fn find(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is not installed"))
}

/// Whether a folder is on a tmpfs, and how many bytes are available there.
fn filesystem(folder: &Path) -> anyhow::Result<(bool, u64)> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: all zeroes are a `statfs`, which is plain numbers.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero, the structure is writable, and neither is kept.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut about) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| folder.display().to_string());
    }
    Ok((about.f_type == libc::TMPFS_MAGIC, about.f_bavail * about.f_bsize as u64))
}

/// The sorted names of what is in a folder.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let name =
        |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = fs::read_dir(folder)?.map(name).collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Whether two files, or two folders with what is below them, are the same.
fn same(sent: &Path, arrived: &Path) -> anyhow::Result<()> {
    if !sent.is_dir() {
        return same_bytes(File::open(sent)?, File::open(arrived)?)
            .with_context(|| arrived.display().to_string());
    }
    let (here, there) = (names(sent)?, names(arrived)?);
    ensure!(here == there, "{} has {there:?}, not {here:?}", arrived.display());
    here.iter().try_for_each(|name| same(&sent.join(name), &arrived.join(name)))
}

/// Whether two streams are the same, to their ends.
fn same_bytes(sent: impl Read, mut arrived: impl Read) -> anyhow::Result<()> {
    let (mut here, mut there) = (Vec::new(), Vec::new());
    let (mut sent, mut at) = (sent, 0);
    loop {
        go_on()?;
        here.clear();
        there.clear();
        sent.by_ref().take(1 << 20).read_to_end(&mut here)?;
        arrived.by_ref().take(1 << 20).read_to_end(&mut there)?;
        ensure!(here.len() == there.len(), "another length has arrived, from {at} on");
        ensure!(here == there, "it differs between {at} and {}", at + here.len());
        if here.is_empty() {
            return Ok(());
        }
        at += here.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_wherever_it_is() {
        let sent = vec![7; (1 << 20) + 2];
        assert!(same_bytes(&sent[..], &sent[..]).is_ok());
        for at in [0, (1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
            let mut arrived = sent.clone();
            arrived[at] = 8;
            assert!(same_bytes(&sent[..], &arrived[..]).is_err(), "{at}");
        }
        for length in [0, 1, 1 << 20, (1 << 20) + 1] {
            assert!(same_bytes(&sent[..], &sent[..length]).is_err(), "{length}");
            assert!(same_bytes(&sent[..length], &sent[..]).is_err(), "{length}");
        }
    }

    #[test]
    fn trees_are_the_same_if_names_and_bytes_are() {
        let folder = std::env::temp_dir().join(format!("mbuf-same-{}", std::process::id()));
        let (sent, arrived) = (folder.join("sent"), folder.join("arrived"));
        for tree in [&sent, &arrived] {
            fs::create_dir_all(tree.join("a")).unwrap();
            fs::write(tree.join("a/b"), "bytes").unwrap();
        }
        assert!(same(&sent, &arrived).is_ok());
        fs::write(arrived.join("a/c"), "").unwrap();
        assert!(same(&sent, &arrived).is_err());
        fs::remove_file(arrived.join("a/c")).unwrap();
        fs::write(arrived.join("a/b"), "BYTES").unwrap();
        assert!(same(&sent, &arrived).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
