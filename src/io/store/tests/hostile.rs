//! Somebody else works in the same folder, and means harm.

use std::{
    io::ErrorKind,
    os::{
        fd::AsFd,
        unix::fs::{PermissionsExt, symlink},
    },
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::io::{errno, sys::beneath};

/// A folder to receive into, `in`, and something beside it that must not be touched, `out`.
struct Scene {
    all: tempfile::TempDir,
    pool: Pool,
    fall_back: bool,
}

impl Scene {
    /// Both ways to walk beneath a folder.
    fn both(test: impl Fn(&Scene)) {
        for fall_back in [false, true] {
            let all = tempfile::tempdir().unwrap();
            fs::create_dir(all.path().join("in")).unwrap();
            fs::create_dir(all.path().join("out")).unwrap();
            fs::write(all.path().join("out/secret"), "secret").unwrap();
            let scene = Scene { all, pool: plain_pool(), fall_back };
            test(&scene);
            let expected = BTreeMap::from([("secret".into(), b"secret".to_vec())]);
            assert_eq!(files(&scene.path("out")), expected, "nothing outside was touched");
            assert_eq!(fs::read_dir(scene.path("out")).unwrap().count(), 1);
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.all.path().join(name)
    }

    fn driver(&self) -> Driver {
        let mut folder = Folder::open(&self.path("in")).unwrap();
        if self.fall_back {
            folder = folder.fall_back();
        }
        Driver::of(&folder, &self.pool)
    }

    fn names(&self) -> Vec<String> {
        files(&self.path("in")).into_keys().collect()
    }
}

#[test]
fn a_link_in_a_files_place_is_replaced_and_never_written_through() {
    Scene::both(|scene| {
        for (link, to) in [("file", "../out/secret"), ("new", "../out/new"), ("dir", "../out")] {
            symlink(to, scene.path("in").join(link)).unwrap();
            let mut driver = scene.driver();
            let error = driver.put(1, link, b"mine", false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
            driver.put(1, link, b"mine", true).unwrap();
            let path = scene.path("in").join(link);
            assert!(fs::symlink_metadata(&path).unwrap().is_file());
            assert_eq!(fs::read(path).unwrap(), b"mine");
        }
        // Planted after the file was created.
        let mut driver = scene.driver();
        for (overwrite, file) in [(false, "late"), (true, "later")] {
            driver.done(1, create(file, overwrite)).unwrap();
            symlink("../out/secret", scene.path("in").join(file)).unwrap();
            let write = driver.write(0, b"mine");
            driver.done(1, write).unwrap();
            let result = driver.done(1, commit(4));
            assert_eq!(result.is_ok(), overwrite, "{result:?}");
        }
        assert_eq!(fs::read(scene.path("in/later")).unwrap(), b"mine");
        assert_eq!(scene.names(), ["dir", "file", "late", "later", "new"]);
    });
}

#[test]
fn a_link_in_a_parts_place_is_refused() {
    Scene::both(|scene| {
        symlink("../out/secret", scene.path("in/a.part")).unwrap();
        symlink("../out/new", scene.path("in/b.part")).unwrap();
        let mut driver = scene.driver();
        for file in ["a", "b"] {
            let error = driver.put(1, file, b"mine", true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            let part = scene.path("in").join(file);
            let expected = format!("create {}.part: a link has that name", part.display());
            assert_eq!(error.to_string(), expected);
        }
        // In place of one that is being written.
        driver.done(1, create("c", true)).unwrap();
        fs::rename(scene.path("in/c.part"), scene.path("in/stolen")).unwrap();
        symlink("../out/secret", scene.path("in/c.part")).unwrap();
        let write = driver.write(0, b"mine");
        driver.done(1, write).unwrap();
        let error = driver.error(1, commit(4));
        assert!(error.to_string().contains("is not the file any more"), "{error}");
        drop(driver);
        assert_eq!(scene.names(), ["a.part", "b.part", "c.part", "stolen"]);
    });
}

#[test]
fn a_link_in_a_folders_place_is_not_followed() {
    Scene::both(|scene| {
        symlink("../out", scene.path("in/d")).unwrap();
        fs::create_dir(scene.path("in/real")).unwrap();
        symlink("../../out", scene.path("in/real/d")).unwrap();
        let mut driver = scene.driver();
        for file in ["d/a", "d/secret", "real/d/a", "d/e/a"] {
            for overwrite in [false, true] {
                let error = driver.put(1, file, b"mine", overwrite).unwrap_err();
                assert_eq!(errno(&error), Some(libc::ELOOP), "{error}");
            }
            let error = driver.error(1, Request::Open { name: name(file) });
            assert_eq!(errno(&error), Some(libc::ELOOP), "{error}");
        }
        let folder = |text| Request::MakeFolder { name: name(text), mode: Some(0o777) };
        for text in ["d", "d/e", "real/d", "real/d/e/f"] {
            let error = driver.error(1, folder(text));
            assert_eq!(errno(&error), Some(libc::ELOOP), "{error}");
        }
        symlink("../out/secret", scene.path("in/link")).unwrap();
        let error = driver.error(1, Request::Open { name: name("link") });
        assert_eq!(errno(&error), Some(libc::ELOOP), "{error}");
    });
}

#[test]
fn a_folder_that_is_exchanged_for_a_link_fails_what_was_on_its_way_into_it() {
    Scene::both(|scene| {
        let mut driver = scene.driver();
        driver.put(1, "d/first", b"1", false).unwrap();
        driver.done(1, create("d/second", false)).unwrap();
        fs::rename(scene.path("in/d"), scene.path("in/moved")).unwrap();
        symlink("../out", scene.path("in/d")).unwrap();
        let write = driver.write(0, b"2");
        driver.done(1, write).unwrap();
        let error = driver.error(1, commit(1));
        assert_eq!(errno(&error), Some(libc::ELOOP), "{error}");
        let error = driver.put(2, "d/third", b"3", true).unwrap_err();
        assert_eq!(errno(&error), Some(libc::ELOOP), "{error}");
        assert_eq!(scene.names(), ["d", "moved/first"]);
        // Another folder in its place.
        fs::remove_file(scene.path("in/d")).unwrap();
        driver.done(1, create("d/fourth", false)).unwrap();
        fs::rename(scene.path("in/d"), scene.path("in/gone")).unwrap();
        fs::create_dir(scene.path("in/d")).unwrap();
        let error = driver.error(1, commit(0));
        assert!(error.to_string().contains("is not the folder any more that it was"), "{error}");
        driver.put(1, "d/fourth", b"4", false).unwrap();
        assert_eq!(scene.names(), ["d/fourth", "moved/first"]);
    });
}

#[test]
fn a_part_that_was_left_behind_is_replaced_and_nothing_else_is() {
    Scene::both(|scene| {
        let part = scene.path("in/a.part");
        let put = |overwrite| scene.driver().put(1, "a", b"new", overwrite);
        // As a receiver leaves it that is killed.
        fs::write(&part, "old").unwrap();
        fs::set_permissions(&part, fs::Permissions::from_mode(0o1600)).unwrap();
        put(false).unwrap();
        assert_eq!(scene.names(), ["a"]);

        let refused = |what: &str| {
            let error = put(true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            assert!(error.to_string().ends_with(&format!(": {what} has that name")), "{error}");
            assert_eq!(fs::read(scene.path("in/a")).unwrap(), b"new");
        };
        fs::write(&part, "somebody wants to keep it").unwrap();
        refused("a file that is no part");
        fs::set_permissions(&part, fs::Permissions::from_mode(0o1600)).unwrap();
        fs::hard_link(&part, scene.path("in/other")).unwrap();
        refused("a file of several names");
        fs::remove_file(scene.path("in/other")).unwrap();
        if std::os::unix::fs::chown(&part, Some(12_345), None).is_ok() {
            refused("somebody else's file");
        } else {
            cannot_run("only root gives files away");
        }
        fs::remove_file(&part).unwrap();
        fs::create_dir(&part).unwrap();
        refused("a folder");
        fs::remove_dir(&part).unwrap();
        let folder = fs::File::open(scene.path("in")).unwrap();
        make_fifo(&part);
        refused("a FIFO");
        beneath::unlinkat(folder.as_fd(), c"a.part").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&part).unwrap();
        refused("a socket");
        fs::remove_file(&part).unwrap();
        make_fifo(&scene.path("in/pipe"));
        let error = scene.driver().put(1, "pipe", b"", true).unwrap_err();
        assert!(error.to_string().ends_with("pipe: a FIFO has that name"), "{error}");
    });
}

#[test]
fn a_part_that_another_receiver_writes_is_busy() {
    Scene::both(|scene| {
        let (mut one, mut other) = (scene.driver(), scene.driver());
        one.done(1, create("a", true)).unwrap();
        let error = other.error(1, create("a", true));
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert!(error.to_string().ends_with("a.part: another receiver is writing it"), "{error}");
        let write = one.write(0, b"one");
        one.done(1, write).unwrap();
        one.done(1, commit(3)).unwrap();
        other.put(1, "a", b"other", true).unwrap();
        assert_eq!(files(&scene.path("in")), BTreeMap::from([("a".into(), b"other".to_vec())]));
    });
}

#[test]
fn a_folder_that_is_exchanged_again_and_again_lets_nothing_out() {
    Scene::both(|scene| {
        let at = scene.path("in/d");
        fs::create_dir(&at).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0.. {
                    let away = scene.path(&format!("in/away {n}"));
                    // The store may be faster, and make the folder anew.
                    if fs::rename(&at, &away).is_ok() && symlink("../out", &at).is_ok() {
                        thread::yield_now();
                        fs::remove_file(&at).unwrap();
                        let _ = fs::rename(&away, &at);
                    }
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    thread::sleep(Duration::from_micros(500));
                }
            });
            let mut driver = scene.driver();
            let mut whole = 0;
            for file in 0..300 {
                whole += u32::from(driver.put(1, &format!("d/{file}"), b"mine", true).is_ok());
                whole += u32::from(driver.put(1, "d/secret", b"mine", true).is_ok());
            }
            done.store(true, Ordering::Relaxed);
            eprintln!("{whole} of 600 files came through");
        });
        assert!(scene.names().iter().all(|name| !name.ends_with(".part")), "{:?}", scene.names());
    });
}

