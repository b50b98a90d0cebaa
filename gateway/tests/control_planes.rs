//! `eastgate run --xds` on go-control-plane (`control-plane/`), a control plane that others have written: both variants.
//! Where Go is absent one line says that nothing was run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/load.rs"]
mod load;
#[path = "support/program.rs"]
mod program;
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{Origin, RawOrigin};
use load::{Live, Load};
use program::{Driven, Eastgate, built};
use serde_json::{Value, json};
use support::*;

const FIRST: &str = "outbound_.8000_._.httpbin.bar.svc.cluster.local";
const SECOND: &str = "outbound_.8000_._.reviews.bar.svc.cluster.local";
const ECHO: &str = "outbound_.7_._.echo.bar.svc.cluster.local";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

fn cluster(name: &str, connect_timeout: &str) -> Value {
    json!({
        "name": name, "type": "EDS", "connect_timeout": connect_timeout, "lb_policy": "ROUND_ROBIN",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
    })
}

fn assignment(name: &str, addresses: &[SocketAddr]) -> Value {
    let endpoint = |address: &SocketAddr| {
        let socket = json!({ "address": address.ip(), "port_value": address.port() });
        json!({ "endpoint": { "address": { "socket_address": socket } } })
    };
    let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] })
}

fn chain(name: &str) -> Value {
    json!({
        "name": name,
        "filter_chain_match": { "server_names": [name] },
        "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": { "@type": TCP_PROXY, "stat_prefix": name, "cluster": name },
        }],
    })
}

/// A chain that only Envoy could serve: it ends TLS.
fn bad_chain(name: &str) -> Value {
    let mut chain = chain(name);
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    chain["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls", "typed_config": { "@type": tls, "common_tls_context": {} },
    });
    chain
}

fn listener(chains: &[Value]) -> Value {
    json!({
        "name": "east",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "listener_filters": [{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            },
        }],
        "filter_chains": chains,
    })
}

/// Each service with its endpoints.
fn world(services: &[(&str, &[SocketAddr])]) -> Value {
    let names = services.iter().map(|(name, _)| *name);
    json!({ "resources": {
        "clusters": names.clone().map(|name| cluster(name, "5s")).collect::<Vec<_>>(),
        "endpoints": services.iter().map(|(name, at)| assignment(name, at)).collect::<Vec<_>>(),
        "listeners": [listener(&names.map(chain).collect::<Vec<_>>())],
    } })
}

/// A control plane with its gateway and two pods.
struct Scene {
    ca: Ca,
    pods: Vec<Origin>,
    plane: Driven,
    gateway: Eastgate,
    address: SocketAddr,
    variant: &'static str,
}

impl Scene {
    /// `None`, and said, where there is no Go. The first pod is FIRST, the second SECOND.
    async fn start(variant: &'static str, cache: &[&str]) -> Option<Self> {
        let program = built("control-plane").await?;
        let ca = Ca::new().unwrap();
        let pods = pods(&ca, 2).await;
        let plane = Driven::start(&program, cache).await;
        let addresses = addresses(&pods);
        let services = world(&[(FIRST, &addresses[..1]), (SECOND, &addresses[1..])]);
        plane.send("PUT", "/snapshot", Some(&services)).await;
        let gateway = start_gateway(&plane, variant, &[]).await;
        let address = gateway.listening("east").await;
        Some(Self { ca, pods, plane, gateway, address, variant })
    }

    /// Which pod answers to this name.
    async fn pod(&self, name: &str) -> Option<String> {
        pod(&self.ca, self.address, name).await
    }

    fn at(&self, pod: usize) -> SocketAddr {
        self.pods[pod].address()
    }

    /// Changes what the control plane serves, and gives the client's answer about this type.
    async fn change(&self, change: &Value, kind: &str) -> Value {
        let after = self.plane.get("/responses").await.as_array().unwrap().last().unwrap()["seq"].clone();
        self.plane.post("/mutate", Some(change)).await;
        let sent = self.plane.get(&format!("/responses?type={kind}&after={after}&wait=20s")).await;
        let nonce = sent[0]["nonce"].as_str().unwrap_or_else(|| panic!("{change} is not sent"));
        let path = format!("/requests?type={kind}&after={after}&nonce={nonce}&wait=20s");
        let answer = self.plane.get(&path).await[0].take();
        assert_eq!(answer["variant"], self.variant, "no answer to {change}");
        answer
    }

    async fn nacks(&self) -> Value {
        self.plane.get("/requests?kind=nack").await
    }
}

