//! The clockwork: the time of a stack, and its timers.
//!
//! Timers live in a heap whose entries know their places, so that a cancelled timer leaves at once
//! and a layer may arm and cancel one for each packet: the memory is that of the most timers ever
//! armed together, and nothing is allocated after that.

use std::{
    fmt,
    ops::{Add, AddAssign},
    time::Duration,
};

/// A point in time: nanoseconds since an epoch of the driver's choosing.
///
/// The stack never looks at a clock; whoever drives it says what time it is
/// ([`Stack::advance`](super::Stack::advance)). 64 bits last for 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The epoch.
    pub const ZERO: Time = Time(0);

    /// The latest time there is. A deadline that would lie beyond it is set to it.
    pub const MAX: Time = Time(u64::MAX);

    /// So many nanoseconds after the epoch.
    ///
    /// ```
    /// use mbuf::stack::Time;
    ///
    /// assert_eq!(Time::from_nanos(1_000_000), Time::from_millis(1));
    /// ```
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// So many milliseconds after the epoch (saturating).
    ///
    /// ```
    /// use mbuf::stack::Time;
    ///
    /// assert_eq!(Time::from_millis(1500).to_string(), "1.500000s");
    /// assert_eq!(Time::from_millis(u64::MAX), Time::MAX);
    /// ```
    pub const fn from_millis(millis: u64) -> Time {
        Time(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the epoch.
    ///
    /// ```
    /// use mbuf::stack::Time;
    ///
    /// assert_eq!(Time::from_millis(2).as_nanos(), 2_000_000);
    /// ```
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if `earlier` is the later one.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use mbuf::stack::Time;
    ///
    /// let (early, late) = (Time::from_millis(2), Time::from_millis(5));
    /// assert_eq!(late.since(early), Duration::from_millis(3));
    /// assert_eq!(early.since(late), Duration::ZERO);
    /// ```
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Saturates at [`Time::MAX`].
    fn add(self, after: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Time {
    /// Saturates at [`Time::MAX`].
    fn add_assign(&mut self, after: Duration) {
        *self = *self + after;
    }
}

impl fmt::Display for Time {
    /// Seconds, with six decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000)
    }
}

/// An armed timer: what [`Context::arm`](super::Context::arm) gives and
/// [`Protocol::timeout`](super::Protocol::timeout) is told.
///
/// It names one arming only: once that has fired or was cancelled, the name is worth nothing, even
/// if its place is taken by another timer since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timer {
    index: u32,
    generation: u32,
}

/// A timer that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) timer: Timer,
    pub(super) owner: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    deadline: Time,
    /// The order of arming, which decides between equal deadlines.
    order: u64,
    owner: u32,
    generation: u32,
    /// Place in the heap, or `FREE`.
    place: u32,
}

const FREE: u32 = u32::MAX;

/// Timers by deadline, then by order of arming; bounded.
///
/// Invariant: `entries[heap[i]].place == i` for each `i`; an entry that is not in the heap has
/// `place == FREE` and is in `free`.
#[derive(Debug)]
pub(super) struct Timers {
    entries: Vec<Entry>,
    heap: Vec<u32>,
    free: Vec<u32>,
    next_order: u64,
    limit: usize,
}

