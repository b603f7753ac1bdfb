//! Time that moves when it is told to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::stack::Time;

/// A virtual clock. A clone shows the same time: whoever drives a test moves it, links and
/// others read it.
///
/// ```
/// use std::time::Duration;
/// use mbuf::{stack::Time, testing::Clock};
///
/// let clock = Clock::new();
/// let other = clock.clone();
/// clock.advance(Duration::from_millis(5));
/// assert_eq!(other.now(), Time::from_nanos(5_000_000));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    /// A clock that shows [`Time::ZERO`]. Allocates once.
    ///
    /// ```
    /// use mbuf::{stack::Time, testing::Clock};
    ///
    /// assert_eq!(Clock::new().now(), Time::ZERO);
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The time it shows.
    ///
    /// ```
    /// use mbuf::{stack::Time, testing::Clock};
    ///
    /// let clock = Clock::new();
    /// clock.set(Time::from_millis(7));
    /// assert_eq!(clock.now(), Time::from_millis(7));
    /// ```
    pub fn now(&self) -> Time {
        Time::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Moves the clock forward and answers the new time; stops at the end of time (584 years).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use mbuf::{stack::Time, testing::Clock};
    ///
    /// assert_eq!(Clock::new().advance(Duration::from_millis(5)), Time::from_millis(5));
    /// ```
    pub fn advance(&self, by: Duration) -> Time {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let now = self.0.load(Ordering::Relaxed).saturating_add(by);
        self.set(Time::from_nanos(now));
        self.now()
    }

    /// Moves the clock forward to `time`; a time that is past leaves it as it is, for time does
    /// not run backwards.
    ///
    /// ```
    /// use mbuf::{stack::Time, testing::Clock};
    ///
    /// let clock = Clock::new();
    /// clock.set(Time::from_millis(7));
    /// clock.set(Time::from_millis(3)); // past
    /// assert_eq!(clock.now(), Time::from_millis(7));
    /// ```
    pub fn set(&self, time: Time) {
        self.0.fetch_max(time.as_nanos(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards_or_over() {
        let clock = Clock::new();
        clock.set(Time::from_nanos(100));
        clock.set(Time::from_nanos(50));
        assert_eq!(clock.now(), Time::from_nanos(100));
        assert_eq!(clock.advance(Duration::MAX), Time::from_nanos(u64::MAX));
        assert_eq!(clock.advance(Duration::from_nanos(1)), Time::from_nanos(u64::MAX));
    }
}
