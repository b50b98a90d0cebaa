//! The conversation with a control plane over [xDS](https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol),
//! without input or output.
//!
//! A shell owns the stream and the clock; it tells the [`Client`] what came and when, and asks what to send:
//!
//! 1. [`Client::connected`] once a stream is open, [`Client::disconnected`] when it is not any more;
//! 2. [`Client::receive`] for each response, [`Client::timeout`] at [`Client::poll_timeout`];
//! 3. after each of these, [`Client::poll_transmit`] until it has nothing more, and [`Client::poll_changes`] to learn
//!    what is different in [`Client::snapshot`].
//!
//! What was accepted outlives every stream: losing the control plane changes nothing but the age of what is known.

mod apply;
mod assembly;
pub(crate) mod carried;
mod changes;
mod deadlines;
pub mod decode;
mod delta;
mod findings;
mod guard;
pub mod journal;
mod json;
mod message;
mod options;
mod pace;
mod refused;
mod resources;
mod saved;
mod sotw;
mod subscription;
#[cfg(test)]
mod tests;

use std::time::Duration;

use eastgate_proto::envoy::config::core::v3 as core;
use serde::Serialize;

use crate::snapshot::Snapshot;
use assembly::Assembly;
use deadlines::{Deadlines, Timer};
use findings::Findings;
use guard::KeptBack;
use journal::{Journal, Push};
use message::Update;
use pace::Content;
use resources::Store;
use subscription::Subscription;

pub use changes::Changes;
pub use guard::Alarm;
pub use json::Json;
pub use message::{Request, Response};
pub use options::{ExtraType, Guard, GuardAction, Node, Options, Variant};
pub use refused::{MAX_KEPT, Refused};
pub use saved::{Saved, SavedResource};

/// A point on the caller's clock: the time since a fixed moment of the caller's choice. It must not go backwards.
pub type Moment = Duration;

/// The type URL of CDS.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// The type URL of EDS.
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// The type URL of LDS.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// The type URL of NDS: what istiod's DNS says. It is understood where it is one of [`Options::extra_types`].
pub const NAME_TABLE: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";

/// The types, in the order in which their requests go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cluster,
    Endpoints,
    Listener,
    /// The n-th of [`Options::extra_types`].
    Extra(usize),
}

impl Kind {
    fn index(self) -> usize {
        match self {
            Self::Cluster => 0,
            Self::Endpoints => 1,
            Self::Listener => 2,
            Self::Extra(index) => 3 + index,
        }
    }

    /// What a person calls a resource of this type: the last part of the type URL.
    fn label(self, type_url: &str) -> String {
        type_url.rsplit(['.', '/']).next().unwrap_or(type_url).into()
    }
}

/// What we know and want of one type.
#[derive(Debug)]
struct Topic {
    kind: Kind,
    subscription: Subscription,
    store: Store,
    findings: Findings,
    last_update: Option<Moment>,
    last_rejection: Option<Moment>,
}

impl Topic {
    fn new(kind: Kind, type_url: &str, wildcard: bool) -> Self {
        Self {
            kind,
            subscription: Subscription::new(type_url, wildcard),
            store: Store::new(),
            findings: Findings::default(),
            last_update: None,
            last_rejection: None,
        }
    }
}

/// Where one type stands, for the admin interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TypeStatus {
    /// The type.
    pub type_url: String,
    /// Of the last push that was accepted as a whole.
    pub version: String,
    /// The newest of this stream.
    pub nonce: String,
    /// How many resources are accepted.
    pub resources: usize,
    /// How many resources' newest version is refused.
    pub rejected: usize,
    /// When something last came.
    pub last_update: Option<Moment>,
    /// When something was last refused.
    pub last_rejection: Option<Moment>,
}

/// The client side of one ADS conversation, over as many streams as it takes.
#[derive(Debug)]
pub struct Client {
    variant: Variant,
    node: core::Node,
    options: Options,
    topics: Vec<Topic>,
    assembly: Assembly,
    deadlines: Deadlines,
    kept_back: KeptBack,
    journal: Journal,
    connected: bool,
    node_sent: bool,
}

impl Client {
    /// A client that knows nothing yet and is not connected.
    pub fn new(variant: Variant, node: &Node, options: Options) -> Self {
        let mut topics = vec![
            Topic::new(Kind::Cluster, CLUSTER, true),
            Topic::new(Kind::Endpoints, ENDPOINTS, false),
            Topic::new(Kind::Listener, LISTENER, true),
        ];
        for (index, extra) in options.extra_types.iter().enumerate() {
            let mut topic = Topic::new(Kind::Extra(index), &extra.type_url, extra.names.is_empty());
            extra.names.iter().for_each(|name| topic.subscription.want(name));
            topics.push(topic);
        }
        Self {
            variant,
            node: node.to_wire(),
            options,
            topics,
            assembly: Assembly::default(),
            deadlines: Deadlines::default(),
            kept_back: KeptBack::default(),
            journal: Journal::default(),
            connected: false,
            node_sent: false,
        }
    }

    /// A new stream is open. Nonces of the old one mean nothing on it; everything else is kept.
    pub fn connected(&mut self, _now: Moment) {
        self.connected = true;
        self.node_sent = false;
        for topic in &mut self.topics {
            topic.subscription.reset_stream();
            topic.findings.begin_stream(&topic.store);
        }
        self.forget_unwanted();
        self.publish_findings();
    }

    /// The stream is gone.
    pub fn disconnected(&mut self, _now: Moment) {
        self.connected = false;
        for topic in &mut self.topics {
            topic.subscription.reset_stream();
        }
    }

