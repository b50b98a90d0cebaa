//! How much each priority gets, by how well its endpoints are. Percentages are whole numbers, as Envoy's are.
//! <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/priority>
//! <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/degraded>
//! <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/panic_threshold>

use std::sync::Arc;

use eastgate_config::endpoint::Health;

use super::super::endpoint::Endpoint;

/// A priority with this share of its endpoints healthy, in percent, has more than it needs: 1.4 times 72 % is enough.
pub(super) const OVERPROVISIONING: u32 = 140;
/// With a smaller share of endpoints that are well, in percent, their health is not regarded.
pub(super) const PANIC_THRESHOLD: u32 = 50;

/// A priority's endpoints, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) total: u64,
    pub(super) healthy: u64,
    pub(super) degraded: u64,
}

impl Census {
    /// One that drains is as good as gone already: it counts neither as well nor as ill.
    pub(super) fn of(endpoints: &[&Arc<Endpoint>]) -> Self {
        let total = endpoints.iter().filter(|endpoint| endpoint.health != Health::Draining).count();
        let mut census = Self { total: total as u64, ..Self::default() };
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.takes_connections()) {
            match endpoint.health {
                Health::Degraded => census.degraded += 1,
                _ => census.healthy += 1,
            }
        }
        census
    }

    /// How much of the whole it can take if this many of its endpoints do, in percent.
    fn capacity(&self, endpoints: u64, overprovisioning: u32) -> u64 {
        (u64::from(overprovisioning) * endpoints).checked_div(self.total).unwrap_or(0).min(100)
    }

    fn is_below(&self, threshold: u32) -> bool {
        (self.healthy + self.degraded) * 100 < self.total * u64::from(threshold) || self.total == 0
    }
}

/// A priority's part of all connections, in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// For its healthy endpoints; for all of them in a panic.
    pub(super) healthy: u64,
    /// For its degraded ones.
    pub(super) degraded: u64,
    /// Too few of its endpoints are well to leave the others out.
    pub(super) panic: bool,
}

/// The loads of the priorities, from the first on: each takes what it can of what those before it left.
pub(super) fn loads(censuses: &[Census], overprovisioning: u32, threshold: u32) -> Vec<Load> {
    let capacities = |count: fn(&Census) -> u64| -> Vec<u64> {
        censuses.iter().map(|census| census.capacity(count(census), overprovisioning)).collect()
    };
    let healthy = capacities(|census| census.healthy);
    let degraded = capacities(|census| census.degraded);
    let total = (healthy.iter().sum::<u64>() + degraded.iter().sum::<u64>()).min(100);
    let panics: Vec<bool> =
        censuses.iter().map(|census| total < 100 && threshold > 0 && census.is_below(threshold)).collect();
    if !panics.is_empty() && panics.iter().all(|panic| *panic) {
        return in_total_panic(censuses);
    }
    let mut left = 100;
    let healthy = distribute(&healthy, total, &mut left);
    let degraded = distribute(&degraded, total, &mut left);
    let loads = healthy.into_iter().zip(degraded).zip(panics);
    let mut loads: Vec<_> =
        loads.map(|((healthy, degraded), panic)| Load { healthy, degraded, panic }).collect();
    // What rounding has left goes to the first that can take it.
    if let Some(load) = loads.iter_mut().find(|load| load.healthy > 0) {
        load.healthy += left;
    } else if let Some(load) = loads.iter_mut().find(|load| load.degraded > 0) {
        load.degraded += left;
    }
    loads
}

/// Where every priority is in a panic, each gets its share of the endpoints.
fn in_total_panic(censuses: &[Census]) -> Vec<Load> {
    let total: u64 = censuses.iter().map(|census| census.total).sum();
    let share = |census: &Census| (census.total * 100).checked_div(total).unwrap_or(0);
    let mut loads: Vec<_> =
        censuses.iter().map(|census| Load { healthy: share(census), degraded: 0, panic: true }).collect();
    let left = 100 - loads.iter().map(|load| load.healthy).sum::<u64>().min(100);
    if let Some(load) = loads.iter_mut().find(|load| load.healthy > 0) {
        load.healthy += left;
    }
    loads
}

