//! The JSON files of a run, read.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::row::{Measure, Row};

/// A part that the report knows: by the field `benchmark` of its file.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub name: &'static str,
    pub title: &'static str,
    pub about: &'static str,
}

/// In the order of the page. Others come after these.
pub const KNOWN: [Known; 10] = [
    Known {
        name: "micro",
        title: "Buffers and parsing",
        about: "One thread, in process; all sides do the same to the same bytes.",
    },
    Known {
        name: "instructions",
        title: "Instructions an operation",
        about: "Under callgrind, without the loop around the operation. It repeats exactly, and \
                gates every change (`benches/ceilings.txt`).",
    },
    Known {
        name: "counts",
        title: "What is counted",
        about: "Heap allocations, system calls and cache lines: they do not depend on how busy \
                the machine is.",
    },
    Known {
        name: "udp",
        title: "UDP echo",
        about: "One server, pinned to a core, and the same client for each of them on the other, \
                over loopback. Loopback flatters GSO: on a network card expect 2 to 5 times of it, \
                not 40.",
    },
    Known {
        name: "tcp",
        title: "TCP echo",
        about: "One server, pinned to a core, and the same client for each of them on the other, \
                over loopback.",
    },
    Known {
        name: "latency",
        title: "Latency of echo at a fixed rate",
        about: "Messages are sent when they are due, not when the answer before has come, and the \
                time counts from when they were due (no coordinated omission).",
    },
    Known {
        name: "tap",
        title: "A host behind a TAP",
        about: "UDP echo by the example `host`, by smoltcp behind the same kind of TAP, and by the \
                kernel's own stack at the other end of a veth pair; the same client for each. \
                Super-packets over a TUN: what lies ready is read, or what was made is written, and \
                only that is timed.",
    },
    Known {
        name: "files",
        title: "Files over TCP",
        about: "From one folder to another over loopback. Ours compares BLAKE3 of every chunk at \
                the other end, which the others do not do. Peak memory is that of the larger of the \
                two ends, mapped files included; it is never less than the few MiB that the \
                measuring program has itself.",
    },
    Known {
        name: "tcp-many",
        title: "Many TCP connections",
        about: "All are open at once; every byte is compared.",
    },
    Known {
        name: "growth",
        title: "How cost grows",
        about: "Both axes of each picture are logarithmic. What a layer costs is what it adds to a \
                stack of none, and batches are of 32 packets there.",
    },
];

/// What was read.
#[derive(Debug)]
pub struct Results {
    pub parts: Vec<Part>,
    /// Of the known ones, in order.
    pub missing: Vec<Known>,
}

/// All files of one benchmark.
#[derive(Debug, Default)]
pub struct Part {
    pub name: String,
    pub rows: Vec<Row>,
    pub skipped: Vec<String>,
    pub versions: BTreeMap<String, String>,
    /// What else was found, in lists beside the rows.
    pub notes: Vec<String>,
    /// What it was run with, of each file.
    pub options: Vec<String>,
    /// What it was run on, of each file.
    pub machines: Vec<BTreeMap<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct File {
    benchmark: String,
    #[serde(default)]
    rows: Vec<Row>,
    #[serde(default)]
    skipped: Vec<String>,
    #[serde(default)]
    versions: BTreeMap<String, Option<String>>,
    #[serde(default)]
    machine: BTreeMap<String, Value>,
    #[serde(flatten)]
    options: BTreeMap<String, Value>,
}

impl Results {
    /// Of all `*.json` of a folder.
    pub fn read(dir: &Path) -> anyhow::Result<Results> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        ensure!(!paths.is_empty(), "{} has no JSON files", dir.display());
        paths.sort();
        let mut parts: Vec<Part> = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path)?;
            let file = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            add(&mut parts, file);
        }
        let place = |part: &Part| KNOWN.iter().position(|known| known.name == part.name);
        parts.sort_by_key(|part| (place(part).unwrap_or(KNOWN.len()), part.name.clone()));
        let is_there = |known: &Known| parts.iter().any(|part| part.name == known.name);
        let missing = KNOWN.into_iter().filter(|known| !is_there(known)).collect();
        Ok(Results { parts, missing })
    }
}

