//! What is sent: files, folders and streams.

use std::{
    fs::File,
    io::{Cursor, ErrorKind, Read, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
};

use super::{hostile::make_fifo, *};
use crate::io::SourceKind;
use crate::testing::{Rng, Starve, assert_all_free};

fn item(text: &str, what: What) -> Item {
    Item { name: name(text), shown: format!("shown {text}"), what }
}

fn driver(pool: &Pool, items: Vec<Item>) -> Driver {
    driver_of(pool, SourceKind::Preadv, items)
}

fn driver_of(pool: &Pool, kind: SourceKind, items: Vec<Item>) -> Driver {
    let store = sender(pool, kind, items.into_iter()).unwrap();
    Driver { store, pool: pool.clone(), _end: End(None) }
}

/// One file, opened as number 1.
fn opened(pool: &Pool, kind: SourceKind, path: &Path) -> (Driver, Attributes) {
    let mut driver = driver_of(pool, kind, vec![item("a", What::File(path.into()))]);
    match driver.done(1, Request::Next).unwrap() {
        Done::Opened { name: Some(opened), attributes } => {
            assert_eq!(opened, name("a"));
            (driver, attributes)
        }
        other => panic!("{other:?}"),
    }
}

const BOTH: [SourceKind; 2] = [SourceKind::Preadv, SourceKind::Mapped];

/// All bytes and where they were, as far as a 64-byte answer can say.
fn look(offset: u64, pieces: &mut dyn Iterator<Item = &[u8]>) -> Looked {
    let mut looked = [0; 64];
    let (mut sum, mut len) = (0_u64, 0_u64);
    for byte in pieces.flatten() {
        sum = sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
        len += 1;
    }
    for (at, number) in [offset, sum, len].into_iter().enumerate() {
        looked[8 * at..][..8].copy_from_slice(&number.to_le_bytes());
    }
    looked
}

#[test]
fn a_file_is_read_in_any_order_and_looked_at() {
    let pool = plain_pool();
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = (folder.path().join("f"), Rng::new(1).bytes(300_000));
    fs::write(&path, &bytes).unwrap();
    for kind in BOTH {
        let (mut driver, attributes) = opened(&pool, kind, &path);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(attributes.modified, metadata.modified().ok());
        assert_eq!(attributes.length, Some(300_000));
        for (offset, len) in [(200_000, 200_000), (0, 1), (65_537, 131_072), (299_999, 1)] {
            driver.ask(1, Request::Read { offset, len, look: Some(look) });
            let Ok(Done::Read { chain, looked, .. }) = driver.answer().result else { panic!() };
            assert_eq!(chain.slices().is_err(), kind == SourceKind::Mapped);
            let from = offset as usize;
            let expected = &bytes[from..bytes.len().min(from + len)];
            assert!(chain.to_vec().unwrap() == expected);
            assert_eq!(looked, Some(look(offset, &mut std::iter::once(expected))));
        }
        driver.done(1, Request::Close).unwrap();
        assert_all_free(&pool);
        assert!(matches!(driver.done(1, Request::Next), Ok(Done::NoMore)));
    }
}

#[test]
fn each_length_from_nothing_to_a_page() {
    let pool = plain_pool();
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = (folder.path().join("f"), Rng::new(2).bytes(4_096));
    let file = File::create(&path).unwrap();
    for kind in BOTH {
        let same = (0..=4_096).map(|_| item("a", What::File(path.clone())));
        let mut driver = driver_of(&pool, kind, same.collect());
        for len in 0..=4_096 {
            file.set_len(0).unwrap();
            file.write_all_at(&bytes[..len], 0).unwrap();
            let done = driver.done(1, Request::Next).unwrap();
            let length = Some(len as u64);
            assert!(matches!(done, Done::Opened { attributes, .. } if attributes.length == length));
            if len > 0 {
                assert!(driver.read(1, 0, 5_000) == bytes[..len]);
            }
            let end = driver.done(1, read(len as u64, 1)).unwrap();
            assert!(matches!(end, Done::End { offset } if offset == len as u64));
            driver.done(1, Request::Close).unwrap();
        }
    }
    assert_all_free(&pool);
}

#[test]
fn folders_streams_and_failures_take_their_turns() {
    let pool = plain_pool();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let items = vec![
        item("f", What::Folder(folder.path().into())),
        item("m", What::File(missing.clone())),
        item("s", What::Stream(Box::new(Cursor::new(b"0123456789")))),
        item("e", What::Failed(ErrorKind::PermissionDenied.into())),
        item("g", What::Folder(missing)),
    ];
    let mut driver = driver(&pool, items);
    let mode = fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777;
    let done = driver.done(1, Request::Next);
    assert!(matches!(done, Ok(Done::Folder { attributes, .. }) if attributes.mode == mode));
    let failure = driver.done(1, Request::Next).unwrap_err();
    assert_eq!(failure.item.as_deref(), Some("shown m"));
    assert!(failure.error.to_string().ends_with("missing: ENOENT (No such file or directory)"));
    assert_eq!(driver.error(1, read(0, 1)).kind(), ErrorKind::NotFound);
    let done = driver.done(1, Request::Next);
    assert!(matches!(done, Ok(Done::Opened { attributes, .. }) if attributes.length.is_none()));
    assert_eq!(driver.read(1, 0, 4), b"0123");
    // A stream goes on where it is.
    let done = driver.done(1, read(5, 2));
    assert!(
        matches!(&done, Ok(Done::Read { offset: 4, chain, .. }) if chain.to_vec().unwrap() == b"45"),
        "{done:?}"
    );
    drop(done);
    assert_eq!(driver.read(1, 6, 100), b"6789");
    assert!(matches!(driver.done(1, read(106, 4)), Ok(Done::End { offset: 10 })));
    driver.done(1, Request::Close).unwrap();
    for kind in [ErrorKind::PermissionDenied, ErrorKind::NotFound] {
        assert_eq!(driver.error(1, Request::Next).kind(), kind);
    }
    assert!(matches!(driver.done(1, Request::Next), Ok(Done::NoMore)));
    let write = driver.write(0, b"x");
    let failure = driver.done(1, write).unwrap_err();
    assert_eq!(failure.error.kind(), ErrorKind::Unsupported);
    assert_eq!(failure.chain.unwrap().to_vec().unwrap(), b"x");
}

#[test]
fn what_is_no_regular_file_is_refused_by_what_it_is() {
    let pool = plain_pool();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    make_fifo(&path("fifo"));
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let cases: [(PathBuf, &str); 4] = [
        (path("fifo"), "a FIFO, not a regular file"),
        (path("socket"), "a socket, not a regular file"),
        ("/dev/null".into(), "a device, not a regular file"),
        (folder.path().into(), "a folder, not a file"),
    ];
    for (path, what) in cases {
        let mut driver = driver(&pool, vec![item("a", What::File(path.clone()))]);
        let error = driver.error(1, Request::Next);
        assert_eq!(error.to_string(), format!("open of {}: {what}", path.display()));
    }
    let (mut driver, attributes) = opened(&pool, SourceKind::Mapped, "/proc/self/status".as_ref());
    assert_eq!(attributes.length, None, "it has no length before it is read");
    assert!(driver.read(1, 0, 60_000).starts_with(b"Name:"));
}

#[test]
fn a_file_that_changes_is_said_to_have_changed_and_how() {
    let pool = plain_pool();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let shown = path.display();
    let change = |change: &dyn Fn(&File)| {
        fs::write(&path, [7; 16_384]).unwrap();
        let (driver, _) = opened(&pool, SourceKind::Preadv, &path);
        thread::sleep(Duration::from_millis(20)); // the kernel's clock for files is a coarse one
        change(&File::options().write(true).open(&path).unwrap());
        driver
    };
    let mut driver = change(&|file| file.set_len(8_192).unwrap());
    assert_eq!(driver.read(1, 0, 8_192).len(), 8_192);
    for request in [read(4_096, 8_192), read(12_288, 100), Request::Close] {
        let error = driver.error(1, request);
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        let expected = format!("{shown} was cut short: 8192 bytes, 16384 were there");
        assert_eq!(error.to_string(), expected);
    }
    let mut driver = change(&|file| file.set_len(20_000).unwrap());
    assert_eq!(driver.read(1, 0, 30_000).len(), 16_384, "what was there when it was opened");
    assert!(matches!(driver.done(1, read(16_384, 1)), Ok(Done::End { offset: 16_384 })));
    let error = driver.error(1, Request::Close);
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert_eq!(error.to_string(), format!("{shown} has grown: 20000 bytes, 16384 were there"));
    let mut driver = change(&|file| file.write_all_at(b"x", 5).unwrap());
    let error = driver.error(1, Request::Close);
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let expected = format!("{shown} was modified while it was read");
    assert_eq!(error.to_string(), expected);
    let mut driver = change(&|_| fs::remove_file(&path).unwrap());
    assert_eq!(driver.read(1, 0, 16_384), [7; 16_384]);
    driver.done(1, Request::Close).unwrap();
}

#[test]
fn a_mapped_file_that_is_cut_short_is_found_out_by_whoever_looks() {
    let pool = plain_pool();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, [7; 16_384]).unwrap();
    let (mut driver, _) = opened(&pool, SourceKind::Mapped, &path);
    File::options().write(true).open(&path).unwrap().set_len(8_192).unwrap();
    let error = driver.error(1, Request::Read { offset: 0, len: 16_384, look: Some(look) });
    let expected = format!("{} was cut short: 8192 bytes, 16384 were there", path.display());
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::UnexpectedEof, expected.clone()));
    // Whoever does not look hears of it as well, if it is cut before it is read; else at the end, or
    // when the kernel finds nothing to send.
    assert!(matches!(driver.done(1, read(0, 8_192)), Ok(Done::Read { .. })));
    assert_eq!(driver.error(1, read(0, 16_384)).to_string(), expected);
    assert_eq!(driver.error(1, Request::Close).to_string(), expected);
    assert_all_free(&pool);
}

