//! Reads a capture and prints a line a packet; with `--write`, also writes it again.
//!
//! ```text
//! cargo run --features capture --example capture -- trace.pcap
//! cargo run --features capture --example capture -- trace.pcap --write trace.pcapng
//! ```
//!
//! The format of what is written is told by its name (`.pcap` or `.pcapng`), or by `--format`.

#[path = "common/print.rs"]
#[allow(dead_code)]
mod print;

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use mbuf::{
    Batch, Pool,
    io::{
        Received, Source,
        capture::{CaptureSource, CaptureWriter, Interface, Record},
    },
    stack::Direction,
};

/// Read a capture (pcap or pcapng), print a line a packet, and write it again if wanted.
#[derive(Debug, Parser)]
struct Options {
    /// The capture to read.
    file: PathBuf,
    /// Write the packets to this file as well, which must not exist.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// The format of that file, where its name does not tell.
    #[arg(long, value_enum)]
    format: Option<Written>,
    /// Stop after so many packets.
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    count: u64,
    /// Print no line for a packet, only the sum.
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Written {
    /// With times in nanoseconds; one interface.
    Pcap,
    /// With several interfaces, directions and comments.
    Pcapng,
}

fn main() -> ExitCode {
    match run(&Options::parse(), &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if print::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            print::complain(format_args!("capture: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, out: &mut dyn Write) -> Result<()> {
    let pool = Pool::with_memory(8 << 20)?;
    let mut source = CaptureSource::open(&options.file)?;
    let copy = options.write.as_deref().map(|path| Copy::new(path, options.format));
    let mut copy = copy.transpose()?;
    let receiver = pool.receiver();
    let mut batch = Batch::new();
    let mut left = options.count;
    // What comes before an error is printed before it.
    let result = loop {
        if left == 0 {
            break Ok(());
        }
        let received = match source.recv(&receiver, &mut batch) {
            Ok(received) => received,
            Err(error) => break Err(error),
        };
        match received {
            Received::Chains(_) => {}
            Received::Closed => break Ok(()),
            Received::WouldBlock | Received::NoBuffers => bail!("the pool is too small"),
        }
        for (chain, record) in batch.drain().zip(source.records()).take(left as usize) {
            if !options.quiet {
                writeln!(out, "{}", line(record, source.interfaces()))?;
            }
            if let Some(copy) = &mut copy {
                copy.interfaces(source.interfaces())?;
                copy.writer()?.write(record, &chain)?;
            }
            left -= 1;
        }
    };
    if let Some(copy) = &mut copy {
        copy.interfaces(source.interfaces())?;
        copy.writer()?.flush()?;
    }
    let (packets, interfaces) = (options.count - left, source.interfaces().len());
    writeln!(out, "{}: {packets} packets, {interfaces} interfaces", source.format())?;
    Ok(result?)
}

/// A packet in one line: number, time, interface, link type, length, and what was noted.
fn line(record: &Record, interfaces: &[Interface]) -> String {
    let time = record.time.map_or("-".to_owned(), |nanos| {
        format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
    });
    let mut line = format!("{:>6}  {time}  {}", record.number, record.interface);
    if let Some(interface) = interfaces.get(record.interface as usize) {
        if let Some(name) = interface.name.as_ref().filter(|name| !name.is_empty()) {
            line += &format!(" {}", name.escape_debug());
        }
        line += &format!("  {}", interface.link);
    }
    line += &format!("  {} bytes", record.original);
    if record.captured != record.original {
        line += &format!(", {} captured", record.captured);
    }
    match record.direction {
        Some(Direction::Up) => line += "  in",
        Some(Direction::Down) => line += "  out",
        None => {}
    }
    if let Some(comment) = &record.comment {
        line += &format!("  # {}", comment.escape_debug());
    }
    line
}

/// The file that is written. A pcap begins with its interface, so that has to be met first.
struct Copy {
    path: PathBuf,
    file: Option<File>,
    writer: Option<CaptureWriter<BufWriter<File>>>,
}

impl Copy {
    fn new(path: &Path, format: Option<Written>) -> Result<Self> {
        let format = match (format, path.extension().and_then(|end| end.to_str())) {
            (Some(format), _) => format,
            (None, Some("pcap")) => Written::Pcap,
            (None, Some("pcapng")) => Written::Pcapng,
            (None, _) => bail!("{}: neither .pcap nor .pcapng: say --format", path.display()),
        };
        let file = File::create_new(path).with_context(|| format!("create {}", path.display()))?;
        let mut copy = Self { path: path.to_owned(), file: Some(file), writer: None };
        if let Some(file) = copy.file.take_if(|_| format == Written::Pcapng) {
            copy.writer = Some(CaptureWriter::pcapng(BufWriter::new(file))?);
        }
        Ok(copy)
    }

    /// Makes the interfaces that were met.
    fn interfaces(&mut self, met: &[Interface]) -> Result<()> {
        if let Some(first) = met.first()
            && let Some(file) = self.file.take()
        {
            self.writer = Some(CaptureWriter::pcap(BufWriter::new(file), first.clone())?);
        }
        let path = self.path.display();
        while let Some(writer) = &mut self.writer
            && let Some(next) = met.get(writer.interfaces().len())
        {
            let number = writer.interfaces().len();
            let what = || format!("{path}: interface {number}, {}", next.link);
            writer.interface(next.clone()).with_context(what)?;
        }
        Ok(())
    }

    fn writer(&mut self) -> Result<&mut CaptureWriter<BufWriter<File>>> {
        let path = self.path.display();
        ensure!(self.writer.is_some(), "{path}: a pcap needs an interface, and none was met");
        self.writer.as_mut().context("it was there")
    }
}

#[cfg(test)]
mod tests {
    use mbuf::io::capture::LinkType;

    use super::*;

    fn say(arguments: &[&Path]) -> (String, Result<()>) {
        let arguments = [Path::new("capture")].into_iter().chain(arguments.iter().copied());
        let mut out = Vec::new();
        let result = run(&Options::parse_from(arguments.map(Path::as_os_str)), &mut out);
        (String::from_utf8(out).unwrap(), result)
    }

    /// A capture of two packets on that many interfaces.
    fn written(path: &Path, interfaces: u32) {
        let pool = Pool::with_memory(1 << 20).unwrap();
        let mut writer = CaptureWriter::pcapng(File::create(path).unwrap()).unwrap();
        for n in 0..interfaces {
            let tun = Interface { snap_len: 30, ..Interface::new(LinkType::RAW, "tun\u{1b}0") };
            assert_eq!(writer.interface(tun).unwrap(), n);
        }
        for n in 0..2 {
            let record = Record {
                time: Some(1_700_000_000_000_000_001),
                interface: n % interfaces,
                direction: (n == 1).then_some(Direction::Down),
                comment: (n == 1).then(|| "dropped: short".to_owned()),
                ..Record::default()
            };
            writer.write(&record, &pool.chain_from(&[0x45; 40]).unwrap()).unwrap();
        }
    }

    #[test]
    fn packets_are_listed_and_what_is_in_their_names_cannot_reach_the_terminal() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f.pcapng");
        written(&file, 1);
        let (text, result) = say(&[&file]);
        result.unwrap();
        let start = "1700000000.000000001  0 tun\\u{1b}0  RAW (101)  40 bytes, 30 captured";
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                format!("1  {start}"),
                format!("2  {start}  out  # dropped: short"),
                "pcapng: 2 packets, 1 interfaces".to_owned(),
            ]
        );
        let (text, _) = say(&[&file, "--count".as_ref(), "1".as_ref(), "--quiet".as_ref()]);
        assert_eq!(text, "pcapng: 1 packets, 1 interfaces\n");
    }

    #[test]
    fn a_capture_goes_from_one_format_to_the_other_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        written(&path("a.pcapng"), 1);
        let quiet = Path::new("--quiet");
        say(&[&path("a.pcapng"), quiet, "--write".as_ref(), &path("b.pcap")]).1.unwrap();
        say(&[&path("b.pcap"), quiet, "--write".as_ref(), &path("c.pcapng")]).1.unwrap();
        let (text, _) = say(&[&path("c.pcapng")]);
        let line = "1700000000.000000001  0  RAW (101)  40 bytes, 30 captured";
        assert_eq!(text.lines().filter(|text| text.ends_with(line)).count(), 2, "{text}");
        let (_, result) = say(&[&path("b.pcap"), "--write".as_ref(), &path("c.pcapng")]);
        assert!(result.unwrap_err().to_string().starts_with("create "), "it is there already");
    }

