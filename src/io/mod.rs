//! Where chains enter and leave: sources and sinks.
//!
//! ```text
//!   readv, recvmmsg          chains          writev, sendmmsg
//!  -----------------> Source ------> ... ------> Sink ------------->
//!                            (batch)     (queue)
//! ```
//!
//! | port | what it carries |
//! |---|---|
//! | [`Stream`] | bytes over TCP and Unix sockets |
//! | [`Datagram`] | datagrams over UDP and Unix sockets |
//! | [`TunTap`] | packets of a network interface of this host |
//! | [`FileSource`], [`FileSink`] | the bytes of a file, by calls or through a mapping |
//! | [`capture`] | packets out of pcap and pcapng files, and into them |
//! | [`pipe()`] | either, in memory |
//!
//! and a [`MappedFile`] is storage for chains that a stream sends without copying. A source draws
//! its buffers from a [`Receiver`], which is refused while senders still find some. A sink takes
//! what it can from the front of a queue and leaves the rest there, exactly, so it can simply be
//! called again.
//!
//! All sockets here are non-blocking, and made for edge-triggered readiness (epoll(7)): call
//! `recv` or `send` until it says `WouldBlock`. Errors name the call and its object; [`errno`]
//! finds the error number in them. Linux only.

use std::io;

use crate::{
    pool::Receiver,
    queue::{Batch, Queue},
};

pub mod capture;
pub mod datagram;
pub(crate) mod error;
pub mod faults;
pub mod file;
pub mod pipe;
pub mod reactor;
pub mod store;
pub mod stream;
mod sys;
pub mod tuntap;

#[cfg(test)]
mod tests;

pub use datagram::{Datagram, DatagramOptions, DatagramStats, Dropped, Reported};
pub use error::{CallError, errno};
pub use file::{Extent, FileSink, FileSource, MappedFile, SinkKind, SourceKind, WriteError};
pub use pipe::{Pipe, PipeOptions, pipe};
pub use stream::{Stream, StreamStats};
pub use sys::{drain_eventfd, eventfd, raise_file_limit};
pub use tuntap::{Offloads, TunTap, TunTapBuilder, TunTapDropped, TunTapKind, TunTapStats};

/// What a source brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many chains (at least one) were added to the batch; there may be more.
    Chains(usize),
    /// Nothing more now: wait for readiness.
    WouldBlock,
    /// The pool refused (or the system had no memory): try again when buffers have come back. No
    /// readiness event tells when.
    NoBuffers,
    /// End of stream, in order after all chains.
    Closed,
}

/// What a sink did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The queue is empty.
    All,
    /// The rest stays in the queue: wait for readiness. (Where [`Sink::is_starved`] says so, no
    /// readiness event will come.)
    WouldBlock,
}

/// Where chains enter.
pub trait Source {
    /// Adds at least one chain to the batch, or says why not.
    ///
    /// It stops at about `batch.room()` chains; one read may bring more than that, and those are
    /// added too. What the batch held before stays in front.
    ///
    /// # Errors
    /// What makes the source useless from here on. Nothing that was received is lost by it: a
    /// source that has chains to give gives them first.
    fn recv(&mut self, receiver: &Receiver, batch: &mut Batch) -> io::Result<Received>;
}

/// Where chains leave.
pub trait Sink {
    /// Takes what it can from the front of the queue and leaves the rest, exactly, in it. Empty
    /// chains are datagrams to a datagram sink, and nothing to a stream sink, which drops them.
    ///
    /// # Errors
    /// What makes the sink useless from here on; what was not taken is still in the queue.
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent>;

    /// After [`Sent::WouldBlock`]: whether the system, not the socket, was short of memory (ENOBUFS,
    /// ENOMEM, a full queue of a Unix peer). No readiness event tells when that is over: try again
    /// from a timer, in a millisecond or so.
    fn is_starved(&self) -> bool {
        false
    }
}
