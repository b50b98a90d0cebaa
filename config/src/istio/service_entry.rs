//! ServiceEntry and WorkloadEntry: services and endpoints that Kubernetes does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::export::Export;
use super::findings::Findings;
use super::networks;
use super::schema::Labels;
use super::schema::service_entry::{self as schema, Resolution};
use super::service::Port;
use crate::cidr::Cidr;
use crate::locality::Locality;
use crate::server_name::{Pattern, ServerName};
use crate::spiffe::IdPattern;

/// Says that a workload speaks mesh TLS, on whatever describes the workload.
pub(super) const TLS_MODE: &str = "security.istio.io/tlsMode";

/// Do a workload's labels say that it speaks mesh TLS?
pub(super) fn speaks_mesh_tls(labels: &Labels) -> bool {
    labels.get(TLS_MODE).is_some_and(|mode| mode == "istio")
}

/// A ServiceEntry, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceEntry {
    pub(super) hosts: Vec<Pattern>,
    /// Where plain clients connect to.
    pub(super) addresses: Vec<Cidr>,
    /// The names of which an endpoint's certificate must have one; in the mesh's own TLS, those of them that are
    /// identities. None for anybody.
    pub(super) subject_alt_names: Vec<String>,
    pub(super) ports: Vec<Port>,
    /// `MESH_EXTERNAL`: never exposed by itself.
    pub(super) external: bool,
    /// It has endpoints at all (`resolution` is not `NONE`).
    pub(super) resolved: bool,
    /// A name stands for one address at a time (`DNS_ROUND_ROBIN`).
    pub(super) logical: bool,
    pub(super) endpoints: Vec<Workload>,
    pub(super) selector: Option<Labels>,
    pub(super) exported: Export,
}

/// An endpoint of a ServiceEntry, or a WorkloadEntry, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Workload {
    pub(super) address: Address,
    pub(super) ports: BTreeMap<String, u16>,
    pub(super) labels: Labels,
    pub(super) locality: Locality,
    pub(super) weight: u32,
    /// Empty where nothing is said.
    pub(super) network: String,
    /// Whether it speaks mesh TLS, where anything is said of that.
    pub(super) mesh_tls: Option<bool>,
}

/// Where a workload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Ip(IpAddr),
    Name(ServerName),
}

impl ServiceEntry {
    /// Checks a ServiceEntry of this namespace.
    pub(super) fn parse(schema: &schema::ServiceEntry, namespace: &str, findings: &mut Findings) -> Self {
        let hosts = parse_hosts(&schema.hosts, findings);
        let addresses = parse_addresses(&schema.addresses, findings);
        let ports = parse_ports(&schema.ports, findings);
        let endpoints = schema.endpoints.iter().enumerate();
        let mut endpoints: Vec<Workload> = endpoints
            .filter_map(|(index, endpoint)| {
                Workload::parse(endpoint, &format!("spec.endpoints[{index}]"), findings)
            })
            .collect();
        let selector = schema.workload_selector.as_ref().map(|selector| selector.labels.clone());
        check_resolution(schema, &endpoints, findings);
        let dns = matches!(schema.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        if dns && endpoints.is_empty() && selector.is_none() {
            endpoints = hosts.iter().filter_map(Workload::of_host).collect();
            for (index, host) in
                hosts.iter().enumerate().filter(|(_, host)| !matches!(host, Pattern::Exact(_)))
            {
                let reason =
                    format!("{host} cannot be looked up in DNS; give endpoints, or a name without *");
                findings.refuse(format!("spec.hosts[{index}]"), reason);
            }
        }
        Self {
            hosts,
            addresses,
            subject_alt_names: parse_names(&schema.subject_alt_names, findings),
            ports,
            external: schema.location == schema::Location::MeshExternal,
            resolved: !matches!(schema.resolution, Resolution::None | Resolution::DynamicDns),
            logical: schema.resolution == Resolution::DnsRoundRobin,
            endpoints,
            selector,
            exported: Export::parse(&schema.export_to, namespace, "spec.exportTo", findings),
        }
    }

    /// The endpoints for one of the hosts: where they are the hosts themselves, just that one.
    pub(super) fn endpoints_of<'a>(&'a self, host: &'a Pattern) -> impl Iterator<Item = &'a Workload> {
        let by_host = move |workload: &Workload| match (&workload.address, host) {
            (Address::Name(name), Pattern::Exact(host)) => name == host,
            _ => false,
        };
        let is_itself = self.hosts.len() > 1 && self.endpoints.iter().any(by_host);
        self.endpoints.iter().filter(move |workload| !is_itself || by_host(workload))
    }
}

impl Workload {
    /// Checks a WorkloadEntry, or an endpoint of a ServiceEntry, at this field.
    pub(super) fn parse(
        schema: &schema::WorkloadEntry,
        field: &str,
        findings: &mut Findings,
    ) -> Option<Self> {
        let address = parse_address(&schema.address, &format!("{field}.address"), findings);
        let mut ports = BTreeMap::new();
        for (name, number) in &schema.ports {
            if let Some(number) = findings.port(&format!("{field}.ports.{name}"), *number) {
                ports.insert(name.clone(), number);
            }
        }
        let weight = u32::try_from(schema.weight);
        let wrong = format!("{} is not a weight; give 1 or more", schema.weight);
        let weight = findings.take(&format!("{field}.weight"), weight.map_err(|_| wrong));
        let mut parts = schema.locality.splitn(3, '/').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        Some(Self {
            address: address?,
            ports,
            locality: Locality { region: part(), zone: part(), subzone: part() },
            weight: weight?.max(1),
            network: match schema.network.as_str() {
                "" => networks::of_labels(&schema.labels).to_owned(),
                network => network.to_owned(),
            },
            // istiod takes a workload that has an identity for one that has a sidecar.
            mesh_tls: match schema.labels.get(TLS_MODE) {
                Some(_) => Some(speaks_mesh_tls(&schema.labels)),
                None => (!schema.service_account.is_empty()).then_some(true),
            },
            labels: schema.labels.clone(),
        })
    }

