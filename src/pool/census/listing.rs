//! What is out, as a value to be read and printed.

use std::{collections::HashMap, fmt, panic::Location};

use super::{Class, Event};

/// The last events of a buffer since it was allocated: at most sixteen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct History(u64);

impl History {
    /// The events, the oldest first.
    ///
    /// ```
    /// use mbuf::pool::{Event, Mark};
    ///
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain()?;
    /// chain.mark(Mark::B);
    /// let census = pool.census();
    /// let events: Vec<_> = census.groups()[0].history.events().collect();
    /// assert_eq!(events, [Event::Allocated, Event::MarkB]);
    /// # drop(chain);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn events(self) -> impl Iterator<Item = Event> {
        (0..16).rev().filter_map(move |place| {
            let event = (self.0 >> (4 * place) & 15) as usize;
            event.checked_sub(1).map(|at| Event::ALL[at])
        })
    }

    /// Whether there were events before these, which were forgotten.
    fn is_cut(self) -> bool {
        self.events().next() != Some(Event::Allocated)
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = if self.is_cut() { "... " } else { "" };
        for event in self.events() {
            write!(f, "{between}{event}")?;
            between = " ";
        }
        Ok(())
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.events()).finish()
    }
}

/// Buffers that are out, of one class, allocated at one place, with the same history.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// Where they were allocated: the line that called this crate. Buffers that a source of this
    /// crate has received say the source's own.
    pub place: &'static Location<'static>,
    /// Their class. A segment in a cluster is two buffers: a small mbuf and the cluster.
    pub class: Class,
    /// What happened to them since.
    pub history: History,
    /// How many there are.
    pub buffers: usize,
}

impl Group {
    /// The bytes that they take up in the pool.
    pub fn bytes(&self) -> usize {
        self.buffers * self.class.size()
    }
}

/// The buffers of a pool that are out, as [`crate::Pool::census`] found them. `Display` prints a
/// table of the largest groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    pool: String,
    groups: Vec<Group>,
}

impl Census {
    /// Groups that are printed, at most.
    const LINES: usize = 20;

    pub(super) fn new(
        pool: &str,
        out: impl Iterator<Item = (Class, &'static Location<'static>, u64)>,
    ) -> Self {
        let mut counts = HashMap::<_, usize>::new();
        for one in out {
            *counts.entry(one).or_default() += 1;
        }
        let group = |((class, place, word), buffers)| {
            let history = History(word);
            Group { place, class, history, buffers }
        };
        let mut groups: Vec<Group> = counts.into_iter().map(group).collect();
        // Whatever does not depend on the count makes the order the same each time.
        groups.sort_unstable_by(|a, b| {
            let key = |group: &Group| (*group.place, group.class.index(), group.history);
            b.buffers.cmp(&a.buffers).then_with(|| key(a).cmp(&key(b)))
        });
        Self { pool: pool.into(), groups }
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The groups, that with the most buffers first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Whether nothing is out.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many buffers are out.
    pub fn buffers(&self) -> usize {
        self.groups.iter().map(|group| group.buffers).sum()
    }

    /// The bytes of the pool that are out.
    pub fn bytes(&self) -> usize {
        self.groups.iter().map(Group::bytes).sum()
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (buffers, bytes) = (self.buffers(), self.bytes());
        let noun = if buffers == 1 { "buffer" } else { "buffers" };
        write!(f, "pool `{}`: {buffers} {noun} ({bytes} bytes) still out", self.pool)?;
        if self.is_empty() {
            return Ok(());
        }
        write!(
            f,
            "\n{:>9}{:>11}  {:<16}allocated at, and what happened since",
            "buffers", "bytes", "class"
        )?;
        for group in self.groups.iter().take(Self::LINES) {
            let Group { place, class, history, buffers } = group;
            let bytes = group.bytes();
            write!(f, "\n{buffers:>9}{bytes:>11}  {class:<16}{place}\n{:>38}{history}", "")?;
        }
        match self.groups.len().checked_sub(Self::LINES) {
            Some(more @ 1..) => write!(f, "\nand {more} groups more"),
            _ => Ok(()),
        }
    }
}
