//! DNS (RFC 1035): a small authoritative responder over UDP, for names from the configuration.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |              id               |Q|opcode |A|T|R|R|  Z  | rcode |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           questions           |            answers            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           authority           |          additional           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! It answers A, AAAA, TXT, CNAME (followed inside the zone) and PTR; NXDOMAIN for a name that is
//! not there, REFUSED for one outside of the zone, another class, and zone transfers, NOTIMP for
//! other operations, FORMERR for what it cannot read, BADVERS for another EDNS version. A question
//! for ANY is answered with one kind of record (RFC 8482). An answer that does not fit 512 bytes, or
//! what EDNS(0) allows (RFC 6891; at most [`MAX_ANSWER`]), is sent empty with TC set.
//!
//! Left out: SOA and NS (so that negative answers are not cached, RFC 2308), TCP, DNSSEC. A
//! compression pointer must point before the name that it continues, so that none goes round. A
//! message that is itself an answer is dropped ([`RESPONSE`]): two responders cannot answer each
//! other.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use mbuf::{
    Chain,
    meta::Offload,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, Protocol},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

/// The UDP port (IANA).
pub const PORT: u16 = 53;

/// The longest answer, whatever EDNS(0) allows: what is not fragmented on its way.
pub const MAX_ANSWER: usize = 1232;

/// It is an answer, and this layer asks nothing.
pub const RESPONSE: DropReason = DropReason("response");

/// The longest question that is read.
const MAX_QUESTION: usize = 4096;
/// CNAMEs followed for one question.
const MAX_CHAIN: usize = 8;

const FORMERR: u16 = 1;
const NXDOMAIN: u16 = 3;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
const BADVERS: u16 = 16;

const CNAME: u16 = 5;
const OPT: u16 = 41;
const ANY: u16 = 255;

/// The header as it stands on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// The asker's.
    pub id: U16,
    /// QR, opcode, AA, TC, RD, RA, Z, rcode.
    pub flags: U16,
    /// How many questions, answers, records of authority, additional records.
    pub counts: [U16; 4],
}

/// What a name has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address (RFC 3596).
    Aaaa(Ipv6Addr),
    /// Text, sent in strings of at most 255 bytes.
    Txt(String),
    /// The name that it is another name of.
    Cname(String),
    /// The name of an address.
    Ptr(String),
}

/// A name, or a text, that DNS cannot carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadName(String);

impl std::fmt::Display for BadName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is no name: labels have 1 to 63 bytes, and all together 253", self.0)
    }
}

impl std::error::Error for BadName {}

#[derive(Debug, Clone)]
struct Record {
    kind: u16,
    ttl: u32,
    data: Vec<u8>,
}

/// A responder. O(size of the question) and one allocation or a few for each.
#[derive(Debug, Clone, Default)]
pub struct Dns {
    /// By name as on the wire, in lower case.
    records: HashMap<Vec<u8>, Vec<Record>>,
    /// These names and all above them, up to the zone.
    names: HashSet<Vec<u8>>,
    origins: Vec<Vec<u8>>,
}

impl Dns {
    /// A responder that refuses everything.
    ///
    /// ```
    /// use mbuf::stack::Protocol;
    ///
    /// assert!(mbuf_protocols::dns::Dns::new().info().is_stateless());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers for that name and all below it.
    ///
    /// # Errors
    /// It is no name.
    ///
    /// ```
    /// # use mbuf_protocols::dns::Dns;
    /// assert!(Dns::new().origin("example.org").is_ok());
    /// assert!(Dns::new().origin("example..org").is_err());
    /// ```
    pub fn origin(mut self, name: &str) -> Result<Self, BadName> {
        let name = encode(name)?;
        self.names.insert(name.clone());
        self.origins.push(name);
        Ok(self)
    }

    /// Adds a record, which holds for `ttl` seconds at those who asked. It is found only where an
    /// [`origin`](Dns::origin) contains its name.
    ///
    /// # Errors
    /// The name, or the one that it is to have, is none; a text is longer than 1,000 bytes.
    ///
    /// ```
    /// # use mbuf_protocols::dns::{Data, Dns};
    /// let dns = Dns::new().origin("example.org")?;
    /// let dns = dns.record("www.example.org", 60, Data::A([192, 0, 2, 1].into()))?;
    /// assert!(dns.record("b.example.org", 60, Data::Cname("..".into())).is_err());
    /// # Ok::<(), mbuf_protocols::dns::BadName>(())
    /// ```
    pub fn record(mut self, name: &str, ttl: u32, data: Data) -> Result<Self, BadName> {
        let (kind, data) = match data {
            Data::A(address) => (1, address.octets().to_vec()),
            Data::Aaaa(address) => (28, address.octets().to_vec()),
            Data::Cname(name) => (CNAME, encode(&name)?),
            Data::Ptr(name) => (12, encode(&name)?),
            Data::Txt(text) if text.len() > 1000 => return Err(BadName(text)),
            Data::Txt(text) if text.is_empty() => (16, vec![0]),
            Data::Txt(text) => {
                let strings = text.as_bytes().chunks(255);
                (16, strings.flat_map(|s| [&[s.len() as u8], s].concat()).collect())
            }
        };
        let name = encode(name)?;
        let mut above = &name[..];
        while above.len() > 1 && self.names.insert(above.to_vec()) {
            above = parent(above);
        }
        self.records.entry(name).or_default().push(Record { kind, ttl, data });
        Ok(self)
    }

