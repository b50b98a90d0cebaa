//! A real gateway for black-box tests: the app that `eastgate run` starts, on free ports, with a mesh directory.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use eastgate::app::App;
use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::{self, Client, Expect};
use eastgate_loadtest::origin::{self, Origin};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A wait that lasts this long has failed. Tests wait for a level, and this only ends those that wait in vain.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The name that the tests' pods have in the mesh.
pub const SPIFFE: &str = "spiffe://cluster.local/ns/bar/sa/httpbin";
/// What a mesh client asks for.
pub const GLOBAL: &str = "outbound_.8000_._.httpbin.bar.global";
/// What the gateway makes of it.
pub const LOCAL: &str = "outbound_.8000_._.httpbin.bar.svc.cluster.local";

/// A tunnel through the gateway to an echoing pod, with the hello echoed already.
pub async fn tunnel(address: SocketAddr) -> std::io::Result<TcpStream> {
    let hello = client_hello(GLOBAL, &["istio"]);
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&hello).await?;
    stream.read_exact(&mut vec![0; hello.len()]).await?;
    Ok(stream)
}

/// Has the pod of a tunnel echo something.
pub async fn say(stream: &mut TcpStream) {
    stream.write_all(b"still here").await.unwrap();
    let mut echoed = [0; 10];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"still here");
}

/// A running gateway and its mesh directory.
pub struct Gateway {
    pub app: App,
    pub address: SocketAddr,
    directory: TempDir,
}

impl Gateway {
    /// Starts with these documents and the settings of [`settings`], and waits until it is ready.
    pub async fn start(documents: &[(&str, Value)]) -> Self {
        Self::start_with(documents, |layers| layers).await
    }

    pub async fn start_with(documents: &[(&str, Value)], more: impl FnOnce(Layers) -> Layers) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("mesh")).unwrap();
        for (name, document) in documents {
            write(&directory.path().join("mesh").join(name), &document.to_string());
        }
        let settings = more(layers(directory.path())).settings().unwrap();
        let mut app = App::start(settings).await.unwrap();
        let bound = tokio::time::timeout(PATIENCE, app.ready()).await.expect("ready in time").unwrap();
        let address = *bound.values().next().expect("a listener");
        Self { app, address, directory }
    }

    /// Writes a file of the mesh directory, as an editor does: another file, then a rename.
    pub fn edit(&self, name: &str, text: &str) {
        write(&self.mesh().join(name), text);
    }

    pub fn mesh(&self) -> PathBuf {
        self.directory.path().join("mesh")
    }

    /// Asks the admin port.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        http_get(self.app.admin_address(), path).await
    }

    pub async fn admin_json(&self, path: &str) -> Value {
        serde_json::from_str(&self.admin(path).await.1).expect("JSON")
    }

    /// Waits until the admin port's answer is as wanted.
    pub async fn admin_until(&self, path: &str, wanted: impl Fn(&str) -> bool) -> String {
        let waiting = async {
            loop {
                let (_, text) = self.admin(path).await;
                if wanted(&text) {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| panic!("{path} never became as wanted"))
    }

    /// The access-log records, once there are so many.
    pub async fn records(&self, count: usize) -> Vec<Value> {
        let path = self.directory.path().join("access.log");
        let waiting = async {
            loop {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.lines().count() >= count && text.ends_with('\n') {
                    return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the records in time")
    }
}

fn write(path: &Path, text: &str) {
    let other = path.with_extension("new");
    std::fs::write(&other, text).unwrap();
    std::fs::rename(other, path).unwrap();
}

fn layers(directory: &Path) -> Layers {
    Layers::new()
        .flag("source.mesh_dir", Some(directory.join("mesh").display().to_string()))
        .flag("listen.ports", Some(json!({ "15443": "127.0.0.1:0" })))
        .flag("admin.address", Some("127.0.0.1:0"))
        .flag("admin.readiness_address", Some("127.0.0.1:0"))
        .flag("access_log.path", Some(directory.join("access.log").display().to_string()))
        .flag("threads", Some(2))
}

/// One GET over a connection of its own.
pub async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    http_get_as(address, path, "*/*").await
}

/// The same for an answer of this kind.
pub async fn http_get_as(address: SocketAddr, path: &str, accept: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => unchunk(body),
        false => body.to_owned(),
    };
    (head[9..12].parse().unwrap(), body)
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text.push_str(&rest[..size]);
        body = &rest[(size + 2).min(rest.len())..];
    }
    text
}

/// A Gateway on 15443 with these hosts.
pub fn gateway(hosts: &[&str]) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": { "name": "cross-network-gateway", "namespace": "istio-system" },
        "spec": {
            "selector": { "istio": "ingressgateway" },
            "servers": [{
                "hosts": hosts,
                "port": { "name": "tls", "number": 15443, "protocol": "TLS" },
                "tls": { "mode": "AUTO_PASSTHROUGH" },
            }],
        },
    })
}

