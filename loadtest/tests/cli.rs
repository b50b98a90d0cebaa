//! The program itself: pods in one process, the client in another, one CA in a directory between them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test reports")]

use std::io::{BufRead, BufReader};
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
