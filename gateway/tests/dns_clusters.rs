//! Endpoints given by DNS name, against a server that answers as a test wants it to; dns_servers.rs has real ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use eastgate_loadtest::ca::Ca;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use serde_json::{Value, json};
use support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};

const HOST: &str = "gw.remote.example";

fn entry(port: u16, resolution: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": { "name": "remote", "namespace": "bar" },
        "spec": {
            "hosts": ["httpbin.bar.global"],
            "location": "MESH_INTERNAL",
            "ports": [{ "name": "http", "number": 8000, "protocol": "HTTP" }],
            "resolution": resolution,
            "endpoints": [{
                "address": HOST,
                "ports": { "http": port },
                "labels": { "security.istio.io/tlsMode": "istio" },
            }],
        },
    })
}

async fn gateway(port: u16, server: SocketAddr) -> Gateway {
    let documents = [("gateway.json", support::gateway(&["*.global"])), ("entry.json", entry(port, "DNS"))];
    Gateway::start_with(&documents, |layers| asking(layers, server)).await
}

/// The addresses of the one cluster.
fn endpoints(clusters: &str) -> BTreeSet<String> {
    let lines = clusters.lines().filter(|line| line.contains("::health_flags::"));
    lines.filter_map(|line| Some(line.split("::").nth(1)?.split_once(':')?.0.to_owned())).collect()
}

async fn until(gateway: &Gateway, wanted: &[&str]) {
    let wanted: BTreeSet<_> = wanted.iter().map(|address| (*address).to_owned()).collect();
    gateway.admin_until("/clusters", |text| endpoints(text) == wanted).await;
}

async fn until_state(gateway: &Gateway, state: &str) {
    let line = format!("eastgate_resolve_names{{state=\"{state}\"}} 1");
    gateway.admin_until("/stats/prometheus", |text| text.contains(&line)).await;
}

/// What the scripted server does.
#[derive(Clone)]
enum Script {
    Answer(Vec<Ipv4Addr>),
    Code(ResponseCode),
    Silence,
}

/// A server that answers as it is told to, and knows what it was asked.
struct Scripted {
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<BTreeSet<(String, RecordType)>>>,
    address: SocketAddr,
}

impl Scripted {
    async fn start(script: Script) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (script, asked) = (Arc::new(Mutex::new(script)), Arc::new(Mutex::default()));
        tokio::spawn(answer(socket, Arc::clone(&script), Arc::clone(&asked)));
        Self { script, asked, address }
    }

    fn say(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }
}

async fn answer(
    socket: UdpSocket,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<BTreeSet<(String, RecordType)>>>,
) {
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let query = Message::from_vec(&buffer[..length]).unwrap();
        let question = query.queries[0].clone();
        asked.lock().unwrap().insert((question.name().to_string(), question.query_type()));
        let mut message = Message::response(query.metadata.id, query.metadata.op_code);
        message.add_query(question.clone());
        match script.lock().unwrap().clone() {
            Script::Silence => continue,
            Script::Code(code) => message.metadata.response_code = code,
            Script::Answer(addresses) if question.query_type() == RecordType::A => {
                for address in addresses {
                    message.add_answer(Record::from_rdata(
                        question.name().clone(),
                        0,
                        RData::A(address.into()),
                    ));
                }
            }
            Script::Answer(_) => {}
        }
        socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
    }
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 9, last)
}

#[tokio::test]
async fn every_address_is_an_endpoint_and_the_last_good_answer_stays() {
    let server = Scripted::start(Script::Answer(vec![ip(2), ip(1)])).await;
    let gateway = gateway(15443, server.address).await;
    until(&gateway, &["127.0.9.1", "127.0.9.2"]).await;
    for bad in [
        Script::Code(ResponseCode::ServFail),
        Script::Code(ResponseCode::NXDomain),
        Script::Silence,
        Script::Answer(Vec::new()),
    ] {
        server.say(bad);
        until_state(&gateway, "stale").await;
        until(&gateway, &["127.0.9.1", "127.0.9.2"]).await;
        server.say(Script::Answer(vec![ip(1), ip(2)]));
        until_state(&gateway, "fresh").await;
    }
    server.say(Script::Answer(vec![ip(3)]));
    until(&gateway, &["127.0.9.3"]).await;
    // Both families were asked for, and nothing but the name as it is written, whatever this machine's search domains.
    let name = format!("{HOST}.");
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked, [(name.clone(), RecordType::A), (name, RecordType::AAAA)].into());
}

