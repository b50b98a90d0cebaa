//! What goes over the wire, in both variants, and the one form that both kinds of response are read into.

use std::time::Duration;

use eastgate_proto::envoy::service::discovery::v3 as discovery;
use eastgate_proto::google::protobuf as pb;

use super::{decode, delta, sotw};

/// A message for the control plane.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// For `StreamAggregatedResources`.
    Sotw(discovery::DiscoveryRequest),
    /// For `DeltaAggregatedResources`.
    Delta(discovery::DeltaDiscoveryRequest),
}

/// A message of the control plane.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// From `StreamAggregatedResources`.
    Sotw(discovery::DiscoveryResponse),
    /// From `DeltaAggregatedResources`.
    Delta(discovery::DeltaDiscoveryResponse),
}

/// A response, whichever variant it came in.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub(super) type_url: String,
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) resources: Vec<Incoming>,
    pub(super) removed: Vec<String>,
    /// State of the world: for a wildcard type, what is not in it is gone.
    pub(super) complete: bool,
}

/// One resource of a response.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// As the envelope has it; without one, the name is inside the body.
    pub(super) name: Option<String>,
    pub(super) version: String,
    pub(super) ttl: Option<Duration>,
    /// None in a heartbeat.
    pub(super) body: Option<pb::Any>,
    /// The envelope itself cannot be read.
    pub(super) damage: Option<String>,
}

impl From<Response> for Update {
    fn from(response: Response) -> Self {
        match response {
            Response::Sotw(response) => sotw::read(response),
            Response::Delta(response) => delta::read(response),
        }
    }
}

impl Incoming {
    pub(super) fn from_envelope(envelope: discovery::Resource, push_version: &str) -> Self {
        let name = envelope.resource_name.map(|name| name.name).unwrap_or_default();
        let name = if envelope.name.is_empty() { name } else { envelope.name };
        let (ttl, damage) = match decode::ttl(envelope.ttl) {
            Ok(ttl) => (ttl, None),
            Err(reason) => (None, Some(reason)),
        };
        Self {
            name: (!name.is_empty()).then_some(name),
            version: if envelope.version.is_empty() { push_version.into() } else { envelope.version },
            ttl,
            body: envelope.resource,
            damage,
        }
    }
}
