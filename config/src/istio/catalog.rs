//! Every service by its host, whichever kind of resource it comes from, with the endpoints of each port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::export::Export;
use super::network::Networks;
use super::resource::Object;
use super::schema::{Labels, selects};
use super::service::{EndpointSlice, Pod, Service, SliceEndpoint};
use super::service_entry::{Address as WorkloadAddress, ServiceEntry, TLS_MODE, Workload, speaks_mesh_tls};
use super::translation::{Output, Resources};
use crate::endpoint::{Address, Endpoint};
use crate::locality::Locality;
use crate::server_name::Pattern;

/// Every service by its host; `*.suffix` for a wildcard ServiceEntry.
#[derive(Debug, Default)]
pub(super) struct Catalog<'a> {
    pub(super) services: BTreeMap<String, MeshService<'a>>,
}

/// A service of either kind.
#[derive(Debug)]
pub(super) struct MeshService<'a> {
    pub(super) host: Pattern,
    /// The Service or ServiceEntry.
    pub(super) object: &'a Object,
    pub(super) exported: &'a Export,
    /// Outside the mesh: an ExternalName Service or a `MESH_EXTERNAL` ServiceEntry.
    pub(super) external: bool,
    /// It has endpoints of its own (a ServiceEntry with `resolution: NONE` has not).
    pub(super) resolved: bool,
    /// The endpoints by service port.
    pub(super) ports: BTreeMap<u16, Vec<Member<'a>>>,
}

impl MeshService<'_> {
    /// The namespace that decides who may see it.
    pub(super) fn namespace(&self) -> &str {
        &self.object.name.namespace
    }
}

/// An endpoint of a service's port, and what decides which clusters it belongs to.
#[derive(Debug, Clone)]
pub(super) struct Member<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) locality: Locality,
    pub(super) labels: &'a Labels,
    pub(super) mesh_tls: bool,
}

impl<'a> Catalog<'a> {
    /// Collects them. Kubernetes' own services come first, so that a ServiceEntry cannot take the name of one.
    pub(super) fn new(resources: &Resources<'a>, cluster_domain: &str, out: &mut Output) -> Self {
        let mut catalog = Self::default();
        let slices = slices_by_service(resources);
        let pods = resources.pods.iter().map(|(object, pod)| {
            let (namespace, name) = full_name(object);
            ((object.cluster.as_str(), namespace, name), *pod)
        });
        let behind = Behind { pods: pods.collect(), networks: Networks::new(&resources.namespaces) };
        for &(object, service) in &resources.services {
            let none = Vec::new();
            let slices = slices.get(&full_name(object)).unwrap_or(&none);
            let workloads = selected_workloads(object, service.selector.as_ref(), resources);
            let service = of_kubernetes(object, service, slices, &behind, &workloads, cluster_domain);
            if let Some(service) = service {
                catalog.add(service, out);
            }
        }
        // A name in a namespace's part of the cluster domain is that namespace's to define, before any other.
        for is_at_home in [true, false] {
            for &(object, entry) in &resources.service_entries {
                let selected = selected_workloads(object, entry.selector.as_ref(), resources);
                let home = format!(".{}.svc.{cluster_domain}", object.name.namespace);
                for host in entry.hosts.iter().filter(|host| host.to_string().ends_with(&home) == is_at_home)
                {
                    catalog.add(of_entry(object, entry, host, &selected), out);
                }
            }
        }
        for service in catalog.services.values_mut() {
            service.ports.values_mut().for_each(put_in_order);
        }
        catalog
    }

    /// Definitions of one host in one namespace add up, as in Istio; of those in several, the first counts.
    fn add(&mut self, service: MeshService<'a>, out: &mut Output) {
        let host = service.host.to_string();
        match self.services.get_mut(&host) {
            None => {
                self.services.insert(host, service);
            }
            Some(first) if first.namespace() == service.namespace() => {
                for (port, members) in service.ports {
                    first.ports.entry(port).or_default().extend(members);
                }
            }
            Some(first) => {
                let message = format!(
                    "{host} is already the host of {}, which counts; this one is not used",
                    first.object.name
                );
                out.notice(service.object, "spec.hosts", message);
            }
        }
    }
}

fn full_name(object: &Object) -> (&str, &str) {
    (&object.name.namespace, &object.name.name)
}

/// What stands behind the addresses of EndpointSlices.
struct Behind<'a> {
    /// By cluster, namespace and name.
    pods: BTreeMap<(&'a str, &'a str, &'a str), &'a Pod>,
    networks: Networks<'a>,
}
type Slices<'a> = Vec<(&'a Object, &'a EndpointSlice)>;

fn slices_by_service<'a>(resources: &Resources<'a>) -> BTreeMap<(&'a str, &'a str), Slices<'a>> {
    let mut slices: BTreeMap<(&str, &str), Slices<'a>> = BTreeMap::new();
    for &(object, slice) in &resources.endpoint_slices {
        slices.entry((&object.name.namespace, &slice.service)).or_default().push((object, slice));
    }
    slices
}

