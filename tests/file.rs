//! The example `file` as a program: two processes of it, and `cmp` and `diff` to compare.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant, SystemTime},
};

use mbuf::testing::Rng;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take.
const LONG: Duration = Duration::from_secs(60);

// Exit statuses, as `file --help` has them.
const WHOLE: i32 = 0;
const PARTLY: i32 = 1;
const USAGE: i32 = 2;
const BROKEN: i32 = 3;
const LOCAL: i32 = 4;
const INTERRUPTED: i32 = 130;

/// The program. Cargo builds examples for tests in a form of their own, so it is asked for it.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // target/debug/deps/file-0123456789abcdef
        let test = env::current_exe().unwrap();
        let folder = test.parent().and_then(Path::parent).unwrap();
        let profile = match folder.file_name().and_then(OsStr::to_str).unwrap() {
            "debug" => "dev",
            other => other,
        };
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--example",
                "file",
                "--profile",
                profile,
                "--manifest-path",
            ])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .arg("--target-dir")
            .arg(folder.parent().unwrap())
            .status()
            .unwrap();
        assert!(status.success(), "cargo build --example file: {status}");
        folder.join("examples/file")
    })
}

/// A folder with an inbox in it, and room for what is sent.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.at("inbox")).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A receiver of this place's inbox.
    fn receive(&self, args: &[&str]) -> Receiver {
        let inbox = self.at("inbox");
        let mut command = Command::new(program());
        command.args(["receive", "--listen", "127.0.0.1:0", "--into"]).arg(inbox).args(args);
        let mut run = Run::start(command);
        let line = run.line();
        let address = match serde_json::from_str::<Value>(&line) {
            Ok(event) => event["address"].as_str().unwrap().to_owned(),
            Err(_) => line.strip_prefix("listening on tcp ").expect(&line).trim().to_owned(),
        };
        Receiver { run, address: address.parse().unwrap() }
    }

    /// Everything in the inbox, parts included.
    fn inbox(&self) -> Vec<String> {
        let inbox = self.at("inbox");
        let entries = walkdir::WalkDir::new(&inbox).min_depth(1).sort_by_file_name();
        let name = |entry: walkdir::DirEntry| {
            entry.path().strip_prefix(&inbox).unwrap().display().to_string()
        };
        entries.into_iter().map(|entry| name(entry.unwrap())).collect()
    }
}

/// A program that runs. What it prints on standard error goes to a file.
struct Run {
    child: Child,
    out: BufReader<ChildStdout>,
    err: File,
}

