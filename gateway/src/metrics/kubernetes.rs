//! What is counted of the conversation with Kubernetes' API servers. Clusters and kinds are labels out of the
//! configuration; the gateway's own cluster is `home`.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::Made;

/// The conversation with Kubernetes' API servers.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    /// Watches that failed and were begun again, by reason.
    pub restarts: IntCounterVec,
    /// When a cluster last sent something.
    pub last_event: IntGaugeVec,
    /// Objects known, by kind.
    pub objects: IntGaugeVec,
    /// Kinds that have not been listed since the watch of them failed.
    pub failing: IntGaugeVec,
    /// Kinds that the cluster does not have.
    pub missing: IntGaugeVec,
}

impl Kubernetes {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            restarts: made.counters(
                "kubernetes_watch_restarts_total",
                "Watches that failed and were begun again",
                &["cluster", "kind", "reason"],
            )?,
            last_event: made.gauges(
                "kubernetes_last_event_timestamp_seconds",
                "When a cluster last sent something",
                &["cluster"],
            )?,
            objects: made.gauges("kubernetes_objects", "Objects known", &["cluster", "kind"])?,
            failing: made.gauges(
                "kubernetes_watches_failing",
                "1 while a watch fails",
                &["cluster", "kind"],
            )?,
            missing: made.gauges(
                "kubernetes_kinds_missing",
                "1 while a kind is not installed",
                &["cluster", "kind"],
            )?,
        })
    }
}
