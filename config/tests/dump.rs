//! The dump in Envoy's shape, read back by the descriptors of Envoy's own messages.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use eastgate_config::cluster::{Cluster, Dns, DnsFamily, Resolutions};
use eastgate_config::dump::{Accepted, Dump, Failed, Query};
use eastgate_config::endpoint::{Address, Endpoint};
use eastgate_config::listener::{ChainMatch, FilterChain, Listener};
use eastgate_config::rejection::{Place, Rejection, ResourceName};
use eastgate_config::route::{Rewrite, Route};
use eastgate_config::snapshot::Snapshot;
use eastgate_config::xds::{CLUSTER, ENDPOINTS, LISTENER, Refused, Saved, SavedResource};
use eastgate_proto::Message;
use eastgate_proto::envoy::config::cluster::v3 as cluster;
use eastgate_proto::envoy::config::endpoint::v3 as endpoint;
use eastgate_proto::envoy::config::listener::v3 as listener;
use eastgate_proto::google::protobuf as pb;
use serde_json::{Value, json};

fn saved(type_url: &str, resources: Vec<(&str, Vec<u8>)>) -> Saved {
    let resource =
        |(name, body): (&str, Vec<u8>)| SavedResource { name: name.into(), version: "r1".into(), body };
    let resources = resources.into_iter().map(resource).collect();
    Saved { type_url: type_url.into(), version: "v1".into(), resources }
}

fn types() -> Vec<Saved> {
    let cluster = |name: &str| cluster::Cluster { name: name.into(), ..Default::default() }.encode_to_vec();
    let listener = listener::Listener { name: "l".into(), ..Default::default() }.encode_to_vec();
    let assignment =
        endpoint::ClusterLoadAssignment { cluster_name: "a".into(), ..Default::default() }.encode_to_vec();
    vec![
        saved(CLUSTER, vec![("a", cluster("a")), ("b", cluster("b"))]),
        saved(ENDPOINTS, vec![("a", assignment)]),
        saved(LISTENER, vec![("l", listener)]),
    ]
}

fn rejection(kind: &str, name: &str) -> Rejection {
    let resource = ResourceName { kind: kind.into(), namespace: String::new(), name: name.into() };
    Rejection {
        place: Place { resource, field: "f".into(), location: None },
        reason: "bad".into(),
        last_good_kept: false,
    }
}

const AT: &str = "2026-11-22T15:00:00Z";

fn dumped(snapshot: &Snapshot, types: Option<&[Saved]>, parameters: &[(&str, &str)]) -> Value {
    dumped_with(snapshot, types, &[], &Resolutions::new(), parameters)
}

fn dumped_with(
    snapshot: &Snapshot,
    types: Option<&[Saved]>,
    refused: &[Refused],
    resolved: &Resolutions,
    parameters: &[(&str, &str)],
) -> Value {
    let failed = |refused| Failed { refused, at: "2026-11-22T16:00:00Z".into() };
    let accepted = types.map(|types| Accepted {
        types,
        warming: BTreeSet::from(["b".to_owned()]),
        failed: refused.iter().map(failed).collect(),
    });
    let updated = [CLUSTER, ENDPOINTS, LISTENER].map(|url| (url.to_owned(), AT.to_owned()));
    let dump = Dump {
        node: json!({ "id": "router~1" }),
        version: 3,
        snapshot,
        resolved,
        accepted,
        updated: BTreeMap::from(updated),
    };
    let mut text = Vec::new();
    dump.write(&Query::new(parameters.iter().copied()).unwrap(), &mut text).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Every config is what its type says, by Envoy's own descriptors. (Bootstrap's are not compiled in.)
fn assert_readable(dump: &Value) {
    for config in dump["configs"].as_array().unwrap() {
        if config["@type"] != "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump" {
            let read = eastgate_proto::json::read("google.protobuf.Any", &config.to_string());
            assert!(read.is_ok(), "{read:?} of {config}");
        }
    }
}

