//! The TCP clients: ping-pong on some connections, and a stream on one.

use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{Client, Tally, Until, read_message, write_message};
use crate::tcp_many::fill;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest message of a ping-pong: it is written by one call, or not at all.
const LARGEST: usize = 4096;

/// How a client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It sleeps in epoll_wait.
    Asleep,
    /// It asks epoll_wait over and over.
    Busy,
}

/// Readiness of a client's connections.
#[derive(Debug)]
pub(super) struct Readiness {
    poll: Poll,
    events: Events,
    heard: Instant,
}

impl Readiness {
    pub(super) fn new() -> anyhow::Result<Readiness> {
        let events = Events::with_capacity(1024);
        Ok(Readiness { poll: Poll::new()?, events, heard: Instant::now() })
    }

    /// A connection to a port of 127.0.0.1, of which the events will have this number.
    pub(super) fn connect(&self, port: u16, number: usize) -> anyhow::Result<TcpStream> {
        // Blocking, so that a full backlog waits instead of failing.
        let stream = std::net::TcpStream::connect(("127.0.0.1", port))
            .with_context(|| format!("connection {number}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(number), interest)?;
        Ok(stream)
    }

    /// The numbers of the connections on which something may have happened.
    pub(super) fn wait(&mut self, waiting: Waiting) -> anyhow::Result<impl Iterator<Item = usize>> {
        let timeout = match waiting {
            Waiting::Asleep => PATIENCE,
            Waiting::Busy => Duration::ZERO,
        };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => outcome.context("epoll_wait")?,
        }
        Ok(self.events.iter().map(|event| event.token().0))
    }

    /// Fails if it is long ago that something was `heard`; the caller says when something is.
    fn check(&mut self, heard: bool, now: Instant) -> anyhow::Result<()> {
        if heard {
            self.heard = now;
        }
        ensure!(now - self.heard < PATIENCE, "nothing came back for {PATIENCE:?}");
        Ok(())
    }
}

/// Several connections, each with one message in flight.
#[derive(Debug)]
pub struct PingPong {
    readiness: Readiness,
    waiting: Waiting,
    connections: Vec<Connection>,
    next: u64,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The message that is out.
    number: u64,
    message: Vec<u8>,
    /// So much of it has come back.
    back: usize,
}

impl PingPong {
    /// So many connections to a port of 127.0.0.1, and the bytes of a message.
    pub fn connect(
        port: u16,
        connections: usize,
        size: usize,
        waiting: Waiting,
    ) -> anyhow::Result<PingPong> {
        ensure!((8..=LARGEST).contains(&size) && size.is_multiple_of(8), "a size of {size} bytes");
        let readiness = Readiness::new()?;
        let connection = |number| {
            let stream = readiness.connect(port, number)?;
            Ok(Connection { stream, number: 0, message: vec![0; size], back: 0 })
        };
        let connections = (0..connections).map(connection).collect::<anyhow::Result<_>>()?;
        Ok(PingPong { readiness, waiting, connections, next: 0 })
    }
}

impl Client for PingPong {
    fn run(&mut self, until: Until) -> anyhow::Result<Tally> {
        let PingPong { readiness, waiting, connections, next } = self;
        let start = Instant::now();
        readiness.heard = start;
        let mut left = until.messages();
        let mut out = 0;
        let mut send = |connection: &mut Connection| -> anyhow::Result<bool> {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            *next += 1;
            connection.send(*next)?;
            Ok(true)
        };
        for connection in connections.iter_mut() {
            out += u64::from(send(connection)?);
        }
        let mut echoed = 0;
        let mut tally = None;
        while out > 0 {
            let ready = readiness.wait(*waiting)?;
            let now = Instant::now();
            if tally.is_none() && until.has_passed(now - start) {
                tally = Some(Tally { echoed, lost: 0, elapsed: now - start });
            }
            let before = echoed;
            for number in ready {
                let connection = &mut connections[number];
                if connection.receive().with_context(|| format!("connection {number}"))? {
                    echoed += 1;
                    let again = tally.is_none() && send(connection)?;
                    out -= u64::from(!again);
                }
            }
            readiness.check(echoed > before, now)?;
        }
        Ok(tally.unwrap_or(Tally { echoed, lost: 0, elapsed: start.elapsed() }))
    }
}

impl Connection {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        (self.number, self.back) = (number, 0);
        write_message(number, &mut self.message);
        let count = self.stream.write(&self.message).context("write")?;
        ensure!(count == self.message.len(), "only {count} bytes could be written");
        Ok(())
    }

