//! What became different in the snapshot.

use std::collections::BTreeSet;

use super::Alarm;

/// What became different since the caller last asked. A name that the snapshot does not have any more was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names of clusters.
    pub clusters: BTreeSet<String>,
    /// Names of listeners.
    pub listeners: BTreeSet<String>,
    /// What DNS says.
    pub names: bool,
    /// Type URLs and names of resources that are only handed on.
    pub extra: BTreeSet<(String, String)>,
    /// The list of rejections or of notices is another one.
    pub rejections: bool,
    /// What the guard noticed.
    pub alarms: Vec<Alarm>,
}

impl Changes {
    /// Nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
