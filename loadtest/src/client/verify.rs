//! Verifies a server as a mesh client does: by who it is, not by the name it was called.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use crate::names::{certificate_is_for, certificate_names};

/// The chain is good, but it ends in somebody else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate is for {}, expected {}", list(found), list(expected))]
pub struct Stranger {
    /// The names in the certificate.
    pub found: Vec<String>,
    /// The names of which one should have been there.
    pub expected: Vec<String>,
}

impl Stranger {
    /// Finds the verdict of [`OneOf`] inside the error of a handshake, which would show it as `Other(OtherError(..))`.
    pub(super) fn behind(error: &io::Error) -> Option<Self> {
        let rustls::Error::InvalidCertificate(CertificateError::Other(other)) =
            error.get_ref()?.downcast_ref()?
        else {
            return None;
        };
        other.0.downcast_ref().cloned()
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(" or ") }
}

/// Accepts a chain that leads to the roots and ends in one of the expected names.
#[derive(Debug)]
pub(super) struct OneOf {
    roots: RootCertStore,
    expected: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Checks the signatures of the handshake, which have nothing to do with names.
    webpki: Arc<WebPkiServerVerifier>,
}

impl OneOf {
    pub(super) fn new(
        roots: RootCertStore,
        expected: Vec<String>,
        algorithms: WebPkiSupportedAlgorithms,
        webpki: Arc<WebPkiServerVerifier>,
    ) -> Self {
        Self { roots, expected, algorithms, webpki }
    }
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        if self.expected.iter().any(|name| certificate_is_for(leaf, name)) {
            return Ok(ServerCertVerified::assertion());
        }
        let stranger = Stranger { found: certificate_names(leaf), expected: self.expected.clone() };
        Err(CertificateError::Other(OtherError(Arc::new(stranger))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
