//! `/failures`: the latest connections that failed, and why.

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

use super::{Format, Sight};
use crate::failures;

pub(super) async fn latest(State(sight): State<Sight>, Query(format): Query<Format>) -> Response {
    let answers = sight.open.ask(failures::here).await;
    let mut all: Vec<_> = answers.into_iter().flatten().flatten().collect();
    all.sort_by_key(|failure| std::cmp::Reverse(failure.at));
    if format.is_json() {
        let one = |failure: &failures::Failure| {
            json!({
                "seconds_ago": failure.at.elapsed().as_secs_f64(),
                "listener": failure.listener,
                "client": failure.client,
                "server_name": failure.server_name,
                "client_random": failure.client_random,
                "endpoint": failure.endpoint,
                "flag": failure.flag,
                "error": failure.error,
            })
        };
        return Json(json!({ "failures": all.iter().map(one).collect::<Vec<_>>() })).into_response();
    }
    let line = |failure: &failures::Failure| {
        let ago = failure.at.elapsed().as_secs();
        let name = failure.server_name.as_deref().unwrap_or("-");
        format!("{ago} s ago {} {name} {}: {}\n", failure.client, failure.flag, failure.error)
    };
    all.iter().map(line).collect::<String>().into_response()
}
