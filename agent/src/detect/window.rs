//! The records of one rule and group that still count.

use std::collections::{HashSet, VecDeque};

use cel::{Context, Value};

/// Records of one group that are kept; a count is exact up to here, and stays here beyond.
pub(super) const MAX_SAMPLES: usize = 4096;

pub(super) const NEW: &str = "is_new";
pub(super) const KNOWN_FOR: &str = "known_for";

/// Variables of `having`, beside those of the record.
pub(super) const NAMES: [&str; 9] = [
    "count",
    "distinct",
    "sum",
    "span",
    "interval_mean",
    "interval_spread",
    "value",
    NEW,
    KNOWN_FOR,
];
/// Those of them that are of values.
pub(super) const OF_VALUES: [&str; 4] = ["distinct", "sum", "value", NEW];

/// What is kept of a record.
struct Sample {
    /// Seconds since the epoch, with a fraction.
    at: f64,
    value: Option<Value>,
}

/// The records that count.
#[derive(Default)]
pub(super) struct Window {
    samples: VecDeque<Sample>,
}

impl Window {
    /// Takes a record, and forgets what is too old by then. Records come in order, but for small
    /// differences between CPUs.
    pub(super) fn push(&mut self, at: f64, value: Option<Value>, within: u64) {
        if self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at, value });
        let begin = at - within as f64;
        while self.samples.front().is_some_and(|first| first.at < begin) {
            self.samples.pop_front();
        }
    }

    /// When the last record came.
    pub(super) fn last(&self) -> f64 {
        self.samples.back().map_or(0.0, |sample| sample.at)
    }

    /// Forgets all: what was told of begins anew.
    pub(super) fn clear(&mut self) {
        self.samples.clear();
    }

    pub(super) fn count(&self) -> i64 {
        self.samples.len() as i64
    }

    /// Puts what `having` sees into the context.
    pub(super) fn put(&self, context: &mut Context<'_, '_>, is_new: bool, known_for: u64) {
        let values = || {
            self.samples
                .iter()
                .filter_map(|sample| sample.value.as_ref())
        };
        let distinct: HashSet<String> = values().map(|value| format!("{value:?}")).collect();
        let sum: f64 = values()
            .map(|value| match value {
                Value::Int(n) => *n as f64,
                Value::UInt(n) => *n as f64,
                Value::Float(n) => *n,
                _ => 0.0,
            })
            .sum();
        let (mean, spread) = self.intervals();
        let first = self.samples.front().map_or(0.0, |sample| sample.at);
        let value = self.samples.back().and_then(|sample| sample.value.clone());
        let all = [
            ("count", Value::Int(self.count())),
            ("distinct", Value::Int(distinct.len() as i64)),
            ("sum", Value::Float(sum)),
            ("span", Value::Float(self.last() - first)),
            ("interval_mean", Value::Float(mean)),
            ("interval_spread", Value::Float(spread)),
            ("value", value.unwrap_or(Value::Null)),
            (NEW, Value::Bool(is_new)),
            (
                KNOWN_FOR,
                Value::Int(i64::try_from(known_for).unwrap_or(i64::MAX)),
            ),
        ];
        for (name, value) in all {
            context.add_variable_from_value(name, value);
        }
    }

    /// Mean of the times between records in seconds, and their coefficient of variation: near 0
    /// for a clock, about 1 for what comes at random. Of fewer than three records nothing is
    /// said: 0 and 1.
    fn intervals(&self) -> (f64, f64) {
        let times: Vec<f64> = self.samples.iter().map(|sample| sample.at).collect();
        let gaps: Vec<f64> = times
            .windows(2)
            .map(|two| (two[1] - two[0]).max(0.0))
            .collect();
        if gaps.len() < 2 {
            return (0.0, 1.0);
        }
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        if mean <= 0.0 {
            return (0.0, 1.0);
        }
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt() / mean)
    }
}
