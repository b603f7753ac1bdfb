//! Super-packets of UDP over a TUN, with the kernel at the other end: as one chain each, beside the
//! plain loop, which has the same bytes in packets of the MTU, one call each.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use mbuf::{
    Batch, Chain, Pool, Queue,
    chain::checksum::{self, Sum},
    io::{Offloads, Received, Sent, Sink, Source, TunTap},
    meta::Offload,
};
use mbuf_protocols::net::{ipv4, protocol, udp};
use socket2::SockRef;
use zerocopy::IntoBytes;

use crate::{
    client::udp::{UDP_GRO, UDP_SEGMENT, set_udp_option},
    micro::{
        self,
        case::{Case, Side},
    },
    row::{Measure, Row},
};

/// The payload of a packet, and of a super-packet.
const SEGMENT: usize = 1_200;
const SUPER: usize = 20 * SEGMENT;
/// The headers of each.
const HEADERS: usize = size_of::<ipv4::Header>() + size_of::<udp::Header>();
/// Super-packets that lie ready to be read: what a TUN's queue holds as packets, at most.
const READ: usize = 20;
/// Super-packets that are written before the socket is emptied: what its buffer holds as packets.
const WRITTEN: usize = 5;
/// Who sends, and who listens, on each interface.
const OURS: u16 = 9;
const KERNELS: u16 = 7000;

/// Rows of bytes a second; or what is missing on this machine.
pub fn measure(rounds: usize, time: Duration) -> anyhow::Result<Result<Vec<Row>, anyhow::Error>> {
    let there =
        |name, last, offloads| Interface::new(name, Ipv4Addr::new(10, 8, last, 1), offloads);
    let probe = there("super%d", 0, Offloads::all())?;
    if !probe.tun.offloads().contains(Offloads::USO) {
        return Ok(Err(anyhow!("this kernel has no USO (Linux 6.2)")));
    }
    drop(probe);
    let mut rows = Vec::new();
    let mut case = |case: &str, sides: Vec<Side>| -> anyhow::Result<()> {
        // A side's things are bytes.
        for row in micro::measure(Case::new(case, || Ok(sides)), rounds, time)? {
            let figures = row.rounds.iter().map(|nanoseconds| 1e9 / nanoseconds).collect();
            rows.push(Row::new(case, &row.who, Measure::BytesPerSecond, figures));
        }
        Ok(())
    };
    case(
        "24,000 bytes of UDP, read",
        vec![
            read_chains("mbuf", there("super%d", 1, Offloads::all())?)?,
            read_chains("mbuf, packet by packet", there("super%d", 2, Offloads::empty())?)?,
            read_plainly(there("super%d", 3, Offloads::empty())?)?,
        ],
    )?;
    for (title, joined) in [
        ("24,000 bytes of UDP, written to a socket with GRO", true),
        ("24,000 bytes of UDP, written to a socket without", false),
    ] {
        case(
            title,
            vec![
                write_chains("mbuf", there("super%d", 4, Offloads::all())?, true, joined)?,
                write_chains(
                    "mbuf, packet by packet",
                    there("super%d", 5, Offloads::empty())?,
                    false,
                    joined,
                )?,
                write_plainly(there("super%d", 6, Offloads::empty())?, joined)?,
            ],
        )?;
    }
    Ok(Ok(rows))
}

/// A TUN, and the kernel's socket at its other end.
struct Interface {
    tun: TunTap,
    socket: UdpSocket,
    kernel: Ipv4Addr,
    ours: Ipv4Addr,
}

impl Interface {
    fn new(name: &str, kernel: Ipv4Addr, offloads: Offloads) -> anyhow::Result<Interface> {
        let tun = TunTap::builder().tun().name(name).address(kernel.into(), 24);
        let tun = tun.offload(offloads).build()?;
        let ours = Ipv4Addr::from_bits(kernel.to_bits() + 1);
        let socket = UdpSocket::bind((kernel, KERNELS))?;
        SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
        socket.connect((ours, OURS))?;
        socket.set_nonblocking(true)?;
        Ok(Interface { tun, socket, kernel, ours })
    }

