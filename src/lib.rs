//! Packets as chains of pooled buffers, and protocols as layers that run over anything.

pub mod chain;
mod class;
pub mod error;
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
