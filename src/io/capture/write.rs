//! Captures are written by ourselves: that is less than a library's types would take, and needs no
//! dependency.

use std::{
    fmt,
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    BYTE_ORDER, ENHANCED_PACKET, EPB_FLAGS, Format, IF_NAME, IF_TSRESOL, INTERFACE, Interface,
    MAX_PACKET, OPT_COMMENT, OPT_END, PCAP_MICRO, PCAP_NANO, Record, SECTION,
};
use crate::{
    chain::Chain,
    io::{Sent, Sink},
    queue::Queue,
    stack::Direction,
};

/// The longest name or comment that is written, in bytes.
const MAX_TEXT: usize = 1024;
/// Interfaces of a file.
const MAX_INTERFACES: usize = 4096;

/// Writes a capture, little-endian, with times in nanoseconds.
///
/// Each packet is one `write_all`, copied once before it: give it a `BufWriter`, and flush that at
/// the end. After an error nothing more is written, since half a packet may be there already.
///
/// ```
/// use mbuf::{Pool, io::capture::{CaptureWriter, Interface, LinkType, Record}};
///
/// let pool = Pool::with_memory(1 << 20)?;
/// let mut writer = CaptureWriter::pcapng(Vec::new())?;
/// let tap0 = writer.interface(Interface::new(LinkType::ETHERNET, "tap0"))?;
/// let record = Record { time: Some(1_000_000_000), interface: tap0, ..Record::default() };
/// writer.write(&record, &pool.chain_from(&[0; 60])?)?;
/// assert_eq!(writer.packets(), 1);
/// assert_eq!(writer.into_inner().len(), 28 + 40 + 92);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CaptureWriter<W> {
    out: W,
    format: Format,
    interfaces: Vec<Interface>,
    block: Vec<u8>,
    packets: u64,
    failed: bool,
    /// A pcap with times in microseconds.
    micro: bool,
}

