//! `/top`: the busiest clusters, endpoints and names. Bounded, so that a page can ask for it every second whatever the
//! size of the mesh.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

use super::Sight;
use crate::metrics::server_names::Named;
use crate::open;
use crate::table::Table;
use crate::upstream::Cluster;
use crate::upstream::cluster::Limit;

/// So many of each where nothing else is asked for ...
const SHOWN: usize = 20;
/// ... and so many at the most.
const MOST: usize = 1_000;

/// `?by=connections&filter=TEXT&limit=N&offset=N&format=json`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    by: By,
    filter: String,
    limit: Option<usize>,
    offset: usize,
    format: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    /// That are open.
    #[default]
    Connections,
    /// That were made so far.
    Made,
    Bytes,
    Failures,
}

/// A cluster, endpoint or name, and how busy it is.
#[derive(Debug, Clone, Default, Serialize)]
struct Busy {
    name: String,
    active: u64,
    connected: u64,
    failed: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taking: Option<usize>,
    /// Of an endpoint, or of an open connection of a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
}

impl By {
    fn of(self, busy: &Busy) -> u64 {
        match self {
            Self::Connections => busy.active,
            Self::Made => busy.connected,
            Self::Bytes => busy.bytes,
            Self::Failures => busy.failed,
        }
    }

    /// The busiest, and among equals by name.
    fn best(self, mut all: Vec<Busy>, wanted: &Wanted) -> Vec<Busy> {
        all.sort_by(|one, other| {
            (Reverse(self.of(one)), Reverse(one.connected), &one.name).cmp(&(
                Reverse(self.of(other)),
                Reverse(other.connected),
                &other.name,
            ))
        });
        let limit = wanted.limit.unwrap_or(SHOWN).min(MOST);
        all.into_iter().skip(wanted.offset).take(limit).collect()
    }
}

pub(super) async fn top(State(sight): State<Sight>, Query(wanted): Query<Wanted>) -> Response {
    let names = names(&sight, &wanted).await;
    let table = sight.table.load_full();
    let as_json = wanted.format.as_deref() == Some("json");
    // Ten thousand clusters are not for the control thread.
    let found = tokio::task::spawn_blocking(move || look(&table, &wanted, names)).await;
    match found {
        Ok(found) if as_json => Json(found).into_response(),
        Ok(found) => found.text().into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the table could not be read\n").into_response(),
    }
}

#[derive(Debug, Serialize)]
struct Found {
    table: u64,
    /// Clusters in all, and those that the filter lets through.
    clusters_in_all: usize,
    clusters_matching: usize,
    active: u64,
    connected: u64,
    failed: u64,
    bytes: u64,
    clusters: Vec<Busy>,
    endpoints: Vec<Busy>,
    names: Vec<Busy>,
}

fn look(table: &Table, wanted: &Wanted, names: Vec<Busy>) -> Found {
    let all: Vec<_> = table.clusters().map(|cluster| busy(cluster)).collect();
    let sum = |of: fn(&Busy) -> u64| all.iter().map(of).sum();
    let (active, connected) = (sum(|busy| busy.active), sum(|busy| busy.connected));
    let (failed, bytes) = (sum(|busy| busy.failed), sum(|busy| busy.bytes));
    let clusters_in_all = all.len();
    let matching: Vec<_> = all.into_iter().filter(|busy| busy.name.contains(&wanted.filter)).collect();
    let clusters_matching = matching.len();
    let clusters = wanted.by.best(matching, wanted);
    let of_these = clusters.iter().filter_map(|busy| table.cluster_of_name(&busy.name));
    let endpoints = of_these.flat_map(|cluster| endpoints(cluster)).collect();
    let from_the_first = Wanted { offset: 0, ..wanted.clone() };
    Found {
        table: table.version,
        clusters_in_all,
        clusters_matching,
        active,
        connected,
        failed,
        bytes,
        clusters,
        endpoints: wanted.by.best(endpoints, &from_the_first),
        names: wanted.by.best(names, &from_the_first),
    }
}

