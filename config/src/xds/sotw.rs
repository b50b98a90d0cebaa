//! State of the world: what its requests carry and how its responses are read.
//!
//! Every request names everything that is wanted, so a subscription change and an ACK are the same message. istiod
//! drops a request with a nonce that is not its newest without a word; because every ACK here names the wanted set
//! again under the nonce it answers, a change that was lost in this way is in force one message later.

use eastgate_proto::Message;
use eastgate_proto::envoy::service::discovery::v3 as discovery;

use super::message::{Incoming, Update};
use super::subscription::{Answer, Subscription, status};

const ENVELOPE: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

pub(super) fn request(subscription: &mut Subscription) -> Option<discovery::DiscoveryRequest> {
    let answer = if !subscription.is_open() {
        // The version that was seen last spares a server that remembers it a push; the nonce belongs to the old
        // stream and must not be sent on this one.
        subscription.may_open().then(|| Answer::first(subscription.resumed_version()))?
    } else if let Some(answer) = subscription.next_answer() {
        answer
    } else if subscription.is_dirty() {
        // Names are not to wait for a NACK that is held back, and the first message with its nonce is its answer.
        subscription.release();
        subscription.next_answer().unwrap_or_else(|| subscription.newest())
    } else {
        return None;
    };
    subscription.sent_wanted();
    Some(discovery::DiscoveryRequest {
        version_info: answer.version,
        resource_names: subscription.wanted().iter().cloned().collect(),
        type_url: subscription.type_url.clone(),
        response_nonce: answer.nonce,
        error_detail: answer.error.map(status),
        ..Default::default()
    })
}

pub(super) fn read(response: discovery::DiscoveryResponse) -> Update {
    let version = response.version_info;
    let resources = response.resources.into_iter().map(|any| {
        if any.type_url != ENVELOPE {
            return Incoming { version: version.clone(), body: Some(any), ..Default::default() };
        }
        match discovery::Resource::decode(any.value.as_slice()) {
            Ok(envelope) => Incoming::from_envelope(envelope, &version),
            Err(error) => Incoming { damage: Some(error.to_string()), ..Default::default() },
        }
    });
    Update {
        resources: resources.collect(),
        type_url: response.type_url,
        nonce: response.nonce,
        removed: Vec::new(),
        complete: true,
        version,
    }
}
