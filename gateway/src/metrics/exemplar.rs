//! Connections as examples of what a histogram has counted: a dashboard leads from a slow bucket to one that was slow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Another example is taken after this long; between, it costs a connection one comparison.
const APART: Duration = Duration::from_secs(1);

/// A connection, by what it is known by elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exemplar {
    /// The beginning of its ClientHello's random bytes: `client_random` in the access log, and the end of its trace's id.
    pub client_random: u64,
    /// What was counted of it.
    pub time: Duration,
    /// When.
    pub at: SystemTime,
}

/// The latest example of a bucket, or nearly so.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Milliseconds of Unix time.
    due: AtomicU64,
    kept: Mutex<Option<Exemplar>>,
}

impl Slot {
    /// Keeps this one, if it is time for another. Nobody is waited for: whoever comes in between is as good an example.
    pub(super) fn offer(&self, exemplar: Exemplar) {
        let since = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if millis(since) < self.due.load(Relaxed) {
            return;
        }
        if let Ok(mut kept) = self.kept.try_lock() {
            *kept = Some(exemplar);
            self.due.store(millis(since + APART), Relaxed);
        }
    }

    pub(super) fn get(&self) -> Option<Exemplar> {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_stays_until_another_is_due() {
        let slot = Slot::default();
        let example = |client_random, seconds| Exemplar {
            client_random,
            time: Duration::from_millis(5),
            at: UNIX_EPOCH + Duration::from_secs_f64(seconds),
        };
        let kept = |client_random, seconds| {
            slot.offer(example(client_random, seconds));
            slot.get().map(|kept| kept.client_random)
        };
        assert_eq!([kept(1, 100.0), kept(2, 100.9), kept(3, 101.0)], [Some(1), Some(1), Some(3)]);
        let _busy = slot.kept.lock().unwrap();
        slot.offer(example(4, 200.0));
    }
}
