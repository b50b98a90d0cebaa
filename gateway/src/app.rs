//! Puts the parts together and takes them apart again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use axum::Router;
use eastgate_config::bootstrap::{Drain, Settings};
use eastgate_config::istio::Options;
use eastgate_config::route::Rewrite;
use eastgate_config::snapshot::Snapshot;
use eastgate_config::xds::Node;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};

use crate::accept::ports::Ports;
use crate::accept::{self, Threads};
use crate::access_log::{self, AccessLog};
use crate::admin::{self, ClusterMetrics, Orders, Sight};
use crate::closing::{self, Closed, Closing};
use crate::control_plane::{self, Handle};
use crate::dns;
use crate::drain::Leaving;
use crate::gate::{Gate, PerClient};
use crate::listener::Shared;
use crate::metrics::Metrics;
use crate::open;
use crate::publish::Publisher;
use crate::readiness::{Readiness, Wait};
use crate::shed;
use crate::source::{certificates, files, kubernetes, upstream_tls, vm, xds};
use crate::table::Table;
use crate::tls::client::Known;
use crate::tls::{Clients, Mesh};
use crate::upstream::resolve;

/// A listener that cannot be bound is tried again this often.
const BIND_AGAIN: Duration = Duration::from_secs(2);
/// What readiness waits for once the gateway leaves.
const DRAIN: &str = "the end of the drain";
/// From the last FIN to the end of the process, which resets what is still open.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The end waits no longer for the state directory.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A running gateway.
#[derive(Debug)]
pub struct App {
    tasks: JoinSet<anyhow::Result<()>>,
    admin: SocketAddr,
    probes: Option<SocketAddr>,
    bound: watch::Receiver<BTreeMap<String, SocketAddr>>,
    dns: dns::Bound,
    table: Arc<ArcSwap<Table>>,
    readiness: Readiness,
    stop_accepting: watch::Sender<bool>,
    quit: Arc<Notify>,
    leaving: Arc<Leaving>,
    log_writer: access_log::Writer,
    drain: Drain,
    /// Held once the gateway is to leave.
    fading: Option<Wait>,
    xds: Option<Handle>,
    open: open::Registry,
}

/// How a gateway left: what became of the connections that were open when it stopped accepting.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    /// They ended as they would have anyway.
    pub finished: usize,
    /// They were closed because they were idle.
    pub idle: usize,
    /// They had not ended in time.
    pub cut: usize,
}

impl App {
    /// Starts a gateway on the caller's runtime, with data threads of its own.
    ///
    /// # Errors
    /// An admin address, the access log or the mesh directory cannot be used; each error says which and why.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let settings = Arc::new(settings);
        let metrics = Metrics::new()?;
        let readiness = Readiness::new(metrics.ready.clone());
        let first_table = readiness.wait_for("the first table and its listeners");
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        metrics.register(ClusterMetrics::new(Arc::clone(&table))?)?;