fn file_snapshot() -> Snapshot {
    let chain = FilterChain {
        name: "chain".into(),
        matches: ChainMatch {
            server_names: vec!["*.x.global".parse().unwrap()],
            application_protocols: vec!["istio".into()],
            ..ChainMatch::default()
        },
        route: Route::to("c"),
        idle_timeout: Some(Duration::from_millis(1500)),
        options: Default::default(),
    };
    let listener = Listener {
        name: "l".into(),
        address: ([0, 0, 0, 0], 15443).into(),
        rewrites: vec![Rewrite::global_to("cluster.local")],
        filter_chains: vec![chain],
        options: Default::default(),
    };
    let endpoint = Endpoint::new(Address::Socket(([10, 0, 0, 1], 80).into()));
    let mut cluster = Cluster::new("c", vec![endpoint]);
    cluster.max_connections = Some(7);
    Snapshot {
        listeners: BTreeMap::from([("l".into(), Arc::new(listener))]),
        clusters: [("c".to_owned(), Arc::new(cluster))].into_iter().collect(),
        ..Snapshot::default()
    }
}

#[test]
fn accepted_resources_stand_in_their_sections() {
    let types = types();
    let dump = dumped(&Snapshot::default(), Some(&types), &[("include_eds", "true")]);
    assert_readable(&dump);
    let [bootstrap, clusters, listeners, endpoints] = dump["configs"].as_array().unwrap().as_slice() else {
        panic!("{dump}")
    };
    assert_eq!(bootstrap["bootstrap"]["node"]["id"], "router~1");
    assert_eq!(clusters["version_info"], "v1");
    let element = json!({
        "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster",
        "version_info": "r1",
        "cluster": { "@type": CLUSTER, "name": "a" },
        "last_updated": "2026-11-22T15:00:00Z",
    });
    let resource = dumped(&Snapshot::default(), Some(&types), &[("resource", "dynamic_active_clusters")]);
    assert_readable(&resource);
    assert_eq!(resource, json!({ "configs": [element] }));
    assert_eq!(clusters["dynamic_warming_clusters"][0]["cluster"]["name"], "b");
    assert_eq!(listeners["dynamic_listeners"][0]["name"], "l");
    assert_eq!(listeners["dynamic_listeners"][0]["active_state"]["listener"]["name"], "l");
    assert_eq!(endpoints["dynamic_endpoint_configs"][0]["endpoint_config"]["cluster_name"], "a");
    assert_eq!(dumped(&Snapshot::default(), Some(&types), &[])["configs"].as_array().unwrap().len(), 3);
}

#[test]
fn what_was_refused_says_so_beside_its_older_version_or_alone() {
    let rejections =
        vec![rejection("Cluster", "a"), rejection("Cluster", "none"), rejection("Listener", "n")];
    let snapshot = Snapshot { rejections, ..Snapshot::default() };
    let types = types();
    let newer = listener::Listener { name: "n".into(), stat_prefix: "newer".into(), ..Default::default() };
    let refused = |type_url: &str, name: &str, message: Option<Vec<u8>>| Refused {
        type_url: type_url.into(),
        name: name.into(),
        version: "r2".into(),
        at: Duration::ZERO,
        size: 77,
        message: message.map(|value| pb::Any { type_url: type_url.into(), value }),
    };
    // `l` is refused in no table yet.
    let refused = [
        refused(CLUSTER, "a", None),
        refused(LISTENER, "n", Some(newer.encode_to_vec())),
        refused(LISTENER, "l", Some(newer.encode_to_vec())),
    ];
    let dump = dumped_with(&snapshot, Some(&types), &refused, &Resolutions::new(), &[]);
    assert_readable(&dump);
    let error = json!({
        "failed_configuration": { "@type": LISTENER, "name": "n", "stat_prefix": "newer" },
        "last_update_attempt": "2026-11-22T16:00:00Z",
        "details": "Listener n: f: bad",
        "version_info": "r2",
    });
    assert_eq!(dump["configs"][2]["dynamic_listeners"][1]["error_state"], error);
    let error = json!({
        "last_update_attempt": "2026-11-22T16:00:00Z",
        "details": "Cluster a: f: bad (its 77 bytes were not kept)",
        "version_info": "r2",
    });
    assert_eq!(dump["configs"][1]["dynamic_active_clusters"][0]["error_state"], error);
    let dump = dumped(&snapshot, Some(&types), &[]);
    assert_readable(&dump);
    let clusters = dump["configs"][1]["dynamic_active_clusters"].as_array().unwrap();
    assert!(clusters.len() == 1 && clusters[0]["error_state"]["details"] == "Cluster a: f: bad", "{dump}");
    assert_eq!(clusters[0]["error_state"]["last_update_attempt"], AT);
    let listeners = dump["configs"][2]["dynamic_listeners"].as_array().unwrap();
    assert_eq!((listeners.len(), &listeners[1]["name"]), (2, &json!("n")));
    assert!(listeners[0].get("error_state").is_none() && listeners[1].get("active_state").is_none());
    assert_eq!(dump["snapshot"]["rejections"].as_array().unwrap().len(), 3);
}

