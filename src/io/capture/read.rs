//! Reading captures. What a block says is parsed by `pcap-parser`; where it begins and ends is found
//! here, so that every length is checked before a byte of memory is taken for it, and said by
//! number when it lies.

mod blocks;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    ops::Range,
    path::Path,
};

use pcap_parser::{
    parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};

use self::blocks::{Clock, Skipped};
use super::{Format, Interface, LinkType, MAX_PACKET, PCAP_MICRO, PCAP_NANO, Record, SECTION};
use crate::{
    chain::Chain,
    error::Error,
    io::{Received, Source, error::rename},
    pool::{Class, Receiver},
    queue::Batch,
};

/// What is read at once.
const CHUNK: usize = 64 << 10;
/// As libpcap once wrote it for a patched Linux kernel: records of 24 bytes. Little-endian only.
const PCAP_PATCHED: u32 = 0xa1b2_cd34;

/// A [`Source`] that reads a capture file, pcap or pcapng in either byte order: a chain for each
/// packet, whose [`Meta::ingress`](crate::Meta::ingress) is its interface.
///
/// What the file says beside the bytes is in [`records`](Self::records), for each chain of the last
/// `recv`. Blocks that hold no packet and no interface are skipped, whatever their length.
///
/// A file that was cut short gives the packets before the cut, and then an error of kind
/// `UnexpectedEof` that names the file and the place; one that lies about a length gives
/// `InvalidData`, with the numbers. After an error it is closed.
///
/// Memory: a buffer of 64 KiB, more for longer packets, at most 512 KiB. Each byte is copied once.
///
/// ```
/// use mbuf::{Batch, Pool, io::{Received, Source}};
/// use mbuf::io::capture::{CaptureSource, CaptureWriter, Interface, LinkType, Record};
///
/// let pool = Pool::with_memory(1 << 20)?;
/// let mut writer = CaptureWriter::pcap(Vec::new(), Interface::new(LinkType::ETHERNET, ""))?;
/// let record = Record { time: Some(1_500_000_000_000_000_001), ..Record::default() };
/// writer.write(&record, &pool.chain_from(&[0xff; 60])?)?;
/// let file = writer.into_inner();
///
/// let mut source = CaptureSource::new(&file[..], "memory")?;
/// let mut batch = Batch::new();
/// assert_eq!(source.recv(&pool.receiver(), &mut batch)?, Received::Chains(1));
/// assert_eq!((batch.pop().unwrap().len(), source.records()[0].time), (60, record.time));
/// assert_eq!(source.recv(&pool.receiver(), &mut batch)?, Received::Closed);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CaptureSource<R> {
    input: R,
    name: String,
    format: Format,
    big_endian: bool,
    /// Of pcap: length of a record's header, and nanoseconds in a unit of time.
    header: usize,
    unit: u64,
    /// What was read and not parsed yet is in this range.
    buffer: Vec<u8>,
    unread: Range<usize>,
    /// Where in the file the first unread byte is.
    position: u64,
    interfaces: Vec<Interface>,
    clocks: Vec<Clock>,
    /// The first interface of this section.
    section: usize,
    accepted: Vec<LinkType>,
    packets: u64,
    skipped: u64,
    /// The packet at the front, for which there was no buffer.
    pending: Option<Packet>,
    skipping: Option<Skipped>,
    records: Vec<Record>,
    error: Option<io::Error>,
    ended: bool,
}

/// A packet in the buffer: what is known of it, where its bytes are, and where it ends.
struct Packet {
    record: Record,
    bytes: Range<usize>,
    end: usize,
}

impl CaptureSource<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// What the system says, as `open of PATH: ...`; as [`CaptureSource::new`].
    ///
    /// ```
    /// use mbuf::io::capture::CaptureSource;
    ///
    /// let error = CaptureSource::open("/nonexistent".as_ref()).unwrap_err();
    /// assert!(error.to_string().starts_with("open of /nonexistent: ENOENT"));
    /// ```
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).map_err(|error| rename("open of", path.display(), error))?;
        Self::new(file, &path.display().to_string())
    }
}

