//! A bound address and what to do there.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::duration;
use crate::route::{Rewrite, Route};
use crate::server_name::Pattern;

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
}

/// Some names, and where their connections go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilterChain {
    /// Its name, unique in the listener.
    pub name: String,
    /// Which connections it takes.
    #[serde(rename = "match")]
    pub matches: ChainMatch,
    /// Where they go.
    pub route: Route,
    /// How long a connection may be silent in both directions, where the chain says so itself.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::optional_text")]
    pub idle_timeout: Option<Duration>,
}

/// Which connections a filter chain takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
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
}
