//! The hub's own numbers: sums and counts of its histograms before and after, so that a phase can be told apart.

use crate::error::{BenchError, Fallible};
use std::collections::BTreeMap;

/// One scrape: the value of every series, summed over its labels; of buckets by their bound.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scrape {
    series: BTreeMap<String, f64>,
    buckets: BTreeMap<String, Vec<(f64, f64)>>,
}

/// What a histogram saw between two scrapes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    /// Observations.
    pub(crate) count: f64,
    /// Their mean.
    pub(crate) mean: f64,
    /// The bound of the bucket below which 99 % lie.
    pub(crate) p99_below: f64,
}

/// Asks the internal listener.
pub(crate) async fn scrape(client: &reqwest::Client, address: &str) -> Fallible<Scrape> {
    let doing = || BenchError::because("reading the hub's metrics");
    let answer = client.get(format!("http://{address}/metrics")).send().await.map_err(doing())?;
    let text = answer.error_for_status().map_err(doing())?.text().await.map_err(doing())?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Scrape {
    let mut scrape = Scrape::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        // The value is the last word, but for an exemplar, which we do not write.
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        if let Some(histogram) = name.strip_suffix("_bucket") {
            let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            let bound = bound.and_then(|bound| bound.parse().ok()).unwrap_or(f64::INFINITY);
            scrape.bucket(histogram, bound, value);
        } else {
            *scrape.series.entry(name.to_owned()).or_default() += value;
        }
    }
    scrape
}

impl Scrape {
    fn bucket(&mut self, histogram: &str, bound: f64, value: f64) {
        let all = self.buckets.entry(histogram.to_owned()).or_default();
        match all.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += value,
            None => all.push((bound, value)),
        }
    }

    /// A gauge or counter, summed over its labels; zero when there is none.
    pub(crate) fn value(&self, name: &str) -> f64 {
        self.series.get(name).copied().unwrap_or(0.0)
    }

    /// What a histogram saw since an earlier scrape. The name may lack its prefix; `None` when there was nothing to see.
    pub(crate) fn since(&self, before: &Self, name: &str) -> Option<Spread> {
        let (full, after) = self.buckets.iter().find(|(known, _)| known.ends_with(name))?;
        let grown = |suffix: &str| {
            let key = format!("{full}{suffix}");
            self.series.get(&key).copied().unwrap_or(0.0) - before.series.get(&key).copied().unwrap_or(0.0)
        };
        let count = grown("_count");
        if count < 1.0 {
            return None;
        }
        let earlier = |bound: f64| {
            let all = before.buckets.get(full).into_iter().flatten();
            all.filter(|(known, _)| *known == bound).map(|(_, value)| *value).sum::<f64>()
        };
        let mut bounds = after.clone();
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let reached = bounds.iter().find(|(bound, value)| value - earlier(*bound) >= count * 0.99);
        Some(Spread {
            count,
            mean: grown("_sum") / count,
            p99_below: reached.map_or(f64::INFINITY, |(bound, _)| *bound),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_the_difference_of_two_scrapes() {
        let before = parse(
            "# HELP x\nd_batch_sum{m=\"a\"} 10.0\nd_batch_count{m=\"a\"} 2\nd_batch_bucket{le=\"1.0\",m=\"a\"} 2\nd_batch_bucket{le=\"+Inf\",m=\"a\"} 2\n# EOF",
        );
        let after = parse(
            "d_batch_sum{m=\"a\"} 310.0\nd_batch_count{m=\"a\"} 102\nd_batch_bucket{le=\"1.0\",m=\"a\"} 3\nd_batch_bucket{le=\"4.0\",m=\"a\"} 102\nd_batch_bucket{le=\"+Inf\",m=\"a\"} 102",
        );
        let spread = after.since(&before, "batch").unwrap();
        assert_eq!((spread.count, spread.mean, spread.p99_below), (100.0, 3.0, 4.0));
        assert!(before.since(&before, "batch").is_none() && after.since(&before, "other").is_none());
    }
}
