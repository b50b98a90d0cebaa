//! Every service by its host, whichever kind of resource it comes from, with the endpoints of each port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::Options;
use super::export::Export;
use super::networks::Networks;
use super::resource::Object;
use super::schema::{Labels, selects};
use super::service::{Addresses, EndpointSlice, Pod, Service, SliceEndpoint};
use super::service_entry::{Address as WorkloadAddress, ServiceEntry, TLS_MODE, Workload, speaks_mesh_tls};
use super::translation::{Output, Resources};
use crate::endpoint::{Address, Endpoint, Extras, GATEWAY_PORT};
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
    /// The names of which an endpoint's certificate must have one; none for any.
    pub(super) subject_alt_names: &'a [String],
    /// It has endpoints of its own (a ServiceEntry with `resolution: NONE` has not).
    pub(super) resolved: bool,
    /// What its host resolves to.
    pub(super) addresses: Addresses,
    /// The endpoints by service port, of the networks that the gateway sees.
    pub(super) ports: BTreeMap<u16, Vec<Member<'a>>>,
    /// The networks of its other endpoints.
    pub(super) unseen: BTreeSet<&'a str>,
}

impl MeshService<'_> {
    /// The namespace that decides who may see it.
    pub(super) fn namespace(&self) -> &str {
        &self.object.name.namespace
    }

    /// Where its endpoints are that the gateway does not use, if there are any.
    pub(super) fn unseen_message(&self) -> Option<String> {
        let name = |network: &&str| match *network {
            "" => "the gateway's own network".to_owned(),
            network => format!("network {network}"),
        };
        let networks: Vec<String> = self.unseen.iter().map(name).collect();
        (!networks.is_empty()).then(|| {
            format!(
                "endpoints of {} are in {}, which the gateway does not use; add that to node.network_view if it is to",
                self.host,
                networks.join(" and ")
            )
        })
    }
}

/// An endpoint of a service's port, and what decides which clusters it belongs to.
#[derive(Debug, Clone)]
pub(super) struct Member<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) locality: Locality,
    pub(super) labels: &'a Labels,
    /// Whether it speaks mesh TLS, where anything is said of that.
    pub(super) mesh_tls: Option<bool>,
    /// Its name stands for one address at a time.
    pub(super) logical: bool,
}

impl<'a> Catalog<'a> {
    /// Collects them. Kubernetes' own services come first, so that a ServiceEntry cannot take the name of one.
    pub(super) fn new(
        resources: &Resources<'a>,
        options: &Options,
        networks: &Networks<'a>,
        out: &mut Output,
    ) -> Self {
        let cluster_domain = options.cluster_domain.as_str();
        let mut catalog = Self::default();
        let slices = slices_by_service(resources);
        let pods = resources.pods.iter().map(|(object, pod)| {
            let (namespace, name) = full_name(object);
            ((object.cluster.as_str(), namespace, name), *pod)
        });
        let behind = Behind { pods: pods.collect(), networks };
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
                    catalog.add(of_entry(object, entry, host, &selected, networks), out);
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
                first.unseen.extend(service.unseen);
                first.addresses.join(service.addresses);
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
struct Behind<'n, 'a> {
    /// By cluster, namespace and name.
    pods: BTreeMap<(&'a str, &'a str, &'a str), &'a Pod>,
    networks: &'n Networks<'a>,
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
    behind: &Behind<'_, 'a>,
    workloads: &[NamedWorkload<'a>],
    cluster_domain: &str,
) -> Option<MeshService<'a>> {
    let (namespace, name) = full_name(object);
    let (workloads, mut unseen) = seen(workloads, behind.networks);
    // Names that Kubernetes takes are names here; anything else can only come from a file.
    let host = format!("{name}.{namespace}.svc.{cluster_domain}").parse().ok()?;
    let mut ports = BTreeMap::new();
    for port in &service.ports {
        let mut members = of_slices(slices, &port.name, behind, &mut unseen);
        members.extend(
            workloads.iter().map(|workload| of_workload(workload, &port.name, port.target, behind.networks)),
        );
        members.extend(service.external_name.as_ref().map(|name| {
            let address = Address::Dns { host: name.as_str().into(), port: port.number };
            let endpoint = Endpoint::new(address);
            Member {
                endpoint,
                locality: Locality::default(),
                labels: &object.labels,
                mesh_tls: Some(false),
                logical: false,
            }
        }));
        ports.insert(port.number, members);
    }
    let external = service.external_name.is_some();
    let (exported, addresses) = (&service.exported, service.addresses.clone());
    Some(MeshService {
        host,
        object,
        exported,
        external,
        subject_alt_names: &[],
        resolved: true,
        addresses,
        ports,
        unseen,
    })
}

/// The endpoints of EndpointSlices for the port with this name, and the networks of those that the gateway does not see.
fn of_slices<'a>(
    slices: &Slices<'a>,
    port: &str,
    behind: &Behind<'_, 'a>,
    unseen: &mut BTreeSet<&'a str>,
) -> Vec<Member<'a>> {
    let mut members = Vec::new();
    for (object, slice) in slices {
        for (_, target) in slice.ports.iter().filter(|(name, _)| name == port) {
            for endpoint in &slice.endpoints {
                match of_slice(endpoint, *target, object, slice, behind) {
                    Ok(member) => members.push(member),
                    Err(network) => {
                        unseen.insert(network);
                    }
                }
            }
        }
    }
    members
}

/// An endpoint of an EndpointSlice, or its network, if the gateway does not see that: its Pod's labels count, and the
/// slice's own where the Pod is not known.
fn of_slice<'a>(
    endpoint: &SliceEndpoint,
    port: u16,
    object: &'a Object,
    slice: &EndpointSlice,
    behind: &Behind<'_, 'a>,
) -> Result<Member<'a>, &'a str> {
    let name = endpoint.pod.as_ref();
    let pod = name.and_then(|(namespace, name)| behind.pods.get(&(&*object.cluster, &**namespace, &**name)));
    let labels = pod.map_or(&object.labels, |pod| &pod.labels);
    let network = behind.networks.of_pod(&object.cluster, labels);
    if !behind.networks.sees(network) {
        return Err(network);
    }
    Ok(Member {
        endpoint: Endpoint {
            health: endpoint.health,
            workload: name.map(|(namespace, name)| format!("{namespace}/{name}").into()).unwrap_or_default(),
            ..Endpoint::new(Address::Socket(SocketAddr::new(endpoint.address, port)))
        },
        locality: pod.map_or_else(|| endpoint.locality.clone(), |pod| pod.complete(&endpoint.locality)),
        labels,
        mesh_tls: match pod {
            Some(pod) if pod.labels.contains_key(TLS_MODE) => Some(speaks_mesh_tls(&pod.labels)),
            _ => Some(slice.mesh_tls),
        },
        logical: false,
    })
}

