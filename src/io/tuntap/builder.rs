//! How an interface is made, and set up.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

use socket2::{Domain, Socket, Type};

use super::{Cuts, Device, Offloads, TunTap, TunTapKind, header};
use crate::io::{
    error::{advised, errno, rename},
    sys::{
        Errno,
        tun::{self, InterfaceRequest},
    },
};

const NEEDS_ADMIN: &str = "needs CAP_NET_ADMIN in this network namespace";

/// What an interface is to be; see [`TunTap::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct TunTapBuilder {
    name: String,
    kind: TunTapKind,
    header: bool,
    offloads: Offloads,
    multi_queue: bool,
    persistent: bool,
    owner: Option<u32>,
    mtu: Option<u32>,
    mac: Option<[u8; 6]>,
    addresses: Vec<(IpAddr, u8)>,
    up: bool,
}

impl TunTapBuilder {
    pub(super) fn new() -> Self {
        Self {
            name: String::new(),
            kind: TunTapKind::Tap,
            header: false,
            offloads: Offloads::empty(),
            multi_queue: false,
            persistent: false,
            owner: None,
            mtu: None,
            mac: None,
            addresses: Vec::new(),
            up: true,
        }
    }

    /// The interface's name, up to 15 bytes; `%d` in it is a number that the kernel chooses. One that
    /// is there already, and that nobody else has attached to, is attached to.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().name("mbuf%d").build()?;
    /// assert!(tap.name().starts_with("mbuf"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Ethernet frames: the default.
    ///
    /// ```no_run
    /// use mbuf::io::{TunTap, TunTapKind};
    ///
    /// assert_eq!(TunTap::builder().tap().build()?.kind(), TunTapKind::Tap);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn tap(mut self) -> Self {
        self.kind = TunTapKind::Tap;
        self
    }

    /// IP packets.
    ///
    /// ```no_run
    /// use mbuf::io::{TunTap, TunTapKind};
    ///
    /// assert_eq!(TunTap::builder().tun().build()?.kind(), TunTapKind::Tun);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn tun(mut self) -> Self {
        self.kind = TunTapKind::Tun;
        self
    }

    /// Whether a virtio header goes before each packet (IFF_VNET_HDR), so that partial checksums and
    /// super-packets can be sent. Off by default.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().vnet_hdr(true).build()?;
    /// assert!(tap.takes_partial_checksums() && tap.offloads().is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn vnet_hdr(mut self, yes: bool) -> Self {
        self.header = yes;
        if !yes {
            self.offloads = Offloads::empty();
        }
        self
    }

    /// What the kernel may leave to who reads (TUNSETOFFLOAD): nothing, by default. Anything needs
    /// the virtio header, which this turns on. What the kernel does not know is left out, and said
    /// by an event; [`TunTap::offloads`] says what there is.
    ///
    /// ```no_run
    /// use mbuf::io::{Offloads, TunTap};
    ///
    /// let tap = TunTap::builder().offload(Offloads::TSO).build()?;
    /// assert_eq!(tap.offloads(), Offloads::TSO | Offloads::CHECKSUM);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn offload(mut self, offloads: Offloads) -> Self {
        self.offloads = offloads;
        if offloads.intersects(Offloads::TSO | Offloads::USO) {
            self.offloads |= Offloads::CHECKSUM;
        }
        self.header |= !offloads.is_empty();
        self
    }

    /// Whether the interface may have several queues, of which one is made here. Off by default;
    /// [`TunTapBuilder::build_queues`] of more than one turns it on.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let one = TunTap::builder().name("mbuf0").multi_queue(true).build()?;
    /// let other = TunTap::builder().name("mbuf0").multi_queue(true).build()?;
    /// assert_eq!(one.index(), other.index());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn multi_queue(mut self, yes: bool) -> Self {
        self.multi_queue = yes;
        self
    }

    /// Makes the interface outlive this process (TUNSETPERSIST). Not by default.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let index = TunTap::builder().name("mbuf0").persistent(true).build()?.index();
    /// assert_eq!(TunTap::builder().name("mbuf0").build()?.index(), index);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn persistent(mut self, yes: bool) -> Self {
        self.persistent = yes;
        self
    }

    /// The user, by number, that may attach to the interface later without CAP_NET_ADMIN.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().name("mbuf0").persistent(true).owner(1_000).build()?;
    /// assert_eq!(tap.name(), "mbuf0"); // user 1,000 may attach to it from now on
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn owner(mut self, user: u32) -> Self {
        self.owner = Some(user);
        self
    }

    /// The longest IP packet in bytes; 1,500 by default.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// assert_eq!(TunTap::builder().mtu(9_000).build()?.mtu(), 9_000);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// The MAC of the **kernel's own end** of a TAP; a random one by default. That of this end is
    /// whatever is sent here.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let tap = TunTap::builder().mac([2, 0, 0, 0, 0, 1]).build()?;
    /// assert_eq!(tap.mac(), Some([2, 0, 0, 0, 0, 1]));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    /// An address of the **kernel's own end**, and how many bits of it are the network's: the
    /// kernel then has a route to the other addresses of that network through the interface. One of
    /// IPv4, and any number of IPv6.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let _tap = TunTap::builder().address([10, 7, 0, 1].into(), 24).build()?;
    /// assert!(std::net::UdpSocket::bind("10.7.0.1:0").is_ok()); // the kernel has it now
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn address(mut self, address: IpAddr, prefix: u8) -> Self {
        if address.is_ipv4() {
            self.addresses.retain(|(address, _)| !address.is_ipv4());
        }
        self.addresses.push((address, prefix));
        self
    }

    /// Whether the interface is brought up: it is, by default.
    ///
    /// ```no_run
    /// use mbuf::{Pool, Queue, io::{Sink, TunTap}};
    ///
    /// let mut tap = TunTap::builder().up(false).build()?;
    /// let pool = Pool::with_memory(1 << 20).unwrap();
    /// let mut queue = Queue::new(1, 100);
    /// queue.push(pool.chain_from(&[0; 64]).unwrap()).unwrap();
    /// tap.send(&mut queue)?;
    /// assert_eq!(tap.stats().dropped.down, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn up(mut self, yes: bool) -> Self {
        self.up = yes;
        self
    }

    /// Makes the interface, or attaches to it, and sets it up.
    ///
    /// # Errors
    /// The system's, with the call, the interface and what is missing: `TUNSETIFF tap mbuf0: EPERM
    /// (Operation not permitted): needs CAP_NET_ADMIN in this network namespace, ...`.
    ///
    /// ```
    /// use mbuf::io::TunTap;
    ///
    /// let error = TunTap::builder().name("a/b").build().unwrap_err();
    /// assert_eq!(error.to_string(), "\"a/b\" cannot be the name of an interface");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn build(self) -> io::Result<TunTap> {
        let mut queues = self.build_queues(1)?;
        queues.pop().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// As [`TunTapBuilder::build`], with so many queues (IFF_MULTI_QUEUE), each a source and sink of
    /// its own, for a thread each. The kernel sends the packets of a flow by one of them: by that in
    /// which the flow's packets came from here, else by a hash.
    ///
    /// # Errors
    /// As [`TunTapBuilder::build`]; [`io::ErrorKind::InvalidInput`] for no queue at all.
    ///
    /// ```no_run
    /// use mbuf::io::TunTap;
    ///
    /// let queues = TunTap::builder().build_queues(4)?;
    /// assert!(queues.iter().all(|queue| queue.name() == queues[0].name()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn build_queues(self, queues: usize) -> io::Result<Vec<TunTap>> {
        if queues == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface of no queues"));
        }
        let Some(mut request) = InterfaceRequest::new(&self.name) else {
            let text = format!("{:?} cannot be the name of an interface", self.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        let first = open()?;
        let header = self.header && self.has_header(first.as_fd());
        let several = if self.multi_queue || queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let kind = match self.kind {
            TunTapKind::Tun => libc::IFF_TUN,
            TunTapKind::Tap => libc::IFF_TAP,
        };
        let header_flag = if header { libc::IFF_VNET_HDR } else { 0 };
        let flags = (kind | libc::IFF_NO_PI | several | header_flag) as u16;
        let name = self.attach(&first, &request, flags)?;
        if let Some(named) = InterfaceRequest::new(&name) {
            request = named;
        }
        let about = About { object: format!("{} {name}", self.kind), request };
        let (offloads, cuts) = match header {
            true => self.offer(first.as_fd(), &about)?,
            false => (Offloads::empty(), Cuts::default()),
        };
        let mut files = vec![first];
        for _ in 1..queues {
            let file = open()?;
            self.attach(&file, &request, flags)?;
            files.push(file);
        }
        let device = self.set_up(name, files[0].as_fd(), &about, (header, offloads, cuts))?;
        Ok(files.into_iter().map(|file| TunTap::new(file, device.clone())).collect())
    }

    fn attach(&self, file: &File, request: &InterfaceRequest, flags: u16) -> io::Result<String> {
        tun::set_interface(file.as_fd(), request, flags).map_err(|errno| {
            let hint = match errno.0 {
                libc::EPERM => Some(
                    "needs CAP_NET_ADMIN in this network namespace, or an interface that was made \
                     for this user (ip tuntap add ... user NAME)",
                ),
                libc::EBUSY => Some("another process has it"),
                libc::EINVAL => Some(
                    "there is an interface of that name, of another kind, or with one queue where \
                     several are asked for, or the other way round",
                ),
                libc::E2BIG => Some("more queues than the kernel allows"),
                _ => None,
            };
            let name = if self.name.is_empty() { "of any name" } else { &self.name };
            advised("TUNSETIFF", format_args!("{} {name}", self.kind), errno.0, hint)
        })
    }

    /// Whether the driver knows the virtio header.
    fn has_header(&self, fd: BorrowedFd<'_>) -> bool {
        let knows = tun::features(fd).is_ok_and(|known| known & libc::IFF_VNET_HDR as u32 != 0);
        if !knows {
            tracing::warn!(
                interface = self.name,
                missing = "IFF_VNET_HDR",
                "the kernel's TUN has no virtio header: no offloads"
            );
        }
        knows
    }

    /// Tells the kernel what it may leave to us, and finds out what it takes.
    fn offer(&self, fd: BorrowedFd<'_>, about: &About) -> io::Result<(Offloads, Cuts)> {
        tun::set_header_len(fd, header::LEN).map_err(about.error("TUNSETVNETHDRSZ"))?;
        let knows = |offloads| tun::set_offload(fd, flags(offloads)).is_ok();
        // Whether it is asked for or not: who writes may want it.
        let cuts = Cuts { tcp: true, udp: knows(Offloads::CHECKSUM | Offloads::USO) };
        let mut offloads = self.offloads;
        for (one, missing) in [
            (Offloads::USO, "TUN_F_USO4, TUN_F_USO6 (Linux 6.2)"),
            (Offloads::TSO, "TUN_F_TSO4, TUN_F_TSO6"),
            (Offloads::CHECKSUM, "TUN_F_CSUM"),
        ] {
            if offloads.contains(one) && !knows(one | Offloads::CHECKSUM) {
                tracing::warn!(interface = about.object, missing, "an offload is not to be had");
                offloads -= one;
            }
        }
        tun::set_offload(fd, flags(offloads)).map_err(about.error("TUNSETOFFLOAD"))?;
        Ok((offloads, cuts))
    }

    /// Sets what is to be set, and asks for what is not.
    fn set_up(
        &self,
        name: String,
        fd: BorrowedFd<'_>,
        about: &About,
        (header, offloads, cuts): (bool, Offloads, Cuts),
    ) -> io::Result<Device> {
        let request = &about.request;
        if self.persistent {
            tun::set_persistent(fd, true).map_err(about.error("TUNSETPERSIST"))?;
        }
        if let Some(user) = self.owner {
            tun::set_owner(fd, user).map_err(about.error("TUNSETOWNER"))?;
        }
        let socket = control(Domain::IPV4)?;
        let socket = socket.as_fd();
        let index = tun::index(socket, request).map_err(about.error("SIOCGIFINDEX"))?;
        if let Some(mac) = self.mac {
            tun::set_mac(socket, request, mac).map_err(about.error("SIOCSIFHWADDR"))?;
        }
        if let Some(mtu) = self.mtu {
            tun::set_mtu(socket, request, mtu).map_err(about.error("SIOCSIFMTU"))?;
        }
        for &(address, prefix) in &self.addresses {
            match address {
                IpAddr::V4(address) => {
                    tun::set_address_v4(socket, request, address)
                        .map_err(about.error("SIOCSIFADDR"))?;
                    tun::set_netmask(socket, request, prefix)
                        .map_err(about.error("SIOCSIFNETMASK"))?;
                }
                IpAddr::V6(address) => {
                    let socket = control(Domain::IPV6)?;
                    match tun::set_address_v6(socket.as_fd(), index, address, prefix) {
                        Ok(()) | Err(Errno(libc::EEXIST)) => {}
                        Err(errno) => return Err(about.error("SIOCSIFADDR (IPv6)")(errno)),
                    }
                }
            }
        }
        if self.up {
            tun::bring_up(socket, request).map_err(about.error("SIOCSIFFLAGS"))?;
        }
        let mtu = tun::mtu(socket, request).map_err(about.error("SIOCGIFMTU"))?;
        let mac = tun::mac(socket, request).map_err(about.error("SIOCGIFHWADDR"))?;
        let index = u32::try_from(index).unwrap_or(0);
        let kind = self.kind;
        Ok(Device { name: name.into(), kind, index, mtu, mac, header, offloads, cuts })
    }
}

