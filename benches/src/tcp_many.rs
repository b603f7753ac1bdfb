//! Many TCP connections against `echo serve`: all are open before the first byte is sent and stay
//! open until the last is done; each sends its own bytes in pieces of random sizes and compares
//! what comes back; one in ten does not read before it can send no more. The server's peak memory
//! is checked against a limit.

use std::{
    io::{ErrorKind, Read, Write},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use serde_json::json;

use crate::{
    Report, machine,
    row::{Measure, Row},
    server::{self, Server},
    table::grouped,
};

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Connections, all at once.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Bytes that each sends and expects back.
    #[arg(long, default_value_t = 1 << 20)]
    bytes: usize,
    /// The largest piece that is written at once, in bytes.
    #[arg(long, default_value_t = 16384)]
    piece: usize,
    /// The server's pool, as `echo serve --memory` takes it.
    #[arg(long, default_value = "64MiB")]
    memory: String,
    /// Exit status 1 if the server's peak resident memory reaches so many MiB.
    #[arg(long, default_value_t = 128)]
    limit_mib: u64,
    /// From which the bytes and the sizes of the pieces are made.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Exit status 1 if nothing at all has moved for so many seconds.
    #[arg(long, default_value_t = 20)]
    patience: u64,
    /// 100 connections of 64 KiB each: whether it works.
    #[arg(long)]
    quick: bool,
    /// A build of the example `echo` to be measured, in place of the one of this tree.
    #[arg(long, value_name = "PROGRAM")]
    echo: Option<PathBuf>,
}

/// What is read at once, in bytes.
const READ: usize = 65536;

pub fn run(options: &Options) -> anyhow::Result<Report> {
    let quick = Options { connections: 100, bytes: 1 << 16, ..options.clone() };
    let options = if options.quick { &quick } else { options };
    ensure!(options.connections > 0 && options.bytes > 0 && options.piece > 0, "nothing to do");
    raise_descriptor_limit();
    let echo = server::example_program("echo", options.echo.as_deref())?;
    let port = server::free_tcp_port()?;
    let mut command = Command::new(echo);
    command.args(["serve", "--tcp", &format!("127.0.0.1:{port}"), "--memory", &options.memory]);
    let mut server = Server::start("mbuf", command)?;
    server::wait_until_ready(&mut server, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop)
    })?;
    machine::pin(machine::CLIENT_CORE);

    let before = server.cpu_nanos()?;
    let (elapsed, connecting) = drive(options, port, &mut server)?;
    let cpu = (server.cpu_nanos()? - before) as f64 / 1e9;
    let peak = server.peak_resident()?;
    let (status, printed) = server.stop()?;
    ensure!(status.success(), "echo serve: {status}\n{printed}");

    let total = options.connections as f64 * options.bytes as f64;
    let limit = options.limit_mib << 20;
    println!(
        "{} connections x {} bytes, pieces of 1 to {} bytes from seed {}: all identical",
        grouped(options.connections as f64, 0),
        grouped(options.bytes as f64, 0),
        grouped(options.piece as f64, 0),
        options.seed,
    );
    println!(
        "connected in {:.2} s, echoed in {:.2} s ({:.0} MB/s each way), server CPU {cpu:.2} s",
        connecting.as_secs_f64(),
        elapsed.as_secs_f64(),
        total / 1e6 / elapsed.as_secs_f64(),
    );
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "server's peak resident memory {:.1} MiB with a pool of {}, limit {} MiB",
        mib(peak),
        options.memory,
        options.limit_mib,
    );
    let passed = peak < limit;
    if !passed {
        println!("FAILED: the server's memory is not below the limit");
    }
    let case = format!(
        "{} connections, {} bytes echoed by each",
        grouped(options.connections as f64, 0),
        grouped(options.bytes as f64, 0)
    );
    let row = |measure, figure| Row::new(&case, "mbuf", measure, vec![figure]);
    let rows = [
        row(Measure::Seconds, elapsed.as_secs_f64()),
        row(Measure::BytesPerSecond, total / elapsed.as_secs_f64()),
        row(Measure::CpuSeconds, cpu),
        row(Measure::PeakBytes, peak as f64),
    ];
    let figures = json!({
        "benchmark": "tcp-many",
        "connections": options.connections,
        "bytes": options.bytes,
        "piece": options.piece,
        "seed": options.seed,
        "memory": options.memory,
        "seconds_connecting": connecting.as_secs_f64(),
        "limit_bytes": limit,
        "rows": rows,
    });
    Ok(Report { passed, figures })
}

/// Gives the time that the echoing took, and before it the connecting.
fn drive(
    options: &Options,
    port: u16,
    server: &mut Server,
) -> anyhow::Result<(Duration, Duration)> {
    let start = Instant::now();
    let mut poll = Poll::new()?;
    let mut connections = Vec::with_capacity(options.connections);
    for index in 0..options.connections {
        // Blocking, so that a full backlog waits instead of failing.
        let stream = std::net::TcpStream::connect(("127.0.0.1", port))
            .with_context(|| format!("connection {index}"))?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(index), interest)?;
        connections.push(Connection::new(stream, index, options));
    }
    let connected = Instant::now();

    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; READ];
    let mut left = options.connections;
    let patience = Duration::from_secs(options.patience);
    let mut moved = Instant::now();
    while left > 0 {
        match poll.poll(&mut events, Some(Duration::from_millis(200))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => outcome.context("epoll_wait")?,
        }
        for event in &events {
            let index = event.token().0;
            let connection = &mut connections[index];
            if connection.done() {
                continue;
            }
            let before = connection.sent + connection.received;
            connection.step(&mut buffer).with_context(|| format!("connection {index}"))?;
            if connection.sent + connection.received > before {
                moved = Instant::now();
            }
            left -= usize::from(connection.done());
        }
        server.alive()?;
        if moved.elapsed() > patience {
            let sent: usize = connections.iter().map(|connection| connection.sent).sum();
            let received: usize = connections.iter().map(|connection| connection.received).sum();
            bail!(
                "nothing moved for {} s: {left} connections not done, {sent} bytes sent, \
                 {received} received",
                options.patience
            );
        }
    }
    Ok((connected.elapsed(), connected - start))
}

