//! What DNS says of the mesh's hosts.
//!
//! A host has the addresses that its ServiceEntry or Service gives; of a range, the first address that a machine may
//! have, because whatever is sent to the range is the entry's. A headless Service has those of its endpoints. A
//! ServiceEntry without addresses gets some of its own, unless its host is a wildcard. With `resolution: NONE` there is
//! no answer: clients of such an entry connect to what they have looked up elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::catalog::MeshService;
use super::service::Addresses;
use super::translation::{Output, World};
use crate::cidr::Cidr;
use crate::endpoint::{Address, Health};
use crate::names::{self, Name, Names, Taken};
use crate::server_name::Pattern;

/// The names of every service that anybody may see.
pub(super) fn translate(world: &World<'_>, out: &mut Output) -> Names {
    let mut names = Names::new();
    let mut owners: BTreeMap<Cidr, &MeshService<'_>> = BTreeMap::new();
    let mut taken = Taken::default();
    let mut without = BTreeMap::new();
    let visible = world.catalog.services.values().filter(|service| service.exported.reaches_any());
    for service in visible {
        if let Addresses::Given(ranges) = &service.addresses {
            for range in ranges {
                taken.add(*range);
                tell_of_sharing(service, range, &mut owners, out);
            }
        }
        if !service.resolved {
            tell_of_silence(service, out);
            continue;
        }
        let addresses = match &service.addresses {
            Addresses::Given(ranges) => of_ranges(ranges),
            Addresses::OfEndpoints => of_endpoints(service),
            Addresses::Automatic if world.options.automatic_addresses => {
                if matches!(service.host, Pattern::Exact(_)) {
                    without.insert(format!("{}/{}", service.namespace(), service.host), service);
                }
                continue;
            }
            Addresses::Automatic | Addresses::Unknown => continue,
        };
        names.insert(service.host.clone(), Name { addresses, automatic: false });
    }
    for (key, addresses) in names::automatic(without.keys().cloned().collect(), taken) {
        let Some(service) = without.get(&key) else { continue };
        if !addresses.iter().any(IpAddr::is_ipv4) {
            let message = format!(
                "{} gets no automatic IPv4 address: {} is used up; give it one",
                service.host,
                names::AUTOMATIC_V4
            );
            out.notice(service.object, "spec.addresses", message);
        }
        names.insert(service.host.clone(), Name { addresses, automatic: true });
    }
    names
}

/// Addresses count before ranges of the same family.
fn of_ranges(ranges: &[Cidr]) -> BTreeSet<IpAddr> {
    let mut addresses: BTreeSet<IpAddr> = ranges.iter().filter_map(Cidr::single).collect();
    let (any_v4, any_v6) = (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6));
    let wide = ranges.iter().filter(|range| range.single().is_none()).map(Cidr::representative);
    addresses.extend(wide.filter(|address| if address.is_ipv4() { !any_v4 } else { !any_v6 }));
    addresses
}

fn of_endpoints(service: &MeshService<'_>) -> BTreeSet<IpAddr> {
    let endpoints = service.ports.values().flatten().map(|member| &member.endpoint);
    endpoints
        .filter(|endpoint| endpoint.health == Health::Healthy)
        .filter_map(|endpoint| match &endpoint.address {
            Address::Socket(address) => Some(address.ip()),
            _ => None,
        })
        .collect()
}

/// Two services with one address: a client's sidecar can bring its connections to one of them only.
fn tell_of_sharing<'w>(
    service: &'w MeshService<'w>,
    range: &Cidr,
    owners: &mut BTreeMap<Cidr, &'w MeshService<'w>>,
    out: &mut Output,
) {
    let Some(first) = owners.get(range) else {
        owners.insert(*range, service);
        return;
    };
    // The hosts of one entry share its addresses by their author's will.
    if first.object.name != service.object.name {
        let address = range.single().map_or_else(|| range.to_string(), |address| address.to_string());
        let message = format!(
            "{address}, the address of {}, is also that of {} in {}; clients reach one of the two only, so give each \
             its own",
            service.host, first.host, first.object.name
        );
        out.notice(service.object, "spec.addresses", message);
    }
}

fn tell_of_silence(service: &MeshService<'_>, out: &mut Output) {
    if matches!(service.addresses, Addresses::Given(_)) {
        let message = format!(
            "DNS does not answer for {}: the entry has no endpoints of its own; use resolution STATIC or DNS if it should",
            service.host
        );
        out.notice(service.object, "spec.resolution", message);
    }
}
