//! What a queue of a TUN or TAP counts.

use std::fmt;

/// What a queue has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TunTapStats {
    /// Packets received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Calls of readv(2) that brought something.
    pub receive_calls: u64,
    /// Received packets that stand for several (TSO, USO).
    pub joined: u64,
    /// Received packets of which a part was copied out of a large cluster into a small one.
    pub copied: u64,
    /// Received packets that were longer than the MTU allows, and were dropped.
    pub truncated: u64,
    /// Received packets that were dropped because the pool could not hold such long ones if all of
    /// it were free.
    pub receive_too_long: u64,
    /// Packets sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Sent packets that stand for several.
    pub segmented: u64,
    /// Partial checksums that were filled in here.
    pub completed: u64,
    /// Times that the system had no memory for a send (ENOBUFS, ENOMEM).
    pub starved: u64,
    /// Packets that were not sent, by reason.
    pub dropped: TunTapDropped,
}

impl TunTapStats {
    /// The packets that are lost to this queue, received ones and those not sent, by reason: what a
    /// reactor counts among its drops. (What the kernel dropped because the queue was not read is
    /// in its own statistics of the interface, as `TX dropped`.)
    ///
    /// ```
    /// let stats = mbuf::io::TunTapStats::default();
    /// assert!(stats.lost().any(|(reason, count)| reason == "receive_truncated" && count == 0));
    /// ```
    pub fn lost(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let received =
            [("receive_truncated", self.truncated), ("receive_too_long", self.receive_too_long)];
        received.into_iter().chain(self.dropped.rows())
    }
}

/// Packets that a queue did not send, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TunTapDropped {
    /// The interface is down (EIO).
    pub down: u64,
    /// The kernel does not take it for a packet (EINVAL): too short for an Ethernet header, not IP on
    /// a TUN, or with metadata that does not fit.
    pub invalid: u64,
    /// Longer than any IP packet.
    pub too_long: u64,
    /// It stands for several packets, and the device or the kernel does not cut them.
    pub not_offloaded: u64,
    /// Its checksum is to be filled in, and no checksum is known where its metadata says.
    pub no_checksum_field: u64,
    /// The pool had no buffers to fill in a checksum in shared bytes, or to bring a chain of more
    /// than IOV_MAX segments into fewer.
    pub no_buffers: u64,
    /// A mapped file in it was cut short (EFAULT).
    pub fault: u64,
    /// The device took a part of it only.
    pub cut: u64,
}

impl TunTapDropped {
    /// All of them.
    ///
    /// ```
    /// let dropped = mbuf::io::TunTapStats::default().dropped;
    /// assert_eq!(dropped.total(), 0);
    /// ```
    pub fn total(&self) -> u64 {
        self.rows().iter().map(|(_, count)| count).sum()
    }

    /// Reasons and counts, in a fixed order.
    ///
    /// ```
    /// let dropped = mbuf::io::TunTapStats::default().dropped;
    /// assert!(dropped.rows().iter().all(|&(_, count)| count == 0));
    /// ```
    pub fn rows(&self) -> [(&'static str, u64); 8] {
        [
            ("down", self.down),
            ("invalid", self.invalid),
            ("too_long", self.too_long),
            ("not_offloaded", self.not_offloaded),
            ("no_checksum_field", self.no_checksum_field),
            ("no_buffers", self.no_buffers),
            ("fault", self.fault),
            ("cut", self.cut),
        ]
    }
}

impl fmt::Display for TunTapDropped {
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

impl fmt::Display for TunTapStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "received {} packets, {} bytes in {} calls ({} stand for several, {} copied, {} \
             truncated, {} too long for the pool)",
            self.received,
            self.received_bytes,
            self.receive_calls,
            self.joined,
            self.copied,
            self.truncated,
            self.receive_too_long,
        )?;
        write!(
            f,
            "sent {} packets, {} bytes ({} stand for several, {} checksums filled in, {} times no \
             memory), {}",
            self.sent, self.sent_bytes, self.segmented, self.completed, self.starved, self.dropped,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasons_are_shown_where_they_count() {
        let dropped = TunTapDropped { down: 2, cut: 1, ..TunTapDropped::default() };
        assert_eq!(dropped.to_string(), "3 dropped (down 2, cut 1)");
        assert_eq!(TunTapDropped::default().to_string(), "0 dropped");
        let stats = TunTapStats { dropped, truncated: 4, ..TunTapStats::default() };
        assert_eq!(stats.lost().map(|(_, count)| count).sum::<u64>(), 7);
        assert!(stats.to_string().contains("4 truncated"));
    }
}
