//! A certificate that the mesh's CA has issued: its life, and its place on disk, so that a gateway that starts while the
//! CA is down, or after its token has expired, still shows who it is.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::pem::Pem;

use crate::source::xds::certificate::KeyAndChain;
use crate::source::xds::kept::{self, Kept};

/// Renewed at this part of its life, as Istio's agent does ...
const RENEW_AT: f64 = 0.5;
/// ... give or take this part of it, so that a fleet that started at once does not ask at once.
const JITTER: f64 = 0.01;
/// The CA is not asked more often than this, however short the life that it gives.
const SHORTEST: Duration = Duration::from_secs(1);
/// Where the key begins in the file: the chain is before it.
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// Why a CA's answer is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("its answer holds {0} certificates; there should be a leaf and a root at least")]
    Short(usize),
    #[error("its answer holds no certificate that can be read")]
    Unreadable,
}

/// A certificate and its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source::xds) struct Issued {
    pub(in crate::source::xds) certificate: KeyAndChain,
    from: SystemTime,
    pub(super) until: SystemTime,
}

impl Issued {
    /// Takes the CA's answer apart: the leaf is first, and the root, which peers have already, last.
    pub(super) fn accept(mut chain: Vec<String>, key: String) -> Result<Self, Error> {
        if chain.len() < 2 {
            return Err(Error::Short(chain.len()));
        }
        chain.pop();
        let chain: String = chain.iter().map(|pem| format!("{}\n", pem.trim_end())).collect();
        Self::new(KeyAndChain { chain, key }).ok_or(Error::Unreadable)
    }

    /// None where the leaf cannot be read.
    fn new(certificate: KeyAndChain) -> Option<Self> {
        let pem = Pem::iter_from_buffer(certificate.chain.as_bytes()).next()?.ok()?;
        let validity = pem.parse_x509().ok()?.validity().clone();
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let (from, until) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
        Some(Self { certificate, from, until })
    }

    /// How long from now until it is to be renewed; `chance` is from 0 to 1.
    pub(super) fn renewal(&self, now: SystemTime, chance: f64) -> Duration {
        let life = self.until.duration_since(self.from).unwrap_or_default();
        let part = RENEW_AT + JITTER * (2.0 * chance.clamp(0.0, 1.0) - 1.0);
        let at = self.from + life.mul_f64(part);
        at.duration_since(now).unwrap_or_default().max(SHORTEST)
    }

    /// Keeps it: the chain and then the key, as PEM.
    pub(super) fn write(&self, file: &Kept, now: SystemTime) -> io::Result<()> {
        let KeyAndChain { chain, key } = &self.certificate;
        file.write(format!("{chain}{key}").as_bytes(), now)
    }

    /// The one that was kept, if there is one that is good now.
    ///
    /// # Errors
    /// Why it cannot be used, and where it is now.
    pub(in crate::source::xds) fn read(
        file: &Kept,
        now: SystemTime,
    ) -> Result<Option<Self>, (kept::Error, PathBuf)> {
        file.read(|_, body| {
            let unreadable = kept::Error::Damaged("it holds no certificate and key");
            let text = std::str::from_utf8(body).ok();
            let parts = text.and_then(|text| Some(text.split_at(text.find(KEY)?)));
            let parts = parts.map(|(chain, key)| KeyAndChain { chain: chain.into(), key: key.into() });
            let issued = parts.and_then(Self::new).ok_or(unreadable)?;
            if now < issued.until { Ok(issued) } else { Err(kept::Error::Expired) }
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

    use super::*;

    fn at(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + hours * 3600)
    }

    fn living(from: u64, until: u64) -> Issued {
        let certificate = KeyAndChain { chain: String::new(), key: String::new() };
        Issued { certificate, from: at(from), until: at(until) }
    }

    /// A leaf that is good from hour 0 to 24, and its key.
    fn leaf() -> (String, String) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(vec!["x".into()]).unwrap();
        params.not_before = at(0).into();
        params.not_after = at(24).into();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn it_is_renewed_at_half_of_its_life_give_or_take_a_hundredth() {
        let hours = |chance| living(0, 100).renewal(at(10), chance).as_secs_f64() / 3600.0;
        assert_eq!([hours(0.0), hours(0.5), hours(1.0)], [39.0, 40.0, 41.0]);
    }

    #[test]
    fn one_that_is_past_half_of_its_life_or_has_none_is_renewed_soon_but_not_at_once() {
        assert_eq!(living(0, 10).renewal(at(9), 0.5), SHORTEST);
        assert_eq!(living(0, 10).renewal(at(99), 0.5), SHORTEST);
        assert_eq!(living(10, 0).renewal(at(5), 0.5), 5 * Duration::from_secs(3600));
        assert_eq!(living(1, 1).renewal(at(1), 1.0), SHORTEST);
    }

    #[test]
    fn a_chain_is_taken_without_its_root_and_a_shorter_one_not_at_all() {
        let (pem, key) = leaf();
        let chain =
            |texts: &[&str]| Issued::accept(texts.iter().map(ToString::to_string).collect(), key.clone());
        let issued = chain(&[&pem, "middle", "root"]).unwrap();
        assert_eq!((issued.from, issued.until), (at(0), at(24)));
        assert!(issued.certificate.chain.ends_with("middle\n") && issued.certificate.key.contains("PRIVATE"));
        assert!(matches!(chain(&[&pem]), Err(Error::Short(1))));
        assert!(matches!(chain(&[]), Err(Error::Short(0))));
        assert!(matches!(chain(&["rubbish", "root"]), Err(Error::Unreadable)));
    }

    #[test]
    fn one_that_is_kept_is_read_back_until_it_has_expired_and_by_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let file = |owner: &str| Kept {
            directory: directory.path().into(),
            name: "xds-certificate",
            owner: owner.into(),
        };
        let (pem, key) = leaf();
        let issued = Issued::accept(vec![pem.clone(), pem, "root".into()], key.clone()).unwrap();
        issued.write(&file("spiffe://a"), at(1)).unwrap();
        assert_eq!(Issued::read(&file("spiffe://a"), at(23)).unwrap(), Some(issued.clone()));
        let reason = |read: Result<Option<Issued>, (kept::Error, PathBuf)>| read.unwrap_err().0.reason();
        assert_eq!(reason(Issued::read(&file("spiffe://a"), at(24))), "expired");
        assert_eq!(Issued::read(&file("spiffe://a"), at(1)).unwrap(), None, "it was set aside");
        issued.write(&file("spiffe://a"), at(1)).unwrap();
        assert_eq!(reason(Issued::read(&file("spiffe://b"), at(1))), "foreign");
        for body in [key.as_str(), issued.certificate.chain.as_str(), "rubbish", ""] {
            file("spiffe://a").write(body.as_bytes(), at(1)).unwrap();
            assert_eq!(reason(Issued::read(&file("spiffe://a"), at(1))), "damaged");
        }
    }
}
