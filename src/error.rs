//! What can go wrong.
//!
//! [`Error`] is what an operation answers while traffic flows: small, `Copy`, with the numbers in
//! it. [`BuildError`] is what is refused before traffic flows, when a pool or a stack is built;
//! it names the thing and may allocate. [`Rejected`] is an error that hands back what was given.

use std::{fmt, io};

use crate::class::Class;

/// The result of an operation on a pool or a chain.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on a pool, a chain or a queue was refused. Whatever was refused is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pool has no free buffer of this class, nor of one that could stand in for it.
    #[error("no buffers: the pool has no free {class} left")]
    NoBuffers {
        /// The class that was wanted first.
        class: Class,
    },
    /// There are fewer bytes than the operation needs.
    #[error("too short: {needed} bytes needed, {available} available")]
    TooShort {
        /// Bytes the operation needs, from the start of the chain.
        needed: usize,
        /// Bytes the chain holds.
        available: usize,
    },
    /// More bytes than a buffer, a chain or an address space can hold.
    #[error("too long: {wanted} bytes wanted, at most {max} possible")]
    TooLong {
        /// Bytes that were asked for (saturated where the sum overflows).
        wanted: usize,
        /// The most that is possible.
        max: usize,
    },
    /// The stripped bytes are no longer there to be restored.
    #[error("gone: {wanted} stripped bytes to be restored, {available} still there")]
    Gone {
        /// Bytes that were to be restored.
        wanted: usize,
        /// Stripped bytes that are still in place.
        available: usize,
    },
    /// A queue is full, in chains or in bytes.
    #[error("queue full: it holds {chains} chains and {bytes} bytes")]
    Full {
        /// Chains in the queue.
        chains: usize,
        /// Bytes in the queue.
        bytes: usize,
    },
    /// The chain has opaque segments (a mapped file), which only system calls may read.
    #[error("opaque: the segment at byte {offset} is a mapping that only system calls may read")]
    Opaque {
        /// Where the first opaque segment starts.
        offset: usize,
    },
    /// An argument that no chain could satisfy.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// Reading the file behind an opaque segment failed.
    #[error("reading a mapped file: {}", io::Error::from_raw_os_error(*errno))]
    Io {
        /// The system's error number (errno(3)).
        errno: i32,
    },
}

impl From<Error> for io::Error {
    /// Keeps the error as the source; allocates (it is boxed).
    fn from(error: Error) -> io::Error {
        let kind = match error {
            Error::NoBuffers { .. } => io::ErrorKind::OutOfMemory,
            Error::TooShort { .. } => io::ErrorKind::UnexpectedEof,
            Error::Full { .. } => io::ErrorKind::WouldBlock,
            Error::Io { errno } => return io::Error::from_raw_os_error(errno),
            _ => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

/// Why a pool or a stack could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The numbers asked for do not make a pool.
    #[error("pool `{pool}`: {reason}")]
    Pool {
        /// The pool's name.
        pool: String,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// The system refused the mapping.
    #[error("pool `{pool}`: mmap of {bytes} bytes: {error}")]
    Map {
        /// The pool's name.
        pool: String,
        /// Bytes that were to be mapped.
        bytes: usize,
        /// The system's answer.
        error: io::Error,
    },
    /// The layers do not make a stack.
    #[error("stack: {0}")]
    Stack(String),
}

/// An error that hands back the value that was given.
///
/// ```
/// use mbuf::{Error, Queue};
///
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let rejected = Queue::new(0, 0).push(pool.chain_from(b"kept")?).unwrap_err();
/// assert_eq!(rejected.error, Error::Full { chains: 0, bytes: 0 });
/// assert_eq!(rejected.value.to_vec()?, b"kept");
/// // Where the value is not wanted back, `?` drops it and hands on the reason.
/// let refuse = || -> mbuf::error::Result<()> { Ok(Queue::new(0, 0).push(pool.chain()?)?) };
/// assert_eq!(refuse(), Err(Error::Full { chains: 0, bytes: 0 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Rejected<T> {
    /// What was given, unchanged.
    pub value: T,
    /// Why it was refused.
    pub error: Error,
}

impl<T> Rejected<T> {
    /// Pairs a value with the reason for its refusal.
    ///
    /// ```
    /// use mbuf::{Error, error::Rejected};
    ///
    /// let rejected = Rejected::new("a value", Error::Invalid("no reason"));
    /// assert_eq!((rejected.value, rejected.to_string()), ("a value", "invalid argument: no reason".into()));
    /// ```
    pub fn new(value: T, error: Error) -> Self {
        Self { value, error }
    }
}

impl<T> fmt::Debug for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> std::error::Error for Rejected<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<T> From<Rejected<T>> for Error {
    /// Drops the value.
    fn from(rejected: Rejected<T>) -> Error {
        rejected.error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_small_and_name_the_numbers() {
        assert!(size_of::<Error>() <= 24);
        let error = Error::TooShort { needed: 20, available: 7 };
        assert_eq!(error.to_string(), "too short: 20 bytes needed, 7 available");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::UnexpectedEof);
        let error = Error::Io { errno: libc::EFAULT };
        assert_eq!(io::Error::from(error).raw_os_error(), Some(libc::EFAULT));
    }
}
