//! From Envoy's messages to our own types.
//!
//! A field is decoded, or refused by name, or on the list of what is safe to ignore in `docs/xds.md`. Safe to ignore
//! is what changes neither where a connection goes, nor who may open it, nor what its bytes are wrapped in.

mod chain_match;
mod cluster;
mod endpoints;
mod filters;
mod health;
mod listener;
mod load_balancing;
pub(super) mod names;
mod rbac;
#[cfg(test)]
mod tests;
mod values;

use std::sync::Arc;
use std::time::Duration;

use eastgate_proto::envoy::config::cluster::v3 as cluster_v3;
use eastgate_proto::envoy::config::endpoint::v3 as endpoint_v3;
use eastgate_proto::envoy::config::listener::v3 as listener_v3;
use eastgate_proto::google::protobuf as pb;
use eastgate_proto::{Message, Named};

use super::Kind;
use super::resources::Kept;
use crate::listener::Listener;

pub(super) use cluster::ClusterConfig;
pub(super) use endpoints::Assignment;

/// A decoded resource.
#[derive(Debug)]
pub(super) enum Decoded {
    Cluster(Arc<ClusterConfig>),
    Endpoints(Assignment),
    Listener {
        listener: Arc<Listener>,
        /// A chain of it was refused.
        partial: bool,
    },
    Bytes,
}

/// What is wrong with a resource, or a part of it, or surprising in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) field: String,
    pub(super) reason: String,
    /// An older version of the part stays in use.
    pub(super) last_good_kept: bool,
}

impl Problem {
    pub(super) fn at(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), last_good_kept: false }
    }

    pub(super) fn whole(reason: impl Into<String>) -> Self {
        Self::at("", reason)
    }

    /// The same problem, seen from one level up.
    fn inside(self, outer: &str) -> Self {
        let field = match (outer, self.field.as_str()) {
            (outer, "") => outer.to_owned(),
            ("", inner) => inner.to_owned(),
            (outer, inner) => format!("{outer}.{inner}"),
        };
        Self { field, ..self }
    }
}

/// What is to be said of a resource that is accepted all the same.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Parts that were refused.
    pub(super) partial: Vec<Problem>,
    pub(super) notices: Vec<Problem>,
}

/// The time to live of a resource, or what is wrong with it.
pub(super) fn ttl(message: Option<pb::Duration>) -> Result<Option<Duration>, String> {
    values::duration("ttl", message).map_err(|problem| format!("{}: {}", problem.field, problem.reason))
}

/// The name of a resource, as far as its bytes can be read.
pub(super) fn name(kind: Kind, body: &[u8]) -> Option<String> {
    if matches!(kind, Kind::Extra(_)) {
        return None;
    }
    Named::decode(body).ok().map(|named| named.name)
}

/// Decodes a resource that is expected to have this name; `previous` is what was accepted of it before.
pub(super) fn decode(
    kind: Kind,
    name: &str,
    body: &[u8],
    previous: Option<&Kept>,
) -> Result<(Decoded, Findings), Vec<Problem>> {
    if matches!(kind, Kind::Extra(_)) {
        return Ok((Decoded::Bytes, Findings::default()));
    }
    if name.is_empty() {
        return Err(vec![Problem::at("name", "it has no name, or cannot be read far enough to find it")]);
    }
    let unreadable = |error| vec![Problem::whole(format!("its bytes are no such message: {error}"))];
    match self::name(kind, body) {
        Some(inside) if inside != name => {
            return Err(vec![Problem::at(
                "name",
                format!("it is sent as {name:?} but calls itself {inside:?}"),
            )]);
        }
        _ => {}
    }
    match kind {
        Kind::Cluster => {
            let message = cluster_v3::Cluster::decode(body).map_err(unreadable)?;
            let (config, findings) = cluster::decode(message)?;
            Ok((Decoded::Cluster(Arc::new(config)), findings))
        }
        Kind::Endpoints => {
            let message = endpoint_v3::ClusterLoadAssignment::decode(body).map_err(unreadable)?;
            let assignment =
                endpoints::decode(message, endpoints::Names::Refused).map_err(|one| vec![one])?;
            Ok((Decoded::Endpoints(assignment), Findings::default()))
        }
        Kind::Listener => {
            let message = listener_v3::Listener::decode(body).map_err(unreadable)?;
            let previous = match previous {
                Some(Kept::Listener(listener)) => Some(Arc::clone(listener)),
                _ => None,
            };
            let (listener, findings) = listener::decode(message, previous.as_deref())?;
            let partial = !findings.partial.is_empty();
            Ok((Decoded::Listener { listener: Arc::new(listener), partial }, findings))
        }
        Kind::Extra(_) => Ok((Decoded::Bytes, Findings::default())),
    }
}
