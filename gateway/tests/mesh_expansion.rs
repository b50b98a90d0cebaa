//! The resources of Istio 1.3's mesh expansion with gateways, as `config/examples/mesh-expansion` has them, row by row,
//! with real TLS behind every passthrough port and real bytes behind every plain one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{self, Origin, RawOrigin};
use serde_json::{Value, json};
use support::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const INGRESS: [(&str, &str); 2] = [("app", "istio-ingressgateway"), ("istio", "ingressgateway")];
const EGRESS: [(&str, &str); 2] = [("app", "istio-egressgateway"), ("istio", "egressgateway")];
const ORDERS: &str = "outbound_.8000_._.orders.shop.global";

/// A mesh directory with the chart's own files in it.
struct Mesh(TempDir);

impl Mesh {
    fn new() -> Self {
        let mesh = Self(tempfile::tempdir().unwrap());
        for chart in ["meshexpansion-gateway.yaml", "mixer.yaml", "multicluster-gateways.yaml"] {
            mesh.put(chart, &example(chart));
        }
        mesh
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    /// A Service of one port and, for each address, an endpoint.
    fn service(&self, namespace: &str, name: &str, port: u16, addresses: &[SocketAddr]) {
        let resource = |kind: &str, version: &str, name: &str, more: Value| {
            let labels = json!({ "kubernetes.io/service-name": name.split("--").next(), "security.istio.io/tlsMode": "istio" });
            let mut resource = json!({
                "apiVersion": version, "kind": kind,
                "metadata": { "name": name, "namespace": namespace, "labels": labels },
            });
            resource.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            resource
        };
        let ports = json!({ "spec": { "ports": [{ "name": "tcp", "port": port }] } });
        let mut items = vec![resource("Service", "v1", name, ports)];
        for (index, address) in addresses.iter().enumerate() {
            let more = json!({
                "addressType": "IPv4",
                "ports": [{ "name": "tcp", "port": address.port() }],
                "endpoints": [{ "addresses": [address.ip()] }],
            });
            items.push(resource("EndpointSlice", "discovery.k8s.io/v1", &format!("{name}--{index}"), more));
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        self.put(&format!("{namespace}-{name}.json"), &list.to_string());
    }

    async fn start(&self, labels: [(&str, &str); 2], view: Option<&str>) -> Cluster {
        let ports = ["15443", "15011", "8060", "15004", "9000"].map(|port| (port, "127.0.0.1:0"));
        let mut gateway = Gateway::start_with(&[], |layers| {
            layers
                .flag("source.mesh_dir", Some(self.0.path().display().to_string()))
                .flag("listen.ports", Some(json!(BTreeMap::from(ports))))
                .flag("node.labels", Some(json!(BTreeMap::from(labels))))
                .flag("node.network_view", view)
        })
        .await;
        let bound = gateway.app.ready().await.unwrap();
        Cluster { gateway, bound }
    }
}

/// A gateway and where its ports are bound.
struct Cluster {
    gateway: Gateway,
    bound: BTreeMap<String, SocketAddr>,
}

impl Cluster {
    fn at(&self, port: u16) -> SocketAddr {
        self.bound[&format!("0.0.0.0_{port}")]
    }
}

fn example(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/mesh-expansion");
    std::fs::read_to_string(directory.join(name)).unwrap()
}

/// With one text in place of another, which must be there.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    text.replace(from, to)
}

async fn pod(ca: &Ca, name: &str) -> Origin {
    Origin::start(origin::Options::new(name, ca.issue(&[SPIFFE]).unwrap())).await.unwrap()
}

async fn raw(behaviour: RawOrigin) -> Origin {
    behaviour.start(([127, 0, 0, 1], 0).into()).await.unwrap()
}

async fn answered(ca: &Ca, address: SocketAddr, name: &str) -> String {
    let response = mesh_client(ca).get(address, name, "/hostname").await;
    response.unwrap_or_else(|error| panic!("{name}: {error:?}")).pod().unwrap().to_owned()
}

#[tokio::test]
async fn machines_outside_find_pilot_citadel_and_mixer_at_their_ports() {
    let ca = Ca::new().unwrap();
    let mesh = Mesh::new();
    let (pilot, citadel) =
        (pod(&ca, "pilot").await, raw(RawOrigin::SpeakFirst(b"220 ready\r\n".to_vec())).await);
    let (policy, telemetry) = (pod(&ca, "policy").await, pod(&ca, "telemetry").await);
    mesh.service("istio-system", "istio-pilot", 15011, &[pilot.address()]);
    mesh.service("istio-system", "istio-citadel", 8060, &[citadel.address()]);
    mesh.service("istio-system", "istio-policy", 15004, &[policy.address()]);
    mesh.service("istio-system", "istio-telemetry", 15004, &[telemetry.address()]);
    let cluster = mesh.start(INGRESS, None).await;

    // TLS on a plain port goes through whole, whatever name and protocols it asks for.
    let response =
        client_with(&ca, &[]).get(cluster.at(15011), "istio-pilot.istio-system", "/hostname").await;
    assert_eq!(response.unwrap().pod(), Some("pilot"));
    let record = &cluster.gateway.records(1).await[0];
    assert_eq!(record["cluster"], "outbound|15011||istio-pilot.istio-system.svc.cluster.local");
    assert!(record["server_name"].is_null(), "nobody looked into it: {record}");

    // Nothing is waited for: here the server speaks first.
    let mut stream = TcpStream::connect(cluster.at(8060)).await.unwrap();
    let mut greeting = [0; 11];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    stream.write_all(b"echo").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"echo");

