//! Envoy's statistics as its `/stats/prometheus` prints them
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/upstream/cluster_manager/cluster_stats>): those that a gateway has
//! which only passes through.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use arc_swap::ArcSwap;
use eastgate_config::endpoint::Health;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{IntCounterVec, IntGaugeVec};

use super::{Named, describe};
use crate::metrics::family::{family, sample};
use crate::metrics::milliseconds;
use crate::metrics::{Counted, Flag, Metrics, Usage};
use crate::table::Table;
use crate::upstream::Cluster;
use crate::upstream::cluster::Limit;
use crate::upstream::endpoint::Out;

mod lengths;

pub(super) use lengths::Lengths;

const COUNTER: MetricType = MetricType::COUNTER;
const GAUGE: MetricType = MetricType::GAUGE;
const CLUSTER: &str = "envoy_cluster_name";
/// Istio calls the TCP proxy of a chain as its cluster.
const PREFIX: &str = "envoy_tcp_prefix";
const ADDRESS: &str = "envoy_listener_address";

/// A family of which each cluster has one, and its value.
type OfCluster = (Named, fn(&Cluster) -> u64);
/// The same of clusters that were asked for.
type OfUsage = (Named, fn(&Cluster, &Usage) -> u64);
/// A family of which each listener has one.
type OfListener = (Named, fn(&Counted) -> u64);
/// A family with one value.
type OfProcess = (Named, fn(&Process<'_>) -> u64);

const MEMBERSHIP: &[OfCluster] = &[
    (("envoy_cluster_membership_total", "Endpoints", GAUGE), |cluster| cluster.endpoints.len() as u64),
    (("envoy_cluster_membership_healthy", "Endpoints that take connections", GAUGE), |cluster| {
        members(cluster, Health::Healthy)
    }),
    (("envoy_cluster_membership_degraded", "Endpoints that take connections at need", GAUGE), |cluster| {
        members(cluster, Health::Degraded)
    }),
    (("envoy_cluster_membership_excluded", "Endpoints that balancing does not count; none", GAUGE), |_| 0),
];

const CLUSTERS: &[OfUsage] = &[
    (("envoy_cluster_upstream_cx_total", "Connections and attempts at them", COUNTER), |cluster, _| {
        cluster.stats.connected.load(Relaxed) + failed(cluster)
    }),
    (("envoy_cluster_upstream_cx_active", "Connections open", GAUGE), |cluster, _| {
        cluster.stats.active() as u64
    }),
    (
        (
            "envoy_cluster_upstream_cx_connect_fail",
            "Attempts that failed, those that timed out among them",
            COUNTER,
        ),
        |cluster, _| failed(cluster),
    ),
    (("envoy_cluster_upstream_cx_connect_timeout", "Attempts that timed out", COUNTER), |cluster, _| {
        cluster.stats.timed_out.load(Relaxed)
    }),
    (
        (
            "envoy_cluster_upstream_cx_connect_attempts_exceeded",
            "Connections for which every attempt failed",
            COUNTER,
        ),
        |_, usage| usage.closed(Flag::UpstreamFailed),
    ),
    (("envoy_cluster_upstream_cx_overflow", "Connections refused at the limit", COUNTER), |cluster, _| {
        cluster.stats.overflow(Limit::Connections).load(Relaxed)
    }),
    (
        ("envoy_cluster_upstream_rq_pending_overflow", "Refused because too many wait", COUNTER),
        |cluster, _| cluster.stats.overflow(Limit::Pending).load(Relaxed),
    ),
    (
        ("envoy_cluster_upstream_rq_retry_overflow", "Attempts that the retry budget put off", COUNTER),
        |cluster, _| cluster.stats.overflow(Limit::Retries).load(Relaxed),
    ),
    (("envoy_cluster_upstream_cx_none_healthy", "Refused for want of an endpoint", COUNTER), |cluster, _| {
        cluster.stats.no_endpoint.load(Relaxed)
    }),
    (
        ("envoy_cluster_upstream_cx_destroy", "Connections and attempts that are over", COUNTER),
        |cluster, _| failed(cluster) + cluster.stats.disconnected.load(Relaxed),
    ),
    (("envoy_cluster_upstream_cx_rx_bytes_total", "Bytes from endpoints", COUNTER), |cluster, _| {
        cluster.stats.to_client.load(Relaxed)
    }),
    (("envoy_cluster_upstream_cx_tx_bytes_total", "Bytes to endpoints", COUNTER), |cluster, _| {
        cluster.stats.to_upstream.load(Relaxed)
    }),
    (
        ("envoy_cluster_circuit_breakers_default_cx_open", "1 while connections are at their limit", GAUGE),
        |cluster, _| {
            let limit = cluster.config.max_connections.map_or(usize::MAX, |limit| limit as usize);
            (cluster.stats.active() >= limit).into()
        },
    ),
];

/// Of clusters with outlier detection.
const OUTLIERS: &[OfCluster] = &[
    (("envoy_cluster_outlier_detection_ejections_active", "Endpoints that are ejected", GAUGE), |cluster| {
        cluster.out_for(Out::Outlier)
    }),
    (("envoy_cluster_outlier_detection_ejections_enforced_total", "Endpoints ejected", COUNTER), |cluster| {
        cluster.stats.ejections.counts().map(|(_, done, _)| done).sum()
    }),
    (
        (
            "envoy_cluster_outlier_detection_ejections_overflow",
            "Outliers not ejected because as many were out as may be",
            COUNTER,
        ),
        |cluster| cluster.stats.ejections.counts().map(|(_, _, spared)| spared).sum(),
    ),
];

/// Of clusters whose endpoints are checked.
const CHECKS: &[OfCluster] = &[
    (("envoy_cluster_health_check_attempt", "Health checks begun", COUNTER), |cluster| {
        cluster.stats.checks.attempts.load(Relaxed)
    }),
    (("envoy_cluster_health_check_success", "Health checks passed", COUNTER), |cluster| {
        cluster.stats.checks.passes.load(Relaxed)
    }),
    (("envoy_cluster_health_check_failure", "Health checks failed", COUNTER), |cluster| {
        cluster.stats.checks.failures.load(Relaxed)
    }),
    (("envoy_cluster_health_check_healthy", "Endpoints that pass their checks", GAUGE), |cluster| {
        cluster.endpoints.len() as u64 - cluster.out_for(Out::FailedCheck)
    }),
];

const PROXIES: &[OfUsage] = &[
    (("envoy_tcp_downstream_cx_total", "Client connections", COUNTER), |_, usage| usage.opened()),
    (("envoy_tcp_downstream_cx_rx_bytes_total", "Bytes from clients", COUNTER), |cluster, _| {
        cluster.stats.to_upstream.load(Relaxed)
    }),
    (("envoy_tcp_downstream_cx_tx_bytes_total", "Bytes to clients", COUNTER), |cluster, _| {
        cluster.stats.to_client.load(Relaxed)
    }),
    (("envoy_tcp_idle_timeout", "Connections closed because they were silent", COUNTER), |_, usage| {
        usage.closed(Flag::Idle)
    }),
    (
        ("envoy_tcp_max_downstream_connection_duration", "Connections closed for their age", COUNTER),
        |_, usage| usage.closed(Flag::TimedOut),
    ),
];

/// Envoy counts a connection once a filter chain has it.
const LISTENERS: &[OfListener] = &[
    (("envoy_listener_downstream_cx_total", "Connections led to a cluster", COUNTER), |counted| counted.led),
    (("envoy_listener_downstream_cx_active", "Those of them that are open", GAUGE), |counted| {
        counted.led.saturating_sub(counted.led_over)
    }),
    (("envoy_listener_downstream_cx_destroy", "Those of them that are over", COUNTER), |counted| {
        counted.led_over
    }),
    (
        ("envoy_listener_downstream_pre_cx_active", "Connections that are not led anywhere yet", GAUGE),
        |counted| (counted.accepted + counted.led_over).saturating_sub(counted.over + counted.led),
    ),
    (
        ("envoy_listener_no_filter_chain_match", "Connections that no filter chain takes", COUNTER),
        |counted| counted.closed(Flag::NoRoute),
    ),
];

/// A histogram of which each listener has one.
const LENGTH: Named = (
    "envoy_listener_downstream_cx_length_ms",
    "How long connections were there that were led to a cluster",
    MetricType::HISTOGRAM,
);

const PROCESS: &[OfProcess] = &[
    (("envoy_server_live", "1 while the gateway is ready", GAUGE), |process| process.ready().into()),
    (
        ("envoy_server_state", "0 when ready, 1 when leaving, 2 before the first table", GAUGE),
        |process| match (process.ready(), process.table.version) {
            (true, _) => 0,
            (false, 0) => 2,
            (false, _) => 1,
        },
    ),
    (("envoy_server_uptime", "Seconds since the start", GAUGE), |process| process.began.elapsed().as_secs()),
    (("envoy_server_concurrency", "Data threads", GAUGE), |process| process.options.threads as u64),
    (("envoy_server_total_connections", "Client connections open", GAUGE), |process| {
        process.listeners.iter().map(|counted| counted.led.saturating_sub(counted.led_over)).sum()
    }),
    (("envoy_cluster_manager_active_clusters", "Clusters", GAUGE), |process| {
        process.table.clusters().count() as u64
    }),
    (("envoy_cluster_manager_warming_clusters", "Clusters not in use yet; none", GAUGE), |_| 0),
    (("envoy_cluster_manager_cds_update_success", "Updates of clusters taken", COUNTER), |process| {
        process.taken("cluster")
    }),
    (("envoy_cluster_manager_cds_update_rejected", "Updates of clusters refused", COUNTER), |process| {
        labelled(&process.metrics.xds.nacks, "cluster")
    }),
    (("envoy_listener_manager_total_listeners_active", "Listeners", GAUGE), |process| {
        process.table.listeners().count() as u64
    }),
    (("envoy_listener_manager_workers_started", "1 once there is a table", GAUGE), |process| {
        (process.table.version > 0).into()
    }),
    (("envoy_listener_manager_lds_update_success", "Updates of listeners taken", COUNTER), |process| {
        process.taken("listener")
    }),
    (("envoy_listener_manager_lds_update_rejected", "Updates of listeners refused", COUNTER), |process| {
        labelled(&process.metrics.xds.nacks, "listener")
    }),
    (("envoy_control_plane_connected_state", "1 while a control plane answers", GAUGE), |process| {
        connected(&process.metrics.xds.connected)
    }),
];

/// What a value of the process is made of.
struct Process<'a> {
    table: &'a Table,
    metrics: &'a Metrics,
    listeners: &'a [Counted],
    began: Instant,
    options: &'a Options,
}

impl Process<'_> {
    fn ready(&self) -> bool {
        self.metrics.ready.get() == 1
    }

    /// Updates that were taken: of a control plane, or of another source, which gives a whole table.
    fn taken(&self, kind: &str) -> u64 {
        let xds = &self.metrics.xds;
        match self.options.control_plane {
            // What was taken in part is counted as refused, as in Envoy.
            true => labelled(&xds.pushes, kind).saturating_sub(labelled(&xds.nacks, kind)),
            false => self.table.version,
        }
    }
}