        let (access_log, log_writer) =
            AccessLog::open(&settings.access_log, metrics.access_log_dropped.clone())
                .with_context(|| format!("access_log.path: cannot open {}", settings.access_log.path))?;
        let leaving = Arc::new(Leaving::default());
        let count = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            count => count,
        };
        let connections = Gate::new(connection_limit(settings.limits.max_connections));
        let exact_balance = settings.listen.exact_balance;
        let options = accept::Options { count, exact_balance, max_pipes: settings.relay.max_pipes };
        let threads = Threads::start(options, connections, Arc::clone(&leaving))
            .context("cannot start data threads")?;
        let open = threads.open().clone();
        let mesh = Arc::new(Mesh::default());
        let (known_sender, known) = watch::channel(Default::default());
        let shared = Shared {
            settings: Arc::clone(&settings),
            table: Arc::clone(&table),
            metrics: metrics.clone(),
            access_log,
            hellos: Gate::new(settings.limits.max_pending_hellos),
            per_client: PerClient::new(settings.limits.max_connections_per_client),
            mesh: Arc::clone(&mesh),
            clients: Clients::new(known),
        };

        let mut tasks = JoinSet::new();
        if !settings.relay.shed.idle.is_zero() {
            let rules = settings.relay.shed.clone();
            let shedding = shed::run(open.clone(), Arc::clone(&table), rules, metrics.shed.clone());
            tasks.spawn(async move {
                shedding.await;
                Ok(())
            });
        }
        if let Some(directory) = settings.tls.certs_dir.clone() {
            let following = certificates::follow(directory, Arc::clone(&mesh), metrics.tls.clone());
            tasks.spawn(async move { Ok(following.await?) });
        }
        let (published, tables) = watch::channel(table.load_full());
        let (snapshot_sender, snapshots) = watch::channel(None);
        let (xds, node) = source(&mut tasks, &settings, &metrics, (&readiness, &mesh), snapshot_sender)?;
        control(&mut tasks, (&settings, &metrics), Arc::clone(&table), (snapshots, published), known_sender);
        let (bound_sender, bound) = watch::channel(BTreeMap::new());
        let (stop_accepting, quit) = (watch::Sender::new(false), Arc::new(Notify::new()));
        let dns = dns::start(&mut tasks, &settings.dns, tables.clone(), &metrics.dns, &readiness).await?;
        let ports = Ports::new(threads, shared);
        tasks.spawn(listen(ports, tables, stop_accepting.subscribe(), bound_sender, first_table));

        let sight = Sight {
            table: Arc::clone(&table),
            metrics,
            readiness: readiness.clone(),
            bound: bound.clone(),
            xds: xds.clone(),
            node: Arc::new(node),
            mesh,
            open: open.clone(),
            orders: Orders { stop_accepting: stop_accepting.clone(), quit: Arc::clone(&quit) },
            began: Instant::now(),
            failed: Arc::default(),
        };
        let admin = admin::port::serve(&mut tasks, &settings.admin, admin::operators(sight.clone())).await?;
        if let Some(address) = settings.admin.metrics_address {
            serve(&mut tasks, "admin.metrics_address", address, admin::scrapes(sight.clone())).await?;
        }
        let probes = match settings.admin.readiness_address {
            None => None,
            Some(address) => {
                Some(serve(&mut tasks, "admin.readiness_address", address, admin::probes(sight)).await?)
            }
        };
        Ok(Self {
            tasks,
            admin,
            probes,
            bound,
            dns,
            table,
            readiness,
            stop_accepting,
            quit,
            leaving,
            log_writer,
            drain: settings.drain.clone(),
            fading: None,
            xds,
            open,
        })
    }

    /// Where the admin port is bound.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Where readiness for Kubernetes is bound.
    pub fn probes_address(&self) -> Option<SocketAddr> {
        self.probes
    }

    /// Where DNS is answered.
    pub fn dns(&self) -> &dns::Bound {
        &self.dns
    }

    /// The source that is fed by a control plane, if that is the source.
    pub fn xds(&self) -> Option<&Handle> {
        self.xds.as_ref()
    }

    /// The way to the open connections.
    pub fn open(&self) -> &open::Registry {
        &self.open
    }

    /// The table in use.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Waits until the gateway is ready and gives where its listeners are bound, by name.
    ///
    /// # Errors
    /// A part of it ended first.
    pub async fn ready(&mut self) -> anyhow::Result<BTreeMap<String, SocketAddr>> {
        while !self.readiness.waiting_for().is_empty() {
            tokio::select! {
                changed = self.bound.changed() => changed.context("the listeners are gone")?,
                ended = self.tasks.join_next() => return Err(why(ended)),
            }
        }
        // A part that has ended has given back what it was waited for.
        match self.tasks.try_join_next() {
            Some(ended) => Err(why(Some(ended))),
            None => Ok(self.bound.borrow().clone()),
        }
    }

    /// Returns when an operator asks the gateway to leave, at the admin port.
    pub fn asked_to_leave(&self) -> impl Future<Output = ()> + use<> {
        let quit = Arc::clone(&self.quit);
        async move { quit.notified().await }
    }

    /// Returns only when a part of the gateway has ended that should not have.
    pub async fn ended(&mut self) -> anyhow::Error {
        why(self.tasks.join_next().await)
    }

    /// Is not ready any more, and accepts clients for `drain.grace`: those who have not heard of it yet.
    pub async fn fade(&mut self) {
        self.fading.get_or_insert_with(|| self.readiness.wait_for(DRAIN));
        tokio::time::sleep(self.drain.grace).await;
    }

    /// Drains: is not ready any more, accepts nobody, and lets open connections go on until they end or are closed as
    /// the settings say. DNS is answered until then, for clients that have not heard of another address yet.
    pub async fn stop(mut self) -> Left {
        self.fading.get_or_insert_with(|| self.readiness.wait_for(DRAIN));
        self.stop_accepting.send_replace(true);
        // The sockets' channel ends only if their task has failed, and then nothing accepts any more either.
        let _ = self.bound.wait_for(BTreeMap::is_empty).await;
        self.leaving.accepting.wait().await;
        let connections = &self.leaving.connections;
        let open = connections.open();
        let Drain { timeout, close_idle, spread, .. } = self.drain;
        if open > 0 {
            tracing::info!(open, ?timeout, "draining");
        }
        let silence = Some(close_idle).filter(|idle| !idle.is_zero());
        let closing = Closing { idle: silence, deadline: timeout, spread };
        let closed = Arc::<Closed>::default();
        let drained = async {
            tokio::select! {
                () = connections.wait() => {}
                () = closing::leave(&self.open, closing, &closed) => {}
                () = tokio::time::sleep(closing.end() + LAST_WORDS) => {}
            }
        };
        // The drain may be cut short by a SIGKILL, so that what is known is saved before it, and what came since after it.
        let _ = tokio::join!(drained, self.save());
        self.save().await;
        let (idle, cut) = (closed.idle.load(Relaxed), closed.late.load(Relaxed) + connections.open());
        // The last of the tasks holds the data threads, and they hold the access log.
        self.tasks.shutdown().await;
        self.log_writer.finish();
        Left { finished: open.saturating_sub(idle + cut), idle, cut }
    }

    /// Has the source write what is not in its state directory yet.
    async fn save(&self) {
        let Some(source) = &self.xds else { return };
        if !source.save(SAVE_TIMEOUT).await {
            tracing::warn!(
                timeout = ?SAVE_TIMEOUT,
                "the accepted configuration is not saved in time; a restart may begin with an older one"
            );
        }
    }
}

