//! A control plane for tests: real gRPC, over TCP, TLS or a Unix socket, that serves a world which the test changes.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use eastgate_config::xds::{CLUSTER, ENDPOINTS, LISTENER, NAME_TABLE};
use eastgate_proto::envoy::service::discovery::v3 as discovery;
use eastgate_proto::google::protobuf as pb;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};

use discovery::aggregated_discovery_service_server as ads;

use crate::resources::{Ca, Resources};
use crate::support::address_apart;

const TYPES: [&str; 4] = [CLUSTER, ENDPOINTS, LISTENER, NAME_TABLE];

/// What the control plane says.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub version: u64,
    pub resources: Resources,
    /// New streams are refused with this.
    pub refuse: Option<Code>,
    /// Streams are taken, and nothing is ever sent.
    pub mute: bool,
    /// Every stream is ended in good order as soon as it was answered.
    pub hang_up: bool,
    /// Endpoints are taken to be known: a delta client that says their versions is not sent them.
    pub endpoints_known: bool,
}

/// What it has been told.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub streams: usize,
    pub open: usize,
    pub nodes: Vec<String>,
    pub tokens: Vec<Option<String>>,
    pub cluster_ids: Vec<Option<String>>,
    /// Whether a stream came with a client certificate.
    pub certificates: Vec<bool>,
    pub nacks: Vec<String>,
    pub variants: BTreeSet<&'static str>,
}

/// A running control plane.
#[derive(Debug)]
pub struct Plane {
    pub address: String,
    shared: Shared,
    server: JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct Shared {
    world: watch::Sender<World>,
    cut: watch::Sender<u64>,
    seen: Arc<Mutex<Seen>>,
}

impl Plane {
    pub async fn start(resources: Resources) -> Self {
        Self::start_at((address_apart(), 0).into(), resources).await
    }

    pub async fn start_at(address: SocketAddr, resources: Resources) -> Self {
        let socket = TcpListener::bind(address).await.unwrap();
        let address = format!("http://{}", socket.local_addr().unwrap());
        Self::serve(address, TcpIncoming::from(socket), Server::builder(), None, resources)
    }

    pub async fn start_tls(tls: ServerTlsConfig, ca: Option<Ca>, resources: Resources) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", socket.local_addr().unwrap());
        let server = Server::builder().tls_config(tls).unwrap();
        Self::serve(address, TcpIncoming::from(socket), server, ca, resources)
    }

    pub fn start_unix(path: &Path, resources: Resources) -> Self {
        let socket = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        Self::serve(format!("unix:{}", path.display()), socket, Server::builder(), None, resources)
    }

    fn serve<I, IO>(
        address: String,
        incoming: I,
        mut server: Server,
        ca: Option<Ca>,
        resources: Resources,
    ) -> Self
    where
        I: Stream<Item = std::io::Result<IO>> + Send + 'static,
        IO: tokio::io::AsyncRead
            + tokio::io::AsyncWrite
            + tonic::transport::server::Connected
            + Unpin
            + Send
            + 'static,
        IO::ConnectInfo: Clone + Send + Sync + 'static,
    {
        let world = World { version: 1, resources, ..World::default() };
        let shared =
            Shared { world: watch::Sender::new(world), cut: watch::Sender::new(0), seen: Arc::default() };
        let service = ads::AggregatedDiscoveryServiceServer::new(shared.clone());
        let router = server.add_service(service).add_optional_service(ca);
        let server = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        Self { address, shared, server }
    }

    /// Changes the world and tells every stream.
    pub fn change(&self, change: impl FnOnce(&mut World)) {
        self.shared.world.send_modify(|world| {
            world.version += 1;
            change(world);
        });
    }

