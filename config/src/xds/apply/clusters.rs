//! CDS: what its updates do to the accepted clusters, to the names that EDS is asked for, and to the snapshot.

use std::sync::Arc;
use std::time::Duration;

use crate::xds::deadlines::Timer;
use crate::xds::decode::{ClusterConfig, Decoded};
use crate::xds::guard::Alarm;
use crate::xds::journal::Push;
use crate::xds::resources::{Accepted, Held, Intake, Kept};
use crate::xds::{Client, Kind, Moment};

/// How long endpoints stay known after the last cluster that uses them went. A cluster may come back before the
/// control plane has even seen that we unsubscribed, and then it has no reason to send them again.
const REMEMBER: Duration = Duration::from_secs(60);

impl Client {
    pub(super) fn apply_clusters(&mut self, intake: Intake, now: Moment, push: &mut Push) {
        let present = intake.accepted.iter().map(|accepted| &accepted.name);
        let heartbeats = intake.heartbeats.iter().map(|(name, _)| name);
        for name in present.chain(intake.unchanged.iter().map(|(name, ..)| name)).chain(heartbeats) {
            self.kept_back.clusters.remove(name);
        }
        let removed = self.guard_clusters(intake.removed, now, push);
        for accepted in intake.accepted {
            self.accept_cluster(accepted, now, push);
        }
        for name in &removed {
            push.removed.add(name);
            self.remove(Kind::Cluster, name, now, false);
        }
    }

    /// Which of the clusters that the control plane has removed may go now.
    pub(super) fn guard_clusters(
        &mut self,
        removed: Vec<String>,
        now: Moment,
        push: &mut Push,
    ) -> Vec<String> {
        let mut fresh = removed;
        fresh.retain(|name| !self.kept_back.clusters.contains(name));
        let held = self.topics.get(Kind::Cluster.index()).map_or(0, |topic| topic.store.len());
        let of = held - self.kept_back.clusters.len().min(held);
        let guard = self.options.guard;
        if !guard.is_suspicious(fresh.len(), of) {
            return fresh;
        }
        let kept_until = guard.keep_until(now);
        push.alarms.push(Alarm::ClustersRemoved { removed: fresh.iter().collect(), of, kept_until });
        let Some(until) = kept_until else { return fresh };
        self.kept_back.clusters.extend(fresh);
        self.deadlines.set_once(Timer::Release, until);
        Vec::new()
    }

    pub(super) fn accept_cluster(&mut self, accepted: Accepted, now: Moment, push: &mut Push) {
        let Decoded::Cluster(config) = accepted.decoded else { return };
        let name = accepted.name;
        self.set_ttl(Kind::Cluster, &name, accepted.ttl, now);
        let held = Held {
            version: accepted.version,
            body: accepted.body,
            kept: Kept::Cluster(config.clone()),
            partial: false,
        };
        let Some(topic) = self.topics.get_mut(Kind::Cluster.index()) else { return };
        let before = match topic.store.insert(name.clone(), held).map(|held| held.kept) {
            Some(Kept::Cluster(before)) => Some(before),
            _ => None,
        };
        match &before {
            // Protobuf maps have no order, so that the same message may come in other bytes.
            Some(before) if *before == config => {
                push.unchanged += 1;
                return;
            }
            Some(_) => push.changed.add(&name),
            None => push.added.add(&name),
        }
        self.assembly.cluster_accepted(&config, before.as_deref(), now, &self.options, &mut self.deadlines);
        if let Some(service) = &config.service {
            self.want(service);
        }
        self.unwant_if_unused(before.as_ref().and_then(|before| before.service.as_deref()), now);
    }

    pub(super) fn want(&mut self, service: &str) {
        self.deadlines.cancel(&Timer::Forget(service.into()));
        if let Some(topic) = self.topics.get_mut(Kind::Endpoints.index()) {
            topic.subscription.want(service);
        }
    }

    pub(super) fn unwant_if_unused(&mut self, service: Option<&str>, now: Moment) {
        let Some(service) = service.filter(|service| !self.assembly.has_users(service)) else { return };
        self.kept_back.endpoints.remove(service);
        let Some(topic) = self.topics.get_mut(Kind::Endpoints.index()) else { return };
        topic.findings.forget(service);
        if topic.subscription.unwant(service) {
            self.deadlines.set(Timer::Forget(service.into()), now.saturating_add(REMEMBER));
        }
    }

    pub(super) fn cluster(&self, name: &str) -> Option<Arc<ClusterConfig>> {
        match &self.topics.get(Kind::Cluster.index())?.store.get(name)?.kept {
            Kept::Cluster(config) => Some(config.clone()),
            _ => None,
        }
    }
}
