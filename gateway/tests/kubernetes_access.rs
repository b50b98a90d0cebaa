//! What the gateway may do in a cluster, and by which credentials, on a real API server with tokens and roles
//! (`apiserver/`). Ignored by default, since building the API server takes minutes: `.ci/e2e kubernetes`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/kubernetes.rs"]
mod kubernetes;
#[path = "support/program.rs"]
mod program;
mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use eastgate_loadtest::ca::Ca;
use kubernetes::{ApiServer, MANIFEST};
use program::Eastgate;
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
    server.allow(&MANIFEST.replace("[services, pods]", "[services]"));
    server.start_again().await;
    gateway.metric_until(FAILING, |value| value == 1.0).await;
    let denied = "kubernetes_watch_restarts_total{cluster=\"home\",kind=\"pods\",reason=\"forbidden\"}";
    gateway.metric_until(denied, |value| value >= 1.0).await;
    assert!(served(&ca, address).await);
    let log = gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    let [line] = lines.as_slice() else { panic!("one line for the one kind: {lines:#?}\n{log}") };
    assert!(line.contains("kind=\"pods\"") && line.contains("apply deploy/kubernetes/rbac.yaml"), "{line}");

    server.allow(MANIFEST);
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
