//! Tests of the conversation, and the small control plane that they share.

mod guard;
mod istiod;
mod obligations;
mod saved;
mod warming;

use std::time::Duration;

use eastgate_proto::Message;
use eastgate_proto::envoy::config::cluster::v3 as cluster;
use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::config::endpoint::v3 as endpoint;
use eastgate_proto::envoy::config::listener::v3 as listener;
use eastgate_proto::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use eastgate_proto::envoy::service::discovery::v3 as discovery;
use eastgate_proto::google::protobuf as pb;

use super::*;

/// A name, its own version, and its message.
pub(super) struct Made {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) any: Option<pb::Any>,
    pub(super) ttl: Option<u64>,
}

impl Made {
    pub(super) fn new(type_url: &str, name: &str, message: &impl Message) -> Self {
        let any = pb::Any { type_url: type_url.into(), value: message.encode_to_vec() };
        Self { name: name.into(), version: String::new(), any: Some(any), ttl: None }
    }

    pub(super) fn version(mut self, version: &str) -> Self {
        self.version = version.into();
        self
    }

    pub(super) fn ttl(mut self, seconds: u64) -> Self {
        self.ttl = Some(seconds);
        self
    }

    pub(super) fn heartbeat(mut self) -> Self {
        self.any = None;
        self
    }

    fn envelope(self) -> discovery::Resource {
        discovery::Resource {
            name: self.name,
            version: self.version,
            resource: self.any,
            ttl: self.ttl.map(|seconds| pb::Duration { seconds: seconds as i64, nanos: 0 }),
            ..Default::default()
        }
    }
}