fn why(ended: Option<Result<anyhow::Result<()>, JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(Err(error))) => error,
        Some(Err(panic)) => panic.into(),
        Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the gateway ended by itself"),
    }
}

/// Where snapshots come from: one of the sources.
fn source(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    settings: &Arc<Settings>,
    metrics: &Metrics,
    (readiness, mesh): (&Readiness, &Arc<Mesh>),
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
) -> anyhow::Result<(Option<Handle>, Node)> {
    if let Some(directory) = settings.vm.config_dir.clone() {
        let ends = vm::Ends { snapshots, mesh: Arc::clone(mesh), metrics: metrics.clone() };
        let running = vm::run(directory, Arc::clone(settings), options(settings)?, ends);
        tasks.spawn(async move { Ok(running.await?) });
        return Ok((None, Node::default()));
    }
    if let Some(root) = settings.source.mesh_dir.clone() {
        let options = options(settings)?;
        tasks.spawn(async move { Ok(files::run(root, options, snapshots).await?) });
        return Ok((None, Node::default()));
    }
    if settings.source.kubernetes.config.is_some() {
        let (options, settings) = (options(settings)?, Arc::clone(settings));
        let ends = kubernetes::Ends { snapshots, metrics: metrics.kubernetes.clone() };
        tasks.spawn(async move { Ok(kubernetes::run(settings, options, ends).await?) });
        return Ok((None, Node::default()));
    }
    let identity = xds::identity(settings);
    if let Some(path) = settings.source.xds_file.clone() {
        let (options, node) = (settings.xds_options(), identity.node.clone());
        tasks.spawn(async move { Ok(xds::file::run(path, options, &identity, snapshots).await?) });
        return Ok((None, node));
    }
    anyhow::ensure!(
        !settings.xds.addresses.is_empty(),
        "nothing to serve: give --mesh-dir DIR (source.mesh_dir in the settings) with Istio and Kubernetes YAML, \
         --kubernetes (source.kubernetes.config), --xds ADDRESS (xds.addresses) of a control plane, or --xds-file FILE (source.xds_file) of xDS resources",
    );
    let (handle, commands) = control_plane::handle();
    let (metrics, readiness) = (metrics.xds.clone(), readiness.clone());
    let ends = xds::Ends { snapshots, metrics, readiness, commands };
    let node = identity.node.clone();
    let running = xds::run(Arc::clone(settings), identity, ends);
    tasks.spawn(async move {
        running.await;
        Ok(())
    });
    Ok((Some(handle), node))
}

