//! What metrics tell of connections, as whoever scrapes them reads it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eastgate_loadtest::origin::RawOrigin;
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A Gateway on 15443 for whatever is below `wild.example`, which leads to httpbin.
fn wildcard() -> [(&'static str, Value); 2] {
    let resource = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": kind,
            "metadata": { "name": "wild", "namespace": "bar" },
            "spec": spec,
        })
    };
    let server = json!({
        "hosts": ["*.wild.example"],
        "port": { "name": "tls-wild", "number": 15443, "protocol": "TLS" },
        "tls": { "mode": "PASSTHROUGH" },
    });
    let route = json!({
        "match": [{ "port": 15443, "sniHosts": ["*.wild.example"] }],
        "route": [{ "destination": { "host": "httpbin.bar.svc.cluster.local", "port": { "number": 8000 } } }],
    });
    [
        (
            "wild.json",
            resource("Gateway", json!({ "selector": { "istio": "ingressgateway" }, "servers": [server] })),
        ),
        (
            "wild-route.json",
            resource(
                "VirtualService",
                json!({ "hosts": ["*.wild.example"], "gateways": ["wild"], "tls": [route] }),
            ),
        ),
    ]
}

/// A connection from its beginning to its end, however it ends.
async fn whole(gateway: &Gateway, name: &str) {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&client_hello(name, &["istio"])).await.unwrap();
    // What is not refused is echoed.
    if stream.read_exact(&mut [0; 64]).await.is_ok() {
        stream.shutdown().await.unwrap();
    }
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// The lines of the metrics that begin so.
async fn told(gateway: &Gateway, metric: &str) -> Vec<String> {
    let (_, text) = gateway.admin("/stats/prometheus").await;
    text.lines().filter(|line| line.starts_with(metric)).map(str::to_owned).collect()
}

#[tokio::test]
async fn names_that_a_chain_lists_have_metrics_and_those_that_are_made_up_have_none() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let documents = [mesh(&[pod.address()]), wildcard().to_vec()].concat();
    let gateway =
        Gateway::start_with(&documents, |layers| layers.flag("metrics.server_names", Some(2))).await;
    for _ in 0..60 {
        whole(&gateway, GLOBAL).await;
        whole(&gateway, "busy.wild.example").await;
    }
    for number in 0..100 {
        // No chain has the first of them, and each of the others is as good as any.
        whole(&gateway, &format!("n{number}.nobody.example")).await;
        whole(&gateway, &format!("n{number}.wild.example")).await;
    }
    gateway.records(320).await;
    let metric = "eastgate_server_name_connections_total";
    assert_eq!(
        told(&gateway, metric).await,
        ["busy.wild.example", GLOBAL].map(|name| format!("{metric}{{server_name=\"{name}\"}} 60"))
    );
    let bytes = told(&gateway, "eastgate_server_name_bytes_total").await;
    assert!(bytes.len() == 2 && bytes.iter().all(|line| !line.ends_with(" 0")), "{bytes:?}");
    assert!(told(&gateway, "eastgate_server_name_failures_total").await.is_empty());
    let missed = told(&gateway, "eastgate_server_name_missed{what=\"connections\"}").await;
    assert!(!missed[0].ends_with(" 0"), "there was no room for all: {missed:?}");

    let top = gateway.admin_json("/top?format=json&by=made&limit=2").await;
    let names = top["names"].as_array().unwrap();
    let row = |index: usize| (&names[index]["name"], &names[index]["connected"], &names[index]["active"]);
    assert_eq!(row(0), (&"busy.wild.example".into(), &60.into(), &0.into()), "they are closed: {top}");
    assert_eq!(row(1), (&GLOBAL.into(), &60.into(), &0.into()));
}

#[tokio::test]
async fn names_are_ranked_by_what_failed_too_and_are_no_labels_where_nobody_wants_them() {
    let gateway = Gateway::start(&mesh(&[nobody()])).await;
    whole(&gateway, GLOBAL).await;
    whole(&gateway, "unknown.example").await;
    gateway.records(2).await;
    let failures = told(&gateway, "eastgate_server_name_failures_total").await;
    assert_eq!(failures, [format!("eastgate_server_name_failures_total{{server_name=\"{GLOBAL}\"}} 1")]);
    let top = gateway.admin_json("/top?format=json&by=failures").await;
    let first = &top["names"][0];
    assert_eq!((&first["name"], &first["failed"]), (&GLOBAL.into(), &1.into()), "{top}");
    gateway.app.stop().await;

    let documents = mesh(&[nobody()]);
    let gateway =
        Gateway::start_with(&documents, |layers| layers.flag("metrics.server_names", Some(0))).await;
    whole(&gateway, GLOBAL).await;
    gateway.records(1).await;
    assert!(told(&gateway, "eastgate_server_name").await.is_empty());
}

