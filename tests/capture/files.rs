//! Files made by hand, in both byte orders, and what may be wrong with them.

use std::io::{self, ErrorKind, Read};

use mbuf::{
    Batch, Class, Pool,
    io::{
        Received, Source,
        capture::{
            CaptureSink, CaptureSource, CaptureWriter, Format, Interface, LinkType, MAX_PACKET,
            Record,
        },
    },
    stack::Direction,
};
use proptest::prelude::*;

use crate::{Outcome, chain, pool, read};

/// A file in the making, in one of the byte orders.
#[derive(Clone)]
struct File {
    big: bool,
    bytes: Vec<u8>,
}

impl File {
    fn new(big: bool) -> Self {
        Self { big, bytes: Vec::new() }
    }

    fn u16(mut self, value: u16) -> Self {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn pad(mut self) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn pcap(big: bool, magic: u32, link: u32) -> Self {
        File::new(big).u32(magic).u16(2).u16(4).u32(0).u32(0).u32(65_535).u32(link)
    }

    fn frame(self, seconds: u32, fraction: u32, original: u32, bytes: &[u8]) -> Self {
        self.u32(seconds).u32(fraction).u32(bytes.len() as u32).u32(original).raw(bytes)
    }

    fn block(self, kind: u32, body: impl FnOnce(File) -> File) -> Self {
        let body = body(File::new(self.big)).pad().bytes;
        let len = body.len() as u32 + 12;
        self.u32(kind).u32(len).raw(&body).u32(len)
    }

    fn section(self) -> Self {
        self.block(0x0a0d_0d0a, |body| body.u32(0x1a2b_3c4d).u16(1).u16(0).raw(&[0xff; 8]))
    }

    fn option(self, code: u16, value: &[u8]) -> Self {
        self.u16(code).u16(value.len() as u16).raw(value).pad()
    }

    fn interface(self, link: u16, snap: u32, options: impl FnOnce(File) -> File) -> Self {
        self.block(1, |body| options(body.u16(link).u16(0).u32(snap)))
    }

    fn packet(self, interface: u32, units: u64, bytes: &[u8]) -> Self {
        self.block(6, |body| {
            let body = body.u32(interface).u32((units >> 32) as u32).u32(units as u32);
            body.u32(bytes.len() as u32).u32(bytes.len() as u32).raw(bytes)
        })
    }
}

fn times(got: &Outcome) -> Vec<Option<u64>> {
    got.packets.iter().map(|(record, _)| record.time).collect()
}

#[test]
fn pcap_in_both_byte_orders_and_both_units_of_time() {
    let pool = pool();
    for big in [false, true] {
        for (magic, unit) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            let file =
                File::pcap(big, magic, 1).frame(7, 5, 90, b"first").frame(8, 999_999, 0, b"");
            let got = read(&pool, &file.bytes[..]);
            assert_eq!(got.error, None, "big endian: {big}, {magic:#x}");
            assert_eq!(
                times(&got),
                [Some(7_000_000_000 + 5 * unit), Some(8_000_000_000 + 999_999 * unit)]
            );
            let (record, bytes) = &got.packets[0];
            assert_eq!((record.number, record.captured, record.original), (1, 5, 90));
            assert_eq!(bytes, b"first");
            assert_eq!(got.packets[1].0.number, 2);
            let ethernet = Interface { link: LinkType::ETHERNET, name: None, snap_len: 65_535 };
            assert_eq!(got.interfaces, [ethernet]);
        }
    }
    // The patched one has eight bytes more in each record; upper bits of the link type are flags.
    let file = File::pcap(false, 0xa1b2_cd34, 0xf400_0065).u32(1).u32(2).u32(3).u32(3);
    let got = read(&pool, &file.raw(&[0; 8]).raw(b"abc").bytes[..]);
    assert_eq!((got.error, got.interfaces[0].link), (None, LinkType::RAW));
    assert_eq!(got.packets[0].1, b"abc");
}

