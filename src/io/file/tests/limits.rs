//! Real limits: a full disk, a limit on a file's length, a lack of permission. Each is met by a test
//! that runs once more, in a process of its own, where the limit holds.

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use super::*;
use crate::testing::assert_all_free;

/// Says to a test where it is.
const INSIDE: &str = "MBUF_TEST_INSIDE";

/// Runs the test `inner` of this file, which is otherwise ignored, by a program and its arguments.
/// A program that cannot even run `true` is a test that cannot run here: it says so, or fails where
/// all must run.
fn run_inside(inner: &str, by: &[&str], folder: &Path) {
    let make = |rest: &[&str]| {
        let mut command = Command::new(by[0]);
        command.args(&by[1..]).args(rest).env(INSIDE, folder);
        command
    };
    let cannot = match make(&["true"]).output() {
        Err(error) => Some(error.to_string()),
        Ok(output) if !output.status.success() => {
            Some(String::from_utf8_lossy(&output.stderr).into_owned())
        }
        Ok(_) => None,
    };
    if let Some(why) = cannot {
        let required = std::env::var_os("MBUF_REQUIRE_PEERS").is_some();
        assert!(!required, "{inner} cannot run: {}: {why}", by[0]);
        eprintln!("{inner} CANNOT RUN HERE: {}: {why}", by[0]);
        return;
    }
    let this = std::env::current_exe().unwrap();
    finish(inner, &mut make(&[this.to_str().unwrap()]));
}

/// Runs it by `command`, which is this program with nothing said yet.
fn finish(inner: &str, command: &mut Command) {
    let test = format!("io::file::tests::limits::{inner}");
    let output = command.args(["--exact", &test, "--ignored", "--nocapture"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let passed = output.status.success() && told.contains("1 passed");
    assert!(passed, "{inner}: {}\n{told}\n{errors}", output.status);
}

fn inside() -> std::path::PathBuf {
    std::env::var_os(INSIDE).expect("run by another test only").into()
}

#[test]
fn a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let by = ["unshare", "--user", "--map-root-user", "--mount"];
    run_inside("a_full_disk_inside", &by, folder.path());
}

#[test]
#[ignore = "run by a_full_disk, where it may mount"]
fn a_full_disk_inside() {
    const DISK: usize = 1 << 20;
    let folder = inside();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&folder);
    assert!(mount.status().unwrap().success());
    let pool = pool();
    let bytes = pattern(8, DISK + 200_000);
    for kind in SINKS {
        for populate in [false, true] {
            for piece in [4_096, 60_000, DISK] {
                let path = folder.join("new");
                let mut sink = FileSink::create(&path, kind).unwrap().populate(populate);
                let mut queue = queue();
                for part in bytes.chunks(piece) {
                    queue.push(pool.chain_from(part).unwrap()).unwrap();
                }
                // Whatever fits is kept, to the last page, though no window is so small.
                let error = sink.send(&mut queue).unwrap_err();
                assert_eq!(errno(&error), Some(libc::ENOSPC), "{error}");
                let expected = format!("pwritev to {} at {DISK}: ENOSPC", path.display());
                assert!(error.to_string().starts_with(&expected), "{error}");
                assert_eq!((sink.len(), sink.position()), (DISK as u64, DISK as u64));
                assert_eq!((sink.kind(), queue.bytes()), (kind, bytes.len() - DISK));
                let rest: Vec<u8> = queue.iter().flat_map(bytes_of).collect();
                assert!(rest == bytes[DISK..]);
                // What is there may still be written to, and what is not may not.
                sink.write_at(5, &pool.chain_from(&bytes[5..90_000]).unwrap()).unwrap();
                let far = sink.write_at(DISK as u64 * 9, &pool.chain_from(b"x").unwrap());
                let far = far.unwrap_err();
                assert_eq!((far.written, errno(&far.error)), (0, Some(libc::ENOSPC)), "{far}");
                let file = sink.finish(DISK as u64, true).unwrap();
                assert!(contents(&file) == bytes[..DISK], "{kind:?} {piece}");
                drop(file);
                fs::remove_file(&path).unwrap();
            }
        }
    }
    assert_all_free(&pool);
}

#[test]
fn a_limit_on_the_length_of_files() {
    let folder = tempfile::tempdir().unwrap();
    // SIGXFSZ would end it: whoever sets such limits ignores that signal.
    let by = ["prlimit", "--fsize=100000", "env", "--ignore-signal=XFSZ"];
    run_inside("a_limit_on_the_length_of_files_inside", &by, folder.path());
}

#[test]
#[ignore = "run by a_limit_on_the_length_of_files, under one"]
fn a_limit_on_the_length_of_files_inside() {
    let (pool, folder) = (pool(), inside());
    let bytes = pattern(3, 150_000);
    for kind in SINKS {
        let path = folder.join(format!("{kind:?}"));
        let mut sink = FileSink::create(&path, kind).unwrap();
        let error = sink.write_at(0, &pool.chain_from(&bytes).unwrap()).unwrap_err();
        assert_eq!(errno(&error.error), Some(libc::EFBIG), "{error}");
        let expected = format!("pwritev to {} at 100000: EFBIG", path.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!((error.written, sink.len()), (100_000, 100_000));
        let error = sink.write_at(200_000, &pool.chain_from(b"x").unwrap()).unwrap_err();
        assert_eq!((error.written, errno(&error.error)), (0, Some(libc::EFBIG)), "{error}");
        let error = sink.finish(100_001, false).unwrap_err();
        assert!(error.to_string().contains(": EFBIG"), "{error}");
        assert!(fs::read(&path).unwrap()[..100_000] == bytes[..100_000], "{kind:?}");
    }
    assert_all_free(&pool);
}

#[test]
fn without_permission() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("secret"), "secret").unwrap();
    fs::set_permissions(path("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::create_dir(path("closed")).unwrap();
    fs::set_permissions(path("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Root may do anything, so it becomes nobody. (The program's own path may be closed to that.)
    let mut command = Command::new("/proc/self/exe");
    command.env(INSIDE, folder.path());
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        command.uid(65_534).gid(65_534);
    }
    finish("without_permission_inside", &mut command);
}

#[test]
#[ignore = "run by without_permission, as somebody who has none"]
fn without_permission_inside() {
    let folder = inside();
    for kind in SOURCES {
        let error = FileSource::open(&folder.join("secret"), kind).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let expected = format!("open of {}/secret: EACCES", folder.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    for kind in SINKS {
        let error = FileSink::create(&folder.join("closed/new"), kind).unwrap_err();
        let expected = format!("open of {}/closed/new: EACCES", folder.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}
