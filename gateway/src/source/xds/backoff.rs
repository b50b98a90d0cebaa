//! Which control plane is tried next, and when: pure, told outcomes and chance.
//!
//! istiod answers only so many new streams a second and refuses the others, so a fleet that comes back at once has to
//! spread itself: exponential back-off with [full jitter](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

use std::time::Duration;

/// The most that is waited after the first failure.
pub(super) const FIRST: Duration = Duration::from_millis(500);
/// The most that is ever waited.
pub(super) const MOST: Duration = Duration::from_secs(30);

/// A back-off that doubles from [`FIRST`] to [`MOST`].
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It went well: the next wait is a short one again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait now; `chance` is from 0 to 1.
    pub(super) fn wait(&mut self, chance: f64) -> Duration {
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
}

impl Order {
    /// For so many control planes, the first of which is preferred.
    pub(super) fn of(count: usize) -> Self {
        Self { count: count.max(1), next: 0, backoff: Backoff::default() }
    }

    /// The one to try now.
    pub(super) fn current(&self) -> usize {
        self.next
    }

    /// The current one has ended; gives how long to wait before the next attempt. One that had answered was good, and
    /// the preferred one gets its turn again; of those that had not, all are tried before there is a pause.
    pub(super) fn ended(&mut self, answered: bool, chance: f64) -> Duration {
        if answered {
            self.backoff.reset();
            self.next = 0;
            return self.backoff.wait(chance);
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
        let mut step = |answered| {
            let tried = order.current();
            (tried, order.ended(answered, 1.0).as_millis())
        };
        assert_eq!([step(false), step(false), step(false)], [(0, 0), (1, 0), (2, 500)]);
        assert_eq!([step(false), step(false), step(false)], [(0, 0), (1, 0), (2, 1000)]);
        // The second answers, for a while; then the preferred one gets its turn again.
        assert_eq!([step(false), step(true), step(false)], [(0, 0), (1, 500), (0, 0)]);
    }

    #[test]
    fn one_that_only_ends_is_not_taken_for_good() {
        let mut order = Order::of(1);
        let waits: Vec<_> = (0..4).map(|_| order.ended(false, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000]);
    }
}
