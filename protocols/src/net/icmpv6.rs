//! ICMPv6 (RFC 4443): echo, and errors.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     type      |     code      |           checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  echo: identifier and sequence; errors: MTU, pointer, or 0    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  echo: data;  errors: as much of the packet as fits 1,280 bytes
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! An echo request is answered by the chain that brought it. A chain that comes with [`Trouble`]
//! set, its headers restored, becomes the data of an error message to its sender, of at most 1,280
//! bytes in all. There is none about an ICMPv6 error, a fragment other than the first, a packet from
//! nobody or to many, except for an option that asks for it ([`NO_ERROR_ABOUT`]; RFC 4443, 2.4), and
//! not more than the [`rate`](Icmpv6::rate) allows ([`RATE_LIMITED`]).
//!
//! Errors that come are checked (they must quote a packet) and counted as consumed. Neighbour
//! discovery is [`Nd`](super::Nd)'s, below IPv6.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use mbuf::{
    Address, Chain,
    meta::Offload,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

pub use super::icmp::{NO_ERROR_ABOUT, RATE_LIMITED, UNKNOWN_TYPE};
use super::{
    Trouble, bucket::Bucket, ipv4::BAD_CHECKSUM, ipv6::upper_layer, protocol, pseudo_header_v6,
};

const UNREACHABLE: u8 = 1;
const PACKET_TOO_BIG: u8 = 2;
const TIME_EXCEEDED: u8 = 3;
const PARAMETER_PROBLEM: u8 = 4;
const ECHO: u8 = 128;
const ECHO_REPLY: u8 = 129;

const HEADER: usize = size_of::<Header>();
const IP_HEADER: usize = 40;
/// What an error may quote, so that it is 1,280 bytes with both headers.
const QUOTE: usize = 1280 - IP_HEADER - HEADER;

/// The header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// What it is; errors are below 128.
    pub kind: u8,
    /// Which of its kind.
    pub code: u8,
    /// Over pseudo header, header and data.
    pub checksum: U16,
    /// Identifier and sequence number of an echo; MTU or pointer of an error.
    pub argument: U32,
}

/// The ICMPv6 of a host. Bind it to IPv6 by [`protocol::ICMPV6`].
#[derive(Debug, Clone)]
pub struct Icmpv6 {
    errors: Bucket,
}

impl Icmpv6 {
    /// Answers echoes, and sends at most ten errors at once and one each 10 ms.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::net::Icmpv6;
    ///
    /// assert_eq!(Icmpv6::new().name(), "icmpv6");
    /// ```
    pub const fn new() -> Self {
        Self { errors: Bucket::new(10, Duration::from_millis(10)) }
    }

    /// At most `burst` errors at once, and one each `every` (a bucket of tokens; RFC 4443, 2.4 f).
    ///
    /// ```
    /// use std::time::Duration;
    /// use mbuf_protocols::net::Icmpv6;
    ///
    /// let icmp = Icmpv6::new().rate(1, Duration::from_secs(1));
    /// assert!(format!("{icmp:?}").contains("burst: 1"));
    /// ```
    pub const fn rate(mut self, burst: u32, every: Duration) -> Self {
        self.errors = Bucket::new(burst, every);
        self
    }

    /// Makes the error message of a packet that came back with its headers.
    #[cold]
    fn error(&mut self, mut chain: Chain, trouble: Trouble, cx: &mut Context<'_>) -> Outcome {
        if !deserves_an_error(&chain, trouble) {
            return cx.drop(chain, NO_ERROR_ABOUT);
        }
        if !self.errors.take(cx.now()) {
            return cx.drop(chain, RATE_LIMITED);
        }
        if chain.len() > QUOTE && chain.truncate(QUOTE).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        let (kind, code) = kind_and_code(trouble);
        let argument = match kind {
            PACKET_TOO_BIG | PARAMETER_PROBLEM => u32::from(trouble.argument()),
            _ => 0,
        };
        let header = Header { kind, code, checksum: 0.into(), argument: argument.into() };
        cx.set_slot(&mut chain, Trouble::NONE);
        let (to, from) = (ip(chain.meta().source()), ip(chain.meta().destination()));
        match (chain.push(&header), from, to) {
            (Ok(()), Some(from), Some(to)) if fill_checksum(&mut chain, from, to) => {}
            _ => return cx.drop(chain, DropReason::NO_BUFFERS),
        }
        reset(&mut chain);
        cx.reply(chain)
    }
}

impl Default for Icmpv6 {
    fn default() -> Self {
        Self::new()
    }
}

