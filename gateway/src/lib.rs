//! Eastgate: an SNI-routing multicluster ingress gateway.
//!
//! The modules stand in the order in which a connection meets them; ARCHITECTURE.md is the map.

pub mod relay;
pub mod table;
pub mod upstream;
