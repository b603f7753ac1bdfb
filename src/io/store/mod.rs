//! Files for protocols: requests go in, answers come out, and no layer ever blocks.
//!
//! ```text
//!   layer --ask--> Store ..(helper thread: open, pwrite, fsync, rename)..
//!     ^              |
//!     |   Waker      v
//!     +--Signal::Woken, then answer()
//! ```
//!
//! A layer owns a [`Store`], asks it, and goes on; when there are answers the store rings the
//! layer's [`Waker`], and the layer takes them at
//! [`Signal::Woken`](crate::stack::Signal::Woken). A layer names its files by numbers of its own,
//! so it can ask for a file to be created, written and committed in one go, without waiting: if the
//! first of these fails, so do the others.
//!
//! Nothing is under its final name before it is whole: a file that is being written is called
//! `NAME.part`, and [`Request::Commit`] cuts it to its length, makes it durable, and renames it. A
//! part that was neither committed nor discarded is removed when the store is dropped.
//!
//! [`Folder`] keeps files in a real folder, and [`sender`] sends those that it is given;
//! [`MemoryStore`](crate::testing::MemoryStore) keeps them in memory, and fails when a test wants
//! it to.

mod folder;
mod name;
mod reading;
mod send;
#[cfg(test)]
mod tests;
mod worker;

use std::{fmt, io, time::SystemTime};

use crate::{chain::Chain, io::error::call, stack::Waker};

pub use folder::{Folder, FolderStore};
pub use name::{BadName, Name};
pub use send::{Item, What, sender};

/// Where a protocol keeps files, or takes them from. See the [module](self).
///
/// Requests concerning one file are carried out in the order in which they were asked, and answered
/// in that order; those of different files may overtake each other. Each request is answered
/// exactly once. A store takes as many requests as it is asked: who asks must bound them.
pub trait Store: Send + fmt::Debug {
    /// Whom to wake when there is an answer. Called once, before anything is asked.
    fn attach(&mut self, waker: Waker);

    /// Asks. Never blocks.
    fn ask(&mut self, file: FileNo, request: Request);

    /// An answer, if there is one.
    fn answer(&mut self) -> Option<Answer>;
}

/// A file's number, chosen by the layer. It may be used again once the file is committed,
/// discarded or closed, or its creation or opening has failed.
pub type FileNo = u32;

/// Looks at bytes that were read while they are in the cache: their offset in the file, the bytes
/// in order, in pieces; what it makes of them comes with the answer. (A hash, as a rule.)
pub type Look = fn(u64, &mut dyn Iterator<Item = &[u8]>) -> Looked;

/// What a [`Look`] makes of the bytes.
pub type Looked = [u8; 64];

/// What can be asked of a store.
#[derive(Debug)]
#[non_exhaustive]
pub enum Request {
    /// A new file, to be written, as `NAME.part`; folders on the way are made, unless
    /// [`Folder::make_folders`] says no.
    /// Answer: [`Done::Created`].
    Create {
        /// Its final name.
        name: Name,
        /// Its length if it is known, in bytes: asked of the file system, not reserved.
        length: Option<u64>,
        /// Whether a file of that name, or an old part of it, may be replaced.
        overwrite: bool,
    },
    /// Writes a chain at an offset. Answer: [`Done::Written`].
    Write {
        /// Where in the file, in bytes.
        offset: u64,
        /// What.
        chain: Chain,
    },
    /// The file is whole: cut it to its length, make it durable if the store does so, and give it
    /// its name. Answer: [`Done::Committed`].
    Commit {
        /// Its true length in bytes.
        length: u64,
        /// Permissions (only the lowest nine bits count), or those that files get here.
        mode: Option<u32>,
        /// When it was changed last, or now.
        modified: Option<SystemTime>,
    },
    /// Gives a file up that is being written: its part is removed. Answer: [`Done::Discarded`].
    Discard,
    /// A folder, and those on the way to it. One that is there is fine. Answer:
    /// [`Done::FolderMade`].
    MakeFolder {
        /// Its name.
        name: Name,
        /// Permissions (only the lowest nine bits count), or those that folders get here.
        mode: Option<u32>,
    },
    /// Opens a file to be read. Answer: [`Done::Opened`].
    Open {
        /// Its name.
        name: Name,
    },
    /// Opens the next of the items that the store was given to send. Answer: [`Done::Opened`],
    /// [`Done::Folder`] or [`Done::NoMore`].
    Next,
    /// Reads `len` bytes from `offset`; of a stream the next ones, whatever `offset` says, so that
    /// several can be asked for at once. Answer: [`Done::Read`],
    /// [`Done::Hole`] or [`Done::End`], or [`Done::NoBuffers`]: ask again later.
    Read {
        /// Where in the file, in bytes.
        offset: u64,
        /// How many bytes. Fewer come at the end of the file, and only there.
        len: usize,
        /// What is to be made of the bytes while they are in the cache.
        look: Option<Look>,
    },
    /// Ends the reading of a file, and looks whether it changed meanwhile. Answer:
    /// [`Done::Closed`], or a failure that says how it changed.
    Close,
}

