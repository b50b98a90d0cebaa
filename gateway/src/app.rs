//! Puts the parts together and takes them apart again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use eastgate_config::bootstrap::{Drain, Settings};
use eastgate_config::istio::Options;
use eastgate_config::route::Rewrite;
use eastgate_config::snapshot::Snapshot;
use sd_notify::NotifyState;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::accept::ports::Ports;
use crate::accept::{self, Admission, Threads};
use crate::access_log::Reopener;
use crate::admin::{self, ClusterMetrics, Orders, Sight, port};
use crate::closing::{self, Closed, Closing};
use crate::control_plane::Handle;
use crate::drain::{Leaving, Phase};
use crate::gate::{Gate, PerClient};
use crate::listener::Shared;
use crate::metrics::Metrics;
use crate::monitor;
use crate::open;
use crate::overload;
use crate::publish::Publisher;
use crate::readiness::{Readiness, Wait};
use crate::restart::{self, Sockets, Successor};
use crate::shed;
use crate::source::{certificates, upstream_tls};
use crate::table::Table;
use crate::tls::client::Known;
use crate::tls::{Clients, Mesh};
use crate::upstream::balance::Process;
use crate::upstream::resolve;
use crate::{dialects, dns};

mod handover;
mod listening;
mod recording;
mod sources;

use handover::Handover;
use listening::listen;
use recording::Recording;
use sources::source;

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
    /// The one that has the listeners and the data threads.
    accepting: JoinSet<anyhow::Result<()>>,
    successors: mpsc::Receiver<Successor>,
    admin: SocketAddr,
    probes: Option<SocketAddr>,
    bound: watch::Receiver<BTreeMap<String, SocketAddr>>,
    dns: dns::Bound,
    table: Arc<ArcSwap<Table>>,
    readiness: Readiness,
    phase: watch::Sender<Phase>,
    quit: Arc<Notify>,
    leaving: Arc<Leaving>,
    recording: Recording,
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
    /// The process that has taken over goes on with them.
    pub passed: usize,
    /// They were closed because they were idle.
    pub idle: usize,
    /// They had not ended in time.
    pub cut: usize,
}

/// How a gateway's life comes to its end without a signal.
#[derive(Debug)]
pub enum End {
    /// A part of it has ended that should not have.
    Failed(anyhow::Error),
    /// Another process has taken over.
    Succeeded(Successor),
    /// An operator wants it to leave, as if by a signal.
    Asked,
}

