//! A certificate with its key, and the roots to believe: checked as a whole before it is put in place.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eastgate_config::spiffe::SpiffeId;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::explain;
use super::verify::ByRoots;

/// What is offered to gateways and pods of the mesh.
const OFFERED: [&[u8]; 1] = [b"istio"];
/// What is agreed to, the best first. Not `istio-peer-exchange`, behind which metadata would come before the bytes;
/// and HTTP/2 last, because the local service has not been asked whether it speaks it.
const AGREED: [&[u8]; 7] =
    [b"istio", b"istio-http/1.1", b"istio-http/1.0", b"http/1.1", b"http/1.0", b"istio-h2", b"h2"];

/// What the process shows to peers and believes of them.
#[derive(Debug)]
pub struct Credentials {
    /// As a client.
    pub(super) client: Arc<ClientConfig>,
    /// As a server.
    pub(super) server: Arc<ServerConfig>,
    /// Who the certificate is for.
    pub identity: SpiffeId,
    /// When it ends.
    pub until: SystemTime,
}

/// Why credentials are not fit for use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No certificate.
    #[error("the chain holds no PEM certificate")]
    NoChain,
    /// No key.
    #[error("the key file holds no PEM private key")]
    NoKey,
    /// No root.
    #[error("the root file holds no PEM certificate that can be a root")]
    NoRoots,
    /// The key is another's.
    #[error("the key does not belong to the chain's first certificate; copy both from the same secret")]
    Mismatch,
    /// The chain is not to be believed by these roots.
    #[error("the chain cannot be used with the roots: {0}")]
    Chain(String),
    /// No identity.
    #[error(
        "the chain's first certificate holds no identity (one URI such as spiffe://cluster.local/ns/vm/sa/default); \
         have the mesh's CA issue it"
    )]
    Nobody,
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
    /// The roots are not fit for checking clients.
    #[error("cannot verify clients with these roots")]
    Clients(#[from] VerifierBuilderError),
}

impl Credentials {
    /// Takes them from PEM: the chain with the leaf first, its key, and one root or more.
    ///
    /// # Errors
    /// Something is missing, they do not belong together, or the certificate has expired.
    pub fn new(chain: &[u8], key: &[u8], roots: &[u8], now: SystemTime) -> Result<Self, Error> {
        let chain = certificates(chain).filter(|chain| !chain.is_empty()).ok_or(Error::NoChain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Error::NoKey)?;
        let store = self::roots(roots)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        verify(&chain, &store, &provider, now)?;
        let identity = chain.first().and_then(identity).ok_or(Error::Nobody)?;
        let until = chain.first().and_then(end).ok_or(Error::Nobody)?;
        let mismatch = |error| match error {
            rustls::Error::InconsistentKeys(_) => Error::Mismatch,
            error => Error::Setup(error),
        };
        let verifier = Arc::new(ByRoots::new(store.clone(), Arc::clone(&provider)));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(mismatch)?;
        client.alpn_protocols = OFFERED.map(<[u8]>::to_vec).to_vec();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients.build()?)
            .with_single_cert(chain, key)
            .map_err(mismatch)?;
        server.alpn_protocols = AGREED.map(<[u8]>::to_vec).to_vec();
        Ok(Self { client: Arc::new(client), server: Arc::new(server), identity, until })
    }
}

/// The roots in a PEM file.
///
/// # Errors
/// It holds none.
pub fn roots(pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates(pem).ok_or(Error::NoRoots)?);
    if store.is_empty() { Err(Error::NoRoots) } else { Ok(store) }
}

pub(super) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()
}

/// Would a peer with the same roots believe this chain?
fn verify(
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now: SystemTime,
) -> Result<(), Error> {
    let (leaf, intermediates) = chain.split_first().ok_or(Error::NoChain)?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let algorithms = provider.signature_verification_algorithms.all;
    let verified = ParsedCertificate::try_from(leaf).and_then(|leaf| {
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)
    });
    verified.map_err(|error| Error::Chain(explain::own_chain(&error)))
}

/// The one identity that a certificate holds. One with two could be taken for either, so it is taken for neither.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Option<SpiffeId> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (first, second) = (uris.next()?, uris.next());
    if second.is_some() { None } else { first.parse().ok() }
}

/// When a certificate ends.
pub(super) fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Every name that a certificate is for: identities and other URIs, DNS names, addresses.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::URI(name) | GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(Ipv4Addr::from([a, b, c, d]).to_string()),
            ref bytes => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}
