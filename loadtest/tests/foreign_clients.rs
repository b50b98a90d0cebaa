//! Clients that are not ours against the origin, so that it is not only right in our own eyes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use eastgate_loadtest::ca::{CERTIFICATE_FILE, Ca};
use eastgate_loadtest::origin::{Options, Origin};

const SERVER_NAME: &str = "outbound_.8000_._.httpbin.bar.global";
const HOST_NAME: &str = "httpbin.bar.global";

/// Whether a program is there; says so in one line where it is not, so that a skip is never a silent pass.
fn installed(program: &str, argument: &str) -> bool {
    let found = Command::new(program).arg(argument).output().is_ok();
    if !found {
        eprintln!("did not run: {program} is not installed");
    }
    found
}

async fn pod(dir: &Path) -> Origin {
    let ca = Ca::load_or_create(dir).unwrap();
    let identity = ca.issue(&["spiffe://cluster.local/ns/bar/sa/httpbin", HOST_NAME]).unwrap();
    Origin::start(Options::new("httpbin-1", identity)).await.unwrap()
}

/// Runs a program to its end beside the origin, and returns all that it said.
async fn run(mut command: Command, input: &'static str) -> String {
    let run = move || {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test]
async fn openssl_verifies_the_pod_and_agrees_to_istio() {
    if !installed("openssl", "version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pod = pod(dir.path()).await;
    let mut command = Command::new("openssl");
    command.args(["s_client", "-alpn", "istio", "-servername", SERVER_NAME, "-ign_eof"]);
    command.args(["-x509_strict", "-verify_return_error", "-connect", &pod.address().to_string(), "-CAfile"]);
    command.arg(dir.path().join(CERTIFICATE_FILE));
    let said = run(command, "GET /hostname HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    for part in ["ALPN protocol: istio", "Verify return code: 0 (ok)", "\"alpn\": \"istio\"", SERVER_NAME] {
        assert!(said.contains(part), "no {part} in {said}");
    }
}

#[tokio::test]
async fn curl_verifies_the_host_name() {
    if !installed("curl", "--version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pod = pod(dir.path()).await;
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--connect-to", &format!("::{}", pod.address()), "--cacert"]);
    command.arg(dir.path().join(CERTIFICATE_FILE)).arg(format!("https://{HOST_NAME}/hostname"));
    let said = run(command, "").await;
    assert!(said.contains("\"alpn\": \"http/1.1\"") && said.contains(HOST_NAME), "{said}");
}
