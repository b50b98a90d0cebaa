//! `eastgate run --kubernetes` on a real API server (`apiserver/`): resources come, change and go, and TLS goes through.
//! Ignored by default, since building the API server takes minutes: `.ci/e2e kubernetes`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/kubernetes.rs"]
mod kubernetes;
#[path = "support/program.rs"]
mod program;
mod support;
#[path = "support/untold.rs"]
mod untold;

use std::net::SocketAddr;

use eastgate_loadtest::ca::Ca;
use kubernetes::{ApiServer, path_of};
use program::Eastgate;
use serde_json::{Value, json};
use support::*;

const LISTENER: &str = "0.0.0.0_15443";

/// The gateway on this API server.
async fn gateway_on(server: &ApiServer, more: &[(&str, String)]) -> Eastgate {
    let path = server.kubeconfig_path().display().to_string();
    let mut settings = vec![
        ("EASTGATE_SOURCE_KUBERNETES_COALESCE", "10ms".to_owned()),
        ("EASTGATE_SOURCE_KUBERNETES_LOOK_AGAIN", "200ms".to_owned()),
        ("EASTGATE_SOURCE_KUBERNETES_PAGE_SIZE", "2".to_owned()),
    ];
    settings.extend(more.iter().cloned());
    Eastgate::start(&["--kubernetes", &path, "--listen", "15443=127.0.0.1:0"], &settings).await
}

async fn create_mesh(server: &ApiServer, addresses: &[SocketAddr]) {
    for (_, resource) in mesh(addresses) {
        server.create(&resource).await;
    }
}

/// Who answers, if anybody does.
async fn served(ca: &Ca, gateway: SocketAddr) -> Option<String> {
    let response = mesh_client(ca).get(gateway, GLOBAL, "/hostname").await.ok()?;
    response.pod().map(str::to_owned)
}

