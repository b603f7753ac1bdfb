//! The calls for TUN and TAP devices: one packet a call, and the ioctls that set a device up.

use std::{
    ffi::c_int,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use smallvec::SmallVec;

use super::{Attempt, Errno, IOV_MAX, Iovecs, attempt, gather, nothing_about};
use crate::{
    chain::Chain,
    io::faults::Call,
    pool::{Class, Receiver},
};

/// A request's number, in the type that this C library wants.
type Request = libc::Ioctl;

/// The most bytes of a header before each packet.
pub(crate) const HEADER_BYTES: usize = 12;

/// What a read of one packet brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Bytes of the packet, without the header before it, that are in the chains now.
    pub(crate) len: usize,
    /// It was longer than the room, or, where there was room to spare, it filled it; what there was
    /// more of it, the kernel has thrown away.
    pub(crate) truncated: bool,
    /// The call brought less than the header.
    pub(crate) headless: bool,
}

/// readv(2) of one packet of up to `longest` bytes: `header` before it, then what room `first` has in
/// its last segment, then what is missing in `rest`, taken from `receiver` in `class` where `rest` has
/// not as much. `first` is taken to be empty. Where it has room for all, read(2), which costs less.
///
/// # Errors
/// EAGAIN if there is none. ENOBUFS, without a call, if there is no such room in `rest`.
pub(crate) fn read_packet(
    fd: BorrowedFd<'_>,
    header: &mut [u8],
    first: &mut Chain,
    rest: Option<&mut Chain>,
    receiver: &Receiver,
    class: Class,
    longest: usize,
) -> Result<Packet, Errno> {
    let no_room = |_| Errno(libc::ENOBUFS);
    let tailroom = first.tailroom();
    let more = longest.saturating_sub(tailroom);
    let mut front = first.reserve_uninit(tailroom).map_err(no_room)?;
    let mut back = match rest {
        Some(rest) if more > 0 => Some(rest.reserve_from(receiver, class, more).map_err(no_room)?),
        _ => None,
    };
    let room = front.len() + back.as_ref().map_or(0, |back| back.len());
    // A packet that reaches this byte was longer than the room: the kernel does not say so. Where
    // there is room to spare, one that reaches its end was too long.
    let mut beyond = 0_u8;
    let mut iovecs: SmallVec<[libc::iovec; 8]> = SmallVec::new();
    if !header.is_empty() {
        let iov_base = header.as_mut_ptr().cast();
        iovecs.push(libc::iovec { iov_base, iov_len: header.len() });
    }
    front.iovecs(&mut iovecs);
    if let Some(back) = &mut back {
        back.iovecs(&mut iovecs);
    }
    if iovecs.len() >= IOV_MAX {
        return Err(Errno(libc::ENOBUFS));
    }
    let spare = room > longest;
    if !spare {
        iovecs.push(libc::iovec { iov_base: (&raw mut beyond).cast(), iov_len: 1 });
    }
    let bytes = header.len() + room;
    let about = Attempt { call: Call::Readv, messages: 1, ..nothing_about(fd, bytes) };
    // What a test cuts short is not: a device brings a packet whole.
    let taken = attempt(&about, |_| {
        if let [only] = &iovecs[..] {
            // SAFETY: the iovec is one of those below.
            return unsafe { libc::read(fd.as_raw_fd(), only.iov_base, only.iov_len) };
        }
        // SAFETY: the iovecs point to `header` and `beyond`, which are borrowed and outlive the
        // call, and to the room that `front` and `back` hold exclusively and that outlives it too;
        // their number is at most IOV_MAX.
        unsafe { libc::readv(fd.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32) }
    })?;
    let headless = taken < header.len();
    let len = taken.saturating_sub(header.len());
    let truncated = len > room || spare && len == room;
    let in_front = len.min(front.len());
    let in_back = back.as_ref().map_or(0, |back| (len - in_front).min(back.len()));
    // SAFETY: readv wrote `header.len() + len` bytes in the order of the iovecs, so `in_front`
    // bytes from the start of the first room on.
    unsafe { front.commit(in_front) };
    if let Some(back) = back {
        // SAFETY: as above: what is beyond the first room went to the second, from its start on.
        unsafe { back.commit(in_back) };
    }
    Ok(Packet { len: in_front + in_back, truncated, headless })
}

