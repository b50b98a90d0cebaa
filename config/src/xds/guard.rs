//! The blast-radius guard: an update that takes away suspiciously much is reported, and kept back where that is set.
//!
//! A control plane that loses sight of a cluster registry says so by removing everything of it. Every such push is
//! valid; only its size tells it from an ordinary one.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::journal::Names;
use super::resources::Accepted;
use super::{Guard, GuardAction, Moment};

/// What the guard noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "alarm", rename_all = "snake_case")]
pub enum Alarm {
    /// Many clusters went at once.
    ClustersRemoved {
        /// Which.
        removed: Names,
        /// How many there were.
        of: usize,
        /// Until when they stay all the same; none where the update was applied.
        kept_until: Option<Moment>,
    },
    /// Clusters that had endpoints have none now.
    EndpointsEmptied {
        /// The names that EDS knows them by.
        services: Names,
        /// Until when their endpoints stay all the same; none where the update was applied.
        kept_until: Option<Moment>,
    },
}

/// What is kept back.
#[derive(Debug, Default)]
pub(super) struct KeptBack {
    /// Clusters that the control plane has removed.
    pub(super) clusters: BTreeSet<String>,
    /// Empty endpoints that wait to take the place of those in service.
    pub(super) endpoints: BTreeMap<String, Accepted>,
}

impl KeptBack {
    pub(super) fn is_empty(&self) -> bool {
        self.clusters.is_empty() && self.endpoints.is_empty()
    }
}

impl Guard {
    /// Until when an update that is suspicious now has to wait.
    pub(super) fn keep_until(&self, now: Moment) -> Option<Moment> {
        match self.action {
            GuardAction::Hold(time) => Some(now.saturating_add(time)),
            GuardAction::Off | GuardAction::Warn => None,
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.action == GuardAction::Off
    }

    /// Are so many of so many too many to go at once?
    pub(super) fn is_suspicious(&self, removed: usize, of: usize) -> bool {
        let percent = u64::from(self.max_removed_percent);
        !self.is_off()
            && removed >= self.min_removed.max(1)
            && (removed as u64).saturating_mul(100) > (of as u64).saturating_mul(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspicion_needs_both_a_share_and_a_number() {
        let guard = Guard::default();
        assert!(!guard.is_suspicious(4, 4));
        assert!(!guard.is_suspicious(5, 10));
        assert!(guard.is_suspicious(6, 10));
        assert!(guard.is_suspicious(5, 5));
        assert!(!Guard { action: GuardAction::Off, ..guard }.is_suspicious(10, 10));
        assert!(!Guard { min_removed: 0, ..guard }.is_suspicious(0, 0));
    }
}