    // Two services share port 15004 and are told apart by name.
    for name in ["policy", "telemetry"] {
        let server_name = format!("outbound_.15004_._.istio-{name}.istio-system.svc.cluster.local");
        assert_eq!(answered(&ca, cluster.at(15004), &server_name).await, name);
    }
}

#[tokio::test]
async fn global_names_lead_to_services_and_to_a_virtual_machine() {
    let ca = Ca::new().unwrap();
    let mesh = Mesh::new();
    let (httpbin, vm) = (pod(&ca, "httpbin").await, pod(&ca, "vm").await);
    mesh.service("bar", "httpbin", 8000, &[httpbin.address()]);
    mesh.put("httpbin-for-vms.yaml", &example("httpbin-for-vms.yaml"));
    let entry = replaced(&example("vmhttp.yaml"), "127.0.0.31", "127.0.0.1");
    mesh.put("vmhttp.yaml", &replaced(&entry, "http: 8888", &format!("http: {}", vm.address().port())));
    let cluster = mesh.start(INGRESS, None).await;
    assert_eq!(answered(&ca, cluster.at(15443), GLOBAL).await, "httpbin");
    assert_eq!(answered(&ca, cluster.at(15443), "outbound_.8888_._.vmhttp.vm.global").await, "vm");
    let records = cluster.gateway.records(2).await;
    assert_eq!(records[0]["rewritten"], LOCAL);
    assert_eq!(records[1]["rewritten"], "outbound_.8888_._.vmhttp.vm.svc.cluster.local");
}

/// The entry for a service of another cluster, whose gateway is here.
fn orders(gateway: SocketAddr) -> String {
    let there = "127.0.0.2\n    network: external\n    ports:\n      http1: 15443";
    let here =
        there.replace("127.0.0.2", &gateway.ip().to_string()).replace("15443", &gateway.port().to_string());
    replaced(&example("remote.yaml"), there, &here)
}

#[tokio::test]
async fn egress_leads_to_the_other_clusters_ingress_by_the_name_that_was_sent() {
    let ca = Ca::new().unwrap();
    let (there, here) = (Mesh::new(), Mesh::new());
    let shop = pod(&ca, "orders").await;
    there.service("shop", "orders", 8000, &[shop.address()]);
    let remote = there.start(INGRESS, None).await;
    // A service of the same name on this side must not be taken for the one that was asked for.
    let local = pod(&ca, "local").await;
    here.service("shop", "orders", 8000, &[local.address()]);
    here.put("remote.yaml", &orders(remote.at(15443)));
    let egress = here.start(EGRESS, Some("external")).await;

    let response = mesh_client(&ca).get(egress.at(15443), ORDERS, "/hostname").await.unwrap();
    assert_eq!((response.pod(), &response.json()["server_name"]), (Some("orders"), &json!(ORDERS)));
    let record = &egress.gateway.records(1).await[0];
    assert!(record["rewritten"].is_null() && record["attempts"] == 1, "{record}");
    assert_eq!(record["endpoint"], remote.at(15443).to_string());
    assert_eq!(egress.bound.len(), 1, "the ingress gateway's ports are not its own: {:?}", egress.bound);
}

#[tokio::test]
async fn a_name_that_no_cluster_has_does_not_go_round() {
    let ca = Ca::new().unwrap();
    let (there, here) = (Mesh::new(), Mesh::new());
    // Each side believes that the other one has it, and each side's clients go by its own gateways.
    there.put("remote.yaml", &example("remote.yaml"));
    let remote = there.start(INGRESS, None).await;
    here.put("remote.yaml", &orders(remote.at(15443)));
    let egress = here.start(EGRESS, Some("external")).await;
    let ingress = here.start(INGRESS, None).await;

    for (entrance, address) in [("egress", egress.at(15443)), ("ingress", ingress.at(15443))] {
        let error = mesh_client(&ca).get(address, ORDERS, "/hostname").await.unwrap_err();
        assert!(error.tls().is_some(), "{entrance}: an alert says so: {error:?}");
    }
    for (side, gateway) in [("there", &remote.gateway), ("here", &ingress.gateway)] {
        let records = gateway.records(1).await;
        assert_eq!(records.len(), 1, "{side}: {records:?}");
        assert_eq!((&records[0]["flag"], &records[0]["attempts"]), (&json!("UH"), &json!(0)), "{side}");
    }
}

