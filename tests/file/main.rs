//! The example `file` as a program: two processes of it, and `cmp` and `diff` to compare.

mod endings;
mod run;
mod words;

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use mbuf::testing::Rng;

use run::{INTERRUPTED, PARTLY, Place, Run, WHOLE, b3sum, cmp, diff, succeeds};

#[test]
fn files_of_every_size_arrive_by_every_way_of_reading_and_writing() {
    let place = Place::new();
    let sizes = [0, 1, 4095, 4096, 4097, 262_144, 262_145, 3_000_001];
    let files = sizes.map(|n| place.write(&format!("out/{n}"), &Rng::new(n).bytes(n as usize)));
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    for sink in ["mmap", "pwritev"] {
        for source in ["mmap", "pread"] {
            let receiver = place.receive(&["--overwrite", "--sink", sink]);
            for file in &files {
                let sent = receiver.send(&["--source", source], &[file]);
                assert_eq!(sent.expect(WHOLE).root(), b3sum(file), "{sink} {source} {file:?}");
            }
            receiver.send(&["--source", source], &paths).expect(WHOLE);
            diff(&place.at("out"), &place.at("inbox"));
            receiver.stop().expect(INTERRUPTED);
            fs::remove_dir_all(place.at("inbox")).unwrap();
            fs::create_dir(place.at("inbox")).unwrap();
        }
    }
}

#[test]
fn a_tree_arrives_as_it_is_and_its_root_is_the_hash_of_what_b3sum_prints() {
    let place = Place::new();
    let mut rng = Rng::new(300);
    for n in 0..300 {
        let len = rng.below(9000);
        place.write(&format!("tree/{}/{}/file {n}", n % 3, n % 7), &rng.bytes(len));
    }
    for n in 0..5 {
        fs::create_dir_all(place.at(&format!("tree/{n}/empty"))).unwrap();
    }
    let receiver = place.receive(&["--once"]);
    let sent = receiver.send(&[], &[&place.at("tree")]);
    let received = receiver.end();
    diff(&place.at("tree"), &place.at("inbox/tree"));
    let lines: String = walkdir::WalkDir::new(place.at("tree"))
        .sort_by_file_name()
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let name = entry.path().strip_prefix(place.at("")).unwrap().display();
            format!("{}  {name}\n", b3sum(entry.path()))
        })
        .collect();
    let root = blake3::hash(lines.as_bytes()).to_hex().to_string();
    assert_eq!(sent.expect(WHOLE).root(), root);
    assert_eq!(received.expect(WHOLE).root(), root);
}

#[test]
fn standard_input_arrives_up_to_its_end() {
    let place = Place::new();
    let bytes = Rng::new(1).bytes(2_000_003);
    let file = place.write("bytes", &bytes);
    let receiver = place.receive(&["--once"]);
    let mut sender = receiver.sender(&["--name", "a/b"], &[Path::new("-")]);
    let mut stdin = sender.child.stdin.take().unwrap();
    for piece in bytes.chunks(77_777) {
        stdin.write_all(piece).unwrap();
    }
    drop(stdin);
    assert_eq!(sender.end().expect(WHOLE).root(), b3sum(&file));
    receiver.end().expect(WHOLE);
    cmp(&file, &place.at("inbox/a/b"));
}

#[test]
fn nothing_is_overwritten_unless_told() {
    let place = Place::new();
    let (new, old) = (place.write("x", b"new"), place.write("inbox/x", b"old"));
    let receiver = place.receive(&["--once"]);
    let sent = receiver.send(&[], &[&new, &place.write("y", b"yes")]);
    sent.expect(PARTLY).complains("x").complains("EEXIST").complains("--overwrite");
    receiver.end().expect(PARTLY).complains("EEXIST");
    assert_eq!(fs::read(&old).unwrap(), b"old");
    assert_eq!(place.inbox(), ["x", "y"]);
    let receiver = place.receive(&["--once", "--overwrite"]);
    receiver.send(&[], &[&new]).expect(WHOLE);
    receiver.end().expect(WHOLE);
    assert_eq!(fs::read(&old).unwrap(), b"new");
    assert_eq!(place.inbox(), ["x", "y"]);
}

