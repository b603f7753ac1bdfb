//! recvmmsg(2) and sendmmsg(2) over arrays that are allocated once.

use std::{
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use smallvec::SmallVec;

use super::{
    Errno, IOV_MAX, Iovecs, ReadError,
    address::{Arrival, CONTROL_BYTES, Control, NAME_BYTES, Name},
    attempt, gather,
};
use crate::{
    chain::Chain,
    error::{Error, Result},
    io::faults::{Attempt, Call},
    pool::{Class, Receiver},
    queue::Queue,
};

/// The most messages that one call moves.
pub(crate) const MESSAGES: usize = 32;

/// Buffers posted for receiving, and the arrays that name them to the kernel.
///
/// Each message has a 64 KiB cluster without headroom, which is 9 bytes more than the longest
/// datagram (UDP over IPv6). Buffers that a call does not fill stay posted for the next one.
pub(crate) struct Inbox {
    /// Invariant: where a slot is posted, it holds an empty chain of which `rooms` names the room,
    /// nobody else holds that storage, and the chain is not changed until it is taken.
    posted: [Option<Chain>; MESSAGES],
    rooms: [Room; MESSAGES],
    arrays: Box<Arrays>,
    /// Slots that are posted: the first ones.
    count: usize,
    /// Messages of the last call: of the first slots.
    filled: usize,
}

/// The free bytes of a posted chain.
#[derive(Clone, Copy)]
struct Room {
    base: *mut u8,
    len: usize,
}

struct Arrays {
    headers: [libc::mmsghdr; MESSAGES],
    iovecs: [libc::iovec; MESSAGES],
    names: [[u64; NAME_BYTES / 8]; MESSAGES],
    controls: [[u64; CONTROL_BYTES / 8]; MESSAGES],
}

// SAFETY: the raw pointers in it are either into memory that the box owns (set anew before every
// call) or into storage of chains that it owns (`posted`), and chains are Send.
unsafe impl Send for Inbox {}
// SAFETY: nothing is reached through a shared reference but plain numbers and bytes that only an
// exclusive reference lets the kernel write.
unsafe impl Sync for Inbox {}

/// A datagram that was received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming {
    /// Its bytes.
    pub(crate) len: usize,
    /// Whether it was longer than its room, and the rest is lost.
    pub(crate) truncated: bool,
    /// What the control messages said.
    pub(crate) arrival: Arrival,
}

impl Inbox {
    /// Nothing posted. Allocates the arrays, once.
    pub(crate) fn new() -> Self {
        let iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self {
            posted: [const { None }; MESSAGES],
            rooms: [Room { base: ptr::null_mut(), len: 0 }; MESSAGES],
            arrays: Box::new(Arrays {
                headers: [empty_header(); MESSAGES],
                iovecs: [iovec; MESSAGES],
                names: [[0; NAME_BYTES / 8]; MESSAGES],
                controls: [[0; CONTROL_BYTES / 8]; MESSAGES],
            }),
            count: 0,
            filled: 0,
        }
    }

    /// How many buffers are posted.
    pub(crate) fn posted(&self) -> usize {
        self.count
    }

