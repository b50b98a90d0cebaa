//! xDS resources for tests, and the mesh's CA.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use eastgate_config::xds::{CLUSTER, ENDPOINTS, LISTENER, NAME_TABLE};
use eastgate_proto::Message;
use eastgate_proto::envoy::config::cluster::v3 as cluster;
use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::config::endpoint::v3 as endpoint;
use eastgate_proto::envoy::config::listener::v3 as listener;
use eastgate_proto::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use eastgate_proto::google::protobuf as pb;
use eastgate_proto::istio::{IstioCertificateRequest, IstioCertificateResponse, NameInfo, NameTable};
use serde_json::{Value, json};
use tonic::codegen::http;
use tonic::{Request, Response, Status};

/// What a control plane holds, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    pub clusters: BTreeMap<String, pb::Any>,
    pub endpoints: BTreeMap<String, pb::Any>,
    pub listeners: BTreeMap<String, pb::Any>,
    /// What DNS says: at most one, without a name.
    pub names: BTreeMap<String, pb::Any>,
}

impl Resources {
    /// One listener with a chain for each (server name, endpoints); the clusters are named as the server names.
    pub fn serving(services: &[(&str, &[SocketAddr])]) -> Self {
        let mut resources = Self::default();
        resources.set(services);
        resources
    }

    pub fn set(&mut self, services: &[(&str, &[SocketAddr])]) {
        let insert = |into: &mut BTreeMap<_, _>, name: &str, any| drop(into.insert(name.to_owned(), any));
        for (name, addresses) in services {
            insert(&mut self.clusters, name, eds_cluster(name));
            insert(&mut self.endpoints, name, assignment(name, addresses));
        }
        let names: Vec<_> = services.iter().map(|(name, _)| *name).collect();
        if !names.is_empty() {
            insert(&mut self.listeners, "xds", listener(&names));
        }
    }

    pub fn of(&self, type_url: &str) -> &BTreeMap<String, pb::Any> {
        match type_url {
            CLUSTER => &self.clusters,
            ENDPOINTS => &self.endpoints,
            LISTENER => &self.listeners,
            NAME_TABLE => &self.names,
            other => panic!("{other} was asked for"),
        }
    }

    pub fn all(&self) -> Vec<pb::Any> {
        [&self.listeners, &self.clusters, &self.endpoints]
            .into_iter()
            .flat_map(|map| map.values().cloned())
            .collect()
    }
}

/// A host and its address for DNS, as istiod says it.
pub fn name_table(host: &str, address: &str) -> BTreeMap<String, pb::Any> {
    let info = NameInfo { ips: vec![address.into()], ..Default::default() };
    let table = NameTable { table: BTreeMap::from([(host.into(), info)]) };
    BTreeMap::from([(String::new(), any(NAME_TABLE, &table))])
}

fn any(type_url: &str, message: &impl Message) -> pb::Any {
    pb::Any { type_url: type_url.into(), value: message.encode_to_vec() }
}

fn socket(address: SocketAddr) -> Option<core::Address> {
    let socket = core::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(address.port().into())),
        ..Default::default()
    };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

pub fn eds_cluster(name: &str) -> pb::Any {
    padded_cluster(name, 0)
}

/// A cluster whose one endpoint is a DNS name, of which IPv4 addresses count.
pub fn dns_cluster(name: &str, host: &str, port: u16) -> pb::Any {
    cluster_from(&json!({
        "name": name,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_ONLY",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": {
            "address": { "socket_address": { "address": host, "port_value": port } },
        } }] }] },
    }))
}

/// A cluster that is refused.
pub fn refused_cluster(name: &str) -> pb::Any {
    cluster_from(&json!({ "name": name, "type": "ORIGINAL_DST" }))
}

fn cluster_from(message: &Value) -> pb::Any {
    from_json(CLUSTER, message)
}

/// A resource as protobuf's JSON.
pub fn from_json(type_url: &str, message: &Value) -> pb::Any {
    let (_, kind) = type_url.split_once('/').unwrap();
    let value = eastgate_proto::json::read(kind, &message.to_string()).unwrap();
    pb::Any { type_url: type_url.into(), value }
}

/// A cluster that takes so many bytes more on the wire.
pub fn padded_cluster(name: &str, padding: usize) -> pb::Any {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    let message = cluster::Cluster {
        name: name.into(),
        alt_stat_name: "x".repeat(padding),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        ..Default::default()
    };
    any(CLUSTER, &message)
}

pub fn assignment(name: &str, addresses: &[SocketAddr]) -> pb::Any {
    let endpoint = |address: &SocketAddr| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: socket(*address),
            ..Default::default()
        })),
        ..Default::default()
    };
    let locality = endpoint::LocalityLbEndpoints {
        lb_endpoints: addresses.iter().map(endpoint).collect(),
        ..Default::default()
    };
    let message = endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![locality],
        ..Default::default()
    };
    any(ENDPOINTS, &message)
}

pub fn listener(names: &[&str]) -> pb::Any {
    let message = listener::Listener {
        name: "xds".into(),
        address: socket(([127, 0, 0, 1], 0).into()),
        filter_chains: names.iter().map(|name| chain(name)).collect(),
        ..Default::default()
    };
    any(LISTENER, &message)
}

fn chain(name: &str) -> listener::FilterChain {
    let proxy = TcpProxy {
        stat_prefix: name.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(name.into())),
        ..Default::default()
    };
    let proxy = any("type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", &proxy);
    listener::FilterChain {
        name: name.into(),
        filter_chain_match: Some(listener::FilterChainMatch {
            server_names: vec![name.into()],
            ..Default::default()
        }),
        filters: vec![listener::Filter {
            name: "envoy.filters.network.tcp_proxy".into(),
            config_type: Some(listener::filter::ConfigType::TypedConfig(proxy)),
        }],
        ..Default::default()
    }
}

/// The mesh's CA as a gRPC service: takes callers with the token, and answers with what the test makes.
#[derive(Clone)]
pub struct Ca {
    pub token: String,
    pub answer: Arc<dyn Fn(String) -> Vec<String> + Send + Sync>,
    pub asked: Arc<Mutex<Vec<IstioCertificateRequest>>>,
}

impl tonic::server::NamedService for Ca {
    const NAME: &'static str = "istio.v1.auth.IstioCertificateService";
}

impl tonic::server::UnaryService<IstioCertificateRequest> for Ca {
    type Response = IstioCertificateResponse;
    type Future = std::future::Ready<Result<Response<IstioCertificateResponse>, Status>>;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Self::Future {
        let token = request.metadata().get("authorization").map(|token| token.to_str().unwrap().to_owned());
        if token != Some(format!("Bearer {}", self.token)) {
            return std::future::ready(Err(Status::unauthenticated("request authenticate failure")));
        }
        let request = request.into_inner();
        let cert_chain = (self.answer)(request.csr.clone());
        self.asked.lock().unwrap().push(request);
        std::future::ready(Ok(Response::new(IstioCertificateResponse { cert_chain })))
    }
}

impl tonic::codegen::Service<http::Request<tonic::body::Body>> for Ca {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        assert_eq!(request.uri().path(), IstioCertificateRequest::METHOD);
        let service = self.clone();
        Box::pin(async move {
            let codec =
                tonic_prost::ProstCodec::<IstioCertificateResponse, IstioCertificateRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(service, request).await)
        })
    }
}
