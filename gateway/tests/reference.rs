//! The reference pages are made of the code: every setting and every metric (`just golden` rewrites them).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

use std::fmt::Write;
use std::sync::Arc;

use arc_swap::ArcSwap;
use eastgate::admin::ClusterMetrics;
use eastgate::dialects;
use eastgate::metrics::{Flag, Metrics};
use eastgate::table::Table;
use eastgate_config::bootstrap::{KEYS, Settings};
use eastgate_config::xds::Node;
use serde_json::Value;

const MADE: &str = "Made from the code (`just golden`); edits are lost.";

#[test]
fn the_page_of_settings_is_fresh() {
    let mut page = format!(
        "# Settings\n\n{MADE}\n\nA YAML file (`--config FILE`), overridden by environment variables, overridden by flags. `eastgate config` prints \
         what is in effect. A setting that there is none of is refused with the nearest one that there is.\n"
    );
    let defaults = serde_json::to_value(Settings::default()).unwrap();
    let mut section = "";
    for key in KEYS {
        let (first, _) = key.path.split_once('.').unwrap_or((key.path, ""));
        if first != section {
            section = first;
            let _ = write!(page, "\n## {section}\n\n| setting | default | what it is |\n|---|---|---|\n");
        }
        let default = key.path.split('.').fold(&defaults, |node, part| &node[part]);
        let _ = writeln!(
            page,
            "| `{}`<br>`{}` | {} | {} |",
            key.path,
            key.variable(),
            shown(default),
            cell(key.meaning)
        );
    }
    holds("settings.md", &page);
}

#[test]
fn the_page_of_metrics_is_fresh() {
    let metrics = Metrics::new().unwrap();
    let table = Arc::new(ArcSwap::from_pointee(Table::default()));
    for family in ClusterMetrics::all(&table).unwrap() {
        metrics.register_large(family).unwrap();
    }
    dialects::register(&metrics, &table, (&Settings::default(), &Node::default()), 1).unwrap();
    let mut page = format!(
        "# Metrics\n\n{MADE}\n\nAt `/stats/prometheus` of `admin.address`, and of `admin.metrics_address` for scrapers from outside. Labels come from small \
         fixed sets or from the configuration; only `server_name` is what clients sent, under the conditions in telemetry.md.\n\n| metric | labels | what it is |\n|---|---|---|\n"
    );
    for metric in metrics.descriptions() {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(page, "| `{}` | {} | {} |", metric.name, labels.join(", "), cell(&metric.help));
    }
    holds("metrics.md", &page);
}

#[test]
fn the_page_of_flags_is_fresh() {
    let mut page = format!(
        "# How a connection ended\n\n{MADE}\n\nEach closed connection has a flag: in the access log (`flag`), in `eastgate_downstream_connections_closed_total`, and in \
         `istio_tcp_connections_closed_total` as `response_flags`. They are Envoy's, but for LOOP. The record's `error` has the particulars.\n"
    );
    for flag in Flag::ALL {
        let about = flag.page();
        let _ = write!(
            page,
            "\n## {} ({})\n\n- **What has happened**: {}.\n- **Why, as a rule**: {}.\n- **What to do**: {}.\n",
            flag.name(),
            flag.long_name(),
            about.meaning,
            about.cause,
            about.remedy
        );
    }
    holds("flags.md", &page.replace("## - (-)", "## - (no flag)"));
}

fn holds(name: &str, page: &str) {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == page, "docs/{name} is stale; run `just golden` and read the difference");
}

fn shown(default: &Value) -> String {
    match default {
        Value::Null => "none".into(),
        Value::String(text) if text.is_empty() => "none".into(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
