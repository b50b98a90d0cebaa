//! A named group of endpoints and how one of them is chosen and reached.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration;
use crate::endpoint::Endpoint;
use crate::locality::Locality;

/// How long a connection attempt may take where no DestinationRule or Cluster says otherwise
/// (Istio's `MeshConfig.connectTimeout`).
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How an endpoint is chosen for a new connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Of two picked at random by weight, the one with fewer open connections.
    #[default]
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// At random, by weight.
    Random,
}

/// The endpoints of one locality.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LocalityEndpoints {
    /// Where they stand.
    pub locality: Locality,
    /// 0 is used first; a higher number only when the lower ones have nothing to offer.
    pub priority: u32,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// How upstream sockets are kept alive (`TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keepalive {
    /// Silence before the first probe.
    #[serde(with = "duration::text")]
    pub time: Duration,
    /// Between probes.
    #[serde(with = "duration::text")]
    pub interval: Duration,
    /// Unanswered probes before the connection is given up.
    pub probes: u32,
}

/// A named group of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Its name, unique in a snapshot.
    pub name: String,
    /// How an endpoint is chosen.
    pub policy: Policy,
    /// For one connection attempt.
    #[serde(with = "duration::text")]
    pub connect_timeout: Duration,
    /// Where it differs from the process's own setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Keepalive>,
    /// The most open connections that the cluster takes (DestinationRule `connectionPool.tcp.maxConnections`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Its endpoints, by locality.
    pub localities: Vec<LocalityEndpoints>,
}

impl Cluster {
    /// A cluster of this name with every default and these endpoints in one unnamed locality.
    pub fn new(name: impl Into<String>, endpoints: Vec<Endpoint>) -> Self {
        Self {
            name: name.into(),
            policy: Policy::default(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            keepalive: None,
            max_connections: None,
            localities: vec![LocalityEndpoints { endpoints, ..Default::default() }],
        }
    }

    /// Every endpoint, whatever its locality.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }
}
