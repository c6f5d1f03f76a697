//! From counters to rates, and their recent past.

use std::collections::VecDeque;
use std::time::Duration;

use crate::control::status::AgentStatus;

/// Samples that a sparkline can show.
const KEPT: usize = 120;

/// The counters that rates are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    flows: u64,
    refused: u64,
    sent: u64,
}

/// The rates of one agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rates {
    last: Option<(Duration, Counters)>,
    /// Flows a second, the newest last.
    past: VecDeque<f64>,
    /// Flows a second, refused ones too.
    pub flows: f64,
    /// Refusals a second.
    pub refused: f64,
    /// Bytes let out a second.
    pub sent: f64,
}

impl Rates {
    /// Takes what the counters are at a time that only grows.
    pub fn sample(&mut self, at: Duration, agent: &AgentStatus) {
        let now = Counters {
            flows: agent.allowed_total().saturating_add(agent.blocked_total()),
            refused: agent.blocked_total(),
            sent: agent.sent_bytes,
        };
        let before = self.last.replace((at, now));
        let Some((then, before)) = before else {
            return;
        };
        let seconds = at.saturating_sub(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        // Counters that fell are those of new maps: nothing is known of the time between.
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        self.flows = rate(now.flows, before.flows);
        self.refused = rate(now.refused, before.refused);
        self.sent = rate(now.sent, before.sent);
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        self.past.push_back(self.flows);
    }

    /// What was before cannot be compared with what comes: the daemon was away.
    pub fn interrupted(&mut self) {
        self.last = None;
        (self.flows, self.refused, self.sent) = (0.0, 0.0, 0.0);
    }

    /// The recent past as `width` bars, the newest at the right end.
    pub fn bars(&self, width: usize) -> String {
        const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let shown = self.past.iter().skip(self.past.len().saturating_sub(width));
        let top = shown.clone().copied().fold(0.0_f64, f64::max);
        let bars = shown.map(|value| match *value {
            value if value <= 0.0 => '·',
            value => {
                let part = (value / top * LEVELS.len() as f64).ceil() as usize;
                LEVELS[part.clamp(1, LEVELS.len()) - 1]
            }
        });
        let bars: String = bars.collect();
        format!("{bars:>width$}")
    }
}

/// A rate as people read it.
pub(super) fn per_second(rate: f64) -> String {
    match rate {
        rate if rate <= 0.0 => "0".into(),
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate if rate < 9_999.5 => format!("{rate:.0}"),
        rate if rate < 999_950.0 => format!("{:.1}k", rate / 1e3),
        rate => format!("{:.1}M", rate / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(flows: u64, sent: u64) -> AgentStatus {
        AgentStatus {
            allowed: [("tcp".to_owned(), flows)].into(),
            sent_bytes: sent,
            ..AgentStatus::default()
        }
    }

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let mut rates = Rates::default();
        rates.sample(Duration::from_secs(1), &agent(1_000, 5));
        assert_eq!(rates.flows, 0.0, "one sample is no rate");
        rates.sample(Duration::from_secs(3), &agent(1_010, 1_005));
        assert_eq!((rates.flows, rates.sent), (5.0, 500.0));
        rates.sample(Duration::from_secs(3), &agent(2_000, 1_005));
        assert_eq!(rates.flows, 5.0, "no time between is no rate");
    }

    #[test]
    fn counters_that_begin_anew_are_no_rate() {
        let mut rates = Rates::default();
        rates.sample(Duration::from_secs(1), &agent(1_000, 0));
        rates.sample(Duration::from_secs(2), &agent(3, 0));
        assert_eq!(rates.flows, 0.0);
        rates.interrupted();
        rates.sample(Duration::from_secs(900), &agent(900_000, 0));
        assert_eq!(rates.flows, 0.0, "the daemon was away");
    }

    #[test]
    fn bars_scale_to_the_highest_that_is_shown() {
        let mut rates = Rates::default();
        let mut total = 0;
        for (n, flows) in [0, 0, 8, 4, 1].into_iter().enumerate() {
            total += flows;
            rates.sample(Duration::from_secs(n as u64), &agent(total, 0));
        }
        assert_eq!(rates.bars(6), "  ·█▄▁");
        assert_eq!(rates.bars(2), "█▂");
        assert_eq!(Rates::default().bars(3), "   ");
    }

    #[test]
    fn the_past_is_bounded() {
        let mut rates = Rates::default();
        for n in 0..10 * KEPT as u64 {
            rates.sample(Duration::from_secs(n), &agent(n, 0));
        }
        assert_eq!(rates.past.len(), KEPT);
    }

    #[test]
    fn rates_read_well() {
        for (rate, text) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (9.94, "9.9"),
            (9.96, "10"),
            (9_999.0, "9999"),
            (10_000.0, "10.0k"),
            (1_000_000.0, "1.0M"),
        ] {
            assert_eq!(per_second(rate), text);
        }
    }
}
