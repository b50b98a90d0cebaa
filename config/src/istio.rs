//! Kubernetes and Istio resources → [`Snapshot`](crate::snapshot::Snapshot).
//!
//! ```text
//! text ── document ── resource (schema, then one module per kind checks it) ── Index
//! Index ── catalog (every service and its endpoints) ─┬─ listeners (auto_passthrough, passthrough, tcp) ── Snapshot
//!                                                     └─ names (what DNS says)
//! ```
//!
//! A resource without a namespace is in `default`, as `kubectl apply` has it. A resource is checked when it comes in, alone; a bad one is a rejection and its last good version stays. What only
//! shows when resources meet (a name that nothing leads to, a service without endpoints that speak mesh TLS) is a
//! notice of the snapshot, and never an exposure that nobody asked for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::cluster::DEFAULT_CONNECT_TIMEOUT;
use crate::locality::Locality;
use crate::route::Rewrite;
use crate::server_name::Pattern;

mod authorization;
mod auto_passthrough;
mod catalog;
mod destination_rule;
mod document;
mod envoy_filter;
mod export;
mod files;
mod findings;
mod gateway;
mod gateway_api;
mod index;
mod listeners;
mod localities;
mod names;
mod networks;
mod originate;
mod passthrough;
mod resource;
mod routes;
mod rules;
mod schema;
mod secret;
mod servers;
mod service;
mod service_entry;
mod tcp;
mod traffic_policy;
mod translation;
mod virtual_service;

pub use document::MAX_TEXT;
pub use files::File;
pub use index::Index;
pub use originate::Originate;
pub use resource::Kind;

#[cfg(test)]
mod tests;

/// The namespace whose DestinationRules and EnvoyFilters are everybody's.
const ROOT_NAMESPACE: &str = "istio-system";

/// What the translation has to know of the gateway itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The DNS domain of the Kubernetes cluster.
    pub cluster_domain: String,
    /// The namespace that the gateway runs in: what `exportTo` must reach.
    pub namespace: String,
    /// The gateway's labels, which a Gateway's `selector` must choose. Empty: every Gateway applies.
    pub labels: BTreeMap<String, String>,
    /// Where the gateway stands: which endpoints are near.
    pub locality: Locality,
    /// Where a server without a `bind` of its own is bound.
    pub bind_address: IpAddr,
    /// By Gateway port: where to bind a server without a `bind` of its own instead.
    pub bind: BTreeMap<u16, SocketAddr>,
    /// Whether a client of an `AUTO_PASSTHROUGH` server must offer one of the mesh's own protocols (ALPN).
    pub require_istio_alpn: bool,
    /// The rewrites of `AUTO_PASSTHROUGH` listeners that no EnvoyFilter speaks of. None: `.global` names are aliases of
    /// `.svc.` names in the cluster's domain, if the gateway uses services of its own network; behind an egress gateway
    /// there is another gateway, which does that.
    pub rewrites: Option<Vec<Rewrite>>,
    /// Whether there are load balancers before the gateway whose connections begin with a PROXY protocol header.
    pub proxied: bool,
    /// Whether the gateway has a certificate of the mesh, with which it can speak the mesh's TLS for plain clients.
    pub certified: bool,
    /// For a connection attempt, where no DestinationRule says otherwise.
    pub connect_timeout: Duration,
    /// The network of the gateway, of its Pods and of whatever names none. Empty: the one that the root namespace of the
    /// gateway's own cluster is labelled with.
    pub network: String,
    /// The networks whose endpoints are used; empty is the gateway's own.
    pub network_view: Vec<String>,
    /// Whether a ServiceEntry without addresses gets some of its own.
    pub automatic_addresses: bool,
    /// Whether plain clients beside the gateway are served at the addresses of ServiceEntries, and how.
    pub originate: Option<Originate>,
}

impl Default for Options {
    fn default() -> Self {
        Self::for_domain("cluster.local")
    }
}

impl Options {
    /// The defaults in a cluster of this domain.
    pub fn for_domain(cluster_domain: &str) -> Self {
        Self {
            cluster_domain: cluster_domain.to_owned(),
            namespace: ROOT_NAMESPACE.to_owned(),
            labels: BTreeMap::new(),
            locality: Locality::default(),
            bind_address: Ipv4Addr::UNSPECIFIED.into(),
            bind: BTreeMap::new(),
            require_istio_alpn: true,
            rewrites: None,
            proxied: false,
            certified: false,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            network: String::new(),
            network_view: Vec::new(),
            automatic_addresses: true,
            originate: None,
        }
    }
}

/// The host that a VirtualService or DestinationRule of this namespace means: a name without dots is short for a
/// Kubernetes service of the same namespace.
fn full_host(host: &Pattern, namespace: &str, cluster_domain: &str) -> Pattern {
    match host {
        Pattern::Exact(name) if !name.as_str().contains('.') => {
            let full = format!("{name}.{namespace}.svc.{cluster_domain}");
            full.parse().map_or_else(|_| host.clone(), Pattern::Exact)
        }
        _ => host.clone(),
    }
}
