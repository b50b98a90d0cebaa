//! `PASSTHROUGH`: the names and destinations that VirtualServices give to such a server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::full_host;
use super::listeners::OwnedServer;
use super::resource::Object;
use super::schema::destination_rule::ClientTlsMode;
use super::schema::selects;
use super::translation::{Output, World};
use super::virtual_service::{Destination, TlsMatch, TlsRoute, VirtualService};
use crate::listener::{ChainMatch, ChainOptions, FilterChain};
use crate::route::{Route, WeightedCluster};
use crate::server_name::Pattern;

/// The VirtualServices that are bound to a Gateway of ours, and which of their names found a server.
pub(super) struct Routes<'a> {
    bound: Vec<(&'a Object, &'a VirtualService)>,
    /// By VirtualService and the match's field: the names that some server covers.
    covered: BTreeSet<(String, String, Pattern)>,
}

impl<'a> Routes<'a> {
    /// Finds them.
    pub(super) fn new(
        world: &World<'a>,
        ports: &BTreeMap<(IpAddr, u16), Vec<OwnedServer<'_>>>,
        out: &mut Output,
    ) -> Self {
        let names = |object: &Object| (object.name.namespace.clone(), object.name.name.clone());
        let gateways: BTreeSet<_> = ports.values().flatten().map(|(object, _)| names(object)).collect();
        let mut bound = Vec::new();
        for &(object, service) in &world.resources.virtual_services {
            let is_bound = service.gateways.iter().any(|name| gateways.contains(name));
            if is_bound && service.exported.reaches(&world.options.namespace) {
                for field in &service.other_routes {
                    out.notice(
                        object,
                        field,
                        "HTTP and TCP routes are not served by this gateway; tls routes are",
                    );
                }
                out.uses(object);
                bound.push((object, service));
            }
        }
        Self { bound, covered: BTreeSet::new() }
    }

