//! Counts that each thread keeps for itself, so that threads on different cores do not pass a cache line to and fro;
//! they are summed when somebody reads them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use super::exemplar::{Exemplar, Slot};

/// Threads beyond so many share places, which costs time and nothing else.
const PLACES: usize = 16;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: usize = THREADS.fetch_add(1, Relaxed) % PLACES;
}

/// One thread's counts. Processors fetch cache lines of 64 bytes in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Place<const N: usize>([AtomicU64; N]);

/// `N` counts.
#[derive(Debug)]
pub struct Counts<const N: usize>(Box<[Place<N>]>);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self((0..PLACES).map(|_| Place([const { AtomicU64::new(0) }; N])).collect())
    }
}

impl<const N: usize> Counts<N> {
    /// Adds to one of them, in this thread's place.
    pub fn add(&self, which: usize, count: u64) {
        if let Some(mine) = self.0.get(MINE.with(|mine| *mine)).and_then(|place| place.0.get(which)) {
            mine.fetch_add(count, Relaxed);
        }
    }

    /// What all threads have counted together.
    pub fn sum(&self, which: usize) -> u64 {
        self.0.iter().filter_map(|place| place.0.get(which)).map(|count| count.load(Relaxed)).sum()
    }
}

/// How many buckets of a histogram have an upper bound, each of which is four times the one before.
const BOUNDED: usize = 9;
/// Behind these: the bucket without, then the sum of all times.
const SUM: usize = BOUNDED + 1;

/// A histogram of times.
#[derive(Debug)]
pub struct Times {
    /// The first bound, in nanoseconds.
    first: u64,
    counts: Counts<{ SUM + 1 }>,
    slots: [Slot; BOUNDED + 1],
}

impl Times {
    /// With this bound for the shortest, in nanoseconds; 65,536 times that is the last.
    pub fn from(first: u64) -> Self {
        Self { first, counts: Counts::default(), slots: Default::default() }
    }

    /// The upper bounds of the buckets, in nanoseconds.
    pub fn bounds(&self) -> [u64; BOUNDED] {
        std::array::from_fn(|index| self.first << (2 * index))
    }

    /// Counts one, of a connection that began with these random bytes at that time, if there were any.
    pub fn observe(&self, time: Duration, of: Option<(u64, SystemTime)>) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds().iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDED);
        self.counts.add(bucket, 1);
        self.counts.add(SUM, nanos);
        if let (Some((client_random, began)), Some(slot)) = (of, self.slots.get(bucket)) {
            slot.offer(Exemplar { client_random, time, at: began + time });
        }
    }

    /// A connection that was counted in this bucket, the last of which has no bound.
    pub fn exemplar(&self, bucket: usize) -> Option<Exemplar> {
        self.slots.get(bucket)?.get()
    }

    /// How many were at most as long as each of the [bounds](Self::bounds), and how many there were.
    pub fn cumulated(&self) -> ([u64; BOUNDED], u64) {
        let mut below = 0;
        let counts = std::array::from_fn(|index| {
            below += self.counts.sum(index);
            below
        });
        (counts, below + self.counts.sum(BOUNDED))
    }

    /// All of them together.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.counts.sum(SUM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_count_is_the_sum() {
        let counts = Counts::<2>::default();
        std::thread::scope(|scope| {
            for _ in 0..PLACES + 3 {
                scope.spawn(|| (0..1_000).for_each(|_| counts.add(1, 2)));
            }
        });
        assert_eq!([counts.sum(0), counts.sum(1)], [0, 2_000 * (PLACES as u64 + 3)]);
    }

    #[test]
    fn a_time_is_counted_in_the_first_bucket_that_holds_it() {
        let times = Times::from(250_000);
        for nanos in [250_000, 250_001, 1_000_000, u64::MAX / 2] {
            times.observe(Duration::from_nanos(nanos), None);
        }
        assert_eq!(times.cumulated(), ([1, 3, 3, 3, 3, 3, 3, 3, 3], 4));
        assert_eq!(times.total(), Duration::from_nanos(u64::MAX / 2 + 1_500_001));
    }
}