/// writev(2) of one packet, with `header` before it. Answers how many bytes were taken, those of the
/// header included.
///
/// # Errors
/// EMSGSIZE without a call if the chain has more segments than one call takes.
pub(crate) fn write_packet(
    fd: BorrowedFd<'_>,
    header: &[u8],
    chain: &Chain,
) -> Result<usize, Errno> {
    let mut iovecs = Iovecs::new();
    if !header.is_empty() {
        let iov_base = header.as_ptr().cast_mut().cast();
        iovecs.push(libc::iovec { iov_base, iov_len: header.len() });
    }
    let start = iovecs.len();
    if gather(chain, &mut iovecs, start) < chain.len() {
        return Err(Errno(libc::EMSGSIZE));
    }
    let bytes = header.len() + chain.len();
    let about = Attempt { call: Call::Writev, messages: 1, ..nothing_about(fd, bytes) };
    attempt(&about, |_| {
        if let [only] = &iovecs[..] {
            // SAFETY: the iovec is one of those below.
            return unsafe { libc::write(fd.as_raw_fd(), only.iov_base, only.iov_len) };
        }
        // SAFETY: the iovecs point to `header` and to the bytes of the chain, both borrowed, so they
        // stay in place and unchanged during the call, which only reads them (those of mapped files
        // are the kernel's to check); their number is at most IOV_MAX.
        unsafe { libc::writev(fd.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32) }
    })
}

/// `struct ifreq` (netdevice(7)): a name, and a union of which each request has its own idea. At
/// least as long as the kernel's.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

impl InterfaceRequest {
    /// A request about the interface of that name; `None` where the name is not one: empty is, for
    /// the system to choose.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let mut request = Self { name: [0; libc::IFNAMSIZ], value: [0; 24] };
        // The last byte stays zero.
        let room = request.name.get_mut(..name.len()).filter(|_| name.len() < libc::IFNAMSIZ)?;
        room.copy_from_slice(name.as_bytes());
        (!name.contains(['\0', '/']) && !name.contains(char::is_whitespace)).then_some(request)
    }

    /// The interface's name, which the kernel may have changed.
    pub(crate) fn name(&self) -> String {
        let end = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.value[..bytes.len()].copy_from_slice(bytes);
        self
    }

    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.value[0], self.value[1]])
    }

    fn number(&self) -> i32 {
        i32::from_ne_bytes([self.value[0], self.value[1], self.value[2], self.value[3]])
    }
}

/// `struct in6_ifreq` (linux/ipv6.h).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Interface6 {
    address: [u8; 16],
    prefix: u32,
    index: i32,
}

