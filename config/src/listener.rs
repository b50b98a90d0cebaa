//! A bound address and what to do there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::cidr::Cidr;
use crate::cluster::Keepalive;
use crate::duration;
use crate::rbac::Rbac;
use crate::route::{Rewrite, Route};
use crate::server_name::{Pattern, ServerName};
use crate::spiffe::IdPattern;

/// A bound address, the names that may be asked for there, and where each leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Its name, unique in a snapshot; Istio's form is `0.0.0.0_15443`.
    pub name: String,
    /// Where it accepts. Port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Tried in this order on a name that no chain takes as it was sent; the first that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewrites: Vec<Rewrite>,
    /// Nothing but what these name is reachable through the listener.
    pub filter_chains: Vec<FilterChain>,
    /// What a source may say beyond that.
    #[serde(skip_serializing_if = "ListenerOptions::is_default")]
    pub options: ListenerOptions,
}

impl Listener {
    /// Every cluster that a chain names; one that several chains name comes several times.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        let default = self.options.default_filter_chain.iter().map(|chain| &**chain);
        let chains = self.filter_chains.iter().chain(default);
        chains.flat_map(|chain| &chain.route.clusters).map(|cluster| cluster.name.as_str())
    }
}

/// What a listener may say beyond its names and routes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ListenerOptions {
    /// No ClientHello is expected: connections are matched without a name and relayed at once, so that protocols in
    /// which the server speaks first work, too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
    /// Takes what no other chain takes. Even a chain for `*` is tried before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_filter_chain: Option<Box<FilterChain>>,
    /// It accepts here as well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_addresses: Vec<SocketAddr>,
    /// A PROXY protocol header comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How fast connections are accepted, whatever their name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// How long a client may take over its header and ClientHello, where the listener says so itself.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::optional_text")]
    pub inspect_timeout: Option<Duration>,
    /// The largest ClientHello, in bytes, where the listener says so itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_client_hello: Option<u32>,
    /// Keepalive of accepted connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Keepalive>,
    /// The listen backlog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    /// Connections that no chain takes are logged as well.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub access_log: bool,
    /// What becomes of its clients' TLS.
    #[serde(skip_serializing_if = "Role::is_passthrough")]
    pub role: Role,
    /// Connections are redirected here by the firewall: the address that they were made to is asked of the kernel.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub original_destination: bool,
}

/// What a listener does about TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It passes through.
    #[default]
    Passthrough,
    /// Clients speak plain TCP, and the gateway speaks the mesh's mutual TLS to the endpoint for them.
    Originate,
    /// Clients speak the mesh's mutual TLS to the gateway, and the endpoint gets plain TCP.
    Terminate,
}

impl Role {
    fn is_passthrough(&self) -> bool {
        *self == Self::Passthrough
    }
}

/// The far end of a TLS session that the gateway itself has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Peers {
    /// What the gateway asks for, where it is the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<ServerName>,
    /// Who it may be. None: every identity that the mesh's roots vouch for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<IdPattern>,
}

impl ListenerOptions {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A PROXY protocol header on accepted connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ProxyProtocol {
    /// Connections without the header are taken, too.
    pub optional: bool,
}

/// A token bucket: each connection takes a token, and without one it is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    /// What the bucket holds, and begins with.
    pub max_tokens: u32,
    /// What is added ...
    pub tokens_per_fill: u32,
    /// ... each time this has passed.
    #[serde(with = "duration::text")]
    pub fill_interval: Duration,
    /// Chains with the same key and the same figures share one bucket.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub share_key: String,
}

/// How many connections a chain has at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ConnectionLimit {
    /// The most.
    pub max_connections: u64,
    /// How long one too many is left hanging before it is closed.
    #[serde(with = "duration::text")]
    pub delay: Duration,
}

/// What connections that belong together have in common (ring hash and Maglev).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashPolicy {
    /// The client's IP address.
    SourceIp,
}

/// Some names, and where their connections go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilterChain {
    /// Its name, unique in the listener; shared with the records of its connections.
    pub name: Arc<str>,
    /// Which connections it takes.
    #[serde(rename = "match")]
    pub matches: ChainMatch,
    /// Where they go.
    pub route: Route,
    /// How long a connection may be silent in both directions, where the chain says so itself.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::optional_text")]
    pub idle_timeout: Option<Duration>,
    /// What a source may say beyond that.
    #[serde(skip_serializing_if = "ChainOptions::is_default")]
    pub options: ChainOptions,
}

