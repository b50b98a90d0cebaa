//! The outliers of all clusters: what is counted is shown to a [`Detector`] for each, and what it says is done.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::UnboundedSender;

use crate::table::Table;
use crate::upstream::Cluster;
use crate::upstream::endpoint::{Endpoint, Out};
use crate::upstream::health::outlier::{Cause, Detector, Seen, Verdict};
use crate::upstream::health::{Ejection, read};

/// The clusters that something has failed in, and when to look at each again.
#[derive(Debug)]
pub(super) struct Outliers {
    /// Where clusters call.
    watcher: UnboundedSender<String>,
    watched: HashMap<String, Watched>,
    due: BTreeSet<(Duration, String)>,
}

#[derive(Debug)]
struct Watched {
    detector: Option<Detector>,
    due: Duration,
}

impl Outliers {
    pub(super) fn new(watcher: UnboundedSender<String>) -> Self {
        Self { watcher, watched: HashMap::new(), due: BTreeSet::new() }
    }

    /// When one of them is to be looked at.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Has a new or changed cluster call when something fails. One that has no rules any more has no outliers either.
    pub(super) fn follow(&mut self, cluster: &Arc<Cluster>) {
        if cluster.config.outlier_detection.is_some() {
            cluster.stats.alarm.set(&self.watcher);
            return;
        }
        self.forget(&cluster.config.name);
        let let_in = |endpoint: &&Arc<Endpoint>| endpoint.stats.let_in(Out::Outlier);
        if cluster.endpoints.iter().filter(let_in).count() > 0 {
            cluster.rebalance(Instant::now());
        }
    }

    /// Forgets a cluster that is gone.
    pub(super) fn forget(&mut self, name: &str) {
        if let Some(watched) = self.watched.remove(name) {
            self.due.remove(&(watched.due, name.to_owned()));
        }
    }

    /// A cluster has called.
    pub(super) fn call(&mut self, name: String, now: Duration) {
        self.look_again(name, None, now);
    }

    fn look_again(&mut self, name: String, detector: Option<Detector>, due: Duration) {
        let known = self.watched.remove(&name);
        let detector = match known {
            Some(known) => {
                self.due.remove(&(known.due, name.clone()));
                detector.or(known.detector)
            }
            None => detector,
        };
        self.due.insert((due, name.clone()));
        self.watched.insert(name, Watched { detector, due });
    }

    /// Looks at every cluster whose time has come.
    pub(super) fn look_where_due(&mut self, table: &Table, now: Duration) {
        while let Some((due, _)) = self.due.first()
            && *due <= now
            && let Some((_, name)) = self.due.pop_first()
        {
            let detector = self.watched.remove(&name).and_then(|watched| watched.detector);
            let Some(cluster) = table.cluster_of_name(&name) else { continue };
            if let Some(detector) = look(cluster, detector, now) {
                let due = detector.due().max(now + Duration::from_millis(1));
                self.look_again(name, Some(detector), due);
            }
        }
    }
}

/// Looks at a cluster, does what is to be done, and gives the detector back unless there is nothing to remember.
fn look(cluster: &Arc<Cluster>, detector: Option<Detector>, now: Duration) -> Option<Detector> {
    let rules = cluster.config.outlier_detection.as_ref()?;
    let alarm = &cluster.stats.alarm;
    alarm.answer();
    let seen = seen(cluster);
    let mut detector = detector.unwrap_or_else(|| Detector::new(rules, &seen, now));
    let verdicts = detector.look(rules, &seen, now, |below| fastrand::u64(..below));
    let quiet = verdicts.is_empty() && detector.is_quiet(&seen);
    let mut changed = false;
    for verdict in verdicts {
        changed |= carry_out(cluster, &verdict);
    }
    if changed {
        cluster.rebalance(Instant::now());
    }
    if !quiet {
        return Some(detector);
    }
    // What failed after it was read, and was not urgent, has not called.
    let resting = alarm.rest(|| self::seen(cluster) == seen);
    (!resting).then_some(detector)
}

fn seen(cluster: &Cluster) -> Vec<Seen<'_>> {
    let seen = cluster.endpoints.iter().map(|endpoint| Seen {
        address: endpoint.address,
        gateway: endpoint.extras.gateway.as_deref(),
        ejected: endpoint.stats.out().any(|out| out == Out::Outlier),
        reading: read(&endpoint.stats),
    });
    seen.collect()
}

/// Does what the detector says, and tells whether other endpoints take connections now.
fn carry_out(cluster: &Cluster, verdict: &Verdict) -> bool {
    let (Verdict::Eject { address, .. }
    | Verdict::Spare { address, .. }
    | Verdict::LetOff { address, .. }
    | Verdict::Return(address)) = verdict;
    let Some(endpoint) = endpoint_at(cluster, *address) else { return false };
    let (health, name) = (endpoint.stats.health(), &cluster.config.name);
    // Whatever was decided, it needs a whole row to be decided anew.
    health.forget_rows();
    match verdict {
        Verdict::Eject { cause, time, .. } => {
            health.set_ejection(Some(Ejection { cause: *cause, until: SystemTime::now() + *time }));
            cluster.stats.ejections.count(*cause);
            tracing::warn!(
                cluster = name, %address, why = %why(*cause), seconds = time.as_secs(),
                "endpoint ejected: it takes no new connections for this time"
            );
            endpoint.stats.take_out(Out::Outlier)
        }
        Verdict::Spare { cause, .. } => {
            cluster.stats.ejections.count_spared(*cause);
            tracing::debug!(
                cluster = name, %address, why = %why(*cause),
                "endpoint not ejected: as many are out as may be (max_ejection_percent), or it is the last gateway of its network"
            );
            false
        }
        Verdict::LetOff { cause, .. } => {
            cluster.stats.ejections.count_let_off(*cause);
            tracing::debug!(cluster = name, %address, why = %why(*cause), "endpoint not ejected, by chance (enforcing_*)");
            false
        }
        Verdict::Return(_) => {
            health.set_ejection(None);
            tracing::info!(cluster = name, %address, "endpoint takes connections again");
            endpoint.stats.let_in(Out::Outlier)
        }
    }
}

fn endpoint_at(cluster: &Cluster, address: SocketAddr) -> Option<&Arc<Endpoint>> {
    cluster.endpoints.iter().find(|endpoint| endpoint.address == address)
}

fn why(cause: Cause) -> &'static str {
    cause.meaning()
}

#[cfg(test)]
mod tests;
