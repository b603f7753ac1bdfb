//! What each operation means: the same for a plain `Vec<u8>`.

use super::{LARGEST, Op, Out, Refusal};

impl Op {
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
            Op::Writer(room, slice) | Op::Commit(room, slice) | Op::CommitFrom(_, room, slice) => {
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
            Op::ShareN(n) => Out::Chains(vec![vec.clone(); *n]),
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
            Op::Seek(off, n) => {
                let from = len.min(*off);
                Out::Bytes(vec[from..len.min(from.saturating_add(*n))].to_vec())
            }
            Op::Hexdump => Out::Bytes(hexdump(vec, 40).into_bytes()),
        })
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

/// Lines of sixteen bytes, and how many more there are.
fn hexdump(bytes: &[u8], most: usize) -> String {
    let shown = &bytes[..bytes.len().min(most)];
    let mut text = String::new();
    for (i, line) in shown.chunks(16).enumerate() {
        let hex: String = line.iter().map(|byte| format!(" {byte:02x}")).collect();
        let printable = |byte: &u8| matches!(byte, 0x20..=0x7e);
        let ascii: String =
            line.iter().map(|byte| if printable(byte) { char::from(*byte) } else { '.' }).collect();
        text += &format!("{:08x} {hex:<48}  {ascii}\n", i * 16);
    }
    match bytes.len() - shown.len() {
        0 => {}
        1 => text += &format!("{most:08x}  and 1 byte more\n"),
        more => text += &format!("{most:08x}  and {more} bytes more\n"),
    }
    text.replace('|', " ")
}