#[test]
fn a_read_of_nothing_but_a_hole_is_answered_by_one() {
    let pool = plain_pool();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse");
    const PIECE: usize = 1 << 16;
    let file = File::create(&path).unwrap();
    file.write_all_at(&[1; 100], 4 * PIECE as u64).unwrap();
    file.set_len(6 * PIECE as u64 + 10).unwrap();
    file.sync_all().unwrap();
    let (mut driver, _) = opened(&pool, SourceKind::Mapped, &path);
    if !matches!(driver.done(1, read(0, PIECE)), Ok(Done::Hole { .. })) {
        return cannot_run("the file system of the temporary folder knows no holes");
    }
    let hole = |offset, len| {
        move |done: Result<Done, Failure>| match done {
            Ok(Done::Hole { offset: at, len: n }) => (at, n) == (offset, len),
            _ => false,
        }
    };
    assert!(hole(0, 4 * PIECE)(driver.done(1, read(0, 4 * PIECE))));
    assert!(hole(1_000, 5)(driver.done(1, read(1_000, 5))));
    let end = 5 * PIECE as u64;
    assert!(hole(end, PIECE + 10)(driver.done(1, read(end, 2 * PIECE))), "to the end of the file");
    // Data anywhere in the range: bytes.
    let got = driver.read(1, 3 * PIECE as u64, 2 * PIECE);
    assert!(got[..PIECE].iter().all(|&byte| byte == 0) && got[PIECE..][..100] == [1; 100]);
    driver.done(1, Request::Close).unwrap();
}

