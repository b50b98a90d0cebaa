//! A VM beside the mesh: its directory becomes listeners for plain clients there and for clients of the mesh, and its
//! certificate is kept valid.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use eastgate_config::bootstrap::Settings;
use eastgate_config::bootstrap::xds::{Address, AddressError};
use eastgate_config::istio::{Index, Options, Originate};
use eastgate_config::snapshot::Snapshot;
use eastgate_config::spiffe::{NotAnId, SpiffeId};
use eastgate_config::vm::Machine;
use notify::RecursiveMode;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::metrics::Metrics;
use crate::source::{files, xds};
use crate::tls::Mesh;

mod directory;

pub use super::certificates::Paths;
use super::certificates::{self, Certificates};
pub use directory::Contents;

/// Where the early documents put certificates.
const CERTS: &str = "/etc/certs";
/// Where Istio's agent looks for a token.
const TOKEN: &str = "/var/run/secrets/tokens/istio-token";

/// The ends that the source works between.
#[derive(Debug)]
pub struct Ends {
    /// Where snapshots go.
    pub snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    /// Where certificates go.
    pub mesh: Arc<Mesh>,
    /// What is counted.
    pub metrics: Metrics,
}

/// Why a VM's directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Directory(#[from] directory::Error),
    /// Its certificate cannot be used.
    #[error(transparent)]
    Certificates(#[from] certificates::Error),
    /// The identity to ask the CA for is none.
    #[error("cluster.env: TRUST_DOMAIN, ISTIO_NAMESPACE and SERVICE_ACCOUNT make no identity")]
    Identity(#[from] NotAnId),
    /// The CA's address is none.
    #[error(
        "the address of the mesh's CA, {address:?}, cannot be used: {reason}; write HOST:PORT in CA_ADDR of cluster.env"
    )]
    Ca {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no certificate, and nothing to get one with.
    #[error(
        "{} holds no cert-chain.pem and key.pem, and there is no istio-token to ask a CA with; copy them there, or make \
         the directory anew (eastgate vm bundle, istioctl x workload entry configure)",
        .0.display()
    )]
    NoCertificate(PathBuf),
}

/// Serves the directory until nobody listens any more.
///
/// # Errors
/// The directory or its certificate cannot be used to begin with. Later, what cannot be used is reported once, and the
/// last good one stays.
pub async fn run(
    root: PathBuf,
    settings: Arc<Settings>,
    mut options: Options,
    ends: Ends,
) -> Result<(), Error> {
    options.originate = Some(Originate { redirect: settings.vm.redirect });
    let (events, mut changed) = mpsc::channel(1);
    let mut contents = Contents::read(&root)?;
    let mut machine = contents.machine(&settings.vm)?;
    let paths = Paths::new(&certs_dir(&settings, &root));
    let watchers = [
        files::watch_directory(&root, RecursiveMode::Recursive, events.clone()),
        files::watch_directory(paths.directory(), RecursiveMode::NonRecursive, events),
    ];
    let watched = watchers.iter().all(Option::is_some);

    // The tasks end with this function.
    let mut tasks = JoinSet::new();
    let mut certificates = Certificates::new(paths, Arc::clone(&ends.mesh), ends.metrics.tls.clone());
    let mut issued = begin(&mut tasks, &settings, &machine, &root, &mut certificates, &ends.metrics)?;
    contents.check(&machine)?;
    // Nothing is listened for that could not be carried on.
    while ends.mesh.current().is_none() {
        tokio::select! {
            certificate = next(&mut issued) => certificates.renew(certificate),
            () = ends.snapshots.closed() => return Ok(()),
        }
        certificates.look_again();
    }
    let mut index = Index::default();
    let mut warned = None;
    loop {
        contents.load(&mut index, &machine)?;
        let snapshot = directory::snapshot(&mut index, &machine, &settings.vm, &options);
        ends.snapshots.send_replace(Some(Arc::new(snapshot)));
        (contents, machine) = loop {
            tokio::select! {
                () = files::settle(&mut changed, watched) => {}
                certificate = next(&mut issued) => certificates.renew(certificate),
                () = ends.snapshots.closed() => return Ok(()),
            }
            certificates.look_again();
            match Contents::read(&root).and_then(|now| Ok((now.machine(&settings.vm)?, now))) {
                Ok((_, now)) if now == contents => {}
                Ok((machine, now)) => {
                    if let Err(error) = now.check(&machine) {
                        warn_once(&error, &mut warned);
                        continue;
                    }
                    warned = None;
                    break (now, machine);
                }
                Err(error) => warn_once(&error, &mut warned),
            }
        };
    }
}

