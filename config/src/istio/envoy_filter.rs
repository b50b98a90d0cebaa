//! EnvoyFilter: the rewrites of Istio's `tcp_cluster_rewrite` filter, in the form of every release that had it.

use serde_json::Value;

use super::findings::Findings;
use super::schema::envoy_filter as schema;
use super::schema::{Labels, decode};
use crate::route::Rewrite;

/// The name that the filter was registered under.
const FILTER: &str = "envoy.filters.network.tcp_cluster_rewrite";
/// Its message, whatever package it is said to be of.
const MESSAGE: &str = "TcpClusterRewrite";

/// An EnvoyFilter, checked; patches of other filters are gone, with a notice each.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EnvoyFilter {
    pub(super) selector: Labels,
    pub(super) rewrites: Vec<ListenerRewrite>,
}

/// A rewrite and where it applies.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ListenerRewrite {
    /// Every `AUTO_PASSTHROUGH` listener where it names no port.
    pub(super) port: Option<u16>,
    /// Only the listener of this name, where it names one.
    pub(super) listener: Option<String>,
    pub(super) rewrite: Rewrite,
}

/// The filter's own configuration; protobuf's JSON takes both spellings.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    #[serde(rename = "@type")]
    _message: String,
    #[serde(alias = "clusterPattern")]
    cluster_pattern: String,
    #[serde(alias = "clusterReplacement")]
    cluster_replacement: String,
}

impl EnvoyFilter {
    /// Checks an EnvoyFilter.
    pub(super) fn parse(schema: &schema::EnvoyFilter, findings: &mut Findings) -> Self {
        let mut rewrites = Vec::new();
        for (index, filter) in schema.filters.iter().enumerate() {
            rewrites.extend(parse_filter(filter, &format!("spec.filters[{index}]"), findings));
        }
        for (index, patch) in schema.config_patches.iter().enumerate() {
            rewrites.extend(parse_patch(patch, &format!("spec.configPatches[{index}]"), findings));
        }
        if !schema.target_refs.is_null() {
            findings.notice(
                "spec.targetRefs",
                "targetRefs is not used: the filter applies by its workloadSelector",
            );
        }
        let selector = match &schema.workload_selector {
            Some(selector) => selector.labels.clone(),
            None => schema.workload_labels.clone(),
        };
        Self { selector, rewrites }
    }
}

/// Istio 1.1 to 1.4.
fn parse_filter(filter: &schema::Filter, field: &str, findings: &mut Findings) -> Option<ListenerRewrite> {
    let matches = &filter.listener_match;
    if matches.listener_type.starts_with("SIDECAR") {
        return None;
    }
    if filter.filter_name != FILTER {
        findings.notice(field, not_used(&filter.filter_name));
        return None;
    }
    let port = parse_port(matches.port_number, &format!("{field}.listenerMatch.portNumber"), findings)?;
    let rewrite = parse_settings(&filter.filter_config, &format!("{field}.filterConfig"), findings)?;
    Some(ListenerRewrite { port, listener: None, rewrite })
}

/// Istio 1.5 and later.
fn parse_patch(patch: &schema::ConfigPatch, field: &str, findings: &mut Findings) -> Option<ListenerRewrite> {
    if patch.matches.context.starts_with("SIDECAR") {
        return None;
    }
    let value = &patch.patch.value;
    let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
    let (settings, settings_field) = settings_of(value, &format!("{field}.patch.value"));
    let is_ours = name == FILTER || settings.is_some_and(|settings| type_of(settings).ends_with(MESSAGE));
    let is_network = matches!(patch.apply_to.as_str(), "NETWORK_FILTER" | "");
    if !is_ours || !is_network {
        let what = if name.is_empty() { patch.apply_to.as_str() } else { name };
        findings.notice(field, not_used(what));
        return None;
    }
    match patch.patch.operation.as_str() {
        "ADD" | "INSERT_BEFORE" | "INSERT_AFTER" | "INSERT_FIRST" => {}
        other => {
            let message =
                format!("a patch that is to {other} {FILTER} is not used; add the filter with INSERT_AFTER");
            findings.notice(format!("{field}.patch.operation"), message);
            return None;
        }
    }
    let Some(settings) = settings else {
        findings.refuse(
            settings_field,
            "the filter has no typed_config; give it cluster_pattern and cluster_replacement",
        );
        return None;
    };
    if !patch.matches.proxy.is_null() {
        let message =
            "a match by proxy is not used: the patch is taken as one for this gateway, whatever its version";
        findings.notice(format!("{field}.match.proxy"), message);
    }
    let listener = &patch.matches.listener;
    let port = parse_port(listener.port_number, &format!("{field}.match.listener.portNumber"), findings)?;
    let rewrite = parse_settings(settings, &settings_field, findings)?;
    let name = Some(listener.name.clone()).filter(|name| !name.is_empty());
    Some(ListenerRewrite { port, listener: name, rewrite })
}

