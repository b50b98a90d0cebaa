//! The process's certificate: read from files or issued, checked, put in place, and looked at again when files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use notify::RecursiveMode;
use tokio::sync::mpsc;

use super::files;
use crate::metrics::{self, timestamp};
use crate::source::xds::{KeyAndChain, with_causes};
use crate::tls::{Credentials, Mesh, credentials};

/// The files of a certificate.
#[derive(Debug, Clone)]
pub struct Paths {
    directory: PathBuf,
    /// The chain, the leaf first.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The roots to believe.
    pub root: PathBuf,
}

impl Paths {
    /// Those in a directory, as the early documents name them.
    pub fn new(directory: &Path) -> Self {
        let at = |name| directory.join(name);
        Self {
            chain: at("cert-chain.pem"),
            key: at("key.pem"),
            root: at("root-cert.pem"),
            directory: directory.to_owned(),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Why a certificate is not put in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What they hold cannot be used.
    #[error("the certificate in {} cannot be used", chain.display())]
    Unfit {
        /// The chain's file.
        chain: PathBuf,
        /// Why.
        #[source]
        source: credentials::Error,
    },
    /// The roots' file holds none.
    #[error("the root certificate in {} cannot be used", root.display())]
    Roots {
        /// The file.
        root: PathBuf,
        /// Why.
        #[source]
        source: credentials::Error,
    },
}

/// Puts certificates in place.
#[derive(Debug)]
pub(super) struct Certificates {
    paths: Paths,
    mesh: Arc<Mesh>,
    metrics: metrics::Tls,
    /// From the mesh's CA; where there is one, the files' own does not count any more.
    issued: Option<Arc<KeyAndChain>>,
    /// What is in place: chain and key, and the roots.
    in_place: Option<(KeyAndChain, String)>,
    warned: Option<String>,
}

impl Certificates {
    pub(super) fn new(paths: Paths, mesh: Arc<Mesh>, metrics: metrics::Tls) -> Self {
        Self { paths, mesh, metrics, issued: None, in_place: None, warned: None }
    }

    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Puts this one in place, or the one in the files.
    pub(super) fn load(&mut self, given: Option<&KeyAndChain>) -> Result<(), Error> {
        let from_files = if given.is_none() { key_and_chain(&self.paths)? } else { None };
        let Some(current) = given.or(from_files.as_deref()) else { return Ok(()) };
        let roots = read(&self.paths.root)?;
        if self.in_place.as_ref().is_some_and(|(before, root)| before == current && *root == roots) {
            return Ok(());
        }
        let made = made(&self.paths, current)?;
        let (identity, until) = (&made.identity, jiff::Timestamp::try_from(made.until).unwrap_or_default());
        tracing::info!(%identity, %until, "the mesh certificate is in place");
        self.metrics.expiry.set(timestamp(made.until));
        self.metrics.loads.with_label_values(&["ok"]).inc();
        self.mesh.renew(Arc::new(made));
        self.in_place = Some((current.clone(), roots));
        Ok(())
    }

    /// Takes a certificate that the CA has issued; without one, what is in place stays.
    pub(super) fn renew(&mut self, issued: Option<Arc<KeyAndChain>>) {
        self.issued = issued.or(self.issued.take());
    }

    /// Puts in place what has changed. What cannot be used is told once, and what is in place stays.
    pub(super) fn look_again(&mut self) {
        let issued = self.issued.clone();
        match self.load(issued.as_deref()) {
            Ok(()) => self.warned = None,
            Err(error) => {
                self.metrics.loads.with_label_values(&["failed"]).inc();
                let text = with_causes(&error);
                if self.warned.as_ref() != Some(&text) {
                    tracing::warn!("{text}; the last good one stays in use");
                    self.warned = Some(text);
                }
            }
        }
    }
}

/// Keeps the certificate of a directory in place, for as long as it is polled.
///
/// # Errors
/// It cannot be used to begin with. Later, one that cannot be used is reported once, and the last good one stays.
pub async fn follow(directory: PathBuf, mesh: Arc<Mesh>, metrics: metrics::Tls) -> Result<(), Error> {
    let (events, mut changed) = mpsc::channel(1);
    let watcher = files::watch_directory(&directory, RecursiveMode::NonRecursive, events);
    let paths = Paths::new(&directory);
    // Here one must be there, and no CA is asked for another.
    read(&paths.chain)?;
    let mut certificates = Certificates::new(paths, mesh, metrics);
    certificates.load(None)?;
    loop {
        files::settle(&mut changed, watcher.is_some()).await;
        certificates.look_again();
    }
}

/// Chain and key as the files have them; none where neither file is there.
pub(super) fn key_and_chain(paths: &Paths) -> Result<Option<Arc<KeyAndChain>>, Error> {
    let Paths { chain, key, .. } = paths;
    if !chain.exists() && !key.exists() {
        return Ok(None);
    }
    Ok(Some(Arc::new(KeyAndChain { chain: read(chain)?, key: read(key)? })))
}

/// Chain and key with the roots in the file.
pub(super) fn made(paths: &Paths, current: &KeyAndChain) -> Result<Credentials, Error> {
    let roots = read(&paths.root)?;
    let (chain, key) = (current.chain.as_bytes(), current.key.as_bytes());
    let made = Credentials::new(chain, key, roots.as_bytes(), SystemTime::now());
    made.map_err(|source| Error::Unfit { chain: paths.chain.clone(), source })
}

/// Is there a root?
pub(super) fn check_roots(paths: &Paths) -> Result<(), Error> {
    let roots = credentials::roots(read(&paths.root)?.as_bytes());
    roots.map(drop).map_err(|source| Error::Roots { root: paths.root.clone(), source })
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}
