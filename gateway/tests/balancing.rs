//! How connections are spread over endpoints that are new, slow or in other zones. Real TLS pods and clients, the app that
//! `eastgate run` starts, a control plane.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/fed.rs"]
mod fed;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use eastgate_config::bootstrap::Layers;
use eastgate_config::xds::{CLUSTER, ENDPOINTS};
use eastgate_loadtest::ca::Ca;
use fed::*;
use plane::Plane;
use resources::{Resources, from_json};
use serde_json::{Value, json};
use support::*;
use tokio::net::{TcpListener, TcpStream};

/// The usual cluster with these fields as well, and its endpoints by locality.
fn world(localities: &[(&str, &[SocketAddr])], fields: Value) -> Resources {
    let mut resources = Resources::serving(&[(NAME, &[])]);
    add(&mut resources, NAME, localities, fields);
    resources
}

fn add(resources: &mut Resources, name: &str, localities: &[(&str, &[SocketAddr])], fields: Value) {
    let mut cluster = json!({
        "name": name,
        "type": "EDS",
        "connect_timeout": "5s",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
    });
    cluster.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let endpoint = |pod: &SocketAddr| {
        json!({ "endpoint": { "address": {
        "socket_address": { "address": pod.ip(), "port_value": pod.port() },
    } } })
    };
    let locality = |(zone, pods): &(&str, &[SocketAddr])| {
        json!({
            "locality": { "region": "r", "zone": zone },
            "lb_endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
        })
    };
    let localities: Vec<_> = localities.iter().map(locality).collect();
    let assignment = json!({ "cluster_name": name, "endpoints": localities });
    resources.clusters.insert(name.into(), from_json(CLUSTER, &cluster));
    resources.endpoints.insert(name.into(), from_json(ENDPOINTS, &assignment));
}