#[test]
fn without_buffers_nothing_is_lost() {
    let pool = plain_pool();
    let items = vec![item("s", What::Stream(Box::new(Cursor::new(vec![5; 100_000]))))];
    let mut driver = driver(&pool, items);
    driver.done(1, Request::Next).unwrap();
    let starve = Starve::leave(&pool, 0, 0);
    assert!(matches!(driver.done(1, read(0, 60_000)), Ok(Done::NoBuffers)));
    drop(starve);
    assert_eq!(driver.read(1, 0, 60_000), [5; 60_000]);
    assert_eq!(driver.read(1, 60_000, 60_000), [5; 40_000]);
    let error = driver.error(1, read(100_000, 1 << 30));
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "more than the pool will ever have: {error}");
}

#[test]
fn a_slow_pipe_holds_up_neither_other_stores_nor_the_end() {
    let pool = plain_pool();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut slow = driver(&pool, vec![item("s", What::Stream(Box::new(reader)))]);
    slow.done(1, Request::Next).unwrap();
    slow.ask(1, read(0, 10));
    writer.write_all(b"01234").unwrap();
    let mut other = driver(&pool, vec![item("s", What::Stream(Box::new(Cursor::new("x"))))]);
    other.done(1, Request::Next).unwrap();
    assert_eq!(other.read(1, 0, 10), b"x");
    thread::sleep(Duration::from_millis(20));
    assert!(slow.store.answer().is_none(), "fewer come at the end only");
    let start = Instant::now();
    drop(slow); // though its thread waits for the pipe
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(writer);
}

