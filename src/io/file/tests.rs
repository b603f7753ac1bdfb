//! Sinks and sources, each kind, with everything that may go wrong under them.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use super::*;
use crate::{
    Batch, Chain, Pool,
    io::{
        Received, Sent, Sink, Source, errno,
        faults::{self, Call, Fault},
        tests::{pattern, pool, queue},
    },
    testing::Shape,
};

mod limits;
mod sinks;

const SINKS: [SinkKind; 2] = [SinkKind::Pwritev, SinkKind::Mapped];
const SOURCES: [SourceKind; 2] = [SourceKind::Preadv, SourceKind::Mapped];

fn sink(kind: SinkKind) -> FileSink {
    FileSink::from_new(tempfile::tempfile().unwrap(), "scratch".as_ref(), kind).window(PAGE)
}

/// Small windows, so that most writes cross their borders.
const PAGE: usize = 64 << 10;

fn contents(file: &fs::File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn chains_of_every_shape_are_kept_wherever_they_belong() {
    let (pool, other) = (pool(), pool());
    for kind in SINKS {
        let mut sink = sink(kind);
        let mut expected = Vec::new();
        for (n, shape) in Shape::ALL.into_iter().enumerate() {
            let bytes = pattern(n, 70_000);
            // Backwards, with gaps between them.
            let offset = (Shape::ALL.len() - n) * 100_000 + n;
            let shaped = shape.make(&pool, &other, &bytes[..5_000]).unwrap();
            sink.write_at(offset as u64, &shaped.chain).unwrap();
            sink.write_at((offset + 5_000) as u64, &pool.chain_from(&bytes[5_000..]).unwrap())
                .unwrap();
            expected.resize(expected.len().max(offset + bytes.len()), 0);
            expected[offset..][..bytes.len()].copy_from_slice(&bytes);
        }
        assert_eq!(sink.len(), expected.len() as u64);
        assert_eq!(sink.kind(), kind);
        sink.sync().unwrap();
        let file = sink.finish(expected.len() as u64, true).unwrap();
        assert!(contents(&file) == expected, "{kind:?}");
    }
    crate::testing::assert_all_free(&pool);
}

#[test]
fn short_and_interrupted_calls_lose_nothing() {
    let pool = pool();
    for kind in SINKS {
        for seed in 0..20 {
            let mut decide = faults::seeded(seed);
            let faults = faults::inject(move |attempt| match decide(attempt) {
                Fault::Errno(libc::EAGAIN) => Fault::None,
                fault => fault,
            });
            let mut sink = sink(kind);
            let mut queue = queue();
            let bytes = pattern(seed as usize, 200_000);
            for part in bytes.chunks(3_001) {
                queue.push(pool.chain_from(part).unwrap()).unwrap();
            }
            assert_eq!(sink.send(&mut queue).unwrap(), Sent::All);
            let file = sink.finish(bytes.len() as u64, false).unwrap();
            let source = FileSource::from_file(file, "scratch".as_ref(), SourceKind::Preadv);
            let got = read_all(&mut source.unwrap().chunk(7_777), &pool).unwrap();
            drop(faults);
            assert!(got == bytes, "{kind:?}, seed {seed}");
        }
    }
    crate::testing::assert_all_free(&pool);
}

/// A pool with small mbufs and the smallest clusters only.
fn few(small: usize, clusters: usize) -> Pool {
    use crate::Class;
    let builder = Pool::builder().count(Class::Small, small).count(Class::K2, clusters);
    [Class::K4, Class::K16, Class::K64]
        .into_iter()
        .fold(builder, |b, class| b.count(class, 0))
        .build()
        .unwrap()
}

fn read_all(source: &mut FileSource, pool: &Pool) -> io::Result<Vec<u8>> {
    let (receiver, mut batch, mut got) = (pool.receiver(), Batch::new(), Vec::new());
    while let Received::Chains(_) = source.recv(&receiver, &mut batch)? {
        while let Some(chain) = batch.pop() {
            got.extend(vec![0; chain.len()]);
            let start = got.len() - chain.len();
            chain.peek(0, &mut got[start..])?;
        }
    }
    Ok(got)
}

/// Also of an opaque chain.
fn bytes_of(chain: &Chain) -> Vec<u8> {
    let mut bytes = vec![0; chain.len()];
    chain.peek(0, &mut bytes).unwrap();
    bytes
}

/// No descriptor and no mapping of this process is of that file.
fn assert_closed(path: &Path) {
    let path = path.to_str().unwrap();
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        // Those of other tests come and go.
        let Ok(target) = fs::read_link(entry.unwrap().path()) else { continue };
        assert!(!target.to_string_lossy().starts_with(path), "{target:?} is open");
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(path), "{path} is mapped");
}

