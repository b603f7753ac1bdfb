//! Prints what is in the packets of a capture: layers and fields, as a tree, as JSON, or as a table.
//!
//! ```text
//! cargo run --features capture --example dissect -- trace.pcap
//! cargo run --features capture --example dissect -- trace.pcap --filter dns,icmp
//! cargo run --features capture --example dissect -- trace.pcap --json | jq .layers
//! cargo run --features capture --example dissect -- trace.pcap --stats
//! tcpdump -w - | cargo run --features capture --example dissect -- -
//! ```

mod filter;
mod output;
#[path = "../common/print.rs"]
#[allow(dead_code)]
mod print;
mod stats;

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result};
use clap::{ColorChoice, Parser};
use mbuf::{
    Batch, Pool,
    io::{Received, Source, capture::CaptureSource},
};
use mbuf_protocols::dissect::{Dissector, End};
use signal_hook::{consts::SIGINT, flag};

use crate::{filter::Filter, stats::Stats};

/// Print what is in the packets of a capture (pcap or pcapng), layer by layer.
///
/// A packet that does not parse is printed as far as it does, with the reason for which a host would
/// have dropped it.
#[derive(Debug, Parser)]
#[command(name = "dissect", color = ColorChoice::Auto)]
struct Options {
    /// The capture; `-` is standard input.
    file: PathBuf,
    /// One object a line: number, time, captured, length, layers, fields, dropped, cut.
    #[arg(long)]
    json: bool,
    /// No packets, but how many of each layer there are, and why what was dropped.
    #[arg(long, conflicts_with = "json")]
    stats: bool,
    /// Only packets with such layers: `dns`, or one within the other, `ipv4/udp`; several with
    /// commas between are alternatives.
    #[arg(long, value_name = "LAYERS")]
    filter: Option<Filter>,
    /// Stop after so many packets of the file.
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    count: u64,
    /// When to use colours; automatically: on a terminal, unless NO_COLOR is set.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

/// What the shell says of a program that SIGINT has ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let options = Options::parse();
    // The first Ctrl-C ends the reading at the next packet, and what was found is printed; the second
    // ends at once.
    let stop = Arc::new(AtomicBool::new(false));
    let armed = flag::register_conditional_shutdown(SIGINT, INTERRUPTED.into(), stop.clone())
        .and_then(|_| flag::register(SIGINT, stop.clone()));
    if let Err(error) = armed {
        print::complain(format_args!("dissect: sigaction: {error}"));
        return ExitCode::FAILURE;
    }
    let result = {
        let mut out = BufWriter::new(io::stdout().lock());
        let result = run(&options, &stop, &mut out);
        // What was found before an error is printed before it.
        result.and(out.flush().map_err(Into::into))
    };
    match result {
        Ok(()) if stop.load(Relaxed) => ExitCode::from(INTERRUPTED),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if print::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            print::complain(format_args!("dissect: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn open(path: &Path) -> Result<CaptureSource<Box<dyn Read>>> {
    let (input, name): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(io::stdin()), "standard input".to_owned())
    } else {
        let name = path.display().to_string();
        (Box::new(File::open(path).with_context(|| format!("cannot open {name}"))?), name)
    };
    Ok(CaptureSource::new(input, &name)?)
}

fn run(options: &Options, stop: &AtomicBool, out: &mut dyn Write) -> Result<()> {
    let pool = Pool::with_memory(8 << 20)?;
    let mut source = open(&options.file)?;
    let colored = match options.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
        }
    };
    let dissector = Dissector::new();
    let receiver = pool.receiver();
    let mut batch = Batch::new();
    let mut stats = Stats::default();
    let mut left = options.count;
    // What comes before an error is printed before it.
    let result = 'all: loop {
        let received = match source.recv(&receiver, &mut batch) {
            Ok(received) => received,
            Err(error) => break Err(error),
        };
        match received {
            Received::Chains(_) => {}
            Received::Closed => break Ok(()),
            Received::WouldBlock | Received::NoBuffers => {
                let (name, next) = (options.file.display(), source.packets() + 1);
                let why = format!("capture {name}: packet {next} cannot be read now: {received:?}");
                break Err(io::Error::other(why));
            }
        }
        for (chain, record) in batch.drain().zip(source.records()) {
            if left == 0 || stop.load(Relaxed) {
                break 'all Ok(());
            }
            left -= 1;
            let link = source.interfaces()[record.interface as usize].link;
            let found = dissector.dissect(link, chain, record.original as usize);
            if options.filter.as_ref().is_some_and(|filter| !filter.matches(&found)) {
                continue;
            }
            stats.add(&found, record.original);
            if options.json {
                output::json(out, record, &found)?;
            } else if !options.stats {
                output::tree(out, record, &found, colored)?;
            }
        }
        // Who looks at a capture while it is made sees each packet as it comes.
        out.flush()?;
    };
    if options.stats {
        stats.print(out)?;
    }
    result?;
    Ok(())
}

