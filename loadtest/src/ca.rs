//! A small certificate authority, so that tests and the demo have certificates that a client can really verify.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;

use crate::names;

/// The file in a CA's directory that clients are given: `curl --cacert`, `openssl -CAfile`.
pub const CERTIFICATE_FILE: &str = "ca.pem";
/// The file in a CA's directory that stays there.
pub const KEY_FILE: &str = "ca-key.pem";

/// The longest common name that X.509 allows (`ub-common-name`).
const MAX_COMMON_NAME: usize = 64;

/// Why there is no CA or no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key or certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A name that no verifier would accept in a certificate.
    #[error("`{0}` is no DNS name, IP address or URI that a certificate can hold")]
    Name(String),
    /// A file of the CA could not be read or written.
    #[error("cannot {doing} `{}`", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A file that should hold certificates holds something else, or nothing.
    #[error("`{}` holds no PEM certificate", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// One of the two files is gone.
    #[error(
        "`{}` holds only one of ca.pem and ca-key.pem: bring back the other, or delete this one to get a new CA",
        .0.display()
    )]
    Half(PathBuf),
    /// The two files do not belong together.
    #[error(
        "ca.pem and ca-key.pem in `{}` are not a pair made by this tool: delete both to get a new CA, or name \
         another directory",
        .0.display()
    )]
    Pair(PathBuf),
    /// The certificate cannot be a root.
    #[error("the CA certificate cannot be used as a root")]
    Root(#[source] rustls::Error),
}

/// A certificate authority: issues certificates, and says which root to trust.
pub struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
}

impl Ca {
    /// Makes a new authority, which lives in memory only.
    ///
    /// # Errors
    /// When the cryptography library fails.
    pub fn new() -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let certificate = ca_parameters().self_signed(&key)?;
        Self::assemble(certificate.der().clone(), certificate.pem(), key)
    }

    /// Takes the authority out of `ca.pem` and `ca-key.pem` in a directory, or makes them (and the directory) where
    /// both are missing. Processes that start at once get the same authority.
    ///
    /// # Errors
    /// When the files cannot be read or written, or are not a pair that this function made.
    pub fn load_or_create(dir: &Path) -> Result<Self, Error> {
        let (certificate, key) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        fs::create_dir_all(dir).map_err(file_error("create", dir))?;
        // The directory itself is the lock, so that no third file is left behind; closing it unlocks.
        let lock = File::open(dir).map_err(file_error("open", dir))?;
        lock.lock().map_err(file_error("lock", dir))?;
        match (certificate.exists(), key.exists()) {
            (true, true) => Self::load(dir, &certificate, &key),
            (false, false) => Self::create(&certificate, &key),
            _ => Err(Error::Half(dir.to_owned())),
        }
    }

    fn load(dir: &Path, certificate: &Path, key: &Path) -> Result<Self, Error> {
        let pem = fs::read_to_string(certificate).map_err(file_error("read", certificate))?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|source| Error::Pem { path: certificate.to_owned(), source })?;
        let key_pem = fs::read_to_string(key).map_err(file_error("read", key))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|_| Error::Pair(dir.to_owned()))?;
        let ca = Self::assemble(der, pem, key)?;
        // The subject is not read from the file but known, which saves an X.509 parser; so a foreign or mixed pair
        // shows only in that what it issues does not verify.
        let probe = ca.issue(&["probe.test"])?;
        if ca.verifies(&probe) { Ok(ca) } else { Err(Error::Pair(dir.to_owned())) }
    }

    fn create(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let ca = Self::new()?;
        write_new(key, &ca.issuer.key().serialize_pem(), 0o600)?;
        write_new(certificate, &ca.pem, 0o644)?;
        Ok(ca)
    }

    fn assemble(certificate: CertificateDer<'static>, pem: String, key: KeyPair) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(Error::Root)?;
        Ok(Self { pem, issuer: Issuer::new(ca_parameters(), key), roots })
    }

    /// Issues a certificate, for servers and clients alike, that holds all of `names`: DNS names (underscores and a
    /// leading `*.` are fine), IP addresses, and URIs such as `spiffe://cluster.local/ns/bar/sa/httpbin`.
    ///
    /// # Errors
    /// When a name is none of these: one with `|`, for example, which Istio's internal names hold.
    pub fn issue(&self, names: &[&str]) -> Result<Identity, Error> {
        self.issue_with(names, CertificateParams::default())
    }

    /// The same, of yesterday: it ended an hour ago.
    ///
    /// # Errors
    /// As [`Ca::issue`].
    pub fn issue_expired(&self, names: &[&str]) -> Result<Identity, Error> {
        let hours = |hours: u64| std::time::SystemTime::now() - std::time::Duration::from_secs(3600 * hours);
        let mut parameters = CertificateParams::default();
        (parameters.not_before, parameters.not_after) = (hours(25).into(), hours(1).into());
        self.issue_with(names, parameters)
    }

    fn issue_with(&self, names: &[&str], mut parameters: CertificateParams) -> Result<Identity, Error> {
        parameters.subject_alt_names =
            names.iter().map(|name| alternative_name(name)).collect::<Result<_, _>>()?;
        parameters.distinguished_name = subject(names.first().copied().unwrap_or_default());
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        Ok(Identity(Arc::new(Issued { certificate, key })))
    }

    /// What a client that trusts this authority trusts.
    pub fn roots(&self) -> RootCertStore {
        self.roots.clone()
    }

    /// The authority's certificate, as `ca.pem` holds it.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    fn verifies(&self, identity: &Identity) -> bool {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        ParsedCertificate::try_from(identity.0.certificate.der()).is_ok_and(|leaf| {
            verify_server_cert_signed_by_trust_anchor(
                &leaf,
                &self.roots,
                &[],
                UnixTime::now(),
                algorithms.all,
            )
            .is_ok()
        })
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

