//! Where snapshots come from.

pub mod files;
pub mod xds;
