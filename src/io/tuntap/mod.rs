//! TUN and TAP: a network interface of this host whose other end is this process.
//!
//! What the kernel sends through the interface is received here, what is sent here arrives there: IP
//! packets by a **TUN**, Ethernet frames by a **TAP**. Each queue of the interface is a [`TunTap`],
//! a source and sink; a [`Reactor`](crate::io::reactor::Reactor) takes it by `attach`.
//!
//! ```no_run
//! use mbuf::{Pool, io::{TunTap, reactor::Reactor}, stack::{Edge, Protocol, Stack}};
//!
//! # fn layers() -> Vec<Box<dyn Protocol>> { Vec::new() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The kernel's own end is 10.7.0.1: `ping 10.7.0.2` then asks this process.
//! let tap = TunTap::builder().name("mbuf0").address("10.7.0.1".parse()?, 24).build()?;
//! println!("{tap}: MTU {}, the kernel's MAC is {:02x?}", tap.mtu(), tap.mac());
//!
//! let pool = Pool::with_memory(64 << 20)?;
//! let mut reactor = Reactor::builder(&pool).build()?;
//! reactor.attach(Stack::pile(&pool, Edge::Packets, layers())?, vec![Box::new(tap)])?;
//! reactor.run()?;
//! # Ok(())
//! # }
//! ```
//!
//! Making an interface, and setting it up, needs CAP_NET_ADMIN in the network namespace (`unshare
//! -rn` makes one of one's own). One that was made before for a user (`ip tuntap add mode tap user
//! NAME`, or [`TunTapBuilder::owner`] with [`TunTapBuilder::persistent`]) may be attached to
//! without.
//!
//! **Receiving** is one readv(2) a packet, or read(2) where one buffer is enough, straight into
//! buffers of the pool: into a 2 KiB cluster, which holds a packet of an MTU of 1,500, and what is
//! longer goes on in a further one, which is of 64 KiB where the interface has offloads, and stays posted until a packet reaches it. Of that
//! one, up to 4 KiB are copied into a smaller one, so that they do not pin it.
//!
//! **Sending** is one writev(2) a packet, gathered straight from the chain's segments, or write(2)
//! of a single one.
//!
//! **Offloads.** With [`Offloads`] the kernel leaves work to who reads, and takes work from who
//! writes, by a header before each packet (virtio):
//!
//! | in the metadata | received | sent |
//! |---|---|---|
//! | [`CHECKSUM_PARTIAL`](Offload::CHECKSUM_PARTIAL) | the checksum is the sum of the pseudo header only, and `transport_offset` says where what it covers begins: the packet never left this host | the kernel fills it in, or leaves it where nobody needs it |
//! | [`CHECKSUM_VERIFIED`](Offload::CHECKSUM_VERIFIED) | it was verified | means nothing |
//! | [`SEGMENTED`](Offload::SEGMENTED) | one packet of up to 64 KiB, to be taken for many whose payload is `segment_size` bytes each: of TCP (TSO) or UDP (USO) | the kernel cuts it, or hands it on whole; needs `CHECKSUM_PARTIAL` too |
//!
//! `transport_offset` counts from the first byte of the packet. Where the device has no such header,
//! the sink fills in a partial checksum itself ([`checksum::complete`]); a packet that is
//! `SEGMENTED` is not cut here, but dropped as `not_offloaded`: [`TunTap::takes_segments`] says
//! beforehand.
//!
//! **Errors** that concern one packet drop that one, by a reason that is counted in
//! [`TunTapStats::dropped`] and in the pool's statistics. When the interface is removed, receiving
//! and sending fail with EBADFD.
//!
//! [`checksum::complete`]: crate::chain::checksum::complete

use std::{
    fmt,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use bitflags::bitflags;
use mio::{Interest, Registry, Token, event, unix::SourceFd};
use zerocopy::IntoBytes;

use crate::{
    io::{
        Received, Sent, Sink, Source,
        error::named,
        sys::{self, Errno, IOV_MAX, tun},
    },
    meta::Offload,
    pool::Receiver,
    queue::{Batch, Queue},
};

mod builder;
mod header;
mod receive;
mod stats;

pub use builder::TunTapBuilder;
use header::{Completion, Cuts, Header, Refusal};
use receive::Receiving;
pub use stats::{TunTapDropped, TunTapStats};

/// The longest IP packet.
const LONGEST: usize = 65_535;

/// Bytes of an Ethernet header, and of two tags.
const ETHERNET: usize = 14;
const TAGS: usize = 8;

bitflags! {
    /// What the kernel may leave to who reads from a TUN or TAP.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Offloads: u8 {
        /// Checksums that are not filled in.
        const CHECKSUM = 1 << 0;
        /// Segments of TCP that are not cut, over both IPs. Implies `CHECKSUM`.
        const TSO = 1 << 1;
        /// Datagrams of UDP that are not cut, over both IPs (Linux 6.2). Implies `CHECKSUM`.
        const USO = 1 << 2;
    }
}