impl Protocol for Icmpv6 {
    fn name(&self) -> &str {
        "icmpv6"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .prepends(HEADER)
            .min_header(HEADER)
            .shared_slot::<Trouble>()
            .reasons(&[BAD_CHECKSUM, NO_ERROR_ABOUT, RATE_LIMITED, UNKNOWN_TYPE])
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let trouble = cx.slot::<Trouble>(&chain);
        if !trouble.is_none() {
            return self.error(chain, trouble, cx);
        }
        let (Some(source), Some(destination)) =
            (ip(chain.meta().source()), ip(chain.meta().destination()))
        else {
            return cx.drop(chain, DropReason::MALFORMED);
        };
        let verified = Offload::CHECKSUM_VERIFIED | Offload::CHECKSUM_PARTIAL;
        if !chain.meta().offload().intersects(verified)
            && sum(&chain, source, destination) != Some(0)
        {
            return cx.drop(chain, BAD_CHECKSUM);
        }
        let Ok(&header) = chain.header::<Header>() else {
            return cx.drop(chain, DropReason::SHORT);
        };
        match header.kind {
            ECHO if header.code == 0 => {
                let Ok(answer) = chain.header_mut::<Header>() else {
                    return cx.drop(chain, DropReason::NO_BUFFERS);
                };
                answer.kind = ECHO_REPLY;
                answer.checksum = 0.into();
                reset(&mut chain);
                if !fill_checksum(&mut chain, destination, source) {
                    return cx.drop(chain, DropReason::NO_BUFFERS);
                }
                cx.reply(chain)
            }
            ECHO_REPLY if header.code == 0 => cx.consumed(chain),
            UNREACHABLE..=PARAMETER_PROBLEM => {
                let mut quoted = [0; 1];
                let whole = chain.len() >= HEADER + IP_HEADER;
                match chain.peek(HEADER, &mut quoted) {
                    Ok(()) if whole && quoted[0] >> 4 == 6 => cx.consumed(chain),
                    _ => cx.drop(chain, DropReason::MALFORMED),
                }
            }
            _ => cx.drop(chain, UNKNOWN_TYPE),
        }
    }

    /// What a layer above sends (a `ping`) goes down as it is: it brings its own header.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.down(chain)
    }
}

/// The checksum of an ICMPv6 message, which is 0 over one that is right. O(n).
pub(super) fn sum(chain: &Chain, source: Ipv6Addr, destination: Ipv6Addr) -> Option<u16> {
    let len = u32::try_from(chain.len()).ok()?;
    let mut sum = pseudo_header_v6(source, destination, protocol::ICMPV6, len);
    sum.add_chain(chain, ..).ok()?;
    Some(sum.checksum())
}

/// Fills in the checksum, which is 0 so far.
fn fill_checksum(chain: &mut Chain, source: Ipv6Addr, destination: Ipv6Addr) -> bool {
    sum(chain, source, destination)
        .is_some_and(|sum| chain.copy_back(2, &sum.to_be_bytes()).is_ok())
}

/// What the device said of the packet that came does not hold for the one that goes.
fn reset(chain: &mut Chain) {
    chain.meta_mut().set_offload(Offload::empty());
    chain.meta_mut().set_segment_size(0);
}

fn ip(address: Address) -> Option<Ipv6Addr> {
    match address {
        Address::Ip(SocketAddr::V6(v6)) => Some(*v6.ip()),
        _ => None,
    }
}

fn kind_and_code(trouble: Trouble) -> (u8, u8) {
    match (trouble.kind(), trouble.code()) {
        (Trouble::TIME_EXCEEDED, code) => (TIME_EXCEEDED, code),
        (Trouble::TOO_BIG, _) => (PACKET_TOO_BIG, 0),
        (Trouble::PARAMETER, code) => (PARAMETER_PROBLEM, code),
        _ => match trouble {
            Trouble::PORT_UNREACHABLE => (UNREACHABLE, 4),
            // A protocol that is not known is a next header that is not known.
            Trouble::PROTOCOL_UNREACHABLE => (PARAMETER_PROBLEM, 1),
            Trouble::PROHIBITED => (UNREACHABLE, 1),
            _ => (UNREACHABLE, 3),
        },
    }
}

/// RFC 4443, section 2.4 e: what no error is sent about.
fn deserves_an_error(chain: &Chain, trouble: Trouble) -> bool {
    let (Some(source), Some(destination)) =
        (ip(chain.meta().source()), ip(chain.meta().destination()))
    else {
        return false;
    };
    // Exceptions: packet too big, and an option whose high bits say so.
    let even_to_many = trouble.kind() == Trouble::TOO_BIG
        || trouble.kind() == Trouble::PARAMETER && trouble.code() == 2;
    if source.is_unspecified()
        || source.is_multicast()
        || source.is_loopback()
        || destination.is_multicast() && !even_to_many
    {
        return false;
    }
    let mut quoted = [0; IP_HEADER + 520];
    let len = chain.len().min(quoted.len());
    let Some(quoted) = quoted.get_mut(..len) else { return false };
    if chain.peek(0, quoted).is_err() || quoted.first().is_none_or(|first| first >> 4 != 6) {
        return false;
    }
    match upper_layer(quoted) {
        // Where it cannot be seen, it may be an error.
        None => false,
        // What message it is stands in the first fragment.
        Some((next, _, offset)) if offset > 0 => u64::from(next) != protocol::ICMPV6,
        Some((next, at, _)) if u64::from(next) == protocol::ICMPV6 => {
            // Errors are below 128, and a redirect counts as one.
            quoted.get(at).is_some_and(|&kind| kind >= 128 && kind != 137)
        }
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests;
