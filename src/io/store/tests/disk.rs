//! Disks that are full, or may not be written to.

use std::{io::ErrorKind, process::Command};

use super::*;
use crate::{
    io::{SinkKind, errno},
    testing::{Rng, assert_all_free},
};

/// Says to a test that it is in namespaces of its own.
const INSIDE: &str = "MBUF_TEST_IN_A_NAMESPACE";

/// Runs the test `inner` of this file, which is otherwise ignored, where it may mount things: in
/// namespaces of its own, which vanish with it.
fn in_a_namespace(inner: &str) {
    let this = std::env::current_exe().unwrap();
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]).args(arguments);
        command.env(INSIDE, "1");
        command
    };
    match unshare(&["true"]).output() {
        Err(error) => return cannot_run(&format!("unshare: {error}")),
        Ok(output) if !output.status.success() => {
            return cannot_run(&String::from_utf8_lossy(&output.stderr));
        }
        Ok(_) => {}
    }
    let test = format!("io::store::tests::disk::{inner}");
    let arguments = [this.to_str().unwrap(), "--exact", &test, "--ignored", "--nocapture"];
    let output = unshare(&arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{inner}:\n{told}\n{errors}");
}

fn mount(arguments: &[&str], at: &Path) {
    assert!(std::env::var_os(INSIDE).is_some(), "nothing is mounted where others would see it");
    let output = Command::new("mount").args(arguments).arg(at).output().unwrap();
    assert!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_full_disk() {
    in_a_namespace("a_full_disk_inside");
}

#[test]
#[ignore = "run by a_full_disk, where it may mount"]
fn a_full_disk_inside() {
    let pool = plain_pool();
    let folder = tempfile::tempdir().unwrap();
    mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], folder.path());
    let bytes = Rng::new(5).bytes(96 << 10);
    for sink in [SinkKind::Pwritev, SinkKind::Mapped] {
        let mut driver = Driver::of(&Folder::open(folder.path()).unwrap().sink(sink), &pool);
        driver.put(0, "whole", b"stays", true).unwrap();
        driver.done(1, create("big", false)).unwrap();
        let mut offset = 0;
        let failure = loop {
            let write = driver.write(offset, &bytes);
            match driver.done(1, write) {
                Ok(_) => offset += bytes.len() as u64,
                Err(failure) => break failure,
            }
            assert!(offset < 2 << 20, "the disk is never full");
        };
        assert_eq!(errno(&failure.error), Some(libc::ENOSPC), "{}", failure.error);
        assert!(failure.error.to_string().contains("big.part"), "{}", failure.error);
        // Exactly what was not written comes back.
        let rest = failure.chain.unwrap().to_vec().unwrap();
        assert!(rest == bytes[bytes.len() - rest.len()..]);
        let written = bytes.len() - rest.len();
        let part = fs::read(folder.path().join("big.part")).unwrap();
        assert!(part[offset as usize..][..written] == bytes[..written]);
        // Nothing else is done to it, and it does not get its name.
        let write = driver.write(0, b"x");
        assert_eq!(driver.error(1, write).kind(), ErrorKind::StorageFull);
        assert_eq!(driver.error(1, commit(0)).kind(), ErrorKind::StorageFull);
        assert_eq!(files(folder.path()).into_keys().collect::<Vec<_>>(), ["big.part", "whole"]);
        driver.done(1, Request::Discard).unwrap();
        driver.put(1, "small", &bytes, true).unwrap();
        drop(driver);
        fs::remove_file(folder.path().join("small")).unwrap();
        assert_eq!(fs::read(folder.path().join("whole")).unwrap(), b"stays");
        assert_eq!(files(folder.path()).into_keys().collect::<Vec<_>>(), ["whole"]);
        assert_all_free(&pool);
    }
}

#[test]
fn what_may_not_be_written_to() {
    in_a_namespace("what_may_not_be_written_to_inside");
}

#[test]
#[ignore = "run by what_may_not_be_written_to, where it may mount"]
fn what_may_not_be_written_to_inside() {
    let pool = plain_pool();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for sub in ["fixed", "other"] {
        fs::create_dir(path(sub)).unwrap();
    }
    fs::write(path("fixed/old"), "old").unwrap();
    mount(&["-t", "tmpfs", "tmpfs"], &path("other"));
    let fixed = path("fixed");
    mount(&["--bind", fixed.to_str().unwrap()], &fixed);
    mount(&["-o", "remount,ro,bind"], &fixed);
    let mut driver = Driver::folder(folder.path(), &pool);
    for file in ["fixed/old", "fixed/new", "fixed/sub/new"] {
        let error = driver.put(1, file, b"new", true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{error}");
        assert!(error.to_string().contains("fixed"), "{error}");
    }
    assert_eq!(files(&fixed), BTreeMap::from([("old".into(), b"old".to_vec())]));
    driver.done(1, Request::Open { name: name("fixed/old") }).unwrap();
    assert_eq!(driver.read(1, 0, 9), b"old");
    // Many files on another file system, beneath the folder: one syncfs would not reach both.
    for file in 0..60 {
        driver.ask(
            file,
            create(
                &format!("{}/{file}", ["other", "."][file as usize % 2].replace('.', "d")),
                true,
            ),
        );
        driver.ask(file, commit(0));
    }
    for _ in 0..120 {
        driver.answer().result.unwrap();
    }
    assert_eq!(files(&path("other")).len() + files(&path("d")).len(), 60);
}

#[test]
fn without_permission_nothing_is_written_and_all_of_it_is_said() {
    let pool = plain_pool();
    // Not even root makes files there.
    let mut driver = Driver::folder("/proc/self".as_ref(), &pool);
    for overwrite in [false, true] {
        let error = driver.put(1, "new", b"", overwrite).unwrap_err();
        let denied = [libc::ENOENT, libc::EACCES, libc::EPERM, libc::EROFS];
        assert!(errno(&error).is_some_and(|errno| denied.contains(&errno)), "{error}");
        assert!(error.to_string().contains("/proc/self/new.part"), "{error}");
        assert_eq!(driver.error(1, commit(0)).to_string(), error.to_string());
    }
}