/// A certificate with its key; clones share both.
#[derive(Clone)]
pub struct Identity(Arc<Issued>);

struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Identity {
    /// The certificate chain, without the root.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.0.certificate.der().clone()]
    }

    /// The private key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.key.serialize_der().into())
    }

    /// The names that the certificate holds.
    pub fn names(&self) -> Vec<String> {
        names::certificate_names(self.0.certificate.der())
    }

    /// The certificate chain as PEM.
    pub fn chain_pem(&self) -> String {
        self.0.certificate.pem()
    }

    /// The private key as PEM.
    pub fn key_pem(&self) -> String {
        self.0.key.serialize_pem()
    }

    /// Writes the chain and the key to two files, which must not exist; only the owner can read the key.
    ///
    /// # Errors
    /// When a file exists or cannot be written.
    pub fn write_pem(&self, chain: &Path, key: &Path) -> Result<(), Error> {
        write_new(key, &self.key_pem(), 0o600)?;
        write_new(chain, &self.chain_pem(), 0o644)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.names()).finish()
    }
}

/// Reads the roots to trust from a PEM file, such as a CA's `ca.pem`.
///
/// # Errors
/// When the file cannot be read, holds no certificate, or one that cannot be a root.
pub fn roots_from_file(path: &Path) -> Result<RootCertStore, Error> {
    let text = fs::read(path).map_err(file_error("read", path))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|source| Error::Pem { path: path.to_owned(), source })?;
        roots.add(certificate).map_err(Error::Root)?;
    }
    if roots.is_empty() {
        return Err(Error::Pem { path: path.to_owned(), source: pem::Error::NoItemsFound });
    }
    Ok(roots)
}

/// What every authority of this module has in common, name included: a loaded key alone makes the same issuer again.
fn ca_parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = subject("Eastgate load test CA");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

/// A subject for people who read `openssl s_client`; verifiers look at the alternative names only.
fn subject(common_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Eastgate");
    if (1..=MAX_COMMON_NAME).contains(&common_name.len()) {
        subject.push(DnType::CommonName, common_name);
    }
    subject
}

fn alternative_name(name: &str) -> Result<SanType, Error> {
    let refused = || Error::Name(name.to_owned());
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    if names::is_uri(name) {
        return Ok(SanType::URI(name.try_into().map_err(|_| refused())?));
    }
    // rcgen takes any ASCII; a name that webpki cannot read would spoil the whole certificate, so it is refused here.
    DnsName::try_from(name.strip_prefix("*.").unwrap_or(name)).map_err(|_| refused())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| refused())?))
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(file_error("write", path))
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}

#[cfg(test)]
mod tests;