/// A workload, and the name it has where it is a resource of its own.
type NamedWorkload<'a> = (String, &'a Workload);

/// Those in networks that the gateway sees, and the networks of the others.
fn seen<'a>(
    workloads: &[NamedWorkload<'a>],
    networks: &Networks<'_>,
) -> (Vec<NamedWorkload<'a>>, BTreeSet<&'a str>) {
    let (seen, unseen): (Vec<_>, Vec<_>) =
        workloads.iter().cloned().partition(|(_, workload)| networks.sees(&workload.network));
    (seen, unseen.into_iter().map(|(_, workload)| workload.network.as_str()).collect())
}

/// A workload as an endpoint of the port with this name and target.
fn of_workload<'a>(
    (name, workload): &NamedWorkload<'a>,
    port: &str,
    target: u16,
    networks: &Networks<'_>,
) -> Member<'a> {
    let number = workload.ports.get(port).copied().unwrap_or(target);
    let address = match &workload.address {
        WorkloadAddress::Ip(ip) => Address::Socket(SocketAddr::new(*ip, number)),
        WorkloadAddress::Name(name) => Address::Dns { host: name.as_str().into(), port: number },
    };
    // Whatever is behind a gateway is reached at its address.
    let is_gateway = number == GATEWAY_PORT || !networks.is_own(&workload.network);
    let gateway = is_gateway.then(|| workload.network.clone());
    let extras = Extras { gateway, ..Extras::default() };
    Member {
        endpoint: Endpoint {
            weight: workload.weight,
            workload: name.as_str().into(),
            extras: extras.into(),
            ..Endpoint::new(address)
        },
        locality: workload.locality.clone(),
        labels: &workload.labels,
        // Other networks are reached through their gateways, which take nothing but mesh TLS.
        mesh_tls: workload.mesh_tls.or((!networks.is_own(&workload.network)).then_some(true)),
        logical: false,
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
    networks: &Networks<'_>,
) -> MeshService<'a> {
    let own = entry.endpoints_of(host).map(|workload| (String::new(), workload));
    let workloads: Vec<NamedWorkload<'a>> = own.chain(selected.iter().cloned()).collect();
    let (workloads, unseen) = seen(&workloads, networks);
    let ports = entry.ports.iter().map(|port| {
        let member = |workload| Member {
            logical: entry.logical,
            ..of_workload(workload, &port.name, port.target, networks)
        };
        (port.number, workloads.iter().map(member).collect())
    });
    MeshService {
        host: host.clone(),
        object,
        exported: &entry.exported,
        external: entry.external,
        subject_alt_names: &entry.subject_alt_names,
        resolved: entry.resolved,
        addresses: match entry.addresses.as_slice() {
            [] => Addresses::Automatic,
            given => Addresses::Given(given.to_vec()),
        },
        ports: ports.collect(),
        unseen,
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
