//! What an xDS cluster says of how its endpoints are reached: addresses beside the first, and circuit breakers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/fed.rs"]
mod fed;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::net::SocketAddr;

use eastgate_config::xds::{CLUSTER, ENDPOINTS};
use eastgate_loadtest::ca::Ca;
use fed::*;
use plane::Plane;
use resources::{Resources, from_json};
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

/// The usual cluster with these fields as well, and one endpoint at these addresses.
fn world(addresses: &[SocketAddr], fields: Value) -> Resources {
    let mut resources = Resources::serving(&[(NAME, &[])]);
    let mut cluster = json!({
        "name": NAME,
        "type": "EDS",
        "connect_timeout": "20s",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
    });
    cluster.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let others: Vec<_> =
        addresses[1..].iter().map(|address| json!({ "address": socket(*address) })).collect();
    let endpoint = json!({ "address": socket(addresses[0]), "additional_addresses": others });
    let assignment =
        json!({ "cluster_name": NAME, "endpoints": [{ "lb_endpoints": [{ "endpoint": endpoint }] }] });
    resources.clusters.insert(NAME.into(), from_json(CLUSTER, &cluster));
    resources.endpoints.insert(NAME.into(), from_json(ENDPOINTS, &assignment));
    resources
}

async fn cluster(gateway: &Fed) -> Value {
    let clusters: Value = serde_json::from_str(&gateway.admin("/clusters?format=json").await.1).unwrap();
    clusters["clusters"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_whose_first_address_is_a_black_hole_is_reached_at_its_other_one() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let (hole, _listener, _held) = black_hole().await;
    let plane = Plane::start(world(&[hole, pods[0].address()], json!({}))).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    for _ in 0..5 {
        assert!(served(&ca, address).await.is_some());
    }
    let counted = cluster(&gateway).await;
    println!(
        "happy eyeballs: 5 of 5 connections past a black-holed first address, {} attempts timed out",
        counted["timed_out"]
    );
    // Neither an endpoint beside it nor a second attempt helped: there is none.
    let counts =
        ["connected", "hedged", "timed_out", "refused"].map(|count| counted[count].as_u64().unwrap());
    assert_eq!(counts, [5, 0, 0, 0], "{counted}");
}

/// A connection that has sent its hello.
async fn begun(gateway: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(&client_hello(NAME, &["istio"])).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_connections_than_may_wait_for_an_endpoint_do() {
    let (hole, _listener, _held) = black_hole().await;
    let limits = json!({ "circuit_breakers": { "thresholds": [{ "max_pending_requests": 2 }] } });
    let plane = Plane::start(world(&[hole], limits)).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, dir| {
        layers.flag("access_log.path", Some(dir.join("access.log").display().to_string()))
    })
    .await;
    let address = gateway.ready().await;
    let waiting = [begun(address).await, begun(address).await];
    let both_wait = |text: &str| {
        let clusters: Value = serde_json::from_str(text).unwrap();
        clusters["clusters"][0]["endpoints"][0]["connecting"] == 2
    };
    gateway.until("/clusters?format=json", both_wait).await;
    let mut answer = Vec::new();
    begun(address).await.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 80], "internal_error, and the end");
    let counted = cluster(&gateway).await;
    assert_eq!((&counted["pending_overflow"], &counted["overflow"]), (&1.into(), &0.into()), "{counted}");
    let overflow =
        format!("upstream_connect_failures_total{{cluster=\"{NAME}\",reason=\"pending_overflow\"}}");
    gateway.metric_until(&overflow, |count| count == 1.0).await;
    // The place of one that leaves is free again.
    let [first, _second] = waiting;
    first.set_zero_linger().unwrap();
    drop(first);
    gateway.until("/clusters?format=json", |text| !both_wait(text)).await;
    let _third = begun(address).await;
    gateway.until("/clusters?format=json", both_wait).await;
    let path = gateway.directory.path().join("access.log");
    let told = async {
        loop {
            let log = std::fs::read_to_string(&path).unwrap();
            let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(record) = records.into_iter().find(|record| record["flag"] == "UO") {
                return record;
            }
            tokio::task::yield_now().await;
        }
    };
    let record = tokio::time::timeout(PATIENCE, told).await.expect("its record");
    assert!(record["error"].as_str().unwrap().contains("max_pending_requests"), "{record}");
}
