//! Networks: of the endpoints of several clusters, only those on the gateway's own network can be reached from it; to
//! the others leads another gateway, which is not this one's business.

use std::collections::BTreeMap;

use super::ROOT_NAMESPACE;
use super::resource::Object;
use super::schema::{Labels, Metadata};

/// Names the network of whatever carries it; on the root namespace, that of the cluster.
const NETWORK: &str = "topology.istio.io/network";

/// A Namespace, as far as it matters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Namespace {
    network: Option<String>,
}

impl Namespace {
    pub(super) fn parse(metadata: &Metadata) -> Self {
        Self { network: metadata.labels.get(NETWORK).filter(|network| !network.is_empty()).cloned() }
    }
}

/// The network of each cluster that has one.
#[derive(Debug, Default)]
pub(super) struct Networks<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Networks<'a> {
    pub(super) fn new(namespaces: &[(&'a Object, &'a Namespace)]) -> Self {
        let roots = namespaces.iter().filter(|(object, _)| object.name.name == ROOT_NAMESPACE);
        Self(roots.filter_map(|(object, root)| Some((&*object.cluster, root.network.as_deref()?))).collect())
    }

    /// Is a workload of this cluster, with these labels, on the gateway's network? Where a network is not known, yes.
    pub(super) fn is_near(&self, cluster: &str, labels: &Labels) -> bool {
        let Some(home) = self.0.get("") else { return true };
        let own = labels.get(NETWORK).map(String::as_str).filter(|network| !network.is_empty());
        own.or_else(|| self.0.get(cluster).copied()).is_none_or(|network| network == *home)
    }
}
