//! A control plane as the source: both variants, every way to reach it, and everything that can go wrong with it.
//! The control plane is real gRPC (`support/plane.rs`); the gateway is the app that `eastgate run` starts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/plane.rs"]
mod plane;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use eastgate::app::App;
use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{Origin, RawOrigin};
use plane::Plane;
use resources::Resources;
use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

const NAME: &str = "outbound_.8000_._.httpbin.bar.svc.cluster.local";

/// A gateway that is fed by control planes, and its directory.
struct Fed {
    app: App,
    directory: tempfile::TempDir,
}

fn layers(directory: &Path, planes: &[&str]) -> Layers {
    Layers::new()
        .flag("xds.addresses", Some(json!(planes)))
        .flag("xds.token_path", Some(directory.join("token").display().to_string()))
        .flag("xds.root_paths", Some(json!([directory.join("none.pem"), directory.join("root.pem")])))
        .flag("xds.coalesce", Some("10ms"))
        .flag("admin.address", Some("127.0.0.1:0"))
        .flag("admin.readiness_address", Some(""))
        .flag("access_log.path", Some(""))
        .flag("drain.timeout", Some("1s"))
        .flag("threads", Some(1))
}

impl Fed {
    async fn start(planes: &[&str], more: impl FnOnce(Layers, &Path) -> Layers) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), planes, more).await
    }

    async fn start_in(
        directory: tempfile::TempDir,
        planes: &[&str],
        more: impl FnOnce(Layers, &Path) -> Layers,
    ) -> Self {
        let settings = more(layers(directory.path(), planes), directory.path()).settings().unwrap();
        let app = App::start(settings).await.unwrap();
        Self { app, directory }
    }

    /// Waits until it is ready, and gives where its listener is bound.
    async fn ready(&mut self) -> SocketAddr {
        let bound = tokio::time::timeout(PATIENCE, self.app.ready()).await.expect("ready in time").unwrap();
        *bound.values().next().expect("a listener")
    }

    async fn admin(&self, path: &str) -> (u16, String) {
        http_get(self.app.admin_address(), path).await
    }

    async fn until(&self, path: &str, wanted: impl Fn(&str) -> bool) -> String {
        let waiting = async {
            loop {
                let (_, text) = self.admin(path).await;
                if wanted(&text) {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| panic!("{path} never became as wanted"))
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/stats/prometheus").await.1;
        value(&text, name)
    }

    async fn metric_until(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        self.until("/stats/prometheus", |text| wanted(value(text, name))).await;
    }
}

/// The value of a metric with its labels; 0 where it is not there.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("eastgate_{name} ")));
    line.map_or(0.0, |value| value.parse().unwrap())
}

async fn pod(ca: &Ca) -> Origin {
    pods(ca, 1).await.remove(0)
}

async fn served(ca: &Ca, gateway: SocketAddr) -> Option<String> {
    let response = mesh_client(ca).get(gateway, NAME, "/hostname").await.ok()?;
    response.pod().map(str::to_owned)
}

fn world(address: SocketAddr) -> Resources {
    Resources::serving(&[(NAME, &[address])])
}

/// An address where nobody is.
async fn nowhere() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn both_ways(variant: &str) {
    let ca = Ca::new().unwrap();
    let all = pods(&ca, 2).await;
    let plane = Plane::start(world(all[0].address())).await;
    let mut gateway =
        Fed::start(&[&plane.address], |layers, _| layers.flag("xds.variant", Some(variant))).await;
    let address = gateway.ready().await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));

    plane.change(|world| world.resources.set(&[(NAME, &[all[1].address()])]));
    let wanted = all[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));

    plane.change(|world| world.resources = Resources::serving(&[]));
    gateway.until("/config_dump", |text| !text.contains("httpbin")).await;
    assert_eq!(served(&ca, address).await, None);

    let seen = plane.seen();
    assert_eq!((seen.streams, seen.nacks.len(), seen.nodes.len()), (1, 0, 1), "{seen:?}");
    assert!(seen.nodes[0].starts_with("router~") && seen.nodes[0].ends_with(".svc.cluster.local"));
    assert_eq!(seen.variants.iter().copied().collect::<Vec<_>>(), [variant]);
    assert_eq!(gateway.metric(&format!("xds_connected{{address=\"{}\"}}", plane.address)).await, 1.0);
    assert!(gateway.metric("xds_last_response_timestamp_seconds").await > 1e9);
    assert_eq!(gateway.metric("xds_stale_since_timestamp_seconds").await, 0.0);
}

