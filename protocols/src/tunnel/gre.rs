//! GRE (RFC 2784, RFC 2890): packets of any EtherType over IP protocol 47.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |C|R|K|S|s|    reserved     | ver |          EtherType            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      checksum, if C           |     reserved, if C            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                           key, if K                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                      sequence number, if S                    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The key of the edge above is the EtherType (0x6558 for Ethernet frames). GRE's own key, checksum
//! and sequence number are sent as configured. What comes in says by its flags what it has, and all
//! of it is checked: the checksum ([`BAD_CHECKSUM`]), the key, which must be the configured one or,
//! without one, absent ([`WRONG_KEY`]), the sequence number, which must be later than the last
//! ([`STALE`]; RFC 2890, section 2.2: nothing is reordered). Routing (R, s, bit 5) is refused as
//! [`ROUTING`], as RFC 2784 section 2.3 asks; bits 6 to 12 are not looked at.

use std::net::{IpAddr, SocketAddr};

use mbuf::{
    Address, Chain,
    chain::checksum::Sum,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{NO_REMOTE, STRANGER, VERSION, came_out};
use crate::net::prepended;

/// The checksum is wrong.
pub const BAD_CHECKSUM: DropReason = DropReason("bad_checksum");

/// It has another key than the configured one, or one where none is configured, or none.
pub const WRONG_KEY: DropReason = DropReason("wrong_key");

/// Its sequence number is not later than the last one.
pub const STALE: DropReason = DropReason("stale");

/// It has a flag of RFC 1701: source routing.
pub const ROUTING: DropReason = DropReason("routing");

const C: u16 = 0x8000;
const K: u16 = 0x2000;
const S: u16 = 0x1000;
/// Routing, strict source route, and bit 5: to be discarded (RFC 2784, section 2.3).
const REFUSED: u16 = 0x4c00;

/// The fixed part of the header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Flags and version.
    pub flags: U16,
    /// What it carries.
    pub ethertype: U16,
}

/// One end of a GRE tunnel. O(1) a packet, but for the checksum, which is O(n).
#[derive(Debug, Clone)]
pub struct Gre {
    remote: Option<IpAddr>,
    key: Option<u32>,
    checksum: bool,
    sequence: bool,
    next: u32,
    last: Option<u32>,
}

impl Gre {
    /// A tunnel to that end; what others send is refused as [`STRANGER`].
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::tunnel::Gre;
    ///
    /// assert_eq!(Gre::new("192.0.2.2".parse()?).info().max_prepend(), 4);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub const fn new(remote: IpAddr) -> Self {
        let remote = Some(remote);
        Self { remote, key: None, checksum: false, sequence: false, next: 0, last: None }
    }

    /// Sends this key (RFC 2890, section 2.1), and takes packets with it only.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// # use mbuf_protocols::tunnel::Gre;
    /// let gre = Gre::new("192.0.2.2".parse()?).key(7);
    /// assert_eq!(gre.info().max_prepend(), 8);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub const fn key(mut self, key: u32) -> Self {
        self.key = Some(key);
        self
    }

    /// Sends checksums. One that comes in is checked in any case.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// # use mbuf_protocols::tunnel::Gre;
    /// let gre = Gre::new("192.0.2.2".parse()?).checksum(true);
    /// assert_eq!(gre.info().max_prepend(), 8);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub const fn checksum(mut self, yes: bool) -> Self {
        self.checksum = yes;
        self
    }

    /// Sends sequence numbers, from 0. One that comes in is checked in any case.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// # use mbuf_protocols::tunnel::Gre;
    /// let gre = Gre::new("192.0.2.2".parse()?).key(7).checksum(true).sequence(true);
    /// assert_eq!(gre.info().max_prepend(), 16);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub const fn sequence(mut self, yes: bool) -> Self {
        self.sequence = yes;
        self
    }

    const fn header_len(&self) -> usize {
        4 + 4 * (self.checksum as usize + self.key.is_some() as usize + self.sequence as usize)
    }
}

/// The length of a header with these flags.
const fn len_of(flags: u16) -> usize {
    4 + 4 * (flags & (C | K | S)).count_ones() as usize
}

