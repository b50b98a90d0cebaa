//! `/config_dump`: what is configured, in Envoy's shape.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, BufWriter, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use eastgate_config::dump::{self, Accepted, Dump, Failed, Updated};
use eastgate_config::xds::{Node, Refused};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Sight, xds};
use crate::control_plane::{Holdings, View};
use crate::table::Table;

/// What goes to the client at once, in bytes ...
const CHUNK: usize = 64 << 10;
/// ... and how many of these may wait for a client that reads slowly; then its writer waits.
const WAITING: usize = 4;

pub(super) async fn all(
    State(sight): State<Sight>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let parameters = parameters.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let query = match dump::Query::new(parameters) {
        Ok(query) => query,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let told = match &sight.xds {
        Some(handle) => handle.holdings().await.zip(handle.view().await),
        None => None,
    };
    let (table, node) = (sight.table.load_full(), node(&sight.node));
    let (sender, chunks) = mpsc::channel(WAITING);
    // Tens of thousands of resources take their time, which the control thread does not have.
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(CHUNK, Chunks(sender));
        if let Err(error) = write(&query, &table, node, told, &mut out).and_then(|()| out.flush()) {
            tracing::debug!(%error, "a dump was not read to its end");
        }
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::new(Streamed(chunks))).into_response()
}

fn write(
    query: &dump::Query,
    table: &Arc<Table>,
    node: Value,
    told: Option<(Holdings, View)>,
    out: impl Write,
) -> io::Result<()> {
    let mut updated: Updated = BTreeMap::new();
    let accepted = told.as_ref().map(|(Holdings { accepted, refused }, view)| {
        let time = |status: &eastgate_config::xds::TypeStatus| {
            Some((status.type_url.clone(), xds::time(view.began + status.last_update?)))
        };
        updated.extend(view.types.iter().filter_map(time));
        let warming = view.warming.iter().cloned().collect();
        let at = |refused: &Refused| xds::time(view.began + refused.at);
        let failed = refused.iter().map(|refused| Failed { at: at(refused), refused }).collect();
        Accepted { types: accepted, warming, failed }
    });
    let Table { version, snapshot, resolved, .. } = &**table;
    let dump = Dump { node, version: *version, snapshot, resolved, accepted, updated };
    dump.write(query, out)
}

/// `envoy.config.core.v3.Node`, as it stands in Envoy's bootstrap.
pub(super) fn node(node: &Node) -> Value {
    let version: Vec<u32> =
        env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().unwrap_or(0)).collect();
    let part = |index: usize| version.get(index).copied().unwrap_or(0);
    json!({
        "id": node.id,
        "cluster": node.cluster,
        "metadata": node.metadata,
        "locality": {
            "region": node.locality.region,
            "zone": node.locality.zone,
            "sub_zone": node.locality.subzone,
        },
        "user_agent_name": "eastgate",
        "user_agent_build_version": {
            "version": { "major_number": part(0), "minor_number": part(1), "patch": part(2) },
        },
    })
}

/// Hands what is written to the connection, and waits while it cannot take more.
struct Chunks(mpsc::Sender<Bytes>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body whose parts come over a channel.
struct Streamed(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
