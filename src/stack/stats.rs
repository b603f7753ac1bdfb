//! Counters of a stack, as values and as a table.

use std::fmt;

use super::{DropReason, Edge, Held};

/// Counters of a stack, by layer and by port. `Display` prints a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StackStats {
    /// The layers, in the order in which they were added; the layers inside a
    /// [`Sessions`](super::Sessions) follow it.
    pub layers: Vec<LayerStats>,
    /// The ports, in the order in which they were added.
    pub ports: Vec<PortStats>,
}

/// Counters of a layer.
///
/// `received + made == sent + consumed + merged + dropped() + held.chains`, or chains went away
/// without a word ([`LayerStats::imbalance`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayerStats {
    /// The layer's name.
    pub name: String,
    /// Chains handed in, from both sides.
    pub received: u64,
    /// Chains that it made.
    pub made: u64,
    /// Chains that it passed on, both ways.
    pub sent: u64,
    /// Chains that had served their purpose.
    pub consumed: u64,
    /// Chains joined into others.
    pub merged: u64,
    /// Chains dropped, by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// Reasons among them that the layer had not declared.
    pub undeclared: Vec<DropReason>,
    /// Held now.
    pub held: Held,
}

/// Counters of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortStats {
    /// What it carries.
    pub edge: Edge,
    /// Chains that came in.
    pub received: u64,
    /// Chains that went into its output queue.
    pub sent: u64,
    /// Chains in its output queue.
    pub queued: usize,
    /// Chains dropped at the port, either way, by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// Aborts, by reason.
    pub aborts: Vec<(DropReason, u64)>,
}

impl StackStats {
    /// The first layer of that name.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// assert!(stack.stats().layer("layer").is_some());
    /// assert!(stack.stats().layer("lawyer").is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn layer(&self, name: &str) -> Option<&LayerStats> {
        self.layers.iter().find(|layer| layer.name == name)
    }

    /// Chains dropped under that reason, in all layers and ports.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.up(chain))])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.stats().dropped(DropReason::UNBOUND), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dropped(&self, reason: DropReason) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.dropped_for(reason));
        let ports = self.ports.iter().map(|port| count_of(&port.drops, reason));
        layers.chain(ports).sum()
    }

    /// Adds the counters of another stack: rows of the same name (ports: of the same place) are
    /// added up, others are appended. So the stacks of many connections make one table.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.reply(chain))])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// let mut sum = stack.stats();
    /// sum.merge(&stack.stats());
    /// assert_eq!((sum.layers.len(), sum.layers[0].received), (1, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn merge(&mut self, other: &StackStats) {
        merge_layers(&mut self.layers, &other.layers);
        for (place, port) in other.ports.iter().enumerate() {
            match self.ports.get_mut(place) {
                Some(mine) => {
                    mine.received += port.received;
                    mine.sent += port.sent;
                    mine.queued += port.queued;
                    merge_counts(&mut mine.drops, &port.drops);
                    merge_counts(&mut mine.aborts, &port.aborts);
                }
                None => self.ports.push(port.clone()),
            }
        }
    }
}

impl LayerStats {
    /// Chains dropped, for whichever reason.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.up(chain))])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.stats().layers[0].dropped(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, n)| n).sum()
    }

    /// Chains dropped for that reason.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(|chain, cx| cx.up(chain))])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// let stats = stack.stats();
    /// assert_eq!(stats.layers[0].dropped_for(DropReason::UNBOUND), 1);
    /// assert_eq!(stats.layers[0].dropped_for(DropReason::SHORT), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        count_of(&self.drops, reason)
    }

    /// Chains that went away unaccounted for (negative: that came from nowhere). 0 in a layer that
    /// keeps its books.
    ///
    /// ```
    #[doc = include_str!("example.in")]
    /// let forget = |chain, cx: &mut Context<'_>| {
    ///     drop(chain); // without a word: `cx.drop` or `cx.consumed` would have counted it
    ///     cx.held()
    /// };
    /// let mut stack = Stack::pile(&pool, Edge::Packets, vec![layer(forget)])?;
    /// stack.input_one(PORT, pool.chain()?);
    /// assert_eq!(stack.stats().layers[0].imbalance(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn imbalance(&self) -> i64 {
        let into = self.received + self.made;
        let out = self.sent + self.consumed + self.merged + self.dropped();
        into as i64 - out as i64 - self.held.chains as i64
    }

    pub(super) fn merge(&mut self, other: &LayerStats) {
        self.received += other.received;
        self.made += other.made;
        self.sent += other.sent;
        self.consumed += other.consumed;
        self.merged += other.merged;
        self.held += other.held;
        merge_counts(&mut self.drops, &other.drops);
        for reason in &other.undeclared {
            if !self.undeclared.contains(reason) {
                self.undeclared.push(*reason);
            }
        }
    }

    /// What was held is counted as dropped: the layer is going.
    pub(super) fn let_go(&mut self, reason: DropReason) {
        if self.held.chains > 0 {
            merge_counts(&mut self.drops, &[(reason, self.held.chains as u64)]);
        }
        self.held = Held::default();
    }
}

