//! Metrics as text, in Prometheus' own format or in that of OpenMetrics, which has exemplars: pure
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>, <https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::fmt::{self, Display, Write};
use std::time::UNIX_EPOCH;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::exemplar::Exemplar;

/// So many metrics are in one piece of text at most.
const PIECE: usize = 512;

/// What the text looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own.
    Text,
    /// Its successor.
    OpenMetrics,
}

impl Format {
    /// The one that whoever sends these `Accept` headers wants.
    pub fn accepted(accept: &str) -> Self {
        let weight = |wanted: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let is_it = parts.next()?.eq_ignore_ascii_case(wanted);
                let weight =
                    parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f64>);
                is_it.then_some(weight.unwrap_or(0.0))
            });
            ranges.fold(0.0, f64::max)
        };
        let newer = weight("application/openmetrics-text");
        if newer > 0.0 && newer >= weight("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    /// As it stands in `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What comes after everything else.
    pub(super) fn end(self) -> Option<&'static str> {
        (self == Self::OpenMetrics).then_some("# EOF\n")
    }
}

/// A family in pieces that are made as they are asked for, with the example that there is of a histogram's bucket, by the
/// family's name and the bucket's place. There is no error but want of memory.
pub(super) fn pieces(
    family: MetricFamily,
    format: Format,
    exemplar: impl Fn(&str, usize) -> Option<Exemplar>,
) -> impl Iterator<Item = Result<String, fmt::Error>> {
    (0..family.get_metric().len().div_ceil(PIECE)).map(move |number| {
        let mut out = String::new();
        if number == 0 {
            title(&mut out, &family, format)?;
        }
        for metric in family.get_metric().iter().skip(number * PIECE).take(PIECE) {
            let name = family.name();
            match family.get_field_type() {
                MetricType::COUNTER => line(&mut out, name, "", metric, metric.get_counter().get_value())?,
                MetricType::HISTOGRAM if format == Format::Text => {
                    histogram(&mut out, name, metric, |_, _| None)?
                }
                MetricType::HISTOGRAM => histogram(&mut out, name, metric, &exemplar)?,
                _ => line(&mut out, name, "", metric, metric.get_gauge().get_value())?,
            }
        }
        Ok(out)
    })
}

fn title(out: &mut String, family: &MetricFamily, format: Format) -> fmt::Result {
    let (name, kind) = match (family.get_field_type(), format) {
        (MetricType::COUNTER, Format::Text) => (family.name(), "counter"),
        // There a counter is called as its samples without `_total`. One that has another name, as Envoy's have, is of no
        // type that there is: it must be called in both formats alike.
        (MetricType::COUNTER, Format::OpenMetrics) => match family.name().strip_suffix("_total") {
            Some(name) => (name, "counter"),
            None => (family.name(), "unknown"),
        },
        (MetricType::HISTOGRAM, _) => (family.name(), "histogram"),
        _ => (family.name(), "gauge"),
    };
    writeln!(out, "# HELP {name} {}", Escaped(family.help(), format == Format::OpenMetrics))?;
    writeln!(out, "# TYPE {name} {kind}")
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
            write!(f, "{before}{}=\"{}\"", label.name(), Escaped(label.value(), true))?;
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

/// Text, and whether quotation marks are escaped, too.
struct Escaped<'a>(&'a str, bool);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As most are; there may be a name for each of ten thousand clusters.
        if !self.0.bytes().any(|byte| matches!(byte, b'\\' | b'\n' | b'"')) {
            return f.write_str(self.0);
        }
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '"' if self.1 => f.write_str("\\\""),
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

    fn families() -> (Vec<MetricFamily>, Times) {
        let counted = |name| {
            let metric = sample(MetricType::COUNTER, &[("to", "a\"b\\c\nd")], 3);
            family(name, "What \"it\" is\\", MetricType::COUNTER, vec![metric])
        };
        let seconds = Times::from(250_000);
        let began = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        seconds.observe(Duration::from_millis(500), Some((0xABC, began)));
        let histogram = family("y_seconds", "Y", MetricType::HISTOGRAM, vec![times(&seconds)]);
        let gauges = (0..2_000).map(|value| sample(MetricType::GAUGE, &[("a", "1"), ("b", "2")], value));
        let gauge = family("z_total", "Z", MetricType::GAUGE, gauges.collect());
        (vec![counted("x_total"), counted("envoy_fail"), histogram, gauge], seconds)
    }

    fn text(format: Format) -> String {
        let (families, seconds) = families();
        let exemplar = |name: &str, place| (name == "y_seconds").then(|| seconds.exemplar(place)).flatten();
        let pieces = families.into_iter().flat_map(|family| pieces(family, format, exemplar));
        pieces.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn the_older_format_is_as_prometheus_own_library_writes_it() {
        let theirs = prometheus::TextEncoder::new().encode_to_string(&families().0).unwrap();
        assert_eq!(text(Format::Text), theirs);
    }

    #[test]
    fn counters_and_exemplars_are_written_as_open_metrics_has_them() {
        let text = text(Format::OpenMetrics);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..7],
            [
                "# HELP x What \\\"it\\\" is\\\\",
                "# TYPE x counter",
                "x_total{to=\"a\\\"b\\\\c\\nd\"} 3",
                "# HELP envoy_fail What \\\"it\\\" is\\\\",
                "# TYPE envoy_fail unknown",
                "envoy_fail{to=\"a\\\"b\\\\c\\nd\"} 3",
                "# HELP y_seconds Y",
            ]
        );
        assert!(lines.contains(&"y_seconds_bucket{le=\"0.256\"} 0"), "{text}");
        let example = "y_seconds_bucket{le=\"1.024\"} 1 # {client_random=\"0000000000000abc\",\
            trace_id=\"00000000000000000000000000000abc\"} 0.5 1700000000.500";
        assert!(lines.contains(&example), "{text}");
        assert!(
            text.contains("y_seconds_bucket{le=\"+Inf\"} 1\ny_seconds_sum 0.5\ny_seconds_count 1\n"),
            "{text}"
        );
    }

    #[test]
    fn each_is_for_those_who_ask_for_it() {
        for newer in [
            "application/openmetrics-text",
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "text/html, Application/OpenMetrics-Text; version=1.0.0",
        ] {
            assert_eq!(Format::accepted(newer), Format::OpenMetrics, "{newer}");
        }
        for older in [
            "",
            "*/*",
            "text/plain;version=0.0.4",
            "text/plain, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
        ] {
            assert_eq!(Format::accepted(older), Format::Text, "{older}");
        }
    }
}
