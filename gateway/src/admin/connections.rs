//! `/connections`: the open tunnels, and a way to end some.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use eastgate_config::duration;
use serde::Serialize;
use serde_json::json;

use super::Sight;
use super::sockets::{self, TcpInfo};
use crate::client_hello::RandomPrefix;
use crate::open::{self, Ask, Connection, End};

/// So many are shown where nothing else is asked for ...
const SHOWN: usize = 100;
/// ... and so many at the most.
const MOST: usize = 10_000;

/// Which connections are meant.
#[derive(Debug, Clone, Default)]
struct Selection {
    server_name: Option<String>,
    endpoint: Option<SocketAddr>,
    cluster: Option<String>,
    older_than: Option<Duration>,
    number: Option<String>,
    client_random: Option<String>,
    limit: Option<usize>,
    json: bool,
}

impl Selection {
    fn read(parameters: &[(String, String)]) -> Result<Self, String> {
        let mut selection = Self::default();
        for (key, value) in parameters {
            let wrong = |what: &str| format!("{key}={value:?} is not {what}\n");
            match key.as_str() {
                "sni" => selection.server_name = Some(value.to_ascii_lowercase()),
                "endpoint" => selection.endpoint = Some(value.parse().map_err(|_| wrong("an IP:PORT"))?),
                "cluster" => selection.cluster = Some(value.clone()),
                "older_than" => {
                    let parsed = duration::parse(value).map_err(|error| format!("older_than: {error}\n"))?;
                    selection.older_than = Some(parsed);
                }
                "id" => selection.number = Some(value.clone()),
                "client_random" => selection.client_random = Some(value.to_ascii_lowercase()),
                "limit" => selection.limit = Some(value.parse().map_err(|_| wrong("a number"))?),
                "format" => selection.json = value == "json",
                _ => {
                    return Err(format!(
                        "{key} is unknown here; there are sni, endpoint, cluster, older_than, id, client_random, limit and format\n"
                    ));
                }
            }
        }
        Ok(selection)
    }

    /// Is every connection meant?
    fn is_all(&self) -> bool {
        let Self { server_name, endpoint, cluster, older_than, number, client_random, .. } = self;
        server_name.is_none()
            && endpoint.is_none()
            && cluster.is_none()
            && older_than.is_none()
            && number.is_none()
            && client_random.is_none()
    }

    fn selects(&self, connection: &Connection) -> bool {
        let record = &connection.record;
        let name = record.server_name.as_ref().map(|name| name.as_str());
        self.server_name.as_deref().is_none_or(|wanted| name == Some(wanted))
            && self.endpoint.is_none_or(|wanted| record.endpoint == Some(wanted))
            && self.cluster.as_ref().is_none_or(|wanted| connection.cluster.config.name == *wanted)
            && self.older_than.is_none_or(|age| record.age() >= age)
            && self.number.as_ref().is_none_or(|wanted| *wanted == id(connection))
            && self.client_random.as_ref().is_none_or(|wanted| {
                // A capture shows all 32 bytes, of which these are the first.
                let known = record.client_random.map(|random| random.to_string());
                known.is_some_and(|known| known.starts_with(wanted) || wanted.starts_with(&known))
            })
    }
}

/// What a connection is called, on its data thread: that thread, and how many it had before.
fn id(connection: &Connection) -> String {
    let thread = std::thread::current();
    let thread = thread.name().and_then(|name| name.rsplit('-').next()).unwrap_or_default();
    format!("{thread}-{}", connection.number)
}

/// An open connection.
#[derive(Debug, Clone, Serialize)]
struct Row {
    id: String,
    listener: String,
    client: SocketAddr,
    server_name: Option<String>,
    client_random: Option<RandomPrefix>,
    /// The version of the table that it was routed by.
    table: u64,
    engine: &'static str,
    cluster: String,
    endpoint: Option<SocketAddr>,
    age_seconds: f64,
    to_upstream_bytes: u64,
    to_client_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_tcp: Option<TcpInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_tcp: Option<TcpInfo>,
    #[serde(skip)]
    upstream_ends: Option<(SocketAddr, SocketAddr)>,
}

