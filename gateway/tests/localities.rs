//! Three priorities of three localities each, while endpoints fail: where connections go, and that all are served.
//! Real TLS pods and clients, the app that `eastgate run` starts, a control plane that tells of health.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/fed.rs"]
mod fed;
#[path = "support/load.rs"]
mod load;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use eastgate_config::bootstrap::Layers;
use eastgate_config::xds::{CLUSTER, ENDPOINTS};
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{Options, Origin};
use fed::*;
use load::Load;
use plane::Plane;
use resources::{Resources, from_json};
use serde_json::json;
use support::*;

/// By locality; the same in each priority.
const WEIGHTS: [u32; 3] = [1, 2, 3];
const CONNECTIONS: usize = 450;
const CLIENTS: usize = 9;

/// A pod for each priority and locality, in this order; those at these places are ill.
fn world(pods: &[SocketAddr], ill: &[(usize, usize)], panic_threshold: u32) -> Resources {
    let mut resources = Resources::serving(&[(NAME, pods)]);
    let cluster = json!({
        "name": NAME,
        "type": "EDS",
        "connect_timeout": "5s",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
        "common_lb_config": {
            "locality_weighted_lb_config": {},
            "healthy_panic_threshold": { "value": panic_threshold },
        },
    });
    let locality = |(index, pod): (usize, &SocketAddr)| {
        let (priority, zone) = (index / 3, index % 3);
        let health = if ill.contains(&(priority, zone)) { "UNHEALTHY" } else { "HEALTHY" };
        json!({
            "locality": { "region": "r", "zone": format!("z{zone}") },
            "priority": priority,
            "load_balancing_weight": WEIGHTS[zone],
            "lb_endpoints": [{
                "endpoint": { "address": { "socket_address": { "address": pod.ip(), "port_value": pod.port() } } },
                "health_status": health,
            }],
        })
    };
    let localities: Vec<_> = pods.iter().enumerate().map(locality).collect();
    let assignment = json!({ "cluster_name": NAME, "endpoints": localities });
    resources.clusters.insert(NAME.into(), from_json(CLUSTER, &cluster));
    resources.endpoints.insert(NAME.into(), from_json(ENDPOINTS, &assignment));
    resources
}

