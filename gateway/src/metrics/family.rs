//! Metrics that are made when they are scraped, in the library's own types.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::per_thread::Times;

/// A counter's or gauge's value under these labels.
pub fn sample(kind: MetricType, labels: &[(&str, &str)], value: u64) -> Metric {
    let mut metric = labelled(labels);
    match kind {
        MetricType::COUNTER => {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        }
        _ => {
            let mut gauge = Gauge::default();
            gauge.set_value(value as f64);
            metric.set_gauge(gauge);
        }
    }
    metric
}

/// A histogram without labels, in seconds.
pub(super) fn times(times: &Times) -> Metric {
    let (cumulated, count) = times.cumulated();
    let bounds = times.bounds().into_iter().map(|bound| bound as f64 / 1e9);
    histogram(&[], bounds.zip(cumulated), count, times.total().as_secs_f64())
}

/// A histogram under these labels, with its buckets' upper bounds and what is below each.
pub(super) fn histogram(
    labels: &[(&str, &str)],
    buckets: impl Iterator<Item = (f64, u64)>,
    count: u64,
    sum: f64,
) -> Metric {
    let bucket = |(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.map(bucket).collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum);
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let mut metric = Metric::default();
    let mut labels: Vec<_> = labels.iter().map(|(name, value)| label(name, value)).collect();
    labels.sort();
    metric.set_label(labels);
    metric
}

/// A family of them.
pub fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    pair
}
