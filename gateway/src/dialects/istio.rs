//! Istio's standard metrics of TCP (<https://istio.io/latest/docs/reference/config/metrics/>), as a gateway reports them: it is
//! the source of what it sends on. Who its clients are it cannot know, for what they say is encrypted; Istio's own gateway
//! knows as little.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;
use eastgate_config::bootstrap;
use eastgate_config::xds::Node;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily, MetricType};
use serde_json::Value;

use super::{Named, describe};
use crate::metrics::Flag;
use crate::metrics::family::{family, sample};
use crate::table::Table;
use crate::upstream::Cluster;

/// What Istio says where it does not know.
const UNKNOWN: &str = "unknown";

const OPENED: Named =
    ("istio_tcp_connections_opened_total", "Connections led to a service", MetricType::COUNTER);
const CLOSED: Named = (
    "istio_tcp_connections_closed_total",
    "Connections of a service that have ended, by response flag",
    MetricType::COUNTER,
);
const SENT: Named =
    ("istio_tcp_sent_bytes_total", "Bytes sent to clients, of a service's answers", MetricType::COUNTER);
const RECEIVED: Named =
    ("istio_tcp_received_bytes_total", "Bytes received from clients, for a service", MetricType::COUNTER);

/// The labels whose value is the same for all, and what it is.
const FIXED: [(&str, &str); 13] = [
    ("reporter", "source"),
    ("request_protocol", "tcp"),
    ("connection_security_policy", UNKNOWN),
    ("source_principal", UNKNOWN),
    ("destination_workload", UNKNOWN),
    ("destination_workload_namespace", UNKNOWN),
    ("destination_principal", UNKNOWN),
    ("destination_app", UNKNOWN),
    ("destination_version", UNKNOWN),
    ("destination_cluster", UNKNOWN),
    ("destination_canonical_service", UNKNOWN),
    // Istio's word for a revision that it does not know.
    ("destination_canonical_revision", "latest"),
    ("source_canonical_revision", "latest"),
];
/// Those that say who reports, in the order of [`Reporter`]'s fields.
const SOURCE: [&str; 6] = [
    "source_workload",
    "source_workload_namespace",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
];
const DESTINATION: [&str; 3] =
    ["destination_service", "destination_service_name", "destination_service_namespace"];
const FLAGS: &str = "response_flags";

/// Who reports: the gateway itself.
#[derive(Debug, Clone)]
pub(super) struct Reporter([String; SOURCE.len()]);

impl Reporter {
    /// By its xDS node, and where there is none by the settings of it.
    pub(super) fn new(node: &Node, settings: &bootstrap::Node) -> Self {
        let given = |key: &str| node.metadata.get(key).and_then(Value::as_str).map(str::to_owned);
        let label = |name: &str| {
            let given = node.metadata.get("LABELS").and_then(|labels| labels.get(name)?.as_str());
            given.map(str::to_owned).or_else(|| settings.labels.get(name).cloned())
        };
        let or_unknown =
            |value: Option<String>| value.filter(|value| !value.is_empty()).unwrap_or_else(|| UNKNOWN.into());
        let app = label("app");
        let canonical = label("service.istio.io/canonical-name").or_else(|| app.clone());
        Self([
            or_unknown(given("WORKLOAD_NAME").or_else(|| canonical.clone())),
            or_unknown(given("NAMESPACE").or_else(|| Some(settings.namespace.clone()))),
            or_unknown(app),
            or_unknown(label("version")),
            or_unknown(given("CLUSTER_ID")),
            or_unknown(canonical),
        ])
    }
}

/// A service, as far as a cluster's name tells it.
#[derive(Debug, PartialEq, Eq)]
struct Service<'a> {
    host: &'a str,
    name: &'a str,
    namespace: &'a str,
}

impl<'a> Service<'a> {
    /// Clusters of services are called `outbound|PORT|SUBSET|HOST`, or `outbound_.PORT_.SUBSET_.HOST` as server names are.
    fn of(cluster: &'a str) -> Self {
        let last_of = |separator| Some(cluster.splitn(4, separator).nth(3)?).filter(|host| !host.is_empty());
        let Some(host) = last_of("|").or_else(|| last_of("_.")) else {
            return Self { host: UNKNOWN, name: UNKNOWN, namespace: UNKNOWN };
        };
        let mut parts = host.split('.');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(name), Some(namespace), Some("svc")) => Self { host, name, namespace },
            // A host of a ServiceEntry is a name as a whole, and says nothing of its namespace.
            _ => Self { host, name: host, namespace: UNKNOWN },
        }
    }
}