#[tokio::test]
async fn with_dns_round_robin_a_name_is_the_first_address_of_its_newest_answer() {
    let server = Scripted::start(Script::Answer(vec![ip(2), ip(1), ip(3)])).await;
    let documents =
        [("gateway.json", support::gateway(&["*.global"])), ("entry.json", entry(15443, "DNS_ROUND_ROBIN"))];
    let gateway = Gateway::start_with(&documents, |layers| asking(layers, server.address)).await;
    until(&gateway, &["127.0.9.2"]).await;
    // As a server that rotates its answers says it.
    for first in [3, 1, 2] {
        server.say(Script::Answer(vec![ip(first), ip(9)]));
        until(&gateway, &[&ip(first).to_string()]).await;
    }
    server.say(Script::Code(ResponseCode::ServFail));
    until_state(&gateway, "stale").await;
    until(&gateway, &["127.0.9.2"]).await;
}

/// A file of xDS resources: one listener for one name, and its `LOGICAL_DNS` cluster.
fn logical(port: u16) -> Value {
    let kind = |kind: &str| format!("type.googleapis.com/envoy.{kind}");
    let address = json!({ "socket_address": { "address": HOST, "port_value": port } });
    json!({ "resources": [
        {
            "@type": kind("config.cluster.v3.Cluster"),
            "name": "remote",
            "type": "LOGICAL_DNS",
            "respect_dns_ttl": true,
            "dns_lookup_family": "V4_ONLY",
            "load_assignment": {
                "cluster_name": "remote",
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
            },
        },
        {
            "@type": kind("config.listener.v3.Listener"),
            "name": "0.0.0.0_15443",
            "address": { "socket_address": { "address": "127.0.0.1", "port_value": 15443 } },
            "listener_filters": [{
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": { "@type": kind("extensions.filters.listener.tls_inspector.v3.TlsInspector") },
            }],
            "filter_chains": [{
                "filter_chain_match": { "server_names": [GLOBAL] },
                "filters": [{
                    "name": "envoy.filters.network.tcp_proxy",
                    "typed_config": {
                        "@type": kind("extensions.filters.network.tcp_proxy.v3.TcpProxy"),
                        "stat_prefix": "remote",
                        "cluster": "remote",
                    },
                }],
            }],
        },
    ] })
}

#[tokio::test]
async fn a_logical_name_is_one_address_at_a_time_and_open_connections_stay() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let IpAddr::V4(here) = pods[0].address().ip() else { panic!("the pod has an IPv4 address") };
    let server = Scripted::start(Script::Answer(vec![here, ip(1)])).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resources.json");
    std::fs::write(&file, logical(pods[0].address().port()).to_string()).unwrap();
    let gateway = Gateway::start_with(&[], |layers| {
        asking(layers, server.address)
            .flag("source.mesh_dir", Some(""))
            .flag("source.xds_file", Some(file.display().to_string()))
    })
    .await;
    until(&gateway, &[&here.to_string()]).await;
    let mut open = TcpStream::connect(gateway.address).await.unwrap();
    open.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    let is_open = |text: &str| text.contains("eastgate_upstream_connections_active{cluster=\"remote\"} 1");
    gateway.admin_until("/stats/prometheus", is_open).await;
    server.say(Script::Answer(vec![ip(1), here]));
    until(&gateway, &["127.0.9.1"]).await;
    assert!(is_open(&gateway.admin("/stats/prometheus").await.1));
    server.say(Script::Answer(vec![here, ip(1)]));
    until(&gateway, &[&here.to_string()]).await;
    assert!(mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.is_ok());
    gateway.admin_until("/stats/prometheus", is_open).await;
    // Nobody is at the first address: the other one is tried in the same attempt.
    server.say(Script::Answer(vec![ip(1), here]));
    until(&gateway, &["127.0.9.1"]).await;
    assert!(mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.is_ok());
    assert_eq!(gateway.records(2).await[1]["attempts"], 1);
}

#[tokio::test]
async fn a_start_without_a_server_is_a_start_and_the_server_is_found_when_it_comes() {
    let port = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let gateway = gateway(15443, address).await;
    until_state(&gateway, "unknown").await;
    until(&gateway, &[]).await;
    let socket = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(answer(socket, Arc::new(Mutex::new(Script::Answer(vec![ip(7)]))), Arc::default()));
    until(&gateway, &["127.0.9.7"]).await;
}