#[tokio::test]
async fn a_delta_control_plane_is_served_and_its_changes_take_effect() {
    both_ways("delta").await;
}

#[tokio::test]
async fn a_state_of_the_world_control_plane_is_served_and_its_changes_take_effect() {
    both_ways("sotw").await;
}

#[tokio::test]
async fn nothing_is_served_before_the_control_plane_has_spoken() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = Plane::start(world(pod.address())).await;
    plane.change(|world| world.mute = true);
    let mut gateway =
        Fed::start(&[&plane.address], |layers, _| layers.flag("xds.response_timeout", Some("100ms"))).await;
    gateway.metric_until("xds_reconnects_total{reason=\"silent\"}", |count| count >= 2.0).await;
    let (code, text) = gateway.admin("/ready").await;
    assert!(code == 503 && text.contains("the control plane's first clusters and listeners"), "{text}");
    plane.change(|world| world.mute = false);
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
}

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
async fn a_control_plane_that_goes_and_comes_back_cuts_nothing() {
    let ca = Ca::new().unwrap();
    let new = pod(&ca).await;
    let echo = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let plane = Plane::start(world(echo.address())).await;
    let at: SocketAddr = plane.address.trim_start_matches("http://").parse().unwrap();
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    let mut live = TcpStream::connect(address).await.unwrap();
    let hello = client_hello(NAME, &["istio"]);
    echoed(&mut live, &hello).await;

    plane.stop().await;
    gateway.metric_until("xds_reconnects_total{reason=\"connect\"}", |count| count >= 1.0).await;
    assert!(gateway.metric("xds_stale_since_timestamp_seconds").await > 1e9);
    assert_eq!(gateway.admin("/ready").await.0, 200);
    echoed(&mut live, b"still here").await;
    echoed(&mut TcpStream::connect(address).await.unwrap(), &hello).await;

    let plane = Plane::start_at(at, world(new.address())).await;
    let wanted = new.address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert!(served(&ca, address).await.is_some());
    echoed(&mut live, b"and here").await;
    // The half-hourly end of a stream is nothing that anybody would notice.
    plane.cut();
    plane.until(|seen| seen.streams == 2 && seen.open == 1).await;
    echoed(&mut live, b"and now").await;
    assert!(gateway.metric("xds_reconnects_total{reason=\"closed\"}").await >= 1.0);
}

async fn echoed(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut echoed = vec![0; bytes.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, bytes);
}

#[tokio::test]
async fn a_control_plane_with_too_much_to_do_is_left_alone_for_longer_and_longer() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = Plane::start(world(pod.address())).await;
    plane.change(|world| world.refuse = Some(Code::ResourceExhausted));
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let began = Instant::now();
    plane.until(|seen| seen.streams >= 4).await;
    println!("4 attempts in {:?}", began.elapsed());
    assert!(gateway.metric("xds_reconnects_total{reason=\"resource_exhausted\"}").await >= 3.0);
    plane.change(|world| world.refuse = None);
    gateway.ready().await;
    // With a loop that does not wait there would have been thousands.
    assert!(plane.seen().streams < 20, "{:?}", plane.seen());
}

#[tokio::test]
async fn control_planes_are_tried_in_order_and_the_first_gets_its_turn_again() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let first = nowhere().await;
    let second = Plane::start(world(pod.address())).await;
    let planes = [&*format!("http://{first}"), &*second.address];
    let mut gateway = Fed::start(&planes, |layers, _| layers).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
    let first = Plane::start_at(first, world(pod.address())).await;
    second.cut();
    first.until(|seen| seen.open == 1).await;
    second.until(|seen| seen.open == 0).await;
    assert_eq!(second.seen().streams, 1);
}

