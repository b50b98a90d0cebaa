//! Envoy's histograms of clusters, each a collector by itself, so that no two of them are in memory at once.

use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::CLUSTER;
use crate::dialects::{Named, describe};
use crate::metrics::Usage;
use crate::metrics::family::family;
use crate::metrics::milliseconds::{Milliseconds, metric};
use crate::table::Table;

/// A family of which each cluster that was asked for has one.
type OfUsage = (Named, fn(&Usage) -> &Milliseconds);

const LENGTHS: &[OfUsage] = &[
    (
        (
            "envoy_cluster_upstream_cx_connect_ms",
            "From an attempt to a connected endpoint",
            MetricType::HISTOGRAM,
        ),
        |usage| &usage.connect,
    ),
    (("envoy_cluster_upstream_cx_length_ms", "From an attempt to its end", MetricType::HISTOGRAM), |usage| {
        &usage.length
    }),
];

/// Collects from whatever table is in use.
#[derive(Debug)]
pub(in crate::dialects) struct Lengths {
    of: &'static OfUsage,
    table: Arc<ArcSwap<Table>>,
    description: Desc,
}

impl Lengths {
    /// All that there are.
    ///
    /// # Errors
    /// A name or label is not allowed, which is a bug that any test finds.
    pub(in crate::dialects) fn all(table: &Arc<ArcSwap<Table>>) -> Result<Vec<Self>, prometheus::Error> {
        let one = |of: &'static OfUsage| {
            Ok(Self { of, table: Arc::clone(table), description: describe(&of.0, &[CLUSTER])? })
        };
        LENGTHS.iter().map(one).collect()
    }
}

impl Collector for Lengths {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let table = self.table.load_full();
        let ((name, help, kind), of) = self.of;
        let used = table.clusters().filter_map(|cluster| Some((cluster, cluster.stats.used()?)));
        let metrics: Vec<_> = used
            .map(|(cluster, usage)| metric(&[(CLUSTER, &cluster.config.name)], &of(usage).counted()))
            .collect();
        if metrics.is_empty() { Vec::new() } else { vec![family(name, help, *kind, metrics)] }
    }
}
