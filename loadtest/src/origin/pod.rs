//! The TLS side of a pod: the handshake, and the HTTP/1.1 connection inside it.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio::{pin, select};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::http::{self, Facts};
use super::{Clients, Counters, End, Error, Options, finish};
use crate::names::certificate_names;

/// How long a client may take for its handshake, so that a port scan does not fill the pod.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// What all connections of a pod share.
pub(super) struct Pod {
    name: HeaderValue,
    acceptor: TlsAcceptor,
    verbose: bool,
}

impl Pod {
    pub(super) fn new(options: Options) -> Result<Self, Error> {
        let name = HeaderValue::from_str(&options.name)
            .ok()
            .filter(|name| name.to_str().is_ok())
            .ok_or_else(|| Error::Name(options.name.clone()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let config = match options.clients {
            Clients::Anyone => config.with_no_client_auth(),
            Clients::Verified(roots) => config.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?,
            ),
        };
        let mut config = config.with_single_cert(options.identity.chain(), options.identity.key())?;
        config.alpn_protocols = options.alpn.into_iter().map(String::into_bytes).collect();
        Ok(Self { name, acceptor: TlsAcceptor::from(Arc::new(config)), verbose: options.verbose })
    }

    /// Prints a line about a connection; a stderr that is gone must not end the pod.
    fn tell(&self, peer: SocketAddr, line: std::fmt::Arguments<'_>) {
        if self.verbose {
            let _ = writeln!(io::stderr(), "{} {peer} {line}", self.name.to_str().unwrap_or_default());
        }
    }
}

pub(super) async fn serve(
    pod: Arc<Pod>,
    stream: TcpStream,
    peer: SocketAddr,
    counters: &Counters,
    mut end: End,
) {
    let Some(stream) = handshake(&pod, stream, peer, &mut end).await else {
        return;
    };
    counters.handshakes.fetch_add(1, Ordering::Relaxed);
    let facts = facts(&pod, &stream, peer);
    pod.tell(peer, format_args!("{facts}"));
    let service = service_fn(|request| {
        counters.requests.fetch_add(1, Ordering::Relaxed);
        http::answer(&facts, request)
    });
    // Half-close, so that a client that ends its side after the request still gets the answer.
    let mut connection =
        http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service);
    select! {
        ending = end.wait() => finish(connection.into_parts().io.inner().get_ref().0, ending),
        done = &mut connection => {
            if let Err(error) = done {
                pod.tell(peer, format_args!("ended early: {error}"));
            }
        }
    }
}

async fn handshake(
    pod: &Pod,
    stream: TcpStream,
    peer: SocketAddr,
    end: &mut End,
) -> Option<TlsStream<TcpStream>> {
    let accept = pod.acceptor.accept(stream);
    pin!(accept);
    let done = select! {
        ending = end.wait() => {
            if let Some(stream) = accept.get_ref() {
                finish(stream, ending);
            }
            return None;
        }
        done = timeout(HANDSHAKE_LIMIT, &mut accept) => done,
    };
    match done {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => pod.tell(peer, format_args!("handshake failed: {error}")),
        Err(_) => pod.tell(peer, format_args!("no handshake within {HANDSHAKE_LIMIT:?}")),
    }
    None
}

fn facts(pod: &Pod, stream: &TlsStream<TcpStream>, peer: SocketAddr) -> Facts {
    let (_, tls) = stream.get_ref();
    let client = tls.peer_certificates().and_then(|chain| chain.first()).map(certificate_names);
    Facts {
        pod: pod.name.clone(),
        peer,
        server_name: tls.server_name().map(str::to_owned),
        alpn: tls.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned()),
        version: tls.protocol_version().and_then(|version| version.as_str()),
        client: client.unwrap_or_default(),
    }
}
