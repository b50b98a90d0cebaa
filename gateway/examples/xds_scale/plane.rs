//! A control plane that gives the mesh to a gateway, and then endpoint updates to whom it is told to.

use std::io::{self, BufRead, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use eastgate_config::xds::{CLUSTER, ENDPOINTS, LISTENER};
use eastgate_proto::Message;
use eastgate_proto::envoy::service::discovery::v3 as discovery;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use discovery::aggregated_discovery_service_server as ads;
use discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

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
        let plane = Plane::new(mesh, updated)?;
        writeln!(io::stdout(), "{address}")?;
        let service = ads::AggregatedDiscoveryServiceServer::new(plane);
        let server = Server::builder().add_service(service);
        server.serve_with_incoming(TcpIncoming::from(socket)).await.context("the control plane")
    })
}

#[derive(Debug, Clone)]
struct Plane {
    first: Arc<[DeltaDiscoveryResponse]>,
    updates: Arc<[DeltaDiscoveryResponse]>,
    updated: watch::Receiver<String>,
}

impl Plane {
    /// Everything is made beforehand, so that it costs little to send.
    fn new(mesh: Mesh, updated: watch::Receiver<String>) -> anyhow::Result<Self> {
        let read = |bytes: Vec<u8>| DeltaDiscoveryResponse::decode(bytes.as_slice());
        let first = mesh.pushes().into_iter().map(read).collect::<Result<_, _>>()?;
        // Two rounds through the mesh, so that the update of a cluster always differs from the one before it.
        let update = |turn| read(mesh.update(turn * 7 % mesh.clusters, 1 + turn / mesh.clusters));
        let updates = (0..2 * mesh.clusters).map(update).collect::<Result<_, _>>()?;
        Ok(Self { first, updates, updated })
    }

    async fn converse(
        mut self,
        mut asked: Streaming<DeltaDiscoveryRequest>,
        answers: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
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

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ads::AggregatedDiscoveryService for Plane {
    type StreamAggregatedResourcesStream = Answers<discovery::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("this control plane speaks delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, answers) = mpsc::channel(4);
        tokio::spawn(self.clone().converse(request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}
