//! The receiving half of a datagram socket.

use std::{collections::VecDeque, io, os::fd::BorrowedFd};

use crate::{
    chain::Chain,
    error::{Error, Result},
    io::{
        Received,
        error::named,
        sys::{self, Errno, Inbox, Incoming, MESSAGES, Name, ReadError},
    },
    meta::Address,
    pool::{Class, Receiver},
    queue::Batch,
};

use super::{Kind, Shared, reported::is_report};

/// Datagrams up to this length that came alone are copied out of their 64 KiB cluster: a 2 KiB
/// cluster holds them, with headroom.
const COPY_BREAK: usize = 1_900;

/// Buffers posted at first.
const FIRST_POSTED: usize = 4;

/// Errors reported by the network that one receive passes over before it gives up: each takes an
/// ICMP message to arrive meanwhile, so this many in a row is not the network.
const MAX_REPORTED: usize = 1_000;

/// Buffers, and what was received but could not be handed on yet.
#[derive(Debug)]
pub(super) struct Receiving {
    inbox: Inbox,
    /// How many buffers to post.
    want: usize,
    /// Datagrams that the last message brought: with GRO, how many to expect of the next.
    fan_out: usize,
    /// Messages, in order, whose splitting waits for mbufs; at most [`MESSAGES`].
    unsplit: VecDeque<Unsplit>,
    /// The last call brought fewer messages than it could have.
    drained: bool,
}

/// A message that may be several datagrams, all of `segment` bytes but the last; 0 if it is one.
#[derive(Debug)]
struct Unsplit {
    chain: Chain,
    segment: usize,
}

/// A message that was received alone.
struct Single {
    chain: Chain,
    incoming: Incoming,
    source: Name,
    /// It was longer than the pool, and is lost.
    too_long: bool,
}

impl Receiving {
    pub(super) fn new() -> Self {
        Self {
            inbox: Inbox::new(),
            want: FIRST_POSTED,
            fan_out: 1,
            unsplit: VecDeque::with_capacity(MESSAGES),
            drained: false,
        }
    }

    pub(super) fn release(&mut self) {
        self.inbox.release();
        self.want = FIRST_POSTED;
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained && self.unsplit.is_empty()
    }

    pub(super) fn posted(&self) -> usize {
        self.inbox.posted()
    }

    pub(super) fn recv(
        &mut self,
        fd: BorrowedFd<'_>,
        shared: &mut Shared,
        receiver: &Receiver,
        batch: &mut Batch,
    ) -> io::Result<Received> {
        let before = batch.len();
        let mut reported = 0;
        self.drained = false;
        loop {
            if !self.split(shared, batch) {
                // Not all could be split: what could is handed on, and nothing more is received.
                return Ok(match batch.len() - before {
                    0 => Received::NoBuffers,
                    chains => Received::Chains(chains),
                });
            }
            if batch.len() > before {
                return Ok(Received::Chains(batch.len() - before));
            }
            let outcome = match self.inbox.post(receiver, self.want) {
                Ok(posted) => self.recv_messages(fd, shared, receiver, batch.room(), posted),
                Err(_) => self.recv_single(fd, shared, receiver),
            };
            match outcome {
                Ok(()) => {}
                Err(ReadError::Room(_)) => return Ok(Received::NoBuffers),
                Err(ReadError::Call(Errno(libc::EAGAIN))) => return Ok(Received::WouldBlock),
                Err(ReadError::Call(Errno(libc::ENOBUFS | libc::ENOMEM))) => {
                    return Ok(Received::NoBuffers);
                }
                Err(ReadError::Call(errno)) if is_report(errno) && reported < MAX_REPORTED => {
                    // What an earlier send met; it says nothing of what is to be received.
                    reported += 1;
                    shared.report(fd, errno);
                }
                Err(ReadError::Call(errno)) => {
                    return Err(named("recvmmsg on", &shared.name, errno.0));
                }
            }
        }
    }

