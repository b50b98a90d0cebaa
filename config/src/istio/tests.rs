use std::sync::Arc;

use super::*;
use crate::endpoint::{Address, Health};
use crate::snapshot::Snapshot;
use serde_json::{Value, json};

fn resource(kind: Kind, namespace: &str, name: &str, spec: Value) -> Value {
    let version = match kind.group() {
        "" => kind.versions()[0].to_owned(),
        group => format!("{group}/{}", kind.versions()[0]),
    };
    json!({"apiVersion": version, "kind": kind.as_str(), "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

fn gateway(name: &str, server: Value) -> Value {
    resource(Kind::Gateway, "istio-system", name, json!({"servers": [server], "selector": {"istio": name}}))
}

fn server(port: u16, mode: &str, hosts: &[&str]) -> Value {
    json!({"port": {"number": port, "name": "tls", "protocol": "TLS"}, "tls": {"mode": mode}, "hosts": hosts})
}

fn service(namespace: &str, name: &str) -> Value {
    resource(Kind::Service, namespace, name, json!({"ports": [{"name": "http", "port": 8000}]}))
}

fn entry(namespace: &str, name: &str, host: &str, address: &str) -> Value {
    let endpoint = json!({"address": address, "serviceAccount": "x"});
    let spec = json!({"hosts": [host], "ports": [{"number": 8000, "name": "http", "protocol": "TCP"}],
        "location": "MESH_INTERNAL", "resolution": "STATIC", "endpoints": [endpoint]});
    resource(Kind::ServiceEntry, namespace, name, spec)
}

fn rule(namespace: &str, name: &str, host: &str, most: u32) -> Value {
    let policy = json!({"connectionPool": {"tcp": {"maxConnections": most}}});
    resource(Kind::DestinationRule, namespace, name, json!({"host": host, "trafficPolicy": policy}))
}

fn snapshot(resources: Vec<Value>, options: &Options) -> Snapshot {
    let mut index = Index::default();
    for resource in resources {
        index.apply(resource).unwrap();
    }
    index.snapshot(options)
}

fn messages(snapshot: &Snapshot) -> Vec<String> {
    snapshot.notices.iter().map(ToString::to_string).collect()
}

#[test]
fn only_gateways_whose_selector_the_labels_satisfy_apply_and_without_labels_all_do() {
    let gateways = || {
        vec![
            gateway("a", server(1, "AUTO_PASSTHROUGH", &["*"])),
            gateway("b", server(2, "AUTO_PASSTHROUGH", &["*"])),
        ]
    };
    let labels = BTreeMap::from([("istio".to_owned(), "b".to_owned()), ("app".to_owned(), "x".to_owned())]);
    let chosen = snapshot(gateways(), &Options { labels, ..Options::default() });
    assert_eq!(chosen.listeners.keys().collect::<Vec<_>>(), ["0.0.0.0_2"]);
    assert_eq!(snapshot(gateways(), &Options::default()).listeners.len(), 2);
}

#[test]
fn a_port_may_be_bound_elsewhere_under_the_same_listener_name() {
    let elsewhere: SocketAddr = ([127, 0, 0, 1], 0).into();
    let options = Options { bind: BTreeMap::from([(15443, elsewhere)]), ..Options::default() };
    let snapshot = snapshot(vec![gateway("a", server(15443, "AUTO_PASSTHROUGH", &["*"]))], &options);
    assert_eq!(snapshot.listeners["0.0.0.0_15443"].address, elsewhere);
}

#[test]
fn mesh_protocols_are_asked_for_unless_the_options_say_otherwise() {
    let resources = || vec![gateway("a", server(1, "AUTO_PASSTHROUGH", &["*"])), service("bar", "httpbin")];
    let protocols = |options: &Options| {
        let snapshot = snapshot(resources(), options);
        snapshot.listeners["0.0.0.0_1"].filter_chains[0].matches.application_protocols.len()
    };
    assert_eq!(protocols(&Options::default()), 5);
    assert_eq!(protocols(&Options { require_istio_alpn: false, ..Options::default() }), 0);
}

#[test]
fn a_host_that_exposes_nothing_is_told_of() {
    let said = messages(&snapshot(
        vec![
            gateway("a", server(1, "AUTO_PASSTHROUGH", &["*.globl", "*.global"])),
            service("bar", "httpbin"),
        ],
        &Options::default(),
    ));
    assert!(said.len() == 1 && said[0].contains("no service is exposed under *.globl"), "{said:?}");
}

#[test]
fn without_a_rewrite_there_are_no_aliases() {
    let options = Options { rewrites: Some(Vec::new()), ..Options::default() };
    let resources =
        vec![gateway("a", server(1, "AUTO_PASSTHROUGH", &["*.global"])), service("bar", "httpbin")];
    assert!(snapshot(resources, &options).listeners["0.0.0.0_1"].filter_chains.is_empty());
}

#[test]
fn nobody_takes_the_name_of_a_kubernetes_service_or_of_another_namespace() {
    let host = "httpbin.bar.svc.cluster.local";
    let of = |resources: Vec<Value>| {
        let mut all = vec![gateway("a", server(1, "AUTO_PASSTHROUGH", &["*"]))];
        all.extend(resources);
        let snapshot = snapshot(all, &Options::default());
        let cluster = &snapshot.clusters[format!("outbound_.8000_._.{host}").as_str()];
        cluster.endpoints().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>()
    };
    let thief = || entry("aa", "thief", host, "6.6.6.6");
    assert!(of(vec![service("bar", "httpbin"), thief()]).is_empty());
    assert_eq!(of(vec![thief(), entry("bar", "own", host, "10.0.0.1")]), ["10.0.0.1:8000"]);
    assert_eq!(of(vec![service("bar", "httpbin"), entry("bar", "own", host, "10.0.0.1")]), ["10.0.0.1:8000"]);
}

#[test]
fn an_address_that_stands_in_two_slices_is_one_endpoint_in_its_better_state() {
    let slice = |name: &str, terminating: bool| {
        let labels = json!({"kubernetes.io/service-name": "httpbin", "security.istio.io/tlsMode": "istio"});
        let endpoint =
            json!({"addresses": ["10.0.0.1"], "conditions": {"serving": true, "terminating": terminating}});
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [endpoint],
            "metadata": {"name": name, "namespace": "bar", "labels": labels}, "ports": [{"name": "http", "port": 80}]})
    };
    let resources = vec![
        gateway("a", server(1, "AUTO_PASSTHROUGH", &["*"])),
        service("bar", "httpbin"),
        slice("a", true),
        slice("b", false),
    ];
    let snapshot = snapshot(resources, &Options::default());
    let health: Vec<Health> = snapshot
        .clusters
        .values()
        .flat_map(|cluster| cluster.endpoints().map(|endpoint| endpoint.health))
        .collect();
    assert_eq!(health, [Health::Healthy]);
}

#[test]
fn a_kubernetes_service_selects_the_workload_entries_of_its_namespace() {
    let selector = json!({"app": "vmhttp"});
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "https", "port": 443, "targetPort": "https"}]);
    let workload = |namespace: &str, address: &str| {
        let spec =
            json!({"address": address, "labels": selector, "serviceAccount": "x", "ports": {"https": 8443}});
        resource(Kind::WorkloadEntry, namespace, "w", spec)
    };
    let resources = vec![
        gateway("a", server(1, "AUTO_PASSTHROUGH", &["*"])),
        resource(Kind::Service, "vm", "vmhttp", json!({"selector": selector, "ports": ports})),
        workload("vm", "10.0.0.1"),
        workload("elsewhere", "10.0.0.2"),
    ];
    let snapshot = snapshot(resources, &Options::default());
    let addresses: Vec<String> = snapshot
        .clusters
        .values()
        .flat_map(|cluster| cluster.endpoints().map(|endpoint| endpoint.address.to_string()))
        .collect();
    assert_eq!(addresses, ["10.0.0.1:8443", "10.0.0.1:8080"]);
}

