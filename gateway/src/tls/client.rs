//! The gateway as the client of a TLS session, by what a DestinationRule says of that.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use eastgate_config::cluster::{TlsMode, UpstreamTls};
use eastgate_config::listener::Peers;
use eastgate_config::secrets::{Pem, Secrets};
use eastgate_config::spiffe::NotAPattern;
use rustls::client::VerifierBuilderError;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::credentials::{self, certificates, end, names};
use super::verify::ByNames;
use super::{Mesh, Socket, Trust, handshake};
use crate::relay::Side;

/// For every kind of TLS that the table's clusters want, how to begin it, or why that cannot be.
pub type Known = HashMap<Arc<UpstreamTls>, Result<Arc<Client>, Arc<str>>>;

/// What the table's clusters want of TLS.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// The kinds of it.
    pub kinds: BTreeSet<Arc<UpstreamTls>>,
    /// What those hold that name a Secret.
    pub secrets: Arc<Secrets>,
}

/// What is known, kept in step with the table and with files.
#[derive(Debug, Clone)]
pub struct Clients(watch::Receiver<Arc<Known>>);

/// How a session with an endpoint is begun, and who may be there.
#[derive(Debug)]
pub enum Client {
    /// In the mesh's own TLS, with the process's credentials.
    Mesh(Peers),
    /// As the rule says in full.
    Rule {
        /// What is shown and believed.
        config: Arc<ClientConfig>,
        /// What is asked for.
        name: ServerName<'static>,
    },
}

