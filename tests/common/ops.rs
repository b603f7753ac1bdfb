//! Every operation on a chain, beside what it means for a plain `Vec<u8>`.

// By path, so that the rooms are found from wherever this file is included.
#[path = "ops/list.rs"]
mod list;
#[path = "ops/model.rs"]
mod model;

use std::{
    fmt,
    io::{BufRead, Read, Seek, SeekFrom, Write},
    ops::Deref,
    ptr,
};

use mbuf::{
    Batch, Chain, Class, Error,
    chain::{Reserved, checksum::Sum},
};
use smallvec::SmallVec;

use super::{LARGEST, bytes, pattern};

/// Bytes that an operation is given. `Debug` says how many.
#[derive(Clone, PartialEq)]
pub struct Data(Vec<u8>);

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// An operation on one chain, with its arguments. One more needs a line in [`Op::NAMES`] and in
/// [`Op::method`].
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Prepend(usize),
    PrependSlice(Data),
    /// `push` of a `u32` in native order.
    Push(u32),
    Append(usize),
    Extend(Data),
    Write(Data),
    /// A writer with so much room, and what is written to it.
    Writer(usize, Data),
    /// Room reserved, and not used.
    Reserve(usize),
    /// Room reserved, written as far as the bytes go, and committed: a short read.
    Commit(usize, Data),
    /// The same from a receiver, in clusters of a class.
    CommitFrom(Class, usize, Data),
    TrimFront(usize),
    TrimBack(usize),
    Truncate(usize),
    Adj(isize),
    Pullup(usize),
    Pulldown(usize, usize),
    Copyup(usize, usize),
    /// `header::<[u8; 3]>`.
    Header,
    /// `header_mut::<[u8; 3]>`, and these bytes written to it.
    HeaderMut([u8; 3]),
    /// `strip::<[u8; 2]>`.
    Strip,
    Peek(usize, usize),
    CopyBack(usize, Data),
    SplitOff(usize),
    Concat,
    ConcatCompact,
    Insert(usize),
    Share,
    ShareRange(usize, usize),
    ShareN(usize),
    Dup,
    Unshare,
    MakeMut(usize, usize),
    /// `for_each_mut`: every bit of a range is flipped.
    ForEachMut(usize, usize),
    Defrag,
    Collapse(usize),
    Compact,
    CompactToHold,
    Advance(usize),
    Checksum(usize, usize),
    IoSlices,
    Read(usize),
    /// A cursor goes to a place and reads some bytes from there.
    Seek(usize, usize),
    /// The first forty bytes, to be printed.
    Hexdump,
}

/// What an operation answers, beside the change of the chain.
#[derive(Debug, Clone, PartialEq)]
pub enum Out<C> {
    Nothing,
    Count(usize),
    Bytes(Vec<u8>),
    Chain(C),
    Chains(Vec<C>),
}

impl<C> Out<C> {
    /// The chains in it.
    pub fn chains(&self) -> &[C] {
        match self {
            Out::Chain(chain) => std::slice::from_ref(chain),
            Out::Chains(chains) => chains,
            _ => &[],
        }
    }

    /// The chains in it, taken out.
    pub fn into_chains(self) -> Vec<C> {
        match self {
            Out::Chain(chain) => vec![chain],
            Out::Chains(chains) => chains,
            _ => Vec::new(),
        }
    }
}

/// Why the model refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `TooShort`.
    Short,
    /// `TooLong`, or `NoBuffers` where the number is one that only a larger pool could hold.
    Long,
    /// Both `TooShort` and `TooLong` are right.
    ShortOrLong,
    /// `Invalid`.
    Invalid,
}

impl Refusal {
    /// Whether an error says what the model says, with numbers that fit.
    pub fn fits(self, error: &Error, len: usize) -> bool {
        let short = matches!(*error, Error::TooShort { needed, available }
            if available == len && needed > available);
        let long = matches!(*error, Error::TooLong { wanted, max } if wanted > max);
        match self {
            Refusal::Short => short,
            Refusal::Long => long || matches!(error, Error::NoBuffers { .. }),
            Refusal::ShortOrLong => short || long,
            Refusal::Invalid => matches!(error, Error::Invalid(_)),
        }
    }
}

impl Op {
    /// Whether the operation takes another chain.
    pub fn takes_other(&self) -> bool {
        matches!(self, Op::Concat | Op::ConcatCompact | Op::Insert(_))
    }

    /// Whether it says so where a file cannot be read. The others do as far as they can: a read
    /// stops, a dump shows dashes, slices are not given.
    pub fn fails_by_reading(&self) -> bool {
        !matches!(self, Op::Read(_) | Op::IoSlices | Op::Hexdump)
    }