#[test]
fn names_that_differ_in_case_only_need_a_word() {
    let place = Place::new();
    place.write("t/NAME", b"1");
    place.write("t/name", b"2");
    let receiver = place.receive(&["--once"]);
    receiver.send(&[], &[&place.at("t")]).expect(PARTLY).complains("t/name").complains("case");
    receiver.end().expect(PARTLY);
    assert_eq!(place.inbox(), ["t", "t/NAME"]);
    let receiver = place.receive(&["--once", "--overwrite", "--mix-case"]);
    receiver.send(&[], &[&place.at("t")]).expect(WHOLE);
    receiver.end().expect(WHOLE);
    diff(&place.at("t"), &place.at("inbox/t"));
}

#[test]
fn a_link_in_the_inbox_leads_nowhere() {
    let place = Place::new();
    fs::create_dir(place.at("outside")).unwrap();
    place.write("outside/kept", b"kept");
    symlink(place.at("outside"), place.at("inbox/t")).unwrap();
    symlink(place.at("outside/kept"), place.at("inbox/link")).unwrap();
    place.write("t/kept", b"changed");
    place.write("t/new", b"new");
    let receiver = place.receive(&["--overwrite"]);
    receiver.send(&[], &[&place.at("t")]).expect(PARTLY);
    assert_eq!(fs::read_dir(place.at("outside")).unwrap().count(), 1);
    // A link of the file's own name is replaced, not followed, or refused.
    receiver.send(&["--name", "link"], &[&place.at("t/kept")]);
    assert_eq!(fs::read(place.at("outside/kept")).unwrap(), b"kept");
    receiver.stop().expect(INTERRUPTED);
}

#[test]
fn what_is_no_file_is_named_and_the_others_go_on() {
    let place = Place::new();
    let good = place.write("t/good", b"good");
    succeeds(Command::new("mkfifo").arg(place.at("t/fifo")));
    let _socket = UnixListener::bind(place.at("t/socket")).unwrap();
    symlink("good", place.at("t/link")).unwrap();
    let receiver = place.receive(&["--once"]);
    let paths = [&*place.at("t/fifo"), Path::new("/dev/null"), &place.at("gone"), &place.at("t")];
    let sent = receiver.send(&[], &paths);
    sent.expect(PARTLY)
        .complains("t/fifo: is a FIFO")
        .complains("/dev/null: is a device")
        .complains("gone: No such file")
        .complains("t/socket: is a socket")
        .complains("t/link: is a symbolic link");
    receiver.end().expect(WHOLE);
    assert_eq!(place.inbox(), ["t", "t/good"]);
    cmp(&good, &place.at("inbox/t/good"));
}

#[test]
fn a_link_that_is_given_is_followed() {
    let place = Place::new();
    place.write("t/a", b"a");
    symlink("t", place.at("way")).unwrap();
    symlink("t/a", place.at("short")).unwrap();
    let receiver = place.receive(&["--once"]);
    receiver.send(&[], &[&place.at("way"), &place.at("short")]).expect(WHOLE);
    receiver.end().expect(WHOLE);
    assert_eq!(place.inbox(), ["short", "way", "way/a"]);
}

#[test]
fn permissions_and_times_go_along_when_asked_for() {
    let place = Place::new();
    let file = place.write("x", b"x");
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5000);
    File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let receiver = place.receive(&["--once"]);
    receiver.send(&["--preserve"], &[&file]).expect(WHOLE);
    receiver.end().expect(WHOLE);
    let meta = fs::metadata(place.at("inbox/x")).unwrap();
    assert_eq!((meta.modified().unwrap(), meta.permissions().mode() & 0o777), (then, 0o640));
}

#[test]
fn several_senders_at_once() {
    let place = Place::new();
    let files: Vec<PathBuf> =
        (0..6).map(|n| place.write(&format!("out/{n}"), &Rng::new(n).bytes(700_000))).collect();
    let receiver = place.receive(&["--memory", "16MiB"]);
    let senders: Vec<Run> = files.iter().map(|file| receiver.sender(&[], &[file])).collect();
    for sender in senders {
        sender.end().expect(WHOLE);
    }
    diff(&place.at("out"), &place.at("inbox"));
    let received = receiver.stop();
    assert_eq!(received.expect(INTERRUPTED).out.matches("received 1 file ").count(), 6);
}
