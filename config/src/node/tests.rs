use super::*;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn made(pairs: &[(&str, &str)], labels: Option<&str>, settings: &bootstrap::Node) -> Identity {
    let environment = environment(pairs);
    let addresses = ["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()];
    let annotations = Some("prometheus.io/port=\"15020\"\n");
    identify(Surroundings { environment: &environment, addresses: &addresses, labels, annotations }, settings)
}

const POD: &[(&str, &str)] = &[
    ("POD_NAME", "gw-7d9-x2x"),
    ("POD_NAMESPACE", "istio-ingress"),
    ("INSTANCE_IP", "10.1.2.3"),
    ("SERVICE_ACCOUNT", "gw-account"),
    ("ISTIO_META_CLUSTER_ID", "east"),
    ("ISTIO_META_NETWORK", "net1"),
    ("ISTIO_META_REQUESTED_NETWORK_VIEW", "net1,net2"),
    ("ISTIO_META_GENERATOR", "grpc"),
    ("ISTIO_META_WORKLOAD_NAME", "gw"),
    ("ISTIO_METAJSON_METRICS", r#"{"stats": {"a": 1}, "ENABLE_X": true, "LIST": ["a", "b"]}"#),
    ("PATH", "/bin"),
];

#[test]
fn a_pod_becomes_the_node_that_istios_agent_makes_of_it() {
    let labels = "app=\"eastgate\"\nistio=\"eastwestgateway\"\npod-template-hash=\"7d9\"\n\
                  istio-locality=\"region1.zone1.rack1\"\n";
    let identity = made(POD, Some(labels), &bootstrap::Node::default());
    assert!(identity.warnings.is_empty(), "{:?}", identity.warnings);
    let node = identity.node;
    assert_eq!(node.id, "router~10.1.2.3~gw-7d9-x2x.istio-ingress~istio-ingress.svc.cluster.local");
    assert_eq!(node.cluster, "eastgate.istio-ingress");
    assert_eq!(node.locality.to_string(), "region1/zone1/rack1");
    let wanted = json!({
        "NAME": "gw-7d9-x2x",
        "NAMESPACE": "istio-ingress",
        "SERVICE_ACCOUNT": "gw-account",
        "INSTANCE_IPS": "10.1.2.3,fd00::3",
        "CLUSTER_ID": "east",
        "NETWORK": "net1",
        "REQUESTED_NETWORK_VIEW": "net1,net2",
        "WORKLOAD_NAME": "gw",
        "DISABLE_HBONE_SEND": "true",
        "stats": { "a": 1 },
        "ENABLE_X": "true",
        "LIST": "a,b",
        "LABELS": {
            "app": "eastgate",
            "istio": "eastwestgateway",
            "istio-locality": "region1/zone1/rack1",
        },
        "ANNOTATIONS": { "prometheus.io/port": "15020" },
    });
    assert_eq!(Value::Object(node.metadata), wanted);
    assert_eq!(identity.spiffe, "spiffe://cluster.local/ns/istio-ingress/sa/gw-account");
    assert_eq!(identity.cluster_id, "east");
}

#[test]
fn nothing_known_is_still_a_node_that_istiod_takes() {
    let given =
        Surroundings { environment: &BTreeMap::new(), addresses: &[], labels: None, annotations: None };
    let node = identify(given, &bootstrap::Node::default()).node;
    assert_eq!(node.id, "router~127.0.0.1~eastgate.istio-system~istio-system.svc.cluster.local");
    assert_eq!(node.metadata["INSTANCE_IPS"], "127.0.0.1");
    assert_eq!(node.cluster, "istio-proxy.istio-system");
    assert_eq!(node.locality, Locality::default());
}

#[test]
fn settings_go_before_the_environment() {
    let settings = bootstrap::Node {
        labels: BTreeMap::from([("app".into(), "other".into())]),
        address: Some("192.0.2.9".parse().unwrap()),
        metadata: Map::from_iter([
            ("NETWORK".into(), json!("net9")),
            ("LIST".into(), json!(true)),
            ("PILOT_SAN".into(), json!(["a.b"])),
        ]),
        cluster_domain: "mesh.example".into(),
        ..bootstrap::Node::default()
    };
    let node = made(POD, Some("app=\"eastgate\"\n"), &settings).node;
    assert!(
        node.id.starts_with("router~192.0.2.9~") && node.id.ends_with(".svc.mesh.example"),
        "{}",
        node.id
    );
    assert_eq!(node.metadata["LABELS"]["app"], "other");
    assert_eq!(
        node.metadata["PILOT_SAN"],
        json!(["a.b"]),
        "what the agent writes as a list is one for istiod"
    );
    assert_eq!((&node.metadata["NETWORK"], &node.metadata["LIST"]), (&json!("net9"), &json!("true")));
    assert_eq!(node.metadata["INSTANCE_IPS"], "192.0.2.9,10.1.2.3,fd00::3");
}

#[test]
fn networks_are_told_to_the_control_plane() {
    let settings = bootstrap::Node {
        network: "net2".into(),
        network_view: vec!["net2".into(), "external".into()],
        ..bootstrap::Node::default()
    };
    let metadata = made(POD, None, &settings).node.metadata;
    assert_eq!(metadata["NETWORK"], "net2");
    assert_eq!(metadata["REQUESTED_NETWORK_VIEW"], "net2,external");
}

#[test]
fn labels_without_a_file_come_from_the_environment() {
    let pairs = [("ISTIO_METAJSON_LABELS", r#"{"istio": "ingressgateway"}"#)];
    let node = made(&pairs, None, &bootstrap::Node::default()).node;
    assert_eq!(node.metadata["LABELS"], json!({ "istio": "ingressgateway" }));
    assert_eq!(node.metadata["STATIC_LABELS"], json!({ "istio": "ingressgateway" }));
    let node = made(&pairs, Some("app=\"x\""), &bootstrap::Node::default()).node;
    assert_eq!(node.metadata["LABELS"], json!({ "istio": "ingressgateway", "app": "x" }));
}

#[test]
fn what_cannot_be_read_is_told_and_does_no_harm() {
    let identity = made(&[("ISTIO_METAJSON_X", "[1]")], Some("app=eastgate"), &bootstrap::Node::default());
    assert_eq!(identity.warnings.len(), 2, "{:?}", identity.warnings);
    assert!(identity.warnings.iter().any(|warning| warning.contains("ISTIO_METAJSON_X")));
}

#[test]
fn quoted_values_are_read_as_go_writes_them() {
    let parsed =
        parse_downward("a=\"x\\\"y\\\\\"\n\nb=\"\\u00e9\\n\\xc3\\xa9\"\nnothing\nc=\"=\"\n").unwrap();
    assert_eq!(parsed, environment(&[("a", "x\"y\\"), ("b", "é\né"), ("c", "=")]));
    for wrong in ["a=x", "a=\"x", "a=\"\\q\"", "a=\"\\x1\"", "a=\"\"\"", "a=\""] {
        assert!(parse_downward(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_locality_may_be_written_either_way_and_in_part() {
    let place = |label: &str, text: &str| {
        locality(&BTreeMap::from([(label.to_owned(), text.to_owned())])).to_string()
    };
    assert_eq!(place("istio-locality", "r.z"), "r/z");
    assert_eq!(place("istio-locality", "r.1/z.1/s.1"), "r.1/z.1/s.1");
    assert_eq!(place("topology.istio.io/locality", "r"), "r");
}
