//! ICMP (RFC 792, RFC 1122 section 3.2.2, RFC 1812 section 4.3.2): echo, and errors.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     type      |     code      |           checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  echo: identifier and sequence; errors: MTU, pointer, or 0    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  echo: data;  errors: the header and the first bytes of the datagram
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! An echo request is answered by the chain that brought it. A chain that comes with [`Trouble`]
//! set, its IP header restored, becomes the data of an error message to its sender, of at most 576
//! bytes in all. There is none about an ICMP error, a fragment other than the first, a datagram from
//! nobody or to many ([`NO_ERROR_ABOUT`]), and not more than the [`rate`](Icmp::rate) allows
//! ([`RATE_LIMITED`]).
//!
//! Errors that come are checked (they must quote a datagram) and counted as consumed.

use std::{net::SocketAddr, time::Duration};

use mbuf::{
    Address, Chain,
    chain::checksum,
    meta::Offload,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

use super::{Trouble, bucket::Bucket, ipv4::BAD_CHECKSUM, protocol};

/// A datagram about which no error may be sent (RFC 1122, 3.2.2).
pub const NO_ERROR_ABOUT: DropReason = DropReason("no_error_about");
/// More errors than the rate allows (RFC 1812, 4.3.2.8).
pub const RATE_LIMITED: DropReason = DropReason("rate_limited");
/// A type that is not known (RFC 1122, 3.2.2: silently discarded).
pub const UNKNOWN_TYPE: DropReason = DropReason("unknown_type");

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// Types that report an error: unreachable, source quench, redirect, time exceeded, parameter
/// problem.
const ERRORS: [u8; 5] = [UNREACHABLE, 4, 5, TIME_EXCEEDED, PARAMETER_PROBLEM];

const HEADER: usize = size_of::<Header>();
const IP_HEADER: usize = 20;

/// What an error may quote, so that it is 576 bytes with both headers.
const QUOTE: usize = 576 - IP_HEADER - HEADER;

/// The header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// What it is.
    pub kind: u8,
    /// Which of its kind.
    pub code: u8,
    /// Over header and data.
    pub checksum: U16,
    /// The identifier of an echo.
    pub identifier: U16,
    /// The sequence number of an echo; the next hop's MTU (RFC 1191).
    pub sequence: U16,
}

/// The ICMP of a host. Bind it to IPv4 by [`protocol::ICMP`].
#[derive(Debug, Clone)]
pub struct Icmp {
    errors: Bucket,
}

impl Icmp {
    /// Answers echoes, and sends at most ten errors at once and one each 10 ms.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    /// use mbuf_protocols::net::Icmp;
    ///
    /// assert_eq!(Icmp::new().name(), "icmp");
    /// ```
    pub const fn new() -> Self {
        Self { errors: Bucket::new(10, Duration::from_millis(10)) }
    }

    /// At most `burst` errors at once, and one each `every` (a bucket of tokens).
    ///
    /// ```
    /// use std::time::Duration;
    /// use mbuf_protocols::net::Icmp;
    ///
    /// let icmp = Icmp::new().rate(1, Duration::from_secs(1));
    /// assert!(format!("{icmp:?}").contains("burst: 1"));
    /// ```
    pub const fn rate(mut self, burst: u32, every: Duration) -> Self {
        self.errors = Bucket::new(burst, every);
        self
    }

    /// Makes the error message of a datagram that came back with its IP header.
    #[cold]
    fn error(&mut self, mut chain: Chain, trouble: Trouble, cx: &mut Context<'_>) -> Outcome {
        let mut quoted = [0; 60 + 1];
        let len = chain.len().min(quoted.len());
        if chain.peek(0, &mut quoted[..len]).is_err()
            || !deserves_an_error(&quoted[..len], chain.meta().source(), chain.meta().destination())
        {
            return cx.drop(chain, NO_ERROR_ABOUT);
        }
        if !self.errors.take(cx.now()) {
            return cx.drop(chain, RATE_LIMITED);
        }
        let (kind, code) = kind_and_code(trouble);
        // The pointer is one byte; the MTU stands in the last two.
        let (identifier, sequence) = match kind {
            PARAMETER_PROBLEM => (trouble.argument() << 8, 0),
            UNREACHABLE if code == 4 => (0, trouble.argument()),
            _ => (0, 0),
        };
        let mut header = Header {
            kind,
            code,
            checksum: 0.into(),
            identifier: identifier.into(),
            sequence: sequence.into(),
        };
        if chain.len() > QUOTE && chain.truncate(QUOTE).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        let mut sum = checksum::Sum::new();
        sum.add(header.as_bytes());
        if sum.add_chain(&chain, ..).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        header.checksum = sum.checksum().into();
        if chain.push(&header).is_err() {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        }
        cx.set_slot(&mut chain, Trouble::NONE);
        reset(&mut chain);
        cx.reply(chain)
    }
}

