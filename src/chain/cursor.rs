//! Reading a chain as a stream: [`Cursor`].

use std::{
    fmt,
    io::{self, BufRead, Read, Seek, SeekFrom},
};

use crate::{
    chain::{Chain, Seg, Segments},
    error::{Error, Result},
};

/// Reads and seeks over the bytes of a chain without reshaping it.
///
/// Made by [`Chain::cursor`]. It implements [`Read`], [`BufRead`] and [`Seek`], and, with the
/// feature `bytes`, `bytes::Buf`. It remembers the segment that it stands in: going forward costs
/// O(segments passed), going back starts again at the first segment. It never allocates.
///
/// Opaque segments (mapped files) are read by `pread`, so [`Read`] may fail with the system's
/// error; [`BufRead`], which would have to lend their bytes, answers [`Error::Opaque`].
#[derive(Clone)]
pub struct Cursor<'a> {
    chain: &'a Chain,
    /// The segments after `here`.
    rest: Segments<'a>,
    /// Invariant: the segment that holds the byte at `position`; `None` at the end or past it.
    here: Option<Seg<'a>>,
    /// Where `here` starts, or the chain's length where there is none.
    start: usize,
    position: usize,
}

impl Chain {
    /// A cursor at the first byte. O(1); never allocates.
    ///
    /// ```
    /// use std::io::{Read, Seek, SeekFrom};
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"a packet")?;
    /// chain.concat(pool.chain_from(b" in two segments")?)?;
    ///
    /// let mut cursor = chain.cursor();
    /// cursor.seek(SeekFrom::Start(2))?;
    /// let mut word = [0; 9];
    /// cursor.read_exact(&mut word)?;
    /// assert_eq!(&word, b"packet in");
    /// assert_eq!(cursor.position(), 11);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cursor(&self) -> Cursor<'_> {
        let mut cursor =
            Cursor { chain: self, rest: self.segs(), here: None, start: 0, position: 0 };
        cursor.here = cursor.rest.next();
        cursor
    }
}

impl<'a> Cursor<'a> {
    /// The chain that is read.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_from(b"abc")?;
    /// assert_eq!(chain.cursor().chain().len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn chain(&self) -> &'a Chain {
        self.chain
    }

    /// Bytes from the start of the chain; may lie past its end after a seek, as with a file.
    ///
    /// ```
    /// use std::io::{Seek, SeekFrom};
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_from(b"abc")?;
    /// let mut cursor = chain.cursor();
    /// assert_eq!(cursor.position(), 0);
    /// cursor.seek(SeekFrom::End(2))?;
    /// assert_eq!((cursor.position(), cursor.remaining()), (5, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes from the position to the end of the chain; 0 past the end.
    ///
    /// ```
    /// use std::io::BufRead;
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_from(b"abc")?;
    /// let mut cursor = chain.cursor();
    /// cursor.consume(1);
    /// assert_eq!(cursor.remaining(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remaining(&self) -> usize {
        self.chain.len().saturating_sub(self.position)
    }

    /// The bytes from the position to the end of its segment: empty only at the end of the chain.
    /// O(1); copies nothing. The slice borrows the chain, not the cursor.
    ///
    /// # Errors
    /// [`Error::Opaque`] where the position lies in a mapped file.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let mut chain = pool.chain_from(b"one")?;
    /// chain.concat(pool.chain_from(b"two")?)?;
    /// let mut cursor = chain.cursor();
    /// assert_eq!(cursor.run()?, b"one");
    /// cursor.set_position(4);
    /// assert_eq!(cursor.run()?, b"wo");
    /// cursor.set_position(6);
    /// assert_eq!(cursor.run()?, b"");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run(&self) -> Result<&'a [u8]> {
        let Some(seg) = self.here else { return Ok(&[]) };
        let bytes = seg.bytes().ok_or(Error::Opaque { offset: self.start })?;
        Ok(&bytes[self.position - self.start..])
    }

    /// Goes to a byte, counted from the start of the chain; past the end is allowed, and there is
    /// nothing to be read there. O(segments between); O(segments) where it goes back.
    ///
    /// ```
    /// use std::io::Read;
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_from(b"abc")?;
    /// let mut cursor = chain.cursor();
    /// let mut text = String::new();
    /// cursor.set_position(1);
    /// cursor.read_to_string(&mut text)?;
    /// assert_eq!(text, "bc");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_position(&mut self, position: usize) {
        if position < self.start {
            self.rest = self.chain.segs();
            self.here = self.rest.next();
            self.start = 0;
        }
        self.position = position;
        self.settle();
    }

    /// The segments after the one that holds the position.
    #[cfg(feature = "bytes")]
    pub(super) fn rest(&self) -> Segments<'a> {
        self.rest.clone()
    }

    /// Moves `here` on to the segment of `position`, which does not lie before it.
    fn settle(&mut self) {
        while let Some(seg) = self.here {
            if self.position - self.start < seg.len() {
                return;
            }
            self.start += seg.len();
            self.here = self.rest.next();
        }
    }

    /// The part of the current segment from the position on: its offset in the segment, its length.
    fn part(&self) -> Option<(Seg<'a>, usize, usize)> {
        let seg = self.here?;
        let offset = self.position - self.start;
        Some((seg, offset, seg.len() - offset))
    }

    fn go_on(&mut self, n: usize) {
        self.position += n;
        self.settle();
    }
}

