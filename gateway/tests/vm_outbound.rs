//! A VM's way out: plain TCP to a service's address, carried over mutual TLS through a real gateway to strict pods.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/machine.rs"]
mod machine;
mod support;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::content;
use eastgate_loadtest::origin::{self, Clients, Origin};
use machine::*;
use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A pod that serves only clients with a certificate of the mesh.
async fn strict(ca: &Ca, clients: &Ca) -> Origin {
    let mut options = origin::Options::new("httpbin-0", ca.issue(&[SPIFFE]).unwrap());
    options.clients = Clients::Verified(clients.roots());
    Origin::start(options).await.unwrap()
}

/// The VM's directory for a service behind this gateway.
fn directory(ca: &Ca, vip: IpAddr, gateway: SocketAddr) -> Directory {
    let directory = Directory::in_mesh(ca, "ISTIO_SERVICE_CIDR=127.0.0.0/8\nCLUSTER_GW_ADDR=127.0.0.1\n");
    directory.write("httpbin.yaml", &httpbin(vip, gateway.port()));
    directory
}

#[tokio::test]
async fn plain_http_reaches_a_strict_pod_through_the_gateway() {
    let ca = Ca::new().unwrap();
    let pod = strict(&ca, &ca).await;
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let vip = own_address();
    let machine = directory(&ca, vip, gateway.address).run(|layers, _| layers).await;
    let (status, body) = http_get((vip, 8000).into(), "/hostname").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["server_name"], &body["client"]), (200, &json!(GLOBAL), &json!([VM])));
    assert_eq!(body["alpn"], "istio");

    let record = &machine.records(1).await[0];
    assert_eq!((&record["server_name"], &record["peer"]), (&json!(GLOBAL), &json!(SPIFFE)));
    assert_eq!((&record["flag"], &record["engine"]), (&json!("-"), &json!("tls")), "{record}");
    assert_eq!(record["endpoint"], gateway.address.to_string());
    let record = &gateway.records(1).await[0];
    assert_eq!((&record["server_name"], &record["rewritten"]), (&json!(GLOBAL), &json!(LOCAL)));
    let accepted = machine.metric("tls_handshakes_total{result=\"accepted\",side=\"upstream\"}").await;
    assert!(accepted >= 1.0 && machine.metric("tls_certificate_expiry_timestamp_seconds").await > 1e9);
}

