//! ServiceEntries → listeners for plain clients beside the gateway, whose connections it carries over TLS, the mesh's
//! own if a DestinationRule says no other: what a sidecar does with the `addresses` of a `.global` service.
//!
//! The name that is asked for is the one that a sidecar would send, so that a gateway takes one for the other. A service
//! without `addresses` is met at those that DNS gives out for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::resource::Object;
use super::schema::destination_rule::ClientTlsMode;
use super::service_entry::ServiceEntry;
use super::traffic_policy::Policy;
use super::translation::{Output, World};
use crate::cidr::Cidr;
use crate::listener::{ChainMatch, ChainOptions, FilterChain, Listener, ListenerOptions, Role};
use crate::names::Names;
use crate::route::Route;
use crate::server_name::{Pattern, SubsetKey};

/// How plain clients are met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Originate {
    /// Where the firewall redirects them to. Without it, a listener is bound to each service's address.
    pub redirect: Option<SocketAddr>,
}

/// The name of the listener that connections are redirected to.
const REDIRECTED: &str = "outbound";

/// An address and port that plain clients connect to.
type Place = (Cidr, u16);

/// The listeners. Their clusters go to the output.
pub(super) fn listeners(
    world: &World<'_>,
    originate: Originate,
    names: &Names,
    out: &mut Output,
) -> Vec<Listener> {
    let mut taken: BTreeMap<Place, String> = BTreeMap::new();
    let mut listeners = Vec::new();
    let mut redirected = Vec::new();
    for &(object, entry) in &world.resources.service_entries {
        for host in &entry.hosts {
            let ranges = ranges(entry, host, names);
            for (place, chain, role) in chains(world, (object, entry), (host, &ranges), &mut taken, out) {
                match originate.redirect {
                    Some(_) => redirected.push(chain),
                    None => listeners.extend(bound(object, place, chain, role, out)),
                }
            }
        }
    }
    if let Some(address) = originate.redirect.filter(|_| !redirected.is_empty()) {
        // One address inside another's range is the better match.
        redirected.sort_by_key(|chain| {
            std::cmp::Reverse(chain.matches.connection.destination_ranges.first().map(Cidr::prefix_len))
        });
        let options = ListenerOptions { original_destination: true, ..options(Role::Originate) };
        listeners.push(Listener {
            name: REDIRECTED.to_owned(),
            address,
            rewrites: Vec::new(),
            filter_chains: redirected,
            options,
        });
    }
    listeners
}

fn options(role: Role) -> ListenerOptions {
    ListenerOptions { plain: true, role, ..ListenerOptions::default() }
}

/// A listener of its own, for an entry's one address.
fn bound(
    object: &Object,
    (range, port): Place,
    chain: FilterChain,
    role: Role,
    out: &mut Output,
) -> Option<Listener> {
    let Some(ip) = range.single() else {
        let message = format!(
            "{range} is a range, which cannot be bound; give single addresses, or have the firewall redirect (vm.redirect)"
        );
        out.notice(object, "spec.addresses", message);
        return None;
    };
    let name = format!("outbound_{ip}_{port}");
    let address = SocketAddr::new(ip, port);
    Some(Listener { name, address, rewrites: Vec::new(), filter_chains: vec![chain], options: options(role) })
}

/// The chains of one host of an entry, one for each port and address.
fn chains(
    world: &World<'_>,
    (object, entry): (&Object, &ServiceEntry),
    (host, ranges): (&Pattern, &[Cidr]),
    taken: &mut BTreeMap<Place, String>,
    out: &mut Output,
) -> Vec<(Place, FilterChain, Role)> {
    if let Some((field, message)) = unserved(world, entry, host, ranges) {
        out.notice(object, field, message);
        return Vec::new();
    }
    out.uses(object);
    let mut chains = Vec::new();
    for port in &entry.ports {
        let Some((chain, role)) = chain(world, (object, entry), host, port.number, out) else { continue };
        for range in ranges {
            let place = (*range, port.number);
            if let Some(first) = taken.get(&place) {
                let message = format!(
                    "{range} port {} is already the address of {first}, which counts; give {host} an address of its own",
                    port.number
                );
                out.notice(object, "spec.addresses", message);
                continue;
            }
            taken.insert(place, host.to_string());
            let mut chain = chain.clone();
            chain.name = format!("{} {range}", chain.name).into();
            chain.matches.connection.destination_ranges = vec![*range];
            chains.push((place, chain, role));
        }
    }
    chains
}

