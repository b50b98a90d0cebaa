//! Gateways and EnvoyFilters → listeners: which ports are open, with which rewrites.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::gateway::Server;
use super::resource::Object;
use super::schema::selects;
use super::translation::{Output, World};
use super::{Options, ROOT_NAMESPACE, auto_passthrough, passthrough};
use crate::listener::{FilterChain, Listener, ListenerOptions};
use crate::route::Rewrite;
use crate::server_name::Pattern;

/// A Gateway's server, and the Gateway.
pub(super) type OwnedServer<'a> = (&'a Object, &'a Server);

/// Every listener, by address and port.
pub(super) fn translate(world: &World<'_>, out: &mut Output) -> Vec<Listener> {
    let options = world.options;
    let mut ports: BTreeMap<(IpAddr, u16), Vec<OwnedServer<'_>>> = BTreeMap::new();
    for &(object, gateway) in &world.resources.gateways {
        if is_selected(&gateway.selector, options) {
            out.uses(object);
            for server in &gateway.servers {
                let ip = server.bind.unwrap_or(options.bind_address);
                ports.entry((ip, server.port)).or_default().push((object, server));
            }
        }
    }
    let mut routes = passthrough::Routes::new(world, &ports, out);
    let listeners = ports.iter().map(|((ip, port), servers)| {
        let name = format!("{ip}_{port}");
        let moved = options.bind.get(port).filter(|_| *ip == options.bind_address);
        let address = moved.copied().unwrap_or(SocketAddr::new(*ip, *port));
        let is_auto = servers.iter().any(|(_, server)| server.auto);
        let rewrites = if is_auto { rewrites(world, &name, *port, out) } else { Vec::new() };
        let mut filter_chains = auto_passthrough::chains(world, servers, &rewrites, out);
        for (object, chain) in routes.chains(world, servers, out) {
            add(&mut filter_chains, chain, object, out);
        }
        Listener { name, address, rewrites, filter_chains, options: ListenerOptions::default() }
    });
    let listeners = listeners.collect();
    routes.finish(out);
    listeners
}

/// Does a selector choose this gateway?
fn is_selected(selector: &super::schema::Labels, options: &Options) -> bool {
    options.labels.is_empty() || selects(selector, &options.labels)
}

/// Those of the EnvoyFilters, in the order of their namespaces (the root's first) and names, or else the default.
fn rewrites(world: &World<'_>, listener: &str, port: u16, out: &mut Output) -> Vec<Rewrite> {
    let options = world.options;
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
    if found.is_empty() { options.rewrites.clone() } else { found }
}

/// Adds a chain, less the names that another chain of the listener already takes from the same clients.
fn add(chains: &mut Vec<FilterChain>, mut chain: FilterChain, object: &Object, out: &mut Output) {
    let protocols = chain.matches.application_protocols.clone();
    let taken = |name: &Pattern| {
        chains.iter().find(|other| {
            other.matches.server_names.contains(name) && other.matches.application_protocols == protocols
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