/// The control side: source → publisher ← resolver, and publisher → files of TLS.
fn control(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    (settings, metrics): (&Settings, &Metrics),
    table: Arc<ArcSwap<Table>>,
    (snapshots, published): (watch::Receiver<Option<Arc<Snapshot>>>, watch::Sender<Arc<Table>>),
    known: watch::Sender<Arc<Known>>,
) {
    let (wanted, wanted_names) = watch::channel(Default::default());
    let (resolved_sender, resolved) = watch::channel(Default::default());
    let (dns, counted) = (settings.upstream.dns.clone(), metrics.resolve.clone());
    tasks.spawn(async move {
        resolve::run(dns, wanted_names, resolved_sender, counted).await;
        Ok(())
    });
    let (tls, spoken) = watch::channel(Default::default());
    let reading = upstream_tls::run(spoken, known, metrics.tls.clone());
    tasks.spawn(async move {
        reading.await;
        Ok(())
    });
    let publisher = Publisher { table, published, wanted, resolved, tls, metrics: metrics.table.clone() };
    tasks.spawn(async move {
        publisher.run(snapshots).await;
        Ok(())
    });
}

/// What the translation of Istio's resources needs to know of the process.
///
/// # Errors
/// A rewrite's pattern is none.
pub fn options(settings: &Settings) -> anyhow::Result<Options> {
    let rules = settings.routing.rewrites.iter().map(|rule| Rewrite::new(&rule.pattern, &rule.replacement));
    let rewrites = rules.collect::<Result<Vec<_>, _>>()?;
    Ok(Options {
        cluster_domain: settings.node.cluster_domain.clone(),
        namespace: settings.node.namespace.clone(),
        labels: settings.node.labels.clone(),
        bind_address: settings.listen.address,
        bind: settings.listen.ports.clone(),
        require_istio_alpn: settings.routing.require_istio_alpn,
        rewrites: Some(rewrites).filter(|rewrites| !rewrites.is_empty()),
        certified: settings.tls.certs_dir.is_some(),
        connect_timeout: settings.upstream.connect_timeout,
        network: settings.node.network.clone(),
        network_view: settings.node.network_view.clone(),
        automatic_addresses: settings.dns.automatic_addresses,
        originate: None,
    })
}

/// Keeps the sockets in step with the table, until accepting is to stop.
async fn listen(
    mut ports: Ports,
    mut tables: watch::Receiver<Arc<Table>>,
    mut stop: watch::Receiver<bool>,
    bound: watch::Sender<BTreeMap<String, SocketAddr>>,
    first_table: Wait,
) -> anyhow::Result<()> {
    let mut first_table = Some(first_table);
    while !*stop.borrow() {
        let table = Arc::clone(&tables.borrow_and_update());
        ports.reconcile(&table);
        if table.version > 0 && ports.failed().is_empty() {
            first_table = None;
        }
        bound.send_replace(ports.bound());
        let again = !ports.failed().is_empty();
        tokio::select! {
            changed = tables.changed() => changed.context("the publisher is gone")?,
            changed = stop.changed() => changed.context("the gateway is gone")?,
            () = tokio::time::sleep(BIND_AGAIN), if again => {}
        }
    }
    ports.close();
    bound.send_replace(BTreeMap::new());
    drop(first_table);
    // The data threads live as long as this task.
    std::future::pending::<()>().await;
    drop(ports);
    Ok(())
}

async fn serve(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    key: &str,
    address: SocketAddr,
    router: Router,
) -> anyhow::Result<SocketAddr> {
    let socket =
        TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}"))?;
    let bound = socket.local_addr()?;
    tasks.spawn(async move { Ok(axum::serve(socket, router).await?) });
    Ok(bound)
}

/// Each connection needs two file descriptors; some are left for everything else.
fn connection_limit(wanted: usize) -> usize {
    const RESERVE: u64 = 128;
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let fit = usize::try_from(files.saturating_sub(RESERVE) / 2).unwrap_or(usize::MAX).max(1);
    match wanted {
        0 => fit,
        wanted if wanted > fit => {
            tracing::warn!(
                wanted,
                fit,
                "limits.max_connections does not fit the file descriptors; raise ulimit -n"
            );
            fit
        }
        wanted => wanted,
    }
}