impl<R: Read> CaptureSource<R> {
    /// Reads the beginning of a capture; `name` is for messages. A buffer is of no use to `input`.
    ///
    /// # Errors
    /// `InvalidData` for what is neither pcap nor pcapng, `UnexpectedEof` for what ends before that
    /// can be told; those of `input`.
    ///
    /// ```
    /// use mbuf::io::capture::CaptureSource;
    ///
    /// let error = CaptureSource::new(&b"#!/bin/sh\nexit 0"[..], "script").unwrap_err();
    /// assert_eq!(error.to_string(), "capture script: neither pcap nor pcapng: it begins with 23 21 2f 62");
    /// ```
    pub fn new(input: R, name: &str) -> io::Result<Self> {
        let mut source = Self {
            input,
            name: name.to_owned(),
            format: Format::Pcapng,
            big_endian: false,
            header: 16,
            unit: 1000,
            buffer: Vec::new(),
            unread: 0..0,
            position: 0,
            interfaces: Vec::new(),
            clocks: Vec::new(),
            section: 0,
            accepted: Vec::new(),
            packets: 0,
            skipped: 0,
            pending: None,
            skipping: None,
            records: Vec::new(),
            error: None,
            ended: false,
        };
        source.begin()?;
        Ok(source)
    }

    /// Refuses packets of other link types than these, each time by an error that names them.
    ///
    /// ```
    /// use mbuf::{Batch, Pool, io::Source};
    /// use mbuf::io::capture::{CaptureSource, CaptureWriter, Interface, LinkType, Record};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let mut writer = CaptureWriter::pcapng(Vec::new())?;
    /// writer.interface(Interface::new(LinkType::LINUX_SLL, "any"))?;
    /// writer.write(&Record::default(), &pool.chain_from(&[0; 60])?)?;
    /// let file = writer.into_inner();
    ///
    /// let mut source = CaptureSource::new(&file[..], "f")?.accept(&[LinkType::ETHERNET]);
    /// let error = source.recv(&pool.receiver(), &mut Batch::new()).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "capture f: packet 1 of interface 0 (any) is LINUX_SLL (113); wanted: ETHERNET (1)",
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn accept(mut self, links: &[LinkType]) -> Self {
        self.accepted = links.to_vec();
        self
    }

