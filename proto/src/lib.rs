//! Wire types and nothing else: what Envoy's xDS and Istio's own protocols send.
//!
//! Only `config::xds` and `gateway::source::xds` may name these types; the layering test holds that.

pub use envoy_types::pb::envoy;
pub use envoy_types::pb::google;