#[test]
fn the_folder_itself_may_be_reached_through_a_link_and_goes_where_it_goes() {
    Scene::both(|scene| {
        symlink("in", scene.path("link")).unwrap();
        let mut driver = Driver::folder(&scene.path("link"), &scene.pool);
        driver.put(1, "a", b"a", false).unwrap();
        fs::remove_file(scene.path("link")).unwrap();
        symlink("out", scene.path("link")).unwrap();
        driver.put(1, "b", b"b", false).unwrap();
        fs::rename(scene.path("in"), scene.path("elsewhere")).unwrap();
        driver.put(1, "c/d", b"c", false).unwrap();
        fs::rename(scene.path("elsewhere"), scene.path("in")).unwrap();
        assert_eq!(scene.names(), ["a", "b", "c/d"]);
    });
}

pub(super) fn make_fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
fn where_that_was_said_no_folders_are_made() {
    let here = tempfile::tempdir().unwrap();
    fs::create_dir(here.path().join("there")).unwrap();
    let folder = Folder::open(here.path()).unwrap().make_folders(false);
    let mut driver = Driver::of(&folder, &crate::testing::pool());
    let error = driver.error(1, create("a/b/c", false));
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!here.path().join("a").exists());
    driver.put(2, "there/f", b"bytes", false).unwrap();
    assert_eq!(fs::read(here.path().join("there/f")).unwrap(), b"bytes");
}