fn slice(address: SocketAddr) -> Value {
    slices(&[address])["items"][0].clone()
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn resources_come_change_and_go_and_tls_follows_them() {
    let Some(server) = ApiServer::start().await else { return };
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 2).await;
    create_mesh(&server, &[pods[0].address()]).await;
    // Enough for several pages of a list.
    for name in ["a", "b", "c", "d", "e"] {
        server.create(&named_service(name)).await;
    }
    let gateway = gateway_on(&server, &[]).await;
    let address = gateway.listening(LISTENER).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));
    assert_eq!(gateway.metric("kubernetes_objects{cluster=\"home\",kind=\"services\"}").await, 6.0);

    let other = slice(pods[1].address());
    let change = json!({ "ports": other["ports"], "endpoints": other["endpoints"] });
    server.patch(&slice(pods[0].address()), change).await;
    let wanted = pods[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));

    // A bad version is refused by name, and the last good one stays.
    let bad = json!({ "spec": { "servers": [{ "port": { "number": 70_000, "name": "tls", "protocol": "TLS" } }] } });
    server.patch(&support::gateway(&[]), bad).await;
    gateway
        .until("/rejections", |text| text.contains("70000") && text.contains("\"last_good_kept\":true"))
        .await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));

    server.delete(&service()).await;
    gateway.until("/config_dump", |text| !text.contains(&wanted)).await;
    assert_eq!(served(&ca, address).await, None);
    server.delete(&support::gateway(&[])).await;
    gateway.until("/listeners", |text| !text.contains(LISTENER)).await;
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn a_pods_label_says_whether_it_speaks_mesh_tls() {
    let Some(server) = ApiServer::start().await else { return };
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let mut resources = mesh(&addresses(&pods));
    let slice = &mut resources[2].1["items"][0];
    slice["metadata"]["labels"].as_object_mut().unwrap().remove("security.istio.io/tlsMode");
    slice["endpoints"][0]["targetRef"] = json!({ "kind": "Pod", "name": "httpbin-0", "namespace": "bar" });
    for (_, resource) in &resources {
        server.create(resource).await;
    }
    let gateway = gateway_on(&server, &[]).await;
    let address = gateway.listening(LISTENER).await;
    assert_eq!(served(&ca, address).await, None);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "httpbin-0", "namespace": "bar", "labels": { "security.istio.io/tlsMode": "istio" } },
        "spec": { "containers": [{ "name": "large", "image": "and not of interest" }] },
    });
    server.create(&pod).await;
    let wanted = pods[0].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn without_an_api_server_the_last_good_stays_and_afterwards_it_is_listed_anew() {
    let Some(mut server) = ApiServer::start().await else { return };
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 2).await;
    create_mesh(&server, &[pods[0].address()]).await;
    let gateway = gateway_on(&server, &[]).await;
    let address = gateway.listening(LISTENER).await;
    server.kill();
    let failing = "kubernetes_watches_failing{cluster=\"home\",kind=\"services\"}";
    gateway.metric_until(failing, |value| value == 1.0).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));
    assert!(
        gateway.admin("/ready").await.starts_with("LIVE"),
        "an API server that is gone is no reason to leave"
    );

    // When it is back, its history does not reach back to where the watches were.
    server.start_elsewhere().await;
    server.delete(&slice(pods[0].address())).await;
    server.create(&slice(pods[1].address())).await;
    server.compact().await;
    server.kill();
    server.start_again().await;
    let wanted = pods[1].address().to_string();
    gateway
        .until("/clusters", |text| text.contains(&wanted) && !text.contains(&pods[0].address().to_string()))
        .await;
    gateway.metric_until(failing, |value| value == 0.0).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));
    assert_eq!(
        gateway.log().matches("what is known stays in use").count(),
        1,
        "one line, not one for each kind"
    );
    assert!(!gateway.log().contains("ERROR"), "{}", gateway.log());
    let metrics = gateway.admin("/stats/prometheus").await;
    let restarts: Vec<_> = metrics.lines().filter(|line| line.contains("watch_restarts_total{")).collect();
    // Of which kinds is chance: a watch that comes while the server has not found its definitions yet is told 404.
    let gone = restarts.iter().any(|line| line.contains("reason=\"gone\""));
    assert!(gone, "no 410 Gone: {restarts:#?}\n{}", gateway.log());
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn a_kind_that_is_not_installed_is_looked_for_again() {
    let Some(server) = ApiServer::start().await else { return };
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gateways.networking.istio.io";
    let mut definition = server.get(path).await.unwrap();
    server.delete(&definition).await;
    while server.get(path).await.is_some() {}
    for (_, resource) in mesh(&addresses(&pods)).iter().filter(|(name, _)| *name != "gateway.json") {
        server.create(resource).await;
    }
    let gateway = gateway_on(&server, &[]).await;
    gateway.until("/ready", |text| text.starts_with("LIVE")).await;
    let missing = "kubernetes_kinds_missing{cluster=\"home\",kind=\"gateways\"}";
    assert_eq!(gateway.metric(missing).await, 1.0);
    assert!(gateway.log().contains("the kind is not installed"));

    definition["metadata"] = json!({ "name": "gateways.networking.istio.io" });
    definition["status"] = Value::Null;
    server.create(&definition).await;
    let gateways = format!("{}?limit=1", kubernetes::collection(&support::gateway(&[])));
    while server.get(&gateways).await.is_none() {}
    server.create(&support::gateway(&["*.global"])).await;
    let address = gateway.listening(LISTENER).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));
    assert_eq!(gateway.metric(missing).await, 0.0);
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn the_gateway_apis_tls_route_leads_through() {
    let Some(server) = ApiServer::start().await else { return };
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let listener = json!({
        "name": "tls", "hostname": "*.example.com", "port": 15443, "protocol": "TLS", "tls": { "mode": "Passthrough" },
    });
    let resource = |kind: &str, version: &str, spec: Value| {
        json!({
            "apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": kind,
            "metadata": { "name": "httpbin", "namespace": "bar" }, "spec": spec,
        })
    };
    let gateway = json!({ "gatewayClassName": "eastgate", "listeners": [listener] });
    let route = json!({
        "parentRefs": [{ "name": "httpbin" }], "hostnames": ["httpbin.example.com"],
        "rules": [{ "backendRefs": [{ "name": "httpbin", "port": 8000 }] }],
    });
    let route = resource("TLSRoute", "v1alpha2", route);
    for resource in [resource("Gateway", "v1", gateway), route.clone(), service(), slices(&addresses(&pods))]
    {
        server.create(&resource).await;
    }
    let gateway = gateway_on(&server, &[]).await;
    let address = gateway.listening(LISTENER).await;
    let response = mesh_client(&ca).get(address, "httpbin.example.com", "/hostname").await.unwrap();
    assert_eq!(response.pod(), Some("httpbin-0"));
    server.delete(&route).await;
    gateway.until("/config_dump", |text| !text.contains("httpbin.example.com")).await;
}

