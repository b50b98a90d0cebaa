//! `/clusters`: every endpoint with its state and counters, in Envoy's line format or as JSON.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use eastgate_config::endpoint::Health;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Sight;
use crate::table::Table;
use crate::upstream::Cluster;
use crate::upstream::balance::warmth;
use crate::upstream::cluster::Limit;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::health::{Outcome, reasons};
use crate::upstream::state::{EndpointState, chosen, unresolved};

/// `?filter=TEXT&format=json`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    filter: String,
    format: Option<String>,
}

pub(super) async fn all(State(sight): State<Sight>, Query(wanted): Query<Wanted>) -> Response {
    let table = sight.table.load_full();
    // Hundreds of thousands of endpoints take their time, which the control thread does not have.
    let made = tokio::task::spawn_blocking(move || shown(&table, &wanted));
    made.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn shown(table: &Table, wanted: &Wanted) -> Response {
    let mut clusters: Vec<_> =
        table.clusters().filter(|cluster| cluster.config.name.contains(&wanted.filter)).collect();
    clusters.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    if wanted.format.as_deref() == Some("json") {
        let statuses: Vec<_> = clusters.iter().map(|cluster| status_json(cluster)).collect();
        let clusters: Vec<_> = clusters.into_iter().map(cluster_json).collect();
        return Json(json!({ "clusters": clusters, "cluster_statuses": statuses })).into_response();
    }
    let mut text = String::new();
    for cluster in clusters {
        lines(&mut text, cluster);
    }
    text.into_response()
}

fn cluster_json(cluster: &Arc<Cluster>) -> Value {
    let stats = &cluster.stats;
    let chosen = chosen(cluster);
    let endpoint = |one: &Arc<Endpoint>| endpoint_json(cluster, one, chosen.contains(&one.address));
    json!({
        "name": cluster.config.name,
        "taking": chosen.len(),
        "unresolved": unresolved(cluster),
        "policy": cluster.config.policy,
        "active": stats.active(),
        "connected": stats.connected.load(Relaxed),
        "refused": stats.refused.load(Relaxed),
        "timed_out": stats.timed_out.load(Relaxed),
        "no_endpoint": stats.no_endpoint.load(Relaxed),
        "overflow": stats.overflow(Limit::Connections).load(Relaxed),
        "pending_overflow": stats.overflow(Limit::Pending).load(Relaxed),
        "retry_overflow": stats.overflow(Limit::Retries).load(Relaxed),
        "endpoint_full": stats.endpoint_full.load(Relaxed),
        "hedged": stats.hedged.load(Relaxed),
        "hedge_won": stats.hedge_won.load(Relaxed),
        "connect_p99_ms": stats.connect_time.p99().as_secs_f64() * 1e3,
        "hellos": hellos(stats.hellos.counts()),
        "to_upstream_bytes": stats.to_upstream.load(Relaxed),
        "to_client_bytes": stats.to_client.load(Relaxed),
        "endpoints": cluster.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// ClientHellos by what became of them.
fn hellos(counts: [u64; Outcome::KINDS.len()]) -> Value {
    Outcome::KINDS
        .into_iter()
        .zip(counts)
        .map(|(kind, count)| (kind.to_owned(), Value::from(count)))
        .collect()
}

fn endpoint_json(cluster: &Cluster, endpoint: &Endpoint, chosen: bool) -> Value {
    let now = Instant::now();
    let state = EndpointState::new(endpoint, chosen);
    json!({
        "address": endpoint.address,
        "workload": endpoint.workload,
        "locality": endpoint.locality,
        "weight": endpoint.weight,
        "warmth": warmth(&cluster.config, endpoint, now),
        "latency_ms": endpoint.stats.latency(now),
        "health": endpoint.health,
        "out": state.out,
        "health_flags": state.health_flags,
        "takes_connections": state.takes_connections,
        "active": endpoint.stats.active(),
        "connecting": endpoint.stats.connecting(),
        "connected": endpoint.stats.connected(),
        "refused": endpoint.stats.refused(),
        "timed_out": endpoint.stats.timed_out(),
        "hellos": hellos(endpoint.stats.known_health().map(|health| health.hellos.counts()).unwrap_or_default()),
    })
}

/// `envoy.admin.v3.ClusterStatus`, which `istioctl proxy-config endpoints` reads.
fn status_json(cluster: &Cluster) -> Value {
    let host = |endpoint: &Arc<Endpoint>| {
        let health = match endpoint.health {
            Health::Healthy => "HEALTHY",
            Health::Degraded => "DEGRADED",
            Health::Draining => "DRAINING",
            Health::Unhealthy => "UNHEALTHY",
        };
        let locality = &endpoint.locality;
        let reasons = reasons(endpoint);
        let flagged = |flag| reasons.iter().any(|reason| reason.flag() == flag);
        json!({
            "address": {
                "socket_address": { "address": endpoint.address.ip(), "port_value": endpoint.address.port() },
            },
            "stats": [
                { "name": "cx_active", "type": "GAUGE", "value": endpoint.stats.active().to_string() },
                { "name": "cx_total", "type": "COUNTER", "value": endpoint.stats.connected().to_string() },
            ],
            "health_status": {
                "eds_health_status": health,
                "failed_outlier_check": flagged("/failed_outlier_check"),
                "failed_active_health_check": flagged("/failed_active_hc"),
            },
            "weight": endpoint.weight,
            "hostname": endpoint.workload,
            "locality": { "region": locality.region, "zone": locality.zone, "sub_zone": locality.subzone },
        })
    };
    json!({
        "name": cluster.config.name,
        "added_via_api": true,
        "observability_name": cluster.config.name,
        "host_statuses": cluster.endpoints.iter().map(host).collect::<Vec<_>>(),
    })
}

/// Envoy's names where it has them, so that what reads Envoy's `/clusters` reads this.
fn lines(text: &mut String, cluster: &Cluster) {
    let name = &cluster.config.name;
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{name}::{key}::{value}");
    };
    line("observability_name", name);
    let config = &cluster.config;
    line("default_priority::max_connections", &config.max_connections.unwrap_or(u32::MAX));
    line("default_priority::max_pending_requests", &config.max_pending_connections.unwrap_or(u32::MAX));
    line("default_priority::max_retries", &config.max_retries.unwrap_or(u32::MAX));
    let chosen = chosen(cluster);
    for endpoint in &cluster.endpoints {
        let stats = &endpoint.stats;
        let failed = stats.refused() + stats.timed_out();
        let state = EndpointState::new(endpoint, chosen.contains(&endpoint.address));
        let mut endpoint_line = |key: &str, value: &dyn std::fmt::Display| {
            line(&format!("{}::{key}", endpoint.address), value);
        };
        endpoint_line("cx_active", &stats.active());
        endpoint_line("cx_connect_fail", &failed);
        endpoint_line("cx_total", &stats.connected());
        endpoint_line("hostname", &endpoint.workload);
        endpoint_line("health_flags", &state.health_flags);
        for reason in &state.out {
            endpoint_line("out", reason);
        }
        endpoint_line("weight", &endpoint.weight);
        endpoint_line("region", &endpoint.locality.region);
        endpoint_line("zone", &endpoint.locality.zone);
        endpoint_line("sub_zone", &endpoint.locality.subzone);
    }
}
