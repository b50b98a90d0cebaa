//! The accepted resources of one type, and what of an update joins them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::decode::{self, ClusterConfig, Decoded, Problem};
use super::message::{Incoming, Update};
use super::refused::Refusal;
use super::{Kind, NAME_TABLE};
use crate::listener::Listener;
use crate::rejection::{Notice, Place, Rejection, ResourceName};

/// An accepted resource.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) version: String,
    /// As it came: for comparison, for the admin interface, and for the state directory.
    pub(super) body: Box<[u8]>,
    pub(super) kept: Kept,
    /// A part of it was refused, so that the same bytes have to be refused again.
    pub(super) partial: bool,
}

/// The decoded form, where it is worth its memory. Endpoints are by far the most of it and stand in the snapshot
/// already; where they are needed a second time they are decoded again.
#[derive(Debug)]
pub(super) enum Kept {
    Cluster(Arc<ClusterConfig>),
    Listener(Arc<Listener>),
    Bytes,
}

pub(super) type Store = BTreeMap<String, Held>;

/// What an update holds for us, sorted; nothing of it is applied yet.
#[derive(Debug, Default)]
pub(super) struct Intake {
    pub(super) accepted: Vec<Accepted>,
    pub(super) heartbeats: Vec<(String, Option<Duration>)>,
    /// Names whose body is, byte for byte, what we hold already.
    pub(super) unchanged: Vec<(String, String, Option<Duration>)>,
    pub(super) removed: Vec<String>,
    pub(super) refusals: BTreeMap<String, Refusal>,
    pub(super) notices: BTreeMap<String, Vec<Notice>>,
    pub(super) ignored: usize,
}

#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) ttl: Option<Duration>,
    pub(super) body: Box<[u8]>,
    pub(super) decoded: Decoded,
}

/// Which names matter and what we have of them.
pub(super) struct Context<'a> {
    pub(super) kind: Kind,
    pub(super) type_url: &'a str,
    pub(super) wildcard: bool,
    pub(super) wants: &'a dyn Fn(&str) -> bool,
    pub(super) store: &'a Store,
}

impl Context<'_> {
    fn rejection(&self, name: &str, problem: Problem) -> Rejection {
        Rejection {
            place: self.place(name, problem.field),
            reason: problem.reason,
            last_good_kept: problem.last_good_kept || self.store.contains_key(name),
        }
    }

    fn place(&self, name: &str, field: String) -> Place {
        let resource = ResourceName {
            kind: self.kind.label(self.type_url),
            namespace: String::new(),
            name: name.into(),
        };
        Place { resource, field, location: None }
    }

    /// Sorts an update into what is good and what is not.
    pub(super) fn take(&self, update: Update) -> Intake {
        let mut intake = Intake::default();
        let mut counts: HashMap<String, usize> = HashMap::new();
        let named: Vec<(String, Incoming)> =
            update.resources.into_iter().map(|incoming| (self.name_of(&incoming), incoming)).collect();
        for (name, _) in &named {
            *counts.entry(name.clone()).or_default() += 1;
        }
        let mut nameless = false;
        let only_heartbeats = !named.is_empty() && named.iter().all(|(_, incoming)| incoming.body.is_none());
        let mut present: BTreeSet<String> = BTreeSet::new();
        for (name, mut incoming) in named {
            nameless |= name.is_empty() && !matches!(self.kind, Kind::Extra(_));
            if !(self.wants)(&name) && !name.is_empty() {
                intake.ignored += 1;
                continue;
            }
            let twice = counts.get(&name).is_some_and(|count| *count > 1) && !name.is_empty();
            if !twice || present.insert(name.clone()) {
                let problems = if twice {
                    vec![Problem::whole("the response has this name more than once")]
                } else {
                    self.sort(&name, &mut incoming, &mut intake)
                };
                if !problems.is_empty() {
                    let rejections = problems.into_iter().map(|problem| self.rejection(&name, problem));
                    let mut refusal = Refusal::new(rejections.collect(), incoming.version, incoming.body);
                    // Several resources without a name are one to whoever looks.
                    if let Some(other) = intake.refusals.remove(&name) {
                        refusal.rejections.splice(..0, other.rejections);
                    }
                    intake.refusals.insert(name.clone(), refusal);
                }
            }
            present.insert(name);
        }
        // Something in the set cannot even be named. It may be any of those that seem to be missing, so that none
        // of them can be taken for removed.
        if update.complete && self.wildcard && !nameless && !only_heartbeats {
            intake.removed = self.store.keys().filter(|name| !present.contains(*name)).cloned().collect();
        }
        let gone = update.removed.into_iter().filter(|name| !present.contains(name));
        intake.removed.extend(gone.filter(|name| self.store.contains_key(name)));
        intake.removed.sort();
        intake.removed.dedup();
        intake
    }

    fn name_of(&self, incoming: &Incoming) -> String {
        let inside = || incoming.body.as_ref().and_then(|body| decode::name(self.kind, &body.value));
        incoming.name.clone().or_else(inside).unwrap_or_default()
    }

    /// Puts one resource where it belongs, or says what is wrong with it.
    fn sort(&self, name: &str, incoming: &mut Incoming, intake: &mut Intake) -> Vec<Problem> {
        let held = self.store.get(name);
        if let Some(damage) = &incoming.damage {
            return vec![Problem::whole(format!("its envelope is damaged: {damage}"))];
        }
        let Some(body) = &mut incoming.body else {
            // https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ttl: a heartbeat has no body and
            // the version that we have.
            return match held {
                Some(held) if held.version == incoming.version => {
                    intake.heartbeats.push((name.into(), incoming.ttl));
                    Vec::new()
                }
                _ => vec![Problem::whole("it has no body and is no heartbeat of a version we have")],
            };
        };
        if body.type_url != self.type_url {
            return vec![Problem::whole(format!(
                "it is of type {:?}, not {:?}",
                body.type_url, self.type_url
            ))];
        }
        if held.is_some_and(|held| !held.partial && *held.body == *body.value) {
            intake.unchanged.push((name.into(), incoming.version.clone(), incoming.ttl));
            return Vec::new();
        }
        let previous = held.map(|held| &held.kept);
        let decoded = if self.type_url == NAME_TABLE {
            decode::names::decode(&body.value).map(|(_, findings)| (Decoded::Bytes, findings))
        } else {
            decode::decode(self.kind, name, &body.value, previous)
        };
        match decoded {
            Ok((decoded, findings)) => {
                let notices = findings.notices.into_iter().map(|problem| Notice {
                    place: self.place(name, problem.field),
                    message: problem.reason,
                });
                intake.notices.insert(name.into(), notices.collect());
                intake.accepted.push(Accepted {
                    name: name.into(),
                    version: incoming.version.clone(),
                    ttl: incoming.ttl,
                    // Of what is refused in part the message is wanted a second time.
                    body: match findings.partial.is_empty() {
                        true => std::mem::take(&mut body.value).into(),
                        false => body.value.as_slice().into(),
                    },
                    decoded,
                });
                findings.partial
            }
            Err(problems) => problems,
        }
    }
}
