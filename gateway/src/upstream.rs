//! Everything between "this cluster" and "this connected endpoint".

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::gate::{ClientPass, Pass};

mod attempts;
pub mod balance;
pub mod cluster;
mod connect_time;
pub mod dial;
pub mod endpoint;
pub mod health;
mod latency;
mod limit;
mod places;
pub mod resolve;
mod retry;
pub mod state;

pub use attempts::{Attempts, connect};
pub use cluster::Cluster;
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
    _established: limit::Established,
    _held: Held,
}

/// The places that a connection takes, once it is the one that stays: among those of its cluster, of its filter chain and of
/// its client.
type Held = (Option<limit::Place>, Option<Pass>, Option<ClientPass>);

impl Upstream {
    /// Makes it the connection that stays, which counts in all these places until it is dropped.
    pub fn hold(&mut self, attempts: Attempts<'_>, chain: Option<Pass>, client: Option<ClientPass>) {
        self._held = (attempts.into_place(), chain, client);
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
    #[error("cluster {cluster} has its {most} {} ({})", limit.what(), limit.field())]
    Overflow {
        /// Its name.
        cluster: String,
        /// Of what.
        limit: cluster::Limit,
        /// How many it may have.
        most: usize,
    },
    /// Every endpoint has as many connections as it may.
    #[error(
        "each endpoint of cluster {0} that could be tried has all the connections that it may \
         (upstream.max_connections_per_endpoint, upstream.max_connects_per_endpoint)"
    )]
    EndpointsFull(String),
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

impl Error {
    /// Without the endpoint: what the system said, if it did.
    fn reason(&self) -> String {
        match self {
            Self::Connect { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }
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

/// Counts a connection that another process has made, in its cluster and endpoint, whatever limits say now. `None` when the cluster
/// has no such endpoint.
pub fn adopt(cluster: &Arc<Cluster>, endpoint: SocketAddr, stream: TcpStream) -> Option<Upstream> {
    let endpoint = cluster.endpoints.iter().find(|known| known.address == endpoint)?;
    let endpoint = endpoint::InUse::take(endpoint, 0, 0)?.connected();
    let held = (Some(cluster.extra_place()), None, None);
    let _established = limit::Established::new(cluster, Instant::now());
    Some(Upstream { stream, endpoint, since: Instant::now(), _established, _held: held })
}