#[tokio::test]
async fn a_push_of_many_megabytes_is_taken() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let mut resources = world(pod.address());
    resources.clusters.insert(NAME.into(), resources::padded_cluster(NAME, 9 << 20));
    let plane = Plane::start(resources).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());

    let strict =
        Fed::start(&[&plane.address], |layers, _| layers.flag("xds.max_message_bytes", Some(1 << 20))).await;
    strict.metric_until("xds_oversized_total", |count| count >= 1.0).await;
    assert_eq!(strict.admin("/ready").await.0, 503);
}

#[tokio::test]
async fn a_restart_without_the_control_plane_serves_what_was_known() {
    let ca = Ca::new().unwrap();
    let all = pods(&ca, 2).await;
    let plane = Plane::start(world(all[0].address())).await;
    let at: SocketAddr = plane.address.trim_start_matches("http://").parse().unwrap();
    let stateful = |layers: Layers, directory: &Path| {
        layers.flag("xds.state_dir", Some(directory.join("state").display().to_string()))
    };
    let planes = [plane.address.clone()];
    let planes = [&*planes[0]];
    let mut gateway = Fed::start(&planes, stateful).await;
    gateway.ready().await;
    gateway.metric_until("xds_state_writes_total{result=\"ok\"}", |count| count >= 1.0).await;
    let Fed { app, directory } = gateway;
    app.stop().await;
    plane.stop().await;

    let began = Instant::now();
    let mut gateway = Fed::start_in(directory, &planes, stateful).await;
    let address = gateway.ready().await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));
    println!("served from disk after {:?}", began.elapsed());
    let (_, verbose) = gateway.admin("/ready?verbose").await;
    assert!(verbose.contains("serving saved configuration") && verbose.contains("s old"), "{verbose}");
    assert_eq!(gateway.metric("xds_saved_state").await, 1.0);
    assert!(gateway.app.xds().unwrap().view().await.unwrap().saved_state);

    let plane = Plane::start_at(at, world(all[1].address())).await;
    gateway.metric_until("xds_saved_state", |value| value == 0.0).await;
    let wanted = all[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(gateway.admin("/ready?verbose").await.1, "LIVE\n");
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));
    drop(plane);
}

#[tokio::test]
async fn damaged_state_is_set_aside_and_the_control_plane_is_waited_for() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("xds-state"), b"eastgate-xds-state\n{\"format\":1").unwrap();
    let plane = nowhere().await;
    let stateful = |layers: Layers, directory: &Path| {
        layers.flag("xds.state_dir", Some(directory.display().to_string()))
    };
    let mut gateway = Fed::start_in(directory, &[&format!("http://{plane}")], stateful).await;
    gateway.metric_until("xds_state_set_aside_total{reason=\"damaged\"}", |count| count == 1.0).await;
    assert_eq!(gateway.admin("/ready").await.0, 503);
    let names: Vec<_> = std::fs::read_dir(gateway.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(names.len() == 1 && names[0].to_string_lossy().starts_with("xds-state.damaged-"), "{names:?}");
    let _plane = Plane::start_at(plane, world(pod.address())).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
}

#[tokio::test]
async fn many_changes_become_few_tables() {
    let ca = Ca::new().unwrap();
    let all = pods(&ca, 2).await;
    let plane = Plane::start(world(all[0].address())).await;
    let mut gateway =
        Fed::start(&[&plane.address], |layers, _| layers.flag("xds.coalesce", Some("1s"))).await;
    gateway.ready().await;
    let before = gateway.metric("tables_published_total").await;
    let pushes = "xds_pushes_total{type=\"endpoints\"}";
    let pushed = gateway.metric(pushes).await;
    for round in 1..=20 {
        let pod = &all[round % 2];
        plane.change(|world| world.resources.set(&[(NAME, &[pod.address()])]));
        gateway.metric_until(pushes, |count| count >= pushed + round as f64).await;
    }
    plane.change(|world| world.resources.set(&[(NAME, &[all[1].address()])]));
    let wanted = all[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    let tables = gateway.metric("tables_published_total").await - before;
    assert!((1.0..=5.0).contains(&tables), "{tables} tables of 21 changes");
}

#[tokio::test]
async fn a_refused_resource_is_answered_counted_and_told() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let mut resources = world(pod.address());
    let mut bad = resources::eds_cluster("bad");
    bad.value = vec![0xff; 5];
    resources.clusters.insert("bad".into(), bad);
    let plane = Plane::start(resources).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
    let seen = plane.until(|seen| !seen.nacks.is_empty()).await;
    assert!(seen.nacks[0].contains("bad"), "{seen:?}");
    assert_eq!(gateway.metric("xds_nacks_total{type=\"cluster\"}").await, 1.0);
    gateway.until("/rejections", |text| text.contains("bad")).await;
    let view = gateway.app.xds().unwrap().view().await.unwrap();
    assert!(
        view.settled && view.link.answered && view.journal.iter().any(|push| !push.rejections.is_empty())
    );
    assert_eq!(view.link.address.as_deref(), Some(&*plane.address));
}