impl Run {
    fn start(mut command: Command) -> Self {
        let err = tempfile::tempfile().unwrap();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(err.try_clone().unwrap())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out, err }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", "kill -$0 $1", name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end: the exit status (or -1 after a signal), and what was printed.
    fn end(mut self) -> Ended {
        drop(self.child.stdin.take());
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if began.elapsed() > LONG => {
                    self.child.kill().unwrap();
                    self.child.wait().unwrap();
                    panic!("it did not end: {}", self.printed().1);
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let (out, err) = self.printed();
        Ended { status: status.code().unwrap_or(-1), out, err }
    }

    fn printed(&mut self) -> (String, String) {
        let mut out = String::new();
        self.out.read_to_string(&mut out).unwrap();
        // Parent and child share the file's offset.
        std::io::Seek::rewind(&mut self.err).unwrap();
        let mut err = String::new();
        self.err.read_to_string(&mut err).unwrap();
        (out, err)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Both fail where it has ended, as it has unless the test fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Receiver {
    run: Run,
    address: SocketAddr,
}

impl Receiver {
    fn sender(&self, args: &[&str], paths: &[&Path]) -> Run {
        let mut command = Command::new(program());
        command.args(["send", "--to", &self.address.to_string()]).args(args).args(paths);
        Run::start(command)
    }

    fn send(&self, args: &[&str], paths: &[&Path]) -> Ended {
        self.sender(args, paths).end()
    }

    /// A sender that has sent some of a stream that has not ended yet, which the receiver keeps as
    /// `x.part`.
    fn in_the_middle(&self, place: &Place) -> (Run, ChildStdin) {
        let mut sender = self.sender(&["--name", "x"], &[Path::new("-")]);
        let mut stdin = sender.child.stdin.take().unwrap();
        stdin.write_all(&Rng::new(9).bytes(1 << 20)).unwrap();
        let (part, began) = (place.at("inbox/x.part"), Instant::now());
        while fs::metadata(&part).map_or(0, |meta| meta.len()) == 0 {
            assert!(began.elapsed() < LONG, "nothing arrives");
            thread::sleep(Duration::from_millis(5));
        }
        (sender, stdin)
    }

    fn end(self) -> Ended {
        self.run.end()
    }

    fn stop(self) -> Ended {
        self.run.signal("INT");
        self.run.end()
    }
}

#[derive(Debug)]
struct Ended {
    status: i32,
    out: String,
    err: String,
}

impl Ended {
    #[track_caller]
    fn expect(&self, status: i32) -> &Self {
        assert_eq!(self.status, status, "{self:#?}");
        assert!(!self.err.contains("LEAK") && !self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// It has said so on standard error.
    #[track_caller]
    fn complains(&self, words: &str) -> &Self {
        assert!(self.err.contains(words), "no `{words}` in {self:#?}");
        self
    }

    /// The root that was printed.
    fn root(&self) -> &str {
        let line = self.out.lines().find_map(|line| line.strip_prefix("root "));
        line.unwrap_or_else(|| panic!("no root in {self:#?}"))
    }

    fn events(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

fn succeeds(command: &mut Command) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let printed = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success(), "{command:?}: {status}: {printed:?}");
}

fn cmp(one: &Path, other: &Path) {
    succeeds(Command::new("cmp").args([one, other]));
}

fn diff(one: &Path, other: &Path) {
    succeeds(Command::new("diff").args(["-r", "--no-dereference"]).args([one, other]));
}

/// What `b3sum` prints for a file.
fn b3sum(path: &Path) -> String {
    blake3::hash(&fs::read(path).unwrap()).to_hex().to_string()
}

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
            let name = entry.path().strip_prefix(place.0.path()).unwrap().display();
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

#[test]
fn a_receiver_that_is_not_there_is_named() {
    let place = Place::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = Command::new(program());
    command.args(["send", "--to", &nobody]).arg(place.write("x", b"x"));
    let sent = Run::start(command).end();
    sent.expect(BROKEN)
        .complains(&format!("no connection to {nobody}: ECONNREFUSED (Connection refused)"))
        .complains("file receive --listen");
    assert_eq!(sent.out, "");
    let mut command = Command::new(program());
    command.args(["send", "--to", "no.such.host.invalid:7070"]).arg(place.at("x"));
    Run::start(command).end().expect(BROKEN).complains("no connection to no.such.host.invalid");
}

#[test]
fn somebody_who_speaks_another_protocol_is_told_apart() {
    let place = Place::new();
    let receiver = place.receive(&["--once"]);
    let mut other = TcpStream::connect(receiver.address).unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    receiver.end().expect(BROKEN).complains("broke off");
    assert_eq!(place.inbox(), [""; 0]);
}

#[test]
fn somebody_who_only_looks_is_no_transfer() {
    let place = Place::new();
    let receiver = place.receive(&["--once"]);
    drop(TcpStream::connect(receiver.address).unwrap());
    let file = place.write("x", b"x");
    // The one connection at a time may still be that of the other.
    let began = Instant::now();
    while receiver.send(&[], &[&file]).status != WHOLE {
        assert!(began.elapsed() < LONG);
    }
    receiver.end().expect(WHOLE);
    assert_eq!(place.inbox(), ["x"]);
}

#[test]
fn a_sender_that_is_killed_leaves_nothing() {
    let place = Place::new();
    let receiver = place.receive(&["--once"]);
    let (sender, _stdin) = receiver.in_the_middle(&place);
    sender.signal("KILL");
    assert_eq!(sender.end().status, -1);
    receiver.end().expect(BROKEN).complains("broke off");
    assert_eq!(place.inbox(), [""; 0]);
}

#[test]
fn a_receiver_that_is_killed_leaves_nothing_under_the_final_name() {
    let place = Place::new();
    let receiver = place.receive(&["--once"]);
    let (sender, _stdin) = receiver.in_the_middle(&place);
    receiver.run.signal("KILL");
    sender.end().expect(BROKEN).complains("broke off");
    assert_eq!(receiver.end().status, -1);
    assert!(!place.at("inbox/x").exists());
    // What it has left is no obstacle for the next one that may overwrite.
    let receiver = place.receive(&["--once", "--overwrite"]);
    receiver.send(&[], &[&place.write("x", b"x")]).expect(WHOLE);
    receiver.end().expect(WHOLE);
    assert_eq!(place.inbox(), ["x"]);
}

#[test]
fn a_sender_that_is_interrupted_says_so_to_the_receiver() {
    let place = Place::new();
    let receiver = place.receive(&["--once"]);
    let (sender, _stdin) = receiver.in_the_middle(&place);
    sender.signal("INT");
    sender.end().expect(INTERRUPTED).complains("stopped after");
    receiver.end().expect(BROKEN).complains("the other end says: stopped after");
    assert_eq!(place.inbox(), [""; 0]);
}

#[test]
fn a_receiver_that_is_interrupted_says_so_to_the_sender() {
    for signal in ["INT", "TERM"] {
        let place = Place::new();
        let receiver = place.receive(&[]);
        let (sender, _stdin) = receiver.in_the_middle(&place);
        receiver.run.signal(signal);
        sender.end().expect(BROKEN).complains("the other end says: stopped after");
        receiver.end().expect(INTERRUPTED).complains("stopped after");
        assert_eq!(place.inbox(), [""; 0]);
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let receiver = place.receive(&[]);
    // Who does not read and does not go keeps an orderly end from coming.
    let (sender, _stdin) = receiver.in_the_middle(&place);
    sender.signal("STOP");
    let began = Instant::now();
    receiver.run.signal("INT");
    thread::sleep(Duration::from_millis(700));
    receiver.run.signal("INT");
    receiver.end();
    assert!(began.elapsed() < Duration::from_secs(4));
    assert!(!place.at("inbox/x").exists());
    sender.signal("KILL");
    sender.signal("CONT");
    sender.end();
}

#[test]
fn what_scripts_read_is_json() {
    let place = Place::new();
    let good = place.write("t/good", b"good");
    place.write("t/\u{1f}", b"");
    let receiver = place.receive(&["--once", "--json"]);
    let sent = receiver.send(&["--json"], &[&place.at("t")]);
    let received = receiver.end();
    let (sent, received) = (sent.expect(PARTLY).events(), received.expect(WHOLE).events());
    let find = |events: &[Value], name: &str| {
        let event = events.iter().find(|event| event["event"] == name).cloned();
        event.unwrap_or_else(|| panic!("no `{name}` in {events:#?}"))
    };
    for events in [&sent, &received] {
        assert_eq!(find(events, "started")["length"], 4);
        let done = find(events, "done");
        assert_eq!((&done["name"], &done["bytes"]), (&"t/good".into(), &4.into()));
        assert_eq!(done["root"], b3sum(&good));
        let finished = find(events, "finished");
        assert_eq!(finished["root"], b3sum(&good));
        let numbers = ["files", "folders", "bytes"].map(|key| finished[key].as_u64().unwrap());
        assert_eq!(numbers, [1, 1, 4]);
        assert!(finished["seconds"].as_f64().unwrap() > 0.0);
        assert!(finished["cpu_seconds"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(
        (&find(&sent, "finished")["failed"], &find(&sent, "finished")["status"]),
        (&1.into(), &1.into())
    );
    assert_eq!(find(&sent, "failed")["code"], "not_a_file");
}

#[test]
fn quiet_is_quiet() {
    let place = Place::new();
    let receiver = place.receive(&["--once", "--quiet"]);
    let sent = receiver.send(&["--quiet"], &[&place.write("x", b"x")]);
    let received = receiver.end();
    for end in [sent, received] {
        end.expect(WHOLE);
        assert_eq!((&*end.out, &*end.err), ("", ""));
    }
}

#[test]
fn it_says_that_it_is_neither_encrypted_nor_authenticated() {
    let place = Place::new();
    place.receive(&[]).stop().complains("neither encrypted nor authenticated");
    let mut command = Command::new(program());
    command.args(["receive", "--quiet", "--listen", "0.0.0.0:0", "--into"]).arg(place.at("inbox"));
    let mut run = Run::start(command);
    assert!(run.line().starts_with("listening on tcp 0.0.0.0:"));
    run.signal("INT");
    run.end().complains("WARNING").complains("Neither encrypted nor authenticated");
}

#[test]
fn trouble_on_this_side_has_a_status_of_its_own() {
    let place = Place::new();
    let run = |args: &[&str]| {
        let mut command = Command::new(program());
        command.args(args);
        Run::start(command).end()
    };
    let (gone, inbox) = (place.at("gone"), place.at("inbox"));
    let (gone, inbox) = (gone.to_str().unwrap(), inbox.to_str().unwrap());
    run(&["receive", "--into", gone]).expect(LOCAL).complains("--into").complains(gone);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = run(&["receive", "--into", inbox, "--listen", &address]);
    ended.expect(LOCAL).complains("EADDRINUSE").complains(&address);
    run(&["receive"]).expect(USAGE).complains("--into");
    run(&["send", "-"]).expect(USAGE).complains("--name");
    run(&["fetch"]).expect(USAGE);
}

#[test]
fn without_a_command_both_ends_run_here() {
    let place = Place::new();
    let mut command = Command::new(program());
    command.args(["--size", "3M"]).env("TMPDIR", place.at("inbox"));
    let ended = Run::start(command).end();
    ended.expect(WHOLE);
    assert_eq!(ended.out.matches("identical").count(), 2, "{ended:#?}");
    assert_eq!(ended.root().len(), 64);
    assert_eq!(place.inbox(), [""; 0]);
}

#[test]
fn the_help_of_each_command_says_what_the_exit_status_means() {
    for args in [&["--help"][..], &["receive", "--help"], &["send", "--help"]] {
        let mut command = Command::new(program());
        command.args(args);
        let ended = Run::start(command).end();
        ended.expect(WHOLE);
        for words in ["xit status", "130", "either encrypted", "Examples:"] {
            let words = if words == "either encrypted" && args.len() == 1 {
                "no encryption"
            } else {
                words
            };
            assert!(ended.out.contains(words), "no `{words}` in {}", ended.out);
        }
    }
}
