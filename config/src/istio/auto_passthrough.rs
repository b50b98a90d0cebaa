//! `AUTO_PASSTHROUGH`: the chains and clusters that istiod derives from the services for such a server, with the
//! names of `.global` clients on top.
//!
//! Istio exposed a service under every name that a rewrite could turn into its own until CVE-2021-31921, and under its
//! own host alone since. Here a server's `hosts` say which: a pattern that covers the service's own host exposes it
//! under that, and one that covers only an alias of it exposes it under that alias.

use std::collections::BTreeSet;

use super::catalog::{Member, MeshService};
use super::destination_rule::Subset;
use super::gateway::{Host, ServerKind};
use super::rules::Matched;
use super::schema::destination_rule::ClientTlsMode;
use super::schema::selects;
use super::servers::OwnedServer;
use super::translation::{Output, World};
use crate::listener::{ChainMatch, FilterChain};
use crate::route::{Rewrite, Route};
use crate::server_name::{Pattern, ServerName, SubsetKey};

/// What clients in the mesh offer (`allIstioMtlsALPNs` in `pilot/pkg/networking/core/listener.go`).
const MESH_PROTOCOLS: [&str; 5] =
    ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// The chains of the `AUTO_PASSTHROUGH` servers of one listener, by service host, port and subset. Their clusters go
