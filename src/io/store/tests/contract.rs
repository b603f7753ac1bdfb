//! What every store does.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use super::*;
use crate::io::{SinkKind, SourceKind};
use crate::testing::{MemoryHandle, MemoryStore, Rng, assert_all_free};

/// Where to look for what a store has done.
enum Place {
    Memory(MemoryHandle),
    Real(tempfile::TempDir),
}

impl Place {
    /// Whole files, and parts.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        match self {
            Place::Memory(test) => test.files().into_iter().chain(test.parts()).collect(),
            Place::Real(folder) => files(folder.path()),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        match self {
            Place::Memory(test) => test.put(name, bytes),
            Place::Real(folder) => fs::write(folder.path().join(name), bytes).unwrap(),
        }
    }

    fn attributes(&self, name: &str) -> Attributes {
        match self {
            Place::Memory(test) => test.attributes(name).unwrap(),
            Place::Real(folder) => {
                let metadata = fs::symlink_metadata(folder.path().join(name)).unwrap();
                assert_eq!(metadata.permissions().mode() & 0o7000, 0, "no special bits");
                Attributes {
                    length: metadata.is_file().then(|| metadata.size()),
                    mode: metadata.permissions().mode() & 0o777,
                    modified: metadata.modified().ok(),
                }
            }
        }
    }
}

/// Runs a part of the contract over every store.
fn every(test: impl Fn(&mut Driver, &Place)) {
    let pool = plain_pool();
    let memory = MemoryStore::sending(&pool, []);
    let place = Place::Memory(memory.handle());
    test(&mut Driver::new(memory, &pool), &place);
    assert_all_free(&pool);
    for (sync, fall_back, sink, source) in [
        (true, false, SinkKind::Pwritev, SourceKind::Preadv),
        (true, true, SinkKind::Mapped, SourceKind::Mapped),
        (false, true, SinkKind::Pwritev, SourceKind::Mapped),
        (false, false, SinkKind::Mapped, SourceKind::Preadv),
    ] {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path()).unwrap().sync(sync);
        let mut folder = folder.sink(sink).source(source);
        if fall_back {
            folder = folder.fall_back();
        }
        let mut driver = Driver::of(&folder, &pool);
        test(&mut driver, &Place::Real(temporary));
        drop(driver);
        assert_all_free(&pool);
    }
}

#[test]
fn create_write_and_commit_without_waiting() {
    every(|driver, place| {
        driver.ask(1, create("a/b/c", false));
        let second = driver.write(3, b"def");
        driver.ask(1, second);
        let first = driver.write(0, b"abc");
        driver.ask(1, first);
        driver.ask(1, commit(6));
        let answers = [(); 4].map(|()| driver.answer());
        assert!(answers.iter().all(|answer| answer.file == 1));
        let [created, one, two, committed] = answers.map(|answer| answer.result.unwrap());
        assert!(matches!(created, Done::Created));
        assert!(matches!(one, Done::Written(chain) if chain.to_vec().unwrap() == b"def"));
        assert!(matches!(two, Done::Written(chain) if chain.to_vec().unwrap() == b"abc"));
        assert!(matches!(committed, Done::Committed));
        assert_eq!(place.files(), BTreeMap::from([("a/b/c".into(), b"abcdef".to_vec())]));
        // The number is free again, and so is the name of the part.
        driver.put(1, "a/b/d", b"more", false).unwrap();
        assert_eq!(place.files()["a/b/d"], b"more");
        assert!(driver.store.answer().is_none());
    });
}

#[test]
fn nothing_has_its_name_before_it_is_whole() {
    every(|driver, place| {
        driver.done(1, create("a", false)).unwrap();
        let write = driver.write(0, b"half of it, and then some");
        driver.done(1, write).unwrap();
        assert_eq!(place.files().into_keys().collect::<Vec<_>>(), ["a.part"]);
        driver.done(1, commit(4)).unwrap();
        assert_eq!(place.files(), BTreeMap::from([("a".into(), b"half".to_vec())]), "cut");
        driver.done(2, create("b", false)).unwrap();
        driver.done(2, commit(3)).unwrap();
        assert_eq!(place.files()["b"], [0; 3], "what was not written is zero");
    });
}

