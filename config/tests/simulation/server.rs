//! The control plane: what of the mesh a client is told, in which order, and with which faults.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_config::xds::{CLUSTER, ENDPOINTS, LISTENER, Request, Response, Variant};
use eastgate_proto::envoy::service::discovery::v3 as discovery;

use crate::Chance;
use crate::made::{self, Made};
use crate::mesh::Mesh;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Clusters,
    Endpoints,
    Listeners,
}

impl Kind {
    fn type_url(self) -> &'static str {
        match self {
            Self::Clusters => CLUSTER,
            Self::Endpoints => ENDPOINTS,
            Self::Listeners => LISTENER,
        }
    }

    #[allow(clippy::panic, reason = "a panic is the report of a test")]
    fn of(type_url: &str) -> Self {
        match type_url {
            CLUSTER => Self::Clusters,
            ENDPOINTS => Self::Endpoints,
            LISTENER => Self::Listeners,
            other => panic!("{other} was never offered"),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Resource {
    pub(crate) name: String,
    pub(crate) body: Vec<u8>,
    pub(crate) service: String,
    pub(crate) has_endpoints: bool,
    pub(crate) is_refused: bool,
}

/// A response, and what the test knows about it.
#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    pub(crate) kind: Kind,
    pub(crate) nonce: String,
    pub(crate) resources: Vec<Resource>,
    pub(crate) removed: Vec<String>,
    /// State of the world of a wildcard type.
    pub(crate) is_complete: bool,
    /// Something in it has no name.
    pub(crate) is_torn: bool,
    pub(crate) response: Response,
}

/// What a request says.
pub(crate) struct Said {
    pub(crate) kind: Kind,
    pub(crate) has_node: bool,
    pub(crate) names: Vec<String>,
    pub(crate) nonce: String,
    pub(crate) is_nack: bool,
}

impl Pushed {
    /// The same but for the nonce?
    pub(crate) fn repeats(&self, other: &Self) -> bool {
        let without_nonce = |response: &Response| {
            let mut response = response.clone();
            match &mut response {
                Response::Sotw(response) => response.nonce.clear(),
                Response::Delta(response) => response.nonce.clear(),
            }
            response
        };
        without_nonce(&self.response) == without_nonce(&other.response)
    }
}

pub(crate) fn said(request: &Request) -> Said {
    match request {
        Request::Sotw(request) => Said {
            kind: Kind::of(&request.type_url),
            has_node: request.node.is_some(),
            names: request.resource_names.clone(),
            nonce: request.response_nonce.clone(),
            is_nack: request.error_detail.is_some(),
        },
        Request::Delta(request) => Said {
            kind: Kind::of(&request.type_url),
            has_node: request.node.is_some(),
            names: request.resource_names_subscribe.clone(),
            nonce: request.response_nonce.clone(),
            is_nack: request.error_detail.is_some(),
        },
    }
}

/// What the server knows of one type on one stream.
#[derive(Default)]
struct Watch {
    is_open: bool,
    names: BTreeSet<String>,
    nonce: String,
    /// What the client was told, and in which version.
    told: BTreeMap<String, u64>,
    /// What it may have refused of that.
    refused: BTreeSet<String>,
    /// The newest response.
    last: Option<Pushed>,
}

pub(crate) struct Server {
    variant: Variant,
    pub(crate) mesh: Mesh,
    watches: [Watch; 3],
    responses: u64,
    /// Does it trust `initial_resource_versions`? istiod does not.
    trusts_versions: bool,
    /// istiod pushes endpoints after each request about clusters.
    forces_endpoints: bool,
    /// go-control-plane answers a NACK with the same again.
    insists: bool,
}

impl Server {
    pub(crate) fn new(variant: Variant, seed: u64) -> Self {
        Self {
            variant,
            mesh: Mesh::default(),
            watches: Default::default(),
            responses: 0,
            trusts_versions: seed.is_multiple_of(2),
            forces_endpoints: seed.is_multiple_of(3),
            insists: seed.is_multiple_of(5),
        }
    }

    pub(crate) fn accept(&mut self) {
        self.watches = Default::default();
    }

    pub(crate) fn receive(&mut self, request: Request) -> Vec<Pushed> {
        let Said { kind, nonce, is_nack, .. } = said(&request);
        let insists = self.insists && is_nack && nonce == self.watches[kind as usize].nonce;
        let mut pushed: Vec<Pushed> = match request {
            Request::Sotw(request) => self.receive_sotw(kind, request),
            Request::Delta(request) => self.receive_delta(kind, request),
        }
        .into_iter()
        .collect();
        if kind == Kind::Clusters && self.forces_endpoints {
            let names = self.watched(Kind::Endpoints);
            pushed.extend(self.respond(Kind::Endpoints, &names, true, Faults::default()));
        }
        if insists {
            pushed.extend(self.repeat(kind));
        }
        pushed
    }

    /// The newest response of the type again, under a nonce of its own.
    pub(crate) fn repeat(&mut self, kind: Kind) -> Option<Pushed> {
        let watch = &mut self.watches[kind as usize];
        let mut again = watch.last.clone()?;
        self.responses += 1;
        again.nonce = format!("nonce-{}", self.responses);
        watch.nonce.clone_from(&again.nonce);
        match &mut again.response {
            Response::Sotw(response) => response.nonce.clone_from(&again.nonce),
            Response::Delta(response) => response.nonce.clone_from(&again.nonce),
        }
        watch.last = Some(again.clone());
        Some(again)
    }

    /// istiod's rules: a stale nonce is ignored without a word, an ACK with more names is answered with those alone.
    fn receive_sotw(&mut self, kind: Kind, request: discovery::DiscoveryRequest) -> Option<Pushed> {
        let names: BTreeSet<String> = request.resource_names.into_iter().collect();
        let watch = &mut self.watches[kind as usize];
        if request.response_nonce.is_empty() {
            watch.is_open = true;
            watch.names = names;
            let all = self.watched(kind);
            return self.respond(kind, &all, true, Faults::default());
        }
        if request.response_nonce != watch.nonce {
            return None;
        }
        let added: Vec<String> = names.difference(&watch.names).cloned().collect();
        watch.told.retain(|name, _| names.contains(name) || kind != Kind::Endpoints);
        watch.names = names;
        if added.is_empty() { None } else { self.respond(kind, &added, true, Faults::default()) }
    }

    fn receive_delta(&mut self, kind: Kind, request: discovery::DeltaDiscoveryRequest) -> Option<Pushed> {
        let changes =
            !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        let trusts_versions = self.trusts_versions;
        let watch = &mut self.watches[kind as usize];
        if !request.response_nonce.is_empty() {
            assert!(!changes && watch.is_open, "an answer carries no names");
            return None;
        }
        if !watch.is_open {
            watch.is_open = true;
            watch.names = request.resource_names_subscribe.into_iter().collect();
            let versions = request.initial_resource_versions.into_iter();
            watch.told = versions
                .map(|(name, version)| (name, version.parse().unwrap_or(0)))
                .map(|(name, version)| (name, if trusts_versions { version } else { u64::MAX }))
                .collect();
            let all = self.watched(kind);
            return self.respond(kind, &all, false, Faults::default());
        }
        assert!(changes, "a request says something");
        for name in &request.resource_names_unsubscribe {
            assert!(watch.names.remove(name), "{name} was never asked for");
            watch.told.remove(name);
        }
        let mut added = Vec::new();
        for name in request.resource_names_subscribe {
            assert!(watch.names.insert(name.clone()), "{name} was asked for already");
            added.push(name);
        }
        if added.is_empty() { None } else { self.respond(kind, &added, true, Faults::default()) }
    }

    /// The names of the type that the client is to be told about.
    fn watched(&self, kind: Kind) -> Vec<String> {
        let watch = &self.watches[kind as usize];
        match kind {
            Kind::Endpoints => watch.names.iter().cloned().collect(),
            Kind::Clusters | Kind::Listeners => self.mesh.names(kind),
        }
    }

    /// The services whose endpoints the client asks for, as far as the server has understood it.
    pub(crate) fn subscribed(&self) -> &BTreeSet<String> {
        &self.watches[Kind::Endpoints as usize].names
    }

    /// Endpoints that the server sees no reason to send again.
    pub(crate) fn believed(&self) -> impl Iterator<Item = &String> {
        let watch = &self.watches[Kind::Endpoints as usize];
        let good = |name: &&String| watch.names.contains(*name) && !watch.refused.contains(*name);
        watch.told.keys().filter(good)
    }

    /// Pushes one type, in no particular order and with faults.
    pub(crate) fn push(&mut self, chance: &mut Chance) -> Option<Pushed> {
        let kind = [Kind::Clusters, Kind::Endpoints, Kind::Listeners][chance.below(3)];
        let mut names = self.watched(kind);
        if kind == Kind::Endpoints {
            names.retain(|_| chance.one_in(2));
        }
        let faults = Faults {
            bad: (!names.is_empty() && chance.one_in(3)).then(|| chance.below(names.len())),
            twice: (!names.is_empty() && chance.one_in(6)).then(|| chance.below(names.len())),
            stranger: chance.one_in(4),
            torn: chance.one_in(8),
            again: chance.one_in(3),
        };
        let again = faults.again;
        self.respond(kind, &names, again, faults)
    }

    pub(crate) fn push_honestly(&mut self, kind: Kind) -> Option<Pushed> {
        let names = self.watched(kind);
        self.respond(kind, &names, false, Faults::default())
    }

    pub(crate) fn push_again(&mut self, kind: Kind) -> Option<Pushed> {
        let names = self.watched(kind);
        self.respond(kind, &names, true, Faults::default())
    }

    /// `again` sends what the client was told already as well.
    fn respond(&mut self, kind: Kind, names: &[String], again: bool, faults: Faults) -> Option<Pushed> {
        let watch = &self.watches[kind as usize];
        if !watch.is_open {
            return None;
        }
        let is_complete = self.variant == Variant::Sotw && kind != Kind::Endpoints;
        let news = |name: &String| watch.told.get(name) != Some(&self.mesh.version(kind, name));
        let told = names.iter().filter(|name| again || self.variant == Variant::Sotw || news(name));
        let mut resources: Vec<Resource> = told.filter_map(|name| self.mesh.resource(kind, name)).collect();
        let removed: Vec<String> = match (self.variant, kind) {
            (Variant::Delta, Kind::Clusters | Kind::Listeners) => {
                let there = self.mesh.names(kind);
                watch.told.keys().filter(|name| !there.contains(name)).cloned().collect()
            }
            _ => Vec::new(),
        };
        if self.variant == Variant::Delta && resources.is_empty() && removed.is_empty() && !again {
            // Nothing to say; but a first request about a wildcard type is answered all the same.
            if !watch.nonce.is_empty() || kind == Kind::Endpoints {
                return None;
            }
        }
        faults.apply(kind, &mut resources);
        self.finish(kind, resources, removed, is_complete, faults.torn)
    }

    fn finish(
        &mut self,
        kind: Kind,
        resources: Vec<Resource>,
        removed: Vec<String>,
        is_complete: bool,
        is_torn: bool,
    ) -> Option<Pushed> {
        self.responses += 1;
        let nonce = format!("nonce-{}", self.responses);
        let version = self.responses.to_string();
        let watch = &mut self.watches[kind as usize];
        watch.nonce.clone_from(&nonce);
        removed.iter().for_each(|name| {
            watch.told.remove(name);
        });
        let mut made: Vec<Made> = Vec::new();
        for resource in &resources {
            let version = self.mesh.version(kind, &resource.name);
            watch.told.insert(resource.name.clone(), version);
            if resource.is_refused {
                watch.refused.insert(resource.name.clone());
            }
            made.push(Made {
                name: resource.name.clone(),
                version: if self.variant == Variant::Delta { version.to_string() } else { String::new() },
                any: Some(eastgate_proto::google::protobuf::Any {
                    type_url: kind.type_url().into(),
                    value: resource.body.clone(),
                }),
                ttl: None,
            });
        }
        if is_torn {
            let mut torn = Made::new(kind.type_url(), "", &eastgate_proto::Named::default());
            torn.any.as_mut()?.value = vec![0xff; 5];
            made.push(torn);
        }
        let response = match self.variant {
            Variant::Sotw => Response::Sotw(discovery::DiscoveryResponse {
                version_info: version,
                nonce: nonce.clone(),
                type_url: kind.type_url().into(),
                resources: made.into_iter().map(made::sotw_any).collect(),
                ..Default::default()
            }),
            Variant::Delta => Response::Delta(discovery::DeltaDiscoveryResponse {
                system_version_info: version,
                nonce: nonce.clone(),
                type_url: kind.type_url().into(),
                resources: made.into_iter().map(Made::envelope).collect(),
                removed_resources: removed.clone(),
                ..Default::default()
            }),
        };
        let pushed = Pushed { kind, nonce, resources, removed, is_complete, is_torn, response };
        self.watches[kind as usize].last = Some(pushed.clone());
        Some(pushed)
    }
}

/// What is wrong with a push.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    bad: Option<usize>,
    twice: Option<usize>,
    stranger: bool,
    torn: bool,
    again: bool,
}

impl Faults {
    fn apply(&self, kind: Kind, resources: &mut Vec<Resource>) {
        if let Some(resource) = self.bad.and_then(|index| resources.get_mut(index)) {
            resource.is_refused = true;
            // A field of the wrong wire type behind everything else: the name is still read.
            resource.body.extend([0x22, 0x02, 0x0a, 0x7f]);
        }
        if let Some(resource) = self.twice.and_then(|index| resources.get_mut(index)) {
            resource.is_refused = true;
            let copy = resource.clone();
            resources.push(copy);
        }
        if self.stranger && kind == Kind::Endpoints {
            let body = made::cla("stranger", &[9]).any.map(|any| any.value).unwrap_or_default();
            resources.push(Resource { name: "stranger".into(), body, ..Resource::default() });
        }
    }
}
