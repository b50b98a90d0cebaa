//! Connections as OpenTelemetry's collectors hear of them: a collector made of OpenTelemetry's own definitions, in Python.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::prelude::{BASE64_STANDARD, Engine};
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::RawOrigin;
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

/// A running collector; it ends when this is dropped.
struct Collector {
    process: Child,
    address: String,
    said: UnboundedReceiver<Value>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Collector {
    /// Where Python has what it wants. Otherwise one line says so and the test passes without, unless `E2E=required`.
    fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same with a certificate and its key.
    fn start_with(files: &[PathBuf]) -> Option<Self> {
        let target = Path::new(env!("CARGO_BIN_EXE_eastgate")).parent().and_then(Path::parent).unwrap();
        let given = std::env::var_os("E2E_PYTHON").map(PathBuf::from);
        let made = target.join("e2e/venv/bin/python");
        // One that was made before there was this test has not what it wants.
        let has_otlp = |python: &PathBuf| python.with_file_name("../otlp").exists();
        let python = given.filter(has_otlp).unwrap_or(made);
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/otlp/collector.py");
        let mut command = Command::new(&python);
        command.arg(program).args(files).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let started = command.spawn().ok().and_then(|mut process| {
            let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
            let first = lines.next().and_then(Result::ok)?;
            let (sender, said) = unbounded_channel();
            std::thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    let _ = sender.send(serde_json::from_str(&line).unwrap());
                }
            });
            let address =
                serde_json::from_str::<Value>(&first).unwrap()["address"].as_str().unwrap().to_owned();
            Some(Self { process, address, said })
        });
        if started.is_none() {
            let why = format!(
                "the OTLP test wants {} and opentelemetry-proto beside it; .ci/setup makes it",
                python.display()
            );
            assert!(std::env::var("E2E").as_deref() != Ok("required"), "{why}");
            eprintln!("not run: {why}");
        }
        started
    }

    /// The next spans and log records, until there are so many of each.
    async fn hear(&mut self, spans: usize, logs: usize) -> (Vec<Value>, Vec<Value>) {
        let (mut all_spans, mut all_logs) = (Vec::new(), Vec::new());
        while all_spans.len() < spans || all_logs.len() < logs {
            let message =
                timeout(PATIENCE, self.said.recv()).await.expect("the collector is told in time").unwrap();
            let each = |outer: &str, middle: &str, inner: &str| -> Vec<Value> {
                let found = message[outer].as_array().cloned().unwrap_or_default();
                let found = found.iter().flat_map(|one| one[middle].as_array().cloned().unwrap_or_default());
                found.flat_map(|one| one[inner].as_array().cloned().unwrap_or_default()).collect()
            };
            all_spans.extend(each("resource_spans", "scope_spans", "spans"));
            all_logs.extend(each("resource_logs", "scope_logs", "log_records"));
        }
        (all_spans, all_logs)
    }
}

fn attribute<'a>(of: &'a Value, key: &str) -> Option<&'a Value> {
    let found = of["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == key)?;
    found["value"].as_object()?.values().next()
}

