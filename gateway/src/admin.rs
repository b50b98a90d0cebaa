//! The admin port: metrics, state and readiness over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{Router, get, post};
use eastgate_config::names::Name;
use eastgate_config::server_name::Pattern;
use eastgate_config::xds::Node;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use crate::control_plane::Handle;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::table::Table;

mod cluster_metrics;
mod clusters;
mod config_dump;
mod explain;
mod xds;

pub use cluster_metrics::ClusterMetrics;
pub use explain::REFUSED;

/// What the handlers read.
#[derive(Debug, Clone)]
pub struct Sight {
    /// The table in use.
    pub table: Arc<ArcSwap<Table>>,
    /// The process's metrics.
    pub metrics: Metrics,
    /// Whether it is ready.
    pub readiness: Readiness,
    /// Where the listeners are bound.
    pub bound: watch::Receiver<BTreeMap<String, SocketAddr>>,
    /// The source that is fed by a control plane, if that is the source.
    pub xds: Option<Handle>,
    /// Who we say we are to control planes.
    pub node: Arc<Node>,
}

const INDEX: &str = "\
/ready              200 when the gateway takes connections, else 503 and what it waits for (?verbose)
/stats/prometheus   metrics
/clusters           every endpoint with its state and counters (?format=json)
/listeners          where the listeners are bound (?format=json)
/config_dump        what is configured, in Envoy's shape (?include_eds, resource, mask, name_regex, include_snapshot)
/explain            where a connection goes and why (?sni=NAME, alpn, source, port, format=json)
/audit              every name that is reachable from outside, and what makes it so (?format=json)
/names              what DNS answers, host by host (?format=json)
/rejections         what was refused and why, and notices
/xds                where the conversation with the control plane stands (?format=json)
/xds/log            its last pushes, and what each changed (?format=json)
/xds/diff           what changed between two pushes (?from=VERSION&to=VERSION, ?format=json)
/xds/release        POST: lets go of what the guard keeps back
";

/// Everything, for operators.
pub fn operators(sight: Sight) -> Router {
    Router::new()
        .route("/", get(async || INDEX))
        .route("/help", get(async || INDEX))
        .route("/ready", get(ready))
        .route("/healthz/ready", get(ready))
        .route("/stats/prometheus", get(stats))
        .route("/clusters", get(clusters::all))
        .route("/listeners", get(listeners))
        .route("/config_dump", get(config_dump::all))
        .route("/explain", get(explain::explain))
        .route("/audit", get(audit))
        .route("/names", get(names))
        .route("/rejections", get(rejections))
        .route("/xds", get(xds::status))
        .route("/xds/log", get(xds::log))
        .route("/xds/diff", get(xds::diff))
        .route("/xds/release", post(xds::release))
        .with_state(sight)
}

/// Readiness alone, for Kubernetes' probes, which come from outside the pod.
pub fn probes(sight: Sight) -> Router {
    Router::new().route("/healthz/ready", get(ready)).with_state(sight)
}

/// Metrics alone, for a scraper from outside of the pod.
pub fn scrapes(sight: Sight) -> Router {
    Router::new().route("/stats/prometheus", get(stats)).route("/metrics", get(stats)).with_state(sight)
}

/// `?format=json`
#[derive(Debug, Default, Deserialize)]
struct Format {
    format: Option<String>,
}

impl Format {
    fn is_json(&self) -> bool {
        self.format.as_deref() == Some("json")
    }
}

/// `?verbose`
#[derive(Debug, Default, Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

async fn ready(State(sight): State<Sight>, Query(query): Query<Verbose>) -> Response {
    match sight.readiness.waiting_for().as_slice() {
        [] if query.verbose.is_some() => {
            let remarks = sight.readiness.remarks(SystemTime::now());
            let lines = remarks.iter().map(|(what, age)| format!("{what} ({} s old)\n", age.as_secs()));
            (StatusCode::OK, format!("LIVE\n{}", lines.collect::<String>())).into_response()
        }
        [] => (StatusCode::OK, "LIVE\n").into_response(),
        waiting => {
            let text = format!("not ready; waiting for {}\n", waiting.join(", "));
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn stats(State(sight): State<Sight>) -> Response {
    match sight.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn listeners(State(sight): State<Sight>, Query(format): Query<Format>) -> Response {
    let bound = sight.bound.borrow().clone();
    if format.is_json() {
        return Json(json!(bound)).into_response();
    }
    bound.iter().map(|(name, address)| format!("{name}::{address}\n")).collect::<String>().into_response()
}

async fn audit(State(sight): State<Sight>, Query(format): Query<Format>) -> Response {
    let found = eastgate_config::audit::audit(&sight.table.load_full().snapshot);
    if format.is_json() {
        return Json(json!(found)).into_response();
    }
    found.iter().map(|exposure| format!("{exposure}\n")).collect::<String>().into_response()
}

async fn names(State(sight): State<Sight>, Query(format): Query<Format>) -> Response {
    let table = sight.table.load_full();
    let Some(names) = &table.snapshot.names else {
        let text = "the source has told of no names\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    if format.is_json() {
        return Json(json!(names)).into_response();
    }
    let line = |(host, name): (&Pattern, &Name)| {
        let addresses: String = name.addresses.iter().map(|address| format!(" {address}")).collect();
        format!("{host}{addresses}{}\n", if name.automatic { " (automatic)" } else { "" })
    };
    names.iter().map(line).collect::<String>().into_response()
}

async fn rejections(State(sight): State<Sight>) -> Response {
    let table = sight.table.load_full();
    let snapshot = &table.snapshot;
    Json(json!({ "rejections": snapshot.rejections, "notices": snapshot.notices })).into_response()
}
