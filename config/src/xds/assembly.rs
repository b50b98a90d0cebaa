//! From accepted resources to the snapshot: warming, make-before-break, and what changed.
//!
//! The snapshot is kept and edited, never rebuilt, so that a push costs what it changes. Three rules hold whatever
//! the control plane sends:
//!
//! - a cluster that is new or changed waits for its endpoints, and the version before it serves meanwhile;
//! - a cluster that a filter chain names is in the snapshot. Where there is nothing to put there, an empty one stands
//!   in: dropping the chain instead would hand its names to a wider chain, and so to the wrong service;
//! - a chain that changes over to a cluster which is not ready keeps its old route until that cluster is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::deadlines::{Deadlines, Timer};
use super::decode::{Assignment, ClusterConfig};
use super::{Changes, Moment, Options};
use crate::cluster::Cluster;
use crate::listener::{FilterChain, Listener};
use crate::snapshot::Snapshot;

#[derive(Debug, Default)]
pub(super) struct Assembly {
    pub(super) snapshot: Snapshot,
    pub(super) changes: Changes,
    /// The clusters that read their endpoints under a service name.
    users: HashMap<String, BTreeSet<String>>,
    /// How many listeners in the snapshot name a cluster.
    named: HashMap<String, usize>,
    /// Clusters in the snapshot that only stand in for one that is not there.
    stand_ins: BTreeSet<String>,
    /// Listeners that still use an old chain for want of a cluster, and the clusters they wait for.
    awaiting: BTreeMap<String, BTreeSet<String>>,
}

impl Assembly {
    /// Which clusters read this service's endpoints.
    pub(super) fn users_of(&self, service: &str) -> impl Iterator<Item = &String> {
        self.users.get(service).into_iter().flatten()
    }

    pub(super) fn has_users(&self, service: &str) -> bool {
        self.users.contains_key(service)
    }

    /// The real cluster of this name, not one that stands in.
    pub(super) fn serving(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.snapshot.clusters.get(name).filter(|_| !self.stand_ins.contains(name))
    }

    /// CDS has a new or changed cluster; `before` is what CDS had.
    pub(super) fn cluster_accepted(
        &mut self,
        config: &ClusterConfig,
        before: Option<&ClusterConfig>,
        now: Moment,
        options: &Options,
        deadlines: &mut Deadlines,
    ) {
        let name = &config.cluster.name;
        deadlines.cancel(&Timer::Leave(name.clone()));
        let service_before = before.and_then(|before| before.service.as_deref());
        if service_before != config.service.as_deref() {
            self.drop_user(service_before, name);
        }
        let Some(service) = &config.service else {
            deadlines.cancel(&Timer::Warm(name.clone()));
            self.serve(config.without_assignment());
            return;
        };
        self.users.entry(service.clone()).or_default().insert(name.clone());
        // A cluster that changes again while it warms keeps its deadline: otherwise a control plane that changes it
        // every few seconds would keep it out of service for good (envoy#46383).
        deadlines.set_once(Timer::Warm(name.clone()), now.saturating_add(options.init_timeout));
    }

    /// The endpoints of a cluster are known, or it has waited long enough.
    pub(super) fn cluster_ready(
        &mut self,
        config: &ClusterConfig,
        endpoints: Assignment,
        deadlines: &mut Deadlines,
    ) {
        deadlines.cancel(&Timer::Warm(config.cluster.name.clone()));
        self.serve(config.with_assignment(endpoints));
    }

    /// CDS no longer has the cluster.
    pub(super) fn cluster_removed(
        &mut self,
        config: &ClusterConfig,
        now: Moment,
        options: &Options,
        deadlines: &mut Deadlines,
    ) {
        let name = &config.cluster.name;
        deadlines.cancel(&Timer::Warm(name.clone()));
        self.drop_user(config.service.as_deref(), name);
        if self.named.contains_key(name) && self.serving(name).is_some() {
            deadlines.set(Timer::Leave(name.clone()), now.saturating_add(options.settle_timeout));
        } else {
            self.retire(name);
        }
    }

    /// A removed cluster has waited long enough for the listeners that name it.
    pub(super) fn cluster_left(&mut self, name: &str) {
        self.retire(name);
    }

    pub(super) fn listener_accepted(
        &mut self,
        wanted: &Arc<Listener>,
        now: Moment,
        options: &Options,
        deadlines: &mut Deadlines,
    ) {
        let timer = Timer::Await(wanted.name.clone());
        deadlines.cancel(&timer);
        self.place_listener(wanted, deadlines);
        if self.awaiting.contains_key(&wanted.name) {
            deadlines.set(timer, now.saturating_add(options.settle_timeout));
        }
    }

    /// Waiting is over for the listener, because its clusters are there or because they did not come.
    pub(super) fn listener_settled(&mut self, wanted: &Arc<Listener>, deadlines: &mut Deadlines) {
        deadlines.cancel(&Timer::Await(wanted.name.clone()));
        self.awaiting.remove(&wanted.name);
        self.put_listener(wanted.clone(), deadlines);
    }