    /// Posts buffers until there are `want`, as far as the pool has them, and answers how many
    /// there are.
    ///
    /// # Errors
    /// What the pool says if it refuses the first one, or if it has no 64 KiB clusters.
    pub(crate) fn post(&mut self, receiver: &Receiver, want: usize) -> Result<usize> {
        self.filled = 0;
        // Slots that were taken lie before those that were not: close the gaps from the end.
        let mut next = 0;
        for slot in 0..MESSAGES {
            if self.posted[slot].is_some() {
                self.posted.swap(next, slot);
                self.rooms.swap(next, slot);
                next += 1;
            }
        }
        self.count = next;
        while self.count < want.min(MESSAGES) {
            match post_one(receiver) {
                Ok((chain, room)) => {
                    self.posted[self.count] = Some(chain);
                    self.rooms[self.count] = room;
                    self.count += 1;
                }
                Err(error) if self.count == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(self.count)
    }

    /// Gives all posted buffers back to the pool.
    pub(crate) fn release(&mut self) {
        self.filled = 0;
        self.count = 0;
        self.posted.fill_with(|| None);
    }

    /// recvmmsg(2), without waiting, of at most `most` messages into the posted buffers. Answers
    /// how many came. `control`: whether control messages are wanted (a Unix peer could send
    /// descriptors in them, which are closed by the kernel if there is no room for them).
    pub(crate) fn recv(
        &mut self,
        fd: BorrowedFd<'_>,
        most: usize,
        control: bool,
    ) -> Result<usize, Errno> {
        self.filled = 0;
        let most = most.min(self.count);
        let arrays = &mut *self.arrays;
        let control_bytes = if control { CONTROL_BYTES } else { 0 };
        for slot in 0..most {
            let room = self.rooms[slot];
            arrays.iovecs[slot] = libc::iovec { iov_base: room.base.cast(), iov_len: room.len };
            let header = &mut arrays.headers[slot];
            header.msg_len = 0;
            let header = &mut header.msg_hdr;
            header.msg_name = arrays.names[slot].as_mut_ptr().cast();
            header.msg_namelen = NAME_BYTES as libc::socklen_t;
            header.msg_iov = &raw mut arrays.iovecs[slot];
            header.msg_iovlen = 1;
            header.msg_control = arrays.controls[slot].as_mut_ptr().cast();
            header.msg_controllen = control_bytes as _;
            header.msg_flags = 0;
        }
        let about = Attempt {
            call: Call::Recvmmsg,
            fd: fd.as_raw_fd(),
            bytes: most * Class::K64.data_len(),
            messages: most,
            segmented: false,
        };
        let headers = arrays.headers.as_mut_ptr();
        self.filled = attempt(&about, |limit| {
            let most = most.min(limit) as u32;
            // SAFETY: the first `most` headers were set above to name, iovec and control arrays of
            // the box that `self` holds exclusively, and to the rooms of posted chains, which
            // (invariant of `posted`) nobody else reads or writes. All outlive the call.
            let answer = unsafe {
                libc::recvmmsg(
                    fd.as_raw_fd(),
                    headers,
                    most,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            answer as isize
        })?;
        Ok(self.filled)
    }

    /// The message that the last call put into this slot.
    ///
    /// # Panics
    /// If it put none there.
    pub(crate) fn incoming(&self, slot: usize) -> Incoming {
        self.assert_filled(slot);
        let message = &self.arrays.headers[slot];
        let len = message.msg_len as usize;
        let control = zerocopy::IntoBytes::as_bytes(&self.arrays.controls[slot]);
        let control_len = message.msg_hdr.msg_controllen.min(CONTROL_BYTES);
        Incoming {
            len: len.min(self.rooms[slot].len),
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            arrival: Control::parse(&control[..control_len]),
        }
    }

    /// Whom the message in this slot is from.
    ///
    /// # Panics
    /// If the last call put none there.
    pub(crate) fn source(&self, slot: usize) -> Name {
        self.assert_filled(slot);
        let bytes = zerocopy::IntoBytes::as_bytes(&self.arrays.names[slot]);
        let bytes = bytes.first_chunk().expect("a name has NAME_BYTES");
        Name::filled(bytes, self.arrays.headers[slot].msg_hdr.msg_namelen)
    }

    /// The bytes of the message in this slot.
    ///
    /// # Panics
    /// If the last call put none there, or if it was taken.
    pub(crate) fn bytes(&self, slot: usize) -> &[u8] {
        self.assert_filled(slot);
        assert!(self.posted[slot].is_some(), "message {slot} was taken");
        let room = self.rooms[slot];
        let len = (self.arrays.headers[slot].msg_len as usize).min(room.len);
        // SAFETY: the kernel has written `msg_len` bytes, from the start of the room on, and `len`
        // is no more than that and no more than the room. The chain is still posted, so nobody
        // else reaches its storage; `self` is borrowed for as long as the slice is.
        unsafe { std::slice::from_raw_parts(room.base, len) }
    }

    /// Takes the message in this slot as a chain, without copying. Its cluster is no longer posted.
    ///
    /// # Errors
    /// None that could be met: the room was there when the chain was posted.
    ///
    /// # Panics
    /// If the last call put none there, or if it was taken.
    pub(crate) fn take(&mut self, slot: usize, receiver: &Receiver) -> Result<Chain> {
        self.assert_filled(slot);
        let room = self.rooms[slot];
        let len = (self.arrays.headers[slot].msg_len as usize).min(room.len);
        let Some(mut chain) = self.posted[slot].take() else {
            panic!("message {slot} was taken already")
        };
        let reserved = chain.reserve_from(receiver, Class::K64, room.len)?;
        // SAFETY: `reserved` is the room that was posted (invariant of `posted`: the chain has not
        // been changed since, so the same reservation finds the same room), and the kernel has
        // written `msg_len` bytes of it, from its start on; `len` is no more than that.
        unsafe { reserved.commit(len) };
        Ok(chain)
    }

    fn assert_filled(&self, slot: usize) {
        assert!(slot < self.filled, "slot {slot} of {} messages", self.filled);
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("posted", &self.count).finish_non_exhaustive()
    }
}

/// An empty chain with room for the longest datagram, in one piece.
fn post_one(receiver: &Receiver) -> Result<(Chain, Room)> {
    let mut chain = receiver.chain_in(Class::K64, 0)?;
    let mut iovecs: SmallVec<[libc::iovec; 2]> = SmallVec::new();
    let room = chain.tailroom();
    chain.reserve_from(receiver, Class::K64, room)?.iovecs(&mut iovecs);
    match iovecs[..] {
        [libc::iovec { iov_base, iov_len }] => {
            Ok((chain, Room { base: iov_base.cast(), len: iov_len }))
        }
        _ => Err(Error::NoBuffers { class: Class::K64 }),
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: an mmsghdr is made of integers and raw pointers, for which all zeroes are valid (the
    // padding that some C libraries name has private fields, so it cannot be written out).
    unsafe { std::mem::zeroed() }
}

/// The length of the message that is next, which is left where it is (recvmmsg(2) with MSG_PEEK and
/// MSG_TRUNC, which tells the true length whatever the room).
pub(crate) fn peek_len(fd: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut header = empty_header();
    let about = Attempt {
        call: Call::Recvmmsg,
        fd: fd.as_raw_fd(),
        bytes: 0,
        messages: 1,
        segmented: false,
    };
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_TRUNC;
    attempt(&about, |_| {
        // SAFETY: one header, which asks for no name, no bytes and no control messages, so the
        // kernel writes to the header alone, which outlives the call.
        let answer = unsafe {
            libc::recvmmsg(fd.as_raw_fd(), &raw mut header, 1, flags as _, ptr::null_mut())
        };
        answer as isize
    })?;
    Ok(header.msg_len as usize)
}

/// Takes the next entry of the socket's error queue (recvmmsg(2) with MSG_ERRQUEUE): what the
/// network said, or `None` for an error of this host.
///
/// # Errors
/// EAGAIN when the queue is empty.
pub(crate) fn take_error(fd: BorrowedFd<'_>) -> Result<Option<Errno>, Errno> {
    let mut controls = [0_u64; CONTROL_BYTES / 8];
    let mut header = empty_header();
    header.msg_hdr.msg_control = controls.as_mut_ptr().cast();
    header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
    let about = Attempt {
        call: Call::Recvmmsg,
        fd: fd.as_raw_fd(),
        bytes: 0,
        messages: 1,
        segmented: false,
    };
    let flags = libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE;
    attempt(&about, |_| {
        // SAFETY: one header, which asks for no name and no bytes, and whose control messages go to
        // an array on the stack of the length that is given; both outlive the call.
        let answer = unsafe {
            libc::recvmmsg(fd.as_raw_fd(), &raw mut header, 1, flags as _, ptr::null_mut())
        };
        answer as isize
    })?;
    let control = zerocopy::IntoBytes::as_bytes(&controls);
    let control_len = header.msg_hdr.msg_controllen.min(CONTROL_BYTES);
    Ok(Control::parse(&control[..control_len]).report.map(Errno))
}

/// recvmmsg(2), without waiting, of one message of up to `want` bytes to the end of `chain`, with
/// room in buffers of `class` from `receiver`.
pub(crate) fn recv_message(
    fd: BorrowedFd<'_>,
    chain: &mut Chain,
    receiver: &Receiver,
    class: Class,
    want: usize,
    control: bool,
) -> Result<(Incoming, Name), ReadError> {
    let mut room = chain.reserve_from(receiver, class, want.max(1)).map_err(ReadError::Room)?;
    let mut iovecs = Iovecs::new();
    room.iovecs(&mut iovecs);
    iovecs.truncate(IOV_MAX);
    let mut name = [0_u64; NAME_BYTES / 8];
    let mut controls = [0_u64; CONTROL_BYTES / 8];
    let mut header = empty_header();
    header.msg_hdr.msg_name = name.as_mut_ptr().cast();
    header.msg_hdr.msg_namelen = NAME_BYTES as libc::socklen_t;
    header.msg_hdr.msg_iov = iovecs.as_mut_ptr();
    header.msg_hdr.msg_iovlen = iovecs.len() as _;
    header.msg_hdr.msg_control = controls.as_mut_ptr().cast();
    header.msg_hdr.msg_controllen = (if control { CONTROL_BYTES } else { 0 }) as _;
    let about = Attempt {
        call: Call::Recvmmsg,
        fd: fd.as_raw_fd(),
        bytes: want,
        messages: 1,
        segmented: false,
    };
    attempt(&about, |_| {
        // SAFETY: one header, set above to arrays on the stack and to iovecs of the room that
        // `room` holds exclusively; all outlive the call, and each length is that of its array.
        let answer = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                &raw mut header,
                1,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        answer as isize
    })
    .map_err(ReadError::Call)?;
    let len = (header.msg_len as usize).min(room.len());
    // SAFETY: the kernel has written `msg_len` bytes in the order of the iovecs, which are the
    // room's from its start, and `len` is no more than that.
    unsafe { room.commit(len) };
    let control = zerocopy::IntoBytes::as_bytes(&controls);
    let control_len = header.msg_hdr.msg_controllen.min(CONTROL_BYTES);
    let incoming = Incoming {
        len,
        truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        arrival: Control::parse(&control[..control_len]),
    };
    let name = zerocopy::IntoBytes::as_bytes(&name);
    let name = name.first_chunk().expect("a name has NAME_BYTES");
    Ok((incoming, Name::filled(name, header.msg_hdr.msg_namelen)))
}

/// A message that is to be sent: the next so many chains of the queue, to one peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    /// Chains that it takes.
    pub(crate) chains: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// The size at which the kernel cuts it into datagrams; 0 if it is a single one.
    pub(crate) segment: u16,
    /// Where to; [`Name::NONE`] for a connected socket.
    pub(crate) to: Name,
    /// From where, and what segment size, to tell the kernel.
    pub(crate) control: Control,
}

/// Messages to be sent, and the arrays that name them to the kernel.
pub(crate) struct Outbox {
    planned: Vec<Planned>,
    headers: Box<[libc::mmsghdr; MESSAGES]>,
}

// SAFETY: the raw pointers in the headers are set anew before every call, and not used otherwise.
unsafe impl Send for Outbox {}
// SAFETY: as above; a shared reference gives access to the plan only.
unsafe impl Sync for Outbox {}

impl Outbox {
    /// Nothing planned. Allocates the arrays, once.
    pub(crate) fn new() -> Self {
        Self {
            planned: Vec::with_capacity(MESSAGES),
            headers: Box::new([empty_header(); MESSAGES]),
        }
    }

    /// The plan.
    pub(crate) fn planned(&self) -> &[Planned] {
        &self.planned
    }

    /// Forgets the plan.
    pub(crate) fn clear(&mut self) {
        self.planned.clear();
    }

    /// Whether another message can be planned.
    pub(crate) fn has_room(&self) -> bool {
        self.planned.len() < MESSAGES
    }

    /// Adds a message for the chains that come next in the queue.
    ///
    /// # Panics
    /// If there is no room.
    pub(crate) fn plan(&mut self, message: Planned) {
        assert!(self.has_room());
        self.planned.push(message);
    }

    /// sendmmsg(2), without waiting, of the plan with the bytes of the queue's first chains. Answers
    /// how many messages were sent, at least one; fewer than were planned where the segments would
    /// be more than IOV_MAX, or where the kernel stopped. An error concerns the first message.
    /// The queue is unchanged.
    ///
    /// # Errors
    /// EMSGSIZE without a call if the first message alone has more than IOV_MAX segments.
    pub(crate) fn send(&mut self, fd: BorrowedFd<'_>, queue: &Queue) -> Result<usize, Errno> {
        let mut iovecs = Iovecs::new();
        let mut spans: SmallVec<[(usize, usize); MESSAGES]> = SmallVec::new();
        let mut chains = queue.iter();
        let mut bytes = 0;
        'messages: for message in &self.planned {
            let start = iovecs.len();
            for chain in chains.by_ref().take(message.chains) {
                if gather(chain, &mut iovecs, start) < chain.len() {
                    iovecs.truncate(start);
                    break 'messages;
                }
            }
            bytes += message.bytes;
            spans.push((start, iovecs.len() - start));
        }
        if spans.is_empty() {
            return Err(Errno(if self.planned.is_empty() { libc::EINVAL } else { libc::EMSGSIZE }));
        }
        let segmented = self.planned[0].segment > 0;
        // From here on neither `iovecs` nor `planned` is moved or grown, so pointers into them hold.
        let base = iovecs.as_mut_ptr();
        let messages = self.planned.iter_mut().zip(self.headers.iter_mut());
        for ((message, header), &(start, len)) in messages.zip(&spans) {
            header.msg_len = 0;
            let header = &mut header.msg_hdr;
            let named = message.to.len > 0;
            header.msg_name =
                if named { message.to.bytes.as_mut_ptr().cast() } else { ptr::null_mut() };
            header.msg_namelen = message.to.len;
            header.msg_iov = base.wrapping_add(start);
            header.msg_iovlen = len as _;
            let controlled = message.control.len > 0;
            header.msg_control = if controlled {
                message.control.bytes.as_mut_ptr().cast()
            } else {
                ptr::null_mut()
            };
            header.msg_controllen = message.control.len as _;
            header.msg_flags = 0;
        }
        let about = Attempt {
            call: Call::Sendmmsg,
            fd: fd.as_raw_fd(),
            bytes,
            messages: spans.len(),
            segmented,
        };
        let headers = self.headers.as_mut_ptr();
        attempt(&about, |limit| {
            let count = spans.len().min(limit) as u32;
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the first `count` headers were set above. Names and control messages are in
            // `planned`, which is not changed meanwhile; the iovecs live on the stack until the end
            // of this function and point to the bytes of chains that the borrowed queue holds, at
            // most IOV_MAX of them a message. The kernel only reads all but `msg_len`.
            let answer = unsafe { libc::sendmmsg(fd.as_raw_fd(), headers, count, flags as _) };
            answer as isize
        })
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("planned", &self.planned).finish_non_exhaustive()
    }
}

const _: () = assert!(IOV_MAX >= 128, "a run of datagrams takes a segment each");