async fn start_gateway(plane: &Driven, variant: &str, settings: &[(&str, String)]) -> Eastgate {
    let xds = format!("http://{}", plane.text("xds"));
    let mut all = vec![("EASTGATE_XDS_VARIANT", variant.to_owned())];
    all.extend_from_slice(settings);
    Eastgate::start(&["--xds", &xds], &all).await
}

async fn pod(ca: &Ca, address: SocketAddr, name: &str) -> Option<String> {
    let response = mesh_client(ca).get(address, name, "/hostname").await.ok()?;
    response.pod().map(str::to_owned)
}

async fn changes_take_effect(variant: &'static str, cache: &[&str]) {
    let Some(scene) = Scene::start(variant, cache).await else { return };
    assert_eq!(scene.pod(FIRST).await.as_deref(), Some("httpbin-0"));
    assert_eq!(scene.pod(SECOND).await.as_deref(), Some("httpbin-1"));
    assert_eq!(scene.pod("outbound_.8000_._.nobody.bar.svc.cluster.local").await, None);

    let moved = json!({ "resources": { "endpoints": [assignment(FIRST, &[scene.at(1)])] } });
    assert_eq!(scene.change(&moved, "endpoints").await["kind"], "ack");
    let wanted = format!("{FIRST}::{}::", scene.at(1));
    scene.gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(scene.pod(FIRST).await.as_deref(), Some("httpbin-1"));

    let removed = json!({
        "remove": { "clusters": [SECOND], "endpoints": [SECOND] },
        "resources": { "listeners": [listener(&[chain(FIRST)])] },
    });
    assert_eq!(scene.change(&removed, "clusters").await["kind"], "ack");
    scene.gateway.until("/clusters", |text| !text.contains(SECOND)).await;
    scene.gateway.until("/config_dump", |text| !text.contains(SECOND)).await;
    assert_eq!(scene.pod(SECOND).await, None);
    assert_eq!(scene.pod(FIRST).await.as_deref(), Some("httpbin-1"));
    assert_eq!(scene.nacks().await, json!([]));
    assert_eq!(scene.plane.get("/streams").await["open"], 1);
}

#[tokio::test]
async fn snapshots_by_delta_are_served_and_their_changes_take_effect() {
    changes_take_effect("delta", &[]).await;
}

#[tokio::test]
async fn snapshots_by_state_of_the_world_are_served_and_their_changes_take_effect() {
    changes_take_effect("sotw", &[]).await;
}

#[tokio::test]
async fn linear_caches_by_delta_are_served_and_their_changes_take_effect() {
    changes_take_effect("delta", &["--linear"]).await;
}

#[tokio::test]
async fn linear_caches_by_state_of_the_world_are_served_and_their_changes_take_effect() {
    changes_take_effect("sotw", &["--linear"]).await;
}

async fn a_bad_chain(variant: &'static str) {
    let Some(scene) = Scene::start(variant, &[]).await else { return };
    let third = "outbound_.8000_._.third.bar.svc.cluster.local";
    let chains = [chain(FIRST), bad_chain("bad.example"), chain(SECOND), chain(third)];
    let change = json!({ "resources": {
        "clusters": [cluster(third, "5s")],
        "endpoints": [assignment(third, &[scene.at(0)])],
        "listeners": [listener(&chains)],
    } });
    let answer = scene.change(&change, "listeners").await;
    assert_eq!(answer["kind"], "nack", "{answer}");
    let told = answer["error_detail"].as_str().unwrap();
    assert!(told.contains("east") && told.contains("bad.example"), "{told}");
    assert!(!told.contains("httpbin") && !told.contains("reviews"), "{told}");
    scene.gateway.until("/rejections", |text| text.contains("bad.example")).await;
    scene.gateway.until("/config_dump", |text| text.contains(third)).await;
    for (name, wanted) in [(FIRST, "httpbin-0"), (SECOND, "httpbin-1"), (third, "httpbin-0")] {
        assert_eq!(scene.pod(name).await.as_deref(), Some(wanted), "{name}");
    }
    assert_eq!(scene.pod("bad.example").await, None);

    let mended = json!({ "resources": { "listeners": [listener(&[chain(FIRST), chain(SECOND)])] } });
    // In SotW go-control-plane answers a NACK with the same again, so that there may be more of those before the ACK. In
    // as long as three of them take, an answer at once would make hundreds.
    let listeners = "/requests?type=listeners&kind=nack";
    let mut last = answer["seq"].clone();
    for _ in 0..if variant == "sotw" { 3 } else { 0 } {
        let next = scene.plane.get(&format!("{listeners}&after={last}&wait=20s")).await;
        assert!(next[0].is_object(), "the NACK is never repeated");
        last = next[0]["seq"].clone();
    }
    let load = Load::start(&scene.ca, scene.address, &[FIRST]);
    load.until_more(50).await;
    load.finish().await.assert_no_failure();
    let nacks = scene.plane.get(listeners).await.as_array().unwrap().len();
    println!("{variant}: {nacks} NACKs until it was mended");
    assert!(nacks <= if variant == "sotw" { 10 } else { 1 }, "{nacks} NACKs of one push");
    scene.plane.post("/mutate", Some(&mended)).await;
    let after = &answer["seq"];
    let path = format!("/requests?type=listeners&kind=ack&after={after}&wait=20s");
    assert!(scene.plane.get(&path).await[0].is_object(), "the mended listener is not ACKed");
    scene.gateway.until("/rejections", |text| !text.contains("bad.example")).await;
    assert_eq!(scene.pod(FIRST).await.as_deref(), Some("httpbin-0"));
}

