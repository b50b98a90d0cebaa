//! Gateways and EnvoyFilters → listeners: which ports are open, with which rewrites.

use std::net::SocketAddr;

use super::gateway::ServerKind;
use super::resource::Object;
use super::schema::selects;
use super::servers::OwnedServer;
use super::translation::{Output, World};
use super::{Options, ROOT_NAMESPACE, auto_passthrough, passthrough, routes, servers, tcp};
use crate::listener::{ConnectionMatch, FilterChain, Listener, ListenerOptions, Role};
use crate::route::Rewrite;
use crate::server_name::Pattern;

/// Every listener, by address and port.
pub(super) fn translate(world: &World<'_>, out: &mut Output) -> Vec<Listener> {
    let options = world.options;
    let ports = servers::by_port(world, out);
    let bound = routes::bound(world, &ports, out);
    let mut passed = passthrough::Routes::new(&bound);
    let listeners = ports.iter().map(|((ip, port), servers)| {
        let name = format!("{ip}_{port}");
        let moved = options.bind.get(port).filter(|_| *ip == options.bind_address);
        let address = moved.copied().unwrap_or(SocketAddr::new(*ip, *port));
        if let [only @ (_, server)] = servers.as_slice()
            && server.kind == ServerKind::Tcp
        {
            let mut filter_chains = tcp::chains(world, &bound, only, out);
            say_by_whom(&mut filter_chains, servers, ServerKind::Tcp);
            // What a DestinationRule wants wrapped is wrapped here; the rest of such a listener goes as it came.
            let wraps = |chain: &FilterChain| {
                let mut clusters = chain.route.clusters.iter().filter_map(|to| out.clusters.get(&to.name));
                clusters.any(|cluster| cluster.tls.is_some())
            };
            let role = if filter_chains.iter().any(wraps) { Role::Originate } else { Role::Passthrough };
            let options = ListenerOptions { plain: true, role, ..ListenerOptions::default() };
            return Listener { name, address, rewrites: Vec::new(), filter_chains, options };
        }
        let rewrites = rewrites(world, &name, *port, servers, out);
        let mut filter_chains = auto_passthrough::chains(world, servers, &rewrites, out);
        say_by_whom(&mut filter_chains, servers, ServerKind::AutoPassthrough);
        for (object, chain) in passed.chains(world, servers, out) {
            add(&mut filter_chains, chain, object, out);
        }
        say_by_whom(&mut filter_chains, servers, ServerKind::Passthrough);
        Listener { name, address, rewrites, filter_chains, options: ListenerOptions::default() }
    });
    let listeners = listeners.collect();
    passed.finish(out);
    listeners
}

/// Has the chains that do not know it yet say which servers they are of. Chains of routes have the VirtualService in their
/// names.
fn say_by_whom(chains: &mut [FilterChain], servers: &[OwnedServer<'_>], kind: ServerKind) {
    let owners = servers.iter().filter(|(_, server)| server.kind == kind);
    let owners: Vec<_> =
        owners.map(|(gateway, server)| format!("{} {}", gateway.name, server.field)).collect();
    let owners = owners.join(", ");
    for chain in chains.iter_mut().filter(|chain| chain.options.exposed_by.is_none()) {
        chain.options.exposed_by = Some(match kind {
            ServerKind::AutoPassthrough => owners.clone().into(),
            ServerKind::Passthrough | ServerKind::Tcp => {
                format!("VirtualService {} on {owners}", chain.name).into()
            }
        });
    }
}

/// Does a selector choose this gateway?
fn is_selected(selector: &super::schema::Labels, options: &Options) -> bool {
    options.labels.is_empty() || selects(selector, &options.labels)
}

/// Those of the EnvoyFilters, in the order of their namespaces (the root's first) and names, or else the default. Only
/// `AUTO_PASSTHROUGH` has any.
fn rewrites(
    world: &World<'_>,
    listener: &str,
    port: u16,
    servers: &[OwnedServer<'_>],
    out: &mut Output,
) -> Vec<Rewrite> {
    let options = world.options;
    if !servers.iter().any(|(_, server)| server.kind == ServerKind::AutoPassthrough) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut namespaces = vec![ROOT_NAMESPACE];
    if options.namespace != ROOT_NAMESPACE {
        namespaces.push(&options.namespace);
    }
    for namespace in namespaces {
        let filters = world.resources.envoy_filters.iter();
        for (object, filter) in filters.filter(|(object, _)| object.name.namespace == namespace) {
            if !is_selected(&filter.selector, options) {
                continue;
            }
            out.uses(object);
            let here = filter.rewrites.iter().filter(|rewrite| {
                rewrite.port.is_none_or(|only| only == port)
                    && rewrite.listener.as_deref().is_none_or(|only| only == listener)
            });
            found.extend(here.map(|rewrite| rewrite.rewrite.clone()));
        }
    }
    found.dedup();
    match &options.rewrites {
        _ if !found.is_empty() => found,
        Some(rewrites) => rewrites.clone(),
        None if world.networks.sees_own() => vec![Rewrite::global_to(&options.cluster_domain)],
        None => Vec::new(),
    }
}

/// Adds a chain, less the names that another chain of the listener already takes from the same clients.
fn add(chains: &mut Vec<FilterChain>, mut chain: FilterChain, object: &Object, out: &mut Output) {
    let matches = chain.matches.clone();
    let taken = |name: &Pattern| {
        chains.iter().find(|other| {
            let other = &other.matches;
            other.server_names.contains(name)
                && other.application_protocols == matches.application_protocols
                && (other.connection == ConnectionMatch::default() || other.connection == matches.connection)
        })
    };
    let mut lost = Vec::new();
    for name in &chain.matches.server_names {
        if let Some(first) = taken(name) {
            lost.push(name.clone());
            let message =
                format!("{name} is already the name of chain {}, which counts; use another name", first.name);
            out.notice(object, "spec.tls", message);
        }
    }
    chain.matches.server_names.retain(|name| !lost.contains(name));
    if !chain.matches.server_names.is_empty() {
        chains.push(chain);
    }
}