fn busy(cluster: &Cluster) -> Busy {
    let stats = &cluster.stats;
    let overflow = stats.overflow(Limit::Connections);
    let failures = [&stats.refused, &stats.timed_out, &stats.no_endpoint, overflow];
    Busy {
        name: cluster.config.name.clone(),
        active: stats.active() as u64,
        connected: stats.connected.load(Relaxed),
        failed: failures.iter().map(|count| count.load(Relaxed)).sum(),
        bytes: stats.to_upstream.load(Relaxed) + stats.to_client.load(Relaxed),
        endpoints: Some(cluster.endpoints.len()),
        taking: Some(cluster.balancer().endpoints().count()),
        ..Busy::default()
    }
}

fn endpoints(cluster: &Cluster) -> impl Iterator<Item = Busy> {
    cluster.endpoints.iter().map(|endpoint| Busy {
        name: endpoint.address.to_string(),
        active: endpoint.stats.active().into(),
        connected: endpoint.stats.connected(),
        failed: endpoint.stats.refused() + endpoint.stats.timed_out(),
        cluster: Some(cluster.config.name.clone()),
        ..Busy::default()
    })
}

/// The names of open connections, each data thread adding up its own, and those that count most of all so far.
async fn names(sight: &Sight, wanted: &Wanted) -> Vec<Busy> {
    sight.count_names().await;
    let filter = wanted.filter.clone();
    let answers = sight.open.ask(move || {
        let mut names: HashMap<String, Busy> = HashMap::new();
        open::each(|connection| {
            let record = &connection.record;
            let Some(name) = record.server_name.as_ref().map(|name| name.as_str()) else { return };
            if !name.contains(&filter) {
                return;
            }
            let known = match names.get_mut(name) {
                Some(known) => known,
                None => names.entry(name.to_owned()).or_insert_with(|| Busy {
                    cluster: Some(connection.cluster.config.name.clone()),
                    listener: Some(record.listener.to_string()),
                    ..Busy::default()
                }),
            };
            known.active += 1;
            known.bytes += connection.moved.to_upstream.get() + connection.moved.to_client.get();
        });
        names
    });
    let mut names: HashMap<String, Busy> = HashMap::new();
    for (name, busy) in answers.await.into_iter().flatten().flatten() {
        match names.get_mut(&name) {
            Some(known) => {
                (known.active, known.bytes) = (known.active + busy.active, known.bytes + busy.bytes)
            }
            None => _ = names.insert(name, busy),
        }
    }
    let known = sight.metrics.server_names.known();
    for Named { name, connections, failures, bytes } in known {
        if name.as_str().contains(&wanted.filter) {
            let busy = names.entry(name.as_str().to_owned()).or_default();
            (busy.connected, busy.failed, busy.bytes) = (connections, failures, busy.bytes + bytes);
        }
    }
    let named = |(name, busy): (String, Busy)| {
        // Of a name that no chain lists only the open connections are known.
        Busy { name, connected: busy.connected.max(busy.active), ..busy }
    };
    names.into_iter().map(named).collect()
}

impl Found {
    fn text(&self) -> String {
        let mut text = format!(
            "{} open, {} made, {} failed, {} bytes; {} clusters\n",
            self.active, self.connected, self.failed, self.bytes, self.clusters_in_all
        );
        for (title, rows) in
            [("CLUSTERS", &self.clusters), ("ENDPOINTS", &self.endpoints), ("NAMES", &self.names)]
        {
            text += &format!("\n{title:60} {:>8} {:>10} {:>8} {:>14}\n", "OPEN", "MADE", "FAILED", "BYTES");
            for Busy { name, active, connected, failed, bytes, .. } in rows {
                text += &format!("{name:60} {active:>8} {connected:>10} {failed:>8} {bytes:>14}\n");
            }
        }
        text
    }
}
