//! Packets as chains of pooled buffers, and protocols as layers that run over anything: the packet
//! buffer of the BSD kernels, brought to user space.
//!
//! A packet keeps one buffer type from the moment a socket hands it over until a sink takes it away.
//! Headers are stripped by moving an offset and prepended into room that was left for them. Nothing
//! is copied unless a layer asks for it, and nothing is allocated from the heap once traffic flows.
//!
//! # A chain
//!
//! A [`Chain`] owns a packet: one mbuf or several, each with its bytes in itself or in a cluster. All
//! of them come from a [`Pool`], one bounded mapping.
//!
//! ```text
//!          small mbuf                      mbuf with a cluster
//! Chain -> +-----------------------+  next +-----------------------+
//!          | next, offset, length  | ----> | next, offset, length  |
//!          | metadata of the packet|       |                       |
//!          | headroom | Eth IP UDP |       |                       |
//!          +-----------------------+       +-----------|-----------+
//!            <---- prepend                             v
//!                                      +----------+---------+----------+
//!                                      | headroom | payload | tailroom |   2 KiB cluster
//!                                      +----------+---------+----------+
//! ```
//!
//! ```
//! use mbuf::Pool;
//!
//! let pool = Pool::with_memory(1 << 20)?;
//! let mut packet = pool.chain_from(b"payload")?;
//! packet.prepend_slice(b"header ")?; // into the headroom: nothing moves
//! assert_eq!(packet.to_vec()?, b"header payload");
//!
//! let tail = packet.split_off(7)?; // no byte of a cluster is copied
//! assert_eq!(tail.to_vec()?, b"payload");
//!
//! assert!(packet.trim_front(100).is_err()); // what fails has changed nothing
//! assert_eq!(packet.len(), 7);
//!
//! drop((packet, tail));
//! assert_eq!(pool.stats().in_use(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A stack
//!
//! A layer is a value that implements [`stack::Protocol`]. It is given chains from below (`input`)
//! and from above (`output`), and says of each what became of it. A [`stack::Stack`] of layers makes
//! no system call: chains and the time are put in, chains are taken out.
//!
//! ```text
//!                     +---------------------+
//!                     |    your protocol    |
//!                     +---------------------+
//!     input: strip       ^    packets    |       output: prepend
//!                        |               v
//!                     +---------------------+
//!                     |       framing       |
//!                     +---------------------+
//!                        ^     bytes     |
//!                        |               v
//!                     +---------------------+
//!                     |        port         |
//!                     +---------------------+
//!                        ^               |
//!                 source |               | sink      TCP, UDP, Unix, a pipe, a test's link
//! ```
//!
//! [`io::reactor::Reactor`] drives stacks over sockets; a program with a loop of its own
//! drives them itself (`docs/embed-a-stack.md` is a complete one). The crate `mbuf-protocols` has
//! layers to use and to learn from.
//!
//! # The rooms
//!
//! | module | what is in it |
//! |---|---|
//! | [`pool`] | where the memory lives: small mbufs, clusters, caches, statistics |
//! | [`chain`] | a packet, and every operation on it |
//! | [`meta`] | what a packet carries beside its bytes |
//! | [`queue`] | chains in transit: batches and bounded queues |
//! | [`stack`] | the trait of a layer, and the stack that runs layers |
//! | [`io`] | sources and sinks: where chains enter and leave; the reactor |
//! | [`testing`] | the test kit: a clock, bad links, faults, and a conformance function |
//! | [`error`] | what can go wrong |
//!
//! # Features
//!
//! `bytes` (off): `bytes::Buf` and `bytes::BufMut` for chains, cursors and writers.
//!
//! `census` (off): where each buffer was allocated, and the last sixteen events of its life, for
//! finding what does not come back (`Pool::census`; `docs/find-a-leak.md`). 16 bytes a buffer, and
//! some instructions for each event.
//!
//! # Promises
//!
//! - Input never panics, however malformed, and never makes memory grow: pools, queues, tables and
//!   reassembly are bounded.
//! - An operation that fails has changed nothing: bytes, segments, metadata, and the number of free
//!   buffers in the pool.
//! - Bytes that were never written cannot be read, bytes that others see cannot be written, and a
//!   header that is borrowed from a chain cannot outlive an operation that might move it.
//!
//! ```compile_fail,E0499
//! # use mbuf::Pool;
//! # let pool = Pool::with_memory(1 << 20).unwrap();
//! let mut packet = pool.chain_from(&[0; 64]).unwrap();
//! let header: &[u8; 4] = packet.header().unwrap();
//! packet.pullup(60).unwrap(); // may move the bytes
//! assert_eq!(header, &[0; 4]);
//! ```

pub mod chain;
mod class;
pub mod error;
#[cfg(doctest)]
mod guide;
pub mod io;
mod mbuf;
pub mod meta;
pub mod pool;
pub mod queue;
pub mod stack;
pub mod testing;

pub use chain::Chain;
pub use class::Class;
pub use error::{BuildError, Error, Rejected, Result};
pub use meta::{Address, Meta};
pub use pool::{Pool, Receiver};
pub use queue::{Batch, Queue};
