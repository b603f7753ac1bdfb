//! How bad a line is, and what it did.

use std::time::Duration;

/// What a packet [`Link`](super::Link) does to its packets. Chances are in parts of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    pub(super) loss: u32,
    pub(super) duplicate: u32,
    pub(super) reorder: u32,
    pub(super) corrupt: u32,
    pub(super) delay: (Duration, Duration),
}

impl Faults {
    /// A perfect line, without delay.
    ///
    /// ```
    /// use mbuf::testing::Faults;
    ///
    /// assert_eq!(Faults::none(), Faults::default());
    /// ```
    pub fn none() -> Self {
        Self::default()
    }

    /// A bad line: of a thousand packets 50 are lost, 20 come twice, 50 are overtaken, 20 have a
    /// bit flipped, and all take 1 to 20 ms.
    ///
    /// ```
    /// use mbuf::testing::Faults;
    ///
    /// assert_ne!(Faults::bad(), Faults::none());
    /// ```
    pub fn bad() -> Self {
        let delay = (Duration::from_millis(1), Duration::from_millis(20));
        Self { loss: 50, duplicate: 20, reorder: 50, corrupt: 20, delay }
    }

    /// So many of a thousand packets are lost.
    ///
    /// ```
    /// use mbuf::testing::Faults;
    ///
    /// assert_eq!(Faults::bad().loss(50), Faults::bad());
    /// assert_ne!(Faults::none().loss(50), Faults::none());
    /// ```
    pub fn loss(self, per_mille: u32) -> Self {
        Self { loss: per_mille, ..self }
    }

    /// So many of a thousand arrive twice.
    ///
    /// ```
    /// use mbuf::testing::Faults;
    ///
    /// assert_eq!(Faults::bad().duplicate(20), Faults::bad());
    /// ```
    pub fn duplicate(self, per_mille: u32) -> Self {
        Self { duplicate: per_mille, ..self }
    }

    /// So many of a thousand are overtaken by the packet sent after them.
    ///
    /// ```
    /// use mbuf::testing::Faults;
    ///
    /// assert_eq!(Faults::bad().reorder(50), Faults::bad());
    /// ```
    pub fn reorder(self, per_mille: u32) -> Self {
        Self { reorder: per_mille, ..self }
    }

    /// So many of a thousand have one bit flipped.
    ///
    /// ```
    /// use mbuf::testing::Faults;
    ///
    /// assert_eq!(Faults::bad().corrupt(20), Faults::bad());
    /// ```
    pub fn corrupt(self, per_mille: u32) -> Self {
        Self { corrupt: per_mille, ..self }
    }

    /// Each packet takes a time from `least` to `most`. Packets stay in order unless they are
    /// chosen for [`reorder`](Self::reorder).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use mbuf::testing::Faults;
    ///
    /// let (least, most) = (Duration::from_millis(1), Duration::from_millis(20));
    /// assert_eq!(Faults::bad().delay(least, most), Faults::bad());
    /// ```
    pub fn delay(self, least: Duration, most: Duration) -> Self {
        Self { delay: (least, most.max(least)), ..self }
    }
}

/// What has happened on a [`Link`](super::Link).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Packets (of a stream: pieces) put in.
    pub sent: u64,
    /// Packets (of a stream: pieces) that came out.
    pub delivered: u64,
    /// Packets lost.
    pub lost: u64,
    /// Packets that were sent once more.
    pub duplicated: u64,
    /// Packets that the next one overtook.
    pub reordered: u64,
    /// Packets with a bit flipped.
    pub corrupted: u64,
    /// Packets that found the line full.
    pub overflowed: u64,
    /// Bytes that came out.
    pub bytes: u64,
}
