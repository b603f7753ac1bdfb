//! Opaque segments: memory that only system calls may read. Nothing here dereferences it (the
//! mapping has no access rights, so that would be the end of the test), and where the file behind
//! it cannot be read, the operation fails and changes nothing.

mod common;

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use common::{
    Snapshot, bytes, cuts, level,
    ops::{Op, plain},
    owners::Unreadable,
    pattern, roomy, segmentations,
};
use mbuf::{Chain, Error, Pool, chain::checksum};

/// A chain of readable and opaque segments by turns, and the switch that breaks the files.
fn mixed(pool: &Pool, model: &[u8], ends: &[usize], first: usize) -> (Chain, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let mut chain = pool.chain().unwrap();
    let mut start = 0;
    for (i, &end) in ends.iter().enumerate() {
        let part = &model[start..end];
        let piece = if i % 2 == first {
            let mut owner = Unreadable::new(part);
            owner.broken = Arc::clone(&broken);
            pool.attach_opaque(owner, ..).map_err(|r| r.error).unwrap()
        } else {
            pool.chain_from(part).unwrap()
        };
        chain.concat(piece).unwrap();
        start = end;
    }
    assert_eq!(bytes(&chain), model);
    (chain, broken)
}

#[test]
fn a_file_that_cannot_be_read_changes_nothing() {
    let pool = roomy("pool");
    let (mut failed, mut done) = (0_usize, 0_usize);
    for len in 1..=4 {
        let original = pattern(len, len);
        for ends in segmentations(len) {
            for op in Op::around(len) {
                for first in [0, 1] {
                    let at = format!("{op:?} on {ends:?}, {first}");
                    let (mut chain, broken) = mixed(&pool, &original, &ends, first);
                    let mut other = op.takes_other().then(|| pool.chain_from(b"other").unwrap());
                    let mut model = original.clone();
                    let expected = op.model(&mut model, b"other");
                    if !op.fails_by_reading() {
                        continue; // what they do is said below
                    }
                    let before = Snapshot::of(&chain, &[&pool]);
                    broken.store(true, SeqCst);
                    let result = op.apply(&mut chain, &mut other);
                    broken.store(false, SeqCst);
                    match result {
                        Err(Error::Io { errno }) => {
                            failed += 1;
                            assert_eq!(errno, libc::EIO, "{at}");
                            assert_eq!(Snapshot::of(&chain, &[&pool]), before, "{at}");
                            assert_eq!(other.is_some(), op.takes_other(), "{at}");
                            let again = op.apply(&mut chain, &mut other);
                            assert_eq!(plain(&again.unwrap()), expected.unwrap(), "{at}, again");
                        }
                        Err(error) => {
                            let refusal = expected.expect_err("the model refuses too");
                            assert!(refusal.fits(&error, len), "{at}: {error:?}");
                        }
                        Ok(out) => {
                            done += 1;
                            assert_eq!(plain(&out), expected.unwrap(), "{at}");
                        }
                    }
                    assert_eq!(bytes(&chain), model, "{at}");
                }
            }
        }
    }
    assert!(failed > 1000 && done > 1000, "{failed} failed, {done} done");
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn what_needs_no_bytes_does_not_read_the_file() {
    let pool = roomy("pool");
    let model = pattern(1, 100_000);
    let mut owner = Unreadable::new(&model);
    owner.broken = Arc::new(AtomicBool::new(true));
    let mut chain = pool.attach_opaque(owner, ..).map_err(|r| r.error).unwrap();
    assert!(!chain.is_writable());
    assert_eq!((chain.headroom(), chain.tailroom()), (0, 0));
    chain.prepend_slice(b"header").unwrap();
    let mut tail = chain.split_off(50_006).unwrap();
    let shared = tail.share().unwrap();
    tail.concat(shared).unwrap();
    tail.trim_front(10).unwrap();
    tail.restore(10).unwrap();
    tail.advance(49_990).unwrap();
    chain.extend_from_slice(b"trailer").unwrap();
    chain.insert(20, tail).unwrap();
    chain.pullup(6).unwrap();
    assert_eq!(cuts(&chain), [6, 14, 10, 50_000, 49_986, 7]);
    chain.check().unwrap();
    assert!(format!("{chain:?}").contains("opaque 14, opaque 10 shared,"), "{chain:?}");
    assert!(chain.hexdump().to_string().contains("|-- -- --"), "it says what it cannot show");
    assert!(matches!(chain.slices(), Err(Error::Opaque { offset: 6 })));
}

#[test]
fn only_what_is_wanted_is_copied() {
    let pool = roomy("pool");
    let model = pattern(2, 300_000);
    let chain =
        || pool.attach_opaque(Unreadable::new(&model), 5..299_995).map_err(|r| r.error).unwrap();
    let mut header = chain();
    assert_eq!(header.pullup(20).unwrap(), &model[5..25]);
    assert_eq!(cuts(&header), [20, 299_970]);
    let mut inner = chain();
    assert_eq!(inner.pulldown(1000, 20).unwrap(), &model[1005..1025]);
    assert_eq!(cuts(&inner), [1000, 20, 298_970]);
    let mut written = chain();
    *written.header_mut::<[u8; 4]>().unwrap() = *b"head";
    assert_eq!(cuts(&written).iter().sum::<usize>(), 299_990);
    assert_eq!(written.to_vec().unwrap()[..6], [b"head", &model[9..11]].concat());
    let copy = inner.dup().unwrap();
    assert!(copy.is_writable() && bytes(&copy) == model[5..299_995]);
    assert_eq!(copy.checksum(7..).unwrap(), checksum::of(&model[12..299_995]));
    assert_eq!(inner.checksum(7..).unwrap(), checksum::of(&model[12..299_995]));
    let error = header.pullup(65_537).map(drop).unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error:?}");
    drop((header, inner, written, copy));
    assert_eq!(level(&pool), [0; 5]);
}

