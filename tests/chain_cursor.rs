//! The cursor against `std::io::Cursor`, the checksum against the naive one over every cut, what
//! `Debug` and the hex dump show, and the writer.

mod common;

use std::io::{self, BufRead, IoSliceMut, Read, Seek, SeekFrom, Write};

use common::{Drained, Shape, Snapshot, bytes, level, pattern, pool, roomy, segmentations};
use mbuf::{Class, Error, chain::checksum::Sum};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Move {
    Read(usize),
    ReadExact(usize),
    ReadVectored(usize, usize),
    Consume(usize),
    Start(u64),
    End(i64),
    Current(i64),
    ReadUntil(u8),
    ReadToEnd,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => (0_usize..20).prop_map(Move::Read),
        1 => (0_usize..20).prop_map(Move::ReadExact),
        1 => (0_usize..6, 0_usize..6).prop_map(|(a, b)| Move::ReadVectored(a, b)),
        2 => (0_usize..9).prop_map(Move::Consume),
        2 => (0_u64..45).prop_map(Move::Start),
        1 => any::<u64>().prop_map(Move::Start),
        2 => (-45_i64..5).prop_map(Move::End),
        2 => (-20_i64..20).prop_map(Move::Current),
        1 => any::<i64>().prop_map(Move::Current),
        1 => any::<u8>().prop_map(Move::ReadUntil),
        1 => Just(Move::ReadToEnd),
    ];
    prop::collection::vec(one, 1..40)
}

proptest! {
    #[test]
    fn a_cursor_moves_as_that_of_std(
        len in 0_usize..40,
        cuts in any::<u64>(),
        shape in prop::sample::select(Shape::READABLE.to_vec()),
        moves in moves(),
    ) {
        let (home, foreign) = (roomy("home"), roomy("foreign"));
        let model = pattern(3, len);
        let ends: Vec<usize> =
            (1..=len).filter(|&end| end == len || cuts >> end & 1 == 1).collect();
        let built = shape.build(&home, &foreign, &model, &ends);
        let mut cursor = built.chain.cursor();
        let mut plain = io::Cursor::new(&model);
        for step in moves {
            match step {
                Move::Read(n) => {
                    let (mut a, mut b) = (vec![0; n], vec![0; n]);
                    prop_assert_eq!(cursor.read(&mut a)?, plain.read(&mut b)?);
                    prop_assert_eq!(a, b);
                }
                Move::ReadExact(n) => {
                    let (mut a, mut b) = (vec![0; n], vec![0; n]);
                    let result = cursor.read_exact(&mut a).map_err(|e| e.kind());
                    prop_assert_eq!(result, plain.read_exact(&mut b).map_err(|e| e.kind()));
                    match result {
                        Ok(()) => prop_assert_eq!(a, b),
                        // Where it then stands is nowhere promised.
                        Err(_) => same_seek(&mut cursor, &mut plain, SeekFrom::Start(0))?,
                    }
                }
                Move::ReadVectored(x, y) => {
                    let (mut a, mut b) = (vec![0; x + y], vec![0; x + y]);
                    let (a0, a1) = a.split_at_mut(x);
                    let (b0, b1) = b.split_at_mut(x);
                    let read = cursor.read_vectored(&mut [IoSliceMut::new(a0), IoSliceMut::new(a1)])?;
                    let plain = plain.read_vectored(&mut [IoSliceMut::new(b0), IoSliceMut::new(b1)])?;
                    prop_assert_eq!(read, plain);
                    prop_assert_eq!(a, b);
                }
                Move::Consume(n) => {
                    // Never more than was lent, as `BufRead` asks.
                    let lent = cursor.fill_buf()?.to_vec();
                    prop_assert!(plain.fill_buf()?.starts_with(&lent));
                    prop_assert_eq!(lent.is_empty(), plain.fill_buf()?.is_empty());
                    let n = n.min(lent.len());
                    cursor.consume(n);
                    plain.consume(n);
                }
                Move::Start(n) => same_seek(&mut cursor, &mut plain, SeekFrom::Start(n))?,
                Move::End(n) => same_seek(&mut cursor, &mut plain, SeekFrom::End(n))?,
                Move::Current(n) => same_seek(&mut cursor, &mut plain, SeekFrom::Current(n))?,
                Move::ReadUntil(byte) => {
                    let (mut a, mut b) = (vec![], vec![]);
                    let read = cursor.read_until(byte, &mut a)?;
                    prop_assert_eq!(read, plain.read_until(byte, &mut b)?);
                    prop_assert_eq!(a, b);
                }
                Move::ReadToEnd => {
                    let (mut a, mut b) = (vec![1], vec![1]);
                    prop_assert_eq!(cursor.read_to_end(&mut a)?, plain.read_to_end(&mut b)?);
                    prop_assert_eq!(a, b);
                }
            }
            prop_assert_eq!(cursor.position() as u64, plain.position());
            prop_assert_eq!(cursor.stream_position()?, plain.position());
            prop_assert_eq!(cursor.remaining(), len.saturating_sub(cursor.position()));
            let rest = &model[len.min(cursor.position())..];
            prop_assert!(rest.starts_with(cursor.run()?));
            let mut copy = Vec::new();
            cursor.clone().read_to_end(&mut copy)?;
            prop_assert_eq!(&copy, rest);
        }
    }
}