#[test]
fn names_and_masks_narrow_the_dump() {
    let types = types();
    let ask = |parameters: &[(&str, &str)]| dumped(&Snapshot::default(), Some(&types), parameters);
    let named = ask(&[("name_regex", "[ab]"), ("include_eds", "")]);
    assert_readable(&named);
    assert_eq!(named["configs"].as_array().unwrap().len(), 3);
    assert_eq!(named["configs"][1]["dynamic_listeners"], json!([]));
    let masked = ask(&[("resource", "dynamic_listeners"), ("mask", "active_state.listener.name")]);
    let listener = json!({ "listener": { "@type": LISTENER, "name": "l" } });
    let element = json!({
        "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump.DynamicListener",
        "active_state": listener,
    });
    assert_eq!(masked, json!({ "configs": [element] }));
    let masked = ask(&[("mask", "dynamic_active_clusters.version_info")]);
    assert_eq!(masked["configs"][1]["dynamic_active_clusters"][0]["version_info"], "r1");
    assert!(masked["configs"][1]["dynamic_active_clusters"][0].get("cluster").is_none());
}

#[test]
fn what_came_from_files_is_put_into_envoys_words() {
    let dump = dumped(&file_snapshot(), None, &[("include_eds", "")]);
    assert_readable(&dump);
    let listener = &dump["configs"][2]["dynamic_listeners"][0]["active_state"]["listener"];
    let chain = &listener["filter_chains"][0];
    assert_eq!(chain["filter_chain_match"]["server_names"], json!(["*.x.global"]));
    assert_eq!(chain["filters"][0]["typed_config"]["cluster"], "c");
    let endpoint = &dump["configs"][3]["dynamic_endpoint_configs"][0]["endpoint_config"]["endpoints"][0];
    let address = &endpoint["lb_endpoints"][0]["endpoint"]["address"]["socket_address"];
    assert_eq!(*address, json!({ "address": "10.0.0.1", "port_value": 80 }));
    assert_eq!(dump["snapshot"]["listeners"]["l"]["name"], "l");
}

/// A cluster of this kind that carries its endpoints, as a message and as it is served.
fn carrying(kind: &str, name: &str, endpoints: Value) -> ((String, Vec<u8>), (String, Arc<Cluster>)) {
    let message = json!({
        "name": name,
        "type": kind,
        "load_assignment": { "cluster_name": "other", "endpoints": endpoints },
    });
    let body = eastgate_proto::json::read("envoy.config.cluster.v3.Cluster", &message.to_string()).unwrap();
    let mut served = Cluster::new(name, Vec::new());
    let refresh = Duration::from_secs(5);
    if kind != "STATIC" {
        served.dns = Some(Dns { logical: false, refresh, respect_ttl: false, family: DnsFamily::V4Only });
    }
    ((name.to_owned(), body), (name.to_owned(), Arc::new(served)))
}