/// The Service `httpbin.bar`, port 8000.
pub fn service() -> Value {
    named_service("httpbin")
}

pub fn named_service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "bar" },
        "spec": { "ports": [{ "name": "http", "port": 8000, "targetPort": 8443 }] },
    })
}

/// Its endpoints. Endpoints of one slice share their port, so there is a slice for each.
pub fn slices(addresses: &[SocketAddr]) -> Value {
    named_slices("httpbin", addresses, "istio")
}

pub fn named_slices(service: &str, addresses: &[SocketAddr], tls_mode: &str) -> Value {
    let slice = |(index, address): (usize, &SocketAddr)| {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{index}"),
                "namespace": "bar",
                "labels": { "kubernetes.io/service-name": service, "security.istio.io/tlsMode": tls_mode },
            },
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "ports": [{ "name": "http", "port": address.port(), "protocol": "TCP" }],
            "endpoints": [{ "addresses": [address.ip()], "conditions": { "ready": true } }],
        })
    };
    json!({ "apiVersion": "v1", "kind": "List", "items": addresses.iter().enumerate().map(slice).collect::<Vec<_>>() })
}

/// A DestinationRule for `httpbin.bar` with this traffic policy.
pub fn policy(traffic_policy: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": { "name": "httpbin", "namespace": "bar" },
        "spec": { "host": "httpbin.bar.svc.cluster.local", "trafficPolicy": traffic_policy },
    })
}

pub fn round_robin() -> Value {
    policy(json!({ "loadBalancer": { "simple": "ROUND_ROBIN" } }))
}

/// The usual mesh: a Gateway for `*.global`, the service, its endpoints, taken in turn.
pub fn mesh(addresses: &[SocketAddr]) -> Vec<(&'static str, Value)> {
    vec![
        ("gateway.json", gateway(&["*.global"])),
        ("service.json", service()),
        ("slices.json", slices(addresses)),
        ("policy.json", round_robin()),
    ]
}

/// A loopback address of one's own: nobody else gets a port of it, also while whoever had it is away.
pub fn address_apart() -> Ipv4Addr {
    static TAKEN: AtomicU16 = AtomicU16::new(1);
    let [high, low] = TAKEN.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 64 + (std::process::id() % 128) as u8, high, low)
}

/// An address where nobody listens, and nobody else will: for what refuses, or comes later.
pub fn nobody() -> SocketAddr {
    std::net::TcpListener::bind((address_apart(), 0)).unwrap().local_addr().unwrap()
}

/// TLS pods of httpbin.
pub async fn pods(ca: &Ca, count: usize) -> Vec<Origin> {
    pods_at(ca, count, || Ipv4Addr::LOCALHOST).await
}

/// Those of a test in which pods die: at addresses of their own, so that no other test gets their ports and answers for them.
pub async fn pods_apart(ca: &Ca, count: usize) -> Vec<Origin> {
    pods_at(ca, count, address_apart).await
}

