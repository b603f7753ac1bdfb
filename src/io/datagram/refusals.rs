//! Hosts to which the kernel would not send runs of datagrams as one message.

use std::net::IpAddr;

/// How many hosts are remembered. When there are more, the oldest is forgotten, and found out again
/// at the cost of one refused call.
const HOSTS: usize = 64;

/// For each host the smallest size of datagrams of which a run was refused.
///
/// A device that cannot segment at all refuses every size (EIO); a path whose packets are smaller
/// than the datagrams refuses those (EMSGSIZE, EINVAL), but not smaller ones.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    hosts: Vec<(Option<IpAddr>, u16)>,
    oldest: usize,
}

impl Refusals {
    /// Whether runs of datagrams of this size may be tried. `None` is the peer of a connected
    /// socket.
    pub(super) fn allow(&self, host: Option<IpAddr>, size: u16) -> bool {
        self.hosts.iter().all(|&(refused, from)| refused != host || size < from)
    }

    /// Remembers that runs of datagrams of this size and above are refused.
    pub(super) fn add(&mut self, host: Option<IpAddr>, size: u16) {
        if let Some((_, from)) = self.hosts.iter_mut().find(|(refused, _)| *refused == host) {
            *from = size.min(*from);
        } else if self.hosts.len() < HOSTS {
            self.hosts.push((host, size));
        } else {
            self.hosts[self.oldest] = (host, size);
            self.oldest = (self.oldest + 1) % HOSTS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_holds_for_the_host_and_for_its_size_and_above() {
        let mut refusals = Refusals::default();
        let host = |n: u32| Some(IpAddr::V4(n.into()));
        assert!(refusals.allow(host(1), u16::MAX));
        refusals.add(host(1), 1_473);
        assert!(refusals.allow(host(1), 1_472) && !refusals.allow(host(1), 1_473));
        assert!(refusals.allow(host(2), 9_000) && refusals.allow(None, 9_000));
        refusals.add(host(1), 9_000);
        assert!(!refusals.allow(host(1), 1_473), "a larger size does not lift a smaller one");
        refusals.add(host(1), 0);
        assert!(!refusals.allow(host(1), 1));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut refusals = Refusals::default();
        let host = |n: u32| Some(IpAddr::V4(n.into()));
        for n in 0..1_000 {
            refusals.add(host(n), 0);
        }
        assert_eq!(refusals.hosts.len(), HOSTS);
        assert!(!refusals.allow(host(999), 1) && !refusals.allow(host(1_000 - HOSTS as u32), 1));
        assert!(refusals.allow(host(0), 1));
    }
}
