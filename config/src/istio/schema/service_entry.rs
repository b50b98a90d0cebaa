//! `networking.istio.io` ServiceEntry and WorkloadEntry.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Labels, WorkloadSelector};

/// The message `ServiceEntry`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct ServiceEntry {
    pub(in crate::istio) hosts: Vec<String>,
    pub(in crate::istio) addresses: Vec<String>,
    pub(in crate::istio) ports: Vec<ServicePort>,
    pub(in crate::istio) location: Location,
    pub(in crate::istio) resolution: Resolution,
    pub(in crate::istio) endpoints: Vec<WorkloadEntry>,
    pub(in crate::istio) workload_selector: Option<WorkloadSelector>,
    pub(in crate::istio) export_to: Vec<String>,
    pub(in crate::istio) subject_alt_names: Vec<String>,
}

/// The message `ServicePort`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct ServicePort {
    pub(in crate::istio) number: i64,
    pub(in crate::istio) protocol: String,
    pub(in crate::istio) name: String,
    pub(in crate::istio) target_port: Option<i64>,
}

/// The enumeration `ServiceEntry.Location`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(in crate::istio) enum Location {
    #[default]
    MeshExternal,
    MeshInternal,
}

/// The enumeration `ServiceEntry.Resolution`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(in crate::istio) enum Resolution {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

/// The message `WorkloadEntry`: an endpoint of a ServiceEntry, or a resource of its own.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct WorkloadEntry {
    pub(in crate::istio) address: String,
    pub(in crate::istio) ports: BTreeMap<String, i64>,
    pub(in crate::istio) labels: Labels,
    pub(in crate::istio) network: String,
    pub(in crate::istio) locality: String,
    pub(in crate::istio) weight: i64,
    pub(in crate::istio) service_account: String,
}
