//! A control plane that speaks xDS, such as Istio's istiod: `config::xds` is the conversation, and this is its shell.
//!
//! One task keeps a stream open (`stream`); the loop in [`run`] gives what comes to the `driver`.

pub(in crate::source) mod backoff;
mod certificate;
mod csr;
mod driver;
pub mod file;
mod identity;
mod kept;
mod messages;
mod saver;
mod state;
mod stream;
mod token;
mod transport;

use std::sync::Arc;
use std::time::SystemTime;

use eastgate_config::bootstrap::Settings;
use eastgate_config::bootstrap::xds::{Address, Xds};
use eastgate_config::node::Identity;
use eastgate_config::snapshot::Snapshot;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::control_plane::Commands;
use crate::metrics;
use crate::readiness::Readiness;
use certificate::ClientCertificate;
pub(in crate::source) use certificate::KeyAndChain;
use csr::Issued;
use driver::{Driver, Parts};
use kept::Kept;
use stream::Planes;
use transport::Transport;

pub use identity::identity;
pub(in crate::source) use identity::own_address;
pub(in crate::source) use transport::with_causes;

/// Responses that wait for the driver: one is being read while another is applied.
const QUEUE: usize = 1;

/// The ends that the source works between.
#[derive(Debug)]
pub struct Ends {
    /// Where snapshots go.
    pub snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    /// What is counted.
    pub metrics: metrics::Xds,
    /// Waits for the first snapshot, and is told when it is one from disk.
    pub readiness: Readiness,
    /// What is asked of it.
    pub commands: Commands,
}

/// Serves what control planes say, over as many streams as it takes, until nobody listens any more. Losing them all
/// changes nothing in what is served. If there is saved state, that is served before the first connection.
pub async fn run(settings: Arc<Settings>, identity: Identity, ends: Ends) {
    let Ends { snapshots, metrics, readiness, commands: Commands(mut commands) } = ends;
    let (settled_sender, settled) = watch::channel(false);
    let parts =
        Parts { snapshots: snapshots.clone(), metrics: metrics.clone(), readiness, settled: settled_sender };
    let mut driver = Driver::new(&settings, &identity, parts);
    restore(&mut driver, &settings.xds, &identity, &metrics).await;

    // The tasks end with this function.
    let mut tasks = JoinSet::new();
    let certificate = client_certificate(&mut tasks, &settings, &identity, &metrics).await;
    let planes = Planes {
        addresses: settings.xds.addresses.clone(),
        transport: Transport::new(&settings, certificate, &identity.cluster_id),
        variant: settings.xds.variant.into(),
        response_timeout: settings.xds.response_timeout,
        max_message_bytes: settings.xds.max_message_bytes,
        settled,
    };
    let (sender, mut events) = mpsc::channel(QUEUE);
    tasks.spawn(planes.keep(sender));
    loop {
        driver.follow_up();
        let deadline = driver.deadline();
        let full = driver.full();
        tokio::select! {
            () = snapshots.closed() => return,
            Some(event) = events.recv() => driver.event(event),
            Some(command) = commands.recv() => driver.command(command).await,
            () = at(deadline) => driver.due(),
            () = room(full) => {}
            () = written(&mut driver) => {}
        }
    }
}