/// What an interface carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunTapKind {
    /// IP packets.
    Tun,
    /// Ethernet frames.
    Tap,
}

impl TunTapKind {
    /// Bytes before the IP header.
    fn link(self) -> usize {
        match self {
            TunTapKind::Tun => 0,
            TunTapKind::Tap => ETHERNET,
        }
    }
}

impl fmt::Display for TunTapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TunTapKind::Tun => "tun",
            TunTapKind::Tap => "tap",
        })
    }
}

/// One queue of a TUN or TAP interface; see the [module](self).
///
/// ```no_run
/// use mbuf::{Batch, Pool, io::{Received, Source, TunTap}};
///
/// let pool = Pool::with_memory(16 << 20)?;
/// let mut tun = TunTap::builder().tun().address("10.7.0.1".parse()?, 24).build()?;
/// let mut batch = Batch::new();
/// while tun.recv(&pool.receiver(), &mut batch)? == Received::WouldBlock {}
/// println!("{:?}", batch.pop());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TunTap {
    file: File,
    device: Device,
    receiving: Receiving,
    starved: bool,
    stats: TunTapStats,
}

/// What is known of the interface.
#[derive(Debug, Clone)]
struct Device {
    /// Its name, as the kernel has it.
    name: Box<str>,
    kind: TunTapKind,
    index: u32,
    mtu: usize,
    mac: Option<[u8; 6]>,
    /// Whether each packet has a virtio header before it.
    header: bool,
    offloads: Offloads,
    /// Super-packets that the kernel takes.
    cuts: Cuts,
}

impl TunTap {
    /// Sets up an interface: a TAP, up, of a name that the kernel chooses, with one queue and no
    /// offloads, unless the builder is told otherwise.
    ///
    /// ```
    /// use mbuf::io::{TunTap, errno};
    ///
    /// let error = TunTap::builder().name("a name with spaces").build().unwrap_err();
    /// assert!(error.to_string().contains("a name with spaces"));
    /// ```
    pub fn builder() -> TunTapBuilder {
        TunTapBuilder::new()
    }

    fn new(file: File, device: Device) -> Self {
        let receiving = Receiving::new(&device);
        Self { file, device, receiving, starved: false, stats: TunTapStats::default() }
    }

