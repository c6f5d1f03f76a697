//! The records of one rule and group that still count.

use std::collections::{HashMap, VecDeque};

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

/// And those of the times between records.
pub(super) const OF_INTERVALS: [&str; 2] = ["interval_mean", "interval_spread"];

/// What is kept of a record.
struct Sample {
    /// Seconds since the epoch, with a fraction.
    at: f64,
    value: Option<Value>,
}

/// The records that count. What can be kept up to date is: a flood that a rule looks at comes by
/// thousands a second.
#[derive(Default)]
pub(super) struct Window {
    samples: VecDeque<Sample>,
    /// Values, and how many records have each.
    distinct: HashMap<String, usize>,
    sum: f64,
}

impl Window {
    /// Of too few records.
    const NO_INTERVALS: (f64, f64) = (0.0, 1.0);

    /// Takes a record, and forgets what is too old by then. Records come in order, but for small
    /// differences between CPUs.
    pub(super) fn push(&mut self, at: f64, value: Option<Value>, within: u64) {
        if self.samples.len() >= MAX_SAMPLES {
            self.forget_first();
        }
        if let Some(value) = &value {
            self.sum += number(value);
            *self.distinct.entry(key(value)).or_default() += 1;
        }
        self.samples.push_back(Sample { at, value });
        let begin = at - within as f64;
        while self.samples.front().is_some_and(|first| first.at < begin) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some(value) = self.samples.pop_front().and_then(|first| first.value) else {
            return;
        };
        self.sum -= number(&value);
        let key = key(&value);
        if let Some(count) = self.distinct.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.distinct.remove(&key);
            }
        }
        // Fractions do not add up to the end.
        if self.distinct.is_empty() {
            self.sum = 0.0;
        }
    }

    /// When the last record came.
    pub(super) fn last(&self) -> f64 {
        self.samples.back().map_or(0.0, |sample| sample.at)
    }

    /// Forgets all: what was told of begins anew.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn count(&self) -> i64 {
        self.samples.len() as i64
    }

    /// Puts what `having` sees into the context; the intervals where it asks for them.
    pub(super) fn put(
        &self,
        context: &mut Context<'_, '_>,
        is_new: bool,
        known_for: u64,
        of_intervals: bool,
    ) {
        let (mean, spread) = match of_intervals {
            true => self.intervals(),
            false => Self::NO_INTERVALS,
        };
        let first = self.samples.front().map_or(0.0, |sample| sample.at);
        let value = self.samples.back().and_then(|sample| sample.value.clone());
        let all = [
            ("count", Value::Int(self.count())),
            ("distinct", Value::Int(self.distinct.len() as i64)),
            ("sum", Value::Float(self.sum)),
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
        let gaps = || {
            let next = self.samples.iter().skip(1);
            (self.samples.iter().zip(next)).map(|(one, next)| (next.at - one.at).max(0.0))
        };
        if self.samples.len() < 3 {
            return Self::NO_INTERVALS;
        }
        let n = (self.samples.len() - 1) as f64;
        let mean = gaps().sum::<f64>() / n;
        if mean <= 0.0 {
            return Self::NO_INTERVALS;
        }
        let variance = gaps().map(|gap| (gap - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt() / mean)
    }
}

/// What a value counts for in `sum`.
fn number(value: &Value) -> f64 {
    match value {
        Value::Int(n) => *n as f64,
        Value::UInt(n) => *n as f64,
        Value::Float(n) => *n,
        _ => 0.0,
    }
}

/// What makes a value distinct.
fn key(value: &Value) -> String {
    match value {
        Value::String(text) => (**text).clone(),
        other => format!("{other:?}"),
    }
}
