//! The UDP client: it keeps a window of datagrams in flight and counts those that do not come back.
//! It never sleeps.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use socket2::SockRef;

use super::{Tally, Until, read_message, write_message};

/// How the client gives its datagrams to the kernel, and takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// One `send` and one `recv` a datagram.
    Plain,
    /// Many datagrams a call: UDP_SEGMENT and UDP_GRO.
    Gso,
}

/// What the client does.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub kind: Kind,
    /// Bytes of a datagram, a multiple of 8.
    pub size: usize,
    /// Datagrams in flight.
    pub window: usize,
    /// Datagrams in one GSO send.
    pub batch: usize,
}

/// Numbers are remembered in a ring; one that is still out when its place is needed is lost, and so
/// is what is out when nothing has come back for so long.
const RING: usize = 4096;
const SILENCE: Duration = Duration::from_millis(100);
/// What is out when nothing of it is in flight any more.
const NOTHING: u64 = u64::MAX;
/// The largest GSO send, in datagrams (UDP_MAX_SEGMENTS since Linux 6.9; 64 before).
pub const MAX_BATCH: usize = 128;
/// The largest GSO send, in bytes.
pub const MAX_SEND: usize = 65_000;
/// As the servers have it: 256 datagrams of 1,400 bytes are more than the system's default takes.
pub(super) const BUFFER: usize = 4 << 20;
pub const UDP_SEGMENT: libc::c_int = 103;
pub const UDP_GRO: libc::c_int = 104;

/// A client with its socket.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    load: Load,
    /// How long nothing comes back until what is out is given up.
    silence: Duration,
    next: u64,
    ring: Vec<u64>,
    in_flight: usize,
    tally: Tally,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl Client {
    /// A client that talks to a port of 127.0.0.1.
    pub fn connect(port: u16, load: Load) -> anyhow::Result<Client> {
        Client::to((Ipv4Addr::LOCALHOST, port).into(), load)
    }

    /// A client that talks to somebody else.
    pub fn to(server: SocketAddr, load: Load) -> anyhow::Result<Client> {
        ensure!(load.size >= 8 && load.size.is_multiple_of(8), "a size of {} bytes", load.size);
        ensure!((1..=RING / 4).contains(&load.window), "a window of {} datagrams", load.window);
        ensure!((1..=MAX_BATCH).contains(&load.batch), "a batch of {} datagrams", load.batch);
        ensure!(load.size * load.batch <= MAX_SEND, "a GSO send of more than {MAX_SEND} bytes");
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        SockRef::from(&socket).set_recv_buffer_size(BUFFER)?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        if load.kind == Kind::Gso {
            set_udp_option(&socket, UDP_SEGMENT, load.size.try_into()?)
                .context("setsockopt UDP_SEGMENT")?;
            set_udp_option(&socket, UDP_GRO, 1).context("setsockopt UDP_GRO")?;
        }
        let batch = if load.kind == Kind::Gso { load.batch.min(load.window) } else { 1 };
        Ok(Client {
            socket,
            load: Load { batch, ..load },
            silence: SILENCE,
            next: 0,
            ring: vec![NOTHING; RING],
            in_flight: 0,
            tally: Tally::default(),
            outgoing: vec![0; load.size * batch],
            incoming: vec![0; 65536],
        })
    }

    /// The same, which gives nothing up so soon: for a server that something slows down.
    pub fn patient(self, silence: Duration) -> Client {
        Client { silence, ..self }
    }

    /// Whether the server answers: sends one batch and waits a little for its echo.
    pub fn probe(&mut self) -> io::Result<()> {
        let answered = self.try_probe();
        self.give_up();
        answered
    }

    fn try_probe(&mut self) -> io::Result<()> {
        let sent = match self.send_batch(self.load.batch) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.load.batch > 64 => {
                eprintln!("compare: this kernel sends at most 64 datagrams in a call");
                self.load.batch = 64;
                self.send_batch(64)
            }
            sent => sent,
        };
        sent?;
        let deadline = Instant::now() + SILENCE;
        while self.in_flight > 0 {
            if Instant::now() > deadline {
                return Err(ErrorKind::TimedOut.into());
            }
            self.receive().map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Waits for what is in flight, so that the next run starts with nothing out.
    fn settle(&mut self) -> anyhow::Result<()> {
        let mut heard = Instant::now();
        while self.in_flight > 0 {
            if self.receive()? > 0 {
                heard = Instant::now();
            } else if heard.elapsed() > self.silence {
                self.give_up();
            }
        }
        Ok(())
    }

    fn give_up(&mut self) {
        self.tally.lost += self.in_flight as u64;
        self.in_flight = 0;
        self.ring.fill(NOTHING);
    }

    /// Sends so many datagrams in one call.
    fn send_batch(&mut self, count: usize) -> io::Result<()> {
        let bytes = &mut self.outgoing[..count * self.load.size];
        for (number, datagram) in (self.next..).zip(bytes.chunks_exact_mut(self.load.size)) {
            write_message(number, datagram);
        }
        self.socket.send(bytes)?;
        for number in self.next..self.next + count as u64 {
            let place = &mut self.ring[number as usize % RING];
            if *place != NOTHING {
                self.tally.lost += 1;
                self.in_flight -= 1;
            }
            *place = number;
        }
        self.next += count as u64;
        self.in_flight += count;
        Ok(())
    }

    /// Takes what one call brings; gives the number of datagrams. A datagram that comes after it
    /// was given up is not counted as echoed; a wrong byte ends the run.
    fn receive(&mut self) -> anyhow::Result<usize> {
        let length = match self.socket.recv(&mut self.incoming) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error).context("recv"),
        };
        let size = self.load.size;
        ensure!(
            length > 0 && length.is_multiple_of(size),
            "{length} bytes came back where datagrams of {size} were sent"
        );
        for datagram in self.incoming[..length].chunks_exact(size) {
            let number = read_message(datagram)?;
            let place = &mut self.ring[number as usize % RING];
            if *place == number {
                *place = NOTHING;
                self.in_flight -= 1;
                self.tally.echoed += 1;
            }
        }
        Ok(length / size)
    }
}