fn at(address: &str) -> Value {
    json!({ "address": { "socket_address": { "address": address, "port_value": 80 } } })
}

fn resolutions() -> Resolutions {
    let addresses = ["10.0.0.7", "10.0.0.8", "fd00::7"].map(|address| address.parse::<IpAddr>().unwrap());
    Resolutions::from([("gw.example".to_owned(), addresses.to_vec())])
}

#[test]
fn clusters_that_carry_their_endpoints_list_them_with_names_resolved() {
    let weighed =
        json!({ "endpoint": at("gw.example"), "load_balancing_weight": 4, "health_status": "DRAINING" });
    let unknown = json!({ "endpoint": at("unknown.example") });
    let locality = json!({ "region": "r" });
    let names =
        json!([{ "locality": locality, "lb_endpoints": [weighed, unknown, { "endpoint": at("10.0.0.9") }] }]);
    let fixed = json!([{ "priority": 1, "lb_endpoints": [{ "endpoint": at("10.0.0.1") }] }]);
    let (messages, served): (Vec<_>, Vec<_>) = [
        carrying("STRICT_DNS", "dns", names),
        carrying("STATIC", "fixed", fixed),
        carrying("EDS", "eds", json!([])),
    ]
    .into_iter()
    .unzip();
    let messages = messages.iter().map(|(name, body)| (name.as_str(), body.clone())).collect();
    let types = [saved(CLUSTER, messages), types().remove(1)];
    let snapshot = Snapshot { clusters: served.into_iter().collect(), ..Snapshot::default() };
    let parameters = [("resource", "dynamic_endpoint_configs")];
    let dump = dumped_with(&snapshot, Some(&types), &[], &resolutions(), &parameters);
    assert_readable(&dump);
    let names: Vec<_> = dump["configs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["endpoint_config"]["cluster_name"])
        .collect();
    assert_eq!(names, ["a", "dns", "fixed"]);
    let resolved = |address: &str| {
        let mut endpoint = at(address);
        endpoint["hostname"] = json!("gw.example");
        json!({ "endpoint": endpoint, "health_status": "DRAINING", "load_balancing_weight": 4 })
    };
    let listed = json!([resolved("10.0.0.7"), resolved("10.0.0.8"), { "endpoint": at("10.0.0.9") }]);
    let element = json!({
        "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump.DynamicEndpointConfig",
        "version_info": "r1",
        "endpoint_config": {
            "@type": ENDPOINTS,
            "cluster_name": "dns",
            "endpoints": [{ "locality": locality, "lb_endpoints": listed }],
        },
        "last_updated": AT,
    });
    assert_eq!(dump["configs"][1], element);
    assert_eq!(dump["configs"][2]["endpoint_config"]["endpoints"][0]["priority"], 1);
}

#[test]
fn names_out_of_files_are_resolved_too() {
    let endpoint = Endpoint::new(Address::Dns { host: "gw.example".into(), port: 80 });
    let clusters = BTreeMap::from([("c".to_owned(), Arc::new(Cluster::new("c", vec![endpoint])))]);
    let snapshot = Snapshot { clusters: clusters.into(), ..Snapshot::default() };
    let dump = dumped_with(&snapshot, None, &[], &resolutions(), &[("include_eds", "")]);
    assert_readable(&dump);
    let assignment = &dump["configs"][3]["dynamic_endpoint_configs"][0]["endpoint_config"];
    let listed = assignment["endpoints"][0]["lb_endpoints"].as_array().unwrap();
    let address = |one: &Value| one["endpoint"]["address"]["socket_address"]["address"].clone();
    assert_eq!(listed.iter().map(address).collect::<Vec<_>>(), ["10.0.0.7", "10.0.0.8", "fd00::7"]);
    assert_eq!(listed[0]["endpoint"]["hostname"], "gw.example");
}
