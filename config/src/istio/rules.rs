//! Which DestinationRule counts for a service.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::destination_rule::{DestinationRule, Subset};
use super::resource::Object;
use super::schema::selects;
use super::traffic_policy::Policy;
use super::translation::Resources;
use super::{Options, ROOT_NAMESPACE, full_host};
use crate::server_name::Pattern;

/// A DestinationRule, and the host that it means.
type Rule<'a> = (&'a Object, &'a DestinationRule, Pattern);

/// Every DestinationRule that the gateway may see.
#[derive(Debug, Default)]
pub(super) struct Rules<'a> {
    exact: BTreeMap<String, Vec<Rule<'a>>>,
    wildcards: Vec<Rule<'a>>,
    gateway_namespace: String,
}

/// What DestinationRules say of one service.
#[derive(Debug, Default)]
pub(super) struct Matched<'a> {
    /// The resources that say it.
    pub(super) objects: Vec<&'a Object>,
    primary: Option<&'a DestinationRule>,
    /// By name, the first of each.
    pub(super) subsets: BTreeMap<&'a str, &'a Subset>,
}

impl Matched<'_> {
    /// The policy for a port of the service, or of a subset of it.
    pub(super) fn policy(&self, port: u16, subset: Option<&Subset>) -> Policy {
        self.primary.map(|rule| rule.policy(port, subset)).unwrap_or_default()
    }
}

impl<'a> Rules<'a> {
    pub(super) fn new(resources: &Resources<'a>, options: &Options) -> Self {
        let mut rules = Self { gateway_namespace: options.namespace.clone(), ..Self::default() };
        for &(object, rule) in &resources.destination_rules {
            // A rule with a workloadSelector is for certain clients; without labels the gateway is none of them.
            let is_for_us = rule
                .clients
                .as_ref()
                .is_none_or(|selector| !options.labels.is_empty() && selects(selector, &options.labels));
            if !is_for_us || !rule.exported.reaches(&options.namespace) {
                continue;
            }
            let host = full_host(&rule.host, &object.name.namespace, &options.cluster_domain);
            match &host {
                Pattern::Exact(name) => {
                    rules.exact.entry(name.to_string()).or_default().push((object, rule, host));
                }
                _ => rules.wildcards.push((object, rule, host)),
            }
        }
        rules
    }

    /// What counts for the service with this host in this namespace: the gateway's own namespace is asked first, then
    /// the service's, then the root namespace; in each, the most specific host counts.
    pub(super) fn matching(&self, host: &Pattern, namespace: &str) -> Matched<'a> {
        let exact = self.exact.get(&host.to_string()).into_iter().flatten();
        let wild = self.wildcards.iter().filter(|(_, _, pattern)| pattern.covers(host));
        let candidates: Vec<&Rule<'a>> = exact.chain(wild).collect();
        let own = |rule: &&&Rule<'a>| {
            // In the root namespace rules are defaults for everybody, unless they are for that namespace alone.
            rule.0.name.namespace == self.gateway_namespace
                && (self.gateway_namespace != ROOT_NAMESPACE || rule.1.exported.is_private_to(ROOT_NAMESPACE))
        };
        let tiers: [Vec<&&Rule<'a>>; 3] = [
            candidates.iter().filter(|rule| own(rule)).collect(),
            candidates.iter().filter(|rule| rule.0.name.namespace == namespace).collect(),
            candidates.iter().filter(|rule| rule.0.name.namespace == ROOT_NAMESPACE).collect(),
        ];
        tiers.iter().find(|tier| !tier.is_empty()).map_or_else(Matched::default, |tier| merged(tier))
    }
}

/// Rules of one namespace for one host add up, as in Istio: the first traffic policy counts, and the first subset of
/// each name.
fn merged<'a>(tier: &[&&Rule<'a>]) -> Matched<'a> {
    let Some(best) = tier.iter().min_by_key(|(_, _, host)| specificity(host)) else {
        return Matched::default();
    };
    let same: Vec<_> = tier.iter().filter(|rule| rule.2 == best.2).collect();
    let mut subsets = BTreeMap::new();
    for subset in same.iter().flat_map(|rule| &rule.1.subsets) {
        subsets.entry(subset.name.as_str()).or_insert(subset);
    }
    let primary = same.iter().find(|rule| rule.1.has_policy()).or(same.first());
    Matched {
        objects: same.iter().map(|rule| rule.0).collect(),
        primary: primary.map(|rule| rule.1),
        subsets,
    }
}

/// Smaller is more specific.
fn specificity(host: &Pattern) -> (u8, Reverse<usize>) {
    match host {
        Pattern::Exact(_) => (0, Reverse(0)),
        Pattern::Suffix(suffix) => (1, Reverse(suffix.as_str().len())),
        Pattern::Any => (2, Reverse(0)),
    }
}
