//! What is done with each event: tells the client, passes on what it wants sent, and decides when there is something
//! to publish or to save. Owns no socket and no task.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eastgate_config::bootstrap::Settings;
use eastgate_config::bootstrap::xds::{Address, Variant};
use eastgate_config::node::Identity;
use eastgate_config::snapshot::Snapshot;
use eastgate_config::xds::{CLUSTER, Client, ENDPOINTS, LISTENER, Moment, NAME_TABLE, Request, Response};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::saver::Saver;
use super::state::State;
use super::stream::{End, Event};
use super::transport::with_causes;
use crate::control_plane::{Command, Holdings, Link, View};
use crate::metrics::{self, timestamp};
use crate::readiness::{Readiness, Remark, Wait};

/// What `/ready?verbose` says while nothing but saved state is served.
const UNCONFIRMED: &str = "serving saved configuration that no control plane has confirmed";

/// The source's state.
#[derive(Debug)]
pub(super) struct Driver {
    client: Client,
    began: Instant,
    began_at: SystemTime,
    variant: Variant,
    node: String,
    coalesce: Duration,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    metrics: metrics::Xds,
    readiness: Readiness,
    /// Readiness waits for the first snapshot.
    first: Option<Wait>,
    /// Held while what is served comes from disk only.
    unconfirmed: Option<Remark>,
    /// Everything has been heard of once.
    settled: watch::Sender<bool>,
    requests: Option<mpsc::Sender<Request>>,
    /// The client has more to send than the stream takes now.
    backlog: bool,
    /// There is something that is not published.
    pending: bool,
    publish_at: Option<Instant>,
    pub(super) saver: Option<Saver>,
    link: Link,
    /// Since when no control plane answers, and why; told once, not with each attempt.
    trouble: Option<(Instant, &'static str)>,
}

/// What a driver works with.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    pub(super) metrics: metrics::Xds,
    pub(super) readiness: Readiness,
    pub(super) settled: watch::Sender<bool>,
}