fn same_seek(
    cursor: &mut mbuf::chain::Cursor<'_>,
    plain: &mut io::Cursor<&Vec<u8>>,
    to: SeekFrom,
) -> Result<(), TestCaseError> {
    let here = cursor.position();
    let kind = |error: io::Error| error.kind();
    let result = cursor.seek(to).map_err(kind);
    prop_assert_eq!(result, plain.seek(to).map_err(kind));
    if result.is_err() {
        prop_assert_eq!(result, Err(io::ErrorKind::InvalidInput));
        prop_assert_eq!(cursor.position(), here);
    }
    Ok(())
}

#[test]
fn a_seek_that_fails_says_where_from_and_where_to() {
    let pool = roomy("pool");
    let chain = pool.chain_from(b"abc").unwrap();
    let error = chain.cursor().seek(SeekFrom::Current(-1)).unwrap_err();
    assert_eq!(error.to_string(), "seek to Current(-1) from byte 0 of a chain of 3 bytes");
    assert!(chain.cursor().seek(SeekFrom::End(i64::MIN)).is_err());
    let mut far = chain.cursor();
    assert_eq!(far.seek(SeekFrom::Start(u64::MAX)).unwrap(), u64::MAX);
    assert!(far.seek(SeekFrom::Current(1)).is_err(), "past the last number there is");
    assert_eq!(far.read(&mut [0; 4]).unwrap(), 0);
    far.consume(usize::MAX);
    assert_eq!(far.position(), usize::MAX);
}

/// Word by word, as RFC 1071 has it.
fn naive(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .fold(0, |sum, word| (sum + word) % 0x1_0000 + (sum + word) / 0x1_0000);
    !(sum as u16)
}

#[test]
fn the_checksum_is_the_same_over_every_cut_and_range() {
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    let model = [0xff, 0xfe, 0x01, 0xff, 0x80, 0x7f, 0xff];
    for ends in segmentations(model.len()) {
        for shape in [Shape::Small, Shape::Mixed, Shape::EmptyHead] {
            let built = shape.build(&home, &foreign, &model, &ends);
            for start in 0..=model.len() {
                for end in start..=model.len() {
                    let sum = built.chain.checksum(start..end).unwrap();
                    assert_eq!(sum, naive(&model[start..end]), "{start}..{end} of {ends:?}");
                    // The same in two pieces, and over a chain after bytes that are none.
                    for middle in start..=end {
                        let mut sum = Sum::new();
                        sum.add(&model[start..middle]);
                        sum.add_chain(&built.chain, middle..end).unwrap();
                        assert_eq!(sum.checksum(), naive(&model[start..end]));
                    }
                }
            }
            assert_eq!(built.chain.checksum(..).unwrap(), built.chain.checksum(..=6).unwrap());
            let mut sum = Sum::new();
            sum.add(&[1, 2, 3]);
            let before = sum.fold();
            assert!(matches!(
                sum.add_chain(&built.chain, 3..8),
                Err(Error::TooShort { needed: 8, .. })
            ));
            sum.add(&[]);
            assert_eq!(sum.fold(), before, "a refused range adds nothing");
        }
    }
}

#[test]
fn a_large_chain_has_the_checksum_of_its_bytes() {
    let pool = roomy("pool");
    let model = pattern(5, 150_001);
    let mut chain = pool.chain_from(&model[..70_001]).unwrap();
    chain.concat(pool.chain_from(&model[70_001..]).unwrap()).unwrap();
    for range in [0..150_001, 1..150_001, 3..70_002, 70_001..150_001, 9..9] {
        assert_eq!(chain.checksum(range.clone()).unwrap(), naive(&model[range]));
    }
}

#[test]
fn debug_is_bounded_and_shows_the_segments() {
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    let ends: Vec<usize> = (1..=500).collect();
    let long = Shape::Small.build(&home, &foreign, &pattern(1, 500), &ends);
    let text = format!("{:?}", long.chain);
    assert!(text.len() < 400, "{} characters: {text}", text.len());
    assert!(text.starts_with("Chain { len: 500, headroom: "), "{text}");
    assert!(text.ends_with(", and 492 more] }"), "{text}");

    let big = home.chain_zeroed(1 << 20).unwrap();
    let text = format!("{big:?}");
    assert!(text.len() < 900, "{} characters: {text}", text.len());
    assert!(text.contains("64K 65520: 00 00") && text.contains(" 00 ..,"), "{text}");

    let mixed = Shape::Mixed.build(&home, &foreign, &pattern(2, 6), &[1, 2, 3, 4, 5, 6]);
    let text = format!("{:#?}", mixed.chain);
    for kind in ["small 1:", "2K 1 shared:", "external 1:", "2K 1:"] {
        assert!(text.contains(kind), "{kind} in {text}");
    }
    assert_eq!(
        format!("{:?}", home.chain().unwrap()),
        "Chain { len: 0, headroom: 16, tailroom: 112, segments: [] }"
    );
    let mut cursor = long.chain.cursor();
    cursor.set_position(7);
    assert_eq!(
        format!("{cursor:?}"),
        format!("Cursor {{ position: 7, chain: {:?}, .. }}", long.chain)
    );
    let slices = format!("{:?}", long.chain.slices().unwrap());
    assert!(slices.len() < 300, "{} characters: {slices}", slices.len());
    assert_eq!(format!("{:?}", big.hexdump()), format!("Hexdump({big:?})"));
}

