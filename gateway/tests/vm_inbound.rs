//! A VM's way in: the mesh reaches a plain local service by mutual TLS, if it may; and the VM gets its certificate from
//! the mesh's CA.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/machine.rs"]
mod machine;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::{self, Client, Expect, Peer};
use eastgate_loadtest::content;
use eastgate_loadtest::origin::{self, Clients, Origin, RawOrigin};
use machine::*;
use plane::{Plane, signing_ca};
use resources::Resources;
use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What a mesh client asks a gateway for, to get to the VM's service.
const VMHTTP: &str = "outbound_.8888_._.vmhttp.vm.svc.cluster.local";

/// A client of the mesh with this identity, or with none.
fn client(ca: &Ca, identity: Option<(&Ca, &str)>) -> Client {
    let mut options = client::Options::new(ca.roots());
    options.expect = Expect::OneOf(vec![VM.into()]);
    options.alpn = ["istio-peer-exchange", "istio"].map(Into::into).into();
    options.identity = identity.map(|(ca, spiffe)| ca.issue(&[spiffe]).unwrap());
    options.timeout = PATIENCE;
    Client::new(options).unwrap()
}

/// A VM whose port 8888 leads to this local service.
async fn serving(ca: &Ca, local: SocketAddr, allow: &[&str]) -> (Machine, SocketAddr) {
    let address = own_address();
    let directory = Directory::in_mesh(ca, &format!("ISTIO_SVC_IP={address}\n"));
    let machine = directory.run(|layers, _| {
        let layers = layers.flag("vm.inbound", Some(json!({ "8888": local.to_string() })));
        layers.flag("vm.allow", (!allow.is_empty()).then(|| json!(allow)))
    });
    (machine.await, (address, 8888).into())
}

#[tokio::test]
async fn a_mesh_client_reaches_the_vms_service_through_the_gateway() {
    const SLEEP: &str = "spiffe://cluster.local/ns/foo/sa/sleep";
    let ca = Ca::new().unwrap();
    let local = RawOrigin::Digest.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let (machine, address) = serving(&ca, local.address(), &[]).await;
    let documents = [("gateway.json", gateway(&["*.local"])), ("vmhttp.json", vmhttp(address))];
    let gateway = Gateway::start(&documents).await;

    let mut stream = client(&ca, Some((&ca, SLEEP))).connect(gateway.address, VMHTTP).await.unwrap();
    let peer = Peer::of(&stream).unwrap();
    assert_eq!((peer.names(), peer.alpn.as_deref()), (vec![VM.to_owned()], Some("istio")));
    stream.write_all(&content::bytes(3_000_000)).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, format!("{} 3000000\n", content::sha256(3_000_000)), "the half-close came through");

    let record = &machine.records(1).await[0];
    assert_eq!((&record["flag"], &record["peer"]), (&json!("-"), &json!(SLEEP)), "{record}");
    assert_eq!((&record["server_name"], &record["endpoint"]), (&json!(VMHTTP), &json!(local.address())));
    assert_eq!(record["to_upstream_bytes"], 3_000_000);
}

#[tokio::test]
async fn who_may_not_connect_is_turned_away_and_named() {
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let local = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let counters = local.counters();
    let (machine, address) = serving(&ca, local.address(), &["cluster.local/ns/bar/*", "*/sa/friend"]).await;
    let tries = [
        (Some((&ca, "spiffe://cluster.local/ns/foo/sa/sleep")), "UAEX", "only cluster.local/ns/bar/*"),
        (Some((&other, "spiffe://cluster.local/ns/bar/sa/a")), "DPE", "from another CA than root-cert.pem"),
        (None, "DPE", "only clients of the mesh may connect"),
        (Some((&ca, "a.example")), "DPE", "holds no identity"),
    ];
    for (number, (identity, flag, told)) in tries.into_iter().enumerate() {
        // With TLS 1.3 a client learns after its handshake only that it was refused.
        if let Ok(mut stream) = client(&ca, identity).connect(address, "x").await {
            let _ = stream.write_all(b"hello").await;
            let mut read = Vec::new();
            assert!(stream.read_to_end(&mut read).await.is_err() && read.is_empty(), "{told}: {read:?}");
        }
        let record = machine.records(number + 1).await.remove(number);
        let error = record["error"].as_str().unwrap();
        assert!(record["flag"] == flag && error.contains(told), "{record}");
    }
    assert_eq!(
        counters.connections.load(std::sync::atomic::Ordering::Relaxed),
        0,
        "none reached the service"
    );

    for allowed in ["spiffe://cluster.local/ns/bar/sa/any", "spiffe://cluster.local/ns/foo/sa/friend"] {
        let mut stream = client(&ca, Some((&ca, allowed))).connect(address, "x").await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut echoed = [0; 5];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"hello");
    }
    assert_eq!(machine.metric("tls_handshakes_total{result=\"refused\",side=\"client\"}").await, 4.0);
}

