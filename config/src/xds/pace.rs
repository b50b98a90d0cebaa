//! How long a NACK waits when a control plane sends again what was refused.
//!
//! go-control-plane takes a NACK in state of the world for a request of somebody who has an older version, and sends
//! the refused set again at once. Answered at once, the two would go round as fast as the network lets them, until
//! somebody mends the set.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::message::{Incoming, Update};

/// How long the answer to the first repetition waits; it doubles with each one ...
const FIRST: Duration = Duration::from_millis(200);
/// ... up to this. A control plane that waits for the answer before it sends what is mended waits so long at most.
const MOST: Duration = Duration::from_secs(10);

/// What a response said, its nonce aside. The order of its resources says nothing: go-control-plane keeps them in a
/// map, and every response has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content(u64);

impl Content {
    pub(super) fn of(update: &Update) -> Self {
        let mut resources: Vec<u64> = update.resources.iter().map(digest).collect();
        resources.sort_unstable();
        let mut hasher = DefaultHasher::new();
        (&update.version, resources, &update.removed).hash(&mut hasher);
        Self(hasher.finish())
    }
}

fn digest(resource: &Incoming) -> u64 {
    let Incoming { name, version, ttl, body, damage } = resource;
    let body = body.as_ref().map(|body| (&body.type_url, &body.value));
    let mut hasher = DefaultHasher::new();
    (name, version, ttl, body, damage).hash(&mut hasher);
    hasher.finish()
}

/// What one stream had refused last of one type, and how often it came again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    refused: Option<Content>,
    repeated: u32,
}

impl Pace {
    /// How long the NACK of this content waits; none if it is not what was refused last.
    pub(super) fn refused(&mut self, content: Content) -> Option<Duration> {
        if self.refused.replace(content) != Some(content) {
            self.repeated = 0;
            return None;
        }
        let wait = FIRST.saturating_mul(1 << self.repeated.min(16)).min(MOST);
        self.repeated = self.repeated.saturating_add(1);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(version: &str, bodies: &[&str]) -> Content {
        let resource = |body: &&str| Incoming { name: Some((*body).into()), ..Incoming::default() };
        let resources = bodies.iter().map(resource).collect();
        Content::of(&Update { version: version.into(), resources, ..Update::default() })
    }

    #[test]
    fn the_wait_of_a_repeated_refusal_doubles_up_to_the_most() {
        let mut pace = Pace::default();
        let same = content("1", &["a"]);
        let waits: Vec<_> = (0..9).map(|_| pace.refused(same).map_or(0, |wait| wait.as_millis())).collect();
        assert_eq!(waits, [0, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(pace.refused(content("2", &["a"])), None);
        assert_eq!(pace.refused(content("2", &["a"])), Some(FIRST));
        let mut many = Pace { refused: Some(same), repeated: u32::MAX };
        assert_eq!(many.refused(same), Some(MOST));
    }

    #[test]
    fn the_order_of_resources_makes_no_other_content_and_everything_else_does() {
        let content = |version: &str, bodies: &[&str]| content(version, bodies);
        assert_eq!(content("1", &["a", "b"]), content("1", &["b", "a"]));
        for other in [content("2", &["a", "b"]), content("1", &["a"]), content("1", &["a", "b", "b"])] {
            assert_ne!(content("1", &["a", "b"]), other);
        }
    }
}
