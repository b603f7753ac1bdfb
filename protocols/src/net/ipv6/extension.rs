//! Extension headers (RFC 8200, section 4): a walk that reads and changes nothing.

use mbuf::{Chain, stack::DropReason};
use zerocopy::FromBytes;

use super::{FragmentHeader, TINY_FRAGMENT, TOO_MANY_HEADERS, UNKNOWN_OPTION};
use crate::net::{Trouble, protocol};

/// How many headers are looked through.
const MOST_HEADERS: usize = 8;
/// How long they may be together, in bytes.
const MOST_BYTES: usize = 512;

/// Where the walk ended.
pub(super) struct Found {
    /// What is behind the headers.
    pub(super) next: u8,
    /// Where that is said, in bytes from the start of the IPv6 header.
    pub(super) next_at: usize,
    /// How long the headers are; with `fragment` it is the last of them.
    pub(super) len: usize,
    /// The packet is a fragment, not an atomic one.
    pub(super) fragment: Option<FragmentHeader>,
}

/// Why a packet goes no further.
pub(super) enum Stop {
    Drop(DropReason),
    Tell(Trouble),
}

const MALFORMED: Stop = Stop::Drop(DropReason::MALFORMED);

/// Goes through the headers that the chain starts with. `stripped` bytes of headers were before
/// them; `whole` says that the packet was put together of fragments already.
pub(super) fn walk(
    chain: &Chain,
    mut next: u8,
    mut next_at: usize,
    stripped: usize,
    whole: bool,
    to_many: bool,
) -> Result<Found, Stop> {
    let mut at = 0;
    let mut fragmented = whole;
    let mut first_of_many = None;
    for count in 0.. {
        let kind = u64::from(next);
        let options = kind == protocol::HOP_BY_HOP || kind == protocol::DESTINATION_OPTIONS;
        if !options && kind != protocol::ROUTING && kind != protocol::FRAGMENT {
            break;
        }
        if kind == protocol::HOP_BY_HOP && (at > 0 || whole) {
            return Err(Stop::Tell(Trouble::unknown_next_header(next_at as u16)));
        }
        let missing = if first_of_many.is_some() { Stop::Drop(TINY_FRAGMENT) } else { MALFORMED };
        let mut start = [0; 8];
        if chain.peek(at, &mut start).is_err() {
            return Err(missing);
        }
        let len = if kind == protocol::FRAGMENT { 8 } else { (usize::from(start[1]) + 1) * 8 };
        if count >= MOST_HEADERS || at + len > MOST_BYTES {
            return Err(Stop::Drop(TOO_MANY_HEADERS));
        }
        if at + len > chain.len() {
            return Err(missing);
        }
        if options {
            let mut bytes = [0; MOST_BYTES];
            let Some(bytes) = bytes.get_mut(..len - 2) else { return Err(MALFORMED) };
            if chain.peek(at + 2, bytes).is_err() {
                return Err(MALFORMED);
            }
            check_options(bytes, stripped + at + 2, to_many)?;
        } else if kind == protocol::ROUTING {
            // RFC 8200, 4.4 and RFC 5095: with no segments left it says nothing any more.
            if start[3] != 0 {
                return Err(Stop::Tell(Trouble::parameter_problem((stripped + at + 2) as u16)));
            }
        } else {
            if fragmented {
                return Err(MALFORMED);
            }
            fragmented = true;
            let Ok(header) = FragmentHeader::read_from_bytes(&start) else {
                return Err(MALFORMED);
            };
            let (offset, more) = (header.offset.get() & !7, header.offset.get() & 1 == 1);
            let found = Found { next, next_at, len: at + len, fragment: Some(header) };
            if offset > 0 {
                return Ok(found);
            }
            // An atomic one is a packet by itself (RFC 6946); a first one must hold all headers.
            if more {
                first_of_many = Some(found);
            }
        }
        next = start[0];
        next_at = stripped + at;
        at += len;
    }
    match first_of_many {
        None => Ok(Found { next, next_at, len: at, fragment: None }),
        Some(_) if chain.len() - at < least(next) => Err(Stop::Drop(TINY_FRAGMENT)),
        Some(found) => Ok(found),
    }
}

/// How long the header of an upper layer is at least.
fn least(next: u8) -> usize {
    match u64::from(next) {
        protocol::TCP => 20,
        protocol::UDP | protocol::ICMPV6 => 8,
        protocol::NO_NEXT_HEADER => 0,
        _ => 1,
    }
}

/// RFC 8200, section 4.2. `place` is where the options begin.
fn check_options(mut options: &[u8], mut place: usize, to_many: bool) -> Result<(), Stop> {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    while let [kind, rest @ ..] = options {
        let len = match (*kind, rest) {
            (PAD1, _) => 1,
            (kind, [len, ..]) => {
                if kind != PADN {
                    match kind >> 6 {
                        0 => {}
                        2 => return Err(Stop::Tell(Trouble::unknown_option(place as u16))),
                        3 if !to_many => {
                            return Err(Stop::Tell(Trouble::unknown_option(place as u16)));
                        }
                        _ => return Err(Stop::Drop(UNKNOWN_OPTION)),
                    }
                }
                usize::from(*len) + 2
            }
            _ => return Err(MALFORMED),
        };
        options = options.get(len..).ok_or(MALFORMED)?;
        place += len;
    }
    Ok(())
}

/// What is behind the headers of a packet that is quoted: its number, where it begins, and the
/// offset of the fragment that it is. `None` where that is not to be seen.
pub(in crate::net) fn upper_layer(packet: &[u8]) -> Option<(u8, usize, u16)> {
    let (mut next, mut at, mut offset) = (*packet.get(6)?, 40, 0);
    for _ in 0..MOST_HEADERS {
        let start = packet.get(at..);
        match u64::from(next) {
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => {
                let [following, len, ..] = start? else { return None };
                next = *following;
                at += (usize::from(*len) + 1) * 8;
            }
            protocol::FRAGMENT => {
                let [following, _, high, low, ..] = start? else { return None };
                next = *following;
                offset = u16::from_be_bytes([*high, *low]) & !7;
                at += 8;
                if offset > 0 {
                    break;
                }
            }
            _ => break,
        }
    }
    Some((next, at, offset))
}
