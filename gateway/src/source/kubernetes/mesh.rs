//! What has been heard of every cluster: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use eastgate_config::istio::{Index, Kind};

use super::follow::{Change, Message};

/// The gateway's own cluster.
pub(super) const HOME: &str = "";

/// What one watch is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Watched {
    pub(super) kind: Kind,
    /// The namespace and name of the one object that it is of; of all of the kind without.
    pub(super) object: Option<(Arc<str>, Arc<str>)>,
}

impl From<Kind> for Watched {
    fn from(kind: Kind) -> Self {
        Self { kind, object: None }
    }
}

/// The index, and which kinds of which clusters have not been listed yet.
#[derive(Debug, Default)]
pub(super) struct Mesh {
    pub(super) index: Index,
    waiting: BTreeMap<Arc<str>, BTreeSet<Watched>>,
    kinds: BTreeMap<Arc<str>, BTreeSet<Kind>>,
}

impl Mesh {
    /// These are going to be listed of the cluster. What was known of it stays until they are.
    pub(super) fn expect(&mut self, cluster: Arc<str>, all: &[Watched]) {
        if !self.kinds.contains_key(&cluster) {
            self.waiting.insert(Arc::clone(&cluster), all.iter().cloned().collect());
        }
        self.kinds.insert(cluster, all.iter().map(|watched| watched.kind).collect());
    }

    /// The cluster is not in the mesh any more.
    pub(super) fn forget(&mut self, cluster: &str) {
        self.waiting.remove(cluster);
        self.kinds.remove(cluster);
        self.index.forget(cluster);
    }

    pub(super) fn take(&mut self, message: Message) {
        let Message { cluster, watched, change, .. } = message;
        let kind = watched.kind;
        match change {
            Change::Apply(resource) => {
                // What is wrong with it stands in the snapshot's rejections; without a name there is nothing to say.
                let _ = self.index.apply_in(&cluster, resource);
            }
            Change::Delete { namespace, name } => self.index.delete_in(&cluster, kind, &namespace, &name),
            Change::Listed(names) => {
                match &watched.object {
                    Some((namespace, name)) if names.is_empty() => {
                        self.index.delete_in(&cluster, kind, namespace, name);
                    }
                    Some(_) => {}
                    None => self.index.retain_in(&cluster, kind, &names),
                }
                self.heard(&cluster, &watched);
            }
            Change::Missing => self.heard(&cluster, &watched),
        }
    }

    fn heard(&mut self, cluster: &str, watched: &Watched) {
        if let Some(waiting) = self.waiting.get_mut(cluster) {
            waiting.remove(watched);
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
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
        Message { cluster: cluster.into(), generation: 1, watched: kind.into(), change }
    }

    fn service(name: &str) -> serde_json::Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "bar"}, "spec": {}})
    }

    #[test]
    fn a_cluster_is_whole_when_every_kind_has_been_listed_or_is_missing() {
        let mut mesh = Mesh::default();
        assert!(!mesh.is_whole(HOME));
        mesh.expect(HOME.into(), &[Kind::Service.into(), Kind::Gateway.into()]);
        mesh.take(message(HOME, Kind::Service, Change::Apply(service("a"))));
        assert!(!mesh.is_whole(HOME), "one object is no list");
        mesh.take(message(HOME, Kind::Service, Change::Listed([("bar".into(), "a".into())].into())));
        assert_eq!(mesh.waiting(), ["home"]);
        mesh.take(message(HOME, Kind::Gateway, Change::Missing));
        assert!(mesh.is_whole(HOME));
        // New credentials: listed anew, and nothing is forgotten or waited for meanwhile.
        mesh.expect(HOME.into(), &[Kind::Service.into(), Kind::Gateway.into()]);
        assert!(mesh.is_whole(HOME));
        assert_eq!(mesh.counts(), [(HOME, Kind::Gateway, 0), (HOME, Kind::Service, 1)]);
    }

    #[test]
    fn a_list_forgets_what_is_not_in_it_in_its_own_cluster_only() {
        let mut mesh = Mesh::default();
        for cluster in [HOME, "east"] {
            mesh.expect(cluster.into(), &[Kind::Service.into()]);
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

    #[test]
    fn what_is_watched_by_name_is_waited_for_and_forgotten_by_name() {
        let mut mesh = Mesh::default();
        let secret = |name: &str| Watched { kind: Kind::Secret, object: Some(("ns".into(), name.into())) };
        let take = |mesh: &mut Mesh, name: &str, change| {
            mesh.take(Message { cluster: HOME.into(), generation: 1, watched: secret(name), change });
        };
        mesh.expect(HOME.into(), &[secret("a"), secret("b")]);
        for name in ["a", "b"] {
            let made =
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "ns"}});
            take(&mut mesh, name, Change::Apply(made));
        }
        take(&mut mesh, "a", Change::Listed([("ns".into(), "a".into())].into()));
        assert!(!mesh.is_whole(HOME), "the other one has not been listed");
        take(&mut mesh, "b", Change::Listed(BTreeSet::new()));
        assert!(mesh.is_whole(HOME));
        assert_eq!(mesh.counts(), [(HOME, Kind::Secret, 1)]);
    }
}
