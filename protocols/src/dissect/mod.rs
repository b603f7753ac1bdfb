//! What is in a packet: its layers and their fields, from the outermost in, as `tshark` shows them.
//!
//! A [`Dissector`] is a table. What stands in a packet is looked up by what the layer before it
//! said: a link type, an EtherType, an IP protocol, a port. Each entry is a function that strips its
//! header from the chain, notes the fields, and says what comes next. The headers are those of the
//! plugins; nothing is answered and nothing is kept.
//!
//! ```
//! use mbuf::{Pool, io::capture::LinkType};
//! use mbuf_protocols::dissect::{Dissector, End};
//!
//! let pool = Pool::with_memory(1 << 20)?;
//! let frame = b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\x06\0\x01\x08\0\x06\x04\0\x01\
//!               \x02\0\0\0\0\x01\xc0\0\x02\x01\0\0\0\0\0\0\xc0\0\x02\x02";
//! let found = Dissector::new().dissect(LinkType::ETHERNET, pool.chain_from(frame)?, frame.len());
//! assert_eq!(found.to_string(), "ethernet/arp");
//! assert_eq!(found.layers[1].field("target_ip").unwrap().to_string(), "192.0.2.2");
//! assert_eq!(found.end, End::Whole);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **Cut and malformed.** Captures often keep only the beginning of a packet. Where bytes ran out
//! that were there on the wire, the end is [`End::Cut`]; where a packet contradicts itself, it is
//! [`End::Dropped`], with the reason for which a plugin would have dropped it. Neither takes away the
//! layers before it.
//!
//! Fragments are not put together: what is in the first is looked at, the others are payload.
//! Checksums are shown, and only that of IPv4's header is verified.

mod application;
mod internet;
mod link;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, net::IpAddr};

use mbuf::{Address, Chain, io::capture::LinkType, stack::DropReason};

/// More layers than are looked at.
pub const TOO_DEEP: DropReason = DropReason("too_deep");
/// A length says that there is more than there is.
pub const TRUNCATED: DropReason = DropReason("truncated");
/// Nobody knows what the packet begins with.
pub const UNKNOWN_LINK: DropReason = DropReason("unknown_link");

/// The most layers of a packet.
const MOST_LAYERS: usize = 32;
/// The most fields of a layer, so that a packet of nothing but options is not a book.
const MOST_FIELDS: usize = 64;
/// Bytes of a value that are shown.
const SHOWN: usize = 32;

/// By what a layer is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Key {
    /// The link type of a capture.
    Link(u16),
    /// An EtherType.
    EtherType(u16),
    /// An IP protocol, or next header.
    Protocol(u8),
    /// A UDP port.
    Udp(u16),
    /// A TCP port.
    Tcp(u16),
}

/// What comes behind a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// What this key says.
    Of(Key),
    /// What the first of two keys says, or else the second: the ports of both ends.
    Either(Key, Key),
    /// Bytes that nothing more is known of.
    Payload,
}

/// A value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// A number, shown in decimal.
    Number(u64),
    /// A number, shown in hexadecimal with so many digits.
    Hex(u64, u8),
    /// An Ethernet address.
    Mac([u8; 6]),
    /// An IP address.
    Ip(IpAddr),
    /// A text.
    Text(String),
    /// Bytes: the first of them, and how many there are.
    Bytes(Vec<u8>, usize),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Hex(number, digits) => {
                write!(f, "{number:#0width$x}", width = usize::from(*digits) + 2)
            }
            Value::Mac(mac) => Address::Mac(*mac).fmt(f),
            Value::Ip(address) => address.fmt(f),
            Value::Text(text) => f.write_str(text),
            Value::Bytes(bytes, len) => {
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(if bytes.len() < *len { "..." } else { "" })
            }
        }
    }
}

