//! The blocks of pcapng.

use std::io::{self, Read};

use pcap_parser::pcapng::{
    parse_enhancedpacketblock_be, parse_enhancedpacketblock_le, parse_interfacedescriptionblock_be,
    parse_interfacedescriptionblock_le, parse_sectionheaderblock,
};

use super::{
    super::{
        BYTE_ORDER, ENHANCED_PACKET, EPB_FLAGS, IF_NAME, IF_TSOFFSET, IF_TSRESOL, INTERFACE,
        Interface, LinkType, MAX_PACKET, OLD_PACKET, OPT_COMMENT, Record, SECTION, SIMPLE_PACKET,
    },
    CaptureSource, Packet,
};
use crate::stack::Direction;

/// The longest block that is parsed: a packet, with as much beside it.
const MAX_BLOCK: usize = 2 * MAX_PACKET;
/// Interfaces of all sections together.
const MAX_INTERFACES: usize = 4096;
/// Bytes of a name or a comment that are kept.
const MAX_TEXT: usize = 1024;

/// A block that is being passed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Skipped {
    kind: u32,
    len: usize,
    at: u64,
    /// Bytes before its last four.
    left: usize,
}

/// How an interface counts time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// As in `if_tsresol`: a power of ten, or of two where the first bit is set.
    resolution: u8,
    /// Seconds to add.
    offset: i64,
}

impl Clock {
    /// Nanoseconds since 1970.
    fn time(self, units: u64) -> u64 {
        let nanos = u128::from(units) * 1_000_000_000;
        let exponent = u32::from(self.resolution & 0x7f);
        let nanos = match self.resolution & 0x80 {
            0 => 10_u128.checked_pow(exponent).map_or(0, |units| nanos / units),
            _ => nanos >> exponent,
        };
        // Less than 2^94, so neither overflows.
        let nanos = nanos as i128 + i128::from(self.offset) * 1_000_000_000;
        u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
    }
}

impl<R: Read> CaptureSource<R> {
    /// A block of pcapng: a packet, or what was learnt or skipped.
    pub(super) fn next_block(&mut self) -> io::Result<Option<Packet>> {
        if let Some(block) = self.skipping {
            self.skip(block)?;
            return Ok(None);
        }
        if !self.fill(12)? {
            return Err(self.cut_short("a block", 12));
        }
        if self.u32_at(0) == SECTION {
            // The same in either byte order, which comes after it.
            self.big_endian = match self.array_at(8) {
                order if order == BYTE_ORDER.to_le_bytes() => false,
                order if order == BYTE_ORDER.to_be_bytes() => true,
                order => {
                    let (at, order) = (self.position, u32::from_be_bytes(order));
                    return Err(self.invalid(format!(
                        "the section at byte {at} has byte-order magic {order:#010x}"
                    )));
                }
            };
        }
        let (kind, len) = (self.u32_at(0), self.u32_at(4) as usize);
        if len < 12 || len % 4 != 0 {
            let at = self.position;
            return Err(self.invalid(format!(
                "the block of type {kind:#x} at byte {at} is said to be {len} bytes: not a multiple \
                 of 4 from 12 on"
            )));
        }
        let known = [SECTION, INTERFACE, ENHANCED_PACKET, SIMPLE_PACKET, OLD_PACKET];
        if !known.contains(&kind) {
            self.skip(Skipped { kind, len, at: self.position, left: len - 4 })?;
            return Ok(None);
        }
        if len > MAX_BLOCK {
            let at = self.position;
            return Err(self.invalid(format!(
                "the block of type {kind:#x} at byte {at} is said to be {len} bytes; {MAX_BLOCK} \
                 are the most"
            )));
        }
        if !self.fill(len)? {
            return Err(self.cut_short("a block", len));
        }
        self.check_trailer(kind, len, len - 4)?;
        let done = match kind {
            SECTION => self.learn_section(len),
            INTERFACE if self.interfaces.len() == MAX_INTERFACES => {
                return Err(self.invalid(format!("more than {MAX_INTERFACES} interfaces")));
            }
            INTERFACE => self.learn_interface(len),
            _ => return self.packet(kind, len).map(Some),
        };
        if done.is_none() {
            return Err(self.malformed(kind));
        }
        self.consume(len);
        Ok(None)
    }

    /// The length that a block repeats at its end.
    fn check_trailer(&self, kind: u32, len: usize, at: usize) -> io::Result<()> {
        let again = self.u32_at(at) as usize;
        if again == len {
            return Ok(());
        }
        Err(self.invalid(format!(
            "a block of type {kind:#x} is said to be {len} bytes at its start and {again} at its \
             end, at byte {}",
            self.position + at as u64
        )))
    }

