//! Every resource by kind, namespace and name, and the snapshot that follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use serde_json::Value;

use super::document;
use super::findings::Origin;
use super::resource::{self, Decoded, Key, Kind, Object};
use super::{Options, translation};
use crate::rejection::{Notice, Place, Rejection, ResourceName};
use crate::snapshot::Snapshot;

/// Every resource that matters, kept current by `apply`, `delete` and `reset` (the Kubernetes API) or by `load`
/// (files). A resource whose new version is bad keeps its last good one.
#[derive(Debug, Default)]
pub struct Index {
    pub(super) entries: BTreeMap<Key, Entry>,
    /// Resources of kinds that the gateway has no use for, by group and kind.
    unused: BTreeMap<(String, String), BTreeMap<ResourceName, Origin>>,
    /// What no resource can be blamed for: broken documents, and definitions that there were already.
    pub(super) stray: Vec<Rejection>,
    previous: Snapshot,
}

/// What is known of one resource.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) good: Option<Arc<Object>>,
    /// Why its newest version is not the one in use.
    refused: Vec<(Place, String)>,
}

impl Index {
    /// Takes a new or changed resource, as the Kubernetes API has it.
    ///
    /// # Errors
    /// Says what is wrong with it; where it has a name, the snapshot says so too until a good version or a `delete`
    /// comes.
    pub fn apply(&mut self, resource: Value) -> Result<(), Vec<Rejection>> {
        self.apply_in("", resource)
    }

    /// The same, for a resource of this cluster of the mesh; the gateway's own has no name.
    ///
    /// # Errors
    /// As of [`apply`](Self::apply).
    pub fn apply_in(&mut self, cluster: &str, resource: Value) -> Result<(), Vec<Rejection>> {
        match resource::read(document::without_lines(resource), None).of_cluster(cluster) {
            Decoded::Nameless(origin, refusal) => Err(vec![nameless(&origin, refusal)]),
            decoded => match self.put(decoded) {
                Some(key) => match self.rejections_of(&key) {
                    rejections if rejections.is_empty() => Ok(()),
                    rejections => Err(rejections),
                },
                None => Ok(()),
            },
        }
    }