impl Default for Icmp {
    fn default() -> Self {
        Self::new()
    }
}

impl Protocol for Icmp {
    fn name(&self) -> &str {
        "icmp"
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
        let verified = Offload::CHECKSUM_VERIFIED | Offload::CHECKSUM_PARTIAL;
        if !chain.meta().offload().intersects(verified) && chain.checksum(..) != Ok(0) {
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
                let sum = checksum::update(
                    header.checksum.get(),
                    u16::from(ECHO) << 8,
                    u16::from(ECHO_REPLY) << 8,
                );
                answer.checksum = sum.into();
                reset(&mut chain);
                cx.reply(chain)
            }
            ECHO_REPLY => cx.consumed(chain),
            kind if ERRORS.contains(&kind) => {
                let mut quoted = [0; 1];
                let whole = chain.len() >= HEADER + IP_HEADER + 8;
                match chain.peek(HEADER, &mut quoted) {
                    Ok(()) if whole && quoted[0] >> 4 == 4 && quoted[0] & 0xf >= 5 => {
                        cx.consumed(chain)
                    }
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

/// What the device said of the packet that came does not hold for the one that goes.
fn reset(chain: &mut Chain) {
    chain.meta_mut().set_offload(Offload::empty());
    chain.meta_mut().set_segment_size(0);
}

fn kind_and_code(trouble: Trouble) -> (u8, u8) {
    match (trouble.kind(), trouble.code()) {
        (Trouble::TIME_EXCEEDED, code) => (TIME_EXCEEDED, code),
        (Trouble::TOO_BIG, _) => (UNREACHABLE, 4),
        (Trouble::PARAMETER, _) => (PARAMETER_PROBLEM, 0),
        _ => match trouble {
            Trouble::PORT_UNREACHABLE => (UNREACHABLE, 3),
            Trouble::PROTOCOL_UNREACHABLE => (UNREACHABLE, 2),
            Trouble::PROHIBITED => (UNREACHABLE, 13),
            _ => (UNREACHABLE, 1),
        },
    }
}

/// RFC 1122, section 3.2.2: what no error is sent about.
fn deserves_an_error(quoted: &[u8], source: Address, destination: Address) -> bool {
    let (Address::Ip(SocketAddr::V4(source)), Address::Ip(SocketAddr::V4(destination))) =
        (source, destination)
    else {
        return false;
    };
    let (source, destination) = (source.ip(), destination.ip());
    if source.is_unspecified()
        || source.is_loopback()
        || source.octets()[0] >= 224
        || destination.octets()[0] >= 224
    {
        return false;
    }
    let [version_ihl, _, _, _, _, _, fragment_high, fragment_low, _, number, ..] = quoted else {
        return false;
    };
    let header_len = usize::from(version_ihl & 0xf) * 4;
    let first = u16::from_be_bytes([*fragment_high, *fragment_low]) & 0x1fff == 0;
    let about_error = u64::from(*number) == protocol::ICMP
        && quoted.get(header_len).is_none_or(|kind| ![ECHO, ECHO_REPLY].contains(kind));
    version_ihl >> 4 == 4 && header_len >= IP_HEADER && first && !about_error
}

#[cfg(test)]
mod tests {
    use mbuf::{
        stack::{Signal, Time},
        testing::{self, Conformance},
    };

    use super::*;
    use crate::rig::{PORT, Rig};

    const PING: [u8; 12] = [8, 0, 0x38, 0x2d, 0, 8, 0, 2, 0x5f, 0x60, 0x60, 0x68];

    fn rig(icmp: Icmp) -> Rig {
        let trouble = Box::new(Below::default());
        Rig::new(&testing::pool(), Edge::Packets, vec![trouble, Box::new(icmp)])
    }

    /// Stands below and sets the trouble that the first two bytes tell of, as IPv4 would.
    #[derive(Default)]
    struct Below(());

    const TROUBLES: [Trouble; 7] = [
        Trouble::NONE,
        Trouble::PORT_UNREACHABLE,
        Trouble::PROTOCOL_UNREACHABLE,
        Trouble::TIME_EXCEEDED_IN_TRANSIT,
        Trouble::REASSEMBLY_TIME_EXCEEDED,
        Trouble::packet_too_big(1400),
        Trouble::parameter_problem(20),
    ];

    impl Protocol for Below {
        fn name(&self) -> &str {
            "below"
        }

        fn info(&self) -> LayerInfo {
            LayerInfo::new(Edge::Packets, Edge::Packets).shared_slot::<Trouble>()
        }

        fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
            let number: u8 = chain.strip().unwrap();
            cx.set_slot(&mut chain, TROUBLES[usize::from(number)]);
            if chain.meta().source() == Address::None {
                chain.meta_mut().set_source(Address::Ip("192.0.2.2:0".parse().unwrap()));
                chain.meta_mut().set_destination(Address::Ip("192.0.2.1:0".parse().unwrap()));
            }
            cx.up(chain)
        }

        fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
            assert_eq!(cx.slot::<Trouble>(&chain), Trouble::NONE);
            assert_eq!(chain.meta().destination(), Address::Ip("192.0.2.2:0".parse().unwrap()));
            cx.down(chain)
        }
    }

    fn datagram(number: u8, fragment: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 20 + payload.len() as u8, 0, 1, 0, fragment, 64, number];
        bytes.extend([0, 0, 192, 0, 2, 2, 192, 0, 2, 1]);
        bytes.extend(payload);
        bytes
    }

    fn with(trouble: u8, bytes: &[u8]) -> Vec<u8> {
        [&[trouble], bytes].concat()
    }

    #[test]
    fn an_echo_request_is_answered_byte_for_byte() {
        assert_eq!(checksum::of(&PING), 0);
        let mut rig = rig(Icmp::new());
        rig.feed(&with(0, &PING));
        let mut answer = PING;
        answer[0] = 0;
        answer[2] = 0x40;
        assert_eq!(checksum::of(&answer), 0);
        assert_eq!(rig.sent(), [answer]);
        rig.finish();
    }

    #[test]
    fn each_trouble_has_its_type_and_code_and_quotes_the_datagram() {
        let mut rig = rig(Icmp::new());
        let quoted = datagram(17, 0, &[9; 40]);
        let expected: [[u8; 6]; 6] = [
            [3, 3, 0, 0, 0, 0],
            [3, 2, 0, 0, 0, 0],
            [11, 0, 0, 0, 0, 0],
            [11, 1, 0, 0, 0, 0],
            [3, 4, 0, 0, 5, 120],
            [12, 0, 20, 0, 0, 0],
        ];
        for (n, [kind, code, rest @ ..]) in expected.into_iter().enumerate() {
            rig.feed(&with(n as u8 + 1, &quoted));
            let sent = rig.sent();
            assert_eq!(sent.len(), 1);
            assert_eq!((&sent[0][..2], &sent[0][4..8]), (&[kind, code][..], &rest[..]));
            assert_eq!(checksum::of(&sent[0]), 0);
            assert_eq!(sent[0][8..], quoted);
        }
        rig.finish();
    }

    #[test]
    fn there_is_no_error_about_errors_fragments_and_groups() {
        let mut rig = rig(Icmp::new());
        let cases = [
            datagram(1, 0, &[3, 3, 0, 0, 0, 0, 0, 0]),
            datagram(1, 0, &[12, 0, 0, 0, 0, 0, 0, 0]),
            datagram(1, 0, &[]),
            datagram(17, 1, &[0; 8]),
            datagram(17, 0, &[0; 8])[..9].to_vec(),
            [&[0x65], &datagram(17, 0, &[0; 8])[1..]].concat(),
        ];
        for (n, bytes) in cases.iter().enumerate() {
            rig.feed(&with(1, bytes));
            assert_eq!(rig.drops("icmp", NO_ERROR_ABOUT), n as u64 + 1);
        }
        for (from, to) in [
            ("0.0.0.0:0", "192.0.2.1:0"),
            ("224.0.0.1:0", "192.0.2.1:0"),
            ("127.0.0.1:0", "192.0.2.1:0"),
            ("192.0.2.2:0", "255.255.255.255:0"),
            ("192.0.2.2:0", "224.0.0.1:0"),
            ("[2001:db8::1]:0", "[2001:db8::2]:0"),
        ] {
            let before = rig.drops("icmp", NO_ERROR_ABOUT);
            let mut chain = rig.pool.chain_from(&with(1, &datagram(17, 0, &[0; 8]))).unwrap();
            chain.meta_mut().set_source(Address::Ip(from.parse().unwrap()));
            chain.meta_mut().set_destination(Address::Ip(to.parse().unwrap()));
            rig.feed_chain(chain);
            assert_eq!(rig.drops("icmp", NO_ERROR_ABOUT), before + 1, "{from} to {to}");
        }
        assert!(rig.sent().is_empty());
        // A ping that does not fit is told of.
        rig.feed(&with(5, &datagram(1, 0, &PING)));
        assert_eq!(rig.sent().len(), 1);
        rig.finish();
    }

    #[test]
    fn errors_keep_to_the_rate() {
        let mut rig = rig(Icmp::new().rate(2, Duration::from_secs(1)));
        let bytes = with(1, &datagram(17, 0, &[0; 8]));
        for _ in 0..5 {
            rig.feed(&bytes);
        }
        assert_eq!((rig.sent().len(), rig.drops("icmp", RATE_LIMITED)), (2, 3));
        rig.stack.advance(Time::from_millis(1500));
        rig.feed(&bytes);
        rig.feed(&bytes);
        assert_eq!(rig.sent().len(), 1);
        rig.stack.advance(Time::from_millis(2000));
        rig.feed(&bytes);
        assert_eq!(rig.sent().len(), 1, "the half second counted");
        rig.stack.advance(Time::from_millis(60_000));
        for _ in 0..5 {
            rig.feed(&bytes);
        }
        assert_eq!(rig.sent().len(), 2);
        rig.finish();
    }

    /// With the right checksum.
    fn message(kind: u8, code: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, code, 0, 0, 0, 0, 0, 0];
        bytes.extend(data);
        let sum = checksum::of(&bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn each_message_that_is_not_answered_is_dropped_for_its_reason_or_consumed() {
        let mut rig = rig(Icmp::new());
        let quoted = datagram(17, 0, &[9; 8]);
        rig.feed(&with(0, &message(3, 3, &quoted)));
        rig.feed(&with(0, &message(0, 0, b"reply")));
        assert_eq!(rig.stack.stats().layer("icmp").unwrap().consumed, 2);
        rig.feed(&with(0, &message(3, 3, &quoted[..27])));
        rig.feed(&with(0, &message(11, 0, &[0; 40])));
        rig.feed(&with(0, &message(12, 0, &[])));
        assert_eq!(rig.drops("icmp", DropReason::MALFORMED), 3);
        rig.feed(&with(0, &message(13, 0, &[0; 12])));
        rig.feed(&with(0, &message(8, 1, &[0; 12])));
        assert_eq!(rig.drops("icmp", UNKNOWN_TYPE), 2);
        let mut wrong = PING;
        wrong[11] ^= 1;
        rig.feed(&with(0, &wrong));
        assert_eq!(rig.drops("icmp", BAD_CHECKSUM), 1);
        rig.feed(&with(0, &PING[..7]));
        assert_eq!(rig.drops("icmp", DropReason::SHORT), 1);
        assert!(rig.sent().is_empty());
        rig.finish();
    }

    #[test]
    fn one_byte_segments_make_no_difference() {
        let mut rig = rig(Icmp::new());
        for bytes in [with(0, &PING), with(1, &datagram(17, 0, &[9; 40]))] {
            rig.feed(&bytes);
            let whole = rig.sent();
            rig.feed_chain(testing::bytewise(&rig.pool, &bytes).unwrap());
            assert_eq!(rig.sent(), whole);
        }
        rig.stack.signal(Signal::Shutdown);
        assert!(rig.stack.poll_output(PORT).is_empty());
        rig.finish();
    }

    #[test]
    fn conforms() {
        Conformance::new("icmp", || Box::new(Icmp::new()) as _)
            .top()
            .wire(vec![
                PING.to_vec(),
                message(8, 0, &[7; 300]),
                message(3, 3, &datagram(17, 0, &[9; 8])),
            ])
            .run();
    }
}
