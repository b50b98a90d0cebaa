//! The command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use eastgate_config::bootstrap::{KEYS, Layers, Settings};
use serde_json::{Value, json};

use crate::explain_command::ExplainArgs;
use crate::hello_command::HelloArgs;
use crate::register::{DeregisterArgs, RegisterArgs};
use crate::terminal::{Asking, ClustersArgs, ConnectionsArgs, DrainArgs, LogLevelArgs, TopArgs};
use crate::xds_command::XdsArgs;

mod envoy;
mod vm;

pub use envoy::EnvoyArgs;
pub use vm::{VmCommand, VmRunArgs};

/// An SNI-routing multicluster ingress gateway.
///
/// Peeks at the ClientHello's server name, rewrites *.global, finds the service's endpoints and passes the TLS
/// connection through to one of them.
#[derive(Debug, Parser)]
#[command(name = "eastgate", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Eastgate {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 as asked; 1 it could not be done, or the answer is no (check: refused; explain: \
                          refused everywhere; status: not ready; register, deregister: something is in the way, or there \
                          is nothing of the kind; vm: the directory cannot be used); 2 the command line is wrong";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway
    #[command(after_long_help = settings_help())]
    Run(SettingsArgs),
    /// Show the main job in one process, with pods, a client and a failover
    Demo,
    /// Check a directory of Istio and Kubernetes resources; exit 1 if one is refused
    Check(CheckArgs),
    /// List every name that is reachable from outside, and what makes it so
    Audit(AuditArgs),
    /// Decode raw ClientHellos: what they say, and where they would go
    Hello(HelloArgs),
    /// Explain step by step where a server name goes, or why it is refused
    ///
    /// Exit code 0: it goes to an endpoint. 1: every listener refuses it, or nobody could be asked.
    Explain(ExplainArgs),
    /// What DNS would answer with the mesh of a directory, without a server
    Dns(DnsArgs),
    /// Ask a running gateway about its control plane: status, log, diff, release
    Xds(XdsArgs),
    /// Is a running gateway ready, and what does it do
    Status(Asking),
    /// The clusters of a running gateway
    Clusters(ClustersArgs),
    /// Its endpoints, with why one is out
    Endpoints(ClustersArgs),
    /// Its open connections; kill ends some
    Connections(ConnectionsArgs),
    /// What is busy in it, looked at again every second
    Top(TopArgs),
    /// Have it accept nobody any more, or leave
    Drain(DrainArgs),
    /// Show or set the level of its log
    LogLevel(LogLevelArgs),
    /// Register a workload outside of Kubernetes as an endpoint of a service
    Register(RegisterArgs),
    /// Remove what register made, and nothing else
    Deregister(DeregisterArgs),
    /// Join a VM or bare-metal host to the mesh
    Vm {
        /// What to do for it.
        #[command(subcommand)]
        command: VmCommand,
    },
    /// Print the effective settings
    #[command(after_long_help = settings_help())]
    Config(ConfigArgs),
    /// Write the manual pages into a directory
    Man {
        /// The directory
        dir: PathBuf,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// `eastgate check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The directory, or one file
    pub dir: PathBuf,
    /// Print text or JSON
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settings: SettingsArgs,
}

/// `eastgate audit`: of the directory that `--mesh-dir` names, or else of the running gateway at `--admin`
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Print text or JSON
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settings: SettingsArgs,
}

/// `eastgate config`
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Print YAML or JSON
    #[arg(short, long, default_value = "yaml", value_parser = ["yaml", "json"])]
    pub output: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settings: SettingsArgs,
}

/// `eastgate dns`
#[derive(Debug, Args)]
pub struct DnsArgs {
    /// The name, or an address for its hosts; without it, every name is printed with its addresses
    pub name: Option<String>,
    /// The record type, such as AAAA
    #[arg(short = 't', long = "type", default_value = "A")]
    pub kind: String,
    /// Print text or JSON
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settings: SettingsArgs,
}

/// The flags for common settings; each overrides the environment, and that the file.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArgs {
    /// Settings as YAML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve the Istio and Kubernetes resources in this directory, and watch it
    #[arg(long, value_name = "DIR")]
    pub mesh_dir: Option<PathBuf>,
    /// Serve what a Kubernetes API has: in-cluster, a kubeconfig, or auto [default: auto]
    #[arg(long, value_name = "CONFIG", num_args = 0..=1, default_missing_value = "auto")]
    pub kubernetes: Option<String>,
    /// Serve what this control plane says: HOST:15012 (TLS), http://HOST:15010 or unix:/PATH (repeatable, by priority)
    #[arg(long, value_name = "ADDRESS")]
    pub xds: Vec<String>,
    /// Serve the xDS resources in this file, and watch it
    #[arg(long, value_name = "FILE")]
    pub xds_file: Option<PathBuf>,
    /// Bind a Gateway's port elsewhere, such as 15443=127.0.0.1:8443 (repeatable)
    #[arg(long, value_name = "PORT=ADDRESS", value_parser = pair)]
    pub listen: Vec<(String, String)>,
    /// A label of this gateway, for the selectors of Gateways (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// Answer DNS for the mesh's names at this address, such as 0.0.0.0:53 (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// Metrics and state [default: 127.0.0.1:15000]
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,
    /// Readiness for Kubernetes; empty for none [default: 0.0.0.0:15021]
    #[arg(long, value_name = "ADDRESS")]
    pub readiness: Option<String>,
    /// Data threads; 0 is one for each core [default: 0]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// A file, - for standard output, or empty for none [default: -]
    #[arg(long, value_name = "PATH")]
    pub access_log: Option<String>,
    /// Take over from the process that is met at this path, and be taken over from there
    #[arg(long, value_name = "PATH")]
    pub restart_socket: Option<PathBuf>,
    /// error, warn, info or debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