impl fmt::Display for StackStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.layers.iter().map(|layer| layer.name.len()).max();
        let width = longest.unwrap_or(0).max("layer".len());
        writeln!(
            f,
            "{:width$} {:>12} {:>12} {:>12} {:>12} {:>10} {:>8}  dropped",
            "layer", "received", "made", "sent", "consumed", "merged", "held"
        )?;
        for layer in &self.layers {
            write!(
                f,
                "{:width$} {:>12} {:>12} {:>12} {:>12} {:>10} {:>8}",
                layer.name,
                layer.received,
                layer.made,
                layer.sent,
                layer.consumed,
                layer.merged,
                layer.held.chains
            )?;
            write_counts(f, "", &layer.drops)?;
            writeln!(f)?;
        }
        for (place, port) in self.ports.iter().enumerate() {
            let name = format!("port {place}");
            write!(
                f,
                "{name:width$} {:>12} {:>12} {:>12} {:>12} {:>10} {:>8}",
                port.received, "", port.sent, "", "", port.queued
            )?;
            write_counts(f, "", &port.drops)?;
            write_counts(f, "aborted ", &port.aborts)?;
            writeln!(f)?;
        }
        Ok(())
    }
}

pub(super) fn merge_layers(into: &mut Vec<LayerStats>, from: &[LayerStats]) {
    for (place, layer) in from.iter().enumerate() {
        // A stack may have two layers of one name (a tunnel's inner and outer IP).
        let nth = from[..place].iter().filter(|before| before.name == layer.name).count();
        match into.iter_mut().filter(|mine| mine.name == layer.name).nth(nth) {
            Some(mine) => mine.merge(layer),
            None => into.push(layer.clone()),
        }
    }
}

fn merge_counts(into: &mut Vec<(DropReason, u64)>, from: &[(DropReason, u64)]) {
    for &(reason, n) in from {
        match into.iter_mut().find(|(mine, _)| *mine == reason) {
            Some((_, count)) => *count += n,
            None => into.push((reason, n)),
        }
    }
}

fn count_of(counts: &[(DropReason, u64)], reason: DropReason) -> u64 {
    counts.iter().filter(|(mine, _)| *mine == reason).map(|(_, n)| n).sum()
}

fn write_counts(
    f: &mut fmt::Formatter<'_>,
    prefix: &str,
    counts: &[(DropReason, u64)],
) -> fmt::Result {
    counts.iter().try_for_each(|(reason, n)| write!(f, "  {prefix}{reason} {n}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> LayerStats {
        LayerStats {
            name: "echo".into(),
            received: 10,
            made: 1,
            sent: 6,
            consumed: 1,
            merged: 1,
            drops: vec![(DropReason::SHORT, 2)],
            undeclared: Vec::new(),
            held: Held { chains: 1, footprint: 256 },
        }
    }

    #[test]
    fn books_that_balance_and_books_that_do_not() {
        let mut layer = echo();
        assert_eq!(layer.imbalance(), 0);
        layer.received += 2;
        assert_eq!(layer.imbalance(), 2);
        layer.received -= 2;
        layer.let_go(DropReason::LIMIT);
        assert_eq!((layer.imbalance(), layer.dropped()), (0, 3));
    }

    #[test]
    fn stacks_of_many_connections_make_one_table() {
        let port = PortStats {
            edge: Edge::Bytes,
            received: 5,
            sent: 4,
            queued: 0,
            drops: Vec::new(),
            aborts: vec![(DropReason::OVERRUN, 1)],
        };
        let one = StackStats { layers: vec![echo()], ports: vec![port] };
        let mut sum = StackStats::default();
        sum.merge(&one);
        sum.merge(&one);
        assert_eq!(sum.layer("echo").unwrap().received, 20);
        assert_eq!(sum.dropped(DropReason::SHORT), 4);
        assert_eq!(sum.ports[0].aborts, [(DropReason::OVERRUN, 2)]);
        let table = sum.to_string();
        assert!(table.contains("short 4") && table.contains("aborted overrun 2"), "{table}");
        assert_eq!(table.lines().count(), 3);
    }
}
