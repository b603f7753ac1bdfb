//! A packet as a tree, and as a line of JSON.

use std::io::{self, Write};

use mbuf::io::capture::Record;
use mbuf_protocols::dissect::{Dissection, End, Value};
use serde_json::{Map, json};

use crate::reason;

const BOLD: &str = "\x1b[1m";
const CYAN: &str = "\x1b[36m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

pub fn tree(
    out: &mut dyn Write,
    record: &Record,
    found: &Dissection,
    colored: bool,
) -> io::Result<()> {
    let paint = |code: &'static str| if colored { code } else { "" };
    let (bold, cyan, plain) = (paint(BOLD), paint(CYAN), paint(PLAIN));
    let time = record.time.map_or("-".to_owned(), |nanos| {
        format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
    });
    write!(out, "{bold}{}  {time}  {} bytes", record.number, record.original)?;
    if record.captured != record.original {
        write!(out, ", {} captured", record.captured)?;
    }
    writeln!(out, "{plain}")?;
    for layer in &found.layers {
        writeln!(out, "  {cyan}{}{plain}", layer.name)?;
        for (name, value) in &layer.fields {
            writeln!(out, "    {name:<16} {value}")?;
        }
    }
    match found.end {
        End::Cut => writeln!(out, "  {}cut: the rest was not captured{plain}", paint(YELLOW)),
        end => match reason(end) {
            Some(reason) => writeln!(out, "  {}dropped: {reason}{plain}", paint(RED)),
            None => Ok(()),
        },
    }
}

/// `layers` and `fields` go together, one by one; a field that comes more than once is a list.
pub fn json(out: &mut dyn Write, record: &Record, found: &Dissection) -> io::Result<()> {
    let names: Vec<&str> = found.layers.iter().map(|layer| layer.name).collect();
    let fields: Vec<Map<String, serde_json::Value>> = found
        .layers
        .iter()
        .map(|layer| {
            let mut fields = Map::new();
            for (name, value) in &layer.fields {
                let value = match value {
                    Value::Number(number) | Value::Hex(number, _) => json!(number),
                    other => json!(other.to_string()),
                };
                match fields.get_mut(*name) {
                    None => _ = fields.insert((*name).to_owned(), value),
                    Some(serde_json::Value::Array(values)) => values.push(value),
                    Some(first) => *first = json!([first.take(), value]),
                }
            }
            fields
        })
        .collect();
    let object = json!({
        "number": record.number,
        "time": record.time,
        "length": record.original,
        "captured": record.captured,
        "layers": names,
        "fields": fields,
        "dropped": reason(found.end),
        "cut": found.end == End::Cut,
    });
    writeln!(out, "{object}")
}
