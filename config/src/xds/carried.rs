//! The endpoints of clusters that carry them, which Envoy lists beside those that came by EDS: their DNS names replaced
//! by what they resolve to, and nothing else changed.

// Control planes still send what Envoy has deprecated.
#![allow(deprecated)]

use eastgate_proto::Message;
use eastgate_proto::envoy::config::cluster::v3 as cluster;
use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::config::endpoint::v3 as endpoint;

use crate::cluster::{Cluster, Resolutions};
use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use core::address::Address;
use endpoint::lb_endpoint::HostIdentifier;
use endpoint::locality_lb_endpoints::LbConfig;

/// The assignment inside of this cluster, as bytes, under the cluster's own name; none where EDS has it.
pub(crate) fn assignment(body: &[u8], served: &Cluster, resolved: &Resolutions) -> Option<Vec<u8>> {
    let cluster = cluster::Cluster::decode(body).ok()?;
    let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds as i32);
    if cluster.cluster_discovery_type == Some(eds) {
        return None;
    }
    let mut assignment = cluster.load_assignment.unwrap_or_default();
    assignment.cluster_name = cluster.name;
    for locality in &mut assignment.endpoints {
        let mut listed = std::mem::take(&mut locality.lb_endpoints);
        if let Some(LbConfig::LoadBalancerEndpoints(list)) = &mut locality.lb_config {
            listed.append(&mut list.lb_endpoints);
            locality.lb_config = None;
        }
        for one in &mut listed {
            if let Some(HostIdentifier::EndpointName(name)) = &one.host_identifier {
                let named = assignment.named_endpoints.get(name).cloned();
                one.host_identifier = named.map(HostIdentifier::Endpoint);
            }
        }
        locality.lb_endpoints = listed.into_iter().flat_map(|one| resolve(one, served, resolved)).collect();
    }
    assignment.named_endpoints.clear();
    Some(assignment.encode_to_vec())
}

/// One endpoint for each address that its name stands for; itself where it has none.
fn resolve(one: endpoint::LbEndpoint, served: &Cluster, resolved: &Resolutions) -> Vec<endpoint::LbEndpoint> {
    let Some(host) = name(&one).map(str::to_owned) else { return vec![one] };
    let at = |ip: std::net::IpAddr| {
        let mut one = one.clone();
        if let Some(HostIdentifier::Endpoint(endpoint)) = &mut one.host_identifier {
            if endpoint.hostname.is_empty() {
                endpoint.hostname.clone_from(&host);
            }
            if let Some(Address::SocketAddress(socket)) =
                endpoint.address.as_mut().and_then(|address| address.address.as_mut())
            {
                socket.address = ip.to_string();
            }
        }
        one
    };
    served.resolve(&host, resolved).map(at).collect()
}

/// The DNS name that the endpoint is given by.
fn name(one: &endpoint::LbEndpoint) -> Option<&str> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &one.host_identifier else { return None };
    let Some(Address::SocketAddress(socket)) = &endpoint.address.as_ref()?.address else { return None };
    socket.address.parse::<std::net::IpAddr>().is_err().then_some(&socket.address)
}
