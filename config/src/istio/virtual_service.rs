//! VirtualService: where the names of a `PASSTHROUGH` server and the connections of a TCP server lead.

use super::export::Export;
use super::findings::Findings;
use super::schema::virtual_service as schema;
use crate::cidr::Cidr;
use crate::server_name::Pattern;

/// A VirtualService, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VirtualService {
    /// Those of `hosts` that can be server names; for TCP there may be addresses, too.
    pub(super) hosts: Vec<Pattern>,
    /// The Gateways that it is bound to, by namespace and name.
    pub(super) gateways: Vec<GatewayName>,
    pub(super) exported: Export,
    /// By server name.
    pub(super) tls: Vec<Route>,
    /// By port alone.
    pub(super) tcp: Vec<Route>,
    pub(super) has_http: bool,
}

/// A Gateway's namespace and name.
pub(super) type GatewayName = (String, String);

/// One `tls` or `tcp` route.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Route {
    /// Never empty: a `tcp` route without a match has one that takes everything.
    pub(super) matches: Vec<Match>,
    pub(super) destinations: Vec<Destination>,
}

/// One alternative of a route's `match`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Match {
    /// Its field path.
    pub(super) field: String,
    /// Of `tls`; none for `tcp`.
    pub(super) names: Vec<Pattern>,
    pub(super) port: Option<u16>,
    /// Only for these Gateways; empty is all that the VirtualService is bound to.
    pub(super) gateways: Vec<GatewayName>,
    /// The addresses that clients connect to; empty is any.
    pub(super) destinations: Vec<Cidr>,
    /// Theirs; empty is any.
    pub(super) sources: Vec<Cidr>,
}

/// Where a share of a route's connections goes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Destination {
    /// Its field path.
    pub(super) field: String,
    /// As written; a name without dots is short for a service of the VirtualService's namespace.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) subset: String,
    pub(super) weight: u32,
}

impl VirtualService {
    /// Checks a VirtualService of this namespace.
    pub(super) fn parse(schema: &schema::VirtualService, namespace: &str, findings: &mut Findings) -> Self {
        let mut hosts = Vec::new();
        for (index, host) in schema.hosts.iter().enumerate() {
            // Hosts of HTTP routes may be what a server name cannot be (an IP address); only tls routes need them.
            match host.parse::<Pattern>() {
                Ok(pattern) => hosts.push(pattern),
                Err(error) if !schema.tls.is_empty() => {
                    findings
                        .refuse(format!("spec.hosts[{index}]"), format!("{host:?} is not a host: {error}"));
                }
                Err(_) => {}
            }
        }
        let tls = schema.tls.iter().enumerate();
        let tls = tls.map(|(index, route)| {
            parse_tls(route, &format!("spec.tls[{index}]"), namespace, &hosts, findings)
        });
        let tls = tls.collect();
        let tcp = schema.tcp.iter().enumerate();
        let tcp =
            tcp.map(|(index, route)| parse_tcp(route, &format!("spec.tcp[{index}]"), namespace, findings));
        let tcp = tcp.collect();
        Self {
            gateways: gateway_names(&schema.gateways, namespace),
            exported: Export::parse(&schema.export_to, namespace, "spec.exportTo", findings),
            tls,
            tcp,
            has_http: !schema.http.is_empty(),
            hosts,
        }
    }
}

/// `gateways` entries are `name`, `namespace/name` or, until Istio 1.1, `name.namespace.svc.cluster.local`; `mesh`
/// means sidecars and is nobody's name.
fn gateway_names(entries: &[String], namespace: &str) -> Vec<GatewayName> {
    let named = entries.iter().filter(|entry| *entry != "mesh");
    named
        .map(|entry| match entry.split_once('/') {
            Some((".", name)) => (namespace.to_owned(), name.to_owned()),
            Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
            None => match entry.split_once('.') {
                Some((name, rest)) if rest.contains(".svc.") || rest.ends_with(".svc") => {
                    (rest.split('.').next().unwrap_or(namespace).to_owned(), name.to_owned())
                }
                _ => (namespace.to_owned(), entry.clone()),
            },
        })
        .collect()
}

