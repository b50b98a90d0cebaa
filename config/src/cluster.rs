//! A named group of endpoints and how one of them is chosen and reached.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration;
use crate::endpoint::{Endpoint, MAX_ADDITIONAL};
use crate::locality::Locality;

mod policy;
mod tls;

pub use policy::{HashFunction, LeastRequest, MAX_MAGLEV_TABLE, MAX_RING, Policy, RingHash, ZoneAware};
pub use tls::{TlsMode, UpstreamTls};

/// How long a connection attempt may take where no DestinationRule or Cluster says otherwise
/// (Istio's `MeshConfig.connectTimeout`).
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What DNS names resolve to at present: IPv4 and IPv6.
pub type Resolutions = BTreeMap<String, Vec<IpAddr>>;

/// The endpoints of one locality.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LocalityEndpoints {
    /// Where they stand.
    pub locality: Locality,
    /// 0 is used first; a higher number only when the lower ones have nothing to offer.
    pub priority: u32,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Its share against the other localities of its priority, where the cluster weighs localities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// How upstream sockets are kept alive (`TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keepalive {
    /// Silence before the first probe.
    #[serde(with = "duration::text")]
    pub time: Duration,
    /// Between probes.
    #[serde(with = "duration::text")]
    pub interval: Duration,
    /// Unanswered probes before the connection is given up.
    pub probes: u32,
}

/// How many retries may be under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBudget {
    /// For so many of a hundred connections.
    pub percent: u32,
    /// And never fewer than these.
    pub min_concurrency: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, min_concurrency: 3 }
    }
}

/// A named group of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Its name, unique in a snapshot.
    pub name: String,
    /// How an endpoint is chosen.
    pub policy: Policy,
    /// How that compares, if it is the one that does.
    #[serde(skip_serializing_if = "LeastRequest::is_default")]
    pub least_request: LeastRequest,
    /// For one connection attempt.
    #[serde(with = "duration::text")]
    pub connect_timeout: Duration,
    /// Where it differs from the process's own setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Keepalive>,
    /// The most open connections that the cluster takes (DestinationRule `connectionPool.tcp.maxConnections`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Its endpoints, by locality.
    pub localities: Vec<LocalityEndpoints>,
    /// How its DNS names are resolved, where it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// The most connection attempts in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending_connections: Option<u32>,
    /// The most connections in their second or later attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// The share of connections that may be in their second or later attempt; goes before `max_retries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// The most open connections of each endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections_per_endpoint: Option<u32>,
    /// Where connections come from: the first that is of the endpoint's family; none: as the process's settings say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_addresses: Vec<IpAddr>,
    /// When an endpoint that fails is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// How endpoints are asked whether they are well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub health_checks: Vec<HealthCheck>,
    /// With less than this share of healthy endpoints, in percent, health is not regarded any more; 0 is never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<u32>,
    /// Localities share connections by their weights.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub locality_weighted: bool,
    /// Connections stay in the gateway's zone as far as it has its share of the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_aware: Option<ZoneAware>,
    /// A priority takes everything while its healthy share times this is at least 1; in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overprovisioning_factor: Option<u32>,
    /// How a new endpoint comes to its full share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// A PROXY protocol header is sent to its endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyVersion>,
    /// Open connections to an endpoint that fails its health check are closed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub close_on_health_failure: bool,
    /// The TLS that the source wants spoken to its endpoints, inside which a client's own TLS would be passed through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<UpstreamTls>>,
    /// Endpoints that the source has and the gateway cannot use.
    #[serde(skip_serializing_if = "Skipped::is_none")]
    pub skipped: Skipped,
    /// The configuration that it was made from, where the source names it; for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub origin: String,
}

/// How the DNS names of a cluster are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// A new connection goes to the first address of the newest answer, or to another where that is not reached, and
    /// older ones stay (Envoy's `LOGICAL_DNS`); otherwise every address of the answer is an endpoint, and what is not
    /// in it is none (`STRICT_DNS`).
    pub logical: bool,
    /// How often.
    #[serde(with = "duration::text")]
    pub refresh: Duration,
    /// The answer's own time to live goes before `refresh`.
    pub respect_ttl: bool,
    /// Which addresses are asked for.
    pub family: DnsFamily,
}

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DnsFamily {
    /// IPv6, and IPv4 where there is no IPv6.
    #[default]
    Auto,
    /// IPv4 alone.
    V4Only,
    /// IPv6 alone.
    V6Only,
    /// IPv4, and IPv6 where there is no IPv4.
    V4Preferred,
    /// Both.
    All,
}

