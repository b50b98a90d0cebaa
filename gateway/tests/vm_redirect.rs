//! A VM whose connections the firewall redirects: run in a network namespace of its own, by the first test here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/machine.rs"]
mod machine;
mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::{self, Client, Expect};
use eastgate_loadtest::origin::{self, Clients, Origin, RawOrigin};
use machine::*;
use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn redirected_connections_are_carried_and_let_in() {
    in_own_network("redirecting", "inside");
}

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
}

fn nft(rules: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

#[tokio::test]
#[ignore = "changes the network namespace's routes and rules; redirected_connections_are_carried_and_let_in runs it in its own"]
async fn inside() {
    sh("ip link set lo up; ip route add 240.0.0.0/4 dev lo; ip addr add 10.9.9.9/32 dev lo");
    let ca = Ca::new().unwrap();
    let mut options = origin::Options::new("httpbin-0", ca.issue(&[SPIFFE]).unwrap());
    options.clients = Clients::Verified(ca.roots());
    let pod = Origin::start(options).await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let local = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();

    let directory = Directory::in_mesh(
        &ca,
        "ISTIO_SVC_IP=10.9.9.9\nISTIO_INBOUND_PORTS=9999\nCLUSTER_GW_ADDR=127.0.0.1\n",
    );
    let wide = httpbin([240, 1, 0, 0].into(), gateway.address.port()).replace("240.1.0.0", "240.1.0.0/16");
    directory.write("httpbin.yaml", &wide);
    // A second service stands at one address of the first one's range.
    let other = httpbin([240, 1, 0, 9].into(), gateway.address.port());
    directory.write("other.yaml", &other.replace("httpbin.bar", "other.bar"));
    let path = directory.0.path().display().to_string();
    let rules = Command::new(env!("CARGO_BIN_EXE_eastgate"))
        .args(["vm", "rules", "--config-dir", &path, "--user", "daemon", "--inbound", "8888"])
        .output()
        .unwrap();
    nft(std::str::from_utf8(&rules.stdout).unwrap());
    // Clients of the mesh are in this namespace, too, so that their packets come from within.
    nft(
        "table inet test {\n chain out {\n type nat hook output priority -90; policy accept;\n ip daddr 10.9.9.9 tcp dport 8888 redirect to :15006\n }\n}\n",
    );
    let to = local.address().to_string();
    let machine = directory.run(|layers, _| {
        let layers = layers.flag("vm.redirect", Some("127.0.0.1:15001"));
        let layers = layers.flag("vm.inbound_redirect", Some("0.0.0.0:15006"));
        layers.flag("vm.inbound", Some(json!({ "8888": to })))
    });
    let machine = machine.await;

    let (status, body) = http_get(([240, 1, 2, 3], 8000).into(), "/hostname").await;
    assert!(status == 200 && body.contains(GLOBAL) && body.contains(VM), "{status} {body}");
    // The gateway knows no other.bar, and a reset says so.
    assert!(is_reset("240.1.0.9:8000").await);
    let records = machine.records(2).await;
    assert_eq!(records[0]["server_name"], GLOBAL);
    assert_eq!(records[1]["server_name"], GLOBAL.replace("httpbin.bar", "other.bar"));

    let mut options = client::Options::new(ca.roots());
    options.expect = Expect::OneOf(vec![VM.into()]);
    options.identity = Some(ca.issue(&[SPIFFE]).unwrap());
    let mut stream = Client::new(options).unwrap().connect(([10, 9, 9, 9], 8888).into(), "x").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"hello");

    // Who comes straight to the redirect's own port was going nowhere.
    assert!(is_reset("127.0.0.1:15001").await);
    // The open connection has no record yet.
    assert_eq!(machine.records(3).await[2]["flag"], "NR");
}

/// Is the connection reset? That may happen while the client is still being told that it was taken.
async fn is_reset(address: &str) -> bool {
    let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    match tokio::net::TcpStream::connect(address).await {
        Ok(mut stream) => stream.read(&mut [0; 1]).await.is_err_and(refused),
        Err(error) => refused(error),
    }
}
