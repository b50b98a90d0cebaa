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
use crate::upstream::endpoint::Out;
use crate::upstream::health::{CheckCounts, Outcome};

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

/// Of clusters that connections were led to alone: most of a large mesh never see one.
fn if_used(cluster: &Cluster, values: impl FnOnce(&Stats) -> Vec<Sample>) -> Vec<Sample> {
    cluster.stats.used().map(|_| values(&cluster.stats)).unwrap_or_default()
}

/// Of clusters with outlier detection alone.
fn if_watched(cluster: &Cluster, values: impl FnOnce() -> Vec<Sample>) -> Vec<Sample> {
    cluster.config.outlier_detection.as_ref().map(|_| values()).unwrap_or_default()
}

/// Of clusters whose endpoints are checked alone.
fn if_checked(cluster: &Cluster, value: impl FnOnce(&CheckCounts) -> u64) -> Vec<Sample> {
    let checks = &cluster.stats.checks;
    if checks.attempts.load(Relaxed) > 0 { one(value(checks)) } else { Vec::new() }
}

const FAMILIES: &[Family] = &[
    Family {
        name: "upstream_connections_active",
        help: "Connections open",
        kind: MetricType::GAUGE,
        values: |cluster| if_used(cluster, |stats| one(stats.active() as u64)),
    },
    Family {
        name: "upstream_connections_total",
        help: "Connections established",
        kind: MetricType::COUNTER,
        values: |cluster| if_used(cluster, |stats| one(stats.connected.load(Relaxed))),
    },
    Family {
        name: "upstream_connect_failures_total",
        help: "Connections or attempts that failed, by reason",
        kind: MetricType::COUNTER,
        values: |cluster| {
            if_used(cluster, |stats| {
                let reasons = [
                    ("refused", &stats.refused),
                    ("timeout", &stats.timed_out),
                    ("no_endpoint", &stats.no_endpoint),
                    ("endpoint_full", &stats.endpoint_full),
                ];
                let overflows = Limit::ALL.map(|limit| (limit.overflow(), stats.overflow(limit)));
                let reasons = reasons.into_iter().chain(overflows);
                reasons.map(|(reason, count)| (Some(("reason", reason)), count.load(Relaxed))).collect()
            })
        },
    },
    Family {
        name: "upstream_hedges_total",
        help: "Attempts begun beside one that was silent, and those that answered before it",
        kind: MetricType::COUNTER,
        values: |cluster| {
            if_used(cluster, |stats| {
                let hedges = [("begun", &stats.hedged), ("won", &stats.hedge_won)];
                hedges.map(|(what, count)| (Some(("what", what)), count.load(Relaxed))).into()
            })
        },
    },
    Family {
        name: "upstream_hellos_total",
        help: "ClientHellos sent, by what the endpoint did first",
        kind: MetricType::COUNTER,
        values: |cluster| {
            if_used(cluster, |stats| {
                let kinds = Outcome::KINDS.into_iter().zip(stats.hellos.counts());
                kinds.map(|(kind, count)| (Some(("outcome", kind)), count)).collect()
            })
        },
    },
    Family {
        name: "upstream_bytes_total",
        help: "Bytes relayed",
        kind: MetricType::COUNTER,
        values: |cluster| {
            if_used(cluster, |stats| {
                let ways = [("to_upstream", &stats.to_upstream), ("to_client", &stats.to_client)];
                ways.map(|(direction, count)| (Some(("direction", direction)), count.load(Relaxed))).into()
            })
        },
    },
    Family {
        name: "upstream_endpoints",
        help: "Endpoints, by whether they take new connections",
        kind: MetricType::GAUGE,
        values: |cluster| {
            let usable = cluster.endpoints.iter().filter(|endpoint| endpoint.takes_connections()).count();
            let states = [("usable", usable), ("unusable", cluster.endpoints.len() - usable)];
            states.map(|(state, count)| (Some(("state", state)), count as u64)).into()
        },
    },
    Family {
        name: "upstream_hello_answer_milliseconds_total",
        help: "From ClientHellos to what answered them, summed up",
        kind: MetricType::COUNTER,
        values: |cluster| {
            let hellos = &cluster.stats.hellos;
            let time = u64::try_from(hellos.answer_time().as_millis()).unwrap_or(u64::MAX);
            if hellos.answered() > 0 { one(time) } else { Vec::new() }
        },
    },
    Family {
        name: "outlier_detection_ejections_active",
        help: "Endpoints that are ejected",
        kind: MetricType::GAUGE,
        values: |cluster| if_watched(cluster, || one(cluster.out_for(Out::Outlier))),
    },
    Family {
        name: "outlier_detection_ejections_detected_total",
        help: "Outliers found, ejected or not, by cause",
        kind: MetricType::COUNTER,
        values: |cluster| {
            if_watched(cluster, || {
                let counts = cluster.stats.ejections.detected();
                counts.map(|(cause, count)| (Some(("type", cause.name())), count)).collect()
            })
        },
    },
    Family {
        name: "outlier_detection_ejections_enforced_total",
        help: "Endpoints ejected, by cause",
        kind: MetricType::COUNTER,
        values: |cluster| {
            if_watched(cluster, || {
                let counts = cluster.stats.ejections.counts();
                counts.map(|(cause, done, _)| (Some(("type", cause.name())), done)).collect()
            })
        },
    },
    Family {
        name: "outlier_detection_ejections_overflow_total",
        help: "Outliers that were not ejected because as many were out as may be",
        kind: MetricType::COUNTER,
        values: |cluster| {
            if_watched(cluster, || one(cluster.stats.ejections.counts().map(|(_, _, spared)| spared).sum()))
        },
    },
    Family {
        name: "health_check_attempt_total",
        help: "Health checks begun",
        kind: MetricType::COUNTER,
        values: |cluster| if_checked(cluster, |checks| checks.attempts.load(Relaxed)),
    },
    Family {
        name: "health_check_success_total",
        help: "Health checks passed",
        kind: MetricType::COUNTER,
        values: |cluster| if_checked(cluster, |checks| checks.passes.load(Relaxed)),
    },
    Family {
        name: "health_check_failure_total",
        help: "Health checks failed",
        kind: MetricType::COUNTER,
        values: |cluster| if_checked(cluster, |checks| checks.failures.load(Relaxed)),
    },
    Family {
        name: "health_check_healthy",
        help: "Endpoints that pass their health checks",
        kind: MetricType::GAUGE,
        values: |cluster| {
            let all = cluster.endpoints.len() as u64;
            if_checked(cluster, |_| all - cluster.out_for(Out::FailedCheck))
        },
    },
];

/// Collects one of the families from whatever table is in use.
#[derive(Debug)]
pub struct ClusterMetrics {
    family: &'static Family,
    table: Arc<ArcSwap<Table>>,
    description: Desc,
}

impl ClusterMetrics {
    /// All that there are, of the tables that are swapped in here.
    ///
    /// # Errors
    /// A name or label is not allowed, which is a bug that any test finds.
    pub fn all(table: &Arc<ArcSwap<Table>>) -> Result<Vec<Self>, prometheus::Error> {
        let collector = |family: &'static Family| {
            let (name, help, labels) = (family.name.into(), family.help.into(), vec!["cluster".into()]);
            let description = Desc::new(name, help, labels, HashMap::new())?;
            Ok(Self { family, table: Arc::clone(table), description })
        };
        FAMILIES.iter().map(collector).collect()
    }
}

impl Collector for ClusterMetrics {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let table = self.table.load_full();
        let family = collect(self.family, &table);
        if family.get_metric().is_empty() { Vec::new() } else { vec![family] }
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