#[test]
fn a_file_is_read_in_chunks_of_any_size_from_anywhere() {
    let pool = pool();
    let bytes = pattern(9, 300_000);
    for len in [0, 1, 4_095, 4_096, 4_097, 300_000] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes[..len]).unwrap();
        let file = file.into_temp_path();
        for kind in SOURCES {
            for chunk in [1_000, 65_536, 262_144] {
                let mut source = FileSource::open(&file, kind).unwrap().chunk(chunk);
                assert_eq!((source.len(), source.is_empty()), (len as u64, len == 0));
                assert!(read_all(&mut source, &pool).unwrap() == bytes[..len]);
                assert_eq!(source.position(), len as u64);
            }
            let source = FileSource::open(&file, kind).unwrap();
            let receiver = pool.receiver();
            let tail = source.read_at(&receiver, len as u64 / 2, 1 << 20).unwrap().unwrap();
            assert!(source.read_at(&receiver, u64::MAX, 10).unwrap().unwrap().is_empty());
            drop(source);
            assert!(bytes_of(&tail) == bytes[len / 2..len]);
            drop(tail);
            assert_closed(&file);
        }
    }
    crate::testing::assert_all_free(&pool);
}

#[test]
fn a_pool_without_large_buffers_or_without_any_is_read_into_as_far_as_it_goes() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes = pattern(4, 100_000);
    file.write_all(&bytes).unwrap();
    let pool = few(200, 80);
    let source = FileSource::open(file.path(), SourceKind::Preadv).unwrap();
    let receiver = pool.receiver();
    let chain = source.read_at(&receiver, 0, 60_000).unwrap().unwrap();
    assert!(bytes_of(&chain) == bytes[..60_000]);
    let others: Vec<_> = (0..3).map(|_| source.read_at(&receiver, 0, 60_000).unwrap()).collect();
    assert!(others.iter().any(Option::is_none));
    drop((chain, others));
    drop(receiver);
    crate::testing::assert_all_free(&pool);
}

#[test]
fn a_disk_that_is_full_is_an_error_that_says_what_was_written() {
    let pool = pool();
    let bytes = pattern(2, 300_000);
    let full = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG];
    for kind in SINKS {
        for errno in full.into_iter().chain([libc::EIO]) {
            let mut room = 100_000;
            let faults = faults::inject(move |attempt| match attempt.call {
                Call::Pwritev | Call::Fallocate if attempt.bytes <= room => {
                    room -= attempt.bytes;
                    Fault::None
                }
                Call::Pwritev if room > 0 => Fault::Short(std::mem::take(&mut room)),
                Call::Pwritev | Call::Fallocate => Fault::Errno(errno),
                _ => Fault::None,
            });
            let mut sink = sink(kind);
            let mut queue = queue();
            for part in bytes.chunks(60_000) {
                queue.push(pool.chain_from(part).unwrap()).unwrap();
            }
            let error = sink.send(&mut queue).unwrap_err();
            drop(faults);
            assert_eq!(crate::io::errno(&error), Some(errno), "{error}");
            // A full disk takes what it still has room for.
            let name = match full.contains(&errno) || kind == SinkKind::Pwritev {
                true => "pwritev to scratch at ",
                false => "fallocate of scratch at ",
            };
            assert!(error.to_string().starts_with(name), "{error}");
            let written = sink.len() as usize;
            let expected = if name.starts_with("pwritev") { 100_000 } else { PAGE };
            assert_eq!((written, sink.position()), (expected, expected as u64), "{kind:?}");
            assert_eq!(queue.bytes(), bytes.len() - written, "the rest is in the queue");
            // Once there is room again it goes on.
            assert_eq!(sink.send(&mut queue).unwrap(), Sent::All);
            assert_eq!(sink.kind(), kind);
            let file = sink.finish(bytes.len() as u64, false).unwrap();
            assert!(contents(&file) == bytes, "{kind:?}");
        }
    }
    crate::testing::assert_all_free(&pool);
}