/// to the output.
pub(super) fn chains(
    world: &World<'_>,
    servers: &[OwnedServer<'_>],
    rewrites: &[Rewrite],
    out: &mut Output,
) -> Vec<FilterChain> {
    let hosts: Vec<(&OwnedServer<'_>, usize, &Host)> = servers
        .iter()
        .filter(|(_, server)| server.kind == ServerKind::AutoPassthrough)
        .flat_map(|owned| owned.1.hosts.iter().enumerate().map(move |(index, host)| (owned, index, host)))
        .collect();
    let mut chains = Vec::new();
    let mut used: BTreeSet<(&str, &Pattern)> = BTreeSet::new();
    for service in world.catalog.services.values() {
        let namespace = service.namespace();
        let admitting = hosts.iter().filter(|(_, _, host)| host.admits(namespace));
        let patterns: Vec<&Pattern> = admitting.map(|(_, _, host)| &host.pattern).collect();
        if patterns.is_empty() || !service.exported.reaches(&world.options.namespace) {
            continue;
        }
        let exposure = Exposure { world, service, patterns, rewrites };
        used.extend(exposure.add_chains(&mut chains, out).into_iter().map(|pattern| (namespace, pattern)));
    }
    for ((object, server), index, host) in hosts {
        if !used.iter().any(|(namespace, pattern)| *pattern == &host.pattern && host.admits(namespace)) {
            let message = format!(
                "no service is exposed under {}: none that the gateway may see has such a host, or becomes one by the \
                 listener's rewrites",
                host.pattern
            );
            out.notice(object, &format!("{}.hosts[{index}]", server.field), message);
        }
    }
    chains
}

/// One service and the patterns of one listener that may expose it.
struct Exposure<'a> {
    world: &'a World<'a>,
    service: &'a MeshService<'a>,
    patterns: Vec<&'a Pattern>,
    rewrites: &'a [Rewrite],
}

impl<'a> Exposure<'a> {
    /// Adds the chains and gives the patterns that expose them.
    fn add_chains(&self, chains: &mut Vec<FilterChain>, out: &mut Output) -> Vec<&'a Pattern> {
        let covering: Vec<&Pattern> =
            self.patterns.iter().filter(|pattern| pattern.covers(&self.service.host)).copied().collect();
        let rule = self.world.rules.matching(&self.service.host, self.service.namespace());
        let before = chains.len();
        let mut used = BTreeSet::new();
        for port in self.service.ports.keys() {
            let subsets = rule.subsets.values().map(|subset| Some(*subset));
            for subset in std::iter::once(None).chain(subsets) {
                let aliases =
                    if covering.is_empty() { self.aliases(*port, subset_name(subset)) } else { Vec::new() };
                if covering.is_empty() && aliases.is_empty() {
                    continue;
                }
                if let Some(reason) = self.kept_out() {
                    out.notice(
                        self.service.object,
                        "",
                        format!("{} is not exposed: {reason}", self.service.host),
                    );
                    return Vec::new();
                }
                used.extend(if covering.is_empty() { &aliases } else { &covering });
                chains.extend(self.chain(*port, subset, &aliases, &rule, out));
            }
        }
        if chains.len() > before {
            out.uses(self.service.object);
            rule.objects.iter().for_each(|object| out.uses(object));
        }
        used.into_iter().collect()
    }

    /// Why the service is never exposed, whatever the hosts say.
    fn kept_out(&self) -> Option<&'static str> {
        if self.service.external {
            return Some(
                "it is outside the mesh (an ExternalName, or a ServiceEntry without location: MESH_INTERNAL)",
            );
        }
        if !self.service.resolved {
            return Some("it has no endpoints of its own; use resolution STATIC or DNS");
        }
        if !matches!(self.service.host, Pattern::Exact(_)) {
            return Some("its host is a wildcard, which has no server name of its own; list the hosts");
        }
        None
    }

    /// The chain under the service's own name, or, where there are aliases, under these alone.
    fn chain(
        &self,
        port: u16,
        subset: Option<&Subset>,
        aliases: &[&Pattern],
        rule: &Matched<'_>,
        out: &mut Output,
    ) -> Option<FilterChain> {
        let name = self.name(port, subset_name(subset));
        if aliases.is_empty() && self.is_taken_over(&name, out) {
            return None;
        }
        let server_name = match name.parse::<ServerName>() {
            Ok(server_name) => server_name,
            Err(error) => {
                out.notice(self.service.object, "", format!("{name} is not exposed: {error}"));
                return None;
            }
        };
        let policy = rule.policy(port, subset);
        let members = self.members(port, subset, &policy.tls, rule, out);
        // The TLS of the policy is what the clients speak.
        let policy = policy.passing_through();
        out.cluster(&name, members.into_iter(), &policy, self.world.options);
        let protocols = if self.world.options.require_istio_alpn { &MESH_PROTOCOLS[..] } else { &[] };
        Some(FilterChain {
            matches: ChainMatch {
                server_names: vec![Pattern::Exact(server_name)],
                application_protocols: protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
                sent_as: aliases.iter().map(|pattern| (*pattern).clone()).collect(),
                ..ChainMatch::default()
            },
            route: Route::to(&name),
            idle_timeout: policy.idle_timeout(),
            options: policy.chain_options(),
            name: name.into(),
        })
    }

    fn name(&self, port: u16, subset: &str) -> String {
        SubsetKey { port, subset, host: &self.service.host.to_string() }.to_string()
    }

    /// Does the rewrite make another service's name of this one? Then clients mean that one, and this one is how they
    /// find the gateway (in the documented setup its endpoint *is* the gateway).
    fn is_taken_over(&self, name: &str, out: &mut Output) -> bool {
        let rewritten = self.rewrite(name);
        let other = rewritten.as_deref().and_then(SubsetKey::parse);
        let other = other.and_then(|key| self.world.catalog.services.get(key.host));
        let Some(other) = other.filter(|other| other.host != self.service.host) else { return false };
        let message = format!(
            "{} has no chain of its own: the listener's rewrite makes it {}, and its connections go to {}",
            self.service.host, other.host, other.object.name
        );
        out.notice(self.service.object, "spec.hosts", message);
        true
    }

    /// The patterns, sorted, that cover a name which the rewrite turns into the service's own.
    fn aliases(&self, port: u16, subset: &str) -> Vec<&'a Pattern> {
        let host = self.service.host.to_string();
        let name = self.name(port, subset);
        let is_alias = |alias: &String| {
            let sent = SubsetKey { port, subset, host: alias }.to_string();
            sent != name && self.rewrite(&sent).as_deref() == Some(name.as_str())
        };
        let has_alias = |pattern: &&&Pattern| {
            candidates(&host, pattern).any(|alias| pattern.matches(&alias) && is_alias(&alias))
        };
        let found: BTreeSet<&Pattern> = self.patterns.iter().filter(has_alias).copied().collect();
        found.into_iter().collect()
    }

    fn rewrite(&self, name: &str) -> Option<String> {
        self.rewrites.iter().find_map(|rewrite| rewrite.apply(name))
    }

    /// The endpoints that speak mesh TLS: a client's handshake is with them, and anything else would hand mesh
    /// traffic to a server that cannot answer it.
    fn members(
        &self,
        port: u16,
        subset: Option<&Subset>,
        tls: &Option<ClientTlsMode>,
        rule: &Matched<'_>,
        out: &mut Output,
    ) -> Vec<&Member<'_>> {
        let all = self.service.ports.get(&port).map(Vec::as_slice).unwrap_or_default();
        let labelled =
            |member: &&Member<'_>| subset.is_none_or(|subset| selects(&subset.labels, member.labels));
        let chosen: Vec<&Member<'_>> = all.iter().filter(labelled).collect();
        if let Some(mode) = tls.filter(|mode| *mode != ClientTlsMode::IstioMutual) {
            let message = format!(
                "port {port} of {} has no endpoints here: its clients use TLS mode {mode}, and only ISTIO_MUTUAL passes \
                 through a gateway; set that, or leave tls out",
                self.service.host
            );
            rule.objects
                .iter()
                .for_each(|object| out.notice(object, "spec.trafficPolicy.tls.mode", message.clone()));
            return Vec::new();
        }
        let by_rule = tls.is_some();
        let speaks = |member: &&&Member<'_>| member.mesh_tls.unwrap_or(by_rule && !self.is_gateway(member));
        let speaking: Vec<&Member<'_>> = chosen.iter().filter(speaks).copied().collect();
        if speaking.is_empty() {
            let message = match subset {
                None => self.silence(port, all),
                Some(subset) if chosen.is_empty() && !all.is_empty() => {
                    Some(format!("no endpoint of port {port} has the labels of subset {}", subset.name))
                }
                Some(_) => None,
            };
            message.into_iter().for_each(|message| out.notice(self.service.object, "", message));
        }
        speaking
    }

    /// Is a workload that says nothing of itself a gateway, by its port? In the documented setup, the endpoint of a
    /// `.global` entry is the clients' way to a gateway, perhaps to this one. To send it what came from there would go round
    /// for ever.
    fn is_gateway(&self, member: &Member<'_>) -> bool {
        self.world.resources.gateways.iter().flat_map(|(_, gateway)| &gateway.servers).any(|server| {
            server.kind == ServerKind::AutoPassthrough && server.port == member.endpoint.address.port()
        })
    }

    /// Why none of a port's endpoints is used.
    fn silence(&self, port: u16, all: &[Member<'_>]) -> Option<String> {
        let host = &self.service.host;
        if all.is_empty() {
            let unseen = self.service.unseen_message()?;
            return Some(format!("port {port} of {host} has no endpoints here: {unseen}"));
        }
        if all.iter().all(|member| member.mesh_tls.is_none() && self.is_gateway(member)) {
            return Some(format!(
                "port {port} of {host} leads nowhere from here: its endpoints are clients' way to a gateway, by their port, \
                 and what came through a gateway is not sent to one again"
            ));
        }
        Some(format!(
            "none of the {} endpoints of port {port} is known to speak mesh TLS, so none is used; give the Pods, \
             EndpointSlices or workloads the label security.istio.io/tlsMode: istio if they have a sidecar (for a \
             ServiceEntry, a DestinationRule with tls.mode ISTIO_MUTUAL does as well)",
            all.len()
        ))
    }
}

fn subset_name(subset: Option<&Subset>) -> &str {
    subset.map_or("", |subset| &subset.name)
}

/// Names that may be aliases of a host under a pattern: some of the host's first labels with some of the pattern's
/// last ones, and the pattern itself where it is one name.
fn candidates(host: &str, pattern: &Pattern) -> impl Iterator<Item = String> {
    let (given, own) = match pattern {
        Pattern::Exact(name) => (Some(name.to_string()), name.as_str()),
        Pattern::Suffix(suffix) => (None, suffix.as_str()),
        Pattern::Any => (None, ""),
    };
    let ends = |text: &str| -> Vec<String> {
        let starts = std::iter::once(0).chain(text.match_indices('.').map(|(at, _)| at + 1));
        starts.map(|at| text[at..].to_owned()).filter(|end| !end.is_empty()).collect()
    };
    let tails = ends(own);
    let heads: Vec<String> =
        host.match_indices('.').map(|(at, _)| host[..at].to_owned()).chain([host.to_owned()]).collect();
    let joined = heads.into_iter().flat_map(move |head| {
        let tails = tails.clone();
        tails.into_iter().map(move |tail| format!("{head}.{tail}"))
    });
    given.into_iter().chain(joined)
}
