//! What is configured, as JSON in the shape of Envoy's `/config_dump` (`envoy.admin.v3.ConfigDump`), so that what reads
//! Envoy's, such as `istioctl proxy-config`, reads ours.
//!
//! It is written piece by piece: a mesh of a hundred thousand endpoints must not stand in memory once more as text.

mod element;
mod made;
mod query;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Resolutions};
use crate::rejection::Rejection;
use crate::snapshot::Snapshot;
use crate::xds::{CLUSTER, ENDPOINTS, Json, LISTENER, Refused, Saved, carried};
use element::{Element, Failure, Resource};
use query::Keep;

pub use query::{Error, Query};

/// What is dumped.
#[derive(Debug)]
pub struct Dump<'a> {
    /// The gateway's own node, as in Envoy's `Bootstrap.node`.
    pub node: Value,
    /// Which table of this process it is.
    pub version: u64,
    /// What is served.
    pub snapshot: &'a Snapshot,
    /// What the DNS names of endpoints resolve to.
    pub resolved: &'a Resolutions,
    /// What it was made from, where that was xDS.
    pub accepted: Option<Accepted<'a>>,
    /// When the table was made, or the types were last updated, as RFC 3339.
    pub updated: Updated,
}

/// What a control plane has sent.
#[derive(Debug)]
pub struct Accepted<'a> {
    /// The resources.
    pub types: &'a [Saved],
    /// Names of clusters that wait for their endpoints.
    pub warming: BTreeSet<String>,
    /// What was refused, for as long as it is the newest version.
    pub failed: Vec<Failed<'a>>,
}

/// A refused resource.
#[derive(Debug)]
pub struct Failed<'a> {
    /// The resource.
    pub refused: &'a Refused,
    /// When it came, as RFC 3339.
    pub at: String,
}

/// When each type was last updated, by type URL, as RFC 3339.
pub type Updated = BTreeMap<String, String>;

/// A list in a section of the dump. Its name is a value of `?resource=`, too.
#[derive(Debug, Clone, Copy)]
struct List {
    name: &'static str,
    /// The message that the list's elements are.
    element: &'static str,
    /// Where the resource stands in the element.
    field: &'static str,
    type_url: &'static str,
    warming: bool,
}

const CLUSTERS: List = List {
    name: "dynamic_active_clusters",
    element: "ClustersConfigDump.DynamicCluster",
    field: "cluster",
    type_url: CLUSTER,
    warming: false,
};
const WARMING: List = List { name: "dynamic_warming_clusters", warming: true, ..CLUSTERS };
const LISTENERS: List = List {
    name: "dynamic_listeners",
    element: "ListenersConfigDump.DynamicListener",
    field: "listener",
    type_url: LISTENER,
    warming: false,
};
const ASSIGNMENTS: List = List {
    name: "dynamic_endpoint_configs",
    element: "EndpointsConfigDump.DynamicEndpointConfig",
    field: "endpoint_config",
    type_url: ENDPOINTS,
    warming: false,
};

/// A message of the dump, and its lists.
const SECTIONS: &[(&str, &[List])] = &[
    ("ClustersConfigDump", &[CLUSTERS, WARMING]),
    ("ListenersConfigDump", &[LISTENERS]),
    ("EndpointsConfigDump", &[ASSIGNMENTS]),
];

fn admin(message: &str) -> String {
    format!("type.googleapis.com/envoy.admin.v3.{message}")
}

