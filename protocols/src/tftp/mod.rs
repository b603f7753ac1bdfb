//! TFTP (RFC 1350): a server of files, as boot loaders and network equipment ask for them.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | opcode: 1 RRQ, 2 WRQ          | name | 0 | mode | 0 | option | 0 | value | 0 ...
//! |         3 DATA                | block                         | up to blksize bytes
//! |         4 ACK                 | block                         |
//! |         5 ERROR               | code                          | text | 0
//! |         6 OACK                | option | 0 | value | 0 ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Modes octet and netascii; the options blksize (RFC 2348), timeout and tsize (RFC 2349), and
//! windowsize (RFC 7440), by RFC 2347. A block's number goes on from 65,535 to 0, so a file may be
//! of any length. Mail, and multicast (RFC 2090), are not there.
//!
//! Files come from a [`Store`]: a [`Folder`], which nothing leaves, or one in memory. Its thread
//! reads ahead into buffers of the pool, and blocks share those: no byte is copied, and nothing is
//! allocated for a block but its header's buffer. (Netascii copies.) A file that is written has its
//! name when all of it is there.
//!
//! # Ports
//!
//! Over [`Udp`](crate::net::Udp) each transfer may have [a port of its own](Tftp::own_ports)
//! (RFC 1350, section 4). What is for a port that has no transfer goes back, to be answered as
//! *port unreachable*.
//!
//! Otherwise, as over a UDP socket, which has but one port, it answers from the port that it was
//! asked at, and tells transfers by their peers' addresses and ports. Clients take that (curl and
//! tftp-hpa do): which port answers them is for the server to choose.
//!
//! # What a stranger can do
//!
//! There is no authentication: whoever can send to it reads every file of the store, and, if
//! [that is allowed](Tftp::write), writes new ones, of [bounded size](Tftp::max_size). An answer
//! goes to whoever a request says it is from, and is longer; a peer who has never answered is tried
//! three times. Over one port, which everybody knows, whoever forges requests can forge their
//! acknowledgments too: [ports of its own](Tftp::own_ports) and a [short block](Tftp::max_block) keep
//! that small. What is held is bounded: [transfers](Tftp::transfers) in all and for
//! [each address](Tftp::per_peer) (beyond, a request is refused), a window of at most 64 KiB and 64
//! blocks, read and read ahead, or 192 KiB of what is to be written, for each. Requests that were
//! sent to many are ignored (RFC 1123, 4.2.3.4), an ERROR is never answered, a second ACK never by
//! DATA (RFC 1123, 4.2.3.1).
//!
//! ```
//! use mbuf::{Address, stack::{Edge, PortId, Stack}, testing::MemoryStore};
//! use mbuf_protocols::Tftp;
//!
//! let pool = mbuf::Pool::with_memory(8 << 20)?;
//! let store = MemoryStore::sending(&pool, []);
//! store.handle().put("motd", b"welcome");
//! let tftp = Tftp::new(Box::new(store));
//! let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(tftp)])?;
//! stack.open();
//!
//! let mut request = pool.chain_from(b"\0\x01motd\0octet\0")?;
//! request.meta_mut().set_source(Address::Ip("192.0.2.2:3000".parse()?));
//! stack.input_one(PortId(0), request);
//! while stack.has_work() {
//!     stack.poll();
//! }
//! let data = stack.poll_output(PortId(0)).pop().unwrap();
//! assert_eq!(data.to_vec()?, b"\0\x03\0\x01welcome");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod netascii;
mod reading;
mod serve;
#[cfg(test)]
mod tests;
mod transfer;
mod wire;
mod writing;

use std::{collections::HashMap, fmt, hash::RandomState, time::Duration};

use mbuf::{
    Address, Chain,
    io::store::{FileNo, Folder, Store},
    stack::{Context, DropReason, Edge, Held, LayerInfo, Outcome, Protocol, Signal, Time, Timer},
};

use crate::{LOOP, net::Trouble};
use transfer::{Terms, Transfer};
use wire::opcode;

pub use netascii::{Decoder, encode};
pub use wire::{Code, Header, MAX_REQUEST, Mode, Options, Request, block_near};

/// The UDP port (IANA).
pub const PORT: u16 = 69;

/// It came before.
pub const DUPLICATE: DropReason = DropReason("duplicate");
/// There is no such transfer, or not with this peer.
pub const UNKNOWN_TRANSFER: DropReason = DropReason("unknown_transfer");
/// A request that was sent to many.
pub const TO_MANY: DropReason = DropReason("to_many");

/// A server. A packet is O(1) but for a search among the transfers where one begins, and where
/// their timer goes off.
pub struct Tftp {
    files: Files,
    write: bool,
    own_ports: bool,
    terms: Terms,
    max_transfers: usize,
    per_peer: usize,

