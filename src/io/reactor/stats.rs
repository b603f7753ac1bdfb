//! What a reactor counts.

use std::{fmt, io, ops::Index};

use crate::{
    io::{errno, error},
    stack::{DropReason, StackStats},
};

/// Why a session ended, or a connection was refused. Compared by name.
///
/// Beside the constants there are the names of the system's errors (`ECONNRESET`) and those of the
/// reasons for which stacks abort ([`DropReason`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseReason(pub &'static str);

impl CloseReason {
    /// Both sides had sent all they wanted to.
    pub const FINISHED: CloseReason = CloseReason("finished");
    /// No byte moved for too long; see [`idle_timeout`](super::ReactorBuilder::idle_timeout).
    pub const IDLE: CloseReason = CloseReason("idle");
    /// Too few bytes moved; see [`min_progress`](super::ReactorBuilder::min_progress).
    pub const SLOW: CloseReason = CloseReason("slow");
    /// Its stack held more storage than a session may; see [`quota`](super::ReactorBuilder::quota).
    pub const QUOTA: CloseReason = CloseReason("quota");
    /// It held most storage when the pool had stopped all reading.
    pub const MEMORY: CloseReason = CloseReason("memory");
    /// The program was shutting down and the session had finished.
    pub const SHUTDOWN: CloseReason = CloseReason("shutdown");
    /// The program was shutting down and the session had not finished within the grace period.
    pub const GRACE_OVER: CloseReason = CloseReason("grace_over");
    /// The connection was over the limit and was refused.
    pub const CONNECTION_LIMIT: CloseReason = CloseReason("connection_limit");
    /// The factory made no stack for it.
    pub const FACTORY: CloseReason = CloseReason("factory");
    /// The program closed it through [`Reactor::close`](super::Reactor::close).
    pub const CLOSED: CloseReason = CloseReason("closed");

    /// The name of a system's error, or of its kind where it has no number.
    pub(super) fn of_error(cause: &io::Error) -> CloseReason {
        match (errno(cause), cause.kind()) {
            (Some(number), _) => CloseReason(error::name(number).unwrap_or("unknown_errno")),
            (None, io::ErrorKind::UnexpectedEof) => CloseReason("unexpected_eof"),
            (None, io::ErrorKind::OutOfMemory) => CloseReason("no_buffers"),
            (None, _) => CloseReason("io_error"),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// Counts by name, in the order in which the names first came up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally(Vec<(&'static str, u64)>);

impl Tally {
    /// How often the name came up.
    pub fn of(&self, name: &str) -> u64 {
        self.0.iter().find(|(n, _)| *n == name).map_or(0, |&(_, count)| count)
    }

    /// Names and counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().copied()
    }

    /// The sum of all counts.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|&(_, count)| count).sum()
    }

    pub(super) fn add(&mut self, name: &'static str, count: u64) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((name, count)),
        }
    }
}

impl Index<CloseReason> for Tally {
    type Output = u64;

    fn index(&self, reason: CloseReason) -> &u64 {
        self.0.iter().find(|(n, _)| *n == reason.0).map_or(&0, |(_, count)| count)
    }
}

impl Index<DropReason> for Tally {
    type Output = u64;

    fn index(&self, reason: DropReason) -> &u64 {
        self.0.iter().find(|(n, _)| *n == reason.0).map_or(&0, |(_, count)| count)
    }
}

/// What ports have lost, and what was reported to them: see [`Port::count`](super::Port::count).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortCounts {
    pub(super) drops: Tally,
    pub(super) reported: Tally,
}

impl PortCounts {
    /// So many packets were lost, for this reason.
    ///
    /// ```
    /// use mbuf::io::reactor::PortCounts;
    ///
    /// /// A device, which loses what finds its ring full.
    /// struct Device { ring_full: u64 }
    ///
    /// impl Device {
    ///     fn count(&self, counts: &mut PortCounts) {
    ///         counts.dropped("ring_full", self.ring_full);
    ///     }
    /// }
    /// # let mut counts = PortCounts::default();
    /// # Device { ring_full: 3 }.count(&mut counts);
    /// # assert!(format!("{counts:?}").contains(r#"("ring_full", 3)"#));
    /// ```
    pub fn dropped(&mut self, reason: &'static str, packets: u64) {
        if packets > 0 {
            self.drops.add(reason, packets);
        }
    }

    /// So many errors of this name (`ECONNREFUSED`) were reported, of what was sent earlier.
    ///
    /// ```
    /// let mut counts = mbuf::io::reactor::PortCounts::default();
    /// counts.reported("EHOSTUNREACH", 0);
    /// assert_eq!(counts, Default::default());
    /// ```
    pub fn reported(&mut self, name: &'static str, errors: u64) {
        if errors > 0 {
            self.reported.add(name, errors);
        }
    }
}

/// The counters that the turn keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Counters {
    pub accepted: u64,
    pub connected: u64,
    pub closed: Tally,
    pub refused: Tally,
    pub accept_errors: Tally,
    pub drops: Tally,
    /// Of the ports that are closed.
    pub ports: PortCounts,
    pub chains_in: u64,
    pub chains_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub recv_calls: u64,
    pub send_calls: u64,
    pub polls: u64,
    pub sleeps: u64,
    pub starved: u64,
    pub drains: u64,
}