/// What a filter chain may say beyond its names and its route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChainOptions {
    /// How many endpoints are tried for a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connect_attempts: Option<u32>,
    /// A connection is closed when it is as old as this.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::optional_text")]
    pub max_connection_duration: Option<Duration>,
    /// And up to so many percent later, by chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration_jitter_percent: Option<u32>,
    /// What is hashed where the cluster's policy hashes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_policy: Option<HashPolicy>,
    /// The chain's connections are logged even where the process logs none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub access_log: bool,
    /// Each of them must allow a connection.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rbac: Vec<Arc<Rbac>>,
    /// How many connections the chain has at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<ConnectionLimit>,
    /// How fast the chain takes connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// The resources that made the chain, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_by: Option<Arc<str>>,
    /// The peer, where the listener terminates TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Arc<Peers>>,
}

impl ChainOptions {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Which connections a filter chain takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct ChainMatch {
    /// The names, as sent or rewritten. `*` makes the chain the listener's default; an empty list matches nothing.
    pub server_names: Vec<Pattern>,
    /// When not empty, the client must offer one of these protocols (ALPN), byte for byte.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub application_protocols: Vec<String>,
    /// When not empty, the chain is reached by a rewritten name only, and the host in the name that the client sent
    /// must match one of these. This is how a Gateway that lists `*.global` exposes a service under its alias alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sent_as: Vec<Pattern>,
    /// What the connection itself must be like, beside its name.
    #[serde(flatten)]
    pub connection: ConnectionMatch,
}

impl ChainMatch {
    /// Every connection that came to this port, whatever it begins with: where names do not lead the way, addresses do.
    pub fn of_port(port: u16) -> Self {
        Self {
            server_names: vec![Pattern::Any],
            connection: ConnectionMatch {
                transport: Transport::Any,
                destination_port: Some(port),
                ..ConnectionMatch::default()
            },
            ..Self::default()
        }
    }
}

/// What a connection must be like, beside its name, for a filter chain to take it. An empty list takes any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct ConnectionMatch {
    /// Is a ClientHello needed?
    #[serde(skip_serializing_if = "Transport::is_tls")]
    pub transport: Transport,
    /// The port that it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// The address that it came to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ranges: Vec<Cidr>,
    /// The client, as a PROXY protocol header tells it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<Cidr>,
    /// The peer of the TCP connection.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub direct_source_ranges: Vec<Cidr>,
    /// The client's port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ports: Vec<u16>,
    /// Whether the client is on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// Whether a filter chain takes connections that do not begin with a ClientHello.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Only TLS.
    #[default]
    Tls,
    /// TLS or anything else: plain TCP by port.
    Any,
    /// Anything but TLS.
    Raw,
}

/// The addresses of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The address that it came to.
    pub destination: SocketAddr,
    /// The peer of the TCP connection.
    pub direct_remote: SocketAddr,
    /// The client, as a PROXY protocol header tells it; else the same peer.
    pub remote: SocketAddr,
}

impl ConnectionMatch {
    /// Is a connection like this, with or without a ClientHello, one of those that are meant?
    pub fn matches(&self, ends: &Ends, has_hello: bool) -> bool {
        self.mismatch(ends, has_hello).is_none()
    }

    /// What of a connection, with or without a ClientHello, is not as it must be.
    pub fn mismatch(&self, ends: &Ends, has_hello: bool) -> Option<Mismatch> {
        let in_one = |ranges: &[Cidr], address: SocketAddr| {
            ranges.is_empty() || ranges.iter().any(|range| range.contains(address.ip()))
        };
        let local = ends.remote.ip().is_loopback() || ends.remote.ip() == ends.destination.ip();
        let transport = match self.transport {
            Transport::Tls => has_hello,
            Transport::Any => true,
            Transport::Raw => !has_hello,
        };
        let port = self.destination_port.is_none_or(|port| port == ends.destination.port());
        let source_port = self.source_ports.is_empty() || self.source_ports.contains(&ends.remote.port());
        match () {
            () if !transport => Some(Mismatch::Transport),
            () if !port => Some(Mismatch::DestinationPort),
            () if !in_one(&self.destination_ranges, ends.destination) => Some(Mismatch::Destination),
            () if !in_one(&self.source_ranges, ends.remote) => Some(Mismatch::Source),
            () if !in_one(&self.direct_source_ranges, ends.direct_remote) => Some(Mismatch::DirectSource),
            () if !source_port => Some(Mismatch::SourcePort),
            () if self.source.is_some_and(|source| (source == Source::Local) != local) => {
                Some(Mismatch::SourceKind)
            }
            () => None,
        }
    }
}

/// What of a connection a filter chain does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// It is TLS, or is not.
    Transport,
    /// The port that it came to.
    DestinationPort,
    /// The address that it came to.
    Destination,
    /// The client's address.
    Source,
    /// The address of the TCP connection's peer.
    DirectSource,
    /// The client's port.
    SourcePort,
    /// That the client is on this machine, or is not.
    SourceKind,
}

impl Transport {
    fn is_tls(&self) -> bool {
        *self == Self::Tls
    }
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// On this machine.
    Local,
    /// Anywhere else.
    External,
}
