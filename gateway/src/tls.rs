//! TLS where the gateway itself is an end of it: who it is, whom it believes, and who answered. Most of it is the mesh's
//! mutual TLS; a DestinationRule may have it speak another to endpoints ([`client`]).
//!
//! In the mesh's, a peer's chain must lead to the mesh's roots, and its certificate must hold one identity,
//! `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`. DNS names are not looked at: the server name says where to
//! go, not who answers.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use eastgate_config::listener::Peers;
use eastgate_config::spiffe::SpiffeId;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use crate::relay::Side;

pub mod client;
pub mod credentials;
mod explain;
pub mod relay;
mod socket;
mod verify;

pub use client::{Client, Clients};
pub use credentials::Credentials;
pub use explain::{Trust, with_remedy};
pub use socket::Socket;

/// The process's credentials, as they are now. Connections keep those that they began with.
#[derive(Debug, Default)]
pub struct Mesh {
    current: ArcSwapOption<Credentials>,
}

/// Why there is no TLS session with a peer, or none that may be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process has no certificate.
    #[error("there is no mesh certificate yet; the log says what it waits for")]
    NoCredentials,
    /// What a DestinationRule says of TLS cannot be done.
    #[error("TLS to the endpoint cannot be begun: {0}")]
    Unfit(Arc<str>),
    /// There is no name to ask for.
    #[error("there is no server name that could be sent; give the ServiceEntry's host as a DNS name")]
    NoName,
    /// It failed; the cause says whose fault it is and what to do.
    #[error("the TLS handshake with {} failed", name(*.side))]
    Handshake {
        /// With whom.
        side: Side,
        /// With its remedy.
        #[source]
        source: io::Error,
    },
    /// It did not come to an end.
    #[error("{} did not finish the TLS handshake in time", name(*.0))]
    TimedOut(Side),
    /// A good chain, and no identity in it.
    #[error(
        "the certificate of {} holds no identity (one URI such as spiffe://cluster.local/ns/bar/sa/httpbin); have the \
         mesh's CA issue it",
        name(*.0)
    )]
    Nobody(Side),
    /// A good chain that ends in somebody else.
    #[error("{} is {found}, and only {allowed} may be there; add it to {} if it may, too", name(*.side), list(*.side))]
    Stranger {
        /// Who is a stranger.
        side: Side,
        /// Who it is.
        found: SpiffeId,
        /// Who may be.
        allowed: String,
    },
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Client => "the client",
        Side::Upstream => "the endpoint",
    }
}

/// Where it is said who may be there.
fn list(side: Side) -> &'static str {
    match side {
        Side::Client => "vm.allow",
        Side::Upstream => "the ServiceEntry's subjectAltNames",
    }
}

impl Error {
    /// May another endpoint do better?
    pub fn may_pass(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::Handshake { source, .. } => !explain::is_about_certificates(source),
            _ => false,
        }
    }
}

impl Mesh {
    /// Puts other credentials in place, for the connections that come from now on.
    pub fn renew(&self, credentials: Arc<Credentials>) {
        self.current.store(Some(credentials));
    }

    /// Those in place.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.current.load_full()
    }

    /// Shakes hands as a client.
    ///
    /// # Errors
    /// The handshake fails, or the endpoint is somebody else.
    pub async fn connect<'a>(
        &self,
        socket: &'a TcpStream,
        peers: &Peers,
    ) -> Result<(TlsStream<Socket<'a>>, SpiffeId), Error> {
        let credentials = self.current().ok_or(Error::NoCredentials)?;
        let name = peers.server_name.as_ref().and_then(|name| ServerName::try_from(name.to_string()).ok());
        let connector = TlsConnector::from(Arc::clone(&credentials.client));
        let done = connector.connect(name.ok_or(Error::NoName)?, Socket(socket)).await;
        let stream = done.map_err(|error| handshake(Side::Upstream, error, Trust::Mesh))?;
        let peer = admit(stream.get_ref().1.peer_certificates(), peers, Side::Upstream)?;
        Ok((stream, peer))
    }

    /// Shakes hands as a server. Who the client is has still to be looked at: [`admit`].
    ///
    /// # Errors
    /// The handshake fails.
    pub async fn accept<'a>(&self, socket: &'a TcpStream) -> Result<server::TlsStream<Socket<'a>>, Error> {
        let credentials = self.current().ok_or(Error::NoCredentials)?;
        let acceptor = TlsAcceptor::from(Arc::clone(&credentials.server));
        acceptor.accept(Socket(socket)).await.map_err(|error| handshake(Side::Client, error, Trust::Mesh))
    }
}

fn handshake(side: Side, source: io::Error, trust: Trust) -> Error {
    Error::Handshake { side, source: with_remedy(source, trust) }
}

/// Who the peer is, if it may be there.
///
/// # Errors
/// It has no identity, or one that is not among the allowed.
pub fn admit(chain: Option<&[CertificateDer<'_>]>, peers: &Peers, side: Side) -> Result<SpiffeId, Error> {
    let leaf = chain.and_then(<[_]>::first).ok_or(Error::Nobody(side))?;
    let found = credentials::identity(leaf).ok_or(Error::Nobody(side))?;
    if peers.allowed.is_empty() || peers.allowed.iter().any(|pattern| pattern.matches(&found)) {
        return Ok(found);
    }
    let allowed: Vec<_> = peers.allowed.iter().map(ToString::to_string).collect();
    Err(Error::Stranger { side, found, allowed: allowed.join(" or ") })
}

#[cfg(test)]
mod tests;