async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Returns when the stream takes another request.
async fn room(full: Option<mpsc::Sender<eastgate_config::xds::Request>>) {
    match full {
        // A stream that has ended says so with an event of its own.
        Some(requests) if requests.reserve().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

async fn written(driver: &mut Driver) {
    match &mut driver.saver {
        Some(saver) => {
            let ended = saver.written().await;
            saver.note(ended);
        }
        None => std::future::pending().await,
    }
}

async fn restore(driver: &mut Driver, settings: &Xds, identity: &Identity, metrics: &metrics::Xds) {
    let Some(directory) = settings.state_dir.clone() else { return };
    let node = identity.node.id.clone();
    match tokio::task::spawn_blocking(move || state::read(&directory, &node)).await {
        Ok(Ok(Some(state))) => driver.restore(state),
        Ok(Ok(None)) => {}
        Ok(Err((error, path))) => {
            metrics.state_set_aside.with_label_values(&[error.reason()]).inc();
            let error = transport::with_causes(&error);
            let path = path.display();
            tracing::warn!(error, %path, "the saved configuration is not used; waiting for a control plane instead");
        }
        Err(error) => tracing::warn!(%error, "the saved configuration was not read"),
    }
}

async fn client_certificate(
    tasks: &mut JoinSet<()>,
    settings: &Settings,
    identity: &Identity,
    metrics: &metrics::Xds,
) -> ClientCertificate {
    let xds = &settings.xds;
    if let (Some(certificate), Some(key)) = (&xds.certificate_path, &xds.key_path) {
        return ClientCertificate::Files { certificate: certificate.clone(), key: key.clone() };
    }
    let Some(address) = xds.ca_address.as_ref().or(xds.addresses.first()).filter(|_| xds.csr) else {
        return ClientCertificate::None;
    };
    let file = xds.state_dir.clone().map(|directory| Kept {
        directory,
        name: "xds-certificate",
        owner: identity.spiffe.clone(),
    });
    // The first stream shows it already: the token may have expired, and the CA may be down.
    let known = match &file {
        Some(file) => kept_certificate(file.clone(), metrics).await,
        None => None,
    };
    let first = known.as_ref().map(|known| Arc::new(known.certificate.clone()));
    let wanted = Wanted {
        address: address.clone(),
        spiffe: &identity.spiffe,
        cluster_id: &identity.cluster_id,
        kept: file.map(|file| (file, known)),
    };
    ClientCertificate::Issued(issued(tasks, settings, wanted, first, metrics))
}

/// A certificate that is wanted of the mesh's CA.
#[derive(Debug)]
pub(in crate::source) struct Wanted<'a> {
    /// Where the CA is.
    pub(in crate::source) address: Address,
    /// The identity.
    pub(in crate::source) spiffe: &'a str,
    /// The cluster of whoever asks.
    pub(in crate::source) cluster_id: &'a str,
    /// Where it is kept, and the one that was there.
    kept: Option<(Kept, Option<Issued>)>,
}

impl<'a> Wanted<'a> {
    /// One that ends with the process.
    pub(in crate::source) fn new(address: Address, spiffe: &'a str, cluster_id: &'a str) -> Self {
        Self { address, spiffe, cluster_id, kept: None }
    }
}

/// Has the mesh's CA issue a certificate, and keeps it valid. The CA is shown `first` until there is one of its own.
pub(in crate::source) fn issued(
    tasks: &mut JoinSet<()>,
    settings: &Settings,
    wanted: Wanted<'_>,
    first: Option<Arc<KeyAndChain>>,
    metrics: &metrics::Xds,
) -> watch::Receiver<Option<Arc<KeyAndChain>>> {
    let (file, known) = wanted.kept.map_or((None, None), |(file, known)| (Some(file), known));
    let (sender, issued) = watch::channel(first);
    let shown = ClientCertificate::Issued(issued.clone());
    let ca = csr::Ca {
        address: wanted.address,
        transport: Transport::new(settings, shown, wanted.cluster_id),
        spiffe: wanted.spiffe.into(),
        lifetime: settings.xds.certificate_lifetime,
        file,
        metrics: metrics.clone(),
    };
    tasks.spawn(ca.keep(sender, known));
    issued
}

async fn kept_certificate(file: Kept, metrics: &metrics::Xds) -> Option<Issued> {
    match tokio::task::spawn_blocking(move || Issued::read(&file, SystemTime::now())).await {
        Ok(Ok(known)) => known,
        Ok(Err((error, path))) => {
            metrics.state_set_aside.with_label_values(&[error.reason()]).inc();
            let error = transport::with_causes(&error);
            let path = path.display();
            tracing::warn!(error, %path, "the kept client certificate is not used; asking the mesh's CA for another");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "the kept client certificate was not read");
            None
        }
    }
}
