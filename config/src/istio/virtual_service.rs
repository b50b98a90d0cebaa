//! VirtualService: where the names of a `PASSTHROUGH` server lead.

use super::export::Export;
use super::findings::Findings;
use super::schema::virtual_service as schema;
use crate::server_name::Pattern;

/// A VirtualService, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VirtualService {
    /// The Gateways that it is bound to, by namespace and name.
    pub(super) gateways: Vec<GatewayName>,
    pub(super) exported: Export,
    pub(super) routes: Vec<TlsRoute>,
    /// It has `http` or `tcp` routes, by field.
    pub(super) other_routes: Vec<&'static str>,
}

/// A Gateway's namespace and name.
pub(super) type GatewayName = (String, String);

/// One `tls` route.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TlsRoute {
    pub(super) matches: Vec<TlsMatch>,
    pub(super) destinations: Vec<Destination>,
}

/// One alternative of a route's `match`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TlsMatch {
    /// Its field path.
    pub(super) field: String,
    pub(super) names: Vec<Pattern>,
    pub(super) port: Option<u16>,
    /// Only for these Gateways; empty is all that the VirtualService is bound to.
    pub(super) gateways: Vec<GatewayName>,
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
        let routes = schema.tls.iter().enumerate();
        let routes = routes
            .map(|(index, route)| {
                parse_route(route, &format!("spec.tls[{index}]"), namespace, &hosts, findings)
            })
            .collect();
        let other = [("spec.http", !schema.http.is_empty()), ("spec.tcp", !schema.tcp.is_empty())];
        Self {
            gateways: gateway_names(&schema.gateways, namespace),
            exported: Export::parse(&schema.export_to, namespace, "spec.exportTo", findings),
            routes,
            other_routes: other.into_iter().filter(|(_, given)| *given).map(|(field, _)| field).collect(),
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

fn parse_route(
    route: &schema::TlsRoute,
    field: &str,
    namespace: &str,
    hosts: &[Pattern],
    findings: &mut Findings,
) -> TlsRoute {
    if route.matches.is_empty() {
        findings.refuse(format!("{field}.match"), "a tls route needs a match; give it sniHosts");
    }
    let matches = route.matches.iter().enumerate();
    let matches = matches
        .map(|(index, one)| parse_match(one, format!("{field}.match[{index}]"), namespace, hosts, findings))
        .collect();
    TlsRoute { matches, destinations: parse_destinations(&route.route, field, findings) }
}

fn parse_match(
    schema: &schema::TlsMatch,
    field: String,
    namespace: &str,
    hosts: &[Pattern],
    findings: &mut Findings,
) -> TlsMatch {
    // To ignore one of these would send connections along the route that its author kept off it.
    let narrowing = [
        ("destinationSubnets", !schema.destination_subnets.is_empty()),
        ("sourceLabels", !schema.source_labels.is_empty()),
        ("sourceSubnet", !schema.source_subnet.is_empty()),
        ("sourceNamespace", !schema.source_namespace.is_empty()),
    ];
    for (name, _) in narrowing.iter().filter(|(_, given)| *given) {
        let reason = format!(
            "a match by {name} is not supported, and without it the route would take more; remove it"
        );
        findings.refuse(format!("{field}.{name}"), reason);
    }
    if schema.sni_hosts.is_empty() {
        findings.refuse(format!("{field}.sniHosts"), "a tls match needs sniHosts; give at least one name");
    }
    let mut names = Vec::new();
    for (index, text) in schema.sni_hosts.iter().enumerate() {
        let field = format!("{field}.sniHosts[{index}]");
        let wrong = |error| format!("{text:?} is not a server name: {error}; give a name, *.suffix or *");
        let Some(name) = findings.take(&field, text.parse::<Pattern>().map_err(wrong)) else { continue };
        if !hosts.iter().any(|host| host.covers(&name)) {
            findings.refuse(field, format!("spec.hosts does not cover {text:?}; add it there"));
        }
        names.push(name);
    }
    let port = schema.port.and_then(|port| findings.port(&format!("{field}.port"), port));
    TlsMatch { names, port, gateways: gateway_names(&schema.gateways, namespace), field }
}

fn parse_destinations(
    route: &[schema::RouteDestination],
    field: &str,
    findings: &mut Findings,
) -> Vec<Destination> {
    let field = format!("{field}.route");
    if route.is_empty() {
        findings.refuse(&field, "a tls route needs a destination; give it a host");
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
            "hosts: [a.b]\ntls: [{match: [{sniHosts: [a.b], sourceLabels: {x: y}, destinationSubnets: [10.0.0.0/8]}], \
             route: [{destination: {host: a}}]}]",
        );
        let fields: Vec<&str> = findings.refusals.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["spec.tls[0].match[0].destinationSubnets", "spec.tls[0].match[0].sourceLabels"]);
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
        assert_eq!(
            (service.routes[0].destinations[0].weight, &*service.routes[0].destinations[0].host),
            (1, "a")
        );
    }
}