#[test]
fn the_gateways_own_namespace_then_the_services_then_the_root_decides_on_the_policy() {
    let host = "httpbin.bar.svc.cluster.local";
    let most = |namespace: &str, rules: Vec<Value>| {
        let mut all = vec![gateway("a", server(1, "AUTO_PASSTHROUGH", &["*"])), service("bar", "httpbin")];
        all.extend(rules);
        let options = Options { namespace: namespace.to_owned(), ..Options::default() };
        snapshot(all, &options).clusters[format!("outbound_.8000_._.{host}").as_str()].max_connections
    };
    let rules = || {
        vec![
            rule("gw", "r", "*.local", 1),
            rule("bar", "r", "*.bar.svc.cluster.local", 2),
            rule("istio-system", "r", host, 3),
        ]
    };
    assert_eq!(most("gw", rules()), Some(1));
    assert_eq!(most("other", rules()), Some(2));
    assert_eq!(most("istio-system", rules()), Some(2));
    assert_eq!(most("istio-system", vec![rule("istio-system", "r", host, 3)]), Some(3));
    let in_bar = vec![
        rule("bar", "a", "*.local", 1),
        rule("bar", "b", "*.bar.svc.cluster.local", 2),
        rule("bar", "c", "httpbin", 3),
    ];
    assert_eq!(most("gw", in_bar), Some(3), "the most specific host of a namespace counts");
}

