//! The plugins of this crate, by name.

use std::time::Duration;

use super::{Registry, error::one_of};
use crate::{Chargen, Discard, Echo, Framing, Prefix};

/// Their names in texts.
const PREFIXES: [(&str, Prefix); 6] = [
    ("u8", Prefix::U8),
    ("u16be", Prefix::U16Be),
    ("u16le", Prefix::U16Le),
    ("u32be", Prefix::U32Be),
    ("u32le", Prefix::U32Le),
    ("varint", Prefix::Varint),
];

pub(super) fn register(registry: &mut Registry) {
    services(registry);
}

/// Framing, and the small services of RFC 862 to 864 with their ports.
fn services(registry: &mut Registry) {
    registry.register("framing", |options| {
        let expected = one_of(&PREFIXES.map(|(name, _)| name));
        let prefix = options.required_with("prefix", &expected, |text| {
            let known = PREFIXES.iter().find(|(name, _)| *name == text);
            known.map(|&(_, prefix)| prefix).ok_or("there is no such prefix")
        })?;
        let max = options.required("max")?;
        let within: Option<Duration> = options.duration("complete_within")?;
        if max == 0 || max > prefix.capacity() {
            let range = format_args!("this prefix can say 1 to {}, not {max}", prefix.capacity());
            return Err(options.refuse("max", range));
        }
        let framing = Framing::new(prefix, max)?;
        Ok(match within {
            Some(within) => framing.complete_within(within),
            None => framing,
        })
    });
    registry.register("echo", |_| Ok(Echo::new())).under("udp", 7);
    registry.register("discard", |_| Ok(Discard::new())).under("udp", 9);
    registry
        .register("chargen", |options| {
            let edge = options.take_with("over", "bytes or packets", |text| match text {
                "bytes" => Ok(Chargen::stream()),
                "packets" => Ok(Chargen::datagram()),
                _ => Err("there is no such edge"),
            })?;
            Ok(edge.unwrap_or_else(Chargen::datagram))
        })
        .under("udp", 19);
}