/// A layer of a packet, which a [`Dissect`] fills in.
///
/// ```
/// use mbuf::{Pool, io::capture::LinkType, stack::DropReason};
/// use mbuf_protocols::dissect::{Dissector, Key, Next, Value};
///
/// let mut dissector = Dissector::new();
/// dissector.register(Key::Link(LinkType::USER0.0), "mine", |chain, layer| {
///     let [kind, len]: [u8; 2] = chain.strip().map_err(|_| DropReason::SHORT)?;
///     layer.number("kind", kind);
///     layer.limit(chain, len.into())?; // what is behind it is padding
///     Ok(Next::Payload)
/// });
/// let (pool, frame) = (Pool::with_memory(1 << 20)?, b"\x07\x02hi, padding");
/// let found = dissector.dissect(LinkType::USER0, pool.chain_from(frame)?, frame.len());
/// assert_eq!(found.to_string(), "mine/payload");
/// assert_eq!(found.layers[0].field("kind"), Some(&Value::Number(7)));
/// assert_eq!(found.layers[1].field("length"), Some(&Value::Number(2)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name, that of the plugin.
    pub name: &'static str,
    /// Its fields, in order: names and values. A name may come more than once.
    pub fields: Vec<(&'static str, Value)>,
    /// Bytes of the packet that were on the wire behind what is there.
    missing: usize,
    /// What is missing is nobody's fault: a fragment, or a quotation.
    partial: bool,
}

impl Layer {
    /// Notes a field.
    pub fn note(&mut self, name: &'static str, value: Value) {
        if self.fields.len() < MOST_FIELDS {
            self.fields.push((name, value));
        }
    }

    /// Notes a number.
    pub fn number(&mut self, name: &'static str, number: impl Into<u64>) {
        self.note(name, Value::Number(number.into()));
    }

    /// Notes a number that is shown in hexadecimal, with so many digits.
    pub fn hex(&mut self, name: &'static str, number: impl Into<u64>, digits: u8) {
        self.note(name, Value::Hex(number.into(), digits));
    }

    /// Notes an address.
    pub fn ip(&mut self, name: &'static str, address: impl Into<IpAddr>) {
        self.note(name, Value::Ip(address.into()));
    }

    /// Notes bytes, the first 32 of them.
    pub fn bytes(&mut self, name: &'static str, bytes: &[u8]) {
        self.note(name, Value::Bytes(bytes[..bytes.len().min(SHOWN)].to_vec(), bytes.len()));
    }

    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// What follows is so many bytes; what is behind them is padding. O(1).
    ///
    /// # Errors
    /// [`TRUNCATED`] where that many were never there.
    pub fn limit(&mut self, chain: &mut Chain, n: usize) -> Result<(), DropReason> {
        if n <= chain.len() {
            self.missing = 0;
            return chain.truncate(n).map_err(|_| DropReason::NO_BUFFERS);
        }
        if self.partial || n - chain.len() <= self.missing {
            self.missing = self.missing.min(n - chain.len());
            return Ok(());
        }
        Err(TRUNCATED)
    }

    /// Whether bytes of the packet were not captured.
    pub fn is_cut(&self) -> bool {
        self.missing > 0
    }

    /// Whether it has as many fields as are kept.
    pub fn is_full(&self) -> bool {
        self.fields.len() == MOST_FIELDS
    }

    /// What follows is only a part, and that is as it should be.
    pub fn partial(&mut self) {
        self.partial = true;
    }
}

/// How a packet ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// All of it was looked at.
    Whole,
    /// More of it was on the wire than was captured.
    Cut,
    /// It contradicts itself, or nothing is known of it.
    Dropped(DropReason),
}

/// What was found in a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dissection {
    /// The layers, from the outermost in. Bytes that nothing is known of are a layer `payload`.
    pub layers: Vec<Layer>,
    /// How it ended.
    pub end: End,
}

/// The names of the layers, with `/` between them.
impl fmt::Display for Dissection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, layer) in self.layers.iter().enumerate() {
            write!(f, "{}{}", if n > 0 { "/" } else { "" }, layer.name)?;
        }
        Ok(())
    }
}

/// Takes a layer off a chain: strips its header, notes its fields, says what is behind it.
///
/// # Errors
/// Why a plugin would drop it. [`DropReason::SHORT`] and [`TRUNCATED`] are taken for a cut where the
/// packet was longer on the wire.
pub type Dissect = fn(&mut Chain, &mut Layer) -> Result<Next, DropReason>;

