//! A large mesh as the bytes in which Istio's control plane sends it to an east-west gateway, with the metadata and
//! localities that make those bytes many. The benchmark and the example that prints the figures share it.

use std::sync::Arc;
use std::time::Duration;

use eastgate::table::Table;
use eastgate::upstream::cluster::Resolutions;
use eastgate_config::xds::{CLUSTER, Client, ENDPOINTS, LISTENER, Moment, Node, Options, Response, Variant};
use eastgate_proto::Message;
use eastgate_proto::envoy::config::cluster::v3 as cluster;
use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::config::endpoint::v3 as endpoint;
use eastgate_proto::envoy::config::listener::v3 as listener;
use eastgate_proto::envoy::extensions::filters::network::sni_cluster::v3::SniCluster;
use eastgate_proto::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use eastgate_proto::envoy::service::discovery::v3 as discovery;
use eastgate_proto::google::protobuf as pb;

/// The listener of every mesh.
pub(crate) const NAME: &str = "0.0.0.0_15443";

/// So many clusters, of so many endpoints each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mesh {
    pub(crate) clusters: usize,
    pub(crate) endpoints: usize,
    /// Where its listener is.
    pub(crate) listen: u16,
    /// The port of every pod. Their addresses are all on loopback, so that one origin there can be all of them.
    pub(crate) pods: u16,
}

pub(crate) fn name(index: usize) -> String {
    format!("outbound_.8000_._.service-{index}.namespace-{}.svc.cluster.local", index % 100)
}

impl Mesh {
    /// The first answers of a control plane, in the order in which they come.
    pub(crate) fn pushes(self) -> [Vec<u8>; 3] {
        let all = || 0..self.clusters;
        [
            push(CLUSTER, all().map(|index| (name(index), cluster(index).encode_to_vec()))),
            push(ENDPOINTS, all().map(|index| (name(index), self.assignment(index, 0).encode_to_vec()))),
            push(LISTENER, [(NAME.to_owned(), self.listener().encode_to_vec())].into_iter()),
        ]
    }

    /// One cluster's endpoints again, one of them at another address.
    pub(crate) fn update(self, index: usize, generation: usize) -> Vec<u8> {
        push(ENDPOINTS, [(name(index), self.assignment(index, generation).encode_to_vec())].into_iter())
    }

    fn assignment(self, index: usize, generation: usize) -> endpoint::ClusterLoadAssignment {
        let zones = ["a", "b"];
        let localities = zones.iter().enumerate().map(|(zone, letter)| endpoint::LocalityLbEndpoints {
            locality: Some(core::Locality {
                region: "eu-central-1".into(),
                zone: format!("eu-central-1{letter}"),
                sub_zone: String::new(),
            }),
            lb_endpoints: (0..self.endpoints)
                .filter(|number| number % zones.len() == zone)
                .map(|number| pod(index, number, if number == 0 { generation } else { 0 }, self.pods))
                .collect(),
            load_balancing_weight: Some(pb::UInt32Value { value: (self.endpoints / 2) as u32 }),
            ..Default::default()
        });
        endpoint::ClusterLoadAssignment {
            cluster_name: name(index),
            endpoints: localities.collect(),
            ..Default::default()
        }
    }

    fn listener(self) -> listener::Listener {
        listener::Listener {
            name: NAME.into(),
            address: socket("0.0.0.0".into(), self.listen.into()),
            filter_chains: (0..self.clusters).map(chain).collect(),
            ..Default::default()
        }
    }
}

/// A client with a stream, as a shell keeps it.
pub(crate) fn connected() -> Client {
    let mut client = Client::new(Variant::Delta, &Node::default(), Options::default());
    client.connected(Moment::ZERO);
    while client.poll_transmit().is_some() {}
    client
}

/// What a shell does with the bytes of a response.
pub(crate) fn receive(client: &mut Client, bytes: Vec<u8>, now: Duration) {
    // The answer to bytes that cannot be read is a matter of the shell's; these can.
    let response = discovery::DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap_or_default();
    drop(bytes);
    client.receive(Response::Delta(response), now);
    while client.poll_transmit().is_some() {}
    client.poll_changes();
}

