//! Networks: which endpoints the gateway reaches itself.
//!
//! The rules are those of Istio 1.1 to 1.4, which the `.global` design was made for: an endpoint belongs to a network, the
//! one without a name where nothing is said, and a proxy uses the endpoints of the networks in its view and no others.
//! So one ServiceEntry serves both sides of an egress gateway. Its endpoint without a network is that gateway, for
//! clients in the mesh; its endpoint of network `external` is the far end, for the egress gateway alone. With several
//! clusters it is the same: the Pods of each are in its cluster's network.

use std::collections::BTreeMap;

use super::resource::Object;
use super::schema::{Labels, Metadata};
use super::{Options, ROOT_NAMESPACE};

/// Names the network of whatever carries it; on the root namespace, that of the cluster.
const NETWORK: &str = "topology.istio.io/network";

/// A Namespace, as far as it matters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Namespace {
    /// Empty where it names none.
    network: String,
}

impl Namespace {
    pub(super) fn parse(metadata: &Metadata) -> Self {
        Self { network: of_labels(&metadata.labels).to_owned() }
    }
}

/// The network that these labels name; empty where they name none.
pub(super) fn of_labels(labels: &Labels) -> &str {
    labels.get(NETWORK).map(String::as_str).unwrap_or_default()
}

/// The gateway's own network, its view, and the networks of other clusters.
#[derive(Debug)]
pub(super) struct Networks<'a> {
    /// Empty where nothing names it.
    own: &'a str,
    /// Empty is the own network.
    view: &'a [String],
    /// By cluster, less the gateway's own.
    clusters: BTreeMap<&'a str, &'a str>,
}

impl<'a> Networks<'a> {
    /// The setting goes before the label of the gateway's own cluster.
    pub(super) fn new(namespaces: &[(&'a Object, &'a Namespace)], options: &'a Options) -> Self {
        let roots = namespaces.iter().filter(|(object, _)| object.name.name == ROOT_NAMESPACE);
        let mut clusters: BTreeMap<&str, &str> =
            roots.map(|(object, root)| (object.cluster.as_str(), root.network.as_str())).collect();
        let labelled = clusters.remove("").unwrap_or_default();
        let own = if options.network.is_empty() { labelled } else { &options.network };
        Self { own, view: &options.network_view, clusters }
    }

    /// Is this the gateway's own network? It is everybody's who names none.
    pub(super) fn is_own(&self, network: &str) -> bool {
        network.is_empty() || network == self.own
    }

    /// Are endpoints of this network used?
    pub(super) fn sees(&self, network: &str) -> bool {
        let is_own = self.is_own(network);
        if self.view.is_empty() {
            return is_own;
        }
        self.view.iter().any(|seen| if is_own { self.is_own(seen) } else { seen == network })
    }

    /// Are services of the gateway's own cluster used? Not by an egress gateway, which therefore rewrites nothing.
    pub(super) fn sees_own(&self) -> bool {
        self.sees("")
    }

    /// The network of a Pod of this cluster, with these labels: its own, or else its cluster's.
    pub(super) fn of_pod(&self, cluster: &str, labels: &'a Labels) -> &'a str {
        // Istio's injection labels every Pod. Where nobody says that the gateway is in that network, too, its Pods
        // must not vanish.
        if cluster.is_empty() && self.own.is_empty() {
            return "";
        }
        match of_labels(labels) {
            "" => self.clusters.get(cluster).copied().unwrap_or_default(),
            network => network,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::Networks;
    use crate::istio::{Index, Kind, Options};
    use crate::rejection::Notice;

    fn options(own: &str, view: &[&str]) -> Options {
        Options {
            network: own.to_owned(),
            network_view: view.iter().map(|network| (*network).to_owned()).collect(),
            ..Options::default()
        }
    }

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
        endpoints_for(index, "", &[])
    }

    fn endpoints_for(index: &mut Index, own: &str, view: &[&str]) -> Vec<String> {
        let snapshot = index.snapshot(&options(own, view));
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
    fn another_clusters_endpoints_count_while_its_network_is_in_view() {
        let both = ["10.0.0.1:80", "10.1.0.1:80"];
        let mut index = two_clusters();
        index.apply_in("east", root("two")).unwrap();
        assert_eq!(endpoints(&mut index), both[..1], "the gateway's own network has no name, and east's has");
        assert_eq!(endpoints_for(&mut index, "two", &[]), both, "a setting says that it is the same");
        assert_eq!(endpoints_for(&mut index, "", &["", "two"]), both);
        index.apply(root("one")).unwrap();
        assert_eq!(endpoints(&mut index), both[..1]);
        assert_eq!(endpoints_for(&mut index, "", &["one", "two"]), both);
        assert_eq!(endpoints_for(&mut index, "", &["two"]), both[1..]);
        assert_eq!(endpoints_for(&mut index, "two", &[]), both, "the setting goes before the label");
        index.apply_in("east", root("one")).unwrap();
        assert_eq!(endpoints(&mut index), both);
        let elsewhere = json!({ "security.istio.io/tlsMode": "istio", "topology.istio.io/network": "two" });
        index.apply(pod(elsewhere)).unwrap();
        assert_eq!(endpoints(&mut index), both[1..], "a pod's own network goes before its cluster's");
    }

    #[test]
    fn where_nobody_names_the_own_network_the_pods_labels_do_not_hide_them() {
        let mut index = two_clusters();
        let injected = json!({ "security.istio.io/tlsMode": "istio", "topology.istio.io/network": "one" });
        index.apply(pod(injected)).unwrap();
        assert_eq!(endpoints(&mut index), ["10.0.0.1:80", "10.1.0.1:80"]);
        index.apply(root("one")).unwrap();
        assert_eq!(endpoints(&mut index), ["10.0.0.1:80", "10.1.0.1:80"]);
    }

    #[test]
    fn endpoints_out_of_view_are_told_of_where_a_port_has_no_others() {
        let mut index = two_clusters();
        index.apply(root("one")).unwrap();
        index.delete_in("", Kind::Service, "bar", "s");
        index.delete_in("", Kind::EndpointSlice, "bar", "s-x");
        index.apply_in("east", root("two")).unwrap();
        let notices = index.snapshot(&Options::default()).notices;
        let told =
            |notice: &&Notice| notice.message.contains("in network two, which the gateway does not use");
        assert_eq!(notices.iter().filter(told).count(), 1, "{notices:?}");
    }

    #[test]
    fn aliases_in_global_are_made_while_the_own_network_is_in_view() {
        let mut index = two_clusters();
        index.apply(root("one")).unwrap();
        let has_any = |index: &mut Index, view: &[&str]| {
            let listeners = index.snapshot(&options("", view)).listeners;
            listeners.values().any(|listener| !listener.rewrites.is_empty())
        };
        assert!(has_any(&mut index, &[]) && has_any(&mut index, &["one"]));
        assert!(!has_any(&mut index, &["two"]));
    }

    #[test]
    fn without_a_view_the_own_network_is_seen_and_with_one_just_what_it_names() {
        let sees = |own: &str, view: &[&str]| {
            let options = options(own, view);
            let networks = Networks::new(&[], &options);
            ["", "net1", "external"].map(|network| networks.sees(network))
        };
        assert_eq!(sees("", &[]), [true, false, false]);
        assert_eq!(sees("net1", &[]), [true, true, false]);
        assert_eq!(sees("", &["external"]), [false, false, true]);
        assert_eq!(sees("net1", &["net1"]), [true, true, false]);
        assert_eq!(sees("net1", &["", "external"]), [true, true, true]);
    }
}
