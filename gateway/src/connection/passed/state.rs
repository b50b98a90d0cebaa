//! What of a connection passes from one process to the next, beside its sockets and the bytes between them.

use std::net::SocketAddr;
use std::time::Duration;

use eastgate_config::cluster::Keepalive;
use serde::{Deserialize, Serialize};

/// What a connection needs to go on. The other process may be of another version: fields are added with a default, and
/// never change their meaning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    unreachable_pub,
    reason = "the record's and the settings' words; fuzz/ has a way to it"
)]
pub struct State {
    pub listener: String,
    pub cluster: String,
    pub endpoint: SocketAddr,
    pub client_addr: SocketAddr,
    pub server_name: Option<String>,
    #[serde(default)]
    pub client_random: Option<String>,
    #[serde(default)]
    pub listed: bool,
    pub rewritten: Option<String>,
    pub route: Option<String>,
    pub attempts: u32,
    pub age: Duration,
    pub to_upstream_bytes: u64,
    pub to_client_bytes: u64,
    /// Directions whose FIN is passed on: from the client, from the endpoint.
    pub ended: [bool; 2],
    pub idle_timeout: Duration,
    /// What is left of it.
    pub max_age: Option<Duration>,
    pub keepalive: Keepalive,
}
