//! What a datagram socket counts.

use std::fmt;

use super::Reported;

/// What a datagram socket has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DatagramStats {
    /// Datagrams received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Calls of recvmmsg(2) that brought something.
    pub receive_calls: u64,
    /// Received messages that were several datagrams (UDP_GRO).
    pub joined: u64,
    /// Received datagrams that were copied out of a 64 KiB cluster into a small one.
    pub copied: u64,
    /// Received datagrams that were longer than their buffer, and were dropped.
    pub truncated: u64,
    /// Datagrams that the kernel dropped before they were received (SO_MEMINFO): mostly because the
    /// socket's receive buffer was full, but also those that were damaged. A run that it had joined
    /// counts as one; after 2^32 it begins again.
    pub overflowed: u64,
    /// Received datagrams that were dropped because the pool could not hold them if all of it were
    /// free, or not the run that the kernel had joined them to.
    pub receive_too_long: u64,
    /// Received datagrams that were dropped because the pool had no buffer to complete them.
    pub receive_no_buffers: u64,
    /// Errors of earlier sends that the network reported back (ICMP), told by a receive or a send.
    pub reported: Reported,
    /// Datagrams sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Calls of sendmmsg(2) that took something.
    pub send_calls: u64,
    /// Sent messages that were several datagrams (UDP_SEGMENT).
    pub segmented: u64,
    /// Runs of datagrams that the kernel refused as one message, and that were sent singly.
    pub segmentation_refused: u64,
    /// Times that the system had no memory for a send (ENOBUFS, ENOMEM).
    pub starved: u64,
    /// Datagrams that were not sent, by reason.
    pub dropped: Dropped,
}

impl DatagramStats {
    /// The datagrams that are lost to this host, received ones and those not sent, by reason: what
    /// a reactor counts among its drops. The reasons of received ones begin with `receive_`.
    ///
    /// ```
    /// let stats = mbuf::io::DatagramStats::default();
    /// assert!(stats.lost().any(|(reason, count)| reason == "receive_overflow" && count == 0));
    /// ```
    pub fn lost(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let received = [
            ("receive_overflow", self.overflowed),
            ("receive_truncated", self.truncated),
            ("receive_too_long", self.receive_too_long),
            ("receive_no_buffers", self.receive_no_buffers),
        ];
        received.into_iter().chain(self.dropped.rows())
    }
}

/// Datagrams that a socket did not send, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Dropped {
    /// Longer than the protocol or the path allows (EMSGSIZE), as 65,507 bytes for UDP over IPv4.
    pub too_long: u64,
    /// The peer's host said that nobody listens (ECONNREFUSED).
    pub refused: u64,
    /// No way there (ENETUNREACH, EHOSTUNREACH and the like), or none from the source address.
    pub unreachable: u64,
    /// Not allowed, by the firewall above all (EPERM, EACCES).
    pub denied: u64,
    /// The chain's metadata names no destination, or one of another kind than the socket's.
    pub no_destination: u64,
    /// The kernel refuses the source address (EINVAL with IP_PKTINFO).
    pub bad_source: u64,
    /// The destination is one that the kernel does not accept (EINVAL).
    pub invalid: u64,
    /// The Unix peer is gone, or its entry in the table was given to another.
    pub peer_gone: u64,
    /// The Unix peer did not read for so long that the datagram was given up.
    pub peer_full: u64,
    /// The pool had no buffers to bring a chain of more than IOV_MAX segments into fewer.
    pub no_buffers: u64,
    /// A mapped file in it was cut short (EFAULT).
    pub fault: u64,
}

impl Dropped {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.rows().iter().map(|(_, count)| count).sum()
    }

    /// Reasons and counts, in a fixed order.
    pub fn rows(&self) -> [(&'static str, u64); 11] {
        [
            ("too_long", self.too_long),
            ("refused", self.refused),
            ("unreachable", self.unreachable),
            ("denied", self.denied),
            ("no_destination", self.no_destination),
            ("bad_source", self.bad_source),
            ("invalid", self.invalid),
            ("peer_gone", self.peer_gone),
            ("peer_full", self.peer_full),
            ("no_buffers", self.no_buffers),
            ("fault", self.fault),
        ]
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dropped", self.total())?;
        let mut before = " (";
        for (reason, count) in self.rows().into_iter().filter(|&(_, count)| count > 0) {
            write!(f, "{before}{reason} {count}")?;
            before = ", ";
        }
        if before == ", " { f.write_str(")") } else { Ok(()) }
    }
}

impl fmt::Display for DatagramStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "received {} datagrams, {} bytes in {} calls ({} messages joined, {} datagrams copied, \
             {} truncated, {} overflowed, {} too long for the pool, {} without buffers)",
            self.received,
            self.received_bytes,
            self.receive_calls,
            self.joined,
            self.copied,
            self.truncated,
            self.overflowed,
            self.receive_too_long,
            self.receive_no_buffers,
        )?;
        write!(
            f,
            "sent {} datagrams, {} bytes in {} calls ({} messages segmented, {} refused, {} times \
             no memory), {} errors reported, {}",
            self.sent,
            self.sent_bytes,
            self.send_calls,
            self.segmented,
            self.segmentation_refused,
            self.starved,
            self.reported.total(),
            self.dropped,
        )
    }
}