#[tokio::test]
async fn a_bad_chain_among_good_ones_is_named_in_the_nack_by_delta() {
    a_bad_chain("delta").await;
}

#[tokio::test]
async fn a_bad_chain_among_good_ones_is_named_in_the_nack_by_state_of_the_world() {
    a_bad_chain("sotw").await;
}

async fn disconnected_and_refused(variant: &'static str) {
    let Some(scene) = Scene::start(variant, &[]).await else { return };
    let load = Load::start(&scene.ca, scene.address, &[FIRST, SECOND]);
    load.until_more(10).await;
    for how in ["/disconnect", "/disconnect?how=reset"] {
        let last = scene.plane.get("/requests").await.as_array().unwrap().last().unwrap()["seq"].clone();
        scene.plane.post("/refuse?count=3&code=RESOURCE_EXHAUSTED", None).await;
        scene.plane.post(how, None).await;
        let back = scene.plane.get(&format!("/requests?after={last}&type=clusters&kind=open&wait=25s")).await;
        assert_eq!(back[0]["has_node"], true, "{how}: {back}");
        // What it knows already is told, so that it is not sent again.
        match variant {
            "delta" => assert!(back[0]["initial_resource_versions"][FIRST].is_string(), "{back}"),
            _ => assert_eq!(back[0]["version"], "1", "{back}"),
        }
        load.until_more(10).await;
    }
    let refused = scene.gateway.metric("xds_reconnects_total{reason=\"resource_exhausted\"}").await;
    assert_eq!(refused, 6.0);
    assert_eq!(scene.plane.get("/streams").await["refused"], 6);
    let moved = json!({ "resources": { "endpoints": [assignment(FIRST, &[scene.at(1)])] } });
    assert_eq!(scene.change(&moved, "endpoints").await["kind"], "ack");
    load.until_more(10).await;
    load.finish().await.assert_no_failure();
}

#[tokio::test]
async fn a_control_plane_that_disconnects_and_refuses_is_come_back_to_by_delta() {
    disconnected_and_refused("delta").await;
}

#[tokio::test]
async fn a_control_plane_that_disconnects_and_refuses_is_come_back_to_by_state_of_the_world() {
    disconnected_and_refused("sotw").await;
}

async fn fifty_pushes(variant: &'static str) {
    let Some(scene) = Scene::start(variant, &[]).await else { return };
    let echo = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let both = [scene.at(0), scene.at(1)];
    let with_echo = json!({ "resources": {
        "clusters": [cluster(ECHO, "5s")],
        "endpoints": [assignment(ECHO, &[echo.address()])],
        "listeners": [listener(&[chain(FIRST), chain(SECOND), chain(ECHO)])],
    } });
    assert_eq!(scene.change(&with_echo, "listeners").await["kind"], "ack");
    scene.gateway.until("/config_dump", |text| text.contains(ECHO)).await;
    let mut live = Live::open(scene.address, ECHO, 8).await;
    let load = Load::start(&scene.ca, scene.address, &[FIRST, SECOND]);
    load.until_more(10).await;
    for round in 0..50 {
        let extra = format!("extra-{round}.bar");
        let (change, kind) = match round % 5 {
            0 => (json!({ "resources": { "endpoints": [assignment(FIRST, &both)] } }), "endpoints"),
            1 => (json!({ "resources": { "endpoints": [assignment(FIRST, &both[..1])] } }), "endpoints"),
            2 => (
                json!({ "resources": { "clusters": [cluster(FIRST, &format!("{}s", 6 + round))] } }),
                "clusters",
            ),
            3 => {
                let chains = [chain(FIRST), chain(&extra), chain(SECOND), chain(ECHO)];
                (
                    json!({ "resources": {
                        "clusters": [cluster(&extra, "5s")],
                        "endpoints": [assignment(&extra, &both)],
                        "listeners": [listener(&chains)],
                    } }),
                    "listeners",
                )
            }
            // Even the endpoint that the live connections are on goes; they stay.
            _ => (
                json!({ "resources": { "endpoints": [assignment(ECHO, &[both[round / 5 % 2]])] } }),
                "endpoints",
            ),
        };
        assert_eq!(scene.change(&change, kind).await["kind"], "ack", "round {round}");
        load.until_more(1).await;
    }
    let wanted = format!("{ECHO}::{}::", both[1]);
    scene.gateway.until("/clusters", |text| text.contains(&wanted)).await;
    live.echo().await;
    let done = load.finish().await;
    println!(
        "{variant}: 50 pushes, {} connections, {} failures; 8 long ones live",
        done.answered,
        done.failed.len()
    );
    done.assert_no_failure();
    assert_eq!(done.pods, BTreeSet::from(["httpbin-0".into(), "httpbin-1".into()]));
    assert_eq!(scene.nacks().await, json!([]));
}

