//! Plain TCP servers: the destinations that `tcp` routes of VirtualServices give to a port.

use super::full_host;
use super::resource::Object;
use super::routes::{Bound, chain, is_for};
use super::servers::OwnedServer;
use super::translation::{Output, World};
use super::virtual_service::VirtualService;
use crate::listener::{ConnectionMatch, FilterChain, Transport};
use crate::server_name::Pattern;

/// The chains of a server, in the order in which they are asked. Their clusters go to the output.
pub(super) fn chains(
    world: &World<'_>,
    bound: &[Bound<'_>],
    owned: &OwnedServer<'_>,
    out: &mut Output,
) -> Vec<FilterChain> {
    let (gateway, server) = owned;
    let mut chains: Vec<FilterChain> = Vec::new();
    // The first route for every client leaves nothing to those behind it.
    let mut all: Option<&Object> = None;
    for &(object, service) in bound {
        for route in &service.tcp {
            for one in route.matches.iter().filter(|one| is_for(owned, service, one)) {
                if !covers(world, object, service, owned) {
                    let message = format!(
                        "it is not used on port {}: no host of {} of {} covers one of spec.hosts",
                        server.port, server.field, gateway.name
                    );
                    out.notice(object, &one.field, message);
                } else if let Some(first) = all {
                    let message = format!(
                        "it is never reached on port {}: {} comes first and takes every client there",
                        server.port, first.name
                    );
                    out.notice(object, &one.field, message);
                } else {
                    let chain = chain(world, object, (route, one), vec![Pattern::Any], server, out);
                    all = takes_everyone(&chain).then_some(object);
                    chains.push(chain);
                }
            }
        }
    }
    if chains.is_empty() {
        let message = format!(
            "nothing is routed for port {}, and connections to it are closed: bind a VirtualService with a tcp route for \
             it to this Gateway",
            server.port
        );
        out.notice(gateway, &server.field, message);
    }
    chains
}

fn takes_everyone(chain: &FilterChain) -> bool {
    chain.matches.connection == ConnectionMatch { transport: Transport::Any, ..ConnectionMatch::default() }
}

/// Plain connections have no name, but a Gateway's hosts decide all the same which VirtualServices it is for: a host of
/// one must cover a host of the other, either way round.
fn covers(
    world: &World<'_>,
    object: &Object,
    service: &VirtualService,
    (_, server): &OwnedServer<'_>,
) -> bool {
    let namespace = object.name.namespace.as_str();
    let admitting = || server.hosts.iter().filter(|host| host.admits(namespace));
    let fits = |own: &Pattern| {
        let own = full_host(own, namespace, &world.options.cluster_domain);
        admitting().any(|host| host.pattern.covers(&own) || own.covers(&host.pattern))
    };
    admitting().any(|host| host.pattern == Pattern::Any) || service.hosts.iter().any(fits)
}