fn add(parts: &mut Vec<Part>, file: File) {
    let at = parts.iter().position(|part| part.name == file.benchmark).unwrap_or_else(|| {
        parts.push(Part { name: file.benchmark, ..Part::default() });
        parts.len() - 1
    });
    let part = &mut parts[at];
    part.rows.extend(file.rows);
    part.skipped.extend(file.skipped);
    let known = |(name, version): (_, Option<_>)| Some((name, version?));
    part.versions.extend(file.versions.into_iter().filter_map(known));
    part.machines.push(file.machine);
    let mut options = Vec::new();
    for (name, value) in file.options {
        match value {
            Value::Array(list) => {
                part.notes.extend(list.iter().filter_map(|item| note(&name, item)))
            }
            value => options.extend(plain(&value).map(|value| format!("{name} {value}"))),
        }
    }
    part.options.push(options.join(", "));
}

/// A text, a number, or yes and no.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}

/// An item of a list, if it is plain, or an object of what is plain.
fn note(list: &str, item: &Value) -> Option<String> {
    let text = match item {
        Value::Object(fields) => {
            let fields =
                fields.iter().map(|(name, value)| Some(format!("{name} {}", plain(value)?)));
            fields.collect::<Option<Vec<_>>>()?.join(", ")
        }
        item => plain(item)?,
    };
    Some(format!("{list}: {text}"))
}

impl Part {
    pub fn title(&self) -> &str {
        let known = KNOWN.iter().find(|known| known.name == self.name);
        known.map_or(&self.name, |known| known.title)
    }

    pub fn about(&self) -> &str {
        KNOWN.iter().find(|known| known.name == self.name).map_or("", |known| known.about)
    }

    /// The rows that are not of curves.
    pub fn points(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.x.is_none()).collect()
    }

    /// The curves of an axis each: what the axis is called, and its rows.
    pub fn axes(&self) -> Vec<(&str, Vec<&Row>)> {
        let curves = self.rows.iter().filter(|row| row.x.is_some());
        groups(curves.map(|row| (axis(row), row)))
    }
}

/// What the axis of a curve is called: the case is `AXIS: WHAT`.
pub fn axis(row: &Row) -> &str {
    row.case.split_once(": ").map_or(&*row.case, |(axis, _)| axis)
}

/// What of it is shown.
pub fn what(row: &Row) -> &str {
    row.case.split_once(": ").map_or(&*row.case, |(_, what)| what)
}

/// Whether it is ours: `mbuf`, or `mbuf, in some way`.
pub fn ours(row: &Row) -> bool {
    let rest = row.who.strip_prefix("mbuf");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([',', ' ']))
}

/// What has the same key together, in the order of first appearance.
pub fn groups<K: PartialEq, T>(items: impl IntoIterator<Item = (K, T)>) -> Vec<(K, Vec<T>)> {
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    for (key, item) in items {
        match groups.iter_mut().find(|group| group.0 == key) {
            Some(group) => group.1.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    groups
}

/// In the order of first appearance.
pub fn measures(rows: &[&Row]) -> Vec<Measure> {
    groups(rows.iter().map(|row| (row.measure, ()))).into_iter().map(|group| group.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_and_theirs() {
        let row = |who| Row::new("layers: up", who, Measure::Seconds, vec![1.0]);
        for who in ["mbuf", "mbuf, mmap to mmap", "mbuf busy-poll"] {
            assert!(ours(&row(who)), "{who}");
        }
        for who in ["mbufs", "tokio", "C epoll"] {
            assert!(!ours(&row(who)), "{who}");
        }
        assert_eq!((axis(&row("")), what(&row(""))), ("layers", "up"));
    }
}
