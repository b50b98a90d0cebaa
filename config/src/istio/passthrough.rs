//! `PASSTHROUGH`: the names and destinations that VirtualServices give to such a server.

use std::collections::BTreeSet;

use super::gateway::ServerKind;
use super::resource::Object;
use super::routes::{self, Bound, is_for};
use super::servers::OwnedServer;
use super::translation::{Output, World};
use super::virtual_service::{Match, VirtualService};
use crate::listener::FilterChain;
use crate::server_name::Pattern;

/// The `tls` routes of VirtualServices, and which of their names found a server.
pub(super) struct Routes<'a, 'b> {
    bound: &'b [Bound<'a>],
    /// By VirtualService and the match's field: the names that some server covers.
    covered: BTreeSet<(String, String, Pattern)>,
}

impl<'a, 'b> Routes<'a, 'b> {
    /// Those of these VirtualServices.
    pub(super) fn new(bound: &'b [Bound<'a>]) -> Self {
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
        let servers: Vec<&OwnedServer<'_>> =
            servers.iter().filter(|(_, server)| server.kind == ServerKind::Passthrough).collect();
        let mut chains = Vec::new();
        for &(object, service) in self.bound {
            for route in &service.tls {
                for one in &route.matches {
                    let names = covered_names(object, service, one, &servers);
                    let key = |name: &Pattern| (object.name.to_string(), one.field.clone(), name.clone());
                    self.covered.extend(names.iter().map(key));
                    if let (false, Some((_, server))) = (names.is_empty(), servers.first()) {
                        chains.push((object, routes::chain(world, object, (route, one), names, server, out)));
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
            for one in service.tls.iter().flat_map(|route| &route.matches) {
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
    one: &Match,
    servers: &[&OwnedServer<'_>],
) -> Vec<Pattern> {
    let hosts: Vec<_> = servers
        .iter()
        .filter(|owned| is_for(owned, service, one))
        .flat_map(|(_, server)| &server.hosts)
        .filter(|host| host.admits(&object.name.namespace))
        .collect();
    one.names.iter().filter(|name| hosts.iter().any(|host| host.pattern.covers(name))).cloned().collect()
}
