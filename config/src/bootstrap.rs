//! Process settings: one YAML file, overridden by `EASTGATE_...` variables, overridden by flags.
//!
//! [`KEYS`] lists every setting once, with its meaning; the environment's names, the help text and the hint after a
//! misspelt key are all made from it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cidr::Cidr;
use crate::cluster::Keepalive;
use crate::duration;
use crate::xds::{ExtraType, NAME_TABLE};

mod admin;
pub mod dns;
pub mod envoy;
pub mod health;
mod keys;
mod kubernetes;
mod layers;
mod removal;
mod security;
mod telemetry;
mod upstream;
mod vm;
pub mod xds;
pub use admin::{Admin, AdminAddress};
pub use dns::Dns;
pub use health::Health;
pub use keys::{KEYS, Key};
pub use kubernetes::Kubernetes;
pub use layers::{Error, Layers};
pub use removal::Removal;
pub use security::Security;
pub use telemetry::{AccessLog, Format, Log, Metrics, Otlp};
pub use upstream::{HashBy, Hedge, Upstream, UpstreamDns};
pub use vm::Vm;
pub use xds::Xds;

/// The prefix of every environment variable that is a setting.
pub const ENV_PREFIX: &str = "EASTGATE_";

/// The effective settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Settings {
    pub node: Node,
    pub source: Source,
    pub xds: Xds,
    pub dns: Dns,
    pub listen: Listen,
    pub inspect: Inspect,
    pub routing: Routing,
    pub upstream: Upstream,
    pub health: Health,
    pub relay: Relay,
    pub tls: Tls,
    pub vm: Vm,
    pub limits: Limits,
    pub threads: usize,
    pub admin: Admin,
    pub access_log: AccessLog,
    pub metrics: Metrics,
    pub otlp: Otlp,
    pub log: Log,
    pub drain: Drain,
    pub restart: Restart,
    pub security: Security,
}

/// The gateway's own TLS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Tls {
    #[serde(deserialize_with = "empty_is_none")]
    pub certs_dir: Option<PathBuf>,
}

/// Who the gateway is in the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Node {
    pub id: String,
    pub service_cluster: String,
    pub locality: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub cluster_domain: String,
    #[serde(deserialize_with = "empty_is_none")]
    pub address: Option<IpAddr>,
    pub trust_domain: String,
    pub network: String,
    #[serde(deserialize_with = "xds::one_or_many")]
    pub network_view: Vec<String>,
    pub local_cluster: String,
    pub metadata: serde_json::Map<String, Value>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            id: String::new(),
            service_cluster: String::new(),
            locality: String::new(),
            namespace: "istio-system".into(),
            labels: BTreeMap::new(),
            cluster_domain: "cluster.local".into(),
            address: None,
            trust_domain: "cluster.local".into(),
            network: String::new(),
            network_view: Vec::new(),
            local_cluster: String::new(),
            metadata: serde_json::Map::new(),
        }
    }
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Source {
    #[serde(deserialize_with = "empty_is_none")]
    pub mesh_dir: Option<PathBuf>,
    #[serde(deserialize_with = "empty_is_none")]
    pub xds_file: Option<PathBuf>,
    pub kubernetes: Kubernetes,
}

/// Where listeners bind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Listen {
    pub address: IpAddr,
    pub ports: BTreeMap<u16, SocketAddr>,
    pub exact_balance: bool,
    #[serde(deserialize_with = "xds::one_or_many")]
    pub proxy_protocol_from: Vec<Cidr>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::UNSPECIFIED.into(),
            ports: BTreeMap::new(),
            exact_balance: false,
            proxy_protocol_from: Vec::new(),
        }
    }
}

/// Limits on the ClientHello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Inspect {
    pub max_hello_bytes: usize,
    #[serde(with = "duration::text")]
    pub timeout: Duration,
}

/// The most that `inspect.max_hello_bytes` may be.
pub const MAX_HELLO_BYTES: usize = 128 * 1024;

impl Default for Inspect {
    fn default() -> Self {
        Self { max_hello_bytes: 64 * 1024, timeout: Duration::from_secs(10) }
    }
}

/// How names are matched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Routing {
    pub require_istio_alpn: bool,
    pub rewrites: Vec<RewriteRule>,
}

/// A rewrite as it stands in the settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the words of Istio's filter")]
pub struct RewriteRule {
    pub pattern: String,
    pub replacement: String,
}

impl Default for Routing {
    fn default() -> Self {
        Self { require_istio_alpn: true, rewrites: Vec::new() }
    }
}

/// How bytes are moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Relay {
    #[serde(with = "duration::text")]
    pub idle_timeout: Duration,
    pub keepalive: Keepalive,
    pub max_pipes: usize,
    #[serde(with = "duration::text")]
    pub max_duration: Duration,
    pub max_duration_jitter: u32,
    pub shed: Shed,
}

/// When idle connections are taken from endpoints that have more than their share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Shed {
    #[serde(with = "duration::text")]
    pub idle: Duration,
    pub tolerance_percent: u32,
}

impl Default for Shed {
    fn default() -> Self {
        Self { idle: Duration::ZERO, tolerance_percent: 25 }
    }
}

/// Pipes of a data thread where nothing else is set: 16 MiB of the 64 that an unprivileged user has.
pub const DEFAULT_MAX_PIPES: usize = 64;

