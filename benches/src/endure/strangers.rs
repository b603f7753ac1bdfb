//! Clients that know nothing of mbuf: plain sockets, which send and compare what comes back.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::shared::{PATIENCE, Shared, Worker, add};
use crate::tcp_many::{Random, fill, mix};

/// The most bytes of one connection, and of one frame.
const MOST: usize = 1 << 20;
pub const FRAME: usize = 64 << 10;

/// Where a stranger goes.
#[derive(Debug, Clone)]
pub enum Place {
    Tcp(SocketAddr),
    /// Each frame behind its length in four bytes.
    Framed(SocketAddr),
    Unix(PathBuf),
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// How a stranger leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Says that it has sent everything, and reads to the end.
    HalfClose,
    /// Closes when everything has come back.
    Close,
    /// Resets the connection (a Unix one is just closed) when so many bytes have come back.
    Reset(usize),
}

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Reset,
    /// The server has ended it before.
    Cut,
}

/// Connects again and again until the end.
pub fn stream(shared: &Shared, worker: &Worker, place: &Place, mut random: Random) {
    let mut bytes = vec![0; MOST + 4];
    let mut scratch = vec![0; 64 << 10];
    while !shared.is_over() {
        let length = plan(place, &mut random, &mut bytes);
        let ending = match random.below(8) {
            0..4 => Ending::HalfClose,
            4..6 => Ending::Close,
            _ => Ending::Reset(random.below(length)),
        };
        let reads_late = random.below(8) == 0;
        // Nothing comes back of half a frame.
        let least = if matches!(place, Place::Framed(_)) { FRAME + 4 } else { 1 };
        let window = least.max(1 + random.below(length));
        worker.at(format!("{place:?}: {length} bytes, {ending:?}, window {window}, {reads_late}"));
        let socket = match Socket::connect(place) {
            Ok(socket) => socket,
            // All ports wait for stragglers (TIME_WAIT), or the backlog is full.
            Err(error) => {
                worker.at(format!("{place:?}: connecting: {error}"));
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        add(&shared.counts.connections, 1);
        let exchange = Exchange {
            socket,
            bytes: &bytes[..length],
            window: if reads_late { length } else { window },
            reads_late,
            ending,
            sent: 0,
            got: 0,
        };
        match exchange.run(&mut random, &mut scratch, shared, worker) {
            Ok(Outcome::Whole) => add(&shared.counts.whole, 1),
            Ok(Outcome::Reset) => add(&shared.counts.reset, 1),
            Ok(Outcome::Cut) => add(&shared.counts.cut, 1),
            Err(what) => return shared.found(format!("{place:?}: {what}")),
        }
        shared.rest();
    }
}

/// Makes up what is sent; how long it is.
fn plan(place: &Place, random: &mut Random, bytes: &mut [u8]) -> usize {
    let seed = random.next();
    // Most are short, as most connections are.
    let most = 1 << (4 + random.below(17));
    if !matches!(place, Place::Framed(_)) {
        let length = 1 + random.below(most.min(MOST));
        fill(seed, 0, &mut bytes[..length]);
        return length;
    }
    let mut at = 0;
    loop {
        let room = bytes.len() - at;
        if at > 0 && (at >= most || room < 4) {
            return at;
        }
        let payload = random.below((most.min(FRAME) + 1).min(room - 3));
        bytes[at..at + 4].copy_from_slice(&(payload as u32).to_be_bytes());
        fill(seed, at + 4, &mut bytes[at + 4..at + 4 + payload]);
        at += 4 + payload;
    }
}

struct Exchange<'a> {
    socket: Socket,
    bytes: &'a [u8],
    /// How much may be on its way.
    window: usize,
    /// Does not read before it can send no more.
    reads_late: bool,
    ending: Ending,
    sent: usize,
    got: usize,
}

impl Exchange<'_> {
    /// Sends and compares to the end. An error is a finding.
    fn run(
        mut self,
        random: &mut Random,
        scratch: &mut [u8],
        shared: &Shared,
        worker: &Worker,
    ) -> Result<Outcome, String> {
        let mut moved_at = Instant::now();
        loop {
            let before = (self.sent, self.got);
            if let Ending::Reset(at) = self.ending
                && self.got >= at
            {
                self.socket.reset();
                return Ok(Outcome::Reset);
            }
            match self.write(random) {
                Ok(()) => {}
                Err(error) if is_end(&error) => return Ok(Outcome::Cut),
                Err(error) => return Err(format!("write at byte {}: {error}", self.sent)),
            }
            if self.sent == before.0 {
                self.reads_late = false;
            }
            if !self.reads_late {
                match self.read(scratch)? {
                    Read1::Bytes(n) => add(&shared.counts.echoed, n as u64),
                    Read1::Nothing => {}
                    Read1::End if self.got == self.bytes.len() => return Ok(Outcome::Whole),
                    Read1::End => return Ok(Outcome::Cut),
                }
                if self.got == self.bytes.len() && self.ending == Ending::Close {
                    return Ok(Outcome::Whole);
                }
            }
            if (self.sent, self.got) != before {
                moved_at = Instant::now();
                worker.moved();
                continue;
            }
            if moved_at.elapsed() > PATIENCE {
                let (sent, got, all) = (self.sent, self.got, self.bytes.len());
                return Err(format!("HANG: {sent} of {all} bytes sent, {got} came back"));
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    fn write(&mut self, random: &mut Random) -> io::Result<()> {
        let left = self.bytes.len() - self.sent;
        let most = left.min((self.got + self.window).saturating_sub(self.sent));
        if most == 0 {
            return Ok(());
        }
        let piece = 1 + random.below(most.min(64 << 10));
        match self.socket.write(&self.bytes[self.sent..self.sent + piece]) {
            Ok(n) => self.sent += n,
            Err(error) if waits(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        if self.sent == self.bytes.len() && self.ending == Ending::HalfClose {
            self.socket.end_writing();
        }
        Ok(())
    }

    fn read(&mut self, scratch: &mut [u8]) -> Result<Read1, String> {
        match self.socket.read(scratch) {
            Ok(0) => Ok(Read1::End),
            Ok(n) => {
                let expected = self.bytes.get(self.got..self.got + n);
                if expected != Some(&scratch[..n]) || self.got + n > self.sent {
                    let (got, sent) = (self.got, self.sent);
                    return Err(format!("WRONG BYTES: {n} after {got} right ones, {sent} sent"));
                }
                self.got += n;
                Ok(Read1::Bytes(n))
            }
            Err(error) if waits(&error) => Ok(Read1::Nothing),
            Err(error) if is_end(&error) => Ok(Read1::End),
            Err(error) => Err(format!("read at byte {}: {error}", self.got)),
        }
    }
}

enum Read1 {
    Bytes(usize),
    Nothing,
    End,
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The server has ended the connection.
fn is_end(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}

impl Socket {
    fn connect(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(address) | Place::Framed(address) => {
                let socket = TcpStream::connect_timeout(address, PATIENCE)?;
                socket.set_nonblocking(true)?;
                Ok(Socket::Tcp(socket))
            }
            Place::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_nonblocking(true)?;
                Ok(Socket::Unix(socket))
            }
        }
    }

    fn end_writing(&self) {
        // It fails where the server has reset the connection, which the next read says.
        let _ = match self {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Write),
        };
    }

    fn reset(self) {
        if let Socket::Tcp(socket) = self
            && let Ok(mut stream) = mbuf::io::Stream::from_std_tcp(socket)
        {
            // If the system refuses, it is an ordinary close.
            let _ = stream.abort_on_drop();
        }
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.read(into),
            Socket::Unix(socket) => socket.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.write(bytes),
            Socket::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Datagrams that are remembered, to find those that come back twice.
const RECENT: usize = 1 << 16;

/// Sends bursts of datagrams until the end. They may be lost; what comes back must be right, and
/// come once.
pub fn datagrams(shared: &Arc<Shared>, worker: &Worker, to: SocketAddr, mut random: Random) {
    let socket = UdpSocket::bind("127.0.0.1:0").and_then(|socket| {
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(socket)
    });
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return shared.found(format!("a UDP socket: {error}")),
    };
    let seed = random.next();
    let mut bytes = vec![0; 1 << 16];
    let mut expected = vec![0; 1 << 16];
    let mut back = vec![u64::MAX; RECENT];
    let mut next = 0_u64;
    while !shared.is_over() {
        let burst = 1 + random.below(16);
        for _ in 0..burst {
            let len = datagram(seed, next, &mut bytes);
            next += 1;
            match socket.send(&bytes[..len]) {
                Ok(_) => add(&shared.counts.datagrams, 1),
                Err(error) if waits(&error) || error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return shared.found(format!("UDP send of {len} bytes: {error}")),
            }
        }
        worker.at(format!("datagrams: {next} sent"));
        let mut came = 0;
        while came < burst {
            let len = match socket.recv(&mut bytes) {
                Ok(len) => len,
                Err(error) if waits(&error) => break,
                Err(error) => return shared.found(format!("UDP receive: {error}")),
            };
            let no = bytes.first_chunk().map_or(u64::MAX, |no| u64::from_le_bytes(*no));
            if no >= next
                || datagram(seed, no, &mut expected) != len
                || bytes[..len] != expected[..len]
            {
                return shared.found(format!("WRONG DATAGRAM of {len} bytes, number {no}"));
            }
            if std::mem::replace(&mut back[no as usize % RECENT], no) == no {
                return shared.found(format!("datagram {no} came back twice"));
            }
            came += 1;
            add(&shared.counts.datagrams_back, 1);
            add(&shared.counts.echoed, len as u64);
            worker.moved();
        }
        shared.rest();
    }
}

/// The n-th datagram: its number, then bytes of its own. How long it is.
fn datagram(seed: u64, no: u64, out: &mut [u8]) -> usize {
    let random = mix(seed ^ mix(no));
    // Those of a burst are often of one length, so that the kernel may join them.
    let len = match mix(seed ^ (no >> 3)) % 16 {
        0 => 8 + random as usize % 60_000,
        1..4 => 8 + random as usize % 8_000,
        _ => 8 + mix(seed ^ (no >> 3)) as usize % 1_400,
    };
    out[..8].copy_from_slice(&no.to_le_bytes());
    fill(random, 8, &mut out[8..len]);
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_in_frames_is_frames() {
        let place = Place::Framed("127.0.0.1:1".parse().unwrap());
        let (mut random, mut bytes) = (Random(5), vec![0; MOST + 4]);
        for _ in 0..50 {
            let length = plan(&place, &mut random, &mut bytes);
            let mut left = &bytes[..length];
            while let Some((prefix, rest)) = left.split_first_chunk() {
                let payload = u32::from_be_bytes(*prefix) as usize;
                assert!(payload <= FRAME);
                left = &rest[payload..];
            }
            assert!(left.is_empty() && length > 0);
        }
    }

    #[test]
    fn a_datagram_is_known_by_its_number() {
        let (mut one, mut other) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let len = datagram(1, 77, &mut one);
        assert_eq!(datagram(1, 77, &mut other), len);
        assert_eq!(one[..len], other[..len]);
        assert_eq!(one[..8], 77_u64.to_le_bytes());
        assert!((0..1000).all(|no| (8..=60_008).contains(&datagram(1, no, &mut one))));
    }
}
