//! What the results of active checks make of an endpoint, and when it is asked again. Pure: told results and given chance.
//!
//! The rules are Envoy's (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/health_check.proto>).

use std::time::Duration;

use eastgate_config::cluster::HealthCheck;

/// An endpoint as its checks have found it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    /// Before the first result it is not known.
    well: Option<bool>,
    /// Results in a row that say the opposite.
    against: u32,
}

impl State {
    /// Is it well? Not known before the first result.
    pub fn is_well(&self) -> Option<bool> {
        self.well
    }

    /// Takes in a result and tells whether it changes what is thought of the endpoint. The first decides at once: nobody is left
    /// waiting for an endpoint that is well, nor sent to one that is not, until a threshold is reached.
    pub fn take(&mut self, passed: bool, check: &HealthCheck) -> bool {
        let Some(well) = self.well else {
            self.well = Some(passed);
            return true;
        };
        if passed == well {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let enough = if well { check.unhealthy_threshold } else { check.healthy_threshold };
        if self.against < enough {
            return false;
        }
        *self = Self { well: Some(passed), against: 0 };
        true
    }

    /// From one check to the next. `used` tells whether the cluster has had a connection yet; `draw(n)` gives a number below `n`
    /// by chance.
    pub fn pause(&self, check: &HealthCheck, used: bool, draw: impl FnOnce(u64) -> u64) -> Duration {
        let interval = match check.no_traffic_interval {
            Some(longer) if !used => longer,
            _ => check.interval,
        };
        let jitter = u64::try_from(check.jitter.as_micros()).unwrap_or(u64::MAX);
        let jitter = if jitter == 0 { 0 } else { draw(jitter.saturating_add(1)) };
        interval.saturating_add(Duration::from_micros(jitter))
    }
}

/// Whether what has come back holds all that it should, each piece after the one before and anything in between.
pub fn holds(received: &[u8], pieces: &[Vec<u8>]) -> bool {
    let mut rest = received;
    pieces.iter().filter(|piece| !piece.is_empty()).all(|piece| {
        let found = rest.windows(piece.len()).position(|window| window == piece.as_slice());
        found.is_some_and(|at| {
            rest = &rest[at + piece.len()..];
            true
        })
    })
}

#[cfg(test)]
mod tests {
    use eastgate_config::cluster::Probe;
    use proptest::prelude::*;

    use super::*;

    fn check(unhealthy_threshold: u32, healthy_threshold: u32) -> HealthCheck {
        HealthCheck {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_threshold,
            healthy_threshold,
            jitter: Duration::from_secs(1),
            no_traffic_interval: Some(Duration::from_secs(60)),
            port: None,
            probe: Probe::Tcp { send: Vec::new(), receive: Vec::new() },
        }
    }

    #[test]
    fn the_first_result_decides_and_later_ones_in_a_row() {
        let check = check(3, 2);
        for first in [true, false] {
            let mut state = State::default();
            assert!(state.take(first, &check) && state.is_well() == Some(first));
        }
        let mut state = State::default();
        let changes: Vec<_> = [true, false, false, true, false, false, false, true, true]
            .map(|passed| state.take(passed, &check))
            .into();
        assert_eq!(changes, [true, false, false, false, false, false, true, false, true]);
    }

    #[test]
    fn a_cluster_without_traffic_is_asked_about_less_often() {
        let state = State::default();
        let most = |below| below - 1;
        assert_eq!(state.pause(&check(1, 1), true, |_| 0), Duration::from_secs(5));
        assert_eq!(state.pause(&check(1, 1), true, most), Duration::from_secs(6));
        assert_eq!(state.pause(&check(1, 1), false, |_| 0), Duration::from_secs(60));
    }

    #[test]
    fn pieces_are_found_in_their_order() {
        let pieces = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
        assert!(holds(b"", &[]) && holds(b"+PONG\r\n", &pieces(&["PONG"])));
        assert!(holds(b"a-b-b", &pieces(&["a", "b", "b"])) && !holds(b"a-b", &pieces(&["a", "b", "b"])));
        assert!(!holds(b"b-a", &pieces(&["a", "b"])) && !holds(b"aba", &pieces(&["ab", "ba"])));
    }

    proptest! {
        /// What is thought of it only ever changes after as many results in a row as that takes.
        #[test]
        fn it_changes_after_enough_results_in_a_row_and_never_sooner(
            results in prop::collection::vec(any::<bool>(), 1..60), unhealthy in 1u32..5, healthy in 1u32..5,
        ) {
            let check = check(unhealthy, healthy);
            let mut state = State::default();
            for (index, passed) in results.iter().enumerate() {
                let before = state.is_well();
                let changed = state.take(*passed, &check);
                prop_assert_eq!(changed, before != state.is_well());
                let Some(well) = before else { continue };
                let enough = if well { unhealthy } else { healthy } as usize;
                let in_row = results[..=index].iter().rev().take_while(|result| **result != well).count();
                prop_assert_eq!(changed, in_row >= enough, "at {}", index);
            }
        }
    }
}
