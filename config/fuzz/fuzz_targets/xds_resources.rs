//! Arbitrary bytes as a resource of every type, through a whole client: decoding, acceptance, assembly, and the answer.

#![no_main]

use std::time::Duration;

use eastgate_config::xds::{CLUSTER, Client, ENDPOINTS, LISTENER, Node, Options, Response, Variant};
use eastgate_proto::Message;
use eastgate_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use eastgate_proto::google::protobuf::Any;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut client = Client::new(Variant::Sotw, &Node::default(), Options::default());
    client.connected(Duration::ZERO);
    while client.poll_transmit().is_some() {}
    for type_url in [CLUSTER, ENDPOINTS, LISTENER] {
        let any = Any { type_url: type_url.into(), value: bytes.to_vec() };
        let response =
            DiscoveryResponse { type_url: type_url.into(), resources: vec![any], ..Default::default() };
        client.receive(Response::Sotw(response), Duration::ZERO);
        while client.poll_transmit().is_some() {}
    }
    if let Ok(response) = DiscoveryResponse::decode(bytes) {
        client.receive(Response::Sotw(response), Duration::from_secs(1));
    }
    if let Ok(response) = DeltaDiscoveryResponse::decode(bytes) {
        client.receive(Response::Delta(response), Duration::from_secs(2));
    }
    while client.poll_transmit().is_some() {}
    client.timeout(Duration::from_secs(3600));
    let snapshot = client.snapshot();
    for listener in snapshot.listeners.values() {
        assert!(listener.clusters().all(|cluster| snapshot.clusters.contains_key(cluster)));
    }
});