    pub(super) fn listener_removed(&mut self, name: &str, deadlines: &mut Deadlines) {
        deadlines.cancel(&Timer::Await(name.into()));
        self.awaiting.remove(name);
        if let Some(listener) = self.snapshot.listeners.remove(name) {
            self.changes.listeners.insert(name.into());
            self.unname(&listener, deadlines);
        }
    }

    /// Listeners that waited for clusters all of which are ready now.
    pub(super) fn settled_listeners(&self, deadlines: &Deadlines) -> Vec<String> {
        let ready = |name: &String| self.is_ready(name, deadlines);
        let settled = self.awaiting.iter().filter(|(_, clusters)| clusters.iter().all(ready));
        settled.map(|(name, _)| name.clone()).collect()
    }

    fn is_ready(&self, cluster: &str, deadlines: &Deadlines) -> bool {
        self.serving(cluster).is_some() && !deadlines.is_set(&Timer::Leave(cluster.into()))
    }

    /// Puts the listener in service, with the old chain where the new one's cluster is not ready.
    fn place_listener(&mut self, wanted: &Arc<Listener>, deadlines: &mut Deadlines) {
        let before = self.snapshot.listeners.get(&wanted.name);
        let old: HashMap<&str, &FilterChain> = before
            .into_iter()
            .flat_map(|listener| &listener.filter_chains)
            .map(|chain| (&*chain.name, chain))
            .collect();
        let mut awaited = BTreeSet::new();
        let mut substitutes = Vec::new();
        for (index, chain) in wanted.filter_chains.iter().enumerate() {
            let Some(substitute) = old.get(&*chain.name) else { continue };
            if substitute.route == chain.route || substitute.matches != chain.matches {
                continue;
            }
            let missing = chain.route.clusters.iter().filter(|to| !self.is_ready(&to.name, deadlines));
            let missing: Vec<_> = missing.map(|to| to.name.clone()).collect();
            let can_serve = substitute.route.clusters.iter().all(|to| self.serving(&to.name).is_some());
            if !missing.is_empty() && can_serve {
                awaited.extend(missing);
                substitutes.push((index, substitute.route.clone()));
            }
        }
        if awaited.is_empty() {
            self.awaiting.remove(&wanted.name);
            self.put_listener(wanted.clone(), deadlines);
            return;
        }
        let mut mixed = Listener::clone(wanted);
        for (index, route) in substitutes {
            if let Some(chain) = mixed.filter_chains.get_mut(index) {
                chain.route = route;
            }
        }
        self.awaiting.insert(wanted.name.clone(), awaited);
        self.put_listener(Arc::new(mixed), deadlines);
    }

    fn put_listener(&mut self, listener: Arc<Listener>, deadlines: &mut Deadlines) {
        let name = listener.name.clone();
        let before = self.snapshot.listeners.get(&name).cloned();
        if before.as_ref().is_some_and(|before| *before == listener) {
            return;
        }
        for cluster in listener.clusters() {
            *self.named.entry(cluster.into()).or_default() += 1;
        }
        for cluster in listener.clusters() {
            if !self.snapshot.clusters.contains_key(cluster) {
                self.stand_in(cluster);
            }
        }
        self.changes.listeners.insert(name.clone());
        self.snapshot.listeners.insert(name, listener);
        if let Some(before) = before {
            self.unname(&before, deadlines);
        }
    }

    /// A listener (version) is out of service: clusters that only stayed for it go.
    fn unname(&mut self, listener: &Listener, deadlines: &mut Deadlines) {
        for cluster in listener.clusters() {
            let Some(count) = self.named.get_mut(cluster) else { continue };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            self.named.remove(cluster);
            if deadlines.cancel(&Timer::Leave(cluster.into())) || self.stand_ins.contains(cluster) {
                self.retire(cluster);
            }
        }
    }

    fn serve(&mut self, cluster: Cluster) {
        let name = cluster.name.clone();
        let real = !self.stand_ins.remove(&name);
        if real && self.snapshot.clusters.get(name.as_str()).is_some_and(|before| **before == cluster) {
            return;
        }
        let cluster = Arc::new(cluster);
        match self.snapshot.clusters.get_mut(name.as_str()) {
            Some(before) => *before = cluster,
            None => _ = self.snapshot.clusters.insert(name.as_str().into(), cluster),
        }
        self.changes.clusters.insert(name);
    }

    fn retire(&mut self, name: &str) {
        if self.named.contains_key(name) {
            self.stand_in(name);
            return;
        }
        self.stand_ins.remove(name);
        if self.snapshot.clusters.remove(name).is_some() {
            self.changes.clusters.insert(name.into());
        }
    }

    fn stand_in(&mut self, name: &str) {
        let mut empty = Cluster::new(name, Vec::new());
        empty.localities.clear();
        self.stand_ins.insert(name.into());
        self.changes.clusters.insert(name.into());
        self.snapshot.clusters.insert(name.into(), Arc::new(empty));
    }

    fn drop_user(&mut self, service: Option<&str>, cluster: &str) {
        let Some(service) = service else { return };
        let Some(users) = self.users.get_mut(service) else { return };
        users.remove(cluster);
        if users.is_empty() {
            self.users.remove(service);
        }
    }

    /// Clusters that filter chains name and that are not there.
    pub(super) fn missing(&self) -> impl Iterator<Item = &String> {
        self.stand_ins.iter()
    }
}
