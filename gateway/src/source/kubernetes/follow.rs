//! One kind of one cluster, or one object of it: found, listed, watched, and listed anew when the watch cannot go on.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use eastgate_config::bootstrap;
use eastgate_config::istio::Kind;
use kube::api::{DynamicObject, ListParams, ObjectMeta, PartialObjectMeta};
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use prometheus::{IntCounterVec, IntGauge};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use super::mesh::{HOME, Watched};
use super::why;
use crate::kubernetes::{api_version, resource};
use crate::metrics::{self, timestamp};
use crate::source::xds::backoff::Backoff;

/// Something is new of a kind in a cluster. It may be a Secret, so it cannot be printed.
pub(super) struct Message {
    pub(super) cluster: Arc<str>,
    pub(super) generation: u64,
    pub(super) watched: Watched,
    pub(super) change: Change,
}

/// What is new.
pub(super) enum Change {
    Apply(Value),
    Delete {
        namespace: String,
        name: String,
    },
    /// The namespaces and names of all there are; each was applied before.
    Listed(BTreeSet<(String, String)>),
    /// The cluster does not have the kind.
    Missing,
}

/// Follows one kind in one cluster, or one object of it.
pub(super) struct Follow {
    pub(super) cluster: Arc<str>,
    pub(super) generation: u64,
    pub(super) watched: Watched,
    pub(super) client: Client,
    pub(super) settings: bootstrap::Kubernetes,
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) metrics: Metrics,
    /// An API server that is gone is one line of the log, not one for each kind.
    pub(super) failing: Arc<Failing>,
}

/// What a cluster's watches have in common when they fail.
#[derive(Debug, Default)]
pub(super) struct Failing {
    /// How many do.
    count: AtomicUsize,
    /// It is said already that the credentials are not known.
    told_of_credentials: AtomicBool,
}

/// How a watch came to its end, or to a pause.
enum Trouble {
    /// The kind may not be there any more, or what was known is too old to go on from.
    Begin,
    /// It is worth trying again.
    Pause,
}

