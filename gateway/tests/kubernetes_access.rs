//! What the gateway may do in a cluster, and by which credentials, on a real API server with tokens and roles
//! (`apiserver/`). Ignored by default, since building the API server takes minutes: `.ci/e2e kubernetes`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/kubernetes.rs"]
mod kubernetes;
#[path = "support/plain.rs"]
mod plain;
#[path = "support/program.rs"]
mod program;
mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use eastgate_loadtest::ca::{Ca, Identity};
use eastgate_loadtest::origin::{self, Clients, Origin};
use kubernetes::{ApiServer, MANIFEST};
use program::Eastgate;
use serde_json::{Value, json};
use support::*;

const LISTENER: &str = "0.0.0.0_15443";
const GATEWAY: [&str; 2] = ["--listen", "15443=127.0.0.1:0"];
const FAILING: &str = "kubernetes_watches_failing{cluster=\"home\",kind=\"pods\"}";

fn settings(more: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
    let own = [
        ("EASTGATE_SOURCE_KUBERNETES_COALESCE", "10ms".to_owned()),
        ("EASTGATE_SOURCE_KUBERNETES_LOOK_AGAIN", "200ms".to_owned()),
        ("EASTGATE_SOURCE_KUBERNETES_PAGE_SIZE", "2".to_owned()),
    ];
    [&own[..], more].concat()
}

