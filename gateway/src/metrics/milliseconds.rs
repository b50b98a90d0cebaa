//! Histograms of times as Envoy has them: whole milliseconds, in Envoy's own buckets
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/metrics/v3/stats.proto#config-metrics-v3-histogrambucketsettings>).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::proto::Metric;

use super::family::histogram;

/// The upper bounds, in milliseconds.
const BOUNDS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6,
    3.6e6,
];
/// How many counts a histogram has: of each bucket, of the one without a bound, and the sum.
pub(super) const COUNTS: usize = BOUNDS.len() + 2;
const SUM: usize = COUNTS - 1;

/// The counts of a histogram.
pub type Counted = [u64; COUNTS];

/// What a time adds: one to this count, and so much to the sum, which is this count.
pub(super) fn counts(time: Duration) -> [(usize, u64); 2] {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let bucket = BOUNDS.iter().position(|bound| millis as f64 <= *bound).unwrap_or(BOUNDS.len());
    [(bucket, 1), (SUM, millis)]
}

/// A histogram that all threads share.
#[derive(Debug, Default)]
pub struct Milliseconds([AtomicU64; COUNTS]);

impl Milliseconds {
    /// Counts one.
    pub fn observe(&self, time: Duration) {
        for (which, count) in counts(time) {
            self.0[which].fetch_add(count, Relaxed);
        }
    }

    /// What was counted.
    pub fn counted(&self) -> Counted {
        self.0.each_ref().map(|count| count.load(Relaxed))
    }
}

/// These counts under these labels.
pub fn metric(labels: &[(&str, &str)], counted: &Counted) -> Metric {
    let cumulated = counted.iter().scan(0, |all, count| {
        *all += count;
        Some(*all)
    });
    let all = counted.iter().take(SUM).sum();
    histogram(labels, BOUNDS.into_iter().zip(cumulated), all, counted[SUM] as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_milliseconds_in_envoys_buckets() {
        let times = Milliseconds::default();
        for micros in [0, 999, 1_000, 1_999, 5_999, 6_000, u64::MAX / 2] {
            times.observe(Duration::from_micros(micros));
        }
        let metric = metric(&[("of", "x")], &times.counted());
        let buckets = metric.get_histogram().get_bucket().iter();
        let below: Vec<_> =
            buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).take(4).collect();
        assert_eq!(below, [(0.5, 2), (1.0, 4), (5.0, 5), (10.0, 6)]);
        assert_eq!(metric.get_histogram().get_sample_count(), 7);
        assert_eq!(metric.get_histogram().get_sample_sum(), (u64::MAX / 2 / 1_000 + 13) as f64);
    }
}