#[test]
fn rewrites_of_envoy_filters_apply_by_namespace_labels_and_port() {
    let filter = |namespace: &str, name: &str, port: u16, suffix: &str| {
        let value = json!({"name": "envoy.filters.network.tcp_cluster_rewrite",
            "config": {"cluster_pattern": format!("\\.{suffix}$"), "cluster_replacement": ".svc.cluster.local"}});
        let patch = json!({"applyTo": "NETWORK_FILTER", "patch": {"operation": "ADD", "value": value},
            "match": {"context": "GATEWAY", "listener": {"portNumber": port}}});
        let spec = json!({"workloadSelector": {"labels": {"istio": "a"}}, "configPatches": [patch]});
        resource(Kind::EnvoyFilter, namespace, name, spec)
    };
    let patterns = |label: &str| {
        let labels = BTreeMap::from([("istio".to_owned(), label.to_owned())]);
        let options = Options { labels, ..Options::default() };
        let resources = vec![
            gateway(label, server(1, "AUTO_PASSTHROUGH", &["*"])),
            filter("istio-system", "one", 1, "one"),
            filter("istio-system", "every", 0, "every"),
            filter("istio-system", "two", 2, "two"),
            filter("bar", "stranger", 1, "stranger"),
        ];
        let rewrites = &snapshot(resources, &options).listeners["0.0.0.0_1"].rewrites.clone();
        rewrites.iter().map(|rewrite| rewrite.pattern().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(patterns("a"), [r"\.every$", r"\.one$"]);
    assert_eq!(patterns("b"), [r"\.global$"]);
}

#[test]
fn an_external_name_is_reachable_through_a_route_and_never_by_itself() {
    let external = json!({"type": "ExternalName", "externalName": "Example.com", "ports": [{"port": 443}]});
    let match_all = json!([{"sniHosts": ["a.b"]}]);
    let route = json!([{"destination": {"host": "elsewhere"}}]);
    let virtual_service = json!({"hosts": ["a.b"], "gateways": ["istio-system/a"], "tls": [{"match": match_all, "route": route}]});
    let resources = vec![
        gateway("a", server(1, "PASSTHROUGH", &["a.b"])),
        gateway("b", server(1, "AUTO_PASSTHROUGH", &["*"])),
        resource(Kind::Service, "bar", "elsewhere", external),
        resource(Kind::VirtualService, "bar", "v", virtual_service),
    ];
    let snapshot = snapshot(resources, &Options::default());
    let chains = &snapshot.listeners["0.0.0.0_1"].filter_chains;
    assert_eq!(chains.len(), 1);
    let endpoint =
        snapshot.clusters[chains[0].route.clusters[0].name.as_str()].endpoints().next().unwrap().clone();
    assert_eq!(endpoint.address, Address::Dns { host: "example.com".into(), port: 443 });
}

#[test]
fn a_reset_forgets_what_is_not_listed_and_keeps_the_last_good_version_of_what_is_bad() {
    let mut index = Index::default();
    let good = |name: &str, port| gateway(name, server(port, "AUTO_PASSTHROUGH", &["*"]));
    index.apply(good("a", 1)).unwrap();
    index.apply(good("b", 2)).unwrap();
    let mut bad = good("a", 3);
    bad["spec"]["servers"][0]["hosts"] = json!([]);
    let rejections = index.reset(Kind::Gateway, vec![bad]);
    assert!(rejections.len() == 1 && rejections[0].last_good_kept, "{rejections:?}");
    let snapshot = index.snapshot(&Options::default());
    assert_eq!(snapshot.listeners.keys().collect::<Vec<_>>(), ["0.0.0.0_1"]);
    assert_eq!(snapshot.rejections, rejections);
    index.delete("Gateway", "istio-system", "a");
    let nothing = Snapshot { names: Some(Arc::default()), ..Snapshot::default() };
    assert_eq!(index.snapshot(&Options::default()), nothing);
}