    /// What is known of each chain that the last [`recv`](Source::recv) brought, in order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The interfaces that were met so far, of all sections.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureSource, CaptureWriter, Interface, LinkType};
    ///
    /// let file = CaptureWriter::pcap(Vec::new(), Interface::new(LinkType::RAW, ""))?.into_inner();
    /// assert_eq!(CaptureSource::new(&file[..], "f")?.interfaces()[0].link, LinkType::RAW);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The format.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureSource, CaptureWriter, Format};
    ///
    /// let file = CaptureWriter::pcapng(Vec::new())?.into_inner();
    /// assert_eq!(CaptureSource::new(&file[..], "f")?.format(), Format::Pcapng);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn format(&self) -> Format {
        self.format
    }

    /// Packets read so far.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureSource, CaptureWriter};
    ///
    /// let file = CaptureWriter::pcapng(Vec::new())?.into_inner();
    /// assert_eq!(CaptureSource::new(&file[..], "f")?.packets(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Blocks that were skipped: statistics, names of hosts, whatever is not known here.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureSource, CaptureWriter};
    ///
    /// let file = CaptureWriter::pcapng(Vec::new())?.into_inner();
    /// assert_eq!(CaptureSource::new(&file[..], "f")?.skipped(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn begin(&mut self) -> io::Result<()> {
        if !self.fill(4)? {
            return Err(self.cut_short("its magic number", 4));
        }
        let magic = self.u32_at(0);
        if magic == SECTION {
            return Ok(()); // as every other section
        }
        let big_endian = [PCAP_MICRO, PCAP_NANO].contains(&magic.swap_bytes());
        let native = if big_endian { magic.swap_bytes() } else { magic };
        if ![PCAP_MICRO, PCAP_NANO, PCAP_PATCHED].contains(&native) {
            let first = magic.to_le_bytes().map(|byte| format!("{byte:02x}")).join(" ");
            return Err(self.invalid(format!("neither pcap nor pcapng: it begins with {first}")));
        }
        if !self.fill(24)? {
            return Err(self.cut_short("the header", 24));
        }
        let Ok((_, header)) = parse_pcap_header(self.unread()) else {
            return Err(self.invalid("its header cannot be parsed".to_owned()));
        };
        self.format = Format::Pcap;
        self.big_endian = big_endian;
        self.unit = if native == PCAP_NANO { 1 } else { 1000 };
        self.header = if native == PCAP_PATCHED { 24 } else { 16 };
        // The upper bits say how long a checksum each frame ends with.
        let link = LinkType(header.network.0 as u16);
        self.interfaces.push(Interface { link, name: None, snap_len: header.snaplen });
        self.consume(24);
        Ok(())
    }

    /// The next packet, still in the buffer; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Packet>> {
        let packet = match self.format {
            Format::Pcap => self.next_of_pcap()?,
            Format::Pcapng => loop {
                if self.skipping.is_none() && !self.fill(1)? {
                    break None;
                }
                if let Some(packet) = self.next_block()? {
                    break Some(packet);
                }
            },
        };
        let Some(mut packet) = packet else { return Ok(None) };
        packet.record.number = self.packets + 1;
        self.check_link(&packet.record)?;
        Ok(Some(packet))
    }

    fn next_of_pcap(&mut self) -> io::Result<Option<Packet>> {
        if !self.fill(self.header)? {
            if self.unread.is_empty() {
                return Ok(None);
            }
            return Err(self.cut_short("the header of a packet", self.header));
        }
        let captured = self.u32_at(8) as usize;
        if captured > MAX_PACKET {
            let at = self.position;
            return Err(self.invalid(format!(
                "the packet at byte {at} is said to be {captured} bytes; {MAX_PACKET} are the most"
            )));
        }
        if !self.fill(self.header + captured)? {
            return Err(self.cut_short("a packet", self.header + captured));
        }
        let parse = match (self.big_endian, self.header) {
            (true, _) => parse_pcap_frame_be,
            (false, 24) => parse_pcap_frame_modified,
            (false, _) => parse_pcap_frame,
        };
        let Ok((_, frame)) = parse(self.unread()) else {
            return Err(self.invalid(format!("the packet at byte {} is malformed", self.position)));
        };
        let nanos = u64::from(frame.ts_usec) * self.unit;
        let record = Record {
            time: Some(u64::from(frame.ts_sec) * 1_000_000_000 + nanos),
            captured: frame.caplen,
            original: frame.origlen,
            ..Record::default()
        };
        let end = self.header + captured;
        Ok(Some(Packet { record, bytes: self.header..end, end }))
    }

    fn check_link(&self, record: &Record) -> io::Result<()> {
        let Some(interface) = self.interfaces.get(record.interface as usize) else { return Ok(()) };
        if self.accepted.is_empty() || self.accepted.contains(&interface.link) {
            return Ok(());
        }
        let (packet, number, link) = (record.number, record.interface, interface.link);
        let name = interface.name.as_ref().map_or(String::new(), |name| format!(" ({name})"));
        let wanted: Vec<_> = self.accepted.iter().map(|link| link.to_string()).collect();
        let wanted = wanted.join(", ");
        Err(self.invalid(format!(
            "packet {packet} of interface {number}{name} is {link}; wanted: {wanted}"
        )))
    }
}

/// The buffer.
impl<R: Read> CaptureSource<R> {
    /// Whether there are `n` unread bytes, after reading as many as that takes.
    fn fill(&mut self, n: usize) -> io::Result<bool> {
        while self.unread.len() < n {
            if self.unread.start + n > self.buffer.len() {
                self.buffer.copy_within(self.unread.clone(), 0);
                self.unread = 0..self.unread.len();
                let len = self.buffer.len().max(n.next_multiple_of(CHUNK));
                self.buffer.resize(len, 0);
            }
            let room = &mut self.buffer[self.unread.end..];
            match self.input.read(room) {
                Ok(0) => return Ok(false),
                Ok(read) => self.unread.end += read.min(room.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(rename("read of", &self.name, error)),
            }
        }
        Ok(true)
    }

    fn consume(&mut self, n: usize) {
        self.unread.start += n;
        self.position += n as u64;
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.unread.clone()]
    }

