//! Verifies servers: as the mesh does, by their chain and not by the name they were called, or as a DestinationRule says.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    VerifierBuilderError, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

use super::credentials::names;

/// What is done about signatures by every verifier: what the provider can.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(
                message,
                certificate,
                signature,
                &self.provider.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(
                message,
                certificate,
                signature,
                &self.provider.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Accepts every chain that leads to the roots. Who is at its end is looked at once the handshake is done.
#[derive(Debug)]
pub(super) struct ByRoots {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ByRoots {
    pub(super) fn new(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Self {
        Self { roots, provider }
    }
}

impl ServerCertVerifier for ByRoots {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

/// Accepts a chain that leads to the roots and whose certificate has one of the names; or any chain, where a rule says
/// that nothing is to be verified.
#[derive(Debug)]
pub(super) struct ByNames {
    chain: Option<Arc<WebPkiServerVerifier>>,
    wanted: Vec<String>,
    provider: Arc<CryptoProvider>,
}

/// A good chain that ends in somebody else.
#[derive(Debug, thiserror::Error)]
#[error("its certificate is for {found}, and not for {wanted}")]
pub(super) struct Stranger {
    found: String,
    wanted: String,
}

impl ByNames {
    pub(super) fn new(
        roots: RootCertStore,
        revocations: Vec<CertificateRevocationListDer<'static>>,
        wanted: Vec<String>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        // As Envoy has it, a list speaks of those certificates only that its own CA issued.
        let builder = builder.with_crls(revocations).allow_unknown_revocation_status();
        Ok(Self { chain: Some(builder.build()?), wanted, provider })
    }

    /// Believes everybody.
    pub(super) fn anybody(provider: Arc<CryptoProvider>) -> Self {
        Self { chain: None, wanted: Vec::new(), provider }
    }

    fn is_wanted(&self, leaf: &CertificateDer<'_>) -> Result<bool, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        Ok(self.wanted.iter().any(|wanted| match ServerName::try_from(wanted.as_str()) {
            Ok(name) => verify_server_name(&parsed, &name).is_ok(),
            // A URI, such as an identity.
            Err(_) => names(leaf).contains(wanted),
        }))
    }
}

impl ServerCertVerifier for ByNames {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(leaf, intermediates, server_name, ocsp_response, now) {
            // The name that was asked for is looked at last, once the chain is good, and need not be the one that counts.
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) => return Err(error),
        }
        if self.is_wanted(leaf)? {
            return Ok(ServerCertVerified::assertion());
        }
        let found = match names(leaf).as_slice() {
            [] => "nobody".to_owned(),
            names => names.join(" and "),
        };
        let stranger = Stranger { found, wanted: self.wanted.join(" or ") };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(stranger)))))
    }

    signatures!();
}