/// A Gateway with a plain port 9000, its routes, and a policy for `echo.bar`.
fn plain(routes: Value, policy: Value) -> String {
    let of = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": kind,
            "metadata": { "name": "plain", "namespace": "bar" }, "spec": spec,
        })
    };
    let port = json!({ "number": 9000, "protocol": "TCP", "name": "tcp" });
    let items = [
        of(
            "Gateway",
            json!({ "selector": BTreeMap::from(INGRESS), "servers": [{ "port": port, "hosts": ["*"] }] }),
        ),
        of("VirtualService", json!({ "hosts": ["*"], "gateways": ["plain"], "tcp": routes })),
        of("DestinationRule", json!({ "host": "echo", "trafficPolicy": policy })),
    ];
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

fn to(host: &str, weight: u32) -> Value {
    json!({ "destination": { "host": host }, "weight": weight })
}

/// The first byte that the server says to a client from this address.
async fn greeted(address: SocketAddr, from: &str) -> u8 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    socket.connect(address).await.unwrap().read_u8().await.unwrap()
}

#[tokio::test]
async fn tcp_routes_go_by_subnet_then_by_weight() {
    let mesh = Mesh::new();
    let mut pods = Vec::new();
    for name in ["a", "b", "inside"] {
        let pod = raw(RawOrigin::SpeakFirst(name.as_bytes().to_vec())).await;
        mesh.service("bar", name, 9000, &[pod.address()]);
        pods.push(pod);
    }
    let routes = json!([
        { "match": [{ "port": 9000, "sourceSubnet": "127.0.0.2" }], "route": [to("inside", 0)] },
        { "match": [{ "port": 9000, "destinationSubnets": ["192.0.2.0/24"] }], "route": [to("inside", 0)] },
        { "match": [{ "port": 9000 }], "route": [to("a", 80), to("b", 20)] },
    ]);
    mesh.put("plain.json", &plain(routes, json!({})));
    let cluster = mesh.start(INGRESS, None).await;
    let mut spread = BTreeMap::<char, u32>::new();
    for _ in 0..400 {
        *spread.entry(greeted(cluster.at(9000), "127.0.0.1").await.into()).or_default() += 1;
    }
    // Four fifths of 400 is 320; nine standard deviations are 72.
    assert!((248..=392).contains(&spread[&'a']) && spread.len() == 2, "{spread:?}");
    assert_eq!(greeted(cluster.at(9000), "127.0.0.2").await, b'i');
}

#[tokio::test]
async fn a_traffic_policy_holds_on_a_plain_port() {
    let mesh = Mesh::new();
    let mut pods = Vec::new();
    for name in ["1", "2", "3"] {
        pods.push(raw(RawOrigin::SpeakFirst(name.as_bytes().to_vec())).await);
    }
    mesh.service("bar", "echo", 9000, &addresses(&pods));
    let routes = json!([{ "route": [to("echo", 0)] }]);
    let with = |hash: Value, tcp: Value| {
        plain(routes.clone(), json!({ "loadBalancer": hash, "connectionPool": { "tcp": tcp } }))
    };
    let by_source = || json!({ "consistentHash": { "useSourceIp": true } });
    mesh.put("plain.json", &with(by_source(), json!({})));
    let cluster = mesh.start(INGRESS, None).await;

    // One client, one endpoint; three clients out of many would have met another by chance.
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..20 {
        met.insert(greeted(cluster.at(9000), "127.0.0.1").await);
    }
    assert_eq!(met.len(), 1);

    // Earlier connections are off the count once their end has been recorded.
    cluster.gateway.records(20).await;
    mesh.put("plain.json", &with(by_source(), json!({ "maxConnections": 2 })));
    cluster.gateway.admin_until("/config_dump", |text| text.contains("max_connections")).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(cluster.at(9000)).await.unwrap();
        stream.read_u8().await.unwrap();
        open.push(stream);
    }
    let mut third = TcpStream::connect(cluster.at(9000)).await.unwrap();
    assert!(third.read_u8().await.is_err(), "maxConnections is 2");
    assert_eq!(cluster.gateway.records(21).await[20]["flag"], "UO");
    drop(open);
    cluster.gateway.records(23).await;

    // A connection that has become too old is closed, though it is used.
    let edited = with(json!({ "simple": "RANDOM" }), json!({ "maxConnectionDuration": "200ms" }));
    mesh.put("plain.json", &edited);
    cluster.gateway.admin_until("/config_dump", |text| text.contains("max_connection_duration")).await;
    let mut stream = TcpStream::connect(cluster.at(9000)).await.unwrap();
    let closing = async {
        stream.read_u8().await.unwrap();
        while stream.write_all(b"x").await.is_ok() && stream.read_u8().await.is_ok() {}
    };
    tokio::time::timeout(PATIENCE, closing).await.expect("the connection ends");
}
