//! Arbitrary bytes as a resource of every type that is decoded, through a whole client: decoding, acceptance, assembly,
//! the answer, what the admin interface prints of it, and the way over the state directory.

#![no_main]

use std::time::Duration;

use eastgate_config::xds::{
    CLUSTER, Client, ENDPOINTS, ExtraType, Json, LISTENER, NAME_TABLE, Node, Options, Response, Variant,
};
use eastgate_proto::Message;
use eastgate_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use eastgate_proto::google::protobuf::Any;
use libfuzzer_sys::fuzz_target;

const TYPES: [&str; 4] = [CLUSTER, ENDPOINTS, LISTENER, NAME_TABLE];

fuzz_target!(|bytes: &[u8]| {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = client(variant);
        client.connected(Duration::ZERO);
        while client.poll_transmit().is_some() {}
        for type_url in TYPES {
            client.receive(alone(variant, type_url, bytes), Duration::ZERO);
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
        leads_somewhere(&client);
        for type_url in TYPES {
            for (_, _, body) in client.accepted(type_url) {
                // What cannot be printed is an error for whoever asked, and no more.
                let _ = serde_json::to_vec(&Json::new(type_url, body));
            }
        }
        let mut restored = self::client(variant);
        restored.restore(client.saved(), Duration::ZERO);
        restored.timeout(Duration::from_secs(3600));
        leads_somewhere(&restored);
        assert_eq!(restored.saved(), client.saved());
    }
});

fn client(variant: Variant) -> Client {
    let names = ExtraType { type_url: NAME_TABLE.into(), names: Vec::new() };
    Client::new(variant, &Node::default(), Options { extra_types: vec![names], ..Options::default() })
}

/// A response with these bytes as its one resource.
fn alone(variant: Variant, type_url: &str, bytes: &[u8]) -> Response {
    let any = Any { type_url: type_url.into(), value: bytes.to_vec() };
    let type_url = type_url.to_owned();
    match variant {
        Variant::Sotw => {
            Response::Sotw(DiscoveryResponse { type_url, resources: vec![any], ..Default::default() })
        }
        Variant::Delta => {
            let resource = Resource { resource: Some(any), ..Default::default() };
            Response::Delta(DeltaDiscoveryResponse {
                type_url,
                resources: vec![resource],
                ..Default::default()
            })
        }
    }
}

/// Every chain leads to a cluster that is there.
fn leads_somewhere(client: &Client) {
    let snapshot = client.snapshot();
    for listener in snapshot.listeners.values() {
        assert!(listener.clusters().all(|cluster| snapshot.clusters.contains_key(cluster)));
    }
}
