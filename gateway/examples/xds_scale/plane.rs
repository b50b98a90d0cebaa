//! A control plane that gives the mesh to a gateway, and then endpoint updates to whom it is told to.
//!
//! It has its responses ready as the bytes that go on the wire. Made from messages, a thousand of them a second took half
//! of the core that it shares with the load, and what the load then waited for looked like the gateway's.

use std::convert::Infallible;
use std::future;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use eastgate_config::xds::{CLUSTER, ENDPOINTS, LISTENER};
use eastgate_proto::bytes::{BufMut, Bytes};
use eastgate_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstDecoder;

use crate::RATE;
use crate::mesh::Mesh;

/// Said on its standard input: who gets updates from now on.
pub(crate) const GATEWAY: &str = "gateway";
pub(crate) const SINK: &str = "sink";

/// Serves until standard input ends; says on standard output where.
pub(crate) fn run(mesh: Mesh) -> anyhow::Result<()> {
    let (sender, updated) = watch::channel(String::new());
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            sender.send_replace(line);
        }
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let plane = Plane::new(mesh, updated);
        writeln!(io::stdout(), "{address}")?;
        let server = Server::builder().add_service(plane);
        server.serve_with_incoming(TcpIncoming::from(socket)).await.context("the control plane")
    })
}

#[derive(Debug, Clone)]
struct Plane {
    first: Arc<[Bytes]>,
    updates: Arc<[Bytes]>,
    updated: watch::Receiver<String>,
}

impl Plane {
    fn new(mesh: Mesh, updated: watch::Receiver<String>) -> Self {
        // Two rounds through the mesh, so that the update of a cluster always differs from the one before it.
        let update = |turn| mesh.update(turn * 7 % mesh.clusters, 1 + turn / mesh.clusters).into();
        let updates = (0..2 * mesh.clusters).map(update).collect();
        Self { first: mesh.pushes().into_iter().map(Bytes::from).collect(), updates, updated }
    }

    async fn converse(
        mut self,
        mut asked: Streaming<DeltaDiscoveryRequest>,
        answers: mpsc::Sender<Result<Bytes, Status>>,
    ) {
        let mut updates = self.updates.iter().cycle();
        let mut tick = interval(Duration::from_secs(1) / RATE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut served = Vec::new();
        let mut who = GATEWAY;
        loop {
            let updating = *self.updated.borrow_and_update() == who;
            let answer = tokio::select! {
                _ = answers.closed() => return,
                // What was not sent while it was another's turn is not owed.
                changed = self.updated.changed() => match changed {
                    Ok(()) => { tick.reset(); None }
                    Err(_) => return,
                },
                _ = tick.tick(), if updating => updates.next(),
                request = asked.next() => {
                    let Some(Ok(request)) = request else { return };
                    if let Some(error) = request.error_detail {
                        eprintln!("the gateway refuses: {}", error.message);
                    }
                    if request.node.is_some_and(|node| node.id == SINK) {
                        who = SINK;
                    }
                    let url = request.type_url;
                    let position = [CLUSTER, ENDPOINTS, LISTENER].iter().position(|known| *known == url);
                    // The first request of a type asks for all of it; later ones only answer.
                    let new = position.filter(|position| who == GATEWAY && !served.contains(position));
                    served.extend(new);
                    new.and_then(|position| self.first.get(position))
                }
            };
            if let Some(answer) = answer
                && answers.send(Ok(answer.clone())).await.is_err()
            {
                return;
            }
        }
    }
}

/// The service is the delta variant's alone: that is what the gateway speaks unless it is told otherwise.
impl NamedService for Plane {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<Body>> for Plane {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let plane = self.clone();
        Box::pin(async move { Ok(Grpc::new(Encoded).streaming(plane, request).await) })
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Plane {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let (sender, answers) = mpsc::channel(4);
        tokio::spawn(self.clone().converse(request.into_inner(), sender));
        future::ready(Ok(Response::new(ReceiverStream::new(answers))))
    }
}

/// Sends messages as they were encoded beforehand.
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = DeltaDiscoveryRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<DeltaDiscoveryRequest>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::default())
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}