impl Protocol for Gre {
    fn name(&self) -> &str {
        "gre"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(self.header_len())
            .min_header(size_of::<Header>())
            .reasons(&[BAD_CHECKSUM, WRONG_KEY, STALE, ROUTING, VERSION, STRANGER, NO_REMOTE])
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Ok(&header) = chain.header::<Header>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        let flags = header.flags.get();
        if flags & 7 != 0 {
            return cx.drop(chain, VERSION);
        }
        if flags & REFUSED != 0 {
            return cx.drop(chain, ROUTING);
        }
        if let (Some(remote), Address::Ip(source)) = (self.remote, chain.meta().source())
            && remote != source.ip()
        {
            return cx.drop(chain, STRANGER);
        }
        let mut options = [U32::ZERO; 3];
        let len = len_of(flags);
        let words = (len - 4) / 4;
        let read = options
            .get_mut(..words)
            .is_some_and(|words| chain.peek(4, words.as_mut_bytes()).is_ok());
        if !read {
            return cx.drop(chain, DropReason::SHORT);
        }
        let mut options = options.iter();
        if flags & C != 0 {
            options.next();
            if chain.checksum(..) != Ok(0) {
                return cx.drop(chain, BAD_CHECKSUM);
            }
        }
        let key = if flags & K != 0 { options.next().map(|key| key.get()) } else { None };
        if key != self.key {
            return cx.drop(chain, WRONG_KEY);
        }
        if flags & S != 0 {
            let number = options.next().map_or(0, |number| number.get());
            // Later by less than half of all numbers.
            if self.last.is_some_and(|last| !(1..1 << 31).contains(&number.wrapping_sub(last))) {
                return cx.drop(chain, STALE);
            }
            self.last = Some(number);
        }
        if chain.trim_front(len).is_err() {
            return cx.drop(chain, DropReason::SHORT);
        }
        came_out(&mut chain, len);
        cx.up_key(header.ethertype.get().into(), chain)
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let Some(ethertype) = cx.key().and_then(|key| u16::try_from(key).ok()) else {
            return cx.drop(chain, DropReason::UNBOUND);
        };
        let Some(remote) = self.remote else {
            return cx.drop(chain, NO_REMOTE);
        };
        let mut bytes = [0; 16];
        let mut flags = 0;
        if self.checksum {
            flags |= C;
        }
        if self.key.is_some() {
            flags |= K;
        }
        if self.sequence {
            flags |= S;
        }
        let header = Header { flags: flags.into(), ethertype: ethertype.into() };
        let len = self.header_len();
        let options = [self.checksum.then_some(0), self.key, self.sequence.then_some(self.next)];
        let mut words = bytes.as_chunks_mut::<4>().0.iter_mut();
        if let Some(word) = words.next() {
            word.copy_from_slice(header.as_bytes());
        }
        for (word, option) in words.zip(options.into_iter().flatten()) {
            *word = option.to_be_bytes();
        }
        if self.checksum {
            let mut sum = Sum::new();
            sum.add(&bytes[..len]);
            if sum.add_chain(&chain, ..).is_err() {
                return cx.drop(chain, DropReason::NO_BUFFERS);
            }
            bytes[4..6].copy_from_slice(&sum.checksum().to_be_bytes());
        }
        if chain.prepend_slice(&bytes[..len]).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        if self.sequence {
            self.next = self.next.wrapping_add(1);
        }
        prepended(&mut chain, len);
        chain.meta_mut().set_source(Address::None);
        chain.meta_mut().set_destination(Address::Ip(SocketAddr::new(remote, 0)));
        cx.down(chain)
    }
}

#[cfg(test)]
mod tests {
    use mbuf::{testing, testing::Conformance};

    use super::*;
    use crate::{
        Echo,
        rig::{Inbox, PORT},
        tunnel::tests::{from, rig},
    };

    fn end() -> Gre {
        Gre::new("192.0.2.2".parse().unwrap())
    }

    fn full() -> Gre {
        end().key(7).checksum(true).sequence(true)
    }

