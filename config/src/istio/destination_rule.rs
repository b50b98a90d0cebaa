//! DestinationRule: how the endpoints of a service are chosen and reached, and which subsets it has.

use std::collections::BTreeSet;

use super::export::Export;
use super::findings::Findings;
use super::schema::Labels;
use super::schema::destination_rule as schema;
use super::traffic_policy::{Policies, Policy};
use crate::server_name::Pattern;

/// A DestinationRule, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DestinationRule {
    /// As written; a name without dots is short for a service of the rule's namespace.
    pub(super) host: Pattern,
    pub(super) exported: Export,
    /// The clients that it is for, where it says so.
    pub(super) clients: Option<Labels>,
    pub(super) policies: Policies,
    pub(super) subsets: Vec<Subset>,
}

/// A named part of a service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subset {
    pub(super) name: String,
    pub(super) labels: Labels,
    policies: Policies,
}

impl DestinationRule {
    /// The policy for a port of the service, or of a subset of it.
    pub(super) fn policy(&self, port: u16, subset: Option<&Subset>) -> Policy {
        let whole = self.policies.at(port);
        subset.map_or_else(|| whole.clone(), |subset| whole.overridden_by(subset.policies.at(port)))
    }

    /// Does it say anything of the service as a whole?
    pub(super) fn has_policy(&self) -> bool {
        self.policies != Policies::default()
    }

    /// Checks a DestinationRule of this namespace.
    pub(super) fn parse(
        schema: &schema::DestinationRule,
        namespace: &str,
        findings: &mut Findings,
    ) -> Option<Self> {
        let wrong =
            |error| format!("{:?} is not a host: {error}; give a service's host or *.suffix", schema.host);
        let host = findings.take("spec.host", schema.host.parse::<Pattern>().map_err(wrong));
        let mut names = BTreeSet::new();
        let mut subsets = Vec::new();
        for (index, subset) in schema.subsets.iter().enumerate() {
            let field = format!("spec.subsets[{index}]");
            if !is_subset_name(&subset.name) {
                let reason =
                    format!("{:?} cannot be part of a server name; use letters, digits and -", subset.name);
                findings.refuse(format!("{field}.name"), reason);
            } else if !names.insert(&subset.name) {
                let reason = format!("there is another subset {}; give each a name of its own", subset.name);
                findings.refuse(format!("{field}.name"), reason);
            }
            let policies = Policies::parse(subset.traffic_policy.as_ref(), &field, findings);
            subsets.push(Subset { name: subset.name.clone(), labels: subset.labels.clone(), policies });
        }
        let exported = Export::parse(&schema.export_to, namespace, "spec.exportTo", findings);
        let clients = schema.workload_selector.as_ref().map(|selector| selector.labels.clone());
        let policies = Policies::parse(schema.traffic_policy.as_ref(), "spec", findings);
        Some(Self { host: host?, exported, clients, policies, subsets })
    }
}

/// The name becomes a label of `outbound_.8000_.v1_.host`, where `_.` would end it.
fn is_subset_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty()
        && name.len() <= 61
        && name.bytes().all(word)
        && !name.contains("_.")
        && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::schema::ClientTlsMode;
    use super::*;
    use crate::cluster;

    fn parse(text: &str) -> (Option<DestinationRule>, Findings) {
        let mut findings = Findings::default();
        let schema: schema::DestinationRule = serde_saphyr::from_str(text).unwrap();
        (DestinationRule::parse(&schema, "bar", &mut findings), findings)
    }

    #[test]
    fn a_subset_overrides_the_whole_and_a_port_inherits_nothing() {
        let (rule, findings) = parse(
            "host: a.b\ntrafficPolicy: {loadBalancer: {simple: RANDOM}, tls: {mode: ISTIO_MUTUAL}, \
             connectionPool: {tcp: {connectTimeout: 3s}}, \
             portLevelSettings: [{port: {number: 81}, tls: {mode: DISABLE}}]}\n\
             subsets: [{name: v1, labels: {v: '1'}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]",
        );
        assert!(findings.refusals.is_empty() && findings.notices.is_empty(), "{findings:?}");
        let rule = rule.unwrap();
        let v1 = rule.policy(80, rule.subsets.first());
        assert_eq!(v1.balance.unwrap().policy, Some(cluster::Policy::RoundRobin));
        assert_eq!(v1.pool.unwrap().connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(rule.policy(81, None), Policy { tls: Some(ClientTlsMode::Disable), ..Policy::default() });
    }

    #[test]
    fn what_is_wrong_is_named_with_its_remedy() {
        let (_, findings) = parse(
            "host: 'a b'\nsubsets: [{name: v1}, {name: v1}, {name: a_.b}]\ntrafficPolicy: {loadBalancer: {simple: PASSTHROUGH}, \
             connectionPool: {tcp: {connectTimeout: soon, maxConnections: -1}}}",
        );
        let fields: Vec<&str> = findings.refusals.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.host",
                "spec.subsets[1].name",
                "spec.subsets[2].name",
                "spec.trafficPolicy.loadBalancer.simple",
                "spec.trafficPolicy.connectionPool.tcp.maxConnections",
                "spec.trafficPolicy.connectionPool.tcp.connectTimeout",
            ]
        );
    }

    #[test]
    fn what_is_ignored_is_noticed() {
        let (_, findings) = parse(
            "host: a.b\ntrafficPolicy: {outlierDetection: {consecutive5xxErrors: 1}, \
             loadBalancer: {consistentHash: {httpHeaderName: x}}}",
        );
        assert_eq!(findings.notices.len(), 2);
    }
}