/// The value under a label, without making one where there is none.
fn labelled(counters: &IntCounterVec, value: &str) -> u64 {
    let metrics = counters.collect();
    let metrics = metrics.iter().flat_map(MetricFamily::get_metric);
    let of = metrics.filter(|metric| metric.get_label().iter().any(|label| label.value() == value));
    of.map(|metric| metric.get_counter().get_value() as u64).sum()
}

fn connected(gauges: &IntGaugeVec) -> u64 {
    let metrics = gauges.collect();
    let metrics = metrics.iter().flat_map(MetricFamily::get_metric);
    metrics.map(|metric| metric.get_gauge().get_value() as u64).sum()
}

fn failed(cluster: &Cluster) -> u64 {
    cluster.stats.refused.load(Relaxed) + cluster.stats.timed_out.load(Relaxed)
}

fn members(cluster: &Cluster, health: Health) -> u64 {
    let endpoints = cluster.endpoints.iter();
    endpoints.filter(|endpoint| endpoint.health == health && endpoint.takes_connections()).count() as u64
}

/// What is told of the process that its metrics do not know.
#[derive(Debug)]
pub(super) struct Options {
    /// Data threads.
    pub(super) threads: usize,
    /// The source is a control plane.
    pub(super) control_plane: bool,
}

/// Collects from whatever table is in use, and from the process's own metrics.
#[derive(Debug)]
pub(super) struct Envoy {
    table: Arc<ArcSwap<Table>>,
    metrics: Metrics,
    began: Instant,
    options: Options,
    descriptions: Vec<Desc>,
}