impl Timers {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(FREE as usize - 1);
        Self { entries: Vec::new(), heap: Vec::new(), free: Vec::new(), next_order: 0, limit }
    }

    /// O(log armed). `None` where `limit` timers are armed already.
    pub(super) fn arm(&mut self, deadline: Time, owner: u32) -> Option<Timer> {
        if self.heap.len() >= self.limit {
            return None;
        }
        let order = self.next_order;
        self.next_order += 1;
        let place = self.heap.len() as u32;
        let index = match self.free.pop() {
            Some(index) => {
                let entry = &mut self.entries[index as usize];
                entry.deadline = deadline;
                entry.order = order;
                entry.owner = owner;
                entry.place = place;
                index
            }
            None => {
                self.entries.push(Entry { deadline, order, owner, generation: 0, place });
                (self.entries.len() - 1) as u32
            }
        };
        self.heap.push(index);
        self.rise(place as usize);
        Some(Timer { index, generation: self.entries[index as usize].generation })
    }

    /// Whether it was armed, and by this owner. O(log armed).
    pub(super) fn cancel(&mut self, timer: Timer, owner: u32) -> bool {
        match self.entries.get(timer.index as usize) {
            Some(entry)
                if entry.generation == timer.generation
                    && entry.owner == owner
                    && entry.place != FREE =>
            {
                self.remove(entry.place as usize);
                true
            }
            _ => false,
        }
    }

    /// The earliest deadline. O(1).
    pub(super) fn next(&self) -> Option<Time> {
        self.heap.first().map(|&index| self.entries[index as usize].deadline)
    }

    /// Marks the present: timers armed from here on are not [`due`](Timers::due) before this mark.
    pub(super) fn mark(&self) -> u64 {
        self.next_order
    }

    /// Takes the first timer that is due at `now` and was armed before `mark`, so that a timer
    /// that arms itself again without delay cannot keep its driver for ever.
    ///
    /// A timer armed later whose deadline is equal or past stands behind the earlier ones of its
    /// deadline, but may stand before those of a later deadline: it then ends the round, and the
    /// next one goes on.
    pub(super) fn due(&mut self, now: Time, mark: u64) -> Option<Due> {
        let &index = self.heap.first()?;
        let entry = self.entries[index as usize];
        if entry.deadline > now || entry.order >= mark {
            return None;
        }
        self.remove(0);
        let timer = Timer { index, generation: entry.generation };
        Some(Due { timer, owner: entry.owner })
    }

    /// Timers that are armed.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    fn remove(&mut self, place: usize) {
        let index = self.heap.swap_remove(place);
        let entry = &mut self.entries[index as usize];
        entry.place = FREE;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(index);
        if place < self.heap.len() {
            self.entries[self.heap[place] as usize].place = place as u32;
            let place = self.rise(place);
            self.sink(place);
        }
    }

    fn before(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.entries[self.heap[a] as usize], &self.entries[self.heap[b] as usize]);
        (a.deadline, a.order) < (b.deadline, b.order)
    }

    fn exchange(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.entries[self.heap[a] as usize].place = a as u32;
        self.entries[self.heap[b] as usize].place = b as u32;
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.before(place, parent) {
                break;
            }
            self.exchange(place, parent);
            place = parent;
        }
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let left = 2 * place + 1;
            let mut least = place;
            for child in [left, left + 1] {
                if child < self.heap.len() && self.before(child, least) {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.exchange(place, least);
            place = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fire_all(timers: &mut Timers, now: u64) -> Vec<u32> {
        let mark = timers.mark();
        std::iter::from_fn(|| timers.due(Time(now), mark).map(|due| due.owner)).collect()
    }

    #[test]
    fn they_fire_by_deadline_and_then_in_the_order_of_arming() {
        let mut timers = Timers::new(16);
        for (deadline, owner) in [(5, 1), (3, 2), (5, 3), (1, 4), (3, 5), (9, 6)] {
            timers.arm(Time(deadline), owner).unwrap();
        }
        assert_eq!(timers.next(), Some(Time(1)));
        assert_eq!(fire_all(&mut timers, 5), [4, 2, 5, 1, 3]);
        assert_eq!(timers.next(), Some(Time(9)));
        assert_eq!(fire_all(&mut timers, 8), []);
    }

    #[test]
    fn a_cancelled_timer_never_fires_and_its_name_is_worth_nothing_afterwards() {
        let mut timers = Timers::new(16);
        let first = timers.arm(Time(1), 1).unwrap();
        assert!(!timers.cancel(first, 2), "not its owner");
        assert!(timers.cancel(first, 1));
        assert!(!timers.cancel(first, 1));
        let second = timers.arm(Time(1), 1).unwrap();
        assert_ne!(first, second);
        assert!(!timers.cancel(first, 1), "the place is the same, the arming is not");
        assert_eq!(fire_all(&mut timers, 1), [1]);
        assert!(!timers.cancel(second, 1), "it has fired");
    }

    #[test]
    fn their_number_is_bounded() {
        let mut timers = Timers::new(2);
        let first = timers.arm(Time(1), 1).unwrap();
        assert!(timers.arm(Time(1), 1).is_some());
        assert!(timers.arm(Time(1), 1).is_none());
        assert!(timers.cancel(first, 1));
        assert!(timers.arm(Time(1), 1).is_some());
    }

    #[test]
    fn arming_and_cancelling_for_each_packet_keeps_the_memory_as_it_is() {
        let mut timers = Timers::new(1024);
        timers.arm(Time(u64::MAX), 0).unwrap();
        for n in 0..10_000 {
            let timer = timers.arm(Time(n), 1).unwrap();
            assert!(timers.cancel(timer, 1));
        }
        assert_eq!((timers.entries.len(), timers.heap.len(), timers.free.len()), (2, 1, 1));
    }

    #[test]
    fn one_that_arms_itself_again_without_delay_waits_for_the_next_round() {
        let mut timers = Timers::new(4);
        timers.arm(Time(1), 7).unwrap();
        let mark = timers.mark();
        assert_eq!(timers.due(Time(1), mark).unwrap().owner, 7);
        timers.arm(Time(1), 7).unwrap();
        assert_eq!(timers.due(Time(1), mark), None);
        assert_eq!(timers.due(Time(1), timers.mark()).unwrap().owner, 7);
    }

    #[test]
    fn against_a_sorted_list_over_random_armings_and_cancellings() {
        let mut timers = Timers::new(64);
        let mut model: Vec<(u64, u64, Timer)> = Vec::new();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for order in 0..20_000 {
            match next() % 3 {
                0 | 1 if model.len() < 64 => {
                    let deadline = next() % 50;
                    let timer = timers.arm(Time(deadline), 0).unwrap();
                    model.push((deadline, order, timer));
                }
                2 if !model.is_empty() => {
                    let (.., timer) = model.swap_remove(next() as usize % model.len());
                    assert!(timers.cancel(timer, 0));
                }
                _ => {
                    model.sort_by_key(|&(deadline, order, _)| (deadline, order));
                    let now = next() % 50;
                    let mark = timers.mark();
                    while let Some(due) = timers.due(Time(now), mark) {
                        assert_eq!(due.timer, model.remove(0).2);
                    }
                    assert!(model.first().is_none_or(|first| first.0 > now));
                }
            }
            assert_eq!(timers.len(), model.len());
            for (place, &index) in timers.heap.iter().enumerate() {
                assert_eq!(timers.entries[index as usize].place as usize, place);
            }
        }
    }

    #[test]
    fn time_saturates() {
        assert_eq!(Time::MAX + Duration::from_secs(1), Time::MAX);
        assert_eq!(Time::ZERO + Duration::MAX, Time::MAX);
        assert_eq!(Time::ZERO.since(Time(5)), Duration::ZERO);
        assert_eq!(Time::from_millis(1500).to_string(), "1.500000s");
    }
}
