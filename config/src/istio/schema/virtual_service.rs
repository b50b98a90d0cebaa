//! `networking.istio.io` VirtualService.

use serde::Deserialize;
use serde_json::Value;

use super::{Labels, PortSelector};

/// The message `VirtualService`. HTTP routes are another gateway's, and are only known to be there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct VirtualService {
    pub(in crate::istio) hosts: Vec<String>,
    pub(in crate::istio) gateways: Vec<String>,
    pub(in crate::istio) http: Vec<Value>,
    pub(in crate::istio) tls: Vec<TlsRoute>,
    pub(in crate::istio) tcp: Vec<TcpRoute>,
    pub(in crate::istio) export_to: Vec<String>,
}

/// The message `TLSRoute`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct TlsRoute {
    #[serde(rename = "match")]
    pub(in crate::istio) matches: Vec<TlsMatch>,
    pub(in crate::istio) route: Vec<RouteDestination>,
}

/// The message `TLSMatchAttributes`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct TlsMatch {
    #[serde(alias = "sni_hosts")]
    pub(in crate::istio) sni_hosts: Vec<String>,
    pub(in crate::istio) destination_subnets: Vec<String>,
    pub(in crate::istio) port: Option<i64>,
    pub(in crate::istio) source_labels: Labels,
    pub(in crate::istio) source_subnet: String,
    pub(in crate::istio) source_namespace: String,
    pub(in crate::istio) gateways: Vec<String>,
}

/// The message `TCPRoute`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct TcpRoute {
    #[serde(rename = "match")]
    pub(in crate::istio) matches: Vec<L4Match>,
    pub(in crate::istio) route: Vec<RouteDestination>,
}

/// The message `L4MatchAttributes`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct L4Match {
    pub(in crate::istio) destination_subnets: Vec<String>,
    pub(in crate::istio) port: Option<i64>,
    pub(in crate::istio) source_subnet: String,
    pub(in crate::istio) source_labels: Labels,
    pub(in crate::istio) gateways: Vec<String>,
    pub(in crate::istio) source_namespace: String,
}

/// The message `RouteDestination`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct RouteDestination {
    pub(in crate::istio) destination: Option<Destination>,
    pub(in crate::istio) weight: i64,
}

/// The message `Destination`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Destination {
    pub(in crate::istio) host: String,
    pub(in crate::istio) subset: String,
    pub(in crate::istio) port: Option<PortSelector>,
}