impl<W: Write> CaptureWriter<W> {
    /// Begins a pcapng file; it has no interface yet.
    ///
    /// # Errors
    /// Those of `out`.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureWriter, Format};
    ///
    /// assert_eq!(CaptureWriter::pcapng(Vec::new())?.format(), Format::Pcapng);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn pcapng(out: W) -> io::Result<Self> {
        let mut writer = Self::new(out, Format::Pcapng);
        writer.begin(SECTION);
        writer.put(&BYTE_ORDER.to_le_bytes());
        writer.put(&[1, 0, 0, 0]); // version 1.0
        writer.put(&u64::MAX.to_le_bytes()); // a section of unknown length
        writer.end()?;
        Ok(writer)
    }

    /// Begins a pcap file, whose only interface is this one.
    ///
    /// # Errors
    /// Those of `out`.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureWriter, Interface, LinkType};
    ///
    /// let writer = CaptureWriter::pcap(Vec::new(), Interface::new(LinkType::RAW, ""))?;
    /// assert_eq!(writer.interfaces()[0].link, LinkType::RAW);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn pcap(out: W, interface: Interface) -> io::Result<Self> {
        Self::pcap_with(out, interface, PCAP_NANO)
    }

    /// As [`pcap`](Self::pcap), with times in microseconds, for readers that are older than 2013.
    ///
    /// # Errors
    /// Those of `out`.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureWriter, Interface, LinkType};
    ///
    /// let writer = CaptureWriter::pcap_micro(Vec::new(), Interface::new(LinkType::RAW, ""))?;
    /// assert_eq!(writer.into_inner()[..4], 0xa1b2c3d4_u32.to_le_bytes());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn pcap_micro(out: W, interface: Interface) -> io::Result<Self> {
        Self::pcap_with(out, interface, PCAP_MICRO)
    }

    fn pcap_with(out: W, interface: Interface, magic: u32) -> io::Result<Self> {
        let mut writer = Self::new(out, Format::Pcap);
        writer.block.extend_from_slice(&magic.to_le_bytes());
        writer.block.extend_from_slice(&[2, 0, 4, 0]); // version 2.4
        writer.block.extend_from_slice(&[0; 8]); // UTC, of unknown accuracy
        writer.block.extend_from_slice(&(interface.most() as u32).to_le_bytes());
        writer.block.extend_from_slice(&u32::from(interface.link.0).to_le_bytes());
        writer.interfaces.push(interface);
        writer.flush_block()?;
        writer.micro = magic == PCAP_MICRO;
        Ok(writer)
    }

    fn new(out: W, format: Format) -> Self {
        let (interfaces, block) = (Vec::new(), Vec::new());
        Self { out, format, interfaces, block, packets: 0, failed: false, micro: false }
    }

    /// Adds an interface; its number for [`Record::interface`].
    ///
    /// # Errors
    /// `InvalidInput` for a second one in pcap, or too many (4,096); those of the output.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureWriter, Interface, LinkType};
    ///
    /// let (eth, ip) =
    ///     (Interface::new(LinkType::ETHERNET, "eth0"), Interface::new(LinkType::RAW, "tun0"));
    /// let mut writer = CaptureWriter::pcapng(Vec::new())?;
    /// assert_eq!((writer.interface(eth.clone())?, writer.interface(ip.clone())?), (0, 1));
    /// assert!(CaptureWriter::pcap(Vec::new(), eth)?.interface(ip).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn interface(&mut self, interface: Interface) -> io::Result<u32> {
        if self.format == Format::Pcap {
            return Err(invalid("a pcap file has one interface: write pcapng".to_owned()));
        }
        let number = self.interfaces.len();
        if number == MAX_INTERFACES {
            return Err(invalid(format!("a capture has at most {MAX_INTERFACES} interfaces")));
        }
        self.begin(INTERFACE);
        self.put(&interface.link.0.to_le_bytes());
        self.put(&[0; 2]);
        self.put(&interface.snap_len.to_le_bytes());
        if let Some(name) = &interface.name {
            self.option(IF_NAME, cut(name).as_bytes());
        }
        self.option(IF_TSRESOL, &[9]);
        self.option(OPT_END, &[]);
        self.end()?;
        self.interfaces.push(interface);
        Ok(number as u32)
    }

    /// Writes a packet: as many bytes of the chain as the interface's limit allows. One copy of
    /// them; no allocation once the longest packet has been seen.
    ///
    /// # Errors
    /// `InvalidInput` for an interface that there is not; those of the output, and of a chain over a
    /// file that was cut short. Nothing is written then, or, where the output failed, nobody knows
    /// how much, and all later calls fail.
    ///
    /// ```
    /// use mbuf::{Pool, io::capture::{CaptureWriter, Interface, LinkType, Record}};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let short = Interface { snap_len: 20, ..Interface::new(LinkType::RAW, "") };
    /// let mut writer = CaptureWriter::pcap(Vec::new(), short)?;
    /// writer.write(&Record::default(), &pool.chain_from(&[0x45; 1000])?)?;
    /// assert_eq!(writer.into_inner().len(), 24 + 16 + 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(&mut self, record: &Record, chain: &Chain) -> io::Result<()> {
        let Some(interface) = self.interfaces.get(record.interface as usize) else {
            let (wanted, there) = (record.interface, self.interfaces.len());
            return Err(invalid(format!("no interface {wanted}: the capture has {there}")));
        };
        let captured = chain.len().min(interface.most());
        let original = (record.original as usize).max(chain.len()) as u32;
        let time = record.time.unwrap_or(0);
        match self.format {
            Format::Pcap => {
                let (seconds, nanos) = (time / 1_000_000_000, (time % 1_000_000_000) as u32);
                let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
                let fraction = if self.micro { nanos / 1000 } else { nanos };
                self.block.clear();
                for field in [seconds, fraction, captured as u32, original] {
                    self.block.extend_from_slice(&field.to_le_bytes());
                }
                self.bytes_of(chain, captured)?;
                self.flush_block()?;
            }
            Format::Pcapng => {
                self.begin(ENHANCED_PACKET);
                self.put(&record.interface.to_le_bytes());
                self.put(&((time >> 32) as u32).to_le_bytes());
                self.put(&(time as u32).to_le_bytes());
                self.put(&(captured as u32).to_le_bytes());
                self.put(&original.to_le_bytes());
                self.bytes_of(chain, captured)?;
                self.pad();
                if let Some(direction) = record.direction {
                    let flags: u32 = if direction == Direction::Up { 1 } else { 2 };
                    self.option(EPB_FLAGS, &flags.to_le_bytes());
                }
                if let Some(comment) = &record.comment {
                    self.option(OPT_COMMENT, cut(comment).as_bytes());
                }
                if record.direction.is_some() || record.comment.is_some() {
                    self.option(OPT_END, &[]);
                }
                self.end()?;
            }
        }
        self.packets += 1;
        Ok(())
    }

    /// Packets written so far.
    ///
    /// ```
    /// assert_eq!(mbuf::io::capture::CaptureWriter::pcapng(Vec::new())?.packets(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// The format.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureWriter, Format};
    ///
    /// assert_eq!(CaptureWriter::pcapng(Vec::new())?.format(), Format::Pcapng);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn format(&self) -> Format {
        self.format
    }

    /// The interfaces.
    ///
    /// ```
    /// use mbuf::io::capture::CaptureWriter;
    ///
    /// assert!(CaptureWriter::pcapng(Vec::new())?.interfaces().is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Flushes the output.
    ///
    /// # Errors
    /// Those of the output.
    ///
    /// ```
    /// use std::io::BufWriter;
    ///
    /// let mut writer = mbuf::io::capture::CaptureWriter::pcapng(BufWriter::new(Vec::new()))?;
    /// writer.flush()?;
    /// assert_eq!(writer.into_inner().get_ref().len(), 28);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The output.
    ///
    /// ```
    /// let writer = mbuf::io::capture::CaptureWriter::pcapng(Vec::new())?;
    /// assert_eq!(writer.into_inner()[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_inner(self) -> W {
        self.out
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.put(&kind.to_le_bytes());
        self.put(&[0; 4]);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.put(&code.to_le_bytes());
        self.put(&(value.len() as u16).to_le_bytes());
        self.put(value);
        self.pad();
    }

    fn bytes_of(&mut self, chain: &Chain, n: usize) -> io::Result<()> {
        let start = self.block.len();
        self.block.resize(start + n, 0);
        Ok(chain.peek(0, &mut self.block[start..])?)
    }

    /// Fills in the length of a block, and writes it.
    fn end(&mut self) -> io::Result<()> {
        let len = (self.block.len() as u32 + 4).to_le_bytes();
        self.put(&len);
        self.block[4..8].copy_from_slice(&len);
        self.flush_block()
    }

    fn flush_block(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write to this capture has failed"));
        }
        let written = self.out.write_all(&self.block);
        self.failed = written.is_err();
        written
    }
}

