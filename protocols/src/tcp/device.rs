//! What smoltcp takes for its network card: one packet in, a few out.

use std::collections::VecDeque;

use smoltcp::{
    phy::{self, Checksum, DeviceCapabilities, Medium},
    time::Instant,
};

/// The most packets that wait between smoltcp and the layer below.
const WAITING: usize = 64;

pub(super) struct Device {
    pub(super) mtu: usize,
    /// The packet that came.
    pub(super) incoming: Option<Vec<u8>>,
    /// Those to be sent.
    pub(super) outgoing: VecDeque<Vec<u8>>,
    /// The most of them for now.
    pub(super) room: usize,
}

impl Device {
    pub(super) fn new(mtu: usize) -> Self {
        Self { mtu, incoming: None, outgoing: VecDeque::new(), room: WAITING }
    }

    /// As many packets as there is credit for.
    pub(super) fn set_credit(&mut self, credit: usize) {
        self.room = credit.div_ceil(self.mtu).min(WAITING);
    }
}

impl phy::Device for Device {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(RxToken, TxToken<'_>)> {
        Some((RxToken(self.incoming.take()?), TxToken(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_>> {
        (self.outgoing.len() < self.room).then_some(TxToken(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // The IP header is ours, and what comes has been looked at before.
        capabilities.checksum.ipv4 = Checksum::None;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

pub(super) struct RxToken(Vec<u8>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(super) struct TxToken<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