impl Dump<'_> {
    /// Writes what is asked for.
    ///
    /// # Errors
    /// The writer does not take any more.
    pub fn write(&self, query: &Query, out: impl io::Write) -> io::Result<()> {
        serde_json::to_writer(out, &Document { dump: self, query }).map_err(io::Error::from)
    }

    /// Calls with each resource of a list: its name and its element of the list.
    fn elements<E>(
        &self,
        list: List,
        mut each: impl FnMut(&str, Element<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let errors = self.errors(list);
        let updated = self.updated.get(list.type_url).map(String::as_str);
        let element = |name: &str, version: &str, resource| Element {
            list,
            typed: false,
            name: name.to_owned(),
            version: version.to_owned(),
            resource,
            error: errors.get(name).cloned(),
            updated: updated.map(str::to_owned),
        };
        let Some(accepted) = &self.accepted else {
            return self.made(list, |name, value| {
                let version = self.version.to_string();
                each(name, element(name, &version, Some(Resource::Made(value))))
            });
        };
        let mut unheld: BTreeSet<&str> = errors.keys().copied().collect();
        for held in accepted.types.iter().filter(|saved| saved.type_url == list.type_url) {
            for resource in &held.resources {
                unheld.remove(resource.name.as_str());
                let warming = list.type_url == CLUSTER && accepted.warming.contains(&resource.name);
                if warming == list.warming {
                    let json = Resource::Accepted(Json::new(list.type_url, &resource.body));
                    each(&resource.name, element(&resource.name, &resource.version, Some(json)))?;
                } else if let Some(serving) = self.serving(&resource.name).filter(|_| warming) {
                    let made = Resource::Made(made::cluster(serving));
                    each(&resource.name, element(&resource.name, "", Some(made)))?;
                }
            }
        }
        if list.type_url == ENDPOINTS {
            self.carried(accepted, |name, version, bytes| {
                each(name, element(name, version, Some(Resource::Carried(bytes))))
            })?;
        }
        // Envoy lists a listener that was refused and has no older version; of clusters it says nothing then.
        for name in unheld.into_iter().filter(|_| list.type_url == LISTENER) {
            each(name, element(name, "", None))?;
        }
        Ok(())
    }

    /// Calls with each assignment that stands in its cluster: name and version of that, and the assignment.
    fn carried<E>(
        &self,
        accepted: &Accepted<'_>,
        mut each: impl FnMut(&str, &str, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let clusters = accepted.types.iter().filter(|saved| saved.type_url == CLUSTER);
        for held in clusters.flat_map(|saved| &saved.resources) {
            let Some(cluster) = self.snapshot.clusters.get(held.name.as_str()) else { continue };
            if let Some(bytes) = carried::assignment(&held.body, cluster, self.resolved) {
                each(&held.name, &held.version, bytes)?;
            }
        }
        Ok(())
    }

    /// The older version of a cluster that serves while the newer one waits for its endpoints. Its message is not kept;
    /// a cluster without endpoints is none of that kind, but stands in for one that never was there.
    fn serving(&self, name: &str) -> Option<&Cluster> {
        let cluster = self.snapshot.clusters.get(name)?;
        cluster.endpoints().next().map(|_| &**cluster)
    }

    /// The same for what did not come over xDS: Envoy's words for what the snapshot has.
    fn made<E>(&self, list: List, mut each: impl FnMut(&str, Value) -> Result<(), E>) -> Result<(), E> {
        match list.type_url {
            _ if list.warming => Ok(()),
            LISTENER => {
                self.snapshot.listeners.iter().try_for_each(|(name, one)| each(name, made::listener(one)))
            }
            CLUSTER => {
                self.snapshot.clusters.iter().try_for_each(|(name, one)| each(name, made::cluster(one)))
            }
            _ => {
                let made = |one| made::assignment(one, self.resolved);
                self.snapshot.clusters.iter().try_for_each(|(name, one)| each(name, made(one)))
            }
        }
    }

    /// What is wrong with the newest version of resources of this type.
    fn errors(&self, list: List) -> BTreeMap<&str, Failure<'_>> {
        let Some(accepted) = &self.accepted else { return BTreeMap::new() };
        let kind = list.type_url.rsplit('.').next().unwrap_or_default();
        let failed = accepted.failed.iter().filter(|failed| failed.refused.type_url == list.type_url);
        let failed: BTreeMap<&str, &Failed<'_>> =
            failed.map(|failed| (failed.refused.name.as_str(), failed)).collect();
        let updated = self.updated.get(list.type_url).map(String::as_str);
        let mut errors: BTreeMap<&str, Failure<'_>> = BTreeMap::new();
        let of_kind = |rejection: &&Rejection| rejection.place.resource.kind == kind;
        for rejection in self.snapshot.rejections.iter().filter(of_kind) {
            let name = rejection.place.resource.name.as_str();
            let failed = failed.get(name).copied();
            let new = || Failure { details: String::new(), failed, updated };
            let Failure { details, .. } = errors.entry(name).or_insert_with(new);
            if !details.is_empty() {
                details.push_str("; ");
            }
            details.push_str(&rejection.to_string());
        }
        errors
    }

    fn version_info(&self, type_url: &str) -> String {
        match &self.accepted {
            Some(accepted) => {
                let saved = accepted.types.iter().find(|saved| saved.type_url == type_url);
                saved.map(|saved| saved.version.clone()).unwrap_or_default()
            }
            None => self.version.to_string(),
        }
    }
}