    /// Does it. `other` is taken by the operations that take a chain, and put back where they
    /// give it back.
    pub fn apply(&self, chain: &mut Chain, other: &mut Option<Chain>) -> Result<Out<Chain>, Error> {
        let done = match self {
            Op::Prepend(n) => chain.prepend(*n).map(|view| Out::Bytes(view.to_vec()))?,
            Op::PrependSlice(slice) => chain.prepend_slice(slice).map(nothing)?,
            Op::Push(word) => chain.push(word).map(nothing)?,
            Op::Append(n) => chain.append(*n).map(nothing)?,
            Op::Extend(slice) => chain.extend_from_slice(slice).map(nothing)?,
            Op::Write(slice) => {
                return match chain.write(slice) {
                    Ok(n) => Ok(Out::Count(n)),
                    Err(error) => Err(inner(&error)),
                };
            }
            Op::Writer(room, slice) => {
                let mut writer = chain.writer(*room)?;
                assert_eq!(writer.room(), *room);
                Out::Count(writer.put(slice))
            }
            Op::Reserve(n) => Out::Count(chain.reserve_uninit(*n)?.len()),
            Op::Commit(room, slice) => Out::Count(commit(chain.reserve_uninit(*room)?, slice)),
            Op::CommitFrom(class, room, slice) => {
                let receiver = chain.pool().receiver();
                let room = chain.reserve_from(&receiver, *class, *room);
                let done = room.map(|room| commit(room, slice));
                receiver.flush();
                Out::Count(done?)
            }
            Op::TrimFront(n) => chain.trim_front(*n).map(nothing)?,
            Op::TrimBack(n) => chain.trim_back(*n).map(nothing)?,
            Op::Truncate(n) => chain.truncate(*n).map(nothing)?,
            Op::Adj(n) => Out::Count(chain.adj(*n)),
            Op::Pullup(n) => Out::Bytes(chain.pullup(*n)?.to_vec()),
            Op::Pulldown(off, n) => Out::Bytes(chain.pulldown(*off, *n)?.to_vec()),
            Op::Copyup(n, headroom) => {
                let view = chain.copyup(*n, *headroom)?.to_vec();
                assert!(chain.headroom() >= *headroom, "{chain:?}");
                Out::Bytes(view)
            }
            Op::Header => Out::Bytes(chain.header::<[u8; 3]>()?.to_vec()),
            Op::HeaderMut(new) => {
                let header = chain.header_mut::<[u8; 3]>()?;
                let old = header.to_vec();
                *header = *new;
                Out::Bytes(old)
            }
            Op::Strip => Out::Bytes(chain.strip::<[u8; 2]>()?.to_vec()),
            Op::Peek(off, n) => {
                let mut out = vec![0xee; *n];
                chain.peek(*off, &mut out)?;
                Out::Bytes(out)
            }
            Op::CopyBack(off, slice) => chain.copy_back(*off, slice).map(nothing)?,
            Op::SplitOff(n) => Out::Chain(chain.split_off(*n)?),
            Op::Concat | Op::ConcatCompact | Op::Insert(_) => {
                let given = other.take().expect("an operation that takes a chain");
                let result = match self {
                    Op::Concat => chain.concat(given),
                    Op::ConcatCompact => chain.concat_compact(given),
                    Op::Insert(off) => chain.insert(*off, given),
                    _ => unreachable!(),
                };
                match result {
                    Ok(()) => Out::Nothing,
                    Err(rejected) => {
                        *other = Some(rejected.value);
                        return Err(rejected.error);
                    }
                }
            }
            Op::Share => Out::Chain(chain.share()?),
            Op::ShareRange(off, n) => Out::Chain(chain.share_range(*off, *n)?),
            Op::ShareN(n) => {
                let mut batch = Batch::new();
                if let Err(error) = chain.share_n(*n, &mut batch) {
                    assert!(batch.is_empty(), "all or none");
                    return Err(error);
                }
                Out::Chains(batch.drain().collect())
            }
            Op::Dup => Out::Chain(chain.dup()?),
            Op::Unshare => {
                chain.unshare()?;
                assert!(chain.is_writable(), "{chain:?}");
                Out::Nothing
            }
            Op::MakeMut(start, end) => chain.make_mut(*start..*end).map(nothing)?,
            Op::ForEachMut(start, end) => {
                let mut seen = 0;
                chain.for_each_mut(*start..*end, |part| {
                    seen += part.len();
                    part.iter_mut().for_each(|byte| *byte = !*byte);
                })?;
                Out::Count(seen)
            }
            Op::Defrag => chain.defrag().map(nothing)?,
            Op::Collapse(max) => {
                chain.collapse(*max)?;
                assert!(chain.segments() <= *max, "{chain:?}");
                Out::Nothing
            }
            Op::Compact => {
                let before = chain.footprint();
                chain.compact()?;
                assert!(chain.footprint() <= before, "{} over {before}", chain.footprint());
                Out::Nothing
            }
            Op::CompactToHold => chain.compact_to_hold().map(nothing)?,
            Op::Advance(n) => chain.advance(*n).map(nothing)?,
            Op::Checksum(start, end) => {
                // Behind a byte of something else, each byte has the other place in its word.
                let mut sum = Sum::new();
                sum.add(&[0]);
                sum.add_chain(chain, *start..*end)?;
                let whole = chain.checksum(*start..*end)?;
                assert_eq!(sum.checksum(), whole.swap_bytes());
                Out::Count(usize::from(whole))
            }
            Op::IoSlices => {
                let mut slices = SmallVec::<[std::io::IoSlice<'_>; 4]>::new();
                if let Err(error) = chain.io_slices(&mut slices) {
                    // Where there is something opaque, system calls take `iovecs`.
                    assert!(matches!(error, Error::Opaque { offset } if offset < chain.len()));
                    assert!(slices.is_empty() && chain.slices().is_err());
                    return Ok(Out::Bytes(chain.to_vec()?));
                }
                assert!(slices.iter().all(|slice| !slice.is_empty()));
                Out::Bytes(slices.iter().flat_map(|slice| slice.iter().copied()).collect())
            }
            Op::Read(n) => {
                let mut out = vec![0; *n];
                let read = chain.cursor().read(&mut out).expect("what is opaque can be read");
                out.truncate(read);
                Out::Bytes(out)
            }
            Op::Seek(off, n) => {
                let mut cursor = chain.cursor();
                // There and back, so that it goes both ways.
                cursor.set_position(chain.len());
                let at = cursor.seek(SeekFrom::Start(*off as u64)).expect("any place will do");
                assert_eq!((at, cursor.position()), (*off as u64, *off));
                assert_eq!(cursor.remaining(), chain.len().saturating_sub(*off));
                let mut out = Vec::new();
                while out.len() < *n {
                    let left = *n - out.len();
                    // What is opaque cannot be lent; it can be read.
                    let Ok(here) = cursor.fill_buf() else {
                        let mut byte = [0];
                        cursor.read_exact(&mut byte).map_err(|error| {
                            match error.raw_os_error() {
                                Some(errno) => Error::Io { errno },
                                None => panic!("{error}"),
                            }
                        })?;
                        out.extend(byte);
                        continue;
                    };
                    if here.is_empty() {
                        break;
                    }
                    let now = here.len().min(left);
                    out.extend(&here[..now]);
                    cursor.consume(now);
                }
                Out::Bytes(out)
            }
            Op::Hexdump => {
                let text = format!("{:.40}", chain.hexdump());
                // The bars say where segments start.
                Out::Bytes(text.replace('|', " ").into_bytes())
            }
        };
        Ok(done)
    }
}

/// The bytes of what came out, so that it can be compared with the model's.
#[track_caller]
pub fn plain(out: &Out<Chain>) -> Out<Vec<u8>> {
    match out {
        Out::Nothing => Out::Nothing,
        Out::Count(n) => Out::Count(*n),
        Out::Bytes(view) => Out::Bytes(view.clone()),
        Out::Chain(chain) => Out::Chain(bytes(chain)),
        Out::Chains(chains) => Out::Chains(chains.iter().map(bytes).collect()),
    }
}

/// Writes to the room as far as the bytes and the room go, and commits that.
fn commit(mut room: Reserved<'_>, bytes: &[u8]) -> usize {
    let mut pieces = SmallVec::<[libc::iovec; 4]>::new();
    room.iovecs(&mut pieces);
    let all: usize = pieces.iter().map(|piece| piece.iov_len).sum();
    assert_eq!((room.len(), room.is_empty()), (all, all == 0));
    let mut left = &bytes[..bytes.len().min(room.len())];
    let n = left.len();
    for piece in pieces {
        let (now, later) = left.split_at(left.len().min(piece.iov_len));
        // SAFETY: so many bytes of the room, which nobody else has; it outlives this.
        unsafe { ptr::copy_nonoverlapping(now.as_ptr(), piece.iov_base.cast(), now.len()) };
        left = later;
    }
    // SAFETY: the first `n` bytes were written just now, in order.
    unsafe { room.commit(n) };
    n
}

fn nothing<C>(_: ()) -> Out<C> {
    Out::Nothing
}

/// The pool's error inside that of `std::io`.
fn inner(error: &std::io::Error) -> Error {
    let source = error.get_ref().expect("an error of this crate");
    *source.downcast_ref::<Error>().expect("an error of this crate")
}
