//! How a new endpoint comes to its full share.
//! <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/slow_start>

use std::time::Duration;

use eastgate_config::cluster::SlowStart;

/// The part of its weight that an endpoint of this age has, above 0 and at most 1.
pub(super) fn part(how: &SlowStart, age: Duration) -> f64 {
    if age >= how.window {
        return 1.0;
    }
    let grown = age.as_secs_f64().max(0.001) / how.window.as_secs_f64().max(0.001);
    let aggression = f64::from(how.aggression.max(1)) / 1000.0;
    grown.powf(1.0 / aggression).max(f64::from(how.min_weight_percent) / 100.0).clamp(0.001, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slow(aggression: u32, min_weight_percent: u32) -> SlowStart {
        SlowStart { window: Duration::from_secs(60), aggression, min_weight_percent }
    }

    #[test]
    fn a_share_grows_evenly_faster_at_first_or_slower_at_first() {
        let half = Duration::from_secs(30);
        assert!((part(&slow(1000, 10), half) - 0.5).abs() < 1e-9);
        assert!((part(&slow(2000, 10), half) - 0.5_f64.sqrt()).abs() < 1e-9);
        assert!((part(&slow(500, 10), half) - 0.25).abs() < 1e-9);
        assert!((part(&slow(1000, 10), Duration::ZERO) - 0.1).abs() < 1e-9);
        assert!((part(&slow(1000, 10), Duration::from_secs(60)) - 1.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn a_share_never_shrinks_with_age(aggression in 0u32..5000, least in 0u32..=100, ages: (u16, u16)) {
            let [young, old] = [ages.0.min(ages.1), ages.0.max(ages.1)].map(|ms| Duration::from_millis(ms.into()));
            let (young, old) = (part(&slow(aggression, least), young), part(&slow(aggression, least), old));
            prop_assert!(0.0 < young && young <= old && old <= 1.0);
        }
    }
}