async fn pods_at(ca: &Ca, count: usize, address: impl Fn() -> Ipv4Addr) -> Vec<Origin> {
    let mut pods = Vec::new();
    for index in 0..count {
        let mut options = origin::Options::new(format!("httpbin-{index}"), ca.issue(&[SPIFFE]).unwrap());
        options.address = (address(), 0).into();
        pods.push(Origin::start(options).await.unwrap());
    }
    pods
}

pub fn addresses(pods: &[Origin]) -> Vec<SocketAddr> {
    pods.iter().map(Origin::address).collect()
}

/// A listener that answers no SYN: its accept queue is full, and stays so as long as the sockets are held.
pub async fn black_hole() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address_apart(), 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    let half_a_second = Duration::from_millis(500);
    while let Ok(stream) = tokio::time::timeout(half_a_second, TcpStream::connect(address)).await {
        held.push(stream.unwrap());
    }
    (address, listener, held)
}

/// A client as a sidecar is one: it offers `istio` and verifies the pod's SPIFFE identity.
pub fn mesh_client(ca: &Ca) -> Client {
    client_with(ca, &["istio-http/1.1", "istio", "http/1.1"])
}

pub fn client_with(ca: &Ca, alpn: &[&str]) -> Client {
    let mut options = client::Options::new(ca.roots());
    options.expect = Expect::OneOf(vec![SPIFFE.into()]);
    options.alpn = alpn.iter().map(|protocol| protocol.to_string()).collect();
    options.timeout = PATIENCE;
    Client::new(options).unwrap()
}

/// A real ClientHello of rustls, as it stands on the wire.
pub fn client_hello(server_name: &str, alpn: &[&str]) -> Vec<u8> {
    client_hello_of(server_name, alpn, rustls::crypto::aws_lc_rs::DEFAULT_KX_GROUPS.to_vec())
}

/// The same with these key exchange groups, the first of which it guesses.
pub fn client_hello_of(
    server_name: &str,
    alpn: &[&str],
    kx_groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>,
) -> Vec<u8> {
    let provider =
        rustls::crypto::CryptoProvider { kx_groups, ..rustls::crypto::aws_lc_rs::default_provider() };
    let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = server_name.to_owned().try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// A ServiceEntry for DNS to answer from, behind a gateway elsewhere.
pub fn addressed_entry(name: &str, host: &str, addresses: &[String]) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": { "name": name, "namespace": "bar" },
        "spec": {
            "hosts": [host],
            "location": "MESH_INTERNAL",
            "ports": [{ "name": "http1", "number": 8000, "protocol": "HTTP" }],
            "resolution": "DNS",
            "addresses": addresses,
            "endpoints": [{ "address": "192.0.2.1", "ports": { "http1": 15443 } }],
        },
    })
}

/// Settings that have names looked up at this server, more often than one would.
pub fn asking(layers: Layers, server: SocketAddr) -> Layers {
    layers
        .flag("upstream.dns.servers", Some(json!([server])))
        .flag("upstream.dns.min_ttl", Some("20ms"))
        .flag("upstream.dns.timeout", Some("500ms"))
        .flag("upstream.dns.retry", Some("20ms"))
        .flag("upstream.dns.max_retry", Some("100ms"))
}

/// Runs an ignored test of this file in a network namespace of its own, where there can be one, and returns what it said.
/// `what` wants that.
pub fn in_own_network(what: &str, test: &str) -> Option<String> {
    let able = Command::new("unshare").args(["-n", "nft", "list", "ruleset"]).output();
    if !able.as_ref().is_ok_and(|output| output.status.success()) {
        let why = format!("not run: {what} wants root (unshare -n) and nftables");
        assert_ne!(std::env::var("E2E").as_deref(), Ok("required"), "{why}");
        eprintln!("{why}");
        return None;
    }
    let mut inside = Command::new("unshare");
    inside.arg("-n").arg(std::env::current_exe().unwrap());
    let output = inside.args([test, "--exact", "--ignored", "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complaint}");
    Some(said)
}