/// Everything that pcapng has, in one file.
fn rich(big: bool) -> File {
    File::new(big)
        .section()
        .block(0x0bad, |body| body.u32(32_473).raw(b"whatever"))
        .interface(1, 0, |body| body.option(2, b"eth0").option(9, &[9]).option(0, b""))
        .interface(101, 4, |body| {
            let offset = if body.big { 100_i64.to_be_bytes() } else { 100_i64.to_le_bytes() };
            body.option(9, &[0x80 | 10]).option(14, &offset)
        })
        .interface(113, 0, |body| body)
        .packet(0, 1_700_000_000_123_456_789, b"nanoseconds")
        .packet(1, 3 << 9, b"1.5 s later than 100")
        .packet(2, 1_700_000_000_123_456, b"microseconds")
        .block(3, |body| body.u32(9).raw(b"simple by"))
        .block(2, |body| body.u16(2).u16(0).u32(0).u32(5).u32(3).u32(7).raw(b"old"))
        .block(5, |body| body.u32(0).u32(0).u32(0))
        .block(6, |body| {
            let body = body.u32(0).u32(0).u32(1).u32(2).u32(3).raw(b"ab").pad();
            let flags = if body.big { 2_u32.to_be_bytes() } else { 2_u32.to_le_bytes() };
            body.option(1, b"why").option(2, &flags).option(9, b"?").option(0, b"")
        })
}

#[test]
fn pcapng_with_all_that_there_is_in_both_byte_orders() {
    let pool = pool();
    for big in [false, true] {
        // A second section in the other order counts its interfaces from 0 again.
        let second =
            File::new(!big).section().interface(228, 0, |body| body).packet(0, 1, b"later");
        let got = read(&pool, &rich(big).raw(&second.bytes).bytes[..]);
        assert_eq!(got.error, None);
        assert_eq!(got.skipped, 2);
        assert_eq!(
            times(&got),
            [
                Some(1_700_000_000_123_456_789),
                Some(101_500_000_000),
                Some(1_700_000_000_123_456_000),
                None,
                Some(5000),
                Some(1),
                Some(1000),
            ]
        );
        let packets = got.packets.iter().map(|(record, bytes)| (record.interface, &bytes[..]));
        assert!(packets.eq([
            (0, &b"nanoseconds"[..]),
            (1, b"1.5 s later than 100"),
            (2, b"microseconds"),
            (0, b"simple by"),
            (2, b"old"),
            (0, b"ab"),
            (3, b"later"),
        ]));
        let last = &got.packets[5].0;
        assert_eq!((last.captured, last.original), (2, 3));
        assert_eq!(last.direction, Some(Direction::Down));
        assert_eq!(last.comment.as_deref(), Some("why"));
        let links: Vec<_> =
            got.interfaces.iter().map(|interface| interface.link.to_string()).collect();
        assert_eq!(links, ["ETHERNET (1)", "RAW (101)", "LINUX_SLL (113)", "IPV4 (228)"]);
        assert_eq!(got.interfaces[0].name.as_deref(), Some("eth0"));
    }
}

/// Files of each kind, small enough to be cut and damaged everywhere.
fn samples() -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for big in [false, true] {
        samples.push(
            File::pcap(big, 0xa1b2_c3d4, 1).frame(1, 2, 3, b"one").frame(2, 3, 5, b"second").bytes,
        );
        samples.push(rich(big).bytes);
    }
    samples
}

