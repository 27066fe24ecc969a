//! Percentiles by sorting: the runs are short enough to keep every sample, so nothing is estimated.

/// Durations in microseconds.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples {
    sorted: Vec<i64>,
}

impl FromIterator<i64> for Samples {
    fn from_iter<I: IntoIterator<Item = i64>>(all: I) -> Self {
        let mut sorted: Vec<i64> = all.into_iter().collect();
        sorted.sort_unstable();
        Self { sorted }
    }
}

impl Samples {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The smallest value that at least this share of the samples does not exceed, in milliseconds; zero without samples.
    pub(crate) fn ms(&self, percentile: f64) -> f64 {
        // Without the allowance 99.9 % of 1000 would be above 999.
        let rank = (percentile * self.sorted.len() as f64 / 100.0 - 1e-6).ceil() as usize;
        let value = self.sorted.get(rank.saturating_sub(1)).or(self.sorted.last());
        value.map_or(0.0, |micros| *micros as f64 / 1000.0)
    }
}

/// The middle one; of an even number the mean of the two in the middle; zero of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Samples = (1..=200).rev().map(|n| n * 1000).collect();
        let at = [0.0, 50.0, 99.0, 99.5, 100.0].map(|p| samples.ms(p));
        assert_eq!(at, [1.0, 100.0, 198.0, 199.0, 200.0]);
        assert_eq!(Samples::default().ms(99.0), 0.0);
    }

    #[test]
    fn a_single_slow_one_shows_at_the_top_only() {
        let samples: Samples = std::iter::repeat_n(1000, 999).chain([500_000]).collect();
        assert_eq!((samples.ms(99.0), samples.ms(99.9), samples.ms(100.0)), (1.0, 1.0, 500.0));
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