impl DnsFamily {
    /// Those of a name's addresses that are used.
    fn choose(self, addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
        let has = |v4| addresses.iter().any(|address| address.is_ipv4() == v4);
        let (v4, v6) = match self {
            Self::Auto => (!has(false), true),
            Self::V4Only => (true, false),
            Self::V6Only => (false, true),
            Self::V4Preferred => (true, !has(true)),
            Self::All => (true, true),
        };
        addresses.iter().copied().filter(move |address| if address.is_ipv4() { v4 } else { v6 })
    }
}

/// When an endpoint that fails is left out for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlierDetection {
    /// So many failed connections in a row; none never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<u32>,
    /// How often that ejects, in percent: an outlier that is let off begins a new row.
    #[serde(skip_serializing_if = "is_always")]
    pub consecutive_enforcing: u32,
    /// Between two looks at shares and at endpoints whose time is over.
    #[serde(with = "duration::text")]
    pub interval: Duration,
    /// For how long, times the number of times in a row.
    #[serde(with = "duration::text")]
    pub base_ejection_time: Duration,
    /// For how long at the most.
    #[serde(with = "duration::text")]
    pub max_ejection_time: Duration,
    /// And up to so much longer, at random.
    #[serde(with = "duration::text")]
    pub max_ejection_jitter: Duration,
    /// The largest share of the cluster that is left out, in percent.
    pub max_ejection_percent: u32,
    /// One endpoint may be left out whatever its share.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub always_eject_one: bool,
    /// Leaves out what succeeds much less often than the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// Leaves out what fails more often than a fixed share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_percentage: Option<FailurePercentage>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_always(percent: &u32) -> bool {
    *percent == 100
}

/// Comparison with the other endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SuccessRate {
    /// Only with so many endpoints that have ...
    pub minimum_hosts: u32,
    /// ... so many connections in the interval.
    pub request_volume: u32,
    /// Thousandths of a standard deviation below the mean.
    pub stdev_factor: u32,
    /// How often that ejects, in percent.
    #[serde(skip_serializing_if = "is_always")]
    pub enforcing: u32,
}

/// Comparison with a fixed share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FailurePercentage {
    /// The share of failures, in percent.
    pub threshold: u32,
    /// Only with so many endpoints that have ...
    pub minimum_hosts: u32,
    /// ... so many connections in the interval.
    pub request_volume: u32,
    /// How often that ejects, in percent.
    #[serde(skip_serializing_if = "is_always")]
    pub enforcing: u32,
}

/// How an endpoint is asked whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct HealthCheck {
    /// How often.
    #[serde(with = "duration::text")]
    pub interval: Duration,
    /// For one attempt.
    #[serde(with = "duration::text")]
    pub timeout: Duration,
    /// So many failures in a row make it unhealthy ...
    pub unhealthy_threshold: u32,
    /// ... and so many successes healthy.
    pub healthy_threshold: u32,
    /// Up to so much is added to each interval at random.
    #[serde(with = "duration::text")]
    pub jitter: Duration,
    /// How often while the cluster has not had a connection yet, where that is another.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::optional_text")]
    pub no_traffic_interval: Option<Duration>,
    /// Asked at this port instead of the endpoint's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What is asked.
    pub probe: Probe,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Connects, sends, and looks for what is to come back, in this order.
    Tcp {
        /// Empty sends nothing.
        send: Vec<u8>,
        /// Empty is content with the connection.
        receive: Vec<Vec<u8>>,
    },
    /// `GET`, and looks at the status.
    Http {
        /// The `Host` header; empty for the cluster's name.
        host: String,
        /// The path.
        path: String,
        /// From the first to before the second; empty is 200 alone.
        expected: Vec<(u16, u16)>,
    },
    /// Asks gRPC's health service (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
    Grpc {
        /// The service asked about; empty for the server as a whole.
        service: String,
        /// The `:authority`; empty for the cluster's name.
        authority: String,
    },
    /// Sends a ClientHello and looks for a ServerHello. No certificate is shown, and none looked at.
    Tls {
        /// The server name; empty for the one that the cluster's clients ask for.
        server_name: String,
        /// The protocols to offer (ALPN).
        protocols: Vec<String>,
    },
}

