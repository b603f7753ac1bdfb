//! The receiving half of a queue.

use std::os::fd::BorrowedFd;

use zerocopy::FromBytes;

use super::{Device, ETHERNET, LONGEST, TAGS, TunTapStats, header, mtu_now};
use crate::{
    chain::Chain,
    error::{Error, Result},
    io::{
        Received,
        sys::{
            Errno,
            tun::{self, HEADER_BYTES, Packet},
        },
    },
    pool::{Class, Receiver},
    queue::Batch,
};
const _: () = assert!(header::LEN <= HEADER_BYTES);

/// So many bytes of a packet, beyond those in its first buffer, are copied to a buffer of their
/// size, and leave the large one posted.
const COPY_BREAK: usize = 4_096;

/// Packets in a row that may be of no use before a receive gives up.
const MOST_USELESS: usize = 1_000;

/// Buffers for the next packet.
#[derive(Debug)]
pub(super) struct Receiving {
    /// Where a packet begins: empty, with room for one of 1,500 bytes.
    first: Option<Chain>,
    /// Where a longer one goes on: empty.
    rest: Option<Chain>,
    /// The class of further buffers behind `rest`.
    class: Class,
    /// The most bytes that a packet can have.
    longest: usize,
    drained: bool,
}

impl Receiving {
    pub(super) fn new(device: &Device) -> Self {
        let longest = longest(device);
        Self { first: None, rest: None, class: Class::K64, longest, drained: false }
    }

    pub(super) fn release(&mut self) {
        self.first = None;
        self.rest = None;
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained
    }

    pub(super) fn recv(
        &mut self,
        fd: BorrowedFd<'_>,
        device: &mut Device,
        stats: &mut TunTapStats,
        receiver: &Receiver,
        batch: &mut Batch,
    ) -> std::result::Result<Received, Errno> {
        let before = batch.len();
        let mut useless = 0;
        self.drained = false;
        let why = loop {
            if batch.len() > before && batch.room() == 0 || useless == MOST_USELESS {
                // No edge may tell of what is there still: NoBuffers is asked again.
                break Ok(Received::NoBuffers);
            }
            let Ok(more) = self.post(receiver) else {
                self.release();
                break Ok(Received::NoBuffers);
            };
            match self.read(fd, device, stats, receiver, more) {
                Ok(Some(chain)) => batch.push(chain),
                Ok(None) => useless += 1,
                Err(Errno(libc::EAGAIN)) => {
                    self.drained = true;
                    break Ok(Received::WouldBlock);
                }
                Err(Errno(libc::ENOBUFS | libc::ENOMEM)) => {
                    // What is posted would be in the way of who waits for it.
                    self.release();
                    break Ok(Received::NoBuffers);
                }
                Err(errno) => break Err(errno),
            }
        };
        // An error will come again, at the next call.
        match batch.len() - before {
            0 => why,
            chains => Ok(Received::Chains(chains)),
        }
    }

    /// Makes sure that there are buffers for the longest packet, as far as the pool has such, and
    /// answers how many bytes of them are needed behind the first.
    fn post(&mut self, receiver: &Receiver) -> Result<usize> {
        let first = match &mut self.first {
            Some(first) => first,
            none => none.insert(post_first(receiver)?),
        };
        let more = self.longest.saturating_sub(first.tailroom());
        if more == 0 || self.rest.is_some() {
            return Ok(more);
        }
        let best = Class::for_len(more);
        let mut lendable = false;
        for class in order(best) {
            // One mbuf is the first buffer's; each further one takes one.
            let buffers = more.div_ceil(class.data_len());
            let mbufs = receiver.lendable(Class::Small).saturating_sub(1);
            if buffers > receiver.lendable(class).min(mbufs) {
                continue;
            }
            lendable = true;
            let posted = receiver.chain_in(class, 0).and_then(|mut chain| {
                chain.reserve_from(receiver, class, more)?;
                Ok(chain)
            });
            if let Ok(chain) = posted {
                self.rest = Some(chain);
                self.class = class;
                return Ok(more);
            }
        }
        // A pool that could never hold the longest packet receives what is shorter.
        if lendable { Err(Error::NoBuffers { class: best }) } else { Ok(0) }
    }

