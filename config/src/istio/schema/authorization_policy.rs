//! `security.istio.io` AuthorizationPolicy.

use serde::Deserialize;
use serde_json::Value;

use super::WorkloadSelector;

/// The message `AuthorizationPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct AuthorizationPolicy {
    pub(in crate::istio) selector: Option<WorkloadSelector>,
    pub(in crate::istio) target_ref: Value,
    pub(in crate::istio) target_refs: Value,
    pub(in crate::istio) rules: Vec<Rule>,
    pub(in crate::istio) action: Action,
    pub(in crate::istio) provider: Value,
}

/// The enumeration `AuthorizationPolicy.Action`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::istio) enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// The message `Rule`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Rule {
    pub(in crate::istio) from: Vec<From>,
    pub(in crate::istio) to: Vec<To>,
    pub(in crate::istio) when: Vec<Condition>,
}

/// The message `Rule.From`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct From {
    pub(in crate::istio) source: Option<Source>,
}

/// The message `Source`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Source {
    pub(in crate::istio) principals: Vec<String>,
    pub(in crate::istio) not_principals: Vec<String>,
    pub(in crate::istio) request_principals: Vec<String>,
    pub(in crate::istio) not_request_principals: Vec<String>,
    pub(in crate::istio) namespaces: Vec<String>,
    pub(in crate::istio) not_namespaces: Vec<String>,
    pub(in crate::istio) service_accounts: Vec<String>,
    pub(in crate::istio) not_service_accounts: Vec<String>,
    pub(in crate::istio) ip_blocks: Vec<String>,
    pub(in crate::istio) not_ip_blocks: Vec<String>,
    pub(in crate::istio) remote_ip_blocks: Vec<String>,
    pub(in crate::istio) not_remote_ip_blocks: Vec<String>,
}

/// The message `Rule.To`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct To {
    pub(in crate::istio) operation: Option<Operation>,
}

/// The message `Operation`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Operation {
    pub(in crate::istio) hosts: Vec<String>,
    pub(in crate::istio) not_hosts: Vec<String>,
    pub(in crate::istio) ports: Vec<String>,
    pub(in crate::istio) not_ports: Vec<String>,
    pub(in crate::istio) methods: Vec<String>,
    pub(in crate::istio) not_methods: Vec<String>,
    pub(in crate::istio) paths: Vec<String>,
    pub(in crate::istio) not_paths: Vec<String>,
}

/// The message `Condition`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Condition {
    pub(in crate::istio) key: String,
    pub(in crate::istio) values: Vec<String>,
    pub(in crate::istio) not_values: Vec<String>,
}
