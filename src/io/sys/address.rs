//! Socket addresses and control messages, as bytes. No unsafe code: the layouts are the kernel's.

use std::{
    fmt,
    hash::{Hash, Hasher},
    io,
    mem::{offset_of, size_of},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use socket2::SockAddr;

/// Bytes of a sockaddr_storage.
pub(crate) const NAME_BYTES: usize = size_of::<libc::sockaddr_storage>();

const PORT: usize = offset_of!(libc::sockaddr_in, sin_port);
const ADDR4: usize = offset_of!(libc::sockaddr_in, sin_addr);
const LEN4: usize = size_of::<libc::sockaddr_in>();
const FLOW6: usize = offset_of!(libc::sockaddr_in6, sin6_flowinfo);
const ADDR6: usize = offset_of!(libc::sockaddr_in6, sin6_addr);
const SCOPE6: usize = offset_of!(libc::sockaddr_in6, sin6_scope_id);
const LEN6: usize = size_of::<libc::sockaddr_in6>();
const PATH: usize = offset_of!(libc::sockaddr_un, sun_path);
const LEN_UNIX: usize = size_of::<libc::sockaddr_un>();
const _: () = assert!(PORT == offset_of!(libc::sockaddr_in6, sin6_port));

/// A socket address as the kernel reads and writes it: some family's `sockaddr`, and its length.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Name {
    pub(super) bytes: [u8; NAME_BYTES],
    pub(super) len: u32,
}

impl Name {
    /// No address.
    pub(crate) const NONE: Name = Name { bytes: [0; NAME_BYTES], len: 0 };

    /// An IP address and port.
    pub(crate) fn ip(address: &SocketAddr) -> Name {
        let mut name = Name::NONE;
        name.set_ip(address);
        name
    }

    /// Writes an IP address and port over what was there.
    pub(crate) fn set_ip(&mut self, address: &SocketAddr) {
        match address {
            SocketAddr::V4(v4) => {
                self.put(0, &(libc::AF_INET as libc::sa_family_t).to_ne_bytes());
                self.put(PORT, &v4.port().to_be_bytes());
                self.put(ADDR4, &v4.ip().octets());
                self.put(ADDR4 + 4, &[0; LEN4 - ADDR4 - 4]);
                self.len = LEN4 as u32;
            }
            SocketAddr::V6(v6) => {
                self.put(0, &(libc::AF_INET6 as libc::sa_family_t).to_ne_bytes());
                self.put(PORT, &v6.port().to_be_bytes());
                self.put(FLOW6, &v6.flowinfo().to_be_bytes());
                self.put(ADDR6, &v6.ip().octets());
                self.put(SCOPE6, &v6.scope_id().to_ne_bytes());
                self.len = LEN6 as u32;
            }
        }
    }

    /// The name that the kernel filled in, cut to the length it gave.
    pub(super) fn filled(bytes: &[u8; NAME_BYTES], len: u32) -> Name {
        let len = len.min(NAME_BYTES as u32);
        let mut name = Name { bytes: [0; NAME_BYTES], len };
        name.put(0, &bytes[..len as usize]);
        name
    }

    /// The name of a Unix socket at a path.
    #[cfg(test)]
    pub(crate) fn unix_for_tests(path: &str) -> Name {
        let mut name = Name::NONE;
        name.put(0, &(libc::AF_UNIX as libc::sa_family_t).to_ne_bytes());
        name.put(PATH, path.as_bytes());
        name.len = (PATH + path.len() + 1) as u32;
        name
    }

    /// As an IP address; `None` for another family or a name that was cut.
    pub(crate) fn as_ip(&self) -> Option<SocketAddr> {
        let len = self.len as usize;
        if len < size_of::<libc::sa_family_t>() {
            return None;
        }
        let family = i32::from(libc::sa_family_t::from_ne_bytes(self.at(0)));
        let port = u16::from_be_bytes(self.at(PORT));
        match family {
            libc::AF_INET if len >= LEN4 => {
                let ip = Ipv4Addr::from(self.at::<4>(ADDR4));
                Some(SocketAddr::new(IpAddr::V4(ip), port))
            }
            libc::AF_INET6 if len >= LEN6 => {
                let ip = Ipv6Addr::from(self.at::<16>(ADDR6));
                let scope = u32::from_ne_bytes(self.at(SCOPE6));
                // The flow label is not part of who the peer is.
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
            }
            _ => None,
        }
    }

