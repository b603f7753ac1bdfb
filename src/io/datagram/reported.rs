//! Errors that the network reports back, of datagrams that were sent before.

use crate::io::{error::name, sys::Errno};

/// What ICMP and the kernel make of what was sent earlier (icmp_err_convert in net/ipv4/icmp.c,
/// and its like for IPv6).
const ERRORS: [i32; 12] = [
    libc::ECONNREFUSED,
    libc::ECONNRESET,
    libc::EHOSTUNREACH,
    libc::EHOSTDOWN,
    libc::ENETUNREACH,
    libc::ENETDOWN,
    libc::ENONET,
    libc::ENOPROTOOPT,
    libc::EPROTO,
    libc::EMSGSIZE,
    libc::EACCES,
    libc::EOPNOTSUPP,
];

/// Errors of earlier sends that the network reported back (ICMP), by the system's name.
///
/// Without [`DatagramOptions::reports`](crate::io::DatagramOptions::reports) only a connected socket
/// is told, and the kernel keeps one error at a time for it, so there may have been more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reported([u64; ERRORS.len()]);

impl Reported {
    /// All of them.
    ///
    /// ```
    /// assert_eq!(mbuf::io::DatagramStats::default().reported.total(), 0);
    /// ```
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// How often that error was reported, by its name: `ECONNREFUSED` where nobody listens.
    ///
    /// ```
    /// assert_eq!(mbuf::io::DatagramStats::default().reported.of("ECONNREFUSED"), 0);
    /// ```
    pub fn of(&self, name: &str) -> u64 {
        self.rows().find(|row| row.0 == name).map_or(0, |row| row.1)
    }

    /// Names and counts, in a fixed order.
    ///
    /// ```
    /// let stats = mbuf::io::DatagramStats::default();
    /// assert!(stats.reported.rows().all(|(name, count)| name.starts_with('E') && count == 0));
    /// ```
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = ERRORS.iter().map(|&errno| name(errno).unwrap_or("unknown_errno"));
        names.zip(self.0)
    }

    /// Counts an error for which [`is_report`] holds.
    pub(super) fn add(&mut self, errno: Errno) {
        if let Some(at) = ERRORS.iter().position(|&error| error == errno.0) {
            self.0[at] += 1;
        }
    }
}

/// Whether an error is what the network reported about an earlier send.
pub(super) fn is_report(errno: Errno) -> bool {
    ERRORS.contains(&errno.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_name_and_a_count_of_its_own() {
        let mut reported = Reported::default();
        for (n, errno) in (1..).zip(ERRORS) {
            assert!(is_report(Errno(errno)));
            (0..n).for_each(|_| reported.add(Errno(errno)));
        }
        assert!(!is_report(Errno(libc::EBADF)));
        reported.add(Errno(libc::EBADF));
        assert_eq!(reported.total(), (1..=12).sum::<u64>());
        for (n, (name, count)) in (1..).zip(reported.rows()) {
            assert_eq!((count, reported.of(name)), (n, n), "{name}");
            assert_ne!(name, "unknown_errno");
        }
        assert_eq!((reported.of("ECONNREFUSED"), reported.of("EMSGSIZE")), (1, 10));
        assert_eq!(reported.of("EBADF"), 0);
    }
}
