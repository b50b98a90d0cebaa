//! The parts that matter of Kubernetes' Service, EndpointSlice and Pod.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Labels, or_default};

/// `spec` of a Service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::istio) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(in crate::istio) kind: String,
    pub(in crate::istio) external_name: String,
    /// `None` where the Service is headless.
    #[serde(rename = "clusterIP")]
    pub(in crate::istio) cluster_ip: String,
    /// Where it has addresses of two families; the first is `clusterIP`.
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    pub(in crate::istio) cluster_ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) selector: Labels,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::istio) struct ServicePort {
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) protocol: String,
    pub(in crate::istio) port: i64,
    /// A number, or the name of a container's port.
    pub(in crate::istio) target_port: Value,
}

/// An EndpointSlice without its metadata.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::istio) struct EndpointSlice {
    pub(in crate::istio) address_type: String,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) endpoints: Vec<SliceEndpoint>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) ports: Vec<SlicePort>,
}

/// A port of an EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::istio) struct SlicePort {
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) name: String,
    pub(in crate::istio) port: Option<i64>,
}

/// An endpoint of an EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::istio) struct SliceEndpoint {
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) addresses: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) conditions: Conditions,
    pub(in crate::istio) target_ref: Option<TargetRef>,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) zone: String,
    /// `topology` until discovery.k8s.io/v1beta1, `deprecatedTopology` since.
    #[serde(deserialize_with = "or_default", alias = "topology")]
    pub(in crate::istio) deprecated_topology: BTreeMap<String, String>,
}

/// What is known of an endpoint's state; unknown is `None`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::istio) struct Conditions {
    pub(in crate::istio) ready: Option<bool>,
    pub(in crate::istio) serving: Option<bool>,
    pub(in crate::istio) terminating: Option<bool>,
}

/// The object behind an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::istio) struct TargetRef {
    pub(in crate::istio) kind: String,
    pub(in crate::istio) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(in crate::istio) namespace: String,
}