impl Follow {
    /// Goes on until nobody listens any more.
    pub(super) async fn run(self) {
        let mut state = State::default();
        loop {
            match self.find().await {
                Ok(Some(version)) => {
                    if self.follow(&resource(self.watched.kind, version), &mut state).await.is_none() {
                        return;
                    }
                }
                Ok(None) => {
                    self.missing(&mut state);
                    if self.send(Change::Missing).await.is_none() {
                        return;
                    }
                    tokio::time::sleep(self.settings.look_again.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                }
                Err(error) => {
                    self.failed(&mut state, "discovery", &error);
                    tokio::time::sleep(state.wait()).await;
                }
            }
        }
    }

    /// The best version of the kind that the cluster serves.
    async fn find(&self) -> Result<Option<&'static str>, kube::Error> {
        let kind = self.watched.kind;
        for version in kind.versions() {
            let served = match kind.group() {
                "" => self.client.list_core_api_resources(version).await,
                group => self.client.list_api_group_resources(&api_version(group, version)).await,
            };
            match served {
                Ok(served) if served.resources.iter().any(|served| served.name == kind.plural()) => {
                    return Ok(Some(version));
                }
                Err(error) if code(&error) != Some(404) => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    async fn follow(&self, resource: &ApiResource, state: &mut State) -> Option<()> {
        let mut config = watcher::Config::default().page_size(self.settings.page_size);
        let Watched { kind, object } = &self.watched;
        if let Some(only) = object.as_ref().map(|(_, name)| &**name).or(kind.only()) {
            config = config.fields(&format!("metadata.name={only}"));
        }
        if kind.is_metadata() {
            let read =
                |object: PartialObjectMeta<DynamicObject>| pruned(resource, object.metadata, Value::Null);
            let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(self.client.clone(), resource);
            self.take(api, config, read, state).await
        } else {
            let read = |object: DynamicObject| pruned(resource, object.metadata, object.data);
            let api = match object {
                Some((namespace, _)) => Api::namespaced_with(self.client.clone(), namespace, resource),
                None => Api::<DynamicObject>::all_with(self.client.clone(), resource),
            };
            self.take(api, config, read, state).await
        }
    }

    /// Passes events on, until the watch has to begin anew; none when nobody listens any more.
    async fn take<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        read: impl Fn(K) -> Value,
        state: &mut State,
    ) -> Option<()>
    where
        K: kube::Resource<DynamicType = ApiResource> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let first =
            ListParams { field_selector: config.field_selector.clone(), ..ListParams::default().limit(1) };
        let mut events = std::pin::pin!(watcher::watcher(api.clone(), config));
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            if event.is_ok() {
                self.metrics.last_event.set(timestamp(SystemTime::now()));
            }
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    let value = read(object);
                    listed.insert(name_of(&value));
                    self.send(Change::Apply(value)).await?;
                }
                Ok(Event::InitDone) => {
                    self.send(Change::Listed(std::mem::take(&mut listed))).await?;
                    self.well(state);
                }
                Ok(Event::Apply(object)) => {
                    self.send(Change::Apply(read(object))).await?;
                    self.well(state);
                }
                Ok(Event::Delete(object)) => {
                    let (namespace, name) = name_of(&read(object));
                    self.send(Change::Delete { namespace, name }).await?;
                    self.well(state);
                }
                Err(error) => {
                    let (reason, trouble) = judge(&error);
                    self.failed(state, reason, &error);
                    // A history that is too short is nobody's fault, and the next list is a whole one.
                    if reason != "gone" {
                        tokio::time::sleep(state.wait()).await;
                    }
                    if let Trouble::Begin = trouble {
                        return Some(());
                    }
                    self.try_again(&api, &first, state).await;
                }
            }
        }
        Some(())
    }

    /// Asks for the first object until there is an answer: a watch that goes on says nothing before something changes, and
    /// so not that all is well again.
    async fn try_again<K>(&self, api: &Api<K>, first: &ListParams, state: &mut State)
    where
        K: Clone + DeserializeOwned + Debug,
    {
        loop {
            let Err(error) = api.list(first).await else {
                // One that may list and not watch is refused again at once, and is not told of again.
                state.told.take_if(|told| told != "forbidden");
                return self.recovered(state);
            };
            match reason(code(&error)) {
                // The watch finds that out, too, and knows what follows.
                "gone" | "not_found" => return,
                reason => self.failed(state, reason, &error),
            }
            tokio::time::sleep(state.wait()).await;
        }
    }

    async fn send(&self, change: Change) -> Option<()> {
        let (cluster, watched) = (Arc::clone(&self.cluster), self.watched.clone());
        let message = Message { cluster, generation: self.generation, watched, change };
        self.messages.send(message).await.ok()
    }

    fn well(&self, state: &mut State) {
        self.recovered(state);
        state.told = None;
        state.backoff.reset();
        self.metrics.missing.set(0);
    }

    fn failed(&self, state: &mut State, reason: &str, error: &(dyn std::error::Error + 'static)) {
        let (cluster, kind) = (label(&self.cluster), &*watched_label(&self.watched));
        self.metrics.restarts.with_label_values(&[cluster, kind, reason]).inc();
        if reason == "gone" {
            tracing::debug!(cluster, kind, "the API server's history is too short; listing anew");
            return;
        }
        self.metrics.failing.set(1);
        let was_well = !std::mem::replace(&mut state.failing, true);
        let is_first = was_well && self.failing.count.fetch_add(1, Ordering::Relaxed) == 0;
        // An API server that was gone may be back and refuse what it allowed before, or refuse again and again.
        if state.told.as_deref() == Some(reason) {
            return;
        }
        state.told = Some(reason.to_owned());
        if reason == "forbidden" {
            let file = if self.watched.object.is_some() { "secrets.yaml with its name" } else { "rbac.yaml" };
            tracing::error!(
                cluster,
                kind,
                "not allowed to list and watch; apply deploy/kubernetes/{file} there ({})",
                why(error)
            );
        } else if reason == "unauthorized" && !self.failing.told_of_credentials.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                cluster,
                kind,
                "the API server does not know the credentials; what is known stays in use: look at the service account's \
                 token, or the kubeconfig ({})",
                why(error)
            );
        } else if is_first {
            tracing::warn!(cluster, kind, "the watch failed; what is known stays in use: {}", why(error));
        } else {
            tracing::debug!(cluster, kind, "the watch failed, too: {}", why(error));
        }
    }

    fn missing(&self, state: &mut State) {
        if self.metrics.missing.get() == 0 {
            tracing::info!(
                cluster = label(&self.cluster),
                kind = self.watched.kind.plural(),
                group = self.watched.kind.group(),
                "the kind is not installed; looking again every {:?}",
                self.settings.look_again
            );
        }
        self.recovered(state);
        state.told = None;
        state.backoff.reset();
        self.metrics.missing.set(1);
    }

    fn recovered(&self, state: &mut State) {
        if std::mem::take(&mut state.failing) && self.failing.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.failing.told_of_credentials.store(false, Ordering::Relaxed);
            tracing::info!(cluster = label(&self.cluster), "every watch goes on");
        }
        self.metrics.failing.set(0);
    }
}

