//! Wire types and nothing else: what Envoy's xDS and Istio's own protocols send.
//!
//! Only `config::xds`, `gateway::source::xds`, `gateway::dns::grpc`, `gateway::monitor::probe` and `gateway::otlp` may name these types; the layering test holds
//! that.

pub use envoy_types::pb::envoy;
pub use envoy_types::pb::google;
pub use envoy_types::pb::xds;
pub use prost::{DecodeError, Message, bytes};

pub mod coredns;
pub mod health;
pub mod istio;
pub mod json;
pub mod otlp;

/// The name of any xDS resource, and nothing else of it.
///
/// Cluster, Listener and ClusterLoadAssignment all keep their name in field 1, so that a resource whose inner parts
/// cannot be read can still be named when it is refused.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Named {
    /// `name` or `cluster_name`.
    #[prost(string, tag = "1")]
    pub name: String,
}
