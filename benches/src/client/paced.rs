//! Clients that send at a fixed rate, whatever comes back. The time of a message counts from when
//! it was due, not from when it was sent: a server that stalls delays all that are due meanwhile,
//! and each of them tells (no coordinated omission).

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use socket2::SockRef;

use super::{
    read_message,
    tcp::{Readiness, Waiting},
    udp::BUFFER,
    write_message,
};

/// Bytes of a message.
pub const SIZE: usize = 64;
/// What has not come back so long after the last was sent is lost.
const GRACE: Duration = Duration::from_secs(1);
/// The longest time that can be told from a longer one, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// Takes messages to a server, and brings them back. It never waits.
pub trait Link {
    fn send(&mut self, number: u64) -> anyhow::Result<()>;
    /// The number of a message that has come back.
    fn receive(&mut self) -> anyhow::Result<Option<u64>>;
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Nanoseconds from when a message was due to when it was back.
    pub times: Histogram<u64>,
    pub sent: u64,
    pub echoed: u64,
    /// Messages a second that came back.
    pub rate: f64,
}

/// A link, and the number of the message that is sent next.
#[derive(Debug)]
pub struct Paced<L> {
    link: L,
    next: u64,
}

impl<L: Link> Paced<L> {
    pub fn new(link: L) -> Paced<L> {
        Paced { link, next: 0 }
    }

    /// Sends so many messages a second for so long, and waits for the last of them.
    pub fn run(&mut self, rate: f64, time: Duration) -> anyhow::Result<Outcome> {
        let messages = (rate * time.as_secs_f64()) as u64;
        ensure!(messages > 0, "not one message is due in {time:?}");
        let first = self.next;
        let due = |number: u64| Duration::from_secs_f64((number - first) as f64 / rate);
        let mut times = Histogram::new_with_bounds(1, LONGEST, 3).context("histogram")?;
        let start = Instant::now();
        let mut last = Duration::ZERO;
        while times.len() < messages {
            let now = start.elapsed();
            if self.next - first == messages {
                if now > last.max(due(self.next)) + GRACE {
                    break;
                }
            } else if now >= due(self.next) {
                self.link.send(self.next)?;
                self.next += 1;
            }
            while let Some(number) = self.link.receive()? {
                // One of an earlier run, which was given up, may come late.
                if number >= first {
                    ensure!(number < self.next, "message {number} comes before it is sent");
                    last = start.elapsed();
                    times.saturating_record((last - due(number)).as_nanos() as u64);
                }
            }
        }
        let echoed = times.len();
        let took = last.max(due(self.next)).as_secs_f64();
        Ok(Outcome { sent: messages, echoed, rate: echoed as f64 / took, times })
    }
}

/// Over UDP.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    /// To a port of 127.0.0.1.
    pub fn connect(port: u16) -> anyhow::Result<Datagrams> {
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        SockRef::from(&socket).set_recv_buffer_size(BUFFER)?;
        socket.connect(("127.0.0.1", port))?;
        socket.set_nonblocking(true)?;
        Ok(Datagrams { socket })
    }
}

impl Link for Datagrams {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        let mut message = [0; SIZE];
        write_message(number, &mut message);
        self.socket.send(&message).map(drop).context("send")
    }

    fn receive(&mut self) -> anyhow::Result<Option<u64>> {
        let mut message = [0; SIZE + 1];
        match self.socket.recv(&mut message) {
            Ok(SIZE) => read_message(&message[..SIZE]).map(Some),
            Ok(length) => bail!("{length} bytes came back where {SIZE} were sent"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("recv"),
        }
    }
}

/// Over TCP: the messages take the connections in turn.
#[derive(Debug)]
pub struct Streams {
    readiness: Readiness,
    streams: Vec<Stream>,
    arrived: VecDeque<u64>,
}

#[derive(Debug)]
struct Stream {
    stream: TcpStream,
    message: [u8; SIZE],
    /// So much of the message has come back.
    back: usize,
}

impl Streams {
    /// So many connections to a port of 127.0.0.1.
    pub fn connect(port: u16, connections: usize) -> anyhow::Result<Streams> {
        let readiness = Readiness::new()?;
        let stream = |number| {
            let stream = readiness.connect(port, number)?;
            Ok(Stream { stream, message: [0; SIZE], back: 0 })
        };
        let streams = (0..connections).map(stream).collect::<anyhow::Result<_>>()?;
        Ok(Streams { readiness, streams, arrived: VecDeque::new() })
    }
}

impl Link for Streams {
    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        let place = (number % self.streams.len() as u64) as usize;
        let mut message = [0; SIZE];
        write_message(number, &mut message);
        let count = self.streams[place].stream.write(&message).context("write")?;
        ensure!(count == SIZE, "only {count} bytes could be written");
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<Option<u64>> {
        if self.arrived.is_empty() {
            for place in self.readiness.wait(Waiting::Busy)? {
                self.streams[place].receive(&mut self.arrived)?;
            }
        }
        Ok(self.arrived.pop_front())
    }
}

impl Stream {
    /// Reads until that would block.
    fn receive(&mut self, arrived: &mut VecDeque<u64>) -> anyhow::Result<()> {
        loop {
            match self.stream.read(&mut self.message[self.back..]) {
                Ok(0) => bail!("the server closed"),
                Ok(count) => self.back += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("read"),
            }
            if self.back == SIZE {
                arrived.push_back(read_message(&self.message)?);
                self.back = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Brings everything back at once, but nothing while it stalls.
    struct Stalling {
        start: Instant,
        stall: (Duration, Duration),
        out: VecDeque<u64>,
    }

    impl Link for Stalling {
        fn send(&mut self, number: u64) -> anyhow::Result<()> {
            self.out.push_back(number);
            Ok(())
        }

        fn receive(&mut self) -> anyhow::Result<Option<u64>> {
            let now = self.start.elapsed();
            let stalls = now > self.stall.0 && now < self.stall.1;
            Ok(if stalls { None } else { self.out.pop_front() })
        }
    }

    #[test]
    fn all_that_is_due_during_a_stall_counts() {
        let ms = Duration::from_millis;
        let link = Stalling { start: Instant::now(), stall: (ms(50), ms(150)), out: [].into() };
        let outcome = Paced::new(link).run(10_000.0, ms(200)).unwrap();
        assert_eq!((outcome.sent, outcome.echoed), (2000, 2000));
        // Half of them were due in the stall, one after the other: the longest waited for all of it.
        let longest = Duration::from_nanos(outcome.times.max());
        assert!(longest > ms(95), "{longest:?}");
        let waited = Duration::from_nanos(outcome.times.value_at_quantile(0.75));
        assert!(waited > ms(40), "{waited:?}");
    }

    #[test]
    fn what_never_comes_back_is_not_waited_for() {
        let ms = Duration::from_millis;
        let link = Stalling { start: Instant::now(), stall: (ms(10), ms(100_000)), out: [].into() };
        let outcome = Paced::new(link).run(1000.0, ms(50)).unwrap();
        assert_eq!(outcome.sent, 50);
        assert!(outcome.echoed < 20 && outcome.rate < 500.0, "{outcome:?}");
    }
}