#[test]
fn a_file_that_is_cut_anywhere_gives_what_came_before_the_cut_and_says_where() {
    let pool = pool();
    for whole in samples() {
        let all = read(&pool, &whole[..]);
        assert_eq!(all.error, None);
        let mut clean = 0;
        for cut in 0..whole.len() {
            let got = read(&pool, &whole[..cut]);
            assert!(got.packets.len() <= all.packets.len());
            assert!(got.packets.iter().eq(&all.packets[..got.packets.len()]), "cut at {cut}");
            match (got.error, got.kind) {
                (None, None) => clean += 1,
                (Some(text), Some(ErrorKind::UnexpectedEof)) => {
                    assert!(text.starts_with("capture test is cut short: "), "{text}");
                    assert!(text.ends_with(&format!("the file ends at {cut}")), "{text}");
                }
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
        // Only between blocks, and after the header of pcap.
        assert!((2..=12).contains(&clean), "{clean} clean cuts");
    }
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn a_bit_that_is_flipped_anywhere_never_does_harm() {
    let pool = pool();
    let mut refused = 0;
    for whole in samples() {
        for bit in 0..8 * whole.len() {
            let mut file = whole.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            let got = read(&pool, &file[..]);
            if let Some(text) = got.error {
                assert!(text.starts_with("capture test"), "{text}");
                refused += 1;
            }
        }
    }
    assert!(refused > 1000, "{refused}");
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn what_lies_is_refused_by_number() {
    let pool = pool();
    let error = |file: File| {
        let got = read(&pool, &file.raw(&[0; 64]).bytes[..]);
        assert_eq!(got.kind, Some(ErrorKind::InvalidData), "{:?}", got.error);
        got.error.unwrap()
    };
    let pcap = || File::pcap(false, 0xa1b2_c3d4, 1);
    assert_eq!(
        error(pcap().frame(1, 1, 3, b"one").u32(0).u32(0).u32(262_145).u32(0)),
        "capture test: the packet at byte 43 is said to be 262145 bytes; 262144 are the most"
    );
    let section = || File::new(true).section();
    assert_eq!(
        error(File::new(true).u32(0x0a0d_0d0a).u32(28).u32(0x1a2b_3c4e)),
        "capture test: the section at byte 0 has byte-order magic 0x1a2b3c4e"
    );
    assert_eq!(
        error(section().u32(6).u32(33).u32(0)),
        "capture test: the block of type 0x6 at byte 28 is said to be 33 bytes: not a multiple of 4 \
         from 12 on"
    );
    assert_eq!(
        error(section().u32(6).u32(0xffff_fffc).u32(0)),
        "capture test: the block of type 0x6 at byte 28 is said to be 4294967292 bytes; 524288 are \
         the most"
    );
    assert_eq!(
        error(section().u32(1).u32(20).u16(1).u16(0).u32(0).u32(24)),
        "capture test: a block of type 0x1 is said to be 20 bytes at its start and 24 at its end, at \
         byte 44"
    );
    assert_eq!(
        error(section().u32(0x99).u32(16).u32(0).u32(24)),
        "capture test: a block of type 0x99 is said to be 16 bytes at its start and 24 at its end, at \
         byte 40"
    );
    assert_eq!(
        error(section().packet(0, 0, b"whose?")),
        "capture test: the packet at byte 28 is of interface 0; the section has 0 so far"
    );
    let interface = || section().interface(1, 0, |body| body);
    assert_eq!(
        error(interface().block(6, |body| body.u32(0).u32(0).u32(0).u32(5).u32(5).raw(b"abcd"))),
        "capture test: the packet at byte 48 is said to be 5 bytes, in a block of 36; 262144 are the \
         most"
    );
    assert_eq!(
        error(interface().block(3, |body| body.u32(5).raw(b"abcd"))),
        "capture test: the packet at byte 48 is said to be 5 bytes, in a block of 20; 262144 are the \
         most"
    );
    assert_eq!(
        error(interface().block(6, |body| body.u32(0))),
        "capture test: the block of type 0x6 at byte 48 is malformed"
    );
    let mut many = section();
    for _ in 0..4097 {
        many = many.interface(1, 0, |body| body);
    }
    assert_eq!(error(many), "capture test: more than 4096 interfaces");
}

/// Gives out bytes a few at a time, and beyond the first 64 nothing in between; at the end, zeroes.
struct Slow<'a> {
    bytes: &'a [u8],
    step: usize,
    given: usize,
    blocked: bool,
    zeroes: usize,
}

impl<'a> Slow<'a> {
    fn new(bytes: &'a [u8], step: usize, zeroes: usize) -> Self {
        Self { bytes, step, given: 0, blocked: false, zeroes }
    }
}

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.blocked = !self.blocked;
        if self.blocked && self.given > 64 {
            let interrupted = self.given.is_multiple_of(2);
            return Err(
                if interrupted { ErrorKind::Interrupted } else { ErrorKind::WouldBlock }.into()
            );
        }
        if self.bytes.is_empty() {
            let n = out.len().min(self.zeroes);
            out[..n].fill(0);
            self.zeroes -= n;
            return Ok(n);
        }
        let n = out.len().min(self.bytes.len()).min(self.step);
        out[..n].copy_from_slice(&self.bytes[..n]);
        self.bytes = &self.bytes[n..];
        self.given += n;
        Ok(n)
    }
}

#[test]
fn a_capture_that_trickles_in_is_read_the_same() {
    let pool = pool();
    for whole in samples() {
        let all = read(&pool, &whole[..]).packets;
        for step in [1, 3, 7, 64] {
            let mut source = CaptureSource::new(Slow::new(&whole, step, 0), "slow").unwrap();
            let (mut batch, mut got, mut waits) = (Batch::new(), Vec::new(), 0);
            loop {
                match source.recv(&pool.receiver(), &mut batch).unwrap() {
                    Received::WouldBlock => waits += 1,
                    Received::Closed => break,
                    Received::Chains(_) => {
                        let records = source.records().iter().cloned();
                        got.extend(records.zip(batch.drain().map(|chain| chain.to_vec().unwrap())));
                    }
                    Received::NoBuffers => panic!("the pool is full"),
                }
                assert!(waits < 10_000);
            }
            assert_eq!(got, all, "{step} bytes at a time");
            assert!(step > 7 || whole.len() < 100 || waits > 0);
        }
    }
}

#[test]
fn an_unknown_block_of_a_gigabyte_is_passed_over_without_being_kept() {
    // It declares 1 GiB: as many zeroes come, so that only the trailer is wrong.
    let file = File::new(false).section().u32(0x99).u32(1 << 30);
    let pool = pool();
    let input = Slow::new(&file.bytes, 64, 1 << 30);
    let mut source = CaptureSource::new(input, "long").unwrap();
    let error = source.recv(&pool.receiver(), &mut Batch::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "capture long: a block of type 0x99 is said to be 1073741824 bytes at its start and 0 at its \
         end, at byte 1073741848"
    );
}

#[test]
fn a_packet_that_finds_no_buffer_is_given_later() {
    let pool = Pool::builder().count(Class::Small, 20).count(Class::K2, 4).build().unwrap();
    let mut writer = CaptureWriter::pcapng(Vec::new()).unwrap();
    writer.interface(Interface::new(LinkType::ETHERNET, "eth0")).unwrap();
    let source_pool = crate::pool();
    for n in 0..40_u8 {
        writer.write(&Record::default(), &chain(&source_pool, &[n; 300])).unwrap();
    }
    let file = writer.into_inner();
    let mut source = CaptureSource::new(&file[..], "f").unwrap();
    let (receiver, mut batch, mut got, mut starved) = (pool.receiver(), Batch::new(), 0, 0);
    loop {
        match source.recv(&receiver, &mut batch).unwrap() {
            Received::Chains(_) => {}
            Received::NoBuffers => {
                starved += 1;
                assert!(!batch.is_empty(), "the pool holds one");
                for chain in batch.drain() {
                    assert_eq!(chain.to_vec().unwrap(), [got; 300]);
                    got += 1;
                }
            }
            Received::Closed => break,
            Received::WouldBlock => panic!("a file is always ready"),
        }
    }
    let left = batch.len();
    assert_eq!((usize::from(got) + left, source.packets()), (40, 40));
    assert!(starved > 2, "{starved}");
    drop(batch);
    assert_eq!(pool.stats().in_use(), 0);
}

#[test]
fn the_longest_packet_is_read_and_written_and_a_longer_one_is_cut() {
    let pool = pool();
    let bytes: Vec<u8> = (0..MAX_PACKET + 1).map(|n| (n >> 3) as u8).collect();
    let mut writer = CaptureWriter::pcapng(Vec::new()).unwrap();
    writer.interface(Interface::new(LinkType::USER0, "")).unwrap();
    writer.write(&Record::default(), &chain(&pool, &bytes[..MAX_PACKET])).unwrap();
    writer.write(&Record::default(), &chain(&pool, &bytes)).unwrap();
    let got = read(&pool, &writer.into_inner()[..]);
    assert_eq!(got.error, None);
    assert!(got.packets.iter().all(|(_, got)| got[..] == bytes[..MAX_PACKET]));
    let originals: Vec<_> =
        got.packets.iter().map(|(record, _)| record.original as usize).collect();
    assert_eq!(originals, [MAX_PACKET, MAX_PACKET + 1]);
}

#[test]
fn a_sink_writes_by_ingress_and_stops_at_the_first_error() {
    use mbuf::{Queue, io::Sink};

    /// Takes so many bytes, and then is full.
    struct Full(usize);

    impl io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.0);
            self.0 -= n;
            if n == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(n) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let pool = pool();
    let mut queue = Queue::new(100, 1 << 20);
    let fill = |queue: &mut Queue| {
        for ingress in [0, 1, 7] {
            let mut chain = chain(&pool, &[ingress as u8; 40]);
            chain.meta_mut().set_ingress(ingress);
            queue.push(chain).unwrap();
        }
    };
    let mut writer = CaptureWriter::pcapng(Vec::new()).unwrap();
    for name in ["a", "b"] {
        writer.interface(Interface::new(LinkType::RAW, name)).unwrap();
    }
    let mut sink = CaptureSink::new(writer);
    sink.set_time(Some(5));
    fill(&mut queue);
    sink.send(&mut queue).unwrap();
    let got = read(&pool, &sink.into_writer().into_inner()[..]);
    let got: Vec<_> =
        got.packets.iter().map(|(r, bytes)| (r.interface, r.time, bytes[0])).collect();
    assert_eq!(got, [(0, Some(5), 0), (1, Some(5), 1), (0, Some(5), 7)]);

    let raw = Interface::new(LinkType::RAW, "");
    let mut sink = CaptureSink::new(CaptureWriter::pcap(Full(24 + 56 + 20), raw).unwrap());
    fill(&mut queue);
    assert_eq!(sink.send(&mut queue).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!((queue.len(), sink.writer().packets()), (2, 1), "what was not taken is left");
    assert!(sink.send(&mut queue).unwrap_err().to_string().contains("an earlier write"));
    assert_eq!(queue.len(), 2);
}

fn record() -> impl Strategy<Value = (Record, Vec<u8>)> {
    let direction = prop_oneof![Just(None), Just(Some(Direction::Up)), Just(Some(Direction::Down))];
    let comment = proptest::option::of("\\PC{0,20}");
    (
        any::<u64>(),
        0..3_u32,
        0..3000_u32,
        direction,
        comment,
        proptest::collection::vec(any::<u8>(), 0..2500),
    )
        .prop_map(|(time, interface, more, direction, comment, bytes)| {
            let captured = bytes.len() as u32;
            let original = captured + more;
            let time = Some(time);
            (Record { number: 0, time, interface, captured, original, direction, comment }, bytes)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_back(
        packets in proptest::collection::vec(record(), 0..12),
        snap in prop_oneof![Just(0_u32), 0..3000_u32],
        name in "\\PC{0,30}",
    ) {
        let pool = pool();
        let interfaces = [LinkType::ETHERNET, LinkType::RAW, LinkType(9999)]
            .map(|link| Interface { snap_len: snap, ..Interface::new(link, &name) });
        for format in [Format::Pcapng, Format::Pcap] {
            let mut writer = match format {
                Format::Pcapng => CaptureWriter::pcapng(Vec::new())?,
                Format::Pcap => CaptureWriter::pcap(Vec::new(), interfaces[0].clone())?,
            };
            if format == Format::Pcapng {
                for interface in &interfaces {
                    writer.interface(interface.clone())?;
                }
            }
            let mut expected = Vec::new();
            for (number, (record, bytes)) in packets.iter().enumerate() {
                let mut record = Record { number: number as u64 + 1, ..record.clone() };
                if format == Format::Pcap {
                    // It has no more than that, in 32 bits.
                    record = Record {
                        interface: 0,
                        direction: None,
                        comment: None,
                        time: record.time.map(|time| time % (1_000_000_000 << 32)),
                        ..record
                    };
                }
                writer.write(&record, &chain(&pool, bytes))?;
                let most = if snap == 0 { MAX_PACKET } else { snap as usize };
                record.captured = record.captured.min(most as u32);
                expected.push((record, bytes[..bytes.len().min(most)].to_vec()));
            }
            let got = read(&pool, &writer.into_inner()[..]);
            prop_assert_eq!(got.error, None);
            prop_assert_eq!(got.packets, expected);
            if format == Format::Pcapng {
                prop_assert_eq!(&got.interfaces[..], &interfaces);
            }
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), start in 0..4_usize) {
        let pool = pool();
        let mut file = samples().swap_remove(start);
        file.truncate(28);
        file.extend(bytes);
        let got = read(&pool, &file[..]);
        prop_assert!(got.error.is_none_or(|text| text.starts_with("capture test")));
        prop_assert_eq!(pool.stats().in_use(), 0);
    }
}
