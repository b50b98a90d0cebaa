//! Where the endpoints of a cluster are: each address once, DNS names resolved.

use std::collections::HashSet;
use std::net::SocketAddr;

use eastgate_config::cluster::Cluster;
use eastgate_config::endpoint::{Address, Endpoint};

use super::cluster::Resolutions;

/// An endpoint as one address.
pub(super) struct Located<'a> {
    pub address: SocketAddr,
    /// The endpoint's other addresses, which are tried when this one is not reached.
    pub additional: Box<[SocketAddr]>,
    /// The index of its locality.
    pub group: usize,
    pub endpoint: &'a Endpoint,
}

/// All of them. The first endpoint that names an address counts.
pub(super) fn places<'a>(config: &'a Cluster, resolved: &Resolutions) -> Vec<Located<'a>> {
    let mut seen = HashSet::new();
    let mut places = Vec::new();
    for (group, locality) in config.localities.iter().enumerate() {
        for endpoint in &locality.endpoints {
            let mut add = |address, additional| {
                if seen.insert(address) {
                    places.push(Located { address, additional, group, endpoint });
                }
            };
            match &endpoint.address {
                Address::Socket(address) => {
                    add(*address, endpoint.extras.additional_addresses.as_slice().into())
                }
                Address::Dns { host, port } => {
                    let at = |ip| SocketAddr::new(ip, *port);
                    let others: Box<[_]> = config.resolve_others(host, resolved).map(at).collect();
                    config.resolve(host, resolved).map(at).for_each(|address| add(address, others.clone()));
                }
            }
        }
    }
    places
}
