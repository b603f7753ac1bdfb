//! The command line.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum, error::ErrorKind};
use mbuf::io::{SinkKind, SourceKind, store::Name};

use crate::{
    common::quantity::{bytes, seconds},
    walk::STDIN,
};

/// Sends files and folders from one end of a TCP connection to the other, every byte verified.
///
/// Without a command: makes a large file, sends it over the loopback interface to a second process
/// of this program, by each way of writing files, compares what arrived byte by byte, and prints
/// rates, the CPU time of both ends, and the root hash.
#[derive(Debug, Parser)]
#[command(name = "file", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub demo: DemoArgs,
}

const EXAMPLES: &str = "\
Examples:
  file                                     both ends on this machine, for a few seconds
  mkdir inbox; file receive --into inbox   wait on 127.0.0.1:7070; keep what comes in inbox/
  file send photos notes.txt               send a folder and a file to 127.0.0.1:7070
  file receive --listen 0.0.0.0:7070 --into inbox --once
  file send --to host:7070 photos          from another machine
  tar c src | file send --name src.tar -   send standard input

`file receive --help` and `file send --help` say more.

A file appears under its name when all of it has arrived and its hash is right; until then it is
called NAME.part. Files that are there already are refused unless `receive --overwrite` is given.
Both ends print the root: the BLAKE3 hash of the file, as b3sum prints it; of several files, the
hash of the lines that b3sum prints for them.

There is no encryption and no authentication: whoever reaches the receiver can put files into its
folder, and whoever is on the way can read and change them. Use it on networks that you trust, or
through a tunnel (ssh -L).

Exit status:
    0  everything has arrived
    1  some files failed; each was named, and the others have arrived
    2  the command line makes no sense
    3  no connection, connection lost, or the other end does not keep to the protocol
    4  trouble on this side: a folder that cannot be opened, an address that cannot be listened on
  130  ended by Ctrl-C or SIGTERM";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive files into a folder.
    Receive(ReceiveArgs),
    /// Send files, folders, or standard input.
    Send(SendArgs),
}

/// What the run without a command can be told.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Size of the file that is made. Twice as much is needed in the folder for temporary files.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = bytes)]
    pub size: usize,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Prints `listening on tcp ADDR` when it is ready, and two lines for each transfer: what has arrived,
and the root. Several senders may send at once. Port 0 lets the system choose; the line names it.

Neither encrypted nor authenticated: whoever reaches ADDR can put files into DIR. Names cannot lead
out of DIR, and symbolic links in it are not followed. Nothing is overwritten without --overwrite.

Ctrl-C or SIGTERM ends it when the senders have been told and unfinished files are removed; a second
one ends it at once. Exit status: 0 all arrived (with --once), 1 some files failed (with --once),
2 usage, 3 the transfer broke off (with --once), 4 DIR or ADDR cannot be used, 130 interrupted.

Examples:
  file receive --into inbox
  file receive --listen [::]:7070 --into inbox --overwrite
  file receive --listen 127.0.0.1:0 --into inbox --once --json")]
pub struct ReceiveArgs {
    /// Listen for TCP connections on this address. The usual one is reached from this machine only.
    #[arg(long, value_name = "ADDR", default_value = USUAL, value_parser = address)]
    pub listen: SocketAddr,
    /// The folder into which files go. It must be there.
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// End after one transfer, with its exit status.
    #[arg(long)]
    pub once: bool,
    /// Replace files that are there already. Otherwise they are refused.
    #[arg(long)]
    pub overwrite: bool,
    /// Take names that differ in case only. Otherwise the second of them is refused, as it would
    /// replace the first where case does not count.
    #[arg(long)]
    pub mix_case: bool,
    /// How files are written.
    #[arg(long, value_enum, default_value_t)]
    pub sink: Sink,
    /// Do not wait for the disk: a file that has arrived may be lost if the machine loses power.
    #[arg(long)]
    pub no_sync: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each PATH arrives under its last component: `send a/b/photos` makes photos/ at the other end, with
what is below it. Symbolic links that are given as PATH are followed; links, FIFOs, devices and
sockets below are named and not sent, and the others go on. `-` is standard input, until its end.

Neither encrypted nor authenticated: whoever is on the way can read and change what is sent.

Ctrl-C or SIGTERM ends it when the receiver has been told; a second one ends it at once. Exit status:
0 all arrived, 1 some files failed, 2 usage, 3 no connection, connection lost or protocol trouble,
4 trouble on this side, 130 interrupted.

Examples:
  file send photos notes.txt
  file send --to [::1]:7070 --preserve photos
  tar c src | file send --to host:7070 --name src.tar -")]
pub struct SendArgs {
    /// Files and folders to send, or `-`.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// The receiver: a name or an IP address, and a port.
    #[arg(long, value_name = "ADDR", default_value = USUAL, value_parser = host_and_port)]
    pub to: String,
    /// The name under which the one PATH arrives. Standard input needs one.
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: Option<Name>,
    /// Send permissions and times along, for the receiver to set.
    #[arg(long)]
    pub preserve: bool,
    /// How files are read.
    #[arg(long, value_enum, default_value_t)]
    pub source: Source,
    #[command(flatten)]
    pub common: CommonArgs,
}

impl SendArgs {
    /// What several arguments say together and none says alone.
    pub fn check(&self) -> Result<(), clap::Error> {
        let stdin = self.paths.iter().filter(|path| **path == Path::new(STDIN)).count();
        let (kind, text) = match (stdin, self.paths.len(), &self.name) {
            (2.., ..) => {
                (ErrorKind::ArgumentConflict, "standard input (`-`) can be sent once only")
            }
            (1, _, None) => (
                ErrorKind::MissingRequiredArgument,
                "standard input (`-`) has no name of its own: give --name NAME",
            ),
            (_, 2.., Some(_)) => (ErrorKind::ArgumentConflict, "--name is for one PATH only"),
            _ => return Ok(()),
        };
        let mut command = Self::augment_args(clap::Command::new("file send"));
        Err(command.error(kind, text))
    }
}

#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Memory for packets, at least 4MiB. It is all that will ever be used for them.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = memory)]
    pub memory: usize,
    /// Give a connection up on which nothing has moved, or nothing has been heard from the other end,
    /// for so long. 0: never. An end that has nothing to send says every five seconds that it is
    /// there.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub idle: Duration,
    /// Print what happens on standard output, for scripts: a JSON object a line. Its `event` is
    /// listening, started, done or failed (of a file), finished or broken (of the transfer).
    #[arg(long)]
    pub json: bool,
    /// Print only what goes wrong, and where it listens.
    #[arg(long, short)]
    pub quiet: bool,
}

