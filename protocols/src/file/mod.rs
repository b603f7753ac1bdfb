//! Files and folders, from one end of a connection to the other, verified byte by byte.
//!
//! A [`FileSender`] sends what a [`Store`](mbuf::io::store::Store) was given to send; a
//! [`FileReceiver`] keeps it in a store of its own. Each is the top of a stack of two layers, with
//! [`Framing`] (a length of 32 bits) below, over any stream: TCP, a Unix socket, a pipe in memory.
//!
//! ```no_run
//! use std::{path::Path, sync::mpsc};
//!
//! use mbuf::{Pool, testing::MemoryStore};
//! use mbuf_protocols::file::{Event, FileReceiver};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::with_memory(64 << 20)?;
//! let (tell, _told) = mpsc::channel();
//! let receiver = FileReceiver::new(Box::new(MemoryStore::new())).on_event(move |event| {
//!     if let Event::Done { name, root, .. } = event {
//!         _ = tell.send(format!("{root}  {name}"));
//!     }
//! });
//! let stack = receiver.stack(&pool)?; // a reactor's listener gives one to each connection
//! # _ = stack;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Whole or not at all.** A file appears under its name when all of it has arrived, every chunk
//!   and the whole have the hashes that were declared, and the store has made it durable. What ends
//!   before leaves nothing under that name.
//! - **One file's trouble is its own.** A name that is refused, a full disk, a file that changed
//!   while it was sent: that file fails, by name, at both ends, and the others go on.
//! - **Bounded memory.** Nothing is allocated by what the peer declares. Unfinished messages cost
//!   one chunk; what is with the store, 2 MiB; unresolved files, some 500; names, some 35 bytes of
//!   each and no more than 250,000. Beyond these reading stops, or the transfer does.
//! - **It is neither encrypted nor authenticated.** The hashes find what a network, a memory or a
//!   disk has done to the bytes, not what somebody in between has.
//!
//! The hash is BLAKE3. Each chunk is a subtree of it, so that every byte is hashed once, while it
//! is in the cache, and the hash of the whole file, the *root*, is the one that `b3sum` prints. The
//! root of a transfer is its file's, if there is but one, else that of the lines that `b3sum` would
//! print for its files, in the order in which they were sent.
//!
//! # The messages
//!
//! Each is a frame; numbers are in network order. All begin alike:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |     kind      |     flags     |         reserved: zero        |
//! +---------------+---------------+-------------------------------+
//! |          file: its number; 0xffffffff: the whole transfer     |
//! +---------------------------------------------------------------+
//! ```
//!
//! | kind | | sent by | what follows |
//! |---|---|---|---|
//! | 1 | HELLO | both, first | magic, version, chunk size, features |
//! | 2 | FILE | sender | length, time, mode; the name |
//! | 3 | FOLDER | sender | the same |
//! | 4 | DATA | sender | offset, length, hash; the bytes |
//! | 5 | END | sender | length, root |
//! | 6 | DONE | receiver | nothing: the file is there under its name, or the folder is |
//! | 7 | FAIL | both | code, text |
//! | 8 | FINISH | sender | nothing: there are no more files |
//! | 9 | BYE | receiver | files, folders, bytes, root |
//! | 10 | ALIVE | both | nothing |
//!
//! ```text
//! HELLO  +---------------------------------------------------------------+
//!        |                          "mbuffile"                           |
//!        |                                                               |
//!        +-------------------------------+---------------+---------------+
//!        |          version: 1           |  chunk, log2  | reserved      |
//!        +-------------------------------+---------------+---------------+
//!        |               features: 0, and not looked at                  |
//!        +---------------------------------------------------------------+
//! FILE   +---------------------------------------------------------------+
//! FOLDER |              length in bytes, with flag 1                     |
//!        |                                                               |
//!        +---------------------------------------------------------------+
//!        |      last change: seconds since 1970, with flag 4             |
//!        |                                                               |
//!        +---------------------------------------------------------------+
//!        |                          nanoseconds                          |
//!        +-------------------------------+-------------------------------+
//!        |      mode, with flag 2        |        reserved: zero         |
//!        +-------------------------------+---------- - - - - - - - - - - +
//!        |  name: UTF-8, up to the end of the message
//!        +--------------------------------------- - - - - - - - - - - - -+
//! DATA   +---------------------------------------------------------------+
//!        |                       offset in bytes                         |
//!        |                                                               |
//!        +---------------------------------------------------------------+
//!        |                       length in bytes                         |
//!        +---------------------------------------------------------------+
//!        |                       reserved: zero                          |
//!        +---------------------------------------------------------------+
//!        |       chaining value: 32 bytes                                |
//!        +---------------------------------------- - - - - - - - - - - - +
//!        |  the bytes; with flag 1 none, they are all zero
//!        +--------------------------------------- - - - - - - - - - - - -+
//! END    +---------------------------------------------------------------+
//!        |                       length in bytes                         |
//!        |                                                               |
//!        +---------------------------------------------------------------+
//!        |       root: 32 bytes                                          |
//!        +---------------------------------------------------------------+
//! FAIL   +-------------------------------+-------------------------------+
//!        |            code               |       reserved: 6 bytes       |
//!        +-------------------------------+                               +
//!        |                                                               |
//!        +---------------------------------------- - - - - - - - - - - - +
//!        |  text: UTF-8, at most 512 bytes, for a person
//!        +--------------------------------------- - - - - - - - - - - - -+
//! BYE    +---------------------------------------------------------------+
//!        |       files, folders, bytes: 8 bytes each                     |
//!        +---------------------------------------------------------------+
//!        |       root: 32 bytes                                          |
//!        +---------------------------------------------------------------+
//! ```
//!
//! The codes are those of [`Code`]. A flag or a reserved bit that is not drawn here ends the
//! transfer.
//!
//! # The conversation
//!
//! ```text
//!     sender                                            receiver
//!       | -- HELLO ------------------------------------>  |
//!       | <------------------------------------ HELLO --  |
//!       | -- FILE 0 -- DATA 0 -- DATA 0 -- END 0 ------>  | create, write, write, commit
//!       | -- FILE 1 -- DATA 1 -- END 1 ---------------->  |
//!       | <------------------------ DONE 0 -- DONE 1 ---  |
//!       | -- FINISH ----------------------------------->  |
//!       | <-------------------------------------- BYE --  |
//!
//!                      of one file, at the receiver:
//!
//!              FILE             END              the store has it
//!     (none) -------> receiving ----> committing ----------------> DONE
//!                      |  ^ | |           |
//!                 DATA +--+ | |           | a root, a length, the disk
//!                           | |           v
//!       a chunk, the disk   | +-------> failed: FAIL, and the part is removed
//!       FAIL from the sender+
//!
//!                      of the whole, at both ends:
//!
//!              HELLO        FINISH              BYE
//!      hello --------> open --------> finishing ------> over
//!        |              |                 |              ^
//!        +--------------+-----------------+--------------+
//!          a malformed message, FAIL of everything, the end of the stream, a shutdown
//! ```
//!
//! Files go one after another, in ascending order of their numbers (which may have gaps: what could
//! not be opened is not sent). A file's chunks go in order, each at its offset; all are of the size
//! that the ends agreed on, the smaller of the two that they named, but for the last. Nothing waits
//! for DONE, so that many small files travel as fast as one large one; at most 512 may lack theirs.
//! After FAIL of a file nothing more of it is sent, and what was under way is thrown away.
//!
//! An end says ALIVE every five seconds unless it has bytes on their way out, and gives the other up
//! from which nothing at all has come for a minute. So a peer that has fallen silent is found, and
//! neither a slow disk nor a slow pipe is taken for one. (A limit on idle connections would find
//! none: this end's own ALIVE moves.)
//!
//! A hole costs the receiver as much time to hash as bytes would, some 40 us for 256 KiB, though it
//! is sent in 64 bytes.
//!
//! Numbers, offsets and the features of HELLO leave room for a transfer to be resumed, and for one
//! over datagrams.

