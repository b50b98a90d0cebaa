//! CoreDNS's gRPC service: `grpc global 10.96.0.53:8053` in a Corefile asks here.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use eastgate_proto::coredns::DnsPacket;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::Dns;
use super::answer::Transport;

/// CoreDNS keeps its connection for good; one whose other end has vanished is noticed by this.
const PING: Duration = Duration::from_secs(30);
/// Queries of one connection that are answered at once.
const MAX_STREAMS: u32 = 256;
/// What protobuf puts around a message of DNS, at the most.
const ENVELOPE: usize = 16;

/// Answers until the client has gone.
pub(super) async fn serve(stream: TcpStream, dns: Arc<Dns>) {
    let service = service_fn(move |request| {
        let dns = Arc::clone(&dns);
        async move { Ok::<_, Infallible>(respond(dns, request).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING).max_concurrent_streams(MAX_STREAMS);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a gRPC connection for DNS ended");
    }
}

async fn respond(dns: Arc<Dns>, request: hyper::Request<Incoming>) -> hyper::Response<tonic::body::Body> {
    if request.uri().path() != DnsPacket::METHOD {
        return Status::unimplemented(format!("there is only {}", DnsPacket::METHOD)).into_http();
    }
    let largest = dns.max_query_bytes + ENVELOPE;
    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(largest);
    grpc.unary(Query(dns), request).await
}

struct Query(Arc<Dns>);

impl UnaryService<DnsPacket> for Query {
    type Response = DnsPacket;
    type Future = Pin<Box<dyn Future<Output = Result<Response<DnsPacket>, Status>> + Send>>;

    fn call(&mut self, request: Request<DnsPacket>) -> Self::Future {
        let dns = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = dns.answer(&request.into_inner().msg, Transport::Grpc).await;
            let msg = answer.ok_or_else(|| Status::invalid_argument("msg is no DNS query"))?;
            Ok(Response::new(DnsPacket { msg }))
        })
    }
}
