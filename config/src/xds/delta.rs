//! Incremental xDS: what its requests carry and how its responses are read.
//!
//! An ACK carries a nonce and nothing else; a change of subscription carries the difference and no nonce. istiod
//! logs an error for a message that is both.

use std::collections::HashMap;

use eastgate_proto::envoy::service::discovery::v3 as discovery;

use super::message::{Incoming, Update};
use super::subscription::{Subscription, status};

/// `held` gives what we already have, by name; it is asked for once in each stream.
pub(super) fn request(
    subscription: &mut Subscription,
    held: impl FnOnce() -> HashMap<String, String>,
) -> Option<discovery::DeltaDiscoveryRequest> {
    let type_url = subscription.type_url.clone();
    if !subscription.is_open() {
        if !subscription.may_open() {
            return None;
        }
        subscription.sent_wanted();
        return Some(discovery::DeltaDiscoveryRequest {
            type_url,
            // Empty means everything, but only in the first message of a stream about a type: a named type with no
            // names wanted must stay silent instead, which is what `may_open` sees to.
            resource_names_subscribe: subscription.wanted().iter().cloned().collect(),
            initial_resource_versions: held(),
            ..Default::default()
        });
    }
    if let Some(answer) = subscription.next_answer() {
        return Some(discovery::DeltaDiscoveryRequest {
            type_url,
            response_nonce: answer.nonce,
            error_detail: answer.error.map(status),
            ..Default::default()
        });
    }
    if !subscription.is_dirty() {
        return None;
    }
    let wanted = subscription.wanted();
    let sent = subscription.sent();
    let request = discovery::DeltaDiscoveryRequest {
        type_url,
        resource_names_subscribe: wanted.difference(sent).cloned().collect(),
        resource_names_unsubscribe: sent.difference(wanted).cloned().collect(),
        ..Default::default()
    };
    subscription.sent_wanted();
    Some(request)
}

pub(super) fn read(response: discovery::DeltaDiscoveryResponse) -> Update {
    let version = response.system_version_info;
    let named = response.removed_resource_names.into_iter().map(|name| name.name);
    Update {
        resources: response
            .resources
            .into_iter()
            .map(|envelope| Incoming::from_envelope(envelope, &version))
            .collect(),
        removed: response.removed_resources.into_iter().chain(named).collect(),
        type_url: response.type_url,
        nonce: response.nonce,
        complete: false,
        version,
    }
}