/// Where plain clients connect to for this host: what the entry says, or what DNS gives out where it says nothing.
fn ranges(entry: &ServiceEntry, host: &Pattern, names: &Names) -> Vec<Cidr> {
    if !entry.addresses.is_empty() {
        return entry.addresses.clone();
    }
    let automatic = names.get(host).filter(|name| name.automatic);
    automatic.into_iter().flat_map(|name| &name.addresses).map(|address| Cidr::of(*address)).collect()
}

/// Why plain clients cannot be served for this host.
fn unserved(
    world: &World<'_>,
    entry: &ServiceEntry,
    host: &Pattern,
    ranges: &[Cidr],
) -> Option<(&'static str, String)> {
    if entry.external && !entry.ports.iter().any(|port| leaves_the_mesh(world, host, port.number)) {
        let message = format!(
            "{host} is outside the mesh, so nothing is originated for it; set MESH_INTERNAL, or give it a DestinationRule \
             with tls.mode SIMPLE or MUTUAL"
        );
        return Some(("spec.location", message));
    }
    if !matches!(host, Pattern::Exact(_)) {
        return Some(("spec.hosts", format!("{host} is no one name to ask for; list each host by itself")));
    }
    if ranges.is_empty() {
        let message = format!("plain clients cannot reach {host}: give it an address such as 240.0.0.3");
        return Some(("spec.addresses", message));
    }
    None
}

/// What is missing of the Secret that the rule names is worth a word before the first connection.
pub(super) fn tell_of_secrets(world: &World<'_>, rule: &Object, policy: &Policy, out: &mut Output) {
    let missing = policy.upstream_tls.as_ref().and_then(|tls| world.secrets.of(tls)?.err());
    if let Some(missing) = missing {
        let message = format!("{missing}; until then its connections are closed");
        out.notice(rule, "spec.trafficPolicy.tls.credentialName", message);
    }
}

/// Is TLS spoken to this port that is not the mesh's own?
fn leaves_the_mesh(world: &World<'_>, host: &Pattern, port: u16) -> bool {
    let service = world.catalog.services.get(&host.to_string());
    let rule = service.map(|service| world.rules.matching(host, service.namespace())).unwrap_or_default();
    matches!(rule.policy(port, None).tls, Some(ClientTlsMode::Simple | ClientTlsMode::Mutual))
}

/// The chain of one port, and what becomes of its connections.
fn chain(
    world: &World<'_>,
    (object, entry): (&Object, &ServiceEntry),
    host: &Pattern,
    port: u16,
    out: &mut Output,
) -> Option<(FilterChain, Role)> {
    let service = world.catalog.services.get(&host.to_string())?;
    let members = service.ports.get(&port)?;
    let text = host.to_string();
    let name = SubsetKey { port, subset: "", host: &text }.to_string();
    let rule = world.rules.matching(host, service.namespace());
    let policy = rule.policy(port, None);
    if entry.external && !leaves_the_mesh(world, host, port) {
        return None;
    }
    let (role, policy) = match policy.tls {
        Some(ClientTlsMode::Disable) => (Role::Passthrough, policy),
        None | Some(_) => {
            rule.objects.iter().for_each(|rule| tell_of_secrets(world, rule, &policy, out));
            (Role::Originate, policy.originating(&text, &name, &entry.subject_alt_names))
        }
    };
    if members.is_empty() {
        out.notice(
            object,
            "spec.endpoints",
            format!("{host} has no endpoints; connections to it will be closed"),
        );
    }
    // Two entries may have one host, and each its own idea of who is behind it.
    let other = out.clusters.get(&name).is_some_and(|known| known.tls != policy.upstream_tls);
    let cluster = match other {
        true => format!("{name}@{}/{}", object.name.namespace, object.name.name),
        false => name.clone(),
    };
    out.cluster(&cluster, members.iter(), &policy, world.options);
    let chain = FilterChain {
        matches: ChainMatch::of_port(port),
        route: Route::to(cluster),
        idle_timeout: policy.pool.and_then(|pool| pool.idle_timeout),
        options: ChainOptions::default(),
        name: name.into(),
    };
    Some((chain, role))
}

