//! `/xds`: where the conversation with the control plane stands, and what it has said lately.

mod changes;
mod text;

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use eastgate_config::xds::journal::Push;
use eastgate_config::xds::{Alarm, TypeStatus};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Format, Sight};
use crate::control_plane::View;

const NO_XDS: &str = "the configuration does not come over xDS here\n";

pub(super) async fn status(State(sight): State<Sight>, Query(format): Query<Format>) -> Response {
    with_view(&sight, |view| match format.is_json() {
        true => Json(status_json(view)).into_response(),
        false => text::status(view).into_response(),
    })
    .await
}

pub(super) async fn log(State(sight): State<Sight>, Query(format): Query<Format>) -> Response {
    with_view(&sight, |view| match format.is_json() {
        true => Json(json!({ "journal": journal_json(view) })).into_response(),
        false => text::log(view).into_response(),
    })
    .await
}

/// `?from=A&to=B`: pushes, by their version or as `#NUMBER`.
#[derive(Debug, Deserialize)]
pub(super) struct Span {
    from: String,
    to: String,
}

pub(super) async fn diff(
    State(sight): State<Sight>,
    Query(span): Query<Span>,
    Query(format): Query<Format>,
) -> Response {
    with_view(&sight, |view| match changes::between(&view.journal, &span.from, &span.to) {
        Err(error) => (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
        Ok(changes) if format.is_json() => Json(json!({ "changes": changes })).into_response(),
        Ok(changes) => text::changes(&changes).into_response(),
    })
    .await
}

pub(super) async fn release(State(sight): State<Sight>) -> Response {
    let Some(handle) = &sight.xds else { return (StatusCode::NOT_FOUND, NO_XDS).into_response() };
    match handle.release().await {
        Some(true) => "what the guard kept back is let go\n".into_response(),
        Some(false) => "the guard keeps nothing back\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the xDS source has ended\n").into_response(),
    }
}

async fn with_view(sight: &Sight, answer: impl FnOnce(&View) -> Response) -> Response {
    let Some(handle) = &sight.xds else { return (StatusCode::NOT_FOUND, NO_XDS).into_response() };
    match handle.view().await {
        Some(view) => answer(&view),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the xDS source has ended\n").into_response(),
    }
}

/// A time since the Unix epoch as RFC 3339, to the millisecond.
pub(super) fn time(since_epoch: Duration) -> String {
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map(|time| time.to_string()).unwrap_or_default()
}

fn status_json(view: &View) -> Value {
    let moment = |moment: Option<Duration>| moment.map(|moment| time(view.began + moment));
    let age = |moment: Option<Duration>| moment.map(|moment| view.now.saturating_sub(moment).as_secs_f64());
    let one = |status: &TypeStatus| {
        json!({
            "type_url": status.type_url,
            "version": status.version,
            "nonce": status.nonce,
            "resources": status.resources,
            "rejected": status.rejected,
            "last_update": moment(status.last_update),
            "last_update_age_seconds": age(status.last_update),
            "last_rejection": moment(status.last_rejection),
            "last_rejection_reasons": last_rejection(view, &status.type_url),
        })
    };
    json!({
        "node": view.node,
        "variant": view.variant,
        "control_plane": {
            "address": view.link.address,
            "since": view.link.since.map(time),
            "answered": view.link.answered,
            "ended": view.link.ended,
            "last_end": view.link.last_end,
            "last_response": view.link.last_response.map(time),
        },
        "settled": view.settled,
        "saved_state": view.saved_state,
        "keeping_back": view.keeping_back,
        "types": view.types.iter().map(one).collect::<Vec<_>>(),
        "warming": view.warming,
        "missing": view.missing,
        "journal": journal_json(view),
    })
}

/// What was wrong with the last push of a type that had something wrong.
fn last_rejection(view: &View, type_url: &str) -> Vec<String> {
    let refused = |push: &&Push| push.type_url == type_url && !push.rejections.is_empty();
    let push = view.journal.iter().rev().find(refused);
    push.map(|push| push.rejections.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

/// Moments on the source's own clock mean nothing outside of the process, so that they become times.
fn journal_json(view: &View) -> Vec<Value> {
    let push = |push: &Push| {
        let mut value = json!(push);
        value["at"] = json!(time(view.began + push.at));
        for (alarm, index) in push.alarms.iter().zip(0..) {
            value["alarms"][index as usize]["kept_until"] =
                json!(kept_until(alarm).map(|at| time(view.began + at)));
        }
        value
    };
    view.journal.iter().map(push).collect()
}

fn kept_until(alarm: &Alarm) -> Option<Duration> {
    match alarm {
        Alarm::ClustersRemoved { kept_until, .. } | Alarm::EndpointsEmptied { kept_until, .. } => *kept_until,
    }
}
