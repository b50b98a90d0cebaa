//! Service, EndpointSlice and Pod: the services that Kubernetes knows.

use std::net::IpAddr;

use super::export::Export;
use super::findings::Findings;
use super::schema::{Labels, Metadata, core as schema};
use super::service_entry::speaks_mesh_tls;
use crate::cidr::Cidr;
use crate::endpoint::Health;
use crate::locality::Locality;
use crate::server_name::ServerName;

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";

/// A Service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Service {
    /// Those that are not UDP or SCTP.
    pub(super) ports: Vec<Port>,
    /// Chooses WorkloadEntries of its namespace; its Pods come as EndpointSlices. Never empty.
    pub(super) selector: Option<Labels>,
    /// It is another name for a host outside the cluster.
    pub(super) external_name: Option<ServerName>,
    pub(super) addresses: Addresses,
    pub(super) exported: Export,
}

/// What a service's host resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Addresses {
    /// These.
    Given(Vec<Cidr>),
    /// Those of its endpoints (a headless Service).
    OfEndpoints,
    /// It is given none (a ServiceEntry).
    Automatic,
    /// That is not for us to say.
    Unknown,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) name: String,
    /// Where a WorkloadEntry takes it, unless it says otherwise. For Pods the EndpointSlice's port of the same name
    /// counts, because a target may be a name that each Pod gives another number.
    pub(super) target: u16,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EndpointSlice {
    /// The name of its Service, in its own namespace; empty where it has none.
    pub(super) service: String,
    /// By the Service's port name.
    pub(super) ports: Vec<(String, u16)>,
    pub(super) endpoints: Vec<SliceEndpoint>,
    pub(super) mesh_tls: bool,
}

/// One address of an EndpointSlice that takes connections, or at least keeps them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SliceEndpoint {
    pub(super) address: IpAddr,
    pub(super) health: Health,
    /// The Pod behind it, by namespace and name.
    pub(super) pod: Option<(String, String)>,
    pub(super) locality: Locality,
}

/// A Pod: whatever its labels say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pod {
    pub(super) labels: Labels,
}

impl Service {
    /// Reads a Service.
    pub(super) fn parse(schema: &schema::ServiceSpec, metadata: &Metadata, findings: &mut Findings) -> Self {
        let mut ports = Vec::new();
        for (index, port) in schema.ports.iter().enumerate() {
            let number = findings.port(&format!("spec.ports[{index}].port"), port.port);
            if let (Some(number), "" | "TCP") = (number, port.protocol.as_str()) {
                let target = port.target_port.as_u64().and_then(|target| u16::try_from(target).ok());
                ports.push(Port { number, name: port.name.clone(), target: target.unwrap_or(number) });
            }
        }
        let external_name = (schema.kind == "ExternalName").then(|| {
            let wrong =
                |error| format!("{:?} is not a name: {error}; give a host name", schema.external_name);
            findings.take("spec.externalName", schema.external_name.parse().map_err(wrong))
        });
        let exported = Export::of_service(&metadata.annotations, &metadata.namespace, findings);
        let selector = Some(schema.selector.clone()).filter(|selector| !selector.is_empty());
        let addresses = Addresses::of_service(schema, findings);
        Self { ports, selector, external_name: external_name.flatten(), addresses, exported }
    }
}

impl Addresses {
    fn of_service(schema: &schema::ServiceSpec, findings: &mut Findings) -> Self {
        let first = Some(&schema.cluster_ip).filter(|address| !address.is_empty());
        let all: Vec<_> = if schema.cluster_ips.is_empty() {
            first.map(|address| ("spec.clusterIP".to_owned(), address)).into_iter().collect()
        } else {
            let all = schema.cluster_ips.iter().enumerate();
            all.map(|(index, address)| (format!("spec.clusterIPs[{index}]"), address)).collect()
        };
        match all.as_slice() {
            // One that comes from a file has none before Kubernetes has given it one.
            [] => Self::Unknown,
            [(_, address)] if *address == "None" => Self::OfEndpoints,
            all => Self::Given(
                all.iter().filter_map(|(field, address)| findings.take(field, address.parse())).collect(),
            ),
        }
    }

