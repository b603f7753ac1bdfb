//! What stands in a datagram.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

/// The longest request, in bytes (RFC 2347).
pub const MAX_REQUEST: usize = 512;

/// The first field of a message.
pub(super) mod opcode {
    pub const READ: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const DATA: u16 = 3;
    pub const ACK: u16 = 4;
    pub const ERROR: u16 = 5;
    pub const OPTIONS_ACK: u16 = 6;
}

/// The first four bytes of DATA, ACK and ERROR; no message is shorter.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// 1 RRQ, 2 WRQ, 3 DATA, 4 ACK, 5 ERROR, 6 OACK.
    pub opcode: U16,
    /// The block's number modulo 65,536, or the error's code.
    pub number: U16,
}

/// The codes of ERROR (RFC 1350; 8: RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// What the text says.
    Undefined = 0,
    /// There is no such file.
    NotFound = 1,
    /// It may not be read, or written.
    Access = 2,
    /// There is no room for it.
    Full = 3,
    /// Not a message, or not one that belongs here.
    Illegal = 4,
    /// There is no such transfer.
    UnknownTransfer = 5,
    /// The file is there already.
    Exists = 6,
    /// Of mail, which nobody sends so.
    NoUser = 7,
    /// The options that were agreed to are not wanted: a client says so.
    Options = 8,
}

/// How the bytes of a file travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As they are.
    Octet,
    /// Line ends as CR LF, and CR as CR NUL (RFC 764).
    Netascii,
}

/// Options that were asked for, or are agreed to. What is out of its range counts as not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Bytes of a block, 8 to 65,464 (RFC 2348).
    pub blksize: Option<u16>,
    /// Seconds until something is sent again, 1 to 255 (RFC 2349).
    pub timeout: Option<u8>,
    /// Bytes of the file; 0 in a read request asks for it (RFC 2349).
    pub tsize: Option<u64>,
    /// Blocks sent before one is acknowledged (RFC 7440).
    pub windowsize: Option<u16>,
}

/// A read or a write request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// It asks to write.
    pub write: bool,
    /// The file's name, as it came: not yet checked.
    pub name: &'a str,
    /// How its bytes travel.
    pub mode: Mode,
    /// What is asked for.
    pub options: Options,
}

impl<'a> Request<'a> {
    /// Reads a request. `None` where it is malformed: of another kind, longer than
    /// [`MAX_REQUEST`], without a final zero, with a mode that is not known (mail is one), with an
    /// option twice. O(n), no allocation.
    ///
    /// ```
    /// use mbuf_protocols::tftp::{Mode, Options, Request};
    ///
    /// let options = Options { blksize: Some(1428), ..Options::default() };
    /// let read = Request::read(b"\0\x01boot.bin\0octet\0blksize\x001428\0");
    /// let name = "boot.bin";
    /// assert_eq!(read, Some(Request { write: false, name, mode: Mode::Octet, options }));
    /// assert_eq!(Request::read(b"\0\x01boot.bin"), None);
    /// ```
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (opcode, rest) = bytes.split_first_chunk::<2>()?;
        let write = match u16::from_be_bytes(*opcode) {
            opcode::READ => false,
            opcode::WRITE => true,
            _ => return None,
        };
        let (name, rest) = text(rest).filter(|_| bytes.len() <= MAX_REQUEST)?;
        let (mode, rest) = text(rest)?;
        let mode = match mode {
            mode if mode.eq_ignore_ascii_case("octet") => Mode::Octet,
            mode if mode.eq_ignore_ascii_case("netascii") => Mode::Netascii,
            _ => return None,
        };
        Some(Self { write, name, mode, options: Options::read(rest)? })
    }
}

impl Options {
    /// Reads options and their values, each with a zero behind it: the end of a request, and an
    /// OACK behind its first two bytes. What is not known is passed over (RFC 2347). `None` where
    /// one is cut short or comes twice. O(n), no allocation.
    ///
    /// ```
    /// use mbuf_protocols::tftp::Options;
    ///
    /// let options = Options::read(b"BlkSize\x001428\0colour\0red\0").unwrap();
    /// assert_eq!(options, Options { blksize: Some(1428), ..Options::default() });
    /// assert_eq!(Options::read(b"tsize\0"), None);
    /// ```
    pub fn read(mut bytes: &[u8]) -> Option<Self> {
        let mut options = Self::default();
        let mut seen = 0_u8;
        while !bytes.is_empty() {
            let (name, rest) = text(bytes)?;
            let (value, rest) = text(rest)?;
            bytes = rest;
            let known = ["blksize", "timeout", "tsize", "windowsize"];
            let place = known.iter().position(|known| known.eq_ignore_ascii_case(name));
            let Some(place) = place else { continue };
            if seen & 1 << place != 0 {
                return None;
            }
            seen |= 1 << place;
            let number = value.parse::<u64>().ok();
            let small = number.and_then(|number| u16::try_from(number).ok());
            match place {
                0 => options.blksize = small.filter(|n| (8..=65_464).contains(n)),
                1 => options.timeout = small.and_then(|n| n.try_into().ok()).filter(|n| *n > 0),
                2 => options.tsize = number,
                _ => options.windowsize = small.filter(|n| *n > 0),
            }
        }
        Some(options)
    }

