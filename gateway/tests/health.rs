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
    let mut all = pods(&ca, 3).await;
    let gateway = Gateway::start(&watched_mesh(&addresses(&all), json!({ "baseEjectionTime": "3s" }))).await;
    // What is open when a pod is killed dies with it; what begins later is the gateway's business.
    let killed = all.remove(0);
    let address = killed.address();
    killed.stop().await;
    let load = Load::start(&ca, gateway.address, &CLIENTS);
    let why = until_out(&gateway, address, true).await;
    assert!(why.contains("too many connections in a row failed"), "{why}");
    let (still_out, attempts) = while_out(&gateway, address, &load).await;
    let pod = restored(&ca, address, "restored").await;
    until_out(&gateway, address, false).await;
    let used = async {
        while pod.counters().handshakes.load(Relaxed) == 0 {
            load.until_more(1).await;
        }
    };
    tokio::time::timeout(PATIENCE, used).await.expect("it is used again");
    let done = load.finish().await;
    done.assert_no_failure();
    println!(
        "killed: {} connections, 0 failed; ejected {} time(s); {attempts} attempts while it was out (still out: {still_out}); \
         used again after it was restored",
        done.answered,
        metric(&gateway, "eastgate_outlier_detection_ejections_enforced_total").await,
    );
}

/// Has two hundred connections made while an endpoint is out; how many attempts at it there were, and whether it was out all
/// the time: the machine may be so slow that its time was over, and then nothing is shown.
async fn while_out(gateway: &Gateway, address: SocketAddr, load: &Load) -> (bool, u64) {
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
    let ejections = metric(gateway, "eastgate_outlier_detection_ejections_enforced_total").await;
    load.until_more(200).await;
    let after = endpoint(gateway, address).await;
    let ejections_after = metric(gateway, "eastgate_outlier_detection_ejections_enforced_total").await;
    let still_out = before["out"] != json!([]) && after["out"] != json!([]) && ejections == ejections_after;
    let attempts = |endpoint: &Value| {
        ["connected", "refused", "timed_out"]
            .iter()
            .map(|count| endpoint[count].as_u64().unwrap())
            .sum::<u64>()
    };
    let attempts = attempts(&after) - attempts(&before);
    assert!(!still_out || attempts == 0, "{attempts} attempts at an ejected endpoint");
    (still_out, attempts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ten_percent_none_of_three_is_ejected_and_no_client_sees_the_dead_one_either() {
    let ca = Ca::new().unwrap();
    let mut all = pods(&ca, 3).await;
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
    let mute = RawOrigin::Silence.start(([127, 0, 0, 1], 0).into()).await.unwrap();
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
    let able = Command::new("unshare").args(["-n", "nft", "list", "ruleset"]).output();
    if !able.as_ref().is_ok_and(|output| output.status.success()) {
        let why = "not run: black holes want root (unshare -n) and nftables";
        assert_ne!(std::env::var("E2E").as_deref(), Ok("required"), "{why}");
        eprintln!("{why}");
        return;
    }
    let mut inside = Command::new("unshare");
    inside.arg("-n").arg(std::env::current_exe().unwrap()).args([
        name,
        "--exact",
        "--ignored",
        "--nocapture",
    ]);
    let output = inside.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said.lines().filter(|line| line.starts_with("black hole")).for_each(|line| println!("{line}"));
}

#[test]
fn a_black_hole_is_ejected_and_gets_no_packet_until_its_time_is_over() {
    inside("black_hole");
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
#[ignore = "drops packets; a_black_hole_is_ejected_and_gets_no_packet_until_its_time_is_over runs it in its own namespace"]
async fn black_hole() {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let ca = Ca::new().unwrap();
    let mut pods = pods(&ca, 2).await;
    let address: SocketAddr = "127.0.0.9:8443".parse().unwrap();
    pods.push(restored(&ca, address, "behind-the-hole").await);
    let gateway = Gateway::start(&watched_mesh(&addresses(&pods), json!({ "baseEjectionTime": "4s" }))).await;
    let load = Load::start(&ca, gateway.address, &CLIENTS);
    load.until_more(100).await;
    // New connections alone: what is open when a hole opens is lost, whoever carries it.
    nft("table ip hole {
        counter swallowed { }
        chain in {
            type filter hook input priority 0;
            ip daddr 127.0.0.9 tcp flags & (syn|ack) == syn counter name swallowed drop;
        }
    }
");
    let why = until_out(&gateway, address, true).await;
    assert!(why.contains("too many connections in a row failed"), "{why}");
    let before = swallowed();
    let (still_out, attempts) = while_out(&gateway, address, &load).await;
    let packets = swallowed();
    nft("delete table ip hole");
    until_out(&gateway, address, false).await;
    let connected = |value: &Value| value["connected"].as_u64().unwrap();
    let back = connected(&endpoint(&gateway, address).await);
    gateway
        .admin_until("/clusters?format=json", |text| {
            connected(&find(&serde_json::from_str(text).unwrap(), address)) > back
        })
        .await;
    let done = load.finish().await;
    done.assert_no_failure();
    println!(
        "black hole: {} connections, 0 failed; {before} SYNs swallowed until it was ejected, {packets} in all; \
         {attempts} attempts while it was out (still out: {still_out}); used again after it was filled",
        done.answered
    );
}
