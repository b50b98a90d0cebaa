//! Resources as a control plane makes them. The simulation in `tests/` reads this file, too.

use eastgate_proto::Message;
use eastgate_proto::envoy::config::cluster::v3 as cluster;
use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::config::endpoint::v3 as endpoint;
use eastgate_proto::envoy::config::listener::v3 as listener;
use eastgate_proto::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use eastgate_proto::envoy::service::discovery::v3 as discovery;
use eastgate_proto::google::protobuf as pb;

use super::{CLUSTER, ENDPOINTS, LISTENER};

/// A name, its own version, and its message.
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) any: Option<pb::Any>,
    pub(crate) ttl: Option<u64>,
}

impl Made {
    pub(crate) fn new(type_url: &str, name: &str, message: &impl Message) -> Self {
        let any = pb::Any { type_url: type_url.into(), value: message.encode_to_vec() };
        Self { name: name.into(), version: String::new(), any: Some(any), ttl: None }
    }

    pub(crate) fn version(mut self, version: &str) -> Self {
        self.version = version.into();
        self
    }

    pub(crate) fn ttl(mut self, seconds: u64) -> Self {
        self.ttl = Some(seconds);
        self
    }

    pub(crate) fn heartbeat(mut self) -> Self {
        self.any = None;
        self
    }

    pub(crate) fn envelope(self) -> discovery::Resource {
        discovery::Resource {
            name: self.name,
            version: self.version,
            resource: self.any,
            ttl: self.ttl.map(|seconds| pb::Duration { seconds: seconds as i64, nanos: 0 }),
            ..Default::default()
        }
    }
}

pub(crate) fn socket(address: &str, port: u32) -> Option<core::Address> {
    use core::address::Address;
    let socket = core::SocketAddress {
        address: address.into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    Some(core::Address { address: Some(Address::SocketAddress(socket)) })
}

/// An EDS cluster whose connect timeout tells its versions apart.
pub(crate) fn eds(name: &str, timeout: i64) -> Made {
    Made::new(CLUSTER, name, &eds_message(name, timeout))
}

pub(crate) fn eds_message(name: &str, timeout: i64) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    cluster::Cluster {
        name: name.into(),
        connect_timeout: Some(pb::Duration { seconds: timeout, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        ..Default::default()
    }
}

/// Endpoints `10.0.0.N:80`.
pub(crate) fn cla(name: &str, hosts: &[u8]) -> Made {
    let lb_endpoints = hosts.iter().map(|host| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: socket(&format!("10.0.0.{host}"), 80),
            ..Default::default()
        })),
        ..Default::default()
    });
    let locality =
        endpoint::LocalityLbEndpoints { lb_endpoints: lb_endpoints.collect(), ..Default::default() };
    let message = endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![locality],
        ..Default::default()
    };
    Made::new(ENDPOINTS, name, &message)
}

/// A chain for `SERVER_NAME` to `CLUSTER`.
pub(crate) fn chain(server_name: &str, cluster: &str) -> listener::FilterChain {
    let proxy = TcpProxy {
        stat_prefix: "x".into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    let any = pb::Any {
        type_url: "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy".into(),
        value: proxy.encode_to_vec(),
    };
    listener::FilterChain {
        filter_chain_match: Some(listener::FilterChainMatch {
            server_names: vec![server_name.into()],
            ..Default::default()
        }),
        filters: vec![listener::Filter {
            name: "envoy.filters.network.tcp_proxy".into(),
            config_type: Some(listener::filter::ConfigType::TypedConfig(any)),
        }],
        ..Default::default()
    }
}

pub(crate) fn listener_message(name: &str, chains: &[(&str, &str)]) -> listener::Listener {
    listener::Listener {
        name: name.into(),
        address: socket("0.0.0.0", 15443),
        filter_chains: chains.iter().map(|(server_name, cluster)| chain(server_name, cluster)).collect(),
        ..Default::default()
    }
}

pub(crate) fn lds(name: &str, chains: &[(&str, &str)]) -> Made {
    Made::new(LISTENER, name, &listener_message(name, chains))
}

/// A cluster that nothing can be made of.
pub(crate) fn bad(name: &str) -> Made {
    let mut message = eds_message(name, 1);
    message.cluster_discovery_type = Some(cluster::cluster::ClusterDiscoveryType::Type(4));
    Made::new(CLUSTER, name, &message)
}

/// State of the world has no envelope, unless something in it needs one.
pub(crate) fn sotw_any(made: Made) -> pb::Any {
    match &made.any {
        Some(any) if made.ttl.is_none() && made.version.is_empty() => return any.clone(),
        _ => {}
    }
    pb::Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".into(),
        value: made.envelope().encode_to_vec(),
    }
}
