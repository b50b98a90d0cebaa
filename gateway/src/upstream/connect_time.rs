//! How long connecting takes at the 99th percentile, followed without a lock and without keeping any sample.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Where it begins, before anything is known: the delay of Happy Eyeballs
/// (<https://www.rfc-editor.org/rfc/rfc8305#section-5>).
const INITIAL: Duration = Duration::from_millis(250);
const QUANTILE: f64 = 0.99;
/// How far one sample moves the estimate, in its logarithm. A step down is `STEP * (1 - QUANTILE)`: from 250 ms to 1 ms in
/// some 1,100 connections.
const STEP: f64 = 0.5;

/// An estimate of the 99th percentile. Threads that write at the same time may lose a sample, which changes nothing.
#[derive(Debug)]
pub struct ConnectTime(AtomicU64);

impl Default for ConnectTime {
    fn default() -> Self {
        Self(AtomicU64::new(nanos(INITIAL)))
    }
}

impl ConnectTime {
    /// The estimate.
    pub fn p99(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }

    /// Takes in how long a connection took that was established. What never was has no time, and would make a black hole
    /// look like a slow network.
    pub fn observe(&self, took: Duration) {
        self.0.store(nanos(next(self.p99(), took)), Relaxed);
    }
}

/// A quantile is where as many steps up are taken as down, when one up is `q` and one down `1 - q`. In the logarithm, so
/// that it finds microseconds and seconds alike.
fn next(estimate: Duration, sample: Duration) -> Duration {
    let factor = match sample > estimate {
        true => (STEP * QUANTILE).exp(),
        false => (-STEP * (1.0 - QUANTILE)).exp(),
    };
    estimate.mul_f64(factor).clamp(Duration::from_micros(10), Duration::from_secs(60))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn about_one_in_a_hundred_takes_longer(seed: u64, micros in 20_u64..500_000, spread in 1_u64..20) {
            let mut chance = fastrand::Rng::with_seed(seed);
            let mut sample = || Duration::from_micros(micros + chance.u64(0..=micros * spread));
            let time = ConnectTime::default();
            (0..5_000).for_each(|_| time.observe(sample()));
            let above = (0..20_000)
                .filter(|_| {
                    let sample = sample();
                    let above = sample > time.p99();
                    time.observe(sample);
                    above
                })
                .count();
            prop_assert!((100..=320).contains(&above), "{} of 20,000 above {:?}", above, time.p99());
        }

        #[test]
        fn it_stays_within_reason_whatever_comes(samples in prop::collection::vec(any::<u64>(), 0..200)) {
            let time = ConnectTime::default();
            samples.iter().for_each(|nanos| time.observe(Duration::from_nanos(*nanos)));
            prop_assert!(time.p99() >= Duration::from_micros(10) && time.p99() <= Duration::from_secs(60));
        }
    }

    #[test]
    fn it_follows_a_network_that_becomes_slower_within_a_few_connections() {
        let time = ConnectTime::default();
        (0..3_000).for_each(|_| time.observe(Duration::from_millis(1)));
        assert!(time.p99() < Duration::from_millis(2));
        let slow = Duration::from_millis(80);
        let taken = (1..).find(|_| {
            time.observe(slow);
            time.p99() >= slow
        });
        assert!(taken <= Some(15), "{taken:?}");
    }
}