fn distribute(capacities: &[u64], total: u64, left: &mut u64) -> Vec<u64> {
    let take = |capacity: &u64| {
        let load = (capacity * 100).checked_div(total).unwrap_or(0).min(*left);
        *left -= load;
        load
    };
    capacities.iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn census(healthy: u64, degraded: u64, total: u64) -> Census {
        Census { total, healthy, degraded }
    }

    /// Healthy loads of priorities with these shares of healthy endpoints, in percent, without panic.
    fn healthy(shares: &[u64]) -> Vec<u64> {
        let censuses: Vec<_> = shares.iter().map(|share| census(*share, 0, 100)).collect();
        loads(&censuses, OVERPROVISIONING, 0).iter().map(|load| load.healthy).collect()
    }

    /// The tables of Envoy's page on priorities.
    #[test]
    fn what_a_priority_cannot_take_goes_to_the_next_as_envoy_publishes_it() {
        for (share, wanted) in
            [(100, [100, 0]), (72, [100, 0]), (71, [99, 1]), (50, [70, 30]), (25, [35, 65]), (0, [0, 100])]
        {
            assert_eq!(healthy(&[share, 100]), wanted, "{share} %");
        }
        assert_eq!(healthy(&[20, 20]), [50, 50]);
        for (shares, wanted) in [
            ([100, 100, 100], [100, 0, 0]),
            ([72, 72, 100], [100, 0, 0]),
            ([71, 71, 100], [99, 1, 0]),
            ([50, 60, 100], [70, 30, 0]),
            ([25, 100, 100], [35, 65, 0]),
            ([25, 25, 100], [35, 35, 30]),
            ([25, 25, 20], [36, 36, 28]),
        ] {
            let loads = healthy(&shares);
            assert!(loads.iter().zip(wanted).all(|(load, wanted)| load.abs_diff(wanted) <= 1), "{loads:?}");
        }
    }

    /// Envoy's page on degraded endpoints: they get what the healthy ones of all priorities leave.
    #[test]
    fn degraded_endpoints_take_what_healthy_ones_leave() {
        for ((healthy, degraded), wanted) in [
            ((100, 0), (100, 0)),
            ((71, 29), (99, 1)),
            ((50, 50), (70, 30)),
            ((25, 75), (35, 65)),
            ((5, 95), (7, 93)),
            ((0, 100), (0, 100)),
        ] {
            let load = loads(&[census(healthy, degraded, 100)], OVERPROVISIONING, 0)[0];
            assert_eq!((load.healthy, load.degraded), wanted, "{healthy} % healthy, {degraded} % degraded");
        }
        let two = loads(&[census(20, 20, 100), census(60, 0, 100)], OVERPROVISIONING, 0);
        assert_eq!(
            two.iter().map(|load| (load.healthy, load.degraded)).collect::<Vec<_>>(),
            [(28, 0), (72, 0)]
        );
    }

    /// Envoy's page on the panic threshold, whose table has these rows.
    #[test]
    fn a_priority_panics_where_all_together_are_too_few_as_envoy_publishes_it() {
        for (shares, wanted_loads, wanted_panics) in [
            ([72, 72], [100, 0], [false, false]),
            ([71, 71], [99, 1], [false, false]),
            ([50, 60], [70, 30], [false, false]),
            ([25, 100], [35, 65], [false, false]),
            ([25, 25], [50, 50], [true, true]),
            ([5, 65], [7, 93], [true, false]),
        ] {
            let loads = loads(&shares.map(|share| census(share, 0, 100)), OVERPROVISIONING, PANIC_THRESHOLD);
            let got: Vec<_> = loads.iter().map(|load| load.panic).collect();
            assert_eq!(got, wanted_panics, "{shares:?}");
            let close =
                loads.iter().zip(wanted_loads).all(|(load, wanted)| load.healthy.abs_diff(wanted) <= 1);
            assert!(close, "{shares:?}: {loads:?}");
        }
        assert!(!loads(&[census(0, 0, 4)], OVERPROVISIONING, 0)[0].panic, "0 is never");
    }

    proptest! {
        #[test]
        fn the_loads_are_the_whole_wherever_there_is_an_endpoint_to_take_it(
            counts in prop::collection::vec((0u64..9, 0u64..9, 0u64..9), 1..6), threshold in 0u32..=100, factor in 100u32..300,
        ) {
            let censuses: Vec<_> = counts.iter().map(|(h, d, rest)| census(*h, *d, h + d + rest)).collect();
            let loads = loads(&censuses, factor, threshold);
            let sum: u64 = loads.iter().map(|load| load.healthy + load.degraded).sum();
            let usable = censuses.iter().any(|census| census.healthy + census.degraded > 0);
            let panics = loads.iter().all(|load| load.panic) && censuses.iter().any(|census| census.total > 0);
            prop_assert_eq!(sum, if usable || panics { 100 } else { 0 });
            for (load, census) in loads.iter().zip(&censuses) {
                prop_assert!(load.panic || load.healthy == 0 || census.healthy > 0);
                prop_assert!(load.panic || load.degraded == 0 || census.degraded > 0);
            }
        }

        #[test]
        fn nobody_spills_while_the_first_has_enough(rest in prop::collection::vec((0u64..9, 0u64..9), 0..4), healthy in 72u64..=100) {
            let mut censuses = vec![census(healthy, 0, 100)];
            censuses.extend(rest.iter().map(|(healthy, other)| census(*healthy, 0, healthy + other)));
            let loads = loads(&censuses, OVERPROVISIONING, PANIC_THRESHOLD);
            prop_assert_eq!(loads[0].healthy, 100);
        }
    }
}
