//! The life of each buffer, to find what does not come back: where it was allocated, and the last
//! sixteen events since, four bits each in one word. With the feature `census` only; without it
//! [`Event`] is a name, and noting one is nothing.
//!
//! Whoever has a buffer writes its word, with a load and a store: nobody else does, save the other
//! holders of a shared cluster, and then an event may be lost, never a buffer.

#[cfg(feature = "census")]
mod listing;

#[cfg(feature = "census")]
use std::collections::TryReserveError;
use std::fmt;

#[cfg(feature = "census")]
pub use listing::{Census, Group, History};

#[cfg(feature = "census")]
use super::memory::Layout;
use super::{Class, Inner};

/// What can happen to a buffer. Kept with the feature `census` only.
///
/// There is no event for a layer that keeps a chain: the last one of such a chain is [`Event::Up`]
/// or [`Event::Down`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Event {
    /// Given out by the pool.
    Allocated = 1,
    /// Put into a stack, as a rule by a source that has received it.
    Input = 2,
    /// Given to a layer by the one below.
    Up = 3,
    /// Given to a layer by the one above.
    Down = 4,
    /// Put into a queue, such as that of a stack's port.
    Queued = 5,
    /// Taken out of a queue, as a rule by a sink.
    Dequeued = 6,
    /// Shared: another chain holds the same bytes, or they were copied for it.
    Shared = 7,
    /// The first buffer of what was split off.
    Split = 8,
    /// Joined to another chain.
    Joined = 9,
    /// Bytes were moved into it, to be contiguous or private.
    Moved = 10,
    /// Consumed by a layer.
    Consumed = 11,
    /// Discarded, or dropped by a layer with a reason.
    Discarded = 12,
    /// Given back to the pool.
    Freed = 13,
    /// A mark of the application's own ([`crate::Chain::mark`]).
    MarkA = 14,
    /// Another mark of the application's own.
    MarkB = 15,
}

/// A mark of the application's own: see [`crate::Chain::mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Noted as [`Event::MarkA`].
    A,
    /// Noted as [`Event::MarkB`].
    B,
}

impl From<Mark> for Event {
    fn from(mark: Mark) -> Event {
        match mark {
            Mark::A => Event::MarkA,
            Mark::B => Event::MarkB,
        }
    }
}

impl Event {
    #[cfg(feature = "census")]
    const ALL: [Event; 15] = [
        Event::Allocated,
        Event::Input,
        Event::Up,
        Event::Down,
        Event::Queued,
        Event::Dequeued,
        Event::Shared,
        Event::Split,
        Event::Joined,
        Event::Moved,
        Event::Consumed,
        Event::Discarded,
        Event::Freed,
        Event::MarkA,
        Event::MarkB,
    ];
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Event::Allocated => "allocated",
            Event::Input => "input",
            Event::Up => "up",
            Event::Down => "down",
            Event::Queued => "queued",
            Event::Dequeued => "dequeued",
            Event::Shared => "shared",
            Event::Split => "split",
            Event::Joined => "joined",
            Event::Moved => "moved",
            Event::Consumed => "consumed",
            Event::Discarded => "discarded",
            Event::Freed => "freed",
            Event::MarkA => "mark-a",
            Event::MarkB => "mark-b",
        })
    }
}

/// What is recorded of each buffer, by class and place in it.
#[cfg(feature = "census")]
#[derive(Debug)]
pub(super) struct Records([Box<[record::Record]>; 5]);

#[cfg(feature = "census")]
impl Records {
    /// # Errors
    /// Where there is no memory for it.
    pub(super) fn new(counts: [usize; 5]) -> Result<Self, TryReserveError> {
        let records = |class: Class| {
            super::depot::table((0..counts[class.index()]).map(|_| record::Record::default()))
        };
        let [small, k2, k4, k16, k64] = Class::ALL;
        Ok(Self([records(small)?, records(k2)?, records(k4)?, records(k16)?, records(k64)?]))
    }

    #[inline]
    fn of(&self, layout: &Layout, class: Class, index: u32) -> &record::Record {
        let first = layout.indices(class, 0).start;
        &self.0[class.index()][(index - first) as usize]
    }
}

impl Inner {
    /// A buffer begins its life; the place is the line that asked for it.
    #[inline(always)]
    #[cfg_attr(feature = "census", track_caller)]
    pub(super) fn born(&self, class: Class, index: u32) {
        #[cfg(feature = "census")]
        self.records.of(&self.layout, class, index).begin(std::panic::Location::caller());
        let _ = (class, index);
    }

    /// Something happens to a buffer that the caller has.
    #[inline(always)]
    pub(crate) fn note(&self, class: Class, index: u32, event: Event) {
        #[cfg(feature = "census")]
        self.records.of(&self.layout, class, index).note(event);
        let _ = (class, index, event);
    }

    /// What is out now.
    #[cfg(feature = "census")]
    pub(super) fn census(&self) -> Census {
        let out = Class::ALL.into_iter().flat_map(|class| {
            let records = self.records.0[class.index()].iter();
            records
                .filter_map(move |record| record.read().map(|(place, word)| (class, place, word)))
        });
        Census::new(&self.name, out)
    }

    /// Says what is still out when the last handle goes; chains may outlive it.
    #[cfg(feature = "census")]
    pub(super) fn last_census(&self) {
        let census = self.census();
        if census.is_empty() {
            return;
        }
        tracing::warn!(
            pool = self.name,
            buffers = census.buffers(),
            "closed with buffers out: {census}"
        );
        if let Some(hook) = self.on_close {
            hook(&census);
        }
    }
}

/// One buffer's record.
#[cfg(feature = "census")]
mod record {
    use std::{
        panic::Location,
        ptr,
        sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed},
    };

    use super::Event;

    #[derive(Debug, Default)]
    pub(super) struct Record {
        /// The newest event in the lowest four bits. 0: it was never given out.
        events: AtomicU64,
        /// Invariant: null, or made from a `&'static Location`.
        place: AtomicPtr<Location<'static>>,
    }
    const _: () = assert!(size_of::<Record>() == 16);

    impl Record {
        #[inline(always)]
        pub(super) fn begin(&self, place: &'static Location<'static>) {
            self.place.store(ptr::from_ref(place).cast_mut(), Relaxed);
            self.events.store(Event::Allocated as u64, Relaxed);
        }

        #[inline(always)]
        pub(super) fn note(&self, event: Event) {
            let events = self.events.load(Relaxed);
            self.events.store(events << 4 | event as u64, Relaxed);
        }

        /// The place and the events of a buffer that is out.
        pub(super) fn read(&self) -> Option<(&'static Location<'static>, u64)> {
            let events = self.events.load(Relaxed);
            if events == 0 || events & 15 == Event::Freed as u64 {
                return None;
            }
            // SAFETY: null or a static (invariant of the field), which nobody ever writes.
            let place = unsafe { self.place.load(Relaxed).as_ref() }?;
            Some((place, events))
        }
    }
}