    /// The interface's name.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().name("mbuf0").build()?;
    /// assert_eq!(tap.name(), "mbuf0");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// Whether it is a TUN or a TAP.
    ///
    /// ```no_run
    /// use mbuf::io::{TunTap, TunTapKind};
    ///
    /// let tun = TunTap::builder().tun().build()?;
    /// assert_eq!(tun.kind(), TunTapKind::Tun);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn kind(&self) -> TunTapKind {
        self.device.kind
    }

    /// The interface's index.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().name("mbuf0").build()?;
    /// assert!(tap.index() > 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn index(&self) -> u32 {
        self.device.index
    }

    /// The longest IP packet that the interface carries, in bytes, as it was when that was last
    /// looked at: when the queue was made, or a longer packet came.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().mtu(9_000).build()?;
    /// assert_eq!(tap.mtu(), 9_000);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn mtu(&self) -> usize {
        self.device.mtu
    }

    /// The MAC of the kernel's own end, when the queue was made; `None` for a TUN.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().mac([2, 0, 0, 0, 0, 1]).build()?;
    /// assert_eq!(tap.mac(), Some([2, 0, 0, 0, 0, 1]));
    /// assert_eq!(TunTap::builder().tun().build()?.mac(), None);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.device.mac
    }

    /// What the kernel leaves to who reads. It may be less than was asked for, where the kernel does
    /// not know it.
    ///
    /// ```no_run
    /// use mbuf::io::{Offloads, TunTap};
    ///
    /// let tap = TunTap::builder().offload(Offloads::TSO).build()?;
    /// assert!(Offloads::all().contains(tap.offloads()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn offloads(&self) -> Offloads {
        self.device.offloads
    }

    /// Whether a packet that is [`SEGMENTED`](Offload::SEGMENTED) can be sent: for TCP
    /// ([`Offloads::TSO`]) or UDP ([`Offloads::USO`]), or whatever is asked of both.
    ///
    /// ```no_run
    /// use mbuf::io::{Offloads, TunTap};
    ///
    /// let tap = TunTap::builder().vnet_hdr(true).build()?;
    /// assert!(tap.takes_segments(Offloads::TSO));
    /// assert!(!TunTap::builder().build()?.takes_segments(Offloads::TSO));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn takes_segments(&self, of: Offloads) -> bool {
        let Cuts { tcp, udp } = self.device.cuts;
        (tcp || !of.contains(Offloads::TSO)) && (udp || !of.contains(Offloads::USO))
    }

    /// Whether partial checksums are left to the kernel when sending; if not, they are filled in
    /// here, at the cost of reading the packet.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().vnet_hdr(true).build()?;
    /// assert!(tap.takes_partial_checksums());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn takes_partial_checksums(&self) -> bool {
        self.device.header
    }

    /// Whether the interface outlives the process that made it (TUNSETPERSIST).
    ///
    /// # Errors
    /// The system's.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().name("mbuf0").build()?;
    /// let index = tap.index();
    /// tap.set_persistent(true)?;
    /// drop(tap);
    /// assert_eq!(TunTap::builder().name("mbuf0").build()?.index(), index);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_persistent(&self, yes: bool) -> io::Result<()> {
        tun::set_persistent(self.file.as_fd(), yes)
            .map_err(|errno| named("TUNSETPERSIST on", self, errno.0))
    }

    /// Gives the buffers that are posted for the next receive back to the pool. To be called when
    /// the queue goes idle.
    ///
    /// ```no_run
    /// use mbuf::{Batch, Pool, io::{Source, TunTap}};
    ///
    /// let pool = Pool::with_memory(16 << 20).unwrap();
    /// let mut tap = TunTap::builder().build()?;
    /// tap.recv(&pool.receiver(), &mut Batch::new())?; // nothing is there
    /// tap.release();
    /// assert_eq!(pool.stats().in_use(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn release(&mut self) {
        self.receiving.release();
    }

    /// Whether the last receive found that nothing more was there.
    ///
    /// ```no_run
    /// use mbuf::{Batch, Pool, io::{Source, TunTap}};
    ///
    /// let pool = Pool::with_memory(16 << 20).unwrap();
    /// let mut tap = TunTap::builder().build()?;
    /// tap.recv(&pool.receiver(), &mut Batch::new())?; // nothing is there
    /// assert!(tap.is_drained());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_drained(&self) -> bool {
        self.receiving.is_drained()
    }

    /// What it has done so far.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().name("mbuf0").build()?;
    /// assert_eq!((tap.stats().received, tap.stats().dropped.total()), (0, 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stats(&self) -> TunTapStats {
        self.stats
    }

    /// Makes the first chain of the queue such that it can be written, and answers the header that
    /// goes before it; `None` if the chain was dropped.
    fn prepare(&mut self, queue: &mut Queue) -> Option<Header> {
        let first = queue.front()?;
        let link = self.device.kind.link();
        if first.is_empty() {
            // A write of nothing would not even reach the device.
            self.stats.dropped.invalid += 1;
            self.drop_first(queue, "invalid");
            return None;
        }
        if first.len() > LONGEST + link + TAGS {
            self.stats.dropped.too_long += 1;
            self.drop_first(queue, "too_long");
            return None;
        }
        if self.device.header {
            return match Header::ask(first, link, self.device.cuts) {
                Ok(header) => Some(header),
                Err(refusal) => {
                    self.refuse(refusal, queue);
                    None
                }
            };
        }
        let offload = first.meta().offload();
        if offload.contains(Offload::SEGMENTED) {
            self.refuse(Refusal::NotOffloaded, queue);
            return None;
        }
        if offload.contains(Offload::CHECKSUM_PARTIAL) {
            let mut done = Ok(());
            queue.for_each_mut(|first| {
                done = header::complete(first, link);
                false
            });
            match done {
                Ok(()) => self.stats.completed += 1,
                Err(Completion::Refused(refusal)) => {
                    self.refuse(refusal, queue);
                    return None;
                }
                Err(Completion::NoBuffers) => {
                    self.stats.dropped.no_buffers += 1;
                    self.drop_first(queue, "no_buffers");
                    return None;
                }
            }
        }
        Some(Header::default())
    }

    fn refuse(&mut self, refusal: Refusal, queue: &mut Queue) {
        let dropped = &mut self.stats.dropped;
        let (count, reason) = match refusal {
            Refusal::NotOffloaded => (&mut dropped.not_offloaded, "not_offloaded"),
            Refusal::NoChecksumField => (&mut dropped.no_checksum_field, "no_checksum_field"),
        };
        *count += 1;
        self.drop_first(queue, reason);
    }

    /// Does what an error asks for: wait (the answer says so), try again, or give up the first
    /// packet. An error that concerns the interface as a whole is answered as one.
    fn failed(&mut self, errno: Errno, queue: &mut Queue) -> io::Result<Option<Sent>> {
        let dropped = &mut self.stats.dropped;
        let (count, reason) = match errno.0 {
            libc::EAGAIN => return Ok(Some(Sent::WouldBlock)),
            libc::ENOBUFS | libc::ENOMEM => {
                self.stats.starved += 1;
                self.starved = true;
                return Ok(Some(Sent::WouldBlock));
            }
            libc::EMSGSIZE if queue.front().is_some_and(|chain| chain.segments() >= IOV_MAX) => {
                let mut collapsed = false;
                queue.for_each_mut(|first| {
                    collapsed = first.collapse(IOV_MAX - 1).is_ok();
                    false
                });
                if collapsed {
                    return Ok(None);
                }
                (&mut dropped.no_buffers, "no_buffers")
            }
            libc::EIO => (&mut dropped.down, "down"),
            libc::EINVAL | libc::EMSGSIZE | libc::E2BIG => (&mut dropped.invalid, "invalid"),
            libc::EFAULT => (&mut dropped.fault, "fault"),
            _ => return Err(named("writev to", self, errno.0)),
        };
        *count += 1;
        self.drop_first(queue, reason);
        Ok(None)
    }

    fn drop_first(&mut self, queue: &mut Queue, reason: &'static str) {
        if let Some(chain) = queue.pop() {
            chain.discard(reason);
        }
    }
}