#[test]
fn each_request_is_answered_once_and_those_of_a_file_in_order() {
    every(|driver, place| {
        let mut rng = Rng::new(7);
        let mut asked: BTreeMap<FileNo, Vec<u64>> = BTreeMap::new();
        for file in 0..40 {
            driver.ask(file, create(&format!("f{}/{file}", file % 3), false));
        }
        for step in 0..200 {
            let file = rng.below(40) as u32;
            let write = driver.write(step, &[file as u8]);
            asked.entry(file).or_default().push(step);
            driver.ask(file, write);
        }
        for file in 0..40 {
            driver.ask(file, commit(200));
        }
        let mut committed = BTreeSet::new();
        let mut written: BTreeMap<FileNo, usize> = BTreeMap::new();
        for _ in 0..280 {
            let answer = driver.answer();
            match answer.result.unwrap() {
                Done::Created => assert_eq!(written.insert(answer.file, 0), None),
                Done::Written(_) => *written.get_mut(&answer.file).unwrap() += 1,
                Done::Committed => {
                    let all = asked.get(&answer.file).map_or(0, Vec::len);
                    assert_eq!(written[&answer.file], all);
                    assert!(committed.insert(answer.file));
                }
                other => panic!("{other:?} was not asked for"),
            }
        }
        assert!(driver.store.answer().is_none());
        for (name, bytes) in place.files() {
            let file: FileNo = name.rsplit('/').next().unwrap().parse().unwrap();
            let expected = asked.get(&file).cloned().unwrap_or_default();
            let wrote = |at: &u64| bytes[*at as usize] == file as u8;
            assert!(expected.iter().all(wrote) && bytes.len() == 200);
        }
    });
}

#[test]
fn what_follows_a_failed_creation_fails_and_is_given_back() {
    every(|driver, place| {
        place.put("there", b"old");
        driver.ask(1, create("there", false));
        let write = driver.write(0, b"new");
        driver.ask(1, write);
        driver.ask(1, commit(3));
        for chain in [None, Some(b"new".to_vec()), None] {
            let failure = driver.answer().result.unwrap_err();
            assert_eq!(failure.error.kind(), ErrorKind::AlreadyExists, "{}", failure.error);
            assert_eq!(failure.chain.map(|chain| chain.to_vec().unwrap()), chain);
        }
        assert_eq!(place.files(), BTreeMap::from([("there".into(), b"old".to_vec())]));
        assert!(matches!(driver.done(1, Request::Discard), Ok(Done::Discarded)));
        driver.put(1, "there", b"new", true).unwrap();
        assert_eq!(place.files(), BTreeMap::from([("there".into(), b"new".to_vec())]));
        // Somebody else is faster.
        driver.done(1, create("late", false)).unwrap();
        place.put("late", b"theirs");
        assert_eq!(driver.error(1, commit(0)).kind(), ErrorKind::AlreadyExists);
        driver.done(1, Request::Discard).unwrap();
        assert_eq!(place.files()["late"], b"theirs");
        assert_eq!(place.files().len(), 2);
    });
}

#[test]
fn parts_vanish_when_they_are_given_up() {
    every(|driver, place| {
        driver.done(1, create("a", false)).unwrap();
        let write = driver.write(0, b"x");
        driver.done(1, write).unwrap();
        assert!(matches!(driver.done(1, Request::Discard), Ok(Done::Discarded)));
        assert!(place.files().is_empty());
        assert_eq!(driver.error(1, Request::Discard).kind(), ErrorKind::InvalidInput);
        let write = driver.write(0, b"x");
        let failure = driver.done(1, write).unwrap_err();
        assert_eq!(failure.chain.unwrap().to_vec().unwrap(), b"x");
        assert_eq!(driver.error(1, commit(0)).kind(), ErrorKind::InvalidInput);
        assert_eq!(driver.error(1, Request::Close).kind(), ErrorKind::InvalidInput);
        // By the store's end.
        driver.done(1, create("f/a", false)).unwrap();
        driver.done(2, create("f/b", false)).unwrap();
        driver.done(2, commit(0)).unwrap();
        let pool = driver.pool.clone();
        *driver = Driver::new(MemoryStore::new(), &pool);
        assert_eq!(place.files().into_keys().collect::<Vec<_>>(), ["f/b"]);
    });
}

#[test]
fn one_name_is_written_by_one() {
    every(|driver, place| {
        driver.done(1, create("a", true)).unwrap();
        let error = driver.error(2, create("a", true));
        assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
        driver.done(1, commit(0)).unwrap();
        driver.done(2, create("a", true)).unwrap();
        driver.done(2, Request::Discard).unwrap();
        assert_eq!(place.files().into_keys().collect::<Vec<_>>(), ["a"]);
    });
}

