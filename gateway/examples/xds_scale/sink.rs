//! A client of the control plane that answers what comes and throws it away: what the control plane's sending costs is
//! the same with it as with a gateway, and what a gateway does is not done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use eastgate_config::xds::ENDPOINTS;
use eastgate_proto::bytes::Buf;
use eastgate_proto::envoy::config::core::v3::Node;
use eastgate_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstEncoder;

use crate::plane;

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Runs beside, on the cores of the thread that starts it; says how much has come.
pub(crate) fn start(control_plane: &str) -> anyhow::Result<Arc<AtomicU64>> {
    let endpoint = Endpoint::from_shared(format!("http://{control_plane}"))?;
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        // It ends with the control plane, and where it ends before, it counts no more.
        let _ = runtime.block_on(throw_away(endpoint, &counted));
    });
    Ok(count)
}

async fn throw_away(endpoint: Endpoint, count: &AtomicU64) -> anyhow::Result<()> {
    let mut client = Grpc::new(endpoint.connect().await?);
    client.ready().await?;
    let (requests, sent) = mpsc::channel(8);
    let request = || DeltaDiscoveryRequest { type_url: ENDPOINTS.into(), ..Default::default() };
    let node = Node { id: plane::SINK.into(), ..Default::default() };
    requests.send(DeltaDiscoveryRequest { node: Some(node), ..request() }).await?;
    let call = tonic::Request::new(ReceiverStream::new(sent));
    let answered = client.streaming(call, PathAndQuery::from_static(METHOD), Nothing).await?;
    let mut responses = answered.into_inner();
    while responses.message().await?.is_some() {
        count.fetch_add(1, Relaxed);
        requests.send(DeltaDiscoveryRequest { response_nonce: "n".into(), ..request() }).await?;
    }
    anyhow::bail!("the control plane closed the stream")
}

/// Reads messages without looking at them.
struct Nothing;

impl Codec for Nothing {
    type Encode = DeltaDiscoveryRequest;
    type Decode = ();
    type Encoder = ProstEncoder<DeltaDiscoveryRequest>;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Decoder for Nothing {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}
