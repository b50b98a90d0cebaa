//! How long an endpoint takes, remembered as a moving average that jumps to peaks at once and forgets them with time:
//! "peak EWMA", as Finagle has it (<https://linkerd.io/2016/03/16/beyond-round-robin-load-balancing-for-latency/>).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// In this time a memory fades to about a third.
const DECAY: f32 = 10_000.0;

/// The average, and when it was taken, in one word: any thread reads and adds without a lock.
///
/// ```text
///  63           32 31            0
/// +---------------+---------------+
/// | ms (f32 bits) | at, in ms     |   0 is "never asked"
/// +---------------+---------------+
/// ```
#[derive(Debug, Default)]
pub(super) struct Latency(AtomicU64);

impl Latency {
    /// Adds a measurement. Times are since a moment that the caller keeps to; they come round after 49 days, which
    /// looks like a long pause.
    pub(super) fn add(&self, took: Duration, at: Duration) {
        let (took, at) = (took.as_secs_f32() * 1000.0, millis(at));
        let add = |word| {
            let (average, before) = split(word);
            let kept = kept(at.wrapping_sub(before));
            let next = if word == 0 || took > average { took } else { average * kept + took * (1.0 - kept) };
            Some(join(next, at))
        };
        // The closure never declines.
        let _ = self.0.fetch_update(Relaxed, Relaxed, add);
    }

    /// The average in milliseconds, less what time has taken of it; `None` before the first measurement.
    pub(super) fn get(&self, at: Duration) -> Option<f32> {
        let word = self.0.load(Relaxed);
        let (average, before) = split(word);
        (word != 0).then(|| average * kept(millis(at).wrapping_sub(before)))
    }
}

/// How much of a memory is left after so many milliseconds. One that was made by another thread in this same moment
/// may be from a little later.
fn kept(age: u32) -> f32 {
    (-(age.cast_signed().max(0) as f32) / DECAY).exp()
}

fn millis(at: Duration) -> u32 {
    at.as_millis() as u32
}

fn split(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

fn join(average: f32, at: u32) -> u64 {
    // Never 0, which means something else.
    u64::from(average.max(f32::MIN_POSITIVE).to_bits()) << 32 | u64::from(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let latency = Latency::default();
        assert_eq!(latency.get(ms(0)), None);
        latency.add(ms(10), ms(1_000));
        latency.add(ms(500), ms(1_001));
        assert!((latency.get(ms(1_001)).unwrap() - 500.0).abs() < 0.1);
        let later = latency.get(ms(11_001)).unwrap();
        assert!((later - 500.0 / std::f32::consts::E).abs() < 0.1, "{later}");
        latency.add(ms(10), ms(60_000));
        assert!((latency.get(ms(60_000)).unwrap() - 10.0).abs() < 2.0);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let latency = Latency::default();
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let latency = &latency;
                scope.spawn(move || (0..1_000).for_each(|n| latency.add(ms(thread * 1_000 + n), ms(5))));
            }
        });
        assert!((latency.get(ms(5)).unwrap() - 4_999.0).abs() < 1.0);
    }

    proptest! {
        #[test]
        fn the_average_is_never_beyond_what_was_measured(steps in prop::collection::vec((1u64..10_000, 0u64..100_000), 1..50)) {
            let latency = Latency::default();
            let mut at = 0;
            for (took, pause) in &steps {
                at += pause;
                latency.add(ms(*took), ms(at));
                let got = latency.get(ms(at)).unwrap();
                let most = steps.iter().map(|(took, _)| *took).max().unwrap() as f32;
                prop_assert!(got >= *took as f32 * 0.999 || got >= 0.999, "{got}");
                prop_assert!(got <= most * 1.001);
            }
        }
    }
}
