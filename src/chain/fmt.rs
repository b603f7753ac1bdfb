//! What a chain looks like: `Debug`, bounded, for logs; [`Hexdump`], complete, for people.

use std::fmt;

use crate::chain::{Chain, Seg};

/// Segments that `Debug` shows before it says how many more there are.
const DEBUG_SEGMENTS: usize = 8;
/// Bytes of each segment that `Debug` shows.
const DEBUG_BYTES: usize = 16;
/// Bytes in a line of a hex dump.
const LINE: usize = 16;

/// A hex dump of a chain; see [`Chain::hexdump`].
#[derive(Clone, Copy)]
pub struct Hexdump<'a> {
    chain: &'a Chain,
}

impl Chain {
    /// A hex dump, to be printed: offset, sixteen bytes, the same as ASCII. A `|` before a byte
    /// says that a segment starts with it. A precision limits the bytes that are shown. Opaque
    /// segments are read by `pread`; what cannot be read shows as `--`. Never allocates.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"a header")?;
    /// chain.concat(pool.chain_from(b"and a payload\n")?)?;
    ///
    /// assert_eq!(
    ///     chain.hexdump().to_string(),
    ///     "00000000  61 20 68 65 61 64 65 72|61 6e 64 20 61 20 70 61  a headerand a pa\n\
    ///      00000010  79 6c 6f 61 64 0a                                yload.\n"
    /// );
    /// assert_eq!(
    ///     format!("{:.3}", chain.hexdump()),
    ///     "00000000  61 20 68                                         a h\n\
    ///      00000003  and 19 bytes more\n"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hexdump(&self) -> Hexdump<'_> {
        Hexdump { chain: self }
    }
}

impl fmt::Display for Hexdump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.chain.len();
        let shown = f.precision().map_or(len, |precision| len.min(precision));
        let mut line = Line::default();
        let mut offset = 0;
        for seg in self.chain.segs() {
            let mut done = 0;
            while done < seg.len() && offset < shown {
                let n = (LINE - line.len).min(seg.len() - done).min(shown - offset);
                line.take(seg, done, n);
                done += n;
                offset += n;
                if line.len == LINE {
                    line.print(offset - LINE, f)?;
                    line = Line::default();
                }
            }
        }
        if line.len > 0 {
            line.print(offset - line.len, f)?;
        }
        match len - shown {
            0 => Ok(()),
            1 => writeln!(f, "{offset:08x}  and 1 byte more"),
            more => writeln!(f, "{offset:08x}  and {more} bytes more"),
        }
    }
}

/// As the `Debug` of the chain: bounded.
impl fmt::Debug for Hexdump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hexdump").field(self.chain).finish()
    }
}

/// Length, room, and for the first segments their storage, length and first bytes: bounded,
/// however long the chain is. Opaque segments are not read. Never allocates.
///
/// ```
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let mut chain = pool.chain_with_headroom(32)?;
/// chain.extend_from_slice(b"ping")?;
/// assert_eq!(
///     format!("{chain:?}"),
///     "Chain { len: 4, headroom: 32, tailroom: 92, segments: [small 4: 70 69 6e 67] }"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("len", &self.len())
            .field("headroom", &self.headroom())
            .field("tailroom", &self.tailroom())
            .field("segments", &DebugSegments(self))
            .finish()
    }
}

/// The list of segments in the `Debug` of a chain.
struct DebugSegments<'a>(&'a Chain);

impl fmt::Debug for DebugSegments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        list.entries(self.0.segs().take(DEBUG_SEGMENTS).map(DebugSegment));
        match self.0.segments().saturating_sub(DEBUG_SEGMENTS) {
            0 => {}
            more => _ = list.entry(&format_args!("and {more} more")),
        }
        list.finish()
    }
}

/// One segment: `2K 1400 shared: 45 00 05 78 ..`.
struct DebugSegment<'a>(Seg<'a>);

impl fmt::Debug for DebugSegment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seg = self.0;
        write!(f, "{} {}", seg.kind(), seg.len())?;
        if seg.is_aliased() {
            f.write_str(" shared")?;
        }
        let Some(bytes) = seg.bytes() else { return Ok(()) };
        f.write_str(":")?;
        for byte in bytes.iter().take(DEBUG_BYTES) {
            write!(f, " {byte:02x}")?;
        }
        f.write_str(if bytes.len() > DEBUG_BYTES { " .." } else { "" })
    }
}

/// A line of a hex dump, on the stack.
#[derive(Default)]
struct Line {
    bytes: [u8; LINE],
    len: usize,
    /// Bit i: a segment starts with byte i.
    starts: u16,
    /// Bit i: byte i could not be read.
    unread: u16,
}

impl Line {
    /// Adds `n` bytes of a segment, which fit.
    fn take(&mut self, seg: Seg<'_>, offset: usize, n: usize) {
        let to = self.len..self.len + n;
        if offset == 0 {
            self.starts |= 1 << self.len;
        }
        if seg.read_at(offset, &mut self.bytes[to.clone()]).is_err() {
            to.clone().for_each(|i| self.unread |= 1 << i);
        }
        self.len = to.end;
    }

    fn print(&self, offset: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{offset:08x} ")?;
        for (i, byte) in self.bytes.iter().enumerate() {
            // The first byte of the chain starts a segment anyway.
            let starts = self.starts >> i & 1 == 1 && offset + i > 0;
            f.write_str(if starts { "|" } else { " " })?;
            match i < self.len {
                true if self.unread >> i & 1 == 1 => f.write_str("--")?,
                true => write!(f, "{byte:02x}")?,
                false => f.write_str("  ")?,
            }
        }
        f.write_str("  ")?;
        for byte in &self.bytes[..self.len] {
            let printable = byte.is_ascii_graphic() || *byte == b' ';
            write!(f, "{}", if printable { char::from(*byte) } else { '.' })?;
        }
        writeln!(f)
    }
}