fn not_used(what: &str) -> String {
    let what = if what.is_empty() { "something without a name" } else { what };
    format!("a patch of {what} is not used: of all EnvoyFilters this gateway knows {FILTER} alone")
}

/// `config` (1.5, 1.6), `typed_config` (1.7), and a `TypedStruct` in either spelling around the settings.
fn settings_of<'a>(value: &'a Value, field: &str) -> (Option<&'a Value>, String) {
    for name in ["typed_config", "typedConfig", "config"] {
        let Some(settings) = value.get(name) else { continue };
        let is_struct =
            settings.get("@type").and_then(Value::as_str).is_some_and(|of| of.ends_with("TypedStruct"));
        if is_struct && type_of(settings).ends_with(MESSAGE) {
            return (settings.get("value"), format!("{field}.{name}.value"));
        }
        return (Some(settings), format!("{field}.{name}"));
    }
    (None, format!("{field}.typed_config"))
}

/// The type that a configuration is of, through a `TypedStruct` where there is one.
fn type_of(settings: &Value) -> &str {
    let keys = ["type_url", "typeUrl", "@type"];
    keys.iter().find_map(|key| settings.get(key).and_then(Value::as_str)).unwrap_or_default()
}

/// The outer `None` is a refusal, the inner one every port.
fn parse_port(number: i64, field: &str, findings: &mut Findings) -> Option<Option<u16>> {
    if number == 0 { Some(None) } else { findings.port(field, number).map(Some) }
}

fn parse_settings(value: &Value, field: &str, findings: &mut Findings) -> Option<Rewrite> {
    let settings: Settings = match decode(field, value) {
        Ok(settings) => settings,
        Err((field, reason)) => {
            findings.refuse(field, reason);
            return None;
        }
    };
    let rewrite = Rewrite::new(&settings.cluster_pattern, &settings.cluster_replacement);
    findings.take(&format!("{field}.cluster_pattern"), rewrite)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (EnvoyFilter, Findings) {
        let mut findings = Findings::default();
        let schema: schema::EnvoyFilter = serde_saphyr::from_str(text).unwrap();
        (EnvoyFilter::parse(&schema, &mut findings), findings)
    }

    fn patch(value: &str) -> String {
        format!(
            "configPatches: [{{applyTo: NETWORK_FILTER, match: {{context: GATEWAY, listener: {{portNumber: 15443}}}}, \
             patch: {{operation: INSERT_AFTER, value: {value}}}}}]"
        )
    }

    const SETTINGS: &str = r"cluster_pattern: '\.global$', cluster_replacement: .svc.cluster.local";

    #[test]
    fn the_form_of_every_release_gives_the_same_rewrite() {
        let name = format!("name: {FILTER}");
        let package = "type.googleapis.com/istio.envoy.config.filter.network.tcp_cluster_rewrite.v2alpha1";
        let forms = [
            format!(
                "filters: [{{listenerMatch: {{portNumber: 15443, listenerType: GATEWAY}}, filterName: {FILTER}, \
                 filterType: NETWORK, filterConfig: {{{SETTINGS}}}}}]"
            ),
            patch(&format!("{{{name}, config: {{{SETTINGS}}}}}")),
            patch(&format!("{{{name}, typed_config: {{'@type': {package}.{MESSAGE}, {SETTINGS}}}}}")),
            patch(&format!(
                "{{{name}, typed_config: {{'@type': type.googleapis.com/udpa.type.v1.TypedStruct, \
                 type_url: {package}.{MESSAGE}, value: {{{SETTINGS}}}}}}}"
            )),
        ];
        let expected = Rewrite::new(r"\.global$", ".svc.cluster.local").unwrap();
        for form in forms {
            let (filter, findings) = parse(&form);
            assert!(findings.refusals.is_empty() && findings.notices.is_empty(), "{form}: {findings:?}");
            let expected = ListenerRewrite { port: Some(15443), listener: None, rewrite: expected.clone() };
            assert_eq!(filter.rewrites, [expected], "{form}");
        }
    }

    #[test]
    fn other_filters_are_noticed_and_sidecars_are_none_of_our_business() {
        let (filter, findings) = parse(&patch("{name: envoy.filters.network.rbac}"));
        assert!(filter.rewrites.is_empty());
        assert!(findings.notices[0].1.contains("rbac"), "{findings:?}");
        let (_, findings) = parse("configPatches: [{applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND}}]");
        assert!(findings.notices.is_empty());
    }

    #[test]
    fn a_broken_or_empty_pattern_is_refused_by_its_field() {
        for pattern in ["''", "'('"] {
            let (_, findings) =
                parse(&patch(&format!("{{name: {FILTER}, config: {{cluster_pattern: {pattern}}}}}")));
            assert_eq!(findings.refusals[0].0, "spec.configPatches[0].patch.value.config.cluster_pattern");
        }
    }
}
