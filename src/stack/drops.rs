//! Why chains are dropped, and how often.

use std::fmt;

/// Why a chain was dropped, or a session ended. Compared by name.
///
/// A layer declares its own in [`LayerInfo::reasons`](super::LayerInfo::reasons); the constants
/// here need no declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DropReason(pub &'static str);

impl DropReason {
    /// Shorter than the layer's fixed header.
    pub const SHORT: DropReason = DropReason("short");
    /// The pool was empty.
    pub const NO_BUFFERS: DropReason = DropReason("no_buffers");
    /// The hard limit of a packet port's output queue.
    pub const EGRESS_FULL: DropReason = DropReason("egress_full");
    /// The hard limit of a stream port's output queue: the stream is aborted, for bytes missing
    /// from its middle would be worse.
    pub const OVERRUN: DropReason = DropReason("overrun");
    /// No layer is bound to the key, or none is above at all.
    pub const UNBOUND: DropReason = DropReason("unbound");
    /// It cannot be parsed.
    pub const MALFORMED: DropReason = DropReason("malformed");
    /// Nobody wants it (RFC 863).
    pub const DISCARDED: DropReason = DropReason("discarded");
    /// The port, or the whole stack, is closed.
    pub const CLOSED: DropReason = DropReason("closed");
    /// A bound on sessions, timers or storage.
    pub const LIMIT: DropReason = DropReason("limit");
    /// Its session has paused its input, or has not done with what it was given before.
    pub const PAUSED: DropReason = DropReason("paused");
    /// Its session had been idle for too long.
    pub const IDLE: DropReason = DropReason("idle");
    /// No session could be made for its peer.
    pub const REFUSED: DropReason = DropReason("refused");
    /// The file behind it could not be read.
    pub const IO: DropReason = DropReason("io");
    /// A layer left it in the batch that it was given.
    pub const UNHANDLED: DropReason = DropReason("unhandled");

    /// Those that need no declaration. `UNHANDLED` is not among them: it is a layer's bug.
    const COMMON: [DropReason; 13] = [
        DropReason::SHORT,
        DropReason::NO_BUFFERS,
        DropReason::EGRESS_FULL,
        DropReason::OVERRUN,
        DropReason::UNBOUND,
        DropReason::MALFORMED,
        DropReason::DISCARDED,
        DropReason::CLOSED,
        DropReason::LIMIT,
        DropReason::PAUSED,
        DropReason::IDLE,
        DropReason::REFUSED,
        DropReason::IO,
    ];

    /// Whether it is one of the constants that need no declaration.
    ///
    /// ```
    /// use mbuf::stack::DropReason;
    ///
    /// assert!(DropReason::SHORT.is_common());
    /// assert!(!DropReason("bad_prefix").is_common()); // a layer must declare it
    /// ```
    pub fn is_common(self) -> bool {
        Self::COMMON.contains(&self)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Counts by reason. A row is made when a reason is first met, so counting again costs a short
/// search and no allocation.
#[derive(Debug, Default)]
pub(super) struct DropTable {
    declared: Vec<DropReason>,
    /// Empty while they are set aside.
    rows: Vec<Row>,
    aside: Option<Vec<Row>>,
}

#[derive(Debug)]
struct Row {
    reason: DropReason,
    count: u64,
    declared: bool,
}

/// Rows that reasons may take that nobody declared; those met later share the last one.
const MAX_UNDECLARED: usize = 16;

impl DropTable {
    pub(super) fn new(declared: Vec<DropReason>) -> Self {
        Self { declared, rows: Vec::new(), aside: None }
    }

    /// Sets the rows aside, so that [`count_met`](Self::count_met) finds none, or back again.
    pub(super) fn set_aside(&mut self, aside: bool) {
        match self.aside.take() {
            Some(rows) => self.rows = rows,
            None if aside => self.aside = Some(std::mem::take(&mut self.rows)),
            None => {}
        }
    }

    /// Adds `n` under the reason. O(reasons met so far).
    pub(super) fn count(&mut self, reason: DropReason, n: u64) {
        if n != 0 && !self.count_met(reason, n) {
            self.count_unmet(reason, n);
        }
    }

    /// Adds `n` under the reason if it was met before; whether it was.
    #[inline(always)]
    pub(super) fn count_met(&mut self, reason: DropReason, n: u64) -> bool {
        // The same constant is nearly always the same pointer, which spares comparing the text.
        let same = |row: &&mut Row| std::ptr::eq(row.reason.0, reason.0);
        if let Some(row) = self.rows.iter_mut().find(same) {
            row.count += n;
            return true;
        }
        false
    }

    #[cold]
    fn count_unmet(&mut self, reason: DropReason, n: u64) {
        let rows = self.aside.as_mut().unwrap_or(&mut self.rows);
        if let Some(row) = rows.iter_mut().find(|row| row.reason == reason) {
            row.count += n;
            return;
        }
        let declared = reason.is_common() || self.declared.contains(&reason);
        if !declared {
            let mut undeclared = rows.iter_mut().filter(|row| !row.declared);
            if let Some(last) = undeclared.nth(MAX_UNDECLARED - 1) {
                last.reason = DropReason("(others, undeclared)");
                last.count += n;
                return;
            }
        }
        rows.push(Row { reason, count: n, declared });
    }

    fn rows(&self) -> &[Row] {
        self.aside.as_ref().unwrap_or(&self.rows)
    }

    /// The counts, in the order in which the reasons were first met.
    pub(super) fn counts(&self) -> Vec<(DropReason, u64)> {
        self.rows().iter().map(|row| (row.reason, row.count)).collect()
    }

    /// Reasons that were met without having been declared.
    pub(super) fn undeclared(&self) -> Vec<DropReason> {
        self.rows().iter().filter(|row| !row.declared).map(|row| row.reason).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_by_name_and_undeclared_ones_are_told_apart() {
        let mut table = DropTable::new(vec![DropReason("stale")]);
        table.count(DropReason::SHORT, 2);
        table.count(DropReason(String::from("short").leak()), 1);
        table.count(DropReason("stale"), 1);
        table.count(DropReason("surprise"), 4);
        table.count(DropReason::MALFORMED, 0);
        let counts =
            [(DropReason::SHORT, 3), (DropReason("stale"), 1), (DropReason("surprise"), 4)];
        assert_eq!(table.counts(), counts);
        assert_eq!(table.undeclared(), [DropReason("surprise")]);
        assert!(!DropReason::UNHANDLED.is_common());
    }

    #[test]
    fn undeclared_reasons_cannot_grow_the_table() {
        let mut table = DropTable::default();
        for n in 0..1000 {
            table.count(DropReason(format!("made up {n}").leak()), 1);
        }
        assert_eq!(table.counts().len(), MAX_UNDECLARED);
        assert_eq!(table.counts().iter().map(|(_, n)| n).sum::<u64>(), 1000);
    }
}