impl SettingsArgs {
    /// The effective settings: file, then environment, then these flags.
    ///
    /// # Errors
    /// Names the file, key or variable that cannot be used.
    pub fn settings(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<Settings> {
        Ok(self.layers(environment)?.settings()?)
    }

    /// The same, for more flags on top.
    ///
    /// # Errors
    /// As for [`settings`](Self::settings).
    pub fn layers(&self, environment: impl IntoIterator<Item = (String, String)>) -> anyhow::Result<Layers> {
        let mut layers = Layers::new();
        if let Some(path) = &self.config {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            layers = layers.file(&text).with_context(|| path.display().to_string())?;
        }
        let path = |path: &Path| path.display().to_string();
        let map = |pairs: &[(String, String)]| {
            let pairs: BTreeMap<_, _> = pairs.iter().cloned().collect();
            (!pairs.is_empty()).then(|| json!(pairs))
        };
        Ok(layers
            .environment(environment)?
            .flag("source.mesh_dir", self.mesh_dir.as_deref().map(path))
            .flag("source.xds_file", self.xds_file.as_deref().map(path))
            .flag("source.kubernetes.config", self.kubernetes.clone())
            .flag("xds.addresses", (!self.xds.is_empty()).then(|| json!(self.xds)))
            .flag("dns.addresses", (!self.dns.is_empty()).then(|| json!(self.dns)))
            .flag("listen.ports", map(&self.listen))
            .flag("node.labels", map(&self.label))
            .flag("admin.address", self.admin.clone())
            .flag("admin.readiness_address", self.readiness.clone())
            .flag("threads", self.threads.map(Value::from))
            .flag("access_log.path", self.access_log.clone())
            .flag("restart.socket", self.restart_socket.as_deref().map(path))
            .flag("log.level", self.log_level.clone()))
    }
}

/// All settings, for `--help`.
fn settings_help() -> String {
    let defaults = serde_json::to_value(Settings::default()).unwrap_or_default();
    let mut text = String::from("Settings (--config FILE, each also an environment variable):\n\n");
    for key in KEYS {
        let default =
            key.path.split('.').try_fold(&defaults, |node, part| node.get(part)).cloned().unwrap_or_default();
        let default = match default {
            Value::String(text) if text.is_empty() => "none".into(),
            Value::String(text) => text,
            Value::Null => "none".into(),
            Value::Object(map) if map.is_empty() => "{}".into(),
            other => other.to_string(),
        };
        text +=
            &format!("  {}  [{}]\n      {} (default: {default})\n", key.path, key.variable(), key.meaning);
    }
    text
}

/// Writes a manual page for each command.
///
/// # Errors
/// The directory cannot be written to.
pub fn man(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Eastgate::command(), dir)
        .with_context(|| format!("cannot write to {}", dir.display()))
}

/// The completion script for a shell.
pub fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Eastgate::command(), "eastgate", &mut std::io::stdout());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Eastgate::command().debug_assert();
    }

    #[test]
    fn help_names_every_setting() {
        let help = settings_help();
        for key in KEYS {
            assert!(help.contains(&key.variable()), "{}", key.path);
        }
    }

    #[test]
    fn flags_override_the_environment() {
        let command =
            Eastgate::parse_from(["eastgate", "run", "--listen", "15443=127.0.0.1:0", "--threads", "2"]);
        let Command::Run(args) = command.command else { panic!() };
        let environment = [("EASTGATE_THREADS".to_owned(), "7".to_owned())];
        let settings = args.settings(environment).unwrap();
        assert_eq!(settings.threads, 2);
        assert_eq!(settings.listen.ports[&15443], ([127, 0, 0, 1], 0).into());
    }

    #[test]
    fn control_planes_are_given_in_order_and_exclude_other_sources() {
        let with = |more: &[&str]| {
            let command =
                Eastgate::parse_from([&["eastgate", "run", "--xds", "b:1", "--xds", "a:2"], more].concat());
            let Command::Run(args) = command.command else { panic!() };
            args.settings([])
        };
        let addresses = with(&[]).unwrap().xds.addresses;
        assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["b:1", "a:2"]);
        for other in [["--mesh-dir", "/x"], ["--xds-file", "/x"]] {
            assert!(with(&other).unwrap_err().to_string().contains("one source at a time"));
        }
    }
}
