//! The clusters' counters as Prometheus metrics, read out of the table when they are scraped: nothing is registered
//! for a cluster that comes, nor left behind by one that goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use crate::metrics::family::{family, sample};
use crate::table::Table;
use crate::upstream::cluster::{Cluster, Limit, Stats};
use crate::upstream::health::Outcome;

/// A second label, where the family has one, and the value.
type Sample = (Option<(&'static str, &'static str)>, u64);

/// A family of metrics, one for each cluster.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    values: fn(&Cluster) -> Vec<Sample>,
}

fn one(value: u64) -> Vec<Sample> {
    vec![(None, value)]
}

const FAMILIES: &[Family] = &[
    Family {
        name: "upstream_connections_active",
        help: "Connections open",
        kind: MetricType::GAUGE,
        values: |cluster| one(cluster.stats.active() as u64),
    },
    Family {
        name: "upstream_connections_total",
        help: "Connections established",
        kind: MetricType::COUNTER,
        values: |cluster| one(cluster.stats.connected.load(Relaxed)),
    },
    Family {
        name: "upstream_connect_failures_total",
        help: "Connections or attempts that failed, by reason",
        kind: MetricType::COUNTER,
        values: |cluster| {
            let Stats { refused, timed_out, no_endpoint, endpoint_full, .. } = &*cluster.stats;
            let reasons = [
                ("refused", refused),
                ("timeout", timed_out),
                ("no_endpoint", no_endpoint),
                ("endpoint_full", endpoint_full),
            ];
            let overflows = Limit::ALL.map(|limit| (limit.overflow(), cluster.stats.overflow(limit)));
            let reasons = reasons.into_iter().chain(overflows);
            reasons.map(|(reason, count)| (Some(("reason", reason)), count.load(Relaxed))).collect()
        },
    },
    Family {
        name: "upstream_hedges_total",
        help: "Attempts begun beside one that was silent, and those that answered before it",
        kind: MetricType::COUNTER,
        values: |cluster| {
            let hedges = [("begun", &cluster.stats.hedged), ("won", &cluster.stats.hedge_won)];
            hedges.map(|(what, count)| (Some(("what", what)), count.load(Relaxed))).into()
        },
    },
    Family {
        name: "upstream_hellos_total",
        help: "ClientHellos sent, by what the endpoint did first",
        kind: MetricType::COUNTER,
        values: |cluster| {
            let kinds = Outcome::KINDS.into_iter().zip(&cluster.stats.hellos);
            kinds.map(|(kind, count)| (Some(("outcome", kind)), count.load(Relaxed))).collect()
        },
    },
    Family {
        name: "upstream_bytes_total",
        help: "Bytes relayed",
        kind: MetricType::COUNTER,
        values: |cluster| {
            let ways = [("to_upstream", &cluster.stats.to_upstream), ("to_client", &cluster.stats.to_client)];
            ways.map(|(direction, count)| (Some(("direction", direction)), count.load(Relaxed))).into()
        },
    },
    Family {
        name: "upstream_endpoints",
        help: "Endpoints, by whether they take new connections",
        kind: MetricType::GAUGE,
        values: |cluster| {
            let usable = cluster.balancer().endpoints().len();
            let states = [("usable", usable), ("unusable", cluster.endpoints.len() - usable)];
            states.map(|(state, count)| (Some(("state", state)), count as u64)).into()
        },
    },
];

/// Collects from whatever table is in use.
#[derive(Debug)]
pub struct ClusterMetrics {
    table: Arc<ArcSwap<Table>>,
    descriptions: Vec<Desc>,
}

impl ClusterMetrics {
    /// Of the tables that are swapped in here.
    ///
    /// # Errors
    /// A name or label is not allowed, which is a bug that any test finds.
    pub fn new(table: Arc<ArcSwap<Table>>) -> Result<Self, prometheus::Error> {
        let describe = |family: &Family| {
            Desc::new(family.name.into(), family.help.into(), vec!["cluster".into()], HashMap::new())
        };
        Ok(Self { table, descriptions: FAMILIES.iter().map(describe).collect::<Result<_, _>>()? })
    }
}

impl Collector for ClusterMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let table = self.table.load_full();
        FAMILIES
            .iter()
            .map(|family| collect(family, &table))
            .filter(|family| !family.get_metric().is_empty())
            .collect()
    }
}

fn collect(of: &Family, table: &Table) -> MetricFamily {
    let mut metrics = Vec::new();
    for cluster in table.clusters() {
        for (second, value) in (of.values)(cluster) {
            let first = ("cluster", cluster.config.name.as_str());
            match second {
                Some(second) => metrics.push(sample(of.kind, &[first, second], value)),
                None => metrics.push(sample(of.kind, &[first], value)),
            }
        }
    }
    family(of.name, of.help, of.kind, metrics)
}