#[test]
fn a_hex_dump_shows_every_byte_and_every_cut() {
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    for len in [0, 1, 15, 16, 17, 31, 32, 33, 50] {
        let model = pattern(len, len);
        for cut in 0..len.max(1) {
            let ends: Vec<usize> = [cut, len].into_iter().filter(|end| *end > 0).collect();
            let built = Shape::EmptyHead.build(&home, &foreign, &model, &ends);
            let dump = built.chain.hexdump().to_string();
            assert_eq!(dump.lines().count(), len.div_ceil(16));
            let mut shown = Vec::new();
            for (i, line) in dump.lines().enumerate() {
                assert_eq!(line[..8], format!("{:08x}", i * 16), "{dump}");
                let hex = &line[9..9 + 48];
                for (j, cell) in hex.as_bytes().chunks(3).enumerate() {
                    let cell = std::str::from_utf8(cell).unwrap();
                    let bar = cut > 0 && i * 16 + j == cut;
                    assert_eq!(&cell[..1], if bar { "|" } else { " " }, "{dump}");
                    if cell[1..] != *"  " {
                        shown.push(u8::from_str_radix(&cell[1..], 16).unwrap());
                    }
                }
                assert_eq!(line.len(), 9 + 48 + 2 + (len - i * 16).min(16), "{dump}");
            }
            assert_eq!(shown, model, "{dump}");
            for limit in 0..=len + 1 {
                let text = format!("{:.limit$}", built.chain.hexdump());
                assert_eq!(text.contains("more"), limit < len, "{text}");
                assert_eq!(
                    text.lines().count(),
                    limit.min(len).div_ceil(16) + usize::from(limit < len)
                );
            }
        }
    }
}

#[test]
fn a_writer_writes_what_fits_and_gives_the_rest_back() {
    let pool = roomy("pool");
    for before in [0, 5, 100, 128] {
        for room in [0, 1, 50, 111, 112, 113, 2048, 70_000, 150_000] {
            for written in [0, 1, room / 2, room, room + 9] {
                let mut model = pattern(1, before);
                let mut chain = pool.chain_from(&model).unwrap();
                let data = pattern(2, written);
                let mut writer = chain.writer(room).unwrap();
                // In pieces that do not fit the segments.
                for piece in data.chunks(97) {
                    let n = writer.write(piece).unwrap();
                    assert!(n == piece.len() || writer.room() == 0);
                }
                assert_eq!(writer.written(), written.min(room));
                assert_eq!(writer.room(), room - written.min(room));
                writer.flush().unwrap();
                drop(writer);
                model.extend(&data[..written.min(room)]);
                assert!(bytes(&chain) == model, "{before} + {written} into {room}");
                // No more storage than the bytes take, to the segment.
                let least = pool.chain_from(&model).unwrap();
                assert!(chain.segments() <= least.segments() + 2, "{chain:?}");
            }
        }
    }
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn a_writer_that_is_refused_changes_nothing() {
    let pool = pool("pool", [8, 2, 0, 0, 0], false);
    let mut chain = pool.chain_from(b"unchanged").unwrap();
    let drained = Drained::leave(&pool, 1, 1);
    let before = Snapshot::of(&chain, &[&pool]);
    assert!(matches!(chain.writer(5000), Err(Error::NoBuffers { .. })));
    assert!(matches!(
        chain.writer(usize::MAX),
        Err(Error::TooLong { .. } | Error::NoBuffers { .. })
    ));
    assert_eq!(Snapshot::of(&chain, &[&pool]), before);
    let mut writer = chain.writer(2000).unwrap();
    assert_eq!(writer.write_all(&[7; 2001]).unwrap_err().kind(), io::ErrorKind::WriteZero);
    drop(writer);
    assert_eq!(chain.len(), 9 + 2000);
    drop(drained);
}

#[test]
fn std_write_appends() {
    let pool = roomy("pool");
    let mut chain = pool.chain_in(Class::Small, 16).unwrap();
    write!(chain, "{}-{}", 1, "x".repeat(300)).unwrap();
    chain.write_all(&pattern(1, 3000)).unwrap();
    chain.flush().unwrap();
    let expected = [format!("1-{}", "x".repeat(300)).as_bytes(), &pattern(1, 3000)].concat();
    assert_eq!(bytes(&chain), expected);
    assert_eq!(io::copy(&mut chain.cursor(), &mut io::sink()).unwrap(), 3302);
}