    /// A header with key 7, a sequence number and a checksum that fits.
    fn packet(sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xb0, 0, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(payload);
        let sum = mbuf::chain::checksum::of(&bytes);
        bytes[4..6].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn a_plain_packet_is_parsed_and_built_again() {
        let mut rig = rig(end(), Some(0x6558), Box::new(Echo::new()));
        let bytes = [&[0, 0, 0x65, 0x58][..], b"a frame"].concat();
        let mut chain = from(&rig, "192.0.2.2:0", &bytes);
        chain.meta_mut().set_transport_offset(34);
        rig.feed_chain(chain);
        let answer = rig.stack.poll_output(PORT).pop().unwrap();
        assert_eq!(answer.to_vec().unwrap(), bytes);
        assert_eq!(answer.meta().destination(), Address::Ip("192.0.2.2:0".parse().unwrap()));
        assert_eq!((answer.meta().source(), answer.meta().network_offset()), (Address::None, 38));
        drop(answer);
        rig.finish();
    }

    #[test]
    fn key_checksum_and_sequence_are_built_as_they_are_parsed() {
        let mut rig = rig(full(), Some(0x0800), Box::new(Echo::new()));
        for n in 0..3 {
            rig.feed(&packet(n, b"odd"));
            assert_eq!(rig.sent(), [packet(n, b"odd")]);
        }
        rig.feed_chain(testing::bytewise(&rig.pool, &packet(3, b"odd")).unwrap());
        assert_eq!(rig.sent(), [packet(3, b"odd")]);
        rig.finish();
    }

    #[test]
    fn what_is_wrong_is_dropped_for_its_reason() {
        let inbox = Inbox::default();
        let mut rig = rig(full(), Some(0x0800), inbox.layer());
        let good = packet(0, b"x");
        let chain = from(&rig, "192.0.2.3:0", &good);
        rig.feed_chain(chain);
        rig.feed(&good[..15]);
        let change = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        rig.feed(&change(1, 1));
        rig.feed(&change(0, 0xf0));
        rig.feed(&change(0, 0xb4));
        rig.feed(&change(16, b'y'));
        rig.feed(&[0, 0, 8, 0, 1]);
        rig.feed(&[0x20, 0, 8, 0, 0, 0, 0, 8, 1]);
        assert_eq!(inbox.len(), 0);
        let counts = [
            (STRANGER, 1),
            (DropReason::SHORT, 1),
            (VERSION, 1),
            (ROUTING, 2),
            (BAD_CHECKSUM, 1),
            (WRONG_KEY, 2),
        ];
        for (reason, n) in counts {
            assert_eq!(rig.drops("gre", reason), n, "{reason}");
        }
        // Bits 6 to 12 are not looked at.
        rig.feed(&[0x23, 0xf8, 8, 0, 0, 0, 0, 7, b'z']);
        assert_eq!(inbox.take(), [b"z"]);
        rig.finish();
    }

    #[test]
    fn only_a_later_sequence_number_is_taken() {
        let inbox = Inbox::default();
        let mut rig = rig(full(), Some(0x0800), inbox.layer());
        for n in [u32::MAX - 1, u32::MAX, u32::MAX, 0, u32::MAX, 5, 4] {
            rig.feed(&packet(n, b"x"));
        }
        assert_eq!((inbox.len(), rig.drops("gre", STALE)), (4, 3));
        rig.finish();
    }

    #[test]
    fn conforms() {
        let end = || Gre::new("192.0.2.1".parse().unwrap());
        let wire = vec![[&[0, 0, 8, 0][..], b"hello"].concat(), vec![0x40, 0, 8, 0]];
        Conformance::new("gre", || Box::new(end()) as _)
            .key(0x0800)
            .wire(wire)
            .messages(vec![vec![7; 20], vec![8; 1400]])
            .run();
        Conformance::new("gre with a key", || Box::new(end().key(7).checksum(true)) as _)
            .key(0x0800)
            .wire(vec![packet(0, b"hello")])
            .messages(vec![vec![9; 20], vec![8; 1400]])
            .run();
    }
}
