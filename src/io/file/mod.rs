//! Files: where chains are kept, and where they come from.
//!
//! | | by calls | through a mapping |
//! |---|---|---|
//! | from a file | [`SourceKind::Preadv`]: into buffers of the pool | [`SourceKind::Mapped`]: opaque segments, which `writev` sends without copying ([`MappedFile`]) |
//! | into a file | [`SinkKind::Pwritev`]: from wherever the segments lie | [`SinkKind::Mapped`]: copied into room that was reserved before |
//!
//! A mapping saves a copy where nobody looks at the bytes; whoever does (a hash, a header) has them
//! read by a call in any case. Into a file, page faults make the mapping the slower of the two on
//! tmpfs, and for small files everywhere; for large ones on a disk neither always wins. The book has
//! the figures (Measurements).
//!
//! A full disk is an error that says what was written before, never a signal; a file that is cut
//! short while it is read is an error by name.
//!
//! Regular files are always ready, so nothing here waits for readiness, and everything may block on
//! the disk: within a program that also serves sockets it belongs on a thread of its own
//! ([`store`](crate::io::store)).

mod mapped;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod window;

use std::{fs::File, io, os::unix::fs::OpenOptionsExt, path::Path};

use crate::io::error::rename;

pub use mapped::MappedFile;
pub use sink::{FileSink, SinkKind, WriteError};
pub use source::{Extent, FileSource, SourceKind};

/// Opens a regular file to be read; a FIFO without a writer does not block. `call` is what will be
/// done with it, for the message.
fn open(path: &Path, call: &'static str) -> io::Result<File> {
    let named = |call| move |error| rename(call, path.display(), error);
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path).map_err(named("open of"))?;
    refuse_special(&file, path, call)?;
    Ok(file)
}

/// Refuses what is not a regular file.
fn refuse_special(file: &File, path: &Path, call: &str) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let kind = file.metadata().map_err(|error| rename("fstat of", path.display(), error))?;
    let kind = kind.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "a special file",
    };
    let text = format!("{call} {}: {what}, not a regular file", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}