    #[test]
    fn a_pcap_of_two_interfaces_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        written(&path("a.pcapng"), 2);
        let (_, result) = say(&[&path("a.pcapng"), "--write".as_ref(), &path("b.pcap")]);
        let text = format!("{:#}", result.unwrap_err());
        let end = "b.pcap: interface 1, RAW (101): a pcap file has one interface: write pcapng";
        assert!(text.ends_with(end), "{text}");
        let (_, result) = say(&[&path("a.pcapng"), "--write".as_ref(), &path("b.txt")]);
        assert!(result.unwrap_err().to_string().contains("say --format"));
    }

    #[test]
    fn what_comes_before_a_cut_is_printed_and_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        written(&path("a.pcapng"), 1);
        let whole = std::fs::read(path("a.pcapng")).unwrap();
        std::fs::write(path("cut.pcapng"), &whole[..whole.len() - 1]).unwrap();
        let (text, result) = say(&[&path("cut.pcapng"), "--write".as_ref(), &path("b.pcap")]);
        assert!(text.ends_with("pcapng: 1 packets, 1 interfaces\n"), "{text}");
        assert!(result.unwrap_err().to_string().contains("is cut short: a block at byte"));
        let (text, result) = say(&[&path("b.pcap"), "--quiet".as_ref()]);
        assert!(result.is_ok() && text == "pcap: 1 packets, 1 interfaces\n", "{text}");
    }
}