    /// By the number of their file.
    transfers: Vec<Option<Transfer>>,
    peers: HashMap<Address, FileNo>,
    keys: RandomState,
    /// Ports given out so far.
    ports: u64,
    timer: Option<(Timer, Time)>,
    scratch: Vec<u8>,
}

/// Where files come from.
enum Files {
    /// A store there, once there is a pool.
    Folder(Folder),
    Store(Box<dyn Store>),
    /// There is none, or none any more.
    None,
}

impl Tftp {
    /// A server of what is in `store`, which may be read.
    ///
    /// ```
    /// use mbuf::{stack::Protocol, testing::MemoryStore};
    /// use mbuf_protocols::Tftp;
    ///
    /// assert_eq!(Tftp::new(Box::new(MemoryStore::new())).name(), "tftp");
    /// ```
    pub fn new(store: Box<dyn Store>) -> Self {
        Self::with(Files::Store(store))
    }

    /// A server of what is beneath a folder, in which it makes no further folders: when the stack is opened, it takes a
    /// [store](Folder::store) there, with the stack's pool, which must have clusters to read into. If
    /// it gets none (there can be no thread), it drops everything as [`DropReason::CLOSED`].
    ///
    /// ```
    /// use mbuf::{Pool, io::store::Folder, stack::{Edge, Stack}};
    /// use mbuf_protocols::Tftp;
    ///
    /// let folder = Folder::open(&std::env::temp_dir())?;
    /// let pool = Pool::with_memory(8 << 20)?;
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![Box::new(Tftp::folder(folder))])?;
    /// stack.open();
    /// assert_eq!(stack.held().chains, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn folder(folder: Folder) -> Self {
        Self::with(Files::Folder(folder.make_folders(false)))
    }

    fn with(files: Files) -> Self {
        Self {
            files,
            write: false,
            own_ports: false,
            terms: Terms {
                overwrite: false,
                max_size: 64 << 20,
                max_block: 65_464,
                interval: Duration::from_secs(1),
                tries: 6,
            },
            max_transfers: 64,
            per_peer: 8,
            transfers: Vec::new(),
            peers: HashMap::new(),
            keys: RandomState::new(),
            ports: 0,
            timer: None,
            scratch: Vec::new(),
        }
    }

    /// Whether files may be written. They may not, unless this says so.
    ///
    /// ```
    /// # use mbuf::testing::MemoryStore;
    /// # use mbuf_protocols::Tftp;
    /// let tftp = Tftp::new(Box::new(MemoryStore::new())).write(true);
    /// assert!(format!("{tftp:?}").contains("write: true"));
    /// ```
    pub fn write(mut self, yes: bool) -> Self {
        self.write = yes;
        self
    }

    /// Whether each transfer answers from a port of its own, chosen by chance. That takes a
    /// [`Udp`](crate::net::Udp) below, told to hand up what is for
    /// [any port](crate::net::Udp::any_port), and this bound to it twice.
    ///
    /// ```
    /// use mbuf::{Pool, stack::{Edge, Stack}, testing::MemoryStore};
    /// use mbuf_protocols::{Tftp, net::Udp, tftp};
    ///
    /// let pool = Pool::with_memory(8 << 20)?;
    /// let mut builder = Stack::builder(&pool);
    /// let udp = builder.layer(Udp::new().any_port(true));
    /// let tftp = builder.layer(Tftp::new(Box::new(MemoryStore::new())).own_ports(true));
    /// builder.port(Edge::Packets, udp); // IPv4 or IPv6, as a rule
    /// builder.bind(udp, tftp::PORT.into(), tftp).stack(udp, tftp);
    /// assert!(builder.build().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn own_ports(mut self, yes: bool) -> Self {
        self.own_ports = yes;
        self
    }

    /// Whether a file that is written may replace one. It may not, unless this says so.
    ///
    /// ```
    /// # use mbuf::testing::MemoryStore;
    /// # use mbuf_protocols::Tftp;
    /// let tftp = Tftp::new(Box::new(MemoryStore::new())).write(true).overwrite(true);
    /// assert!(format!("{tftp:?}").contains("overwrite: true"));
    /// ```
    pub fn overwrite(mut self, yes: bool) -> Self {
        self.terms.overwrite = yes;
        self
    }

    /// The longest file that is taken, in bytes: 64 MiB, unless this says otherwise.
    ///
    /// ```
    /// # use mbuf::testing::MemoryStore;
    /// # use mbuf_protocols::Tftp;
    /// let tftp = Tftp::new(Box::new(MemoryStore::new())).write(true).max_size(1 << 20);
    /// assert!(format!("{tftp:?}").contains("max_size: 1048576"));
    /// ```
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.terms.max_size = bytes;
        self
    }

    /// The longest block that is agreed to, from 8 to 65,464 bytes, which is what it is unless told
    /// (RFC 2348). What is longer than the path's MTU, less headers, goes in fragments.
    ///
    /// ```
    /// # use mbuf::testing::MemoryStore;
    /// # use mbuf_protocols::Tftp;
    /// let tftp = Tftp::new(Box::new(MemoryStore::new())).max_block(1428);
    /// assert!(format!("{tftp:?}").contains("max_block: 1428"));
    /// ```
    pub fn max_block(mut self, bytes: u16) -> Self {
        self.terms.max_block = bytes.clamp(8, 65_464);
        self
    }

    /// The most transfers at once: 64, unless told. Further requests are refused.
    ///
    /// ```
    /// # use mbuf::testing::MemoryStore;
    /// # use mbuf_protocols::Tftp;
    /// let tftp = Tftp::new(Box::new(MemoryStore::new())).transfers(1000);
    /// assert!(format!("{tftp:?}").contains("max_transfers: 1000"));
    /// ```
    pub fn transfers(mut self, most: usize) -> Self {
        self.max_transfers = most;
        self
    }

    /// The most transfers of one IP address: 8, unless told.
    ///
    /// ```
    /// # use mbuf::testing::MemoryStore;
    /// # use mbuf_protocols::Tftp;
    /// let tftp = Tftp::new(Box::new(MemoryStore::new())).per_peer(1);
    /// assert!(format!("{tftp:?}").contains("per_peer: 1"));
    /// ```
    pub fn per_peer(mut self, most: usize) -> Self {
        self.per_peer = most;
        self
    }

    /// How long a peer has before something is sent again, which doubles each time up to sixteen
    /// seconds, and how often he is waited for: a second and six times, unless told. (The
    /// option timeout sets the time, up to half a minute; one who never answers has three tries.)
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use mbuf::testing::MemoryStore;
    /// # use mbuf_protocols::Tftp;
    /// let tftp = Tftp::new(Box::new(MemoryStore::new())).retry(Duration::from_millis(200), 8);
    /// assert!(format!("{tftp:?}").contains("tries: 8"));
    /// ```
    pub fn retry(mut self, after: Duration, tries: u32) -> Self {
        (self.terms.interval, self.terms.tries) = (after, tries);
        self
    }
}

