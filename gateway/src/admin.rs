//! The admin port: metrics, state and readiness over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{Router, get, post};
use eastgate_config::names::Name;
use eastgate_config::server_name::Pattern;
use eastgate_config::xds::Node;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use crate::control_plane::Handle;
use crate::metrics::{Metrics, server_names};
use crate::open::Registry;
use crate::readiness::Readiness;
use crate::table::Table;
use crate::tls::Mesh;

mod cluster_metrics;
mod clusters;
mod config_dump;
mod connections;
mod explain;
mod failures;
mod page;
pub mod port;
mod process;
mod routes;
mod sockets;
mod stats;
mod top;
mod xds;

pub use cluster_metrics::ClusterMetrics;
pub use explain::REFUSED;
pub use process::Orders;

/// Data threads have this long to tell what they have counted.
const PATIENCE: Duration = Duration::from_millis(500);

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
    /// The process's own end of the mesh's TLS.
    pub mesh: Arc<Mesh>,
    /// A way to ask about open connections.
    pub open: Registry,
    /// What operators may have the process do.
    pub orders: Orders,
    /// Whether another process may take over from this one.
    pub restarts: bool,
    /// When the process began.
    pub began: Instant,
}

impl Sight {
    /// Has the data threads tell what they have counted by server name. One that is busy is not waited for: what it tells
    /// is there for whoever asks next.
    async fn count_names(&self) {
        let sender = self.metrics.server_names.sender();
        // There is a receiver as long as there are metrics.
        let asked = self.open.ask(move || drop(sender.send(server_names::lately())));
        let _ = tokio::time::timeout(PATIENCE, asked).await;
    }
}

/// Everything, for operators.
pub fn operators(sight: Sight) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route("/status", get(page::page))
        .route("/help", get(async || routes::index()))
        .route("/openapi.json", get(routes::openapi))
        .route("/ready", get(ready))
        .route("/healthz/ready", get(ready))
        .route("/server_info", get(process::server_info))
        .route("/memory", get(process::memory))
        .route("/certs", get(process::certs))
        .route("/hot_restart_version", get(process::hot_restart_version))
        .route("/logging", get(process::level).post(process::set_level))
        .route("/reopen_logs", post(process::reopen_logs))
        .route("/healthcheck/fail", post(process::fail))
        .route("/healthcheck/ok", post(process::ok))
        .route("/drain_listeners", post(process::drain_listeners))
        .route("/quitquitquit", post(process::quit))
        .route("/stats", get(stats::all))
        .route("/stats/prometheus", get(stats::prometheus))
        .route("/clusters", get(clusters::all))
        .route("/listeners", get(listeners))
        .route("/config_dump", get(config_dump::all))
        .route("/explain", get(explain::explain))
        .route("/audit", get(audit))
        .route("/connections", get(connections::all))
        .route("/connections/kill", post(connections::kill))
        .route("/top", get(top::top))
        .route("/failures", get(failures::latest))
        .route("/names", get(names))
        .route("/rejections", get(rejections))
        .route("/xds", get(xds::status))
        .route("/xds/log", get(xds::log))
        .route("/xds/diff", get(xds::diff))
        .route("/xds/release", post(xds::release))
        .fallback(routes::unknown)
        .method_not_allowed_fallback(routes::wrong_method)
        .with_state(sight)
}

/// Readiness alone, for Kubernetes' probes, which come from outside the pod.
pub fn probes(sight: Sight) -> Router {
    Router::new().route("/healthz/ready", get(ready)).with_state(sight)
}

/// Metrics alone, for a scraper from outside of the pod.
pub fn scrapes(sight: Sight) -> Router {
    Router::new()
        .route("/stats/prometheus", get(stats::prometheus))
        .route("/metrics", get(stats::prometheus))
        .with_state(sight)
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

async fn listeners(State(sight): State<Sight>, Query(format): Query<Format>) -> Response {
    let bound = sight.bound.borrow().clone();
    if format.is_json() {
        // `envoy.admin.v3.Listeners`
        let one = |(name, address): (&String, &SocketAddr)| {
            let at = json!({ "address": address.ip(), "port_value": address.port() });
            json!({ "name": name, "local_address": { "socket_address": at } })
        };
        let statuses: Vec<_> = bound.iter().map(one).collect();
        return Json(json!({ "listener_statuses": statuses })).into_response();
    }
    bound.iter().map(|(name, address)| format!("{name}::{address}\n")).collect::<String>().into_response()
}

async fn audit(State(sight): State<Sight>, Query(format): Query<Format>) -> Response {
    let table = sight.table.load_full();
    // Ten thousand names are not for the control thread.
    let found = tokio::task::spawn_blocking(move || eastgate_config::audit::audit(&table.snapshot)).await;
    let Ok(found) = found else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the table could not be read\n").into_response();
    };
    if format.is_json() {
        return Json(json!({ "exposures": found })).into_response();
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