    /// A host that is looked up itself.
    fn of_host(host: &Pattern) -> Option<Self> {
        let Pattern::Exact(name) = host else { return None };
        Some(Self {
            address: Address::Name(name.clone()),
            ports: BTreeMap::new(),
            labels: Labels::new(),
            locality: Locality::default(),
            weight: 1,
            network: String::new(),
            mesh_tls: None,
        })
    }
}

fn parse_hosts(hosts: &[String], findings: &mut Findings) -> Vec<Pattern> {
    if hosts.is_empty() {
        findings
            .refuse("spec.hosts", "a ServiceEntry needs at least one host; give the name that clients use");
    }
    let mut seen = BTreeSet::new();
    let mut parsed = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let field = format!("spec.hosts[{index}]");
        let wrong = |error| {
            let reason =
                || format!("{host:?} is not a host: {error}; give a name such as httpbin.bar.global");
            placeholder(host).unwrap_or_else(reason)
        };
        match findings.take(&field, host.parse::<Pattern>().map_err(wrong)) {
            Some(Pattern::Any) => {
                findings.refuse(field, "* is not a host; give a name, or a suffix such as *.global")
            }
            Some(host) if seen.insert(host.clone()) => parsed.push(host),
            Some(host) => findings.refuse(field, format!("{host} is there twice; remove one")),
            None => {}
        }
    }
    parsed
}

/// What clients connect to: DNS gives it out, and sidecars find the service by it.
fn parse_addresses(addresses: &[String], findings: &mut Findings) -> Vec<Cidr> {
    let addresses = addresses.iter().enumerate();
    addresses
        .filter_map(|(index, address)| findings.take(&format!("spec.addresses[{index}]"), address.parse()))
        .collect()
}

/// The alternative names. Only identities count in the mesh's own TLS: DNS names do not stand in its certificates.
fn parse_names(names: &[String], findings: &mut Findings) -> Vec<String> {
    for (index, name) in names.iter().enumerate() {
        let is_identity = name.starts_with("spiffe://");
        if !is_identity {
            let message = "it counts only where a DestinationRule says SIMPLE or MUTUAL: mesh certificates hold identities such as \
                           spiffe://cluster.local/ns/bar/sa/httpbin";
            findings.notice(format!("spec.subjectAltNames[{index}]"), message);
        } else if let Err(error) = name.parse::<IdPattern>() {
            findings.refuse(format!("spec.subjectAltNames[{index}]"), error.to_string());
        }
    }
    names.to_vec()
}

