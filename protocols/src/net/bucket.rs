//! A bucket of tokens: so many at once, and one more each interval (RFC 4443, section 2.4 f).

use std::time::Duration;

use mbuf::stack::Time;

#[derive(Debug, Clone)]
pub(super) struct Bucket {
    burst: u32,
    every: Duration,
    tokens: u32,
    filled: Time,
}

impl Bucket {
    /// A full one.
    pub(super) const fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, tokens: burst, filled: Time::ZERO }
    }

    /// Takes a token, if there is one. O(1).
    pub(super) fn take(&mut self, now: Time) -> bool {
        let every = self.every.as_nanos().max(1);
        let since = now.since(self.filled).as_nanos();
        let fresh = u32::try_from(since / every).unwrap_or(u32::MAX);
        if fresh > 0 {
            self.tokens = self.burst.min(self.tokens.saturating_add(fresh));
            // What is left of the interval counts for the next token.
            self.filled = Time::from_nanos(now.as_nanos().saturating_sub((since % every) as u64));
        }
        let may = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_one_each_interval() {
        let mut bucket = Bucket::new(2, Duration::from_millis(10));
        let taken = |bucket: &mut Bucket, ms| bucket.take(Time::from_millis(ms));
        assert_eq!([0, 0, 0, 9].map(|ms| taken(&mut bucket, ms)), [true, true, false, false]);
        assert_eq!([15, 19, 20, 20].map(|ms| taken(&mut bucket, ms)), [true, false, true, false]);
        // A long silence gives no more than the burst.
        assert_eq!([9000, 9000, 9000].map(|ms| taken(&mut bucket, ms)), [true, true, false]);
        let mut none = Bucket::new(0, Duration::ZERO);
        assert!(!taken(&mut none, 5));
    }
}