mod event;
mod names;
mod receive;
mod send;
mod talk;
mod tree;
mod trouble;
mod wire;

#[cfg(test)]
mod tests;

use mbuf::{
    BuildError, Pool,
    stack::{Edge, Protocol, Stack},
};

use crate::{Framing, Prefix};

pub use event::{Event, Summary};
pub use receive::FileReceiver;
pub use send::FileSender;
pub use tree::Hash;
pub use trouble::{Code, Trouble};

/// The usual size of chunks, in bytes.
pub const CHUNK: usize = 256 << 10;
/// The least size of chunks, in bytes.
pub const CHUNK_MIN: usize = 1 << 10;
/// The largest size of chunks, in bytes.
pub const CHUNK_MAX: usize = 1 << 20;

/// Bytes on their way out before the sender waits. As with what is read ahead and what is with the
/// store, more would not be faster: it would only leave the cache before it is used.
const HIGH_WATER: usize = 512 << 10;

/// One end's stack: frames, and the end itself.
fn stack(chunk: usize, end: Box<dyn Protocol>, pool: &Pool) -> Result<Stack, BuildError> {
    let framing = Framing::new(Prefix::U32Be, chunk + wire::DATA_HEADER)?;
    let mut builder = Stack::builder(pool);
    let below = builder.layer(framing);
    let above = builder.layer_boxed(end);
    // One message beyond high water, and those that are not data.
    // Input is taken up to twice high water, so that the other end is heard while it does not read.
    let high_water = HIGH_WATER.max(2 * chunk);
    builder.egress(high_water, 1 << 14, high_water + 2 * CHUNK_MAX);
    builder.stack(below, above).port(Edge::Bytes, below);
    builder.build()
}
