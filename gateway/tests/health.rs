//! The health of endpoints: killed, black-holed, mute and restored ones under load. No client ever sees a failure while
//! a healthy endpoint is left, and an endpoint that is out gets no connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/load.rs"]
mod load;
mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;

use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{Options, Origin, RawOrigin};
use load::Load;
use serde_json::{Value, json};
use support::*;

const CLIENTS: [&str; 4] = [GLOBAL; 4];

/// The usual mesh with outlier detection that ejects after three failures and for a second.
fn watched_mesh(addresses: &[SocketAddr], more: Value) -> Vec<(&'static str, Value)> {
    let mut outliers = json!({
        "consecutive5xxErrors": 3, "interval": "1s", "baseEjectionTime": "1s", "maxEjectionPercent": 50,
    });
    outliers.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let policy = policy(json!({
        "loadBalancer": { "simple": "ROUND_ROBIN" },
        "connectionPool": { "tcp": { "connectTimeout": "200ms" } },
        "outlierDetection": outliers,
    }));
    let mut mesh = mesh(addresses);
    mesh.retain(|(name, _)| *name != "policy.json");
    mesh.push(("policy.json", policy));
    mesh
}

/// What `/clusters` says of an endpoint.
async fn endpoint(gateway: &Gateway, address: SocketAddr) -> Value {
    find(&gateway.admin_json("/clusters?format=json").await, address)
}

fn find(clusters: &Value, address: SocketAddr) -> Value {
    let clusters = clusters["clusters"].as_array().unwrap();
    let mut endpoints = clusters.iter().flat_map(|cluster| cluster["endpoints"].as_array().unwrap());
    endpoints.find(|endpoint| endpoint["address"] == address.to_string()).unwrap().clone()
}

/// Waits until an endpoint is out, or in again, and gives why.
async fn until_out(gateway: &Gateway, address: SocketAddr, out: bool) -> String {
    let is_out = |text: &str| find(&serde_json::from_str(text).unwrap(), address)["out"] != json!([]);
    gateway.admin_until("/clusters?format=json", |text| is_out(text) == out).await;
    endpoint(gateway, address).await["out"].to_string()
}

async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let (_, text) = gateway.admin("/stats/prometheus").await;
    let values =
        text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().unwrap() as u64).sum()
}

async fn until_checked(gateway: &Gateway, count: u64) {
    let checked = async {
        while metric(gateway, "eastgate_health_check_success_total").await < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, checked).await.expect("checks pass");
}