fn row(connection: &Connection) -> Row {
    let record = &connection.record;
    let stream = &connection.upstream.stream;
    Row {
        id: id(connection),
        listener: record.listener.to_string(),
        client: record.client_addr,
        server_name: record.server_name.as_ref().map(ToString::to_string),
        client_random: record.client_random,
        table: record.table,
        engine: connection.moved.engine(),
        cluster: connection.cluster.config.name.clone(),
        endpoint: record.endpoint,
        age_seconds: record.age().as_secs_f64(),
        to_upstream_bytes: connection.moved.to_upstream.get(),
        to_client_bytes: connection.moved.to_client.get(),
        client_tcp: None,
        upstream_tcp: None,
        upstream_ends: stream.local_addr().ok().zip(stream.peer_addr().ok()),
    }
}

pub(super) async fn all(
    State(sight): State<Sight>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let selection = match Selection::read(&parameters) {
        Ok(selection) => selection,
        Err(error) => return (StatusCode::BAD_REQUEST, error).into_response(),
    };
    let (count, mut rows) = look(&sight, &selection).await;
    with_sockets(&mut rows).await;
    match selection.json {
        true => Json(json!({ "matching": count, "connections": rows })).into_response(),
        false => text(count, &rows).into_response(),
    }
}

/// How many match, and the oldest of these, as many as are shown.
async fn look(sight: &Sight, selection: &Selection) -> (usize, Vec<Row>) {
    let limit = selection.limit.unwrap_or(SHOWN).min(MOST);
    let wanted = selection.clone();
    let answers = sight.open.ask(move || {
        let (mut count, mut rows) = (0, Vec::new());
        open::each(|connection| {
            if wanted.selects(connection) {
                count += 1;
                if rows.len() < limit {
                    rows.push(row(connection));
                }
            }
        });
        (count, rows)
    });
    let (mut count, mut rows) = (0, Vec::new());
    for (of_thread, more) in answers.await.into_iter().flatten() {
        count += of_thread;
        rows.extend(more);
    }
    rows.sort_by(|one, other| other.age_seconds.total_cmp(&one.age_seconds));
    rows.truncate(limit);
    (count, rows)
}

/// Asks the kernel about the sockets of these rows.
async fn with_sockets(rows: &mut [Row]) {
    if rows.is_empty() {
        return;
    }
    let known = match tokio::task::spawn_blocking(sockets::all).await {
        Ok(Ok(known)) => known,
        Ok(Err(error)) => return tracing::debug!(%error, "the kernel does not tell of sockets"),
        Err(_) => return,
    };
    // A client's socket is known by its far end.
    let by_peer: HashMap<SocketAddr, TcpInfo> =
        known.iter().map(|((_, peer), info)| (*peer, *info)).collect();
    for row in rows {
        row.client_tcp = by_peer.get(&sockets::plain(row.client)).copied();
        let ends = row.upstream_ends.map(|(here, there)| (sockets::plain(here), sockets::plain(there)));
        row.upstream_tcp = ends.and_then(|ends| known.get(&ends).copied());
    }
}

fn text(count: usize, rows: &[Row]) -> String {
    let mut text = format!("{count} open, {} shown, the oldest first\n", rows.len());
    for row in rows {
        let name = row.server_name.as_deref().unwrap_or("-");
        let random = row.client_random.map_or("-".into(), |random| random.to_string());
        let endpoint = row.endpoint.map_or("-".into(), |endpoint| endpoint.to_string());
        let rtt = |info: Option<TcpInfo>| {
            info.map_or("-".into(), |info| {
                format!("{:.1}ms/{}re", f64::from(info.rtt_us) / 1000.0, info.retransmits)
            })
        };
        text += &format!(
            "{} {random} {} -> {name} -> {endpoint} {:.0}s up {} down {} client {} upstream {}\n",
            row.id,
            row.client,
            row.age_seconds,
            row.to_upstream_bytes,
            row.to_client_bytes,
            rtt(row.client_tcp),
            rtt(row.upstream_tcp),
        );
    }
    text
}

pub(super) async fn kill(
    State(sight): State<Sight>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let selection = match Selection::read(&parameters) {
        Ok(selection) if selection.is_all() => {
            let text = "say which: sni, endpoint, cluster, older_than, id or client_random; older_than=0s is every one\n";
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
        Ok(selection) => selection,
        Err(error) => return (StatusCode::BAD_REQUEST, error).into_response(),
    };
    let answers = sight.open.ask(move || {
        let mut asked = 0;
        open::each(|connection| {
            if selection.selects(connection) && connection.ask(Ask::End(End::Operator)) {
                asked += 1;
            }
        });
        asked
    });
    let asked: usize = answers.await.into_iter().flatten().sum();
    tracing::info!(asked, "an operator ends connections");
    Json(json!({ "ended": asked })).into_response()
}
