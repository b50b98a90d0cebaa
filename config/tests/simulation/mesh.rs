//! What there is to serve, and how it changes.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_config::xds::CLUSTER;

use crate::Chance;
use crate::made::{self, Made};
use crate::server::{Kind, Resource};

/// What there is.
#[derive(Default)]
pub(crate) struct Mesh {
    pub(crate) clusters: BTreeMap<String, Cluster>,
    /// By service.
    pub(crate) endpoints: BTreeMap<String, Vec<u8>>,
    pub(crate) listeners: BTreeMap<String, Vec<(String, String)>>,
    /// How often each resource has changed.
    versions: BTreeMap<(Kind, String), u64>,
    clock: u64,
}

pub(crate) struct Cluster {
    pub(crate) timeout: u64,
    pub(crate) service: String,
}

impl Mesh {
    fn changed(&mut self, kind: Kind, name: &str) {
        self.clock += 1;
        self.versions.insert((kind, name.into()), self.clock);
    }

    pub(crate) fn change(&mut self, chance: &mut Chance) {
        let name = format!("c{}", chance.below(5));
        let service = if chance.one_in(4) { "shared".to_owned() } else { name.clone() };
        match chance.below(10) {
            0..=3 => {
                self.clock += 1;
                self.clusters.insert(name.clone(), Cluster { timeout: self.clock, service: service.clone() });
                self.changed(Kind::Clusters, &name);
                if !chance.one_in(4) {
                    self.endpoints.entry(service.clone()).or_insert_with(|| vec![1]);
                    self.changed(Kind::Endpoints, &service);
                }
            }
            4 => {
                self.clusters.remove(&name);
            }
            5..=7 => {
                let hosts =
                    (0..chance.below(4) as u8).map(|host| host * 10 + chance.below(10) as u8).collect();
                self.endpoints.insert(service.clone(), hosts);
                self.changed(Kind::Endpoints, &service);
            }
            8 => {
                let listener = format!("l{}", chance.below(2));
                let chains = (0..=chance.below(4))
                    .map(|chain| (format!("n{chain}.example"), format!("c{}", chance.below(6))));
                self.listeners.insert(listener.clone(), chains.collect());
                self.changed(Kind::Listeners, &listener);
            }
            _ => {
                let listener = format!("l{}", chance.below(2));
                self.listeners.remove(&listener);
            }
        }
    }

    /// Every resource gets a new version and, where that shows nothing else, a new content.
    pub(crate) fn touch_everything(&mut self) {
        let services: BTreeSet<String> =
            self.clusters.values().map(|cluster| cluster.service.clone()).collect();
        for (number, service) in services.iter().enumerate() {
            self.endpoints.insert(service.clone(), vec![100 + number as u8]);
        }
        for (number, cluster) in self.clusters.values_mut().enumerate() {
            cluster.timeout = 1_000_000 + number as u64;
        }
        for kind in [Kind::Clusters, Kind::Endpoints, Kind::Listeners] {
            for name in self.names(kind) {
                self.changed(kind, &name);
            }
        }
    }

    pub(crate) fn names(&self, kind: Kind) -> Vec<String> {
        match kind {
            Kind::Clusters => self.clusters.keys().cloned().collect(),
            Kind::Endpoints => self.endpoints.keys().cloned().collect(),
            Kind::Listeners => self.listeners.keys().cloned().collect(),
        }
    }

    pub(crate) fn version(&self, kind: Kind, name: &str) -> u64 {
        self.versions.get(&(kind, name.to_owned())).copied().unwrap_or(0)
    }

    pub(crate) fn resource(&self, kind: Kind, name: &str) -> Option<Resource> {
        let mut resource = Resource { name: name.into(), ..Resource::default() };
        let made = match kind {
            Kind::Clusters => {
                let cluster = self.clusters.get(name)?;
                resource.service.clone_from(&cluster.service);
                let mut message = made::eds_message(name, cluster.timeout as i64);
                let config = eastgate_proto::envoy::config::cluster::v3::cluster::EdsClusterConfig {
                    service_name: cluster.service.clone(),
                    ..Default::default()
                };
                message.eds_cluster_config = Some(config);
                Made::new(CLUSTER, name, &message)
            }
            Kind::Endpoints => {
                let hosts = self.endpoints.get(name)?;
                resource.has_endpoints = !hosts.is_empty();
                made::cla(name, hosts)
            }
            Kind::Listeners => {
                let chains = self.listeners.get(name)?;
                let chains: Vec<(&str, &str)> =
                    chains.iter().map(|(name, cluster)| (name.as_str(), cluster.as_str())).collect();
                made::lds(name, &chains)
            }
        };
        resource.body = made.any?.value;
        Some(resource)
    }
}
