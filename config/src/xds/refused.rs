//! Refused resources as they came: what is wrong with one is easier seen beside it.

use eastgate_proto::google::protobuf as pb;

use super::{Client, Moment};
use crate::rejection::Rejection;

/// How many bytes of refused resources are kept of one type. What does not fit is counted and not kept.
pub const MAX_KEPT: usize = 4 << 20;

/// A resource whose newest version is refused, at least in part.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The type that it was sent as.
    pub type_url: String,
    /// Its name.
    pub name: String,
    /// The version that is refused.
    pub version: String,
    /// When it came, on the caller's clock.
    pub at: Moment,
    /// The message; none where it had none, or where it is one too many for [`MAX_KEPT`].
    pub message: Option<pb::Any>,
    /// How many bytes the message had.
    pub size: usize,
}

/// What is wrong with a resource, and the resource.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    pub(super) rejections: Vec<Rejection>,
    pub(super) version: String,
    pub(super) at: Moment,
    pub(super) message: Option<pb::Any>,
    pub(super) size: usize,
}

impl Refusal {
    pub(super) fn new(rejections: Vec<Rejection>, version: String, message: Option<pb::Any>) -> Self {
        let size = message.as_ref().map_or(0, |message| message.value.len());
        Self { rejections, version, at: Moment::ZERO, message, size }
    }

    /// How many bytes are kept of the resource.
    pub(super) fn kept(&self) -> usize {
        self.message.as_ref().map_or(0, |message| message.value.len())
    }
}

impl Client {
    /// The resources whose newest version is refused, as they came.
    pub fn refused(&self) -> Vec<Refused> {
        let of = |topic: &super::Topic| {
            let type_url = topic.subscription.type_url.clone();
            let refused = move |(name, refusal): (&String, &Refusal)| Refused {
                type_url: type_url.clone(),
                name: name.clone(),
                version: refusal.version.clone(),
                at: refusal.at,
                message: refusal.message.clone(),
                size: refusal.size,
            };
            topic.findings.refusals().map(refused).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(of).collect()
    }
}
