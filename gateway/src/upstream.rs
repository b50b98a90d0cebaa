//! Everything between "this cluster" and "this connected endpoint".

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::net::TcpStream;
use tokio::time::Instant;

pub mod balance;
pub mod cluster;
pub mod dial;
pub mod endpoint;
pub mod health;
pub mod resolve;

pub use cluster::Cluster;
use endpoint::Endpoint;
use health::Outcome;

/// A connection to an endpoint, counted in its cluster and endpoint until it is dropped.
#[derive(Debug)]
pub struct Upstream {
    /// The socket.
    pub stream: TcpStream,
    /// The endpoint.
    pub endpoint: endpoint::InUse,
    _slot: cluster::Slot,
}

/// Why no endpoint was reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster has no endpoint that takes new connections.
    #[error("cluster {0} has no endpoint that takes new connections")]
    NoEndpoint(String),
    /// The cluster has as many connections as it may.
    #[error(
        "cluster {cluster} has its {limit} connections (DestinationRule connectionPool.tcp.maxConnections)"
    )]
    Overflow {
        /// Its name.
        cluster: String,
        /// How many it may have.
        limit: u32,
    },
    /// Every endpoint that was tried failed; this is what the last one said.
    #[error("{endpoint} did not take the connection{}", remedy(source))]
    Connect {
        /// The last one tried.
        endpoint: SocketAddr,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

/// What to look at, where the system's answer says it.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => " (nothing listens there: is it running, and the port right?)",
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            " (no route leads there: look at the address, and at this machine's routes)"
        }
        io::ErrorKind::TimedOut => " (nothing answers there: look at the address, and at firewalls)",
        _ => "",
    }
}

fn pick(cluster: &Cluster, tried: &[SocketAddr], key: Option<u64>) -> Option<Arc<Endpoint>> {
    let draw = |below| fastrand::u64(..below);
    cluster.balancer().pick(tried, key, Instant::now().into_std(), draw).map(Arc::clone)
}

/// Connects to an endpoint of the cluster. One that refuses or does not answer in the connect timeout is left for
/// another that was not tried yet, up to `attempts` in all; `attempted` counts them as they are made. `key` is what the connection is hashed by.
///
/// # Errors
/// No endpoint was reached.
pub async fn connect(
    cluster: &Arc<Cluster>,
    attempts: u32,
    key: Option<u64>,
    attempted: &mut u32,
) -> Result<Upstream, Error> {
    let stats = &cluster.stats;
    let Some(slot) = cluster.slot() else {
        stats.overflow.fetch_add(1, Relaxed);
        let limit = cluster.config.max_connections.unwrap_or_default();
        return Err(Error::Overflow { cluster: cluster.config.name.clone(), limit });
    };
    let mut tried = Vec::new();
    let mut last = None;
    while *attempted < attempts {
        let Some(picked) = pick(cluster, &tried, key) else { break };
        *attempted += 1;
        let endpoint = endpoint::InUse::new(Arc::clone(&picked));
        let timeout = cluster.config.connect_timeout;
        let began = Instant::now();
        let dialled = dial::dial(picked.address, timeout).await;
        health::report(cluster, &picked, Outcome::of_attempt(&dialled), began.elapsed());
        match dialled {
            Ok(stream) => return Ok(Upstream { stream, endpoint, _slot: slot }),
            Err(error) => last = Some((picked.address, error)),
        }
        tried.push(picked.address);
    }
    match last {
        Some((endpoint, source)) => Err(Error::Connect { endpoint, source }),
        None => {
            stats.no_endpoint.fetch_add(1, Relaxed);
            Err(Error::NoEndpoint(cluster.config.name.clone()))
        }
    }
}
