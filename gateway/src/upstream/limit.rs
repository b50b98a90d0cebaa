//! What a cluster has a limited number of, and the guards that count it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::cluster::{Cluster, Stats};

/// What a cluster has a limited number of (Envoy's circuit breakers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Connections, those that are being made included.
    Connections,
    /// Connections for which an endpoint is being sought.
    Pending,
    /// Attempts other than a connection's first.
    Retries,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Connections, Self::Pending, Self::Retries];

    /// For people.
    pub fn what(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "connections that wait for an endpoint",
            Self::Retries => "retries",
        }
    }

    /// Where it is set.
    pub fn field(self) -> &'static str {
        match self {
            Self::Connections => "DestinationRule connectionPool.tcp.maxConnections",
            Self::Pending => "max_pending_requests of the Cluster's circuit breakers",
            Self::Retries => {
                "retry_budget or max_retries of the Cluster's circuit breakers, or upstream.retry_budget"
            }
        }
    }

    /// The overflow's name in metrics.
    pub fn overflow(self) -> &'static str {
        match self {
            Self::Connections => "overflow",
            Self::Pending => "pending_overflow",
            Self::Retries => "retry_overflow",
        }
    }
}

/// One of what a cluster has a limited number of; counted until it is dropped.
#[derive(Debug)]
pub struct Place {
    pub(super) stats: Arc<Stats>,
    pub(super) limit: Limit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stats.inside(self.limit).fetch_sub(1, Relaxed);
    }
}

/// An established connection, counted as over when it is dropped.
#[derive(Debug)]
pub(super) struct Established {
    stats: Arc<Stats>,
    began: Instant,
}

impl Established {
    /// Of an attempt that was begun then.
    pub(super) fn new(cluster: &Cluster, began: Instant) -> Self {
        Self { stats: Arc::clone(&cluster.stats), began }
    }
}

impl Drop for Established {
    fn drop(&mut self) {
        self.stats.usage().length.observe(self.began.elapsed());
        self.stats.disconnected.fetch_add(1, Relaxed);
    }
}
