//! The client certificate, from files that somebody else renews or from the mesh's CA: read anew for every connection.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

/// A certificate chain with its key, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::source) struct KeyAndChain {
    /// The leaf first.
    pub(in crate::source) chain: String,
    /// Never shown.
    pub(in crate::source) key: String,
}

impl fmt::Debug for KeyAndChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyAndChain").field("chain", &self.chain).field("key", &"..").finish()
    }
}

/// Where the client certificate comes from.
#[derive(Debug, Clone)]
pub(super) enum ClientCertificate {
    /// There is none.
    None,
    /// Files.
    Files {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The mesh's CA; none until it has issued the first.
    Issued(watch::Receiver<Option<Arc<KeyAndChain>>>),
}

/// A file of the client certificate cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the client certificate's {}", path.display())]
pub(super) struct Error {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl ClientCertificate {
    /// The one to show now.
    pub(super) async fn current(&self) -> Result<Option<Arc<KeyAndChain>>, Error> {
        match self {
            Self::None => Ok(None),
            Self::Issued(issued) => Ok(issued.borrow().clone()),
            Self::Files { certificate, key } => {
                let chain = read(certificate).await?;
                let key = read(key).await?;
                Ok(Some(Arc::new(KeyAndChain { chain, key })))
            }
        }
    }
}

async fn read(path: &std::path::Path) -> Result<String, Error> {
    tokio::fs::read_to_string(path).await.map_err(|source| Error { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let certificate = KeyAndChain { chain: "chain".into(), key: "secret".into() };
        assert!(!format!("{certificate:?}").contains("secret"));
    }

    #[tokio::test]
    async fn files_are_read_anew_each_time_and_a_missing_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        std::fs::write(&certificate, "one").unwrap();
        let files = ClientCertificate::Files { certificate: certificate.clone(), key: key.clone() };
        assert!(files.current().await.unwrap_err().to_string().contains("key.pem"));
        std::fs::write(&key, "k").unwrap();
        assert_eq!(files.current().await.unwrap().unwrap().chain, "one");
        std::fs::write(&certificate, "two").unwrap();
        assert_eq!(files.current().await.unwrap().unwrap().chain, "two");
    }
}