/// Why a rule's TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing that could be asked for.
    #[error("sni {0:?} is no name of a server; give a DNS name in sni of the DestinationRule")]
    Name(String),
    /// An alternative name is no identity.
    #[error("subjectAltNames of the DestinationRule or ServiceEntry")]
    Identity(#[from] NotAPattern),
    /// A file, or a part of a Secret, does not hold what it should.
    #[error("{place} cannot be used")]
    Part {
        /// The rule's field and the file, or what of which Secret.
        place: String,
        /// Why.
        #[source]
        source: credentials::Error,
    },
    /// The client certificate has ended.
    #[error("{0} has expired; put a new one there, and look at the clock")]
    Expired(String),
    /// A list of revoked certificates is none.
    #[error("{0} holds no PEM list of revoked certificates that its CA signed")]
    Revocations(String),
    /// This machine believes nobody.
    #[error("this machine has no root certificates ({0}); give caCertificates, or install ca-certificates")]
    NoSystemRoots(String),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
    /// Nor the verification.
    #[error("cannot verify servers with these roots")]
    Verifier(#[from] VerifierBuilderError),
}

impl Clients {
    /// What this channel tells.
    pub fn new(known: watch::Receiver<Arc<Known>>) -> Self {
        Self(known)
    }

    /// How this kind is begun. Waits for a kind that the table has only just brought.
    ///
    /// # Errors
    /// It cannot be; the text says why.
    pub async fn of(&self, tls: &UpstreamTls) -> Result<Arc<Client>, super::Error> {
        let mut known = self.0.clone();
        let known = known.wait_for(|known| known.contains_key(tls)).await;
        let found = known.ok().and_then(|known| known.get(tls).cloned());
        found.unwrap_or_else(|| Err("the gateway is ending".into())).map_err(super::Error::Unfit)
    }
}

impl Client {
    /// Takes the settings and what their files or their Secret hold.
    ///
    /// # Errors
    /// They cannot be used; names the field, the file or Secret, and the remedy.
    pub fn new(tls: &UpstreamTls, pem: &Pem, now: SystemTime) -> Result<Self, Error> {
        if tls.mode == TlsMode::IstioMutual {
            let allowed = tls.subject_alt_names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
            let server_name = tls.sni.as_ref().and_then(|name| name.parse().ok());
            return Ok(Self::Mesh(Peers { server_name, allowed }));
        }
        let asked = tls.sni.as_deref().unwrap_or_default();
        let name = ServerName::try_from(asked.to_owned()).map_err(|_| Error::Name(asked.to_owned()))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = if tls.insecure {
            ByNames::anybody(Arc::clone(&provider))
        } else {
            let roots = match &pem.roots {
                Some(pem) => credentials::roots(pem).map_err(unfit(tls, Part::Roots))?,
                None => system_roots()?,
            };
            let wanted = match tls.subject_alt_names.as_slice() {
                [] => vec![asked.to_owned()],
                names => names.to_vec(),
            };
            ByNames::new(roots, revocations(tls, pem)?, wanted, Arc::clone(&provider))?
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match (&pem.certificate, &pem.key, tls.mode) {
            (Some(chain), Some(key), TlsMode::Mutual) => {
                let chain = certificates(chain).unwrap_or_default();
                let leaf = chain.first().ok_or(credentials::Error::NoChain);
                let leaf = leaf.map_err(unfit(tls, Part::Certificate))?;
                if end(leaf).is_some_and(|end| end < now) {
                    return Err(Error::Expired(Part::Certificate.of(tls)));
                }
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| credentials::Error::NoKey);
                let key = key.map_err(unfit(tls, Part::Key))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => unfit(tls, Part::Key)(credentials::Error::Mismatch),
                    error => Error::Setup(error),
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Self::Rule { config: Arc::new(config), name })
    }

    /// Shakes hands with the endpoint, and says who it is.
    ///
    /// # Errors
    /// The handshake fails, or the endpoint is somebody else.
    pub async fn connect<'a>(
        &self,
        socket: &'a TcpStream,
        mesh: &Mesh,
    ) -> Result<(TlsStream<Socket<'a>>, String), super::Error> {
        match self {
            Self::Mesh(peers) => {
                let (session, peer) = mesh.connect(socket, peers).await?;
                Ok((session, peer.to_string()))
            }
            Self::Rule { config, name } => {
                let done = TlsConnector::from(Arc::clone(config)).connect(name.clone(), Socket(socket)).await;
                let session = done.map_err(|error| handshake(Side::Upstream, error, Trust::Rule))?;
                let leaf = session.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let peer = leaf.map(names).and_then(|names| names.into_iter().next()).unwrap_or_default();
                Ok((session, peer))
            }
        }
    }

    /// Whose roots its endpoints are believed by.
    pub fn trust(&self) -> Trust {
        match self {
            Self::Mesh(_) => Trust::Mesh,
            Self::Rule { .. } => Trust::Rule,
        }
    }
}

/// A part of what the settings give.
#[derive(Debug, Clone, Copy)]
enum Part {
    Certificate,
    Key,
    Roots,
    Revocations,
}

impl Part {
    /// Where it stands, for people.
    fn of(self, tls: &UpstreamTls) -> String {
        let (field, path, keys) = match self {
            Self::Certificate => ("clientCertificate", &tls.certificate, "tls.crt (or cert)"),
            Self::Key => ("privateKey", &tls.key, "tls.key (or key)"),
            Self::Roots => ("caCertificates", &tls.roots, "ca.crt (or cacert)"),
            Self::Revocations => ("caCrl", &tls.revocations, "ca.crl (or crl)"),
        };
        match &tls.credential {
            Some(secret) => format!("{keys} of the Secret {secret}"),
            None => format!("{field} {}", path.as_deref().unwrap_or_default()),
        }
    }
}

fn unfit(tls: &UpstreamTls, part: Part) -> impl FnOnce(credentials::Error) -> Error {
    move |source| Error::Part { place: part.of(tls), source }
}

fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(Error::NoSystemRoots(errors.join(", ")));
    }
    Ok(roots)
}

fn revocations(tls: &UpstreamTls, pem: &Pem) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    let Some(pem) = &pem.revocations else { return Ok(Vec::new()) };
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let lists = lists.ok().filter(|lists| !lists.is_empty());
    lists.ok_or_else(|| Error::Revocations(Part::Revocations.of(tls)))
}

/// Reads the files that the settings name.
///
/// # Errors
/// Names the field and the file that cannot be read.
pub fn read(tls: &UpstreamTls) -> Result<Pem, String> {
    let read = |field: &str, path: &Option<String>| {
        let Some(path) = path else { return Ok(None) };
        let wrong = |error| format!("{field} {path} of the DestinationRule cannot be read: {error}");
        std::fs::read(Path::new(path)).map(Some).map_err(wrong)
    };
    Ok(Pem {
        certificate: read("clientCertificate", &tls.certificate)?,
        key: read("privateKey", &tls.key)?,
        roots: read("caCertificates", &tls.roots)?,
        revocations: read("caCrl", &tls.revocations)?,
    })
}