/// An interface that is there now, and what it is called in errors.
struct About {
    object: String,
    request: InterfaceRequest,
}

impl About {
    fn error(&self, call: &'static str) -> impl Fn(Errno) -> io::Error {
        let object = self.object.clone();
        move |errno| {
            let hint = match errno.0 {
                libc::EPERM | libc::EACCES => Some(NEEDS_ADMIN),
                libc::ENODEV | libc::EBADFD => Some("the interface has been removed meanwhile"),
                _ => None,
            };
            advised(call, &object, errno.0, hint)
        }
    }
}

/// A socket to ask and set up interfaces by.
pub(super) fn control(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::DGRAM, None).map_err(|error| rename("socket", "for ioctls", error))
}

fn open() -> io::Result<File> {
    tun::open().map_err(|error| {
        let Some(errno) = errno(&error) else { return error };
        let hint = match errno {
            libc::ENOENT => {
                Some("load the driver (modprobe tun), or make the device node (10, 200)")
            }
            libc::ENODEV | libc::ENXIO => Some("the kernel has no TUN/TAP driver (modprobe tun)"),
            libc::EACCES | libc::EPERM => Some("needs permission to read and write it"),
            _ => None,
        };
        advised("open", "/dev/net/tun", errno, hint)
    })
}

fn flags(offloads: Offloads) -> u32 {
    let mut flags = 0;
    for (one, bits) in [
        (Offloads::CHECKSUM, libc::TUN_F_CSUM),
        (Offloads::TSO, libc::TUN_F_TSO4 | libc::TUN_F_TSO6),
        (Offloads::USO, libc::TUN_F_USO4 | libc::TUN_F_USO6),
    ] {
        if offloads.contains(one) {
            flags |= bits;
        }
    }
    flags
}
