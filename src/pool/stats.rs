//! What a pool has, uses and refused: the counterpart of `netstat -m`.

use std::fmt;

use super::memory::Pages;
use crate::class::Class;

/// What an mbuf holds, after mbuf(9): data, a protocol header, control information, or one of five
/// types for the user's own. Only statistics look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MbufType(u8);

impl MbufType {
    /// Payload: what every mbuf is at first (MT_DATA).
    pub const DATA: MbufType = MbufType(0);
    /// A packet header (MT_HEADER).
    pub const HEADER: MbufType = MbufType(1);
    /// Control information (MT_CONTROL).
    pub const CONTROL: MbufType = MbufType(2);
    /// Types there are.
    pub const COUNT: usize = 8;

    /// One of the user's own types, 0 to 4; `None` for other numbers.
    ///
    /// ```
    /// use mbuf::pool::MbufType;
    ///
    /// assert_eq!(MbufType::user(4).unwrap().to_string(), "user4");
    /// assert_eq!(MbufType::user(5), None);
    /// ```
    pub const fn user(n: u8) -> Option<MbufType> {
        if n < 5 { Some(MbufType(3 + n)) } else { None }
    }

    /// All types.
    ///
    /// ```
    /// use mbuf::pool::MbufType;
    ///
    /// assert_eq!(MbufType::all().count(), MbufType::COUNT);
    /// assert_eq!(MbufType::all().next(), Some(MbufType::DATA));
    /// ```
    pub fn all() -> impl Iterator<Item = MbufType> {
        (0..Self::COUNT as u8).map(MbufType)
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) const fn from_index(index: u8) -> MbufType {
        MbufType(index & 7)
    }
}

impl fmt::Display for MbufType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(
            ["data", "header", "control", "user0", "user1", "user2", "user3", "user4"]
                [self.index()],
        )
    }
}

/// Statistics of one class of buffers, in buffers.
///
/// The figures of a pool that other threads use at the same time are read one after the other, so
/// they may be off by what moved meanwhile; those of a pool at rest are exact, also while threads
/// that used it end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassStats {
    /// Buffers there are.
    pub total: usize,
    /// Held by chains.
    pub in_use: usize,
    /// Free, in the caches of threads and receivers.
    pub cached: usize,
    /// Free, in the depot.
    pub free: usize,
    /// The most that were ever outside the depot at once: in use, or cached.
    pub high_water: usize,
    /// Requests that found no buffer.
    pub denied: u64,
}

/// Statistics of a pool. `Display` prints a table, as `netstat -m` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStats {
    /// The pool's name.
    pub name: String,
    /// Bytes that are mapped.
    pub mapped: usize,
    /// The pages that the system gave, which may be less than was asked for.
    pub pages: Pages,
    /// By class, in the order of [`Class::ALL`].
    pub classes: [ClassStats; 5],
    /// Mbufs in use by type, in the order of [`MbufType::all`].
    pub types: [usize; MbufType::COUNT],
    /// Chains that were discarded, by reason ([`crate::Chain::discard`]).
    pub discards: Vec<(&'static str, u64)>,
}

impl PoolStats {
    /// The row of a class.
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain_from(&[7; 3000])?;
    /// assert_eq!(pool.stats().class(Class::K4).in_use, 1);
    /// # drop(chain);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn class(&self, class: Class) -> ClassStats {
        self.classes[class.index()]
    }

    /// Buffers of all classes that chains hold: 0 when nothing is leaked.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let chain = pool.chain()?;
    /// assert_eq!(pool.stats().in_use(), 1);
    /// drop(chain);
    /// assert_eq!(pool.stats().in_use(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_use(&self) -> usize {
        self.classes.iter().map(|class| class.in_use).sum()
    }

    /// Requests of all classes that found no buffer.
    ///
    /// ```
    /// use mbuf::{Class, Pool};
    ///
    /// let pool = Pool::builder().count(Class::Small, 1).build()?;
    /// let chain = pool.chain()?;
    /// assert!(pool.chain().is_err());
    /// assert_eq!(pool.stats().denied(), 1);
    /// # drop(chain);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn denied(&self) -> u64 {
        self.classes.iter().map(|class| class.denied).sum()
    }
}

impl fmt::Display for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = match self.pages {
            Pages::Plain => "plain",
            Pages::Transparent => "transparent huge",
            Pages::Huge => "huge",
        };
        writeln!(
            f,
            "pool `{}`: {:.1} MiB mapped, {pages} pages",
            self.name,
            self.mapped as f64 / (1 << 20) as f64
        )?;
        writeln!(
            f,
            "{:<16}{:>10}{:>10}{:>10}{:>10}{:>12}{:>10}",
            "class", "total", "in use", "cached", "free", "high water", "denied"
        )?;
        for class in Class::ALL {
            let row = self.class(class);
            writeln!(
                f,
                "{:<16}{:>10}{:>10}{:>10}{:>10}{:>12}{:>10}",
                class, row.total, row.in_use, row.cached, row.free, row.high_water, row.denied
            )?;
        }
        write!(f, "mbufs in use by type:")?;
        let mut any = false;
        for (kind, &count) in MbufType::all().zip(&self.types) {
            if count > 0 {
                write!(f, " {kind} {count}")?;
                any = true;
            }
        }
        if !any {
            write!(f, " none")?;
        }
        for (reason, count) in &self.discards {
            write!(f, "\ndiscarded as {reason}: {count}")?;
        }
        Ok(())
    }
}