async fn restored(ca: &Ca, address: SocketAddr, name: &str) -> Origin {
    let mut options = Options::new(name, ca.issue(&[SPIFFE]).unwrap());
    options.address = address;
    Origin::start(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_endpoint_is_ejected_gets_no_connection_and_comes_back_and_no_client_sees_it() {
    let ca = Ca::new().unwrap();
    let mut all = pods_apart(&ca, 3).await;
    let gateway = Gateway::start(&watched_mesh(&addresses(&all), json!({}))).await;
    let load = Load::start(&ca, gateway.address, &CLIENTS);
    load.until_more(100).await;
    // What it has answered already ends well: that would be lost whoever carried it, and is not what is shown here.
    let killed = all.remove(0);
    let address = killed.address();
    killed.retire().await;
    let why = until_out(&gateway, address, true).await;
    assert!(why.contains("too many connections in a row failed"), "{why}");
    // An explanation says so, too, and when it comes back.
    let explained =
        |text: &str| text.contains("takes none: ejected for another") && text.contains("in a row failed");
    gateway.admin_until(&format!("/explain?sni={GLOBAL}&alpn=istio"), explained).await;
    let meanwhile = while_out(&gateway, address, &load, || 0).await;
    let pod = restored(&ca, address, "restored").await;
    until_used(&gateway, &pod, &load).await;
    let done = load.finish().await;
    done.assert_no_failure();
    println!(
        "killed under load: {} connections, 0 failed; ejected {} time(s); {meanwhile} connections while it was out, 0 attempts \
         at it; used again after it was restored",
        done.answered,
        metric(&gateway, "eastgate_outlier_detection_ejections_enforced_total").await,
    );
}

/// Waits until a pod that has come back is in, and has had a connection.
async fn until_used(gateway: &Gateway, pod: &Origin, load: &Load) {
    until_out(gateway, pod.address(), false).await;
    let used = async {
        while pod.counters().handshakes.load(Relaxed) == 0 {
            load.until_more(1).await;
        }
    };
    tokio::time::timeout(PATIENCE, used).await.expect("it is used again");
}

/// Has connections made while an endpoint is out, and sees that there is no attempt at it and that it gets no packet. Gives how many.
/// The machine may be so slow that the endpoint's time is over meanwhile. Then nothing is shown, and it is looked at again
/// when it is out again, for a longer time.
async fn while_out(gateway: &Gateway, address: SocketAddr, load: &Load, packets: impl Fn() -> u64) -> usize {
    const CONNECTIONS: usize = 200;
    let ejections = || metric(gateway, "eastgate_outlier_detection_ejections_enforced_total");
    let attempts = |endpoint: &Value| {
        let counts = ["connected", "refused", "timed_out"];
        counts.iter().map(|count| endpoint[count].as_u64().unwrap()).sum::<u64>()
    };
    for _ in 0..20 {
        until_out(gateway, address, true).await;
        let settled = async {
            loop {
                let endpoint = endpoint(gateway, address).await;
                if endpoint["active"] == json!(0) {
                    return endpoint;
                }
                tokio::task::yield_now().await;
            }
        };
        let before = tokio::time::timeout(PATIENCE, settled).await.expect("attempts that were under way end");
        let (ejections_before, packets_before) = (ejections().await, packets());
        load.until_more(CONNECTIONS).await;
        let (packets_after, after) = (packets(), endpoint(gateway, address).await);
        let out = |endpoint: &Value| endpoint["out"] != json!([]);
        if out(&before) && out(&after) && ejections().await == ejections_before {
            assert_eq!(attempts(&after), attempts(&before), "attempts at an ejected endpoint");
            assert_eq!(packets_after, packets_before, "packets to an ejected endpoint");
            return CONNECTIONS;
        }
    }
    panic!("{address} was never out for {CONNECTIONS} connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ten_percent_none_of_three_is_ejected_and_no_client_sees_the_dead_one_either() {
    let ca = Ca::new().unwrap();
    let mut all = pods_apart(&ca, 3).await;
    let gateway = Gateway::start(&watched_mesh(&addresses(&all), json!({ "maxEjectionPercent": 10 }))).await;
    let dead = all.remove(0);
    let address = dead.address();
    dead.stop().await;
    let load = Load::start(&ca, gateway.address, &CLIENTS);
    load.until_more(200).await;
    load.finish().await.assert_no_failure();
    assert_eq!(endpoint(&gateway, address).await["out"], json!([]));
    assert!(metric(&gateway, "eastgate_outlier_detection_ejections_overflow_total").await > 0);
}

fn checked(check: &'static str) -> impl FnOnce(Layers) -> Layers {
    move |layers| {
        layers
            .flag("health.check", Some(check))
            .flag("health.interval", Some("50ms"))
            .flag("health.jitter", Some("10ms"))
            .flag("health.timeout", Some("500ms"))
            .flag("health.unhealthy_threshold", Some(2))
    }
}

/// It takes TCP connections and answers no ClientHello: TCP checks and Envoy's outlier detection find nothing wrong with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mute_endpoint_fails_the_tls_check_and_passes_the_tcp_check() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 2).await;
    let mute = RawOrigin::Silence.start((address_apart(), 0).into()).await.unwrap();
    let all: Vec<_> = addresses(&pods).into_iter().chain([mute.address()]).collect();
    let by_tcp = Gateway::start_with(&mesh(&all), checked("tcp")).await;
    let by_tls = Gateway::start_with(&mesh(&all), checked("tls")).await;
    let why = until_out(&by_tls, mute.address(), true).await;
    assert!(why.contains("its health check fails: it did not answer within"), "{why}");
    let load = Load::start(&ca, by_tls.address, &CLIENTS);
    load.until_more(200).await;
    load.finish().await.assert_no_failure();
    assert_eq!(endpoint(&by_tls, mute.address()).await["connected"], 0);
    until_checked(&by_tcp, 10).await;
    assert_eq!(endpoint(&by_tcp, mute.address()).await["out"], json!([]));

    let address = mute.address();
    mute.stop().await;
    let _pod = restored(&ca, address, "restored").await;
    until_out(&by_tls, address, false).await;
}

#[tokio::test]
async fn clusters_that_ask_the_same_of_an_endpoint_share_one_prober() {
    let endpoint = RawOrigin::Silence.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let mut documents = mesh(&[endpoint.address()]);
    documents.push(("other.json", named_service("other")));
    documents.push(("others.json", named_slices("other", &[endpoint.address()], "istio")));
    let gateway = Gateway::start_with(&documents, checked("tcp")).await;
    until_checked(&gateway, 20).await;
    let counted = metric(&gateway, "eastgate_health_check_attempt_total").await;
    let connections = endpoint.counters().connections.load(Relaxed);
    println!("shared: {counted} checks counted by two clusters, {connections} connections");
    assert!(connections * 2 <= counted + 4, "{connections} connections for {counted} checks");
}

/// Runs a test of this file in a network namespace of its own, which may drop what it likes.
fn inside(name: &str) {
    let Some(said) = in_own_network("a black hole", name) else { return };
    said.lines().filter(|line| line.starts_with("storm")).for_each(|line| println!("{line}"));
}

#[test]
fn endpoints_that_are_killed_and_black_holed_in_turn_get_no_packet_while_out_and_no_client_sees_it() {
    inside("storm");
}

fn nft(rules: &str) -> String {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{rules}");
    String::from_utf8(output.stdout).unwrap()
}

/// How many connection attempts the hole has swallowed.
fn swallowed() -> u64 {
    let listed = nft("list counter ip hole swallowed");
    let packets = listed.split("packets ").nth(1).unwrap();
    packets.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "drops packets; endpoints_that_are_killed_and_black_holed_... runs it in a network namespace of its own"]
async fn storm() {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let ca = Ca::new().unwrap();
    let mut pods = Vec::new();
    for last in 11..14 {
        pods.push(restored(&ca, SocketAddr::from(([127, 0, 0, last], 8443)), "first").await);
    }
    let gateway = Gateway::start(&watched_mesh(&addresses(&pods), json!({}))).await;
    let load = Load::start(&ca, gateway.address, &CLIENTS);
    let mut meanwhile = 0;
    for place in 0..3 {
        let address = pods[place].address();
        load.until_more(100).await;
        // New connections alone: what is open when a hole opens is lost, whoever carries it.
        nft(&format!(
            "table ip hole {{
                counter swallowed {{ }}
                chain in {{
                    type filter hook input priority 0;
                    ip daddr {} tcp flags & (syn|ack) == syn counter name swallowed drop;
                }}
            }}
",
            address.ip()
        ));
        let why = until_out(&gateway, address, true).await;
        assert!(why.contains("too many connections in a row failed"), "{why}");
        let before = swallowed();
        meanwhile += while_out(&gateway, address, &load, swallowed).await;
        let packets = swallowed();
        nft("delete table ip hole");
        until_out(&gateway, address, false).await;
        let connected = |value: &Value| value["connected"].as_u64().unwrap();
        let back = connected(&endpoint(&gateway, address).await);
        let is_used = |text: &str| connected(&find(&serde_json::from_str(text).unwrap(), address)) > back;
        gateway.admin_until("/clusters?format=json", is_used).await;
        println!(
            "storm: {address} black-holed: {before} SYNs swallowed until it was ejected, {packets} until it was filled"
        );

        pods.remove(place).retire().await;
        until_out(&gateway, address, true).await;
        meanwhile += while_out(&gateway, address, &load, || 0).await;
        pods.insert(place, restored(&ca, address, "restored").await);
        until_used(&gateway, &pods[place], &load).await;
    }
    let done = load.finish().await;
    done.assert_no_failure();
    println!(
        "storm: 3 endpoints black-holed, killed and restored in turn under load: {} connections, 0 failed; ejected {} times; \
         {meanwhile} connections while one was out, 0 attempts at it and 0 packets to it",
        done.answered,
        metric(&gateway, "eastgate_outlier_detection_ejections_enforced_total").await,
    );
}
