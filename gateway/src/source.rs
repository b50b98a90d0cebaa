//! Where snapshots come from, and the certificates that go with them.

pub mod certificates;
pub mod files;
pub mod kubernetes;
pub mod upstream_tls;
pub mod vm;
pub mod xds;
