//! `AUTO_PASSTHROUGH`: the chains and clusters that istiod derives from the services for such a server, with the
//! names of `.global` clients on top.
//!
//! Istio exposed a service under every name that a rewrite could turn into its own until CVE-2021-31921, and under its
//! own host alone since. Here a server's `hosts` say which: a pattern that covers the service's own host exposes it
//! under that, and one that covers only an alias of it exposes it under that alias.

use super::catalog::{Member, MeshService};
use super::destination_rule::Subset;
use super::gateway::Host;
use super::listeners::OwnedServer;
use super::rules::Matched;
use super::schema::destination_rule::ClientTlsMode;
use super::schema::selects;
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
    let hosts: Vec<&Host> =
        servers.iter().filter(|(_, server)| server.auto).flat_map(|(_, server)| &server.hosts).collect();
    let mut chains = Vec::new();
    for service in world.catalog.services.values() {
        let patterns: Vec<&Pattern> =
            hosts.iter().filter(|host| host.admits(service.namespace())).map(|host| &host.pattern).collect();
        if patterns.is_empty() || !service.exported.reaches(&world.options.namespace) {
            continue;
        }
        let exposure = Exposure { world, service, patterns, rewrites };
        exposure.add_chains(&mut chains, out);
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

/// How a service is reached.
enum Names {
    Own,
    Aliases(Vec<Pattern>),
}

impl Exposure<'_> {
    fn add_chains(&self, chains: &mut Vec<FilterChain>, out: &mut Output) {
        let is_covered = self.patterns.iter().any(|pattern| pattern.covers(&self.service.host));
        if let Some(reason) = self.kept_out() {
            if is_covered {
                out.notice(
                    self.service.object,
                    "",
                    format!("{} is not exposed: {reason}", self.service.host),
                );
            }
            return;
        }
        let rule = self.world.rules.matching(&self.service.host, self.service.namespace());
        let mut has_chain = false;
        for port in self.service.ports.keys() {
            let subsets = rule.subsets.values().map(|subset| Some(*subset));
            for subset in std::iter::once(None).chain(subsets) {
                let chain = self.chain(*port, subset, is_covered, &rule, out);
                has_chain |= chain.is_some();
                chains.extend(chain);
            }
        }
        if has_chain {
            out.uses(self.service.object);
            rule.objects.iter().for_each(|object| out.uses(object));
        }
    }

    /// Why the service is never exposed, whatever the hosts say.
    fn kept_out(&self) -> Option<&'static str> {
        if self.service.external {
            return Some("it is outside the mesh; a ServiceEntry of the mesh has location: MESH_INTERNAL");
        }
        if !self.service.resolved {
            return Some("it has no endpoints of its own; use resolution STATIC or DNS");
        }
        if !matches!(self.service.host, Pattern::Exact(_)) {
            return Some("its host is a wildcard, which has no server name of its own; list the hosts");
        }
        None
    }

    fn chain(
        &self,
        port: u16,
        subset: Option<&Subset>,
        is_covered: bool,
        rule: &Matched<'_>,
        out: &mut Output,
    ) -> Option<FilterChain> {
        let subset_name = subset.map_or("", |subset| &subset.name);
        let host = self.service.host.to_string();
        let name = SubsetKey { port, subset: subset_name, host: &host }.to_string();
        let names =
            if is_covered { self.own_name(&name, out)? } else { self.aliases(port, subset_name, &name)? };
        let server_name = match name.parse::<ServerName>() {
            Ok(server_name) => server_name,
            Err(error) => {
                out.notice(self.service.object, "", format!("{name} is not exposed: {error}"));
                return None;
            }
        };
        let policy = rule.policy(port, subset);
        let members = self.members(port, subset, &policy.tls, rule, out);
        out.cluster(&name, members.into_iter(), &policy, self.world.options);
        let protocols = if self.world.options.require_istio_alpn { &MESH_PROTOCOLS[..] } else { &[] };
        Some(FilterChain {
            matches: ChainMatch {
                server_names: vec![Pattern::Exact(server_name)],
                application_protocols: protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
                sent_as: match names {
                    Names::Own => Vec::new(),
                    Names::Aliases(patterns) => patterns,
                },
            },
            route: Route::to(&name),
            idle_timeout: policy.pool.and_then(|pool| pool.idle_timeout),
            name,
        })
    }

    /// The service's own name, unless the rewrite makes another service's of it: then clients mean that one, and this
    /// one is how they find the gateway (in the documented setup its endpoint *is* the gateway).
    fn own_name(&self, name: &str, out: &mut Output) -> Option<Names> {
        let rewritten = self.rewrite(name).filter(|rewritten| rewritten != name);
        let other = rewritten.as_deref().and_then(SubsetKey::parse);
        let other = other.and_then(|key| self.world.catalog.services.get(key.host));
        let Some(other) = other.filter(|other| other.host != self.service.host) else {
            return Some(Names::Own);
        };
        let message = format!(
            "{} has no chain of its own: the listener's rewrite makes it {}, and its connections go to {}",
            self.service.host, other.host, other.object.name
        );
        out.notice(self.service.object, "spec.hosts", message);
        None
    }

    /// The patterns that cover a name which the rewrite turns into this one, or `None` where there are none.
    fn aliases(&self, port: u16, subset: &str, name: &str) -> Option<Names> {
        let host = self.service.host.to_string();
        let is_alias = |alias: &String| {
            let sent = SubsetKey { port, subset, host: alias }.to_string();
            sent != name && self.rewrite(&sent).as_deref() == Some(name)
        };
        let mut patterns: Vec<Pattern> = Vec::new();
        for pattern in &self.patterns {
            let mut candidates = candidates(&host, pattern);
            let exists = candidates.any(|alias| pattern.matches(&alias) && is_alias(&alias));
            if exists && !patterns.contains(*pattern) {
                patterns.push((*pattern).clone());
            }
        }
        patterns.sort();
        (!patterns.is_empty()).then_some(Names::Aliases(patterns))
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
        let speaking: Vec<&Member<'_>> = chosen.iter().filter(|member| member.mesh_tls).copied().collect();
        if speaking.is_empty() && !all.is_empty() {
            let message = match subset {
                Some(subset) if chosen.is_empty() => {
                    format!("no endpoint of port {port} has the labels of subset {}", subset.name)
                }
                Some(_) => return speaking,
                None => format!(
                    "none of the {} endpoints of port {port} is known to speak mesh TLS, so none is used; give the Pods, \
                     EndpointSlices or workloads the label security.istio.io/tlsMode: istio if they have a sidecar",
                    all.len()
                ),
            };
            out.notice(self.service.object, "", message);
        }
        speaking
    }
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