impl<W> fmt::Debug for CaptureWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureWriter")
            .field("format", &self.format)
            .field("interfaces", &self.interfaces)
            .field("packets", &self.packets)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// A [`Sink`] that writes what it is given to a capture.
///
/// A chain's interface is that of its [`Meta::ingress`](crate::Meta::ingress), if there are so many,
/// else the first. Its time is what [`set_time`](CaptureSink::set_time) said last, else the system's.
///
/// ```
/// use mbuf::{Pool, Queue, io::{Sent, Sink}};
/// use mbuf::io::capture::{CaptureSink, CaptureWriter, Interface, LinkType};
///
/// let pool = Pool::with_memory(1 << 20)?;
/// let writer = CaptureWriter::pcap(Vec::new(), Interface::new(LinkType::RAW, ""))?;
/// let mut sink = CaptureSink::new(writer);
/// let mut queue = Queue::new(16, 1 << 20);
/// queue.push(pool.chain_from(&[0x45; 20])?)?;
/// assert_eq!(sink.send(&mut queue)?, Sent::All);
/// assert_eq!(sink.into_writer().packets(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CaptureSink<W> {
    writer: CaptureWriter<W>,
    time: Option<u64>,
}

impl<W: Write> CaptureSink<W> {
    /// A sink over a writer, which has an interface by the first `send`.
    pub fn new(writer: CaptureWriter<W>) -> Self {
        Self { writer, time: None }
    }

    /// The time of what is sent from now on, in nanoseconds since 1970; `None`: the system's.
    ///
    /// ```
    /// use mbuf::io::capture::{CaptureSink, CaptureWriter};
    ///
    /// let mut sink = CaptureSink::new(CaptureWriter::pcapng(Vec::new())?);
    /// sink.set_time(Some(1_000_000_000)); // a second into 1970
    /// assert_eq!(sink.writer().packets(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_time(&mut self, time: Option<u64>) {
        self.time = time;
    }

    /// The writer.
    pub fn writer(&mut self) -> &mut CaptureWriter<W> {
        &mut self.writer
    }

    /// The writer, taken out.
    pub fn into_writer(self) -> CaptureWriter<W> {
        self.writer
    }
}

impl<W: Write> Sink for CaptureSink<W> {
    /// Writes all of them; never `WouldBlock`.
    fn send(&mut self, queue: &mut Queue) -> io::Result<Sent> {
        while let Some(chain) = queue.front() {
            let ingress = u32::from(chain.meta().ingress());
            let known = (ingress as usize) < self.writer.interfaces.len();
            let record = Record {
                time: Some(self.time.unwrap_or_else(system_time)),
                interface: if known { ingress } else { 0 },
                ..Record::default()
            };
            self.writer.write(&record, chain)?;
            queue.pop();
        }
        Ok(Sent::All)
    }
}

/// Nanoseconds since 1970.
fn system_time() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// As much of a text as is written.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

#[cold]
fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

const _: () = assert!(MAX_PACKET < u32::MAX as usize / 2);