async fn served(ca: &Ca, gateway: SocketAddr) -> bool {
    mesh_client(ca).get(gateway, GLOBAL, "/hostname").await.is_ok_and(|response| response.pod().is_some())
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn the_manifest_allows_what_is_needed_and_no_more_and_a_denied_kind_is_told() {
    let Some(mut server) = ApiServer::start().await else { return };
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    for (_, resource) in mesh(&addresses(&pods)) {
        server.create(&resource).await;
    }
    server.accounts(&["account"]);
    let secrets = "/api/v1/namespaces/istio-system/secrets";
    assert_eq!(server.status_for("account", "GET", secrets).await, 403);
    let allowed = format!("{MANIFEST}---\n{}", include_str!("../../deploy/kubernetes/remote-secrets.yaml"));
    server.allow(&allowed);
    assert_eq!(server.status_for("account", "GET", secrets).await, 200);
    assert_eq!(server.status_for("account", "GET", "/api/v1/services").await, 200);
    for (method, path) in [
        ("DELETE", "/api/v1/namespaces/bar/services/httpbin"),
        ("GET", "/api/v1/namespaces/bar/services/httpbin"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces"),
    ] {
        assert_eq!(server.status_for("account", method, path).await, 403, "{method} {path}");
    }
    assert_eq!(server.status_for("nobody", "GET", "/api/v1/services").await, 401);

    std::fs::write(server.kubeconfig_path(), server.kubeconfig_with("account")).unwrap();
    let path = server.kubeconfig_path().display().to_string();
    let remote = ("EASTGATE_SOURCE_KUBERNETES_REMOTE_SECRETS", "true".to_owned());
    let arguments = [&["--kubernetes", &path][..], &GATEWAY].concat();
    let gateway = Eastgate::start(&arguments, &settings(&[remote])).await;
    let address = gateway.listening(LISTENER).await;
    assert!(served(&ca, address).await);
    assert!(!gateway.log().contains("ERROR") && !gateway.log().contains("WARN"), "{}", gateway.log());

    // One kind is denied after the fact: it is named, with what to apply, and what is known of it stays.
    server.kill();
    server.allow(&allowed.replace("[services, pods]", "[services]"));
    server.start_again().await;
    gateway.metric_until(FAILING, |value| value == 1.0).await;
    let denied = "kubernetes_watch_restarts_total{cluster=\"home\",kind=\"pods\",reason=\"forbidden\"}";
    gateway.metric_until(denied, |value| value >= 1.0).await;
    assert!(served(&ca, address).await);
    let log = gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    let [line] = lines.as_slice() else { panic!("one line for the one kind: {lines:#?}\n{log}") };
    assert!(line.contains("kind=\"pods\"") && line.contains("apply deploy/kubernetes/rbac.yaml"), "{line}");

    server.allow(&allowed);
    gateway.metric_until(FAILING, |value| value == 0.0).await;
    assert!(gateway.log().contains("every watch goes on"), "{}", gateway.log());
}

/// A Pod's file system: the service account where Kubernetes mounts it. The command becomes the gateway.
fn in_a_pod(account: &std::path::Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec"]);
    command.arg(
        "mount -t tmpfs pod /run; mkdir -p /run/secrets/kubernetes.io/serviceaccount\n\
         mount --bind \"$1\" /run/secrets/kubernetes.io/serviceaccount; program=$0; shift; exec \"$program\" \"$@\"",
    );
    command.arg(env!("CARGO_BIN_EXE_eastgate")).arg(account);
    command
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn a_pods_service_account_is_used_and_its_token_read_again() {
    let Some(mut server) = ApiServer::start().await else { return };
    if !Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success()) {
        assert!(std::env::var("E2E").as_deref() != Ok("required"), "a Pod's file system wants root");
        eprintln!("not run: a Pod's file system wants root");
        return;
    }
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    for (_, resource) in mesh(&addresses(&pods)) {
        server.create(&resource).await;
    }
    let account = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        std::fs::write(account.path().join("new"), text).unwrap();
        std::fs::rename(account.path().join("new"), account.path().join(name)).unwrap();
    };
    put("ca.crt", server.certificate());
    put("namespace", "istio-system");
    put("token", "first");
    server.accounts(&["first"]);
    let (host, port) = server.address().rsplit_once(':').unwrap();
    let where_it_is =
        [("KUBERNETES_SERVICE_HOST", host.to_owned()), ("KUBERNETES_SERVICE_PORT", port.to_owned())];
    // `auto` is what it is in a Pod.
    let arguments = [&["--kubernetes"][..], &GATEWAY].concat();
    let gateway = Eastgate::start_by(in_a_pod(account.path()), &arguments, &settings(&where_it_is)).await;
    let address = gateway.listening(LISTENER).await;
    assert!(served(&ca, address).await);

    // The first token is not believed any more when the watches begin anew.
    server.kill();
    server.accounts(&["second"]);
    server.start_again().await;
    let refused = "kubernetes_watch_restarts_total{cluster=\"home\",kind=\"pods\",reason=\"unauthorized\"}";
    gateway.metric_until(refused, |value| value >= 1.0).await;
    assert!(served(&ca, address).await, "what is known stays in use");
    put("token", "second");
    // The file is read at least once a minute.
    let known = async {
        while gateway.metric(FAILING).await != 0.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(4 * PATIENCE, known).await.unwrap_or_else(|_| panic!("{}", gateway.log()));
    server.create(&named_service("more")).await;
    let services = "kubernetes_objects{cluster=\"home\",kind=\"services\"}";
    tokio::time::timeout(4 * PATIENCE, async {
        while gateway.metric(services).await != 2.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{}", gateway.log()));
}

/// What the manifest for Secrets is, with these names in it.
fn allowing(names: &[&str]) -> String {
    let manifest = include_str!("../../deploy/kubernetes/secrets.yaml");
    let named = manifest.replace("client-credential, client-credential-cacert", &names.join(", "));
    assert_ne!(named, manifest);
    format!("{MANIFEST}---\n{named}")
}

/// Whose certificate an origin is shown by the gateway, if there is a connection.
async fn shown(gateway: SocketAddr) -> Option<Value> {
    let (status, body) = tokio::time::timeout(PATIENCE, try_get(gateway)).await.ok()??;
    (status == 200).then(|| serde_json::from_str::<Value>(&body).unwrap()["client"].clone())
}

async fn try_get(gateway: SocketAddr) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(gateway).await.ok()?;
    stream.write_all(b"GET /hostname HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head[9..12].parse().ok()?, body.to_owned()))
}

async fn shown_until(gateway: &Eastgate, address: SocketAddr, wanted: &str) {
    let waiting = async {
        while shown(address).await != Some(json!([wanted])) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{wanted}: {}", gateway.log()));
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn secrets_are_read_by_name_and_no_others_may_be() {
    let Some(mut server) = ApiServer::start().await else { return };
    let ca = Ca::new().unwrap();
    let mut options = origin::Options::new("secure", ca.issue(&[plain::HOST]).unwrap());
    options.clients = Clients::Verified(ca.roots());
    let origin = Origin::start(options).await.unwrap();
    let rule = json!({ "mode": "MUTUAL", "credentialName": "billing" });
    for (_, mut resource) in plain::documents(origin.address(), &rule) {
        // As this server has it.
        if resource["kind"] == "VirtualService" {
            resource["apiVersion"] = json!("networking.istio.io/v1beta1");
        }
        server.create(&resource).await;
    }
    let pair = |identity: &Identity| {
        use base64::Engine;
        let encoded = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
        json!({ "tls.crt": encoded(identity.chain_pem()), "tls.key": encoded(identity.key_pem()) })
    };
    let first = ca.issue(&["first.example.com"]).unwrap();
    let mut billing = plain::secret("billing", &Value::Null);
    billing["data"] = pair(&first);
    server.create(&billing).await;
    server.create(&plain::secret("unmentioned", &json!({ "password": "hunter2" }))).await;
    server.accounts(&["account"]);
    server.allow(&allowing(&["billing"]));
    let secrets = "/api/v1/namespaces/istio-system/secrets";
    for (path, status) in [
        (format!("{secrets}?fieldSelector=metadata.name%3Dbilling"), 200),
        (format!("{secrets}?fieldSelector=metadata.name%3Dunmentioned"), 403),
        (secrets.to_owned(), 403),
        (format!("{secrets}/billing"), 403),
        ("/api/v1/namespaces/bar/secrets?fieldSelector=metadata.name%3Dbilling".to_owned(), 403),
    ] {
        assert_eq!(server.status_for("account", "GET", &path).await, status, "{path}");
    }

    std::fs::write(server.kubeconfig_path(), server.kubeconfig_with("account")).unwrap();
    let path = server.kubeconfig_path().display().to_string();
    let named = ("EASTGATE_SOURCE_KUBERNETES_SECRETS", r#"["billing", "billing-cacert"]"#.to_owned());
    let arguments = ["--kubernetes", &path, "--listen", "9443=127.0.0.1:0"];
    let gateway = Eastgate::start(&arguments, &settings(&[named])).await;
    // The Role lacks one of the names: it is told of, with what to apply, and the gateway is not ready without.
    let denied = "kubernetes_watches_failing{cluster=\"home\",kind=\"secrets/billing-cacert\"}";
    gateway.metric_until(denied, |value| value == 1.0).await;
    let line = gateway.logged("apply deploy/kubernetes/secrets.yaml with its name").await;
    assert!(line.contains("secrets/billing-cacert"), "{line}");
    server.allow(&allowing(&["billing", "billing-cacert"]));
    let address = gateway.listening("0.0.0.0_9443").await;
    gateway
        .until("/rejections", |text| {
            text.contains("neither the Secret billing-cacert nor billing holds roots")
        })
        .await;

    server.create(&plain::secret("billing-cacert", &json!({ "cacert": ca.certificate_pem() }))).await;
    shown_until(&gateway, address, "first.example.com").await;
    let second = ca.issue(&["second.example.com"]).unwrap();
    server.patch(&billing, json!({ "data": pair(&second) })).await;
    shown_until(&gateway, address, "second.example.com").await;

    // One that is gone is told of, and what was there stays.
    server.delete(&billing).await;
    gateway.until("/rejections", |text| text.contains("the Secret billing holds no key pair")).await;
    assert_eq!(shown(address).await, Some(json!(["second.example.com"])));
    server.kill();
    server.start_again().await;
    server.create(&billing).await;
    shown_until(&gateway, address, "first.example.com").await;

    let pages = ["/config_dump", "/clusters", "/rejections", "/stats/prometheus"];
    let mut said = gateway.log();
    for page in pages {
        said += &gateway.admin(page).await;
    }
    for secret in [first.key_pem(), second.key_pem(), ca.certificate_pem().to_owned()] {
        let inside = secret.lines().nth(1).unwrap();
        assert!(!said.contains(inside) && !said.contains("PRIVATE KEY"), "a Secret is shown");
    }
    assert!(
        !said.contains("hunter2") && !said.contains("unmentioned"),
        "a Secret that nobody named was read"
    );
}