#[test]
fn a_mapping_goes_over_to_pwritev_where_there_is_no_fallocate() {
    let pool = pool();
    let bytes = pattern(3, 200_000);
    // At once, and in the middle of a chain.
    for allowed in [0, 1] {
        for errno in [libc::EOPNOTSUPP, libc::ENOSYS] {
            let mut calls = 0;
            let faults = faults::inject(move |attempt| {
                calls += usize::from(attempt.call == Call::Fallocate);
                match attempt.call {
                    Call::Fallocate if calls > allowed => Fault::Errno(errno),
                    _ => Fault::None,
                }
            });
            let mut sink = sink(SinkKind::Mapped);
            sink.write_at(10, &pool.chain_from(&bytes).unwrap()).unwrap();
            assert_eq!(sink.kind(), SinkKind::Pwritev);
            drop(faults);
            let file = sink.finish(200_010, false).unwrap();
            assert!(contents(&file)[10..] == bytes);
        }
    }
}

#[test]
fn offsets_that_no_file_has_are_refused() {
    let pool = pool();
    let chain = pool.chain_from(b"bytes").unwrap();
    for kind in SINKS {
        for offset in [u64::MAX, i64::MAX as u64, i64::MAX as u64 - 3] {
            let mut sink = sink(kind);
            let error = sink.write_at(offset, &chain).unwrap_err();
            assert_eq!((error.written, errno(&error.error)), (0, Some(libc::EFBIG)), "{error}");
            let expected = format!("pwritev to scratch at {offset} of 5 bytes: EFBIG");
            assert!(error.to_string().starts_with(&expected), "{error}");
            sink.write_at(offset, &pool.chain().unwrap()).unwrap(); // nothing, anywhere
        }
    }
}

#[test]
fn a_file_that_shrinks_or_grows_is_found_out() {
    let pool = pool();
    for kind in SOURCES {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&pattern(1, 20_000)).unwrap();
        let name = file.path().display().to_string();
        let mut source = FileSource::open(file.path(), kind).unwrap().chunk(10_000);
        source.check().unwrap();
        file.as_file().set_len(8_192).unwrap();
        let expected = format!("{name} was cut short: 8192 bytes, 20000 were there");
        assert_eq!(source.check().unwrap_err().to_string(), expected);
        let receiver = pool.receiver();
        let error = source.read_at(&receiver, 0, 10_000).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let rest = source.read_at(&receiver, 0, 8_192).unwrap().unwrap();
        assert!(bytes_of(&rest) == pattern(1, 8_192));
        assert!(read_all(&mut source, &pool).is_err());

        file.as_file().set_len(20_000).unwrap();
        let mut source = FileSource::open(file.path(), kind).unwrap();
        file.as_file().set_len(20_001).unwrap();
        let error = read_all(&mut source, &pool).unwrap_err();
        assert_eq!(error.to_string(), format!("{name} has grown: 20001 bytes, 20000 were there"));
        let source = FileSource::open(file.path(), kind).unwrap();
        file.as_file().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(source.check().unwrap_err().to_string().contains("was modified"));
    }
    crate::testing::assert_all_free(&pool);
}

#[test]
fn holes_are_found() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 30).unwrap();
    let middle = 300 << 20;
    file.write_all_at(&[1; 65_536], middle).unwrap();
    let again = file.try_clone().unwrap();
    let source = FileSource::from_file(file, "sparse".as_ref(), SourceKind::Preadv).unwrap();
    let at = source.next_data(0).unwrap().unwrap();
    // All is data where the file system knows no holes.
    assert!(at == 0 || at == middle, "{at}");
    assert_eq!(source.next_data(middle).unwrap(), Some(middle));
    assert_eq!(source.next_data(1 << 30).unwrap(), None);
    let knows_holes = at == middle;
    if knows_holes {
        assert_eq!(source.extent(0).unwrap(), Extent::Hole(middle));
        assert_eq!(source.extent(middle - 1).unwrap(), Extent::Hole(middle));
        for data in [middle, middle + 1, middle + 65_535] {
            assert_eq!(source.extent(data).unwrap(), Extent::Data(middle + 65_536));
        }
        assert_eq!(source.extent(middle + 65_536).unwrap(), Extent::Hole(1 << 30));
        assert_eq!(source.extent((1 << 30) - 1).unwrap(), Extent::Hole(1 << 30));
    } else {
        eprintln!("THERE ARE NO HOLES HERE: extents were not tested");
        assert_eq!(source.extent(7).unwrap(), Extent::Data(1 << 30));
    }
    for beyond in [1 << 30, (1 << 30) + 1, u64::MAX] {
        assert_eq!(source.extent(beyond).unwrap(), Extent::End);
    }
    // What it has become since is not what it was: that is for `check` to say.
    again.set_len(2 << 30).unwrap();
    again.write_all_at(b"more", 1 << 30).unwrap();
    if knows_holes {
        assert_eq!(source.extent(middle + 65_536).unwrap(), Extent::Hole(1 << 30));
    }
    again.set_len(10).unwrap();
    assert_eq!(source.extent(middle).unwrap(), Extent::Hole(1 << 30));
    assert!(source.check().is_err());
}

