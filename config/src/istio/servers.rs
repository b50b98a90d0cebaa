//! The servers of the Gateways that apply, by address and port, and which of them give way to others.
//!
//! Who shares a port is Istio's to say (`MergeGateways` in `pilot/pkg/model/gateway.go`): servers of TLS do, as long as
//! no host stands in two of them; a plain one has its port for itself. The first counts. Istio goes by age; resources
//! in files have none, so here it is by namespace, name and then place in the Gateway.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::gateway::{Server, ServerKind};
use super::resource::Object;
use super::schema::selects;
use super::translation::{Output, World};

/// A Gateway's server, and the Gateway.
pub(super) type OwnedServer<'a> = (&'a Object, &'a Server);
/// The servers of each address and port. No list is empty.
pub(super) type Ports<'a> = BTreeMap<(IpAddr, u16), Vec<OwnedServer<'a>>>;

/// Finds them.
pub(super) fn by_port<'a>(world: &World<'a>, out: &mut Output) -> Ports<'a> {
    let options = world.options;
    let mut ports = Ports::new();
    for &(object, gateway) in &world.resources.gateways {
        if !options.labels.is_empty() && !selects(&gateway.selector, &options.labels) {
            continue;
        }
        out.uses(object);
        for server in &gateway.servers {
            let ip = server.bind.unwrap_or(options.bind_address);
            let others = ports.entry((ip, server.port)).or_default();
            match conflict(server, others) {
                None => others.push((object, server)),
                Some((mut message, field)) => {
                    if options.labels.is_empty() {
                        message += " (every Gateway applies here; set node.labels if one of them is for another gateway)";
                    }
                    out.notice(object, &field, message);
                }
            }
        }
    }
    ports
}

/// Why a server gives way to one that is there already, and the field that is to blame.
fn conflict(server: &Server, others: &[OwnedServer<'_>]) -> Option<(String, String)> {
    let of = |(gateway, other): &OwnedServer<'_>| format!("{} of {}", other.field, gateway.name);
    let is_plain = |server: &Server| server.kind == ServerKind::Tcp;
    if let Some(first) = others.iter().find(|(_, other)| is_plain(server) || is_plain(other)) {
        let message = format!(
            "this server is not served: port {} is already that of {}, and a TCP server has its port for itself; give \
             one of them another port, or a bind of its own",
            server.port,
            of(first)
        );
        return Some((message, server.field.clone()));
    }
    let taken = server.hosts.iter().enumerate().find_map(|(index, host)| {
        let first = others.iter().find(|(_, other)| other.hosts.contains(host))?;
        Some((index, &host.pattern, first))
    });
    let (index, host, first) = taken?;
    let message = format!(
        "this server is not served: its host {host} is already one of {} on port {}; take it out here or there, or \
         give one of them another port",
        of(first),
        server.port
    );
    Some((message, format!("{}.hosts[{index}]", server.field)))
}
