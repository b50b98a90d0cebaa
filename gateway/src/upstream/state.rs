//! What operators are shown of a cluster and its endpoints: the same in `/clusters` and in an explanation.

use std::net::SocketAddr;

use eastgate_config::cluster::Policy;
use eastgate_config::endpoint::{Address, Health};
use serde::Serialize;

use super::cluster::Cluster;
use super::endpoint::Endpoint;

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
    /// Would it be given a new connection?
    pub takes_connections: bool,
    /// Why it would not, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_out: Option<String>,
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
        let chosen = cluster.balancer.endpoints();
        let taking = |endpoint: &Endpoint| chosen.iter().any(|one| one.address == endpoint.address);
        let mut localities: Vec<LocalityState> = Vec::new();
        let groups = &cluster.config.localities;
        for endpoint in &cluster.endpoints {
            let locality = endpoint.locality.to_string();
            let priority = groups.iter().find(|group| group.locality == *endpoint.locality);
            let priority = priority.map_or(0, |group| group.priority);
            let state = EndpointState::new(endpoint, taking(endpoint));
            match localities
                .iter_mut()
                .find(|known| (&known.locality, known.priority) == (&locality, priority))
            {
                Some(known) => known.endpoints.push(state),
                None => localities.push(LocalityState { locality, priority, endpoints: vec![state] }),
            }
        }
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

fn unresolved(cluster: &Cluster) -> Vec<String> {
    let resolved = |port: u16| cluster.endpoints.iter().any(|endpoint| endpoint.address.port() == port);
    let name = |address: &Address| match address {
        Address::Dns { host, port } if !resolved(*port) => Some(host.clone()),
        _ => None,
    };
    cluster.config.endpoints().filter_map(|endpoint| name(&endpoint.address)).collect()
}

impl EndpointState {
    /// Of this endpoint; `chosen` says whether the cluster's policy chooses from it.
    pub fn new(endpoint: &Endpoint, chosen: bool) -> Self {
        let (flags, why_out) = match endpoint.health {
            Health::Healthy => ("healthy", None),
            Health::Degraded => ("/degraded", None),
            Health::Draining => ("/eds_status_draining", Some("the source says that it is draining")),
            Health::Unhealthy => ("/failed_eds_health", Some("the source says that it is unhealthy")),
        };
        let waits = "others go before it: a lower priority has healthy endpoints, or it is degraded";
        Self {
            address: endpoint.address,
            workload: endpoint.workload.clone(),
            health_flags: flags.into(),
            takes_connections: chosen,
            why_out: why_out.or((!chosen).then_some(waits)).map(str::to_owned),
            weight: endpoint.weight,
            active: endpoint.stats.active(),
            connected: endpoint.stats.connected(),
            failed: endpoint.stats.refused() + endpoint.stats.timed_out(),
        }
    }
}