/// One connection and how far it is.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    seed: u64,
    bytes: usize,
    largest_piece: usize,
    /// Bytes sent, of `bytes`.
    sent: usize,
    /// Bytes received and found right, of `bytes`.
    received: usize,
    pieces: Random,
    /// Does not read until it can send no more.
    reads_late: bool,
}

impl Connection {
    fn new(stream: TcpStream, index: usize, options: &Options) -> Connection {
        let seed = mix(options.seed ^ mix(index as u64));
        Connection {
            stream,
            seed,
            bytes: options.bytes,
            largest_piece: options.piece,
            sent: 0,
            received: 0,
            pieces: Random(seed),
            reads_late: index % 10 == 9,
        }
    }

    fn done(&self) -> bool {
        self.received == self.bytes
    }

    /// Reads and writes until both would block (readiness comes by edges).
    fn step(&mut self, buffer: &mut [u8]) -> anyhow::Result<()> {
        loop {
            let wrote = self.write(buffer)?;
            if !wrote {
                self.reads_late = false;
            }
            let read = !self.reads_late && self.read(buffer)?;
            if self.done() || !wrote && !read {
                return Ok(());
            }
        }
    }

    /// Writes one piece. Whether there may be more to write.
    fn write(&mut self, buffer: &mut [u8]) -> anyhow::Result<bool> {
        let left = self.bytes - self.sent;
        if left == 0 {
            return Ok(false);
        }
        let piece = 1 + self.pieces.next() as usize % self.largest_piece;
        let piece = &mut buffer[..piece.min(left).min(READ)];
        fill(self.seed, self.sent, piece);
        match self.stream.write(piece) {
            Ok(count) => self.sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                return Err(error).with_context(|| format!("write at byte {}", self.sent));
            }
        }
        Ok(true)
    }

    /// Reads once and compares. Whether there may be more to read.
    fn read(&mut self, buffer: &mut [u8]) -> anyhow::Result<bool> {
        let count = match self.stream.read(buffer) {
            Ok(0) => bail!("the server closed after {} bytes of {}", self.received, self.bytes),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                return Err(error).with_context(|| format!("read at byte {}", self.received));
            }
        };
        ensure!(
            self.received + count <= self.sent,
            "{} bytes came back of {} sent",
            self.received + count,
            self.sent
        );
        if let Some(at) = first_difference(self.seed, self.received, &buffer[..count]) {
            bail!("byte {} came back wrong", self.received + at);
        }
        self.received += count;
        Ok(true)
    }
}

/// The bytes of a connection, from an offset on: each eight are mixed from the seed and their
/// place, so that any part can be made without the rest.
pub fn fill(seed: u64, offset: usize, out: &mut [u8]) {
    let skip = offset % 8;
    let (first, rest) = out.split_at_mut(((8 - skip) % 8).min(out.len()));
    let word = |index: usize| mix(seed ^ index as u64).to_le_bytes();
    first.copy_from_slice(&word(offset / 8)[skip..skip + first.len()]);
    for (chunk, index) in rest.chunks_mut(8).zip(offset.div_ceil(8)..) {
        chunk.copy_from_slice(&word(index)[..chunk.len()]);
    }
}

fn first_difference(seed: u64, offset: usize, bytes: &[u8]) -> Option<usize> {
    let mut expected = [0; 512];
    for (start, chunk) in (0..).step_by(expected.len()).zip(bytes.chunks(expected.len())) {
        let expected = &mut expected[..chunk.len()];
        fill(seed, offset + start, expected);
        if expected != chunk {
            return expected.iter().zip(chunk).position(|(a, b)| a != b).map(|at| start + at);
        }
    }
    None
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Less than `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A descriptor a connection: the soft limit may be too low for that. Gives what it is now.
pub fn raise_descriptor_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is writable, and the call keeps no pointer to it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the structure is readable, and the call keeps no pointer to it.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
    limit.rlim_cur as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_the_bytes_is_the_same_as_in_the_whole() {
        let mut whole = [0; 100];
        fill(7, 0, &mut whole);
        for offset in 0..=whole.len() {
            for end in offset..=whole.len() {
                let mut part = vec![0; end - offset];
                fill(7, offset, &mut part);
                assert_eq!(part, whole[offset..end], "{offset}..{end}");
            }
        }
        assert_ne!(whole[..50], whole[50..]);
    }

    #[test]
    fn a_difference_is_found_wherever_it_is() {
        let mut bytes = vec![0; 1500];
        fill(7, 3, &mut bytes);
        assert_eq!(first_difference(7, 3, &bytes), None);
        for at in [0, 4, 5, 511, 512, 1499] {
            bytes[at] ^= 0x80;
            assert_eq!(first_difference(7, 3, &bytes), Some(at));
            bytes[at] ^= 0x80;
        }
    }
}
