//! ClusterLoadAssignment: the endpoints of a cluster.

// Control planes still send what Envoy has deprecated.
#![allow(deprecated)]

use std::sync::Arc;

use eastgate_proto::envoy::config::core::v3::HealthStatus;
use eastgate_proto::envoy::config::endpoint::v3 as wire;

use super::Problem;
use super::values::{self, Address};
use crate::cluster::LocalityEndpoints;
use crate::endpoint::{self, Endpoint, Extras, Health, MAX_ADDITIONAL};
use crate::locality::Locality;

/// As Envoy has it; each priority is looked through for every connection that finds the ones before it down.
const MAX_PRIORITY: u32 = 128;
/// The longest DNS name.
const MAX_HOSTNAME: usize = 255;
/// What Istio's `EndpointMetadata` chooses a transport socket by.
const SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// The endpoints that were assigned to a cluster, before it is known how they have to be spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::xds) struct Assignment {
    pub(super) localities: Vec<AssignedLocality>,
    pub(super) overprovisioning_factor: Option<u32>,
    pub(super) internal: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AssignedLocality {
    /// With no endpoints of its own: they follow.
    pub(super) place: LocalityEndpoints,
    pub(super) endpoints: Vec<Assigned>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) endpoint: Endpoint,
    /// Sorted.
    pub(super) labels: Vec<(String, String)>,
}

impl Assignment {
    pub(in crate::xds) fn is_empty(&self) -> bool {
        self.localities.iter().all(|locality| locality.endpoints.is_empty())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Assigned> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }
}

/// May an endpoint be a DNS name? EDS never sends one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Allowed,
    Refused,
}

pub(super) fn decode(message: wire::ClusterLoadAssignment, names: Names) -> Result<Assignment, Problem> {
    let mut assignment = Assignment::default();
    if let Some(policy) = &message.policy {
        if !policy.drop_overloads.is_empty() {
            return Err(Problem::at("policy.drop_overloads", "connections are not dropped at random here"));
        }
        let factor = policy.overprovisioning_factor.map(|factor| factor.value);
        if factor == Some(0) {
            return Err(Problem::at("policy.overprovisioning_factor", "it must be more than 0"));
        }
        assignment.overprovisioning_factor = factor;
    }
    let mut locality_weights = 0;
    for (index, locality) in message.endpoints.iter().enumerate() {
        let at = format!("endpoints[{index}]");
        let reader = Reader { named: &message.named_endpoints, names };
        let (locality, internal) = reader.locality(locality).map_err(|problem| problem.inside(&at))?;
        locality_weights += u64::from(locality.place.weight.unwrap_or(0));
        assignment.internal = assignment.internal.saturating_add(internal);
        assignment.localities.push(locality);
    }
    limit("endpoints", locality_weights)?;
    Ok(assignment)
}

/// Weights are summed up in 32 bits wherever they are used.
fn limit(field: &str, sum: u64) -> Result<(), Problem> {
    match u32::try_from(sum) {
        Ok(_) => Ok(()),
        Err(_) => Err(Problem::at(field, "the sum of its weights is more than 4,294,967,295")),
    }
}

struct Reader<'a> {
    named: &'a std::collections::HashMap<String, wire::Endpoint>,
    names: Names,
}