    /// Whether the message that was out is back, every byte right.
    fn receive(&mut self) -> anyhow::Result<bool> {
        while self.back < self.message.len() {
            match self.stream.read(&mut self.message[self.back..]) {
                Ok(0) => bail!("the server closed"),
                Ok(count) => self.back += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("read"),
            }
            if self.back == self.message.len() {
                let number = read_message(&self.message)?;
                ensure!(number == self.number, "{number} came back in place of {}", self.number);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// One connection, on which as much is sent as goes, and read at the same time.
#[derive(Debug)]
pub struct Streaming {
    readiness: Readiness,
    stream: TcpStream,
    /// What is sent, over and over.
    block: Vec<u8>,
    incoming: Vec<u8>,
    /// Bytes since the beginning.
    sent: u64,
    received: u64,
}

/// Bytes that are written at once, and that make a message in the figures.
pub const BLOCK: usize = 65536;

impl Streaming {
    /// To a port of 127.0.0.1.
    pub fn connect(port: u16) -> anyhow::Result<Streaming> {
        let readiness = Readiness::new()?;
        let stream = readiness.connect(port, 0)?;
        let mut block = vec![0; BLOCK];
        fill(1, 0, &mut block);
        let incoming = vec![0; BLOCK];
        Ok(Streaming { readiness, stream, block, incoming, sent: 0, received: 0 })
    }

    /// Sends up to the end of a block. Whether anything was sent.
    fn write(&mut self, limit: u64) -> anyhow::Result<bool> {
        let from = (self.sent % BLOCK as u64) as usize;
        let most = usize::try_from(limit - self.sent).unwrap_or(usize::MAX).min(BLOCK - from);
        if most == 0 {
            return Ok(false);
        }
        match self.stream.write(&self.block[from..from + most]) {
            Ok(count) => self.sent += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("write"),
        }
        Ok(true)
    }

    /// Reads once and compares. Whether anything was read.
    fn read(&mut self) -> anyhow::Result<bool> {
        let count = match self.stream.read(&mut self.incoming) {
            Ok(0) => bail!("the server closed after {} bytes", self.received),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("read"),
        };
        let mut bytes = &self.incoming[..count];
        while !bytes.is_empty() {
            let from = (self.received % BLOCK as u64) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - from));
            ensure!(
                *now == self.block[from..from + now.len()],
                "other bytes came back between {} and {}",
                self.received,
                self.received + now.len() as u64
            );
            self.received += now.len() as u64;
            bytes = later;
        }
        ensure!(self.received <= self.sent, "more came back than was sent");
        Ok(true)
    }
}

impl Client for Streaming {
    fn run(&mut self, until: Until) -> anyhow::Result<Tally> {
        let start = Instant::now();
        self.readiness.heard = start;
        let before = self.received;
        let mut limit = match until {
            Until::Sent(messages) => self.sent + messages * BLOCK as u64,
            Until::Passed(_) => u64::MAX,
        };
        let mut tally = None;
        loop {
            let wrote = self.write(limit)?;
            let read = self.read()?;
            let now = Instant::now();
            let so_far = Tally {
                echoed: (self.received - before) / BLOCK as u64,
                lost: 0,
                elapsed: now - start,
            };
            if tally.is_none() && until.has_passed(so_far.elapsed) {
                (tally, limit) = (Some(so_far), self.sent);
            }
            if self.received == limit {
                return Ok(tally.unwrap_or(so_far));
            }
            self.readiness.check(wrote || read, now)?;
            if !wrote && !read {
                self.readiness.wait(Waiting::Asleep)?.for_each(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Echoes each connection in a thread of its own, and spoils one byte of its stream.
    fn server(spoiled: Option<usize>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 5000];
                    let mut total = 0;
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        if let Some(at) = spoiled.filter(|at| (total..total + count).contains(at)) {
                            buffer[at - total] ^= 1;
                        }
                        total += count;
                        if stream.write_all(&buffer[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        port
    }

    #[test]
    fn so_many_messages_come_back() {
        for waiting in [Waiting::Asleep, Waiting::Busy] {
            let mut client = PingPong::connect(server(None), 3, 64, waiting).unwrap();
            for messages in [0, 1, 2, 50] {
                assert_eq!(client.run(Until::Sent(messages)).unwrap().echoed, messages);
            }
            let time = Duration::from_millis(20);
            let tally = client.run(Until::Passed(time)).unwrap();
            assert!(tally.echoed > 0 && tally.elapsed >= time, "{tally:?}");
            assert_eq!(client.run(Until::Sent(7)).unwrap().echoed, 7);
        }
    }

    #[test]
    fn so_much_of_a_stream_comes_back() {
        let mut client = Streaming::connect(server(None)).unwrap();
        assert_eq!(client.run(Until::Sent(100)).unwrap().echoed, 100);
        assert!(client.run(Until::Passed(Duration::from_millis(50))).unwrap().echoed > 0);
        assert_eq!(client.received, client.sent);
    }

    #[test]
    fn a_wrong_byte_ends_the_run() {
        let mut client = PingPong::connect(server(Some(100)), 1, 64, Waiting::Asleep).unwrap();
        assert!(client.run(Until::Sent(1)).is_ok());
        assert!(client.run(Until::Sent(1)).is_err());
        let mut client = Streaming::connect(server(Some(1_000_000))).unwrap();
        assert!(client.run(Until::Sent(10)).is_ok());
        assert!(client.run(Until::Sent(10)).is_err());
    }
}