/// The reason in the words of the statistics; `None` where there is none.
fn reason(end: End) -> Option<String> {
    match end {
        End::Dropped(reason) => Some(reason.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use mbuf::io::capture::{CaptureWriter, Interface, LinkType, Record};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    /// What is printed of a capture with an ARP packet, one that is cut off, and one that lies.
    fn printed(arguments: &[&str]) -> String {
        let pool = Pool::with_memory(1 << 20).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("three.pcap");
        let file = File::create(&path).unwrap();
        let mut writer = CaptureWriter::pcap(file, Interface::new(LinkType::ETHERNET, "")).unwrap();
        let arp = b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\x06\0\x01\x08\0\x06\x04\0\x01\
                    \x02\0\0\0\0\x01\xc0\0\x02\x01\0\0\0\0\0\0\xc0\0\x02\x02";
        let time = Some(1_700_000_000_000_000_007);
        let mut write = |bytes: &[u8], original| {
            let record = Record { time, original, ..Record::default() };
            writer.write(&record, &pool.chain_from(bytes).unwrap()).unwrap();
        };
        write(arp, 42);
        write(&arp[..20], 42);
        write(&arp[..20], 20);
        let words = [&["dissect", path.to_str().unwrap()], arguments].concat();
        let mut out = Vec::new();
        run(&Options::parse_from(words), &AtomicBool::new(false), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_of_json_is_an_object_with_layers_fields_and_the_reason() {
        let lines = printed(&["--json"]);
        let objects: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 3);
        assert_eq!(objects[0]["number"], 1);
        assert_eq!(objects[0]["layers"], serde_json::json!(["ethernet", "arp"]));
        assert_eq!(objects[0]["fields"][1]["target_ip"], "192.0.2.2");
        assert_eq!(objects[0]["dropped"], serde_json::Value::Null);
        assert_eq!((&objects[1]["dropped"], &objects[1]["cut"]), (&().into(), &true.into()));
        assert_eq!((&objects[2]["dropped"], &objects[2]["cut"]), (&"short".into(), &false.into()));
    }

    #[test]
    fn a_tree_names_the_fields_and_a_filter_chooses() {
        let tree = printed(&[]);
        assert!(tree.contains("  arp\n"), "{tree}");
        assert!(tree.contains("    target_ip        192.0.2.2\n"), "{tree}");
        assert!(tree.contains("dropped: short"), "{tree}");
        assert!(!tree.contains('\x1b'));
        assert!(printed(&["--color", "always"]).contains('\x1b'));
        assert_eq!(printed(&["--filter", "dns,ethernet/ipv4"]), "");
        assert_eq!(printed(&["--filter", "ethernet/arp", "--json"]).lines().count(), 3);
        assert_eq!(printed(&["--count", "2", "--json"]).lines().count(), 2);
    }

    #[test]
    fn a_table_counts_layers_and_reasons() {
        let table = printed(&["--stats"]);
        let has = |words: &[&str]| {
            table.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == words)
        };
        assert!(has(&["ethernet", "3", "104"]) && has(&["arp", "3", "104"]), "{table}");
        assert!(has(&["short", "1"]) && has(&["cut", "1"]), "{table}");
    }
}