impl Reader<'_> {
    fn locality(&self, message: &wire::LocalityLbEndpoints) -> Result<(AssignedLocality, u32), Problem> {
        use wire::locality_lb_endpoints::LbConfig;
        if message.priority > MAX_PRIORITY {
            return Err(Problem::at("priority", format!("it is more than {MAX_PRIORITY}")));
        }
        let place = message.locality.clone().unwrap_or_default();
        let weight = message.load_balancing_weight.map(|weight| weight.value);
        let mut locality = AssignedLocality {
            place: LocalityEndpoints {
                locality: Locality { region: place.region, zone: place.zone, subzone: place.sub_zone },
                priority: message.priority,
                // istiod sends a locality of no endpoints without a weight, or with 0.
                weight: weight.filter(|weight| *weight > 0),
                endpoints: Vec::new(),
            },
            endpoints: Vec::new(),
        };
        let listed = match &message.lb_config {
            Some(LbConfig::LedsClusterLocalityConfig(_)) => {
                return Err(Problem::at("leds_cluster_locality_config", "LEDS is not spoken here"));
            }
            Some(LbConfig::LoadBalancerEndpoints(list)) => list.lb_endpoints.as_slice(),
            None => &[],
        };
        let mut internal = 0_u32;
        let mut weights = 0;
        for (index, message) in message.lb_endpoints.iter().chain(listed).enumerate() {
            let at = format!("lb_endpoints[{index}]");
            match self.endpoint(message).map_err(|problem| problem.inside(&at))? {
                Some(mut assigned) => {
                    // The pods of a Deployment have one name for all, and a mesh has many of them.
                    let before = locality.endpoints.last().map(|before| &before.endpoint.workload);
                    if let Some(same) = before.filter(|before| **before == assigned.endpoint.workload) {
                        assigned.endpoint.workload = Arc::clone(same);
                    }
                    weights += u64::from(assigned.endpoint.weight);
                    locality.endpoints.push(assigned);
                }
                None => internal = internal.saturating_add(1),
            }
        }
        limit("lb_endpoints", weights)?;
        Ok((locality, internal))
    }

    /// None where the endpoint's address is of no use outside an Envoy.
    fn endpoint(&self, message: &wire::LbEndpoint) -> Result<Option<Assigned>, Problem> {
        use wire::lb_endpoint::HostIdentifier;
        let inner = match &message.host_identifier {
            Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
            Some(HostIdentifier::EndpointName(name)) => self.named.get(name).ok_or_else(|| {
                Problem::at("endpoint_name", format!("{name:?} is not among the named_endpoints"))
            })?,
            None => return Err(Problem::at("endpoint", "there is no endpoint")),
        };
        let address = match values::address("endpoint.address", inner.address.as_ref())? {
            Address::Ip(address) => endpoint::Address::Socket(address),
            Address::Name(host, port) if self.names == Names::Allowed => {
                endpoint::Address::Dns { host: host.into(), port }
            }
            Address::Name(host, _) => {
                let reason = format!("{host:?} is no IP address, and EDS endpoints are not resolved");
                return Err(Problem::at("endpoint.address.socket_address.address", reason));
            }
            Address::Internal => return Ok(None),
        };
        let mut endpoint = Endpoint::new(address);
        endpoint.weight = match message.load_balancing_weight.map(|weight| weight.value) {
            Some(0) => return Err(Problem::at("load_balancing_weight", "it must be at least 1")),
            weight => weight.unwrap_or(1),
        };
        endpoint.health = health(message.health_status);
        if inner.hostname.len() > MAX_HOSTNAME {
            return Err(Problem::at("endpoint.hostname", "it is longer than 255 bytes"));
        }
        if inner.additional_addresses.len() > MAX_ADDITIONAL {
            let reason = format!("there are more than {MAX_ADDITIONAL}");
            return Err(Problem::at("endpoint.additional_addresses", reason));
        }
        let mut extras = Extras { hostname: inner.hostname.clone(), ..Extras::default() };
        if let Some(check) = inner.health_check_config.as_ref().filter(|check| check.port_value != 0) {
            let port = values::port("endpoint.health_check_config.port_value", check.port_value)?;
            extras.health_check_port = Some(port);
        }
        for (index, other) in inner.additional_addresses.iter().enumerate() {
            let at = format!("endpoint.additional_addresses[{index}].address");
            if let Address::Ip(address) = values::address(&at, other.address.as_ref())? {
                extras.additional_addresses.push(address);
            }
        }
        let metadata = message.metadata.as_ref().map(|metadata| &metadata.filter_metadata);
        let fields = |name: &str| metadata.and_then(|metadata| metadata.get(name));
        if let Some(workload) = fields("istio").and_then(|fields| values::text_at(fields, &["workload"])) {
            endpoint.workload = workload.into();
        }
        extras.gateway = gateway(&endpoint);
        endpoint.extras = extras.into();
        let labels = fields(SOCKET_MATCH).map(values::labels).unwrap_or_default();
        Ok(Some(Assigned { endpoint, labels }))
    }
}

/// The network that an endpoint is the gateway of, as far as it can be told. istiod puts the gateways of other networks in
/// the place of the pods behind them, with the port that these gateways have and a workload of which nothing is known
/// but its cluster (`name;namespace;canonical name;revision;cluster`).
fn gateway(endpoint: &Endpoint) -> Option<String> {
    let mut parts = endpoint.workload.split(';');
    let is_pod = parts.next().is_some_and(|name| !name.is_empty());
    let is_gateway = endpoint.address.port() == endpoint::GATEWAY_PORT && !is_pod;
    is_gateway.then(|| parts.nth(3).unwrap_or_default().to_owned())
}

/// What Envoy calls unknown it uses like healthy, and what timed out like unhealthy. A status of a later Envoy is
/// no reason to lose an endpoint.
fn health(status: i32) -> Health {
    match HealthStatus::try_from(status) {
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Health::Unhealthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) | Err(_) => Health::Healthy,
    }
}