fn named<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    let found: Vec<_> = spans.iter().filter(|span| span["name"] == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

fn nanos(span: &Value, key: &str) -> u64 {
    span[key].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_connection_is_a_trace_of_its_phases_and_a_log_record_of_that_trace() {
    let Some(mut collector) = Collector::start() else { return };
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start_with(&mesh(&[pod.address()]), |layers| {
        layers.flag("otlp.address", Some(collector.address.clone())).flag("access_log.path", Some(""))
    })
    .await;
    let hello = client_hello(GLOBAL, &["istio"]);
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    stream.read_exact(&mut vec![0; hello.len()]).await.unwrap();
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();

    let (spans, logs) = collector.hear(5, 1).await;
    let whole = named(&spans, "connection");
    let phases = ["hello", "connect", "relay"].map(|name| named(&spans, name));
    // The random bytes stand behind two headers and a version; a trace's id is their beginning.
    let id = [&[0; 8][..], &hello[11..19]].concat();
    let id = json!(BASE64_STANDARD.encode(id));
    assert!(spans.iter().chain(&logs).all(|one| one["trace_id"] == id), "{id} in {spans:#?} {logs:#?}");
    let attempt = named(&spans, "attempt");
    assert!(
        phases.iter().chain([&attempt]).all(|part| part["parent_span_id"] == whole["span_id"]),
        "{spans:#?}"
    );
    assert_eq!(logs[0]["span_id"], whole["span_id"]);
    let mut before = nanos(whole, "start_time_unix_nano");
    for phase in phases {
        assert_eq!(nanos(phase, "start_time_unix_nano"), before, "{phase}");
        before = nanos(phase, "end_time_unix_nano");
    }
    assert_eq!(nanos(whole, "end_time_unix_nano"), before);
    assert_eq!(attribute(whole, "tls.client.server_name"), Some(&json!(GLOBAL)));
    assert_eq!(attribute(whole, "eastgate.rewritten"), Some(&json!(LOCAL)));
    assert_eq!(attribute(phases[1], "network.peer.port"), Some(&json!(pod.address().port().to_string())));
    assert_eq!(attribute(&logs[0], "eastgate.to_client_bytes"), Some(&json!(hello.len().to_string())));
    assert!(spans.iter().all(|span| span.get("status").is_none()), "{spans:#?}");
}

#[tokio::test]
async fn the_phase_in_which_a_connection_failed_says_so() {
    let Some(mut collector) = Collector::start() else { return };
    let gateway = Gateway::start_with(&mesh(&[nobody()]), |layers| {
        layers.flag("otlp.address", Some(collector.address.clone()))
    })
    .await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let (spans, logs) = collector.hear(4, 1).await;
    let failed = |name| named(&spans, name)["status"]["code"] == "STATUS_CODE_ERROR";
    assert_eq!(["connection", "hello", "connect"].map(failed), [true, false, true], "{spans:#?}");
    assert!(!spans.iter().any(|span| span["name"] == "relay"));
    let message = named(&spans, "attempt")["status"]["message"].as_str().unwrap();
    assert!(message.contains("refused"), "{message}");
    assert_eq!(attribute(&logs[0], "eastgate.flag"), Some(&json!("UF")));
    assert_eq!(logs[0]["severity_number"], "SEVERITY_NUMBER_WARN");
}

#[tokio::test]
async fn each_attempt_to_connect_is_a_span_with_its_endpoint_and_what_it_came_to() {
    let Some(mut collector) = Collector::start() else { return };
    let nobody = nobody();
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start_with(&mesh(&[nobody, pod.address()]), |layers| {
        layers.flag("otlp.address", Some(collector.address.clone())).flag("otlp.logs", Some(false))
    })
    .await;
    // They are taken in turn, so that one of two connections meets nobody first.
    for _ in 0..2 {
        drop(tunnel(gateway.address).await.unwrap());
    }
    let (spans, _) = collector.hear(2 * 4 + 3, 0).await;
    let attempts = spans.iter().filter(|span| span["name"] == "attempt");
    let told = attempts.map(|span| {
        let port = attribute(span, "network.peer.port").unwrap().as_str().unwrap().to_owned();
        let outcome = attribute(span, "eastgate.outcome").unwrap().as_str().unwrap();
        let took = nanos(span, "end_time_unix_nano") - nanos(span, "start_time_unix_nano");
        assert!(took > 0 && span["parent_span_id"].is_string(), "{span}");
        (outcome, port, span["status"]["code"] == "STATUS_CODE_ERROR")
    });
    let mut told: Vec<_> = told.collect();
    told.sort();
    let [nobody, pod] = [nobody, pod.address()].map(|address| address.port().to_string());
    assert_eq!(
        told,
        [("connected", pod.clone(), false), ("connected", pod, false), ("failed", nobody, true)]
    );
    let whole = spans.iter().filter(|span| span["name"] == "connection");
    assert!(whole.clone().all(|span| span.get("status").is_none()), "a retry that helped is no failure");
}

#[tokio::test]
async fn a_collector_is_told_over_tls_once_its_certificate_is_believed() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let certificate = ca.issue(&["localhost"]).unwrap();
    let files = [put("cert.pem", &certificate.chain_pem()), put("key.pem", &certificate.key_pem())];
    let Some(mut collector) = Collector::start_with(&files) else { return };
    let root = put("root.pem", other.certificate_pem());
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start_with(&mesh(&[pod.address()]), |layers| {
        layers
            .flag("otlp.address", Some(collector.address.clone()))
            .flag("otlp.ca_path", Some(root.display().to_string()))
    })
    .await;
    drop(tunnel(gateway.address).await.unwrap());
    // Whoever else's certificate it is, it is not told.
    let dropped = |text: &str| text.contains("eastgate_otlp_dropped_total 1");
    gateway.admin_until("/stats/prometheus", dropped).await;
    assert!(collector.said.try_recv().is_err());

    put("root.pem", ca.certificate_pem());
    drop(tunnel(gateway.address).await.unwrap());
    let (spans, _) = collector.hear(5, 1).await;
    assert_eq!(attribute(named(&spans, "connection"), "tls.client.server_name"), Some(&json!(GLOBAL)));
}

#[tokio::test]
async fn a_collector_that_is_away_costs_its_records_and_no_connection() {
    let nobody = nobody();
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start_with(&mesh(&[pod.address()]), |layers| {
        layers.flag("otlp.address", Some(format!("http://{nobody}")))
    })
    .await;
    for _ in 0..20 {
        say(&mut tunnel(gateway.address).await.unwrap()).await;
    }
    gateway.records(20).await;
    gateway
        .admin_until("/stats/prometheus", |text| {
            text.lines()
                .any(|line| line.strip_prefix("eastgate_otlp_dropped_total ").is_some_and(|n| n != "0"))
        })
        .await;
    gateway.app.stop().await;
}