#[tokio::test]
async fn fifty_pushes_close_and_fail_no_connection_by_delta() {
    fifty_pushes("delta").await;
}

#[tokio::test]
async fn fifty_pushes_close_and_fail_no_connection_by_state_of_the_world() {
    fifty_pushes("sotw").await;
}

async fn killed(variant: &'static str) {
    let Some(program) = built("control-plane").await else { return };
    let ca = Ca::new().unwrap();
    let all = pods(&ca, 2).await;
    let echo = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let plane = Driven::start(&program, &[]).await;
    let services = |first| world(&[(FIRST, first), (ECHO, &[echo.address()])]);
    let addresses = addresses(&all);
    plane.send("PUT", "/snapshot", Some(&services(&addresses[..1]))).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = [("EASTGATE_XDS_STATE_DIR", directory.path().display().to_string())];
    let gateway = start_gateway(&plane, variant, &settings).await;
    let address = gateway.listening("east").await;
    gateway.metric_until("xds_state_writes_total{result=\"ok\"}", |count| count >= 1.0).await;
    let mut live = Live::open(address, ECHO, 8).await;
    let load = Load::start(&ca, address, &[FIRST]);
    load.until_more(10).await;

    let (xds, at) = (plane.text("xds").to_owned(), plane.text("xds").to_owned());
    plane.kill();
    gateway.metric_until("xds_reconnects_total{reason=\"connect\"}", |count| count >= 2.0).await;
    load.until_more(50).await;
    live.echo().await;
    let done = load.finish().await;
    println!(
        "{variant}: control plane killed, {} connections, {} failures",
        done.answered,
        done.failed.len()
    );
    done.assert_no_failure();

    // The gateway starts anew, and the control plane is still down.
    drop(gateway);
    let mut all = settings.to_vec();
    all.push(("EASTGATE_XDS_VARIANT", variant.to_owned()));
    let gateway = Eastgate::start(&["--xds", &format!("http://{xds}")], &all).await;
    let address = gateway.listening("east").await;
    assert_eq!(pod(&ca, address, FIRST).await.as_deref(), Some("httpbin-0"));
    let verbose = gateway.admin("/ready?verbose").await;
    assert!(verbose.contains("serving saved configuration"), "{verbose}");
    assert_eq!(gateway.metric("xds_saved_state").await, 1.0);

    // It comes back with something new under the version that it had: as it was restarted, it counts from 1 again.
    let load = Load::start(&ca, address, &[FIRST]);
    let plane = Driven::start(&program, &["--listen", &at]).await;
    plane.send("PUT", "/snapshot", Some(&services(&addresses[1..]))).await;
    let wanted = format!("{FIRST}::{}::", addresses[1]);
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    gateway.metric_until("xds_saved_state", |value| value == 0.0).await;
    assert_eq!(pod(&ca, address, FIRST).await.as_deref(), Some("httpbin-1"));
    load.finish().await.assert_no_failure();
    assert_eq!(plane.get("/requests?kind=nack").await, json!([]));
}

#[tokio::test]
async fn a_control_plane_killed_under_load_costs_no_connection_and_no_restart_by_delta() {
    killed("delta").await;
}

#[tokio::test]
async fn a_control_plane_killed_under_load_costs_no_connection_and_no_restart_by_state_of_the_world() {
    killed("sotw").await;
}