/// Collects from whatever table is in use.
#[derive(Debug)]
pub(super) struct Istio {
    table: Arc<ArcSwap<Table>>,
    reporter: Reporter,
    descriptions: Vec<Desc>,
}

impl Istio {
    /// Of the tables that are swapped in here.
    ///
    /// # Errors
    /// A name or label is not allowed, which is a bug that any test finds.
    pub(super) fn new(table: Arc<ArcSwap<Table>>, reporter: Reporter) -> Result<Self, prometheus::Error> {
        let fixed = FIXED.map(|(name, _)| name);
        let labels = [&fixed[..], &SOURCE, &DESTINATION, &[FLAGS]].concat();
        let descriptions = [OPENED, CLOSED, SENT, RECEIVED].iter().map(|named| describe(named, &labels));
        Ok(Self { table, reporter, descriptions: descriptions.collect::<Result<_, _>>()? })
    }

    fn metric(&self, cluster: &Cluster, flag: Flag, value: u64) -> Metric {
        let Service { host, name, namespace } = Service::of(&cluster.config.name);
        let source = SOURCE.into_iter().zip(self.reporter.0.iter().map(String::as_str));
        let destination = DESTINATION.into_iter().zip([host, name, namespace]);
        let labels: Vec<_> =
            FIXED.into_iter().chain(source).chain(destination).chain([(FLAGS, flag.name())]).collect();
        sample(MetricType::COUNTER, &labels, value)
    }
}

impl Collector for Istio {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let table = self.table.load_full();
        let [mut opened, mut closed, mut sent, mut received] = [const { Vec::new() }; 4];
        for cluster in table.clusters() {
            let Some(usage) = cluster.stats.used() else { continue };
            // Ends are read before beginnings, so that never more seem to have ended.
            closed.extend(Flag::ALL.into_iter().filter_map(|flag| {
                let count = usage.closed(flag);
                (count > 0).then(|| self.metric(cluster, flag, count))
            }));
            let so_far = |value| self.metric(cluster, Flag::Ordinary, value);
            opened.push(so_far(usage.opened()));
            sent.push(so_far(cluster.stats.to_client.load(Relaxed)));
            received.push(so_far(cluster.stats.to_upstream.load(Relaxed)));
        }
        let families = [(OPENED, opened), (CLOSED, closed), (SENT, sent), (RECEIVED, received)];
        let told = families.into_iter().filter(|(_, metrics)| !metrics.is_empty());
        told.map(|((name, help, kind), metrics)| family(name, help, kind, metrics)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_name_tells_its_service() {
        let of = |cluster| {
            let Service { host, name, namespace } = Service::of(cluster);
            [host, name, namespace]
        };
        let httpbin = ["httpbin.bar.svc.cluster.local", "httpbin", "bar"];
        assert_eq!(of("outbound|8000||httpbin.bar.svc.cluster.local"), httpbin);
        assert_eq!(of("outbound_.8000_._.httpbin.bar.svc.cluster.local"), httpbin);
        assert_eq!(of("outbound_.8000_.v1_.httpbin.bar.svc.cluster.local"), httpbin);
        assert_eq!(of("outbound|443||api.example.com"), ["api.example.com", "api.example.com", UNKNOWN]);
        assert_eq!(of("inbound|8080||"), [UNKNOWN; 3]);
        assert_eq!(of("BlackHoleCluster"), [UNKNOWN; 3]);
    }

    #[test]
    fn the_reporter_is_who_the_node_says_or_else_the_settings() {
        let mut settings = bootstrap::Node::default();
        settings.labels.insert("app".into(), "istio-eastwestgateway".into());
        let Reporter(values) = Reporter::new(&Node::default(), &settings);
        let gateway = "istio-eastwestgateway";
        assert_eq!(values, [gateway, "istio-system", gateway, UNKNOWN, UNKNOWN, gateway]);
        let metadata = serde_json::json!({
            "WORKLOAD_NAME": "east", "NAMESPACE": "gateways", "CLUSTER_ID": "c1", "LABELS": { "version": "v2" },
        });
        let node = Node { metadata: metadata.as_object().unwrap().clone(), ..Node::default() };
        let Reporter(values) = Reporter::new(&node, &settings);
        assert_eq!(values, ["east", "gateways", gateway, "v2", "c1", gateway]);
    }
}
