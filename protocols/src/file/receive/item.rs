//! A file or folder that is being received.

use std::time::{Duration, SystemTime};

use mbuf::io::store::Name;

use crate::file::{
    tree::{Hash, Tree},
    trouble::{Code, Trouble},
};

/// A file or a folder.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) no: u32,
    pub(super) name: Name,
    pub(super) folder: bool,
    pub(super) length: Option<u64>,
    pub(super) mode: Option<u32>,
    pub(super) modified: Option<SystemTime>,
    pub(super) stage: Stage,
    /// Bytes that have come: where the next chunk begins.
    pub(super) at: u64,
    /// A chunk was shorter than the others, so it was the last.
    pub(super) short: bool,
    pub(super) tree: Tree,
    pub(super) root: Option<Hash>,
    /// Requests that the store has not answered.
    pub(super) asked: u32,
    pub(super) in_store: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Receiving,
    /// All there, and to be named.
    Committing,
    Done,
    Failed,
}

impl Item {
    pub(super) fn is_resolved(&self) -> bool {
        self.asked == 0 && matches!(self.stage, Stage::Done | Stage::Failed)
    }

    /// Whether a chunk may come now.
    pub(super) fn check(&self, offset: u64, len: usize, chunk: usize) -> Result<(), Trouble> {
        let (name, at) = (&self.name, self.at);
        let end = offset.checked_add(len as u64).filter(|&end| end <= i64::MAX as u64);
        let (code, text) = match (end, self.length) {
            (None, _) => {
                (Code::Offset, format!("{len} bytes at {offset} would end beyond 2^63 - 1"))
            }
            (Some(end), Some(length)) if end > length => (
                Code::Offset,
                format!("{len} bytes at {offset} end beyond the {length} that were declared"),
            ),
            _ if offset < at => {
                (Code::Offset, format!("{len} bytes at {offset} overlap the {at} that have come"))
            }
            _ if offset > at => {
                (Code::Offset, format!("{len} bytes at {offset} leave a gap after {at}"))
            }
            _ if self.short => {
                (Code::Offset, format!("{len} bytes at {offset}, after a chunk that was cut short"))
            }
            _ if len > chunk => (Code::Limit, format!("a chunk of {len} bytes, more than {chunk}")),
            _ => return Ok(()),
        };
        Err(Trouble::new(code, format_args!("{name}: {text}")))
    }
}

/// A time as it is on the wire.
pub(super) fn time(seconds: i64, nanos: u32) -> Option<SystemTime> {
    if nanos >= 1_000_000_000 {
        return None;
    }
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    time?.checked_add(Duration::from_nanos(nanos.into()))
}
