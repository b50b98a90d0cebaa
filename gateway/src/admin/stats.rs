//! `/stats`: metrics one a line, as JSON, or for Prometheus.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use prometheus::proto::{Metric, MetricFamily, MetricType};
use regex::Regex;
use serde::Deserialize;
use serde_json::json;

use super::Sight;
use crate::metrics::exposition;

/// The longest pattern; its compiled form is bounded by the library.
const MAX_PATTERN: usize = 1024;

/// `?format=json&filter=REGEX&usedonly`
#[derive(Debug, Default, Deserialize)]
pub(super) struct Selection {
    format: Option<String>,
    filter: Option<String>,
    usedonly: Option<String>,
}

/// In the format that the scraper asks for, Prometheus' own or OpenMetrics, which has exemplars.
pub(super) async fn prometheus(State(sight): State<Sight>, headers: HeaderMap) -> Response {
    sight.count_names().await;
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = exposition::Format::accepted(&accepts.collect::<Vec<_>>().join(","));
    let pieces = Body::from_stream(tokio_stream::iter(sight.metrics.render(format)));
    ([(header::CONTENT_TYPE, format.content_type())], pieces).into_response()
}

pub(super) async fn all(
    State(sight): State<Sight>,
    Query(selection): Query<Selection>,
    headers: HeaderMap,
) -> Response {
    let format = selection.format.as_deref().unwrap_or("text");
    let filter = match selection.filter.as_deref().map(pattern).transpose() {
        Ok(filter) => filter,
        Err(error) => return (StatusCode::BAD_REQUEST, error).into_response(),
    };
    sight.count_names().await;
    let keep = |(name, value): &(String, f64)| {
        filter.as_ref().is_none_or(|filter| filter.is_match(name))
            && (selection.usedonly.is_none() || *value != 0.0)
    };
    let stats = || sight.metrics.gather().flat_map(|family| samples(&family)).filter(keep);
    match format {
        "prometheus" => prometheus(State(sight), headers).await,
        "json" => {
            let stats: Vec<_> =
                stats().map(|(name, value)| json!({ "name": name, "value": value })).collect();
            Json(json!({ "stats": stats })).into_response()
        }
        "text" => {
            let dotted = sight.metrics.gather().flat_map(|family| dotted(&family));
            let dotted =
                dotted.filter(|(name, _)| filter.as_ref().is_none_or(|filter| filter.is_match(name)));
            let all = dotted.chain(stats());
            all.map(|(name, value)| format!("{name}: {value}\n")).collect::<String>().into_response()
        }
        _ => (StatusCode::BAD_REQUEST, "format is text, json or prometheus\n").into_response(),
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    if text.len() > MAX_PATTERN {
        return Err(format!("filter is longer than {MAX_PATTERN} bytes\n"));
    }
    Regex::new(text).map_err(|error| format!("filter is no regular expression: {error}\n"))
}

/// Names with their labels, and values; of a histogram how many and their sum.
fn samples(family: &MetricFamily) -> Vec<(String, f64)> {
    let one = |metric: &Metric| {
        let name = |suffix: &str| named(family.name(), suffix, metric);
        match family.get_field_type() {
            MetricType::COUNTER => vec![(name(""), metric.get_counter().get_value())],
            MetricType::GAUGE => vec![(name(""), metric.get_gauge().get_value())],
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                let count = histogram.get_sample_count() as f64;
                vec![(name("_count"), count), (name("_sum"), histogram.get_sample_sum())]
            }
            _ => Vec::new(),
        }
    };
    family.get_metric().iter().flat_map(one).collect()
}

/// What Istio's agent asks an Envoy for (`pilot-agent/status/util/stats.go`), in Envoy's own names: a state of 0 is used, too.
const DOTTED: [(&str, &str); 6] = [
    ("envoy_server_state", "server.state"),
    ("envoy_listener_manager_workers_started", "listener_manager.workers_started"),
    ("envoy_cluster_manager_cds_update_success", "cluster_manager.cds.update_success"),
    ("envoy_cluster_manager_cds_update_rejected", "cluster_manager.cds.update_rejected"),
    ("envoy_listener_manager_lds_update_success", "listener_manager.lds.update_success"),
    ("envoy_listener_manager_lds_update_rejected", "listener_manager.lds.update_rejected"),
];

fn dotted(family: &MetricFamily) -> Vec<(String, f64)> {
    let name = DOTTED.iter().find(|(name, _)| *name == family.name());
    let value = |metric: &Metric| match family.get_field_type() {
        MetricType::COUNTER => metric.get_counter().get_value(),
        _ => metric.get_gauge().get_value(),
    };
    let metrics = name
        .into_iter()
        .flat_map(|(_, dotted)| family.get_metric().iter().map(move |metric| (dotted, metric)));
    metrics.map(|(dotted, metric)| ((*dotted).to_owned(), value(metric))).collect()
}

fn named(name: &str, suffix: &str, metric: &Metric) -> String {
    let labels: Vec<_> =
        metric.get_label().iter().map(|label| format!("{}={:?}", label.name(), label.value())).collect();
    match labels.as_slice() {
        [] => format!("{name}{suffix}"),
        labels => format!("{name}{suffix}{{{}}}", labels.join(",")),
    }
}
