//! Where snapshots come from.

pub mod files;