fn parse_ports(ports: &[schema::ServicePort], findings: &mut Findings) -> Vec<Port> {
    if ports.is_empty() {
        findings.refuse(
            "spec.ports",
            "a ServiceEntry needs at least one port; give its number, name and protocol",
        );
    }
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut parsed = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let Some(number) = findings.port(&format!("{field}.number"), port.number) else { continue };
        let target = port.target_port.map(|target| findings.port(&format!("{field}.targetPort"), target));
        if !numbers.insert(number) {
            findings.refuse(
                format!("{field}.number"),
                format!("there is another port {number}; give each its own"),
            );
        }
        if !names.insert(&port.name) {
            let reason = format!("there is another port named {:?}; give each a name of its own", port.name);
            findings.refuse(format!("{field}.name"), reason);
        }
        if port.protocol.eq_ignore_ascii_case("udp") {
            continue;
        }
        parsed.push(Port { number, name: port.name.clone(), target: target.flatten().unwrap_or(number) });
    }
    parsed
}

fn check_resolution(schema: &schema::ServiceEntry, endpoints: &[Workload], findings: &mut Findings) {
    if schema.workload_selector.is_some() && !schema.endpoints.is_empty() {
        findings.refuse("spec.workloadSelector", "there are endpoints, too; give one or the other");
    }
    match schema.resolution {
        Resolution::Static => {
            if schema.endpoints.is_empty() && schema.workload_selector.is_none() {
                let reason =
                    "resolution STATIC needs endpoints or a workloadSelector; give either, or use DNS";
                findings.refuse("spec.endpoints", reason);
            }
            for (index, endpoint) in endpoints.iter().enumerate() {
                if let Address::Name(name) = &endpoint.address {
                    let reason = format!(
                        "{name} is not an IP address, which resolution STATIC needs; use DNS for names"
                    );
                    findings.refuse(format!("spec.endpoints[{index}].address"), reason);
                }
            }
        }
        Resolution::DnsRoundRobin if schema.endpoints.len() > 1 => {
            let reason = "resolution DNS_ROUND_ROBIN takes one endpoint; give one, or use DNS for several";
            findings.refuse("spec.endpoints", reason);
        }
        Resolution::None if !schema.endpoints.is_empty() => {
            findings.refuse("spec.endpoints", "resolution NONE has no use for endpoints; use STATIC or DNS");
        }
        Resolution::DynamicDns => {
            findings
                .notice("spec.resolution", "DYNAMIC_DNS is not served: the host has no endpoints; use DNS");
        }
        _ => {}
    }
}

/// What to do about a `${NAME}` that a shell should have replaced.
fn placeholder(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("${")?;
    let name = rest.split('}').next().unwrap_or_default();
    Some(format!(
        "${{{name}}} was not replaced: a shell does that, in an unquoted heredoc or by envsubst, once {name} is set; or \
         write what is meant here yourself"
    ))
}

