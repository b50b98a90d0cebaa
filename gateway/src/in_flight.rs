//! Which ClientHellos are on their way to an endpoint, so that one that comes back in is seen: an endpoint of the gateway
//! that is the gateway itself, or leads back to it, would take a connection for each turn until none is left.
//!
//! A hello is known by its random bytes, which are the same at every hop and no others', and by its listener, because a
//! gateway may well be passed twice by different ones. They are known for as long as no endpoint has answered. A few of the
//! same are borne: a gateway before this one that had no answer sends the hello once more, and its first may not have
//! ended here. The table is of a fixed size and takes no lock; where it is full, a hello is not known, and goes on.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Hellos that may be known at once; 32 KiB.
const SLOTS: usize = 4096;
/// How many slots one hello may be in: a full neighbourhood is as unlikely as a quarter of the table being used is.
const NEIGHBOURS: usize = 8;
/// How often the same hello may be under way: as many endpoints as an ordinary connection tries, and one more.
const MOST: usize = 4;
const FREE: u64 = 0;

/// The hellos that are under way.
#[derive(Debug)]
pub struct InFlight {
    slots: Box<[AtomicU64]>,
    /// The second after which one that came round is told of in the log again.
    quiet_until: AtomicU64,
}

impl Default for InFlight {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(FREE)).collect();
        Self { slots, quiet_until: AtomicU64::new(0) }
    }
}

/// A hello under way; until this is dropped.
#[derive(Debug)]
pub struct Passing {
    all: Arc<InFlight>,
    slot: usize,
}

impl Drop for Passing {
    fn drop(&mut self) {
        if let Some(slot) = self.all.slots.get(self.slot) {
            slot.store(FREE, Relaxed);
        }
    }
}

/// The hello is under way too often already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again;

impl InFlight {
    /// Is it time for a line in the log? Once a minute, because what comes round comes in numbers.
    pub fn is_worth_a_line(&self, now: Duration) -> bool {
        let (now, until) = (now.as_secs(), self.quiet_until.load(Relaxed));
        now >= until && self.quiet_until.compare_exchange(until, now + 60, Relaxed, Relaxed).is_ok()
    }

    /// Notes a hello that came to this listener; none where there is no room.
    ///
    /// # Errors
    /// The same hello came to it before, again and again, and is still under way.
    pub fn enter(
        self: &Arc<Self>,
        client_random: &[u8; 32],
        listener: &str,
    ) -> Result<Option<Passing>, Again> {
        let known_by = mark(client_random, listener);
        let first = usize::try_from(known_by >> 32).unwrap_or_default();
        let (mut free, mut same) = (None, 0);
        for slot in (0..NEIGHBOURS).map(|step| (first + step) % SLOTS) {
            match self.slots.get(slot).map(|slot| slot.load(Relaxed)) {
                Some(found) if found == known_by => same += 1,
                Some(FREE) => free = free.or(Some(slot)),
                _ => {}
            }
        }
        if same >= MOST {
            return Err(Again);
        }
        let Some(slot) = free else { return Ok(None) };
        // Whoever takes the slot first has it; the other one is not known, which loses nothing but the knowledge.
        let taken = self.slots.get(slot).map(|slot| slot.compare_exchange(FREE, known_by, Relaxed, Relaxed));
        Ok(matches!(taken, Some(Ok(_))).then(|| Passing { all: Arc::clone(self), slot }))
    }
}

/// The random bytes are a good hash already; the listener is mixed in. Never `FREE`.
fn mark(client_random: &[u8; 32], listener: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    (client_random, listener).hash(&mut hasher);
    hasher.finish() | 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn enter_often(all: &Arc<InFlight>, random: &[u8; 32], listener: &str) -> Vec<Option<Passing>> {
        (0..MOST).map(|_| all.enter(random, listener).unwrap()).collect()
    }

    #[test]
    fn a_hello_is_known_until_it_has_passed_and_by_its_listener() {
        let all = Arc::new(InFlight::default());
        let mut passing = enter_often(&all, &[7; 32], "a");
        assert_eq!(all.enter(&[7; 32], "a").unwrap_err(), Again);
        assert!(all.enter(&[7; 32], "b").unwrap().is_some() && all.enter(&[8; 32], "a").unwrap().is_some());
        passing.pop();
        assert!(all.enter(&[7; 32], "a").unwrap().is_some());
    }

    #[test]
    fn a_full_table_lets_everybody_go_on() {
        let all = Arc::new(InFlight::default());
        let hello = |number: usize| {
            let mut random = [0; 32];
            random[..8].copy_from_slice(&number.to_be_bytes());
            random
        };
        let passing: Vec<_> = (0..4 * SLOTS).map(|number| all.enter(&hello(number), "a").unwrap()).collect();
        let known = passing.iter().flatten().count();
        assert!(known > SLOTS * 9 / 10 && known <= SLOTS, "{known}");
        drop(passing);
        assert!(all.slots.iter().all(|slot| slot.load(Relaxed) == FREE));
    }

    #[test]
    fn threads_that_meet_know_each_hello_once() {
        let all = Arc::new(InFlight::default());
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let all = &all;
                scope.spawn(move || {
                    for turn in 0..2_000_u32 {
                        let mut random = [thread; 32];
                        random[..4].copy_from_slice(&turn.to_be_bytes());
                        let passing = enter_often(all, &random, "a");
                        if passing.iter().all(Option::is_some) {
                            assert_eq!(all.enter(&random, "a").unwrap_err(), Again);
                        }
                    }
                });
            }
        });
        assert!(all.slots.iter().all(|slot| slot.load(Relaxed) == FREE));
    }

    proptest! {
        #[test]
        fn no_two_hellos_are_taken_for_one(one: [u8; 32], other: [u8; 32]) {
            prop_assume!(one != other);
            let all = Arc::new(InFlight::default());
            let _passing = enter_often(&all, &one, "a");
            prop_assert!(all.enter(&other, "a").is_ok());
        }
    }
}
