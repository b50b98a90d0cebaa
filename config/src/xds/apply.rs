//! Applying an update: to the accepted resources first, and from them to the snapshot.

mod clusters;
mod endpoints;

use std::sync::Arc;
use std::time::Duration;

use super::deadlines::Timer;
use super::decode::{self, Decoded};
use super::journal::{Names, Push};
use super::message::Update;
use super::resources::{Context, Held, Intake, Kept};
use super::{Client, Kind, Moment, NAME_TABLE};
use crate::listener::Listener;

impl Client {
    /// Applies an update and gives the text of the NACK that it deserves, if it does.
    pub(super) fn apply(
        &mut self,
        kind: Kind,
        update: Update,
        now: Moment,
        push: &mut Push,
    ) -> Option<String> {
        let resources = update.resources.len();
        let complete = update.complete;
        let gone = update.removed.clone();
        let topic = self.topics.get(kind.index())?;
        let (subscription, store) = (&topic.subscription, &topic.store);
        // Endpoints that nobody wanted a moment ago may be wanted again before the control plane hears of either.
        let deadlines = &self.deadlines;
        let remembers = |name: &str| {
            kind == Kind::Endpoints
                && (store.contains_key(name) || deadlines.is_set(&Timer::Forget(name.into())))
        };
        let wants = |name: &str| subscription.wants(name) || remembers(name);
        let context = Context {
            kind,
            type_url: &subscription.type_url,
            wildcard: subscription.is_wildcard(),
            wants: &wants,
            store,
        };
        let mut intake = context.take(update);
        push.rejections = intake.refusals.values().flat_map(|refusal| &refusal.rejections).cloned().collect();
        push.unchanged = intake.unchanged.len();
        push.heartbeats = intake.heartbeats.len();
        push.ignored = intake.ignored;
        let topic = self.topics.get_mut(kind.index())?;
        topic.last_update = Some(now);
        if !push.rejections.is_empty() {
            topic.last_rejection = Some(now);
        }
        topic.findings.note(&mut intake, complete && topic.subscription.is_wildcard(), &gone, now);
        self.renew(kind, &intake, now);
        match kind {
            Kind::Cluster => self.apply_clusters(intake, now, push),
            Kind::Endpoints => self.apply_endpoints(intake, now, push),
            Kind::Listener => self.apply_listeners(intake, now, push),
            Kind::Extra(_) => self.apply_extra(kind, intake, now, push),
        }
        self.settle_listeners();
        self.publish_findings();
        self.assembly.changes.alarms.extend(push.alarms.iter().cloned());
        nack_text(push, resources)
    }

    /// Does what a timer was set for.
    pub(super) fn expire(&mut self, timer: Timer, now: Moment) {
        match timer {
            Timer::Warm(cluster) => self.warmed(&cluster),
            Timer::Leave(cluster) => self.assembly.cluster_left(&cluster),
            Timer::Await(listener) => {
                if let Some(listener) = self.listener(&listener) {
                    self.assembly.listener_settled(&listener, &mut self.deadlines);
                }
            }
            Timer::Forget(service) => {
                self.drop_resource(Kind::Endpoints, &service);
            }
            Timer::Expire(kind, name) => self.remove(kind, &name, now, true),
            Timer::Answer(kind) => {
                if let Some(topic) = self.topics.get_mut(kind.index()) {
                    topic.subscription.release();
                }
            }
            Timer::Release => {
                let kept_back = std::mem::take(&mut self.kept_back);
                kept_back.clusters.iter().for_each(|name| self.remove(Kind::Cluster, name, now, false));
                kept_back
                    .endpoints
                    .into_values()
                    .for_each(|accepted| self.accept_endpoints(accepted, now, &mut Push::default()));
            }
        }
    }

    /// Puts listeners in service whose clusters have become ready.
    pub(super) fn settle_listeners(&mut self) {
        for name in self.assembly.settled_listeners(&self.deadlines) {
            if let Some(listener) = self.listener(&name) {
                self.assembly.listener_settled(&listener, &mut self.deadlines);
            }
        }
    }

    /// Forgets endpoints that nobody wants: a new stream starts with what is wanted.
    pub(super) fn forget_unwanted(&mut self) {
        let Some(topic) = self.topics.get(Kind::Endpoints.index()) else { return };
        let unwanted: Vec<String> =
            topic.store.keys().filter(|name| !topic.subscription.wants(name)).cloned().collect();
        for name in &unwanted {
            self.drop_resource(Kind::Endpoints, name);
        }
        self.deadlines.cancel_forgetting();
    }

    /// Writes the lists of rejections and notices into the snapshot, if they are others now.
    pub(super) fn publish_findings(&mut self) {
        let mut different = false;
        for topic in &mut self.topics {
            different |= std::mem::take(&mut topic.findings.different);
        }
        if different {
            let snapshot = &mut self.assembly.snapshot;
            snapshot.rejections =
                self.topics.iter().flat_map(|topic| topic.findings.rejections()).cloned().collect();
            snapshot.notices =
                self.topics.iter().flat_map(|topic| topic.findings.notices()).cloned().collect();
            self.assembly.changes.rejections = true;
        }
    }

    /// Renews versions and times to live of what is as it was.
    fn renew(&mut self, kind: Kind, intake: &Intake, now: Moment) {
        for (name, version, ttl) in &intake.unchanged {
            self.set_ttl(kind, name, *ttl, now);
            let held = self.topics.get_mut(kind.index()).and_then(|topic| topic.store.get_mut(name));
            if let Some(held) = held {
                held.version.clone_from(version);
            }
        }
        for (name, ttl) in &intake.heartbeats {
            self.set_ttl(kind, name, *ttl, now);
        }
    }

