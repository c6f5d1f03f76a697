//! A bucket of tokens: what may be told now, and how much was kept back meanwhile.
//!
//! Pure: time is an argument (any clock that does not go back).

use std::time::Duration;

/// How events are throttled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// Events a second; for the kernel's own throttle 0 turns it off.
    pub per_second: u32,
    /// Events that may come at once.
    pub burst: u32,
}

/// A throttle at work.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// Tokens a second.
    rate: f64,
    burst: f64,
    credit: f64,
    refilled: Option<Duration>,
    suppressed: u64,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(throttle: Throttle) -> Self {
        Self::with(f64::from(throttle.per_second), throttle.burst)
    }

    /// One for what deserves a line and no more: `burst` at once, then one a `pause`, which
    /// is not zero.
    pub(crate) fn slow(pause: Duration, burst: u32) -> Self {
        Self::with(1.0 / pause.as_secs_f64(), burst)
    }

    /// A full one of `burst` tokens, which gets `rate` a second.
    pub(crate) fn with(rate: f64, burst: u32) -> Self {
        Self {
            rate,
            burst: f64::from(burst),
            credit: f64::from(burst),
            refilled: None,
            suppressed: 0,
        }
    }

    /// The number kept back before this one; nothing if this one is kept back too.
    pub(crate) fn pass(&mut self, now: Duration) -> Option<u64> {
        if !self.take(now, 1) {
            self.suppressed += 1;
            return None;
        }
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Takes this many tokens, or none where there are fewer.
    pub(crate) fn take(&mut self, now: Duration, tokens: u32) -> bool {
        let since = self
            .refilled
            .map_or(Duration::ZERO, |refilled| now.saturating_sub(refilled));
        self.refilled = Some(now);
        self.credit = (self.credit + since.as_secs_f64() * self.rate).min(self.burst);
        let enough = self.credit >= f64::from(tokens);
        if enough {
            self.credit -= f64::from(tokens);
        }
        enough
    }

    /// Takes other limits. What was used up stays so.
    pub(crate) fn set_limits(&mut self, rate: f64, burst: u32) {
        let used = self.burst - self.credit;
        (self.rate, self.burst) = (rate, f64::from(burst));
        self.credit = (self.burst - used).max(0.0);
    }

    /// Counts one as kept back that had no chance to pass.
    pub(crate) fn keep_back(&mut self) {
        self.suppressed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_throttled_and_counted() {
        let mut bucket = Bucket::new(Throttle {
            per_second: 10,
            burst: 20,
        });
        let begun = Duration::from_secs(100);
        let told = (0..100).filter(|_| bucket.pass(begun).is_some()).count();
        assert_eq!(told, 20);
        assert_eq!(bucket.pass(begun + Duration::from_secs(1)), Some(80));
        assert_eq!(bucket.pass(begun + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn a_slow_one_fills_by_one_a_pause_and_never_over_its_burst() {
        let minute = Duration::from_secs(60);
        let mut bucket = Bucket::slow(minute, 2);
        let told = |bucket: &mut Bucket, now| (0..5).filter_map(|_| bucket.pass(now)).count();
        assert_eq!(told(&mut bucket, minute), 2);
        assert_eq!(told(&mut bucket, minute + minute / 2), 0);
        bucket.keep_back();
        assert_eq!(bucket.pass(minute * 2), Some(9), "3, 5 and one kept back");
        assert_eq!(bucket.pass(minute * 2), None);
        assert_eq!(told(&mut bucket, minute * 60), 2);
    }
}