/// Which pod answered how many of so many connections, one after the other.
async fn answered(ca: &Ca, gateway: SocketAddr, connections: usize) -> BTreeMap<String, usize> {
    let client = mesh_client(ca);
    let mut counts = BTreeMap::new();
    for _ in 0..connections {
        let response = client.get(gateway, NAME, "/hostname").await.unwrap();
        *counts.entry(response.pod().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

/// What `/clusters` says of an endpoint of the usual cluster.
async fn field(gateway: &Fed, pod: SocketAddr, field: &str) -> f64 {
    let clusters: Value = serde_json::from_str(&gateway.admin("/clusters?format=json").await.1).unwrap();
    let mut all = clusters["clusters"].as_array().unwrap().iter().filter(|cluster| cluster["name"] == NAME);
    let endpoints = all.next().unwrap()["endpoints"].as_array().unwrap();
    let endpoint = endpoints.iter().find(|endpoint| endpoint["address"] == pod.to_string());
    endpoint.and_then(|endpoint| endpoint[field].as_f64()).unwrap_or_default()
}

async fn is_warm(gateway: &Fed, pod: SocketAddr) {
    let waiting = async {
        while field(gateway, pod, "warmth").await < 1.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it comes to its share");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_pod_begins_with_few_connections_and_comes_to_its_share() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 2).await;
    let all = addresses(&pods);
    let slowly = json!({
        "lb_policy": "ROUND_ROBIN",
        "round_robin_lb_config": { "slow_start_config": { "slow_start_window": "8s" } },
    });
    let plane = Plane::start(world(&[("z", &all[..1])], slowly.clone())).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    is_warm(&gateway, all[0]).await;
    plane.change(|control| control.resources = world(&[("z", &all)], slowly));
    gateway.until("/clusters", |text| text.contains(&format!("{NAME}::{}::", all[1]))).await;
    let (mut cold, mut of_the_new) = (0, 0);
    loop {
        let counts = answered(&ca, address, 40).await;
        if field(&gateway, all[1], "warmth").await > 0.6 {
            break;
        }
        cold += 40;
        of_the_new += counts.get("httpbin-1").copied().unwrap_or(0);
    }
    assert!(cold > 0, "the machine is too slow to see it");
    // The share of the new one is at most 0.6 of 1.6.
    assert!(of_the_new * 100 <= cold * 40, "{of_the_new} of {cold}");
    is_warm(&gateway, all[1]).await;
    let even = async {
        loop {
            let counts = answered(&ca, address, 100).await;
            if counts.get("httpbin-1").is_some_and(|count| (48..=52).contains(count)) {
                return counts;
            }
        }
    };
    let counts = tokio::time::timeout(PATIENCE, even).await.expect("it has its share in the end");
    println!(
        "slow start: the new pod got {of_the_new} of {cold} until it was at 0.6 of its weight, and of 100 then {counts:?}"
    );
}

/// A way to a pod that takes a moment until it passes anything on.
async fn slow_way(pod: SocketAddr, moment: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(moment).await;
                let mut upstream = TcpStream::connect(pod).await.unwrap();
                // Whoever breaks it off, the client's own test tells.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_pod_gets_fewer_connections_where_time_counts_and_as_many_where_it_does_not() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 3).await;
    let mut all = addresses(&pods);
    all[2] = slow_way(all[2], Duration::from_millis(60)).await;
    let plane = Plane::start(world(&[("z", &all)], json!({ "lb_policy": "LEAST_REQUEST" }))).await;
    let mut shares = BTreeMap::new();
    for peak_ewma in [false, true] {
        let setting = |layers: Layers, _: &Path| layers.flag("upstream.peak_ewma", Some(peak_ewma));
        let mut gateway = Fed::start(&[&plane.address], setting).await;
        let address = gateway.ready().await;
        // By one client after the other nothing is open when the next is placed: only time tells them apart.
        let counts = answered(&ca, address, 120).await;
        let latency =
            [field(&gateway, all[0], "latency_ms").await, field(&gateway, all[2], "latency_ms").await];
        println!("peak EWMA {peak_ewma}: {counts:?}, remembered {latency:.1?} ms of a fast and the slow one");
        shares.insert(peak_ewma, counts.get("httpbin-2").copied().unwrap_or(0));
    }
    assert!((25..=55).contains(&shares[&false]), "a third of 120: {shares:?}");
    // Only when both draws name it, one time in nine.
    assert!(shares[&true] <= 24 && shares[&true] * 3 < shares[&false] * 2, "{shares:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_stay_in_the_gateways_zone_as_far_as_it_has_room() {
    const PLACES: [&str; 3] = ["z0", "z1", "z2"];
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 6).await;
    let all = addresses(&pods);
    // So many pods and replicas of the gateway in each zone; the gateway is in the first.
    let world_of = |counts: [usize; 3], replicas: [u8; 3]| {
        let mut rest = &all[..];
        let zones = std::array::from_fn(|zone| rest.split_off(..counts[zone]).unwrap());
        let [a, b, c] = zones;
        let localities = [(PLACES[0], a), (PLACES[1], b), (PLACES[2], c)];
        let mut resources = world(&localities, json!({ "common_lb_config": { "zone_aware_lb_config": {} } }));
        let replica = |zone: u8, number| SocketAddr::from(([192, 0, 2, 10 * zone + number], 15443));
        let replicas: Vec<Vec<_>> = (0..3)
            .map(|zone| (0..replicas[usize::from(zone)]).map(|number| replica(zone, number)).collect())
            .collect();
        let replicas: Vec<_> = PLACES.into_iter().zip(replicas.iter().map(Vec::as_slice)).collect();
        add(&mut resources, "gateways", &replicas, json!({}));
        resources
    };
    let in_z0 = |layers: Layers, _: &Path| {
        layers
            .flag("node.local_cluster", Some("gateways"))
            .flag("node.labels", Some(json!({ "istio-locality": "r.z0" })))
    };
    let plane = Plane::start(world_of([2, 2, 2], [1, 1, 1])).await;
    let mut gateway = Fed::start(&[&plane.address], in_z0).await;
    let address = gateway.ready().await;
    for (counts, replicas, wanted) in [
        ([2, 2, 2], [1, 1, 1], [100.0, 0.0, 0.0]),
        // A sixth of the pods for a third of the replicas: half stays, and the rest goes where pods have room left.
        ([1, 3, 2], [1, 1, 1], [50.0, 50.0, 0.0]),
        ([1, 4, 1], [2, 1, 1], [33.3, 66.7, 0.0]),
    ] {
        plane.change(|control| control.resources = world_of(counts, replicas));
        let line = |zone: usize, pod: SocketAddr| format!("{NAME}::{pod}::zone::{}\n", PLACES[zone]);
        let zones = (0..3).flat_map(|zone| std::iter::repeat_n(zone, counts[zone]));
        let mut lines: Vec<_> = zones.zip(&all).map(|(zone, pod)| line(zone, *pod)).collect();
        lines.extend((0..3_u8).flat_map(|zone| {
            (0..replicas[usize::from(zone)])
                .map(move |number| format!("gateways::192.0.2.{}:15443::", 10 * zone + number))
        }));
        let count = replicas.iter().map(|count| usize::from(*count)).sum::<usize>();
        let is_known = |text: &str| {
            let known =
                text.lines().filter(|line| line.starts_with("gateways::192") && line.contains("::weight::"));
            lines.iter().all(|line| text.contains(line)) && known.count() == count
        };
        gateway.until("/clusters", is_known).await;
        let answers = answered(&ca, address, 300).await;
        let mut shares = [0.0; 3];
        let zone_of = |pod: usize| (0..3).find(|zone| pod < counts[..=*zone].iter().sum()).unwrap();
        for (pod, answers) in answers {
            shares[zone_of(pod["httpbin-".len()..].parse().unwrap())] += answers as f64 / 3.0;
        }
        println!("zones: pods {counts:?}, replicas {replicas:?}: {shares:.1?} of {wanted:.1?} percent");
        for (got, wanted) in shares.iter().zip(wanted) {
            // Of 300 connections, 12 % are four standard deviations.
            let close =
                if wanted == 0.0 || wanted == 100.0 { *got == wanted } else { (got - wanted).abs() < 12.0 };
            assert!(close, "pods {counts:?}, replicas {replicas:?}: {shares:?}");
        }
    }
}
