//! Sinks in particular: lengths, windows, opaque chains, the end.

use super::*;
use crate::testing::{Rng, assert_all_free};

#[test]
fn files_of_every_length_are_kept_and_nothing_stays_open() {
    let (pool, folder) = (pool(), tempfile::tempdir().unwrap());
    let bytes = pattern(5, 70_000);
    let lengths = (0..130).chain((130..4_000).step_by(127)).chain(4_000..4_100);
    for len in lengths.chain([65_535, 65_536, 65_537, 70_000]) {
        for kind in SINKS {
            let path = folder.path().join("new");
            let mut sink = FileSink::create(&path, kind).unwrap();
            sink.write_at(0, &pool.chain_from(&bytes[..len]).unwrap()).unwrap();
            assert_eq!((sink.len(), sink.position(), sink.kind()), (len as u64, 0, kind));
            if len % 100 == 0 {
                sink.sync().unwrap();
            }
            let file = sink.finish(len as u64, false).unwrap();
            assert!(contents(&file) == bytes[..len], "{len} bytes, {kind:?}");
            drop(file);
            assert_closed(&path);
            fs::remove_file(&path).unwrap();
        }
    }
    assert_all_free(&pool);
}

#[test]
fn writes_of_any_size_in_any_order_leave_the_last_of_each_byte() {
    let pool = pool();
    let mut rng = Rng::new(11);
    for kind in SINKS {
        for (populate, window) in [(false, 1), (true, 1), (false, 300_000), (true, 8 << 20)] {
            let file = tempfile::tempfile().unwrap();
            let mut sink = FileSink::from_new(file, "scratch".as_ref(), kind)
                .window(window)
                .populate(populate);
            let mut expected = Vec::new();
            for n in 0..60 {
                // Some go on where the last one ended.
                let offset = match n % 3 {
                    0 => rng.below(2_000_000),
                    _ => expected.len().min(1_500_000),
                };
                let len = rng.between(1, 100_000);
                let bytes = rng.bytes(len);
                expected.resize(expected.len().max(offset + bytes.len()), 0);
                expected[offset..][..bytes.len()].copy_from_slice(&bytes);
                sink.write_at(offset as u64, &pool.chain_from(&bytes).unwrap()).unwrap();
            }
            assert_eq!((sink.len(), sink.kind()), (expected.len() as u64, kind));
            // Longer than what was written, and then as much as was asked for.
            let file = sink.finish(expected.len() as u64 + 9, false).unwrap();
            expected.resize(expected.len() + 9, 0);
            assert!(contents(&file) == expected, "{kind:?}");
        }
    }
    assert_all_free(&pool);
}

#[test]
fn a_piece_of_a_mapped_file_is_kept_without_being_looked_at() {
    let pool = pool();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes = pattern(6, 3 * 4096);
    file.write_all(&bytes).unwrap();
    for kind in SINKS {
        let mapped = MappedFile::open(file.path()).unwrap();
        let mut sink = sink(kind);
        let mut chain = pool.chain_from(b"header").unwrap();
        chain.concat(pool.attach_opaque(mapped.clone(), ..).unwrap()).unwrap();
        sink.write_at(100, &chain).unwrap();
        sink.write_at(94, &pool.chain_from(b"before").unwrap()).unwrap();
        assert_eq!(sink.kind(), kind);
        let whole = [&[0; 94][..], b"before", b"header", &bytes].concat();
        // It is cut, so that the next write has some of it at most.
        file.as_file().set_len(4096).unwrap();
        let error = sink.write_at(100, &chain).unwrap_err();
        assert_eq!(errno(&error.error), Some(libc::EFAULT), "{error}");
        assert!(error.written <= 6 + 4096, "{error}");
        assert!(error.to_string().contains("pwritev to scratch at "), "{error}");
        let file_ = sink.finish(whole.len() as u64, false).unwrap();
        assert!(contents(&file_) == whole, "{kind:?}");
        file.as_file().write_all_at(&bytes, 0).unwrap();
    }
    assert_all_free(&pool);
}

#[test]
fn what_the_disk_says_at_the_end_is_named() {
    for kind in SINKS {
        for (call, words) in [
            (Call::Ftruncate, "ftruncate to 5 bytes of scratch: EIO"),
            (Call::Fsync, "fsync of scratch: EIO"),
        ] {
            let faults = faults::inject(move |attempt| match attempt.call == call {
                true => Fault::Errno(libc::EIO),
                false => Fault::None,
            });
            let error = sink(kind).finish(5, true).unwrap_err();
            assert!(error.to_string().starts_with(words), "{error}");
            if call == Call::Fsync {
                let error = sink(kind).sync().unwrap_err();
                assert!(error.to_string().starts_with("fdatasync of scratch: EIO"), "{error}");
            }
            drop(faults);
        }
        // Interrupted, it is called again; not asked for, it is not called.
        let mut interrupt = true;
        let faults = faults::inject(move |_| {
            interrupt = !interrupt;
            if interrupt { Fault::None } else { Fault::Errno(libc::EINTR) }
        });
        let before = faults::calls(Call::Fsync);
        assert_eq!(sink(kind).finish(5, false).unwrap().metadata().unwrap().len(), 5);
        assert_eq!(faults::calls(Call::Fsync), before);
        sink(kind).finish(5, true).unwrap();
        assert_eq!(faults::calls(Call::Fsync), before + 2);
        drop(faults);
    }
}

#[test]
fn pages_that_cannot_be_had_are_written_by_calls() {
    let pool = pool();
    let bytes = pattern(7, 200_000);
    // The kernel does not know how to populate; touching the pages would end the process; the file
    // cannot be mapped, or not so much more of it.
    for (call, error, kind) in [
        (Call::Madvise, libc::EINVAL, SinkKind::Mapped),
        (Call::Madvise, libc::EFAULT, SinkKind::Pwritev),
        (Call::Mmap, libc::ENODEV, SinkKind::Pwritev),
        (Call::Mmap, libc::ENOMEM, SinkKind::Pwritev),
    ] {
        let mut calls = 0;
        let faults = faults::inject(move |attempt| {
            calls += usize::from(attempt.call == call);
            if attempt.call == call && calls == 2 { Fault::Errno(error) } else { Fault::None }
        });
        let mut sink = sink(SinkKind::Mapped).populate(true);
        sink.write_at(7, &pool.chain_from(&bytes).unwrap()).unwrap();
        drop(faults);
        assert_eq!(sink.kind(), kind);
        let file = sink.finish(200_007, false).unwrap();
        assert!(contents(&file)[7..] == bytes);
    }
    assert_all_free(&pool);
}

#[test]
fn what_cannot_be_mapped_at_all_is_named() {
    let pool = pool();
    let chain = pool.chain_from(b"x").unwrap();
    // Opened for writing only, which a mapping that is written to needs more than.
    let folder = tempfile::tempdir().unwrap();
    let mut options = File::options();
    let file = options.write(true).create_new(true).open(folder.path().join("new")).unwrap();
    let mut sink = FileSink::from_new(file, "new".as_ref(), SinkKind::Mapped);
    let error = sink.write_at(0, &chain).unwrap_err();
    assert_eq!((error.written, sink.len()), (0, 0));
    assert!(error.to_string().starts_with("mmap of new: EACCES"), "{error}");
    // For reading only.
    for kind in SINKS {
        let file = File::open(folder.path().join("new")).unwrap();
        let mut sink = FileSink::from_new(file, "new".as_ref(), kind);
        let error = sink.write_at(0, &chain).unwrap_err();
        assert_eq!(errno(&error.error), Some(libc::EBADF), "{error}");
    }
}