impl super::Client for Client {
    fn run(&mut self, until: Until) -> anyhow::Result<Tally> {
        self.tally = Tally::default();
        let start = Instant::now();
        let mut heard = start;
        let mut left = until.messages();
        let mut turn = 0u32;
        while left > 0 || self.in_flight > 0 {
            if self.receive()? > 0 {
                heard = Instant::now();
            }
            // The clock is read now and then only: it would cost as much as a datagram.
            turn = turn.wrapping_add(1);
            if turn.is_multiple_of(64) {
                let now = Instant::now();
                if now - heard > self.silence {
                    self.give_up();
                    heard = now;
                }
                if until.has_passed(now - start) {
                    break;
                }
            }
            while left > 0 {
                let batch = self.load.batch.min(usize::try_from(left).unwrap_or(usize::MAX));
                if self.load.window - self.in_flight < batch {
                    break;
                }
                match self.send_batch(batch) {
                    Ok(()) => left -= batch as u64,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("send"),
                }
            }
        }
        let tally = Tally { elapsed: start.elapsed(), ..self.tally };
        self.settle()?;
        Ok(Tally { lost: self.tally.lost, ..tally })
    }
}

/// setsockopt(2) of UDP's.
pub fn set_udp_option(
    socket: &UdpSocket,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is readable for the length given, and the call keeps no pointer to it.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_UDP,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::{super::Client as _, *};

    fn echo(socket: UdpSocket, mut spoil: impl FnMut(u64, &mut [u8]) -> bool + Send + 'static) {
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            for count in 0.. {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { return };
                if spoil(count, &mut buffer[..length]) {
                    let _ = socket.send_to(&buffer[..length], peer);
                }
            }
        });
    }

    fn client(kind: Kind, spoil: impl FnMut(u64, &mut [u8]) -> bool + Send + 'static) -> Client {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        echo(server, spoil);
        Client::connect(port, Load { kind, size: 64, window: 32, batch: 16 }).unwrap()
    }

    #[test]
    fn both_kinds_count_what_an_honest_server_echoes() {
        for kind in [Kind::Plain, Kind::Gso] {
            let mut client = client(kind, |_, _| true);
            client.probe().unwrap();
            let tally = client.run(Until::Passed(Duration::from_millis(50))).unwrap();
            assert!(tally.echoed > 0, "{kind:?}");
            assert_eq!(tally.lost, 0, "{kind:?}");
            assert_eq!(client.in_flight, 0, "{kind:?}");
        }
    }

    #[test]
    fn so_many_are_sent_and_no_more() {
        for kind in [Kind::Plain, Kind::Gso] {
            let mut client = client(kind, |_, _| true);
            client.probe().unwrap();
            let before = client.next;
            assert_eq!(client.run(Until::Sent(100)).unwrap().echoed, 100, "{kind:?}");
            assert_eq!(client.next - before, 100, "{kind:?}");
        }
    }

    #[test]
    fn what_a_server_swallows_is_lost() {
        let mut client = client(Kind::Plain, |count, _| count % 10 != 9);
        let tally = client.run(Until::Passed(Duration::from_millis(50))).unwrap();
        assert!(tally.lost > 0);
        let ninth = (tally.echoed + tally.lost) / 10;
        assert!(tally.lost.abs_diff(ninth) <= 32, "{tally:?}");
    }

    #[test]
    fn a_wrong_byte_ends_the_run() {
        let mut client = client(Kind::Plain, |count, bytes| {
            bytes[40] ^= u8::from(count == 20);
            true
        });
        let error = client.run(Until::Passed(Duration::from_secs(10))).unwrap_err();
        assert_eq!(error.to_string(), "message 20 came back with other bytes in its word 5");
    }
}