struct Document<'a> {
    dump: &'a Dump<'a>,
    query: &'a Query,
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { dump, query } = *self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("configs", &Configs(self))?;
        if query.is_narrow() {
            return map.end();
        }
        // What follows is no part of Envoy's message; its readers pass over what they do not know.
        map.serialize_entry("version", &dump.version)?;
        if dump.accepted.is_none() || query.include_snapshot {
            map.serialize_entry("snapshot", dump.snapshot)?;
        } else {
            let Snapshot { rejections, notices, .. } = dump.snapshot;
            map.serialize_entry("snapshot", &json!({ "rejections": rejections, "notices": notices }))?;
        }
        map.end()
    }
}

struct Configs<'a>(&'a Document<'a>);

impl Serialize for Configs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Document { dump, query } = *self.0;
        let mut configs = serializer.serialize_seq(None)?;
        if let Some(wanted) = &query.resource {
            for list in SECTIONS.iter().flat_map(|(_, lists)| *lists).filter(|list| list.name == wanted) {
                Elements { dump, query, list: *list, typed: true, keep: &query.keep }.each(&mut configs)?;
            }
            return configs.end();
        }
        if query.names.is_none() {
            let bootstrap = json!({
                "@type": admin("BootstrapConfigDump"),
                "bootstrap": { "node": dump.node },
            });
            configs.serialize_element(&query::trim(bootstrap, &query.keep))?;
        }
        for (section, lists) in SECTIONS {
            if *section != "EndpointsConfigDump" || query.include_eds {
                configs.serialize_element(&Section { dump, query, message: section, lists })?;
            }
        }
        configs.end()
    }
}

struct Section<'a> {
    dump: &'a Dump<'a>,
    query: &'a Query,
    message: &'a str,
    lists: &'a [List],
}

impl Serialize for Section<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { dump, query, .. } = *self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("@type", &admin(self.message))?;
        if let Some(list) = self.lists.first()
            && list.type_url != ENDPOINTS
            && query.keep.inside("version_info").is_some()
        {
            map.serialize_entry("version_info", &dump.version_info(list.type_url))?;
        }
        for list in self.lists {
            if let Some(keep) = query.keep.inside(list.name) {
                map.serialize_entry(
                    list.name,
                    &Elements { dump, query, list: *list, typed: false, keep: &keep },
                )?;
            }
        }
        map.end()
    }
}

struct Elements<'a> {
    dump: &'a Dump<'a>,
    query: &'a Query,
    list: List,
    typed: bool,
    keep: &'a Keep,
}

impl Elements<'_> {
    fn each<S: SerializeSeq>(&self, sequence: &mut S) -> Result<(), S::Error> {
        self.dump.elements(self.list, |name, mut element| {
            if !self.query.takes(name) {
                return Ok(());
            }
            element.typed = self.typed;
            if self.keep.is_all() {
                return sequence.serialize_element(&element);
            }
            let value = serde_json::to_value(&element).map_err(S::Error::custom)?;
            sequence.serialize_element(&query::trim(value, self.keep))
        })
    }
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(None)?;
        self.each(&mut sequence)?;
        sequence.end()
    }
}
