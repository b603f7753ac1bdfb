//! What a store in memory is given to send.

use std::io;

use crate::io::store::{Attributes, Name};

/// An item that a [`MemoryStore`](super::MemoryStore) sends.
///
/// ```
/// use mbuf::testing::MemoryItem;
///
/// let items = [
///     MemoryItem::folder("photos"),
///     MemoryItem::file("photos/cat.jpg", b"meow"),
///     MemoryItem::stream("stdin", b"a stream's length is not known before its end"),
///     MemoryItem::failed("missing.txt", std::io::ErrorKind::NotFound),
/// ];
/// assert!(matches!(&items[1], MemoryItem::File { attributes, .. } if attributes.mode == 0o644));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum MemoryItem {
    /// A file.
    File {
        /// Its name.
        name: Name,
        /// What is in it.
        bytes: Vec<u8>,
        /// What it is like; the length is that of the bytes, whatever it says here.
        attributes: Attributes,
    },
    /// A folder.
    Folder {
        /// Its name.
        name: Name,
        /// What it is like.
        attributes: Attributes,
    },
    /// A stream, whose length nobody knows before it ends.
    Stream {
        /// Its name.
        name: Name,
        /// What it brings.
        bytes: Vec<u8>,
    },
    /// Something that cannot be opened.
    Failed {
        /// What a person called it.
        shown: String,
        /// Why not.
        error: io::Error,
    },
}

impl MemoryItem {
    /// A file, of mode 0644.
    ///
    /// # Panics
    /// If `name` is not a [`Name`]; so do the others.
    pub fn file(name: &str, bytes: &[u8]) -> Self {
        let length = Some(bytes.len() as u64);
        let attributes = Attributes { length, mode: 0o644, modified: None };
        Self::File { name: self::name(name), bytes: bytes.into(), attributes }
    }

    /// A folder, of mode 0755.
    pub fn folder(name: &str) -> Self {
        Self::Folder { name: self::name(name), attributes: super::FOLDER }
    }

    /// A stream.
    pub fn stream(name: &str, bytes: &[u8]) -> Self {
        Self::Stream { name: self::name(name), bytes: bytes.into() }
    }

    /// Something that cannot be opened: an `io::ErrorKind`, or an `io::Error`, says why.
    pub fn failed(shown: &str, error: impl Into<io::Error>) -> Self {
        Self::Failed { shown: shown.into(), error: error.into() }
    }
}

#[track_caller]
pub(super) fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap_or_else(|why| panic!("{text:?} is not a name: {why}"))
}