fn parse_tls(
    route: &schema::TlsRoute,
    field: &str,
    namespace: &str,
    hosts: &[Pattern],
    findings: &mut Findings,
) -> Route {
    if route.matches.is_empty() {
        findings.refuse(format!("{field}.match"), "a tls route needs a match; give it sniHosts");
    }
    let matches = route.matches.iter().enumerate().map(|(index, one)| {
        let field = format!("{field}.match[{index}]");
        // Apart from the names, a match says the same of TLS and of TCP.
        let l4 = schema::L4Match {
            destination_subnets: one.destination_subnets.clone(),
            port: one.port,
            source_subnet: one.source_subnet.clone(),
            source_labels: one.source_labels.clone(),
            gateways: one.gateways.clone(),
            source_namespace: one.source_namespace.clone(),
        };
        let names = parse_names(&one.sni_hosts, &field, hosts, findings);
        Match { names, ..parse_match(&l4, field, namespace, findings) }
    });
    let matches = matches.collect();
    Route { matches, destinations: parse_destinations(&route.route, field, findings) }
}

fn parse_tcp(route: &schema::TcpRoute, field: &str, namespace: &str, findings: &mut Findings) -> Route {
    let matches = route.matches.iter().enumerate();
    let mut matches: Vec<Match> = matches
        .map(|(index, one)| parse_match(one, format!("{field}.match[{index}]"), namespace, findings))
        .collect();
    if matches.is_empty() {
        matches.push(Match { field: field.to_owned(), ..Match::default() });
    }
    Route { matches, destinations: parse_destinations(&route.route, field, findings) }
}

fn parse_match(schema: &schema::L4Match, field: String, namespace: &str, findings: &mut Findings) -> Match {
    // To ignore one of these would send connections along the route that its author kept off it.
    let narrowing = [
        ("sourceLabels", !schema.source_labels.is_empty()),
        ("sourceNamespace", !schema.source_namespace.is_empty()),
    ];
    for (name, _) in narrowing.iter().filter(|(_, given)| *given) {
        let reason = format!(
            "a match by {name} is not supported, because a gateway does not know its clients' workloads, and without it \
             the route would take more; remove it"
        );
        findings.refuse(format!("{field}.{name}"), reason);
    }
    let mut range = |field: String, text: &String| findings.take(&field, text.parse::<Cidr>());
    let destinations = schema.destination_subnets.iter().enumerate();
    let destinations = destinations
        .filter_map(|(index, text)| range(format!("{field}.destinationSubnets[{index}]"), text))
        .collect();
    let source = Some(&schema.source_subnet).filter(|text| !text.is_empty());
    let sources = source.and_then(|text| range(format!("{field}.sourceSubnet"), text)).into_iter().collect();
    let port = schema.port.and_then(|port| findings.port(&format!("{field}.port"), port));
    let gateways = gateway_names(&schema.gateways, namespace);
    Match { names: Vec::new(), port, gateways, destinations, sources, field }
}

fn parse_names(
    sni_hosts: &[String],
    field: &str,
    hosts: &[Pattern],
    findings: &mut Findings,
) -> Vec<Pattern> {
    if sni_hosts.is_empty() {
        findings.refuse(format!("{field}.sniHosts"), "a tls match needs sniHosts; give at least one name");
    }
    let mut names = Vec::new();
    for (index, text) in sni_hosts.iter().enumerate() {
        let field = format!("{field}.sniHosts[{index}]");
        let wrong = |error| format!("{text:?} is not a server name: {error}; give a name, *.suffix or *");
        let Some(name) = findings.take(&field, text.parse::<Pattern>().map_err(wrong)) else { continue };
        if !hosts.iter().any(|host| host.covers(&name)) {
            findings.refuse(field, format!("spec.hosts does not cover {text:?}; add it there"));
        }
        names.push(name);
    }
    names
}

