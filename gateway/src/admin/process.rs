//! The process itself, in Envoy's words: what it is, what it holds, what it logs.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Sight, config_dump};
use crate::telemetry;

/// `envoy.admin.v3.ServerInfo`
pub(super) async fn server_info(State(sight): State<Sight>) -> Json<Value> {
    let uptime = format!("{}s", sight.began.elapsed().as_secs());
    let waiting = sight.readiness.waiting_for();
    let state = match waiting.as_slice() {
        [] => "LIVE",
        waiting if waiting.iter().any(|what| what.contains("drain")) => "DRAINING",
        _ if sight.table.load().version == 0 => "PRE_INITIALIZING",
        _ => "INITIALIZING",
    };
    Json(json!({
        "version": concat!("eastgate/", env!("CARGO_PKG_VERSION")),
        "state": state,
        "waiting_for": waiting,
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": HOT_RESTART,
        "command_line_options": {},
        "node": config_dump::node(&sight.node),
    }))
}

const HOT_RESTART: &str = "disabled";

pub(super) async fn hot_restart_version() -> &'static str {
    HOT_RESTART
}

/// `envoy.admin.v3.Memory`, whose figures are texts. What glibc's heap holds of the process's memory is not known apart.
pub(super) async fn memory() -> Json<Value> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
        (kib.unwrap_or_default() * 1024).to_string()
    };
    Json(json!({
        "allocated": bytes("RssAnon:"),
        "heap_size": bytes("VmData:"),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": bytes("VmRSS:"),
    }))
}

/// `envoy.admin.v3.Certificates`: what the process itself shows to peers. What passes through is nobody's business here.
pub(super) async fn certs(State(sight): State<Sight>) -> Json<Value> {
    let certificates: Vec<_> = sight
        .mesh
        .current()
        .map(|credentials| {
            let now = SystemTime::now();
            let left = credentials.until.duration_since(now).unwrap_or_default();
            let until = credentials.until.duration_since(UNIX_EPOCH).unwrap_or_default();
            json!({
                "cert_chain": [{
                    "subject_alt_names": [{ "uri": credentials.identity.to_string() }],
                    "expiration_time": super::xds::time(until),
                    "days_until_expiration": (left.as_secs() / 86_400).to_string(),
                }],
            })
        })
        .into_iter()
        .collect();
    Json(json!({ "certificates": certificates }))
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Level {
    level: Option<String>,
}

pub(super) async fn level() -> String {
    format!("{}\n", telemetry::level().unwrap_or_else(|| "the log is not the gateway's own".into()))
}

pub(super) async fn set_level(Query(wanted): Query<Level>) -> Response {
    let Some(level) = wanted.level else {
        return (StatusCode::BAD_REQUEST, "give ?level=error, warn, info, debug or a filter\n")
            .into_response();
    };
    match telemetry::set(&level) {
        Ok(()) => format!("{level}\n").into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}\n")).into_response(),
    }
}

/// Asked from outside to be not ready, so that load balancers look elsewhere; nothing else changes.
pub(super) async fn fail(State(sight): State<Sight>) -> &'static str {
    let mut failed = sight.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.get_or_insert_with(|| sight.readiness.wait_for("an operator (POST /healthcheck/ok)"));
    "OK\n"
}

pub(super) async fn ok(State(sight): State<Sight>) -> &'static str {
    sight.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    "OK\n"
}

pub(super) async fn drain_listeners(State(sight): State<Sight>) -> &'static str {
    sight.orders.stop_accepting.send_replace(true);
    "OK\n"
}

pub(super) async fn quit(State(sight): State<Sight>) -> &'static str {
    sight.orders.quit.notify_one();
    "OK\n"
}