fn parse_address(text: &str, field: &str, findings: &mut Findings) -> Option<Address> {
    if text.starts_with("unix://") {
        let reason =
            format!("{text:?} is a Unix socket, which a gateway cannot reach; give an IP address or a name");
        findings.refuse(field, reason);
        return None;
    }
    if let Ok(ip) = text.parse() {
        return Some(Address::Ip(ip));
    }
    if let Some(reason) = placeholder(text) {
        findings.refuse(field, reason);
        return None;
    }
    let wrong = |error| format!("{text:?} is neither an IP address nor a name: {error}; give one of them");
    findings.take(field, text.parse().map(Address::Name).map_err(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (ServiceEntry, Findings) {
        let mut findings = Findings::default();
        let schema: schema::ServiceEntry = serde_saphyr::from_str(text).unwrap();
        (ServiceEntry::parse(&schema, "bar", &mut findings), findings)
    }

    fn refused(text: &str) -> Vec<String> {
        parse(text).1.refusals.into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn without_endpoints_dns_looks_up_each_host_itself() {
        let (entry, findings) =
            parse("hosts: [a.b, c.d]\nports: [{number: 80, name: tcp, targetPort: 8080}]\nresolution: DNS");
        assert!(findings.refusals.is_empty(), "{findings:?}");
        let of: Vec<_> = entry.endpoints_of(&entry.hosts[1]).map(|workload| &workload.address).collect();
        assert_eq!(of, [&Address::Name("c.d".parse().unwrap())]);
        assert_eq!(entry.ports[0].target, 8080);
        assert_eq!(refused("hosts: ['*.b']\nports: [{number: 80}]\nresolution: DNS"), ["spec.hosts[0]"]);
    }

    #[test]
    fn what_cannot_be_an_endpoint_is_refused() {
        let base = "hosts: [a.b]\nports: [{number: 80}]\n";
        let of = |rest: &str| refused(&format!("{base}{rest}"));
        assert_eq!(of("resolution: STATIC\nendpoints: [{address: x.y}]"), ["spec.endpoints[0].address"]);
        assert_eq!(
            of("resolution: STATIC\nendpoints: [{address: 'unix:///a'}]"),
            ["spec.endpoints[0].address"]
        );
        assert_eq!(of("resolution: STATIC"), ["spec.endpoints"]);
        let two = "endpoints: [{address: a.x}, {address: b.x}]";
        assert_eq!(of(&format!("resolution: DNS_ROUND_ROBIN\n{two}")), ["spec.endpoints"]);
        assert_eq!(of(&format!("resolution: DNS\n{two}")), [""; 0]);
        assert_eq!(of("resolution: DNS\nendpoints: [{address: '${GW}'}]"), ["spec.endpoints[0].address"]);
        assert_eq!(
            of(
                "resolution: STATIC\nendpoints: [{address: 1.2.3.4, ports: {a: 0}, weight: -1}]\naddresses: [10.0.0.0/33, x]"
            ),
            [
                "spec.addresses[0]",
                "spec.addresses[1]",
                "spec.endpoints[0].ports.a",
                "spec.endpoints[0].weight"
            ]
        );
        assert_eq!(
            of("resolution: STATIC\nendpoints: [{address: 1.2.3.4}]\nworkloadSelector: {labels: {a: b}}"),
            ["spec.workloadSelector"]
        );
    }

    #[test]
    fn a_workload_speaks_mesh_tls_by_label_or_identity() {
        let endpoint = |rest: &str| {
            let text = format!(
                "hosts: [a.b]\nports: [{{number: 80}}]\nresolution: STATIC\nendpoints: [{{address: 1.2.3.4, {rest}}}]"
            );
            parse(&text).0.endpoints[0].mesh_tls
        };
        assert_eq!(endpoint("labels: {security.istio.io/tlsMode: istio}"), Some(true));
        assert_eq!(endpoint("serviceAccount: vm"), Some(true));
        let disabled = "labels: {security.istio.io/tlsMode: disabled}, serviceAccount: vm";
        assert_eq!((endpoint(disabled), endpoint("labels: {}")), (Some(false), None));
    }

    #[test]
    fn a_network_is_given_or_a_label() {
        let network = |rest: &str| {
            let text = format!(
                "hosts: [a.b]\nports: [{{number: 80}}]\nresolution: STATIC\nendpoints: [{{address: 1.2.3.4, {rest}}}]"
            );
            parse(&text).0.endpoints[0].network.clone()
        };
        let label = "labels: {topology.istio.io/network: b}";
        assert_eq!(
            [network("network: a"), network(label), network(&format!("network: a, {label}"))],
            ["a", "b", "a"]
        );
    }

    #[test]
    fn a_placeholder_that_was_not_replaced_is_told_by_its_name() {
        let (_, findings) = parse(
            "hosts: ['a.${NS}.b']\nports: [{number: 80}]\nresolution: DNS\nendpoints: [{address: '${CLUSTER_GW_ADDR}'}]",
        );
        let reasons: Vec<&str> = findings.refusals.iter().map(|(_, reason)| reason.as_str()).collect();
        assert!(reasons[0].starts_with("${NS} was not replaced"), "{reasons:?}");
        assert!(reasons[1].starts_with("${CLUSTER_GW_ADDR} was not replaced"), "{reasons:?}");
    }

    #[test]
    fn a_locality_is_taken_apart() {
        let (entry, _) = parse(
            "hosts: [a.b]\nports: [{number: 80}]\nresolution: STATIC\nendpoints: [{address: '::1', locality: r/z/s/t}]",
        );
        let Locality { region, zone, subzone } = &entry.endpoints[0].locality;
        assert_eq!((region.as_str(), zone.as_str(), subzone.as_str()), ("r", "z", "s/t"));
    }
}
