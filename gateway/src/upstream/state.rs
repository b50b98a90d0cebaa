//! What operators are shown of a cluster and its endpoints: the same in `/clusters` and in an explanation.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use eastgate_config::cluster::{LocalityEndpoints, Policy};
use eastgate_config::endpoint::{Address, Health};
use eastgate_config::locality::Locality;
use serde::Serialize;

use super::cluster::Cluster;
use super::endpoint::Endpoint;
use super::health::{Reason, reasons};

/// A cluster at this moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterState {
    /// Its name.
    pub name: String,
    /// How an endpoint is chosen.
    pub policy: Policy,
    /// Open connections.
    pub active: usize,
    /// The most that it may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Endpoints that take new connections.
    pub taking: usize,
    /// Names of endpoints that stand for no address at present.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unresolved: Vec<String>,
    /// Its endpoints.
    pub localities: Vec<LocalityState>,
}

/// The endpoints of one place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocalityState {
    /// The place; empty where it is not known.
    pub locality: String,
    /// 0 goes first.
    pub priority: u32,
    /// What is there.
    pub endpoints: Vec<EndpointState>,
}

/// An endpoint at this moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointState {
    /// Where it is.
    pub address: SocketAddr,
    /// The pod behind it, if the source said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// In Envoy's words: `healthy`, or the reasons why not, each behind a slash.
    pub health_flags: String,
    /// What the source says of it.
    #[serde(skip)]
    pub eds_health: Health,
    /// Where it stands.
    #[serde(skip)]
    pub place: Arc<Locality>,
    /// Would it be given a new connection?
    pub takes_connections: bool,
    /// What speaks against it, and until when. One that takes connections all the same is the last resort.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub out: Vec<Reason>,
    /// Its share against the others.
    pub weight: u32,
    /// Open connections, attempts included.
    pub active: u32,
    /// Connections established so far.
    pub connected: u64,
    /// Attempts that failed.
    pub failed: u64,
}

impl ClusterState {
    /// Of this cluster.
    pub fn new(cluster: &Cluster) -> Self {
        let chosen = chosen(cluster);
        let place = |group: &LocalityEndpoints| LocalityState {
            locality: group.locality.to_string(),
            priority: group.priority,
            endpoints: Vec::new(),
        };
        let mut localities: Vec<_> = cluster.config.localities.iter().map(place).collect();
        for endpoint in &cluster.endpoints {
            if let Some(locality) = localities.get_mut(endpoint.group) {
                locality.endpoints.push(EndpointState::new(endpoint, chosen.contains(&endpoint.address)));
            }
        }
        localities.retain(|locality| !locality.endpoints.is_empty());
        localities.sort_by_key(|locality| locality.priority);
        Self {
            name: cluster.config.name.clone(),
            policy: cluster.config.policy,
            active: cluster.stats.active(),
            max_connections: cluster.config.max_connections,
            taking: chosen.len(),
            unresolved: unresolved(cluster),
            localities,
        }
    }

    /// How its policy is called.
    pub fn policy_name(&self) -> &'static str {
        match self.policy {
            Policy::LeastRequest => "least request",
            Policy::RoundRobin => "round robin",
            Policy::Random => "random",
            Policy::RingHash(_) => "ring hash",
            Policy::Maglev { .. } => "Maglev",
        }
    }
}

/// The endpoints that new connections go to.
pub fn chosen(cluster: &Cluster) -> HashSet<SocketAddr> {
    cluster.balancer().endpoints().map(|endpoint| endpoint.address).collect()
}

/// The names of a cluster's endpoints that stand for no address at present.
pub fn unresolved(cluster: &Cluster) -> Vec<String> {
    let resolved = |port: u16| cluster.endpoints.iter().any(|endpoint| endpoint.address.port() == port);
    let name = |address: &Address| match address {
        Address::Dns { host, port } if !resolved(*port) => Some(host.to_string()),
        _ => None,
    };
    cluster.config.endpoints().filter_map(|endpoint| name(&endpoint.address)).collect()
}

impl EndpointState {
    /// Of this endpoint; `chosen` says whether the cluster's policy chooses from it.
    pub fn new(endpoint: &Endpoint, chosen: bool) -> Self {
        let mut out = reasons(endpoint);
        // A degraded one is given connections where the better ones are too few.
        if !chosen && out.iter().all(|reason| *reason == Reason::Source(Health::Degraded)) {
            out.push(Reason::OthersGoFirst);
        }
        let flags: String = out.iter().map(Reason::flag).collect();
        Self {
            address: endpoint.address,
            workload: endpoint.workload.to_string(),
            health_flags: if flags.is_empty() { "healthy".into() } else { flags },
            eds_health: endpoint.health,
            place: Arc::clone(&endpoint.locality),
            takes_connections: chosen,
            out,
            weight: endpoint.weight,
            active: endpoint.stats.active(),
            connected: endpoint.stats.connected(),
            failed: endpoint.stats.refused() + endpoint.stats.timed_out(),
        }
    }
}
