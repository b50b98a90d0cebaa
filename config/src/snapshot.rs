//! The desired state: what every source makes and the gateway compiles to its table.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::cluster::Cluster;
use crate::listener::Listener;
use crate::rejection::{Notice, Rejection};

/// The desired state, as plain values. What did not change between two snapshots may be the same `Arc`, which is how
/// the table's builder knows in one comparison that there is nothing to rebuild.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// By name.
    pub listeners: BTreeMap<String, Arc<Listener>>,
    /// By name.
    pub clusters: BTreeMap<String, Arc<Cluster>>,
    /// What was refused on the way here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<Rejection>,
    /// What was accepted and may surprise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
}