    fn is_ours(&self, mut name: &[u8]) -> bool {
        loop {
            if self.origins.iter().any(|origin| origin == name) {
                return true;
            }
            if name.len() <= 1 {
                return false;
            }
            name = parent(name);
        }
    }

    /// The answer to a message that is a question.
    fn answer(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (header, _) = Header::read_from_prefix(bytes).ok()?;
        let asked = header.flags.get();
        // The opcode and RD come back.
        let flags = 0x8000 | asked & 0x7900;
        let mut reply = Reply::new(header.id, flags);
        if asked & 0x7800 != 0 {
            return Some(reply.finish(NOTIMP, None));
        }
        let Some(question) = Question::read(bytes, &header) else {
            return Some(reply.finish(FORMERR, None));
        };
        reply.max = question.edns.map_or(512, |(size, _)| usize::from(size).clamp(512, MAX_ANSWER));
        reply.question(question.wire);
        if question.edns.is_some_and(|(_, version)| version != 0) {
            return Some(reply.finish(BADVERS, question.edns));
        }
        let transfer = matches!(question.kind, 251 | 252);
        if !matches!(question.class, 1 | 255) || transfer || !self.is_ours(&question.name) {
            return Some(reply.finish(REFUSED, question.edns));
        }
        reply.flags |= 0x0400;
        let mut name = question.name;
        let mut place = 12;
        let mut code = 0;
        for _ in 0..MAX_CHAIN {
            let Some(records) = self.records.get(&name) else {
                if self.is_ours(&name) && !self.names.contains(&name) {
                    code = NXDOMAIN;
                }
                break;
            };
            let alias = records.iter().find(|record| record.kind == CNAME);
            if let Some(record) = alias.filter(|_| !matches!(question.kind, CNAME | ANY)) {
                place = reply.record(place, record);
                name = record.data.to_ascii_lowercase();
                continue;
            }
            let kind = match question.kind {
                ANY => records.first().map_or(ANY, |record| record.kind),
                kind => kind,
            };
            for record in records.iter().filter(|record| record.kind == kind) {
                reply.record(place, record);
            }
            break;
        }
        Some(reply.finish(code, question.edns))
    }
}

/// An answer that is being written.
struct Reply {
    id: U16,
    flags: u16,
    questions: u16,
    answers: u16,
    bytes: Vec<u8>,
    body: usize,
    max: usize,
}

impl Reply {
    fn new(id: U16, flags: u16) -> Self {
        Self { id, flags, questions: 0, answers: 0, bytes: vec![0; 12], body: 12, max: 512 }
    }

    fn question(&mut self, wire: &[u8]) {
        self.bytes.extend(wire);
        self.body = self.bytes.len();
        self.questions = 1;
    }

    /// Answers where its data begins. Its owner stands at `place`.
    fn record(&mut self, place: usize, record: &Record) -> usize {
        // What does not fit is cut in the end; a pointer reaches 16 KiB.
        if self.bytes.len() <= self.max {
            self.bytes.extend((0xc000 | place as u16).to_be_bytes());
            self.bytes.extend([record.kind, 1].map(u16::to_be_bytes).concat());
            self.bytes.extend(record.ttl.to_be_bytes());
            self.bytes.extend((record.data.len() as u16).to_be_bytes());
            self.bytes.extend(&record.data);
            self.answers += 1;
        }
        self.bytes.len() - record.data.len()
    }

    fn finish(mut self, code: u16, edns: Option<(u16, u8)>) -> Vec<u8> {
        let opt = if edns.is_some() { 11 } else { 0 };
        if self.bytes.len() + opt > self.max {
            self.bytes.truncate(self.body);
            self.answers = 0;
            self.flags |= 0x0200;
        }
        if edns.is_some() {
            let [high, low] = (MAX_ANSWER as u16).to_be_bytes();
            self.bytes.extend([0, 0, OPT as u8, high, low, (code >> 4) as u8, 0, 0, 0, 0, 0]);
        }
        let counts = [self.questions, self.answers, 0, u16::from(edns.is_some())].map(U16::new);
        let header = Header { id: self.id, flags: (self.flags | code & 0xf).into(), counts };
        self.bytes[..12].copy_from_slice(header.as_bytes());
        self.bytes
    }
}

