//! What puts a gateway to the test: a TLS origin that stands in for a pod, a TLS client that stands in for a mesh
//! client, and the certificate authority that both trust.
//!
//! Nothing here knows the gateway: it sees only addresses, server names and bytes, so that it can be pointed at any
//! gateway. Everything runs on the caller's tokio runtime.

pub mod ca;
pub mod client;
pub mod compare;
pub mod content;
pub mod hello;
pub mod load;
pub mod mesh;
pub mod names;
pub mod origin;
pub mod peers;
pub mod process;
pub mod report;
pub mod scenario;
pub mod spread;
pub mod stats;