fn parse_destinations(
    route: &[schema::RouteDestination],
    field: &str,
    findings: &mut Findings,
) -> Vec<Destination> {
    let field = format!("{field}.route");
    if route.is_empty() {
        findings.refuse(&field, "a route needs a destination; give it a host");
    }
    let mut destinations = Vec::new();
    for (index, entry) in route.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let Some(destination) = entry.destination.as_ref().filter(|to| !to.host.is_empty()) else {
            findings
                .refuse(format!("{field}.destination.host"), "a destination needs a host; give a service's");
            continue;
        };
        let Ok(weight) = u32::try_from(entry.weight) else {
            findings.refuse(
                format!("{field}.weight"),
                format!("{} is not a weight; give 0 or more", entry.weight),
            );
            continue;
        };
        let port = destination.port.as_ref();
        let port =
            port.and_then(|port| findings.port(&format!("{field}.destination.port.number"), port.number));
        destinations.push(Destination {
            host: destination.host.to_ascii_lowercase(),
            port,
            subset: destination.subset.clone(),
            // Istio takes the weight of a lone destination for 100 %.
            weight: if route.len() == 1 { 1 } else { weight },
            field,
        });
    }
    let total = destinations.iter().map(|to| u64::from(to.weight)).sum::<u64>();
    if !destinations.is_empty() && (total == 0 || total > u64::from(u32::MAX)) {
        findings
            .refuse(&field, format!("the weights add up to {total}; give them so that they add up to 100"));
    }
    destinations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (VirtualService, Findings) {
        let mut findings = Findings::default();
        let schema: schema::VirtualService = serde_saphyr::from_str(text).unwrap();
        (VirtualService::parse(&schema, "bar", &mut findings), findings)
    }

    #[test]
    fn gateways_are_named_in_every_form() {
        let (service, _) = parse("gateways: [a, x/b, ./c, mesh, d.istio-system.svc.cluster.local]");
        let names: Vec<String> = service.gateways.iter().map(|(ns, name)| format!("{ns}/{name}")).collect();
        assert_eq!(names, ["bar/a", "x/b", "bar/c", "istio-system/d"]);
    }

    #[test]
    fn what_would_widen_the_route_is_refused() {
        let (_, findings) = parse(
            "hosts: [a.b]\ntls: [{match: [{sniHosts: [a.b], sourceLabels: {x: y}}], route: [{destination: {host: a}}]}]\n\
             tcp: [{match: [{sourceNamespace: x, destinationSubnets: [10.0.0.0/8, 1.2]}], route: [{destination: {host: a}}]}]",
        );
        let fields: Vec<&str> = findings.refusals.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.tls[0].match[0].sourceLabels",
                "spec.tcp[0].match[0].sourceNamespace",
                "spec.tcp[0].match[0].destinationSubnets[1]"
            ]
        );
    }

    #[test]
    fn a_tcp_route_without_a_match_takes_everything() {
        let (service, findings) = parse(
            "hosts: [10.0.0.0/8]\ntcp: [{route: [{destination: {host: a}}]}, \
             {match: [{port: 1, sourceSubnet: 10.1.2.3}], route: [{destination: {host: a}}]}]",
        );
        assert!(findings.refusals.is_empty(), "{findings:?}");
        let [all, some] = service.tcp.as_slice() else { panic!("{service:?}") };
        assert_eq!(all.matches, [Match { field: "spec.tcp[0]".into(), ..Match::default() }]);
        assert_eq!(
            (some.matches[0].port, some.matches[0].sources[0].to_string()),
            (Some(1), "10.1.2.3/32".into())
        );
    }

    #[test]
    fn names_outside_the_hosts_and_weights_of_nothing_are_refused() {
        let (_, findings) = parse(
            "hosts: ['*.b']\ntls: [{match: [{sniHosts: [a.c]}], route: [{destination: {host: a}}, {destination: {host: b}}]}]",
        );
        let fields: Vec<&str> = findings.refusals.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["spec.tls[0].match[0].sniHosts[0]", "spec.tls[0].route"]);
    }

    #[test]
    fn a_lone_destination_takes_everything() {
        let (service, findings) =
            parse("hosts: [a.b]\ntls: [{match: [{sniHosts: [a.b]}], route: [{destination: {host: A}}]}]");
        assert!(findings.refusals.is_empty());
        assert_eq!((service.tls[0].destinations[0].weight, &*service.tls[0].destinations[0].host), (1, "a"));
    }
}