/// What a directory says, without serving it.
///
/// # Errors
/// It cannot be used.
pub fn read(
    contents: &Contents,
    settings: &Settings,
    mut options: Options,
) -> Result<(Machine, Snapshot), Error> {
    options.originate = Some(Originate { redirect: settings.vm.redirect });
    let machine = contents.machine(&settings.vm)?;
    let mut index = Index::default();
    contents.load(&mut index, &machine)?;
    let snapshot = directory::snapshot(&mut index, &machine, &settings.vm, &options);
    Ok((machine, snapshot))
}

/// Whether these certificates can be used, or there is a token to get one with that the roots would believe.
///
/// # Errors
/// Neither, and why.
pub fn check_certificate(paths: &Paths, token: bool) -> Result<(), Error> {
    match certificates::key_and_chain(paths)? {
        Some(current) => certificates::made(paths, &current).map(drop).map_err(Error::from),
        None if token => Ok(certificates::check_roots(paths)?),
        None => Err(Error::NoCertificate(paths.directory().to_owned())),
    }
}

fn warn_once(error: &directory::Error, warned: &mut Option<String>) {
    let text = xds::with_causes(error);
    if warned.as_ref() != Some(&text) {
        tracing::warn!("{text}; the directory's last good content stays in use");
        *warned = Some(text);
    }
}

/// The certificates' directory: where the settings say, or with the rest, or where the early documents put them.
fn certs_dir(settings: &Settings, root: &Path) -> PathBuf {
    let beside = || if root.join("root-cert.pem").exists() { root.to_owned() } else { CERTS.into() };
    settings.vm.certs_dir.clone().unwrap_or_else(beside)
}

/// Puts the first certificate in place and, where there is a CA to ask, begins to ask it.
fn begin(
    tasks: &mut JoinSet<()>,
    settings: &Settings,
    machine: &Machine,
    root: &Path,
    certificates: &mut Certificates,
    metrics: &Metrics,
) -> Result<Option<Issued>, Error> {
    let first = certificates::key_and_chain(certificates.paths())?;
    let token =
        [root.join("istio-token"), certificates.paths().directory().join("istio-token"), TOKEN.into()]
            .into_iter()
            .find(|path| path.exists());
    let address = settings.vm.ca_address.clone().or_else(|| machine.ca()).filter(|address| address != "-");
    if first.is_some() {
        certificates.load(first.as_deref())?;
    } else if token.is_none() || address.is_none() {
        return Err(Error::NoCertificate(certificates.paths().directory().to_owned()));
    }
    let Some(text) = address else { return Ok(None) };
    let spiffe = SpiffeId::new(&machine.trust_domain, &machine.namespace, &machine.service_account)?;
    let wrong = |reason: String| Error::Ca { address: text.clone(), reason };
    let mut address: Address = text.parse().map_err(|error: AddressError| wrong(error.to_string()))?;
    let mut asking = settings.clone();
    asking.xds.server_name = settings.vm.ca_server_name.clone();
    asking.xds.root_paths = vec![certificates.paths().root.clone()];
    asking.xds.token_path = token;
    directory::by_hosts(&mut address, &mut asking.xds.server_name, machine);
    let spiffe = spiffe.to_string();
    let wanted = xds::Wanted::new(address, &spiffe, &machine.cluster_id);
    Ok(Some(xds::issued(tasks, &asking, wanted, first, &metrics.xds)))
}

type Issued = watch::Receiver<Option<Arc<xds::KeyAndChain>>>;

/// The next certificate that the CA issues.
async fn next(issued: &mut Option<Issued>) -> Option<Arc<xds::KeyAndChain>> {
    if let Some(issued) = issued
        && issued.changed().await.is_ok()
    {
        return issued.borrow_and_update().clone();
    }
    std::future::pending().await
}