pub(super) fn socket(address: &str, port: u32) -> Option<core::Address> {
    use core::address::Address;
    let socket = core::SocketAddress {
        address: address.into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    Some(core::Address { address: Some(Address::SocketAddress(socket)) })
}

/// An EDS cluster whose connect timeout tells its versions apart.
pub(super) fn eds(name: &str, timeout: i64) -> Made {
    Made::new(CLUSTER, name, &eds_message(name, timeout))
}

pub(super) fn eds_message(name: &str, timeout: i64) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    cluster::Cluster {
        name: name.into(),
        connect_timeout: Some(pb::Duration { seconds: timeout, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        ..Default::default()
    }
}

/// Endpoints `10.0.0.N:80`.
pub(super) fn cla(name: &str, hosts: &[u8]) -> Made {
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
pub(super) fn chain(server_name: &str, cluster: &str) -> listener::FilterChain {
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

pub(super) fn listener_message(name: &str, chains: &[(&str, &str)]) -> listener::Listener {
    listener::Listener {
        name: name.into(),
        address: socket("0.0.0.0", 15443),
        filter_chains: chains.iter().map(|(server_name, cluster)| chain(server_name, cluster)).collect(),
        ..Default::default()
    }
}

pub(super) fn lds(name: &str, chains: &[(&str, &str)]) -> Made {
    Made::new(LISTENER, name, &listener_message(name, chains))
}

/// A cluster that nothing can be made of.
pub(super) fn bad(name: &str) -> Made {
    let mut message = eds_message(name, 1);
    message.cluster_discovery_type = Some(cluster::cluster::ClusterDiscoveryType::Type(4));
    Made::new(CLUSTER, name, &message)
}

/// What a request says, whichever variant it is of.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Said {
    pub(super) kind: &'static str,
    pub(super) node: bool,
    pub(super) version: String,
    pub(super) names: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
    pub(super) initial: Vec<(String, String)>,
    pub(super) nonce: String,
    pub(super) error: Option<String>,
}

fn kind(type_url: &str) -> &'static str {
    match type_url {
        CLUSTER => "CDS",
        ENDPOINTS => "EDS",
        LISTENER => "LDS",
        _ => "other",
    }
}

impl From<Request> for Said {
    fn from(request: Request) -> Self {
        match request {
            Request::Sotw(request) => Self {
                kind: kind(&request.type_url),
                node: request.node.is_some(),
                version: request.version_info,
                names: request.resource_names,
                nonce: request.response_nonce,
                error: request.error_detail.map(|status| status.message),
                ..Self::default()
            },
            Request::Delta(request) => {
                let mut initial: Vec<_> = request.initial_resource_versions.into_iter().collect();
                initial.sort();
                Self {
                    kind: kind(&request.type_url),
                    node: request.node.is_some(),
                    names: request.resource_names_subscribe,
                    unsubscribe: request.resource_names_unsubscribe,
                    initial,
                    nonce: request.response_nonce,
                    error: request.error_detail.map(|status| status.message),
                    ..Self::default()
                }
            }
        }
    }
}

/// A client, its clock, and a hand that writes responses.
pub(super) struct Rig {
    pub(super) client: Client,
    pub(super) now: Moment,
    variant: Variant,
    pushes: u32,
}

pub(super) const VARIANTS: [Variant; 2] = [Variant::Sotw, Variant::Delta];

impl Rig {
    pub(super) fn with(variant: Variant, options: Options) -> Self {
        let node = Node { id: "router~10.0.0.1~g.ns~ns.svc.cluster.local".into(), ..Node::default() };
        let client = Client::new(variant, &node, options);
        Self { client, now: Duration::from_secs(1000), variant, pushes: 0 }
    }

    /// Connected, and its first requests taken.
    pub(super) fn new(variant: Variant) -> Self {
        let mut rig = Self::with(variant, Options::default());
        rig.connect();
        rig
    }

    pub(super) fn connect(&mut self) -> Vec<Said> {
        self.client.connected(self.now);
        self.said()
    }

    pub(super) fn said(&mut self) -> Vec<Said> {
        std::iter::from_fn(|| self.client.poll_transmit()).map(Said::from).collect()
    }

    /// Pushes under the next version and nonce (`v1`, `n1`, ...), and gives what the client says to that.
    pub(super) fn push(&mut self, type_url: &str, resources: Vec<Made>, removed: &[&str]) -> Vec<Said> {
        let response = self.response(type_url, resources, removed);
        self.client.receive(response, self.now);
        self.said()
    }

    pub(super) fn response(&mut self, type_url: &str, resources: Vec<Made>, removed: &[&str]) -> Response {
        self.pushes += 1;
        let (version, nonce) = (format!("v{}", self.pushes), format!("n{}", self.pushes));
        match self.variant {
            Variant::Sotw => Response::Sotw(discovery::DiscoveryResponse {
                version_info: version,
                nonce,
                type_url: type_url.into(),
                resources: resources.into_iter().map(sotw_any).collect(),
                ..Default::default()
            }),
            Variant::Delta => Response::Delta(discovery::DeltaDiscoveryResponse {
                system_version_info: version,
                nonce,
                type_url: type_url.into(),
                resources: resources.into_iter().map(Made::envelope).collect(),
                removed_resources: removed.iter().map(|name| (*name).into()).collect(),
                ..Default::default()
            }),
        }
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.client.timeout(self.now);
    }

    /// Cluster `a` with endpoint 1, and a listener that sends `a.b` there.
    pub(super) fn settle(&mut self) {
        self.push(CLUSTER, vec![eds("a", 1)], &[]);
        self.push(ENDPOINTS, vec![cla("a", &[1])], &[]);
        self.push(LISTENER, vec![lds("l", &[("a.b", "a")])], &[]);
        assert_eq!(self.timeout_of("a"), Some(1));
    }

    /// The endpoints' last bytes, or none where the snapshot has no such cluster.
    pub(super) fn hosts(&self, cluster: &str) -> Option<Vec<String>> {
        let cluster = self.client.snapshot().clusters.get(cluster)?;
        Some(cluster.endpoints().map(|endpoint| endpoint.address.to_string()).collect())
    }

    pub(super) fn timeout_of(&self, cluster: &str) -> Option<u64> {
        Some(self.client.snapshot().clusters.get(cluster)?.connect_timeout.as_secs())
    }

    pub(super) fn route(&self, listener: &str, chain: &str) -> Option<String> {
        let listener = self.client.snapshot().listeners.get(listener)?;
        let chain = listener.filter_chains.iter().find(|one| one.name == chain)?;
        Some(chain.route.clusters[0].name.clone())
    }
}

/// State of the world has no envelope, unless something in it needs one.
fn sotw_any(made: Made) -> pb::Any {
    if made.ttl.is_none() && made.any.is_some() && made.version.is_empty() {
        return made.any.unwrap();
    }
    pb::Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".into(),
        value: made.envelope().encode_to_vec(),
    }
}

pub(super) fn host(last: u8) -> String {
    format!("10.0.0.{last}:80")
}