#[tokio::test]
async fn a_client_that_is_silent_does_not_hold_its_place_for_ever_and_resets_come_through() {
    let ca = Ca::new().unwrap();
    let local = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = own_address();
    let directory = Directory::in_mesh(&ca, &format!("ISTIO_SVC_IP={address}\n"));
    let to = local.local_addr().unwrap().to_string();
    let machine = directory.run(|layers, _| {
        let layers = layers.flag("vm.inbound", Some(json!({ "8888": to })));
        layers.flag("inspect.timeout", Some("300ms"))
    });
    let machine = machine.await;
    let mut silent = tokio::net::TcpStream::connect((address, 8888)).await.unwrap();
    assert!(silent.read(&mut [0; 1]).await.is_err());
    let record = &machine.records(1).await[0];
    assert!(record["error"].as_str().unwrap().contains("did not finish the TLS handshake"), "{record}");

    let mut stream = client(&ca, Some((&ca, SPIFFE))).connect((address, 8888).into(), "x").await.unwrap();
    let (mut socket, _) = local.accept().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    socket.read_exact(&mut [0]).await.unwrap();
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(machine.records(2).await[1]["flag"], "UC");
}

async fn istiod(ca: &Ca, sign: impl Fn(String) -> Vec<String> + Send + Sync + 'static, token: &str) -> Plane {
    let service = resources::Ca { token: token.into(), answer: Arc::new(sign), asked: Arc::default() };
    let identity = ca.issue(&["istiod.istio-system.svc"]).unwrap();
    let tls = tonic::transport::ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(identity.chain_pem(), identity.key_pem()));
    Plane::start_tls(tls, Some(service), Resources::default()).await
}

/// A pod that serves only clients with a certificate of this root.
async fn strict(ca: &Ca, root: &str) -> Origin {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let mut options = origin::Options::new("httpbin-0", ca.issue(&[SPIFFE]).unwrap());
    options.clients = Clients::Verified(roots);
    Origin::start(options).await.unwrap()
}

#[tokio::test]
async fn the_directory_of_istioctl_gets_its_certificate_from_the_ca_and_renews_it() {
    let ca = Ca::new().unwrap();
    let (root, sign) = signing_ca(Duration::from_secs(4));
    let pod = strict(&ca, &root).await;
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let plane = istiod(&ca, sign, "t").await;
    let port = plane.address.rsplit_once(':').unwrap().1;
    let vip: IpAddr = own_address();
    let directory = Directory::new(&format!(
        "CA_ADDR='istiod.istio-system.svc:{port}'\nISTIO_INBOUND_PORTS='*'\nISTIO_META_CLUSTER_ID='Kubernetes'\n\
         ISTIO_NAMESPACE='vm'\nISTIO_SERVICE_CIDR='*'\nSERVICE_ACCOUNT='account'\nTRUST_DOMAIN='cluster.local'\n"
    ));
    directory.write("mesh.yaml", "defaultConfig:\n  discoveryAddress: istiod.istio-system.svc:15012\n");
    directory.write("hosts", "127.0.0.1 istiod.istio-system.svc\n");
    directory.write("root-cert.pem", &format!("{}{root}", ca.certificate_pem()));
    directory.write("istio-token", "t");
    directory.write("httpbin.yaml", &httpbin(vip, gateway.address.port()));
    let machine = directory.run(|layers, _| layers).await;
    let (status, body) = http_get((vip, 8000).into(), "/hostname").await;
    assert!(status == 200 && body.contains("spiffe://cluster.local/ns/vm/sa/account"), "{status} {body}");
    machine.metric_until("tls_certificate_loads_total{result=\"ok\"}", |count| count >= 2.0).await;
    assert_eq!(http_get((vip, 8000).into(), "/hostname").await.0, 200);
}