    /// The next message to send, if there is one.
    pub fn poll_transmit(&mut self) -> Option<Request> {
        if !self.connected {
            return None;
        }
        let variant = self.variant;
        let mut request = self.topics.iter_mut().find_map(|topic| {
            let Topic { subscription, store, .. } = topic;
            let held = || store.iter().map(|(name, held)| (name.clone(), held.version.clone())).collect();
            match variant {
                Variant::Sotw => sotw::request(subscription).map(Request::Sotw),
                Variant::Delta => delta::request(subscription, held).map(Request::Delta),
            }
        })?;
        if !self.node_sent {
            self.node_sent = true;
            match &mut request {
                Request::Sotw(request) => request.node = Some(self.node.clone()),
                Request::Delta(request) => request.node = Some(self.node.clone()),
            }
        }
        Some(request)
    }

    /// A response has come on the stream.
    pub fn receive(&mut self, response: Response, now: Moment) {
        if !self.connected {
            return;
        }
        let update = Update::from(response);
        let mut push = Push {
            at: now,
            type_url: update.type_url.clone(),
            version: update.version.clone(),
            nonce: update.nonce.clone(),
            ..Push::default()
        };
        let topic = self.topics.iter().find(|topic| topic.subscription.type_url == update.type_url);
        // An answer would be our first message about the type on this stream, and so a request for everything of it.
        let Some(kind) = topic.filter(|topic| topic.subscription.is_open()).map(|topic| topic.kind) else {
            push.unasked = true;
            self.journal.record(push);
            return;
        };
        let (version, nonce, content) = (update.version.clone(), update.nonce.clone(), Content::of(&update));
        let error = self.apply(kind, update, now, &mut push);
        let topic = self.topics.get_mut(kind.index());
        if let Some(pause) =
            topic.and_then(|topic| topic.subscription.received(&version, &nonce, content, error))
        {
            self.deadlines.set(Timer::Answer(kind), now.saturating_add(pause));
        }
        self.journal.record(push);
    }

    /// Takes resources that came from somewhere else than a stream, such as a file; nothing is answered.
    /// The returned push says what became of them.
    pub fn load(&mut self, response: Response, now: Moment) -> Push {
        let update = Update::from(response);
        let mut push = Push {
            at: now,
            type_url: update.type_url.clone(),
            version: update.version.clone(),
            ..Push::default()
        };
        match self.topics.iter().find(|topic| topic.subscription.type_url == update.type_url) {
            Some(topic) => {
                let kind = topic.kind;
                self.apply(kind, update, now, &mut push);
            }
            None => push.unasked = true,
        }
        self.journal.record(push.clone());
        push
    }

    /// When [`Self::timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.deadlines.next()
    }

    /// Does what is due.
    pub fn timeout(&mut self, now: Moment) {
        while let Some(timer) = self.deadlines.pop_due(now) {
            self.expire(timer, now);
        }
        self.settle_listeners();
        self.publish_findings();
    }

    /// Lets go of what the guard keeps back.
    pub fn release(&mut self, now: Moment) {
        self.deadlines.cancel(&Timer::Release);
        self.expire(Timer::Release, now);
        self.settle_listeners();
        self.publish_findings();
    }

    /// Does the guard keep anything back?
    pub fn is_keeping_back(&self) -> bool {
        !self.kept_back.is_empty()
    }

    /// What is different in the snapshot since this was last asked.
    pub fn poll_changes(&mut self) -> Option<Changes> {
        if self.assembly.changes.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut self.assembly.changes))
    }

    /// The desired state as it is now.
    pub fn snapshot(&self) -> &Snapshot {
        &self.assembly.snapshot
    }

    /// Clusters, listeners and every extra type have been heard of, and no cluster waits for its endpoints. Endpoints
    /// themselves need not have been: those that were restored count, because in delta a control plane that is told
    /// their versions does not send them again, and the clusters without any have waited long enough. Names are not
    /// waited for: only istiod has them, and the gateway routes without.
    pub fn is_settled(&self) -> bool {
        let unheard = |topic: &Topic| {
            let matters = topic.kind != Kind::Endpoints && topic.subscription.type_url != NAME_TABLE;
            matters && topic.subscription.may_open() && topic.last_update.is_none()
        };
        !self.topics.iter().any(unheard) && self.warming().next().is_none()
    }

    /// Clusters that wait for endpoints; some of them serve in an older version meanwhile.
    pub fn warming(&self) -> impl Iterator<Item = &str> {
        self.deadlines.warming()
    }

    /// Clusters that filter chains name and that are not ready; connections to them are refused.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.assembly.missing().map(String::as_str)
    }

    /// The last pushes, oldest first.
    pub fn journal(&self) -> impl DoubleEndedIterator<Item = &Push> {
        self.journal.iter()
    }

    /// Notes in the journal how long the last push took, by the caller's clock.
    pub fn took(&mut self, took: Duration) {
        if let Some(push) = self.journal.last_mut() {
            push.took = Some(took);
        }
    }

    /// Where each type stands.
    pub fn status(&self) -> impl Iterator<Item = TypeStatus> {
        self.topics.iter().map(|topic| TypeStatus {
            type_url: topic.subscription.type_url.clone(),
            version: topic.subscription.version.clone(),
            nonce: topic.subscription.nonce().into(),
            resources: topic.store.len(),
            rejected: topic.findings.rejected(),
            last_update: topic.last_update,
            last_rejection: topic.last_rejection,
        })
    }

    /// The accepted resources of a type, as they came: name, version, message.
    pub fn accepted(&self, type_url: &str) -> impl Iterator<Item = (&str, &str, &[u8])> {
        let topic = self.topics.iter().find(|topic| topic.subscription.type_url == type_url);
        topic
            .into_iter()
            .flat_map(|topic| &topic.store)
            .map(|(name, held)| (name.as_str(), held.version.as_str(), &*held.body))
    }
}
