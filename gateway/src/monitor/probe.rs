//! One check of one endpoint: a connection of its own, and what the probe asks over it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use eastgate_config::cluster::{HealthCheck, Probe};
use eastgate_proto::health::{HealthCheckRequest, HealthCheckResponse};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::upstream::health::active::holds;

/// What an endpoint may send before it has sent what it should.
const MAX_ANSWER: usize = 64 * 1024;
/// Who asks, for the logs of whoever is asked.
const USER_AGENT: &str = "eastgate-health-check";

/// Why a check did not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("it did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("it closed the connection before it had sent what it should")]
    Closed,
    #[error("it sent {MAX_ANSWER} bytes without what it should")]
    TooMuch,
    #[error("it does not speak HTTP: {0}")]
    NoHttp(#[from] hyper::Error),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error("it answers the gRPC check with an error: {0}")]
    Grpc(String),
    #[error("it says that it does not serve (status {0} of grpc.health.v1)")]
    NotServing(i32),
    #[error("it answers the ClientHello with alert {0}")]
    Alert(u8),
    #[error("it does not answer the ClientHello in TLS")]
    NoTls,
    #[error("{0} cannot be asked for")]
    Unaskable(String),
}

/// Asks, and tells what was wrong with the answer.
pub(super) async fn ask(address: SocketAddr, check: &HealthCheck) -> Result<(), Failure> {
    let asking = async {
        // A gRPC client makes its connection itself.
        if let Probe::Grpc { service, authority } = &check.probe {
            return grpc(address, service, authority).await;
        }
        let mut stream = TcpStream::connect(address).await.map_err(Failure::Connect)?;
        match &check.probe {
            Probe::Tcp { send, receive } => tcp(&mut stream, send, receive).await,
            Probe::Http { host, path, expected } => http(stream, host, path, expected).await,
            Probe::Tls { server_name, protocols } => tls(&mut stream, server_name, protocols).await,
            Probe::Grpc { .. } => Ok(()),
        }
    };
    tokio::time::timeout(check.timeout, asking).await.unwrap_or(Err(Failure::TimedOut(check.timeout)))
}

async fn tcp(stream: &mut TcpStream, send: &[u8], receive: &[Vec<u8>]) -> Result<(), Failure> {
    stream.write_all(send).await?;
    let mut received = Vec::new();
    while !holds(&received, receive) {
        if received.len() >= MAX_ANSWER {
            return Err(Failure::TooMuch);
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(Failure::Closed);
        }
    }
    Ok(())
}

/// `GET`, and no look at anything but the status.
async fn http(stream: TcpStream, host: &str, path: &str, expected: &[(u16, u16)]) -> Result<(), Failure> {
    let request = hyper::Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|_| Failure::Unaskable(format!("{host}{path}")))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut responding = std::pin::pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut responding => response?,
        // It may have ended with the response.
        ended = connection => {
            ended?;
            responding.await?
        }
    };
    let status = response.status().as_u16();
    let is_expected = match expected {
        [] => status == 200,
        ranges => ranges.iter().any(|(from, before)| (*from..*before).contains(&status)),
    };
    if is_expected { Ok(()) } else { Err(Failure::Status(status)) }
}

async fn grpc(address: SocketAddr, service: &str, authority: &str) -> Result<(), Failure> {
    let unaskable = |_| Failure::Unaskable(authority.to_owned());
    let origin = tonic::codegen::http::Uri::builder().scheme("http").authority(authority).path_and_query("/");
    let origin = origin.build().map_err(unaskable)?;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let said = |text: String| Failure::Grpc(text);
    let endpoint = endpoint.map_err(|error| said(error.to_string()))?.origin(origin);
    let channel = endpoint.connect().await.map_err(|error| Failure::Connect(io::Error::other(error)))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| said(error.to_string()))?;
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let method = PathAndQuery::from_static(HealthCheckRequest::METHOD);
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let response = client.unary(request, method, codec).await.map_err(|status| said(status.to_string()))?;
    match response.into_inner().status {
        HealthCheckResponse::SERVING => Ok(()),
        other => Err(Failure::NotServing(other)),
    }
}

/// Sends a real ClientHello and reads no further than to see a ServerHello: a pod of the mesh would want a certificate
/// next, of an identity that a gateway does not have.
///
/// ```text
/// record: type, 1 byte (22 handshake, 21 alert) | version, 2 | length, 2 | handshake type, 1 (2 is ServerHello)
///                                                                        | or alert level, 1, and description, 1
/// ```
async fn tls(stream: &mut TcpStream, server_name: &str, protocols: &[String]) -> Result<(), Failure> {
    stream.write_all(&hello(server_name, protocols)?).await?;
    let mut head = [0; 7];
    match stream.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Failure::Closed),
        Err(error) => return Err(error.into()),
    }
    match head {
        [22, 3, _, _, _, 2, _] => Ok(()),
        [21, 3, _, 0, 2, _, description] => Err(Failure::Alert(description)),
        _ => Err(Failure::NoTls),
    }
}

fn hello(server_name: &str, protocols: &[String]) -> Result<Vec<u8>, Failure> {
    let unaskable = || Failure::Unaskable(server_name.to_owned());
    let name = server_name.to_owned().try_into().map_err(|_| unaskable())?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|_| unaskable())?;
    // No certificate is ever looked at: the handshake goes no further than its first answer.
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(|_| unaskable())?;
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
