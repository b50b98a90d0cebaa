//! `networking.istio.io` DestinationRule.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Labels, PortSelector, WorkloadSelector};

/// The message `DestinationRule`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct DestinationRule {
    pub(in crate::istio) host: String,
    pub(in crate::istio) traffic_policy: Option<TrafficPolicy>,
    pub(in crate::istio) subsets: Vec<Subset>,
    pub(in crate::istio) export_to: Vec<String>,
    pub(in crate::istio) workload_selector: Option<WorkloadSelector>,
}

/// The message `Subset`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Subset {
    pub(in crate::istio) name: String,
    pub(in crate::istio) labels: Labels,
    pub(in crate::istio) traffic_policy: Option<TrafficPolicy>,
}

/// The messages `TrafficPolicy` and `TrafficPolicy.PortTrafficPolicy`, which share their fields.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct TrafficPolicy {
    pub(in crate::istio) port: Option<PortSelector>,
    pub(in crate::istio) load_balancer: Option<LoadBalancer>,
    pub(in crate::istio) connection_pool: Option<ConnectionPool>,
    pub(in crate::istio) outlier_detection: Option<OutlierDetection>,
    pub(in crate::istio) tls: Option<ClientTls>,
    pub(in crate::istio) port_level_settings: Vec<TrafficPolicy>,
    pub(in crate::istio) tunnel: Value,
    pub(in crate::istio) proxy_protocol: Option<ProxyProtocol>,
    pub(in crate::istio) retry_budget: Value,
}

/// The message `TrafficPolicy.ProxyProtocol`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::istio) struct ProxyProtocol {
    pub(in crate::istio) version: ProxyVersion,
}

/// The enumeration `TrafficPolicy.ProxyProtocol.VERSION`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(in crate::istio) enum ProxyVersion {
    #[default]
    V1,
    V2,
}

/// The message `LoadBalancerSettings`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct LoadBalancer {
    pub(in crate::istio) simple: Option<Simple>,
    pub(in crate::istio) consistent_hash: Option<ConsistentHash>,
    pub(in crate::istio) locality_lb_setting: Option<LocalityLbSetting>,
    pub(in crate::istio) warmup_duration_secs: Option<String>,
    pub(in crate::istio) warmup: Option<Warmup>,
}

/// The message `LocalityLoadBalancerSetting`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct LocalityLbSetting {
    pub(in crate::istio) distribute: Vec<Distribute>,
    pub(in crate::istio) failover: Vec<Failover>,
    pub(in crate::istio) failover_priority: Vec<String>,
    pub(in crate::istio) enabled: Option<bool>,
}

/// The message `LocalityLoadBalancerSetting.Distribute`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Distribute {
    pub(in crate::istio) from: String,
    pub(in crate::istio) to: BTreeMap<String, i64>,
}

/// The message `LocalityLoadBalancerSetting.Failover`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Failover {
    pub(in crate::istio) from: String,
    pub(in crate::istio) to: String,
}

/// The message `WarmupConfiguration`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Warmup {
    pub(in crate::istio) duration: Option<String>,
    pub(in crate::istio) minimum_percent: Option<f64>,
    pub(in crate::istio) aggression: Option<f64>,
}

/// The message `LoadBalancerSettings.ConsistentHashLB`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct ConsistentHash {
    pub(in crate::istio) http_header_name: Value,
    pub(in crate::istio) http_cookie: Value,
    pub(in crate::istio) use_source_ip: bool,
    pub(in crate::istio) http_query_parameter_name: Value,
    pub(in crate::istio) ring_hash: Option<RingHash>,
    pub(in crate::istio) maglev: Option<Maglev>,
    pub(in crate::istio) minimum_ring_size: i64,
}

/// The message `LoadBalancerSettings.ConsistentHashLB.RingHash`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct RingHash {
    pub(in crate::istio) minimum_ring_size: i64,
}

/// The message `LoadBalancerSettings.ConsistentHashLB.MagLev`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Maglev {
    pub(in crate::istio) table_size: i64,
}

/// The message `OutlierDetection`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct OutlierDetection {
    /// Of Istio until 1.5, where it counted gateway errors.
    pub(in crate::istio) consecutive_errors: Option<i64>,
    pub(in crate::istio) split_external_local_origin_errors: bool,
    pub(in crate::istio) consecutive_local_origin_failures: Option<i64>,
    pub(in crate::istio) consecutive_gateway_errors: Option<i64>,
    pub(in crate::istio) consecutive_5xx_errors: Option<i64>,
    pub(in crate::istio) interval: Option<String>,
    pub(in crate::istio) base_ejection_time: Option<String>,
    pub(in crate::istio) max_ejection_percent: i64,
    pub(in crate::istio) min_health_percent: i64,
}

/// The enumeration `LoadBalancerSettings.SimpleLB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(in crate::istio) enum Simple {
    Unspecified,
    LeastConn,
    Random,
    Passthrough,
    RoundRobin,
    LeastRequest,
}

/// The message `ConnectionPoolSettings`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct ConnectionPool {
    pub(in crate::istio) tcp: Option<TcpSettings>,
    pub(in crate::istio) http: Value,
}

/// The message `ConnectionPoolSettings.TCPSettings`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct TcpSettings {
    pub(in crate::istio) max_connections: i64,
    pub(in crate::istio) connect_timeout: Option<String>,
    pub(in crate::istio) tcp_keepalive: Option<TcpKeepalive>,
    pub(in crate::istio) max_connection_duration: Option<String>,
    pub(in crate::istio) idle_timeout: Option<String>,
}

/// The message `ConnectionPoolSettings.TCPSettings.TcpKeepalive`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct TcpKeepalive {
    pub(in crate::istio) probes: i64,
    pub(in crate::istio) time: Option<String>,
    pub(in crate::istio) interval: Option<String>,
}

/// The message `ClientTLSSettings`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct ClientTls {
    pub(in crate::istio) mode: ClientTlsMode,
    pub(in crate::istio) client_certificate: String,
    pub(in crate::istio) private_key: String,
    pub(in crate::istio) ca_certificates: String,
    pub(in crate::istio) credential_name: String,
    pub(in crate::istio) subject_alt_names: Vec<String>,
    pub(in crate::istio) sni: String,
    #[serde(deserialize_with = "super::or_default")]
    pub(in crate::istio) insecure_skip_verify: bool,
    pub(in crate::istio) ca_crl: String,
}

/// The enumeration `ClientTLSSettings.TLSmode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(in crate::istio) enum ClientTlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

impl std::fmt::Display for ClientTlsMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disable => "DISABLE",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::IstioMutual => "ISTIO_MUTUAL",
        })
    }
}
