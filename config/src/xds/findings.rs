//! What is wrong with the newest version of each resource of one type, for as long as that is true.

use std::collections::BTreeMap;

use super::resources::{Intake, Store};
use crate::rejection::{Notice, Rejection};

#[derive(Debug, Default)]
pub(super) struct Findings {
    rejections: BTreeMap<String, Vec<Rejection>>,
    notices: BTreeMap<String, Vec<Notice>>,
    /// Since somebody last looked and took this back.
    pub(super) different: bool,
}

impl Findings {
    pub(super) fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.rejections.values().flatten()
    }

    pub(super) fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.notices.values().flatten()
    }

    /// How many resources have something refused.
    pub(super) fn rejected(&self) -> usize {
        self.rejections.len()
    }

    /// Takes over what was found in an update. In a complete set, what is not found any more is not true any more;
    /// otherwise it holds until the resource comes again or goes.
    pub(super) fn note(&mut self, intake: &mut Intake, complete: bool, gone: &[String]) {
        let found = std::mem::take(&mut intake.rejections);
        let accepted = intake.accepted.iter().map(|accepted| &accepted.name);
        let settled = accepted.chain(intake.unchanged.iter().map(|(name, ..)| name)).chain(gone);
        for name in settled.chain(&intake.removed).filter(|name| !found.contains_key(*name)) {
            self.different |= self.rejections.remove(name).is_some();
        }
        let before = self.rejections.len();
        // What has no name can be told from nothing else, and so belongs to its own push alone.
        self.rejections.retain(|name, _| found.contains_key(name) || !(complete || name.is_empty()));
        self.different |= self.rejections.len() != before;
        for (name, rejections) in found {
            self.different |= self.rejections.get(&name) != Some(&rejections);
            self.rejections.insert(name, rejections);
        }
        for name in &intake.removed {
            self.different |= self.notices.remove(name).is_some();
        }
        for (name, notices) in std::mem::take(&mut intake.notices) {
            let before = self.notices.remove(&name).unwrap_or_default();
            self.different |= before != notices;
            if !notices.is_empty() {
                self.notices.insert(name, notices);
            }
        }
    }

    /// The resource is gone, or nobody asks for it any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.different |= self.rejections.remove(name).is_some();
        self.different |= self.notices.remove(name).is_some();
    }

    /// A new stream: what was refused and is not held will be sent again if it still exists, and nobody would tell
    /// us if it does not.
    pub(super) fn begin_stream(&mut self, held: &Store) {
        let before = self.rejections.len();
        self.rejections.retain(|name, _| held.contains_key(name));
        self.different |= self.rejections.len() != before;
    }
}