impl Driver {
    pub(super) fn new(settings: &Settings, identity: &Identity, parts: Parts) -> Self {
        let options = settings.xds_options();
        let settings = &settings.xds;
        let Parts { snapshots, metrics, readiness, settled } = parts;
        let began_at = SystemTime::now();
        metrics.stale_since.set(timestamp(began_at));
        Self {
            client: Client::new(settings.variant.into(), &identity.node, options),
            began: Instant::now(),
            began_at,
            variant: settings.variant,
            node: identity.node.id.clone(),
            coalesce: settings.coalesce,
            first: Some(readiness.wait_for("the control plane's first clusters and listeners")),
            unconfirmed: None,
            snapshots,
            settled,
            requests: None,
            backlog: false,
            pending: false,
            publish_at: None,
            saver: settings
                .state_dir
                .clone()
                .map(|directory| Saver::new(directory, identity.node.id.clone(), metrics.clone())),
            metrics,
            readiness,
            link: Link::default(),
            trouble: None,
        }
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    fn epoch(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// Takes saved state, and serves it at once.
    pub(super) fn restore(&mut self, state: State) {
        let now = self.now();
        let pushes = self.client.restore(state.saved, now);
        let refused: usize = pushes.iter().map(|push| push.rejections.len()).sum();
        let snapshot = self.client.snapshot();
        let (listeners, clusters) = (snapshot.listeners.len(), snapshot.clusters.len());
        let age = SystemTime::now().duration_since(state.at).unwrap_or_default();
        if listeners == 0 && clusters == 0 {
            return;
        }
        tracing::info!(
            listeners,
            clusters,
            refused,
            ?age,
            "serving saved configuration until a control plane answers"
        );
        self.unconfirmed = Some(self.readiness.remark(UNCONFIRMED, state.at));
        self.metrics.saved_state.set(1);
        self.metrics.state_written.set(timestamp(state.at));
        self.metrics.stale_since.set(timestamp(state.at));
        self.take_changes();
        self.publish();
    }

    /// When [`Self::due`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let client = self.client.poll_timeout().map(|moment| self.began + moment);
        let save = self.saver.as_ref().and_then(Saver::deadline);
        [client, self.publish_at, save].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(super) fn due(&mut self) {
        let now = Instant::now();
        if self.client.poll_timeout().is_some_and(|moment| self.began + moment <= now) {
            self.client.timeout(self.now());
        }
        if self.publish_at.is_some_and(|at| at <= now) {
            self.publish();
        }
        let Self { saver: Some(saver), client, .. } = self else { return };
        if saver.deadline().is_some_and(|at| at <= now) {
            // Half of a set must not take the place of a whole one.
            if client.is_settled() { saver.write(client.saved()) } else { saver.put_off() }
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Opened(address, requests) => {
                tracing::debug!(%address, "a stream to the control plane is open");
                self.link.address = Some(address.to_string());
                self.link.since = Some(self.epoch());
                self.link.answered = false;
                self.requests = Some(requests);
                self.client.connected(self.now());
            }
            Event::Response(response) => {
                // Responses may come in a row that would keep a data thread on the same core waiting for milliseconds. So
                // it may go before each, which has just been decoded, and after it has been applied.
                std::thread::yield_now();
                self.receive(*response);
                std::thread::yield_now();
            }
            Event::Ended { address, answered, end, wait } => self.ended(&address, answered, &end, wait),
        }
    }

    fn receive(&mut self, response: Response) {
        if !self.link.answered {
            self.link.answered = true;
            self.metrics.stale_since.set(0);
            let address = self.link.address.as_deref().unwrap_or_default();
            self.metrics.connected.with_label_values(&[address]).set(1);
            match self.trouble.take() {
                Some((since, _)) => {
                    tracing::info!(address, after = ?since.elapsed(), "the control plane answers again");
                }
                None => tracing::info!(address, "the control plane answers"),
            }
        }
        let at = self.epoch();
        self.link.last_response = Some(at);
        self.metrics.last_response.set(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
        let began = Instant::now();
        self.client.receive(response, self.now());
        let took = began.elapsed();
        self.client.took(took);
        self.metrics.apply_seconds.observe(took.as_secs_f64());
        let Some(push) = self.client.journal().next_back() else { return };
        let label = label(&push.type_url);
        self.metrics.pushes.with_label_values(&[label]).inc();
        if !push.rejections.is_empty() {
            self.metrics.nacks.with_label_values(&[label]).inc();
        }
        tracing::debug!(
            number = push.number,
            r#type = label,
            version = push.version,
            added = push.added.count,
            changed = push.changed.count,
            removed = push.removed.count,
            refused = push.rejections.len(),
            "push"
        );
    }

    fn ended(&mut self, address: &Address, answered: bool, end: &End, wait: Duration) {
        self.requests = None;
        self.client.disconnected(self.now());
        let reason = end.reason();
        self.metrics.reconnects.with_label_values(&[reason]).inc();
        if reason == "oversized" {
            self.metrics.oversized.inc();
        }
        self.metrics.connected.with_label_values(&[&address.to_string()]).set(0);
        if answered {
            // The set was good until now, and the age of what is on disk should say so.
            self.saver.iter_mut().for_each(Saver::dirty);
            self.metrics.stale_since.set(timestamp(SystemTime::now()));
        }
        let end = with_causes(end);
        let ended = self.link.ended + 1;
        let last_end = Some(format!("{address}: {end}"));
        self.link = Link { ended, last_end, last_response: self.link.last_response, ..Link::default() };
        let told = self.trouble.is_some_and(|(_, before)| before == reason);
        if answered && matches!(reason, "closed" | "unavailable" | "cancelled" | "broken") {
            // Istio ends every stream after half an hour; what is known stays in use.
            tracing::info!(%address, end, "the stream to the control plane has ended; opening another");
        } else if told {
            tracing::debug!(%address, end, ?wait, "still no answer from the control plane");
        } else {
            tracing::warn!(%address, end, ?wait, "no answer from the control plane; what is known stays in use");
            let since = self.trouble.map_or_else(Instant::now, |(since, _)| since);
            self.trouble = Some((since, reason));
        }
    }

    pub(super) async fn command(&mut self, command: Command) {
        // Whoever asked may have gone.
        match command {
            Command::View(answer) => _ = answer.send(self.view()),
            Command::Holdings(answer) => {
                let accepted = self.client.saved();
                _ = answer.send(Holdings { accepted, refused: self.client.refused() });
            }
            Command::Release(answer) => {
                let kept = self.client.is_keeping_back();
                if kept {
                    tracing::info!("the guard lets go of what it kept, as told");
                    self.client.release(self.now());
                }
                let _ = answer.send(kept);
            }
            Command::Save(answer) => {
                self.save().await;
                let _ = answer.send(());
            }
        }
    }

    /// Writes what is not on disk yet. Half of a set must not take the place of a whole one here either.
    async fn save(&mut self) {
        let Self { saver: Some(saver), client, .. } = self else { return };
        saver.finish().await;
        if saver.is_dirty() && client.is_settled() {
            saver.write(client.saved());
            saver.finish().await;
        }
    }

    fn view(&self) -> View {
        View {
            began: self.began_at.duration_since(UNIX_EPOCH).unwrap_or_default(),
            now: self.now(),
            node: self.node.clone(),
            variant: match self.variant {
                Variant::Delta => "delta",
                Variant::Sotw => "sotw",
            },
            link: self.link.clone(),
            settled: *self.settled.borrow(),
            saved_state: self.unconfirmed.is_some(),
            keeping_back: self.client.is_keeping_back(),
            types: self.client.status().collect(),
            warming: self.client.warming().map(str::to_owned).collect(),
            missing: self.client.missing().map(str::to_owned).collect(),
            journal: self.client.journal().cloned().collect(),
        }
    }

    /// After every step: sends what is to be sent, and sees what has become different.
    pub(super) fn follow_up(&mut self) {
        self.transmit();
        self.take_changes();
        self.metrics.keeping_back.set(self.client.is_keeping_back().into());
        if !*self.settled.borrow() && self.client.is_settled() {
            self.settled.send_replace(true);
            self.unconfirmed = None;
            self.metrics.saved_state.set(0);
            self.saver.iter_mut().for_each(Saver::dirty);
            // An empty set is a set, too: the gateway is ready to serve nothing.
            self.pending = true;
        }
        if !self.pending || self.publish_at.is_some() {
            return;
        }
        if self.first.is_none() {
            self.publish_at = Some(Instant::now() + self.coalesce);
        } else if *self.settled.borrow() {
            self.publish();
        }
    }

    /// Hands requests to the stream as far as it takes them.
    fn transmit(&mut self) {
        self.backlog = false;
        while let Some(requests) = &self.requests {
            match requests.try_reserve() {
                Ok(permit) => match self.client.poll_transmit() {
                    Some(request) => permit.send(request),
                    None => return,
                },
                Err(mpsc::error::TrySendError::Full(())) => {
                    self.backlog = true;
                    return;
                }
                // The stream says so itself, with an event.
                Err(mpsc::error::TrySendError::Closed(())) => return,
            }
        }
    }

    /// Where there has to be room before more can be sent.
    pub(super) fn full(&self) -> Option<mpsc::Sender<Request>> {
        self.requests.clone().filter(|_| self.backlog)
    }

    fn take_changes(&mut self) {
        let Some(changes) = self.client.poll_changes() else { return };
        for alarm in &changes.alarms {
            self.metrics.alarms.inc();
            tracing::warn!(?alarm, "the control plane takes away suspiciously much");
        }
        if let Some(saver) = &mut self.saver {
            saver.dirty();
        }
        let is_served = !changes.clusters.is_empty() || !changes.listeners.is_empty();
        self.pending |= is_served || changes.names || changes.rejections;
    }

    fn publish(&mut self) {
        self.publish_at = None;
        self.pending = false;
        self.snapshots.send_replace(Some(Arc::new(self.client.snapshot().clone())));
        self.first = None;
        for status in self.client.status() {
            let label = label(&status.type_url);
            let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.resources.with_label_values(&[label]).set(count(status.resources));
            self.metrics.rejected.with_label_values(&[label]).set(count(status.rejected));
        }
    }
}

/// A type as a label: a control plane's own inventions are one.
fn label(type_url: &str) -> &'static str {
    match type_url {
        CLUSTER => "cluster",
        ENDPOINTS => "endpoints",
        LISTENER => "listener",
        NAME_TABLE => "names",
        _ => "other",
    }
}
