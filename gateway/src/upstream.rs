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
mod latency;
pub mod resolve;
pub mod state;

pub use cluster::Cluster;
use endpoint::Endpoint;
use health::Outcome;

/// A connection to an endpoint, counted there until it is dropped.
#[derive(Debug)]
pub struct Upstream {
    /// The socket.
    pub stream: TcpStream,
    /// The endpoint.
    pub endpoint: endpoint::InUse,
    /// When it was connected.
    since: Instant,
    /// Its place among the cluster's connections, once it is the one that stays.
    _slot: Option<cluster::Slot>,
}

impl Upstream {
    /// Makes it the connection that stays, which is counted in its cluster until it is dropped.
    pub fn hold(&mut self, attempts: Attempts) {
        self._slot = attempts.slot;
    }

    /// Notes what the endpoint did with the ClientHello.
    pub fn replied(&self, cluster: &Cluster, outcome: Outcome) {
        health::report(cluster, self.endpoint.endpoint(), outcome, self.since.elapsed());
    }
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
    /// Those that may be tried have been.
    #[error("cluster {0} has no other endpoint to try")]
    NoOther(String),
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

/// Counts a connection that another process has made, in its cluster and endpoint, whatever limits say now. `None` when the cluster
/// has no such endpoint.
pub fn adopt(cluster: &Arc<Cluster>, endpoint: SocketAddr, stream: TcpStream) -> Option<Upstream> {
    let endpoint = cluster.endpoints.iter().find(|known| known.address == endpoint)?;
    let endpoint = endpoint::InUse::new(Arc::clone(endpoint));
    Some(Upstream { stream, endpoint, since: Instant::now(), _slot: Some(cluster.extra_slot()) })
}

/// The endpoints that one connection tries, one after the other.
#[derive(Debug)]
pub struct Attempts {
    /// How many may be tried.
    limit: u32,
    /// What the connection is hashed by.
    key: Option<u64>,
    tried: Vec<SocketAddr>,
    /// The connection's place in the cluster, which it holds from its first attempt on.
    slot: Option<cluster::Slot>,
}

impl Attempts {
    /// At most so many, for a connection that is hashed by this key.
    pub fn new(limit: u32, key: Option<u64>) -> Self {
        Self { limit, key, tried: Vec::new(), slot: None }
    }

    /// May another endpoint be tried?
    pub fn may_go_on(&self) -> bool {
        self.tried.len() < self.limit as usize
    }
}

/// Connects to an endpoint of the cluster that was not tried yet. One that refuses or does not answer in the connect
/// timeout is left for another; `attempted` counts them as they are made.
///
/// # Errors
/// No endpoint was reached.
pub async fn connect(
    cluster: &Arc<Cluster>,
    attempts: &mut Attempts,
    attempted: &mut u32,
) -> Result<Upstream, Error> {
    let stats = &cluster.stats;
    if attempts.slot.is_none() {
        attempts.slot = cluster.slot();
    }
    if attempts.slot.is_none() {
        stats.overflow.fetch_add(1, Relaxed);
        let limit = cluster.config.max_connections.unwrap_or_default();
        return Err(Error::Overflow { cluster: cluster.config.name.clone(), limit });
    }
    let again = !attempts.tried.is_empty();
    let mut last = None;
    while attempts.may_go_on() {
        let Some(picked) = pick(cluster, &attempts.tried, attempts.key) else { break };
        *attempted += 1;
        attempts.tried.push(picked.address);
        let endpoint = endpoint::InUse::new(Arc::clone(&picked));
        let timeout = cluster.config.connect_timeout;
        let began = Instant::now();
        let dialled = dial::dial(picked.address, timeout).await;
        health::report(cluster, &picked, Outcome::of_attempt(&dialled), began.elapsed());
        match dialled {
            Ok(stream) => return Ok(Upstream { stream, endpoint, since: Instant::now(), _slot: None }),
            Err(error) => last = Some((picked.address, error)),
        }
    }
    match last {
        Some((endpoint, source)) => Err(Error::Connect { endpoint, source }),
        None if again => Err(Error::NoOther(cluster.config.name.clone())),
        None => {
            stats.no_endpoint.fetch_add(1, Relaxed);
            Err(Error::NoEndpoint(cluster.config.name.clone()))
        }
    }
}