impl fmt::Display for TunTap {
    /// The kind and the name: `tap mbuf0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.device.kind, self.device.name)
    }
}

impl Source for TunTap {
    /// One readv(2) for each packet, and one more that finds none. Never says `Closed`: an interface
    /// that was removed is an error, EBADFD.
    fn recv(&mut self, receiver: &Receiver, batch: &mut Batch) -> io::Result<Received> {
        let fd = self.file.as_fd();
        self.receiving
            .recv(fd, &mut self.device, &mut self.stats, receiver, batch)
            .map_err(|errno| named("readv from", &*self, errno.0))
    }
}

impl Sink for TunTap {
    /// Sends until the queue is empty or the interface takes no more. Each chain is one packet.
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent> {
        self.starved = false;
        // Every round sends or drops a packet, or makes one writable, which it is then.
        while !queue.is_empty() {
            let Some(header) = self.prepare(queue) else { continue };
            let Some(first) = queue.front() else { break };
            let bytes = if self.device.header { header.as_bytes() } else { &[] };
            match tun::write_packet(self.file.as_fd(), bytes, first) {
                Ok(taken) if taken < bytes.len() + first.len() => {
                    self.stats.dropped.cut += 1;
                    self.drop_first(queue, "cut");
                }
                Ok(_) => {
                    self.stats.sent += 1;
                    self.stats.sent_bytes += first.len() as u64;
                    self.stats.segmented += u64::from(header.is_segmented());
                    queue.pop();
                }
                Err(errno) => {
                    if let Some(sent) = self.failed(errno, queue)? {
                        return Ok(sent);
                    }
                }
            }
        }
        Ok(Sent::All)
    }

    fn is_starved(&self) -> bool {
        self.starved
    }
}

impl event::Source for TunTap {
    fn register(&mut self, registry: &Registry, token: Token, what: Interest) -> io::Result<()> {
        SourceFd(&self.file.as_raw_fd()).register(registry, token, what)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, what: Interest) -> io::Result<()> {
        SourceFd(&self.file.as_raw_fd()).reregister(registry, token, what)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.file.as_raw_fd()).deregister(registry)
    }
}

impl AsFd for TunTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
impl TunTap {
    /// Over any descriptor that keeps the edges of packets: one end of a pair of sockets.
    pub(crate) fn over(
        descriptor: std::os::fd::OwnedFd,
        kind: TunTapKind,
        mtu: usize,
        header: bool,
    ) -> Self {
        let device = Device {
            name: "pair".into(),
            kind,
            index: 0,
            mtu,
            mac: None,
            header,
            offloads: if header { Offloads::all() } else { Offloads::empty() },
            cuts: Cuts { tcp: header, udp: header },
        };
        Self::new(descriptor.into(), device)
    }
}

/// The MTU now, by a socket made for the question; `None` where it cannot be had.
fn mtu_now(name: &str) -> Option<usize> {
    let socket = builder::control(socket2::Domain::IPV4).ok()?;
    sys::tun::mtu(socket.as_fd(), &tun::InterfaceRequest::new(name)?).ok()
}