    /// One recvmmsg(2) into the posted buffers, for about `room` datagrams.
    fn recv_messages(
        &mut self,
        fd: BorrowedFd<'_>,
        shared: &mut Shared,
        receiver: &Receiver,
        room: usize,
        posted: usize,
    ) -> Result<(), ReadError> {
        // One more than is expected, at least: so it is known when there is no other.
        let most = (room / self.fan_out).max(2).min(posted);
        let control = matches!(shared.kind, Kind::Udp { .. });
        let messages = self.inbox.recv(fd, most, control).map_err(ReadError::Call)?;
        shared.stats.receive_calls += 1;
        self.drained = messages < most;
        for slot in 0..messages {
            self.accept(slot, shared, receiver);
        }
        if messages == posted {
            self.want = (self.want * 2).min(MESSAGES);
        }
        Ok(())
    }

    /// Takes a message that was received, as `unsplit`.
    fn accept(&mut self, slot: usize, shared: &mut Shared, receiver: &Receiver) {
        let incoming = self.inbox.incoming(slot);
        if incoming.truncated {
            shared.stats.truncated += 1;
            return;
        }
        let segment = usize::from(incoming.arrival.segment);
        let single = segment == 0 || incoming.len <= segment;
        let copied = if single && incoming.len <= COPY_BREAK {
            copy(self.inbox.bytes(slot), receiver).ok()
        } else {
            None
        };
        let chain = match copied {
            Some(chain) => {
                shared.stats.copied += 1;
                chain
            }
            None => match self.inbox.take(slot, receiver) {
                Ok(chain) => chain,
                Err(_) => {
                    shared.stats.receive_no_buffers += 1;
                    return;
                }
            },
        };
        let source = self.inbox.source(slot);
        self.keep(chain, &incoming, &source, shared);
    }

    /// Fills in the metadata of a message, and puts it behind those that wait to be split.
    fn keep(&mut self, mut chain: Chain, incoming: &Incoming, source: &Name, shared: &mut Shared) {
        let source = match &mut shared.kind {
            Kind::Udp { .. } => source.as_ip().map_or(Address::None, Address::Ip),
            Kind::Unix { peers, .. } => peers.address(source),
        };
        let segment = incoming.arrival.segment;
        let segment = if incoming.len > usize::from(segment) { segment } else { 0 };
        let meta = chain.meta_mut();
        meta.set_source(source);
        meta.set_destination(shared.kind.local(&incoming.arrival));
        meta.set_segment_size(segment);
        self.unsplit.push_back(Unsplit { chain, segment: usize::from(segment) });
    }

    /// Splits messages into datagrams, each of which has the metadata of the whole: one message at
    /// least, and then until the batch has what it asks for. Answers whether it could: what could
    /// not be split for want of mbufs waits, in order.
    fn split(&mut self, shared: &mut Shared, batch: &mut Batch) -> bool {
        let first = batch.len();
        let mut before = first;
        while (before == first || batch.room() > 0)
            && let Some(Unsplit { mut chain, segment }) = self.unsplit.pop_front()
        {
            let len = chain.len();
            if segment > 0 && chain.split_fronts(segment, batch).is_err() {
                count(batch.len() - before, len - chain.len(), shared);
                self.unsplit.push_front(Unsplit { chain, segment });
                return false;
            }
            batch.push(chain);
            self.fan_out = batch.len() - before;
            count(self.fan_out, len, shared);
            shared.stats.joined += u64::from(segment > 0);
            before = batch.len();
        }
        true
    }

