//! Metrics in the text format of OpenMetrics, which has exemplars: pure
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::fmt::{self, Display, Write};
use std::time::UNIX_EPOCH;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::exemplar::Exemplar;

/// As it stands in `Content-Type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What comes after everything else.
pub(super) const END: &str = "# EOF\n";

/// Does whoever sends these `Accept` headers want it, and not the older format rather?
pub fn is_wanted(accept: &str) -> bool {
    let weight = |wanted: &str| {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts.next()?.eq_ignore_ascii_case(wanted);
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f64>);
            is_it.then_some(weight.unwrap_or(0.0))
        });
        ranges.fold(0.0, f64::max)
    };
    let wanted = weight("application/openmetrics-text");
    wanted > 0.0 && wanted >= weight("text/plain")
}

/// These families, with the example that there is of a histogram's bucket, by the family's name and the bucket's place.
///
/// # Errors
/// There is no memory.
pub(super) fn render(
    families: &[MetricFamily],
    exemplar: impl Fn(&str, usize) -> Option<Exemplar>,
) -> Result<String, fmt::Error> {
    let mut out = String::new();
    for family in families {
        let name = family.name();
        // A counter is called as its samples without `_total`. One that has another name, as Envoy's have, is of no type
        // that there is: it must be called in both formats alike.
        let (title, kind) = match (family.get_field_type(), name.strip_suffix("_total")) {
            (MetricType::COUNTER, Some(title)) => (title, "counter"),
            (MetricType::COUNTER, None) => (name, "unknown"),
            (MetricType::HISTOGRAM, _) => (name, "histogram"),
            _ => (name, "gauge"),
        };
        writeln!(out, "# TYPE {title} {kind}")?;
        writeln!(out, "# HELP {title} {}", Escaped(family.help()))?;
        for metric in family.get_metric() {
            match family.get_field_type() {
                MetricType::COUNTER => line(&mut out, name, "", metric, metric.get_counter().get_value())?,
                MetricType::HISTOGRAM => histogram(&mut out, name, metric, &exemplar)?,
                _ => line(&mut out, name, "", metric, metric.get_gauge().get_value())?,
            }
        }
    }
    Ok(out)
}

fn line(out: &mut String, name: &str, suffix: &str, metric: &Metric, value: f64) -> fmt::Result {
    writeln!(out, "{name}{suffix}{} {value}", Labels(metric.get_label(), None))
}

fn histogram(
    out: &mut String,
    name: &str,
    metric: &Metric,
    exemplar: impl Fn(&str, usize) -> Option<Exemplar>,
) -> fmt::Result {
    let histogram = metric.get_histogram();
    let all = histogram.get_sample_count();
    let bounded =
        histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let last = (f64::INFINITY, all);
    for (place, (bound, count)) in bounded.filter(|(bound, _)| bound.is_finite()).chain([last]).enumerate() {
        write!(out, "{name}_bucket{} {count}", Labels(metric.get_label(), Some(bound)))?;
        if let Some(Exemplar { client_random, time, at }) = exemplar(name, place) {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let time = time.as_secs_f64();
            write!(
                out,
                " # {{client_random=\"{client_random:016x}\",trace_id=\"{client_random:032x}\"}} {time} {at:.3}"
            )?;
        }
        out.push('\n');
    }
    line(out, name, "_sum", metric, histogram.get_sample_sum())?;
    line(out, name, "_count", metric, all as f64)
}

/// Labels, and a bucket's bound.
struct Labels<'a>(&'a [LabelPair], Option<f64>);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = '{';
        for label in self.0 {
            write!(f, "{before}{}=\"{}\"", label.name(), Escaped(label.value()))?;
            before = ',';
        }
        match self.1 {
            Some(bound) if bound.is_infinite() => write!(f, "{before}le=\"+Inf\"}}"),
            Some(bound) => write!(f, "{before}le=\"{bound}\"}}"),
            None if before == ',' => f.write_char('}'),
            None => Ok(()),
        }
    }
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '"' => f.write_str("\\\""),
            other => f.write_char(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::family::{family, sample, times};
    use crate::metrics::per_thread::Times;

    #[test]
    fn counters_and_histograms_are_written_as_the_specification_has_them() {
        let counted = |name| {
            let metric = sample(MetricType::COUNTER, &[("to", "a\"b\\c\nd")], 3);
            family(name, "What \"it\" is", MetricType::COUNTER, vec![metric])
        };
        let seconds = Times::from(250_000);
        let began = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        seconds.observe(Duration::from_millis(500), Some((0xABC, began)));
        let exemplar = |name: &str, place| (name == "y_seconds").then(|| seconds.exemplar(place)).flatten();
        let histogram = family("y_seconds", "Y", MetricType::HISTOGRAM, vec![times(&seconds)]);
        let text = render(&[counted("x_total"), counted("envoy_fail"), histogram], exemplar).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..7],
            [
                "# TYPE x counter",
                "# HELP x What \\\"it\\\" is",
                "x_total{to=\"a\\\"b\\\\c\\nd\"} 3",
                "# TYPE envoy_fail unknown",
                "# HELP envoy_fail What \\\"it\\\" is",
                "envoy_fail{to=\"a\\\"b\\\\c\\nd\"} 3",
                "# TYPE y_seconds histogram",
            ]
        );
        assert!(lines.contains(&"y_seconds_bucket{le=\"0.256\"} 0"), "{text}");
        let example = "y_seconds_bucket{le=\"1.024\"} 1 # {client_random=\"0000000000000abc\",\
            trace_id=\"00000000000000000000000000000abc\"} 0.5 1700000000.500";
        assert!(lines.contains(&example), "{text}");
        assert!(
            text.ends_with("y_seconds_bucket{le=\"+Inf\"} 1\ny_seconds_sum 0.5\ny_seconds_count 1\n"),
            "{text}"
        );
    }

    #[test]
    fn it_is_for_those_who_ask_for_it() {
        for wants in [
            "application/openmetrics-text",
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "text/html, Application/OpenMetrics-Text; version=1.0.0",
        ] {
            assert!(is_wanted(wants), "{wants}");
        }
        for wants_not in [
            "",
            "*/*",
            "text/plain;version=0.0.4",
            "text/plain, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
        ] {
            assert!(!is_wanted(wants_not), "{wants_not}");
        }
    }
}