fn root_namespace(network: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "istio-system", "labels": { "topology.istio.io/network": network } },
    })
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn another_clusters_endpoints_count_while_it_is_in_the_mesh_and_on_the_same_network() {
    let (Some(home), Some(east)) = (ApiServer::start().await, ApiServer::start().await) else { return };
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 2).await;
    create_mesh(&home, &[pods[0].address()]).await;
    home.create(&root_namespace("one")).await;
    east.create(&service()).await;
    east.create(&slice(pods[1].address())).await;
    east.create(&root_namespace("one")).await;
    // A Gateway of another cluster is that cluster's.
    let mut theirs = support::gateway(&["*.theirs"]);
    theirs["spec"]["servers"][0]["port"]["number"] = json!(15444);
    east.create(&theirs).await;

    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("east.yaml"), east.kubeconfig()).unwrap();
    let remote = ("EASTGATE_SOURCE_KUBERNETES_REMOTE_DIR", directory.path().display().to_string());
    let secrets = ("EASTGATE_SOURCE_KUBERNETES_REMOTE_SECRETS", "true".to_owned());
    let gateway = gateway_on(&home, &[remote, secrets]).await;
    let address = gateway.listening(LISTENER).await;
    let [near, far] = [0, 1].map(|index: usize| pods[index].address().to_string());
    let text = gateway.admin("/clusters").await;
    assert!(text.contains(&near) && text.contains(&far), "the first table has both\n{text}");
    assert!(!gateway.admin("/listeners").await.contains("15444"));
    let (first, second) = (served(&ca, address).await.unwrap(), served(&ca, address).await.unwrap());
    assert_ne!(first, second, "round robin over both clusters");

    east.patch(&root_namespace("one"), root_namespace("two")).await;
    gateway.until("/clusters", |text| text.contains(&near) && !text.contains(&far)).await;
    east.patch(&root_namespace("one"), root_namespace("one")).await;
    gateway.until("/clusters", |text| text.contains(&far)).await;

    // The Secret takes the file's place, and goes.
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": "istio-remote-secret-east", "namespace": "istio-system", "labels": { "istio/multiCluster": "true" },
        },
        "data": { "east": encoded(&east.kubeconfig()) },
    });
    std::fs::remove_file(directory.path().join("east.yaml")).unwrap();
    gateway.until("/clusters", |text| text.contains(&near) && !text.contains(&far)).await;
    home.create(&secret).await;
    gateway.until("/clusters", |text| text.contains(&far)).await;
    home.delete(&secret).await;
    gateway.until("/clusters", |text| text.contains(&near) && !text.contains(&far)).await;
    assert!(home.get(&path_of(&secret)).await.is_none());
}

fn encoded(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn credentials_that_are_not_known_are_told_and_keep_it_from_being_ready() {
    let Some(server) = ApiServer::start().await else { return };
    std::fs::write(server.kubeconfig_path(), server.kubeconfig_with("wrong")).unwrap();
    let gateway = gateway_on(&server, &[]).await;
    let reason = "kubernetes_watches_failing{cluster=\"home\",kind=\"pods\"}";
    gateway.metric_until(reason, |value| value == 1.0).await;
    assert!(!gateway.admin("/ready").await.starts_with("LIVE"));
    assert!(gateway.log().contains("Unauthorized"), "{}", gateway.log());
}

#[tokio::test]
#[ignore = "builds an API server"]
async fn a_kubeconfig_is_enough_in_the_sandbox_and_its_token_is_told_nowhere() {
    let Some(mut server) = ApiServer::start().await else { return };
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 2).await;
    create_mesh(&server, &[pods[0].address()]).await;
    let settings = [
        ("EASTGATE_SECURITY_LANDLOCK", "true".to_owned()),
        ("EASTGATE_SECURITY_SECCOMP", "true".to_owned()),
        ("EASTGATE_LOG_LEVEL", "trace,kube_client=trace,kube_runtime=trace".to_owned()),
    ];
    let gateway = gateway_on(&server, &settings).await;
    let address = gateway.listening(LISTENER).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));
    // It finds its way back, too.
    server.kill();
    server.start_again().await;
    let other = slice(pods[1].address());
    let change = json!({ "ports": other["ports"], "endpoints": other["endpoints"] });
    server.patch(&slice(pods[0].address()), change).await;
    let wanted = pods[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));

    let mut told = Vec::new();
    for path in [
        "/config_dump?include_snapshot",
        "/server_info",
        "/rejections",
        "/stats/prometheus",
        "/certs",
        "/ready?verbose",
    ] {
        told.push((path.to_owned(), gateway.admin(path).await));
    }
    gateway.signal("INT");
    let (_, log) = gateway.exit().await;
    assert!(log.contains("files are fenced in") && log.contains("TRACE"), "{log}");
    told.push(("the log".to_owned(), log));
    untold::assert_untold(&told, &[kubernetes::TOKEN.as_bytes().to_vec()]);
}
