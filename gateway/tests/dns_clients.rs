//! DNS of `eastgate run`, asked by others: dig, dnspython and dnsperf.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use program::Eastgate;
use serde_json::json;
use support::addressed_entry;

/// A gateway as its own process, and the port where it answers.
async fn start(directory: &Path, automatic: usize) -> (Eastgate, String) {
    let mut items = vec![
        support::gateway(&["*.global"]),
        addressed_entry("httpbin", "httpbin.bar.global", &["127.255.0.3".into(), "2001:db8::3".into()]),
        addressed_entry("wild", "*.wild.global", &["240.0.0.4".into()]),
    ];
    items.push(addressed_entry(
        "many",
        "many.bar.global",
        &(1..=200).map(|number| format!("240.1.{number}.1")).collect::<Vec<_>>(),
    ));
    items.extend(
        (0..automatic)
            .map(|number| addressed_entry(&format!("s{number}"), &format!("s{number}.bar.global"), &[])),
    );
    let mesh = directory.join("mesh");
    std::fs::create_dir(&mesh).unwrap();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    std::fs::write(mesh.join("mesh.json"), list.to_string()).unwrap();
    let mesh = mesh.display().to_string();
    let arguments = ["--mesh-dir", &mesh, "--dns", "127.0.0.1:0", "--listen", "15443=127.0.0.1:0"];
    let eastgate = Eastgate::start(&arguments, &[]).await;
    eastgate.until("/ready", |text| text.starts_with("LIVE")).await;
    eastgate.metric_until("dns_names", |names| names > 0.0).await;
    let log = eastgate.log();
    let line = log.lines().find(|line| line.contains("answering DNS")).expect("the address in the log");
    let port = line.rsplit_once(':').unwrap().1.trim().to_owned();
    (eastgate, port)
}

/// Runs a program to its end; where there is none, one line says that the test did not run, unless `E2E=required`.
async fn run(program: PathBuf, arguments: Vec<String>, missing: &str) -> Option<Output> {
    let missing = missing.to_owned();
    let running = move || {
        let command = Command::new(&program).args(arguments).stdin(Stdio::null()).output();
        match command {
            Ok(output) => Some(output),
            Err(error) if std::env::var("E2E").as_deref() == Ok("required") => {
                panic!("{}: {error}; {missing}", program.display())
            }
            Err(error) => {
                eprintln!("not run: {}: {error}; {missing}", program.display());
                None
            }
        }
    };
    tokio::task::spawn_blocking(running).await.unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn dig_sees_what_it_should() {
    let directory = tempfile::tempdir().unwrap();
    let (_eastgate, port) = start(directory.path(), 0).await;
    let dig = async |arguments: &str| {
        let fixed = ["@127.0.0.1", "-p", &port, "+tries=1", "+time=10"];
        let given = arguments.split_whitespace();
        let all = fixed.into_iter().chain(given).map(str::to_owned).collect();
        run("dig".into(), all, ".ci/setup installs it (dnsutils)").await.map(|output| text(&output))
    };
    let Some(answer) = dig("HTTPbin.bar.global").await else { return };
    assert!(answer.contains("status: NOERROR") && answer.contains(" qr aa rd;"), "{answer}");
    assert!(answer.contains("HTTPbin.bar.global.\t30\tIN\tA\t127.255.0.3"), "{answer}");
    for (arguments, expected) in [
        ("httpbin.bar.global AAAA +short", "2001:db8::3\n"),
        ("httpbin.bar.global +tcp +short", "127.255.0.3\n"),
        ("a.wild.global +short", "240.0.0.4\n"),
        ("-x 127.255.0.3 +short", "httpbin.bar.global.\n"),
        ("a.wild.global AAAA", "status: NOERROR"),
        ("a.wild.global AAAA", "hostmaster.global."),
        ("nothing.bar.global", "status: NXDOMAIN"),
        ("nothing.bar.global", "global.\t\t\t5\tIN\tSOA"),
        ("example.com", "status: REFUSED"),
        ("version.bind CH TXT", "status: REFUSED"),
        ("global AXFR", "Transfer failed"),
        ("httpbin.bar.global ANY", "RFC8482"),
        ("httpbin.bar.global +edns=1 +noednsnegotiation", "status: BADVERS"),
        ("httpbin.bar.global +bufsize=4096", "udp: 1232"),
        ("httpbin.bar.global +header-only", "status: FORMERR"),
        ("httpbin.bar.global +opcode=notify", "status: NOTIMP"),
        ("many.bar.global +ignore", " qr aa tc rd;"),
        ("many.bar.global +noedns +ignore", " qr aa tc rd;"),
        ("many.bar.global", "ANSWER: 200,"),
    ] {
        let answer = dig(arguments).await.unwrap();
        assert!(answer.contains(expected), "dig {arguments}: no {expected:?} in\n{answer}");
    }
    let many = dig("many.bar.global").await.unwrap();
    assert!(many.contains("Truncated, retrying in TCP mode"), "{many}");
}

#[tokio::test]
async fn dnspython_sees_what_it_should() {
    let python = std::env::var_os("E2E_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e/venv/bin/python"),
        PathBuf::from,
    );
    let directory = tempfile::tempdir().unwrap();
    let (_eastgate, port) = start(directory.path(), 0).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dns_clients/check.py");
    let arguments = vec![script.display().to_string(), "127.0.0.1".into(), port];
    let Some(output) = run(python, arguments, ".ci/e2e setup makes it").await else { return };
    print!("{}", text(&output));
}

/// Three seconds of what dnsperf can send; `DNSPERF_SECONDS` makes them more.
#[tokio::test]
async fn dnsperf_loses_no_answer() {
    const NAMES: usize = 1000;
    let directory = tempfile::tempdir().unwrap();
    let (eastgate, port) = start(directory.path(), NAMES).await;
    let queries = directory.path().join("queries");
    let lines = (0..NAMES).map(|number| format!("s{number}.bar.global A\nS{number}.Bar.Global AAAA\n"));
    std::fs::write(&queries, lines.collect::<String>()).unwrap();
    let seconds = std::env::var("DNSPERF_SECONDS").unwrap_or_else(|_| "3".into());
    for mode in ["udp", "tcp"] {
        let arguments = ["-s", "127.0.0.1", "-p", &port, "-m", mode, "-l", &seconds, "-c", "10", "-d"];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
        arguments.push(queries.display().to_string());
        let Some(output) = run("dnsperf".into(), arguments, ".ci/setup installs it").await else { return };
        let report = text(&output);
        let line = |name: &str| {
            let line = report.lines().find(|line| line.trim_start().starts_with(name));
            line.unwrap_or_else(|| panic!("no {name} in\n{report}")).trim().to_owned()
        };
        assert!(line("Queries lost:").contains(" 0 (0.00%)"), "{report}");
        assert!(
            line("Response codes:").contains("NOERROR") && line("Response codes:").contains("(100.00%)"),
            "{report}"
        );
        println!("{mode}: {}; {}", line("Queries per second:"), line("Average Latency"));
    }
    let counted = "dns_responses_total{code=\"NOERROR\",transport=\"udp\",type=\"AAAA\"}";
    assert!(eastgate.metric(counted).await > NAMES as f64);
}