    /// Ends every stream in good order.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    pub fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits for a level of what was seen.
    pub async fn until(&self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let waiting = async {
            loop {
                let seen = self.seen();
                if wanted(&seen) {
                    return seen;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let patience = std::time::Duration::from_secs(30);
        let last = || format!("the control plane has seen {:?} only", self.seen());
        tokio::time::timeout(patience, waiting).await.unwrap_or_else(|_| panic!("{}", last()))
    }

    /// Goes down: the socket, and the connections of streams.
    pub async fn stop(self) {
        self.cut();
        self.server.abort();
        let _ = self.server.await;
    }
}

/// A request in either variant.
struct Asked {
    type_url: String,
    names: Vec<String>,
    nonce: String,
    error: Option<String>,
    node: Option<String>,
}

/// An answer in either variant.
enum Answer {
    Sotw(discovery::DiscoveryResponse),
    Delta(discovery::DeltaDiscoveryResponse),
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Shared {
    fn open<T: Send + 'static>(
        &self,
        request: Request<Streaming<T>>,
        variant: &'static str,
        read: fn(T) -> Asked,
    ) -> Result<ReceiverStream<Result<Answer, Status>>, Status> {
        let text = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        {
            let mut seen = self.seen.lock().unwrap();
            seen.streams += 1;
            seen.tokens.push(text("authorization"));
            seen.cluster_ids.push(text("clusterid"));
            seen.certificates.push(request.peer_certs().is_some_and(|certificates| !certificates.is_empty()));
            seen.variants.insert(variant);
        }
        if let Some(code) = self.world.borrow().refuse {
            return Err(Status::new(code, "not now"));
        }
        let (sender, answers) = mpsc::channel(4);
        let asked = request.into_inner().map(move |message| message.map(read));
        tokio::spawn(self.clone().converse(Box::pin(asked), sender, variant));
        Ok(ReceiverStream::new(answers))
    }

    async fn converse(
        self,
        mut asked: Pin<Box<impl Stream<Item = Result<Asked, Status>> + Send>>,
        answers: mpsc::Sender<Result<Answer, Status>>,
        variant: &'static str,
    ) {
        let mut world = self.world.subscribe();
        let mut cut = self.cut.subscribe();
        self.seen.lock().unwrap().open += 1;
        let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut known = world.borrow_and_update().resources.clone();
        loop {
            let sent = tokio::select! {
                _ = cut.changed() => break,
                _ = answers.closed() => break,
                message = asked.next() => {
                    let Some(Ok(asked)) = message else { break };
                    let mut seen = self.seen.lock().unwrap();
                    seen.nodes.extend(asked.node.clone());
                    seen.nacks.extend(asked.error.clone());
                    drop(seen);
                    let first = !wanted.contains_key(&asked.type_url);
                    let names = wanted.entry(asked.type_url.clone()).or_default();
                    let before = names.clone();
                    if variant == "sotw" {
                        names.clear();
                    }
                    names.extend(asked.names);
                    // An empty nonce on a known type is a subscription of its own; with one it may be an answer alone.
                    let known = self.world.borrow().endpoints_known && asked.type_url == ENDPOINTS;
                    if known {
                        vec![]
                    } else if first || *names != before {
                        vec![self.answer(&asked.type_url, &wanted, &Resources::default(), variant)]
                    } else {
                        assert!(!asked.nonce.is_empty() || variant == "delta", "a second request without a nonce");
                        vec![]
                    }
                }
                _ = world.changed() => {
                    let now = world.borrow_and_update().resources.clone();
                    let before = std::mem::replace(&mut known, now);
                    let types = TYPES.iter().filter(|type_url| wanted.contains_key(**type_url));
                    types.map(|type_url| self.answer(type_url, &wanted, &before, variant)).collect()
                }
            };
            if self.world.borrow().mute {
                continue;
            }
            for answer in sent {
                if answers.send(Ok(answer)).await.is_err() {
                    break;
                }
                if self.world.borrow().hang_up {
                    self.seen.lock().unwrap().open -= 1;
                    return;
                }
            }
        }
        self.seen.lock().unwrap().open -= 1;
    }

    fn answer(
        &self,
        type_url: &str,
        wanted: &BTreeMap<String, BTreeSet<String>>,
        before: &Resources,
        variant: &str,
    ) -> Answer {
        let world = self.world.borrow();
        let names = &wanted[type_url];
        let asked = |name: &String| type_url != ENDPOINTS || names.contains(name);
        let now = world.resources.of(type_url);
        let version = world.version.to_string();
        let nonce = format!("{version}-{type_url}-{}", fastrand::u64(..));
        let resources = now.iter().filter(|(name, _)| asked(name));
        if variant == "sotw" {
            return Answer::Sotw(discovery::DiscoveryResponse {
                type_url: type_url.into(),
                version_info: version,
                nonce,
                resources: resources.map(|(_, any)| any.clone()).collect(),
                ..Default::default()
            });
        }
        let envelope = |(name, any): (&String, &pb::Any)| discovery::Resource {
            name: name.clone(),
            resource: Some(any.clone()),
            ..Default::default()
        };
        let removed = before.of(type_url).keys().filter(|name| !now.contains_key(*name)).cloned().collect();
        Answer::Delta(discovery::DeltaDiscoveryResponse {
            type_url: type_url.into(),
            system_version_info: version,
            nonce,
            resources: resources.map(envelope).collect(),
            removed_resources: removed,
            ..Default::default()
        })
    }
}

#[tonic::async_trait]
impl ads::AggregatedDiscoveryService for Shared {
    type StreamAggregatedResourcesStream = Answers<discovery::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<discovery::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let read = |request: discovery::DiscoveryRequest| Asked {
            type_url: request.type_url,
            names: request.resource_names,
            nonce: request.response_nonce,
            error: request.error_detail.map(|error| error.message),
            node: request.node.map(|node| node.id),
        };
        let answers = self.open(request, "sotw", read)?.map(|answer| match answer? {
            Answer::Sotw(answer) => Ok(answer),
            Answer::Delta(_) => Err(Status::internal("the wrong variant")),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let read = |request: discovery::DeltaDiscoveryRequest| Asked {
            type_url: request.type_url,
            names: request.resource_names_subscribe,
            nonce: request.response_nonce,
            error: request.error_detail.map(|error| error.message),
            node: request.node.map(|node| node.id),
        };
        let answers = self.open(request, "delta", read)?.map(|answer| match answer? {
            Answer::Delta(answer) => Ok(answer),
            Answer::Sotw(_) => Err(Status::internal("the wrong variant")),
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Signs requests as istiod does: the leaf, which lives so long, then the root.
pub fn signing_ca(life: std::time::Duration) -> (String, impl Fn(String) -> Vec<String> + Send + Sync) {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let pem = root.clone();
    let sign = move |csr: String| {
        let mut request = CertificateSigningRequestParams::from_pem(&csr).unwrap();
        let now = std::time::SystemTime::now();
        request.params.not_before = now.into();
        request.params.not_after = (now + life).into();
        vec![request.signed_by(&issuer).unwrap().pem(), pem.clone()]
    };
    (root, sign)
}