/// What a watch remembers of its failures.
#[derive(Default)]
struct State {
    failing: bool,
    /// The reason that was told last.
    told: Option<String>,
    backoff: Backoff,
}

impl State {
    fn wait(&mut self) -> Duration {
        self.backoff.wait(fastrand::f64())
    }
}

/// The HTTP status that the API server answered with.
fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The reason as a label, and how to go on.
fn judge(error: &watcher::Error) -> (&'static str, Trouble) {
    let status = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => code(error),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    };
    match reason(status) {
        reason @ ("gone" | "not_found") => (reason, Trouble::Begin),
        reason => (reason, Trouble::Pause),
    }
}

fn reason(status: Option<u16>) -> &'static str {
    match status {
        Some(410) => "gone",
        Some(404) => "not_found",
        Some(401) => "unauthorized",
        Some(403) => "forbidden",
        Some(_) => "status",
        None => "connection",
    }
}

/// Only what the index reads: neither who manages which field nor what was applied last, and no status.
fn pruned(resource: &ApiResource, metadata: ObjectMeta, data: Value) -> Value {
    let ObjectMeta { name, namespace, labels, annotations, .. } = metadata;
    let annotations: Map<String, Value> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| !key.starts_with("kubectl.kubernetes.io/"))
        .map(|(key, value)| (key, value.into()))
        .collect();
    let mut object = match data {
        Value::Object(mut fields) => {
            fields.remove("status");
            fields
        }
        _ => Map::new(),
    };
    object.insert("apiVersion".into(), resource.api_version.clone().into());
    object.insert("kind".into(), resource.kind.clone().into());
    let metadata = json!({
        "name": name, "namespace": namespace, "labels": labels.unwrap_or_default(), "annotations": annotations,
    });
    object.insert("metadata".into(), metadata);
    Value::Object(object)
}

/// As the index has it: what has no namespace is in `default`.
fn name_of(object: &Value) -> (String, String) {
    let text = |field: &str, other: &str| object["metadata"][field].as_str().unwrap_or(other).to_owned();
    (text("namespace", "default"), text("name", ""))
}

/// A cluster's name as a label.
pub(super) fn label(cluster: &str) -> &str {
    if cluster == HOME { "home" } else { cluster }
}

/// A kind's name as a label: two kinds are called Gateway.
pub(super) fn kind_label(kind: Kind) -> &'static str {
    if kind == Kind::ClassGateway { "gateways.gateway.networking.k8s.io" } else { kind.plural() }
}

/// A watch's name as a label: its kind's, and the object's if it is of one.
fn watched_label(Watched { kind, object }: &Watched) -> Cow<'static, str> {
    match object {
        Some((_, name)) => format!("{}/{name}", kind_label(*kind)).into(),
        None => kind_label(*kind).into(),
    }
}

/// The metrics of one watch.
pub(super) struct Metrics {
    restarts: IntCounterVec,
    last_event: IntGauge,
    failing: IntGauge,
    missing: IntGauge,
}

impl Metrics {
    pub(super) fn new(all: &metrics::Kubernetes, cluster: &str, watched: &Watched) -> Self {
        let watched = watched_label(watched);
        let labels = [label(cluster), &*watched];
        Self {
            restarts: all.restarts.clone(),
            last_event: all.last_event.with_label_values(&labels[..1]),
            failing: all.failing.with_label_values(&labels),
            missing: all.missing.with_label_values(&labels),
        }
    }

    /// The cluster is not in the mesh any more.
    pub(super) fn forget(all: &metrics::Kubernetes, cluster: &str) {
        let _ = all.last_event.remove_label_values(&[cluster]);
        for kind in Kind::ALL {
            for gauges in [&all.failing, &all.missing, &all.objects] {
                let _ = gauges.remove_label_values(&[cluster, kind_label(kind)]);
            }
        }
    }
}