#[tokio::test]
async fn megabytes_each_way_arrive_as_they_were_sent() {
    const LENGTH: usize = 20_000_000;
    let ca = Ca::new().unwrap();
    let pod = strict(&ca, &ca).await;
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let vip = own_address();
    let _machine = directory(&ca, vip, gateway.address).run(|layers, _| layers).await;
    let expected = content::sha256(LENGTH as u64);

    let mut stream = TcpStream::connect((vip, 8000)).await.unwrap();
    let head =
        format!("POST /sha256 HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {LENGTH}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&content::bytes(LENGTH)).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(&expected), "{answer}");

    let mut stream = TcpStream::connect((vip, 8000)).await.unwrap();
    let request = format!("GET /bytes/{LENGTH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let mut digest = content::Digest::default();
    digest.add(&answer[answer.len() - LENGTH..]);
    assert_eq!(digest.finish(), (expected, LENGTH as u64));
}

/// What the VM's client and its log are told.
async fn refused(pod: &Origin, directory: impl FnOnce(IpAddr, SocketAddr) -> Directory) -> (String, String) {
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let vip = own_address();
    let machine = directory(vip, gateway.address).run(|layers, _| layers).await;
    // The reset may come as soon as the connection is there, and is told only once.
    let exchange = async {
        let mut stream = TcpStream::connect((vip, 8000)).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    let error = exchange.await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let record = machine.records(1).await.remove(0);
    (record["flag"].as_str().unwrap().to_owned(), record["error"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_pod_of_another_mesh_is_not_believed() {
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let pod = strict(&other, &ca).await;
    let (flag, error) = refused(&pod, |vip, gateway| directory(&ca, vip, gateway)).await;
    assert!(flag == "UF" && error.contains("from another CA than root-cert.pem"), "{flag} {error}");
}

#[tokio::test]
async fn a_pod_that_does_not_believe_the_vm_says_so() {
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let pod = strict(&ca, &other).await;
    let (flag, error) = refused(&pod, |vip, gateway| directory(&ca, vip, gateway)).await;
    assert!(flag == "UC" && error.contains("it does not believe our certificate"), "{flag} {error}");
}

#[tokio::test]
async fn somebody_else_in_the_mesh_is_not_taken_for_the_service() {
    let ca = Ca::new().unwrap();
    let pod = strict(&ca, &ca).await;
    let with_names = |vip, gateway| {
        let directory = directory(&ca, vip, gateway);
        let names = "  subjectAltNames:\n  - spiffe://cluster.local/ns/bar/sa/other\n";
        directory.write("httpbin.yaml", &(httpbin(vip, gateway.port()) + names));
        directory
    };
    let (flag, error) = refused(&pod, with_names).await;
    let told = error.contains(SPIFFE) && error.contains("only cluster.local/ns/bar/sa/other may be there");
    assert!(flag == "UF" && told, "{flag} {error}");
}

#[tokio::test]
async fn a_service_that_the_gateway_does_not_know_is_named() {
    let ca = Ca::new().unwrap();
    let pod = strict(&ca, &ca).await;
    let unknown = |vip, gateway| {
        let directory = directory(&ca, vip, gateway);
        let text = httpbin(vip, gateway.port()).replace("- httpbin.bar.global", "- nobody.bar.global");
        directory.write("httpbin.yaml", &text);
        directory
    };
    let (flag, error) = refused(&pod, unknown).await;
    assert!(flag == "UF" && error.contains("the gateway knows no service of this name"), "{flag} {error}");
}

#[tokio::test]
async fn certificates_are_renewed_under_open_connections_and_damaged_ones_are_not_taken() {
    let ca = Ca::new().unwrap();
    let pod = strict(&ca, &ca).await;
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let vip = own_address();
    let machine = directory(&ca, vip, gateway.address).run(|layers, _| layers).await;
    let mut open = TcpStream::connect((vip, 8000)).await.unwrap();
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(b"GET /hostname HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        while !answer.contains("\"client\"") || !answer.trim_end().ends_with('}') {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "the connection was closed: {answer}");
            answer += std::str::from_utf8(&piece[..read]).unwrap();
        }
        answer
    };
    assert!(ask(&mut open).await.contains(VM));

    let renewed = "spiffe://cluster.local/ns/vm/sa/renewed";
    machine.certify(&ca, renewed);
    let shown = async || http_get((vip, 8000).into(), "/hostname").await.1;
    let waiting = async {
        while !shown().await.contains(renewed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the renewed certificate in time");
    assert!(ask(&mut open).await.contains(VM), "the open connection goes on with what it began with");

    machine.write("cert-chain.pem", "rubbish");
    machine.metric_until("tls_certificate_loads_total{result=\"failed\"}", |count| count >= 1.0).await;
    assert!(shown().await.contains(renewed), "the last good one stays");
    assert!(ask(&mut open).await.contains(VM));
}

#[tokio::test]
async fn resets_and_ends_come_through_as_what_they_are() {
    use eastgate::tls::{Credentials, Mesh};
    let ca = Ca::new().unwrap();
    let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.local_addr().unwrap()])).await;
    let vip = own_address();
    let machine = directory(&ca, vip, gateway.address).run(|layers, _| layers).await;
    let identity = ca.issue(&[SPIFFE]).unwrap();
    let (chain, key) = (identity.chain_pem(), identity.key_pem());
    let roots = ca.certificate_pem().as_bytes();
    let now = std::time::SystemTime::now();
    let there = Mesh::default();
    there.renew(Credentials::new(chain.as_bytes(), key.as_bytes(), roots, now).unwrap().into());

    // The client resets: so does what the pod sees. Nothing else is under way by then, such as session tickets.
    let mut client = TcpStream::connect((vip, 8000)).await.unwrap();
    let (socket, _) = pod.accept().await.unwrap();
    let mut session = there.accept(&socket).await.unwrap();
    client.write_all(b"x").await.unwrap();
    session.read_exact(&mut [0]).await.unwrap();
    session.write_all(b"y").await.unwrap();
    session.flush().await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let error = session.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    // A FIN from the pod without close_notify may be anybody's: the client sees no end.
    let mut client = TcpStream::connect((vip, 8000)).await.unwrap();
    let (socket, _) = pod.accept().await.unwrap();
    let mut session = there.accept(&socket).await.unwrap();
    session.write_all(b"cut o").await.unwrap();
    session.flush().await.unwrap();
    drop(session);
    drop(socket);
    let mut read = Vec::new();
    let error = client.read_to_end(&mut read).await.unwrap_err();
    assert_eq!((error.kind(), read.as_slice()), (std::io::ErrorKind::ConnectionReset, &b"cut o"[..]));

    // A close_notify is an end, after which the other way goes on.
    let mut client = TcpStream::connect((vip, 8000)).await.unwrap();
    let (socket, _) = pod.accept().await.unwrap();
    let mut session = there.accept(&socket).await.unwrap();
    session.write_all(b"whole").await.unwrap();
    session.shutdown().await.unwrap();
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.unwrap();
    client.write_all(b"and back").await.unwrap();
    client.shutdown().await.unwrap();
    let mut back = Vec::new();
    session.read_to_end(&mut back).await.unwrap();
    assert_eq!((read.as_slice(), back.as_slice()), (&b"whole"[..], &b"and back"[..]));
    let flags: Vec<_> = machine.records(3).await.iter().map(|record| record["flag"].clone()).collect();
    assert_eq!(flags, ["DC", "UC", "-"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused_with_one_line_that_helps() {
    let ca = Ca::new().unwrap();
    let gateway: SocketAddr = ([127, 0, 0, 1], 15443).into();
    let vip = own_address();
    let none = Directory::new("").refused().await;
    assert!(none.contains("holds no cert-chain.pem and key.pem"), "{none}");

    let directory = Directory::in_mesh(&ca, "");
    directory.write("httpbin.yaml", &httpbin(vip, gateway.port()));
    let text = directory.refused().await;
    assert!(
        text.contains("httpbin.yaml:18: ${CLUSTER_GW_ADDR} has no value; give the gateway's address"),
        "{text}"
    );

    let directory = Directory::in_mesh(&ca, "");
    directory.write("root-cert.pem", Ca::new().unwrap().certificate_pem());
    let text = directory.refused().await;
    assert!(text.contains("from another CA"), "{text}");

    let directory = Directory::in_mesh(&ca, "");
    directory.write("key.pem", &ca.issue(&[VM]).unwrap().key_pem());
    let text = directory.refused().await;
    assert!(text.contains("copy both from the same secret"), "{text}");

    let directory = Directory::in_mesh(&ca, "ISTIO_INBOUND_PORTS=http\n");
    let text = directory.refused().await;
    assert!(text.contains("ISTIO_INBOUND_PORTS") && text.contains("such as 8888"), "{text}");

    let directory = Directory::in_mesh(&ca, "");
    let (root, chain, key) = expired();
    directory.write("root-cert.pem", &root);
    directory.write("cert-chain.pem", &chain);
    directory.write("key.pem", &key);
    let text = directory.refused().await;
    assert!(text.contains("it has expired") && text.contains("issue another"), "{text}");
}

/// A root, and a chain and key that ended an hour ago.
fn expired() -> (String, String, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(VM.try_into().unwrap())];
    let hours = |hours: u64| std::time::SystemTime::now() - Duration::from_secs(3600 * hours);
    (params.not_before, params.not_after) = (hours(25).into(), hours(1).into());
    let key = KeyPair::generate().unwrap();
    (root, params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}
