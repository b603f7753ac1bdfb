//! The traits of the crate `bytes` over every cut. Needs the feature `bytes`.
#![cfg(feature = "bytes")]

mod common;

use std::{
    io::IoSlice,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::{Buf, BufMut, Bytes};
use common::{Drained, Shape, Snapshot, bytes, level, pattern, pool, roomy, segmentations};
use mbuf::{Chain, Error};

/// All that `Buf` promises, from wherever the buffer stands.
fn contract(buf: &mut dyn Buf, model: &[u8]) {
    assert_eq!(buf.remaining(), model.len());
    assert_eq!(buf.has_remaining(), !model.is_empty());
    assert_eq!(buf.chunk().is_empty(), model.is_empty());
    assert!(model.starts_with(buf.chunk()));
    for room in 0..=model.len() + 1 {
        let mut slices = vec![IoSlice::new(b"untouched"); room];
        let n = buf.chunks_vectored(&mut slices);
        let gathered: Vec<u8> = slices[..n].iter().flat_map(|s| s.iter().copied()).collect();
        assert!(model.starts_with(&gathered), "in order");
        assert!(n == room || gathered == model, "complete, as far as there is room");
        assert!(slices[..n].iter().all(|slice| !slice.is_empty()));
        assert!(slices[n..].iter().all(|slice| &**slice == b"untouched"));
    }
}

#[test]
fn a_cursor_and_a_chain_are_good_bufs_over_every_cut() {
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    for len in 0..=5 {
        let model = pattern(1, len);
        for ends in segmentations(len) {
            for shape in Shape::READABLE {
                for step in 1..=len.max(1) {
                    let mut built = shape.build(&home, &foreign, &model, &ends);
                    let mut cursor = built.chain.cursor();
                    for at in (0..=len).step_by(step) {
                        contract(&mut cursor, &model[at..]);
                        Buf::advance(&mut cursor, step.min(len - at));
                    }
                    for at in (0..=len).step_by(step) {
                        contract(&mut built.chain, &model[at..]);
                        Buf::advance(&mut built.chain, step.min(len - at));
                    }
                    built.chain.check().unwrap();
                    built.check_keepers();
                }
                let built = shape.build(&home, &foreign, &model, &ends);
                assert_eq!(built.chain.cursor().copy_to_bytes(len), model);
                let mut out = vec![0; len];
                built.chain.cursor().copy_to_slice(&mut out);
                assert_eq!(out, model);
                let mut chain = built.chain;
                let mut collected = Vec::new();
                collected.put(&mut chain);
                assert_eq!((collected, chain.len()), (model.clone(), 0));
            }
        }
    }
    assert_eq!((level(&home), level(&foreign)), ([0; 5], [0; 5]));
}

#[test]
fn numbers_are_read_across_cuts() {
    let (home, foreign) = (roomy("home"), roomy("foreign"));
    let model = [1, 2, 3, 4, 5, 6];
    for ends in segmentations(model.len()) {
        let mut built = Shape::Small.build(&home, &foreign, &model, &ends);
        let mut cursor = built.chain.cursor();
        assert_eq!((cursor.get_u8(), cursor.get_u32(), cursor.remaining()), (1, 0x0203_0405, 1));
        assert_eq!(cursor.try_get_u16().unwrap_err().available, 1);
        assert_eq!((built.chain.get_u16_le(), built.chain.get_u32_le()), (0x0201, 0x0605_0403));
        assert!(built.chain.is_empty());
    }
}

#[test]
fn to_advance_past_the_end_is_the_callers_bug() {
    let pool = roomy("pool");
    let mut chain = pool.chain_from(b"abc").unwrap();
    for n in [4, usize::MAX] {
        let mut cursor = chain.cursor();
        let panic = catch_unwind(AssertUnwindSafe(|| Buf::advance(&mut cursor, n))).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert_eq!(text, &format!("advance by {n} bytes where 3 remain"));
        let panic = catch_unwind(AssertUnwindSafe(|| Buf::advance(&mut chain, n)));
        assert!(panic.is_err());
        assert_eq!(bytes(&chain), b"abc");
    }
}

#[test]
fn a_writer_is_a_bounded_bufmut() {
    let pool = roomy("pool");
    for room in [0, 1, 112, 113, 3000, 70_000] {
        let data = pattern(room, room);
        let mut chain = pool.chain().unwrap();
        let mut writer = chain.writer(room).unwrap();
        assert_eq!(writer.remaining_mut(), room);
        assert_eq!(writer.has_remaining_mut(), room > 0);
        assert_eq!(writer.chunk_mut().len() > 0, room > 0);
        writer.put(&data[..room / 3]);
        writer.put_slice(&data[room / 3..]);
        assert_eq!((writer.remaining_mut(), writer.chunk_mut().len()), (0, 0));
        let over = catch_unwind(AssertUnwindSafe(|| writer.put_u8(1)));
        assert!(over.is_err(), "the room is bounded");
        drop(writer);
        assert!(bytes(&chain) == data, "{room}");
    }
    let mut chain = pool.chain().unwrap();
    let mut writer = chain.writer(300).unwrap();
    writer.put_bytes(7, 200);
    assert!(
        catch_unwind(AssertUnwindSafe(|| {
            let (mut rest, room) = (writer.chunk_mut().len(), writer.remaining_mut());
            assert!(rest <= room);
            rest += 1;
            // SAFETY: nothing was written, but the call panics before it counts anything.
            unsafe { writer.advance_mut(rest) };
        }))
        .is_err()
    );
    drop(writer);
    assert_eq!(bytes(&chain), [7; 200]);
    drop(chain);
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn bytes_go_in_and_out_without_a_copy() {
    let pool = roomy("pool");
    let original = Bytes::from(pattern(1, 5000));
    let chain = pool.attach(original.clone(), 1000..).map_err(|r| r.error).unwrap();
    assert_eq!(chain.slices().unwrap().next().unwrap().as_ptr(), original[1000..].as_ptr());
    let out = chain.into_bytes().unwrap();
    assert_eq!(out.as_ptr(), original[1000..].as_ptr());
    assert_eq!(out, original[1000..]);
    let clones: Vec<Bytes> = (0..4).map(|i| out.slice(i * 1000..)).collect();
    drop(out);
    for clone in clones {
        assert_ne!(level(&pool), [0; 5]);
        std::thread::spawn(move || drop(clone)).join().unwrap();
    }
    assert_eq!(level(&pool), [0; 5]);
    assert_eq!(pool.chain().unwrap().into_bytes().unwrap(), Bytes::new());
    assert_eq!(level(&pool), [0; 5], "empty Bytes hold nothing");
}

#[test]
fn into_bytes_that_is_refused_gives_the_chain_back() {
    let pool = pool("pool", [16, 2, 0, 0, 0], false);
    let mut built = Shape::Small.build(&pool, &pool, &pattern(1, 300), &[100, 200, 300]);
    let drained = Drained::leave(&pool, 0, 0);
    let before = Snapshot::of(&built.chain, &[&pool]);
    let rejected = built.chain.into_bytes().unwrap_err();
    assert!(matches!(rejected.error, Error::NoBuffers { .. }));
    assert_eq!(Snapshot::of(&rejected.value, &[&pool]), before);
    drop(drained);
    built.chain = rejected.value;
    assert_eq!(built.chain.into_bytes().unwrap(), pattern(1, 300));
    let long: Chain = roomy("roomy").chain_zeroed(70_000).unwrap();
    let rejected = long.into_bytes().unwrap_err();
    assert!(matches!(rejected.error, Error::TooLong { .. }));
    assert_eq!(rejected.value.len(), 70_000);
}
