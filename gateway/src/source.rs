//! Where snapshots come from.

pub mod files;
pub mod vm;
pub mod xds;
