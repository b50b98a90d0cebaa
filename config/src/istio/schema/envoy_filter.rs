//! `networking.istio.io` EnvoyFilter, with the fields of all its generations.

use serde::Deserialize;
use serde_json::Value;

use super::{Labels, WorkloadSelector};

/// The message `EnvoyFilter`: `workloadLabels` and `filters` until Istio 1.4, the rest since 1.3.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct EnvoyFilter {
    pub(in crate::istio) workload_labels: Labels,
    pub(in crate::istio) filters: Vec<Filter>,
    pub(in crate::istio) workload_selector: Option<WorkloadSelector>,
    pub(in crate::istio) config_patches: Vec<ConfigPatch>,
    pub(in crate::istio) priority: i64,
    pub(in crate::istio) target_refs: Value,
}

/// The message `EnvoyFilter.DeprecatedFilter`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Filter {
    pub(in crate::istio) listener_match: DeprecatedListenerMatch,
    pub(in crate::istio) insert_position: Value,
    pub(in crate::istio) filter_type: String,
    pub(in crate::istio) filter_name: String,
    pub(in crate::istio) filter_config: Value,
}

/// The message `EnvoyFilter.DeprecatedListenerMatch`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct DeprecatedListenerMatch {
    pub(in crate::istio) port_number: i64,
    pub(in crate::istio) port_name_prefix: String,
    pub(in crate::istio) listener_type: String,
    pub(in crate::istio) listener_protocol: String,
    pub(in crate::istio) address: Vec<String>,
}

/// The message `EnvoyFilter.EnvoyConfigObjectPatch`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct ConfigPatch {
    pub(in crate::istio) apply_to: String,
    #[serde(rename = "match")]
    pub(in crate::istio) matches: ObjectMatch,
    pub(in crate::istio) patch: Patch,
}

/// The message `EnvoyFilter.EnvoyConfigObjectMatch`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct ObjectMatch {
    pub(in crate::istio) context: String,
    pub(in crate::istio) proxy: Value,
    pub(in crate::istio) listener: ListenerMatch,
    pub(in crate::istio) route_configuration: Value,
    pub(in crate::istio) cluster: Value,
    pub(in crate::istio) waypoint: Value,
}

/// The message `EnvoyFilter.ListenerMatch`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct ListenerMatch {
    pub(in crate::istio) port_number: i64,
    pub(in crate::istio) port_name: String,
    pub(in crate::istio) filter_chain: Value,
    pub(in crate::istio) listener_filter: String,
    pub(in crate::istio) name: String,
}

/// The message `EnvoyFilter.Patch`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Patch {
    pub(in crate::istio) operation: String,
    pub(in crate::istio) value: Value,
    pub(in crate::istio) filter_class: String,
}