#[cfg(test)]
mod tests {
    use super::super::{File, Index, Options};
    use super::*;
    use crate::cluster::{TlsMode, UpstreamTls};
    use crate::snapshot::Snapshot;

    fn entry(name: &str, rest: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1alpha3\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: bar}}\n\
             spec:\n  hosts: [{name}.bar.global]\n  location: MESH_INTERNAL\n  resolution: STATIC\n\
             \x20 ports: [{{name: http1, number: 8000, protocol: http}}]\n\
             \x20 endpoints: [{{address: 192.0.2.1, ports: {{http1: 15443}}}}]\n{rest}---\n"
        )
    }

    fn snapshot(text: &str, redirect: Option<&str>) -> Snapshot {
        let redirect = redirect.map(|address| address.parse().unwrap());
        let options = Options { originate: Some(Originate { redirect }), ..Options::default() };
        let mut index = Index::default();
        index.load(&[File { path: "a.yaml", text }]);
        index.snapshot(&options)
    }

    #[test]
    fn a_service_is_met_at_its_address_and_asked_for_as_a_sidecar_does() {
        let snapshot = snapshot(&entry("httpbin", "  addresses: [127.255.0.3]\n"), None);
        assert!(snapshot.rejections.is_empty(), "{:?}", snapshot.rejections);
        let listener = &snapshot.listeners["outbound_127.255.0.3_8000"];
        assert_eq!(listener.address.to_string(), "127.255.0.3:8000");
        assert_eq!((listener.options.role, listener.options.plain), (Role::Originate, true));
        let chain = &listener.filter_chains[0];
        let name = "outbound_.8000_._.httpbin.bar.global";
        assert_eq!(snapshot.clusters[name].tls.as_deref(), Some(&UpstreamTls::mesh(name)));
        let endpoint = snapshot.clusters[name].endpoints().next().unwrap().address.to_string();
        assert_eq!((chain.route.clusters[0].name.as_str(), endpoint.as_str()), (name, "192.0.2.1:15443"));
    }

    #[test]
    fn two_entries_of_one_host_each_say_who_may_be_behind_it() {
        let other = "  addresses: [127.255.0.4]\n  subjectAltNames: ['spiffe://td/ns/bar/sa/a']\n";
        let text = entry("httpbin", "  addresses: [127.255.0.3]\n")
            + &entry("httpbin", other).replacen("name: httpbin,", "name: strict,", 1);
        let snapshot = snapshot(&text, None);
        let names = |address: &str| {
            let route = &snapshot.listeners[&format!("outbound_{address}_8000")].filter_chains[0].route;
            snapshot.clusters[route.clusters[0].name.as_str()].tls.as_ref().unwrap().subject_alt_names.clone()
        };
        assert_eq!(names("127.255.0.3"), [""; 0]);
        assert_eq!(names("127.255.0.4"), ["spiffe://td/ns/bar/sa/a"]);
    }

    #[test]
    fn a_service_without_addresses_is_met_where_dns_says() {
        let snapshot = snapshot(&entry("httpbin", ""), None);
        assert!(snapshot.notices.is_empty(), "{:?}", snapshot.notices);
        let names = snapshot.names.as_ref().unwrap();
        let told = &names[&"httpbin.bar.global".parse().unwrap()].addresses;
        let met: std::collections::BTreeSet<_> =
            snapshot.listeners.values().map(|listener| listener.address.ip()).collect();
        assert_eq!((met.len(), &met), (2, told));
    }

    #[test]
    fn redirected_connections_are_told_apart_by_where_they_were_made_to() {
        let text =
            entry("one", "  addresses: [240.1.0.0/16]\n") + &entry("two", "  addresses: [240.1.0.9]\n");
        let snapshot = snapshot(&text, Some("127.0.0.1:15001"));
        let listener = &snapshot.listeners[REDIRECTED];
        assert!(listener.options.original_destination);
        let ranges: Vec<_> = listener
            .filter_chains
            .iter()
            .map(|chain| chain.matches.connection.destination_ranges[0].to_string())
            .collect();
        assert_eq!(ranges, ["240.1.0.9/32", "240.1.0.0/16"]);
    }

    #[test]
    fn what_cannot_be_served_is_told_with_its_remedy() {
        let told = |rest: &str| {
            let snapshot = snapshot(&entry("a", rest), None);
            assert!(snapshot.listeners.is_empty() && snapshot.rejections.is_empty(), "{snapshot:?}");
            let notices = snapshot.notices.iter().map(ToString::to_string);
            notices.collect::<Vec<_>>().join("\n")
        };
        assert!(
            told("  exportTo: ['~']\n").contains("give it an address"),
            "{}",
            told("  exportTo: ['~']\n")
        );
        assert!(told("  addresses: [240.0.0.0/8]\n").contains("vm.redirect"));
        let twice = entry("a", "  addresses: [127.255.0.3]\n") + &entry("b", "  addresses: [127.255.0.3]\n");
        let twice = snapshot(&twice, None);
        assert_eq!((twice.listeners.len(), twice.notices.len()), (1, 1), "{:?}", twice.notices);
        let line = twice.notices[0].to_string();
        assert!(line.contains("a.yaml") && line.contains("already the address of a.bar.global"), "{line}");
    }

    #[test]
    fn a_destination_rule_decides_about_tls_and_an_entry_about_identities() {
        let rule = |mode: &str| {
            format!(
                "apiVersion: networking.istio.io/v1alpha3\nkind: DestinationRule\nmetadata: {{name: r, namespace: bar}}\n\
                 spec: {{host: '*.global', trafficPolicy: {{tls: {{mode: {mode}}}}}}}\n---\n"
            )
        };
        let more = "  addresses: [127.255.0.3]\n  subjectAltNames: ['spiffe://td/ns/bar/sa/a']\n";
        let of = |mode: &str| snapshot(&(entry("a", more) + &rule(mode)), None);
        let tls = |mode: &str| {
            let snapshot = of(mode);
            assert_eq!(snapshot.listeners["outbound_127.255.0.3_8000"].options.role, Role::Originate);
            snapshot.clusters["outbound_.8000_._.a.bar.global"].tls.as_ref().unwrap().as_ref().clone()
        };
        let mutual = tls("ISTIO_MUTUAL");
        assert_eq!(
            (mutual.mode, &*mutual.subject_alt_names),
            (TlsMode::IstioMutual, &["spiffe://td/ns/bar/sa/a".to_owned()][..])
        );
        let plain = of("DISABLE");
        assert_eq!(plain.listeners["outbound_127.255.0.3_8000"].options.role, Role::Passthrough);
        let simple = tls("SIMPLE");
        assert_eq!((simple.mode, simple.sni.as_deref()), (TlsMode::Simple, Some("a.bar.global")));
        assert_eq!(simple.subject_alt_names, ["spiffe://td/ns/bar/sa/a"]);
    }

    #[test]
    fn what_is_outside_the_mesh_is_served_where_a_rule_says_what_tls_it_speaks() {
        let text = entry("a", "  addresses: [240.0.0.9]\n").replace("MESH_INTERNAL", "MESH_EXTERNAL");
        let without = snapshot(&text, None);
        assert!(without.listeners.is_empty() && without.notices[0].message.contains("SIMPLE or MUTUAL"));
        let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: bar}\n\
                    spec: {host: a.bar.global, trafficPolicy: {tls: {mode: SIMPLE, credentialName: c}}}\n";
        let with = snapshot(&(text + rule), None);
        assert!(with.listeners.contains_key("outbound_240.0.0.9_8000"));
        assert!(with.notices[0].message.contains("there is no Secret c: create it"), "{:?}", with.notices);
    }
}