    /// Whether this is the name of a bound Unix socket, by path or abstract.
    pub(crate) fn is_named_unix(&self) -> bool {
        let len = self.len as usize;
        len > PATH
            && len <= LEN_UNIX
            && i32::from(libc::sa_family_t::from_ne_bytes(self.at(0))) == libc::AF_UNIX
    }

    /// The bytes that count.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn at<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.bytes[at..at + N]);
        bytes
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.as_ip() {
            return ip.fmt(f);
        }
        if !self.is_named_unix() {
            return f.write_str("-");
        }
        match &self.as_bytes()[PATH..] {
            [0, name @ ..] => write!(f, "@{}", name.escape_ascii()),
            path => {
                // The kernel counts the terminating zero in or not, as the peer bound.
                let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
                let path = Path::new(std::ffi::OsStr::from_bytes(&path[..end]));
                path.display().fmt(f)
            }
        }
    }
}

/// The address of the Unix socket at a path.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] with the numbers, if the path is too long for one (unix(7)).
pub(crate) fn unix_address(path: &Path) -> io::Result<SockAddr> {
    // One byte of sun_path is for the zero behind it.
    let (len, most) = (path.as_os_str().len(), LEN_UNIX - PATH - 1);
    if len > most {
        let text = format!("a path of {len} bytes; at most {most} are possible");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    SockAddr::unix(path)
}

/// Bytes of the control messages of one datagram: more than packet information (20 bytes and a
/// header of 16) and the segment size (4 and a header) need.
pub(crate) const CONTROL_BYTES: usize = 128;

/// Control messages (cmsg(3)) of one datagram, aligned as they must be.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control {
    pub(super) bytes: [u8; CONTROL_BYTES],
    pub(super) len: usize,
}

const HEADER: usize = size_of::<libc::cmsghdr>();
const LEN: usize = offset_of!(libc::cmsghdr, cmsg_len);
const LEVEL: usize = offset_of!(libc::cmsghdr, cmsg_level);
const TYPE: usize = offset_of!(libc::cmsghdr, cmsg_type);
const _: () = assert!(HEADER.is_multiple_of(size_of::<usize>()));

/// What the control messages of a received datagram said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Arrival {
    /// The local address it came to, and the interface's index.
    pub(crate) local: Option<(IpAddr, u32)>,
    /// The size of the datagrams that the kernel joined (UDP_GRO); 0 where it joined none.
    pub(crate) segment: u16,
    /// In the error queue: what the network said of a datagram that was sent (IP_RECVERR); `None`
    /// where it was this host that said so, at once.
    pub(crate) report: Option<i32>,
}

impl Control {
    /// None.
    pub(crate) const EMPTY: Control = Control { bytes: [0; CONTROL_BYTES], len: 0 };

    /// Whether there are any.
    pub(crate) fn is_some(&self) -> bool {
        self.len > 0
    }

    /// Asks for the datagram to leave from this address (IP_PKTINFO, IPV6_PKTINFO).
    pub(crate) fn push_source(&mut self, source: IpAddr, scope: u32) {
        match source {
            IpAddr::V4(v4) => {
                // struct in_pktinfo: the interface's index (0: by the routing table), the local
                // address to send from, and the header's destination (only received).
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&v4.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(v6) => {
                // struct in6_pktinfo: the address, and the interface's index.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&v6.octets());
                info[16..].copy_from_slice(&scope.to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// Asks for the payload to be cut into datagrams of that many bytes (UDP_SEGMENT).
    pub(crate) fn push_segment(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &bytes.to_ne_bytes());
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let at = self.len;
        let space = HEADER + align(data.len());
        // Two control messages at most are ever sent: 16 + 24 and 16 + 8 bytes.
        debug_assert!(at + space <= CONTROL_BYTES);
        self.bytes[at..at + space].fill(0);
        self.put(at + LEN, &(HEADER + data.len()).to_ne_bytes());
        self.put(at + LEVEL, &level.to_ne_bytes());
        self.put(at + TYPE, &kind.to_ne_bytes());
        self.put(at + HEADER, data);
        self.len = at + space;
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Reads control messages; unknown ones are skipped, and the first that is malformed ends it.
    pub(crate) fn parse(bytes: &[u8]) -> Arrival {
        let mut arrival = Arrival::default();
        let mut rest = bytes;
        while let Some((len, level, kind)) = header(rest) {
            let Some(data) = rest.get(HEADER..len) else { break };
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    if let (Some(index), Some(ip)) = (word(data, 0), data.get(4..8)) {
                        let ip = Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]);
                        arrival.local = Some((IpAddr::V4(ip), u32::from_ne_bytes(index)));
                    }
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    if let (Some(ip), Some(index)) = (data.first_chunk::<16>(), word(data, 16)) {
                        let ip = Ipv6Addr::from(*ip);
                        arrival.local = Some((IpAddr::V6(ip), u32::from_ne_bytes(index)));
                    }
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    // udp_cmsg_recv() in the kernel writes an int.
                    if let Some(size) = word(data, 0) {
                        let size = i32::from_ne_bytes(size);
                        arrival.segment = u16::try_from(size).unwrap_or(0);
                    }
                }
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                    // struct sock_extended_err: the error's number, and where it came from.
                    if let (Some(errno), Some(origin)) = (word(data, 0), data.get(4))
                        && *origin != libc::SO_EE_ORIGIN_LOCAL
                    {
                        arrival.report = Some(i32::from_ne_bytes(errno));
                    }
                }
                _ => {}
            }
            let Some(next) = rest.get(align(len)..) else { break };
            rest = next;
        }
        arrival
    }
}

