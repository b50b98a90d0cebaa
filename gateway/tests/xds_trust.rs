//! How a control plane is reached and trusted: TLS, tokens, certificates, Unix sockets, the mesh's CA.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/fed.rs"]
mod fed;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::path::Path;
use std::time::Duration;

use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use fed::*;
use plane::{Plane, signing_ca};
use resources::Resources;
use support::*;
use tonic::Code;

#[tokio::test]
async fn tls_is_verified_and_the_token_is_read_for_every_stream() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = Plane::start_tls(tls(&ca, "istiod.istio-system.svc"), None, world(pod.address())).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("root.pem"), Ca::new().unwrap().certificate_pem()).unwrap();
    std::fs::write(directory.path().join("token"), "first").unwrap();
    let name = |layers: Layers, _: &Path| layers.flag("xds.server_name", Some("istiod.istio-system.svc"));
    let mut gateway = Fed::start_in(directory, &[&plane.address], name).await;

    // Another mesh's root is there: nothing is said to a control plane that cannot be verified.
    gateway.metric_until("xds_reconnects_total{reason=\"connect\"}", |count| count >= 1.0).await;
    assert_eq!(plane.seen().streams, 0);
    std::fs::write(gateway.directory.path().join("root.pem"), ca.certificate_pem()).unwrap();
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());

    std::fs::write(gateway.directory.path().join("token"), "second\n").unwrap();
    plane.cut();
    let seen = plane.until(|seen| seen.streams == 2).await;
    assert_eq!(seen.tokens, [Some("Bearer first".to_owned()), Some("Bearer second".to_owned())]);
    assert_eq!(seen.cluster_ids[0].as_deref(), Some("Kubernetes"));
}

fn tls(ca: &Ca, name: &str) -> tonic::transport::ServerTlsConfig {
    let identity = ca.issue(&[name, "127.0.0.1"]).unwrap();
    tonic::transport::ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(identity.chain_pem(), identity.key_pem()))
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_a_token_never_in_plaintext() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let root = tonic::transport::Certificate::from_pem(ca.certificate_pem());
    let plane = Plane::start_tls(tls(&ca, "x").client_ca_root(root), None, world(pod.address())).await;
    let plaintext = Plane::start(Resources::default()).await;
    plaintext.change(|world| world.refuse = Some(Code::Unavailable));
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("root.pem"), ca.certificate_pem()).unwrap();
    std::fs::write(directory.path().join("token"), "secret").unwrap();
    let identity = ca.issue(&[SPIFFE]).unwrap();
    identity.write_pem(&directory.path().join("cert.pem"), &directory.path().join("key.pem")).unwrap();
    let files = |layers: Layers, directory: &Path| {
        layers
            .flag("xds.certificate_path", Some(directory.join("cert.pem").display().to_string()))
            .flag("xds.key_path", Some(directory.join("key.pem").display().to_string()))
    };
    let mut gateway = Fed::start_in(directory, &[&plaintext.address, &plane.address], files).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
    let (with, without) = (plane.seen(), plaintext.seen());
    assert_eq!((with.certificates, with.tokens), (vec![true], vec![Some("Bearer secret".to_owned())]));
    assert_eq!(without.tokens, [None]);
}

#[tokio::test]
async fn a_unix_socket_is_spoken_to() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start_unix(&directory.path().join("XDS"), world(pod.address()));
    let mut gateway = Fed::start_in(directory, &[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
}

#[tokio::test]
async fn the_meshs_ca_issues_a_certificate_and_renews_it() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    // A life so short that it is renewed in the course of the test.
    let (root, sign) = signing_ca(Duration::from_secs(4));
    let asked = std::sync::Arc::default();
    let service = resources::Ca {
        token: "t".into(),
        answer: std::sync::Arc::new(sign),
        asked: std::sync::Arc::clone(&asked),
    };
    let tls = tls(&ca, "x")
        .client_ca_root(tonic::transport::Certificate::from_pem(root))
        .client_auth_optional(true);
    let plane = Plane::start_tls(tls, Some(service), world(pod.address())).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("root.pem"), ca.certificate_pem()).unwrap();
    std::fs::write(directory.path().join("token"), "t").unwrap();
    let csr = |layers: Layers, _: &Path| layers.flag("xds.csr", Some(true));
    let mut gateway = Fed::start_in(directory, &[&plane.address], csr).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
    gateway.metric_until("xds_certificate_requests_total{result=\"ok\"}", |count| count >= 2.0).await;
    plane.cut();
    let seen = plane.until(|seen| seen.certificates.last() == Some(&true)).await;
    assert!(seen.streams >= 2);
    assert!(gateway.metric("xds_certificate_expiry_timestamp_seconds").await > 1e9);
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0].validity_duration, 24 * 3600);
    assert_ne!(asked[0].csr, asked[1].csr);
}

#[tokio::test]
async fn a_certificate_of_the_meshs_ca_outlives_the_process() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let (root, sign) = signing_ca(Duration::from_hours(1));
    let root = tonic::transport::Certificate::from_pem(root);
    let service = resources::Ca {
        token: "t".into(),
        answer: std::sync::Arc::new(sign),
        asked: std::sync::Arc::default(),
    };
    let trusting = tls(&ca, "x").client_ca_root(root.clone()).client_auth_optional(true);
    let plane = Plane::start_tls(trusting, Some(service), world(pod.address())).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("root.pem"), ca.certificate_pem()).unwrap();
    std::fs::write(directory.path().join("token"), "t").unwrap();
    let csr = |layers: Layers, directory: &Path| {
        layers
            .flag("xds.csr", Some(true))
            .flag("xds.state_dir", Some(directory.join("state").display().to_string()))
    };
    let mut gateway = Fed::start_in(directory, &[&plane.address], csr).await;
    gateway.ready().await;
    let file = gateway.directory.path().join("state/xds-certificate");
    gateway.until("/ready", |_| file.exists()).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let Fed { app, directory } = gateway;
    app.stop().await;
    plane.stop().await;

    // The CA is down, the token is none that anybody takes, and nobody without a certificate is let in.
    let strict = Plane::start_tls(tls(&ca, "x").client_ca_root(root), None, world(pod.address())).await;
    std::fs::write(directory.path().join("token"), "expired").unwrap();
    let mut gateway = Fed::start_in(directory, &[&strict.address], csr).await;
    gateway.metric_until("xds_certificate_requests_total{result=\"failed\"}", |count| count >= 2.0).await;
    gateway.metric_until("xds_saved_state", |value| value == 0.0).await;
    assert_eq!(strict.seen().certificates, [true]);
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
    assert!(gateway.metric("xds_certificate_expiry_timestamp_seconds").await > 1e9);
    let Fed { app, directory } = gateway;
    app.stop().await;

    // One that is damaged is not shown to anybody.
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() / 2;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let gateway = Fed::start_in(directory, &[&strict.address], csr).await;
    gateway.metric_until("xds_state_set_aside_total{reason=\"damaged\"}", |count| count == 1.0).await;
    gateway.until("/stats/prometheus", |text| text.contains("eastgate_xds_reconnects_total{")).await;
    assert_eq!(strict.seen().streams, 1);
    let named = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let names: Vec<String> = std::fs::read_dir(file.parent().unwrap()).unwrap().map(named).collect();
    assert!(names.iter().any(|name| name.starts_with("xds-certificate.damaged-")), "{names:?}");
}