/// What was asked.
struct Question<'a> {
    name: Vec<u8>,
    kind: u16,
    class: u16,
    /// As it came.
    wire: &'a [u8],
    /// Size and version.
    edns: Option<(u16, u8)>,
}

impl<'a> Question<'a> {
    fn read(bytes: &'a [u8], header: &Header) -> Option<Self> {
        let [questions, rest @ ..] = header.counts;
        if questions.get() != 1 {
            return None;
        }
        let mut at = 12;
        let name = read_name(bytes, &mut at)?;
        let kind = word(bytes, at)?;
        let class = word(bytes, at + 2)?;
        at += 4;
        let wire = bytes.get(12..at)?;
        let mut edns = None;
        // Each record takes eleven bytes at least, so this ends with the message.
        for _ in 0..rest.iter().map(|n| u32::from(n.get())).sum() {
            read_name(bytes, &mut at)?;
            if word(bytes, at)? == OPT {
                let found = (word(bytes, at + 2)?, *bytes.get(at + 5)?);
                if edns.replace(found).is_some() {
                    return None;
                }
            }
            at += 10 + usize::from(word(bytes, at + 8)?);
            bytes.get(..at)?;
        }
        Some(Self { name, kind, class, wire, edns })
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*word))
}

/// The name at that place, in lower case, and the place behind it. A pointer must point before all
/// that was read of the name so far, and there are no more of them than a name can have labels.
pub(crate) fn read_name(bytes: &[u8], at: &mut usize) -> Option<Vec<u8>> {
    const MOST_JUMPS: usize = 127;
    let mut name = Vec::new();
    let (mut place, mut least, mut jumps) = (*at, *at, 0);
    loop {
        let length = usize::from(*bytes.get(place)?);
        match length >> 6 {
            0 => {
                let end = place + 1 + length;
                name.extend(bytes.get(place..end)?.to_ascii_lowercase());
                place = end;
                if jumps == 0 {
                    *at = end;
                }
                if name.len() > 255 {
                    return None;
                }
                if length == 0 {
                    return Some(name);
                }
            }
            3 => {
                let to = usize::from(word(bytes, place)? & 0x3fff);
                if jumps == 0 {
                    *at = place + 2;
                }
                jumps += 1;
                if to >= least || jumps > MOST_JUMPS {
                    return None;
                }
                (place, least) = (to, to);
            }
            _ => return None,
        }
    }
}

/// A name as on the wire, in lower case.
fn encode(text: &str) -> Result<Vec<u8>, BadName> {
    let mut name = Vec::new();
    let whole = text.strip_suffix('.').unwrap_or(text);
    for label in whole.split('.').filter(|_| !whole.is_empty()) {
        if label.is_empty() || label.len() > 63 {
            return Err(BadName(text.to_owned()));
        }
        name.push(label.len() as u8);
        name.extend(label.as_bytes().to_ascii_lowercase());
    }
    name.push(0);
    if name.len() > 255 { Err(BadName(text.to_owned())) } else { Ok(name) }
}

/// The name at which an address has its PTR record (RFC 1035, 3.5; RFC 3596, 2.5).
///
/// ```
/// use mbuf_protocols::dns::reverse;
///
/// assert_eq!(reverse([192, 0, 2, 1].into()), "1.2.0.192.in-addr.arpa");
/// assert!(reverse("2001:db8::1".parse()?).ends_with(".8.b.d.0.1.0.0.2.ip6.arpa"));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let digits = (0..32).map(|n| format!("{:x}.", address.to_bits() >> (4 * n) & 0xf));
            digits.collect::<String>() + "ip6.arpa"
        }
    }
}

/// The name without its first label.
fn parent(name: &[u8]) -> &[u8] {
    let skip = name.first().map_or(0, |length| 1 + usize::from(*length));
    name.get(skip..).unwrap_or_default()
}

impl Protocol for Dns {
    fn name(&self) -> &str {
        "dns"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets)
            .min_header(size_of::<Header>())
            .stateless()
            .reasons(&[RESPONSE])
    }

    fn input(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if chain.len() > MAX_QUESTION {
            return cx.drop(chain, DropReason::LIMIT);
        }
        let Ok(bytes) = chain.to_vec() else {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        };
        if bytes.get(2).is_none_or(|flags| flags & 0x80 != 0) {
            return cx.drop(chain, RESPONSE);
        }
        let Some(answer) = self.answer(&bytes) else {
            return cx.drop(chain, DropReason::SHORT);
        };
        let Ok(mut reply) = cx.pool().chain_from(&answer) else {
            return cx.drop(chain, DropReason::NO_BUFFERS);
        };
        *reply.meta_mut() = *chain.meta();
        reply.meta_mut().set_offload(Offload::empty());
        cx.made(1);
        let outcome = cx.consumed(chain);
        cx.apply(outcome);
        cx.reply(reply)
    }

    /// Nothing belongs above it.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }
}

#[cfg(test)]
mod tests;
