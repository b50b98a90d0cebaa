//! A TLS client that stands in for a mesh client: it sends any server name and any ALPN, and always verifies who
//! answers.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::ca::Identity;
use crate::names::certificate_names;
use crate::origin::POD_HEADER;

mod verify;

pub use verify::Stranger;

/// The largest response body that is held in memory; larger ones are to be read from [`Client::connect`]'s stream.
const MAX_BODY: usize = 256 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The options do not make a TLS client.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
    /// The roots cannot verify a server.
    #[error("cannot verify servers with these roots")]
    Roots(#[from] rustls::server::VerifierBuilderError),
    /// A name that rustls does not send.
    #[error("`{0}` cannot be sent as a server name: letters, digits, `-`, `_` and dots only")]
    ServerName(String),
    /// No TCP connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// A TCP connection, but no TLS.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// A good chain, but none of the expected names ([`Expect::OneOf`]).
    #[error("somebody else answers")]
    Stranger(#[source] Stranger),
    /// The request cannot be written as HTTP.
    #[error("the request is not valid HTTP")]
    Request(#[from] hyper::http::Error),
    /// The connection broke, or what came is no HTTP.
    #[error("the HTTP exchange failed")]
    Http(#[from] hyper::Error),
    /// The body broke off or is larger than memory should hold.
    #[error("cannot read the response body")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing more came.
    #[error("not done within {0:?}")]
    Timeout(Duration),
}

impl Error {
    /// The TLS error, where the handshake failed by one: a certificate refused, an alert received.
    pub fn tls(&self) -> Option<&rustls::Error> {
        match self {
            Self::Handshake(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
    }
}

/// How a client is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose certificates to believe.
    pub roots: RootCertStore,
    /// Who must answer.
    pub expect: Expect,
    /// The protocols to offer; none sends no ALPN at all.
    pub alpn: Vec<String>,
    /// The certificate to show to servers that ask for one.
    pub identity: Option<Identity>,
    /// The TLS versions to offer.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// How long connecting and shaking hands may take, and how long a whole [`Client::get`] or [`Client::post`] may.
    pub timeout: Duration,
}

impl Options {
    /// A client that expects the server name in the certificate, offers no ALPN and TLS 1.2 and 1.3, and has 10
    /// seconds of patience.
    pub fn new(roots: RootCertStore) -> Self {
        Self {
            roots,
            expect: Expect::ServerName,
            alpn: Vec::new(),
            identity: None,
            versions: rustls::DEFAULT_VERSIONS.to_vec(),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Who must answer. The chain is verified in any case; there is no way to skip it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// The server name must stand in the certificate, as on the web.
    ServerName,
    /// One of these must, whatever the server name: DNS names, addresses, SPIFFE URIs, or `spiffe://domain/*` for
    /// every workload of a trust domain, as in the mesh.
    OneOf(Vec<String>),
}

/// A TLS client; clones share the setup. Sessions are not resumed, so that every connection shows its pod's
/// certificate.
#[derive(Clone)]
pub struct Client {
    connector: TlsConnector,
    timeout: Duration,
}

impl Client {
    /// Sets the client up.
    ///
    /// # Errors
    /// When there are no roots, or the identity's key does not fit.
    pub fn new(options: Options) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&options.versions)
            .map_err(Error::Setup)?;
        let algorithms = provider.signature_verification_algorithms;
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(options.roots.clone()), provider).build()?;
        let config = match options.expect {
            Expect::ServerName => config.with_webpki_verifier(webpki),
            // Dangerous is what rustls calls every verifier that is not its own.
            Expect::OneOf(names) => {
                let verifier = verify::OneOf::new(options.roots, names, algorithms, webpki);
                config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let mut config = match options.identity {
            Some(identity) => {
                config.with_client_auth_cert(identity.chain(), identity.key()).map_err(Error::Setup)?
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = options.alpn.into_iter().map(String::into_bytes).collect();
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), timeout: options.timeout })
    }

    /// Connects and shakes hands. An IP address as the server name sends no server name at all.
    ///
    /// # Errors
    /// When the connection or the handshake fails or takes too long, or the name cannot be sent.
    pub async fn connect(
        &self,
        address: SocketAddr,
        server_name: &str,
    ) -> Result<TlsStream<TcpStream>, Error> {
        self.in_time(self.open(address, server_name)).await
    }

    /// Shakes hands over a stream that is there already, after a PROXY header for example.
    ///
    /// # Errors
    /// When the handshake fails or takes too long, or the name cannot be sent.
    pub async fn handshake<IO>(&self, stream: IO, server_name: &str) -> Result<TlsStream<IO>, Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = parse(server_name)?;
        self.in_time(self.shake(stream, name)).await
    }

    /// One GET over its own connection.
    ///
    /// # Errors
    /// When there is no whole response; a status such as 503 is a response.
    pub async fn get(&self, address: SocketAddr, server_name: &str, path: &str) -> Result<Response, Error> {
        self.request(Method::GET, address, server_name, path, Bytes::new()).await
    }

    /// One POST over its own connection.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn post(
        &self,
        address: SocketAddr,
        server_name: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Response, Error> {
        self.request(Method::POST, address, server_name, path, body.into()).await
    }

    async fn request(
        &self,
        method: Method,
        address: SocketAddr,
        server_name: &str,
        path: &str,
        body: Bytes,
    ) -> Result<Response, Error> {
        let request =
            Request::builder().method(method).uri(path).header(HOST, server_name).body(Full::new(body))?;
        self.in_time(async { exchange(self.open(address, server_name).await?, request).await }).await
    }

    async fn open(&self, address: SocketAddr, server_name: &str) -> Result<TlsStream<TcpStream>, Error> {
        let name = parse(server_name)?;
        let stream =
            TcpStream::connect(address).await.map_err(|source| Error::Connect { address, source })?;
        // A handshake and a request are small writes that wait for each other.
        let _ = stream.set_nodelay(true);
        self.shake(stream, name).await
    }

    async fn shake<IO>(&self, stream: IO, name: ServerName<'static>) -> Result<TlsStream<IO>, Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let done = self.connector.connect(name, stream).await;
        done.map_err(|error| Stranger::behind(&error).map_or(Error::Handshake(error), Error::Stranger))
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or(Err(Error::Timeout(self.timeout)))
    }
}

fn parse(server_name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(server_name.to_owned()).map_err(|_| Error::ServerName(server_name.to_owned()))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Who answered, as the handshake proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The certificate, of which the chain and the names were verified.
    pub certificate: CertificateDer<'static>,
    /// The protocol that both sides agreed to.
    pub alpn: Option<String>,
}

impl Peer {
    /// Who is at the other end of a stream; nobody only while the handshake is not done.
    pub fn of<IO>(stream: &TlsStream<IO>) -> Option<Self> {
        let (_, tls) = stream.get_ref();
        let certificate = tls.peer_certificates()?.first()?.clone().into_owned();
        let alpn = tls.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned());
        Some(Self { certificate, alpn })
    }

    /// The names in the certificate.
    pub fn names(&self) -> Vec<String> {
        certificate_names(&self.certificate)
    }
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, without its transfer coding.
    pub body: Bytes,
    /// Who sent it.
    pub peer: Option<Peer>,
}

impl Response {
    /// The name of the pod that answered, where it is one of ours.
    pub fn pod(&self) -> Option<&str> {
        self.headers.get(POD_HEADER)?.to_str().ok()
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Sends one request over a stream and reads the whole response.
///
/// # Errors
/// When the connection breaks, what comes is no HTTP, or the body is larger than 256 MiB.
pub async fn exchange<IO>(stream: TlsStream<IO>, request: Request<Full<Bytes>>) -> Result<Response, Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let peer = Peer::of(&stream);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(Error::Body)?.to_bytes();
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body, peer })
    };
    // The connection ends once the answer has dropped its sender; how it ends after the answer does not matter.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}
