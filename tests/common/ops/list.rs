//! All operations, by name and with arguments.

use mbuf::Class;

use super::{Op, pattern};

impl Op {
    /// The names of all operations.
    pub const NAMES: [&str; 43] = [
        "Prepend",
        "PrependSlice",
        "Push",
        "Append",
        "Extend",
        "Write",
        "Writer",
        "Reserve",
        "Commit",
        "CommitFrom",
        "TrimFront",
        "TrimBack",
        "Truncate",
        "Adj",
        "Pullup",
        "Pulldown",
        "Copyup",
        "Header",
        "HeaderMut",
        "Strip",
        "Peek",
        "CopyBack",
        "SplitOff",
        "Concat",
        "ConcatCompact",
        "Insert",
        "Share",
        "ShareRange",
        "ShareN",
        "Dup",
        "Unshare",
        "MakeMut",
        "ForEachMut",
        "Defrag",
        "Collapse",
        "Compact",
        "CompactToHold",
        "Advance",
        "Checksum",
        "IoSlices",
        "Read",
        "Seek",
        "Hexdump",
    ];

    /// The name, without the arguments.
    pub fn name(&self) -> &'static str {
        let text = format!("{self:?}");
        let name = text.split(['(', ' ']).next().unwrap_or_default();
        Self::NAMES.into_iter().find(|known| *known == name).expect("a name that is in the list")
    }

    /// The method of `Chain` that it calls.
    pub fn method(&self) -> &'static str {
        match self {
            Op::Prepend(..) => "prepend",
            Op::PrependSlice(..) => "prepend_slice",
            Op::Push(..) => "push",
            Op::Append(..) => "append",
            Op::Extend(..) => "extend_from_slice",
            Op::Write(..) => "write",
            Op::Writer(..) => "writer",
            Op::Reserve(..) => "reserve_uninit",
            Op::Commit(..) => "reserve_uninit",
            Op::CommitFrom(..) => "reserve_from",
            Op::TrimFront(..) => "trim_front",
            Op::TrimBack(..) => "trim_back",
            Op::Truncate(..) => "truncate",
            Op::Adj(..) => "adj",
            Op::Pullup(..) => "pullup",
            Op::Pulldown(..) => "pulldown",
            Op::Copyup(..) => "copyup",
            Op::Header => "header",
            Op::HeaderMut(..) => "header_mut",
            Op::Strip => "strip",
            Op::Peek(..) => "peek",
            Op::CopyBack(..) => "copy_back",
            Op::SplitOff(..) => "split_off",
            Op::Concat => "concat",
            Op::ConcatCompact => "concat_compact",
            Op::Insert(..) => "insert",
            Op::Share => "share",
            Op::ShareRange(..) => "share_range",
            Op::ShareN(..) => "share_n",
            Op::Dup => "dup",
            Op::Unshare => "unshare",
            Op::MakeMut(..) => "make_mut",
            Op::ForEachMut(..) => "for_each_mut",
            Op::Defrag => "defrag",
            Op::Collapse(..) => "collapse",
            Op::Compact => "compact",
            Op::CompactToHold => "compact_to_hold",
            Op::Advance(..) => "advance",
            Op::Checksum(..) => "checksum",
            Op::IoSlices => "io_slices",
            Op::Read(..) => "cursor",
            Op::Seek(..) => "cursor",
            Op::Hexdump => "hexdump",
        }
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
            Op::Hexdump,
        ];
        for n in (0..=len + 1).chain([17, 130, 2050]) {
            ops.extend([
                Op::Prepend(n),
                Op::PrependSlice(pattern(90, n).into()),
                Op::Append(n),
                Op::Extend(pattern(91, n).into()),
                Op::Write(pattern(92, n).into()),
                Op::Writer(n, pattern(93, n / 2 + 2).into()),
                Op::Reserve(n),
                Op::Commit(n, pattern(95, n / 2 + 2).into()),
                Op::CommitFrom(Class::K2, n, pattern(96, n / 2).into()),
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
                Op::ShareN(n),
            ]);
            for m in 0..=len + 1 - n {
                ops.extend([
                    Op::Pulldown(n, m),
                    Op::Peek(n, m),
                    Op::CopyBack(n, pattern(94, m).into()),
                    Op::ShareRange(n, m),
                    Op::MakeMut(n, n + m),
                    Op::ForEachMut(n, n + m),
                    Op::Checksum(n, n + m),
                    Op::Seek(n, m),
                ]);
            }
        }
        ops
    }

    /// All operations, each with arguments that make it need several buffers, if it ever does, of
    /// a chain of `len` bytes (three at least).
    pub fn hungry(len: usize) -> Vec<Op> {
        vec![
            Op::Prepend(200),
            Op::Prepend(5000),
            Op::PrependSlice(pattern(80, 3000).into()),
            Op::Push(7),
            Op::Append(300),
            Op::Append(70_000),
            Op::Extend(pattern(81, 300).into()),
            Op::Extend(pattern(82, 9000).into()),
            Op::Extend(pattern(83, 140_000).into()),
            Op::Write(pattern(84, 400).into()),
            Op::Writer(3000, pattern(85, 200).into()),
            Op::Reserve(20_000),
            Op::Commit(9000, pattern(79, 5000).into()),
            Op::CommitFrom(Class::K4, 9000, pattern(78, 5000).into()),
            Op::Pullup(len),
            Op::Pullup(len - 1),
            Op::Pulldown(1, len - 2),
            Op::Pulldown(len / 2, 2),
            Op::Copyup(3, 10),
            Op::Copyup(len, 3000),
            Op::Header,
            Op::HeaderMut([1, 2, 3]),
            Op::Strip,
            Op::CopyBack(1, pattern(86, len - 2).into()),
            Op::CopyBack(len / 2, pattern(87, 5000).into()),
            Op::CopyBack(len + 3000, pattern(88, 10).into()),
            Op::SplitOff(0),
            Op::SplitOff(1),
            Op::SplitOff(len / 2),
            Op::SplitOff(len),
            Op::Concat,
            Op::ConcatCompact,
            Op::Insert(0),
            Op::Insert(1),
            Op::Insert(len / 2),
            Op::Insert(len),
            Op::Share,
            Op::ShareRange(1, len - 2),
            Op::ShareRange(0, 0),
            Op::ShareN(3),
            Op::Dup,
            Op::Unshare,
            Op::MakeMut(0, len),
            Op::MakeMut(len / 2, len),
            Op::ForEachMut(1, len),
            Op::Defrag,
            Op::Collapse(1),
            Op::Collapse(2),
            Op::Compact,
            Op::CompactToHold,
            Op::TrimFront(len / 2),
            Op::TrimBack(len / 2),
            Op::Adj(-3),
            Op::Advance(len / 2),
            Op::Adj(isize::MIN),
            Op::Truncate(1),
            Op::Peek(1, len - 1),
            Op::Checksum(1, len),
            Op::IoSlices,
            Op::Read(len - 1),
            Op::Seek(len - 2, 2),
            Op::Hexdump,
        ]
    }
}
