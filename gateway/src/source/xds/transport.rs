//! A gRPC channel to a control plane or to the mesh's CA, and the credentials that go with each call.

use std::path::PathBuf;
use std::time::Duration;

use eastgate_config::bootstrap::Settings;
use eastgate_config::bootstrap::xds::Address;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::certificate::{self, ClientCertificate};
use super::token::{self, Token};

/// From the first packet to a channel that takes calls.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// As Istio's agent does it: a control plane that is gone without a word is noticed within 40 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A full push is many megabytes, and HTTP/2's 64 KiB would make it wait for the network once for each of them.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// How control planes are reached and trusted.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    root_paths: Vec<PathBuf>,
    server_name: Option<String>,
    token_path: Option<PathBuf>,
    certificate: ClientCertificate,
    cluster_id: String,
}

/// Why there is no channel, or no call on it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No file with the mesh's root.
    #[error("there is no root certificate to verify it with: none of {} can be read", list(.0))]
    Roots(Vec<PathBuf>),
    /// The token's file is no good.
    #[error("the token in {} cannot be used", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: token::Error,
    },
    /// The client certificate's files are no good.
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
    /// The settings make no endpoint.
    #[error("cannot be used")]
    Endpoint(#[source] tonic::transport::Error),
    /// Nobody there, or not the one who should be.
    #[error("cannot connect")]
    Connect(#[source] tonic::transport::Error),
    /// Nothing came back.
    #[error("cannot connect within {CONNECT_TIMEOUT:?}")]
    TimedOut,
}

impl Error {
    /// A word for metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Roots(_) => "roots",
            Self::Token { .. } => "token",
            Self::Certificate(_) => "certificate",
            Self::Endpoint(_) => "endpoint",
            Self::Connect(_) => "connect",
            Self::TimedOut => "connect_timeout",
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

impl Transport {
    pub(super) fn new(settings: &Settings, certificate: ClientCertificate, cluster_id: &str) -> Self {
        let xds = &settings.xds;
        Self {
            root_paths: xds.root_paths.clone(),
            server_name: xds.server_name.clone(),
            token_path: xds.token_path.clone(),
            certificate,
            cluster_id: cluster_id.into(),
        }
    }

    /// The same that shows no client certificate, and so relies on the token.
    pub(super) fn without_certificate(&self) -> Self {
        Self { certificate: ClientCertificate::None, ..self.clone() }
    }

    /// A new connection. Roots and certificate are read for it, so that renewed ones are in use from then on.
    pub(super) async fn connect(&self, address: &Address) -> Result<Channel, Error> {
        let endpoint = self.endpoint(address).await?;
        match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
            Ok(connected) => connected.map_err(Error::Connect),
            Err(_) => Err(Error::TimedOut),
        }
    }

    async fn endpoint(&self, address: &Address) -> Result<Endpoint, Error> {
        let endpoint = Endpoint::from_shared(uri(address)).map_err(Error::Endpoint)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .user_agent(concat!("eastgate/", env!("CARGO_PKG_VERSION")))
            .map_err(Error::Endpoint)?;
        let Address::Tcp { host, tls: true, .. } = address else { return Ok(endpoint) };
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.roots().await?))
            .domain_name(self.server_name.as_ref().unwrap_or(host));
        if let Some(current) = self.certificate.current().await? {
            tls = tls.identity(Identity::from_pem(&current.chain, &current.key));
        }
        endpoint.tls_config(tls).map_err(Error::Endpoint)
    }

    async fn roots(&self) -> Result<Vec<u8>, Error> {
        for path in &self.root_paths {
            if let Ok(pem) = tokio::fs::read(path).await {
                return Ok(pem);
            }
        }
        Err(Error::Roots(self.root_paths.clone()))
    }

    /// Adds the credentials to a call: a token over TLS or a socket of this machine, never in plaintext over a network.
    pub(super) async fn authenticate<T>(
        &self,
        address: &Address,
        request: &mut tonic::Request<T>,
    ) -> Result<(), Error> {
        let metadata = request.metadata_mut();
        if let Ok(cluster) = MetadataValue::try_from(&self.cluster_id) {
            metadata.insert("clusterid", cluster);
        }
        let Some(path) = self.token_path.as_ref().filter(|_| address.is_private()) else { return Ok(()) };
        let token = Token::read(path).await.map_err(|source| Error::Token { path: path.clone(), source })?;
        if let Some(token) = token {
            metadata.insert("authorization", token.authorization());
        }
        Ok(())
    }
}

fn uri(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("unix://{}", path.display()),
        Address::Tcp { host, port, tls } => {
            let scheme = if *tls { "https" } else { "http" };
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            format!("{scheme}://{host}:{port}")
        }
    }
}

/// An error with its causes, none twice: libraries repeat theirs.
pub(in crate::source) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transport(token_path: Option<PathBuf>) -> Transport {
        let mut settings = Settings::default();
        settings.xds.token_path = token_path;
        Transport::new(&settings, ClientCertificate::None, "east")
    }

    #[tokio::test]
    async fn a_token_goes_over_tls_and_unix_sockets_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "abc").unwrap();
        let transport = transport(Some(path));
        for (address, sent) in
            [("a:15012", true), ("unix:/x", true), ("a:15010", false), ("http://a:15012", false)]
        {
            let mut request = tonic::Request::new(());
            transport.authenticate(&address.parse().unwrap(), &mut request).await.unwrap();
            assert_eq!(request.metadata().contains_key("authorization"), sent, "{address}");
            assert_eq!(request.metadata().get("clusterid").unwrap(), "east");
        }
    }

    #[tokio::test]
    async fn a_token_that_is_not_there_is_not_sent_and_a_bad_one_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let transport = transport(Some(path.clone()));
        let mut request = tonic::Request::new(());
        let address = "a:15012".parse().unwrap();
        transport.authenticate(&address, &mut request).await.unwrap();
        assert!(!request.metadata().contains_key("authorization"));
        std::fs::write(&path, "\n").unwrap();
        let error = transport.authenticate(&address, &mut request).await.unwrap_err();
        assert_eq!(error.reason(), "token");
        assert!(with_causes(&error).contains("holds no token"));
    }

    #[test]
    fn addresses_become_uris() {
        let uri = |text: &str| uri(&text.parse().unwrap());
        assert_eq!(uri("istiod:15012"), "https://istiod:15012");
        assert_eq!(uri("[::1]:15010"), "http://[::1]:15010");
        assert_eq!(uri("unix:/etc/istio/proxy/XDS"), "unix:///etc/istio/proxy/XDS");
    }
}
