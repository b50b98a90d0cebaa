//! Where snapshots come from.

pub mod files;
pub mod kubernetes;
pub mod vm;
pub mod xds;
