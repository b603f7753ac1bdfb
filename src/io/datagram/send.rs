//! The sending half of a datagram socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use crate::{
    io::{
        Sent,
        error::named,
        sys::{Control, Errno, IOV_MAX, Name, Outbox, Planned},
    },
    queue::Queue,
};

use super::{Kind, Shared, refusals::Refusals, reported::is_report};

/// The most datagrams in one message (UDP_MAX_SEGMENTS in include/linux/udp.h).
const RUN_DATAGRAMS: usize = 128;

/// The same of older kernels, which answer more with EINVAL.
const FEWER_DATAGRAMS: usize = 64;

/// The most bytes in one message: an IPv4 packet's 65,535 without its headers.
const RUN_BYTES: usize = 65_507;

/// How long a datagram waits for a Unix peer that does not read. All others behind it wait as long;
/// therefore what follows for that peer is not waited for, until it takes one again.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where a datagram is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// To this address (or the connected peer), from this local address and interface.
    Udp {
        /// `None`: the socket is connected.
        to: Option<SocketAddr>,
        /// `None`: as the routing table has it.
        from: Option<(IpAddr, u32)>,
    },
    /// To a Unix peer.
    Unix(Name),
    /// To the Unix peer that the socket is connected to.
    Connected,
    /// The metadata names no address that the socket could send to.
    Nowhere,
    /// The Unix peer's entry was given to another.
    Gone,
}

/// The plan of a call, and what was learned from earlier ones.
#[derive(Debug)]
pub(super) struct Sending {
    outbox: Outbox,
    /// Whether runs are sent as one message at all.
    gso: bool,
    /// The most datagrams in one message, as far as is known.
    most: usize,
    refusals: Refusals,
    /// So many datagrams at the front of the queue are sent singly.
    single: usize,
    /// A refusal that is remembered if the next datagram, sent singly, is taken.
    suspicion: Option<(Option<IpAddr>, u16)>,
    /// Whether the first datagram was tried again after a report of an earlier one's fate.
    retried: bool,
    /// Since when the first datagram's peer is full.
    full_since: Option<Instant>,
    starved: bool,
}

impl Sending {
    pub(super) fn new(gso: bool) -> Self {
        Self {
            outbox: Outbox::new(),
            gso,
            most: RUN_DATAGRAMS,
            refusals: Refusals::default(),
            single: 0,
            suspicion: None,
            retried: false,
            full_since: None,
            starved: false,
        }
    }

    pub(super) fn is_starved(&self) -> bool {
        self.starved
    }

