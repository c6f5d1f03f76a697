//! Which servers to trust with a question first.

use std::time::Duration;

/// Pause after a server's first failure; it doubles with each further one in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How a server has done lately. Time is an argument.
#[derive(Default, Debug)]
pub(super) struct Health {
    failures: u32,
    until: Duration,
    probing: bool,
}

impl Health {
    /// Whether its last request was answered.
    pub(super) fn is_well(&self) -> bool {
        self.failures == 0
    }

    /// When it may be tried again; orders those that are not well.
    pub(super) fn until(&self) -> Duration {
        self.until
    }

    /// It answered. `true` when it had not before.
    pub(super) fn answered(&mut self) -> bool {
        let news = !self.is_well();
        *self = Self::default();
        news
    }

    /// It did not answer. `true` when it had before.
    pub(super) fn failed(&mut self, now: Duration) -> bool {
        let news = self.is_well();
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.until = now + pause;
        self.probing = false;
        news
    }

    /// Whether a probe should be sent now; says so once for each pause.
    pub(super) fn take_probe(&mut self, now: Duration) -> bool {
        let due = !self.is_well() && !self.probing && now >= self.until;
        self.probing |= due;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn pauses_double_to_a_minute_and_end_with_an_answer() {
        let mut health = Health::default();
        assert!(health.is_well());
        assert!(!health.take_probe(secs(100)), "nothing to find out");
        let mut now = secs(100);
        for (n, pause) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            assert_eq!(health.failed(now), n == 0, "news only once");
            assert_eq!(health.until(), now + secs(pause));
            assert!(!health.take_probe(now + secs(pause) - Duration::from_millis(1)));
            now += secs(pause);
            assert!(health.take_probe(now));
            assert!(!health.take_probe(now), "one probe a pause");
        }
        assert!(health.answered());
        assert!(!health.answered());
        assert!(health.is_well());
        health.failed(now);
        assert_eq!(health.until(), now + secs(1), "from the start again");
    }
}
