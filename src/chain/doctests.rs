//! What the borrow checker must refuse. Compiled only by `cargo test --doc`.
//!
//! Each refusal stands beside a twin that compiles and differs in the offending lines only, so that
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
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let view = chain.pullup(4).unwrap();
//! assert_eq!(view[0], 1);
//! chain.prepend(1).unwrap();
//! ```
//!
//! # A view of a pulldown kept over a concat
//!
//! ```compile_fail,E0499
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let view = chain.pulldown(1, 2).unwrap();
//! chain.concat(pool.chain().unwrap()).unwrap();
//! assert_eq!(view[0], 2);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let view = chain.pulldown(1, 2).unwrap();
//! assert_eq!(view[0], 2);
//! chain.concat(pool.chain().unwrap()).unwrap();
//! ```
//!
//! # A chain written while its bytes are viewed
//!
//! ```compile_fail,E0502
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let view = chain.slices().unwrap().next().unwrap();
//! chain.copy_back(0, &[9]).unwrap();
//! assert_eq!(view[0], 1);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let view = chain.slices().unwrap().next().unwrap();
//! assert_eq!(view[0], 1);
//! chain.copy_back(0, &[9]).unwrap();
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
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let lens: Vec<usize> = chain.slices().unwrap().map(<[u8]>::len).collect();
//! for len in lens {
//!     chain.trim_front(len).unwrap();
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
//! ```
//! use std::io::Read;
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut cursor = chain.cursor();
//! cursor.read(&mut [0; 4]).unwrap();
//! chain.append(1).unwrap();
//! ```
//!
//! # A cursor that outlives its chain
//!
//! ```compile_fail,E0505
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let cursor = chain.cursor();
//! chain.discard("unwanted");
//! assert_eq!(cursor.run().unwrap(), [1, 2, 3, 4]);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let cursor = chain.cursor();
//! assert_eq!(cursor.run().unwrap(), [1, 2, 3, 4]);
//! chain.discard("unwanted");
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
//! # Slices kept over an advance
//!
//! ```compile_fail,E0502
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut slices = chain.slices().unwrap();
//! chain.advance(2).unwrap();
//! assert_eq!(slices.next().unwrap().len(), 4);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut slices = chain.slices().unwrap();
//! assert_eq!(slices.next().unwrap().len(), 4);
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
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let first: &mut [u8; 2] = chain.header_mut().unwrap();
//! first[0] = 9;
//! let second: &mut [u8; 2] = chain.header_mut().unwrap();
//! assert_eq!(second[0], 9);
//! ```
//!
//! # A view that is written though it was lent to be read
//!
//! ```compile_fail,E0594
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let header: &[u8; 2] = chain.header().unwrap();
//! header[0] = 9;
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let header: &mut [u8; 2] = chain.header_mut().unwrap();
//! header[0] = 9;
//! ```
//!
//! # A chain that was given away
//!
//! ```compile_fail,E0382
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let other = pool.chain_from(&[3, 4]).unwrap();
//! chain.concat(other).unwrap();
//! assert_eq!(other.len(), 2);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let other = pool.chain_from(&[3, 4]).unwrap();
//! assert_eq!(other.len(), 2);
//! chain.concat(other).unwrap();
//! ```
//!
//! # A chain that was sent
//!
//! ```compile_fail,E0382
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut queue = mbuf::Queue::new(8, 1000);
//! queue.push(chain).unwrap();
//! assert_eq!(chain.len(), 4);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut queue = mbuf::Queue::new(8, 1000);
//! assert_eq!(chain.len(), 4);
//! queue.push(chain).unwrap();
//! ```
//!
//! # The front of a queue kept over a pop
//!
//! ```compile_fail,E0502
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut queue = mbuf::Queue::new(8, 1000);
//! queue.push(chain).unwrap();
//! let front = queue.front().unwrap();
//! queue.pop();
//! assert_eq!(front.len(), 4);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut queue = mbuf::Queue::new(8, 1000);
//! queue.push(chain).unwrap();
//! let front = queue.front().unwrap();
//! assert_eq!(front.len(), 4);
//! queue.pop();
//! ```
//!
//! # A chain that is copied without a word
//!
//! ```compile_fail,E0599
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let copy = chain.clone();
//! assert_eq!(copy.len(), 4);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let copy = chain.share().unwrap();
//! assert_eq!(copy.len(), 4);
//! ```
//!
//! # A chain read while it is written
//!
//! ```compile_fail,E0502
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut writer = chain.writer(2).unwrap();
//! assert_eq!(chain.len(), 4);
//! writer.put(&[3]);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut writer = chain.writer(2).unwrap();
//! writer.put(&[3]);
//! drop(writer);
//! assert_eq!(chain.len(), 5);
//! ```
//!
//! # A writer that outlives its chain
//!
//! ```compile_fail,E0505
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut writer = chain.writer(2).unwrap();
//! drop(chain);
//! writer.put(&[3]);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let mut writer = chain.writer(2).unwrap();
//! writer.put(&[3]);
//! drop(writer);
//! drop(chain);
//! ```
//!
//! # A chain changed while a reader fills its room
//!
//! ```compile_fail,E0499
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let room = chain.reserve_uninit(100).unwrap();
//! chain.prepend(1).unwrap();
//! assert_eq!(room.len(), 100);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let room = chain.reserve_uninit(100).unwrap();
//! assert_eq!(room.len(), 100);
//! chain.prepend(1).unwrap();
//! ```
//!
//! # Room committed twice
//!
//! ```compile_fail,E0382
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let room = chain.reserve_uninit(100).unwrap();
//! // SAFETY: no byte is claimed to be written.
//! unsafe { room.commit(0) };
//! // SAFETY: as above.
//! unsafe { room.commit(0) };
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let room = chain.reserve_uninit(100).unwrap();
//! // SAFETY: no byte is claimed to be written.
//! unsafe { room.commit(0) };
//! ```
//!
//! # Room committed without a promise that it was written
//!
//! ```compile_fail,E0133
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let room = chain.reserve_uninit(100).unwrap();
//! room.commit(100);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let room = chain.reserve_uninit(100).unwrap();
//! // SAFETY: no byte is claimed to be written.
//! unsafe { room.commit(0) };
//! ```
//!
//! # A header with padding, which nobody has written
//!
//! ```compile_fail,E0277
//! #[derive(zerocopy::IntoBytes, zerocopy::Immutable)]
//! #[repr(C)]
//! struct Header {
//!     kind: u8,
//!     number: u32,
//! }
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let header = Header { kind: 1, number: 2 };
//! chain.push(&header).unwrap();
//! ```
//!
//! ```
//! #[derive(zerocopy::IntoBytes, zerocopy::Immutable)]
//! #[repr(C)]
//! struct Header {
//!     kind: u8,
//!     number: [u8; 4],
//! }
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let mut chain = pool.chain_from(&[1, 2, 3, 4]).unwrap();
//! let header = Header { kind: 1, number: [2; 4] };
//! chain.push(&header).unwrap();
//! ```
//!
//! # An owner that must not leave its thread
//!
//! ```compile_fail,E0277
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let owner: std::rc::Rc<[u8]> = [1, 2].into();
//! pool.attach(owner, ..).unwrap();
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let owner: std::sync::Arc<[u8]> = [1, 2].into();
//! pool.attach(owner, ..).unwrap();
//! ```
//!
//! # An owner that two threads must not use at once
//!
//! ```compile_fail,E0277
//! struct Owner(Vec<u8>, std::cell::Cell<u8>);
//! impl AsRef<[u8]> for Owner {
//!     fn as_ref(&self) -> &[u8] {
//!         &self.0
//!     }
//! }
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! pool.attach(Owner(vec![1, 2], 0.into()), ..).unwrap();
//! ```
//!
//! ```
//! struct Owner(Vec<u8>, std::sync::atomic::AtomicU8);
//! impl AsRef<[u8]> for Owner {
//!     fn as_ref(&self) -> &[u8] {
//!         &self.0
//!     }
//! }
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! pool.attach(Owner(vec![1, 2], 0.into()), ..).unwrap();
//! ```
//!
//! # An owner that is only borrowed
//!
//! ```compile_fail,E0597
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let chain = {
//!     let bytes = vec![1, 2];
//!     pool.attach(&bytes[..], ..).unwrap()
//! };
//! assert_eq!(chain.len(), 2);
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let chain = {
//!     let bytes = vec![1, 2];
//!     pool.attach(bytes, ..).unwrap()
//! };
//! assert_eq!(chain.len(), 2);
//! ```
//!
//! # An owner that is written through a chain, without a promise
//!
//! ```compile_fail,E0277
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! pool.attach_mut(vec![1, 2], ..).unwrap();
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! pool.attach(vec![1, 2], ..).unwrap();
//! ```
//!
//! # A receiver that two threads use at once
//!
//! ```compile_fail,E0277
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let receiver = pool.receiver();
//! std::thread::scope(|scope| {
//!     scope.spawn(|| receiver.chain().unwrap());
//!     receiver.chain().unwrap();
//! });
//! ```
//!
//! ```
//! let pool = mbuf::Pool::with_memory(1 << 20).unwrap();
//! let receiver = pool.receiver();
//! std::thread::scope(|scope| {
//!     scope.spawn(move || receiver.chain().unwrap());
//! });
//! ```
