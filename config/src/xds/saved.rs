//! The accepted resources as plain values, for a state directory: a gateway that starts while its control plane is
//! down serves what it last knew.

use eastgate_proto::google::protobuf as pb;

use super::message::{Incoming, Update};
use super::{Client, Moment, Push};

/// Everything that was accepted of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The type.
    pub type_url: String,
    /// Of the last push that was accepted as a whole.
    pub version: String,
    /// The resources.
    pub resources: Vec<SavedResource>,
}

/// One accepted resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SavedResource {
    /// Its name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// The message.
    pub body: Vec<u8>,
}

impl Client {
    /// Everything that is accepted now.
    pub fn saved(&self) -> Vec<Saved> {
        let resources = |type_url: &str| {
            let accepted = self.accepted(type_url).map(|(name, version, body)| SavedResource {
                name: name.into(),
                version: version.into(),
                body: body.into(),
            });
            accepted.collect()
        };
        self.topics
            .iter()
            .map(|topic| Saved {
                type_url: topic.subscription.type_url.clone(),
                version: topic.subscription.version.clone(),
                resources: resources(&topic.subscription.type_url),
            })
            .collect()
    }

    /// Takes back what was saved, by the same rules as if the control plane had sent it. To be called before the first
    /// [`Client::connected`]. The returned pushes say what became of each type.
    pub fn restore(&mut self, saved: Vec<Saved>, now: Moment) -> Vec<Push> {
        let order = |saved: &Saved| {
            self.topics.iter().position(|topic| topic.subscription.type_url == saved.type_url)
        };
        let mut known: Vec<(usize, Saved)> =
            saved.into_iter().filter_map(|saved| Some((order(&saved)?, saved))).collect();
        known.sort_by_key(|(index, _)| *index);
        known.into_iter().filter_map(|(index, saved)| self.restore_type(index, saved, now)).collect()
    }

    fn restore_type(&mut self, index: usize, saved: Saved, now: Moment) -> Option<Push> {
        let topic = self.topics.get_mut(index)?;
        let kind = topic.kind;
        topic.subscription.restore(&saved.version);
        let type_url = saved.type_url;
        let incoming = |resource: SavedResource| Incoming {
            name: Some(resource.name),
            version: resource.version,
            body: Some(pb::Any { type_url: type_url.clone(), value: resource.body }),
            ..Incoming::default()
        };
        let update = Update {
            type_url: type_url.clone(),
            version: saved.version.clone(),
            resources: saved.resources.into_iter().map(incoming).collect(),
            ..Update::default()
        };
        let mut push =
            Push { at: now, type_url: type_url.clone(), version: saved.version, ..Push::default() };
        self.apply(kind, update, now, &mut push);
        if let Some(topic) = self.topics.get_mut(index) {
            // Nothing has been heard of the control plane yet.
            topic.last_update = None;
        }
        self.journal.record(push.clone());
        Some(push)
    }
}