fn of_kubernetes<'a>(
    object: &'a Object,
    service: &'a Service,
    slices: &Slices<'a>,
    behind: &Behind<'a>,
    workloads: &[NamedWorkload<'a>],
    cluster_domain: &str,
) -> Option<MeshService<'a>> {
    let (namespace, name) = full_name(object);
    // Names that Kubernetes takes are names here; anything else can only come from a file.
    let host = format!("{name}.{namespace}.svc.{cluster_domain}").parse().ok()?;
    let mut ports = BTreeMap::new();
    for port in &service.ports {
        let mut members: Vec<Member<'a>> = Vec::new();
        for (slice_object, slice) in slices {
            let targets = slice.ports.iter().filter(|(name, _)| *name == port.name);
            for (_, target) in targets {
                let endpoints = slice.endpoints.iter();
                members.extend(
                    endpoints.filter_map(|endpoint| of_slice(endpoint, *target, slice_object, slice, behind)),
                );
            }
        }
        members.extend(workloads.iter().map(|workload| of_workload(workload, &port.name, port.target)));
        members.extend(service.external_name.as_ref().map(|name| {
            let address = Address::Dns { host: name.to_string(), port: port.number };
            let endpoint = Endpoint::new(address);
            Member { endpoint, locality: Locality::default(), labels: &object.labels, mesh_tls: false }
        }));
        ports.insert(port.number, members);
    }
    let external = service.external_name.is_some();
    Some(MeshService { host, object, exported: &service.exported, external, resolved: true, ports })
}

/// An endpoint of an EndpointSlice, if it is near: its Pod's labels count, and the slice's own where the Pod is not known.
fn of_slice<'a>(
    endpoint: &SliceEndpoint,
    port: u16,
    object: &'a Object,
    slice: &EndpointSlice,
    behind: &Behind<'a>,
) -> Option<Member<'a>> {
    let name = endpoint.pod.as_ref();
    let pod = name.and_then(|(namespace, name)| behind.pods.get(&(&*object.cluster, &**namespace, &**name)));
    let labels = pod.map_or(&object.labels, |pod| &pod.labels);
    behind.networks.is_near(&object.cluster, labels).then(|| Member {
        endpoint: Endpoint {
            health: endpoint.health,
            workload: name.map(|(namespace, name)| format!("{namespace}/{name}")).unwrap_or_default(),
            ..Endpoint::new(Address::Socket(SocketAddr::new(endpoint.address, port)))
        },
        locality: pod.map_or_else(|| endpoint.locality.clone(), |pod| pod.complete(&endpoint.locality)),
        labels,
        mesh_tls: match pod {
            Some(pod) if pod.labels.contains_key(TLS_MODE) => speaks_mesh_tls(&pod.labels),
            _ => slice.mesh_tls,
        },
    })
}

/// A workload, and the name it has where it is a resource of its own.
type NamedWorkload<'a> = (String, &'a Workload);

/// A workload as an endpoint of the port with this name and target.
fn of_workload<'a>((name, workload): &NamedWorkload<'a>, port: &str, target: u16) -> Member<'a> {
    let number = workload.ports.get(port).copied().unwrap_or(target);
    let address = match &workload.address {
        WorkloadAddress::Ip(ip) => Address::Socket(SocketAddr::new(*ip, number)),
        WorkloadAddress::Name(name) => Address::Dns { host: name.to_string(), port: number },
    };
    Member {
        endpoint: Endpoint { weight: workload.weight, workload: name.clone(), ..Endpoint::new(address) },
        locality: workload.locality.clone(),
        labels: &workload.labels,
        mesh_tls: workload.mesh_tls,
    }
}

/// The WorkloadEntries of the namespace that a ServiceEntry or Service selects.
fn selected_workloads<'a>(
    object: &Object,
    selector: Option<&Labels>,
    resources: &Resources<'a>,
) -> Vec<NamedWorkload<'a>> {
    let Some(selector) = selector else { return Vec::new() };
    let in_namespace = resources.workload_entries.iter().filter(|(entry, workload)| {
        entry.name.namespace == object.name.namespace && selects(selector, &workload.labels)
    });
    in_namespace
        .map(|(entry, workload)| {
            let (namespace, name) = full_name(entry);
            (format!("{namespace}/{name}"), *workload)
        })
        .collect()
}

fn of_entry<'a>(
    object: &'a Object,
    entry: &'a ServiceEntry,
    host: &'a Pattern,
    selected: &[NamedWorkload<'a>],
) -> MeshService<'a> {
    let own = entry.endpoints_of(host).map(|workload| (String::new(), workload));
    let workloads: Vec<NamedWorkload<'a>> = own.chain(selected.iter().cloned()).collect();
    let ports = entry.ports.iter().map(|port| {
        (
            port.number,
            workloads.iter().map(|workload| of_workload(workload, &port.name, port.target)).collect(),
        )
    });
    MeshService {
        host: host.clone(),
        object,
        exported: &entry.exported,
        external: entry.external,
        resolved: entry.resolved,
        ports: ports.collect(),
    }
}

/// Sorted, and each address once: Kubernetes warns that it may stand in two EndpointSlices for a while, in which case
/// the better word counts.
fn put_in_order(members: &mut Vec<Member<'_>>) {
    let rank = |member: &Member<'_>| (member.endpoint.health as u8, member.endpoint.workload.clone());
    members.sort_by(|a, b| a.endpoint.address.cmp(&b.endpoint.address).then_with(|| rank(a).cmp(&rank(b))));
    let mut seen = BTreeSet::new();
    members.retain(|member| seen.insert(member.endpoint.address.clone()));
}