/// What Prometheus' own library for Python makes of the text. Where it is not there, one line says so, unless `E2E=required`.
fn read_by_others(text: &str) -> Option<Vec<Value>> {
    let target = Path::new(env!("CARGO_BIN_EXE_eastgate")).parent().and_then(Path::parent).unwrap();
    let made = target.join("e2e/venv/bin/python");
    let python = std::env::var_os("E2E_PYTHON").map_or(made, PathBuf::from);
    let has_parser =
        Command::new(&python).args(["-c", "import prometheus_client.openmetrics.parser"]).output();
    if !has_parser.is_ok_and(|output| output.status.success()) {
        let why =
            format!("OpenMetrics wants {} with prometheus-client; .ci/setup makes it", python.display());
        assert!(std::env::var("E2E").as_deref() != Ok("required"), "{why}");
        eprintln!("not run: {why}");
        return None;
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics/open_metrics.py");
    let mut parser =
        Command::new(python).arg(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "the parser takes it not:\n{text}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[tokio::test]
async fn who_asks_for_open_metrics_gets_them_with_connections_as_exemplars() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    whole(&gateway, GLOBAL).await;
    whole(&gateway, "unknown.example").await;
    let records = gateway.records(2).await;
    let led = records.iter().find(|record| record["flag"] == "-").unwrap();
    // As Prometheus 3 asks.
    let accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
        text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let (_, text) = http_get_as(gateway.app.admin_address(), "/stats/prometheus", accept).await;
    let Some(samples) = read_by_others(&text) else { return };

    let connects: Vec<_> = samples
        .iter()
        .filter(|sample| sample["name"] == "eastgate_connect_seconds_bucket" && !sample["exemplar"].is_null())
        .collect();
    assert_eq!(connects.len(), 1, "one connection was connected: {connects:#?}");
    let example = &connects[0]["exemplar"];
    assert_eq!(example["labels"]["client_random"], led["client_random"]);
    assert!(
        example["labels"]["trace_id"].as_str().unwrap().ends_with(led["client_random"].as_str().unwrap())
    );
    let bound: f64 = connects[0]["labels"]["le"].as_str().unwrap().parse().unwrap();
    assert!(example["value"].as_f64().unwrap() <= bound, "it is of its bucket: {connects:#?}");
    for family in ["hello_seconds", "connection_seconds"] {
        let name = format!("eastgate_{family}_bucket");
        assert!(
            samples.iter().any(|one| one["name"] == name.as_str() && !one["exemplar"].is_null()),
            "{family}"
        );
    }

    // Nothing is called otherwise than in the older format, which has the same values but for what changes by itself.
    let (_, older) = gateway.admin("/stats/prometheus").await;
    let names = |text: &str| -> std::collections::BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split([' ', '{']).next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&text), names(&older));
    assert!(!older.contains("# EOF") && !older.contains("trace_id"));
}

/// A real Prometheus that scrapes this address twice a second; it ends when this is dropped.
struct Prometheus(Child, SocketAddr, #[allow(dead_code, reason = "its data")] tempfile::TempDir);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Prometheus {
    /// Where there is one. Otherwise one line says so, unless `E2E=required`.
    fn start(scraped: SocketAddr) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("prometheus.json");
        let job = json!({
            "job_name": "eastgate",
            "metrics_path": "/stats/prometheus",
            "static_configs": [{ "targets": [scraped] }],
        });
        let every = json!({ "scrape_interval": "500ms", "scrape_timeout": "500ms" });
        std::fs::write(&config, json!({ "global": every, "scrape_configs": [job] }).to_string()).unwrap();
        let address = nobody();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.args(["--enable-feature=exemplar-storage", "--log.level=error"]);
        match command.stdin(Stdio::null()).spawn() {
            Ok(process) => Some(Self(process, address, directory)),
            Err(error) => {
                let why = format!("a test wants prometheus, which .ci/setup installs: {error}");
                assert!(std::env::var("E2E").as_deref() != Ok("required"), "{why}");
                eprintln!("not run: {why}");
                None
            }
        }
    }

    /// What it answers, once that is as wanted.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let waiting = async {
            loop {
                if TcpStream::connect(self.1).await.is_ok() {
                    let answer = http_get(self.1, path).await.1;
                    match serde_json::from_str(&answer) {
                        Ok(value) if wanted(&value) => return value,
                        _ => {}
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{path} never was as wanted"))
    }
}

#[tokio::test]
async fn a_real_prometheus_takes_all_of_it_and_leads_from_a_bucket_to_a_connection() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let Some(prometheus) = Prometheus::start(gateway.app.admin_address()) else { return };
    whole(&gateway, GLOBAL).await;
    let records = gateway.records(1).await;

    let is_some = |value: &Value| value["data"].as_array().is_some_and(|data| !data.is_empty());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let range = format!("start={}&end={}", now - 60, now + 60);
    let path = format!("/api/v1/query_exemplars?query=eastgate_connect_seconds_bucket&{range}");
    let exemplars = prometheus.until(&path, is_some).await;
    let labels = &exemplars["data"][0]["exemplars"][0]["labels"];
    assert_eq!(labels["client_random"], records[0]["client_random"], "{exemplars}");

    let is_up = |value: &Value| {
        let target = &value["data"]["activeTargets"][0];
        target["health"] == "up" && target["lastError"] == ""
    };
    prometheus.until("/api/v1/targets", is_up).await;
    // Dashboards that were made for Envoy ask for these names, whatever the format.
    for name in [
        "eastgate_server_name_connections_total",
        "envoy_cluster_upstream_cx_connect_fail",
        "envoy_cluster_upstream_cx_total",
        "envoy_cluster_upstream_cx_length_ms_bucket",
        "istio_tcp_connections_opened_total",
    ] {
        let found = |value: &Value| value["data"]["result"].as_array().is_some_and(|all| !all.is_empty());
        prometheus.until(&format!("/api/v1/query?query={name}"), found).await;
    }
}