    /// `N` bytes that [`fill`](Self::fill) has made sure of.
    fn array_at<const N: usize>(&self, at: usize) -> [u8; N] {
        self.unread().get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    fn u32_at(&self, at: usize) -> u32 {
        let bytes = self.array_at(at);
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    fn u16_at(&self, at: usize) -> u16 {
        let bytes = self.array_at(at);
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    #[cold]
    fn malformed(&self, kind: u32) -> io::Error {
        self.invalid(format!("the block of type {kind:#x} at byte {} is malformed", self.position))
    }

    #[cold]
    fn invalid(&self, what: String) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("capture {}: {what}", self.name))
    }

    #[cold]
    fn cut_short(&self, what: &str, needed: usize) -> io::Error {
        self.cut_short_from(what, self.position, needed)
    }

    #[cold]
    fn cut_short_from(&self, what: &str, at: u64, needed: usize) -> io::Error {
        let (name, end) = (&self.name, self.position + self.unread.len() as u64);
        let text = format!(
            "capture {name} is cut short: {what} at byte {at} needs {needed} bytes, the file ends \
             at {end}"
        );
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }
}

impl<R: Read> Source for CaptureSource<R> {
    /// As many packets as there is room for in the batch. `WouldBlock` only where the input says so.
    fn recv(&mut self, receiver: &Receiver, batch: &mut Batch) -> io::Result<Received> {
        self.records.clear();
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let most = batch.room().max(1);
        let mut starved = false;
        while !self.ended && self.records.len() < most {
            let next = match self.pending.take() {
                Some(packet) => Ok(Some(packet)),
                None => self.next(),
            };
            let packet = match next {
                Ok(Some(packet)) => packet,
                Ok(None) => {
                    self.ended = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.ended = true;
                    if self.records.is_empty() {
                        return Err(error);
                    }
                    // What came before it first.
                    self.error = Some(error);
                    break;
                }
            };
            let Ok(mut chain) = chain_of(receiver, &self.unread()[packet.bytes.clone()]) else {
                self.pending = Some(packet);
                starved = true;
                break;
            };
            chain.meta_mut().set_ingress(packet.record.interface as u16);
            self.packets += 1;
            self.consume(packet.end);
            self.records.push(packet.record);
            batch.push(chain);
        }
        Ok(match self.records.len() {
            0 if self.ended => Received::Closed,
            0 if starved => Received::NoBuffers,
            0 => Received::WouldBlock,
            n => Received::Chains(n),
        })
    }
}

impl<R> fmt::Debug for CaptureSource<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureSource")
            .field("name", &self.name)
            .field("format", &self.format)
            .field("position", &self.position)
            .field("packets", &self.packets)
            .field("skipped", &self.skipped)
            .field("interfaces", &self.interfaces)
            .finish_non_exhaustive()
    }
}

/// A chain with the pool's headroom, in the smallest buffer that holds the packet, or else in
/// several. All of them are drawn from the receiver.
fn chain_of(receiver: &Receiver, bytes: &[u8]) -> Result<Chain, Error> {
    let headroom = receiver.pool().headroom();
    let fits = |class: &Class| class.data_len() >= headroom + bytes.len();
    let best = Class::ALL.iter().position(fits).unwrap_or(Class::ALL.len() - 1);
    let mut refused = Error::NoBuffers { class: Class::ALL[best] };
    for &class in Class::ALL[..=best].iter().rev() {
        if class.data_len() <= headroom {
            break;
        }
        match chain_in(receiver, class, headroom, bytes) {
            Ok(chain) => return Ok(chain),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn chain_in(
    receiver: &Receiver,
    class: Class,
    headroom: usize,
    bytes: &[u8],
) -> Result<Chain, Error> {
    let mut chain = receiver.chain_in(class, headroom)?;
    let (first, rest) = bytes.split_at(bytes.len().min(chain.tailroom()));
    chain.extend_from_slice(first)?;
    for part in rest.chunks(class.data_len()) {
        let mut more = receiver.chain_in(class, 0)?;
        more.extend_from_slice(part)?;
        chain.concat(more).map_err(|rejected| rejected.error)?;
    }
    Ok(chain)
}
