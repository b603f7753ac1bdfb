//! Every operation on a chain, beside what it means for a plain `Vec<u8>`.

use std::{
    fmt,
    io::{Read, Write},
    ops::Deref,
};

use mbuf::{Chain, Error};
use smallvec::SmallVec;

use super::{LARGEST, bytes};

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

/// An operation on one chain, with its arguments.
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
}

/// What an operation answers, beside the change of the chain.
#[derive(Debug, PartialEq)]
pub enum Out<C> {
    Nothing,
    Count(usize),
    Bytes(Vec<u8>),
    Chain(C),
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
    /// The name, without the arguments.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        text.split('(').next().unwrap_or_default().to_owned()
    }

    /// Whether the operation takes another chain.
    pub fn takes_other(&self) -> bool {
        matches!(self, Op::Concat | Op::ConcatCompact | Op::Insert(_))
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
            Op::Checksum(start, end) => Out::Count(usize::from(chain.checksum(*start..*end)?)),
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
        };
        Ok(done)
    }

    /// What it means: the same for a `Vec<u8>`. A refusal leaves the `Vec` as it is.
    pub fn model(&self, vec: &mut Vec<u8>, other: &[u8]) -> Result<Out<Vec<u8>>, Refusal> {
        let len = vec.len();
        let need = |n: usize| if n > len { Err(Refusal::Short) } else { Ok(()) };
        let grow = |n: usize| match len.checked_add(n) {
            Some(total) if total <= 1 << 24 => Ok(()),
            _ => Err(Refusal::Long),
        };
        let contiguous = |n: usize, end: Option<usize>| match (end, n > LARGEST) {
            (Some(end), false) if end <= len => Ok(()),
            (Some(end), true) if end <= len => Err(Refusal::Long),
            (_, false) => Err(Refusal::Short),
            (_, true) => Err(Refusal::ShortOrLong),
        };
        Ok(match self {
            Op::Prepend(n) => {
                if *n > LARGEST {
                    return Err(Refusal::Long);
                }
                vec.splice(..0, std::iter::repeat_n(0, *n));
                Out::Bytes(vec![0; *n])
            }
            Op::PrependSlice(slice) => {
                if slice.len() > LARGEST {
                    return Err(Refusal::Long);
                }
                vec.splice(..0, slice.iter().copied());
                Out::Nothing
            }
            Op::Push(word) => {
                vec.splice(..0, word.to_ne_bytes());
                Out::Nothing
            }
            Op::Append(n) => {
                grow(*n)?;
                vec.resize(len + n, 0);
                Out::Nothing
            }
            Op::Extend(slice) => {
                vec.extend_from_slice(slice);
                Out::Nothing
            }
            Op::Write(slice) => {
                vec.extend_from_slice(slice);
                Out::Count(slice.len())
            }
            Op::Writer(room, slice) => {
                grow(*room)?;
                let n = slice.len().min(*room);
                vec.extend_from_slice(&slice[..n]);
                Out::Count(n)
            }
            Op::Reserve(n) => {
                grow(*n)?;
                Out::Count(*n)
            }
            Op::TrimFront(n) | Op::Advance(n) => {
                need(*n)?;
                vec.drain(..n);
                Out::Nothing
            }
            Op::TrimBack(n) => {
                need(*n)?;
                vec.truncate(len - n);
                Out::Nothing
            }
            Op::Truncate(n) => {
                need(*n)?;
                vec.truncate(*n);
                Out::Nothing
            }
            Op::Adj(n) => {
                let gone = n.unsigned_abs().min(len);
                match *n > 0 {
                    true => drop(vec.drain(..gone)),
                    false => vec.truncate(len - gone),
                }
                Out::Count(gone)
            }
            Op::Pullup(n) => {
                contiguous(*n, Some(*n))?;
                Out::Bytes(vec[..*n].to_vec())
            }
            Op::Pulldown(off, n) => {
                contiguous(*n, off.checked_add(*n))?;
                Out::Bytes(vec[*off..off + n].to_vec())
            }
            Op::Copyup(n, headroom) => {
                contiguous(n.saturating_add(*headroom), Some(*n))?;
                Out::Bytes(vec[..*n].to_vec())
            }
            Op::Header => {
                need(3)?;
                Out::Bytes(vec[..3].to_vec())
            }
            Op::HeaderMut(new) => {
                need(3)?;
                Out::Bytes(vec.splice(..3, *new).collect())
            }
            Op::Strip => {
                need(2)?;
                Out::Bytes(vec.drain(..2).collect())
            }
            Op::Peek(off, n) => {
                need(off.saturating_add(*n))?;
                Out::Bytes(vec[*off..off + n].to_vec())
            }
            Op::CopyBack(off, slice) => {
                let end = off.checked_add(slice.len()).ok_or(Refusal::Long)?;
                grow(end.saturating_sub(len))?;
                vec.resize(len.max(end), 0);
                vec[*off..end].copy_from_slice(slice);
                Out::Nothing
            }
            Op::SplitOff(n) => {
                need(*n)?;
                Out::Chain(vec.split_off(*n))
            }
            Op::Concat | Op::ConcatCompact => {
                vec.extend(other);
                Out::Nothing
            }
            Op::Insert(off) => {
                need(*off)?;
                vec.splice(off..off, other.iter().copied());
                Out::Nothing
            }
            Op::Share | Op::Dup => Out::Chain(vec.clone()),
            Op::ShareRange(off, n) => {
                need(off.saturating_add(*n))?;
                Out::Chain(vec[*off..off + n].to_vec())
            }
            Op::MakeMut(start, end) => {
                need((*end).max(*start))?;
                if start > end {
                    return Err(Refusal::Invalid);
                }
                Out::Nothing
            }
            Op::ForEachMut(start, end) => {
                need((*end).max(*start))?;
                if start > end {
                    return Err(Refusal::Invalid);
                }
                vec[*start..*end].iter_mut().for_each(|byte| *byte = !*byte);
                Out::Count(end - start)
            }
            Op::Collapse(0) => return Err(Refusal::Invalid),
            Op::Collapse(_) => Out::Nothing,
            Op::Unshare | Op::Defrag | Op::Compact | Op::CompactToHold => Out::Nothing,
            Op::Checksum(start, end) => {
                need((*end).max(*start))?;
                if start > end {
                    return Err(Refusal::Invalid);
                }
                Out::Count(usize::from(checksum(&vec[*start..*end])))
            }
            Op::IoSlices => Out::Bytes(vec.clone()),
            Op::Read(n) => Out::Bytes(vec[..len.min(*n)].to_vec()),
        })
    }

    /// A few of each operation, with arguments at and around the edges of a chain of `len` bytes.
    pub fn around(len: usize) -> Vec<Op> {
        let mut ops = vec![
            Op::Push(0x0102_0304),
            Op::Header,
            Op::HeaderMut([0x91, 0x92, 0x93]),
            Op::Strip,
            Op::Concat,
            Op::ConcatCompact,
            Op::Share,
            Op::Dup,
            Op::Unshare,
            Op::Defrag,
            Op::Compact,
            Op::CompactToHold,
            Op::IoSlices,
        ];
        for n in (0..=len + 1).chain([17, 130, 2050]) {
            ops.extend([
                Op::Prepend(n),
                Op::PrependSlice(super::pattern(90, n).into()),
                Op::Append(n),
                Op::Extend(super::pattern(91, n).into()),
                Op::Write(super::pattern(92, n).into()),
                Op::Writer(n, super::pattern(93, n / 2 + 2).into()),
                Op::Reserve(n),
                Op::Copyup(len.min(2), n),
            ]);
        }
        for n in 0..=len + 1 {
            ops.extend([
                Op::TrimFront(n),
                Op::TrimBack(n),
                Op::Truncate(n),
                Op::Advance(n),
                Op::Adj(n as isize),
                Op::Adj(-(n as isize)),
                Op::Pullup(n),
                Op::Copyup(n, 3),
                Op::SplitOff(n),
                Op::Insert(n),
                Op::Collapse(n),
                Op::Read(n),
            ]);
            for m in 0..=len + 1 - n {
                ops.extend([
                    Op::Pulldown(n, m),
                    Op::Peek(n, m),
                    Op::CopyBack(n, super::pattern(94, m).into()),
                    Op::ShareRange(n, m),
                    Op::MakeMut(n, n + m),
                    Op::ForEachMut(n, n + m),
                    Op::Checksum(n, n + m),
                ]);
            }
        }
        ops
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
    }
}

/// RFC 1071, word by word.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u64 = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    !(if sum == 0 { 0 } else { (sum - 1) % 0xffff + 1 } as u16)
}

fn nothing<C>(_: ()) -> Out<C> {
    Out::Nothing
}

/// The pool's error inside that of `std::io`.
fn inner(error: &std::io::Error) -> Error {
    let source = error.get_ref().expect("an error of this crate");
    *source.downcast_ref::<Error>().expect("an error of this crate")
}
