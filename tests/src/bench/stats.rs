//! The few statistics that say something true about a busy machine: medians, minima and
//! ratios of values that were measured next to each other.

/// What was measured, one value a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    /// Adds a round's value.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle value; NaN if there is none.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The smallest: what the machine can do when nobody else wants it.
    pub(crate) fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The value below which this part (0 to 1) of all lies, between neighbours in
    /// proportion.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted: Vec<f64> = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let at = part.clamp(0.0, 1.0) * last as f64;
        let (low, high) = (at.floor() as usize, at.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
    }

    /// Round by round, this in units of `base`: drift of the machine cancels out.
    pub(crate) fn over(&self, base: &Self) -> Self {
        Self(self.0.iter().zip(&base.0).map(|(a, b)| a / b).collect())
    }

    /// Round by round, this less `base`.
    pub(crate) fn less(&self, base: &Self) -> Self {
        Self(self.0.iter().zip(&base.0).map(|(a, b)| a - b).collect())
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        values.iter().copied().collect()
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(series(&[9.0, 1.0, 5.0]).median(), 5.0);
        assert_eq!(series(&[4.0, 1.0, 3.0, 2.0]).median(), 2.5);
        assert_eq!(series(&[7.0]).median(), 7.0);
        assert!(series(&[]).median().is_nan());
    }

    #[test]
    fn one_disturbed_round_moves_neither_median_nor_minimum() {
        let calm = series(&[10.0, 11.0, 10.0, 12.0, 11.0]);
        let noisy = series(&[10.0, 11.0, 10.0, 900.0, 11.0]);
        assert_eq!(calm.median(), noisy.median());
        assert_eq!(calm.min(), noisy.min());
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let s = series(&[40.0, 10.0, 30.0, 20.0, 50.0]);
        assert_eq!(s.quantile(0.0), 10.0);
        assert_eq!(s.quantile(0.25), 20.0);
        assert_eq!(s.quantile(0.9), 46.0);
        assert_eq!(s.quantile(1.0), 50.0);
    }

    #[test]
    fn a_ratio_cancels_the_drift_of_the_machine() {
        // Twice as slow from round to round, and always one tenth over the base.
        let base = series(&[1.0, 2.0, 4.0]);
        let with = series(&[1.1, 2.2, 4.4]);
        assert!((with.over(&base).median() - 1.1).abs() < 1e-9);
        assert!((with.less(&base).median() - 0.2).abs() < 1e-9);
    }
}