    /// Has the kernel send, which cuts the super-packets where the interface does not take them.
    fn fill(&self, payload: &[u8]) -> anyhow::Result<()> {
        for _ in 0..READ {
            self.socket.send(payload).context("send of a super-packet")?;
        }
        Ok(())
    }

    /// What it takes to send a datagram: headers, and where it stands for many, what is left to
    /// the kernel. Its checksum is filled in else.
    fn packet(&self, payload: &[u8], partial: bool) -> Vec<u8> {
        let length = (size_of::<udp::Header>() + payload.len()) as u16;
        let mut ip = ipv4::Header {
            version_ihl: 0x45,
            tos: 0,
            total_length: (size_of::<ipv4::Header>() as u16 + length).into(),
            identification: 0.into(),
            fragment: 0x4000.into(),
            ttl: 64,
            protocol: protocol::UDP as u8,
            checksum: 0.into(),
            source: self.ours.octets(),
            destination: self.kernel.octets(),
        };
        ip.checksum = checksum::of(ip.as_bytes()).into();
        let mut header = udp::Header {
            source: OURS.into(),
            destination: KERNELS.into(),
            length: length.into(),
            checksum: 0.into(),
        };
        let mut sum = Sum::ipv4(self.ours, self.kernel, protocol::UDP as u8, length);
        header.checksum = match partial {
            true => sum.fold(),
            false => {
                sum.add(header.as_bytes());
                sum.add(payload);
                sum.checksum()
            }
        }
        .into();
        [ip.as_bytes(), header.as_bytes(), payload].concat()
    }

    /// Takes all that was written, every byte of which must be right.
    fn empty(&self, expected: &[u8], bytes: &mut [u8]) -> anyhow::Result<()> {
        let mut left = WRITTEN * SUPER;
        while left > 0 {
            let length = match self.socket.recv(bytes) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("recv"),
            };
            let from = (WRITTEN * SUPER - left) % SUPER;
            let right = expected.get(from..from + length) == Some(&bytes[..length]);
            ensure!(right, "{length} bytes that were not sent came");
            left -= length;
        }
        ensure!(left == 0, "{left} bytes of what was written did not come");
        Ok(())
    }
}

