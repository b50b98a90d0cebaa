//! The last pushes, for people: what each changed, what of it was refused, and when.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Alarm, Moment};
use crate::rejection::Rejection;

/// How many pushes are remembered.
pub const CAPACITY: usize = 100;
/// How many names of one kind of change a push lists.
pub const MAX_NAMES: usize = 20;

/// Some names, and how many there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Names {
    /// All of them, listed or not.
    pub count: usize,
    /// The first [`MAX_NAMES`].
    pub first: Vec<String>,
}

impl Names {
    pub(super) fn add(&mut self, name: &str) {
        self.count += 1;
        if self.first.len() < MAX_NAMES {
            self.first.push(name.into());
        }
    }
}

impl<'a> FromIterator<&'a String> for Names {
    fn from_iter<I: IntoIterator<Item = &'a String>>(names: I) -> Self {
        let mut listed = Self::default();
        names.into_iter().for_each(|name| listed.add(name));
        listed
    }
}

/// One response of the control plane and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Push {
    /// Counted from 1 since the process began.
    pub number: u64,
    /// When it came, on the caller's clock.
    pub at: Moment,
    /// How long it took to decode and apply, where the caller has said so.
    #[serde(rename = "took_seconds", serialize_with = "seconds")]
    pub took: Option<Duration>,
    /// What it was about.
    pub type_url: String,
    /// Its `version_info` or `system_version_info`.
    pub version: String,
    /// Its nonce.
    pub nonce: String,
    /// We had not asked for this type: it was neither used nor answered.
    pub unasked: bool,
    /// Resources that are new.
    pub added: Names,
    /// Resources that differ from what was accepted before.
    pub changed: Names,
    /// Resources that are gone.
    pub removed: Names,
    /// Resources that are as they were.
    pub unchanged: usize,
    /// Resources that only had their time to live renewed.
    pub heartbeats: usize,
    /// Resources that nobody asked for.
    pub ignored: usize,
    /// What was refused; with any, the push was answered with a NACK.
    pub rejections: Vec<Rejection>,
    /// What the guard said of it.
    pub alarms: Vec<Alarm>,
}

fn seconds<S: Serializer>(took: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    took.map(|took| took.as_secs_f64()).serialize(serializer)
}

/// The last [`CAPACITY`] pushes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pushes: VecDeque<Push>,
    total: u64,
}

impl Journal {
    pub(super) fn record(&mut self, mut push: Push) {
        self.total += 1;
        push.number = self.total;
        // A push may refuse ten thousand resources; the journal keeps enough of them to act on.
        push.rejections.truncate(MAX_NAMES);
        if self.pushes.len() == CAPACITY {
            self.pushes.pop_front();
        }
        self.pushes.push_back(push);
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Push> {
        self.pushes.back_mut()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Push> {
        self.pushes.iter()
    }
}