    /// Those of another definition of the same host come to these.
    pub(super) fn join(&mut self, other: Self) {
        match (self, other) {
            (Self::Given(addresses), Self::Given(more)) => addresses.extend(more),
            (addresses @ (Self::Automatic | Self::Unknown), more @ (Self::Given(_) | Self::OfEndpoints)) => {
                *addresses = more;
            }
            _ => {}
        }
    }
}

impl EndpointSlice {
    /// Reads an EndpointSlice.
    pub(super) fn parse(
        schema: &schema::EndpointSlice,
        metadata: &Metadata,
        findings: &mut Findings,
    ) -> Self {
        let mut ports = Vec::new();
        for (index, port) in schema.ports.iter().enumerate() {
            let number = port.port.and_then(|number| findings.port(&format!("ports[{index}].port"), number));
            ports.extend(number.map(|number| (port.name.clone(), number)));
        }
        let mut endpoints = Vec::new();
        if schema.address_type.eq_ignore_ascii_case("FQDN") {
            findings.notice(
                "addressType",
                "FQDN endpoints are not used; a ServiceEntry with resolution DNS does that",
            );
        } else {
            for (index, endpoint) in schema.endpoints.iter().enumerate() {
                let field = format!("endpoints[{index}].addresses");
                endpoints.extend(parse_endpoint(endpoint, &field, &metadata.namespace, findings));
            }
        }
        Self {
            service: metadata.labels.get(SERVICE_NAME).cloned().unwrap_or_default(),
            ports,
            endpoints,
            mesh_tls: speaks_mesh_tls(&metadata.labels),
        }
    }
}

impl Pod {
    /// Where its labels say it stands, for what the EndpointSlice leaves out.
    pub(super) fn complete(&self, locality: &Locality) -> Locality {
        let part = |known: &String, label: &str| match known.as_str() {
            "" => self.labels.get(label).cloned().unwrap_or_default(),
            _ => known.clone(),
        };
        Locality {
            region: part(&locality.region, REGION),
            zone: part(&locality.zone, ZONE),
            subzone: part(&locality.subzone, SUBZONE),
        }
    }
}

fn parse_endpoint(
    schema: &schema::SliceEndpoint,
    field: &str,
    namespace: &str,
    findings: &mut Findings,
) -> Option<SliceEndpoint> {
    let health = health_of(&schema.conditions)?;
    // All addresses of one endpoint are the same endpoint; the API asks consumers to use the first.
    let address = schema.addresses.first()?;
    let wrong = |_| format!("{address:?} is not an IP address; give one");
    let address = findings.take(&format!("{field}[0]"), address.parse().map_err(wrong))?;
    let pod = schema.target_ref.as_ref().filter(|target| target.kind == "Pod").map(|target| {
        let namespace = if target.namespace.is_empty() { namespace } else { &target.namespace };
        (namespace.to_owned(), target.name.clone())
    });
    let topology = |label: &str| schema.deprecated_topology.get(label).cloned().unwrap_or_default();
    let zone = if schema.zone.is_empty() { topology(ZONE) } else { schema.zone.clone() };
    let locality = Locality { region: topology(REGION), zone, subzone: String::new() };
    Some(SliceEndpoint { address, health, pod, locality })
}

/// What the API leaves unknown counts as ready (and `serving` as `ready`), as it asks consumers to take it.
fn health_of(conditions: &schema::Conditions) -> Option<Health> {
    let ready = conditions.ready.unwrap_or(true);
    if conditions.terminating.unwrap_or(false) {
        return conditions.serving.unwrap_or(ready).then_some(Health::Draining);
    }
    ready.then_some(Health::Healthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Option<Health> {
        health_of(&schema::Conditions { ready, serving, terminating })
    }

    #[test]
    fn unknown_is_ready_and_terminating_drains_while_it_serves() {
        assert_eq!(health(None, None, None), Some(Health::Healthy));
        assert_eq!(health(Some(false), Some(true), None), None);
        assert_eq!(health(Some(false), Some(true), Some(true)), Some(Health::Draining));
        assert_eq!(health(Some(false), Some(false), Some(true)), None);
        assert_eq!(health(Some(false), None, Some(true)), None);
    }
}