    /// One packet; `None` if it was of no use, and was dropped.
    fn read(
        &mut self,
        fd: BorrowedFd<'_>,
        device: &mut Device,
        stats: &mut TunTapStats,
        receiver: &Receiver,
        more: usize,
    ) -> std::result::Result<Option<Chain>, Errno> {
        let Some(mut first) = self.first.take() else { return Err(Errno(libc::ENOBUFS)) };
        let mut header = [0; HEADER_BYTES];
        let header = &mut header[..if device.header { header::LEN } else { 0 }];
        let rest = self.rest.as_mut();
        let read =
            tun::read_packet(fd, header, &mut first, rest, receiver, self.class, self.longest);
        let Packet { len, truncated, headless } = match read {
            Ok(packet) => packet,
            Err(errno) => {
                self.first = Some(first);
                return Err(errno);
            }
        };
        stats.receive_calls += 1;
        if truncated || headless || len == 0 {
            self.release();
            if truncated && more == 0 && self.longest > first.len() {
                stats.receive_too_long += 1;
            } else {
                stats.truncated += 1;
            }
            // Somebody may have raised the MTU.
            if let Some(mtu) = mtu_now(&device.name)
                && mtu != device.mtu
            {
                tracing::debug!(interface = %device.name, mtu, before = device.mtu, "another MTU");
                device.mtu = mtu;
                self.longest = longest(device);
            }
            return Ok(None);
        }
        if !self.join(&mut first, stats, receiver) {
            stats.truncated += 1;
            return Ok(None);
        }
        if let Ok(header) = header::Header::read_from_bytes(header) {
            header.tell(first.meta_mut());
        }
        stats.received += 1;
        stats.received_bytes += len as u64;
        stats.joined += u64::from(first.meta().segment_size() > 0);
        Ok(Some(first))
    }

    /// Puts what is in `rest` behind the first buffer, in a buffer of its size if it is little.
    /// Answers whether it could: only at 4 GiB could it not.
    fn join(&mut self, first: &mut Chain, stats: &mut TunTapStats, receiver: &Receiver) -> bool {
        let Some(mut rest) = self.rest.take_if(|rest| !rest.is_empty()) else { return true };
        if rest.len() <= COPY_BREAK
            && Class::for_len(rest.len()) < self.class
            && let Ok(copied) = copy(&rest, receiver)
        {
            stats.copied += 1;
            // Emptied, it is posted again, if it is the one that is wanted.
            if rest.segments() == 1 && rest.truncate(0).is_ok() {
                self.rest = Some(rest);
            }
            rest = copied;
        }
        first.concat(rest).is_ok()
    }
}

/// The most bytes that a packet of the device can have.
fn longest(device: &Device) -> usize {
    let link = if device.kind.link() > 0 { ETHERNET + TAGS } else { 0 };
    let longest = if device.offloads.is_empty() { device.mtu } else { LONGEST.max(device.mtu) };
    longest + link
}

/// Where a packet begins: a 2 KiB cluster, or what the pool has.
fn post_first(receiver: &Receiver) -> Result<Chain> {
    let headroom = receiver.pool().headroom();
    let mut last = Err(Error::NoBuffers { class: Class::K2 });
    for class in order(Class::K2) {
        let headroom = if headroom < class.data_len() / 2 { headroom } else { 0 };
        last = receiver.chain_in(class, headroom);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Classes in the order in which they serve: the best, larger ones, then smaller ones.
fn order(best: Class) -> impl Iterator<Item = Class> {
    let (smaller, larger) = Class::ALL.split_at(best.index());
    larger.iter().chain(smaller.iter().rev()).copied()
}

/// The bytes in one buffer of their size.
fn copy(chain: &Chain, receiver: &Receiver) -> Result<Chain> {
    let class = Class::for_len(chain.len());
    let mut copied = receiver.chain_in(class, 0)?;
    if copied.tailroom() < chain.len() {
        return Err(Error::NoBuffers { class });
    }
    for bytes in chain.slices()? {
        copied.extend_from_slice(bytes)?;
    }
    Ok(copied)
}