impl Counters {
    /// Adds the drops of a stack that ends, or of one that is looked at.
    pub fn add_drops(&mut self, stack: &StackStats) {
        let layers = stack.layers.iter().map(|layer| &layer.drops);
        let ports = stack.ports.iter().map(|port| &port.drops);
        for &(reason, count) in layers.chain(ports).flatten() {
            if count > 0 {
                self.drops.add(reason.0, count);
            }
        }
    }
}

/// A reactor's counters, since it was built.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReactorStats {
    /// Sessions that are open now, connecting ones and those that linger included.
    pub open: usize,
    /// Connections accepted and given a stack.
    pub accepted: u64,
    /// Connections made by `connect_tcp` and `connect_unix`.
    pub connected: u64,
    /// Sessions that ended, by [`CloseReason`].
    pub closed: Tally,
    /// Connections that were accepted and closed at once, by [`CloseReason`].
    pub refused: Tally,
    /// Calls of accept(2) that failed, by the system's name of the error.
    pub accept_errors: Tally,
    /// What was lost: chains that the layers and ports of all stacks, ended ones included, have
    /// dropped, by [`DropReason`], and datagrams that sockets have lost, by the reasons of
    /// [`DatagramStats::lost`](crate::io::DatagramStats::lost).
    pub drops: Tally,
    /// Errors that the network has reported to datagram sockets, of what they had sent earlier, by
    /// the system's name: `ECONNREFUSED` where nobody listens.
    pub reported: Tally,
    /// Chains received: datagrams, or reads of a stream.
    pub chains_in: u64,
    /// Chains sent to the end.
    pub chains_out: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Calls of [`Source::recv`](crate::io::Source::recv): one system call each, or none where the
    /// pool refused; a datagram source may take several.
    pub recv_calls: u64,
    /// Calls of [`Sink::send`](crate::io::Sink::send): one system call each, or more where there
    /// was much to send.
    pub send_calls: u64,
    /// Calls of epoll_wait(2).
    pub polls: u64,
    /// Calls of epoll_wait(2) that were ready to sleep.
    pub sleeps: u64,
    /// Reads that the pool refused.
    pub starved: u64,
    /// Times that the stacks were told to give memory back (`Signal::Drain`).
    pub drains: u64,
}

impl ReactorStats {
    pub(super) fn new(counters: Counters, open: usize) -> Self {
        let Counters { accepted, connected, closed, refused, accept_errors, .. } = counters;
        let (mut drops, ports) = (counters.drops, counters.ports);
        ports.drops.iter().for_each(|(reason, count)| drops.add(reason, count));
        Self {
            open,
            accepted,
            connected,
            closed,
            refused,
            accept_errors,
            drops,
            reported: ports.reported,
            chains_in: counters.chains_in,
            chains_out: counters.chains_out,
            bytes_in: counters.bytes_in,
            bytes_out: counters.bytes_out,
            recv_calls: counters.recv_calls,
            send_calls: counters.send_calls,
            polls: counters.polls,
            sleeps: counters.sleeps,
            starved: counters.starved,
            drains: counters.drains,
        }
    }
}

impl fmt::Display for ReactorStats {
    /// A table: one line for each group of counters; tallies only where something was counted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "sessions  {:>12} open {:>14} accepted {:>11} connected",
            self.open, self.accepted, self.connected
        )?;
        writeln!(f, "in        {:>12} chains {:>12} bytes", self.chains_in, self.bytes_in)?;
        writeln!(f, "out       {:>12} chains {:>12} bytes", self.chains_out, self.bytes_out)?;
        writeln!(
            f,
            "calls     {:>12} recv {:>14} send {:>16} poll {:>10} sleep",
            self.recv_calls, self.send_calls, self.polls, self.sleeps
        )?;
        write!(f, "memory    {:>12} reads refused {:>5} drains", self.starved, self.drains)?;
        let tallies = [
            ("closed", &self.closed),
            ("refused", &self.refused),
            ("accept", &self.accept_errors),
            ("dropped", &self.drops),
            ("reported", &self.reported),
        ];
        for (name, tally) in tallies {
            for (reason, count) in tally.iter() {
                write!(f, "\n{name:<9} {count:>12} {reason}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_by_name_and_prints() {
        let mut counters = Counters::default();
        counters.closed.add("idle", 2);
        counters.closed.add("ECONNRESET", 1);
        counters.closed.add("idle", 1);
        counters.drops.add("no_buffers", 1);
        counters.ports.dropped("no_buffers", 2);
        counters.ports.dropped("fault", 0);
        counters.ports.reported("ECONNREFUSED", 5);
        let stats = ReactorStats::new(counters, 4);
        assert_eq!(stats.closed[CloseReason::IDLE], 3);
        assert_eq!(stats.closed.of("ECONNRESET"), 1);
        assert_eq!(stats.closed[CloseReason::MEMORY], 0);
        assert_eq!(stats.closed.total(), 4);
        let text = stats.to_string();
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 5 + 4, "{text}");
        assert_eq!(rows[0], ["sessions", "4", "open", "0", "accepted", "0", "connected"]);
        assert_eq!(rows[5..7], [["closed", "3", "idle"], ["closed", "1", "ECONNRESET"]]);
        assert_eq!(rows[7..], [["dropped", "3", "no_buffers"], ["reported", "5", "ECONNREFUSED"]]);
    }
}