#[tokio::test]
async fn what_the_guard_keeps_is_let_go_when_told() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let names: Vec<_> = (0..10).map(|index| format!("s{index}.bar.svc.cluster.local")).collect();
    let addresses = [pod.address()];
    let services: Vec<_> = names.iter().map(|name| (name.as_str(), &addresses[..])).collect();
    let plane = Plane::start(Resources::serving(&services)).await;
    let holding = |layers: Layers, _: &Path| {
        layers.flag("xds.guard.action", Some("hold")).flag("xds.guard.hold_for", Some("1h"))
    };
    let mut gateway = Fed::start(&[&plane.address], holding).await;
    gateway.ready().await;
    let clusters = gateway.metric("clusters").await;
    plane.change(|world| world.resources.clusters.clear());
    gateway.metric_until("xds_keeping_back", |value| value == 1.0).await;
    assert_eq!(gateway.metric("clusters").await, clusters);
    assert!(gateway.metric("xds_alarms_total").await >= 1.0);
    let handle = gateway.app.xds().unwrap();
    assert_eq!(handle.release().await, Some(true));
    gateway.metric_until("xds_keeping_back", |value| value == 0.0).await;
    assert_eq!(handle.release().await, Some(false));
    assert!(handle.accepted().await.unwrap().iter().any(|saved| !saved.resources.is_empty()));
}

#[tokio::test]
async fn the_stream_ends_with_the_gateway() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = Plane::start(world(pod.address())).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    gateway.ready().await;
    plane.until(|seen| seen.open == 1).await;
    let handle = gateway.app.xds().unwrap().clone();
    gateway.app.stop().await;
    plane.until(|seen| seen.open == 0).await;
    assert_eq!(handle.view().await, None);
    assert_eq!(plane.seen().streams, 1);
}

/// Signs requests as istiod does: the leaf, then the root.
fn signing_ca() -> (String, impl Fn(String) -> Vec<String> + Send + Sync) {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let pem = root.clone();
    let sign = move |csr: String| {
        let mut request = CertificateSigningRequestParams::from_pem(&csr).unwrap();
        // A life so short that it is renewed in the course of the test.
        let now = std::time::SystemTime::now();
        request.params.not_before = now.into();
        request.params.not_after = (now + Duration::from_secs(4)).into();
        vec![request.signed_by(&issuer).unwrap().pem(), pem.clone()]
    };
    (root, sign)
}

#[tokio::test]
async fn the_meshs_ca_issues_a_certificate_and_renews_it() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let (root, sign) = signing_ca();
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
async fn a_file_of_resources_is_served_and_watched() {
    use eastgate_proto::Message;
    use eastgate_proto::envoy::service::discovery::v3::DiscoveryResponse;
    let ca = Ca::new().unwrap();
    let all = pods(&ca, 2).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resources.binpb");
    let write = |resources: Resources| {
        let response = DiscoveryResponse { resources: resources.all(), ..Default::default() };
        let new = path.with_extension("new");
        std::fs::write(&new, response.encode_to_vec()).unwrap();
        std::fs::rename(new, &path).unwrap();
    };
    write(world(all[0].address()));
    let file = |layers: Layers, directory: &Path| {
        layers.flag("source.xds_file", Some(directory.join("resources.binpb").display().to_string()))
    };
    let mut gateway = Fed::start_in(directory, &[], file).await;
    let address = gateway.ready().await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));
    write(world(all[1].address()));
    let wanted = all[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));
    write(Resources::serving(&[]));
    gateway.until("/config_dump", |text| !text.contains("httpbin")).await;
}
