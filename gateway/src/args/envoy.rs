//! Envoy's command line, for whoever starts an Envoy and gets Eastgate: Istio's agent, by `ProxyConfig.binaryPath`.
//! <https://www.envoyproxy.io/docs/envoy/latest/operations/cli>

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use eastgate_config::bootstrap::{Layers, Settings, envoy};
use serde_json::Value;

/// Eastgate in the place of an Envoy: node, control plane and admin addresses are those of the bootstrap.
///
/// Environment variables that are settings (`eastgate config --help`) go before the bootstrap.
#[derive(Debug, Parser)]
#[command(name = "eastgate", version, about, long_about)]
pub struct EnvoyArgs {
    /// The bootstrap, as JSON or YAML
    #[arg(short, long, value_name = "FILE")]
    config_path: PathBuf,
    /// More of the bootstrap, laid over the file
    #[arg(long, value_name = "YAML")]
    config_yaml: Option<String>,
    /// Data threads; by default one for each core
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,
    /// How long open connections may go on after SIGTERM
    #[arg(long, value_name = "SECONDS")]
    drain_time_s: Option<u64>,
    /// trace, debug, info, warning, error, critical or off
    #[arg(short, long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// The cluster of the xDS node
    #[arg(long, value_name = "NAME")]
    service_cluster: Option<String>,
    /// The id of the xDS node
    #[arg(long, value_name = "ID")]
    service_node: Option<String>,
    /// serve, or validate to only read the bootstrap
    #[arg(long, default_value = "serve", value_parser = ["serve", "validate"])]
    mode: String,
    #[command(flatten)]
    accepted: Accepted,
}

/// What changes nothing here, or is always so.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Accepted without effect")]
#[allow(missing_docs, reason = "Envoy's names; they have no effect")]
struct Accepted {
    #[arg(long, hide = true)]
    drain_strategy: Option<String>,
    #[arg(long, hide = true)]
    parent_shutdown_time_s: Option<u64>,
    #[arg(long, hide = true)]
    local_address_ip_version: Option<String>,
    #[arg(long, hide = true)]
    file_flush_interval_msec: Option<u64>,
    #[arg(long, hide = true)]
    file_flush_min_size_kb: Option<u64>,
    #[arg(long, hide = true)]
    component_log_level: Option<String>,
    #[arg(long, hide = true)]
    log_format: Option<String>,
    #[arg(long, hide = true)]
    log_path: Option<String>,
    #[arg(long, hide = true)]
    base_id: Option<u32>,
    #[arg(long, hide = true)]
    restart_epoch: Option<u32>,
    #[arg(long, hide = true)]
    disable_hot_restart: bool,
    #[arg(long, hide = true)]
    allow_unknown_static_fields: bool,
    #[arg(long, hide = true)]
    reject_unknown_dynamic_fields: bool,
    #[arg(long, hide = true)]
    ignore_unknown_dynamic_fields: bool,
    #[arg(long, hide = true)]
    skip_deprecated_logs: bool,
    #[arg(long, hide = true)]
    enable_core_dump: bool,
}

impl EnvoyArgs {
    /// Envoy's arguments, if the process was started with some: Eastgate's own begin with a command.
    pub fn of_process() -> Option<Self> {
        Self::is_meant(std::env::args().skip(1)).then(Self::parse)
    }

    fn is_meant(mut arguments: impl Iterator<Item = String>) -> bool {
        let first = arguments.next();
        first.is_some_and(|first| {
            first.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&first.as_str())
        })
    }

    /// Is the bootstrap only to be read?
    pub fn only_validates(&self) -> bool {
        self.mode == "validate"
    }

    /// The effective settings, and what of the bootstrap is not served.
    ///
    /// # Errors
    /// The file cannot be read, or a field of it cannot be used; the error names it.
    pub fn settings(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<(Settings, Vec<String>)> {
        let path = self.config_path.display();
        let text =
            std::fs::read_to_string(&self.config_path).with_context(|| format!("cannot read {path}"))?;
        let read = |text: &str| serde_saphyr::from_str::<Value>(text);
        let mut bootstrap = read(&text).with_context(|| format!("{path} is neither JSON nor YAML"))?;
        if let Some(more) = &self.config_yaml {
            lay(&mut bootstrap, read(more).context("--config-yaml is not YAML")?);
        }
        let (settings, unserved) = envoy::settings(&bootstrap).with_context(|| path.to_string())?;
        let level = self.log_level.as_deref().map(level);
        let settings = Layers::new()
            .map(&settings)?
            .flag("node.id", self.service_node.clone())
            .flag("node.service_cluster", self.service_cluster.clone())
            .flag("threads", self.concurrency)
            .flag("drain.timeout", self.drain_time_s.map(|seconds| format!("{seconds}s")))
            .flag("log.level", level)
            .environment(environment)?
            .settings()?;
        Ok((settings, unserved))
    }
}

/// The gateway's log level for Envoy's.
fn level(envoys: &str) -> &str {
    match envoys {
        "trace" => "debug",
        "warning" => "warn",
        "critical" | "off" => "error",
        same => same,
    }
}

/// Maps are merged and everything else is replaced, as Envoy merges `--config-yaml`.
fn lay(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                lay(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        EnvoyArgs::command().debug_assert();
    }

    #[test]
    fn what_begins_with_a_command_or_asks_for_help_is_our_own() {
        let meant = |line: &str| EnvoyArgs::is_meant(line.split_whitespace().map(str::to_owned));
        assert!(meant("-c bootstrap.json"));
        assert!(meant("--drain-time-s 45 -c bootstrap.json"));
        for line in ["", "run --mesh-dir d", "--help", "-V", "demo"] {
            assert!(!meant(line), "{line}");
        }
    }

    #[test]
    fn the_agents_arguments_are_understood() {
        let line = "envoy -c b.json --drain-time-s 45 --drain-strategy immediate --local-address-ip-version v4 \
                    --file-flush-interval-msec 1000 --disable-hot-restart --allow-unknown-static-fields -l warning \
                    --component-log-level misc:error --skip-deprecated-logs --concurrency 2";
        let args = EnvoyArgs::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!((args.concurrency, args.drain_time_s), (Some(2), Some(45)));
        assert_eq!(args.log_level.as_deref().map(level), Some("warn"));
    }
}
