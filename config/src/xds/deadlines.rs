//! Every timer of the conversation in one queue, so that the shell has one moment to sleep until.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kind, Moment};

/// What a moment was set for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A cluster's endpoints should have come by now.
    Warm(String),
    /// A cluster that CDS removed need wait no longer for the listeners that name it.
    Leave(String),
    /// A listener's new filter chains need wait no longer for their clusters.
    Await(String),
    /// A resource's time to live is over.
    Expire(Kind, String),
    /// Endpoints that no cluster asks for any more can be forgotten.
    Forget(String),
    /// What the guard keeps back is let go.
    Release,
    /// The NACKs of this type have waited long enough.
    Answer(Kind),
}

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    at: BTreeMap<Timer, Moment>,
    queue: BTreeSet<(Moment, Timer)>,
}

impl Deadlines {
    /// Sets the timer, or moves it.
    pub(super) fn set(&mut self, timer: Timer, at: Moment) {
        if let Some(before) = self.at.insert(timer.clone(), at) {
            self.queue.remove(&(before, timer.clone()));
        }
        self.queue.insert((at, timer));
    }

    /// Sets the timer unless it already runs.
    pub(super) fn set_once(&mut self, timer: Timer, at: Moment) {
        if !self.at.contains_key(&timer) {
            self.set(timer, at);
        }
    }

    pub(super) fn cancel(&mut self, timer: &Timer) -> bool {
        let Some(at) = self.at.remove(timer) else { return false };
        self.queue.remove(&(at, timer.clone()))
    }

    /// Cancels every [`Timer::Forget`].
    pub(super) fn cancel_forgetting(&mut self) {
        self.at.retain(|timer, _| !matches!(timer, Timer::Forget(_)));
        self.queue.retain(|(_, timer)| !matches!(timer, Timer::Forget(_)));
    }

    pub(super) fn is_set(&self, timer: &Timer) -> bool {
        self.at.contains_key(timer)
    }

    /// Clusters with a [`Timer::Warm`], which is the first kind in the order of timers.
    pub(super) fn warming(&self) -> impl Iterator<Item = &str> {
        self.at.keys().map_while(|timer| match timer {
            Timer::Warm(cluster) => Some(cluster.as_str()),
            _ => None,
        })
    }

    pub(super) fn next(&self) -> Option<Moment> {
        self.queue.first().map(|(at, _)| *at)
    }

    pub(super) fn pop_due(&mut self, now: Moment) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.at.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    #[test]
    fn timers_come_due_in_order_and_a_moved_one_only_once() {
        let mut deadlines = Deadlines::default();
        deadlines.set(Timer::Warm("a".into()), at(5));
        deadlines.set(Timer::Leave("b".into()), at(3));
        deadlines.set(Timer::Warm("a".into()), at(1));
        deadlines.set_once(Timer::Warm("a".into()), at(9));
        assert_eq!(deadlines.next(), Some(at(1)));
        assert_eq!(deadlines.pop_due(at(0)), None);
        assert_eq!(deadlines.pop_due(at(4)), Some(Timer::Warm("a".into())));
        assert_eq!(deadlines.pop_due(at(4)), Some(Timer::Leave("b".into())));
        assert_eq!(deadlines.pop_due(at(9)), None);
    }

    #[test]
    fn a_cancelled_timer_never_comes_due() {
        let mut deadlines = Deadlines::default();
        deadlines.set(Timer::Release, at(1));
        assert!(deadlines.is_set(&Timer::Release));
        assert!(deadlines.cancel(&Timer::Release));
        assert!(!deadlines.cancel(&Timer::Release));
        assert_eq!(deadlines.next(), None);
    }
}
