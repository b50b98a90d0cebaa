//! How many retries are allowed, and how far apart. Pure.

use std::time::Duration;

use eastgate_config::cluster::RetryBudget;

/// The most retries that may be under way while the cluster has so many connections, those that are being made included
/// (Envoy's `RetryBudget`).
pub(super) fn allowed(budget: RetryBudget, connections: usize) -> usize {
    let share = connections as u128 * u128::from(budget.percent) / 100;
    usize::try_from(share).unwrap_or(usize::MAX).max(budget.min_concurrency as usize)
}

/// How long after this many failures the next endpoint is tried: the first time at once, because it is another one, and
/// then up to `base`, twice, four times ... ten times as long by chance (`draw`, from 0 to 1), as Envoy does it.
pub(super) fn backoff(base: Duration, failures: u32, draw: f64) -> Duration {
    let Some(doublings) = failures.checked_sub(2) else { return Duration::ZERO };
    let most = base.saturating_mul(1 << doublings.min(8)).min(base.saturating_mul(10));
    most.mul_f64(draw.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fifth_of_the_connections_and_never_less_than_the_minimum() {
        let budget = RetryBudget { percent: 20, min_concurrency: 3 };
        assert_eq!([0, 1, 15, 20, 1_000].map(|count| allowed(budget, count)), [3, 3, 3, 4, 200]);
        assert_eq!(allowed(RetryBudget { percent: 100, min_concurrency: 0 }, usize::MAX), usize::MAX);
        assert_eq!(allowed(RetryBudget { percent: 0, min_concurrency: 0 }, 1_000), 0);
    }

    #[test]
    fn the_first_retry_is_at_once_and_each_further_one_may_wait_twice_as_long() {
        let base = Duration::from_millis(25);
        let most = [0, 1, 2, 3, 4, 5, 6, 100].map(|failures| backoff(base, failures, 1.0).as_millis());
        assert_eq!(most, [0, 0, 25, 50, 100, 200, 250, 250]);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_ten_times_the_base(failures: u32, draw in 0.0..1.0_f64, base in 0_u64..100_000) {
            let base = Duration::from_millis(base);
            prop_assert!(backoff(base, failures, draw) <= base * 10);
        }

        #[test]
        fn more_connections_never_allow_fewer_retries(a: usize, b: usize, percent in 0_u32..=100) {
            let budget = RetryBudget { percent, min_concurrency: 3 };
            prop_assert!(allowed(budget, a.min(b)) <= allowed(budget, a.max(b)));
        }
    }
}
