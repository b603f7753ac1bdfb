//! Both ends on this machine: this process sends, and a second one of the same program receives, so
//! that the CPU time of each is known.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use indicatif::HumanBytes;
use mbuf::Pool;
use serde_json::Value;

use crate::{
    Status,
    cli::{CommonArgs, DemoArgs, SendArgs, Sink, Source},
    common::{print, stop::Stop},
    printer::Printer,
    send,
    transfer::{Figures, rate},
};

/// Memory of each of the two pools.
const MEMORY: usize = 64 << 20;
/// How long the other end may be silent.
const IDLE: Duration = Duration::from_secs(60);
/// Transfers by each way of writing. The quicker one counts.
const ROUNDS: usize = 2;
/// The file's name.
const NAME: &str = "random";
/// Bytes that are made, or compared, at once.
const BLOCK: usize = 1 << 20;

/// The run without a command.
pub fn run(args: &DemoArgs) -> anyhow::Result<Status> {
    let stop = Stop::on_signals("file", Status::Interrupted as i32)?;
    let folder = tempfile::Builder::new()
        .prefix("mbuf-file-")
        .tempdir()
        .context("a folder for temporary files")?;
    stop.leaves_without(folder.path());
    let source = folder.path().join(NAME);
    print::say(format_args!(
        "a file of {} random bytes, made in {}, goes over the loopback interface, {ROUNDS} times by \
         each way of writing; the quicker one counts",
        HumanBytes(args.size as u64),
        folder.path().display()
    ));
    if !make(&source, args.size, &stop)? {
        return Ok(Status::Interrupted);
    }
    // In turn: what comes first has to find memory that the system has not used for long.
    let mut rows = [Sink::Pwritev, Sink::Mmap].map(|sink| (sink, None::<Row>));
    for _ in 0..ROUNDS {
        for (sink, best) in &mut rows {
            let inbox = folder.path().join(sink.name());
            fs::create_dir(&inbox)?;
            let row = match transfer(&source, &inbox, *sink, &stop)? {
                Ok(row) => row,
                Err(status) => return Ok(status),
            };
            let identical = same(&source, &inbox.join(NAME), &stop)?;
            if stop.is_asked() {
                return Ok(Status::Interrupted);
            }
            ensure!(
                identical && row.sent.root == row.received.root,
                "what arrived by {} is not what was sent",
                sink.name()
            );
            fs::remove_dir_all(&inbox)?;
            if best.as_ref().is_none_or(|best| row.sent.elapsed < best.sent.elapsed) {
                *best = Some(row);
            }
        }
    }
    report(&rows);
    Ok(Status::Whole)
}

/// What both ends say of a transfer.
struct Row {
    sent: Figures,
    received: Figures,
}

fn report(rows: &[(Sink, Option<Row>)]) {
    print::say(format_args!(
        "{:<10} {:>9} {:>14} {:>14} {:>16}   arrived",
        "written by", "seconds", "rate", "sender's CPU", "receiver's CPU"
    ));
    for (sink, row) in rows {
        let Some(Row { sent, received }) = row else { continue };
        print::say(format_args!(
            "{:<10} {:>7.3} s {:>14} {:>12.3} s {:>14.3} s   identical",
            sink.name(),
            sent.elapsed.as_secs_f64(),
            rate(sent.bytes, sent.elapsed),
            sent.cpu.as_secs_f64(),
            received.cpu.as_secs_f64(),
        ));
    }
    if let Some((_, Some(row))) = rows.first() {
        print::say(format_args!("root {}", row.sent.root));
    }
}

/// One transfer: the figures of both ends, or how it failed.
fn transfer(
    source: &Path,
    inbox: &Path,
    sink: Sink,
    stop: &Stop,
) -> anyhow::Result<Result<Row, Status>> {
    let mut receiver = Receiver::start(inbox, sink)?;
    let args = SendArgs {
        paths: vec![source.to_path_buf()],
        to: receiver.address.to_string(),
        name: None,
        preserve: false,
        source: Source::default(),
        common: CommonArgs { memory: MEMORY, idle: IDLE, json: false, quiet: false },
    };
    let pool = Pool::with_memory(MEMORY)?;
    let printer = Printer::silent(&args.common)?;
    let result = send::send(&args, &pool, stop, printer.lines());
    printer.finish();
    let (status, figures) = result?;
    let Some(sent) = figures.filter(|_| status == Status::Whole) else { return Ok(Err(status)) };
    Ok(Ok(Row { sent, received: receiver.finish()? }))
}

