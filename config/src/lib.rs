//! What the gateway should do, and the code that derives it from each source.
//!
//! Everything here is pure: no socket, file, clock, task or environment variable. Bytes, text and time come in
//! as arguments; a [`snapshot::Snapshot`] comes out. That is what makes every rule of it testable by a value.

pub mod audit;
pub mod bootstrap;
pub mod cidr;
pub mod cluster;
pub mod dump;
pub mod duration;
pub mod endpoint;
pub mod istio;
pub mod listener;
pub mod locality;
pub mod log_format;
pub mod names;
pub mod node;
pub mod rbac;
pub mod rejection;
pub mod route;
pub mod secrets;
pub mod server_name;
pub mod snapshot;
pub mod spiffe;
pub mod vm;
pub mod xds;
