//! How many clients are taken on in a time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use eastgate_config::listener::RateLimit;

/// A token bucket, filled in steps as Envoy's local rate limit is.
#[derive(Debug)]
pub struct Bucket {
    limit: RateLimit,
    /// How many fills have been counted, and behind them, in the lower half, the tokens that are left.
    state: AtomicU64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(limit: RateLimit) -> Self {
        let state = AtomicU64::new(limit.max_tokens.into());
        Self { limit, state }
    }

    /// What it was made from.
    pub fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// Takes a token, if there is one. `now` is a time since any fixed moment.
    pub fn take(&self, now: Duration) -> bool {
        let interval = self.limit.fill_interval.as_nanos().max(1);
        let fill = u32::try_from(now.as_nanos() / interval).unwrap_or(u32::MAX);
        let next = |state: u64| {
            let (counted, left) = ((state >> 32) as u32, state as u32);
            let gained = fill.saturating_sub(counted).saturating_mul(self.limit.tokens_per_fill);
            let left = left.saturating_add(gained).min(self.limit.max_tokens).checked_sub(1)?;
            Some(u64::from(fill.max(counted)) << 32 | u64::from(left))
        };
        self.state.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_it_holds_and_then_what_is_filled_in() {
        let fill_interval = Duration::from_secs(1);
        let bucket = Bucket::new(RateLimit {
            max_tokens: 3,
            tokens_per_fill: 2,
            fill_interval,
            share_key: String::new(),
        });
        let taken = |seconds| (0..10).filter(|_| bucket.take(Duration::from_secs(seconds))).count();
        assert_eq!([taken(0), taken(0), taken(1), taken(1), taken(2), taken(50)], [3, 0, 2, 0, 2, 3]);
    }
}