#[test]
fn a_cursor_reads_by_system_call_and_lends_nothing() {
    let pool = roomy("pool");
    let model = pattern(3, 9);
    let (chain, broken) = mixed(&pool, &model, &[3, 6, 9], 1);
    let mut cursor = chain.cursor();
    let mut all = Vec::new();
    assert_eq!(cursor.read_to_end(&mut all).unwrap(), 9);
    assert_eq!(all, model);

    let mut cursor = chain.cursor();
    assert_eq!(cursor.fill_buf().unwrap(), &model[..3]);
    cursor.consume(3);
    let error = cursor.fill_buf().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(error.to_string().starts_with("opaque: the segment at byte 3"), "{error}");
    cursor.consume(3);
    assert_eq!(cursor.fill_buf().unwrap(), &model[6..]);

    // What could be read before the file broke off is not lost, and the error comes next.
    broken.store(true, SeqCst);
    let mut cursor = chain.cursor();
    let mut out = [0; 9];
    assert_eq!(cursor.read(&mut out).unwrap(), 3);
    assert_eq!(out[..3], model[..3]);
    assert_eq!(cursor.read(&mut out).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(cursor.position(), 3);
    let mut all = b"before".to_vec();
    assert_eq!(chain.cursor().read_to_end(&mut all).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(all, [b"before", &model[..3]].concat());
    broken.store(false, SeqCst);
    assert_eq!(cursor.read(&mut out).unwrap(), 6);
    assert_eq!(out[..6], model[3..]);
    assert!(matches!(chain.checksum(..), Ok(sum) if sum == checksum::of(&model)));
}

#[test]
fn a_file_that_shrank_is_an_error() {
    let pool = roomy("pool");
    let mut owner = Unreadable::new(&pattern(4, 100));
    owner.shrink(60);
    let mut chain = pool.attach_opaque(owner, ..).map_err(|r| r.error).unwrap();
    assert_eq!(chain.len(), 100);
    assert_eq!(chain.pullup(60).unwrap(), &pattern(4, 100)[..60]);
    let before = cuts(&chain);
    let error = chain.pullup(61).map(drop).unwrap_err();
    assert_eq!(error, Error::Io { errno: libc::ENODATA });
    assert_eq!(chain.unshare().unwrap_err(), Error::Io { errno: libc::ENODATA });
    assert_eq!(chain.to_vec().unwrap_err(), Error::Io { errno: libc::ENODATA });
    assert_eq!(chain.dup().map(drop).unwrap_err(), Error::Io { errno: libc::ENODATA });
    assert_eq!(cuts(&chain), before);
    chain.check().unwrap();
}