/// How many of all connections each pod answered, in percent. Every one of them is answered.
async fn shares(ca: &Ca, gateway: SocketAddr) -> BTreeMap<String, f64> {
    let client = |_| {
        let client = mesh_client(ca);
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..CONNECTIONS / CLIENTS {
                let response = client.get(gateway, NAME, "/hostname").await.unwrap();
                answers.push(response.pod().unwrap().to_owned());
            }
            answers
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(client).collect();
    let mut shares = BTreeMap::new();
    for client in clients {
        for pod in client.await.unwrap() {
            *shares.entry(pod).or_default() += 100.0 / CONNECTIONS as f64;
        }
    }
    shares
}

fn name(priority: usize, zone: usize) -> String {
    format!("httpbin-{}", priority * 3 + zone)
}

/// Who is ill, and what the others get, priority by priority and locality by locality.
type Row = (&'static [(usize, usize)], [[f64; 3]; 3]);

const ROWS: [Row; 7] = [
    (&[], [[16.7, 33.3, 50.0], [0.0; 3], [0.0; 3]]),
    // Two of three, 67 %, times 1.4: 93 % stay.
    (&[(0, 2)], [[31.0, 62.0, 0.0], [1.2, 2.3, 3.5], [0.0; 3]]),
    (&[(0, 1), (0, 2)], [[46.0, 0.0, 0.0], [9.0, 18.0, 27.0], [0.0; 3]]),
    (&[(0, 0), (0, 1), (0, 2)], [[0.0; 3], [16.7, 33.3, 50.0], [0.0; 3]]),
    (&[(0, 0), (0, 1), (0, 2), (1, 0)], [[0.0; 3], [0.0, 37.2, 55.8], [1.2, 2.3, 3.5]]),
    (&[(0, 0), (0, 1), (1, 1), (1, 2)], [[0.0, 0.0, 46.0], [46.0, 0.0, 0.0], [1.3, 2.7, 4.0]]),
    (
        &[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 2)],
        [[0.0; 3], [0.0; 3], [0.0, 100.0, 0.0]],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_go_where_endpoints_are_well_by_priority_and_locality() {
    let ca = Ca::new().unwrap();
    let all = pods_apart(&ca, 9).await;
    let addresses = addresses(&all);
    let plane = Plane::start(world(&addresses, &[], 0)).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    for (ill, wanted) in ROWS {
        plane.change(|control| control.resources = world(&addresses, ill, 0));
        is_known(&gateway, &addresses, ill).await;
        let shares = shares(&ca, address).await;
        println!("ill {ill:?}: {shares:.1?}");
        for (priority, zones) in wanted.iter().enumerate() {
            for (zone, wanted) in zones.iter().enumerate() {
                let got = shares.get(&name(priority, zone)).copied().unwrap_or(0.0);
                // Of 450 connections, 10 % are more than four standard deviations.
                let close = if *wanted == 0.0 { got == 0.0 } else { (got - wanted).abs() < 10.0 };
                assert!(close, "ill {ill:?}: {} gets {got:.1} % and not {wanted} %", name(priority, zone));
            }
        }
    }
    // Where fewer than all that are well are a panic, health is not regarded any more.
    let ill = &ROWS[6].0[..7];
    plane.change(|control| control.resources = world(&addresses, ill, 100));
    is_known(&gateway, &addresses, ill).await;
    let used: BTreeSet<String> = shares(&ca, address).await.into_keys().collect();
    assert_eq!(used.len(), 9, "{used:?}");
}

/// Waits until the gateway has heard who is ill, and that the others are not.
async fn is_known(gateway: &Fed, pods: &[SocketAddr], ill: &[(usize, usize)]) {
    let line = |(index, pod): (usize, &SocketAddr)| {
        let health = if ill.contains(&(index / 3, index % 3)) { "/failed_eds_health" } else { "healthy" };
        format!("{NAME}::{pod}::health_flags::{health}\n")
    };
    let lines: Vec<_> = pods.iter().enumerate().map(line).collect();
    gateway.until("/clusters", |text| lines.iter().all(|line| text.contains(line))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_die_untold_cost_no_connection_while_another_of_any_priority_lives() {
    let ca = Ca::new().unwrap();
    let mut all: BTreeMap<usize, Origin> = pods_apart(&ca, 9).await.into_iter().enumerate().collect();
    let addresses: Vec<_> = all.values().map(Origin::address).collect();
    let plane = Plane::start(world(&addresses, &[], 0)).await;
    let attempts = |layers: Layers, _: &Path| layers.flag("upstream.connect_attempts", Some(9));
    let mut gateway = Fed::start(&[&plane.address], attempts).await;
    let address = gateway.ready().await;
    // One after the other, of every locality and priority: the whole of the first before the last of the second.
    for dies in [0, 4, 1, 8, 2, 3, 5, 6] {
        all.remove(&dies).unwrap().stop().await;
        let used: BTreeSet<String> = shares(&ca, address).await.into_keys().collect();
        println!("without {dies}: {used:?}");
        let nearest = all.keys().map(|index| index / 3).min().unwrap();
        let wanted = all.keys().filter(|index| *index / 3 == nearest);
        assert_eq!(used, wanted.map(|index| name(nearest, index % 3)).collect(), "without {dies}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_of_a_name_meet_at_one_pod_where_the_name_is_hashed() {
    let ca = Ca::new().unwrap();
    let all = pods_apart(&ca, 3).await;
    let mut resources = world(&addresses(&all), &[], 0);
    let cluster = json!({
        "name": NAME,
        "type": "EDS",
        "connect_timeout": "5s",
        "lb_policy": "MAGLEV",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
    });
    resources.clusters.insert(NAME.into(), from_json(CLUSTER, &cluster));
    let plane = Plane::start(resources).await;
    for (hash_by, used) in [("server_name", 1), ("source_ip", 3)] {
        let setting = |layers: Layers, _: &Path| layers.flag("upstream.hash_by", Some(hash_by));
        let mut gateway = Fed::start(&[&plane.address], setting).await;
        let address = gateway.ready().await;
        // The chain hashes no address: without a name to hash, chance decides.
        assert_eq!(shares(&ca, address).await.len(), used, "by {hash_by}");
    }
}

/// Two pods for each priority and locality, checked by connecting to them; each pod's place among all is `2 * (3 * priority + zone)`
/// and the next.
fn checked_world(pods: &[SocketAddr]) -> Resources {
    let mut resources = Resources::serving(&[(NAME, pods)]);
    let cluster = json!({
        "name": NAME,
        "type": "EDS",
        "connect_timeout": "5s",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
        "common_lb_config": { "locality_weighted_lb_config": {}, "healthy_panic_threshold": { "value": 0 } },
        "health_checks": [{
            "timeout": "2s", "interval": "0.2s", "no_traffic_interval": "0.2s",
            "unhealthy_threshold": 1, "healthy_threshold": 1, "tcp_health_check": {},
        }],
    });
    let locality = |(index, two): (usize, &[SocketAddr])| {
        let endpoint = |pod: &SocketAddr| {
            json!({ "endpoint": { "address": {
            "socket_address": { "address": pod.ip(), "port_value": pod.port() },
        } } })
        };
        json!({
            "locality": { "region": "r", "zone": format!("z{}", index % 3) },
            "priority": index / 3,
            "load_balancing_weight": WEIGHTS[index % 3],
            "lb_endpoints": two.iter().map(endpoint).collect::<Vec<_>>(),
        })
    };
    let localities: Vec<_> = pods.chunks(2).enumerate().map(locality).collect();
    let assignment = json!({ "cluster_name": NAME, "endpoints": localities });
    resources.clusters.insert(NAME.into(), from_json(CLUSTER, &cluster));
    resources.endpoints.insert(NAME.into(), from_json(ENDPOINTS, &assignment));
    resources
}

/// What each priority and locality gets, in percent, with so many of its two pods alive: Envoy's published formulas.
fn by_formula(alive: [[u32; 3]; 3]) -> [[f64; 3]; 3] {
    let capacity = alive.map(|zones| (1.4 * f64::from(zones.iter().sum::<u32>()) / 6.0).min(1.0));
    let normal = capacity.iter().sum::<f64>().min(1.0);
    let mut left = 1.0_f64;
    let loads = capacity.map(|capacity| {
        let load = (capacity / normal).min(left);
        left -= load;
        load
    });
    std::array::from_fn(|priority| {
        let weight =
            |zone: usize| f64::from(WEIGHTS[zone]) * (0.7 * f64::from(alive[priority][zone])).min(1.0);
        let sum: f64 = (0..3).map(weight).sum();
        std::array::from_fn(
            |zone| if sum == 0.0 { 0.0 } else { 100.0 * loads[priority] * weight(zone) / sum },
        )
    })
}

/// How many pods of each priority and locality are alive, one row after the other.
const LIVES: [[[u32; 3]; 3]; 6] = [
    [[2, 2, 2], [2, 2, 2], [2, 2, 2]],
    [[2, 2, 0], [2, 2, 2], [2, 2, 2]],
    [[1, 0, 1], [2, 1, 2], [2, 2, 2]],
    [[0, 0, 0], [1, 0, 1], [0, 2, 1]],
    [[0, 1, 0], [0, 0, 1], [1, 1, 1]],
    [[2, 2, 2], [0, 1, 2], [2, 0, 2]],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_follow_pods_that_die_and_come_back_under_load_and_no_client_sees_it() {
    let ca = Ca::new().unwrap();
    let mut alive: BTreeMap<usize, Origin> = pods_apart(&ca, 18).await.into_iter().enumerate().collect();
    let addresses: Vec<_> = alive.values().map(Origin::address).collect();
    let plane = Plane::start(checked_world(&addresses)).await;
    let attempts = |layers: Layers, directory: &Path| {
        let log = directory.join("access.log").display().to_string();
        layers.flag("upstream.connect_attempts", Some(18)).flag("access_log.path", Some(log))
    };
    let mut gateway = Fed::start(&[&plane.address], attempts).await;
    let address = gateway.ready().await;
    let load = Load::start(&ca, address, &[NAME; 2]);
    for lives in LIVES {
        let is_to_live = |place: usize| place % 2 < lives[place / 6][place / 2 % 3] as usize;
        // Those that come back first, or there might be a moment in which nobody is alive.
        for (place, pod) in addresses.iter().enumerate() {
            if is_to_live(place) && !alive.contains_key(&place) {
                alive.insert(place, restored(&ca, *pod, place).await);
            }
        }
        gateway.until("/clusters", |text| is_seen(text, &addresses, &alive)).await;
        for place in (0..addresses.len()).filter(|place| !is_to_live(*place)) {
            if let Some(dies) = alive.remove(&place) {
                dies.retire().await;
            }
        }
        gateway.until("/clusters", |text| is_seen(text, &addresses, &alive)).await;
        let shares = shares(&ca, address).await;
        let got = |priority: usize, zone: usize| {
            let place = 2 * (3 * priority + zone);
            let of = |place| shares.get(&format!("httpbin-{place}")).copied().unwrap_or(0.0);
            of(place) + of(place + 1)
        };
        let got: [[f64; 3]; 3] =
            std::array::from_fn(|priority| std::array::from_fn(|zone| got(priority, zone)));
        let wanted = by_formula(lives);
        println!("alive {lives:?}: {got:.1?} of {wanted:.1?} percent");
        for (got, wanted) in got.iter().flatten().zip(wanted.iter().flatten()) {
            // Of 450 connections, 10 % are more than four standard deviations.
            let close = if *wanted == 0.0 { *got == 0.0 } else { (got - wanted).abs() < 10.0 };
            assert!(close, "{lives:?}: {got:.1} % and not {wanted:.1} %");
        }
    }
    let done = load.finish().await;
    if !done.failed.is_empty() {
        let log = std::fs::read_to_string(gateway.directory.path().join("access.log")).unwrap();
        let refused = log.lines().filter(|line| line.contains("\"UF\"") || line.contains("\"UH\""));
        refused.for_each(|line| println!("{line}"));
    }
    done.assert_no_failure();
    println!("matrix under load: {} connections beside the measured ones, 0 failed", done.answered);
}

/// Are those alive healthy to the gateway, and no others?
fn is_seen(text: &str, addresses: &[SocketAddr], alive: &BTreeMap<usize, Origin>) -> bool {
    addresses.iter().enumerate().all(|(place, pod)| {
        let flags = if alive.contains_key(&place) { "healthy" } else { "/failed_active_hc" };
        text.contains(&format!("{NAME}::{pod}::health_flags::{flags}\n"))
    })
}

async fn restored(ca: &Ca, address: SocketAddr, place: usize) -> Origin {
    let mut options = Options::new(format!("httpbin-{place}"), ca.issue(&[SPIFFE]).unwrap());
    options.address = address;
    Origin::start(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_word_on_it_connections_fail_over_by_subzone_zone_and_region_as_istios_do() {
    const PLACES: [&str; 4] = ["r1/z1/s1", "r1/z1/s2", "r1/z2/s1", "r2/z1/s1"];
    let ca = Ca::new().unwrap();
    let mut pods = pods_apart(&ca, PLACES.len()).await;
    let endpoint = |(pod, place): (&Origin, &str)| {
        json!({
            "address": pod.address().ip(),
            "ports": { "http": pod.address().port() },
            "locality": place,
            "labels": { "security.istio.io/tlsMode": "istio" },
        })
    };
    // The farthest first, so that their order says nothing.
    let endpoints: Vec<_> = pods.iter().zip(PLACES).rev().map(endpoint).collect();
    let host = "httpbin.bar.global";
    let entry = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": { "name": "httpbin", "namespace": "bar" },
        "spec": {
            "hosts": [host],
            "location": "MESH_INTERNAL",
            "ports": [{ "name": "http", "number": 8000, "protocol": "HTTP" }],
            "resolution": "STATIC",
            "endpoints": endpoints,
        },
    });
    let mut rule =
        policy(json!({ "outlierDetection": { "consecutive5xxErrors": 1, "maxEjectionPercent": 100 } }));
    rule["spec"]["host"] = host.into();
    let documents = [("gateway.json", gateway(&["*.global"])), ("entry.json", entry), ("rule.json", rule)];
    let here = |layers: Layers| {
        layers.flag("node.labels", Some(json!({ "istio": "ingressgateway", "istio-locality": "r1.z1.s1" })))
    };
    let gateway = Gateway::start_with(&documents, here).await;
    let client = mesh_client(&ca);
    for (nearest, place) in PLACES.into_iter().enumerate() {
        for _ in 0..30 {
            let response = client.get(gateway.address, GLOBAL, "/hostname").await.unwrap();
            assert_eq!(response.pod(), Some(format!("httpbin-{nearest}").as_str()));
        }
        println!("failover: 30 of 30 connections from r1/z1/s1 to {place}");
        pods.remove(0).stop().await;
    }
}
