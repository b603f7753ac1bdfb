//! How a frame's length is written and read.

/// The longest prefix in bytes: a varint of 32 bits.
pub(super) const LONGEST_PREFIX: usize = 5;

/// How a frame's length is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// One byte.
    U8,
    /// Two bytes, the high one first.
    U16Be,
    /// Two bytes, the low one first.
    U16Le,
    /// Four bytes, the highest first.
    U32Be,
    /// Four bytes, the lowest first.
    U32Le,
    /// One to five bytes of seven bits each, the lowest first; a set high bit says: more follow.
    Varint,
}

/// What a stream's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A frame of so many bytes of prefix and of payload.
    Frame { prefix: usize, payload: usize },
    /// The prefix is not yet whole.
    More,
    /// No length is written like that.
    Bad,
}

impl Prefix {
    /// All of them.
    pub const ALL: [Prefix; 6] =
        [Prefix::U8, Prefix::U16Be, Prefix::U16Le, Prefix::U32Be, Prefix::U32Le, Prefix::Varint];

    /// The longest payload, in bytes, that the prefix can declare and a chain can hold together
    /// with it.
    pub const fn capacity(self) -> usize {
        match self {
            Prefix::U8 => u8::MAX as usize,
            Prefix::U16Be | Prefix::U16Le => u16::MAX as usize,
            Prefix::U32Be | Prefix::U32Le | Prefix::Varint => u32::MAX as usize - LONGEST_PREFIX,
        }
    }

    /// The bytes that the prefix of a payload of at most `max` bytes takes at most.
    pub(super) const fn longest(self, max: usize) -> usize {
        match self {
            Prefix::U8 => 1,
            Prefix::U16Be | Prefix::U16Le => 2,
            Prefix::U32Be | Prefix::U32Le => 4,
            Prefix::Varint => {
                let bits = (usize::BITS - max.leading_zeros()) as usize;
                // A length of 0 takes a byte as well.
                if bits == 0 { 1 } else { bits.div_ceil(7) }
            }
        }
    }

    /// Reads the prefix at the start of `bytes`, of which five are enough.
    pub(super) fn parse(self, bytes: &[u8]) -> Parsed {
        let (prefix, payload) = match (self, bytes) {
            (Prefix::U8, &[a, ..]) => (1, a.into()),
            (Prefix::U16Be, &[a, b, ..]) => (2, u16::from_be_bytes([a, b]).into()),
            (Prefix::U16Le, &[a, b, ..]) => (2, u16::from_le_bytes([a, b]).into()),
            (Prefix::U32Be, &[a, b, c, d, ..]) => (4, u32::from_be_bytes([a, b, c, d])),
            (Prefix::U32Le, &[a, b, c, d, ..]) => (4, u32::from_le_bytes([a, b, c, d])),
            (Prefix::Varint, bytes) => return parse_varint(bytes),
            _ => return Parsed::More,
        };
        Parsed::Frame { prefix, payload: payload as usize }
    }

    /// Writes the prefix of a payload of at most [`Prefix::capacity`] bytes to the front of `room`
    /// and answers how long it is.
    pub(super) fn write(self, payload: usize, room: &mut [u8; LONGEST_PREFIX]) -> usize {
        let n = payload as u32;
        let mut put = |bytes: &[u8]| {
            room[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        };
        match self {
            Prefix::U8 => put(&[n as u8]),
            Prefix::U16Be => put(&(n as u16).to_be_bytes()),
            Prefix::U16Le => put(&(n as u16).to_le_bytes()),
            Prefix::U32Be => put(&n.to_be_bytes()),
            Prefix::U32Le => put(&n.to_le_bytes()),
            Prefix::Varint => {
                let (mut rest, mut len) = (n, 0);
                while rest > 0x7f {
                    room[len] = rest as u8 | 0x80;
                    rest >>= 7;
                    len += 1;
                }
                room[len] = rest as u8;
                len + 1
            }
        }
    }
}

/// Reads a base-128 number, lowest group first, and refuses every form of it but the shortest.
fn parse_varint(bytes: &[u8]) -> Parsed {
    let mut value = 0u32;
    for (i, &byte) in bytes.iter().take(LONGEST_PREFIX).enumerate() {
        let group = u32::from(byte & 0x7f);
        let last = byte & 0x80 == 0;
        // Five groups make 35 bits: the fifth may only hold the four that are left, and is last.
        if i == 4 && (group > 0xf || !last) {
            return Parsed::Bad;
        }
        value |= group << (7 * i);
        if last {
            let padded = i > 0 && group == 0;
            return if padded {
                Parsed::Bad
            } else {
                Parsed::Frame { prefix: i + 1, payload: value as usize }
            };
        }
    }
    Parsed::More
}