impl App {
    /// Starts a gateway on the caller's runtime, with data threads of its own.
    ///
    /// # Errors
    /// An admin address, the access log or the mesh directory cannot be used; each error says which and why.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        Self::start_with(settings, Sockets::default()).await
    }

    /// The same with sockets that are bound already, and those of a process that this one takes over from.
    ///
    /// # Errors
    /// As for [`start`](Self::start), and if that process does not give its sockets.
    pub async fn start_with(settings: Settings, sockets: Sockets) -> anyhow::Result<Self> {
        let predecessor = handover::predecessor(settings.restart.socket.as_deref(), &sockets).await?;
        let waiting = if predecessor.is_some() { Phase::Waiting } else { Phase::Accepting };
        let phase = watch::Sender::new(waiting);
        let settings = Arc::new(settings);
        let metrics = Metrics::new()?;
        metrics.server_names.tell(settings.metrics.server_names);
        let readiness = Readiness::new(metrics.ready.clone());
        let first_table = readiness.wait_for("the first table and its listeners");
        let table = Arc::new(ArcSwap::from_pointee(Table::empty(process(&settings))));
        ClusterMetrics::all(&table)?.into_iter().try_for_each(|family| metrics.register_large(family))?;

        let (access_log, recording) = Recording::start(&settings, &metrics)?;
        let leaving = Arc::new(Leaving::default());
        let count = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            count => count,
        };
        let (pause, paused) = watch::channel(false);
        let connections = Gate::new(usize::MAX);
        let rate = overload::accept_rate(&settings.limits).map(|rate| (Arc::new(rate), Instant::now()));
        let admission = Admission { connections: connections.clone(), rate, pause: paused, changed: false };
        let exact_balance = settings.listen.exact_balance;
        let options = accept::Options { count, exact_balance, max_pipes: settings.relay.max_pipes };
        let threads =
            Threads::start(options, admission, Arc::clone(&leaving)).context("cannot start data threads")?;
        let open = threads.open().clone();
        metrics.tasks.count("control".into(), tokio::runtime::Handle::current().metrics());
        for (index, runtime) in threads.runtimes().iter().enumerate() {
            metrics.tasks.count(format!("data-{index}"), runtime.clone());
        }
        let mesh = Arc::new(Mesh::default());
        let (known_sender, known) = watch::channel(Default::default());
        let (published, tables) = watch::channel(table.load_full());
        let shared = Shared {
            settings: Arc::clone(&settings),
            table: Arc::clone(&table),
            tables: tables.clone(),
            metrics: metrics.clone(),
            access_log,
            hellos: Gate::new(settings.limits.max_pending_hellos),
            in_flight: Arc::default(),
            per_client: PerClient::new(settings.limits.max_connections_per_client),
            mesh: Arc::clone(&mesh),
            clients: Clients::new(known),
        };

        let watch = overload::Watch {
            limits: settings.limits.clone(),
            open: open.clone(),
            gate: connections,
            pause,
            readiness: readiness.clone(),
            metrics: metrics.overload.clone(),
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
        tasks.spawn(async move {
            overload::run(watch).await;
            Ok(())
        });
        let (registry, current, drain) = (open.clone(), Arc::clone(&table), settings.drain.clone());
        tasks.spawn(async move {
            closing::follow(&registry, &current, &drain).await;
            Ok(())
        });
        let (snapshot_sender, snapshots) = watch::channel(None);
        let (xds, node) = source(&mut tasks, &settings, &metrics, (&readiness, &mesh), snapshot_sender)?;
        dialects::register(&metrics, &table, (&settings, &node), count)?;
        let sides = (&*settings, &metrics);
        control(&mut tasks, sides, Arc::clone(&table), (snapshots, published), known_sender);
        let (bound_sender, bound) = watch::channel(BTreeMap::new());
        let shell = (&sockets, &phase.subscribe());
        let dns =
            dns::start(&mut tasks, &settings.dns, tables.clone(), &metrics.dns, &readiness, shell).await?;
        let ports = Ports::new(threads, shared, sockets.clone());
        let mut accepting = JoinSet::new();
        let (arriving_sender, arriving) = mpsc::channel(1);
        accepting.spawn(listen(ports, tables, phase.subscribe(), arriving, bound_sender, first_table));

        let sight = Sight {
            table: Arc::clone(&table),
            metrics,
            readiness: readiness.clone(),
            bound: bound.clone(),
            xds: xds.clone(),
            node: Arc::new(node),
            mesh,
            open: open.clone(),
            orders: Orders::new(phase.clone(), settings.drain.grace, recording.reopener()),
            restarts: settings.restart.socket.is_some(),
            began: Instant::now(),
        };
        let quit = Arc::clone(&sight.orders.quit);
        let operators = admin::operators(sight.clone());
        let admin = port::guarded(&mut tasks, shell, &settings.admin, operators)?;
        if let Some(address) = settings.admin.metrics_address {
            port::open(&mut tasks, shell, "admin.metrics_address", address, admin::scrapes(sight.clone()))?;
        }
        let probes = settings.admin.readiness_address;
        let probes = probes.map(|address| {
            port::open(&mut tasks, shell, "admin.readiness_address", address, admin::probes(sight))
        });
        let probes = probes.transpose()?;
        let (successor, successors) = mpsc::channel(1);
        let handover = Handover {
            path: settings.restart.socket.clone(),
            sockets,
            predecessor,
            phase: phase.clone(),
            readiness: readiness.clone(),
            arriving: arriving_sender,
            successors: successor,
        };
        tasks.spawn(handover.run());
        Ok(Self {
            tasks,
            accepting,
            successors,
            admin,
            probes,
            bound,
            dns,
            table,
            readiness,
            phase,
            quit,
            leaving,
            recording,
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

    /// A way to have the access log's file opened anew, once it was renamed.
    pub fn access_log(&self) -> Reopener {
        self.recording.reopener()
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
                // What ends first is why the others do.
                biased;
                ended = self.tasks.join_next() => return Err(why(ended)),
                ended = self.accepting.join_next() => return Err(why(ended)),
                changed = self.bound.changed() => changed.context("the listeners are gone")?,
            }
        }
        // A part that has ended has given back what it was waited for.
        match self.tasks.try_join_next() {
            Some(ended) => Err(why(Some(ended))),
            None => Ok(self.bound.borrow().clone()),
        }
    }

    /// Returns only when a part of the gateway has ended that should not have, another process has taken over, or an
    /// operator has it leave.
    pub async fn ended(&mut self) -> End {
        tokio::select! {
            biased;
            ended = self.tasks.join_next() => End::Failed(why(ended)),
            ended = self.accepting.join_next() => End::Failed(why(ended)),
            Some(successor) = self.successors.recv() => End::Succeeded(successor),
            () = self.quit.notified() => End::Asked,
        }
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
        restart::tell(&[NotifyState::Stopping]);
        self.phase.send_replace(Phase::Leaving);
        // The sockets' channel ends only if their task has failed, and then nothing accepts any more either.
        let _ = self.bound.wait_for(BTreeMap::is_empty).await;
        self.leaving.accepting.wait().await;
        self.drained(None).await
    }

    /// Leaves everything to a process that has taken over, its open connections, too, and ends when those have that stay.
    pub async fn hand_over(mut self, successor: Successor) -> Left {
        self.phase.send_replace(Phase::Succeeded);
        let _ = self.bound.wait_for(BTreeMap::is_empty).await;
        self.leaving.accepting.wait().await;
        // The other services are on its sockets now, and the state directory is its own.
        self.tasks.shutdown().await;
        self.drained(Some(successor)).await
    }

    /// Waits for the open connections as the settings say, and ends the data threads.
    async fn drained(mut self, successor: Option<Successor>) -> Left {
        let connections = &self.leaving.connections;
        let open = connections.open();
        let Drain { timeout, close_idle, spread, .. } = self.drain;
        if open > 0 {
            tracing::info!(open, ?timeout, "draining");
        }
        let save = successor.is_none();
        // Another process goes on with those that are idle.
        let silence = Some(close_idle).filter(|idle| save && !idle.is_zero());
        let closing = Closing { idle: silence, deadline: timeout, spread };
        let (closed, passed) = (Arc::<Closed>::default(), AtomicUsize::new(0));
        let giving = async {
            match successor {
                Some(successor) => handover::give(&self.open, successor, &passed).await,
                None => std::future::pending().await,
            }
        };
        let drained = async {
            tokio::select! {
                () = connections.wait() => {}
                () = closing::leave(&self.open, closing, &closed) => {}
                () = giving => {}
                () = tokio::time::sleep(closing.end() + LAST_WORDS) => {}
            }
        };
        // The drain may be cut short by a SIGKILL, so that what is known is saved before it, and what came since after it.
        match save {
            true => {
                let _ = tokio::join!(drained, self.save());
                self.save().await;
            }
            false => drained.await,
        }
        let (idle, cut) = (closed.idle.load(Relaxed), closed.late.load(Relaxed) + connections.open());
        // The last of the tasks holds the data threads, and they hold the access log.
        self.tasks.shutdown().await;
        self.accepting.shutdown().await;
        self.recording.finish().await;
        let passed = passed.into_inner();
        Left { finished: open.saturating_sub(passed + idle + cut), passed, idle, cut }
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

/// The control side: source → publisher ← resolver, publisher → files of TLS, and what watches the endpoints.
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
    let health = &settings.health;
    let watching = monitor::Options { max_probes: health.max_probes, default: health.default_check() };
    let watching = monitor::run(published.subscribe(), watching);
    tasks.spawn(async move {
        watching.await;
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

/// What balancing needs to know of the process.
fn process(settings: &Settings) -> Process {
    Process {
        peak_ewma: settings.upstream.peak_ewma,
        locality: eastgate_config::node::locality(&settings.node.labels),
        local_cluster: settings.node.local_cluster.clone(),
        replicas: BTreeMap::new(),
    }
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
        locality: eastgate_config::node::locality(&settings.node.labels),
        bind_address: settings.listen.address,
        bind: settings.listen.ports.clone(),
        require_istio_alpn: settings.routing.require_istio_alpn,
        rewrites: Some(rewrites).filter(|rewrites| !rewrites.is_empty()),
        certified: settings.tls.certs_dir.is_some(),
        proxied: !settings.listen.proxy_protocol_from.is_empty(),
        connect_timeout: settings.upstream.connect_timeout,
        network: settings.node.network.clone(),
        network_view: settings.node.network_view.clone(),
        automatic_addresses: settings.dns.automatic_addresses,
        originate: None,
    })
}
