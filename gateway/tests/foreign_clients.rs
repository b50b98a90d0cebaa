//! `eastgate run` on the documented example, with clients by others: OpenSSL's and curl.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{self, Origin};
use support::*;

/// The pods of the example: addresses and port stand in its EndpointSlice.
const PODS: [&str; 3] = ["127.0.0.11:8443", "127.0.0.12:8443", "127.0.0.13:8443"];

/// A gateway as its own process. It is ended when this is dropped, however the test ends.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts the binary on the example and reads off its log where it listens.
    fn start() -> Self {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/httpbin");
        let mut child = Command::new(env!("CARGO_BIN_EXE_eastgate"))
            .args(["run", "--listen", "15443=127.0.0.1:0", "--admin", "127.0.0.1:0", "--readiness", ""])
            .args(["--access-log", "", "--mesh-dir"])
            .arg(example)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut lines = log.lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains("listening")).expect("the gateway listens");
        let address = line.split_once("address=").unwrap().1.trim().parse().unwrap();
        // Keeps the pipe from filling up.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start(ca: &Ca) -> (Vec<Origin>, Process, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.pem"), ca.certificate_pem()).unwrap();
    let mut pods = Vec::new();
    for address in PODS {
        let identity = ca.issue(&[SPIFFE, "httpbin.example.com"]).unwrap();
        let mut options = origin::Options::new(address, identity);
        options.address = address.parse().unwrap();
        let pod = Origin::start(options).await;
        pods.push(
            pod.unwrap_or_else(|error| panic!("{address}, a pod of the example, cannot listen: {error}")),
        );
    }
    let process = tokio::task::spawn_blocking(Process::start).await.unwrap();
    (pods, process, directory)
}

/// The command's output, or `None` and one line where the command does not exist.
async fn run(mut command: Command) -> Option<Output> {
    let name = command.get_program().to_owned();
    command.stdin(Stdio::null());
    match tokio::task::spawn_blocking(move || command.output()).await.unwrap() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("not run: {} is not installed", name.display());
            None
        }
        output => Some(output.unwrap()),
    }
}

// One test: both parts need the example's own addresses.
#[tokio::test]
async fn openssl_and_curl_complete_handshakes_with_the_pods() {
    let ca = Ca::new().unwrap();
    let (_pods, gateway, directory) = start(&ca).await;

    let mut openssl = Command::new("openssl");
    openssl.args([
        "s_client",
        "-connect",
        &gateway.address.to_string(),
        "-servername",
        GLOBAL,
        "-alpn",
        "istio",
    ]);
    openssl.args(["-verify_return_error", "-showcerts", "-CAfile"]).arg(directory.path().join("ca.pem"));
    if let Some(output) = run(openssl).await {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        assert!(text.contains("ALPN protocol: istio"), "{text}");
        let certificate = &text[text.find("-----BEGIN").unwrap()..text.find("-----END").unwrap()];
        assert!(!certificate.is_empty());
    }

    // curl offers no ALPN `istio`, so it goes in by the PASSTHROUGH server.
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
        .arg(directory.path().join("ca.pem"));
    curl.args(["--connect-to", &format!("httpbin.example.com:443:{}", gateway.address)]);
    curl.arg("https://httpbin.example.com/hostname");
    if let Some(output) = run(curl).await {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["server_name"], "httpbin.example.com");
    }

    let client = mesh_client(&ca);
    let mut spread = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..1_000 {
        let response = client.get(gateway.address, GLOBAL, "/hostname").await.unwrap();
        *spread.entry(response.pod().unwrap().to_owned()).or_default() += 1;
    }
    println!("1,000 connections: {spread:?}");
    assert!(spread.len() == 3 && spread.values().all(|count| (300..=367).contains(count)), "{spread:?}");
}