/// Bytes that differ from place to place.
fn payload() -> Vec<u8> {
    (0..SUPER).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

/// By ours: a chain for each packet that comes, of the kernel's choice how long.
fn read_chains(who: &'static str, mut interface: Interface) -> anyhow::Result<Side> {
    let pool = Pool::with_memory(16 << 20)?;
    let receiver = pool.receiver();
    let payload = payload();
    set_udp_option(&interface.socket, UDP_SEGMENT, SEGMENT as i32).context("UDP_SEGMENT")?;
    let mut batch = Batch::with_limit(32);
    // The first pass only: every byte that comes.
    interface.fill(&payload)?;
    let mut came = Vec::new();
    while came.len() < READ * SUPER {
        let received = interface.tun.recv(&receiver, &mut batch)?;
        ensure!(received != Received::WouldBlock, "{who}: only {} bytes came", came.len());
        for chain in batch.drain() {
            came.extend_from_slice(&chain.to_vec()?[HEADERS..]);
        }
    }
    ensure!(came == payload.repeat(READ), "{who}: bytes that were not sent came");
    Ok(Side::new(who, READ * SUPER, move |times| {
        let mut taken = Duration::ZERO;
        for _ in 0..times {
            interface.fill(&payload)?;
            let start = Instant::now();
            let mut left = READ * SUPER;
            while left > 0 {
                let received = interface.tun.recv(&receiver, &mut batch)?;
                ensure!(received != Received::WouldBlock, "{who}: {left} bytes did not come");
                left -= batch.iter().map(|chain| chain.len() - HEADERS).sum::<usize>();
                batch.clear();
            }
            taken += start.elapsed();
        }
        Ok(taken)
    }))
}

/// As one would without any of this: read(2) into one buffer, over and over again.
fn read_plainly(interface: Interface) -> anyhow::Result<Side> {
    let mut file = File::from(interface.tun.as_fd().try_clone_to_owned()?);
    let payload = payload();
    set_udp_option(&interface.socket, UDP_SEGMENT, SEGMENT as i32).context("UDP_SEGMENT")?;
    let mut bytes = vec![0; 2048];
    Ok(Side::new("plain loop", READ * SUPER, move |times| {
        let mut taken = Duration::ZERO;
        for _ in 0..times {
            interface.fill(&payload)?;
            let start = Instant::now();
            let mut left = READ * SUPER;
            while left > 0 {
                let length = file.read(&mut bytes).context("read")?;
                left -= length.checked_sub(HEADERS).context("a short packet")?;
            }
            taken += start.elapsed();
        }
        Ok(taken)
    }))
}

/// By ours: one chain for each super-packet, or one for each packet.
fn write_chains(
    who: &'static str,
    mut interface: Interface,
    whole: bool,
    joined: bool,
) -> anyhow::Result<Side> {
    let pool = Pool::with_memory(16 << 20)?;
    let payload = payload();
    let mut chains: Vec<Chain> = payload
        .chunks(if whole { SUPER } else { SEGMENT })
        .map(|part| pool.chain_from(&interface.packet(part, whole)))
        .collect::<mbuf::Result<_>>()?;
    if whole {
        for chain in &mut chains {
            let meta = chain.meta_mut();
            meta.set_offload(Offload::CHECKSUM_PARTIAL | Offload::SEGMENTED);
            meta.set_segment_size(SEGMENT as u16);
            meta.set_transport_offset(size_of::<ipv4::Header>() as u16);
        }
    }
    join(&interface, joined)?;
    let mut bytes = vec![0; 1 << 16];
    let mut queue = Queue::new(WRITTEN * SUPER / SEGMENT, 1 << 20);
    Ok(Side::new(who, WRITTEN * SUPER, move |times| {
        let mut taken = Duration::ZERO;
        for _ in 0..times {
            for _ in 0..WRITTEN {
                for chain in &mut chains {
                    let shared = chain.share()?;
                    queue.push(shared).map_err(|_| anyhow!("the queue is too small"))?;
                }
            }
            let start = Instant::now();
            let sent = interface.tun.send(&mut queue)?;
            taken += start.elapsed();
            ensure!(sent == Sent::All, "{who}: {sent:?}");
            interface.empty(&payload, &mut bytes)?;
        }
        Ok(taken)
    }))
}

/// As one would without any of this: write(2) for each packet.
fn write_plainly(interface: Interface, joined: bool) -> anyhow::Result<Side> {
    let mut file = File::from(interface.tun.as_fd().try_clone_to_owned()?);
    let payload = payload();
    let packets: Vec<_> =
        payload.chunks(SEGMENT).map(|part| interface.packet(part, false)).collect();
    join(&interface, joined)?;
    let mut bytes = vec![0; 1 << 16];
    Ok(Side::new("plain loop", WRITTEN * SUPER, move |times| {
        let mut taken = Duration::ZERO;
        for _ in 0..times {
            let start = Instant::now();
            for _ in 0..WRITTEN {
                for packet in &packets {
                    file.write_all(packet).context("write")?;
                }
            }
            taken += start.elapsed();
            interface.empty(&payload, &mut bytes)?;
        }
        Ok(taken)
    }))
}

/// Has the socket take joined datagrams as they are, or not.
fn join(interface: &Interface, joined: bool) -> io::Result<()> {
    set_udp_option(&interface.socket, UDP_GRO, joined.into())
}