/// What the publisher does with a snapshot.
pub(crate) fn publish(client: &Client, old: &Table) -> Table {
    let table = Table::build(Arc::new(client.snapshot().clone()), &Resolutions::new(), old);
    std::hint::black_box(table.dns_names());
    table
}

fn push(type_url: &str, made: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let resources = made.map(|(name, value)| discovery::Resource {
        name,
        version: "2026-11-22T15:00:00Z/1".into(),
        resource: Some(pb::Any { type_url: type_url.into(), value }),
        ..Default::default()
    });
    let response = discovery::DeltaDiscoveryResponse {
        type_url: type_url.into(),
        system_version_info: "2026-11-22T15:00:00Z/1".into(),
        nonce: "n".into(),
        resources: resources.collect(),
        ..Default::default()
    };
    response.encode_to_vec()
}

fn socket(address: String, port: u32) -> Option<core::Address> {
    use core::address::Address;
    let socket = core::SocketAddress {
        address,
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    Some(core::Address { address: Some(Address::SocketAddress(socket)) })
}

fn metadata(key: &str, text: String) -> Option<core::Metadata> {
    let value = pb::Value { kind: Some(pb::value::Kind::StringValue(text)) };
    let fields = pb::Struct { fields: [(key.to_owned(), value)].into() };
    Some(core::Metadata { filter_metadata: [("istio".to_owned(), fields)].into(), ..Default::default() })
}

fn cluster(index: usize) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy};
    let thresholds = cluster::circuit_breakers::Thresholds {
        max_connections: Some(pb::UInt32Value { value: u32::MAX }),
        max_retries: Some(pb::UInt32Value { value: u32::MAX }),
        ..Default::default()
    };
    cluster::Cluster {
        name: name(index),
        connect_timeout: Some(pb::Duration { seconds: 10, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { service_name: name(index), ..Default::default() }),
        lb_policy: LbPolicy::LeastRequest as i32,
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: vec![thresholds],
            ..Default::default()
        }),
        metadata: metadata("default_original_port", "8000".into()),
        ..Default::default()
    }
}

fn pod(cluster: usize, number: usize, generation: usize, port: u16) -> endpoint::LbEndpoint {
    let of = cluster * 32 + number;
    // Ten thousand clusters take 5 of the second number, so that generations do not meet. Of generations there are 13
    // and the first, so that going round the mesh never comes to a cluster with the endpoints that it has.
    let generation = if generation == 0 { 0 } else { 1 + generation % 13 };
    let second = 8 + of / 65536 + 8 * generation;
    let address = format!("127.{second}.{}.{}", of / 256 % 256, of % 256);
    let workload = format!("service-{cluster};namespace-{};service-{cluster};v1;cluster-1", cluster % 100);
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: socket(address, port.into()),
            ..Default::default()
        })),
        health_status: core::HealthStatus::Healthy as i32,
        load_balancing_weight: Some(pb::UInt32Value { value: 1 }),
        metadata: metadata("workload", workload),
    }
}

fn chain(index: usize) -> listener::FilterChain {
    let proxy = TcpProxy {
        stat_prefix: "BlackHoleCluster".into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(name(index))),
        ..Default::default()
    };
    let filter = |name: &str, kind: &str, value: Vec<u8>| {
        let type_url = format!("type.googleapis.com/envoy.extensions.filters.network.{kind}");
        let any = pb::Any { type_url, value };
        listener::Filter {
            name: format!("envoy.filters.network.{name}"),
            config_type: Some(listener::filter::ConfigType::TypedConfig(any)),
        }
    };
    let protocols = ["istio-peer-exchange", "istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
    listener::FilterChain {
        name: name(index),
        filter_chain_match: Some(listener::FilterChainMatch {
            server_names: vec![name(index)],
            transport_protocol: "tls".into(),
            application_protocols: protocols.map(str::to_owned).into(),
            ..Default::default()
        }),
        filters: vec![
            filter("sni_cluster", "sni_cluster.v3.SniCluster", SniCluster::default().encode_to_vec()),
            filter("tcp_proxy", "tcp_proxy.v3.TcpProxy", proxy.encode_to_vec()),
        ],
        ..Default::default()
    }
}