#[test]
fn items_are_found_as_they_are_asked_for_on_the_stores_own_thread() {
    let pool = plain_pool();
    let (give, take) = mpsc::channel();
    let threads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&threads);
    let items = take.into_iter().inspect(move |_| {
        seen.lock().unwrap().push(thread::current().name().map(str::to_owned));
    });
    let store = sender(&pool, SourceKind::Preadv, items).unwrap();
    let mut driver = Driver { store, pool, _end: End(None) };
    for text in ["a", "b"] {
        driver.ask(1, Request::Next);
        thread::sleep(Duration::from_millis(5));
        assert!(driver.store.answer().is_none());
        give.send(item(text, What::Stream(Box::new(std::io::empty().take(0))))).unwrap();
        let done = driver.answer().result;
        assert!(matches!(done, Ok(Done::Opened { name: Some(got), .. }) if got == name(text)));
    }
    drop(give);
    assert!(matches!(driver.done(1, Request::Next), Ok(Done::NoMore)));
    assert_eq!(*threads.lock().unwrap(), vec![Some("mbuf-send".to_owned()); 2]);
}

#[test]
fn a_panic_in_what_it_was_given_is_a_failure() {
    let pool = plain_pool();
    struct Bad;
    impl Read for Bad {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("a test means this")
        }
    }
    let good = What::Stream(Box::new(Cursor::new("fine")));
    let items = vec![item("bad", What::Stream(Box::new(Bad))), item("good", good)];
    let mut driver = driver(&pool, items);
    driver.done(1, Request::Next).unwrap();
    assert_eq!(driver.error(1, read(0, 10)).kind(), ErrorKind::Other);
    driver.done(2, Request::Next).unwrap();
    assert_eq!(driver.read(2, 0, 10), b"fine");
    assert_all_free(&pool);
}

#[test]
fn a_stream_that_would_block_is_asked_again() {
    struct Reluctant(u32);
    impl Read for Reluctant {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 => Err(ErrorKind::Interrupted.into()),
                2..5 => Err(ErrorKind::WouldBlock.into()),
                5 => {
                    out[..2].copy_from_slice(b"ok");
                    Ok(2)
                }
                _ => Ok(0),
            }
        }
    }
    let pool = plain_pool();
    let mut driver = driver(&pool, vec![item("a", What::Stream(Box::new(Reluctant(0))))]);
    driver.done(1, Request::Next).unwrap();
    assert_eq!(driver.read(1, 0, 10), b"ok");
    assert!(matches!(driver.done(1, read(2, 10)), Ok(Done::End { offset: 2 })));
}

#[test]
fn a_stream_that_brings_nothing_keeps_no_answers_back() {
    let pool = plain_pool();
    let (reader, writer) = io::pipe().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, b"abc").unwrap();
    let items = vec![item("a", What::File(path)), item("s", What::Stream(Box::new(reader)))];
    let mut driver = driver(&pool, items);
    driver.done(0, Request::Next).unwrap();
    driver.done(1, Request::Next).unwrap();
    driver.ask(0, read(0, 3));
    driver.ask(1, read(0, 100));
    let answer = driver.answer(); // though the thread waits for the pipe
    assert_eq!((answer.file, answer.result.is_ok()), (0, true));
    drop(writer);
    assert!(matches!(driver.answer().result, Ok(Done::End { offset: 0 })));
}
