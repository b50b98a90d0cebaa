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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use crate::istio::{Index, Kind, Options};

    fn resource(version: &str, kind: &str, name: &str, labels: Value, fields: Value) -> Value {
        let mut resource = json!({
            "apiVersion": version, "kind": kind, "metadata": { "name": name, "namespace": "bar", "labels": labels },
        });
        let fields = fields.as_object().unwrap().clone();
        resource.as_object_mut().unwrap().extend(fields);
        resource
    }

    fn service() -> Value {
        resource(
            "v1",
            "Service",
            "s",
            json!({}),
            json!({ "spec": { "ports": [{ "name": "http", "port": 80 }] } }),
        )
    }

    fn slice(address: &str) -> Value {
        let endpoint = json!({ "addresses": [address], "targetRef": { "kind": "Pod", "name": "s-0" } });
        let fields = json!({
            "addressType": "IPv4", "ports": [{ "name": "http", "port": 80 }], "endpoints": [endpoint],
        });
        let labels = json!({ "kubernetes.io/service-name": "s" });
        resource("discovery.k8s.io/v1", "EndpointSlice", "s-x", labels, fields)
    }

    fn pod(labels: Value) -> Value {
        resource("v1", "Pod", "s-0", labels, json!({}))
    }

    fn root(network: &str) -> Value {
        let labels = json!({ "topology.istio.io/network": network });
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "istio-system", "labels": labels } })
    }

    fn gateway() -> Value {
        let server = json!({
            "port": { "number": 15443, "name": "tls", "protocol": "TLS" }, "hosts": ["*.local"],
            "tls": { "mode": "AUTO_PASSTHROUGH" },
        });
        resource(
            "networking.istio.io/v1",
            "Gateway",
            "g",
            json!({}),
            json!({ "spec": { "servers": [server] } }),
        )
    }

    /// A service with a pod in the gateway's own cluster, and one in `east`, all called the same.
    fn two_clusters() -> Index {
        let mut index = Index::default();
        let speaks = json!({ "security.istio.io/tlsMode": "istio" });
        for (cluster, address) in [("", "10.0.0.1"), ("east", "10.1.0.1")] {
            for resource in [service(), slice(address), pod(speaks.clone())] {
                index.apply_in(cluster, resource).unwrap();
            }
        }
        index.apply(gateway()).unwrap();
        index
    }

    fn endpoints(index: &mut Index) -> Vec<String> {
        let snapshot = index.snapshot(&Options::default());
        let endpoints = snapshot.clusters.values().flat_map(|cluster| cluster.endpoints());
        endpoints.map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn services_of_one_name_are_one_and_each_clusters_pods_are_its_own() {
        let mut index = two_clusters();
        assert_eq!(endpoints(&mut index), ["10.0.0.1:80", "10.1.0.1:80"]);
        index.apply_in("east", pod(json!({}))).unwrap();
        assert_eq!(
            endpoints(&mut index),
            ["10.0.0.1:80"],
            "the other pod of that name still speaks mesh TLS"
        );
        index.delete_in("", Kind::Service, "bar", "s");
        assert_eq!(endpoints(&mut index), ["10.0.0.1:80"], "east has the service, too");
        index.forget("east");
        assert!(endpoints(&mut index).is_empty());
    }

    #[test]
    fn a_list_of_one_cluster_forgets_nothing_of_another() {
        let mut index = two_clusters();
        index.retain_in("east", Kind::EndpointSlice, &BTreeSet::new());
        assert_eq!(endpoints(&mut index), ["10.0.0.1:80"]);
        assert_eq!(index.counts()[&("", Kind::EndpointSlice)], 1);
    }

    #[test]
    fn endpoints_of_another_network_are_left_out_where_both_are_known() {
        let both = ["10.0.0.1:80", "10.1.0.1:80"];
        let mut index = two_clusters();
        index.apply_in("east", root("two")).unwrap();
        assert_eq!(endpoints(&mut index), both, "the gateway's own network is not known");
        index.apply(root("one")).unwrap();
        assert_eq!(endpoints(&mut index), both[..1]);
        index.apply_in("east", root("one")).unwrap();
        assert_eq!(endpoints(&mut index), both);
        let elsewhere = json!({ "security.istio.io/tlsMode": "istio", "topology.istio.io/network": "two" });
        index.apply(pod(elsewhere)).unwrap();
        assert_eq!(endpoints(&mut index), both[1..], "a pod's own network goes before its cluster's");
    }
}