/// The process that receives. It ends with its one transfer, or when this value is dropped.
struct Receiver {
    process: Child,
    lines: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Receiver {
    fn start(inbox: &Path, sink: Sink) -> anyhow::Result<Self> {
        let program = env::current_exe().context("the path of this program")?;
        let mut process = Command::new(&program)
            .args(["receive", "--listen", "127.0.0.1:0", "--once", "--json", "--quiet"])
            .args(["--sink", sink.name()])
            .args(["--memory", &MEMORY.to_string()])
            .arg("--into")
            .arg(inbox)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let Some(out) = process.stdout.take() else { bail!("no pipe to the receiver") };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut receiver = Self { process, lines: BufReader::new(out), address: any };
        let listening = receiver.event("listening")?;
        receiver.address = listening["address"].as_str().unwrap_or_default().parse()?;
        Ok(receiver)
    }

    /// The next event of that name.
    fn event(&mut self, name: &str) -> anyhow::Result<Value> {
        let mut line = String::new();
        while self.lines.read_line(&mut line)? > 0 {
            let event: Value = serde_json::from_str(&line).context("what the receiver printed")?;
            if event["event"] == name {
                return Ok(event);
            }
            line.clear();
        }
        bail!("the receiver has ended, and `{name}` was not among what it said")
    }

    fn finish(&mut self) -> anyhow::Result<Figures> {
        let event = self.event("finished")?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the receiver has ended with {status}");
        Figures::from_json(&event).context("figures of the receiver")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes a file of bytes that look random. Whether it was not stopped meanwhile.
fn make(path: &PathBuf, size: usize, stop: &Stop) -> anyhow::Result<bool> {
    let named = || path.display().to_string();
    let mut file = File::create_new(path).with_context(named)?;
    let mut random = blake3::Hasher::new().finalize_xof();
    let mut block = vec![0; BLOCK];
    let mut left = size;
    while left > 0 {
        if stop.is_asked() {
            return Ok(false);
        }
        let len = left.min(BLOCK);
        random.fill(&mut block[..len]);
        file.write_all(&block[..len]).with_context(named)?;
        left -= len;
    }
    // Else the first transfer would wait for the disk to have this file, too.
    file.sync_all().with_context(named)?;
    Ok(true)
}

/// Whether two files have the same bytes, as far as there was time to compare them.
fn same(one: &Path, other: &Path, stop: &Stop) -> io::Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut here, mut there) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
    while !stop.is_asked() {
        here.clear();
        there.clear();
        (&one).take(BLOCK as u64).read_to_end(&mut here)?;
        (&other).take(BLOCK as u64).read_to_end(&mut there)?;
        if here != there || here.is_empty() {
            return Ok(here == there);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_looks_random_and_a_changed_bit_shows() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("1"), folder.path().join("2"));
        let stop = Stop::default();
        let size = BLOCK + 4321;
        assert!(make(&one, size, &stop).unwrap() && make(&other, size, &stop).unwrap());
        assert!(same(&one, &other, &stop).unwrap());
        let mut bytes = fs::read(&one).unwrap();
        let ones: u64 = bytes.iter().map(|byte| u64::from(byte.count_ones())).sum();
        let expected = 4 * size as u64;
        assert!(ones.abs_diff(expected) < expected / 100, "{ones} of {}", 8 * size);
        assert_ne!(bytes[..4321], bytes[BLOCK..]);
        bytes[size - 1] ^= 1;
        fs::write(&other, &bytes).unwrap();
        assert!(!same(&one, &other, &stop).unwrap());
        fs::write(&other, &bytes[1..]).unwrap();
        assert!(!same(&one, &other, &stop).unwrap());
    }
}