#[test]
fn what_a_receiver_is_refused_no_source_gives_and_it_goes_on_after() {
    let pool = pool();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&pattern(2, 10_000)).unwrap();
    for kind in SOURCES {
        let mut source = FileSource::open(file.path(), kind).unwrap().chunk(4_000);
        let (receiver, mut batch) = (pool.receiver(), Batch::new());
        assert_eq!(source.recv(&receiver, &mut batch).unwrap(), Received::Chains(3));
        assert_eq!(source.recv(&receiver, &mut batch).unwrap(), Received::Closed);
        source.seek_to(9_000);
        batch.clear();
        receiver.flush();
        // A few are left, for those who are not receivers.
        let starve = crate::testing::Starve::leave(&pool, 8, 1);
        assert!(pool.chain().is_ok());
        assert_eq!(source.recv(&receiver, &mut batch).unwrap(), Received::NoBuffers);
        assert!(source.read_at(&receiver, 0, 4_000).unwrap().is_none());
        assert_eq!((batch.len(), source.position()), (0, 9_000));
        drop(starve);
        assert_eq!(source.recv(&receiver, &mut batch).unwrap(), Received::Chains(1));
        assert!(bytes_of(&batch.pop().unwrap()) == pattern(2, 10_000)[9_000..]);
        assert_eq!(source.position(), 10_000);
    }
    crate::testing::assert_all_free(&pool);
}

#[test]
fn a_disk_that_cannot_be_read_is_named_after_what_could_be() {
    let pool = pool();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&pattern(3, 200_000)).unwrap();
    let mut source = FileSource::open(file.path(), SourceKind::Preadv).unwrap().chunk(10_000);
    let mut calls = 0;
    let faults = faults::inject(move |attempt| {
        calls += usize::from(attempt.call == Call::Preadv);
        if calls > 2 { Fault::Errno(libc::EIO) } else { Fault::None }
    });
    let (receiver, mut batch) = (pool.receiver(), Batch::new());
    assert_eq!(source.recv(&receiver, &mut batch).unwrap(), Received::Chains(2));
    for _ in 0..2 {
        let error = source.recv(&receiver, &mut batch).unwrap_err();
        let expected = format!("preadv of {}: EIO", file.path().display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    drop(faults);
    assert_eq!((batch.len(), source.position()), (2, 20_000));
    drop((batch, receiver));
    crate::testing::assert_all_free(&pool);
}

#[test]
fn what_is_no_file_is_refused_by_name_and_nothing_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    let status = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(status.success());
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for kind in SOURCES {
        for (path, words) in [
            (fifo.as_path(), "a FIFO, not a regular file"),
            (socket.as_path(), "open of"), // ENXIO
            (Path::new("/dev/null"), "a device, not a regular file"),
            (Path::new("/dev/zero"), "a device, not a regular file"),
            (folder.path(), "a folder, not a regular file"),
            (Path::new("/nonexistent/file"), "open of /nonexistent/file: ENOENT"),
        ] {
            let error = FileSource::open(path, kind).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
    let there = folder.path().join("there");
    fs::write(&there, "precious").unwrap();
    std::os::unix::fs::symlink(&there, folder.path().join("link")).unwrap();
    for name in ["there", "link"] {
        let error = FileSink::create(&folder.path().join(name), SinkKind::Pwritev).unwrap_err();
        assert_eq!(errno(&error), Some(libc::EEXIST), "{error}");
    }
    assert_eq!(fs::read(&there).unwrap(), b"precious");
}
