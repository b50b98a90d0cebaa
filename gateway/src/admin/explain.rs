//! `/explain`: what becomes of a connection, step by step.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};

use super::Sight;
use crate::connection::explain::{self, Question};

/// Header of an answer: whether every listener that was asked refuses the connection.
pub const REFUSED: &str = "eastgate-refused";

pub(super) async fn explain(
    State(sight): State<Sight>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let (question, as_json) = match question(&parameters) {
        Ok(read) => read,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let (table, bound) = (sight.table.load_full(), sight.bound.borrow().clone());
    // A name that nobody has is compared with all there are, which is not for the control thread.
    let explained = tokio::task::spawn_blocking(move || explain::explain(&table, &question, &bound)).await;
    let Ok(explained) = explained else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the explanation failed\n").into_response();
    };
    let refused = [(REFUSED, if explained.is_refusal() { "true" } else { "false" })];
    match as_json {
        true => (refused, Json(explained)).into_response(),
        false => (refused, explained.to_string()).into_response(),
    }
}

/// `?sni=NAME&alpn=A&alpn=B&source=IP&port=P&format=json`
fn question(parameters: &[(String, String)]) -> Result<(Question, bool), String> {
    let (mut question, mut as_json, mut named) = (Question::default(), false, false);
    for (key, value) in parameters {
        let wrong = |what: &str| format!("{key}={value:?} is not {what}");
        match key.as_str() {
            "sni" => (question.server_name, named) = (value.clone(), true),
            "alpn" => question.alpn.extend(value.split(',').map(|protocol| protocol.as_bytes().to_vec())),
            "source" => question.source = Some(value.parse().map_err(|_| wrong("an IP address"))?),
            "port" => question.port = Some(value.parse().map_err(|_| wrong("a port"))?),
            "format" => as_json = value == "json",
            _ => return Err(format!("{key} is unknown here; there are sni, alpn, source, port and format")),
        }
    }
    match named {
        true => Ok((question, as_json)),
        false => Err("give ?sni=NAME, the server name as a client sends it".into()),
    }
}
