//! The process itself, in Envoy's words: what it is, what it holds, what it logs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::{Sight, config_dump};
use crate::access_log::Reopener;
use crate::drain::Phase;
use crate::readiness::{Readiness, Wait};
use crate::restart::frame;
use crate::telemetry;

/// What operators may have the process do. Clones speak of the same process.
#[derive(Debug, Clone)]
pub struct Orders {
    phase: watch::Sender<Phase>,
    /// How long clients have to hear that the gateway is not ready any more.
    grace: Duration,
    /// Told when the process is to leave.
    pub quit: Arc<Notify>,
    access_log: Reopener,
    waits: Arc<Mutex<Waits>>,
}

/// Why the process is not ready, as far as operators want it so.
#[derive(Debug, Default)]
struct Waits {
    failed: Option<Wait>,
    drained: Option<Wait>,
}

impl Orders {
    /// For a process that is in this phase, drains with this grace, and has this access log.
    pub fn new(phase: watch::Sender<Phase>, grace: Duration, access_log: Reopener) -> Self {
        Self { phase, grace, quit: Arc::default(), access_log, waits: Arc::default() }
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the process accept nobody any more, after its grace or at once. That is not taken back.
    fn drain(&self, readiness: &Readiness, gracefully: bool) {
        self.waits()
            .drained
            .get_or_insert_with(|| readiness.wait_for("the end of a drain (POST /drain_listeners)"));
        let (phase, grace) = (self.phase.clone(), if gracefully { self.grace } else { Duration::ZERO });
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            phase.send_if_modified(|phase| match phase {
                Phase::Accepting => {
                    *phase = Phase::Leaving;
                    true
                }
                // It is past that, and another process may have its sockets.
                _ => false,
            });
        });
    }
}

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
        "control_plane": sight.xds.is_some(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": restart_version(&sight),
        "command_line_options": {},
        "node": config_dump::node(&sight.node),
    }))
}

/// The version of what two processes say to each other, where another one may take over from this one.
fn restart_version(sight: &Sight) -> String {
    if sight.restarts { frame::VERSION.to_string() } else { "disabled".into() }
}

pub(super) async fn hot_restart_version(State(sight): State<Sight>) -> String {
    format!("{}\n", restart_version(&sight))
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

/// `?level=LEVEL&paths=MODULE:LEVEL,...`
#[derive(Debug, Default, Deserialize)]
pub(super) struct Level {
    level: Option<String>,
    paths: Option<String>,
}

pub(super) async fn level() -> String {
    format!("{}\n", telemetry::level().unwrap_or_else(|| "the log is not the gateway's own".into()))
}

/// Sets what is asked for, and says what holds then; as in Envoy, also where nothing is asked for.
pub(super) async fn set_level(Query(Level { level: all, paths }): Query<Level>) -> Response {
    let set = all.map_or(Ok(()), |all| telemetry::set(&all));
    match set.and_then(|()| paths.map_or(Ok(()), |paths| telemetry::set_modules(&paths))) {
        Ok(()) => level().await.into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}\n")).into_response(),
    }
}

/// Has the access log's file opened anew, as SIGHUP does.
pub(super) async fn reopen_logs(State(sight): State<Sight>) -> &'static str {
    sight.orders.access_log.reopen();
    "OK\n"
}

/// Asked from outside to be not ready, so that load balancers look elsewhere; nothing else changes.
pub(super) async fn fail(State(sight): State<Sight>) -> &'static str {
    let wait = || sight.readiness.wait_for("an operator (POST /healthcheck/ok)");
    sight.orders.waits().failed.get_or_insert_with(wait);
    "OK\n"
}

pub(super) async fn ok(State(sight): State<Sight>) -> &'static str {
    sight.orders.waits().failed.take();
    "OK\n"
}

/// `?graceful&inboundonly&skip_exit`, as istio's agent and Envoy's users write it. There are no other listeners than
/// inbound ones, and the process goes on in any case.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Drained {
    graceful: Option<String>,
}

pub(super) async fn drain_listeners(State(sight): State<Sight>, Query(how): Query<Drained>) -> &'static str {
    sight.orders.drain(&sight.readiness, how.graceful.is_some());
    "OK\n"
}

pub(super) async fn quit(State(sight): State<Sight>) -> &'static str {
    sight.orders.quit.notify_one();
    "OK\n"
}
