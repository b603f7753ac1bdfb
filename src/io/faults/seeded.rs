//! Faults that are chosen at random, by a seed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Attempt, CALLS, Call, Fault};

/// Faults at random, of the kinds and as often as one says, and only such as the kernel may really
/// give a call ([`Call::can_be_short`], [`Call::errors`]).
///
/// What the n-th call of a kind meets depends on the seed, the kind and n alone, whichever thread
/// makes it: with one thread, a run can be repeated; with several, the same share of calls fails.
///
/// ```
/// use mbuf::io::faults::{Call, Seeded, inject_everywhere};
///
/// let faults = Seeded::new(1).short(100).errno(libc::EINTR, 50).errno(libc::EIO, 5);
/// let faults = faults.spare(Call::Unlink); // so that nothing is left behind
/// assert_eq!(format!("{faults:?}"), format!("{:?}", faults.clone()));
/// let guard = inject_everywhere(move |attempt| faults.decide(attempt));
/// // ... whatever is to stand it ...
/// drop(guard);
/// ```
#[derive(Debug)]
pub struct Seeded {
    seed: u64,
    /// Of a thousand calls.
    short: u64,
    errors: Vec<(i32, u64)>,
    spared: Vec<Call>,
    /// How many calls of each kind there were.
    calls: [AtomicU64; CALLS],
}

impl Seeded {
    /// No faults yet.
    pub fn new(seed: u64) -> Self {
        let (errors, spared) = (Vec::new(), Vec::new());
        Self { seed, short: 0, errors, spared, calls: [const { AtomicU64::new(0) }; CALLS] }
    }

    /// Of 1,000 calls that can be cut short, so many are, to any length from 1 to what was asked.
    pub fn short(mut self, per_thousand: u32) -> Self {
        self.short = per_thousand.into();
        self
    }

    /// Of 1,000 calls that can fail with this error number (errno(3)), so many do.
    pub fn errno(mut self, number: i32, per_thousand: u32) -> Self {
        self.errors.push((number, per_thousand.into()));
        self
    }

    /// Leaves a kind of call alone.
    pub fn spare(mut self, call: Call) -> Self {
        self.spared.push(call);
        self
    }

    /// What shall happen to the call.
    ///
    /// ```
    /// use mbuf::io::faults::{self, Seeded};
    ///
    /// let faults = Seeded::new(7).short(1000);
    /// let guard = faults::inject(move |attempt| faults.decide(attempt));
    /// # drop(guard);
    /// ```
    pub fn decide(&self, attempt: &Attempt) -> Fault {
        let call = attempt.call;
        let n = self.calls[call as usize].fetch_add(1, Ordering::Relaxed);
        if self.spared.contains(&call) {
            return Fault::None;
        }
        let random = mix(mix(self.seed ^ mix(call as u64)).wrapping_add(n));
        let mut left = random % 1000;
        if call.can_be_short() {
            if left < self.short {
                let most = if attempt.messages > 0 { attempt.messages } else { attempt.bytes };
                return Fault::Short(1 + (random >> 16) as usize % most.max(1));
            }
            left -= self.short;
        }
        for &(number, share) in self.errors.iter().filter(|(no, _)| call.errors().contains(no)) {
            if left < share {
                return Fault::Errno(number);
            }
            left -= share;
        }
        Fault::None
    }
}

impl Clone for Seeded {
    /// As far as the original has come.
    fn clone(&self) -> Self {
        let calls = self.calls.each_ref().map(|n| AtomicU64::new(n.load(Ordering::Relaxed)));
        let (errors, spared) = (self.errors.clone(), self.spared.clone());
        Self { seed: self.seed, short: self.short, errors, spared, calls }
    }
}

/// Faults at random that nobody outside notices, the same for the same seed: of 16 calls about 4 are
/// cut short, 2 are interrupted (EINTR) and 2 find the socket not ready (EAGAIN), as far as the
/// kernel may do that to them; the rest are left alone.
pub fn seeded(seed: u64) -> impl FnMut(&Attempt) -> Fault + 'static {
    let faults = Seeded::new(seed).short(250).errno(libc::EINTR, 125).errno(libc::EAGAIN, 125);
    move |attempt| faults.decide(attempt)
}

/// The finish of SplitMix64 (Steele, Lea and Flood), good enough to choose faults.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPT: Attempt =
        Attempt { call: Call::Writev, fd: 0, bytes: 100, messages: 0, segmented: false };

    #[test]
    fn the_same_seed_gives_the_same_faults_of_every_kind() {
        let run = |seed| {
            let mut decide = seeded(seed);
            (0..400).map(|_| decide(&ATTEMPT)).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let faults = run(7);
        assert!(faults.contains(&Fault::None));
        assert!(faults.contains(&Fault::Errno(libc::EINTR)));
        assert!(faults.contains(&Fault::Errno(libc::EAGAIN)));
        assert!(faults.iter().any(|fault| matches!(fault, Fault::Short(1..=100))));
    }

    #[test]
    fn each_call_meets_only_what_the_kernel_may_do_to_it_and_about_as_often_as_was_said() {
        let numbers = [libc::EINTR, libc::EAGAIN, libc::ECONNRESET, libc::EIO, libc::ENOSPC];
        for call in Call::ALL {
            let mut faults = Seeded::new(3).short(100);
            for number in numbers {
                faults = faults.errno(number, 50);
            }
            let (mut short, mut failed) = (0, [0; 5]);
            for _ in 0..10_000 {
                match faults.decide(&Attempt { call, ..ATTEMPT }) {
                    Fault::None => {}
                    Fault::Short(n) => {
                        assert!((1..=100).contains(&n));
                        short += 1;
                    }
                    Fault::Errno(errno) => {
                        let at = numbers.iter().position(|&number| number == errno).unwrap();
                        failed[at] += 1;
                    }
                }
            }
            let about = |count, expected| (expected * 8 / 10..=expected * 12 / 10).contains(&count);
            assert!(if call.can_be_short() { about(short, 1_000) } else { short == 0 }, "{call:?}");
            for (number, count) in numbers.iter().zip(failed) {
                let may = call.errors().contains(number);
                assert!(if may { about(count, 500) } else { count == 0 }, "{call:?} {number}");
            }
        }
    }

    #[test]
    fn what_is_spared_is_left_alone() {
        let faults = Seeded::new(3).short(1000).spare(Call::Writev);
        assert_eq!(faults.decide(&ATTEMPT), Fault::None);
        let other = Attempt { call: Call::Readv, ..ATTEMPT };
        assert!(matches!(faults.decide(&other), Fault::Short(_)));
    }
}
