//! Which control plane is tried next, and when: pure, told outcomes and chance.
//!
//! istiod answers only so many new streams a second and refuses the others, so a fleet that comes back at once has to
//! spread itself: exponential back-off with [full jitter](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

use std::time::Duration;

/// The most that is waited after the first failure.
pub(super) const FIRST: Duration = Duration::from_millis(500);
/// The most that is ever waited.
pub(super) const MOST: Duration = Duration::from_secs(30);
/// A stream that went on for so long after its first answer was a good one. With one that answers and closes again and
/// again, an answer alone would make a loop of many streams a second.
const GOOD: Duration = Duration::from_secs(10);

/// A back-off that doubles from [`FIRST`] to [`MOST`].
#[derive(Debug, Default)]
pub(in crate::source) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It went well: the next wait is a short one again.
    pub(in crate::source) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait now; `chance` is from 0 to 1.
    pub(in crate::source) fn wait(&mut self, chance: f64) -> Duration {
        let most = FIRST.saturating_mul(1 << self.failures.min(16)).min(MOST);
        self.failures = self.failures.saturating_add(1);
        most.mul_f64(chance.clamp(0.0, 1.0))
    }
}

/// The order in which control planes are tried.
#[derive(Debug)]
pub(super) struct Order {
    count: usize,
    next: usize,
    backoff: Backoff,
    /// Streams since the last good one that gave an answer and ended soon after it.
    short: u32,
}

impl Order {
    /// For so many control planes, the first of which is preferred.
    pub(super) fn of(count: usize) -> Self {
        Self { count: count.max(1), next: 0, backoff: Backoff::default(), short: 0 }
    }

    /// The one to try now.
    pub(super) fn current(&self) -> usize {
        self.next
    }

    /// The current one has ended, so long after its first answer if it gave one; says how long to wait before the next
    /// attempt. If it was good, the preferred one gets its turn again; of those that were not, all are tried before there
    /// is a pause.
    pub(super) fn ended(&mut self, answering: Option<Duration>, chance: f64) -> Duration {
        match answering {
            Some(lasted) if lasted >= GOOD => {
                self.backoff.reset();
                self.short = 0;
                self.next = 0;
                return self.backoff.wait(chance);
            }
            // It makes up for attempts that failed, and not for streams that were as short.
            Some(_) => {
                self.backoff.failures = self.short;
                self.short = self.short.saturating_add(1);
            }
            None => {}
        }
        self.next = (self.next + 1) % self.count;
        if self.next == 0 { self.backoff.wait(chance) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_the_most() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9).map(|_| backoff.wait(1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.wait(1.0), FIRST);
        let mut many = Backoff { failures: u32::MAX };
        assert_eq!(many.wait(1.0), MOST);
    }

    #[test]
    fn the_jitter_is_full() {
        let mut random = fastrand::Rng::with_seed(7);
        let waits: Vec<_> =
            (0..1000).map(|_| Backoff { failures: 6 }.wait(random.f64()).as_secs_f64()).collect();
        let mean = waits.iter().sum::<f64>() / 1000.0;
        assert!((14.0..16.0).contains(&mean), "{mean}");
        assert!(waits.iter().any(|wait| *wait < 1.0) && waits.iter().any(|wait| *wait > 29.0));
    }

    #[test]
    fn every_control_plane_is_tried_before_there_is_a_pause() {
        let mut order = Order::of(3);
        let mut step = |answering| {
            let tried = order.current();
            (tried, order.ended(answering, 1.0).as_millis())
        };
        assert_eq!([step(None), step(None), step(None)], [(0, 0), (1, 0), (2, 500)]);
        assert_eq!([step(None), step(None), step(None)], [(0, 0), (1, 0), (2, 1000)]);
        // The second answers, for a while; then the preferred one gets its turn again.
        assert_eq!([step(None), step(Some(GOOD)), step(None)], [(0, 0), (1, 500), (0, 0)]);
        // The first answers and closes at once: the others may be better.
        assert_eq!([step(None), step(None), step(Some(Duration::ZERO))], [(1, 0), (2, 1000), (0, 0)]);
    }

    #[test]
    fn one_that_only_ends_is_not_taken_for_good_whether_or_not_it_answers() {
        for answering in [None, Some(Duration::ZERO), Some(GOOD - Duration::from_millis(1))] {
            let mut order = Order::of(1);
            let mut waits = || (0..4).map(|_| order.ended(answering, 1.0).as_millis()).collect::<Vec<_>>();
            assert_eq!(waits(), [500, 1000, 2000, 4000]);
            assert_eq!(waits(), [8000, 16_000, 30_000, 30_000]);
            assert_eq!(order.ended(Some(GOOD), 1.0), FIRST);
            assert_eq!(order.ended(Some(GOOD), 1.0), FIRST);
        }
    }

    #[test]
    fn an_answer_makes_up_for_refusals_and_not_for_short_streams() {
        let mut order = Order::of(1);
        let mut step =
            |answering: Option<u64>| order.ended(answering.map(Duration::from_secs), 1.0).as_millis();
        assert_eq!([step(Some(1)), step(None), step(None), step(None)], [500, 1000, 2000, 4000]);
        assert_eq!([step(Some(1)), step(None), step(None), step(None)], [1000, 2000, 4000, 8000]);
        assert_eq!([step(Some(1)), step(Some(60)), step(Some(1))], [2000, 500, 500]);
    }

    #[test]
    fn streams_that_answer_and_end_are_fewer_than_one_a_second_however_the_dice_fall() {
        // Each stream lasts no time at all, and the worst chance of many waits for half of the mean.
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut order = Order::of(1);
            let waited: Duration = (0..60).map(|_| order.ended(Some(Duration::ZERO), random.f64())).sum();
            assert!(waited > Duration::from_mins(5), "60 streams in {waited:?}");
        }
    }
}
