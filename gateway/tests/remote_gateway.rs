//! A bad pod behind the gateways of another network: these are not ejected for it, as ordinary endpoints would be (istio#52435).
//! Two real Eastgates stand for the other network; a third one is fed with them by a control plane.

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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use eastgate_config::bootstrap::Layers;
use eastgate_config::xds::{CLUSTER, ENDPOINTS};
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::RawOrigin;
use fed::*;
use plane::Plane;
use resources::{Resources, from_json};
use serde_json::{Value, json};
use support::*;
use tokio::task::JoinSet;

/// Endpoints at these addresses; what istiod says of the gateways of other networks, or of pods.
fn world(addresses: &[SocketAddr], workload: &str) -> Resources {
    let mut resources = Resources::serving(&[(NAME, addresses)]);
    let cluster = json!({
        "name": NAME,
        "type": "EDS",
        "connect_timeout": "5s",
        "lb_policy": "ROUND_ROBIN",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
        "outlier_detection": {
            "consecutive_5xx": 3, "interval": "1s", "base_ejection_time": "600s", "max_ejection_percent": 100,
        },
    });
    let endpoint = |address: &SocketAddr| {
        json!({
            "endpoint": { "address": { "socket_address": { "address": address.ip(), "port_value": address.port() } } },
            "metadata": { "filter_metadata": { "istio": { "workload": workload } } },
        })
    };
    let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    let assignment = json!({ "cluster_name": NAME, "endpoints": [{ "lb_endpoints": endpoints }] });
    resources.clusters.insert(NAME.into(), from_json(CLUSTER, &cluster));
    resources.endpoints.insert(NAME.into(), from_json(ENDPOINTS, &assignment));
    resources
}

/// A gateway of the other network: it tries one pod for each connection, so that its clients see the bad one.
async fn remote(address: &'static str, pods: &[SocketAddr]) -> Gateway {
    let settings = |layers: Layers| {
        layers
            .flag("listen.ports", Some(json!({ "15443": address })))
            .flag("upstream.connect_attempts", Some(1))
            .flag("drain.grace", Some("0s"))
            .flag("drain.timeout", Some("0s"))
    };
    let mut documents = mesh(pods);
    documents.retain(|(name, _)| !["policy.json", "gateway.json"].contains(name));
    documents.push(("policy.json", policy(json!({ "loadBalancer": { "simple": "RANDOM" } }))));
    documents.push(("gateway.json", gateway(&["*.local"])));
    Gateway::start_with(&documents, settings).await
}

/// Clients that ask one after the other; what they get does not matter here.
struct Clients {
    end: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Clients {
    fn start(ca: &Ca, gateway: SocketAddr) -> Self {
        let (end, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..2 {
            let (client, end, asked) = (mesh_client(ca), Arc::clone(&end), Arc::clone(&asked));
            tasks.spawn(async move {
                while !end.load(Relaxed) {
                    let _ = client.get(gateway, NAME, "/hostname").await;
                    asked.fetch_add(1, Relaxed);
                }
            });
        }
        Self { end, asked, tasks }
    }

    async fn finish(mut self) -> usize {
        self.end.store(true, Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.asked.load(Relaxed)
    }
}

fn endpoints(text: &str) -> Vec<Value> {
    let clusters: Value = serde_json::from_str(text).unwrap();
    clusters["clusters"][0]["endpoints"].as_array().unwrap().clone()
}

fn ejected(text: &str) -> bool {
    endpoints(text).iter().any(|endpoint| endpoint["out"] != json!([]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_pod_behind_gateways_of_another_network_does_not_eject_them_and_their_own_failure_does() {
    let ca = Ca::new().unwrap();
    let good = pods(&ca, 1).await;
    // It takes the connection and closes it when it has read the hello: a sidecar without a certificate.
    let bad = RawOrigin::Say(Vec::new()).start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let behind = [good[0].address(), bad.address()];
    let (one, other) =
        (remote("127.15.44.3:15443", &behind).await, remote("127.15.44.4:15443", &behind).await);
    let gateways = [one.address, other.address];
    let setting = |layers: Layers, _: &Path| layers.flag("upstream.connect_attempts", Some(1));

    // Of two ordinary endpoints that leave half of the hellos unanswered, one is ejected: nobody knows better.
    let plane = Plane::start(world(&gateways, "httpbin-1;bar;httpbin;;remote")).await;
    let mut as_pods = Fed::start(&[&plane.address], setting).await;
    let clients = Clients::start(&ca, as_pods.ready().await);
    as_pods.until("/clusters?format=json", ejected).await;
    let asked = clients.finish().await;
    println!("taken for pods: one of the two was ejected within {asked} connections");

    let plane = Plane::start(world(&gateways, ";;;;remote")).await;
    let mut gateway = Fed::start(&[&plane.address], setting).await;
    let clients = Clients::start(&ca, gateway.ready().await);
    let unanswered = |text: &str| {
        endpoints(text).iter().map(|endpoint| endpoint["hellos"]["closed"].as_u64().unwrap()).min().unwrap()
    };
    gateway.until("/clusters?format=json", |text| ejected(text) || unanswered(text) >= 60).await;
    let text = gateway.admin("/clusters?format=json").await.1;
    assert!(!ejected(&text), "{text}");
    println!(
        "taken for gateways: none ejected, with {} and more hellos unanswered behind each",
        unanswered(&text)
    );

    // A gateway that takes no connections itself is ejected like any endpoint, while the other is left.
    other.app.stop().await;
    gateway.until("/clusters?format=json", ejected).await;
    let out: Vec<_> = endpoints(&gateway.admin("/clusters?format=json").await.1);
    let is_out = |address: SocketAddr| {
        let endpoint = out.iter().find(|endpoint| endpoint["address"] == address.to_string()).unwrap();
        endpoint["out"] != json!([])
    };
    assert_eq!((is_out(gateways[0]), is_out(gateways[1])), (false, true), "{out:?}");
    let asked = clients.finish().await;
    println!(
        "one gateway stopped: it was ejected, the last one of its network stays; {asked} connections in all"
    );
}