impl Envoy {
    /// Of a process that begins now.
    ///
    /// # Errors
    /// A name or label is not allowed, which is a bug that any test finds.
    pub(super) fn new(
        table: Arc<ArcSwap<Table>>,
        metrics: Metrics,
        options: Options,
    ) -> Result<Self, prometheus::Error> {
        let of_clusters = [MEMBERSHIP, OUTLIERS, CHECKS].into_iter().flatten().map(|(named, _)| named);
        let of_clusters = of_clusters.chain(CLUSTERS.iter().map(|(named, _)| named));
        let descriptions = of_clusters
            .map(|named| describe(named, &[CLUSTER]))
            .chain(PROXIES.iter().map(|(named, _)| describe(named, &[PREFIX])))
            .chain(
                LISTENERS
                    .iter()
                    .map(|(named, _)| named)
                    .chain([&LENGTH])
                    .map(|named| describe(named, &[ADDRESS])),
            )
            .chain(PROCESS.iter().map(|(named, _)| describe(named, &[])));
        let descriptions = descriptions.collect::<Result<_, _>>()?;
        Ok(Self { table, metrics, began: Instant::now(), options, descriptions })
    }
}

impl Collector for Envoy {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let table = self.table.load_full();
        let listeners = self.metrics.downstream.listeners();
        let process = Process {
            table: &table,
            metrics: &self.metrics,
            listeners: &listeners,
            began: self.began,
            options: &self.options,
        };
        let used = || table.clusters().filter_map(|cluster| Some((&**cluster, cluster.stats.used()?)));
        let all = || table.clusters().map(|cluster| &**cluster);
        let watched = || all().filter(|cluster| cluster.config.outlier_detection.is_some());
        let checked = || all().filter(|cluster| cluster.stats.checks.attempts.load(Relaxed) > 0);
        let name = |cluster: &Cluster| cluster.config.name.clone();
        let mut families = Vec::new();
        for (named, value) in MEMBERSHIP {
            families.push(made(*named, CLUSTER, all().map(|cluster| (name(cluster), value(cluster)))));
        }
        for (named, value) in OUTLIERS {
            families.push(made(*named, CLUSTER, watched().map(|cluster| (name(cluster), value(cluster)))));
        }
        for (named, value) in CHECKS {
            families.push(made(*named, CLUSTER, checked().map(|cluster| (name(cluster), value(cluster)))));
        }
        for (of, label) in [(CLUSTERS, CLUSTER), (PROXIES, PREFIX)] {
            for (named, value) in of {
                let values = used().map(|(cluster, usage)| (name(cluster), value(cluster, usage)));
                families.push(made(*named, label, values));
            }
        }
        for (named, value) in LISTENERS {
            let values = listeners.iter().map(|counted| (counted.listener.clone(), value(counted)));
            families.push(made(*named, ADDRESS, values));
        }
        let (length, help, kind) = LENGTH;
        let lengths = listeners
            .iter()
            .map(|counted| milliseconds::metric(&[(ADDRESS, &counted.listener)], &counted.lengths));
        families.push(family(length, help, kind, lengths.collect()));
        families.extend(PROCESS.iter().map(|((name, help, kind), value)| {
            family(name, help, *kind, vec![sample(*kind, &[], value(&process))])
        }));
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

fn made((name, help, kind): Named, label: &str, values: impl Iterator<Item = (String, u64)>) -> MetricFamily {
    let metrics: Vec<Metric> = values.map(|(of, value)| sample(kind, &[(label, &of)], value)).collect();
    family(name, help, kind, metrics)
}