/// An ioctl(2) whose argument is an [`InterfaceRequest`], which the kernel may write to.
fn about_interface(
    fd: BorrowedFd<'_>,
    request: Request,
    argument: &mut InterfaceRequest,
) -> Result<(), Errno> {
    let argument: *mut InterfaceRequest = argument;
    // SAFETY: the argument is a struct ifreq that may be written and outlives the call; it holds no
    // pointers, and all its bytes are initialised.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
    if answer < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// An ioctl(2) whose argument is a pointer to an int.
fn about_int(fd: BorrowedFd<'_>, request: Request, mut value: c_int) -> Result<c_int, Errno> {
    // SAFETY: the argument is an int that may be written and outlives the call.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) };
    if answer < 0 { Err(Errno::last()) } else { Ok(value) }
}

/// An ioctl(2) whose argument is a number.
fn about_value(fd: BorrowedFd<'_>, request: Request, value: u32) -> Result<(), Errno> {
    // SAFETY: the argument is a number, no memory is passed.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request, libc::c_ulong::from(value)) };
    if answer < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// TUNGETFEATURES: the flags that the driver knows.
pub(crate) fn features(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    about_int(fd, libc::TUNGETFEATURES, 0).map(|features| features as u32)
}

/// TUNSETIFF: makes the interface, or attaches to it. Answers its name.
pub(crate) fn set_interface(
    fd: BorrowedFd<'_>,
    request: &InterfaceRequest,
    flags: u16,
) -> Result<String, Errno> {
    let mut request = request.put(&flags.to_ne_bytes());
    about_interface(fd, libc::TUNSETIFF, &mut request)?;
    Ok(request.name())
}

/// TUNSETPERSIST: whether the interface outlives its last descriptor.
pub(crate) fn set_persistent(fd: BorrowedFd<'_>, yes: bool) -> Result<(), Errno> {
    about_value(fd, libc::TUNSETPERSIST, u32::from(yes))
}

/// TUNSETOWNER: the user that may attach to the interface.
pub(crate) fn set_owner(fd: BorrowedFd<'_>, user: u32) -> Result<(), Errno> {
    about_value(fd, libc::TUNSETOWNER, user)
}

/// TUNSETVNETHDRSZ: the bytes of the virtio header.
pub(crate) fn set_header_len(fd: BorrowedFd<'_>, bytes: usize) -> Result<(), Errno> {
    about_int(fd, libc::TUNSETVNETHDRSZ, bytes as c_int).map(drop)
}

/// TUNSETOFFLOAD: what the kernel may leave to whoever reads.
pub(crate) fn set_offload(fd: BorrowedFd<'_>, offload: u32) -> Result<(), Errno> {
    about_value(fd, libc::TUNSETOFFLOAD, offload)
}

/// SIOCGIFINDEX.
pub(crate) fn index(socket: BorrowedFd<'_>, about: &InterfaceRequest) -> Result<i32, Errno> {
    let mut request = *about;
    about_interface(socket, libc::SIOCGIFINDEX as Request, &mut request)?;
    Ok(request.number())
}

/// SIOCGIFMTU.
pub(crate) fn mtu(socket: BorrowedFd<'_>, about: &InterfaceRequest) -> Result<usize, Errno> {
    let mut request = *about;
    about_interface(socket, libc::SIOCGIFMTU as Request, &mut request)?;
    Ok(usize::try_from(request.number()).unwrap_or(0))
}

/// SIOCSIFMTU.
pub(crate) fn set_mtu(
    socket: BorrowedFd<'_>,
    about: &InterfaceRequest,
    mtu: u32,
) -> Result<(), Errno> {
    let mtu = i32::try_from(mtu).map_err(|_| Errno(libc::EINVAL))?;
    about_interface(socket, libc::SIOCSIFMTU as Request, &mut about.put(&mtu.to_ne_bytes()))
}

/// SIOCGIFHWADDR: the interface's MAC, if it is an Ethernet.
pub(crate) fn mac(
    socket: BorrowedFd<'_>,
    about: &InterfaceRequest,
) -> Result<Option<[u8; 6]>, Errno> {
    let mut request = *about;
    about_interface(socket, libc::SIOCGIFHWADDR as Request, &mut request)?;
    let [_, _, a, b, c, d, e, f, ..] = request.value;
    Ok((request.flags() == libc::ARPHRD_ETHER).then_some([a, b, c, d, e, f]))
}

/// SIOCSIFHWADDR.
pub(crate) fn set_mac(
    socket: BorrowedFd<'_>,
    about: &InterfaceRequest,
    mac: [u8; 6],
) -> Result<(), Errno> {
    let [low, high] = libc::ARPHRD_ETHER.to_ne_bytes();
    let [a, b, c, d, e, f] = mac;
    let mut request = about.put(&[low, high, a, b, c, d, e, f]);
    about_interface(socket, libc::SIOCSIFHWADDR as Request, &mut request)
}

/// SIOCSIFFLAGS with IFF_UP, unless the interface is up already.
pub(crate) fn bring_up(socket: BorrowedFd<'_>, about: &InterfaceRequest) -> Result<(), Errno> {
    let mut request = *about;
    about_interface(socket, libc::SIOCGIFFLAGS as Request, &mut request)?;
    let up = libc::IFF_UP as u16;
    if request.flags() & up != 0 {
        return Ok(());
    }
    let mut request = about.put(&(request.flags() | up).to_ne_bytes());
    about_interface(socket, libc::SIOCSIFFLAGS as Request, &mut request)
}

/// SIOCSIFADDR of an IPv4 address.
pub(crate) fn set_address_v4(
    socket: BorrowedFd<'_>,
    about: &InterfaceRequest,
    address: Ipv4Addr,
) -> Result<(), Errno> {
    let mut request = about.put(&socket_address(address));
    about_interface(socket, libc::SIOCSIFADDR as Request, &mut request)
}

/// SIOCSIFNETMASK.
pub(crate) fn set_netmask(
    socket: BorrowedFd<'_>,
    about: &InterfaceRequest,
    prefix: u8,
) -> Result<(), Errno> {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    let mut request = about.put(&socket_address(mask.into()));
    about_interface(socket, libc::SIOCSIFNETMASK as Request, &mut request)
}

/// SIOCSIFADDR of an IPv6 address, by a socket of that family.
pub(crate) fn set_address_v6(
    socket: BorrowedFd<'_>,
    index: i32,
    address: Ipv6Addr,
    prefix: u8,
) -> Result<(), Errno> {
    let mut request = Interface6 { address: address.octets(), prefix: u32::from(prefix), index };
    // SAFETY: the argument is a struct in6_ifreq that outlives the call and holds no pointers.
    let answer =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as Request, &raw mut request) };
    if answer < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// A `struct sockaddr_in`, port 0.
fn socket_address(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as libc::sa_family_t).to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

/// The descriptor of a clone of /dev/net/tun: non-blocking, closed on exec.
pub(crate) fn open() -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    options.open("/dev/net/tun")
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::net::UnixDatagram};

    use super::*;
    use crate::pool::Pool;

    #[test]
    fn a_name_fits_or_is_refused() {
        assert_eq!(InterfaceRequest::new("mbuf0").unwrap().name(), "mbuf0");
        assert_eq!(InterfaceRequest::new("").unwrap().name(), "");
        assert_eq!(InterfaceRequest::new("a23456789012345").unwrap().name().len(), 15);
        for bad in ["a234567890123456", "a b", "a/b", "a\0b", "a234567890123456789"] {
            assert!(InterfaceRequest::new(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_packet_is_cut_into_its_header_and_the_rooms_of_two_chains() {
        let pool = Pool::with_memory(4 << 20).unwrap();
        let receiver = pool.receiver();
        let (here, there) = UnixDatagram::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        for (len, expected, truncated) in
            [(4, 4, false), (32, 32, false), (33, 33, false), (132, 132, false), (133, 132, true)]
        {
            let sent: Vec<u8> = (0..10 + len as u8).collect();
            there.send(&sent).unwrap();
            // 32 bytes of room, then 100.
            let mut first = receiver.chain_in(Class::Small, 96).unwrap();
            let mut rest = receiver.chain_in(Class::K2, 0).unwrap();
            let mut header = [0; 10];
            let fd = here.as_fd();
            let room = Some(&mut rest);
            let packet =
                read_packet(fd, &mut header, &mut first, room, &receiver, Class::K2, 132).unwrap();
            assert_eq!(packet, Packet { len: expected, truncated, headless: false });
            assert_eq!(header, sent[..10]);
            first.concat(rest).unwrap();
            assert_eq!(first.to_vec().unwrap(), sent[10..10 + expected]);
        }
        there.send(&[1, 2, 3]).unwrap();
        let mut first = receiver.chain().unwrap();
        let mut header = [0; 10];
        let packet =
            read_packet(here.as_fd(), &mut header, &mut first, None, &receiver, Class::K2, 0);
        assert_eq!(packet, Ok(Packet { len: 0, truncated: false, headless: true }));
        let packet =
            read_packet(here.as_fd(), &mut header, &mut first, None, &receiver, Class::K2, 0);
        assert_eq!(packet, Err(Errno(libc::EAGAIN)));
    }

    #[test]
    fn where_there_is_room_to_spare_a_packet_that_fills_it_was_too_long() {
        let pool = Pool::with_memory(4 << 20).unwrap();
        let receiver = pool.receiver();
        let (here, there) = UnixDatagram::pair().unwrap();
        for (len, expected, truncated) in
            [(30, 30, false), (31, 31, false), (32, 32, true), (33, 32, true)]
        {
            there.send(&vec![7; len]).unwrap();
            let mut first = receiver.chain_in(Class::Small, 96).unwrap();
            let fd = here.as_fd();
            let packet =
                read_packet(fd, &mut [], &mut first, None, &receiver, Class::K2, 30).unwrap();
            assert_eq!(packet, Packet { len: expected, truncated, headless: false });
            assert_eq!(first.to_vec().unwrap(), vec![7; expected]);
        }
    }

    #[test]
    fn a_packet_is_gathered_behind_its_header() {
        let pool = Pool::with_memory(4 << 20).unwrap();
        let (here, there) = UnixDatagram::pair().unwrap();
        let mut chain = pool.chain_from(b"one ").unwrap();
        chain.concat(pool.chain_from(b"two").unwrap()).unwrap();
        assert_eq!(write_packet(here.as_fd(), b"head ", &chain), Ok(12));
        let mut bytes = [0; 100];
        let len = there.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"head one two");
    }
}