/// Fills as much of the buffer as the chain has bytes for, over as many segments as it takes. An
/// error of an opaque segment is answered only if nothing was read before it; the position then
/// stands at its first unread byte.
impl Read for Cursor<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < out.len() {
            let Some((seg, offset, len)) = self.part() else { break };
            let n = len.min(out.len() - done);
            match seg.read_at(offset, &mut out[done..done + n]) {
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error.into()),
            }
            done += n;
            self.go_on(n);
        }
        Ok(done)
    }

    fn read_vectored(&mut self, outs: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        let mut done = 0;
        for out in outs {
            let n = match self.read(out) {
                Ok(n) => n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            done += n;
            if n < out.len() {
                break;
            }
        }
        Ok(done)
    }

    fn read_to_end(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        let before = out.len();
        out.try_reserve(self.remaining())?;
        while let Some((seg, offset, len)) = self.part() {
            match seg.bytes() {
                Some(bytes) => out.extend_from_slice(&bytes[offset..]),
                None => {
                    let old = out.len();
                    out.resize(old + len, 0);
                    if let Err(error) = seg.read_at(offset, &mut out[old..]) {
                        out.truncate(old);
                        return Err(error.into());
                    }
                }
            }
            self.go_on(len);
        }
        Ok(out.len() - before)
    }
}

/// Lends the bytes where they lie; opaque segments cannot be lent ([`Error::Opaque`], as an
/// [`io::Error`] of kind `InvalidInput`).
impl BufRead for Cursor<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.run()?)
    }

    fn consume(&mut self, n: usize) {
        // `BufRead` leaves open what more than the buffer means; stopping at the end of the chain
        // is what nobody can be harmed by.
        self.go_on(n.min(self.remaining()));
    }
}

/// A position past the end is allowed; one before the start, or one that no `usize` holds, is an
/// error of kind `InvalidInput` and leaves the cursor where it is.
impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::End(n) => (self.chain.len() as u64).checked_add_signed(n),
            SeekFrom::Current(n) => (self.position as u64).checked_add_signed(n),
        };
        let target = target.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
            let position = self.position;
            let len = self.chain.len();
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("seek to {to:?} from byte {position} of a chain of {len} bytes"),
            )
        })?;
        self.set_position(target);
        Ok(target as u64)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.position as u64)
    }
}

/// The position, and the chain as its own `Debug` shows it: bounded.
impl fmt::Debug for Cursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("position", &self.position)
            .field("chain", self.chain)
            .finish_non_exhaustive()
    }
}
