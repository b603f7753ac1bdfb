//! The test kit: everything that is needed to test a protocol, a source or a sink without a
//! socket, a sleep or luck.
//!
//! It is part of the crate, always compiled, and costs nothing where it is not used. All of it is
//! deterministic: chance comes from a seed ([`Rng`]), time from a [`Clock`] that only moves when
//! it is told to.
//!
//! | to find out whether ... | take |
//! |---|---|
//! | a protocol keeps the contract of [`Protocol`](crate::stack::Protocol) | [`Conformance`] |
//! | two stacks understand one another over a bad line | [`Pair`], [`Link`], [`Faults`] |
//! | an operation gives the same bytes however a chain is cut | [`Shape`], [`cut`], [`bytewise`] |
//! | a failed allocation leaves everything as it was | [`for_every_failure`], [`Starve`] |
//! | a driver survives short writes, EINTR and a blocked sink | [`FaultySink`], [`Schedule`] |
//! | old contents of memory show through | [`dirty`] |
//! | what passes between two layers is what it should be | [`Tap`] |
//! | a layer copes with a store that fails, fills up or answers late | [`MemoryStore`] |
//! | anything is left in use | [`level`], [`assert_all_free`] |
//!
//! ```
//! use mbuf::testing::{Rng, Shape, assert_all_free, plain_pool, pool};
//!
//! // The same 300 bytes, cut in every way that has ever mattered, are the same 300 bytes.
//! let (pool, other) = (pool(), plain_pool());
//! let bytes = Rng::new(1).bytes(300);
//! for shape in Shape::ALL {
//!     let mut shaped = shape.make(&pool, &other, &bytes)?;
//!     assert_eq!(shaped.chain.pullup(20)?, &bytes[..20], "{shape:?}");
//! }
//! assert_all_free(&pool);
//! # Ok::<(), mbuf::Error>(())
//! ```

mod clock;
mod conformance;
mod faults;
mod link;
mod pair;
mod pools;
mod reshape;
mod rng;
mod sink;
mod starve;
mod store;
mod tap;

pub use clock::Clock;
pub use conformance::{Check, Conformance, Failure, Report, Verdict};
pub use faults::{Faults, LinkStats};
pub use link::Link;
pub use pair::{Pair, Ran, Unquiet};
pub use pools::{assert_all_free, dirty, level, plain_pool, pool};
pub use reshape::{Shape, Shaped, bytewise, cut, every_cut};
pub use rng::Rng;
pub use sink::{Collector, FaultySink, Schedule, Step};
pub use starve::{Starve, for_every_failure};
pub use store::{MemoryHandle, MemoryItem, MemoryStore};
pub use tap::{Record, Recorded, Tap};

pub use crate::stack::Direction;