    pub(super) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        shared: &mut Shared,
        queue: &mut Queue,
    ) -> io::Result<Sent> {
        self.starved = false;
        // Every round sends or drops a datagram, or learns something that it learns only once.
        while !queue.is_empty() {
            self.plan(shared, queue);
            if self.outbox.planned().is_empty() {
                self.drop_undeliverable(shared, queue);
                continue;
            }
            match self.outbox.send(fd, queue) {
                Ok(messages) => self.sent(messages, shared, queue),
                Err(errno) => {
                    if let Some(sent) = self.failed(fd, errno, shared, queue)? {
                        return Ok(sent);
                    }
                }
            }
        }
        Ok(Sent::All)
    }

    /// Plans messages for the first chains of the queue, up to one that cannot be sent.
    fn plan(&mut self, shared: &mut Shared, queue: &Queue) {
        self.outbox.clear();
        let mut chains = queue.iter().enumerate().peekable();
        let mut segments = 0;
        while let Some((at, first)) = chains.next() {
            let target = shared.kind.target(first.meta().source(), first.meta().destination());
            segments += first.segments();
            if matches!(target, Target::Nowhere | Target::Gone)
                || !self.outbox.has_room()
                || segments > IOV_MAX
            {
                break;
            }
            let mut message = start(&target, first.len());
            if self.may_run(at, &target, first.len()) {
                while let Some((_, next)) = chains.peek() {
                    let fits = message.chains < self.most
                        && message.bytes + next.len() <= RUN_BYTES
                        && segments + next.segments() <= IOV_MAX
                        && (1..=first.len()).contains(&next.len());
                    if !fits || !next.meta().same_addresses(first.meta()) {
                        break;
                    }
                    message.chains += 1;
                    message.bytes += next.len();
                    segments += next.segments();
                    // A shorter one can only be the last.
                    let last = next.len() < first.len();
                    chains.next();
                    if last {
                        break;
                    }
                }
                if message.chains > 1 {
                    message.segment = first.len() as u16;
                    message.control.push_segment(message.segment);
                }
            }
            self.outbox.plan(message);
        }
    }

    /// Whether a run may begin with this datagram, which is `at` chains from the queue's front.
    fn may_run(&self, at: usize, target: &Target, len: usize) -> bool {
        let Target::Udp { to, .. } = target else { return false };
        self.gso
            && at >= self.single
            && (1..=RUN_BYTES / 2).contains(&len)
            && self.refusals.allow(to.map(|to| to.ip()), len as u16)
    }

    /// Forgets what was sent.
    fn sent(&mut self, messages: usize, shared: &mut Shared, queue: &mut Queue) {
        let stats = &mut shared.stats;
        stats.send_calls += 1;
        let first = self.outbox.planned()[0].to.as_ip().map(|to| to.ip());
        if let Some((host, size)) = self.suspicion.take()
            && host == first
        {
            // Refused as one, taken singly: it was the segmentation.
            self.refusals.add(host, size);
            tracing::debug!(socket = %shared.name, ?host, size, "UDP segmentation is refused");
        }
        for message in &self.outbox.planned()[..messages] {
            stats.sent += message.chains as u64;
            stats.sent_bytes += message.bytes as u64;
            stats.segmented += u64::from(message.segment > 0);
            self.single = self.single.saturating_sub(message.chains);
            for _ in 0..message.chains {
                queue.pop();
            }
            if let Kind::Unix { peers, .. } = &mut shared.kind {
                peers.set_full(&message.to, false);
            }
        }
        self.retried = false;
        self.full_since = None;
    }

    /// Does what an error asks for: wait (the answer says so), try again in another way, or give up
    /// the first datagram. An error that concerns the socket as a whole is answered as one.
    fn failed(
        &mut self,
        fd: BorrowedFd<'_>,
        errno: Errno,
        shared: &mut Shared,
        queue: &mut Queue,
    ) -> io::Result<Option<Sent>> {
        let message = self.outbox.planned()[0];
        let is_unix = matches!(shared.kind, Kind::Unix { .. });
        match errno.0 {
            libc::EAGAIN => {
                // The socket's own buffer is full, or the peer's queue: for that one no readiness
                // is ever told, unless the socket is connected to it.
                let Kind::Unix { peers, connected } = &mut shared.kind else {
                    return Ok(Some(Sent::WouldBlock));
                };
                let since = *self.full_since.get_or_insert_with(Instant::now);
                let waits = since.elapsed() < PATIENCE && !peers.is_full(&message.to);
                if waits || *connected {
                    self.starved = true;
                    return Ok(Some(Sent::WouldBlock));
                }
                peers.set_full(&message.to, true);
            }
            libc::ENOBUFS | libc::ENOMEM => {
                shared.stats.starved += 1;
                self.starved = true;
                return Ok(Some(Sent::WouldBlock));
            }
            _ if !is_unix && is_report(errno) && errno.0 != libc::EMSGSIZE && !self.retried => {
                // It may be the fate of an earlier datagram that is told here: then this
                // one was not sent, and nothing is wrong with it.
                self.retried = true;
                shared.report(fd, errno);
                return Ok(None);
            }
            libc::EINVAL if message.chains > FEWER_DATAGRAMS => {
                self.most = FEWER_DATAGRAMS;
                return Ok(None);
            }
            _ if message.chains > 1 => {
                // Each of its datagrams gets a verdict of its own.
                self.single = message.chains;
                if let Some(size) = refused_size(errno, message.segment) {
                    shared.stats.segmentation_refused += 1;
                    self.suspicion = Some((message.to.as_ip().map(|to| to.ip()), size));
                }
                return Ok(None);
            }
            _ => {}
        }
        if errno.0 == libc::EMSGSIZE && shared.error_queue {
            // It is in the queue as well, though nobody but this host has said so.
            shared.report(fd, errno);
        }
        let dropped = &mut shared.stats.dropped;
        let has_source = message.control.is_some();
        let (count, reason) = match errno.0 {
            libc::EMSGSIZE => {
                if queue.front().is_some_and(|chain| chain.segments() > IOV_MAX) {
                    self.collapse(shared, queue);
                    return Ok(None);
                }
                (&mut dropped.too_long, "too_long")
            }
            libc::EAGAIN => (&mut dropped.peer_full, "peer_full"),
            libc::ECONNREFUSED | libc::ENOENT | libc::ECONNRESET if is_unix => {
                (&mut dropped.peer_gone, "peer_gone")
            }
            libc::ECONNREFUSED => (&mut dropped.refused, "refused"),
            libc::EPERM | libc::EACCES => (&mut dropped.denied, "denied"),
            libc::EINVAL if has_source => (&mut dropped.bad_source, "bad_source"),
            libc::EADDRNOTAVAIL if has_source => (&mut dropped.bad_source, "bad_source"),
            libc::EINVAL | libc::EAFNOSUPPORT | libc::EPROTOTYPE | libc::EIO => {
                (&mut dropped.invalid, "invalid")
            }
            libc::EFAULT => (&mut dropped.fault, "fault"),
            libc::EDESTADDRREQ => (&mut dropped.no_destination, "no_destination"),
            libc::ENOTCONN => (&mut dropped.peer_gone, "peer_gone"),
            _ if is_report(errno) || errno.0 == libc::EADDRNOTAVAIL => {
                (&mut dropped.unreachable, "unreachable")
            }
            _ => return Err(named("sendmmsg on", &shared.name, errno.0)),
        };
        *count += 1;
        self.drop_first(queue, reason);
        Ok(None)
    }

    /// Drops the first datagram, for which no message could be planned, or makes that possible.
    fn drop_undeliverable(&mut self, shared: &mut Shared, queue: &mut Queue) {
        let Some(first) = queue.front() else { return };
        let meta = first.meta();
        let dropped = &mut shared.stats.dropped;
        match shared.kind.target(meta.source(), meta.destination()) {
            Target::Gone => {
                dropped.peer_gone += 1;
                self.drop_first(queue, "peer_gone");
            }
            Target::Nowhere => {
                dropped.no_destination += 1;
                self.drop_first(queue, "no_destination");
            }
            _ => self.collapse(shared, queue),
        }
    }

    /// Brings the first datagram into as few segments as one call takes, or drops it.
    fn collapse(&mut self, shared: &mut Shared, queue: &mut Queue) {
        let mut collapsed = false;
        queue.for_each_mut(|first| {
            collapsed = first.collapse(IOV_MAX).is_ok();
            false
        });
        if !collapsed {
            shared.stats.dropped.no_buffers += 1;
            self.drop_first(queue, "no_buffers");
        }
    }

    fn drop_first(&mut self, queue: &mut Queue, reason: &'static str) {
        if let Some(chain) = queue.pop() {
            chain.discard(reason);
        }
        self.single = self.single.saturating_sub(1);
        self.suspicion = None;
        self.retried = false;
        self.full_since = None;
    }
}

/// The message that begins with a datagram of `len` bytes.
fn start(target: &Target, len: usize) -> Planned {
    let mut control = Control::EMPTY;
    let to = match target {
        Target::Udp { to, from } => {
            if let Some((from, scope)) = from {
                control.push_source(*from, *scope);
            }
            to.as_ref().map_or(Name::NONE, Name::ip)
        }
        Target::Unix(name) => *name,
        Target::Connected | Target::Nowhere | Target::Gone => Name::NONE,
    };
    Planned { chains: 1, bytes: len, segment: 0, to, control }
}

/// From which size of datagrams on this error, to a message of several, says that no such message
/// is possible; `None` if it says something else.
fn refused_size(errno: Errno, segment: u16) -> Option<u16> {
    match errno.0 {
        // The device, or the way through it (IPsec, a missing checksum offload).
        libc::EIO | libc::ENOPROTOOPT | libc::EOPNOTSUPP => Some(0),
        // Packets of that size do not fit the path, and the kernel does not fragment segments.
        libc::EINVAL | libc::EMSGSIZE => Some(segment),
        _ => None,
    }
}
