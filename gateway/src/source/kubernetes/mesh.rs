//! What has been heard of every cluster: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use eastgate_config::istio::{Index, Kind};

use super::follow::{Change, Message};

/// The gateway's own cluster.
pub(super) const HOME: &str = "";

/// The index, and which kinds of which clusters have not been listed yet.
#[derive(Debug, Default)]
pub(super) struct Mesh {
    pub(super) index: Index,
    waiting: BTreeMap<Arc<str>, BTreeSet<Kind>>,
    kinds: BTreeMap<Arc<str>, Vec<Kind>>,
}

impl Mesh {
    /// These kinds of the cluster are going to be listed. What was known of it stays until they are.
    pub(super) fn expect(&mut self, cluster: Arc<str>, kinds: impl Iterator<Item = Kind>) {
        let kinds: Vec<Kind> = kinds.collect();
        if !self.kinds.contains_key(&cluster) {
            self.waiting.insert(Arc::clone(&cluster), kinds.iter().copied().collect());
        }
        self.kinds.insert(cluster, kinds);
    }

    /// The cluster is not in the mesh any more.
    pub(super) fn forget(&mut self, cluster: &str) {
        self.waiting.remove(cluster);
        self.kinds.remove(cluster);
        self.index.forget(cluster);
    }

    pub(super) fn take(&mut self, message: Message) {
        let Message { cluster, kind, change, .. } = message;
        match change {
            Change::Apply(resource) => {
                // What is wrong with it stands in the snapshot's rejections; without a name there is nothing to say.
                let _ = self.index.apply_in(&cluster, resource);
            }
            Change::Delete { namespace, name } => self.index.delete_in(&cluster, kind, &namespace, &name),
            Change::Listed(names) => {
                self.index.retain_in(&cluster, kind, &names);
                self.heard(&cluster, kind);
            }
            Change::Missing => self.heard(&cluster, kind),
        }
    }

    fn heard(&mut self, cluster: &str, kind: Kind) {
        if let Some(kinds) = self.waiting.get_mut(cluster) {
            kinds.remove(&kind);
        }
        self.waiting.retain(|_, kinds| !kinds.is_empty());
    }

    /// Has every kind of the cluster been heard of once?
    pub(super) fn is_whole(&self, cluster: &str) -> bool {
        self.kinds.contains_key(cluster) && !self.waiting.contains_key(cluster)
    }

    /// The clusters of which something has not been listed yet; the gateway's own is `home`.
    pub(super) fn waiting(&self) -> Vec<&str> {
        self.waiting.keys().map(|cluster| super::follow::label(cluster)).collect()
    }

    /// How many resources there are, by cluster and kind.
    pub(super) fn counts(&self) -> Vec<(&str, Kind, usize)> {
        let counts = self.index.counts();
        let count = |cluster: &Arc<str>, kind: Kind| counts.get(&(&**cluster, kind)).copied().unwrap_or(0);
        let kinds =
            self.kinds.iter().flat_map(|(cluster, kinds)| kinds.iter().map(move |kind| (cluster, *kind)));
        kinds.map(|(cluster, kind)| (&**cluster, kind, count(cluster, kind))).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(cluster: &str, kind: Kind, change: Change) -> Message {
        Message { cluster: cluster.into(), generation: 1, kind, change }
    }

    fn service(name: &str) -> serde_json::Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "bar"}, "spec": {}})
    }

    #[test]
    fn a_cluster_is_whole_when_every_kind_has_been_listed_or_is_missing() {
        let mut mesh = Mesh::default();
        assert!(!mesh.is_whole(HOME));
        mesh.expect(HOME.into(), [Kind::Service, Kind::Gateway].into_iter());
        mesh.take(message(HOME, Kind::Service, Change::Apply(service("a"))));
        assert!(!mesh.is_whole(HOME), "one object is no list");
        mesh.take(message(HOME, Kind::Service, Change::Listed([("bar".into(), "a".into())].into())));
        assert_eq!(mesh.waiting(), ["home"]);
        mesh.take(message(HOME, Kind::Gateway, Change::Missing));
        assert!(mesh.is_whole(HOME));
        // New credentials: listed anew, and nothing is forgotten or waited for meanwhile.
        mesh.expect(HOME.into(), [Kind::Service, Kind::Gateway].into_iter());
        assert!(mesh.is_whole(HOME));
        assert_eq!(mesh.counts(), [(HOME, Kind::Service, 1), (HOME, Kind::Gateway, 0)]);
    }

    #[test]
    fn a_list_forgets_what_is_not_in_it_in_its_own_cluster_only() {
        let mut mesh = Mesh::default();
        for cluster in [HOME, "east"] {
            mesh.expect(cluster.into(), [Kind::Service].into_iter());
            mesh.take(message(cluster, Kind::Service, Change::Apply(service("a"))));
            mesh.take(message(cluster, Kind::Service, Change::Apply(service("b"))));
        }
        mesh.take(message("east", Kind::Service, Change::Listed([("bar".into(), "a".into())].into())));
        assert_eq!(mesh.counts(), [(HOME, Kind::Service, 2), ("east", Kind::Service, 1)]);
        let gone = Change::Delete { namespace: "bar".into(), name: "a".into() };
        mesh.take(message(HOME, Kind::Service, gone));
        assert_eq!(mesh.counts(), [(HOME, Kind::Service, 1), ("east", Kind::Service, 1)]);
        mesh.forget("east");
        assert_eq!(mesh.counts(), [(HOME, Kind::Service, 1)]);
    }
}