    fn set_ttl(&mut self, kind: Kind, name: &str, ttl: Option<Duration>, now: Moment) {
        let timer = Timer::Expire(kind, name.into());
        match ttl {
            Some(ttl) => self.deadlines.set(timer, now.saturating_add(ttl)),
            None => {
                self.deadlines.cancel(&timer);
            }
        }
    }

    fn apply_listeners(&mut self, mut intake: Intake, now: Moment, push: &mut Push) {
        for accepted in std::mem::take(&mut intake.accepted) {
            let Decoded::Listener { mut listener, partial } = accepted.decoded else { continue };
            let moved = self.options.bind.get(&listener.address.port());
            if let Some(address) = moved.filter(|_| listener.address.ip().is_unspecified()) {
                Arc::make_mut(&mut listener).address = *address;
            }
            let name = accepted.name;
            self.set_ttl(Kind::Listener, &name, accepted.ttl, now);
            let Some(topic) = self.topics.get_mut(Kind::Listener.index()) else { return };
            if let Some(Held { kept: Kept::Listener(before), .. }) = topic.store.get(&name) {
                if *before == listener {
                    listener = before.clone();
                    push.unchanged += 1;
                } else {
                    push.changed.add(&name);
                }
            } else {
                push.added.add(&name);
            }
            let kept = Kept::Listener(listener.clone());
            let held = Held { version: accepted.version, body: accepted.body, kept, partial };
            topic.store.insert(name, held);
            self.assembly.listener_accepted(&listener, now, &self.options, &mut self.deadlines);
        }
        for name in &intake.removed {
            push.removed.add(name);
            self.remove(Kind::Listener, name, now, false);
        }
    }

    fn apply_extra(&mut self, kind: Kind, intake: Intake, now: Moment, push: &mut Push) {
        let Some(type_url) = self.topics.get(kind.index()).map(|topic| topic.subscription.type_url.clone())
        else {
            return;
        };
        for accepted in intake.accepted {
            let name = accepted.name;
            self.set_ttl(kind, &name, accepted.ttl, now);
            self.assembly.changes.extra.insert((type_url.clone(), name.clone()));
            let Some(topic) = self.topics.get_mut(kind.index()) else { return };
            let held =
                Held { version: accepted.version, body: accepted.body, kept: Kept::Bytes, partial: false };
            count(topic.store.insert(name.clone(), held).is_some(), &name, push);
        }
        for name in &intake.removed {
            push.removed.add(name);
            self.remove(kind, name, now, false);
        }
        self.read_names(kind);
    }

    /// Puts into the snapshot what the name tables say, if it is something else now. An empty one before any other says
    /// nothing: istiod gives a gateway an empty table whatever there is, and that no name exists would be a lie.
    fn read_names(&mut self, kind: Kind) {
        let Some(topic) = self.topics.get(kind.index()) else { return };
        if topic.subscription.type_url != NAME_TABLE {
            return;
        }
        let tables = topic.store.values().filter_map(|held| decode::names::decode(&held.body).ok());
        let names = decode::names::joined(tables.map(|(names, _)| names));
        let snapshot = &mut self.assembly.snapshot;
        let says_something = snapshot.names.is_some() || !names.is_empty();
        if says_something && snapshot.names.as_deref() != Some(&names) {
            snapshot.names = Some(Arc::new(names));
            self.assembly.changes.names = true;
        }
    }

    /// Takes a resource out of what is accepted, because the control plane said so or because its time was over.
    fn remove(&mut self, kind: Kind, name: &str, now: Moment, expired: bool) {
        let held = self.drop_resource(kind, name);
        match (kind, held.map(|held| held.kept)) {
            (Kind::Cluster, Some(Kept::Cluster(config))) => {
                self.kept_back.clusters.remove(name);
                self.assembly.cluster_removed(&config, now, &self.options, &mut self.deadlines);
                self.unwant_if_unused(config.service.as_deref(), now);
            }
            (Kind::Endpoints, Some(_)) => self.endpoints_removed(name, expired),
            (Kind::Listener, _) => self.assembly.listener_removed(name, &mut self.deadlines),
            (Kind::Extra(_), Some(_)) => {
                let type_url = self.topics.get(kind.index()).map(|topic| &topic.subscription.type_url);
                self.assembly.changes.extra.extend(type_url.map(|url| (url.clone(), name.to_owned())));
                self.read_names(kind);
            }
            _ => {}
        }
    }

    fn drop_resource(&mut self, kind: Kind, name: &str) -> Option<Held> {
        self.deadlines.cancel(&Timer::Expire(kind, name.into()));
        if kind == Kind::Endpoints {
            self.deadlines.cancel(&Timer::Forget(name.into()));
            self.kept_back.endpoints.remove(name);
        }
        let topic = self.topics.get_mut(kind.index())?;
        topic.findings.forget(name);
        topic.store.remove(name)
    }

    fn listener(&self, name: &str) -> Option<Arc<Listener>> {
        match &self.topics.get(Kind::Listener.index())?.store.get(name)?.kept {
            Kept::Listener(listener) => Some(listener.clone()),
            _ => None,
        }
    }
}

fn count(known: bool, name: &str, push: &mut Push) {
    let names: &mut Names = if known { &mut push.changed } else { &mut push.added };
    names.add(name);
}

/// Every bad resource by name and field, in one text.
fn nack_text(push: &Push, resources: usize) -> Option<String> {
    if push.rejections.is_empty() {
        return None;
    }
    let each: Vec<String> = push.rejections.iter().map(ToString::to_string).collect();
    Some(format!("{} found in {resources} resources: {}", each.len(), each.join("; ")))
}
