//! Tests of the conversation, and the small control plane that they share.

mod guard;
mod istiod;
pub(crate) mod made;
mod obligations;
mod pacing;
mod refused;
mod saved;
mod warming;

use std::time::Duration;

use eastgate_proto::envoy::config::cluster::v3 as cluster;
use eastgate_proto::envoy::service::discovery::v3 as discovery;
use eastgate_proto::google::protobuf as pb;

use super::*;
use made::*;

/// What a request says, whichever variant it is of.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Said {
    pub(super) kind: &'static str,
    pub(super) node: bool,
    pub(super) version: String,
    pub(super) names: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
    pub(super) initial: Vec<(String, String)>,
    pub(super) nonce: String,
    pub(super) error: Option<String>,
}

fn kind(type_url: &str) -> &'static str {
    match type_url {
        CLUSTER => "CDS",
        ENDPOINTS => "EDS",
        LISTENER => "LDS",
        _ => "other",
    }
}

impl From<Request> for Said {
    fn from(request: Request) -> Self {
        match request {
            Request::Sotw(request) => Self {
                kind: kind(&request.type_url),
                node: request.node.is_some(),
                version: request.version_info,
                names: request.resource_names,
                nonce: request.response_nonce,
                error: request.error_detail.map(|status| status.message),
                ..Self::default()
            },
            Request::Delta(request) => {
                let mut initial: Vec<_> = request.initial_resource_versions.into_iter().collect();
                initial.sort();
                Self {
                    kind: kind(&request.type_url),
                    node: request.node.is_some(),
                    names: request.resource_names_subscribe,
                    unsubscribe: request.resource_names_unsubscribe,
                    initial,
                    nonce: request.response_nonce,
                    error: request.error_detail.map(|status| status.message),
                    ..Self::default()
                }
            }
        }
    }
}

/// A client, its clock, and a hand that writes responses.
pub(super) struct Rig {
    pub(super) client: Client,
    pub(super) now: Moment,
    variant: Variant,
    pushes: u32,
}

pub(super) const VARIANTS: [Variant; 2] = [Variant::Sotw, Variant::Delta];

impl Rig {
    pub(super) fn with(variant: Variant, options: Options) -> Self {
        let node = Node { id: "router~10.0.0.1~g.ns~ns.svc.cluster.local".into(), ..Node::default() };
        let client = Client::new(variant, &node, options);
        Self { client, now: Duration::from_secs(1000), variant, pushes: 0 }
    }

    /// Connected, and its first requests taken.
    pub(super) fn new(variant: Variant) -> Self {
        let mut rig = Self::with(variant, Options::default());
        rig.connect();
        rig
    }

    pub(super) fn connect(&mut self) -> Vec<Said> {
        self.client.connected(self.now);
        self.said()
    }

    pub(super) fn said(&mut self) -> Vec<Said> {
        std::iter::from_fn(|| self.client.poll_transmit()).map(Said::from).collect()
    }

    /// Pushes under the next version and nonce (`v1`, `n1`, ...), and gives what the client says to that.
    pub(super) fn push(&mut self, type_url: &str, resources: Vec<Made>, removed: &[&str]) -> Vec<Said> {
        let response = self.response(type_url, resources, removed);
        self.client.receive(response, self.now);
        self.said()
    }

    pub(super) fn response(&mut self, type_url: &str, resources: Vec<Made>, removed: &[&str]) -> Response {
        self.pushes += 1;
        let (version, nonce) = (format!("v{}", self.pushes), format!("n{}", self.pushes));
        match self.variant {
            Variant::Sotw => Response::Sotw(discovery::DiscoveryResponse {
                version_info: version,
                nonce,
                type_url: type_url.into(),
                resources: resources.into_iter().map(sotw_any).collect(),
                ..Default::default()
            }),
            Variant::Delta => Response::Delta(discovery::DeltaDiscoveryResponse {
                system_version_info: version,
                nonce,
                type_url: type_url.into(),
                resources: resources.into_iter().map(Made::envelope).collect(),
                removed_resources: removed.iter().map(|name| (*name).into()).collect(),
                ..Default::default()
            }),
        }
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.client.timeout(self.now);
    }

    /// Cluster `a` with endpoint 1, and a listener that sends `a.b` there.
    pub(super) fn settle(&mut self) {
        self.push(CLUSTER, vec![eds("a", 1)], &[]);
        self.push(ENDPOINTS, vec![cla("a", &[1])], &[]);
        self.push(LISTENER, vec![lds("l", &[("a.b", "a")])], &[]);
        assert_eq!(self.timeout_of("a"), Some(1));
    }

    /// The endpoints' last bytes, or none where the snapshot has no such cluster.
    pub(super) fn hosts(&self, cluster: &str) -> Option<Vec<String>> {
        let cluster = self.client.snapshot().clusters.get(cluster)?;
        Some(cluster.endpoints().map(|endpoint| endpoint.address.to_string()).collect())
    }

    pub(super) fn timeout_of(&self, cluster: &str) -> Option<u64> {
        Some(self.client.snapshot().clusters.get(cluster)?.connect_timeout.as_secs())
    }

    pub(super) fn route(&self, listener: &str, chain: &str) -> Option<String> {
        let listener = self.client.snapshot().listeners.get(listener)?;
        let chain = listener.filter_chains.iter().find(|one| &*one.name == chain)?;
        Some(chain.route.clusters[0].name.clone())
    }
}

pub(super) fn host(last: u8) -> String {
    format!("10.0.0.{last}:80")
}