/// A table of what is known.
#[derive(Clone)]
pub struct Dissector {
    known: HashMap<Key, (&'static str, Dissect)>,
}

impl Dissector {
    /// All protocols of this crate that have a header, and TCP, LLC and the link types of Linux.
    pub fn new() -> Self {
        let mut dissector = Self { known: HashMap::new() };
        link::register(&mut dissector);
        internet::register(&mut dissector);
        application::register(&mut dissector);
        dissector
    }

    /// Adds a layer, or puts it in the place of the one that had the key.
    ///
    /// ```
    /// use mbuf::{Pool, io::capture::LinkType, stack::DropReason};
    /// use mbuf_protocols::dissect::{Dissector, Key, Next};
    ///
    /// let mut dissector = Dissector::new();
    /// dissector.register(Key::EtherType(0x88b5), "mine", |chain, layer| {
    ///     let kind: u8 = chain.strip().map_err(|_| DropReason::SHORT)?;
    ///     layer.number("kind", kind);
    ///     Ok(Next::Of(Key::EtherType(0x0800)))
    /// });
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let frame = [&[0; 12][..], &[0x88, 0xb5, 7]].concat();
    /// let found = dissector.dissect(LinkType::ETHERNET, pool.chain_from(&frame)?, frame.len());
    /// assert_eq!(found.to_string(), "ethernet/mine/ipv4");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn register(&mut self, key: Key, name: &'static str, dissect: Dissect) -> &mut Self {
        self.known.insert(key, (name, dissect));
        self
    }

    /// Looks through a packet. `original` is its length on the wire, where the chain has less.
    /// O(layers and fields); each field that has no fixed size is allocated on the heap.
    pub fn dissect(&self, link: LinkType, mut chain: Chain, original: usize) -> Dissection {
        let mut layers: Vec<Layer> = Vec::new();
        let mut missing = original.saturating_sub(chain.len());
        let (mut partial, mut next) = (false, Next::Of(Key::Link(link.0)));
        let end = loop {
            let Some(&(name, dissect)) = self.find(next) else {
                if let Next::Of(Key::Link(_)) = next {
                    break End::Dropped(UNKNOWN_LINK);
                }
                let end = if missing > 0 { End::Cut } else { End::Whole };
                if !chain.is_empty() {
                    let mut payload = Layer { name: "payload", fields: vec![], missing, partial };
                    payload.number("length", chain.len() as u64);
                    let mut shown = vec![0; chain.len().min(SHOWN)];
                    if chain.peek(0, &mut shown).is_ok() {
                        payload.note("bytes", Value::Bytes(shown, chain.len()));
                    }
                    layers.push(payload);
                }
                break end;
            };
            if layers.len() == MOST_LAYERS {
                break End::Dropped(TOO_DEEP);
            }
            let mut layer = Layer { name, fields: Vec::new(), missing, partial };
            let result = dissect(&mut chain, &mut layer);
            (missing, partial) = (layer.missing, layer.partial);
            // A raw packet has no header of its own.
            if !name.is_empty() {
                layers.push(layer);
            }
            match result {
                Ok(more) => next = more,
                Err(DropReason::SHORT | TRUNCATED) if missing > 0 => break End::Cut,
                Err(DropReason::SHORT | TRUNCATED) if partial => break End::Whole,
                Err(reason) => break End::Dropped(reason),
            }
        };
        Dissection { layers, end }
    }

    fn find(&self, next: Next) -> Option<&(&'static str, Dissect)> {
        match next {
            Next::Of(key) => self.known.get(&key),
            Next::Either(one, other) => self.known.get(&one).or_else(|| self.known.get(&other)),
            Next::Payload => None,
        }
    }
}

impl Default for Dissector {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Dissector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dissector").field("known", &self.known.len()).finish()
    }
}

/// Strips a header of fixed size.
fn strip<H: zerocopy::FromBytes>(chain: &mut Chain) -> Result<H, DropReason> {
    chain.strip().map_err(|_| DropReason::SHORT)
}

/// Strips bytes whose number the packet says.
fn take(chain: &mut Chain, n: usize) -> Result<Vec<u8>, DropReason> {
    if n > chain.len() {
        return Err(DropReason::SHORT);
    }
    let mut bytes = vec![0; n];
    chain.peek(0, &mut bytes).map_err(|_| DropReason::SHORT)?;
    chain.trim_front(n).map_err(|_| DropReason::SHORT)?;
    Ok(bytes)
}