    /// Receives one message into whatever buffers the pool has, where it has no 64 KiB cluster
    /// left, or none at all: asks for its length first.
    fn recv_single(
        &mut self,
        fd: BorrowedFd<'_>,
        shared: &mut Shared,
        receiver: &Receiver,
    ) -> Result<(), ReadError> {
        let len = sys::peek_len(fd).map_err(ReadError::Call)?;
        let control = matches!(shared.kind, Kind::Udp { .. });
        let mut single = read_single(fd, receiver, len, control);
        if let Err(ReadError::Room(_)) = single {
            // What this thread has freed is in its cache, where the receiver does not find it.
            receiver.pool().flush();
            single = read_single(fd, receiver, len, control);
        }
        let Single { chain, incoming, source, too_long } = single?;
        shared.stats.receive_calls += 1;
        if too_long {
            let segment = usize::from(incoming.arrival.segment);
            let datagrams = if segment > 0 { len.div_ceil(segment) } else { 1 };
            shared.stats.receive_too_long += datagrams as u64;
            tracing::debug!(
                socket = %shared.name, len, datagrams, pool = receiver.pool().name(),
                "the pool is too small for what has come"
            );
        } else if incoming.truncated {
            shared.stats.truncated += 1;
        } else {
            self.keep(chain, &incoming, &source, shared);
        }
        Ok(())
    }
}

/// Counts what was received.
fn count(datagrams: usize, bytes: usize, shared: &mut Shared) {
    shared.stats.received += datagrams as u64;
    shared.stats.received_bytes += bytes as u64;
}

/// The bytes in a buffer of their own: a small mbuf if that holds them behind its headroom, else a
/// 2 KiB cluster.
fn copy(bytes: &[u8], receiver: &Receiver) -> Result<Chain> {
    let mut chain = receiver.chain()?;
    if chain.tailroom() < bytes.len() {
        chain = receiver.chain_in(Class::K2, receiver.pool().headroom())?;
    }
    if chain.tailroom() < bytes.len() {
        return Err(Error::NoBuffers { class: Class::K2 });
    }
    chain.extend_from_slice(bytes)?;
    Ok(chain)
}

/// A message of `len` bytes into buffers of one class. One for which the pool would not have room
/// if all of it were free is taken from the socket all the same, where it would be in the way of
/// all others for ever.
fn read_single(
    fd: BorrowedFd<'_>,
    receiver: &Receiver,
    len: usize,
    control: bool,
) -> Result<Single, ReadError> {
    let mut chain = receiver.chain().map_err(ReadError::Room)?;
    let mut classes = classes_for(receiver, chain.tailroom(), len).peekable();
    if classes.peek().is_none() {
        // One byte of it, which takes a small mbuf at most; the kernel forgets the rest.
        let (incoming, source) =
            sys::recv_message(fd, &mut chain, receiver, Class::Small, 1, control)?;
        return Ok(Single { chain, incoming, source, too_long: true });
    }
    let mut attempt = Err(ReadError::Room(Error::NoBuffers { class: Class::Small }));
    for class in classes {
        attempt = sys::recv_message(fd, &mut chain, receiver, class, len, control);
        if !matches!(attempt, Err(ReadError::Room(_))) {
            break;
        }
    }
    let (incoming, source) = attempt?;
    Ok(Single { chain, incoming, source, too_long: false })
}

/// Classes of which the pool, if nothing of it were in use, could lend enough for so many bytes
/// behind a chain with that tailroom, in the order in which they serve: the smallest that holds the
/// bytes in one buffer, larger ones, then smaller ones. The others are not tried: what a failed try
/// had taken goes to this thread's cache, where the receiver does not find it.
fn classes_for(receiver: &Receiver, tailroom: usize, len: usize) -> impl Iterator<Item = Class> {
    let more = len.saturating_sub(tailroom);
    let headroom = receiver.pool().headroom();
    let mut left = Class::ALL.map(|class| receiver.lendable(class));
    // The chain itself has an mbuf, and a cluster where the headroom asks for one.
    left[0] = left[0].saturating_sub(1);
    if headroom > Class::Small.data_len()
        && let Some(class) = (Class::ALL.into_iter())
            .find(|class| class.data_len() >= headroom && left[class.index()] > 0)
    {
        left[class.index()] -= 1;
    }
    let fits = Class::ALL.iter().position(|class| class.data_len() >= len);
    let (smaller, larger) = Class::ALL.split_at(fits.unwrap_or(Class::ALL.len()));
    let order = larger.iter().chain(smaller.iter().rev()).copied();
    // Each buffer takes an mbuf.
    order.filter(move |class| more.div_ceil(class.data_len()) <= left[class.index()].min(left[0]))
}