/// What came of a request.
#[derive(Debug)]
pub struct Answer {
    /// The file that the request was for.
    pub file: FileNo,
    /// What was done, or what failed.
    pub result: Result<Done, Failure>,
}

/// What was done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Done {
    /// The file is there, empty.
    Created,
    /// All of the chain was written; here it is back.
    Written(Chain),
    /// The file is whole under its name, as durable as the store makes it.
    Committed,
    /// The part is gone.
    Discarded,
    /// The folder is there.
    FolderMade,
    /// A file, or a stream, is open to be read.
    Opened {
        /// Its name, for an item that the store was given to send.
        name: Option<Name>,
        /// What it is like.
        attributes: Attributes,
    },
    /// The next item is a folder.
    Folder {
        /// Its name.
        name: Name,
        /// What it is like.
        attributes: Attributes,
    },
    /// All items have been opened.
    NoMore,
    /// Bytes from that offset.
    Read {
        /// Where they were, in bytes; of a stream, how many came before.
        offset: u64,
        /// The bytes.
        chain: Chain,
        /// What was made of them.
        looked: Option<Looked>,
    },
    /// From `offset` on there are `len` bytes that are zero and take no room. At most what was
    /// asked for.
    Hole {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
    /// There is nothing at that offset: the file or stream ends here.
    End {
        /// The length, in bytes.
        offset: u64,
    },
    /// The pool had no buffers to read into.
    NoBuffers,
    /// The file is closed, and did not change while it was read.
    Closed,
}

/// What failed.
#[derive(Debug)]
pub struct Failure {
    /// Why, with the call, the object and the numbers.
    pub error: io::Error,
    /// Of a write: what was not written.
    pub chain: Option<Chain>,
    /// Of [`Request::Next`]: the item that could not be opened, as the person named it. The ones
    /// after it can still be asked for.
    pub item: Option<String>,
}

/// What a file is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Bytes; `None` for a stream, which ends when it ends.
    pub length: Option<u64>,
    /// Permissions: nine bits.
    pub mode: u32,
    /// When it was changed last.
    pub modified: Option<SystemTime>,
}

/// The same error once more: what depends on something that failed fails likewise.
fn again(error: &io::Error) -> io::Error {
    match call(error) {
        Some(call) => io::Error::new(error.kind(), call.clone()),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// What is answered to a request that is not for this store.
fn refusal(file: FileNo, request: Request, why: &str) -> Answer {
    let chain = match request {
        Request::Write { chain, .. } => Some(chain),
        _ => None,
    };
    let error = io::Error::new(io::ErrorKind::Unsupported, why);
    Answer { file, result: Err(Failure { error, chain, item: None }) }
}

fn not_open(file: FileNo) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("file {file} is not open for that"))
}
