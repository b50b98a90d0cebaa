//! What is wrong with the newest version of each resource of one type, for as long as that is true.

use std::collections::BTreeMap;

use super::Moment;
use super::refused::{MAX_KEPT, Refusal};
use super::resources::{Intake, Store};
use crate::rejection::{Notice, Rejection};

#[derive(Debug, Default)]
pub(super) struct Findings {
    refusals: BTreeMap<String, Refusal>,
    notices: BTreeMap<String, Vec<Notice>>,
    /// Since somebody last looked and took this back.
    pub(super) different: bool,
}

impl Findings {
    pub(super) fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.refusals.values().flat_map(|refusal| &refusal.rejections)
    }

    /// What was refused, by name.
    pub(super) fn refusals(&self) -> impl Iterator<Item = (&String, &Refusal)> {
        self.refusals.iter()
    }

    pub(super) fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.notices.values().flatten()
    }

    /// How many resources have something refused.
    pub(super) fn rejected(&self) -> usize {
        self.refusals.len()
    }

    /// Takes over what was found in an update. In a complete set, what is not found any more is not true any more;
    /// otherwise it holds until the resource comes again or goes.
    pub(super) fn note(&mut self, intake: &mut Intake, complete: bool, gone: &[String], now: Moment) {
        let found = std::mem::take(&mut intake.refusals);
        let accepted = intake.accepted.iter().map(|accepted| &accepted.name);
        let settled = accepted.chain(intake.unchanged.iter().map(|(name, ..)| name)).chain(gone);
        for name in settled.chain(&intake.removed).filter(|name| !found.contains_key(*name)) {
            self.different |= self.refusals.remove(name).is_some();
        }
        let before = self.refusals.len();
        // What has no name can be told from nothing else, and so belongs to its own push alone.
        self.refusals.retain(|name, _| found.contains_key(name) || !(complete || name.is_empty()));
        self.different |= self.refusals.len() != before;
        for name in found.keys() {
            if let Some(before) = self.refusals.get_mut(name) {
                before.message = None;
            }
        }
        let mut kept: usize = self.refusals.values().map(Refusal::kept).sum();
        for (name, mut refusal) in found {
            refusal.at = now;
            if kept + refusal.size > MAX_KEPT {
                refusal.message = None;
            }
            kept += refusal.kept();
            let before = self.refusals.get(&name).map(|before| &before.rejections);
            self.different |= before != Some(&refusal.rejections);
            self.refusals.insert(name, refusal);
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
        self.different |= self.refusals.remove(name).is_some();
        self.different |= self.notices.remove(name).is_some();
    }

    /// A new stream: what was refused and is not held will be sent again if it still exists, and nobody would tell
    /// us if it does not.
    pub(super) fn begin_stream(&mut self, held: &Store) {
        let before = self.refusals.len();
        self.refusals.retain(|name, _| held.contains_key(name));
        self.different |= self.refusals.len() != before;
    }
}