    /// The chains of the `PASSTHROUGH` servers of one listener, each with its VirtualService. Their clusters go to
    /// the output.
    pub(super) fn chains(
        &mut self,
        world: &World<'a>,
        servers: &[OwnedServer<'_>],
        out: &mut Output,
    ) -> Vec<(&'a Object, FilterChain)> {
        let servers: Vec<&OwnedServer<'_>> = servers.iter().filter(|(_, server)| !server.auto).collect();
        let mut chains = Vec::new();
        for &(object, service) in &self.bound {
            for route in &service.routes {
                for one in &route.matches {
                    let names = covered_names(object, service, one, &servers);
                    let key = |name: &Pattern| (object.name.to_string(), one.field.clone(), name.clone());
                    self.covered.extend(names.iter().map(key));
                    if let (false, Some((_, server))) = (names.is_empty(), servers.first()) {
                        chains.push((object, chain(world, object, route, one, names, server.port, out)));
                    }
                }
            }
        }
        for (object, server) in servers {
            for (index, host) in server.hosts.iter().enumerate() {
                let is_routed = |chain: &FilterChain| {
                    chain.matches.server_names.iter().any(|name| host.pattern.covers(name))
                };
                if !chains.iter().any(|(_, chain)| is_routed(chain)) {
                    let message = format!(
                        "nothing is routed for {}: bind a VirtualService with tls sniHosts under it to this Gateway",
                        host.pattern
                    );
                    out.notice(object, &format!("{}.hosts[{index}]", server.field), message);
                }
            }
        }
        chains
    }

    /// Once every listener has been asked: the names that no server covers.
    pub(super) fn finish(self, out: &mut Output) {
        for (object, service) in self.bound {
            for one in service.routes.iter().flat_map(|route| &route.matches) {
                for (index, name) in one.names.iter().enumerate() {
                    if !self.covered.contains(&(object.name.to_string(), one.field.clone(), name.clone())) {
                        let message = format!(
                            "{name} is not exposed: no PASSTHROUGH server of the Gateways that this is bound to has a host \
                             that covers it (on the match's port, for this namespace); add it there"
                        );
                        out.notice(object, &format!("{}.sniHosts[{index}]", one.field), message);
                    }
                }
            }
        }
    }
}

/// The names of a match that a server of its Gateways covers.
fn covered_names(
    object: &Object,
    service: &VirtualService,
    one: &TlsMatch,
    servers: &[&OwnedServer<'_>],
) -> Vec<Pattern> {
    let gateways = if one.gateways.is_empty() { &service.gateways } else { &one.gateways };
    let is_named = |gateway: &Object| {
        let is_it = |(namespace, name): &(String, String)| {
            *namespace == gateway.name.namespace && *name == gateway.name.name
        };
        gateways.iter().any(is_it) && service.gateways.iter().any(is_it)
    };
    let hosts: Vec<_> = servers
        .iter()
        .filter(|(gateway, server)| is_named(gateway) && one.port.is_none_or(|port| port == server.port))
        .flat_map(|(_, server)| &server.hosts)
        .filter(|host| host.admits(&object.name.namespace))
        .collect();
    one.names.iter().filter(|name| hosts.iter().any(|host| host.pattern.covers(name))).cloned().collect()
}

fn chain(
    world: &World<'_>,
    object: &Object,
    route: &TlsRoute,
    one: &TlsMatch,
    names: Vec<Pattern>,
    server_port: u16,
    out: &mut Output,
) -> FilterChain {
    let mut idle_timeout = None;
    let clusters = route.destinations.iter().map(|destination| {
        let (name, idle) = cluster(world, object, destination, server_port, out);
        idle_timeout = idle_timeout.or(idle);
        WeightedCluster { name, weight: destination.weight }
    });
    let clusters = clusters.collect();
    FilterChain {
        name: format!("{}/{} {}", object.name.namespace, object.name.name, one.field),
        matches: ChainMatch { server_names: names, ..ChainMatch::default() },
        route: Route { clusters, by_server_name: None },
        idle_timeout,
        options: ChainOptions::default(),
    }
}

/// Adds the cluster of a destination and gives its name and its DestinationRule's idle timeout.
fn cluster(
    world: &World<'_>,
    object: &Object,
    to: &Destination,
    server_port: u16,
    out: &mut Output,
) -> (String, Option<std::time::Duration>) {
    let host = match to.host.parse::<Pattern>() {
        Ok(host) => full_host(&host, &object.name.namespace, &world.options.cluster_domain).to_string(),
        Err(_) => to.host.clone(),
    };
    let service = world.catalog.services.get(&host);
    let service = service.filter(|service| service.exported.reaches(&world.options.namespace));
    // A service with one port needs no choice; with several, Istio takes the one that the client came to.
    let only_port =
        service.filter(|service| service.ports.len() == 1).and_then(|service| service.ports.keys().next());
    let port = to.port.or(only_port.copied()).unwrap_or(server_port);
    let name = format!("outbound|{port}|{}|{host}", to.subset);
    let rule =
        service.map(|service| world.rules.matching(&service.host, service.namespace())).unwrap_or_default();
    let subset = rule.subsets.get(to.subset.as_str()).copied();
    let policy = rule.policy(port, subset);
    let members = service.and_then(|service| service.ports.get(&port)).map(Vec::as_slice);
    let missing = match (service, members) {
        (None, _) => Some(format!("there is no service {host} that this gateway may see")),
        (Some(_), None) => Some(format!("{host} has no port {port} (other than UDP)")),
        (Some(service), _) if !service.resolved => {
            Some(format!("{host} has no endpoints of its own (resolution NONE)"))
        }
        _ if !to.subset.is_empty() && subset.is_none() => {
            Some(format!("no DestinationRule gives {host} a subset {}", to.subset))
        }
        _ => None,
    };
    if let Some(missing) = &missing {
        let message = format!("connections to it will be closed: {missing}");
        out.notice(object, &format!("{}.destination", to.field), message);
    }
    if let Some(mode) = policy.tls.filter(|mode| *mode != ClientTlsMode::Disable) {
        let message = format!(
            "TLS mode {mode} is not applied to {name}: the gateway passes the client's TLS through as it is"
        );
        rule.objects.iter().for_each(|rule| out.notice(rule, "spec.trafficPolicy.tls.mode", message.clone()));
    }
    let members = members.filter(|_| missing.is_none()).unwrap_or_default();
    let chosen =
        members.iter().filter(|member| subset.is_none_or(|subset| selects(&subset.labels, member.labels)));
    out.cluster(&name, chosen, &policy, world.options);
    rule.objects.iter().for_each(|object| out.uses(object));
    (name, policy.pool.and_then(|pool| pool.idle_timeout))
}
