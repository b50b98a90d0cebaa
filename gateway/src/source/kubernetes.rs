//! The Kubernetes source: watches of every kind in every cluster of the mesh, feeding one index.
//!
//! ```text
//! remote (kubeconfigs) ─→ run ─ a watch for each (cluster, kind) ─ Message ─→ Mesh (Index) ─→ snapshots (coalesced)
//! ```
//!
//! What is known outlives every watch: an API server that is gone, or whose history is too short (410 Gone), is listed
//! anew when it answers, and until then nothing changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use eastgate_config::bootstrap::Settings;
use eastgate_config::istio::{Kind, Options};
use eastgate_config::snapshot::Snapshot;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::kubernetes::{Access, Error};
use crate::metrics;

mod follow;
mod mesh;
mod remote;

use follow::{Follow, Message};
use mesh::{HOME, Mesh, Watched};

/// Messages that wait for the index. Full, it slows the watches down, and so bounds what is held of lists.
const QUEUE: usize = 256;

/// What the source is given by the process.
#[derive(Debug)]
pub struct Ends {
    /// Where snapshots go.
    pub snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    /// What is counted.
    pub metrics: metrics::Kubernetes,
}

/// Serves what the clusters have, until nobody listens any more.
///
/// # Errors
/// The credentials for the gateway's own cluster cannot be used. An API server that does not answer is no error.
pub async fn run(settings: Arc<Settings>, options: Options, ends: Ends) -> Result<(), Error> {
    let source = &settings.source.kubernetes;
    let access = Access::new(source.config.as_deref().unwrap_or("auto"), source.context.as_deref());
    let client = access.client().await?;
    let (sender, mut kubeconfigs) = watch::channel(None);
    let mut finding = JoinSet::new();
    finding.spawn(remote::run(Arc::clone(&settings), client.clone(), sender));
    let (messages, mut heard) = mpsc::channel(QUEUE);
    let mut clusters = Clusters::new(Arc::clone(&settings), ends.metrics, messages);
    clusters.start(HOME, client);
    let patience = Instant::now() + source.remote_timeout;
    let mut due = None;
    loop {
        let late = Instant::now() >= patience;
        let is_complete = clusters.mesh.is_whole(HOME)
            && (late || kubeconfigs.borrow().is_some() && clusters.mesh.waiting().is_empty());
        tokio::select! {
            Some(message) = heard.recv() => clusters.take(message),
            Ok(()) = kubeconfigs.changed() => {
                let now = kubeconfigs.borrow_and_update().clone();
                clusters.replace(now.unwrap_or_default()).await;
            }
            () = until(due), if is_complete => {
                due = None;
                ends.snapshots.send_replace(Some(Arc::new(clusters.snapshot(&options))));
                continue;
            }
            () = tokio::time::sleep_until(patience), if !late => {
                let waiting = clusters.mesh.waiting();
                if !waiting.is_empty() {
                    tracing::warn!(clusters = ?waiting, "not heard in time; what they have is missing so far");
                }
                continue;
            }
            () = ends.snapshots.closed() => return Ok(()),
        }
        due.get_or_insert_with(|| Instant::now() + source.coalesce);
    }
}

/// What there is to watch in this cluster. Configuration and Secrets are the gateway's own cluster's alone.
fn watched(settings: &Settings, cluster: &str) -> Vec<Watched> {
    let is_home = cluster == HOME;
    let kinds = Kind::ALL.into_iter().filter(|kind| !kind.is_by_name());
    let kinds = kinds.filter(|kind| is_home || kind.is_of_every_cluster()).map(Watched::from);
    let names = settings.source.kubernetes.secrets.iter().filter(|_| is_home);
    let namespace: Arc<str> = settings.node.namespace.as_str().into();
    let secrets = names.map(|name| Watched {
        kind: Kind::Secret,
        object: Some((Arc::clone(&namespace), name.as_str().into())),
    });
    kinds.chain(secrets).collect()
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The clusters, each with its watches.
struct Clusters {
    settings: Arc<Settings>,
    metrics: metrics::Kubernetes,
    messages: mpsc::Sender<Message>,
    mesh: Mesh,
    running: BTreeMap<Arc<str>, Running>,
    /// How often a cluster's watches were started so far.
    started: u64,
}

/// The watches of one cluster; they end when this is dropped.
struct Running {
    _watches: JoinSet<()>,
    /// Messages of an earlier set of watches do not count any more.
    generation: u64,
    kubeconfig: String,
}

impl Clusters {
    fn new(settings: Arc<Settings>, metrics: metrics::Kubernetes, messages: mpsc::Sender<Message>) -> Self {
        let (mesh, running) = (Mesh::default(), BTreeMap::new());
        Self { settings, metrics, messages, mesh, running, started: 0 }
    }

    fn start(&mut self, cluster: &str, client: Client) {
        self.begin(cluster, client, String::new());
    }

    fn begin(&mut self, cluster: &str, client: Client, kubeconfig: String) {
        self.started += 1;
        let name: Arc<str> = cluster.into();
        let mut watches = JoinSet::new();
        let failing = Arc::default();
        let all = watched(&self.settings, cluster);
        self.mesh.expect(Arc::clone(&name), &all);
        for watched in all {
            let follow = Follow {
                cluster: Arc::clone(&name),
                generation: self.started,
                metrics: follow::Metrics::new(&self.metrics, &name, &watched),
                watched,
                client: client.clone(),
                settings: self.settings.source.kubernetes.clone(),
                messages: self.messages.clone(),
                failing: Arc::clone(&failing),
            };
            watches.spawn(follow.run());
        }
        let running = Running { _watches: watches, generation: self.started, kubeconfig };
        self.running.insert(name, running);
    }

    fn take(&mut self, message: Message) {
        let running = self.running.get(&message.cluster);
        if running.is_some_and(|running| running.generation == message.generation) {
            self.mesh.take(message);
        }
    }

    /// Takes these as the kubeconfigs of all other clusters, by name. One that cannot be used changes nothing.
    async fn replace(&mut self, kubeconfigs: BTreeMap<String, String>) {
        let gone = self.running.keys().filter(|name| &***name != HOME && !kubeconfigs.contains_key(&***name));
        for name in gone.cloned().collect::<Vec<_>>() {
            tracing::info!(cluster = %name, "the cluster is not in the mesh any more");
            self.running.remove(&name);
            self.mesh.forget(&name);
            follow::Metrics::forget(&self.metrics, &name);
        }
        for (name, kubeconfig) in kubeconfigs {
            if self.running.get(&*name).is_some_and(|running| running.kubeconfig == kubeconfig) {
                continue;
            }
            match Access::Text(kubeconfig.clone()).client().await {
                Ok(client) => {
                    tracing::info!(cluster = %name, "watching the cluster");
                    self.begin(&name, client, kubeconfig);
                }
                Err(error) => tracing::error!(cluster = %name, "{}", why(&error)),
            }
        }
    }

    fn snapshot(&mut self, options: &Options) -> Snapshot {
        for (cluster, kind, count) in self.mesh.counts() {
            let labels = [follow::label(cluster), follow::kind_label(kind)];
            let gauge = self.metrics.objects.with_label_values(&labels);
            gauge.set(count.try_into().unwrap_or(i64::MAX));
        }
        self.mesh.index.snapshot(options)
    }
}

/// An error with its causes, for one line of the log.
fn why(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        // Some libraries repeat the cause in their own words.
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
