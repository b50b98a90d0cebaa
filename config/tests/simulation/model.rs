//! What the client must have accepted, worked out by the rules of the protocol and nothing of the client's own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use eastgate_config::xds::Moment;

use crate::server::{Kind, Pushed};

type Bodies = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) clusters: BTreeMap<String, Vec<u8>>,
    /// By cluster: the service whose endpoints it reads.
    services: BTreeMap<String, String>,
    /// By service: the body, and whether there are endpoints in it.
    endpoints: BTreeMap<String, (Vec<u8>, bool)>,
    listeners: BTreeMap<String, Vec<u8>>,
    /// Services that no cluster reads any more, and since when.
    left: BTreeMap<String, Moment>,
}

impl Model {
    pub(crate) fn apply(&mut self, pushed: &Pushed, now: Moment) {
        let before = self.used();
        let good = pushed.resources.iter().filter(|resource| !resource.is_refused);
        for resource in good {
            match pushed.kind {
                Kind::Clusters => {
                    self.clusters.insert(resource.name.clone(), resource.body.clone());
                    self.services.insert(resource.name.clone(), resource.service.clone());
                }
                // What is not asked for is not kept.
                Kind::Endpoints if self.is_asked(&resource.name) => {
                    self.endpoints
                        .insert(resource.name.clone(), (resource.body.clone(), resource.has_endpoints));
                }
                Kind::Endpoints => {}
                Kind::Listeners => {
                    self.listeners.insert(resource.name.clone(), resource.body.clone());
                }
            }
        }
        let is_present = |name: &String| pushed.resources.iter().any(|resource| resource.name == *name);
        let is_gone = |name: &String| match pushed.is_complete {
            true => !pushed.is_torn && !is_present(name),
            false => pushed.removed.contains(name) && !is_present(name),
        };
        match pushed.kind {
            Kind::Clusters => {
                self.clusters.retain(|name, _| !is_gone(name));
                let Self { clusters, services, .. } = self;
                services.retain(|name, _| clusters.contains_key(name));
            }
            Kind::Endpoints => {
                self.endpoints.retain(|name, _| !pushed.removed.contains(name) || is_present(name))
            }
            Kind::Listeners => self.listeners.retain(|name, _| !is_gone(name)),
        }
        let after = self.used();
        self.left.retain(|name, _| !after.contains(name));
        self.left.extend(before.difference(&after).map(|name| (name.clone(), now)));
    }

    /// Is this, before it is applied, to be answered with a NACK? What nobody asked for is not even looked at.
    pub(crate) fn refuses(&self, pushed: &Pushed) -> bool {
        let is_asked = |name: &str| pushed.kind != Kind::Endpoints || self.is_asked(name);
        pushed.is_torn
            || pushed.resources.iter().any(|resource| resource.is_refused && is_asked(&resource.name))
    }

    pub(crate) fn check(&self, clusters: &Bodies, endpoints: &Bodies, listeners: &Bodies) {
        assert!(self.clusters == *clusters, "clusters: {:?} {:?}", self.clusters.keys(), clusters.keys());
        assert!(self.listeners == *listeners, "listeners");
        let wanted = self.endpoints.iter().map(|(name, (body, _))| (name, body));
        assert!(wanted.eq(endpoints), "endpoints: {:?} {:?}", self.endpoints.keys(), endpoints.keys());
    }

    /// Endpoints are remembered for a minute after the last cluster that read them went, and not beyond a stream.
    pub(crate) fn forget(&mut self, now: Moment, new_stream: bool) {
        self.left.retain(|_, since| now < *since + Duration::from_secs(60) && !new_stream);
        let used = self.used();
        let left = &self.left;
        self.endpoints.retain(|name, _| used.contains(name) || left.contains_key(name));
    }

    fn is_asked(&self, name: &str) -> bool {
        self.is_used(name) || self.left.contains_key(name)
    }

    /// The services that must be asked for.
    pub(crate) fn used(&self) -> BTreeSet<String> {
        self.services.values().cloned().collect()
    }

    fn is_used(&self, name: &str) -> bool {
        self.services.values().any(|service| service == name)
    }

    /// A cluster that has had endpoints must have some as long as nobody said otherwise.
    pub(crate) fn should_have_endpoints(&self, cluster: &str) -> bool {
        let service = self.services.get(cluster);
        service
            .and_then(|service| self.endpoints.get(service))
            .is_some_and(|(_, has_endpoints)| *has_endpoints)
    }
}
