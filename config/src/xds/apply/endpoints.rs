//! EDS: what its updates do to the accepted endpoints and to the clusters that read them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::count;
use crate::xds::deadlines::Timer;
use crate::xds::decode::{self, Assignment, ClusterConfig, Decoded};
use crate::xds::guard::Alarm;
use crate::xds::journal::Push;
use crate::xds::resources::{Accepted, Held, Intake, Kept};
use crate::xds::{Client, Kind, Moment};

impl Client {
    pub(super) fn apply_endpoints(&mut self, intake: Intake, now: Moment, push: &mut Push) {
        for (name, ..) in &intake.unchanged {
            self.kept_back.endpoints.remove(name);
            // The same endpoints again are an answer all the same to a cluster that waits for one.
            self.endpoints_known(name);
        }
        let mut emptied = BTreeSet::new();
        let mut keep = Vec::new();
        for accepted in intake.accepted {
            if self.empties(&accepted) {
                let new = !self.kept_back.endpoints.contains_key(&accepted.name);
                if new {
                    emptied.insert(accepted.name.clone());
                }
                if self.options.guard.keep_until(now).is_some() {
                    keep.push(accepted);
                    continue;
                }
            } else {
                self.kept_back.endpoints.remove(&accepted.name);
            }
            self.accept_endpoints(accepted, now, push);
        }
        let kept_until = self.options.guard.keep_until(now);
        if let Some(until) = kept_until.filter(|_| !keep.is_empty()) {
            self.deadlines.set_once(Timer::Release, until);
        }
        self.kept_back.endpoints.extend(keep.into_iter().map(|accepted| (accepted.name.clone(), accepted)));
        if !emptied.is_empty() && !self.options.guard.is_off() {
            push.alarms.push(Alarm::EndpointsEmptied { services: emptied.iter().collect(), kept_until });
        }
        for name in &intake.removed {
            push.removed.add(name);
            self.remove(Kind::Endpoints, name, now, false);
        }
    }

    /// Would this leave a cluster that has endpoints without any?
    pub(super) fn empties(&self, accepted: &Accepted) -> bool {
        let Decoded::Endpoints(assignment) = &accepted.decoded else { return false };
        let has_some = |cluster: &String| {
            self.assembly.serving(cluster).is_some_and(|cluster| cluster.endpoints().next().is_some())
        };
        assignment.is_empty() && self.assembly.users_of(&accepted.name).any(has_some)
    }

    pub(super) fn accept_endpoints(&mut self, accepted: Accepted, now: Moment, push: &mut Push) {
        let Decoded::Endpoints(assignment) = accepted.decoded else { return };
        let name = accepted.name;
        self.set_ttl(Kind::Endpoints, &name, accepted.ttl, now);
        let held = Held { version: accepted.version, body: accepted.body, kept: Kept::Bytes, partial: false };
        let Some(topic) = self.topics.get_mut(Kind::Endpoints.index()) else { return };
        count(topic.store.insert(name.clone(), held).is_some(), &name, push);
        self.endpoints_are(&name, assignment);
    }

    /// Gives its endpoints, as they are held, to every cluster that waits for them.
    pub(super) fn endpoints_known(&mut self, service: &str) {
        let waits = |cluster: &&String| self.deadlines.is_set(&Timer::Warm((*cluster).clone()));
        if self.assembly.users_of(service).any(|cluster| waits(&cluster)) {
            let assignment = self.assignment(service);
            self.endpoints_are(service, assignment);
        }
    }

    pub(super) fn endpoints_are(&mut self, service: &str, assignment: Assignment) {
        let mut configs = self.configs_of(service);
        // Nearly every service has one user, which takes what there is instead of a copy.
        let Some(last) = configs.pop() else { return };
        for config in configs {
            self.assembly.cluster_ready(&config, assignment.clone(), &mut self.deadlines);
        }
        self.assembly.cluster_ready(&last, assignment, &mut self.deadlines);
    }

    /// A cluster has waited long enough: it is used with what is known.
    pub(super) fn warmed(&mut self, cluster: &str) {
        let Some(config) = self.cluster(cluster) else { return };
        let assignment = config.service.as_ref().map(|service| self.assignment(service)).unwrap_or_default();
        self.assembly.cluster_ready(&config, assignment, &mut self.deadlines);
    }

    /// The endpoints of a cluster are gone while the cluster is not. A control plane that takes a service away may
    /// say so in EDS first, and the cluster serves with what it has until CDS removes it. Endpoints that came with a
    /// time to live were meant to end with it.
    pub(super) fn endpoints_removed(&mut self, service: &str, expired: bool) {
        for config in self.configs_of(service) {
            if expired || self.assembly.serving(&config.cluster.name).is_none() {
                self.assembly.cluster_ready(&config, Assignment::default(), &mut self.deadlines);
            }
        }
    }

    /// The clusters that read a service's endpoints, as CDS has them.
    pub(super) fn configs_of(&self, service: &str) -> Vec<Arc<ClusterConfig>> {
        self.assembly.users_of(service).filter_map(|name| self.cluster(name)).collect()
    }

    /// The held endpoints of a service, decoded once more; none where none are held.
    pub(super) fn assignment(&self, service: &str) -> Assignment {
        let held = self.topics.get(Kind::Endpoints.index()).and_then(|topic| topic.store.get(service));
        let decoded = held.and_then(|held| decode::decode(Kind::Endpoints, service, &held.body, None).ok());
        match decoded {
            Some((Decoded::Endpoints(assignment), _)) => assignment,
            _ => Assignment::default(),
        }
    }
}