    /// An OACK with these options; `None` if there are none (RFC 2347: then none is sent).
    ///
    /// ```
    /// use mbuf_protocols::tftp::Options;
    ///
    /// let options = Options { tsize: Some(70_000), ..Options::default() };
    /// assert_eq!(options.to_ack(), Some(b"\0\x06tsize\x0070000\0".to_vec()));
    /// assert_eq!(Options::default().to_ack(), None);
    /// ```
    pub fn to_ack(&self) -> Option<Vec<u8>> {
        let values = [
            ("blksize", self.blksize.map(u64::from)),
            ("timeout", self.timeout.map(u64::from)),
            ("tsize", self.tsize),
            ("windowsize", self.windowsize.map(u64::from)),
        ];
        let mut bytes = opcode::OPTIONS_ACK.to_be_bytes().to_vec();
        for (name, value) in values {
            if let Some(value) = value {
                bytes.extend(format!("{name}\0{value}\0").into_bytes());
            }
        }
        (bytes.len() > 2).then_some(bytes)
    }
}

/// The block that a number of 16 bits means, which goes from 65,535 on to 0: the one nearest to
/// `last`. `None` for one before the first.
///
/// ```
/// use mbuf_protocols::tftp::block_near;
///
/// assert_eq!(block_near(65_535, 0), Some(65_536));
/// assert_eq!(block_near(65_537, 65_535), Some(65_535));
/// assert_eq!(block_near(1, 65_535), None);
/// ```
pub fn block_near(last: u64, number: u16) -> Option<u64> {
    let ahead = number.wrapping_sub(last as u16) as i16;
    last.checked_add_signed(ahead.into())
}

/// Text up to a zero, and what is behind that.
fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(bytes.get(..end)?).ok()?;
    Some((text, bytes.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_request_is_read() {
        let all = b"\0\x02f\0NetASCII\0BLKSIZE\x008\0timeout\x00255\0tsize\x000\0windowsize\x0064\0x\0y\0";
        let options =
            Options { blksize: Some(8), timeout: Some(255), tsize: Some(0), windowsize: Some(64) };
        let expected = Request { write: true, name: "f", mode: Mode::Netascii, options };
        assert_eq!(Request::read(all), Some(expected));
        let ack = options.to_ack().unwrap();
        assert_eq!(Options::read(&ack[2..]), Some(options));
    }

    #[test]
    fn what_is_malformed_is_none_and_cutting_never_panics() {
        let twice = b"\0\x01f\0octet\0tsize\x000\0tsize\x000\0";
        for bytes in [&b""[..], b"\0", b"\0\x01", b"\0\x07f\0octet\0", b"\0\x01f\0mail\0", twice] {
            assert_eq!(Request::read(bytes), None, "{bytes:?}");
        }
        assert_eq!(Request::read(b"\0\x01\xff\0octet\0"), None, "not UTF-8");
        let long = |name| [&b"\0\x01"[..], &vec![b'a'; name], b"\0octet\0"].concat();
        assert!(Request::read(&long(MAX_REQUEST - 9)).is_some());
        assert_eq!(Request::read(&long(MAX_REQUEST - 8)), None);
        let whole = &twice[..twice.len() - 8];
        let good = (0..=whole.len()).filter(|n| Request::read(&whole[..*n]).is_some());
        assert_eq!(good.collect::<Vec<_>>(), [10, 18]);
    }

    #[test]
    fn values_out_of_range_count_as_not_asked() {
        let read = Options::read(b"blksize\x007\0timeout\x00256\0windowsize\x000\0tsize\0-1\0");
        assert_eq!(read, Some(Options::default()));
    }

    #[test]
    fn block_numbers_go_on_beyond_65535() {
        let mut last = 0;
        for block in 1..=200_000u64 {
            last = block_near(last, block as u16).unwrap();
            assert_eq!(last, block);
        }
    }
}
