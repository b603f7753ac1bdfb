//! What a transfer tells the program that runs it.

use mbuf::io::store::Name;

use super::{
    Trouble,
    tree::{Hash, Listing},
};

/// What has happened. Told from inside the layer: whoever listens must not block.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A file begins.
    Started {
        /// Its name.
        name: &'a Name,
        /// Its length in bytes, if it is known.
        length: Option<u64>,
    },
    /// So many more bytes of the current file were sent, or received and verified.
    Moved {
        /// Bytes; those of holes are counted, too.
        bytes: u64,
    },
    /// A file is whole under its name at the receiver.
    Done {
        /// Its name.
        name: &'a Name,
        /// Its length in bytes.
        length: u64,
        /// Its BLAKE3.
        root: Hash,
    },
    /// A file, or a folder, could not be sent or kept. The others go on.
    Failed {
        /// Its name, or what the person called it.
        name: &'a str,
        /// Why.
        trouble: &'a Trouble,
    },
    /// Everything was sent, and what was kept is named in the summary. The connection closes.
    Finished(&'a Summary),
    /// The transfer has ended before its end.
    Broken(&'a Trouble),
}

/// What a transfer has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Files that are whole at the receiver.
    pub files: u64,
    /// Folders that were sent as such.
    pub folders: u64,
    /// Files and folders that failed.
    pub failed: u64,
    /// Bytes of the files that are whole.
    pub bytes: u64,
    /// The BLAKE3 of the file, if there was but one; else that of the lines that `b3sum` prints
    /// for them in the order in which they were sent.
    pub root: Hash,
}

impl Summary {
    pub(super) fn nothing() -> Self {
        let root = Listing::default().root();
        Self { files: 0, folders: 0, failed: 0, bytes: 0, root }
    }
}

/// Who is told.
pub(super) type Listener = Box<dyn FnMut(Event<'_>) + Send>;