    /// Passes over a block without keeping it.
    fn skip(&mut self, block: Skipped) -> io::Result<()> {
        // Where the input has nothing more for now, it goes on from here.
        self.skipping = Some(block);
        let Skipped { kind, len, at, mut left } = block;
        while left > 0 && self.fill(1)? {
            let part = left.min(self.unread.len());
            self.consume(part);
            left -= part;
            self.skipping = Some(Skipped { left, ..block });
        }
        if left > 0 || !self.fill(4)? {
            return Err(self.cut_short_from("a block", at, len));
        }
        self.check_trailer(kind, len, 0)?;
        self.consume(4);
        self.skipping = None;
        self.skipped += 1;
        Ok(())
    }

    /// A section begins: its interfaces are counted from 0 again in the file, not here. `None`:
    /// malformed.
    fn learn_section(&mut self, len: usize) -> Option<()> {
        let (_, section) = parse_sectionheaderblock(&self.unread()[..len]).ok()?;
        if section.major_version != 1 {
            return None;
        }
        self.section = self.interfaces.len();
        Some(())
    }

    fn learn_interface(&mut self, len: usize) -> Option<()> {
        let block = &self.unread()[..len];
        let (_, block) = if self.big_endian {
            parse_interfacedescriptionblock_be(block).ok()?
        } else {
            parse_interfacedescriptionblock_le(block).ok()?
        };
        let mut interface = Interface {
            link: LinkType(block.linktype.0 as u16),
            name: None,
            snap_len: block.snaplen,
        };
        let mut clock = Clock { resolution: 6, offset: 0 };
        for option in &block.options {
            match (option.code.0, option.as_bytes().ok()?) {
                (IF_NAME, name) => interface.name = Some(text(name)),
                (IF_TSRESOL, &[resolution]) => clock.resolution = resolution,
                // The library has these little-endian in every section.
                (IF_TSOFFSET, offset) => {
                    let offset = offset.try_into().ok()?;
                    let little = i64::from_le_bytes(offset);
                    clock.offset = if self.big_endian { little.swap_bytes() } else { little };
                }
                _ => {}
            }
        }
        self.interfaces.push(interface);
        self.clocks.push(clock);
        Some(())
    }

    /// A block that holds a packet.
    fn packet(&self, kind: u32, len: usize) -> io::Result<Packet> {
        let at = self.position;
        let least = if kind == SIMPLE_PACKET { 16 } else { 32 };
        if len < least {
            return Err(self.malformed(kind));
        }
        let interface = self.section
            + match kind {
                ENHANCED_PACKET => self.u32_at(8) as usize,
                OLD_PACKET => usize::from(self.u16_at(8)),
                _ => 0,
            };
        let (Some(there), Some(clock)) =
            (self.interfaces.get(interface), self.clocks.get(interface))
        else {
            return Err(self.invalid(format!(
                "the packet at byte {at} is of interface {}; the section has {} so far",
                interface - self.section,
                self.interfaces.len() - self.section
            )));
        };
        let (start, captured, original) = match kind {
            SIMPLE_PACKET => {
                let original = self.u32_at(8);
                (12, (original as usize).min(there.most()), original)
            }
            _ => (28, self.u32_at(20) as usize, self.u32_at(24)),
        };
        if captured > MAX_PACKET || captured > len - least {
            return Err(self.invalid(format!(
                "the packet at byte {at} is said to be {captured} bytes, in a block of {len}; \
                 {MAX_PACKET} are the most"
            )));
        }
        let mut record = Record {
            interface: interface as u32,
            captured: captured as u32,
            original,
            ..Record::default()
        };
        if kind != SIMPLE_PACKET {
            let units = u64::from(self.u32_at(12)) << 32 | u64::from(self.u32_at(16));
            record.time = Some(clock.time(units));
        }
        let options = kind == ENHANCED_PACKET && len > least + captured.next_multiple_of(4);
        if options && self.note_options(len, &mut record).is_none() {
            return Err(self.malformed(kind));
        }
        Ok(Packet { record, bytes: start..start + captured, end: len })
    }

    /// What the options of an enhanced packet say. `None`: malformed.
    fn note_options(&self, len: usize, record: &mut Record) -> Option<()> {
        let block = &self.unread()[..len];
        let (_, block) = if self.big_endian {
            parse_enhancedpacketblock_be(block).ok()?
        } else {
            parse_enhancedpacketblock_le(block).ok()?
        };
        for option in &block.options {
            match (option.code.0, option.as_bytes().ok()?) {
                (OPT_COMMENT, comment) if record.comment.is_none() => {
                    record.comment = Some(text(comment));
                }
                (EPB_FLAGS, flags) => {
                    let little = u32::from_le_bytes(flags.try_into().ok()?);
                    let flags = if self.big_endian { little.swap_bytes() } else { little };
                    record.direction = match flags & 3 {
                        1 => Some(Direction::Up),
                        2 => Some(Direction::Down),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        Some(())
    }
}

/// A text of the file, as much of it as is kept.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned()
}
