//! How many packets have which layers.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use mbuf_protocols::dissect::{Dissection, End};

use crate::reason;

/// The most ways that are told apart, so that a capture that was made to have many fills no memory.
const MOST_WAYS: usize = 10_000;
const OTHERS: &str = "others";

#[derive(Debug, Default)]
pub struct Stats {
    /// By the way from the outermost layer in: packets and bytes.
    layers: BTreeMap<Vec<&'static str>, (u64, u64)>,
    /// Packets that were not wholly looked at, by the reason.
    reasons: BTreeMap<String, u64>,
}

impl Stats {
    pub fn add(&mut self, found: &Dissection, bytes: u32) {
        let mut way = Vec::new();
        for layer in &found.layers {
            way.push(layer.name);
            let known = self.layers.len() < MOST_WAYS || self.layers.contains_key(&way);
            let key = if known { way.clone() } else { vec![OTHERS] };
            let (packets, sum) = self.layers.entry(key).or_default();
            *packets += 1;
            *sum += u64::from(bytes);
            if !known {
                break;
            }
        }
        let cut = (found.end == End::Cut).then(|| "cut".to_owned());
        if let Some(reason) = reason(found.end).or(cut) {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let indented: Vec<(String, &(u64, u64))> = self
            .layers
            .iter()
            .map(|(way, sums)| {
                let name = way.last().copied().unwrap_or_default();
                (format!("{:indent$}{name}", "", indent = 2 * (way.len() - 1)), sums)
            })
            .collect();
        let width = indented.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(8);
        writeln!(out, "{:<width$} {:>12} {:>15}", "layer", "packets", "bytes")?;
        for (name, (packets, bytes)) in indented {
            writeln!(out, "{name:<width$} {packets:>12} {bytes:>15}")?;
        }
        if !self.reasons.is_empty() {
            writeln!(out, "\n{:<width$} {:>12}", "reason", "packets")?;
        }
        for (reason, packets) in &self.reasons {
            writeln!(out, "{reason:<width$} {packets:>12}")?;
        }
        Ok(())
    }
}
