//! Capture files: pcap and pcapng.
//!
//! | type | what it does |
//! |---|---|
//! | `CaptureSource` | a [`Source`](super::Source) that reads either format (feature `capture`) |
//! | [`CaptureWriter`] | writes either format, packet by packet |
//! | [`CaptureSink`] | a [`Sink`](super::Sink) over a writer |
//! | [`CaptureTap`] | a [`Tap`](crate::stack::Tap) over a writer: what passes the edges of a stack |
//!
//! Times are nanoseconds since 1970. Lengths that a file declares are believed only up to
//! [`MAX_PACKET`], so that no file makes a reader take more memory than a few times that.
//!
//! The formats: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html> and
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html>.

use std::fmt;

use crate::stack::Direction;

#[cfg(feature = "capture")]
mod read;
mod tap;
mod write;

#[cfg(feature = "capture")]
pub use read::CaptureSource;
pub use tap::CaptureTap;
pub use write::{CaptureSink, CaptureWriter};

/// The longest packet that is read or written, in bytes; what tcpdump and Wireshark take.
pub const MAX_PACKET: usize = 256 << 10;

/// The magic numbers of pcap: times in microseconds, and in nanoseconds.
const PCAP_MICRO: u32 = 0xa1b2_c3d4;
const PCAP_NANO: u32 = 0xa1b2_3c4d;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// Obsolete since 2006, and still met.
#[cfg(feature = "capture")]
const OLD_PACKET: u32 = 2;
#[cfg(feature = "capture")]
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const EPB_FLAGS: u16 = 2;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
#[cfg(feature = "capture")]
const IF_TSOFFSET: u16 = 14;

/// Which of the formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One interface, and no more of a packet than when, how long, and its bytes.
    Pcap,
    /// Several interfaces, directions, comments.
    Pcapng,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Pcap => "pcap",
            Format::Pcapng => "pcapng",
        })
    }
}

/// What a packet begins with: a number of <https://www.tcpdump.org/linktypes.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: the address family, in the byte order of the machine that captured.
    pub const NULL: LinkType = LinkType(0);
    /// Ethernet, without preamble and checksum.
    pub const ETHERNET: LinkType = LinkType(1);
    /// IPv4 or IPv6, as the first four bits say.
    pub const RAW: LinkType = LinkType(101);
    /// IEEE 802.11.
    pub const IEEE802_11: LinkType = LinkType(105);
    /// Linux "cooked" capture, of `tcpdump -i any`.
    pub const LINUX_SLL: LinkType = LinkType(113);
    /// For private use.
    pub const USER0: LinkType = LinkType(147);
    /// IPv4.
    pub const IPV4: LinkType = LinkType(228);
    /// IPv6.
    pub const IPV6: LinkType = LinkType(229);
    /// Linux "cooked" capture, version 2.
    pub const LINUX_SLL2: LinkType = LinkType(276);

    /// Its name, if it is one of those here.
    ///
    /// ```
    /// use mbuf::io::capture::LinkType;
    ///
    /// assert_eq!(LinkType::LINUX_SLL.name(), Some("LINUX_SLL"));
    /// assert_eq!(LinkType(9999).name(), None);
    /// ```
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            LinkType::NULL => "NULL",
            LinkType::ETHERNET => "ETHERNET",
            // 12 and 14 are what BSDs call it.
            LinkType::RAW | LinkType(12 | 14) => "RAW",
            LinkType::IEEE802_11 => "IEEE802_11",
            LinkType::LINUX_SLL => "LINUX_SLL",
            LinkType::USER0 => "USER0",
            LinkType::IPV4 => "IPV4",
            LinkType::IPV6 => "IPV6",
            LinkType::LINUX_SLL2 => "LINUX_SLL2",
            _ => return None,
        })
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "link type {}", self.0),
        }
    }
}

/// Where packets were captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// What its packets begin with.
    pub link: LinkType,
    /// Its name; pcap has none.
    pub name: Option<String>,
    /// The most bytes that are captured of a packet; 0: no such limit ([`MAX_PACKET`] still holds).
    pub snap_len: u32,
}

impl Interface {
    /// An interface without a limit of its own.
    ///
    /// ```
    /// use mbuf::io::capture::{Interface, LinkType};
    ///
    /// let interface = Interface::new(LinkType::ETHERNET, "tap0");
    /// assert_eq!((interface.name.as_deref(), interface.snap_len), (Some("tap0"), 0));
    /// ```
    pub fn new(link: LinkType, name: &str) -> Self {
        Self { link, name: Some(name.to_owned()), snap_len: 0 }
    }

    /// The most bytes of a packet.
    fn most(&self) -> usize {
        match self.snap_len as usize {
            0 => MAX_PACKET,
            limit => limit.min(MAX_PACKET),
        }
    }
}

/// What a capture knows of a packet beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Its place in the file, from 1. Not written.
    pub number: u64,
    /// Nanoseconds since 1970, within what 64 bits can say; `None` where the file does not tell.
    pub time: Option<u64>,
    /// Its interface, counted through the whole file from 0.
    pub interface: u32,
    /// How many bytes of it there are. Not written: the chain has its own length.
    pub captured: u32,
    /// How long it was. To a writer, what is less than the chain's length is taken for that.
    pub original: u32,
    /// Whether it was received or sent.
    pub direction: Option<Direction>,
    /// What somebody noted about it: of a dropped one the reason.
    pub comment: Option<String>,
}
