//! What the process uses, and whether that stays flat.

use std::{fs, time::Duration};

use anyhow::Context;

/// What the process uses at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub at: Duration,
    /// Resident memory, in bytes.
    pub resident: u64,
    pub descriptors: usize,
    pub threads: usize,
}

impl Sample {
    pub fn take(at: Duration) -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Ok(Self {
            at,
            resident: field("VmRSS:").context("VmRSS")? * 1024,
            // Less the one that lists them.
            descriptors: fs::read_dir("/proc/self/fd")?.count() - 1,
            threads: field("Threads:").context("Threads")? as usize,
        })
    }
}

/// CPU time of the process so far, that of all its threads.
pub fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` may be written and outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How a run's samples compare: the tenth after the warm-up, the last tenth, and the line between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    pub resident: (f64, f64),
    pub descriptors: (f64, f64),
    pub threads: (f64, f64),
    /// Of the resident memory after the warm-up, in bytes an hour.
    pub slope: f64,
}

impl Trend {
    /// The first tenth of the samples is the warm-up. `None` if there are too few.
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let tenth = samples.len() / 10;
        if tenth == 0 {
            return None;
        }
        let (early, late) = (&samples[tenth..2 * tenth], &samples[samples.len() - tenth..]);
        let mean = |samples: &[Sample], of: fn(&Sample) -> f64| {
            samples.iter().map(of).sum::<f64>() / samples.len() as f64
        };
        let both = |of| (mean(early, of), mean(late, of));
        let resident: fn(&Sample) -> f64 = |sample| sample.resident as f64;
        let hours: fn(&Sample) -> f64 = |sample| sample.at.as_secs_f64() / 3600.0;
        let steady = &samples[tenth..];
        let (x, y) = (mean(steady, hours), mean(steady, resident));
        let (mut along, mut square) = (0.0, 0.0);
        for sample in steady {
            let dx = hours(sample) - x;
            along += dx * (resident(sample) - y);
            square += dx * dx;
        }
        Some(Self {
            resident: both(resident),
            descriptors: both(|sample| sample.descriptors as f64),
            threads: both(|sample| sample.threads as f64),
            slope: if square > 0.0 { along / square } else { 0.0 },
        })
    }

    /// What has grown.
    pub fn growth(&self) -> Vec<String> {
        let grown = [
            ("resident memory", self.resident, 1.1, f64::from(4 << 20)),
            // Connections come and go: on the average there are some more or some fewer.
            ("descriptors", self.descriptors, 1.25, 10.0),
            ("threads", self.threads, 1.25, 5.0),
        ];
        let grown =
            grown.into_iter().filter(|&(_, (early, late), by, over)| late > early * by + over);
        grown
            .map(|(what, (early, late), ..)| format!("GROWTH: {what} from {early:.0} to {late:.0}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(resident: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |second| Sample {
            at: Duration::from_secs(second),
            resident: resident(second),
            descriptors: 30,
            threads: 12,
        };
        (0..3600).map(sample).collect()
    }

    #[test]
    fn what_grows_after_the_warm_up_is_found_and_what_does_not_is_not() {
        let flat = Trend::of(&samples(|at| if at < 300 { at << 18 } else { 80 << 20 })).unwrap();
        assert!(flat.growth().is_empty() && flat.slope.abs() < 1.0, "{flat:?}");
        let grows = Trend::of(&samples(|at| (40 << 20) + at * 8192)).unwrap();
        assert_eq!(grows.growth().len(), 1);
        assert!((grows.slope - 8192.0 * 3600.0).abs() < 100.0, "{}", grows.slope);
        assert_eq!(Trend::of(&samples(|_| 0)[..9]), None);
    }

    #[test]
    fn a_sample_sees_what_is_opened() {
        let before = Sample::take(Duration::ZERO).unwrap();
        assert!(before.resident > 0 && before.threads > 0 && before.descriptors > 0);
        assert!(cpu() > Duration::ZERO);
    }
}
