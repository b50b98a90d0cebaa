//! Who may reach what: AuthorizationPolicies on the data path, and what `eastgate audit` says of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use eastgate_loadtest::ca::Ca;
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

fn policy_of(spec: &Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": "p", "namespace": "istio-system" },
        "spec": spec,
    })
}

/// The type of the record that answers a mesh client's hello from this address, and behind it the alert, if it is one.
async fn answer(gateway: SocketAddr, from: &str) -> (u8, u8) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    let mut stream = socket.connect(gateway).await.unwrap();
    stream.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    let mut record = [0; 7];
    stream.read_exact(&mut record).await.unwrap();
    (record[0], record[6])
}

const SERVED: u8 = 22;
const ACCESS_DENIED: (u8, u8) = (21, 49);

#[tokio::test]
async fn a_policy_takes_effect_while_the_gateway_runs_and_is_named_in_the_record() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    assert_eq!(answer(gateway.address, "127.0.0.7").await.0, SERVED);

    let from = |block: &str| json!([{ "from": [{ "source": { "ipBlocks": [block] } }] }]);
    let deny = json!({ "action": "DENY", "rules": from("127.0.0.7/32") });
    gateway.edit("p.json", &policy_of(&deny).to_string());
    gateway.admin_until("/audit", |text| text.contains("denied by istio-system/p rule 1")).await;
    assert_eq!(answer(gateway.address, "127.0.0.7").await, ACCESS_DENIED);
    assert_eq!(answer(gateway.address, "127.0.0.8").await.0, SERVED);
    let denied = |record: &&Value| record["flag"] == "UAEX";
    let records = gateway.records(3).await;
    let record = records.iter().find(denied).unwrap();
    assert!(record["error"].as_str().unwrap().contains("denied by istio-system/p rule 1"), "{record}");

    let sni = json!([{ "when": [{ "key": "connection.sni", "values": ["*.httpbin.bar.global"] }] }]);
    gateway.edit("p.json", &policy_of(&json!({ "rules": sni })).to_string());
    gateway.admin_until("/audit", |text| text.contains("only what is allowed by")).await;
    assert_eq!(answer(gateway.address, "127.0.0.7").await.0, SERVED);
    gateway.edit("p.json", &policy_of(&json!({})).to_string());
    gateway.admin_until("/audit", |text| text.contains("only what is allowed by nothing")).await;
    assert_eq!(answer(gateway.address, "127.0.0.7").await, ACCESS_DENIED);
}

/// What `eastgate audit` prints.
fn audit(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_eastgate")).arg("audit").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_audit_of_a_directory_and_of_a_running_gateway_list_what_is_reachable_and_nothing_else() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 2).await;
    let mut documents = mesh(&addresses(&pods));
    // A service that no Gateway's host covers is not reachable, and not in the list.
    let mut hidden = named_service("hidden");
    hidden["metadata"]["annotations"] = json!({ "networking.istio.io/exportTo": "~" });
    documents.push(("hidden.json", hidden));
    let gateway = Gateway::start(&documents).await;
    let (directory, admin) = (gateway.mesh().display().to_string(), gateway.app.admin_address().to_string());
    let of_directory = audit(&["--mesh-dir", &directory]);
    let [line] = of_directory.lines().collect::<Vec<_>>()[..] else { panic!("{of_directory}") };
    let expected = format!("0.0.0.0:15443 {GLOBAL} as {LOCAL} alpn istio");
    assert!(line.starts_with(&expected) && line.contains("(2 endpoints)"), "{line}");
    assert!(line.ends_with("; by Gateway istio-system/cross-network-gateway spec.servers[0]"), "{line}");

    let running =
        tokio::task::spawn_blocking(move || audit(&["--admin", &admin, "-o", "json"])).await.unwrap();
    let running: Value = serde_json::from_str(&running).unwrap();
    let [way] = running["exposures"].as_array().unwrap().as_slice() else { panic!("{running}") };
    assert_eq!((&way["server_name"], &way["rewritten"]), (&json!(GLOBAL), &json!(LOCAL)));
    assert_eq!(way["clusters"], json!([{ "cluster": LOCAL, "endpoints": 2 }]));
    // And it is: the name that the list has leads to a pod.
    let response = mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.unwrap();
    assert!(response.pod().is_some());
}