    /// Forgets a resource and everything that was said of it.
    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        if let Some(kind) = Kind::ALL.into_iter().find(|known| known.as_str() == kind) {
            self.delete_in("", kind, namespace, name);
        }
        let resource =
            ResourceName { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() };
        for resources in self.unused.values_mut() {
            resources.remove(&resource);
        }
        self.unused.retain(|_, resources| !resources.is_empty());
    }

    /// Forgets a resource of this cluster.
    pub fn delete_in(&mut self, cluster: &str, kind: Kind, namespace: &str, name: &str) {
        let key = Key { kind, namespace: namespace.into(), name: name.into(), cluster: cluster.into() };
        self.entries.remove(&key);
    }

    /// Forgets all resources of a kind in this cluster but those with these namespaces and names, as after listing them
    /// anew.
    pub fn retain_in(&mut self, cluster: &str, kind: Kind, listed: &BTreeSet<(String, String)>) {
        self.entries.retain(|key, _| {
            key.kind != kind
                || key.cluster != cluster
                || listed.contains(&(key.namespace.clone(), key.name.clone()))
        });
    }

    /// Forgets a cluster that does not belong to the mesh any more.
    pub fn forget(&mut self, cluster: &str) {
        self.entries.retain(|key, _| key.cluster != cluster);
    }

    /// How many resources there are, by cluster and kind.
    pub fn counts(&self) -> BTreeMap<(&str, Kind), usize> {
        let mut counts = BTreeMap::new();
        for key in self.entries.keys() {
            *counts.entry((key.cluster.as_str(), key.kind)).or_default() += 1;
        }
        counts
    }

    /// Takes these as all resources of a kind, as after listing them anew; others of the kind are forgotten, and bad
    /// ones keep their last good version.
    pub fn reset(&mut self, kind: Kind, resources: Vec<Value>) -> Vec<Rejection> {
        let mut present = BTreeSet::new();
        let mut rejections = Vec::new();
        for resource in resources {
            match resource::read(document::without_lines(resource), None) {
                Decoded::Nameless(origin, refusal) => rejections.push(nameless(&origin, refusal)),
                decoded => {
                    if let Some(key) = self.put(decoded) {
                        rejections.extend(self.rejections_of(&key));
                        present.insert(key);
                    }
                }
            }
        }
        self.entries.retain(|key, _| key.kind != kind || present.contains(key));
        rejections
    }

    /// What follows from all resources now. What did not change since the last time is the same `Arc`.
    pub fn snapshot(&mut self, options: &Options) -> Snapshot {
        let objects = self.entries.values().filter_map(|entry| entry.good.as_deref());
        let mut snapshot = translation::translate(objects, options);
        for (name, listener) in &mut snapshot.listeners {
            if let Some(known) = self.previous.listeners.get(name).filter(|known| *known == listener) {
                *listener = Arc::clone(known);
            }
        }
        let mut clusters = self.previous.clusters.clone();
        for difference in self.previous.clusters.diff(&snapshot.clusters) {
            match difference {
                DiffItem::Remove(name, _) => clusters.remove(name),
                DiffItem::Add(name, cluster) | DiffItem::Update { new: (name, cluster), .. } => {
                    clusters.insert(name.clone(), Arc::clone(cluster))
                }
            };
        }
        if snapshot.names == self.previous.names {
            snapshot.names.clone_from(&self.previous.names);
        }
        snapshot.clusters = clusters;
        snapshot.rejections = self.rejections();
        snapshot.notices.extend(snapshot.cross_check());
        snapshot.notices.extend(self.unused_kinds());
        snapshot.notices.sort();
        snapshot.notices.dedup();
        self.previous = Snapshot {
            listeners: snapshot.listeners.clone(),
            clusters: snapshot.clusters.clone(),
            names: snapshot.names.clone(),
            ..Snapshot::default()
        };
        snapshot
    }

    /// Stores what was read and gives the key of a resource that matters.
    pub(super) fn put(&mut self, decoded: Decoded) -> Option<Key> {
        match decoded {
            Decoded::Good(key, object) => {
                self.entries
                    .insert(key.clone(), Entry { good: Some(Arc::new(*object)), refused: Vec::new() });
                Some(key)
            }
            Decoded::Bad(key, origin, refusals) => {
                let resource = key.resource();
                let entry = self.entries.entry(key.clone()).or_default();
                let refusals = refusals.into_iter();
                entry.refused =
                    refusals.map(|(field, reason)| (origin.place(&resource, &field), reason)).collect();
                Some(key)
            }
            Decoded::Unused { group, resource, origin } => {
                let kind = (group, resource.kind.clone());
                self.unused.entry(kind).or_default().insert(resource, origin);
                None
            }
            Decoded::Nameless(..) => None,
        }
    }

    /// Forgets what was said of kinds that have no use here.
    pub(super) fn forget_unused(&mut self) {
        self.unused.clear();
    }

    /// How many resources of kinds that the gateway has no use for there are, by group and kind.
    pub fn unused(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.unused.iter().map(|((group, kind), resources)| (group.as_str(), kind.as_str(), resources.len()))
    }

    fn rejections_of(&self, key: &Key) -> Vec<Rejection> {
        self.entries.get(key).map(Entry::rejections).unwrap_or_default()
    }

    fn rejections(&self) -> Vec<Rejection> {
        let mut all: Vec<Rejection> = self.entries.values().flat_map(Entry::rejections).collect();
        all.extend(self.stray.iter().cloned());
        all.sort_by(|a, b| (&a.place, &a.reason).cmp(&(&b.place, &b.reason)));
        all.dedup();
        all
    }

    /// One notice for each kind of Istio's that its author may think is at work here.
    fn unused_kinds(&self) -> impl Iterator<Item = Notice> {
        let ours = self
            .unused
            .iter()
            .filter(|((group, _), _)| matches!(group.as_str(), "networking.istio.io" | "security.istio.io"));
        ours.filter_map(|((_, kind), resources)| {
            let (first, origin) = resources.first_key_value()?;
            let message = match resources.len() {
                1 => format!("{kind} is not used by this gateway"),
                count => format!(
                    "{kind} is not used by this gateway; there are {count}, of which this is the first"
                ),
            };
            Some(Notice { place: origin.place(first, ""), message })
        })
    }
}

impl Entry {
    fn rejections(&self) -> Vec<Rejection> {
        let last_good_kept = self.good.is_some();
        let refused = self.refused.iter();
        refused
            .map(|(place, reason)| Rejection { place: place.clone(), reason: reason.clone(), last_good_kept })
            .collect()
    }
}

/// A document whose kind or name cannot be read.
pub(super) fn nameless(origin: &Origin, (field, reason): (String, String)) -> Rejection {
    let name = origin.file.clone().unwrap_or_default();
    let resource = ResourceName { kind: "Document".to_owned(), namespace: String::new(), name };
    Rejection { place: origin.place(&resource, &field), reason, last_good_kept: false }
}