impl Default for Relay {
    fn default() -> Self {
        // Network load balancers forget a silent connection after 350 s at the least; probes come well before that.
        let keepalive =
            Keepalive { time: Duration::from_secs(60), interval: Duration::from_secs(10), probes: 6 };
        Self {
            idle_timeout: Duration::from_secs(3600),
            keepalive,
            max_pipes: DEFAULT_MAX_PIPES,
            max_duration: Duration::ZERO,
            max_duration_jitter: 10,
            shed: Shed::default(),
        }
    }
}

/// What the gateway takes on at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Limits {
    pub max_connections: usize,
    pub max_pending_hellos: usize,
    pub accept_rate: u32,
    pub reserved_files: u64,
    pub memory_bytes: u64,
    pub memory_pause_percent: u8,
    pub memory_shed_percent: u8,
    pub max_connections_per_client: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 0,
            max_pending_hellos: 10_000,
            max_connections_per_client: 0,
            accept_rate: 0,
            reserved_files: 128,
            memory_bytes: 0,
            memory_pause_percent: 85,
            memory_shed_percent: 95,
        }
    }
}

/// How the gateway leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Drain {
    #[serde(with = "duration::text")]
    pub grace: Duration,
    #[serde(with = "duration::text")]
    pub timeout: Duration,
    #[serde(with = "duration::text")]
    pub close_idle: Duration,
    #[serde(with = "duration::text")]
    pub spread: Duration,
    pub removed_endpoints: Removal,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            // What load balancers and kube-proxies need to hear that the gateway is not ready any more.
            grace: Duration::from_secs(5),
            timeout: Duration::from_secs(45),
            close_idle: Duration::ZERO,
            spread: Duration::from_secs(5),
            removed_endpoints: Removal::Keep,
        }
    }
}

/// How another process takes the gateway's place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Restart {
    #[serde(deserialize_with = "empty_is_none")]
    pub socket: Option<PathBuf>,
}

impl Settings {
    /// How a control plane is listened to, and where its listeners bind.
    pub fn xds_options(&self) -> crate::xds::Options {
        let names = ExtraType { type_url: NAME_TABLE.into(), names: Vec::new() };
        let extra_types = self.dns.is_on().then_some(names).into_iter().collect();
        crate::xds::Options { bind: self.listen.ports.clone(), extra_types, ..self.xds.options() }
    }

    /// Checks what types alone do not say.
    ///
    /// # Errors
    /// Names the first key whose value cannot be.
    fn validate(&self) -> Result<(), Error> {
        let wrong = |key: &str, reason: &str| Err(Error::Value { key: key.into(), reason: reason.into() });
        if !(1..=MAX_HELLO_BYTES).contains(&self.inspect.max_hello_bytes) {
            return wrong("inspect.max_hello_bytes", "give a number from 1 to 131072");
        }
        if self.inspect.timeout.is_zero() {
            return wrong("inspect.timeout", "give a duration above 0, such as 10s");
        }
        if self.upstream.connect_attempts == 0 {
            return wrong("upstream.connect_attempts", "give at least 1");
        }
        if self.upstream.connect_timeout.is_zero() {
            return wrong("upstream.connect_timeout", "give a duration above 0, such as 10s");
        }
        if self.upstream.connect_deadline.is_zero() {
            return wrong("upstream.connect_deadline", "give a duration above 0, such as 15s");
        }
        if self.upstream.retry_budget.percent > 100 {
            return wrong("upstream.retry_budget.percent", "give a number from 0 to 100");
        }
        if self.upstream.hedge.floor > self.upstream.hedge.ceiling {
            return wrong("upstream.hedge.floor", "give at most what upstream.hedge.ceiling says");
        }
        if self.relay.max_duration_jitter > 100 {
            return wrong("relay.max_duration_jitter", "give a number from 0 to 100");
        }
        if self.relay.idle_timeout.is_zero() {
            return wrong("relay.idle_timeout", "give a duration above 0, such as 1h");
        }
        self.health.validate()?;
        self.access_log.validate()?;
        let Limits { memory_pause_percent: pause, memory_shed_percent: shed, .. } = self.limits;
        if !(1..=100).contains(&pause) || !(pause..=100).contains(&shed) {
            return wrong(
                "limits.memory_shed_percent",
                "give percents from 1 to 100, and no less than limits.memory_pause_percent",
            );
        }
        self.xds.validate()?;
        self.source.kubernetes.validate()?;
        self.admin.validate()?;
        self.dns.validate()?;
        self.upstream.dns.validate()?;
        let sources = [
            ("source.mesh_dir (--mesh-dir)", self.source.mesh_dir.is_some()),
            ("source.xds_file (--xds-file)", self.source.xds_file.is_some()),
            ("source.kubernetes.config (--kubernetes)", self.source.kubernetes.config.is_some()),
            ("xds.addresses (--xds)", !self.xds.addresses.is_empty()),
            ("vm.config_dir (vm run)", self.vm.config_dir.is_some()),
        ];
        let given: Vec<_> = sources.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        if given.len() > 1 {
            return wrong(
                "source",
                &format!("there is one source at a time; take away all but one of {}", given.join(", ")),
            );
        }
        for (index, rule) in self.routing.rewrites.iter().enumerate() {
            if let Err(error) = crate::route::Rewrite::new(&rule.pattern, &rule.replacement) {
                return wrong(&format!("routing.rewrites[{index}].pattern"), &error.to_string());
            }
        }
        Ok(())
    }
}

/// An empty text switches an optional setting off: an environment variable has no other way to say so.
fn empty_is_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// The value of a setting in a tree of settings.
fn at<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(tree, |node, part| node.get(part))
}

#[cfg(test)]
mod tests;
