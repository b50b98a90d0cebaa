//! VirtualServices that are bound to a Gateway of ours, and what their routes lead to.

use std::collections::BTreeSet;
use std::time::Duration;

use super::full_host;
use super::gateway::{Server, ServerKind};
use super::originate::tell_of_secrets;
use super::resource::Object;
use super::schema::destination_rule::ClientTlsMode;
use super::schema::selects;
use super::servers::{OwnedServer, Ports};
use super::traffic_policy::Policy;
use super::translation::{Output, World};
use super::virtual_service::{Destination, Match, Route, VirtualService};
use crate::listener::{ChainMatch, ChainOptions, ConnectionMatch, FilterChain, Transport};
use crate::route::{self, WeightedCluster};
use crate::server_name::{Pattern, SubsetKey};

/// A VirtualService and its resource.
pub(super) type Bound<'a> = (&'a Object, &'a VirtualService);

/// Those that are bound to one of the servers' Gateways and that the gateway may see.
pub(super) fn bound<'a>(world: &World<'a>, ports: &Ports<'_>, out: &mut Output) -> Vec<Bound<'a>> {
    let names = |object: &Object| (object.name.namespace.clone(), object.name.name.clone());
    let gateways: BTreeSet<_> = ports.values().flatten().map(|(object, _)| names(object)).collect();
    let mut bound = Vec::new();
    for &(object, service) in &world.resources.virtual_services {
        let is_bound = service.gateways.iter().any(|name| gateways.contains(name));
        if is_bound && service.exported.reaches(&world.options.namespace) {
            if service.has_http {
                let message = "HTTP routes are not served by this gateway; tls and tcp routes are";
                out.notice(object, "spec.http", message);
            }
            out.uses(object);
            bound.push((object, service));
        }
    }
    bound
}

/// Is a match meant for this server, by its Gateway and port?
pub(super) fn is_for((gateway, server): &OwnedServer<'_>, service: &VirtualService, one: &Match) -> bool {
    let gateways = if one.gateways.is_empty() { &service.gateways } else { &one.gateways };
    let is_it = |(namespace, name): &(String, String)| {
        *namespace == gateway.name.namespace && *name == gateway.name.name
    };
    gateways.iter().any(is_it)
        && service.gateways.iter().any(is_it)
        && one.port.is_none_or(|port| port == server.port)
}

/// The chain of a route's match on this server, for these names. Its clusters go to the output.
pub(super) fn chain(
    world: &World<'_>,
    object: &Object,
    (route, one): (&Route, &Match),
    names: Vec<Pattern>,
    server: &Server,
    out: &mut Output,
) -> FilterChain {
    let mut idle_timeout: Option<Duration> = None;
    let mut options = ChainOptions::default();
    let clusters = route.destinations.iter().map(|destination| {
        let (name, policy) = cluster(world, object, destination, server, out);
        // The chain has one of each; of several destinations, the first that says counts.
        let said = policy.chain_options();
        idle_timeout = idle_timeout.or(policy.idle_timeout());
        options.max_connection_duration = options.max_connection_duration.or(said.max_connection_duration);
        options.hash_policy = options.hash_policy.or(said.hash_policy);
        WeightedCluster { name, weight: destination.weight }
    });
    let clusters = clusters.collect();
    let transport = if server.kind == ServerKind::Tcp { Transport::Any } else { Transport::Tls };
    FilterChain {
        name: format!("{}/{} {}", object.name.namespace, object.name.name, one.field).into(),
        matches: ChainMatch {
            server_names: names,
            connection: ConnectionMatch {
                transport,
                destination_ranges: one.destinations.clone(),
                source_ranges: one.sources.clone(),
                ..ConnectionMatch::default()
            },
            ..ChainMatch::default()
        },
        route: route::Route { clusters, by_server_name: None },
        idle_timeout,
        options,
    }
}

/// Adds the cluster of a destination and gives its name and its policy.
fn cluster(
    world: &World<'_>,
    object: &Object,
    to: &Destination,
    server: &Server,
    out: &mut Output,
) -> (String, Policy) {
    let host = match to.host.parse::<Pattern>() {
        Ok(host) => full_host(&host, &object.name.namespace, &world.options.cluster_domain).to_string(),
        Err(_) => to.host.clone(),
    };
    let service = world.catalog.services.get(&host);
    let service = service.filter(|service| service.exported.reaches(&world.options.namespace));
    // A service with one port needs no choice; with several, Istio takes the one that the client came to.
    let only_port =
        service.filter(|service| service.ports.len() == 1).and_then(|service| service.ports.keys().next());
    let port = to.port.or(only_port.copied()).unwrap_or(server.port);
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
        (Some(service), Some([])) if !service.unseen.is_empty() => {
            Some(service.unseen_message().unwrap_or_default())
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
    let wrapped = policy.tls.filter(|mode| *mode != ClientTlsMode::Disable);
    // Inside a client's own TLS nothing is lost; bare bytes must not reach an endpoint that is to get TLS.
    let originates = wrapped.is_some() && server.kind == ServerKind::Tcp;
    let closed = originates && wrapped == Some(ClientTlsMode::IstioMutual) && !world.options.certified;
    if let Some(mode) = wrapped.filter(|_| closed || !originates) {
        let message = if closed {
            format!(
                "connections from a TCP server to {name} will be closed: they are to be wrapped in the mesh's TLS (mode {mode}), \
                 for which the gateway has no certificate; give it one (tls.certs_dir), or set DISABLE if their clients \
                 speak TLS themselves or need none"
            )
        } else {
            format!(
                "TLS mode {mode} is not applied to {name}: the gateway passes the client's TLS through as it is"
            )
        };
        rule.objects.iter().for_each(|rule| out.notice(rule, "spec.trafficPolicy.tls.mode", message.clone()));
    }
    let members = members.filter(|_| missing.is_none() && !closed).unwrap_or_default();
    let chosen =
        members.iter().filter(|member| subset.is_none_or(|subset| selects(&subset.labels, member.labels)));
    let policy = if originates {
        rule.objects.iter().for_each(|rule| tell_of_secrets(world, rule, &policy, out));
        let mesh_name = SubsetKey { port, subset: &to.subset, host: &host }.to_string();
        let names = service.map(|service| service.subject_alt_names).unwrap_or_default();
        policy.originating(&host, &mesh_name, names)
    } else {
        policy.passing_through()
    };
    // Not the cluster of the same service behind a TLS server, to which the gateway itself speaks nothing.
    let name = if originates { format!("{name}|tls") } else { name };
    out.cluster(&name, chosen, &policy, world.options);
    rule.objects.iter().for_each(|object| out.uses(object));
    (name, policy)
}
