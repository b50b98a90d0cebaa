//! How long a mesh takes from bytes to snapshot: 10,000 clusters of 20 endpoints with a filter chain each, then single
//! EDS updates on top. `cargo run --release -p eastgate-config --example xds_scale`

#[allow(dead_code)]
#[path = "../src/xds/tests/made.rs"]
mod made;

use std::time::{Duration, Instant};

use eastgate_config::xds::{CLUSTER, Client, ENDPOINTS, LISTENER, Node, Options, Response, Variant};
use eastgate_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use made::Made;

const CLUSTERS: usize = 10_000;
const UPDATES: usize = 10_000;

fn name(index: usize) -> String {
    format!("outbound_.8000_._.service-{index}.namespace.svc.cluster.local")
}

fn response(type_url: &str, made: Vec<Made>) -> Response {
    Response::Delta(DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: "n".into(),
        resources: made.into_iter().map(Made::envelope).collect(),
        ..Default::default()
    })
}

fn receive(client: &mut Client, response: Response) {
    client.receive(response, Duration::ZERO);
    while client.poll_transmit().is_some() {}
}

#[allow(clippy::disallowed_methods, reason = "an example may look at the clock")]
fn main() {
    let hosts: Vec<u8> = (1..=20).collect();
    let clusters = response(CLUSTER, (0..CLUSTERS).map(|index| made::eds(&name(index), 10)).collect());
    let endpoints = response(ENDPOINTS, (0..CLUSTERS).map(|index| made::cla(&name(index), &hosts)).collect());
    let names: Vec<String> = (0..CLUSTERS).map(name).collect();
    let chains: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let listener = response(LISTENER, vec![made::lds("0.0.0.0_15443", &chains)]);

    let mut client = Client::new(Variant::Delta, &Node::default(), Options::default());
    client.connected(Duration::ZERO);
    while client.poll_transmit().is_some() {}
    let start = Instant::now();
    for (what, response) in [("clusters", clusters), ("endpoints", endpoints), ("listener", listener)] {
        let before = Instant::now();
        receive(&mut client, response);
        println!("{what}: {:?}", before.elapsed());
    }
    println!("{} clusters in the snapshot after {:?}", client.snapshot().clusters.len(), start.elapsed());
    client.poll_changes();

    let updates: Vec<Response> = (0..UPDATES)
        .map(|index| response(ENDPOINTS, vec![made::cla(&name(index % CLUSTERS), &hosts[1..])]))
        .collect();
    let before = Instant::now();
    for update in updates {
        receive(&mut client, update);
        client.poll_changes();
    }
    println!("one EDS update: {:?}", before.elapsed() / UPDATES as u32);
}
