//! The command line.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, error::ErrorKind};

use crate::{
    common::quantity::{bytes, seconds},
    datagram,
};

/// Echo (RFC 862): sends back whatever it is sent, and checks that it does.
///
/// Without a command: a server and clients in this process, over TCP and then over UDP on the
/// loopback interface, for a few seconds; then a table of what was measured. Exit status 1 if a
/// byte was wrong or nothing came back.
#[derive(Debug, Parser)]
#[command(name = "echo", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub demo: DemoArgs,
}

const EXAMPLES: &str = "\
Examples:
  echo                                    servers and clients in one process, for a few seconds
  echo serve                              listen on 127.0.0.1:7007, TCP and UDP
  echo serve --tcp [::]:7007 --unix /tmp/echo.sock
  echo client --tcp 127.0.0.1:7007 --connections 1000 --size 64KiB --seconds 10
  echo client --udp 127.0.0.1:7007 --size 64 --window 256
  printf hello | nc -N 127.0.0.1 7007     any other client will do

There is no encryption and no authentication: whoever reaches the server may use it.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve echo until Ctrl-C or SIGTERM.
    Serve(ServeArgs),
    /// Send to an echo server, and check what comes back.
    Client(ClientArgs),
}

/// What the run without a command can be told.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How long each of the two runs (TCP, UDP) sends, in seconds.
    #[arg(long, value_name = "S", default_value = "2.5", value_parser = some_seconds)]
    pub seconds: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --tcp, --udp or --unix: TCP and UDP on 127.0.0.1:7007. With any of them: only those.
Each may be given several times. Port 0 lets the system choose; the line printed names the port.

Neither encrypted nor authenticated (RFC 862 is neither): whoever can reach the address may use
the server. UDP answers are never longer than the questions. A datagram whose source port is the
server's own (`nc -u -p 7007`) or that of another service which answers anything is not answered
but counted as dropped, `loop`: two servers could answer each other for ever.

Ctrl-C or SIGTERM ends the server when what it has received is sent back, or after five seconds if
a peer does not read; a second one ends it at once, with exit status 1.")]
pub struct ServeArgs {
    /// Listen for TCP connections on this address.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub tcp: Vec<SocketAddr>,
    /// Answer UDP datagrams on this address.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub udp: Vec<SocketAddr>,
    /// Listen for connections on a Unix socket at this path.
    #[arg(long, value_name = "PATH")]
    pub unix: Vec<PathBuf>,
    /// Look for work for a while before sleeping: quicker answers, and a busy core.
    #[arg(long)]
    pub busy_poll: bool,
    /// Memory for packets, at least 10KiB. It is all that will ever be used for them.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = memory)]
    pub memory: usize,
    /// Connections at once; further ones are closed as soon as they are made.
    #[arg(long, value_name = "N", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// Close a connection on which nothing has moved for so long, in seconds. 0: never.
    #[arg(long, value_name = "S", default_value = "300", value_parser = seconds)]
    pub idle: Duration,
}

impl ServeArgs {
    /// Where to listen when nothing was said.
    pub const DEFAULT: &str = "127.0.0.1:7007";
}

#[derive(Debug, Args)]
pub struct ClientArgs {
    #[command(flatten)]
    pub server: Server,
    /// Bytes of a message, at most 1GiB (over UDP: of a datagram; 16 to 65507).
    #[arg(long, value_name = "N", default_value = "1024", value_parser = size)]
    pub size: usize,
    /// Messages of each connection. Without --count and --seconds: five seconds.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// How long to send, in seconds.
    #[arg(long, value_name = "S", value_parser = some_seconds)]
    pub seconds: Option<Duration>,
    /// Connections at once (over UDP: sockets).
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub connections: u32,
    /// Messages of each connection that may be on their way at once.
    #[arg(long, value_name = "N", default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub window: u32,
    /// Memory for packets, at least 10KiB.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = memory)]
    pub memory: usize,
}

impl ClientArgs {
    /// What two arguments say together and neither says alone.
    pub fn check(&self) -> Result<(), clap::Error> {
        let (least, most) = (datagram::SMALLEST, datagram::LARGEST);
        if self.server.udp.is_some() && !(least..=most).contains(&self.size) {
            let text = format!("--udp: --size {}, not between {least} and {most}", self.size);
            let mut command = Self::augment_args(clap::Command::new("echo client"));
            return Err(command.error(ErrorKind::ValueValidation, text));
        }
        Ok(())
    }
}

/// Exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Server {
    /// The server's TCP address.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub tcp: Option<SocketAddr>,
    /// The server's UDP address.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub udp: Option<SocketAddr>,
    /// The path of the server's Unix socket.
    #[arg(long, value_name = "PATH")]
    pub unix: Option<PathBuf>,
}

/// `127.0.0.1:7007`, `[::1]:7007`, `localhost:7007`.
fn address(text: &str) -> Result<SocketAddr, String> {
    match text.to_socket_addrs() {
        Ok(mut found) => found.next().ok_or_else(|| format!("`{text}` has no address")),
        Err(error) => Err(format!("{error} (an address looks like 127.0.0.1:7007)")),
    }
}

/// Bytes of a message. It is measured as a whole, so a longer one would tell nothing for long.
fn size(text: &str) -> Result<usize, String> {
    match bytes(text)? {
        0 => Err("a message of 0 bytes says nothing".into()),
        size if size > 1 << 30 => Err("more than 1GiB".into()),
        size => Ok(size),
    }
}

/// Memory of a pool. In less there would hardly be room for a packet.
fn memory(text: &str) -> Result<usize, String> {
    match bytes(text)? {
        memory if memory < 10 << 10 => Err("less than 10KiB".into()),
        memory => Ok(memory),
    }
}

/// Seconds, but more than none.
fn some_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("in no time nothing comes back".into()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_has_a_host() {
        assert!(address("7007").is_err());
    }

    #[test]
    fn what_would_make_no_sense_is_refused() {
        let refused = |line: &str| {
            let cli = Cli::try_parse_from(line.split_whitespace());
            let error = match cli.map(|cli| cli.command) {
                Ok(Some(Command::Client(args))) => args.check().err(),
                Ok(_) => None,
                Err(error) => Some(error),
            };
            error.is_some_and(|error| error.exit_code() == 2)
        };
        for line in [
            "echo --seconds 0",
            "echo serve --max-connections 0",
            "echo serve --memory 0",
            "echo serve --memory 10239",
            "echo client --tcp 127.0.0.1:7 --seconds 0",
            "echo client --tcp 127.0.0.1:7 --size 0",
            "echo client --tcp 127.0.0.1:7 --size 99999999999999",
            "echo client --udp 127.0.0.1:7 --size 15",
            "echo client --udp 127.0.0.1:7 --size 65508",
        ] {
            assert!(refused(line), "{line}");
        }
        for line in [
            "echo --seconds 0.1",
            "echo serve --idle 0 --max-connections 1 --memory 10KiB",
            "echo client --tcp 127.0.0.1:7 --size 1GiB",
            "echo client --udp 127.0.0.1:7 --size 16",
        ] {
            assert!(!refused(line), "{line}");
        }
    }
}
