//! The mesh directory: edits take effect, bad documents do no harm, connections stay.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::time::{Duration, Instant};

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::RawOrigin;
use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn an_edit_takes_effect_and_cuts_no_connection() {
    let old = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let ca = Ca::new().unwrap();
    let new = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&[old.address()])).await;
    let hello = client_hello(GLOBAL, &["istio"]);
    let mut live = TcpStream::connect(gateway.address).await.unwrap();
    live.write_all(&hello).await.unwrap();
    let mut echoed = vec![0; hello.len()];
    live.read_exact(&mut echoed).await.unwrap();

    let edited = Instant::now();
    gateway.edit("slices.json", &slices(&addresses(&new)).to_string());
    let wanted = new[0].address().to_string();
    gateway.admin_until("/clusters", |text| text.contains(&wanted)).await;
    println!("the edit took effect after {:?}", edited.elapsed());
    let response = mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.unwrap();
    assert_eq!(response.pod(), Some("httpbin-0"));

    // Its endpoint, cluster and all are gone from the table; the connection is not.
    gateway.edit("gateway.json", &gateway_for_nothing());
    gateway.admin_until("/config_dump", |text| !text.contains("httpbin")).await;
    live.write_all(b"still here").await.unwrap();
    let mut echoed = [0; 10];
    live.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"still here");
}

fn gateway_for_nothing() -> String {
    gateway(&["*.nothing"]).to_string()
}

#[tokio::test]
async fn a_bad_document_does_no_harm_and_is_told_about() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let mut documents = mesh(&addresses(&pods));
    let mut bad = gateway(&["*.local"]);
    bad["metadata"]["name"] = json!("bad");
    bad["spec"]["servers"][0]["port"]["number"] = json!(70_000);
    documents.push(("bad.json", bad));
    let gateway = Gateway::start(&documents).await;
    assert!(mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.is_ok());
    let rejections = gateway.admin_json("/config_dump").await["snapshot"]["rejections"].clone();
    let rejection = &rejections[0];
    assert_eq!(
        rejection["resource"],
        json!({ "kind": "Gateway", "namespace": "istio-system", "name": "bad" })
    );
    assert!(rejection["field"].as_str().unwrap().contains("port.number"), "{rejection}");
    assert!(rejection["reason"].as_str().unwrap().contains("70000"), "{rejection}");
    assert_eq!(rejection["last_good_kept"], false);
}

#[tokio::test]
async fn the_last_good_version_stays_in_use() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    gateway.edit("gateway.json", "{ this is: [no YAML");
    gateway.admin_until("/rejections", |text| text.contains("\"last_good_kept\":true")).await;
    assert!(mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.is_ok());

    let mut bad = support::gateway(&["*.global"]);
    bad["spec"]["servers"][0]["hosts"] = json!(["*foo"]);
    gateway.edit("gateway.json", &bad.to_string());
    gateway
        .admin_until("/rejections", |text| text.contains("*foo") && text.contains("\"last_good_kept\":true"))
        .await;
    assert!(mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.is_ok());

    gateway.edit("gateway.json", &support::gateway(&["*.global"]).to_string());
    gateway.admin_until("/rejections", |text| text.contains("\"rejections\":[]")).await;
}

#[tokio::test]
async fn a_listener_comes_and_goes_with_its_gateway() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let mut gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    let first = gateway.address;
    std::fs::remove_file(gateway.mesh().join("gateway.json")).unwrap();
    gateway.admin_until("/listeners", str::is_empty).await;
    while TcpStream::connect(first).await.is_ok() {}
    gateway.edit("gateway.json", &support::gateway(&["*.global"]).to_string());
    gateway.admin_until("/listeners", |text| !text.is_empty()).await;
    gateway.address = *gateway.app.ready().await.unwrap().values().next().unwrap();
    assert!(mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.is_ok());
}

#[tokio::test]
async fn a_service_entry_with_a_dns_name_is_resolved() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let entry = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": { "name": "remote", "namespace": "bar" },
        "spec": {
            "hosts": ["httpbin.bar.global"],
            "location": "MESH_INTERNAL",
            "ports": [{ "name": "http", "number": 8000, "protocol": "HTTP" }],
            "resolution": "DNS",
            "endpoints": [{
                "address": "localhost",
                "ports": { "http": pods[0].address().port() },
                "labels": { "security.istio.io/tlsMode": "istio" },
            }],
        },
    });
    let gateway = Gateway::start(&[("gateway.json", gateway(&["*.global"])), ("entry.json", entry)]).await;
    let wanted = pods[0].address().to_string();
    gateway.admin_until("/clusters", |text| text.contains(&wanted)).await;
    let client = mesh_client(&ca);
    let deadline = Instant::now() + Duration::from_secs(30);
    while client.get(gateway.address, GLOBAL, "/hostname").await.is_err() {
        assert!(Instant::now() < deadline, "never reached by its DNS name");
    }
}
