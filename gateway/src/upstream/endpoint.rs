//! One address of a cluster, and what is counted about it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use eastgate_config::endpoint::Health;
use eastgate_config::locality::Locality;

use super::health;

/// One resolved address of a cluster.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share against the others; at least 1.
    pub weight: u32,
    /// What the source says of it.
    pub health: Health,
    /// Where it stands, shared by the cluster's endpoints there.
    pub locality: Arc<Locality>,
    /// The pod behind it, if the source said; else empty.
    pub workload: String,
    /// What is counted about it. The one thing that outlives a table, carried over by cluster and address.
    pub stats: Arc<Stats>,
}

/// What is counted about an endpoint.
#[derive(Debug, Default)]
pub struct Stats {
    active: AtomicU32,
    connected: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    /// What was seen of its health.
    pub health: health::Counts,
}

impl Stats {
    /// Open connections.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Connections established so far.
    pub fn connected(&self) -> u64 {
        self.connected.load(Relaxed)
    }

    /// Attempts that ended in an error of the network or the host.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Attempts that ended with the connect timeout.
    pub fn timed_out(&self) -> u64 {
        self.timed_out.load(Relaxed)
    }

    pub(super) fn count_connected(&self) {
        self.connected.fetch_add(1, Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn count_timed_out(&self) {
        self.timed_out.fetch_add(1, Relaxed);
    }
}

/// An endpoint in use: counts as one open connection, attempts included, until it is dropped.
#[derive(Debug)]
pub struct InUse {
    endpoint: Arc<Endpoint>,
}

impl InUse {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.stats.active.fetch_add(1, Relaxed);
        Self { endpoint }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.endpoint.stats.active.fetch_sub(1, Relaxed);
    }
}