impl Protocol for Tftp {
    fn name(&self) -> &str {
        "tftp"
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).shared_slot::<Trouble>().reasons(&[
            LOOP,
            DUPLICATE,
            UNKNOWN_TRANSFER,
            TO_MANY,
        ])
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        if matches!(self.files, Files::None) {
            return cx.drop(chain, DropReason::CLOSED);
        }
        let short = chain.len() < size_of::<Header>();
        let header = match chain.header::<Header>() {
            Ok(&header) => header,
            Err(_) if short => return self.stranger(None, chain, cx),
            Err(_) => return cx.drop(chain, DropReason::NO_BUFFERS),
        };
        let opcode = header.opcode.get();
        let outcome = if self.serves(cx) && matches!(opcode, opcode::READ | opcode::WRITE) {
            self.request(chain, cx)
        } else if let Some(file) = self.find(chain.meta()) {
            self.step(file, cx, |transfer, hands| transfer.message(header, chain, hands));
            cx.held()
        } else {
            return self.stranger(Some(opcode), chain, cx);
        };
        // A store may have answered at once.
        self.woken(cx);
        outcome
    }

    /// Nothing belongs above it.
    fn output(&mut self, chain: Chain, cx: &mut Context<'_>) -> Outcome {
        cx.drop(chain, DropReason::UNBOUND)
    }

    fn timeout(&mut self, timer: Timer, cx: &mut Context<'_>) {
        if self.timer.is_none_or(|(armed, _)| armed != timer) {
            return;
        }
        self.timer = None;
        let now = cx.now();
        let due = |transfer: &Transfer| transfer.talk.deadline.is_some_and(|at| at <= now);
        self.each(cx, due, Transfer::timeout);
        let next = self.transfers.iter().flatten().filter_map(|transfer| transfer.talk.deadline);
        self.arm(next.min(), cx);
    }

    fn signal(&mut self, signal: Signal, cx: &mut Context<'_>) {
        match signal {
            Signal::Opened => self.open(cx),
            Signal::Woken => self.woken(cx),
            Signal::Writable => {
                let stalled = |transfer: &Transfer| transfer.talk.stalled;
                self.each(cx, stalled, |transfer, hands| Ok(transfer.go_on(hands)));
            }
            Signal::EndOfStream | Signal::Shutdown => self.close(cx),
            _ => {}
        }
    }

    /// O(transfers).
    fn held(&self) -> Held {
        let mut held = Held::default();
        self.transfers.iter().flatten().for_each(|transfer| held += transfer.held());
        held
    }
}

impl fmt::Debug for Tftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tftp")
            .field("write", &self.write)
            .field("own_ports", &self.own_ports)
            .field("terms", &self.terms)
            .field("max_transfers", &self.max_transfers)
            .field("per_peer", &self.per_peer)
            .field("transfers", &self.transfers.iter().flatten().count())
            .finish_non_exhaustive()
    }
}
