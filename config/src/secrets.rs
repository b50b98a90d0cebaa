//! What Kubernetes Secrets hold for the TLS that the gateway itself speaks: keys and certificates, which are shown nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::cluster::{TlsMode, UpstreamTls};

/// What is added to a Secret's name where its roots are in a Secret of their own.
const ROOTS_OF: &str = "-cacert";

/// What the files of an [`UpstreamTls`], or its Secret, hold: PEM, not looked at yet.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pem {
    /// The gateway's certificate chain: `clientCertificate`.
    pub certificate: Option<Vec<u8>>,
    /// Its key: `privateKey`.
    pub key: Option<Vec<u8>>,
    /// The roots of the endpoint's certificate: `caCertificates`.
    pub roots: Option<Vec<u8>>,
    /// Revoked certificates: `caCrl`.
    pub revocations: Option<Vec<u8>>,
}

/// Which parts there are, and nothing of what is in them.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("certificate", &self.certificate),
            ("key", &self.key),
            ("roots", &self.roots),
            ("revocations", &self.revocations),
        ];
        f.debug_set().entries(parts.iter().filter(|(_, part)| part.is_some()).map(|(name, _)| name)).finish()
    }
}

/// The Secrets of the gateway's namespace that matter, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<String, Pem>);

/// What a `credentialName` needs and does not find.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Nothing of the name.
    #[error(
        "there is no Secret {0}: create it in the gateway's namespace, and where the gateway reads the Kubernetes API, name \
         it in source.kubernetes.secrets, too"
    )]
    Secret(String),
    /// Nothing to show.
    #[error("the Secret {0} holds no key pair: give it tls.crt and tls.key (or cert and key)")]
    Pair(String),
    /// Nobody to believe.
    #[error("neither the Secret {0}{ROOTS_OF} nor {0} holds roots: give one of them ca.crt (or cacert)")]
    Roots(String),
}

impl FromIterator<(String, Pem)> for Secrets {
    fn from_iter<I: IntoIterator<Item = (String, Pem)>>(secrets: I) -> Self {
        Self(secrets.into_iter().collect())
    }
}

impl Secrets {
    /// What there is for the Secret that these settings name, as Istio finds it: the roots in `NAME-cacert`, or else in
    /// `NAME`. `None` where they name none.
    pub fn of(&self, tls: &UpstreamTls) -> Option<Result<Pem, Missing>> {
        tls.credential.as_ref().map(|name| self.find(name, tls))
    }

    fn find(&self, name: &str, tls: &UpstreamTls) -> Result<Pem, Missing> {
        let (own, beside) = (self.0.get(name), self.0.get(&beside(name)));
        if own.is_none() && beside.is_none() {
            return Err(Missing::Secret(name.to_owned()));
        }
        let mut found = Pem::default();
        if tls.mode == TlsMode::Mutual {
            let pair = own.filter(|own| own.certificate.is_some() && own.key.is_some());
            let pair = pair.ok_or_else(|| Missing::Pair(name.to_owned()))?;
            (found.certificate, found.key) = (pair.certificate.clone(), pair.key.clone());
        }
        if let Some(trusted) = [beside, own].into_iter().flatten().find(|secret| secret.roots.is_some()) {
            (found.roots, found.revocations) = (trusted.roots.clone(), trusted.revocations.clone());
        } else if !tls.insecure {
            // To believe the machine's roots instead would be more than anybody asked for.
            return Err(Missing::Roots(name.to_owned()));
        }
        Ok(found)
    }

    /// Only those that are named here.
    pub fn named<'a>(&self, names: impl Iterator<Item = &'a str>) -> Self {
        let wanted: BTreeSet<_> = names.flat_map(|name| [name.to_owned(), beside(name)]).collect();
        let found = self.0.iter().filter(|(name, _)| wanted.contains(*name));
        found.map(|(name, pem)| (name.clone(), pem.clone())).collect()
    }
}

fn beside(name: &str) -> String {
    format!("{name}{ROOTS_OF}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(parts: &str) -> Pem {
        let part = |name: char| parts.contains(name).then(|| b"-----BEGIN TRUSTED-----".to_vec());
        Pem { certificate: part('c'), key: part('k'), roots: part('r'), revocations: part('v') }
    }

    fn tls(mode: TlsMode, insecure: bool) -> UpstreamTls {
        UpstreamTls { mode, credential: Some("c".into()), insecure, ..UpstreamTls::mesh("a.b") }
    }

    fn found(secrets: &[(&str, &str)], mode: TlsMode) -> Result<Pem, Missing> {
        let secrets: Secrets = secrets.iter().map(|(name, parts)| ((*name).to_owned(), pem(parts))).collect();
        secrets.of(&tls(mode, false)).unwrap()
    }

    #[test]
    fn what_is_shown_and_what_is_believed_may_stand_in_one_secret_or_two() {
        use TlsMode::{Mutual, Simple};
        assert_eq!(found(&[("c", "ckr")], Mutual), Ok(pem("ckr")));
        assert_eq!(found(&[("c", "ck"), ("c-cacert", "rv")], Mutual), Ok(pem("ckrv")));
        assert_eq!(found(&[("c-cacert", "r")], Simple), Ok(pem("r")));
        assert_eq!(found(&[("c", "ckr")], Simple), Ok(pem("r")), "who need not show a key does not hold one");
    }

    #[test]
    fn what_is_missing_is_told_and_the_machines_roots_do_not_stand_in() {
        use TlsMode::{Mutual, Simple};
        assert_eq!(found(&[("other", "ckr")], Simple), Err(Missing::Secret("c".into())));
        assert_eq!(found(&[("c", "cr")], Mutual), Err(Missing::Pair("c".into())));
        assert_eq!(found(&[("c", "ck")], Mutual), Err(Missing::Roots("c".into())));
        assert_eq!(found(&[("c", "ck")], Simple), Err(Missing::Roots("c".into())));
        let secrets: Secrets = [("c".to_owned(), pem("ck"))].into_iter().collect();
        assert_eq!(secrets.of(&tls(Mutual, true)), Some(Ok(pem("ck"))), "who verifies nobody needs no roots");
        assert_eq!(secrets.of(&UpstreamTls::mesh("a.b")), None);
    }

    #[test]
    fn nothing_of_a_secret_is_shown() {
        let secrets: Secrets = [("c".to_owned(), pem("ckrv"))].into_iter().collect();
        let shown = format!("{secrets:?}");
        assert!(
            shown.contains("\"key\"") && !shown.contains("TRUSTED") && !shown.contains("45, 45"),
            "{shown}"
        );
    }
}
