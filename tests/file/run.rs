//! The program as a process, and a place for what it sends and receives.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use mbuf::testing::Rng;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take.
pub const LONG: Duration = Duration::from_secs(60);

// Exit statuses, as `file --help` has them.
pub const WHOLE: i32 = 0;
pub const PARTLY: i32 = 1;
pub const USAGE: i32 = 2;
pub const BROKEN: i32 = 3;
pub const LOCAL: i32 = 4;
pub const INTERRUPTED: i32 = 130;

/// The program. Cargo builds examples for tests in a form of their own, so it is asked for it.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // target/debug/deps/file-0123456789abcdef, or target/x86_64-unknown-linux-gnu/debug/deps/...
        let test = env::current_exe().unwrap();
        let folder = test.parent().and_then(Path::parent).unwrap();
        let name = |folder: &Path| folder.file_name().and_then(OsStr::to_str).unwrap().to_owned();
        let profile = match name(folder).as_str() {
            "debug" => "dev".to_owned(),
            other => other.to_owned(),
        };
        let mut target_dir = folder.parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--example", "file", "--profile", &profile]);
        build.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
        // Nothing else says whether cargo was told a --target.
        let last = name(target_dir);
        if last.starts_with(env::consts::ARCH) && last.contains("-linux-") {
            build.args(["--target", &last]);
            target_dir = target_dir.parent().unwrap();
        }
        let status = build.arg("--target-dir").arg(target_dir).status().unwrap();
        assert!(status.success(), "cargo build --example file: {status}");
        folder.join("examples/file")
    })
}

/// A command line of it.
pub fn file<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program());
    command.args(args);
    command
}

/// A folder with an inbox in it, and room for what is sent.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.at("inbox")).unwrap();
        place
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A receiver of this place's inbox.
    pub fn receive(&self, args: &[&str]) -> Receiver {
        let inbox = self.at("inbox");
        let mut command = file(["receive", "--listen", "127.0.0.1:0", "--into"]);
        command.arg(inbox).args(args);
        let mut run = Run::start(command);
        let line = run.line();
        let address = match serde_json::from_str::<Value>(&line) {
            Ok(event) => event["address"].as_str().unwrap().to_owned(),
            Err(_) => line.strip_prefix("listening on tcp ").expect(&line).trim().to_owned(),
        };
        Receiver { run, address: address.parse().unwrap() }
    }

    /// Everything in the inbox, parts included.
    pub fn inbox(&self) -> Vec<String> {
        let inbox = self.at("inbox");
        let entries = walkdir::WalkDir::new(&inbox).min_depth(1).sort_by_file_name();
        let name = |entry: walkdir::DirEntry| {
            entry.path().strip_prefix(&inbox).unwrap().display().to_string()
        };
        entries.into_iter().map(|entry| name(entry.unwrap())).collect()
    }
}

/// A program that runs. What it prints on standard error goes to a file.
pub struct Run {
    pub child: Child,
    out: BufReader<ChildStdout>,
    err: File,
}

impl Run {
    pub fn start(mut command: Command) -> Self {
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

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", "kill -$0 $1", name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end: the exit status (or -1 after a signal), and what was printed.
    pub fn end(mut self) -> Ended {
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

    pub fn printed(&mut self) -> (String, String) {
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

pub struct Receiver {
    pub run: Run,
    pub address: SocketAddr,
}

impl Receiver {
    pub fn sender(&self, args: &[&str], paths: &[&Path]) -> Run {
        let mut command = file(["send", "--to", &self.address.to_string()]);
        command.args(args).args(paths);
        Run::start(command)
    }

    pub fn send(&self, args: &[&str], paths: &[&Path]) -> Ended {
        self.sender(args, paths).end()
    }

    /// A sender that has sent some of a stream that has not ended yet, which the receiver keeps as
    /// `x.part`.
    pub fn in_the_middle(&self, place: &Place) -> (Run, ChildStdin) {
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

    pub fn end(self) -> Ended {
        self.run.end()
    }

    pub fn stop(self) -> Ended {
        self.run.signal("INT");
        self.run.end()
    }
}

#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    #[track_caller]
    pub fn expect(&self, status: i32) -> &Self {
        assert_eq!(self.status, status, "{self:#?}");
        assert!(!self.err.contains("LEAK") && !self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// It has said so on standard error.
    #[track_caller]
    pub fn complains(&self, words: &str) -> &Self {
        assert!(self.err.contains(words), "no `{words}` in {self:#?}");
        self
    }

    /// The root that was printed.
    pub fn root(&self) -> &str {
        let line = self.out.lines().find_map(|line| line.strip_prefix("root "));
        line.unwrap_or_else(|| panic!("no root in {self:#?}"))
    }

    pub fn events(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

pub fn succeeds(command: &mut Command) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let printed = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success(), "{command:?}: {status}: {printed:?}");
}

pub fn cmp(one: &Path, other: &Path) {
    succeeds(Command::new("cmp").args([one, other]));
}

pub fn diff(one: &Path, other: &Path) {
    succeeds(Command::new("diff").args(["-r", "--no-dereference"]).args([one, other]));
}

/// What `b3sum` prints for a file.
pub fn b3sum(path: &Path) -> String {
    blake3::hash(&fs::read(path).unwrap()).to_hex().to_string()
}
