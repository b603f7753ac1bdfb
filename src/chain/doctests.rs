//! What the borrow checker must refuse. Compiled only by `cargo test --doc`.
//!
//! Each refusal stands beside a twin that compiles and differs in the offending line only, so that
//! a refusal cannot come from a typing error.
//!
//! # A header kept over a pullup
//!
//! ```compile_fail,E0499
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let header: &[u8; 2] = chain.header().unwrap();
//! chain.pullup(4).unwrap();
//! assert_eq!(header[0], 1);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let header: &[u8; 2] = chain.header().unwrap();
//! assert_eq!(header[0], 1);
//! chain.pullup(4).unwrap();
//! ```
//!
//! # A view of a pullup kept over a prepend
//!
//! ```compile_fail,E0499
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let view = chain.pullup(4).unwrap();
//! chain.prepend(1).unwrap();
//! assert_eq!(view[0], 1);
//! ```
//!
//! # A chain changed while its segments are iterated
//!
//! ```compile_fail,E0502
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! for slice in chain.slices().unwrap() {
//!     chain.trim_front(slice.len()).unwrap();
//! }
//! ```
//!
//! # A chain changed while a cursor reads it
//!
//! ```compile_fail,E0502
//! use std::io::Read;
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut cursor = chain.cursor();
//! chain.append(1).unwrap();
//! cursor.read(&mut [0; 4]).unwrap();
//! ```
//!
//! # A chain advanced while its `IoSlice`s are out
//!
//! ```compile_fail,E0502
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut slices = smallvec::SmallVec::<[std::io::IoSlice<'_>; 8]>::new();
//! chain.io_slices(&mut slices).unwrap();
//! chain.advance(2).unwrap();
//! assert_eq!(slices[0].len(), 4);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! {
//!     let mut slices = smallvec::SmallVec::<[std::io::IoSlice<'_>; 8]>::new();
//!     chain.io_slices(&mut slices).unwrap();
//!     assert_eq!(slices[0].len(), 4);
//! }
//! chain.advance(2).unwrap();
//! ```
//!
//! # Two writable views at once
//!
//! ```compile_fail,E0499
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let first: &mut [u8; 2] = chain.header_mut().unwrap();
//! let second: &mut [u8; 2] = chain.header_mut().unwrap();
//! first[0] = second[0];
//! ```
//!
//! # A chain that was given away
//!
//! ```compile_fail,E0382
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2]).unwrap();
//! let other = pool.chain_from(&[3, 4]).unwrap();
//! chain.concat(other).unwrap();
//! assert_eq!(other.len(), 2);
//! ```
//!
//! # A chain that is copied without a word
//!
//! ```compile_fail,E0599
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let chain = pool.chain_from(&[1, 2]).unwrap();
//! let copy = chain.clone();
//! ```
//!
//! # An outgrown writer: the chain read while it is written
//!
//! ```compile_fail,E0502
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2]).unwrap();
//! let mut writer = chain.writer(2).unwrap();
//! assert_eq!(chain.len(), 2);
//! writer.put(&[3]);
//! ```