/// How a new endpoint comes to its full share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SlowStart {
    /// For how long it is new.
    #[serde(with = "duration::text")]
    pub window: Duration,
    /// Thousandths; 1000 grows evenly, more grows faster at first.
    pub aggression: u32,
    /// The share that it starts with, in percent.
    pub min_weight_percent: u32,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Endpoints that the source has and the gateway cannot use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Their address is inside Envoy (an internal listener, a pipe) and nowhere else.
    pub internal: u32,
    /// The control plane wants their connections wrapped in TLS or something else that a passthrough gateway does
    /// not do; bare bytes must not reach them.
    pub wrapped: u32,
}

impl Skipped {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Cluster {
    /// Those addresses of an endpoint's DNS name that are endpoints in this cluster.
    pub fn resolve(&self, host: &str, resolved: &Resolutions) -> impl Iterator<Item = IpAddr> {
        let most = if self.is_logical() { 1 } else { usize::MAX };
        self.addresses(host, resolved).take(most)
    }

    /// Where only the first address of a DNS name is an endpoint (`LOGICAL_DNS`), the others: they are tried when the
    /// first is not reached, as Envoy does it (Happy Eyeballs).
    pub fn resolve_others(&self, host: &str, resolved: &Resolutions) -> impl Iterator<Item = IpAddr> {
        let most = if self.is_logical() { MAX_ADDITIONAL } else { 0 };
        self.addresses(host, resolved).skip(1).take(most)
    }

    fn is_logical(&self) -> bool {
        self.dns.as_ref().is_some_and(|dns| dns.logical)
    }

    fn addresses(&self, host: &str, resolved: &Resolutions) -> impl Iterator<Item = IpAddr> {
        let family = self.dns.as_ref().map_or(DnsFamily::All, |dns| dns.family);
        family.choose(resolved.get(host).map_or(&[], Vec::as_slice))
    }

    /// A cluster of this name with every default and these endpoints in one unnamed locality.
    pub fn new(name: impl Into<String>, endpoints: Vec<Endpoint>) -> Self {
        Self {
            name: name.into(),
            policy: Policy::default(),
            least_request: LeastRequest::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            keepalive: None,
            max_connections: None,
            localities: vec![LocalityEndpoints { endpoints, ..Default::default() }],
            dns: None,
            max_pending_connections: None,
            max_retries: None,
            retry_budget: None,
            max_connections_per_endpoint: None,
            source_addresses: Vec::new(),
            outlier_detection: None,
            health_checks: Vec::new(),
            panic_threshold: None,
            locality_weighted: false,
            zone_aware: None,
            overprovisioning_factor: None,
            slow_start: None,
            proxy_protocol: None,
            close_on_health_failure: false,
            tls: None,
            skipped: Skipped::default(),
            origin: String::new(),
        }
    }

    /// Every endpoint, whatever its locality.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_its_addresses_of_the_wanted_family() {
        let (v4, v6): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [1; 16].into());
        let resolved = Resolutions::from([
            ("both".into(), vec![v4, v6]),
            ("old".into(), vec![v4]),
            ("new".into(), vec![v6]),
        ]);
        for (family, wanted) in [
            (DnsFamily::Auto, [vec![v6], vec![v4], vec![v6]]),
            (DnsFamily::V4Only, [vec![v4], vec![v4], vec![]]),
            (DnsFamily::V6Only, [vec![v6], vec![], vec![v6]]),
            (DnsFamily::V4Preferred, [vec![v4], vec![v4], vec![v6]]),
            (DnsFamily::All, [vec![v4, v6], vec![v4], vec![v6]]),
        ] {
            let mut cluster = Cluster::new("c", Vec::new());
            cluster.dns = Some(Dns { logical: false, refresh: Duration::ZERO, respect_ttl: false, family });
            let stands_for = |host| cluster.resolve(host, &resolved).collect::<Vec<_>>();
            assert_eq!(["both", "old", "new"].map(stands_for), wanted, "{family:?}");
            let mut logical = cluster.clone();
            logical.dns = cluster.dns.clone().map(|dns| Dns { logical: true, ..dns });
            let first = |host| logical.resolve(host, &resolved).collect::<Vec<_>>();
            let wanted = wanted.map(|all| all.into_iter().take(1).collect::<Vec<IpAddr>>());
            assert_eq!(["both", "old", "new"].map(first), wanted);
            let others = |host| logical.resolve_others(host, &resolved).collect::<Vec<_>>();
            let left = |host| stands_for(host).split_off(1.min(stands_for(host).len()));
            assert_eq!(["both", "old", "new"].map(others), ["both", "old", "new"].map(left));
            assert_eq!(cluster.resolve_others("both", &resolved).count(), 0);
            assert!(stands_for("unknown").is_empty());
        }
    }
}
