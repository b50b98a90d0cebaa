//! What changed between two pushes of the journal, all pushes in between taken together.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_config::xds::journal::{Names, Push};
use serde::Serialize;

/// By type URL.
pub(super) type Changes = BTreeMap<String, Change>;

/// What became of the resources of one type.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    pub(super) added: BTreeSet<String>,
    pub(super) changed: BTreeSet<String>,
    pub(super) removed: BTreeSet<String>,
    /// Changes whose names the journal did not keep.
    pub(super) unnamed: usize,
}

/// The journal has no such push (any more).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal has no push {0}; `/xds/log` lists what it has")]
pub(super) struct Unknown(String);

/// Everything after the one push, up to and with the other. A push is named by its version, of which the last one
/// counts, or by its number, as `#NUMBER`.
pub(super) fn between(journal: &[Push], from: &str, to: &str) -> Result<Changes, Unknown> {
    let (from, to) = (position(journal, from)?, position(journal, to)?);
    let (from, to) = (from.min(to), from.max(to));
    let mut changes = Changes::new();
    for push in journal.get(from + 1..=to).unwrap_or_default() {
        changes.entry(push.type_url.clone()).or_default().take(push);
    }
    changes.retain(|_, change| *change != Change::default());
    Ok(changes)
}

fn position(journal: &[Push], name: &str) -> Result<usize, Unknown> {
    let by_number = |name: &str| {
        let number: u64 = name.parse().ok()?;
        journal.iter().position(|push| push.number == number)
    };
    let found = match name.strip_prefix('#') {
        Some(number) => by_number(number),
        None => journal.iter().rposition(|push| push.version == name).or_else(|| by_number(name)),
    };
    found.ok_or_else(|| Unknown(name.into()))
}

impl Change {
    fn take(&mut self, push: &Push) {
        for name in self.names(&push.added) {
            // What went and came back is another one, as far as anybody can tell from the names.
            let was_there = self.removed.remove(&name);
            let names = if was_there { &mut self.changed } else { &mut self.added };
            names.insert(name);
        }
        for name in self.names(&push.changed) {
            if !self.added.contains(&name) {
                self.changed.insert(name);
            }
        }
        for name in self.names(&push.removed) {
            self.changed.remove(&name);
            if !self.added.remove(&name) {
                self.removed.insert(name);
            }
        }
    }

    fn names(&mut self, names: &Names) -> Vec<String> {
        self.unnamed += names.count - names.first.len();
        names.first.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Names {
        Names { count: names.len(), first: names.iter().map(|name| (*name).into()).collect() }
    }

    fn push(number: u64, version: &str, [added, changed, removed]: [&[&str]; 3]) -> Push {
        Push {
            number,
            version: version.into(),
            type_url: "t".into(),
            added: names(added),
            changed: names(changed),
            removed: names(removed),
            ..Push::default()
        }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn pushes_in_between_are_taken_together() {
        let journal = [
            push(7, "v1", [&["before"], &[], &[]]),
            push(8, "v2", [&["new", "brief"], &["edited"], &["gone", "back"]]),
            push(9, "v3", [&["back"], &["new"], &["brief", "edited"]]),
        ];
        let changes = between(&journal, "v1", "v3").unwrap();
        let expected = Change {
            added: set(&["new"]),
            changed: set(&["back"]),
            removed: set(&["edited", "gone"]),
            unnamed: 0,
        };
        assert_eq!(changes["t"], expected);
        assert_eq!(between(&journal, "#9", "7"), Ok(changes));
        assert_eq!(between(&journal, "v2", "v2"), Ok(Changes::new()));
        assert_eq!(between(&journal, "v2", "#3"), Err(Unknown("#3".into())));
    }

    #[test]
    fn names_that_were_not_kept_are_counted() {
        let mut many = push(2, "b", [&["a"], &[], &[]]);
        many.added.count = 30;
        let changes = between(&[push(1, "a", [&[], &[], &[]]), many], "a", "b").unwrap();
        assert_eq!(changes["t"].unnamed, 29);
    }
}
