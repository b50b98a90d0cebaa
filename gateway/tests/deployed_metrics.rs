//! The dashboard and the alert rules in deploy/ name only metrics that there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use eastgate::admin::ClusterMetrics;
use eastgate::dialects;
use eastgate::metrics::Metrics;
use eastgate::table::Table;
use eastgate_config::bootstrap::Settings;
use eastgate_config::xds::Node;

#[test]
fn dashboards_and_alerts_name_metrics_that_exist() {
    let metrics = Metrics::new().unwrap();
    let table = Arc::new(ArcSwap::from_pointee(Table::default()));
    for family in ClusterMetrics::all(&table).unwrap() {
        metrics.register_large(family).unwrap();
    }
    dialects::register(&metrics, &table, (&Settings::default(), &Node::default()), 1).unwrap();
    let exist: BTreeSet<String> = metrics.descriptions().into_iter().map(|metric| metric.name).collect();
    for file in ["dashboards/eastgate.json", "alerts/eastgate.yaml"] {
        let path = format!("{}/../deploy/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let named: BTreeSet<&str> = names(&text).collect();
        assert!(named.len() > 5, "{file} names {named:?}");
        let unknown: Vec<_> = named.iter().filter(|name| !exist.contains(metric(name))).collect();
        assert!(unknown.is_empty(), "{file} names metrics that there are not: {unknown:?}");
    }
}

/// Every word of the text with our prefix.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("eastgate_"))
}

/// A histogram's series have endings of their own.
fn metric(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}