#[test]
fn folders_and_files_do_not_take_each_others_names() {
    every(|driver, place| {
        let folder = |text, mode| Request::MakeFolder { name: name(text), mode };
        assert!(matches!(driver.done(9, folder("x/y", Some(0o4_750))), Ok(Done::FolderMade)));
        assert!(matches!(driver.done(9, folder("x/y", Some(0o700))), Ok(Done::FolderMade)));
        assert_eq!(place.attributes("x/y").mode, 0o750, "one that is there is left as it is");
        driver.put(1, "x/y/z", b"", false).unwrap();
        assert_eq!(driver.error(1, create("x/y", true)).kind(), ErrorKind::IsADirectory);
        assert_eq!(driver.error(1, create("x/y/z/w", true)).kind(), ErrorKind::NotADirectory);
        assert_eq!(driver.error(1, folder("x/y/z", None)).kind(), ErrorKind::NotADirectory);
        assert_eq!(driver.error(1, folder("x/y/z/w", None)).kind(), ErrorKind::NotADirectory);
        assert_eq!(
            driver.error(1, Request::Open { name: name("x/y") }).kind(),
            ErrorKind::IsADirectory
        );
        assert_eq!(driver.error(1, Request::Open { name: name("no") }).kind(), ErrorKind::NotFound);
        assert_eq!(driver.error(1, read(0, 1)).kind(), ErrorKind::NotFound);
    });
}

#[test]
fn permissions_and_times_are_kept_and_no_others() {
    every(|driver, place| {
        let modified = Some(SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789));
        driver.done(1, create("a", false)).unwrap();
        let commit = Request::Commit { length: 0, mode: Some(0o7_750), modified };
        driver.done(1, commit).unwrap();
        let attributes = Attributes { length: Some(0), mode: 0o750, modified };
        assert_eq!(place.attributes("a"), attributes);
        driver.put(1, "b", b"", false).unwrap();
        let default = place.attributes("b").mode;
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("like this"), "").unwrap();
        let expected = fs::metadata(temporary.path().join("like this")).unwrap().permissions();
        if matches!(place, Place::Real(_)) {
            assert_eq!(default, expected.mode() & 0o777);
        }
        let Ok(Done::Opened { name: None, attributes: opened }) =
            driver.done(1, Request::Open { name: name("a") })
        else {
            panic!("not opened")
        };
        assert_eq!(opened, attributes);
        driver.done(1, Request::Close).unwrap();
    });
}

#[test]
fn what_was_written_is_read_whatever_its_length() {
    every(|driver, place| {
        let bytes = Rng::new(3).bytes(200_000);
        for len in [0, 1, 63, 64, 65, 127, 128, 129, 2_047, 2_048, 2_049, 4_095, 4_096, 200_000] {
            driver.put(1, "a", &bytes[..len], true).unwrap();
            assert!(place.files()["a"] == bytes[..len], "{len} bytes");
            driver.done(1, Request::Open { name: name("a") }).unwrap();
            if len > 0 {
                assert!(driver.read(1, 0, len) == bytes[..len]);
                assert!(driver.read(1, 0, len + 9) == bytes[..len], "short at the end only");
                assert_eq!(driver.read(1, len as u64 - 1, 100), bytes[len - 1..len]);
            }
            for offset in [len as u64, len as u64 + 1, u64::MAX] {
                let end = driver.done(1, read(offset, 1)).unwrap();
                assert!(matches!(end, Done::End { offset } if offset == len as u64));
            }
            assert!(matches!(driver.done(1, Request::Close), Ok(Done::Closed)));
        }
    });
}

#[test]
fn a_write_beyond_what_a_file_can_have_fails_with_all_of_its_bytes() {
    every(|driver, place| {
        driver.done(1, create("a", false)).unwrap();
        let write = driver.write(u64::MAX - 4, b"far");
        let failure = driver.done(1, write).unwrap_err();
        assert_eq!(failure.error.kind(), ErrorKind::FileTooLarge, "{}", failure.error);
        assert_eq!(failure.chain.unwrap().to_vec().unwrap(), b"far");
        assert_eq!(driver.error(1, commit(0)).kind(), ErrorKind::FileTooLarge);
        driver.done(1, Request::Discard).unwrap();
        assert!(place.files().is_empty());
    });
}