/// Length (header included), level and type of the first control message.
fn header(bytes: &[u8]) -> Option<(usize, i32, i32)> {
    let len = usize::from_ne_bytes(*bytes.get(LEN..)?.first_chunk()?);
    let level = i32::from_ne_bytes(word(bytes, LEVEL)?);
    let kind = i32::from_ne_bytes(word(bytes, TYPE)?);
    (len >= HEADER && len <= bytes.len()).then_some((len, level, kind))
}

fn word(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// CMSG_ALIGN of cmsg(3).
fn align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_addresses_come_back_from_their_kernel_form() {
        for text in ["192.0.2.1:7", "0.0.0.0:0", "[2001:db8::1]:65535", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let name = Name::ip(&address);
            assert_eq!(name.as_ip(), Some(address));
            assert!(!name.is_named_unix());
            assert_eq!(name.to_string(), text);
            // The reference: socket2 makes the same bytes.
            let theirs = socket2::SockAddr::from(address);
            assert_eq!(theirs.len() as usize, name.as_bytes().len());
        }
    }

    #[test]
    fn a_unix_path_may_have_107_bytes() {
        let address = unix_address(Path::new(&"x".repeat(107))).unwrap();
        assert_eq!(address.as_pathname(), Some(Path::new(&"x".repeat(107))));
        let error = unix_address(Path::new(&"x".repeat(108))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), "a path of 108 bytes; at most 107 are possible");
    }

    #[test]
    fn a_name_that_was_cut_is_no_address() {
        let whole = Name::ip(&"[2001:db8::1]:7".parse().unwrap());
        for len in 0..LEN6 as u32 {
            assert_eq!(Name::filled(&whole.bytes, len).as_ip(), None, "{len} bytes");
        }
        assert_eq!(Name::filled(&whole.bytes, LEN6 as u32), whole);
        assert_eq!(Name::filled(&whole.bytes, u32::MAX).as_bytes().len(), NAME_BYTES);
    }

    #[test]
    fn control_messages_are_laid_out_as_cmsg_says() {
        let mut control = Control::EMPTY;
        control.push_source("192.0.2.1".parse().unwrap(), 0);
        control.push_segment(1200);
        assert_eq!(control.len, 32 + 24);
        // What is sent as a source is what is received as the local address.
        let arrival = Control::parse(&control.bytes[..control.len]);
        assert_eq!(arrival.local, Some(("192.0.2.1".parse().unwrap(), 0)));
        control = Control::EMPTY;
        control.push_source("fe80::1".parse().unwrap(), 3);
        let arrival = Control::parse(&control.bytes[..control.len]);
        assert_eq!(arrival.local, Some(("fe80::1".parse().unwrap(), 3)));
    }

    #[test]
    fn malformed_control_messages_end_the_reading_without_a_panic() {
        let mut control = Control::EMPTY;
        control.push(libc::SOL_UDP, libc::UDP_GRO, &1400_i32.to_ne_bytes());
        let whole = &control.bytes[..control.len];
        let expected = Arrival { segment: 1400, ..Arrival::default() };
        assert_eq!(Control::parse(whole), expected);
        for cut in 0..whole.len() {
            let arrival = Control::parse(&whole[..cut]);
            assert!(arrival.segment == 0 || arrival.segment == 1400);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] = value;
                let arrival = Control::parse(&bytes);
                assert_eq!(arrival.local, None);
            }
        }
    }
}
