//! What is served without a control plane: saved state after a restart, and resources from a file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/fed.rs"]
mod fed;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use fed::*;
use plane::Plane;
use resources::Resources;
use support::*;

#[tokio::test]
async fn a_restart_without_the_control_plane_serves_what_was_known() {
    let ca = Ca::new().unwrap();
    let all = pods(&ca, 2).await;
    let plane = Plane::start(world(all[0].address())).await;
    let at: SocketAddr = plane.address.trim_start_matches("http://").parse().unwrap();
    let stateful = |layers: Layers, directory: &Path| {
        layers.flag("xds.state_dir", Some(directory.join("state").display().to_string()))
    };
    let planes = [plane.address.clone()];
    let planes = [&*planes[0]];
    let mut gateway = Fed::start(&planes, stateful).await;
    gateway.ready().await;
    gateway.metric_until("xds_state_writes_total{result=\"ok\"}", |count| count >= 1.0).await;
    let Fed { app, directory } = gateway;
    app.stop().await;
    plane.stop().await;

    let began = Instant::now();
    let mut gateway = Fed::start_in(directory, &planes, stateful).await;
    let address = gateway.ready().await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));
    println!("served from disk after {:?}", began.elapsed());
    let (_, verbose) = gateway.admin("/ready?verbose").await;
    assert!(verbose.contains("serving saved configuration") && verbose.contains("s old"), "{verbose}");
    assert_eq!(gateway.metric("xds_saved_state").await, 1.0);
    assert!(gateway.app.xds().unwrap().view().await.unwrap().saved_state);

    let plane = Plane::start_at(at, world(all[1].address())).await;
    gateway.metric_until("xds_saved_state", |value| value == 0.0).await;
    let wanted = all[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(gateway.admin("/ready?verbose").await.1, "LIVE\n");
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));
    drop(plane);
}

#[tokio::test]
async fn what_changed_just_before_the_end_is_saved() {
    let ca = Ca::new().unwrap();
    let all = pods(&ca, 2).await;
    let plane = Plane::start(world(all[0].address())).await;
    let stateful = |layers: Layers, directory: &Path| {
        layers.flag("xds.state_dir", Some(directory.join("state").display().to_string()))
    };
    let mut gateway = Fed::start(&[&plane.address], stateful).await;
    gateway.ready().await;
    gateway.metric_until("xds_state_writes_total{result=\"ok\"}", |count| count >= 1.0).await;
    plane.change(|world| world.resources.set(&[(NAME, &[all[1].address()])]));
    let wanted = all[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    let Fed { app, directory } = gateway;
    app.stop().await;
    let address = plane.address.clone();
    plane.stop().await;

    let mut gateway = Fed::start_in(directory, &[&address], stateful).await;
    let address = gateway.ready().await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));
}

#[tokio::test]
async fn damaged_state_is_set_aside_and_the_control_plane_is_waited_for() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("xds-state"), b"eastgate-xds-state\n{\"format\":1").unwrap();
    let plane = nobody();
    let stateful = |layers: Layers, directory: &Path| {
        layers.flag("xds.state_dir", Some(directory.display().to_string()))
    };
    let mut gateway = Fed::start_in(directory, &[&format!("http://{plane}")], stateful).await;
    gateway.metric_until("xds_state_set_aside_total{reason=\"damaged\"}", |count| count == 1.0).await;
    assert_eq!(gateway.admin("/ready").await.0, 503);
    let names: Vec<_> = std::fs::read_dir(gateway.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(names.len() == 1 && names[0].to_string_lossy().starts_with("xds-state.damaged-"), "{names:?}");
    let _plane = Plane::start_at(plane, world(pod.address())).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
}

#[tokio::test]
async fn a_file_of_resources_is_served_and_watched() {
    use eastgate_proto::Message;
    use eastgate_proto::envoy::service::discovery::v3::DiscoveryResponse;
    let ca = Ca::new().unwrap();
    let all = pods(&ca, 2).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resources.binpb");
    let encode = |resources: Resources| {
        DiscoveryResponse { resources: resources.all(), ..Default::default() }.encode_to_vec()
    };
    let put = |content: Vec<u8>| {
        let new = path.with_extension("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, &path).unwrap();
    };
    let write = |resources| put(encode(resources));
    write(world(all[0].address()));
    let file = |layers: Layers, directory: &Path| {
        layers.flag("source.xds_file", Some(directory.join("resources.binpb").display().to_string()))
    };
    let mut gateway = Fed::start_in(directory, &[], file).await;
    let address = gateway.ready().await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));
    write(world(all[1].address()));
    let wanted = all[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));
    let binary = encode(world(all[0].address()));
    let type_url = "type.googleapis.com/envoy.service.discovery.v3.DiscoveryResponse";
    let mut json = serde_json::to_value(eastgate_proto::json::Json::new(type_url, &binary)).unwrap();
    json.as_object_mut().unwrap().remove("@type");
    put(json.to_string().into_bytes());
    let wanted = all[0].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"), "read as JSON");
    write(Resources::serving(&[]));
    gateway.until("/config_dump", |text| !text.contains("httpbin")).await;
}

#[tokio::test]
async fn saved_endpoints_that_are_not_sent_again_are_confirmed_all_the_same() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = Plane::start(world(pod.address())).await;
    let stateful = |layers: Layers, directory: &Path| {
        layers.flag("xds.state_dir", Some(directory.join("state").display().to_string()))
    };
    let mut gateway = Fed::start(&[&plane.address], stateful).await;
    gateway.ready().await;
    gateway.metric_until("xds_state_writes_total{result=\"ok\"}", |count| count >= 1.0).await;
    let Fed { app, directory } = gateway;
    app.stop().await;

    plane.change(|world| world.endpoints_known = true);
    let mut gateway = Fed::start_in(directory, &[&plane.address], stateful).await;
    let address = gateway.ready().await;
    gateway.metric_until("xds_pushes_total{type=\"listener\"}", |count| count >= 1.0).await;
    gateway.metric_until("xds_saved_state", |value| value == 0.0).await;
    gateway.metric_until("xds_state_writes_total{result=\"ok\"}", |count| count >= 1.0).await;
    assert_eq!(gateway.metric("xds_pushes_total{type=\"endpoints\"}").await, 0.0);
    assert!(served(&ca, address).await.is_some());
}
