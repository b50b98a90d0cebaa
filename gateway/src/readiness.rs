//! Whether the gateway should be sent connections, and what it still waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::IntGauge;
use tokio::sync::watch;

/// Ready when nothing is waited for. Clones speak of the same process.
#[derive(Debug, Clone)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeSet<&'static str>>>,
    remarks: Arc<Mutex<BTreeMap<&'static str, SystemTime>>>,
    ready: IntGauge,
    changed: watch::Sender<bool>,
}

/// Something that readiness waits for, until this is dropped.
#[derive(Debug)]
pub struct Wait {
    what: &'static str,
    of: Readiness,
}

/// Something that is so since a moment and does not keep the gateway from being ready, until this is dropped.
#[derive(Debug)]
pub struct Remark {
    what: &'static str,
    of: Readiness,
}

impl Readiness {
    /// Ready as soon as no [`Wait`] is held; shown in this gauge.
    pub fn new(ready: IntGauge) -> Self {
        ready.set(1);
        Self { waiting: Arc::default(), remarks: Arc::default(), ready, changed: watch::Sender::new(true) }
    }

    /// Returns once nothing is waited for.
    pub async fn reached(&self) {
        // It fails only without a sender, and there is one in `self`.
        let _ = self.changed.subscribe().wait_for(|ready| *ready).await;
    }

    /// Not ready until the returned guard is dropped.
    pub fn wait_for(&self, what: &'static str) -> Wait {
        self.change(|waiting| {
            waiting.insert(what);
        });
        Wait { what, of: self.clone() }
    }

    /// What is waited for; empty means ready.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Ready all the same, but operators are told this until the returned guard is dropped.
    pub fn remark(&self, what: &'static str, since: SystemTime) -> Remark {
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).insert(what, since);
        Remark { what, of: self.clone() }
    }

    /// The remarks, with their age.
    pub fn remarks(&self, now: SystemTime) -> Vec<(&'static str, Duration)> {
        let remarks = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        remarks.iter().map(|(what, since)| (*what, now.duration_since(*since).unwrap_or_default())).collect()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<&'static str>)) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut waiting);
        self.ready.set(waiting.is_empty().into());
        self.changed.send_replace(waiting.is_empty());
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.of.change(|waiting| {
            waiting.remove(self.what);
        });
    }
}

impl Drop for Remark {
    fn drop(&mut self) {
        self.of.remarks.lock().unwrap_or_else(PoisonError::into_inner).remove(self.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_has_an_age_and_ends_with_its_guard() {
        let readiness = Readiness::new(IntGauge::new("ready", "x").unwrap());
        let now = SystemTime::now();
        let remark = readiness.remark("serving saved state", now - Duration::from_secs(5));
        assert_eq!(readiness.remarks(now), [("serving saved state", Duration::from_secs(5))]);
        assert!(readiness.waiting_for().is_empty());
        drop(remark);
        assert!(readiness.remarks(now).is_empty());
    }

    #[test]
    fn ready_means_that_nothing_is_waited_for() {
        let readiness = Readiness::new(IntGauge::new("ready", "x").unwrap());
        let table = readiness.wait_for("the first table");
        let drain = readiness.wait_for("drain");
        drop(table);
        assert_eq!(readiness.waiting_for(), ["drain"]);
        assert_eq!(readiness.ready.get(), 0);
        drop(drain);
        assert!(readiness.waiting_for().is_empty());
        assert_eq!(readiness.ready.get(), 1);
    }
}