/// How files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Sink {
    /// Into a mapping of the file.
    Mmap,
    /// By pwritev(2).
    #[default]
    Pwritev,
}

impl Sink {
    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Sink::Mmap => "mmap",
            Sink::Pwritev => "pwritev",
        }
    }

    pub fn kind(self) -> SinkKind {
        match self {
            Sink::Mmap => SinkKind::Mapped,
            Sink::Pwritev => SinkKind::Pwritev,
        }
    }
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Source {
    /// From a mapping of the file.
    Mmap,
    /// By preadv(2).
    #[default]
    Pread,
}

impl Source {
    pub fn kind(self) -> SourceKind {
        match self {
            Source::Mmap => SourceKind::Mapped,
            Source::Pread => SourceKind::Preadv,
        }
    }
}

/// Where to listen, and to send to, when nothing is said.
const USUAL: &str = "127.0.0.1:7070";

/// `127.0.0.1:7070`, `[::1]:7070`, `localhost:7070`.
fn address(text: &str) -> Result<SocketAddr, String> {
    match text.to_socket_addrs() {
        Ok(mut found) => found.next().ok_or_else(|| format!("`{text}` has no address")),
        Err(error) => Err(format!("{error} (an address looks like {USUAL})")),
    }
}

/// The same, not looked up yet.
fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(text.into())
        }
        _ => Err(format!("not a host and a port (as in {USUAL} or host:7070)")),
    }
}

/// A name as it goes on the wire.
fn name(text: &str) -> Result<Name, String> {
    Name::parse(text.as_bytes()).map_err(|bad| bad.to_string())
}

/// Memory of a pool. In less, a few chunks on their way would fill it.
fn memory(text: &str) -> Result<usize, String> {
    match bytes(text)? {
        memory if memory < 4 << 20 => Err("less than 4MiB".into()),
        memory => Ok(memory),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The exit status of a command line that is refused.
    fn refused(line: &str) -> Option<i32> {
        let error = match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
            Ok(Some(Command::Send(args))) => args.check().err(),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        error.map(|error| error.exit_code())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_would_make_no_sense_is_refused() {
        for line in [
            "file receive",
            "file receive --into . --listen 7070",
            "file receive --into . --memory 1MiB",
            "file receive --into . --sink floppy",
            "file receive --into . --idle -1",
            "file send",
            "file send --to nowhere x",
            "file send --to :7070 x",
            "file send --to host:0 x",
            "file send --to host:70700 x",
            "file send -",
            "file send --name x - -",
            "file send --name x a b",
            "file send --name ../x a",
            "file send --name /x a",
            "file --size 1Q",
        ] {
            assert_eq!(refused(line), Some(2), "{line}");
        }
    }

    #[test]
    fn what_the_help_shows_is_taken() {
        for line in [
            "file",
            "file --size 1MiB",
            "file receive --into inbox",
            "file receive --listen 0.0.0.0:7070 --into inbox --once",
            "file receive --listen [::]:7070 --into inbox --overwrite",
            "file receive --listen 127.0.0.1:0 --into inbox --once --json",
            "file send photos notes.txt",
            "file send --to host:7070 photos",
            "file send --to [::1]:7070 --preserve photos",
            "file send --to host:7070 --name src.tar -",
        ] {
            assert_eq!(refused(line), None, "{line}");
        }
    }
}
