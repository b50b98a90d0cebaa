//! What operators are shown of the conversation with a control plane, over HTTP and by `eastgate xds`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/fed.rs"]
mod fed;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::process::Output;

use fed::*;
use plane::Plane;
use serde_json::Value;

async fn command(gateway: &Fed, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_eastgate"));
    let admin = gateway.app.admin_address().to_string();
    command.args(["xds", "--admin", &admin]).args(arguments);
    // The gateway runs on this test's own thread.
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn said(gateway: &Fed, arguments: &[&str]) -> String {
    let output = command(gateway, arguments).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn json(gateway: &Fed, path: &str) -> Value {
    let (code, text) = gateway.admin(path).await;
    assert_eq!(code, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

async fn fed() -> (Plane, Fed) {
    let plane = Plane::start(world(([127, 0, 0, 1], 9).into())).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    gateway.ready().await;
    (plane, gateway)
}

#[tokio::test]
async fn the_dump_has_the_accepted_resources_in_envoys_sections() {
    let (_plane, gateway) = fed().await;
    let dump = json(&gateway, "/config_dump?include_eds=true").await;
    let [bootstrap, clusters, listeners, endpoints] = dump["configs"].as_array().unwrap().as_slice() else {
        panic!("{dump}")
    };
    assert!(bootstrap["bootstrap"]["node"]["id"].as_str().unwrap().starts_with("router~"));
    assert_eq!(clusters["dynamic_active_clusters"][0]["cluster"]["name"], NAME);
    assert!(clusters["dynamic_active_clusters"][0]["last_updated"].as_str().unwrap().ends_with('Z'));
    let listener = &listeners["dynamic_listeners"][0]["active_state"]["listener"];
    assert_eq!(listener["filter_chains"][0]["filter_chain_match"]["server_names"][0], NAME);
    assert_eq!(endpoints["dynamic_endpoint_configs"][0]["endpoint_config"]["cluster_name"], NAME);
    let (code, text) = gateway.admin("/config_dump?resource=x").await;
    assert!(code == 400 && text.contains("dynamic_listeners"), "{text}");
    let statuses = json(&gateway, "/clusters?format=json").await;
    let host = &statuses["cluster_statuses"][0]["host_statuses"][0];
    assert_eq!(host["address"]["socket_address"]["port_value"], 9);
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
}

#[tokio::test]
async fn the_dump_has_resolved_endpoints_and_what_was_refused() {
    let (plane, gateway) = fed().await;
    plane.change(|world| {
        let clusters = &mut world.resources.clusters;
        clusters.insert("by-dns".into(), resources::dns_cluster("by-dns", "localhost", 15443));
        clusters.insert(NAME.into(), resources::refused_cluster(NAME));
    });
    gateway.until("/clusters", |text| text.contains("by-dns::127.0.0.1:15443::")).await;
    let dump = json(&gateway, "/config_dump?include_eds=true").await;
    let endpoints = dump["configs"][3]["dynamic_endpoint_configs"].as_array().unwrap();
    let by_dns = endpoints.iter().find(|one| one["endpoint_config"]["cluster_name"] == "by-dns").unwrap();
    let listed = by_dns["endpoint_config"]["endpoints"][0]["lb_endpoints"].as_array().unwrap();
    let socket = serde_json::json!({ "address": "127.0.0.1", "port_value": 15443 });
    assert!(listed.len() == 1 && listed[0]["endpoint"]["address"]["socket_address"] == socket, "{by_dns}");
    let clusters = dump["configs"][1]["dynamic_active_clusters"].as_array().unwrap();
    let kept = clusters.iter().find(|one| one["cluster"]["name"] == NAME).unwrap();
    let error = &kept["error_state"];
    assert_eq!(
        (&kept["cluster"]["type"], &error["failed_configuration"]["type"]),
        (&"EDS".into(), &"ORIGINAL_DST".into())
    );
    assert!(error["last_update_attempt"].as_str().unwrap().ends_with('Z'));
    assert!(error["details"].as_str().unwrap().contains("ORIGINAL_DST"), "{error}");
}

#[tokio::test]
async fn the_command_shows_status_log_and_what_changed() {
    let (plane, gateway) = fed().await;
    let before = json(&gateway, "/xds/log?format=json").await["journal"].as_array().unwrap().len();
    plane.change(|world| world.resources.set(&[(NAME, &[([127, 0, 0, 1], 10).into()])]));
    gateway.until("/clusters", |text| text.contains("127.0.0.1:10::")).await;

    let status = said(&gateway, &["status"]).await;
    assert!(status.contains(&plane.address) && status.contains("ClusterLoadAssignment"), "{status}");
    let status: Value = serde_json::from_str(&said(&gateway, &["status", "-o", "json"]).await).unwrap();
    assert_eq!(status["types"].as_array().unwrap().len(), 3);
    let log = said(&gateway, &["log"]).await;
    assert!(log.starts_with("PUSH") && log.lines().count() > before + 1, "{log}");
    let last = json(&gateway, "/xds/log?format=json").await["journal"].as_array().unwrap().len();
    for push in json(&gateway, "/xds/log?format=json").await["journal"].as_array().unwrap() {
        assert!(push["took_seconds"].as_f64().unwrap() > 0.0, "{push}");
    }
    for text in [log, said(&gateway, &["status"]).await] {
        assert!(text.contains("TOOK") && text.contains(" ms "), "{text}");
    }
    let diff = said(&gateway, &["diff", &format!("#{before}"), &format!("#{last}")]).await;
    assert!(diff.contains(&format!("  ~ {NAME}")), "{diff}");
    assert!(said(&gateway, &["release"]).await.contains("keeps nothing back"));
    let unknown = command(&gateway, &["diff", "no", "such"]).await;
    assert!(!unknown.status.success());
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("the journal has no push no"));
}
